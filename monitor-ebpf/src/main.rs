//! Tollgate's eBPF programs.
//!
//! TLS calls of processes that belong to a task go in, records of plaintext come out through one ring; a request that
//! has no credit is stopped here, before it leaves. Which processes belong to a task is kept here too, so that it is true before
//! user space has heard of them.
//!
//! **Invariant:** copies only what may cost money, never blocks, and counts everything it could not hand over.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "`core` for BPF has no stable atomic fetch-and-add")]

mod aead;
mod cgroups;
mod connect;
mod coverage;
mod gate;
mod http1;
mod layout;
mod mapping;
mod maps;
mod presence;
mod process;
mod reach;
mod record;
mod requests;
mod sockets;
mod tls;
mod waits;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel offers the helpers used here to GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
