//! What a call costs at the prices that hold for it.

use std::{fmt, time::Duration};

use jiff::tz::Offset;

use super::{
    Evidence, Money, Override, Query,
    catalogue::{Catalogue, Side},
    overrides::{Factor, Glob, MachineRate, Prices},
    resolve::Resolved,
    row::{ActivePrices, Amount, Holding, Tiered, UnitIndex, Variant},
};
use crate::meter::{Bucket, Unit, Units, Usage};

/// The row that a price comes from. With the table of that version, the override of that hash, the time of the call and
/// its [`Service`](super::Service), the price can be found again.
#[derive(Debug, Clone, Copy)]
pub struct PriceRow<'c> {
    /// Who bills.
    pub provider: &'c str,
    pub model: &'c str,
    /// Whose price list has the model: the provider itself, or the maker of a model that it resells.
    pub list: &'c str,
    /// Package and version of the table; [`PriceRow::CONFIGURATION`] where no table has the model.
    pub catalogue: &'c str,
    /// How the provider is known.
    pub evidence: Evidence,
    /// What an administrator has set for this call, if anything.
    pub set: Option<&'c Override>,
}

impl<'c> PriceRow<'c> {
    /// Stands for the table where an override is all there is.
    pub const CONFIGURATION: &'static str = "configuration";

    /// For a model that no table has.
    pub(super) fn of_override(set: &'c Override, provider: Option<&'c str>) -> Self {
        let host = set.host.as_ref().map(Glob::as_str);
        let provider = provider.or(set.provider.as_deref()).or(host).unwrap_or("*");
        let model = set.model.as_ref().map_or("*", Glob::as_str);
        let (catalogue, evidence) = (Self::CONFIGURATION, Evidence::Configured);
        Self { provider, model, list: provider, catalogue, evidence, set: Some(set) }
    }
}

/// `azure/gpt-4o (genai-prices 0.2.3, override contract@0123456789ab)`.
impl fmt::Display for PriceRow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} ({}", self.provider, self.model, self.catalogue)?;
        if let Some(set) = self.set {
            write!(f, ", override {}@{}", set.name(), set.hash())?;
        }
        f.write_str(")")
    }
}

/// Something of a call that can have a price.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    Tokens(Bucket),
    Count(Unit),
    /// The time of machines, where it is not known how long the call took.
    MachineTime,
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tokens(bucket) => bucket.fmt(f),
            Self::Count(unit) => unit.fmt(f),
            Self::MachineTime => f.pad("machine_time"),
        }
    }
}

/// What a call costs. Input, output, fees and time are each summed exactly and then rounded to a pico-USD, halves to even;
/// the sums of these are exact.
#[derive(Debug, Clone)]
pub struct Price<'c> {
    pub row: PriceRow<'c>,
    /// What was read: tokens, and with some models seconds, characters or pages.
    pub input: Money,
    /// What was written.
    pub output: Money,
    /// Input and output.
    pub tokens: Money,
    /// Fees for the provider's own tools and for the call as such.
    pub fees: Money,
    /// The time of the machines that made the answer, for a model server that is paid by the hour.
    pub time: Money,
    /// Tokens, fees and time.
    pub total: Money,
    /// What was used and is in no sum, since the row has no price for it. For a model that is free, the catalogue has
    /// a row without any price, and likewise where it only knows that a model exists: then all that was used is here.
    pub unpriced_components: Vec<Component>,
}

/// The prices of one model at one moment: one rate per bucket of tokens and per other unit. To follow an answer while
/// it streams, take these once and ask for the cost as often as needed; asking looks nothing up and allocates nothing.
#[derive(Debug, Clone, Copy)]
pub struct Rates<'c> {
    row: PriceRow<'c>,
    tokens: [Option<&'c Tiered>; Bucket::ALL.len()],
    counts: [Option<(&'c Tiered, Side)>; Unit::ALL.len()],
    machines: Option<MachineRate>,
    took: Option<Duration>,
    size: Option<u64>,
    factor: Factor,
}

/// Whisper at Groq is billed for at least this many seconds a request (as the catalogue's own package computes it).
const GROQ_LEAST_AUDIO_SECONDS: u64 = 10;

/// A maker's variants are its own kinds of service; who resells its models has others.
fn variants<'c>(resolved: &Resolved<'c>) -> &'c [Variant] {
    if resolved.provider.id == resolved.list.id { &resolved.model.variants } else { &[] }
}

