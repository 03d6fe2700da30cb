//! What people were told: the last alerts, and how far each webhook has got with them.
//!
//! Decisions, orders and incidents are kept for ever, in tables of their own. This is what was said of them, and of everything else; it also is the
//! queue of what webhooks are to send, so that neither a restart nor a crash loses any of it.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use serde::Serialize;

use super::{
    LedgerError, Reader,
    write::{pico, time},
};
use crate::{alert::Alert, price::Money, task::AccountName};

/// Alerts that are kept; older ones give way.
pub const ALERTS_KEPT: i64 = 100_000;
/// Room is made once in so many.
const SWEPT: i64 = 256;

/// An alert, as it was raised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AlertRow {
    /// Rises by one with each alert of this ledger, and is never used again.
    pub id: i64,
    /// RFC 3339, in UTC.
    pub at: String,
    /// One of [`Kind`](crate::alert::Kind)'s names.
    pub kind: String,
    pub task: Option<String>,
    /// The account that it is about, where that is not a task's.
    pub account: Option<String>,
    pub actor: Option<String>,
    pub spent_usd: Option<Money>,
    pub cap_usd: Option<Money>,
    pub message: String,
}

pub fn write(transaction: &Connection, alert: &Alert) -> rusqlite::Result<()> {
    let row = transaction
        .prepare_cached(
            "INSERT INTO alerts (at, kind, task, account, actor, message, spent, cap) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        )?
        .insert(params![
            time(alert.at),
            alert.kind.name(),
            alert.task.as_ref().map(ToString::to_string),
            alert.account.as_ref().map(ToString::to_string),
            alert.actor,
            alert.message,
            alert.spent.map(pico),
            alert.cap.map(pico),
        ])?;
    if row % SWEPT == 0 {
        transaction.prepare_cached("DELETE FROM alerts WHERE id <= ?")?.execute([row - ALERTS_KEPT])?;
    }
    Ok(())
}

pub fn know(transaction: &Connection, name: &str) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached("INSERT OR IGNORE INTO webhooks SELECT ?, COALESCE(MAX(id), 0) FROM alerts")?
        .execute([name])
}

pub fn sent(transaction: &Connection, name: &str, alert: i64) -> rusqlite::Result<usize> {
    transaction.prepare_cached("UPDATE webhooks SET sent = ? WHERE name = ?")?.execute(params![alert, name])
}

impl Reader {
    /// Alerts after the one with this id, oldest first, at most so many.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn alerts_after(&self, id: i64, most: u32) -> Result<Vec<AlertRow>, LedgerError> {
        self.select("SELECT * FROM alerts WHERE id > ? ORDER BY id LIMIT ?", params![id, most])
    }

    /// The id of the last alert before this time, or 0.
    ///
    /// # Errors
    /// As [`Self::alerts_after`].
    pub fn last_alert_before(&self, at: Timestamp) -> Result<i64, LedgerError> {
        // By id: a clock that was set back must not hide what came after.
        let first = "SELECT COALESCE((SELECT MIN(id) - 1 FROM alerts WHERE at >= ?), (SELECT MAX(id) FROM alerts), 0)";
        self.ask(|connection| connection.query_row(first, [time(at)], |row| row.get(0)))
    }

    /// How many alerts of each kind are after the one with this id.
    ///
    /// # Errors
    /// As [`Self::alerts_after`].
    pub fn alerts_waiting(&self, id: i64) -> Result<Vec<(String, u64)>, LedgerError> {
        self.ask(|connection| {
            let mut statement =
                connection.prepare_cached("SELECT kind, COUNT(*) FROM alerts WHERE id > ? GROUP BY kind")?;
            let rows = statement
                .query_map([id], |row| Ok((row.get(0)?, u64::try_from(row.get::<_, i64>(1)?).unwrap_or(0))))?;
            rows.collect()
        })
    }

    /// The last alert that a webhook has got to.
    ///
    /// # Errors
    /// As [`Self::alerts_after`].
    pub fn webhook_sent(&self, name: &str) -> Result<Option<i64>, LedgerError> {
        self.ask(|connection| {
            connection.query_row("SELECT sent FROM webhooks WHERE name = ?", [name], |row| row.get(0)).optional()
        })
    }

    fn select(&self, query: &str, parameters: impl rusqlite::Params) -> Result<Vec<AlertRow>, LedgerError> {
        self.ask(|connection| {
            let mut statement = connection.prepare_cached(query)?;
            let rows = statement.query_map(parameters, read)?;
            rows.collect()
        })
    }
}

