//! Why a model costs what it costs, for people: every row that could hold, which one does, and its prices.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Catalogue, Component, PriceBook, Query, Rates, Unpriced,
    catalogue::{Model, Provider},
    overrides::{Override, Prices},
    resolve::{Evidence, Resolved},
    row::{Constraint, DatedPrices, Rate, Tiered},
};

/// All rows that could hold for a call.
#[derive(Debug, Serialize)]
pub struct Explanation {
    pub model: String,
    /// Who bills, as far as is known.
    pub provider: Option<String>,
    pub at: jiff::Timestamp,
    /// Why there is no price, if there is none.
    pub unpriced: Option<String>,
    /// The one that holds comes first.
    pub candidates: Vec<Candidate>,
}

/// A row that could hold.
#[derive(Debug, Serialize)]
pub struct Candidate {
    /// The table or the override that it is in: `genai-prices 0.2.3`, `override contract@0123456789ab`.
    pub source: String,
    pub provider: String,
    /// Whose price list has the model.
    pub list: String,
    pub model: String,
    pub holds: bool,
    pub why: String,
    /// Prices at the time that was asked for.
    pub prices: Vec<PriceLine>,
    /// All dates, times and kinds of service of a table's row.
    pub schedule: Vec<Period>,
}

/// One price.
#[derive(Debug, Serialize)]
pub struct PriceLine {
    pub what: String,
    /// What the price is for: `1000000 tokens`.
    pub per: String,
    pub usd: String,
    /// Prices of the whole call where its input has more tokens than this.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub above: Vec<(u64, String)>,
    /// What this is a kind of, if the row has no price for this kind alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_as: Option<String>,
}

/// Prices of a table's row that hold at some time or for some kind of service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Period {
    pub when: String,
    /// By price key of the table.
    pub prices: BTreeMap<String, String>,
}

impl PriceBook {
    /// Every row that could hold for a call.
    pub fn explain(&self, query: &Query<'_>) -> Explanation {
        let listed = self.listed(query);
        let known = Self::known(query, &listed);
        let rates = self.rates(query);
        let fitting = self.overrides.fitting(query, known);
        let mut candidates = Vec::new();
        for (index, set) in fitting.iter().enumerate() {
            if let Ok(rates) = self.overridden(set, listed, query) {
                let why =
                    if index == 0 { "an override goes before the tables" } else { "another override is more specific" };
                candidates.push(Candidate { holds: index == 0, ..candidate(&rates, Some(set), why, Vec::new()) });
            }
        }
        let is_set = rates.as_ref().is_ok_and(|rates| rates.row().set.is_some());
        if let Ok((table, resolved)) = listed {
            let why = if is_set { "an override is set" } else { evidence(resolved.evidence) };
            let rates = Rates::new(table, resolved, query);
            candidates
                .push(Candidate { holds: !is_set, ..candidate(&rates, None, why, table.schedule(resolved.model)) });
            let found = Unpriced::UnknownModel { provider: &resolved.provider.id };
            let also = self.in_fallback(query, found).filter(|_| std::ptr::eq(table, self.catalogue));
            if let Some((table, resolved)) = also {
                let rates = Rates::new(table, resolved, query);
                let why = "the catalogue has the model: this table is for what it lacks";
                candidates.push(candidate(&rates, None, why, table.schedule(resolved.model)));
            }
        }
        for (table, resolved) in self.elsewhere(query, known.provider) {
            let rates = Rates::new(table, resolved, query);
            let why = "another provider: it holds for calls that go there";
            candidates.push(candidate(&rates, None, why, Vec::new()));
        }
        Explanation {
            model: query.model.to_owned(),
            provider: known.provider.map(str::to_owned),
            at: query.at,
            unpriced: rates.err().map(|why| why.to_string()),
            candidates,
        }
    }

    /// Rows of this model at other providers.
    fn elsewhere(&self, query: &Query<'_>, provider: Option<&str>) -> Vec<(&'static Catalogue, Resolved<'static>)> {
        let tables = std::iter::once(self.catalogue).chain(self.fallback);
        let others = tables.flat_map(|table| {
            let ids = table.providers.iter().map(|it| &*it.id).filter(|&id| Some(id) != provider);
            ids.filter_map(move |id| {
                let resolved = table.resolve(&Query { provider: Some(id), ..*query }).ok()?;
                Some((table, resolved))
            })
        });
        others.collect()
    }
}

