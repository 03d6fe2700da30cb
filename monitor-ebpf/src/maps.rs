//! State shared with user space, and between entry and return of a call.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use monitor_common::{Connection, ConnectionKey, Counters, Gate, MAX_TASKS, Process};

use crate::requests::Walker;

/// `BPF_F_MMAPABLE` (`linux/bpf.h`): user space maps the array into its memory.
const MMAPABLE: u32 = 1 << 10;

/// One gate per task slot.
#[map]
pub static GATES: Array<Gate> = Array::with_max_entries(MAX_TASKS, MMAPABLE);

/// Labelled cgroups: cgroup id → slot.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(MAX_TASKS * 4, 0);

/// Processes of tasks: tgid → membership.
#[map]
pub static PROCESSES: HashMap<u32, Process> = HashMap::with_max_entries(65_536, 0);

/// Connections of tasks. Least recently used ones give way: a free can be missed, memory may not grow.
#[map]
pub static CONNECTIONS: LruHashMap<ConnectionKey, Connection> = LruHashMap::with_max_entries(65_536, 0);

/// TLS calls between entry and return: thread → arguments.
#[map]
pub static CALLS: LruHashMap<u64, Call> = LruHashMap::with_max_entries(16_384, 0);

#[map]
pub static RECORDS: RingBuf = RingBuf::with_byte_size(32 * 1024 * 1024, 0);

#[map]
pub static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Arguments of a TLS call that has been entered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Call {
    pub object: u64,
    pub buffer: u64,
    /// Where the `_ex` variants store the length; 0 where the return value is the length.
    pub length_at: u64,
    pub slot: u32,
    /// 1 for writes, 0 for reads.
    pub sent: u32,
    /// Writes: bytes that the caller wants to send.
    pub len: u64,
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
