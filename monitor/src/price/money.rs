//! Amounts of money.

use std::{fmt, iter::Sum, ops, str::FromStr};

use serde::{Deserialize, Serialize};

/// An amount in pico-USD (10⁻¹² USD): the finest catalogue price per token is a whole number of them, so that sums are exact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i128);

impl Money {
    pub const ZERO: Self = Self(0);
    pub const PICO_PER_USD: i128 = 1_000_000_000_000;

    pub const fn from_pico_usd(pico: i128) -> Self {
        Self(pico)
    }

    pub const fn pico_usd(self) -> i128 {
        self.0
    }
}
