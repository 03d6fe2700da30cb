//! Which metrics there are, by the conventions of Prometheus: base units, `_total` for what only rises.

use hdrhistogram::Histogram;

use super::Snapshot;
use crate::{
    alert::{self, webhook::WebhookCounts},
    ledger::LedgerCounts,
    meter::Bucket,
    price::Money,
    probe::Fullness,
};

/// Everything that a scrape tells of.
#[derive(Debug, Clone)]
pub struct Scrape {
    pub engine: Snapshot,
    pub decisions: Vec<(alert::Kind, u64)>,
    pub ledger: LedgerCounts,
    pub ledger_fails: bool,
    pub webhooks: Vec<WebhookCounts>,
    pub maps: Vec<Fullness>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

pub type Labels = Vec<(&'static str, String)>;

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Number(f64),
    /// Counts per bucket (not summed up) with their upper bounds, the sum, and how many there are.
    Distribution {
        buckets: Vec<(f64, u64)>,
        sum: f64,
        count: u64,
    },
}

/// Samples of one name.
#[derive(Debug, Clone)]
pub struct Family {
    /// As it is scraped, without what a histogram adds to it.
    pub name: &'static str,
    pub help: &'static str,
    pub kind: Kind,
    pub samples: Vec<(Labels, Value)>,
}

/// States of tasks, so that each has a sample from the start.
const STATES: [&str; 7] = ["running", "throttled", "cut", "paused", "stopping", "stopped", "ended"];

/// Upper bounds of buckets, in seconds.
const BOUNDS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All metrics, in the order in which they are shown.
pub fn families(scrape: &Scrape) -> Vec<Family> {
    let mut all = money(scrape);
    all.extend(decisions(scrape));
    all.extend(tasks(&scrape.engine));
    all.extend(losses(scrape));
    all.extend(times(&scrape.engine));
    all.extend(outlets(scrape));
    all
}

fn money(scrape: &Scrape) -> Vec<Family> {
    let tally = &scrape.engine.tally;
    let of = |called: &super::tally::Called| {
        vec![
            ("call", called.call.to_owned()),
            ("provider", called.provider.to_owned()),
            ("model", called.model.clone()),
        ]
    };
    let each = |value: &dyn Fn(&super::tally::Calls) -> f64| {
        let samples = tally.calls.iter().map(|(called, calls)| (of(called), number(value(calls))));
        samples.collect::<Vec<_>>()
    };
    let with = |mut labels: Labels, key, value: &str| {
        labels.push((key, value.to_owned()));
        labels
    };
    let calls = tally.calls.iter().flat_map(|(called, calls)| {
        let by_basis = calls.by_basis.iter();
        by_basis.map(move |(basis, count)| (with(of(called), "basis", basis), number(count_of(*count))))
    });
    let tokens = tally.calls.iter().flat_map(|(called, calls)| {
        let by_kind = Bucket::ALL.into_iter().zip(calls.tokens).filter(|(_, count)| *count > 0);
        by_kind.map(move |(bucket, count)| (with(of(called), "kind", bucket.name()), number(count_of(count))))
    });
    let accounts = tally.accounts.iter().map(|((tenant, workflow), cost)| {
        (vec![("tenant", tenant.clone()), ("workflow", workflow.clone())], number(usd(*cost)))
    });
    vec![
        counter("tollgate_spend_usd_total", "What calls cost, by what answered", each(&|calls| usd(calls.cost))),
        counter("tollgate_account_spend_usd_total", "What calls cost, by who pays", accounts.collect()),
        counter("tollgate_calls_total", "Calls that cost, by how that is known", calls.collect()),
        counter("tollgate_tokens_total", "Tokens by their kind, no token in two", tokens.collect()),
        counter(
            "tollgate_unpriced_calls_total",
            "Calls without a price, which are in no spend",
            each(&|calls| count_of(calls.unpriced)),
        ),
        counter(
            "tollgate_unpriced_ceiling_usd_total",
            "What calls without a price count toward caps",
            each(&|calls| usd(calls.ceilings)),
        ),
        counter(
            "tollgate_unread_calls_total",
            "Calls whose answers were not understood: what they cost is not known",
            each(&|calls| count_of(calls.unread)),
        ),
        one(
            Kind::Counter,
            "tollgate_abandoned_calls_total",
            "Calls whose ends nobody saw, for want of a daemon",
            count_of(scrape.ledger.abandoned_calls),
        ),
        one(
            Kind::Counter,
            "tollgate_abandoned_usd_total",
            "What was charged for these, which is what was held",
            usd(scrape.ledger.abandoned),
        ),
    ]
}

fn decisions(scrape: &Scrape) -> Vec<Family> {
    let samples = scrape
        .decisions
        .iter()
        .map(|(kind, count)| (vec![("decision", kind.name().to_owned())], number(count_of(*count))));
    vec![
        counter("tollgate_decisions_total", "What was decided and said, by its kind", samples.collect()),
        one(
            Kind::Counter,
            "tollgate_refused_requests_total",
            "Requests that might not go, each of them",
            count_of(scrape.engine.tally.refused),
        ),
    ]
}

fn tasks(engine: &Snapshot) -> Vec<Family> {
    let states = STATES.map(|state| {
        let tasks = engine.tasks.get(state).copied().unwrap_or_default();
        (vec![("state", state.to_owned())], number(count_of(tasks)))
    });
    vec![
        gauge("tollgate_tasks", "Tasks by their state", states.into()),
        one(Kind::Gauge, "tollgate_processes", "Processes of tasks", count_of(engine.processes)),
        one(Kind::Gauge, "tollgate_connections", "Connections that are followed", count_of(engine.connections)),
        one(Kind::Gauge, "tollgate_holds", "Calls in flight that money is held for", count_of(engine.holds)),
        one(Kind::Gauge, "tollgate_held_usd", "What is held for calls in flight", usd(engine.held)),
        one(
            Kind::Gauge,
            "tollgate_lent_usd",
            "What is set aside for requests that may start without asking",
            usd(engine.lent),
        ),
        one(
            Kind::Gauge,
            "tollgate_waiting_requests",
            "Requests that wait for the yes of a person",
            count_of(engine.waiting),
        ),
    ]
}

fn losses(scrape: &Scrape) -> Vec<Family> {
    let (kernel, coverage) = (&scrape.engine.kernel, &scrape.engine.coverage);
    let by = |key: &'static str, values: &[(&str, u64)]| {
        let sample = |(value, count): &(&str, u64)| (vec![(key, (*value).to_owned())], number(count_of(*count)));
        values.iter().map(sample).collect::<Vec<_>>()
    };
    let map = |value: fn(&Fullness) -> f64| {
        let sample = |map: &Fullness| {
            let when_full = if map.gives_way { "evicts" } else { "refuses" };
            (vec![("map", map.map.clone()), ("when_full", when_full.to_owned())], number(value(map)))
        };
        scrape.maps.iter().map(sample).collect::<Vec<_>>()
    };
    let one = |name, help, count| one(Kind::Counter, name, help, count_of(count));
    vec![
        one("tollgate_records_total", "Records that the kernel handed over", kernel.records),
        one("tollgate_record_bytes_total", "Plaintext in them", kernel.bytes),
        one("tollgate_records_lost_total", "Records that found no room in the ring", kernel.dropped_records),
        counter(
            "tollgate_lost_bytes_total",
            "Plaintext that was not handed over, by why",
            by(
                "reason",
                &[
                    ("dropped", kernel.dropped_bytes),
                    ("too_many", kernel.uncopied_bytes),
                    ("not_walked", kernel.unwalked_bytes),
                ],
            ),
        ),
        counter(
            "tollgate_kernel_failures_total",
            "What the programs in the kernel could not do",
            by(
                "failure",
                &[
                    ("buffer_unreadable", kernel.unreadable_buffers),
                    ("map_full", kernel.map_full),
                    ("signal", kernel.signal_failures),
                    ("socket_not_walked", kernel.unwalked_sockets),
                    ("socket_not_watched", scrape.engine.missed_connections),
                ],
            ),
        ),
        counter(
            "tollgate_coverage_bytes_total",
            "What tasks sent as application data, and whether that could be read",
            by(
                "plaintext",
                &[
                    ("read", coverage.read_bytes.min(coverage.sent_bytes)),
                    ("unread", coverage.sent_bytes.saturating_sub(coverage.read_bytes)),
                ],
            ),
        ),
        one("tollgate_uncovered_connections_total", "Connections that cannot be read", coverage.uncovered),
        gauge("tollgate_map_entries", "Entries of the maps in the kernel", map(|map| count_of(map.entries))),
        gauge("tollgate_map_capacity_entries", "Entries that there is room for", map(|map| map.capacity.into())),
    ]
}

