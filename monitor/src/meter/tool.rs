//! Tool calls: requests that cost by an administrator's rule, and calls of MCP tools.
//!
//! Source of the latter: the Model Context Protocol ("Streamable HTTP", "Tools"): JSON-RPC by POST, answered by a document or a stream.

use serde::Deserialize;

use super::json::Node;
use crate::price::Money;

/// What calls of a tool cost.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What the tool is called on the bill.
    pub name: Box<str>,
    /// Host name, without port. `*` stands for any part of it.
    pub host: Box<str>,
    /// Path, without query. `*` stands for any part of it.
    #[serde(default = "anything")]
    pub path: Box<str>,
    /// Any, if it is not set.
    pub method: Option<Box<str>>,
    /// The MCP tool that is called there; then only its calls are meant.
    pub mcp_tool: Option<Box<str>>,
    #[serde(default)]
    pub price_per_call: Money,
    /// For each item that is found at `items`.
    #[serde(default)]
    pub price_per_item: Money,
    /// Where the answer has its items: names of members, joined by dots, of an array or of a number.
    pub items: Option<Box<str>>,
    /// For each MiB of the answer.
    #[serde(default)]
    pub price_per_mib: Money,
}

fn anything() -> Box<str> {
    "*".into()
}

/// All rules. The first that fits a request is its rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// What is wrong with a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WrongRule {
    #[error("a tool needs a name and a host")]
    Nameless,
    #[error("tool `{0}`: prices must not be negative")]
    Negative(Box<str>),
    #[error("tool `{0}`: `price_per_item` and `items` need each other")]
    Itemless(Box<str>),
}

impl Rules {
    /// Takes the rules, if they make sense.
    ///
    /// # Errors
    /// The first that does not.
    pub fn new(rules: Vec<Rule>) -> Result<Self, WrongRule> {
        for rule in &rules {
            if rule.name.is_empty() || rule.host.is_empty() {
                return Err(WrongRule::Nameless);
            }
            if [rule.price_per_call, rule.price_per_item, rule.price_per_mib].iter().any(|price| price.is_negative()) {
                return Err(WrongRule::Negative(rule.name.clone()));
            }
            if rule.items.is_some() == rule.price_per_item.is_zero() {
                return Err(WrongRule::Itemless(rule.name.clone()));
            }
        }
        Ok(Self(rules))
    }

    /// The rule for a request by its head alone.
    pub fn of_request(&self, method: &str, host: &str, path: &str) -> Option<&Rule> {
        self.0.iter().find(|rule| rule.mcp_tool.is_none() && rule.fits(method, host, path))
    }

    /// The rule for a call of an MCP tool.
    pub fn of_mcp(&self, host: &str, path: &str, tool: &str) -> Option<&Rule> {
        let is_it = |rule: &&Rule| rule.mcp_tool.as_deref().is_some_and(|pattern| matches(pattern, tool));
        self.0.iter().find(|rule| is_it(rule) && rule.fits("POST", host, path))
    }
}

impl Rule {
    fn fits(&self, method: &str, host: &str, path: &str) -> bool {
        let is_method = self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method));
        is_method && matches(&self.host, host) && matches(&self.path, path)
    }

    /// What a call costs at least.
    pub fn least(&self) -> Money {
        self.price_per_call
    }

    /// What a call cost, and whether everything was there to tell.
    pub fn cost(&self, answer: &Node, bytes: u64) -> (Money, Whole) {
        let (items, whole) = match self.items.as_deref().map(|path| count_at(answer, path)) {
            None => (0, Whole::Yes),
            Some(Some((items, whole))) => (items, whole),
            Some(None) => (0, Whole::No),
        };
        let size = i128::from(bytes).saturating_mul(self.price_per_mib.pico_usd()) / MIB;
        let cost = self
            .price_per_call
            .saturating_add(self.price_per_item.saturating_mul(items))
            .saturating_add(Money::from_pico_usd(size));
        (cost, whole)
    }
}

/// Whether everything that a price depends on was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    Yes,
    No,
}

const MIB: i128 = 1 << 20;

