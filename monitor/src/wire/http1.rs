//! HTTP/1.x on one connection: requests one way, answers the other, paired in order (RFC 9112).

mod chunked;
mod head;

use std::collections::VecDeque;

pub use self::{
    chunked::Chunked,
    head::{Framing, begins_request, may_begin_request, may_begin_response},
};
use super::{
    Direction, End, Ending, Event, ExchangeId, Limits, RequestHead, Sink, Unreadable, body::Body, websocket::Extensions,
};

/// Follows the two directions of a connection.
pub struct Http1 {
    limits: Limits,
    requests: Lane,
    answers: Lane,
    /// Exchanges without an end yet, oldest first. The oldest is the one that is being answered.
    open: VecDeque<Open>,
    next: u64,
    left: Option<Left>,
}

/// The connection is no longer HTTP/1.x, and what it is now.
#[derive(Debug, Clone, Copy)]
pub enum Left {
    /// The exchange goes on as a WebSocket.
    WebSocket {
        exchange: ExchangeId,
        extensions: Extensions,
    },
    Unreadable(Unreadable),
}

/// One direction.
#[derive(Default)]
struct Lane {
    state: State,
    head: Vec<u8>,
    /// Bytes were lost since the last head, so a message may have been missed.
    missed: u64,
}

#[derive(Default)]
enum State {
    /// Before or in a head.
    #[default]
    Head,
    Body(Body),
    /// Where the next message begins is unknown; one is looked for at the beginning of each push.
    Lost,
}

struct Open {
    id: ExchangeId,
    method: Box<str>,
    /// The request is still being sent.
    sending: bool,
    answered: bool,
    lost: u64,
}

impl Http1 {
    pub fn new(limits: Limits) -> Self {
        Self { limits, requests: Lane::default(), answers: Lane::default(), open: VecDeque::new(), next: 0, left: None }
    }

