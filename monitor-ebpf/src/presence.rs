//! Whether these programs are in force, and whether a daemon is there.
//!
//! Programs outlive the daemon that loaded them. When one of another version comes, its programs are attached beside these and stand by; for the
//! moment of the change both are in force, so that nothing passes between them.

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns};
use monitor_common::{Daemon, FileKey, HEARTBEAT_STALE_NS};

use crate::maps::DAEMON;

/// Which programs these are, set by user space at load.
#[unsafe(no_mangle)]
static GENERATION: u64 = 0;

/// Whether the programs of this generation act.
#[inline(always)]
pub fn in_force() -> bool {
    let Some(daemon) = DAEMON.get_ptr(0) else { return true };
    // SAFETY: a live map value; volatile because user space changes it.
    let generation = unsafe { core::ptr::read_volatile(&raw const (*daemon).generation) };
    // SAFETY: a static set before load; volatile, so that the compiler does not fold its initial value in.
    generation == 0 || generation == unsafe { core::ptr::read_volatile(&raw const GENERATION) }
}

/// Whether nobody is there to ask.
#[inline(always)]
pub fn is_unattended() -> bool {
    let Some(daemon) = DAEMON.get_ptr(0) else { return false };
    // SAFETY: a live map value; volatile because user space changes it.
    let heartbeat = unsafe { core::ptr::read_volatile(&raw const (*daemon).heartbeat) };
    // SAFETY: takes no arguments.
    heartbeat == 0 || unsafe { bpf_ktime_get_boot_ns() } > heartbeat + HEARTBEAT_STALE_NS
}

/// The daemon's process; 0 while there is none.
#[inline(always)]
pub fn daemon() -> u32 {
    // SAFETY: a live map value; volatile because user space changes it.
    DAEMON.get_ptr(0).map_or(0, |daemon| unsafe { core::ptr::read_volatile(&raw const (*daemon).tgid) })
}

/// The daemon, if the current thread is the one of it that wants to know what it maps.
#[inline(always)]
fn asking() -> Option<*mut Daemon> {
    let daemon = DAEMON.get_ptr_mut(0)?;
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: a live map value; volatile because user space changes it.
    let (tgid, tid) = unsafe {
        (core::ptr::read_volatile(&raw const (*daemon).tgid), core::ptr::read_volatile(&raw const (*daemon).tid))
    };
    (tid != 0 && pid_tgid == (u64::from(tgid) << 32 | u64::from(tid))).then_some(daemon)
}

/// Whether the current thread is the daemon's that wants to know what it maps.
#[inline(always)]
pub fn asks() -> bool {
    asking().is_some()
}

/// Tells the daemon the file that it has mapped.
#[inline(always)]
pub fn tell(file: FileKey) {
    if let Some(daemon) = asking() {
        // SAFETY: a live map value, written for this very thread, which reads it after the system call.
        unsafe { (*daemon).mapped = file };
    }
}

/// The first thread of a process ends. If it is the daemon's, nobody is there from now on.
#[inline(always)]
pub fn on_exit(tgid: u32) {
    let Some(daemon) = DAEMON.get_ptr_mut(0) else { return };
    // SAFETY: a live map value; volatile because user space changes it.
    if unsafe { core::ptr::read_volatile(&raw const (*daemon).tgid) } == tgid {
        // SAFETY: as above; the process that beats is ending.
        unsafe {
            core::ptr::write_volatile(&raw mut (*daemon).heartbeat, 0);
            core::ptr::write_volatile(&raw mut (*daemon).tid, 0);
            core::ptr::write_volatile(&raw mut (*daemon).tgid, 0);
        }
    }
}
