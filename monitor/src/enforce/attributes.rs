//! Labels on cgroups: extended attributes of their directories (`trusted.*`, xattr(7)).

use std::path::Path;

use rustix::{
    fs::{XattrFlags, getxattr, removexattr, setxattr},
    io::Errno,
};

use crate::label::{Attribute, InvalidAttribute, Said};

/// More than any label has.
const LONGEST: usize = 16 * 1024;

#[derive(Debug, thiserror::Error)]
#[error("cannot write the label of {path}: {source}")]
pub struct AttributeError {
    path: String,
    source: Errno,
}

/// The label of a cgroup; `None` where there is none, or no such cgroup.
///
/// # Errors
/// When one of the attributes cannot be understood.
pub fn label_of(cgroup: &Path) -> Result<Option<Said>, InvalidAttribute> {
    Said::from_attributes(|attribute| {
        let mut value = vec![0; LONGEST];
        let length = getxattr(cgroup, attribute.name(), &mut value[..]).ok()?;
        value.truncate(length);
        Some(value)
    })
}

/// Writes a label, or takes it away. The name of the task goes last: until it is there, there is no label.
///
/// # Errors
/// When the kernel refuses.
pub fn write_label(cgroup: &Path, label: Option<&Said>) -> Result<(), AttributeError> {
    let failed = |source| AttributeError { path: cgroup.display().to_string(), source };
    for attribute in Attribute::ALL.into_iter().rev() {
        match label.and_then(|label| label.attribute(attribute)) {
            Some(value) => {
                setxattr(cgroup, attribute.name(), value.as_bytes(), XattrFlags::empty()).map_err(failed)?;
            }
            None => match removexattr(cgroup, attribute.name()) {
                Ok(()) | Err(Errno::NODATA) => {}
                Err(error) => return Err(failed(error)),
            },
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{label_of, write_label};
    use crate::label::Said;

    /// Needs root, as writing `trusted.*` does; without it, refusing is what must happen.
    #[test]
    fn labels_come_back_from_a_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        assert_eq!(label_of(path), Ok(None));
        let mut budget = crate::budget::Settings::default();
        budget.set("total=2").expect("a budget");
        let said = Said {
            task: "t7".parse().expect("a name"),
            tenant: Some("acme".parse().expect("a name")),
            workflow: None,
            budget,
        };
        if !nix::unistd::geteuid().is_root() {
            assert!(write_label(path, Some(&said)).is_err());
            return;
        }
        write_label(path, Some(&said)).expect("writing");
        assert_eq!(label_of(path), Ok(Some(said.clone())));
        write_label(path, Some(&Said { tenant: None, ..said.clone() })).expect("writing again");
        assert_eq!(label_of(path).expect("a label").expect("a label").tenant, None);
        write_label(path, None).expect("taking it away");
        assert_eq!(label_of(path), Ok(None));
    }
}
