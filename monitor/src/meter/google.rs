//! Google: Gemini (`generateContent`, embeddings, interactions), at Google AI and at Vertex AI.
//!
//! Source: the Gemini API reference ("UsageMetadata", "Interactions"), the Vertex AI reference, and recorded traffic.

use std::borrow::Cow;

use super::{
    dialect::{Dialect, Purpose, Report, percent_decoded},
    json::Node,
    usage::{Bucket, Unit, Usage},
};

pub struct Google;

impl Dialect for Google {
    fn name(&self) -> &'static str {
        "google"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        let last = path.rsplit('/').next().unwrap_or_default();
        let (name, verb) = last.split_once(':').unwrap_or((last, ""));
        match (method, verb) {
            // Other makers' models at Vertex answer as their makers do.
            ("POST", "generateContent" | "streamGenerateContent" | "rawPredict" | "streamRawPredict") => {
                Some(Purpose::Generate)
            }
            ("POST", "embedContent" | "batchEmbedContents") => Some(Purpose::Embed),
            ("POST", "countTokens" | "computeTokens") => Some(Purpose::Free),
            ("POST", "predict" | "predictLongRunning" | "batchGenerateContent" | "asyncBatchEmbedContent") => {
                Some(Purpose::Other)
            }
            // Cached content is billed by the time it is kept.
            ("POST", "") if name == "cachedContents" => Some(Purpose::Other),
            ("POST", "") if name == "interactions" => Some(Purpose::Generate),
            ("GET", "") | ("POST", "cancel") if path.contains("/interactions/") => Some(Purpose::Retrieve),
            ("POST", "") if name == "cancel" && path.contains("/interactions/") => Some(Purpose::Retrieve),
            _ => None,
        }
    }

    fn asks(&self, request: &Node) -> bool {
        let has = |name: &str| request.get(name).is_some();
        let is_interaction = has("input") && (has("model") || has("agent"));
        is_interaction
            || ["contents", "content", "requests", "request", "messages", "prompt", "instances"]
                .iter()
                .any(|name| has(name))
    }

    fn model_in_path<'a>(&self, path: &'a str) -> Option<Cow<'a, str>> {
        let (_, rest) = path.rsplit_once("/models/")?;
        let end = rest.find([':', '/']).unwrap_or(rest.len());
        rest.get(..end).map(percent_decoded)
    }

    fn streams(&self, path: &str) -> bool {
        path.contains(":stream")
    }

    fn recognizes(&self, answer: &Node) -> bool {
        let answer = unwrapped(answer);
        answer.get("usageMetadata").is_some()
            || answer.get("candidates").is_some()
            || answer.get("object").and_then(Node::text) == Some("interaction")
            || answer.get("interaction").is_some()
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        self.message(answer, report);
        take_predictions(answer, report);
        report.is_final = report.usage.is_some();
    }

    fn message(&self, message: &Node, report: &mut Report) {
        let message = unwrapped(message);
        if let Some(interaction) = message.get("interaction") {
            return take_interaction(interaction, report);
        }
        if message.get("object").and_then(Node::text) == Some("interaction") {
            return take_interaction(message, report);
        }
        Report::set_text(&mut report.model, message.get("modelVersion"));
        Report::set_text(&mut report.id, message.get("responseId"));
        if let Some(usage) = message.get("usageMetadata") {
            take_usage(usage, report);
        }
        // Each message of a stream counts what came up to there.
        let candidates = message.get("candidates").map(Node::items).unwrap_or_default();
        report.is_final |= candidates.iter().any(|candidate| candidate.get("finishReason").is_some())
            || message.path(&["promptFeedback", "blockReason"]).is_some()
            || message.path(&["serverContent", "turnComplete"]).is_some();
        take_searches(candidates, report);
    }

    fn has_text(&self, event: Option<&str>) -> bool {
        event.is_none_or(|event| event.ends_with(".delta"))
    }
}

/// Code Assist (Gemini CLI with a login) wraps each answer.
fn unwrapped(answer: &Node) -> &Node {
    answer.get("response").filter(|inner| matches!(inner, Node::Object(_))).unwrap_or(answer)
}

/// Kinds of input that have a bucket of their own.
const MEDIA: [(&str, Bucket); 4] = [
    ("audio", Bucket::InputAudio),
    ("image", Bucket::InputImage),
    ("video", Bucket::InputVideo),
    ("document", Bucket::InputDocument),
];
const OUTPUT_MEDIA: [(&str, Bucket); 2] = [("audio", Bucket::OutputAudio), ("image", Bucket::OutputImage)];

/// Counts as `generateContent` and interactions both have them, under different names.
struct Counts<'a> {
    /// With what was cached.
    input: u64,
    cached: u64,
    tool: u64,
    /// Without thoughts.
    output: u64,
    thoughts: u64,
    input_kinds: &'a [Node],
    cached_kinds: &'a [Node],
    output_kinds: &'a [Node],
    /// Name of the count of a kind.
    tokens: &'static str,
}

