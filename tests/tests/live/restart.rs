//! The daemon dies; agents live, and what was settled is still known.

use std::collections::HashMap;

use tollgate_tests::{
    Client, ModelServer, Truth,
    daemon::{LIMIT, until},
    model_server::State,
    reference_price::usd,
};

use super::{AMPLE, Bench, assert_exit};

const TASK: &str = "survivor";

/// Waits until so many calls are complete that arrived from this number on; gives them.
fn complete_from(server: &ModelServer, first: usize, count: usize) -> Vec<Truth> {
    let complete = |truths: &[Truth]| {
        let late = truths.iter().skip(first);
        late.filter(|truth| truth.is_of(TASK) && truth.state == State::Complete).cloned().collect::<Vec<_>>()
    };
    let truths = server.wait_until(LIMIT, |truths| complete(truths).len() >= count);
    complete(&truths.unwrap_or_else(|| panic!("the agent made fewer than {count} calls: {:#?}", server.truth())))
}

#[test]
fn agents_live_and_charges_last_when_the_daemon_is_killed() {
    let mut bench = Bench::new();
    let stop = tempfile::tempdir().expect("a temporary directory");
    let stop_file = stop.path().join("stop");
    let client = Client::loop_agent(&bench.server, TASK).with(&[
        "--pause-ms",
        "30",
        "--calls",
        "5000",
        "--stop-file",
        &stop_file.to_string_lossy(),
    ]);
    let mut agent = bench.daemon.spawn(TASK, AMPLE, &client);

    complete_from(&bench.server, 0, 8);
    let before = bench.daemon.report_when(TASK, |report| report.calls >= 5);
    assert!(before.calls >= 5 && before.spent() > 0, "{before:?}");
    let status = bench.daemon.status();
    let spent_before = usd(&status.tasks.iter().find(|task| task.task == TASK).expect("the task").spent_usd);
    bench.daemon.kill9();

    let killed_at = bench.server.truth().len();
    complete_from(&bench.server, killed_at, 4);
    assert!(agent.is_running(), "the agent lives on without the daemon");

    bench.daemon.restart();
    let ready_at = bench.server.truth().len();
    let after = bench.daemon.report(TASK);
    assert!(after.spent() >= spent_before, "{} after the restart, {spent_before} pico-USD before", after.spent_usd);
    assert_eq!((&after.cap_usd, &*after.state), (&before.cap_usd, "running"));
    for call in &before.call_list {
        let id = call.response_id.as_deref().expect("an id");
        let kept = after.call(id).unwrap_or_else(|| panic!("{id} was forgotten: {after:?}"));
        assert_eq!((kept.usage, kept.cost()), (call.usage, call.cost()), "{id}");
    }

    // The one in flight when the probes were attached may be known in part only.
    let late: HashMap<_, _> = complete_from(&bench.server, ready_at + 1, 5)
        .into_iter()
        .filter_map(|truth| truth.call.map(|call| (call.id, call.billed)))
        .collect();
    let metered = bench.daemon.report_when(TASK, |report| late.keys().all(|id| report.call(id).is_some()));
    for (id, billed) in &late {
        let charged = metered.call(id).unwrap_or_else(|| panic!("{id} was not metered after the restart: {metered:?}"));
        assert_eq!((charged.usage, &*charged.basis), (*billed, "measured"), "{id}");
    }

    std::fs::write(&stop_file, "").expect("telling the agent to stop");
    assert_exit(&agent.wait(), 0);
    let ended = until(|| (bench.daemon.report(TASK).state == "ended").then_some(()));
    assert!(ended.is_some(), "{:?}", bench.daemon.report(TASK));
}

#[test]
fn a_terminated_daemon_remembers_too() {
    let mut bench = Bench::new();
    let client = Client::loop_agent(&bench.server, TASK).with(&["--calls", "4"]);
    assert_exit(&bench.daemon.run(TASK, AMPLE, &client), 0);
    let before = bench.daemon.report_when(TASK, |report| report.calls >= 4 && report.held() == 0);
    assert!(bench.daemon.terminate().success());
    bench.daemon.restart();
    let after = bench.daemon.report(TASK);
    assert_eq!((after.calls, after.spent(), after.usage), (4, before.spent(), before.usage));
    assert_eq!(after.state, before.state);
}

/// A cgroup that was left behind frozen, empty or not, stops nobody who comes into it; one that is frozen from above is named.
#[test]
fn a_frozen_cgroup_that_was_left_behind_is_thawed() {
    let bench = Bench::new();
    let run = |task: &str| bench.daemon.tollgate(&["run", "--task", task, "--budget", "1", "--", "true"]);
    assert_exit(&run("left-frozen"), 0);
    let status = bench.daemon.tollgate(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    let cgroup = std::path::Path::new(status["tasks"][0]["cgroup"].as_str().expect("a path"));
    if !cgroup.exists() {
        std::fs::create_dir(cgroup).expect("making the cgroup");
    }
    std::fs::write(cgroup.join("cgroup.freeze"), "1").expect("freezing it");
    assert_exit(&run("left-frozen"), 0);

    let above = cgroup.parent().expect("the cgroup of all tasks");
    std::fs::write(above.join("cgroup.freeze"), "1").expect("freezing all");
    let output = run("left-frozen-below");
    std::fs::write(above.join("cgroup.freeze"), "0").expect("thawing all");
    let said = super::text(&output.stderr);
    assert!(!output.status.success() && said.contains("is frozen") && said.contains("cgroup.freeze"), "{said}");
}
