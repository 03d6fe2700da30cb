//! Records of the ring as events.

use std::num::NonZeroU32;

use monitor_common::{
    FLAG_BODY, FLAG_CREDITED, FLAG_HELD, FLAG_OVER, FLAG_QUIC, FLAG_RECORDS, FLAG_SENT, FLAG_SIGNAL_FAILED,
    FLAG_SOCKET, FLAG_STOPPED, FLAG_UNATTENDED, FLAG_WAITS, FileKey, Header, KIND_CGROUP_MADE, KIND_CGROUP_MOVE,
    KIND_CLOSE, KIND_DATA, KIND_EXEC, KIND_EXIT, KIND_FORK, KIND_HELLO, KIND_MAPPED, KIND_REACH, KIND_START,
    KIND_TRAFFIC, NO_TASK, REACH_BPF, REACH_CLOCK, REACH_DAEMON, REACH_HAND, REACH_KTLS, REACH_LABEL, REACH_TAKE,
    REACH_TEXT, REACH_TRACE, REACH_UNIX, REACH_WOKEN, REACH_WRITE, Socket,
};

use crate::wire::{Direction, StreamOffset};

/// A process (thread group) id in the initial pid namespace.
pub type Pid = u32;

/// Index of a task's gate in the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Where the plaintext of a connection is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// At the calls of a TLS library.
    Tls,
    /// At the encryption of TLS records.
    Records,
    /// At the socket itself: nothing is encrypted.
    Socket,
}

impl Transport {
    /// Scheme of the URLs that are asked for.
    pub const fn scheme(self) -> &'static str {
        match self {
            Self::Tls | Self::Records => "https",
            Self::Socket => "http",
        }
    }
}

/// One connection of one process, unique for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    pub pid: Pid,
    pub transport: Transport,
    /// Address of the TLS object, or of the context that seals; cookie of the socket.
    pub object: u64,
    /// Boot-clock nanoseconds of its first sight: the address is used again after the object was freed.
    pub born: u64,
}

impl ConnectionId {
    /// Some connection of the process, of which nothing more is known.
    pub const fn unknown(pid: Pid) -> Self {
        Self { pid, transport: Transport::Tls, object: 0, born: 0 }
    }
}

/// What the gate did with a request that starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It took a credit and is on its way.
    Credited,
    /// There was no credit: the process is stopped before the first byte left.
    Held,
    /// There was no credit and the process could not be stopped: the request is on its way.
    Escaped,
    /// There was no credit and no daemon, and the task's policy is to go on: the request is on its way.
    Unattended,
}

/// Bytes in the memory of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Whole {
    pub address: u64,
    /// Of all of it.
    pub len: u32,
    /// Where it lies in pieces, how many there are: at the address are as many `struct iovec` (readv(2)).
    pub pieces: Option<NonZeroU32>,
    /// The descriptor that it is written to, where that is a socket.
    pub fd: Option<i32>,
}

