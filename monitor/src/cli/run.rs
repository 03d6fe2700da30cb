//! `tollgate run`.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::process::ExitStatusExt as _},
    process::{Child, Command, ExitCode, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM},
    iterator::Signals,
    low_level::emulate_default_handler,
};

use super::{Socket, exit, join, scope, wait_for};
use crate::{
    api::{StartTask, client::Client},
    budget::{OnDaemonLoss, Settings},
    enforce::{Cgroup, Held, held_state, resume},
    engine::Started,
    price::Money,
    report::Report,
    task::{Label, Labels, TaskId},
};

/// Run a command as a task with a budget
///
/// The command and everything it starts is metered, and stopped when the task has spent its budget. Terminal, signals, job control and
/// exit code are the command's own; 137 and a line that says why when it was stopped at its cap. A task that is run again goes on with
/// what it has spent.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the task [default: a new one for each run]
    #[arg(long)]
    task: Option<TaskId>,
    /// What the task may spend in all, in USD, like 2.00 [default: no cap, metered only]
    #[arg(long, value_name = "USD")]
    budget: Option<Money>,
    /// Another limit, or what is done at it: like `hour=0.50`, `requests=100`, `holds=worst-case` or `ladder=warn@80,pause@100`
    ///
    /// All settings of a budget in the configuration can be given. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE")]
    limit: Vec<String>,
    /// What is done about connections that cannot be read: `alert`, `estimate` what they cost, or `deny` [default: estimate]
    #[arg(long, value_parser = ["alert", "estimate", "deny"], value_name = "POLICY")]
    uncovered: Option<String>,
    /// Business unit that pays with the task
    #[arg(long, conflicts_with = "parent")]
    tenant: Option<Label>,
    /// What the task is an instance of
    #[arg(long, conflicts_with = "parent")]
    workflow: Option<Label>,
    /// Task that this one is a part of: it pays for it too
    #[arg(long, value_name = "TASK")]
    parent: Option<TaskId>,
    /// Run it in a cgroup that the daemon makes, also where systemd could make a scope for it
    #[arg(long)]
    no_scope: bool,
    #[command(flatten)]
    socket: Socket,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// How long the daemon may take to end a task that it is stopping.
const STOPPING: Duration = Duration::from_secs(20);
/// How long it may take to see that nothing of the task is left. Something may be: a command can leave processes behind.
const ENDING: Duration = Duration::from_millis(500);

pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.socket.client();
    let task = args.task.clone().map_or_else(new_task, Ok)?;
    let mut budget = Settings::default();
    for limit in &args.limit {
        budget.set(limit)?;
    }
    if let Some(policy) = &args.uncovered {
        budget.set(&format!("uncovered={policy}"))?;
    }
    budget.total = args.budget.or(budget.total);
    budget.budget()?;
    let labels = Labels { tenant: args.tenant.clone(), workflow: args.workflow.clone(), parent: args.parent.clone() };
    let mut start = StartTask { task: task.clone(), labels, budget, cgroup: None };

    // Before the child, so that no signal of the terminal is missed. Stopping is left alone: a terminal stops both.
    let signals = Signals::new([SIGINT, SIGQUIT, SIGTERM, SIGHUP])?;
    let (waits, mut word) = io::pipe().context("cannot make a pipe")?;
    // The child is to have it after it has become the program that it starts with.
    fcntl(&waits, FcntlArg::F_SETFD(FdFlag::empty())).context("cannot pass a pipe on")?;
    let this = std::env::current_exe().context("cannot find this program")?;
    let mut child = Command::new(this)
        .arg("join")
        .arg("--task")
        .arg(task.as_str())
        .arg("--word")
        .arg(waits.as_raw_fd().to_string())
        .arg("--socket")
        .arg(&args.socket.socket)
        .arg("--")
        .args(&args.command)
        .spawn()
        .context("cannot start a process")?;
    drop(waits);
    if scope::is_there() && !args.no_scope {
        match wait_for(scope::make(&task, start.budget.total, child.id()))? {
            Ok(cgroup) => start.cgroup = Some(cgroup),
            Err(error) => eprintln!("tollgate: task {task} runs in no scope of systemd: {}", super::one_line(&error)),
        }
    }
    let started: Result<Started> = wait_for(client.post("/v1/tasks", &start))?.map_err(Into::into);
    let started = match started {
        Ok(started) => started,
        Err(error) => {
            // Without a word it ends.
            drop(word);
            wait(&mut child)?;
            return Err(error);
        }
    };
    let is_inside = start.cgroup.is_some_and(|cgroup| started.cgroup.ends_with(cgroup.trim_start_matches('/')));
    word.write_all(if is_inside { join::INSIDE } else { join::JOIN }).context("the command's process is gone")?;
    drop(word);
    forward(signals, &child)?;
    watch(client.clone(), task.clone(), started)?;
    let status = wait(&mut child)?;
    let report = after(&client, &task);
    leave(&task, status, report.as_ref())
}

