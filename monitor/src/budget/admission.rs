//! Calls: how they are let in, held for, and settled.

use jiff::Timestamp;

use super::{
    accounts::{AccountId, Accounts, sane},
    calendar::Window,
    history::History,
    hold::{Answer, Ask, Charge, Estimate, Hold, HoldId, HoldPolicy, Wait},
    ladder::{Action, Trigger},
    limits::Count,
    node::Node,
    reason::{Decision, Reason},
    rules::Ruling,
};
use crate::price::Money;

/// The smallest amount: a call costs something.
const LEAST: Money = Money::from_pico_usd(1);

impl Accounts {
    /// What a call to this model, or any call, is expected to cost: what 99 of 100 calls like it before did not exceed. Of this
    /// account, else of the nearest one above it that knows, else of all accounts.
    pub fn expected(&self, account: AccountId, model: Option<&str>) -> Money {
        let model = model.and_then(|model| self.models.get(model));
        let by_model = model.and_then(|model| {
            let mut known = self.path(account).filter_map(|(_, node)| node.histories.of(model));
            known.next().or_else(|| self.models.costs(model))
        });
        let p99 = by_model.map(History::p99).or_else(|| self.expected_of_any(account));
        p99.map_or_else(|| self.guessed(account), |p99| p99.max(LEAST))
    }

    /// What a call costs before any has: as much as one that is on its way is likely to, else as it is set.
    fn guessed(&self, account: AccountId) -> Money {
        let likely = self.path(account).find_map(|(_, node)| node.likely);
        let first_hold = || self.node(account).map(|node| node.budget.first_hold).unwrap_or_default();
        likely.unwrap_or_else(first_hold).max(LEAST)
    }

    /// As [`Accounts::expected`], of whichever model; `None` before a call of the account, or of those around it, is known.
    pub(super) fn expected_of_any(&self, account: AccountId) -> Option<Money> {
        let mut known = self.path(account).map(|(_, node)| node.histories.any()).filter(|history| !history.is_empty());
        known.next().map(|history| history.p99().max(LEAST))
    }

    /// What is held for a call, by the policy of the account's budget.
    pub fn size_of(&self, account: AccountId, call: &Estimate<'_>) -> Money {
        let Some(node) = self.node(account) else { return Money::ZERO };
        let least = sane(call.least.unwrap_or_default());
        let size = match self.policy(account) {
            HoldPolicy::Off => return Money::ZERO,
            HoldPolicy::Expected => match call.likely {
                Some(likely) if !self.knows(account, call.model) => likely,
                _ => self.expected(account, call.model),
            },
            HoldPolicy::WorstCase { unknown } => call.worst.unwrap_or_else(|| {
                let worst = self.path(account).map(|(_, node)| node.worst).find(|worst| !worst.is_zero());
                worst.unwrap_or_else(|| self.expected(account, call.model) * u64::from(unknown))
            }),
        };
        sane(size.max(least + node.budget.floor))
    }

    /// Whether any call is known that tells what this one will cost.
    fn knows(&self, account: AccountId, model: Option<&str>) -> bool {
        let model = model.and_then(|model| self.models.get(model));
        model.is_some_and(|model| self.models.costs(model).is_some()) || self.expected_of_any(account).is_some()
    }

    pub(super) fn policy(&self, account: AccountId) -> HoldPolicy {
        let limited = |(id, node): &(AccountId, &Node)| *id == account || node.tightest(&self.calendar).is_some();
        let policies = self.path(account).filter(limited).map(|(_, node)| node.budget.holds);
        policies.max().unwrap_or(HoldPolicy::Expected)
    }

    /// May a held request start? Opens its hold if so.
    ///
    /// A process that is held has all its threads stopped, also those that read the answers of its other calls. Waiting for these would be
    /// waiting for ever, so when nothing else is in the way they are counted at what a call usually costs, not at what it might, and their
    /// holds are made that small. The request then gets what is left.
    pub fn ask(&mut self, ask: &Ask<'_>, now: Timestamp) -> Answer {
        self.advance(now);
        let size = self.size_of(ask.account, &ask.call);
        if let Err(answer) = self.permit(ask, size) {
            return answer;
        }
        if let Some(answer) = self.within_counts(ask) {
            return answer;
        }
        let is_short = |room: Option<Money>| room.is_some_and(|room| room < size);
        let path: Vec<AccountId> = self.path(ask.account).map(|(id, _)| id).collect();
        let short: Vec<AccountId> = path
            .iter()
            .copied()
            .filter(|&id| self.node(id).is_some_and(|node| is_short(node.room(&self.calendar))))
            .collect();
        let mut wait = None;
        for &account in &short {
            match self.squeeze(account, ask) {
                Ok(()) => {}
                Err(Answer::Wait(reason)) => wait = wait.or(Some(Answer::Wait(reason))),
                Err(answer) => return answer,
            }
        }
        if let Some(wait) = wait {
            return wait;
        }
        if let Some(&highest) = short.last() {
            let usual = self.usual(ask.account);
            for (id, hold) in self.own_holds(ask.pid, highest) {
                self.resize(id, hold.usual(usual));
            }
        }
        let room = path.iter().filter_map(|&id| self.node(id)?.room(&self.calendar)).min();
        self.note_estimate(ask.account, &ask.call);
        self.start(ask.id, ask.account, ask.pid, room.map_or(size, |room| size.min(room.max(Money::ZERO))));
        Answer::Go
    }

