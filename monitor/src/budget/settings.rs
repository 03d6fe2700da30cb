//! A budget as people write it: in the configuration, on the command line, and in the ledger.

use std::{collections::BTreeMap, fmt, str::FromStr};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{
    hold::HoldPolicy,
    ladder::{Action, InvalidLadder, Ladder, Rung, Trigger, WARN_PERCENTS},
    limits::{Budget, Count, Limits, MoneyLimits},
    rules::{ApprovalRule, InvalidPattern, Names, Pattern, Rules},
    signals::SignalSettings,
};
use crate::price::Money;

/// What is held for a call from its start to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holds {
    /// What 99 of 100 calls before it did not exceed.
    Expected,
    /// What it costs if its answer is as long as `max_tokens` lets it be.
    WorstCase,
    /// Nothing: a burst may overshoot.
    Off,
}

/// What is done about connections that cannot be read, from the mildest on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UncoveredPolicy {
    /// They are said.
    Alert,
    /// And what they cost is estimated and charged, if it is a model provider that they go to.
    #[default]
    Estimate,
    /// They are ended before they have sent anything but a handshake.
    Deny,
}

/// What becomes of requests without a credit, and of code that nobody has looked at, while no daemon runs. What is shut stays shut either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnDaemonLoss {
    /// They wait until a daemon runs again.
    #[default]
    Hold,
    /// They may go; what they cost is known afterwards, as far as the record ring holds it.
    Allow,
}

/// How often what is expected is held in the worst case, for a call that does not say how long its answer may be.
const UNKNOWN: u32 = 4;

/// What is said of a budget. What is not said is as in another one, or not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Most money from the beginning of the account on, in USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<Money>,
    /// Most money per hour of the clock, in USD; likewise per day, week (from Monday) and month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub week: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<Money>,
    /// Requests of any kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_calls: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<u64>,
    /// In and out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u64>,
    /// Sub-agents that may live at the same time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_agents: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub_agents_started: Option<u64>,
    /// Levels of agents below agents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_depth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_seconds: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<u64>,
    /// Calls per tool, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<Box<str>, u64>,

    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<Holds>,
    /// Held for a call of which nothing is known, in USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_hold: Option<Money>,
    /// Held for an answer on top of what its request costs, in USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_floor: Option<Money>,

    /// What is done at which share of a limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ladder: Option<Vec<Rung>>,
    /// Without a ladder: shares that are said before the kill at the cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warn_percent: Option<Vec<u16>>,
    /// Time between `SIGTERM` and `SIGKILL`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kill_grace_seconds: Option<u64>,

    /// Most of one CPU that a throttled task gets, in percent, where cgroup v2 has the `cpu` controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub throttle_cpu_percent: Option<u32>,

    /// What counts as trouble, and what is done about it.
    #[serde(skip_serializing_if = "SignalSettings::is_silent")]
    pub signal: SignalSettings,
    /// What is done about connections that cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncovered: Option<UncoveredPolicy>,

    /// What becomes of requests without a credit while no daemon runs: `hold`, unless told otherwise, or `allow`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_daemon_loss: Option<OnDaemonLoss>,

    /// Models that may be called, by patterns of their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_models: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_models: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow_tools: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub deny_tools: Vec<String>,
    /// Calls that wait for a person's yes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approve: Vec<Approve>,
}

/// Calls that wait until a person has said yes: those to which everything that is named applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Approve {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// Estimated to cost more than this, in USD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<Money>,
}

