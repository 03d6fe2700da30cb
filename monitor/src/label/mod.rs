//! Which cgroups are tasks: labels that an administrator has put on them, and rules that recognise them by their paths.
//!
//! In: the path of a cgroup, as seen from the root of the hierarchy, and its extended attributes. Out: the task that it is, with its labels and its
//! budget, or nothing.
//!
//! **Invariant:** pure. A label goes before every rule, and of the rules the first that fits holds.
#![forbid(unsafe_code)]

mod attributes;
mod pattern;
mod place;
mod rule;

pub use attributes::{Attribute, InvalidAttribute};
pub use pattern::{Pattern, Template};
pub use place::{Container, Place};
pub use rule::{InvalidRule, Kind, Rule, Rules};

use serde::{Deserialize, Serialize};

use crate::{
    budget::Settings,
    task::{Label, TaskId},
};

/// What is said of a cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    pub task: TaskId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Label>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Label>,
    /// What is not said is as for every other task.
    #[serde(default)]
    pub budget: Settings,
}
