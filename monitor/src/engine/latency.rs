//! How long things take, from the byte that decides them.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::clock::boot_nanoseconds;

/// Three digits, up to a minute: 50 KiB each.
const DIGITS: u8 = 3;
const LONGEST: u64 = 60_000_000_000;

/// Histograms of nanoseconds, by what was done.
#[derive(Debug, Default)]
pub struct Latencies(BTreeMap<&'static str, Times>);

/// In microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub count: u64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

/// A histogram of nanoseconds.
#[derive(Debug)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("bounds that make sense"))
    }
}

impl Times {
    pub fn record(&mut self, took: Duration) {
        self.0.saturating_record(nanoseconds(took));
    }

    pub fn histogram(&self) -> Histogram<u64> {
        self.0.clone()
    }
}

fn nanoseconds(took: Duration) -> u64 {
    u64::try_from(took.as_nanos()).unwrap_or(LONGEST).clamp(1, LONGEST)
}

impl Latencies {
    /// It is done now; what decided it was seen by the kernel at this time of the boot clock.
    pub fn since(&mut self, what: &'static str, decided: u64) {
        self.record(what, Duration::from_nanos(boot_nanoseconds().saturating_sub(decided)));
    }

    pub fn record(&mut self, what: &'static str, took: Duration) {
        self.0.entry(what).or_default().record(took);
    }

    pub fn histograms(&self) -> BTreeMap<&'static str, Histogram<u64>> {
        self.0.iter().map(|(what, times)| (*what, times.histogram())).collect()
    }

    pub fn summaries(&self) -> BTreeMap<&'static str, Summary> {
        let micro = |nanoseconds: u64| nanoseconds / 1000;
        let summary = |Times(histogram): &Times| Summary {
            count: histogram.len(),
            p50_us: micro(histogram.value_at_quantile(0.5)),
            p99_us: micro(histogram.value_at_quantile(0.99)),
            max_us: micro(histogram.max()),
        };
        self.0.iter().map(|(what, histogram)| (*what, summary(histogram))).collect()
    }
}
