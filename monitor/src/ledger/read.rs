//! Reading the ledger: at start, and for reports.

use std::path::Path;

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row, params};

use super::{
    LedgerError,
    audit::{self, Broken, Head},
};
use crate::{
    budget::Settings,
    meter::{Basis, Usage},
    price::Money,
    task::{AccountName, Labels, TaskId},
};

/// A look at the ledger; many can look while one writes.
pub struct Reader {
    connection: Connection,
    path: std::path::PathBuf,
}

/// A task as it was last started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskRow {
    pub task: String,
    pub cgroup: String,
    pub cap: Option<Money>,
    pub labels: Labels,
    pub budget: Settings,
    pub started_at: String,
    /// How it ended, if it did after that.
    pub ended: Option<String>,
}

/// A call that has no charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenCall {
    pub id: u64,
    pub task: String,
    pub pid: u32,
    pub hold: Money,
}

impl OpenCall {
    /// What was held for it is the best that is known.
    pub fn charge(&self, at: Timestamp) -> PastCharge {
        PastCharge {
            at,
            model: None,
            tokens: 0,
            cost: self.hold,
            unpriced: Money::ZERO,
            is_typical: false,
            is_tool: false,
        }
    }
}

/// What a call cost, for its task's account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastCharge {
    pub at: Timestamp,
    pub model: Option<String>,
    pub tokens: u64,
    /// What it counts toward caps.
    pub cost: Money,
    /// The part of it that is a ceiling, for a call without a price.
    pub unpriced: Money,
    /// It was reported, and not broken off.
    pub is_typical: bool,
    /// It is for a call of a tool.
    pub is_tool: bool,
}

/// What a person has ordered, as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastOrder {
    pub at: Timestamp,
    pub what: String,
}

/// What was done about trouble.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastTrouble {
    /// As settings say it.
    pub action: String,
    pub reason: String,
}

/// A call with its charge.
#[derive(Debug, Clone)]
pub struct CallRow {
    pub id: u64,
    pub pid: u32,
    pub started_at: String,
    pub ended_at: String,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub response_id: Option<String>,
    pub stream: bool,
    pub usage: Usage,
    pub basis: Basis,
    pub cost: Option<Money>,
    /// What it counts toward caps in place of a cost that is not known, or not known in full.
    pub ceiling: Option<Money>,
    pub price_row: Option<serde_json::Value>,
    pub note: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecisionRow {
    pub at: String,
    pub decision: String,
    pub reason: String,
}

/// Trouble that was seen.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct IncidentRow {
    pub id: i64,
    /// RFC 3339.
    pub at: String,
    pub account: String,
    /// What kind of trouble, in a word.
    pub trouble: String,
    /// What was done about it: `warn`, `throttle`, `cut`, `pause` or `kill`.
    pub action: String,
    pub reason: String,
    /// The same that was seen and not said since the last incident of it.
    pub unsaid: u32,
    /// Last calls, processes, how fast the money went, what repeated.
    pub evidence: serde_json::Value,
}

/// A link of the audit chain with the row that it is for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AuditRow {
    pub link: i64,
    pub at: String,
    pub account: String,
    /// `decision`, `order` or `incident`.
    pub kind: String,
    /// What was decided or done, in a word; of an order, as JSON.
    pub what: String,
    pub reason: String,
    /// Who, where it was a person.
    pub actor: Option<String>,
    pub hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessRow {
    pub pid: u32,
    pub parent: Option<u32>,
    pub executable: Option<String>,
    pub started_at: String,
}

fn money(pico: i64) -> Money {
    Money::from_pico_usd(pico.into())
}

fn id(row: &Row<'_>, column: &str) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(|id| u64::try_from(id).unwrap_or(0))
}

