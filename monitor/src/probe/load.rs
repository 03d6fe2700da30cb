//! Loading the programs, or taking over those that a daemon before has left, and attaching them.

use std::{
    fs::File,
    hash::{Hash as _, Hasher as _},
    io,
    path::Path,
    sync::{Arc, mpsc},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, CgroupSockAddrAttachType, ProbeKind,
        ProgramError, RawTracePoint, TracePoint,
        links::{FdLink, LinkError},
    },
};
use monitor_common::LAYOUT;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc::unbounded_channel;

use super::{
    attach::{Attacher, Parts},
    btf::KernelTypes,
    event::Pid,
    finder::{self, SignatureError, Signatures},
    fullness::Maps,
    kernel::{Capacity, LoadError, Loaded, Memberships, Probes, Ring, load_error},
    known::Known,
    pins::{Attachment, Links, Pins, PinsError, Place},
    plan::Program as Probe,
    presence::Presence,
    programs::{Kind, Programs},
    takeover::Takeover,
    tracefs,
    traffic::Traffic,
};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TOLLGATE_EBPF_OBJECT"));

/// System calls by which a process reaches beyond its task, and the programs that look at them; `exit` where they look at what came.
const REACHING: [(&str, &str, &str); 18] = [
    ("reach_ptrace", "enter", "ptrace"),
    ("reach_vm_write", "enter", "process_vm_writev"),
    ("reach_getfd", "enter", "pidfd_getfd"),
    ("reach_bpf", "enter", "bpf"),
    ("reach_kill", "enter", "kill"),
    ("reach_tgkill", "enter", "tgkill"),
    ("reach_connect", "enter", "connect"),
    ("reach_setsockopt", "enter", "setsockopt"),
    ("reach_sendmsg", "enter", "sendmsg"),
    ("reach_sendmmsg", "enter", "sendmmsg"),
    ("took_recvmsg", "exit", "recvmsg"),
    ("took_recvmmsg", "exit", "recvmmsg"),
    ("reach_clock_settime", "enter", "clock_settime"),
    ("reach_settimeofday", "enter", "settimeofday"),
    ("reach_adjtimex", "enter", "adjtimex"),
    ("reach_clock_adjtime", "enter", "clock_adjtime"),
    ("waiting_enter", "enter", "sendmmsg"),
    ("waiting_splice", "enter", "splice"),
];
/// Those that change extended attributes; kernels before 6.13 lack the last two.
const RELABELLING: [(&str, &[&str]); 2] = [
    ("reach_label", &["setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr"]),
    ("reach_label_at", &["setxattrat", "removexattrat"]),
];
const TRACEPOINTS: [(&str, &str); 7] = [
    ("task", "task_newtask"),
    ("sched", "sched_process_exec"),
    ("sched", "sched_process_exit"),
    ("syscalls", "sys_exit_mmap"),
    ("syscalls", "sys_enter_mprotect"),
    ("cgroup", "cgroup_mkdir"),
    ("cgroup", "cgroup_attach_task"),
];
/// What drops the packets of sockets that are held; attached to the root of the cgroup hierarchy, so that nobody leaves it behind.
const EGRESS: &str = "hold_egress";
/// What counts the packets of tasks' sockets; attached there too.
const COUNTING: [(&str, CgroupSkbAttachType); 2] =
    [("count_egress", CgroupSkbAttachType::Egress), ("count_ingress", CgroupSkbAttachType::Ingress)];
/// System calls that send, looked at when they begin, and those that pass bytes, when they return. Each has a tracepoint of its own: one for all of
/// them would cost every system call of the host some 100 ns at both ends.
const SENDING: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];
const PASSING: [&str; 10] =
    ["write", "writev", "sendto", "sendmsg", "sendfile64", "splice", "read", "readv", "recvfrom", "recvmsg"];
