//! Tables, and how they come to be.

use std::path::Path;

use rusqlite::Connection;

use super::{LedgerError, audit};

/// What makes each version of the one before; a ledger of any of them is brought up to the last one when it is opened.
///
/// Money is in pico-USD, times are RFC 3339 in UTC.
const VERSIONS: [&str; 4] = [FIRST, SECOND, THIRD, FOURTH];

const FIRST: &str = "
CREATE TABLE tasks (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    cgroup TEXT NOT NULL,
    cap INTEGER,
    started_at TEXT NOT NULL
) STRICT;
CREATE TABLE task_ends (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    ended_at TEXT NOT NULL,
    state TEXT NOT NULL
) STRICT;
CREATE TABLE processes (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    pid INTEGER NOT NULL,
    parent INTEGER,
    executable TEXT,
    started_at TEXT NOT NULL
) STRICT;
CREATE TABLE calls (
    id INTEGER PRIMARY KEY,
    task TEXT NOT NULL,
    pid INTEGER NOT NULL,
    started_at TEXT NOT NULL,
    model TEXT,
    hold INTEGER NOT NULL
) STRICT;
CREATE TABLE charges (
    call INTEGER PRIMARY KEY REFERENCES calls (id),
    ended_at TEXT NOT NULL,
    provider TEXT,
    model TEXT,
    response_id TEXT,
    stream INTEGER NOT NULL,
    usage TEXT NOT NULL,
    units TEXT NOT NULL,
    basis TEXT NOT NULL,
    cost INTEGER,
    price_row TEXT,
    note TEXT
) STRICT;
CREATE TABLE decisions (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    task TEXT NOT NULL,
    decision TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT;
CREATE INDEX calls_by_task ON calls (task);
CREATE INDEX decisions_by_task ON decisions (task);
CREATE INDEX processes_by_task ON processes (task);
CREATE INDEX tasks_by_task ON tasks (task);
";

/// Ceilings of calls without a price; accounts above tasks, their budgets and what people have added to them; who decided.
const SECOND: &str = "
ALTER TABLE charges ADD COLUMN ceiling INTEGER;
ALTER TABLE tasks ADD COLUMN parent TEXT;
ALTER TABLE tasks ADD COLUMN workflow TEXT;
ALTER TABLE tasks ADD COLUMN tenant TEXT;
ALTER TABLE tasks ADD COLUMN budget TEXT;
ALTER TABLE decisions ADD COLUMN actor TEXT;
CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    account TEXT NOT NULL,
    what TEXT NOT NULL,
    actor TEXT NOT NULL
) STRICT;
CREATE INDEX orders_by_account ON orders (account);
";

/// Incidents; the chain of decisions, orders and incidents; which charges are of tools.
const THIRD: &str = "
ALTER TABLE charges ADD COLUMN tool INTEGER NOT NULL DEFAULT 0;
CREATE TABLE incidents (
    id INTEGER PRIMARY KEY,
    at TEXT NOT NULL,
    account TEXT NOT NULL,
    trouble TEXT NOT NULL,
    action TEXT NOT NULL,
    reason TEXT NOT NULL,
    unsaid INTEGER NOT NULL,
    evidence TEXT NOT NULL
) STRICT;
CREATE TABLE audit (
    link INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    row INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX incidents_by_account ON incidents (account);
CREATE UNIQUE INDEX audit_by_row ON audit (kind, row);
";
/// What people were told, as long as there is room ([`ALERTS_KEPT`](super::ALERTS_KEPT)), and how far each webhook has got with it.
const FOURTH: &str = "
CREATE TABLE alerts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at TEXT NOT NULL,
    kind TEXT NOT NULL,
    task TEXT,
    account TEXT,
    actor TEXT,
    message TEXT NOT NULL,
    spent INTEGER,
    cap INTEGER
) STRICT;
CREATE TABLE webhooks (
    name TEXT PRIMARY KEY,
    sent INTEGER NOT NULL
) STRICT;
";
/// The version that brought the chain.
const CHAINED_SINCE: usize = 3;

/// Those to which rows are added and nothing else is done.
const TABLES: [&str; 9] =
    ["tasks", "task_ends", "processes", "calls", "charges", "decisions", "orders", "incidents", "audit"];

