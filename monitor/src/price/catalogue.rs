//! The catalogue: who sells a model, and what it costs there.

use std::{borrow::Cow, collections::BTreeMap, sync::LazyLock};

use jiff::Timestamp;

use super::{
    Money,
    book::{Book, Decimal, Model, Provider, Rate},
    quote::{Price, PriceRow, Query, Quote, Unpriced},
};
use crate::meter::{Bucket, Units, Usage};

/// Decimal places of the sums, in USD: 18 of a price, and 6 because prices are per million.
const SUM_PLACES: u32 = 24;
const PICO_PLACES: u32 = 12;

static EMBEDDED: LazyLock<Catalogue> = LazyLock::new(|| {
    let book = serde_json::from_str(include_str!("genai_prices.json"));
    // A test reads the same bytes, so this cannot happen in a build that passed.
    Catalogue::new(book.unwrap_or_else(|error| unreachable!("the embedded price book is valid: {error}")))
});

/// Prices of models at their providers.
#[derive(Debug)]
pub struct Catalogue {
    /// Package and version.
    name: String,
    providers: Vec<Provider>,
    /// By price key.
    units: BTreeMap<String, CountedUnit>,
}

/// A unit and how many of it a call used.
#[derive(Debug)]
struct CountedUnit {
    per: i128,
    dimensions: BTreeMap<String, String>,
    count: Count,
}

impl CountedUnit {
    /// Whether `other` is a finer kind of this.
    fn is_refined_by(&self, other: &Self) -> bool {
        self.dimensions.len() < other.dimensions.len()
            && self.dimensions.iter().all(|(dimension, value)| other.dimensions.get(dimension) == Some(value))
    }

    fn direction(&self) -> Option<&str> {
        self.dimensions.get("direction").map(String::as_str)
    }
}

/// Where the number comes from. Catalogue units include what refines them, buckets do not.
#[derive(Debug, Clone)]
enum Count {
    Input,
    Output,
    Buckets(&'static [Bucket]),
    /// One for each call.
    Requests,
    /// By the name of the unit.
    Unit(String),
}

impl Count {
    fn of(usage_key: &str) -> Self {
        use Bucket as B;
        match usage_key {
            "input_tokens" => Self::Input,
            "output_tokens" => Self::Output,
            "cache_read_tokens" => Self::Buckets(&[B::CacheRead]),
            "cache_write_tokens" => Self::Buckets(&[B::CacheWrite, B::CacheWrite5m, B::CacheWrite1h]),
            "cache_write_5m_tokens" => Self::Buckets(&[B::CacheWrite5m]),
            "cache_write_1h_tokens" => Self::Buckets(&[B::CacheWrite1h]),
            "input_audio_tokens" => Self::Buckets(&[B::InputAudio]),
            "input_image_tokens" => Self::Buckets(&[B::InputImage]),
            "input_video_tokens" => Self::Buckets(&[B::InputVideo]),
            "input_tool_tokens" => Self::Buckets(&[B::InputTool]),
            "output_reasoning_tokens" => Self::Buckets(&[B::Reasoning]),
            "output_audio_tokens" => Self::Buckets(&[B::OutputAudio]),
            "output_image_tokens" => Self::Buckets(&[B::OutputImage]),
            "requests" => Self::Requests,
            other => Self::Unit(other.to_owned()),
        }
    }

    fn number(&self, usage: &Usage, units: &Units) -> u64 {
        match self {
            Self::Input => usage.input_total(),
            Self::Output => usage.output_total(),
            Self::Buckets(buckets) => buckets.iter().fold(0, |sum: u64, &bucket| sum.saturating_add(usage.get(bucket))),
            Self::Requests => 1,
            Self::Unit(name) => units.get(name.as_str()).copied().unwrap_or(0),
        }
    }
}

impl Catalogue {
    /// The catalogue that is part of the program.
    pub fn embedded() -> &'static Self {
        &EMBEDDED
    }

