//! Plaintext that processes of tasks send and receive on TCP sockets themselves, by system calls: model servers on this host, or in its network.
//!
//! A socket is known by its cookie from its `connect` on, and found again by the kernel's own table of descriptors, so that `dup`, `fork` and descriptors used
//! again need no book of their own. What connections speak is judged by their first bytes, as of TLS; TLS itself is of no interest here.
//!
//! **The gate.** A signal that is sent at the entry of a system call is delivered only after it, when its bytes are already in the socket. So the
//! socket is marked as well, and [`hold_egress`] drops what it would send: TCP keeps it and tries again. When the mark is taken away the bytes
//! leave; when the connection ends before, they never do.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_current_task_btf, bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel,
            bpf_skb_load_bytes, bpf_task_pt_regs,
        },
    },
    macros::{cgroup_skb, map, raw_tracepoint, tracepoint},
    maps::PerCpuArray,
    programs::{RawTracePointContext, SkBuffContext, SockAddrContext, TracePointContext},
};
use monitor_common::{
    CONNECTS, Connection, ConnectionKey, FLAG_HELD, FLAG_SENT, FLAG_SIGNAL_FAILED, FLAG_SOCKET, GATE_SHUT, KIND_CLOSE,
    KIND_DATA, KIND_START, PROTOCOL_HTTP1, PROTOCOL_UNKNOWN, Process, SPACE_SOCKET, VERDICT_HTTP, VERDICT_IGNORE,
    VERDICT_UNKNOWN, Walk,
};

use crate::{
    aead, coverage,
    gate::{self, hold_body, looks, refuse_if_shut, take_credits},
    http1,
    mapping::read_kernel,
    maps::{CONNECTIONS, Call, HELD_SOCKETS, PROCESSES, count},
    presence::in_force,
    process::field,
    record::{emit, emit_bytes, header},
    requests::{read_user, word_at},
    tls::{HELD_BYTES, judge, upgrade},
    waits,
};

/// Offsets of members of kernel structs, as in `mapping.rs`.
#[unsafe(no_mangle)]
static TASK_FILES: u32 = 0;
#[unsafe(no_mangle)]
static FILES_TABLE: u32 = 0;
#[unsafe(no_mangle)]
static TABLE_SIZE: u32 = 0;
#[unsafe(no_mangle)]
static TABLE_FILES: u32 = 0;
#[unsafe(no_mangle)]
static SOCKET_FILE_INODE: u32 = 0;
#[unsafe(no_mangle)]
static INODE_MODE: u32 = 0;
#[unsafe(no_mangle)]
static FILE_PRIVATE: u32 = 0;
#[unsafe(no_mangle)]
static SOCKET_SOCK: u32 = 0;
#[unsafe(no_mangle)]
static SOCK_COOKIE: u32 = 0;
#[unsafe(no_mangle)]
static SOCK_PROTOCOL: u32 = 0;

/// Offsets of tracepoint fields, as in `process.rs`; the same for every system call.
#[unsafe(no_mangle)]
static ENTER_NUMBER: u32 = 0;
#[unsafe(no_mangle)]
static EXIT_NUMBER: u32 = 0;
#[unsafe(no_mangle)]
static EXIT_RESULT: u32 = 0;

/// Kinds of files (`linux/stat.h`).
const S_IFMT: u16 = 0o170_000;
const S_IFSOCK: u16 = 0o140_000;
/// `linux/in.h`, `linux/net.h`
const IPPROTO_TCP: u32 = 6;
const SOCK_STREAM: u32 = 1;
/// States of TCP (`net/tcp_states.h`).
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_LAST_ACK: i32 = 9;
/// Flags of calls that receive without taking, and of those that take what is not data (`linux/socket.h`).
const MSG_PEEK: u64 = 0x2;
const MSG_TRUNC: u64 = 0x20;
const MSG_ERRQUEUE: u64 = 0x2000;
/// An address at which no process has anything.
const NOWHERE: u64 = 1;
/// Most pieces of one call (`UIO_MAXIOV`, `linux/uio.h`).
const MAX_PIECES: u32 = 1024;
/// A TLS record of a handshake: its type and the high half of its version (RFC 8446 §5.1).
const TLS_HANDSHAKE: u16 = u16::from_le_bytes([0x16, 0x03]);

