//! What counts as trouble, as people write it: `[signals]` in the configuration, and `signal.NAME` of a budget.

use std::{fmt, str::FromStr};

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::{Burn, MoreThan, Outlier, Repeats, SignalRules, recent};
use crate::{
    budget::{calendar::Window, ladder::Action, limits::MoneyLimits},
    price::Money,
};

/// What is done when a kind of trouble is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// It is not looked for.
    Off,
    Do(Action),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is nothing that can be done: write `off`, `warn`, `throttle=2.50` (USD per hour), `cut`, `pause` or `kill`"
)]
pub struct InvalidResponse(String);

impl FromStr for Response {
    type Err = InvalidResponse;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidResponse(text.chars().take(64).collect());
        Ok(match text {
            "off" => Self::Off,
            "warn" => Self::Do(Action::Warn),
            "cut" => Self::Do(Action::Cut),
            "pause" => Self::Do(Action::Pause),
            "kill" => Self::Do(Action::Kill),
            _ => {
                let pace: Option<Money> = text.strip_prefix("throttle=").and_then(|pace| pace.parse().ok());
                let per_hour = pace.filter(|pace| *pace > Money::ZERO).ok_or_else(invalid)?;
                Self::Do(Action::Throttle { per_hour })
            }
        })
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Do(Action::Throttle { per_hour }) => write!(f, "throttle={per_hour}"),
            Self::Do(action) => f.write_str(action.name()),
        }
    }
}

impl Serialize for Response {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Response {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What is said of signals; what is not said is as in another one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalSettings {
    /// The same call of a tool, the same prompt, or prompts nearly alike, again and again.
    #[serde(rename = "loop", skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_repeats: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_repeats: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub similar_repeats: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_seconds: Option<u32>,
    /// Programs that run themselves, one below the other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursion: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recursion_depth: Option<u32>,
    /// Children of one process: those that live, and those started within a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out_children: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out_started: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fan_out_seconds: Option<u32>,
    /// A task that costs more than the tasks of its workflow usually do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier: Option<Response>,
    /// Robust z-score in hundredths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_z_hundredths: Option<u32>,
    /// Tasks that must have ended before there is something to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outlier_tasks: Option<u64>,
    /// Money that goes faster than this over a long and a short time; of caps by the day, week and month also without a rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn: Option<Response>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn_usd_per_hour: Option<Money>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn_long_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burn_short_seconds: Option<u32>,
    /// The same kind of trouble is said again after this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_seconds: Option<u32>,
}

impl SignalSettings {
    /// What these say, and where they say nothing, what `base` says.
    #[must_use]
    pub fn over(&self, base: &Self) -> Self {
        Self {
            repeats: self.repeats.or(base.repeats),
            tool_repeats: self.tool_repeats.or(base.tool_repeats),
            prompt_repeats: self.prompt_repeats.or(base.prompt_repeats),
            similar_repeats: self.similar_repeats.or(base.similar_repeats),
            repeat_seconds: self.repeat_seconds.or(base.repeat_seconds),
            recursion: self.recursion.or(base.recursion),
            recursion_depth: self.recursion_depth.or(base.recursion_depth),
            fan_out: self.fan_out.or(base.fan_out),
            fan_out_children: self.fan_out_children.or(base.fan_out_children),
            fan_out_started: self.fan_out_started.or(base.fan_out_started),
            fan_out_seconds: self.fan_out_seconds.or(base.fan_out_seconds),
            outlier: self.outlier.or(base.outlier),
            outlier_z_hundredths: self.outlier_z_hundredths.or(base.outlier_z_hundredths),
            outlier_tasks: self.outlier_tasks.or(base.outlier_tasks),
            burn: self.burn.or(base.burn),
            burn_usd_per_hour: self.burn_usd_per_hour.or(base.burn_usd_per_hour),
            burn_long_seconds: self.burn_long_seconds.or(base.burn_long_seconds),
            burn_short_seconds: self.burn_short_seconds.or(base.burn_short_seconds),
            quiet_seconds: self.quiet_seconds.or(base.quiet_seconds),
        }
    }

