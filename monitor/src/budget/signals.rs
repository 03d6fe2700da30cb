//! Signs of trouble that no limit has seen yet: loops, runaway agents, tasks that cost out of line, money that burns too fast.
//!
//! In: fingerprints of calls, starts of processes, charges. Out: [`Incident`]s with what was seen, each with the action that it asks for.
//! Fingerprints are keyed hashes made by the caller: no text is kept here.
//!
//! **Invariant:** memory per account is bounded, and an account says the same kind of trouble once per [`SignalRules::quiet`].

mod burn;
mod recent;
mod settings;

use std::{collections::HashMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

pub use self::{
    burn::Burn,
    settings::{InvalidResponse, Response, SignalSettings},
};
use self::{
    burn::Meter,
    recent::{Recent, simhash},
};
use super::{accounts::AccountId, history::History, ladder::Action};
use crate::price::Money;

/// The same thing so many times in so long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeats {
    pub times: u32,
    pub within: SignedDuration,
    pub action: Action,
}

/// More than so many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MoreThan {
    pub number: u32,
    pub action: Action,
}

/// A task that costs more than its workflow's tasks usually do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outlier {
    /// Robust z-score in hundredths: 350 is 3.5 (Iglewicz and Hoaglin 1993, "How to Detect and Handle Outliers").
    pub z_hundredths: u32,
    /// Tasks that must have ended before there is something to compare with.
    pub at_least: u64,
    pub action: Action,
}

/// What counts as trouble; `None` is not looked for.
#[derive(Debug, Clone)]
pub struct SignalRules {
    pub same_tool_call: Option<Repeats>,
    pub same_prompt: Option<Repeats>,
    pub similar_prompt: Option<Repeats>,
    /// Programs that run themselves, one below the other.
    pub recursion: Option<MoreThan>,
    /// Living children of one process.
    pub fan_out: Option<MoreThan>,
    /// Children that one process started within a time.
    pub spawned: Option<Repeats>,
    pub outlier: Option<Outlier>,
    pub burn: Vec<Burn>,
    /// An account says the same trouble again after this.
    pub quiet: SignedDuration,
}

impl Default for SignalRules {
    fn default() -> Self {
        let repeats = |times| Some(Repeats { times, within: SignedDuration::from_mins(10), action: Action::Warn });
        let more_than = |number| Some(MoreThan { number, action: Action::Warn });
        Self {
            same_tool_call: repeats(10),
            same_prompt: repeats(5),
            similar_prompt: repeats(20),
            recursion: more_than(8),
            fan_out: more_than(64),
            spawned: repeats(256),
            outlier: Some(Outlier { z_hundredths: 350, at_least: 10, action: Action::Warn }),
            burn: Vec::new(),
            quiet: SignedDuration::from_mins(10),
        }
    }
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    #[error("the same tool call {times} times in {} s", .within.as_secs())]
    SameToolCall { fingerprint: u64, times: u32, within: SignedDuration },
    #[error("the same prompt {times} times in {} s", .within.as_secs())]
    SamePrompt { fingerprint: u64, times: u32, within: SignedDuration },
    #[error("{times} prompts that are nearly the same in {} s", .within.as_secs())]
    SimilarPrompt { simhash: u64, times: u32, within: SignedDuration },
    #[error("process {pid} is a program that runs itself {depth} levels deep")]
    Recursion { pid: u32, depth: u32 },
    #[error("process {pid} has {children} living children")]
    FanOut { pid: u32, children: u32 },
    #[error("process {pid} started {started} children in {} s", .within.as_secs())]
    Spawned { pid: u32, started: u32, within: SignedDuration },
    #[error(
        "the task cost ${cost}, where {tasks} tasks of its workflow cost about ${median} (half of them within ${deviation})"
    )]
    Outlier { cost: Money, median: Money, deviation: Money, tasks: u64 },
    #[error("${long} in {} min and ${short} in the last {} min: more than ${} an hour", .rule.long.as_mins(), .rule.short.as_mins(), .rule.per_hour)]
    Burning { rule: Burn, long: Money, short: Money },
}

/// Kinds of trouble, as places in a table.
const KINDS: usize = 8;

impl Trouble {
    const fn kind(&self) -> usize {
        match self {
            Self::SameToolCall { .. } => 0,
            Self::SamePrompt { .. } => 1,
            Self::SimilarPrompt { .. } => 2,
            Self::Recursion { .. } => 3,
            Self::FanOut { .. } => 4,
            Self::Outlier { .. } => 5,
            Self::Burning { .. } => 6,
            Self::Spawned { .. } => 7,
        }
    }

