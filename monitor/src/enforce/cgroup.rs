//! cgroup v2: where it is mounted, and the cgroups of tasks.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{label::Place, probe::Pid, task::TaskId};

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "no cgroup v2 is mounted: run `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified` or boot with the unified hierarchy"
    )]
    NotMounted,
    #[error("there is no cgroup {0}; name one by its path, or a systemd unit that runs")]
    Unknown(String),
    #[error("several cgroups are of unit {unit}: {cgroups}; name one of them by its path")]
    Ambiguous { unit: String, cgroups: String },
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError::Io { what, path: path.into(), source }
}

/// The cgroup v2 hierarchy, and the subtree in it where tasks get their cgroups.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    root: PathBuf,
    tasks: PathBuf,
    /// The same, as seen from the root of the hierarchy.
    subtree: PathBuf,
}

impl Hierarchy {
    /// Finds the mount (unified or hybrid) and makes `subtree` in it.
    ///
    /// # Errors
    /// When there is no cgroup v2, or no right to make a cgroup.
    pub fn open(subtree: &str) -> Result<Self, CgroupError> {
        let mounts = fs::read_to_string("/proc/self/mounts").map_err(at("read", Path::new("/proc/self/mounts")))?;
        let root = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split(' ');
                let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup2").then(|| PathBuf::from(path.replace("\\040", " ")))
            })
            .find(|path| path.join("cgroup.procs").is_file())
            .ok_or(CgroupError::NotMounted)?;
        let tasks = root.join(subtree.trim_matches('/'));
        fs::create_dir_all(&tasks).map_err(at("create the cgroup", &tasks))?;
        pass_cpu_down(&root, &tasks);
        Ok(Self { root, tasks, subtree: Path::new("/").join(subtree.trim_matches('/')) })
    }

    /// The root of the hierarchy, for programs that are attached to it.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn root(&self) -> Result<fs::File, CgroupError> {
        fs::File::open(&self.root).map_err(at("open", &self.root))
    }

    /// The path from the root of the hierarchy of a cgroup that is named by it, by its directory, or by its systemd unit.
    ///
    /// # Errors
    /// When there is none, or a unit has several.
    pub fn find(&self, named: &str) -> Result<String, CgroupError> {
        let unknown = || CgroupError::Unknown(named.to_owned());
        if named.contains('/') {
            let below =
                Path::new(named).strip_prefix(&self.root).map_or(named, |path| path.to_str().unwrap_or_default());
            let parts: Vec<_> = below.split('/').filter(|part| !part.is_empty()).collect();
            let path = format!("/{}", parts.join("/"));
            let is_one = !parts.is_empty()
                && parts.iter().all(|&part| part != "." && part != "..")
                && self.directory(&path).is_dir();
            return if is_one { Ok(path) } else { Err(unknown()) };
        }
        let is_unit = |path: &String| Place::of(path).unit == Some(named);
        let mut found: Vec<_> = self.all().into_iter().filter(is_unit).collect();
        match found.len() {
            0 | 1 => found.pop().ok_or_else(unknown),
            _ => Err(CgroupError::Ambiguous { unit: named.to_owned(), cgroups: found.join(", ") }),
        }
    }

    /// The path of a process' cgroup, from the root of the hierarchy.
    pub fn path_of(&self, pid: Pid) -> Option<String> {
        let memberships = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        // The line of cgroup v2 (cgroups(7)).
        memberships.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
    }

    /// The directory of a cgroup, by its path from the root of the hierarchy.
    pub fn directory(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The path of a cgroup from the root of the hierarchy, by its directory.
    pub fn path(&self, cgroup: &Cgroup) -> String {
        let below = cgroup.path.strip_prefix(&self.root).unwrap_or(&cgroup.path);
        format!("/{}", below.display())
    }

    /// Whether it is one of those that this daemon makes, and so takes away.
    pub fn is_own(&self, cgroup: &Cgroup) -> bool {
        cgroup.path.starts_with(&self.tasks)
    }

    /// As [`Self::is_own`], by the path from the root of the hierarchy.
    pub fn is_own_path(&self, path: &str) -> bool {
        Path::new(path).starts_with(&self.subtree)
    }

    /// Paths of all cgroups but the root, outer ones first.
    pub fn all(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut pending = vec![self.root.clone()];
        while let Some(directory) = pending.pop() {
            let Ok(entries) = fs::read_dir(&directory) else { continue };
            for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let path = entry.path();
                all.push(format!("/{}", path.strip_prefix(&self.root).unwrap_or(&path).display()));
                pending.push(path);
            }
        }
        all.sort_by_key(|path| path.matches('/').count());
        all
    }

    /// The task whose cgroup, or a cgroup below it, a process is in.
    pub fn task_of(&self, pid: Pid) -> Option<TaskId> {
        let path = self.path_of(pid)?;
        let below = Path::new(&path).strip_prefix(&self.subtree).ok()?;
        below.iter().next()?.to_str()?.parse().ok()
    }

    /// Processes of all tasks, in cgroups that are here already.
    pub fn processes(&self) -> Vec<Pid> {
        Cgroup::open(self.tasks.clone()).map(|tasks| tasks.processes()).unwrap_or_default()
    }

    /// The cgroup of a task, made if it is not there yet.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(&self, task: &TaskId) -> Result<Cgroup, CgroupError> {
        let path = self.tasks.join(task.as_str());
        match fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(at("create the cgroup", &path)(error)),
        }
        Cgroup::open(path)
    }
}

