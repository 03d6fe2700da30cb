//! Holds and credits.

use super::*;

#[test]
fn nothing_is_lent_before_a_call_is_known() {
    let (mut accounts, account) = account(100);
    assert_eq!(accounts.balance(account), Balance::Keep);
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Go);
    assert_eq!(accounts.hold(HoldId(1)), Some(cents(1)));
    assert!(accounts.settle(HoldId(1), &charge(10)));
    assert_eq!(accounts.balance(account), Balance::Lend(9));
}

#[test]
fn a_held_request_waits_for_other_processes_but_never_for_its_own() {
    let (mut accounts, account) = account(25);
    spend(&mut accounts, account, 10);
    accounts.admit(HoldId(1), account, 7);
    assert_eq!(ask(&mut accounts, account, 2, 8), Answer::Wait(Wait::InFlight));
    assert!(matches!(ask(&mut accounts, account, 2, 7), Answer::Refuse(Reason::NextCallDoesNotFit { .. })));
    assert_eq!(actions(&accounts.take_decisions()), ["kill"]);
}

#[test]
fn what_its_own_calls_hold_too_much_is_given_to_the_next() {
    let (mut accounts, account) = account(100);
    for cost in [2, 2, 2, 40] {
        spend(&mut accounts, account, cost);
    }
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Go);
    assert_eq!(accounts.held(account), cents(40));
    // 54 are left, and a usual call costs 2.
    assert_eq!(ask(&mut accounts, account, 2, 7), Answer::Go);
    let usual = accounts.hold(HoldId(1)).expect("a hold");
    assert!((cents(2)..cents(2) + Money::from_pico_usd(cents(2).pico_usd() / 128)).contains(&usual), "{usual}");
    assert_eq!(accounts.hold(HoldId(2)), Some(cents(40)));
    assert_eq!(ask(&mut accounts, account, 3, 7), Answer::Go);
    assert_eq!(accounts.held(account), usual * 2 + cents(40));
}

#[test]
fn the_last_call_may_go_if_its_known_part_fits() {
    let (mut accounts, account) = account(25);
    spend(&mut accounts, account, 10);
    spend(&mut accounts, account, 10);
    assert_eq!(accounts.lendable(account), 0);
    assert_eq!(ask_for(&mut accounts, account, 2, 7, least(1)), Answer::Go);
    assert_eq!(accounts.hold(HoldId(2)), Some(cents(5)), "what is left");
    assert!(accounts.release(HoldId(2)));
    assert!(matches!(ask_for(&mut accounts, account, 3, 7, least(6)), Answer::Refuse(_)));
}

#[test]
fn what_a_call_in_flight_has_cost_already_is_spent() {
    let (mut accounts, account) = account(30);
    spend(&mut accounts, account, 8);
    accounts.admit(HoldId(1), account, 7);
    accounts.raise(HoldId(1), cents(16));
    // 8 spent, 16 used, and a usual call of 8 does not fit.
    assert!(matches!(ask(&mut accounts, account, 2, 7), Answer::Refuse(_)));
}

#[test]
fn a_call_is_cut_once_when_it_has_outgrown_the_account() {
    let (mut accounts, account) = account(30);
    spend(&mut accounts, account, 8);
    accounts.admit(HoldId(1), account, 7);
    accounts.raise(HoldId(1), cents(22));
    assert!(accounts.take_decisions().is_empty());
    accounts.raise(HoldId(1), cents(23));
    accounts.raise(HoldId(1), cents(24));
    let decisions = accounts.take_decisions();
    assert_eq!(actions(&decisions), ["cut the call"]);
    let Some(Decision::CutCall { hold: HoldId(1), reason, .. }) = decisions.first() else { panic!("{decisions:?}") };
    assert_eq!(
        reason.to_string(),
        "spent $0.08 and holds $0.23 of $0.3: a call that has cost $0.23 so far cannot be paid for any longer"
    );
}

#[test]
fn without_a_cap_nothing_is_ever_refused() {
    let mut accounts = accounts();
    let account = accounts.open(None, kill_at_cap()).expect("an account");
    assert!(spend(&mut accounts, account, 1_000_000).is_empty());
    assert_eq!(ask_for(&mut accounts, account, 1, 7, least(1_000_000)), Answer::Go);
    assert_eq!(accounts.lendable(account), super::super::UNLIMITED);
}

#[test]
fn expectation_falls_back_from_the_account_to_its_workflow_to_all() {
    let mut accounts = accounts();
    let workflow = accounts.open(None, kill_at_cap()).expect("an account");
    let [one, two] = [(); 2].map(|()| accounts.open(Some(workflow), kill_at_cap()).expect("an account"));
    let stranger = accounts.open(None, kill_at_cap()).expect("an account");
    assert_eq!(accounts.expected(one, Some("large")), cents(1), "the first hold");
    accounts.charge(one, &Charge { model: Some("large"), ..charge(30) });
    accounts.charge(two, &Charge { model: Some("small"), ..charge(3) });
    assert_eq!(accounts.expected(one, Some("large")), cents(30), "its own");
    assert_eq!(accounts.expected(two, Some("large")), cents(30), "its workflow's");
    assert_eq!(accounts.expected(two, Some("small")), cents(3));
    assert_eq!(accounts.expected(stranger, Some("small")), cents(3), "everybody's");
    assert_eq!(accounts.expected(stranger, None), cents(1));
    assert_eq!(accounts.expected(two, Some("never seen")), cents(3), "of whichever model");
}

