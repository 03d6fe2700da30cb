//! OpenAI responses, as <https://api.openai.com/v1/responses> answers over HTTP, and on a WebSocket.

use serde_json::{Value, json};

use super::{answer::Piece, plan::Plan};
use crate::Usage;

/// The answer's body: one piece, or the events of a stream.
pub(super) fn body(plan: &Plan, created: u64) -> Vec<Piece> {
    if plan.stream {
        let frame = |(kind, event): (&str, Piece)| {
            let data = String::from_utf8_lossy(&event.bytes).into_owned();
            Piece { bytes: format!("event: {kind}\ndata: {data}\n\n").into(), ..event }
        };
        return events(plan, created).into_iter().map(frame).collect();
    }
    let answer = response(plan, created, "completed");
    vec![Piece { chunks: 1, billed: Some(plan.usage), ..Piece::last(answer.to_string()) }]
}

/// The events of a stream, each with its type; on a WebSocket each is a message.
pub(super) fn events(plan: &Plan, created: u64) -> Vec<(&'static str, Piece)> {
    let mut number = 0;
    let mut event = |kind: &'static str, mut data: Value| {
        data["type"] = kind.into();
        data["sequence_number"] = number.into();
        number += 1;
        (kind, Piece::new(data.to_string()))
    };
    let item =
        json!({"id": item_id(plan), "type": "message", "status": "in_progress", "role": "assistant", "content": []});
    let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []});
    let place = json!({"item_id": item_id(plan), "output_index": 0, "content_index": 0});
    let at = |name: &str, value: Value| {
        let mut data = place.clone();
        data[name] = value;
        data
    };
    let begun = response(plan, created, "in_progress");
    let mut pieces = vec![
        with(event("response.created", json!({"response": begun})), 0, plan.billed_at_start()),
        event("response.in_progress", json!({"response": begun})),
        event("response.output_item.added", json!({"output_index": 0, "item": item})),
        event("response.content_part.added", at("part", part(""))),
    ];
    for (text, billed) in plan.chunks() {
        let delta = event("response.output_text.delta", at("delta", text.into()));
        pieces.push(with(delta, 1, billed));
    }
    pieces.push(event("response.output_text.done", at("text", plan.text().into())));
    pieces.push(event("response.content_part.done", at("part", part(&plan.text()))));
    pieces.push(event("response.output_item.done", json!({"output_index": 0, "item": message(plan)})));
    let completed = event("response.completed", json!({"response": response(plan, created, "completed")}));
    let (kind, completed) = with(completed, 0, plan.usage);
    pieces.push((kind, Piece { completes: true, ..completed }));
    pieces
}

fn with((kind, event): (&'static str, Piece), chunks: u64, billed: Usage) -> (&'static str, Piece) {
    (kind, Piece { chunks, billed: Some(billed), ..event })
}

fn item_id(plan: &Plan) -> String {
    format!("msg_{}", plan.random.clone().letters(24))
}

fn message(plan: &Plan) -> Value {
    json!({
        "id": item_id(plan), "type": "message", "status": "completed", "role": "assistant",
        "content": [{"type": "output_text", "text": plan.text(), "annotations": [], "logprobs": []}],
    })
}

fn response(plan: &Plan, created: u64, status: &str) -> Value {
    let is_done = status == "completed";
    json!({
        "id": plan.id, "object": "response", "created_at": created, "status": status, "background": false,
        "error": null, "incomplete_details": null, "instructions": null, "max_output_tokens": null, "model": plan.model,
        "output": if is_done { json!([message(plan)]) } else { json!([]) },
        "parallel_tool_calls": true, "previous_response_id": null, "reasoning": {"effort": null, "summary": null},
        "service_tier": "default", "store": false, "temperature": 1.0, "text": {"format": {"type": "text"}},
        "tool_choice": "auto", "tools": [], "top_p": 1.0, "truncation": "disabled",
        "usage": if is_done { usage(&plan.usage) } else { Value::Null }, "user": null, "metadata": {},
    })
}

/// Here, too, the details are parts of the totals.
fn usage(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.input_total(), "input_tokens_details": {"cached_tokens": usage.cache_read},
        "output_tokens": usage.output_total(), "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input_total() + usage.output_total(),
    })
}
