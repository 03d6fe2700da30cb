//! HTTP/1.x on one connection: requests one way, answers the other, paired in order (RFC 9112).
//!
//! After a loss the pairing rests on what clients do: they send the next request when the last answer is over. Where the bytes show
//! that a client does not (it pipelines), every exchange after a loss is marked.

mod chunked;
mod head;

use std::collections::VecDeque;

use self::head::{Asked, InvalidHead, begins_request};
pub use self::{
    chunked::Chunked,
    head::{Framing, may_begin_request, may_begin_response},
};
use super::{
    Direction, End, Ending, Event, ExchangeId, Limits, RequestHead, ResponseHead, Sink, Unreadable, body::Body,
    websocket::Extensions,
};

/// Follows the two directions of a connection.
pub struct Http1 {
    limits: Limits,
    requests: Lane,
    answers: Lane,
    /// Exchanges without an end yet, oldest first. The oldest is the one that is being answered.
    open: VecDeque<Open>,
    next: u64,
    /// Bytes of requests that were lost since the last request was seen.
    missed: u64,
    /// Since then, an answer came to a request that was not seen.
    has_unknown: bool,
    /// Where a message begins or ends was lost at least once.
    has_lost: bool,
    /// A request was sent before the answer to the one before it was over.
    is_pipelined: bool,
    left: Option<Left>,
}

/// The connection is no longer HTTP/1.x, and what it is now.
#[derive(Debug, Clone, Copy)]
pub enum Left {
    /// The exchange goes on as a WebSocket.
    WebSocket {
        exchange: ExchangeId,
        extensions: Extensions,
        lost: u64,
    },
    /// The exchange goes on as the first stream of HTTP/2 (`h2c`, RFC 7540 §3.2).
    Http2 {
        exchange: ExchangeId,
        lost: u64,
    },
    Unreadable(Unreadable),
}

/// Whether this is surely the beginning of a message.
pub fn begins(direction: Direction, bytes: &[u8]) -> bool {
    match direction {
        Direction::Request => begins_request(bytes),
        Direction::Response => bytes.starts_with(ANSWER),
    }
}

/// What every answer begins with.
const ANSWER: &[u8] = b"HTTP/1.";

/// One direction.
#[derive(Default)]
struct Lane {
    state: State,
    /// A head that has not ended.
    head: Vec<u8>,
}

#[derive(Default)]
enum State {
    /// Before or in a head.
    #[default]
    Head,
    Body(Box<Body>),
    /// Where the next message begins is unknown; one is looked for at the beginning of each push.
    Lost,
}

struct Open {
    id: ExchangeId,
    asked: Asked,
    /// The request is still being sent.
    sending: bool,
    answered: bool,
    lost: u64,
}

impl Http1 {
    pub fn new(limits: Limits) -> Self {
        Self::after(limits, ExchangeId(0))
    }

    /// For a connection that has had other exchanges: the next one is this.
    pub fn after(limits: Limits, next: ExchangeId) -> Self {
        Self {
            limits,
            requests: Lane::default(),
            answers: Lane::default(),
            open: VecDeque::new(),
            next: next.0,
            missed: 0,
            has_unknown: false,
            has_lost: false,
            is_pipelined: false,
            left: None,
        }
    }

