//! The one writer, on its own thread: nobody waits for the disk but those who ask to.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::oneshot;

use super::{
    LedgerError, alerts,
    audit::{self, Chained, LastHead},
    schema,
};
use crate::{
    alert::Alert,
    pipeline::Charge,
    price::Money,
    task::{AccountName, Labels, TaskId, TaskProcess},
};

/// Something to be kept.
#[derive(Debug)]
pub enum Entry {
    TaskStarted {
        task: TaskId,
        cgroup: String,
        cap: Option<Money>,
        labels: Labels,
        /// As JSON.
        budget: String,
        at: Timestamp,
    },
    TaskEnded {
        task: TaskId,
        state: &'static str,
        at: Timestamp,
    },
    Process {
        task: TaskId,
        process: TaskProcess,
    },
    CallStarted {
        id: u64,
        task: TaskId,
        pid: u32,
        model: Option<Box<str>>,
        hold: Money,
        at: Timestamp,
    },
    Charged {
        call: u64,
        charge: Box<Charge>,
        at: Timestamp,
    },
    /// A call that was in flight when the daemon stopped: what was held for it is the best that is known.
    Abandoned {
        call: u64,
        cost: Money,
        at: Timestamp,
    },
    Decided {
        account: AccountName,
        decision: &'static str,
        reason: String,
        /// Who, where it was a person.
        actor: Option<String>,
        at: Timestamp,
    },
    /// What a person has ordered, as JSON.
    Ordered {
        account: AccountName,
        what: String,
        actor: String,
        at: Timestamp,
    },
    /// Trouble that was seen.
    Incident {
        account: AccountName,
        trouble: &'static str,
        /// What is done about it.
        action: String,
        reason: String,
        /// The same that was seen and not said since the last incident of it.
        unsaid: u32,
        /// As JSON.
        evidence: String,
        at: Timestamp,
    },
    /// Somebody was told.
    Alerted(Box<Alert>),
    /// A webhook is there. One that was not, begins with what is raised from now on.
    Webhook {
        name: Box<str>,
    },
    /// It has got as far as this alert.
    WebhookSent {
        name: Box<str>,
        alert: i64,
    },
    /// Answered when everything before it is durable.
    Barrier(oneshot::Sender<()>),
}

/// Takes entries.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: Sender<Entry>,
    head: LastHead,
    failure: Failure,
    set_aside: Arc<Mutex<Vec<String>>>,
    file: Arc<(PathBuf, u64)>,
    counts: Arc<Counts>,
}

/// What the writer did, since the daemon started.
#[derive(Debug, Default)]
struct Counts {
    failures: AtomicU64,
    abandoned_calls: AtomicU64,
    abandoned_pico_usd: AtomicU64,
}

/// As it is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LedgerCounts {
    /// Transactions that failed and were tried again.
    pub failures: u64,
    /// Calls whose end nobody saw, which were charged at what was held for them.
    pub abandoned_calls: u64,
    pub abandoned: Money,
}

/// Why the last attempt to write failed, while it is tried again.
type Failure = Arc<Mutex<Option<String>>>;

/// Entries of one transaction: enough to make the disk's work cheap, few enough to be done soon.
const BATCH: usize = 512;
/// How long to wait before a failed transaction (a full disk, a lock) is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How long somebody waits for the disk.
const MOST_WAIT: Duration = Duration::from_secs(5);
/// Entries set aside of which it is kept why, until somebody asks.
const MOST_SET_ASIDE: usize = 32;
/// How often somebody who cannot be interrupted looks whether it is done.
const LOOK_AGAIN: Duration = Duration::from_micros(100);