    /// Rules, and actions that are in force.
    fn permit(&mut self, ask: &Ask<'_>, size: Money) -> Result<(), Answer> {
        let mut approve = None;
        for (_, node) in self.path(ask.account) {
            match node.budget.rules.rule(&ask.call, size, ask.consent) {
                Ruling::Deny(reason) => return Err(Answer::Refuse(reason)),
                Ruling::Approve(reason) => approve = approve.or(Some(reason)),
                Ruling::Allow => {}
            }
        }
        let standing = self.standing(ask.account).map(|(_, action, reason)| (action, reason.clone()));
        match standing {
            Some((Action::Pause, _)) => return Err(Answer::Wait(Wait::Paused)),
            Some((action, reason)) if action.stops() => {
                self.evaluate_path(ask.account, Trigger::Attempt);
                return Err(Answer::Refuse(reason));
            }
            _ => {}
        }
        if let Some(reason) = approve {
            return Err(Answer::Wait(Wait::Approval(reason)));
        }
        let paced = self.path(ask.account).filter(|(_, node)| pace(node).is_some()).map(|(_, node)| node.paced_until);
        match paced.max().filter(|&until| until > self.calendar.now()) {
            Some(until) => Err(Answer::Wait(Wait::Paced(until))),
            None => Ok(()),
        }
    }

    /// Limits on the number of requests, of model calls and of tokens.
    fn within_counts(&mut self, ask: &Ask<'_>) -> Option<Answer> {
        let now = self.calendar.now();
        let mut refused = None;
        for (id, node) in self.path(ask.account) {
            for count in [Count::Requests, Count::ModelCalls, Count::Tokens] {
                if node.calls_left(count, 0, now).is_none() {
                    continue;
                }
                let in_flight = match count {
                    Count::ModelCalls | Count::Tokens => {
                        node.in_flight.saturating_sub(self.own_holds(ask.pid, id).len() as u64)
                    }
                    _ => 0,
                };
                let left = |pending| node.calls_left(count, pending, now).is_none_or(|left| left > 0);
                if left(in_flight + node.credits) {
                    continue;
                }
                // Calls in flight may turn out to be no model calls, and credits can be taken back.
                if left(in_flight) {
                    return Some(Answer::Wait(Wait::Lent(id)));
                }
                if left(0) {
                    return Some(Answer::Wait(Wait::InFlight));
                }
                let cap = node.budget.limits.counts.get(&count).copied().unwrap_or_default();
                refused = Some(Reason::CountReached { count, used: node.counted(count, now), cap });
            }
        }
        let reason = refused?;
        self.fall_short(ask.account, reason.clone(), Window::Total);
        Some(Answer::Refuse(reason))
    }

    /// Whether the request fits into an account that has no room for its hold, when the process's other calls are counted at the usual.
    fn squeeze(&mut self, account: AccountId, ask: &Ask<'_>) -> Result<(), Answer> {
        let Some(node) = self.node(account) else { return Ok(()) };
        let Some((window, spent, cap)) = node.tightest(&self.calendar) else { return Ok(()) };
        let own = self.own_holds(ask.pid, account);
        if node.in_flight > own.len() as u64 {
            return Err(Answer::Wait(Wait::InFlight));
        }
        if !node.lent.is_zero() {
            return Err(Answer::Wait(Wait::Lent(account)));
        }
        let usual = self.usual(ask.account);
        let least = sane(ask.call.least.unwrap_or(LEAST));
        let in_flight: Money = own.iter().map(|(_, hold)| hold.usual(usual)).sum();
        // With nothing in flight the last call may overshoot by less than itself; it must at least be payable as far as it is known.
        let needs = if own.is_empty() { least } else { usual.max(least) };
        let is_strict = matches!(self.policy(ask.account), HoldPolicy::WorstCase { .. });
        // Who holds for the worst does not overshoot at all.
        if !is_strict && spent + in_flight + needs <= cap {
            return Ok(());
        }
        let spent = node.spent_of(window, &self.calendar);
        let reason = Reason::NextCallDoesNotFit { window, spent, held: node.held, needs, cap };
        self.fall_short(ask.account, reason.clone(), window);
        Err(Answer::Refuse(reason))
    }

