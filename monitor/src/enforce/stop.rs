//! Stopping, resuming and killing processes.

use std::{
    fs,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, kill},
    unistd::Pid as NixPid,
};

use super::cgroup::{Cgroup, CgroupError};
use crate::probe::Pid;

/// How far a process that was sent `SIGSTOP` has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Some thread still runs: it may yet come to the gate.
    Stopping,
    /// Every thread is stopped.
    Stopped,
    Gone,
}

/// Looks at every thread: a process is only stopped when all of its threads are.
pub fn held_state(pid: Pid) -> Held {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Held::Gone };
    for thread in threads.flatten() {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // `pid (comm) state …`; the name may contain parentheses, so the last one counts.
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        if !matches!(state, Some('T' | 't' | 'Z' | 'X') | None) {
            return Held::Stopping;
        }
    }
    Held::Stopped
}

pub(super) fn signal(pid: Pid, signal: Signal) -> Result<(), Errno> {
    let Ok(pid) = i32::try_from(pid) else { return Err(Errno::ESRCH) };
    // 0 and negative numbers mean groups of processes, this daemon's own among them.
    if pid <= 1 { Err(Errno::ESRCH) } else { kill(NixPid::from_raw(pid), signal) }
}

/// Stops a process, for a moment. Never this daemon, which would not wake again.
pub fn stop(pid: Pid) -> bool {
    pid != std::process::id() && signal(pid, Signal::SIGSTOP).is_ok()
}

/// Lets a held process go on.
pub fn resume(pid: Pid) -> bool {
    signal(pid, Signal::SIGCONT).is_ok()
}

/// Ends one process, wherever it stands.
pub fn kill_process(pid: Pid) -> bool {
    signal(pid, Signal::SIGKILL).is_ok()
}

/// What a kill did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Killed {
    /// Processes that were there when it began.
    pub processes: usize,
    /// Of these, how many did not go by themselves within the grace time.
    pub forced: usize,
    /// From the first signal until nothing was left.
    pub took: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum KillError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{0} processes of the task still run {1:?} after SIGKILL")]
    Alive(usize, Duration),
}

/// How often a kill looks whether everything is gone.
const POLL: Duration = Duration::from_micros(500);
/// How long `SIGKILL` may take: a process in an uninterruptible sleep goes when it wakes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Ends a task whose gate is already shut: `SIGTERM`, `grace`, `cgroup.kill`, until nothing is left.
///
/// `held` processes are stopped in front of a request; they are killed without being woken, for a `SIGTERM` would be taken only after
/// the request left. `strays` are members that have moved to other cgroups.
///
/// # Errors
/// When something is still alive in the end.
pub fn kill_task(cgroup: &Cgroup, held: &[Pid], strays: &[Pid], grace: Duration) -> Result<Killed, KillError> {
    let began = Instant::now();
    let mut processes = cgroup.processes();
    processes.extend(strays);
    processes.sort_unstable();
    processes.dedup();
    for &pid in held {
        // Gone already is as good.
        signal(pid, Signal::SIGKILL).ok();
    }
    for &pid in processes.iter().filter(|pid| !held.contains(pid)) {
        signal(pid, Signal::SIGTERM).ok();
    }
    wait_until(began + grace, || {
        // One that is stopped would take its `SIGTERM` only when it is woken, and send what it was stopped in front of.
        for pid in cgroup.processes().into_iter().chain(strays.iter().copied()) {
            if held_state(pid) == Held::Stopped {
                signal(pid, Signal::SIGKILL).ok();
            }
        }
        alive(cgroup, strays) == 0
    });
    let forced = alive(cgroup, strays);
    let deadline = Instant::now() + PATIENCE;
    let mut last_error = None;
    while alive(cgroup, strays) > 0 && Instant::now() < deadline {
        last_error = cgroup.kill().err();
        for &pid in strays {
            signal(pid, Signal::SIGKILL).ok();
        }
        wait_until(Instant::now() + Duration::from_millis(50), || alive(cgroup, strays) == 0);
    }
    match (alive(cgroup, strays), last_error) {
        (0, _) => Ok(Killed { processes: processes.len(), forced, took: began.elapsed() }),
        (_, Some(error)) => Err(error.into()),
        (left, None) => Err(KillError::Alive(left, PATIENCE)),
    }
}

/// Processes that can still do something; a zombie cannot.
fn alive(cgroup: &Cgroup, strays: &[Pid]) -> usize {
    let inside = if cgroup.is_populated() { cgroup.processes().len().max(1) } else { 0 };
    inside + strays.iter().filter(|&&pid| runs(pid)).count()
}

fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next())
        .is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

pub(super) fn wait_until(deadline: Instant, mut done: impl FnMut() -> bool) {
    while !done() && Instant::now() < deadline {
        std::thread::sleep(POLL);
    }
}
