//! The types that Tollgate's eBPF programs and its daemon share: map keys and values, and the records of the ring.
//!
//! **Invariant:** `no_std`, plain `#[repr(C)]` data without padding bytes, and no logic.
#![no_std]

mod coverage;

pub use coverage::*;

/// Tasks that can be gated at the same time. [`Gate`]s live in an array of this size; slot 0 is never given out.
pub const MAX_TASKS: u32 = 4096;
/// Slot of a process that is known to belong to no task.
pub const NO_TASK: u32 = 0;
/// Payload sizes of the record tiers, smallest first.
pub const TIERS: [usize; 4] = [512, 4 * 1024, 16 * 1024, 64 * 1024];
/// Records that one socket write or read may be cut into. What is longer is a gap in the stream offsets.
pub const MAX_RECORDS_PER_CALL: u32 = 64;
/// Path bytes of an `exec` record.
pub const EXEC_PATH: usize = 256;
/// Path bytes of a record of a cgroup. A path that fills them may be longer.
pub const CGROUP_PATH: usize = 512;

/// How the cookie of a probe tells where the arguments of its function lie.
///
/// Three bytes with a place each (`OBJECT`, `BUFFER`, `LENGTH` are their shifts), then how it is known at the return how much has passed, with its
/// place. A place is an argument of the C convention by its number, a register of Go's convention from [`GO_REGISTER`](layout::GO_REGISTER) on, or a word
/// above the stack pointer from [`ON_STACK`](layout::ON_STACK) on.
pub mod layout {
    pub const OBJECT: u32 = 0;
    pub const BUFFER: u32 = 8;
    pub const LENGTH: u32 = 16;
    pub const PASSED_PLACE: u32 = 24;
    pub const PASSED: u32 = 32;
    pub const PASSED_MASK: u64 = 0xf;
    /// Calls are told apart by goroutine instead of thread.
    pub const GO: u64 = 1 << 36;

    pub const GO_REGISTER: u32 = 0x20;
    pub const ON_STACK: u32 = 0x40;
    pub const NOWHERE: u32 = 0xff;

    /// Of functions that encrypt records: where their additional data lie; the length is the word after that.
    pub const ADDITIONAL_DATA: u32 = 40;

    /// The return value, an `int`, if it is positive.
    pub const RETURNED: u32 = 0;
    /// The word that the place points to, if the return value is positive.
    pub const POINTED_TO: u32 = 1;
    /// All of the length, if the return value is positive.
    pub const REQUESTED: u32 = 2;
    /// The word that is at the place when the function returns.
    pub const RESULT: u32 = 3;
}

/// Version of everything below that maps are made of. To be raised whenever the meaning of a key, a value or a record changes: programs of another version get maps
/// of their own.
pub const LAYOUT: u32 = 2;

/// What the programs know of the daemon, and the daemon of what programs saw it do. One element, mapped into the daemon's memory.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Daemon {
    /// Generation of the programs that are in force; those of another one stand by. 0: all are.
    pub generation: u64,
    /// Boot-clock nanoseconds at which the daemon last said that it is there; 0: it has ended.
    pub heartbeat: u64,
    pub tgid: u32,
    /// Its thread whose mappings it wants to know the files of.
    pub tid: u32,
    /// The file of which that thread last mapped code.
    pub mapped: FileKey,
    /// Sum of the losses in [`Counters`] that a daemon has said.
    pub losses_said: u64,
    pub reserved: [u64; 2],
}

/// How old a heartbeat may become before the daemon counts as gone.
pub const HEARTBEAT_STALE_NS: u64 = 10_000_000_000;

