//! What a byte costs, learned from connections that are read.
//!
//! A call costs by what it sends and by what it gets back, and how many bytes that is depends on who talks to whom: a streamed answer has a hundred times the bytes per token of
//! one that comes whole. So each host has rates of its own: two numbers, fitted to what calls there cost and to how many bytes they took on the socket, older
//! calls weighing less and less. A host without any takes the rates of its provider's other hosts, and else those of the configuration.
//!
//! Floating point is used here and nowhere else near money: what comes out is an estimate and says so.

use std::collections::HashMap;

use serde::Deserialize;

use crate::{meter::provider_at, price::Money};

/// Calls at one host, together: what passed on the sockets, and what that cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Bytes of application data.
    pub sent: u64,
    /// Bytes, without what the handshake needed.
    pub received: u64,
    pub cost: Money,
}

/// What a byte costs where no call was read: USD for a million of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    pub sent: Money,
    pub received: Money,
}

impl Default for Rates {
    /// 4 bytes a token sent at 2.50 USD for a million tokens; 100 bytes a token received, between a streamed and a whole answer, at 10 USD.
    fn default() -> Self {
        Self { sent: micro_usd(600_000), received: micro_usd(100_000) }
    }
}

const fn micro_usd(micro: i128) -> Money {
    Money::from_pico_usd(micro * (Money::PICO_PER_USD / 1_000_000))
}

/// Sums over samples, from which the rates follow by least squares. Each sample weighs by the inverse of its squared cost: being wrong by half is as bad for a
/// small call as for a large one.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Fit {
    samples: u64,
    ss: f64,
    sr: f64,
    rr: f64,
    sc: f64,
    rc: f64,
}

/// How much of the weight of older samples is left with each new one.
const KEEP: f64 = 0.97;
/// How strongly the two rates are drawn to a common one, which a few calls that are all alike cannot tell apart.
const PULL: f64 = 0.01;

#[expect(clippy::cast_precision_loss, reason = "an estimate needs no more than 53 bits")]
impl Fit {
    pub fn add(&mut self, sample: &Sample) {
        let cost = sample.cost.pico_usd() as f64;
        if cost <= 0.0 || sample.sent + sample.received == 0 {
            return;
        }
        // In units of the cost, so that every sample weighs the same.
        let (sent, received) = (sample.sent as f64 / cost, sample.received as f64 / cost);
        self.samples += 1;
        for sum in [&mut self.ss, &mut self.sr, &mut self.rr, &mut self.sc, &mut self.rc] {
            *sum *= KEEP;
        }
        self.ss += sent * sent;
        self.sr += sent * received;
        self.rr += received * received;
        self.sc += sent;
        self.rc += received;
    }

    /// Both together.
    fn and(&self, other: &Self) -> Self {
        Self {
            samples: self.samples + other.samples,
            ss: self.ss + other.ss,
            sr: self.sr + other.sr,
            rr: self.rr + other.rr,
            sc: self.sc + other.sc,
            rc: self.rc + other.rc,
        }
    }

    /// pico-USD for a byte sent and for one received; `None` without samples.
    fn rates(&self) -> Option<(f64, f64)> {
        if self.samples == 0 {
            return None;
        }
        // One rate for all bytes, where both are the same.
        let all = self.ss + 2.0 * self.sr + self.rr;
        let common = (self.sc + self.rc) / all;
        let (ss, rr) = (self.ss * (1.0 + PULL), self.rr * (1.0 + PULL));
        let (sc, rc) = (self.sc + PULL * self.ss * common, self.rc + PULL * self.rr * common);
        let determinant = ss * rr - self.sr * self.sr;
        let (sent, received) = if determinant > 0.0 {
            ((sc * rr - rc * self.sr) / determinant, (rc * ss - sc * self.sr) / determinant)
        } else {
            (common, common)
        };
        // More bytes never cost less.
        let rates = if sent < 0.0 {
            (0.0, self.rc / self.rr)
        } else if received < 0.0 {
            (self.sc / self.ss, 0.0)
        } else {
            (sent, received)
        };
        (rates.0.is_finite() && rates.1.is_finite()).then_some(rates)
    }
}

/// The rates of every host.
#[derive(Debug, Clone, Default)]
pub struct Models {
    hosts: HashMap<Box<str>, Fit>,
    rates: Rates,
}

/// Hosts that are kept.
const MOST: usize = 1024;

