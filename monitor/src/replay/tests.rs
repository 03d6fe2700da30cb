use crate::meter::Unit;
use std::io::Write as _;

use base64::Engine as _;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Chunks, Line, replay};
use crate::meter::Basis;

const STREAM: &str = concat!(
    "event: message_start\n",
    r#"data: {"type": "message_start", "message": {"id": "msg_1", "type": "message", "model": "claude-sonnet-4-5", "usage": {"input_tokens": 25, "output_tokens": 1}}}"#,
    "\n\nevent: message_delta\n",
    r#"data: {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 15}}"#,
    "\n\n",
);

fn base64(text: &str) -> String {
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn fields(fields: &[(&str, &str)]) -> Value {
    fields.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// As in the corpus: bodies without transfer coding, in base64.
fn recorded() -> Value {
    let request = r#"{"model": "claude-sonnet-4-5", "max_tokens": 9, "messages": []}"#;
    json!({
        "id": "one", "startedDateTime": "2026-11-20T12:00:00Z",
        "request": {"method": "POST", "url": "https://api.anthropic.com/v1/messages", "body": base64(request),
            "headers": fields(&[("Content-Length", &request.len().to_string())])},
        "response": {"status": 200, "statusText": "OK", "body": base64(STREAM),
            "headers": fields(&[("Content-Type", "text/event-stream"), ("Transfer-Encoding", "chunked")])},
    })
}

fn lines_in(file: &str, content: &[u8], chunks: Chunks) -> Vec<Line> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(file);
    std::fs::write(&path, content).expect("a file");
    let mut lines = Vec::new();
    replay(&path, chunks, None, &mut |line| {
        lines.push(line);
        Ok(())
    })
    .expect("a recording");
    lines
}

fn lines(content: &[u8]) -> Vec<Line> {
    lines_in("a.jsonl", content, Chunks::Whole)
}

#[test]
fn a_line_has_the_documented_fields_in_their_order() {
    let lines = lines(recorded().to_string().as_bytes());
    insta::assert_snapshot!(serde_json::to_string(&lines[0]).expect("JSON"), @r#"{"id":"one","provider":"anthropic","model":"claude-sonnet-4-5","response_id":"msg_1","stream":true,"usage":{"input_uncached":25,"output_text":15},"units":{},"tokens_usd":"0.0003","cost_usd":"0.0003","basis":"measured","price_row":{"catalogue":"genai-prices 0.2.3","provider":"anthropic","model":"claude-sonnet-4-5"}}"#);
}

#[test]
fn every_line_gives_a_line_whatever_is_in_it() {
    let good = recorded().to_string();
    let mut content = Vec::new();
    for line in [good.as_bytes(), b"{\"id\": \"x\", bad", b"\xff\xfe{", b"[]", &good.as_bytes()[..100], good.as_bytes()]
    {
        content.extend_from_slice(line);
        content.push(b'\n');
    }
    let lines = lines(&content);
    let errors: Vec<bool> = lines.iter().map(|line| line.is_error).collect();
    assert_eq!(errors, [false, true, true, true, true, false]);
    assert_eq!(lines[2].id.as_deref(), Some("line 3"));
    assert!(lines.iter().filter(|line| line.is_error).all(|line| line.cost_usd.is_none() && line.basis == Basis::None));
}

#[test]
fn an_exchange_without_a_time_cannot_be_priced_and_says_so() {
    let mut exchange = recorded();
    exchange.as_object_mut().expect("a map").remove("startedDateTime");
    let lines = lines(exchange.to_string().as_bytes());
    assert!(lines[0].is_error && lines[0].note.as_deref().is_some_and(|note| note.contains("--at")));
}

#[test]
fn gzip_is_known_by_its_content() {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(recorded().to_string().as_bytes()).expect("room");
    let lines = lines(&gzip.finish().expect("room"));
    assert_eq!((lines.len(), lines[0].basis), (1, Basis::Measured));
}

#[test]
fn har_files_are_known_by_their_content_and_hold_text_or_base64() {
    let mut exchange = recorded();
    exchange["request"]["body"] = Value::Null;
    exchange["request"]["postData"] = json!({"text": r#"{"model": "claude-sonnet-4-5", "messages": []}"#});
    exchange["response"]["body"] = Value::Null;
    exchange["response"]["content"] = json!({"text": STREAM});
    // As browsers record it: decoded, with the fields of what was on the wire.
    exchange["response"]["headers"] =
        fields(&[("content-type", "text/event-stream"), ("content-encoding", "br"), ("content-length", "7")]);
    let mut encoded = exchange.clone();
    encoded["response"]["content"] = json!({"text": base64(STREAM), "encoding": "base64"});
    let har = json!({"log": {"version": "1.2", "entries": [exchange, {"broken": true}, encoded]}});
    for (file, content) in [("a.har", har.to_string()), ("a.json", format!("\u{feff}{har:#}"))] {
        let lines = lines_in(file, content.as_bytes(), Chunks::Whole);
        let seen: Vec<_> = lines.iter().map(|line| (line.is_error, line.usage.output_total())).collect();
        assert_eq!(seen, [(false, 15), (true, 0), (false, 15)], "{file}");
    }
}

#[test]
fn what_the_provider_charged_stands_beside_what_the_tokens_cost() {
    let mut exchange = recorded();
    exchange["request"]["url"] = "https://openrouter.ai/api/v1/chat/completions".into();
    exchange["response"]["headers"] = fields(&[("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]);
    let answer = r#"{"id": "g", "object": "chat.completion", "model": "openai/gpt-4o", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 5.4e-05}}"#;
    exchange["response"]["body"] = base64(answer).into();
    let line = lines(exchange.to_string().as_bytes()).remove(0);
    let usd = |amount: Option<crate::price::Money>| amount.map(|amount| amount.to_string());
    assert_eq!((usd(line.cost_usd), usd(line.tokens_usd)), (Some("0.000054".into()), Some("0.000075".into())));
    assert_eq!(line.basis, Basis::Provider);
}

#[test]
fn what_has_no_price_at_all_is_not_free() {
    let mut exchange = recorded();
    exchange["request"]["url"] = "https://api.openai.com/v1/audio/transcriptions".into();
    exchange["request"]["body"] = base64(r#"{"model": "gpt-4o"}"#).into();
    exchange["request"]["headers"] = fields(&[("Content-Length", "19")]);
    exchange["response"]["headers"] = fields(&[("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]);
    exchange["response"]["body"] = base64(r#"{"text": "hi", "usage": {"type": "duration", "seconds": 60}}"#).into();
    let line = lines(exchange.to_string().as_bytes()).remove(0);
    assert_eq!((line.cost_usd, line.units.get(Unit::InputAudioSeconds)), (None, 60));
    assert_eq!(line.note.as_deref(), Some("no price for input_audio_seconds"));
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(seed in any::<u64>()) {
        let content = recorded().to_string();
        let json = |chunks| serde_json::to_string(&lines_in("a.jsonl", content.as_bytes(), chunks)).expect("JSON");
        prop_assert_eq!(json(Chunks::Random(seed)), json(Chunks::Whole));
    }
}

/// Each answer of a batch has its own tier: Claude Sonnet 4.5 reads at $1.5 in batches, and at $3 above 200,000 tokens.
#[test]
fn results_of_a_batch_are_priced_as_the_calls_they_were() {
    let line = |tokens: u64| {
        let usage = json!({"input_tokens": tokens, "output_tokens": 0});
        let message = json!({"id": "m", "type": "message", "model": "claude-sonnet-4-5", "usage": usage});
        json!({"custom_id": "c", "result": {"type": "succeeded", "message": message}}).to_string() + "\n"
    };
    let cost = |sizes: &[u64]| {
        let body: String = sizes.iter().map(|&size| line(size)).collect();
        let recorded = json!({
            "id": "one", "startedDateTime": "2026-11-20T12:00:00Z",
            "request": {"method": "GET", "url": "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results", "headers": []},
            "response": {"status": 200, "statusText": "OK", "body": base64(&body), "headers": fields(&[
                ("Content-Type", "application/x-jsonl"), ("Content-Length", &body.len().to_string())])},
        });
        lines(recorded.to_string().as_bytes())[0].cost_usd.expect("a price").to_string()
    };
    assert_eq!(cost(&[150_000, 150_000]), "0.45");
    assert_eq!(cost(&[250_000]), "0.75");
    assert_eq!(cost(&[150_000, 250_000, 150_000]), "1.2");
}
