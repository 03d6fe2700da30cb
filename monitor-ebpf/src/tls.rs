//! Calls of TLS libraries, whatever their arguments are like ([`Layout`]): what was written is known at the return, whether it may be written is decided
//! at the entry.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use monitor_common::{
    Connection, ConnectionKey, FLAG_HELD, FLAG_RECORDS, FLAG_SENT, KIND_CLOSE, KIND_DATA, KIND_START, PROTOCOL_HTTP1,
    PROTOCOL_UNKNOWN, PROTOCOL_WEBSOCKET, Process, SPACE_RECORDS, SPACE_TLS, TIERS, VERDICT_HTTP, VERDICT_IGNORE,
    VERDICT_UNKNOWN, Walk, layout,
};

use crate::{
    coverage,
    gate::{hold_body, looks, refuse_if_shut, take_credits},
    layout::{Layout, goroutine, word},
    maps::{CALLS, CONNECTIONS, Call, CallKey, PROCESSES, count},
    presence::in_force,
    process::{current, member},
    record::{emit, emit_bytes, header},
    requests::{Walker, begins_listed, is_preface, is_upgrade, may_begin_request, read_user},
};

/// Calls without a recognised beginning after which a connection is ignored.
const UNDECIDED_CALLS: u32 = 64;
/// Bytes of a held request that user space gets to price it by.
pub const HELD_BYTES: u64 = TIERS[2] as u64;

/// Entry of a function that sends.
#[uprobe]
pub fn tls_write(ctx: ProbeContext) -> u32 {
    // Also in programs that stand by: a gate that is shut is so for all of them.
    let Some(process) = member() else { return 0 };
    if refuse_if_shut(process.slot) || !in_force() {
        return 0;
    }
    let Some(call) = remember_call(&ctx, &process, 1, 0) else { return 0 };
    if call.len == 0 {
        return 0;
    }
    if let Some(connection) = connection(key_of(call), &process) {
        // SAFETY: a live map value; one thread at a time writes to a TLS object.
        let connection = unsafe { &mut *connection };
        coverage::writes(connection, call.len);
        begin_requests(call, connection);
    }
    0
}

/// Entry of a function that receives.
#[uprobe]
pub fn tls_read(ctx: ProbeContext) -> u32 {
    if let Some(process) = current() {
        remember_call(&ctx, &process, 0, 0);
    }
    0
}

/// Return of either.
#[uretprobe]
pub fn tls_return(ctx: RetProbeContext) -> u32 {
    returned(&ctx, &by_thread(), ctx.ret::<i32>())
}

/// A return instruction of either, where a return probe would corrupt the stack, which moves.
#[uprobe]
pub fn go_return(ctx: ProbeContext) -> u32 {
    returned(&ctx, &by_goroutine(&ctx), 0)
}

#[inline(always)]
fn returned<C: EbpfContext>(ctx: &C, key: &CallKey, status: i32) -> u32 {
    // Also in programs that stand by: the kernel tells the return of a call only to those that were attached when it was entered. The first one takes it.
    let Some(call) = CALLS.get_ptr_mut(key) else { return 0 };
    // SAFETY: a live map value of this thread or goroutine.
    let call = unsafe { &mut *call };
    let len = match call.passed {
        layout::RESULT => word(ctx, call.passed_at) as i64,
        _ if status <= 0 => 0,
        layout::POINTED_TO => read_user::<i64>(call.passed_at),
        layout::REQUESTED => call.len as i64,
        _ => i64::from(status),
    };
    if len > 0 {
        commit(call, len as u64);
    }
    drop(CALLS.remove(key));
    0
}

/// Entry of a function that ends a connection.
#[uprobe]
pub fn tls_close(ctx: ProbeContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let key = key(Layout::of(&ctx).object(&ctx));
    // SAFETY: the value is copied out at once.
    let Some(connection) = (unsafe { CONNECTIONS.get(&key) }).copied() else { return 0 };
    drop(CONNECTIONS.remove(&key));
    if connection.verdict == VERDICT_HTTP && connection.process_born == process.born {
        let mut header = header(KIND_CLOSE, 0, process.slot);
        header.object = key.object;
        header.connection_born = connection.born;
        emit(header);
    }
    0
}

