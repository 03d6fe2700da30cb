//! One account: its money, its counts, and how far up its ladder it is.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    accounts::AccountId,
    calendar::{Calendar, Window},
    history::Histories,
    ladder::{Action, Progress, Share, Trigger},
    limits::{Budget, Count, Limit},
    reason::{Decision, Reason, Spent},
};
use crate::price::Money;

/// Money of one period: of no other once that has ended.
#[derive(Debug, Clone, Copy)]
struct InPeriod {
    since: Timestamp,
    money: Money,
}

impl InPeriod {
    const NONE: Self = Self { since: Timestamp::MIN, money: Money::ZERO };

    fn get(self, start: Timestamp) -> Money {
        if self.since == start { self.money } else { Money::ZERO }
    }

    fn add(&mut self, start: Timestamp, money: Money) {
        *self = Self { since: start, money: self.get(start) + money };
    }
}

/// Credits that the gate of this very account has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Escrow {
    pub credits: u64,
    /// What each of them is worth.
    pub size: Money,
}

impl Escrow {
    pub fn money(self) -> Money {
        self.size * self.credits
    }
}

/// The last call that did not fit, and the period in which it did not.
#[derive(Debug, Clone)]
struct Short {
    reason: Reason,
    window: Window,
    since: Timestamp,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub parent: Option<AccountId>,
    pub children: u32,
    pub depth: u32,
    pub budget: Budget,
    spent: [InPeriod; 5],
    /// The part of it that is a ceiling.
    unpriced: [InPeriod; 5],
    /// Caps that a person has added to.
    granted: [InPeriod; 5],
    approved_until: Option<Timestamp>,
    // These three are of the account and everything below it.
    pub held: Money,
    pub in_flight: u64,
    pub lent: Money,
    pub credits: u64,
    pub own: Escrow,
    counts: [u64; 9],
    /// Of the call that used the most.
    most_tokens: u64,
    tools: BTreeMap<Box<str>, u64>,
    /// Accounts at and below this one that run.
    pub running: u64,
    pub is_active: bool,
    running_since: Timestamp,
    pub histories: Histories,
    /// The most that a call has ever been able to cost.
    pub worst: Money,
    /// The most that a call was likely to cost, while none is known that did cost something.
    pub likely: Option<Money>,
    progress: Vec<Progress>,
    short: Option<Short>,
    imposed: Option<(Action, Reason)>,
    standing: Option<(Action, Reason)>,
    pub paced_until: Timestamp,
}

impl Node {
    pub fn new(parent: Option<AccountId>, depth: u32, budget: Budget) -> Self {
        let mut node = Self {
            parent,
            children: 0,
            depth,
            budget,
            spent: [InPeriod::NONE; 5],
            unpriced: [InPeriod::NONE; 5],
            granted: [InPeriod::NONE; 5],
            approved_until: None,
            held: Money::ZERO,
            in_flight: 0,
            lent: Money::ZERO,
            credits: 0,
            own: Escrow::default(),
            counts: [0; 9],
            most_tokens: 0,
            tools: BTreeMap::new(),
            running: 0,
            is_active: false,
            running_since: Timestamp::MIN,
            histories: Histories::default(),
            worst: Money::ZERO,
            likely: None,
            progress: Vec::new(),
            short: None,
            imposed: None,
            standing: None,
            paced_until: Timestamp::MIN,
        };
        node.prepare_progress();
        node
    }

    fn prepare_progress(&mut self) {
        let limits = &self.budget.limits;
        let money = Window::ALL.into_iter().filter(|&window| limits.money.get(window).is_some()).map(Limit::Money);
        let counts = limits.counts.keys().map(|&count| Limit::Count(count));
        let tools = limits.tools.keys().map(|tool| Limit::Tool(tool.clone()));
        let all = money.chain(counts).chain(tools).chain([Limit::NextCall]);
        self.progress = all.map(|limit| Progress::new(limit, &self.budget.ladder)).collect();
        self.tools.retain(|tool, _| limits.tools.contains_key(tool));
    }

    /// Another budget from now on; what was added to the one before does not count.
    pub fn set_budget(&mut self, budget: Budget, calendar: &Calendar) {
        self.budget = budget;
        self.granted = [InPeriod::NONE; 5];
        self.approved_until = None;
        self.short = None;
        self.prepare_progress();
        self.silence_warnings(calendar);
    }

