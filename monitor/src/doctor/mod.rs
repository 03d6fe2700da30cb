//! `tollgate doctor`: whether this host can be metered, and what to do where it cannot.
//!
//! In: the kernel's files, libraries and processes of the host, the daemon and its ledger. Out: a [`Check`] for each, with advice. A file for each
//! kind of thing that is looked at; `mod.rs` has the list of checks.
//!
//! **Invariant:** changes nothing, needs neither root nor a daemon: what could not be looked at is said, and is not called well. Bounded in
//! files and time. Of command lines, nothing is shown: they can hold prompts and keys.
#![deny(unsafe_code)]

mod agents;
mod cgroups;
mod clock;
mod daemon;
mod kernel;
mod ledger;
mod libraries;
mod prices;
mod processes;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::Serialize;

use crate::{api::client::Client, config::Config};

use daemon::Answer;
use processes::Processes;

/// How well something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Ok,
    /// Something is missed, or could not be looked at.
    Warn,
    /// What Tollgate is for does not work.
    Fail,
}

/// What was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// One word, for programs.
    pub check: &'static str,
    pub verdict: Verdict,
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<Item>,
}

/// One of several things that a check looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    pub name: String,
    pub verdict: Verdict,
    pub found: String,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Ok, found: found.into(), advice: None, items: Vec::new() }
    }

    fn warn(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, advice: Some(advice.into()), ..Self::ok(check, found) }
    }

    fn fail(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, advice: Some(advice.into()), ..Self::ok(check, found) }
    }

    fn with(mut self, items: Vec<Item>) -> Self {
        self.items = items;
        self
    }
}

/// What is to be looked at.
#[derive(Debug)]
pub struct Subject {
    /// The configuration that holds, or why there is none.
    pub config: Result<Config, String>,
    pub state_dir: PathBuf,
    pub client: Client,
}

/// Looks at everything.
pub async fn examine(subject: &Subject) -> Vec<Check> {
    let defaults = Config::default();
    let config = subject.config.as_ref().unwrap_or(&defaults);
    let answer = Answer::of(&subject.client).await;
    let processes = Processes::all();
    let mut checks = vec![configuration(&subject.config)];
    checks.extend(kernel::checks(config));
    checks.push(cgroups::check());
    checks.push(libraries::check(&processes));
    checks.push(daemon::check(&answer, config));
    checks.push(agents::check(&processes, &answer));
    checks.extend(ledger::checks(&subject.state_dir, &answer));
    checks.push(prices::check(&subject.state_dir));
    checks.push(clock::check());
    checks
}

fn configuration(config: &Result<Config, String>) -> Check {
    match config {
        Ok(_) => Check::ok("configuration", "valid"),
        Err(why) => Check::fail("configuration", why, "correct it; everything below was looked at with the defaults"),
    }
}