    /// In a word, for whoever filters them.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SameToolCall { .. } => "tool-loop",
            Self::SamePrompt { .. } => "prompt-loop",
            Self::SimilarPrompt { .. } => "near-loop",
            Self::Recursion { .. } => "recursion",
            Self::FanOut { .. } | Self::Spawned { .. } => "fan-out",
            Self::Outlier { .. } => "outlier",
            Self::Burning { .. } => "burn-rate",
        }
    }

    /// What repeated, as its fingerprint, and how often.
    pub const fn repeated(&self) -> Option<(u64, u32)> {
        match *self {
            Self::SameToolCall { fingerprint, times, .. } | Self::SamePrompt { fingerprint, times, .. } => {
                Some((fingerprint, times))
            }
            Self::SimilarPrompt { simhash, times, .. } => Some((simhash, times)),
            _ => None,
        }
    }
}

/// Something that is worth a person's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    pub account: AccountId,
    pub at: Timestamp,
    pub trouble: Trouble,
    /// For [`super::Accounts::impose`], where it is more than a warning.
    pub action: Action,
    /// The same kind of trouble that was seen and not said since the last incident of it.
    pub unsaid: u32,
}

/// What is remembered of an account.
#[derive(Debug, Clone)]
struct Watch {
    tool_calls: Recent,
    prompts: Recent,
    simhashes: Recent,
    starts: Recent,
    burn: Vec<Meter>,
    said: [Option<(Timestamp, u32)>; KINDS],
}

/// Watches all accounts.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Of accounts without rules of their own.
    rules: Arc<SignalRules>,
    own_rules: HashMap<AccountId, Arc<SignalRules>>,
    watches: HashMap<AccountId, Watch>,
    /// What ended tasks cost, by workflow.
    workflows: HashMap<AccountId, History>,
}

/// A median absolute deviation is at least this part of the median: tasks that all cost the same are no reason to call a cent an outlier.
const LEAST_DEVIATION: i128 = 20;

impl Signals {
    pub fn new(rules: SignalRules) -> Self {
        Self { rules: rules.into(), own_rules: HashMap::new(), watches: HashMap::new(), workflows: HashMap::new() }
    }

    /// Rules of its own for an account. How fast its money went is forgotten where what is too fast has changed.
    pub fn set_rules(&mut self, account: AccountId, rules: SignalRules) {
        if let Some(watch) = self.watches.get_mut(&account)
            && !watch.burn.iter().map(Meter::rule).eq(rules.burn.iter().copied())
        {
            watch.burn = rules.burn.iter().map(|rule| Meter::new(*rule)).collect();
        }
        self.own_rules.insert(account, rules.into());
    }

    /// A person has looked at the account: what is seen from now on is new.
    pub fn forgive(&mut self, account: AccountId) {
        self.watches.remove(&account);
    }

    fn rules(&self, account: AccountId) -> Arc<SignalRules> {
        Arc::clone(self.own_rules.get(&account).unwrap_or(&self.rules))
    }

    /// A tool was called; the fingerprint is of its name and arguments.
    pub fn tool_called(&mut self, account: AccountId, fingerprint: u64, at: Timestamp) -> Option<Incident> {
        let rule = self.rules(account).same_tool_call?;
        let times = self.watch(account).tool_calls.note(fingerprint, at, rule.within, u64::eq);
        let trouble = Trouble::SameToolCall { fingerprint, times, within: rule.within };
        (times >= rule.times).then(|| self.say(account, trouble, rule.action, at)).flatten()
    }

    /// A model was asked. `shingles` are fingerprints of overlapping pieces of the prompt, such as each five words in a row.
    pub fn prompted(
        &mut self,
        account: AccountId,
        fingerprint: u64,
        shingles: impl IntoIterator<Item = u64>,
        at: Timestamp,
    ) -> Option<Incident> {
        let (mut incident, rules) = (None, self.rules(account));
        if let Some(rule) = rules.same_prompt {
            let times = self.watch(account).prompts.note(fingerprint, at, rule.within, u64::eq);
            if times >= rule.times {
                let trouble = Trouble::SamePrompt { fingerprint, times, within: rule.within };
                incident = self.say(account, trouble, rule.action, at);
            }
        }
        if let Some(rule) = rules.similar_prompt
            && let Some(simhash) = simhash(shingles)
        {
            let times = self.watch(account).simhashes.note(simhash, at, rule.within, recent::is_similar);
            if times >= rule.times && incident.is_none() {
                let trouble = Trouble::SimilarPrompt { simhash, times, within: rule.within };
                incident = self.say(account, trouble, rule.action, at);
            }
        }
        incident
    }

