//! Loading the programs and holding on to their maps.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, RingBuf},
    programs::{TracePoint, UProbe},
};
use monitor_common::{Counters, Gate, Process};
use tokio::io::{Interest, unix::AsyncFd};

use super::{
    attach::{Attached, Libraries, LibraryError},
    event::{Event, Pid, Slot},
    tracefs,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("TOLLGATE_EBPF_OBJECT"));

const TRACEPOINTS: [(&str, &str); 3] =
    [("task", "task_newtask"), ("sched", "sched_process_exec"), ("sched", "sched_process_exit")];
const UPROBES: [&str; 6] = ["ssl_return", "ssl_write", "ssl_write_ex", "ssl_read", "ssl_read_ex", "ssl_free"];

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
    #[error("no OpenSSL library on this host could be probed: install libssl or say where it is ({0})")]
    NoLibrary(String),
}

/// Sizes of kernel maps that configuration may change.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// Bytes of the record ring; a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    pub processes: u32,
    pub connections: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self { ring_bytes: 32 * 1024 * 1024, processes: 65_536, connections: 65_536 }
    }
}

/// The loaded programs. Dropping it detaches everything.
pub struct Probes {
    ebpf: Ebpf,
    libraries: Libraries,
    counters: PerCpuArray<MapData, Counters>,
}

impl Probes {
    /// Loads the programs and attaches the tracepoints, but no library yet.
    ///
    /// # Errors
    /// When the kernel lacks something or the process lacks a right: see [`LoadError`].
    pub fn load(capacity: Capacity) -> Result<(Self, Ring, Memberships, Array<MapData, Gate>), LoadError> {
        let btf = Btf::from_sys_fs().map_err(|error| LoadError::Btf(error.to_string()))?;
        let tracefs = tracefs::find_or_mount().map_err(LoadError::Tracefs)?;
        let offset = |event: &str, field: &str| {
            tracefs::field_offset(&tracefs, event, field)
                .map_err(|source| LoadError::Tracepoint { event: event.into(), source })
        };
        let newtask_pid = offset("task/task_newtask", "pid")?;
        let newtask_clone_flags = offset("task/task_newtask", "clone_flags")?;
        let exec_filename = offset("sched/sched_process_exec", "filename")?;

        let mut ebpf = EbpfLoader::new()
            .btf(Some(&btf))
            .override_global("NEWTASK_PID", &newtask_pid, true)
            .override_global("NEWTASK_CLONE_FLAGS", &newtask_clone_flags, true)
            .override_global("EXEC_FILENAME", &exec_filename, true)
            .map_max_entries("RECORDS", capacity.ring_bytes)
            .map_max_entries("PROCESSES", capacity.processes)
            .map_max_entries("CONNECTIONS", capacity.connections)
            .load(OBJECT)
            .map_err(load_error)?;
        load_programs(&mut ebpf)?;
        let ring = Ring(take_map(&mut ebpf, "RECORDS", RingBuf::try_from)?);
        let memberships = Memberships {
            cgroups: take_map(&mut ebpf, "CGROUPS", HashMap::try_from)?,
            processes: take_map(&mut ebpf, "PROCESSES", HashMap::try_from)?,
        };
        let gates = take_map(&mut ebpf, "GATES", Array::try_from)?;
        let counters = take_map(&mut ebpf, "COUNTERS", PerCpuArray::try_from)?;
        Ok((Self { ebpf, libraries: Libraries::default(), counters }, ring, memberships, gates))
    }

    /// Attaches to every TLS library that is installed or mapped; returns those that could not be.
    ///
    /// # Errors
    /// When not a single one could be attached.
    pub fn attach_libraries(&mut self) -> Result<Vec<LibraryError>, LoadError> {
        let errors = self.libraries.attach_host(&mut self.ebpf);
        if self.libraries.attached().next().is_none() {
            let why = errors.first().map_or_else(|| "none found".to_owned(), ToString::to_string);
            return Err(LoadError::NoLibrary(why));
        }
        Ok(errors)
    }

    /// Attaches to what this process has mapped and is not probed yet.
    pub fn attach_process(&mut self, pid: Pid) -> Vec<LibraryError> {
        i32::try_from(pid).map(|pid| self.libraries.attach_process(&mut self.ebpf, pid)).unwrap_or_default()
    }

    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.libraries.attached()
    }

    /// Losses and failures since load, summed over CPUs.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::default();
        for cpu in self.counters.get(&0, 0).iter().flat_map(|values| values.iter()) {
            sum.dropped_records += cpu.dropped_records;
            sum.dropped_bytes += cpu.dropped_bytes;
            sum.uncopied_bytes += cpu.uncopied_bytes;
            sum.unreadable_buffers += cpu.unreadable_buffers;
            sum.map_full += cpu.map_full;
            sum.signal_failures += cpu.signal_failures;
            sum.records += cpu.records;
            sum.bytes += cpu.bytes;
        }
        sum
    }
}

/// Whole error chain in one line: the verifier's own words are at its end.
fn load_error(error: impl std::error::Error) -> LoadError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        let first_line = cause_text.lines().next().unwrap_or_default();
        text = format!("{text}: {first_line}");
        tracing::debug!("{cause_text}");
        source = cause.source();
    }
    LoadError::Load(text)
}

fn load_programs(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let missing = |name: &str| LoadError::Load(format!("the embedded object has no program `{name}`"));
    for name in UPROBES {
        let program: &mut UProbe = ebpf
            .program_mut(name)
            .ok_or_else(|| missing(name))?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| load_error(error))?;
        program.load().map_err(load_error)?;
    }
    for (category, name) in TRACEPOINTS {
        let program: &mut TracePoint = ebpf
            .program_mut(name)
            .ok_or_else(|| missing(name))?
            .try_into()
            .map_err(|error: aya::programs::ProgramError| load_error(error))?;
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

    /// Makes a process a member whatever its cgroup.
    pub fn adopt(&mut self, pid: Pid, slot: Slot, born: u64) -> io::Result<()> {
        self.processes.insert(pid, Process { born, slot: slot.0, reserved: 0 }, 0).map_err(io::Error::other)
    }

    pub fn forget(&mut self, pid: Pid) {
        // Absent is what is wanted.
        self.processes.remove(&pid).ok();
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
        // Two kinds of writes, each taking a credit and giving one back.
        assert!(atomics.len() >= 4, "{atomics:?}");
        assert!(atomics.iter().all(|&operation| operation == FETCH_ADD), "{atomics:?}");
    }
}