fn evidence(evidence: Evidence) -> &'static str {
    match evidence {
        Evidence::Named => "the provider was named",
        Evidence::Url => "the URL is the provider's",
        Evidence::ModelName => "the model's name is of this provider's form",
        Evidence::Configured => "no table has the model",
    }
}

/// One that does not hold.
fn candidate(rates: &Rates<'_>, set: Option<&Override>, why: &str, schedule: Vec<Period>) -> Candidate {
    let row = rates.row();
    let mut why = why.to_owned();
    if set.is_some_and(|set| matches!(set.prices, Prices::Listed)) {
        why.push_str(&format!("; a percentage on {}", row.catalogue));
    }
    Candidate {
        source: set.map_or(row.catalogue.to_owned(), |set| format!("override {}@{}", set.name(), set.hash())),
        provider: row.provider.to_owned(),
        list: row.list.to_owned(),
        model: row.model.to_owned(),
        holds: false,
        why,
        prices: rates.lines(),
        schedule,
    }
}

impl Rates<'_> {
    /// Each price, with what an administrator has set.
    fn lines(&self) -> Vec<PriceLine> {
        let listed = self.listed().collect::<Vec<_>>();
        let lines = listed.iter().map(|&(component, price)| {
            // Kinds of tokens that share a price share it in memory.
            let first = listed.iter().find(|(_, other)| std::ptr::eq(*other, price)).map(|&(first, _)| first);
            let charged_as = first.filter(|&first| first != component).map(|first| first.to_string());
            PriceLine { charged_as, ..line(component, price, self) }
        });
        lines.chain(self.machine_line()).collect()
    }

    fn machine_line(&self) -> Option<PriceLine> {
        let machines = self.machines()?;
        let per_hour = machines.cost(std::time::Duration::from_secs(3600), self.factor());
        let (what, per) = (Component::MachineTime.to_string(), format!("hour of {} GPUs", machines.gpus()));
        Some(PriceLine { what, per, usd: per_hour.to_string(), above: Vec::new(), charged_as: None })
    }
}

fn line(component: Component, price: &Tiered, rates: &Rates<'_>) -> PriceLine {
    let name = component.to_string();
    let (per, unit) = match component {
        Component::Tokens(_) => (1_000_000, "tokens"),
        Component::Count(_) if name.ends_with("_seconds") => (3600, "seconds"),
        Component::Count(_) | Component::MachineTime => (1000, ""),
    };
    let usd = |rate: Rate| rate.of(per, rates.factor_on(component));
    let mut steps = price.steps().map(|(start, rate)| (start, usd(rate)));
    let base = steps.next().map(|(_, usd)| usd).unwrap_or_default();
    PriceLine {
        what: name,
        per: format!("{per} {unit}").trim_end().to_owned(),
        usd: base,
        above: steps.collect(),
        charged_as: None,
    }
}

impl Catalogue {
    /// All prices of each model, by `provider/model`.
    pub fn schedules(&self) -> BTreeMap<String, Vec<Period>> {
        let name = |provider: &Provider, model: &Model| format!("{}/{}", provider.id, model.id);
        let rows =
            self.providers.iter().flat_map(|provider| provider.models.iter().map(move |model| (provider, model)));
        rows.map(|(provider, model)| (name(provider, model), self.schedule(model))).collect()
    }

    fn schedule(&self, model: &Model) -> Vec<Period> {
        let period = |dated: &DatedPrices, service: String| {
            let when = match dated.constraint {
                None => None,
                Some(Constraint::From { start_date }) => Some(format!("from {start_date}")),
                Some(Constraint::Daily { start_time_utc, end_time_utc }) => {
                    Some(format!("daily {start_time_utc} to {end_time_utc} UTC"))
                }
            };
            let when = [Some(service).filter(|it| !it.is_empty()), when].into_iter().flatten().collect::<Vec<_>>();
            let prices = dated.prices.0.iter().map(|(unit, price)| self.written(*unit, price)).collect();
            Period { when: if when.is_empty() { "always".to_owned() } else { when.join(", ") }, prices }
        };
        let standard = model.prices.iter().map(|dated| period(dated, String::new()));
        let variants = model.variants.iter().map(|variant| {
            let when = variant.when.iter().map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>();
            period(&variant.dated, when.join(" and "))
        });
        standard.chain(variants).collect()
    }
}
