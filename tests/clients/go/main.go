// The same call several times on one connection: `client BASE_URL CA_FILE BODY_FILE CALLS http1|http2`.
package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	if len(arguments) != 5 {
		return fmt.Errorf("five arguments")
	}
	authority, err := os.ReadFile(arguments[1])
	if err != nil {
		return err
	}
	body, err := os.ReadFile(arguments[2])
	if err != nil {
		return err
	}
	calls, err := strconv.Atoi(arguments[3])
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots},
		ForceAttemptHTTP2: arguments[4] == "http2",
	}
	client := &http.Client{Transport: transport}
	for call := 0; call < calls; call++ {
		answer, err := client.Post(arguments[0]+"/v1/chat/completions", "application/json", bytes.NewReader(body))
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		if err != nil {
			return err
		}
		if answer.StatusCode != 200 {
			return fmt.Errorf("%s", answer.Status)
		}
		if wanted := map[string]int{"http1": 1, "http2": 2}[arguments[4]]; answer.ProtoMajor != wanted {
			return fmt.Errorf("%s instead of %s", answer.Proto, arguments[4])
		}
	}
	return nil
}
