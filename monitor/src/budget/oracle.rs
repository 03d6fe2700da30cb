//! The accounts against a second, simpler account of the same events.
//!
//! Each step does the same to both and compares what both know of the accounts that it touched. [`Books`] knows no window that turns, no arena and
//! no ladder that is climbed: it has sums under the number of their hour or day, and every [`FULL`] steps these are added up anew from the list of
//! everything that has happened. What a call is expected to cost is taken from the accounts: histories have tests of their own.

mod books;

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use proptest::prelude::*;

use self::books::{Books, Seen};
use super::{
    AccountId, Accounts, Action, Answer, Approval, Ask, Balance, Budget, Charge, Consent, Decision, Estimate, HoldId,
    HoldPolicy, Ladder, Limit, Limits, MoneyLimits, Rung, Wait, Window,
};
use crate::price::Money;

/// Steps between two full comparisons.
const FULL: u64 = 1000;
const NANO: i128 = 1000;
/// What calls cost at most, in nano-USD, unless they are dearer than they should.
const DEAREST: i128 = 20_000;

/// One step, as plain numbers, so that it can be made at random and made smaller.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: u8,
    who: u16,
    amount: u16,
    /// In 100 µs, times the world's slowness.
    pause: u16,
}

/// Whether calls keep to what was held for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manners {
    /// They cost what they like, get past the gate, and people allow more.
    Wild,
    /// They cost at most their hold: then no cap is ever passed.
    Good,
}

struct Open {
    id: HoldId,
    task: usize,
}

struct World {
    accounts: Accounts,
    ids: Vec<AccountId>,
    /// Accounts that calls are made on, as places in `ids`.
    tasks: Vec<usize>,
    books: Books,
    open: Vec<Open>,
    /// Tasks that have ended and may begin again.
    ended: HashSet<usize>,
    said: HashSet<(usize, Window, i64, u16)>,
    now: Timestamp,
    next_id: u64,
    steps: u64,
    manners: Manners,
    /// How slowly time passes: the fewer calls in an hour, the more of them can be paid for.
    slowness: i64,
    /// How often each kind of answer was given: a test in which nothing is ever refused shows nothing.
    answers: HashMap<&'static str, u64>,
}

fn nano(nano: i128) -> Money {
    Money::from_pico_usd(nano * NANO)
}

fn ladder(n: usize) -> Ladder {
    let grace = SignedDuration::from_secs(20);
    let warnings = [50, 80, 95].map(|percent| Rung::new(Action::Warn, percent));
    let rest = match n % 3 {
        0 => vec![Rung::new(Action::Cut, 100)],
        1 => vec![
            Rung::new(Action::Throttle { per_hour: nano(DEAREST * 20) }, 80),
            Rung::new(Action::Pause, 100).after(grace),
        ],
        _ => vec![Rung::new(Action::Cut, 100), Rung::new(Action::Pause, 100).after(grace)],
    };
    Ladder::new(warnings.into_iter().chain(rest).collect()).expect("a ladder")
}

fn budget(n: usize, calls_an_hour: i128) -> Budget {
    let spread = 50 + (n as i128 * 37) % 100;
    let hour = nano(calls_an_hour * DEAREST * spread / 100);
    let money = MoneyLimits {
        hour: (n % 7 != 3).then_some(hour),
        day: (n % 5 != 2).then_some(hour * 10),
        ..MoneyLimits::default()
    };
    let holds = match n % 4 {
        0 => HoldPolicy::WorstCase { unknown: 2 },
        3 if calls_an_hour < 10 => HoldPolicy::Off,
        _ => HoldPolicy::Expected,
    };
    Budget {
        limits: Limits { money, ..Limits::default() },
        ladder: ladder(n),
        holds,
        floor: nano(10),
        ..Budget::unlimited(nano(DEAREST / 2))
    }
}

