//! Credits: requests that may start without asking, and the money that is set aside for them.
//!
//! Lending is done here before the gate has the credits, and taking back after the gate has given them up: what the gate may let go is
//! always paid for.
//!
//! **How accounts share.** Of what an account has neither spent nor held, each active account below it may have an equal part as credits,
//! and never more than [`MOST_LENT`] of them. So an idle one never has what all others need. When less than one credit for each is left,
//! nothing is lent: every request asks, and the first one gets it.

use super::{
    accounts::{AccountId, Accounts, sane},
    admission::pace,
    hold::{HoldId, HoldPolicy},
    limits::Count,
    node::{Escrow, Node},
};
use crate::price::Money;

/// Most credits that are lent at once, however much is left: what is lent is not there for anybody else.
pub const MOST_LENT: u64 = 64;
/// Credits where nothing is limited.
pub const UNLIMITED: u64 = u32::MAX as u64;

/// What has to be done for a gate to have as many credits as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    Keep,
    /// So many more: [`Accounts::lend`] first, then the gate.
    Lend(u64),
    /// So many less: the gate first, then [`Accounts::take_back`] with the number that it still had.
    TakeBack(u64),
}

impl Accounts {
    /// How many credits the account's gate should have by now, those included whose requests have started and were not seen yet. None
    /// before any call is known: then nobody knows what one costs.
    pub fn lendable(&self, account: AccountId) -> u64 {
        let now = self.calendar.now();
        let mut target = None;
        let size = self.credit_size(account);
        for (_, node) in self.path(account) {
            let is_stopped = node.standing().is_some_and(|(action, _)| action.stops());
            if is_stopped || pace(node).is_some() || node.budget.rules.look_at_all() {
                return 0;
            }
            let sharers = node.running.max(1);
            let by_money = node.free(&self.calendar).map(|free| {
                let part = Money::from_pico_usd(free.pico_usd().max(0) / i128::from(sharers));
                size.map_or(0, |size| how_many(part, size))
            });
            let requests = node.count_left(Count::Requests, 0, now).map(|left| left / sharers);
            let calls = node.count_left(Count::ModelCalls, node.in_flight, now).map(|left| left / sharers);
            let tokens = node.calls_left(Count::Tokens, node.in_flight, now).map(|left| left / sharers);
            let tools = node.tools_left(node.in_flight, now).map(|left| left / sharers);
            target = [target, by_money, requests, calls, tokens, tools].into_iter().flatten().min();
        }
        target.map_or(UNLIMITED, |target| target.min(MOST_LENT))
    }

    /// Whether each request has to be looked at whole before it may go: by rules, for the worst case, or because nobody knows yet what a call costs.
    pub fn looks(&self, account: AccountId) -> bool {
        let has_rules = self.path(account).any(|(_, node)| node.budget.rules.look_at_all());
        let is_capped = || self.path(account).any(|(_, node)| node.tightest(&self.calendar).is_some());
        let is_strict = || matches!(self.policy(account), HoldPolicy::WorstCase { .. });
        has_rules || is_capped() && (is_strict() || self.credit_size(account).is_none())
    }

    /// What a credit lent now is worth.
    pub(super) fn credit_size(&self, account: AccountId) -> Option<Money> {
        let node = self.node(account)?;
        let expected = self.expected_of_any(account);
        let size = match self.policy(account) {
            HoldPolicy::Off => return Some(Money::ZERO),
            HoldPolicy::Expected => expected?,
            // Nobody knows how long the next answer may be: as long as the longest so far.
            HoldPolicy::WorstCase { unknown } => {
                let worst = self.path(account).map(|(_, node)| node.worst).find(|worst| !worst.is_zero());
                worst.or_else(|| Some(expected? * u64::from(unknown)))?
            }
        };
        Some(sane(size.max(node.budget.floor)))
    }

    /// Credits of this account's own gate.
    pub fn credits(&self, account: AccountId) -> u64 {
        self.node(account).map_or(0, |node| node.own.credits)
    }

