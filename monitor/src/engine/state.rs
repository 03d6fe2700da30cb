//! What the engine knows.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{clock::Clock, held::HeldProcess};
use crate::{
    alert::{Alert, Alerts, Kind},
    budget::{Account, HoldId},
    enforce::{Cgroup, Gates, Hierarchy, KillError, Killed},
    ledger::{Entry, Ledger},
    meter::tool::Rules,
    pipeline::Pipeline,
    price::{Money, PriceBook},
    probe::{ConnectionId, Memberships, Pid, Probes, Slot},
    task::{ProcessTree, TaskId},
    wire::ExchangeId,
};

pub struct Engine {
    pub probes: Probes,
    pub memberships: Memberships,
    pub gates: Gates,
    pub hierarchy: Hierarchy,
    pub ledger: Ledger,
    pub alerts: Alerts,
    pub prices: &'static PriceBook,
    pub tools: Arc<Rules>,
    pub first_hold: Money,
    pub kill_grace: Duration,
    pub clock: Clock,
    pub started: Instant,
    pub tasks: HashMap<Slot, Task>,
    pub slots: HashMap<TaskId, Slot>,
    pub connections: HashMap<ConnectionId, Connection>,
    pub held: HashMap<Pid, HeldProcess>,
    /// Processes whose first thread ended; the rest may still run.
    pub leaving: Vec<Leaving>,
    /// Tasks whose credits or state may have to change.
    pub touched: HashSet<Slot>,
    pub next_id: u64,
    pub kills: mpsc::UnboundedSender<KillDone>,
    pub reported_losses: u64,
    /// When known processes were last compared with those that are there.
    pub reconciled: Instant,
}

/// A process whose first thread ended.
#[derive(Debug, Clone, Copy)]
pub struct Leaving {
    pub pid: Pid,
    pub slot: Slot,
    pub since: Instant,
}

/// A kill that came to its end on its own thread.
#[derive(Debug)]
pub struct KillDone {
    pub slot: Slot,
    pub result: Result<Killed, KillError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskState {
    Running,
    /// The gate is shut, processes are being ended.
    Stopping,
    /// Ended by a decision.
    Stopped,
    /// Ended by itself.
    Ended,
}

impl TaskState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Ended => "ended",
        }
    }

    pub const fn is_over(self) -> bool {
        matches!(self, Self::Stopped | Self::Ended)
    }
}

pub struct Task {
    pub id: TaskId,
    pub cgroup: Cgroup,
    pub account: Account,
    pub tree: ProcessTree,
    pub state: TaskState,
    /// Credits taken by the kernel whose records were seen.
    pub taken_seen: u64,
    /// Requests held by the kernel whose records were seen.
    pub held_seen: u64,
    /// A process has been in it, so that being empty means being over.
    pub was_entered: bool,
    pub calls: u64,
    pub exchanges: u64,
    pub unpriced: u64,
    pub unread: u64,
    /// Response ids of calls that were charged, for answers that are looked at again.
    pub charged: HashSet<Box<str>>,
    /// Models that were said to have no price.
    pub said_unpriced: HashSet<String>,
}

/// Response ids that are remembered per task.
const CHARGED: usize = 10_000;

impl Task {
    /// Says whether this answer is charged for the first time.
    pub fn first_charge(&mut self, response_id: &str) -> bool {
        if self.charged.len() >= CHARGED {
            self.charged.clear();
        }
        self.charged.insert(response_id.into())
    }
}

pub struct Connection {
    pub slot: Slot,
    pub pipeline: Pipeline,
    /// Holds of requests that were seen starting and whose heads have not been read yet.
    pub starts: VecDeque<HoldId>,
    pub calls: HashMap<ExchangeId, Call>,
}

/// An exchange in flight.
pub struct Call {
    pub hold: HoldId,
    pub started: Timestamp,
    /// It is in the ledger, as something that costs.
    pub is_recorded: bool,
}

impl Engine {
    pub fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn alert(&self, kind: Kind, slot: Option<Slot>, message: String) {
        let task = slot.and_then(|slot| self.tasks.get(&slot));
        self.alerts.raise(Alert {
            kind,
            task: task.map(|task| task.id.clone()),
            spent: task.map(|task| task.account.spent()),
            cap: task.and_then(|task| task.account.budget().cap),
            message,
            at: Timestamp::now(),
        });
    }

    pub fn decide(&self, slot: Slot, decision: Kind, reason: String) {
        if let Some(task) = self.tasks.get(&slot) {
            let entry = Entry::Decided {
                task: task.id.clone(),
                decision: decision.name(),
                reason: reason.clone(),
                at: Timestamp::now(),
            };
            self.ledger.put(entry);
        }
        self.alert(decision, Some(slot), reason);
    }

    /// Lends the task as many credits as its account can pay for, or takes back what it cannot.
    ///
    /// Credits that the kernel took and whose records are still in the ring are neither lent nor held yet. They are counted by reading
    /// the credits *before* the number taken: a credit that is taken between the two is counted twice, never lost.
    pub fn balance(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get(&slot) else { return };
        if task.state != TaskState::Running {
            return;
        }
        let lent = self.gates.credits(slot);
        let unseen = self.gates.taken(slot).saturating_sub(task.taken_seen);
        let target = task.account.lendable().saturating_sub(unseen);
        if target > lent {
            self.gates.lend(slot, target - lent);
        } else if target < lent {
            self.gates.take_back(slot, lent - target);
        }
    }
}
