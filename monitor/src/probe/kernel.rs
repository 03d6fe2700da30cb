//! Loading the programs and holding on to their maps.

use std::{
    fs::File,
    hash::{Hash as _, Hasher as _},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::mpsc,
    thread::JoinHandle,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{
        CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSockAddr, Program, ProgramError, RawTracePoint,
        TracePoint, UProbe,
    },
};
use monitor_common::{Connection, ConnectionKey, Counters, Gate, Process, SPACE_RECORDS, SPACE_TLS, Stop, Waiting};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use super::{
    attach::{Attached, Attacher, Looked, Request},
    btf::KernelTypes,
    event::{ConnectionId, Event, Pid, Slot, Transport},
    finder::{self, SignatureError, Signatures},
    fullness::Maps,
    known::Known,
    plan::Program as Probe,
    tracefs,
    traffic::Traffic,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TOLLGATE_EBPF_OBJECT"));

/// System calls by which a process reaches beyond its task, and the programs that look at them; `exit` where they look at what came.
const REACHING: [(&str, &str, &str); 12] = [
    ("reach_ptrace", "enter", "ptrace"),
    ("reach_vm_write", "enter", "process_vm_writev"),
    ("reach_getfd", "enter", "pidfd_getfd"),
    ("reach_bpf", "enter", "bpf"),
    ("reach_kill", "enter", "kill"),
    ("reach_tgkill", "enter", "tgkill"),
    ("reach_connect", "enter", "connect"),
    ("reach_setsockopt", "enter", "setsockopt"),
    ("reach_sendmsg", "enter", "sendmsg"),
    ("took_recvmsg", "exit", "recvmsg"),
    ("waiting_enter", "enter", "sendmmsg"),
    ("waiting_splice", "enter", "splice"),
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
const CONNECT: [&str; 4] = ["deny_connect4", "deny_connect6", "deny_sendmsg4", "deny_sendmsg6"];
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

/// Why the programs are not running, each with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the kernel offers no BTF at /sys/kernel/btf/vmlinux: use a kernel built with CONFIG_DEBUG_INFO_BTF ({0})")]
    Btf(String),
    #[error("tracefs is not mounted and cannot be: run `mount -t tracefs tracefs /sys/kernel/tracing` ({0})")]
    Tracefs(io::Error),
    #[error("the kernel's tracepoint {event} cannot be used: {source}")]
    Tracepoint { event: String, source: io::Error },
    #[error(
        "the kernel refused the eBPF programs: {0}; root (CAP_BPF, CAP_PERFMON, CAP_SYS_ADMIN) and Linux 5.17 or newer are needed"
    )]
    Load(String),
    #[error("no TLS library on this host could be probed: install one, OpenSSL for example ({0})")]
    NoLibrary(String),
}

/// Sizes of kernel maps that configuration may change.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Bytes of the record ring; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    pub processes: u32,
    pub connections: u32,
    /// Whether system calls on sockets are looked at: it makes every system call of the host dearer.
    pub sees_plaintext: bool,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { ring_bytes: 32 * 1024 * 1024, processes: 65_536, connections: 65_536, sees_plaintext: true }
    }
}

/// The engine's side of the probes: who looks at files, what is probed, what was lost.
pub struct Probes {
    /// Gone only while this is dropped.
    requests: Option<mpsc::Sender<Request>>,
    attacher: Option<JoinHandle<()>>,
    attached: Vec<Attached>,
    counters: PerCpuArray<MapData, Counters>,
    /// Sockets of which no data may leave.
    held: HashMap<MapData, u64, u32>,
    /// Sockets on which processes sent that should have been standing still.
    waiting: HashMap<MapData, u64, Waiting>,
    connections: HashMap<MapData, ConnectionKey, Connection>,
}

