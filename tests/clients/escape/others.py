"""Ways out by having others act: processes outside of the task, and the daemon itself."""

import array
import ctypes
import http.client
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import time

import agent

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_ATTACH, PTRACE_DETACH = 16, 17
PIDFD_OPEN, PIDFD_GETFD, PROCESS_VM_WRITEV, BPF = 434, 438, 311, 321


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


def victim():
    return int(os.environ["VICTIM"])


def trace():
    """A debugger at a process outside: it could be made to do anything."""
    assert LIBC.ptrace(PTRACE_ATTACH, victim(), None, None) == 0, os.strerror(ctypes.get_errno())
    os.waitpid(victim(), 0)
    agent.tried("attached to a process outside")
    LIBC.ptrace(PTRACE_DETACH, victim(), None, None)
    os.kill(victim(), signal.SIGCONT)


def write_memory():
    with open(f"/proc/{victim()}/maps", encoding="ascii") as maps:
        heap = next(line for line in maps if "[stack]" in line)
    place = int(heap.split("-")[0], 16)
    text = ctypes.create_string_buffer(8)
    local, remote = Iovec(ctypes.addressof(text), 8), Iovec(place, 8)
    wrote = LIBC.syscall(PROCESS_VM_WRITEV, victim(), ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    agent.tried(f"{wrote} bytes written into a process outside")


def take_connection():
    """A connection that a process outside has made is used here."""
    with open(os.environ["VICTIM_FD"], encoding="ascii") as file:
        descriptor = int(file.read())
    pidfd = LIBC.syscall(PIDFD_OPEN, victim(), 0)
    taken = LIBC.syscall(PIDFD_GETFD, pidfd, descriptor, 0)
    assert taken >= 0, os.strerror(ctypes.get_errno())
    agent.tried(f"descriptor {taken} of process {victim()}")
    stream = socket.socket(fileno=taken)
    for _ in range(agent.CALLS):
        stream.sendall(agent.request())
        agent.answer(stream)


def hand_out():
    """A connection of the task goes to a process outside, which sends on it what it is told."""
    outside = socket.socket(socket.AF_UNIX)
    outside.connect(os.environ["OUTSIDE"])
    with socket.create_connection(agent.address("PLAIN")) as stream:
        text = json.dumps({"hand": agent.request().decode(), "times": agent.CALLS}).encode()
        outside.sendmsg([text], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [stream.fileno()]))])
        agent.tried("a connection in the hands of a process outside")
        outside.settimeout(3)
        try:
            agent.tried("it said: " + outside.recv(4096).decode())
        except TimeoutError:
            agent.tried("it said nothing")


def hand_out_by(send):
    """As above, hidden from whoever looks at the first descriptor of a message only."""
    outside = socket.socket(socket.AF_UNIX)
    outside.connect(os.environ["OUTSIDE"])
    with socket.create_connection(agent.address("PLAIN")) as stream:
        text = json.dumps({"hand": agent.request().decode(), "times": agent.CALLS}).encode()
        send(outside, text, stream.fileno())
        agent.tried("a connection in the hands of a process outside")
        outside.settimeout(3)
        try:
            agent.tried("it said: " + outside.recv(4096).decode())
        except TimeoutError:
            agent.tried("it said nothing")


def rights(*descriptors):
    return (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))


def hand_out_second():
    nothing = os.open("/dev/null", os.O_RDONLY)
    hand_out_by(lambda outside, text, stream: outside.sendmsg([text], [rights(nothing), rights(stream)]))


def hand_out_behind():
    """Behind others, in one control message."""
    nothing = [os.open("/dev/null", os.O_RDONLY) for _ in range(40)]
    hand_out_by(lambda outside, text, stream: outside.sendmsg([text], [rights(*nothing, stream)]))


class Message(ctypes.Structure):
    """`struct mmsghdr`"""
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("pieces", ctypes.c_void_p),
                ("many", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("_padding", ctypes.c_uint32), ("sent", ctypes.c_uint32)]


def messages(texts, controls):
    """Messages, and what must live as long as they."""
    kept, all_of_them = [], (Message * len(texts))()
    for message, text, control in zip(all_of_them, texts, controls):
        buffer = ctypes.create_string_buffer(text, len(text))
        piece = Iovec(ctypes.addressof(buffer), len(text))
        ancillary = ctypes.create_string_buffer(control, max(len(control), 1))
        message.pieces, message.many = ctypes.addressof(piece), 1
        message.control, message.control_length = ctypes.addressof(ancillary) if control else None, len(control)
        kept += [buffer, piece, ancillary]
    return all_of_them, kept


def hand_out_mmsg():
    """By `sendmmsg`, with the second message."""

    def send(outside, text, stream):
        control = struct.pack("=QiiiI", 20, socket.SOL_SOCKET, socket.SCM_RIGHTS, stream, 0)
        both, _kept = messages([text[:1], text[1:]], [b"", control])
        assert LIBC.sendmmsg(outside.fileno(), both, 2, 0) == 2, os.strerror(ctypes.get_errno())

    hand_out_by(send)


