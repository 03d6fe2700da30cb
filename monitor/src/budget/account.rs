//! One account with one cap.

use std::collections::BTreeMap;

use super::history::History;
use crate::price::Money;

/// Shares of the cap, in percent, at which a warning is due.
pub const PERCENT_THRESHOLDS: [u8; 3] = [50, 80, 95];

/// Most credits that are lent at once, however much is left: what is lent is not there for anybody else.
const MOST_LENT: u64 = 64;

/// Limits of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// `None`: metered only.
    pub cap: Option<Money>,
    /// Hold for a call of which nothing is known: neither its own size nor what calls of this account cost.
    pub first_hold: Money,
}

/// A hold, unique within the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HoldId(pub u64);

/// Why an account stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("spent ${spent} of ${cap}: the cap is reached")]
    CapReached { spent: Money, cap: Money },
    #[error("spent ${spent} and holds ${held} of ${cap}: the next call, at least ${needs}, does not fit")]
    NextCallDoesNotFit { spent: Money, held: Money, needs: Money, cap: Money },
}

/// What follows from a change of the account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Warn { percent: u8, spent: Money, cap: Money },
    Kill(Reason),
}

/// What becomes of a request that was held because there was no credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It may go; its hold is open.
    Go,
    /// Not now: calls in flight hold what it needs, and may turn out cheaper.
    Wait,
    /// It cannot be paid for.
    Refuse(Reason),
}

#[derive(Debug, Clone, Copy)]
struct Hold {
    amount: Money,
    /// What the call has cost by now.
    running: Money,
    /// Process whose call it is.
    pid: u32,
}

/// Money of one task.
#[derive(Debug, Clone)]
pub struct Account {
    budget: Budget,
    spent: Money,
    held: Money,
    holds: BTreeMap<HoldId, Hold>,
    history: History,
    /// Thresholds already warned of.
    warned: usize,
    stopped: Option<Reason>,
}

impl Account {
    /// An account that has spent `spent` before, as the ledger knows it.
    pub fn new(budget: Budget, spent: Money) -> Self {
        let mut account = Self {
            budget,
            spent,
            held: Money::ZERO,
            holds: BTreeMap::new(),
            history: History::default(),
            warned: 0,
            stopped: None,
        };
        // What was passed before this start was said then.
        account.warned = PERCENT_THRESHOLDS.iter().filter(|&&percent| account.is_past(percent)).count();
        account
    }

    /// Takes in what calls cost before.
    pub fn learn(&mut self, costs: impl IntoIterator<Item = Money>) {
        costs.into_iter().for_each(|cost| self.history.record(cost));
    }

    /// Another cap from now on.
    pub fn set_cap(&mut self, cap: Option<Money>) {
        self.budget.cap = cap;
        self.warned = PERCENT_THRESHOLDS.iter().filter(|&&percent| self.is_past(percent)).count();
    }

    pub fn budget(&self) -> Budget {
        self.budget
    }

    pub fn spent(&self) -> Money {
        self.spent
    }

    pub fn held(&self) -> Money {
        self.held
    }

    pub fn stopped(&self) -> Option<Reason> {
        self.stopped
    }

    pub fn calls_in_flight(&self) -> usize {
        self.holds.len()
    }

    /// What a call of which nothing is known is expected to cost: what 99 of 100 calls before did not exceed.
    pub fn expected(&self) -> Money {
        if self.history.is_empty() { self.budget.first_hold } else { self.history.p99().max(Money::from_pico_usd(1)) }
    }

    /// How many requests may start without asking. None before the first call is settled: then nobody knows what one costs.
    pub fn lendable(&self) -> u64 {
        let Some(cap) = self.budget.cap else { return u64::from(u32::MAX) };
        if self.stopped.is_some() || self.history.is_empty() {
            return 0;
        }
        let left = cap.pico_usd() - self.spent.pico_usd() - self.held.pico_usd();
        let credits = left.max(0) / self.expected().pico_usd();
        u64::try_from(credits).unwrap_or(MOST_LENT).min(MOST_LENT)
    }

