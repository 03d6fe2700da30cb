//! What one webhook is to be sent, in order.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    Counts, Settings,
    backoff::Backoff,
    body::body,
    sender::{Failed, Sender},
};
use crate::ledger::{AlertRow, Entry, Ledger, LedgerError, Reader};

/// An alert is tried for so long; then it is given up, so that those after it are heard.
pub const MOST_HOURS: i64 = 24;
/// Attempts for an alert that the receiver refuses as it is.
const MOST_REFUSALS: u32 = 3;
/// Alerts that are read at once.
const BATCH: u32 = 100;
/// The ledger is looked at after this, even if nothing was said to be there.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// The alerts of one webhook.
pub struct Queue {
    settings: Settings,
    name: String,
    sender: Sender,
    ledger: Ledger,
    reader: Reader,
    raised: watch::Receiver<u64>,
    counts: Arc<Counts>,
    backoff: Backoff,
    /// Alerts that were given up since the last one that was taken.
    missed: u64,
}

impl Queue {
    pub fn new(
        settings: &Settings,
        sender: Sender,
        ledger: Ledger,
        reader: Reader,
        raised: watch::Receiver<u64>,
        counts: Arc<Counts>,
    ) -> Self {
        let (settings, name, backoff) = (settings.clone(), settings.name(), Backoff::default());
        Self { settings, name, sender, ledger, reader, raised, counts, backoff, missed: 0 }
    }

    /// Sends what is there, and what comes, as long as the daemon runs.
    pub async fn serve(mut self) {
        let mut done = self.begin().await;
        loop {
            self.settle().await;
            let alerts = self.reader.alerts_after(done, BATCH).unwrap_or_else(|error| self.unreadable(&error));
            if alerts.is_empty() {
                self.counts.waiting.store(0, Relaxed);
                if let Ok(Err(_)) = tokio::time::timeout(LOOK_AGAIN, self.raised.changed()).await {
                    // Nothing is raised any more: the daemon ends.
                    return;
                }
                continue;
            }
            for alert in alerts {
                // Ids leave none out: what is not there had to give way.
                self.lose(u64::try_from(alert.id - done - 1).unwrap_or(0), "more were waiting than the ledger keeps");
                if self.settings.wants(&alert.kind) {
                    self.deliver(done, &alert).await;
                }
                done = alert.id;
                self.ledger.put(Entry::WebhookSent { name: self.name.as_str().into(), alert: done });
            }
        }
    }

    /// Waits until what was raised is in the ledger. Where that fails, or takes long, what is there already is sent all the same.
    async fn settle(&self) {
        if let Ok(Err(error)) = tokio::time::timeout(LOOK_AGAIN, self.ledger.flushed()).await {
            tracing::debug!("webhook {}: {error}", self.name);
        }
    }

    /// Where it was when the daemon before stopped; a new one begins with what is raised from now on.
    async fn begin(&self) -> i64 {
        self.ledger.put(Entry::Webhook { name: self.name.as_str().into() });
        loop {
            self.settle().await;
            match self.reader.webhook_sent(&self.name) {
                Ok(Some(sent)) => return sent,
                Ok(None) => {}
                Err(error) => drop(self.unreadable(&error)),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Tries until it is taken, or given up.
    async fn deliver(&mut self, done: i64, alert: &AlertRow) {
        let mut refusals = 0;
        loop {
            self.count_waiting(done);
            let Err(failed) = self.sender.send(alert.id, body(self.settings.format, alert, self.missed)).await else {
                self.backoff.reset();
                self.missed = 0;
                self.counts.sent.fetch_add(1, Relaxed);
                return self.count_waiting(alert.id);
            };
            self.counts.failed.fetch_add(1, Relaxed);
            let Failed { why, retry_after, is_refusal } = failed;
            refusals += u32::from(is_refusal);
            if refusals >= MOST_REFUSALS || is_old(&alert.at) {
                return self.lose(1, &why);
            }
            let wait = self.backoff.next(retry_after);
            tracing::warn!("webhook {}: alert {}: {why}; trying again in {wait:.1?}", self.name, alert.id);
            tokio::time::sleep(wait).await;
        }
    }

    fn count_waiting(&self, done: i64) {
        let Ok(waiting) = self.reader.alerts_waiting(done) else { return };
        let wanted = waiting.iter().filter(|(kind, _)| self.settings.wants(kind)).map(|(_, count)| count).sum();
        self.counts.waiting.store(wanted, Relaxed);
    }

    fn lose(&mut self, alerts: u64, why: &str) {
        if alerts > 0 {
            self.counts.lost.fetch_add(alerts, Relaxed);
            self.missed += alerts;
            tracing::error!(
                "webhook {}: {alerts} alerts are given up: {why}; `tollgate alerts` has what is kept",
                self.name
            );
        }
    }

    fn unreadable(&self, error: &LedgerError) -> Vec<AlertRow> {
        tracing::error!("webhook {}: {error}", self.name);
        Vec::new()
    }
}

fn is_old(at: &str) -> bool {
    let at: Timestamp = at.parse().unwrap_or(Timestamp::MAX);
    Timestamp::now().duration_since(at).as_hours() >= MOST_HOURS
}
