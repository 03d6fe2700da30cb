"""Tries to send after its task's gate was shut: threads and processes on connections that were opened and used before, processes forked
after it with what they inherit, and other programs.

Needs nothing but Python's standard library and curl. Trusts the certificate that SSL_CERT_FILE names. Everybody waits until the file --go is there; that
all wait is told by the file --go with `.ready` after it, in which their process ids are. Each try is one letter in the file --log, written before it: `t` by
a thread or process that was there, `f` by a forked process, `x` by another program.
"""

import argparse
import http.client
import json
import os
import random
import signal
import ssl
import subprocess
import threading
import time
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", default="shut")
PARSER.add_argument("--go", required=True)
PARSER.add_argument("--log", required=True)
PARSER.add_argument("--processes", type=int, default=4)
PARSER.add_argument("--threads", type=int, default=4)
PARSER.add_argument("--spare", type=int, default=8, help="connections that forked processes inherit")
PARSER.add_argument("--seconds", type=float, default=1, help="how long processes are forked")
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
CONTEXT = ssl.create_default_context()
LOG = os.open(CHOSEN.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
TRIES = 5
EVERY = 0.01
DIRECTIVE = json.dumps({"input_tokens": 10, "output_tokens": 1, "reasoning_tokens": 0, "cached_tokens": 0})


def connect():
    return http.client.HTTPSConnection(URL.hostname, URL.port, context=CONTEXT, timeout=10)


def call(connection):
    body = json.dumps({"model": "gpt-4o", "messages": exchange.messages(0, DIRECTIVE)})
    headers = {"authorization": "Bearer sk-test", "content-type": "application/json", "x-test-client": CHOSEN.client}
    connection.request("POST", URL.path + "/v1/chat/completions", body, headers)
    connection.getresponse().read()


def used():
    connection = connect()
    call(connection)
    return connection


def attack(connection, kind):
    for _ in range(TRIES):
        os.write(LOG, kind)
        try:
            call(connection)
        except (OSError, http.client.HTTPException, ssl.SSLError):
            connection.close()


def child(gate, arrive):
    def work():
        connection = used()
        os.write(arrive, b"x")
        os.read(gate, 1)
        attack(connection, b"t")

    threads = [threading.Thread(target=work) for _ in range(CHOSEN.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def fork(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        finally:
            os._exit(0)
    return pid


def curl():
    os.write(LOG, b"x")
    url = f"{CHOSEN.base_url}/v1/chat/completions"
    os.execvp("curl", ["curl", "-sk", "-m", "2", "-o", "/dev/null", "-d", "{}", url])


def main():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # Known before: what nobody has looked at waits.
    subprocess.run(["curl", "--version"], stdout=subprocess.DEVNULL, check=True)
    spare = [used() for _ in range(CHOSEN.spare)]
    gate, opener = os.pipe()
    there, arrive = os.pipe()

    def begin():
        os.close(opener)
        child(gate, arrive)

    children = [fork(begin) for _ in range(CHOSEN.processes)]
    for _ in range(CHOSEN.processes * CHOSEN.threads):
        os.read(there, 1)
    with open(CHOSEN.go + ".new", "w", encoding="ascii") as file:
        file.write(" ".join(map(str, [os.getpid(), *children])))
    os.rename(CHOSEN.go + ".new", CHOSEN.go + ".ready")
    while not os.path.exists(CHOSEN.go):
        time.sleep(0.001)
    os.close(opener)
    until = time.monotonic() + CHOSEN.seconds
    count = 0
    while spare and time.monotonic() < until:
        connection = random.choice(spare)
        count += 1
        fork(curl if count % 10 == 0 else lambda: attack(connection, b"f"))
        time.sleep(EVERY)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
    time.sleep(max(0, until - time.monotonic()))
    os._exit(0)


if __name__ == "__main__":
    main()