fn read(row: &Row<'_>) -> rusqlite::Result<AlertRow> {
    let money = |pico: Option<i64>| pico.map(|pico| Money::from_pico_usd(pico.into()));
    Ok(AlertRow {
        id: row.get("id")?,
        at: row.get("at")?,
        kind: row.get("kind")?,
        task: row.get("task")?,
        account: row.get("account")?,
        actor: row.get("actor")?,
        spent_usd: money(row.get("spent")?),
        cap_usd: money(row.get("cap")?),
        message: row.get("message")?,
    })
}

impl AlertRow {
    /// Whether it is about this account.
    pub fn is_of(&self, name: &AccountName) -> bool {
        let name = name.to_string();
        self.account.as_ref().or(self.task.as_ref()) == Some(&name)
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{ALERTS_KEPT, know, sent, write};
    use crate::{
        alert::{Alert, Kind},
        ledger::{Reader, schema},
    };

    fn alert(kind: Kind, at: &str) -> Alert {
        Alert {
            kind,
            task: Some("t".parse().expect("a name")),
            account: None,
            actor: None,
            message: "because".into(),
            spent: Some("1.5".parse().expect("money")),
            cap: None,
            at: at.parse().expect("a time"),
        }
    }

    #[test]
    fn alerts_are_read_as_they_were_raised_and_webhooks_begin_where_they_were_made_known() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let connection = schema::open(&path).expect("a ledger");
        write(&connection, &alert(Kind::Warn, "2026-01-01T00:00:00Z")).expect("an insert");
        know(&connection, "pager").expect("an insert");
        write(&connection, &alert(Kind::Kill, "2026-01-02T00:00:00Z")).expect("an insert");
        let reader = Reader::open(&path).expect("a ledger");
        let all = reader.alerts_after(0, 10).expect("alerts");
        assert_eq!(all.iter().map(|row| (row.id, &*row.kind)).collect::<Vec<_>>(), [(1, "warn"), (2, "kill")]);
        assert_eq!(all[0].spent_usd.map(|spent| spent.to_string()).as_deref(), Some("1.5"));
        assert!(all[0].is_of(&"t".parse().expect("a name")) && !all[0].is_of(&"tenant=t".parse().expect("a name")));
        let time = |text: &str| text.parse::<Timestamp>().expect("a time");
        for (since, before) in [("2025-01-01T00:00:00Z", 0), ("2026-01-01T12:00:00Z", 1), ("2027-01-01T00:00:00Z", 2)] {
            assert_eq!(reader.last_alert_before(time(since)).expect("an id"), before, "{since}");
        }
        // Known again is known already.
        know(&connection, "pager").expect("nothing");
        assert_eq!(reader.webhook_sent("pager").expect("an id"), Some(1));
        assert_eq!(reader.alerts_waiting(1).expect("counts"), [("kill".to_owned(), 1)]);
        sent(&connection, "pager", 2).expect("an update");
        assert_eq!(reader.webhook_sent("pager").expect("an id"), Some(2));
        assert_eq!(reader.webhook_sent("nobody").expect("none"), None);
    }

    #[test]
    fn the_last_alerts_are_kept_and_their_ids_are_never_used_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("ledger.db");
        let connection = schema::open(&path).expect("a ledger");
        for _ in 0..4 {
            write(&connection, &alert(Kind::Warn, "2026-01-01T00:00:00Z")).expect("an insert");
        }
        // As if so many had come in between: the next one is a multiple of 256 further on.
        let last = (ALERTS_KEPT / 256 + 1) * 256 - 1;
        connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'alerts'", [last]).expect("an update");
        write(&connection, &alert(Kind::Kill, "2026-01-01T00:00:00Z")).expect("an insert");
        let reader = Reader::open(&path).expect("a ledger");
        let kept: Vec<i64> = reader.alerts_after(0, 10).expect("alerts").iter().map(|row| row.id).collect();
        assert_eq!(kept, [last + 1]);
        connection.execute("DELETE FROM alerts", []).expect("a delete");
        write(&connection, &alert(Kind::Kill, "2026-01-01T00:00:00Z")).expect("an insert");
        assert_eq!(reader.alerts_after(0, 10).expect("alerts")[0].id, last + 2);
    }
}
