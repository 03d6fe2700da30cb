//! Anthropic: messages, and the older completions.
//!
//! Source: the API reference of Anthropic ("Messages", "Streaming messages", "Prompt caching") and recorded traffic.

use super::{
    dialect::{Dialect, Purpose, Report},
    json::Node,
    usage::{Bucket, Unit, Usage},
};

pub struct Anthropic;

impl Dialect for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        let purpose = match method {
            "POST" if path.ends_with("/messages") || path.ends_with("/v1/complete") => Purpose::Generate,
            "POST" if path.ends_with("/messages/count_tokens") => Purpose::Free,
            // The answers come as a file, later.
            "POST" if path.ends_with("/messages/batches") => Purpose::Other,
            _ => return None,
        };
        // OpenAI's threads have messages too, which cost nothing.
        (!path.contains("/threads/")).then_some(purpose)
    }

    fn recognizes(&self, answer: &Node) -> bool {
        match answer.get("type").and_then(Node::text) {
            Some("message") => answer.path(&["usage", "output_tokens"]).is_some(),
            Some("message_start") => answer.get("message").is_some(),
            Some("completion") => answer.get("completion").is_some(),
            _ => false,
        }
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        Report::set_text(&mut report.model, answer.get("model"));
        Report::set_text(&mut report.id, answer.get("id"));
        if let Some(usage) = answer.get("usage") {
            take_usage(usage, report);
            report.is_final = true;
        }
    }

    fn message(&self, message: &Node, report: &mut Report) {
        match message.get("type").and_then(Node::text) {
            Some("message_start") => {
                if let Some(message) = message.get("message") {
                    self.document(message, report);
                    report.is_final = false;
                }
            }
            Some("message_delta") => {
                if let Some(usage) = message.get("usage") {
                    take_usage(usage, report);
                }
                report.is_final = message.path(&["delta", "stop_reason"]).is_some();
            }
            _ => {}
        }
    }

    fn has_text(&self, event: Option<&str>) -> bool {
        event.is_none_or(|event| event == "content_block_delta" || event == "content_block_start")
    }
}

/// Input counts exclude the cache. In a stream each field is cumulative and the last value of each counts, so what is missing here stays
/// as it was.
fn take_usage(usage: &Node, report: &mut Report) {
    let used = report.usage.get_or_insert_default();
    let mut set = |bucket: Bucket, value: Option<u64>| {
        if let Some(tokens) = value {
            used.set(bucket, tokens);
        }
    };
    let count = |name: &str| usage.get(name).and_then(Node::count);
    set(Bucket::InputUncached, count("input_tokens"));
    set(Bucket::CacheRead, count("cache_read_input_tokens"));
    take_cache_writes(usage, used);
    take_output(usage, used);
    take_iterations(usage, report);
    let tools = usage.get("server_tool_use");
    let units = [
        ("web_search_requests", Unit::WebSearches),
        ("web_fetch_requests", Unit::WebFetches),
        ("code_execution_requests", Unit::CodeExecutions),
    ];
    for (name, unit) in units {
        if let Some(count) = tools.and_then(|tools| tools.get(name)).and_then(Node::count) {
            report.units.set(unit, count);
        }
    }
    Report::set_text(&mut report.service.tier, usage.get("service_tier"));
    Report::set_text(&mut report.service.speed, usage.get("speed"));
}

/// The totals leave out what compacting the conversation took, which is billed ("Compaction", "Understanding usage"); the messages of
/// `iterations` they have.
fn take_iterations(usage: &Node, report: &mut Report) {
    let Some(iterations) = usage.get("iterations").map(Node::items) else { return };
    report.beside = Usage::default();
    report.parts.clear();
    for iteration in iterations {
        match iteration.get("type").and_then(Node::text) {
            Some("compaction") => report.beside.add_all(&of_iteration(iteration)),
            // Another model's work, at that model's prices.
            Some("advisor_message") => match iteration.get("model").and_then(Node::text) {
                Some(model) if iteration.get("input_tokens").is_some() => {
                    report.add_part(model, &of_iteration(iteration));
                }
                _ => report.is_partial = true,
            },
            _ => {}
        }
    }
}

fn of_iteration(iteration: &Node) -> Usage {
    let mut used = Usage::default();
    used.set(Bucket::InputUncached, iteration.count_of("input_tokens"));
    used.set(Bucket::CacheRead, iteration.count_of("cache_read_input_tokens"));
    take_cache_writes(iteration, &mut used);
    take_output(iteration, &mut used);
    used
}

/// Writes that do not say how long they live are for five minutes, the default.
fn take_cache_writes(usage: &Node, used: &mut Usage) {
    let total = usage.get("cache_creation_input_tokens").and_then(Node::count);
    let details = usage.get("cache_creation");
    if total.is_none() && details.is_none() {
        return;
    }
    // The last event of a stream gives the total again, without the details of the first.
    let (short, long) = match details {
        Some(details) => (details.count_of("ephemeral_5m_input_tokens"), details.count_of("ephemeral_1h_input_tokens")),
        None => (used.get(Bucket::CacheWrite5m), used.get(Bucket::CacheWrite1h)),
    };
    let unspecified = total.unwrap_or(0).saturating_sub(short.saturating_add(long));
    used.set(Bucket::CacheWrite5m, short.saturating_add(unspecified));
    used.set(Bucket::CacheWrite1h, long);
}

fn take_output(usage: &Node, used: &mut Usage) {
    let Some(output) = usage.get("output_tokens").and_then(Node::count) else { return };
    let thinking = usage.path(&["output_tokens_details", "thinking_tokens"]).and_then(Node::count);
    let thinking = thinking.unwrap_or(used.get(Bucket::Reasoning)).min(output);
    used.set(Bucket::Reasoning, thinking);
    used.set(Bucket::OutputText, output - thinking);
}
