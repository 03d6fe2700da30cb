//! Users who are not root: what the configuration allows them, verb by verb, and nothing else.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tollgate_tests::{
    Config, Truth,
    daemon::{Options, Running, bounded, until},
    reference_price::{PicoUsd, usd},
};

use super::{Bench, assert_exit, text};

/// `nobody`, whom the configuration of these tests allows to run tasks.
const ALLOWED: u32 = 65534;
/// `daemon`, whom it does not know.
const STRANGER: u32 = 1;
const USERS: &str = "[users]\nallow = [\"nobody\", \"@no-such-group\"]\nbudget = { total = \"0.02\" }\n";

/// What everybody may read: the program, and what a client needs.
struct Public {
    directory: TempDir,
    socket: PathBuf,
}

impl Public {
    fn new(bench: &Bench) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let public = Self { directory, socket: bench.daemon.socket() };
        let open = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("opening a path");
        };
        open(public.path(), 0o755);
        // The state in it stays the daemon's.
        open(public.socket.parent().expect("a directory"), 0o755);
        fs::copy(bench.daemon.binary(), public.program()).expect("copying the program");
        open(&public.program(), 0o755);
        let ca = public.path().join("ca.pem");
        fs::copy(&bench.server.ca_path, &ca).expect("copying the certificate");
        open(&ca, 0o644);
        let directive = json!({"tollgate_test": {"input_tokens": 400, "cached_tokens": 0, "output_tokens": 400, "reasoning_tokens": 0}});
        let body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": format!("Say something. {directive}")}]});
        let request = public.path().join("request.json");
        fs::write(&request, body.to_string()).expect("writing a request");
        open(&request, 0o644);
        public
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn program(&self) -> PathBuf {
        self.path().join("tollgate")
    }

    fn command(&self, user: u32, arguments: &[&str]) -> Command {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let mut command = Command::new("setpriv");
        command.args([&format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"]);
        command.arg(self.program()).arg(verb).arg("--socket").arg(&self.socket).args(rest).current_dir("/");
        command
    }

    fn tollgate(&self, user: u32, arguments: &[&str]) -> Output {
        bounded(&mut self.command(user, arguments))
    }

    /// A shell command of so many calls of $0.005.
    fn calls(&self, bench: &Bench, name: &str, count: u32) -> String {
        let (here, url) = (self.path().display(), &bench.server.base_url);
        format!(
            "for n in $(seq {count}); do curl -sS --noproxy '*' --cacert {here}/ca.pem --data-binary @{here}/request.json \
             -H 'content-type: application/json' -H 'authorization: Bearer sk-test' -H 'x-test-client: {name}' \
             {url}/v1/chat/completions -o /dev/null || exit 1; done"
        )
    }
}

fn bench() -> (Bench, Public) {
    let bench = Bench::with_options(Config::default(), &Options { config: Some(USERS.into()) });
    let public = Public::new(&bench);
    (bench, public)
}

fn billed(bench: &Bench, name: &str) -> PicoUsd {
    bench.server.truth_of(name).iter().map(Truth::cost).sum()
}

#[test]
fn a_user_spends_what_an_administrator_allows() {
    let (bench, public) = bench();
    let run = |task: &str, budget: &str, calls| {
        let script = public.calls(&bench, task, calls);
        public.tollgate(ALLOWED, &["run", "--task", task, "--budget", budget, "--", "sh", "-c", &script])
    };
    assert_exit(&run("first", "0.02", 1), 0);
    let report = bench.daemon.report("first");
    assert_eq!(usd(&report.spent_usd), billed(&bench, "first"));
    assert_eq!(billed(&bench, "first"), usd("0.005"));
    // Its own cap holds, and below that of all its tasks.
    assert_exit(&run("second", "0.012", 9), 137);
    // And what all of them may spend does, whatever the task itself may.
    assert_exit(&run("third", "0.02", 9), 137);
    let all: PicoUsd = ["first", "second", "third"].into_iter().map(|name| billed(&bench, name)).sum();
    assert!(all <= usd("0.025"), "{all} pico-USD of {} were spent, and one call", usd("0.02"));
    let status = public.tollgate(ALLOWED, &["status", "--json"]);
    let status: Value = serde_json::from_slice(&status.stdout).expect("the status");
    let accounts: Vec<&Value> =
        status["accounts"].as_array().expect("accounts").iter().map(|account| &account["account"]).collect();
    assert_eq!(accounts, ["tenant=user-nobody"]);
    bench.assert_lossless();
}

#[test]
fn a_user_may_do_what_is_said_and_no_more() {
    let (bench, public) = bench();
    let root = bench.daemon.command(&["run", "--task", "theirs", "--budget", "1", "--", "sleep", "300"]);
    let theirs = Running::start(&mut { root });
    let own = Running::start(
        &mut public.command(ALLOWED, &["run", "--task", "own", "--budget", "0.01", "--", "sleep", "300"]),
    );
    let state =
        |task: &str| bench.daemon.status().tasks.into_iter().find(|known| known.task == task).map(|task| task.state);
    assert!(until(|| (state("own").is_some() && state("theirs").is_some()).then_some(())).is_some(), "both run");

    let forbidden = "only an administrator may";
    let refused: [(&[&str], &str); 19] = [
        (&["approve", "own", "--add", "1"], forbidden),
        (&["deny", "own"], forbidden),
        (&["resume", "own"], forbidden),
        (&["budget", "own", "set", "total=5"], forbidden),
        (&["budget", "tenant=user-nobody", "set", "total=5"], forbidden),
        (&["kill", "tenant=user-nobody"], forbidden),
        (&["labels"], forbidden),
        (&["label", "/tollgate/own", "--task", "x"], forbidden),
        (&["unlabel", "/tollgate/own"], forbidden),
        (&["incidents"], forbidden),
        (&["status", "--maps"], forbidden),
        // What is somebody else's is not there.
        (&["report", "--task", "theirs"], "there is no task theirs"),
        (&["pause", "theirs"], "there is no task theirs"),
        (&["kill", "theirs"], "there is no task theirs"),
        (&["run", "--task", "theirs", "--", "true"], "task theirs is not yours"),
        (&["run", "--tenant", "acme", "--", "true"], "leave --tenant away"),
        (&["run", "--parent", "theirs", "--", "true"], "leave --parent away"),
        (&["run", "--budget", "0.03", "--", "true"], "`total` is more than an administrator allows"),
        (&["run", "--limit", "holds=off", "--", "true"], "`holds`"),
    ];
    for (arguments, why) in refused {
        let output = public.tollgate(ALLOWED, arguments);
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{arguments:?}: {}: {said}", output.status);
    }
    assert_eq!(state("theirs").as_deref(), Some("running"));
    assert_eq!(state("own").as_deref(), Some("running"));

    let seen = public.tollgate(ALLOWED, &["status", "--json"]);
    let seen: Value = serde_json::from_slice(&seen.stdout).expect("the status");
    let tasks: Vec<&Value> = seen["tasks"].as_array().expect("tasks").iter().map(|task| &task["task"]).collect();
    assert_eq!(tasks, ["own"], "a user sees its own tasks");
    assert_exit(&public.tollgate(ALLOWED, &["report", "--task", "own"]), 0);
    assert_exit(&public.tollgate(ALLOWED, &["pause", "own"]), 0);
    assert!(until(|| (state("own").as_deref() == Some("paused")).then_some(())).is_some(), "{:?}", state("own"));
    assert_exit(&public.tollgate(ALLOWED, &["kill", "own"]), 0);
    assert_exit(&own.wait(), 137);

    // Whom the configuration does not name may nothing, not even know.
    for arguments in [
        &["status"][..],
        &["report", "--task", "own"],
        &["run", "--", "true"],
        &["kill", "theirs"],
        &["approve", "theirs", "--add", "1"],
        &["labels"],
    ] {
        let output = public.tollgate(STRANGER, arguments);
        let said = text(&output.stderr);
        assert!(
            !output.status.success() && said.contains("only root and the daemon's own user"),
            "{arguments:?}: {said}"
        );
    }
    assert_exit(&bench.daemon.tollgate(&["kill", "theirs"]), 0);
    assert_exit(&theirs.wait(), 137);
}

#[test]
fn nobody_but_root_reaches_the_socket_unless_it_is_said() {
    let bench = Bench::new();
    let public = Public::new(&bench);
    let mode = fs::metadata(bench.daemon.socket()).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let output = public.tollgate(ALLOWED, &["status"]);
    assert!(!output.status.success() && text(&output.stderr).contains("Permission denied"), "{output:?}");
}
