//! One connection: finds out what it speaks, and follows it.

use super::{
    Direction, ExchangeId, Sink, StreamOffset, Unreadable,
    http1::{self, Http1, Left},
    http2::{self, Http2, Start},
    websocket::{self, WebSocket},
};

/// Bounds of what one connection may take.
///
/// A connection over HTTP/1.x or a WebSocket holds at most two heads, one unfinished message in each direction, and the decoders' windows:
/// with the defaults 4 MiB, 20 MiB where a body comes in brotli or zstd, and less than 2 KiB while it is idle. Over HTTP/2 each open stream
/// may hold an unfinished message of [`Limits::stream_message`] twice (a line and the message it belongs to) and a small decoder, and all
/// of them together [`Limits::windows`]: at most 192 MiB for `streams` of them that all try, and while it is idle what the two tables of
/// header fields hold (4 KiB each, unless the peers agreed on more; never more than 64 KiB). `monitor/tests/wire_memory.rs` counts.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of a message head.
    pub head: usize,
    /// Bytes of one message of a stream; longer ones are cut and say so.
    pub message: usize,
    /// Requests of HTTP/1.x that wait for their answers.
    pub pipelined: usize,
    /// Streams of HTTP/2 that are open at once.
    pub streams: usize,
    /// As `message`, for each stream of HTTP/2.
    pub stream_message: usize,
    /// Bytes of decoders' windows of all streams of HTTP/2 together (brotli and zstd have large ones).
    pub windows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: 64 * 1024,
            message: 1024 * 1024,
            pipelined: 64,
            streams: 128,
            stream_message: 256 * 1024,
            windows: 64 * 1024 * 1024,
        }
    }
}

/// Follows the two directions of a connection.
pub struct Connection {
    limits: Limits,
    requests: Progress,
    answers: Progress,
    protocol: Protocol,
    /// A request is being written of which nothing was pushed yet.
    is_announced: bool,
    /// Its answer, where that came first.
    ahead: Ahead,
}

/// Bytes of answers with their offsets, until their request is there.
#[derive(Default)]
struct Ahead {
    pieces: Vec<(StreamOffset, Vec<u8>)>,
    held: usize,
}

/// How far a direction has come.
#[derive(Default)]
struct Progress {
    /// Offset of the next byte.
    at: u64,
    early: Early,
}

/// What came of a direction before it was known what is spoken.
#[derive(Default)]
struct Early {
    /// Bytes that were lost, or that are of the middle of a message: the capture may begin there.
    lost: u64,
    /// After what was lost; too little to tell.
    held: Vec<u8>,
}

/// Bytes of a direction among which the beginning of a message is looked for.
const MIDDLE: u64 = 1 << 20;

enum Protocol {
    /// Too little was seen to tell.
    Undecided,
    Http1(Box<Http1>),
    Http2(Box<Http2>),
    WebSocket(Box<WebSocket>),
    Unreadable,
}

