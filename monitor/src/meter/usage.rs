//! What a call used, in disjoint buckets of tokens and in counts of other billed units.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, MapAccess, Visitor},
};

/// A number of tokens.
pub type TokenCount = u64;

/// Declares a field-less enum whose variants have one stable name each: in JSON, in the ledger, on the screen.
macro_rules! named {
    ($(#[$meta:meta])* $enum:ident { $($(#[$variant_meta:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $enum { $($(#[$variant_meta])* $variant,)+ }

        impl $enum {
            /// All of them, in the order in which they are shown.
            pub const ALL: [Self; [$($name),+].len()] = [$(Self::$variant),+];

            /// The stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        impl fmt::Display for $enum {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $enum {
            type Err = UnknownName;

            fn from_str(name: &str) -> Result<Self, UnknownName> {
                Self::ALL.into_iter().find(|it| it.name() == name).ok_or_else(|| UnknownName(name.to_owned()))
            }
        }

        impl Serialize for $enum {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }

        impl<'de> Deserialize<'de> for $enum {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
            }
        }
    };
}

/// A name that no bucket or unit has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not the name of a token bucket or a billed unit")]
pub struct UnknownName(String);

named! {
    /// Kinds of tokens that are counted apart because they are priced apart. Disjoint: a token is in exactly one.
    Bucket {
        InputUncached = "input_uncached",
        CacheRead = "cache_read",
        /// Cache write of an API that knows no time to live (OpenAI).
        CacheWrite = "cache_write",
        /// Also a cache write of an API with times to live that does not say which one.
        CacheWrite5m = "cache_write_5m",
        CacheWrite1h = "cache_write_1h",
        InputAudio = "input_audio",
        InputImage = "input_image",
        InputVideo = "input_video",
        /// Documents that the API counts apart (Gemini's modality `DOCUMENT`).
        InputDocument = "input_document",
        /// Prompt of server-side tools (Gemini).
        InputTool = "input_tool",
        OutputText = "output_text",
        /// Reasoning, only where the API tells it apart from the rest of the output.
        Reasoning = "reasoning",
        OutputAudio = "output_audio",
        OutputImage = "output_image",
    }
}

impl Bucket {
    /// Whether the tokens went to the model; else they came from it.
    pub const fn is_input(self) -> bool {
        !matches!(self, Self::OutputText | Self::Reasoning | Self::OutputAudio | Self::OutputImage)
    }
}

named! {
    /// What is billed by count, beside tokens.
    Unit {
        /// Whole model calls. A call is one request without this being set; it is for APIs that bill several at once.
        Requests = "requests",
        /// Web searches that the provider ran.
        WebSearches = "web_searches",
        /// Pages that the provider fetched.
        WebFetches = "web_fetches",
        /// Searches in social networks that the provider ran (xAI).
        SocialSearches = "social_searches",
        /// Searches in stored files that the provider ran.
        FileSearches = "file_searches",
        /// Code that the provider ran.
        CodeExecutions = "code_executions",
        /// Rerank searches (Cohere's `search_units`).
        SearchUnits = "search_units",
        /// Images made or read that are billed apiece.
        Images = "images",
        /// Seconds of audio heard.
        InputAudioSeconds = "input_audio_seconds",
        /// Seconds of audio spoken.
        OutputAudioSeconds = "output_audio_seconds",
        /// Characters read (speech synthesis).
        InputCharacters = "input_characters",
        /// Messages read (moderation and conversation APIs that bill by message).
        InputMessages = "input_messages",
        /// Pages read by a document API and not annotated.
        DocumentPages = "document_pages",
        /// Pages read and annotated by a document API.
        AnnotatedPages = "annotated_pages",
        /// Pixels read.
        InputPixels = "input_pixels",
        /// Texts classified (Cohere).
        Classifications = "classifications",
    }
}

