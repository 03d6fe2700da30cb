//! OpenSSL's calls: what was written is known at the return, whether it may be written is decided at the entry.

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated::bpf_ktime_get_boot_ns},
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use monitor_common::{
    Connection, ConnectionKey, FLAG_HELD, FLAG_SENT, KIND_CLOSE, KIND_DATA, KIND_START, PROTOCOL_HTTP1,
    PROTOCOL_UNKNOWN, PROTOCOL_WEBSOCKET, Process, TIERS, VERDICT_HTTP, VERDICT_IGNORE, VERDICT_UNKNOWN, Walk,
};

use crate::{
    gate::{refuse_if_shut, take_credits},
    maps::{CALLS, CONNECTIONS, Call, PROCESSES, count},
    process::current,
    record::{emit, emit_bytes, header},
    requests::{Walker, is_preface, is_upgrade, may_begin_request, read_user, starts_request},
};

/// Calls without a recognised beginning after which a connection is ignored.
const UNDECIDED_CALLS: u32 = 64;
/// Bytes of a held request that user space gets to price it by.
const HELD_BYTES: u64 = TIERS[2] as u64;

/// `int SSL_write(SSL *, const void *, int)`
#[uprobe]
pub fn ssl_write(ctx: ProbeContext) -> u32 {
    // A negative length is an error that OpenSSL returns; nothing is sent then.
    let len = ctx.arg::<i32>(2).unwrap_or(0);
    enter_write(&ctx, if len > 0 { len as u64 } else { 0 }, 0)
}

/// `int SSL_write_ex(SSL *, const void *, size_t, size_t *written)`
#[uprobe]
pub fn ssl_write_ex(ctx: ProbeContext) -> u32 {
    enter_write(&ctx, ctx.arg::<u64>(2).unwrap_or(0), ctx.arg::<u64>(3).unwrap_or(0))
}

/// `int SSL_read(SSL *, void *, int)`
#[uprobe]
pub fn ssl_read(ctx: ProbeContext) -> u32 {
    enter_read(&ctx, 0)
}

/// `int SSL_read_ex(SSL *, void *, size_t, size_t *readbytes)`
#[uprobe]
pub fn ssl_read_ex(ctx: ProbeContext) -> u32 {
    enter_read(&ctx, ctx.arg::<u64>(3).unwrap_or(0))
}

/// Return of any of them.
#[uretprobe]
pub fn ssl_return(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    let Some(call) = CALLS.get_ptr_mut(&thread) else { return 0 };
    // SAFETY: a live map value of this thread.
    let call = unsafe { &mut *call };
    let status = ctx.ret::<i32>();
    if status > 0 {
        let len = if call.length_at == 0 { status as u64 } else { read_user::<u64>(call.length_at) };
        if len > 0 {
            commit(call, len);
        }
    }
    drop(CALLS.remove(&thread));
    0
}

/// `void SSL_free(SSL *)`
#[uprobe]
pub fn ssl_free(ctx: ProbeContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let key = key(ctx.arg::<u64>(0).unwrap_or(0));
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
    ConnectionKey { object, tgid: (bpf_get_current_pid_tgid() >> 32) as u32, reserved: 0 }
}

#[inline(always)]
fn remember_call(call: &Call) -> Option<&'static mut Call> {
    let thread = bpf_get_current_pid_tgid();
    if CALLS.insert(&thread, call, 0).is_err() {
        count(|c| c.map_full += 1);
    }
    // SAFETY: a live map value, which only this thread uses.
    CALLS.get_ptr_mut(&thread).map(|call| unsafe { &mut *call })
}

#[inline(always)]
fn enter_read<C: EbpfContext + Arguments>(ctx: &C, length_at: u64) -> u32 {
    let Some(process) = current() else { return 0 };
    remember_call(&Call {
        object: ctx.argument(0),
        buffer: ctx.argument(1),
        length_at,
        slot: process.slot,
        sent: 0,
        len: 0,
        walker: Walker::default(),
    });
    0
}

#[inline(always)]
fn enter_write<C: EbpfContext + Arguments>(ctx: &C, len: u64, length_at: u64) -> u32 {
    let Some(process) = current() else { return 0 };
    if refuse_if_shut(process.slot) {
        return 0;
    }
    let call = remember_call(&Call {
        object: ctx.argument(0),
        buffer: ctx.argument(1),
        length_at,
        slot: process.slot,
        sent: 1,
        len,
        walker: Walker::default(),
    });
    let Some(call) = call else { return 0 };
    if len == 0 {
        return 0;
    }
    if let Some(connection) = connection(key(call.object), &process) {
        // SAFETY: a live map value; one thread at a time writes to a TLS object.
        begin_requests(call, unsafe { &mut *connection });
    }
    0
}

