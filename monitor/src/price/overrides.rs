//! Prices that an administrator sets: negotiated rates, discounts and uplifts, machines of one's own.
//!
//! An override holds for the calls that fit all of its conditions, and always goes before the price tables. Of several
//! that fit, the most specific one holds, and only that one: the one that names the model most exactly; of these the
//! one that names the host most exactly; then one that names the provider, then one that names the kind of service,
//! then the one that began last; and at last the one further down in the file. A name is exact without a `*`, and
//! otherwise the more so the more letters it has.
//!
//! Its shape in the configuration is in `overrides/settings.rs`.

mod settings;

use std::{cmp::Ordering, fmt::Write as _, time::Duration};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

pub use self::settings::OverrideError;
use self::settings::Settings;
use super::{
    Query,
    money::{Money, div_half_even},
    row::Tiered,
};
use crate::meter::{Bucket, Unit};

/// Prices that an administrator has set for some calls.
#[derive(Debug, Clone, serde::Deserialize)]
#[serde(try_from = "Settings")]
pub struct Override {
    name: Box<str>,
    hash: Box<str>,
    /// What it says, as JSON: what the hash is of.
    text: Box<str>,
    pub(super) provider: Option<Box<str>>,
    pub(super) host: Option<Glob>,
    pub(super) model: Option<Glob>,
    service_tier: Option<Box<str>>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
    pub(super) prices: Prices,
    pub(super) factor: Factor,
}

/// What the price tables know of a call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known<'a> {
    /// Who bills.
    pub(super) provider: Option<&'a str>,
    /// Whether one of them has a price.
    pub(super) is_listed: bool,
}

/// What an override charges.
#[derive(Debug, Clone)]
pub(super) enum Prices {
    /// The table's own.
    Listed,
    /// These. If there is any for tokens, the table's prices for tokens do not hold, as they are those of another
    /// contract; other prices of the table hold unless there is one here.
    Own { tokens: Option<Box<OwnTokens>>, counts: Box<[Option<Tiered>; Unit::ALL.len()]> },
    /// The time of machines, and nothing of the table.
    Machines(MachineRate),
}

/// The prices of a contract for tokens, and which of them each bucket has.
#[derive(Debug, Clone)]
pub(super) struct OwnTokens {
    prices: Box<[Tiered]>,
    of: [Option<usize>; Bucket::ALL.len()],
}

impl OwnTokens {
    pub(super) fn by_bucket(&self) -> [Option<&Tiered>; Bucket::ALL.len()] {
        self.of.map(|place| self.prices.get(place?))
    }
}

impl Override {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The provider that it is for, if it names one.
    pub fn provider(&self) -> Option<&str> {
        self.provider.as_deref()
    }

    /// The first 12 digits of the SHA-256 of what it says: it changes when the override is changed.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What it says, as JSON: what the hash is of.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The cost that a provider reports, with the percentage on it, if that is all that is set. Rounded once, halves to even.
    pub fn percentage_of(&self, cost: Money) -> Option<Money> {
        let pico = self.factor.of(u128::try_from(cost.pico_usd()).ok()?, 1);
        let cost = i128::try_from(pico).map_or(Money::MAX, Money::from_pico_usd);
        matches!(self.prices, Prices::Listed).then_some(cost)
    }

    /// Whether it fits a call. A percentage fits where a table has a price that it can be of.
    fn fits(&self, query: &Query<'_>, known: Known<'_>) -> bool {
        let is_provider = |wanted: &str| known.provider.is_some_and(|it| it.eq_ignore_ascii_case(wanted));
        let is_tier = |wanted: &str| {
            let served = [query.service.tier, query.service.processing];
            served.into_iter().flatten().any(|it| it.eq_ignore_ascii_case(wanted))
        };
        (known.is_listed || !matches!(self.prices, Prices::Listed))
            && self.provider.as_deref().is_none_or(is_provider)
            && self.host.as_ref().is_none_or(|host| query.url.is_some_and(|url| host.is_host_of(url)))
            && self.model.as_ref().is_none_or(|model| model.is_match(query.model))
            && self.service_tier.as_deref().is_none_or(is_tier)
            && self.from.is_none_or(|from| from <= query.at)
            && self.until.is_none_or(|until| query.at < until)
    }

    /// Which of two overrides is the more specific one.
    pub(super) fn specificity(&self, other: &Self) -> Ordering {
        let order = |it: &Self| {
            (
                it.model.as_ref().map(Glob::specificity),
                it.host.as_ref().map(Glob::specificity),
                it.provider.is_some(),
                it.service_tier.is_some(),
                it.from,
            )
        };
        order(self).cmp(&order(other))
    }
}

