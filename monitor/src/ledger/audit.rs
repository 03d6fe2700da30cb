//! The chain of everything that was decided, ordered or seen: who changes, removes, adds or moves a row of it breaks it.
//!
//! Each link is the SHA-256 of the link before it and of the row that it is for, every column with its type and length before it, so that no
//! two rows read alike. A chain that is cut off at its end is whole: only an anchor, a link that was kept elsewhere, tells. Every alert carries
//! the head of the chain as it was then.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use rusqlite::{Connection, OptionalExtension as _, params, types::ValueRef};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Goes into each link, so that another way to read rows is another chain.
const FORM: &[u8] = b"tollgate audit 1";

/// What the first link follows.
const NOTHING: Hash = Hash([0; 32]);

/// A table whose rows are in the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chained {
    Decision,
    Order,
    Incident,
}

impl Chained {
    pub const ALL: [Self; 3] = [Self::Decision, Self::Order, Self::Incident];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Order => "order",
            Self::Incident => "incident",
        }
    }

    fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|chained| chained.name() == name)
    }

    const fn table(self) -> &'static str {
        match self {
            Self::Decision => "decisions",
            Self::Order => "orders",
            Self::Incident => "incidents",
        }
    }

    /// By name: columns that are added later are not in these links.
    const fn columns(self) -> &'static str {
        match self {
            Self::Decision => "id, at, task, decision, reason, actor",
            Self::Order => "id, at, account, what, actor",
            Self::Incident => "id, at, account, trouble, action, reason, unsaid, evidence",
        }
    }
}

/// A link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Serialize for Hash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The end of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Head {
    /// How many links there are.
    pub links: u64,
    pub hash: Hash,
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.links, self.hash)
    }
}

/// The head as it was last made durable, for whoever says it.
#[derive(Debug, Clone, Default)]
pub struct LastHead(Arc<Mutex<Option<Head>>>);

impl LastHead {
    pub fn get(&self) -> Option<Head> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, head: Option<Head>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = head;
    }
}

/// What is wrong with a chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    #[error("link {0} is missing")]
    NoLink(u64),
    #[error("link {link} is for {kind} {row}, which is gone")]
    NoRow { link: u64, kind: String, row: i64 },
    #[error("link {link} does not fit {kind} {row}: that, or a link before it, was changed")]
    Changed { link: u64, kind: String, row: i64 },
    #[error("link {link} is for {kind} {row}, which stands out of its order")]
    Moved { link: u64, kind: String, row: i64 },
    #[error("{kind} {row} is in no link: it was added by somebody else")]
    Added { kind: &'static str, row: i64 },
    #[error("the chain never had the head {0}: it was cut off, or written anew")]
    Cut(String),
}

impl Broken {
    /// The first link that is wrong, where it is one.
    pub const fn link(&self) -> Option<u64> {
        match self {
            Self::NoLink(link) | Self::NoRow { link, .. } | Self::Changed { link, .. } | Self::Moved { link, .. } => {
                Some(*link)
            }
            Self::Added { .. } | Self::Cut(_) => None,
        }
    }
}

/// The link of a row; `None` if there is no such row.
fn link(connection: &Connection, before: Hash, chained: Chained, row: i64) -> rusqlite::Result<Option<Hash>> {
    let sql = format!("SELECT {} FROM {} WHERE id = ?", chained.columns(), chained.table());
    let mut statement = connection.prepare_cached(&sql)?;
    let columns = statement.column_count();
    let hash = statement.query_row([row], |found| {
        let mut hash = Sha256::new();
        let mut field = |kind: u8, bytes: &[u8]| {
            hash.update([kind]);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        field(b'f', FORM);
        field(b'h', &before.0);
        field(b'k', chained.name().as_bytes());
        for column in 0..columns {
            match found.get_ref(column)? {
                ValueRef::Null => field(b'0', &[]),
                ValueRef::Integer(number) => field(b'i', &number.to_le_bytes()),
                ValueRef::Real(number) => field(b'r', &number.to_bits().to_le_bytes()),
                ValueRef::Text(text) => field(b't', text),
                ValueRef::Blob(bytes) => field(b'b', bytes),
            }
        }
        Ok(Hash(hash.finalize().into()))
    });
    hash.optional()
}

fn hash_of(bytes: &[u8]) -> Hash {
    Hash(bytes.try_into().unwrap_or_default())
}

/// The end of the chain; `None` while nothing is in it.
pub fn head(connection: &Connection) -> rusqlite::Result<Option<Head>> {
    let last = connection
        .prepare_cached("SELECT link, hash FROM audit ORDER BY link DESC LIMIT 1")?
        .query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?)));
    Ok(last.optional()?.map(|(links, hash)| Head { links: u64::try_from(links).unwrap_or(0), hash: hash_of(&hash) }))
}

/// Puts a row at the end of the chain.
pub fn append(connection: &Connection, chained: Chained, row: i64) -> rusqlite::Result<()> {
    let before = head(connection)?.unwrap_or(Head { links: 0, hash: NOTHING });
    let hash = link(connection, before.hash, chained, row)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
    connection.prepare_cached("INSERT INTO audit (link, kind, row, hash) VALUES (?, ?, ?, ?)")?.execute(params![
        i64::try_from(before.links + 1).unwrap_or(i64::MAX),
        chained.name(),
        row,
        hash.0
    ])?;
    Ok(())
}

