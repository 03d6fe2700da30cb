//! What a call without a price counts toward a cap.

use serde::{Deserialize, Deserializer, de::Error as _};

use super::{Money, row::Amount};
use crate::{meter::Usage, price::row::Rate};

/// A price for what has none. It counts toward caps only: the charge stays unpriced, and no sum of charges has it.
///
/// Without one, a cap does not hold against a model that no table knows, however long the task runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    input: Rate,
    output: Rate,
}

impl Default for Ceiling {
    /// $15 per million input tokens and $75 per million output tokens: the list price of the dearest models in common use
    /// (Anthropic's Opus 4 and 4.1). Dearer ones are rare, and known to the tables.
    fn default() -> Self {
        Self { input: Rate::per_million(15), output: Rate::per_million(75) }
    }
}

impl Ceiling {
    pub fn of(&self, usage: &Usage) -> Money {
        let mut amount = Amount::default();
        amount.add(self.input, usage.input_total());
        amount.add(self.output, usage.output_total());
        amount.to_money()
    }
}

/// `{ input = "15", output = "75" }`, or `"off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CeilingSetting {
    Off,
    At(Ceiling),
}

impl Default for CeilingSetting {
    fn default() -> Self {
        Self::At(Ceiling::default())
    }
}

impl CeilingSetting {
    pub fn ceiling(self) -> Option<Ceiling> {
        match self {
            Self::Off => None,
            Self::At(ceiling) => Some(ceiling),
        }
    }
}

impl<'de> Deserialize<'de> for CeilingSetting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Setting;
        impl<'de> serde::de::Visitor<'de> for Setting {
            type Value = CeilingSetting;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("\"off\", or { input = \"…\", output = \"…\" } in USD per million tokens")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<CeilingSetting, E> {
                if text == "off" {
                    return Ok(CeilingSetting::Off);
                }
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<CeilingSetting, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Prices {
                    input: Money,
                    output: Money,
                }
                let prices = Prices::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                let rate = |price: Money| {
                    Rate::parse(&price.to_string(), 1_000_000).ok_or_else(|| {
                        A::Error::custom(format!("{price} is no price: it must not be negative or absurdly high"))
                    })
                };
                Ok(CeilingSetting::At(Ceiling { input: rate(prices.input)?, output: rate(prices.output)? }))
            }
        }
        deserializer.deserialize_any(Setting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::Bucket;

    #[test]
    fn every_token_counts() {
        let usage = [(Bucket::CacheRead, 1_000_000), (Bucket::InputUncached, 1), (Bucket::Reasoning, 1_000)];
        let usage: Usage = usage.into_iter().collect();
        assert_eq!(Ceiling::default().of(&usage).to_string(), "15.075015");
        assert_eq!(Ceiling::default().of(&Usage::ZERO), Money::ZERO);
    }

    #[test]
    fn it_can_be_set_and_switched_off() {
        #[derive(Debug, Deserialize)]
        struct Table {
            ceiling: CeilingSetting,
        }
        let read = |text: &str| toml::from_str::<Table>(text).map(|table| table.ceiling.ceiling());
        assert_eq!(read("ceiling = \"off\"").unwrap(), None);
        let set = read("ceiling = { input = \"3\", output = \"15\" }").unwrap().unwrap();
        assert_eq!(set, Ceiling { input: Rate::per_million(3), output: Rate::per_million(15) });
        for wrong in
            ["\"no\"", "{ input = \"-1\", output = \"1\" }", "{ input = 1.5, output = \"1\" }", "{ input = \"1\" }"]
        {
            assert!(read(&format!("ceiling = {wrong}")).is_err(), "{wrong}");
        }
    }
}
