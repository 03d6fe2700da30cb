//! Amazon Bedrock's Converse: JSON, or an AWS event stream. Its answers have no id and do not name the model.

use flate2::Crc;
use serde_json::{Value, json};

use super::{answer::Piece, plan::Plan};

/// The answer's body: one piece, or the messages of a stream.
pub(super) fn body(plan: &Plan) -> Vec<Piece> {
    if !plan.stream {
        let answer = json!({
            "metrics": {"latencyMs": 10}, "stopReason": "end_turn", "usage": usage(plan),
            "output": {"message": {"role": "assistant", "content": [{"text": plan.text()}]}},
        });
        return vec![Piece { chunks: 1, billed: Some(plan.usage), ..Piece::last(answer.to_string()) }];
    }
    let start = Piece::new(message("messageStart", &json!({"role": "assistant"})));
    let mut pieces = vec![Piece { billed: Some(plan.billed_at_start()), ..start }];
    for (text, billed) in plan.chunks() {
        let delta = message("contentBlockDelta", &json!({"contentBlockIndex": 0, "delta": {"text": text}}));
        pieces.push(Piece { chunks: 1, billed: Some(billed), ..Piece::new(delta) });
    }
    pieces.push(Piece::new(message("contentBlockStop", &json!({"contentBlockIndex": 0}))));
    pieces.push(Piece::new(message("messageStop", &json!({"stopReason": "end_turn"}))));
    let metadata = message("metadata", &json!({"metrics": {"latencyMs": 10}, "usage": usage(plan)}));
    pieces.push(Piece { billed: Some(plan.usage), ..Piece::last(metadata) });
    pieces
}

/// Cached input is beside the input.
fn usage(plan: &Plan) -> Value {
    let usage = &plan.usage;
    json!({
        "inputTokens": usage.input_uncached, "outputTokens": usage.output_total(),
        "totalTokens": usage.input_total() + usage.output_total(),
        "cacheReadInputTokens": usage.cache_read, "cacheWriteInputTokens": usage.cache_write_5m,
    })
}

/// A message of `application/vnd.amazon.eventstream`: lengths, their checksum, headers, payload, checksum of all.
fn message(event: &str, payload: &Value) -> Vec<u8> {
    let mut headers = Vec::new();
    for (name, value) in [(":event-type", event), (":content-type", "application/json"), (":message-type", "event")] {
        headers.push(u8::try_from(name.len()).expect("a short name"));
        headers.extend(name.as_bytes());
        headers.push(7); // a string
        headers.extend(u16::try_from(value.len()).expect("a short value").to_be_bytes());
        headers.extend(value.as_bytes());
    }
    let payload = payload.to_string();
    let length = |length: usize| u32::try_from(length).expect("a short message").to_be_bytes();
    let mut bytes = [length(16 + headers.len() + payload.len()), length(headers.len())].concat();
    bytes.extend(checksum(&bytes).to_be_bytes());
    bytes.extend(headers);
    bytes.extend(payload.as_bytes());
    bytes.extend(checksum(&bytes).to_be_bytes());
    bytes
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}