    /// The account that asks climbs its ladder, and not the one above it that has too little left: others may still do with that.
    fn fall_short(&mut self, account: AccountId, reason: Reason, window: Window) {
        if let Some((node, calendar)) = self.node_and_calendar(account) {
            if node.budget.ladder.is_hard() {
                node.fall_short(reason, window, calendar);
            } else {
                node.impose(Action::Cut, reason);
            }
        }
        self.evaluate(account, Trigger::Attempt);
    }

    pub(super) fn usual(&self, account: AccountId) -> Money {
        let Some(node) = self.node(account) else { return Money::ZERO };
        let history = node.histories.any();
        if history.is_empty() { self.guessed(account) } else { history.median() }
    }

    /// Holds of a process at an account and below.
    pub(super) fn own_holds(&self, pid: u32, account: AccountId) -> Vec<(HoldId, Hold)> {
        let ids = self.by_pid.get(&pid).into_iter().flatten();
        let holds = ids.filter_map(|id| Some((*id, self.holds.get(id)?.clone())));
        holds.filter(|(_, hold)| self.path(hold.account).any(|(id, _)| id == account)).collect()
    }

    /// A request is on its way that no credit was taken for: it got past the gate, or shares a write with another one.
    pub fn admit(&mut self, id: HoldId, account: AccountId, pid: u32) {
        let size = self.size_of(account, &Estimate::default());
        self.start(id, account, pid, size);
    }

    /// A call that was in flight when the accounts were last open, with what was held for it.
    pub fn admit_again(&mut self, id: HoldId, account: AccountId, pid: u32, amount: Money) {
        self.start(id, account, pid, amount);
    }

    pub(super) fn start(&mut self, id: HoldId, account: AccountId, pid: u32, amount: Money) {
        self.release(id);
        self.holds.insert(id, Hold { account, amount, running: Money::ZERO, pid, is_cut: false });
        self.by_pid.entry(pid).or_default().insert(id);
        self.on_path(account, |node, calendar| {
            node.held += amount;
            node.in_flight += 1;
            node.count(Count::Requests, 1);
            if let Some(per_hour) = pace(node) {
                node.paced_until = node
                    .paced_until
                    .max(calendar.now())
                    .saturating_add(time_to_earn(amount, per_hour))
                    .unwrap_or(Timestamp::MAX);
            }
        });
        self.evaluate_path(account, Trigger::Share);
    }

    /// The request is read: its hold becomes what is held for such a call, as far as there is room. Without room, a budget that holds for
    /// the worst cuts it, and so do rules that it does not keep.
    pub fn size(&mut self, id: HoldId, call: &Estimate<'_>, now: Timestamp) {
        self.advance(now);
        let Some(hold) = self.holds.get(&id).cloned() else { return };
        self.note_estimate(hold.account, call);
        let size = self.size_of(hold.account, call).max(hold.running);
        let mut refused = None;
        for (account, node) in self.path(hold.account) {
            // What needed approval has got it before, or cannot have known.
            if let Ruling::Deny(reason) = node.budget.rules.rule(call, size, super::Consent::Given) {
                refused = refused.or(Some((account, reason)));
            }
        }
        let room = self.path(hold.account).filter_map(|(_, node)| node.room(&self.calendar)).min();
        let most = room.map_or(size, |room| hold.amount + room.max(Money::ZERO));
        self.resize(id, size.min(most.max(hold.running)));
        if size > most && matches!(self.policy(hold.account), HoldPolicy::WorstCase { .. }) {
            let short = self.path(hold.account).find_map(|(account, node)| {
                let (window, _, cap) = node.tightest(&self.calendar)?;
                let spent = node.spent_of(window, &self.calendar);
                let reason = Reason::NextCallDoesNotFit { window, spent, held: node.held, needs: size, cap };
                node.room(&self.calendar).is_some_and(|room| room <= Money::ZERO).then_some((account, reason))
            });
            refused = refused.or(short);
        }
        if let Some((account, reason)) = refused {
            self.cut(id, account, reason);
        }
    }

