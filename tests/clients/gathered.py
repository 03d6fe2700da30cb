"""Makes calls in plaintext whose bytes lie in several places: each is one system call."""

import argparse
import ctypes
import http.client
import json
import mmap
import os
import socket
import tempfile
import urllib.parse

import exchange

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--base-url", required=True)
PARSER.add_argument("--client", required=True)
PARSER.add_argument("--model", default="gpt-4o")
PARSER.add_argument("--how", choices=["whole", "two", "writev", "many", "absent"], required=True)
PARSER.add_argument("--calls", type=int, default=1)
CHOSEN = PARSER.parse_args()
URL = urllib.parse.urlsplit(CHOSEN.base_url)
LIBC = ctypes.CDLL(None, use_errno=True)


def parts(number):
    asked = {"model": CHOSEN.model, "messages": exchange.messages(number, "{}"), "max_tokens": 50}
    body = json.dumps(asked).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nhost: {URL.netloc}\r\nx-test-client: {CHOSEN.client}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n").encode()
    return head, body


def absent(stream, head, body):
    """The `struct iovec`s are in memory that is not there before somebody asks for it."""
    own = [ctypes.create_string_buffer(part, len(part)) for part in (head, body)]
    words = (ctypes.c_uint64 * 4)(ctypes.addressof(own[0]), len(head), ctypes.addressof(own[1]), len(body))
    with tempfile.TemporaryFile() as file:
        file.write(bytes(words).ljust(mmap.PAGESIZE, b"\0"))
        file.flush()
        with mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE) as pages:
            place = ctypes.c_char.from_buffer(pages)
            sent = LIBC.writev(stream.fileno(), ctypes.c_void_p(ctypes.addressof(place)), 2)
            del place
    assert sent == len(head) + len(body), os.strerror(ctypes.get_errno())


def send(stream, head, body):
    if CHOSEN.how == "whole":
        stream.sendall(head + body)
    elif CHOSEN.how == "two":
        stream.sendmsg([head, body])
    elif CHOSEN.how == "writev":
        os.writev(stream.fileno(), [b"", head, b"", body])
    elif CHOSEN.how == "many":
        size = -(-len(head + body) // 1024)
        stream.sendmsg([(head + body)[at:at + size] for at in range(0, len(head + body), size)])
    else:
        absent(stream, head, body)


def main():
    with socket.create_connection((URL.hostname, URL.port), timeout=20) as stream:
        for number in range(CHOSEN.calls):
            try:
                send(stream, *parts(number))
                answer = http.client.HTTPResponse(stream)
                answer.begin()
                whole = json.loads(answer.read())
            except OSError as error:
                exchange.say(client=CHOSEN.client, stream=False, error=repr(error))
                return
            exchange.say(client=CHOSEN.client, status=answer.status, stream=False, id=whole["id"], model=whole["model"],
                         usage=exchange.openai_usage(whole["usage"]))


main()
