//! Where requests start in what a client writes.
//!
//! HTTP/1: where a write begins with a method, and wherever another one follows the body of the one before (`http1.rs`). HTTP/2: with each `HEADERS` frame,
//! wherever it lies; frames are followed across writes. WebSocket: with each data message. What is found here decides about credits only; user space reads the bytes properly.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_loop, bpf_probe_read_user};
use monitor_common::{Connection, PROTOCOL_HTTP1, PROTOCOL_HTTP2, PROTOCOL_UNKNOWN, PROTOCOL_WEBSOCKET, Walk};

use crate::{http1, maps::count};

/// Steps of one walk: a frame takes one for its payload and one for each byte of its header that is looked at.
const STEPS: u32 = 16_384;
/// Bytes that tell what a connection speaks.
const FIRST: u32 = 8;
/// Bytes of HTTP/2's connection preface (RFC 9113 §3.4).
const PREFACE: u64 = 24;
/// Bytes of an HTTP/2 frame header up to and with the type, and after it (RFC 9113 §4.1).
const H2_HEAD: u32 = 4;
const H2_REST: u64 = 5;
const H2_HEADERS: u64 = 1;
/// Bytes of a client's mask (RFC 6455 §5.2).
const MASK: u64 = 4;

/// A walk over one write.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Walker {
    pub walk: Walk,
    pub buffer: u64,
    pub left: u64,
    /// Offset in what was sent of the next byte.
    pub at: u64,
    /// Up to here requests have their credits; after the walk, with those found in it.
    pub credited_to: u64,
    /// Requests that start and have no credit yet.
    pub starts: u32,
    /// 1: the body of a request starts whose head came in a write before.
    pub body: u32,
    /// 1: the write could not be read.
    pub unread: u32,
    reserved: u32,
}

impl Walker {
    /// Follows `len` bytes at `buffer` of the current process, which come next on the connection.
    #[inline(always)]
    pub fn follow(&mut self, connection: &Connection, buffer: u64, len: u64) {
        (self.walk, self.at, self.credited_to) = (connection.walk, connection.sent, connection.credited_to);
        (self.buffer, self.left, self.starts, self.body) = (buffer, len, 0, 0);
        self.unread = 0;
        // What is spoken can be told at the beginning of a connection or, where that was not seen, of a write.
        let protocol = self.walk.protocol;
        if protocol == PROTOCOL_HTTP1 || (protocol == PROTOCOL_UNKNOWN && self.walk.have == 0 && len >= 8) {
            // Shorter ones hold no request line; and what lies after them may not be there.
            let word = if len >= 8 { word_at(buffer) } else { Some(0) };
            match word {
                // Wherever it begins, a request may be in it.
                Some(_) if self.is_in_doubt() => self.start(self.at),
                Some(word) => self.begin(word, len),
                // What cannot be read now is there when it is sent: user space may bring memory when somebody asks for it.
                None if self.walk.left == 0 => self.begin_unread(),
                None => {}
            }
        }
        if self.left == 0 {
            return;
        }
        let mut place = Place(self);
        // SAFETY: the callback takes exactly this context, which outlives the call.
        unsafe { bpf_loop(STEPS, step as *mut c_void, (&raw mut place).cast(), 0) };
        if self.left > 0 {
            count(|c| c.unwalked_bytes += self.left);
            self.give_up();
        }
        self.forget_first();
    }

    /// It may be a request, so it counts as one. When it has been sent it is followed again.
    #[inline(always)]
    fn begin_unread(&mut self) {
        self.start(self.at);
        (self.left, self.unread) = (0, 1);
    }

    /// Looks at the first bytes of a write.
    #[inline(always)]
    fn begin(&mut self, word: u64, len: u64) {
        let is_first = self.walk.protocol == PROTOCOL_UNKNOWN;
        if starts_request(word, len) || (is_first && starts_long_method(word)) {
            // Also where a body is said to go on: whoever reads it may think otherwise.
            self.start(self.at);
            self.begin_http1();
            // Whether a head is to have a body that has not come.
            if may_have_body(word) && read_user::<u32>(self.buffer + len - 4) == HEAD_END {
                self.walk.have |= http1::HEAD_ALONE;
            }
        } else if self.walk.protocol == PROTOCOL_HTTP1 {
            if self.walk.have & http1::HEAD_ALONE != 0 && self.at >= self.credited_to {
                (self.credited_to, self.body) = (self.at + 1, 1);
            }
            self.walk.have &= !http1::HEAD_ALONE;
            if self.walk.have == http1::LOST && is_line_end(word as u8) {
                self.walk.have = http1::START;
            }
        } else if self.walk.protocol == PROTOCOL_UNKNOWN {
            if is_preface(word) {
                self.walk.protocol = PROTOCOL_HTTP2;
                self.walk.left = PREFACE;
            } else if is_line_end(word as u8) {
                self.begin_http1();
                self.walk.have = http1::START;
            } else if is_frame(word) {
                self.walk.protocol = PROTOCOL_HTTP2;
            } else if http1::is_of_token(word as u8) {
                // Methods are whatever their server takes for one.
                self.begin_http1();
                self.walk.have = http1::FIRST_METHOD;
            }
        }
        if self.walk.protocol == PROTOCOL_UNKNOWN {
            self.left = 0;
        }
    }

