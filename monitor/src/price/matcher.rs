//! Rules that say which names a model or provider goes by. Case does not count.

use serde::{Deserialize, Deserializer, de::Error as _};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Matcher {
    #[serde(deserialize_with = "lower_case")]
    StartsWith(String),
    #[serde(deserialize_with = "lower_case")]
    EndsWith(String),
    #[serde(deserialize_with = "lower_case")]
    Contains(String),
    #[serde(deserialize_with = "lower_case")]
    Equals(String),
    /// Searched anywhere in the name. Some patterns look ahead, which the `regex` crate cannot do.
    #[serde(deserialize_with = "pattern")]
    Regex(Box<fancy_regex::Regex>),
    Or(Vec<Self>),
    And(Vec<Self>),
}

impl Matcher {
    /// `name` in lower case.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::StartsWith(text) => name.starts_with(text.as_str()),
            Self::EndsWith(text) => name.ends_with(text.as_str()),
            Self::Contains(text) => name.contains(text.as_str()),
            Self::Equals(text) => name == text,
            // An error means that the pattern gave up on this name (backtracking is bounded): no match.
            Self::Regex(regex) => regex.is_match(name).unwrap_or(false),
            Self::Or(rules) => rules.iter().any(|rule| rule.matches(name)),
            Self::And(rules) => rules.iter().all(|rule| rule.matches(name)),
        }
    }
}

fn lower_case<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(String::deserialize(deserializer)?.to_lowercase())
}

fn pattern<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<fancy_regex::Regex>, D::Error> {
    let pattern = String::deserialize(deserializer)?;
    fancy_regex::Regex::new(&pattern).map(Box::new).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::Matcher;

    fn matcher(json: &str) -> Matcher {
        serde_json::from_str(json).expect("a matcher")
    }

    #[test]
    fn each_rule() {
        assert!(matcher(r#"{"starts_with": "GPT-4o"}"#).matches("gpt-4o-mini"));
        assert!(matcher(r#"{"ends_with": "mini"}"#).matches("gpt-4o-mini"));
        assert!(matcher(r#"{"contains": "4o"}"#).matches("gpt-4o-mini"));
        assert!(!matcher(r#"{"equals": "gpt-4o"}"#).matches("gpt-4o-mini"));
        assert!(matcher(r#"{"regex": "^gemini-\\d(?!.*-tts)"}"#).matches("gemini-3-pro"));
        assert!(!matcher(r#"{"regex": "^gemini-\\d(?!.*-tts)"}"#).matches("gemini-3-pro-tts"));
        assert!(matcher(r#"{"or": [{"equals": "a"}, {"equals": "b"}]}"#).matches("b"));
        assert!(!matcher(r#"{"and": [{"contains": "a"}, {"contains": "b"}]}"#).matches("b"));
    }
}