/// Opens the ledger for writing; makes it if it is not there.
pub fn open(path: &Path) -> Result<Connection, LedgerError> {
    let error = |source| LedgerError::Sqlite { path: path.into(), source };
    let mut connection = Connection::open(path).map_err(error)?;
    // With a write-ahead log in NORMAL mode a commit survives a crash of this process; a power loss may take the last ones.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(error)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(error)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(error)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(error)?;
    let known = i64::try_from(VERSIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(LedgerError::Newer { path: path.into(), found, known });
    }
    if found < known {
        bring_up(&mut connection, usize::try_from(found).unwrap_or(0)).map_err(error)?;
    }
    Ok(connection)
}

fn bring_up(connection: &mut Connection, from: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for version in VERSIONS.iter().skip(from) {
        transaction.execute_batch(version)?;
    }
    if from < CHAINED_SINCE {
        audit::append_all(&transaction)?;
    }
    for table in TABLES {
        for change in ["UPDATE", "DELETE"] {
            transaction.execute_batch(&format!(
                "CREATE TRIGGER IF NOT EXISTS {table}_no_{change} BEFORE {change} ON {table} \
                 BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
            ))?;
        }
    }
    transaction.pragma_update(None, "user_version", i64::try_from(VERSIONS.len()).unwrap_or(i64::MAX))?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::open;

    #[test]
    fn nothing_can_be_changed_or_deleted() {
        let directory = tempfile::tempdir().expect("a directory");
        let connection = open(&directory.path().join("ledger.db")).expect("a ledger");
        connection.execute("INSERT INTO decisions VALUES (1, 't', 'a', 'warn', 'r', NULL)", []).expect("an insert");
        for change in ["UPDATE decisions SET task = 'b'", "DELETE FROM decisions"] {
            let error = connection.execute(change, []).expect_err(change);
            assert!(error.to_string().contains("append-only"), "{error}");
        }
    }

    #[test]
    fn a_newer_ledger_is_left_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        open(&path).expect("a ledger").pragma_update(None, "user_version", 99).expect("a pragma");
        assert!(open(&path).expect_err("newer").to_string().contains("newer version"));
    }

    #[test]
    fn a_ledger_of_the_first_version_is_brought_up() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let old = rusqlite::Connection::open(&path).expect("a file");
        old.execute_batch(super::FIRST).expect("the first version");
        old.execute_batch(
            "INSERT INTO tasks VALUES (1, 't', '/c', 7, '2026-01-01T00:00:00Z'); \
             INSERT INTO calls VALUES (1, 't', 9, '2026-01-01T00:00:00Z', 'm', 3); \
             INSERT INTO charges VALUES (1, '2026-01-01T00:00:01Z', NULL, 'm', NULL, 0, '{}', '{}', 'measured', 5, NULL, NULL); \
             PRAGMA user_version = 1",
        )
        .expect("what the first version wrote");
        old.execute_batch(
            "INSERT INTO decisions VALUES (1, '2026-01-02T00:00:00Z', 't', 'warn', 'r'); \
             INSERT INTO decisions VALUES (2, '2026-01-01T00:00:00Z', 't', 'kill', 'r')",
        )
        .expect("decisions");
        drop(old);
        drop(open(&path).expect("a ledger"));
        // What was decided before there was a chain is in it.
        let chained = crate::ledger::audit::verify(&open(&path).expect("a ledger"), None).expect("it is read");
        assert_eq!(chained.expect("it is whole").map(|head| head.links), Some(2));
        let reader = crate::ledger::Reader::open(&path).expect("a ledger");
        let charges = reader.charges("t").expect("charges");
        assert_eq!(charges.len(), 1);
        assert_eq!((charges[0].cost.pico_usd(), charges[0].unpriced.pico_usd()), (5, 0));
        let change = open(&path).expect("again").execute("DELETE FROM orders", []);
        // Nothing is there to be deleted; the triggers are.
        assert_eq!(change, Ok(0));
        let again = open(&path).expect("again");
        again.execute("INSERT INTO orders VALUES (1, 'a', 't', 'w', 'x')", []).expect("an insert");
        assert!(again.execute("DELETE FROM orders", []).is_err());
    }
}
