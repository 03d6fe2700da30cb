//! What is known of the sockets of tasks, whoever encrypts what passes through them.

/// Bytes of a connection's beginning that are copied: enough for a `ClientHello` with keys of any kind, and what may come before it.
pub const HELLO_BYTES: u32 = 8 * 1024;
/// The same where the beginning is not TLS.
pub const HELLO_BYTES_PLAIN: u32 = 512;
/// Datagrams with the beginning of a QUIC connection that are copied.
pub const HELLO_DATAGRAMS: u32 = 4;

/// [`KIND_HELLO`](crate::KIND_HELLO): it is a datagram, the beginning of a QUIC connection.
pub const FLAG_QUIC: u8 = 1;
/// [`KIND_TRAFFIC`](crate::KIND_TRAFFIC): the connection is over.
pub const FLAG_OVER: u8 = 1;
/// [`KIND_TRAFFIC`](crate::KIND_TRAFFIC): what it wants to send is kept from leaving: it cannot be read, and its task may send no such thing.
pub const FLAG_STOPPED: u8 = 2;

/// What a socket speaks.
pub const SPEAKS_UNKNOWN: u32 = 0;
/// Something without records: plaintext, or what comes before TLS.
pub const SPEAKS_PLAIN: u32 = 1;
pub const SPEAKS_TLS: u32 = 2;
/// TLS, but where its records begin is no longer known: bytes are counted, records are not.
pub const SPEAKS_TLS_LOST: u32 = 3;
pub const SPEAKS_QUIC: u32 = 4;

/// [`Socket::seen`]: a packet with data has left.
pub const SEEN_SENT: u32 = 1;
/// One has come.
pub const SEEN_RECEIVED: u32 = 2;
/// The first encrypted record of TLS 1.3 has left: the end of the handshake.
pub const SEEN_FINISHED: u32 = 4;
/// Handshake records are seen after the first one, as only TLS 1.2 and older send them.
pub const SEEN_TLS12: u32 = 8;
/// A handshake record has left.
pub const SEEN_HANDSHAKE: u32 = 16;

/// A socket of a task. Bytes are those of the transport's payload, each counted once however often it is sent.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Socket {
    /// Boot-clock nanoseconds of its first sight: with the cookie, unique for ever.
    pub born: u64,
    pub sent: u64,
    pub received: u64,
    /// Bytes of application data in what was sent, without what encryption adds, as far as its records tell.
    pub application: u64,
    /// Those of them that were handed to a probed function before.
    pub readable: u64,
    /// Boot-clock nanoseconds of the first record with application data; 0: there was none.
    pub first_application: u64,
    /// What had been received by then: answers of the handshake.
    pub received_before: u64,
    /// Bytes of the current record's header that have left, the first one lowest.
    pub header: u64,
    /// How many.
    pub have: u32,
    /// Bytes of the current record that have not left.
    pub left: u32,
    /// The next sequence number in each direction.
    pub next_sent: u32,
    pub next_received: u32,
    pub slot: u32,
    pub tgid: u32,
    /// One of the `SPEAKS_*`.
    pub speaks: u32,
    /// Of the `SEEN_*`.
    pub seen: u32,
    /// Bytes (of QUIC, datagrams) of the beginning that were copied.
    pub copied: u32,
    /// Where it goes to, in the order of the network.
    pub port: u32,
    /// An IPv4 address in the first word, and 0 in the others; or an IPv6 address.
    pub address: [u32; 4],
    /// 4 or 6; 0 as long as no packet has left.
    pub version: u32,
    /// 1: its data is kept from leaving.
    pub stopped: u32,
    /// While a packet is looked at: where in it, where it ends, and the application data in it.
    pub at: u32,
    pub end: u32,
    pub found: u32,
    /// Whose account of plaintext it draws on: see [`Readable`].
    pub family: u32,
}

/// Plaintext that a family of processes has handed to TLS functions: those that were forked from one another without executing another program
/// since, and so may share TLS connections. It has the id of the first of them.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Readable {
    /// Bytes that have not left on a socket yet.
    pub waiting: i64,
    /// All of them.
    pub written: u64,
}

/// A destination that a process may not connect to any more.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Destination {
    pub tgid: u32,
    /// In the order of the network, as in [`Socket`].
    pub port: u32,
    pub address: [u32; 4],
}

/// What is done in the kernel about application data that cannot be read: nothing.
pub const UNREADABLE_PASSES: u32 = 0;
/// It is kept from leaving.
pub const UNREADABLE_STOPS: u32 = 1;
