//! `cargo xtask run`: an agent, metered and stopped at its cap, on this machine.
//!
//! With a command, that command against the real world; without one, a sample agent against a local model server.

use std::{
    env, fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{cargo, command, root, setup, target_dir};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// What the task may spend, in USD [default: 0.05 for the sample agent, no cap for a command]
    #[arg(long, value_name = "USD")]
    budget: Option<String>,
    /// Command to run instead of the sample agent
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Name of the task.
const TASK: &str = "demo";
const SAMPLE_BUDGET: &str = "0.05";
/// How long the daemon may take to attach its probes.
const READY: Duration = Duration::from_secs(60);

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure!(setup::is_root(), "the daemon loads eBPF programs and makes cgroups: run `cargo xtask run` as root");
    setup::run()?;
    println!("building …");
    command::run(cargo().args(["build", "--quiet", "--package", "monitor", "--package", "tollgate-tests"]))?;
    let binaries = target_dir()?.join("debug");
    let scratch = Scratch::new()?;
    let daemon = Daemon::start(&binaries, &scratch.0)?;

    let mut server = None;
    let agent = if args.command.is_empty() {
        let (running, agent) = sample_agent(&binaries, &scratch.0)?;
        server = Some(running);
        agent
    } else {
        let mut agent = daemon.tollgate(&["run", "--task", TASK]);
        agent.args(args.budget.iter().flat_map(|budget| ["--budget", budget])).arg("--").args(&args.command);
        agent
    };
    let agent = match &server {
        Some(server) => {
            let budget = args.budget.as_deref().unwrap_or(SAMPLE_BUDGET);
            println!("task {TASK}: a sample agent calls a local model server until its ${budget} are spent");
            let mut run = daemon.tollgate(&["run", "--task", TASK, "--budget", budget, "--"]);
            run.arg(agent.get_program()).args(agent.get_args());
            run.env("SSL_CERT_FILE", &server.ca).stdout(Stdio::null());
            run
        }
        None => agent,
    };
    let status = watch(&daemon, agent)?;
    println!();
    command::run(&mut daemon.tollgate(&["report", "--task", TASK]))?;
    if server.is_some() {
        // Being stopped is what the sample is for.
        return if status == 137 {
            Ok(ExitCode::SUCCESS)
        } else {
            bail!("the sample agent was not stopped at its cap: exit code {status}")
        };
    }
    Ok(ExitCode::from(status))
}

/// Runs the agent and says what is spent, each time it changes.
fn watch(daemon: &Daemon, mut agent: Command) -> Result<u8> {
    let mut agent = agent.spawn().context("cannot start the agent")?;
    let mut last = String::new();
    loop {
        let ended = agent.try_wait()?;
        if let Some(line) = daemon.spend()
            && line != last
        {
            println!("{line}");
            last = line;
        }
        if let Some(status) = ended {
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            return Ok(u8::try_from(code).unwrap_or(1));
        }
        thread::sleep(Duration::from_millis(100));
    }
}

struct Server {
    child: Child,
    ca: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}

fn sample_agent(binaries: &Path, scratch: &Path) -> Result<(Server, Command)> {
    let mut child = Command::new(binaries.join("model-server"))
        .arg("--dir")
        .arg(scratch)
        .args(["--delay-ms", "10", "--exit-with-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the model server")?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("its output")?).read_line(&mut line)?;
    let said: Value = serde_json::from_str(&line).context("the model server did not say where it is")?;
    let word = |name: &str| {
        said[name].as_str().map(str::to_owned).with_context(|| format!("the model server did not say its {name}"))
    };
    let server = Server { child, ca: word("ca")? };
    // Debian's own, not a wrapper that somebody put before it on the path.
    let python = Path::new("/usr/bin/python3");
    let mut agent = Command::new(if python.is_file() { python } else { Path::new("python3") });
    agent.arg(root().join("tests/clients/loop_agent.py")).args(["--base-url", &word("base_url")?]);
    // So that one sees it spend: some ten calls.
    agent.args(["--directive", r#"{"input_tokens": 900, "output_tokens": 250}"#]);
    Ok((server, agent))
}

/// A daemon of our own, with a ledger that goes with it.
struct Daemon {
    child: Child,
    binary: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    fn start(binaries: &Path, scratch: &Path) -> Result<Self> {
        let (binary, socket) = (binaries.join("tollgate"), scratch.join("tollgate.sock"));
        let log = scratch.join("daemon.log");
        let child = Command::new(&binary)
            .args(["daemon", "--state-dir"])
            .arg(scratch.join("state"))
            .arg("--socket")
            .arg(&socket)
            // It goes with this, and nothing of it is to stay.
            .arg("--no-pins")
            .stderr(fs::File::create(&log)?)
            .spawn()
            .context("cannot start the daemon")?;
        let mut daemon = Self { child, binary, socket };
        let deadline = Instant::now() + READY;
        while daemon.status().is_none() {
            if daemon.child.try_wait()?.is_some() || Instant::now() > deadline {
                let said = fs::read_to_string(&log).unwrap_or_default();
                bail!("the daemon did not become ready: {}", said.trim());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(daemon)
    }

    fn tollgate(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments.first()).arg("--socket").arg(&self.socket).args(arguments.get(1..).unwrap_or_default());
        command
    }

    fn status(&self) -> Option<Value> {
        let output = self.tollgate(&["status", "--json"]).stderr(Stdio::null()).output().ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What the task has spent, in a line.
    fn spend(&self) -> Option<String> {
        let status = self.status()?;
        let task = status["tasks"].as_array()?.iter().find(|task| task["task"] == TASK)?.clone();
        let cap = task["cap_usd"].as_str().map(|cap| format!(" of ${cap}")).unwrap_or_default();
        Some(format!(
            "  spent ${}{cap}, {} calls, {}",
            task["spent_usd"].as_str()?,
            task["calls"],
            task["state"].as_str()?
        ))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}

/// Asks a child to end, and waits for it.
fn terminate(child: &mut Child) {
    let asked = Command::new("kill").arg(child.id().to_string()).status();
    if !asked.is_ok_and(|status| status.success()) {
        // Ended already, or it cannot be asked.
        child.kill().ok();
    }
    child.wait().ok();
}

/// A directory that goes away with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("tollgate-run-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}