/// The kernel side of a task: how many requests may start, and what happens to the next one when none may.
///
/// Lives in a memory-mapped array: user space lends and takes back credits with atomic operations on the same memory
/// that the programs take them from. One cache line, so that tasks do not disturb each other; a second one for what the daemon keeps for the next
/// daemon.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default)]
pub struct Gate {
    /// Requests that may start. Taken by the kernel, one per request; negative only for the blink of a refused one.
    pub credits: i64,
    /// Credits taken since the slot was given out.
    pub taken: u64,
    /// Requests stopped at the probe because no credit was left.
    pub held: u64,
    /// Writes of a shut task that were answered with `SIGKILL`.
    pub refused: u64,
    /// Signals that the kernel could not send. User space must act in its place.
    pub signal_failures: u64,
    /// One of the `GATE_*` states.
    pub state: u32,
    /// 1: requests are also stopped in front of their bodies, where these come in a write of their own.
    pub looks: u32,
    /// One of the `LOSS_*`: what becomes of a request without a credit while no daemon runs.
    pub on_loss: u32,
    pub reserved: u32,
    pub reserved2: u64,
    /// Credits taken whose records a daemon has read.
    pub seen: u64,
    /// What the task has spent by what daemons have read, in pico-USD.
    pub spent: u64,
    pub reserved3: [u64; 6],
}

/// Without credits a request is stopped (`SIGSTOP`) at the entry of the write until user space decides.
pub const GATE_OPEN: u32 = 0;
/// Any write is answered with `SIGKILL` before it leaves.
pub const GATE_SHUT: u32 = 1;
/// As open, and no new connection is made.
pub const GATE_CUT: u32 = 2;

/// While no daemon runs: stopped until one does.
pub const LOSS_HOLD: u32 = 0;
/// While no daemon runs: may go.
pub const LOSS_ALLOW: u32 = 1;

/// A process that belongs to a task, keyed by its id in the initial pid namespace. Inherited by fork, kept over cgroup moves.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Process {
    /// Boot-clock nanoseconds at which this address space began (fork or exec): tells a reused pid or pointer apart.
    pub born: u64,
    pub slot: u32,
    /// [`CONNECTS`], [`SEALS`]. Without any, its writes and reads need no look.
    pub connects: u32,
}

/// [`Process::connects`]: it, or a process that it comes from, has made a TCP connection.
pub const CONNECTS: u32 = 1;
/// [`Process::connects`]: it encrypts records itself, by functions that are probed.
pub const SEALS: u32 = 2;

/// What identifies a connection while it lives: the TLS object of one address space, or a socket.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// `SSL *`, or the context that seals, in the process; the cookie of a socket.
    pub object: u64,
    /// 0 for sockets, which processes share.
    pub tgid: u32,
    /// One of the `SPACE_*`: what `object` is.
    pub space: u32,
}

pub const SPACE_TLS: u32 = 0;
pub const SPACE_SOCKET: u32 = 1;
pub const SPACE_RECORDS: u32 = 2;

/// What the kernel knows of a connection.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Connection {
    /// [`Process::born`] of the address space that the object belongs to.
    pub process_born: u64,
    /// Boot-clock nanoseconds at which it was first seen: with the key, unique for ever.
    pub born: u64,
    /// Plaintext bytes written so far, from the first captured one.
    pub sent: u64,
    /// Plaintext bytes read so far.
    pub received: u64,
    /// Requests that start before this offset of what was sent have taken their credit: a retried write does not take a second one.
    pub credited_to: u64,
    /// Plaintext bytes written so far, whatever they are.
    pub written: u64,
    /// Those before this offset count as what leaves on sockets soon: a retried write does not count twice.
    pub expected_to: u64,
    /// How far what was sent has been followed.
    pub walk: Walk,
    /// One of the `VERDICT_*` states.
    pub verdict: u32,
    /// Calls seen without a verdict.
    pub undecided: u32,
    /// Sockets: the process that wrote to it last. Records: that of the context, once its socket is known. Else 0.
    pub owner: u32,
    /// Sockets and records: the slot of its task. Else 0.
    pub slot: u32,
    /// Records: 1 when nothing more can be sent on the socket.
    pub has_ended: u32,
    pub reserved: u32,
}

/// How far the client's bytes of a connection were followed, to see where its requests start.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Walk {
    /// Bytes of the current frame that have not come.
    pub left: u64,
    /// Bytes of the frame's header that have come (of the connection's beginning, while it is not known what is spoken), the latest one lowest.
    pub seen: u64,
    /// How many.
    pub have: u32,
    /// One of the `PROTOCOL_*`.
    pub protocol: u32,
}