    fn new(book: Book) -> Self {
        let units = book
            .units
            .into_iter()
            .map(|(usage_key, unit)| {
                let counted = CountedUnit {
                    per: i128::from(unit.per),
                    dimensions: unit.dimensions,
                    count: Count::of(&usage_key),
                };
                (unit.price_key, counted)
            })
            .collect();
        Self { name: format!("{} {}", book.source.package, book.source.version), providers: book.providers, units }
    }

    /// Package and version of the data.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Prices a call.
    ///
    /// The provider is the one that lives at the URL. An unknown host is a gateway or proxy, and is priced as the maker of the model
    /// would; unless it speaks plaintext: then it is a model server of one's own, whose prices only its owner knows.
    pub fn quote(&self, query: &Query<'_>) -> Quote<'_> {
        if query.model.is_empty() {
            return Quote::Unpriced(Unpriced::Unnamed);
        }
        let name = query.model.to_lowercase();
        let provider = match self.provider(query.url, &name) {
            Ok(provider) => provider,
            Err(why) => return Quote::Unpriced(why),
        };
        let Some((model, is_fallback)) = self.model(provider, &name) else { return Quote::Unpriced(Unpriced::NoModel) };
        let context = if is_fallback { &[] } else { query.context };
        let rates = rates(model, context, query.at);
        let row = PriceRow { catalogue: &self.name, provider: &provider.id, model: &model.id };
        Quote::Priced(self.price(&rates, query, row))
    }

    fn provider(&self, url: Option<&str>, name: &str) -> Result<&Provider, Unpriced> {
        if let Some(url) = url {
            let at_url = |provider: &&Provider| provider.api_pattern.is_match(url).unwrap_or(false);
            if let Some(provider) = self.providers.iter().find(at_url) {
                return Ok(provider);
            }
            if url.starts_with("http://") {
                return Err(Unpriced::SelfHosted);
            }
        }
        let makes = |provider: &&Provider| provider.model_match.as_ref().is_some_and(|matcher| matcher.matches(name));
        self.providers.iter().find(makes).ok_or(Unpriced::NoProvider)
    }

    /// The model of that name, and whether it is another provider's.
    fn model<'c>(&'c self, provider: &'c Provider, name: &str) -> Option<(&'c Model, bool)> {
        self.model_by_exact_name(provider, name)
            .or_else(|| with_dashed_date(name).and_then(|dashed| self.model_by_exact_name(provider, &dashed)))
    }

    fn model_by_exact_name<'c>(&'c self, provider: &'c Provider, name: &str) -> Option<(&'c Model, bool)> {
        let of = |provider: &'c Provider| provider.models.iter().find(|model| model.matcher.matches(name));
        let fallbacks = provider.fallback_model_providers.iter();
        of(provider).map(|model| (model, false)).or_else(|| {
            let mut fallbacks = fallbacks.filter_map(|id| self.providers.iter().find(|provider| provider.id == *id));
            fallbacks.find_map(of).map(|model| (model, true))
        })
    }

    fn price<'c>(&'c self, rates: &BTreeMap<&str, &Rate>, query: &Query<'_>, row: PriceRow<'c>) -> Price<'c> {
        let mut priced: Vec<(&CountedUnit, &Rate)> =
            rates.iter().filter_map(|(&key, &rate)| Some((self.units.get(key)?, rate))).collect();
        // Finest first: what a unit is charged for is what its refinements have left of it.
        priced.sort_by_key(|(unit, _)| std::cmp::Reverse(unit.dimensions.len()));
        let input_total = query.usage.input_total();
        let mut own_counts: Vec<u64> = Vec::with_capacity(priced.len());
        let (mut input, mut output, mut other) = (0_i128, 0_i128, 0_i128);
        for (index, (unit, rate)) in priced.iter().enumerate() {
            let refined =
                priced.iter().zip(&own_counts).take(index).filter(|((finer, _), _)| unit.is_refined_by(finer));
            let refined: u64 = refined.fold(0, |sum, (_, &count)| sum.saturating_add(count));
            let count = unit.count.number(query.usage, query.units).saturating_sub(refined);
            own_counts.push(count);
            let sum = match unit.direction() {
                Some("input") => &mut input,
                Some("output") => &mut output,
                _ => &mut other,
            };
            *sum = sum.saturating_add(amount(rate.at(input_total), count, unit.per));
        }
        Price {
            input: round(input),
            output: round(output),
            other: round(other),
            row,
            unpriced_components: unpriced_components(&priced, query),
        }
    }
}

