//! Everything an agent might do to get away from its budget, each as a real program: it ends stopped, held, or said loudly.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tollgate_tests::{
    Client, Config, ModelServer, Truth, build_tree,
    daemon::{LIMIT, Options, Running, until},
    escapes::{self, End, ROWS, Row, Shown, User},
    reference_price::{PicoUsd, usd},
};

use super::{Bench, text};

/// How long one may go on with what it tries.
const PATIENCE: Duration = Duration::from_secs(15);
/// The same for one that should stand still by then; it is ended.
const STANDING: Duration = Duration::from_secs(5);
/// How long nothing more may arrive after its end.
const AFTER: Duration = Duration::from_millis(200);

/// A server in plaintext on this host costs nothing by itself.
const PRICES: &str = r#"
[[price.override]]
name = "4o"
host = "localhost*"
model = "gpt-4o*"
per_million_tokens = { input = "2.5", cache_read = "1.25", output = "10" }
"#;

/// What all ways out share.
struct Prison {
    bench: Bench,
    plain: ModelServer,
    native: PathBuf,
    /// Everybody may read it, also who has no rights.
    directory: TempDir,
    outside: Child,
}

#[test]
fn no_way_out_is_silent() {
    let mut prison = Prison::build();
    // While one is worked on: `TOLLGATE_ESCAPES=woken,traced`.
    let only = std::env::var("TOLLGATE_ESCAPES").ok();
    let is_wanted = |row: &&Row| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == row.name));
    let mut shown = Vec::new();
    for row in ROWS.iter().filter(is_wanted) {
        let began = Instant::now();
        let before = prison.truths(row.name).len();
        assert_eq!(before, 0, "{} was tried before", row.name);
        let failure = catch_unwind(AssertUnwindSafe(|| prison.try_row(row))).err().map(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            text.unwrap_or("a panic without a text").to_owned()
        });
        let calls = billed(&prison.truths(row.name)).len();
        let verdict = failure.as_deref().unwrap_or(row.end.name());
        println!("{}: {verdict} ({calls} calls, {:.1} s)", row.name, began.elapsed().as_secs_f64());
        shown.push(Shown { name: row.name.to_owned(), calls, failure });
    }
    if only.is_none() {
        let path = build_tree::target_dir().expect("the target directory").join("escapes.json");
        fs::write(&path, serde_json::to_string_pretty(&shown).expect("results as JSON")).expect("writing the results");
    }
    let failed: Vec<_> = shown.iter().filter(|row| row.failure.is_some()).map(|row| row.name.as_str()).collect();
    assert!(failed.is_empty(), "not as expected: {failed:?}");
}

/// Decisions do not wait for the disk, and nobody is left in the belief that what is spent is kept.
#[test]
fn a_ledger_that_cannot_be_written_opens_no_gate() {
    let mut bench = Bench::new();
    bench.daemon.terminate();
    let disk = SmallDisk::mount(&bench.daemon.state_dir());
    bench.daemon.restart();
    let task = "full-disk";
    let ask =
        serde_json::json!({"input_tokens": 1000, "cached_tokens": 0, "output_tokens": 100, "reasoning_tokens": 0});
    let client = Client::loop_agent(&bench.server, task).asking(&ask).with(&["--pause-ms", "30"]);
    let agent = bench.daemon.spawn(task, super::CAP, &client);
    bench.server.wait_until(LIMIT, |truths| truths.len() >= 3).expect("calls");
    disk.fill();
    let said = |decision: &str| {
        let is_said = || bench.daemon.alerts().into_iter().find(|alert| alert["TOLLGATE_DECISION"] == decision);
        until(is_said).unwrap_or_else(|| panic!("no alert `{decision}`: {:#?}", bench.daemon.alerts()))
    };
    assert!(said("ledger-failed")["MESSAGE"].to_string().contains("cannot be written"));
    said("killed");
    let truths = bench.server.truth_of(task);
    super::cap::assert_capped(&truths);
    assert!(truths.len() > 10, "{truths:#?}");
    disk.free();
    said("ledger-written");
    super::assert_exit(&agent.wait(), 137);
    let report = bench.daemon.report_when(task, |report| report.state == "stopped");
    assert_eq!(report.spent(), truths.iter().map(Truth::cost).sum::<PicoUsd>(), "nothing is missing");

    // And one that somebody has taken away.
    fs::remove_file(bench.daemon.state_dir().join("ledger.db")).expect("removing the ledger");
    let failures = || bench.daemon.alerts().into_iter().filter(|alert| alert["TOLLGATE_DECISION"] == "ledger-failed");
    let last = until(|| failures().nth(1)).expect("nobody is told");
    assert!(last["MESSAGE"].to_string().contains("is gone"), "{last}");
}

