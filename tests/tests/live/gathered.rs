//! Plaintext whose bytes lie in several places and are sent by one system call: the request is decided by all of them.

use std::time::{Duration, Instant};

use tollgate_tests::{
    Client, Config, Daemon, ModelServer, Seen,
    daemon::{Options, until},
};

use super::{AMPLE, Bench, assert_exit, metering::assert_metered, plaintext::PRICES};

const WAYS: [&str; 5] = ["whole", "two", "writev", "many", "absent"];

fn bench(budget: &str) -> Bench {
    let server = ModelServer::start(Config { plain: true, ..Config::default() }).expect("starting the model server");
    Bench { daemon: Daemon::start(&Options { config: Some(format!("{budget}\n{PRICES}")) }), server }
}

fn client(bench: &Bench, how: &str, task: &str) -> Client {
    Client::script("/usr/bin/python3", "gathered.py", &bench.server, task).with(&["--how", how])
}

/// Which model is asked for is said by the body.
#[test]
fn what_a_rule_forbids_does_not_leave_in_pieces() {
    let bench = bench("[budget]\ndeny_models = [\"gpt-4o\"]");
    for how in WAYS {
        let task = format!("forbidden-{how}");
        let output = bench.daemon.run(&task, AMPLE, &client(&bench, how, &task));
        let seen = Seen::lines(&output.stdout);
        assert!(seen.iter().all(|seen| seen.status.is_none()), "{how}: it was answered: {seen:?}");
        assert_eq!(bench.server.truth_of(&task).len(), 0, "{how}: it arrived");
        let is_said = |alert: &serde_json::Value| {
            alert["TOLLGATE_TASK"] == *task && alert["MESSAGE"].to_string().contains("gpt-4o")
        };
        let said = until(|| bench.daemon.alerts().iter().any(is_said).then_some(()));
        assert!(said.is_some(), "{how}: nobody is told: {:#?}", bench.daemon.alerts());
    }
}

#[test]
fn what_comes_in_pieces_is_metered_to_the_token() {
    let bench = bench("[budget]\ndeny_models = [\"gpt-4o\"]");
    for how in WAYS {
        let task = format!("gathered-{how}");
        let client = client(&bench, how, &task).with(&["--model", "gpt-4o-mini", "--calls", "4"]);
        let output = bench.daemon.run(&task, AMPLE, &client);
        assert_exit(&output, 0);
        assert_eq!(Seen::lines(&output.stdout).len(), 4, "{how}");
        assert_metered(&bench, &task);
    }
}

/// Whoever keeps those waiting who look at his request harms nobody else, and is ended.
#[test]
fn memory_that_nobody_brings_keeps_no_other_task_waiting() {
    let bench = bench("");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("sending");
    let task = "never-brought";
    let client = Client::script("/usr/bin/python3", "userfault.py", &bench.server, task);
    let stuck = bench.daemon.spawn(task, AMPLE, &client.with(&["--file", &file.to_string_lossy()]));
    let sending = || std::fs::read_to_string(&file).unwrap_or_default().lines().count();
    until(|| (sending() == 8).then_some(())).expect("they are about to send");
    // The first call of a task is always held, so the engine has to decide it.
    for round in 0..3 {
        let task = format!("beside-{round}");
        let began = Instant::now();
        let output = bench.daemon.run(&task, AMPLE, &client_of(&bench, &task));
        let took = began.elapsed();
        assert_exit(&output, 0);
        println!("a task beside it took {took:?}");
        // Its start, its client's and one call.
        assert!(took < Duration::from_secs(2), "it waited for what another task keeps back: {took:?}");
    }
    stuck.wait();
    let is_said = |alert: &serde_json::Value| {
        alert["TOLLGATE_TASK"] == *task && alert["MESSAGE"].to_string().contains("its memory cannot be read")
    };
    let said = until(|| (bench.daemon.alerts().iter().filter(|alert| is_said(alert)).count() == 8).then_some(()));
    assert!(said.is_some(), "{:#?}", bench.daemon.alerts());
    assert_eq!(bench.server.truth_of(task).iter().filter(|truth| truth.call.is_some()).count(), 0);
}

fn client_of(bench: &Bench, task: &str) -> Client {
    Client::loop_agent(&bench.server, task).with(&["--calls", "1"])
}
