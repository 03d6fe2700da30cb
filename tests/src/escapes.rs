//! What an agent might do to get away from its budget, as data: how it is tried, and how it must end.

mod native;
mod rows;

use serde::{Deserialize, Serialize};

pub use self::{native::native, rows::ROWS};

/// A way out.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// As its task is called.
    pub name: &'static str,
    pub way: &'static str,
    /// For `sh`, with `SCRIPTS`, `NATIVE`, and what the scripts read in the environment.
    pub start: &'static str,
    /// In USD; a call costs 0.0035.
    pub cap: &'static str,
    pub user: User,
    pub end: End,
    /// An alert about the task that there must be: its decision, and what it says.
    pub alert: Option<(&'static str, &'static str)>,
    /// What a reader should know of the result.
    pub note: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Root,
    /// Without any right.
    Nobody,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// Its calls reach the cap and no further one leaves; every process of the task is gone.
    Stopped,
    /// No call leaves beyond the cap; what waits stands still, or is gone.
    Held,
    /// It leads out, in part at least, and is said loudly.
    Reported,
}

impl End {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped at the cap",
            Self::Held => "held",
            Self::Reported => "reported",
        }
    }
}

/// A row with what a run of it showed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    pub name: String,
    /// Calls that were billed to it.
    pub calls: usize,
    /// Why it was not as expected.
    pub failure: Option<String>,
}

/// What stands around the table in `ESCAPES.md`.
pub const MARKERS: [&str; 2] = ["<!-- escapes -->\n", "<!-- /escapes -->"];

pub const HEAD: &str = "| what is tried | as | ends | said |\n|---|---|---|---|\n";

/// A line of the table.
pub fn line(row: &Row) -> String {
    let user = match row.user {
        User::Root => "root",
        User::Nobody => "nobody",
    };
    let said = row.alert.map_or_else(|| "`kill`".to_owned(), |(decision, _)| format!("`{decision}`"));
    let note = if row.note.is_empty() { String::new() } else { format!(": {}", row.note) };
    format!("| {} | {user} | {}{note} | {said} |\n", row.way, row.end.name())
}

/// The text between the markers.
pub fn section(text: &str) -> Option<&str> {
    let [start, end] = MARKERS;
    text.split_once(start)?.1.split_once(end).map(|(section, _)| section)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs};

    use super::{HEAD, ROWS, line, section};
    use crate::build_tree;

    /// That the results hold is what the live tests show.
    #[test]
    fn the_table_has_every_way_and_no_other() {
        let text = fs::read_to_string(build_tree::workspace().join("ESCAPES.md")).expect("ESCAPES.md");
        let table = section(&text).and_then(|section| section.strip_prefix(HEAD)).expect("the table and its markers");
        let expected: String = ROWS.iter().map(line).collect();
        assert_eq!(table, expected, "run the live tests, then `cargo xtask matrix`");
    }

    #[test]
    fn names_are_told_apart() {
        let names: BTreeSet<_> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }
}