impl World {
    /// Tenants, each with so many workflows, each with so many tasks. The money of all tasks of one account is more than it has.
    fn new(tenants: usize, workflows: usize, tasks: usize, manners: Manners) -> Self {
        let now: Timestamp = "2026-03-01T00:00:00Z".parse().expect("a time");
        let mut accounts = Accounts::new(TimeZone::UTC, now);
        let (mut ids, mut leaves) = (Vec::new(), Vec::new());
        let mut books = Books::default();
        let mut open = |parent: Option<usize>, budget: Budget, ids: &mut Vec<AccountId>| {
            books.open(parent, &budget);
            let id = accounts.open(parent.map(|parent| ids[parent]), budget).expect("an account");
            ids.push(id);
            ids.len() - 1
        };
        for tenant in 0..tenants {
            let tenant = open(None, budget(tenant, (workflows * tasks * 3) as i128), &mut ids);
            for workflow in 0..workflows {
                let workflow = open(Some(tenant), budget(workflow, (tasks * 4) as i128), &mut ids);
                for task in 0..tasks {
                    leaves.push(open(Some(workflow), budget(task, 5), &mut ids));
                }
            }
        }
        for &task in &leaves {
            accounts.activate(ids[task], now);
            books.activate(task);
        }
        Self {
            accounts,
            ids,
            tasks: leaves,
            books,
            open: Vec::new(),
            ended: HashSet::new(),
            said: HashSet::new(),
            now,
            next_id: 0,
            steps: 0,
            manners,
            slowness: 1,
            answers: HashMap::new(),
        }
    }

    fn new_id(&mut self) -> HoldId {
        self.next_id += 1;
        HoldId(self.next_id)
    }

    fn step(&mut self, step: Step) {
        self.steps += 1;
        let pause = if step.pause == u16::MAX {
            SignedDuration::from_mins(61)
        } else {
            SignedDuration::from_micros(i64::from(step.pause) * 100 * self.slowness)
        };
        self.now = self.now.checked_add(pause).expect("a time");
        self.accounts.tick(self.now);
        self.books.advance(self.now);
        let task = self.tasks[usize::from(step.who) % self.tasks.len()];
        let pid = u32::try_from(task * 4).expect("a pid") + u32::from(step.amount % 5 / 3);
        let amount = nano(i128::from(step.amount) % DEAREST + 1);
        let before = self.over(task);
        let (touched, may_pass) = self.act(step, task, pid, amount);
        let before = if touched == task { before } else { Vec::new() };
        let decisions = self.accounts.take_decisions();
        self.books.observe(touched);
        self.compare(touched);
        self.compare_decisions(touched, &decisions);
        for (after, before) in self.over(touched).into_iter().zip(before) {
            let is_within = after <= Money::ZERO || after <= before || may_pass;
            assert!(is_within, "step {}: {step:?} took an account {after:?} over its cap, from {before:?}", self.steps);
        }
        if self.manners == Manners::Good {
            assert!(self.over(touched).iter().all(|over| *over <= Money::ZERO), "step {}: {step:?}", self.steps);
        }
        if self.steps.is_multiple_of(FULL) {
            self.compare_all();
        }
    }

