//! Trouble that no limit has seen: what happens in tasks is shown to the signals, and what these see becomes an incident.
//!
//! An incident has the evidence with it: the last calls, the processes, how fast the money goes, what repeated (as a fingerprint and how often). It
//! is written to the ledger and said, and what is to be done about it climbs the same ladder as a limit.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::json;

use super::state::Engine;
use crate::{
    alert::{Alert, Kind},
    budget::{AccountId, Action, Incident, Reason, Response, SignalSettings, Signals, Trouble, Window},
    ledger::{Entry, PastTrouble},
    meter::{Key, Prompt, ToolAsk},
    pipeline::Charge,
    price::Money,
    probe::{Pid, Slot},
    task::{AccountName, TaskId},
};

/// Calls that an incident shows.
const LAST_CALLS: usize = 16;
/// Processes that it shows.
const PROCESSES: usize = 64;
/// Minutes of spending that are remembered.
const MINUTES: i64 = 60;
/// Bytes of a model's name that are shown.
const MODEL: usize = 128;

/// What watches all tasks.
#[derive(Debug)]
pub struct Watcher {
    pub signals: Signals,
    /// What counts as trouble where nobody says otherwise.
    pub defaults: SignalSettings,
    /// Fingerprints are made with this.
    pub key: Key,
}

/// What is remembered of a task, as evidence.
#[derive(Debug, Default)]
pub struct Evidence {
    calls: VecDeque<LastCall>,
    /// What was spent in each of the last minutes.
    minutes: VecDeque<(i64, Money)>,
    /// Incidents since the daemon started.
    pub incidents: u64,
    /// What the last one was about.
    pub last: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
struct LastCall {
    id: u64,
    pid: Pid,
    model: Option<String>,
    cost_usd: Option<Money>,
    at: Timestamp,
}

impl Evidence {
    fn note(&mut self, call: LastCall, counted: Money) {
        let minute = call.at.as_second().div_euclid(60);
        match self.minutes.back_mut() {
            // What comes late counts now.
            Some((last, money)) if *last >= minute => *money += counted,
            _ => self.minutes.push_back((minute, counted)),
        }
        while self.minutes.front().is_some_and(|(first, _)| minute - first >= MINUTES) {
            self.minutes.pop_front();
        }
        if self.calls.len() >= LAST_CALLS {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    /// What was spent in the minutes up to that time.
    fn spent_within(&self, minutes: i64, at: Timestamp) -> Money {
        let now = at.as_second().div_euclid(60);
        self.minutes.iter().filter(|(minute, _)| now - minute < minutes).map(|(_, money)| *money).sum()
    }
}

/// A call that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended<'a> {
    pub id: u64,
    pub pid: Pid,
    pub charge: &'a Charge,
    pub at: Timestamp,
}

impl Engine {
    /// What counts as trouble on an account, by its settings.
    pub fn watch(&mut self, account: AccountId) {
        let Some(settings) = self.settings.get(&account) else { return };
        let limits = self.accounts.budget(account).map(|budget| budget.limits.money).unwrap_or_default();
        let rules = settings.signal.over(&self.watcher.defaults).rules(&limits);
        self.watcher.signals.set_rules(account, rules);
    }

    /// A model is asked.
    pub fn watch_prompt(&mut self, slot: Slot, prompt: &Prompt, at: Timestamp) {
        let Some(account) = self.tasks.get(&slot).map(|task| task.account) else { return };
        let shingles = prompt.shingles.iter().copied();
        let incident = self.watcher.signals.prompted(account, prompt.fingerprint, shingles, at);
        self.on_incident(incident);
    }

    /// A call has ended, with tools that its answer asks for.
    pub fn watch_call(&mut self, slot: Slot, ended: Ended<'_>, asks: &[ToolAsk]) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let Ended { id, pid, charge, at } = ended;
        let counted = charge.counts().map(|(counted, _)| counted).unwrap_or_default();
        let model = charge.metered.model().map(|model| model.chars().take(MODEL).collect());
        task.evidence.note(LastCall { id, pid, model, cost_usd: charge.cost, at }, counted);
        let account = task.account;
        for ask in asks {
            let incident = self.watcher.signals.tool_called(account, ask.fingerprint, at);
            self.on_incident(incident);
        }
        if counted.is_zero() {
            return;
        }
        let mut above = Some(account);
        while let Some(account) = above {
            let incident = self.watcher.signals.charged(account, counted, at);
            self.on_incident(incident);
            above = self.accounts.parent(account);
        }
        if let Some(workflow) = self.workflow_of(account) {
            let spent = self.accounts.spent(account);
            let incident = self.watcher.signals.costs(account, workflow, spent, at);
            self.on_incident(incident);
        }
    }

    /// The workflow right above a task: what its tasks cost can be held against one another.
    fn workflow_of(&self, account: AccountId) -> Option<AccountId> {
        let above = self.accounts.parent(account)?;
        matches!(self.by_account.get(&above), Some(AccountName::Workflow { .. })).then_some(above)
    }

    /// A process started another one.
    pub fn watch_fork(&mut self, slot: Slot, parent: Pid, at: Timestamp) {
        let Some(task) = self.tasks.get(&slot) else { return };
        let (account, children) = (task.account, task.tree.living_children(parent));
        let incident = self.watcher.signals.fanned_out(account, parent, children, at);
        self.on_incident(incident);
        let incident = self.watcher.signals.spawned(account, parent, at);
        self.on_incident(incident);
    }