/// What is wrong with a budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBudget {
    #[error("{0} must be more than 0")]
    NotPositive(&'static str),
    #[error("hold_floor must not be less than 0")]
    NegativeFloor,
    #[error("{at}: {why}", at = .0, why = .1)]
    Ladder(&'static str, InvalidLadder),
    #[error(transparent)]
    Pattern(#[from] InvalidPattern),
    #[error("signal.{0}")]
    Signal(String),
    #[error("`{0}` is no setting of a budget: {1}")]
    Setting(String, String),
}

/// One cent: a thousand words in and out of a mid-priced model.
const FIRST_HOLD: Money = Money::from_pico_usd(Money::PICO_PER_USD / 100);

impl Settings {
    /// The first thing that they say and that is more than how much money, or how many of what.
    pub fn more_than_limits(&self) -> Option<&'static str> {
        [
            ("holds", self.holds.is_some()),
            ("first_hold", self.first_hold.is_some()),
            ("hold_floor", self.hold_floor.is_some()),
            ("ladder", self.ladder.is_some()),
            ("warn_percent", self.warn_percent.is_some()),
            ("kill_grace_seconds", self.kill_grace_seconds.is_some()),
            ("throttle_cpu_percent", self.throttle_cpu_percent.is_some()),
            ("signal", !self.signal.is_silent()),
            ("uncovered", self.uncovered.is_some()),
            ("on_daemon_loss", self.on_daemon_loss.is_some()),
            ("allow_models", !self.allow_models.is_empty()),
            ("deny_models", !self.deny_models.is_empty()),
            ("allow_tools", !self.allow_tools.is_empty()),
            ("deny_tools", !self.deny_tools.is_empty()),
            ("approve", !self.approve.is_empty()),
        ]
        .into_iter()
        .find_map(|(name, is_said)| is_said.then_some(name))
    }

    /// The first limit that is more than another one's.
    pub fn exceeds(&self, other: &Self) -> Option<&'static str> {
        let money = [
            ("total", self.total, other.total),
            ("hour", self.hour, other.hour),
            ("day", self.day, other.day),
            ("week", self.week, other.week),
            ("month", self.month, other.month),
        ];
        let counts = [
            ("requests", self.requests, other.requests),
            ("model_calls", self.model_calls, other.model_calls),
            ("tool_calls", self.tool_calls, other.tool_calls),
            ("tokens", self.tokens, other.tokens),
            ("sub_agents", self.sub_agents, other.sub_agents),
            ("sub_agents_started", self.sub_agents_started, other.sub_agents_started),
            ("agent_depth", self.agent_depth, other.agent_depth),
            ("wall_seconds", self.wall_seconds, other.wall_seconds),
            ("cpu_seconds", self.cpu_seconds, other.cpu_seconds),
        ];
        let tools = self.tools.iter().any(|(tool, most)| other.tools.get(tool).is_some_and(|limit| most > limit));
        money
            .into_iter()
            .find_map(|(name, own, limit)| (own? > limit?).then_some(name))
            .or_else(|| counts.into_iter().find_map(|(name, own, limit)| (own? > limit?).then_some(name)))
            .or_else(|| tools.then_some("tools"))
    }

    /// What these say, and where they say nothing, what `base` says. Rules on models and tools add up: nobody is allowed more by saying less.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        let mut tools = base.tools.clone();
        tools.extend(self.tools.clone());
        let both = |mine: &[String], theirs: &[String]| [theirs, mine].concat();
        Self {
            total: self.total.or(base.total),
            hour: self.hour.or(base.hour),
            day: self.day.or(base.day),
            week: self.week.or(base.week),
            month: self.month.or(base.month),
            requests: self.requests.or(base.requests),
            model_calls: self.model_calls.or(base.model_calls),
            tool_calls: self.tool_calls.or(base.tool_calls),
            tokens: self.tokens.or(base.tokens),
            sub_agents: self.sub_agents.or(base.sub_agents),
            sub_agents_started: self.sub_agents_started.or(base.sub_agents_started),
            agent_depth: self.agent_depth.or(base.agent_depth),
            wall_seconds: self.wall_seconds.or(base.wall_seconds),
            cpu_seconds: self.cpu_seconds.or(base.cpu_seconds),
            tools,
            holds: self.holds.or(base.holds),
            first_hold: self.first_hold.or(base.first_hold),
            hold_floor: self.hold_floor.or(base.hold_floor),
            ladder: self.ladder.clone().or_else(|| base.ladder.clone()),
            warn_percent: self.warn_percent.clone().or_else(|| base.warn_percent.clone()),
            kill_grace_seconds: self.kill_grace_seconds.or(base.kill_grace_seconds),
            throttle_cpu_percent: self.throttle_cpu_percent.or(base.throttle_cpu_percent),
            signal: self.signal.over(&base.signal),
            uncovered: self.uncovered.or(base.uncovered),
            on_daemon_loss: self.on_daemon_loss.or(base.on_daemon_loss),
            // A list that is not there allows everything: of two, the one that says something counts.
            allow_models: if self.allow_models.is_empty() { &base.allow_models } else { &self.allow_models }.clone(),
            deny_models: both(&self.deny_models, &base.deny_models),
            allow_tools: if self.allow_tools.is_empty() { &base.allow_tools } else { &self.allow_tools }.clone(),
            deny_tools: both(&self.deny_tools, &base.deny_tools),
            approve: [&*base.approve, &*self.approve].concat(),
        }
    }

    /// Takes in what the command line says, like `hour=0.50` or `requests=100`.
    ///
    /// # Errors
    /// When there is no such setting, or it cannot have this value.
    pub fn set(&mut self, said: &str) -> Result<(), InvalidBudget> {
        let wrong = |why: String| InvalidBudget::Setting(said.into(), why);
        let (name, value) = said.split_once('=').ok_or_else(|| wrong("write NAME=VALUE".into()))?;
        // Amounts are texts in TOML, counts are numbers, ladders are lists of texts.
        let list: Vec<String> = value.split(',').map(|part| format!("{:?}", part.trim())).collect();
        let forms =
            [format!("{name} = {value:?}"), format!("{name} = {value}"), format!("{name} = [{}]", list.join(", "))];
        let mut why = String::new();
        for form in forms {
            match toml::from_str::<Self>(&form) {
                Ok(settings) => {
                    *self = settings.over(self);
                    return Ok(());
                }
                Err(error) => why = std::mem::take(&mut why) + if why.is_empty() { error.message() } else { "" },
            }
        }
        Err(wrong(why.lines().next().unwrap_or_default().to_owned()))
    }

    /// # Errors
    /// What makes no sense.
    pub fn budget(&self) -> Result<Budget, InvalidBudget> {
        let money =
            MoneyLimits { total: self.total, hour: self.hour, day: self.day, week: self.week, month: self.month };
        for (name, limit) in [
            ("total", money.total),
            ("hour", money.hour),
            ("day", money.day),
            ("week", money.week),
            ("month", money.month),
        ] {
            if limit.is_some_and(|limit| limit <= Money::ZERO) {
                return Err(InvalidBudget::NotPositive(name));
            }
        }
        if self.throttle_cpu_percent == Some(0) {
            return Err(InvalidBudget::NotPositive("throttle_cpu_percent"));
        }
        self.signal.check().map_err(InvalidBudget::Signal)?;
        let first_hold = self.first_hold.unwrap_or(FIRST_HOLD);
        if first_hold <= Money::ZERO {
            return Err(InvalidBudget::NotPositive("first_hold"));
        }
        let floor = self.hold_floor.unwrap_or_default();
        if floor < Money::ZERO {
            return Err(InvalidBudget::NegativeFloor);
        }
        let ladder = match &self.ladder {
            Some(rungs) => Ladder::new(rungs.clone()).map_err(|error| InvalidBudget::Ladder("ladder", error))?,
            None => Ladder::kill_at_cap(self.warn_percent.as_deref().unwrap_or(&WARN_PERCENTS))
                .map_err(|error| InvalidBudget::Ladder("warn_percent", error))?,
        };
        let holds = match self.holds.unwrap_or(Holds::Expected) {
            Holds::Expected => HoldPolicy::Expected,
            Holds::WorstCase => HoldPolicy::WorstCase { unknown: UNKNOWN },
            Holds::Off => HoldPolicy::Off,
        };
        let limits = Limits { money, counts: self.counts(), tools: self.tools.clone() };
        Ok(Budget { limits, ladder, holds, first_hold, floor, rules: self.rules()?, kill_is_final: true })
    }

    fn counts(&self) -> BTreeMap<Count, u64> {
        let milliseconds = |seconds: Option<u64>| seconds.map(|seconds| seconds.saturating_mul(1000));
        [
            (Count::Requests, self.requests),
            (Count::ModelCalls, self.model_calls),
            (Count::ToolCalls, self.tool_calls),
            (Count::Tokens, self.tokens),
            (Count::SubAgentsAlive, self.sub_agents),
            (Count::SubAgentsStarted, self.sub_agents_started),
            (Count::AgentDepth, self.agent_depth),
            (Count::WallTime, milliseconds(self.wall_seconds)),
            (Count::CpuTime, milliseconds(self.cpu_seconds)),
        ]
        .into_iter()
        .filter_map(|(count, limit)| Some((count, limit?)))
        .collect()
    }

    fn rules(&self) -> Result<Rules, InvalidBudget> {
        let patterns =
            |texts: &[String]| texts.iter().map(|text| text.parse::<Pattern>()).collect::<Result<Vec<_>, _>>();
        let one = |text: &Option<String>| text.as_deref().map(str::parse::<Pattern>).transpose();
        let approvals = self.approve.iter().map(|rule| {
            Ok::<_, InvalidPattern>(ApprovalRule {
                model: one(&rule.model)?,
                tool: one(&rule.tool)?,
                above: rule.above,
            })
        });
        Ok(Rules {
            models: Names { allow: patterns(&self.allow_models)?, deny: patterns(&self.deny_models)? },
            tools: Names { allow: patterns(&self.allow_tools)?, deny: patterns(&self.deny_tools)? },
            approvals: approvals.collect::<Result<_, _>>()?,
        })
    }
}