fn json<T: for<'de> serde::Deserialize<'de>>(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<T>> {
    Ok(row.get::<_, Option<String>>(column)?.and_then(|text| serde_json::from_str(&text).ok()))
}

impl Reader {
    /// # Errors
    /// When there is no ledger, or it cannot be read.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags)
            .map_err(|source| LedgerError::Sqlite { path: path.into(), source })?;
        Ok(Self { connection, path: path.into() })
    }

    /// Asks the database; what goes wrong is said with the ledger's path.
    pub(super) fn ask<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, LedgerError> {
        ask(&self.connection).map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    fn rows<T>(
        &self,
        sql: &str,
        task: &str,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, LedgerError> {
        let rows = || -> rusqlite::Result<Vec<T>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let arguments: &[&dyn rusqlite::ToSql] = if sql.contains('?') { &[&task] } else { &[] };
            statement.query_map(arguments, read)?.collect()
        };
        rows().map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    /// Every task, as it was last started.
    pub fn tasks(&self) -> Result<Vec<TaskRow>, LedgerError> {
        let sql = "SELECT task, cgroup, cap, started_at, parent, workflow, tenant, budget, \
                   (SELECT state FROM task_ends e WHERE e.task = t.task AND e.ended_at >= t.started_at ORDER BY e.id DESC LIMIT 1) AS ended \
                   FROM tasks t WHERE id = (SELECT max(id) FROM tasks WHERE task = t.task) ORDER BY id";
        self.rows(sql, "", task_row)
    }

    pub fn task(&self, task: &str) -> Result<Option<TaskRow>, LedgerError> {
        Ok(self.tasks()?.into_iter().find(|row| row.task == task))
    }

    /// What each call of a task and of those below it cost, oldest first.
    pub fn charges(&self, task: &str) -> Result<Vec<PastCharge>, LedgerError> {
        let sql = "WITH RECURSIVE below (task) AS (SELECT ? UNION SELECT tasks.task FROM tasks JOIN below ON tasks.parent = below.task) \
                   SELECT ended_at, coalesce(calls.model, charges.model) AS model, usage, cost, ceiling, basis, tool FROM charges JOIN calls ON calls.id = call \
                   WHERE task IN below AND coalesce(ceiling, cost) IS NOT NULL ORDER BY calls.id";
        self.rows(sql, task, past_charge)
    }

    /// What each call of an account cost, oldest first. A task is of the tenant and the workflow that it was last started for.
    pub fn charges_of(&self, account: &AccountName) -> Result<Vec<PastCharge>, LedgerError> {
        let (labels, tenant, workflow) = match account {
            AccountName::Task(task) => return self.charges(task.as_str()),
            AccountName::Tenant(tenant) => ("tenant = ?1 AND ?2 IS NULL", Some(tenant), None),
            AccountName::Workflow { tenant, workflow } => {
                ("tenant IS ?1 AND workflow = ?2", tenant.as_ref(), Some(workflow))
            }
        };
        let sql = format!(
            "WITH RECURSIVE below (task) AS (\
             SELECT task FROM tasks t WHERE id = (SELECT max(id) FROM tasks WHERE task = t.task) AND {labels} \
             UNION SELECT tasks.task FROM tasks JOIN below ON tasks.parent = below.task) \
             SELECT ended_at, coalesce(calls.model, charges.model) AS model, usage, cost, ceiling, basis, tool FROM charges JOIN calls ON calls.id = call \
             WHERE task IN below AND coalesce(ceiling, cost) IS NOT NULL ORDER BY calls.id"
        );
        let rows = || -> rusqlite::Result<Vec<PastCharge>> {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let arguments = params![tenant.map(TaskId::as_str), workflow.map(TaskId::as_str)];
            statement.query_map(arguments, past_charge)?.collect()
        };
        rows().map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    /// What people have ordered of an account; of a task, since it was last started.
    pub fn orders(&self, account: &AccountName) -> Result<Vec<PastOrder>, LedgerError> {
        let sql = "SELECT at, what FROM orders WHERE account = ?1 \
                   AND at >= coalesce((SELECT max(started_at) FROM tasks WHERE task = ?1), '') ORDER BY id";
        self.rows(sql, &account.to_string(), |row| {
            Ok(PastOrder { at: row.get::<_, String>("at")?.parse().unwrap_or(Timestamp::MAX), what: row.get("what")? })
        })
    }

    /// What was done about trouble of an account that was more than a warning, the strictest of it, unless somebody has let the account go on since.
    /// Of a task, since it was last started.
    pub fn standing_trouble(&self, account: &AccountName) -> Result<Option<PastTrouble>, LedgerError> {
        let sql = "SELECT action, reason FROM incidents WHERE account = ?1 AND action <> 'warn' \
                   AND at >= coalesce((SELECT max(started_at) FROM tasks WHERE task = ?1), '') \
                   AND at >= coalesce((SELECT max(at) FROM orders WHERE account = ?1 AND (what LIKE '%\"order\":\"add\"%' OR what LIKE '%\"order\":\"until\"%' OR what LIKE '%\"order\":\"resume\"%')), '') \
                   ORDER BY CASE WHEN action LIKE 'kill%' THEN 4 WHEN action LIKE 'pause%' THEN 3 WHEN action LIKE 'cut%' THEN 2 ELSE 1 END DESC, \
                   id DESC LIMIT 1";
        let rows = self.rows(sql, &account.to_string(), |row| {
            Ok(PastTrouble { action: row.get("action")?, reason: row.get("reason")? })
        })?;
        Ok(rows.into_iter().next())
    }

    pub fn open_calls(&self) -> Result<Vec<OpenCall>, LedgerError> {
        let sql = "SELECT id, task, pid, hold FROM calls WHERE NOT EXISTS (SELECT 1 FROM charges WHERE call = calls.id) ORDER BY id";
        self.rows(sql, "", |row| {
            Ok(OpenCall {
                id: id(row, "id")?,
                task: row.get("task")?,
                pid: row.get("pid")?,
                hold: row.get("hold").map(money)?,
            })
        })
    }

    pub fn last_call(&self) -> Result<u64, LedgerError> {
        let last =
            self.connection.query_row("SELECT max(id) FROM calls", [], |row| row.get::<_, Option<i64>>(0)).optional();
        let last = last.map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })?;
        Ok(last.flatten().and_then(|id| u64::try_from(id).ok()).unwrap_or(0))
    }

    /// Exchanges that cost something, or may have.
    pub fn calls(&self, task: &str) -> Result<Vec<CallRow>, LedgerError> {
        let sql = "SELECT id, pid, started_at, ended_at, provider, charges.model AS model, response_id, stream, usage, basis, cost, ceiling, price_row, \
                   note FROM calls JOIN charges ON call = id WHERE task = ? AND basis <> 'none' ORDER BY id";
        self.rows(sql, task, call_row)
    }

    /// Number and cost of a task's calls, by process.
    pub fn spent_by_process(&self, task: &str) -> Result<Vec<(u32, u64, Money)>, LedgerError> {
        let sql = "SELECT pid, count(*) AS calls, coalesce(sum(cost), 0) AS cost FROM calls JOIN charges ON call = id \
                   WHERE task = ? AND basis <> 'none' GROUP BY pid";
        self.rows(sql, task, |row| Ok((row.get("pid")?, id(row, "calls")?, row.get("cost").map(money)?)))
    }

    pub fn decisions(&self, task: &str) -> Result<Vec<DecisionRow>, LedgerError> {
        let sql = "SELECT at, decision, reason FROM decisions WHERE task = ? ORDER BY id";
        self.rows(sql, task, |row| {
            Ok(DecisionRow { at: row.get("at")?, decision: row.get("decision")?, reason: row.get("reason")? })
        })
    }

    /// Trouble of an account, or of all, oldest first.
    pub fn incidents(&self, account: Option<&AccountName>) -> Result<Vec<IncidentRow>, LedgerError> {
        let sql = "SELECT id, at, account, trouble, action, reason, unsaid, evidence FROM incidents \
                   WHERE account = ?1 OR ?1 = '' ORDER BY id";
        let account = account.map(ToString::to_string).unwrap_or_default();
        self.rows(sql, &account, |row| {
            Ok(IncidentRow {
                id: row.get("id")?,
                at: row.get("at")?,
                account: row.get("account")?,
                trouble: row.get("trouble")?,
                action: row.get("action")?,
                reason: row.get("reason")?,
                unsaid: row.get("unsaid")?,
                evidence: json(row, "evidence")?.unwrap_or_default(),
            })
        })
    }

    /// What each task of a workflow cost that has ended, oldest first.
    pub fn task_costs(&self, workflow: &AccountName) -> Result<Vec<Money>, LedgerError> {
        let AccountName::Workflow { tenant, workflow } = workflow else { return Ok(Vec::new()) };
        let sql = "SELECT coalesce(sum(max(coalesce(charges.cost, 0), coalesce(charges.ceiling, 0))), 0) AS cost FROM tasks t \
                   JOIN calls ON calls.task = t.task JOIN charges ON charges.call = calls.id \
                   WHERE t.id = (SELECT max(id) FROM tasks WHERE task = t.task) AND t.tenant IS ?1 AND t.workflow = ?2 AND t.parent IS NULL \
                   AND EXISTS (SELECT 1 FROM task_ends e WHERE e.task = t.task AND e.ended_at >= t.started_at) GROUP BY t.id ORDER BY t.id";
        let rows = || -> rusqlite::Result<Vec<Money>> {
            let mut statement = self.connection.prepare_cached(sql)?;
            let arguments = params![tenant.as_ref().map(TaskId::as_str), workflow.as_str()];
            statement.query_map(arguments, |row| row.get("cost").map(money))?.collect()
        };
        rows().map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    /// Processes of a task that made model calls since it was last started.
    pub fn callers(&self, task: &str) -> Result<Vec<u32>, LedgerError> {
        let sql = "SELECT DISTINCT pid FROM calls LEFT JOIN charges ON call = calls.id WHERE task = ?1 AND coalesce(tool, 0) = 0 \
                   AND calls.started_at >= (SELECT max(started_at) FROM tasks WHERE task = ?1)";
        self.rows(sql, task, |row| row.get(0))
    }

    /// The audit chain with what it is for: of an account, or of all.
    pub fn audit(&self, account: Option<&AccountName>) -> Result<Vec<AuditRow>, LedgerError> {
        let sql = "SELECT link, kind, hash, coalesce(d.at, o.at, i.at, '') AS at, coalesce(d.task, o.account, i.account, '') AS account, \
                   coalesce(d.decision, o.what, i.trouble || ': ' || i.action, '') AS what, coalesce(d.reason, i.reason, '') AS reason, \
                   coalesce(d.actor, o.actor) AS actor FROM audit \
                   LEFT JOIN decisions d ON kind = 'decision' AND d.id = row LEFT JOIN orders o ON kind = 'order' AND o.id = row \
                   LEFT JOIN incidents i ON kind = 'incident' AND i.id = row \
                   WHERE ?1 = '' OR coalesce(d.task, o.account, i.account) = ?1 ORDER BY link";
        let account = account.map(ToString::to_string).unwrap_or_default();
        self.rows(sql, &account, |row| {
            let hash: Vec<u8> = row.get("hash")?;
            Ok(AuditRow {
                link: row.get("link")?,
                at: row.get("at")?,
                account: row.get("account")?,
                kind: row.get("kind")?,
                what: row.get("what")?,
                reason: row.get("reason")?,
                actor: row.get("actor")?,
                hash: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
            })
        })
    }

    /// Whether the audit chain is whole, and where it ends; with an anchor, whether it still has that link.
    pub fn verify_audit(&self, anchor: Option<&str>) -> Result<Result<Option<Head>, Broken>, LedgerError> {
        let verify = || {
            // All of it as it is at one moment: the daemon may be writing.
            let transaction = self.connection.unchecked_transaction()?;
            audit::verify(&transaction, anchor)
        };
        verify().map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }

    /// Each process with the last program it executed.
    pub fn processes(&self, task: &str) -> Result<Vec<ProcessRow>, LedgerError> {
        let sql = "SELECT pid, parent, executable, started_at FROM processes p WHERE task = ? \
                   AND id = (SELECT max(id) FROM processes WHERE task = p.task AND pid = p.pid AND started_at = p.started_at) ORDER BY id";
        self.rows(sql, task, |row| {
            Ok(ProcessRow {
                pid: row.get("pid")?,
                parent: row.get("parent")?,
                executable: row.get("executable")?,
                started_at: row.get("started_at")?,
            })
        })
    }

    /// Everything in the file is as SQLite left it.
    pub fn is_sound(&self) -> Result<bool, LedgerError> {
        self.connection
            .query_row("PRAGMA quick_check", params![], |row| row.get::<_, String>(0))
            .map(|answer| answer == "ok")
            .map_err(|source| LedgerError::Sqlite { path: self.path.clone(), source })
    }
}

/// A name in the ledger; one that is none is left out.
fn name(row: &Row<'_>, column: &str) -> rusqlite::Result<Option<TaskId>> {
    Ok(row.get::<_, Option<String>>(column)?.and_then(|name| name.parse().ok()))
}

fn task_row(row: &Row<'_>) -> rusqlite::Result<TaskRow> {
    Ok(TaskRow {
        labels: Labels { parent: name(row, "parent")?, workflow: name(row, "workflow")?, tenant: name(row, "tenant")? },
        budget: json(row, "budget")?.unwrap_or_default(),
        task: row.get("task")?,
        cgroup: row.get("cgroup")?,
        cap: row.get::<_, Option<i64>>("cap")?.map(money),
        started_at: row.get("started_at")?,
        ended: row.get("ended")?,
    })
}

fn past_charge(row: &Row<'_>) -> rusqlite::Result<PastCharge> {
    let used: Usage = json(row, "usage")?.unwrap_or_default();
    let priced = row.get::<_, Option<i64>>("cost")?.map(money).unwrap_or_default();
    let cost = row.get::<_, Option<i64>>("ceiling")?.map_or(priced, |ceiling| money(ceiling).max(priced));
    Ok(PastCharge {
        // One whose time cannot be read counts in every window.
        at: row.get::<_, String>("ended_at")?.parse().unwrap_or(Timestamp::MAX),
        model: row.get("model")?,
        tokens: used.input_total().saturating_add(used.output_total()),
        cost,
        unpriced: cost - priced,
        is_typical: matches!(row.get::<_, String>("basis")?.as_str(), "measured" | "provider"),
        is_tool: row.get("tool")?,
    })
}

fn call_row(row: &Row<'_>) -> rusqlite::Result<CallRow> {
    let basis: String = row.get("basis")?;
    Ok(CallRow {
        id: id(row, "id")?,
        pid: row.get("pid")?,
        started_at: row.get("started_at")?,
        ended_at: row.get("ended_at")?,
        provider: row.get("provider")?,
        model: row.get("model")?,
        response_id: row.get("response_id")?,
        stream: row.get("stream")?,
        usage: json(row, "usage")?.unwrap_or_default(),
        basis: serde_json::from_value(basis.into()).unwrap_or(Basis::None),
        cost: row.get::<_, Option<i64>>("cost")?.map(money),
        ceiling: row.get::<_, Option<i64>>("ceiling")?.map(money),
        price_row: json(row, "price_row")?,
        note: row.get("note")?,
    })
}
