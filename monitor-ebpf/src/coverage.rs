//! What leaves and comes on the sockets of tasks, whoever encrypted it.
//!
//! Bytes of each socket are counted by the sequence numbers of its packets, and of TLS the headers of its records are followed, which are in the clear: they
//! tell application data from the handshake. Plaintext that a process hands to a probed function *waits* until as much application data
//! leaves on a socket of the process; application data for which none waits was encrypted by something that is not probed.
//!
//! Packets of sockets that no task has made cost one look into a map.

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering, atomic_xadd, atomic_xsub},
};

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{
            bpf_get_socket_cookie, bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel, bpf_skb_load_bytes,
        },
    },
    macros::{cgroup_skb, map},
    maps::{Array, HashMap, LruHashMap},
    programs::{SkBuffContext, SockAddrContext},
};
use monitor_common::{
    Connection, Destination, FLAG_OVER, FLAG_QUIC, FLAG_STOPPED, HELLO_BYTES, HELLO_BYTES_PLAIN, HELLO_DATAGRAMS,
    Header, KIND_HELLO, KIND_TRAFFIC, MAX_TASKS, Process, Readable, Record, SEEN_FINISHED, SEEN_HANDSHAKE,
    SEEN_RECEIVED, SEEN_SENT, SEEN_TLS12, SPEAKS_PLAIN, SPEAKS_QUIC, SPEAKS_TLS, SPEAKS_TLS_LOST, SPEAKS_UNKNOWN,
    Socket, UNREADABLE_STOPS,
};

use crate::{
    maps::{RECORDS, count},
    presence::in_force,
    sockets::hold,
};

/// TCP sockets of tasks: cookie → what passed. An entry goes with its socket.
#[map]
pub static SOCKETS: HashMap<u64, Socket> = HashMap::with_max_entries(65_536, 0);

/// UDP sockets of tasks. Nothing tells their end: the least recently used ones give way.
#[map]
pub static DATAGRAMS: LruHashMap<u64, Socket> = LruHashMap::with_max_entries(8192, 0);

/// What families of processes have handed to TLS functions.
#[map]
pub static READABLE: LruHashMap<u32, Readable> = LruHashMap::with_max_entries(65_536, 0);

/// Families of processes that were forked and have executed nothing since, by their tgid. All others are their own.
#[map]
static FAMILIES: LruHashMap<u32, u32> = LruHashMap::with_max_entries(65_536, 0);

/// One of the `UNREADABLE_*` per task slot.
#[map]
pub static UNREADABLE: Array<u32> = Array::with_max_entries(MAX_TASKS, 0);

/// Where processes may not connect any more.
#[map]
pub static DENIED: LruHashMap<Destination, u32> = LruHashMap::with_max_entries(8192, 0);

/// `linux/in.h`
const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;
/// `linux/net.h`
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
/// Content types of TLS records (RFC 8446 §5.1).
const RECORD_FIRST: u8 = 20;
const RECORD_HANDSHAKE: u8 = 22;
const RECORD_APPLICATION: u8 = 23;
const RECORD_LAST: u8 = 24;
/// Longest body of a record (RFC 5246 §6.2.3).
const RECORD_MOST: u32 = 16_384 + 2048;
/// Bodies of alerts and key updates, which TLS 1.3 sends under the type of application data: nothing that asks for anything is that short.
const RECORD_LEAST: u32 = 24;
/// What encryption adds: a tag and the hidden type (TLS 1.3); a nonce and a tag (TLS 1.2 with AES-GCM).
const OVERHEAD_13: u32 = 17;
const OVERHEAD_12: u32 = 24;
/// `ClientHello` (RFC 8446 §4).
const CLIENT_HELLO: u8 = 1;
/// Records and parts of records of one packet that are followed.
const MAX_STEPS: u32 = 1024;
/// Bytes of one record of the ring: the largest packet's beginning, which may be all of the beginning.
const COPY: usize = 2048;
/// Pieces that the beginning in one packet is copied in.
const COPIES: u32 = 4;

