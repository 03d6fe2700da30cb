//! What cannot be done is said in one line, with an exit code of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Output},
};

use tollgate_tests::{
    Daemon, build_tree,
    daemon::{Options, bounded},
};

use super::text;

/// One line, no panic, no success; gives the exit code.
#[track_caller]
fn assert_refused(case: &str, output: &Output, named: &[&str]) -> i32 {
    let stderr = text(&output.stderr);
    let code = output.status.code().unwrap_or_else(|| panic!("{case}: {}: {stderr}", output.status));
    assert!(!matches!(code, 0 | 101), "{case}: exit code {code}: {stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("RUST_BACKTRACE"), "{case}: {stderr}");
    assert_eq!(stderr.lines().filter(|line| !line.trim().is_empty()).count(), 1, "{case}: one line: {stderr}");
    for name in named {
        assert!(stderr.contains(name), "{case}: `{name}` is named: {stderr}");
    }
    code
}

/// A `tollgate daemon` that must not start, in its own directory.
fn daemon(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(build_tree::tollgate().unwrap_or_else(|error| panic!("{error:#}")));
    command.arg("daemon").arg("--state-dir").arg(directory.join("state"));
    command.arg("--socket").arg(directory.join("tollgate.sock")).args(arguments);
    command
}

/// The same, after `preparation` in a mount namespace of its own.
fn daemon_without(directory: &Path, preparation: &str) -> Command {
    let daemon = daemon(directory, &[]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-ec", &format!("{preparation}; exec \"$0\" \"$@\"")]);
    command.arg(daemon.get_program()).args(daemon.get_args());
    command
}

#[test]
fn every_refusal_is_one_line_and_has_its_own_exit_code() {
    let running = Daemon::start(&Options::default());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let here = directory.path();
    let mut codes = BTreeMap::new();
    let mut refused = |case: &'static str, output: &Output, named: &[&str]| {
        codes.insert(case, assert_refused(case, output, named));
    };

    let missing = here.join("missing.toml").to_string_lossy().into_owned();
    refused("unreadable configuration", &bounded(&mut daemon(here, &["--config", &missing])), &[&missing]);

    let wrong = here.join("wrong.toml");
    fs::write(&wrong, "no_such_key = 1\n").expect("writing a configuration");
    let wrong = wrong.to_string_lossy().into_owned();
    refused("unknown key", &bounded(&mut daemon(here, &["--config", &wrong])), &[&wrong, "no_such_key"]);

    refused("second daemon", &bounded(&mut running.daemon_command()), &[]);
    assert!(running.tollgate(&["status"]).status.success(), "the first one is unharmed");

    refused("unknown task", &running.tollgate(&["report", "--task", "nobody-knows", "--json"]), &["nobody-knows"]);

    let nowhere = here.join("nowhere.sock").to_string_lossy().into_owned();
    let mut status = Command::new(build_tree::tollgate().expect("the binary"));
    refused("no daemon", &bounded(status.args(["status", "--socket", &nowhere])), &[&nowhere]);

    drop(running);
    refused("no root", &bounded(&mut daemon_as_nobody(here)), &["root"]);
    refused("no cgroup v2", &bounded(&mut daemon_without(here, "umount --lazy --all --types cgroup2")), &["cgroup"]);
    refused("no BTF", &bounded(&mut daemon_without(here, "mount -t tmpfs none /sys/kernel/btf")), &["BTF"]);

    let mut cases: BTreeMap<i32, Vec<&str>> = BTreeMap::new();
    for (case, code) in codes {
        cases.entry(code).or_default().push(case);
    }
    assert!(cases.values().all(|cases| cases.len() == 1), "each has its own exit code: {cases:?}");
}

/// A daemon started by a user who is not root, from a place that this user can read.
fn daemon_as_nobody(directory: &Path) -> Command {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).expect("opening the directory");
    let copy = directory.join("tollgate");
    fs::copy(build_tree::tollgate().expect("the binary"), &copy).expect("copying the binary");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("making it executable");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(&copy);
    command.args(daemon(directory, &[]).get_args());
    command
}

#[test]
fn a_wrong_budget_is_refused() {
    let running = Daemon::start(&Options::default());
    for budget in ["", "-1", "2,50", "lots", "0.0000000000001"] {
        let output = running.tollgate(&["run", "--task", "wrong", &format!("--budget={budget}"), "--", "true"]);
        assert!(!matches!(output.status.code(), None | Some(0 | 101)), "{budget}: {output:?}");
        let stderr = text(&output.stderr);
        assert!(!stderr.contains("panicked"), "{budget}: {stderr}");
    }
    assert!(running.status().tasks.is_empty(), "no task comes of it");
}

#[test]
fn a_daemon_takes_a_valid_configuration() {
    let running = Daemon::start(&Options { config: Some(String::new()) });
    let status = running.status();
    assert!(status.daemon.ready && status.daemon.pid == running.pid(), "{status:?}");
}
