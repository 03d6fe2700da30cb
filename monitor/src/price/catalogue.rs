//! The public price catalogue: providers, their models, and what they charge.

use std::{collections::BTreeMap, sync::OnceLock};

use regex::RegexSet;
use serde::Deserialize;

use super::{
    matcher::Matcher,
    overrides::Factor,
    resolve::NameCache,
    row::{Constraint, DatedPrices, PriceJson, PriceSet, Tiered, UnitIndex, Variant},
};
use crate::meter::{Bucket, Unit};

/// The price catalogue, read and ready to be asked. Apart from a cache of names it never changes.
#[derive(Debug)]
pub struct Catalogue {
    version: Box<str>,
    pub(super) providers: Box<[Provider]>,
    /// One pattern per provider, in their order.
    pub(super) urls: RegexSet,
    pub(super) units: Box<[UnitDef]>,
    /// For each bucket the catalogue's units that its tokens belong to, the most special one first.
    pub(super) bucket_units: [Box<[UnitIndex]>; Bucket::ALL.len()],
    pub(super) counted_units: [Box<[UnitIndex]>; Unit::ALL.len()],
    pub(super) names: NameCache,
}

/// A vendor with a price list.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) id: Box<str>,
    pub(super) provider_match: Option<Matcher>,
    pub(super) model_match: Option<Matcher>,
    /// Providers whose lists hold for what this one resells.
    pub(super) fallbacks: Box<[usize]>,
    pub(super) models: Box<[Model]>,
}

#[derive(Debug)]
pub(super) struct Model {
    pub(super) id: Box<str>,
    pub(super) matcher: Matcher,
    pub(super) prices: Box<[DatedPrices]>,
    pub(super) variants: Box<[Variant]>,
}

/// Something that the catalogue has prices for.
#[derive(Debug)]
pub(super) struct UnitDef {
    price_key: Box<str>,
    /// How many of it a price is for.
    per: u128,
    dimensions: BTreeMap<Box<str>, Box<str>>,
    pub(super) side: Side,
}

/// Which part of a call a unit is billed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Input,
    Output,
    /// Neither: fees by the call or for the provider's tools.
    Fee,
}

