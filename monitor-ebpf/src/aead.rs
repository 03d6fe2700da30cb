//! TLS records at their encryption: rustls on AWS-LC, whose own functions take Rust types, which every compiler lays out anew.
//!
//! One call seals or opens one record. Each direction of a connection has a context of its own and nothing that ties the two together; what does is
//! the socket. A thread that has sealed a record sends it next, and one that opens a record has just received it: rustls has no I/O of its
//! own, and its callers do both steps in one go. So a sealing context goes with the socket that its thread sends on next (`SEALED`), and what is
//! opened goes with the socket that its thread has received from last (`RECEIVED`). The connection is known by the sealing context.

use aya_ebpf::{
    EbpfContext,
    helpers::bpf_get_current_pid_tgid,
    macros::{map, uprobe, uretprobe},
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext},
};
use monitor_common::{
    CONNECTS, Connection, ConnectionKey, FLAG_RECORDS, KIND_CLOSE, Process, SEALS, SPACE_RECORDS, VERDICT_HTTP, layout,
};

use crate::{
    coverage,
    gate::refuse_if_shut,
    layout::Layout,
    maps::{CALLS, CONNECTIONS, Call, PROCESSES, count},
    process::current,
    record::{emit, header},
    requests::read_user,
    tls::{begin_requests, by_thread, commit, connection, remember_call},
};

/// Types of records (RFC 8446 §5.1).
const APPLICATION_DATA: u8 = 0x17;
/// Bytes of additional data with which records of TLS 1.3 (the head of the record, RFC 8446 §5.2) and 1.2 (RFC 5246 §6.2.3.3) are sealed.
const HEAD_1_3: u64 = 5;
const HEAD_1_2: u64 = 13;
/// First bytes of the former: application data, as everything that is encrypted says, and version 1.2.
const OUTSIDE_1_3: u32 = u32::from_le_bytes([APPLICATION_DATA, 3, 3, 0]);
const TYPE_1_2: u64 = 8;

/// Contexts that threads have sealed with, and whose socket is not known: thread → context.
#[map]
static SEALED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Where threads have received last: thread → cookie of the socket.
#[map]
static RECEIVED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Connections of sockets, by their cookies.
#[map]
static SEALERS: LruHashMap<u64, Sealer> = LruHashMap::with_max_entries(65_536, 0);

#[repr(C)]
#[derive(Clone, Copy)]
struct Sealer {
    context: u64,
    /// [`Connection::born`]: the address is used again.
    born: u64,
    tgid: u32,
    reserved: u32,
}

/// What a record holds, as far as its additional data tell.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The type is the last byte of the plaintext.
    Inside,
    ApplicationData,
    Other,
}

#[inline(always)]
fn kind<C: EbpfContext>(layout: Layout, ctx: &C) -> Kind {
    let (head, len) = layout.additional_data(ctx);
    if len == HEAD_1_3 && read_user::<u32>(head) & 0x00ff_ffff == OUTSIDE_1_3 {
        Kind::Inside
    } else if len == HEAD_1_2 && read_user::<u8>(head + TYPE_1_2) == APPLICATION_DATA {
        Kind::ApplicationData
    } else {
        Kind::Other
    }
}

/// Entry of a function that encrypts a record.
#[uprobe]
pub fn record_seal(ctx: ProbeContext) -> u32 {
    let Some(process) = current() else { return 0 };
    if refuse_if_shut(process.slot) {
        return 0;
    }
    mark(&process);
    let kind = kind(Layout::of(&ctx), &ctx);
    if kind == Kind::Other {
        return 0;
    }
    if let Some(call) = remember_call(&ctx, &process, 1, FLAG_RECORDS) {
        seals(call, kind, &process);
    }
    drop(CALLS.remove(&by_thread()));
    0
}

#[inline(always)]
fn seals(call: &mut Call, kind: Kind, process: &Process) {
    if kind == Kind::Inside && call.len > 0 {
        call.len -= 1;
        if read_user::<u8>(call.buffer + call.len) != APPLICATION_DATA {
            return;
        }
    }
    if call.len == 0 {
        return;
    }
    let key = key(call.object);
    if let Some(known) = CONNECTIONS.get_ptr(&key)
        // SAFETY: a live map value.
        && let known = unsafe { *known }
        && known.has_ended == 1
    {
        // Nothing is sent on a socket after its end: the address is another connection's now.
        drop(CONNECTIONS.remove(&key));
        closed(&known, call.object, key.tgid);
    }
    let Some(connection) = connection(key, process) else { return };
    // SAFETY: a live map value; one thread at a time seals with a context.
    let connection = unsafe { &mut *connection };
    connection.slot = process.slot;
    if connection.owner == 0 {
        let thread = bpf_get_current_pid_tgid();
        if SEALED.insert(&thread, &call.object, 0).is_err() {
            count(|c| c.map_full += 1);
        }
    }
    coverage::writes(connection, call.len);
    begin_requests(call, connection);
    // Encryption is in place: at the return, the plaintext is gone.
    commit(call, call.len);
}

