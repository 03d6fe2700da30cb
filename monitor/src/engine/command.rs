//! What others ask of the engine.

use std::{collections::BTreeMap, path::PathBuf};

use jiff::Timestamp;
use monitor_common::Counters;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::{asker::Asker, latency::Summary};
use crate::{
    budget::{InvalidBudget, OnDaemonLoss, Settings},
    config::Config,
    coverage::Share,
    label::Said,
    ledger::{PastCharge, PastOrder, PastTrouble},
    metrics::Snapshot,
    price::Money,
    probe::Attached,
    task::{AccountName, Labels, TaskId},
};

/// A request to the engine; `peer` is the process that asks, as the kernel names it.
#[derive(Debug)]
pub enum Command {
    /// Opens a task, or takes up one that was known before, with this budget.
    Start {
        peer: Asker,
        start: Box<Start>,
        reply: Reply<Started>,
    },
    /// Puts the asking process into the task.
    Join {
        peer: Asker,
        task: TaskId,
        reply: Reply<Joined>,
    },
    /// A person decides about an account.
    Order {
        peer: Asker,
        /// Who it is, for the audit log.
        actor: String,
        account: AccountName,
        order: Box<Order>,
        reply: Reply<AccountStatus>,
    },
    /// A cgroup, by its path from the root of the hierarchy, becomes a task.
    Label {
        peer: Asker,
        actor: String,
        cgroup: String,
        said: Box<Said>,
        reply: Reply<LabelStatus>,
    },
    /// It is none any longer.
    Unlabel {
        peer: Asker,
        actor: String,
        cgroup: String,
        reply: Reply<LabelStatus>,
    },
    /// Which task a process is inside of: it may read of no other.
    Inside {
        peer: Asker,
        reply: Reply<Option<TaskId>>,
    },
    Labels {
        reply: oneshot::Sender<Vec<LabelStatus>>,
    },
    /// Another configuration holds from now on.
    Configure {
        config: Box<Config>,
        reply: oneshot::Sender<()>,
    },
    /// Answered by an engine that works.
    Ping {
        reply: oneshot::Sender<()>,
    },
    /// Numbers for machines that watch.
    Metrics {
        reply: oneshot::Sender<Box<Snapshot>>,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
    Task {
        task: TaskId,
        reply: oneshot::Sender<Option<TaskStatus>>,
    },
    /// Ends the engine after everything that has arrived is dealt with.
    Shutdown,
}

pub type Reply<T> = oneshot::Sender<Result<T, CommandError>>;

/// A task to be opened.
#[derive(Debug)]
pub struct Start {
    pub task: TaskId,
    pub labels: Labels,
    pub budget: Settings,
    /// Path of the cgroup that was made for it.
    pub cgroup: Option<String>,
    /// What the ledger knows of its calls.
    pub charges: Vec<PastCharge>,
    /// What it knows of the accounts above, in case they are not open.
    pub above: Vec<Past>,
}

/// What the ledger knows of an account.
#[derive(Debug)]
pub struct Past {
    pub account: AccountName,
    pub charges: Vec<PastCharge>,
    pub orders: Vec<PastOrder>,
    /// Of a workflow: what each of its tasks cost that has ended.
    pub tasks: Vec<Money>,
    /// What was done about trouble and is still in force.
    pub trouble: Option<PastTrouble>,
}

/// What a person can decide about an account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "order", deny_unknown_fields)]
pub enum Order {
    /// It may spend so much more, in USD.
    Add {
        usd: Money,
    },
    /// Its own limits do not count before that time.
    Until {
        time: Timestamp,
    },
    /// Calls that wait for a yes may go.
    Approve,
    /// Calls that wait for a yes may not; without any, the account is killed.
    Deny,
    Pause,
    /// Takes back a pause, and everything else that no limit demands.
    Resume,
    Kill,
    /// Another budget: what these settings say, else as before.
    Budget {
        settings: Box<Settings>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the asking process belongs to task {0}, which cannot administer Tollgate")]
    Inside(TaskId),
    #[error("the asking process belongs to task {0}, which reads of no other task, and nothing about the daemon")]
    Others(TaskId),
    #[error("the asking process is gone, or in a pid namespace from which it cannot be named: nobody knows who asks")]
    Nobody,
    #[error("there is no task {0}: open it first")]
    NoTask(TaskId),
    #[error("there is no cgroup {0}")]
    NoCgroup(String),
    #[error("the cgroup {0} has no label; `tollgate labels` lists those that have one")]
    NoLabel(String),
    #[error("the cgroup {cgroup} is a task by rule {number} of the configuration: change that one")]
    ByRule { cgroup: String, number: usize },
    #[error("no task of {0} has run since the daemon started")]
    NoAccount(AccountName),
    #[error("task {task} has no money left: spent ${spent} of ${cap}; give it a larger --budget")]
    Exhausted { task: TaskId, spent: Money, cap: Money },
    #[error("task {0} is being stopped")]
    Stopping(TaskId),
    #[error("task {task} runs already, with other labels than these")]
    OtherLabels { task: TaskId },
    #[error("{0} tasks are open, which is as many as there can be")]
    Full(usize),
    #[error("{0} was killed, which nothing undoes: start a task again with a larger --budget")]
    Killed(AccountName),
    #[error("the budget: {0}")]
    Budget(#[from] InvalidBudget),
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    pub task: TaskId,
    pub spent_usd: Money,
    pub cap_usd: Option<Money>,
    pub cgroup: PathBuf,
    /// What becomes of its requests while no daemon runs.
    pub on_daemon_loss: OnDaemonLoss,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Joined {
    pub task: TaskId,
}

/// A cgroup that is a task by a label or a rule.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabelStatus {
    /// Its path from the root of the hierarchy.
    pub cgroup: String,
    pub task: TaskId,
    #[serde(flatten)]
    pub labels: Labels,
    pub budget: Settings,
    pub state: String,
    /// `label`, or which rule.
    pub by: String,
}

/// What the daemon is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub daemon: DaemonStatus,
    pub tasks: Vec<TaskStatus>,
    /// Tenants and workflows.
    pub accounts: Vec<AccountStatus>,
    pub probes: Vec<Attached>,
    pub counters: CounterStatus,
    /// How long after the byte that decided it things were done.
    pub latencies: BTreeMap<&'static str, Summary>,
}

#[derive(Debug, Clone, Serialize)]
pub struct DaemonStatus {
    pub version: &'static str,
    pub pid: u32,
    pub ready: bool,
    pub uptime_s: u64,
    pub catalogue: String,
}

/// What passed, and what was lost on the way.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct CounterStatus {
    #[serde(flatten)]
    pub kernel: Counters,
    /// Processes in the kernel's map.
    pub processes: u64,
    /// Connections that are followed.
    pub connections: u64,
    /// Holds that are open.
    pub holds: u64,
}

/// An account: of a task, a workflow or a tenant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AccountStatus {
    pub account: AccountName,
    pub spent_usd: Money,
    /// What calls without a price count beside it.
    pub ceilings_usd: Money,
    pub held_usd: Money,
    /// Caps with what people have added, by their windows.
    pub caps_usd: BTreeMap<String, Money>,
    /// Spent in the windows that have a cap.
    pub windows_usd: BTreeMap<String, Money>,
    /// What is in force on it: `throttle`, `cut`, `pause` or `kill`.
    pub action: Option<String>,
    pub reason: Option<String>,
}

