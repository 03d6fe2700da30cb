//! Ollama's own API. (It speaks OpenAI's too.)
//!
//! Source: `docs/api.md` of Ollama and recorded traffic.

use super::{
    dialect::{Dialect, Purpose, Report},
    json::Node,
    usage::{Bucket, Usage},
};

pub struct Ollama;

impl Dialect for Ollama {
    fn name(&self) -> &'static str {
        "ollama"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        let ends_with = |suffix: &str| method == "POST" && path.ends_with(suffix);
        if ends_with("/api/chat") || ends_with("/api/generate") {
            return Some(Purpose::Generate);
        }
        (ends_with("/api/embed") || ends_with("/api/embeddings")).then_some(Purpose::Embed)
    }

    fn recognizes(&self, answer: &Node) -> bool {
        answer.get("model").is_some()
            && matches!(answer.get("done"), Some(Node::Bool(_)))
            && (answer.get("message").is_some() || answer.get("response").is_some())
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        Report::set_text(&mut report.model, answer.get("model"));
        let (input, output) = (answer.get("prompt_eval_count"), answer.get("eval_count"));
        let (input, output) = (input.and_then(Node::count), output.and_then(Node::count));
        if input.is_none() && output.is_none() {
            return;
        }
        let mut used = Usage::default();
        used.set(Bucket::InputUncached, input.unwrap_or(0));
        used.set(Bucket::OutputText, output.unwrap_or(0));
        report.usage = Some(used);
        // A prompt that the server still has in its cache is not counted at all, and nobody says how long it was.
        report.is_partial = input.is_none();
        report.is_final = true;
    }

    fn message(&self, message: &Node, report: &mut Report) {
        self.document(message, report);
    }

    fn frames_prompt(&self, request: &Node) -> bool {
        request.get("prompt").is_some() && !request.get("raw").is_some_and(Node::is_true)
    }

    fn has_text(&self, _event: Option<&str>) -> bool {
        true
    }
}
