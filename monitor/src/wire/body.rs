//! Bodies: transfer framing off, content coding off, messages told apart.

use super::{
    Limits, Message,
    chunked::Chunked,
    coding::Decoder,
    head::{Framing, Headers},
    lines::Tail,
    sse::Events,
};

/// What comes out of a body.
#[derive(Debug, Clone, Copy)]
pub enum Piece<'a> {
    Bytes(&'a [u8]),
    Message(Message<'a>),
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
    EventStream(Events),
    /// One message a line.
    Lines(Tail),
}

/// The body cannot be followed any further: where it ends is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfStep;

impl Body {
    /// A body whose pieces are handed on as they are, whatever they are.
    pub fn document(framing: Framing, headers: &Headers) -> Self {
        Self::new(framing, headers, Format::Document)
    }

    /// A body that may be a stream of messages, by its media type or, where servers name that wrongly, its beginning.
    pub fn answer(framing: Framing, headers: &Headers) -> Self {
        let media_type = headers.media_type();
        let format = match media_type.as_str() {
            "text/event-stream" => Format::EventStream(Events::default()),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/jsonlines"
            | "application/stream+json" => Format::Lines(Tail::default()),
            "" | "text/plain" | "application/octet-stream" => Format::Unsniffed,
            _ => Format::Document,
        };
        Self::new(framing, headers, format)
    }

    fn new(framing: Framing, headers: &Headers, format: Format) -> Self {
        let framing = match framing {
            Framing::Length(left) => Progress::Length { left },
            Framing::Chunked => Progress::Chunked(Chunked::new()),
            Framing::Close | Framing::Tunnel => Progress::Close,
        };
        // Several codings in one field would be undone from the right; none of the APIs stacks them.
        Self { framing, decoder: Decoder::new(headers.get("content-encoding")), format, has_begun: false, lost: 0 }
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
        let format = &mut self.format;
        if self.decoder.decode(data, |piece| format.push(piece, limits, out)).is_err() {
            self.lost = self.lost.saturating_add(data.len() as u64);
        }
    }

    /// `lost` bytes of it never arrived.
    pub fn skip(&mut self, lost: u64) -> Result<(), OutOfStep> {
        self.lost = self.lost.saturating_add(lost);
        // What follows the hole cannot be put together with what came before it.
        self.decoder = Decoder::Broken;
        match &mut self.framing {
            Progress::Length { left } if *left >= lost => *left -= lost,
            Progress::Close => {}
            _ => return Err(OutOfStep),
        }
        Ok(())
    }

    /// Nothing more will come.
    pub fn finish(&mut self, limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) {
        let format = &mut self.format;
        if self.has_begun && self.decoder.finish(|piece| format.push(piece, limits, out)).is_err() {
            self.lost = self.lost.max(1);
        }
        self.format.finish(limits, out);
    }
}

impl Format {
    fn push(&mut self, bytes: &[u8], limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) {
        if let Self::Unsniffed = self {
            let Some(begin) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) else { return };
            // Fields of an event stream begin with `data`, `event`, `id`, or a colon; JSON does not.
            *self = match bytes.get(begin) {
                Some(b'd' | b'e' | b'i' | b':') => Self::EventStream(Events::default()),
                _ => Self::Document,
            };
        }
        match self {
            Self::Document | Self::Unsniffed => out(Piece::Bytes(bytes)),
            Self::EventStream(events) => events.push(bytes, limits.message, |message| out(Piece::Message(message))),
            Self::Lines(tail) => push_lines(tail, bytes, limits.message, out),
        }
    }

    fn finish(&mut self, limits: &Limits, out: &mut dyn FnMut(Piece<'_>)) {
        match self {
            Self::Document | Self::Unsniffed => {}
            Self::EventStream(events) => events.finish(limits.message, |message| out(Piece::Message(message))),
            Self::Lines(tail) => {
                if !tail.is_empty() {
                    end_line(tail, &[], limits.message, out);
                }
            }
        }
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
    let (line, truncated) = tail.complete(end, limit);
    let data = line.trim_ascii();
    if !data.is_empty() {
        out(Piece::Message(Message { event: None, data, truncated }));
    }
    tail.clear();
}
