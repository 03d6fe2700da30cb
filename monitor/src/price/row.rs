//! The prices of one model: by unit, by date and time, by size of the input, by kind of service.

use jiff::civil::{Date, DateTime, Time};
use serde::Deserialize;

use super::{
    money::{Money, parse_fixed_point},
    overrides::Factor,
};

/// The price of one token, second, search, …, in 1/(9 × 10²⁷) USD.
///
/// The catalogue's prices have up to 18 decimals and hold for 10⁹, 10⁶, 1000, 3600 or 60 units. Their common
/// denominator makes each a whole number per unit, so that costs are exact until they are rounded to a pico-USD.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct Rate(u128);

/// Decimals of a price in the catalogue.
const PRICE_PLACES: u32 = 18;
/// What the number of units that a price holds for must divide.
const UNITS_DENOMINATOR: u128 = 9_000_000_000;
const RATES_PER_PICO_USD: u128 = 1_000_000 * UNITS_DENOMINATOR;

impl Rate {
    /// So many USD per million.
    pub(super) const fn per_million(usd: u32) -> Self {
        Self(usd as u128 * 10_u128.pow(PRICE_PLACES) * (UNITS_DENOMINATOR / 1_000_000))
    }

    /// The price of so many, in USD, with a percentage on it. Exact for the number that the table's price is for; further
    /// decimals are left out.
    pub(super) fn of(self, per: u128, factor: Factor) -> String {
        let price = factor.of(self.0.saturating_mul(per), UNITS_DENOMINATOR);
        let one = 10_u128.pow(PRICE_PLACES);
        let text = format!("{}.{:018}", price / one, price % one);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// Reads a price in USD per `per` units. `None` if it has no exact rate, or is negative or absurd.
    pub(super) fn parse(price: &str, per: u128) -> Option<Self> {
        let price = u128::try_from(parse_fixed_point(price, PRICE_PLACES as usize).ok()?).ok()?;
        let exact = per != 0 && UNITS_DENOMINATOR.is_multiple_of(per);
        exact.then(|| price.checked_mul(UNITS_DENOMINATOR / per))?.map(Self)
    }
}

/// A sum of rates times counts: exact, up to some 37 × 10⁹ USD, where it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount(u128);

impl Amount {
    pub(super) fn add(&mut self, rate: Rate, count: u64) {
        self.0 = self.0.saturating_add(rate.0.saturating_mul(u128::from(count)));
    }

    /// Rounds to a pico-USD, halves to even.
    pub(super) fn to_money(self) -> Money {
        self.times(Factor::ONE)
    }

    /// The product, rounded once to a pico-USD, halves to even.
    pub(super) fn times(self, factor: Factor) -> Money {
        let pico = factor.of(self.0, RATES_PER_PICO_USD);
        i128::try_from(pico).map_or(Money::MAX, Money::from_pico_usd)
    }
}

/// The rate of a unit, which may depend on the size of the call's input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tiered {
    base: Rate,
    /// Rates of larger inputs, in ascending order of where they start.
    tiers: Box<[(u64, Rate)]>,
}

impl Tiered {
    /// The rate of all units of a call with this many input tokens. A tier holds from one token past its start, and
    /// then for the whole call, not just for what is past it.
    pub(super) fn at(&self, input_tokens: u64) -> Rate {
        let tier = self.tiers.iter().rev().find(|&&(start, _)| input_tokens > start);
        tier.map_or(self.base, |&(_, rate)| rate)
    }

    /// The rate without tiers, and the tiers.
    pub(super) fn steps(&self) -> impl Iterator<Item = (u64, Rate)> {
        std::iter::once((0, self.base)).chain(self.tiers.iter().copied())
    }

    pub(super) fn parse(price: &PriceJson, per: u128) -> Option<Self> {
        match price {
            PriceJson::Flat(price) => Some(Self { base: Rate::parse(price, per)?, tiers: [].into() }),
            PriceJson::Tiered { base, tiers } => {
                let mut tiers = tiers
                    .iter()
                    .map(|tier| Some((tier.start, Rate::parse(&tier.price, per)?)))
                    .collect::<Option<Box<[_]>>>()?;
                tiers.sort_by_key(|&(start, _)| start);
                Some(Self { base: Rate::parse(base, per)?, tiers })
            }
        }
    }
}

