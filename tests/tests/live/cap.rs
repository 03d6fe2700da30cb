//! After the cap, no further request leaves the host.

use std::time::Duration;

use serde_json::json;
use tollgate_tests::{
    Client, Config, Report, Seen, Truth,
    clients::{Curl, matrix, programs},
    daemon::{Options, bounded},
    model_server::Api,
    reference_price::{self, PicoUsd},
    report::Call,
};

use super::{Bench, CAP, assert_exit, assert_usd, cap, python, text};

/// What was billed before this moment.
fn billed_before(truths: &[Truth], moment_us: u64) -> PicoUsd {
    truths.iter().filter(|truth| truth.ended_us.is_some_and(|ended| ended <= moment_us)).map(Truth::cost).sum()
}

/// No request has arrived once the cap was reached, and less than one call was spent above it.
#[track_caller]
pub fn assert_capped(truths: &[Truth]) {
    for truth in truths {
        let before = billed_before(truths, truth.arrived_us);
        assert!(before < cap(), "request {} arrived when {before} pico-USD had been billed: {truth:?}", truth.number);
    }
    let spent: PicoUsd = truths.iter().map(Truth::cost).sum();
    let largest = truths.iter().map(Truth::cost).max().unwrap_or_default();
    assert!(spent < cap() + largest, "{spent} pico-USD spent, {largest} of it by the largest call");
}

/// The report says how much, by whom, and why the task was stopped.
#[track_caller]
fn assert_explained(bench: &Bench, task: &str, seen: &[Seen]) -> Report {
    let report = bench.daemon.report_when(task, |report| report.state == "stopped" && report.held() == 0);
    assert_eq!((&*report.task, &*report.state), (task, "stopped"));
    assert_eq!(report.cap_usd.as_deref(), Some(CAP));
    let stopped = report.stopped.as_ref().expect("why it was stopped");
    assert_eq!(stopped.decision, "kill");
    assert!(stopped.reason.contains(CAP), "the reason names the cap: {}", stopped.reason);
    assert!(!stopped.at.is_null());
    assert!(!report.models.is_empty() && !report.processes.is_empty(), "{report:?}");
    assert_usd(report.held(), 0, "held after the end");
    assert_usd(report.call_list.iter().map(Call::cost).sum(), report.spent(), "the calls together");

    // What the client has read to its end is known exactly; a call that was killed in flight, as far as it was read.
    // One that comes after the cap finds that it cannot connect.
    for answer in seen.iter().filter(|answer| answer.error.is_none()) {
        let id = answer.id.as_deref().unwrap_or_else(|| panic!("{answer:?}"));
        let charged = report.call(id).unwrap_or_else(|| panic!("{id} is missing from {report:?}"));
        assert_eq!((&*charged.basis, Some(charged.usage)), ("measured", answer.usage), "{id}");
        assert_usd(charged.cost(), reference_price::cost(&charged.model, &charged.usage), id);
    }
    report
}

#[track_caller]
pub fn run_to_the_cap(bench: &Bench, task: &str, client: &Client) -> Report {
    let output = bench.daemon.run(task, CAP, client);
    assert_exit(&output, 137);
    let stderr = text(&output.stderr);
    let reason = stderr.lines().last().unwrap_or_default();
    assert!(reason.contains(CAP) && reason.contains(task), "the last line on stderr says why: {stderr}");
    assert_capped(&bench.server.truth_of(task));
    let seen = Seen::lines(&output.stdout);
    assert!(seen.len() > 3, "it came to the cap in several calls: {seen:?}");
    let report = assert_explained(bench, task, &seen);
    let alerts = bench.daemon.alerts();
    let kills = alerts.iter().filter(|alert| alert["TOLLGATE_TASK"] == task && alert["TOLLGATE_DECISION"] == "kill");
    assert_eq!(kills.count(), 1, "one alert for one decision: {alerts:#?}");
    report
}

#[test]
fn a_looping_agent_is_stopped_at_its_cap() {
    let bench = Bench::new();
    for (task, arguments) in [("loop-stream", &[][..]), ("loop-whole", &["--no-stream"])] {
        let client = Client::loop_agent(&bench.server, task).with(arguments);
        run_to_the_cap(&bench, task, &client);
    }
    bench.assert_lossless();
}

#[test]
fn a_looping_sdk_is_stopped_at_its_cap() {
    let (python, bench) = (python(), Bench::new());
    for (task, client) in [
        ("openai-loop", Client::openai(&python, &bench.server, "openai-loop").with(&["--model", "gpt-4o"])),
        ("anthropic-loop", Client::anthropic(&python, &bench.server, "anthropic-loop")),
        ("openai-async-loop", Client::openai(&python, &bench.server, "openai-async-loop").with(&["--mode", "async"])),
    ] {
        let ask = json!({"input_tokens": 1200, "output_tokens": 120});
        run_to_the_cap(&bench, task, &client.asking(&ask).with(&["--calls", "2000", "--stream"]));
    }
    bench.assert_lossless();
}

