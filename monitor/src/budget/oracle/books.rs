//! A simple account of everything that happened.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    rc::Rc,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    budget::{Action, Approval, Budget, HoldId, MOST_LENT, Rung, UNLIMITED, Window},
    price::Money,
};

/// What the accounts are asked, with what they think that it costs.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    pub id: HoldId,
    pub task: usize,
    pub pid: u32,
    pub size: Money,
    pub usual: Money,
    pub least: Money,
    pub is_strict: bool,
}

#[derive(Debug, Clone)]
struct Flight {
    task: usize,
    amount: Money,
    running: Money,
    pid: u32,
    is_cut: bool,
}

/// Since when a share is reached, by rung, in a period of a window.
#[derive(Debug, Clone, Default)]
struct Reached {
    period: i64,
    since: Vec<Option<Timestamp>>,
}

#[derive(Debug, Clone)]
struct Account {
    path: Rc<[usize]>,
    caps: [Option<Money>; 2],
    rungs: Rc<[Rung]>,
    /// Under the number of the hour or day.
    spent: [BTreeMap<i64, Money>; 2],
    /// Money that was added, under the period that it is for.
    added: BTreeMap<(Window, i64), Money>,
    approved_until: Option<Timestamp>,
    /// Window and period in which a call did not fit.
    short: Option<(Window, i64)>,
    /// By hour, by day, and by a call that did not fit.
    reached: [Reached; 3],
    paced_until: Timestamp,
    credits: u64,
    size: Money,
    active: u64,
    held: Money,
    lent: Money,
    flights: u64,
}

#[derive(Debug, Default)]
pub struct Books {
    now: Timestamp,
    accounts: Vec<Account>,
    flights: BTreeMap<HoldId, Flight>,
    by_pid: HashMap<u32, Vec<HoldId>>,
    approved: BTreeSet<usize>,
    /// Requests that were let go although other calls of their process held what they need.
    pub squeezed: u64,
    charges: Vec<(usize, Timestamp, Money)>,
}

const WINDOWS: [Window; 2] = [Window::Hour, Window::Day];

const fn index(window: Window) -> usize {
    matches!(window, Window::Day) as usize
}

/// The number of an hour or a day, in UTC.
fn number(window: Window, at: Timestamp) -> i64 {
    at.as_second().div_euclid(if window == Window::Hour { 3600 } else { 86_400 })
}

impl Books {
    pub fn open(&mut self, parent: Option<usize>, budget: &Budget) {
        let mut path = vec![self.accounts.len()];
        path.extend(parent.iter().flat_map(|&parent| self.accounts[parent].path.iter()));
        self.accounts.push(Account {
            path: path.into(),
            caps: WINDOWS.map(|window| budget.limits.money.get(window)),
            rungs: budget.ladder.rungs().into(),
            spent: Default::default(),
            added: BTreeMap::new(),
            approved_until: None,
            short: None,
            reached: Default::default(),
            paced_until: Timestamp::MIN,
            credits: 0,
            size: Money::ZERO,
            active: 0,
            held: Money::ZERO,
            lent: Money::ZERO,
            flights: 0,
        });
    }

    pub fn path(&self, account: usize) -> Rc<[usize]> {
        self.accounts[account].path.clone()
    }

    fn on_path(&mut self, task: usize, mut change: impl FnMut(&mut Account)) {
        for &account in &*self.path(task) {
            change(&mut self.accounts[account]);
        }
    }

    pub fn activate(&mut self, task: usize) {
        self.on_path(task, |account| account.active += 1);
    }

    /// The task has ended: its credits are given up. What is in flight stays so.
    pub fn deactivate(&mut self, task: usize) {
        let credits = self.credits(task);
        self.take_back(task, credits);
        self.on_path(task, |account| account.active -= 1);
    }

    pub fn advance(&mut self, now: Timestamp) {
        self.now = now;
        for account in self.approved.clone() {
            if self.accounts[account].approved_until.is_none_or(|until| until <= now) {
                self.approved.remove(&account);
                self.accounts[account].approved_until = None;
                self.observe_one(account);
            }
        }
    }

    // --- what is known

    pub fn period(&self, window: Window) -> i64 {
        number(window, self.now)
    }

    pub fn spent(&self, account: usize, window: Window) -> Money {
        self.accounts[account].spent[index(window)].get(&self.period(window)).copied().unwrap_or_default()
    }

