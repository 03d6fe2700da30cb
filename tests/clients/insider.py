"""Asks the daemon's socket for everything that it offers, and says for each what it answers: a JSON object by line."""

import argparse
import json
import socket

PARSER = argparse.ArgumentParser(description=__doc__)
PARSER.add_argument("--socket", required=True)
PARSER.add_argument("--own", required=True)
PARSER.add_argument("--other", required=True)
CHOSEN = PARSER.parse_args()

with open("/proc/self/cgroup", encoding="ascii") as memberships:
    CGROUP = next(line.strip()[3:] for line in memberships if line.startswith("0::"))
TASK = {"task": "another", "budget": {"total": "100"}}
ASKED = [
    ("GET", "/v1/status", None),
    ("GET", "/v1/maps", None),
    ("GET", "/v1/incidents", None),
    ("GET", "/v1/labels", None),
    ("GET", f"/v1/tasks/{CHOSEN.own}/report", None),
    ("GET", f"/v1/tasks/{CHOSEN.other}/report", None),
    ("GET", f"/v1/tasks/{CHOSEN.other}/wait", None),
    ("POST", "/v1/tasks", TASK),
    ("POST", f"/v1/tasks/{CHOSEN.own}/join", None),
    ("POST", f"/v1/tasks/{CHOSEN.other}/join", None),
    ("POST", "/v1/orders", {"account": CHOSEN.own, "order": "add", "usd": "100"}),
    ("POST", "/v1/orders", {"account": CHOSEN.other, "order": "kill"}),
    ("POST", "/v1/labels", {"cgroup": CGROUP, "said": TASK}),
    ("POST", "/v1/labels/remove", {"cgroup": CGROUP}),
]


def ask(method, path, content):
    body = b"" if content is None else json.dumps(content).encode()
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(10)
    try:
        stream.connect(CHOSEN.socket)
    except PermissionError:
        return "no connection", None
    stream.sendall(f"{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n"
                   f"content-length: {len(body)}\r\n\r\n".encode() + body)
    answer = b""
    while more := stream.recv(65536):
        answer += more
    head, _, text = answer.partition(b"\r\n\r\n")
    try:
        return int(head.split(b" ")[1]), json.loads(text)
    except ValueError:
        return int(head.split(b" ")[1]), text.decode("utf-8", "replace")


for asked in ASKED:
    status, said = ask(*asked)
    print(json.dumps({"asked": f"{asked[0]} {asked[1]}", "about": (asked[2] or {}).get("account"), "status": status, "said": said}), flush=True)
