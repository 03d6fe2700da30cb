//! Text Generation Inference of Hugging Face: its own API. (It speaks OpenAI's too.)
//!
//! Source: the API reference of Text Generation Inference and recorded traffic.

use super::{
    dialect::{Dialect, Purpose, Report},
    json::Node,
    usage::{Bucket, Usage},
};
use crate::wire::Headers;

pub struct TextGeneration;

impl Dialect for TextGeneration {
    fn name(&self) -> &'static str {
        "huggingface-tgi"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        let is_generate = path.ends_with("/generate") || path.ends_with("/generate_stream");
        (method == "POST" && is_generate).then_some(Purpose::Generate)
    }

    fn asks(&self, request: &Node) -> bool {
        request.get("inputs").is_some()
    }

    /// Dedicated endpoints take requests at their root, so that only the answer tells what they are.
    fn head(&self, headers: &Headers, report: &mut Report) -> bool {
        let count = |name: &str| headers.get(name).and_then(|text| text.parse().ok());
        let (Some(input), Some(output)) = (count("x-prompt-tokens"), count("x-generated-tokens")) else { return false };
        let mut used = Usage::default();
        used.set(Bucket::InputUncached, input);
        used.set(Bucket::OutputText, output);
        (report.usage, report.is_final) = (Some(used), true);
        true
    }

    fn recognizes(&self, answer: &Node) -> bool {
        answer.path(&["details", "generated_tokens"]).is_some()
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        let Some(details) = answer.get("details").filter(|_| report.usage.is_none()) else { return };
        let Some(output) = details.get("generated_tokens").and_then(Node::count) else { return };
        let input = details.get("input_length").and_then(Node::count);
        let mut used = Usage::default();
        used.set(Bucket::InputUncached, input.unwrap_or(0));
        used.set(Bucket::OutputText, output);
        report.usage = Some(used);
        // Without the length of its input the figures are but half of them, and the rest is estimated.
        report.is_final = input.is_some();
    }

    fn message(&self, message: &Node, report: &mut Report) {
        self.document(message, report);
    }

    fn has_text(&self, _event: Option<&str>) -> bool {
        true
    }
}