/// Puts every row that was there before there was a chain into it, in the order of their times.
pub fn append_all(connection: &Connection) -> rusqlite::Result<()> {
    let rows: Vec<(String, i64)> = connection
        .prepare(
            "SELECT 'decision', id, at FROM decisions UNION ALL SELECT 'order', id, at FROM orders ORDER BY 3, 1, 2",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    // Times may have gone back; ids have not, and the chain takes each kind by them.
    let mut next: [std::collections::VecDeque<i64>; 3] = Default::default();
    for (kind, id) in &rows {
        if let Some(queue) = Chained::of(kind).and_then(|kind| next.get_mut(kind as usize)) {
            queue.push_back(*id);
        }
    }
    for queue in &mut next {
        queue.make_contiguous().sort_unstable();
    }
    for (kind, _) in rows {
        let Some(kind) = Chained::of(&kind) else { continue };
        if let Some(id) = next.get_mut(kind as usize).and_then(std::collections::VecDeque::pop_front) {
            append(connection, kind, id)?;
        }
    }
    Ok(())
}

/// Walks the chain from its beginning. `anchor` is a head that was said earlier, as `LINKS:HASH` or the hash alone.
///
/// The connection should be within a transaction, so that nothing is written meanwhile.
pub fn verify(connection: &Connection, anchor: Option<&str>) -> rusqlite::Result<Result<Option<Head>, Broken>> {
    let mut statement = connection.prepare("SELECT link, kind, row, hash FROM audit ORDER BY link")?;
    let mut rows = statement.query([])?;
    let mut head = Head { links: 0, hash: NOTHING };
    let mut last = [i64::MIN; 3];
    let anchor = anchor.map(|anchor| anchor.trim().to_lowercase());
    let mut has_anchor = anchor.is_none();
    while let Some(row) = rows.next()? {
        let number = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0);
        let (kind, id, hash) = (row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get::<_, Vec<u8>>(3)?);
        if number != head.links + 1 {
            return Ok(Err(Broken::NoLink(head.links + 1)));
        }
        let Some(chained) = Chained::of(&kind) else { return Ok(Err(Broken::Changed { link: number, kind, row: id })) };
        match link(connection, head.hash, chained, id)? {
            None => return Ok(Err(Broken::NoRow { link: number, kind, row: id })),
            Some(expected) if expected.0 != *hash => {
                return Ok(Err(Broken::Changed { link: number, kind, row: id }));
            }
            Some(expected) => head = Head { links: number, hash: expected },
        }
        if let Some(last) = last.get_mut(chained as usize) {
            if id <= *last {
                return Ok(Err(Broken::Moved { link: number, kind, row: id }));
            }
            *last = id;
        }
        has_anchor |=
            anchor.as_deref().is_some_and(|anchor| anchor == head.hash.to_string() || anchor == head.to_string());
    }
    for chained in Chained::ALL {
        let sql = format!(
            "SELECT min(id) FROM {} WHERE id NOT IN (SELECT row FROM audit WHERE kind = '{}')",
            chained.table(),
            chained.name()
        );
        if let Some(row) = connection.query_row(&sql, [], |row| row.get::<_, Option<i64>>(0))? {
            return Ok(Err(Broken::Added { kind: chained.name(), row }));
        }
    }
    match anchor {
        Some(anchor) if !has_anchor => Ok(Err(Broken::Cut(anchor))),
        _ => Ok(Ok((head.links > 0).then_some(head))),
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Connection, params};

    use super::{Broken, Chained, append, head, verify};
    use crate::ledger::schema;

    /// A ledger with ten rows, free of the triggers that keep honest people from changing it.
    fn ledger() -> (tempfile::TempDir, Connection) {
        let directory = tempfile::tempdir().expect("a directory");
        let ledger = schema::open(&directory.path().join("ledger.db")).expect("a ledger");
        for n in 0..10 {
            let (kind, sql) = match n % 3 {
                0 => (
                    Chained::Decision,
                    "INSERT INTO decisions (at, task, decision, reason) VALUES (?, 't', 'warn', 'r')",
                ),
                1 => (Chained::Order, "INSERT INTO orders (at, account, what, actor) VALUES (?, 't', '{}', 'a')"),
                _ => (
                    Chained::Incident,
                    "INSERT INTO incidents (at, account, trouble, action, reason, unsaid, evidence) VALUES (?, 't', 'loop', 'warn', 'r', 0, '{}')",
                ),
            };
            ledger.execute(sql, [format!("2026-01-01T00:00:0{n}Z")]).expect("a row");
            append(&ledger, kind, ledger.last_insert_rowid()).expect("a link");
        }
        for table in ["decisions", "orders", "incidents", "audit"] {
            for change in ["UPDATE", "DELETE"] {
                ledger.execute_batch(&format!("DROP TRIGGER {table}_no_{change}")).expect("a trigger");
            }
        }
        (directory, ledger)
    }

    fn verified(ledger: &Connection) -> Result<Option<super::Head>, Broken> {
        verify(ledger, None).expect("a readable ledger")
    }

    /// Does that to the ledger, and tells what is wrong with it then.
    fn broken_by(sql: &str) -> Broken {
        let (_directory, ledger) = ledger();
        assert_eq!(verified(&ledger).expect("it is whole").map(|head| head.links), Some(10));
        ledger.execute_batch(sql).expect(sql);
        verified(&ledger).expect_err(sql)
    }

    #[test]
    fn a_changed_row_breaks_it_at_its_link() {
        let changed = |link, kind: &str, row| Broken::Changed { link, kind: kind.into(), row };
        assert_eq!(broken_by("UPDATE decisions SET reason = 'x' WHERE id = 2"), changed(4, "decision", 2));
        assert_eq!(broken_by("UPDATE decisions SET actor = '' WHERE id = 1"), changed(1, "decision", 1));
        assert_eq!(broken_by("UPDATE orders SET actor = 'somebody else' WHERE id = 3"), changed(8, "order", 3));
        assert_eq!(broken_by("UPDATE incidents SET evidence = '{ }' WHERE id = 3"), changed(9, "incident", 3));
        assert_eq!(broken_by("UPDATE audit SET hash = zeroblob(32) WHERE link = 5"), changed(5, "order", 2));
        assert_eq!(broken_by("UPDATE audit SET kind = 'else' WHERE link = 5"), changed(5, "else", 2));
    }

    #[test]
    fn a_row_that_is_gone_added_or_moved_breaks_it() {
        let gone = Broken::NoRow { link: 4, kind: "decision".into(), row: 2 };
        assert_eq!(broken_by("DELETE FROM decisions WHERE id = 2"), gone);
        assert_eq!(broken_by("DELETE FROM audit WHERE link = 4"), Broken::NoLink(4));
        assert_eq!(broken_by("DELETE FROM audit WHERE link = 1"), Broken::NoLink(1));
        let added = "INSERT INTO decisions (at, task, decision, reason) VALUES ('2026', 't', 'lifted', 'r')";
        assert_eq!(broken_by(added), Broken::Added { kind: "decision", row: 5 });
        // Two rows that change places, with their links.
        let swap = "UPDATE decisions SET id = 99 WHERE id = 1; UPDATE decisions SET id = 1 WHERE id = 2; UPDATE decisions SET id = 2 WHERE id = 99";
        assert_eq!(broken_by(swap), Broken::Changed { link: 1, kind: "decision".into(), row: 1 });
        // A row and its link, cut out of the middle together.
        assert_eq!(
            broken_by(
                "DELETE FROM decisions WHERE id = 2; DELETE FROM audit WHERE link = 4; UPDATE audit SET link = link - 1 WHERE link > 4"
            ),
            Broken::Changed { link: 4, kind: "order".into(), row: 2 }
        );
    }

    #[test]
    fn what_is_cut_off_at_the_end_is_missed_by_an_anchor() {
        let (_directory, ledger) = ledger();
        let before = head(&ledger).expect("a head").expect("links");
        for anchor in [before.to_string(), before.hash.to_string(), format!(" {before}\n").to_uppercase()] {
            assert!(verify(&ledger, Some(&anchor)).expect("it is read").is_ok(), "{anchor}");
        }
        ledger.execute_batch("DELETE FROM audit WHERE link = 10; DELETE FROM decisions WHERE id = 4").expect("a cut");
        assert_eq!(verified(&ledger).expect("it is whole").map(|head| head.links), Some(9));
        let cut = verify(&ledger, Some(&before.to_string())).expect("it is read");
        assert_eq!(cut, Err(Broken::Cut(before.to_string())));
    }

    /// Columns cannot be told from one another by where one ends and the next begins.
    #[test]
    fn text_that_moves_from_a_column_to_the_next_is_another_row() {
        let (_directory, ledger) = ledger();
        let link_of = |decision: &str, reason: &str| {
            ledger
                .execute(
                    "INSERT INTO decisions (at, task, decision, reason) VALUES ('2026', 't', ?, ?)",
                    params![decision, reason],
                )
                .expect("a row");
            let row = ledger.last_insert_rowid();
            ledger.execute("UPDATE decisions SET id = 1000 WHERE id = ?", [row]).expect("an id");
            let link =
                super::link(&ledger, super::NOTHING, Chained::Decision, 1000).expect("it is read").expect("a link");
            ledger.execute("DELETE FROM decisions WHERE id = 1000", []).expect("it is gone");
            link
        };
        assert_eq!(link_of("ab", "c"), link_of("ab", "c"));
        assert_ne!(link_of("ab", "c"), link_of("a", "bc"));
        assert_ne!(link_of("", "abc"), link_of("abc", ""));
    }

    #[test]
    fn an_empty_chain_has_no_head() {
        let ledger = schema::open(std::path::Path::new(":memory:")).expect("a ledger");
        assert_eq!(verified(&ledger), Ok(None));
        assert_eq!(verify(&ledger, Some("abc")).expect("it is read"), Err(Broken::Cut("abc".into())));
    }
}