def sendmmsg():
    """Calls by a system call of which nothing is copied."""
    with socket.create_connection(agent.address("PLAIN"), timeout=20) as stream:
        agent.tried("calls by sendmmsg")
        for _ in range(agent.CALLS):
            one, _kept = messages([agent.request()], [b""])
            assert LIBC.sendmmsg(stream.fileno(), one, 1, 0) == 1, os.strerror(ctypes.get_errno())
            agent.answer(stream)


class Ring:
    """As much of io_uring(7) as sends."""
    SETUP, ENTER, SEND, GETEVENTS = 425, 426, 26, 1

    def __init__(self):
        parameters = (ctypes.c_uint32 * 30)()
        self.fd = LIBC.syscall(self.SETUP, 8, parameters)
        assert self.fd >= 0, "io_uring: " + os.strerror(ctypes.get_errno())
        entries, offsets = parameters[0], parameters[10:20]
        _, self.tail, mask, _, _, _, array_at = offsets[:7]
        self.ring = mmap.mmap(self.fd, array_at + entries * 4, offset=0)
        self.requests = mmap.mmap(self.fd, entries * 64, offset=0x10000000)
        self.mask, self.array = struct.unpack_from("=I", self.ring, mask)[0], array_at

    def send(self, descriptor, data):
        buffer = ctypes.create_string_buffer(data, len(data))
        tail = struct.unpack_from("=I", self.ring, self.tail)[0]
        index = tail & self.mask
        struct.pack_into("=BBHiQQIIQ24x", self.requests, index * 64, self.SEND, 0, 0, descriptor, 0,
                         ctypes.addressof(buffer), len(data), 0, 0)
        struct.pack_into("=I", self.ring, self.array + index * 4, index)
        struct.pack_into("=I", self.ring, self.tail, tail + 1)
        done = LIBC.syscall(self.ENTER, self.fd, 1, 1, self.GETEVENTS, None, 0)
        assert done == 1, os.strerror(ctypes.get_errno())


def io_uring():
    """Calls by no system call that sends."""
    ring = Ring()
    with socket.create_connection(agent.address("PLAIN"), timeout=20) as stream:
        agent.tried("calls by io_uring")
        for _ in range(agent.CALLS):
            ring.send(stream.fileno(), agent.request())
            agent.answer(stream)


def relabel():
    """Root says itself what its cgroup may spend."""
    with open("/proc/self/cgroup", encoding="ascii") as file:
        path = next(line.strip()[3:] for line in file if line.startswith("0::"))
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        root = next(fields[1] for fields in map(str.split, mounts) if fields[2] == "cgroup2")
    for name, value in (("trusted.tollgate.task", b"another"), ("trusted.tollgate.budget", b'{"total": "100"}')):
        os.setxattr(root + path, name, value)
    agent.tried(f"its cgroup has {os.listxattr(root + path)}")
    agent.spend()


