//! Tasks that are cgroups of somebody else: labelled by hand or by a rule, before and after the daemon is started again.

use std::{
    fs,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::{Value, json};
use tollgate_tests::{
    Client, Config,
    daemon::{LIMIT, Options, Running, bounded, until},
    reference_price::{PicoUsd, usd},
};

use super::{Bench, assert_exit, neighbours::Neighbour, text};

/// Where the cgroups of these tests are made.
const PLACE: &str = "tollgate-labels";

/// A cgroup of the test's own, which goes with what is in it.
struct OwnCgroup {
    root: PathBuf,
    path: String,
}

impl OwnCgroup {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).expect("cgroup v2");
        let root = PathBuf::from(mount.split(' ').nth(1).expect("a path"));
        let own = Self { root, path: format!("/{PLACE}/{name}") };
        fs::create_dir_all(own.directory()).expect("making a cgroup");
        own
    }

    fn directory(&self) -> PathBuf {
        self.root.join(self.path.trim_start_matches('/'))
    }

    /// Starts a client that is in the cgroup before its first instruction.
    fn start(&self, client: &Client) -> Running {
        Running::start(&mut self.command(client))
    }

    fn command(&self, client: &Client) -> Command {
        let mut command = Command::new("sh");
        command.args(["-ec", "echo $$ > \"$0\"/cgroup.procs; exec \"$@\""]).arg(self.directory());
        client.prepare(command.args(client.command_line()));
        command
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let script = "import os, sys; print(os.getxattr(sys.argv[1], sys.argv[2]).decode(), end='')";
        let mut python = Command::new("/usr/bin/python3");
        let output = bounded(python.args(["-c", script]).arg(self.directory()).arg(format!("trusted.tollgate.{name}")));
        output.status.success().then(|| text(&output.stdout))
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        fn remove(path: &Path) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten().filter(|entry| entry.path().is_dir()) {
                remove(&entry.path());
            }
            until(|| match fs::remove_dir(path) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => None,
                _ => Some(()),
            });
        }
        fs::write(self.directory().join("cgroup.kill"), "1").ok();
        remove(&self.directory());
        // The last one takes the place with it.
        fs::remove_dir(self.root.join(PLACE)).ok();
    }
}

/// A call of $0.005.
fn ask() -> Value {
    json!({"input_tokens": 400, "cached_tokens": 0, "output_tokens": 400, "reasoning_tokens": 0})
}

fn agent(bench: &Bench, name: &str, calls: u32) -> Client {
    Client::loop_agent(&bench.server, name).asking(&ask()).with(&["--calls", &calls.to_string()])
}

#[track_caller]
fn ok(output: &Output) {
    assert!(output.status.success(), "{}\n{}\n{}", output.status, text(&output.stdout), text(&output.stderr));
}

/// By a signal: there is no `tollgate run` that would say why.
#[track_caller]
fn assert_stopped(output: &Output) {
    assert!(matches!(output.status.signal(), Some(9 | 15)), "{}\n{}", output.status, text(&output.stderr));
}

fn labels(bench: &Bench) -> Vec<Value> {
    let output = bench.daemon.tollgate(&["labels", "--json"]);
    ok(&output);
    serde_json::from_slice(&output.stdout).expect("an array")
}

fn label(bench: &Bench, cgroup: &OwnCgroup, task: &str, budget: &str) -> Output {
    bench.daemon.tollgate(&["label", &cgroup.path, "--task", task, "--budget", budget])
}

/// What the server billed to a client, in pico-USD.
fn billed(bench: &Bench, name: &str) -> PicoUsd {
    bench.server.truth_of(name).iter().map(tollgate_tests::Truth::cost).sum()
}

