//! Which price list holds for a call, and which row of it.
//!
//! In this order:
//!
//! 1. A provider that the caller names.
//! 2. The provider whose pattern the URL matches.
//! 3. A URL of nobody known, in plaintext and on this host's loopback (`http://localhost:8000`): a model server that
//!    someone runs here, or a proxy in front of a vendor. The first costs nothing by the token, and the second's own
//!    request, over TLS, is what costs: to price the hop to it too would charge twice. So it has no price, whatever
//!    the model is called.
//! 4. Any other URL of nobody known is a gateway, a proxy or a vendor's private name: base URLs point anywhere, and a
//!    cap has to hold there too. The model's name decides: `vendor/model`, if the catalogue knows the vendor; else the
//!    first provider that claims names of this form as its own (`gpt-…`, `claude…`). Names that nobody claims, as those
//!    of open models on a server of one's own, have no price. That the vendor is an inference is said by
//!    [`Evidence::ModelName`].
//!
//! Within a provider's list the first model whose rule matches holds, then the lists of those whose models it resells;
//! if none does, once more with dates in the other form.

use std::{
    borrow::Cow,
    collections::HashMap,
    net::IpAddr,
    sync::{PoisonError, RwLock},
};

use super::{
    Query, Unpriced,
    catalogue::{Catalogue, Model, Provider},
    matcher::{Folded, with_dashed_dates},
};

/// How the provider of a call is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Evidence {
    /// The caller named it.
    Named,
    /// The URL is its own.
    Url,
    /// The URL is nobody's; the model's name is of this provider's form.
    ModelName,
    /// No table has the call; an administrator has set its price.
    Configured,
}

/// A row of a price list, and who bills by it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Resolved<'c> {
    pub(super) provider: &'c Provider,
    /// Whose list the row is in: the provider's, or that of the one whose model it resells.
    pub(super) list: &'c Provider,
    pub(super) model: &'c Model,
    pub(super) evidence: Evidence,
}

impl Catalogue {
    /// The catalogue's id of the provider that a URL belongs to.
    pub fn provider_of_url(&self, url: &str) -> Option<&str> {
        self.provider_by_url(url).map(|index| &*self.providers[index].id)
    }

    /// The catalogue's id of the provider with this id or usual name.
    pub fn provider_id(&self, name: &str) -> Option<&str> {
        self.provider_by_id(name).map(|index| &*self.providers[index].id)
    }

    pub(super) fn resolve(&self, query: &Query<'_>) -> Result<Resolved<'_>, Unpriced<'_>> {
        let (provider, evidence) = if let Some(id) = query.provider {
            (Some(self.provider_by_id(id).ok_or(Unpriced::UnknownProvider)?), Evidence::Named)
        } else if let Some(index) = query.url.and_then(|url| self.provider_by_url(url)) {
            (Some(index), Evidence::Url)
        } else if query.url.is_some_and(is_plaintext_loopback) {
            return Err(Unpriced::SelfHosted);
        } else {
            (None, Evidence::ModelName)
        };
        let found = self.names.get_or_insert_with(provider, query.model, || match provider {
            Some(provider) => Found { provider: Some(provider), row: self.find_model(provider, query.model) },
            None => self.find_by_name(query.model),
        });
        let provider = &self.providers[found.provider.ok_or(Unpriced::UnknownProvider)?];
        let (list, model) = found.row.ok_or(Unpriced::UnknownModel { provider: &provider.id })?;
        let list = &self.providers[list];
        Ok(Resolved { provider, list, model: &list.models[model], evidence })
    }

    fn provider_by_url(&self, url: &str) -> Option<usize> {
        self.urls.matches(&canonical(url)).iter().next()
    }

    fn provider_by_id(&self, id: &str) -> Option<usize> {
        let id = Folded::new(id.trim());
        let is_meant = |provider: &Provider| provider.provider_match.as_ref().is_some_and(|rule| rule.is_match(&id));
        let exact = self.providers.iter().position(|provider| *provider.id == *id.as_str());
        exact.or_else(|| self.providers.iter().position(is_meant))
    }

    fn find_by_name(&self, model: &str) -> Found {
        let vendor = model.split_once('/').and_then(|(vendor, rest)| Some((self.provider_by_id(vendor)?, rest)));
        if let Some((provider, rest)) = vendor.filter(|_| !model.starts_with('/')) {
            return Found { provider: Some(provider), row: self.find_model(provider, rest) };
        }
        let name = Folded::new(model);
        let claims = |provider: &Provider| provider.model_match.as_ref().is_some_and(|rule| rule.is_match(&name));
        let provider = self.providers.iter().position(claims);
        Found { provider, row: provider.and_then(|provider| self.find_model(provider, model)) }
    }

