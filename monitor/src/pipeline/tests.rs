//! What a charge says of money that is not in the catalogue.

use jiff::SignedDuration;

use super::*;

const START: &str = "2026-11-20T12:00:00Z";

/// One exchange over a connection: the request at once, the answer 1800 ms later.
fn exchange(book: &'static PriceBook, scheme: &'static str, host: &str, model: &str) -> (Vec<Option<Money>>, Charge) {
    let body = format!(r#"{{"model": "{model}", "messages": [{{"role": "user", "content": "hello"}}]}}"#);
    let request =
        format!("POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let body = format!(
        r#"{{"id": "1", "object": "chat.completion", "model": "{model}", "choices": [],
            "usage": {{"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100{COST}}}}}"#,
        COST = if host == "openrouter.ai" { r#", "cost": 0.5"# } else { "" }
    );
    let response =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let start: Timestamp = START.parse().unwrap();
    let mut pipeline = Pipeline::new(book, scheme);
    let (mut counted, mut charge) = (Vec::new(), None);
    let mut take = |step: Step| match step {
        Step::Asked { call, .. } => counted.push(call.and_then(|call| call.least)),
        Step::Running { cost, .. } => counted.push(Some(cost)),
        Step::Finished { charge: it, .. } => charge = Some(*it),
        Step::Started { .. } | Step::Passed | Step::Unreadable(_) => {}
    };
    pipeline.push(Direction::Request, StreamOffset(0), request.as_bytes(), start, &mut take);
    let later = start + SignedDuration::from_millis(1800);
    pipeline.push(Direction::Response, StreamOffset(0), response.as_bytes(), later, &mut take);
    pipeline.close(later, &mut take);
    (counted, charge.expect("the exchange has ended"))
}

fn book(config: &str) -> &'static PriceBook {
    let config: crate::config::Price = toml::from_str(config).unwrap();
    let (catalogue, ceiling) = (crate::price::Catalogue::embedded(), config.unpriced_ceiling.ceiling());
    Box::leak(Box::new(PriceBook::new(catalogue, None, config.overrides, ceiling)))
}

fn usd(amount: Option<Money>) -> Option<String> {
    amount.map(|amount| amount.to_string())
}

#[test]
fn an_unpriced_call_counts_the_ceiling_and_has_no_cost() {
    let (counted, charge) = exchange(book(""), "https", "api.openai.com", "gpt-none");
    assert_eq!((charge.cost, charge.row.as_ref()), (None, None));
    // 1000 × $15 and 100 × $75, per million.
    assert_eq!(usd(charge.ceiling).as_deref(), Some("0.0225"));
    assert!(counted[0].is_some_and(|least| Money::ZERO < least && least < charge.ceiling.unwrap()), "{counted:?}");

    let (counted, charge) = exchange(book("unpriced_ceiling = 'off'"), "https", "api.openai.com", "gpt-none");
    assert_eq!((charge.cost, charge.ceiling), (None, None));
    assert!(counted.iter().all(Option::is_none));
}

#[test]
fn a_server_of_ones_own_counts_nothing() {
    let (counted, charge) = exchange(book(""), "http", "127.0.0.1:8000", "llama3");
    assert_eq!((charge.cost, charge.ceiling), (None, None));
    assert!(counted.iter().all(Option::is_none), "{counted:?}");
}

#[test]
fn a_priced_call_needs_no_ceiling() {
    let (_, charge) = exchange(book(""), "https", "api.openai.com", "gpt-5");
    assert_eq!((usd(charge.cost).as_deref(), charge.ceiling), (Some("0.00225"), None));
}

#[test]
fn a_server_by_the_hour_costs_the_time_of_the_call() {
    let ours = book("[[override]]\nname = 'ours'\nhost = '127.0.0.1'\ngpus = 4\nusd_per_gpu_hour = '2.5'");
    let (_, charge) = exchange(ours, "http", "127.0.0.1:8000", "llama3");
    assert_eq!(usd(charge.cost).as_deref(), Some("0.005"));
    let row = charge.row.expect("a row");
    let hash = ours.overrides.iter().next().unwrap().hash();
    assert_eq!(
        serde_json::to_value(&row).unwrap(),
        serde_json::json!({
            "catalogue": "configuration", "provider": "127.0.0.1", "model": "*", "override": format!("ours@{hash}"),
        })
    );
}

/// What the row has no price for counts the ceiling on top of what it has one for.
#[test]
fn what_is_partly_priced_counts_the_rest() {
    let input_only = book("[[override]]\nname = 'x'\nper_million_tokens = { input = '2' }");
    let (_, charge) = exchange(input_only, "https", "api.openai.com", "gpt-5");
    assert_eq!(usd(charge.cost).as_deref(), Some("0.002"));
    assert_eq!(usd(charge.ceiling).as_deref(), Some("0.0095"));
    assert_eq!(charge.note.as_deref(), Some("no price for output_text"));
}

#[test]
fn an_override_goes_before_what_the_provider_reports() {
    let charge = |config: &str| exchange(book(config), "https", "openrouter.ai", "openai/gpt-5").1;
    let reported = charge("");
    assert_eq!((usd(reported.cost).as_deref(), reported.metered.basis), (Some("0.5"), Basis::Provider));
    let discounted = charge("[[override]]\nname = 'x'\nprovider = 'openrouter'\npercent = '-10'");
    assert_eq!((usd(discounted.cost).as_deref(), discounted.metered.basis), (Some("0.45"), Basis::Provider));
    assert!(discounted.row.is_some_and(|row| row.set.is_some()));
    let own = charge("[[override]]\nname = 'x'\nper_million_tokens = { input = '1', output = '2' }");
    assert_eq!((usd(own.cost).as_deref(), own.metered.basis), (Some("0.0012"), Basis::Measured));
}