#[test]
fn a_label_outlives_the_daemon_and_goes_with_the_cgroup() {
    let mut bench = Bench::new();
    let cgroup = OwnCgroup::new("by-hand");
    ok(&label(&bench, &cgroup, "by-hand", "total=0.05"));
    assert_eq!(cgroup.attribute("task").as_deref(), Some("by-hand"));

    assert_exit(&cgroup.start(&agent(&bench, "by-hand", 3)).wait(), 0);
    let report = bench.daemon.report_when("by-hand", |report| report.calls == 3);
    assert_eq!((report.calls, report.spent()), (3, billed(&bench, "by-hand")));
    // Empty, and still a task.
    assert_eq!(report.state, "running");

    bench.daemon.kill9();
    bench.daemon.restart();
    let known = labels(&bench);
    assert_eq!(
        known.iter().map(|label| (&label["task"], &label["by"], &label["budget"]["total"])).collect::<Vec<_>>(),
        [(&json!("by-hand"), &json!("label"), &json!("0.05"))]
    );
    // What it spent before is spent: 7 more calls fit.
    assert_stopped(&cgroup.start(&agent(&bench, "by-hand", 100)).wait());
    let spent = billed(&bench, "by-hand");
    assert!(spent > usd("0.04") && spent <= usd("0.055"), "{spent} pico-USD");
    until(|| (bench.daemon.report("by-hand").state == "stopped").then_some(())).expect("it is stopped");

    // Whoever comes later finds the gate shut, and nothing leaves.
    let later = cgroup.start(&agent(&bench, "by-hand", 1)).wait();
    assert!(!later.status.success(), "{later:?}");
    assert_eq!(billed(&bench, "by-hand"), spent);

    // A larger budget, and it goes on.
    ok(&label(&bench, &cgroup, "by-hand", "total=1"));
    assert_exit(&cgroup.start(&agent(&bench, "by-hand", 1)).wait(), 0);
    let spent = billed(&bench, "by-hand");
    assert_eq!(bench.daemon.report_when("by-hand", |report| report.spent() == spent).spent(), spent);

    ok(&bench.daemon.tollgate(&["unlabel", &cgroup.path]));
    assert_eq!(cgroup.attribute("task"), None);
    assert_eq!(labels(&bench), Vec::<Value>::new());
    let calls = bench.daemon.report("by-hand").calls;
    assert_exit(&cgroup.start(&agent(&bench, "by-hand", 1)).wait(), 0);
    assert_eq!(bench.daemon.report("by-hand").calls, calls);
    assert_exit(&bench.daemon.tollgate(&["unlabel", &cgroup.path]), 66);
    bench.assert_lossless();
}

/// A process that runs already, with its connections and libraries, is metered from the label on.
#[test]
fn what_runs_in_a_cgroup_when_it_is_labelled_is_metered() {
    let bench = Bench::new();
    let cgroup = OwnCgroup::new("running");
    let client = agent(&bench, "running", 1000).with(&["--pause-ms", "30"]);
    let mut running = cgroup.start(&client);
    bench.server.wait_until(LIMIT, |truths| truths.len() >= 3).expect("it calls");
    ok(&label(&bench, &cgroup, "running", "total=0.05"));
    assert!(running.is_running());
    assert_stopped(&running.wait());
    let report = bench.daemon.report("running");
    assert!(report.calls >= 8 && report.spent() <= usd("0.055"), "{report:?}");
}

/// Who belongs to no task is not metered. Labelled while it runs, with a connection that is open and a TLS library that nobody has looked at, its very next
/// call is.
#[test]
fn the_next_call_after_a_label_is_metered_whatever_library_it_is_made_with() {
    const COPIES: usize = 20;
    let bench = Bench::new();
    let libssl = bounded(Command::new("sh").args(["-c", "ldd /usr/bin/curl | grep -o '/[^ ]*libssl[^ ]*'"]));
    let libssl = PathBuf::from(text(&libssl.stdout).trim());
    let mut calls = Vec::new();
    for copy in 0..COPIES {
        let task = format!("copy{copy}");
        let cgroup = OwnCgroup::new(&task);
        // A new inode, and so another library.
        let directory = tempfile::tempdir().expect("a directory");
        fs::copy(&libssl, directory.path().join(libssl.file_name().expect("a name"))).expect("copying the library");
        let mut command = cgroup.command(&Client::plain_tls(&bench.server, &task));
        let mut process = Neighbour::start(command.env("LD_LIBRARY_PATH", directory.path()));
        let maps = fs::read_to_string(format!("/proc/{}/maps", process.child.id())).expect("what it has mapped");
        assert!(maps.contains(&directory.path().display().to_string()), "it uses the copy");

        let before = process.call();
        ok(&label(&bench, &cgroup, &task, "total=5"));
        let after = process.call();
        calls.push((task, before.id.expect("an answer"), after.id.expect("an answer")));
    }
    let is_metered = |task: &str, id: &str| bench.daemon.report(task).call(id).is_some();
    let count = || {
        let unlabelled = calls.iter().filter(|(task, before, _)| is_metered(task, before)).count();
        (unlabelled, calls.iter().filter(|(task, _, after)| is_metered(task, after)).count())
    };
    until(|| (count().1 == COPIES).then_some(()));
    let (unlabelled, labelled) = count();
    println!("unlabelled: {unlabelled} of {COPIES}; after the label: {labelled} of {COPIES}");
    assert_eq!((unlabelled, labelled), (0, COPIES));
    for (task, ..) in &calls {
        let (report, truths) = (bench.daemon.report(task), bench.server.truth_of(task));
        assert_eq!((report.calls, truths.len()), (1, 2), "{task}");
        assert_eq!(report.spent(), truths[1].cost(), "{task}");
    }
    bench.assert_lossless();
}

