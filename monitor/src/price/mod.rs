//! Usage in, money out.
//!
//! `price` knows what a model costs, when and where: the catalogue of the `genai-prices` project, embedded as data by `cargo xtask prices`.
//!
//! **Invariant:** pure; integer arithmetic only, exact until the one rounding at the end; a model or a unit that has no price is
//! [`Quote::Unpriced`] or named in [`Price::unpriced_components`], never zero.
#![forbid(unsafe_code)]

mod book;
mod catalogue;
mod matcher;
mod money;
mod quote;

pub use catalogue::Catalogue;
pub use money::{InvalidMoney, Money};
pub use quote::{Price, PriceRow, Query, Quote, Unpriced};
