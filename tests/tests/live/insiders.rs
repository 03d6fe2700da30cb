//! What somebody inside a task, and somebody without rights outside of all, gets of the daemon's socket: each thing that it offers, one by one.

use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};
use tollgate_tests::{Client, build_tree, daemon::bounded};

use super::{AMPLE, Bench, assert_exit};

const OWN: &str = "insider";
const OTHER: &str = "neighbour";

#[derive(Debug, Deserialize)]
struct Answer {
    asked: String,
    about: Option<String>,
    status: Value,
    said: Value,
}

fn arguments(bench: &Bench) -> Vec<String> {
    let script = build_tree::scripts().join("insider.py").display().to_string();
    let socket = bench.daemon.socket().display().to_string();
    [&script, "--socket", &socket, "--own", OWN, "--other", OTHER].map(str::to_owned).into()
}

fn answers(output: &std::process::Output) -> Vec<Answer> {
    assert_exit(output, 0);
    let lines = super::text(&output.stdout);
    lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"))).collect()
}

#[test]
fn who_is_inside_reads_of_its_own_task_and_changes_nothing() {
    let bench = Bench::new();
    let neighbour = Client::loop_agent(&bench.server, OTHER).with(&["--calls", "2"]);
    assert_exit(&bench.daemon.run(OTHER, AMPLE, &neighbour), 0);

    let mut command = bench.daemon.command(&["run", "--task", OWN, "--budget", AMPLE, "--", "/usr/bin/python3"]);
    let inside = answers(&bounded(command.args(arguments(&bench))));
    let forbidden = json!(403);
    for answer in &inside {
        let reads_own =
            ["GET /v1/status", "GET /v1/incidents", "GET /v1/labels", &format!("GET /v1/tasks/{OWN}/report")]
                .contains(&answer.asked.as_str());
        let expected = if reads_own { json!(200) } else { forbidden.clone() };
        assert_eq!(answer.status, expected, "{answer:?}");
        assert!(reads_own || answer.said["kind"] == "forbidden", "{answer:?}");
        // What is said of a refusal names the asker's own task, and what was asked for.
        let text = answer.said.to_string();
        assert!(answer.about.as_deref() == Some(OTHER) || !text.contains(OTHER), "it learns of another task: {text}");
    }
    let tasks = &inside[0].said["tasks"];
    assert_eq!(tasks.as_array().map(Vec::len), Some(1), "{tasks}");
    assert_eq!(tasks[0]["task"], OWN);
    assert_eq!(inside.len(), 14, "everything was asked for");

    let status = bench.daemon.status();
    assert!(status.tasks.iter().all(|task| task.task != "another"), "{:?}", status.tasks);
    assert_eq!(bench.daemon.report(OTHER).state, "ended", "and the other task was not killed");
}

#[test]
fn who_is_outside_without_rights_gets_nothing() {
    let bench = Bench::new();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-c"]);
    // Not every directory on the way to the script is open to everybody.
    let script = std::fs::read_to_string(build_tree::scripts().join("insider.py")).expect("the script");
    command.arg(script).args(arguments(&bench).into_iter().skip(1)).current_dir("/");
    let outside = answers(&bounded(&mut command));
    assert_eq!(outside.len(), 14);
    assert!(outside.iter().all(|answer| answer.status == "no connection"), "{outside:#?}");
}
