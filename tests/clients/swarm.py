"""Many clients at once, in one task: threads, coroutines of one thread, or processes. Each calls the streaming API again and again on a
connection of its own, and starts at the same moment as all others.

Needs nothing but Python's standard library. Trusts the certificate that SSL_CERT_FILE names. Prints one JSON line for every answer. With
--persist, a client that fails tries again; else it ends.
"""

import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import ssl
import sys
import threading
import time
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True, help="https://HOST:PORT and perhaps a path prefix, without /v1")
PARSER.add_argument("--client", default="swarm", help="x-test-client header: who this is in the server's truth")
PARSER.add_argument("--model", default="gpt-4o")
PARSER.add_argument("--directive", default="{}", help="what the answers shall be like, as JSON")
PARSER.add_argument("--mode", choices=["threads", "asyncio", "processes"], default="threads")
PARSER.add_argument("--clients", type=int, default=8)
PARSER.add_argument("--calls", type=int, default=1_000_000, help="calls of each client")
PARSER.add_argument("--max-tokens", type=int)
PARSER.add_argument("--persist", action="store_true")
PARSER.add_argument("--abort", type=float, default=0, help="share of the calls that are abandoned in the middle")
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
CONTEXT = ssl.create_default_context()
PATIENCE = 60
PAUSE = 0.05


def body(number):
    asked = {
        "model": CHOSEN.model,
        "messages": exchange.messages(number, CHOSEN.directive),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if CHOSEN.max_tokens:
        asked["max_tokens"] = CHOSEN.max_tokens
    return json.dumps(asked).encode()


def headers():
    return {"authorization": "Bearer sk-test", "content-type": "application/json", "x-test-client": CHOSEN.client}


def said(seen):
    exchange.say(client=CHOSEN.client, pid=os.getpid(), stream=True, **seen)


def take(seen, line):
    if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
        chunk = json.loads(line[6:])
        seen.update(id=chunk["id"], model=chunk["model"], usage=exchange.openai_usage(chunk.get("usage")) or seen["usage"])


def nothing_seen():
    return {"id": None, "model": None, "usage": None, "status": None}


def connect():
    return http.client.HTTPSConnection(URL.hostname, URL.port, context=CONTEXT, timeout=PATIENCE)


def call(connection, number):
    seen = nothing_seen()
    connection.request("POST", URL.path + "/v1/chat/completions", body(number), headers())
    answer = connection.getresponse()
    seen["status"] = answer.status
    leaves_after = random.randrange(1, 8) if random.random() < CHOSEN.abort else None
    for index, line in enumerate(answer):
        take(seen, line)
        if index == leaves_after:
            connection.close()
            return
    said(seen)


def work(first, ready):
    connection = connect()
    connection.connect()
    ready()
    for number in range(first, first + CHOSEN.calls):
        try:
            call(connection, number)
        except (OSError, http.client.HTTPException, ssl.SSLError) as error:
            said(nothing_seen() | {"error": type(error).__name__})
            connection.close()
            if not CHOSEN.persist:
                return
            time.sleep(PAUSE)


def threads():
    barrier = threading.Barrier(CHOSEN.clients)
    workers = [threading.Thread(target=work, args=(index * 1000, barrier.wait)) for index in range(CHOSEN.clients)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def processes():
    """Each waits until all are there: the reading end of a pipe that the first process closes last."""
    gate, opener = os.pipe()
    there, arrive = os.pipe()
    children = []
    for index in range(CHOSEN.clients):
        pid = os.fork()
        if pid == 0:
            os.close(opener)

            def ready():
                os.write(arrive, b"x")
                os.read(gate, 1)

            signal.signal(signal.SIGINT, signal.SIG_DFL)
            work(index * 1000, ready)
            sys.stdout.flush()
            os._exit(0)
        children.append(pid)
    for _ in children:
        os.read(there, 1)
    os.close(opener)
    for pid in children:
        os.waitpid(pid, 0)


async def coroutine_call(reader, writer, number):
    seen, sent = nothing_seen(), body(number)
    head = f"POST {URL.path}/v1/chat/completions HTTP/1.1\r\nhost: {URL.netloc}\r\ncontent-length: {len(sent)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in headers().items())
    # As HTTP libraries do: the head, a turn for everybody else, and then the body.
    writer.write(head.encode() + b"\r\n")
    await writer.drain()
    await asyncio.sleep(0)
    writer.write(sent)
    await writer.drain()
    status = await reader.readline()
    if not status:
        raise ConnectionResetError
    seen["status"] = int(status.split()[1])
    while (await reader.readline()).strip():
        pass
    while size := int((await reader.readline()).strip() or b"0", 16):
        for line in (await reader.readexactly(size)).splitlines():
            take(seen, line)
        await reader.readline()
    await reader.readline()
    said(seen)


async def coroutine(first, ready):
    connect = lambda: asyncio.open_connection(URL.hostname, URL.port, ssl=CONTEXT)
    reader, writer = await connect()
    await ready.wait()
    for number in range(first, first + CHOSEN.calls):
        try:
            await coroutine_call(reader, writer, number)
        except (OSError, EOFError, ssl.SSLError) as error:
            said(nothing_seen() | {"error": type(error).__name__})
            writer.close()
            if not CHOSEN.persist:
                return
            await asyncio.sleep(PAUSE)
            try:
                reader, writer = await connect()
            except OSError:
                pass


async def coroutines():
    ready = asyncio.Barrier(CHOSEN.clients)
    await asyncio.gather(*(coroutine(index * 1000, ready) for index in range(CHOSEN.clients)))


if __name__ == "__main__":
    if CHOSEN.mode == "threads":
        threads()
    elif CHOSEN.mode == "processes":
        processes()
    else:
        asyncio.run(coroutines())
