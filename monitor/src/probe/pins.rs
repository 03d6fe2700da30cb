//! What outlives the daemon: maps, programs and links, pinned in a bpffs.
//!
//! ```text
//! <pin_directory>/v<layout>-<generation>/maps/NAME        shared with other generations as far as they are of the same size
//!                                        /programs/NAME
//!                                        /links/NAME       what a program is attached to
//! ```
//!
//! A *generation* is all that makes programs what they are: the object, the sizes of its maps, and what it was told of the kernel. A daemon of the same
//! generation takes over what it finds, without attaching anything again.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{
    maps::{Array, HashMap as KernelMap, Map, MapData, MapError},
    programs::links::{FdLink, PinnedLink},
};
use monitor_common::{FileKey, GATE_SHUT, Gate, LAYOUT, Process};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::{
    event::Pid,
    plan::{Probe, Program},
};

/// Where a bpffs is usually mounted, which the daemon does if nobody has.
const BPFFS: &str = "/sys/fs/bpf";

/// Why nothing can be pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    #[error("another daemon uses the pins in {0}")]
    InUse(PathBuf),
    #[error(
        "{0} is not on a bpffs: run `mount -t bpf bpf /sys/fs/bpf`, or set `kernel.pin_directory` to a directory on one"
    )]
    NotBpffs(PathBuf),
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    move |source| PinsError::Io { what, path: path.into(), source }
}

/// The pins of one host, used by one daemon at a time.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes the directory if it is not there, and mounts the bpffs below which it usually lies if nobody has.
    ///
    /// # Errors
    /// When there is no bpffs, or another daemon has the directory.
    pub fn open(root: &Path) -> Result<Self, PinsError> {
        if root.starts_with(BPFFS) && Path::new(BPFFS).is_dir() && !is_bpffs(Path::new(BPFFS)) {
            mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
                .map_err(|errno| at("mount a bpffs at", Path::new(BPFFS))(errno.into()))?;
        }
        let there = root.ancestors().find(|path| path.is_dir());
        if !there.is_some_and(is_bpffs) {
            return Err(PinsError::NotBpffs(root.into()));
        }
        fs::create_dir_all(root).map_err(at("create", root))?;
        Self::lock(root)
    }

    /// The pins that are there, if any.
    ///
    /// # Errors
    /// When another daemon has the directory.
    pub fn existing(root: &Path) -> Result<Option<Self>, PinsError> {
        if root.is_dir() && is_bpffs(root) { Self::lock(root).map(Some) } else { Ok(None) }
    }

    fn lock(root: &Path) -> Result<Self, PinsError> {
        let directory = File::open(root).map_err(at("open", root))?;
        let lock =
            Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|_| PinsError::InUse(root.into()))?;
        Ok(Self { root: root.into(), _lock: lock })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the pins of a generation lie.
    pub fn place(&self, generation: u64) -> Place {
        Place { directory: self.root.join(format!("v{LAYOUT}-{generation:016x}")), generation }
    }

    /// Every generation that is there, of this layout or not.
    pub fn places(&self) -> Vec<Place> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let place = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().ok()?;
            let (_, generation) = name.strip_prefix('v')?.split_once('-')?;
            Some(Place { generation: u64::from_str_radix(generation, 16).ok()?, directory: entry.path() })
        };
        entries.filter_map(place).collect()
    }

    /// Detaches and removes everything, and the directory.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn remove(self) -> Result<(), PinsError> {
        for place in self.places() {
            place.remove()?;
        }
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", &self.root)(error)),
            _ => Ok(()),
        }
    }
}

/// Whom the pins concern.
#[derive(Debug, Default)]
pub struct Left {
    /// Processes of tasks whose gates are shut.
    pub shut: Vec<Pid>,
    /// Those of other tasks.
    pub others: Vec<Pid>,
    /// Cookies of sockets that may not send and whose tasks' gates are shut.
    pub sockets: HashSet<u64>,
}

