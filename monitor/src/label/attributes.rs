//! Labels as extended attributes of a cgroup's directory, `trusted.tollgate.*`: only root writes them, and they go with the cgroup.

use super::Said;
use crate::budget::Settings;

/// One of the attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    Task,
    Tenant,
    Workflow,
    /// Settings of a budget, as JSON.
    Budget,
}

/// What cannot be understood of a label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the extended attribute {name} is wrong: {why}; set it again with `tollgate label`")]
pub struct InvalidAttribute {
    name: &'static str,
    why: String,
}

impl Attribute {
    pub const ALL: [Self; 4] = [Self::Task, Self::Tenant, Self::Workflow, Self::Budget];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Task => "trusted.tollgate.task",
            Self::Tenant => "trusted.tollgate.tenant",
            Self::Workflow => "trusted.tollgate.workflow",
            Self::Budget => "trusted.tollgate.budget",
        }
    }
}

impl Said {
    /// Reads a label from the attributes that are there; `None` where no task is named.
    ///
    /// # Errors
    /// When one of them cannot be understood.
    pub fn from_attributes(value: impl Fn(Attribute) -> Option<Vec<u8>>) -> Result<Option<Self>, InvalidAttribute> {
        let text = |attribute: Attribute| {
            let Some(bytes) = value(attribute) else { return Ok(None) };
            String::from_utf8(bytes).map(Some).map_err(|error| wrong(attribute, &error))
        };
        let name = |attribute: Attribute| {
            let Some(text) = text(attribute)? else { return Ok(None) };
            text.parse().map(Some).map_err(|error| wrong(attribute, &error))
        };
        let Some(task) = name(Attribute::Task)? else { return Ok(None) };
        let budget = match text(Attribute::Budget)? {
            Some(text) => serde_json::from_str::<Settings>(&text).map_err(|error| wrong(Attribute::Budget, &error))?,
            None => Settings::default(),
        };
        budget.budget().map_err(|error| wrong(Attribute::Budget, &error))?;
        let (tenant, workflow) = (name(Attribute::Tenant)?, name(Attribute::Workflow)?);
        Ok(Some(Self { task, tenant, workflow, budget }))
    }

    /// What the attribute is to be; `None` where it is not to be.
    pub fn attribute(&self, attribute: Attribute) -> Option<String> {
        match attribute {
            Attribute::Task => Some(self.task.to_string()),
            Attribute::Tenant => self.tenant.as_ref().map(ToString::to_string),
            Attribute::Workflow => self.workflow.as_ref().map(ToString::to_string),
            Attribute::Budget => {
                (self.budget != Settings::default()).then(|| serde_json::to_string(&self.budget).unwrap_or_default())
            }
        }
    }
}

fn wrong(attribute: Attribute, why: &dyn std::fmt::Display) -> InvalidAttribute {
    InvalidAttribute { name: attribute.name(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::{Attribute, Said};
    use crate::budget::Settings;

    #[test]
    fn labels_are_read_as_they_are_written() {
        let mut budget = Settings::default();
        budget.set("total=2.50").expect("a budget");
        budget.set("ladder=warn@50,cut@100").expect("a ladder");
        let name = |text: &str| text.parse().expect("a name");
        let said = Said { task: name("t7"), tenant: Some(name("acme")), workflow: None, budget };
        let read = Said::from_attributes(|attribute| said.attribute(attribute).map(String::into_bytes));
        assert_eq!(read, Ok(Some(said)));
        assert_eq!(Said::from_attributes(|_| None), Ok(None));
    }

    #[test]
    fn what_cannot_be_understood_is_named() {
        for (wrong, value) in [
            (Attribute::Task, &b"a/b"[..]),
            (Attribute::Tenant, b"\xff"),
            (Attribute::Budget, b"{"),
            (Attribute::Budget, br#"{"total":"-1"}"#),
            (Attribute::Budget, br#"{"totel":"1"}"#),
        ] {
            let value = |attribute| match attribute {
                _ if attribute == wrong => Some(value.to_vec()),
                Attribute::Task => Some(b"t7".to_vec()),
                _ => None,
            };
            let error = Said::from_attributes(value).expect_err("a wrong attribute").to_string();
            assert!(error.contains(wrong.name()), "{error}");
        }
    }
}
