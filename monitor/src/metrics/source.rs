//! Where a scrape comes from.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::{Scrape, encode, families};
use crate::{
    alert::{Alerts, webhook::Webhooks},
    engine::{Command, Handle},
    ledger::Ledger,
    probe::{Fullness, Maps},
};

/// Whoever may ask on a loopback address gets what was asked for within this time: asking often costs the engine nothing.
const RECENT: Duration = Duration::from_secs(1);

/// Everybody who is asked for a scrape.
#[derive(Clone)]
pub struct Source {
    engine: Handle,
    ledger: Ledger,
    alerts: Alerts,
    webhooks: Webhooks,
    maps: Arc<Maps>,
    last: Arc<Mutex<Option<(Instant, String)>>>,
}

impl Source {
    pub fn new(engine: Handle, ledger: Ledger, alerts: Alerts, webhooks: Webhooks, maps: Maps) -> Self {
        Self { engine, ledger, alerts, webhooks, maps: Arc::new(maps), last: Arc::default() }
    }

    /// What holds now, as text; `None` when the engine is gone.
    pub async fn now(&self) -> Option<String> {
        let engine = self.engine.ask(|reply| Command::Metrics { reply }).await?;
        let maps = self.fullness().await.unwrap_or_else(|error| {
            tracing::warn!("the kernel does not tell how full its maps are: {error}");
            Vec::new()
        });
        let scrape = Scrape {
            engine: *engine,
            decisions: self.alerts.counts(),
            ledger: self.ledger.counts(),
            ledger_fails: self.ledger.failure().is_some(),
            webhooks: self.webhooks.counts(),
            maps,
        };
        encode(families(&scrape)).ok()
    }

    /// How full the kernel's maps are.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub async fn fullness(&self) -> io::Result<Vec<Fullness>> {
        let maps = Arc::clone(&self.maps);
        // Thousands of entries may be asked for.
        tokio::task::spawn_blocking(move || maps.fullness()).await.map_err(io::Error::other)?
    }

    /// As [`Self::now`], or what held a moment ago.
    pub async fn recent(&self) -> Option<String> {
        let mut last = self.last.lock().await;
        if let Some((at, text)) = &*last
            && at.elapsed() < RECENT
        {
            return Some(text.clone());
        }
        let text = self.now().await?;
        *last = Some((Instant::now(), text.clone()));
        Some(text)
    }
}
