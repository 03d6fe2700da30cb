//! What others ask of the engine.

use std::path::PathBuf;

use monitor_common::Counters;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    ledger::PastCharge,
    price::Money,
    probe::{Attached, Pid},
    task::TaskId,
};

/// A request to the engine; `peer` is the process that asks, as the kernel names it.
#[derive(Debug)]
pub enum Command {
    /// Opens a task, or takes up one that was known before, with this cap.
    /// `charges` are what the ledger knows of its calls.
    Start {
        peer: Pid,
        task: TaskId,
        cap: Option<Money>,
        charges: Vec<PastCharge>,
        reply: Reply<Started>,
    },
    /// Puts the asking process into the task.
    Join {
        peer: Pid,
        task: TaskId,
        reply: Reply<Joined>,
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

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("the asking process belongs to task {0}, which cannot administer Tollgate")]
    Inside(TaskId),
    #[error("there is no task {0}: open it first")]
    NoTask(TaskId),
    #[error("task {task} has no money left: spent ${spent} of ${cap}; give it a larger --budget")]
    Exhausted { task: TaskId, spent: Money, cap: Money },
    #[error("task {0} is being stopped")]
    Stopping(TaskId),
    #[error("{0} tasks are open, which is as many as there can be")]
    Full(usize),
    #[error("{0}")]
    Failed(String),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Started {
    pub task: TaskId,
    pub spent_usd: Money,
    pub cap_usd: Option<Money>,
    pub cgroup: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Joined {
    pub task: TaskId,
}

/// What the daemon is doing.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    pub daemon: DaemonStatus,
    pub tasks: Vec<TaskStatus>,
    pub probes: Vec<Attached>,
    pub counters: CounterStatus,
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
}

/// A task that is open, or was since the daemon started.
#[derive(Debug, Clone, Serialize)]
pub struct TaskStatus {
    pub task: TaskId,
    /// `running`, `stopping`, `stopped` (by a decision) or `ended` (by itself).
    pub state: &'static str,
    pub cap_usd: Option<Money>,
    pub spent_usd: Money,
    /// What calls without a price count toward the cap beside it.
    pub ceilings_usd: Money,
    pub held_usd: Money,
    pub in_flight: u64,
    pub calls: u64,
    pub exchanges: u64,
    pub unpriced: u64,
    pub unread: u64,
    pub processes: usize,
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