    /// Takes the next bytes of one direction. What is handed back comes after the connection has [left](Self::left) HTTP/1.x.
    pub fn push<'a>(&mut self, direction: Direction, mut bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        let mut at_beginning = true;
        while !bytes.is_empty() && self.left.is_none() {
            bytes = match direction {
                Direction::Request => self.take_request(bytes, at_beginning, sink),
                Direction::Response => self.take_answer(bytes, sink),
            };
            at_beginning = false;
        }
        bytes
    }

    /// Whether, and for what, the connection has left HTTP/1.x.
    pub fn left(&self) -> Option<Left> {
        self.left
    }

    /// `lost` bytes of a direction never reached us.
    pub fn lose(&mut self, direction: Direction, lost: u64, sink: &mut dyn Sink) {
        let lane = self.lane(direction);
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
            Direction::Request => {
                if let Some(open) = self.open.iter_mut().find(|open| open.sending) {
                    open.lost = open.lost.saturating_add(lost);
                }
                self.end_request(sink);
                self.requests.missed = self.requests.missed.saturating_add(lost);
                self.requests.head.clear();
                self.requests.state = State::Lost;
            }
            Direction::Response => self.lose_answers(lost, sink),
        }
    }

    /// The connection ended. Bodies that last until the end are complete, everything else is cut short.
    pub fn close(&mut self, sink: &mut dyn Sink) {
        if let State::Body(body) = &mut self.answers.state
            && body.ends_with_connection()
            && let Some(open) = self.open.front_mut()
        {
            let id = open.id;
            body.finish(&self.limits, &mut |piece| piece.emit_answer(id, sink));
            open.lost = open.lost.saturating_add(body.lost);
            open.answered = true;
            self.answers.state = State::Head;
            self.end_answered(sink);
        }
        // What a decoder or an unfinished message still has is part of what came.
        if let (State::Body(body), Some(open)) = (&mut self.answers.state, self.open.front()) {
            let id = open.id;
            let lost_before = body.lost;
            body.finish(&self.limits, &mut |piece| piece.emit_answer(id, sink));
            body.lost = lost_before;
        }
        self.truncate_all(0, sink);
        self.requests = Lane::default();
        self.answers = Lane::default();
    }

    fn lane(&mut self, direction: Direction) -> &mut Lane {
        match direction {
            Direction::Request => &mut self.requests,
            Direction::Response => &mut self.answers,
        }
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
                    open.lost = open.lost.saturating_add(1);
                    self.end_request(sink);
                    self.requests.state = State::Lost;
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
                self.requests.head.clear();
                bytes
            }
        }
    }

    fn take_request_head<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        // Empty lines before a request line are allowed (RFC 9112 §2.2).
        if self.requests.head.is_empty() && matches!(bytes.first(), Some(b'\r' | b'\n')) {
            return bytes.get(1..).unwrap_or_default();
        }
        let searched = self.requests.head.len();
        let room = self.limits.head.saturating_sub(searched);
        self.requests.head.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        let whole = &self.requests.head;
        let Some(end) = head::end(whole, searched) else {
            if !may_begin_request(whole) || whole.len() >= self.limits.head {
                self.not_a_request(sink);
            }
            return &[];
        };
        let Ok((head, framing, _)) = head::request(whole.get(..end).unwrap_or_default()) else {
            self.not_a_request(sink);
            return &[];
        };
        self.requests.head.clear();
        self.begin_exchange(&head, framing, sink);
        bytes.get(end - searched..).unwrap_or_default()
    }

    /// After a loss this was a wrong guess of where a request begins; else the connection does not speak HTTP.
    fn not_a_request(&mut self, sink: &mut dyn Sink) {
        if self.requests.missed == 0 {
            return self.give_up(Unreadable::NotHttp, sink);
        }
        self.requests.head.clear();
        self.requests.state = State::Lost;
    }

    fn begin_exchange(&mut self, head: &RequestHead, framing: Framing, sink: &mut dyn Sink) {
        if self.open.len() >= self.limits.pipelined {
            // Nobody pipelines this much: the answers are not coming.
            self.truncate_all(1, sink);
        }
        // A client sends its next request when the last answer is over. Where the two directions no longer fit each other, this is
        // where they begin anew.
        let is_out_of_step = self.requests.missed > 0 || self.open.iter().any(|open| open.method.is_empty());
        if is_out_of_step {
            self.truncate_all(1, sink);
        }
        if is_out_of_step || matches!(self.answers.state, State::Lost) {
            self.answers.state = State::Head;
            self.answers.head.clear();
        }
        self.requests.missed = 0;
        let id = self.open_exchange(head, true, sink);
        let body = Body::of_request(framing, &head.headers);
        if body.is_done() {
            self.requests.state = State::Head;
            self.end_request_of(id, 0, sink);
        } else {
            self.requests.state = State::Body(body);
        }
    }

    fn open_exchange(&mut self, head: &RequestHead, sending: bool, sink: &mut dyn Sink) -> ExchangeId {
        let id = ExchangeId(self.next);
        self.next += 1;
        self.open.push_back(Open { id, method: head.method.clone(), sending, answered: false, lost: 0 });
        sink.event(id, Event::Request(head));
        id
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

    fn take_answer<'a>(&mut self, mut bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        match &mut self.answers.state {
            State::Head => self.take_answer_head(bytes, sink),
            State::Body(body) => {
                let Some(open) = self.open.front_mut() else {
                    self.answers.state = State::Lost;
                    return &[];
                };
                let id = open.id;
                if body.push(&mut bytes, &self.limits, &mut |piece| piece.emit_answer(id, sink)).is_err() {
                    open.lost = open.lost.saturating_add(1);
                    self.lose_answers(1, sink);
                    return &[];
                }
                if body.is_done() {
                    self.end_answer(sink);
                }
                bytes
            }
            State::Lost => &[],
        }
    }

    fn take_answer_head<'a>(&mut self, bytes: &'a [u8], sink: &mut dyn Sink) -> &'a [u8] {
        if self.answers.head.is_empty() && matches!(bytes.first(), Some(b'\r' | b'\n')) {
            return bytes.get(1..).unwrap_or_default();
        }
        let searched = self.answers.head.len();
        let room = self.limits.head.saturating_sub(searched);
        self.answers.head.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
        let whole = &self.answers.head;
        let Some(end) = head::end(whole, searched) else {
            if !may_begin_response(whole) || whole.len() >= self.limits.head {
                self.lose_answers(1, sink);
            }
            return &[];
        };
        if self.open.is_empty() {
            if self.requests.missed == 0 {
                // An answer to nothing that we saw: the capture began in the middle.
                self.answers.state = State::Lost;
                self.answers.head.clear();
                return &[];
            }
            // Its request was lost. What the answer says still costs.
            let lost = std::mem::take(&mut self.requests.missed);
            let id = self.open_exchange(&RequestHead::default(), false, sink);
            if let Some(open) = self.open.iter_mut().find(|open| open.id == id) {
                open.lost = lost;
            }
        }
        let Some(open) = self.open.front() else { return &[] };
        let (id, method) = (open.id, open.method.clone());
        let Ok((head, framing, _)) = head::response(self.answers.head.get(..end).unwrap_or_default(), &method) else {
            self.lose_answers(1, sink);
            return &[];
        };
        self.answers.head.clear();
        let rest = bytes.get(end - searched..).unwrap_or_default();
        if framing == Framing::Tunnel {
            sink.event(id, Event::Response(&head));
            let upgrade = head.headers.get("upgrade").unwrap_or_default();
            if head.status == 101 && upgrade.eq_ignore_ascii_case("websocket") {
                self.open.pop_front();
                let extensions = Extensions::agreed(&head.headers);
                self.truncate_all(0, sink);
                self.left = Some(Left::WebSocket { exchange: id, extensions });
                return rest;
            }
            self.end_front(Ending::Upgraded, sink);
            self.give_up(Unreadable::Upgraded, sink);
            return &[];
        }
        if head.status < 200 {
            // An interim answer: the final one follows.
            return rest;
        }
        sink.event(id, Event::Response(&head));
        let body = Body::of_answer(framing, &head.headers);
        let is_done = body.is_done();
        self.answers.state = State::Body(body);
        if is_done {
            self.end_answer(sink);
        }
        rest
    }

    fn end_answer(&mut self, sink: &mut dyn Sink) {
        let State::Body(mut body) = std::mem::take(&mut self.answers.state) else { return };
        if let Some(open) = self.open.front_mut() {
            let id = open.id;
            body.finish(&self.limits, &mut |piece| piece.emit_answer(id, sink));
            open.lost = open.lost.saturating_add(body.lost);
            open.answered = true;
        }
        self.end_answered(sink);
    }

    /// Ends the oldest exchange if both its halves are over.
    fn end_answered(&mut self, sink: &mut dyn Sink) {
        if self.open.front().is_some_and(|open| open.answered && !open.sending) {
            self.end_front(Ending::Complete, sink);
        }
    }

    fn end_front(&mut self, how: Ending, sink: &mut dyn Sink) {
        if let Some(open) = self.open.pop_front() {
            sink.event(open.id, Event::End(End { how, lost: open.lost }));
        }
    }

    // Losses.

    /// Where the answers are is unknown: everything that waits for one is cut short, and the next request begins anew.
    fn lose_answers(&mut self, lost: u64, sink: &mut dyn Sink) {
        if let State::Body(body) = &self.answers.state
            && let Some(open) = self.open.front_mut()
        {
            open.lost = open.lost.saturating_add(body.lost);
        }
        self.answers.state = State::Lost;
        self.answers.head.clear();
        // A request that is still being sent stays open until it is sent; its answer is given up with it.
        self.truncate_all(lost, sink);
        if let State::Body(_) = self.requests.state {
            self.requests.state = State::Lost;
        }
    }

    fn truncate_all(&mut self, lost: u64, sink: &mut dyn Sink) {
        if let State::Body(body) = &self.answers.state
            && let Some(open) = self.open.front_mut()
        {
            open.lost = open.lost.saturating_add(body.lost);
        }
        while let Some(open) = self.open.front_mut() {
            open.lost = open.lost.saturating_add(lost);
            self.end_front(Ending::Truncated, sink);
        }
    }

    fn give_up(&mut self, why: Unreadable, sink: &mut dyn Sink) {
        self.truncate_all(1, sink);
        self.left = Some(Left::Unreadable(why));
    }
}

#[cfg(test)]
mod tests;