const DROP: i32 = 0;
const PASS: i32 = 1;

/// The family of the current process.
#[inline(always)]
fn family() -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    unsafe { FAMILIES.get(&tgid) }.copied().unwrap_or(tgid)
}

/// The current process, of a task, is about to fork: what it has connected, the child may go on with.
#[inline(always)]
pub fn forks(child: u32) {
    if FAMILIES.insert(&child, &family(), 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

/// The current process, of a task, has replaced its program.
#[inline(always)]
pub fn executes() {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    drop(FAMILIES.remove(&tgid));
    // Of another process that had this id, or of the program before.
    drop(READABLE.remove(&tgid));
}

/// A process writes `len` bytes of plaintext to a TLS object: as much will leave on one of its sockets.
#[inline(always)]
pub fn writes(connection: &mut Connection, len: u64) {
    let to = connection.written + len;
    if to <= connection.expected_to {
        return;
    }
    let new =
        to - if connection.expected_to > connection.written { connection.expected_to } else { connection.written };
    connection.expected_to = to;
    let family = family();
    let first = Readable { waiting: new as i64, written: new };
    if !waits(family, new) && READABLE.insert(&family, &first, BPF_NOEXIST).is_err() && !waits(family, new) {
        count(|c| c.map_full += 1);
    }
}

/// `linux/bpf.h`: of two threads that are the first, the second one must not write over what the first one has.
const BPF_NOEXIST: u64 = 1;

/// Says whether there was an account to put it on.
#[inline(always)]
fn waits(family: u32, bytes: u64) -> bool {
    let Some(readable) = READABLE.get_ptr_mut(&family) else { return false };
    // SAFETY: live, aligned map values, which other CPUs change at the same time.
    unsafe {
        add(&raw mut (*readable).waiting, bytes);
        add((&raw mut (*readable).written).cast(), bytes);
    }
    true
}

/// # Safety
/// `counter` points to a live, aligned map value.
#[inline(always)]
unsafe fn add(counter: *mut i64, value: u64) -> i64 {
    // SAFETY: the caller's pointer is to a live, aligned map value. `SeqCst` only, as in `gate.rs`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(counter.cast(), value) as i64 }
}

/// Takes up to so many bytes of plaintext that wait; returns how many there were.
#[inline(always)]
fn take(family: u32, wanted: u64) -> u64 {
    let Some(readable) = READABLE.get_ptr_mut(&family) else { return 0 };
    // SAFETY: a live, aligned map value.
    let waiting = unsafe { &raw mut (*readable).waiting };
    // SAFETY: as above. `SeqCst` only, as in `gate.rs`.
    let before = unsafe { atomic_xsub::<u64, u64, { AtomicOrdering::SeqCst }>(waiting.cast(), wanted) as i64 };
    if before >= wanted as i64 {
        return wanted;
    }
    let had = if before > 0 { before as u64 } else { 0 };
    // SAFETY: as above.
    unsafe { add(waiting, wanted - had) };
    had
}

/// A socket of a task begins to send.
#[inline(always)]
pub fn connecting(ctx: &SockAddrContext, process: &Process) {
    // SAFETY: the context of the running program, of which these members may be read.
    let (kind, protocol) = unsafe { ((*ctx.sock_addr).type_, (*ctx.sock_addr).protocol) };
    // SAFETY: the context of the running program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if kind == SOCK_STREAM && protocol == u32::from(IPPROTO_TCP) {
        begin(cookie, process);
    } else if kind == SOCK_DGRAM && DATAGRAMS.get_ptr(&cookie).is_none() {
        let fresh = fresh(process);
        if DATAGRAMS.insert(&cookie, &fresh, 0).is_err() {
            count(|c| c.map_full += 1);
        }
    }
}

/// A TCP socket of a task is known from here on.
#[inline(always)]
pub fn begin(cookie: u64, process: &Process) {
    let fresh = fresh(process);
    if SOCKETS.insert(&cookie, &fresh, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}

#[inline(always)]
fn fresh(process: &Process) -> Socket {
    Socket {
        // SAFETY: takes no arguments.
        born: unsafe { bpf_ktime_get_boot_ns() },
        slot: process.slot,
        tgid: (bpf_get_current_pid_tgid() >> 32) as u32,
        family: family(),
        ..Socket::default()
    }
}

#[inline(always)]
fn stops(slot: u32) -> bool {
    // SAFETY: the value is copied out at once.
    UNREADABLE.get(slot).is_some_and(|policy| *policy == UNREADABLE_STOPS)
}

/// Whether the current process was told not to connect there again.
#[inline(always)]
pub fn is_denied(ctx: &SockAddrContext, process: &Process, address: [u32; 4]) -> bool {
    if !stops(process.slot) {
        return false;
    }
    // SAFETY: the context of the running program, of which this member may be read.
    let port = unsafe { (*ctx.sock_addr).user_port };
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    let to = Destination { tgid, port, address };
    // SAFETY: only whether there is one.
    unsafe { DENIED.get(&to) }.is_some()
}

/// A TCP socket is closed, whoever noticed.
#[inline(always)]
pub fn ended(cookie: u64) {
    if let Some(socket) = SOCKETS.get_ptr(&cookie) {
        // SAFETY: a live map value.
        if unsafe { (*socket).sent } > 0 {
            tell(cookie, socket, FLAG_OVER);
        }
        drop(SOCKETS.remove(&cookie));
    }
}

#[inline(always)]
fn header(kind: u8, flags: u8, cookie: u64, socket: &Socket) -> Header {
    Header {
        // SAFETY: takes no arguments.
        time: unsafe { bpf_ktime_get_boot_ns() },
        object: cookie,
        connection_born: socket.born,
        offset: 0,
        slot: socket.slot,
        tgid: socket.tgid,
        tid: socket.tgid,
        len: 0,
        wanted: 0,
        generation: 0,
        kind,
        flags,
        starts: 0,
        address_high: 0,
    }
}

/// Hands over what is known of a socket.
#[inline(always)]
fn tell(cookie: u64, socket: *const Socket, flags: u8) {
    const SIZE: usize = size_of::<Socket>();
    let Some(mut entry) = RECORDS.reserve::<Record<SIZE>>(0) else {
        count(|c| c.dropped_records += 1);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: a live map value.
    let mut header = header(KIND_TRAFFIC, flags, cookie, unsafe { &*socket });
    header.len = SIZE as u32;
    // SAFETY: `record` points to reserved ring memory of the size of the record, `socket` to a live map value.
    unsafe {
        crate::record::put(&raw mut (*record).header, &header);
        bpf_probe_read_kernel((&raw mut (*record).payload).cast(), SIZE as u32, socket.cast());
    }
    entry.submit(0);
    count(|c| c.records += 1);
}

/// Where a packet has its payload.
struct Packet {
    /// Offset of the transport's header.
    transport: u32,
    protocol: u8,
    version: u32,
    source: u32,
    destination: u32,
}

#[inline(always)]
fn packet(ctx: &SkBuffContext) -> Packet {
    let first = u32::from(load::<u8>(ctx, 0));
    if first >> 4 == 4 {
        Packet { transport: (first & 0xf) * 4, protocol: load(ctx, 9), version: 4, source: 12, destination: 16 }
    } else {
        // What extension headers have behind them is not looked for.
        Packet { transport: 40, protocol: load(ctx, 6), version: 6, source: 8, destination: 24 }
    }
}

/// A copy of `T` at `offset` in the packet, as it lies there.
#[inline(always)]
fn load<T: Default>(ctx: &SkBuffContext, offset: u32) -> T {
    let mut value = T::default();
    // SAFETY: the destination has the size of `T`; the helper checks the offset.
    unsafe { bpf_skb_load_bytes(ctx.as_ptr(), offset, (&raw mut value).cast(), size_of::<T>() as u32) };
    value
}

/// A packet is about to leave.
#[cgroup_skb(egress)]
pub fn count_egress(ctx: SkBuffContext) -> i32 {
    if !in_force() {
        return PASS;
    }
    // SAFETY: the context of the running program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(socket) = SOCKETS.get_ptr_mut(&cookie) {
        // SAFETY: a live map value; the packets of a socket leave one after the other.
        return tcp_leaves(&ctx, cookie, unsafe { &mut *socket });
    }
    // SAFETY: the context of the running program, of which this member may be read.
    if load::<u8>(&ctx, if unsafe { (*ctx.skb.skb).protocol } == ETH_P_IP { 9 } else { 6 }) != IPPROTO_UDP {
        return PASS;
    }
    match DATAGRAMS.get_ptr_mut(&cookie) {
        // SAFETY: as above.
        Some(socket) => datagram_leaves(&ctx, cookie, unsafe { &mut *socket }),
        None => PASS,
    }
}

/// `linux/if_ether.h`, in the order of the network.
const ETH_P_IP: u32 = 0x0800_u16.to_be() as u32;

/// A packet has come.
#[cgroup_skb(ingress)]
pub fn count_ingress(ctx: SkBuffContext) -> i32 {
    if !in_force() {
        return PASS;
    }
    // SAFETY: the context of the running program.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(socket) = SOCKETS.get_ptr_mut(&cookie) {
        // SAFETY: a live map value; the packets of a socket come one after the other.
        tcp_comes(&ctx, unsafe { &mut *socket });
        return PASS;
    }
    // SAFETY: the context of the running program, of which this member may be read.
    if load::<u8>(&ctx, if unsafe { (*ctx.skb.skb).protocol } == ETH_P_IP { 9 } else { 6 }) == IPPROTO_UDP
        && let Some(socket) = DATAGRAMS.get_ptr_mut(&cookie)
    {
        let transport = packet(&ctx).transport;
        if ctx.len() > transport + 8 {
            // SAFETY: as above.
            unsafe { (*socket).received += u64::from(ctx.len() - transport - 8) };
        }
    }
    PASS
}

#[inline(always)]
fn tcp_comes(ctx: &SkBuffContext, socket: &mut Socket) {
    let packet = packet(ctx);
    if packet.protocol != IPPROTO_TCP {
        return;
    }
    let at = packet.transport + u32::from(load::<u8>(ctx, packet.transport + 12) >> 4) * 4;
    if ctx.len() <= at {
        return;
    }
    let sequence = u32::from_be(load(ctx, packet.transport + 4));
    if socket.seen & SEEN_RECEIVED == 0 {
        socket.seen |= SEEN_RECEIVED;
        socket.next_received = sequence;
    }
    let end = sequence.wrapping_add(ctx.len() - at);
    let new = end.wrapping_sub(socket.next_received) as i32;
    if new > 0 {
        // With what is missing in between, which is on its way.
        socket.received += new as u64;
        socket.next_received = end;
    }
}

#[inline(always)]
fn tcp_leaves(ctx: &SkBuffContext, cookie: u64, socket: &mut Socket) -> i32 {
    let packet = packet(ctx);
    if packet.protocol != IPPROTO_TCP {
        return PASS;
    }
    let at = packet.transport + u32::from(load::<u8>(ctx, packet.transport + 12) >> 4) * 4;
    let end = ctx.len();
    if end <= at {
        return PASS;
    }
    if socket.stopped != 0 {
        return DROP;
    }
    let sequence = u32::from_be(load(ctx, packet.transport + 4));
    if socket.seen & SEEN_SENT == 0 {
        socket.seen |= SEEN_SENT;
        socket.next_sent = sequence;
        note_destination(ctx, &packet, socket);
    }
    let ahead = sequence.wrapping_sub(socket.next_sent) as i32;
    if ahead > 0 {
        // Something left that was not seen.
        socket.sent += ahead as u64;
        lose(socket);
    }
    let again = if ahead < 0 { ahead.unsigned_abs() } else { 0 };
    if again >= end - at {
        return PASS;
    }
    let from = at + again;
    socket.next_sent = sequence.wrapping_add(end - at);
    let stream = Stream { ctx, cookie, from, end };
    let verdict = stream.leaves(socket);
    socket.sent += u64::from(end - from);
    verdict
}

#[inline(always)]
fn note_destination(ctx: &SkBuffContext, packet: &Packet, socket: &mut Socket) {
    socket.port = u32::from(load::<u16>(ctx, packet.transport + 2));
    socket.version = packet.version;
    if packet.version == 4 {
        socket.address = [load(ctx, packet.destination), 0, 0, 0];
    } else {
        socket.address = load(ctx, packet.destination);
    }
}

/// Where the records of a connection begin is not known any more.
#[inline(always)]
fn lose(socket: &mut Socket) {
    if socket.speaks == SPEAKS_TLS {
        socket.speaks = SPEAKS_TLS_LOST;
        count(|c| c.unwalked_sockets += 1);
    }
}

/// New bytes of a TCP connection in a packet.
struct Stream<'a> {
    ctx: &'a SkBuffContext,
    cookie: u64,
    from: u32,
    end: u32,
}

