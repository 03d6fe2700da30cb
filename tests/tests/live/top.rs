//! `tollgate top` at a real terminal.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use tollgate_tests::{
    Client,
    daemon::{LIMIT, Options, until},
    pty::Terminal,
};

use super::{Bench, assert_exit, text};
use crate::Daemon;

fn top(daemon: &Daemon, environment: &[(&str, &str)]) -> Terminal {
    let socket = daemon.socket().display().to_string();
    Terminal::start(daemon.binary(), &["top", "--socket", &socket], environment)
}

fn state(daemon: &Daemon, task: &str) -> String {
    daemon.status().tasks.into_iter().find(|line| line.task == task).map(|line| line.state).unwrap_or_default()
}

#[track_caller]
fn wait_for_state(daemon: &Daemon, task: &str, wanted: &str) {
    let reached = until(|| (state(daemon, task) == wanted).then_some(()));
    assert!(reached.is_some(), "{task} is {} and not {wanted}", state(daemon, task));
}

#[test]
fn a_task_is_watched_paused_resumed_and_killed() {
    let bench = Bench::new();
    let task = "watched";
    let asks = json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let client = Client::loop_agent(&bench.server, task).asking(&asks).with(&["--persist", "--pause-ms", "100"]);
    let agent = bench.daemon.spawn(task, "5", &client);
    let mut top = top(&bench.daemon, &[("NO_COLOR", "1")]);
    top.wait_for("the task", |line| line.starts_with("> watched ") && line.contains(" running "));
    bench.server.wait_until(LIMIT, |truths| truths.len() >= 3).expect("calls");
    top.wait_for("its agent", |line| line.starts_with("python3") && line.contains(" calls, $"));

    top.press("p");
    wait_for_state(&bench.daemon, task, "paused");
    top.wait_for("its state", |line| line.starts_with("> watched ") && line.contains(" paused "));
    top.wait_for("what the order did", |line| line.starts_with("done: watched: in force: pause"));
    // Nothing is spent any more once the answers that were on their way have come.
    let same = until(|| {
        let spent = bench.daemon.report(task).spent_usd;
        let wanted = format!("spent ${spent} of $5, held ");
        top.lines().iter().any(|line| line.starts_with(&wanted)).then_some(spent)
    });
    let spent = same.unwrap_or_else(|| panic!("not what the report says: {:#?}", top.lines()));
    assert_ne!(spent, "0");
    assert!(!top.has_colours(), "NO_COLOR is respected");

    // Its last line is the last one, also after it was resized.
    top.resize(100, 30);
    assert!(until(|| top.lines().get(29)?.starts_with("q quit  ? help").then_some(())).is_some(), "{:#?}", top.lines());
    top.press("r");
    wait_for_state(&bench.daemon, task, "running");
    top.press("?");
    top.wait_for("help", |line| line.starts_with("k   kill: the task is stopped for good"));
    top.press(" k");
    top.wait_for("a question", |line| line == "kill watched for good? y/n");
    top.press("n");
    top.wait_for("a no", |line| line == "nothing was done");
    assert_eq!(state(&bench.daemon, task), "running");
    top.press("a1.25\r");
    top.wait_for("a question", |line| line == "let watched spend $1.25 more? y/n");
    top.press("y");
    top.wait_for("the new cap", |line| line.contains(" of $6.25, held"));
    top.press("ky");
    assert_exit(&agent.wait(), 137);
    wait_for_state(&bench.daemon, task, "stopped");
    top.wait_for("its end", |line| line.starts_with("> watched ") && line.contains(" stopped "));
    top.press("q");
    assert_eq!(top.wait(), 0);
    assert!(until(|| top.is_restored().then_some(())).is_some());

    let once = bench.daemon.tollgate(&["top", "--once"]);
    assert_exit(&once, 0);
    let report = bench.daemon.report(task);
    let (once, wanted) = (text(&once.stdout), format!("spent ${} of $6.25, held $0", report.spent_usd));
    assert!(once.contains(&wanted) && once.contains("> watched ") && !once.contains('\x1b'), "{wanted}: {once}");
    bench.assert_lossless();
}

#[test]
fn a_daemon_that_goes_and_comes_back_is_followed() {
    let mut daemon = Daemon::start(&Options::default());
    let mut top = top(&daemon, &[]);
    top.wait_for("no tasks", |line| line.contains("no tasks; start one with"));
    daemon.terminate();
    top.wait_for("its absence", |line| line.starts_with("DAEMON AWAY for "));
    let once = daemon.tollgate(&["top", "--once"]);
    assert_exit(&once, 69);
    let live = daemon.tollgate(&["top"]);
    assert_exit(&live, 1);
    assert!(text(&live.stderr).contains("needs a terminal"), "{live:?}");
    daemon.restart();
    assert!(until(|| top.lines().iter().all(|line| !line.contains("AWAY")).then_some(())).is_some());
    assert!(!top.is_restored(), "the screen is its own");
    kill(Pid::from_raw(i32::try_from(top.pid()).expect("a pid")), Signal::SIGTERM).expect("a signal");
    assert_eq!(top.wait(), 128 + 15);
    assert!(until(|| top.is_restored().then_some(())).is_some(), "the terminal is as it was");
}
