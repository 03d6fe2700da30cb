//! After a start of the daemon: what was running is taken up, what was in flight is settled, what waits is answered.
//!
//! Programs and maps outlive the daemon (`probe/pins.rs`). While none ran, credits that were lent could be taken, everything else waited or, by the task's
//! policy, went on; the records of it are in the ring. So: (1) tasks are opened again from the ledger, each at the slot that its cgroup has in the kernel,
//! with its gate left as it is but for the credits, which are taken back; (2) the ring is read; (3) only then credits are lent again and who waits is
//! answered. What a daemon had read and the ledger had not heard of is told by what the gates noted.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use super::{
    clock::boot_nanoseconds,
    command::Past,
    effects::Imposed,
    lifecycle::is_gone,
    state::{Engine, TaskState},
};
use crate::{
    alert::Kind,
    budget::{Charge, HoldId, Settings},
    enforce::{Cgroup, Held, held_state},
    ledger::{Entry, LedgerError, OpenCall, Reader},
    price::Money,
    probe::{ConnectionId, Pid, Ring, Slot, Whole},
    task::{AccountName, TaskId},
};

/// How long a call that was in flight when a daemon died is waited for, as long as its process lives.
const STRADDLES: Duration = Duration::from_secs(600);
/// Records that are read before anything else gets its turn.
const BATCH: usize = 4096;

/// A hold of something whose connection is not known: of a call that was in flight when a daemon died, or of a request that was let go without its record.
/// The next exchange of the process that has no hold of its own takes it.
#[derive(Debug, Clone, Copy)]
pub struct Straddling {
    pub pid: Pid,
    slot: Slot,
    hold: HoldId,
    /// The call is in the ledger: without an answer it is charged at this.
    charge: Option<Money>,
    until: Instant,
}

