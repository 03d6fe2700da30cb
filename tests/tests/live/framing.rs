//! Servers differ in how they take heads that say oddly how long their bodies are (RFC 9112 §6.3, §11.2). Whatever they take them for, no call hides behind one.

use std::{
    fs,
    path::Path,
    process::{Child, Command},
};

use tollgate_tests::{
    Daemon, build_tree,
    daemon::{Options, until},
};

use super::plaintext::PRICES;

/// Three calls.
const CAP: &str = "0.0105";
const WAYS: [&str; 9] = ["identity", "both", "gzip", "list", "two", "space", "folded", "plus", "method"];

/// A server that forgives much, and counts.
struct Lenient(Child);

impl Lenient {
    fn start(file: &Path) -> Self {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(build_tree::scripts().join("lenient.py")).arg("serve").arg("--file").arg(file);
        Self(command.spawn().expect("the server"))
    }
}

impl Drop for Lenient {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn no_call_hides_behind_an_odd_head() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let daemon = Daemon::start(&Options { config: Some(PRICES.into()) });
    let mut failed = Vec::new();
    for how in WAYS {
        let file = directory.path().join(how);
        let _server = Lenient::start(&file);
        let lines = || fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
        let port = until(|| lines().into_iter().next()).expect("the server listens");
        let mut command =
            daemon.command(&["run", "--task", how, "--budget", CAP, "--limit", "kill_grace_seconds=1", "--"]);
        command.arg("/usr/bin/python3").arg(build_tree::scripts().join("lenient.py")).arg("spend");
        command.args(["--base-url", &format!("http://localhost:{port}"), "--how", how]);
        let output = tollgate_tests::daemon::bounded(&mut command);
        let (calls, report) = (lines().len() - 1, daemon.report(how));
        println!("{how}: {calls} calls arrived, {} were counted; {}", report.calls, output.status);
        // What a call costs is not known before one has ended, and then the next waits.
        if calls > 4 || report.state != "stopped" {
            failed.push(format!("{how}: {calls} calls arrived, and the task is {}: {output:?}", report.state));
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