/// Entry of a function that decrypts a record.
#[uprobe]
pub fn record_open(ctx: ProbeContext) -> u32 {
    let Some(process) = current() else { return 0 };
    mark(&process);
    let kind = kind(Layout::of(&ctx), &ctx);
    if kind != Kind::Other
        && let Some(call) = remember_call(&ctx, &process, 0, FLAG_RECORDS)
    {
        call.inside = (kind == Kind::Inside) as u32;
    }
    0
}

/// Return of such a function.
#[uretprobe]
pub fn record_opened(ctx: RetProbeContext) -> u32 {
    let thread = by_thread();
    let Some(call) = CALLS.get_ptr_mut(&thread) else { return 0 };
    // SAFETY: a live map value of this thread.
    let call = unsafe { &mut *call };
    let mut len = match call.passed {
        _ if ctx.ret::<i32>() <= 0 => 0,
        layout::POINTED_TO => read_user::<u64>(call.passed_at),
        _ => call.len,
    };
    if call.inside == 1 && len > 0 {
        len -= 1;
        if read_user::<u8>(call.buffer + len) != APPLICATION_DATA {
            len = 0;
        }
    }
    if len > 0 {
        opened(call, len);
    }
    drop(CALLS.remove(&thread));
    0
}

#[inline(always)]
fn opened(call: &mut Call, len: u64) {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the values are copied out at once.
    let sealer = unsafe { RECEIVED.get(&thread).and_then(|cookie| SEALERS.get(cookie)) }.copied();
    let Some(sealer) = sealer.filter(|sealer| sealer.tgid == (thread >> 32) as u32) else { return };
    call.object = sealer.context;
    // SAFETY: the value is looked at once.
    if unsafe { CONNECTIONS.get(&key(sealer.context)) }.is_some_and(|connection| connection.born == sealer.born) {
        commit(call, len);
    }
}

#[inline(always)]
fn key(context: u64) -> ConnectionKey {
    ConnectionKey { object: context, tgid: (bpf_get_current_pid_tgid() >> 32) as u32, space: SPACE_RECORDS }
}

/// From now on it is kept which sockets the process uses.
#[inline(always)]
fn mark(process: &Process) {
    if process.connects & SEALS == 0 {
        let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        let process = Process { connects: process.connects | CONNECTS | SEALS, ..*process };
        if PROCESSES.insert(&tgid, &process, 0).is_err() {
            count(|c| c.map_full += 1);
        }
    }
}

/// The current thread sends on a socket.
#[inline(always)]
pub fn sends(cookie: u64, process: &Process) {
    if process.connects & SEALS == 0 {
        return;
    }
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: the value is copied out at once.
    let Some(context) = (unsafe { SEALED.get(&thread) }).copied() else { return };
    drop(SEALED.remove(&thread));
    let Some(connection) = CONNECTIONS.get_ptr_mut(&key(context)) else { return };
    // SAFETY: a live map value.
    let connection = unsafe { &mut *connection };
    let tgid = (thread >> 32) as u32;
    connection.owner = tgid;
    let sealer = Sealer { context, born: connection.born, tgid, reserved: 0 };
    if SEALERS.insert(&cookie, &sealer, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

/// The current thread has received from a socket.
#[inline(always)]
pub fn has_received(cookie: u64, process: &Process) {
    if process.connects & SEALS != 0 && RECEIVED.insert(&bpf_get_current_pid_tgid(), &cookie, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

/// Nothing more will be sent on a socket or, if it `is_over`, received.
#[inline(always)]
pub fn socket_ends(cookie: u64, is_over: bool) {
    // SAFETY: the value is copied out at once.
    let Some(sealer) = (unsafe { SEALERS.get(&cookie) }).copied() else { return };
    let key = ConnectionKey { object: sealer.context, tgid: sealer.tgid, space: SPACE_RECORDS };
    if is_over {
        drop(SEALERS.remove(&cookie));
    }
    let Some(connection) = CONNECTIONS.get_ptr_mut(&key) else { return };
    // SAFETY: a live map value.
    let known = unsafe { *connection };
    if known.born != sealer.born {
        return;
    }
    if is_over {
        drop(CONNECTIONS.remove(&key));
        closed(&known, sealer.context, sealer.tgid);
    } else {
        // SAFETY: as above.
        unsafe { (*connection).has_ended = 1 };
    }
}

/// Says that a connection is over. Whoever runs now may have nothing to do with it.
#[inline(always)]
fn closed(connection: &Connection, context: u64, tgid: u32) {
    if connection.verdict == VERDICT_HTTP {
        let mut header = header(KIND_CLOSE, FLAG_RECORDS, connection.slot);
        (header.object, header.connection_born) = (context, connection.born);
        (header.tgid, header.tid) = (tgid, tgid);
        emit(header);
    }
}
