//! Tables, and how they come to be.

use std::path::Path;

use rusqlite::Connection;

use super::LedgerError;

const VERSION: i64 = 1;

/// Money is in pico-USD, times are RFC 3339 in UTC.
const SCHEMA: &str = "
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

const TABLES: [&str; 6] = ["tasks", "task_ends", "processes", "calls", "charges", "decisions"];

/// Opens the ledger for writing; makes it if it is not there.
pub fn open(path: &Path) -> Result<Connection, LedgerError> {
    let error = |source| LedgerError::Sqlite { path: path.into(), source };
    let mut connection = Connection::open(path).map_err(error)?;
    // With a write-ahead log in NORMAL mode a commit survives a crash of this process; a power loss may take the last ones.
    connection.pragma_update(None, "journal_mode", "WAL").map_err(error)?;
    connection.pragma_update(None, "synchronous", "NORMAL").map_err(error)?;
    connection.pragma_update(None, "foreign_keys", true).map_err(error)?;
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(error)?;
    match found {
        0 => create(&mut connection).map_err(error)?,
        VERSION => {}
        found if found > VERSION => return Err(LedgerError::Newer { path: path.into(), found, known: VERSION }),
        _ => {}
    }
    Ok(connection)
}

fn create(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    for table in TABLES {
        for change in ["UPDATE", "DELETE"] {
            transaction.execute_batch(&format!(
                "CREATE TRIGGER {table}_no_{change} BEFORE {change} ON {table} BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;"
            ))?;
        }
    }
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::open;

    #[test]
    fn nothing_can_be_changed_or_deleted() {
        let directory = tempfile::tempdir().expect("a directory");
        let connection = open(&directory.path().join("ledger.db")).expect("a ledger");
        connection.execute("INSERT INTO decisions VALUES (1, 't', 'a', 'warn', 'r')", []).expect("an insert");
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
}
