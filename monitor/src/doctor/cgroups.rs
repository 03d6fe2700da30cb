//! Which cgroup hierarchies there are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Check, kernel::mounted};

const NAME: &str = "cgroup";

pub fn check() -> Check {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    judge(&mounts, |root| fs::read_to_string(Path::new(root).join("cgroup.controllers")).unwrap_or_default())
}

/// Where cgroup v2 is mounted.
pub fn root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounted(&mounts, "cgroup2").next().map(PathBuf::from)
}

/// `controllers` reads which ones the root of a hierarchy has.
pub(super) fn judge(mounts: &str, controllers: impl Fn(&str) -> String) -> Check {
    let Some(root) = mounted(mounts, "cgroup2").next() else {
        return Check::fail(
            NAME,
            "no cgroup v2 is mounted",
            "run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`, or boot with `systemd.unified_cgroup_hierarchy=1`",
        );
    };
    let mode = if mounted(mounts, "cgroup").next().is_some() { "hybrid" } else { "unified" };
    let controllers = controllers(root);
    let has_cpu = controllers.split_whitespace().any(|name| name == "cpu");
    let said = if controllers.trim().is_empty() { "none" } else { controllers.trim() };
    let found = format!("{mode}, v2 at {root}, controllers: {said}");
    if has_cpu {
        return Check::ok(NAME, found);
    }
    Check::warn(
        NAME,
        found,
        "without the `cpu` controller in v2, `throttle_cpu_percent` has no effect; everything else works. Boot with the unified hierarchy",
    )
}
