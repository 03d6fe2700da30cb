//! No hold is leaked by calls that are aborted at any point: the client is killed, closes or resets its connection, the server breaks off or is
//! gone, the daemon is killed and started again.

use std::{collections::HashMap, time::Duration};

use tollgate_tests::{
    Client, Config, ModelServer, Truth,
    daemon::{LIMIT, Running, until},
    model_server::State,
    reference_price::PicoUsd,
};

use super::{Bench, assert_exit};

/// More than all of this costs.
const AMPLE: &str = "1000";
/// Calls of all rounds together.
const CALLS: u64 = 900;

fn calls() -> u64 {
    std::env::var("TOLLGATE_HOLDS_CALLS").map_or(CALLS, |text| text.parse().expect("TOLLGATE_HOLDS_CALLS is a number"))
}

fn config(port: u16) -> Config {
    Config { port, chunk_tokens: 4, delay: Duration::from_millis(2), ..Config::default() }
}

fn start(bench: &Bench, task: &str, calls: u64, pause_ms: &str) -> Running {
    let client = Client::aborts(&bench.server, task).with(&["--calls", &calls.to_string(), "--pause-ms", pause_ms]);
    bench.daemon.spawn(task, AMPLE, &client)
}

/// What became of the calls; the rest of them was in flight when a process was killed.
fn ended(agent: Running, task: &str) -> HashMap<String, u64> {
    let output = wait(agent);
    let said: HashMap<String, u64> = serde_json::from_slice(&output.stdout).expect("a JSON object");
    println!("{task}: {said:?}");
    said
}

/// Ten thousand calls take longer than a test usually does.
fn wait(mut agent: Running) -> std::process::Output {
    let most = LIMIT * u32::try_from(calls() / 500 + 1).expect("not that many");
    let began = std::time::Instant::now();
    while agent.is_running() && began.elapsed() < most {
        std::thread::sleep(Duration::from_millis(100));
    }
    let output = agent.wait();
    assert_exit(&output, 0);
    output
}

fn begun(server: &ModelServer, task: &str, number: usize) {
    let begun = |truths: &[Truth]| truths.iter().filter(|truth| truth.is_of(task)).count() >= number;
    assert!(server.wait_until(LIMIT, begun).is_some(), "{task} makes no {number} calls");
}

/// Nothing is held, lent or in flight of a task that has ended.
#[track_caller]
fn assert_nothing_is_held(bench: &Bench, task: &str) {
    let is_clean = || {
        let status = bench.daemon.status();
        let task = status.tasks.iter().find(|it| it.task == task)?;
        let is_clean = task.state == "ended" && task.held_usd == "0" && task.lent_usd == "0";
        (is_clean && status.counters["holds"] == 0).then_some(())
    };
    let status = || {
        let status = bench.daemon.status();
        let task = status.tasks.into_iter().find(|it| it.task == task);
        (task, status.counters)
    };
    assert!(until(is_clean).is_some(), "{:#?}", status());
}

#[test]
fn no_hold_is_leaked_by_aborted_calls() {
    let mut bench = Bench::with_server(config(0));
    let port = bench.server.addr.port();
    let all = calls();

    let task = "aborted";
    let said = ended(start(&bench, task, all * 6 / 10, "0"), task);
    assert_nothing_is_held(&bench, task);
    let aborted: u64 = ["close", "reset", "broken-off", "killed", "head"].iter().map(|fate| said[*fate]).sum();
    assert!(aborted * 10 >= said["begun"] * 3, "a third is aborted: {said:?}");
    assert!(said["killed"] > 0 && said["failed"] == 0, "{said:?}");
    let report = bench.daemon.report(task);
    let charged: HashMap<&str, PicoUsd> =
        report.call_list.iter().filter_map(|call| Some((call.response_id.as_deref()?, call.cost()))).collect();
    let truths = bench.server.truth_of(task);
    let mut complete = 0;
    for truth in truths.iter().filter(|truth| truth.state == State::Complete && truth.call.is_some()) {
        let call = truth.call.as_ref().expect("a call");
        // The last bytes of some were never read by their client: these are told by what was.
        if let Some(metered) = report.call(&call.id).filter(|metered| metered.basis == "measured") {
            assert_eq!((metered.usage, metered.cost()), (call.billed, truth.cost()), "{}", call.id);
            complete += 1;
        }
    }
    assert!(complete >= said["complete"], "{complete} were measured, of {said:?}");
    // No charge is of a call that nobody made, and none is made twice.
    let ids: std::collections::HashSet<&str> =
        truths.iter().filter_map(|truth| truth.call.as_ref()).map(|call| call.id.as_str()).collect();
    assert!(charged.keys().all(|id| ids.contains(id)), "a charge for a call that was not made");
    let listed: PicoUsd = report.call_list.iter().map(tollgate_tests::report::Call::cost).sum();
    assert_eq!(report.spent(), listed, "what is spent is what was charged");
    let truth: PicoUsd = truths.iter().map(Truth::cost).sum();
    let read: PicoUsd = truths.iter().filter(|truth| truth.state == State::Complete).map(Truth::cost).sum();
    println!("charged {listed} pico-USD, billed {truth}, of which {read} for calls that came to their end");
    assert!(listed >= read, "{listed} pico-USD charged, {read} billed for whole answers");
    bench.assert_lossless();

    // The server goes away with calls in flight, and another one comes.
    let task = "server-gone";
    let agent = start(&bench, task, all * 2 / 10, "50");
    begun(&bench.server, task, usize::try_from(all / 20).expect("a number"));
    drop(std::mem::replace(&mut bench.server, ModelServer::start(config(0)).expect("another server")));
    std::thread::sleep(Duration::from_millis(300));
    bench.server = ModelServer::start(config(port)).expect("a server on the same port");
    let said = ended(agent, task);
    assert!(said["failed"] > 0 && said["complete"] > 0, "{said:?}");
    assert_nothing_is_held(&bench, task);

    // The daemon dies with calls in flight, and is started again.
    let task = "daemon-gone";
    let agent = start(&bench, task, all * 2 / 10, "600");
    begun(&bench.server, task, usize::try_from(all / 20).expect("a number"));
    bench.daemon.kill9();
    bench.daemon.restart();
    let said = ended(agent, task);
    assert!(said["complete"] > 0, "{said:?}");
    assert_nothing_is_held(&bench, task);
    let report = bench.daemon.report(task);
    let abandoned = report.call_list.iter().filter(|call| call.basis == "estimated").count();
    println!("{task}: {} calls charged, {abandoned} of them estimated", report.call_list.len());
    assert!(report.calls > 0);
}