fn times(engine: &Snapshot) -> Vec<Family> {
    let effects =
        engine.effects.iter().map(|(effect, times)| (vec![("effect", (*effect).to_owned())], distribution(times)));
    vec![
        Family {
            name: "tollgate_event_lag_seconds",
            help: "From the record in the kernel to its turn, of the oldest one of each batch",
            kind: Kind::Histogram,
            samples: vec![(Vec::new(), distribution(&engine.lag))],
        },
        Family {
            name: "tollgate_effect_seconds",
            help: "From the byte that decided it to what was done",
            kind: Kind::Histogram,
            samples: effects.collect(),
        },
    ]
}

fn outlets(scrape: &Scrape) -> Vec<Family> {
    let webhook = |value: fn(&WebhookCounts) -> u64| {
        let sample =
            |counts: &WebhookCounts| (vec![("webhook", counts.webhook.clone())], number(count_of(value(counts))));
        scrape.webhooks.iter().map(sample).collect::<Vec<_>>()
    };
    let build = vec![("version", env!("CARGO_PKG_VERSION").to_owned()), ("catalogue", scrape.engine.catalogue.clone())];
    vec![
        one(
            Kind::Gauge,
            "tollgate_ledger_failing",
            "1 while the ledger cannot be written",
            f64::from(u8::from(scrape.ledger_fails)),
        ),
        one(
            Kind::Counter,
            "tollgate_ledger_failures_total",
            "Transactions that failed, and were tried again",
            count_of(scrape.ledger.failures),
        ),
        gauge("tollgate_webhook_queue", "Alerts that wait to be sent", webhook(|counts| counts.waiting)),
        counter("tollgate_webhook_sent_total", "Alerts that were taken", webhook(|counts| counts.sent)),
        counter("tollgate_webhook_failures_total", "Attempts that failed", webhook(|counts| counts.failed)),
        counter("tollgate_webhook_lost_total", "Alerts that were given up", webhook(|counts| counts.lost)),
        one(Kind::Gauge, "tollgate_probed_files", "Files whose TLS is probed", count_of(scrape.engine.probed_files)),
        one(Kind::Gauge, "tollgate_uptime_seconds", "Since the daemon started", scrape.engine.uptime_s),
        gauge("tollgate_build_info", "Which version runs, with which prices", vec![(build, number(1.0))]),
    ]
}