/// `warn@80`, `throttle=2.50@90` (USD per hour), `cut@100`, `pause@100`, `kill@100`; with `+30s` after a grace time, with `!` only if it keeps trying.
impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action.name())?;
        if let Action::Throttle { per_hour } = self.action {
            write!(f, "={per_hour}")?;
        }
        write!(f, "@{}", self.percent)?;
        if !self.grace.is_zero() {
            write!(f, "+{}s", self.grace.as_secs())?;
        }
        if self.trigger == Trigger::Attempt { f.write_str("!") } else { Ok(()) }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no rung of a ladder: write ACTION@PERCENT like `warn@80`, `throttle=2.50@90` (USD per hour), `cut@100`, `pause@100` or `kill@100`, \
     then `+30s` for a grace time and `!` for `only if it keeps trying`"
)]
pub struct InvalidRung(String);

impl FromStr for Rung {
    type Err = InvalidRung;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (rest, keeps_trying) = text.strip_suffix('!').map_or((text, false), |rest| (rest, true));
            let (action, rest) = rest.split_once('@')?;
            let (percent, grace) = match rest.split_once('+') {
                Some((percent, grace)) => (percent, grace.strip_suffix('s')?.parse().ok()?),
                None => (rest, 0_u32),
            };
            let action = match action {
                "warn" => Action::Warn,
                "cut" => Action::Cut,
                "pause" => Action::Pause,
                "kill" => Action::Kill,
                _ => Action::Throttle { per_hour: action.strip_prefix("throttle=")?.parse().ok()? },
            };
            let rung = Self::new(action, percent.parse().ok()?).after(SignedDuration::from_secs(grace.into()));
            Some(if keeps_trying { rung.if_it_keeps_trying() } else { rung })
        };
        parse().ok_or_else(|| InvalidRung(text.chars().take(64).collect()))
    }
}