    /// Does one thing to both. Returns which account it touched, and whether a cap may be passed by it.
    fn act(&mut self, step: Step, task: usize, pid: u32, amount: Money) -> (usize, bool) {
        let account = self.ids[task];
        let chosen = (!self.open.is_empty()).then(|| usize::from(step.who) % self.open.len().max(1));
        // Calls in flight shall not become more and more.
        let kind = if self.open.len() > self.tasks.len() * 3 { 66 } else { step.kind % 100 };
        let is_wild = self.manners == Manners::Wild;
        match (kind, chosen) {
            (0..25, _) => self.ask(task, pid, amount),
            (25..40, _) if self.accounts.credits(account) > 0 => {
                let id = self.new_id();
                self.accounts.credit_taken(id, account, pid);
                self.books.credit_taken(id, task, pid, self.accounts.hold(id).expect("a hold"));
                self.open.push(Open { id, task });
            }
            (40..55, _) => self.balance(task),
            (55..57, _) => {
                let taken = self.accounts.take_back(account, u64::from(step.amount % 4));
                let expected = u64::from(step.amount % 4).min(self.books.credits(task));
                assert_eq!(taken, expected);
                self.books.take_back(task, taken);
            }
            (57..66, Some(index)) => {
                let Open { id, task } = self.open[index];
                let running = if is_wild { amount } else { amount.min(self.books.hold(id)) };
                let is_cut = self.books.raise(id, running);
                self.accounts.raise(id, running);
                let cuts = self
                    .accounts
                    .decisions
                    .iter()
                    .filter(|decision| matches!(decision, Decision::CutCall { hold, .. } if *hold == id));
                assert_eq!(cuts.count(), usize::from(is_cut), "step {}", self.steps);
                return (task, true);
            }
            (66..90, Some(index)) => {
                let Open { id, task } = self.open.swap_remove(index);
                let dear = if is_wild && step.amount.is_multiple_of(13) { amount * 3 } else { amount };
                let cost = if is_wild { dear } else { dear.min(self.books.hold(id)) };
                // Some are told of a moment later.
                let at = self.now.checked_sub(SignedDuration::from_secs(i64::from(step.amount % 50))).expect("a time");
                let charge = Charge {
                    cost,
                    unpriced: Money::ZERO,
                    model: Some(["a", "b"][usize::from(step.amount % 2)]),
                    tokens: 1,
                    is_typical: true,
                    is_tool: false,
                    at,
                };
                let is_covered = cost <= self.books.hold(id);
                assert!(self.accounts.settle(id, &charge));
                assert!(!self.accounts.settle(id, &charge), "a hold ends once");
                self.books.settle(id, cost, at);
                return (task, !is_covered);
            }
            (90..94, Some(index)) => {
                let Open { id, task } = self.open.swap_remove(index);
                assert!(self.accounts.release(id));
                assert!(!self.accounts.release(id), "a hold ends once");
                self.books.release(id);
                return (task, false);
            }
            (94, _) => {
                let ended = self.accounts.release_process(pid);
                assert_eq!(ended, self.books.release_process(pid));
                if ended > 0 {
                    self.open.retain(|open| open.task != task || self.accounts.hold(open.id).is_some());
                }
            }
            (95, _) if is_wild => {
                let id = self.new_id();
                self.accounts.admit(id, account, pid);
                self.books.start(id, task, pid, self.accounts.hold(id).expect("a hold"));
                self.open.push(Open { id, task });
                return (task, true);
            }
            (96, _) if is_wild && step.amount.is_multiple_of(4) => {
                let above = self.books.path(task)[usize::from(step.amount) / 4 % 3];
                let until =
                    self.now.checked_add(SignedDuration::from_secs(i64::from(step.amount) / 100)).expect("a time");
                let add = step.amount.is_multiple_of(8);
                let approval = if add { Approval::Add(amount * 5) } else { Approval::Until(until) };
                self.accounts.approve(self.ids[above], approval, self.now).expect("it is open");
                self.books.approve(above, approval);
            }
            (97, _) if self.ended.remove(&task) => {
                self.accounts.activate(account, self.now);
                self.books.activate(task);
            }
            (97, _) if step.amount.is_multiple_of(2) => {
                self.accounts.deactivate(account, self.now);
                self.books.deactivate(task);
                self.ended.insert(task);
                *self.answers.entry("ended").or_default() += 1;
            }
            _ => {}
        }
        (task, false)
    }

    fn ask(&mut self, task: usize, pid: u32, amount: Money) {
        let account = self.ids[task];
        let id = self.new_id();
        let least = Money::from_pico_usd(amount.pico_usd() / 10);
        let call = Estimate { model: Some("a"), tool: None, least: Some(least), likely: None, worst: Some(amount) };
        let size = self.accounts.size_of(account, &call);
        let usual = self.accounts.usual(account);
        let is_strict = matches!(self.accounts.policy(account), HoldPolicy::WorstCase { .. });
        let expected = self.books.ask(Seen { id, task, pid, size, usual, least, is_strict });
        let ask = Ask { id, account, pid, call, consent: Consent::None };
        let answer = self.accounts.ask(&ask, self.now);
        let name = match &answer {
            Answer::Go => "go",
            Answer::Wait(Wait::InFlight) => "in flight",
            Answer::Wait(Wait::Lent(_)) => "lent",
            Answer::Wait(Wait::Paced(_)) => "paced",
            Answer::Wait(Wait::Paused) => "paused",
            Answer::Wait(Wait::Approval(_)) => "approval",
            Answer::Refuse(_) => "refuse",
        };
        assert_eq!(name, expected, "step {}: {ask:?} {answer:?}", self.steps);
        *self.answers.entry(name).or_default() += 1;
        if answer == Answer::Go {
            assert_eq!(self.accounts.hold(id), Some(self.books.hold(id)));
            self.open.push(Open { id, task });
        }
    }

