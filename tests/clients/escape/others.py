"""Ways out by having others act: processes outside of the task, and the daemon itself."""

import array
import ctypes
import http.client
import json
import os
import signal
import socket
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
        for slot in range(1, 64):
            gate = (ctypes.c_ubyte * 64)()
            bpf.value(1, descriptor, slot, gate)
            if any(gate[16:24]) or any(gate[8:16]):
                ctypes.c_int64.from_buffer(gate, 0).value = 1_000_000
                bpf.value(2, descriptor, slot, gate)
                agent.tried(f"a million credits in slot {slot}")
    time.sleep(0.2)
    agent.insist(agent.spend)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