fn counter(name: &'static str, help: &'static str, samples: Vec<(Labels, Value)>) -> Family {
    Family { name, help, kind: Kind::Counter, samples }
}

fn gauge(name: &'static str, help: &'static str, samples: Vec<(Labels, Value)>) -> Family {
    Family { name, help, kind: Kind::Gauge, samples }
}

fn one(kind: Kind, name: &'static str, help: &'static str, value: f64) -> Family {
    Family { name, help, kind, samples: vec![(Vec::new(), number(value))] }
}

const fn number(value: f64) -> Value {
    Value::Number(value)
}

/// Prometheus knows no other numbers; these are exact up to 2⁵³.
#[expect(clippy::cast_precision_loss, reason = "a sample is a double")]
fn count_of(count: u64) -> f64 {
    count as f64
}

/// To the nearest double; amounts that decide anything are never taken from here.
#[expect(clippy::cast_precision_loss, reason = "a sample is a double")]
fn usd(money: Money) -> f64 {
    money.pico_usd() as f64 / 1e12
}

/// Of nanoseconds, in seconds. The sum is as exact as the histogram is: to three digits.
fn distribution(times: &Histogram<u64>) -> Value {
    let seconds = |nanoseconds: u64| count_of(nanoseconds) / 1e9;
    let (mut buckets, mut sum) = (BOUNDS.map(|bound| (bound, 0)).to_vec(), 0.0);
    for recorded in times.iter_recorded() {
        let (value, count) = (seconds(recorded.value_iterated_to()), recorded.count_at_value());
        sum += value * count_of(count);
        if let Some((_, bucket)) = buckets.iter_mut().find(|(bound, _)| value <= *bound) {
            *bucket += count;
        }
    }
    Value::Distribution { buckets, sum, count: times.len() }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use hdrhistogram::Histogram;

    use super::{Kind, STATES, Value, distribution, families};
    use crate::metrics::text::tests::scrape;

    const README: &str = include_str!("../../../README.md");

    #[test]
    fn times_are_put_into_buckets_of_seconds() {
        let mut times = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
        for nanoseconds in [50_000, 900_000, 900_000, 30_000_000_000] {
            times.record(nanoseconds).expect("within bounds");
        }
        let Value::Distribution { buckets, sum, count } = distribution(&times) else { panic!("a distribution") };
        let full: Vec<(f64, u64)> = buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        // What is longer than every bound is in no bucket but the last, which all samples are in.
        assert_eq!((full, count), (vec![(0.000_1, 1), (0.001, 2)], 4));
        assert!((sum - 30.001_85).abs() < 0.05, "{sum}");
    }

    #[test]
    fn names_keep_to_the_conventions() {
        let all = families(&scrape());
        assert_eq!(all.iter().map(|family| family.name).collect::<HashSet<_>>().len(), all.len());
        for family in &all {
            assert!(family.name.starts_with("tollgate_") && !family.help.is_empty());
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
            for (labels, _) in &family.samples {
                assert!(
                    labels.iter().all(|(key, _)| !["task", "pid", "cgroup", "process"].contains(key)),
                    "{labels:?}"
                );
            }
            let distinct: HashSet<String> = family.samples.iter().map(|(labels, _)| format!("{labels:?}")).collect();
            assert_eq!(distinct.len(), family.samples.len(), "{} has a sample twice", family.name);
        }
        assert_eq!(STATES.len(), HashSet::from(STATES).len());
    }

    /// The table of the README has each metric with its labels, and nothing else.
    #[test]
    fn the_readme_has_every_metric() {
        let rows = README.lines().filter_map(|line| line.strip_prefix("| `tollgate_")?.split_once('`'));
        let told: HashSet<(String, String)> = rows
            .map(|(name, rest)| {
                let labels = rest.split('|').nth(1).unwrap_or_default().replace('`', "");
                (format!("tollgate_{name}"), labels.trim().to_owned())
            })
            .collect();
        let is: HashSet<(String, String)> = families(&scrape())
            .iter()
            .map(|family| {
                let (labels, _) = family.samples.first().unwrap_or_else(|| panic!("{} has no sample", family.name));
                let keys: Vec<&str> = labels.iter().map(|(key, _)| *key).collect();
                (family.name.to_owned(), keys.join(", "))
            })
            .collect();
        let mut missing: Vec<_> = is.symmetric_difference(&told).collect();
        missing.sort();
        assert!(missing.is_empty(), "{missing:#?}");
    }
}
