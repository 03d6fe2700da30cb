//! Cohere: chat, generate, embed, rerank, classify, versions 1 and 2.
//!
//! Source: the Cohere API reference ("Chat", "Chat with Streaming", "Embed", "Rerank", "billed_units") and recorded traffic.

use super::{
    dialect::{Dialect, Purpose, Report},
    json::Node,
    usage::{Bucket, Unit, Usage},
};

pub struct Cohere;

impl Dialect for Cohere {
    fn name(&self) -> &'static str {
        "cohere"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        if method != "POST" {
            return None;
        }
        let (rest, verb) = path.rsplit_once('/')?;
        let is_versioned = rest.ends_with("/v1") || rest.ends_with("/v2");
        match verb {
            "chat" | "generate" | "summarize" if is_versioned => Some(Purpose::Generate),
            "embed" | "rerank" | "classify" if is_versioned => Some(Purpose::Embed),
            "tokenize" | "detokenize" if is_versioned => Some(Purpose::Free),
            "embed-jobs" if is_versioned => Some(Purpose::Other),
            _ => None,
        }
    }

    fn recognizes(&self, answer: &Node) -> bool {
        let kind = answer.get("type").or_else(|| answer.get("event_type")).and_then(Node::text).unwrap_or_default();
        billed(answer).is_some()
            || answer.get("generation_id").is_some()
            || matches!(kind, "message-start" | "message-end" | "stream-start" | "stream-end")
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        Report::set_text(&mut report.id, answer.get("response_id").or_else(|| answer.get("id")));
        if let Some(units) = billed(answer) {
            take_units(units, report);
            report.is_final = true;
        }
    }

    fn message(&self, message: &Node, report: &mut Report) {
        // Version 1 ends with the whole answer, version 2 with a delta.
        if let Some(response) = message.get("response") {
            return self.document(response, report);
        }
        Report::set_text(&mut report.id, message.get("id"));
        if let Some(delta) = message.get("delta") {
            self.document(delta, report);
        }
    }

    /// Version 1 has lines without names, the last of which has everything again.
    fn repeats(&self, payload: &[u8]) -> bool {
        // Within text the marks would be escaped.
        memchr::memmem::find(payload, b"\"stream-end\"").is_some()
    }

    fn has_text(&self, event: Option<&str>) -> bool {
        event.is_none_or(|event| event.ends_with("-delta"))
    }
}

/// What is billed, which is less than what was processed: Cohere's own prompt is free.
fn billed(answer: &Node) -> Option<&Node> {
    ["usage", "meta"].iter().find_map(|group| answer.path(&[group, "billed_units"]))
}

fn take_units(units: &Node, report: &mut Report) {
    let mut used = Usage::default();
    used.set(Bucket::InputUncached, units.count_of("input_tokens"));
    used.set(Bucket::InputImage, units.count_of("image_tokens"));
    used.set(Bucket::OutputText, units.count_of("output_tokens"));
    report.usage = Some(used);
    for (name, unit) in [("search_units", Unit::SearchUnits), ("classifications", Unit::Classifications)] {
        report.units.set(unit, units.count_of(name));
    }
}
