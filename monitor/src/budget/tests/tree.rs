//! Tenants, workflows, tasks and sub-tasks.

use super::*;

/// A tenant with a cap, and tasks without.
fn tenant(cap: i128, tasks: usize) -> (Accounts, AccountId, Vec<AccountId>) {
    let mut accounts = accounts();
    let tenant = accounts.open(None, kill_at_cap().with_total(Some(cents(cap)))).expect("an account");
    let tasks = (0..tasks).map(|_| accounts.open(Some(tenant), kill_at_cap()).expect("an account")).collect::<Vec<_>>();
    tasks.iter().for_each(|&task| accounts.activate(task, noon()));
    (accounts, tenant, tasks)
}

#[test]
fn a_sub_task_gets_at_most_what_is_left_above_it() {
    let mut accounts = accounts();
    let task = accounts.open(None, kill_at_cap().with_total(Some(cents(20)))).expect("an account");
    let sub = accounts.open(Some(task), kill_at_cap().with_total(Some(cents(1000)))).expect("an account");
    spend(&mut accounts, task, 10);
    spend(&mut accounts, sub, 4);
    assert_eq!((accounts.spent(task), accounts.spent(sub)), (cents(14), cents(4)));
    assert_eq!(accounts.lendable(sub), 1);
    let Answer::Refuse(reason) = ask_for(&mut accounts, sub, 1, 7, least(7)) else { panic!("it is too dear") };
    assert_eq!(reason.to_string(), "spent $0.14 and holds $0 of $0.2: the next call, at least $0.07, does not fit");
    // The sub-task asked for too much; the task may still do with what is left.
    assert_eq!(accounts.standing(sub).map(|(account, action, _)| (account, action)), Some((sub, Action::Kill)));
    assert_eq!(accounts.standing(task), None);
    assert_eq!(ask_for(&mut accounts, task, 2, 8, least(6)), Answer::Go);
}

#[test]
fn a_cap_above_stops_everything_below() {
    let (mut accounts, tenant, tasks) = tenant(20, 2);
    let decisions = spend(&mut accounts, tasks[0], 20);
    assert_eq!(actions(&decisions), ["warn", "warn", "warn", "kill"]);
    assert!(decisions.iter().all(|decision| decision.account() == tenant));
    assert!(matches!(ask(&mut accounts, tasks[1], 1, 7), Answer::Refuse(Reason::CapReached { .. })));
    assert_eq!(accounts.lendable(tasks[1]), 0);
    assert_eq!(accounts.standing(tasks[1]).map(|(account, action, _)| (account, action)), Some((tenant, Action::Kill)));
}

#[test]
fn tasks_share_what_is_left_equally_and_nothing_is_lent_of_less_than_one_each() {
    let (mut accounts, tenant, tasks) = tenant(100, 4);
    spend(&mut accounts, tasks[0], 5);
    // 95 for four tasks: 23 each, which is four calls.
    assert_eq!(tasks.iter().map(|&task| lend(&mut accounts, task)).collect::<Vec<_>>(), [4; 4]);
    assert_eq!(accounts.lent(tenant), cents(80));
    (0..3).for_each(|_| drop(spend(&mut accounts, tasks[0], 5)));
    assert!(tasks.iter().all(|&task| accounts.balance(task) == Balance::Keep), "80 are left, 20 each");
    spend(&mut accounts, tasks[0], 1);
    assert!(tasks.iter().all(|&task| accounts.balance(task) == Balance::TakeBack(1)), "79 are left");
    // Less than a call for each.
    tasks.iter().for_each(|&task| {
        accounts.take_back(task, 4);
    });
    (0..12).for_each(|_| drop(spend(&mut accounts, tasks[0], 5)));
    assert!(tasks.iter().all(|&task| accounts.lendable(task) == 0), "19 are left");
    assert_eq!(ask(&mut accounts, tasks[1], 1, 7), Answer::Go);
}

#[test]
fn credits_of_all_tasks_are_paid_for_by_the_account_above() {
    let (mut accounts, tenant, tasks) = tenant(100, 10);
    spend(&mut accounts, tasks[0], 5);
    for (&task, id) in tasks.iter().zip(100..) {
        lend(&mut accounts, task);
        if accounts.credits(task) > 0 {
            accounts.credit_taken(HoldId(id), task, 7);
        }
        assert!(accounts.spent(tenant) + accounts.held(tenant) + accounts.lent(tenant) <= cents(100));
    }
    assert_eq!(accounts.calls_in_flight(tenant), 10);
    // Somebody who needs more than is left is told where it is.
    tasks.iter().for_each(|&task| {
        lend(&mut accounts, task);
    });
    for id in 100..110 {
        accounts.release(HoldId(id));
    }
    tasks.iter().for_each(|&task| {
        lend(&mut accounts, task);
    });
    assert_eq!(ask_for(&mut accounts, tasks[3], 1, 9, least(90)), Answer::Wait(Wait::Lent(tenant)));
    for task in accounts.borrowers(tenant) {
        accounts.take_back(task, u64::MAX);
    }
    assert_eq!(ask_for(&mut accounts, tasks[3], 1, 9, least(90)), Answer::Go);
}