impl<'c> Rates<'c> {
    pub(super) fn new(catalogue: &'c Catalogue, resolved: Resolved<'c>, query: &Query<'_>) -> Self {
        let Resolved { provider, list, model, evidence } = resolved;
        let at = Offset::UTC.to_datetime(query.at);
        let active = ActivePrices::new(&model.prices, variants(&resolved), query.service, at);
        // What has no price of its own is charged at the price of what it is a kind of.
        let price = |chain: &[UnitIndex]| chain.iter().find_map(|&unit| Some((unit, active.get(unit)?)));
        let side = |unit: UnitIndex| catalogue.units[usize::from(unit.0)].side;
        Self {
            row: PriceRow {
                provider: &provider.id,
                model: &model.id,
                list: &list.id,
                catalogue: catalogue.version(),
                evidence,
                set: None,
            },
            tokens: catalogue.bucket_units.each_ref().map(|chain| Some(price(chain)?.1)),
            counts: catalogue.counted_units.each_ref().map(|chain| {
                let (unit, price) = price(chain)?;
                Some((price, side(unit)))
            }),
            machines: None,
            took: query.took,
            size: query.size,
            factor: Factor::ONE,
        }
    }

    /// Which of a row's prices these are, if that can be said.
    pub(super) fn holding(resolved: &Resolved<'_>, query: &Query<'_>) -> Option<Holding> {
        let at = Offset::UTC.to_datetime(query.at);
        Holding::of(&resolved.model.prices, variants(resolved), query.service, at)
    }

    /// The same for a call that took so long.
    pub(super) const fn taking(self, took: Option<Duration>) -> Self {
        Self { took, ..self }
    }

    /// No prices yet.
    pub(super) fn unlisted(row: PriceRow<'c>) -> Self {
        let (tokens, counts) = ([None; Bucket::ALL.len()], [None; Unit::ALL.len()]);
        Self { row, tokens, counts, machines: None, took: None, size: None, factor: Factor::ONE }
    }

    /// With what an administrator has set instead.
    pub(super) fn overridden(mut self, set: &'c Override, query: &Query<'_>) -> Self {
        match &set.prices {
            Prices::Listed => {}
            Prices::Own { tokens, counts } => {
                if let Some(tokens) = tokens {
                    self.tokens = tokens.by_bucket();
                }
                for ((unit, count), own) in Unit::ALL.into_iter().zip(&mut self.counts).zip(counts.iter()) {
                    if let Some(own) = own {
                        *count = Some((own, side(unit)));
                    }
                }
            }
            Prices::Machines(rate) => self = Self { machines: Some(*rate), ..Self::unlisted(self.row) },
        }
        self.row.set = Some(set);
        self.took = query.took;
        self.factor = set.factor;
        self
    }

