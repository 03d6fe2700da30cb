//! The requests of an HTTP/1 connection, followed by their framing (RFC 9112 §6): several may lie in one write, and none needs to begin with one.
//!
//! Of heads only what says how long a body is gets read. Who reads them may understand a malformed one otherwise; so a write that begins with a
//! method counts as well, whatever is thought to go on.
//!
//! **In doubt**, all counts. Where a head does not say how long its body is in the one way that everybody understands alike (RFC 9112 §6.3: one `Content-Length` of
//! digits, or one `Transfer-Encoding: chunked`), servers differ in where the next request begins. From there on each write of the connection is a
//! request, and everything in it that looks like the beginning of one is another. No client that means well sends such a head.

use monitor_common::{PROTOCOL_HTTP1, PROTOCOL_UNKNOWN};

use crate::requests::{Walker, read_user};

/// Set beside the state in `Walk::have`: a head has come whose body will come in a write of its own.
pub const HEAD_ALONE: u32 = 1 << 16;
/// The head says that its body is chunked.
const CHUNKED: u32 = 1 << 17;
/// The head says how long its body is.
const MEASURED: u32 = 1 << 18;
/// The head can be understood in more than one way.
const DOUBTFUL: u32 = 1 << 19;

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
/// The value of `Content-Length`. The byte above: 0 before its digits, 1 among them, 2 after them.
const LENGTH: u32 = 4;
/// The name of the other wanted field, `Transfer-Encoding`.
const CODING: u32 = 5;
/// The size of a chunk. The byte above says whether a digit has come.
const SIZE: u32 = 6;
/// What follows the size on its line.
const EXTENSION: u32 = 7;
/// Fields after the last chunk. The byte above says whether the line has anything in it.
const TRAILER: u32 = 8;
/// It is not known where the next request may begin, other than with a write.
pub const LOST: u32 = 9;
/// The value of `Transfer-Encoding`. The byte above counts the letters of the only one that is wanted.
const VALUE: u32 = 10;
/// The end of the line after a chunk. The byte above says whether its carriage return has come.
const CHUNK_END: u32 = 11;
/// Requests may begin anywhere. The byte above counts capital letters.
const DOUBT: u32 = 12;
/// The method at the beginning of a connection of which it is not known whether it speaks HTTP.
pub const FIRST_METHOD: u32 = 13;
/// The beginning of what it asks for: a path, or the scheme of a URL, whose letters the byte above counts.
const FIRST_TARGET: u32 = 14;

const COUNT: u32 = 1 << 8;
const COUNTED: u32 = 0xff << 8;

