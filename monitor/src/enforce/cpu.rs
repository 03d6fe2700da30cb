//! Processor time of a task: how much it has used, and how much of it a throttled task gets.
//!
//! What was used is told by `cpu.stat`, which every cgroup of v2 but the root has, with or without the `cpu` controller, and which counts processes
//! that have ended (kernel: Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files"). The quota, `cpu.max`, needs the controller: on a host
//! with the hybrid hierarchy that is usually one of v1, and there is no such file.

use std::{fs, io, time::Duration};

use super::cgroup::{Cgroup, CgroupError};
use crate::probe::Pid;

/// Microseconds of the period of our quotas. No other program is likely to choose it, so that one is known again after a restart.
const PERIOD: u64 = 99_991;
/// What a cgroup has before anybody sets it.
const UNLIMITED: &str = "max 100000";

/// The quota that a cgroup had before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaBefore(String);

/// Gives a cgroup so many percent of one CPU. `None` where it has no `cpu` controller.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_cpu(cgroup: &Cgroup, percent: u32) -> Result<Option<QuotaBefore>, CgroupError> {
    let before = match fs::read_to_string(cgroup.path().join("cpu.max")) {
        Ok(before) => before.trim().to_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(CgroupError::Io { what: "read", path: cgroup.path().join("cpu.max"), source });
        }
    };
    // The kernel takes no quota of less than a millisecond.
    let quota = (PERIOD * u64::from(percent) / 100).max(1000);
    cgroup.write("cpu.max", &format!("{quota} {PERIOD}"))?;
    Ok(Some(QuotaBefore(if is_ours(&before) { UNLIMITED.into() } else { before })))
}

/// Gives it back the quota that it had.
///
/// # Errors
/// When the kernel refuses.
pub fn unlimit_cpu(cgroup: &Cgroup, before: &QuotaBefore) -> Result<(), CgroupError> {
    cgroup.write("cpu.max", &before.0)
}

/// Takes away a quota that a daemon before this one has left behind. Says whether there was one.
///
/// # Errors
/// When the kernel refuses.
pub fn forget_cpu_limit(cgroup: &Cgroup) -> Result<bool, CgroupError> {
    let quota = fs::read_to_string(cgroup.path().join("cpu.max")).unwrap_or_default();
    if !is_ours(quota.trim()) {
        return Ok(false);
    }
    cgroup.write("cpu.max", UNLIMITED)?;
    Ok(true)
}

fn is_ours(quota: &str) -> bool {
    quota.split_once(' ').is_some_and(|(_, period)| period == PERIOD.to_string())
}

/// Processor time of everything that runs or ran in a cgroup and below it.
pub fn cpu_used(cgroup: &Cgroup) -> Option<Duration> {
    let stat = fs::read_to_string(cgroup.path().join("cpu.stat")).ok()?;
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    used.trim().parse().ok().map(Duration::from_micros)
}

/// Processor time of a process by now, its children not included.
pub fn cpu_used_by(pid: Pid) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks = ticks(&stat)?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok().flatten()?;
    let per_second = u64::try_from(per_second).ok().filter(|ticks| *ticks > 0)?;
    Some(Duration::from_nanos(ticks.saturating_mul(1_000_000_000 / per_second)))
}

/// `utime` and `stime` (proc_pid_stat(5)); the name of the program, in parentheses, may have anything in it.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user.saturating_add(system))
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::{Cgroup, cpu_used, cpu_used_by, forget_cpu_limit, limit_cpu, ticks, unlimit_cpu};

    fn cgroup(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroup) {
        let directory = tempfile::tempdir().expect("a directory");
        for (name, text) in files {
            fs::write(directory.path().join(name), text).expect("a file");
        }
        let cgroup = Cgroup::open(directory.path().into()).expect("a cgroup");
        (directory, cgroup)
    }

    fn quota(cgroup: &Cgroup) -> String {
        fs::read_to_string(cgroup.path().join("cpu.max")).expect("a quota")
    }

    #[test]
    fn a_quota_is_set_and_what_was_there_comes_back() {
        let (_directory, limited) = cgroup(&[("cpu.max", "200000 100000\n")]);
        let before = limit_cpu(&limited, 50).expect("it is written").expect("there is a controller");
        assert_eq!(quota(&limited), "49995 99991");
        unlimit_cpu(&limited, &before).expect("it is written");
        assert_eq!(quota(&limited), "200000 100000");
        let before = limit_cpu(&limited, 0).expect("it is written").expect("there is a controller");
        assert_eq!(quota(&limited), "1000 99991", "never less than the kernel takes");
        unlimit_cpu(&limited, &before).expect("it is written");
    }

    #[test]
    fn without_the_controller_nothing_is_written() {
        let (directory, bare) = cgroup(&[]);
        assert_eq!(limit_cpu(&bare, 50).expect("no controller is no fault"), None);
        assert!(!forget_cpu_limit(&bare).expect("nothing to forget"));
        assert!(!directory.path().join("cpu.max").exists());
    }

    #[test]
    fn what_a_daemon_before_left_behind_is_taken_away_and_nothing_else() {
        let (_directory, left) = cgroup(&[("cpu.max", "49995 99991\n")]);
        // Not what it found, which is the quota of the one before.
        let before = limit_cpu(&left, 20).expect("it is written").expect("there is a controller");
        unlimit_cpu(&left, &before).expect("it is written");
        assert_eq!(quota(&left), "max 100000");
        fs::write(left.path().join("cpu.max"), "49995 99991\n").expect("a quota");
        assert!(forget_cpu_limit(&left).expect("it is written"));
        assert_eq!(quota(&left), "max 100000");
        fs::write(left.path().join("cpu.max"), "49995 100000\n").expect("somebody else's");
        assert!(!forget_cpu_limit(&left).expect("it is read"));
    }

    #[test]
    fn what_was_used_is_read() {
        let (_directory, used) = cgroup(&[("cpu.stat", "usage_usec 1234567\nuser_usec 1\nsystem_usec 2\n")]);
        assert_eq!(cpu_used(&used), Some(Duration::from_micros(1_234_567)));
        let (_directory, none) = cgroup(&[]);
        assert_eq!(cpu_used(&none), None);
        assert_eq!(ticks("7 (a) b) c) R 1 1 1 0 -1 4194560 1 2 3 4 15 27 8 9 20 0 1 0 5"), Some(42));
        assert_eq!(ticks("7 (a) R 1"), None);
        assert!(cpu_used_by(std::process::id()).is_some());
    }
}