    pub fn is_silent(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// Which setting makes no sense, and what would.
    pub fn check(&self) -> Result<(), String> {
        let most = u32::try_from(recent::KEPT).unwrap_or(u32::MAX);
        for (name, times) in [
            ("tool_repeats", self.tool_repeats),
            ("prompt_repeats", self.prompt_repeats),
            ("similar_repeats", self.similar_repeats),
            ("fan_out_started", self.fan_out_started),
        ] {
            if times.is_some_and(|times| times < 2 || times > most) {
                return Err(format!("{name} must be from 2 to {most}"));
            }
        }
        for (name, number) in [
            ("repeat_seconds", self.repeat_seconds),
            ("fan_out_seconds", self.fan_out_seconds),
            ("burn_long_seconds", self.burn_long_seconds),
            ("burn_short_seconds", self.burn_short_seconds),
            ("recursion_depth", self.recursion_depth),
            ("fan_out_children", self.fan_out_children),
            ("outlier_z_hundredths", self.outlier_z_hundredths),
        ] {
            if number == Some(0) {
                return Err(format!("{name} must be more than 0"));
            }
        }
        if self.burn_usd_per_hour.is_some_and(|rate| rate <= Money::ZERO) {
            return Err("burn_usd_per_hour must be more than 0".into());
        }
        let (long, short) = self.burn_windows();
        if short > long {
            return Err(format!("burn_short_seconds ({short}) must not be more than burn_long_seconds ({long})"));
        }
        Ok(())
    }

    fn burn_windows(&self) -> (u32, u32) {
        (self.burn_long_seconds.unwrap_or(3600), self.burn_short_seconds.unwrap_or(300))
    }

    /// What is looked for on an account with these limits.
    pub fn rules(&self, limits: &MoneyLimits) -> SignalRules {
        let defaults = SignalRules::default();
        let seconds = |seconds: Option<u32>, default: SignedDuration| {
            seconds.map_or(default, |seconds| SignedDuration::from_secs(seconds.into()))
        };
        let action = |response: Option<Response>| match response {
            Some(Response::Off) => None,
            Some(Response::Do(action)) => Some(action),
            None => Some(Action::Warn),
        };
        let repeats = |times: Option<u32>, default: Option<Repeats>| {
            let (default, action) = (default?, action(self.repeats)?);
            Some(Repeats {
                times: times.unwrap_or(default.times),
                within: seconds(self.repeat_seconds, default.within),
                action,
            })
        };
        let more_than = |number: Option<u32>, default: Option<MoreThan>, response: Option<Response>| {
            Some(MoreThan { number: number.unwrap_or(default?.number), action: action(response)? })
        };
        SignalRules {
            same_tool_call: repeats(self.tool_repeats, defaults.same_tool_call),
            same_prompt: repeats(self.prompt_repeats, defaults.same_prompt),
            similar_prompt: repeats(self.similar_repeats, defaults.similar_prompt),
            recursion: more_than(self.recursion_depth, defaults.recursion, self.recursion),
            fan_out: more_than(self.fan_out_children, defaults.fan_out, self.fan_out),
            spawned: defaults.spawned.zip(action(self.fan_out)).map(|(default, action)| Repeats {
                times: self.fan_out_started.unwrap_or(default.times),
                within: seconds(self.fan_out_seconds, default.within),
                action,
            }),
            outlier: defaults.outlier.zip(action(self.outlier)).map(|(default, action)| Outlier {
                z_hundredths: self.outlier_z_hundredths.unwrap_or(default.z_hundredths),
                at_least: self.outlier_tasks.unwrap_or(default.at_least),
                action,
            }),
            burn: action(self.burn).map(|action| self.burn(limits, action)).unwrap_or_default(),
            quiet: seconds(self.quiet_seconds, defaults.quiet),
        }
    }

    /// A rate that is said holds alone; else that of each cap of more than an hour.
    fn burn(&self, limits: &MoneyLimits, action: Action) -> Vec<Burn> {
        let (long, short) = self.burn_windows();
        if let Some(per_hour) = self.burn_usd_per_hour {
            let window = |seconds: u32| SignedDuration::from_secs(seconds.into());
            return vec![Burn { per_hour, long: window(long), short: window(short), action }];
        }
        let days = [(Window::Day, 1), (Window::Week, 7), (Window::Month, 30)];
        let capped = days.into_iter().filter_map(|(window, days)| Some((limits.get(window)?, days)));
        capped.flat_map(|(cap, days)| Burn::of_budget(cap, SignedDuration::from_hours(24 * days), action)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{Response, SignalSettings};
    use crate::budget::{Action, MoneyLimits, Settings};

    #[test]
    fn responses_are_read_as_they_are_written() {
        for text in ["off", "warn", "throttle=2.5", "cut", "pause", "kill"] {
            assert_eq!(text.parse::<Response>().expect(text).to_string(), text);
        }
        for wrong in ["", "throttle", "throttle=0", "throttle=-1", "stop", "pause@100"] {
            assert!(wrong.parse::<Response>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_command_line_says_them_one_by_one() {
        let mut settings = Settings::default();
        for said in
            ["signal.loop=pause", "signal.tool_repeats=3", "signal.burn_usd_per_hour=5", "signal.burn=throttle=1"]
        {
            settings.set(said).unwrap_or_else(|error| panic!("{said}: {error}"));
        }
        settings.budget().expect("it makes sense");
        let rules = settings.signal.rules(&MoneyLimits::default());
        assert_eq!(rules.same_tool_call.map(|rule| (rule.times, rule.action)), Some((3, Action::Pause)));
        assert_eq!(rules.same_prompt.map(|rule| rule.action), Some(Action::Pause));
        assert_eq!(rules.recursion.map(|rule| rule.action), Some(Action::Warn));
        assert_eq!(rules.burn[0].per_hour.to_string(), "5");
        assert!(matches!(rules.burn[0].action, Action::Throttle { .. }));
        let again: Settings = serde_json::from_str(&serde_json::to_string(&settings).expect("JSON")).expect("settings");
        assert_eq!(again, settings);
        for wrong in ["signal.lop=warn", "signal.loop=stop", "signal.tool_repeats=x"] {
            assert!(settings.set(wrong).is_err(), "{wrong}");
        }
        settings.set("signal.tool_repeats=1").expect("it is a number");
        assert!(settings.budget().expect_err("once is no loop").to_string().contains("from 2 to 256"));
    }

    #[test]
    fn what_is_off_is_not_looked_for() {
        let off = Some(Response::Off);
        let all = SignalSettings {
            repeats: off,
            recursion: off,
            fan_out: off,
            outlier: off,
            burn: off,
            ..Default::default()
        };
        let day = MoneyLimits { day: Some("5".parse().expect("money")), ..MoneyLimits::default() };
        let rules = all.rules(&day);
        assert!(rules.same_tool_call.is_none() && rules.same_prompt.is_none() && rules.similar_prompt.is_none());
        assert!(rules.recursion.is_none() && rules.fan_out.is_none() && rules.spawned.is_none());
        assert!(rules.outlier.is_none() && rules.burn.is_empty());
        assert_eq!(SignalSettings::default().rules(&day).burn.len(), 2);
    }
}
