//! What lasts: tasks, calls, charges and decisions, in SQLite.
//!
//! In: [`Entry`]s from the engine. Out: balances at start, and the rows that reports are made of.
//!
//! **Invariant:** append-only, enforced by the database itself (but for alerts, of which the last ones are kept); an entry is durable against a crash of the daemon before anything that was
//! told about it reaches a person ([`Ledger::flushed`]). No prompt, answer, header or key has a column here.

mod alerts;
pub mod audit;
mod read;
mod schema;
mod write;

pub use alerts::{ALERTS_KEPT, AlertRow};
pub use read::{
    AuditRow, CallRow, DecisionRow, IncidentRow, OpenCall, PastCharge, PastOrder, PastTrouble, ProcessRow, Reader,
    TaskRow,
};
pub use write::{Entry, Ledger, LedgerCounts, NotKept};

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("the ledger {path}: {source}")]
    Sqlite { path: std::path::PathBuf, source: rusqlite::Error },
    #[error(
        "the ledger {path} was written by a newer version (schema {found}, known {known}): install that version again"
    )]
    Newer { path: std::path::PathBuf, found: i64, known: i64 },
}
