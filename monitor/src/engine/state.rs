//! What the engine knows.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{
    clock::Clock,
    coverage::Unread,
    effects::{Effect, Imposed},
    held::{HeldProcess, NEXT_TO_NOTHING},
    latency::{Latencies, Times},
    reading::Reading,
    recover::Straddling,
    trouble::{Evidence, Watcher},
    work::Work,
};
use crate::{
    alert::{Alert, Alerts, Kind},
    budget::{AccountId, Accounts, Balance, HoldId, Settings, UNLIMITED, Window},
    coverage::Coverage,
    enforce::{Cgroup, Gates, Hierarchy},
    label,
    ledger::{Entry, Ledger},
    meter::tool::Rules,
    metrics::Tally,
    pipeline::Pipeline,
    price::{Money, PriceBook},
    probe::{ConnectionId, Memberships, Pid, Probes, Readers, Slot, Traffic},
    task::{AccountName, Labels, ProcessTree, TaskId},
    wire::ExchangeId,
};

pub struct Engine {
    pub probes: Probes,
    pub memberships: Memberships,
    pub gates: Gates,
    pub traffic: Traffic,
    /// Families of processes that have lost one.
    pub bereaved: HashSet<u32>,
    pub coverage: Coverage,
    pub unread: Unread,
    pub hierarchy: Hierarchy,
    pub ledger: Ledger,
    pub alerts: Alerts,
    pub prices: &'static PriceBook,
    pub tools: Arc<Rules>,
    /// What every task's budget starts from.
    pub budget: Settings,
    /// What the configuration says of single accounts.
    pub configured: HashMap<AccountName, Settings>,
    /// What tenants of users have.
    pub users: Settings,
    /// Which cgroups are tasks.
    pub rules: label::Rules,
    /// cgroups that could not be labelled yet, by their paths.
    pub unlabelled: Vec<String>,
    /// Where the ledger lies, for what tasks that are labelled have spent before.
    pub ledger_path: PathBuf,
    pub accounts: Accounts,
    /// What sees trouble.
    pub watcher: Watcher,
    /// What each account's budget was made of.
    pub settings: HashMap<AccountId, Settings>,
    /// Accounts of tenants and workflows.
    pub above: HashMap<AccountName, AccountId>,
    pub clock: Clock,
    pub started: Instant,
    pub tasks: HashMap<Slot, Task>,
    pub slots: HashMap<TaskId, Slot>,
    pub by_account: HashMap<AccountId, AccountName>,
    pub connections: HashMap<ConnectionId, Connection>,
    pub held: HashMap<Pid, HeldProcess>,
    /// What they are about to send, as far as it is being read.
    pub reading: HashMap<u64, Reading>,
    pub readers: Readers,
    /// Holds that wait for an exchange to belong to.
    pub straddling: Vec<Straddling>,
    /// Nothing is lent before what happened without a daemon is known.
    pub is_recovering: bool,
    /// Processes whose first thread ended; the rest may still run.
    pub leaving: Vec<Leaving>,
    /// Tasks whose credits or state may have to change.
    pub touched: HashSet<Slot>,
    pub next_id: u64,
    pub effects: mpsc::UnboundedSender<Effect>,
    pub latencies: Latencies,
    /// How long events wait for their turn.
    pub lag: Times,
    /// What was charged since the daemon started.
    pub tally: Tally,
    /// When what is being dealt with was seen, by the boot clock: what is decided now, it decides.
    pub deciding: u64,
    pub reported_losses: u64,
    /// The ledger was said not to be written.
    pub ledger_failed: bool,
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

/// Who has said that a cgroup is a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// A label on it.
    Label,
    /// A rule of the configuration, by its number.
    Rule(usize),
}

pub struct Task {
    pub id: TaskId,
    /// Its cgroup is somebody else's, who makes it and takes it away: the task lasts as long.
    pub given: Option<Given>,
    pub labels: Labels,
    pub cgroup: Cgroup,
    pub account: AccountId,
    pub imposed: Imposed,
    pub tree: ProcessTree,
    pub state: TaskState,
    /// Credits taken by the kernel whose records were seen.
    pub taken_seen: u64,
    /// Credits taken, and those seen, when processes were last compared.
    pub unseen_before: (u64, u64),
    /// Credits that were taken and whose records were given up as lost: if they come after all, they are counted twice.
    pub forgotten: u64,
    /// Somebody has changed its gate, which is said once.
    pub is_tampered: bool,
    /// Requests held by the kernel whose records were seen.
    pub held_seen: u64,
    /// Requests held by the kernel at the last sweep: their records must have been seen by the next one.
    pub held_before: u64,
    /// Holds of requests that were let go for next to nothing: what they cost is looked at in front of their bodies.
    pub heads: HashSet<HoldId>,
    /// A process has been in it, so that being empty means being over.
    pub was_entered: bool,
    pub calls: u64,
    pub exchanges: u64,
    pub unpriced: u64,
    pub unread: u64,
    /// Response ids of calls that were charged, for answers that are looked at again.
    pub charged: HashSet<Box<str>>,
    /// When a refusal was last said, and how many there were since.
    pub refused: Option<(Instant, u64)>,
    /// Models that were said to have no price.
    pub said_unpriced: HashSet<String>,
    /// What it was said to reach for outside of it.
    pub reached: HashSet<Box<str>>,
    pub evidence: Evidence,
    pub work: Work,
}

