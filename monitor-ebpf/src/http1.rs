//! The requests of an HTTP/1 connection, followed by their framing (RFC 9112 §6): several may lie in one write, and none needs to begin with one.
//!
//! Of heads only what says how long a body is gets read. Who reads them may understand a malformed one otherwise; so a write that begins with a
//! method counts as well, whatever is thought to go on.

use monitor_common::PROTOCOL_HTTP1;

use crate::requests::{Walker, read_user};

/// Set beside the state in `Walk::have`: a head has come whose body will come in a write of its own.
pub const HEAD_ALONE: u32 = 1 << 16;
/// The head says that its body is chunked.
const CHUNKED: u32 = 1 << 17;

/// States, in the lowest byte of `Walk::have`. `Walk::seen` has the length that is being read.
const STATE: u32 = 0xff;
/// Where a request may begin. The byte above the state counts the letters of its method.
pub const START: u32 = 0;
/// A line of a head of which nothing more is wanted.
const LINE: u32 = 1;
/// The beginning of a line of a head. The byte above counts the letters of a wanted name.
const NAME: u32 = 2;
/// After a carriage return at the beginning of a line of a head.
const LAST: u32 = 3;
/// The value of `Content-Length`.
const LENGTH: u32 = 4;
/// The name of the other wanted field, `Transfer-Encoding`.
const CODING: u32 = 5;
/// The size of a chunk.
const SIZE: u32 = 6;
/// What follows the size on its line.
const EXTENSION: u32 = 7;
/// Fields after the last chunk. The byte above says whether the line has anything in it.
const TRAILER: u32 = 8;
/// It is not known where the next request may begin, other than with a write.
pub const LOST: u32 = 9;

const COUNT: u32 = 1 << 8;
const COUNTED: u32 = 0xff << 8;

/// Longer than any that is registered; who serves requests may take others.
const LONGEST_METHOD: u32 = 32;
const CONTENT_LENGTH: &[u8; 16] = b"content-length:\0";
const TRANSFER_ENCODING: &[u8; 18] = b"transfer-encoding:";

impl Walker {
    /// A request begins where the walker stands.
    #[inline(always)]
    pub fn begin_http1(&mut self) {
        (self.walk.protocol, self.walk.left, self.walk.seen, self.walk.have) = (PROTOCOL_HTTP1, 0, 0, LINE);
    }

    /// Goes one byte on, or several that tell nothing.
    #[inline(always)]
    pub fn http1_step(&mut self) {
        let state = self.walk.have & STATE;
        if state == LOST {
            return self.advance(self.left);
        }
        if state == LINE && self.left >= 8 && !has_newline(read_user::<u64>(self.buffer)) {
            return self.advance(8);
        }
        let byte = read_user::<u8>(self.buffer);
        self.advance(1);
        match state {
            START => self.method(byte),
            NAME => self.name(byte, false),
            CODING => self.name(byte, true),
            LAST => {
                if byte == b'\n' {
                    self.head_ends()
                } else {
                    self.go(LINE)
                }
            }
            LENGTH => self.length(byte),
            SIZE => self.size(byte),
            EXTENSION => {
                if byte == b'\n' {
                    self.size_ends()
                }
            }
            TRAILER => self.trailer(byte),
            _ => {
                if byte == b'\n' {
                    self.go(NAME)
                }
            }
        }
    }

    /// Another state, with nothing counted.
    #[inline(always)]
    fn go(&mut self, state: u32) {
        self.walk.have = (self.walk.have & !(STATE | COUNTED)) | state;
    }

    #[inline(always)]
    fn counted(&self) -> u32 {
        (self.walk.have & COUNTED) >> 8
    }

    #[inline(always)]
    fn method(&mut self, byte: u8) {
        let letters = self.counted();
        if byte.is_ascii_uppercase() && letters < LONGEST_METHOD {
            self.walk.have += COUNT;
        } else if byte == b' ' && letters >= 3 {
            self.start(self.at - 1 - u64::from(letters));
            self.walk.have &= HEAD_ALONE;
            self.walk.seen = 0;
            self.go(LINE);
        } else if letters > 0 || (byte != b'\r' && byte != b'\n') {
            self.go(LOST);
        }
    }

    /// A letter of a field's name, or the empty line.
    #[inline(always)]
    fn name(&mut self, byte: u8, is_coding: bool) {
        let at = self.counted();
        if at == 0 && !is_coding {
            match byte {
                b'\r' => return self.go(LAST),
                b'\n' => return self.head_ends(),
                b't' | b'T' => {
                    self.go(CODING);
                    self.walk.have += COUNT;
                    return;
                }
                _ => {}
            }
        }
        let (wanted, last) = if is_coding {
            (letter(TRANSFER_ENCODING, at), TRANSFER_ENCODING.len() as u32 - 1)
        } else {
            (letter(CONTENT_LENGTH, at), CONTENT_LENGTH.len() as u32 - 2)
        };
        if byte.to_ascii_lowercase() != wanted {
            self.go(if byte == b'\n' { NAME } else { LINE });
        } else if at < last {
            self.walk.have += COUNT;
        } else if is_coding {
            // Whatever else it says: a coding whose end is not said by chunks ends with the connection, and then no request follows.
            self.walk.have |= CHUNKED;
            self.go(LINE);
        } else {
            self.walk.seen = 0;
            self.go(LENGTH);
        }
    }

    #[inline(always)]
    fn length(&mut self, byte: u8) {
        match byte {
            b'0'..=b'9' if self.walk.seen < u64::MAX / 16 => {
                self.walk.seen = self.walk.seen * 10 + u64::from(byte - b'0');
            }
            b'\n' => self.go(NAME),
            _ => {}
        }
    }

    #[inline(always)]
    fn head_ends(&mut self) {
        if self.walk.have & CHUNKED != 0 {
            self.walk.have &= !CHUNKED;
            self.go(SIZE);
        } else {
            self.walk.left = self.walk.seen;
            self.go(START);
        }
        self.walk.seen = 0;
    }

    #[inline(always)]
    fn size(&mut self, byte: u8) {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\n' => return self.size_ends(),
            _ => return self.go(EXTENSION),
        };
        if self.walk.seen < u64::MAX / 32 {
            self.walk.seen = self.walk.seen * 16 + u64::from(digit);
        }
    }

    #[inline(always)]
    fn size_ends(&mut self) {
        if self.walk.seen == 0 {
            return self.go(TRAILER);
        }
        // With the end of its line.
        self.walk.left = self.walk.seen + 2;
        self.walk.seen = 0;
        self.go(SIZE);
    }

    #[inline(always)]
    fn trailer(&mut self, byte: u8) {
        match byte {
            b'\r' => {}
            b'\n' if self.counted() == 0 => self.go(START),
            b'\n' => self.go(TRAILER),
            _ => self.walk.have = (self.walk.have & !COUNTED) | COUNT,
        }
    }
}

/// Whether a request may begin, or has begun with letters of its method.
#[inline(always)]
pub fn is_start(have: u32) -> bool {
    have & STATE == START
}

/// A letter of a name; nothing is like what is behind its end.
#[inline(always)]
fn letter<const N: usize>(name: &'static [u8; N], at: u32) -> u8 {
    if (at as usize) < N { name[at as usize] } else { 0 }
}

/// Whether one of eight bytes is a newline.
#[inline(always)]
fn has_newline(word: u64) -> bool {
    let zero = word ^ 0x0a0a_0a0a_0a0a_0a0a;
    zero.wrapping_sub(0x0101_0101_0101_0101) & !zero & 0x8080_8080_8080_8080 != 0
}
