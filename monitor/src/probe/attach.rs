//! Attaching to TLS functions wherever code that has them lies.
//!
//! Every file whose code a process maps is looked at once, on a thread of its own: the kernel says which ([`Event::Mapped`](super::Event::Mapped)), and
//! a process of a task waits for it. What a uprobe is attached to is the inode, so a file counts as the same under every name, mount and namespace,
//! and as another one after it was replaced.

use std::{
    collections::HashMap,
    fs::{self, File},
    io,
    num::NonZeroUsize,
    os::{fd::AsRawFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use aya::{
    maps::{HashMap as KernelMap, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeScope},
    },
};
use monitor_common::FileKey;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    event::{Mapping, Pid},
    finder::{self, Depth, ImageError, Signatures, TlsStack},
    known::Known,
    load::fd_link,
    pins::{Attachment, Links, Pins, Place, link_name},
    plan::{Plan, Program},
    presence::Presence,
    programs::Programs,
};

/// What the library that most agents use is called. Others are probed when the first process of a task maps them, which waits for it.
const LIBRARY_NAMES: [&str; 2] = ["libssl.so", "libssl-"];
/// How often files that were deleted are looked at: whoever still uses them may be gone.
const SWEEP: Duration = Duration::from_secs(10);

/// How long programs of another generation stay after these have taken over: calls that were entered under them return to them.
const RETIRING: Duration = Duration::from_secs(30);

/// Why a file is not probed.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    #[error("cannot search {path}: {source}")]
    Search { path: PathBuf, source: ImageError },
    #[error("cannot attach to {path}: {source}")]
    Attach { path: PathBuf, source: Box<ProgramError> },
}

/// A file whose TLS calls are seen, in every process that maps it.
#[derive(Debug, Clone, Serialize)]
pub struct Attached {
    pub path: PathBuf,
    pub stacks: Vec<TlsStack>,
    pub functions: Vec<String>,
}

/// What the kernel asks to be looked at.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub pid: Pid,
    pub mapping: Mapping,
}

/// What the thread that attaches is asked for.
#[derive(Debug)]
pub enum Job {
    Look(Request),
    /// Detach what a daemon before has attached and nobody needs any more.
    TidyUp,
}

/// What came of a look.
#[derive(Debug)]
pub enum Looked {
    /// This request is dealt with; what there is to say about the file.
    Done { request: Request, said: Vec<String> },
    /// Everything that is probed now.
    Attached(Vec<Attached>),
}

/// What the one who attaches is made of.
pub struct Parts {
    pub programs: Programs,
    pub links: Links,
    /// What is not attached to files.
    pub attachments: Vec<Attachment>,
    pub presence: Arc<Presence>,
    /// Pins of other generations than this are not needed.
    pub pins: Option<(Arc<Pins>, Place)>,
    /// Files that somebody has looked at.
    pub files: KernelMap<MapData, FileKey, u32>,
    pub signatures: Signatures,
    pub known: Known,
    pub joins_records: bool,
}

/// Holds the programs and what they are attached to. Dropping it detaches everything that is not pinned.
pub struct Attacher {
    programs: Programs,
    links: Links,
    /// What is not attached to files.
    _attachments: Vec<Attachment>,
    presence: Arc<Presence>,
    /// Pins of other generations than this are not needed.
    pins: Option<(Arc<Pins>, Place)>,
    files: KernelMap<MapData, FileKey, u32>,
    signatures: Signatures,
    known: Known,
    /// Sockets are seen, so that what is encrypted and what is decrypted can be joined.
    joins_records: bool,
    attached: HashMap<FileKey, Probed>,
}

/// A probed file. It is kept open: while it is, nothing else has its inode number.
struct Probed {
    report: Attached,
    file: File,
    links: Vec<Attachment>,
}

impl Attacher {
    pub fn new(parts: Parts) -> Self {
        let Parts { programs, links, attachments, presence, pins, files, signatures, known, joins_records } = parts;
        Self {
            programs,
            links,
            _attachments: attachments,
            presence,
            pins,
            files,
            signatures,
            known,
            joins_records,
            attached: HashMap::new(),
        }
    }