/// Rates in force: the last active prices, with the first matching variant of each key in their place.
fn rates<'c>(model: &'c Model, context: &[(&'static str, &str)], at: Timestamp) -> BTreeMap<&'c str, &'c Rate> {
    let is_active = |constraint: &Option<super::book::Constraint>| {
        constraint.as_ref().is_none_or(|constraint| constraint.is_active(at))
    };
    let standard = model.prices.iter().rev().find(|prices| is_active(&prices.constraint)).or(model.prices.first());
    let mut rates: BTreeMap<&str, &Rate> =
        standard.into_iter().flat_map(|prices| &prices.prices).map(|(key, rate)| (key.as_str(), rate)).collect();
    if context.is_empty() {
        return rates;
    }
    let in_context = |key: &str, value: &str| context.iter().any(|&(k, v)| k == key && v == value);
    let variants = model.price_variants.iter().filter(|variant| is_active(&variant.constraint));
    // Backwards, so that the first one has the last word.
    for variant in variants.rev().filter(|variant| variant.when.iter().all(|(key, value)| in_context(key, value))) {
        rates.extend(variant.prices.iter().map(|(key, rate)| (key.as_str(), rate)));
    }
    rates
}

/// In 10⁻²⁴ USD.
fn amount(price: Decimal, count: u64, per: i128) -> i128 {
    let scaled = price.0.saturating_mul(i128::from(count)).saturating_mul(10_i128.pow(SUM_PLACES - Decimal::PLACES));
    // `per` divides this exactly for tokens and counts; durations (per 3,600) lose less than 10⁻²⁴ USD.
    scaled / per.max(1)
}

/// To pico-USD, half to even. Nearly all sums are whole numbers of them already.
fn round(sum: i128) -> Money {
    let unit = 10_i128.pow(SUM_PLACES - PICO_PLACES);
    let (whole, rest) = (sum.div_euclid(unit), sum.rem_euclid(unit));
    let up = rest * 2 > unit || (rest * 2 == unit && whole % 2 != 0);
    Money::from_pico_usd(whole + i128::from(up))
}

fn unpriced_components(priced: &[(&CountedUnit, &Rate)], query: &Query<'_>) -> Vec<&'static str> {
    let has = |direction: &str| priced.iter().any(|(unit, _)| unit.direction() == Some(direction));
    let mut missing = Vec::new();
    if query.usage.input_total() > 0 && !has("input") {
        missing.push("input_tokens");
    }
    if query.usage.output_total() > 0 && !has("output") {
        missing.push("output_tokens");
    }
    let is_priced = |name: &str| priced.iter().any(|(unit, _)| matches!(&unit.count, Count::Unit(key) if key == name));
    missing.extend(query.units.iter().filter(|&(name, &count)| count > 0 && !is_priced(name)).map(|(&name, _)| name));
    missing
}

/// Gateways write dates as `-20251211` where makers write `-2025-12-11`.
fn with_dashed_date(name: &str) -> Option<Cow<'_, str>> {
    static DATE: LazyLock<Option<fancy_regex::Regex>> =
        LazyLock::new(|| fancy_regex::Regex::new(r"-(\d{4})(\d{2})(\d{2})(?!\d)").ok());
    let captures = DATE.as_ref()?.captures(name).ok()??;
    let number = |index: usize| captures.get(index).and_then(|group| group.as_str().parse::<i16>().ok());
    let (year, month, day) = (number(1)?, number(2)?, number(3)?);
    jiff::civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let whole = captures.get(0)?;
    let (before, after) = (name.get(..whole.start())?, name.get(whole.end()..)?);
    Some(format!("{before}-{year:04}-{month:02}-{day:02}{after}").into())
}

#[cfg(test)]
mod tests;
