//! HTTP/2 on one connection: streams side by side, each an exchange (RFC 9113).

mod fields;
mod frame;
mod hpack;
mod stream;

use std::collections::{BTreeMap, VecDeque};

pub use self::frame::{HEADER, PREFACE};
use self::{
    fields::{FieldDecoder, Fields},
    frame::{Frame, Kind},
    stream::{Half, Stream},
};
use super::{
    Direction, Ending, Event, ExchangeId, Limits, RequestHead, Sink,
    body::Body,
    http1::Framing,
    websocket::{Extensions, WebSocket},
};

/// Where in its life a connection was first seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Beginning,
    /// What was said before is unknown, and with it part of the fields that refer to it.
    Middle,
}

/// Whether bytes of a direction, the first that were seen of it, are HTTP/2, and where they begin. The server's first frame is its settings.
pub fn begins(direction: Direction, bytes: &[u8]) -> Option<Start> {
    if direction == Direction::Request && bytes.starts_with(PREFACE) {
        return Some(Start::Beginning);
    }
    if !Frame::are_likely(bytes, direction) {
        return None;
    }
    let frame = bytes.first_chunk().map(Frame::parse);
    let is_settings = frame.is_some_and(|frame| frame.kind == Kind::Settings && !frame.is_acknowledgement());
    let is_first = direction == Direction::Response && is_settings;
    Some(if is_first { Start::Beginning } else { Start::Middle })
}

/// Follows the two directions of a connection.
pub struct Http2 {
    limits: Limits,
    requests: Lane,
    answers: Lane,
    streams: BTreeMap<u32, Stream>,
    /// Streams that ended last: what still comes for them is of no interest.
    ended: VecDeque<u32>,
    /// Nothing but the look of its first bytes says that this is HTTP/2.
    is_guess: bool,
    next: u64,
}

/// One direction.
struct Lane {
    state: State,
    fields: FieldDecoder,
    /// The field section that is being put together.
    section: Option<Section>,
    /// Bytes were lost, and what was in them is not known.
    is_torn: bool,
}

enum State {
    /// In the client's preface, with this much of it seen.
    Preface(usize),
    Header {
        bytes: [u8; HEADER],
        have: usize,
    },
    Payload(Payload),
    /// Where the next frame begins is unknown; one is looked for in each push.
    Lost,
}

const HEADER_BEGIN: State = State::Header { bytes: [0; HEADER], have: 0 };

/// A frame whose header was read.
struct Payload {
    frame: Frame,
    /// Bytes of it that have not come, with padding.
    left: u32,
    prefix: [u8; 9],
    have: u8,
    /// Known when the prefix is.
    padding: u32,
}

struct Section {
    stream: u32,
    /// A promised stream's section, which only the table needs.
    is_promise: bool,
    ends_stream: bool,
    bytes: Vec<u8>,
    /// Longer than a head may be, or with a hole.
    is_damaged: bool,
}

impl Http2 {
    pub fn new(limits: Limits, start: Start) -> Self {
        let lane = |state| Lane {
            state,
            fields: if start == Start::Middle { FieldDecoder::in_the_middle() } else { FieldDecoder::new() },
            section: None,
            is_torn: start == Start::Middle,
        };
        let (requests, answers) = match start {
            Start::Beginning => (State::Preface(0), HEADER_BEGIN),
            Start::Middle => (State::Lost, State::Lost),
        };
        Self {
            limits,
            requests: lane(requests),
            answers: lane(answers),
            streams: BTreeMap::new(),
            ended: VecDeque::new(),
            is_guess: start == Start::Middle,
            next: 0,
        }
    }

    /// For a connection that was upgraded by the exchange, which goes on as the first stream; its request is over.
    pub fn upgraded(limits: Limits, exchange: ExchangeId, lost: u64) -> Self {
        let mut http2 = Self::new(limits, Start::Beginning);
        http2.next = exchange.0 + 1;
        let stream = Stream { request: Half::Done, lost, ..Stream::new(exchange) };
        http2.streams.insert(1, stream);
        http2
    }