impl Models {
    pub fn new(rates: Rates) -> Self {
        Self { hosts: HashMap::new(), rates }
    }

    /// Other rates for hosts that nothing is known of.
    pub const fn set_rates(&mut self, rates: Rates) {
        self.rates = rates;
    }

    pub fn add(&mut self, host: &str, sample: &Sample) {
        if let Some(fit) = self.hosts.get_mut(host) {
            fit.add(sample);
        } else if self.hosts.len() < MOST {
            self.hosts.entry(host.into()).or_default().add(sample);
        }
    }

    /// Whether calls at this host were read.
    pub fn knows(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|fit| fit.samples > 0)
    }

    /// What so many bytes cost there.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "an estimate needs no more than 53 bits"
    )]
    pub fn estimate(&self, host: &str, sent: u64, received: u64) -> Money {
        let own = self.hosts.get(host).and_then(Fit::rates);
        let rates = own.or_else(|| {
            let provider = provider_at(host)?;
            let others = self.hosts.iter().filter(|(host, _)| provider_at(host) == Some(provider));
            others.fold(Fit::default(), |all, (_, fit)| all.and(fit)).rates()
        });
        match rates {
            Some((for_sent, for_received)) => {
                Money::from_pico_usd((sent as f64 * for_sent + received as f64 * for_received).round() as i128)
            }
            None => {
                let whole = |rate: Money, bytes: u64| rate.pico_usd().saturating_mul(i128::from(bytes)) / 1_000_000;
                Money::from_pico_usd(whole(self.rates.sent, sent) + whole(self.rates.received, received))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Models, Rates, Sample};
    use crate::price::Money;

    /// As streams of `gpt-4o`: 4 bytes a token sent at 2.5 µUSD, 90 bytes a token received at 10 µUSD, and 900 bytes of heads and ends each way.
    fn call(asked: u64, answered: u64) -> Sample {
        let cost = i128::from(asked) * 2_500_000 + i128::from(answered) * 10_000_000;
        Sample { sent: 900 + asked * 4, received: 900 + answered * 90, cost: Money::from_pico_usd(cost) }
    }

    fn ratio(models: &Models, host: &str, sample: &Sample) -> f64 {
        let estimate = models.estimate(host, sample.sent, sample.received);
        estimate.pico_usd() as f64 / sample.cost.pico_usd() as f64
    }

    #[test]
    fn calls_that_vary_are_told_apart_within_a_factor_of_two() {
        let mut models = Models::new(Rates::default());
        for number in 0..60 {
            models.add("a", &call(200 + number * 37 % 1500, 20 + number * 53 % 400));
        }
        for (asked, answered) in [(300, 300), (1500, 40), (800, 60), (100, 600), (4000, 400)] {
            let ratio = ratio(&models, "a", &call(asked, answered));
            assert!((0.5..2.0).contains(&ratio), "{asked} {answered}: {ratio}");
        }
    }

    #[test]
    fn one_call_is_enough_for_those_like_it() {
        let mut models = Models::new(Rates::default());
        models.add("a", &call(800, 60));
        for (asked, answered) in [(800, 60), (800, 120), (1200, 60)] {
            let ratio = ratio(&models, "a", &call(asked, answered));
            assert!((0.5..2.0).contains(&ratio), "{asked} {answered}: {ratio}");
        }
    }

    #[test]
    fn a_host_without_calls_takes_what_its_provider_has_and_else_what_is_set() {
        let mut models = Models::new(Rates::default());
        models.add("one.openai.azure.com", &call(800, 60));
        assert!((0.9..1.1).contains(&ratio(&models, "two.openai.azure.com", &call(800, 60))));
        assert_eq!(models.estimate("api.anthropic.com", 1_000_000, 10_000_000).to_string(), "1.6");
        assert!(models.knows("one.openai.azure.com") && !models.knows("two.openai.azure.com"));
    }

    #[test]
    fn nothing_odd_comes_of_odd_samples() {
        let mut models = Models::new(Rates::default());
        for (sent, received, cost) in
            [(0, 0, 5), (0, 1, 5), (1, 0, 5), (u64::MAX / 4, 1, 1), (1, u64::MAX / 4, i128::MAX), (1, 1, -5), (1, 1, 0)]
        {
            models.add("a", &Sample { sent, received, cost: Money::from_pico_usd(cost) });
            assert!(!models.estimate("a", 1000, 1000).is_negative());
        }
    }
}
