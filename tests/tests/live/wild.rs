//! What programs do with TLS connections that no SDK does.

use std::{fs, process::Command};

use serde_json::json;
use tollgate_tests::{Client, build_tree, daemon::bounded};

use super::{
    AMPLE, Bench, assert_exit,
    metering::{assert_metered, assert_metered_as},
    python, text,
};

#[test]
fn connections_that_threads_share_and_children_inherit_are_metered() {
    let bench = Bench::new();
    for mode in ["threads", "fork", "resume"] {
        let task = format!("wild-{mode}");
        let client = Client::script(python().interpreter(), "wild.py", &bench.server, &task).with(&[mode]);
        assert_exit(&bench.daemon.run(&task, AMPLE, &client), 0);
        assert_eq!(bench.server.truth_of(&task).len(), 8, "{mode}");
        // What a child sends on its parent's connection is metered, and not counted among what is read: the account is the process'.
        match mode {
            "fork" => assert_metered_as(&bench, &task, &bench.server.truth_of(&task)),
            _ => assert_metered(&bench, &task),
        };
    }
    bench.assert_lossless();
}

/// What is looked at and then taken has come once.
#[test]
fn what_is_peeked_at_counts_once() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().expect("a directory");
    let (program, request) = (directory.path().join("peek"), directory.path().join("request"));
    let mut compile = Command::new("gcc");
    let source = build_tree::scripts().join("wild/peek.c");
    let output = bounded(compile.arg("-O1").arg("-o").arg(&program).arg(source).args(["-lssl", "-lcrypto"]));
    assert!(output.status.success(), "{}", text(&output.stderr));
    let body = json!({"model": "gpt-4o-mini", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Say something."}]})
    .to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nx-test-client: peek\r\nConnection: close\r\n\
                Content-Type: application/json";
    fs::write(&request, format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())).expect("a request");
    let mut command = bench.daemon.command(&["run", "--task", "peek", "--budget", AMPLE, "--"]);
    command.arg(&program).arg(bench.server.addr.port().to_string()).arg(&bench.server.ca_path).arg(&request);
    assert_exit(&bounded(&mut command), 0);
    assert_eq!(bench.server.truth_of("peek").len(), 1);
    assert_metered(&bench, "peek");
    bench.assert_lossless();
}
