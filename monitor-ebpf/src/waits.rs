//! Processes that were stopped and that somebody else woke.
//!
//! `SIGSTOP` holds a process only as long as nobody sends it `SIGCONT`, and a tracer can keep it from being stopped at all. So it is written down who was
//! stopped and when, and who was let go and when. What a process sends in between stays in its sockets: [`keeps`] drops their packets, TCP
//! tries again, and what is left goes when the process is let go, or with its connection.

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
    macros::{map, tracepoint},
    maps::HashMap,
    programs::TracePointContext,
};
use monitor_common::{KIND_REACH, REACH_WOKEN, Stop, Waiting};

use crate::{
    maps::count,
    process::current,
    record::{emit, header},
    sockets::{argument, cookie_of, registers, sock_of},
};

/// Processes that were sent `SIGSTOP`, by tgid.
#[map]
static STOPPED: HashMap<u32, Stop> = HashMap::with_max_entries(65_536, 0);

/// When user space let them go, by the boot clock.
#[map]
static RELEASED: HashMap<u32, u64> = HashMap::with_max_entries(65_536, 0);

/// Sockets on which something was sent in between, by cookie.
#[map]
static WAITING_SOCKETS: HashMap<u64, Waiting> = HashMap::with_max_entries(65_536, 0);

/// So long after a process was stopped no thread of it is still on its way there.
const SURELY_STOPPED: u64 = 1_000_000_000;

/// The current process was sent `SIGSTOP`.
#[inline(always)]
pub fn stopped(slot: u32) {
    let pid_tgid = bpf_get_current_pid_tgid();
    // SAFETY: takes no arguments.
    let stop = Stop { since: unsafe { bpf_ktime_get_boot_ns() }, tid: pid_tgid as u32, slot };
    if STOPPED.insert(&((pid_tgid >> 32) as u32), &stop, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

#[inline(always)]
fn is_released(tgid: u32, since: u64) -> bool {
    // SAFETY: the value is copied out at once.
    unsafe { RELEASED.get(&tgid) }.is_some_and(|released| *released >= since)
}

/// The current process is about to send on this socket: not if it should be standing still.
#[inline(always)]
pub fn sends(cookie: u64) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let tgid = (pid_tgid >> 32) as u32;
    // SAFETY: the value is copied out at once.
    let Some(stop) = (unsafe { STOPPED.get(&tgid) }).copied() else { return };
    if is_released(tgid, stop.since) {
        return;
    }
    let waiting = Waiting { since: stop.since, tgid, slot: stop.slot };
    if WAITING_SOCKETS.insert(&cookie, &waiting, 0).is_err() {
        count(|c| c.map_full += 1);
    }
    let mut header = header(KIND_REACH, 0, stop.slot);
    // Threads that were not at the gate need a moment to come to a standstill.
    if header.tid == stop.tid || header.time - stop.since > SURELY_STOPPED {
        header.wanted = REACH_WOKEN;
        emit(header);
    }
}

/// Whether data of this socket may not leave.
#[inline(always)]
pub fn keeps(cookie: u64) -> bool {
    // SAFETY: the value is copied out at once.
    let Some(waiting) = (unsafe { WAITING_SOCKETS.get(&cookie) }).copied() else { return false };
    if is_released(waiting.tgid, waiting.since) {
        // What is known of the process may go before what it has sent.
        drop(WAITING_SOCKETS.remove(&cookie));
        return false;
    }
    true
}

/// The connection has ended.
#[inline(always)]
pub fn closed(cookie: u64) {
    drop(WAITING_SOCKETS.remove(&cookie));
}

/// System calls that send and of which nothing else is looked at: `sendmmsg` and `sendfile64`.
#[tracepoint]
pub fn waiting_enter(_ctx: TracePointContext) -> u32 {
    sends_on(0)
}

/// `splice`, whose third argument is where to.
#[tracepoint]
pub fn waiting_splice(_ctx: TracePointContext) -> u32 {
    sends_on(2)
}

#[inline(always)]
fn sends_on(index: usize) -> u32 {
    if current().is_none() {
        return 0;
    }
    let cookie = cookie_of(sock_of(argument(registers(), index) & 0xffff_ffff));
    if cookie != 0 {
        sends(cookie);
    }
    0
}