pub const PROTOCOL_UNKNOWN: u32 = 0;
/// A request starts where a write begins with a method.
pub const PROTOCOL_HTTP1: u32 = 1;
/// A request starts with a `HEADERS` frame.
pub const PROTOCOL_HTTP2: u32 = 2;
/// Every message of the client may be a request.
pub const PROTOCOL_WEBSOCKET: u32 = 3;

/// No bytes yet that tell what the connection speaks.
pub const VERDICT_UNKNOWN: u32 = 0;
/// A client speaking HTTP: every byte is copied.
pub const VERDICT_HTTP: u32 = 1;
/// Of no interest: nothing is copied.
pub const VERDICT_IGNORE: u32 = 2;

/// Kinds of records in the ring.
pub const KIND_DATA: u8 = 1;
/// Requests start on a connection: at the entry of the write, before any of its bytes left.
pub const KIND_START: u8 = 2;
/// The connection's TLS object was freed.
pub const KIND_CLOSE: u8 = 3;
pub const KIND_FORK: u8 = 4;
pub const KIND_EXEC: u8 = 5;
pub const KIND_EXIT: u8 = 6;
/// A process mapped an executable file that nobody has looked at: see [`FileKey`].
pub const KIND_MAPPED: u8 = 7;
/// A cgroup was made; the payload is its path.
pub const KIND_CGROUP_MADE: u8 = 16;
/// A process was moved into the cgroup at the path in the payload.
pub const KIND_CGROUP_MOVE: u8 = 17;
/// The beginning of what a socket of a task sends.
pub const KIND_HELLO: u8 = 8;
/// Something about a socket of a task: a [`Socket`] follows.
pub const KIND_TRAFFIC: u8 = 9;

/// A process of a task reaches for something that is not its task's: the number of the system call is in `object`, its arguments where each
/// `REACH_*` says.
pub const KIND_REACH: u8 = 20;

/// [`KIND_REACH`], in `wanted`. A process that was stopped sends all the same: somebody else woke it.
pub const REACH_WOKEN: u32 = 0;
/// `ptrace`: attaches to the process in `offset`.
pub const REACH_TRACE: u32 = 1;
/// `process_vm_writev`: writes into the process in `offset`.
pub const REACH_WRITE: u32 = 2;
/// `pidfd_getfd`: takes a descriptor of the process behind the descriptor in `offset`.
pub const REACH_TAKE: u32 = 3;
/// `bpf`: asks for, or changes, what others have loaded; the command is in `offset`.
pub const REACH_BPF: u32 = 4;
/// `connect` to a Unix socket; the payload is its address.
pub const REACH_UNIX: u32 = 5;
/// `kill` and its like: the signal in `connection_born` goes to the daemon.
pub const REACH_DAEMON: u32 = 6;
/// `sendmsg`: hands a socket to the process in `offset`; in `connection_born` is the cookie of a TCP socket, or 0.
pub const REACH_HAND: u32 = 7;

/// `setsockopt`: has the kernel encrypt what it sends on a socket (kTLS).
pub const REACH_KTLS: u32 = 8;
/// `mprotect`: makes code of a file writable.
pub const REACH_TEXT: u32 = 9;
/// `setxattr` and its like: changes the label of a cgroup.
pub const REACH_LABEL: u32 = 10;
/// `clock_settime` and its like: sets the clock.
pub const REACH_CLOCK: u32 = 11;

/// When a process was last stopped, at the gate or for code that it mapped. It may run once user space has let it go after that.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Stop {
    /// Boot-clock nanoseconds.
    pub since: u64,
    /// The thread that was stopped first.
    pub tid: u32,
    pub slot: u32,
}

/// A socket on which a process sent that should have been stopped: nothing leaves it before the process is let go.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// [`Stop::since`] of the process.
    pub since: u64,
    pub tgid: u32,
    pub slot: u32,
}