#[test]
fn a_hold_is_at_least_the_input_and_a_floor() {
    let mut accounts = accounts();
    let account = accounts.open(None, Budget { floor: cents(2), ..kill_at_cap() }).expect("an account");
    assert_eq!(accounts.size_of(account, &least(5)), cents(7));
    assert_eq!(accounts.size_of(account, &Estimate::default()), cents(2));
}

#[test]
fn who_holds_for_the_worst_never_overshoots() {
    let mut accounts = accounts();
    let budget = Budget { holds: HoldPolicy::WorstCase { unknown: 3 }, ..kill_at_cap() }.with_total(Some(cents(20)));
    let account = accounts.open(None, budget).expect("an account");
    let worst = |worst| Estimate { worst: Some(cents(worst)), ..least(1) };
    assert_eq!(accounts.size_of(account, &Estimate::default()), cents(3), "three first holds");
    assert_eq!(ask_for(&mut accounts, account, 1, 7, worst(12)), Answer::Go);
    assert_eq!(ask_for(&mut accounts, account, 2, 8, worst(9)), Answer::Wait(Wait::InFlight));
    assert_eq!(ask_for(&mut accounts, account, 2, 8, worst(8)), Answer::Go);
    accounts.settle(HoldId(1), &charge(4));
    // A credit is worth the longest answer so far.
    assert_eq!(accounts.lendable(account), 0);
    accounts.settle(HoldId(2), &charge(2));
    assert_eq!(lend(&mut accounts, account), 1);
    assert_eq!(accounts.lent(account), cents(12));
    accounts.credit_taken(HoldId(3), account, 7);
    accounts.size(HoldId(3), &worst(15), noon());
    assert_eq!(accounts.hold(HoldId(3)), Some(cents(14)));
    assert_eq!(actions(&accounts.take_decisions()), ["cut the call"], "it may cost more than there is");
    accounts.release(HoldId(3));
    assert!(matches!(ask_for(&mut accounts, account, 4, 7, worst(15)), Answer::Refuse(_)));
}

#[test]
fn the_strictest_policy_of_the_limited_accounts_counts() {
    let mut accounts = accounts();
    let strict = Budget { holds: HoldPolicy::WorstCase { unknown: 2 }, ..kill_at_cap() };
    let off = Budget { holds: HoldPolicy::Off, ..kill_at_cap() };
    let limited = accounts.open(None, strict.clone().with_total(Some(cents(50)))).expect("an account");
    let below = accounts.open(Some(limited), off.clone()).expect("an account");
    let unlimited = accounts.open(None, strict).expect("an account");
    let free = accounts.open(Some(unlimited), off).expect("an account");
    let call = Estimate { worst: Some(cents(9)), ..Estimate::default() };
    assert_eq!(accounts.size_of(below, &call), cents(9));
    assert_eq!(accounts.size_of(free, &call), Money::ZERO);
}

#[test]
fn a_credit_becomes_the_hold_that_it_was_worth() {
    let (mut accounts, account) = account(100);
    spend(&mut accounts, account, 10);
    assert_eq!(lend(&mut accounts, account), 9);
    accounts.credit_taken(HoldId(1), account, 7);
    assert_eq!((accounts.lent(account), accounts.held(account)), (cents(80), cents(10)));
    // Calls have become dearer: what is out has to be worth more, so there is less of it.
    accounts.settle(HoldId(1), &charge(25));
    assert_eq!(accounts.balance(account), Balance::TakeBack(6));
    accounts.take_back(account, 6);
    assert_eq!(accounts.balance(account), Balance::Keep);
    accounts.lend(account, 0);
    assert_eq!(accounts.lent(account), cents(50));
    accounts.take_back(account, 100);
    assert_eq!((accounts.lent(account), accounts.credits(account)), (Money::ZERO, 0));
    accounts.credit_taken(HoldId(2), account, 7);
    assert_eq!(accounts.hold(HoldId(2)), Some(cents(25)), "a request that nobody lent to is on its way all the same");
}

#[test]
fn a_request_that_needs_what_is_lent_waits_for_it() {
    let (mut accounts, account) = account(100);
    spend(&mut accounts, account, 10);
    lend(&mut accounts, account);
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Wait(Wait::Lent(account)));
    assert_eq!(accounts.borrowers(account), [account]);
    accounts.take_back(account, 1);
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Go);
}

#[test]
fn a_process_leaves_no_hold_behind() {
    let (mut accounts, account) = account(100);
    for id in 0..4 {
        accounts.admit(HoldId(id), account, 7 + u32::from(id == 3));
    }
    assert_eq!(accounts.release_process(7), 3);
    assert_eq!(accounts.release_process(7), 0);
    assert_eq!((accounts.held(account), accounts.calls_in_flight(account)), (cents(1), 1));
    assert!(!accounts.release(HoldId(0)));
    assert!(!accounts.settle(HoldId(0), &charge(5)));
    assert_eq!(accounts.spent(account), Money::ZERO);
}

#[test]
fn absurd_amounts_do_not_wrap() {
    let (mut accounts, account) = account(100);
    for id in 0..3 {
        accounts.admit(HoldId(id), account, 7);
        accounts.raise(HoldId(id), Money::MAX);
    }
    accounts.charge(account, &Charge { cost: Money::MAX, ..charge(0) });
    accounts.charge(account, &charge(-500));
    (0..3).for_each(|id| assert!(accounts.release(HoldId(id))));
    assert_eq!(accounts.held(account), Money::ZERO);
    assert!(accounts.spent(account) > cents(100));
}
