use super::{Catalogue, round, with_dashed_date};
use crate::{
    meter::{Bucket, Units, Usage},
    price::{Money, Price, Query, Quote, Unpriced},
};

fn ask(url: Option<&str>, model: &str, usage: &Usage, context: &[(&'static str, &str)], at: &str) -> Quote<'static> {
    let at = at.parse().expect("a time");
    Catalogue::embedded().quote(&Query { url, model, usage, units: &Units::new(), context, at })
}

fn price(url: Option<&str>, model: &str, usage: &Usage, context: &[(&'static str, &str)], at: &str) -> Price<'static> {
    match ask(url, model, usage, context, at) {
        Quote::Priced(price) => price,
        Quote::Unpriced(why) => panic!("{model} is unpriced: {why}"),
    }
}

fn usage(buckets: &[(Bucket, u64)]) -> Usage {
    let mut usage = Usage::default();
    for &(bucket, tokens) in buckets {
        usage.set(bucket, tokens);
    }
    usage
}

const NOW: &str = "2026-11-20T12:00:00Z";

#[test]
fn refinements_are_taken_out_of_what_they_refine() {
    let used = usage(&[
        (Bucket::InputUncached, 1000),
        (Bucket::CacheRead, 2000),
        (Bucket::CacheWrite5m, 300),
        (Bucket::OutputText, 10),
    ]);
    let price = price(Some("https://api.anthropic.com/v1/messages"), "claude-3-5-haiku-20241022", &used, &[], NOW);
    // Per million: input 0.8, read 0.08, write 1, output 4.
    assert_eq!(price.input.to_string(), "0.00126");
    assert_eq!(price.output.to_string(), "0.00004");
    assert_eq!((price.row.provider, price.row.model), ("anthropic", "claude-3-5-haiku-latest"));
}

#[test]
fn an_unknown_host_is_priced_by_the_maker_of_the_model_unless_it_is_plaintext() {
    let used = usage(&[(Bucket::InputUncached, 1_000_000)]);
    let by_maker = price(Some("https://localhost:8443/v1/chat/completions"), "gpt-4o-mini", &used, &[], NOW);
    assert_eq!((by_maker.row.provider, by_maker.total().to_string().as_str()), ("openai", "0.15"));
    let plain = ask(Some("http://localhost:8000/v1/chat/completions"), "gpt-4o-mini", &used, &[], NOW);
    assert_eq!(plain, Quote::Unpriced(Unpriced::SelfHosted));
}

#[test]
fn what_is_unknown_is_unpriced_and_never_free() {
    let used = usage(&[(Bucket::InputUncached, 10)]);
    assert_eq!(
        ask(Some("https://api.openai.com/v1"), "no-such-model", &used, &[], NOW),
        Quote::Unpriced(Unpriced::NoModel)
    );
    assert_eq!(ask(None, "no-such-model", &used, &[], NOW), Quote::Unpriced(Unpriced::NoProvider));
    assert_eq!(ask(None, "", &used, &[], NOW), Quote::Unpriced(Unpriced::Unnamed));
    let embedding = usage(&[(Bucket::InputUncached, 10), (Bucket::OutputText, 5)]);
    let price = price(Some("https://api.openai.com/v1/embeddings"), "text-embedding-3-small", &embedding, &[], NOW);
    assert_eq!(price.unpriced_components, ["output_tokens"]);
}

#[test]
fn a_price_variant_needs_its_context() {
    let used = usage(&[(Bucket::InputUncached, 1_000_000)]);
    let url = Some("https://api.anthropic.com/v1/messages");
    assert_eq!(price(url, "claude-fable-5", &used, &[], NOW).total().to_string(), "10");
    assert_eq!(price(url, "claude-fable-5", &used, &[("processing", "batch")], NOW).total().to_string(), "5");
    assert_eq!(
        price(url, "claude-fable-5", &used, &[("processing", "batch")], "2026-10-01T00:00:00Z").total().to_string(),
        "10"
    );
}

#[test]
fn rounds_half_to_even_pico_usd() {
    let unit = 10_i128.pow(12);
    for (sum, pico) in [(unit / 2, 0), (unit / 2 + 1, 1), (unit + unit / 2, 2), (unit - 1, 1), (5, 0)] {
        assert_eq!(round(sum), Money::from_pico_usd(pico), "{sum}");
    }
}

#[test]
fn compact_dates_are_read_as_dates_only() {
    assert_eq!(with_dashed_date("gpt-5.2-20251211").as_deref(), Some("gpt-5.2-2025-12-11"));
    assert_eq!(with_dashed_date("gpt-5.2-20251399"), None);
    assert_eq!(with_dashed_date("gpt-5.2"), None);
}
