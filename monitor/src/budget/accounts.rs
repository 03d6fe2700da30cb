//! The tree of accounts.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

use super::{
    calendar::{Calendar, Period, Window},
    history::Models,
    hold::{Charge, Hold, HoldId},
    ladder::{Action, Trigger},
    limits::{Budget, Count},
    node::Node,
    reason::{Decision, Reason},
};
use crate::price::Money;

/// An account; never that of another one that takes its place later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId {
    index: u32,
    generation: u32,
}

impl AccountId {
    /// As a number.
    pub fn number(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AccountError {
    #[error("the account is closed")]
    Closed,
    #[error("accounts are at most {DEEPEST} levels deep")]
    TooDeep,
    #[error("there is no room for another account")]
    Full,
    #[error("{0} accounts below it are open")]
    HasChildren(u32),
    #[error("it was killed, which nothing undoes")]
    Killed,
}

/// Levels of accounts.
const DEEPEST: u32 = 32;
/// No single amount is larger, so that sums never reach the end of [`Money`]: a million million USD.
const LARGEST: Money = Money::from_pico_usd(Money::PICO_PER_USD * 1_000_000_000_000);

/// A cost as it can be counted on.
pub(super) fn sane(amount: Money) -> Money {
    amount.clamp(Money::ZERO, LARGEST)
}

/// Where a past charge is put again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// The account and all above it: after a start, when nothing is there yet.
    Path,
    /// The account alone: those above it have not forgotten.
    Account,
}

/// What a person allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// So much more in each limited window: in `total` for good, in the others until they end.
    Add(Money),
    /// The account's own limits do not count before that time. Those above it do.
    Until(Timestamp),
}

#[derive(Debug, Clone, Default)]
struct Place {
    generation: u32,
    node: Option<Node>,
}

/// All accounts, and the holds of all calls in flight.
#[derive(Debug, Clone)]
pub struct Accounts {
    places: Vec<Place>,
    free: Vec<u32>,
    pub(super) calendar: Calendar,
    pub(super) models: Models,
    pub(super) holds: HashMap<HoldId, Hold>,
    pub(super) by_pid: BTreeMap<u32, BTreeSet<HoldId>>,
    /// When grace times and approvals end.
    due: BTreeSet<(Timestamp, AccountId)>,
    /// Accounts whose wall time is limited.
    timed: BTreeSet<AccountId>,
    pub(super) decisions: Vec<Decision>,
}