/// [`KIND_DATA`]: bytes the process wrote / read.
pub const FLAG_SENT: u8 = 1;
/// [`KIND_START`]: a credit was taken for each of them.
pub const FLAG_CREDITED: u8 = 2;
/// [`KIND_START`]: there were not enough credits; the process was sent `SIGSTOP` and the record carries the beginning of the request.
pub const FLAG_HELD: u8 = 4;
/// The kernel could not send the signal.
pub const FLAG_SIGNAL_FAILED: u8 = 8;
/// [`KIND_START`], held: no request starts, the body of one that has started does.
pub const FLAG_BODY: u8 = 32;

/// The connection is a socket on which plaintext is sent.
pub const FLAG_SOCKET: u8 = 64;

/// The connection is seen at the encryption of its records: data of a held request are told before it is decided.
pub const FLAG_RECORDS: u8 = 128;

/// [`KIND_START`]: there were not enough credits, and no daemon to ask: the request may go because its task's policy says so.
pub const FLAG_UNATTENDED: u8 = 16;

/// [`KIND_MAPPED`]: the process belongs to a task, was sent `SIGSTOP` and waits until the file has been looked at.
pub const FLAG_WAITS: u8 = 16;

/// A file as the kernel knows it, whatever its name, mount or namespace.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FileKey {
    pub inode: u64,
    /// `dev_t` of the kernel.
    pub device: u32,
    /// Tells files apart that had the same inode number one after the other.
    pub generation: u32,
}

/// Head of every record, followed by up to `len` payload bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Header {
    /// Boot-clock nanoseconds.
    pub time: u64,
    /// Connection records: the TLS object, or the cookie of the socket. Fork: the parent's tgid. Mapped: first address. cgroups: its id.
    pub object: u64,
    /// [`Connection::born`]. Mapped: [`FileKey::inode`].
    pub connection_born: u64,
    /// Data: stream offset of the first payload byte in its direction. Start on a socket: its file descriptor; in the upper half
    /// how many `struct iovec` lie at the address of a held one, 0: it is that of the bytes. Mapped: the address after the last.
    pub offset: u64,
    pub slot: u32,
    pub tgid: u32,
    pub tid: u32,
    /// Payload bytes that follow and are valid.
    pub len: u32,
    /// Start: bytes that the held write wanted to send. Mapped: [`FileKey::device`]. Else 0.
    pub wanted: u32,
    /// Mapped: [`FileKey::generation`]. Start, held: lower half of the address of what is to be written. Else 0.
    pub generation: u32,
    pub kind: u8,
    pub flags: u8,
    /// Start: how many requests start in this write.
    pub starts: u16,
    /// Start, held: upper half of the address of what is to be written. Else 0.
    pub address_high: u32,
}

/// A record of one tier as it lies in the ring.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Record<const N: usize> {
    pub header: Header,
    pub payload: [u8; N],
}

/// Losses and failures, counted per CPU.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
#[cfg_attr(feature = "user", derive(serde::Serialize))]
pub struct Counters {
    /// Records that found no room in the ring.
    pub dropped_records: u64,
    /// Plaintext bytes in them.
    pub dropped_bytes: u64,
    /// Plaintext bytes past [`MAX_RECORDS_PER_CALL`] records of one call.
    pub uncopied_bytes: u64,
    /// Copies from user memory that failed.
    pub unreadable_buffers: u64,
    /// Bytes in which no request could be looked for: a write of more frames than are followed.
    pub unwalked_bytes: u64,
    /// TLS connections of tasks in which records can no longer be told apart: their bytes are counted, their coverage is not.
    pub unwalked_sockets: u64,
    /// Entries that found no room in a map.
    pub map_full: u64,
    /// Signals that could not be sent.
    pub signal_failures: u64,
    /// Records handed over.
    pub records: u64,
    /// Plaintext bytes handed over.
    pub bytes: u64,
}

#[cfg(feature = "user")]
mod user {
    use super::{
        Connection, ConnectionKey, Counters, Daemon, Destination, FileKey, Gate, Process, Readable, Socket, Stop,
        Waiting,
    };

    // SAFETY: `repr(C)`, only integers, no padding, every bit pattern is valid.
    unsafe impl aya::Pod for Gate {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Daemon {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Process {}
    // SAFETY: as above.
    unsafe impl aya::Pod for ConnectionKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Connection {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Counters {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FileKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Stop {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Waiting {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Socket {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Readable {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Destination {}
}