    pub fn row(&self) -> PriceRow<'c> {
        self.row
    }

    /// What has a price by what it uses, before a percentage is on it.
    pub(super) fn listed(&self) -> impl Iterator<Item = (Component, &'c Tiered)> {
        let tokens = Bucket::ALL.into_iter().zip(self.tokens);
        let counts = Unit::ALL.into_iter().zip(self.counts);
        let tokens = tokens.filter_map(|(bucket, price)| Some((Component::Tokens(bucket), price?)));
        tokens.chain(counts.filter_map(|(unit, price)| Some((Component::Count(unit), price?.0))))
    }

    pub(super) fn machines(&self) -> Option<MachineRate> {
        self.machines
    }

    pub(super) fn factor(&self) -> Factor {
        self.factor
    }

    /// What prices of this side are multiplied by.
    fn factor_of(&self, side: Side) -> Factor {
        if side == Side::Fee && !self.factor.on_fees { Factor::ONE } else { self.factor }
    }

    /// What the price of something that is listed is multiplied by.
    pub(super) fn factor_on(&self, component: Component) -> Factor {
        match component {
            Component::Count(unit) => self.counts[unit as usize].map_or(self.factor, |(_, side)| self.factor_of(side)),
            Component::Tokens(_) | Component::MachineTime => self.factor,
        }
    }

    /// Whether tokens of this bucket have a price.
    pub fn has_price(&self, bucket: Bucket) -> bool {
        self.tokens[bucket as usize].is_some()
    }

    /// What the call costs by now, with the fee for the call as such and the time of machines so far: the running cost of an
    /// answer that streams. What the provider's own tools cost comes when it is known. Tokens without a price are left
    /// out; see [`Price::unpriced_components`] and [`Rates::has_price`].
    pub fn cost(&self, usage: &Usage) -> Money {
        self.sums(usage, &Units::ZERO).total()
    }

    /// What a whole call costs.
    pub fn price(&self, usage: &Usage, units: &Units) -> Price<'c> {
        let sums = self.sums(usage, units);
        let mut unpriced_components = Vec::new();
        // Machines are paid by the hour, whatever they make.
        if self.machines.is_none() {
            let buckets = usage.iter().map(|(bucket, _)| bucket).filter(|&bucket| !self.has_price(bucket));
            unpriced_components.extend(buckets.map(Component::Tokens));
            let used = Unit::ALL.into_iter().filter(|&unit| self.billed(unit, units.get(unit)) > 0);
            let unpriced = used.filter(|&unit| self.counts[unit as usize].is_none() && !self.is_free(unit));
            unpriced_components.extend(unpriced.map(Component::Count));
        } else if self.took.is_none() {
            unpriced_components.push(Component::MachineTime);
        }
        let Sums { input, output, fees, time } = sums;
        let (row, tokens, total) = (self.row, input + output, sums.total());
        Price { row, input, output, tokens, fees, time, total, unpriced_components }
    }

    /// For usage that is the sum of calls of at most this much input.
    pub(super) fn of_size(self, size: Option<u64>) -> Self {
        Self { size, ..self }
    }

    /// Exact costs, each rounded once.
    fn sums(&self, usage: &Usage, units: &Units) -> Sums {
        let input_tokens = self.size.unwrap_or(usage.input_total());
        let [mut input, mut output, mut fees] = [Amount::default(); 3];
        for (bucket, count) in usage.iter() {
            if let Some(price) = self.tokens[bucket as usize] {
                let amount = if bucket.is_input() { &mut input } else { &mut output };
                amount.add(price.at(input_tokens), count);
            }
        }
        for unit in Unit::ALL {
            if let Some((price, side)) = self.counts[unit as usize] {
                let amount = match side {
                    Side::Input => &mut input,
                    Side::Output => &mut output,
                    Side::Fee => &mut fees,
                };
                amount.add(price.at(input_tokens), self.billed(unit, units.get(unit)));
            }
        }
        let [input, output] = [input, output].map(|amount| amount.times(self.factor));
        let fees = fees.times(self.factor_of(Side::Fee));
        let time = self.machines.zip(self.took).map(|(rate, took)| rate.cost(took, self.factor));
        Sums { input, output, fees, time: time.unwrap_or_default() }
    }

    /// The count that is billed for the count that was used.
    fn billed(&self, unit: Unit, used: u64) -> u64 {
        match unit {
            // A call is a request, whether or not someone counts it.
            Unit::Requests if self.counts[unit as usize].is_some() => used.max(1),
            Unit::InputAudioSeconds
                if used > 0
                    && self.row.provider == "groq"
                    && matches!(self.row.model, "whisper-large-v3" | "whisper-large-v3-turbo") =>
            {
                used.max(GROQ_LEAST_AUDIO_SECONDS)
            }
            _ => used,
        }
    }

    /// Whether a unit without a price is known to cost nothing beyond its tokens.
    fn is_free(&self, unit: Unit) -> bool {
        match unit {
            // Only some vendors bill calls as such; to the others this count is information.
            Unit::Requests => true,
            // https://platform.claude.com/docs/en/agents-and-tools/tool-use/web-fetch-tool: "no additional charges
            // beyond standard token costs".
            Unit::WebFetches => self.row.list == "anthropic",
            _ => false,
        }
    }
}

/// The parts of a cost.
#[derive(Debug, Clone, Copy)]
struct Sums {
    input: Money,
    output: Money,
    fees: Money,
    time: Money,
}

impl Sums {
    fn total(self) -> Money {
        self.input + self.output + self.fees + self.time
    }
}

