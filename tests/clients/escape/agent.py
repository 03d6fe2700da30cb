"""What the programs that try to get away share: calls that cost, and a way to say what was tried.

Nothing but Python's standard library. The environment says where to: BASE (TLS) and PLAIN (none), CA, CLIENT (who this is in the server's truth),
DIR (an empty directory), TRIED (a file; what is in it was really tried).
"""

import http.client
import json
import os
import socket
import ssl
import urllib.parse

CLIENT = os.environ["CLIENT"]
# More than any cap here pays for; a way that leads out would show them all.
CALLS = 40
_CONTEXT = None


def tried(what):
    """Says that something was done that a gate could be missed by."""
    descriptor = os.open(os.environ["TRIED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.write(descriptor, (what + "\n").encode())
    os.close(descriptor)


def context():
    global _CONTEXT
    if _CONTEXT is None:
        _CONTEXT = ssl.create_default_context(cafile=os.environ["CA"])
    return _CONTEXT


def address(base="BASE"):
    url = urllib.parse.urlsplit(os.environ[base])
    return url.hostname, url.port


def body():
    ask = {"tollgate_test": {"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0,
                             "chunked": False}}
    return json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Go on. " + json.dumps(ask)}]}).encode()


def headers(**more):
    return {"x-test-client": CLIENT, "content-type": "application/json", "authorization": "Bearer sk-test"} | {
        name.replace("_", "-"): value for name, value in more.items()
    }


def request(**more):
    """A whole request, as bytes."""
    content = body()
    fields = headers(**more) | {"host": "localhost", "content-length": str(len(content))}
    lines = ["POST /v1/chat/completions HTTP/1.1"] + [f"{name}: {value}" for name, value in fields.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def connect(base="BASE"):
    host, port = address(base)
    if base == "PLAIN":
        return http.client.HTTPConnection(host, port, timeout=20)
    return http.client.HTTPSConnection(host, port, context=context(), timeout=20)


def call(connection, **more):
    connection.request("POST", "/v1/chat/completions", body(), headers(**more))
    return connection.getresponse().read()


def spend(base="BASE", calls=CALLS, **more):
    """Calls until somebody stops it."""
    connection = connect(base)
    for _ in range(calls):
        call(connection, **more)


def raw(base="BASE"):
    """A connection as a socket."""
    plain = socket.create_connection(address(base), timeout=20)
    return plain if base == "PLAIN" else context().wrap_socket(plain, server_hostname="localhost")


def answer(stream, data=b""):
    """Reads one answer with a length; returns what has come of the next one."""
    while b"\r\n\r\n" not in data:
        more = stream.recv(65536)
        if not more:
            raise ConnectionError("the connection ended")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    while len(rest) < length:
        more = stream.recv(65536)
        if not more:
            raise ConnectionError("the connection ended")
        rest += more
    return rest[length:]


def insist(work):
    """Does it again and again: a call that fails is no reason to give up."""
    for _ in range(CALLS):
        try:
            work()
        except OSError:
            pass
