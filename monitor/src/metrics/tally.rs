//! What was charged since the daemon started.

use std::collections::{BTreeMap, BTreeSet};

use hdrhistogram::Histogram;
use monitor_common::Counters;

use crate::{
    coverage::Share,
    meter::{Billing, Bucket},
    pipeline::Charge,
    price::Money,
    task::Labels,
};

/// Models of providers, and pairs of tenant and workflow, that are counted apart.
const MOST: usize = 200;
/// Letters of a label.
const LABEL: usize = 64;
const OTHER: &str = "other";
const UNKNOWN: &str = "unknown";

/// A model, or a tool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Called {
    /// `model` or `tool`.
    pub call: &'static str,
    pub provider: &'static str,
    pub model: String,
}

/// What calls came to.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    pub by_basis: BTreeMap<&'static str, u64>,
    pub cost: Money,
    pub tokens: [u64; Bucket::ALL.len()],
    /// Calls without a price.
    pub unpriced: u64,
    /// What these count toward caps.
    pub ceilings: Money,
    /// Calls whose answer was not understood.
    pub unread: u64,
}

/// Sums of charges. Keeps nothing of a single one.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub calls: BTreeMap<Called, Calls>,
    /// By tenant and workflow; empty where there is none.
    pub accounts: BTreeMap<(String, String), Money>,
    /// Requests that might not go, said or not.
    pub refused: u64,
    /// Coverage of tasks that are no longer known.
    forgotten: Share,
}

impl Tally {
    /// A call was charged to a task with these labels.
    pub fn charged(&mut self, charge: &Charge, labels: Option<&Labels>) {
        let metered = &charge.metered;
        let call = if charge.is_tool() { "tool" } else { "model" };
        let provider = metered.provider.unwrap_or(UNKNOWN);
        let model = metered.model().map_or_else(|| UNKNOWN.to_owned(), label);
        let mut called = Called { call, provider, model };
        if self.calls.len() >= MOST && !self.calls.contains_key(&called) {
            OTHER.clone_into(&mut called.model);
        }
        let calls = self.calls.entry(called).or_default();
        *calls.by_basis.entry(metered.basis.name()).or_default() += 1;
        for (sum, bucket) in calls.tokens.iter_mut().zip(Bucket::ALL) {
            *sum = sum.saturating_add(metered.usage.get(bucket));
        }
        match charge.cost {
            Some(cost) => calls.cost += cost,
            None if metered.billing == Billing::Unknown => calls.unread += 1,
            None => calls.unpriced += 1,
        }
        calls.ceilings += charge.counts().map(|(_, ceiling)| ceiling).unwrap_or_default();
        if let Some(cost) = charge.cost {
            *self.account(labels) += cost;
        }
    }

    fn account(&mut self, labels: Option<&Labels>) -> &mut Money {
        let name = |of: fn(&Labels) -> Option<&crate::task::TaskId>| {
            labels.and_then(of).map(|name| label(name.as_str())).unwrap_or_default()
        };
        let mut account = (name(|labels| labels.tenant.as_ref()), name(|labels| labels.workflow.as_ref()));
        if self.accounts.len() >= MOST && !self.accounts.contains_key(&account) {
            account = (OTHER.into(), OTHER.into());
        }
        self.accounts.entry(account).or_default()
    }

    /// A task is forgotten; what it sent was sent.
    pub fn forget(&mut self, share: Share) {
        self.forgotten = sum(self.forgotten, share);
    }

    /// How much is read of what all tasks sent since the daemon started, if these are known.
    pub fn coverage(&self, known: impl Iterator<Item = Share>) -> Share {
        known.fold(self.forgotten, sum)
    }

    /// Providers, as far as something was charged.
    pub fn providers(&self) -> BTreeSet<&'static str> {
        self.calls.keys().map(|called| called.provider).collect()
    }
}

fn sum(a: Share, b: Share) -> Share {
    Share {
        sent_bytes: a.sent_bytes.saturating_add(b.sent_bytes),
        read_bytes: a.read_bytes.saturating_add(b.read_bytes),
        connections: a.connections + b.connections,
        uncovered: a.uncovered + b.uncovered,
        estimated_usd: a.estimated_usd + b.estimated_usd,
    }
}

/// A name that somebody else has chosen, as a label.
fn label(name: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.:/@+ ".contains(letter);
    name.chars().take(LABEL).map(|letter| if fits(letter) { letter } else { '_' }).collect()
}

