//! Gemini's `generateContent` and `streamGenerateContent` (as server-sent events, which all of its SDKs ask for).

use serde_json::{Value, json};

use super::{answer::Piece, plan::Plan};

/// What Gemini CLI's router takes for a decision; it asks for JSON before it asks the model.
const ROUTE: &str =
    r#"{"reasoning":"a test","model_choice":"flash","complexity_reasoning":"a test","complexity_score":10}"#;

/// The answer's body: one piece, or the events of a stream.
pub(super) fn body(plan: &Plan, request: &Value) -> Vec<Piece> {
    let wants_json = request["generationConfig"]["responseMimeType"] == "application/json";
    let text = if wants_json { ROUTE.to_owned() } else { plan.text() };
    if !plan.stream {
        let answer = answer(plan, &text, true);
        return vec![Piece { chunks: 1, billed: Some(plan.usage), ..Piece::last(answer.to_string()) }];
    }
    let event = |value: &Value| Piece::new(format!("data: {value}\r\n\r\n"));
    let mut pieces: Vec<Piece> = plan
        .chunks()
        .map(|(text, billed)| Piece { chunks: 1, billed: Some(billed), ..event(&answer(plan, &text, false)) })
        .collect();
    pieces.push(Piece { billed: Some(plan.usage), completes: true, ..event(&answer(plan, "", true)) });
    pieces
}

/// An error's body.
pub(super) fn error(status: u16, message: &str) -> Value {
    json!({"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT"}})
}

/// Cached input is part of the prompt's count; thoughts are beside the candidates'.
fn answer(plan: &Plan, text: &str, is_last: bool) -> Value {
    let usage = &plan.usage;
    let mut candidate = json!({"content": {"role": "model", "parts": [{"text": text}]}, "index": 0});
    let mut counts = json!({
        "promptTokenCount": usage.input_total(), "totalTokenCount": usage.input_total(),
        "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input_total()}],
    });
    if is_last {
        candidate["finishReason"] = "STOP".into();
        counts["candidatesTokenCount"] = usage.output_text.into();
        counts["totalTokenCount"] = (usage.input_total() + usage.output_total()).into();
        if usage.cache_read > 0 {
            counts["cachedContentTokenCount"] = usage.cache_read.into();
        }
        if usage.reasoning > 0 {
            counts["thoughtsTokenCount"] = usage.reasoning.into();
        }
    }
    json!({"candidates": [candidate], "usageMetadata": counts, "modelVersion": plan.model, "responseId": plan.id})
}