impl Stream<'_> {
    #[inline(always)]
    fn leaves(&self, socket: &mut Socket) -> i32 {
        let had_application = socket.first_application != 0;
        if socket.speaks == SPEAKS_PLAIN && is_client_hello(load::<[u8; 8]>(self.ctx, self.from)) {
            // After a `CONNECT` to a proxy, or whatever else was said before.
            (socket.speaks, socket.copied, socket.have, socket.left) = (SPEAKS_UNKNOWN, 0, 0, 0);
        }
        (socket.at, socket.end, socket.found) = (self.from, self.end, 0);
        if matches!(socket.speaks, SPEAKS_UNKNOWN | SPEAKS_TLS) {
            self.for_each(MAX_STEPS, step, socket);
            if socket.at < self.end && socket.speaks == SPEAKS_TLS {
                lose(socket);
            }
        }
        if !had_application {
            socket.at = self.from;
            self.for_each(COPIES, copy, socket);
        }
        let found = u64::from(socket.found);
        if found == 0 { PASS } else { self.application(socket, found) }
    }

    #[inline(always)]
    fn for_each(&self, rounds: u32, callback: unsafe extern "C" fn(u32, *mut c_void) -> i64, socket: &mut Socket) {
        let mut round = Round { skb: self.ctx.as_ptr(), socket, cookie: self.cookie };
        // SAFETY: the callback takes exactly this context, which outlives the call.
        unsafe { bpf_loop(rounds, callback as *mut c_void, (&raw mut round).cast(), 0) };
    }

    /// Application data is about to leave.
    #[inline(always)]
    fn application(&self, socket: &mut Socket, bytes: u64) -> i32 {
        let readable = take(socket.family, bytes);
        socket.application += bytes;
        socket.readable += readable;
        let is_first = socket.first_application == 0;
        if is_first {
            // SAFETY: takes no arguments.
            socket.first_application = unsafe { bpf_ktime_get_boot_ns() };
            socket.received_before = socket.received;
        }
        let is_stopped = readable * 2 < bytes && stops(socket.slot);
        if is_stopped {
            socket.stopped = 1;
            hold(self.cookie, socket.slot);
        }
        if is_first || is_stopped {
            tell(self.cookie, socket, if is_stopped { FLAG_STOPPED } else { 0 });
        }
        if is_stopped { DROP } else { PASS }
    }
}

