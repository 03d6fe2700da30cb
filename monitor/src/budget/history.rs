//! What calls cost so far: of an account, and by model.

use std::collections::HashMap;

use hdrhistogram::Histogram;

use crate::price::Money;

/// Distribution of amounts, to two significant digits.
#[derive(Debug, Clone)]
pub struct History {
    /// In nano-USD, rounded up. Grows with the largest amount.
    costs: Histogram<u32>,
    dearest: Money,
    /// See [`History::p99`].
    p99: Money,
    /// Amounts recorded since that was looked up.
    unread: u64,
}

const PICO_PER_NANO: i128 = 1_000;
/// 1,000,000 USD; larger amounts are counted as this.
const HIGHEST_NANO_USD: u64 = 1_000_000_000_000_000;
/// The p99 is looked up again when a history has grown by this part.
const LOOK_AGAIN: u64 = 64;

impl Default for History {
    fn default() -> Self {
        let costs = Histogram::new(2);
        Self {
            costs: costs.unwrap_or_else(|error| unreachable!("two significant digits are allowed: {error}")),
            dearest: Money::ZERO,
            p99: Money::ZERO,
            unread: 0,
        }
    }
}

impl History {
    pub fn record(&mut self, cost: Money) {
        self.dearest = self.dearest.max(cost);
        let nano = nano(cost);
        // It grows as far as the highest amount; if there is no memory for that, it is full up.
        if self.costs.record(nano).is_err() {
            self.costs.saturating_record(nano);
        }
        self.unread += 1;
        // A dear call counts at once; that cheap ones bring it down may wait a little.
        if cost > self.p99 || self.unread * LOOK_AGAIN >= self.costs.len() {
            self.unread = 0;
            self.p99 = self.quantile(0.99);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.costs.is_empty()
    }

    pub fn len(&self) -> u64 {
        self.costs.len()
    }

    /// What 99 of 100 calls do not exceed; it may lag behind the last 64th of the calls, where these were cheaper.
    pub const fn p99(&self) -> Money {
        self.p99
    }

    /// What half of the calls do not exceed.
    pub fn median(&self) -> Money {
        self.quantile(0.5)
    }

    fn quantile(&self, quantile: f64) -> Money {
        // No call was dearer than the dearest, whatever the histogram's rounding says.
        money(self.costs.value_at_quantile(quantile)).min(self.dearest)
    }

    /// The median absolute deviation from a value: half of the amounts are not farther from it.
    pub fn deviation_from(&self, center: Money) -> Money {
        let mut distances: Vec<(u64, u64)> = self
            .costs
            .iter_recorded()
            .map(|step| (step.value_iterated_to().abs_diff(nano(center)), step.count_since_last_iteration()))
            .collect();
        distances.sort_unstable();
        let half = self.costs.len().div_ceil(2);
        let mut seen = 0;
        for (distance, count) in distances {
            seen += count;
            if seen >= half {
                return money(distance);
            }
        }
        Money::ZERO
    }
}

fn nano(amount: Money) -> u64 {
    let nano = (amount.pico_usd().max(0).saturating_add(PICO_PER_NANO - 1)) / PICO_PER_NANO;
    u64::try_from(nano).unwrap_or(HIGHEST_NANO_USD).clamp(1, HIGHEST_NANO_USD)
}

fn money(nano: u64) -> Money {
    Money::from_pico_usd(i128::from(nano) * PICO_PER_NANO)
}

/// A model that has been seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ModelId(u32);

/// Models by name, and what calls to them cost over all accounts. Names come from requests: their number and length are bounded.
#[derive(Debug, Clone, Default)]
pub(super) struct Models {
    ids: HashMap<Box<str>, ModelId>,
    costs: Vec<History>,
}

const MODELS: usize = 512;
const NAME: usize = 128;

impl Models {
    pub fn get(&self, name: &str) -> Option<ModelId> {
        self.ids.get(name).copied()
    }

    pub fn record(&mut self, name: &str, cost: Money) -> Option<ModelId> {
        let id = self.get(name).or_else(|| self.add(name))?;
        self.costs.get_mut(id.0 as usize)?.record(cost);
        Some(id)
    }

