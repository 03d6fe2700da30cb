//! Token counts in disjoint buckets. Tollgate has its own type for this: what judges it must not share its code.

use serde::{Deserialize, Serialize};

/// Tokens per bucket; a token is in exactly one. Zero buckets are left out of the JSON, as in Tollgate's reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Usage {
    #[serde(skip_serializing_if = "is_zero")]
    pub input_uncached: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_read: u64,
    /// Cache writes of an API without a time to live (OpenAI).
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_5m: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub cache_write_1h: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub output_text: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub reasoning: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_zero(tokens: &u64) -> bool {
    *tokens == 0
}

impl Usage {
    pub fn input_total(&self) -> u64 {
        self.input_uncached + self.cache_read + self.cache_write + self.cache_write_5m + self.cache_write_1h
    }

    pub fn output_total(&self) -> u64 {
        self.output_text + self.reasoning
    }

    /// The usage of two calls together.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input_uncached: self.input_uncached + other.input_uncached,
            cache_read: self.cache_read + other.cache_read,
            cache_write: self.cache_write + other.cache_write,
            cache_write_5m: self.cache_write_5m + other.cache_write_5m,
            cache_write_1h: self.cache_write_1h + other.cache_write_1h,
            output_text: self.output_text + other.output_text,
            reasoning: self.reasoning + other.reasoning,
        }
    }
}
