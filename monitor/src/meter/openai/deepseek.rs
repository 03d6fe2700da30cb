//! DeepSeek counts the cache beside OpenAI's details ("Context Caching" in its API documentation).

use super::{Counted, Node};

pub fn read(usage: &Node, counted: &mut Counted) {
    counted.cached = counted.cached.max(usage.count_of("prompt_cache_hit_tokens"));
}