    fn cut(&mut self, id: HoldId, account: AccountId, reason: Reason) {
        if let Some(hold) = self.holds.get_mut(&id).filter(|hold| !hold.is_cut) {
            hold.is_cut = true;
            self.decisions.push(Decision::CutCall { account, hold: id, reason });
        }
    }

    /// Other sizes than the one that was looked at do not change what a call has cost by now.
    fn resize(&mut self, id: HoldId, amount: Money) {
        let Some(hold) = self.holds.get_mut(&id) else { return };
        let (before, account) = (hold.amount, hold.account);
        hold.amount = amount;
        self.on_path(account, |node, _| node.held = node.held - before + amount);
    }

    fn note_estimate(&mut self, account: AccountId, call: &Estimate<'_>) {
        if let Some(likely) = call.likely.map(sane) {
            self.on_path(account, |node, _| node.likely = node.likely.max(Some(likely)));
        }
        if let Some(worst) = call.worst.map(sane) {
            self.on_path(account, |node, _| node.worst = node.worst.max(worst));
        }
    }

    /// Whether every account of the path can pay for a call that has cost this much by now.
    pub fn can_be_raised(&self, id: HoldId, running: Money) -> bool {
        let Some(hold) = self.holds.get(&id) else { return true };
        let more = sane(running) - hold.amount;
        let pays = |node: &Node| node.free(&self.calendar).is_none_or(|free| more <= free);
        more <= Money::ZERO || self.path(hold.account).all(|(_, node)| pays(node))
    }

    /// The call has used this much by now: its hold is never smaller. It is cut when an account cannot pay for that.
    pub fn raise(&mut self, id: HoldId, running: Money) {
        let running = sane(running);
        let Some(hold) = self.holds.get_mut(&id) else { return };
        hold.running = running;
        if running <= hold.amount {
            return;
        }
        let (account, is_cut) = (hold.account, hold.is_cut);
        self.resize(id, running);
        if is_cut {
            return;
        }
        let exhausted = self.path(account).find_map(|(account, node)| {
            let (window, spent, cap) = node.tightest(&self.calendar)?;
            let said = node.spent_of(window, &self.calendar);
            let reason = Reason::CallOutgrew { window, spent: said, held: node.held, running, cap };
            (spent + node.held > cap).then_some((account, reason))
        });
        if let Some((account, reason)) = exhausted {
            self.cut(id, account, reason);
        }
    }

    /// What is held for a call in flight.
    pub fn hold(&self, id: HoldId) -> Option<Money> {
        self.holds.get(&id).map(|hold| hold.amount)
    }

    /// The call ended and cost this much: its hold ends, and the cost is spent. Says whether there was such a hold; else nothing is
    /// changed.
    pub fn settle(&mut self, id: HoldId, charge: &Charge<'_>) -> bool {
        let Some(account) = self.holds.get(&id).map(|hold| hold.account) else { return false };
        self.release(id);
        self.charge(account, charge);
        true
    }

    /// The request turned out to be free, or never left. Says whether there was such a hold.
    pub fn release(&mut self, id: HoldId) -> bool {
        let Some(hold) = self.holds.remove(&id) else { return false };
        if let Some(ids) = self.by_pid.get_mut(&hold.pid) {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_pid.remove(&hold.pid);
            }
        }
        self.on_path(hold.account, |node, _| {
            node.held -= hold.amount;
            node.in_flight = node.in_flight.saturating_sub(1);
        });
        true
    }

    /// The request has not left after all: as [`Accounts::release`], and it never was one.
    pub fn withdraw(&mut self, id: HoldId) -> bool {
        let Some(account) = self.holds.get(&id).map(|hold| hold.account) else { return false };
        self.on_path(account, |node, _| node.uncount(Count::Requests, 1));
        self.release(id)
    }

    /// The process is gone, and its calls with it. Returns how many.
    pub fn release_process(&mut self, pid: u32) -> usize {
        let ids = self.by_pid.get(&pid).cloned().unwrap_or_default();
        ids.into_iter().filter(|&id| self.release(id)).count()
    }
}

/// The pace that a throttle allows.
pub(super) fn pace(node: &Node) -> Option<Money> {
    match node.standing() {
        Some((Action::Throttle { per_hour }, _)) => Some(*per_hour),
        _ => None,
    }
}

fn time_to_earn(amount: Money, per_hour: Money) -> jiff::SignedDuration {
    const NANOSECONDS: i128 = 3_600_000_000_000;
    let nanoseconds = amount.pico_usd().saturating_mul(NANOSECONDS) / per_hour.pico_usd().max(1);
    jiff::SignedDuration::from_nanos(i64::try_from(nanoseconds).unwrap_or(i64::MAX))
}
