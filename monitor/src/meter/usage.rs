//! What a call used, in disjoint buckets.

use serde::{Deserialize, Serialize};

/// A number of tokens.
pub type TokenCount = u64;

/// Kinds of tokens that are counted apart because they are priced apart. Disjoint: a token is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    InputUncached,
    CacheRead,
    /// Cache write of an API that knows no time to live.
    CacheWrite,
    CacheWrite5m,
    CacheWrite1h,
    InputAudio,
    InputImage,
    InputVideo,
    InputDocument,
    /// Prompt of server-side tools (Gemini).
    InputTool,
    OutputText,
    /// Reasoning, only where the API tells it apart from the rest of the output.
    Reasoning,
    OutputAudio,
    OutputImage,
}

/// How an amount is known, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Basis {
    /// Cost reported by the provider.
    Provider,
    /// Usage reported by the provider, priced by the catalogue.
    Measured,
    /// Counted by us.
    Estimated,
    /// At least this much: bytes were lost or could not be read.
    Floor,
    /// Nothing to charge.
    None,
}