/// Response ids that are remembered per task.
const CHARGED: usize = 10_000;

impl Task {
    pub const fn state_name(&self) -> &'static str {
        match (self.state, self.imposed) {
            (TaskState::Running, Imposed::Throttled) => "throttled",
            (TaskState::Running, Imposed::Cut) => "cut",
            (TaskState::Running, Imposed::Paused) => "paused",
            (state, _) => state.name(),
        }
    }

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
    /// The last head that came without its body.
    pub head: Vec<u8>,
    pub calls: HashMap<ExchangeId, Call>,
}

/// An exchange in flight.
pub struct Call {
    pub hold: HoldId,
    pub started: Timestamp,
    /// Port that it was sent to, as far as the request tells.
    pub port: Option<u16>,
    /// Host that it was sent to over TLS.
    pub host: Option<Box<str>>,
    /// What it had cost when that was last counted properly, and what was thought until then.
    pub scale: Option<(Money, Money)>,
    /// It is in the ledger, as something that costs.
    pub is_recorded: bool,
}

impl Call {
    /// A rough cost, made better by what is known of how rough it is.
    pub fn scaled(&self, rough: Money) -> Money {
        match self.scale {
            Some((counted, thought)) if !thought.is_zero() => {
                Money::from_pico_usd(rough.pico_usd().saturating_mul(counted.pico_usd()) / thought.pico_usd())
            }
            _ => rough,
        }
    }
}

/// Credits that an account could pay for and are not lent: an answer may cost more than its hold, and the next request should not be on its way
/// before that is known. So the last calls before a cap all ask.
const NOT_LENT: u64 = 3;

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
            account: None,
            actor: None,
            spent: task.map(|task| self.accounts.spent(task.account) - self.accounts.unpriced(task.account)),
            cap: task.and_then(|task| self.accounts.cap(task.account, Window::Total)),
            message,
            at: Timestamp::now(),
        });
    }

    pub fn decide(&self, slot: Slot, decision: Kind, reason: String) {
        if let Some(task) = self.tasks.get(&slot) {
            let entry = Entry::Decided {
                account: AccountName::Task(task.id.clone()),
                decision: decision.name(),
                reason: reason.clone(),
                actor: None,
                at: Timestamp::now(),
            };
            self.ledger.put(entry);
        }
        self.alert(decision, Some(slot), reason);
    }

    /// As [`Engine::decide`], on an account of any kind, and perhaps by a person.
    pub fn decide_on(&self, name: &AccountName, decision: Kind, reason: String, actor: Option<&str>) {
        let at = Timestamp::now();
        let entry = Entry::Decided {
            account: name.clone(),
            decision: decision.name(),
            reason: reason.clone(),
            actor: actor.map(str::to_owned),
            at,
        };
        self.ledger.put(entry);
        let account = self.account(name);
        let spent = |account| self.accounts.spent(account) - self.accounts.unpriced(account);
        self.alerts.raise(Alert {
            kind: decision,
            task: if let AccountName::Task(task) = name { Some(task.clone()) } else { None },
            account: Some(name.clone()).filter(|name| !matches!(name, AccountName::Task(_))),
            actor: actor.map(str::to_owned),
            spent: account.map(spent),
            cap: account.and_then(|account| self.accounts.cap(account, Window::Total)),
            message: reason,
            at,
        });
    }

    /// Lends the task as many credits as its account can pay for, or takes back what it cannot.
    ///
    /// Credits that the kernel took and whose records are still in the ring are lent until these are read.
    pub fn balance(&mut self, slot: Slot) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        if task.state != TaskState::Running || self.is_recovering {
            return;
        }
        task.heads.retain(|&head| self.accounts.hold(head) == Some(NEXT_TO_NOTHING));
        self.gates.look_at_bodies(slot, !task.heads.is_empty() || self.accounts.looks(task.account));
        let account = task.account;
        let policy = self.settings.get(&account).and_then(|settings| settings.on_daemon_loss).unwrap_or_default();
        self.gates.on_daemon_loss(slot, policy);
        self.note(slot);
        let (balance, own) = (self.accounts.balance(account), self.accounts.credits(account));
        let lendable = self.accounts.lendable(account);
        let wanted = if lendable == UNLIMITED { lendable } else { lendable.saturating_sub(NOT_LENT) };
        match balance {
            Balance::Lend(credits) if own < wanted => {
                let credits = self.accounts.lend(account, credits.min(wanted - own));
                self.gates.lend(slot, credits);
            }
            Balance::TakeBack(credits) => self.take_back(slot, credits.max(own.saturating_sub(wanted))),
            Balance::Keep | Balance::Lend(_) if own > wanted => self.take_back(slot, own - wanted),
            Balance::Keep | Balance::Lend(_) => {}
        }
    }

    /// Leaves word for a daemon that comes after this one.
    pub fn note(&self, slot: Slot) {
        if let Some(task) = self.tasks.get(&slot) {
            self.gates.note(slot, task.taken_seen, self.accounts.spent(task.account));
        }
    }

    /// Takes back up to so many credits that the kernel has not taken yet.
    pub fn take_back(&mut self, slot: Slot, credits: u64) {
        if let Some(task) = self.tasks.get(&slot) {
            let (account, lent) = (task.account, self.accounts.credits(task.account));
            let credits = self.gates.take_back(slot, credits);
            self.accounts.take_back(account, credits);
            self.find_foreign_credits(slot, credits, lent);
        }
    }
}