/// What happened in a task's process. Times are boot-clock nanoseconds.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    Data {
        connection: ConnectionId,
        slot: Slot,
        direction: Direction,
        offset: StreamOffset,
        bytes: &'a [u8],
    },
    /// `starts` requests are about to leave in one write; `head` has its first bytes where it was stopped.
    RequestStart {
        connection: ConnectionId,
        slot: Slot,
        admission: Admission,
        starts: u16,
        head: &'a [u8],
        /// All of what is to be written, in the memory of the process.
        whole: Whole,
    },
    /// The body of a request is about to leave in a write of its own; the process is stopped in front of it.
    Body {
        connection: ConnectionId,
        slot: Slot,
        whole: Whole,
    },
    Closed {
        connection: ConnectionId,
    },
    Forked {
        slot: Slot,
        parent: Pid,
        child: Pid,
    },
    Executed {
        slot: Slot,
        pid: Pid,
        path: &'a [u8],
    },
    /// The first thread of a process ended; others may still run.
    Exited {
        slot: Slot,
        pid: Pid,
    },
    /// A process mapped code of a file that nobody has looked at. One of a task `waits`, stopped, until somebody has.
    Mapped {
        pid: Pid,
        slot: Option<Slot>,
        mapping: Mapping,
        waits: bool,
    },
    /// A cgroup was made. Paths are from the root of the hierarchy; one that fills the record may be longer.
    CgroupMade {
        path: &'a [u8],
    },
    /// A process of a task was moved, or one was moved into a labelled cgroup.
    CgroupMove {
        pid: Pid,
    },
    /// A process reaches for what is not its task's; `detail` is the address of a Unix socket.
    Reached {
        slot: Slot,
        pid: Pid,
        reach: Reach,
        detail: &'a [u8],
    },
    /// A piece of the beginning of what a socket sends, whoever encrypted it; of QUIC, a datagram.
    Hello {
        cookie: u64,
        slot: Slot,
        pid: Pid,
        /// Of its first byte, from the beginning.
        offset: u64,
        bytes: &'a [u8],
        is_quic: bool,
    },
    /// What has passed on a socket by now.
    Traffic {
        cookie: u64,
        socket: Socket,
        is_over: bool,
        /// It sends what cannot be read, and is kept from it.
        is_stopped: bool,
    },
}

/// What a process of a task does to have others act for it, or to get at the daemon. Process ids and descriptors are those of its own namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// It was stopped, and somebody else has woken it: it sends.
    Woken,
    /// It attaches to a process as a debugger does.
    Trace { target: Pid },
    /// It writes into the memory of a process.
    Write { target: Pid },
    /// It takes a descriptor of the process behind this one.
    Take { pidfd: u32 },
    /// It asks for eBPF objects of others, or changes them.
    Bpf { command: u32 },
    /// It has the kernel encrypt what it sends.
    KernelTls,
    /// It makes code of a file writable.
    Code,
    /// It connects to a Unix socket.
    Unix,
    /// It changes the label of a cgroup, or tries to.
    Label,
    /// It sets the clock, or tries to.
    Clock,
    /// It sends this signal to the daemon.
    Daemon { signal: u32 },
    /// It hands a socket to a process that is in another task or none; `receiver` is 0 where the kernel does not say whom. A TCP connection sends
    /// nothing from now on.
    Hand { receiver: Pid, is_connection: bool },
}

impl Reach {
    fn of(header: &Header) -> Option<Self> {
        let object = u32::try_from(header.offset).unwrap_or_default();
        let detail = u32::try_from(header.connection_born).unwrap_or(u32::MAX);
        Some(match header.wanted {
            REACH_WOKEN => Self::Woken,
            REACH_TRACE => Self::Trace { target: object },
            REACH_WRITE => Self::Write { target: object },
            REACH_TAKE => Self::Take { pidfd: object },
            REACH_BPF => Self::Bpf { command: object },
            REACH_UNIX => Self::Unix,
            REACH_DAEMON => Self::Daemon { signal: detail },
            REACH_KTLS => Self::KernelTls,
            REACH_TEXT => Self::Code,
            REACH_LABEL => Self::Label,
            REACH_CLOCK => Self::Clock,
            REACH_HAND => Self::Hand { receiver: object, is_connection: detail != 0 },
            _ => return None,
        })
    }
}

/// Code of a file in an address space. All zero where the kernel could not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    pub file: FileKey,
}

impl Mapping {
    /// Any of those that a process has.
    pub const UNKNOWN: Self = Self { start: 0, end: 0, file: FileKey { inode: 0, device: 0, generation: 0 } };
}

