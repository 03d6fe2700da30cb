use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;

use super::{
    Burn, Incident, MoreThan, Outlier, SignalRules, Signals, Trouble,
    recent::{is_similar, simhash},
};
use crate::{
    budget::{AccountId, Accounts, Action, Budget, Decision, Reason},
    price::Money,
};

fn cents(cents: i128) -> Money {
    Money::from_pico_usd(cents * 10_000_000_000)
}

fn account() -> (Accounts, AccountId) {
    let mut accounts = Accounts::new(TimeZone::UTC, after(0));
    let account = accounts.open(None, Budget::unlimited(cents(1))).expect("an account");
    (accounts, account)
}

fn after(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
}

/// As good a keyed hash as any, for tests.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29)
    })
}

fn shingles(text: &str) -> Vec<u64> {
    let words: Vec<&str> = text.split(' ').collect();
    words.windows(3).map(|words| hash(&words.join(" "))).collect()
}

#[test]
fn the_same_call_again_and_again_is_a_loop() {
    let (_, account) = account();
    let mut signals = Signals::new(SignalRules::default());
    let calls = |signals: &mut Signals, from: i64, step: i64| -> Vec<Incident> {
        (0..12).filter_map(|n| signals.tool_called(account, 7, after(from + n * step))).collect()
    };
    assert!(calls(&mut signals, 0, 120).is_empty(), "slowly is not again and again");
    let incidents = calls(&mut signals, 10_000, 1);
    assert_eq!(incidents.len(), 1, "and it is said once");
    let within = SignedDuration::from_mins(10);
    assert_eq!(incidents[0].trouble, Trouble::SameToolCall { fingerprint: 7, times: 10, within });
    assert_eq!(incidents[0].trouble.to_string(), "the same tool call 10 times in 600 s");
    let later = signals.tool_called(account, 8, after(10_100));
    assert_eq!(later, None);
    let again = calls(&mut signals, 10_610, 0);
    assert_eq!(again.first().map(|incident| incident.unsaid), Some(2));
}

#[test]
fn memory_is_bounded() {
    let (_, account) = account();
    let mut signals = Signals::new(SignalRules::default());
    for n in 0..100_000 {
        assert_eq!(signals.tool_called(account, n, after(0)), None);
        signals.prompted(account, n, [n, n + 1], after(0));
        signals.charged(account, cents(1), after(0));
    }
    assert!(format!("{signals:?}").len() < 100_000);
    signals.forget(account);
    assert!(signals.watches.is_empty());
}

#[test]
fn nearly_the_same_prompts_are_alike_and_others_are_not() {
    let base: Vec<String> = (0..400).map(|n| format!("word{}", n * n % 397)).collect();
    let changed = |place: usize| {
        let mut words = base.clone();
        words[place] = "other".into();
        simhash(shingles(&words.join(" "))).expect("words")
    };
    let other: Vec<String> = (0..400).map(|n| format!("term{}", n * n % 389)).collect();
    let one = simhash(shingles(&base.join(" "))).expect("words");
    let two = simhash(shingles(&other.join(" "))).expect("words");
    let alike = (0..400).filter(|&place| is_similar(&one, &changed(place))).count();
    assert!(alike > 380, "one word of 400 is another: {alike}");
    assert!(!is_similar(&one, &two));
    assert_eq!(simhash([]), None);

    let (_, account) = account();
    let mut signals = Signals::new(SignalRules::default());
    let incidents: Vec<Incident> = (0..25)
        .filter_map(|n| {
            let text = format!("{} {n}", base.join(" "));
            signals.prompted(account, hash(&text), shingles(&text), after(n))
        })
        .collect();
    assert!(
        matches!(incidents[..], [Incident { trouble: Trouble::SimilarPrompt { times: 20, .. }, .. }]),
        "{incidents:?}"
    );
}

#[test]
fn runaway_processes_are_seen() {
    let (mut accounts, account) = account();
    let rule = Some(MoreThan { number: 3, action: Action::Pause });
    let mut signals = Signals::new(SignalRules { recursion: rule, fan_out: rule, ..SignalRules::default() });
    assert_eq!(signals.recursed(account, 5, 3, after(0)), None);
    let incident = signals.recursed(account, 5, 4, after(0)).expect("an incident");
    assert_eq!(incident.trouble.to_string(), "process 5 is a program that runs itself 4 levels deep");
    assert!(signals.fanned_out(account, 5, 4, after(0)).is_some(), "another kind of trouble is said at once");
    // An incident can take any rung.
    accounts.impose(account, incident.action, Reason::Trouble(incident.trouble), after(0));
    let decisions = accounts.take_decisions();
    assert!(matches!(decisions[..], [Decision::Act { action: Action::Pause, .. }]), "{decisions:?}");
}

