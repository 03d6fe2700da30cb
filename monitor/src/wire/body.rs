//! Bodies: transfer framing off, content coding off, messages told apart.

use super::{
    Event, ExchangeId, Field, Headers, Limits, Message, Sink,
    coding::Decoder,
    event_stream::Frames,
    form::Form,
    http1::{Chunked, Framing},
    lines::Tail,
    sse::Events,
};

/// What comes out of a body.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    Bytes(&'a [u8]),
    Message(Message<'a>),
    Field(Field<'a>),
}

impl Piece<'_> {
    /// Says it of the body of a request.
    pub fn emit_request(self, exchange: ExchangeId, sink: &mut dyn Sink) {
        match self {
            Self::Bytes(data) => sink.event(exchange, Event::RequestBody(data)),
            Self::Field(field) => sink.event(exchange, Event::RequestField(field)),
            // Requests are not streams of messages.
            Self::Message(_) => {}
        }
    }

    /// Says it of the body of an answer.
    pub fn emit_answer(self, exchange: ExchangeId, sink: &mut dyn Sink) {
        match self {
            Self::Bytes(data) => sink.event(exchange, Event::ResponseBody(data)),
            Self::Message(message) => sink.event(exchange, Event::Message(message)),
            Self::Field(_) => {}
        }
    }
}

/// One body on its way.
pub struct Body {
    framing: Progress,
    decoder: Decoder,
    format: Format,
    /// Something of it has come. An answer without a body may name a coding all the same.
    has_begun: bool,
    /// Bytes that were lost or could not be decoded.
    pub lost: u64,
}

enum Progress {
    Length { left: u64 },
    Chunked(Chunked),
    Close,
}

/// How messages are told apart in a decoded body.
enum Format {
    /// One document.
    Document,
    /// Not known before the first bytes that are not space.
    Unsniffed,
    Sse(Events),
    /// One message a line.
    Lines(Tail),
    /// An AWS event stream.
    Frames(Frames),
    Form(Box<Form>),
    /// Bytes were lost, and what follows makes no sense without them.
    Torn,
}

/// The body cannot be followed any further: where it ends is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfStep;

impl Body {
    /// The body of a request: one document, or a form.
    pub fn of_request(framing: Framing, headers: &Headers) -> Self {
        let form = headers.get("content-type").and_then(Form::new);
        Self::new(framing, headers, form.map_or(Format::Document, |form| Format::Form(Box::new(form))))
    }

    /// The body of an answer, which may be a stream of messages, by its media type or, where servers name that wrongly, its beginning.
    pub fn of_answer(framing: Framing, headers: &Headers) -> Self {
        let media_type = headers.media_type();
        let format = match media_type.as_str() {
            "text/event-stream" => Format::Sse(Events::default()),
            "application/vnd.amazon.eventstream" => Format::Frames(Frames::default()),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines"
            | "application/stream+json" => Format::Lines(Tail::default()),
            "" | "text/plain" | "application/octet-stream" | "application/json" => Format::Unsniffed,
            _ => Format::Document,
        };
        Self::new(framing, headers, format)
    }

    fn new(framing: Framing, headers: &Headers, format: Format) -> Self {
        let framing = match framing {
            Framing::Length(left) => Progress::Length { left },
            Framing::Chunked => Progress::Chunked(Chunked::new()),
            Framing::Close | Framing::Tunnel | Framing::Doubtful => Progress::Close,
        };
        // Transfer codings lie above content codings (RFC 9112 §6.1).
        let codings = headers.all("content-encoding").chain(headers.all("transfer-encoding"));
        Self { framing, decoder: Decoder::new(codings), format, has_begun: false, lost: 0 }
    }

    /// Bytes that undoing its coding takes, where these may be many.
    pub fn window(&self) -> usize {
        self.decoder.window()
    }

    /// Leaves the rest of it undecoded.
    pub fn give_up(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.decoder.give_up();
    }

    pub fn is_done(&self) -> bool {
        match self.framing {
            Progress::Length { left } => left == 0,
            Progress::Chunked(state) => state == Chunked::Done,
            Progress::Close => false,
        }
    }

    pub fn ends_with_connection(&self) -> bool {
        matches!(self.framing, Progress::Close)
    }

    /// Takes what belongs to the body from the front of `bytes`.
    pub fn push(
        &mut self,
        bytes: &mut &[u8],
        limits: &Limits,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> Result<(), OutOfStep> {
        while !bytes.is_empty() && !self.is_done() {
            let data = match &mut self.framing {
                Progress::Length { left } => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (data, rest) = bytes.split_at(take);
                    *left -= take as u64;
                    *bytes = rest;
                    data
                }
                Progress::Chunked(state) => state.next(bytes).map_err(|_| OutOfStep)?,
                Progress::Close => std::mem::take(bytes),
            };
            self.decode(data, limits, out);
        }
        Ok(())
    }

