//! Tasks and their processes: how they begin, and how they end.

use std::{
    collections::HashSet,
    fs, io,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    asker::Asker,
    clock::boot_nanoseconds,
    command::{CommandError, Joined, Past, Start, Started, TaskStatus},
    effects::{Done, Imposed},
    state::{Engine, Task, TaskState},
    work::Work,
};
use crate::{
    alert::Kind,
    budget::{AccountId, Count, Reason, Settings, Window},
    enforce::{Cgroup, Held, KillError, Killed, held_state, kill_task},
    ledger::Entry,
    price::Money,
    probe::{ConnectionId, Pid, Slot, Whole},
    task::{AccountName, Labels, ProcessTree, TaskId},
};

/// Time between `SIGTERM` and `SIGKILL`, unless told otherwise.
const KILL_GRACE_SECONDS: u64 = 2;
/// How often to compare what is known of processes with the processes.
const RECONCILE: Duration = Duration::from_secs(2);

impl Engine {
    /// Opens a task, or takes it up again.
    pub fn start_task(&mut self, peer: &Asker, start: Start) -> Result<Started, CommandError> {
        self.refuse_insiders(peer)?;
        let Start { task: id, mut labels, budget, cgroup: made, charges, above } = start;
        let name = AccountName::Task(id.clone());
        let settings = self.task_settings(&name, &budget);
        let (cap, policy) = (settings.budget()?.limits.money.total, settings.on_daemon_loss);
        let counted: Money = charges.iter().map(|charge| charge.cost).sum();
        let spent = counted - charges.iter().map(|charge| charge.unpriced).sum();
        if let Some(cap) = cap.filter(|&cap| counted >= cap) {
            return Err(CommandError::Exhausted { task: id, spent: counted, cap });
        }
        let known = self.slots.get(&id).and_then(|slot| self.tasks.get(slot).map(|task| (*slot, task.state)));
        if let Some((slot, TaskState::Running)) = known
            && self.tasks.get(&slot).is_some_and(|task| task.labels != labels)
        {
            return Err(CommandError::OtherLabels { task: id });
        }
        match known {
            Some((_, TaskState::Stopping)) => return Err(CommandError::Stopping(id)),
            Some((_, TaskState::Running)) => {}
            Some((slot, _)) => self.forget_task(slot),
            None => {}
        }
        // Whoever comes second joins the first one in its cgroup.
        let running = known.and_then(|(slot, _)| self.tasks.get(&slot)).map(|task| task.cgroup.clone());
        let cgroup = match (running, &made) {
            (Some(cgroup), _) => cgroup,
            (None, Some(path)) => self.made_for(path, &mut labels)?,
            (None, None) => self.hierarchy.create(&id).map_err(|error| CommandError::Failed(error.to_string()))?,
        };
        let parent = self.open_above(&labels, &above)?;
        if !matches!(known, Some((_, TaskState::Running))) && made.is_none() {
            cgroup.thaw_left_over().map_err(|error| {
                // If it was made just now; else somebody is in it, or the next run finds it.
                cgroup.remove();
                CommandError::Failed(error.to_string())
            })?;
        }
        let path = cgroup.path().to_path_buf();
        self.ledger.put(Entry::TaskStarted {
            task: id.clone(),
            cgroup: cgroup.path().display().to_string(),
            cap,
            labels: labels.clone(),
            budget: serde_json::to_string(&settings).unwrap_or_default(),
            at: Timestamp::now(),
        });
        if let Some((slot, TaskState::Running)) = known {
            // Somebody else runs in it already; the newer budget counts for both.
            if let Some(account) = self.tasks.get(&slot).map(|task| task.account) {
                self.set_budget(account, &settings)?;
                self.touched.insert(slot);
            }
        } else {
            let past = Past { account: name, charges, orders: Vec::new(), tasks: Vec::new(), trouble: None };
            let slot = self.open_task(&id, labels, cgroup, parent, settings, &past)?;
            if made.is_some() {
                self.find_newcomers_of(slot);
            }
        }
        self.act_on_decisions();
        let on_daemon_loss = policy.unwrap_or_default();
        Ok(Started { task: id, spent_usd: spent, cap_usd: cap, cgroup: path, on_daemon_loss })
    }

    /// Nobody inside a task changes anything.
    pub fn refuse_insiders(&self, asker: &Asker) -> Result<(), CommandError> {
        self.inside(asker)?.map_or(Ok(()), |task| Err(CommandError::Inside(task)))
    }