    /// The list and the place in it of a provider's model.
    fn find_model(&self, provider: usize, model: &str) -> Option<(usize, usize)> {
        let name = Folded::new(model);
        let find = |name: &Folded| {
            let lists = std::iter::once(&provider).chain(&self.providers[provider].fallbacks);
            lists.copied().find_map(|list| {
                let models = &self.providers[list].models;
                Some((list, models.iter().position(|model| model.matcher.is_match(name))?))
            })
        };
        find(&name).or_else(|| find(&Folded::new(&with_dashed_dates(name.as_str())?)))
    }
}

/// The URL as the patterns expect it: without query, with scheme and host in lower case and no redundant port.
fn canonical(url: &str) -> Cow<'_, str> {
    let url = &url[..url.find(['?', '#']).unwrap_or(url.len())];
    let Some((scheme, rest)) = url.split_once("://") else { return Cow::Borrowed(url) };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let port = if scheme.eq_ignore_ascii_case("https") { ":443" } else { ":80" };
    let has_capitals = scheme.bytes().chain(authority.bytes()).any(|byte| byte.is_ascii_uppercase());
    match authority.strip_suffix(port) {
        None if !has_capitals => Cow::Borrowed(url),
        stripped => {
            let mut canonical = format!("{scheme}://{}", stripped.unwrap_or(authority)).to_ascii_lowercase();
            canonical.push_str(path);
            Cow::Owned(canonical)
        }
    }
}

/// Whether a URL is of plaintext HTTP on this host (RFC 6761 section 6.3, RFC 1122 section 3.2.1.3, RFC 4291 section
/// 2.5.3).
fn is_plaintext_loopback(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return false };
    if !scheme.eq_ignore_ascii_case("http") {
        return false;
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or(bracketed),
        None => authority.split(':').next().unwrap_or(authority),
    };
    let last_label = host.trim_end_matches('.').rsplit('.').next().unwrap_or(host);
    match host.parse::<IpAddr>() {
        // To connect to the unspecified address reaches this host too.
        Ok(address) => address.to_canonical().is_loopback() || address.is_unspecified(),
        Err(_) => last_label.eq_ignore_ascii_case("localhost"),
    }
}

/// What a name was found to be: places in the catalogue, so that it can be remembered.
#[derive(Debug, Clone, Copy)]
struct Found {
    provider: Option<usize>,
    row: Option<(usize, usize)>,
}

/// Remembers what names were found to be: the rules are tried one after the other, up to a thousand of them, and a
/// process asks for the same few models again and again.
#[derive(Debug)]
pub(super) struct NameCache {
    /// One table per provider, and one for names that are to tell the provider.
    tables: Box<[RwLock<Names>]>,
}

type Names = HashMap<Box<str>, Found>;

/// Names come from the processes that are watched: no more than this is remembered per table, and no longer names.
const MAX_NAMES: usize = 1024;
const MAX_NAME_LENGTH: usize = 128;

impl NameCache {
    pub(super) fn new(providers: usize) -> Self {
        Self { tables: (0..=providers).map(|_| RwLock::default()).collect() }
    }

