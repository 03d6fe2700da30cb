//! Plaintext whose bytes lie in several places and are sent by one system call: the request is decided by all of them.

use tollgate_tests::{Client, Config, Daemon, ModelServer, Seen, daemon::Options};

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
        assert!(bench.daemon.alerts().iter().any(is_said), "{how}: nobody is told: {:#?}", bench.daemon.alerts());
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
