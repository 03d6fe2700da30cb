mod agents;
mod providers;
mod rows;
mod sockets;
mod tools;

use insta::assert_json_snapshot;
use serde_json::json;

use super::{Meter, Metered};
use crate::wire::{Connection, Direction, End, Event, ExchangeId, Limits, Sink, StreamOffset, Unreadable};

/// Runs an exchange through the wire, as bytes, and meters it.
struct OneExchange {
    meter: Option<Meter>,
    metered: Option<Metered>,
}

impl Sink for OneExchange {
    fn event(&mut self, _: ExchangeId, event: Event<'_>) {
        match event {
            Event::Request(head) => self.meter = Some(Meter::new(head)),
            Event::End(end) => self.finish(end),
            _ => self.meter.as_mut().expect("a request comes first").on(&event),
        }
    }

    fn unreadable(&mut self, why: Unreadable) {
        panic!("{why}");
    }
}

impl OneExchange {
    fn finish(&mut self, end: End) {
        self.metered = self.meter.take().map(|meter| meter.finish(end));
    }
}

fn exchange(
    host: &str,
    path: &str,
    request: &serde_json::Value,
    content_type: &str,
    answer: &str,
) -> serde_json::Value {
    exchange_with_hole(host, path, request, content_type, answer, None)
}

fn exchange_with_hole(
    host: &str,
    path: &str,
    request: &serde_json::Value,
    content_type: &str,
    answer: &str,
    hole: Option<usize>,
) -> serde_json::Value {
    let mut sink = OneExchange { meter: None, metered: None };
    let mut connection = Connection::new(Limits::default());
    let body = request.to_string();
    let request = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    connection.push(Direction::Request, StreamOffset(0), request.as_bytes(), &mut sink);
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    match hole {
        None => connection.push(Direction::Response, StreamOffset(0), answer.as_bytes(), &mut sink),
        Some(at) => {
            connection.push(Direction::Response, StreamOffset(0), &answer.as_bytes()[..at], &mut sink);
            connection.push(Direction::Response, StreamOffset(at as u64 + 1), &answer.as_bytes()[at + 1..], &mut sink);
        }
    }
    connection.close(&mut sink);
    let metered = sink.metered.expect("an exchange");
    json!({
        "provider": metered.provider, "model": metered.model(), "id": metered.response_id, "stream": metered.stream,
        "usage": metered.usage, "units": metered.units, "basis": metered.basis, "billing": format!("{:?}", metered.billing),
        "tier": metered.service.tier,
    })
}

fn sse(events: &[serde_json::Value]) -> String {
    let events = events.iter().map(|event| {
        let kind = event["type"].as_str().map(|kind| format!("event: {kind}\n")).unwrap_or_default();
        format!("{kind}data: {event}\n\n")
    });
    events.collect()
}

const STREAM: &str = "text/event-stream; charset=utf-8";

#[test]
fn openai_chat_details_are_parts_of_the_totals() {
    let request = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]});
    let answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-2024-08-06", "service_tier": "priority",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
            "prompt_tokens_details": {"cached_tokens": 30, "audio_tokens": 5},
            "completion_tokens_details": {"reasoning_tokens": 20, "audio_tokens": 3, "accepted_prediction_tokens": 4},
        },
    });
    let metered =
        exchange("gateway.example", "/team/v1/chat/completions", &request, "application/json", &answer.to_string());
    assert_json_snapshot!(metered, @r#"
    {
      "basis": "measured",
      "billing": "Charge",
      "id": "chatcmpl-1",
      "model": "gpt-4o-2024-08-06",
      "provider": "openai",
      "stream": false,
      "tier": "priority",
      "units": {},
      "usage": {
        "cache_read": 30,
        "input_audio": 5,
        "input_uncached": 65,
        "output_audio": 3,
        "output_text": 27,
        "reasoning": 20
      }
    }
    "#);
}