/// Requests that start take a credit each. A write that is tried again (it returned an error, nothing was sent) takes none.
#[inline(always)]
fn begin_requests(call: &mut Call, connection: &mut Connection) {
    if connection.verdict == VERDICT_IGNORE {
        return;
    }
    let (walker, len) = (&mut call.walker, call.len);
    walker.follow(connection, call.buffer, len);
    if walker.walk.protocol != PROTOCOL_UNKNOWN {
        connection.verdict = VERDICT_HTTP;
    }
    if walker.starts == 0 {
        return;
    }
    connection.credited_to = walker.credited_to;
    let flags = take_credits(call.slot, walker.starts);
    let mut header = header(KIND_START, flags, call.slot);
    header.object = call.object;
    header.connection_born = connection.born;
    header.offset = connection.sent;
    header.wanted = if len > u64::from(u32::MAX) { u32::MAX } else { len as u32 };
    header.starts = if walker.starts > u32::from(u16::MAX) { u16::MAX } else { walker.starts as u16 };
    if flags & FLAG_HELD == 0 {
        emit(header);
    } else {
        emit_bytes(header, call.buffer, if len > HELD_BYTES { HELD_BYTES } else { len });
    }
}

/// The process' connection for a TLS object; a new one where the entry is of another address space.
#[inline(always)]
fn connection(key: ConnectionKey, process: &Process) -> Option<*mut Connection> {
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
        walk: Walk { left: 0, seen: 0, have: 0, protocol: PROTOCOL_UNKNOWN },
        verdict: VERDICT_UNKNOWN,
        undecided: 0,
    };
    if CONNECTIONS.insert(&key, &fresh, 0).is_err() {
        count(|c| c.map_full += 1);
        return None;
    }
    CONNECTIONS.get_ptr_mut(&key)
}

/// Bytes have passed: hands them over if the connection is of interest.
#[inline(always)]
fn commit(call: &mut Call, len: u64) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // The entry made the process a member; it may have been taken out since.
    // SAFETY: the value is copied out at once.
    let Some(process) = (unsafe { PROCESSES.get(&tgid) }).copied() else { return };
    let Some(connection) = connection(key(call.object), &process) else { return };
    // SAFETY: a live map value; one thread at a time uses a TLS object.
    let connection = unsafe { &mut *connection };
    if connection.verdict == VERDICT_UNKNOWN {
        judge(call, len, connection);
    }
    if connection.verdict != VERDICT_HTTP {
        return;
    }
    let mut header = header(KIND_DATA, if call.sent == 1 { FLAG_SENT } else { 0 }, call.slot);
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
    if len != call.len {
        call.walker.follow(connection, call.buffer, len);
    }
    connection.walk = call.walker.walk;
}

/// A process that *reads* a request is a server: nothing it does costs money here.
#[inline(always)]
fn judge(call: &mut Call, len: u64, connection: &mut Connection) {
    if call.sent == 0 {
        let word = read_user::<u64>(call.buffer);
        if len >= 8 && (starts_request(word, len) || is_preface(word)) {
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
    }
    connection.undecided += 1;
    if connection.undecided > UNDECIDED_CALLS {
        connection.verdict = VERDICT_IGNORE;
    }
}

/// After `101 Switching Protocols` what the client writes is followed as WebSocket messages; user space knows what it really is.
#[inline(always)]
fn upgrade(call: &Call, len: u64, connection: &mut Connection) {
    if connection.walk.protocol == PROTOCOL_HTTP1
        && len >= 12
        && is_upgrade(read_user::<u64>(call.buffer), read_user::<u32>(call.buffer + 8))
    {
        connection.walk = Walk { left: 0, seen: 0, have: 0, protocol: PROTOCOL_WEBSOCKET };
    }
}

/// Word-sized arguments of the probed function.
trait Arguments {
    fn argument(&self, index: usize) -> u64;
}

impl Arguments for ProbeContext {
    #[inline(always)]
    fn argument(&self, index: usize) -> u64 {
        self.arg::<u64>(index).unwrap_or(0)
    }
}
