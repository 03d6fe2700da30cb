//! Amazon Bedrock: Converse, and InvokeModel with whatever the model's maker answers.
//!
//! Source: the API reference of Amazon Bedrock Runtime ("Converse", "ConverseStream", "InvokeModel", "TokenUsage") and recorded traffic.

use std::borrow::Cow;

use base64::Engine as _;

use super::{
    anthropic::Anthropic,
    dialect::{BilledModel, Dialect, Purpose, Report, percent_decoded},
    json::Node,
    openai::OpenAi,
    usage::{Bucket, Usage},
};
use crate::wire::Headers;

pub struct Bedrock;

const METRICS: &str = "amazon-bedrock-invocationMetrics";

impl Dialect for Bedrock {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        if method != "POST" {
            return None;
        }
        let verb = path.rsplit('/').next().unwrap_or_default();
        match verb {
            "invoke" | "converse" | "converse-stream" | "invoke-with-response-stream" if path.contains("/model/") => {
                Some(Purpose::Generate)
            }
            "count-tokens" if path.contains("/model/") => Some(Purpose::Free),
            "invoke-with-bidirectional-stream" | "async-invoke" => Some(Purpose::Other),
            // Guardrails are billed by text units.
            "apply" if path.contains("/guardrail/") => Some(Purpose::Other),
            _ => None,
        }
    }

    fn asks(&self, _request: &Node) -> bool {
        // Each maker's requests look different; the path does not.
        true
    }

    fn model_in_path<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        let (_, rest) = path.split_once("/model/")?;
        // Some clients leave the slashes of an ARN as they are.
        rest.rsplit_once('/').map(|(model, _)| percent_decoded(model))
    }

    fn billed_model(&self) -> BilledModel {
        BilledModel::Requested
    }

    fn owns_answers(&self) -> bool {
        true
    }

    fn head(&self, headers: &Headers, report: &mut Report) -> bool {
        let count =
            |name: &str| headers.get(&format!("x-amzn-bedrock-{name}-token-count")).and_then(|text| text.parse().ok());
        let Some(input) = count("input") else { return false };
        let mut used = Usage::default();
        used.set(Bucket::InputUncached, input);
        used.set(Bucket::OutputText, count("output").unwrap_or(0));
        used.set(Bucket::CacheRead, count("cache-read-input").unwrap_or(0));
        used.set(Bucket::CacheWrite5m, count("cache-write-input").unwrap_or(0));
        (report.usage, report.is_final) = (Some(used), true);
        true
    }

    /// Streams of InvokeModel wrap each of the maker's messages.
    fn payload<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        const BEGIN: &[u8] = b"\"bytes\":\"";
        let wrapped = memchr::memmem::find(data.get(..64.min(data.len())).unwrap_or(data), BEGIN)
            .and_then(|at| data.get(at + BEGIN.len()..))
            .and_then(|rest| rest.get(..memchr::memchr(b'"', rest)?))
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        wrapped.map_or(Cow::Borrowed(data), Cow::Owned)
    }

    fn recognizes(&self, answer: &Node) -> bool {
        let is_converse = answer.path(&["usage", "inputTokens"]).is_some();
        is_converse && (answer.get("stopReason").is_some() || answer.path(&["metrics", "latencyMs"]).is_some())
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        read(answer, report, Whole::Document);
    }

    fn message(&self, message: &Node, report: &mut Report) {
        read(message, report, Whole::Message);
        if let Some(metrics) = message.get(METRICS).filter(|_| !(report.is_final && report.usage.is_some())) {
            take_counts(metrics, "TokenCount", report);
        }
    }

    fn has_text(&self, _event: Option<&str>) -> bool {
        true
    }
}

/// Whether the maker's message is the whole answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Document,
    Message,
}

/// Tells by its members whose answer it is.
fn read(answer: &Node, report: &mut Report, whole: Whole) {
    let kind = answer.get("type").and_then(Node::text).unwrap_or_default();
    let maker: Option<&dyn Dialect> = match kind {
        "message" | "message_start" | "message_delta" => Some(&Anthropic),
        _ if answer.get("choices").is_some() => Some(&OpenAi),
        _ => None,
    };
    if let Some(maker) = maker {
        return match whole {
            Whole::Document => maker.document(answer, report),
            Whole::Message => maker.message(answer, report),
        };
    }
    if let Some(usage) = answer.get("usage").or_else(|| answer.path(&["metadata", "usage"])) {
        // Converse, and Nova by itself. An answer that a guardrail replaced lacks half of it; the header fields do not.
        if usage.get("inputTokens").is_some() && usage.get("outputTokens").is_some() {
            take_counts(usage, "Tokens", report);
        }
    } else if answer.get("inputTextTokenCount").is_some() {
        titan(answer, report);
    } else if answer.get("generation_token_count").is_some() || answer.get("prompt_token_count").is_some() {
        llama(answer, report, whole);
    }
}

/// Counts that all end alike. Cached tokens are beside the input, and their names come with both ends.
fn take_counts(usage: &Node, ending: &str, report: &mut Report) {
    let count = |name: &str| usage.get(&format!("{name}{ending}")).and_then(Node::count);
    let cached = |name: &str| {
        let names = ["Tokens", "TokenCount"].map(|ending| format!("{name}{ending}"));
        names.iter().find_map(|name| usage.get(name).and_then(Node::count)).unwrap_or(0)
    };
    let mut used = Usage::default();
    used.set(Bucket::InputUncached, count("input").unwrap_or(0));
    used.set(Bucket::OutputText, count("output").unwrap_or(0));
    used.set(Bucket::CacheRead, cached("cacheReadInput"));
    let written = cached("cacheWriteInput");
    let details = usage.get("cacheDetails").map(Node::items).unwrap_or_default();
    let for_an_hour = details.iter().filter(|detail| detail.get("ttl").and_then(Node::text) == Some("1h"));
    let for_an_hour = for_an_hour.fold(0_u64, |sum, detail| sum.saturating_add(detail.count_of("inputTokens")));
    used.set(Bucket::CacheWrite1h, for_an_hour.min(written));
    used.set(Bucket::CacheWrite5m, written.saturating_sub(for_an_hour));
    (report.usage, report.is_final) = (Some(used), true);
}

fn titan(answer: &Node, report: &mut Report) {
    let output = match answer.get("totalOutputTextTokenCount").and_then(Node::count) {
        Some(total) => Some(total),
        None => answer.get("results").map(|results| {
            results.items().iter().fold(0_u64, |sum, result| sum.saturating_add(result.count_of("tokenCount")))
        }),
    };
    let is_embedding = answer.get("embedding").is_some() || answer.get("embeddingsByType").is_some();
    let used = report.usage.get_or_insert_default();
    used.set(Bucket::InputUncached, answer.count_of("inputTextTokenCount"));
    if let Some(output) = output {
        used.set(Bucket::OutputText, output);
    }
    report.is_final |= output.is_some() || is_embedding;
}

/// The prompt is counted in the first message of a stream, the generation in each, up to there.
fn llama(answer: &Node, report: &mut Report, whole: Whole) {
    let used = report.usage.get_or_insert_default();
    let counts = [(Bucket::InputUncached, "prompt_token_count"), (Bucket::OutputText, "generation_token_count")];
    for (bucket, name) in counts {
        if let Some(tokens) = answer.get(name).and_then(Node::count) {
            used.set(bucket, tokens);
        }
    }
    report.is_final |= whole == Whole::Document || answer.get("stop_reason").is_some();
}
