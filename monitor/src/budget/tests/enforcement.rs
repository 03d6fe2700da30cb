//! The ladder, counts, rules and people.

use proptest::prelude::*;

use super::*;

fn hourly(cap: i128, ladder: Ladder) -> (Accounts, AccountId) {
    let money = MoneyLimits { hour: Some(cents(cap)), ..MoneyLimits::default() };
    let mut accounts = accounts();
    let budget = Budget { ladder, limits: Limits { money, ..Limits::default() }, ..kill_at_cap() };
    let account = accounts.open(None, budget).expect("an account");
    (accounts, account)
}

fn counting(count: Count, limit: u64) -> (Accounts, AccountId) {
    let mut accounts = accounts();
    let limits = Limits { counts: BTreeMap::from([(count, limit)]), ..Limits::default() };
    let account = accounts.open(None, Budget { limits, ..kill_at_cap() }).expect("an account");
    (accounts, account)
}

fn later(seconds: i64) -> Timestamp {
    noon() + SignedDuration::from_secs(seconds)
}

fn tick(accounts: &mut Accounts, now: Timestamp) -> Vec<&'static str> {
    accounts.tick(now);
    actions(&accounts.take_decisions())
}

#[test]
fn warnings_come_once_and_the_kill_last() {
    let (mut accounts, account) = account(100);
    let all: Vec<_> = (0..12).flat_map(|_| spend(&mut accounts, account, 10)).collect();
    assert_eq!(actions(&all), ["warn", "warn", "warn", "kill"]);
    let percents: Vec<_> = all
        .iter()
        .filter_map(|decision| if let Decision::Warn { percent, .. } = decision { Some(*percent) } else { None })
        .collect();
    assert_eq!(percents, [50, 80, 95]);
    let Some(Decision::Act { reason, .. }) = all.last() else { panic!("{all:?}") };
    assert_eq!(reason.to_string(), "spent $1 of $1: the cap is reached");
    assert_eq!(accounts.lendable(account), 0);
}

#[test]
fn what_was_spent_before_a_restart_is_not_said_again() {
    let (mut accounts, account) = account(100);
    accounts.restore(account, &charge(90), Onto::Path);
    accounts.tick(noon());
    assert!(accounts.take_decisions().is_empty());
    assert_eq!(actions(&spend(&mut accounts, account, 5)), ["warn"]);
}

#[test]
fn the_default_cuts_at_the_cap_and_kills_who_keeps_trying() {
    let (mut accounts, account) = hourly(100, Ladder::default());
    assert_eq!(actions(&spend(&mut accounts, account, 100)), ["warn", "warn", "warn", "cut"]);
    assert!(matches!(ask(&mut accounts, account, 1, 7), Answer::Refuse(_)));
    assert!(accounts.take_decisions().is_empty(), "within the grace time");
    assert!(tick(&mut accounts, later(31)).is_empty(), "it does not try");
    accounts.attempted(account, later(32));
    assert_eq!(actions(&accounts.take_decisions()), ["kill"]);
    assert!(tick(&mut accounts, later(7200)).is_empty(), "nothing undoes a kill");
    assert_eq!(accounts.approve(account, Approval::Add(cents(1)), later(7200)), Err(AccountError::Killed));
}

#[test]
fn a_cut_ends_with_its_window() {
    let (mut accounts, account) = hourly(100, Ladder::default());
    spend(&mut accounts, account, 100);
    assert!(tick(&mut accounts, later(3599)).is_empty());
    assert_eq!(tick(&mut accounts, later(3600)), ["lift"]);
    accounts.charge(account, &Charge { at: later(3600), ..charge(50) });
    assert_eq!(actions(&accounts.take_decisions()), ["warn"], "each hour anew");
}

