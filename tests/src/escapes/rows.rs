//! The ways out.

use super::{End, Row, User};

const fn stopped(name: &'static str, way: &'static str, start: &'static str) -> Row {
    Row { name, way, start, cap: "0.0105", user: User::Root, end: End::Stopped, alert: None, note: "" }
}

const fn nobody(row: Row) -> Row {
    Row { user: User::Nobody, ..row }
}

const fn said(row: Row, decision: &'static str, text: &'static str) -> Row {
    Row { alert: Some((decision, text)), ..row }
}

const fn ending(row: Row, end: End, note: &'static str) -> Row {
    Row { end, note, ..row }
}

/// A connection in the hands of somebody else, who sends nothing on it.
const fn handed_out(name: &'static str, way: &'static str, start: &'static str) -> Row {
    said(
        ending(stopped(name, way, start), End::Held, "the connection sends nothing any more"),
        "reach",
        "hands a connection to process",
    )
}

/// Room for requests that are on their way beside the calls, and of which nobody knows what they cost.
const fn roomy(row: Row) -> Row {
    Row { cap: "0.0245", ..row }
}

/// In the order in which they are tried.
pub const ROWS: &[Row] = &[
    stopped(
        "double-fork",
        "fork twice, and live on as an orphan",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" double_fork"#,
    ),
    stopped(
        "daemonise",
        "a daemon: new session, no terminal, parent gone",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" daemonise"#,
    ),
    stopped(
        "exec-chain",
        "another program after each call, through shells",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" exec_chain"#,
    ),
    stopped("threads", "16 threads at once", r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" threads"#),
    stopped(
        "thread-exec",
        "`execve` by another thread than the first",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" thread_exec"#,
    ),
    stopped(
        "lives-on",
        "threads that outlive the first one",
        r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" lives_on"#,
    ),
    stopped("vfork", "`vfork`", r#"exec "$NATIVE/launch" vfork /usr/bin/python3 "$SCRIPTS/processes.py" launched"#),
    stopped(
        "clone-parent",
        "`CLONE_PARENT`: a sibling instead of a child",
        r#""$NATIVE/launch" parent /usr/bin/python3 "$SCRIPTS/processes.py" launched; sleep 5"#,
    ),
    stopped(
        "clone-cgroup",
        "`CLONE_INTO_CGROUP`: born in another cgroup",
        r#"exec "$NATIVE/launch" cgroup /usr/bin/python3 "$SCRIPTS/processes.py" launched"#,
    ),
    stopped(
        "subreaper",
        "`PR_SET_CHILD_SUBREAPER`, and zombies",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" subreaper"#,
    ),
    stopped(
        "cgroup-self",
        "moves itself to another cgroup",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" cgroup_self"#,
    ),
    stopped(
        "cgroup-child",
        "moves a child to another cgroup",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" cgroup_child"#,
    ),
    stopped(
        "cgroup-below",
        "makes a cgroup below its own",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" cgroup_below"#,
    ),
    nobody(stopped(
        "cgroup-nobody",
        "moves itself to another cgroup",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" cgroup_nobody"#,
    )),
    stopped(
        "namespaces",
        "new pid, mount, cgroup, IPC and UTS namespaces",
        r#"exec unshare --pid --fork --mount-proc --cgroup --ipc --uts /usr/bin/python3 "$SCRIPTS/processes.py" launched"#,
    ),
    nobody(stopped(
        "user-namespace",
        "root of a user namespace, with a pid namespace in it",
        r#"exec unshare --user --map-root-user --pid --fork --mount-proc /usr/bin/python3 "$SCRIPTS/processes.py" launched"#,
    )),
    stopped(
        "net-namespace",
        "another network namespace, with connections of this one",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" net_namespace"#,
    ),
    nobody(stopped(
        "sandbox",
        "a sandbox of its own (bubblewrap)",
        r#"exec bwrap --dev-bind / / --unshare-user --unshare-pid --unshare-cgroup --unshare-ipc --proc /proc /usr/bin/python3 "$SCRIPTS/processes.py" launched"#,
    )),
    stopped(
        "limits",
        "no room for pending signals (`prlimit`), another personality",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" limits"#,
    ),
    stopped(
        "other-agents",
        "starts other agents: curl, Node",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" other_agents"#,
    ),
    stopped(
        "names",
        "`TOLLGATE_TASK` and header fields of another task or session",
        r#"exec /usr/bin/python3 "$SCRIPTS/processes.py" names"#,
    ),
    stopped("ignoring", "ignores and blocks every signal", r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" ignoring"#),
    said(
        ending(
            stopped(
                "woken",
                "a helper sends `SIGCONT` to whoever is held, in a loop",
                r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" woken"#,
            ),
            End::Held,
            "what it sends stays in its sockets",
        ),
        "reach",
        "woken by somebody else",
    ),
    ending(
        stopped("woken-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" woken_plain"#),
        End::Held,
        "",
    ),
    ending(
        stopped(
            "woken-library",
            "the same, while a new copy of libssl is looked at",
            r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" woken_library"#,
        ),
        End::Held,
        "",
    ),
    said(
        ending(
            stopped(
                "traced",
                "a tracer keeps `SIGSTOP` from it",
                r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" traced"#,
            ),
            End::Held,
            "what it sends stays in its sockets",
        ),
        "reach",
        "woken by somebody else",
    ),
    ending(
        stopped("traced-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" traced_plain"#),
        End::Held,
        "",
    ),
    stopped("plaintext", "HTTP without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" plaintext"#),
    stopped("early", "connections that were open before the cap", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" early"#),
    stopped(
        "split-tls",
        "a request line in pieces of a byte",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" split_tls"#,
    ),
    stopped("split-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" split_plain"#),
    stopped("pipelined-tls", "40 requests in one write", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" pipelined_tls"#),
    stopped("pipelined-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" pipelined_plain"#),
    stopped(
        "methods-tls",
        "requests behind others with methods that no agent uses",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" methods_tls"#,
    ),
    stopped("methods-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" methods_plain"#),
    stopped(
        "smuggled-tls",
        "requests that begin in the middle of writes, on 8 connections",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" smuggled_tls"#,
    ),
    stopped("smuggled-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" smuggled_plain"#),
    stopped(
        "empty-lines-tls",
        "empty lines in front of each request",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" empty_lines_tls"#,
    ),
    stopped(
        "empty-lines-plain",
        "the same, without TLS",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" empty_lines_plain"#,
    ),
    stopped(
        "absent-tls",
        "requests from memory that is brought only when they are sent",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" absent_tls"#,
    ),
    stopped("absent-plain", "the same, without TLS", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" absent_plain"#),
    stopped(
        "gathered",
        "first calls at once, head and body in two pieces of one call, without TLS",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" gathered"#,
    ),
    stopped(
        "gathered-small",
        "the same, in as many pieces as there may be",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" gathered_small"#,
    ),
    stopped(
        "absent-vector",
        "pieces that are told by memory that is brought only when they are sent",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" absent_vector"#,
    ),
    stopped("streams", "40 streams of one HTTP/2 connection", r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" streams"#),
    stopped(
        "two-libraries",
        "OpenSSL and GnuTLS in one process, in turns",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" two_libraries"#,
    ),
    stopped("copied", "a fresh copy of libssl for each call", COPIED),
    stopped(
        "static",
        "OpenSSL linked into the program",
        r#"/usr/bin/python3 -c "$REQUEST" | "$NATIVE/tls-static" "$PORT" "$CA" 40"#,
    ),
    stopped(
        "memfd",
        "libssl from a file without a name (memfd)",
        r#"/usr/bin/python3 -c "$REQUEST" | "$NATIVE/tls-memfd" "$PORT" "$CA" 40"#,
    ),
    stopped(
        "handed-in",
        "a connection from another process of the task (`SCM_RIGHTS`)",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" handed_in"#,
    ),
    said(
        ending(
            stopped(
                "handed-out",
                "hands a connection to a process outside of the task",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" hand_out"#,
            ),
            End::Held,
            "the connection sends nothing any more",
        ),
        "reach",
        "hands a connection to process",
    ),
    handed_out(
        "handed-out-second",
        "the same, in the second control message",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" hand_out_second"#,
    ),
    handed_out(
        "handed-out-behind",
        "the same, behind 40 other descriptors",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" hand_out_behind"#,
    ),
    handed_out(
        "handed-out-mmsg",
        "the same, by `sendmmsg`, with the second message",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" hand_out_mmsg"#,
    ),
    said(
        ending(
            stopped(
                "sendmmsg",
                "calls by `sendmmsg`, without TLS",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" sendmmsg"#,
            ),
            End::Reported,
            "by its bytes, which are not read",
        ),
        "uncovered",
        "cannot be read",
    ),
    said(
        ending(
            stopped(
                "io-uring",
                "calls by io_uring, without TLS",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" io_uring"#,
            ),
            End::Reported,
            "by its bytes, which are not read",
        ),
        "uncovered",
        "cannot be read",
    ),
    said(
        stopped(
            "relabel",
            "root writes a label with another budget on its own cgroup",
            r#"exec /usr/bin/python3 "$SCRIPTS/others.py" relabel"#,
        ),
        "reach",
        "changes the label of a cgroup",
    ),
    said(
        stopped("clock", "root sets the clock", r#"exec /usr/bin/python3 "$SCRIPTS/others.py" clock"#),
        "reach",
        "sets the clock",
    ),
    said(
        stopped(
            "taken",
            "takes a connection of a process outside of the task (`pidfd_getfd`)",
            r#"exec /usr/bin/python3 "$SCRIPTS/others.py" take_connection"#,
        ),
        "reach",
        "takes a descriptor of process",
    ),
    said(
        ending(
            stopped(
                "trace",
                "attaches to a process outside of the task, which could act for it",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" trace"#,
            ),
            End::Reported,
            "what that process does is not the task's",
        ),
        "reach",
        "attaches to process",
    ),
    said(
        ending(
            stopped(
                "write-memory",
                "writes into a process outside of the task",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" write_memory"#,
            ),
            End::Reported,
            "what that process does is not the task's",
        ),
        "reach",
        "writes into process",
    ),
    said(
        ending(
            stopped(
                "start-outside",
                "has a service outside of the task start a process (Docker, systemd)",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" start_outside"#,
            ),
            End::Reported,
            "what that process does is not the task's",
        ),
        "reach",
        "docker.sock, which can start processes",
    ),
    said(
        stopped(
            "unprobe",
            "makes the code of its TLS library writable, as to take a probe out",
            r#"exec /usr/bin/python3 "$SCRIPTS/others.py" unprobe"#,
        ),
        "reach",
        "makes code of a file writable",
    ),
    said(
        ending(
            stopped(
                "kernel-tls",
                "has the kernel encrypt (kTLS)",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" kernel_tls"#,
            ),
            End::Reported,
            "what goes that way is not read",
        ),
        "reach",
        "kTLS",
    ),
    stopped(
        "orders",
        "`tollgate approve`, `budget`, `resume` and `run` on itself, also by a child",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" orders"#,
    ),
    stopped(
        "orders-moved",
        "the same, after it moved to another cgroup",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" orders_moved"#,
    ),
    stopped(
        "orders-pids",
        "the same, from a pid namespace",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" orders_pid_namespace"#,
    ),
    nobody(stopped(
        "orders-fake-root",
        "the same, as root of a user namespace",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" orders_fake_root"#,
    )),
    stopped(
        "orders-orphaned",
        "the same, on a connection of a process that has ended",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" orders_orphaned"#,
    ),
    nobody(stopped(
        "state",
        "writes to the daemon's socket, ledger and lock",
        r#"exec /usr/bin/python3 "$SCRIPTS/others.py" state"#,
    )),
    stopped(
        "tiny",
        "4,000 connections that come and go meanwhile",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" tiny"#,
    ),
    roomy(stopped(
        "flood",
        "60 MB that look like a request meanwhile",
        r#"exec /usr/bin/python3 "$SCRIPTS/wires.py" flood"#,
    )),
    said(
        ending(
            stopped(
                "open-gate",
                "root opens its own gate by `bpf(2)`",
                r#"exec /usr/bin/python3 "$SCRIPTS/others.py" open_gate"#,
            ),
            End::Reported,
            "the task is killed when that is seen",
        ),
        "tampered",
        "credits",
    ),
    said(
        stopped("stop-daemon", "root stops the daemon", r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" stop_daemon"#),
        "reach",
        "sends signal 19 to this daemon",
    ),
    said(
        stopped("kill-daemon", "root kills the daemon", r#"exec /usr/bin/python3 "$SCRIPTS/signals.py" kill_daemon"#),
        "reach",
        "sends signal 9 to this daemon",
    ),
];

/// A library is another one with each copy.
const COPIED: &str = r#"/usr/bin/python3 -c "$BODY" > "$DIR/body.json"; echo copies > "$TRIED"
for round in $(seq 20); do
    mkdir "$DIR/$round" && cp /usr/lib/x86_64-linux-gnu/libssl.so.3 "$DIR/$round/"
    LD_LIBRARY_PATH="$DIR/$round" curl -sS --noproxy '*' --cacert "$CA" -H "x-test-client: $CLIENT" -H 'content-type: application/json' \
        --data-binary "@$DIR/body.json" -o /dev/null "$BASE/v1/chat/completions"
done"#;
