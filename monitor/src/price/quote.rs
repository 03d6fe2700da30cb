//! What is asked of the catalogue, and what it answers.

use jiff::Timestamp;
use serde::Serialize;

use super::Money;
use crate::meter::{Units, Usage};

/// A call to be priced.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// Where it went, as `scheme://host[:port]/path`; decides the provider where a known one lives there.
    pub url: Option<&'a str>,
    /// The model that answered, else the one asked for.
    pub model: &'a str,
    pub usage: &'a Usage,
    pub units: &'a Units,
    /// What selects a variant of a price: `service_tier`, `processing`, `speed`, …
    pub context: &'a [(&'static str, &'a str)],
    pub at: Timestamp,
}

/// Which row of which catalogue an amount comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct PriceRow<'c> {
    /// Catalogue and version.
    pub catalogue: &'c str,
    pub provider: &'c str,
    pub model: &'c str,
}

/// A priced call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Price<'c> {
    /// For input tokens and everything else that goes in.
    pub input: Money,
    /// For output tokens and everything else that comes out.
    pub output: Money,
    /// For units that are neither: searches, requests.
    pub other: Money,
    pub row: PriceRow<'c>,
    /// What was used and has no price in this row: the amount is too low by it.
    pub unpriced_components: Vec<&'static str>,
}

impl Price<'_> {
    pub fn tokens(&self) -> Money {
        self.input + self.output
    }

    pub fn total(&self) -> Money {
        self.tokens() + self.other
    }
}

/// Why there is no price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unpriced {
    #[error("a model server in plaintext is self-hosted: its prices are not in the catalogue")]
    SelfHosted,
    #[error("the catalogue does not say who sells this model")]
    NoProvider,
    #[error("the catalogue has no such model of this provider")]
    NoModel,
    #[error("neither request nor answer names a model")]
    Unnamed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quote<'c> {
    Priced(Price<'c>),
    Unpriced(Unpriced),
}