impl<'a> Event<'a> {
    /// Reads a record; `None` for a kind that this daemon does not know.
    pub fn parse(record: &'a [u8]) -> Option<(Self, u64)> {
        let header = header(record)?;
        let payload = record.get(size_of::<Header>()..).unwrap_or_default();
        let payload = payload.get(..usize::try_from(header.len).ok()?).unwrap_or(payload);
        let slot = Slot(header.slot);
        let transport = match header.flags {
            flags if flags & FLAG_SOCKET != 0 => Transport::Socket,
            flags if flags & FLAG_RECORDS != 0 => Transport::Records,
            _ => Transport::Tls,
        };
        let connection =
            ConnectionId { pid: header.tgid, transport, object: header.object, born: header.connection_born };
        let event = match header.kind {
            KIND_DATA => Event::Data {
                connection,
                slot,
                direction: if header.flags & FLAG_SENT != 0 { Direction::Request } else { Direction::Response },
                offset: StreamOffset(header.offset),
                bytes: payload,
            },
            KIND_START => {
                let admission = if header.flags & FLAG_CREDITED != 0 {
                    Admission::Credited
                } else if header.flags & FLAG_HELD != 0 && header.flags & FLAG_SIGNAL_FAILED == 0 {
                    Admission::Held
                } else if header.flags & FLAG_UNATTENDED != 0 {
                    Admission::Unattended
                } else {
                    Admission::Escaped
                };
                let address = u64::from(header.address_high) << 32 | u64::from(header.generation);
                let is_socket = transport == Transport::Socket;
                let (pieces, fd) = ((header.offset >> 32) as u32, header.offset & 0xffff_ffff);
                let pieces = NonZeroU32::new(pieces).filter(|_| is_socket);
                let fd = i32::try_from(fd).ok().filter(|_| is_socket);
                let whole = Whole { address, len: header.wanted, pieces, fd };
                if header.flags & FLAG_BODY == 0 {
                    Event::RequestStart { connection, slot, admission, starts: header.starts, head: payload, whole }
                } else if admission == Admission::Held {
                    Event::Body { connection, slot, whole }
                } else {
                    return None;
                }
            }
            KIND_CLOSE => Event::Closed { connection },
            KIND_FORK => {
                Event::Forked { slot, parent: u32::try_from(header.object).unwrap_or_default(), child: header.tgid }
            }
            KIND_EXEC => Event::Executed { slot, pid: header.tgid, path: payload },
            KIND_HELLO => Event::Hello {
                cookie: header.object,
                slot,
                pid: header.tgid,
                offset: header.offset,
                bytes: payload,
                is_quic: header.flags & FLAG_QUIC != 0,
            },
            KIND_TRAFFIC => Event::Traffic {
                cookie: header.object,
                socket: socket(payload)?,
                is_over: header.flags & FLAG_OVER != 0,
                is_stopped: header.flags & FLAG_STOPPED != 0,
            },
            KIND_EXIT => Event::Exited { slot, pid: header.tgid },
            KIND_MAPPED => Event::Mapped {
                pid: header.tgid,
                slot: (header.slot != NO_TASK).then_some(slot),
                mapping: Mapping {
                    start: header.object,
                    end: header.offset,
                    file: FileKey {
                        inode: header.connection_born,
                        device: header.wanted,
                        generation: header.generation,
                    },
                },
                waits: header.flags & FLAG_WAITS != 0,
            },
            KIND_CGROUP_MADE => Event::CgroupMade { path: payload },
            KIND_CGROUP_MOVE => Event::CgroupMove { pid: header.tgid },
            KIND_REACH => Event::Reached { slot, pid: header.tgid, reach: Reach::of(&header)?, detail: payload },
            _ => return None,
        };
        Some((event, header.time))
    }
}

fn socket(payload: &[u8]) -> Option<Socket> {
    if payload.len() < size_of::<Socket>() {
        return None;
    }
    // SAFETY: the payload has at least the size of a `Socket`, which is plain integers; unaligned reads are allowed here.
    Some(unsafe { payload.as_ptr().cast::<Socket>().read_unaligned() })
}

fn header(record: &[u8]) -> Option<Header> {
    if record.len() < size_of::<Header>() {
        return None;
    }
    // SAFETY: the record has at least the size of a `Header`, which is plain integers; unaligned reads are allowed here.
    Some(unsafe { record.as_ptr().cast::<Header>().read_unaligned() })
}
