//! Telling people: one structured line per decision.
//!
//! In: an [`Alert`]. Out: an entry in the journal with its own fields where systemd's journal listens, else one JSON line on stderr; a row in
//! the ledger, from where `tollgate alerts` reads and [`webhook`]s are fed; and a count.
//!
//! **Invariant:** never on the path from event to decision; field names and message ids are a stable interface.

pub mod webhook;

use std::{
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use libsystemd::logging::{Priority, journal_send};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tokio::sync::watch;

use crate::{
    ledger::{
        Entry, Ledger,
        audit::{Head, LastHead},
    },
    price::Money,
    task::{AccountName, TaskId},
};

/// What happened, in one word; each has its own `MESSAGE_ID`, which stays the same for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A share of the cap was passed.
    Warn,
    /// The task is stopped at its cap.
    Kill,
    /// Everything of a stopped task is gone.
    Killed,
    /// Something of a stopped task is still alive.
    KillFailed,
    /// A call has no price: it counts nothing towards the cap.
    Unpriced,
    /// Traffic that may cost could not be read.
    Unread,
    /// A connection was found that cannot be read.
    Uncovered,
    /// The kernel lost records, or could not send a signal.
    Lost,
    /// The daemon was gone while the task ran.
    Gap,
    /// Requests may start at a pace.
    Throttle,
    /// No new connections; the open ones are ended.
    Cut,
    /// Every connection of a task that is cut is gone.
    CutDone,
    /// The task is frozen until a person has decided.
    Pause,
    /// Everything of a paused task is frozen.
    Paused,
    /// What was in force on the task no longer is.
    Lifted,
    /// An answer was cut off that could not be paid for any longer.
    CallCut,
    /// A request may not go, although its task may go on.
    Refused,
    /// A call waits for a person's yes.
    Approval,
    /// A person has decided.
    Order,
    /// Trouble was seen that no limit has seen yet.
    Incident,
    /// Something decided could not be done, and is tried again.
    EffectFailed,
    /// A process of a task reaches for something that is not its task's.
    Reach,
    /// Somebody has changed what only the daemon may.
    Tampered,
    /// The ledger cannot be written.
    LedgerFailed,
    /// It can again.
    LedgerWritten,
    /// Where the audit chain ends, for whoever wants to hold the ledger against it later.
    AuditHead,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::Warn,
        Self::Kill,
        Self::Killed,
        Self::KillFailed,
        Self::Unpriced,
        Self::Unread,
        Self::Lost,
        Self::Gap,
        Self::Throttle,
        Self::Cut,
        Self::CutDone,
        Self::Pause,
        Self::Paused,
        Self::Lifted,
        Self::CallCut,
        Self::Refused,
        Self::Approval,
        Self::Order,
        Self::Incident,
        Self::EffectFailed,
        Self::AuditHead,
        Self::Uncovered,
        Self::Reach,
        Self::Tampered,
        Self::LedgerFailed,
        Self::LedgerWritten,
    ];

    /// The one with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Kill => "kill",
            Self::Killed => "killed",
            Self::KillFailed => "kill-failed",
            Self::Unpriced => "unpriced",
            Self::Unread => "unread",
            Self::Uncovered => "uncovered",
            Self::Lost => "lost",
            Self::Gap => "gap",
            Self::Throttle => "throttle",
            Self::Cut => "cut",
            Self::CutDone => "cut-done",
            Self::Pause => "pause",
            Self::Paused => "paused",
            Self::Lifted => "lifted",
            Self::CallCut => "call-cut",
            Self::Refused => "refused",
            Self::Approval => "approval",
            Self::Order => "order",
            Self::Incident => "incident",
            Self::EffectFailed => "effect-failed",
            Self::Reach => "reach",
            Self::Tampered => "tampered",
            Self::LedgerFailed => "ledger-failed",
            Self::LedgerWritten => "ledger-written",
            Self::AuditHead => "audit-head",
        }
    }

    pub const fn message_id(self) -> &'static str {
        match self {
            Self::Warn => "5f3b7c1e0d4a4c5e9a61c2a7de0b4f11",
            Self::Kill => "b0d2e9f46a7c4b0f8c15d3a9e7f2c622",
            Self::Killed => "e1a94c7d35f84e6b92d07b18c6a5f033",
            Self::KillFailed => "3c86f2b09d1e4a7ab5e4f7c20d91a844",
            Self::Unpriced => "97d5a1c83e2f4b6d80fbc9e46a17d255",
            Self::Uncovered => "a7c51f0e6d3b4e928b1f4a6ce0d97335",
            Self::Unread => "4e0b8d76c2a94f13a7d8e5b31f60c966",
            Self::Lost => "d82f6a3b97c5401e8b4a0ed7c35f1e77",
            Self::Gap => "6ba17e4dc0f8439fa2c39d58e7b40f88",
            Self::Throttle => "4e30b933dbae49be9cdbb40bd8197879",
            Self::Cut => "2925b39a309f4504856c5b29e4c05264",
            Self::CutDone => "424f2302698148e1bb07e3c46975811b",
            Self::Pause => "813939b76d614ff287df21fde89a6834",
            Self::Paused => "086179da5534415197bf6b702cb17a16",
            Self::Lifted => "f5478765996749d79c65af2da53a2e90",
            Self::CallCut => "50dc13837cf9446ebb68684fc9785b02",
            Self::Refused => "4e0d8332da364b62ae645f396d4df6b3",
            Self::Approval => "d8f7085139184fb7a194fcfa480f78ef",
            Self::Order => "6c5539afb98244a68cd8a8d5c8ffad43",
            Self::Incident => "ac5f929e593d4d429a5138ca2f1d6d19",
            Self::EffectFailed => "b52e32dda54842458184d5a468b1d2b6",
            Self::Reach => "65f0d6f4c5194a93b9a33b0182a32e43",
            Self::Tampered => "96c9cd8b010948f199fb6f35f46a6b87",
            Self::LedgerFailed => "d4b69d3485ac464ca18c4da2cdc41ebd",
            Self::LedgerWritten => "b538786d6b8e4254adf3b196efcf139a",
            Self::AuditHead => "0c8f6d5fbb7c4d3f9b1e6a1f2c7d4e9a",
        }
    }

    /// syslog's severity.
    const fn priority(self) -> Priority {
        match self {
            Self::Warn | Self::Unpriced | Self::Gap | Self::Throttle | Self::Incident => Priority::Warning,
            Self::Kill
            | Self::Unread
            | Self::Uncovered
            | Self::Lost
            | Self::Cut
            | Self::Pause
            | Self::CallCut
            | Self::Refused
            | Self::Approval
            | Self::Reach => Priority::Error,
            Self::Killed | Self::CutDone | Self::Paused | Self::Lifted | Self::Order | Self::LedgerWritten => {
                Priority::Notice
            }
            Self::AuditHead => Priority::Info,
            Self::KillFailed | Self::EffectFailed | Self::Tampered | Self::LedgerFailed => Priority::Critical,
        }
    }
}