/// Everything that is taken out of the kernel, ready for use.
pub struct Loaded {
    pub probes: Probes,
    /// For a look at how full they are.
    pub maps: Maps,
    pub ring: Ring,
    pub memberships: Memberships,
    pub gates: Array<MapData, Gate>,
    pub traffic: Traffic,
    /// What came of the looks that were asked for.
    pub looked: UnboundedReceiver<Looked>,
    /// What there is to say about the files of this host.
    pub said: Vec<String>,
}

impl Probes {
    /// Loads the programs, and attaches them to the host's TLS libraries and to everything that `members`, processes of tasks, have mapped already.
    ///
    /// What was found in files is kept in `state_dir`. `root` is the root of the cgroup v2 hierarchy.
    ///
    /// # Errors
    /// When the kernel lacks something or the process lacks a right: see [`LoadError`].
    pub fn load(capacity: Capacity, state_dir: &Path, root: &File, members: &[Pid]) -> Result<Loaded, LoadError> {
        let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(error.to_string()))?;
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

        offsets.push(("OWN_TGID", std::process::id()));
        let mut loader = EbpfLoader::new();
        loader
            .btf(Some(&btf))
            .map_max_entries("RECORDS", capacity.ring_bytes)
            .map_max_entries("PROCESSES", capacity.processes)
            .map_max_entries("CONNECTIONS", capacity.connections)
            .map_max_entries("STOPPED", capacity.processes)
            .map_max_entries("RELEASED", capacity.processes)
            .map_max_entries("WAITING_SOCKETS", capacity.connections)
            .map_max_entries("HELD_SOCKETS", capacity.connections)
            .map_max_entries("SOCKETS", capacity.connections)
            .map_max_entries("READABLE", capacity.processes)
            .map_max_entries("FAMILIES", capacity.processes);
        for (variable, offset) in &offsets {
            loader.override_global(variable, offset, true);
        }
        let mut ebpf = loader.load(OBJECT).map_err(load_error)?;
        load_programs(&mut ebpf, root, capacity.sees_plaintext)?;
        let maps = Maps::of(&ebpf).map_err(|error| LoadError::Load(error.to_string()))?;
        let mut ring = Ring(take_map(&mut ebpf, "RECORDS", RingBuf::try_from)?);
        let memberships = Memberships {
            cgroups: take_map(&mut ebpf, "CGROUPS", HashMap::try_from)?,
            processes: take_map(&mut ebpf, "PROCESSES", HashMap::try_from)?,
            stopped: take_map(&mut ebpf, "STOPPED", HashMap::try_from)?,
            released: take_map(&mut ebpf, "RELEASED", HashMap::try_from)?,
        };
        let files = take_map(&mut ebpf, "FILES", HashMap::try_from)?;
        let gates = take_map(&mut ebpf, "GATES", Array::try_from)?;
        let counters = take_map(&mut ebpf, "COUNTERS", PerCpuArray::try_from)?;
        let held = take_map(&mut ebpf, "HELD_SOCKETS", HashMap::try_from)?;
        let waiting = take_map(&mut ebpf, "WAITING_SOCKETS", HashMap::try_from)?;
        let connections = take_map(&mut ebpf, "CONNECTIONS", HashMap::try_from)?;
        let traffic = Traffic {
            sockets: take_map(&mut ebpf, "SOCKETS", HashMap::try_from)?,
            datagrams: take_map(&mut ebpf, "DATAGRAMS", HashMap::try_from)?,
            readable: take_map(&mut ebpf, "READABLE", HashMap::try_from)?,
            unreadable: take_map(&mut ebpf, "UNREADABLE", Array::try_from)?,
            denied: take_map(&mut ebpf, "DENIED", HashMap::try_from)?,
        };
        let (signatures, wrong) = signatures()?;
        let mut said: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        let known = Known::open(state_dir.join("probes.json"), &fingerprint(&signatures));
        let mut attacher = Attacher::new(ebpf, files, signatures, known, capacity.sees_plaintext);
        said.extend(attacher.attach_host(members, &mut ring));
        let attached = attacher.attached();
        if attached.is_empty() {
            let why = said.first().cloned().unwrap_or_else(|| "none found".to_owned());
            return Err(LoadError::NoLibrary(why));
        }
        let (requests, asked) = mpsc::channel();
        let (answers, looked) = unbounded_channel();
        let attacher = std::thread::Builder::new()
            .name("attach".into())
            .spawn(move || attacher.serve(&asked, &answers))
            .map_err(|error| LoadError::Load(format!("cannot start a thread: {error}")))?;
        let probes =
            Self { requests: Some(requests), attacher: Some(attacher), attached, counters, held, waiting, connections };
        Ok(Loaded { probes, maps, ring, memberships, gates, traffic, looked, said })
    }

    /// Asks for a file to be looked at. The answer comes as [`Looked`]; `false` if there will be none.
    pub fn look_at(&self, request: Request) -> bool {
        self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok())
    }

    pub fn set_attached(&mut self, attached: Vec<Attached>) {
        self.attached = attached;
    }

    pub fn attached(&self) -> &[Attached] {
        &self.attached
    }

    /// What the socket with this cookie has been kept from sending may leave.
    pub fn release_socket(&mut self, cookie: u64) {
        // Absent is what is wanted.
        self.held.remove(&cookie).ok();
    }

    /// A process is gone that had this connection; that it ended need not have been seen.
    pub fn forget_connection(&mut self, id: ConnectionId) {
        let space = match id.transport {
            Transport::Tls => SPACE_TLS,
            Transport::Records => SPACE_RECORDS,
            // The kernel sees the end of every socket.
            Transport::Socket => return,
        };
        // Absent is what is wanted.
        self.connections.remove(&ConnectionKey { object: id.object, tgid: id.pid, space }).ok();
    }

    /// Cookies of the sockets of a task that are kept from sending.
    pub fn held_sockets(&self, slot: Slot) -> Vec<u64> {
        let held = self.held.iter().flatten();
        let waiting = self.waiting.iter().flatten().map(|(cookie, waiting)| (cookie, waiting.slot));
        held.chain(waiting).filter_map(|(cookie, of)| (of == slot.0).then_some(cookie)).collect()
    }

    /// Losses and failures since load, summed over CPUs.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for cpu in self.counters.get(&0, 0).iter().flat_map(|values| values.iter()) {
            sum.dropped_records += cpu.dropped_records;
            sum.dropped_bytes += cpu.dropped_bytes;
            sum.uncopied_bytes += cpu.uncopied_bytes;
            sum.unwalked_bytes += cpu.unwalked_bytes;
            sum.unwalked_sockets += cpu.unwalked_sockets;
            sum.unreadable_buffers += cpu.unreadable_buffers;
            sum.map_full += cpu.map_full;
            sum.signal_failures += cpu.signal_failures;
            sum.records += cpu.records;
            sum.bytes += cpu.bytes;
        }
        sum
    }
}

