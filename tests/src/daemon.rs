//! The real daemon, private to one test: its own state directory and socket.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    Client, build_tree,
    report::{Report, Status},
};

/// How long anything may take before a test fails instead of waiting on. Generous: machines may be busy or emulated.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Pause between two looks at something that gives no sign when it changes.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Text of its configuration file; without it, there is none.
    pub config: Option<String>,
}

/// A bpffs of its own, on which a daemon's gates outlive it and do not outlive the test.
#[derive(Debug)]
struct Bpffs(PathBuf);

impl Bpffs {
    fn mount(path: PathBuf) -> Self {
        std::fs::create_dir(&path).expect("a directory to mount a bpffs at");
        mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>).expect("mounting a bpffs");
        Self(path)
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        // Whoever still looks at it sees it until then; nobody finds it any more.
        if let Err(error) = umount2(&self.0, MntFlags::MNT_DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// A running daemon; it is terminated and reaped when dropped.
#[derive(Debug)]
pub struct Daemon {
    binary: &'static Path,
    directory: TempDir,
    config: Option<PathBuf>,
    process: Option<Watched>,
    /// Dropped after the process has ended, and before the directory goes.
    bpffs: Option<Bpffs>,
    /// Daemons share the kernel: one test at a time, also between test processes.
    _turn: File,
}

/// A child process whose standard error is collected as it comes.
#[derive(Debug)]
struct Watched {
    child: Child,
    stderr: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Starts a daemon and waits until it is ready.
    ///
    /// # Panics
    /// When it cannot be built or does not become ready; the message has what it said.
    pub fn start(options: &Options) -> Self {
        let binary = build_tree::tollgate().unwrap_or_else(|error| panic!("{error:#}"));
        let turn = take_turn();
        let directory = tempfile::Builder::new().prefix("tollgate-").tempdir().expect("a temporary directory");
        let config = options.config.as_ref().map(|text| {
            let path = directory.path().join("tollgate.toml");
            std::fs::write(&path, text).expect("writing the configuration");
            path
        });
        let bpffs = Some(Bpffs::mount(directory.path().join("bpf")));
        let mut daemon = Self { binary, directory, config, process: None, bpffs, _turn: turn };
        daemon.restart();
        daemon
    }

    /// Starts the daemon again on the same state, after [`Self::kill9`] or [`Self::terminate`].
    ///
    /// # Panics
    /// When it still runs or does not become ready.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the daemon still runs");
        let mut command = self.daemon_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", self.binary.display()));
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (pipe, lines) = (child.stderr.take().expect("piped"), Arc::clone(&stderr));
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        self.process = Some(Watched { child, stderr });
        let ready = until(|| {
            if let Some(status) = self.exited() {
                panic!("the daemon ended before it was ready: {status}\n{}", self.stderr().join("\n"));
            }
            self.tollgate(&["status"]).status.success().then_some(())
        });
        ready.unwrap_or_else(|| panic!("the daemon did not become ready\n{}", self.stderr().join("\n")));
    }

    /// The command that starts a daemon like this one.
    pub fn daemon_command(&self) -> Command {
        let mut command = Command::new(self.binary);
        command.arg("daemon").arg("--state-dir").arg(self.state_dir()).arg("--socket").arg(self.socket());
        command.arg("--pin-dir").arg(self.pin_dir());
        if let Some(config) = &self.config {
            command.arg("--config").arg(config);
        }
        command
    }

    /// The program.
    pub fn binary(&self) -> &Path {
        self.binary
    }

    /// The configuration of the next start.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set_config(&mut self, text: &str) {
        let path = self.directory.path().join("tollgate.toml");
        std::fs::write(&path, text).expect("writing the configuration");
        self.config = Some(path);
    }

    /// Where what outlives the daemon is pinned.
    pub fn pin_dir(&self) -> PathBuf {
        self.directory.path().join("bpf/tollgate")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("tollgate.sock")
    }