/// Answers of [`hold_egress`].
const DROP: i32 = 0;
const PASS: i32 = 1;

/// Numbers of system calls, and where `struct pt_regs` has their arguments.
#[cfg(bpf_target_arch = "x86_64")]
mod abi {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const SENDFILE: u64 = 40;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SPLICE: u64 = 275;
    /// `rdi, rsi, rdx, r10`
    pub const ARGUMENTS: [u32; 4] = [112, 104, 96, 56];
    /// The first argument, still there when the call returns.
    pub const FIRST: u32 = 112;
}

#[cfg(bpf_target_arch = "aarch64")]
mod abi {
    pub const READ: u64 = 63;
    pub const WRITE: u64 = 64;
    pub const READV: u64 = 65;
    pub const WRITEV: u64 = 66;
    pub const SENDFILE: u64 = 71;
    pub const SPLICE: u64 = 76;
    pub const SENDTO: u64 = 206;
    pub const RECVFROM: u64 = 207;
    pub const SENDMSG: u64 = 211;
    pub const RECVMSG: u64 = 212;
    pub const ARGUMENTS: [u32; 4] = [0, 8, 16, 24];
    pub const FIRST: u32 = 272;
}

/// What a call works on, and room for what the stack has none for.
#[repr(C)]
struct Scratch {
    call: Call,
    /// The connection as it will be when what is being sent has left.
    ahead: Connection,
    /// Where the `struct iovec`s of the call lie; 0: there is one buffer, in `call`.
    pieces: u64,
    /// Bytes that passed and have not been dealt with.
    left: u64,
    /// Where the first piece lies in which something starts, or may, and its length.
    start: u64,
    start_len: u64,
    /// Bytes of that piece and of all after it.
    start_total: u64,
    cookie: u64,
    starts: u32,
    body: u32,
    fd: u32,
    tgid: u32,
    /// How many pieces there are, and the number of the one in which something starts.
    many: u32,
    first: u32,
    /// 1: some of it, or where it lies, could not be read.
    unread: u32,
    reserved: u32,
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// A socket of a task connects: from here on it is known.
#[inline(always)]
pub fn connecting(ctx: &SockAddrContext, process: &Process) {
    // SAFETY: the context of the running program, of which these members may be read.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    if kind != SOCK_STREAM || protocol != IPPROTO_TCP {
        return;
    }
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if process.connects & CONNECTS == 0 {
        let process = Process { connects: process.connects | CONNECTS, ..*process };
        if PROCESSES.insert(&tgid, &process, 0).is_err() {
            count(|c| c.map_full += 1);
        }
    }
    // SAFETY: the context of the running program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    begin(cookie, process);
}