/// Why a text is no price catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("the price catalogue is not in the expected form: {0}")]
    Form(#[from] serde_json::Error),
    #[error("a provider's URL pattern in the price catalogue cannot be used: {0}")]
    UrlPattern(#[from] regex::Error),
    #[error("`{pattern}`, by which {provider}'s models are known in the price catalogue, is no regular expression")]
    ModelPattern { provider: String, pattern: String },
    #[error("the price catalogue has more units than can be told apart: {0}")]
    TooManyUnits(usize),
    #[error("{provider}'s fallback provider {fallback} is not in the price catalogue")]
    UnknownFallback { provider: String, fallback: String },
    #[error("{model} has no list of prices in the price catalogue")]
    NoPrices { model: String },
    #[error("{model} has a price for `{price_key}`, which is no unit of the price catalogue")]
    UnknownUnit { model: String, price_key: String },
    #[error("{model}'s price for `{price_key}` is not an exact, non-negative amount in USD")]
    Price { model: String, price_key: String },
}

impl Catalogue {
    /// The catalogue that this program was built with, from `monitor/prices/`.
    ///
    /// # Panics
    /// If that file is damaged, which the tests rule out.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: OnceLock<Catalogue> = OnceLock::new();
        EMBEDDED.get_or_init(|| match Self::parse(include_str!("../../prices/genai-prices/catalogue.json")) {
            Ok(catalogue) => catalogue,
            Err(error) => panic!("this program was built from damaged data: {error}"),
        })
    }

    /// The table for what the catalogue lacks, embedded likewise.
    ///
    /// # Panics
    /// If that file is damaged, which the tests rule out.
    pub fn embedded_fallback() -> &'static Self {
        static EMBEDDED: OnceLock<Catalogue> = OnceLock::new();
        EMBEDDED.get_or_init(|| match Self::parse(include_str!("../../prices/litellm/catalogue.json")) {
            Ok(catalogue) => catalogue,
            Err(error) => panic!("this program was built from damaged data: {error}"),
        })
    }

    /// Reads a catalogue in the form that `cargo xtask prices` writes.
    ///
    /// # Errors
    /// The first thing in it that cannot be understood. A price that is not understood is never left out.
    pub fn parse(json: &str) -> Result<Self, CatalogueError> {
        let json: CatalogueJson = serde_json::from_str(json)?;
        let units = json.units.into_values().map(UnitDef::from).collect::<Box<[_]>>();
        if units.len() > usize::from(u8::MAX) {
            return Err(CatalogueError::TooManyUnits(units.len()));
        }
        // `\A`: a provider's pattern must match from the start of the URL.
        let urls = RegexSet::new(json.providers.iter().map(|provider| format!(r"\A(?:{})", provider.api_pattern)))?;
        let ids = json.providers.iter().map(|provider| provider.id.clone()).collect::<Vec<_>>();
        let providers = json
            .providers
            .into_iter()
            .map(|provider| provider.read(&ids, &units))
            .collect::<Result<Box<[_]>, CatalogueError>>()?;
        Ok(Self {
            version: format!("{} {}", json.source.package, json.source.version).into(),
            urls,
            bucket_units: Bucket::ALL.map(|bucket| generalisations(&units, bucket_dimensions(bucket))),
            counted_units: Unit::ALL.map(|unit| generalisations(&units, unit_dimensions(unit))),
            names: NameCache::new(providers.len()),
            providers,
            units,
        })
    }

    /// Package and version of the data, such as `genai-prices 0.2.3`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The package alone.
    pub fn package(&self) -> &str {
        self.version.split_once(' ').map_or(&self.version, |(package, _)| package)
    }

    /// The version alone.
    pub fn release(&self) -> &str {
        self.version.split_once(' ').map_or("", |(_, release)| release)
    }

    /// Whether it is of a later version, number by number.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        fn numbers(release: &str) -> Vec<u64> {
            release.split('.').map(|part| part.parse().unwrap_or(0)).collect()
        }
        numbers(self.release()) > numbers(other.release())
    }

    pub fn models(&self) -> usize {
        self.providers.iter().map(|provider| provider.models.len()).sum()
    }

    /// Tries every pattern, which otherwise is done when it is first needed: one that cannot be used matches nothing, and the
    /// model would be unpriced.
    ///
    /// # Errors
    /// The first pattern that is no regular expression.
    pub fn check_patterns(&self) -> Result<(), CatalogueError> {
        for provider in &self.providers {
            let of_models = provider.models.iter().map(|model| &model.matcher);
            let mut rules = provider.provider_match.iter().chain(&provider.model_match).chain(of_models);
            if let Some(pattern) = rules.find_map(Matcher::broken_pattern) {
                let (provider, pattern) = (provider.id.to_string(), pattern.to_owned());
                return Err(CatalogueError::ModelPattern { provider, pattern });
            }
        }
        Ok(())
    }

    /// The unit's key in the table, and its price there.
    pub(super) fn written(&self, unit: UnitIndex, price: &Tiered) -> (String, String) {
        let Some(unit) = self.units.get(usize::from(unit.0)) else { return Default::default() };
        let mut steps = price.steps().map(|(start, rate)| (start, rate.of(unit.per, Factor::ONE)));
        let mut text = steps.next().map(|(_, usd)| usd).unwrap_or_default();
        for (start, usd) in steps {
            text.push_str(&format!(", above {start}: {usd}"));
        }
        (unit.price_key.to_string(), text)
    }
}

