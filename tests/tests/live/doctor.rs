//! `tollgate doctor` on this host.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::Path,
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tollgate_tests::daemon::{Options, Running, bounded};

use super::{assert_exit, text};
use crate::Daemon;

/// Everything that is looked at, in this order.
const CHECKS: [&str; 16] = [
    "configuration",
    "kernel",
    "btf",
    "tracefs",
    "bpffs",
    "lockdown",
    "capabilities",
    "memory",
    "cgroup",
    "tls",
    "daemon",
    "agents",
    "ledger",
    "disk",
    "prices",
    "clock",
];

fn doctor(daemon: &Daemon, arguments: &[&str]) -> Output {
    daemon.tollgate(&[&["doctor", "--json"], arguments].concat())
}

fn parsed(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn check<'v>(all: &'v Value, name: &str) -> &'v Value {
    let checks = all["checks"].as_array().expect("checks");
    checks.iter().find(|check| check["check"] == name).unwrap_or_else(|| panic!("no check {name}: {all}"))
}

/// A program by the name of an agent that does nothing.
fn idle_agent(directory: &Path) -> String {
    let path = directory.join("codex");
    fs::copy("/bin/sleep", &path).expect("copying a program");
    path.display().to_string()
}

#[test]
fn everything_is_looked_at_beside_a_daemon() {
    let daemon = Daemon::start(&Options::default());
    let directory = tempfile::tempdir().expect("a directory");
    let agent = idle_agent(directory.path());
    let outside = Running::start(Command::new(&agent).args(["600", "--"]).stdin(Stdio::null()));
    let inside =
        Running::start(&mut daemon.command(&["run", "--task", "doctored", "--budget", "1", "--", &agent, "601"]));
    let state_dir = daemon.state_dir().display().to_string();
    let both = tollgate_tests::daemon::until(|| {
        let output = doctor(&daemon, &["--state-dir", &state_dir]);
        let said = parsed(&output);
        let agents = check(&said, "agents")["items"].as_array().cloned().unwrap_or_default();
        let found =
            |text: &str| agents.iter().any(|item| item["found"].as_str().is_some_and(|it| it.starts_with(text)));
        (found("in task doctored") && found("in no task: cgroup /")).then_some((output, said))
    });
    let (output, said) = both.expect("an agent in a task, and one in none");
    assert_exit(&output, 0);
    let names: Vec<&str> =
        said["checks"].as_array().expect("checks").iter().filter_map(|it| it["check"].as_str()).collect();
    assert_eq!(names, CHECKS);
    for well in ["configuration", "kernel", "btf", "tracefs", "capabilities", "daemon", "ledger"] {
        assert_eq!(check(&said, well)["verdict"], "ok", "{}", check(&said, well));
    }
    assert_eq!(check(&said, "agents")["verdict"], "warn", "one is in no task");
    assert!(!text(&output.stdout).contains("601"), "what an agent was told is not shown");
    let libraries = check(&said, "tls")["items"].as_array().expect("libraries");
    let openssl = libraries.iter().find(|item| item["name"].as_str().is_some_and(|name| name.contains("/libssl.so")));
    let openssl = openssl.unwrap_or_else(|| panic!("no libssl: {libraries:#?}"));
    assert_eq!((&openssl["verdict"], &openssl["found"]), (&"ok".into(), &"OpenSSL: covered".into()));

    let people = daemon.tollgate(&["doctor", "--state-dir", &state_dir]);
    assert_exit(&people, 0);
    let people = text(&people.stdout);
    for name in CHECKS {
        assert!(people.lines().any(|line| line.split_whitespace().nth(1) == Some(name)), "{name}: {people}");
    }
    drop((outside, inside));
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let mut daemon = Daemon::start(&Options::default());
    let directory = tempfile::tempdir().expect("a directory");
    let elsewhere = directory.path().join("nowhere").display().to_string();
    let output = doctor(&daemon, &["--state-dir", &elsewhere]);
    assert_exit(&output, 1);
    let said = parsed(&output);
    let ledger = check(&said, "ledger");
    assert_eq!((&said["verdict"], &ledger["verdict"]), (&"fail".into(), &"fail".into()));
    assert!(
        ledger["found"].as_str().is_some_and(|found| found.contains("nowhere/ledger.db, and a daemon runs")),
        "{ledger}"
    );
    assert!(ledger["advice"].as_str().is_some_and(|advice| advice.contains("--state-dir")), "{ledger}");

    // A ledger of which everything but the header of the file is overwritten.
    daemon.terminate();
    let damaged = directory.path().join("ledger.db");
    fs::copy(daemon.state_dir().join("ledger.db"), &damaged).expect("copying the ledger");
    let mut bytes = fs::read(&damaged).expect("the ledger");
    bytes.get_mut(100..).expect("more than a header").fill(0xa5);
    fs::write(&damaged, bytes).expect("damaging it");
    let config = directory.path().join("wrong.toml");
    fs::write(&config, "[budget]\ntotl = \"1\"\n").expect("a configuration");
    let (state_dir, config) = (directory.path().display().to_string(), config.display().to_string());
    let output = doctor(&daemon, &["--state-dir", &state_dir, "--config", &config]);
    assert_exit(&output, 1);
    let said = parsed(&output);
    for (name, wanted) in [
        ("configuration", "line 2: unknown field `totl`"),
        ("daemon", "no daemon answers on "),
        ("ledger", "ledger.db"),
    ] {
        let check = check(&said, name);
        assert_eq!(check["verdict"], "fail", "{check}");
        assert!(check["found"].as_str().is_some_and(|found| found.contains(wanted)), "{check}");
        assert!(check["advice"].is_string(), "{check}");
    }
    // What does not need a daemon is looked at all the same.
    assert_eq!(check(&said, "btf")["verdict"], "ok");
    assert_eq!(said["checks"].as_array().map(Vec::len), Some(CHECKS.len()));
}

#[test]
fn a_user_without_rights_is_told_what_could_not_be_looked_at() {
    let daemon = Daemon::start(&Options::default());
    // A copy: others may not look into the directory of this one.
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("a directory for all");
    let program = directory.path().join("tollgate");
    fs::copy(daemon.binary(), &program).expect("copying the program");
    let mut command = Command::new(&program);
    command.args(["doctor", "--json", "--socket"]).arg(daemon.socket()).arg("--state-dir").arg(daemon.state_dir());
    let output = bounded(command.stdin(Stdio::null()).uid(65534).gid(65534));
    let said = parsed(&output);
    let verdict = |name: &str| check(&said, name)["verdict"].as_str().unwrap_or_default().to_owned();
    for (name, wanted) in
        [("kernel", "ok"), ("capabilities", "warn"), ("daemon", "warn"), ("ledger", "warn"), ("agents", "warn")]
    {
        assert_eq!(verdict(name), wanted, "{}", check(&said, name));
    }
    assert!(check(&said, "agents")["found"].as_str().is_some_and(|found| found.contains("could not be looked at")));
    assert_exit(&output, 0);
}
