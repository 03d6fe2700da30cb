//! Decisions become effects on tasks: at once in the kernel, then, on threads of their own, on processes and connections, until confirmed.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    clock::boot_nanoseconds,
    state::{Engine, TaskState},
};
use crate::{
    alert::Kind,
    budget::{Action, Decision, HoldId, Reason},
    enforce::{
        FreezeError, KillError, Killed, SocketsError, Which, end_connections, freeze, has_local_connections,
        kill_process, thaw,
    },
    probe::{Pid, Slot},
    task::AccountName,
};

/// How long a task's refusals are not said again.
const QUIET: Duration = Duration::from_secs(10);

/// What is in force on a task beside its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Imposed {
    #[default]
    Nothing,
    Throttled,
    Cut,
    Paused,
}

/// An effect that came to its end.
#[derive(Debug)]
pub struct Effect {
    pub slot: Slot,
    pub done: Done,
    /// When the byte that decided it was seen, by the boot clock.
    pub decided: u64,
}

#[derive(Debug)]
pub enum Done {
    Killed(Result<Killed, KillError>),
    Cut(Result<usize, SocketsError>),
    Frozen(Result<(), FreezeError>),
    Thawed(Result<(), FreezeError>),
    /// Connections of a process that was refused a request, which waits at the gate.
    Refused(Pid, Result<usize, SocketsError>),
    /// A call was cut in mid-stream.
    CallCut(Pid, Result<usize, SocketsError>),
    /// A connection that cannot be read was ended.
    Denied(Pid, Result<usize, SocketsError>),
}

impl Engine {
    /// Does `work` on a thread of its own; what comes of it comes back as an [`Effect`].
    pub fn spawn(&self, slot: Slot, name: &str, work: impl FnOnce() -> Done + Send + 'static) {
        let (effects, decided) = (self.effects.clone(), self.deciding);
        let spawned = thread::Builder::new().name(name.into()).spawn(move || {
            let done = work();
            // The engine is gone: so is everybody who could be told.
            effects.send(Effect { slot, done, decided }).ok();
        });
        if let Err(error) = spawned {
            self.decide(
                slot,
                Kind::EffectFailed,
                format!("cannot start a thread for `{name}`: {error}; the gate holds"),
            );
        }
    }

    pub fn act_on_decisions(&mut self) {
        for decision in self.accounts.take_decisions() {
            let Some(name) = self.by_account.get(&decision.account()).cloned() else { continue };
            match decision {
                Decision::Warn { reason, .. } => self.decide_on(&name, Kind::Warn, reason.to_string(), None),
                Decision::Act { account, action, reason } => {
                    if !matches!(name, AccountName::Task(_)) {
                        self.decide_on(&name, kind_of(action), reason.to_string(), None);
                    }
                    for slot in self.slots_within(account) {
                        self.enforce(slot);
                    }
                }
                Decision::Lift { account, .. } => {
                    for slot in self.slots_within(account) {
                        self.enforce(slot);
                    }
                }
                Decision::CutCall { hold, reason, .. } => self.cut_call(hold, &reason),
            }
        }
    }

