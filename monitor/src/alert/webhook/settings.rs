//! What an administrator says of a webhook.

use std::{collections::HashSet, path::PathBuf};

use hyper::Uri;
use serde::Deserialize;

use crate::alert::Kind;

/// What is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Every field of the alert.
    #[default]
    Json,
    /// A line of text, as incoming webhooks of Slack (and Mattermost, and others) take it.
    Slack,
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// How it is called in metrics, messages and the ledger; without it, the host of its URL.
    pub name: Option<String>,
    /// Of scheme `https`.
    pub url: String,
    #[serde(default)]
    pub format: Format,
    /// File with the secret that bodies are signed with, without white space around it. Without it, they are not signed.
    pub secret_file: Option<PathBuf>,
    /// File with certificates (PEM) that are trusted instead of those of the system.
    pub ca_file: Option<PathBuf>,
    /// Which alerts it wants; without it, all.
    pub kinds: Option<Vec<Kind>>,
}

/// Characters of a name: it is a label of metrics.
const NAME: usize = 64;

impl Settings {
    pub fn name(&self) -> String {
        let host = || self.url.parse::<Uri>().ok().and_then(|url| Some(url.authority()?.host().to_owned()));
        self.name.clone().or_else(host).unwrap_or_default()
    }

    pub fn wants(&self, kind: &str) -> bool {
        self.kinds.as_ref().is_none_or(|kinds| kinds.iter().any(|wanted| wanted.name() == kind))
    }
}

/// Whether webhooks make sense. Their URLs may be secrets, so no message has one.
///
/// # Errors
/// What does not, in words.
pub fn check(all: &[Settings]) -> Result<(), String> {
    let mut names = HashSet::new();
    for (number, settings) in (1..).zip(all) {
        let wrong = |what: &str| Err(format!("webhook {number}: {what}"));
        let Ok(url) = settings.url.parse::<Uri>() else { return wrong("url is no URL") };
        if url.scheme_str() != Some("https") {
            return wrong("url must begin with https://");
        }
        if url.authority().is_none_or(|authority| authority.as_str().contains('@') || authority.host().is_empty()) {
            return wrong("url needs a host, and may not have a user");
        }
        let name = settings.name();
        let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "-_.:[]".contains(letter);
        if name.is_empty() || name.len() > NAME || !name.chars().all(is_letter) {
            return wrong("name must be 1 to 64 letters, digits, `-`, `_` and `.`");
        }
        if settings.kinds.as_ref().is_some_and(Vec::is_empty) {
            return wrong("kinds is empty: leave it out for all");
        }
        if settings.kinds.as_ref().is_some_and(|kinds| kinds.contains(&Kind::AuditHead)) {
            return wrong("kinds: `audit-head` is said in the journal alone");
        }
        if !names.insert(name.clone()) {
            return wrong(&format!("another one is called {name}: give each a `name`"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Settings, check};

    fn parse(text: &str) -> Result<Vec<Settings>, String> {
        #[derive(serde::Deserialize)]
        struct File {
            webhook: Vec<Settings>,
        }
        let file: File = toml::from_str(text).map_err(|error| error.message().to_owned())?;
        check(&file.webhook).map(|()| file.webhook)
    }

    #[test]
    fn what_makes_sense_is_taken() {
        let text = "[[webhook]]\nurl = \"https://hooks.example/a/b?c\"\nkinds = [\"kill\", \"cut-done\"]\n\
                    [[webhook]]\nname = \"chat\"\nurl = \"https://hooks.example\"\nformat = \"slack\"\nsecret_file = \"/s\"";
        let all = parse(text).expect("webhooks");
        assert_eq!(all.iter().map(Settings::name).collect::<Vec<_>>(), ["hooks.example", "chat"]);
        assert!(all[0].wants("kill") && !all[0].wants("warn") && all[1].wants("warn"));
    }

    #[test]
    fn what_does_not_is_refused_and_no_url_is_said() {
        let one = |keys: &str| parse(&format!("[[webhook]]\n{keys}")).expect_err(keys);
        assert_eq!(one("url = \"http://hooks.example/T0/s3cret\""), "webhook 1: url must begin with https://");
        assert_eq!(
            one("url = \"https://me:s3cret@hooks.example\""),
            "webhook 1: url needs a host, and may not have a user"
        );
        assert_eq!(one("url = \"nowhere at all\""), "webhook 1: url is no URL");
        assert!(
            one("url = \"https://a\"\nkinds = [\"kil\"]")
                .starts_with("`kil` is no kind of alert; there are `warn`, `kill`")
        );
        assert!(one("url = \"https://a\"\nkinds = []").contains("leave it out"));
        assert!(one("url = \"https://a\"\nkinds = [\"audit-head\"]").contains("journal alone"));
        assert!(one("url = \"https://a\"\nname = \"a\\\"b\"").contains("name must be"));
        assert!(
            one("url = \"https://a\"\n[[webhook]]\nurl = \"https://a/2\"")
                .contains("webhook 2: another one is called a")
        );
        assert!(one("url = \"https://a\"\nformat = \"xml\"").contains("unknown variant `xml`"));
        assert!(one("url = \"https://a\"\nsecret = \"s3cret\"").contains("unknown field"));
    }
}
