"""A server that forgives what it should not (`serve`), and a client that makes use of it (`spend`).

The server takes the first `Content-Length` that it finds, however it is written, and knows no transfer coding. It writes a line to a file for each
request to a model.
"""

import argparse
import json
import re
import socket
import threading
import urllib.parse

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("role", choices=["serve", "spend"])
PARSER.add_argument("--base-url", help="where the server is")
PARSER.add_argument("--client", help="ignored")
PARSER.add_argument("--file", help="the server's: its port, then a line for each call")
PARSER.add_argument("--how", help="one of HEADS")
PARSER.add_argument("--calls", type=int, default=40)
CHOSEN = PARSER.parse_args()

BODY = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "go on"}], "max_tokens": 100}).encode()
# What a head says of its body, and a body of 12 bytes that means something else to whoever takes the head otherwise.
HEADS = {
    "identity": (b"Transfer-Encoding: identity\r\nContent-Length: 12", b"fffffffff\r\n\n"),
    "both": (b"Content-Length: 12\r\nTransfer-Encoding: chunked", b"fffffffff\r\n\n"),
    "gzip": (b"Transfer-Encoding: gzip, chunked\r\nContent-Length: 12", b"fffffffff\r\n\n"),
    "list": (b"Content-Length: 12, 12", b"x" * 12),
    "two": (b"Content-Length: 12\r\nContent-Length: 999999", b"x" * 12),
    "space": (b"Content-Length : 12", b"{" * 12),
    "folded": (b"Content-Length:\r\n 12", b"{" * 12),
    "plus": (b"Content-Length: +12", b"{" * 12),
    "method": (b"Content-Length: 12", b"{" * 12),
}


def read(stream):
    """Requests as this server understands them."""
    data = b""
    while True:
        while b"\r\n\r\n" not in data.lstrip(b"\r\n"):
            more = stream.recv(65536)
            if not more:
                return
            data += more
        head, _, data = data.lstrip(b"\r\n").partition(b"\r\n\r\n")
        found = re.search(rb"content-length\s*:\s*\+?(\d+)", head, re.IGNORECASE)
        length = int(found[1]) if found else 0
        while len(data) < length:
            more = stream.recv(65536)
            if not more:
                return
            data += more
        yield head
        data = data[length:]


def answers(stream, number):
    text = {"id": f"chatcmpl-{number}", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "created": 1,
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}}
    body = json.dumps(text).encode()
    stream.sendall(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def serve():
    listener = socket.create_server(("127.0.0.1", 0))
    lock, seen = threading.Lock(), [0]
    file = open(CHOSEN.file, "w", encoding="ascii")
    print(listener.getsockname()[1], file=file, flush=True)

    def work(stream):
        for head in read(stream):
            if b"/v1/chat/completions" in head.split(b"\r\n")[0]:
                with lock:
                    seen[0] += 1
                    number = seen[0]
                    print(head.split(b" ")[0].decode("ascii", "replace"), file=file, flush=True)
                answers(stream, number)
            else:
                stream.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")

    while True:
        stream, _ = listener.accept()
        threading.Thread(target=work, args=(stream,), daemon=True).start()


def answer(stream, data):
    """Reads one answer; returns what has come of the next."""
    while b"\r\n\r\n" not in data:
        more = stream.recv(65536)
        if not more:
            raise SystemExit("the connection ended")
        data += more
    head, _, data = data.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(data) < length:
        data += stream.recv(65536)
    return data[length:]


def spend():
    url = urllib.parse.urlsplit(CHOSEN.base_url)
    said, body = HEADS[CHOSEN.how]
    host = b"host: " + url.netloc.encode() + b"\r\n"
    call = (b"POST /v1/chat/completions HTTP/1.1\r\n" + host + b"content-type: application/json\r\n"
            b"content-length: %d\r\n\r\n" % len(BODY) + BODY)
    stream = socket.create_connection((url.hostname, url.port), timeout=20)
    if CHOSEN.how == "method":
        # All calls are behind one by a method of its own invention, which begins the write.
        rest = b""
        for _ in range(CHOSEN.calls):
            stream.sendall(b"X-Look /nothing HTTP/1.1\r\n" + host + b"\r\n" + call)
            rest = answer(stream, answer(stream, rest))
        return
    # One that is free and says oddly how long it is, and the beginning of a call; later writes begin in the middle.
    stream.sendall(b"PUT /nothing HTTP/1.1\r\n" + host + said + b"\r\n\r\n" + body + call[:10])
    rest = answer(stream, b"")
    for _ in range(CHOSEN.calls):
        stream.sendall(call[10:] + call[:10])
        rest = answer(stream, rest)


serve() if CHOSEN.role == "serve" else spend()