#[test]
fn grace_times_end_with_a_tick() {
    let rungs = [
        Rung::new(Action::Cut, 90),
        Rung::new(Action::Pause, 100).after(SECOND * 10),
        Rung::new(Action::Kill, 100).after(SECOND * 60),
    ];
    let (mut accounts, account) = hourly(100, Ladder::new(rungs.to_vec()).expect("a ladder"));
    assert_eq!(actions(&spend(&mut accounts, account, 95)), ["cut"]);
    assert!(tick(&mut accounts, later(50)).is_empty());
    accounts.charge(account, &Charge { at: later(50), ..charge(5) });
    assert!(tick(&mut accounts, later(59)).is_empty());
    assert_eq!(tick(&mut accounts, later(60)), ["pause"]);
    assert_eq!(
        accounts.ask(&Ask { id: HoldId(1), account, pid: 7, call: least(1), consent: Consent::Given }, later(61)),
        Answer::Wait(Wait::Paused)
    );
    assert_eq!(tick(&mut accounts, later(110)), ["kill"]);
}

#[test]
fn a_person_can_add_money_or_time() {
    let ladder = || Ladder::new(vec![Rung::new(Action::Warn, 80), Rung::new(Action::Pause, 100)]).expect("a ladder");
    let (mut accounts, account) = hourly(100, ladder());
    assert_eq!(actions(&spend(&mut accounts, account, 100)), ["warn", "pause"]);
    accounts.approve(account, Approval::Add(cents(50)), noon()).expect("it is open");
    assert_eq!(actions(&accounts.take_decisions()), ["lift"]);
    assert_eq!(accounts.cap(account, Window::Hour), Some(cents(150)));
    assert_eq!(actions(&spend(&mut accounts, account, 50)), ["pause"], "and the warning was said");
    accounts.approve(account, Approval::Until(later(60)), noon()).expect("it is open");
    assert_eq!(actions(&accounts.take_decisions()), ["lift"]);
    assert!(spend(&mut accounts, account, 500).is_empty());
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Go);
    assert_eq!(tick(&mut accounts, later(60)), ["pause"]);
    // What was added to an hour ends with it.
    assert_eq!(tick(&mut accounts, later(3600)), ["lift"]);
    assert_eq!(accounts.cap(account, Window::Hour), Some(cents(100)));
}

#[test]
fn what_is_added_below_is_not_added_above() {
    let mut accounts = accounts();
    let tenant = accounts.open(None, kill_at_cap().with_total(Some(cents(15)))).expect("an account");
    let task = accounts.open(Some(tenant), kill_at_cap().with_total(Some(cents(10)))).expect("an account");
    accounts.approve(task, Approval::Add(cents(100)), noon()).expect("it is open");
    accounts.approve(task, Approval::Until(later(60)), noon()).expect("it is open");
    assert!(matches!(ask_for(&mut accounts, task, 1, 7, least(16)), Answer::Refuse(_)));
}

#[test]
fn a_person_can_say_no() {
    let (mut accounts, account) = account(100);
    accounts.impose(account, Action::Pause, Reason::Ordered, noon());
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Wait(Wait::Paused));
    accounts.deny(account, noon());
    assert_eq!(actions(&accounts.take_decisions()), ["pause", "kill"]);
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Refuse(Reason::Denied));
}

#[test]
fn what_is_imposed_is_lifted_by_approval_alone() {
    let (mut accounts, account) = hourly(100, Ladder::default());
    accounts.impose(account, Action::Cut, Reason::Ordered, noon());
    assert_eq!(actions(&accounts.take_decisions()), ["cut"]);
    assert!(tick(&mut accounts, later(86_400)).is_empty());
    accounts.approve(account, Approval::Add(Money::ZERO), later(86_401)).expect("it is open");
    assert_eq!(actions(&accounts.take_decisions()), ["lift"]);
}

#[test]
fn a_throttle_paces_requests() {
    let per_hour = cents(360);
    let rungs = vec![Rung::new(Action::Throttle { per_hour }, 50), Rung::new(Action::Kill, 100)];
    let (mut accounts, account) = hourly(100, Ladder::new(rungs).expect("a ladder"));
    spend(&mut accounts, account, 10);
    assert_eq!(lend(&mut accounts, account), 9);
    assert_eq!(actions(&spend(&mut accounts, account, 41)), ["throttle"]);
    assert_eq!(accounts.balance(account), Balance::TakeBack(9), "each request has to ask");
    accounts.take_back(account, 9);
    let mut ask_at =
        |id, now| accounts.ask(&Ask { id: HoldId(id), account, pid: 7, call: least(10), consent: Consent::None }, now);
    assert_eq!(ask_at(1, noon()), Answer::Go);
    // It holds 41 cents, which take 410 seconds to earn at $3.60 an hour.
    assert_eq!(ask_at(2, later(409)), Answer::Wait(Wait::Paced(later(410))));
}

