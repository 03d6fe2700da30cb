//! The shape of an override in the configuration, and what makes no sense in one.

use std::{collections::BTreeMap, fmt};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, de};

use super::{Factor, Glob, MachineRate, Override, OwnTokens, Prices, hash};
use crate::{
    meter::{Bucket, Unit},
    price::{
        Money,
        money::parse_fixed_point,
        row::{PriceJson, TierJson, Tiered},
    },
};

/// One `[[price.override]]`.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settings {
    /// How reports call it.
    name: String,
    /// Id of the provider in the catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<String>,
    /// From this day (UTC) or moment on.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Moment>,
    /// Before this day (UTC) or moment.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Moment>,
    /// Discount (negative) or uplift, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    percent: Option<Decimal>,
    #[serde(default)]
    percent_of: PercentOf,
    /// USD per million tokens, by bucket.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    per_million_tokens: BTreeMap<String, TokenPrice>,
    /// USD apiece, by unit.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    per_unit: BTreeMap<String, Decimal>,
    /// USD for the call as such.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_request: Option<Decimal>,
    /// Machines that are busy for as long as the call takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usd_per_gpu_hour: Option<Decimal>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum PercentOf {
    #[default]
    Everything,
    Tokens,
}

/// What is wrong with an override.
#[derive(Debug, thiserror::Error)]
pub enum OverrideError {
    #[error("price.override has the name `{0}` twice: reports tell overrides by their names")]
    NotUnique(String),
    #[error("price.override `{name}`: {what}")]
    Senseless { name: String, what: String },
}

impl TryFrom<Settings> for Override {
    type Error = OverrideError;

    fn try_from(settings: Settings) -> Result<Self, OverrideError> {
        read(&settings).map_err(|what| OverrideError::Senseless { name: settings.name, what })
    }
}

fn read(settings: &Settings) -> Result<Override, String> {
    if settings.name.trim().is_empty() {
        return Err("the name is empty: reports show it beside the charge".into());
    }
    let conditions = [&settings.provider, &settings.host, &settings.model, &settings.service_tier];
    if let Some(empty) = conditions.into_iter().flatten().find(|text| text.trim().is_empty()) {
        return Err(format!("`{empty}` names nothing: leave the key out where anything fits"));
    }
    let (from, until) = (settings.from.as_ref().map(|it| it.at), settings.until.as_ref().map(|it| it.at));
    if let (Some(from), Some(until)) = (from, until)
        && until <= from
    {
        return Err("it ends before it begins: `until` must be after `from`".into());
    }
    let factor = factor(settings)?;
    let text = serde_json::to_string(settings).map_err(|error| error.to_string())?;
    Ok(Override {
        hash: hash(&text),
        text: text.into(),
        name: settings.name.as_str().into(),
        provider: settings.provider.as_deref().map(|id| id.trim().into()),
        host: settings.host.as_deref().map(Glob::new),
        model: settings.model.as_deref().map(Glob::new),
        service_tier: settings.service_tier.as_deref().map(Into::into),
        from,
        until,
        prices: prices(settings)?,
        factor,
    })
}

fn factor(settings: &Settings) -> Result<Factor, String> {
    let on_fees = settings.percent_of == PercentOf::Everything;
    let Some(percent) = &settings.percent else {
        return if on_fees { Ok(Factor::ONE) } else { Err("`percent_of` needs `percent`".into()) };
    };
    let ten_thousandths = parse_fixed_point(&percent.0, 4)
        .map_err(|_| format!("`percent = \"{}\"` has more than four decimals", percent.0))?;
    let millionths = ten_thousandths.checked_add(1_000_000).and_then(|sum| u128::try_from(sum).ok());
    let millionths = millionths.filter(|&it| it <= Factor::MAX);
    let millionths = millionths.ok_or(format!("`percent = \"{}\"` is not between -100 and 999900", percent.0))?;
    Ok(Factor { millionths, on_fees })
}

