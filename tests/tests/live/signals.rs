//! Trouble that no limit has seen: loops, runaway processes, money that burns too fast.

use std::time::Duration;

use serde_json::{Value, json};
use tollgate_tests::{
    Client, Truth,
    daemon::{LIMIT, until},
};

use super::{AMPLE, Bench, assert_exit, text};

/// A call of $0.0025 whose answer asks for a tool, always the same way.
fn tool_call() -> Value {
    json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 0, "reasoning_tokens": 0, "tool_call": true, "stall_ms": 30})
}

fn trouble(bench: &Bench, task: &str, mode: &str, number: u32) -> Client {
    Client::trouble(&bench.server, task).with(&["--mode", mode, "--number", &number.to_string()])
}

fn arrived(truths: &[Truth], task: &str) -> usize {
    truths.iter().filter(|truth| truth.is_of(task) && truth.call.is_some()).count()
}

/// Incidents of a task, as `tollgate incidents` tells them.
fn incidents(bench: &Bench, task: &str) -> Vec<Value> {
    let output = bench.daemon.tollgate(&["incidents", "--task", task, "--json"]);
    assert_exit(&output, 0);
    serde_json::from_slice(&output.stdout).expect("a JSON array")
}

#[track_caller]
fn incident(bench: &Bench, task: &str, trouble: &str) -> Value {
    let found = until(|| incidents(bench, task).into_iter().find(|incident| incident["trouble"] == trouble));
    found.unwrap_or_else(|| panic!("no `{trouble}` of {task}: {:#?}", incidents(bench, task)))
}

#[track_caller]
fn wait_for_state(bench: &Bench, task: &str, state: &str) {
    let state_now = || {
        let tasks = bench.daemon.status().tasks;
        tasks.into_iter().find(|it| it.task == task).map(|it| it.state).unwrap_or_default()
    };
    let reached = until(|| (state_now() == state).then_some(()));
    assert!(reached.is_some(), "{task} is {} and not {state}\n{:#?}", state_now(), bench.daemon.alerts());
}

fn alerts(bench: &Bench, task: &str, decision: &str) -> Vec<Value> {
    let mut all = bench.daemon.alerts();
    all.retain(|alert| alert["TOLLGATE_TASK"] == task && alert["TOLLGATE_DECISION"] == decision);
    all
}

/// The model asks for the same tool again and again: the task is paused, also after the daemon has died, until a person has looked.
#[test]
fn a_loop_of_tool_calls_is_paused() {
    let mut bench = Bench::new();
    let task = "tool-loop";
    let client = Client::loop_agent(&bench.server, task).asking(&tool_call());
    let options = ["--limit", "signal.loop=pause", "--limit", "signal.tool_repeats=4"];
    let agent = bench.daemon.spawn_with(task, AMPLE, &options, &client);
    wait_for_state(&bench, task, "paused");
    let seen = incident(&bench, task, "tool-loop");
    assert_eq!(seen["action"], "pause", "{seen}");
    let evidence = &seen["evidence"];
    assert_eq!(evidence["repeated"]["times"], 4, "{seen}");
    assert_eq!(evidence["repeated"]["fingerprint"].as_str().map(str::len), Some(16), "{seen}");
    let calls = evidence["last_calls"].as_array().expect("calls");
    assert_eq!(calls.len(), 4, "{seen}");
    assert_eq!(calls[3]["cost_usd"], "0.0025", "{seen}");
    assert!(evidence["processes"][0]["executable"].as_str().is_some_and(|path| path.contains("python")), "{seen}");
    assert_eq!(evidence["usd_per_hour"]["5_minutes"], "0.12", "four calls in five minutes: {seen}");
    let said = alerts(&bench, task, "incident");
    assert_eq!(said.len(), 1, "{said:#?}");
    assert!(said[0]["MESSAGE"].as_str().is_some_and(|text| text.starts_with("the same tool call 4 times")), "{said:?}");
    // The fifth may have left before the fourth answer was read.
    let before = arrived(&bench.server.truth(), task);
    assert!((4..=5).contains(&before), "{before} calls");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(arrived(&bench.server.truth(), task), before, "requests arrive while it is paused");
    assert!(text(&bench.daemon.tollgate(&["status"]).stdout).contains("the same tool call 4 times"));

    bench.daemon.kill9();
    bench.daemon.restart();
    wait_for_state(&bench, task, "paused");
    assert_eq!(arrived(&bench.server.truth(), task), before, "a restart is no pardon");

    // Who resumes it has looked at it: it takes as many again.
    assert_exit(&bench.daemon.tollgate(&["resume", task]), 0);
    bench.server.wait_until(LIMIT, |truths| arrived(truths, task) >= before + 3).expect("it goes on");
    wait_for_state(&bench, task, "paused");
    assert_exit(&bench.daemon.tollgate(&["kill", task]), 0);
    assert_exit(&agent.wait(), 137);
}