#[test]
fn so_many_requests_may_start_and_no_more() {
    let (mut accounts, account) = counting(Count::Requests, 10);
    spend(&mut accounts, account, 1);
    assert_eq!(lend(&mut accounts, account), 10, "credits count as requests");
    assert_eq!(ask(&mut accounts, account, 100, 7), Answer::Wait(Wait::Lent(account)));
    for id in 0..10 {
        accounts.credit_taken(HoldId(id), account, 7);
    }
    let said = accounts.take_decisions();
    assert!(said.iter().all(|decision| matches!(decision, Decision::Warn { .. })), "{said:?}");
    let refused = ask(&mut accounts, account, 100, 7);
    assert_eq!(refused, Answer::Refuse(Reason::CountReached { count: Count::Requests, used: 10, cap: 10 }));
    assert_eq!(actions(&accounts.take_decisions()).last(), Some(&"kill"));
}

proptest! {
    /// Whatever happens in whichever order, no more requests and model calls start than may, on every account of the path.
    #[test]
    fn counts_are_not_passed(limits in prop::array::uniform3((1_u64..30, 1_u64..30)), steps in prop::collection::vec((0..6_u8, 0..2_usize, any::<u8>()), 1..200)) {
        let mut accounts = accounts();
        let budget = |(requests, calls)| {
            let counts = BTreeMap::from([(Count::Requests, requests), (Count::ModelCalls, calls)]);
            // What is over is refused, and nothing else happens.
            let ladder = Ladder::new(vec![Rung::new(Action::Cut, 100).after(SECOND)]).expect("a ladder");
            Budget { ladder, limits: Limits { counts, ..Limits::default() }, ..kill_at_cap() }
        };
        let tenant = accounts.open(None, budget(limits[0])).expect("an account");
        let tasks = [1, 2].map(|n| accounts.open(Some(tenant), budget(limits[n])).expect("an account"));
        tasks.iter().for_each(|&task| accounts.activate(task, noon()));
        let mut open = Vec::new();
        for (id, (kind, task, choice)) in (1..).zip(steps) {
            let task = tasks[task];
            match kind {
                0 => {
                    accounts.take_back(task, 1);
                }
                1 if accounts.credits(task) > 0 => {
                    accounts.credit_taken(HoldId(u64::from(id)), task, id);
                    open.push(id);
                }
                2 if ask(&mut accounts, task, u64::from(id), id) == Answer::Go => open.push(id),
                3 => {
                    lend(&mut accounts, task);
                }
                4 | 5 if !open.is_empty() => {
                    let id = HoldId(u64::from(open.swap_remove(usize::from(choice) % open.len())));
                    let ended = if kind == 4 { accounts.release(id) } else { accounts.settle(id, &charge(1)) };
                    prop_assert!(ended);
                }
                _ => {}
            }
            for (account, (requests, calls)) in [tenant, tasks[0], tasks[1]].into_iter().zip(limits) {
                let credits = accounts.node(account).expect("an account").credits;
                prop_assert!(accounts.counted(account, Count::Requests) + credits <= requests);
                prop_assert!(accounts.counted(account, Count::ModelCalls) + accounts.calls_in_flight(account) + credits <= calls);
            }
        }
    }
}

#[test]
fn calls_in_flight_may_become_model_calls() {
    let (mut accounts, account) = counting(Count::ModelCalls, 2);
    assert_eq!(ask(&mut accounts, account, 1, 7), Answer::Go);
    assert_eq!(ask(&mut accounts, account, 2, 8), Answer::Go);
    assert_eq!(ask(&mut accounts, account, 3, 9), Answer::Wait(Wait::InFlight));
    accounts.release(HoldId(1));
    assert_eq!(ask(&mut accounts, account, 3, 9), Answer::Go);
    accounts.settle(HoldId(2), &charge(1));
    accounts.settle(HoldId(3), &charge(1));
    assert!(matches!(
        ask(&mut accounts, account, 4, 9),
        Answer::Refuse(Reason::CountReached { count: Count::ModelCalls, .. })
    ));
}