/// Ends of connections.
const RAW_TRACEPOINTS: [(&str, &str); 1] = [("socket_state", "inet_sock_set_state")];
/// What denies connections; attached there too.
const CONNECT: [(&str, CgroupSockAddrAttachType); 4] = [
    ("deny_connect4", CgroupSockAddrAttachType::Connect4),
    ("deny_connect6", CgroupSockAddrAttachType::Connect6),
    ("deny_sendmsg4", CgroupSockAddrAttachType::UDPSendMsg4),
    ("deny_sendmsg6", CgroupSockAddrAttachType::UDPSendMsg6),
];
/// What looks at sockets: when system calls begin, and when they return.
const SOCKETS: [&str; 2] = ["socket_enter", "socket_exit"];
/// Where the programs find what they read, by the names of their variables: members of kernel structs, and fields of tracepoints.
const MEMBERS: [(&str, &str, &str); 23] = [
    ("VMA_START", "vm_area_struct", "vm_start"),
    ("VMA_END", "vm_area_struct", "vm_end"),
    ("VMA_FLAGS", "vm_area_struct", "vm_flags"),
    ("VMA_FILE", "vm_area_struct", "vm_file"),
    ("FILE_INODE", "file", "f_inode"),
    ("INODE_INO", "inode", "i_ino"),
    ("INODE_GENERATION", "inode", "i_generation"),
    ("INODE_SB", "inode", "i_sb"),
    ("SB_DEV", "super_block", "s_dev"),
    ("TASK_MM", "task_struct", "mm"),
    ("MM_START_CODE", "mm_struct", "start_code"),
    ("TASK_FILES", "task_struct", "files"),
    ("FILES_TABLE", "files_struct", "fdt"),
    ("TABLE_SIZE", "fdtable", "max_fds"),
    ("TABLE_FILES", "fdtable", "fd"),
    ("SOCKET_FILE_INODE", "file", "f_inode"),
    ("INODE_MODE", "inode", "i_mode"),
    ("FILE_PRIVATE", "file", "private_data"),
    ("SOCKET_SOCK", "socket", "sk"),
    // A `sock` begins with its `sock_common`.
    ("SOCK_COOKIE", "sock_common", "skc_cookie"),
    ("SOCK_PROTOCOL", "sock", "sk_protocol"),
    ("SOCK_PEER_PID", "sock", "sk_peer_pid"),
    ("PID_NUMBERS", "pid", "numbers"),
];
const FIELDS: [(&str, &str, &str); 16] = [
    ("NEWTASK_PID", "task/task_newtask", "pid"),
    ("NEWTASK_CLONE_FLAGS", "task/task_newtask", "clone_flags"),
    ("EXEC_FILENAME", "sched/sched_process_exec", "filename"),
    ("MMAP_RET", "syscalls/sys_exit_mmap", "ret"),
    ("MPROTECT_START", "syscalls/sys_enter_mprotect", "start"),
    ("MPROTECT_PROT", "syscalls/sys_enter_mprotect", "prot"),
    ("ENTER_NUMBER", "syscalls/sys_enter_write", "__syscall_nr"),
    ("EXIT_NUMBER", "syscalls/sys_exit_write", "__syscall_nr"),
    ("EXIT_RESULT", "syscalls/sys_exit_write", "ret"),
    ("MKDIR_ROOT", "cgroup/cgroup_mkdir", "root"),
    ("MKDIR_ID", "cgroup/cgroup_mkdir", "id"),
    ("MKDIR_PATH", "cgroup/cgroup_mkdir", "path"),
    ("ATTACH_ROOT", "cgroup/cgroup_attach_task", "dst_root"),
    ("ATTACH_ID", "cgroup/cgroup_attach_task", "dst_id"),
    ("ATTACH_PATH", "cgroup/cgroup_attach_task", "dst_path"),
    ("ATTACH_PID", "cgroup/cgroup_attach_task", "pid"),
];

/// What the programs are loaded for.
pub struct Setup<'a> {
    pub capacity: Capacity,
    /// Where what was found in files is kept.
    pub state_dir: &'a Path,
    /// Where maps, programs and links outlive the daemon. `None`: they do not.
    pub pins: Option<&'a Path>,
    /// The root of the cgroup v2 hierarchy.
    pub root: &'a File,
    /// Processes of tasks, as far as their cgroups tell.
    pub members: &'a dyn Fn() -> Vec<Pid>,
}

