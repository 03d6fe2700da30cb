//! Perplexity counts reasoning and citations of its research beside the completion, and reports its own price with the fee of the request.

use super::{Counted, Node, Unit};

pub fn read(usage: &Node, counted: &mut Counted) {
    // Its totals leave them out too, so that only its own members tell that it is Perplexity.
    let is_research = ["citation_tokens", "num_search_queries", "search_context_size"];
    if is_research.iter().any(|name| usage.get(name).is_some()) {
        let beside = usage.count_of("reasoning_tokens").saturating_add(usage.count_of("citation_tokens"));
        counted.output = counted.output.saturating_add(beside);
    }
    let searches = usage.path(&["tool_calls_details", "search_web", "invocation"]).and_then(Node::count);
    counted.units.set(Unit::WebSearches, searches.unwrap_or(0).max(usage.count_of("num_search_queries")));
    // Its Responses name the cache within OpenAI's details as Anthropic does.
    let cached = usage.path(&["input_tokens_details", "cache_read_input_tokens"]).and_then(Node::count);
    counted.cached = counted.cached.max(cached.unwrap_or(0));
    counted.cost = usage.path(&["cost", "total_cost"]).and_then(Node::usd).or(counted.cost);
}