    pub fn costs(&self, id: ModelId) -> Option<&History> {
        self.costs.get(id.0 as usize)
    }

    fn add(&mut self, name: &str) -> Option<ModelId> {
        if self.costs.len() >= MODELS || name.len() > NAME {
            return None;
        }
        let id = ModelId(u32::try_from(self.costs.len()).ok()?);
        self.costs.push(History::default());
        self.ids.insert(name.into(), id);
        Some(id)
    }
}

/// What calls of one account, and of all below it, cost.
#[derive(Debug, Clone, Default)]
pub(super) struct Histories {
    any: History,
    /// The first models that it called; others are in `any` only.
    by_model: Vec<(ModelId, History)>,
}

const MODELS_PER_ACCOUNT: usize = 8;

impl Histories {
    pub fn record(&mut self, model: Option<ModelId>, cost: Money) {
        self.any.record(cost);
        let Some(model) = model else { return };
        if let Some((_, history)) = self.by_model.iter_mut().find(|(id, _)| *id == model) {
            history.record(cost);
        } else if self.by_model.len() < MODELS_PER_ACCOUNT {
            let mut history = History::default();
            history.record(cost);
            self.by_model.push((model, history));
        }
    }

    pub const fn any(&self) -> &History {
        &self.any
    }

    pub fn of(&self, model: ModelId) -> Option<&History> {
        self.by_model.iter().find(|(id, _)| *id == model).map(|(_, history)| history)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Histories, History, MODELS, MODELS_PER_ACCOUNT, Models};
    use crate::price::Money;

    fn nano(nano: i128) -> Money {
        Money::from_pico_usd(nano * 1000)
    }

    #[test]
    fn hostile_names_do_not_fill_the_memory() {
        let mut models = Models::default();
        let mut histories = Histories::default();
        for n in 0..10_000 {
            let id = models.record(&format!("model-{n}"), nano(5));
            histories.record(id, nano(5));
        }
        assert_eq!(models.ids.len(), MODELS);
        assert_eq!(histories.by_model.len(), MODELS_PER_ACCOUNT);
        assert_eq!(histories.any().len(), 10_000);
        assert_eq!(models.record(&"x".repeat(1000), nano(5)), None);
    }

    #[test]
    fn absurd_amounts_are_counted_as_the_highest() {
        let mut history = History::default();
        history.record(Money::MAX);
        history.record(Money::from_pico_usd(-5));
        assert_eq!(history.len(), 2);
        assert!(history.p99() > nano(900_000_000_000_000));
    }

    proptest! {
        /// Against the definition, on the sorted amounts: never lower, and at most a 128th higher, or as of a little while ago.
        #[test]
        fn p99_is_an_upper_bound(amounts in prop::collection::vec(1_i128..1_000_000, 1..300)) {
            let mut history = History::default();
            let mut sorted: Vec<i128> = Vec::new();
            let mut highest_lately = 0;
            for (n, &amount) in amounts.iter().enumerate() {
                history.record(nano(amount));
                sorted.insert(sorted.partition_point(|&other| other < amount), amount);
                let exact = sorted[(sorted.len() * 99).div_ceil(100) - 1];
                highest_lately = if n < 64 { exact } else { exact.max(highest_lately) };
                prop_assert!(history.p99() >= nano(exact));
                prop_assert!(history.p99() <= nano(highest_lately + highest_lately / 128 + 1));
            }
        }

        #[test]
        fn the_deviation_is_the_median_distance(amounts in prop::collection::vec(1_i128..100_000, 1..100), center in 1_i128..100_000) {
            let mut history = History::default();
            amounts.iter().for_each(|&amount| history.record(nano(amount)));
            let mut distances: Vec<i128> = amounts.iter().map(|amount| (amount - center).abs()).collect();
            distances.sort_unstable();
            let exact = distances[distances.len().div_ceil(2) - 1];
            let deviation = history.deviation_from(nano(center)).pico_usd() / 1000;
            let rounding = amounts.iter().max().unwrap_or(&0) / 128 + 1;
            prop_assert!((deviation - exact).abs() <= rounding, "{} is not about {}", deviation, exact);
        }
    }
}
