//! Every price of both tables against arithmetic of another kind: counts that contain one another as the tables define them,
//! decimals of any length, and rows as they are in the files.

use std::collections::BTreeMap;

use jiff::{Timestamp, tz::Offset};
use num_bigint::BigInt;
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::meter::{Bucket, Unit};

/// A fraction of any size.
#[derive(Debug, Clone)]
struct Fraction(BigInt, BigInt);

impl Fraction {
    fn new(numerator: impl Into<BigInt>, denominator: impl Into<BigInt>) -> Self {
        Self(numerator.into(), denominator.into())
    }

    fn decimal(text: &str) -> Self {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits: BigInt = format!("{whole}{fraction}").parse().unwrap();
        Self(digits, BigInt::from(10).pow(u32::try_from(fraction.len()).unwrap()))
    }

    fn plus(&self, other: &Self) -> Self {
        Self(&self.0 * &other.1 + &other.0 * &self.1, &self.1 * &other.1)
    }

    fn times(&self, other: &Self) -> Self {
        Self(&self.0 * &other.0, &self.1 * &other.1)
    }

    /// Half to even, as a decimal of twelve places.
    fn money(&self) -> Money {
        let doubled = &self.0 * BigInt::from(2 * Money::PICO_PER_USD);
        let (quotient, rest) = (&doubled / &self.1, &doubled % &self.1);
        let half = BigInt::from(1);
        let floor = &quotient / 2;
        let is_upper = &quotient % 2 == half;
        let is_tie = is_upper && rest == BigInt::ZERO;
        let pico = if is_upper && (!is_tie || &floor % 2 == half) { floor + 1 } else { floor };
        Money::from_pico_usd(i128::try_from(pico).unwrap())
    }
}

struct Table {
    json: Value,
    catalogue: &'static Catalogue,
    /// Places of models that are found by their own id.
    rows: Vec<(usize, usize)>,
    /// Of these the ones that have no tiers and no fee for the call.
    flat: Vec<(usize, usize)>,
}

fn table(text: &str, catalogue: &'static Catalogue) -> Table {
    let json: Value = serde_json::from_str(text).unwrap();
    let mut rows = vec![];
    for (provider, it) in json["providers"].as_array().unwrap().iter().enumerate() {
        for (model, row) in it["models"].as_array().unwrap().iter().enumerate() {
            let (id, name) = (it["id"].as_str().unwrap(), row["id"].as_str().unwrap());
            let query = Query { provider: Some(id), ..Query::new(name, Timestamp::UNIX_EPOCH) };
            if catalogue.rates(&query).is_ok_and(|rates| rates.row().model == name && rates.row().list == id) {
                rows.push((provider, model));
            }
        }
    }
    let is_flat = |&&(provider, model): &&(usize, usize)| {
        let row = json["providers"][provider]["models"][model].to_string();
        !row.contains("tiers") && !row.contains("requests_kcount")
    };
    let flat = rows.iter().filter(is_flat).copied().collect();
    Table { json, catalogue, rows, flat }
}

fn tables() -> &'static [Table; 2] {
    static TABLES: std::sync::OnceLock<[Table; 2]> = std::sync::OnceLock::new();
    TABLES.get_or_init(|| {
        [
            table(include_str!("../../prices/genai-prices/catalogue.json"), Catalogue::embedded()),
            table(include_str!("../../prices/litellm/catalogue.json"), Catalogue::embedded_fallback()),
        ]
    })
}

/// What a token of a bucket is, in the tables' words.
fn is_kind(bucket: Bucket, dimension: &str, value: &str) -> bool {
    let kinds = match dimension {
        "family" => "tokens",
        "direction" if bucket.is_input() => "input",
        "direction" => "output",
        "token_type" => match bucket {
            Bucket::CacheRead => "cache_read",
            Bucket::CacheWrite | Bucket::CacheWrite5m | Bucket::CacheWrite1h => "cache_write",
            Bucket::InputTool => "tool",
            Bucket::Reasoning => "reasoning",
            _ => "",
        },
        "cache_ttl" => match bucket {
            Bucket::CacheWrite5m => "5m",
            Bucket::CacheWrite1h => "1h",
            _ => "",
        },
        "modality" => match bucket {
            Bucket::InputAudio | Bucket::OutputAudio => "audio",
            Bucket::InputImage | Bucket::OutputImage => "image",
            Bucket::InputVideo => "video",
            Bucket::OutputText => "text",
            _ => "",
        },
        _ => "",
    };
    kinds == value
}

