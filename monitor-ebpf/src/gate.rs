//! The gate: whether a request may leave.

use core::intrinsics::{AtomicOrdering, atomic_xadd, atomic_xsub};

use aya_ebpf::helpers::generated::bpf_send_signal_thread;
use monitor_common::{FLAG_BODY, FLAG_CREDITED, FLAG_HELD, FLAG_SIGNAL_FAILED, GATE_OPEN, GATE_SHUT, Gate};

use crate::{
    maps::{GATES, count},
    waits,
};

/// Signal numbers of every architecture that the programs run on.
const SIGKILL: u32 = 9;
pub const SIGSTOP: u32 = 19;

/// Adds to a counter that user space and other CPUs change at the same time, and returns what it was before.
///
/// `SeqCst` only: with weaker orders LLVM turns the fetch into a plain add and hands back the operand.
///
/// # Safety
/// `counter` points to a live, aligned map value.
#[inline(always)]
unsafe fn fetch_add(counter: *mut u64, value: u64) -> u64 {
    // SAFETY: the caller's pointer is to a live, aligned map value.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter, value) }
}

/// One of the `GATE_*` states.
#[inline(always)]
pub fn state(slot: u32) -> u32 {
    let Some(gate) = GATES.get_ptr(slot) else { return GATE_OPEN };
    // SAFETY: a live map value; volatile because user space changes it.
    unsafe { core::ptr::read_volatile(&raw const (*gate).state) }
}

/// Kills the current process if its task is shut. Said before anything else about a write.
#[inline(always)]
pub fn refuse_if_shut(slot: u32) -> bool {
    let Some(gate) = GATES.get_ptr_mut(slot) else { return false };
    // SAFETY: a live map value; volatile because user space changes it.
    if unsafe { core::ptr::read_volatile(&raw const (*gate).state) } != GATE_SHUT {
        return false;
    }
    // SAFETY: a live map value.
    unsafe { fetch_add(&raw mut (*gate).refused, 1) };
    send(gate, SIGKILL);
    true
}

/// Whether requests are also looked at in front of their bodies.
#[inline(always)]
pub fn looks(slot: u32) -> bool {
    let Some(gate) = GATES.get_ptr(slot) else { return false };
    // SAFETY: a live map value; volatile because user space changes it.
    unsafe { core::ptr::read_volatile(&raw const (*gate).looks) != 0 }
}

/// Stops the process in front of the body of a request; returns the flags for the record.
#[inline(always)]
pub fn hold_body(slot: u32) -> u8 {
    let Some(gate) = GATES.get_ptr_mut(slot) else { return 0 };
    // SAFETY: a live map value.
    unsafe { fetch_add(&raw mut (*gate).held, 1) };
    let flags = FLAG_HELD | FLAG_BODY;
    if stop(gate, slot) { flags } else { flags | FLAG_SIGNAL_FAILED }
}

/// Takes a credit for each of `starts` requests, or stops the process in front of all of them; returns the flags for the start record.
#[inline(always)]
pub fn take_credits(slot: u32, starts: u32) -> u8 {
    let Some(gate) = GATES.get_ptr_mut(slot) else { return 0 };
    let wanted = u64::from(starts);
    // SAFETY: a live map value.
    let credits = unsafe { &raw mut (*gate).credits }.cast::<u64>();
    // SAFETY: as above.
    let before = unsafe { atomic_xsub::<u64, u64, { AtomicOrdering::SeqCst }>(credits, wanted) } as i64;
    if before >= i64::from(starts) {
        // SAFETY: as above.
        unsafe { fetch_add(&raw mut (*gate).taken, wanted) };
        return FLAG_CREDITED;
    }
    // SAFETY: as above.
    unsafe { fetch_add(credits, wanted) };
    // SAFETY: as above.
    unsafe { fetch_add(&raw mut (*gate).held, 1) };
    if stop(gate, slot) { FLAG_HELD } else { FLAG_HELD | FLAG_SIGNAL_FAILED }
}

/// Sends a signal that ends or stops the current process; it is delivered before this thread runs anything more.
///
/// To the thread: one to the process is dropped while another one is pending, and then delivered to the thread that comes first. A second
/// thread at the gate would go on until that one has stopped everybody.
#[inline(always)]
pub fn signal(signal: u32) -> bool {
    // SAFETY: plain arguments.
    unsafe { bpf_send_signal_thread(signal) == 0 }
}

/// Stops the current process, and writes down that it should be standing still.
#[inline(always)]
fn stop(gate: *mut Gate, slot: u32) -> bool {
    let done = send(gate, SIGSTOP);
    if done {
        waits::stopped(slot);
    }
    done
}

#[inline(always)]
fn send(gate: *mut Gate, signal: u32) -> bool {
    if self::signal(signal) {
        return true;
    }
    // SAFETY: a live map value.
    unsafe { fetch_add(&raw mut (*gate).signal_failures, 1) };
    count(|c| c.signal_failures += 1);
    false
}