impl Connection {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            requests: Progress::default(),
            answers: Progress::default(),
            protocol: Protocol::Undecided,
            is_announced: false,
            ahead: Ahead::default(),
        }
    }

    /// A request is about to be written, and is pushed once it has been. Where one thread writes and another reads, its answer may be
    /// pushed before it: that then waits for it (up to [`Limits::message`] bytes).
    pub fn announce(&mut self) {
        self.is_announced = true;
    }

    /// Takes bytes of one direction at their offset. Bytes before the next expected one were seen already and are skipped; a jump forward
    /// is a loss.
    pub fn push(&mut self, direction: Direction, offset: StreamOffset, bytes: &[u8], sink: &mut dyn Sink) {
        match direction {
            Direction::Response if self.is_ahead(bytes) => {
                self.ahead.held += bytes.len();
                self.ahead.pieces.push((offset, bytes.to_vec()));
            }
            Direction::Response => {
                self.catch_up(sink);
                self.take_at(direction, offset, bytes, sink);
            }
            Direction::Request => {
                self.is_announced = false;
                if offset.0 > self.requests.at {
                    // What came ahead may have answered what is missing here.
                    self.catch_up(sink);
                }
                self.take_at(direction, offset, bytes, sink);
                self.catch_up(sink);
            }
        }
    }

    /// Whether these bytes of an answer came before their request.
    fn is_ahead(&self, bytes: &[u8]) -> bool {
        let is_idle = match &self.protocol {
            Protocol::Undecided => true,
            Protocol::Http1(http1) => http1.is_idle(),
            // There it does not matter in which order the two directions come.
            Protocol::Http2(_) | Protocol::WebSocket(_) | Protocol::Unreadable => false,
        };
        self.is_announced && is_idle && self.ahead.held.saturating_add(bytes.len()) <= self.limits.message
    }

    /// Takes what came ahead.
    fn catch_up(&mut self, sink: &mut dyn Sink) {
        for (offset, bytes) in std::mem::take(&mut self.ahead).pieces {
            self.take_at(Direction::Response, offset, &bytes, sink);
        }
    }

    fn take_at(&mut self, direction: Direction, offset: StreamOffset, bytes: &[u8], sink: &mut dyn Sink) {
        if let Protocol::Unreadable = self.protocol {
            return;
        }
        let progress = self.progress(direction);
        let at = progress.at;
        let seen = usize::try_from(at.saturating_sub(offset.0)).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes.get(seen..).unwrap_or_default();
        if bytes.is_empty() {
            return;
        }
        progress.at = offset.0.max(at).saturating_add(bytes.len() as u64);
        let mut lost = offset.0.saturating_sub(at);
        if at == 0 && matches!(self.protocol, Protocol::Undecided) {
            // It may have been followed for long before this: how long says nothing.
            lost = lost.min(1);
        }
        if lost > 0 {
            self.lose(direction, lost, sink);
        }
        self.take(direction, bytes, sink);
    }

    /// The connection ended. Bodies that last until the end are complete, everything else is cut short.
    pub fn close(&mut self, sink: &mut dyn Sink) {
        self.catch_up(sink);
        match std::mem::replace(&mut self.protocol, Protocol::Unreadable) {
            Protocol::Http1(mut http1) => http1.close(sink),
            Protocol::Http2(mut http2) => {
                http2.close(sink);
                if http2.is_guess() {
                    // Nothing of it made sense.
                    sink.unreadable(Unreadable::NotHttp);
                }
            }
            Protocol::WebSocket(mut socket) => socket.close(sink),
            Protocol::Undecided if self.requests.early.lost > 0 || self.answers.early.lost > 0 => {
                sink.unreadable(Unreadable::NotHttp);
            }
            Protocol::Undecided | Protocol::Unreadable => {}
        }
        *self = Self::new(self.limits);
    }

    fn progress(&mut self, direction: Direction) -> &mut Progress {
        match direction {
            Direction::Request => &mut self.requests,
            Direction::Response => &mut self.answers,
        }
    }

    fn lose(&mut self, direction: Direction, lost: u64, sink: &mut dyn Sink) {
        match &mut self.protocol {
            Protocol::Http1(http1) => http1.lose(direction, lost, sink),
            Protocol::Http2(http2) => http2.lose(direction, lost, sink),
            Protocol::WebSocket(socket) => socket.lose(direction, lost, &self.limits, sink),
            Protocol::Undecided => {
                let early = &mut self.progress(direction).early;
                early.lost = early.lost.saturating_add(lost).saturating_add(early.held.len() as u64);
                early.held.clear();
            }
            Protocol::Unreadable => {}
        }
    }

    fn take(&mut self, direction: Direction, bytes: &[u8], sink: &mut dyn Sink) {
        // The look of a few bytes in the middle of something may be wrong.
        if let Protocol::Http2(http2) = &mut self.protocol
            && http2.is_guess()
            && http1::begins(direction, bytes)
        {
            let next = http2.next();
            http2.close(sink);
            self.protocol = Protocol::Http1(Box::new(Http1::after(self.limits, next)));
        }
        match &mut self.protocol {
            Protocol::Http1(http1) => {
                let rest = http1.push(direction, bytes, sink);
                if let Some(left) = http1.left() {
                    self.leave_http1(left, direction, rest, sink);
                }
            }
            Protocol::Http2(http2) => http2.push(direction, bytes, sink),
            Protocol::WebSocket(socket) => socket.push(direction, bytes, &self.limits, sink),
            Protocol::Undecided => self.decide(direction, bytes, sink),
            Protocol::Unreadable => {}
        }
    }

    /// Begins once the bytes tell what they are. The server may speak first, over HTTP/2.
    fn decide(&mut self, direction: Direction, bytes: &[u8], sink: &mut dyn Sink) {
        let limits = self.limits;
        let early = &mut self.progress(direction).early;
        early.held.extend_from_slice(bytes);
        match Guess::of(direction, early) {
            Guess::Http1 => self.protocol = Protocol::Http1(Box::new(Http1::new(limits))),
            Guess::Http2(start) => self.protocol = Protocol::Http2(Box::new(Http2::new(limits, start))),
            Guess::WebSocket => {
                self.protocol = Protocol::WebSocket(Box::new(WebSocket::in_the_middle(ExchangeId(0), sink)));
            }
            Guess::TooLittle => return,
            Guess::Other => {
                early.lost = early.lost.saturating_add(early.held.len() as u64);
                early.held = Vec::new();
                if early.lost > MIDDLE {
                    self.give_up(Unreadable::NotHttp, sink);
                }
                return;
            }
        }
        let both = [Direction::Request, Direction::Response];
        let early = both.map(|direction| (direction, std::mem::take(&mut self.progress(direction).early)));
        for (direction, Early { lost, .. }) in &early {
            if *lost > 0 {
                self.lose(*direction, *lost, sink);
            }
        }
        for (direction, Early { held, .. }) in early {
            if !held.is_empty() {
                self.take(direction, &held, sink);
            }
        }
    }

    fn leave_http1(&mut self, left: Left, direction: Direction, rest: &[u8], sink: &mut dyn Sink) {
        match left {
            Left::WebSocket { exchange, extensions, lost } => {
                self.protocol = Protocol::WebSocket(Box::new(WebSocket::new(exchange, extensions, lost)));
                if !rest.is_empty() {
                    self.take(direction, rest, sink);
                }
            }
            Left::Http2 { exchange, lost } => {
                self.protocol = Protocol::Http2(Box::new(Http2::upgraded(self.limits, exchange, lost)));
                if !rest.is_empty() {
                    self.take(direction, rest, sink);
                }
            }
            Left::Unreadable(why) => self.give_up(why, sink),
        }
    }

    fn give_up(&mut self, why: Unreadable, sink: &mut dyn Sink) {
        self.protocol = Protocol::Unreadable;
        sink.unreadable(why);
    }
}

