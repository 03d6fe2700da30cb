//! Limits on what is counted beside money.

use std::time::Instant;

use serde_json::json;
use tollgate_tests::Client;

use super::{AMPLE, Bench, assert_exit};

/// Runs an agent into a limit; gives why it was stopped, and after how many seconds.
#[track_caller]
fn stopped_by(bench: &Bench, task: &str, limit: &str, client: &Client) -> (String, f64) {
    let began = Instant::now();
    let output = bench.daemon.run_with(task, AMPLE, &["--limit", limit, "--limit", "kill_grace_seconds=0"], client);
    let took = began.elapsed().as_secs_f64();
    assert_exit(&output, 137);
    let report = bench.daemon.report_when(task, |report| report.state == "stopped");
    (report.stopped.unwrap_or_else(|| panic!("{task} was not stopped")).reason, took)
}

fn trouble(bench: &Bench, task: &str, mode: &str, number: u32) -> Client {
    Client::trouble(&bench.server, task).with(&["--mode", mode, "--number", &number.to_string()])
}

fn count(bench: &Bench, task: &str, name: &str) -> u64 {
    let status = bench.daemon.status();
    let task = status.tasks.iter().find(|it| it.task == task).expect("the task");
    task.counts[name]
}

/// An agent that does nothing and makes no event is stopped by the clock.
#[test]
fn wall_time_ends_a_task_that_does_nothing() {
    let bench = Bench::new();
    let (reason, took) = stopped_by(&bench, "wall", "wall_seconds=2", &trouble(&bench, "wall", "sleep", 0));
    println!("stopped after {took:.2} s: {reason}");
    assert!(reason.ends_with("of 2000 ms of wall time"), "{reason}");
    assert!((2.0..6.0).contains(&took), "{took} s");
}

/// Processor time of children that have ended long ago counts.
#[test]
fn cpu_time_of_all_processes_is_counted() {
    let bench = Bench::new();
    let (reason, took) = stopped_by(&bench, "cpu", "cpu_seconds=2", &trouble(&bench, "cpu", "cpu", 0));
    println!("stopped after {took:.2} s: {reason}");
    assert!(reason.ends_with("of 2000 ms of CPU time"), "{reason}");
    let used = count(&bench, "cpu", "cpu_ms");
    assert!((2000..3500).contains(&used), "{used} ms");
    assert!(took > 1.9, "{took} s");
}

#[test]
fn sub_agents_are_processes_that_call_models() {
    let bench = Bench::new();
    let agents = |task| trouble(&bench, task, "agents", 4);
    let (reason, _) = stopped_by(&bench, "alive", "sub_agents=2", &agents("alive"));
    assert_eq!(reason, "3 of 2 sub-agents alive");
    let (reason, _) = stopped_by(&bench, "started", "sub_agents_started=1", &agents("started"));
    assert_eq!(reason, "2 of 1 sub-agents started");
    assert_eq!(count(&bench, "started", "agent_depth"), 1);
    // None of those who live on when it was stopped is counted as alive.
    assert_eq!(count(&bench, "alive", "sub_agents_alive"), 0);
    // Shells and children that call nobody are no agents.
    assert_exit(&bench.daemon.run("spawn", AMPLE, &trouble(&bench, "spawn", "spawn", 5)), 0);
    assert_eq!(count(&bench, "spawn", "sub_agents_started"), 0);
}

#[test]
fn calls_tokens_and_tools_are_counted() {
    let bench = Bench::new();
    let ask = json!({"input_tokens": 90, "cached_tokens": 0, "output_tokens": 10, "reasoning_tokens": 0});
    let agent = |task: &str| Client::loop_agent(&bench.server, task).asking(&ask);
    for (task, limit, expected, calls) in [
        ("requests", "requests=6", "6 of 6 requests", 6),
        ("model-calls", "model_calls=6", "6 of 6 model calls", 6),
        ("tokens", "tokens=500", "500 of 500 tokens", 5),
    ] {
        let (reason, _) = stopped_by(&bench, task, limit, &agent(task));
        let made = bench.server.truth_of(task).len();
        println!("{task}: {made} calls: {reason}");
        assert_eq!(reason, expected);
        assert_eq!(made, calls, "{task}");
    }
    // A tool that the model asks for, by its name.
    let ask =
        json!({"input_tokens": 90, "cached_tokens": 0, "output_tokens": 1, "reasoning_tokens": 0, "tool_call": true});
    let client = Client::loop_agent(&bench.server, "tool").asking(&ask);
    let (reason, _) = stopped_by(&bench, "tool", "tools={search=3}", &client);
    assert_eq!(reason, "4 of 3 calls of tool search");
    let made = bench.server.truth_of("tool").len();
    assert_eq!(made, 4, "no call was sent after the one that asked once too often");
}
