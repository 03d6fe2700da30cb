//! Mistral counts the cache in a member of its own, tools that it runs beside the prompt, and documents by the page.

use super::{Counted, Node};

pub fn read(usage: &Node, counted: &mut Counted) {
    counted.cached = counted.cached.max(usage.count_of("num_cached_tokens"));
    // What connectors put into the prompt is counted apart, and is part of the total only.
    counted.input = counted.input.saturating_add(usage.count_of("connector_tokens"));
}