/// What begins with some bytes.
enum Guess {
    Http1,
    Http2(Start),
    WebSocket,
    TooLittle,
    /// The middle of something, or nothing that is known.
    Other,
}

impl Guess {
    fn of(direction: Direction, early: &Early) -> Self {
        let bytes = early.held.as_slice();
        let is_http1 = match direction {
            Direction::Request => {
                if bytes.len() < http2::PREFACE.len() && http2::PREFACE.starts_with(bytes) {
                    return Self::TooLittle;
                }
                // A few letters in the middle of something are no method.
                let is_telling = bytes.contains(&b' ') || bytes.iter().all(u8::is_ascii_uppercase);
                is_telling && http1::may_begin_request(bytes) && !bytes.starts_with(http2::PREFACE)
            }
            Direction::Response => http1::may_begin_response(bytes),
        };
        if is_http1 {
            return Self::Http1;
        }
        if bytes.first() == Some(&0) && bytes.len() < http2::HEADER {
            return Self::TooLittle;
        }
        match http2::begins(direction, bytes) {
            Some(_) if early.lost > 0 => Self::Http2(Start::Middle),
            Some(start) => Self::Http2(start),
            None if websocket::begins(direction, bytes) => Self::WebSocket,
            None => Self::Other,
        }
    }
}