    /// A process executed a program that runs `depth` times on the way from the task's first process to it.
    pub fn recursed(&mut self, account: AccountId, pid: u32, depth: u32, at: Timestamp) -> Option<Incident> {
        let rule = self.rules(account).recursion.filter(|rule| depth > rule.number)?;
        self.say(account, Trouble::Recursion { pid, depth }, rule.action, at)
    }

    /// A process has so many living children.
    pub fn fanned_out(&mut self, account: AccountId, pid: u32, children: u32, at: Timestamp) -> Option<Incident> {
        let rule = self.rules(account).fan_out.filter(|rule| children > rule.number)?;
        self.say(account, Trouble::FanOut { pid, children }, rule.action, at)
    }

    /// A process started another one.
    pub fn spawned(&mut self, account: AccountId, pid: u32, at: Timestamp) -> Option<Incident> {
        let rule = self.rules(account).spawned?;
        let started = self.watch(account).starts.note(pid.into(), at, rule.within, u64::eq);
        let trouble = Trouble::Spawned { pid, started, within: rule.within };
        (started >= rule.times).then(|| self.say(account, trouble, rule.action, at)).flatten()
    }

    /// The account, or one below it, was charged.
    pub fn charged(&mut self, account: AccountId, cost: Money, at: Timestamp) -> Option<Incident> {
        // Every meter takes it in; the first that it is too much for says so.
        let burning =
            self.watch(account).burn.iter_mut().filter_map(|meter| meter.charge(cost, at)).collect::<Vec<_>>();
        let burning = burning.first()?;
        self.say(account, Trouble::Burning { rule: burning.0, long: burning.1, short: burning.2 }, burning.0.action, at)
    }

    /// A task of the workflow has cost this much so far.
    pub fn costs(&mut self, task: AccountId, workflow: AccountId, cost: Money, at: Timestamp) -> Option<Incident> {
        let rule = self.rules(task).outlier?;
        let history = self.workflows.get(&workflow).filter(|history| history.len() >= rule.at_least.max(1))?;
        let (median, tasks) = (history.median(), history.len());
        // Most charges are in line: the deviation is looked up only for those that are not by the smallest one there can be.
        let least = Money::from_pico_usd((median.pico_usd() / LEAST_DEVIATION).max(1));
        if !is_out_of_line(cost, median, least, rule.z_hundredths) {
            return None;
        }
        let deviation = history.deviation_from(median).max(least);
        let is_out = is_out_of_line(cost, median, deviation, rule.z_hundredths);
        let trouble = Trouble::Outlier { cost, median, deviation, tasks };
        is_out.then(|| self.say(task, trouble, rule.action, at)).flatten()
    }

    /// A task of the workflow ended, and had cost this much.
    pub fn task_ended(&mut self, workflow: AccountId, cost: Money) {
        self.workflows.entry(workflow).or_default().record(cost);
    }

    /// The account is closed.
    pub fn forget(&mut self, account: AccountId) {
        self.watches.remove(&account);
        self.own_rules.remove(&account);
        self.workflows.remove(&account);
    }

    fn watch(&mut self, account: AccountId) -> &mut Watch {
        let burn = &self.own_rules.get(&account).unwrap_or(&self.rules).burn;
        self.watches.entry(account).or_insert_with(|| Watch {
            tool_calls: Recent::default(),
            prompts: Recent::default(),
            simhashes: Recent::default(),
            starts: Recent::default(),
            burn: burn.iter().map(|rule| Meter::new(*rule)).collect(),
            said: [None; KINDS],
        })
    }

    fn say(&mut self, account: AccountId, trouble: Trouble, action: Action, at: Timestamp) -> Option<Incident> {
        let quiet = self.rules(account).quiet;
        let said = self.watch(account).said.get_mut(trouble.kind())?;
        let unsaid = match said {
            Some((last, unsaid)) if at.duration_since(*last) < quiet => {
                *unsaid = unsaid.saturating_add(1);
                return None;
            }
            Some((_, unsaid)) => *unsaid,
            None => 0,
        };
        *said = Some((at, 0));
        Some(Incident { account, at, trouble, action, unsaid })
    }
}

/// Whether the robust z-score, `(cost − median) / (1.4826 × deviation)`, is more than so many hundredths.
fn is_out_of_line(cost: Money, median: Money, deviation: Money, z_hundredths: u32) -> bool {
    const TEN_THOUSANDTHS: i128 = 14_826;
    let distance = cost.pico_usd().saturating_sub(median.pico_usd()).saturating_mul(100 * 10_000);
    distance > deviation.pico_usd().saturating_mul(TEN_THOUSANDTHS).saturating_mul(z_hundredths.into())
}

#[cfg(test)]
mod tests;