impl Pins {
    /// Whom the programs of the generation that is in force have to do with.
    pub fn left(&self) -> Left {
        let mut left = Left::default();
        for place in self.places().into_iter().filter(Place::has_this_layout) {
            if let Err(error) = place.left(&mut left) {
                tracing::debug!("{}: {error}", place.directory.display());
            }
        }
        left
    }
}

impl Place {
    fn left(&self, left: &mut Left) -> Result<(), MapError> {
        let map = |name| Map::from_map_data(MapData::from_pin(self.map(name))?);
        let gates: Array<MapData, Gate> = map("GATES")?.try_into()?;
        let processes: KernelMap<MapData, Pid, Process> = map("PROCESSES")?.try_into()?;
        let held: KernelMap<MapData, u64, u32> = map("HELD_SOCKETS")?.try_into()?;
        let is_shut = |slot: u32| gates.get(&slot, 0).is_ok_and(|gate| gate.state == GATE_SHUT);
        for (pid, process) in processes.iter().flatten() {
            if is_shut(process.slot) { left.shut.push(pid) } else { left.others.push(pid) }
        }
        left.sockets.extend(held.iter().flatten().filter(|(_, slot)| is_shut(*slot)).map(|(cookie, _)| cookie));
        Ok(())
    }
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|kind| kind.filesystem_type() == BPF_FS_MAGIC)
}

/// The pins of one generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
    pub generation: u64,
}

const ROOMS: [&str; 3] = ["links", "programs", "maps"];

impl Place {
    pub fn map(&self, name: &str) -> PathBuf {
        self.directory.join("maps").join(name)
    }

    pub fn program(&self, name: &str) -> PathBuf {
        self.directory.join("programs").join(name)
    }

    fn links(&self) -> PathBuf {
        self.directory.join("links")
    }

    /// Whether its maps can be used by programs of this version.
    pub fn has_this_layout(&self) -> bool {
        let name = self.directory.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(&format!("v{LAYOUT}-")))
    }

    /// Whether all of these are there; links that are missing can be made.
    pub fn has(&self, maps: &[&str], programs: &[&str]) -> bool {
        maps.iter().all(|name| self.map(name).exists()) && programs.iter().all(|name| self.program(name).exists())
    }

    pub fn maps(&self) -> Vec<String> {
        names(&self.directory.join("maps")).into_iter().collect()
    }

    /// Makes it, empty.
    pub fn create(&self) -> Result<(), PinsError> {
        self.remove()?;
        for room in ROOMS {
            let path = self.directory.join(room);
            fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        Ok(())
    }

    /// Removes it. What was attached is detached, one after the other, which takes some 100 ms each.
    pub fn remove(&self) -> Result<(), PinsError> {
        for room in ROOMS {
            let room = self.directory.join(room);
            for name in names(&room) {
                let path = room.join(name);
                fs::remove_file(&path).map_err(at("remove", &path))?;
            }
            remove_directory(&room)?;
        }
        remove_directory(&self.directory)
    }
}

fn remove_directory(path: &Path) -> Result<(), PinsError> {
    match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        _ => Ok(()),
    }
}

fn names(directory: &Path) -> HashSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What programs are attached to.
pub struct Links {
    /// `None`: nothing is pinned.
    directory: Option<PathBuf>,
    /// Pinned by a daemon before, and not taken over yet.
    waiting: HashSet<String>,
}

/// A program at work. Dropped, it stays so if it is pinned.
pub struct Attachment {
    link: FdLink,
    pin: Option<PathBuf>,
}

impl Attachment {
    /// Ends it.
    pub fn detach(self) {
        if let Some(pin) = &self.pin
            && let Err(error) = fs::remove_file(pin)
        {
            tracing::warn!("a link stays pinned: {}: {error}", pin.display());
        }
        drop(self.link);
    }

    /// Makes room for another one like it, and goes on until it is dropped.
    pub fn unpin(&mut self) {
        if let Some(pin) = self.pin.take()
            && let Err(error) = fs::remove_file(&pin)
        {
            tracing::warn!("a link stays pinned: {}: {error}", pin.display());
        }
    }
}