fn prices(settings: &Settings) -> Result<Prices, String> {
    let has_own =
        !settings.per_million_tokens.is_empty() || !settings.per_unit.is_empty() || settings.per_request.is_some();
    if let Some(usd) = &settings.usd_per_gpu_hour {
        if has_own {
            return Err("a call is priced by the time of GPUs or by what it used, not by both".into());
        }
        let gpus = settings.gpus.unwrap_or(1);
        let per_gpu_hour = usd.0.parse::<Money>().map_err(|error| error.to_string())?;
        if gpus == 0 || per_gpu_hour.is_negative() || per_gpu_hour > MAX_PER_GPU_HOUR {
            return Err("`gpus` and `usd_per_gpu_hour` must be positive, and at most $1000000 an hour".into());
        }
        return Ok(Prices::Machines(MachineRate { gpus, per_gpu_hour }));
    }
    if settings.gpus.is_some() {
        return Err("`gpus` needs `usd_per_gpu_hour`".into());
    }
    if !has_own {
        return match settings.percent {
            Some(_) => Ok(Prices::Listed),
            None => Err("it sets no price: give `per_million_tokens`, `per_unit`, `per_request`, `percent` or \
                         `usd_per_gpu_hour`"
                .into()),
        };
    }
    Ok(Prices::Own { tokens: tokens(&settings.per_million_tokens)?, counts: counts(settings)? })
}

const MAX_PER_GPU_HOUR: Money = Money::from_pico_usd(1_000_000 * Money::PICO_PER_USD);

/// Each bucket gets the price of the most special name that it goes by.
fn tokens(named: &BTreeMap<String, TokenPrice>) -> Result<Option<Box<OwnTokens>>, String> {
    let known = |name: &str| Bucket::ALL.into_iter().any(|bucket| names(bucket).contains(&name));
    if let Some(unknown) = named.keys().find(|name| !known(name)) {
        let known = ["input", "output"].into_iter().chain(Bucket::ALL.map(Bucket::name)).collect::<Vec<_>>();
        return Err(format!("`per_million_tokens.{unknown}` is no kind of token: use one of {}", known.join(", ")));
    }
    if named.is_empty() {
        return Ok(None);
    }
    let price = |(name, price): (&String, &TokenPrice)| {
        Tiered::parse(&price.0, 1_000_000).ok_or_else(|| format!("`per_million_tokens.{name}` {NO_AMOUNT}"))
    };
    let prices = named.iter().map(price).collect::<Result<Box<[_]>, String>>()?;
    let place = |name: &str| named.keys().position(|it| it == name);
    let of = Bucket::ALL.map(|bucket| names(bucket).into_iter().find_map(place));
    Ok(Some(Box::new(OwnTokens { prices, of })))
}

/// What a bucket goes by, the most special name first.
fn names(bucket: Bucket) -> [&'static str; 3] {
    let kind = match bucket {
        Bucket::CacheWrite5m | Bucket::CacheWrite1h => Bucket::CacheWrite,
        _ => bucket,
    };
    [bucket.name(), kind.name(), if bucket.is_input() { "input" } else { "output" }]
}

fn counts(settings: &Settings) -> Result<Box<[Option<Tiered>; Unit::ALL.len()]>, String> {
    let mut prices = Box::new([const { None }; Unit::ALL.len()]);
    let named = settings.per_unit.iter().map(|(name, price)| (name.as_str(), price));
    for (name, price) in named.chain(settings.per_request.iter().map(|price| (Unit::Requests.name(), price))) {
        let unit = name.parse::<Unit>().map_err(|_| {
            format!("`per_unit.{name}` is no unit: use one of {}", Unit::ALL.map(Unit::name).join(", "))
        })?;
        let Some(place) = prices.get_mut(unit as usize) else { continue };
        if place.is_some() {
            return Err("`per_request` and `per_unit.requests` are the same: give one of them".into());
        }
        let price = Tiered::parse(&PriceJson::Flat(price.0.clone()), 1);
        *place = Some(price.ok_or_else(|| format!("the price of `{name}` {NO_AMOUNT}"))?);
    }
    Ok(prices)
}