/// What a unit is billed for, as the catalogue has it.
const fn side(unit: Unit) -> Side {
    match unit {
        Unit::InputAudioSeconds
        | Unit::InputCharacters
        | Unit::InputMessages
        | Unit::DocumentPages
        | Unit::AnnotatedPages
        | Unit::InputPixels => Side::Input,
        Unit::OutputAudioSeconds => Side::Output,
        _ => Side::Fee,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::price::{Quote, Service};

    const NOON: &str = "2026-11-20T12:00:00Z";

    fn rates(provider: &str, model: &str, service: Service<'static>) -> Rates<'static> {
        rates_at(provider, model, service, NOON)
    }

    fn rates_at(provider: &str, model: &str, service: Service<'static>, at: &str) -> Rates<'static> {
        let query = Query { provider: Some(provider), service, ..Query::new(model, at.parse().unwrap()) };
        Catalogue::embedded().rates(&query).unwrap()
    }

    fn usage(counts: &[(Bucket, u64)]) -> Usage {
        counts.iter().copied().collect()
    }

    fn units(counts: &[(Unit, u64)]) -> Units {
        counts.iter().copied().collect()
    }

    /// Price per million tokens.
    fn per_mtok(rates: &Rates<'_>, bucket: Bucket) -> String {
        rates.cost(&usage(&[(bucket, 1_000_000)])).to_string()
    }

    #[test]
    fn cache_writes_cost_by_their_time_to_live() {
        let claude = rates("anthropic", "claude-fable-5", Service::default());
        let buckets = [
            Bucket::InputUncached,
            Bucket::CacheRead,
            Bucket::CacheWrite,
            Bucket::CacheWrite5m,
            Bucket::CacheWrite1h,
            Bucket::OutputText,
            Bucket::Reasoning,
        ];
        assert_eq!(buckets.map(|bucket| per_mtok(&claude, bucket)), ["10", "1", "12.5", "12.5", "20", "50", "50"]);
    }

    #[test]
    fn a_kind_of_service_has_its_own_prices() {
        let tier = |tier| Service { tier: Some(tier), ..Service::default() };
        let price = |service| per_mtok(&rates("anthropic", "claude-fable-5-2", service), Bucket::InputUncached);
        assert_eq!(price(Service::default()), "8");
        assert_eq!(price(tier("standard")), "8");
        assert_eq!(price(tier("batch")), "4");
        assert_eq!(price(Service { speed: Some("fast"), ..Service::default() }), "16");
        // Bedrock's prices for the same maker's models are in its own list.
        let gpt = |service| per_mtok(&rates("openai", "gpt-5", service), Bucket::InputUncached);
        assert_eq!([tier("default"), tier("flex"), tier("priority")].map(gpt), ["1.25", "0.625", "2.5"]);
        // Azure resells at standard prices.
        let azure = rates("azure", "gpt-5", tier("priority"));
        assert_eq!(per_mtok(&azure, Bucket::InputUncached), "1.25");
        assert_eq!(azure.row().to_string(), "azure/gpt-5 (genai-prices 0.2.3)");
    }

    #[test]
    fn prices_follow_the_clock() {
        let price =
            |at| per_mtok(&rates_at("deepseek", "deepseek-reasoner", Service::default(), at), Bucket::OutputText);
        let prices = ["2025-01-01T00:29:59Z", "2025-01-01T00:30:00Z", "2025-01-01T16:29:59Z", "2025-01-01T16:30:00Z"];
        let [before, from, until, after] = prices.map(price);
        assert_eq!((before == after, from == until), (true, true));
        assert_ne!(before, from);
    }

    #[test]
    fn large_inputs_switch_the_whole_call() {
        let gemini = rates("google", "gemini-2.5-pro", Service::default());
        let call = |input: u64| {
            let usage = usage(&[(Bucket::InputUncached, input - 50_000), (Bucket::CacheRead, 50_000)]);
            let with_output = usage.iter().chain([(Bucket::OutputText, 1_000_000)]).collect();
            let price = gemini.price(&with_output, &Units::ZERO);
            (price.input.to_string(), price.output.to_string())
        };
        assert_eq!(call(200_000), ("0.19375".into(), "10".into()));
        assert_eq!(call(200_001), ("0.3875025".into(), "15".into()));
    }

    #[test]
    fn tools_are_fees() {
        let claude = rates("anthropic", "claude-fable-5", Service::default());
        let price = claude.price(
            &usage(&[(Bucket::InputUncached, 100), (Bucket::OutputText, 10)]),
            &units(&[(Unit::WebSearches, 3), (Unit::WebFetches, 5)]),
        );
        assert_eq!([price.input, price.output, price.tokens].map(|it| it.to_string()), ["0.001", "0.0005", "0.0015"]);
        assert_eq!([price.fees, price.total].map(|it| it.to_string()), ["0.03", "0.0315"]);
        assert_eq!(price.unpriced_components, []);
    }

    #[test]
    fn what_has_no_price_is_named() {
        let embedding = rates("openai", "text-embedding-3-small", Service::default());
        let price = embedding.price(
            &usage(&[(Bucket::InputUncached, 50), (Bucket::OutputText, 7), (Bucket::OutputAudio, 0)]),
            &units(&[(Unit::Images, 1), (Unit::WebFetches, 1), (Unit::Requests, 1)]),
        );
        assert_eq!(price.total.to_string(), "0.000001");
        let names = price.unpriced_components.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names, ["output_text", "web_fetches", "images"]);
        assert!(!embedding.has_price(Bucket::OutputText));

        let free =
            rates("google", "gemma-3", Service::default()).price(&usage(&[(Bucket::InputUncached, 1)]), &Units::ZERO);
        assert_eq!((free.total, free.unpriced_components.len()), (Money::ZERO, 1));
    }

    #[test]
    fn calls_and_seconds_are_billed_too() {
        let sonar = rates("perplexity", "sonar", Service::default());
        let alone = sonar.price(&Usage::ZERO, &Units::ZERO);
        let twice = sonar.price(&Usage::ZERO, &units(&[(Unit::Requests, 2)]));
        assert!(alone.fees > Money::ZERO);
        assert_eq!(twice.fees, alone.fees * 2);

        let whisper = rates("groq", "whisper-large-v3", Service::default());
        let hear =
            |seconds| whisper.price(&Usage::ZERO, &units(&[(Unit::InputAudioSeconds, seconds)])).total.to_string();
        assert_eq!(hear(3600), "0.111");
        assert_eq!(hear(1), hear(10));
        assert_eq!(hear(0), "0");
        // 0.111 / 3600 × 11, rounded once.
        assert_eq!(hear(11), "0.000339166667");
    }

    #[test]
    fn unknown_models_have_no_price() {
        let query = Query { provider: Some("openai"), ..Query::new("gpt-none", NOON.parse().unwrap()) };
        let quote = Catalogue::embedded().quote(&query, &usage(&[(Bucket::InputUncached, 1)]), &Units::ZERO);
        let Quote::Unpriced(why) = quote else { panic!("{quote:?}") };
        assert_eq!(why.to_string(), "openai's price list has no such model");
    }

    fn any_usage() -> impl Strategy<Value = Usage> {
        let counts = [any::<u64>(); Bucket::ALL.len()].map(|count| count.prop_map(|count| count >> (count % 64)));
        counts.prop_map(|counts| Bucket::ALL.into_iter().zip(counts).collect())
    }

    proptest! {
        #[test]
        fn parts_add_up_for_any_usage(usage in any_usage(), searches: u64) {
            let price = rates("google", "gemini-2.5-pro", Service::default())
                .price(&usage, &units(&[(Unit::WebSearches, searches)]));
            prop_assert_eq!(price.tokens, price.input + price.output);
            prop_assert_eq!(price.total, price.tokens + price.fees);
            prop_assert!(!price.total.is_negative());
        }

        #[test]
        fn a_running_cost_ends_at_the_price_and_never_falls(usage in any_usage(), more in 0_u64..1 << 30) {
            let rates = rates("google", "gemini-2.5-pro", Service::default());
            let cost = rates.cost(&usage);
            prop_assert_eq!(cost, rates.price(&usage, &Units::ZERO).total);
            let mut later = usage;
            later.add(Bucket::OutputText, more);
            prop_assert!(rates.cost(&later) >= cost);
        }
    }
}