    /// Takes the next bytes of one direction.
    pub fn push(&mut self, direction: Direction, mut bytes: &[u8], sink: &mut dyn Sink) {
        while !bytes.is_empty() {
            match &mut self.lane(direction).state {
                State::Preface(have) => {
                    let wanted = PREFACE.get(*have..).unwrap_or_default();
                    let take = wanted.len().min(bytes.len());
                    let (taken, rest) = bytes.split_at(take);
                    if Some(taken) != wanted.get(..take) {
                        // What came before was not seen, though the server's first frames were.
                        self.lose(direction, 1, sink);
                        continue;
                    }
                    *have += take;
                    bytes = rest;
                    if *have == PREFACE.len() {
                        self.lane(direction).state = HEADER_BEGIN;
                    }
                }
                State::Header { bytes: header, have } => {
                    let take = (HEADER - *have).min(bytes.len());
                    let (taken, rest) = bytes.split_at(take);
                    if let Some(free) = header.get_mut(*have..*have + take) {
                        free.copy_from_slice(taken);
                    }
                    *have += take;
                    bytes = rest;
                    if *have == HEADER {
                        let frame = Frame::parse(header);
                        self.begin_frame(direction, frame, sink);
                    }
                }
                State::Payload(_) => bytes = self.take_payload(direction, bytes, sink),
                State::Lost => match found(bytes, direction) {
                    Some(at) => {
                        bytes = bytes.get(at..).unwrap_or_default();
                        self.lane(direction).state = HEADER_BEGIN;
                    }
                    None => bytes = &[],
                },
            }
        }
    }

    /// `lost` bytes of a direction never reached us.
    pub fn lose(&mut self, direction: Direction, lost: u64, sink: &mut dyn Sink) {
        if self.lose_within_frame(direction, lost, sink) {
            return;
        }
        self.tear(direction, lost, sink);
    }

    /// Where frames begin is unknown, and what was in those that were lost: a part of any stream, and of the table of fields.
    fn tear(&mut self, direction: Direction, lost: u64, sink: &mut dyn Sink) {
        let limits = self.stream_limits();
        let lane = self.lane(direction);
        lane.state = State::Lost;
        lane.section = None;
        lane.is_torn = true;
        lane.fields = FieldDecoder::in_the_middle();
        for stream in self.streams.values_mut() {
            stream.lose(direction, lost, &limits, sink);
        }
    }

