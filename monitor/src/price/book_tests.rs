//! What a configuration sets, as an administrator writes it.

use std::time::Duration;

use super::*;
use crate::{
    config,
    meter::{Bucket, Unit},
};

const NOON: &str = "2026-11-20T12:00:00Z";

fn config(text: &str) -> config::Price {
    toml::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn book(text: &str) -> PriceBook {
    let config = config(text);
    let fallback = config.fallback.then(Catalogue::embedded_fallback);
    PriceBook::new(Catalogue::embedded(), fallback, config.overrides, config.unpriced_ceiling.ceiling())
}

fn wrong(text: &str) -> String {
    toml::from_str::<config::Price>(text).expect_err(text).message().to_owned()
}

fn query<'a>(url: &'a str, model: &'a str) -> Query<'a> {
    Query { url: Some(url), ..Query::new(model, NOON.parse().unwrap()) }
}

fn usage(counts: &[(Bucket, u64)]) -> Usage {
    counts.iter().copied().collect()
}

const OPENAI: &str = "https://api.openai.com/v1/chat/completions";
const MILLION: u64 = 1_000_000;

/// Cost of a million uncached input tokens, and the override that says so.
fn input_price(book: &PriceBook, query: &Query<'_>) -> (String, String) {
    match book.rates(query) {
        Ok(rates) => {
            let cost = rates.cost(&usage(&[(Bucket::InputUncached, MILLION)])).to_string();
            (cost, rates.row().set.map_or("-", Override::name).to_owned())
        }
        Err(why) => (why.to_string(), String::new()),
    }
}

fn priced(usd: &str, by: &str) -> (String, String) {
    (usd.to_owned(), by.to_owned())
}

#[test]
fn the_most_specific_override_holds() {
    let book = book(
        r#"
        [[override]]
        name = "all"
        percent = "10"
        [[override]]
        name = "openai"
        provider = "openai"
        percent = "20"
        [[override]]
        name = "host"
        host = "*.openai.com"
        percent = "30"
        [[override]]
        name = "gpt-4o, once"
        model = "gpt-4o*"
        per_million_tokens = { input = "4" }
        [[override]]
        name = "gpt-4o"
        model = "gpt-4o*"
        per_million_tokens = { input = "3" }
        [[override]]
        name = "gpt-4o-mini"
        model = "GPT-4o-mini"
        per_million_tokens = { input = 2 }
        [[override]]
        name = "next year"
        model = "gpt-4o-mini"
        from = "2027-01-01"
        per_million_tokens = { input = "1" }
        [[override]]
        name = "batch"
        model = "gpt-4o-mini"
        service_tier = "batch"
        per_million_tokens = { input = "0.5" }
        "#,
    );
    let at = |url, model| input_price(&book, &query(url, model));
    assert_eq!(at(OPENAI, "gpt-4o-mini"), priced("2", "gpt-4o-mini"));
    // Two of the same kind: the one further down.
    assert_eq!(at(OPENAI, "gpt-4o"), priced("3", "gpt-4o"));
    assert_eq!(at(OPENAI, "gpt-5"), priced("1.625", "host"));
    assert_eq!(
        at("https://me.openai.azure.com/openai/deployments/d/chat/completions", "gpt-5"),
        priced("1.375", "all")
    );
    let by_name = Query { url: None, ..query("", "gpt-5") };
    assert_eq!(input_price(&book, &by_name), priced("1.5", "openai"));
    let next_year = Query { at: "2027-01-01T00:00:00Z".parse().unwrap(), ..query(OPENAI, "gpt-4o-mini") };
    assert_eq!(input_price(&book, &next_year), priced("1", "next year"));
    let batch =
        Query { service: Service { tier: Some("batch"), ..Service::default() }, ..query(OPENAI, "gpt-4o-mini") };
    assert_eq!(input_price(&book, &batch), priced("0.5", "batch"));
}

#[test]
fn tokens_of_a_contract_replace_those_of_the_table() {
    let book = book(
        r#"
        [[override]]
        name = "contract"
        provider = "anthropic"
        per_million_tokens = { input = "4", cache_read = "0.4", cache_write = "5", output = "20" }
        per_request = "0.001"
        "#,
    );
    let query = query("https://api.anthropic.com/v1/messages", "claude-sonnet-4-5");
    let rates = book.rates(&query).unwrap();
    let each = |bucket| rates.cost(&usage(&[(bucket, MILLION)])).to_string();
    let buckets =
        [Bucket::InputUncached, Bucket::CacheRead, Bucket::CacheWrite5m, Bucket::CacheWrite1h, Bucket::Reasoning];
    // Each with the fee for the call.
    assert_eq!(buckets.map(each), ["4.001", "0.401", "5.001", "5.001", "20.001"]);
    // Searches are not of the contract, and cost what they cost.
    let searches: Units = [(Unit::WebSearches, 2)].into_iter().collect();
    assert_eq!(rates.price(&Usage::ZERO, &searches).total.to_string(), "0.021");
    assert!(rates.row().to_string().starts_with("anthropic/claude-sonnet-4-5 (genai-prices 0.2.3, override contract@"));
}

#[test]
fn what_a_contract_does_not_name_has_no_price() {
    let book = book("[[override]]\nname = 'x'\nmodel = 'ours'\nper_million_tokens = { input = '1' }");
    let Quote::Priced(price) =
        book.quote(&query("https://models.corp/v1", "ours"), &usage(&[(Bucket::OutputText, 1)]), &Units::ZERO)
    else {
        panic!()
    };
    assert_eq!(price.unpriced_components, [Component::Tokens(Bucket::OutputText)]);
    assert_eq!((price.row.provider, price.row.model, price.row.catalogue), ("*", "ours", "configuration"));
}

#[test]
fn tiers_can_be_set() {
    let text = "[[override]]\nname = 'x'\nper_million_tokens = { input = { base = '1', tiers = [{ start = 1000, price = '2' }] } }";
    let book = book(text);
    let cost = |tokens| book.rates(&query(OPENAI, "gpt-5")).unwrap().cost(&usage(&[(Bucket::InputUncached, tokens)]));
    assert_eq!([1000, 1001].map(|tokens| cost(tokens).to_string()), ["0.001", "0.002002"]);
}

#[test]
fn a_percentage_is_of_tokens_alone_if_that_is_said() {
    let total = |percent_of: &str| {
        let book = book(&format!("[[override]]\nname = 'x'\npercent = '-50'\npercent_of = '{percent_of}'"));
        let query = query("https://api.anthropic.com/v1/messages", "claude-sonnet-4-5");
        let searches: Units = [(Unit::WebSearches, 1)].into_iter().collect();
        let Quote::Priced(price) = book.quote(&query, &usage(&[(Bucket::InputUncached, 100_000)]), &searches) else {
            panic!()
        };
        (price.tokens.to_string(), price.fees.to_string())
    };
    assert_eq!(total("everything"), priced("0.15", "0.005"));
    assert_eq!(total("tokens"), priced("0.15", "0.01"));
}

#[test]
fn a_provider_goes_by_its_usual_names() {
    let text = "[[override]]\nname = 'x'\nprovider = 'Bedrock'\npercent = '0'\n[[override]]\nname = 'y'\nprovider = 'bedrok'\npercent = '0'";
    let book = book(text);
    let url = "https://bedrock-runtime.us-east-1.amazonaws.com/model/x/converse";
    let rates = book.rates(&query(url, "amazon.nova-pro-v1:0")).unwrap();
    assert_eq!(rates.row().set.map(Override::name), Some("x"));
    assert_eq!(book.idle_overrides().map(Override::name).collect::<Vec<_>>(), ["y"]);
}

#[test]
fn a_percentage_of_nothing_is_no_price() {
    let book = book("[[override]]\nname = 'x'\npercent = '10'");
    assert!(matches!(book.rates(&query(OPENAI, "gpt-none")), Err(Unpriced::UnknownModel { provider: "openai" })));
    // And does not stand in the way of one, however specific it is.
    let text = "[[override]]\nname = 'x'\nmodel = 'ours'\npercent = '10'\n[[override]]\nname = 'y'\nper_million_tokens = { input = '1' }";
    assert_eq!(input_price(&self::book(text), &query("https://models.corp/v1", "ours")), priced("1", "y"));
}

#[test]
fn machines_cost_their_time() {
    let book = book("[[override]]\nname = 'ours'\nhost = 'localhost:8000'\ngpus = 4\nusd_per_gpu_hour = '2.5'");
    let call = Query { took: Some(Duration::from_millis(1800)), ..query("http://localhost:8000/v1", "llama3") };
    let tokens = usage(&[(Bucket::OutputText, MILLION)]);
    let Quote::Priced(price) = book.quote(&call, &tokens, &Units::ZERO) else { panic!() };
    assert_eq!((price.time.to_string(), price.total, price.tokens), ("0.005".into(), price.time, Money::ZERO));
    assert_eq!(price.unpriced_components, []);
    assert_eq!(book.rates(&call).unwrap().cost(&tokens), price.total);
    // Seconds that are no whole number of anything: rounded once.
    let third = Query { took: Some(Duration::from_nanos(333_333_333)), ..call };
    assert_eq!(book.rates(&third).unwrap().cost(&tokens).to_string(), "0.000925925925");
    // Not knowing the time is not the same as no time.
    let Quote::Priced(price) = book.quote(&Query { took: None, ..call }, &tokens, &Units::ZERO) else { panic!() };
    assert_eq!((price.total, price.unpriced_components), (Money::ZERO, vec![Component::MachineTime]));
    // Another port is another server, and has no price.
    let other = query("http://localhost:8001/v1", "llama3");
    assert!(matches!(book.rates(&other), Err(Unpriced::SelfHosted)));
}

#[test]
fn what_makes_no_sense_is_said() {
    let set = |keys: &str| wrong(&format!("[[override]]\nname = 'x'\n{keys}"));
    for (keys, message) in [
        ("", "price.override `x`: it sets no price"),
        ("percent = 1.5", "write 1.5 in quotes, \"1.5\""),
        ("per_million_tokens = { input = 2.5 }", "write 2.5 in quotes"),
        ("percent = '1e3'", "`1e3` is not a decimal number"),
        ("percent = '-100.5'", "is not between -100 and 999900"),
        ("percent = '0.00001'", "has more than four decimals"),
        ("percent_of = 'tokens'", "`percent_of` needs `percent`"),
        ("per_million_tokens = { inptu = '1' }", "`per_million_tokens.inptu` is no kind of token"),
        ("per_million_tokens = { input = '-1' }", "`per_million_tokens.input` is negative"),
        ("per_unit = { wishes = '1' }", "`per_unit.wishes` is no unit"),
        ("per_request = '1'\nper_unit = { requests = '1' }", "are the same"),
        ("gpus = 2", "`gpus` needs `usd_per_gpu_hour`"),
        ("usd_per_gpu_hour = '1'\nper_request = '1'", "not by both"),
        ("usd_per_gpu_hour = '-1'", "must be positive"),
        ("percent = '1'\nmodel = ''", "names nothing"),
        ("percent = '1'\nfrom = '2026-01-02'\nuntil = '2026-01-02'", "ends before it begins"),
        ("percent = '1'\nfrom = 2026-01-02", "write the date in quotes"),
        ("percent = '1'\nfrom = 'soon'", "a day"),
        ("pecrent = '1'", "unknown field `pecrent`"),
    ] {
        let said = set(keys);
        assert!(said.contains(message), "{keys}: {said}");
    }
    let twice = "[[override]]\nname = 'x'\npercent = '1'\n[[override]]\nname = 'x'\npercent = '2'";
    assert!(wrong(twice).contains("has the name `x` twice"));
    assert!(wrong("[[override]]\npercent = '1'").contains("missing field `name`"));
}

#[test]
fn the_hash_is_of_what_is_set() {
    let hash = |keys: &str| {
        let config = config(&format!("[[override]]\nname = 'x'\n{keys}"));
        config.overrides.iter().next().unwrap().hash().to_owned()
    };
    assert_eq!(hash("percent = '1'\nmodel = 'm'"), hash("model = 'm'   # the same\npercent = '1'"));
    assert_ne!(hash("percent = '1'"), hash("percent = '2'"));
    assert_eq!(hash("percent = '1'").len(), 12);
}

/// A model of the fallback table at a provider that the catalogue knows, and one at a provider that it does not.
#[test]
fn the_fallback_table_is_for_what_the_catalogue_lacks() {
    let with = book("");
    let without = book("fallback = false");
    for (url, model, provider) in [
        ("https://bedrock-runtime.us-east-1.amazonaws.com/model/x/converse", "ai21.j2-mid-v1", "aws"),
        ("https://api.sambanova.ai/v1/chat/completions", "DeepSeek-V3.1", "sambanova"),
        ("https://gateway.corp/v1/chat/completions", "sambanova/DeepSeek-V3.1", "sambanova"),
        ("https://gateway.corp/v1/chat/completions", "gpt-5-search-api-2025-10-14", "openai"),
    ] {
        let row = with.rates(&query(url, model)).unwrap_or_else(|why| panic!("{model}: {why}")).row();
        assert_eq!((row.provider, row.catalogue), (provider, Catalogue::embedded_fallback().version()), "{model}");
        assert!(without.rates(&query(url, model)).is_err(), "{model}");
    }
    let known = with.rates(&query(OPENAI, "gpt-5")).unwrap().row();
    assert_eq!(known.catalogue, Catalogue::embedded().version());
    // One's own server is nobody's, whatever the model is called.
    assert!(matches!(
        with.rates(&query("http://127.0.0.1:8000/v1", "sambanova/DeepSeek-V3.1")),
        Err(Unpriced::SelfHosted)
    ));
    // A reseller's price is not that of the maker.
    assert!(with.rates(&query("https://openrouter.ai/api/v1", "sambanova/DeepSeek-V3.1")).is_err());
}

/// What `cargo xtask prices` leaves out: the table is for what the catalogue lacks, and nobody looks into it for the rest.
#[test]
fn the_fallback_table_has_nothing_that_the_catalogue_has() {
    let (catalogue, fallback) = (Catalogue::embedded(), Catalogue::embedded_fallback());
    for provider in &fallback.providers {
        for model in &provider.models {
            let query = Query { provider: Some(&provider.id), ..Query::new(&model.id, NOON.parse().unwrap()) };
            assert!(catalogue.rates(&query).is_err(), "{}/{}", provider.id, model.id);
        }
    }
}

#[test]
fn the_ceiling_is_for_what_others_bill() {
    let used = usage(&[(Bucket::InputUncached, 1000), (Bucket::OutputText, 1000)]);
    let unknown = Unpriced::UnknownModel { provider: "openai" };
    assert_eq!(book("").ceiling(unknown, &used).unwrap().to_string(), "0.09");
    assert_eq!(book("").ceiling(Unpriced::UnknownProvider, &used).unwrap().to_string(), "0.09");
    assert_eq!(book("").ceiling(Unpriced::SelfHosted, &used), None);
    assert_eq!(book("unpriced_ceiling = 'off'").ceiling(unknown, &used), None);
}

#[test]
fn an_explanation_names_what_holds_and_what_does_not() {
    let book = book(
        "[[override]]\nname = 'all'\npercent = '10'\n[[override]]\nname = 'gpt'\nmodel = 'gpt-5'\npercent = '-10'",
    );
    let explained = book.explain(&query(OPENAI, "gpt-5"));
    let holding = explained.candidates.iter().filter(|it| it.holds).collect::<Vec<_>>();
    assert_eq!(holding.len(), 1);
    assert!(holding[0].source.starts_with("override gpt@"));
    let input = holding[0].prices.iter().find(|line| line.what == "input_uncached").unwrap();
    assert_eq!((input.usd.as_str(), input.per.as_str()), ("1.125", "1000000 tokens"));
    let why = explained.candidates.iter().map(|it| it.why.as_str()).collect::<Vec<_>>();
    assert!(why.contains(&"another override is more specific; a percentage on genai-prices 0.2.3"), "{why:?}");
    assert!(why.contains(&"an override is set") && why.contains(&"another provider: it holds for calls that go there"));
    // The maker's row has prices for kinds of service.
    let row = explained.candidates.iter().find(|it| it.why == "an override is set").unwrap();
    assert!(row.schedule.iter().any(|period| period.when.contains("flex")), "{:?}", row.schedule);

    let unknown = book.explain(&query(OPENAI, "gpt-none"));
    assert_eq!(unknown.unpriced.as_deref(), Some("openai's price list has no such model"));
    assert!(unknown.candidates.iter().all(|it| !it.holds));
}
