//! Who pays with whom: labels of tasks, and the names of the accounts that these put them below.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::id::{InvalidTaskId, TaskId};

/// Name of a tenant or a workflow; formed as a task's name is.
pub type Label = TaskId;

/// What the names of the tenants begin with that users' own tasks pay with.
pub const USER_TENANT: &str = "user-";

/// What a task is part of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Labels {
    /// The business unit that pays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<Label>,
    /// What many tasks do again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Label>,
    /// The task that this one is a part of; it pays with it, and its labels are those of that task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<TaskId>,
}

impl Labels {
    /// The accounts above a task with these labels, from the top down.
    pub fn above(&self) -> Vec<AccountName> {
        if let Some(parent) = &self.parent {
            return vec![AccountName::Task(parent.clone())];
        }
        let tenant = self.tenant.clone().map(AccountName::Tenant);
        let workflow =
            self.workflow.clone().map(|workflow| AccountName::Workflow { tenant: self.tenant.clone(), workflow });
        tenant.into_iter().chain(workflow).collect()
    }
}

/// An account, as people name it: `tenant=acme`, `workflow=nightly`, `workflow=acme/nightly`, or the name of a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AccountName {
    Tenant(Label),
    Workflow { tenant: Option<Label>, workflow: Label },
    Task(TaskId),
}

impl FromStr for AccountName {
    type Err = InvalidTaskId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(tenant) = text.strip_prefix("tenant=") {
            return tenant.parse().map(Self::Tenant);
        }
        let Some(workflow) = text.strip_prefix("workflow=") else { return text.parse().map(Self::Task) };
        Ok(match workflow.split_once('/') {
            Some((tenant, workflow)) => Self::Workflow { tenant: Some(tenant.parse()?), workflow: workflow.parse()? },
            None => Self::Workflow { tenant: None, workflow: workflow.parse()? },
        })
    }
}

impl fmt::Display for AccountName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(tenant) => write!(f, "tenant={tenant}"),
            Self::Workflow { tenant: Some(tenant), workflow } => write!(f, "workflow={tenant}/{workflow}"),
            Self::Workflow { tenant: None, workflow } => write!(f, "workflow={workflow}"),
            Self::Task(task) => write!(f, "{task}"),
        }
    }
}

impl TryFrom<String> for AccountName {
    type Error = InvalidTaskId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<AccountName> for String {
    fn from(name: AccountName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::{AccountName, Labels};

    #[test]
    fn names_are_read_as_they_are_written() {
        for name in ["tenant=acme", "workflow=nightly", "workflow=acme/nightly", "build-7", "ci:main@host"] {
            assert_eq!(name.parse::<AccountName>().expect(name).to_string(), name);
        }
        for wrong in ["tenant=", "tenant=a/b", "workflow=/x", "workflow=a/b/c", "a=b", ""] {
            assert!(wrong.parse::<AccountName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn accounts_above_a_task_are_those_of_its_labels() {
        let label = |text: &str| Some(text.parse().expect("a label"));
        let above = |labels: Labels| labels.above().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(above(Labels::default()).is_empty());
        let both = Labels { tenant: label("acme"), workflow: label("nightly"), parent: None };
        assert_eq!(above(both.clone()), ["tenant=acme", "workflow=acme/nightly"]);
        assert_eq!(above(Labels { tenant: None, ..both.clone() }), ["workflow=nightly"]);
        assert_eq!(above(Labels { parent: label("main"), ..both }), ["main"]);
    }
}
