"""What programs do with a TLS connection besides using it from one thread: MODE is `threads` (several take turns on it), `fork` (a child goes on
with it) or `resume` (each call on a connection of its own, that takes up the session of the one before)."""

import argparse
import json
import os
import socket
import ssl
import sys
import threading
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", required=True)
PARSER.add_argument("--calls", type=int, default=8)
PARSER.add_argument("mode", choices=["threads", "fork", "resume"])
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)


class Connection:
    def __init__(self, context, session=None):
        plain = socket.create_connection((URL.hostname, URL.port))
        self.tls = context.wrap_socket(plain, server_hostname=URL.hostname, session=session)
        self.reader = self.tls.makefile("rb")

    def call(self, number):
        body = json.dumps({"model": "gpt-4o-mini", "messages": exchange.messages(number, "{}")}).encode()
        head = (
            f"POST {URL.path}/v1/chat/completions HTTP/1.1\r\nHost: {URL.netloc}\r\nx-test-client: {CHOSEN.client}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode()
        self.tls.sendall(head + body)
        status, answer = exchange.read_answer(self.reader)
        assert status == 200, (status, answer)


def threads(context):
    connection, turn, failures = Connection(context), threading.Lock(), []

    def work(first):
        try:
            for number in range(first, CHOSEN.calls, 4):
                with turn:
                    connection.call(number)
        except Exception as error:
            failures.append(error)

    running = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert not failures, failures


def fork(context):
    connection = Connection(context)
    for number in range(CHOSEN.calls // 2):
        connection.call(number)
    child = os.fork()
    if child == 0:
        for number in range(CHOSEN.calls // 2, CHOSEN.calls):
            connection.call(number)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, status


def resume(context):
    session, resumed = None, 0
    for number in range(CHOSEN.calls):
        connection = Connection(context, session)
        resumed += connection.tls.session_reused
        connection.call(number)
        session = connection.tls.session
        connection.tls.close()
    assert resumed > 0, "the server has taken up no session"


if __name__ == "__main__":
    {"threads": threads, "fork": fork, "resume": resume}[CHOSEN.mode](ssl.create_default_context())
    sys.exit(0)
