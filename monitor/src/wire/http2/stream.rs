//! One stream of HTTP/2: an exchange.

use crate::wire::{
    Direction, End, Ending, Event, ExchangeId, Limits, ResponseHead, Sink, body::Body, http1::Framing,
    websocket::WebSocket,
};

pub struct Stream {
    pub id: ExchangeId,
    pub request: Half,
    pub answer: Half,
    /// The stream became, or is to become, a WebSocket.
    pub is_websocket: bool,
    pub socket: Option<Box<WebSocket>>,
    /// Bytes of the answer's body that have not come, where its head said how many there are: a client may leave when it has them all, before the
    /// frame that ends the stream.
    pub awaited: Option<u64>,
    /// Bytes of it that are missing, apart from those that its bodies know of.
    pub lost: u64,
}

pub enum Half {
    /// Before its final field section.
    Head,
    Body(Box<Body>),
    Done,
}

impl Half {
    fn window(&self) -> usize {
        if let Self::Body(body) = self { body.window() } else { 0 }
    }
}

impl Stream {
    pub fn new(id: ExchangeId) -> Self {
        Self { id, request: Half::Head, answer: Half::Head, is_websocket: false, socket: None, awaited: None, lost: 0 }
    }

    pub fn window(&self) -> usize {
        self.request.window() + self.answer.window()
    }

    pub fn is_done(&self) -> bool {
        matches!((&self.request, &self.answer), (Half::Done, Half::Done))
    }

    pub fn push(&mut self, direction: Direction, mut data: &[u8], limits: &Limits, sink: &mut dyn Sink) {
        let id = self.id;
        if let Some(socket) = &mut self.socket {
            return socket.push(direction, data, limits, sink);
        }
        if direction == Direction::Response && matches!(self.answer, Half::Head) {
            // Its fields were not seen; the body may still tell what it is.
            self.lost = self.lost.saturating_add(1);
            let head = ResponseHead { status: 200, headers: Default::default() };
            sink.event(id, Event::Response(&head));
            self.answer = Half::Body(Box::new(Body::of_answer(Framing::Close, &head.headers)));
        }
        match (direction, &mut self.request, &mut self.answer) {
            (Direction::Request, Half::Body(body), _) => {
                // A body without a length of its own cannot get out of step.
                let _ = body.push(&mut data, limits, &mut |piece| piece.emit_request(id, sink));
            }
            (Direction::Response, _, Half::Body(body)) => {
                self.awaited = self.awaited.map(|awaited| awaited.saturating_sub(data.len() as u64));
                let _ = body.push(&mut data, limits, &mut |piece| piece.emit_answer(id, sink));
                if self.awaited == Some(0) {
                    self.finish(Direction::Response, limits, sink);
                }
            }
            _ => {}
        }
    }

    pub fn lose(&mut self, direction: Direction, lost: u64, limits: &Limits, sink: &mut dyn Sink) {
        if let Some(socket) = &mut self.socket {
            return socket.lose(direction, lost, limits, sink);
        }
        let half = match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.answer,
        };
        match half {
            Half::Body(body) => {
                if direction == Direction::Response {
                    // What was lost may be of other streams.
                    self.awaited = None;
                }
                let _ = body.skip(lost);
            }
            // Its head may have been in what was lost.
            Half::Head => self.lost = self.lost.saturating_add(lost),
            Half::Done => {}
        }
    }

    pub fn finish(&mut self, direction: Direction, limits: &Limits, sink: &mut dyn Sink) {
        let id = self.id;
        let half = match direction {
            Direction::Request => &mut self.request,
            Direction::Response => &mut self.answer,
        };
        let mut body = match std::mem::replace(half, Half::Done) {
            Half::Body(body) => body,
            Half::Head => {
                // It ends without having begun.
                self.lost = self.lost.saturating_add(1);
                return;
            }
            Half::Done => return,
        };
        match direction {
            Direction::Request => {
                body.finish(limits, &mut |piece| piece.emit_request(id, sink));
                sink.event(id, Event::RequestEnd);
            }
            Direction::Response => body.finish(limits, &mut |piece| piece.emit_answer(id, sink)),
        }
        self.lost = self.lost.saturating_add(body.lost);
    }

    /// Nothing more of the answer will come. What a decoder or an unfinished message still has is part of what came.
    pub fn cut_short(&mut self, limits: &Limits, sink: &mut dyn Sink) {
        let (id, Half::Body(body)) = (self.id, &mut self.answer) else { return };
        let lost = body.lost;
        body.finish(limits, &mut |piece| piece.emit_answer(id, sink));
        body.lost = lost;
    }

    pub fn end(mut self, how: Ending, sink: &mut dyn Sink) {
        for half in [&self.request, &self.answer] {
            if let Half::Body(body) = half {
                self.lost = self.lost.saturating_add(body.lost);
            }
        }
        if let Some(socket) = &mut self.socket {
            self.lost = self.lost.saturating_add(socket.lost());
        }
        sink.event(self.id, Event::End(End { how, lost: self.lost }));
    }
}
