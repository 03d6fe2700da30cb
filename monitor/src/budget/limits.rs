//! What a budget can limit, and a budget.

use std::collections::BTreeMap;

use super::{calendar::Window, hold::HoldPolicy, ladder::Ladder, rules::Rules};
use crate::price::Money;

/// Most money per window; `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MoneyLimits {
    pub total: Option<Money>,
    pub hour: Option<Money>,
    pub day: Option<Money>,
    pub week: Option<Money>,
    pub month: Option<Money>,
}

impl MoneyLimits {
    pub const fn get(&self, window: Window) -> Option<Money> {
        match window {
            Window::Total => self.total,
            Window::Hour => self.hour,
            Window::Day => self.day,
            Window::Week => self.week,
            Window::Month => self.month,
        }
    }
}

/// Something that is counted from the opening of an account on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Count {
    /// Requests that started, of any kind.
    Requests,
    ModelCalls,
    /// Tool calls of any name.
    ToolCalls,
    Tokens,
    /// Sub-agents that are alive now.
    SubAgentsAlive,
    SubAgentsStarted,
    /// Deepest agent below agent so far.
    AgentDepth,
    /// Milliseconds in which anything of the account ran.
    WallTime,
    /// Milliseconds of processor time.
    CpuTime,
}

impl Count {
    pub const ALL: [Self; 9] = [
        Self::Requests,
        Self::ModelCalls,
        Self::ToolCalls,
        Self::Tokens,
        Self::SubAgentsAlive,
        Self::SubAgentsStarted,
        Self::AgentDepth,
        Self::WallTime,
        Self::CpuTime,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::ModelCalls => "model calls",
            Self::ToolCalls => "tool calls",
            Self::Tokens => "tokens",
            Self::SubAgentsAlive => "sub-agents alive",
            Self::SubAgentsStarted => "sub-agents started",
            Self::AgentDepth => "levels of agents",
            Self::WallTime => "ms of wall time",
            Self::CpuTime => "ms of CPU time",
        }
    }

    /// As programs read it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::ModelCalls => "model_calls",
            Self::ToolCalls => "tool_calls",
            Self::Tokens => "tokens",
            Self::SubAgentsAlive => "sub_agents_alive",
            Self::SubAgentsStarted => "sub_agents_started",
            Self::AgentDepth => "agent_depth",
            Self::WallTime => "wall_ms",
            Self::CpuTime => "cpu_ms",
        }
    }

    /// Where it stands in [`Count::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Limits of an account. What is not named is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    pub money: MoneyLimits,
    pub counts: BTreeMap<Count, u64>,
    /// Calls per tool, by its name.
    pub tools: BTreeMap<Box<str>, u64>,
}

/// Everything that is decided about an account beforehand.
#[derive(Debug, Clone)]
pub struct Budget {
    pub limits: Limits,
    pub ladder: Ladder,
    pub holds: HoldPolicy,
    /// Hold for a call of which nothing is known: neither its own size nor what others like it cost.
    pub first_hold: Money,
    /// What is held for an answer on top of what the request itself costs.
    pub floor: Money,
    pub rules: Rules,
    /// Nothing undoes a kill: what the account is of is gone then. Else the account is killed for as long as its limits demand it.
    pub kill_is_final: bool,
}

impl Budget {
    /// No limit and no rule, the default ladder.
    pub fn unlimited(first_hold: Money) -> Self {
        Self {
            limits: Limits::default(),
            ladder: Ladder::default(),
            holds: HoldPolicy::Expected,
            first_hold,
            floor: Money::ZERO,
            rules: Rules::default(),
            kill_is_final: true,
        }
    }

    /// So much in total, and nothing else limited.
    pub fn with_total(self, cap: Option<Money>) -> Self {
        let money = MoneyLimits { total: cap, ..self.limits.money };
        Self { limits: Limits { money, ..self.limits }, ..self }
    }
}

/// One limit of an account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Limit {
    Money(Window),
    Count(Count),
    Tool(Box<str>),
    /// The next call did not fit into what is left.
    NextCall,
}