/// What the engine tells.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub tally: Tally,
    pub kernel: Counters,
    /// Tasks by their state.
    pub tasks: BTreeMap<&'static str, u64>,
    pub processes: u64,
    pub connections: u64,
    pub holds: u64,
    pub held: Money,
    pub lent: Money,
    /// Requests that wait for a person's yes.
    pub waiting: u64,
    pub coverage: Share,
    /// Connections for whose coverage there was no room.
    pub missed_connections: u64,
    pub probed_files: u64,
    /// Nanoseconds from the kernel's record to its turn, of the oldest one of each batch.
    pub lag: Histogram<u64>,
    /// Nanoseconds from the byte that decided it, by what was done.
    pub effects: BTreeMap<&'static str, Histogram<u64>>,
    pub uptime_s: f64,
    pub catalogue: String,
}

#[cfg(test)]
pub mod tests {
    use super::{MOST, Tally};
    use crate::{
        meter::{Basis, Billing, Bucket, Kind, Metered},
        pipeline::Charge,
        task::Labels,
    };

    /// A call that used 1000 tokens of input and 10 of output.
    pub fn charge(model: &str, cost: Option<&str>) -> Charge {
        let mut usage = crate::meter::Usage::default();
        usage.add(Bucket::InputUncached, 1000);
        usage.add(Bucket::OutputText, 10);
        Charge {
            metered: Metered {
                kind: Kind::Model,
                billing: Billing::Charge,
                estimate: None,
                unseen: None,
                tool_cost: None,
                provider: Some("openai"),
                model_requested: Some(model.into()),
                model_reported: None,
                billed_model: Default::default(),
                response_id: None,
                stream: false,
                usage,
                units: Default::default(),
                basis: Basis::Measured,
                service: Default::default(),
                parts: Vec::new(),
                provider_cost: None,
                status: None,
            },
            cost: cost.map(|cost| cost.parse().expect("money")),
            tokens_cost: None,
            row: None,
            ceiling: if cost.is_none() { Some("0.5".parse().expect("money")) } else { None },
            note: None,
        }
    }

    fn of(tenant: &str) -> Labels {
        Labels { tenant: Some(tenant.parse().expect("a name")), ..Labels::default() }
    }

    #[test]
    fn sums_are_exact_and_what_has_no_price_is_no_cost() {
        let mut tally = Tally::default();
        for _ in 0..3 {
            tally.charged(&charge("gpt", Some("0.1")), Some(&of("acme")));
        }
        tally.charged(&charge("gpt", None), None);
        let (called, calls) = tally.calls.iter().next().expect("a model");
        assert_eq!((called.call, called.provider, &*called.model), ("model", "openai", "gpt"));
        assert_eq!((calls.cost.to_string(), calls.ceilings.to_string()), ("0.3".into(), "0.5".into()));
        assert_eq!((calls.unpriced, calls.unread, calls.by_basis["measured"]), (1, 0, 4));
        assert_eq!((calls.tokens.iter().sum::<u64>(), calls.tokens[0]), (4040, 4000));
        let accounts: Vec<_> = tally.accounts.iter().map(|((tenant, _), cost)| (&**tenant, cost.to_string())).collect();
        assert_eq!(accounts, [("acme", "0.3".to_owned())]);
    }

    /// A task can name any model, and a person any tenant.
    #[test]
    fn labels_are_bounded_and_nothing_is_lost_over_that() {
        let mut tally = Tally::default();
        for number in 0..MOST * 3 {
            tally.charged(&charge(&format!("model-{number}"), Some("1")), Some(&of(&format!("t{number}"))));
        }
        assert_eq!((tally.calls.len(), tally.accounts.len()), (MOST + 1, MOST + 1));
        let other = tally.calls.iter().find(|(called, _)| called.model == "other").expect("the others");
        assert_eq!(other.1.cost.to_string(), (MOST * 2).to_string());
        let all = tally.accounts.values().fold(crate::price::Money::ZERO, |sum, cost| sum + *cost);
        assert_eq!(all.to_string(), (MOST * 3).to_string());

        let mut tally = Tally::default();
        tally.charged(&charge(&format!("a\"}}\n# {}", "x".repeat(1000)), Some("1")), None);
        let model = &tally.calls.keys().next().expect("a model").model;
        assert!(model.starts_with("a____ xxx") && model.len() == 64, "{model}");
    }
}
