//! What a call used, in disjoint buckets.

use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap as _};

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

impl Bucket {
    pub const ALL: [Self; 14] = [
        Self::InputUncached,
        Self::CacheRead,
        Self::CacheWrite,
        Self::CacheWrite5m,
        Self::CacheWrite1h,
        Self::InputAudio,
        Self::InputImage,
        Self::InputVideo,
        Self::InputDocument,
        Self::InputTool,
        Self::OutputText,
        Self::Reasoning,
        Self::OutputAudio,
        Self::OutputImage,
    ];

    /// Name in reports and recordings.
    pub const fn name(self) -> &'static str {
        match self {
            Self::InputUncached => "input_uncached",
            Self::CacheRead => "cache_read",
            Self::CacheWrite => "cache_write",
            Self::CacheWrite5m => "cache_write_5m",
            Self::CacheWrite1h => "cache_write_1h",
            Self::InputAudio => "input_audio",
            Self::InputImage => "input_image",
            Self::InputVideo => "input_video",
            Self::InputDocument => "input_document",
            Self::InputTool => "input_tool",
            Self::OutputText => "output_text",
            Self::Reasoning => "reasoning",
            Self::OutputAudio => "output_audio",
            Self::OutputImage => "output_image",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bucket| bucket.name() == name)
    }

    pub const fn is_output(self) -> bool {
        matches!(self, Self::OutputText | Self::Reasoning | Self::OutputAudio | Self::OutputImage)
    }
}

/// Tokens per bucket. Serializes as a map of the buckets that are not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage([TokenCount; Bucket::ALL.len()]);

impl Usage {
    pub const fn get(&self, bucket: Bucket) -> TokenCount {
        self.0[bucket as usize]
    }

    pub const fn set(&mut self, bucket: Bucket, tokens: TokenCount) {
        self.0[bucket as usize] = tokens;
    }

    /// Saturating: counts come from outside.
    pub const fn add(&mut self, bucket: Bucket, tokens: TokenCount) {
        self.0[bucket as usize] = self.0[bucket as usize].saturating_add(tokens);
    }

    pub fn add_all(&mut self, other: &Self) {
        for (bucket, tokens) in other.iter() {
            self.add(bucket, tokens);
        }
    }

    /// Buckets that are not zero.
    pub fn iter(&self) -> impl Iterator<Item = (Bucket, TokenCount)> {
        Bucket::ALL.into_iter().map(|bucket| (bucket, self.get(bucket))).filter(|&(_, tokens)| tokens > 0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&tokens| tokens == 0)
    }

    pub fn input_total(&self) -> TokenCount {
        self.sum(|bucket| !bucket.is_output())
    }

    pub fn output_total(&self) -> TokenCount {
        self.sum(Bucket::is_output)
    }

    fn sum(&self, of: impl Fn(Bucket) -> bool) -> TokenCount {
        self.iter().filter(|&(bucket, _)| of(bucket)).fold(0, |sum, (_, tokens)| sum.saturating_add(tokens))
    }
}

impl Serialize for Usage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (bucket, tokens) in self.iter() {
            map.serialize_entry(bucket.name(), &tokens)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Usage {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = std::collections::BTreeMap::<String, TokenCount>::deserialize(deserializer)?;
        let mut usage = Self::default();
        for (name, tokens) in map {
            let bucket =
                Bucket::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("no bucket `{name}`")))?;
            usage.add(bucket, tokens);
        }
        Ok(usage)
    }
}

/// Things other than tokens that a call is billed by: `web_search_requests`, `search_units`, `images`, …
pub type Units = std::collections::BTreeMap<&'static str, u64>;

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

impl Basis {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Measured => "measured",
            Self::Estimated => "estimated",
            Self::Floor => "floor",
            Self::None => "none",
        }
    }
}
