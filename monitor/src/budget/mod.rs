//! What accounts may spend: limits, holds, the credits that are lent on them, and what is done as a limit comes nearer.
//!
//! In: charges, requests that want to start, and time. Out: [`Decision`]s, and how many credits each gate may have.
//!
//! **Invariant:** pure and deterministic. No operation takes `spent + held + lent` of an account, in any window, from within its cap to
//! beyond it, but that of a call that costs more than its hold, which is cut in mid-stream. Every hold ends exactly once: it is settled, or
//! released. Nothing loosens itself: time that goes back opens no window again, and only a person adds to a cap.
#![forbid(unsafe_code)]

mod accounts;
mod admission;
mod calendar;
mod escrow;
mod history;
mod hold;
mod ladder;
mod limits;
mod node;
mod reason;
mod rules;
mod settings;
mod signals;

#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests;

pub use accounts::{AccountError, AccountId, Accounts, Approval, Onto};
pub use calendar::{Period, Window};
pub use escrow::{Balance, MOST_LENT, UNLIMITED};
pub use history::History;
pub use hold::{Answer, Ask, Charge, Consent, Estimate, HoldId, HoldPolicy, Wait};
pub use ladder::{Action, InvalidLadder, Ladder, Rung, Trigger, WARN_PERCENTS};
pub use limits::{Budget, Count, Limit, Limits, MoneyLimits};
pub use reason::{Decision, Reason, Spent};
pub use rules::{ApprovalRule, InvalidPattern, Names, Pattern, Rules, Ruling};
pub use settings::{Approve, Holds, InvalidBudget, InvalidRung, Settings, UncoveredPolicy};
pub use signals::{Burn, Incident, InvalidResponse, Response, SignalRules, SignalSettings, Signals, Trouble};