impl Ledger {
    /// Opens the ledger and starts its writer.
    ///
    /// # Errors
    /// When the file cannot be opened or is of a newer version.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let sqlite = |source| LedgerError::Sqlite { path: path.into(), source };
        let connection = schema::open(path)?;
        let file = Arc::new((path.to_path_buf(), inode(path).unwrap_or_default()));
        let (entries, receiver) = channel();
        let (head, failure) = (LastHead::default(), Failure::default());
        head.set(audit::head(&connection).map_err(sqlite)?);
        let set_aside = Arc::<Mutex<Vec<String>>>::default();
        let counts = Arc::<Counts>::default();
        let mut writer = Writer {
            connection,
            head: head.clone(),
            failure: Arc::clone(&failure),
            set_aside: Arc::clone(&set_aside),
            counts: Arc::clone(&counts),
        };
        thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.write_all(&receiver))
            .map_err(|error| sqlite(rusqlite::Error::ToSqlConversionFailure(error.into())))?;
        Ok(Self { entries, head, failure, set_aside, file, counts })
    }

    /// The head of the audit chain, as far as it is durable.
    pub fn audit_head(&self) -> LastHead {
        self.head.clone()
    }

    pub fn counts(&self) -> LedgerCounts {
        LedgerCounts {
            failures: self.counts.failures.load(Relaxed),
            abandoned_calls: self.counts.abandoned_calls.load(Relaxed),
            abandoned: Money::from_pico_usd(self.counts.abandoned_pico_usd.load(Relaxed).into()),
        }
    }

    pub fn put(&self, entry: Entry) {
        if let Entry::Abandoned { cost, .. } = &entry {
            self.counts.abandoned_calls.fetch_add(1, Relaxed);
            self.counts.abandoned_pico_usd.fetch_add(u64::try_from(cost.pico_usd()).unwrap_or(0), Relaxed);
        }
        if self.entries.send(entry).is_err() {
            tracing::error!("the ledger's writer is gone: what is spent from now on is not kept");
        }
    }

    /// As [`Self::flushed`], for who cannot be interrupted; at most so long. Says whether it is.
    pub fn flush_within(&self, limit: Duration) -> bool {
        let (sender, mut receiver) = oneshot::channel();
        self.put(Entry::Barrier(sender));
        let deadline = std::time::Instant::now() + limit;
        loop {
            match receiver.try_recv() {
                Ok(()) => return true,
                Err(oneshot::error::TryRecvError::Closed) => return false,
                Err(oneshot::error::TryRecvError::Empty) if std::time::Instant::now() > deadline => return false,
                Err(oneshot::error::TryRecvError::Empty) => thread::sleep(LOOK_AGAIN),
            }
        }
    }

    /// Why what is put cannot be kept at the moment, if it cannot.
    pub fn failure(&self) -> Option<String> {
        let (path, opened) = &*self.file;
        if inode(path) != Some(*opened) {
            return Some(format!("{} is gone, or another file", path.display()));
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until everything put so far is durable, for as long as anybody should wait for a disk.
    ///
    /// # Errors
    /// When it is not by then; it may be later.
    pub async fn flushed(&self) -> Result<(), NotKept> {
        let (sender, receiver) = oneshot::channel();
        self.put(Entry::Barrier(sender));
        match tokio::time::timeout(MOST_WAIT, receiver).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(NotKept(self.failure().unwrap_or_else(|| "its disk is slow, or its writer is gone".into()))),
        }
    }

    /// Why entries could not be kept that never will be, since this was last asked.
    pub fn take_set_aside(&self) -> Vec<String> {
        std::mem::take(&mut *self.set_aside.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What has happened is not in the ledger.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the ledger is not written ({0}): what happens is kept in memory until it is")]
pub struct NotKept(String);

fn inode(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|file| file.ino())
}

/// The writer's thread.
struct Writer {
    connection: Connection,
    head: LastHead,
    failure: Failure,
    set_aside: Arc<Mutex<Vec<String>>>,
    counts: Arc<Counts>,
}

impl Writer {
    fn write_all(&mut self, receiver: &Receiver<Entry>) {
        while let Ok(first) = receiver.recv() {
            let mut batch = vec![first];
            batch.extend(receiver.try_iter().take(BATCH - 1));
            self.keep(&batch);
            self.say(None);
            if batch.iter().any(is_chained) {
                match audit::head(&self.connection) {
                    Ok(last) => self.head.set(last),
                    Err(error) => tracing::error!("the head of the audit chain cannot be read: {error}"),
                }
            }
            for entry in batch {
                if let Entry::Barrier(waiting) = entry {
                    // Nobody waits any more: fine.
                    waiting.send(()).ok();
                }
            }
        }
    }

    fn say(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Returns when they are durable. While the disk is full, say, nothing is dropped: the queue grows, and it is said again and again. An entry
    /// that can never be written is set aside, and holds up none of the others.
    fn keep(&mut self, entries: &[Entry]) {
        while let Err(error) = write_batch(&mut self.connection, entries) {
            if is_of_entry(&error) {
                return match entries {
                    [entry] => self.set_aside(entry, &error),
                    _ => entries.iter().for_each(|entry| self.keep(std::slice::from_ref(entry))),
                };
            }
            tracing::error!("the ledger cannot be written ({error}); trying again");
            self.say(Some(error.to_string()));
            self.counts.failures.fetch_add(1, Relaxed);
            thread::sleep(RETRY);
        }
    }

    fn set_aside(&self, entry: &Entry, error: &rusqlite::Error) {
        let what = entry.name();
        tracing::error!("the ledger takes no {what}: {error}; it is set aside");
        let mut set_aside = self.set_aside.lock().unwrap_or_else(PoisonError::into_inner);
        if set_aside.len() < MOST_SET_ASIDE {
            set_aside.push(format!("{what}: {error}"));
        }
    }
}

/// Whether it is the fault of what was to be written, so that trying again is of no use.
fn is_of_entry(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            ErrorCode::ConstraintViolation
                | ErrorCode::TypeMismatch
                | ErrorCode::TooBig
                | ErrorCode::ParameterOutOfRange
        ),
        // Of the binding of values.
        _ => true,
    }
}

impl Entry {
    /// In a word.
    const fn name(&self) -> &'static str {
        match self {
            Self::TaskStarted { .. } => "start of a task",
            Self::TaskEnded { .. } => "end of a task",
            Self::Process { .. } => "process",
            Self::CallStarted { .. } => "start of a call",
            Self::Charged { .. } | Self::Abandoned { .. } => "charge",
            Self::Decided { .. } => "decision",
            Self::Ordered { .. } => "order",
            Self::Incident { .. } => "incident",
            Self::Alerted(_) => "alert",
            Self::Webhook { .. } | Self::WebhookSent { .. } => "mark of a webhook",
            Self::Barrier(_) => "barrier",
        }
    }
}