    /// A hole that does not reach the end of a frame leaves the others whole.
    fn lose_within_frame(&mut self, direction: Direction, lost: u64, sink: &mut dyn Sink) -> bool {
        let limits = self.stream_limits();
        let lane = match direction {
            Direction::Request => &mut self.requests,
            Direction::Response => &mut self.answers,
        };
        let State::Payload(payload) = &mut lane.state else { return false };
        let is_begun = payload.have == payload.frame.prefix();
        let data = payload.left.saturating_sub(payload.padding);
        let Some(lost) = u32::try_from(lost).ok().filter(|lost| is_begun && *lost <= data) else { return false };
        payload.left -= lost;
        let frame = payload.frame;
        match frame.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                if let Some(section) = &mut lane.section {
                    section.is_damaged = true;
                }
            }
            Kind::Data => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    stream.lose(direction, u64::from(lost), &limits, sink);
                }
            }
            _ => {}
        }
        self.end_frame_if_done(direction, sink);
        true
    }

    /// The connection ended.
    pub fn close(&mut self, sink: &mut dyn Sink) {
        let limits = self.stream_limits();
        for (_, mut stream) in std::mem::take(&mut self.streams) {
            stream.cut_short(&limits, sink);
            stream.end(Ending::Truncated, sink);
        }
    }

    /// Whether it may be something else after all.
    pub fn is_guess(&self) -> bool {
        self.is_guess
    }

    /// The next exchange.
    pub fn next(&self) -> ExchangeId {
        ExchangeId(self.next)
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Request => &mut self.requests,
            Direction::Response => &mut self.answers,
        }
    }

    fn stream_limits(&self) -> Limits {
        Limits { message: self.limits.stream_message, ..self.limits }
    }

    // Frames.

    fn begin_frame(&mut self, direction: Direction, frame: Frame, sink: &mut dyn Sink) {
        if !frame.is_valid() {
            // The peers would end the connection: this is no frame.
            self.tear(direction, 1, sink);
            return;
        }
        let lane = self.lane(direction);
        // Nothing may come between the parts of a field section.
        let continues = frame.kind == Kind::Continuation;
        let is_expected = lane.section.as_ref().is_some_and(|section| section.stream == frame.stream);
        if continues != lane.section.is_some() || (continues && !is_expected) {
            // A section was cut short by a loss that went unseen, or the peers do not keep to the protocol: the table is not what it was.
            lane.section = None;
            lane.fields = FieldDecoder::in_the_middle();
            lane.is_torn = true;
        }
        match frame.kind {
            Kind::Headers | Kind::PushPromise => {
                lane.section = Some(Section {
                    stream: frame.stream,
                    is_promise: frame.kind == Kind::PushPromise,
                    ends_stream: frame.ends_stream(),
                    bytes: Vec::new(),
                    is_damaged: false,
                });
            }
            Kind::Data if direction == Direction::Response => self.begin_unknown(frame.stream, sink),
            _ => {}
        }
        self.lane(direction).state =
            State::Payload(Payload { frame, left: frame.length, prefix: [0; 9], have: 0, padding: 0 });
        self.end_frame_if_done(direction, sink);
    }

    fn take_payload<'a>(&mut self, direction: Direction, bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        let limits = self.stream_limits();
        let lane = match direction {
            Direction::Request => &mut self.requests,
            Direction::Response => &mut self.answers,
        };
        let State::Payload(payload) = &mut lane.state else { return bytes };
        let take = usize::try_from(payload.left).unwrap_or(usize::MAX).min(bytes.len());
        let (mut piece, rest) = bytes.split_at(take);
        payload.left -= u32::try_from(take).unwrap_or(payload.left);
        piece = payload.take_prefix(piece);
        let frame = payload.frame;
        let data = piece.len().saturating_sub(payload.padding_at_end(piece.len()));
        let data = piece.get(..data).unwrap_or_default();
        match frame.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation => {
                if let Some(section) = &mut lane.section {
                    let room = limits.head.saturating_sub(section.bytes.len());
                    section.is_damaged |= data.len() > room;
                    section.bytes.extend_from_slice(data.get(..data.len().min(room)).unwrap_or_default());
                }
            }
            Kind::Data => {
                if let Some(stream) = self.streams.get_mut(&frame.stream) {
                    let before = stream.window();
                    stream.push(direction, data, &limits, sink);
                    if stream.is_done() {
                        self.end(frame.stream, Ending::Complete, sink);
                    } else if stream.window() > before {
                        self.bound_windows(frame.stream);
                    }
                }
            }
            _ => {}
        }
        self.end_frame_if_done(direction, sink);
        rest
    }

    /// Large windows for many streams at once would be too much: then the one that grew is left undecoded.
    fn bound_windows(&mut self, grown: u32) {
        let all: usize = self.streams.values().map(Stream::window).sum();
        if all > self.limits.windows
            && let Some(stream) = self.streams.get_mut(&grown)
        {
            for half in [&mut stream.request, &mut stream.answer] {
                if let Half::Body(body) = half
                    && body.window() > 0
                {
                    body.give_up();
                }
            }
        }
    }

    fn end_frame_if_done(&mut self, direction: Direction, sink: &mut dyn Sink) {
        let lane = self.lane(direction);
        let State::Payload(payload) = &lane.state else { return };
        if payload.left > 0 {
            return;
        }
        let (frame, is_begun) = (payload.frame, payload.have == payload.frame.prefix());
        let number = payload.number();
        lane.state = HEADER_BEGIN;
        if !is_begun {
            // Shorter than what it must hold.
            return;
        }
        match frame.kind {
            Kind::Headers | Kind::PushPromise | Kind::Continuation if frame.ends_headers() => {
                self.end_section(direction, sink);
            }
            Kind::Data if frame.ends_stream() => self.end_half(frame.stream, direction, sink),
            Kind::Reset => self.reset(frame.stream, direction, number, sink),
            Kind::GoAway if direction == Direction::Response => self.go_away(number, sink),
            _ => {}
        }
    }

    // Field sections.

    fn end_section(&mut self, direction: Direction, sink: &mut dyn Sink) {
        let lane = self.lane(direction);
        let Some(section) = lane.section.take() else { return };
        let fields = if section.is_damaged {
            lane.fields = FieldDecoder::in_the_middle();
            lane.is_torn = true;
            Fields::unknown()
        } else {
            lane.fields.decode(&section.bytes)
        };
        if section.is_promise {
            return;
        }
        match direction {
            Direction::Request => self.take_request(section.stream, fields, sink),
            Direction::Response => self.take_answer(section.stream, fields, sink),
        }
        if section.ends_stream {
            self.end_half(section.stream, direction, sink);
        }
    }

    fn take_request(&mut self, number: u32, fields: Fields, sink: &mut dyn Sink) {
        if number.is_multiple_of(2) || self.streams.contains_key(&number) || self.ended.contains(&number) {
            // Trailers, or nothing that a client may send.
            return;
        }
        self.is_guess &= !fields.is_request();
        let (is_known, is_websocket) = (fields.is_request() && !fields.is_partial, fields.is_websocket());
        let head = fields.into_request();
        let body = Body::of_request(Framing::Close, &head.headers);
        let stream = self.open(number, &head, sink);
        stream.lost = u64::from(!is_known);
        stream.is_websocket = is_websocket;
        stream.request = Half::Body(Box::new(body));
    }

    fn take_answer(&mut self, number: u32, fields: Fields, sink: &mut dyn Sink) {
        self.is_guess &= fields.status().is_none();
        self.begin_unknown(number, sink);
        let Some(stream) = self.streams.get_mut(&number) else { return };
        // Interim answers, and trailers.
        if !matches!(stream.answer, Half::Head) || matches!(fields.status(), Some(100..200)) {
            return;
        }
        if fields.status().is_none() || fields.is_partial {
            stream.lost = stream.lost.saturating_add(1);
        }
        let head = fields.into_response();
        sink.event(stream.id, Event::Response(&head));
        if stream.is_websocket && (200..300).contains(&head.status) {
            stream.socket = Some(Box::new(WebSocket::new(stream.id, Extensions::agreed(&head.headers), 0)));
        }
        let length = head.headers.get("content-length").and_then(|value| value.parse::<u64>().ok());
        stream.awaited = length.filter(|length| *length > 0);
        stream.answer = Half::Body(Box::new(Body::of_answer(Framing::Close, &head.headers)));
    }

    // Streams.

    fn open(&mut self, number: u32, head: &RequestHead, sink: &mut dyn Sink) -> &mut Stream {
        if self.streams.len() >= self.limits.streams
            && let Some((number, mut oldest)) = self.streams.pop_first()
        {
            oldest.lost = oldest.lost.saturating_add(1);
            self.forget(number);
            oldest.end(Ending::Truncated, sink);
        }
        let id = ExchangeId(self.next);
        self.next += 1;
        sink.event(id, Event::Request(head));
        self.streams.entry(number).or_insert(Stream::new(id))
    }

    /// An answer whose request was not seen: what it says still costs.
    fn begin_unknown(&mut self, number: u32, sink: &mut dyn Sink) {
        let may_be_missed = self.requests.is_torn || self.answers.is_torn;
        let is_clients = number % 2 == 1;
        if !may_be_missed || !is_clients || self.streams.contains_key(&number) || self.ended.contains(&number) {
            return;
        }
        let stream = self.open(number, &RequestHead::default(), sink);
        stream.lost = 1;
        stream.request = Half::Done;
        sink.event(stream.id, Event::RequestEnd);
    }

    fn end_half(&mut self, number: u32, direction: Direction, sink: &mut dyn Sink) {
        let limits = self.stream_limits();
        let Some(stream) = self.streams.get_mut(&number) else { return };
        stream.finish(direction, &limits, sink);
        if stream.is_done() {
            self.end(number, Ending::Complete, sink);
        }
    }

    fn end(&mut self, number: u32, how: Ending, sink: &mut dyn Sink) {
        if let Some(stream) = self.streams.remove(&number) {
            stream.end(how, sink);
            self.forget(number);
        }
    }

    fn forget(&mut self, number: u32) {
        if self.ended.len() >= self.limits.streams {
            self.ended.pop_front();
        }
        self.ended.push_back(number);
    }

    /// One of the two gives the stream up. Only the server knows whether it began to work on the request.
    fn reset(&mut self, number: u32, by: Direction, code: u32, sink: &mut dyn Sink) {
        const REFUSED: u32 = 7;
        let limits = self.stream_limits();
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let is_refused = by == Direction::Response && code == REFUSED && matches!(stream.answer, Half::Head);
        let how = if is_refused { Ending::Refused } else { Ending::Truncated };
        stream.cut_short(&limits, sink);
        self.end(number, how, sink);
    }

    /// The server works on no stream after this one.
    fn go_away(&mut self, last: u32, sink: &mut dyn Sink) {
        let after: Vec<u32> = self.streams.range(last.saturating_add(1)..).map(|(number, _)| *number).collect();
        for number in after {
            if self.streams.get(&number).is_some_and(|stream| matches!(stream.answer, Half::Head)) {
                self.end(number, Ending::Refused, sink);
            }
        }
    }
}