#[inline(always)]
fn key(object: u64) -> ConnectionKey {
    ConnectionKey { object, tgid: (bpf_get_current_pid_tgid() >> 32) as u32, space: SPACE_TLS }
}

#[inline(always)]
fn key_of(call: &Call) -> ConnectionKey {
    let space = if call.flags & u32::from(FLAG_RECORDS) == 0 { SPACE_TLS } else { SPACE_RECORDS };
    ConnectionKey { space, ..key(call.object) }
}

#[inline(always)]
pub fn by_thread() -> CallKey {
    let pid_tgid = bpf_get_current_pid_tgid();
    CallKey { who: u64::from(pid_tgid as u32), tgid: (pid_tgid >> 32) as u32, is_goroutine: 0 }
}

#[inline(always)]
fn by_goroutine<C: EbpfContext>(ctx: &C) -> CallKey {
    CallKey { who: goroutine(ctx), is_goroutine: 1, ..by_thread() }
}

/// Keeps the arguments of the call that is being entered.
#[inline(always)]
pub fn remember_call<C: EbpfContext>(ctx: &C, process: &Process, sent: u32, flags: u8) -> Option<&'static mut Call> {
    let layout = Layout::of(ctx);
    let key = if layout.is_go() { by_goroutine(ctx) } else { by_thread() };
    let call = Call {
        object: layout.object(ctx),
        buffer: layout.buffer(ctx),
        len: layout.length(ctx),
        passed_at: layout.passed_at(ctx),
        passed: layout.passed(),
        slot: process.slot,
        sent,
        flags: u32::from(flags),
        inside: 0,
        reserved: 0,
        walker: Walker::default(),
    };
    if CALLS.insert(&key, &call, 0).is_err() {
        count(|c| c.map_full += 1);
    }
    // SAFETY: a live map value, which only this thread or goroutine uses.
    CALLS.get_ptr_mut(&key).map(|call| unsafe { &mut *call })
}

/// Requests that start take a credit each. A write that is tried again (it returned an error, nothing was sent) takes none.
#[inline(always)]
pub fn begin_requests(call: &mut Call, connection: &mut Connection) {
    if connection.verdict == VERDICT_IGNORE {
        return;
    }
    let (walker, len) = (&mut call.walker, call.len);
    walker.follow(connection, call.buffer, len);
    if walker.walk.protocol != PROTOCOL_UNKNOWN {
        connection.verdict = VERDICT_HTTP;
    }
    if walker.starts == 0 && (walker.body == 0 || !looks(call.slot)) {
        return;
    }
    connection.credited_to = walker.credited_to;
    let flags = if walker.starts == 0 { hold_body(call.slot) } else { take_credits(call.slot, walker.starts) };
    let mut header = header(KIND_START, flags | call.flags as u8, call.slot);
    header.object = call.object;
    header.connection_born = connection.born;
    header.offset = connection.sent;
    header.wanted = if len > u64::from(u32::MAX) { u32::MAX } else { len as u32 };
    header.starts = if walker.starts > u32::from(u16::MAX) { u16::MAX } else { walker.starts as u16 };
    if flags & FLAG_HELD == 0 {
        emit(header);
    } else {
        header.generation = call.buffer as u32;
        header.address_high = (call.buffer >> 32) as u32;
        if call.walker.unread == 0 {
            emit_bytes(header, call.buffer, if len > HELD_BYTES { HELD_BYTES } else { len });
        } else {
            // Only user space can have it brought.
            emit(header);
        }
    }
}