    /// # Panics
    /// When the daemon does not run.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the daemon runs").child.id()
    }

    /// What the daemon has written to standard error since its last start.
    pub fn stderr(&self) -> Vec<String> {
        let lines = self.process.as_ref().map(|process| Arc::clone(&process.stderr));
        lines.map(|lines| lines.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap_or_default()
    }

    /// The alerts among it: JSON lines with `TOLLGATE_…` fields.
    pub fn alerts(&self) -> Vec<Value> {
        let json = self.stderr().into_iter().filter_map(|line| serde_json::from_str::<Value>(&line).ok());
        json.filter(|line| line["TOLLGATE_DECISION"].is_string()).collect()
    }

    /// Kills the daemon at once, so that it cannot tidy up.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.child.kill().expect("killing the daemon");
        process.child.wait().expect("reaping the daemon");
    }

    /// Asks the daemon to end, and waits until it has; kills it after a while.
    ///
    /// # Panics
    /// When it does not run.
    pub fn terminate(&mut self) -> ExitStatus {
        end(&mut self.process.take().expect("the daemon runs").child)
    }

    /// Runs `tollgate SUBCOMMAND --socket … ARGUMENTS…` to its end.
    ///
    /// # Panics
    /// When it cannot be run, or hangs.
    pub fn tollgate(&self, arguments: &[&str]) -> Output {
        bounded(&mut self.command(arguments))
    }

    /// A `tollgate` command that talks to this daemon.
    ///
    /// # Panics
    /// Without a subcommand.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let (subcommand, rest) = arguments.split_first().expect("a subcommand");
        let mut command = Command::new(self.binary);
        command.arg(subcommand).arg("--socket").arg(self.socket()).args(rest).stdin(Stdio::null());
        command
    }

    /// Runs a client under `tollgate run` to its end.
    ///
    /// # Panics
    /// When it cannot be run, or hangs.
    pub fn run(&self, task: &str, budget: &str, client: &Client) -> Output {
        bounded(&mut self.run_command(task, budget, &[], client))
    }

    /// Runs a client under `tollgate run`, with further options, to its end.
    ///
    /// # Panics
    /// When it cannot be run, or hangs.
    pub fn run_with(&self, task: &str, budget: &str, options: &[&str], client: &Client) -> Output {
        bounded(&mut self.run_command(task, budget, options, client))
    }

    /// Starts a client under `tollgate run`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&self, task: &str, budget: &str, client: &Client) -> Running {
        Running::start(&mut self.run_command(task, budget, &[], client))
    }

    /// Starts a client under `tollgate run`, with further options.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_with(&self, task: &str, budget: &str, options: &[&str], client: &Client) -> Running {
        Running::start(&mut self.run_command(task, budget, options, client))
    }

    fn run_command(&self, task: &str, budget: &str, options: &[&str], client: &Client) -> Command {
        let mut command = self.command(&["run", "--task", task, "--budget", budget]);
        command.args(options).arg("--");
        client.prepare(command.args(client.command_line()));
        command
    }

    /// `tollgate report` of a task.
    ///
    /// # Panics
    /// When it fails, or is not the agreed JSON.
    pub fn report(&self, task: &str) -> Report {
        self.json(&["report", "--task", task, "--json"])
    }

    /// The report, once it is as wanted or a while has passed: what has been read from the kernel may be on its way.
    pub fn report_when(&self, task: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let wanted_report = until(|| Some(self.report(task)).filter(&wanted));
        wanted_report.unwrap_or_else(|| self.report(task))
    }

    /// `tollgate status`.
    ///
    /// # Panics
    /// When it fails, or is not the agreed JSON.
    pub fn status(&self) -> Status {
        self.json(&["status", "--json"])
    }

    /// `tollgate status --maps`: how many entries each map of the kernel has.
    ///
    /// # Panics
    /// As [`status`](Self::status).
    pub fn fullness(&self) -> BTreeMap<String, u64> {
        let maps: Vec<Value> = self.json(&["status", "--maps", "--json"]);
        let entries = |map: &Value| Some((map["map"].as_str()?.to_owned(), map["entries"].as_u64()?));
        maps.iter().map(|map| entries(map).unwrap_or_else(|| panic!("not a map: {map}"))).collect()
    }

    fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> T {
        let output = self.tollgate(arguments);
        let (said, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "tollgate {arguments:?}: {}\n{stderr}", output.status);
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("tollgate {arguments:?}: {error}\n{said}"))
    }

    fn exited(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|process| process.child.try_wait().ok().flatten())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            end(&mut process.child);
            if thread::panicking() {
                let lines = process.stderr.lock().unwrap_or_else(PoisonError::into_inner);
                eprintln!("--- the daemon said:\n{}", lines.join("\n"));
            }
        }
        self.bpffs = None;
    }
}

/// A command that runs; it is ended when dropped. What it prints goes to files, so that whoever inherits its output
/// cannot keep a test waiting.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    stdout: File,
    stderr: File,
}

impl Running {
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Self {
        let file = || tempfile::tempfile().expect("a temporary file");
        let (stdout, stderr) = (file(), file());
        let writer = |file: &File| file.try_clone().expect("another handle of a file");
        let child = command.stdout(writer(&stdout)).stderr(writer(&stderr)).spawn();
        let child = child.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display()));
        Self { child: Some(child), stdout, stderr }
    }

    /// Whether it has not ended yet.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("looking at a child").is_none())
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it is not there within [`LIMIT`].
    pub fn wait(mut self) -> Output {
        let mut child = self.child.take().expect("waited for once");
        let ended = until(|| child.try_wait().expect("waiting for a child"));
        let hung = ended.is_none();
        let status = ended.unwrap_or_else(|| end(&mut child));
        let output = Output { status, stdout: contents(&self.stdout), stderr: contents(&self.stderr) };
        assert!(!hung, "still running after {LIMIT:?}: {output:?}");
        output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            end(child);
        }
    }
}

fn contents(mut file: &File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).expect("reading what a child wrote");
    bytes
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be run, or does not end within [`LIMIT`].
pub fn bounded(command: &mut Command) -> Output {
    Running::start(command).wait()
}

/// Waits for the turn of this test.
fn take_turn() -> File {
    let path = build_tree::target_dir().unwrap_or_else(|error| panic!("{error:#}")).join("live-tests.lock");
    let file = File::create(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    file
}

/// Looks again and again until there is a result; `None` after [`LIMIT`].
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if start.elapsed() > LIMIT {
            return None;
        }
        thread::sleep(LOOK_AGAIN);
    }
}

/// Terminates a child, kills it if that does not help, and reaps it.
fn end(child: &mut Child) -> ExitStatus {
    let pid = i32::try_from(child.id()).expect("a pid");
    if child.try_wait().expect("looking at a child").is_none() {
        // It may end on its own between the look and the signal; it is not reaped yet, so the pid is still its own.
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if let Some(status) = until(|| child.try_wait().expect("waiting for a child")) {
        return status;
    }
    child.kill().expect("killing a child");
    child.wait().expect("reaping a child")
}