    pub fn balance(&self, account: AccountId) -> Balance {
        let Some(node) = self.node(account) else { return Balance::Keep };
        let (own, target) = (node.own, self.lendable(account));
        // When calls have become dearer, the credits that are out have to be worth more, or become fewer.
        let size = self.credit_size(account).unwrap_or(own.size);
        let lacking = (size - own.size) * own.credits - self.room(account).unwrap_or(Money::MAX).max(Money::ZERO);
        let too_many = if lacking > Money::ZERO && !size.is_zero() {
            u64::try_from((lacking.pico_usd() - 1) / size.pico_usd() + 1).unwrap_or(u64::MAX)
        } else {
            0
        };
        match own.credits.saturating_sub(target).max(too_many.min(own.credits)) {
            0 if target > own.credits => Balance::Lend(target - own.credits),
            0 => Balance::Keep,
            less => Balance::TakeBack(less),
        }
    }

    /// What is left for holds and credits on the whole path; `None` where nothing is limited.
    fn room(&self, account: AccountId) -> Option<Money> {
        self.path(account).filter_map(|(_, node)| node.room(&self.calendar)).min()
    }

    /// Sets money aside for up to `credits` more, and makes all that are out worth what a call is expected to cost now. Returns how many
    /// the gate may be given.
    pub fn lend(&mut self, account: AccountId, credits: u64) -> u64 {
        let Some(own) = self.node(account).map(|node| node.own) else { return 0 };
        let more = credits.min(self.lendable(account).saturating_sub(own.credits));
        let first_hold = self.node(account).map(|node| node.budget.first_hold);
        let Some(size) = self.credit_size(account).or(first_hold) else { return 0 };
        let growth = (size - own.size) * own.credits;
        let mut more = more;
        if let Some(room) = self.room(account) {
            if growth > room.max(Money::ZERO) {
                return 0;
            }
            more = more.min(how_many(room - growth, size));
        }
        let now = self.calendar.now();
        for (_, node) in self.path(account) {
            let requests = node.count_left(Count::Requests, node.credits, now);
            let calls = node.count_left(Count::ModelCalls, node.in_flight + node.credits, now);
            let tokens = node.calls_left(Count::Tokens, node.in_flight + node.credits, now);
            let tools = node.tools_left(node.in_flight + node.credits, now);
            more = [requests, calls, tokens, tools].into_iter().flatten().fold(more, u64::min);
        }
        self.set_escrow(account, Escrow { credits: own.credits + more, size });
        more
    }

    /// The gate has given up so many credits. Returns how many of them were out.
    pub fn take_back(&mut self, account: AccountId, credits: u64) -> u64 {
        let Some(own) = self.node(account).map(|node| node.own) else { return 0 };
        let less = credits.min(own.credits);
        self.set_escrow(account, Escrow { credits: own.credits - less, ..own });
        less
    }

    /// A request of the account has started on a credit: what the credit was worth is its hold. One that no credit is out for is
    /// admitted all the same: it is on its way.
    pub fn credit_taken(&mut self, id: HoldId, account: AccountId, pid: u32) {
        let Some(own) = self.node(account).map(|node| node.own).filter(|own| own.credits > 0) else {
            return self.admit(id, account, pid);
        };
        self.set_escrow(account, Escrow { credits: own.credits - 1, ..own });
        self.start(id, account, pid, own.size);
    }

    fn set_escrow(&mut self, account: AccountId, escrow: Escrow) {
        let Some(node) = self.node_mut(account) else { return };
        let before = std::mem::replace(&mut node.own, escrow);
        self.on_path(account, |node: &mut Node, _| {
            node.lent = node.lent - before.money() + escrow.money();
            node.credits = node.credits - before.credits + escrow.credits;
        });
    }

    /// Accounts at and below this one that have credits out, those with the most money first.
    pub fn borrowers(&self, account: AccountId) -> Vec<AccountId> {
        let mut borrowers: Vec<(Money, AccountId)> = self
            .all()
            .filter(|(_, node)| node.own.credits > 0)
            .filter(|(id, _)| self.path(*id).any(|(above, _)| above == account))
            .map(|(id, node)| (node.own.money(), id))
            .collect();
        borrowers.sort_unstable_by(|a, b| b.cmp(a));
        borrowers.into_iter().map(|(_, id)| id).collect()
    }
}

/// How many credits of a size fit. Any number of such as are worth nothing, as long as anything is left.
fn how_many(money: Money, size: Money) -> u64 {
    if money <= Money::ZERO {
        return 0;
    }
    if size.is_zero() {
        return UNLIMITED;
    }
    u64::try_from(money.pico_usd() / size.pico_usd()).unwrap_or(UNLIMITED)
}