/// The units that contain everything with these dimensions, the most special one first.
fn generalisations(units: &[UnitDef], dimensions: &[(&str, &str)]) -> Box<[UnitIndex]> {
    let contains = |unit: &UnitDef| {
        unit.dimensions.iter().all(|(key, value)| dimensions.contains(&(key.as_ref(), value.as_ref())))
    };
    let indices = (0_u8..).zip(units).filter(|(_, unit)| contains(unit));
    let mut found = indices.map(|(index, unit)| (unit.dimensions.len(), UnitIndex(index))).collect::<Vec<_>>();
    found.sort_by_key(|&(specificity, _)| std::cmp::Reverse(specificity));
    found.into_iter().map(|(_, index)| index).collect()
}

const TOKENS: (&str, &str) = ("family", "tokens");
const TOOL_CALLS: (&str, &str) = ("family", "tool_calls");
const INPUT: (&str, &str) = ("direction", "input");
const OUTPUT: (&str, &str) = ("direction", "output");
const AUDIO: (&str, &str) = ("modality", "audio");

/// The catalogue's dimensions of a bucket. Uncached and cached input have no modality: not every API tells what of it
/// was text. The catalogue knows no documents; they are input like any other.
const fn bucket_dimensions(bucket: Bucket) -> &'static [(&'static str, &'static str)] {
    match bucket {
        Bucket::InputUncached | Bucket::InputDocument => &[TOKENS, INPUT],
        Bucket::CacheRead => &[TOKENS, INPUT, ("token_type", "cache_read")],
        Bucket::CacheWrite => &[TOKENS, INPUT, ("token_type", "cache_write")],
        Bucket::CacheWrite5m => &[TOKENS, INPUT, ("token_type", "cache_write"), ("cache_ttl", "5m")],
        Bucket::CacheWrite1h => &[TOKENS, INPUT, ("token_type", "cache_write"), ("cache_ttl", "1h")],
        Bucket::InputAudio => &[TOKENS, INPUT, AUDIO],
        Bucket::InputImage => &[TOKENS, INPUT, ("modality", "image")],
        Bucket::InputVideo => &[TOKENS, INPUT, ("modality", "video")],
        Bucket::InputTool => &[TOKENS, INPUT, ("token_type", "tool")],
        Bucket::OutputText => &[TOKENS, OUTPUT, ("modality", "text")],
        Bucket::Reasoning => &[TOKENS, OUTPUT, ("token_type", "reasoning")],
        Bucket::OutputAudio => &[TOKENS, OUTPUT, AUDIO],
        Bucket::OutputImage => &[TOKENS, OUTPUT, ("modality", "image")],
    }
}

/// The catalogue's dimensions of a counted unit. For images, fetched pages and classifications it has none, so they have no price.
const fn unit_dimensions(unit: Unit) -> &'static [(&'static str, &'static str)] {
    match unit {
        Unit::Requests => &[("family", "requests")],
        Unit::WebSearches => &[TOOL_CALLS, ("tool_type", "web_search")],
        Unit::WebFetches => &[TOOL_CALLS, ("tool_type", "web_fetch")],
        Unit::SocialSearches => &[TOOL_CALLS, ("tool_type", "social_search")],
        Unit::FileSearches => &[TOOL_CALLS, ("tool_type", "storage_search")],
        Unit::CodeExecutions => &[TOOL_CALLS, ("tool_type", "code_execution")],
        Unit::SearchUnits => &[("family", "rerank")],
        Unit::Images => &[("family", "images")],
        Unit::InputAudioSeconds => &[("family", "durations"), INPUT, AUDIO],
        Unit::OutputAudioSeconds => &[("family", "durations"), OUTPUT, AUDIO],
        Unit::InputCharacters => &[("family", "characters"), INPUT],
        Unit::InputMessages => &[("family", "messages"), INPUT, ("modality", "text")],
        Unit::DocumentPages => &[("family", "document_pages"), INPUT],
        Unit::AnnotatedPages => &[("family", "document_pages"), INPUT, ("page_type", "annotated")],
        Unit::InputPixels => &[("family", "pixels"), INPUT],
        Unit::Classifications => &[("family", "classifications")],
    }
}