impl Counts<'_> {
    fn of_kind(&self, kinds: &[Node], kind: &str) -> u64 {
        let is_it = |node: &&Node| {
            node.get("modality").and_then(Node::text).is_some_and(|modality| modality.eq_ignore_ascii_case(kind))
        };
        kinds.iter().filter(is_it).fold(0, |sum, node| sum.saturating_add(node.count_of(self.tokens)))
    }

    fn usage(&self) -> Usage {
        let mut used = Usage::default();
        used.set(Bucket::CacheRead, self.cached.min(self.input));
        let mut left = self.input.saturating_sub(self.cached);
        for (kind, bucket) in MEDIA {
            let cached = self.of_kind(self.cached_kinds, kind);
            let tokens = self.of_kind(self.input_kinds, kind).saturating_sub(cached).min(left);
            used.set(bucket, tokens);
            left -= tokens;
        }
        used.set(Bucket::InputUncached, left);
        used.set(Bucket::InputTool, self.tool);
        let mut left = self.output;
        for (kind, bucket) in OUTPUT_MEDIA {
            let tokens = self.of_kind(self.output_kinds, kind).min(left);
            used.set(bucket, tokens);
            left -= tokens;
        }
        used.set(Bucket::OutputText, left);
        used.set(Bucket::Reasoning, self.thoughts);
        used
    }
}

fn items<'a>(usage: &'a Node, names: &[&str]) -> &'a [Node] {
    names.iter().find_map(|name| usage.get(name)).map(Node::items).unwrap_or_default()
}

/// Searches for grounding: since Gemini 3 each query is billed, before that each answer that used any ("Grounding with Google Search").
fn take_searches(candidates: &[Node], report: &mut Report) {
    let queries = candidates
        .iter()
        .filter_map(|candidate| candidate.path(&["groundingMetadata", "webSearchQueries"]))
        .map(|queries| queries.items().len() as u64)
        .max()
        .unwrap_or(0);
    if queries > 0 {
        let by_query = report.model.as_deref().is_some_and(|model| model.starts_with("gemini-3"));
        report.units.set(Unit::WebSearches, if by_query { queries } else { 1 });
    }
}

/// Embeddings at Vertex count each text.
fn take_predictions(answer: &Node, report: &mut Report) {
    let counts = answer.get("predictions").map(Node::items).unwrap_or_default().iter();
    let tokens = counts.filter_map(|prediction| {
        prediction.path(&["embeddings", "statistics", "token_count"]).and_then(Node::rounded_up)
    });
    let (mut total, mut has_any) = (0_u64, false);
    for count in tokens {
        (total, has_any) = (total.saturating_add(count), true);
    }
    if has_any {
        let mut used = Usage::default();
        used.set(Bucket::InputUncached, total);
        report.usage = Some(used);
    }
}

fn take_usage(usage: &Node, report: &mut Report) {
    let counts = Counts {
        input: usage.count_of("promptTokenCount"),
        cached: usage.count_of("cachedContentTokenCount"),
        tool: usage.count_of("toolUsePromptTokenCount"),
        // The Live API has another name for it.
        output: usage.count_of("candidatesTokenCount").max(usage.count_of("responseTokenCount")),
        thoughts: usage.count_of("thoughtsTokenCount"),
        input_kinds: items(usage, &["promptTokensDetails", "promptTokenDetails"]),
        cached_kinds: items(usage, &["cacheTokensDetails"]),
        output_kinds: items(usage, &["candidatesTokensDetails", "responseTokensDetails"]),
        tokens: "tokenCount",
    };
    report.usage = Some(counts.usage());
    let traffic = usage.get("trafficType").and_then(Node::text).and_then(|traffic| traffic.strip_prefix("ON_DEMAND_"));
    if let Some(tier) = usage.get("serviceTier").and_then(Node::text).or(traffic) {
        report.service.tier = Some(tier.to_ascii_lowercase().into());
    }
}

fn take_interaction(interaction: &Node, report: &mut Report) {
    Report::set_text(&mut report.model, interaction.get("model"));
    Report::set_text(&mut report.id, interaction.get("id"));
    Report::set_text(&mut report.service.tier, interaction.get("service_tier"));
    let status = interaction.get("status").and_then(Node::text).unwrap_or_default();
    report.is_pending = matches!(status, "in_progress" | "queued");
    let Some(usage) = interaction.get("usage") else { return };
    let counts = Counts {
        input: usage.count_of("total_input_tokens"),
        cached: usage.count_of("total_cached_tokens"),
        tool: usage.count_of("total_tool_use_tokens"),
        output: usage.count_of("total_output_tokens"),
        thoughts: usage.count_of("total_thought_tokens"),
        input_kinds: items(usage, &["input_tokens_by_modality"]),
        cached_kinds: items(usage, &["cached_tokens_by_modality"]),
        output_kinds: items(usage, &["output_tokens_by_modality"]),
        tokens: "tokens",
    };
    report.usage = Some(counts.usage());
    report.is_final = !report.is_pending;
}
