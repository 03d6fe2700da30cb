//! All that prices come from: overrides, the catalogue, and the fallback table, in this order.

use std::sync::OnceLock;

use super::{
    Catalogue, Ceiling, Evidence, Money, Override, Overrides, PriceRow, Query, Quote, Rates, Unpriced,
    memo::{Listed, Memo},
    overrides::{Known, Prices},
    resolve::Resolved,
};
use crate::meter::{Units, Usage};

/// The price tables that are in use, and what an administrator has set beside them.
///
/// An override that fits a call always holds. Else the catalogue's row does. Only where the catalogue has none does the
/// fallback table's. The row that is reported says which it was.
#[derive(Debug)]
pub struct PriceBook {
    pub catalogue: &'static Catalogue,
    pub fallback: Option<&'static Catalogue>,
    pub overrides: Overrides,
    pub ceiling: Option<Ceiling>,
    /// Of the two tables, which must stay what they are.
    pub(super) memo: Memo,
}

impl PriceBook {
    pub fn new(
        catalogue: &'static Catalogue,
        fallback: Option<&'static Catalogue>,
        overrides: Overrides,
        ceiling: Option<Ceiling>,
    ) -> Self {
        let id_of = |name: &str| std::iter::once(catalogue).chain(fallback).find_map(|table| table.provider_id(name));
        Self { catalogue, fallback, overrides: overrides.with_ids(id_of), ceiling, memo: Memo::default() }
    }

    /// The tables that this program was built with, and nothing set.
    pub fn embedded() -> &'static Self {
        static EMBEDDED: OnceLock<PriceBook> = OnceLock::new();
        EMBEDDED.get_or_init(|| {
            let fallback = Some(Catalogue::embedded_fallback());
            Self::new(Catalogue::embedded(), fallback, Overrides::default(), Some(Ceiling::default()))
        })
    }

    /// The catalogue that this program was built with, and nothing else.
    pub fn embedded_catalogue() -> &'static Self {
        static EMBEDDED: OnceLock<PriceBook> = OnceLock::new();
        EMBEDDED.get_or_init(|| Self::catalogue_only(Catalogue::embedded()))
    }

    /// The catalogue alone: what a call costs by the public list, whatever else is known.
    pub fn catalogue_only(catalogue: &'static Catalogue) -> Self {
        Self::new(catalogue, None, Overrides::default(), None)
    }

    /// Overrides that never hold, since no table has the provider that they name.
    pub fn idle_overrides(&self) -> impl Iterator<Item = &Override> {
        let is_known = |name: &str| {
            std::iter::once(self.catalogue).chain(self.fallback).any(|table| table.provider_id(name).is_some())
        };
        self.overrides.iter().filter(move |it| it.provider().is_some_and(|name| !is_known(name)))
    }

    /// Versions of the tables, such as `genai-prices 0.2.3, litellm 1.110.2`.
    pub fn version(&self) -> String {
        let tables = std::iter::once(self.catalogue).chain(self.fallback).map(Catalogue::version);
        tables.collect::<Vec<_>>().join(", ")
    }

    /// What a call costs.
    pub fn quote(&self, query: &Query<'_>, usage: &Usage, units: &Units) -> Quote<'_> {
        match self.rates(query) {
            Ok(rates) => Quote::Priced(rates.of_size(query.size).price(usage, units)),
            Err(why) => Quote::Unpriced(why),
        }
    }

    /// The prices that hold for a call, to ask for its cost as it grows.
    ///
    /// # Errors
    /// Why there are none.
    pub fn rates(&self, query: &Query<'_>) -> Result<Rates<'_>, Unpriced<'_>> {
        if self.overrides.is_empty() {
            return self.memo.rates(query, || self.find(query));
        }
        let listed = self.listed(query);
        match self.overrides.find(query, Self::known(query, &listed)) {
            Some(set) => self.overridden(set, listed, query),
            None => listed.map(|(table, resolved)| Rates::new(table, resolved, query)),
        }
    }

    /// What a call without a price counts toward a cap. `None` where it counts nothing: a model server of one's own, or an
    /// administrator who wants it so.
    pub fn ceiling(&self, why: Unpriced<'_>, usage: &Usage) -> Option<Money> {
        let is_own = matches!(why, Unpriced::SelfHosted);
        self.ceiling.filter(|_| !is_own).map(|ceiling| ceiling.of(usage))
    }

    /// The table that has a row for a call, and the row.
    pub(super) fn listed(&self, query: &Query<'_>) -> Listed {
        self.memo.listed(query, || self.find(query))
    }

    fn find(&self, query: &Query<'_>) -> Listed {
        let why = match self.catalogue.resolve(query) {
            Ok(resolved) => return Ok((self.catalogue, resolved)),
            Err(why) => why,
        };
        self.in_fallback(query, why).ok_or(why)
    }

    /// A row of the fallback table, if it has one of the provider that the catalogue has found.
    pub(super) fn in_fallback(
        &self,
        query: &Query<'_>,
        why: Unpriced<'_>,
    ) -> Option<(&'static Catalogue, Resolved<'static>)> {
        let fallback = self.fallback?;
        let of = |provider, evidence| {
            let resolved = fallback.resolve(&Query { provider: Some(provider), ..*query }).ok()?;
            Some(Resolved { evidence, ..resolved })
        };
        let resolved = match why {
            Unpriced::SelfHosted => None,
            Unpriced::UnknownProvider => fallback.resolve(query).ok(),
            Unpriced::UnknownModel { provider } if query.provider.is_some() => of(provider, Evidence::Named),
            Unpriced::UnknownModel { provider } => {
                match query.url.and_then(|url| self.catalogue.provider_of_url(url)) {
                    Some(_) => of(provider, Evidence::Url),
                    // Of `vendor/model` the fallback table takes the vendor off itself.
                    None => fallback.resolve(query).ok().or_else(|| of(provider, Evidence::ModelName)),
                }
            }
        };
        resolved.map(|resolved| (fallback, resolved))
    }

    pub(super) fn known<'q>(query: &Query<'q>, listed: &Listed) -> Known<'q> {
        let provider = match listed {
            Ok((_, resolved)) => Some(&*resolved.provider.id),
            Err(Unpriced::UnknownModel { provider }) => Some(*provider),
            Err(Unpriced::UnknownProvider | Unpriced::SelfHosted) => query.provider,
        };
        Known { provider, is_listed: listed.is_ok() }
    }

    pub(super) fn overridden<'b>(
        &'b self,
        set: &'b Override,
        listed: Listed,
        query: &Query<'_>,
    ) -> Result<Rates<'b>, Unpriced<'b>> {
        let rates = match (listed, &set.prices) {
            (Ok((table, resolved)), _) => Rates::new(table, resolved, query),
            // Nothing that a percentage could be of.
            (Err(why), Prices::Listed) => return Err(why),
            (Err(why), _) => {
                let provider = match why {
                    Unpriced::UnknownModel { provider } => Some(provider),
                    Unpriced::SelfHosted | Unpriced::UnknownProvider => None,
                };
                Rates::unlisted(PriceRow::of_override(set, provider))
            }
        };
        Ok(rates.overridden(set, query))
    }
}
