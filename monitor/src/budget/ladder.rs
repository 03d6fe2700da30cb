//! What is done as a limit comes nearer: the rungs of a budget, and how far up an account is.

use std::cmp::{Ordering, Reverse};

use jiff::{SignedDuration, Timestamp};

use super::limits::Limit;
use crate::price::Money;

/// What can be done about an account, from the mildest to the hardest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Say it.
    Warn,
    /// Requests may start at a pace, in USD per hour.
    Throttle { per_hour: Money },
    /// No new connection, and the open ones are ended; processes live.
    Cut,
    /// Processes are frozen until a person has decided.
    Pause,
    /// Processes are ended, for good.
    Kill,
}

impl Action {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Throttle { .. } => "throttle",
            Self::Cut => "cut",
            Self::Pause => "pause",
            Self::Kill => "kill",
        }
    }

    /// Of two throttles, the slower one is stronger.
    const fn strength(self) -> (u8, Reverse<Money>) {
        match self {
            Self::Warn => (0, Reverse(Money::ZERO)),
            Self::Throttle { per_hour } => (1, Reverse(per_hour)),
            Self::Cut => (2, Reverse(Money::ZERO)),
            Self::Pause => (3, Reverse(Money::ZERO)),
            Self::Kill => (4, Reverse(Money::ZERO)),
        }
    }

    /// Whether no request leaves any more.
    pub const fn stops(self) -> bool {
        matches!(self, Self::Cut | Self::Pause | Self::Kill)
    }
}

impl Ord for Action {
    fn cmp(&self, other: &Self) -> Ordering {
        self.strength().cmp(&other.strength())
    }
}

impl PartialOrd for Action {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What a rung waits for, once its share of the limit is used and its grace time is over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Trigger {
    #[default]
    Share,
    /// For the account to try to spend more all the same.
    Attempt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rung {
    pub action: Action,
    /// Share of the limit.
    pub percent: u16,
    /// Time from that share to the action.
    pub grace: SignedDuration,
    pub trigger: Trigger,
}

impl Rung {
    pub const fn new(action: Action, percent: u16) -> Self {
        Self { action, percent, grace: SignedDuration::ZERO, trigger: Trigger::Share }
    }

    pub const fn after(self, grace: SignedDuration) -> Self {
        Self { grace, ..self }
    }

    pub const fn if_it_keeps_trying(self) -> Self {
        Self { trigger: Trigger::Attempt, ..self }
    }
}

/// The rungs of a budget, in the order in which they are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder(Vec<Rung>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLadder {
    #[error("{0} rungs are too many: use up to {MOST_RUNGS}")]
    TooMany(usize),
    #[error("{action} at {percent} % comes too late: a cap holds at 100 % at the latest", action = .0.name(), percent = .1)]
    BeyondTheCap(Action, u16),
    #[error("a rung at 0 % would always be in force")]
    Always,
    #[error("a grace time is not less than 0")]
    NegativeGrace,
    #[error("a throttle needs a pace of more than $0 per hour")]
    NoPace,
}

pub(super) const MOST_RUNGS: usize = 16;

/// Shares of a limit that are said, unless told otherwise.
pub const WARN_PERCENTS: [u16; 3] = [50, 80, 95];
/// How long a cut is given to be enough.
const CUT_GRACE: SignedDuration = SignedDuration::from_secs(30);

impl Ladder {
    /// # Errors
    /// Which rung makes no sense.
    pub fn new(mut rungs: Vec<Rung>) -> Result<Self, InvalidLadder> {
        if rungs.len() > MOST_RUNGS {
            return Err(InvalidLadder::TooMany(rungs.len()));
        }
        for rung in &rungs {
            match rung.action {
                _ if rung.percent == 0 => return Err(InvalidLadder::Always),
                _ if rung.grace.is_negative() => return Err(InvalidLadder::NegativeGrace),
                Action::Throttle { per_hour } if per_hour <= Money::ZERO => return Err(InvalidLadder::NoPace),
                action if action.stops() && rung.percent > 100 => {
                    return Err(InvalidLadder::BeyondTheCap(action, rung.percent));
                }
                _ => {}
            }
        }
        rungs.sort_by_key(|rung| (rung.percent, rung.action, rung.grace));
        Ok(Self(rungs))
    }

    /// Warnings, and at the cap the end at once.
    ///
    /// # Errors
    /// As [`Ladder::new`].
    pub fn kill_at_cap(warn_percents: &[u16]) -> Result<Self, InvalidLadder> {
        let warnings = warn_percents.iter().map(|&percent| Rung::new(Action::Warn, percent));
        Self::new(warnings.chain([Rung::new(Action::Kill, 100)]).collect())
    }

    pub fn rungs(&self) -> &[Rung] {
        &self.0
    }