/// All overrides of a configuration, in their order.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(try_from = "Vec<Override>")]
pub struct Overrides(Box<[Override]>);

impl TryFrom<Vec<Override>> for Overrides {
    type Error = OverrideError;

    fn try_from(overrides: Vec<Override>) -> Result<Self, OverrideError> {
        for (index, it) in overrides.iter().enumerate() {
            if overrides.iter().take(index).any(|other| other.name == it.name) {
                return Err(OverrideError::NotUnique(it.name.to_string()));
            }
        }
        Ok(Self(overrides.into()))
    }
}

impl Overrides {
    /// With the providers' ids for their usual names.
    pub(super) fn with_ids<'t>(mut self, id_of: impl Fn(&str) -> Option<&'t str>) -> Self {
        for it in &mut self.0 {
            if let Some(id) = it.provider.as_deref().and_then(&id_of) {
                it.provider = Some(id.into());
            }
        }
        self
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Override> {
        self.0.iter()
    }

    /// Those that fit a call, the one that holds first.
    pub(super) fn fitting<'o>(&'o self, query: &Query<'_>, known: Known<'_>) -> Vec<&'o Override> {
        let mut fitting = self.0.iter().rev().filter(|it| it.fits(query, known)).collect::<Vec<_>>();
        // Stable: of equals the one further down stays in front.
        fitting.sort_by(|a, b| b.specificity(a));
        fitting
    }

    /// The one that holds for a call. Asked for each running cost, so it allocates nothing.
    pub(super) fn find(&self, query: &Query<'_>, known: Known<'_>) -> Option<&Override> {
        self.0.iter().filter(|it| it.fits(query, known)).max_by(|a, b| a.specificity(b))
    }
}

/// A name in which `*` stands for anything. Case is ignored.
#[derive(Debug, Clone)]
pub(super) struct Glob {
    text: Box<str>,
    /// What is between the stars.
    parts: Box<[Box<str>]>,
}

impl Glob {
    fn new(text: &str) -> Self {
        let folded = text.to_lowercase();
        Self { text: text.into(), parts: folded.split('*').map(Box::from).collect() }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn is_match(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        let [first, middle @ .., last] = &*self.parts else {
            return self.parts.first().is_some_and(|whole| **whole == *name);
        };
        let Some(mut rest) = name.strip_prefix(&**first).and_then(|rest| rest.strip_suffix(&**last)) else {
            return false;
        };
        // The leftmost place for each part leaves the most room for those after it.
        for part in middle {
            let Some(at) = rest.find(&**part) else { return false };
            rest = rest.get(at + part.len()..).unwrap_or_default();
        }
        true
    }

    /// Whether it is the host of a URL. Without a port it is that host at any port.
    fn is_host_of(&self, url: &str) -> bool {
        let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
        self.is_match(authority) || host.is_some_and(|(host, _)| self.is_match(host))
    }

    /// Exact ones are larger than others, and of these those with more letters.
    fn specificity(&self) -> (bool, usize) {
        (self.parts.len() == 1, self.parts.iter().map(|part| part.chars().count()).sum())
    }
}

/// What all prices are multiplied by, as an exact fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Factor {
    /// In millionths.
    millionths: u128,
    pub(super) on_fees: bool,
}

impl Factor {
    pub(super) const ONE: Self = Self { millionths: Self::UNIT, on_fees: true };
    const UNIT: u128 = 1_000_000;
    /// 10,000 times: nothing that is meant is more.
    const MAX: u128 = Self::UNIT * 10_000;

    /// Of an amount that is so many of `divisor` parts: the product in whole numbers, rounded once, halves to even.
    /// Exact also where the product would not fit.
    pub(super) fn of(self, amount: u128, divisor: u128) -> u128 {
        if self.millionths == Self::UNIT {
            return div_half_even(amount, divisor);
        }
        let divisor = divisor * Self::UNIT;
        let (whole, rest) = (amount / divisor, amount % divisor);
        let rest = rest * self.millionths;
        // To round to even, the last digit of all must be seen: so only what is less than two is rounded.
        let (carried, rest) = (rest / divisor, rest % divisor);
        let quotient = whole.saturating_mul(self.millionths).saturating_add(carried);
        let odd = quotient % 2;
        (quotient - odd).saturating_add(div_half_even(rest + odd * divisor, divisor))
    }
}

/// What the time of machines costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MachineRate {
    gpus: u32,
    per_gpu_hour: Money,
}

impl MachineRate {
    const NANOSECONDS_PER_HOUR: u128 = 3_600_000_000_000;