    /// The task that a process is inside of, if it is.
    ///
    /// # Errors
    /// When nobody knows who it is.
    pub fn inside(&self, asker: &Asker) -> Result<Option<TaskId>, CommandError> {
        let peer = asker.pid;
        let by_membership =
            self.memberships.slot_of(peer).and_then(|slot| self.tasks.get(&slot)).map(|task| task.id.clone());
        // A process that was moved into a task's cgroup is not a member before it first does something that the programs see.
        let inside = by_membership.or_else(|| self.hierarchy.task_of(peer));
        let inside = inside.or_else(|| self.labelled_task_of(peer));
        if inside.is_some() {
            return Ok(inside);
        }
        // Last: what was found under its id is about it only if it has been there all the time.
        if asker.is_there() { Ok(None) } else { Err(CommandError::Nobody) }
    }

    pub fn open_task(
        &mut self,
        id: &TaskId,
        labels: Labels,
        cgroup: Cgroup,
        parent: Option<AccountId>,
        settings: Settings,
        past: &Past,
    ) -> Result<Slot, CommandError> {
        let most = monitor_common::MAX_TASKS;
        // The kernel may know it: then its gate stays as it is. No credit is out before its account is known.
        let known = self.memberships.label_of(cgroup.id()).map_err(|error| unreadable(&error))?;
        let known = known.filter(|slot| !self.tasks.contains_key(slot));
        let slot = if let Some(slot) = known {
            self.gates.take_back(slot, u64::MAX);
            slot
        } else {
            let labelled: HashSet<Slot> = self.memberships.cgroups().into_iter().map(|(_, slot)| slot).collect();
            let is_free = |slot: &Slot| !self.tasks.contains_key(slot) && !labelled.contains(slot);
            let free = (1..most).map(Slot).find(is_free);
            let slot = free.or_else(|| self.reuse_slot()).ok_or(CommandError::Full(self.tasks.len()))?;
            self.gates.reset(slot);
            slot
        };
        self.memberships
            .label_cgroup(cgroup.id(), slot)
            .map_err(|error| CommandError::Failed(format!("cannot label the cgroup: {error}")))?;
        let account = self.open_account(past.account.clone(), parent, settings, &past.charges, &past.orders)?;
        if let Some(trouble) = &past.trouble {
            self.trouble_again(account, trouble);
        }
        self.accounts.activate(account, Timestamp::now());
        let work = Work::starting_in(&cgroup);
        let task = Task {
            id: id.clone(),
            given: None,
            labels,
            cgroup,
            account,
            imposed: Imposed::Nothing,
            tree: ProcessTree::default(),
            state: TaskState::Running,
            taken_seen: self.gates.noted(slot).0,
            unseen_before: (0, 0),
            forgotten: 0,
            is_tampered: false,
            held_seen: 0,
            held_before: 0,
            heads: Default::default(),
            was_entered: false,
            calls: 0,
            exchanges: 0,
            unpriced: 0,
            unread: 0,
            charged: Default::default(),
            refused: None,
            said_unpriced: Default::default(),
            reached: Default::default(),
            evidence: Default::default(),
            work,
        };
        self.tasks.insert(slot, task);
        self.slots.insert(id.clone(), slot);
        self.apply_uncovered(slot);
        self.accounts.tick(Timestamp::now());
        // What is in force above it is in force on it.
        self.enforce(slot);
        self.balance(slot);
        Ok(slot)
    }

    /// The slot of a task that is over, when all have been given out.
    fn reuse_slot(&mut self) -> Option<Slot> {
        let slot = self.tasks.iter().find(|(_, task)| task.state.is_over()).map(|(slot, _)| *slot)?;
        self.forget_task(slot);
        Some(slot)
    }

    pub fn forget_task(&mut self, slot: Slot) {
        if let Some(task) = self.tasks.remove(&slot) {
            self.tally.forget(self.coverage.share(slot));
            self.coverage.forget_task(slot);
            self.slots.remove(&task.id);
            // That of one that was stopped, and whose cgroup is still there, was kept.
            self.memberships.unlabel_cgroup(task.cgroup.id());
            // Parts of it that are over go with it; those that run have lost what they were a part of, and keep its account.
            let parts: Vec<Slot> = self
                .tasks
                .iter()
                .filter(|(_, part)| part.state.is_over() && part.labels.parent.as_ref() == Some(&task.id))
                .map(|(slot, _)| *slot)
                .collect();
            for part in parts {
                self.forget_task(part);
            }
            match self.accounts.close(task.account, Timestamp::now()) {
                Ok(()) => {
                    self.watcher.signals.forget(task.account);
                    self.by_account.remove(&task.account);
                    self.settings.remove(&task.account);
                }
                Err(error) => tracing::warn!("the account of task {} stays: {error}", task.id),
            }
        }
    }