impl Engine {
    /// Opens what was running, and charges what was in flight and cannot be waited for.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn recover(&mut self, ledger: &Reader) -> Result<(), LedgerError> {
        self.is_recovering = true;
        self.next_id = ledger.last_call()?;
        let now = Timestamp::now();
        // Everything is read before anything is written: the writer does not wait.
        let (mut waiting, mut over) = (Vec::new(), Vec::new());
        let tasks: Vec<_> = ledger.tasks()?.into_iter().filter(|row| row.ended.is_none()).collect();
        for call in ledger.open_calls()? {
            let row = tasks.iter().find(|row| row.task == call.task);
            let cgroup = row.and_then(|row| Cgroup::open(PathBuf::from(&row.cgroup)).ok());
            let slot = cgroup.and_then(|cgroup| self.memberships.label_of(cgroup.id()).ok().flatten());
            // Only where connections are followed as before can its answer be told from others.
            let may_come = self.probes.took_over() && slot.is_some() && self.memberships.slot_of(call.pid) == slot;
            if may_come { waiting.push(call) } else { over.push(call) }
        }
        let mut running = Vec::new();
        let mut above: Vec<Past> = Vec::new();
        for row in tasks {
            let Ok(id) = row.task.parse::<TaskId>() else { continue };
            let account = AccountName::Task(id.clone());
            let lost = || over.iter().filter(|call| call.task == row.task).map(|call| call.charge(now));
            for name in row.labels.above() {
                let known = above.iter_mut().find(|past| past.account == name);
                let past = match known {
                    Some(past) => past,
                    None => {
                        let (charges, orders) = (ledger.charges_of(&name)?, ledger.orders(&name)?);
                        let (tasks, trouble) = (ledger.task_costs(&name)?, ledger.standing_trouble(&name)?);
                        above.push(Past { account: name, charges, orders, tasks, trouble });
                        let Some(past) = above.last_mut() else { continue };
                        past
                    }
                };
                past.charges.extend(lost());
            }
            let mut charges = ledger.charges(&row.task)?;
            charges.extend(lost());
            let (orders, trouble) = (ledger.orders(&account)?, ledger.standing_trouble(&account)?);
            let callers = ledger.callers(&row.task)?;
            running.push((id, row, Past { account, charges, orders, tasks: Vec::new(), trouble }, callers));
        }
        for call in over {
            self.ledger.put(Entry::Abandoned { call: call.id, cost: call.hold, at: now });
        }
        // Those that others are a part of first.
        running.sort_by_key(|(_, row, ..)| row.labels.parent.is_some());
        for (id, row, past, callers) in running {
            let cgroup = Cgroup::open(PathBuf::from(&row.cgroup)).ok();
            // One that has ended since may have left records.
            let is_known = |cgroup: &Cgroup| self.memberships.label_of(cgroup.id()).ok().flatten().is_some();
            let Some(cgroup) = cgroup.filter(|cgroup| cgroup.is_populated() || is_known(cgroup)) else {
                self.ledger.put(Entry::TaskEnded { task: id, state: TaskState::Ended.name(), at: now });
                continue;
            };
            let opened = self.open_above(&row.labels, &above).and_then(|parent| {
                let settings = Settings { total: row.cap.or(row.budget.total), ..row.budget.clone() };
                self.open_task(&id, row.labels.clone(), cgroup, parent, settings, &past)
            });
            let calls: Vec<OpenCall>;
            (calls, waiting) = waiting.into_iter().partition(|call| call.task == row.task);
            match opened {
                Ok(slot) => {
                    let since =
                        row.started_at.parse::<Timestamp>().map_or(SignedDuration::ZERO, |at| now.duration_since(at));
                    self.take_up(slot, calls, &callers, since);
                }
                Err(error) => tracing::error!("cannot take up task {id}: {error}"),
            }
        }
        for call in waiting {
            self.ledger.put(Entry::Abandoned { call: call.id, cost: call.hold, at: now });
        }
        self.drop_unknown_tasks();
        Ok(())
    }

    fn take_up(&mut self, slot: Slot, calls: Vec<OpenCall>, callers: &[Pid], since: SignedDuration) {
        let processes = self.tasks.get(&slot).map(|task| task.cgroup.processes()).unwrap_or_default();
        for &pid in &processes {
            // `born` 0 is before anything that will be seen: connections of its present address space are new ones.
            if let Err(error) = self.memberships.adopt_unknown(pid, slot) {
                tracing::error!("cannot follow process {pid}: {error}");
            }
        }
        for pid in self.memberships.members(slot) {
            self.note_process(slot, pid, None, Timestamp::now());
        }
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.was_entered = true;
        }
        self.take_up_work(slot, callers, since);
        self.open_again(slot, calls);
        if !self.probes.took_over() {
            self.alert(
                Kind::Gap,
                Some(slot),
                "the daemon was away while the task ran: what it spent meanwhile is not known".into(),
            );
        }
        // A cap that was reached before takes effect now.
        self.accounts.tick(Timestamp::now());
        self.act_on_decisions();
        if self.is_running(slot) && self.gates.is_shut(slot) {
            self.stop_again(slot);
        }
        if !self.is_running(slot) {
            return;
        }
        let (is_frozen, imposed) =
            self.tasks.get(&slot).map(|task| (task.cgroup.is_frozen(), task.imposed)).unwrap_or_default();
        if imposed != Imposed::Cut {
            self.gates.cut(slot, false);
        }
        if is_frozen && imposed != Imposed::Paused {
            self.thaw(slot);
        }
        if !self.probes.took_over() {
            // A request that was held when the daemon went away waits for somebody to let it go.
            for pid in processes.into_iter().filter(|&pid| held_state(pid) == Held::Stopped) {
                self.wake(pid, boot_nanoseconds());
            }
        }
    }

    /// Calls that were in flight keep their holds until their answers have been read; and what a daemon had read and the ledger has not heard of is charged.
    fn open_again(&mut self, slot: Slot, calls: Vec<OpenCall>) {
        let Some((id, account)) = self.tasks.get(&slot).map(|task| (task.id.clone(), task.account)) else { return };
        let (_, noted) = self.gates.noted(slot);
        let mut missing = noted - self.accounts.spent(account);
        for call in calls {
            let (hold, at) = (HoldId(call.id), Timestamp::now());
            if missing > Money::ZERO && self.probes.took_over() {
                // It was settled, and that is what is missing.
                self.accounts.charge(account, &abandoned(missing, at));
                self.ledger.put(Entry::Abandoned { call: call.id, cost: missing, at });
                missing = Money::ZERO;
                continue;
            }
            self.accounts.admit_again(hold, account, call.pid, call.hold);
            self.straddles(call.pid, slot, hold, Some(call.hold));
            self.starts(ConnectionId::unknown(call.pid), slot, hold);
        }
        if missing > Money::ZERO && self.probes.took_over() {
            let (call, at) = (self.new_id(), Timestamp::now());
            self.accounts.charge(account, &abandoned(missing, at));
            let started = Entry::CallStarted { id: call, task: id, pid: 0, model: None, hold: missing, at };
            self.ledger.put(started);
            self.ledger.put(Entry::Abandoned { call, cost: missing, at });
            let message = format!("${missing} were spent that the daemon before had read and not written down");
            self.decide(slot, Kind::Gap, message);
        }
    }

    /// Its gate was shut when the daemon went away: it is ended, as it was meant to be.
    fn stop_again(&mut self, slot: Slot) {
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.state = TaskState::Stopping;
        }
        self.decide(slot, Kind::Kill, "its gate was shut when the daemon before ended".into());
        self.kill(slot);
    }

    /// Tasks that the kernel knows and the ledger does not: the daemon died before it could write them down. They get nothing; those without
    /// processes are forgotten.
    fn drop_unknown_tasks(&mut self) {
        for (cgroup, slot) in self.memberships.cgroups() {
            if self.tasks.contains_key(&slot) {
                continue;
            }
            let (gone, alive): (Vec<Pid>, Vec<Pid>) =
                self.memberships.members(slot).into_iter().partition(|&pid| is_gone(pid));
            gone.into_iter().for_each(|pid| self.forget_process(pid));
            if alive.is_empty() {
                self.memberships.unlabel_cgroup(cgroup);
                continue;
            }
            self.gates.take_back(slot, u64::MAX);
            let message = format!(
                "processes {alive:?} belong to a task that the ledger does not know: their requests wait until the task is started again"
            );
            self.alert(Kind::Gap, None, message);
        }
        let known: Vec<Slot> = self.memberships.cgroups().into_iter().map(|(_, slot)| slot).collect();
        for (pid, slot) in self.memberships.all() {
            if !self.tasks.contains_key(&slot) && !known.contains(&slot) {
                self.forget_process(pid);
            }
        }
    }

    /// Reads what was written into the ring while no daemon ran, says what was lost of it, and finds who waits; then lends again.
    pub fn catch_up(&mut self, ring: &mut Ring) {
        let mut records = 0;
        loop {
            let read = ring.drain(BATCH, |event, time| self.on_event(&event, time));
            records += read;
            self.act_on_decisions();
            if read < BATCH {
                break;
            }
        }
        self.is_recovering = false;
        let lost = self.losses().saturating_sub(self.probes.losses_said());
        self.reported_losses = self.losses();
        self.probes.say_losses(self.reported_losses);
        let slots: Vec<Slot> = self.tasks.keys().copied().collect();
        for slot in slots {
            self.touched.insert(slot);
            if self.probes.took_over() {
                self.say_gap(slot, lost);
                self.find_waiting(slot);
            }
        }
        if self.probes.took_over() {
            tracing::info!(
                "took over {} tasks and {} processes; {records} records were waiting, {lost} were lost",
                self.tasks.len(),
                self.memberships.all().len()
            );
        }
    }

    /// What cannot be known of the time without a daemon.
    fn say_gap(&mut self, slot: Slot, lost: u64) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let taken = self.gates.taken(slot);
        let unseen = taken.saturating_sub(task.taken_seen);
        task.taken_seen = taken;
        task.unseen_before = (taken, taken);
        if unseen == 0 && lost == 0 {
            return;
        }
        let message = format!(
            "while no daemon ran, {lost} records found no room in the ring, and {unseen} requests started whose records are among them: what they cost is \
             known only as far as their answers are read"
        );
        self.decide(slot, Kind::Gap, message);
    }

    /// Processes that are stopped and whose records a daemon before has read.
    fn find_waiting(&mut self, slot: Slot) {
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.held_seen = self.gates.held(slot);
            task.held_before = task.held_seen;
        }
        if !self.is_running(slot) {
            return;
        }
        let is_waiting = |pid: &Pid| !self.held.contains_key(pid) && held_state(*pid) == Held::Stopped;
        let waiting: Vec<Pid> = self.memberships.members(slot).into_iter().filter(is_waiting).collect();
        for pid in waiting {
            self.on_held(ConnectionId::unknown(pid), slot, 1, &[], Whole::default());
        }
    }

    /// Keeps a hold whose connection is not known from being forgotten.
    pub fn straddles(&mut self, pid: Pid, slot: Slot, hold: HoldId, charge: Option<Money>) {
        self.straddling.push(Straddling { pid, slot, hold, charge, until: Instant::now() + STRADDLES });
    }

    /// Settles holds that were waited for long enough, or whose process is gone.
    pub fn settle_straddling(&mut self, is_over: impl Fn(&Straddling) -> bool) {
        let now = Instant::now();
        for straddling in std::mem::take(&mut self.straddling) {
            let Straddling { pid, slot, hold, charge, until } = straddling;
            let starts = self.connections.get_mut(&ConnectionId::unknown(pid)).map(|connection| &mut connection.starts);
            let Some((starts, index)) =
                starts.and_then(|starts| starts.iter().position(|start| *start == hold).map(|index| (starts, index)))
            else {
                // An exchange has taken it.
                continue;
            };
            if now < until && !is_over(&straddling) {
                self.straddling.push(straddling);
                continue;
            }
            starts.remove(index);
            self.touched.insert(slot);
            if let Some(cost) = charge {
                let at = Timestamp::now();
                self.accounts.settle(hold, &abandoned(cost, at));
                self.ledger.put(Entry::Abandoned { call: hold.0, cost, at });
            } else {
                self.accounts.release(hold);
            }
        }
    }
}

fn abandoned(cost: Money, at: Timestamp) -> Charge<'static> {
    Charge { cost, unpriced: Money::ZERO, model: None, tokens: 0, is_typical: false, is_tool: false, at }
}