/// A price as the catalogue writes it: decimal, in USD.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum PriceJson {
    Flat(String),
    Tiered { base: String, tiers: Vec<TierJson> },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TierJson {
    pub(super) start: u64,
    pub(super) price: String,
}

/// When a price holds. All times are UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub(super) enum Constraint {
    From {
        start_date: Date,
    },
    /// Each day from the start on and before the end, over midnight if the end is the earlier one.
    Daily {
        start_time_utc: Time,
        end_time_utc: Time,
    },
}

impl Constraint {
    pub(super) fn holds(self, at: DateTime) -> bool {
        match self {
            Self::From { start_date } => at.date() >= start_date,
            Self::Daily { start_time_utc: start, end_time_utc: end } if end < start => {
                at.time() >= start || at.time() < end
            }
            Self::Daily { start_time_utc: start, end_time_utc: end } => start <= at.time() && at.time() < end,
        }
    }
}

/// The place of a unit in the catalogue's list of units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UnitIndex(pub(super) u8);

/// Prices by unit.
#[derive(Debug, Default)]
pub(super) struct PriceSet(pub(super) Box<[(UnitIndex, Tiered)]>);

impl PriceSet {
    fn get(&self, unit: UnitIndex) -> Option<&Tiered> {
        self.0.iter().find(|&&(priced, _)| priced == unit).map(|(_, price)| price)
    }
}

#[derive(Debug)]
pub(super) struct DatedPrices {
    pub(super) constraint: Option<Constraint>,
    pub(super) prices: PriceSet,
}

/// Prices that replace some of the standard ones for a kind of service.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) when: Box<[(Box<str>, Box<str>)]>,
    pub(super) dated: DatedPrices,
}

/// What is known about how a call was served, for prices that depend on it. Values are the API's own words, compared
/// without regard to case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Service<'a> {
    /// `service_tier` as the answer reports it: `default`, `flex`, `priority`, `batch`, …
    pub tier: Option<&'a str>,
    /// `batch` for calls through a batch API. A tier `batch`, as Anthropic reports it, means the same.
    pub processing: Option<&'a str>,
    /// Anthropic's `speed`.
    pub speed: Option<&'a str>,
    /// OpenRouter's upstream route, such as `mistral/eu`.
    pub route: Option<&'a str>,
    /// Perplexity's `search_type`.
    pub search_type: Option<&'a str>,
}

impl Service<'_> {
    fn fits(&self, variant: &Variant) -> bool {
        variant.when.iter().all(|(key, value)| self.has(key, value))
    }

    fn has(&self, key: &str, value: &str) -> bool {
        let is = |known: Option<&str>| known.is_some_and(|known| known.eq_ignore_ascii_case(value));
        match key {
            "service_tier" => is(self.tier),
            "processing" => is(self.processing) || (value == "batch" && is(self.tier)),
            "speed" => is(self.speed),
            "route" => is(self.route),
            "search_type" => is(self.search_type),
            _ => false,
        }
    }
}

/// The words that `Service` answers for.
#[cfg(test)]
pub(super) const SERVICE_KEYS: [&str; 5] = ["service_tier", "processing", "speed", "route", "search_type"];

/// Which of a model's prices hold at one moment, for one kind of service: wherever it is the same, so are the rates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Holding {
    /// The place of the standard prices.
    standard: Option<usize>,
    /// A bit for each of the variants.
    variants: u64,
}

impl Holding {
    /// `None` for a model with more variants than there are bits.
    pub(super) fn of(dated: &[DatedPrices], variants: &[Variant], service: Service<'_>, at: DateTime) -> Option<Self> {
        let bits = u64::try_from(variants.len()).ok().filter(|count| *count <= u64::from(u64::BITS))?;
        let applying = (0..bits).zip(variants).filter(|(_, variant)| variant.dated.holds(at) && service.fits(variant));
        let variants = applying.map(|(bit, _)| 1 << bit).sum();
        Some(Self { standard: standard_at(dated, at), variants })
    }
}

/// The place of the last of the dated prices that holds; if none does, of the first.
fn standard_at(dated: &[DatedPrices], at: DateTime) -> Option<usize> {
    dated.iter().rposition(|prices| prices.holds(at)).or((!dated.is_empty()).then_some(0))
}