    /// A request started on a credit (or got past the gate): its hold was paid for when the credit was lent.
    pub fn start(&mut self, id: HoldId, pid: u32) {
        self.open(id, pid, self.expected());
    }

    /// May a held request of process `pid`, which by its own bytes costs at least `least`, start? Opens its hold if so.
    ///
    /// A process that is held has all its threads stopped, also those that read the answers of its other calls. Waiting for
    /// these would be waiting for ever, so they are counted at what a call usually costs, not at what it might.
    pub fn ask(&mut self, id: HoldId, pid: u32, least: Option<Money>) -> Answer {
        let Some(cap) = self.budget.cap else {
            self.start(id, pid);
            return Answer::Go;
        };
        if let Some(reason) = self.stopped {
            return Answer::Refuse(reason);
        }
        let expected = self.expected().max(least.unwrap_or(Money::ZERO));
        if self.spent + self.held + expected <= cap {
            self.open(id, pid, expected);
            return Answer::Go;
        }
        if self.holds.values().any(|hold| hold.pid != pid) {
            return Answer::Wait;
        }
        let usual = if self.history.is_empty() { self.budget.first_hold } else { self.history.median() };
        let in_flight: Money = self.holds.values().map(|hold| hold.amount.min(usual).max(hold.running)).sum();
        // With nothing in flight the last call may overshoot by less than itself; it must at least be payable as far as it is known.
        let needs = if self.holds.is_empty() {
            least.unwrap_or(Money::from_pico_usd(1))
        } else {
            usual.max(least.unwrap_or(Money::ZERO))
        };
        if self.spent + in_flight + needs <= cap {
            self.open(id, pid, expected);
            return Answer::Go;
        }
        let reason = Reason::NextCallDoesNotFit { spent: self.spent, held: self.held, needs, cap };
        self.stopped = Some(reason);
        Answer::Refuse(reason)
    }

    /// The call has used this much by now: its hold is never smaller.
    pub fn raise(&mut self, id: HoldId, running: Money) {
        let Some(hold) = self.holds.get_mut(&id) else { return };
        hold.running = running;
        if hold.amount < running {
            self.held = self.held + running - hold.amount;
            hold.amount = running;
        }
    }

    /// What is held for a call in flight.
    pub fn hold(&self, id: HoldId) -> Option<Money> {
        self.holds.get(&id).map(|hold| hold.amount)
    }

    /// The call ended and cost this much. Its hold, if it had one, ends.
    pub fn charge(&mut self, id: HoldId, cost: Money) -> Vec<Decision> {
        self.release(id);
        self.spent += cost;
        self.history.record(cost);
        self.decide()
    }

    /// The request turned out to be free, or never left.
    pub fn release(&mut self, id: HoldId) {
        if let Some(hold) = self.holds.remove(&id) {
            self.held -= hold.amount;
        }
    }

    fn open(&mut self, id: HoldId, pid: u32, amount: Money) {
        if let Some(before) = self.holds.insert(id, Hold { amount, running: Money::ZERO, pid }) {
            self.held -= before.amount;
        }
        self.held += amount;
    }

    fn is_past(&self, percent: u8) -> bool {
        self.budget.cap.is_some_and(|cap| self.spent.pico_usd() * 100 >= cap.pico_usd() * i128::from(percent))
    }

