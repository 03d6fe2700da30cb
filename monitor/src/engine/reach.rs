//! What processes of tasks reach for outside of their tasks: it cannot be kept from happening, so it is said.

use std::{fs, path::Path};

use super::{clock::boot_nanoseconds, state::Engine};
use crate::{
    alert::Kind,
    enforce::resume,
    probe::{Pid, Reach, Slot},
};

/// Different things that a task is said to have reached for. After that, only that there is more.
const SAID: usize = 32;

/// Unix sockets whose other ends start processes for whoever asks, by what their paths contain.
const STARTERS: [&str; 13] = [
    "docker.sock",
    "containerd.sock",
    "podman.sock",
    "crio.sock",
    "buildkitd.sock",
    "lxd/unix.socket",
    "incus/unix.socket",
    "systemd/private",
    "systemd/io.",
    "dbus/system_bus_socket",
    "/run/user/",
    "libvirt",
    "snapd",
];

impl Engine {
    /// Wakes a process that was stopped, and lets what it sends leave, unless it was stopped for more since this moment of the boot clock.
    pub fn wake(&mut self, pid: Pid, stopped: u64) {
        if let Err(error) = self.memberships.let_go(pid, stopped) {
            tracing::error!("process {pid} is woken, and what it sends does not leave: {error}");
        }
        if !resume(pid) {
            tracing::debug!("process {pid} was gone before it could go on");
        }
    }

    /// A process of a task does what may take it, or its requests, out of the task.
    pub fn on_reached(&mut self, slot: Slot, pid: Pid, reach: Reach, detail: &[u8]) {
        // What it does is looked up only while there is something to say: it may do it a million times.
        if self.tasks.get(&slot).is_none_or(|task| task.reached.len() > SAID) {
            return;
        }
        let Some(said) = self.what_is_reached(slot, pid, reach, detail) else { return };
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        if task.reached.len() > SAID || !task.reached.insert(said.clone().into()) {
            return;
        }
        let executable = task.tree.executable(pid).unwrap_or("?");
        let message = if task.reached.len() > SAID {
            "it reaches for more outside of the task than is said here".to_owned()
        } else {
            format!("process {pid} ({executable}) {said}")
        };
        self.decide(slot, Kind::Reach, message);
    }

    /// `None` where it is the task's own.
    fn what_is_reached(&self, slot: Slot, pid: Pid, reach: Reach, detail: &[u8]) -> Option<String> {
        match reach {
            Reach::Woken => {
                Some("was stopped at the gate and woken by somebody else: what it sends waits until it may go".into())
            }
            Reach::Trace { target } => {
                let target = self.outsider(slot, pid, target)?;
                Some(format!("attaches to {target}, which is outside of the task and could make its requests (ptrace)"))
            }
            Reach::Write { target } => {
                let target = self.outsider(slot, pid, target)?;
                Some(format!("writes into {target}, which is outside of the task and could make its requests"))
            }
            Reach::Take { pidfd } => {
                let target = self.outsider(slot, pid, behind_pidfd(pid, pidfd))?;
                Some(format!("takes a descriptor of {target}, which is outside of the task (pidfd_getfd)"))
            }
            Reach::Bpf { command } => {
                Some(format!("asks for eBPF objects of others (bpf command {command}): it could take the gate apart"))
            }
            Reach::KernelTls => Some(
                "has the kernel encrypt what it sends (kTLS): of that nothing is read, and nothing is stopped".into(),
            ),
            Reach::Code => Some("makes code of a file writable: it could take a probe out of it".into()),
            Reach::Label => Some(
                "changes the label of a cgroup: it holds until the daemon starts again; `tollgate label` sets it anew"
                    .into(),
            ),
            Reach::Clock => Some("sets the clock, by which the windows of budgets turn".into()),
            Reach::Unix => {
                let path = unix_path(detail)?;
                let is_starter = STARTERS.iter().any(|starter| path.contains(starter));
                is_starter.then(|| format!("talks to {path}, which can start processes outside of the task"))
            }
            Reach::Daemon { signal } => Some(format!("sends signal {signal} to this daemon")),
            Reach::Hand { receiver, is_connection } => {
                let receiver = match receiver {
                    0 => "a process that is not known".to_owned(),
                    receiver => describe(receiver),
                };
                let then = if is_connection { ": that connection sends nothing any more" } else { "" };
                let what = if is_connection { "a connection" } else { "a socket" };
                Some(format!("hands {what} to {receiver}, which is outside of the task{then}"))
            }
        }
    }

    /// The process that `pid` means by this number, if it is not in the task. 0 stands for one that is not known.
    fn outsider(&self, slot: Slot, pid: Pid, target: Pid) -> Option<String> {
        if target != 0 && !shares_numbers(pid) {
            // In a pid namespace of its own it sees what it has started itself, or was put beside.
            return None;
        }
        let is_own = self.memberships.slot_of(target) == Some(slot)
            || self.tasks.get(&slot).is_some_and(|task| task.cgroup.processes().contains(&target));
        (!is_own).then(|| if target == 0 { "a process".to_owned() } else { describe(target) })
    }
}

