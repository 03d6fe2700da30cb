//! Usage to money.
//!
//! In comes what a call used, and where it went, when, and for which model; out goes its price with the row that it comes
//! from, or the reason why it has none.
//!
//! Prices come from a [`PriceBook`]: what an administrator has set (`overrides.rs`), the catalogue, and a fallback table for
//! what the catalogue lacks. Both tables have the same form and are embedded (`monitor/prices/`, made by `cargo xtask
//! prices`); newer ones can be installed. [`PriceBook::quote`] prices a call; [`PriceBook::rates`] gives its rates, to follow
//! its cost while it streams. How a table's price list for a call is found is described in `resolve.rs`.
//!
//! **Invariant:** no floating point. Every sum is exact until it is rounded, once, to a pico-USD. A model that no table has
//! is unpriced, and what a row has no price for is named: neither is ever shown as free.
#![forbid(unsafe_code)]

mod book;
mod catalogue;
mod ceiling;
mod diff;
mod explain;
mod matcher;
mod memo;
pub mod money;
mod overrides;
mod rates;
mod resolve;
mod row;

#[cfg(test)]
mod book_tests;
#[cfg(test)]
mod corpus_tests;
#[cfg(test)]
mod reference_tests;

use std::{fmt, time::Duration};

use jiff::Timestamp;

pub use self::{
    book::PriceBook,
    catalogue::{Catalogue, CatalogueError},
    ceiling::{Ceiling, CeilingSetting},
    diff::{Change, ChangeKind},
    explain::{Candidate, Explanation, Period, PriceLine},
    money::{Money, ParseMoneyError},
    overrides::{Override, OverrideError, Overrides},
    rates::{Component, Price, PriceRow, Rates},
    resolve::Evidence,
    row::Service,
};
use crate::meter::{Units, Usage};

/// What to find a price for.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// The provider, if it is known otherwise than by the URL: its id in the catalogue, or a usual name for it.
    pub provider: Option<&'a str>,
    /// The URL of the request, with scheme and host.
    pub url: Option<&'a str>,
    /// The model, as the answer names it; if it does not, as the request does.
    pub model: &'a str,
    pub service: Service<'a>,
    /// When the call was made: prices change from day to day, and some within the day.
    pub at: Timestamp,
    /// Time from the request's first byte until the answer's last, or until now. For servers that are paid by the hour.
    pub took: Option<Duration>,
    /// Input tokens by which the tier is told, where the usage is the sum of several calls: each call has its own.
    pub size: Option<u64>,
}

impl<'a> Query<'a> {
    /// A query for a model by its name alone.
    pub fn new(model: &'a str, at: Timestamp) -> Self {
        Self { provider: None, url: None, model, service: Service::default(), at, took: None, size: None }
    }
}

/// The price of a call, or why it has none.
#[derive(Debug, Clone)]
pub enum Quote<'c> {
    Priced(Price<'c>),
    Unpriced(Unpriced<'c>),
}

/// Why a call has no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Unpriced<'c> {
    /// It went in plaintext to a server on this host.
    SelfHosted,
    /// Neither the URL nor the model's name tells whose price list holds.
    UnknownProvider,
    /// The provider's list has no such model.
    UnknownModel { provider: &'c str },
}

impl fmt::Display for Unpriced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SelfHosted => f.write_str("a model server in plaintext on this host has no price list"),
            Self::UnknownProvider => f.write_str("no price list is for this host or this model"),
            Self::UnknownModel { provider } => write!(f, "{provider}'s price list has no such model"),
        }
    }
}

impl Catalogue {
    /// What a call costs.
    pub fn quote(&self, query: &Query<'_>, usage: &Usage, units: &Units) -> Quote<'_> {
        match self.rates(query) {
            Ok(rates) => Quote::Priced(rates.price(usage, units)),
            Err(why) => Quote::Unpriced(why),
        }
    }

    /// The prices that hold for a call, to ask for its cost as it grows.
    ///
    /// # Errors
    /// Why there are none.
    pub fn rates(&self, query: &Query<'_>) -> Result<Rates<'_>, Unpriced<'_>> {
        Ok(Rates::new(self, self.resolve(query)?, query))
    }
}