    /// Takes the next bytes of one direction. What is handed back comes after the connection has [left](Self::left) HTTP/1.x.
    pub fn push<'a>(&mut self, direction: Direction, mut bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        let mut at_beginning = true;
        while !bytes.is_empty() && self.left.is_none() {
            bytes = match direction {
                Direction::Request => self.take_request(bytes, at_beginning, sink),
                Direction::Response => self.take_answer(bytes, at_beginning, sink),
            };
            at_beginning = false;
        }
        bytes
    }

    /// Whether, and for what, the connection has left HTTP/1.x.
    pub fn left(&self) -> Option<Left> {
        self.left
    }

    /// Whether nothing is on its way: an answer that begins now has no request.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty() && self.requests.is_between() && self.answers.is_between()
    }

    /// `lost` bytes of a direction never reached us.
    pub fn lose(&mut self, direction: Direction, lost: u64, sink: &mut dyn Sink) {
        let lane = match direction {
            Direction::Request => &mut self.requests,
            Direction::Response => &mut self.answers,
        };
        if let State::Body(body) = &mut lane.state
            && body.skip(lost).is_ok()
        {
            if body.is_done() {
                match direction {
                    Direction::Request => self.end_request(sink),
                    Direction::Response => self.end_answer(sink),
                }
            }
            return;
        }
        match direction {
            Direction::Request => self.lose_requests(lost, sink),
            Direction::Response => self.lose_answers(lost, sink),
        }
    }

    /// The connection ended. Bodies that last until the end are complete, everything else is cut short.
    pub fn close(&mut self, sink: &mut dyn Sink) {
        if let State::Body(body) = &mut self.answers.state
            && body.ends_with_connection()
        {
            self.end_answer(sink);
        }
        // What a decoder or an unfinished message still has is part of what came.
        if let (State::Body(body), Some(open)) = (&mut self.answers.state, self.open.front()) {
            let id = open.id;
            let lost_before = body.lost;
            body.finish(&self.limits, &mut |piece| piece.emit_answer(id, sink));
            body.lost = lost_before;
        }
        self.settle_bodies();
        self.truncate(0, 0, sink);
        self.requests = Lane::default();
        self.answers = Lane::default();
    }

    // Requests.

    fn take_request<'a>(&mut self, mut bytes: &'a [u8], at_beginning: bool, sink: &mut dyn Sink) -> &'a [u8] {
        match &mut self.requests.state {
            State::Head => self.take_request_head(bytes, sink),
            State::Body(body) => {
                let Some(open) = self.open.iter_mut().find(|open| open.sending) else {
                    self.requests.state = State::Lost;
                    return bytes;
                };
                let id = open.id;
                let result = body.push(&mut bytes, &self.limits, &mut |piece| piece.emit_request(id, sink));
                if result.is_err() {
                    self.lose_requests(1, sink);
                    return &[];
                }
                if body.is_done() {
                    self.end_request(sink);
                }
                bytes
            }
            State::Lost => {
                if !at_beginning || !begins_request(bytes) {
                    return &[];
                }
                self.requests.state = State::Head;
                bytes
            }
        }
    }

    fn take_request_head<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        match self.requests.head(bytes, self.limits.head, may_begin_request, head::request) {
            Ok(Some(((head, framing), rest))) => {
                self.begin_exchange(&head, framing, sink);
                rest
            }
            Ok(None) => &[],
            // A wrong guess of where a request begins.
            Err(InvalidHead) if self.missed > 0 => {
                self.requests.state = State::Lost;
                &[]
            }
            Err(InvalidHead) => {
                self.give_up(Unreadable::NotHttp, sink);
                &[]
            }
        }
    }

    fn begin_exchange(&mut self, head: &RequestHead, framing: Framing, sink: &mut dyn Sink) {
        if self.open.len() >= self.limits.pipelined {
            // Nobody pipelines this much: the answers are not coming.
            self.lose_answers(1, sink);
        }
        // Where the two directions no longer fit each other, this is where they begin anew. If an answer is still due, be it to a request
        // that was lost, it may be taken for the answer to this one.
        let is_due = !self.open.is_empty() || !self.answers.is_between();
        // An answer whose request is not known may have no end that can be known: to `HEAD`, say.
        let is_lost = self.missed > 0
            || matches!(self.answers.state, State::Lost)
            || self.open.iter().any(|open| open.asked == Asked::Unknown);
        let is_doubtful = self.has_lost && self.is_pipelined || self.missed > 0 && (is_due || !self.has_unknown);
        if is_lost {
            self.settle_bodies();
            self.truncate(0, 1, sink);
            self.answers = Lane::default();
        }
        self.missed = 0;
        self.has_unknown = false;
        let id = self.open_exchange(head, sink);
        if let Some(open) = self.open.back_mut() {
            open.lost = u64::from(is_doubtful);
        }
        if framing == Framing::Doubtful {
            // What it asks for is known, and nothing of what follows: its answers tell what it costs.
            self.end_request_of(id, 1, sink);
            return self.lose_requests(1, sink);
        }
        let body = Body::of_request(framing, &head.headers);
        if body.is_done() {
            self.requests.state = State::Head;
            self.end_request_of(id, 0, sink);
        } else {
            self.requests.state = State::Body(Box::new(body));
        }
    }

    fn open_exchange(&mut self, head: &RequestHead, sink: &mut dyn Sink) -> ExchangeId {
        let id = ExchangeId(self.next);
        self.next += 1;
        self.open.push_back(Open { id, asked: Asked::by(&head.method), sending: true, answered: false, lost: 0 });
        sink.event(id, Event::Request(head));
        id
    }

    /// An answer to nothing that we saw: its request was lost, or the capture began after it. What it says still costs.
    fn open_unknown(&mut self, sink: &mut dyn Sink) {
        let lost = self.missed.max(1);
        self.has_unknown = true;
        let id = self.open_exchange(&RequestHead::default(), sink);
        self.end_request_of(id, lost, sink);
    }

    fn end_request(&mut self, sink: &mut dyn Sink) {
        let State::Body(mut body) = std::mem::take(&mut self.requests.state) else { return };
        let Some(id) = self.open.iter().find(|open| open.sending).map(|open| open.id) else { return };
        body.finish(&self.limits, &mut |piece| piece.emit_request(id, sink));
        self.end_request_of(id, body.lost, sink);
    }

    fn end_request_of(&mut self, id: ExchangeId, lost: u64, sink: &mut dyn Sink) {
        if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
            open.sending = false;
            open.lost = open.lost.saturating_add(lost);
            sink.event(id, Event::RequestEnd);
        }
        self.end_answered(sink);
    }

    // Answers.

    fn take_answer<'a>(&mut self, mut bytes: &'a [u8], at_beginning: bool, sink: &mut dyn Sink) -> &'a [u8] {
        match &mut self.answers.state {
            State::Head => self.take_answer_head(bytes, sink),
            State::Body(body) => {
                let Some(open) = self.open.front_mut() else {
                    self.answers.state = State::Lost;
                    return &[];
                };
                let id = open.id;
                if body.push(&mut bytes, &self.limits, &mut |piece| piece.emit_answer(id, sink)).is_err() {
                    self.lose_answers(1, sink);
                    return &[];
                }
                if body.is_done() {
                    self.end_answer(sink);
                }
                bytes
            }
            // The answer to the one request that waits, or to one that was lost too, if it begins here.
            State::Lost if at_beginning && self.open.len() <= 1 && bytes.starts_with(ANSWER) => {
                self.answers.state = State::Head;
                bytes
            }
            State::Lost => {
                if let Some(open) = self.open.front_mut() {
                    open.lost = open.lost.saturating_add(bytes.len() as u64);
                }
                &[]
            }
        }
    }

    fn take_answer_head<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        let asked = self.open.front().map_or(Asked::Unknown, |open| open.asked);
        let parse = |bytes: &[u8]| head::response(bytes, asked);
        match self.answers.head(bytes, self.limits.head, may_begin_response, parse) {
            Ok(Some(((head, framing), rest))) => {
                self.begin_answer(&head, framing, sink);
                rest
            }
            Ok(None) => &[],
            Err(InvalidHead) => {
                self.lose_answers(1, sink);
                &[]
            }
        }
    }

    fn begin_answer(&mut self, head: &ResponseHead, framing: Framing, sink: &mut dyn Sink) {
        if self.open.front().is_some_and(|open| open.answered) {
            // The end of its request, and the beginning of the next one, were lost.
            self.end_front(Ending::Truncated, 1, sink);
            self.has_lost = true;
            self.missed = self.missed.max(1);
            self.requests = Lane { state: State::Lost, head: Vec::new() };
        }
        if self.open.is_empty() {
            self.open_unknown(sink);
        }
        let Some(open) = self.open.front() else { return };
        let id = open.id;
        if framing == Framing::Tunnel {
            sink.event(id, Event::Response(head));
            return self.leave(head, sink);
        }
        if head.status < 200 {
            // An interim answer: the final one follows.
            return;
        }
        sink.event(id, Event::Response(head));
        let body = Body::of_answer(framing, &head.headers);
        let is_done = body.is_done();
        self.answers.state = State::Body(Box::new(body));
        if is_done {
            self.end_answer(sink);
        }
    }

    /// The connection becomes something else (RFC 9110 §7.8, §9.3.6).
    fn leave(&mut self, head: &ResponseHead, sink: &mut dyn Sink) {
        let upgrade = if head.status == 101 { head.headers.get("upgrade").unwrap_or_default() } else { "" };
        let (is_websocket, is_http2) = (upgrade.eq_ignore_ascii_case("websocket"), upgrade.eq_ignore_ascii_case("h2c"));
        if !is_websocket && !is_http2 {
            self.end_front(Ending::Upgraded, 0, sink);
            return self.give_up(Unreadable::Upgraded, sink);
        }
        self.settle_bodies();
        let Some(open) = self.open.pop_front() else { return };
        self.truncate(0, 0, sink);
        self.left = Some(if is_websocket {
            Left::WebSocket { exchange: open.id, extensions: Extensions::agreed(&head.headers), lost: open.lost }
        } else {
            Left::Http2 { exchange: open.id, lost: open.lost }
        });
    }

    fn end_answer(&mut self, sink: &mut dyn Sink) {
        let State::Body(mut body) = std::mem::take(&mut self.answers.state) else { return };
        if let Some(open) = self.open.front_mut() {
            let id = open.id;
            body.finish(&self.limits, &mut |piece| piece.emit_answer(id, sink));
            open.lost = open.lost.saturating_add(body.lost);
            open.answered = true;
            if self.open.len() > 1 && body.lost == 0 && !self.is_pipelined {
                self.is_pipelined = true;
                if self.has_lost {
                    for open in &mut self.open {
                        open.lost = open.lost.saturating_add(1);
                    }
                }
            }
        }
        self.end_answered(sink);
    }

    /// Ends the oldest exchange if both its halves are over.
    fn end_answered(&mut self, sink: &mut dyn Sink) {
        if self.open.front().is_some_and(|open| open.answered && !open.sending) {
            self.end_front(Ending::Complete, 0, sink);
        }
    }

    fn end_front(&mut self, how: Ending, lost: u64, sink: &mut dyn Sink) {
        if let Some(open) = self.open.pop_front() {
            sink.event(open.id, Event::End(End { how, lost: open.lost.saturating_add(lost) }));
        }
        if self.open.is_empty() {
            self.open = VecDeque::new();
        }
    }

    // Losses.

    /// Where the requests are is unknown; the next one begins at the beginning of a push.
    fn lose_requests(&mut self, lost: u64, sink: &mut dyn Sink) {
        self.has_lost = true;
        if let Some(open) = self.open.iter_mut().find(|open| open.sending) {
            open.lost = open.lost.saturating_add(lost);
        }
        self.end_request(sink);
        self.missed = self.missed.saturating_add(lost);
        self.requests = Lane { state: State::Lost, head: Vec::new() };
    }

    /// Where the answers are is unknown: what waits for one is cut short, except for the last, whose answer may still begin.
    fn lose_answers(&mut self, lost: u64, sink: &mut dyn Sink) {
        self.has_lost = true;
        let keep = usize::from(!matches!(self.answers.state, State::Body(_)) || self.open.len() > 1);
        if let State::Body(body) = &self.answers.state
            && let Some(open) = self.open.front_mut()
        {
            open.lost = open.lost.saturating_add(body.lost);
        }
        self.answers = Lane { state: State::Lost, head: Vec::new() };
        // Of two exchanges the older one was over, for the client, when the younger began: an answer that begins next is a whole one.
        let is_last_whole = self.open.len() == 2 && !self.is_pipelined;
        if !is_last_whole && let Some(open) = self.open.back_mut() {
            open.lost = open.lost.saturating_add(lost);
        }
        self.truncate(keep, lost, sink);
        if !self.open.iter().any(|open| open.sending)
            && let State::Body(_) = self.requests.state
        {
            // The exchange is over, and the rest of its request is of no interest.
            self.requests.state = State::Lost;
            self.missed = self.missed.max(1);
        }
    }

    /// What the unfinished bodies lost is what their exchanges lost.
    fn settle_bodies(&mut self) {
        if let State::Body(body) = &mut self.answers.state
            && let Some(open) = self.open.front_mut()
        {
            open.lost = open.lost.saturating_add(std::mem::take(&mut body.lost));
        }
        if let State::Body(body) = &mut self.requests.state
            && let Some(open) = self.open.iter_mut().find(|open| open.sending)
        {
            open.lost = open.lost.saturating_add(std::mem::take(&mut body.lost));
        }
    }

    /// Cuts all but the last `keep` exchanges short.
    fn truncate(&mut self, keep: usize, lost: u64, sink: &mut dyn Sink) {
        while self.open.len() > keep {
            self.end_front(Ending::Truncated, lost, sink);
        }
    }

    fn give_up(&mut self, why: Unreadable, sink: &mut dyn Sink) {
        self.settle_bodies();
        self.truncate(0, 1, sink);
        self.left = Some(Left::Unreadable(why));
    }
}

