//! What was said is kept, listed, and told to other machines, whatever becomes of the daemon or the receiver.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use serde_json::Value;
use tollgate_tests::{
    Client, Config, Daemon,
    daemon::{Options, bounded, until},
    receiver::{Received, Receiver},
};

use super::{
    Bench, CAP, assert_exit,
    prometheus::{samples, scrape},
    text,
};

const SECRET: &str = "a secret of the receiver";

fn alerts(daemon: &Daemon, arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(daemon.binary());
    let output = bounded(command.args(["alerts", "--json", "--state-dir"]).arg(daemon.state_dir()).args(arguments));
    assert_exit(&output, 0);
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// What a person reading the journal has seen.
fn said(daemon: &Daemon) -> BTreeSet<(String, String)> {
    let alerts = daemon.alerts();
    let word = |alert: &Value, key: &str| alert[key].as_str().unwrap_or_default().to_owned();
    let all = alerts.iter().map(|alert| (word(alert, "TOLLGATE_DECISION"), word(alert, "MESSAGE")));
    // Where the chain ends is said of the ledger, not by it.
    all.filter(|(kind, _)| kind != "audit-head").collect()
}

#[test]
fn what_was_said_is_listed() {
    let bench = Bench::new();
    let mut follow = Command::new(bench.daemon.binary());
    follow.args(["alerts", "--follow", "--kind", "kill", "--state-dir"]).arg(bench.daemon.state_dir());
    let mut follow = follow.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().expect("following");
    let (sender, lines) = mpsc::channel();
    let stdout = follow.stdout.take().expect("piped");
    let reader = thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // Nobody waits for more.
            sender.send(line).ok();
        }
    });

    for task in ["first", "second"] {
        let client = Client::loop_agent(&bench.server, task);
        assert_exit(&bench.daemon.run(task, CAP, &client), 137);
        let line = lines.recv_timeout(Duration::from_secs(10)).expect("a kill");
        assert!(line.contains(&format!(" kill {task}: ")) && line.contains(" of $0.05)"), "{line}");
    }
    follow.kill().expect("ending it");
    follow.wait().expect("its end");
    reader.join().expect("the reader");
    assert_eq!(lines.try_iter().count(), 0, "nothing but kills is followed");

    let all = until(|| {
        let all = alerts(&bench.daemon, &[]);
        let kept = |alert: &Value| {
            (alert["kind"].as_str().unwrap_or_default().into(), alert["message"].as_str().unwrap_or_default().into())
        };
        (all.iter().map(kept).collect::<BTreeSet<(String, String)>>() == said(&bench.daemon)).then_some(all)
    });
    let all = all.unwrap_or_else(|| {
        panic!("{:#?}\nwas said, and kept is\n{:#?}", said(&bench.daemon), alerts(&bench.daemon, &[]))
    });
    let count = |kind: &str| all.iter().filter(|alert| alert["kind"] == kind).count();
    assert_eq!((count("warn"), count("kill"), count("killed")), (6, 2, 2), "{all:#?}");
    let ids: Vec<i64> = all.iter().filter_map(|alert| alert["id"].as_i64()).collect();
    assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");

    let second = alerts(&bench.daemon, &["--task", "second", "--since", "1h"]);
    assert_eq!(second.len(), all.iter().filter(|alert| alert["task"] == "second").count());
    assert!(!second.is_empty() && alerts(&bench.daemon, &["--since", "2100-01-01T00:00:00Z"]).is_empty());
    assert_eq!(alerts(&bench.daemon, &["--kind", "kill", "--task", "first"])[0]["cap_usd"], "0.05");
}