/// A name that no other run has: this process' id and when it started.
fn new_task() -> Result<TaskId> {
    let second = jiff::Timestamp::now().as_second();
    Ok(format!("run-{second}-{}", std::process::id()).parse()?)
}

/// A signal that the terminal sends reaches the command by itself; one that is sent to this process is passed on.
fn forward(mut signals: Signals, child: &Child) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let handle = move || {
        for signal in signals.forever() {
            if matches!(signal, SIGTERM | SIGHUP)
                && let Ok(signal) = Signal::try_from(signal)
            {
                // The command may be gone already.
                kill(pid, signal).ok();
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(handle)?;
    Ok(())
}

/// Sees whether the daemon lives as long as the task. If not, what it held waits for the next one, or goes on if that is the task's policy.
fn watch(client: Client, task: TaskId, started: Started) -> Result<()> {
    let watch = move || {
        let over = wait_for(client.get::<TaskId>(&format!("/v1/tasks/{task}/wait")));
        if matches!(over, Ok(Ok(_))) {
            return;
        }
        if started.on_daemon_loss == OnDaemonLoss::Hold {
            eprintln!("tollgate: the daemon is gone; what task {task} may not spend without it waits until it is back");
            return;
        }
        eprintln!("tollgate: the daemon is gone; task {task} goes on, and nobody stops it until the daemon is back");
        let processes = Cgroup::open(started.cgroup).iter().flat_map(Cgroup::processes).collect::<Vec<_>>();
        for pid in processes.into_iter().filter(|&pid| held_state(pid) == Held::Stopped) {
            resume(pid);
        }
    };
    thread::Builder::new().name("watch".into()).spawn(watch)?;
    Ok(())
}

fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        match child.wait() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.context("cannot wait for the command"),
        }
    }
}

/// The report once the task is over, or goes on without the command. `None` when the daemon is gone.
fn after(client: &Client, task: &TaskId) -> Option<Report> {
    let began = Instant::now();
    loop {
        let report: Report = wait_for(client.get(&format!("/v1/tasks/{task}/report"))).ok()?.ok()?;
        let patience = match report.state.as_str() {
            "stopped" | "ended" => return Some(report),
            "stopping" => STOPPING,
            _ => ENDING,
        };
        if began.elapsed() > patience {
            return Some(report);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Ends as the command did.
fn leave(task: &TaskId, status: ExitStatus, report: Option<&Report>) -> Result<ExitCode> {
    if let Some(stopped) = report.and_then(|report| report.stopped.as_ref()) {
        eprintln!("tollgate: task {task} was stopped: {}", stopped.reason);
        return Ok(ExitCode::from(exit::KILLED));
    }
    if report.is_none() {
        eprintln!("tollgate: the daemon is gone; task {task} was not metered to its end");
    }
    if let Some(code) = status.code() {
        return Ok(ExitCode::from(u8::try_from(code).unwrap_or(exit::FAILURE)));
    }
    let signal = status.signal().unwrap_or(9);
    // A shell that waits for us should see what it would have seen without us. SIGKILL cannot be sent to oneself with a message.
    emulate_default_handler(signal).ok();
    Ok(ExitCode::from(u8::try_from(128 + signal).unwrap_or(exit::FAILURE)))
}