const fn is_chained(entry: &Entry) -> bool {
    matches!(entry, Entry::Decided { .. } | Entry::Ordered { .. } | Entry::Incident { .. })
}

fn write_batch(connection: &mut Connection, batch: &[Entry]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for entry in batch {
        write(&transaction, entry)?;
    }
    transaction.commit()
}

/// As SQLite keeps it. 9.2 million USD for one call are more than there will be.
pub fn pico(money: Money) -> i64 {
    i64::try_from(money.pico_usd()).unwrap_or(i64::MAX)
}

/// With all digits, so that times compare as texts do.
pub fn time(at: Timestamp) -> String {
    format!("{at:.9}")
}

fn write(transaction: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    match entry {
        Entry::TaskStarted { task, cgroup, cap, labels, budget, at } => transaction
            .prepare_cached(
                "INSERT INTO tasks (task, cgroup, cap, started_at, parent, workflow, tenant, budget) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                task.as_str(),
                cgroup,
                cap.map(pico),
                time(*at),
                labels.parent.as_ref().map(TaskId::as_str),
                labels.workflow.as_ref().map(TaskId::as_str),
                labels.tenant.as_ref().map(TaskId::as_str),
                budget,
            ])?,
        Entry::TaskEnded { task, state, at } => transaction
            .prepare_cached("INSERT INTO task_ends (task, ended_at, state) VALUES (?, ?, ?)")?
            .execute(params![task.as_str(), time(*at), state])?,
        Entry::Process { task, process } => transaction
            .prepare_cached("INSERT INTO processes (task, pid, parent, executable, started_at) VALUES (?, ?, ?, ?, ?)")?
            .execute(params![task.as_str(), process.pid, process.parent, process.executable, time(process.started)])?,
        Entry::CallStarted { id, task, pid, model, hold, at } => transaction
            .prepare_cached("INSERT OR IGNORE INTO calls (id, task, pid, started_at, model, hold) VALUES (?, ?, ?, ?, ?, ?)")?
            .execute(params![i64::try_from(*id).unwrap_or(i64::MAX), task.as_str(), pid, time(*at), model, pico(*hold)])?,
        Entry::Charged { call, charge, at } => write_charge(transaction, *call, charge, *at)?,
        Entry::Abandoned { call, cost, at } => transaction
            .prepare_cached(
                "INSERT OR IGNORE INTO charges (call, ended_at, model, stream, usage, units, basis, cost, note) \
                 SELECT id, ?, model, 0, '{}', '{}', 'estimated', ?, 'the daemon stopped during the call: what was held is charged' \
                 FROM calls WHERE id = ?",
            )?
            .execute(params![time(*at), pico(*cost), i64::try_from(*call).unwrap_or(i64::MAX)])?,
        Entry::Decided { account, decision, reason, actor, at } => {
            let row = transaction
                .prepare_cached("INSERT INTO decisions (at, task, decision, reason, actor) VALUES (?, ?, ?, ?, ?)")?
                .insert(params![time(*at), account.to_string(), decision, reason, actor])?;
            return audit::append(transaction, Chained::Decision, row);
        }
        Entry::Ordered { account, what, actor, at } => {
            let row = transaction
                .prepare_cached("INSERT INTO orders (at, account, what, actor) VALUES (?, ?, ?, ?)")?
                .insert(params![time(*at), account.to_string(), what, actor])?;
            return audit::append(transaction, Chained::Order, row);
        }
        Entry::Incident { account, trouble, action, reason, unsaid, evidence, at } => {
            let row = transaction
                .prepare_cached(
                    "INSERT INTO incidents (at, account, trouble, action, reason, unsaid, evidence) VALUES (?, ?, ?, ?, ?, ?, ?)",
                )?
                .insert(params![time(*at), account.to_string(), trouble, action, reason, unsaid, evidence])?;
            return audit::append(transaction, Chained::Incident, row);
        }
        Entry::Alerted(alert) => return alerts::write(transaction, alert),
        Entry::Webhook { name } => alerts::know(transaction, name)?,
        Entry::WebhookSent { name, alert } => alerts::sent(transaction, name, *alert)?,
        Entry::Barrier(_) => 0,
    };
    Ok(())
}