/// What a round of a loop over a packet works on. All that changes lies in the map, where the verifier does not follow every value it can have.
struct Round {
    skb: *mut c_void,
    socket: *mut Socket,
    cookie: u64,
}

/// Hands over a piece of the beginning of a connection; 1 ends the loop.
unsafe extern "C" fn copy(_round: u32, context: *mut c_void) -> i64 {
    // SAFETY: called by `for_each` only, with a `Round` on its stack.
    let round = unsafe { &mut *context.cast::<Round>() };
    // SAFETY: a live map value; the packets of a socket leave one after the other.
    let socket = unsafe { &mut *round.socket };
    let most = if socket.speaks == SPEAKS_PLAIN { HELLO_BYTES_PLAIN } else { HELLO_BYTES };
    if socket.at >= socket.end || socket.copied >= most {
        return 1;
    }
    let mut header = header(KIND_HELLO, 0, round.cookie, socket);
    header.offset = u64::from(socket.copied);
    let len = emit_packet(round.skb, &mut header, socket.at, socket.end - socket.at);
    socket.at += len;
    socket.copied += len;
    0
}

/// Hands over up to [`COPY`] bytes at `at` of a packet; returns how many.
#[inline(always)]
fn emit_packet(skb: *mut c_void, header: &mut Header, at: u32, left: u32) -> u32 {
    let len = if left > COPY as u32 { COPY as u32 } else { left };
    // The verifier wants to see that it is neither 0 nor too much.
    let len = ((len - 1) & (COPY as u32 - 1)) + 1;
    let Some(mut entry) = RECORDS.reserve::<Record<COPY>>(0) else {
        count(|c| {
            c.dropped_records += 1;
            c.dropped_bytes += u64::from(len);
        });
        return len;
    };
    let record = entry.as_mut_ptr();
    header.len = len;
    // SAFETY: `record` points to reserved ring memory of the size of the record, whose payload has room for `COPY >= len` bytes.
    let status = unsafe {
        crate::record::put(&raw mut (*record).header, header);
        bpf_skb_load_bytes(skb, at, (&raw mut (*record).payload).cast(), len)
    };
    if status == 0 {
        entry.submit(0);
        count(|c| c.records += 1);
    } else {
        entry.discard(0);
        count(|c| c.unreadable_buffers += 1);
    }
    len
}