const NO_AMOUNT: &str = "is negative, too large, or has more than 18 decimals";

/// A decimal number, kept as it is written: in quotes, or whole.
#[derive(Debug, Serialize)]
#[serde(transparent)]
struct Decimal(String);

impl<'de> Deserialize<'de> for Decimal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.deserialize_any(PriceVisitor { tiers: false })? {
            PriceJson::Flat(text) => Ok(Self(text)),
            PriceJson::Tiered { .. } => Err(de::Error::custom("only prices of tokens have tiers")),
        }
    }
}

/// The price of tokens: a number, or `{ base = "…", tiers = [{ start = 200000, price = "…" }] }`.
#[derive(Debug)]
struct TokenPrice(PriceJson);

impl<'de> Deserialize<'de> for TokenPrice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PriceVisitor { tiers: true }).map(Self)
    }
}

impl Serialize for TokenPrice {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match &self.0 {
            PriceJson::Flat(text) => serializer.serialize_str(text),
            PriceJson::Tiered { base, tiers } => {
                let tiers = tiers.iter().map(|tier| (tier.start, tier.price.as_str())).collect::<Vec<_>>();
                (base, tiers).serialize(serializer)
            }
        }
    }
}

struct PriceVisitor {
    tiers: bool,
}

impl<'de> de::Visitor<'de> for PriceVisitor {
    type Value = PriceJson;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.tiers { "a price in quotes, or a base with tiers" } else { "a number in quotes" })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<PriceJson, E> {
        parse_fixed_point(text, 30)
            .map_err(|_| E::custom(format!("`{text}` is not a decimal number: write it like \"2.50\"")))?;
        Ok(PriceJson::Flat(text.to_owned()))
    }

    fn visit_i64<E: de::Error>(self, whole: i64) -> Result<PriceJson, E> {
        Ok(PriceJson::Flat(whole.to_string()))
    }

    fn visit_u64<E: de::Error>(self, whole: u64) -> Result<PriceJson, E> {
        Ok(PriceJson::Flat(whole.to_string()))
    }

    fn visit_f64<E: de::Error>(self, float: f64) -> Result<PriceJson, E> {
        Err(E::custom(format!("write {float} in quotes, \"{float}\": a bare fraction is binary and not exactly that")))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<PriceJson, A::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct WithTiers {
            base: Decimal,
            tiers: Vec<Tier>,
        }
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Tier {
            start: u64,
            price: Decimal,
        }
        let WithTiers { base, tiers } = WithTiers::deserialize(de::value::MapAccessDeserializer::new(map))?;
        let tiers = tiers.into_iter().map(|tier| TierJson { start: tier.start, price: tier.price.0 }).collect();
        Ok(PriceJson::Tiered { base: base.0, tiers })
    }
}

/// A day, which begins at midnight UTC, or a moment.
#[derive(Debug)]
struct Moment {
    at: Timestamp,
}

impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.at.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MomentVisitor;
        impl<'de> de::Visitor<'de> for MomentVisitor {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a day (\"2026-01-31\") or a moment (\"2026-01-31T12:00:00Z\")")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
                let day = || TimeZone::UTC.to_timestamp(text.parse::<Date>().ok()?.at(0, 0, 0, 0)).ok();
                // A date with a time parses as a date too, and would lose the time.
                let day = if text.len() == "2026-01-31".len() { day() } else { None };
                day.or_else(|| text.parse().ok()).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            /// TOML's own dates.
            fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<Timestamp, A::Error> {
                Err(de::Error::custom("write the date in quotes"))
            }
        }
        deserializer.deserialize_any(MomentVisitor).map(|at| Self { at })
    }
}
