//! What `tollgate report --json` and `tollgate status --json` say. Fields that no test looks at are left out.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::{
    Usage,
    reference_price::{PicoUsd, usd},
};

/// `tollgate report --task T --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Report {
    pub task: String,
    pub state: String,
    pub stopped: Option<Stopped>,
    pub cap_usd: Option<String>,
    pub spent_usd: String,
    pub ceilings_usd: String,
    pub held_usd: String,
    pub calls: u64,
    pub exchanges: u64,
    pub usage: Usage,
    /// Calls per basis.
    pub basis: BTreeMap<String, u64>,
    pub models: Vec<ModelTotal>,
    pub processes: Vec<Process>,
    pub decisions: Vec<Decision>,
    pub call_list: Vec<Call>,
    pub unpriced: u64,
    pub unread: u64,
    pub coverage: Option<Coverage>,
}

/// How much of what a task sent was read.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Coverage {
    pub sent_bytes: u64,
    pub read_bytes: u64,
    pub connections: u64,
    pub uncovered: u64,
}

/// Why a task was stopped.
#[derive(Debug, Clone, Deserialize)]
pub struct Stopped {
    pub decision: String,
    pub reason: String,
    pub at: Value,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Decision {
    pub decision: String,
    pub reason: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct ModelTotal {
    pub model: String,
    pub calls: u64,
    pub usage: Usage,
    pub cost_usd: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Process {
    pub pid: u32,
    pub exe: String,
    pub calls: u64,
    pub cost_usd: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Call {
    pub response_id: Option<String>,
    pub pid: u32,
    pub model: String,
    pub stream: bool,
    pub usage: Usage,
    pub cost_usd: Option<String>,
    pub basis: String,
    pub price_row: Option<Value>,
    pub note: Option<String>,
}

/// `tollgate status --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub daemon: DaemonStatus,
    pub tasks: Vec<TaskStatus>,
    pub accounts: Vec<AccountStatus>,
    pub latencies: BTreeMap<String, Latency>,
    pub counters: BTreeMap<String, Value>,
    /// Files whose TLS functions are probed.
    pub probes: Vec<Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct DaemonStatus {
    pub version: String,
    pub pid: u32,
    pub ready: bool,
}

/// An account above tasks.
#[derive(Debug, Clone, Deserialize)]
pub struct AccountStatus {
    pub account: String,
    pub spent_usd: String,
}

/// How long something took.
#[derive(Debug, Clone, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

#[derive(Debug, Clone, Deserialize)]
pub struct TaskStatus {
    pub task: String,
    pub state: String,
    pub spent_usd: String,
    pub held_usd: String,
    pub lent_usd: String,
    pub calls: u64,
    /// What budgets can limit, by its name.
    pub counts: BTreeMap<String, u64>,
}

impl Report {
    pub fn spent(&self) -> PicoUsd {
        usd(&self.spent_usd)
    }

    pub fn held(&self) -> PicoUsd {
        usd(&self.held_usd)
    }

    /// The call with this response id.
    pub fn call(&self, response_id: &str) -> Option<&Call> {
        self.call_list.iter().find(|call| call.response_id.as_deref() == Some(response_id))
    }
}

impl Call {
    /// # Panics
    /// When the call is unpriced.
    pub fn cost(&self) -> PicoUsd {
        usd(self.cost_usd.as_deref().unwrap_or_else(|| panic!("unpriced: {self:?}")))
    }
}

impl Status {
    /// Counters that tell of loss and are not 0.
    pub fn losses(&self) -> Vec<(&str, &Value)> {
        let is_loss = |name: &str| name.contains("dropped") || name.contains("failed") || name.contains("lost");
        let lossy = self.counters.iter().filter(|(name, value)| is_loss(name) && value.as_u64() != Some(0));
        lossy.map(|(name, value)| (name.as_str(), value)).collect()
    }
}
