"""A client whose TLS nobody can read: it is written in Python, in the process' own heap (tlslite-ng).

Prints one JSON line for every answer, with the wall-clock microseconds at which its request began to be written.
"""

import argparse
import http.client
import json
import socket
import sys
import threading
import time
import urllib.parse

from tlslite.api import TLSConnection

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", default="unread")
PARSER.add_argument("--model", default="gpt-4o")
PARSER.add_argument("--directive", default="{}")
PARSER.add_argument("--calls", type=int, default=1)
PARSER.add_argument("--pause-ms", type=int, default=0)
PARSER.add_argument("--segment", type=int, help="send the handshake in pieces of so many bytes")
PARSER.add_argument("--only-handshake", action="store_true")
PARSER.add_argument("--proxy", type=int, help="port on this host of a proxy that takes CONNECT")
PARSER.add_argument("--beside", type=int, default=0, help="so many calls in the process' other TLS (OpenSSL) first, and as many meanwhile")
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)


class Pieces:
    """A socket that sends in small pieces."""

    def __init__(self, inner, size):
        self.inner, self.size = inner, size

    def send(self, data):
        return self.inner.send(data[:self.size])

    def sendall(self, data):
        for at in range(0, len(data), self.size):
            self.inner.sendall(data[at:at + self.size])

    def __getattr__(self, name):
        return getattr(self.inner, name)


def connect():
    inner = socket.create_connection((URL.hostname, CHOSEN.proxy or URL.port), timeout=60)
    if CHOSEN.proxy:
        inner.sendall(f"CONNECT {URL.netloc} HTTP/1.1\r\nHost: {URL.netloc}\r\n\r\n".encode())
        while not inner.recv(4096).endswith(b"\r\n\r\n"):
            pass
    inner.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    tls = TLSConnection(Pieces(inner, CHOSEN.segment) if CHOSEN.segment else inner)
    tls.handshakeClientCert(serverName=URL.hostname, alpn=[b"http/1.1"])
    connection = http.client.HTTPConnection(URL.hostname, URL.port)
    connection.sock = tls
    return connection


def read_calls(number):
    import ssl
    context = ssl.create_default_context()
    for _ in range(number):
        connection = http.client.HTTPSConnection(URL.hostname, URL.port, context=context)
        body = json.dumps({"model": CHOSEN.model, "messages": exchange.messages(0, CHOSEN.directive)})
        headers = {"content-type": "application/json", "x-test-client": CHOSEN.client + "-read"}
        connection.request("POST", "/v1/chat/completions", body, headers)
        connection.getresponse().read()
        connection.close()


def main():
    read_calls(CHOSEN.beside)
    beside = threading.Thread(target=read_calls, args=(CHOSEN.beside,))
    beside.start()
    connection = connect()
    if CHOSEN.only_handshake:
        time.sleep(3)
        return
    for number in range(CHOSEN.calls):
        body = json.dumps({
            "model": CHOSEN.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": exchange.messages(number, CHOSEN.directive),
        })
        headers = {"content-type": "application/json", "authorization": "Bearer sk-test", "x-test-client": CHOSEN.client}
        began = time.time_ns() // 1000
        identity = error = None
        try:
            connection.request("POST", "/v1/chat/completions", body, headers)
            answer = connection.getresponse()
            for line in answer.read().splitlines():
                if line.startswith(b"data: {"):
                    identity = json.loads(line[6:]).get("id", identity)
        except Exception as trouble:
            error = f"{type(trouble).__name__}: {trouble}"
        print(json.dumps({"client": CHOSEN.client, "id": identity, "stream": True, "error": error, "began_us": began}), flush=True)
        if error:
            sys.exit(3)
        time.sleep(CHOSEN.pause_ms / 1000)


main()
