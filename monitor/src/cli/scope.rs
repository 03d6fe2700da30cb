//! A transient systemd scope for the command of `tollgate run`, so that its owner finds it with `systemctl`.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use zbus::{Connection, Proxy, Variant};

use crate::{price::Money, task::TaskId};

/// How long systemd may take to put the process into its scope.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Whether systemd runs this machine (`sd_booted(3)`), and takes orders of this user.
pub fn is_there() -> bool {
    Path::new("/run/systemd/system").is_dir()
        && (nix::unistd::geteuid().is_root() || std::env::var_os("XDG_RUNTIME_DIR").is_some())
}

/// Moves a process into a scope that is made for it, and returns the path of its cgroup from the root of the hierarchy.
///
/// # Errors
/// When there is no bus, or systemd does not do it.
pub async fn make(task: &TaskId, cap: Option<Money>, pid: u32) -> Result<String> {
    let unit = unit_of(task);
    let bus = if nix::unistd::geteuid().is_root() { Connection::system().await } else { Connection::session().await };
    let bus = bus.context("no D-Bus")?;
    let systemd =
        Proxy::new(&bus, "org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
            .await?;
    let description = cap.map_or_else(
        || format!("Task {task} of Tollgate, metered"),
        |cap| format!("Task {task} of Tollgate, with a budget of ${cap}"),
    );
    let properties = [
        ("Description", Variant::from(description)),
        ("PIDs", Variant::from(vec![pid])),
        // What runs in it may make cgroups of its own, which are the task's, too.
        ("Delegate", Variant::from(true)),
        // Nothing of one that failed stays in the way of the next run.
        ("CollectMode", Variant::from("inactive-or-failed")),
    ];
    let auxiliary: [(&str, Vec<(&str, Variant<'_>)>); 0] = [];
    let arguments = (unit.as_str(), "fail", &properties[..], &auxiliary[..]);
    systemd
        .call_method("StartTransientUnit", &arguments)
        .await
        .with_context(|| format!("systemd does not make {unit}"))?;
    // It has only promised to.
    let began = Instant::now();
    loop {
        let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let path = memberships.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
        if path.rsplit('/').next() == Some(unit.as_str()) {
            return Ok(path.to_owned());
        }
        if began.elapsed() > PATIENCE {
            bail!("systemd has not moved the command into {unit} after {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The name of a task's scope. What unit names may not have is escaped as `systemd-escape(1)` does; a task's name has no `/`.
pub fn unit_of(task: &TaskId) -> String {
    let mut name = String::from("tollgate-");
    for c in task.as_str().chars() {
        // `-` separates nothing here, and `@` would make it an instance of a template.
        if c.is_ascii_alphanumeric() || "-_:.".contains(c) {
            name.push(c);
        } else {
            name.push_str(&format!("\\x{:02x}", u32::from(c)));
        }
    }
    name + ".scope"
}

#[cfg(test)]
mod tests {
    use super::unit_of;

    #[test]
    fn names_of_tasks_become_names_of_units() {
        let unit = |task: &str| unit_of(&task.parse().expect("a name"));
        assert_eq!(unit("build-7"), "tollgate-build-7.scope");
        assert_eq!(unit("ci:main@host+1"), "tollgate-ci:main\\x40host\\x2b1.scope");
    }
}
