//! The control interface: HTTP and JSON over a Unix socket.
//!
//! In: requests of local processes, known by `SO_PEERCRED`. Out: what the engine and the ledger answer.
//!
//! **Invariant:** never on the path from event to decision. Root and the daemon's own user are served; other users as far as the configuration
//! allows it, and only with tasks of their own; and a process inside a task changes nothing, whoever it is.
//! Somebody inside of a task reads of that one only, whoever it is.
#![forbid(unsafe_code)]

pub mod client;
mod rights;
mod server;

use serde::{Deserialize, Serialize};

pub use rights::Rights;
pub use server::{App, ListenError, Server, listen};

use crate::{
    budget::Settings,
    engine::Order,
    label::Said,
    task::{AccountName, Labels, TaskId},
};

/// Body of `POST /v1/tasks`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartTask {
    pub task: TaskId,
    #[serde(default)]
    pub labels: Labels,
    /// No cap: metered only.
    #[serde(default)]
    pub budget: Settings,
    /// The cgroup that the task is to have, by its path from the root of the hierarchy: made by whoever asks, and gone once it is empty. None: one
    /// that the daemon makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// Body of `POST /v1/orders`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GiveOrder {
    pub account: AccountName,
    #[serde(flatten)]
    pub order: Order,
}

/// Body of `POST /v1/labels`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetLabel {
    /// A cgroup by its path from the root of the hierarchy or its directory, or the name of a systemd unit.
    pub cgroup: String,
    pub said: Said,
}

/// Body of `POST /v1/labels/remove`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveLabel {
    pub cgroup: String,
}

/// Body of every answer that is not 2xx.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Problem {
    pub error: String,
    /// A word for programs: `unknown-task`, `exhausted`, `forbidden`, `failed`.
    pub kind: String,
}