    pub fn held(&self, account: usize) -> Money {
        self.accounts[account].held
    }

    pub fn lent(&self, account: usize) -> Money {
        self.accounts[account].lent
    }

    pub fn flights(&self, account: usize) -> u64 {
        self.accounts[account].flights
    }

    pub fn credits(&self, account: usize) -> u64 {
        self.accounts[account].credits
    }

    pub fn hold(&self, id: HoldId) -> Money {
        self.flights[&id].amount
    }

    pub fn is_approved(&self, account: usize) -> bool {
        self.accounts[account].approved_until.is_some()
    }

    fn cap(&self, account: usize, window: Window) -> Option<Money> {
        let added = self.accounts[account].added.get(&(window, self.period(window))).copied().unwrap_or_default();
        Some(self.accounts[account].caps[index(window)]? + added)
    }

    pub fn has_spent(&self, account: usize, window: Window, percent: u16) -> bool {
        let spent = self.spent(account, window).pico_usd();
        self.cap(account, window).is_some_and(|cap| spent * 100 >= cap.pico_usd() * i128::from(percent))
    }

    /// The window with the least left, and how much that is without holds and credits.
    fn left(&self, account: usize) -> Option<(Window, Money)> {
        if self.is_approved(account) {
            return None;
        }
        let left = |window| Some((window, self.cap(account, window)? - self.spent(account, window)));
        WINDOWS.into_iter().filter_map(left).reduce(|a, b| if b.1 < a.1 { b } else { a })
    }

    // --- the ladder

    /// Notes which shares are reached now, of every account of a path.
    pub fn observe(&mut self, task: usize) {
        for &account in &*self.path(task) {
            self.observe_one(account);
        }
    }

    fn observe_one(&mut self, account: usize) {
        let rungs = self.accounts[account].rungs.clone();
        let is_approved = self.is_approved(account);
        let short = self.accounts[account].short.filter(|(window, period)| *period == self.period(*window));
        for by in 0..3 {
            let window = if by == 0 { Window::Hour } else { Window::Day };
            let is_reached: Vec<bool> = rungs
                .iter()
                .map(|rung| {
                    let by_share = if by == 2 {
                        short.is_some() && rung.percent <= 100
                    } else {
                        self.has_spent(account, window, rung.percent)
                    };
                    by_share && !is_approved
                })
                .collect();
            // A call that does not fit counts until the window ends in which it did not.
            let period = match short {
                Some((window, period)) if by == 2 => period * 2 + i64::from(window == Window::Day),
                _ => self.period(window),
            };
            let now = self.now;
            let reached = &mut self.accounts[account].reached[by];
            if reached.period != period || reached.since.is_empty() {
                *reached = Reached { period, since: vec![None; rungs.len()] };
            }
            for (since, is_reached) in reached.since.iter_mut().zip(is_reached) {
                *since = if is_reached { since.or(Some(now)) } else { None };
            }
        }
    }

    pub fn standing(&self, account: usize) -> Option<Action> {
        let of = &self.accounts[account];
        let short = of.short.filter(|(window, period)| *period == self.period(*window));
        let in_force = of.reached.iter().enumerate().flat_map(|(by, reached)| {
            let is_present = match by {
                0 => reached.period == self.period(Window::Hour),
                1 => reached.period == self.period(Window::Day),
                _ => short.is_some(),
            };
            let rungs = of.rungs.iter().zip(&reached.since);
            rungs.filter(move |_| is_present).filter_map(|(rung, since)| {
                let is_over = self.now.duration_since((*since)?) >= rung.grace;
                is_over.then_some(rung.action)
            })
        });
        in_force.filter(|action| *action != Action::Warn).max()
    }

    pub fn approve(&mut self, account: usize, approval: Approval) {
        let (now, of) = (self.now, &mut self.accounts[account]);
        of.short = None;
        match approval {
            Approval::Add(money) => {
                for window in WINDOWS {
                    *of.added.entry((window, number(window, now))).or_default() += money;
                }
            }
            Approval::Until(until) => {
                of.approved_until = (until > now).then_some(until);
                self.approved.insert(account);
            }
        }
        self.observe_one(account);
    }

    // --- calls

