//! What is decided, and why.

use std::fmt;

use super::{
    accounts::AccountId,
    calendar::Window,
    hold::HoldId,
    ladder::Action,
    limits::{Count, Limit},
    signals::Trouble,
};
use crate::price::Money;

/// What counts toward a cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    pub counted: Money,
    /// The part of it that is a ceiling, for calls without a price.
    pub unpriced: Money,
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.counted)?;
        if self.unpriced.is_zero() {
            return Ok(());
        }
        write!(f, " (${} of it the ceiling of calls without a price)", self.unpriced)
    }
}

/// Why an account is acted on, or a call refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("spent {spent} of ${cap}{}: the cap is reached", of(*.window))]
    CapReached { window: Window, spent: Spent, cap: Money },
    #[error("spent {spent} and holds ${held} of ${cap}{}: the next call, at least ${needs}, does not fit", of(*.window))]
    NextCallDoesNotFit { window: Window, spent: Spent, held: Money, needs: Money, cap: Money },
    #[error("spent {spent} and holds ${held} of ${cap}{}: a call that has cost ${running} so far cannot be paid for any longer", of(*.window))]
    CallOutgrew { window: Window, spent: Spent, held: Money, running: Money, cap: Money },
    #[error("{percent} % of the cap is spent: {spent} of ${cap}{}", of(*.window))]
    ShareReached { window: Window, percent: u16, spent: Spent, cap: Money },
    #[error("{used} of {cap} {}", .count.name())]
    CountReached { count: Count, used: u64, cap: u64 },
    #[error("{used} of {cap} calls of tool {tool}")]
    ToolCallsReached { tool: Box<str>, used: u64, cap: u64 },
    #[error("model {0} is not allowed")]
    ModelDenied(Box<str>),
    #[error("tool {0} is not allowed")]
    ToolDenied(Box<str>),
    #[error("model {0} needs approval")]
    ModelNeedsApproval(Box<str>),
    #[error("tool {0} needs approval")]
    ToolNeedsApproval(Box<str>),
    #[error("a call of about ${estimate} needs approval: more than ${above}")]
    CostNeedsApproval { estimate: Money, above: Money },
    #[error("somebody has changed the gate")]
    Tampered,
    #[error("denied by a person")]
    Denied,
    #[error("ordered by a person")]
    Ordered,
    #[error("{0}")]
    Trouble(Trouble),
    /// Trouble that was seen before the daemon was started.
    #[error("{0}")]
    Earlier(Box<str>),
}

/// Says which window, where it is not the only one.
fn of(window: Window) -> &'static str {
    match window {
        Window::Total => "",
        Window::Hour => " this hour",
        Window::Day => " today",
        Window::Week => " this week",
        Window::Month => " this month",
    }
}

/// What follows from a change of the accounts. The account is the one that it was decided on, and holds for everything below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A share of a limit was passed: once per window.
    Warn { account: AccountId, limit: Limit, percent: u16, reason: Reason },
    /// From now on.
    Act { account: AccountId, action: Action, reason: Reason },
    /// The strongest action that was in force no longer is; this one, if any, still is.
    Lift { account: AccountId, remains: Option<Action> },
    /// A call in flight has outgrown what this account can pay.
    CutCall { account: AccountId, hold: HoldId, reason: Reason },
}

impl Decision {
    pub const fn account(&self) -> AccountId {
        match self {
            Self::Warn { account, .. }
            | Self::Act { account, .. }
            | Self::Lift { account, .. }
            | Self::CutCall { account, .. } => *account,
        }
    }
}