/// Declares a table of counts, one per variant of a named enum, which serialises as a map of the non-zero ones.
macro_rules! counts {
    ($(#[$meta:meta])* $counts:ident by $key:ident, $expecting:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $counts([u64; $key::ALL.len()]);

        impl $counts {
            pub const ZERO: Self = Self([0; $key::ALL.len()]);

            pub const fn get(&self, key: $key) -> u64 {
                self.0[key as usize]
            }

            pub fn set(&mut self, key: $key, count: u64) {
                self.0[key as usize] = count;
            }

            /// Adds to one count. Counts come from hostile bytes, so they stop at the largest number instead of
            /// starting again at zero.
            pub fn add(&mut self, key: $key, count: u64) {
                self.set(key, self.get(key).saturating_add(count));
            }

            /// Adds all counts of another table.
            pub fn add_all(&mut self, other: &Self) {
                for (key, count) in other.iter() {
                    self.add(key, count);
                }
            }

            /// The non-zero counts, in the order of the names.
            pub fn iter(&self) -> impl Iterator<Item = ($key, u64)> + '_ {
                $key::ALL.into_iter().map(|key| (key, self.get(key))).filter(|&(_, count)| count != 0)
            }

            pub fn is_zero(&self) -> bool {
                self.0 == [0; $key::ALL.len()]
            }
        }

        impl FromIterator<($key, u64)> for $counts {
            /// Counts of the same key add up.
            fn from_iter<I: IntoIterator<Item = ($key, u64)>>(counts: I) -> Self {
                let mut table = Self::ZERO;
                for (key, count) in counts {
                    table.add(key, count);
                }
                table
            }
        }

        impl fmt::Debug for $counts {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_map().entries(self.iter().map(|(key, count)| (key.name(), count))).finish()
            }
        }

        impl Serialize for $counts {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.iter())
            }
        }

        impl<'de> Deserialize<'de> for $counts {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Table;
                impl<'de> Visitor<'de> for Table {
                    type Value = $counts;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<$counts, A::Error> {
                        let mut counts = $counts::ZERO;
                        while let Some((key, count)) = map.next_entry()? {
                            counts.add(key, count);
                        }
                        Ok(counts)
                    }
                }
                deserializer.deserialize_map(Table)
            }
        }
    };
}

counts! {
    /// Tokens of a call, per bucket.
    Usage by Bucket, "a map of token buckets to counts"
}

counts! {
    /// Other billed units of a call.
    Units by Unit, "a map of billed units to counts"
}

impl Usage {
    /// All tokens that went to the model.
    pub fn input_total(&self) -> TokenCount {
        self.total(true)
    }

    /// All tokens that came from the model.
    pub fn output_total(&self) -> TokenCount {
        self.total(false)
    }

    fn total(&self, input: bool) -> TokenCount {
        self.iter()
            .filter(|(bucket, _)| bucket.is_input() == input)
            .fold(0, |sum, (_, count)| TokenCount::saturating_add(sum, count))
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_per_bucket_and_summed_per_direction() {
        let mut usage = Usage::from_iter([(Bucket::InputUncached, 10), (Bucket::CacheRead, 5), (Bucket::Reasoning, 3)]);
        usage.add(Bucket::OutputText, 4);
        usage.add(Bucket::OutputText, 1);
        assert_eq!(usage.get(Bucket::OutputText), 5);
        assert_eq!((usage.input_total(), usage.output_total()), (15, 8));
        assert_eq!(
            usage.iter().map(|(bucket, _)| bucket.name()).collect::<Vec<_>>(),
            ["input_uncached", "cache_read", "output_text", "reasoning"]
        );
    }

    #[test]
    fn absurd_counts_stop_at_the_largest() {
        let mut usage = Usage::from_iter([(Bucket::InputUncached, u64::MAX), (Bucket::CacheRead, 1)]);
        usage.add(Bucket::InputUncached, 1);
        assert_eq!(usage.get(Bucket::InputUncached), u64::MAX);
        assert_eq!(usage.input_total(), u64::MAX);
    }

    #[test]
    fn tables_serialise_as_maps_of_what_is_there() {
        let usage = Usage::from_iter([(Bucket::CacheWrite5m, 7), (Bucket::InputUncached, 1)]);
        let json = serde_json::to_string(&usage).unwrap();
        assert_eq!(json, r#"{"input_uncached":1,"cache_write_5m":7}"#);
        assert_eq!(serde_json::from_str::<Usage>(&json).unwrap(), usage);
        assert_eq!(serde_json::from_str::<Units>(r#"{"web_searches":2}"#).unwrap().get(Unit::WebSearches), 2);
        assert!(serde_json::from_str::<Units>(r#"{"wishes":2}"#).unwrap_err().to_string().contains("`wishes`"));
    }

    #[test]
    fn every_name_reads_back() {
        for bucket in Bucket::ALL {
            assert_eq!(bucket.name().parse(), Ok(bucket));
        }
        for unit in Unit::ALL {
            assert_eq!(unit.name().parse(), Ok(unit));
        }
    }
}
