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
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{HashMap as KernelMap, MapData},
    programs::{
        ProgramError, UProbe,
        uprobe::{UProbeAttachLocation, UProbeAttachPoint, UProbeLink, UProbeScope},
    },
};
use monitor_common::FileKey;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use serde::Serialize;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    event::{Event, Mapping, Pid},
    finder::{self, Depth, ImageError, Signatures, TlsStack},
    kernel::Ring,
    known::Known,
    plan::{Plan, Program},
};

/// Where shared libraries lie when no process has them mapped yet, and what the one that most agents use is called. Others are probed when the first
/// process of a task maps them, which waits for it.
const LIBRARY_DIRECTORIES: [&str; 8] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
];
const LIBRARY_NAMES: [&str; 2] = ["libssl.so", "libssl-"];
/// A program without TLS functions that it names is searched through from this size on: a smaller one has no room for TLS of its own.
const SEARCHED_FROM: u64 = 1 << 20;
/// How often files that were deleted are looked at: whoever still uses them may be gone.
const SWEEP: Duration = Duration::from_secs(10);

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

/// What came of a look.
#[derive(Debug)]
pub enum Looked {
    /// This request is dealt with; what there is to say about the file.
    Done { request: Request, said: Vec<String> },
    /// Everything that is probed now.
    Attached(Vec<Attached>),
}

/// Holds the programs and what they are attached to. Dropping it detaches everything.
pub struct Attacher {
    ebpf: Ebpf,
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
    links: Vec<UProbeLink>,
}

impl Attacher {
    pub fn new(
        ebpf: Ebpf,
        files: KernelMap<MapData, FileKey, u32>,
        signatures: Signatures,
        known: Known,
        joins_records: bool,
    ) -> Self {
        Self { ebpf, files, signatures, known, joins_records, attached: HashMap::new() }
    }

    pub fn attached(&self) -> Vec<Attached> {
        let mut all: Vec<_> = self.attached.values().map(|probed| probed.report.clone()).collect();
        all.sort_by(|a, b| a.path.cmp(&b.path));
        all
    }

    /// Attaches to the TLS library that most agents use and to everything that `members` have mapped; returns what there is to say about them.
    pub fn attach_host(&mut self, members: &[Pid], ring: &mut Ring) -> Vec<String> {
        let mut said = Vec::new();
        // This program's own TLS is nobody's agent; and it knows the marks of every TLS there is.
        if let Ok(file) = File::open("/proc/self/exe") {
            key_of(&file, ring);
        }
        for path in installed().into_iter().chain(members.iter().flat_map(|&pid| code_of(pid))) {
            // Gone by now, or not for us.
            let Ok(file) = File::open(&path) else { continue };
            if let Some(key) = key_of(&file, ring) {
                said.extend(self.look(key, file, &path));
            }
        }
        self.known.save();
        said
    }

    /// Looks at what the kernel asks for until nobody asks any more.
    pub fn serve(mut self, requests: &Receiver<Request>, looked: &UnboundedSender<Looked>) {
        let mut swept = Instant::now();
        loop {
            match requests.recv_timeout(SWEEP) {
                Ok(request) => {
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
        if plan.probes.is_empty() && !is_library && metadata.len() >= SEARCHED_FROM {
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
            let program = program(&mut self.ebpf, probe.program)?;
            let location = UProbeAttachLocation::AbsoluteOffset(probe.offset);
            let point = UProbeAttachPoint { location, cookie: Some(probe.cookie) };
            let link = program.attach(point, &path, UProbeScope::AllProcesses)?;
            links.push(program.take_link(link)?);
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
            links.extend(self.attached.remove(key).into_iter().flat_map(|probed| probed.links));
            // Absent is what is wanted.
            self.files.remove(key).ok();
        }
        // Not here: the kernel waits for a grace period after each, and a process may be waiting for the next file to be looked at.
        std::thread::spawn(move || drop(links));
        !unused.is_empty()
    }
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn program(ebpf: &mut Ebpf, program: Program) -> Result<&mut UProbe, ProgramError> {
    ebpf.program_mut(program.name()).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn installed() -> Vec<PathBuf> {
    let entries = LIBRARY_DIRECTORIES.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten();
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

/// The kernel's key of a file, found by mapping it ourselves: it tells us of the mapping like of any other. `None` if it was told before.
fn key_of(file: &File, ring: &mut Ring) -> Option<FileKey> {
    let length = NonZeroUsize::new(4096)?;
    // SAFETY: a fresh private mapping at an address of the kernel's choice, which nobody reads, writes or executes.
    let memory =
        unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_EXEC, MapFlags::MAP_PRIVATE, file, 0) }
            .ok()?;
    // SAFETY: mapped above with this length, and not used.
    if let Err(error) = unsafe { munmap(memory, length.get()) } {
        tracing::debug!("could not unmap a file: {error}");
    }
    let mut key = None;
    ring.drain(usize::MAX, |event, _| {
        if let Event::Mapped { pid, mapping, .. } = event
            && pid == std::process::id()
        {
            key = Some(mapping.file);
        }
    });
    key
}