/// A rule labels a cgroup as it is made: what is started in it at once is metered from its first call.
#[test]
fn rules_label_cgroups_before_anything_in_them_costs() {
    let config = format!(
        "[[rule]]\ncgroup = \"/{PLACE}/job-{{name}}\"\ntask = \"rule-{{name}}\"\ntenant = \"acme\"\nbudget = {{ total = \"0.02\" }}"
    );
    let mut bench = Bench::with_options(Config::default(), &Options { config: Some(config) });
    for round in 0..8 {
        let name = format!("r{round}");
        let cgroup = OwnCgroup::new(&format!("job-{name}"));
        assert_exit(&cgroup.start(&agent(&bench, &name, 2)).wait(), 0);
        let report = bench.daemon.report_when(&format!("rule-{name}"), |report| report.calls == 2);
        assert_eq!((report.calls, report.spent()), (2, billed(&bench, &name)), "{name}");
        drop(cgroup);
        let ended = || (bench.daemon.report(&format!("rule-{name}")).state == "ended").then_some(());
        until(ended).expect("it ends with its cgroup");
    }
    let status = bench.daemon.status();
    let tenant = status.accounts.iter().find(|account| account.account == "tenant=acme").expect("the tenant");
    let all: PicoUsd = (0..8).map(|round| billed(&bench, &format!("r{round}"))).sum();
    assert_eq!(usd(&tenant.spent_usd), all);

    // Made while nobody looked.
    bench.daemon.kill9();
    let cgroup = OwnCgroup::new("job-r0");
    bench.daemon.restart();
    // The same task: $0.01 of its $0.02 are spent.
    assert_stopped(&cgroup.start(&agent(&bench, "r0", 100)).wait());
    let spent = billed(&bench, "r0");
    assert!(spent <= usd("0.025"), "{spent} pico-USD");
    // Made again, it is stopped before its first request.
    drop(cgroup);
    let again = OwnCgroup::new("job-r0");
    assert!(!again.start(&agent(&bench, "r0", 1)).wait().status.success());
    assert_eq!(billed(&bench, "r0"), spent);
}

/// A labelled cgroup in another one is a part of it, and its cap holds for both.
#[test]
fn labels_within_labels_make_parts() {
    let bench = Bench::new();
    let outer = OwnCgroup::new("outer");
    let inner = OwnCgroup { root: outer.root.clone(), path: format!("{}/inner", outer.path) };
    fs::create_dir(inner.directory()).expect("making a cgroup");
    ok(&label(&bench, &outer, "outer", "total=0.05"));
    ok(&label(&bench, &inner, "inner", "total=1"));
    let part = labels(&bench).into_iter().find(|label| label["task"] == "inner").expect("the part");
    assert_eq!(part["parent"], "outer");

    assert_exit(&outer.start(&agent(&bench, "outer", 4)).wait(), 0);
    assert_stopped(&inner.start(&agent(&bench, "inner", 100)).wait());
    let (of_outer, of_inner) = (billed(&bench, "outer"), billed(&bench, "inner"));
    assert!(of_outer + of_inner <= usd("0.055") && of_inner > 0, "{of_outer} + {of_inner} pico-USD");
    let report = bench.daemon.report_when("inner", |report| report.state == "stopped");
    assert_eq!((report.spent(), report.state.as_str()), (of_inner, "stopped"));

    // A process inside cannot change its own budget.
    let mut command = Command::new("sh");
    let tollgate = bench.daemon.command(&["label", &inner.path, "--task", "inner", "--budget", "total=9"]);
    command.args(["-ec", "echo $$ > \"$0\"/cgroup.procs; exec \"$@\""]).arg(inner.directory());
    command.arg(tollgate.get_program()).args(tollgate.get_args());
    assert_exit(&bounded(&mut command), 77);
    drop(inner);
}

#[test]
fn a_configuration_is_read_again_or_not_at_all() {
    let bench = Bench::with_options(Config::default(), &Options { config: Some(String::new()) });
    let config = bench.daemon.state_dir().parent().expect("a directory").join("tollgate.toml");
    let reload = |text: &str, said: &str| {
        fs::write(&config, text).expect("writing the configuration");
        let pid = bench.daemon.pid().to_string();
        ok(&bounded(Command::new("kill").args(["-HUP", &pid])));
        until(|| bench.daemon.stderr().iter().any(|line| line.contains(said)).then_some(()))
            .unwrap_or_else(|| panic!("`{said}` was not said: {:?}", bench.daemon.stderr()));
    };
    let cgroup = OwnCgroup::new("reload");
    let rule = |budget: &str| {
        format!("[[rule]]\ncgroup = \"/{PLACE}/reload\"\ntask = \"reload\"\nbudget = {{ total = \"{budget}\" }}")
    };
    reload(&rule("2"), "the configuration was read again");
    assert_eq!(labels(&bench)[0]["budget"]["total"], "2");
    reload("[[rule]]\ntask = \"x\"", "rule 1: say which cgroups it is for");
    assert_eq!(labels(&bench)[0]["budget"]["total"], "2");
    reload(&format!("{}\n[kernel]\nring_mib = 8", rule("3")), "[kernel] has changed");
    until(|| (labels(&bench)[0]["budget"]["total"] == "3").then_some(())).expect("the new budget");
    // What a rule says is not changed by hand.
    assert_exit(&bench.daemon.tollgate(&["unlabel", &cgroup.path]), 1);
}
