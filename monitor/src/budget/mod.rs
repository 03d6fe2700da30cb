//! What a task may spend: caps, holds and the credits that are lent on them.
//!
//! In: charges and requests that want to start. Out: [`Decision`]s, and how many credits the gate may have.
//!
//! **Invariant:** pure and deterministic. At every moment `spent + held + lent × expected ≤ cap`, where `lent` is what [`Account::lendable`]
//! allowed: a request that starts without asking was paid for before. Every hold ends exactly once, by a charge or a release.
#![forbid(unsafe_code)]

mod account;
mod history;

pub use account::{Account, Answer, Budget, Decision, HoldId, PERCENT_THRESHOLDS, Reason};