#[test]
fn a_task_that_costs_more_than_its_like_is_out_of_line() {
    let (mut accounts, workflow) = account();
    let task = accounts.open(Some(workflow), Budget::unlimited(cents(1))).expect("an account");
    let mut signals = Signals::new(SignalRules::default());
    let costs = [100, 90, 110, 95, 105, 100, 98, 102, 5000];
    costs.iter().for_each(|&cost| signals.task_ended(workflow, cents(cost)));
    assert_eq!(signals.costs(task, workflow, cents(100_000), after(0)), None, "nine are too few");
    signals.task_ended(workflow, cents(101));
    assert_eq!(signals.costs(task, workflow, cents(120), after(0)), None);
    // Median 100, half of them within about 5: 3.5 × 1.4826 × 5 is 26.
    let incident = signals.costs(task, workflow, cents(140), after(0)).expect("an incident");
    let Trouble::Outlier { median, deviation, tasks: 10, .. } = incident.trouble else { panic!("{incident:?}") };
    assert!((cents(99)..=cents(102)).contains(&median) && (cents(4)..=cents(7)).contains(&deviation), "{incident:?}");
}

#[test]
fn tasks_that_all_cost_the_same_allow_a_little_more() {
    let (_, account) = account();
    let outlier = Some(Outlier { z_hundredths: 350, at_least: 3, action: Action::Warn });
    let mut signals = Signals::new(SignalRules { outlier, ..SignalRules::default() });
    (0..5).for_each(|_| signals.task_ended(account, cents(100)));
    assert_eq!(signals.costs(account, account, cents(120), after(0)), None);
    assert!(signals.costs(account, account, cents(130), after(0)).is_some());
}

#[test]
fn money_burns_only_if_it_does_so_for_long_and_still_does() {
    let hour = SignedDuration::from_hours(1);
    let rule = Burn { per_hour: cents(100), long: hour, short: SignedDuration::from_mins(5), action: Action::Warn };
    let (_, account) = account();
    let mut signals = Signals::new(SignalRules { burn: vec![rule], ..SignalRules::default() });
    assert_eq!(signals.charged(account, cents(99), after(0)), None, "much at once, but not in an hour");
    let incident = signals.charged(account, cents(2), after(60)).expect("an incident");
    assert_eq!(incident.trouble.to_string(), "$1.01 in 60 min and $1.01 in the last 5 min: more than $1 an hour");
    // Half an hour later the hour is still dear, but the last five minutes are not.
    assert_eq!(signals.charged(account, cents(1), after(1800)), None);
    // Two hours later nothing of it is left.
    assert_eq!(signals.charged(account, cents(90), after(9000)), None);
}

#[test]
fn burn_rates_of_a_budget_are_those_of_the_workbook() {
    let [fast, slow] = Burn::of_budget(cents(72_000), SignedDuration::from_hours(24 * 30), Action::Pause);
    assert_eq!((fast.per_hour, slow.per_hour), (cents(1440), cents(600)));
    // At 14.4 times the pace, one hour takes 2 % of a month.
    assert_eq!(fast.per_hour * 50, cents(72_000));
    assert_eq!((slow.long, slow.short), (SignedDuration::from_hours(6), SignedDuration::from_mins(30)));
}

proptest! {
    /// Against sums over all charges: what burns too fast is never missed, and windows are at most one stretch too long.
    #[test]
    fn burning_is_seen(charges in prop::collection::vec((0_i64..200, 0_i128..30), 1..200)) {
        let rule = Burn {
            per_hour: cents(300),
            long: SignedDuration::from_hours(1),
            short: SignedDuration::from_mins(5),
            action: Action::Warn,
        };
        let (_, account) = account();
        let mut signals = Signals::new(SignalRules { burn: vec![rule], quiet: SignedDuration::ZERO, ..SignalRules::default() });
        let mut now = 0;
        let mut all: Vec<(i64, i128)> = Vec::new();
        for (pause, cost) in charges {
            now += pause;
            all.push((now, cost));
            let within = |seconds: i64| all.iter().filter(|(at, _)| now - at < seconds).map(|(_, cost)| cost).sum::<i128>();
            let seen = signals.charged(account, cents(cost), after(now)).is_some();
            // A stretch is 75 s, and the present one has only begun.
            let surely = within(3600 - 75) > 300 && within(300 - 75) > 25;
            let possibly = within(3600) > 300 && within(300) > 25;
            prop_assert!(seen || !surely);
            prop_assert!(!seen || possibly);
        }
    }
}
