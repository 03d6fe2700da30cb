//! No new connection for a task that is cut, or whose gate is shut.
//!
//! The process sees `EPERM` from `connect`, or from a `sendmsg` that names a destination.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use monitor_common::GATE_OPEN;

use crate::{coverage, gate, process, sockets};

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;

/// Whether the current process may send there; a socket that may is known from here on.
#[inline(always)]
fn verdict(ctx: &SockAddrContext, to: [u32; 4]) -> i32 {
    let Some(process) = process::current() else { return ALLOW };
    if gate::state(process.slot) != GATE_OPEN || coverage::is_denied(ctx, &process, to) {
        return REFUSE;
    }
    coverage::connecting(ctx, &process);
    ALLOW
}

/// As above; a TCP connection that may be made is followed from here on.
#[inline(always)]
fn connect(ctx: &SockAddrContext, to: [u32; 4]) -> i32 {
    let verdict = verdict(ctx, to);
    if verdict == ALLOW
        && let Some(process) = process::current()
    {
        sockets::connecting(ctx, &process);
    }
    verdict
}

#[inline(always)]
fn to_v4(ctx: &SockAddrContext) -> [u32; 4] {
    // SAFETY: the context of the running program, of which this member may be read where the address is of this family.
    [unsafe { (*ctx.sock_addr).user_ip4 }, 0, 0, 0]
}

#[inline(always)]
fn to_v6(ctx: &SockAddrContext) -> [u32; 4] {
    // Word by word: the verifier allows no other way into the context.
    macro_rules! word {
        ($index:literal) => {
            // SAFETY: as in `to_v4`; volatile, so that the reads are not put together.
            unsafe { core::ptr::read_volatile(&raw const (*ctx.sock_addr).user_ip6[$index]) }
        };
    }
    [word!(0), word!(1), word!(2), word!(3)]
}

#[cgroup_sock_addr(connect4)]
pub fn deny_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx, to_v4(&ctx))
}

#[cgroup_sock_addr(connect6)]
pub fn deny_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx, to_v6(&ctx))
}

#[cgroup_sock_addr(sendmsg4)]
pub fn deny_sendmsg4(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, to_v4(&ctx))
}

#[cgroup_sock_addr(sendmsg6)]
pub fn deny_sendmsg6(ctx: SockAddrContext) -> i32 {
    verdict(&ctx, to_v6(&ctx))
}
