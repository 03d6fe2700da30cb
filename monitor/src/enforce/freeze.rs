//! Pausing a task: its cgroup is frozen, and members outside of it are stopped.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{
    cgroup::{Cgroup, CgroupError},
    stop::{Held, held_state, signal, wait_until},
};
use crate::probe::Pid;

#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("not everything is frozen after {0:?}")]
    Moving(Duration),
    #[error("not everything goes on after {0:?}")]
    Frozen(Duration),
    #[error("the cgroup {path} is frozen, and so is everything in it: `echo 0 > {path}/cgroup.freeze` lets it go on", path = .0.display())]
    Above(PathBuf),
}

/// A process in the middle of a system call that cannot be interrupted freezes when that ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Freezes everything, and returns when nothing runs any more. `strays` are members that have moved to other cgroups.
///
/// # Errors
/// When something still runs after a while; what is frozen stays so.
pub fn freeze(cgroup: &Cgroup, strays: &[Pid]) -> Result<(), FreezeError> {
    cgroup.set_frozen(true)?;
    for &pid in strays {
        // Gone already is as good.
        signal(pid, Signal::SIGSTOP).ok();
    }
    let is_still = || cgroup.is_frozen() && strays.iter().all(|&pid| held_state(pid) != Held::Stopping);
    wait_until(Instant::now() + PATIENCE, is_still);
    if is_still() { Ok(()) } else { Err(FreezeError::Moving(PATIENCE)) }
}

/// Lets everything go on but `held`, which wait at the gate.
///
/// # Errors
/// When the cgroup stays frozen.
pub fn thaw(cgroup: &Cgroup, strays: &[Pid], held: &[Pid]) -> Result<(), FreezeError> {
    cgroup.set_frozen(false)?;
    for &pid in strays.iter().filter(|pid| !held.contains(pid)) {
        signal(pid, Signal::SIGCONT).ok();
    }
    wait_until(Instant::now() + PATIENCE, || !cgroup.is_frozen());
    if cgroup.is_frozen() { Err(FreezeError::Frozen(PATIENCE)) } else { Ok(()) }
}

impl Cgroup {
    /// Thaws what nobody is paused by any more: a cgroup that was left behind frozen would stop whoever comes into it.
    ///
    /// # Errors
    /// When it stays frozen, by itself or by one above it.
    pub fn thaw_left_over(&self) -> Result<(), FreezeError> {
        if fs::read_to_string(self.path().join("cgroup.freeze")).is_ok_and(|frozen| frozen.trim() == "1") {
            self.set_frozen(false)?;
        }
        let is_frozen =
            |path: &&Path| fs::read_to_string(path.join("cgroup.freeze")).is_ok_and(|frozen| frozen.trim() == "1");
        self.path().ancestors().find(is_frozen).map_or(Ok(()), |path| Err(FreezeError::Above(path.into())))
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Whether nothing in it and below runs. One that is gone has nothing that could.
    pub fn is_frozen(&self) -> bool {
        fs::read_to_string(self.path().join("cgroup.events"))
            .map_or(true, |events| events.lines().any(|line| line == "frozen 1"))
    }
}