impl Drop for Probes {
    /// Waits until everything is detached: a process that exits with probes detaches them one by one, which can take a minute.
    fn drop(&mut self) {
        self.requests = None;
        if let Some(attacher) = self.attacher.take()
            && attacher.join().is_err()
        {
            tracing::error!("the thread that attaches probes has panicked");
        }
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

/// The error chain in one line. What the verifier printed may be megabytes: its last words say what it did not like, the rest is for debugging.
fn load_error(error: impl std::error::Error) -> LoadError {
    let mut texts = vec![error.to_string()];
    let mut source = error.source();
    while let Some(cause) = source {
        texts.push(cause.to_string());
        source = cause.source();
    }
    let text = texts.join(": ");
    tracing::debug!("{text}");
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (head, tail) =
        (line.floor_char_boundary(ERROR_HEAD), line.ceil_char_boundary(line.len().saturating_sub(ERROR_TAIL)));
    let line = if head < tail { format!("{} … {}", &line[..head], &line[tail..]) } else { line };
    LoadError::Load(line)
}

/// Bytes of a long error that are shown, from its beginning and from its end.
const ERROR_HEAD: usize = 160;
const ERROR_TAIL: usize = 320;

/// A program of the object, as what it is.
fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let missing = || LoadError::Load(format!("the embedded object has no program `{name}`"));
    ebpf.program_mut(name).ok_or_else(missing)?.try_into().map_err(load_error)
}

fn load_programs(ebpf: &mut Ebpf, root: &File, sees_plaintext: bool) -> Result<(), LoadError> {
    for name in Probe::ALL.map(Probe::name) {
        program::<UProbe>(ebpf, name)?.load().map_err(load_error)?;
    }
    for name in CONNECT {
        let program: &mut CgroupSockAddr = program(ebpf, name)?;
        program.load().map_err(load_error)?;
        program.attach(root, CgroupAttachMode::Single).map_err(load_error)?;
    }
    let egress: &mut CgroupSkb = program(ebpf, EGRESS)?;
    egress.load().map_err(load_error)?;
    egress.attach(root, CgroupSkbAttachType::Egress, CgroupAttachMode::Single).map_err(load_error)?;
    for (name, kind) in COUNTING {
        let program: &mut CgroupSkb = program(ebpf, name)?;
        program.load().map_err(load_error)?;
        program.attach(root, kind, CgroupAttachMode::Single).map_err(load_error)?;
    }
    for (name, tracepoint) in RAW_TRACEPOINTS {
        let program: &mut RawTracePoint = program(ebpf, name)?;
        program.load().map_err(load_error)?;
        program.attach(tracepoint).map_err(load_error)?;
    }
    let (sending, passing) = if sees_plaintext { (&SENDING[..], &PASSING[..]) } else { (&[][..], &[][..]) };
    for (name, edge, calls) in [("socket_enter", "enter", sending), ("socket_exit", "exit", passing)] {
        let program: &mut TracePoint = program(ebpf, name)?;
        program.load().map_err(load_error)?;
        for call in calls {
            program.attach("syscalls", &format!("sys_{edge}_{call}")).map_err(load_error)?;
        }
    }
    for (name, edge, call) in REACHING {
        let program: &mut TracePoint = program(ebpf, name)?;
        program.load().map_err(load_error)?;
        program.attach("syscalls", &format!("sys_{edge}_{call}")).map_err(load_error)?;
    }
    let waiting: &mut TracePoint = program(ebpf, "waiting_enter")?;
    let others = if sees_plaintext { &[][..] } else { &SENDING[..] };
    for call in others.iter().chain(&["sendfile64"]) {
        waiting.attach("syscalls", &format!("sys_enter_{call}")).map_err(load_error)?;
    }
    for (category, name) in TRACEPOINTS {
        let program: &mut TracePoint = program(ebpf, name)?;
        program.load().map_err(load_error)?;
        program.attach(category, name).map_err(load_error)?;
    }
    Ok(())
}

fn take_map<T>(
    ebpf: &mut Ebpf,
    name: &str,
    convert: impl FnOnce(aya::maps::Map) -> Result<T, aya::maps::MapError>,
) -> Result<T, LoadError> {
    let map = ebpf.take_map(name).ok_or_else(|| LoadError::Load(format!("the embedded object has no map `{name}`")))?;
    convert(map).map_err(load_error)
}

/// The stream of records.
pub struct Ring(RingBuf<MapData>);

impl Ring {
    /// Hands every waiting event, with its boot-clock time, to `on_event`; returns how many there were, at most `limit`.
    pub fn drain(&mut self, limit: usize, mut on_event: impl FnMut(Event<'_>, u64)) -> usize {
        let mut count = 0;
        while count < limit {
            let Some(item) = self.0.next() else { break };
            count += 1;
            if let Some((event, time)) = Event::parse(&item) {
                on_event(event, time);
            }
        }
        count
    }
}

impl Ring {
    /// Becomes readable when there is something to [`drain`](Self::drain). To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the descriptor cannot be watched.
    pub fn watch(&self) -> io::Result<AsyncFd<OwnedFd>> {
        let fd = self.0.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, so it stays open, and the same, for as long as it is registered.
        Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
    }
}

/// Which cgroups and processes belong to which slot, as the kernel sees it.
pub struct Memberships {
    cgroups: HashMap<MapData, u64, u32>,
    processes: HashMap<MapData, u32, Process>,
    stopped: HashMap<MapData, u32, Stop>,
    released: HashMap<MapData, u32, u64>,
}

impl Memberships {
    /// From now on every process in this cgroup or below belongs to the slot.
    pub fn label_cgroup(&mut self, cgroup: u64, slot: Slot) -> io::Result<()> {
        self.cgroups.insert(cgroup, slot.0, 0).map_err(io::Error::other)
    }