#[test]
fn credits_that_are_worth_too_little_become_fewer() {
    let (mut accounts, tenant, tasks) = tenant(10_000, 2);
    for task in &tasks {
        spend(&mut accounts, *task, 500);
    }
    assert_eq!([0, 1].map(|n| lend(&mut accounts, tasks[n])), [9, 9]);
    accounts.take_back(tasks[0], 5);
    spend(&mut accounts, tenant, 2000);
    spend(&mut accounts, tasks[0], 530);
    // 64.70 are left, of which the other task has not given back its 45 yet: a part of 32.35 would do for six calls of 5.30, but now there
    // is nothing left to make four credits of 5 worth as much.
    assert_eq!(accounts.balance(tasks[0]), Balance::TakeBack(1));
    assert_eq!((accounts.lend(tasks[0], 1), accounts.lent(tasks[0])), (0, cents(2000)));
    accounts.take_back(tasks[0], 1);
    assert_eq!(accounts.lend(tasks[0], 0), 0);
    assert_eq!(accounts.lent(tasks[0]), cents(3 * 530));
}

#[test]
fn an_account_that_is_closed_gives_back_what_it_has_but_not_what_it_spent() {
    let (mut accounts, tenant, tasks) = tenant(100, 2);
    spend(&mut accounts, tasks[0], 10);
    lend(&mut accounts, tasks[0]);
    accounts.credit_taken(HoldId(1), tasks[0], 7);
    assert_eq!(accounts.close(tenant, noon()), Err(AccountError::HasChildren(2)));
    accounts.close(tasks[0], noon()).expect("it has no children");
    assert_eq!(
        (accounts.held(tenant), accounts.lent(tenant), accounts.spent(tenant)),
        (Money::ZERO, Money::ZERO, cents(10))
    );
    // Its place is taken by another account, which the old name does not mean.
    let other = accounts.open(Some(tenant), kill_at_cap()).expect("an account");
    assert_ne!(other, tasks[0]);
    spend(&mut accounts, tasks[0], 50);
    assert_eq!((accounts.spent(other), accounts.spent(tenant)), (Money::ZERO, cents(10)));
    assert_eq!(accounts.close(tasks[0], noon()), Err(AccountError::Closed));
}

#[test]
fn past_charges_rebuild_what_was() {
    let charges = [
        ("2026-11-01T00:00:00Z", 5),
        ("2026-11-24T23:59:59.999Z", 7),
        ("2026-11-25T00:00:00Z", 11),
        ("2026-11-25T11:59:59Z", 13),
        ("2026-11-25T12:00:00Z", 17),
    ];
    let money = MoneyLimits { day: Some(cents(100)), hour: Some(cents(20)), ..MoneyLimits::default() };
    let budget = Budget { limits: Limits { money, ..Limits::default() }, ..kill_at_cap() };
    let mut live = Accounts::new(TimeZone::UTC, at("2026-10-01T00:00:00Z"));
    let mut rebuilt = accounts();
    let mut ids = Vec::new();
    for accounts in [&mut live, &mut rebuilt] {
        let tenant = accounts.open(None, budget.clone()).expect("an account");
        ids = vec![tenant, accounts.open(Some(tenant), budget.clone()).expect("an account")];
    }
    for (time, cost) in charges {
        let charge = Charge {
            cost: cents(cost),
            unpriced: Money::ZERO,
            model: Some("m"),
            tokens: 3,
            is_typical: true,
            is_tool: false,
            at: at(time),
        };
        live.charge(ids[1], &charge);
        rebuilt.restore(ids[1], &charge, Onto::Path);
    }
    for window in Window::ALL {
        for &id in &ids {
            assert_eq!(live.spent_in(id, window), rebuilt.spent_in(id, window), "{window:?}");
        }
    }
    let spent = Window::ALL.map(|window| rebuilt.spent_in(ids[0], window));
    assert_eq!(spent, [53, 17, 41, 48, 53].map(cents));
    assert_eq!(rebuilt.expected(ids[1], Some("m")), cents(17));
    assert_eq!((rebuilt.counted(ids[0], Count::Tokens), rebuilt.counted(ids[0], Count::ModelCalls)), (15, 5));
    // 85 % of the hour was said before the restart.
    rebuilt.tick(noon());
    assert!(rebuilt.take_decisions().is_empty());
    rebuilt.charge(
        ids[1],
        &Charge {
            cost: cents(2),
            unpriced: Money::ZERO,
            model: None,
            tokens: 0,
            is_typical: true,
            is_tool: false,
            at: noon(),
        },
    );
    assert_eq!(actions(&rebuilt.take_decisions()), ["warn", "warn"], "95 % of the hour, on both");
}

#[test]
fn an_account_that_is_opened_again_does_not_charge_those_above_twice() {
    let (mut accounts, tenant, tasks) = tenant(100, 1);
    spend(&mut accounts, tasks[0], 10);
    accounts.close(tasks[0], noon()).expect("it has no children");
    let again = accounts.open(Some(tenant), kill_at_cap().with_total(Some(cents(10)))).expect("an account");
    accounts.restore(again, &charge(10), Onto::Account);
    assert_eq!((accounts.spent(again), accounts.spent(tenant)), (cents(10), cents(10)));
    assert!(accounts.take_decisions().is_empty());
    accounts.tick(noon());
    assert_eq!(actions(&accounts.take_decisions()), ["kill"], "the cap holds after a restart as well");
}

#[test]
fn depth_is_bounded() {
    let mut accounts = accounts();
    let mut parent = None;
    let opened = (0..100).take_while(|_| match accounts.open(parent, kill_at_cap()) {
        Ok(account) => {
            parent = Some(account);
            true
        }
        Err(error) => {
            assert_eq!(error, AccountError::TooDeep);
            false
        }
    });
    assert_eq!(opened.count(), 32);
}