/// A record of a handshake with a `ClientHello` in it.
#[inline(always)]
fn is_client_hello(first: [u8; 8]) -> bool {
    first[0] == RECORD_HANDSHAKE && first[1] == 3 && first[2] <= 4 && first[5] == CLIENT_HELLO
}

/// Bytes of a record's header.
const RECORD_HEADER: u32 = 5;

/// One step along the records of a packet: over the rest of one, or over a byte of a header; 1 ends the walk.
unsafe extern "C" fn step(_round: u32, context: *mut c_void) -> i64 {
    // SAFETY: called by `for_each` only, with a `Round` on its stack.
    let round = unsafe { &mut *context.cast::<Round>() };
    // SAFETY: a live map value; the packets of a socket leave one after the other.
    let socket = unsafe { &mut *round.socket };
    if socket.at >= socket.end {
        return 1;
    }
    let there = socket.end - socket.at;
    if socket.left > 0 {
        let over = if socket.left < there { socket.left } else { there };
        socket.at += over;
        socket.left -= over;
        return 0;
    }
    let mut bytes = [0_u8; 8];
    if socket.have == 0 && there >= RECORD_HEADER {
        // SAFETY: the destination has so many bytes; the helper checks the offset.
        unsafe { bpf_skb_load_bytes(round.skb, socket.at, (&raw mut bytes).cast(), RECORD_HEADER) };
        socket.header = u64::from_le_bytes(bytes);
        socket.have = RECORD_HEADER;
        socket.at += RECORD_HEADER;
    } else {
        // SAFETY: as above.
        unsafe { bpf_skb_load_bytes(round.skb, socket.at, (&raw mut bytes).cast(), 1) };
        let shift = if socket.have < RECORD_HEADER { socket.have * 8 } else { 32 };
        socket.header |= u64::from(bytes[0]) << shift;
        socket.have += 1;
        socket.at += 1;
    }
    if socket.have < RECORD_HEADER {
        return 0;
    }
    let header = socket.header;
    (socket.header, socket.have) = (0, 0);
    record(round.skb, socket, header)
}

