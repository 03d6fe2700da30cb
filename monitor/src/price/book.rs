//! The price book as it lies in the data file.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::matcher::Matcher;

/// The whole file.
#[derive(Debug, Deserialize)]
pub struct Book {
    pub source: Source,
    /// Usage key → unit.
    pub units: BTreeMap<String, Unit>,
    pub providers: Vec<Provider>,
}

/// Where the data came from.
#[derive(Debug, Deserialize)]
pub struct Source {
    pub package: String,
    pub version: String,
}

/// Something that is counted and priced.
#[derive(Debug, Deserialize)]
pub struct Unit {
    /// How many of it a price is for.
    pub per: u64,
    pub price_key: String,
    /// A unit with more dimensions refines one with fewer of the same.
    pub dimensions: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub struct Provider {
    pub id: String,
    /// Matches URLs from their beginning.
    #[serde(deserialize_with = "anchored")]
    pub api_pattern: fancy_regex::Regex,
    pub model_match: Option<Matcher>,
    #[serde(default)]
    pub fallback_model_providers: Vec<String>,
    pub models: Vec<Model>,
}

#[derive(Debug, Deserialize)]
pub struct Model {
    pub id: String,
    #[serde(rename = "match")]
    pub matcher: Matcher,
    pub prices: Vec<ConditionalPrices>,
    #[serde(default)]
    pub price_variants: Vec<Variant>,
}

/// Prices that hold while the constraint does. The last active ones win.
#[derive(Debug, Deserialize)]
pub struct ConditionalPrices {
    pub constraint: Option<Constraint>,
    pub prices: Prices,
}

/// Prices that replace others when every pair of `when` is in the context of the call.
#[derive(Debug, Deserialize)]
pub struct Variant {
    pub when: BTreeMap<String, String>,
    pub constraint: Option<Constraint>,
    pub prices: Prices,
}

/// Price key → rate.
pub type Prices = BTreeMap<String, Rate>;

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Constraint {
    /// From the beginning of this day, UTC.
    StartDate { start_date: jiff::civil::Date },
    /// Each day between these times, UTC; over midnight when the end is before the start.
    TimeOfDay { start_time_utc: jiff::civil::Time, end_time_utc: jiff::civil::Time },
}

impl Constraint {
    pub fn is_active(&self, at: jiff::Timestamp) -> bool {
        let utc = jiff::tz::TimeZone::UTC.to_datetime(at);
        match self {
            Self::StartDate { start_date } => utc.date() >= *start_date,
            Self::TimeOfDay { start_time_utc: start, end_time_utc: end } => {
                let time = utc.time();
                if end < start { time >= *start || time < *end } else { time >= *start && time < *end }
            }
        }
    }
}

/// A price, which may depend on the total input of the request.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Rate {
    Flat(Decimal),
    Tiered { base: Decimal, tiers: Vec<Tier> },
}

/// The price of all tokens of a request with more than `start` input tokens.
#[derive(Debug, Deserialize)]
pub struct Tier {
    pub start: u64,
    pub price: Decimal,
}

impl Rate {
    pub fn at(&self, input_total: u64) -> Decimal {
        match self {
            Self::Flat(price) => *price,
            Self::Tiered { base, tiers } => {
                tiers.iter().rev().find(|tier| input_total > tier.start).map_or(*base, |tier| tier.price)
            }
        }
    }
}

/// A non-negative decimal in units of 10⁻¹⁸: the finest price in the catalogue has 18 decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal(pub i128);

impl Decimal {
    pub const PLACES: u32 = 18;

    fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || fraction.len() > Self::PLACES as usize {
            return None;
        }
        let whole: i128 = whole.parse().ok()?;
        let fraction: i128 = format!("{fraction:0<width$}", width = Self::PLACES as usize).parse().ok()?;
        whole.checked_mul(10_i128.pow(Self::PLACES))?.checked_add(fraction).map(Self)
    }
}

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("`{text}` is not a price")))
    }
}

fn anchored<'de, D: Deserializer<'de>>(deserializer: D) -> Result<fancy_regex::Regex, D::Error> {
    let pattern = String::deserialize(deserializer)?;
    fancy_regex::Regex::new(&format!("^(?:{pattern})")).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::{Constraint, Decimal, Rate, Tier};

    #[test]
    fn decimals_are_exact() {
        assert_eq!(Decimal::parse("0.041666666666666664"), Some(Decimal(41_666_666_666_666_664)));
        assert_eq!(Decimal::parse("12"), Some(Decimal(12 * 10_i128.pow(18))));
        for bad in ["", "-1", "1e3", "0.0000000000000000001", "."] {
            assert_eq!(Decimal::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_tier_switches_the_whole_request_above_its_start() {
        let tier = |start, price| Tier { start, price: Decimal(price) };
        let rate = Rate::Tiered { base: Decimal(1), tiers: vec![tier(100, 2), tier(200, 3)] };
        assert_eq!([0, 100, 101, 200, 201].map(|total| rate.at(total).0), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn times_of_day_wrap_over_midnight() {
        let night: Constraint = serde_json::from_str(r#"{"start_time_utc": "16:30:00", "end_time_utc": "00:30:00"}"#)
            .expect("a constraint");
        let at = |text: &str| night.is_active(text.parse().expect("a time"));
        assert!(at("2025-01-01T16:30:00Z") && at("2025-01-01T23:59:59Z") && at("2025-01-01T00:29:59Z"));
        assert!(!at("2025-01-01T00:30:00Z") && !at("2025-01-01T16:29:59Z"));
    }
}
