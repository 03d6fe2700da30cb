//! Perplexity counts reasoning and citations of its research beside the completion, and reports its own price with the fee of the request.

use super::{Counted, Node, Unit};

pub fn read(usage: &Node, counted: &mut Counted) {
    // Its totals leave them out too, so that only its own members tell that it is Perplexity.
    let is_research = ["citation_tokens", "num_search_queries", "search_context_size"];
    if is_research.iter().any(|name| usage.get(name).is_some()) {
        let beside = usage.count_of("reasoning_tokens").saturating_add(usage.count_of("citation_tokens"));
        counted.output = counted.output.saturating_add(beside);
    }
    counted.units.set(Unit::WebSearches, usage.count_of("num_search_queries"));
    counted.cost = usage.path(&["cost", "total_cost"]).and_then(Node::usd).or(counted.cost);
}