    fn get_or_insert_with(&self, provider: Option<usize>, name: &str, find: impl FnOnce() -> Found) -> Found {
        let table = &self.tables[provider.unwrap_or(self.tables.len() - 1)];
        // A panic elsewhere cannot leave a table half changed.
        if let Some(&found) = table.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return found;
        }
        let found = find();
        if name.len() <= MAX_NAME_LENGTH {
            let mut table = table.write().unwrap_or_else(PoisonError::into_inner);
            if table.len() >= MAX_NAMES {
                table.clear();
            }
            table.insert(name.into(), found);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `provider list/model evidence`, or why there is none.
    fn resolve(provider: Option<&str>, url: Option<&str>, model: &str) -> String {
        let query = Query { provider, url, ..Query::new(model, jiff::Timestamp::UNIX_EPOCH) };
        match Catalogue::embedded().resolve(&query) {
            Ok(it) => format!("{} {}/{} {:?}", it.provider.id, it.list.id, it.model.id, it.evidence),
            Err(why) => format!("{why:?}"),
        }
    }

    fn at(url: &str, model: &str) -> String {
        resolve(None, Some(url), model)
    }

    #[test]
    fn a_url_tells_its_provider() {
        for (url, provider) in [
            ("https://api.openai.com/v1/chat/completions", "openai"),
            ("https://api.anthropic.com/v1/messages?beta=true", "anthropic"),
            ("HTTPS://API.OpenAI.com:443/v1/chat/completions", "openai"),
            ("https://bedrock-runtime.us-east-1.amazonaws.com:443/model/x/converse", "aws"),
            ("https://me.openai.azure.com/openai/deployments/d/chat/completions", "azure"),
            ("https://europe-west1-aiplatform.googleapis.com/v1/projects/p", "google"),
            ("https://router.huggingface.co/groq/openai/v1", "huggingface_groq"),
            ("https://api.cloudflare.com/client/v4/accounts/a/ai/run/@cf/m", "cloudflare"),
        ] {
            assert_eq!(Catalogue::embedded().provider_of_url(url), Some(provider), "{url}");
        }
        for url in ["https://example.com/https://api.openai.com/", "https://x.test/?h=.googleapis.com", "", "://", "?"]
        {
            assert_eq!(Catalogue::embedded().provider_of_url(url), None, "{url}");
        }
    }

    #[test]
    fn a_named_provider_goes_before_the_url() {
        let url = Some("https://api.openai.com/v1/messages");
        assert_eq!(resolve(Some("anthropic"), url, "claude-sonnet-4-5"), "anthropic anthropic/claude-sonnet-4-5 Named");
        assert_eq!(resolve(Some(" Vertex_AI "), None, "gemini-2.5-flash"), "google google/gemini-2.5-flash Named");
        assert_eq!(resolve(Some("nobody"), url, "gpt-4o"), "UnknownProvider");
    }

    #[test]
    fn resold_models_are_in_their_makers_list() {
        let azure = "https://me.openai.azure.com/openai/deployments/d/chat/completions";
        assert_eq!(at(azure, "gpt-35-turbo"), "azure openai/gpt-3.5-turbo Url");
    }

    #[test]
    fn compact_dates_are_tried_as_dashed_ones() {
        assert_eq!(at("https://api.openai.com/", "gpt-5.6-sol-20260301"), "openai openai/gpt-5.6-sol Url");
    }

    #[test]
    fn a_gateway_is_priced_by_the_name_of_the_model() {
        let gateway = "https://localhost:8443/v1/chat/completions";
        assert_eq!(at(gateway, "gpt-4o-mini"), "openai openai/gpt-4o-mini ModelName");
        assert_eq!(at(gateway, "claude-sonnet-4-5"), "anthropic anthropic/claude-sonnet-4-5 ModelName");
        assert_eq!(at(gateway, "anthropic/claude-sonnet-4-5"), "anthropic anthropic/claude-sonnet-4-5 ModelName");
        assert_eq!(at("http://gateway.corp:4000/v1", "gpt-4o-mini"), "openai openai/gpt-4o-mini ModelName");
        assert_eq!(resolve(None, None, "gpt-4o-mini"), "openai openai/gpt-4o-mini ModelName");
        assert_eq!(at(gateway, "gpt-none"), r#"UnknownModel { provider: "openai" }"#);
        for model in ["llama3", "meta-llama/Llama-3.2-1B-Instruct", "facebook/opt-125m", "", "/", "a/"] {
            assert_eq!(at(gateway, model), "UnknownProvider", "{model}");
        }
    }

    #[test]
    fn plaintext_on_loopback_has_no_price() {
        for host in
            ["localhost:5002", "LOCALHOST", "api.localhost:1", "127.0.0.1:11434", "127.9.9.9", "[::1]:80", "0.0.0.0"]
        {
            assert_eq!(at(&format!("http://{host}/v1/chat/completions"), "gpt-3.5-turbo"), "SelfHosted", "{host}");
        }
        for url in ["http://localhost.example.com/", "http://10.0.0.1:8000/", "https://127.0.0.1/", "http:localhost"] {
            assert!(!is_plaintext_loopback(url), "{url}");
        }
    }

    #[test]
    fn the_cache_stays_small_and_right() {
        let catalogue = Catalogue::parse(include_str!("../../prices/genai-prices/catalogue.json")).unwrap();
        let find = |model: &str| {
            let query = Query { provider: Some("openai"), ..Query::new(model, jiff::Timestamp::UNIX_EPOCH) };
            catalogue.resolve(&query).map(|found| &*found.model.id).ok()
        };
        for n in 0..3 * MAX_NAMES {
            assert_eq!(find(&format!("none-{n}")), None);
        }
        assert_eq!(find(&"x".repeat(1 << 20)), None);
        assert!(catalogue.names.tables.iter().all(|table| table.read().unwrap().len() <= MAX_NAMES));
        for _ in 0..2 {
            assert_eq!(find("gpt-4o"), Some("gpt-4o"));
        }
    }
}