fn dimensions(unit: &Value) -> BTreeMap<&str, &str> {
    unit["dimensions"].as_object().unwrap().iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap())).collect()
}

/// Whether everything that is `inner` is `outer` too, and not the other way round.
fn refines(inner: &Value, outer: &Value) -> bool {
    let (inner, outer) = (dimensions(inner), dimensions(outer));
    inner.len() > outer.len() && outer.iter().all(|(key, value)| inner.get(key) == Some(value))
}

fn holds(constraint: &Value, at: Timestamp) -> bool {
    let at = Offset::UTC.to_datetime(at);
    if let Some(day) = constraint["start_date"].as_str() {
        return at.date().to_string().as_str() >= day;
    }
    let (Some(start), Some(end)) = (constraint["start_time_utc"].as_str(), constraint["end_time_utc"].as_str()) else {
        return true;
    };
    let now = format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second());
    let (after, before) = (now.as_str() >= start, now.as_str() < end);
    if end < start { after || before } else { after && before }
}

/// Cost of input and output as the table's own documentation has it: each priced unit for its count less the counts of the
/// priced units within.
fn expected(table: &Value, row: &Value, usage: &Usage, at: Timestamp, service: &[(&str, &str)]) -> [Fraction; 2] {
    let dated = row["prices"].as_array().unwrap();
    let active = dated.iter().rev().find(|it| holds(&it["constraint"], at)).unwrap_or(&dated[0]);
    let mut prices = active["prices"].as_object().unwrap().clone();
    let variants = row["price_variants"].as_array().cloned().unwrap_or_default();
    // Backwards, so that the first one has the last word.
    for variant in variants.iter().rev().filter(|it| holds(&it["constraint"], at)) {
        let when = variant["when"].as_object().unwrap();
        if when.iter().all(|(key, value)| service.contains(&(key.as_str(), value.as_str().unwrap()))) {
            prices.extend(variant["prices"].as_object().unwrap().clone());
        }
    }
    let units = table["units"].as_object().unwrap();
    let priced = units.values().filter(|unit| prices.contains_key(unit["price_key"].as_str().unwrap()));
    let priced = priced.filter(|unit| dimensions(unit).get("family") == Some(&"tokens")).collect::<Vec<_>>();
    let count = |unit: &Value| -> BigInt {
        let within = |bucket: Bucket| dimensions(unit).iter().all(|(key, value)| is_kind(bucket, key, value));
        usage.iter().filter(|(bucket, _)| within(*bucket)).map(|(_, count)| BigInt::from(count)).sum()
    };
    // The tables have cached pictures and the like, which no bucket is: they never count.
    let mut amounts: BTreeMap<&str, BigInt> = BTreeMap::new();
    let mut by_depth = priced.clone();
    by_depth.sort_by_key(|unit| std::cmp::Reverse(dimensions(unit).len()));
    for unit in &by_depth {
        let finer = by_depth.iter().filter(|it| refines(it, unit));
        let within: BigInt = finer.map(|it| amounts[it["price_key"].as_str().unwrap()].clone()).sum();
        amounts.insert(unit["price_key"].as_str().unwrap(), count(unit) - within);
    }
    let input_tokens: BigInt =
        usage.iter().filter(|(bucket, _)| bucket.is_input()).map(|(_, count)| BigInt::from(count)).sum();
    let mut sums = [Fraction::new(0, 1), Fraction::new(0, 1)];
    for unit in priced {
        let key = unit["price_key"].as_str().unwrap();
        let price = match &prices[key] {
            Value::String(flat) => flat.as_str(),
            tiered => {
                let tiers = tiered["tiers"].as_array().unwrap();
                let past = |tier: &&Value| input_tokens > BigInt::from(tier["start"].as_u64().unwrap());
                let highest = tiers.iter().filter(past).max_by_key(|tier| tier["start"].as_u64().unwrap());
                highest.map_or(&tiered["base"], |tier| &tier["price"]).as_str().unwrap()
            }
        };
        let each = Fraction::decimal(price).times(&Fraction::new(amounts[key].clone(), unit["per"].as_u64().unwrap()));
        let side = usize::from(dimensions(unit)["direction"] == "output");
        sums[side] = sums[side].plus(&each);
    }
    sums
}

