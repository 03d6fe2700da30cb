//! What the accounts promise, one by one.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{
    AccountError, AccountId, Accounts, Action, Answer, Approval, Ask, Balance, Budget, Charge, Consent, Count,
    Decision, Estimate, HoldId, HoldPolicy, Ladder, Limits, MoneyLimits, Names, Onto, Reason, Rules, Rung, Wait,
    Window,
};
use crate::price::Money;

mod enforcement;
mod holds;
mod tree;

const SECOND: SignedDuration = SignedDuration::from_secs(1);

fn cents(cents: i128) -> Money {
    Money::from_pico_usd(cents * 10_000_000_000)
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn noon() -> Timestamp {
    at("2026-11-25T12:00:00Z")
}

fn kill_at_cap() -> Budget {
    let ladder = Ladder::kill_at_cap(&[50, 80, 95]).expect("a ladder");
    Budget { ladder, ..Budget::unlimited(cents(1)) }
}

fn accounts() -> Accounts {
    Accounts::new(TimeZone::UTC, noon())
}

/// One account that has this cap in total.
fn account(cap: i128) -> (Accounts, AccountId) {
    let mut accounts = accounts();
    let account = accounts.open(None, kill_at_cap().with_total(Some(cents(cap)))).expect("an account");
    accounts.activate(account, noon());
    (accounts, account)
}

fn charge(cost: i128) -> Charge<'static> {
    Charge {
        cost: cents(cost),
        unpriced: Money::ZERO,
        model: None,
        tokens: 0,
        is_typical: true,
        is_tool: false,
        at: noon(),
    }
}

fn spend(accounts: &mut Accounts, account: AccountId, cost: i128) -> Vec<Decision> {
    accounts.charge(account, &charge(cost));
    accounts.take_decisions()
}

fn ask_for(accounts: &mut Accounts, account: AccountId, id: u64, pid: u32, call: Estimate<'_>) -> Answer {
    accounts.ask(&Ask { id: HoldId(id), account, pid, call, consent: Consent::None }, noon())
}

fn ask(accounts: &mut Accounts, account: AccountId, id: u64, pid: u32) -> Answer {
    ask_for(accounts, account, id, pid, Estimate::default())
}

fn least(cost: i128) -> Estimate<'static> {
    Estimate { least: Some(cents(cost)), ..Estimate::default() }
}

fn actions(decisions: &[Decision]) -> Vec<&'static str> {
    decisions
        .iter()
        .map(|decision| match decision {
            Decision::Warn { .. } => "warn",
            Decision::Act { action, .. } => action.name(),
            Decision::Lift { remains: None, .. } => "lift",
            Decision::Lift { remains: Some(_), .. } => "lift a part",
            Decision::CutCall { .. } => "cut the call",
        })
        .collect()
}

/// Gives the gate as many credits as it may have.
fn lend(accounts: &mut Accounts, account: AccountId) -> u64 {
    match accounts.balance(account) {
        Balance::Lend(credits) => accounts.lend(account, credits),
        _ => 0,
    }
}
