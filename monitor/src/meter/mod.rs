//! Exchanges in, usage out.
#![forbid(unsafe_code)]

mod usage;

pub use usage::{Basis, Bucket, TokenCount, Units, Usage};