fn write_charge(transaction: &Connection, call: u64, charge: &Charge, at: Timestamp) -> rusqlite::Result<usize> {
    let metered = &charge.metered;
    let json = |value: Result<String, serde_json::Error>| value.unwrap_or_else(|_| "{}".into());
    transaction
        .prepare_cached(
            "INSERT OR IGNORE INTO charges (call, ended_at, provider, model, response_id, stream, usage, units, basis, cost, ceiling, price_row, note, tool) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute(params![
            i64::try_from(call).unwrap_or(i64::MAX),
            time(at),
            metered.provider,
            metered.model(),
            metered.response_id,
            metered.stream,
            json(serde_json::to_string(&metered.usage)),
            json(serde_json::to_string(&metered.units)),
            metered.basis.name(),
            charge.cost.map(pico),
            charge.ceiling.map(pico),
            charge.row.as_ref().map(|row| json(serde_json::to_string(row))),
            charge.note,
            charge.is_tool(),
        ])
}

#[cfg(test)]
mod tests {
    use std::{path::Path, time::Instant};

    use jiff::Timestamp;

    use super::{Entry, Ledger, time};
    use crate::ledger::schema;

    fn decided(reason: &str) -> Entry {
        let account = "t1".parse().expect("a task");
        Entry::Decided { account, decision: "warn", reason: reason.into(), actor: None, at: Timestamp::UNIX_EPOCH }
    }

    fn reasons(path: &Path) -> Vec<String> {
        let connection = schema::open(path).expect("the ledger");
        let mut rows = connection.prepare("SELECT reason FROM decisions ORDER BY rowid").expect("a query");
        rows.query_map([], |row| row.get(0)).expect("rows").map(|row| row.expect("a row")).collect()
    }

    #[tokio::test]
    async fn what_can_never_be_written_holds_up_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let ledger = Ledger::open(&path).expect("a ledger");
        let trigger = "CREATE TRIGGER poison BEFORE INSERT ON decisions WHEN NEW.reason = 'poison' BEGIN SELECT RAISE(ABORT, 'never'); END";
        schema::open(&path).expect("another").execute_batch(trigger).expect("a trigger");
        for reason in ["before", "poison", "after"] {
            ledger.put(decided(reason));
        }
        ledger.flushed().await.expect("durable");
        assert_eq!(reasons(&path), ["before", "after"]);
        let set_aside = ledger.take_set_aside();
        assert!(set_aside.len() == 1 && set_aside[0].contains("decision: never"), "{set_aside:?}");
        assert!(ledger.take_set_aside().is_empty() && ledger.failure().is_none());
    }

    /// As with a full disk.
    #[tokio::test]
    async fn nobody_waits_for_ever_for_a_ledger_that_cannot_be_written() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let ledger = Ledger::open(&path).expect("a ledger");
        let other = schema::open(&path).expect("another");
        other.execute_batch("BEGIN EXCLUSIVE").expect("a lock");
        ledger.put(decided("kept"));
        let began = Instant::now();
        let error = ledger.flushed().await.expect_err("it is not durable");
        assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
        assert!(error.to_string().contains("the ledger is not written"), "{error}");
        other.execute_batch("ROLLBACK").expect("unlocking");
        ledger.flushed().await.expect("durable");
        assert_eq!(reasons(&path), ["kept"]);
    }

    #[test]
    fn times_compare_as_texts() {
        let texts = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.1Z", "2026-01-01T00:00:00.105Z"];
        let texts = texts.map(|text| time(text.parse().expect("a time")));
        assert!(texts.is_sorted(), "{texts:?}");
        assert_eq!(texts[2], "2026-01-01T00:00:00.105000000Z");
    }
}
