//! Remembers which row holds for the calls that are made again and again, and its rates.
//!
//! To find the provider of a URL takes a pass over it with the patterns of all of them, and a row has forty chains of units to look for. An agent
//! makes most of its calls to one URL for one model, and each is priced when it is asked, while it streams, and at its end.
//!
//! What is remembered depends on nothing but the tables, which do not change, and on the URL and the model. Rates also depend on the time and the
//! kind of service, which tell which of a row's prices hold: see [`Holding`].

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Mutex, PoisonError},
};

use super::{Query, Rates, Unpriced, catalogue::Catalogue, resolve::Resolved, row::Holding};

/// The table that has a row for a call, and the row.
pub(super) type Listed = Result<(&'static Catalogue, Resolved<'static>), Unpriced<'static>>;

/// Places for what is remembered. Where two calls want the same one, the later one has it.
const PLACES: usize = 256;
/// URLs and names come from the processes that are watched: longer ones are not remembered.
const MAX_URL_LENGTH: usize = 256;
const MAX_MODEL_LENGTH: usize = 128;

#[derive(Debug)]
pub(super) struct Memo {
    places: Box<[Mutex<Option<Box<Entry>>>]>,
}

#[derive(Debug)]
struct Entry {
    url: Box<str>,
    model: Box<str>,
    listed: Listed,
    /// Its rates when they were last asked for, but for how long the call took.
    rates: Option<(Holding, Rates<'static>)>,
}

impl Default for Memo {
    fn default() -> Self {
        Self { places: (0..PLACES).map(|_| Mutex::default()).collect() }
    }
}

impl Memo {
    /// What `find` finds for a query.
    pub(super) fn listed(&self, query: &Query<'_>, find: impl FnOnce() -> Listed) -> Listed {
        match self.key(query) {
            Some(key) => self.with(key, find, |entry| entry.listed),
            None => find(),
        }
    }

    /// The rates of the row that `find` finds for a query.
    pub(super) fn rates(
        &self,
        query: &Query<'_>,
        find: impl FnOnce() -> Listed,
    ) -> Result<Rates<'static>, Unpriced<'static>> {
        let Some(key) = self.key(query) else {
            return find().map(|(table, resolved)| Rates::new(table, resolved, query));
        };
        self.with(key, find, |entry| {
            let (table, resolved) = entry.listed?;
            let Some(holding) = Rates::holding(&resolved, query) else { return Ok(Rates::new(table, resolved, query)) };
            if let Some((_, rates)) = entry.rates.as_ref().filter(|(of, _)| *of == holding) {
                return Ok(rates.taking(query.took));
            }
            let rates = Rates::new(table, resolved, query);
            entry.rates = Some((holding, rates));
            Ok(rates)
        })
    }

    fn key<'q>(&self, query: &Query<'q>) -> Option<(&'q str, &'q str)> {
        let url = query.url.filter(|url| query.provider.is_none() && url.len() <= MAX_URL_LENGTH)?;
        (query.model.len() <= MAX_MODEL_LENGTH).then_some((url, query.model))
    }

    fn with<T>(
        &self,
        (url, model): (&str, &str),
        find: impl FnOnce() -> Listed,
        work: impl FnOnce(&mut Entry) -> T,
    ) -> T {
        let mut hasher = DefaultHasher::new();
        (url, model).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % PLACES as u64).unwrap_or_default();
        // An entry is put in its place whole: a panic elsewhere cannot leave half of one.
        let mut place = self.places[place].lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *place {
            Some(entry) if *entry.url == *url && *entry.model == *model => work(entry),
            other => {
                let entry = Entry { url: url.into(), model: model.into(), listed: find(), rates: None };
                work(other.insert(Box::new(entry)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::price::{PriceBook, Service};

    const URLS: [&str; 6] = [
        "https://api.openai.com/v1/chat/completions",
        "https://api.anthropic.com/v1/messages",
        "https://api.deepseek.com/chat/completions",
        "https://gateway.example/v1/chat/completions",
        "http://localhost:8000/v1/chat/completions",
        "",
    ];
    const MODELS: [&str; 8] = [
        "gpt-4o",
        "gpt-5",
        "claude-fable-5-2",
        "deepseek-reasoner",
        "anthropic/claude-sonnet-4-5",
        "gpt-none",
        "llama3",
        "",
    ];
    /// On both sides of changes from day to day and within a day.
    const TIMES: [&str; 4] =
        ["2025-01-01T00:29:59Z", "2025-01-01T00:30:00Z", "2026-11-20T12:00:00Z", "2026-11-20T16:30:00Z"];

    fn queries() -> Vec<Query<'static>> {
        let services = [
            Service::default(),
            Service { tier: Some("priority"), ..Service::default() },
            Service { tier: Some("batch"), ..Service::default() },
            Service { speed: Some("fast"), ..Service::default() },
        ];
        let mut queries = Vec::new();
        for (url, model) in URLS.iter().flat_map(|url| MODELS.map(|model| (*url, model))) {
            for (service, at) in services.iter().flat_map(|service| TIMES.map(|at| (*service, at))) {
                for took in [None, Some(Duration::from_secs(3))] {
                    let url = Some(url);
                    queries.push(Query { url, service, took, ..Query::new(model, at.parse().expect("a time")) });
                }
            }
        }
        queries
    }

    /// A book that has nothing to remember must say the same.
    #[test]
    fn what_is_remembered_is_what_is_found() {
        let book = PriceBook::embedded();
        let mut queries = queries();
        for _ in 0..2 {
            for query in &queries {
                let fresh = PriceBook::new(book.catalogue, book.fallback, Default::default(), book.ceiling);
                let (found, remembered) = (fresh.rates(query), book.rates(query));
                assert_eq!(format!("{found:?}"), format!("{remembered:?}"), "{query:?}");
            }
            // In another order, other calls have been remembered.
            queries.reverse();
        }
    }

    fn query(model: &str) -> Query<'_> {
        Query { url: Some(URLS[0]), ..Query::new(model, jiff::Timestamp::UNIX_EPOCH) }
    }

    #[test]
    fn no_more_is_remembered_than_there_are_places_for_and_nothing_long() {
        let book = PriceBook::embedded();
        let memo = Memo::default();
        let find = || {
            book.catalogue.resolve(&Query::new("gpt-4o", jiff::Timestamp::UNIX_EPOCH)).map(|it| (book.catalogue, it))
        };
        let remembered =
            |memo: &Memo| memo.places.iter().filter(|place| place.lock().expect("no panic").is_some()).count();
        let long = "x".repeat(MAX_URL_LENGTH + 1);
        for query in
            [query(&long), Query { url: Some(&long), ..query("m") }, Query { provider: Some("openai"), ..query("m") }]
        {
            assert!(memo.listed(&query, find).is_ok());
            assert_eq!(remembered(&memo), 0);
        }
        for number in 0..4 * PLACES {
            let model = format!("m-{number}");
            assert!(memo.listed(&query(&model), find).is_ok());
        }
        assert!(remembered(&memo) > PLACES / 2);
    }

    #[test]
    fn what_was_found_is_not_looked_for_again() {
        let memo = Memo::default();
        let listed = |found| memo.listed(&query("gpt-4o"), || Err(found)).map(|_| ());
        assert_eq!(listed(Unpriced::SelfHosted), Err(Unpriced::SelfHosted));
        assert_eq!(listed(Unpriced::UnknownProvider), Err(Unpriced::SelfHosted));
    }
}
