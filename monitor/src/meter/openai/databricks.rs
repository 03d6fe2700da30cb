//! Databricks and LiteLLM name the cache of an OpenAI-like answer as Anthropic does; unlike there, the prompt has it inside.

use super::{Counted, Node};

pub fn read(usage: &Node, counted: &mut Counted) {
    if usage.get("prompt_tokens").is_some() {
        counted.cached = counted.cached.max(usage.count_of("cache_read_input_tokens"));
        counted.written = counted.written.max(usage.count_of("cache_creation_input_tokens"));
    }
}
