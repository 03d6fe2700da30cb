//! What the engine tells of itself when it is asked: copies of counts that it keeps, and of nothing else.

use std::{collections::BTreeMap, time::Duration};

use super::{clock::boot_nanoseconds, state::Engine};
use crate::{metrics::Snapshot, pipeline::Charge, price::Money, probe::Slot, task::Labels};

/// Longer than any event waits by itself: a clock that was not the kernel's.
const NONSENSE: Duration = Duration::from_secs(3600);

impl Engine {
    pub fn metrics(&self) -> Box<Snapshot> {
        let mut tasks = BTreeMap::<_, u64>::new();
        let (mut held, mut lent) = (Money::ZERO, Money::ZERO);
        let (mut waiting, mut processes) = (0, 0);
        for (slot, task) in &self.tasks {
            *tasks.entry(task.state_name()).or_default() += 1;
            waiting += self.awaiting(*slot) as u64;
            processes += task.tree.living().count() as u64;
            // That of a part counts on what it is a part of, too.
            if !self.is_open_part(&task.labels) {
                held += self.accounts.held(task.account);
                lent += self.accounts.lent(task.account);
            }
        }
        Box::new(Snapshot {
            tally: self.tally.clone(),
            kernel: self.probes.counters(),
            tasks,
            processes,
            connections: self.connections.len() as u64,
            holds: self.accounts.holds_open() as u64,
            held,
            lent,
            waiting,
            coverage: self.tally.coverage(self.tasks.keys().map(|slot| self.coverage.share(*slot))),
            missed_connections: self.coverage.missed(),
            probed_files: self.probes.attached().len() as u64,
            lag: self.lag.histogram(),
            effects: self.latencies.histograms(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            catalogue: self.prices.version(),
        })
    }

    fn is_open_part(&self, labels: &Labels) -> bool {
        labels.parent.as_ref().is_some_and(|parent| self.slots.contains_key(parent))
    }

    /// Counts a call that was charged. A part has the labels of what it is a part of.
    pub fn count_charge(&mut self, slot: Slot, charge: &Charge) {
        let mut labels = self.tasks.get(&slot).map(|task| &task.labels);
        // As deep as tasks are nested; a ring of them cannot be made, and would end all the same.
        for _ in 0..self.tasks.len() {
            let Some(parent) = labels.and_then(|labels| labels.parent.as_ref()) else { break };
            let above = self.slots.get(parent).and_then(|slot| self.tasks.get(slot));
            labels = above.map(|task| &task.labels);
        }
        self.tally.charged(charge, labels);
    }

    /// How long the oldest event of a batch has waited for its turn.
    pub fn waited(&mut self, time: u64) {
        let waited = Duration::from_nanos(boot_nanoseconds().saturating_sub(time));
        if time > 0 && waited < NONSENSE {
            self.lag.record(waited);
        }
    }
}