/// Longer than any that is registered; who serves requests may take others.
const LONGEST_METHOD: u32 = 32;
const CONTENT_LENGTH: &[u8; 16] = b"content-length:\0";
const TRANSFER_ENCODING: &[u8; 18] = b"transfer-encoding:";
const ABSOLUTE: &[u8; 5] = b"http\0";
const ONLY_CODING: &[u8; 8] = b"chunked\0";
/// Fewer bytes than the shortest request has, and most requests that are taken to lie in what was not followed.
const SHORTEST: u64 = 16;
const MOST_UNSEEN: u64 = 1000;

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
        if state == DOUBT && self.counted() == 0 && self.left >= 8 && !has_capital(read_user::<u64>(self.buffer)) {
            return self.advance(8);
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
                    self.doubt_head();
                    self.go(LINE)
                }
            }
            LENGTH => self.length(byte),
            VALUE => self.value(byte),
            SIZE => self.size(byte),
            CHUNK_END => self.chunk_ends(byte),
            DOUBT => self.search(byte),
            FIRST_METHOD => self.first_method(byte),
            FIRST_TARGET => self.first_target(byte),
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

    /// The head that is being read can be understood in more than one way.
    #[inline(always)]
    fn doubt_head(&mut self) {
        self.walk.have |= DOUBTFUL;
    }

    /// From here on requests may begin anywhere.
    #[inline(always)]
    fn doubt(&mut self) {
        (self.walk.left, self.walk.seen) = (0, 0);
        self.walk.have = DOUBT;
    }

    /// Whether requests may begin anywhere on the connection.
    #[inline(always)]
    pub fn is_in_doubt(&self) -> bool {
        self.walk.protocol == PROTOCOL_HTTP1 && self.walk.have & STATE == DOUBT
    }

    /// More has been written at once than is followed, and where the next frame or request begins is not known: it is taken to be full of them.
    #[inline(always)]
    pub fn give_up(&mut self) {
        let unseen = 1 + self.left / SHORTEST;
        self.starts += if unseen > MOST_UNSEEN { MOST_UNSEEN } else { unseen } as u32;
        self.credited_to = self.at + self.left;
        self.walk.protocol = PROTOCOL_HTTP1;
        self.doubt();
    }

    #[inline(always)]
    fn method(&mut self, byte: u8) {
        let letters = self.counted();
        if is_of_token(byte) && letters < LONGEST_METHOD {
            self.walk.have += COUNT;
        } else if byte == b' ' && letters > 0 {
            self.start(self.at - 1 - u64::from(letters));
            self.walk.have &= HEAD_ALONE;
            self.walk.seen = 0;
            self.go(LINE);
        } else if letters > 0 || (byte != b'\r' && byte != b'\n') {
            self.go(LOST);
        }
    }

    #[inline(always)]
    fn first_method(&mut self, byte: u8) {
        if is_of_token(byte) && self.counted() < LONGEST_METHOD {
            self.walk.have += COUNT;
        } else if byte == b' ' {
            self.go(FIRST_TARGET);
        } else {
            self.is_not_http();
        }
    }

    #[inline(always)]
    fn first_target(&mut self, byte: u8) {
        let letters = self.counted();
        let all = ABSOLUTE.len() as u32 - 1;
        if letters == 0 && matches!(byte, b'/' | b'*') || letters == all && matches!(byte, b':' | b's' | b'S') {
            self.start(self.at - 1);
            self.go(LINE);
        } else if letters < all && byte.to_ascii_lowercase() == letter(ABSOLUTE, letters) {
            self.walk.have += COUNT;
        } else {
            self.is_not_http();
        }
    }

    #[inline(always)]
    fn is_not_http(&mut self) {
        self.walk.protocol = PROTOCOL_UNKNOWN;
        (self.walk.have, self.walk.seen, self.left) = (0, 0, 0);
    }

    /// A write has ended in which it could not be told whether HTTP is spoken.
    #[inline(always)]
    pub fn forget_first(&mut self) {
        let state = self.walk.have & STATE;
        if self.walk.protocol == PROTOCOL_HTTP1 && (state == FIRST_METHOD || state == FIRST_TARGET) {
            self.is_not_http();
        }
    }

    /// Looks for a method that no one can be sure is none.
    #[inline(always)]
    fn search(&mut self, byte: u8) {
        let letters = self.counted();
        if byte.is_ascii_uppercase() {
            if letters < LONGEST_METHOD {
                self.walk.have += COUNT;
            }
            return;
        }
        if byte == b' ' && letters >= 3 {
            self.start(self.at - 1);
        }
        self.walk.have = DOUBT;
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
                // Some take it for a part of the line before (RFC 9112 §5.2).
                b' ' | b'\t' => self.doubt_head(),
                _ => {}
            }
        }
        let (wanted, last) = if is_coding {
            (letter(TRANSFER_ENCODING, at), TRANSFER_ENCODING.len() as u32 - 1)
        } else {
            (letter(CONTENT_LENGTH, at), CONTENT_LENGTH.len() as u32 - 2)
        };
        if byte.to_ascii_lowercase() != wanted {
            if at == last && byte != b'\n' {
                // Anything between the name and its colon (RFC 9112 §5.1).
                self.doubt_head();
            }
            self.go(if byte == b'\n' { NAME } else { LINE });
        } else if at < last {
            self.walk.have += COUNT;
        } else {
            if self.walk.have & (CHUNKED | MEASURED) != 0 {
                // It says so twice.
                self.doubt_head();
            }
            if is_coding {
                self.walk.have |= CHUNKED;
                self.go(VALUE);
            } else {
                self.walk.have |= MEASURED;
                self.walk.seen = 0;
                self.go(LENGTH);
            }
        }
    }

    #[inline(always)]
    fn length(&mut self, byte: u8) {
        let part = self.counted();
        match byte {
            b'0'..=b'9' if part < 2 && self.walk.seen < u64::MAX / 16 => {
                self.walk.seen = self.walk.seen * 10 + u64::from(byte - b'0');
                self.go(LENGTH);
                self.walk.have |= COUNT;
            }
            b' ' | b'\t' | b'\r' => {
                if part == 1 {
                    self.walk.have += COUNT;
                }
            }
            b'\n' => {
                if part == 0 {
                    self.doubt_head();
                }
                self.go(NAME);
            }
            _ => {
                self.doubt_head();
                self.go(LINE);
            }
        }
    }

    #[inline(always)]
    fn value(&mut self, byte: u8) {
        let letters = self.counted();
        let all = ONLY_CODING.len() as u32 - 1;
        if byte == b'\n' {
            if letters != all {
                self.doubt_head();
            }
            self.go(NAME);
        } else if letters < all && byte.to_ascii_lowercase() == letter(ONLY_CODING, letters) {
            self.walk.have += COUNT;
        } else if !(matches!(byte, b' ' | b'\t') && (letters == 0 || letters == all) || byte == b'\r' && letters == all)
        {
            self.doubt_head();
            self.go(LINE);
        }
    }

    #[inline(always)]
    fn head_ends(&mut self) {
        let said = self.walk.have;
        self.walk.have &= !(CHUNKED | MEASURED | DOUBTFUL);
        if said & DOUBTFUL != 0 {
            return self.doubt();
        }
        if said & CHUNKED != 0 {
            self.go(SIZE);
        } else {
            self.walk.left = self.walk.seen;
            self.go(START);
        }
        self.walk.seen = 0;
    }

    #[inline(always)]
    fn size(&mut self, byte: u8) {
        let has_digits = self.counted() != 0;
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            b'\n' if has_digits => return self.size_ends(),
            b'\r' | b';' | b' ' | b'\t' if has_digits => return self.go(EXTENSION),
            _ => return self.doubt(),
        };
        if self.walk.seen >= u64::MAX / 32 {
            return self.doubt();
        }
        self.walk.seen = self.walk.seen * 16 + u64::from(digit);
        self.walk.have |= COUNT;
    }

    #[inline(always)]
    fn size_ends(&mut self) {
        if self.walk.seen == 0 {
            return self.go(TRAILER);
        }
        self.walk.left = self.walk.seen;
        self.walk.seen = 0;
        self.go(CHUNK_END);
    }

    #[inline(always)]
    fn chunk_ends(&mut self, byte: u8) {
        let has_return = self.counted() != 0;
        if byte == b'\r' && !has_return {
            self.walk.have |= COUNT;
        } else if byte == b'\n' && has_return {
            self.go(SIZE);
        } else {
            self.doubt();
        }
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

/// Whether it may be a part of a method (RFC 9110 §5.6.2).
#[inline(always)]
pub fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// Whether one of eight bytes is a capital letter.
#[inline(always)]
fn has_capital(word: u64) -> bool {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let low = word & !HIGH;
    // The highest bit of each byte: whether it is `A` or more, and more than `Z`.
    let (from_a, past_z) = (low + 0x3f3f_3f3f_3f3f_3f3f, low + 0x2525_2525_2525_2525);
    from_a & !past_z & !word & HIGH != 0
}

/// Whether one of eight bytes is a newline.
#[inline(always)]
fn has_newline(word: u64) -> bool {
    let zero = word ^ 0x0a0a_0a0a_0a0a_0a0a;
    zero.wrapping_sub(0x0101_0101_0101_0101) & !zero & 0x8080_8080_8080_8080 != 0
}