impl Serialize for Kind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join("`, `");
            D::Error::custom(format!("`{name}` is no kind of alert; there are `{known}`"))
        })
    }
}

/// Something a person should know.
#[derive(Debug, Clone)]
pub struct Alert {
    pub kind: Kind,
    pub task: Option<TaskId>,
    /// The account it was decided on, where that is not the task's own.
    pub account: Option<AccountName>,
    /// Who decided, where it was a person.
    pub actor: Option<String>,
    pub message: String,
    pub spent: Option<Money>,
    pub cap: Option<Money>,
    pub at: Timestamp,
}

/// Sends alerts, from its own thread: a journal that is slow holds nobody up.
#[derive(Debug, Clone)]
pub struct Alerts {
    sender: Sender<Said>,
    head: LastHead,
    ledger: Ledger,
    counts: Arc<[AtomicU64; Kind::ALL.len()]>,
    raised: watch::Sender<u64>,
}

/// An alert, and where the audit chain ended when it was raised.
type Said = (Alert, Option<Head>);

/// The head of the audit chain is said after this, if it has moved and nobody has said it.
const ANCHOR: Duration = Duration::from_secs(60);

impl Alerts {
    /// # Errors
    /// When no thread can be started.
    pub fn start(ledger: &Ledger) -> std::io::Result<Self> {
        let head = ledger.audit_head();
        let (sender, receiver) = channel::<Said>();
        let to_journal = stderr_is_journal();
        let last = head.clone();
        thread::Builder::new().name("alerts".into()).spawn(move || {
            let mut anchored = last.get();
            let say = |said: &Said| {
                if !to_journal || !send_to_journal(said) {
                    print(said);
                }
            };
            loop {
                match receiver.recv_timeout(ANCHOR) {
                    Ok(said) => {
                        anchored = said.1;
                        say(&said);
                    }
                    Err(RecvTimeoutError::Timeout) if last.get() != anchored => {
                        anchored = last.get();
                        say(&(anchor(), anchored));
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        let counts = Arc::new(std::array::from_fn(|_| AtomicU64::new(0)));
        Ok(Self { sender, head, ledger: ledger.clone(), counts, raised: watch::Sender::default() })
    }

    /// How many of each kind were raised since the daemon started.
    pub fn counts(&self) -> Vec<(Kind, u64)> {
        Kind::ALL.into_iter().zip(self.counts.iter().map(|count| count.load(Relaxed))).collect()
    }

    /// Changes with each alert, after the ledger has been told of it.
    pub fn raised(&self) -> watch::Receiver<u64> {
        self.raised.subscribe()
    }

    pub fn raise(&self, alert: Alert) {
        let position = Kind::ALL.iter().position(|kind| *kind == alert.kind);
        if let Some(count) = position.and_then(|position| self.counts.get(position)) {
            count.fetch_add(1, Relaxed);
        }
        self.ledger.put(Entry::Alerted(Box::new(alert.clone())));
        self.raised.send_modify(|raised| *raised += 1);
        if let Err(lost) = self.sender.send((alert, self.head.get())) {
            print(&lost.0);
        }
    }
}

fn anchor() -> Alert {
    Alert {
        kind: Kind::AuditHead,
        task: None,
        account: None,
        actor: None,
        message: "where the audit chain ends; `tollgate audit verify --head` holds the ledger against it".into(),
        spent: None,
        cap: None,
        at: Timestamp::now(),
    }
}

/// systemd says in `JOURNAL_STREAM` which stream it connected to the journal (systemd.exec(5)).
fn stderr_is_journal() -> bool {
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    let stderr = std::fs::metadata("/proc/self/fd/2");
    stderr.is_ok_and(|stderr| stream == format!("{}:{}", stderr.dev(), stderr.ino()))
}

fn fields((alert, head): &Said) -> Vec<(&'static str, String)> {
    let mut fields =
        vec![("TOLLGATE_DECISION", alert.kind.name().to_owned()), ("MESSAGE_ID", alert.kind.message_id().to_owned())];
    fields.extend(alert.task.as_ref().map(|task| ("TOLLGATE_TASK", task.to_string())));
    fields.extend(alert.account.as_ref().map(|account| ("TOLLGATE_ACCOUNT", account.to_string())));
    fields.extend(alert.actor.as_ref().map(|actor| ("TOLLGATE_ACTOR", actor.clone())));
    fields.extend(alert.spent.map(|spent| ("TOLLGATE_SPENT_USD", spent.to_string())));
    fields.extend(alert.cap.map(|cap| ("TOLLGATE_CAP_USD", cap.to_string())));
    fields.extend(head.map(|head| ("TOLLGATE_AUDIT_HEAD", head.to_string())));
    fields
}

fn send_to_journal(said: &Said) -> bool {
    journal_send(said.0.kind.priority(), &said.0.message, fields(said).into_iter()).is_ok()
}

/// One line, in one write, so that lines of several writers do not mix.
fn print(said: &Said) {
    let alert = &said.0;
    let mut line: serde_json::Map<String, serde_json::Value> =
        fields(said).into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    line.insert("time".into(), alert.at.to_string().into());
    line.insert("PRIORITY".into(), (alert.kind.priority() as u8).to_string().into());
    line.insert("MESSAGE".into(), alert.message.clone().into());
    let mut text = serde_json::Value::Object(line).to_string();
    text.push('\n');
    // Where stderr is gone there is nobody to tell.
    std::io::stderr().write_all(text.as_bytes()).ok();
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::Kind;

    const CATALOGUE: &str = include_str!("../../../packaging/tollgate.catalog");

    /// Exhaustive, so that a kind that is added is missed here by the compiler.
    fn position(kind: Kind) -> usize {
        match kind {
            Kind::Warn => 0,
            Kind::Kill => 1,
            Kind::Killed => 2,
            Kind::KillFailed => 3,
            Kind::Unpriced => 4,
            Kind::Unread => 5,
            Kind::Lost => 6,
            Kind::Gap => 7,
            Kind::Throttle => 8,
            Kind::Cut => 9,
            Kind::CutDone => 10,
            Kind::Pause => 11,
            Kind::Paused => 12,
            Kind::Lifted => 13,
            Kind::CallCut => 14,
            Kind::Refused => 15,
            Kind::Approval => 16,
            Kind::Order => 17,
            Kind::Incident => 18,
            Kind::EffectFailed => 19,
            Kind::AuditHead => 20,
            Kind::Uncovered => 21,
            Kind::Reach => 22,
            Kind::Tampered => 23,
            Kind::LedgerFailed => 24,
            Kind::LedgerWritten => 25,
        }
    }

    #[test]
    fn every_kind_is_listed_once() {
        for (index, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(position(kind), index);
        }
        for distinct in [Kind::ALL.map(Kind::name), Kind::ALL.map(Kind::message_id)] {
            assert_eq!(HashSet::from(distinct).len(), Kind::ALL.len());
        }
    }

    /// `journalctl -x` explains every alert, and nothing else.
    #[test]
    fn the_journal_catalogue_has_an_entry_for_every_message() {
        let entries: Vec<(&str, &str)> = CATALOGUE
            .split("\n-- ")
            .skip(1)
            .map(|entry| entry.split_once('\n').expect("an id, then its text"))
            .collect();
        assert_eq!(
            entries.iter().map(|(id, _)| *id).collect::<HashSet<_>>(),
            HashSet::from(Kind::ALL.map(Kind::message_id))
        );
        assert_eq!(entries.len(), Kind::ALL.len());
        for (id, text) in entries {
            let (head, body) = text.split_once("\n\n").expect("a head, then a body");
            assert!(head.starts_with("Subject: ") && head.contains("\nDefined-By: Tollgate\n"), "{id}: {head}");
            assert!(!body.trim().is_empty(), "{id}");
            for variable in text.split('@').skip(1).step_by(2) {
                let known =
                    ["TOLLGATE_TASK", "TOLLGATE_ACCOUNT", "TOLLGATE_ACTOR", "TOLLGATE_SPENT_USD", "TOLLGATE_CAP_USD"];
                assert!(known.contains(&variable), "{id}: @{variable}@ is no field of an alert");
            }
        }
    }
}