/// By another implementation.
fn is_signed(received: &Received) -> bool {
    let script = "import hashlib, hmac, sys, time\n\
                  secret, header, body = sys.argv[1:]\n\
                  parts = dict(part.split('=', 1) for part in header.split(','))\n\
                  code = hmac.new(secret.encode(), (parts['t'] + '.' + body).encode(), hashlib.sha256).hexdigest()\n\
                  sys.exit(0 if hmac.compare_digest(code, parts['v1']) and abs(time.time() - int(parts['t'])) < 300 else 1)";
    let header = received.header("x-tollgate-signature").unwrap_or_default();
    let mut python = Command::new("/usr/bin/python3");
    bounded(python.args(["-c", script, SECRET, header, &received.body])).status.success()
}

#[test]
fn webhooks_are_told_whatever_comes_between() {
    // More refusals than there can be attempts before the daemon is killed.
    let receiver = Receiver::start(&[503; 50]).expect("a receiver");
    let chat = Receiver::start(&[]).expect("a receiver");
    let directory = tempfile::tempdir().expect("a directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, format!("{SECRET}\n")).expect("a file");
    let config = format!(
        "[[webhook]]\nname = \"pager\"\nurl = \"{}/hook\"\nca_file = \"{}\"\nsecret_file = \"{}\"\nkinds = [\"kill\", \"killed\"]\n\
         [[webhook]]\nname = \"chat\"\nurl = \"{}/chat\"\nca_file = \"{}\"\nformat = \"slack\"\nkinds = [\"warn\"]\n\
         [[webhook]]\nname = \"stranger\"\nurl = \"{}/never\"\nkinds = [\"warn\"]\n",
        receiver.base_url,
        receiver.ca_path.display(),
        secret.display(),
        chat.base_url,
        chat.ca_path.display(),
        chat.base_url
    );
    let mut bench = Bench::with_options(Config::default(), &Options { config: Some(config) });
    let client = Client::loop_agent(&bench.server, "noisy");
    assert_exit(&bench.daemon.run("noisy", CAP, &client), 137);
    let tried = until(|| (receiver.received().len() >= 2).then(|| receiver.received()));
    let tried = tried.unwrap_or_else(|| panic!("it is not tried again: {:?}", receiver.received()));
    assert!(tried.iter().all(|attempt| attempt.status == 503 && attempt.json()["kind"] == "kill"), "{tried:#?}");

    // Others are told meanwhile, as it is written there.
    let warned = until(|| (chat.received().len() == 3).then(|| chat.received()));
    let warned = warned.unwrap_or_else(|| panic!("three warnings: {:#?}", chat.received()));
    for warning in &warned {
        let told = warning.json();
        let told = told["text"].as_str().unwrap_or_else(|| panic!("no text: {told}"));
        assert!(warning.path == "/chat" && told.starts_with("*warn* noisy: "), "{told}");
        assert_eq!(warning.header("x-tollgate-signature"), None, "nothing to sign with");
    }

    bench.daemon.kill9();
    let before = receiver.received().len();
    receiver.refuse(&[500, 429]);
    bench.daemon.restart();
    let taken = || receiver.received().into_iter().filter(|attempt| attempt.status == 200).collect::<Vec<_>>();
    let both = until(|| (taken().len() >= 2).then(taken));
    let both = both.unwrap_or_else(|| panic!("not both are taken: {:#?}", receiver.received()));
    let kinds: Vec<Value> = both.iter().map(|attempt| attempt.json()["kind"].clone()).collect();
    assert_eq!(kinds, ["kill", "killed"], "in order, and once each");
    let kill = both[0].json();
    assert_eq!((&kill["id"], &kill["task"], &kill["missed"]), (&tried[0].json()["id"], &"noisy".into(), &0.into()));
    assert_eq!((&kill["cap_usd"], &kill["message_id"]), (&CAP.into(), &"b0d2e9f46a7c4b0f8c15d3a9e7f2c622".into()));
    assert_eq!(receiver.received()[before..].iter().filter(|attempt| attempt.status != 200).count(), 2);
    for attempt in receiver.received() {
        assert!(is_signed(&attempt), "{attempt:#?}");
        assert_eq!(attempt.header("x-tollgate-alert"), Some(attempt.json()["id"].to_string().as_str()));
    }

    // What was taken is not told again, and a stranger's certificate is not trusted.
    let stderr = bench.daemon.stderr().join("\n");
    assert!(stderr.contains("webhook stranger: alert") && !stderr.contains("/never"), "{stderr}");
    assert!(bench.daemon.terminate().success());
    bench.daemon.restart();
    // What the receiver refuses as it is, does not keep the next one from being told, which says so; and it is not gone.
    receiver.refuse(&[400, 400, 400]);
    let client = Client::loop_agent(&bench.server, "again");
    assert_exit(&bench.daemon.run("again", CAP, &client), 137);
    let more = until(|| (taken().len() >= 3).then(taken));
    let more = more.unwrap_or_else(|| panic!("not told of the second task: {:#?}", receiver.received()));
    let told = more[2].json();
    assert_eq!((&told["kind"], &told["task"], &told["missed"]), (&"killed".into(), &"again".into(), &1.into()));
    assert_eq!(taken().len(), 3, "{:#?}", taken());
    assert_eq!(alerts(&bench.daemon, &["--kind", "kill", "--task", "again"]).len(), 1);
    let said = scrape(&bench);
    let found = samples(&said);
    assert_eq!(found["tollgate_webhook_lost_total{webhook=\"pager\"}"], 1.0, "{said}");
    assert_eq!(found["tollgate_webhook_sent_total{webhook=\"pager\"}"], 1.0, "{said}");
    assert_eq!(found["tollgate_webhook_queue{webhook=\"pager\"}"], 0.0, "{said}");
    assert!(chat.received().iter().all(|attempt| attempt.path == "/chat"), "{:#?}", chat.received());
}

#[test]
fn a_webhook_without_its_secret_is_no_webhook() {
    let bench = Bench::new();
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("tollgate.toml");
    std::fs::write(&config, "[[webhook]]\nurl = \"http://hooks.example/s3cret\"\n").expect("a file");
    let check = || bounded(Command::new(bench.daemon.binary()).args(["daemon", "--check", "--config"]).arg(&config));
    let output = check();
    assert_exit(&output, 78);
    assert!(text(&output.stderr).contains("webhook 1: url must begin with https://"), "{output:?}");
    std::fs::write(&config, "[[webhook]]\nurl = \"https://hooks.example/s3cret\"\nsecret_file = \"/nowhere\"\n")
        .expect("a file");
    let output = check();
    assert_exit(&output, 78);
    let said = text(&output.stderr);
    assert!(said.contains("webhook hooks.example: cannot read /nowhere") && !said.contains("s3cret"), "{said}");
}

/// An agent that asks again and again is said once, and then with how often: also when it has given up.
#[test]
fn no_refusal_is_hidden() {
    let config = "[budget]\ndeny_models = [\"gpt-4.1*\"]";
    let bench = Bench::with_options(Config::default(), &Options { config: Some(config.into()) });
    let client = Client::loop_agent(&bench.server, "stubborn");
    let client = client.with(&["--model", "gpt-4.1", "--calls", "6", "--persist"]);
    assert_exit(&bench.daemon.run("stubborn", CAP, &client), 0);
    let refused = || alerts(&bench.daemon, &["--kind", "refused", "--task", "stubborn"]);
    assert_eq!(refused().len(), 1, "{:#?}", refused());
    let both = until(|| (refused().len() >= 2).then(refused)).expect("those after the first one are said");
    assert_eq!(both[1]["message"], "5 more requests since that was last said");
    let said = scrape(&bench);
    assert_eq!(samples(&said)["tollgate_refused_requests_total"], 6.0, "{said}");
    // Heads go before it is known which model they are for.
    assert!(bench.server.truth_of("stubborn").iter().all(|truth| truth.call.is_none()));
}
