"""Many calls, of which a share is aborted at a random point: the client closes or resets its connection, the server breaks off, the process is
killed. Worker processes make them, several at a time each; one that was killed is replaced by another.

Needs nothing but Python's standard library. Trusts any certificate. Prints one JSON line at the end, with what became of
the calls. A call that fails by itself, as when the server is gone, is counted and not made again.
"""

import argparse
import asyncio
import json
import mmap
import os
import random
import signal
import socket
import ssl
import struct
import time
import urllib.parse

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True, help="https://HOST:PORT and perhaps a path prefix, without /v1")
PARSER.add_argument("--client", default="aborts", help="x-test-client header: who this is in the server's truth")
PARSER.add_argument("--calls", type=int, required=True)
PARSER.add_argument("--abort", type=float, default=1 / 3, help="share of the calls that are aborted")
PARSER.add_argument("--workers", type=int, default=3)
PARSER.add_argument("--connections", type=int, default=4, help="of each worker")
PARSER.add_argument("--pause-ms", type=int, default=0, help="after each call")
PARSER.add_argument("--seed", type=int, default=1)
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
# The server may be another one in the middle, with another certificate.
CONTEXT = ssl._create_unverified_context()
PATIENCE = 20
PAUSE = 0.05
CHUNKS = 8
FATES = ["close", "reset", "broken-off", "killed", "head"]
# Counters that all processes share: calls begun, then one for each end.
ENDS = ["begun", "complete", "failed", *FATES]
SHARED = mmap.mmap(-1, 8 * len(ENDS) * (CHOSEN.workers + 1))


class Aborted(Exception):
    pass


def add(worker, end, more=1):
    place = 8 * (worker * len(ENDS) + ENDS.index(end))
    SHARED[place:place + 8] = struct.pack("q", struct.unpack("q", SHARED[place:place + 8])[0] + more)


def count(end):
    places = range(8 * ENDS.index(end), len(SHARED), 8 * len(ENDS))
    return sum(struct.unpack("q", SHARED[place:place + 8])[0] for place in places)


def request(number, fate):
    directive = {"input_tokens": 20, "cached_tokens": 0, "reasoning_tokens": 0, "output_tokens": 4 * CHUNKS, "chunk_tokens": 4}
    if fate == "broken-off":
        directive["close_after_chunks"] = random.randrange(1, CHUNKS)
    text = f"Question {number}? " + json.dumps({"tollgate_test": directive})
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "stream": True,
                       "stream_options": {"include_usage": True}, "max_tokens": 100}).encode()
    head = f"POST {URL.path}/v1/chat/completions HTTP/1.1\r\nhost: {URL.netloc}\r\ncontent-type: application/json\r\n"
    head += f"x-test-client: {CHOSEN.client}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode(), body


def abort(writer, fate, worker):
    add(worker, fate)
    if fate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "reset":
        # Without lingering, a close is a reset.
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise Aborted


async def call(reader, writer, number, fate, worker):
    head, body = request(number, fate)
    if fate == "head":
        writer.write(head + body[:random.randrange(len(body))])
        await writer.drain()
        abort(writer, fate, worker)
    writer.write(head + body)
    await writer.drain()
    leaves_after = random.randrange(0, CHUNKS + 3) if fate in ("close", "reset", "killed") else None
    if leaves_after == 0:
        abort(writer, fate, worker)
    if not await reader.readline():
        raise ConnectionResetError
    while (await reader.readline()).strip():
        pass
    index = 0
    while size := int((await reader.readline()).strip(), 16):
        await reader.readexactly(size + 2)
        index += 1
        if index == leaves_after:
            abort(writer, fate, worker)
    await reader.readline()
    if leaves_after is not None:
        abort(writer, fate, worker)


async def one_after_the_other(worker, quota):
    reader = writer = None
    while quota:
        number = quota.pop()
        await asyncio.sleep(CHOSEN.pause_ms / 1000)
        add(worker, "begun")
        fate = random.choice(FATES) if random.random() < CHOSEN.abort else None
        # A process that is killed ends its other calls, too.
        if fate == "killed" and random.random() < 0.9:
            fate = "close"
        try:
            async with asyncio.timeout(PATIENCE):
                if writer is None:
                    reader, writer = await asyncio.open_connection(URL.hostname, URL.port, ssl=CONTEXT)
                await call(reader, writer, number, fate, worker)
            add(worker, "complete")
        except Aborted:
            writer = None
        except (OSError, EOFError, ssl.SSLError, ValueError, TimeoutError):
            add(worker, "broken-off" if fate == "broken-off" else "failed")
            if writer:
                writer.transport.abort()
            writer = None
            if fate != "broken-off":
                await asyncio.sleep(PAUSE)


async def work(worker, calls):
    quota = list(range(calls))
    await asyncio.gather(*(one_after_the_other(worker, quota) for _ in range(CHOSEN.connections)))


def start(worker, calls, seed):
    pid = os.fork()
    if pid == 0:
        random.seed(seed)
        asyncio.run(work(worker, calls))
        os._exit(0)
    return pid


def main():
    share = CHOSEN.calls // CHOSEN.workers
    workers = {}
    seed = CHOSEN.seed * 1000
    for worker in range(CHOSEN.workers):
        workers[start(worker, share, seed + worker)] = worker
    while workers:
        pid, status = os.wait()
        worker = workers.pop(pid)
        place = 8 * worker * len(ENDS)
        begun = struct.unpack("q", SHARED[place:place + 8])[0]
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL and begun < share:
            seed += CHOSEN.workers
            workers[start(worker, share - begun, seed + worker)] = worker
    print(json.dumps({end: count(end) for end in ENDS}), flush=True)


if __name__ == "__main__":
    main()
