//! OpenAI: chat completions, completions, embeddings, responses, images, transcriptions and assistants' runs, and everybody who speaks like
//! it (Azure, vLLM, DeepSeek, Groq, OpenRouter, xAI, Together, …).
//!
//! Source: the API reference of OpenAI ("The chat completion object", "Streaming", "The response object") and recorded traffic. What others
//! do otherwise is in their files below.

mod cloudflare;
mod databricks;
mod deepseek;
mod groq;
mod mistral;
mod openrouter;
mod perplexity;
mod together;
mod vllm;
mod xai;

use std::{borrow::Cow, collections::BTreeSet};

use super::{
    dialect::{Dialect, Purpose, Report, percent_decoded, split_rarely},
    json::Node,
    usage::{Bucket, Unit, Units, Usage},
};
use crate::price::Money;

pub struct OpenAi;

/// What a provider's usage has that OpenAI's does not: found by its members, at any host. Adding one takes a file and a line here.
const ACCENTS: [fn(&Node, &mut Counted); 7] =
    [databricks::read, deepseek::read, mistral::read, openrouter::read, perplexity::read, together::read, xai::read];

/// Counts on their way into buckets.
#[derive(Debug, Default)]
struct Counted {
    /// With what was cached.
    input: u64,
    cached: u64,
    written: u64,
    /// With reasoning, when everything is read.
    output: u64,
    reasoning: u64,
    /// Of input, output and all else.
    total: u64,
    units: Units,
    cost: Option<Money>,
}

impl Dialect for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        match method {
            "POST" => post(path),
            "GET" if path.ends_with("/models") || path.contains("/models/") => Some(Purpose::Free),
            "GET" => is_below_a_call(path).then_some(Purpose::Retrieve),
            _ => None,
        }
    }

    fn asks(&self, request: &Node) -> bool {
        ["model", "messages", "prompt", "input", "inputs", "assistant_id", "input_file_id"]
            .iter()
            .any(|name| request.get(name).is_some())
    }

    /// Azure names the deployment there.
    fn model_in_path<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        if let Some(model) = cloudflare::model_in_path(path) {
            return Some(percent_decoded(model));
        }
        let (_, rest) = split_rarely(path, "/deployments/")?;
        rest.split('/').next().filter(|name| !name.is_empty()).map(percent_decoded)
    }

    fn recognizes(&self, answer: &Node) -> bool {
        let object = answer.get("object").and_then(Node::text).unwrap_or_default();
        let kind = answer.get("type").and_then(Node::text).unwrap_or_default();
        let is_counted = |name| answer.path(&["usage", name]).is_some();
        matches!(
            object,
            "chat.completion"
                | "chat.completion.chunk"
                | "text_completion"
                | "response"
                | "response.compaction"
                | "thread.run"
                | "conversation.response"
        ) || (object == "list" && (is_counted("prompt_tokens") || is_counted("total_tokens")))
            || kind.starts_with("response.")
            || kind.starts_with("conversation.response.")
            || cloudflare::unwrapped(answer).is_some()
            || (answer.get("choices").is_some() && answer.get("model").is_some())
    }

    fn is_free(&self, request: &Node) -> bool {
        // Warms up a conversation ("WebSocket mode") and answers nothing.
        request.get("generate") == Some(&Node::Bool(false))
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        let answer = cloudflare::unwrapped(answer).unwrap_or(answer);
        Report::set_text(&mut report.model, answer.get("model"));
        Report::set_text(&mut report.id, answer.get("id"));
        Report::set_text(&mut report.service.tier, answer.get("service_tier"));
        let status = answer.get("status").and_then(Node::text).unwrap_or("completed");
        report.is_pending = matches!(status, "queued" | "in_progress");
        take_tool_calls(answer, report);
        take_images(answer, report);
        vllm::recognize(answer, report);
        mistral::take_pages(answer, report);
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
            report.is_final =
                matches!(kind, "response.completed" | "response.incomplete" | "response.failed" | "response.done");
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
        vllm::recognize(message, report);
        let usage = message.get("usage").or_else(|| groq::usage(message));
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
        event.is_none_or(|event| {
            // Summaries of reasoning are not what the model was paid for.
            event.ends_with(".delta") && !event.ends_with("audio.delta") && !event.contains("reasoning_summary")
        })
    }
}

fn post(path: &str) -> Option<Purpose> {
    let ends_with = |suffixes: &[&str]| suffixes.iter().any(|suffix| path.ends_with(suffix));
    if ends_with(&["/responses/input_tokens"]) {
        Some(Purpose::Free)
    } else if ends_with(&["/chat/completions", "/completions", "/responses", "/responses/compact", "/runs"])
        || cloudflare::model_in_path(path).is_some()
    {
        Some(Purpose::Generate)
    } else if ends_with(&["/embeddings", "/multimodalembeddings", "/contextualizedembeddings", "/rerank"]) {
        Some(Purpose::Embed)
    } else if is_below_a_call(path) {
        // Cancelling a call, or going on with a run: the answer repeats what the whole has used.
        Some(Purpose::Retrieve)
    } else {
        let is_other = ends_with(&[
            "/images/generations",
            "/images/edits",
            "/images/variations",
            "/audio/speech",
            "/audio/transcriptions",
            "/audio/translations",
            "/videos",
            "/ocr",
            "/v1/batches",
            "/batch/jobs",
        ]);
        is_other.then_some(Purpose::Other)
    }
}