    pub fn unlabel_cgroup(&mut self, cgroup: u64) {
        // Absent is what is wanted.
        self.cgroups.remove(&cgroup).ok();
    }

    pub fn label_of(&self, cgroup: u64) -> Option<Slot> {
        self.cgroups.get(&cgroup, 0).ok().map(Slot)
    }

    /// Makes a process a member whatever its cgroup. One that was `born` at 0 is older than anything that is known, and may have connections.
    pub fn adopt(&mut self, pid: Pid, slot: Slot, born: u64) -> io::Result<()> {
        self.processes
            .insert(pid, Process { born, slot: slot.0, connects: u32::from(born == 0) }, 0)
            .map_err(io::Error::other)
    }

    pub fn forget(&mut self, pid: Pid) {
        // Absent is what is wanted.
        self.processes.remove(&pid).ok();
        self.stopped.remove(&pid).ok();
        self.released.remove(&pid).ok();
    }

    /// A process that was stopped before `now`, by the boot clock, may run: what it sends leaves. To be said before it is woken.
    ///
    /// # Errors
    /// When the kernel has no room for it: then nothing that it sends on sockets leaves.
    pub fn let_go(&mut self, pid: Pid, now: u64) -> io::Result<()> {
        if self.stopped.get(&pid, 0).is_err() {
            return Ok(());
        }
        self.released.insert(pid, now, 0).map_err(io::Error::other)
    }