    // --- money

    pub fn spent(&self, window: Window, calendar: &Calendar) -> Money {
        self.spent[window.index()].get(calendar.period(window).start)
    }

    pub fn unpriced(&self, window: Window, calendar: &Calendar) -> Money {
        self.unpriced[window.index()].get(calendar.period(window).start)
    }

    /// As [`Node::spent`], for what is said of it.
    pub fn spent_of(&self, window: Window, calendar: &Calendar) -> Spent {
        Spent { counted: self.spent(window, calendar), unpriced: self.unpriced(window, calendar) }
    }

    /// Counts in every period that has not ended since.
    pub fn spend(&mut self, cost: Money, unpriced: Money, at: Timestamp, calendar: &Calendar) {
        for window in Window::ALL {
            let start = calendar.period(window).start;
            if at >= start {
                self.spent[window.index()].add(start, cost);
                self.unpriced[window.index()].add(start, unpriced);
            }
        }
    }

    pub fn cap(&self, window: Window, calendar: &Calendar) -> Option<Money> {
        let limit = self.budget.limits.money.get(window)?;
        Some(limit + self.granted[window.index()].get(calendar.period(window).start))
    }

    /// Whether its limits hold for what is about to start.
    pub fn is_binding(&self, now: Timestamp) -> bool {
        self.budget.ladder.is_hard() && !self.is_approved(now)
    }

    fn is_approved(&self, now: Timestamp) -> bool {
        self.approved_until.is_some_and(|until| now < until)
    }

    /// What is left for holds and credits in the tightest window; `None` where nothing is limited. Less than 0 after calls that cost
    /// more than was held for them, or when the budget was made smaller.
    pub fn free(&self, calendar: &Calendar) -> Option<Money> {
        self.tightest(calendar).map(|(_, spent, cap)| cap - spent - self.held)
    }

    /// What is left beyond the credits that are lent.
    pub fn room(&self, calendar: &Calendar) -> Option<Money> {
        self.free(calendar).map(|free| free - self.lent)
    }

    /// The window of which the least is left, what is spent in it, and its cap.
    pub fn tightest(&self, calendar: &Calendar) -> Option<(Window, Money, Money)> {
        if !self.is_binding(calendar.now()) {
            return None;
        }
        let capped = Window::ALL.into_iter().filter_map(|window| Some((window, self.cap(window, calendar)?)));
        capped
            .map(|(window, cap)| (window, self.spent(window, calendar), cap))
            .min_by_key(|&(_, spent, cap)| cap - spent)
    }

    pub fn add_to_caps(&mut self, money: Money, calendar: &Calendar) {
        for window in Window::ALL {
            self.granted[window.index()].add(calendar.period(window).start, money);
        }
    }

    /// What a person added earlier, as far as it is of a period that has not ended.
    pub fn add_again(&mut self, money: Money, at: Timestamp, calendar: &Calendar) {
        for window in Window::ALL {
            let start = calendar.period(window).start;
            if at >= start {
                self.granted[window.index()].add(start, money);
            }
        }
    }

    pub const fn approve_until(&mut self, until: Timestamp) {
        self.approved_until = Some(until);
    }

    // --- counts

    pub fn counted(&self, count: Count, now: Timestamp) -> u64 {
        let counted = self.counts[count.index()];
        if count == Count::WallTime && self.running > 0 {
            let running = now.duration_since(self.running_since).as_millis();
            return counted.saturating_add(u64::try_from(running).unwrap_or(0));
        }
        counted
    }

    pub const fn count(&mut self, count: Count, more: u64) {
        let counted = &mut self.counts[count.index()];
        *counted = counted.saturating_add(more);
    }

    pub const fn uncount(&mut self, count: Count, less: u64) {
        let counted = &mut self.counts[count.index()];
        *counted = counted.saturating_sub(less);
    }

    pub fn count_depth(&mut self, depth: u64) {
        let deepest = &mut self.counts[Count::AgentDepth.index()];
        *deepest = depth.max(*deepest);
    }

