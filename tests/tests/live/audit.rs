//! The audit chain, and what tampering does to it.

use std::{
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use tollgate_tests::{
    Client,
    daemon::{Daemon, bounded},
};

use super::{Bench, CAP, assert_exit, text};

fn audit(daemon: &Daemon, state: &Path, arguments: &[&str]) -> Output {
    let program = daemon.daemon_command().get_program().to_owned();
    bounded(Command::new(program).arg("audit").args(arguments).arg("--state-dir").arg(state))
}

/// As somebody with the rights to the file does it: with another program, and without the triggers in the way.
fn tamper(state: &Path, sql: &str) {
    let script = "import sqlite3, sys\n\
                  ledger = sqlite3.connect(sys.argv[1])\n\
                  for (name,) in ledger.execute(\"SELECT name FROM sqlite_master WHERE type = 'trigger'\").fetchall():\n\
                  \x20   ledger.execute(f'DROP TRIGGER {name}')\n\
                  ledger.executescript(sys.argv[2])\n\
                  ledger.commit()\n";
    let output = bounded(Command::new("/usr/bin/python3").args(["-c", script]).arg(state.join("ledger.db")).arg(sql));
    assert_exit(&output, 0);
}

fn copy(state: &Path) -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    for file in ["ledger.db", "ledger.db-wal"] {
        if state.join(file).exists() {
            std::fs::copy(state.join(file), directory.path().join(file)).expect("a copy");
        }
    }
    directory
}

#[test]
fn tampering_breaks_the_chain_where_it_was_done() {
    let mut bench = Bench::new();
    let ask = json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let client = Client::loop_agent(&bench.server, "audited").asking(&ask);
    assert_exit(&bench.daemon.run("audited", CAP, &client), 137);
    let client = Client::trouble(&bench.server, "looped").with(&["--mode", "same-prompt", "--number", "6"]);
    assert_exit(&bench.daemon.run("looped", CAP, &client), 0);
    let status = bench.daemon.status();
    assert!(status.daemon.ready);
    let state = bench.daemon.state_dir();

    // Whole, while the daemon runs and after it.
    let output = audit(&bench.daemon, &state, &["verify", "--json"]);
    assert_exit(&output, 0);
    let whole: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(whole["whole"] == true && whole["links"].as_u64() >= Some(4), "{whole}");
    let anchors: Vec<String> = bench
        .daemon
        .alerts()
        .iter()
        .filter_map(|alert| Some(alert["TOLLGATE_AUDIT_HEAD"].as_str()?.to_owned()))
        .collect();
    assert!(bench.daemon.terminate().success());
    let head = whole["head"].as_str().expect("a head");
    assert!(!anchors.is_empty(), "alerts have an anchor");
    for anchor in anchors.iter().map(String::as_str).chain([head]) {
        assert_exit(&audit(&bench.daemon, &state, &["verify", "--head", anchor]), 0);
    }
    let list = audit(&bench.daemon, &state, &["--task", "audited", "--json"]);
    assert_exit(&list, 0);
    let rows: Vec<Value> = text(&list.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(rows.iter().any(|row| row["what"] == "kill"), "{rows:#?}");
    let kill = rows.iter().find(|row| row["what"] == "kill").expect("the kill")["link"].as_u64().expect("a link");

    let cases = [
        (
            "UPDATE decisions SET reason = 'nothing happened' WHERE decision = 'kill'",
            Some(kill),
            "does not fit decision",
        ),
        ("DELETE FROM decisions WHERE decision = 'kill'", Some(kill), "which is gone"),
        ("DELETE FROM audit WHERE link = 2", Some(2), "link 2 is missing"),
        ("INSERT INTO orders (at, account, what, actor) VALUES ('2026', 'audited', '{}', 'me')", None, "in no link"),
        ("UPDATE incidents SET evidence = '{}'", None, "does not fit incident"),
    ];
    for (sql, link, expected) in cases {
        let changed = copy(&state);
        tamper(changed.path(), sql);
        let output = audit(&bench.daemon, changed.path(), &["verify", "--json"]);
        assert_exit(&output, 65);
        let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        println!("{sql}\n  {}", said["broken"]);
        assert_eq!(said["whole"], false, "{sql}");
        assert!(said["broken"].as_str().is_some_and(|broken| broken.contains(expected)), "{sql}: {said}");
        if let Some(link) = link {
            assert_eq!(said["link"], link, "{sql}: {said}");
        }
    }
    // What is cut off at the end is whole by itself, and is not by an anchor.
    let cut = copy(&state);
    tamper(
        cut.path(),
        "DELETE FROM decisions WHERE id IN (SELECT row FROM audit WHERE kind = 'decision' AND link > 2); DELETE FROM orders; \
         DELETE FROM incidents; DELETE FROM audit WHERE link > 2",
    );
    assert_exit(&audit(&bench.daemon, cut.path(), &["verify"]), 0);
    let output = audit(&bench.daemon, cut.path(), &["verify", "--head", head]);
    assert_exit(&output, 65);
    assert!(text(&output.stdout).contains("never had the head"), "{}", text(&output.stdout));
}
