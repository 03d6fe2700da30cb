//! What runs on this host, as far as this user may see it.

use std::{
    fs::{self, File},
    io::Read as _,
    path::PathBuf,
};

/// Processes that are looked at.
const MOST: usize = 20_000;
/// Bytes of a command line that are looked at.
const COMMAND: u64 = 8192;

#[derive(Debug)]
pub struct Process {
    pub pid: u32,
    /// As the process itself would open it.
    pub executable: PathBuf,
    pub arguments: Vec<String>,
    /// Its cgroup of v2, by the path from the root.
    pub cgroup: String,
}

#[derive(Debug, Default)]
pub struct Processes {
    pub seen: Vec<Process>,
    /// Those of others, which this user may not look at.
    pub hidden: usize,
}

impl Processes {
    pub fn all() -> Self {
        let mut all = Self::default();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        for pid in pids.take(MOST) {
            match fs::read_link(format!("/proc/{pid}/exe")) {
                Ok(executable) => all.seen.push(Process::read(pid, executable)),
                // The kernel's own threads have none, nor do processes that have ended.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => all.hidden += 1,
                Err(_) => {}
            }
        }
        all
    }
}

impl Process {
    fn read(pid: u32, executable: PathBuf) -> Self {
        let mut command = Vec::new();
        let file = File::open(format!("/proc/{pid}/cmdline"));
        file.and_then(|file| file.take(COMMAND).read_to_end(&mut command)).ok();
        let arguments = command.split(|byte| *byte == 0).filter(|argument| !argument.is_empty());
        let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let cgroup = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned();
        Self {
            pid,
            executable,
            arguments: arguments.map(|argument| String::from_utf8_lossy(argument).into_owned()).collect(),
            cgroup,
        }
    }
}