impl Lane {
    /// Takes from the front of `bytes` until a head is whole, and parses it. With `None` more bytes are needed.
    fn head<'a, T>(
        &mut self,
        mut bytes: &'a [u8],
        limit: usize,
        may_begin: impl Fn(&[u8]) -> bool,
        parse: impl FnOnce(&[u8]) -> Result<T, InvalidHead>,
    ) -> Result<Option<(T, &'a [u8])>, InvalidHead> {
        let searched = self.head.len();
        if searched == 0 {
            // Empty lines before a message are allowed (RFC 9112 §2.2).
            let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n')).unwrap_or(bytes.len());
            bytes = bytes.get(begin..).unwrap_or_default();
            if bytes.is_empty() {
                return Ok(None);
            }
            if !may_begin(bytes) {
                return Err(InvalidHead);
            }
            // A head that came in one piece is read where it is.
            if let Some(end) = head::end(bytes.get(..bytes.len().min(limit)).unwrap_or_default(), 0) {
                let (head, rest) = bytes.split_at(end);
                return parse(head).map(|parsed| Some((parsed, rest)));
            }
        }
        let room = limit.saturating_sub(searched);
        self.head.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        if let Some(end) = head::end(&self.head, searched) {
            let whole = std::mem::take(&mut self.head);
            let parsed = parse(whole.get(..end).unwrap_or_default())?;
            return Ok(Some((parsed, bytes.get(end.saturating_sub(searched)..).unwrap_or_default())));
        }
        if !may_begin(&self.head) || self.head.len() >= limit {
            self.head = Vec::new();
            return Err(InvalidHead);
        }
        Ok(None)
    }

    /// Between two messages.
    fn is_between(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }
}

#[cfg(test)]
mod tests;