fn describe(pid: Pid) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    // It names itself.
    format!("process {pid} ({})", name.trim().replace(|letter: char| letter.is_control(), "?"))
}

/// Whether the process numbers processes as the daemon does. One that is gone is taken to.
fn shares_numbers(pid: Pid) -> bool {
    let of = |who: &str| fs::read_link(format!("/proc/{who}/ns/pid")).ok();
    of(&pid.to_string()).is_none_or(|theirs| Some(theirs) == of("self"))
}

/// The process behind a pidfd of a process; 0 where it cannot be told.
fn behind_pidfd(pid: Pid, pidfd: u32) -> Pid {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{pidfd}")).unwrap_or_default();
    info.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok()).unwrap_or(0)
}

/// The path of a `struct sockaddr_un`; `@` stands for the zero byte of an abstract one.
fn unix_path(address: &[u8]) -> Option<String> {
    let name = address.get(2..)?;
    let path = match name.split_first()? {
        (0, abstract_name) => format!("@{}", String::from_utf8_lossy(abstract_name)),
        _ => String::from_utf8_lossy(name.split(|&byte| byte == 0).next()?).into_owned(),
    };
    // What a process names is put into logs.
    Some(Path::new(&path).display().to_string().replace(|letter: char| letter.is_control(), "?"))
}

/// What the daemon has written into the kernel, and what is there.
impl Engine {
    /// Gates are only ever opened here. Where one is more open than it was left, somebody else has opened it.
    pub fn find_tampering(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot) else { return };
        let (lent, there) = (self.accounts.credits(task.account), self.gates.credits(slot));
        let label = match self.memberships.label_of(task.cgroup.id()) {
            Ok(label) => label,
            Err(error) => return self.say_unreadable_label(slot, &error),
        };
        if there > lent && there - lent <= task.forgotten {
            // Records that were given up came after all, and the books differ by them: what is too much is taken back, and nobody is accused.
            let excess = self.gates.take_back(slot, there - lent);
            tracing::warn!("task {}: {excess} credits were taken back after records were late", task.id);
            if let Some(task) = self.tasks.get_mut(&slot) {
                task.forgotten = task.forgotten.saturating_sub(excess);
            }
            return;
        }
        if self.find_foreign_credits(slot, there, lent) {
            self.deciding = boot_nanoseconds();
            return self.stop(slot, &crate::budget::Reason::Tampered);
        }
        let what = if self.gates.is_shut(slot) {
            "its gate is shut, and nobody has shut it".to_owned()
        } else if label != Some(slot) {
            "its cgroup has lost its label".to_owned()
        } else {
            return;
        };
        self.deciding = boot_nanoseconds();
        self.decide(slot, Kind::Tampered, format!("{what}: somebody has changed what only this daemon may change"));
        self.stop(slot, &crate::budget::Reason::Tampered);
    }

    /// Says that a gate has more credits than were lent to it. Nothing but this daemon makes any, so this is never seen between two of its steps. Whether it was
    /// so, now or before.
    pub fn find_foreign_credits(&mut self, slot: Slot, there: u64, lent: u64) -> bool {
        let Some(task) = self.tasks.get_mut(&slot) else { return false };
        if there > lent.saturating_add(task.forgotten) && !task.is_tampered {
            task.is_tampered = true;
            let message = format!(
                "its gate has {there} credits, and {lent} were lent: somebody has changed what only this daemon may change"
            );
            self.decide(slot, Kind::Tampered, message);
            return true;
        }
        task.is_tampered
    }

    /// Once per task; it is tried again with each sweep. Nobody is accused of what could not be read.
    fn say_unreadable_label(&mut self, slot: Slot, error: &std::io::Error) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let message = format!("the kernel does not tell whether its cgroup has its label: {error}; it is asked again");
        if task.reached.insert("a label that cannot be read".into()) {
            self.decide(slot, Kind::EffectFailed, message);
        }
    }

    /// Says when what happens cannot be kept, and when it can again.
    pub fn watch_ledger(&mut self) {
        for what in self.ledger.take_set_aside() {
            let message =
                format!("the ledger takes no {what}: that is missing in it from now on; everything else is kept");
            self.alert(Kind::LedgerFailed, None, message);
        }
        match (self.ledger.failure(), self.ledger_failed) {
            (Some(error), false) => {
                self.ledger_failed = true;
                let message = format!(
                    "the ledger cannot be written ({error}): limits hold, and what is spent is kept in memory until it can"
                );
                self.alert(Kind::LedgerFailed, None, message);
            }
            (None, true) => {
                self.ledger_failed = false;
                self.alert(Kind::LedgerWritten, None, "the ledger is written again, and nothing is missing".into());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::unix_path;

    #[test]
    fn paths_of_sockets_are_read() {
        assert_eq!(unix_path(b"\x01\0/run/docker.sock\0rest").as_deref(), Some("/run/docker.sock"));
        assert_eq!(unix_path(b"\x01\0\0bus").as_deref(), Some("@bus"));
        assert_eq!(unix_path(b"\x01\0/a\nb").as_deref(), Some("/a?b"));
        assert_eq!(unix_path(b"\x01\0"), None);
        assert_eq!(unix_path(b"\x01"), None);
    }
}