impl DatedPrices {
    fn holds(&self, at: DateTime) -> bool {
        self.constraint.is_none_or(|constraint| constraint.holds(at))
    }
}

/// The prices of a model that hold at one moment, for one kind of service.
#[derive(Debug, Clone, Copy)]
pub(super) struct ActivePrices<'c, 's> {
    standard: Option<&'c PriceSet>,
    variants: &'c [Variant],
    service: Service<'s>,
    at: DateTime,
}

impl<'c, 's> ActivePrices<'c, 's> {
    pub(super) fn new(dated: &'c [DatedPrices], variants: &'c [Variant], service: Service<'s>, at: DateTime) -> Self {
        let standard = standard_at(dated, at).and_then(|place| dated.get(place)).map(|dated| &dated.prices);
        Self { standard, variants, service, at }
    }

    /// The price of exactly this unit: of the first variant that applies and has one, else the standard one.
    pub(super) fn get(&self, unit: UnitIndex) -> Option<&'c Tiered> {
        let applies = |variant: &&Variant| variant.dated.holds(self.at) && self.service.fits(variant);
        let special = self.variants.iter().filter(applies).find_map(|variant| variant.dated.prices.get(unit));
        special.or_else(|| self.standard?.get(unit))
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::datetime;
    use proptest::prelude::*;

    use super::*;

    const INPUT: UnitIndex = UnitIndex(0);
    const OUTPUT: UnitIndex = UnitIndex(1);

    fn price(json: &str) -> Tiered {
        Tiered::parse(&serde_json::from_str(json).unwrap(), 1_000_000).unwrap()
    }

    fn set(prices: &[(UnitIndex, &str)]) -> PriceSet {
        PriceSet(prices.iter().map(|&(unit, usd)| (unit, price(&format!("\"{usd}\"")))).collect())
    }

    fn cost(price: &Tiered, input_tokens: u64, count: u64) -> String {
        let mut amount = Amount::default();
        amount.add(price.at(input_tokens), count);
        amount.to_money().to_string()
    }