#[derive(Deserialize)]
struct CatalogueJson {
    source: SourceJson,
    units: BTreeMap<Box<str>, UnitJson>,
    providers: Vec<ProviderJson>,
}

#[derive(Deserialize)]
struct SourceJson {
    package: String,
    version: String,
}

#[derive(Deserialize)]
struct UnitJson {
    price_key: Box<str>,
    per: u64,
    dimensions: BTreeMap<Box<str>, Box<str>>,
}

impl From<UnitJson> for UnitDef {
    fn from(json: UnitJson) -> Self {
        let side = match json.dimensions.get("direction").map(AsRef::as_ref) {
            Some("input") => Side::Input,
            Some("output") => Side::Output,
            _ => Side::Fee,
        };
        Self { price_key: json.price_key, per: json.per.into(), dimensions: json.dimensions, side }
    }
}

#[derive(Deserialize)]
struct ProviderJson {
    id: Box<str>,
    api_pattern: String,
    provider_match: Option<Matcher>,
    model_match: Option<Matcher>,
    fallback_model_providers: Option<Vec<Box<str>>>,
    models: Vec<ModelJson>,
}

#[derive(Deserialize)]
struct ModelJson {
    id: Box<str>,
    #[serde(rename = "match")]
    matcher: Matcher,
    prices: Vec<DatedPricesJson>,
    #[serde(default)]
    price_variants: Vec<VariantJson>,
}

#[derive(Deserialize)]
struct DatedPricesJson {
    constraint: Option<Constraint>,
    prices: BTreeMap<String, PriceJson>,
}

#[derive(Deserialize)]
struct VariantJson {
    when: BTreeMap<Box<str>, Box<str>>,
    #[serde(flatten)]
    dated: DatedPricesJson,
}

impl ProviderJson {
    fn read(self, ids: &[Box<str>], units: &[UnitDef]) -> Result<Provider, CatalogueError> {
        let index_of = |fallback: Box<str>| {
            ids.iter().position(|id| *id == fallback).ok_or_else(|| CatalogueError::UnknownFallback {
                provider: self.id.to_string(),
                fallback: fallback.into(),
            })
        };
        let fallbacks = self.fallback_model_providers.unwrap_or_default();
        let fallbacks = fallbacks.into_iter().map(index_of).collect::<Result<_, _>>()?;
        let models = self.models.into_iter().map(|model| model.read(&self.id, units)).collect::<Result<_, _>>()?;
        Ok(Provider {
            id: self.id,
            provider_match: self.provider_match,
            model_match: self.model_match,
            fallbacks,
            models,
        })
    }
}

impl ModelJson {
    fn read(self, provider: &str, units: &[UnitDef]) -> Result<Model, CatalogueError> {
        let name = || format!("{provider}/{}", self.id);
        if self.prices.is_empty() {
            return Err(CatalogueError::NoPrices { model: name() });
        }
        let prices = self.prices.into_iter().map(|dated| dated.read(&name, units)).collect::<Result<_, _>>()?;
        let variants = self.price_variants.into_iter().map(|variant| {
            Ok(Variant { when: variant.when.into_iter().collect(), dated: variant.dated.read(&name, units)? })
        });
        let variants = variants.collect::<Result<_, CatalogueError>>()?;
        Ok(Model { id: self.id, matcher: self.matcher, prices, variants })
    }
}

