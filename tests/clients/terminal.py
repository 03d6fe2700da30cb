"""A person at a terminal: runs a command in an interactive shell, stops it, goes on with it, interrupts it.

Usage: terminal.py [PREFIX...]. PREFIX is put before the command. Prints what the person saw, as JSON.
"""

import json
import os
import pty
import select
import signal
import sys
import time

# Long enough for a busy machine; nothing waits longer than it must.
PATIENCE = 20


class Terminal:
    def __init__(self):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            # A job in the background of a script ignores interrupts, and so would everything below it.
            for interrupt in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(interrupt, signal.SIG_DFL)
            os.environ.update(PS1="ready> ", TERM="dumb")
            os.execv("/bin/bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"])
        self.text = ""

    def type(self, keys):
        self.text = ""
        os.write(self.fd, keys.encode())

    def sees(self, wanted):
        """Waits until the text is on the screen."""
        deadline = time.monotonic() + PATIENCE
        while wanted not in self.text and time.monotonic() < deadline:
            readable, _, _ = select.select([self.fd], [], [], 0.1)
            if readable:
                try:
                    self.text += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    break
        return wanted in self.text


def main():
    prefix = "".join(f"{word} " for word in sys.argv[1:])
    # Says that it runs on a terminal, and again whenever it is woken.
    program = "python3 -c 'import sys,time,signal;" \
        "signal.signal(signal.SIGCONT,lambda *_:print(\"wo\"+\"ken\",flush=True));" \
        "print(\"termi\"+\"nal\",sys.stdin.isatty(),flush=True);" \
        "[time.sleep(0.1) for _ in range(600)]'"
    terminal = Terminal()
    seen = {"shell": terminal.sees("ready> ")}
    terminal.type(f"{prefix}{program}\n")
    seen["has the terminal"] = terminal.sees("terminal True")
    terminal.type("\x1a")
    # A shell that has not taken its terminal back yet may lose what is typed.
    seen["stops"] = terminal.sees("Stopped") and terminal.sees("ready> ")
    terminal.type("fg\n")
    seen["goes on"] = terminal.sees("woken")
    terminal.type("\x03")
    seen["is interrupted"] = terminal.sees("KeyboardInterrupt") and terminal.sees("ready> ")
    terminal.type("echo code=$?.\n")
    seen["exit code is 130"] = terminal.sees("code=130.")
    # A shell gives up a loop only if it sees its child die of the interrupt.
    terminal.type(f"for n in 1 2; do echo round=$n.; {prefix}sleep 60; done\n")
    seen["loop begins"] = terminal.sees("round=1.")
    time.sleep(1)
    terminal.type("\x03")
    seen["loop ends"] = terminal.sees("ready> ") and "round=2." not in terminal.text
    terminal.type("exit\n")
    os.close(terminal.fd)
    os.waitpid(terminal.pid, 0)
    print(json.dumps(seen))


main()