/// How many items there are at a path: of an array that was too long to be kept, at least so many.
fn count_at(answer: &Node, path: &str) -> Option<(u64, Whole)> {
    let names: Vec<&str> = path.split('.').filter(|name| !name.is_empty() && *name != "$").collect();
    match answer.path(&names)? {
        Node::Array(items) => {
            let whole = if items.len() < super::json::ITEMS { Whole::Yes } else { Whole::No };
            Some((items.len() as u64, whole))
        }
        number => Some((number.count()?, Whole::Yes)),
    }
}

/// Whether a text fits a pattern, in which `*` stands for any part.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut last = None;
    for part in parts {
        if let Some(part) = last.replace(part) {
            let Some((_, after)) = split_at_first(rest, part) else { return false };
            rest = after;
        }
    }
    match last {
        None => rest.is_empty(),
        Some(last) => rest.ends_with(last),
    }
}

fn split_at_first<'a>(text: &'a str, part: &str) -> Option<(&'a str, &'a str)> {
    if part.is_empty() { Some(("", text)) } else { text.split_once(part) }
}

/// The tool that a request of MCP calls.
pub fn mcp_tool(request: &Node) -> Option<&str> {
    let is_call = request.get("jsonrpc").is_some() && request.get("method").and_then(Node::text) == Some("tools/call");
    if is_call { request.path(&["params", "name"]).and_then(Node::text) } else { None }
}

#[cfg(test)]
mod tests {
    use super::{Rule, Rules, Whole, WrongRule, matches};
    use crate::{
        meter::json::{Node, Skimmer},
        price::Money,
    };

    fn usd(text: &str) -> Money {
        text.parse().expect("an amount")
    }

    fn rule() -> Rule {
        Rule {
            name: "search".into(),
            host: "*.serper.dev".into(),
            path: "/search*".into(),
            method: None,
            mcp_tool: None,
            price_per_call: usd("0.001"),
            price_per_item: usd("0.0001"),
            items: Some("results.organic".into()),
            price_per_mib: usd("0.5"),
        }
    }

    fn read(text: &str) -> Node {
        Skimmer::read(text.as_bytes(), &mut ()).0
    }

    #[test]
    fn patterns() {
        for (pattern, text, is_match) in [
            ("*", "", true),
            ("api.x", "api.x", true),
            ("api.x", "api.xy", false),
            ("*.x", "a.b.x", true),
            ("*.x", ".x", true),
            ("*.x", "x", false),
            ("/a*/c", "/ab/c", true),
            ("/a*/c", "/a/c/c", true),
            ("/a*/c", "/ab/cd", false),
            ("a*a", "a", false),
            ("*a*b*", "xxaybz", true),
            ("*a*b*", "b a", false),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
    }

    #[test]
    fn a_call_costs_by_itself_by_its_items_and_by_its_size() {
        let three = read(r#"{"results": {"organic": [1, {}, "x"]}}"#);
        assert_eq!(rule().cost(&three, 1 << 19), (usd("0.2513"), Whole::Yes));
        assert_eq!(rule().cost(&read(r#"{"results": {"organic": 7}}"#), 0), (usd("0.0017"), Whole::Yes));
        // What is not there was perhaps not understood.
        assert_eq!(rule().cost(&read("{}"), 0), (usd("0.001"), Whole::No));
        let many = format!(r#"{{"results": {{"organic": [{}0]}}}}"#, "0,".repeat(1000));
        assert_eq!(rule().cost(&read(&many), 0).1, Whole::No);
    }

    #[test]
    fn the_first_rule_that_fits_holds() {
        let rules = Rules::new(vec![Rule { mcp_tool: Some("get_*".into()), name: "mcp".into(), ..rule() }, rule()])
            .expect("rules");
        let name = |rule: Option<&Rule>| rule.map(|rule| rule.name.to_string());
        assert_eq!(name(rules.of_request("GET", "google.serper.dev", "/search")), Some("search".into()));
        assert_eq!(name(rules.of_mcp("google.serper.dev", "/search", "get_page")), Some("mcp".into()));
        assert_eq!(name(rules.of_mcp("google.serper.dev", "/search", "put_page")), None);
        assert_eq!(name(rules.of_request("GET", "serper.dev", "/search")), None);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let itemless = Rule { items: None, ..rule() };
        assert_eq!(Rules::new(vec![itemless]), Err(WrongRule::Itemless("search".into())));
        let negative = Rule { price_per_call: usd("-1"), ..rule() };
        assert_eq!(Rules::new(vec![negative]), Err(WrongRule::Negative("search".into())));
    }
}
