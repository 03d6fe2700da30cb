//! Frames of HTTP/2 (RFC 9113 §4 and §6).

use crate::wire::Direction;

/// Bytes of a frame's header.
pub const HEADER: usize = 9;
/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Longest frame that is believed where the beginning of a frame is guessed.
const BELIEVED: u32 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Data,
    Headers,
    Priority,
    Reset,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Of an extension: passed over.
    Other(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    pub length: u32,
    pub kind: Kind,
    flags: u8,
    pub stream: u32,
}

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

impl Frame {
    pub fn parse(header: &[u8; HEADER]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = *header;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::Reset,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            other => Kind::Other(other),
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        // The first bit of the stream is reserved.
        Self { length, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    pub fn ends_stream(self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers) && self.flags & END_STREAM != 0
    }

    pub fn is_acknowledgement(self) -> bool {
        matches!(self.kind, Kind::Settings | Kind::Ping) && self.flags & ACK != 0
    }

    /// Whether the peers would take it for a frame.
    pub fn is_valid(self) -> bool {
        match self.kind {
            Kind::Data | Kind::Headers | Kind::PushPromise | Kind::Continuation => self.stream != 0,
            Kind::Priority => self.stream != 0 && self.length == 5,
            Kind::Reset => self.stream != 0 && self.length == 4,
            Kind::Settings => self.stream == 0 && self.length.is_multiple_of(6),
            Kind::Ping => self.stream == 0 && self.length == 8,
            Kind::GoAway => self.stream == 0 && self.length >= 8,
            Kind::WindowUpdate => self.length == 4,
            Kind::Other(_) => true,
        }
    }

    pub fn ends_headers(self) -> bool {
        self.flags & END_HEADERS != 0
    }

    pub fn is_padded(self) -> bool {
        matches!(self.kind, Kind::Data | Kind::Headers | Kind::PushPromise) && self.flags & PADDED != 0
    }

    /// Bytes of fixed meaning at the start of the payload, after the length of the padding.
    pub fn prefix(self) -> u8 {
        let of_kind = match self.kind {
            Kind::Headers if self.flags & PRIORITY != 0 => 5,
            Kind::PushPromise | Kind::Reset => 4,
            Kind::GoAway => 8,
            _ => 0,
        };
        of_kind + u8::from(self.is_padded())
    }

    /// Whether bytes in the middle of a connection are likely a frame's header: every bit that could contradict it is looked at.
    pub fn is_likely(bytes: &[u8], direction: Direction) -> bool {
        let Some(header) = bytes.first_chunk::<HEADER>() else { return false };
        let frame = Self::parse(header);
        let (of_connection, of_stream) = (frame.stream == 0, frame.stream % 2 == 1);
        let has_flags = |known: u8| frame.flags & !known == 0;
        let is_reserved_clear = header.get(5).is_some_and(|byte| byte & 0x80 == 0);
        let fits = match frame.kind {
            Kind::Data => of_stream && has_flags(END_STREAM | PADDED),
            Kind::Headers => of_stream && frame.length > 0 && has_flags(END_STREAM | END_HEADERS | PADDED | PRIORITY),
            Kind::Priority => of_stream && frame.length == 5 && has_flags(0),
            Kind::Reset => of_stream && frame.length == 4 && has_flags(0),
            Kind::Settings => of_connection && frame.length.is_multiple_of(6) && frame.length <= 600 && has_flags(ACK),
            Kind::PushPromise => {
                direction == Direction::Response && of_stream && frame.length > 4 && has_flags(END_HEADERS | PADDED)
            }
            Kind::Ping => of_connection && frame.length == 8 && has_flags(ACK),
            Kind::GoAway => of_connection && frame.length >= 8 && frame.length < 4096 && has_flags(0),
            Kind::WindowUpdate => (of_connection || of_stream) && frame.length == 4 && has_flags(0),
            Kind::Continuation => of_stream && has_flags(END_HEADERS),
            Kind::Other(_) => false,
        };
        is_reserved_clear && fits && frame.length <= BELIEVED
    }

    /// Whether frames likely follow each other from here, as far as these bytes go.
    pub fn are_likely(mut bytes: &[u8], direction: Direction) -> bool {
        loop {
            if !Self::is_likely(bytes, direction) {
                return false;
            }
            let length = bytes.first_chunk::<HEADER>().map_or(0, |header| Self::parse(header).length) as usize;
            match bytes.get(HEADER + length..) {
                Some(next) if next.len() >= HEADER => bytes = next,
                _ => return true,
            }
        }
    }
}