impl Links {
    pub fn open(place: Option<&Place>) -> Self {
        let directory = place.map(Place::links);
        let waiting = directory.as_deref().map(names).unwrap_or_default();
        Self { directory, waiting }
    }

    /// What a daemon before has attached under this name.
    pub fn take(&mut self, name: &str) -> Option<Attachment> {
        if !self.waiting.remove(name) {
            return None;
        }
        let path = self.directory.as_ref()?.join(name);
        match PinnedLink::from_pin(&path) {
            Ok(link) => Some(Attachment { link: link.into(), pin: Some(path) }),
            Err(error) => {
                tracing::warn!("the pinned link {} cannot be used, another one is made: {error}", path.display());
                fs::remove_file(&path).ok();
                None
            }
        }
    }

    /// Pins what was just attached.
    pub fn keep(&self, name: &str, link: FdLink) -> Result<Attachment, aya::pin::PinError> {
        let Some(directory) = &self.directory else { return Ok(Attachment { link, pin: None }) };
        let path = directory.join(name);
        let link = link.pin(&path)?;
        Ok(Attachment { link: link.into(), pin: Some(path) })
    }

    /// Files that are probed by links that nobody has taken over.
    pub fn unclaimed(&self) -> HashSet<FileKey> {
        self.waiting.iter().filter_map(|name| file_of(name)).collect()
    }

    /// Those of a file, which are unpinned by this.
    pub fn discard(&mut self, file: FileKey) -> Vec<Attachment> {
        let of_file: Vec<String> = self.waiting.iter().filter(|name| file_of(name) == Some(file)).cloned().collect();
        of_file.iter().filter_map(|name| self.take(name)).map(unpinned).collect()
    }
}

fn unpinned(mut attachment: Attachment) -> Attachment {
    attachment.unpin();
    attachment
}

/// The name of a probe's link: it tells what it is attached to.
pub fn link_name(file: FileKey, probe: &Probe) -> String {
    let FileKey { inode, device, generation } = file;
    let program = match probe.program {
        Program::Write => "write",
        Program::Read => "read",
        Program::Return => "return",
        Program::GoReturn => "goreturn",
        Program::Close => "close",
        Program::Seal => "seal",
        Program::Open => "open",
        Program::Opened => "opened",
    };
    // A bpffs allows no dots.
    format!("probe-{device:x}-{inode:x}-{generation:x}-{program}-{:x}-{:x}", probe.offset, probe.cookie)
}

fn file_of(name: &str) -> Option<FileKey> {
    let mut parts = name.strip_prefix("probe-")?.split('-');
    Some(FileKey {
        device: u32::from_str_radix(parts.next()?, 16).ok()?,
        inode: u64::from_str_radix(parts.next()?, 16).ok()?,
        generation: u32::from_str_radix(parts.next()?, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use monitor_common::FileKey;

    use super::{Pins, PinsError, file_of, link_name};
    use crate::probe::plan::{Probe, Program};

    #[test]
    fn names_of_links_tell_their_file() {
        let file = FileKey { inode: 0x1234_5678_9abc, device: 0xfe00_0001, generation: 77 };
        let name = |offset, program| link_name(file, &Probe { program, offset, cookie: 0x0102 });
        assert_eq!(name(0x40, Program::Write), "probe-fe000001-123456789abc-4d-write-40-102");
        assert_ne!(name(0x40, Program::Write), name(0x41, Program::Write));
        assert_ne!(name(0x40, Program::Return), name(0x40, Program::GoReturn));
        assert_eq!(file_of(&name(0x40, Program::Close)), Some(file));
        for other in ["deny_connect4", "probe-", "probe-x-1-2", "probe-1-2"] {
            assert_eq!(file_of(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_bpffs_keeps_pins() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = Pins::open(&directory.path().join("pins")).expect_err("a common file system");
        assert!(matches!(error, PinsError::NotBpffs(_)), "{error}");
        assert!(Pins::existing(directory.path()).expect("no pins").is_none());
    }
}