impl Accounts {
    pub fn new(zone: TimeZone, now: Timestamp) -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
            calendar: Calendar::new(zone, now),
            models: Models::default(),
            holds: HashMap::new(),
            by_pid: BTreeMap::new(),
            due: BTreeSet::new(),
            timed: BTreeSet::new(),
            decisions: Vec::new(),
        }
    }

    // --- the tree

    /// Opens an account below another one, or at the top.
    ///
    /// # Errors
    /// When the one above is closed, or too deep.
    pub fn open(&mut self, parent: Option<AccountId>, budget: Budget) -> Result<AccountId, AccountError> {
        let depth = match parent {
            Some(parent) => self.node(parent).ok_or(AccountError::Closed)?.depth + 1,
            None => 0,
        };
        if depth >= DEEPEST {
            return Err(AccountError::TooDeep);
        }
        let is_timed = budget.limits.counts.contains_key(&Count::WallTime);
        let node = Some(Node::new(parent, depth, budget));
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.places.push(Place::default());
                u32::try_from(self.places.len() - 1).map_err(|_| AccountError::Full)?
            }
        };
        let place = self.places.get_mut(index as usize).ok_or(AccountError::Full)?;
        place.node = node;
        let id = AccountId { index, generation: place.generation };
        if let Some(parent) = parent.and_then(|parent| self.node_mut(parent)) {
            parent.children += 1;
        }
        if is_timed {
            self.timed.insert(id);
        }
        Ok(id)
    }

    /// Closes an account that nothing is below. Its holds are released and its credits taken back; what it spent stays on those above.
    ///
    /// # Errors
    /// When it is closed already, or accounts below it are open.
    pub fn close(&mut self, account: AccountId, now: Timestamp) -> Result<(), AccountError> {
        match self.node(account) {
            None => return Err(AccountError::Closed),
            Some(node) if node.children > 0 => return Err(AccountError::HasChildren(node.children)),
            Some(_) => {}
        }
        self.deactivate(account, now);
        let mut holds: Vec<HoldId> =
            self.holds.iter().filter(|(_, hold)| hold.account == account).map(|(id, _)| *id).collect();
        holds.sort_unstable();
        for hold in holds {
            self.release(hold);
        }
        self.timed.remove(&account);
        let Some(place) = self.places.get_mut(account.index as usize) else { return Err(AccountError::Closed) };
        let node = place.node.take();
        place.generation = place.generation.wrapping_add(1);
        self.free.push(account.index);
        if let Some(parent) = node.and_then(|node| node.parent).and_then(|parent| self.node_mut(parent)) {
            parent.children -= 1;
        }
        Ok(())
    }

    /// Something of the account runs: it has a share of what is lent, and its wall time passes.
    pub fn activate(&mut self, account: AccountId, now: Timestamp) {
        self.advance(now);
        let Some(node) = self.node_mut(account).filter(|node| !node.is_active) else { return };
        node.is_active = true;
        self.on_path(account, |node, calendar| node.run(calendar.now()));
    }

    /// Nothing of the account runs any more, and its gate is closed: its credits are taken back.
    pub fn deactivate(&mut self, account: AccountId, now: Timestamp) {
        self.advance(now);
        self.take_back(account, u64::MAX);
        let Some(node) = self.node_mut(account).filter(|node| node.is_active) else { return };
        node.is_active = false;
        self.on_path(account, |node, calendar| node.rest(calendar.now()));
        self.evaluate_path(account, Trigger::Share);
    }

    /// Another budget from now on. Of the thresholds that are passed already nothing is said.
    ///
    /// # Errors
    /// When the account is closed.
    pub fn set_budget(&mut self, account: AccountId, budget: Budget, now: Timestamp) -> Result<(), AccountError> {
        self.advance(now);
        if budget.limits.counts.contains_key(&Count::WallTime) {
            self.timed.insert(account);
        } else {
            self.timed.remove(&account);
        }
        let (node, calendar) = self.node_and_calendar(account).ok_or(AccountError::Closed)?;
        node.set_budget(budget, calendar);
        self.evaluate(account, Trigger::Share);
        Ok(())
    }

    /// Whether `account` is `above`, or below it.
    pub fn is_within(&self, account: AccountId, above: AccountId) -> bool {
        self.path(account).any(|(id, _)| id == above)
    }

    pub fn parent(&self, account: AccountId) -> Option<AccountId> {
        self.node(account)?.parent
    }

    pub(super) fn node(&self, account: AccountId) -> Option<&Node> {
        let place = self.places.get(account.index as usize)?;
        place.node.as_ref().filter(|_| place.generation == account.generation)
    }

    pub(super) fn node_mut(&mut self, account: AccountId) -> Option<&mut Node> {
        node_mut(&mut self.places, account)
    }

    pub(super) fn node_and_calendar(&mut self, account: AccountId) -> Option<(&mut Node, &Calendar)> {
        let Self { places, calendar, .. } = self;
        Some((node_mut(places, account)?, calendar))
    }

    /// The account and all above it, from below.
    pub(super) fn path(&self, account: AccountId) -> impl Iterator<Item = (AccountId, &Node)> {
        let first = self.node(account).map(|node| (account, node));
        std::iter::successors(first, |(_, node)| {
            let parent = node.parent?;
            self.node(parent).map(|node| (parent, node))
        })
    }

    pub(super) fn on_path(&mut self, account: AccountId, mut change: impl FnMut(&mut Node, &Calendar)) {
        let Self { places, calendar, .. } = self;
        let mut next = Some(account);
        while let Some(node) = next.and_then(|account| node_mut(places, account)) {
            change(node, calendar);
            next = node.parent;
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (AccountId, &Node)> {
        self.places.iter().zip(0_u32..).filter_map(|(place, index)| {
            Some((AccountId { index, generation: place.generation }, place.node.as_ref()?))
        })
    }

    // --- spending

    /// A call of the account cost this much. For one with a hold, use [`Accounts::settle`].
    pub fn charge(&mut self, account: AccountId, charge: &Charge<'_>) {
        self.advance(charge.at);
        self.put(account, charge, Onto::Path);
        self.evaluate_path(account, Trigger::Share);
    }

    /// Puts a past charge on the account again, after a start or when the account is opened again. No warning comes of it: that was said
    /// then. A limit that is passed takes effect with the next [`Accounts::tick`].
    pub fn restore(&mut self, account: AccountId, charge: &Charge<'_>, onto: Onto) {
        self.put(account, charge, onto);
        let now = self.calendar.now();
        let accounts: Vec<AccountId> = self.path(account).map(|(account, _)| account).collect();
        for account in accounts.into_iter().take(if onto == Onto::Path { usize::MAX } else { 1 }) {
            if let Some((node, calendar)) = self.node_and_calendar(account) {
                node.count(Count::Requests, 1);
                if let Some(tool) = charge.model.filter(|_| charge.is_tool) {
                    node.count_tool(tool);
                }
                node.silence_warnings(calendar);
                self.due.insert((now, account));
            }
        }
    }

    fn put(&mut self, account: AccountId, charge: &Charge<'_>, onto: Onto) {
        let cost = sane(charge.cost);
        let unpriced = sane(charge.unpriced).min(cost);
        let model = charge.model.filter(|_| charge.is_typical).and_then(|model| self.models.record(model, cost));
        let put = |node: &mut Node, calendar: &Calendar| {
            node.spend(cost, unpriced, charge.at, calendar);
            if charge.is_typical {
                node.histories.record(model, cost);
            }
            if !charge.is_tool {
                node.count(Count::ModelCalls, 1);
            }
            node.use_tokens(charge.tokens);
        };
        match onto {
            Onto::Path => self.on_path(account, put),
            Onto::Account => {
                if let Some((node, calendar)) = self.node_and_calendar(account) {
                    put(node, calendar);
                }
            }
        }
    }

    // --- counting

    pub fn tool_called(&mut self, account: AccountId, tool: &str, now: Timestamp) {
        self.advance(now);
        self.on_path(account, |node, _| node.count_tool(tool));
        self.evaluate_path(account, Trigger::Share);
    }

    /// A model asks for a tool that is called where nobody sees it: it counts toward a limit of that tool alone.
    pub fn tool_asked(&mut self, account: AccountId, tool: &str, now: Timestamp) {
        self.advance(now);
        self.on_path(account, |node, _| node.count_tool_alone(tool));
        self.evaluate_path(account, Trigger::Share);
    }

    /// What was counted before a start; a limit that is passed takes effect with the next [`Accounts::tick`].
    pub fn restore_count(&mut self, account: AccountId, count: Count, number: u64) {
        let now = self.calendar.now();
        if let Some((node, calendar)) = self.node_and_calendar(account) {
            node.count(count, number);
            node.silence_warnings(calendar);
            self.due.insert((now, account));
        }
    }

    /// Whether the account, or one above it, limits that.
    pub fn limits(&self, account: AccountId, count: Count) -> bool {
        self.path(account).any(|(_, node)| node.budget.limits.counts.contains_key(&count))
    }

    /// An agent started an agent, which is so many levels below the first one.
    pub fn agent_started(&mut self, account: AccountId, depth: u64, now: Timestamp) {
        self.advance(now);
        self.on_path(account, |node, _| {
            node.count(Count::SubAgentsAlive, 1);
            node.count(Count::SubAgentsStarted, 1);
            node.count_depth(depth);
        });
        self.evaluate_path(account, Trigger::Share);
    }

    pub fn agent_ended(&mut self, account: AccountId, now: Timestamp) {
        self.advance(now);
        self.on_path(account, |node, _| node.uncount(Count::SubAgentsAlive, 1));
        self.evaluate_path(account, Trigger::Share);
    }

    /// So much more processor time was used.
    pub fn cpu_used(&mut self, account: AccountId, time: SignedDuration, now: Timestamp) {
        self.advance(now);
        let milliseconds = u64::try_from(time.as_millis()).unwrap_or(0);
        self.on_path(account, |node, _| node.count(Count::CpuTime, milliseconds));
        self.evaluate_path(account, Trigger::Share);
    }

    // --- time and people

    /// Time passes: windows turn, grace times and approvals end.
    pub fn tick(&mut self, now: Timestamp) {
        self.advance(now);
        let timed: Vec<AccountId> = self.timed.iter().copied().collect();
        for account in timed {
            self.evaluate(account, Trigger::Share);
        }
    }

    pub(super) fn advance(&mut self, now: Timestamp) {
        if self.calendar.advance(now) {
            let all: Vec<AccountId> = self.all().map(|(account, _)| account).collect();
            for account in all {
                self.evaluate(account, Trigger::Share);
            }
        }
        while let Some(&(due, account)) = self.due.first().filter(|(due, _)| *due <= self.calendar.now()) {
            self.due.remove(&(due, account));
            self.evaluate(account, Trigger::Share);
        }
    }

    /// A person allows more. What was imposed is lifted, and so is what the limits do not demand any longer.
    ///
    /// # Errors
    /// When the account is closed or killed.
    pub fn approve(&mut self, account: AccountId, approval: Approval, now: Timestamp) -> Result<(), AccountError> {
        self.advance(now);
        let (node, calendar) = self.node_and_calendar(account).ok_or(AccountError::Closed)?;
        if node.is_killed() {
            return Err(AccountError::Killed);
        }
        node.forgive();
        match approval {
            Approval::Add(money) => node.add_to_caps(sane(money), calendar),
            Approval::Until(until) => node.approve_until(until),
        }
        self.evaluate(account, Trigger::Share);
        Ok(())
    }

    /// What a person allowed before a start holds again, as far as it is of a period that has not ended.
    ///
    /// # Errors
    /// When the account is closed.
    pub fn approve_again(&mut self, account: AccountId, approval: Approval, at: Timestamp) -> Result<(), AccountError> {
        let (node, calendar) = self.node_and_calendar(account).ok_or(AccountError::Closed)?;
        match approval {
            Approval::Add(money) => node.add_again(sane(money), at, calendar),
            Approval::Until(until) => node.approve_until(until),
        }
        let now = self.calendar.now();
        self.due.insert((now, account));
        Ok(())
    }

    /// A person says no: the account is killed.
    pub fn deny(&mut self, account: AccountId, now: Timestamp) {
        self.impose(account, Action::Kill, Reason::Denied, now);
    }

    /// Takes an action that no limit demands: for a person, or for trouble that was seen. [`Accounts::approve`] takes it back.
    pub fn impose(&mut self, account: AccountId, action: Action, reason: Reason, now: Timestamp) {
        self.advance(now);
        if action > Action::Warn
            && let Some(node) = self.node_mut(account)
        {
            node.impose(action, reason);
            self.evaluate(account, Trigger::Share);
        }
    }

    /// The account tries to spend although it may not, other than by [`Accounts::ask`]: it opens connections, for example.
    pub fn attempted(&mut self, account: AccountId, now: Timestamp) {
        self.advance(now);
        self.evaluate_path(account, Trigger::Attempt);
    }

    pub(super) fn evaluate(&mut self, account: AccountId, trigger: Trigger) {
        let Self { places, calendar, decisions, due, .. } = self;
        let Some(node) = node_mut(places, account) else { return };
        let next = node.evaluate(account, calendar, trigger, decisions);
        due.extend(next.filter(|&next| next > calendar.now()).map(|next| (next, account)));
    }

    pub(super) fn evaluate_path(&mut self, account: AccountId, trigger: Trigger) {
        let mut next = Some(account);
        while let Some(account) = next {
            self.evaluate(account, trigger);
            next = self.parent(account);
        }
    }

    /// What was decided since this was last called, in order.
    pub fn take_decisions(&mut self) -> Vec<Decision> {
        std::mem::take(&mut self.decisions)
    }

    // --- what is known

    pub fn budget(&self, account: AccountId) -> Option<&Budget> {
        self.node(account).map(|node| &node.budget)
    }

    /// What counts toward the cap since the account was opened, or restored.
    pub fn spent(&self, account: AccountId) -> Money {
        self.spent_in(account, Window::Total)
    }

    /// The part of it that is a ceiling, for calls without a price.
    pub fn unpriced(&self, account: AccountId) -> Money {
        self.node(account).map(|node| node.unpriced(Window::Total, &self.calendar)).unwrap_or_default()
    }

    pub fn spent_in(&self, account: AccountId, window: Window) -> Money {
        self.node(account).map(|node| node.spent(window, &self.calendar)).unwrap_or_default()
    }

    /// The cap of a window, with what a person has added.
    pub fn cap(&self, account: AccountId, window: Window) -> Option<Money> {
        self.node(account)?.cap(window, &self.calendar)
    }

    pub fn period(&self, window: Window) -> Period {
        self.calendar.period(window)
    }

    /// Holds that are open, of all accounts.
    pub fn holds_open(&self) -> usize {
        self.holds.len()
    }

    /// Held for calls in flight.
    pub fn held(&self, account: AccountId) -> Money {
        self.node(account).map(|node| node.held).unwrap_or_default()
    }

    /// Lent to gates as credits, at this account and below.
    pub fn lent(&self, account: AccountId) -> Money {
        self.node(account).map(|node| node.lent).unwrap_or_default()
    }

    pub fn calls_in_flight(&self, account: AccountId) -> u64 {
        self.node(account).map_or(0, |node| node.in_flight)
    }

    pub fn counted(&self, account: AccountId, count: Count) -> u64 {
        self.node(account).map_or(0, |node| node.counted(count, self.calendar.now()))
    }

    /// Calls of a tool whose number is limited.
    pub fn tool_calls(&self, account: AccountId, tool: &str) -> u64 {
        self.node(account).map_or(0, |node| node.tool_calls(tool))
    }

    /// The strongest action in force on the account or on one above it, and on which.
    pub fn standing(&self, account: AccountId) -> Option<(AccountId, Action, &Reason)> {
        let standings = self.path(account).filter_map(|(id, node)| {
            let (action, reason) = node.standing()?;
            Some((id, *action, reason))
        });
        // Of equal ones that of the nearest account.
        standings.reduce(|nearest, other| if other.1 > nearest.1 { other } else { nearest })
    }
}

fn node_mut(places: &mut [Place], account: AccountId) -> Option<&mut Node> {
    let place = places.get_mut(account.index as usize)?;
    place.node.as_mut().filter(|_| place.generation == account.generation)
}
