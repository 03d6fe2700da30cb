//! Which models and tools may be called, and which calls need a person's yes.

use regex::{Regex, RegexBuilder};

use super::{
    hold::{Consent, Estimate},
    reason::Reason,
};
use crate::price::Money;

/// A name with `*` for anything and `?` for one character; upper and lower case are the same.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is too long for a pattern of names: use up to {LONGEST} characters")]
pub struct InvalidPattern(String);

const LONGEST: usize = 256;

impl std::str::FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPattern(text.chars().take(LONGEST).collect());
        if text.len() > LONGEST {
            return Err(invalid());
        }
        let escaped = regex::escape(text).replace(r"\*", ".*").replace(r"\?", ".");
        let regex =
            RegexBuilder::new(&format!("^{escaped}$")).case_insensitive(true).dot_matches_new_line(true).build();
        regex.map(Self).map_err(|_| invalid())
    }
}

impl Pattern {
    pub fn matches(&self, name: &str) -> bool {
        self.0.is_match(name)
    }
}

/// What is allowed: everything, unless `allow` names something; and nothing that `deny` names.
#[derive(Debug, Clone, Default)]
pub struct Names {
    pub allow: Vec<Pattern>,
    pub deny: Vec<Pattern>,
}

impl Names {
    fn permits(&self, name: &str) -> bool {
        let is_in = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.matches(name));
        !is_in(&self.deny) && (self.allow.is_empty() || is_in(&self.allow))
    }
}

/// Calls that wait until a person has said yes: those to which everything that is named here applies.
#[derive(Debug, Clone, Default)]
pub struct ApprovalRule {
    pub model: Option<Pattern>,
    pub tool: Option<Pattern>,
    /// Estimated to cost more than this.
    pub above: Option<Money>,
}

impl ApprovalRule {
    /// Why the call needs approval. A rule that names nothing applies to nothing.
    fn applies(&self, call: &Estimate<'_>, estimate: Money) -> Option<Reason> {
        let mut why = None;
        if let Some(pattern) = &self.model {
            let model = call.model.filter(|model| pattern.matches(model))?;
            why = Some(Reason::ModelNeedsApproval(model.into()));
        }
        if let Some(pattern) = &self.tool {
            let tool = call.tool.filter(|tool| pattern.matches(tool))?;
            why = Some(Reason::ToolNeedsApproval(tool.into()));
        }
        if let Some(above) = self.above {
            if estimate <= above {
                return None;
            }
            why = Some(Reason::CostNeedsApproval { estimate, above });
        }
        why
    }
}

/// Rules of an account; those of the accounts above it hold as well.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    pub models: Names,
    pub tools: Names,
    pub approvals: Vec<ApprovalRule>,
}

/// What the rules say to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    Allow,
    Approve(Reason),
    Deny(Reason),
}

impl Rules {
    /// Whether every request has to be looked at before it may start, so that none may start on a credit.
    pub(super) fn look_at_all(&self) -> bool {
        let names = |names: &Names| !names.allow.is_empty() || !names.deny.is_empty();
        names(&self.models) || names(&self.tools) || !self.approvals.is_empty()
    }

    /// `estimate` is what the call is held for.
    pub fn rule(&self, call: &Estimate<'_>, estimate: Money, consent: Consent) -> Ruling {
        if let Some(model) = call.model.filter(|model| !self.models.permits(model)) {
            return Ruling::Deny(Reason::ModelDenied(model.into()));
        }
        if let Some(tool) = call.tool.filter(|tool| !self.tools.permits(tool)) {
            return Ruling::Deny(Reason::ToolDenied(tool.into()));
        }
        let needed = self.approvals.iter().find_map(|rule| rule.applies(call, estimate));
        match needed {
            Some(reason) if consent == Consent::None => Ruling::Approve(reason),
            _ => Ruling::Allow,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ApprovalRule, Names, Pattern, Rules, Ruling};
    use crate::{
        budget::{Consent, Estimate, Reason},
        price::Money,
    };

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().expect("a pattern")).collect()
    }

    fn model(name: &str) -> Estimate<'_> {
        Estimate { model: Some(name), ..Estimate::default() }
    }

    fn tool(name: &str) -> Estimate<'_> {
        Estimate { tool: Some(name), ..Estimate::default() }
    }

    #[test]
    fn patterns_are_names_and_nothing_else() {
        let matches = |pattern: &str, name: &str| pattern.parse::<Pattern>().expect(pattern).matches(name);
        assert!(matches("gpt-5*", "GPT-5.1-mini"));
        assert!(matches("mcp__?__*", "mcp__x__create\nissue"));
        assert!(!matches("gpt.5", "gpt-5"));
        assert!(!matches("gpt-5", "gpt-5-mini"));
        assert!(matches("(a|b)[", "(A|b)["));
        assert!("x".repeat(257).parse::<Pattern>().is_err());
    }

    #[test]
    fn what_is_denied_is_denied_though_allowed() {
        let rules = Rules {
            models: Names { allow: patterns(&["claude-*"]), deny: patterns(&["*opus*"]) },
            tools: Names { allow: Vec::new(), deny: patterns(&["shell"]) },
            approvals: Vec::new(),
        };
        let ruling = |call| rules.rule(&call, Money::ZERO, Consent::Given);
        assert_eq!(ruling(model("claude-sonnet-5")), Ruling::Allow);
        assert_eq!(ruling(model("claude-opus-5")), Ruling::Deny(Reason::ModelDenied("claude-opus-5".into())));
        assert_eq!(ruling(model("gpt-5")), Ruling::Deny(Reason::ModelDenied("gpt-5".into())));
        assert_eq!(ruling(tool("shell")), Ruling::Deny(Reason::ToolDenied("shell".into())));
        assert_eq!(ruling(tool("search")), Ruling::Allow);
        assert!(rules.look_at_all());
        assert!(!Rules::default().look_at_all());
    }

    #[test]
    fn approval_is_needed_where_all_of_a_rule_applies() {
        let above: Money = "0.5".parse().expect("money");
        let dear_opus =
            ApprovalRule { model: patterns(&["*opus*"]).pop(), above: Some(above), ..ApprovalRule::default() };
        let rules = Rules { approvals: vec![ApprovalRule::default(), dear_opus], ..Rules::default() };
        let dollar: Money = "1".parse().expect("money");
        let reason = Reason::CostNeedsApproval { estimate: dollar, above };
        assert_eq!(rules.rule(&model("opus"), dollar, Consent::None), Ruling::Approve(reason));
        assert_eq!(rules.rule(&model("opus"), dollar, Consent::Given), Ruling::Allow);
        assert_eq!(rules.rule(&model("opus"), above, Consent::None), Ruling::Allow);
        assert_eq!(rules.rule(&model("haiku"), dollar, Consent::None), Ruling::Allow);
    }
}