/// Where in these bytes frames begin again: at their start, as most do, or where several follow each other.
fn found(bytes: &[u8], direction: Direction) -> Option<usize> {
    if Frame::are_likely(bytes, direction) {
        return Some(0);
    }
    (1..bytes.len().saturating_sub(2 * HEADER)).find(|at| {
        let rest = bytes.get(*at..).unwrap_or_default();
        let length = rest.first_chunk::<HEADER>().map_or(0, |header| Frame::parse(header).length) as usize;
        Frame::is_likely(rest, direction)
            && rest.len() >= 2 * HEADER + length
            && Frame::are_likely(rest.get(HEADER + length..).unwrap_or_default(), direction)
    })
}

impl Payload {
    /// Takes the fixed part of the payload from the front of `piece`, and hands back the rest.
    fn take_prefix<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let need = usize::from(self.frame.prefix().saturating_sub(self.have));
        let (taken, rest) = piece.split_at(need.min(piece.len()));
        let have = usize::from(self.have);
        if let Some(free) = self.prefix.get_mut(have..have + taken.len()) {
            free.copy_from_slice(taken);
        }
        self.have += u8::try_from(taken.len()).unwrap_or(0);
        if need > 0 && taken.len() == need && self.frame.is_padded() {
            let padding = u32::from(self.prefix.first().copied().unwrap_or(0));
            // More padding than payload is an error; then nothing of it is data.
            let rest = u32::try_from(rest.len()).unwrap_or(u32::MAX);
            self.padding = padding.min(self.left.saturating_add(rest));
        }
        rest
    }

    /// How much of a piece of this length, the latest of the payload, is padding.
    fn padding_at_end(&self, length: usize) -> usize {
        let padding = usize::try_from(self.padding.saturating_sub(self.left)).unwrap_or(usize::MAX);
        padding.min(length)
    }

    /// The number that the payload begins with, after the length of the padding.
    fn number(&self) -> u32 {
        let at = usize::from(self.frame.is_padded());
        self.prefix.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_be_bytes(*bytes))
    }
}

#[cfg(test)]
mod tests;