    fn constraint(json: &str) -> Constraint {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn rates_are_exact_for_every_denominator() {
        for per in [1, 60, 1000, 3600, 1_000_000, 1_000_000_000] {
            let mut amount = Amount::default();
            let rate = Rate::parse("0.041666666666666664", per).unwrap();
            amount.add(rate, u64::try_from(per).unwrap());
            assert_eq!(amount.to_money().to_string(), "0.041666666667", "per {per}");
        }
        assert_eq!(Rate::parse("1", 7), None);
        assert_eq!(Rate::parse("1", 0), None);
        assert_eq!(Rate::parse("-1", 1), None);
        assert_eq!(Rate::parse("0.0000000000000000001", 1), None);
    }

    #[test]
    fn amounts_round_once_and_stop_at_the_largest() {
        let third = Rate::parse("0.0000000000015", 1).unwrap();
        let mut amount = Amount::default();
        amount.add(third, 1);
        assert_eq!(amount.to_money().pico_usd(), 2);
        amount.add(third, 1);
        assert_eq!(amount.to_money().pico_usd(), 3);
        amount.add(Rate::parse("1000", 1).unwrap(), u64::MAX);
        amount.add(third, u64::MAX);
        assert!(amount.to_money() > "37000000000".parse().unwrap());
    }

    #[test]
    fn a_tier_switches_the_whole_call_past_its_start() {
        // Out of order on purpose.
        let json = r#"{"base": "1", "tiers": [{"start": 400, "price": "4"}, {"start": 200, "price": "2"}]}"#;
        let tiered = price(json);
        assert_eq!(cost(&tiered, 200, 1000), "0.001");
        assert_eq!(cost(&tiered, 201, 1000), "0.002");
        assert_eq!(cost(&tiered, 400, 1000), "0.002");
        assert_eq!(cost(&tiered, 401, 1000), "0.004");
        assert_eq!(cost(&tiered, 0, 1000), "0.001");
    }

    #[test]
    fn a_start_date_holds_from_midnight_utc() {
        let from = constraint(r#"{"start_date": "2026-10-14"}"#);
        assert!(!from.holds(datetime(2026, 10, 13, 23, 59, 59, 999_999_999)));
        assert!(from.holds(datetime(2026, 10, 14, 0, 0, 0, 0)));
    }

    #[test]
    fn times_of_day_are_half_open_and_may_pass_midnight() {
        let day = constraint(r#"{"start_time_utc": "00:30:00", "end_time_utc": "16:30:00"}"#);
        let night = constraint(r#"{"start_time_utc": "16:30:00", "end_time_utc": "00:30:00"}"#);
        for (hour, minute, in_day) in [(0, 29, false), (0, 30, true), (16, 29, true), (16, 30, false), (23, 59, false)]
        {
            let at = datetime(2026, 1, 1, hour, minute, 0, 0);
            assert_eq!((day.holds(at), night.holds(at)), (in_day, !in_day), "{at}");
        }
        let never = constraint(r#"{"start_time_utc": "12:00:00", "end_time_utc": "12:00:00"}"#);
        assert!(!never.holds(datetime(2026, 1, 1, 12, 0, 0, 0)));
    }

    #[test]
    fn the_last_dated_price_that_holds_wins() {
        let dated =
            |json: Option<&str>, usd| DatedPrices { constraint: json.map(constraint), prices: set(&[(INPUT, usd)]) };
        let history = [
            dated(Some(r#"{"start_date": "2025-01-01"}"#), "1"),
            dated(Some(r#"{"start_date": "2026-01-01"}"#), "2"),
            dated(Some(r#"{"start_date": "2027-01-01"}"#), "3"),
        ];
        let active = |year| {
            let at = datetime(year, 6, 1, 0, 0, 0, 0);
            let prices = ActivePrices::new(&history, &[], Service::default(), at);
            cost(prices.get(INPUT).unwrap(), 0, 1_000_000)
        };
        assert_eq!([2020, 2025, 2026, 2030].map(active), ["1", "1", "2", "3"]);
        let none = ActivePrices::new(&[], &[], Service::default(), datetime(2026, 1, 1, 0, 0, 0, 0));
        assert!(none.get(INPUT).is_none());
    }

    #[test]
    fn a_variant_replaces_only_the_prices_it_has() {
        let variant = |when: &[(&str, &str)], start: Option<&str>, prices| Variant {
            when: when.iter().map(|&(key, value)| (key.into(), value.into())).collect(),
            dated: DatedPrices { constraint: start.map(constraint), prices },
        };
        let standard = [DatedPrices { constraint: None, prices: set(&[(INPUT, "10"), (OUTPUT, "20")]) }];
        let variants = [
            variant(&[("processing", "batch")], Some(r#"{"start_date": "2026-10-14"}"#), set(&[(INPUT, "5")])),
            variant(&[("speed", "fast"), ("service_tier", "priority")], None, set(&[(INPUT, "40"), (OUTPUT, "80")])),
            variant(&[("speed", "fast")], None, set(&[(INPUT, "30")])),
        ];
        let usd = |service, month| {
            let at = datetime(2026, month, 20, 0, 0, 0, 0);
            let prices = ActivePrices::new(&standard, &variants, service, at);
            [INPUT, OUTPUT].map(|unit| cost(prices.get(unit).unwrap(), 0, 1_000_000))
        };
        let batch = Service { processing: Some("batch"), ..Service::default() };
        let batch_tier = Service { tier: Some("BATCH"), ..Service::default() };
        let fast = Service { speed: Some("fast"), ..Service::default() };
        let fast_priority = Service { tier: Some("priority"), ..fast };
        assert_eq!(usd(Service::default(), 11), ["10", "20"]);
        assert_eq!(usd(batch, 11), ["5", "20"]);
        assert_eq!(usd(batch_tier, 11), ["5", "20"]);
        assert_eq!(usd(batch, 9), ["10", "20"]);
        assert_eq!(usd(fast, 11), ["30", "20"]);
        assert_eq!(usd(fast_priority, 11), ["40", "80"]);
    }

    proptest! {
        #[test]
        fn amounts_do_not_depend_on_order(parts in proptest::collection::vec((0_u64..1 << 40, 0_u64..1 << 40), 0..8)) {
            let total = |parts: &mut dyn Iterator<Item = &(u64, u64)>| {
                let mut amount = Amount::default();
                parts.for_each(|&(rate, count)| amount.add(Rate(rate.into()), count));
                amount
            };
            prop_assert_eq!(total(&mut parts.iter()), total(&mut parts.iter().rev()));
        }
    }
}
