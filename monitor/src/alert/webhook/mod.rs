//! Alerts, told to other machines over HTTPS.
//!
//! In: the alerts of the ledger. Out: a signed `POST` of each to every webhook that wants its kind, oldest first, until it is taken.
//!
//! The ledger is the queue: a webhook has a mark there for the last alert that it is done with, so that neither a restart nor a crash loses one.
//! Between the delivery and the mark a crash may come; the alert is sent again then, with the same id.
//!
//! **Invariant:** nothing waits for it but itself: it has a thread of its own, and asks neither the engine nor whoever raises alerts. What is not sent
//! any more ([`MOST_HOURS`](queue::MOST_HOURS), or more than the ledger keeps) is counted, and said.
#![forbid(unsafe_code)]

mod backoff;
mod body;
mod queue;
mod sender;
mod settings;

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

pub use settings::{Format, Settings, check};

use self::{queue::Queue, sender::Sender};
use super::Alerts;
use crate::ledger::{Ledger, LedgerError, Reader};

/// Why webhooks cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    #[error("webhook {webhook}: cannot read {path}: {source}; check the path and who may read it")]
    File { webhook: String, path: std::path::PathBuf, source: io::Error },
    #[error("webhook {webhook}: {path} {what}")]
    Content { webhook: String, path: std::path::PathBuf, what: &'static str },
    #[error("webhook {webhook}: {what}")]
    Tls { webhook: String, what: String },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot start the thread of webhooks: {0}")]
    Thread(#[from] io::Error),
}

/// Whether the files that webhooks need are there.
///
/// # Errors
/// When one is not, or has not in it what it should.
pub fn check_files(settings: &[Settings]) -> Result<(), WebhookError> {
    settings.iter().try_for_each(|settings| Sender::new(settings).map(drop))
}

/// What became of the alerts of one webhook since the daemon started.
#[derive(Debug, Default)]
struct Counts {
    waiting: AtomicU64,
    sent: AtomicU64,
    failed: AtomicU64,
    lost: AtomicU64,
}

/// As it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookCounts {
    pub webhook: String,
    /// Alerts that it is to send and has not yet.
    pub waiting: u64,
    /// Alerts that were taken.
    pub sent: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Alerts that were given up.
    pub lost: u64,
}

/// The webhooks of this daemon.
#[derive(Debug, Clone, Default)]
pub struct Webhooks(Vec<(String, Arc<Counts>)>);

impl Webhooks {
    /// Starts to serve them; where there are none, nothing is started.
    ///
    /// # Errors
    /// When a file that a webhook needs cannot be read, or no thread can be started.
    pub fn start(settings: &[Settings], ledger: &Ledger, path: &Path, alerts: &Alerts) -> Result<Self, WebhookError> {
        let (mut queues, mut known) = (Vec::new(), Vec::new());
        for settings in settings {
            let counts = Arc::<Counts>::default();
            known.push((settings.name(), Arc::clone(&counts)));
            let (sender, reader) = (Sender::new(settings)?, Reader::open(path)?);
            queues.push(Queue::new(settings, sender, ledger.clone(), reader, alerts.raised(), counts));
        }
        if !queues.is_empty() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            thread::Builder::new().name("webhooks".into()).spawn(move || {
                let serve = async {
                    // The ledger is read where it is waited for.
                    let all: Vec<_> = queues.into_iter().map(|queue| tokio::task::spawn_local(queue.serve())).collect();
                    for one in all {
                        if let Err(error) = one.await {
                            tracing::error!("a webhook is no longer served: {error}");
                        }
                    }
                };
                tokio::task::LocalSet::new().block_on(&runtime, serve);
            })?;
        }
        Ok(Self(known))
    }

    pub fn counts(&self) -> Vec<WebhookCounts> {
        let counts = self.0.iter().map(|(webhook, counts)| WebhookCounts {
            webhook: webhook.clone(),
            waiting: counts.waiting.load(Relaxed),
            sent: counts.sent.load(Relaxed),
            failed: counts.failed.load(Relaxed),
            lost: counts.lost.load(Relaxed),
        });
        counts.collect()
    }
}