/// Whether the path is that of a call that was made before.
fn is_below_a_call(path: &str) -> bool {
    let is_run = path.contains("/threads/") && path.contains("/runs/");
    is_run || path.contains("/responses/") || path.contains("/chat/completions/")
}

/// Tools that OpenAI runs itself and bills by the call.
fn take_tool_calls(answer: &Node, report: &mut Report) {
    let output = answer.get("output").map(Node::items).unwrap_or_default();
    let count = |is_it: &dyn Fn(&Node, &str) -> bool| {
        let kind = |item: &Node| item.get("type").and_then(Node::text).unwrap_or_default().to_owned();
        output.iter().filter(|item| is_it(item, &kind(item))).count() as u64
    };
    // Opening a page that a search found is not a search.
    let searches = count(&|item, kind| {
        let action = item.path(&["action", "type"]).and_then(Node::text);
        kind == "web_search_call" && action.is_none_or(|action| action == "search")
    });
    report.units.set(Unit::WebSearches, searches);
    report.units.set(Unit::FileSearches, count(&|_, kind| kind == "file_search_call"));
    // Billed by the container, which several calls may share.
    let containers: BTreeSet<&str> = output
        .iter()
        .filter(|item| item.get("type").and_then(Node::text) == Some("code_interpreter_call"))
        .map(|item| item.get("container_id").and_then(Node::text).unwrap_or_default())
        .collect();
    report.units.set(Unit::CodeExecutions, containers.len() as u64);
    // Made by another model, and billed by its tokens, which nobody tells here.
    report.units.set(Unit::Images, count(&|_, kind| kind == "image_generation_call"));
}

fn take_images(answer: &Node, report: &mut Report) {
    let is_image = |item: &&Node| item.get("url").is_some() || item.get("b64_json").is_some();
    let images = answer.get("data").map(Node::items).unwrap_or_default().iter().filter(is_image).count() as u64;
    if images > 0 {
        report.units.set(Unit::Images, images);
    }
}

/// Details are parts of the totals: they are taken out of them.
fn take_usage(usage: &Node, report: &mut Report) {
    let (input, output) = (
        usage.get("prompt_tokens").or_else(|| usage.get("input_tokens")).and_then(Node::count),
        usage.get("completion_tokens").or_else(|| usage.get("output_tokens")).and_then(Node::count),
    );
    let total = usage.count_of("total_tokens");
    let mut counted = Counted {
        input: input.unwrap_or(0),
        cached: of_input(usage, "cached_tokens"),
        written: of_input(usage, "cache_write_tokens"),
        output: output.unwrap_or(0),
        reasoning: of_output(usage, "reasoning_tokens").max(usage.count_of("reasoning_tokens")),
        total,
        ..Counted::default()
    };
    for read in ACCENTS {
        read(usage, &mut counted);
    }
    // Speech is billed by its length where it is not counted in tokens.
    if let Some(seconds) = usage.get("seconds").and_then(Node::rounded_up) {
        counted.units.set(Unit::InputAudioSeconds, seconds);
    }
    if input.is_none() && output.is_none() && total == 0 && counted.units.is_zero() {
        return;
    }
    report.usage = Some(buckets(usage, &counted));
    report.units.add_all(&counted.units);
    report.cost = counted.cost.or(report.cost);
}

fn buckets(usage: &Node, counted: &Counted) -> Usage {
    let mut used = Usage::default();
    used.set(Bucket::CacheRead, counted.cached.min(counted.input));
    used.set(Bucket::CacheWrite, counted.written);
    // What of them came from the cache is counted there (realtime sessions).
    let fresh = |name: &str| {
        let cached = cached_of(usage, name);
        of_input(usage, name).saturating_sub(cached)
    };
    used.set(Bucket::InputAudio, fresh("audio_tokens"));
    used.set(Bucket::InputImage, fresh("image_tokens"));
    used.set(Bucket::InputUncached, counted.input.saturating_sub(used.input_total()));
    used.set(Bucket::Reasoning, counted.reasoning);
    used.set(Bucket::OutputAudio, of_output(usage, "audio_tokens"));
    used.set(Bucket::OutputImage, of_output(usage, "image_tokens"));
    used.set(Bucket::OutputText, counted.output.saturating_sub(used.output_total()));
    used
}

fn of_input(usage: &Node, name: &str) -> u64 {
    detail(usage, &["prompt_tokens_details", "input_tokens_details", "input_token_details"], name)
}

fn cached_of(usage: &Node, name: &str) -> u64 {
    let groups = ["prompt_tokens_details", "input_tokens_details", "input_token_details"];
    let cached = groups.iter().find_map(|group| usage.path(&[group, "cached_tokens_details", name]));
    cached.and_then(Node::count).unwrap_or(0)
}

fn of_output(usage: &Node, name: &str) -> u64 {
    detail(usage, &["completion_tokens_details", "output_tokens_details", "output_token_details"], name)
}

fn detail(usage: &Node, groups: &[&str], name: &str) -> u64 {
    groups.iter().find_map(|group| usage.get(group)).map_or(0, |details| details.count_of(name))
}