/// The header of a record is complete; 1 ends the walk.
#[inline(always)]
fn record(skb: *mut c_void, socket: &mut Socket, header: u64) -> i64 {
    let (kind, major) = (header as u8, (header >> 8) as u8);
    let len = ((header >> 24) as u32 & 0xff) << 8 | (header >> 32) as u32 & 0xff;
    if major != 3 || kind < RECORD_FIRST || kind > RECORD_LAST || len > RECORD_MOST {
        if socket.speaks == SPEAKS_UNKNOWN {
            socket.speaks = SPEAKS_PLAIN;
        }
        // Of TLS, what is left of the packet says that it was lost.
        if socket.at == socket.end {
            socket.at -= 1;
        }
        return 1;
    }
    if socket.speaks == SPEAKS_UNKNOWN {
        socket.speaks = SPEAKS_TLS;
        if kind != RECORD_HANDSHAKE {
            // It began before anybody looked: the handshake is over.
            socket.seen |= SEEN_FINISHED;
        }
    }
    socket.left = len;
    if kind == RECORD_HANDSHAKE {
        if socket.seen & SEEN_HANDSHAKE != 0 && socket.at < socket.end {
            let mut message = 0_u8;
            // SAFETY: the destination has one byte; the helper checks the offset.
            unsafe { bpf_skb_load_bytes(skb, socket.at, (&raw mut message).cast(), 1) };
            if message != CLIENT_HELLO {
                socket.seen |= SEEN_TLS12;
            }
        }
        socket.seen |= SEEN_HANDSHAKE;
    } else if kind == RECORD_APPLICATION {
        if socket.seen & (SEEN_TLS12 | SEEN_FINISHED) == 0 {
            socket.seen |= SEEN_FINISHED;
        } else if len > RECORD_LEAST {
            socket.found += len - if socket.seen & SEEN_TLS12 == 0 { OVERHEAD_13 } else { OVERHEAD_12 };
        }
    }
    0
}