/// A file system of its own for the state directory.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Self {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(path).status();
        assert!(status.expect("mount").success());
        Self(path.to_owned())
    }

    /// Not a byte is left.
    fn fill(&self) {
        let full = fs::write(self.0.join("filling"), vec![0; 8 << 20]);
        assert!(full.is_err(), "the disk is larger than it was made");
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filling")).expect("removing what fills the disk");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The daemon still has files there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn billed(truths: &[Truth]) -> Vec<&Truth> {
    truths.iter().filter(|truth| truth.call.is_some()).collect()
}

impl Prison {
    fn build() -> Self {
        let native = escapes::native().expect("the programs in C");
        let plain = ModelServer::start(Config { plain: true, ..Config::default() }).expect("the server without TLS");
        let bench = Bench::with_options(Config::default(), &Options { config: Some(PRICES.into()) });
        let directory = tempfile::Builder::new().prefix("escape-").tempdir().expect("a temporary directory");
        open_to_all(directory.path(), 0o755);
        let scripts = directory.path().join("scripts");
        copy_all(&build_tree::scripts().join("escape"), &scripts);
        let readable = directory.path().join("native");
        copy_all(&native, &readable);
        fs::copy(&bench.server.ca_path, directory.path().join("ca.pem")).expect("copying the certificate");
        let mut command = Command::new("/usr/bin/python3");
        command.arg(scripts.join("outside.py")).stdin(Stdio::null());
        let common = Common { bench: &bench, plain: &plain, directory: directory.path() };
        common.environment(&mut command, "outside", directory.path());
        let outside = command.spawn().expect("a process outside of all tasks");
        let prison = Self { bench, plain, native: readable, directory, outside };
        until(|| prison.path("victim.fd").exists().then_some(())).expect("the process outside listens");
        prison
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn truths(&self, client: &str) -> Vec<Truth> {
        let mut truths = self.bench.server.truth_of(client);
        truths.extend(self.plain.truth_of(client));
        truths.sort_by_key(|truth| truth.arrived_us);
        truths
    }

    /// The command that tries it, in a task of its own.
    fn command(&self, row: &Row, place: &Path, away: &Path) -> Command {
        let mut command = self.bench.daemon.command(&["run", "--task", row.name, "--budget", row.cap, "--limit"]);
        command.args(["kill_grace_seconds=1", "--"]);
        if row.user == User::Nobody {
            command.args(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
        }
        command.args(["sh", "-c", row.start]);
        let common = Common { bench: &self.bench, plain: &self.plain, directory: self.directory.path() };
        common.environment(&mut command, row.name, place);
        let tollgate = self.bench.daemon.command(&["status"]);
        command
            .env("NATIVE", &self.native)
            .env("TASK", row.name)
            .env("TOLLGATE", tollgate.get_program())
            .env("SOCKET", self.bench.daemon.socket())
            .env("STATE", self.bench.daemon.state_dir())
            .env("DAEMON", self.bench.daemon.pid().to_string())
            .env("VICTIM", self.outside.id().to_string())
            .env("AWAY", away)
            .env("PORT", self.bench.server.addr.port().to_string())
            .env("BODY", "import sys, agent; sys.stdout.buffer.write(agent.body())")
            .env("REQUEST", "import sys, agent; agent.tried('a request'); sys.stdout.buffer.write(agent.request())");
        command
    }

    fn try_row(&mut self, row: &Row) {
        let place = self.path(row.name);
        fs::create_dir(&place).expect("making its directory");
        open_to_all(&place, 0o777);
        let away = Away::new(row.name);
        let mut running = Running::start(&mut self.command(row, &place, away.0.as_path()));
        if row.name == "kill-daemon" {
            self.replace_daemon();
        }
        let began = Instant::now();
        let is_over = |state: &str| matches!(state, "stopped" | "ended");
        let state = || {
            let tasks = self.bench.daemon.status().tasks;
            tasks.into_iter().find(|task| task.task == row.name).map(|task| task.state).unwrap_or_default()
        };
        let patience = if row.end == End::Held { STANDING } else { PATIENCE };
        while began.elapsed() < patience && (running.is_running() || !is_over(&state())) {
            thread::sleep(Duration::from_millis(50));
        }
        let stood = state();
        if !is_over(&stood) {
            self.bench.daemon.tollgate(&["kill", row.name]);
        }
        let output = running.wait();
        let ended = until(|| Some(state()).filter(|state| is_over(state)));
        thread::sleep(AFTER);
        let said = format!("{}\n{}", text(&output.stdout), text(&output.stderr));
        let tried = fs::read_to_string(place.join("tried")).unwrap_or_default();
        assert!(!tried.is_empty(), "it was not tried: {said}");
        let alerts = self.alerts(row.name);
        let truths = self.truths(row.name);
        let context = || format!("{stood}, {} calls; tried: {tried}said: {said}\n{alerts:#?}", billed(&truths).len());
        assert!(ended.is_some(), "it does not end: {}", context());
        if let Some((decision, words)) = row.alert {
            let is_said = |alert: &(String, String)| alert.0 == decision && alert.1.contains(words);
            assert!(alerts.iter().any(is_said), "nobody is told: {}", context());
        }
        if row.end == End::Reported {
            // Two calls of the one that follows were made while no daemon was there.
            let after = billed(&truths).iter().map(|truth| truth.cost()).sum::<PicoUsd>();
            assert!(row.name != "kill-daemon" || after <= usd(row.cap) + usd("0.007"), "it goes on: {}", context());
            return;
        }
        assert_capped(&truths, row.cap, &context());
        if row.end == End::Stopped {
            // The cap was reached, or the next calls would have passed it: also the first, where what is tried is held for as well.
            let is_close = |alert: &(String, String)| alert.0 == "kill" && alert.1.contains(row.cap);
            let is_at_cap = billed(&truths).iter().map(|truth| truth.cost()).sum::<PicoUsd>() >= usd(row.cap)
                || alerts.iter().any(is_close);
            assert!(is_at_cap, "it never came to its cap: {}", context());
            assert_eq!(stood, "stopped", "it was not stopped: {}", context());
            assert!(alerts.iter().any(|(decision, _)| decision == "kill"), "nobody is told: {}", context());
        }
    }

    /// It was killed by what is tried; whoever watches over it starts another one.
    fn replace_daemon(&mut self) {
        let gone = until(|| fs::read_to_string(self.path("kill-daemon").join("tried")).ok());
        assert!(gone.is_some(), "the daemon lives");
        self.bench.daemon.kill9();
        self.bench.daemon.restart();
        fs::write(self.path("kill-daemon").join("back"), "").expect("telling it that another one is there");
    }

    fn alerts(&self, task: &str) -> Vec<(String, String)> {
        let word = |alert: &serde_json::Value, name: &str| alert[name].as_str().unwrap_or_default().to_owned();
        let alerts = self.bench.daemon.alerts();
        let of_task = alerts.iter().filter(|alert| alert["TOLLGATE_TASK"] == task);
        of_task.map(|alert| (word(alert, "TOLLGATE_DECISION"), word(alert, "MESSAGE"))).collect()
    }
}

impl Drop for Prison {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
    }
}

/// No request arrived once the cap was reached, and less than one call was spent above it.
#[track_caller]
fn assert_capped(truths: &[Truth], cap: &str, context: &str) {
    let cap = usd(cap);
    for truth in truths {
        let before: PicoUsd = truths
            .iter()
            .filter(|other| other.ended_us.is_some_and(|ended| ended <= truth.arrived_us))
            .map(Truth::cost)
            .sum();
        assert!(before < cap, "a request arrived when {before} pico-USD had been billed: {context}");
    }
    let spent: PicoUsd = truths.iter().map(Truth::cost).sum();
    let largest = truths.iter().map(Truth::cost).max().unwrap_or_default();
    assert!(spent < cap + largest.max(1), "{spent} pico-USD were spent: {context}");
}

/// What the programs read in their environment, in a task or not.
struct Common<'a> {
    bench: &'a Bench,
    plain: &'a ModelServer,
    directory: &'a Path,
}