    #[inline(always)]
    pub fn start(&mut self, at: u64) {
        if at >= self.credited_to {
            self.credited_to = at + 1;
            self.starts += 1;
        }
    }

    /// One byte of a header more.
    #[inline(always)]
    fn header_byte(&mut self, byte: u8) {
        self.walk.seen = (self.walk.seen << 8) | u64::from(byte);
        self.walk.have += 1;
        match self.walk.protocol {
            PROTOCOL_HTTP2 => self.h2_byte(),
            PROTOCOL_WEBSOCKET => self.websocket_byte(),
            _ => self.first_byte(),
        }
    }

    /// The beginning of a connection, in writes shorter than a method.
    #[inline(always)]
    fn first_byte(&mut self) {
        if self.walk.have == 1 && is_line_end(self.walk.seen as u8) {
            self.begin_http1();
            self.walk.have = http1::START;
            return;
        }
        if self.walk.have < FIRST {
            return;
        }
        let word = self.walk.seen.swap_bytes();
        self.walk.have = 0;
        if starts_request(word, u64::from(FIRST)) || starts_long_method(word) {
            self.start(0);
            self.begin_http1();
        } else if is_preface(word) {
            self.walk.protocol = PROTOCOL_HTTP2;
            self.walk.left = PREFACE - u64::from(FIRST);
        }
        if self.walk.protocol == PROTOCOL_UNKNOWN {
            self.left = 0;
        }
    }

    #[inline(always)]
    fn h2_byte(&mut self) {
        if self.walk.have < H2_HEAD {
            return;
        }
        if self.walk.seen & 0xff == H2_HEADERS {
            self.start(self.at - u64::from(H2_HEAD));
        }
        self.walk.left = ((self.walk.seen >> 8) & 0x00ff_ffff) + H2_REST;
        self.walk.have = 0;
    }

    #[inline(always)]
    fn websocket_byte(&mut self) {
        let seen = self.walk.seen;
        let length = match self.walk.have {
            2 => {
                // Text or binary; control frames and continuations start nothing.
                if matches!((seen >> 8) & 0x0f, 1 | 2) {
                    self.start(self.at - 2);
                }
                seen & 0x7f
            }
            4 if (seen >> 16) & 0x7f == 126 => seen & 0xffff,
            10 => seen,
            _ => return,
        };
        if self.walk.have == 2 && length >= 126 {
            return;
        }
        self.walk.left = length.saturating_add(MASK);
        self.walk.have = 0;
    }
}

/// Where the walker of a loop lies: a context must be on the stack.
struct Place(*mut Walker);

/// One step of a walk; 1 ends it.
unsafe extern "C" fn step(_round: u32, context: *mut c_void) -> i64 {
    // SAFETY: called by `Walker::follow` only, with a `Place` on its stack.
    let place = unsafe { &*context.cast::<Place>() };
    // SAFETY: of a walker that nobody else uses until the loop ends.
    let walker = unsafe { &mut *place.0 };
    if walker.left == 0 {
        return 1;
    }
    if walker.walk.left > 0 {
        let skip = if walker.walk.left < walker.left { walker.walk.left } else { walker.left };
        walker.walk.left -= skip;
        walker.advance(skip);
        return 0;
    }
    if walker.walk.protocol == PROTOCOL_HTTP1 {
        walker.http1_step();
        return 0;
    }
    let byte = read_user::<u8>(walker.buffer);
    walker.advance(1);
    walker.header_byte(byte);
    0
}

impl Walker {
    #[inline(always)]
    pub fn advance(&mut self, bytes: u64) {
        self.buffer += bytes;
        self.left -= bytes;
        self.at += bytes;
    }
}

/// Eight bytes at an address of the current process, if they can be read.
#[inline(always)]
pub fn word_at(address: u64) -> Option<u64> {
    try_read(address)
}

/// A value at an address of the current process, if it can be read.
#[inline(always)]
pub fn try_read<T: Default>(address: u64) -> Option<T> {
    let mut value = T::default();
    // SAFETY: the destination has the size of `T`; the helper checks the source.
    let status = unsafe { bpf_probe_read_user((&raw mut value).cast(), size_of::<T>() as u32, address as *const _) };
    (status == 0).then_some(value)
}