impl Serialize for Rung {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rung {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidBudget, Settings};
    use crate::budget::{Action, Count, HoldPolicy, Rung};

    #[test]
    fn rungs_are_read_as_they_are_written() {
        for text in ["warn@80", "throttle=2.5@90", "cut@100", "pause@95+10s", "kill@100+30s!"] {
            assert_eq!(text.parse::<Rung>().expect(text).to_string(), text);
        }
        for wrong in
            ["", "warn", "warn@", "warn@x", "throttle@90", "throttle=x@9", "kill@100+5", "kill@100+-5s", "stop@1"]
        {
            assert!(wrong.parse::<Rung>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_command_line_says_what_a_file_says() {
        let mut settings = Settings::default();
        for said in
            ["total=2.50", "requests=100", "ladder=warn@50, cut@100", "holds=worst-case", "deny_models=*opus*,o3*"]
        {
            settings.set(said).expect(said);
        }
        let file = "total = \"2.50\"\nrequests = 100\nladder = [\"warn@50\", \"cut@100\"]\nholds = \"worst-case\"\ndeny_models = [\"*opus*\", \"o3*\"]";
        assert_eq!(settings, toml::from_str(file).expect("settings"));
        let budget = settings.budget().expect("a budget");
        assert_eq!(budget.limits.counts.get(&Count::Requests), Some(&100));
        assert_eq!(budget.ladder.rungs()[1].action, Action::Cut);
        assert!(matches!(budget.holds, HoldPolicy::WorstCase { .. }));
        for wrong in ["total", "total=x", "hours=1", "requests=-1", "ladder=sideways@7"] {
            assert!(matches!(settings.set(wrong), Err(InvalidBudget::Setting(..))), "{wrong}");
        }
    }

    #[test]
    fn what_is_said_goes_before_what_is_usual() {
        let base: Settings =
            toml::from_str("hour = \"1\"\ntotal = \"9\"\ndeny_models = [\"a\"]\n[tools]\nx = 1").expect("settings");
        let mine: Settings = toml::from_str("total = \"3\"\ndeny_models = [\"b\"]\n[tools]\ny = 2").expect("settings");
        let both = mine.over(&base);
        assert_eq!((both.total, both.hour), (mine.total, base.hour));
        assert_eq!((both.tools.len(), both.deny_models), (2, vec!["a".to_owned(), "b".to_owned()]));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let wrong =
            |text: &str| toml::from_str::<Settings>(text).expect("settings").budget().expect_err(text).to_string();
        assert_eq!(wrong("day = \"0\""), "day must be more than 0");
        assert_eq!(wrong("first_hold = \"0\""), "first_hold must be more than 0");
        assert_eq!(wrong("hold_floor = \"-1\""), "hold_floor must not be less than 0");
        assert!(wrong("ladder = [\"kill@120\"]").starts_with("ladder: kill at 120 % comes too late"));
        assert!(wrong("warn_percent = [0]").starts_with("warn_percent: a rung at 0 %"));
    }
}
