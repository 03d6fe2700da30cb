//! No new connection for a task that is cut, or whose gate is shut.
//!
//! The process sees `EPERM` from `connect`, or from a `sendmsg` that names a destination.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use monitor_common::GATE_OPEN;

use crate::{gate, process, sockets};

const REFUSE: i32 = 0;
const ALLOW: i32 = 1;

#[inline(always)]
fn verdict() -> i32 {
    match process::current() {
        Some(process) if gate::state(process.slot) != GATE_OPEN => REFUSE,
        _ => ALLOW,
    }
}

/// As above; a connection that may be made is followed from here on.
#[inline(always)]
fn connect(ctx: &SockAddrContext) -> i32 {
    let Some(process) = process::current() else { return ALLOW };
    if gate::state(process.slot) != GATE_OPEN {
        return REFUSE;
    }
    sockets::connecting(ctx, &process);
    ALLOW
}

#[cgroup_sock_addr(connect4)]
pub fn deny_connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn deny_connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn deny_sendmsg4(_ctx: SockAddrContext) -> i32 {
    verdict()
}

#[cgroup_sock_addr(sendmsg6)]
pub fn deny_sendmsg6(_ctx: SockAddrContext) -> i32 {
    verdict()
}
