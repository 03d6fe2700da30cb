//! What calls of an account cost so far.

use hdrhistogram::Histogram;

use crate::price::Money;

/// Distribution of the cost of settled calls, to two significant digits.
#[derive(Debug, Clone)]
pub struct History {
    /// In nano-USD, rounded up.
    costs: Histogram<u32>,
    dearest: Money,
}

const PICO_PER_NANO: i128 = 1_000;
/// 1,000 USD for one call; dearer ones are counted as this.
const HIGHEST_NANO_USD: u64 = 1_000_000_000_000;

impl Default for History {
    fn default() -> Self {
        // The bounds are constants that the histogram accepts; the fallback has no bounds at all.
        let costs = Histogram::new_with_bounds(1, HIGHEST_NANO_USD, 2).or_else(|_| Histogram::new(2));
        Self {
            costs: costs.unwrap_or_else(|error| unreachable!("two significant digits are allowed: {error}")),
            dearest: Money::ZERO,
        }
    }
}

impl History {
    pub fn record(&mut self, cost: Money) {
        self.dearest = self.dearest.max(cost);
        let nano = (cost.pico_usd().max(0) + PICO_PER_NANO - 1) / PICO_PER_NANO;
        self.costs.saturating_record(u64::try_from(nano).unwrap_or(HIGHEST_NANO_USD).max(1));
    }

    pub fn is_empty(&self) -> bool {
        self.costs.is_empty()
    }

    /// What 99 of 100 calls do not exceed.
    pub fn p99(&self) -> Money {
        self.money(self.costs.value_at_quantile(0.99))
    }

    /// What half of the calls do not exceed.
    pub fn median(&self) -> Money {
        self.money(self.costs.value_at_quantile(0.5))
    }

    fn money(&self, nano: u64) -> Money {
        // No call was dearer than the dearest, whatever the histogram's rounding says.
        Money::from_pico_usd(i128::from(nano) * PICO_PER_NANO).min(self.dearest)
    }
}