#[inline(always)]
fn datagram_leaves(ctx: &SkBuffContext, cookie: u64, socket: &mut Socket) -> i32 {
    let packet = packet(ctx);
    let at = packet.transport + 8;
    if packet.protocol != IPPROTO_UDP || ctx.len() <= at {
        return PASS;
    }
    let len = ctx.len() - at;
    if is_quic_initial(load::<[u8; 8]>(ctx, at)) && socket.copied < HELLO_DATAGRAMS {
        note_destination(ctx, &packet, socket);
        socket.speaks = SPEAKS_QUIC;
        let mut header = header(KIND_HELLO, FLAG_QUIC, cookie, socket);
        header.offset = u64::from(socket.copied);
        emit_packet(ctx.as_ptr(), &mut header, at, len);
        socket.copied += 1;
        if stops(socket.slot) {
            socket.stopped = 1;
        }
        if socket.copied == 1 {
            tell(cookie, socket, if socket.stopped == 0 { 0 } else { FLAG_STOPPED });
        }
    }
    if socket.speaks != SPEAKS_QUIC {
        return PASS;
    }
    if socket.stopped != 0 {
        return DROP;
    }
    socket.sent += u64::from(len);
    // Packets with a short header have application data, beside acknowledgements (RFC 9000 §17.3).
    if load::<u8>(ctx, at) & 0x80 == 0 {
        if socket.first_application == 0 {
            // SAFETY: takes no arguments.
            socket.first_application = unsafe { bpf_ktime_get_boot_ns() };
            socket.received_before = socket.received;
        }
        socket.application += u64::from(len);
    }
    PASS
}

/// An Initial packet of QUIC version 1 (RFC 9000), of version 2 (RFC 9369), or of a draft.
#[inline(always)]
fn is_quic_initial(first: [u8; 8]) -> bool {
    let version = u32::from_be_bytes([first[1], first[2], first[3], first[4]]);
    let kind = first[0] & 0xf0;
    match version {
        1 => kind == 0xc0,
        0x6b33_43cf => kind == 0xd0,
        _ => version >> 8 == 0x00ff_0000 && kind == 0xc0,
    }
}
