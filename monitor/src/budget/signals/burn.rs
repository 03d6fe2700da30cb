//! How fast money goes, over a long and a short window.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};

use crate::{budget::ladder::Action, price::Money};

/// Money goes faster than this over a long window, so that it matters, and over a short one, so that it still does ("The Site Reliability
/// Workbook", chapter 5, "Multiwindow, Multi-Burn-Rate Alerts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Burn {
    pub per_hour: Money,
    pub long: SignedDuration,
    pub short: SignedDuration,
    pub action: Action,
}

impl Burn {
    /// The two alerts of that chapter for a budget of a period: 14.4 times the pace that would use it up in an hour (and 5 minutes), and
    /// 6 times in six hours (and 30 minutes).
    pub fn of_budget(cap: Money, period: SignedDuration, action: Action) -> [Self; 2] {
        let hours = |hours| SignedDuration::from_hours(hours);
        let per_hour = |tenths: i128| {
            let seconds = i128::from(period.as_secs().max(1));
            Money::from_pico_usd(cap.pico_usd().saturating_mul(tenths * 3600) / 10 / seconds)
        };
        [
            Self { per_hour: per_hour(144), long: hours(1), short: SignedDuration::from_mins(5), action },
            Self { per_hour: per_hour(60), long: hours(6), short: SignedDuration::from_mins(30), action },
        ]
    }
}

/// Follows one rule on one account, in stretches of time that are a fourth of the short window.
#[derive(Debug, Clone)]
pub(super) struct Meter {
    rule: Burn,
    stretches: VecDeque<(i64, Money)>,
}

/// Stretches that are kept; a long window of more than so many is as long as these are.
const KEPT: i64 = 1024;

impl Meter {
    pub const fn new(rule: Burn) -> Self {
        Self { rule, stretches: VecDeque::new() }
    }

    pub const fn rule(&self) -> Burn {
        self.rule
    }

    /// Takes in a charge. If the money burns too fast, returns what went in the long and in the short window.
    pub fn charge(&mut self, cost: Money, at: Timestamp) -> Option<(Burn, Money, Money)> {
        let width = (self.rule.short.as_secs() / 4).max(1);
        let now = at.as_second().div_euclid(width);
        match self.stretches.back_mut() {
            // What comes late counts now.
            Some((stretch, money)) if *stretch >= now => *money += cost,
            _ => self.stretches.push_back((now, cost)),
        }
        let now = self.stretches.back().map_or(now, |(stretch, _)| *stretch);
        let long = (self.rule.long.as_secs() / width).clamp(1, KEPT);
        while self.stretches.front().is_some_and(|(stretch, _)| now - stretch >= long) {
            self.stretches.pop_front();
        }
        let in_long: Money = self.stretches.iter().map(|(_, money)| *money).sum();
        let recent = self.stretches.iter().rev().take_while(|(stretch, _)| now - stretch < 4);
        let in_short: Money = recent.map(|(_, money)| *money).sum();
        let is_faster = |money: Money, window: SignedDuration| {
            money.pico_usd().saturating_mul(3600)
                > self.rule.per_hour.pico_usd().saturating_mul(i128::from(window.as_secs()))
        };
        let burns = is_faster(in_long, self.rule.long) && is_faster(in_short, self.rule.short);
        burns.then_some((self.rule, in_long, in_short))
    }
}