/// Loads the programs, or takes over those that are pinned, and attaches them to the host's TLS libraries and to everything that processes of
/// tasks have mapped already. Those of another generation stay in force until [`Probes::activate`].
///
/// # Errors
/// When the kernel lacks something, the process lacks a right, or another daemon has the pins: see [`LoadError`].
pub fn load(setup: &Setup<'_>) -> Result<Loaded, LoadError> {
    let capacity = setup.capacity;
    let offsets = offsets()?;
    let generation = generation(capacity, &offsets);
    let mut said = Vec::new();
    let pins = match setup.pins.map(Pins::open).transpose() {
        Ok(pins) => pins.map(Arc::new),
        Err(error @ PinsError::InUse(_)) => return Err(error.into()),
        Err(error) => {
            tracing::warn!("{error}; the gates go with the daemon: when it dies, nobody stops anybody");
            None
        }
    };
    let place = pins.as_ref().map(|pins| pins.place(generation));
    let all = programs();
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let found = place.as_ref().filter(|place| place.has(&MAPS, &names));
    let found = found.and_then(|place| Programs::open(&all, |name| place.program(name)).ok());
    let (mut maps, mut programs, takeover, is_found);
    if let (Some(place), Some(found)) = (&place, found) {
        (maps, programs, is_found) = (Source::Pinned(place.clone()), found, true);
        takeover = None;
    } else {
        let before = pins.as_ref().and_then(|pins| Takeover::find(pins, generation));
        let loader = Loader { capacity, offsets: &offsets, generation };
        let (mut ebpf, shared) = loader.load(place.as_ref(), before.as_ref())?;
        maps = match &place {
            Some(place) => Source::Pinned(place.clone()),
            None => Source::Loaded(MAPS.iter().filter_map(|&name| Some((name, ebpf.take_map(name)?))).collect()),
        };
        programs = Programs::load(ebpf, &all).map_err(load_error)?;
        if let Some(place) = &place {
            for name in &names {
                programs.any(name).map_err(load_error)?.pin(place.program(name)).map_err(load_error)?;
            }
        }
        (takeover, is_found) = (before.zip(place.clone()).map(|(old, new)| Takeover::new(old, new, shared)), false);
    }
    let presence = Arc::new(Presence::new(maps.take("DAEMON", Array::try_from)?).map_err(load_error)?);
    presence.arrive();
    let mut links = Links::open(place.as_ref());
    let attachments = attach_programs(&mut programs, &mut links, setup.root, capacity.sees_plaintext)?;
    let fullness = maps.fullness()?;
    let mut ring = Ring { current: maps.take("RECORDS", RingBuf::try_from)?, before: None };
    let memberships = Memberships {
        cgroups: maps.take("CGROUPS", HashMap::try_from)?,
        processes: maps.take("PROCESSES", HashMap::try_from)?,
        stopped: maps.take("STOPPED", HashMap::try_from)?,
        released: maps.take("RELEASED", HashMap::try_from)?,
    };
    let files = maps.take("FILES", HashMap::try_from)?;
    let gates = maps.take("GATES", Array::try_from)?;
    let counters = maps.take("COUNTERS", PerCpuArray::try_from)?;
    let held = maps.take("HELD_SOCKETS", HashMap::try_from)?;
    let waiting = maps.take("WAITING_SOCKETS", HashMap::try_from)?;
    let connections = maps.take("CONNECTIONS", HashMap::try_from)?;
    let traffic = Traffic {
        sockets: maps.take("SOCKETS", HashMap::try_from)?,
        datagrams: maps.take("DATAGRAMS", HashMap::try_from)?,
        readable: maps.take("READABLE", HashMap::try_from)?,
        families: maps.take("FAMILIES", HashMap::try_from)?,
        unreadable: maps.take("UNREADABLE", Array::try_from)?,
        denied: maps.take("DENIED", HashMap::try_from)?,
    };
    let (signatures, wrong) = signatures()?;
    said.extend(wrong.iter().map(ToString::to_string));
    let known = Known::open(setup.state_dir.join("probes.json"), &fingerprint(&signatures));
    let retiring = pins.as_ref().zip(place.as_ref()).map(|(pins, place)| (Arc::clone(pins), place.clone()));
    let mut attacher = Attacher::new(Parts {
        programs,
        links,
        attachments,
        presence: Arc::clone(&presence),
        pins: retiring,
        files,
        signatures,
        known,
        joins_records: capacity.sees_plaintext,
    });
    if let Some(takeover) = &takeover {
        takeover.copy_members();
    }
    let members = || {
        let mut members = (setup.members)();
        members.extend(memberships.all().into_iter().map(|(pid, _)| pid));
        members.sort_unstable();
        members.dedup();
        members
    };
    said.extend(attacher.attach_host(&members()));
    if let Some(takeover) = &takeover {
        // From here on whoever maps anything waits, also for the programs that are in force; what was mapped until now is there to be seen.
        takeover.forget_files();
        said.extend(attacher.attach_host(&members()));
        ring.before = takeover.ring();
    }
    let attached = attacher.attached();
    if attached.is_empty() {
        let why = said.first().cloned().unwrap_or_else(|| "none found".to_owned());
        return Err(LoadError::NoLibrary(why));
    }
    let (jobs, asked) = mpsc::channel();
    let (answers, looked) = unbounded_channel();
    let attacher = std::thread::Builder::new()
        .name("attach".into())
        .spawn(move || attacher.serve(&asked, &answers))
        .map_err(|error| LoadError::Load(format!("cannot start a thread: {error}")))?;
    let took_over = is_found || takeover.is_some();
    let probes = Probes {
        jobs: Some(jobs),
        attacher: Some(attacher),
        attached,
        counters,
        held,
        waiting,
        connections,
        presence,
        generation,
        takeover,
        pins,
        took_over,
    };
    Ok(Loaded { probes, maps: fullness, ring, memberships, gates, traffic, looked, said })
}