fn any_usage() -> impl Strategy<Value = Usage> {
    proptest::collection::vec((0..Bucket::ALL.len(), 0_u64..400_000), 0..6)
        .prop_map(|counts| counts.into_iter().map(|(bucket, count)| (Bucket::ALL[bucket], count)).collect())
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    // 2024 to 2027.
    (1_704_067_200_i64..1_798_761_600).prop_map(|second| Timestamp::from_second(second).unwrap())
}

fn any_service() -> impl Strategy<Value = &'static [(&'static str, &'static str)]> {
    prop_oneof![
        Just(&[][..]),
        Just(&[("processing", "batch")][..]),
        Just(&[("service_tier", "flex")][..]),
        Just(&[("service_tier", "priority")][..]),
        Just(&[("speed", "fast")][..]),
    ]
}

fn service(of: &[(&'static str, &'static str)]) -> Service<'static> {
    let get = |key| of.iter().find(|&&(it, _)| it == key).map(|&(_, value)| value);
    Service { tier: get("service_tier"), processing: get("processing"), speed: get("speed"), ..Service::default() }
}

#[test]
fn most_models_are_found_by_their_own_id() {
    for table in tables() {
        let (found, all) = (table.rows.len(), table.catalogue.models());
        assert!(found * 10 > all * 9, "{found} of {all} in {}", table.catalogue.version());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn costs_are_those_of_exact_decimals(
        which in 0_usize..2,
        row: prop::sample::Index,
        usage in any_usage(),
        at in any_time(),
        kind in any_service(),
        percent in -1_000_000_i64..=1_000_000,
    ) {
        let table = &tables()[which];
        let (provider, model) = *row.get(&table.rows);
        let provider = &table.json["providers"][provider];
        let model = &provider["models"][model];
        let id = provider["id"].as_str().unwrap();
        let name = model["id"].as_str().unwrap();
        let query = Query { provider: Some(id), service: service(kind), ..Query::new(name, at) };
        let [input, output] = expected(&table.json, model, &usage, at, kind);
        let price = table.catalogue.rates(&query).unwrap().price(&usage, &Units::ZERO);
        prop_assert_eq!(price.input, input.money(), "{} {:?}", name, usage);
        prop_assert_eq!(price.output, output.money(), "{} {:?}", name, usage);

        // With a percentage of four decimals on it, and rounded only after that.
        let sign = if percent < 0 { "-" } else { "" };
        let text = format!("{sign}{}.{:04}", percent.abs() / 10_000, percent.abs() % 10_000);
        let set = format!("override = [{{ name = 'x', percent = '{text}' }}]");
        let config: crate::config::Price = toml::from_str(&set).unwrap();
        let book = PriceBook { overrides: config.overrides, ..PriceBook::catalogue_only(table.catalogue) };
        let Quote::Priced(price) = book.quote(&query, &usage, &Units::ZERO) else { panic!() };
        let factor = Fraction::new(1_000_000 + percent, 1_000_000);
        prop_assert_eq!(price.input, input.times(&factor).money());
        prop_assert_eq!(price.output, output.times(&factor).money());
    }

    #[test]
    fn more_use_never_costs_less(
        which in 0_usize..2,
        row: prop::sample::Index,
        usage in any_usage(),
        at in any_time(),
        bucket in 0..Bucket::ALL.len(),
        more in 0_u64..1 << 40,
        unit in 0..Unit::ALL.len(),
    ) {
        let table = &tables()[which];
        let (provider, model) = *row.get(&table.rows);
        let provider = &table.json["providers"][provider];
        let name = provider["models"][model]["id"].as_str().unwrap();
        let query = Query { provider: provider["id"].as_str(), ..Query::new(name, at) };
        let rates = table.catalogue.rates(&query).unwrap();
        let before = rates.price(&usage, &Units::ZERO);
        let mut later = usage;
        later.add(Bucket::ALL[bucket], more);
        let after = rates.price(&later, &Units::ZERO);
        prop_assert!(after.total >= before.total, "{} {:?} + {} {}", name, usage, Bucket::ALL[bucket], more);
        let counted = rates.price(&usage, &[(Unit::ALL[unit], more)].into_iter().collect());
        prop_assert!(counted.total >= before.total);
        prop_assert_eq!(before.total, rates.cost(&usage));
    }

    #[test]
    fn parts_of_a_call_cost_what_the_whole_does(
        row: prop::sample::Index,
        one in any_usage(),
        other in any_usage(),
    ) {
        let table = &tables()[0];
        let &(provider, model) = row.get(&table.flat);
        let provider = &table.json["providers"][provider];
        let name = provider["models"][model]["id"].as_str().unwrap();
        let query = Query { provider: provider["id"].as_str(), ..Query::new(name, Timestamp::UNIX_EPOCH) };
        let rates = table.catalogue.rates(&query).unwrap();
        let mut both = one;
        both.add_all(&other);
        let apart = rates.cost(&one) + rates.cost(&other);
        let difference = (rates.cost(&both) - apart).pico_usd();
        // Each side of each call is rounded by half a pico-USD at most.
        prop_assert!(difference.abs() <= 3, "{}: {}", name, difference);
    }

    #[test]
    fn no_text_makes_reading_panic(text in "\\PC*") {
        let _ = Catalogue::parse(&text);
    }

    /// Damaged in one place, so that it is nearly a table.
    #[test]
    fn a_damaged_table_is_an_error_or_a_table(at: prop::sample::Index, with in "[\\PC\"{}\\[\\]:,0-9-]{0,3}", cut in 0_usize..40) {
        let text = SMALL;
        let start = (0..=at.index(text.len())).rev().find(|&it| text.is_char_boundary(it)).unwrap();
        let end = (start + cut).min(text.len());
        let damaged = format!("{}{with}{}", &text[..start], &text[end..]);
        if let Ok(catalogue) = Catalogue::parse(&damaged) {
            let _ = catalogue.check_patterns();
            let query = Query { provider: Some("v"), ..Query::new("m-20260101", Timestamp::UNIX_EPOCH) };
            let usage = Bucket::ALL.into_iter().map(|bucket| (bucket, u64::MAX)).collect();
            if let Ok(rates) = catalogue.rates(&query) {
                let _ = rates.price(&usage, &Units::ZERO);
            }
            catalogue.schedules();
        }
    }
}

/// Everything that a table can have.
const SMALL: &str = r#"{"source":{"package":"p","version":"1"},"units":{"input_tokens":{"per":1000000,"price_key":"input_mtok","dimensions":{"family":"tokens","direction":"input"}},"requests":{"per":1000,"price_key":"requests_kcount","dimensions":{"family":"requests"}}},"providers":[{"id":"v","api_pattern":"https://v\\.example","provider_match":{"contains":"v"},"model_match":{"regex":"^(?!x)m"},"fallback_model_providers":["w"],"models":[{"id":"m","match":{"or":[{"equals":"m"},{"and":[{"starts_with":"m-"},{"ends_with":"-01-01"}]}]},"prices":[{"constraint":null,"prices":{"input_mtok":{"base":"1","tiers":[{"start":200000,"price":"2.5"}]}}},{"constraint":{"start_date":"2026-01-01"},"prices":{"input_mtok":"3"}},{"constraint":{"start_time_utc":"16:30:00","end_time_utc":"00:30:00"},"prices":{"requests_kcount":"5"}}],"price_variants":[{"when":{"processing":"batch"},"constraint":null,"prices":{"input_mtok":"0.5"}}]}]},{"id":"w","api_pattern":"https://w\\.example","models":[]}]}"#;

#[test]
fn the_small_table_is_one() {
    assert_eq!(Catalogue::parse(SMALL).unwrap().models(), 1);
}
