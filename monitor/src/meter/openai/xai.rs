//! xAI counts reasoning beside the completion, which its total gives away; everybody else counts it inside. It reports its own price, and
//! what its tools did.

use super::{Counted, Node, Unit};
use crate::price::Money;

/// The unit of `cost_in_usd_ticks` ("Cost tracking" in its documentation): 10 to the -10 USD.
const TICK_PICO_USD: i128 = 100;

pub fn read(usage: &Node, counted: &mut Counted) {
    let beside = counted.input.saturating_add(counted.output).saturating_add(counted.reasoning);
    if counted.reasoning > 0 && counted.total == beside {
        counted.output = counted.output.saturating_add(counted.reasoning);
    }
    counted.cached = counted.cached.max(usage.count_of("cached_prompt_text_tokens"));
    if let Some(ticks) = usage.get("cost_in_usd_ticks").and_then(Node::count) {
        counted.cost = Some(Money::from_pico_usd(i128::from(ticks) * TICK_PICO_USD));
    }
    let Some(tools) = usage.get("server_side_tool_usage_details") else { return };
    for (name, unit) in [
        ("web_search_calls", Unit::WebSearches),
        ("x_search_calls", Unit::SocialSearches),
        ("code_interpreter_calls", Unit::CodeExecutions),
        ("file_search_calls", Unit::FileSearches),
    ] {
        counted.units.add(unit, tools.count_of(name));
    }
}