    /// A process executed a program.
    pub fn watch_program(&mut self, slot: Slot, pid: Pid, at: Timestamp) {
        let Some(task) = self.tasks.get(&slot) else { return };
        let (account, depth) = (task.account, task.tree.same_program_depth(pid));
        let incident = self.watcher.signals.recursed(account, pid, depth, at);
        self.on_incident(incident);
    }

    /// A task has ended: what it cost is what its workflow's tasks cost.
    pub fn watch_end(&mut self, account: AccountId) {
        if let Some(workflow) = self.workflow_of(account) {
            let spent = self.accounts.spent(account);
            if !spent.is_zero() {
                self.watcher.signals.task_ended(workflow, spent);
            }
        }
    }

    /// What a person has looked at is new when it is seen again, on the account and below.
    pub fn forgive_trouble(&mut self, account: AccountId) {
        self.watcher.signals.forgive(account);
        for slot in self.slots_within(account) {
            if let Some(task) = self.tasks.get(&slot) {
                self.watcher.signals.forgive(task.account);
            }
        }
    }

    /// What was done about trouble before this start, and what no person has taken back, is done again.
    pub fn trouble_again(&mut self, account: AccountId, past: &PastTrouble) {
        if let Ok(Response::Do(action)) = past.action.parse() {
            self.accounts.impose(account, action, Reason::Earlier(past.reason.as_str().into()), Timestamp::now());
        }
    }

    fn on_incident(&mut self, incident: Option<Incident>) {
        let Some(Incident { account, at, trouble, action, unsaid }) = incident else { return };
        let Some(name) = self.by_account.get(&account).cloned() else { return };
        let slots = self.slots_within(account);
        let evidence = self.evidence(&slots, &trouble, at);
        let reason = trouble.to_string();
        for slot in &slots {
            if let Some(task) = self.tasks.get_mut(slot).filter(|task| task.account == account) {
                task.evidence.incidents += 1;
                task.evidence.last = Some(reason.clone());
            }
        }
        self.ledger.put(Entry::Incident {
            account: name.clone(),
            trouble: trouble.name(),
            action: Response::Do(action).to_string(),
            reason: reason.clone(),
            unsaid,
            evidence,
            at,
        });
        let others = if unsaid > 0 { format!(" (and {unsaid} times since it was last said)") } else { String::new() };
        let consequence = if action > Action::Warn { format!(": {}", action.name()) } else { String::new() };
        self.alerts.raise(Alert {
            kind: Kind::Incident,
            task: if let AccountName::Task(task) = &name { Some(TaskId::clone(task)) } else { None },
            account: Some(name).filter(|name| !matches!(name, AccountName::Task(_))),
            actor: None,
            spent: Some(self.accounts.spent(account) - self.accounts.unpriced(account)),
            cap: self.accounts.cap(account, Window::Total),
            message: format!("{reason}{others}{consequence}"),
            at,
        });
        self.accounts.impose(account, action, Reason::Trouble(trouble), Timestamp::now());
        self.act_on_decisions();
    }

    /// As JSON.
    fn evidence(&self, slots: &[Slot], trouble: &Trouble, at: Timestamp) -> String {
        let tasks = || slots.iter().filter_map(|slot| self.tasks.get(slot));
        let mut calls: Vec<&LastCall> = tasks().flat_map(|task| &task.evidence.calls).collect();
        calls.sort_by_key(|call| call.at);
        let calls = calls.split_off(calls.len().saturating_sub(LAST_CALLS));
        let living = tasks().flat_map(|task| task.tree.processes()).filter(|process| process.ended.is_none());
        let processes: Vec<_> = living
            .clone()
            .take(PROCESSES)
            .map(|process| json!({"pid": process.pid, "parent": process.parent, "executable": process.executable, "started": process.started}))
            .collect();
        let rate = |minutes: i64| {
            let spent: Money = tasks().map(|task| task.evidence.spent_within(minutes, at)).sum();
            Money::from_pico_usd(spent.pico_usd().saturating_mul(60) / i128::from(minutes))
        };
        let mut evidence = json!({
            "last_calls": calls,
            "processes": processes,
            "living_processes": living.count(),
            "usd_per_hour": {"5_minutes": rate(5), "60_minutes": rate(MINUTES)},
        });
        if let Some((fingerprint, times)) = trouble.repeated()
            && let Some(evidence) = evidence.as_object_mut()
        {
            let within = within(trouble).map(|within| within.as_secs());
            let repeated = json!({"fingerprint": format!("{fingerprint:016x}"), "times": times, "within_s": within});
            evidence.insert("repeated".into(), repeated);
        }
        evidence.to_string()
    }
}

const fn within(trouble: &Trouble) -> Option<SignedDuration> {
    match *trouble {
        Trouble::SameToolCall { within, .. }
        | Trouble::SamePrompt { within, .. }
        | Trouble::SimilarPrompt { within, .. } => Some(within),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::{Evidence, LAST_CALLS, LastCall};
    use crate::price::Money;

    #[test]
    fn evidence_is_of_the_last_hour_and_bounded() {
        let cent = Money::from_pico_usd(Money::PICO_PER_USD / 100);
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).expect("a time");
        let mut evidence = Evidence::default();
        for second in 0..7200 {
            let call = LastCall { id: 0, pid: 1, model: None, cost_usd: None, at: at(second) };
            evidence.note(call, cent);
        }
        assert_eq!(evidence.calls.len(), LAST_CALLS);
        assert!(evidence.minutes.len() <= 60, "{}", evidence.minutes.len());
        assert_eq!(evidence.spent_within(5, at(7199)), cent * 300);
        assert_eq!(evidence.spent_within(60, at(7199)), cent * 3600);
        assert_eq!(evidence.spent_within(5, at(7199 + 240)), cent * 60, "nothing since then");
    }
}
