"""An agent in trouble, of the kind that --mode names:

same-prompt  asks the same again and again
recurse      starts itself, --number levels deep
spawn        starts --number short processes
agents       makes a call, and forks --number processes that make one each, and live on
cpu          burns processor time, in processes of 200 ms each that end
sleep        does nothing

Needs nothing but Python's standard library. Trusts the certificate that SSL_CERT_FILE names. Prints one JSON line for every answer.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import time
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True, help="https://HOST:PORT and perhaps a path prefix, without /v1")
PARSER.add_argument("--client", default="trouble", help="x-test-client header: who this is in the server's truth")
PARSER.add_argument("--mode", required=True, choices=["same-prompt", "recurse", "spawn", "agents", "cpu", "sleep"])
PARSER.add_argument("--number", type=int, default=1)
PARSER.add_argument("--directive", default="{}", help="what the answers shall be like, as JSON")
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
LONG = 60


def connect():
    return http.client.HTTPSConnection(URL.hostname, URL.port, context=ssl.create_default_context(), timeout=LONG)


def call(connection, number):
    body = {"model": "gpt-4o", "messages": exchange.messages(number, CHOSEN.directive), "max_tokens": 100}
    headers = {"authorization": "Bearer sk-test", "content-type": "application/json", "x-test-client": CHOSEN.client}
    connection.request("POST", URL.path + "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    whole = json.loads(answer.read())
    exchange.say(client=CHOSEN.client, pid=os.getpid(), status=answer.status, stream=False, id=whole.get("id"),
                 model=whole.get("model"), usage=exchange.openai_usage(whole.get("usage")))


def same_prompt():
    connection = connect()
    for _ in range(CHOSEN.number):
        call(connection, 0)


def recurse():
    if CHOSEN.number > 0:
        again = [sys.executable, *sys.argv, "--number", str(CHOSEN.number - 1)]
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn(sys.executable, again, os.environ), 0)[1]))


def spawn():
    for _ in range(CHOSEN.number):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def agents():
    call(connect(), 0)
    children = []
    for number in range(CHOSEN.number):
        pid = os.fork()
        if pid == 0:
            call(connect(), number + 1)
            time.sleep(LONG)
            os._exit(0)
        children.append(pid)
        # One after the other, so that which one is too many is no matter of luck.
        time.sleep(0.2)
    for pid in children:
        os.waitpid(pid, 0)


def cpu():
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        pid = os.fork()
        if pid == 0:
            while time.process_time() < 0.2:
                pass
            os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    {"same-prompt": same_prompt, "recurse": recurse, "spawn": spawn, "agents": agents, "cpu": cpu,
     "sleep": lambda: time.sleep(LONG)}[CHOSEN.mode]()