    fn decide(&mut self) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let Some(cap) = self.budget.cap else { return decisions };
        while let Some(&percent) = PERCENT_THRESHOLDS.get(self.warned).filter(|&&percent| self.is_past(percent)) {
            self.warned += 1;
            decisions.push(Decision::Warn { percent, spent: self.spent, cap });
        }
        if self.spent >= cap && self.stopped.is_none() {
            let reason = Reason::CapReached { spent: self.spent, cap };
            self.stopped = Some(reason);
            decisions.push(Decision::Kill(reason));
        }
        decisions
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Account, Answer, Budget, Decision, HoldId, Reason};
    use crate::price::Money;

    fn cents(cents: i128) -> Money {
        Money::from_pico_usd(cents * 10_000_000_000)
    }

    fn account(cap: i128) -> Account {
        Account::new(Budget { cap: Some(cents(cap)), first_hold: cents(1) }, Money::ZERO)
    }

    #[test]
    fn nothing_is_lent_before_a_call_is_known() {
        let mut account = account(100);
        assert_eq!(account.lendable(), 0);
        assert_eq!(account.ask(HoldId(1), 7, None), Answer::Go);
        account.charge(HoldId(1), cents(10));
        assert_eq!(account.lendable(), 9);
    }

    #[test]
    fn warnings_come_once_and_the_kill_last() {
        let mut account = account(100);
        let all: Vec<_> = (0..10).flat_map(|n| account.charge(HoldId(n), cents(10))).collect();
        let percents: Vec<_> = all
            .iter()
            .filter_map(|d| if let Decision::Warn { percent, .. } = d { Some(*percent) } else { None })
            .collect();
        assert_eq!(percents, [50, 80, 95]);
        assert_eq!(all.last(), Some(&Decision::Kill(Reason::CapReached { spent: cents(100), cap: cents(100) })));
        assert_eq!(all.len(), 4);
        assert_eq!(account.lendable(), 0);
    }

    #[test]
    fn a_held_request_waits_for_other_processes_but_never_for_its_own() {
        let mut account = account(25);
        account.charge(HoldId(0), cents(10));
        account.start(HoldId(1), 7);
        assert_eq!(account.ask(HoldId(2), 8, None), Answer::Wait);
        assert!(matches!(account.ask(HoldId(2), 7, None), Answer::Refuse(Reason::NextCallDoesNotFit { .. })));
    }

    #[test]
    fn the_last_call_may_go_if_its_known_part_fits() {
        let mut account = account(25);
        account.charge(HoldId(0), cents(10));
        account.charge(HoldId(1), cents(10));
        assert_eq!(account.lendable(), 0);
        assert_eq!(account.ask(HoldId(2), 7, Some(cents(1))), Answer::Go);
        account.release(HoldId(2));
        assert!(matches!(account.ask(HoldId(3), 7, Some(cents(6))), Answer::Refuse(_)));
    }

    #[test]
    fn what_a_call_in_flight_has_cost_already_is_spent() {
        let mut account = account(30);
        account.charge(HoldId(0), cents(8));
        account.start(HoldId(1), 7);
        account.raise(HoldId(1), cents(16));
        // 8 spent, 16 used, and a usual call of 8 does not fit.
        assert!(matches!(account.ask(HoldId(2), 7, None), Answer::Refuse(_)));
    }

    #[test]
    fn without_a_cap_nothing_is_ever_refused() {
        let mut account = Account::new(Budget { cap: None, first_hold: cents(1) }, Money::ZERO);
        assert!(account.charge(HoldId(0), cents(1_000_000)).is_empty());
        assert_eq!(account.ask(HoldId(1), 7, Some(cents(1_000_000))), Answer::Go);
    }

    #[test]
    fn what_was_spent_before_a_restart_counts() {
        let account = Account::new(Budget { cap: Some(cents(100)), first_hold: cents(1) }, cents(90));
        assert_eq!(account.warned, 2);
        assert_eq!(account.spent(), cents(90));
    }

    proptest! {
        /// Credits taken in any order never commit more than the cap at the time they were lent.
        #[test]
        fn lent_credits_are_paid_for(cap in 1_i128..500, costs in prop::collection::vec(1_i128..20, 1..60), flights in 1_u64..8) {
            let mut account = account(cap);
            let mut next = 0;
            for cost in costs {
                let credits = account.lendable().min(flights);
                for n in 0..credits {
                    account.start(HoldId(next + n), 1);
                    prop_assert!(account.spent() + account.held() <= cents(cap));
                }
                let allowed = if credits == 0 { u64::from(account.ask(HoldId(next), 1, None) == Answer::Go) } else { credits };
                for n in 0..allowed {
                    account.charge(HoldId(next + n), cents(cost));
                }
                next += allowed;
                prop_assert_eq!(account.held(), Money::ZERO);
                prop_assert_eq!(account.calls_in_flight(), 0);
                if account.stopped().is_some() {
                    prop_assert_eq!(account.lendable(), 0);
                    break;
                }
            }
        }
    }
}
