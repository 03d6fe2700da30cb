//! OpenAI chat completions, as <https://api.openai.com/v1/chat/completions> answers.

use serde_json::{Value, json};

use super::{answer::Piece, plan::Plan};
use crate::Usage;

/// The answer's body: one piece, or the events of a stream.
pub(super) fn body(plan: &Plan, created: u64) -> Vec<Piece> {
    if plan.stream { stream(plan, created) } else { whole(plan, created) }
}

/// An error's body.
pub(super) fn error(status: u16, message: &str) -> Value {
    let (kind, code) = match status {
        401 => ("invalid_request_error", json!("invalid_api_key")),
        404 => ("invalid_request_error", json!("not_found")),
        429 => ("tokens", json!("rate_limit_exceeded")),
        500.. => ("server_error", Value::Null),
        _ => ("invalid_request_error", Value::Null),
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

fn whole(plan: &Plan, created: u64) -> Vec<Piece> {
    let message = if plan.tool_call {
        json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            {"id": tool_id(plan), "type": "function", "function": {"name": "search", "arguments": arguments(plan)}},
        ]})
    } else {
        json!({"role": "assistant", "content": plan.text(), "refusal": null, "annotations": []})
    };
    let mut answer = json!({
        "id": plan.id, "object": "chat.completion", "created": created, "model": plan.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish_reason(plan)}],
        "usage": usage(&plan.usage), "service_tier": "default", "system_fingerprint": "fp_44709d6fcb",
    });
    if !plan.report_usage {
        answer.as_object_mut().map(|answer| answer.remove("usage"));
    }
    let text = format!("{answer:#}\n");
    vec![Piece { chunks: 1, billed: Some(plan.usage), ..Piece::last(text) }]
}

fn stream(plan: &Plan, created: u64) -> Vec<Piece> {
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": plan.id, "object": "chat.completion.chunk", "created": created, "model": plan.model,
            "service_tier": "default", "system_fingerprint": "fp_44709d6fcb", "choices": choices,
        });
        if plan.report_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        Piece::new(format!("data: {chunk}\n\n"))
    };
    let delta = |delta: Value, finish: Option<&str>| {
        chunk(json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]), None)
    };
    let opening = if plan.tool_call {
        json!({"role": "assistant", "content": null, "refusal": null, "tool_calls": [
            {"index": 0, "id": tool_id(plan), "type": "function", "function": {"name": "search", "arguments": ""}},
        ]})
    } else {
        json!({"role": "assistant", "content": "", "refusal": null})
    };
    let mut pieces = vec![Piece { billed: Some(plan.billed_at_start()), ..delta(opening, None) }];
    let argument = |text: &str| json!({"tool_calls": [{"index": 0, "function": {"arguments": text}}]});
    if plan.tool_call {
        pieces.push(delta(argument(ARGUMENTS.0), None));
    }
    for (text, billed) in plan.chunks() {
        let content = if plan.tool_call { argument(&text) } else { json!({"content": text}) };
        pieces.push(Piece { chunks: 1, billed: Some(billed), ..delta(content, None) });
    }
    if plan.tool_call {
        pieces.push(delta(argument(ARGUMENTS.1), None));
    }
    pieces.push(Piece { billed: Some(plan.usage), ..delta(json!({}), Some(finish_reason(plan))) });
    if plan.report_usage {
        pieces.push(chunk(json!([]), Some(usage(&plan.usage))));
    }
    pieces.push(Piece::last("data: [DONE]\n\n"));
    pieces
}

/// What stands around the words when they are the arguments of a tool call.
const ARGUMENTS: (&str, &str) = ("{\"query\":\"", "\"}");

fn arguments(plan: &Plan) -> String {
    format!("{}{}{}", ARGUMENTS.0, plan.text(), ARGUMENTS.1)
}

fn tool_id(plan: &Plan) -> String {
    format!("call_{}", plan.random.clone().letters(24))
}

fn finish_reason(plan: &Plan) -> &'static str {
    match (plan.at_limit, plan.tool_call) {
        (true, _) => "length",
        (false, true) => "tool_calls",
        (false, false) => "stop",
    }
}

/// Here the details are parts of the totals.
fn usage(usage: &Usage) -> Value {
    let mut details = json!({"cached_tokens": usage.cache_read, "audio_tokens": 0});
    if usage.cache_write > 0 {
        details["cache_write_tokens"] = usage.cache_write.into();
    }
    json!({
        "prompt_tokens": usage.input_total(),
        "completion_tokens": usage.output_total(),
        "total_tokens": usage.input_total() + usage.output_total(),
        "prompt_tokens_details": details,
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}
