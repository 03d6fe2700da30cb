//! Anthropic messages, as <https://api.anthropic.com/v1/messages> answers.

use serde_json::{Value, json};

use super::{answer::Piece, plan::Plan, random::Random};
use crate::Usage;

/// The answer's body: one piece, or the events of a stream.
pub(super) fn body(plan: &Plan) -> Vec<Piece> {
    if plan.stream { stream(plan) } else { whole(plan) }
}

/// An error's body.
pub(super) fn error(status: u16, message: &str, request_id: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        500.. => "api_error",
        _ => "invalid_request_error",
    };
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id})
}

fn whole(plan: &Plan) -> Vec<Piece> {
    let content = if plan.tool_call {
        json!({"type": "tool_use", "id": tool_id(plan), "name": "search", "input": {"query": plan.text()}})
    } else {
        json!({"type": "text", "text": plan.text()})
    };
    let mut answer = message(plan, json!([content]), Some(stop_reason(plan)));
    if plan.report_usage {
        answer["usage"] = usage(&plan.usage);
    }
    vec![Piece { chunks: 1, billed: Some(plan.usage), ..Piece::last(answer.to_string()) }]
}

fn stream(plan: &Plan) -> Vec<Piece> {
    let mut random = plan.random.clone();
    let mut start = message(plan, json!([]), None);
    if plan.report_usage {
        // The count at the start is not 0 and not the final one: a meter may not add it.
        let said = Usage { output_text: random.within(1..=8), reasoning: 0, ..plan.usage };
        start["usage"] = usage(&said);
    }
    let block = if plan.tool_call {
        json!({"type": "tool_use", "id": tool_id(plan), "name": "search", "input": {}})
    } else {
        json!({"type": "text", "text": ""})
    };
    let mut pieces = vec![
        Piece {
            billed: Some(plan.billed_at_start()),
            ..event(&mut random, &json!({"type": "message_start", "message": start}))
        },
        event(&mut random, &json!({"type": "content_block_start", "index": 0, "content_block": block})),
        event(&mut random, &json!({"type": "ping"})),
    ];
    let mut delta =
        |delta: Value| event(&mut random, &json!({"type": "content_block_delta", "index": 0, "delta": delta}));
    let input = |text: &str| json!({"type": "input_json_delta", "partial_json": text});
    if plan.tool_call {
        pieces.push(delta(input("{\"query\":\"")));
    }
    for (text, billed) in plan.chunks() {
        let content = if plan.tool_call { input(&text) } else { json!({"type": "text_delta", "text": text}) };
        pieces.push(Piece { chunks: 1, billed: Some(billed), ..delta(content) });
    }
    if plan.tool_call {
        pieces.push(delta(input("\"}")));
    }
    pieces.push(event(&mut random, &json!({"type": "content_block_stop", "index": 0})));
    let mut end = json!({"type": "message_delta", "delta": {"stop_reason": stop_reason(plan), "stop_sequence": null}});
    if plan.report_usage {
        end["usage"] = final_usage(&plan.usage, &mut random);
    }
    pieces.push(Piece { billed: Some(plan.usage), ..event(&mut random, &end) });
    pieces.push(Piece { completes: true, ..event(&mut random, &json!({"type": "message_stop"})) });
    pieces
}

/// One event. The API pads its data with blanks, to hide the lengths of words.
fn event(random: &mut Random, data: &Value) -> Piece {
    let name = data["type"].as_str().unwrap_or_default();
    let mut text = data.to_string();
    text.pop();
    let blanks = usize::try_from(random.within(0..=14)).unwrap_or(0);
    Piece::new(format!("event: {name}\ndata: {text}{:blanks$}}}\n\n", ""))
}

fn message(plan: &Plan, content: Value, stop_reason: Option<&str>) -> Value {
    let mut message = json!({
        "model": plan.model, "id": plan.id, "type": "message", "role": "assistant",
        "stop_reason": stop_reason, "stop_sequence": null,
    });
    message["content"] = content;
    message
}

fn tool_id(plan: &Plan) -> String {
    format!("toolu_01{}", plan.random.clone().letters(22))
}

fn stop_reason(plan: &Plan) -> &'static str {
    match (plan.at_limit, plan.tool_call) {
        (true, _) => "max_tokens",
        (false, true) => "tool_use",
        (false, false) => "end_turn",
    }
}

/// Here `input_tokens` is without what the cache had a part in.
fn usage(usage: &Usage) -> Value {
    let mut said = json!({
        "input_tokens": usage.input_uncached,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m, "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.output_total(),
        "service_tier": "standard",
    });
    if usage.reasoning > 0 {
        said["output_tokens_details"] = json!({"thinking_tokens": usage.reasoning});
    }
    said
}

/// The cumulative usage at the end; at times only the output is told again.
fn final_usage(all: &Usage, random: &mut Random) -> Value {
    let mut said = usage(all);
    if let Some(said) = said.as_object_mut() {
        said.remove("cache_creation");
        said.remove("service_tier");
        if random.one_in(2) {
            said.retain(|field, _| field.starts_with("output_tokens"));
        }
    }
    said
}
