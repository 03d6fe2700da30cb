//! `tollgate run` at a terminal is as if it were not there.

use std::process::Command;

use serde_json::Value;
use tollgate_tests::{build_tree, daemon::Options};

use crate::Daemon;

/// What a person sees who runs a command with this put before it.
fn session(prefix: &[String]) -> Value {
    let script = build_tree::scripts().join("terminal.py");
    let output = Command::new("/usr/bin/python3").arg(script).args(prefix).output().expect("python3");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn signals_and_job_control_are_as_without_it() {
    let daemon = Daemon::start(&Options::default());
    let run = daemon.command(&["run", "--budget", "1", "--"]);
    let words = std::iter::once(run.get_program()).chain(run.get_args());
    let prefix: Vec<String> = words.map(|word| word.to_string_lossy().into_owned()).collect();
    let (without, with) = (session(&[]), session(&prefix));
    assert!(
        without.as_object().is_some_and(|seen| seen.values().all(|seen| seen == true)),
        "the script itself: {without}"
    );
    assert_eq!(with, without);
}