    /// Whether the limits are caps: something stops the account. Else they are only talked about.
    pub fn is_hard(&self) -> bool {
        self.0.iter().any(|rung| rung.action.stops())
    }
}

/// Warnings at [`WARN_PERCENTS`]; at the cap a cut, and a kill if it keeps trying after a grace time.
impl Default for Ladder {
    fn default() -> Self {
        let mut rungs: Vec<Rung> = WARN_PERCENTS.iter().map(|&percent| Rung::new(Action::Warn, percent)).collect();
        rungs.push(Rung::new(Action::Cut, 100));
        rungs.push(Rung::new(Action::Kill, 100).after(CUT_GRACE).if_it_keeps_trying());
        Self(rungs)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The share is not used.
    Below,
    /// Since then.
    Reached(Timestamp),
    InForce,
}

/// How far one limit has brought an account up its ladder.
#[derive(Debug, Clone)]
pub(super) struct Progress {
    pub limit: Limit,
    stages: Vec<Stage>,
    /// Start of the window that the stages are of.
    since: Timestamp,
}

/// How much of a limit is used; money in pico-USD.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    pub used: i128,
    pub cap: i128,
}

impl Share {
    fn has_reached(self, percent: u16) -> bool {
        self.used.saturating_mul(100) >= self.cap.saturating_mul(i128::from(percent))
    }
}

impl Progress {
    pub fn new(limit: Limit, ladder: &Ladder) -> Self {
        Self { limit, stages: vec![Stage::Below; ladder.0.len()], since: Timestamp::MIN }
    }

    /// A window that began at `since` knows nothing of those before it.
    pub fn turn_to(&mut self, since: Timestamp) {
        if self.since != since {
            self.since = since;
            self.stages.fill(Stage::Below);
        }
    }

    /// What was passed before is not said again.
    pub fn silence_warnings(&mut self, ladder: &Ladder, share: Share) {
        for (stage, rung) in self.stages.iter_mut().zip(&ladder.0) {
            if rung.action == Action::Warn && share.has_reached(rung.percent) {
                *stage = Stage::InForce;
            }
        }
    }

    /// Takes in how much is used now; `None` while the limit does not count. Gives each warning that is due to `warn`.
    pub fn climb(
        &mut self,
        ladder: &Ladder,
        share: Option<Share>,
        now: Timestamp,
        trigger: Trigger,
        mut warn: impl FnMut(&Limit, u16),
    ) {
        for (stage, rung) in self.stages.iter_mut().zip(&ladder.0) {
            // A call that did not fit says nothing of shares.
            let is_said = rung.action == Action::Warn && self.limit != Limit::NextCall;
            let is_due = rung.action != Action::Warn || is_said;
            let has_reached = is_due && share.is_some_and(|share| share.has_reached(rung.percent));
            if !has_reached {
                // A warning is said once per window, also when money was added meanwhile.
                if !(is_said && *stage == Stage::InForce) {
                    *stage = Stage::Below;
                }
                continue;
            }
            if *stage == Stage::Below {
                *stage = Stage::Reached(now);
            }
            let Stage::Reached(since) = *stage else { continue };
            let is_triggered = rung.trigger == Trigger::Share || trigger == Trigger::Attempt;
            if is_triggered && now >= after(since, rung.grace) {
                *stage = Stage::InForce;
                if is_said {
                    warn(&self.limit, rung.percent);
                }
            }
        }
    }

    /// The strongest action that this limit has brought about.
    pub fn action(&self, ladder: &Ladder) -> Option<Action> {
        let in_force = self.stages.iter().zip(&ladder.0).filter(|(stage, _)| **stage == Stage::InForce);
        in_force.map(|(_, rung)| rung.action).filter(|action| *action != Action::Warn).max()
    }

    /// When the next grace time ends by itself.
    pub fn next_due(&self, ladder: &Ladder) -> Option<Timestamp> {
        let waiting = self.stages.iter().zip(&ladder.0).filter(|(_, rung)| rung.trigger == Trigger::Share);
        waiting
            .filter_map(
                |(stage, rung)| {
                    if let Stage::Reached(since) = stage { Some(after(*since, rung.grace)) } else { None }
                },
            )
            .min()
    }
}

/// Never before `since`, however long the grace time.
fn after(since: Timestamp, grace: SignedDuration) -> Timestamp {
    since.checked_add(grace).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::{Action, InvalidLadder, Ladder, Rung};
    use crate::price::Money;

    #[test]
    fn rungs_are_put_in_order() {
        let rungs = vec![
            Rung::new(Action::Kill, 100),
            Rung::new(Action::Pause, 100),
            Rung::new(Action::Warn, 150),
            Rung::new(Action::Throttle { per_hour: Money::MAX }, 80),
            Rung::new(Action::Warn, 50),
        ];
        let ladder = Ladder::new(rungs).expect("a ladder");
        let names: Vec<_> = ladder.rungs().iter().map(|rung| rung.action.name()).collect();
        assert_eq!(names, ["warn", "throttle", "pause", "kill", "warn"]);
        assert!(ladder.is_hard());
        assert!(!Ladder::new(vec![Rung::new(Action::Warn, 100)]).expect("a ladder").is_hard());
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let wrong = |rung| Ladder::new(vec![rung]).expect_err("no ladder");
        assert_eq!(wrong(Rung::new(Action::Cut, 101)), InvalidLadder::BeyondTheCap(Action::Cut, 101));
        assert_eq!(wrong(Rung::new(Action::Warn, 0)), InvalidLadder::Always);
        assert_eq!(wrong(Rung::new(Action::Throttle { per_hour: Money::ZERO }, 50)), InvalidLadder::NoPace);
        let past = Rung::new(Action::Cut, 100).after(SignedDuration::from_secs(-1));
        assert_eq!(wrong(past), InvalidLadder::NegativeGrace);
        assert_eq!(Ladder::new(vec![Rung::new(Action::Warn, 5); 17]), Err(InvalidLadder::TooMany(17)));
    }
}