    pub fn attached(&self) -> Vec<Attached> {
        let mut all: Vec<_> = self.attached.values().map(|probed| probed.report.clone()).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// Attaches to the TLS library that most agents use and to everything that `members` have mapped; returns what there is to say about them.
    pub fn attach_host(&mut self, members: &[Pid]) -> Vec<String> {
        let mut said = Vec::new();
        // This program's own TLS is nobody's agent; and it knows the marks of every TLS there is.
        let own = File::open("/proc/self/exe").ok().and_then(|file| key_of(&file, &self.presence));
        own.into_iter().for_each(|key| self.mark(key));
        for path in installed().into_iter().chain(members.iter().flat_map(|&pid| code_of(pid))) {
            // Gone by now, or not for us.
            let Ok(file) = File::open(&path) else { continue };
            if let Some(key) = key_of(&file, &self.presence).filter(|key| Some(*key) != own) {
                said.extend(self.look(key, file, &path));
            }
        }
        self.known.save();
        said
    }

    /// Looks at what the kernel asks for until nobody asks any more.
    pub fn serve(mut self, jobs: &Receiver<Job>, looked: &UnboundedSender<Looked>) {
        let mut swept = Instant::now();
        loop {
            match jobs.recv_timeout(SWEEP) {
                Ok(Job::TidyUp) => {
                    self.tidy_up();
                    looked.send(Looked::Attached(self.attached())).ok();
                }
                Ok(Job::Look(request)) => {
                    let before = self.attached.len();
                    let said = self.look_at(&request);
                    // The engine is gone: so is everybody who could be told.
                    looked.send(Looked::Done { request, said }).ok();
                    if self.attached.len() != before {
                        looked.send(Looked::Attached(self.attached())).ok();
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.known.save();
                if self.forget_unused() {
                    looked.send(Looked::Attached(self.attached())).ok();
                }
            }
        }
    }

    fn look_at(&mut self, request: &Request) -> Vec<String> {
        let Mapping { start, end, file: key } = request.mapping;
        if key != FileKey::default() {
            if self.attached.contains_key(&key) {
                self.mark(key);
                return Vec::new();
            }
            let path = PathBuf::from(format!("/proc/{}/map_files/{start:x}-{end:x}", request.pid));
            if let Ok(file) = File::open(&path) {
                return self.look(key, file, &path);
            }
            // Unmapped again, or the process is gone.
            return Vec::new();
        }
        // The kernel could not tell which mapping it was.
        let maps = code_of(request.pid);
        let said = maps.into_iter().filter_map(|path| Some((File::open(&path).ok()?, path)));
        said.flat_map(
            |(file, path)| if self.is_attached(&file) { Vec::new() } else { self.look(stand_in(&file), file, &path) },
        )
        .collect()
    }

    fn is_attached(&self, file: &File) -> bool {
        let of = |file: &File| file.metadata().ok().as_ref().map(identity);
        let wanted = of(file);
        self.attached.values().any(|probed| of(&probed.file) == wanted)
    }

    /// Finds out what to probe in a file, and does.
    fn look(&mut self, key: FileKey, file: File, path: &Path) -> Vec<String> {
        if self.attached.contains_key(&key) {
            self.mark(key);
            return Vec::new();
        }
        // Resolves `/proc/<pid>/…`, whose pid will be gone when somebody reads this.
        let name = fs::read_link(path).unwrap_or_else(|_: io::Error| path.into());
        let mut said = Vec::new();
        match self.plan(&file, path, &name) {
            Ok(plan) => {
                let because = |(stack, because): &(TlsStack, String)| {
                    format!("{}: {stack} cannot be read: {because}", name.display())
                };
                said.extend(plan.uncovered.iter().map(because));
                if !plan.probes.is_empty()
                    && let Err(source) = self.attach(key, file, name.clone(), &plan)
                {
                    said.push(LibraryError::Attach { path: name, source: Box::new(source) }.to_string());
                }
            }
            // Scripts and data are mapped as code too; only what cannot be read is worth a word.
            Err(ImageError::NotElf(_)) => {}
            Err(source) => said.push(LibraryError::Search { path: name, source }.to_string()),
        }
        self.mark(key);
        said
    }

    fn plan(&mut self, file: &File, path: &Path, name: &Path) -> Result<Plan, ImageError> {
        let metadata = file.metadata()?;
        if let Some(plan) = self.known.get(&metadata) {
            return Ok(self.without_records(plan));
        }
        let mut plan = Plan::new(&finder::inspect(path, &self.signatures, Depth::Names)?);
        if !plan.probes.is_empty() {
            // Known by name; what lies inside may be cheaper to probe.
            plan = Plan::new(&finder::inspect(path, &self.signatures, Depth::Code)?);
        }
        let is_library = name.file_name().is_some_and(|name| name.to_string_lossy().contains(".so"));
        if plan.probes.is_empty() && !is_library && metadata.len() >= finder::SEARCHED_FROM {
            plan = Plan::new(&finder::inspect(path, &self.signatures, Depth::Code)?);
        }
        self.known.put(&metadata, &plan);
        Ok(self.without_records(plan))
    }

    /// The plan as it is where sockets are not looked at.
    fn without_records(&self, mut plan: Plan) -> Plan {
        if !self.joins_records && plan.stacks.contains(&TlsStack::RustlsAwsLc) {
            plan.probes.retain(|probe| !matches!(probe.program, Program::Seal | Program::Open | Program::Opened));
            plan.stacks.retain(|stack| *stack != TlsStack::RustlsAwsLc);
            let because =
                "its two directions are joined through their socket, which needs `plaintext = true` under [kernel]";
            plan.uncovered.push((TlsStack::RustlsAwsLc, because.to_owned()));
        }
        plan
    }

    fn attach(&mut self, key: FileKey, file: File, name: PathBuf, plan: &Plan) -> Result<(), ProgramError> {
        // The file itself, whatever has become of its name.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut links = Vec::new();
        for probe in &plan.probes {
            let name = link_name(key, probe);
            if let Some(link) = self.links.take(&name) {
                links.push(link);
                continue;
            }
            let program: &mut UProbe = self.programs.get(probe.program.name())?;
            let location = UProbeAttachLocation::AbsoluteOffset(probe.offset);
            let point = UProbeAttachPoint { location, cookie: Some(probe.cookie) };
            let link = program.attach(point, &path, UProbeScope::AllProcesses)?;
            let link = fd_link(program.take_link(link)?)?;
            let link = self.links.keep(&name, link);
            links.push(link.map_err(|error| ProgramError::IOError(io::Error::other(error)))?);
        }
        tracing::debug!("probing {}: {}", name.display(), plan.functions.join(", "));
        let report = Attached { path: name, stacks: plan.stacks.clone(), functions: plan.functions.clone() };
        self.attached.insert(key, Probed { report, file, links });
        Ok(())
    }

    /// Tells the kernel that nobody needs to wait for this file any more.
    fn mark(&mut self, key: FileKey) {
        if let Err(error) = self.files.insert(key, 1, 0) {
            tracing::debug!("a file was not marked as looked at: {error}");
        }
    }

    /// Detaches from files that are deleted and that no process has mapped any more. Says whether there were any.
    fn forget_unused(&mut self) -> bool {
        let is_deleted = |probed: &Probed| probed.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if !self.attached.values().any(is_deleted) {
            return false;
        }
        let in_use: Vec<(u64, u64)> =
            in_use().iter().filter_map(|path| Some(identity(&fs::metadata(path).ok()?))).collect();
        let is_unused = |probed: &Probed| {
            is_deleted(probed)
                && probed
                    .file
                    .metadata()
                    .ok()
                    .map(|metadata| identity(&metadata))
                    .is_some_and(|id| !in_use.contains(&id))
        };
        let unused: Vec<FileKey> =
            self.attached.iter().filter(|(_, probed)| is_unused(probed)).map(|(key, _)| *key).collect();
        let mut links = Vec::new();
        for key in &unused {
            // Absent is what is wanted.
            self.files.remove(key).ok();
            links.extend(self.attached.remove(key).into_iter().flat_map(|probed| probed.links));
        }
        detach(links);
        !unused.is_empty()
    }

    /// Detaches what a daemon before has attached and nobody needs: files that no process has mapped, and programs of other generations.
    fn tidy_up(&mut self) {
        let unclaimed = self.links.unclaimed();
        if !unclaimed.is_empty() {
            // From here on whoever maps one of them waits until it was looked at again. Then it is seen who has.
            for key in &unclaimed {
                // Absent is what is wanted.
                self.files.remove(key).ok();
            }
            for path in in_use() {
                // Gone by now, or not for us.
                let Ok(file) = File::open(&path) else { continue };
                if let Some(key) = key_of(&file, &self.presence).filter(|key| unclaimed.contains(key)) {
                    for word in self.look(key, file, &path) {
                        tracing::info!("{word}");
                    }
                }
            }
            detach(self.links.unclaimed().into_iter().flat_map(|key| self.links.discard(key)).collect());
        }
        let Some((pins, own)) = &self.pins else { return };
        let others: Vec<Place> = pins.places().into_iter().filter(|place| place != own).collect();
        if others.is_empty() {
            return;
        }
        let retire = move || {
            std::thread::sleep(RETIRING);
            for place in others {
                if let Err(error) = place.remove() {
                    tracing::warn!("programs of another generation stay: {error}");
                }
            }
        };
        std::thread::spawn(retire);
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

/// Not on this thread: the kernel waits for a grace period after each, and a process may be waiting for the next file to be looked at. Their names are free
/// at once.
fn detach(mut links: Vec<Attachment>) {
    links.iter_mut().for_each(Attachment::unpin);
    std::thread::spawn(move || drop(links));
}

fn installed() -> Vec<PathBuf> {
    let entries = finder::LIBRARY_DIRECTORIES.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
    let is_tls = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        LIBRARY_NAMES.iter().any(|known| name.starts_with(known)) && name.contains(".so")
    };
    entries.map(|entry| entry.path()).filter(is_tls).collect()
}

/// Code that any process has mapped, each file once as far as its device and inode numbers tell.
fn in_use() -> Vec<PathBuf> {
    let mut seen = HashMap::new();
    for process in procfs::process::all_processes().into_iter().flatten().flatten() {
        for (identity, path) in code_maps(process.pid()) {
            seen.entry(identity).or_insert(path);
        }
    }
    seen.into_values().collect()
}

fn code_of(pid: Pid) -> Vec<PathBuf> {
    let maps = i32::try_from(pid).map(code_maps).unwrap_or_default();
    maps.into_iter().map(|(_, path)| path).collect()
}

/// Executable mappings of files, by device and inode, as links that lead to the file whatever its name and namespace.
fn code_maps(pid: i32) -> Vec<((i32, i32, u64), PathBuf)> {
    let maps = procfs::process::Process::new(pid).and_then(|process| process.maps());
    let code = maps
        .into_iter()
        .flatten()
        .filter(|map| map.inode != 0 && map.perms.contains(procfs::process::MMPermissions::EXECUTE));
    code.map(|map| {
        let (start, end) = map.address;
        ((map.dev.0, map.dev.1, map.inode), PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}")))
    })
    .collect()
}

/// A key for a file that the kernel has not named: none that it gives, for its device is none.
fn stand_in(file: &File) -> FileKey {
    let (device, inode) = file.metadata().ok().as_ref().map(identity).unwrap_or_default();
    let device = u32::try_from(device & 0x7fff_ffff).unwrap_or_default();
    FileKey { inode, device: device | 0x8000_0000, generation: 0 }
}

/// The kernel's key of a file, found by mapping it ourselves: the programs tell what we map.
fn key_of(file: &File, presence: &Presence) -> Option<FileKey> {
    let length = NonZeroUsize::new(4096)?;
    presence.file_mapped_by(|| {
        // SAFETY: a fresh private mapping at an address of the kernel's choice, which nobody reads, writes or executes.
        let memory =
            unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE, file, 0) };
        if let Ok(memory) = memory
            // SAFETY: mapped just now with this length, and not used.
            && let Err(error) = unsafe { munmap(memory, length.get()) }
        {
            tracing::debug!("could not unmap a file: {error}");
        }
    })
}