    pub fn ask(&mut self, seen: Seen) -> &'static str {
        let path = self.path(seen.task);
        let standings: Vec<Action> = path.iter().filter_map(|&account| self.standing(account)).collect();
        let strongest = standings.iter().max();
        if strongest == Some(&Action::Pause) {
            return "paused";
        }
        if strongest.is_some_and(|action| *action >= Action::Cut) {
            return "refuse";
        }
        if path.iter().any(|&account| self.pace(account).is_some() && self.accounts[account].paced_until > self.now) {
            return "paced";
        }
        let mut wait = None;
        let mut squeezed = None;
        for &account in &*path {
            let Some((window, left)) = self.left(account) else { continue };
            let (held, lent) = (self.held(account), self.lent(account));
            if left - held - lent >= seen.size {
                continue;
            }
            let own: Vec<&Flight> = self.of_process(seen.pid).map(|id| &self.flights[&id]).collect();
            if self.flights(account) > own.len() as u64 {
                wait = wait.or(Some("in flight"));
            } else if lent > Money::ZERO {
                wait = wait.or(Some("lent"));
            } else {
                let usual: Money = own.iter().map(|flight| flight.amount.min(seen.usual).max(flight.running)).sum();
                let needs = if own.is_empty() { seen.least } else { seen.usual.max(seen.least) };
                if seen.is_strict || usual + needs > left {
                    self.accounts[seen.task].short = Some((window, self.period(window)));
                    self.observe_one(seen.task);
                    return "refuse";
                }
                squeezed = Some(account);
            }
        }
        if let Some(wait) = wait {
            return wait;
        }
        if squeezed.is_some() {
            let own: Vec<HoldId> = self.of_process(seen.pid).collect();
            self.squeezed += u64::from(!own.is_empty());
            for id in own {
                let flight = &self.flights[&id];
                let smaller = flight.amount.min(seen.usual).max(flight.running);
                self.hold_so_much(id, smaller);
            }
        }
        let room = path
            .iter()
            .filter_map(|&account| Some(self.left(account)?.1 - self.held(account) - self.lent(account)))
            .min();
        self.start(seen.id, seen.task, seen.pid, room.map_or(seen.size, |room| seen.size.min(room.max(Money::ZERO))));
        "go"
    }

    fn pace(&self, account: usize) -> Option<Money> {
        match self.standing(account) {
            Some(Action::Throttle { per_hour }) => Some(per_hour),
            _ => None,
        }
    }

    fn of_process(&self, pid: u32) -> impl Iterator<Item = HoldId> {
        self.by_pid.get(&pid).into_iter().flatten().copied()
    }

    pub fn start(&mut self, id: HoldId, task: usize, pid: u32, amount: Money) {
        self.flights.insert(id, Flight { task, amount, running: Money::ZERO, pid, is_cut: false });
        self.by_pid.entry(pid).or_default().push(id);
        let now = self.now;
        for &account in &*self.path(task) {
            let pace = self.pace(account);
            let account = &mut self.accounts[account];
            account.held += amount;
            account.flights += 1;
            if let Some(per_hour) = pace {
                let nanoseconds = amount.pico_usd() * 3_600_000_000_000 / per_hour.pico_usd();
                let earned = SignedDuration::from_nanos(i64::try_from(nanoseconds).expect("a while"));
                account.paced_until = account.paced_until.max(now) + earned;
            }
        }
    }

    fn hold_so_much(&mut self, id: HoldId, amount: Money) {
        let flight = self.flights.get_mut(&id).expect("a flight");
        let (before, task) = (flight.amount, flight.task);
        flight.amount = amount;
        self.on_path(task, |account| account.held = account.held - before + amount);
    }

    /// Says whether the call has to be cut now.
    pub fn raise(&mut self, id: HoldId, running: Money) -> bool {
        let flight = self.flights.get_mut(&id).expect("a flight");
        flight.running = running;
        let (is_larger, is_cut, task) = (running > flight.amount, flight.is_cut, flight.task);
        if !is_larger {
            return false;
        }
        self.hold_so_much(id, running);
        let is_over = |&account: &usize| self.left(account).is_some_and(|(_, left)| self.held(account) > left);
        let cuts = !is_cut && self.path(task).iter().any(is_over);
        self.flights.get_mut(&id).expect("a flight").is_cut |= cuts;
        cuts
    }

    pub fn release(&mut self, id: HoldId) {
        let flight = self.flights.remove(&id).expect("a flight");
        self.by_pid.get_mut(&flight.pid).expect("a process").retain(|other| *other != id);
        self.on_path(flight.task, |account| {
            account.held -= flight.amount;
            account.flights -= 1;
        });
    }

    pub fn release_process(&mut self, pid: u32) -> usize {
        let ids: Vec<HoldId> = self.of_process(pid).collect();
        ids.iter().for_each(|&id| self.release(id));
        ids.len()
    }

    pub fn settle(&mut self, id: HoldId, cost: Money, at: Timestamp) {
        let task = self.flights[&id].task;
        self.release(id);
        self.charges.push((task, at, cost));
        self.on_path(task, |account| {
            for window in WINDOWS {
                *account.spent[index(window)].entry(number(window, at)).or_default() += cost;
            }
        });
    }

    // --- credits

    pub fn lendable(&self, task: usize, size: Option<Money>) -> u64 {
        let mut target = UNLIMITED;
        for &account in &*self.path(task) {
            let Some((_, left)) = self.left(account) else { continue };
            let part = (left - self.held(account)).pico_usd().max(0) / i128::from(self.accounts[account].active.max(1));
            let credits = match size.map(Money::pico_usd) {
                None => 0,
                Some(0) if part > 0 => UNLIMITED,
                Some(0) => 0,
                Some(size) => u64::try_from(part / size).expect("a number"),
            };
            target = target.min(credits).min(MOST_LENT);
        }
        target
    }

    /// `lent` were lent; whether they could be is asserted here.
    pub fn lend(&mut self, task: usize, size: Option<Money>, lent: u64) {
        let (credits, before) = (self.accounts[task].credits, self.accounts[task].size);
        // Without a limit credits are lent before it is known what a call costs.
        let size = size.unwrap_or(Money::from_pico_usd(10_000_000));
        let room = self
            .path(task)
            .iter()
            .filter_map(|&account| Some(self.left(account)?.1 - self.held(account) - self.lent(account)))
            .min();
        let more = |lent: u64| size * (credits + lent) - before * credits;
        assert!(
            lent == 0 || room.is_none_or(|room| more(lent) <= room),
            "{lent} credits are more than there is room for"
        );
        if let Some(room) = room
            && more(0) > room.max(Money::ZERO)
        {
            assert_eq!(lent, 0, "credits that are out are worth too little");
            return;
        }
        self.set_credits(task, credits + lent, size);
    }

    fn set_credits(&mut self, task: usize, credits: u64, size: Money) {
        let before = self.accounts[task].size * self.accounts[task].credits;
        self.accounts[task].credits = credits;
        self.accounts[task].size = size;
        self.on_path(task, |account| account.lent = account.lent - before + size * credits);
    }

    pub fn take_back(&mut self, task: usize, credits: u64) {
        self.set_credits(task, self.accounts[task].credits - credits, self.accounts[task].size);
    }

    pub fn credit_taken(&mut self, id: HoldId, task: usize, pid: u32, amount: Money) {
        assert_eq!(amount, self.accounts[task].size, "a hold is what its credit was worth");
        self.take_back(task, 1);
        self.start(id, task, pid, amount);
    }

    // --- all over again

    /// Adds everything up from what happened, and compares with the running sums.
    pub fn add_up(&mut self) {
        let today = number(Window::Day, self.now);
        self.charges.retain(|(_, at, _)| number(Window::Day, *at) >= today);
        let mut sums = vec![[Money::ZERO; 4]; self.accounts.len()];
        for (task, at, cost) in &self.charges {
            let is_this_hour = number(Window::Hour, *at) == self.period(Window::Hour);
            for &account in &*self.accounts[*task].path {
                sums[account][0] += *cost;
                sums[account][1] += if is_this_hour { *cost } else { Money::ZERO };
            }
        }
        for flight in self.flights.values() {
            self.path(flight.task).iter().for_each(|&account| sums[account][2] += flight.amount);
        }
        for task in &self.accounts {
            task.path.iter().for_each(|&account| sums[account][3] += task.size * task.credits);
        }
        for (account, sums) in sums.into_iter().enumerate() {
            let running = [
                self.spent(account, Window::Day),
                self.spent(account, Window::Hour),
                self.held(account),
                self.lent(account),
            ];
            assert_eq!(running, sums, "account {account}");
        }
    }
}
