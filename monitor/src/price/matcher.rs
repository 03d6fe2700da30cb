//! Rules that recognise a provider or a model by its name.

use std::{borrow::Cow, sync::OnceLock};

use fancy_regex::{Regex, RegexBuilder};
use jiff::civil::Date;
use serde::{Deserialize, Deserializer};

/// A name in lower case: matchers ignore case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Folded(Box<str>);

impl Folded {
    pub(super) fn new(name: &str) -> Self {
        Self(name.to_lowercase().into())
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Folded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&Cow::<str>::deserialize(deserializer)?))
    }
}

/// A rule of the catalogue on a name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Matcher {
    StartsWith(Folded),
    EndsWith(Folded),
    Contains(Folded),
    Equals(Folded),
    Regex(Pattern),
    Or(Box<[Matcher]>),
    And(Box<[Matcher]>),
}

impl Matcher {
    pub(super) fn is_match(&self, name: &Folded) -> bool {
        let text = name.as_str();
        match self {
            Self::StartsWith(part) => text.starts_with(part.as_str()),
            Self::EndsWith(part) => text.ends_with(part.as_str()),
            Self::Contains(part) => text.contains(part.as_str()),
            Self::Equals(whole) => text == whole.as_str(),
            Self::Regex(pattern) => pattern.is_found_in(text),
            Self::Or(rules) => rules.iter().any(|rule| rule.is_match(name)),
            Self::And(rules) => rules.iter().all(|rule| rule.is_match(name)),
        }
    }

    /// The first pattern within that is no regular expression.
    pub(super) fn broken_pattern(&self) -> Option<&str> {
        match self {
            Self::Regex(pattern) => pattern.regex().is_none().then_some(&*pattern.source),
            Self::Or(rules) | Self::And(rules) => rules.iter().find_map(Self::broken_pattern),
            _ => None,
        }
    }
}

/// A regular expression, searched for anywhere in the name. Some use look-ahead. Compiled when first asked, since most
/// never are.
#[derive(Debug)]
pub(super) struct Pattern {
    source: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

/// Look-ahead needs backtracking, and names come from the processes that are watched: past this many steps a name
/// counts as not recognised. The catalogue's own names need a few dozen.
const BACKTRACK_LIMIT: usize = 20_000;

impl Pattern {
    fn is_found_in(&self, text: &str) -> bool {
        self.regex().is_some_and(|regex| regex.is_match(text).unwrap_or(false))
    }

    fn regex(&self) -> Option<&Regex> {
        let compile = || RegexBuilder::new(&self.source).backtrack_limit(BACKTRACK_LIMIT).build().ok();
        self.compiled.get_or_init(compile).as_ref()
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { source: Box::deserialize(deserializer)?, compiled: OnceLock::new() })
    }
}

/// Rewrites dates from the form `-20251211`, which gateways send, to the form `-2025-12-11` of the catalogue. `None` if
/// there is no date to rewrite.
pub(super) fn with_dashed_dates(name: &str) -> Option<String> {
    let mut dashed = String::new();
    let mut done = 0;
    for (at, _) in name.match_indices('-') {
        if at < done {
            continue;
        }
        if let Some((year, month, day)) = compact_date(&name[at + 1..]) {
            dashed.push_str(&name[done..=at]);
            dashed.push_str(&format!("{year}-{month}-{day}"));
            done = at + 1 + COMPACT_DATE;
        }
    }
    (done > 0).then(|| dashed + &name[done..])
}

/// Length of `20251211`.
const COMPACT_DATE: usize = 8;

/// The parts of a compact date of this century that `text` begins with, if the name or a part of it ends there.
fn compact_date(text: &str) -> Option<(&str, &str, &str)> {
    let date = text.get(..COMPACT_DATE).filter(|date| date.starts_with("20"))?;
    let ends = text[COMPACT_DATE..].is_empty() || text[COMPACT_DATE..].starts_with(['-', ':']);
    if !ends || !date.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let parts = (&date[..4], &date[4..6], &date[6..]);
    Date::new(parts.0.parse().ok()?, parts.1.parse().ok()?, parts.2.parse().ok()?).ok()?;
    Some(parts)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(rule: &str, name: &str) -> bool {
        serde_json::from_str::<Matcher>(rule).unwrap().is_match(&Folded::new(name))
    }

    #[test]
    fn plain_rules_ignore_case() {
        assert!(matches(r#"{"starts_with": "GLM-"}"#, "glm-5"));
        assert!(matches(r#"{"starts_with": "glm-"}"#, "GLM-5"));
        assert!(!matches(r#"{"starts_with": "glm-"}"#, "x-glm-5"));
        assert!(matches(r#"{"ends_with": ":Free"}"#, "model:FREE"));
        assert!(matches(r#"{"contains": "claude"}"#, "us.anthropic.Claude-3"));
        assert!(matches(r#"{"equals": "gpt-4o"}"#, "GPT-4o"));
        assert!(!matches(r#"{"equals": "gpt-4o"}"#, "gpt-4o-mini"));
    }

    #[test]
    fn patterns_are_searched_and_may_look_ahead() {
        assert!(matches(r#"{"regex": "^o[134]"}"#, "O3-mini"));
        assert!(!matches(r#"{"regex": "^o[134]"}"#, "foo3"));
        let not_speech = r#"{"regex": "^(?!.*-[tT][tT][sS](?:$|-))"}"#;
        assert!(matches(not_speech, "gemini-2.5-pro"));
        assert!(!matches(not_speech, "gemini-2.5-pro-preview-tts"));
    }

    #[test]
    fn rules_combine() {
        let rule = r#"{"and": [{"contains": "huggingface"}, {"or": [{"contains": "groq"}, {"equals": "x"}]}]}"#;
        assert!(matches(rule, "huggingface/groq"));
        assert!(!matches(rule, "groq"));
        assert!(!matches(rule, "x"));
    }

    #[test]
    fn a_pattern_that_backtracks_without_end_does_not_match() {
        assert!(!matches(r#"{"regex": "^(?=(a+)+$)(a|aa)+b"}"#, &"a".repeat(60)));
    }

    #[test]
    fn compact_dates_get_dashes() {
        let dashed = |name| with_dashed_dates(name).unwrap_or_default();
        assert_eq!(dashed("gpt-5.2-20251211"), "gpt-5.2-2025-12-11");
        assert_eq!(dashed("m-20251211:free"), "m-2025-12-11:free");
        assert_eq!(dashed("m-20251211-20240229-x"), "m-2025-12-11-2024-02-29-x");
        for name in
            ["m-20251311", "m-20250229", "m-19991231", "m-202512111", "m20251211", "m-2025121", "m-20251211x", ""]
        {
            assert_eq!(with_dashed_dates(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_name_is_safe(name in "[-0-2:é]{0,40}|.*") {
            let _ = with_dashed_dates(&name);
        }
    }
}
