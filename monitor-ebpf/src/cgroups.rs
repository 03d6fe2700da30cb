//! cgroups that are made, and processes that move between them: user space labels new cgroups before anything in them has run.

use aya_ebpf::{macros::tracepoint, programs::TracePointContext};
use monitor_common::{CGROUP_PATH, KIND_CGROUP_MADE, KIND_CGROUP_MOVE, NO_TASK};

use crate::{
    maps::{CGROUPS, PROCESSES},
    presence::in_force,
    process::field,
    record::{emit_text, header},
};

/// Offsets of tracepoint fields, as in `process.rs`.
#[unsafe(no_mangle)]
static MKDIR_ROOT: u32 = 0;
#[unsafe(no_mangle)]
static MKDIR_ID: u32 = 0;
#[unsafe(no_mangle)]
static MKDIR_PATH: u32 = 0;
#[unsafe(no_mangle)]
static ATTACH_ROOT: u32 = 0;
#[unsafe(no_mangle)]
static ATTACH_ID: u32 = 0;
#[unsafe(no_mangle)]
static ATTACH_PATH: u32 = 0;
#[unsafe(no_mangle)]
static ATTACH_PID: u32 = 0;

/// The hierarchy of cgroup v2 (cgroups(7): `0::` in `/proc/<pid>/cgroup`).
const V2: u32 = 0;

#[tracepoint]
pub fn cgroup_mkdir(ctx: TracePointContext) -> u32 {
    if in_force() && field::<u32>(&ctx, &MKDIR_ROOT) == V2 {
        let mut header = header(KIND_CGROUP_MADE, 0, NO_TASK);
        header.object = field::<u64>(&ctx, &MKDIR_ID);
        emit_text::<CGROUP_PATH>(&ctx, header, field::<u32>(&ctx, &MKDIR_PATH));
    }
    0
}

/// Told of members of tasks, and of everybody who comes into a labelled cgroup.
#[tracepoint]
pub fn cgroup_attach_task(ctx: TracePointContext) -> u32 {
    if !in_force() || field::<u32>(&ctx, &ATTACH_ROOT) != V2 {
        return 0;
    }
    let (id, pid) = (field::<u64>(&ctx, &ATTACH_ID), field::<u32>(&ctx, &ATTACH_PID));
    // SAFETY: only looked at.
    if unsafe { PROCESSES.get(&pid) }.is_some() || unsafe { CGROUPS.get(&id) }.is_some() {
        let mut header = header(KIND_CGROUP_MOVE, 0, NO_TASK);
        (header.object, header.tgid, header.tid) = (id, pid, pid);
        emit_text::<CGROUP_PATH>(&ctx, header, field::<u32>(&ctx, &ATTACH_PATH));
    }
    0
}
