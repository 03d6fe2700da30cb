//! Money reserved for a call in flight, and what is said to one that wants to start.

use jiff::Timestamp;

use super::{accounts::AccountId, reason::Reason};
use crate::price::Money;

/// A hold, unique within all accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(pub u64);

/// How large a hold is, from the loosest to the strictest. Of the policies of an account and of the limited ones above it, the strictest
/// counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldPolicy {
    /// Nothing until it has cost something: a burst may overshoot.
    Off,
    /// What 99 of 100 calls like it did not exceed.
    Expected,
    /// What the call costs if its answer is as long as it may be. Where that is not known, `unknown` times what is expected.
    WorstCase { unknown: u32 },
}

/// What is known of a call before it starts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Estimate<'a> {
    pub model: Option<&'a str>,
    pub tool: Option<&'a str>,
    /// What its input costs.
    pub least: Option<Money>,
    /// What it costs with an answer of a usual length, whatever calls cost so far.
    pub likely: Option<Money>,
    /// What it costs if its answer is as long as `max_tokens` lets it be.
    pub worst: Option<Money>,
}

/// Whether a person has said yes to this call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Consent {
    #[default]
    None,
    Given,
}

/// A request that the gate holds wants to start.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    pub id: HoldId,
    pub account: AccountId,
    /// Process that makes it.
    pub pid: u32,
    pub call: Estimate<'a>,
    pub consent: Consent,
}

/// What becomes of a request that was held because there was no credit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It may go; its hold is open.
    Go,
    Wait(Wait),
    /// It cannot be paid for, or is not allowed.
    Refuse(Reason),
}

/// What a held request waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wait {
    /// Calls in flight hold what it needs, and may turn out cheaper.
    InFlight,
    /// Credits are lent that it needs: [`super::Accounts::borrowers`] of this account have to give some back.
    Lent(AccountId),
    /// The account is throttled until then.
    Paced(Timestamp),
    /// The account is paused.
    Paused,
    /// A person has to say yes to it.
    Approval(Reason),
}

/// What a call came to.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    /// What counts toward limits.
    pub cost: Money,
    /// The part of it that is a ceiling because no price is known: nobody is said to have spent that.
    pub unpriced: Money,
    pub model: Option<&'a str>,
    pub tokens: u64,
    /// Others like it may be expected to cost as much: it was not broken off.
    pub is_typical: bool,
    /// It is of a tool, which `model` is the name of then.
    pub is_tool: bool,
    /// When it ended.
    pub at: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) struct Hold {
    pub account: AccountId,
    pub amount: Money,
    /// What the call has cost by now.
    pub running: Money,
    pub pid: u32,
    /// It was said that the account cannot pay for it any longer.
    pub is_cut: bool,
}

impl Hold {
    /// What it is counted at by a request that must not wait for it: as much as a call usually costs, or has cost by now.
    pub fn usual(&self, usual: Money) -> Money {
        self.amount.min(usual).max(self.running)
    }
}
