"""Ways out by how bytes are sent."""

import array
import os
import socket
import subprocess
import sys
import threading
import time

import agent


def plaintext():
    agent.tried("HTTP without TLS")
    agent.spend("PLAIN")


def early():
    """Connections that were there before the cap."""
    connections = [agent.connect() for _ in range(10)]
    for connection in connections:
        connection.connect()
    agent.tried("10 connections that are open")
    for _ in range(agent.CALLS // 10):
        for connection in connections:
            agent.call(connection)


def split(base):
    """Every byte of the request's beginning in a write of its own."""
    stream = agent.raw(base)
    agent.tried("a request line in pieces")
    for _ in range(agent.CALLS):
        whole = agent.request()
        for at in range(24):
            stream.send(whole[at:at + 1])
        stream.sendall(whole[24:])
        agent.answer(stream)


def split_tls():
    split("BASE")


def split_plain():
    split("PLAIN")


def pipelined(base):
    """All requests in one write: only the first one is at its beginning."""
    agent.spend(base, calls=1)
    stream = agent.raw(base)
    agent.tried("many requests in one write")
    stream.sendall(agent.request() * agent.CALLS)
    rest = b""
    for _ in range(agent.CALLS):
        rest = agent.answer(stream, rest)


def pipelined_tls():
    pipelined("BASE")


def pipelined_plain():
    pipelined("PLAIN")


def methods(base):
    """Requests by methods that no agent uses go before, in the same write and in many of their own."""
    agent.spend(base, calls=1)

    def free(method):
        return f"{method} /v1/nothing HTTP/1.1\r\nhost: localhost\r\nx-test-client: {agent.CLIENT}\r\n\r\n".encode()

    agent.tried("methods that are not known")
    for method in ("TRACE", "PROPFIND", "VERSION-CONTROL", "QUERY"):
        stream = agent.raw(base)
        stream.sendall(free(method) + agent.request())
        agent.answer(stream, agent.answer(stream))
        for _ in range(40):
            stream.sendall(free(method))
            agent.answer(stream)
        for _ in range(agent.CALLS):
            stream.sendall(agent.request())
            agent.answer(stream)


def methods_tls():
    methods("BASE")


def methods_plain():
    methods("PLAIN")


def smuggled(base):
    """No request that costs begins where a write does: the first comes with one that is free, the others with the end of the one before."""
    agent.spend(base, calls=1)
    free = f"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx-test-client: {agent.CLIENT}\r\n\r\n".encode()

    def work():
        stream = agent.raw(base)
        whole = agent.request()
        # So far it costs nothing.
        stream.sendall(free + whole[:3])
        rest = agent.answer(stream)
        start.wait()
        stream.sendall(whole[3:-10])
        for _ in range(agent.CALLS):
            stream.sendall(whole[-10:] + whole[:-10])
            rest = agent.answer(stream, rest)

    start = threading.Barrier(8)
    agent.tried("requests that begin in the middle of writes")
    workers = [threading.Thread(target=agent.insist, args=(work,)) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def smuggled_tls():
    smuggled("BASE")


def smuggled_plain():
    smuggled("PLAIN")


def empty_lines(base):
    """Servers let empty lines pass in front of a request."""
    stream = agent.raw(base)
    agent.tried("empty lines in front of requests")
    for _ in range(70):
        stream.send(b"\r\n")
    for _ in range(agent.CALLS):
        stream.sendall(b"\r\n" + agent.request())
        agent.answer(stream)


def empty_lines_tls():
    empty_lines("BASE")


def empty_lines_plain():
    empty_lines("PLAIN")


def absent(base):
    """The memory that is sent is not there before somebody asks for it: the library, or the system call."""
    import mmap
    path = f"{os.environ['DIR']}/requests"
    size = mmap.PAGESIZE * 2
    stream = agent.raw(base)
    agent.tried("requests from pages that are not there")
    for _ in range(agent.CALLS):
        whole = agent.request()
        with open(path, "wb") as file:
            file.write(whole.ljust(size, b" "))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE) as pages:
            with memoryview(pages) as view, view[:len(whole)] as part:
                stream.sendall(part)
            agent.answer(stream)


def absent_tls():
    absent("BASE")


def absent_plain():
    absent("PLAIN")


def at_once(send):
    """First calls, of which nobody knows what they cost but by their bodies, at once from threads; then more of them."""
    start = threading.Barrier(16)

    def work():
        stream = agent.raw("PLAIN")
        start.wait()
        for _ in range(agent.CALLS):
            send(stream)
            agent.answer(stream)

    workers = [threading.Thread(target=work) for _ in range(16)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def parts():
    """A request as its head and its body."""
    head, end, body = agent.request().partition(b"\r\n\r\n")
    return [head + end, body]


def gathered():
    """Head and body lie apart in one system call."""
    agent.tried("heads and bodies in two pieces of one call")
    at_once(lambda stream: stream.sendmsg(parts()))


def gathered_small():
    """In as many pieces as there may be."""

    def send(stream):
        whole = agent.request()
        size = -(-len(whole) // 1024)
        stream.sendmsg([whole[at:at + size] for at in range(0, len(whole), size)])

    agent.tried("a request in pieces of a byte, all in one call")
    at_once(send)


def absent_vector():
    """What says where the pieces lie is not there before the system call asks for it."""
    import ctypes
    import mmap
    libc = ctypes.CDLL(None, use_errno=True)
    stream = agent.raw("PLAIN")
    agent.tried("pieces that are told by memory that is not there")
    for number in range(agent.CALLS):
        head, body = (ctypes.create_string_buffer(part, len(part)) for part in parts())
        words = (ctypes.c_uint64 * 4)(ctypes.addressof(head), len(head), ctypes.addressof(body), len(body))
        path = f"{os.environ['DIR']}/vector-{number}"
        with open(path, "wb") as file:
            file.write(bytes(words).ljust(mmap.PAGESIZE, b"\0"))
        with open(path, "r+b") as file, mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE) as pages:
            # The address is taken without touching what is there.
            place = ctypes.c_char.from_buffer(pages)
            sent = libc.writev(stream.fileno(), ctypes.c_void_p(ctypes.addressof(place)), 2)
            del place
            assert sent == len(head) + len(body), os.strerror(ctypes.get_errno())
        agent.answer(stream)


def streams():
    """Streams of one HTTP/2 connection."""
    agent.spend(calls=1)
    with open(f"{os.environ['DIR']}/body.json", "wb") as file:
        file.write(agent.body())
    fields = [part for name, value in agent.headers().items() for part in ("-H", f"{name}: {value}")]
    one = ["--http2", "--noproxy", "*", "--cacert", os.environ["CA"], *fields, "--data-binary", f"@{os.environ['DIR']}/body.json",
           "-o", "/dev/null", os.environ["BASE"] + "/v1/chat/completions"]
    command = ["curl", "-sS", "--parallel", "--parallel-max", "40"]
    for _ in range(agent.CALLS):
        command += one + ["--next"]
    agent.tried("40 streams of one connection")
    subprocess.run(command[:-1], check=False)


def two_libraries():
    """OpenSSL and GnuTLS in one process, in turns."""
    import pycurl
    assert "GnuTLS" in pycurl.version, pycurl.version
    agent.tried(pycurl.version)
    connection, curl = agent.connect(), pycurl.Curl()
    curl.setopt(pycurl.URL, os.environ["BASE"] + "/v1/chat/completions")
    curl.setopt(pycurl.CAINFO, os.environ["CA"])
    curl.setopt(pycurl.NOPROXY, "*")
    curl.setopt(pycurl.HTTPHEADER, [f"{name}: {value}" for name, value in agent.headers().items()])
    curl.setopt(pycurl.POSTFIELDS, agent.body())
    curl.setopt(pycurl.WRITEFUNCTION, len)
    for _ in range(agent.CALLS // 2):
        agent.call(connection)
        curl.perform()


def tiny():
    """Thousands of connections that come and go around it."""
    host, port = agent.address("PLAIN")

    def work():
        for _ in range(500):
            try:
                with socket.create_connection((host, port), timeout=5) as connection:
                    connection.send(b"GET /")
            except OSError:
                pass

    agent.tried("4000 connections")
    workers = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for worker in workers:
        worker.start()
    agent.insist(agent.spend)


def flood():
    """Plaintext that looks like requests, more than the ring can take, around calls."""
    listener = socket.create_server(("127.0.0.1", 0))
    load = b"PUT /upload HTTP/1.1\r\ncontent-length: 4194304\r\n\r\n" + b"x" * (4 << 20)

    def swallow():
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=drain, args=(connection,), daemon=True).start()

    def drain(connection):
        left = len(load)
        while (got := len(connection.recv(min(left, 1 << 20)))):
            left -= got
            if left == 0:
                left = len(load)
                connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    # Not here: this process will stand still at the gate.
    if os.fork() == 0:
        swallow()
    if os.fork() == 0:
        with socket.create_connection(listener.getsockname()) as out:
            for _ in range(15):
                out.sendall(load)
                agent.answer(out)
        os._exit(0)
    agent.tried("60 MB that look like a request")
    agent.insist(agent.spend)


def handed_in():
    """A connection goes to a process of the task that has never made one."""
    near, far = socket.socketpair()
    child = os.fork()
    if child == 0:
        near.close()
        _, control, _, _ = far.recvmsg(1, socket.CMSG_SPACE(4))
        descriptor = array.array("i", control[0][2])[0]
        stream = socket.socket(fileno=descriptor)
        agent.tried(f"descriptor {descriptor} from another process")
        for _ in range(agent.CALLS):
            stream.sendall(agent.request())
            agent.answer(stream)
        os._exit(0)
    far.close()
    with socket.create_connection(agent.address("PLAIN")) as stream:
        near.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [stream.fileno()]))])
        os.waitpid(child, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
