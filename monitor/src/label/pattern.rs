//! Patterns of cgroup paths and unit names, and what is made of what they capture.

use std::fmt;

use regex::Regex;

use crate::task::TaskId;

/// Longest pattern that is taken, and longest name that is made.
const LONGEST: usize = 1024;

/// A pattern: `*` stands for any part of a name, `**` for any part of a path, `{name}` for a part of a name that is captured. All of a text must fit.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// A name with `{captures}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Capture(String),
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    if text.len() > LONGEST {
        return Err(format!("longer than {LONGEST} bytes"));
    }
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        if before.contains('}') {
            return Err("a `}` without its `{`".into());
        }
        let (name, after) = after.split_once('}').ok_or("a `{` without its `}`")?;
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if !is_name {
            return Err(format!("`{{{name}}}`: a capture is named by letters, digits and `_`"));
        }
        pieces.push(Piece::Text(before.into()));
        pieces.push(Piece::Capture(name.into()));
        rest = after;
    }
    if rest.contains('}') {
        return Err("a `}` without its `{`".into());
    }
    pieces.push(Piece::Text(rest.into()));
    Ok(pieces)
}

impl Pattern {
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let mut expression = String::from("^(?s)");
        for piece in pieces(text)? {
            match piece {
                Piece::Text(text) => {
                    for (index, part) in text.split("**").enumerate() {
                        expression.push_str(if index > 0 { ".*" } else { "" });
                        let parts: Vec<_> = part.split('*').map(regex::escape).collect();
                        expression.push_str(&parts.join("[^/]*"));
                    }
                }
                Piece::Capture(name) => expression.push_str(&format!("(?P<{name}>[^/]+?)")),
            }
        }
        expression.push('$');
        Regex::new(&expression).map(Self).map_err(|error| error.to_string().lines().last().unwrap_or_default().into())
    }

    pub fn fits(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// What was captured, by name.
    pub fn captures(&self, text: &str) -> Vec<(String, String)> {
        let Some(found) = self.0.captures(text) else { return Vec::new() };
        let names = self.0.capture_names().flatten();
        names.filter_map(|name| Some((name.to_owned(), found.name(name)?.as_str().to_owned()))).collect()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.capture_names().flatten()
    }
}

impl Template {
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        pieces(text).map(Self)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Capture(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The name that it makes; `None` where a capture is missing, or no name comes out. What may not stand in a name becomes `_`.
    pub fn fill(&self, value: impl Fn(&str) -> Option<String>) -> Option<TaskId> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Capture(name) => {
                    let value = unescape(&value(name)?);
                    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_:@+.".contains(c);
                    text.extend(value.chars().map(|c| if harmless(c) { c } else { '_' }));
                }
            }
        }
        text.truncate(text.floor_char_boundary(TaskId::MAX_LEN));
        text.parse().ok()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Text(text) => f.write_str(text),
            Piece::Capture(name) => write!(f, "{{{name}}}"),
        })
    }
}

/// systemd writes characters that a unit's name may not have as `\x2d` (systemd-escape(1)).
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\\x") {
        out.push_str(before);
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii);
        match byte {
            Some(byte) => {
                out.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push_str("\\x");
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Template};

    #[test]
    fn a_star_stays_within_a_name_and_two_do_not() {
        let fits = |pattern: &str, text: &str| Pattern::new(pattern).expect(pattern).fits(text);
        assert!(fits("/agents.slice/*", "/agents.slice/a.service"));
        assert!(!fits("/agents.slice/*", "/agents.slice/a.slice/b.service"));
        assert!(!fits("/agents.slice/*", "/agentsXslice/a.service"));
        assert!(fits("/agents.slice/**", "/agents.slice/a.slice/b.service"));
        assert!(fits("**/b.service", "/agents.slice/a.slice/b.service"));
        assert!(!fits("/a", "/a/b") && !fits("/a", "/x/a"));
        assert!(fits("/a+(b)", "/a+(b)"));
        assert!(fits("/{x}", "/\n") && !fits("/{x}", "/"));
    }

    #[test]
    fn captures_make_names() {
        let pattern = Pattern::new("/agents.slice/{team}-agent@{id}.service").expect("a pattern");
        let captures = pattern.captures("/agents.slice/red\\x2dish-agent@a b.service");
        let value = |name: &str| captures.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        let fill = |text: &str| Template::new(text).expect(text).fill(value).map(|name| name.to_string());
        assert_eq!(fill("t-{team}-{id}").as_deref(), Some("t-red-ish-a_b"));
        assert_eq!(fill("{absent}"), None);
        assert_eq!(fill("plain").as_deref(), Some("plain"));
        assert_eq!(
            Template::new("{a}x").expect("a template").fill(|_| Some("y".repeat(500))).expect("a name").as_str().len(),
            128
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        for wrong in ["{", "}", "{a", "a}", "{}", "{a-b}", "{a}{a}", "{1}", &"x".repeat(2000)] {
            assert!(Pattern::new(wrong).is_err(), "{wrong}");
        }
        assert!(Template::new("{a}{a}").is_ok());
    }

    #[test]
    fn escapes_that_are_none_stay() {
        for (escaped, plain) in
            [("a\\x2db", "a-b"), ("\\x", "\\x"), ("\\xzz", "\\xzz"), ("\\xff", "\\xff"), ("é\\x2", "é\\x2")]
        {
            assert_eq!(super::unescape(escaped), plain);
        }
    }
}
