"""Ways out by becoming another process, or by being somewhere else."""

import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time

import agent

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
PR_SET_CHILD_SUBREAPER = 36


def cgroup_mount():
    with open("/proc/self/mounts", encoding="ascii") as mounts:
        return next(line.split()[1] for line in mounts if line.split()[2] == "cgroup2")


def double_fork():
    if os.fork() == 0:
        if os.fork() == 0:
            time.sleep(0.05)
            agent.tried(f"a grandchild of process {os.getppid()}")
            agent.spend()
        os._exit(0)
    os.wait()
    time.sleep(5)


def daemonise():
    if os.fork() == 0:
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        os.chdir("/")
        os.umask(0)
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in range(3):
            os.dup2(null, descriptor)
        agent.tried(f"session {os.getsid(0)} without a terminal, parent {os.getppid()}")
        agent.spend()
        os._exit(0)


def exec_chain():
    left = int(sys.argv[2]) if len(sys.argv) > 2 else 6
    agent.tried(f"{left} more programs")
    connection = agent.connect()
    agent.call(connection)
    if left:
        script = f"exec env LEFT={left} {sys.executable} {__file__} exec_chain {left - 1}"
        os.execv("/bin/sh", ["sh", "-c", script])


def threads():
    """All of them start at once, in front of a gate with next to nothing left."""
    agent.spend(calls=1)
    connections = [agent.connect() for _ in range(16)]
    for connection in connections:
        connection.connect()
    start = threading.Barrier(len(connections))

    def work(connection):
        start.wait()
        agent.insist(lambda: agent.call(connection))

    agent.tried(f"{len(connections)} threads")
    workers = [threading.Thread(target=work, args=(connection,)) for connection in connections]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def thread_exec():
    """`execve` from a thread that is not the first one."""
    def work():
        agent.tried("exec by a thread")
        os.execv(sys.executable, [sys.executable, __file__, "plainly"])

    threading.Thread(target=work).start()
    time.sleep(20)


def launched():
    agent.tried(f"process {os.getpid()}, child of {os.getppid()}")
    agent.spend()


def plainly():
    agent.spend()


def cgroup_self():
    place = os.environ["AWAY"]
    with open(f"{place}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(os.getpid()))
    with open("/proc/self/cgroup", encoding="ascii") as own:
        here = own.read()
    assert os.path.basename(place) in here, here
    agent.tried(f"in cgroup {place}")
    agent.spend()


def cgroup_child():
    child = os.fork()
    if child == 0:
        time.sleep(0.1)
        agent.spend()
        os._exit(0)
    with open(f"{os.environ['AWAY']}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(child))
    agent.tried("a child in another cgroup")
    os.wait()


def cgroup_below():
    """A cgroup below the task's own: allowed, and the task's."""
    with open("/proc/self/cgroup", encoding="ascii") as own:
        path = next(line.strip()[3:] for line in own if line.startswith("0::"))
    below = f"{cgroup_mount()}{path}/below"
    os.mkdir(below)
    with open(f"{below}/cgroup.procs", "w", encoding="ascii") as procs:
        procs.write(str(os.getpid()))
    agent.tried(f"in cgroup {below}")
    agent.spend()


def cgroup_nobody():
    for place in (os.environ["AWAY"], cgroup_mount()):
        try:
            with open(f"{place}/cgroup.procs", "w", encoding="ascii") as procs:
                procs.write(str(os.getpid()))
            agent.tried(f"MOVED to {place}")
        except PermissionError:
            agent.tried(f"not let into {place}")
    agent.spend()


def net_namespace():
    """Connections made here live on in a process that is in a network of its own."""
    connections = [agent.connect() for _ in range(3)]
    for connection in connections:
        connection.connect()
    assert LIBC.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    agent.tried("in another network namespace, with connections of this one")
    for _ in range(agent.CALLS):
        for connection in connections:
            agent.call(connection)


def subreaper():
    """Children of dead parents come to it, and stay zombies."""
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    agent.tried("20 zombies, and their children")
    for _ in range(20):
        if os.fork() == 0:
            if os.fork() == 0:
                agent.spend(calls=4)
            os._exit(0)
    time.sleep(5)


def limits():
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    LIBC.personality(0x0040000 | 0x0800000)
    agent.tried("no room for pending signals, and another personality")
    agent.spend()


def other_agents():
    """Whatever speaks HTTPS is an agent."""
    agent.tried("curl and node")
    with open(f"{os.environ['DIR']}/body.json", "wb") as file:
        file.write(agent.body())
    url = os.environ["BASE"] + "/v1/chat/completions"
    fields = [part for name, value in agent.headers().items() for part in ("-H", f"{name}: {value}")]
    curl = ["curl", "-sS", "--noproxy", "*", "--cacert", os.environ["CA"], *fields, "--data-binary",
            f"@{os.environ['DIR']}/body.json", "-o", "/dev/null", url]
    script = ("const {readFileSync} = require('fs'); const body = readFileSync(process.argv[2]);"
              "fetch(process.argv[1], {method: 'POST', body, headers: JSON.parse(process.argv[3])}).then(r => r.text())")
    import json
    node = ["node", "-e", script, url, f"{os.environ['DIR']}/body.json", json.dumps(agent.headers())]
    for _ in range(agent.CALLS // 2):
        for command in (curl, node):
            subprocess.run(command, check=False, env=os.environ | {"NODE_EXTRA_CA_CERTS": os.environ["CA"]})


def names():
    """Says that it is another task, and a session of somebody else."""
    agent.tried("another task's name in the environment and in header fields")
    os.environ["TOLLGATE_TASK"] = "somebody-else"
    if os.fork() == 0:
        os.execve(sys.executable, [sys.executable, __file__, "named"], os.environ)
    os.wait()


def named():
    agent.spend(x_claude_code_session_id="somebody-else", x_tollgate_task="somebody-else", session_id="somebody-else")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    globals()[sys.argv[1]]()