/// Maps that are taken out of the kernel or kept for the next daemon.
pub(super) const MAPS: [&str; 23] = [
    "CALLS",
    "CGROUPS",
    "CONNECTIONS",
    "COUNTERS",
    "DAEMON",
    "DATAGRAMS",
    "DENIED",
    "FAMILIES",
    "FILES",
    "GATES",
    "HELD_SOCKETS",
    "PROCESSES",
    "READABLE",
    "RECEIVED",
    "RECORDS",
    "RELEASED",
    "SCRATCH",
    "SEALED",
    "SEALERS",
    "SOCKETS",
    "STOPPED",
    "UNREADABLE",
    "WAITING_SOCKETS",
];

/// Every program of the object.
fn programs() -> Vec<(&'static str, Kind)> {
    let probe = |program: Probe| {
        let is_return = matches!(program, Probe::Return | Probe::Opened);
        let kind = if is_return { ProbeKind::Return } else { ProbeKind::Entry };
        (program.name(), Kind::Probe(kind))
    };
    let mut all: Vec<_> = Probe::ALL.into_iter().map(probe).collect();
    all.extend(CONNECT.map(|(name, kind)| (name, Kind::SockAddr(kind))));
    all.push((EGRESS, Kind::Packets(CgroupSkbAttachType::Egress)));
    all.extend(COUNTING.map(|(name, kind)| (name, Kind::Packets(kind))));
    all.extend(RAW_TRACEPOINTS.map(|(name, _)| (name, Kind::RawTracePoint)));
    all.extend(SOCKETS.map(|name| (name, Kind::TracePoint)));
    all.extend(REACHING.map(|(name, ..)| (name, Kind::TracePoint)));
    all.extend(RELABELLING.map(|(name, _)| (name, Kind::TracePoint)));
    all.extend(TRACEPOINTS.map(|(_, name)| (name, Kind::TracePoint)));
    all
}

/// Where the programs of this kernel find what they read.
fn offsets() -> Result<Vec<(&'static str, u32)>, LoadError> {
    let tracefs = tracefs::find_or_mount().map_err(LoadError::Tracefs)?;
    let types = KernelTypes::read().map_err(|error| LoadError::Btf(error.to_string()))?;
    let mut offsets = Vec::new();
    for (variable, structure, member) in MEMBERS {
        let offset = types.offset(structure, member).map_err(|error| LoadError::Btf(error.to_string()))?;
        offsets.push((variable, offset));
    }
    for (variable, event, field) in FIELDS {
        let offset = tracefs::field_offset(&tracefs, event, field)
            .map_err(|source| LoadError::Tracepoint { event: event.into(), source })?;
        offsets.push((variable, offset));
    }
    Ok(offsets)
}

/// A number for all that makes the programs and their maps what they are; never 0.
fn generation(capacity: Capacity, offsets: &[(&str, u32)]) -> u64 {
    let digest =
        Sha256::new().chain_update(OBJECT).chain_update(format!("{LAYOUT} {capacity:?} {offsets:?}")).finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_le_bytes(first) | 1
}

struct Loader<'a> {
    capacity: Capacity,
    offsets: &'a [(&'static str, u32)],
    generation: u64,
}