    /// What a call of this duration costs, rounded once, halves to even.
    pub(super) fn cost(self, took: Duration, factor: Factor) -> Money {
        let per_hour = self.per_gpu_hour.pico_usd().unsigned_abs() * u128::from(self.gpus);
        let pico = factor.of(per_hour.saturating_mul(took.as_nanos()), Self::NANOSECONDS_PER_HOUR);
        i128::try_from(pico).map_or(Money::MAX, Money::from_pico_usd)
    }

    pub(super) fn gpus(self) -> u32 {
        self.gpus
    }
}

fn hash(text: &str) -> Box<str> {
    let mut hex = String::new();
    for byte in Sha256::digest(text).iter().take(6) {
        write!(hex, "{byte:02x}").ok();
    }
    hex.into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        let matches = |glob: &str, name: &str| Glob::new(glob).is_match(name);
        assert!(matches("gpt-4o", "GPT-4o") && !matches("gpt-4o", "gpt-4o-mini"));
        assert!(matches("GPT-4o*", "gpt-4o-mini") && matches("*", "") && matches("*mini", "gpt-4o-mini"));
        assert!(matches("g*4*i", "gpt-4o-mini") && !matches("g*5*i", "gpt-4o-mini"));
        // One letter cannot be two of them.
        assert!(!matches("ab*ba", "aba") && matches("ab*ba", "abba") && !matches("a*b*b", "ab"));
    }

    #[test]
    fn a_host_without_a_port_is_at_any_port() {
        let is_host = |glob: &str, url: &str| Glob::new(glob).is_host_of(url);
        assert!(is_host("localhost", "http://localhost:8000/v1/chat/completions"));
        assert!(is_host("localhost:8000", "http://localhost:8000/v1"));
        assert!(!is_host("localhost:8000", "http://localhost:8001/v1"));
        assert!(is_host("*.eu-*.amazonaws.com", "https://bedrock-runtime.eu-central-1.amazonaws.com/model/x"));
        assert!(!is_host("api.openai.com", "https://example.com/api.openai.com"));
        assert!(is_host("[::1]", "http://[::1]:80/"));
    }

    proptest! {
        #[test]
        fn any_name_is_safe(glob in "[*aé]{0,6}", name in "[aé]{0,8}") {
            let star = Glob::new(&glob).is_match(&name);
            let pattern = format!("^{}$", glob.replace('*', ".*"));
            prop_assert_eq!(star, regex::Regex::new(&pattern).unwrap().is_match(&name));
        }

        /// The one that holds is as specific as any that fits, and stays when the others are taken away.
        #[test]
        fn the_one_that_holds_is_none_less_specific(
            models in proptest::collection::vec(prop::sample::select(vec!["*", "g*", "gpt*", "gpt-5", "*5"]), 1..6),
            hosts in proptest::collection::vec(prop::sample::select(vec!["*", "api.*", "api.openai.com"]), 6),
        ) {
            let set = |(index, (model, host)): (usize, (&&str, &&str))| {
                format!("[[override]]\nname = '{index}'\nmodel = '{model}'\nhost = '{host}'\npercent = '1'\n")
            };
            let text = models.iter().zip(&hosts).enumerate().map(set).collect::<String>();
            let config: crate::config::Price = toml::from_str(&text).unwrap();
            let url = Some("https://api.openai.com/v1");
            let query = Query { url, ..Query::new("gpt-5", Timestamp::UNIX_EPOCH) };
            let known = Known { is_listed: true, ..Known::default() };
            let found = config.overrides.find(&query, known).unwrap();
            let fitting = config.overrides.fitting(&query, known);
            prop_assert_eq!(fitting[0].name(), found.name());
            prop_assert!(fitting.iter().all(|it| found.specificity(it) != Ordering::Less));
            // Letters of the model's name first, then of the host's; exact ones before all.
            let key = |index: usize| {
                let letters = |text: &str| (!text.contains('*'), text.replace('*', "").len());
                (letters(models[index]), letters(hosts[index]), index)
            };
            let best = (0..models.len()).max_by_key(|&index| key(index)).unwrap();
            prop_assert_eq!(found.name(), best.to_string());
        }

        /// Against numbers that are not split.
        #[test]
        fn a_factor_is_exact(amount in 0_u128..1 << 90, divisor in 1_u128..1 << 40, millionths in 0_u128..1 << 27) {
            let factor = Factor { millionths, on_fees: true };
            prop_assert_eq!(factor.of(amount, divisor), div_half_even(amount * millionths, divisor * Factor::UNIT));
        }
    }
}