    pub fn slot_of(&self, pid: Pid) -> Option<Slot> {
        self.processes.get(&pid, 0).ok().map(|process| Slot(process.slot))
    }

    /// Processes that are followed.
    pub fn all(&self) -> Vec<(Pid, Slot)> {
        self.processes.iter().flatten().map(|(pid, process)| (pid, Slot(process.slot))).collect()
    }

    /// Every member of the slot, wherever it has moved to.
    pub fn members(&self, slot: Slot) -> Vec<Pid> {
        self.all().into_iter().filter(|(_, of)| *of == slot).map(|(pid, _)| pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use object::{Object as _, ObjectSection as _};

    /// Opcode of atomic operations on 64 bits, and what they do (`linux/bpf.h`).
    const ATOMIC_64: u8 = 0xdb;
    const FETCH_ADD: i32 = 0x01;

    /// A weaker memory order than `SeqCst`, or another CPU, makes the compiler turn a fetch whose result is used into a plain add, in
    /// silence: then the gate would compare the operand.
    #[test]
    fn credits_are_taken_with_fetching_atomics() {
        let elf = object::File::parse(super::OBJECT).expect("the embedded object");
        let section = elf.section_by_name("uprobe").expect("the probes");
        let code = section.data().expect("its code").chunks_exact(8);
        let atomics: Vec<i32> = code
            .filter(|instruction| instruction[0] == ATOMIC_64)
            .map(|instruction| i32::from_le_bytes(instruction[4..8].try_into().expect("four bytes")))
            .collect();
        // A credit is taken, and given back.
        assert!(atomics.len() >= 2, "{atomics:?}");
        assert!(atomics.iter().all(|&operation| operation == FETCH_ADD), "{atomics:?}");
    }
}
