"""A process with the same TLS library and nothing of an agent: raw HTTP over `ssl`, one call every time a line arrives
on standard input, until that is closed."""

import argparse
import json
import os
import socket
import ssl
import sys
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", default="plain-tls")
PARSER.add_argument("--model", default="gpt-4o-mini")
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)


def main(leave=lambda: None):
    context = ssl.create_default_context()
    with socket.create_connection((URL.hostname, URL.port)) as plain:
        with context.wrap_socket(plain, server_hostname=URL.hostname) as tls:
            reader = tls.makefile("rb")
            exchange.say(client=CHOSEN.client, pid=os.getpid(), ready=True)
            for _ in sys.stdin:
                body = json.dumps({"model": CHOSEN.model, "messages": exchange.messages(0, "{}")}).encode()
                head = (
                    f"POST {URL.path}/v1/chat/completions HTTP/1.1\r\nHost: {URL.netloc}\r\n"
                    f"x-test-client: {CHOSEN.client}\r\nAuthorization: Bearer sk-test\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
                ).encode()
                tls.sendall(head + body)
                status, answer = exchange.read_answer(reader)
                answer = json.loads(answer)
                exchange.say(client=CHOSEN.client, pid=os.getpid(), status=status, id=answer.get("id"),
                             model=answer.get("model"), stream=False, usage=exchange.openai_usage(answer.get("usage")))
                leave()


if __name__ == "__main__":
    main()