    fn balance(&mut self, task: usize) {
        let account = self.ids[task];
        let size = self.accounts.credit_size(account);
        let is_wary = self.books.path(task).iter().any(|&node| self.books.standing(node).is_some());
        let target = if is_wary { 0 } else { self.books.lendable(task, size) };
        assert_eq!(self.accounts.lendable(account), target, "step {}", self.steps);
        match self.accounts.balance(account) {
            Balance::Keep => {}
            Balance::Lend(credits) => {
                assert_eq!(credits, target - self.books.credits(task));
                let lent = self.accounts.lend(account, credits);
                self.books.lend(task, size, lent);
                *self.answers.entry("credits").or_default() += lent;
            }
            Balance::TakeBack(credits) => {
                self.accounts.take_back(account, credits);
                self.books.take_back(task, credits);
            }
        }
    }

    /// By how much each account of the path, in each window, is over its cap.
    fn over(&self, task: usize) -> Vec<Money> {
        let mut over = Vec::new();
        for &node in &*self.books.path(task) {
            let id = self.ids[node];
            for window in [Window::Hour, Window::Day] {
                if let Some(cap) = self.accounts.cap(id, window).filter(|_| !self.books.is_approved(node)) {
                    over.push(
                        self.accounts.spent_in(id, window) + self.accounts.held(id) + self.accounts.lent(id) - cap,
                    );
                } else {
                    over.push(Money::ZERO);
                }
            }
        }
        over
    }

    fn compare(&self, task: usize) {
        for &node in &*self.books.path(task) {
            let id = self.ids[node];
            for window in [Window::Hour, Window::Day] {
                assert_eq!(self.accounts.spent_in(id, window), self.books.spent(node, window), "step {}", self.steps);
            }
            assert_eq!(self.accounts.held(id), self.books.held(node), "step {}", self.steps);
            assert_eq!(self.accounts.lent(id), self.books.lent(node), "step {}", self.steps);
            assert_eq!(self.accounts.calls_in_flight(id), self.books.flights(node), "step {}", self.steps);
            let standing = self.accounts.node(id).and_then(|node| node.standing()).map(|(action, _)| *action);
            assert_eq!(standing, self.books.standing(node), "step {}", self.steps);
        }
        assert_eq!(self.accounts.credits(self.ids[task]), self.books.credits(task));
    }

    /// A warning is said once in its period, not before its share is spent, and then at once.
    fn compare_decisions(&mut self, task: usize, decisions: &[Decision]) {
        for decision in decisions {
            let Decision::Warn { account, limit: Limit::Money(window), percent, .. } = decision else { continue };
            let node = self.ids.iter().position(|id| id == account).expect("an account");
            assert!(self.books.has_spent(node, *window, *percent));
            let is_new = self.said.insert((node, *window, self.books.period(*window), *percent));
            assert!(is_new, "step {}: {decision:?} was said before", self.steps);
        }
        for &node in &*self.books.path(task) {
            for (window, percent) in
                [Window::Hour, Window::Day].into_iter().flat_map(|window| [50, 80, 95].map(|percent| (window, percent)))
            {
                if !self.books.is_approved(node) && self.books.has_spent(node, window, percent) {
                    let said = self.said.contains(&(node, window, self.books.period(window), percent));
                    assert!(said, "step {}: {percent} % of {window:?} was not said", self.steps);
                }
            }
        }
    }