fn chunk(content: &str, finish: Option<&str>, usage: Option<(u64, u64)>) -> serde_json::Value {
    let usage = usage.map(
        |(input, output)| json!({"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}),
    );
    json!({
        "id": "chatcmpl-2", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024-07-18",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}], "usage": usage,
    })
}

#[test]
fn a_stream_that_tells_its_usage_in_the_end_is_measured() {
    let request = json!({"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let mut last = chunk("", None, Some((9, 7)));
    last["choices"] = json!([]);
    let answer = sse(&[chunk("one", None, None), chunk(" two", Some("stop"), None), last]) + "data: [DONE]\n\n";
    let metered = exchange("localhost:8443", "/v1/chat/completions", &request, STREAM, &answer);
    assert_eq!(
        (&metered["basis"], &metered["usage"]),
        (&json!("measured"), &json!({"input_uncached": 9, "output_text": 7}))
    );
}

#[test]
fn growing_usage_is_measured_only_when_it_has_stopped_growing() {
    let request = json!({"model": "m", "stream": true, "messages": [{"role": "user", "content": "hi"}]});
    let growing = [chunk("one", None, Some((9, 1))), chunk(" two", None, Some((9, 2)))];
    let cut = exchange("vllm.example", "/v1/chat/completions", &request, STREAM, &sse(&growing));
    assert_eq!((&cut["basis"], &cut["usage"]["input_uncached"]), (&json!("estimated"), &json!(9)));
    let whole = sse(&growing) + &sse(&[chunk("", Some("stop"), Some((9, 3)))]) + "data: [DONE]\n\n";
    let whole = exchange("vllm.example", "/v1/chat/completions", &request, STREAM, &whole);
    assert_eq!(
        (&whole["basis"], &whole["usage"]),
        (&json!("measured"), &json!({"input_uncached": 9, "output_text": 3}))
    );
}

#[test]
fn a_stream_without_usage_is_estimated() {
    let request =
        json!({"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "Tell me a joke"}]});
    let answer = sse(&[chunk("Why did the", None, None), chunk(" chicken cross the road?", Some("stop"), None)])
        + "data: [DONE]\n\n";
    let metered = exchange("api.openai.com", "/v1/chat/completions", &request, STREAM, &answer);
    assert_eq!(
        (&metered["basis"], &metered["usage"]),
        (&json!("estimated"), &json!({"input_uncached": 11, "output_text": 8}))
    );
}

#[test]
fn who_counts_reasoning_beside_the_completion_is_told_by_the_total() {
    let request = json!({"model": "grok-4", "messages": []});
    let answer = json!({
        "id": "x", "object": "chat.completion", "model": "grok-4", "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45, "completion_tokens_details": {"reasoning_tokens": 30}},
    });
    let metered = exchange("api.x.ai", "/v1/chat/completions", &request, "application/json", &answer.to_string());
    assert_eq!(metered["usage"], json!({"input_uncached": 10, "output_text": 5, "reasoning": 30}));
}

fn anthropic_stream() -> Vec<serde_json::Value> {
    vec![
        json!({"type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5-20250929", "content": [],
            "usage": {
                "input_tokens": 25, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 300,
                "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
                "output_tokens": 1, "service_tier": "standard",
            },
        }}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello there, how are you?"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {
            "input_tokens": 25, "cache_read_input_tokens": 1000, "cache_creation_input_tokens": 300, "output_tokens": 15,
            "output_tokens_details": {"thinking_tokens": 4}, "server_tool_use": {"web_search_requests": 2},
        }}),
        json!({"type": "message_stop"}),
    ]
}

fn ask_anthropic() -> serde_json::Value {
    json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "stream": true, "messages": [{"role": "user", "content": "hi"}]})
}

#[test]
fn anthropic_streams_are_cumulative_and_keep_what_is_not_said_again() {
    let metered = exchange("api.anthropic.com", "/v1/messages", &ask_anthropic(), STREAM, &sse(&anthropic_stream()));
    assert_json_snapshot!(metered, @r#"
    {
      "basis": "measured",
      "billing": "Charge",
      "id": "msg_1",
      "model": "claude-sonnet-4-5-20250929",
      "provider": "anthropic",
      "stream": true,
      "tier": "standard",
      "units": {
        "web_searches": 2
      },
      "usage": {
        "cache_read": 1000,
        "cache_write_1h": 200,
        "cache_write_5m": 100,
        "input_uncached": 25,
        "output_text": 11,
        "reasoning": 4
      }
    }
    "#);
}

#[test]
fn an_abandoned_anthropic_stream_is_charged_for_what_came() {
    let came = sse(&anthropic_stream()[..4]);
    let metered = exchange("proxy.example", "/anthropic/v1/messages", &ask_anthropic(), STREAM, &came);
    assert_eq!((&metered["basis"], &metered["usage"]["input_uncached"]), (&json!("estimated"), &json!(25)));
    // More than was announced, and about what the text has.
    let output = metered["usage"]["output_text"].as_u64().expect("a count");
    assert!((8..=12).contains(&output), "{output}");
}

#[test]
fn any_lost_byte_of_the_answer_is_marked() {
    let answer = sse(&anthropic_stream());
    for at in 120..answer.len() {
        let metered =
            exchange_with_hole("api.anthropic.com", "/v1/messages", &ask_anthropic(), STREAM, &answer, Some(at));
        assert!(metered["basis"] == "floor", "a byte lost at {at}: {metered}");
    }
}

#[test]
fn what_is_free_is_free() {
    let request = json!({"model": "claude-sonnet-4-5", "messages": []});
    let counted = exchange(
        "api.anthropic.com",
        "/v1/messages/count_tokens",
        &request,
        "application/json",
        r#"{"input_tokens": 101}"#,
    );
    assert_eq!((&counted["basis"], &counted["billing"]), (&json!("none"), &json!("Free")));
    let refused = r#"{"error": {"type": "overloaded_error", "message": "Overloaded"}}"#;
    let refused = exchange("api.anthropic.com", "/v1/messages", &request, "application/json", refused);
    assert_eq!((&refused["basis"], &refused["billing"]), (&json!("none"), &json!("Free")));
    let other = exchange(
        "telemetry.example",
        "/v1/events",
        &json!({"content": "much text"}),
        "application/json",
        r#"{"ok": true}"#,
    );
    assert_eq!((&other["basis"], &other["billing"]), (&json!("none"), &json!("Free")));
}

#[test]
fn an_api_that_is_not_read_yet_is_unknown_and_not_free() {
    let request = json!({"inputText": "hi"});
    let path = "/flows/a/aliases/b";
    let host = "bedrock-agent-runtime.us-east-1.amazonaws.com";
    let metered = exchange(host, path, &request, "application/vnd.amazon.eventstream", "...");
    assert_eq!((&metered["basis"], &metered["billing"]), (&json!("floor"), &json!("Unknown")));
}

#[test]
fn openrouter_reports_its_own_price() {
    let request = json!({"model": "openai/gpt-4o", "messages": []});
    let answer = json!({
        "id": "gen-1", "object": "chat.completion", "model": "openai/gpt-4o", "choices": [],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cost": 0.000075},
    });
    let metered =
        exchange("openrouter.ai", "/api/v1/chat/completions", &request, "application/json", &answer.to_string());
    assert_eq!(metered["basis"], json!("provider"));
}
