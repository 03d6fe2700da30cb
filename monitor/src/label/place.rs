//! What the path of a cgroup tells: the unit, the container or the user session that it is.
//!
//! Paths are those that systemd (systemd.slice(5), systemd-logind), Docker and containerd (runc's two cgroup drivers), Podman (libpod) and the kubelet make.

/// What a cgroup is, by its path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place<'a> {
    /// The systemd unit whose cgroup it is; not the ones that it is in.
    pub unit: Option<&'a str>,
    /// The container whose cgroup it is.
    pub container: Option<Container<'a>>,
    /// The login session whose cgroup it is.
    pub session: Option<&'a str>,
    /// The user in whose slice it lies.
    pub uid: Option<&'a str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Container<'a> {
    /// `docker`, `podman`, `containerd` or `cri-o`.
    pub runtime: &'static str,
    /// All 64 digits.
    pub id: &'a str,
    /// The uid of the Kubernetes pod that it is in, as it stands in the path.
    pub pod: Option<&'a str>,
}

/// Suffixes of units that have cgroups.
const UNITS: [&str; 6] = [".service", ".scope", ".slice", ".socket", ".mount", ".swap"];
/// What runtimes put in front of a container's id in the name of its scope or, some of them, of its cgroup.
const SCOPES: [(&str, &str); 6] = [
    ("docker-", "docker"),
    ("libpod-", "podman"),
    ("cri-containerd-", "containerd"),
    ("nerdctl-", "containerd"),
    ("containerd-", "containerd"),
    ("crio-", "cri-o"),
];

impl<'a> Place<'a> {
    /// Of a path from the root of the hierarchy, like `/system.slice/ssh.service`.
    pub fn of(path: &'a str) -> Self {
        let parts = || path.split('/').filter(|part| !part.is_empty());
        let Some(own) = parts().next_back() else { return Self::default() };
        // systemd puts a `_` in front of names that the kernel would take for its own (systemd's CGROUP_DELEGATION).
        let own = own.strip_prefix('_').unwrap_or(own);
        let is_unit = UNITS.iter().any(|suffix| own.strip_suffix(suffix).is_some_and(|name| !name.is_empty()));
        let pod = parts().rev().skip(1).find_map(pod);
        let above = parts().rev().nth(1).unwrap_or_default();
        Self {
            unit: is_unit.then_some(own),
            container: container(own, above, pod),
            session: own.strip_prefix("session-").and_then(|rest| rest.strip_suffix(".scope")),
            uid: parts().rev().find_map(|part| {
                let uid = part.strip_prefix("user-")?.strip_suffix(".slice")?;
                uid.bytes().all(|byte| byte.is_ascii_digit()).then_some(uid)
            }),
        }
    }

    /// The part of a template's unit between `@` and its suffix.
    pub fn instance(&self) -> Option<&'a str> {
        let (_, rest) = self.unit?.split_once('@')?;
        rest.rsplit_once('.').map(|(instance, _)| instance).filter(|instance| !instance.is_empty())
    }
}

fn container<'a>(own: &'a str, above: &str, pod: Option<&'a str>) -> Option<Container<'a>> {
    let name = own.strip_suffix(".scope").unwrap_or(own);
    for (prefix, runtime) in SCOPES {
        if let Some(id) = name.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some(Container { runtime, id, pod });
        }
    }
    // The cgroupfs driver: the id alone, below the runtime's, the namespace's or the pod's cgroup.
    let runtime = if above == "docker" { "docker" } else { "containerd" };
    is_id(own).then_some(Container { runtime, id: own, pod })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The uid of a pod in the name of its cgroup: `pod<uid>`, or `kubepods-burstable-pod<uid>.slice` with `_` for `-`.
fn pod(part: &str) -> Option<&str> {
    let name = match part.strip_suffix(".slice") {
        Some(slice) => slice.rsplit_once("-pod").filter(|(above, _)| above.contains("kubepods"))?.1,
        None => part.strip_prefix("pod")?,
    };
    let is_uid = (32..=36).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'_'));
    is_uid.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::Place;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const DASHED: &str = "8f4cbd4e-7c1f-4a3a-9a57-3f1d5d0b6a11";
    const SCORED: &str = "8f4cbd4e_7c1f_4a3a_9a57_3f1d5d0b6a11";

    #[test]
    fn containers_are_known_under_both_drivers() {
        for (path, runtime, pod) in [
            (format!("/docker/{ID}"), "docker", None),
            (format!("/system.slice/docker-{ID}.scope"), "docker", None),
            (format!("/machine.slice/libpod-{ID}.scope"), "podman", None),
            (format!("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope"), "podman", None),
            (format!("/libpod_parent/libpod-{ID}"), "podman", None),
            (format!("/system.slice/nerdctl-{ID}.scope"), "containerd", None),
            (format!("/default/{ID}"), "containerd", None),
            (format!("/kubepods/burstable/pod{DASHED}/{ID}"), "containerd", Some(DASHED)),
            (format!("/kubepods/pod{DASHED}/{ID}"), "containerd", Some(DASHED)),
            (
                format!(
                    "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SCORED}.slice/cri-containerd-{ID}.scope"
                ),
                "containerd",
                Some(SCORED),
            ),
            (format!("/kubepods.slice/kubepods-pod{SCORED}.slice/crio-{ID}.scope"), "cri-o", Some(SCORED)),
            (
                format!(
                    "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{SCORED}.slice/cri-containerd-{ID}.scope"
                ),
                "containerd",
                Some(SCORED),
            ),
        ] {
            let container = Place::of(&path).container.unwrap_or_else(|| panic!("{path}"));
            assert_eq!((container.runtime, container.id, container.pod), (runtime, ID, pod), "{path}");
        }
        for path in [
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/docker/{ID}/init.scope"),
            "/docker".into(),
            format!("/docker/{}", &ID[1..]),
            "/system.slice/docker.service".into(),
            "/".into(),
        ] {
            assert_eq!(Place::of(&path).container, None, "{path}");
        }
    }

    #[test]
    fn units_instances_and_sessions_are_known() {
        let place = Place::of("/agents.slice/agent@nightly.service");
        assert_eq!((place.unit, place.instance()), (Some("agent@nightly.service"), Some("nightly")));
        assert_eq!(Place::of("/agents.slice/agent@.service").instance(), None);
        let place = Place::of("/user.slice/user-1000.slice/session-3.scope");
        assert_eq!((place.session, place.uid), (Some("3"), Some("1000")));
        let place = Place::of("/user.slice/user-1000.slice/user@1000.service/app.slice/a.service");
        assert_eq!((place.session, place.uid, place.unit), (None, Some("1000"), Some("a.service")));
        assert_eq!(Place::of("/tollgate/t7"), Place::default());
        assert_eq!(Place::of("/user.slice/user-x.slice").uid, None);
    }
}
