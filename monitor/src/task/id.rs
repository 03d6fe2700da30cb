//! Names of tasks.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The name of a task: also the name of its cgroup, so it is one path component without surprises.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TaskId(Box<str>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a task name: use 1 to {most} letters, digits, `-`, `_`, `:`, `@`, `+` or `.`, and begin with a letter or digit",
    most = TaskId::MAX_LEN
)]
pub struct InvalidTaskId(String);

impl TaskId {
    /// Longest name; a cgroup directory may have 255 bytes.
    pub const MAX_LEN: usize = 128;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TaskId {
    type Err = InvalidTaskId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_:@+.".contains(c);
        let begins_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        // `cgroup.` is the kernel's own prefix for files of a cgroup.
        if text.len() > Self::MAX_LEN || !begins_well || !text.chars().all(allowed) || text.starts_with("cgroup.") {
            return Err(InvalidTaskId(text.chars().take(Self::MAX_LEN).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for TaskId {
    type Error = InvalidTaskId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TaskId> for String {
    fn from(id: TaskId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::TaskId;

    #[test]
    fn names_are_one_harmless_path_component() {
        for good in ["a", "build-7", "ci:main@host", "v1.2+x"] {
            assert!(good.parse::<TaskId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "a/b", "a b", "-rf", "cgroup.procs", "ü", &"x".repeat(129)] {
            assert!(bad.parse::<TaskId>().is_err(), "{bad}");
        }
    }
}