/// The process' connection for a TLS object; a new one where the entry is of another address space.
#[inline(always)]
pub fn connection(key: ConnectionKey, process: &Process) -> Option<*mut Connection> {
    if let Some(connection) = CONNECTIONS.get_ptr_mut(&key) {
        // SAFETY: a live map value.
        if unsafe { (*connection).process_born } == process.born {
            return Some(connection);
        }
    }
    let fresh = Connection {
        process_born: process.born,
        // SAFETY: takes no arguments.
        born: unsafe { bpf_ktime_get_boot_ns() },
        sent: 0,
        received: 0,
        credited_to: 0,
        written: 0,
        expected_to: 0,
        walk: Walk { left: 0, seen: 0, have: 0, protocol: PROTOCOL_UNKNOWN },
        verdict: VERDICT_UNKNOWN,
        undecided: 0,
        owner: 0,
        slot: 0,
        has_ended: 0,
        reserved: 0,
    };
    if CONNECTIONS.insert(&key, &fresh, 0).is_err() {
        count(|c| c.map_full += 1);
        return None;
    }
    CONNECTIONS.get_ptr_mut(&key)
}

/// Bytes have passed: hands them over if the connection is of interest.
#[inline(always)]
pub fn commit(call: &mut Call, len: u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // The entry made the process a member; it may have been taken out since.
    // SAFETY: the value is copied out at once.
    let Some(process) = (unsafe { PROCESSES.get(&tgid) }).copied() else { return };
    let Some(connection) = connection(key_of(call), &process) else { return };
    // SAFETY: a live map value; one thread at a time uses a TLS object.
    let connection = unsafe { &mut *connection };
    if call.sent == 1 {
        connection.written += len;
    }
    if connection.verdict == VERDICT_UNKNOWN {
        judge(call, len, connection);
    }
    if connection.verdict != VERDICT_HTTP {
        return;
    }
    let mut header = header(KIND_DATA, call.flags as u8 | if call.sent == 1 { FLAG_SENT } else { 0 }, call.slot);
    header.object = call.object;
    header.connection_born = connection.born;
    if call.sent == 1 {
        header.offset = connection.sent;
        sent(call, len, connection);
        connection.sent += len;
    } else {
        header.offset = connection.received;
        upgrade(call, len, connection);
        connection.received += len;
    }
    emit_bytes(header, call.buffer, len);
}

/// Keeps how far what was sent has been followed. All of it was, at the entry, unless only a part was sent.
#[inline(always)]
fn sent(call: &mut Call, len: u64, connection: &mut Connection) {
    if len != call.len || call.walker.unread != 0 {
        call.walker.follow(connection, call.buffer, len);
    }
    connection.walk = call.walker.walk;
}

/// A process that *reads* a request is a server: nothing it does costs money here.
#[inline(always)]
pub fn judge(call: &mut Call, len: u64, connection: &mut Connection) {
    if call.sent == 0 {
        let word = read_user::<u64>(call.buffer);
        if len >= 8 && (begins_listed(word) || is_preface(word)) {
            connection.verdict = VERDICT_IGNORE;
            return;
        }
    } else {
        if may_begin_request(call.walker.walk.seen, call.walker.walk.have) {
            // Too short to tell, and nothing of it may be missing if it is one.
            connection.verdict = VERDICT_HTTP;
            return;
        }
        sent(call, len, connection);
        if connection.walk.protocol != PROTOCOL_UNKNOWN {
            connection.verdict = VERDICT_HTTP;
            return;
        }
    }
    connection.undecided += 1;
    if connection.undecided > UNDECIDED_CALLS {
        connection.verdict = VERDICT_IGNORE;
    }
}

/// After `101 Switching Protocols` what the client writes is followed as WebSocket messages; user space knows what it really is.
#[inline(always)]
pub fn upgrade(call: &Call, len: u64, connection: &mut Connection) {
    if connection.walk.protocol == PROTOCOL_HTTP1
        && len >= 12
        && is_upgrade(read_user::<u64>(call.buffer), read_user::<u32>(call.buffer + 8))
    {
        connection.walk = Walk { left: 0, seen: 0, have: 0, protocol: PROTOCOL_WEBSOCKET };
    }
}