/// Lets the cgroups of tasks have a quota of the CPUs, where v2 has that controller. Without it, a throttle is one of requests alone.
fn pass_cpu_down(root: &Path, tasks: &Path) {
    let mut line: Vec<&Path> = tasks.ancestors().take_while(|path| path.starts_with(root)).collect();
    line.reverse();
    for path in line {
        let has_cpu = |file: &str| {
            fs::read_to_string(path.join(file))
                .is_ok_and(|names| names.split_ascii_whitespace().any(|name| name == "cpu"))
        };
        if !has_cpu("cgroup.controllers") {
            return;
        }
        if !has_cpu("cgroup.subtree_control")
            && let Err(error) = fs::write(path.join("cgroup.subtree_control"), "+cpu")
        {
            return tracing::debug!("{} does not pass the cpu controller down: {error}", path.display());
        }
    }
}

/// One cgroup.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: PathBuf,
    id: u64,
}

impl Cgroup {
    /// # Errors
    /// When there is no such cgroup.
    pub fn open(path: PathBuf) -> Result<Self, CgroupError> {
        // The id of a cgroup is the inode number of its directory.
        let id = fs::metadata(&path).map_err(at("open the cgroup", &path))?.ino();
        Ok(Self { path, id })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still there; another one may have its path by now.
    pub fn exists(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.id)
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    /// # Errors
    /// When the process is gone or may not be moved.
    pub fn add(&self, pid: Pid) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
    }

    /// Kills everything in it and below.
    ///
    /// # Errors
    /// When the kernel refuses, or is older than `cgroup.kill` (5.14).
    pub fn kill(&self) -> Result<(), CgroupError> {
        self.write("cgroup.kill", "1")
    }

    /// Whether it, or a cgroup below it, has a process. One that is gone has none; one that cannot be looked at, for want of descriptors say, may have.
    pub fn is_populated(&self) -> bool {
        match fs::read_to_string(self.path.join("cgroup.events")) {
            Ok(events) => events.lines().any(|line| line == "populated 1"),
            // What is read of one that was removed since it was opened.
            Err(error) => error.kind() != io::ErrorKind::NotFound && error.raw_os_error() != Some(libc::ENODEV),
        }
    }

    /// Processes in it and in all cgroups below.
    pub fn processes(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        let mut pending = vec![self.path.clone()];
        while let Some(path) = pending.pop() {
            let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
            pids.extend(procs.lines().filter_map(|line| line.parse::<Pid>().ok()).filter(|&pid| pid != 0));
            let Ok(entries) = fs::read_dir(&path) else { continue };
            pending.extend(
                entries
                    .flatten()
                    .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                    .map(|entry| entry.path()),
            );
        }
        pids
    }

    /// Removes it and what is below, if all of it is empty.
    pub fn remove(&self) {
        fn remove(path: &Path) {
            for entry in fs::read_dir(path).into_iter().flatten().flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    remove(&entry.path());
                }
            }
            if let Err(error) = fs::remove_dir(path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::debug!("could not remove the cgroup {}: {error}", path.display());
            }
        }
        remove(&self.path);
    }

    pub(super) fn write(&self, file: &'static str, value: &str) -> Result<(), CgroupError> {
        let path = self.path.join(file);
        fs::write(&path, value).map_err(at("write", &path))
    }
}