    /// Puts a process into a task, before it executes what it is there for.
    pub fn join_task(&mut self, asker: &Asker, id: &TaskId) -> Result<Joined, CommandError> {
        self.refuse_insiders(asker)?;
        let peer = asker.pid;
        let slot = *self.slots.get(id).ok_or_else(|| CommandError::NoTask(id.clone()))?;
        let task = self.tasks.get_mut(&slot).ok_or_else(|| CommandError::NoTask(id.clone()))?;
        if task.state != TaskState::Running {
            return Err(CommandError::NoTask(id.clone()));
        }
        task.cgroup.add(peer).map_err(|error| CommandError::Failed(error.to_string()))?;
        task.was_entered = true;
        let adopted = self.memberships.adopt(peer, slot, boot_nanoseconds());
        adopted.map_err(|error| CommandError::Failed(format!("cannot follow process {peer}: {error}")))?;
        self.note_process(slot, peer, None, Timestamp::now());
        Ok(Joined { task: id.clone() })
    }

    pub fn note_process(&mut self, slot: Slot, pid: Pid, parent: Option<Pid>, at: Timestamp) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        task.was_entered = true;
        if task.tree.started(pid, parent, at) {
            self.write_process(slot, pid);
        }
    }

    fn write_process(&self, slot: Slot, pid: Pid) {
        if let Some(task) = self.tasks.get(&slot)
            && let Some(process) = task.tree.get(pid)
        {
            self.ledger.put(Entry::Process { task: task.id.clone(), process: process.clone() });
        }
    }

    pub fn on_forked(&mut self, slot: Slot, parent: Pid, child: Pid, at: Timestamp) {
        self.note_process(slot, parent, None, at);
        self.note_process(slot, child, Some(parent), at);
        self.watch_fork(slot, parent, at);
    }

    pub fn on_executed(&mut self, slot: Slot, pid: Pid, path: &[u8], at: Timestamp) {
        self.close_process(pid, at);
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.tree.executed(pid, path, at);
            task.was_entered = true;
            self.write_process(slot, pid);
        }
        self.watch_program(slot, pid, at);
    }

    fn close_process(&mut self, pid: Pid, at: Timestamp) {
        self.settle_straddling(|straddling| straddling.pid == pid);
        let connections: Vec<ConnectionId> =
            self.connections.keys().filter(|connection| connection.pid == pid).copied().collect();
        for connection in connections {
            self.close(connection, at);
            self.probes.forget_connection(connection);
        }
    }

    /// What is not urgent: ends of processes and tasks, what processes have mapped, and what records that were lost would have said.
    pub fn sweep(&mut self) {
        self.sweep_leaving();
        self.settle_straddling(|_| false);
        self.probes.beat();
        let now = Instant::now();
        let running = |(slot, task): (&Slot, &Task)| {
            (task.state == TaskState::Running && (task.was_entered || task.given.is_some())).then_some(*slot)
        };
        let slots: Vec<Slot> = self.tasks.iter().filter_map(running).collect();
        self.count_cpu_of_all(&slots, now.duration_since(self.reconciled) >= RECONCILE);
        for slot in slots {
            self.end_if_empty(slot);
            self.find_forgotten(slot);
            self.find_tampering(slot);
        }
        if now.duration_since(self.reconciled) >= RECONCILE {
            self.reconciled = now;
            self.reconcile();
        }
        self.label_later();
        self.report_losses();
        self.watch_ledger();
        self.say_unsaid_refusals(false);
        self.say_unsaid_connections(false);
    }

    /// Ends of processes whose first thread ended a moment ago, and of the tasks that they were the last of.
    pub fn sweep_leaving(&mut self) {
        for leaving in std::mem::take(&mut self.leaving) {
            if is_gone(leaving.pid) {
                self.on_gone(leaving.pid, leaving.slot);
                if self.is_running(leaving.slot) {
                    self.end_if_empty(leaving.slot);
                }
            } else if leaving.since.elapsed() < RECONCILE {
                self.leaving.push(leaving);
            }
        }
    }

    /// Forgets members that are gone and whose end was not seen: the record was lost, or other threads outlived the first one.
    fn reconcile(&mut self) {
        for (pid, slot) in self.memberships.all() {
            if is_gone(pid) {
                self.on_gone(pid, slot);
            }
        }
        self.forget_families();
        self.forget_lost_credits();
        self.find_newcomers();
    }

    /// Forgets what families had that lost a process and have none left.
    fn forget_families(&mut self) {
        if self.bereaved.is_empty() {
            return;
        }
        // Who forks is here until it is forgotten itself, so none is missed.
        let alive: HashSet<u32> = self.memberships.all().into_iter().map(|(pid, _)| self.traffic.family(pid)).collect();
        for family in std::mem::take(&mut self.bereaved) {
            if !alive.contains(&family) {
                self.traffic.forget_family(family);
            }
        }
    }

    /// A record is read within milliseconds. A credit that was taken and is not seen since the last time was taken by a request whose record
    /// was lost: what it was worth is not lent any longer. If its bytes come, it gets a hold.
    fn forget_lost_credits(&mut self) {
        for (slot, task) in self.tasks.iter_mut().filter(|(_, task)| task.state == TaskState::Running) {
            let now = (self.gates.taken(*slot), task.taken_seen);
            let unseen = now.0.saturating_sub(now.1);
            if unseen > 0 && now == task.unseen_before {
                self.accounts.take_back(task.account, unseen);
                task.taken_seen = now.0;
                task.forgotten += unseen;
                self.touched.insert(*slot);
            }
            task.unseen_before = now;
        }
    }

    /// Finds processes that the gate stopped and whose records were lost: nobody else would ever let them go.
    fn find_forgotten(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let before = std::mem::replace(&mut task.held_before, self.gates.held(slot));
        if before <= task.held_seen {
            return;
        }
        task.held_seen = before;
        let is_forgotten = |pid: &Pid| !self.held.contains_key(pid) && held_state(*pid) == Held::Stopped;
        let forgotten: Vec<Pid> = task.tree.living().filter(is_forgotten).collect();
        for pid in forgotten {
            self.alert(
                Kind::Lost,
                Some(slot),
                format!("process {pid} was stopped at the gate and the record of it was lost"),
            );
            self.on_held(ConnectionId::unknown(pid), slot, 1, &[], Whole::default());
        }
    }

    /// The kernel's side of a process that is gone.
    pub fn forget_process(&mut self, pid: Pid) {
        self.memberships.forget(pid);
        self.bereaved.insert(self.traffic.family(pid));
        self.traffic.forget(pid);
    }

    pub fn on_gone(&mut self, pid: Pid, slot: Slot) {
        let now = Timestamp::now();
        self.forget_held(pid);
        self.close_process(pid, now);
        self.forget_process(pid);
        self.coverage.forget_process(pid, boot_nanoseconds());
        if let Some(task) = self.tasks.get_mut(&slot) {
            task.tree.ended(pid, now);
        }
        self.agent_gone(slot, pid, now);
    }

    fn end_if_empty(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot) else { return };
        if task.given.is_some() && task.cgroup.exists() {
            return;
        }
        if task.cgroup.is_populated() || task.tree.living().any(|pid| !is_gone(pid)) {
            return;
        }
        for pid in task.tree.living().collect::<Vec<_>>() {
            self.on_gone(pid, slot);
        }
        self.finish(slot, TaskState::Ended);
    }

    pub fn finish(&mut self, slot: Slot, state: TaskState) {
        self.count_cpu(slot);
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        task.state = state;
        let account = task.account;
        self.accounts.deactivate(task.account, Timestamp::now());
        self.ledger.put(Entry::TaskEnded { task: task.id.clone(), state: state.name(), at: Timestamp::now() });
        if task.given.is_some() && state == TaskState::Stopped && task.cgroup.exists() {
            // Whoever comes into it finds the gate shut.
            return;
        }
        self.memberships.unlabel_cgroup(task.cgroup.id());
        if self.hierarchy.is_own(&task.cgroup) {
            task.cgroup.remove();
        }
        self.watch_end(account);
    }

    /// Stops a task: first the gate, in this instant, then its processes, on a thread of their own.
    pub fn stop(&mut self, slot: Slot, reason: &Reason) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        if task.state != TaskState::Running {
            return;
        }
        self.gates.shut(slot);
        self.latencies.since("kill: gate shut", self.deciding);
        task.state = TaskState::Stopping;
        let (there, lent) = (self.gates.credits(slot), self.accounts.credits(task.account));
        self.decide(slot, Kind::Kill, reason.to_string());
        // Else nobody would hear of it any more.
        self.find_foreign_credits(slot, there, lent);
        self.kill(slot);
    }

    pub(super) fn kill(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot) else { return };
        let grace = self.settings.get(&task.account).and_then(|settings| settings.kill_grace_seconds);
        let grace = Duration::from_secs(grace.unwrap_or(KILL_GRACE_SECONDS));
        let (cgroup, held, strays) = (task.cgroup.clone(), self.held_of(slot), self.strays(slot));
        self.spawn(slot, "kill", move || Done::Killed(kill_task(&cgroup, &held, &strays, grace)));
    }

    pub fn on_killed(&mut self, slot: Slot, result: Result<Killed, KillError>, decided: u64) {
        match result {
            Ok(killed) => {
                let strays: Vec<Pid> =
                    self.memberships.members(slot).into_iter().filter(|&pid| !is_gone(pid)).collect();
                if !strays.is_empty() {
                    // Forked by a stray while it was being ended.
                    return self.kill(slot);
                }
                self.latencies.since("kill: confirmed", decided);
                let message = format!(
                    "{} processes ended, {} of them by force, {:.1} ms after the gate was shut",
                    killed.processes,
                    killed.forced,
                    killed.took.as_secs_f64() * 1e3
                );
                self.decide(slot, Kind::Killed, message);
            }
            Err(error) => {
                self.decide(slot, Kind::KillFailed, error.to_string());
                return self.kill(slot);
            }
        }
        self.end_held_sockets(slot);
        let living: Vec<Pid> = self.tasks.get(&slot).map(|task| task.tree.living().collect()).unwrap_or_default();
        for pid in living.into_iter().chain(self.memberships.members(slot)) {
            self.on_gone(pid, slot);
        }
        self.finish(slot, TaskState::Stopped);
    }

    fn report_losses(&mut self) {
        let losses = self.losses();
        if losses > self.reported_losses {
            let counters = self.probes.counters();
            self.reported_losses = losses;
            self.probes.say_losses(losses);
            let message = format!(
                "the kernel could not hand over everything: {} records dropped ({} bytes), {} bytes too many, {} buffers unreadable, {} map entries \
                 without room, {} TLS connections whose records could not be followed; calls that were touched say `floor` or `estimated`",
                counters.dropped_records,
                counters.dropped_bytes,
                counters.uncopied_bytes + counters.unwalked_bytes,
                counters.unreadable_buffers,
                counters.map_full,
                counters.unwalked_sockets
            );
            self.alert(Kind::Lost, None, message);
        }
    }

    /// What the kernel could not hand over, since the programs were loaded.
    pub(super) fn losses(&self) -> u64 {
        let counters = self.probes.counters();
        counters.dropped_records
            + counters.uncopied_bytes
            + counters.unwalked_bytes
            + counters.unreadable_buffers
            + counters.map_full
    }

    pub fn task_status(&self, task: &Task) -> TaskStatus {
        TaskStatus {
            task: task.id.clone(),
            labels: task.labels.clone(),
            state: task.state_name(),
            cap_usd: self.accounts.cap(task.account, Window::Total),
            spent_usd: self.accounts.spent(task.account) - self.accounts.unpriced(task.account),
            ceilings_usd: self.accounts.unpriced(task.account),
            held_usd: self.accounts.held(task.account),
            lent_usd: self.accounts.lent(task.account),
            in_flight: self.accounts.calls_in_flight(task.account),
            calls: task.calls,
            exchanges: task.exchanges,
            unpriced: task.unpriced,
            unread: task.unread,
            processes: task.tree.living().count(),
            coverage: self.slots.get(&task.id).map(|slot| self.coverage.share(*slot)).unwrap_or_default(),
            waiting: self.slots.get(&task.id).map_or(0, |slot| self.awaiting(*slot)),
            counts: Count::ALL
                .into_iter()
                .map(|count| (count.key(), self.accounts.counted(task.account, count)))
                .collect(),
            incidents: task.evidence.incidents,
            trouble: task.evidence.last.clone(),
            cgroup: task.cgroup.path().display().to_string(),
        }
    }
}

fn unreadable(error: &io::Error) -> CommandError {
    CommandError::Failed(format!("the kernel does not tell whether it knows the cgroup: {error}"))
}

/// Nothing of the process can run any more: it is not there, or a zombie with no other thread. One that cannot be looked at, for want of descriptors say, lives.
pub(super) fn is_gone(pid: Pid) -> bool {
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) => return is_absent(&error),
    };
    threads.flatten().all(|thread| match fs::read_to_string(thread.path().join("stat")) {
        Ok(stat) => {
            let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
            matches!(state, Some('Z' | 'X') | None)
        }
        Err(error) => is_absent(&error),
    })
}

/// `ESRCH` is what reading tells of a process that has ended since its file was opened.
fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