/// A connection of which nothing is known.
#[inline(always)]
fn begin(cookie: u64, process: &Process) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
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
        owner: tgid,
        slot: process.slot,
        has_ended: 0,
        reserved: 0,
    };
    if CONNECTIONS.insert(&key(cookie), &fresh, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

#[inline(always)]
fn key(cookie: u64) -> ConnectionKey {
    ConnectionKey { object: cookie, tgid: 0, space: SPACE_SOCKET }
}

/// Membership of the current process, if it has ever connected. Others, and those of no task, are done with here.
#[inline(always)]
fn connected_process() -> Option<Process> {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    let process = unsafe { PROCESSES.get(&tgid) }?;
    (process.connects != 0 && in_force()).then_some(*process)
}

/// The connection behind a descriptor of the current process, with the cookie of its socket.
#[inline(always)]
fn connection_of(fd: u64, process: &Process) -> Option<(u64, *mut Connection)> {
    let sock = sock_of(fd);
    let cookie = cookie_of(sock);
    if cookie == 0 {
        return None;
    }
    let connection = CONNECTIONS.get_ptr_mut(&key(cookie)).or_else(|| {
        // It was made before anybody followed the process, or not by it.
        if !is_tcp(sock) {
            return None;
        }
        begin(cookie, process);
        coverage::begin(cookie, process);
        CONNECTIONS.get_ptr_mut(&key(cookie))
    })?;
    Some((cookie, connection))
}

/// The registers with which the current thread has entered the kernel.
#[inline(always)]
pub fn registers() -> u64 {
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: the current task.
    unsafe { bpf_task_pt_regs(task) as u64 }
}

/// The `struct sock` behind a descriptor of the current process; 0 for anything else.
#[inline(always)]
pub fn sock_of(fd: u64) -> u64 {
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let table = read_kernel::<u64>(read_kernel::<u64>(task, &TASK_FILES), &FILES_TABLE);
    if fd >= u64::from(read_kernel::<u32>(table, &TABLE_SIZE)) {
        return 0;
    }
    let file = kernel_word(read_kernel::<u64>(table, &TABLE_FILES) + fd * 8);
    let inode = read_kernel::<u64>(file, &SOCKET_FILE_INODE);
    if read_kernel::<u16>(inode, &INODE_MODE) & S_IFMT != S_IFSOCK {
        return 0;
    }
    read_kernel::<u64>(read_kernel::<u64>(file, &FILE_PRIVATE), &SOCKET_SOCK)
}

/// The cookie of a `struct sock`; 0 where it has none yet.
#[inline(always)]
pub fn cookie_of(sock: u64) -> u64 {
    read_kernel::<u64>(sock, &SOCK_COOKIE)
}

#[inline(always)]
pub fn is_tcp(sock: u64) -> bool {
    u32::from(read_kernel::<u16>(sock, &SOCK_PROTOCOL)) == IPPROTO_TCP
}

/// Eight bytes of kernel memory; 0 where they cannot be read.
#[inline(always)]
fn kernel_word(address: u64) -> u64 {
    let mut value = 0_u64;
    // SAFETY: the destination has eight bytes; the helper checks the source.
    let status = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const c_void) };
    if status == 0 { value } else { 0 }
}

/// An argument of the system call, by its number.
#[inline(always)]
pub fn argument(regs: u64, index: usize) -> u64 {
    kernel_word(regs + u64::from(abi::ARGUMENTS[index]))
}