impl Loader<'_> {
    /// Makes the maps, or takes those of the generation before that are of the same size, and pins them. Returns, too, which ones were taken.
    fn load(&self, place: Option<&Place>, before: Option<&Place>) -> Result<(Ebpf, Vec<String>), LoadError> {
        let ebpf = self.loader(&Btf::from_sys_fs().map_err(|error| LoadError::Btf(error.to_string()))?, None)?;
        let Some(place) = place else { return Ok((ebpf, Vec::new())) };
        place.create()?;
        for (name, map) in ebpf.maps().filter(|(name, _)| MAPS.contains(name)) {
            map.pin(place.map(name)).map_err(load_error)?;
        }
        let Some(before) = before else { return Ok((ebpf, Vec::new())) };
        drop(ebpf);
        let mut shared = Vec::new();
        for name in before.maps().into_iter().filter(|name| MAPS.contains(&name.as_str()) && name != "FILES") {
            let map = MapData::from_pin(before.map(&name)).map_err(load_error)?;
            let own = MapData::from_pin(place.map(&name)).map_err(load_error)?;
            if is_alike(&map, &own).map_err(load_error)? {
                std::fs::remove_file(place.map(&name)).map_err(load_error)?;
                map.pin(place.map(&name)).map_err(load_error)?;
                shared.push(name);
            }
        }
        let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(error.to_string()))?;
        Ok((self.loader(&btf, Some(place))?, shared))
    }

    fn loader(&self, btf: &Btf, pinned: Option<&Place>) -> Result<Ebpf, LoadError> {
        let capacity = self.capacity;
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(btf))
            .map_max_entries("RECORDS", capacity.ring_bytes)
            .map_max_entries("PROCESSES", capacity.processes)
            .map_max_entries("CONNECTIONS", capacity.connections)
            .map_max_entries("STOPPED", capacity.processes)
            .map_max_entries("RELEASED", capacity.processes)
            .map_max_entries("WAITING_SOCKETS", capacity.connections)
            .map_max_entries("HELD_SOCKETS", capacity.connections)
            .map_max_entries("SOCKETS", capacity.connections)
            .map_max_entries("READABLE", capacity.processes)
            .map_max_entries("FAMILIES", capacity.processes)
            .override_global("GENERATION", &self.generation, true);
        for (variable, offset) in self.offsets {
            loader.override_global(variable, offset, true);
        }
        for name in pinned.iter().flat_map(|_| MAPS) {
            if let Some(place) = pinned {
                loader.map_pin_path(name, place.map(name));
            }
        }
        loader.load(OBJECT).map_err(load_error)
    }
}

fn is_alike(a: &MapData, b: &MapData) -> Result<bool, MapError> {
    let (a, b) = (a.info()?, b.info()?);
    Ok((a.key_size(), a.value_size(), a.max_entries(), a.map_flags())
        == (b.key_size(), b.value_size(), b.max_entries(), b.map_flags()))
}