impl DatedPricesJson {
    fn read(self, model: &impl Fn() -> String, units: &[UnitDef]) -> Result<DatedPrices, CatalogueError> {
        let prices = self.prices.into_iter().map(|(price_key, json)| {
            let Some((index, unit)) = (0_u8..).zip(units).find(|(_, unit)| *unit.price_key == price_key) else {
                return Err(CatalogueError::UnknownUnit { model: model(), price_key });
            };
            match Tiered::parse(&json, unit.per) {
                Some(price) => Ok((UnitIndex(index), price)),
                None => Err(CatalogueError::Price { model: model(), price_key }),
            }
        });
        Ok(DatedPrices { constraint: self.constraint, prices: PriceSet(prices.collect::<Result<_, _>>()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::price::row::SERVICE_KEYS;

    #[test]
    fn the_embedded_tables_are_whole() {
        for (table, package) in [(Catalogue::embedded(), "genai-prices"), (Catalogue::embedded_fallback(), "litellm")] {
            assert_eq!(table.package(), package);
            table.check_patterns().unwrap();
            assert!(table.models() > 1000);
        }
    }

    #[test]
    fn versions_are_compared_by_number() {
        let table = |version: &str| {
            let source = format!(r#"{{"package": "p", "version": "{version}"}}"#);
            Catalogue::parse(&format!(r#"{{"source": {source}, "units": {{}}, "providers": []}}"#)).unwrap()
        };
        assert!(table("0.10.0").is_newer_than(&table("0.9.12")));
        assert!(table("0.2.3.1").is_newer_than(&table("0.2.3")));
        assert!(!table("0.2.3").is_newer_than(&table("0.2.3")));
    }

    #[test]
    fn every_variant_asks_for_something_known() {
        for model in Catalogue::embedded().providers.iter().flat_map(|provider| &provider.models) {
            for variant in &model.variants {
                assert!(!variant.when.is_empty(), "{}", model.id);
                assert!(variant.when.iter().all(|(key, _)| SERVICE_KEYS.contains(&&**key)), "{}", model.id);
            }
        }
    }

    /// Only then has a bucket one price: were two of its units both special in their own way, it would have two.
    #[test]
    fn the_units_of_a_bucket_contain_one_another() {
        let catalogue = Catalogue::embedded();
        for (what, chain) in Bucket::ALL
            .map(Bucket::name)
            .iter()
            .zip(&catalogue.bucket_units)
            .chain(Unit::ALL.map(Unit::name).iter().zip(&catalogue.counted_units))
        {
            let dimensions = |index: &UnitIndex| &catalogue.units[usize::from(index.0)].dimensions;
            for pair in chain.windows(2) {
                let (special, general) = (dimensions(&pair[0]), dimensions(&pair[1]));
                assert!(general.iter().all(|(key, value)| special.get(key) == Some(value)), "{what}");
                assert!(general.len() < special.len(), "{what}");
            }
            assert_eq!(chain.is_empty(), matches!(*what, "images" | "web_fetches" | "classifications"), "{what}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        let catalogue = |row: &str| {
            Catalogue::parse(&format!(
                r#"{{"source": {{"package": "p", "version": "1"}},
                    "units": {{"input_tokens": {{"per": 1000000, "price_key": "input_mtok", "dimensions": {{}}}}}},
                    "providers": [{{"id": "v", "api_pattern": "x", "models": [{{"id": "m", "match": {{"equals": "m"}}, {row}}}]}}]}}"#
            ))
        };
        let error = |row| catalogue(row).unwrap_err().to_string();
        assert!(catalogue(r#""prices": [{"constraint": null, "prices": {"input_mtok": "1"}}]"#).is_ok());
        assert_eq!(
            error(r#""prices": [{"constraint": null, "prices": {"wish_mtok": "1"}}]"#),
            "v/m has a price for `wish_mtok`, which is no unit of the price catalogue"
        );
        assert_eq!(
            error(r#""prices": [{"constraint": null, "prices": {"input_mtok": "1e-3"}}]"#),
            "v/m's price for `input_mtok` is not an exact, non-negative amount in USD"
        );
        assert_eq!(error(r#""prices": []"#), "v/m has no list of prices in the price catalogue");
        let other_constraint = error(r#""prices": [{"constraint": {"weekday": "Monday"}, "prices": {}}]"#);
        assert!(other_constraint.starts_with("the price catalogue is not in the expected form"), "{other_constraint}");
    }
}