/// Calls that start at the same moment may not all pass before one of them is charged. Every call costs the same here,
/// and the first ones have shown what.
#[test]
fn a_burst_does_not_outrun_the_cap() {
    let bench = Bench::with_server(Config { stall: Duration::from_millis(30), ..Config::default() });
    let same = json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let client = Client::loop_agent(&bench.server, "burst").asking(&same).with(&["--warm-up", "5", "--parallel", "8"]);
    let report = run_to_the_cap(&bench, "burst", &client);
    assert!(report.calls > 5, "{report:?}");
    bench.assert_lossless();
}

/// Streams of one HTTP/2 connection are requests like any others: each takes its credit when it starts, also when several start in one write.
#[test]
fn streams_of_one_connection_do_not_outrun_the_cap() {
    let bench = Bench::with_server(Config { stall: Duration::from_millis(30), ..Config::default() });
    let (task, same) =
        ("streams", json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0}));
    let run = |curl: &Curl| {
        let command = curl.command_line();
        let arguments = ["run", "--task", task, "--budget", CAP, "--"];
        let arguments: Vec<&str> = arguments.into_iter().chain(command.iter().map(String::as_str)).collect();
        bench.daemon.tollgate(&arguments)
    };
    let curl = |calls| Curl::new(&bench.server, task, Api::OpenaiChat, true, calls, &same).http("2");
    // The first ones show what a call costs.
    assert_exit(&run(&curl(3)), 0);
    assert_exit(&run(&curl(60).parallel(8)), 137);
    let truths = bench.server.truth_of(task);
    assert_capped(&truths);
    assert!(truths.len() > 10, "{truths:#?}");
    let connections: std::collections::BTreeSet<_> = truths.iter().map(|truth| truth.connection).collect();
    assert!(connections.len() < 4, "the streams share a connection: {connections:?}");
    bench.assert_lossless();
}

/// Where the gate is at the encryption of records, with many threads and connections.
#[test]
fn rustls_does_not_outrun_the_cap() {
    let bench = Bench::with_server(Config { stall: Duration::from_millis(30), ..Config::default() });
    let native = programs::native().expect("clients in Go and Rust");
    let directory = tempfile::tempdir().expect("a temporary directory");
    matrix::write_bodies(directory.path());
    let body = directory.path().join("chat-stream.json");
    let run = |calls: &str, connections: &str| {
        let mut command = bench.daemon.command(&["run", "--task", "rustls", "--budget", CAP, "--"]);
        command.arg(native.join("reqwest-aws-lc-stripped")).arg(&bench.server.base_url).arg(&bench.server.ca_path);
        bounded(command.arg(&body).args([calls, connections]))
    };
    // The first ones show what a call costs.
    assert_exit(&run("3", "1"), 0);
    assert_exit(&run("100", "8"), 137);
    let truths = bench.server.truth();
    assert_capped(&truths);
    assert!(truths.len() > 10, "{truths:#?}");
    assert_eq!(bench.daemon.report_when("rustls", |report| report.state == "stopped").held(), 0);
    bench.assert_lossless();
}

/// A stopped task stays stopped: what is started in it again is refused before it can spend.
#[test]
fn a_task_at_its_cap_cannot_go_on() {
    let bench = Bench::new();
    run_to_the_cap(&bench, "again", &Client::loop_agent(&bench.server, "again"));
    let arrived = bench.server.truth_of("again").len();
    let output = bench.daemon.run("again", CAP, &Client::loop_agent(&bench.server, "again").with(&["--calls", "1"]));
    assert!(!output.status.success(), "{}", text(&output.stdout));
    assert_eq!(bench.server.truth_of("again").len(), arrived, "no further request arrived");
}

/// What a call without a price costs is not known: it counts at its ceiling, so that the cap holds all the same, also after a restart. Nobody is
/// said to have spent that.
#[test]
fn calls_without_a_price_count_at_their_ceiling() {
    let mut bench = Bench::with_options(
        Config::default(),
        &Options { config: Some("[price]\nunpriced_ceiling = { input = \"15\", output = \"75\" }".into()) },
    );
    let ask = json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let client = Client::loop_agent(&bench.server, "unpriced").asking(&ask).with(&["--model", "house-blend-1"]);
    // A call counts $0.0225: the second one reaches this.
    let run = |bench: &Bench| bench.daemon.run("unpriced", "0.04", &client);
    let output = run(&bench);
    assert_exit(&output, 137);
    let report = bench.daemon.report_when("unpriced", |report| report.state == "stopped" && report.held() == 0);
    assert_eq!((report.calls, report.unpriced, report.spent()), (2, 2, 0), "{report:?}");
    assert_eq!(report.ceilings_usd, "0.045");
    let reason = report.stopped.expect("why it was stopped").reason;
    assert!(reason.contains("spent $0.045 ($0.045 of it the ceiling of calls without a price) of $0.04"), "{reason}");
    assert_eq!(bench.server.truth_of("unpriced").len(), 2);

    bench.daemon.terminate();
    bench.daemon.restart();
    assert!(!run(&bench).status.success());
    assert_eq!(bench.server.truth_of("unpriced").len(), 2, "what counted is remembered");
}
