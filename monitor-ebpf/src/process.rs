//! Which processes belong to a task.
//!
//! Membership is decided by the cgroup once and then inherited by fork, whatever the process does with its cgroup, session or
//! namespaces later.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{
        bpf_get_current_cgroup_id, bpf_get_current_pid_tgid,
        generated::{bpf_get_current_ancestor_cgroup_id, bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel},
    },
    macros::tracepoint,
    programs::TracePointContext,
};
use monitor_common::{EXEC_PATH, KIND_EXEC, KIND_EXIT, KIND_FORK, NO_TASK, Process};

use crate::{
    coverage, mapping,
    maps::{CALLS, CGROUPS, CallKey, PROCESSES, count},
    presence,
    record::{context_address, emit, emit_text, header},
};

/// Levels of the cgroup tree that are searched for a label, counted from the root.
const CGROUP_DEPTH: u32 = 32;
/// `CLONE_THREAD` (`linux/sched.h`).
const CLONE_THREAD: u64 = 0x0001_0000;

/// Offsets of tracepoint fields, set by user space at load from the kernel's own description of the event.
#[unsafe(no_mangle)]
static NEWTASK_PID: u32 = 0;
#[unsafe(no_mangle)]
static NEWTASK_CLONE_FLAGS: u32 = 0;
#[unsafe(no_mangle)]
static EXEC_FILENAME: u32 = 0;

/// Membership of the current process, for programs that are in force.
#[inline(always)]
pub fn current() -> Option<Process> {
    if presence::in_force() { member() } else { None }
}

/// Membership of the current process, found by its id or, once, by its cgroup and the cgroups above it.
#[inline(always)]
pub fn member() -> Option<Process> {
    if let Some(process) = known() {
        return Some(process);
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let slot = slot_of_cgroup()?;
    // SAFETY: takes no arguments.
    let process = Process { born: unsafe { bpf_ktime_get_boot_ns() }, slot, connects: 0 };
    remember(tgid, &process);
    Some(process)
}

/// Membership of the current process, if it was found before.
#[inline(always)]
pub fn known() -> Option<Process> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    unsafe { PROCESSES.get(&tgid) }.copied()
}

#[inline(always)]
fn slot_of_cgroup() -> Option<u32> {
    // SAFETY: takes no arguments.
    let own = unsafe { bpf_get_current_cgroup_id() };
    // SAFETY: the value is copied out at once.
    if let Some(slot) = unsafe { CGROUPS.get(&own) } {
        return Some(*slot);
    }
    let mut search = Search { own, found: NO_TASK };
    // SAFETY: the callback takes exactly this context, which outlives the call.
    unsafe { bpf_loop(CGROUP_DEPTH, search_level as *mut c_void, (&raw mut search).cast(), 0) };
    (search.found != NO_TASK).then_some(search.found)
}

/// A walk from the root of the cgroup tree down to the current process' cgroup.
struct Search {
    own: u64,
    found: u32,
}

/// One level of the walk; the deepest labelled one wins. 1 ends the loop.
unsafe extern "C" fn search_level(level: u32, context: *mut c_void) -> i64 {
    // SAFETY: called by `slot_of_cgroup` only, with a `Search` on its stack.
    let search = unsafe { &mut *context.cast::<Search>() };
    // SAFETY: plain arguments; 0 means there is no such level.
    let ancestor = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32 + 1) };
    if ancestor == 0 || ancestor == search.own {
        return 1;
    }
    // SAFETY: the value is copied out at once.
    if let Some(slot) = unsafe { CGROUPS.get(&ancestor) } {
        search.found = *slot;
    }
    0
}

#[inline(always)]
fn remember(tgid: u32, process: &Process) {
    if PROCESSES.insert(&tgid, process, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

/// A copy of `T` at `offset` in the tracepoint's context.
#[inline(always)]
pub fn field<T: Default>(ctx: &TracePointContext, offset: &'static u32) -> T {
    let mut value = T::default();
    // SAFETY: a static set before load; volatile, so that the compiler does not fold its initial value in.
    let offset = unsafe { core::ptr::read_volatile(offset) };
    let from = context_address(ctx) + u64::from(offset);
    // SAFETY: the destination has the size of `T`; the helper checks the source.
    let status = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from as *const _) };
    if status != 0 {
        count(|c| c.unreadable_buffers += 1);
    }
    value
}

/// A process is about to start: it belongs where its parent (the current process) belongs.
#[tracepoint]
pub fn task_newtask(ctx: TracePointContext) -> u32 {
    if !presence::in_force() || field::<u64>(&ctx, &NEWTASK_CLONE_FLAGS) & CLONE_THREAD != 0 {
        return 0;
    }
    let child = field::<u32>(&ctx, &NEWTASK_PID);
    match current() {
        Some(parent) => {
            // SAFETY: takes no arguments.
            let born = unsafe { bpf_ktime_get_boot_ns() };
            remember(child, &Process { born, ..parent });
            coverage::forks(child);
            let mut header = header(KIND_FORK, 0, parent.slot);
            header.object = u64::from(header.tgid);
            header.tgid = child;
            header.tid = child;
            header.connection_born = born;
            emit(header);
        }
        // A pid that was used before by a task's process must not be taken for it.
        None => drop(PROCESSES.remove(&child)),
    }
    0
}

/// A process replaced its program: TLS objects of the old one are gone.
#[tracepoint]
pub fn sched_process_exec(ctx: TracePointContext) -> u32 {
    if let Some(process) = current() {
        executed(&ctx, process);
    }
    mapping::on_exec();
    0
}

#[inline(always)]
fn executed(ctx: &TracePointContext, process: Process) {
    let mut header = header(KIND_EXEC, 0, process.slot);
    header.connection_born = header.time;
    remember(header.tgid, &Process { born: header.time, ..process });
    coverage::executes();
    emit_text::<EXEC_PATH>(ctx, header, field::<u32>(ctx, &EXEC_FILENAME));
}

/// A thread ended. The first thread may end before the others, so membership is taken away by user space once the process is gone.
#[tracepoint]
pub fn sched_process_exit(_ctx: TracePointContext) -> u32 {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    drop(CALLS.remove(&CallKey { who: u64::from(pid_tgid as u32), tgid, is_goroutine: 0 }));
    if pid_tgid as u32 != tgid {
        return 0;
    }
    presence::on_exit(tgid);
    if !presence::in_force() {
        return 0;
    }
    // SAFETY: the value is copied out at once.
    if let Some(process) = unsafe { PROCESSES.get(&tgid) } {
        emit(header(KIND_EXIT, 0, process.slot));
    }
    0
}
