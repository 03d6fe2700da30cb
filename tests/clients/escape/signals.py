"""Ways out by signals: not to be stopped, or to go on."""

import ctypes
import os
import signal
import sys
import threading
import time

import agent

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_CONT, PTRACE_ATTACH, PTRACE_DETACH, PTRACE_TRACEME = 7, 16, 17, 0


def ignoring():
    for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    agent.tried("every signal ignored and blocked")
    agent.insist(agent.spend)


def waker(targets, seconds):
    """Sends SIGCONT as fast as it can."""
    until = time.monotonic() + seconds
    sent = 0
    while time.monotonic() < until:
        for target in targets:
            try:
                os.kill(target, signal.SIGCONT)
            except ProcessLookupError:
                return
        sent += 1
        if sent == 1000:
            agent.tried("a thousand SIGCONT")


def storm(base):
    """Helpers in the task wake whoever is stopped, at once: together they would pass the cap."""
    start = time.monotonic() + 1
    callers = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            connection = agent.connect(base)
            connection.connect()
            time.sleep(start - time.monotonic())
            agent.insist(lambda: agent.call(connection))
            os._exit(0)
        callers.append(child)
    for _ in range(2):
        if os.fork() == 0:
            waker(callers, 6)
            os._exit(0)
    time.sleep(8)


def woken():
    storm("BASE")


def woken_plain():
    storm("PLAIN")


def woken_library():
    """Woken while the daemon looks at a TLS library that it has never seen: it might be used before it is probed."""
    own = os.getpid()
    for _ in range(2):
        if os.fork() == 0:
            waker([own], 6)
            os._exit(0)
    time.sleep(0.3)
    for _ in range(8):
        child = os.fork()
        if child == 0:
            for _ in range(2):
                if os.fork() == 0:
                    waker([os.getppid()], 2)
                    os._exit(0)
            agent_copy()
        os.waitpid(child, 0)


def agent_copy():
    """One call by a copy of libssl that was made just now."""
    import shutil
    import subprocess
    import tempfile
    directory = tempfile.mkdtemp(dir=os.environ["DIR"])
    with open(f"/proc/{os.getpid()}/maps", encoding="ascii"):
        pass
    shutil.copy("/usr/lib/x86_64-linux-gnu/libssl.so.3", directory)
    with open(f"{directory}/body.json", "wb") as file:
        file.write(agent.body())
    fields = [part for name, value in agent.headers().items() for part in ("-H", f"{name}: {value}")]
    os.environ["LD_LIBRARY_PATH"] = directory
    os.execvp("curl", ["curl", "-sS", "-m", "5", "--noproxy", "*", "--cacert", os.environ["CA"], *fields, "--data-binary",
                       f"@{directory}/body.json", "-o", "/dev/null", os.environ["BASE"] + "/v1/chat/completions"])


def unstopped(base):
    """Its tracer keeps SIGSTOP from it."""
    child = os.fork()
    if child == 0:
        LIBC.ptrace(PTRACE_TRACEME, 0, None, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        agent.insist(lambda: agent.spend(base))
        os._exit(0)
    swallowed = 0
    while True:
        _, status = os.waitpid(child, 0)
        if not os.WIFSTOPPED(status):
            break
        number = os.WSTOPSIG(status)
        if number == signal.SIGSTOP:
            swallowed += 1
            agent.tried(f"kept {swallowed} SIGSTOP from it")
            number = 0
        LIBC.ptrace(PTRACE_CONT, child, None, number)


def traced():
    unstopped("BASE")


def traced_plain():
    unstopped("PLAIN")


def stop_daemon():
    """While the daemon stands still nobody counts."""
    agent.spend(calls=1)
    daemon = int(os.environ["DAEMON"])
    os.kill(daemon, signal.SIGSTOP)
    agent.tried("the daemon stands still")
    # Whatever becomes of this process, the daemon goes on.
    if os.fork() == 0:
        os.setsid()
        time.sleep(2)
        os.kill(daemon, signal.SIGCONT)
        os._exit(0)
    agent.insist(agent.spend)


def kill_daemon():
    agent.spend(calls=1)
    os.kill(int(os.environ["DAEMON"]), signal.SIGKILL)
    agent.tried("the daemon is dead")
    agent.spend(calls=2)
    while not os.path.exists(f"{os.environ['DIR']}/back"):
        time.sleep(0.05)
    agent.insist(agent.spend)


def lives_on():
    """Threads that outlive the first one."""
    def work():
        time.sleep(0.2)
        agent.tried("the first thread has ended")
        agent.spend()

    threading.Thread(target=work).start()
    LIBC.syscall(60, 0)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
