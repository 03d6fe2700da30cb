//! OpenAI: chat completions, completions, embeddings, responses and assistants' runs, and everybody who speaks like it (Azure, vLLM, DeepSeek, Groq,
//! OpenRouter, xAI, Together, …).
//!
//! Source: the API reference of OpenAI ("The chat completion object", "Streaming", "The response object") and recorded traffic.

use super::{
    dialect::{Dialect, Purpose, Report},
    json::Node,
    usage::{Bucket, Usage},
};

pub struct OpenAi;

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        let ends_with = |suffix: &str| path.ends_with(suffix);
        match method {
            "POST"
                if ["/chat/completions", "/completions", "/responses", "/runs"]
                    .iter()
                    .any(|suffix| ends_with(suffix)) =>
            {
                Some(Purpose::Generate)
            }
            "POST" if ends_with("/embeddings") => Some(Purpose::Embed),
            "POST" if ends_with("/responses/input_tokens") => Some(Purpose::Free),
            "GET" if path.contains("/responses/") || path.contains("/runs/") => Some(Purpose::Retrieve),
            "GET" if ends_with("/models") || path.contains("/models/") => Some(Purpose::Free),
            _ => None,
        }
    }

    fn recognizes(&self, answer: &Node) -> bool {
        let object = answer.get("object").and_then(Node::text).unwrap_or_default();
        let kind = answer.get("type").and_then(Node::text).unwrap_or_default();
        matches!(object, "chat.completion" | "chat.completion.chunk" | "text_completion" | "response" | "thread.run")
            || (object == "list" && answer.path(&["usage", "prompt_tokens"]).is_some())
            || kind.starts_with("response.")
            || (answer.get("choices").is_some() && answer.get("model").is_some())
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        Report::set_text(&mut report.model, answer.get("model"));
        Report::set_text(&mut report.id, answer.get("id"));
        Report::set_text(&mut report.service.tier, answer.get("service_tier"));
        let status = answer.get("status").and_then(Node::text).unwrap_or("completed");
        report.is_pending = matches!(status, "queued" | "in_progress");
        if let Some(usage) = answer.get("usage") {
            take_usage(usage, report);
            report.is_final = !report.is_pending;
        }
    }

    fn message(&self, message: &Node, report: &mut Report) {
        // Responses: the whole object in the events that end it (and, without usage, in the ones that begin it).
        if let Some(response) = message.get("response") {
            self.document(response, report);
            let kind = message.get("type").and_then(Node::text).unwrap_or_default();
            report.is_final = matches!(kind, "response.completed" | "response.incomplete" | "response.failed");
            return;
        }
        // Assistants: the run itself; its steps and messages repeat parts of it.
        match message.get("object").and_then(Node::text) {
            Some("thread.run") => return self.document(message, report),
            Some(object) if object.starts_with("thread.") => return,
            _ => {}
        }
        Report::set_text(&mut report.model, message.get("model"));
        Report::set_text(&mut report.id, message.get("id"));
        Report::set_text(&mut report.service.tier, message.get("service_tier"));
        // Groq reports beside the usual place, or there only.
        let usage = message.get("usage").or_else(|| message.path(&["x_groq", "usage"]));
        if let Some(usage) = usage {
            take_usage(usage, report);
        }
        // Usage may come with every chunk, growing. It is final with the end of the choices, or after it in a chunk without any.
        let choices = message.get("choices").map(Node::items).unwrap_or_default();
        let has_ended = choices.is_empty() || choices.iter().any(|choice| choice.get("finish_reason").is_some());
        if usage.is_some() && has_ended {
            report.is_final = true;
        }
    }

    fn has_text(&self, event: Option<&str>) -> bool {
        // Responses name their events, and repeat the text in those that end an item.
        event.is_none_or(|event| event.ends_with(".delta"))
    }
}

/// Details are parts of the totals: they are taken out of them.
fn take_usage(usage: &Node, report: &mut Report) {
    let (input, output) = (
        usage.get("prompt_tokens").or_else(|| usage.get("input_tokens")).and_then(Node::count),
        usage.get("completion_tokens").or_else(|| usage.get("output_tokens")).and_then(Node::count),
    );
    if input.is_none() && output.is_none() && usage.get("total_tokens").is_none() {
        return;
    }
    let output = output.unwrap_or(0);
    // Voyage and Together report embeddings by the total alone.
    let input = input.unwrap_or_else(|| usage.count_of("total_tokens").saturating_sub(output));
    let of_input = |name| detail(usage, &["prompt_tokens_details", "input_tokens_details"], name);
    let of_output = |name| detail(usage, &["completion_tokens_details", "output_tokens_details"], name);

    let mut used = Usage::default();
    let cached = [
        of_input("cached_tokens"),
        usage.count_of("prompt_cache_hit_tokens"),
        usage.count_of("cached_tokens"),
        usage.count_of("num_cached_tokens"),
    ];
    used.set(Bucket::CacheRead, cached.into_iter().max().unwrap_or(0).min(input));
    used.set(Bucket::CacheWrite, of_input("cache_write_tokens"));
    used.set(Bucket::InputAudio, of_input("audio_tokens"));
    used.set(Bucket::InputImage, of_input("image_tokens"));
    used.set(Bucket::InputUncached, input.saturating_sub(used.input_total()));

    let reasoning = of_output("reasoning_tokens");
    used.set(Bucket::Reasoning, reasoning);
    used.set(Bucket::OutputAudio, of_output("audio_tokens"));
    used.set(Bucket::OutputImage, of_output("image_tokens"));
    // xAI counts reasoning beside the completion, which its total gives away; everybody else inside it.
    let total = usage.count_of("total_tokens");
    let is_beside = reasoning > 0 && total == input.saturating_add(output).saturating_add(reasoning);
    let output = if is_beside { output.saturating_add(reasoning) } else { output };
    used.set(Bucket::OutputText, output.saturating_sub(used.output_total()));
    report.usage = Some(used);
    if let Some(cost) = usage.get("cost").and_then(Node::number).and_then(|text| text.parse().ok()) {
        report.cost = Some(cost);
    }
}

fn detail(usage: &Node, groups: &[&str], name: &str) -> u64 {
    groups.iter().find_map(|group| usage.get(group)).map_or(0, |details| details.count_of(name))
}