    /// Brings a task to where the accounts want it.
    pub fn enforce(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot).filter(|task| task.state == TaskState::Running) else { return };
        let standing = self.accounts.standing(task.account).map(|(by, action, reason)| (by, action, reason.clone()));
        let wanted = match &standing {
            Some((_, Action::Kill, reason)) => return self.stop(slot, reason),
            Some((_, Action::Pause, _)) => Imposed::Paused,
            Some((_, Action::Cut, _)) => Imposed::Cut,
            Some((_, Action::Throttle { .. }, _)) => Imposed::Throttled,
            Some((_, Action::Warn, _)) | None => Imposed::Nothing,
        };
        let before = task.imposed;
        if before == wanted {
            return;
        }
        let why = standing.as_ref().map_or_else(String::new, |(by, _, reason)| {
            let of = self.by_account.get(by).filter(|_| *by != task.account);
            of.map_or_else(|| reason.to_string(), |name| format!("{name}: {reason}"))
        });
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.imposed = wanted;
        }
        self.gates.cut(slot, wanted == Imposed::Cut);
        if wanted != Imposed::Nothing {
            self.take_back(slot, u64::MAX);
        }
        self.touched.insert(slot);
        self.throttle_cpu(slot, wanted == Imposed::Throttled);
        if before == Imposed::Paused {
            self.thaw(slot);
        }
        match wanted {
            Imposed::Nothing => self.decide(slot, Kind::Lifted, "it may go on".into()),
            Imposed::Throttled => {
                self.decide(slot, Kind::Throttle, why);
                self.latencies.since("throttle: gate", self.deciding);
            }
            Imposed::Cut => {
                self.latencies.since("cut: gate", self.deciding);
                self.decide(slot, Kind::Cut, why);
                self.cut(slot);
            }
            Imposed::Paused => {
                self.latencies.since("pause: gate", self.deciding);
                self.decide(slot, Kind::Pause, why);
                self.freeze(slot);
            }
        }
    }

    fn cut(&self, slot: Slot) {
        let members = self.members(slot);
        self.spawn(slot, "cut", move || Done::Cut(end_connections(&members, Which::All)));
    }

    fn freeze(&self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot) else { return };
        let (cgroup, strays) = (task.cgroup.clone(), self.strays(slot));
        self.spawn(slot, "freeze", move || Done::Frozen(freeze(&cgroup, &strays)));
    }

    pub(super) fn thaw(&self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot) else { return };
        let (cgroup, strays, held) = (task.cgroup.clone(), self.strays(slot), self.held_of(slot));
        self.spawn(slot, "thaw", move || Done::Thawed(thaw(&cgroup, &strays, &held)));
    }

    /// Every process of the task, in its cgroup or not.
    fn members(&self, slot: Slot) -> Vec<Pid> {
        let mut members = self.memberships.members(slot);
        members.extend(self.tasks.get(&slot).map(|task| task.cgroup.processes()).unwrap_or_default());
        members.sort_unstable();
        members.dedup();
        members
    }

    /// Members that have moved to other cgroups.
    pub fn strays(&self, slot: Slot) -> Vec<Pid> {
        let inside = self.tasks.get(&slot).map(|task| task.cgroup.processes()).unwrap_or_default();
        self.memberships.members(slot).into_iter().filter(|pid| !inside.contains(pid)).collect()
    }

    /// An answer that the account cannot pay for any longer is cut off: its connection ends.
    fn cut_call(&mut self, hold: HoldId, reason: &Reason) {
        let found = self.connections.iter().find_map(|(id, connection)| {
            let call = connection.calls.values().find(|call| call.hold == hold)?;
            Some((id.pid, connection.slot, call.port))
        });
        let Some((pid, slot, port)) = found else {
            self.cut_unread(hold, reason);
            return;
        };
        self.decide(slot, Kind::CallCut, format!("process {pid}: {reason}"));
        self.spawn(slot, "cut-call", move || {
            let ended = port.map_or(Ok(0), |port| end_connections(&[pid], Which::To(port)));
            // By way of a proxy it goes to another port.
            let ended = if matches!(ended, Ok(0)) { end_connections(&[pid], Which::All) } else { ended };
            Done::CallCut(pid, ended)
        });
    }

    /// A request that waits at the gate may not go, although its task may go on: it finds its connection ended.
    pub fn refuse(&mut self, pid: Pid, reason: &Reason) {
        let Some(process) = self.held.get_mut(&pid).filter(|process| !process.is_refused) else { return };
        (process.is_refused, process.refused) = (true, process.requests.len());
        let slot = process.slot;
        self.say_refused(slot, pid, reason);
        self.spawn(slot, "refuse", move || Done::Refused(pid, end_connections(&[pid], Which::All)));
    }

    /// Says a refusal, and the next ones of an agent that tries again and again every now and then, with their number.
    fn say_refused(&mut self, slot: Slot, pid: Pid, reason: &Reason) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        self.tally.refused += 1;
        let unsaid = match &mut task.refused {
            Some((said, unsaid)) if said.elapsed() < QUIET => {
                *unsaid += 1;
                return;
            }
            Some((_, unsaid)) => *unsaid,
            None => 0,
        };
        task.refused = Some((Instant::now(), 0));
        let others = if unsaid > 0 { format!(" (and {unsaid} before it)") } else { String::new() };
        self.decide(slot, Kind::Refused, format!("a request of process {pid}: {reason}{others}"));
    }

    /// Refusals that were not said when they happened are said with their number after a while, or `now`: none is hidden because it was the last.
    pub fn say_unsaid_refusals(&mut self, now: bool) {
        let mut unsaid = Vec::new();
        for (slot, task) in &mut self.tasks {
            if let Some((said, count)) = &mut task.refused
                && *count > 0
                && (now || said.elapsed() >= QUIET)
            {
                unsaid.push((*slot, *count));
                (*said, *count) = (Instant::now(), 0);
            }
        }
        for (slot, count) in unsaid {
            self.decide(slot, Kind::Refused, format!("{count} more requests since that was last said"));
        }
    }

    pub fn on_effect(&mut self, effect: Effect) {
        let Effect { slot, done, decided } = effect;
        match done {
            Done::Killed(result) => self.on_killed(slot, result, decided),
            Done::Cut(result) => self.on_cut(slot, result, decided),
            Done::Frozen(result) => self.on_frozen(slot, result, decided),
            Done::Thawed(result) => match result {
                Ok(()) => self.latencies.since("resume: confirmed", decided),
                Err(error) => {
                    self.decide(slot, Kind::EffectFailed, error.to_string());
                    if self.is_imposed(slot, |imposed| imposed != Imposed::Paused) {
                        self.thaw(slot);
                    }
                }
            },
            Done::Refused(pid, result) => self.on_refused(slot, pid, result),
            Done::Denied(pid, result) => self.on_denied(slot, pid, result, decided),
            Done::CallCut(pid, result) => match result {
                Ok(0) => self.decide(
                    slot,
                    Kind::EffectFailed,
                    format!("process {pid} has no connection that could be ended: its answer goes on"),
                ),
                Ok(_) => self.latencies.since("cut of a call: confirmed", decided),
                Err(error) => self.decide(slot, Kind::EffectFailed, format!("process {pid}: {error}")),
            },
        }
    }

    fn is_imposed(&self, slot: Slot, is: impl Fn(Imposed) -> bool) -> bool {
        self.tasks.get(&slot).is_some_and(|task| task.state == TaskState::Running && is(task.imposed))
    }

    fn on_cut(&mut self, slot: Slot, result: Result<usize, SocketsError>, decided: u64) {
        match result {
            Ok(ended) => {
                self.latencies.since("cut: confirmed", decided);
                self.decide(slot, Kind::CutDone, format!("{ended} connections ended, and no new one is made"));
            }
            Err(error) => {
                self.decide(slot, Kind::EffectFailed, error.to_string());
                if self.is_imposed(slot, |imposed| imposed == Imposed::Cut) {
                    self.cut(slot);
                }
            }
        }
    }

    fn on_frozen(&mut self, slot: Slot, result: Result<(), FreezeError>, decided: u64) {
        if !self.is_imposed(slot, |imposed| imposed == Imposed::Paused) {
            return self.thaw(slot);
        }
        match result {
            // One that left the cgroup while it was being frozen.
            Ok(()) if self.strays(slot).into_iter().any(|pid| !is_stopped(pid)) => self.freeze(slot),
            Ok(()) => {
                self.latencies.since("pause: confirmed", decided);
                let message = "every process is frozen; `tollgate approve` or `tollgate resume` lets them go on";
                self.decide(slot, Kind::Paused, message.into());
            }
            Err(error) => {
                self.decide(slot, Kind::EffectFailed, error.to_string());
                self.freeze(slot);
            }
        }
    }

    fn on_refused(&mut self, slot: Slot, pid: Pid, result: Result<usize, SocketsError>) {
        if !self.is_running(slot) {
            // It is killed where it stands.
            return;
        }
        let Some(mut process) = self.held.remove(&pid) else { return };
        self.release_held(&process);
        for request in &mut process.requests {
            request.allowed = None;
        }
        match result {
            // All of its connections are dead, now or before: what it sends reaches nobody.
            Ok(ended) if ended > 0 || !has_local_connections(pid) => {
                if !process.is_over_with_refused() {
                    self.touched.insert(slot);
                    self.held.insert(pid, process);
                    return;
                }
                self.let_go(pid, &process);
            }
            Ok(_) => {
                kill_process(pid);
                let message = format!("process {pid} has no connection that could be ended: it is killed instead");
                self.decide(slot, Kind::Refused, message);
            }
            Err(error) => {
                kill_process(pid);
                self.decide(slot, Kind::EffectFailed, format!("{error}: process {pid} is killed instead"));
            }
        }
        self.drop_kept_back(process);
        self.touched.insert(slot);
    }

    /// Something was done now, by what `deciding` says.
    pub fn decide_now(&mut self) {
        self.deciding = boot_nanoseconds();
    }
}

fn is_stopped(pid: Pid) -> bool {
    crate::enforce::held_state(pid) != crate::enforce::Held::Stopping
}

fn kind_of(action: Action) -> Kind {
    match action {
        Action::Warn => Kind::Warn,
        Action::Throttle { .. } => Kind::Throttle,
        Action::Cut => Kind::Cut,
        Action::Pause => Kind::Pause,
        Action::Kill => Kind::Kill,
    }
}