    fn compare_all(&mut self) {
        self.books.add_up();
        for index in 0..self.tasks.len() {
            self.compare(self.tasks[index]);
        }
        assert_eq!(self.accounts.holds.len(), self.open.len());
        let present = [Window::Hour, Window::Day].map(|window| self.books.period(window));
        self.said.retain(|(_, window, period, _)| present[usize::from(*window == Window::Day)] == *period);
    }

    /// Ends every call: then nothing may be held or lent.
    fn end(&mut self) {
        self.compare_all();
        // Half of them by the end of their processes.
        for (index, open) in std::mem::take(&mut self.open).into_iter().enumerate() {
            let Some(pid) = self.accounts.holds.get(&open.id).map(|hold| hold.pid) else { continue };
            match index % 2 {
                0 => assert!(self.accounts.release(open.id)),
                _ => assert!(self.accounts.release_process(pid) > 0),
            }
        }
        for &task in &self.tasks {
            self.accounts.deactivate(self.ids[task], self.now);
        }
        assert!(self.accounts.holds.is_empty() && self.accounts.by_pid.is_empty());
        for &id in &self.ids {
            assert_eq!(
                (self.accounts.held(id), self.accounts.lent(id), self.accounts.calls_in_flight(id)),
                (Money::ZERO, Money::ZERO, 0)
            );
        }
    }
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<u8>(), any::<u16>(), any::<u16>(), prop_oneof![60 => 0..4000_u16, 1 => Just(u16::MAX)]);
    prop::collection::vec(step.prop_map(|(kind, who, amount, pause)| Step { kind, who, amount, pause }), 1..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn accounts_are_equal_to_the_books(steps in steps(600)) {
        let mut world = World { slowness: 50, ..World::new(2, 2, 3, Manners::Wild) };
        steps.into_iter().for_each(|step| world.step(step));
        world.end();
    }

    /// The promise: while calls cost what was held for them, `spent + held + lent` of no account passes a cap.
    #[test]
    fn no_cap_is_passed_by_calls_that_keep_to_their_holds(steps in steps(600)) {
        let mut world = World { slowness: 50, ..World::new(1, 2, 3, Manners::Good) };
        steps.into_iter().for_each(|step| world.step(step));
        world.end();
    }
}

/// Random numbers that are the same on every run (Vigna's SplitMix64).
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn step(&mut self) -> Step {
        let [a, b, c, d, e, f, g, h] = self.next().to_le_bytes();
        let pause = u16::from_le_bytes([f, g]);
        Step {
            kind: a,
            who: u16::from_le_bytes([b, c]),
            amount: u16::from_le_bytes([d, e]),
            pause: if pause == 7 && h < 64 { u16::MAX } else { pause % 4000 },
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

fn run(mut world: World, steps: u64) -> World {
    let mut random = SplitMix(number("TOLLGATE_ORACLE_SEED", 1));
    (0..steps).for_each(|_| world.step(random.step()));
    world.end();
    println!("{:?}: {} steps, until {}: {:?}", world.manners, world.steps, world.now, world.answers);
    world
}

/// A thousand tasks of ten tenants. `TOLLGATE_ORACLE_STEPS=1000000` makes it a million steps, half of them wild; with `--release` that takes some
/// seconds. `TOLLGATE_ORACLE_SEED` makes it other ones.
#[test]
fn a_thousand_tasks() {
    let steps = number("TOLLGATE_ORACLE_STEPS", 40_000);
    run(World::new(10, 10, 10, Manners::Wild), steps / 2);
    run(World::new(10, 10, 10, Manners::Good), steps / 2);
}

/// Few tasks for many hours: every answer there is has to come up, else the steps show nothing.
#[test]
fn a_few_tasks_for_long() {
    let world = run(World { slowness: 100, ..World::new(2, 2, 3, Manners::Wild) }, 20_000);
    for answer in ["go", "credits", "in flight", "lent", "paced", "paused", "refuse", "ended"] {
        assert!(world.answers.get(answer).is_some_and(|times| *times > 10), "{answer}: {:?}", world.answers);
    }
    assert!(world.books.squeezed > 10, "{}", world.books.squeezed);
}
