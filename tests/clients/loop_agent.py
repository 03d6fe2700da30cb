"""An agent in a loop: calls the streaming API again and again until somebody stops it.

Needs nothing but Python's standard library. Trusts the certificate that SSL_CERT_FILE names. Prints one JSON line for
every answer. With --parallel, each round is a burst of calls on connections of their own.
"""

import argparse
import http.client
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True, help="https://HOST:PORT and perhaps a path prefix, without /v1")
PARSER.add_argument("--client", default="loop-agent", help="x-test-client header: who this is in the server's truth")
PARSER.add_argument("--model", default="gpt-4o")
PARSER.add_argument("--directive", default="{}", help="what the answers shall be like, as JSON")
PARSER.add_argument("--parallel", type=int, default=1, help="calls at once in every round after the warm-up")
PARSER.add_argument("--warm-up", type=int, default=0, help="calls one after the other at first")
PARSER.add_argument("--no-stream", action="store_true")
PARSER.add_argument("--pause-ms", type=int, default=0, help="pause between two rounds")
PARSER.add_argument("--calls", type=int, help="stop after so many rounds")
PARSER.add_argument("--persist", action="store_true", help="a call that fails is said, and tried again")
PARSER.add_argument("--stop-file", help="stop when this file exists")
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
CONTEXT = ssl.create_default_context()


def connect():
    if URL.scheme == "http":
        return http.client.HTTPConnection(URL.hostname, URL.port, timeout=60)
    return http.client.HTTPSConnection(URL.hostname, URL.port, context=CONTEXT, timeout=60)


def call(connection, number):
    """One exchange; the answer is read to its end, so that the connection can be used again."""
    stream = not CHOSEN.no_stream
    body = {"model": CHOSEN.model, "messages": exchange.messages(number, CHOSEN.directive), "stream": stream}
    if stream:
        body["stream_options"] = {"include_usage": True}
    headers = {"authorization": "Bearer sk-test", "content-type": "application/json", "x-test-client": CHOSEN.client}
    began = time.monotonic()
    connection.request("POST", URL.path + "/v1/chat/completions", json.dumps(body), headers)
    answer = connection.getresponse()
    if stream and answer.status == 200:
        seen = read_stream(answer)
    else:
        whole = json.loads(answer.read())
        seen = {"id": whole.get("id"), "model": whole.get("model"), "usage": whole.get("usage")}
    exchange.say(client=CHOSEN.client, pid=os.getpid(), number=number, status=answer.status, stream=stream,
                 id=seen["id"], model=seen["model"], usage=exchange.openai_usage(seen["usage"]),
                 took_ms=round((time.monotonic() - began) * 1000))


def read_stream(answer):
    seen = {"id": None, "model": None, "usage": None}
    for line in answer:
        if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
            continue
        chunk = json.loads(line[6:])
        seen.update(id=chunk["id"], model=chunk["model"], usage=chunk.get("usage") or seen["usage"])
    return seen


def burst(number):
    start = threading.Barrier(CHOSEN.parallel)

    def work():
        connection = connect()
        connection.connect()
        start.wait()
        call(connection, number)
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(CHOSEN.parallel)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main():
    connection = connect()
    number = 0
    while (CHOSEN.calls is None or number < CHOSEN.calls) and not (
        CHOSEN.stop_file and os.path.exists(CHOSEN.stop_file)
    ):
        if CHOSEN.parallel > 1 and number >= CHOSEN.warm_up:
            burst(number)
        else:
            try:
                call(connection, number)
            except (OSError, http.client.HTTPException) as error:
                if not CHOSEN.persist:
                    raise
                exchange.say(client=CHOSEN.client, pid=os.getpid(), stream=not CHOSEN.no_stream, id=None, model=None,
                             usage=None, status=None, error=type(error).__name__)
                connection.close()
                time.sleep(0.02)
        number += 1
        if CHOSEN.pause_ms:
            time.sleep(CHOSEN.pause_ms / 1000)


if __name__ == "__main__":
    sys.exit(main())
