//! Who may ask what: root and the daemon's own user everything; users whom the configuration allows it, tasks of their own; nobody else anything.
//!
//! A user's tasks pay with the tenant `user-NAME`, which has the budget that the administrator gives every user. By that name it is also known whose
//! a task is. Whether who asks is inside a task is another question, which the engine answers.

use std::{
    ffi::CString,
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use nix::unistd::{Group, Uid, User, getgrouplist};

use crate::{
    budget::Settings,
    config::Users,
    task::{AccountName, Label, Labels, USER_TENANT},
};

/// Only the daemon's own user.
const OWN: u32 = 0o600;
/// Everybody may ask, and is answered by who it is.
const EVERYBODY: u32 = 0o666;

/// Who asks, as far as it has any rights.
#[derive(Debug, Clone)]
pub enum Who {
    Administrator,
    /// The name of the account of the system, and the tenant that its tasks pay with.
    User {
        uid: u32,
        tenant: Label,
    },
}

/// Why something is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "only root and the daemon's own user may use this socket; an administrator can allow users to run tasks (`[users]` in the configuration)"
    )]
    Nobody,
    #[error("only an administrator may do this; as a user: run tasks, and see, pause and kill those of your own")]
    Administrator,
    #[error("tasks of a user pay with the tenant {0}: leave --tenant away")]
    Tenant(Label),
    #[error("a user's task is part of no other: leave --parent away")]
    Parent,
    #[error("only an administrator may say `{0}`: as a user, say how much or how many")]
    Setting(&'static str),
    #[error("`{0}` is more than an administrator allows")]
    TooMuch(&'static str),
    #[error("the cgroup {0} is not one of yours")]
    Cgroup(String),
}

/// What the configuration says of users, and the socket that it opens for them.
#[derive(Debug, Clone)]
pub struct Rights {
    users: Arc<RwLock<Users>>,
    socket: PathBuf,
}

impl Rights {
    pub fn new(socket: &Path) -> Self {
        Self { users: Arc::default(), socket: socket.into() }
    }

    /// What holds from now on.
    ///
    /// # Errors
    /// When the socket's mode cannot be set.
    pub fn set(&self, users: Users) -> io::Result<()> {
        let mode = if users.allow.is_empty() { OWN } else { EVERYBODY };
        *self.users.write().unwrap_or_else(PoisonError::into_inner) = users;
        std::fs::set_permissions(&self.socket, std::fs::Permissions::from_mode(mode))
    }

    /// Who a user is. Asks the system's databases of users and groups, which may take a while.
    ///
    /// # Errors
    /// When it may do nothing.
    pub fn who(&self, uid: Option<u32>) -> Result<Who, Refusal> {
        let uid = uid.ok_or(Refusal::Nobody)?;
        if uid == 0 || uid == nix::unistd::geteuid().as_raw() {
            return Ok(Who::Administrator);
        }
        let allow = self.users.read().unwrap_or_else(PoisonError::into_inner).allow.clone();
        if allow.is_empty() {
            return Err(Refusal::Nobody);
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten().ok_or(Refusal::Nobody)?;
        let is_named = |allowed: &String| match allowed.strip_prefix('@') {
            Some(group) => is_in_group(&user, group),
            None => *allowed == user.name,
        };
        if !allow.iter().any(is_named) {
            return Err(Refusal::Nobody);
        }
        // A name that is none of a tenant has no rights rather than another's.
        let tenant = format!("{USER_TENANT}{}", user.name).parse().map_err(|_| Refusal::Nobody)?;
        Ok(Who::User { uid, tenant })
    }

    /// Says of a start who pays for it, and refuses what a user may not say.
    ///
    /// # Errors
    /// When something of it is an administrator's.
    pub fn start(&self, who: &Who, labels: &mut Labels, budget: &Settings) -> Result<(), Refusal> {
        let Who::User { tenant, .. } = who else { return Ok(()) };
        if labels.parent.is_some() {
            return Err(Refusal::Parent);
        }
        if labels.tenant.as_ref().is_some_and(|said| said != tenant) {
            return Err(Refusal::Tenant(tenant.clone()));
        }
        labels.tenant = Some(tenant.clone());
        if let Some(name) = budget.more_than_limits() {
            return Err(Refusal::Setting(name));
        }
        let users = self.users.read().unwrap_or_else(PoisonError::into_inner);
        budget.exceeds(&users.budget).map_or(Ok(()), |name| Err(Refusal::TooMuch(name)))
    }
}

impl Who {
    /// # Errors
    /// When it is a user.
    pub fn administrator(&self) -> Result<(), Refusal> {
        match self {
            Self::Administrator => Ok(()),
            Self::User { .. } => Err(Refusal::Administrator),
        }
    }

    /// Whether a task with these labels is its to see and to end.
    pub fn owns(&self, labels: &Labels) -> bool {
        match self {
            Self::Administrator => true,
            Self::User { tenant, .. } => labels.tenant.as_ref() == Some(tenant),
        }
    }

    /// Whether an account is its to see.
    pub fn sees(&self, account: &AccountName) -> bool {
        match (self, account) {
            (Self::Administrator, _) => true,
            (Self::User { tenant, .. }, AccountName::Tenant(name)) => name == tenant,
            (Self::User { tenant, .. }, AccountName::Workflow { tenant: of, .. }) => of.as_ref() == Some(tenant),
            (Self::User { .. }, AccountName::Task(_)) => false,
        }
    }

    /// Whether it may make a task of the cgroup in this directory: a user's own systemd has made those for it.
    ///
    /// # Errors
    /// When it may not.
    pub fn may_use(&self, directory: &Path, path: &str) -> Result<(), Refusal> {
        let Self::User { uid, .. } = self else { return Ok(()) };
        let is_own = path.split('/').all(|part| part != "." && part != "..")
            && path.starts_with(&format!("/user.slice/user-{uid}.slice/"))
            && std::fs::symlink_metadata(directory).is_ok_and(|metadata| metadata.uid() == *uid);
        if is_own { Ok(()) } else { Err(Refusal::Cgroup(path.into())) }
    }
}

fn is_in_group(user: &User, group: &str) -> bool {
    let Some(group) = Group::from_name(group).ok().flatten() else { return false };
    let Ok(name) = CString::new(user.name.clone()) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group.gid))
}

