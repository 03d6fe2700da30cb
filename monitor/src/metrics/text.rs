//! The text format of Prometheus, version 0.0.4.

use std::fmt;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text},
    metrics::MetricType,
    registry::Registry,
};

use super::{Family, Kind, families::Value};

pub use prometheus_text::CONTENT_TYPE;

/// As it is scraped.
///
/// # Errors
/// When a name or a label cannot be encoded.
pub fn encode(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    prometheus_text::encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for family in self.0.iter().filter(|family| !family.samples.is_empty()) {
            let (kind, name) = match family.kind {
                // The encoder adds it again.
                Kind::Counter => (MetricType::Counter, family.name.trim_end_matches("_total")),
                Kind::Gauge => (MetricType::Gauge, family.name),
                Kind::Histogram => (MetricType::Histogram, family.name),
            };
            let mut metric = encoder.encode_descriptor(name, family.help, None, kind)?;
            for (labels, value) in &family.samples {
                if labels.is_empty() {
                    sample(&mut metric, family.kind, value)?;
                } else {
                    sample(&mut metric.encode_family(labels)?, family.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn sample(metric: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> fmt::Result {
    match (value, kind) {
        (Value::Number(number), Kind::Counter) => metric.encode_counter::<NoLabelSet, _, u64>(number, None),
        (Value::Number(number), _) => metric.encode_gauge(number),
        (Value::Distribution { buckets, sum, count }, _) => {
            metric.encode_histogram::<NoLabelSet>(*sum, *count, buckets, None)
        }
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use hdrhistogram::Histogram;

    use super::encode;
    use crate::{
        alert::{Kind, webhook::WebhookCounts},
        coverage::Share,
        ledger::LedgerCounts,
        metrics::{Scrape, Snapshot, Tally, families, tally},
        price::Money,
        probe::Fullness,
    };

    /// One with a sample of everything.
    pub fn scrape() -> Scrape {
        let mut lag = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds");
        lag.record(2_000_000).expect("within bounds");
        let mut tally = Tally::default();
        tally.charged(&tally::tests::charge("gpt-4o", Some("0.00475")), None);
        Scrape {
            engine: Snapshot {
                tally,
                kernel: monitor_common::Counters { dropped_records: 3, ..Default::default() },
                tasks: BTreeMap::from([("running", 2)]),
                processes: 1,
                connections: 1,
                holds: 1,
                held: "0.25".parse().expect("money"),
                lent: Money::ZERO,
                waiting: 0,
                coverage: Share { sent_bytes: 100, read_bytes: 60, ..Share::default() },
                missed_connections: 0,
                probed_files: 1,
                effects: BTreeMap::from([("kill: gate shut", lag.clone())]),
                lag,
                uptime_s: 1.5,
                catalogue: "2026-01-01".into(),
            },
            decisions: vec![(Kind::Kill, 1)],
            ledger: LedgerCounts::default(),
            ledger_fails: true,
            webhooks: vec![WebhookCounts { webhook: "pager".into(), waiting: 4, sent: 3, failed: 2, lost: 1 }],
            maps: vec![Fullness { map: "PROCESSES".into(), entries: 5, capacity: 10, gives_way: false }],
        }
    }

    /// Read by eye against the format's description (prometheus.io/docs/instrumenting/exposition_formats); the live tests give it to promtool.
    #[test]
    fn what_is_scraped_is_the_text_format() {
        let text = encode(families(&scrape())).expect("a text");
        for expected in [
            "# HELP tollgate_spend_usd_total What calls cost, by what answered\n# TYPE tollgate_spend_usd_total counter\n\
             tollgate_spend_usd_total{call=\"model\",provider=\"openai\",model=\"gpt-4o\"} 0.00475\n",
            "tollgate_tokens_total{call=\"model\",provider=\"openai\",model=\"gpt-4o\",kind=\"input_uncached\"} 1000",
            "tollgate_decisions_total{decision=\"kill\"} 1",
            "# TYPE tollgate_tasks gauge\ntollgate_tasks{state=\"running\"} 2",
            "\ntollgate_records_lost_total 3",
            "\ntollgate_held_usd 0.25\n",
            "tollgate_coverage_bytes_total{plaintext=\"read\"} 60",
            "tollgate_coverage_bytes_total{plaintext=\"unread\"} 40",
            "tollgate_event_lag_seconds_bucket{le=\"0.001\"} 0\ntollgate_event_lag_seconds_bucket{le=\"0.0025\"} 1\n",
            "tollgate_event_lag_seconds_bucket{le=\"+Inf\"} 1\n",
            "tollgate_event_lag_seconds_count 1\n",
            "tollgate_map_entries{map=\"PROCESSES\",when_full=\"refuses\"} 5",
            "\ntollgate_ledger_failing 1",
            "tollgate_webhook_queue{webhook=\"pager\"} 4",
        ] {
            assert!(text.contains(expected), "{expected}\nis not in\n{text}");
        }
        assert!(text.ends_with('\n'));
    }
}