    /// Tools without a limit have no count of their own: their names come from outside.
    pub fn count_tool(&mut self, tool: &str) {
        self.count_tool_alone(tool);
        self.count(Count::ToolCalls, 1);
    }

    /// As [`Node::count_tool`], and not among all tool calls.
    pub fn count_tool_alone(&mut self, tool: &str) {
        if self.budget.limits.tools.contains_key(tool) {
            *self.tools.entry(tool.into()).or_default() += 1;
        }
    }

    pub fn tool_calls(&self, tool: &str) -> u64 {
        self.tools.get(tool).copied().unwrap_or(0)
    }

    /// How many more of this may start beside those that have or may; `None` where that is not limited.
    pub fn count_left(&self, count: Count, pending: u64, now: Timestamp) -> Option<u64> {
        let limit = self.budget.limits.counts.get(&count).filter(|_| self.is_binding(now))?;
        Some(limit.saturating_sub(self.counted(count, now)).saturating_sub(pending))
    }

    /// How many more calls a limit lets start: of tokens, as many as would each use as much as the largest one has, the last of them in part.
    pub fn calls_left(&self, count: Count, pending: u64, now: Timestamp) -> Option<u64> {
        if count != Count::Tokens {
            return self.count_left(count, pending, now);
        }
        let left = self.count_left(count, 0, now)?;
        // Before one is known: one.
        let each = if self.most_tokens == 0 { left } else { self.most_tokens };
        Some(left.div_ceil(each.max(1)).saturating_sub(pending))
    }

    /// How many more calls may start without asking where calls of tools are limited: each may lead to one.
    pub fn tools_left(&self, pending: u64, now: Timestamp) -> Option<u64> {
        let limits = self.budget.limits.tools.iter().filter(|_| self.is_binding(now));
        let named = limits.map(|(tool, limit)| limit.saturating_sub(self.tool_calls(tool)).saturating_sub(pending));
        named.chain(self.count_left(Count::ToolCalls, pending, now)).min()
    }

    pub fn use_tokens(&mut self, tokens: u64) {
        self.count(Count::Tokens, tokens);
        self.most_tokens = self.most_tokens.max(tokens);
    }

    pub const fn run(&mut self, now: Timestamp) {
        if self.running == 0 {
            self.running_since = now;
        }
        self.running += 1;
    }

    pub fn rest(&mut self, now: Timestamp) {
        if self.running == 1 {
            self.counts[Count::WallTime.index()] = self.counted(Count::WallTime, now);
        }
        self.running = self.running.saturating_sub(1);
    }

    // --- ladder

    /// The strongest action in force.
    pub fn standing(&self) -> Option<&(Action, Reason)> {
        self.standing.as_ref()
    }

    /// For good.
    pub fn is_killed(&self) -> bool {
        self.budget.kill_is_final && matches!(self.standing, Some((Action::Kill, _)))
    }

    /// A call did not fit into what is left in this window.
    pub fn fall_short(&mut self, reason: Reason, window: Window, calendar: &Calendar) {
        self.short = Some(Short { reason, window, since: calendar.period(window).start });
    }

    pub fn impose(&mut self, action: Action, reason: Reason) {
        if self.imposed.as_ref().is_none_or(|(before, _)| *before < action) {
            self.imposed = Some((action, reason));
        }
    }

    /// Takes back what did not come from a limit.
    pub fn forgive(&mut self) {
        self.short = None;
        self.imposed = None;
    }

    fn share(&self, limit: &Limit, calendar: &Calendar) -> Option<Share> {
        let now = calendar.now();
        if self.is_approved(now) {
            return None;
        }
        // So many of what comes one by one are allowed: its limit is passed by the next one.
        let discrete = |used: u64, cap: u64| Share { used: i128::from(used) - 1, cap: i128::from(cap) };
        match limit {
            Limit::Money(window) => {
                let cap = self.cap(*window, calendar)?;
                Some(Share { used: self.spent(*window, calendar).pico_usd(), cap: cap.pico_usd() })
            }
            Limit::Count(count) => {
                let (used, cap) = (self.counted(*count, now), *self.budget.limits.counts.get(count)?);
                Some(match count {
                    Count::Tokens | Count::WallTime | Count::CpuTime => Share { used: used.into(), cap: cap.into() },
                    _ => discrete(used, cap),
                })
            }
            Limit::Tool(tool) => Some(discrete(self.tool_calls(tool), *self.budget.limits.tools.get(tool)?)),
            Limit::NextCall => {
                let short = self.short.as_ref()?;
                let is_present = short.since == calendar.period(short.window).start;
                is_present.then_some(Share { used: 1, cap: 1 })
            }
        }
    }