/// Attaches everything that is not attached to files, or takes it over.
fn attach_programs(
    programs: &mut Programs,
    links: &mut Links,
    root: &File,
    sees_plaintext: bool,
) -> Result<Vec<Attachment>, LoadError> {
    let mut all = Vec::new();
    let mut attach = |name: &str, attach: &mut dyn FnMut() -> Result<FdLink, ProgramError>| {
        let attachment = match links.take(name) {
            Some(attachment) => attachment,
            None => links.keep(name, attach().map_err(load_error)?).map_err(load_error)?,
        };
        all.push(attachment);
        Ok::<_, LoadError>(())
    };
    for (name, _) in CONNECT {
        attach(name, &mut || {
            let program: &mut CgroupSockAddr = programs.get(name)?;
            let link = program.attach(root, CgroupAttachMode::Single)?;
            fd_link(program.take_link(link)?)
        })?;
    }
    attach(EGRESS, &mut || {
        let program: &mut CgroupSkb = programs.get(EGRESS)?;
        let link = program.attach(root, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)?;
        fd_link(program.take_link(link)?)
    })?;
    for (name, kind) in COUNTING {
        attach(name, &mut || {
            let program: &mut CgroupSkb = programs.get(name)?;
            let link = program.attach(root, kind, CgroupAttachMode::Single)?;
            fd_link(program.take_link(link)?)
        })?;
    }
    for (name, tracepoint) in RAW_TRACEPOINTS {
        attach(name, &mut || {
            let program: &mut RawTracePoint = programs.get(name)?;
            let link = program.attach(tracepoint)?;
            Ok(program.take_link(link)?.into())
        })?;
    }
    let (sending, passing) = if sees_plaintext { (&SENDING[..], &PASSING[..]) } else { (&[][..], &[][..]) };
    let sockets = [(SOCKETS[0], "enter", sending), (SOCKETS[1], "exit", passing)];
    let calls = sockets.iter().flat_map(|(name, edge, calls)| {
        calls.iter().map(move |call| (*name, "syscalls", format!("sys_{edge}_{call}")))
    });
    let reaching = REACHING.iter().map(|(name, edge, call)| (*name, "syscalls", format!("sys_{edge}_{call}")));
    let unseen = if sees_plaintext { &[][..] } else { &SENDING[..] };
    let waiting = unseen.iter().chain(&["sendfile64"]);
    let waiting = waiting.map(|call| ("waiting_enter", "syscalls", format!("sys_enter_{call}")));
    let tracefs = tracefs::find_or_mount().map_err(LoadError::Tracefs)?;
    let is_there = |event: &String| tracefs::has(&tracefs, &format!("syscalls/{event}"));
    let relabelling = RELABELLING.iter().flat_map(|(name, calls)| calls.iter().map(move |call| (*name, *call)));
    let relabelling = relabelling.map(|(name, call)| (name, "syscalls", format!("sys_enter_{call}")));
    let relabelling = relabelling.filter(|(.., event)| is_there(event));
    let others = TRACEPOINTS.iter().map(|(category, name)| (*name, *category, (*name).to_owned()));
    for (name, category, event) in calls.chain(reaching).chain(waiting).chain(relabelling).chain(others) {
        attach(&format!("{name}-{event}"), &mut || {
            let program: &mut TracePoint = programs.get(name)?;
            let link = program.attach(category, &event)?;
            fd_link(program.take_link(link)?)
        })?;
    }
    Ok(all)
}

/// A link as something that can be pinned; any kernel that runs the programs has such.
pub(super) fn fd_link<L>(link: L) -> Result<FdLink, ProgramError>
where
    FdLink: TryFrom<L, Error = LinkError>,
{
    FdLink::try_from(link).map_err(|error| ProgramError::IOError(io::Error::other(error)))
}

/// Maps, by their names.
enum Source {
    Loaded(std::collections::HashMap<&'static str, Map>),
    Pinned(Place),
}

impl Source {
    /// For a look at how full they are.
    fn fullness(&self) -> Result<Maps, LoadError> {
        let maps = match self {
            Self::Loaded(maps) => Maps::of(maps.iter().map(|(name, map)| (*name, map))),
            Self::Pinned(place) => {
                let open = |name: &'static str| {
                    let data = MapData::from_pin(place.map(name)).map_err(load_error)?;
                    Ok((name, Map::from_map_data(data).map_err(load_error)?))
                };
                let maps = MAPS.into_iter().map(open).collect::<Result<Vec<_>, LoadError>>()?;
                Maps::of(maps.iter().map(|(name, map)| (*name, map)))
            }
        };
        maps.map_err(load_error)
    }

    fn take<T>(&mut self, name: &str, convert: impl FnOnce(Map) -> Result<T, MapError>) -> Result<T, LoadError> {
        let map = match self {
            Self::Loaded(maps) => maps.remove(name),
            Self::Pinned(place) => {
                let data = MapData::from_pin(place.map(name)).map_err(load_error)?;
                Some(Map::from_map_data(data).map_err(load_error)?)
            }
        };
        let map = map.ok_or_else(|| LoadError::Load(format!("the embedded object has no map `{name}`")))?;
        convert(map).map_err(load_error)
    }
}

/// The embedded signatures and the administrator's own; and what is wrong with files that could not be used.
fn signatures() -> Result<(Signatures, Vec<SignatureError>), LoadError> {
    let embedded = Signatures::embedded().map_err(|error| LoadError::Load(error.to_string()))?;
    Ok(embedded.with_directory(Path::new(finder::SIGNATURES_DIRECTORY)))
}

fn fingerprint(signatures: &Signatures) -> String {
    let mut hasher = std::hash::DefaultHasher::new();
    format!("{signatures:?}").hash(&mut hasher);
    // Another build may find, or be able to read, something else.
    (env!("CARGO_PKG_VERSION"), OBJECT).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}