/// The same question is a loop, too; different ones are none.
#[test]
fn the_same_prompt_again_and_again_is_said_once() {
    let bench = Bench::new();
    let limit = ["--limit", "signal.prompt_repeats=5"];
    let output =
        bench.daemon.run_with("prompt-loop", AMPLE, &limit, &trouble(&bench, "prompt-loop", "same-prompt", 12));
    assert_exit(&output, 0);
    let seen = incident(&bench, "prompt-loop", "prompt-loop");
    assert_eq!((&seen["action"], &seen["evidence"]["repeated"]["times"]), (&json!("warn"), &json!(5)), "{seen}");
    assert_eq!(incidents(&bench, "prompt-loop").len(), 1, "said once, not eight times");

    let client = Client::loop_agent(&bench.server, "no-loop").with(&["--calls", "12"]);
    assert_exit(&bench.daemon.run_with("no-loop", AMPLE, &limit, &client), 0);
    bench.daemon.report_when("no-loop", |report| report.calls >= 12);
    assert_eq!(incidents(&bench, "no-loop"), Vec::<Value>::new());
    // What was asked is nowhere, and the fingerprint of the same words is another one elsewhere.
    let ledger = std::fs::read(bench.daemon.state_dir().join("ledger.db")).expect("the ledger");
    let wal = std::fs::read(bench.daemon.state_dir().join("ledger.db-wal")).unwrap_or_default();
    let words = b"what is the answer";
    assert!(![ledger, wal].iter().any(|file| file.windows(words.len()).any(|window| window == words)));
}

#[test]
fn programs_that_run_themselves_and_many_children_are_said() {
    let bench = Bench::new();
    let options = ["--limit", "signal.recursion_depth=5"];
    assert_exit(&bench.daemon.run_with("recursion", AMPLE, &options, &trouble(&bench, "recursion", "recurse", 8)), 0);
    let seen = incident(&bench, "recursion", "recursion");
    assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains("runs itself 6 levels deep")), "{seen}");
    let processes = seen["evidence"]["processes"].as_array().expect("processes");
    assert!(processes.len() >= 6, "{seen}");
    assert!(processes.iter().any(|process| process["parent"] == processes[0]["pid"]), "{seen}");

    let options = ["--limit", "signal.fan_out_started=50", "--limit", "signal.fan_out_seconds=60"];
    assert_exit(&bench.daemon.run_with("fan-out", AMPLE, &options, &trouble(&bench, "fan-out", "spawn", 120)), 0);
    let seen = incident(&bench, "fan-out", "fan-out");
    assert!(seen["reason"].as_str().is_some_and(|reason| reason.contains("started 50 children")), "{seen}");
    assert_eq!(incidents(&bench, "fan-out").len(), 1);
}

#[test]
fn money_that_burns_too_fast_is_throttled() {
    let bench = Bench::new();
    let task = "burn";
    // $0.0035 a call: faster than $1 an hour from the fifth call on, and then one in 250 ms.
    let ask = json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let options = [
        "--limit",
        "signal.burn=throttle=50.4",
        "--limit",
        "signal.burn_usd_per_hour=1",
        "--limit",
        "signal.burn_long_seconds=60",
        "--limit",
        "signal.burn_short_seconds=8",
    ];
    let client = Client::loop_agent(&bench.server, task).asking(&ask).with(&["--calls", "17"]);
    assert_exit(&bench.daemon.run_with(task, AMPLE, &options, &client), 0);
    let seen = incident(&bench, task, "burn-rate");
    assert_eq!(seen["action"], "throttle=50.4", "{seen}");
    assert_eq!(alerts(&bench, task, "throttle").len(), 1);
    let truths = bench.server.truth_of(task);
    let late: Vec<u64> = truths.iter().skip(6).map(|truth| truth.arrived_us).collect();
    let per_call = (late[late.len() - 1] - late[0]) / (late.len() as u64 - 1);
    println!("a call every {} ms", per_call / 1000);
    assert!((230_000..1_000_000).contains(&per_call), "{per_call} µs from call to call");
}

/// A task that costs far more than those of its workflow before it, also after a restart.
#[test]
fn a_task_out_of_line_with_its_workflow_is_said() {
    let mut bench = Bench::new();
    let cheap = json!({"input_tokens": 100, "cached_tokens": 0, "output_tokens": 10, "reasoning_tokens": 0});
    let options = ["--workflow", "nightly", "--limit", "signal.outlier_tasks=5"];
    let run = |bench: &Bench, task: &str, calls: &str| {
        let client = Client::loop_agent(&bench.server, task).asking(&cheap).with(&["--calls", calls]);
        assert_exit(&bench.daemon.run_with(task, AMPLE, &options, &client), 0);
        let ended = until(|| (bench.daemon.report(task).state == "ended").then_some(()));
        assert!(ended.is_some(), "{task} has not ended");
    };
    for calls in ["2", "3", "4", "5", "6"] {
        run(&bench, &format!("usual-{calls}"), calls);
    }
    bench.daemon.kill9();
    bench.daemon.restart();
    run(&bench, "in-line", "7");
    assert_eq!(incidents(&bench, "in-line"), Vec::<Value>::new());
    run(&bench, "dear", "12");
    let seen = incident(&bench, "dear", "outlier");
    assert!(
        seen["reason"].as_str().is_some_and(|reason| reason.contains("tasks of its workflow cost about $")),
        "{seen}"
    );
}