def clock():
    """Root sets the clock, here to what it is: windows of budgets turn by it."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.clock_gettime(time.CLOCK_REALTIME))
        agent.tried("the clock was set")
    except PermissionError as error:
        agent.tried(f"the clock could not be set: {error}")
    agent.spend()


def start_outside():
    """Somebody outside starts a process for whoever asks, as systemd, Docker and cron do."""
    outside = socket.socket(socket.AF_UNIX)
    outside.connect(os.environ["OUTSIDE"])
    outside.send(json.dumps({"run": True}).encode())
    agent.tried("asked a process outside to act: " + outside.recv(4096).decode())


def tollgate(*arguments):
    command = [os.environ["TOLLGATE"], arguments[0], "--socket", os.environ["SOCKET"], *arguments[1:]]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def order(how):
    done = tollgate("approve", os.environ["TASK"], "--add", "100")
    agent.tried(f"{how}: exit {done.returncode}: {done.stderr.strip()[-90:]}")
    assert done.returncode != 0, "it may spend more now"


def orders():
    order("itself")
    for arguments in (("budget", os.environ["TASK"], "total=100"), ("resume", os.environ["TASK"]),
                      ("approve", os.environ["TASK"], "--until", "2999-01-01T00:00:00Z"),
                      ("run", "--task", "another", "--budget", "100", "--", "true")):
        done = tollgate(*arguments)
        agent.tried(f"{arguments[0]}: exit {done.returncode}")
        assert done.returncode != 0, arguments
    if os.fork() == 0:
        os.setsid()
        order("a child in a session of its own")
        os._exit(0)
    assert os.wait()[1] == 0
    agent.spend()


def orders_moved():
    with open(f"{os.environ['AWAY']}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(os.getpid()))
    order("from another cgroup")
    agent.spend()


def orders_pid_namespace():
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", os.environ["TOLLGATE"], "approve", "--socket", os.environ["SOCKET"],
                           os.environ["TASK"], "--add", "100"], capture_output=True, text=True, check=False)
    agent.tried(f"from another pid namespace: exit {done.returncode}: {done.stderr.strip()[-90:]}")
    assert done.returncode != 0
    agent.spend()


def orders_fake_root():
    """Root of a user namespace of its own is nobody outside."""
    done = subprocess.run(["unshare", "--user", "--map-root-user", os.environ["TOLLGATE"], "approve", "--socket", os.environ["SOCKET"],
                           os.environ["TASK"], "--add", "100"], capture_output=True, text=True, check=False)
    agent.tried(f"as root of a user namespace: exit {done.returncode}: {done.stderr.strip()[-90:]}")
    assert done.returncode != 0
    agent.spend()


def orders_orphaned():
    """Whoever has connected is gone when the order comes: nobody is in no task."""
    near, far = os.pipe()
    text = json.dumps({"account": os.environ["TASK"], "order": "add", "usd": "100"})
    if os.fork() == 0:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(os.environ["SOCKET"])
        if os.fork() == 0:
            time.sleep(0.5)
            head = f"POST /v1/orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n"
            connection.sendall((head + text).encode())
            os.write(far, connection.recv(4096).split(b"\r\n")[0])
        os._exit(0)
    os.wait()
    said = os.read(near, 4096).decode()
    agent.tried("an order on the connection of a process that has ended: " + said)
    assert "403" in said, said
    agent.spend()


def state():
    """The daemon's files, as somebody who is not root."""
    opened = []
    for path in (os.environ["SOCKET"], f"{os.environ['STATE']}/ledger.db", f"{os.environ['STATE']}/lock"):
        try:
            os.open(path, os.O_WRONLY)
            opened.append(path)
        except PermissionError:
            pass
        except OSError as error:
            opened.append(f"{path} ({error})")
    try:
        socket.socket(socket.AF_UNIX).connect(os.environ["SOCKET"])
        opened.append("the socket")
    except PermissionError:
        pass
    agent.tried(f"let into: {opened}")
    assert not opened, opened
    agent.spend()


def unprobe():
    """A breakpoint in the code of a library could be taken out."""
    agent.context()
    with open("/proc/self/maps", encoding="ascii") as maps:
        place = next(line for line in maps if "libssl" in line and " r-xp " in line)
    start, end = (int(part, 16) for part in place.split()[0].split("-"))
    result = LIBC.mprotect(ctypes.c_void_p(start), ctypes.c_size_t(end - start), 7)
    agent.tried(f"the code of libssl can be written to: {result}")
    agent.spend()


def kernel_tls():
    """The kernel encrypts what is written to a socket."""
    with socket.create_connection(agent.address()) as stream:
        try:
            stream.setsockopt(6, 31, b"tls")
            agent.tried("kTLS")
        except OSError as error:
            agent.tried(f"no kTLS here: {error}")


class Bpf:
    """As much of bpf(2) as takes the gate: maps by their ids, and values in them."""

    def __call__(self, command, **fields):
        self.attributes = (ctypes.c_ubyte * 128)()
        for offset, (value, kind) in fields.values():
            kind.from_buffer(self.attributes, offset).value = value
        return LIBC.syscall(BPF, command, self.attributes, 128)

    def next_id(self, before):
        if self(12, start=(0, (before, ctypes.c_uint32))) != 0:
            return None
        return ctypes.c_uint32.from_buffer(self.attributes, 4).value

    def open(self, number):
        return self(14, number=(0, (number, ctypes.c_uint32)))

    def name(self, descriptor):
        info = (ctypes.c_ubyte * 256)()
        self(15, fd=(0, (descriptor, ctypes.c_uint32)), size=(4, (256, ctypes.c_uint32)),
             info=(8, (ctypes.addressof(info), ctypes.c_uint64)))
        return bytes(info[24:40]).rstrip(b"\0").decode()

    def value(self, command, descriptor, key, value):
        key = ctypes.c_uint32(key)
        return self(command, fd=(0, (descriptor, ctypes.c_uint32)), key=(8, (ctypes.addressof(key), ctypes.c_uint64)),
                    value=(16, (ctypes.addressof(value), ctypes.c_uint64)))


def open_gate():
    """Root with all of its rights gives itself credits."""
    agent.spend(calls=1)
    bpf, number = Bpf(), 0
    while (number := bpf.next_id(number)) is not None:
        descriptor = bpf.open(number)
        if bpf.name(descriptor) != "GATES":
            continue
        for slot in range(1, 512):
            gate = (ctypes.c_ubyte * 128)()
            bpf.value(1, descriptor, slot, gate)
            if any(gate[16:24]) or any(gate[8:16]):
                ctypes.c_int64.from_buffer(gate, 0).value = 1_000_000
                bpf.value(2, descriptor, slot, gate)
                agent.tried(f"a million credits in slot {slot}")
    time.sleep(0.2)
    agent.insist(agent.spend)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