impl Common<'_> {
    fn environment(&self, command: &mut Command, client: &str, place: &Path) {
        for proxy in ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"] {
            command.env_remove(proxy);
        }
        let scripts = self.directory.join("scripts");
        command
            .env("CLIENT", client)
            .env("BASE", &self.bench.server.base_url)
            .env("PLAIN", &self.plain.base_url)
            .env("CA", self.directory.join("ca.pem"))
            .env("PYTHONPATH", &scripts)
            .env("SCRIPTS", scripts)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NO_PROXY", "*")
            .env("DIR", place)
            .env("TRIED", place.join("tried"))
            .env("VICTIM_FD", self.directory.join("victim.fd"))
            // As services that start processes name theirs.
            .env("OUTSIDE", self.directory.join("docker.sock"))
            .current_dir(self.directory);
    }
}

/// A cgroup outside of every task.
struct Away(PathBuf);

impl Away {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("the mounts");
        let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let root = fields.into_iter().find(|fields| fields[2] == "cgroup2").expect("cgroup v2").swap_remove(1);
        let path = Path::new(root).join(format!("tollgate-away-{name}"));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        Self(path)
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        // A zombie keeps it for a moment.
        let gone = until(|| fs::remove_dir(&self.0).is_ok().then_some(()));
        if gone.is_none() {
            eprintln!("{} is not empty", self.0.display());
        }
    }
}

fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("rights of a directory");
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir(to).expect("making a directory");
    open_to_all(to, 0o755);
    for entry in fs::read_dir(from).expect("a directory").map(|entry| entry.expect("an entry")) {
        if entry.file_type().expect("its kind").is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copying a file");
        }
    }
}