/// A system call that sends begins.
#[tracepoint]
pub fn socket_enter(ctx: TracePointContext) -> u32 {
    let Some(process) = connected_process() else { return 0 };
    let number = u64::from(field::<u32>(&ctx, &ENTER_NUMBER));
    let regs = registers();
    let fd = argument(regs, 0) & 0xffff_ffff;
    let Some((cookie, connection)) = connection_of(fd, &process) else { return 0 };
    aead::sends(cookie, &process);
    waits::sends(cookie);
    // SAFETY: a live map value; programs send on a connection from one thread at a time.
    let connection = unsafe { &mut *connection };
    if connection.verdict == VERDICT_IGNORE {
        return 0;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, which nobody else uses while the program runs.
    let scratch = unsafe { &mut *scratch };
    point(scratch, number, regs);
    (scratch.cookie, scratch.fd) = (cookie, fd as u32);
    scratch.tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    (scratch.call.object, scratch.call.slot, scratch.call.sent) = (cookie, process.slot, 1);
    if connection.verdict == VERDICT_UNKNOWN && is_tls(scratch) {
        connection.verdict = VERDICT_IGNORE;
        return 0;
    }
    connection.owner = scratch.tgid;
    scratch.ahead = *connection;
    (scratch.starts, scratch.body, scratch.start, scratch.start_len) = (0, 0, 0, 0);
    (scratch.start_total, scratch.first, scratch.unread) = (0, 0, 0);
    let mut nothing = 0_u64;
    // SAFETY: the callback takes no more than this CPU's scratch.
    unsafe { bpf_loop(scratch.many, follow_piece as *mut c_void, (&raw mut nothing).cast(), 0) };
    begin_requests(scratch, connection);
    0
}

/// Where the bytes of a call lie, and in how many pieces.
#[inline(always)]
fn point(scratch: &mut Scratch, number: u64, regs: u64) {
    let (second, third) = (argument(regs, 1), argument(regs, 2));
    let (pieces, many) = match number {
        abi::WRITEV | abi::READV => (second, third),
        // `struct user_msghdr`: where the pieces lie, and how many there are. One that cannot be read has a piece that cannot.
        abi::SENDMSG | abi::RECVMSG => (word_at(second + 16).unwrap_or(NOWHERE), word_at(second + 24).unwrap_or(1)),
        _ => (0, 1),
    };
    scratch.pieces = pieces;
    (scratch.call.buffer, scratch.call.len) = (second, third);
    scratch.many = if many > u64::from(MAX_PIECES) { MAX_PIECES } else { many as u32 };
}

/// Puts the piece with this number in place; says whether it can be told where it lies.
#[inline(always)]
fn piece(scratch: &mut Scratch, index: u32) -> bool {
    if scratch.pieces == 0 {
        return true;
    }
    let at = scratch.pieces + u64::from(index) * 16;
    match (word_at(at), word_at(at + 8)) {
        (Some(buffer), Some(len)) => (scratch.call.buffer, scratch.call.len) = (buffer, len),
        _ => {
            scratch.call.len = 0;
            return false;
        }
    }
    true
}

/// Whether what is sent first is a TLS handshake: then the plaintext is seen elsewhere, or nowhere.
#[inline(always)]
fn is_tls(scratch: &mut Scratch) -> bool {
    piece(scratch, 0) && scratch.call.len >= 2 && read_user::<u16>(scratch.call.buffer) == TLS_HANDSHAKE
}

/// Looks for requests in one piece of what is about to be sent; 1 ends the loop.
unsafe extern "C" fn follow_piece(index: u32, _context: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's element, which nobody else uses while the program runs.
    let scratch = unsafe { &mut *scratch };
    if !piece(scratch, index) {
        // The kernel will have it brought and send it: it may be a request.
        scratch.unread = 1;
        if scratch.ahead.sent >= scratch.ahead.credited_to {
            scratch.ahead.credited_to = scratch.ahead.sent + 1;
            scratch.starts += 1;
        }
        if scratch.starts + scratch.body <= 1 {
            // Else one before it is waited for, and what follows belongs to it.
            (scratch.start, scratch.start_len, scratch.first) = (NOWHERE, 0, index);
        }
        scratch.start_total = u64::from(u32::MAX);
        return 1;
    }
    let (buffer, len) = (scratch.call.buffer, scratch.call.len);
    if len == 0 {
        return 0;
    }
    // A method may begin in one piece and end in another.
    if scratch.start == 0 || scratch.starts + scratch.body == 0 && !is_in_method(&scratch.ahead.walk) {
        (scratch.start, scratch.start_len, scratch.first) = (buffer, len, index);
        scratch.start_total = 0;
    }
    scratch.start_total = scratch.start_total.saturating_add(len);
    let walker = &mut scratch.call.walker;
    walker.follow(&scratch.ahead, buffer, len);
    (scratch.ahead.walk, scratch.ahead.credited_to) = (walker.walk, walker.credited_to);
    scratch.ahead.sent += len;
    scratch.unread |= walker.unread;
    scratch.starts += walker.starts;
    scratch.body |= walker.body;
    0
}

/// Whether the next byte may belong to a method of which a part has come.
#[inline(always)]
fn is_in_method(walk: &Walk) -> bool {
    walk.have > 0
        && (walk.protocol == PROTOCOL_UNKNOWN || walk.protocol == PROTOCOL_HTTP1 && http1::is_start(walk.have))
}

/// Requests that start take a credit each, or wait.
#[inline(always)]
fn begin_requests(scratch: &mut Scratch, connection: &mut Connection) {
    let slot = scratch.call.slot;
    if scratch.ahead.walk.protocol != PROTOCOL_UNKNOWN {
        connection.verdict = VERDICT_HTTP;
    }
    if connection.verdict == VERDICT_HTTP && gate::state(slot) == GATE_SHUT {
        hold(scratch.cookie, slot);
        refuse_if_shut(slot);
        return;
    }
    if scratch.starts == 0 && (scratch.body == 0 || !looks(slot)) {
        return;
    }
    connection.credited_to = scratch.ahead.credited_to;
    let mut flags = if scratch.starts == 0 { hold_body(slot) } else { take_credits(slot, scratch.starts) };
    if flags & FLAG_HELD != 0 && !hold(scratch.cookie, slot) {
        // It leaves before the process is stopped.
        flags |= FLAG_SIGNAL_FAILED;
    }
    let (start, len, total) = (scratch.start, scratch.start_len, scratch.start_total);
    let mut header = header(KIND_START, flags | FLAG_SOCKET, slot);
    header.object = scratch.cookie;
    header.connection_born = connection.born;
    header.offset = u64::from(scratch.fd);
    header.wanted = if total > u64::from(u32::MAX) { u32::MAX } else { total as u32 };
    header.starts = if scratch.starts > u32::from(u16::MAX) { u16::MAX } else { scratch.starts as u16 };
    if flags & FLAG_HELD == 0 {
        emit(header);
    } else {
        // More than one piece: user space has to gather them.
        let pieces = scratch.many - scratch.first;
        let address = if total > len {
            header.offset |= u64::from(pieces) << 32;
            scratch.pieces + u64::from(scratch.first) * 16
        } else {
            start
        };
        header.generation = address as u32;
        header.address_high = (address >> 32) as u32;
        if scratch.unread == 0 {
            emit_bytes(header, start, if len > HELD_BYTES { HELD_BYTES } else { len });
        } else {
            // Only user space can have it brought.
            emit(header);
        }
    }
}

/// From now on no data of the socket leaves.
#[inline(always)]
pub fn hold(cookie: u64, slot: u32) -> bool {
    let done = HELD_SOCKETS.insert(&cookie, &slot, 0).is_ok();
    if !done {
        count(|c| c.map_full += 1);
    }
    done
}

/// A system call has returned.
#[tracepoint]
pub fn socket_exit(ctx: TracePointContext) -> u32 {
    let Some(process) = connected_process() else { return 0 };
    let passed = field::<i64>(&ctx, &EXIT_RESULT);
    if passed <= 0 {
        return 0;
    }
    let number = u64::from(field::<u32>(&ctx, &EXIT_NUMBER));
    let regs = registers();
    let sent = match number {
        abi::WRITE | abi::WRITEV | abi::SENDTO | abi::SENDMSG | abi::SENDFILE | abi::SPLICE => 1,
        abi::READ | abi::READV | abi::RECVFROM | abi::RECVMSG => 0,
        _ => return 0,
    };
    // `sendfile(out, in, …)`, `splice(in, offset, out, …)`
    let fd = if number == abi::SPLICE { argument(regs, 2) } else { kernel_word(regs + u64::from(abi::FIRST)) };
    let Some((cookie, connection)) = connection_of(fd & 0xffff_ffff, &process) else { return 0 };
    if sent == 0 {
        aead::has_received(cookie, &process);
    }
    // SAFETY: a live map value; programs use a direction of a connection from one thread at a time.
    let connection = unsafe { &mut *connection };
    if connection.verdict == VERDICT_IGNORE {
        return 0;
    }
    if matches!(number, abi::SENDFILE | abi::SPLICE) {
        // What it was is in no memory that could be read: user space sees the gap.
        connection.sent += passed as u64;
        return 0;
    }
    let flags = match number {
        abi::RECVFROM => argument(regs, 3),
        abi::RECVMSG => argument(regs, 2),
        _ => 0,
    };
    if flags & (MSG_PEEK | MSG_ERRQUEUE) != 0 {
        return 0;
    }
    if flags & MSG_TRUNC != 0 {
        connection.received += passed as u64;
        return 0;
    }
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: this CPU's element, which nobody else uses while the program runs.
    let scratch = unsafe { &mut *scratch };
    point(scratch, number, regs);
    (scratch.cookie, scratch.left) = (cookie, passed as u64);
    (scratch.call.object, scratch.call.slot, scratch.call.sent) = (cookie, process.slot, sent);
    let mut nothing = 0_u64;
    // SAFETY: the callback takes no more than this CPU's scratch.
    unsafe { bpf_loop(scratch.many, commit_piece as *mut c_void, (&raw mut nothing).cast(), 0) };
    0
}

/// Hands over what passed of one piece; 1 ends the loop.
unsafe extern "C" fn commit_piece(index: u32, _context: *mut c_void) -> i64 {
    let Some(scratch) = SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's element, which nobody else uses while the program runs.
    let scratch = unsafe { &mut *scratch };
    let is_known = piece(scratch, index);
    let Some(connection) = CONNECTIONS.get_ptr_mut(&key(scratch.cookie)) else { return 1 };
    // SAFETY: as in `socket_exit`.
    let connection = unsafe { &mut *connection };
    if !is_known {
        // Somebody has taken away what told where it lay: user space sees the gap.
        if scratch.call.sent == 1 {
            connection.sent += scratch.left;
        } else {
            connection.received += scratch.left;
        }
        return 1;
    }
    if scratch.call.len > scratch.left {
        scratch.call.len = scratch.left;
    }
    scratch.left -= scratch.call.len;
    if scratch.call.len > 0 {
        commit(&mut scratch.call, connection);
    }
    (scratch.left == 0) as i64
}

/// Bytes have passed: hands them over if the connection is of interest.
#[inline(always)]
fn commit(call: &mut Call, connection: &mut Connection) {
    let (buffer, len) = (call.buffer, call.len);
    if call.sent == 1 {
        call.walker.follow(connection, buffer, len);
    }
    if connection.verdict == VERDICT_UNKNOWN {
        judge(call, len, connection);
    }
    if connection.verdict != VERDICT_HTTP {
        return;
    }
    let mut header = header(KIND_DATA, if call.sent == 1 { FLAG_SENT | FLAG_SOCKET } else { FLAG_SOCKET }, call.slot);
    header.object = call.object;
    header.connection_born = connection.born;
    header.tgid = connection.owner;
    if call.sent == 1 {
        header.offset = connection.sent;
        connection.walk = call.walker.walk;
        connection.sent += len;
    } else {
        header.offset = connection.received;
        upgrade(call, len, connection);
        connection.received += len;
    }
    emit_bytes(header, buffer, len);
}

/// A connection has ended, whoever noticed: what is known of it goes.
#[raw_tracepoint(tracepoint = "inet_sock_set_state")]
pub fn socket_state(ctx: RawTracePointContext) -> i32 {
    let state = ctx.arg::<i32>(2);
    if !matches!(state, TCP_FIN_WAIT1 | TCP_CLOSE | TCP_LAST_ACK) || !in_force() {
        return 0;
    }
    let cookie = read_kernel::<u64>(ctx.arg::<u64>(0), &SOCK_COOKIE);
    if cookie == 0 {
        return 0;
    }
    aead::socket_ends(cookie, state != TCP_FIN_WAIT1);
    if state != TCP_CLOSE {
        return 0;
    }
    waits::closed(cookie);
    coverage::ended(cookie);
    let key = key(cookie);
    // SAFETY: the value is copied out at once.
    let Some(connection) = (unsafe { CONNECTIONS.get(&key) }).copied() else { return 0 };
    drop(CONNECTIONS.remove(&key));
    drop(HELD_SOCKETS.remove(&cookie));
    if connection.verdict == VERDICT_HTTP {
        // Whoever runs now has nothing to do with it.
        let mut header = header(KIND_CLOSE, FLAG_SOCKET, connection.slot);
        header.object = cookie;
        header.connection_born = connection.born;
        header.tgid = connection.owner;
        header.tid = connection.owner;
        emit(header);
    }
    0
}

/// A packet is about to leave: not if it has data of a socket that is held.
#[cgroup_skb(egress)]
pub fn hold_egress(ctx: SkBuffContext) -> i32 {
    // SAFETY: the context of the running program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: only whether there is one.
    let is_held = unsafe { HELD_SOCKETS.get(&cookie) }.is_some() || waits::keeps(cookie);
    if is_held && headers(&ctx) < ctx.len() { DROP } else { PASS }
}

/// Bytes of the IP and TCP headers; extension headers of IPv6 count as data.
#[inline(always)]
fn headers(ctx: &SkBuffContext) -> u32 {
    let first = u32::from(byte(ctx, 0));
    let ip = if first >> 4 == 4 { (first & 0xf) * 4 } else { 40 };
    ip + u32::from(byte(ctx, ip + 12) >> 4) * 4
}

#[inline(always)]
fn byte(ctx: &SkBuffContext, offset: u32) -> u8 {
    let mut value = 0_u8;
    // SAFETY: the destination has one byte; the helper checks the offset.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, (&raw mut value).cast(), 1) };
    value
}