    fn reason(&self, limit: &Limit, calendar: &Calendar) -> Option<Reason> {
        let limits = &self.budget.limits;
        Some(match limit {
            Limit::Money(window) => Reason::CapReached {
                window: *window,
                spent: self.spent_of(*window, calendar),
                cap: self.cap(*window, calendar)?,
            },
            Limit::Count(count) => Reason::CountReached {
                count: *count,
                used: self.counted(*count, calendar.now()),
                cap: *limits.counts.get(count)?,
            },
            Limit::Tool(tool) => Reason::ToolCallsReached {
                tool: tool.clone(),
                used: self.tool_calls(tool),
                cap: *limits.tools.get(tool)?,
            },
            Limit::NextCall => self.short.as_ref()?.reason.clone(),
        })
    }

    fn turn(progress: &mut Progress, calendar: &Calendar) {
        if let Limit::Money(window) = progress.limit {
            progress.turn_to(calendar.period(window).start);
        }
    }

    /// Thresholds that are passed already were said when they were.
    pub fn silence_warnings(&mut self, calendar: &Calendar) {
        let mut all = std::mem::take(&mut self.progress);
        for progress in &mut all {
            Self::turn(progress, calendar);
            if let Some(share) = self.share(&progress.limit, calendar) {
                progress.silence_warnings(&self.budget.ladder, share);
            }
        }
        self.progress = all;
    }

    /// Climbs or descends the ladder to where the account is now. Returns when to look again, if nothing happens before.
    pub fn evaluate(
        &mut self,
        id: AccountId,
        calendar: &Calendar,
        trigger: Trigger,
        decisions: &mut Vec<Decision>,
    ) -> Option<Timestamp> {
        // Nothing undoes a kill.
        if self.is_killed() {
            return None;
        }
        let mut all = std::mem::take(&mut self.progress);
        let mut strongest: Option<(Action, &Limit)> = None;
        let mut due = self.approved_until.filter(|&until| calendar.now() < until);
        for progress in &mut all {
            Self::turn(progress, calendar);
            let share = self.share(&progress.limit, calendar);
            progress.climb(&self.budget.ladder, share, calendar.now(), trigger, |limit, percent| {
                let reason = match limit {
                    Limit::Money(window) => self.cap(*window, calendar).map(|cap| Reason::ShareReached {
                        window: *window,
                        percent,
                        spent: self.spent_of(*window, calendar),
                        cap,
                    }),
                    _ => self.reason(limit, calendar),
                };
                if let Some(reason) = reason {
                    decisions.push(Decision::Warn { account: id, limit: limit.clone(), percent, reason });
                }
            });
            let action = progress.action(&self.budget.ladder);
            if let Some(action) = action.filter(|action| strongest.is_none_or(|(before, _)| before < *action)) {
                strongest = Some((action, &progress.limit));
            }
            due = due.into_iter().chain(progress.next_due(&self.budget.ladder)).min();
        }
        let by_limit = strongest.and_then(|(action, limit)| Some((action, self.reason(limit, calendar)?)));
        self.progress = all;
        let imposed = self.imposed.clone().filter(|(action, _)| by_limit.as_ref().is_none_or(|(by, _)| by < action));
        self.stand(id, imposed.or(by_limit), decisions);
        due
    }

    fn stand(&mut self, id: AccountId, next: Option<(Action, Reason)>, decisions: &mut Vec<Decision>) {
        let before = self.standing.as_ref().map(|(action, _)| *action);
        let after = next.as_ref().map(|(action, _)| *action);
        if before == after {
            return;
        }
        match &next {
            Some((action, reason)) if after > before => {
                decisions.push(Decision::Act { account: id, action: *action, reason: reason.clone() });
            }
            _ => decisions.push(Decision::Lift { account: id, remains: after }),
        }
        self.standing = next;
    }
}