#[cfg(test)]
mod tests {
    use super::{Refusal, Rights, Who};
    use crate::{budget::Settings, config::Users, task::Labels};

    fn settings(text: &str) -> Settings {
        toml::from_str(text).expect("settings")
    }

    fn alice() -> Who {
        Who::User { uid: 1000, tenant: "user-alice".parse().expect("a label") }
    }

    fn start(said: &str, labels: &Labels) -> Result<Labels, Refusal> {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        std::fs::write(&socket, "").expect("a file");
        let rights = Rights::new(&socket);
        let budget = settings("total = \"2\"\nrequests = 100");
        rights.set(Users { allow: vec!["alice".into()], budget }).expect("the mode");
        let mut labels = labels.clone();
        rights.start(&alice(), &mut labels, &settings(said)).map(|()| labels)
    }

    #[test]
    fn a_user_pays_for_itself_and_says_only_how_much() {
        let own = Labels::default();
        let paid = start("total = \"2\"\nrequests = 7", &own).expect("allowed");
        assert_eq!(paid.tenant.map(|tenant| tenant.to_string()).as_deref(), Some("user-alice"));
        assert_eq!(start("total = \"2.01\"", &own), Err(Refusal::TooMuch("total")));
        assert_eq!(start("requests = 101", &own), Err(Refusal::TooMuch("requests")));
        // What no administrator has limited, a user may.
        assert!(start("hour = \"100\"", &own).is_ok());
        for (said, setting) in [
            ("holds = \"off\"", "holds"),
            ("ladder = [\"warn@80\"]", "ladder"),
            ("uncovered = \"alert\"", "uncovered"),
            ("on_daemon_loss = \"allow\"", "on_daemon_loss"),
            ("kill_grace_seconds = 600", "kill_grace_seconds"),
        ] {
            assert_eq!(start(said, &own), Err(Refusal::Setting(setting)), "{said}");
        }
        let other = Labels { tenant: Some("acme".parse().expect("a label")), ..Labels::default() };
        assert!(matches!(start("", &other), Err(Refusal::Tenant(_))));
        let part = Labels { parent: Some("task".parse().expect("a name")), ..Labels::default() };
        assert_eq!(start("", &part), Err(Refusal::Parent));
    }

    #[test]
    fn what_is_whose_is_known_by_the_tenant() {
        let labels = |tenant: &str| Labels { tenant: tenant.parse().ok(), ..Labels::default() };
        assert!(alice().owns(&labels("user-alice")));
        for other in ["user-bob", "acme", ""] {
            assert!(!alice().owns(&labels(other)), "{other}");
        }
        assert!(alice().sees(&"workflow=user-alice/build".parse().expect("a name")));
        for other in ["tenant=acme", "workflow=build", "task"] {
            assert!(!alice().sees(&other.parse().expect("a name")), "{other}");
        }
        assert_eq!(alice().administrator(), Err(Refusal::Administrator));
    }

    #[test]
    fn only_the_own_cgroups_are_usable() {
        let directory = tempfile::tempdir().expect("a directory");
        let uid = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(directory.path()).expect("a directory"));
        let own = Who::User { uid, tenant: "user-x".parse().expect("a label") };
        let may = |who: &Who, path: &str| who.may_use(directory.path(), path).is_ok();
        assert!(may(&own, &format!("/user.slice/user-{uid}.slice/user@{uid}.service/app.slice/x.scope")));
        assert!(!may(&own, "/system.slice/x.scope"));
        assert!(!may(&own, &format!("/user.slice/user-{uid}.slice/../../system.slice/x.scope")));
        let other = Who::User { uid: uid + 1, tenant: "user-y".parse().expect("a label") };
        assert!(!may(&other, &format!("/user.slice/user-{}.slice/x.scope", uid + 1)));
        assert!(own.may_use(&directory.path().join("absent"), &format!("/user.slice/user-{uid}.slice/x")).is_err());
    }
}
