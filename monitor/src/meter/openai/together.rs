//! Together counts the cache in a member of its own, and, as Voyage does, embeddings by the total alone.

use super::{Counted, Node};

pub fn read(usage: &Node, counted: &mut Counted) {
    counted.cached = counted.cached.max(usage.count_of("cached_tokens"));
    let has_input = usage.get("prompt_tokens").is_some() || usage.get("input_tokens").is_some();
    if !has_input {
        counted.input = counted.total.saturating_sub(counted.output);
    }
}