/// A value at an address of the current process; zero where it cannot be read.
#[inline(always)]
pub fn read_user<T: Default>(address: u64) -> T {
    let mut value = T::default();
    // SAFETY: the destination has the size of `T`; the helper checks the source.
    let status = unsafe { bpf_probe_read_user((&raw mut value).cast(), size_of::<T>() as u32, address as *const _) };
    if status != 0 {
        count(|c| c.unreadable_buffers += 1);
    }
    value
}

/// Whether it is of an empty line, of which servers let some pass in front of a request (RFC 9112 §2.2).
#[inline(always)]
fn is_line_end(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n'
}

/// Whether `word`, eight bytes in memory order, begins with the first `n` bytes of `text`.
#[inline(always)]
fn is(word: u64, text: &[u8; 8], n: u32) -> bool {
    let mask = if n == 8 { u64::MAX } else { (1u64 << (n * 8)) - 1 };
    u64::from_le_bytes(*text) & mask == word & mask
}

/// Whether the first eight bytes begin an HTTP/1 request: a method, a space and, where there is room for it, the beginning of a path. Any method will do:
/// what a server does not know it answers all the same, and the next request follows.
#[inline(always)]
pub fn starts_request(word: u64, len: u64) -> bool {
    let letters = letters(word);
    len >= 8
        && (begins_listed(word)
            || (3..=6).contains(&letters) && (word >> (letters * 8)) as u16 == u16::from_le_bytes(*b" /"))
}

/// As above, where a method fills them and nothing has been seen before: in the middle of a body they may be anything.
#[inline(always)]
fn starts_long_method(word: u64) -> bool {
    let letters = letters(word);
    letters == 8 || letters == 7 && word >> 56 == u64::from(b' ')
}

/// How many of eight bytes are capital letters before anything else.
#[inline(always)]
fn letters(word: u64) -> u32 {
    let mut letters = 0;
    while letters < 8 && ((word >> (letters * 8)) as u8).is_ascii_uppercase() {
        letters += 1;
    }
    letters
}

/// The methods that clients use, whatever follows them.
#[inline(always)]
pub fn begins_listed(word: u64) -> bool {
    is(word, b"POST \0\0\0", 5)
        || is(word, b"GET \0\0\0\0", 4)
        || is(word, b"PUT \0\0\0\0", 4)
        || is(word, b"PATCH \0\0", 6)
        || is(word, b"HEAD \0\0\0", 5)
        || is(word, b"DELETE \0", 7)
        || is(word, b"OPTIONS ", 8)
        || is(word, b"CONNECT ", 8)
}

/// `\r\n\r\n`
const HEAD_END: u32 = u32::from_le_bytes(*b"\r\n\r\n");

/// Whether the method is one of those whose requests have bodies.
#[inline(always)]
fn may_have_body(word: u64) -> bool {
    is(word, b"POST \0\0\0", 5) || is(word, b"PUT \0\0\0\0", 4) || is(word, b"PATCH \0\0", 6)
}

/// Whether `have` bytes, fewer than tell, may be the beginning of an HTTP request; the latest one is the lowest of `seen`.
#[inline(always)]
pub fn may_begin_request(seen: u64, have: u32) -> bool {
    if !(1..FIRST).contains(&have) {
        return false;
    }
    // In memory order, and after them what would make a request of them.
    let word = (seen << (64 - 8 * have)).swap_bytes();
    letters(word | u64::from_le_bytes(*b"AAAAAAAA") << (8 * have)) == 8
        || starts_request(word | u64::from_le_bytes(*b"////////") << (8 * have), u64::from(FIRST))
        || u64::from_be_bytes(*b"PRI * HT") >> (64 - 8 * have) == seen
}

/// Whether they begin HTTP/2.
#[inline(always)]
pub fn is_preface(word: u64) -> bool {
    is(word, b"PRI * HT", 8)
}

/// Whether they are likely the header of a client's HTTP/2 frame, on a connection that was not seen from its beginning.
#[inline(always)]
fn is_frame(word: u64) -> bool {
    let byte = |index: u32| (word >> (index * 8)) & 0xff;
    let length = (byte(0) << 16) | (byte(1) << 8) | byte(2);
    let is_reserved = byte(5) & 0x80 != 0;
    // The last byte of the stream's number is the ninth.
    let is_high_zero = byte(5) | byte(6) | byte(7) == 0;
    !is_reserved
        && match byte(3) {
            0 | H2_HEADERS => length > 0 && length <= 65_536,
            3 | 8 => length == 4,
            4 => length % 6 == 0 && length < 256 && is_high_zero,
            6 => length == 8 && is_high_zero,
            _ => false,
        }
}

/// Whether they begin an answer that leaves HTTP/1.1 for another protocol.
#[inline(always)]
pub fn is_upgrade(word: u64, rest: u32) -> bool {
    is(word, b"HTTP/1.1", 8) && rest == u32::from_le_bytes(*b" 101")
}