#[test]
fn everything_else_that_is_counted_climbs_the_ladder() {
    let killed = |accounts: &mut Accounts| actions(&accounts.take_decisions()).last() == Some(&"kill");
    let (mut accounts, account) = counting(Count::Tokens, 1000);
    accounts.charge(account, &Charge { tokens: 999, ..charge(1) });
    assert!(!killed(&mut accounts));
    accounts.charge(account, &Charge { tokens: 1, ..charge(1) });
    assert!(killed(&mut accounts));

    let (mut accounts, account) = counting(Count::SubAgentsAlive, 2);
    for _ in 0..3 {
        accounts.agent_started(account, 1, noon());
        accounts.agent_ended(account, noon());
    }
    (0..2).for_each(|_| accounts.agent_started(account, 1, noon()));
    assert!(!killed(&mut accounts), "two may be alive");
    accounts.agent_started(account, 1, noon());
    assert!(killed(&mut accounts));

    let (mut accounts, account) = counting(Count::AgentDepth, 3);
    accounts.agent_started(account, 3, noon());
    assert!(!killed(&mut accounts));
    accounts.agent_started(account, 4, noon());
    assert!(killed(&mut accounts));

    let (mut accounts, account) = counting(Count::CpuTime, 10_000);
    accounts.cpu_used(account, SECOND * 9, noon());
    assert!(!killed(&mut accounts));
    accounts.cpu_used(account, SECOND, noon());
    assert!(killed(&mut accounts));

    let (mut accounts, account) = counting(Count::SubAgentsStarted, 1);
    accounts.agent_started(account, 1, noon());
    accounts.agent_ended(account, noon());
    assert!(!killed(&mut accounts));
    accounts.agent_started(account, 1, noon());
    assert!(killed(&mut accounts));
}

#[test]
fn wall_time_passes_while_anything_runs() {
    let (mut accounts, account) = counting(Count::WallTime, 60_000);
    let below = accounts.open(Some(account), kill_at_cap()).expect("an account");
    accounts.activate(account, noon());
    accounts.activate(below, later(10));
    accounts.deactivate(account, later(20));
    accounts.deactivate(below, later(30));
    tick(&mut accounts, later(1000));
    assert_eq!(accounts.counted(account, Count::WallTime), 30_000);
    accounts.activate(below, later(1000));
    assert_eq!(tick(&mut accounts, later(1029)).last(), Some(&"warn"));
    assert_eq!(tick(&mut accounts, later(1030)), ["kill"]);
}

#[test]
fn calls_of_a_tool_are_limited_by_its_name() {
    let mut accounts = accounts();
    let limits = Limits { tools: BTreeMap::from([("search".into(), 2)]), ..Limits::default() };
    let account = accounts.open(None, Budget { limits, ..kill_at_cap() }).expect("an account");
    let below = accounts.open(Some(account), kill_at_cap()).expect("an account");
    for tool in ["search", "shell", "shell", "search", "shell"] {
        accounts.tool_called(below, tool, noon());
    }
    assert!(!actions(&accounts.take_decisions()).contains(&"kill"));
    accounts.tool_called(below, "search", noon());
    let decisions = accounts.take_decisions();
    let Some(Decision::Act { account: on, reason, .. }) = decisions.last() else { panic!("{decisions:?}") };
    assert_eq!((*on, reason.to_string().as_str()), (account, "3 of 2 calls of tool search"));
    assert_eq!(
        (accounts.tool_calls(account, "search"), accounts.tool_calls(account, "shell")),
        (3, 0),
        "only limited ones have a count"
    );
    assert_eq!(accounts.counted(account, Count::ToolCalls), 6);
}

