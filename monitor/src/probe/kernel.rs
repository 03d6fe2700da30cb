//! The programs at work: their maps, and the ring.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, RingBuf};
use monitor_common::{
    Connection, ConnectionKey, Counters, Gate, Process, SPACE_RECORDS, SPACE_SOCKET, SPACE_TLS, Stop, Waiting,
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::mpsc::UnboundedReceiver,
};

use super::{
    attach::{Attached, Job, Looked, Request},
    event::{ConnectionId, Event, Pid, Slot, Transport},
    fullness::Maps,
    pins::{Pins, PinsError},
    presence::Presence,
    takeover::Takeover,
    traffic::Traffic,
};

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
    #[error(transparent)]
    Pins(#[from] PinsError),
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
    pub(super) jobs: Option<mpsc::Sender<Job>>,
    pub(super) attacher: Option<JoinHandle<()>>,
    pub(super) attached: Vec<Attached>,
    pub(super) counters: PerCpuArray<MapData, Counters>,
    /// Sockets of which no data may leave.
    pub(super) held: HashMap<MapData, u64, u32>,
    /// Sockets on which processes sent that should have been standing still.
    pub(super) waiting: HashMap<MapData, u64, Waiting>,
    pub(super) connections: HashMap<MapData, ConnectionKey, Connection>,
    pub(super) presence: Arc<Presence>,
    pub(super) generation: u64,
    pub(super) takeover: Option<Takeover>,
    /// Kept for as long as the pins are this daemon's.
    pub(super) pins: Option<Arc<Pins>>,
    /// The maps were here before this daemon.
    pub(super) took_over: bool,
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
    /// Whether maps were here before this daemon: tasks, processes and credits are in them, and records in the ring.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// Whether anything outlives the daemon.
    pub fn pins(&self) -> Option<&Path> {
        self.pins.as_deref().map(Pins::root)
    }

    /// These programs are in force from now on, and no others; what nobody needs any more is detached in the background.
    pub fn activate(&mut self) {
        match self.takeover.take() {
            Some(takeover) => takeover.change(&self.presence, self.generation),
            None => self.presence.set_generation(self.generation),
        }
        self.presence.beat();
        if let Some(jobs) = &self.jobs {
            // The thread has ended only if it panicked, which is said at the end.
            jobs.send(Job::TidyUp).ok();
        }
    }

    /// The daemon is there, and works.
    pub fn beat(&self) {
        self.presence.beat();
    }

    /// The daemon ends.
    pub fn leave(&self) {
        self.presence.leave();
    }

    /// Losses that a daemon has said already.
    pub fn losses_said(&self) -> u64 {
        self.presence.losses_said()
    }

    pub fn say_losses(&self, losses: u64) {
        self.presence.say_losses(losses);
    }

    /// Asks for a file to be looked at. The answer comes as [`Looked`]; `false` if there will be none.
    pub fn look_at(&self, request: Request) -> bool {
        self.jobs.as_ref().is_some_and(|jobs| jobs.send(Job::Look(request)).is_ok())
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

    /// Lets sockets send that this process has written to last, where nobody knows any more what is held on them.
    pub fn release_sockets_of(&mut self, slot: Slot, pid: Pid) {
        let held: Vec<u64> =
            self.held.iter().flatten().filter_map(|(cookie, of)| (of == slot.0).then_some(cookie)).collect();
        for cookie in held {
            let key = ConnectionKey { object: cookie, tgid: 0, space: SPACE_SOCKET };
            if self.connections.get(&key, 0).is_ok_and(|connection| connection.owner == pid) {
                self.release_socket(cookie);
            }
        }
    }

    /// Losses and failures since the programs were loaded, summed over CPUs.
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
    /// Waits until everything is detached that is not pinned: a process that exits with probes detaches them one by one, which can take a minute.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(attacher) = self.attacher.take()
            && attacher.join().is_err()
        {
            tracing::error!("the thread that attaches probes has panicked");
        }
    }
}

/// The error chain in one line. What the verifier printed may be megabytes: its last words say what it did not like, the rest is for debugging.
pub(super) fn load_error(error: impl std::error::Error) -> LoadError {
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

/// The stream of records.
pub struct Ring {
    pub(super) current: RingBuf<MapData>,
    /// That of programs that were in force before, where it is another one.
    pub(super) before: Option<RingBuf<MapData>>,
}

impl Ring {
    /// Hands every waiting event, with its boot-clock time, to `on_event`; returns how many there were, at most `limit`.
    pub fn drain(&mut self, limit: usize, mut on_event: impl FnMut(Event<'_>, u64)) -> usize {
        let mut count = 0;
        while count < limit {
            let earlier = self.before.as_mut().and_then(RingBuf::next);
            let Some(item) = earlier.or_else(|| self.current.next()) else { break };
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
        let fd = self.current.as_fd().try_clone_to_owned()?;
        // SAFETY: the descriptor is owned by the `AsyncFd`, so it stays open, and the same, for as long as it is registered.
        Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
    }
}

/// Which cgroups and processes belong to which slot, as the kernel sees it.
pub struct Memberships {
    pub(super) cgroups: HashMap<MapData, u64, u32>,
    pub(super) processes: HashMap<MapData, u32, Process>,
    pub(super) stopped: HashMap<MapData, u32, Stop>,
    pub(super) released: HashMap<MapData, u32, u64>,
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

    /// The slot that a cgroup is labelled with, if it is.
    ///
    /// # Errors
    /// When the kernel does not tell.
    pub fn label_of(&self, cgroup: u64) -> io::Result<Option<Slot>> {
        match self.cgroups.get(&cgroup, 0) {
            Ok(slot) => Ok(Some(Slot(slot))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Labelled cgroups.
    pub fn cgroups(&self) -> Vec<(u64, Slot)> {
        self.cgroups.iter().flatten().map(|(cgroup, slot)| (cgroup, Slot(slot))).collect()
    }

    /// As [`adopt`](Self::adopt), of a process that may be known: what is known of it stays.
    ///
    /// # Errors
    /// When the kernel has no room for it.
    pub fn adopt_unknown(&mut self, pid: Pid, slot: Slot) -> io::Result<()> {
        if self.slot_of(pid) == Some(slot) { Ok(()) } else { self.adopt(pid, slot, 0) }
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
        let elf = object::File::parse(super::super::load::OBJECT).expect("the embedded object");
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
