//! What a task did, for people and machines.
//!
//! In: the ledger, and the live state of the task. Out: a [`Report`].
//!
//! **Invariant:** amounts come from what is durable; an amount that was not measured says so by its basis.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    coverage::Share,
    engine::TaskStatus,
    ledger::{CallRow, DecisionRow, LedgerError, Reader},
    meter::{Basis, Usage},
    price::Money,
    task::TaskId,
};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    pub task: TaskId,
    pub state: String,
    /// Why it was stopped, if it was.
    pub stopped: Option<Stopped>,
    pub cap_usd: Option<Money>,
    pub spent_usd: Money,
    /// What calls without a price count toward the cap beside it.
    pub ceilings_usd: Money,
    pub held_usd: Money,
    pub started_at: String,
    pub calls: u64,
    pub exchanges: u64,
    pub usage: Usage,
    /// Calls by how their amount is known.
    pub basis: BTreeMap<String, u64>,
    pub models: Vec<ModelTotal>,
    pub processes: Vec<ProcessTotal>,
    pub decisions: Vec<DecisionLine>,
    pub call_list: Vec<CallLine>,
    /// Calls without a price.
    pub unpriced: u64,
    /// Connections and calls that could not be read.
    pub unread: u64,
    /// How much of what it sent was read, since the daemon started; `None` for a task that the daemon does not know.
    pub coverage: Option<Share>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stopped {
    pub decision: String,
    pub reason: String,
    pub at: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ModelTotal {
    pub model: String,
    pub calls: u64,
    pub usage: Usage,
    pub cost_usd: Money,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessTotal {
    pub pid: u32,
    pub ppid: Option<u32>,
    pub exe: String,
    pub calls: u64,
    pub cost_usd: Money,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DecisionLine {
    pub at: String,
    pub decision: String,
    pub reason: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CallLine {
    pub id: u64,
    pub response_id: Option<String>,
    pub pid: u32,
    pub provider: Option<String>,
    pub model: String,
    pub stream: bool,
    pub usage: Usage,
    pub cost_usd: Option<Money>,
    pub basis: Basis,
    pub price_row: Option<serde_json::Value>,
    pub note: Option<String>,
    pub started_at: String,
    pub ended_at: String,
}

impl ProcessTotal {
    /// All processes of a task, in the order in which they began; none for a task that never was.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn all(ledger: &Reader, task: &TaskId) -> Result<Vec<Self>, LedgerError> {
        let spent: HashMap<u32, (u64, Money)> = ledger
            .spent_by_process(task.as_str())?
            .into_iter()
            .map(|(pid, calls, cost)| (pid, (calls, cost)))
            .collect();
        let totals = ledger.processes(task.as_str())?.into_iter().map(|row| {
            let (calls, cost_usd) = spent.get(&row.pid).copied().unwrap_or_default();
            Self { pid: row.pid, ppid: row.parent, exe: row.executable.unwrap_or_else(|| "?".into()), calls, cost_usd }
        });
        Ok(totals.collect())
    }
}

impl Report {
    /// What the ledger knows of the task, with what `live` adds to it; `None` for a task that never was.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn new(ledger: &Reader, task: &TaskId, live: Option<&TaskStatus>) -> Result<Option<Self>, LedgerError> {
        let Some(row) = ledger.task(task.as_str())? else { return Ok(None) };
        let calls = ledger.calls(task.as_str())?;
        let decisions = ledger.decisions(task.as_str())?;
        let state =
            live.map_or_else(|| row.ended.clone().unwrap_or_else(|| "running".into()), |live| live.state.to_owned());
        let mut usage = Usage::default();
        let mut basis = BTreeMap::new();
        for call in &calls {
            usage.add_all(&call.usage);
            *basis.entry(call.basis.name().to_owned()).or_insert(0) += 1;
        }
        Ok(Some(Self {
            task: task.clone(),
            stopped: stopped(&state, &decisions),
            state,
            cap_usd: row.cap,
            spent_usd: calls.iter().filter_map(|call| call.cost).sum(),
            ceilings_usd: calls.iter().map(ceiling).sum(),
            held_usd: live.map(|live| live.held_usd).unwrap_or_default(),
            started_at: row.started_at,
            calls: calls.len() as u64,
            exchanges: live.map_or(calls.len() as u64, |live| live.exchanges),
            usage,
            basis,
            models: models(&calls),
            processes: ProcessTotal::all(ledger, task)?,
            unpriced: calls.iter().filter(|call| call.cost.is_none()).count() as u64,
            unread: live.map_or(0, |live| live.unread),
            coverage: live.map(|live| live.coverage),
            decisions: decisions
                .into_iter()
                .map(|DecisionRow { at, decision, reason }| DecisionLine { at, decision, reason })
                .collect(),
            call_list: calls.into_iter().map(call_line).collect(),
        }))
    }
}

/// The last decision to stop it, if it is or was stopped.
fn stopped(state: &str, decisions: &[DecisionRow]) -> Option<Stopped> {
    if !matches!(state, "stopped" | "stopping") {
        return None;
    }
    let last = decisions.iter().rev().find(|row| row.decision == "kill")?;
    Some(Stopped { decision: last.decision.clone(), reason: last.reason.clone(), at: last.at.clone() })
}

/// What a call without a price, or without a full one, counts beside what it cost.
fn ceiling(call: &CallRow) -> Money {
    call.ceiling.map_or(Money::ZERO, |ceiling| (ceiling - call.cost.unwrap_or_default()).max(Money::ZERO))
}

fn model_name(call: &CallRow) -> String {
    call.model.clone().unwrap_or_else(|| "unknown".into())
}

fn models(calls: &[CallRow]) -> Vec<ModelTotal> {
    let mut totals = BTreeMap::<String, ModelTotal>::new();
    for call in calls {
        let model = model_name(call);
        let total = totals.entry(model.clone()).or_insert_with(|| ModelTotal {
            model,
            calls: 0,
            usage: Usage::default(),
            cost_usd: Money::ZERO,
        });
        total.calls += 1;
        total.usage.add_all(&call.usage);
        total.cost_usd += call.cost.unwrap_or_default();
    }
    let mut totals: Vec<_> = totals.into_values().collect();
    totals.sort_by_key(|total| std::cmp::Reverse(total.cost_usd));
    totals
}

fn call_line(call: CallRow) -> CallLine {
    CallLine {
        id: call.id,
        model: model_name(&call),
        response_id: call.response_id,
        pid: call.pid,
        provider: call.provider,
        stream: call.stream,
        usage: call.usage,
        cost_usd: call.cost,
        basis: call.basis,
        price_row: call.price_row,
        note: call.note,
        started_at: call.started_at,
        ended_at: call.ended_at,
    }
}
