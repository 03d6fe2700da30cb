//! State shared with user space, and between entry and return of a call.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use monitor_common::{Connection, ConnectionKey, Counters, Daemon, FileKey, Gate, MAX_TASKS, Process};

use crate::requests::Walker;

/// `BPF_F_MMAPABLE` (`linux/bpf.h`): user space maps the array into its memory.
const MMAPABLE: u32 = 1 << 10;

/// One gate per task slot.
#[map]
pub static GATES: Array<Gate> = Array::with_max_entries(MAX_TASKS, MMAPABLE);

/// The daemon.
#[map]
pub static DAEMON: Array<Daemon> = Array::with_max_entries(1, MMAPABLE);

/// Labelled cgroups: cgroup id → slot.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_TASKS * 4, 0);

/// Processes of tasks: tgid → membership.
#[map]
pub static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(65_536, 0);

/// Connections of tasks. Least recently used ones give way: a free can be missed, memory may not grow.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, Connection> = LruHashMap::with_max_entries(65_536, 0);

/// Executable files that somebody has looked at. Least recently used ones give way, and are looked at again.
#[map]
pub static FILES: LruHashMap<FileKey, u32> = LruHashMap::with_max_entries(65_536, 0);

/// TLS calls between entry and return.
#[map]
pub static CALLS: LruHashMap<CallKey, Call> = LruHashMap::with_max_entries(16_384, 0);

/// Sockets of which no data may leave until user space says so: cookie → slot. An entry goes with its socket at the latest.
#[map]
pub static HELD_SOCKETS: HashMap<u64, u32> = HashMap::with_max_entries(65_536, 0);

#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(32 * 1024 * 1024, 0);

#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Who has entered a call: a thread by its id, a goroutine by its address.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CallKey {
    pub who: u64,
    pub tgid: u32,
    pub is_goroutine: u32,
}

/// Arguments of a TLS call that has been entered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    pub object: u64,
    pub buffer: u64,
    /// Bytes of the buffer.
    pub len: u64,
    /// How it will be known how much has passed, and the word that goes with it.
    pub passed_at: u64,
    pub passed: u32,
    pub slot: u32,
    /// 1 for writes, 0 for reads.
    pub sent: u32,
    /// `FLAG_*` of its records.
    pub flags: u32,
    /// 1: the last byte of the buffer is not plaintext but says what it is.
    pub inside: u32,
    pub reserved: u32,
    /// Writes: the walk over them. It lies here and not on the stack, where the verifier would follow every value it can have.
    pub walker: Walker,
}

/// This CPU's counters. Updated without atomics: programs of one CPU do not preempt each other inside the update in a way that
/// loses more than a count, and user space sums over CPUs.
#[inline(always)]
pub fn count(update: impl FnOnce(&mut Counters)) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        // SAFETY: the pointer is to this CPU's element of the map, valid while the program runs.
        update(unsafe { &mut *counters });
    }
}