#[test]
fn rules_of_every_account_on_the_path_hold() {
    let names = |deny: &str| Names { deny: vec![deny.parse().expect("a pattern")], ..Names::default() };
    let mut accounts = accounts();
    let rules = Rules { models: names("*-max"), ..Rules::default() };
    let tenant = accounts.open(None, Budget { rules, ..kill_at_cap() }).expect("an account");
    let above = super::super::ApprovalRule { above: Some(cents(20)), ..Default::default() };
    let rules = Rules { approvals: vec![above], ..Rules::default() };
    let task = accounts.open(Some(tenant), Budget { rules, ..kill_at_cap() }).expect("an account");
    let model = |model| Estimate { model: Some(model), ..least(21) };
    assert_eq!(ask_for(&mut accounts, task, 1, 7, model("m-max")), Answer::Refuse(Reason::ModelDenied("m-max".into())));
    let Answer::Wait(Wait::Approval(reason)) = ask_for(&mut accounts, task, 1, 7, model("m")) else {
        panic!("it is dear")
    };
    assert_eq!(reason.to_string(), "a call of about $0.21 needs approval: more than $0.2");
    let ask = Ask { id: HoldId(1), account: task, pid: 7, call: model("m"), consent: Consent::Given };
    assert_eq!(accounts.ask(&ask, noon()), Answer::Go);
    assert_eq!(accounts.lendable(task), 0, "every request has to be looked at");
    // A model that was not known when it started.
    accounts.size(HoldId(1), &model("x-max"), noon());
    assert_eq!(actions(&accounts.take_decisions()), ["cut the call"]);
}

#[test]
fn a_ladder_that_only_warns_holds_nobody_up() {
    let (mut accounts, account) = hourly(10, Ladder::new(vec![Rung::new(Action::Warn, 100)]).expect("a ladder"));
    assert_eq!(actions(&spend(&mut accounts, account, 11)), ["warn"]);
    assert_eq!(ask_for(&mut accounts, account, 1, 7, least(100)), Answer::Go);
    assert!(accounts.lendable(account) > 0);
}

#[test]
fn another_budget_counts_at_once() {
    let (mut accounts, account) = account(100);
    (0..6).for_each(|_| drop(spend(&mut accounts, account, 10)));
    assert_eq!(lend(&mut accounts, account), 4);
    accounts.set_budget(account, kill_at_cap().with_total(Some(cents(70))), noon()).expect("it is open");
    assert!(accounts.take_decisions().is_empty(), "85 % is not news");
    assert_eq!(accounts.balance(account), Balance::TakeBack(3));
    accounts.approve(account, Approval::Add(cents(30)), noon()).expect("it is open");
    assert_eq!(accounts.cap(account, Window::Total), Some(cents(100)));
    accounts.set_budget(account, kill_at_cap().with_total(Some(cents(60))), noon()).expect("it is open");
    assert_eq!(actions(&accounts.take_decisions()), ["kill"]);
}

/// Tokens are known when a call has ended: until then it counts as much as the largest one so far.
#[test]
fn no_more_calls_start_than_a_limit_of_tokens_lets() {
    let (mut accounts, account) = counting(Count::Tokens, 500);
    accounts.activate(account, noon());
    let ask = |accounts: &mut Accounts, id: u64, pid: u32| ask(accounts, account, id, pid);
    assert_eq!(ask(&mut accounts, 1, 1), Answer::Go, "the first one tells");
    assert_eq!(ask(&mut accounts, 2, 2), Answer::Wait(Wait::InFlight));
    accounts.settle(HoldId(1), &Charge { tokens: 200, ..charge(1) });
    assert_eq!(accounts.lendable(account), 2, "200 and 100 of 300");
    assert_eq!(ask(&mut accounts, 2, 2), Answer::Go);
    assert_eq!(ask(&mut accounts, 3, 3), Answer::Go);
    assert_eq!(ask(&mut accounts, 4, 4), Answer::Wait(Wait::InFlight));
    accounts.settle(HoldId(2), &Charge { tokens: 150, ..charge(1) });
    accounts.settle(HoldId(3), &Charge { tokens: 150, ..charge(1) });
    assert!(matches!(ask(&mut accounts, 4, 4), Answer::Refuse(Reason::CountReached { used: 500, .. })));
}