/// A task that is open, or was since the daemon started.
#[derive(Debug, Clone, Serialize)]
pub struct TaskStatus {
    pub task: TaskId,
    #[serde(flatten)]
    pub labels: Labels,
    /// `running`, `throttled`, `cut`, `paused`, `stopping`, `stopped` (by a decision) or `ended` (by itself).
    pub state: &'static str,
    pub cap_usd: Option<Money>,
    pub spent_usd: Money,
    /// What calls without a price count toward the cap beside it.
    pub ceilings_usd: Money,
    pub held_usd: Money,
    /// Set aside for requests that may start without asking.
    pub lent_usd: Money,
    pub in_flight: u64,
    pub calls: u64,
    pub exchanges: u64,
    pub unpriced: u64,
    pub unread: u64,
    pub processes: usize,
    /// How much of what it sends is read, since the daemon started.
    pub coverage: Share,
    /// Requests that wait for a person's yes.
    pub waiting: usize,
    /// What its budget can limit beside money, by its name.
    pub counts: BTreeMap<&'static str, u64>,
    /// Incidents since the daemon started.
    pub incidents: u64,
    /// What the last one was about.
    pub trouble: Option<String>,
    pub cgroup: String,
}

/// The way to the engine.
#[derive(Debug, Clone)]
pub struct Handle(mpsc::UnboundedSender<Command>);

impl Handle {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<Command>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends a command and waits for its answer; `None` when the engine is gone.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(command(sender)).ok()?;
        receiver.await.ok()
    }

    pub fn shutdown(&self) {
        // Gone already is as good.
        self.0.send(Command::Shutdown).ok();
    }
}