    fn decode(&mut self, data: &[u8], limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) {
        if data.is_empty() {
            return;
        }
        self.has_begun = true;
        let (format, mut misread) = (&mut self.format, false);
        let result = self.decoder.decode(data, &mut |piece| misread |= format.push(piece, limits, out).is_err());
        if result.is_err() || misread {
            self.lost = self.lost.saturating_add(data.len() as u64);
        }
    }

    /// `lost` bytes of it never arrived.
    pub fn skip(&mut self, lost: u64) -> Result<(), OutOfStep> {
        self.lost = self.lost.saturating_add(lost);
        if self.decoder.is_identity() {
            self.format.lose();
        } else {
            // What follows the hole cannot be decoded without what came before it.
            self.decoder.give_up();
        }
        match &mut self.framing {
            Progress::Length { left } if *left >= lost => *left -= lost,
            Progress::Chunked(state) => return state.skip(lost).map_err(|_| OutOfStep),
            Progress::Close => {}
            Progress::Length { .. } => return Err(OutOfStep),
        }
        Ok(())
    }

    /// Nothing more will come.
    pub fn finish(&mut self, limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) {
        let (format, mut misread) = (&mut self.format, false);
        if self.has_begun {
            let result = self.decoder.finish(&mut |piece| misread |= format.push(piece, limits, out).is_err());
            if result.is_err() || misread {
                self.lost = self.lost.max(1);
            }
        }
        if self.format.finish(limits, out).is_err() {
            self.lost = self.lost.max(1);
        }
    }
}

/// The bytes are not what the media type says.
struct Misread;

impl Format {
    fn push(&mut self, bytes: &[u8], limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) -> Result<(), Misread> {
        let mut bytes = bytes;
        if let Self::Unsniffed = self {
            let Some(begin) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else { return Ok(()) };
            bytes = bytes.get(begin..).unwrap_or_default();
            // Fields of an event stream begin with `data`, `event`, `id`, `retry`, or a colon; JSON does not.
            *self = match bytes.first() {
                Some(b'd' | b'e' | b'i' | b'r' | b':') => Self::Sse(Events::default()),
                _ => Self::Document,
            };
        }
        match self {
            Self::Document => out(Piece::Bytes(bytes)),
            Self::Sse(events) => events.push(bytes, limits.message, |message| out(Piece::Message(message))),
            Self::Lines(tail) => push_lines(tail, bytes, limits.message, out),
            Self::Frames(frames) => {
                return frames.push(bytes, limits.message, |message| out(Piece::Message(message))).map_err(|_| Misread);
            }
            Self::Form(form) => {
                let result = form.push(bytes, limits.message, &mut |field| out(Piece::Field(field)));
                return result.map_err(|_| Misread);
            }
            Self::Unsniffed | Self::Torn => {}
        }
        Ok(())
    }

    /// Bytes are missing here. Formats whose messages end in a way of their own go on with the next one.
    fn lose(&mut self) {
        match self {
            Self::Sse(events) => events.lose(),
            Self::Lines(tail) => tail.lose(),
            Self::Frames(frames) => frames.lose(),
            Self::Torn => {}
            _ => *self = Self::Torn,
        }
    }

    fn finish(&mut self, limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) -> Result<(), Misread> {
        match self {
            Self::Document | Self::Unsniffed | Self::Form(_) | Self::Torn => {}
            Self::Sse(events) => events.finish(limits.message, |message| out(Piece::Message(message))),
            Self::Lines(tail) => {
                if !tail.is_empty() {
                    end_line(tail, &[], limits.message, out);
                }
            }
            Self::Frames(frames) => return frames.finish().map_err(|_| Misread),
        }
        Ok(())
    }
}

fn push_lines(tail: &mut Tail, mut bytes: &[u8], limit: usize, out: &mut dyn FnMut(Piece<'_>)) {
    while let Some(at) = memchr::memchr(b'\n', bytes) {
        let (line, rest) = bytes.split_at(at);
        bytes = rest.get(1..).unwrap_or_default();
        end_line(tail, line, limit, out);
    }
    tail.push(bytes, limit);
}

fn end_line(tail: &mut Tail, end: &[u8], limit: usize, out: &mut dyn FnMut(Piece<'_>)) {
    let is_torn = tail.is_torn();
    let (line, truncated) = tail.complete(end, limit);
    let data = line.trim_ascii();
    if !data.is_empty() && !is_torn {
        out(Piece::Message(Message { event: None, data, truncated }));
    }
    tail.clear();
}
