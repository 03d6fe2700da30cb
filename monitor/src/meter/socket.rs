//! The calls on one WebSocket: each is told as an exchange of its own, as if it had been a request of HTTP and a streamed answer.
//!
//! Responses API ("WebSocket mode"): `response.create` asks, one at a time, and `response.completed`, `.incomplete`, `.failed` or `error` ends.
//! Realtime API ("Realtime client events", "server events"): `response.create` asks, or the server begins by itself when someone has
//! spoken, and `response.done` ends; what hears the input to write it down is a model of its own. Gemini's Live API: each turn is a call.

use super::json::{Node, Skimmer};
use crate::wire::{Direction, End, Ending, Event, Field, Message, RequestHead, ResponseHead};

/// Ordinal of a call on its WebSocket.
pub type CallNumber = u64;

/// Follows one WebSocket.
pub struct Socket {
    host: Option<Box<str>>,
    kind: Kind,
    /// The model of the session.
    model: Option<Box<str>>,
    /// The model that writes down what is heard.
    hearing: Option<Box<str>>,
    open: Vec<Call>,
    count: CallNumber,
    /// The server has said something.
    has_answers: bool,
    /// Messages were lost while no call was open: there may have been calls in them.
    may_have_lost_calls: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Responses,
    Realtime,
    Live,
}

struct Call {
    number: CallNumber,
    id: Option<Box<str>>,
    has_head: bool,
    /// Messages were lost while it was open.
    lost: u64,
}

/// Calls that can be open at once; of more, the oldest is given up.
const OPEN: usize = 16;

/// Receives the calls' events.
type Out<'a> = &'a mut dyn FnMut(CallNumber, Event<'_>);

impl Socket {
    /// By the head of the request that asked for the upgrade.
    pub fn new(head: &RequestHead) -> Self {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let kind = if path.contains("BidiGenerateContent") {
            Kind::Live
        } else if path.contains("realtime") {
            Kind::Realtime
        } else {
            Kind::Responses
        };
        let parameter = |wanted: &str| {
            let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.filter(|(name, _)| *name == wanted).map(|(_, value)| super::dialect::percent_decoded(value)).next()
        };
        let model = parameter("model").or_else(|| parameter("deployment"));
        Self {
            host: head.host.clone(),
            kind,
            model: model.map(|model| model.into_owned().into()),
            hearing: None,
            open: Vec::new(),
            count: 0,
            has_answers: false,
            may_have_lost_calls: false,
        }
    }

    /// The server talks, and none of it was a call that is known; or what it said when no call was open is lost.
    pub fn is_unread(&self) -> bool {
        (self.has_answers && self.count == 0) || self.may_have_lost_calls
    }

    /// Takes the next message.
    pub fn message(&mut self, direction: Direction, message: &Message<'_>, out: Out<'_>) {
        if message.data.is_empty() && message.truncated {
            self.open.iter_mut().for_each(|call| call.lost += 1);
            self.may_have_lost_calls |= self.open.is_empty();
            return;
        }
        let (node, _) = Skimmer::read(message.data, &mut ());
        let kind = node.get("type").and_then(Node::text).unwrap_or_default();
        match (direction, self.kind) {
            (Direction::Request, Kind::Live) => self.live_request(&node, out),
            (Direction::Response, Kind::Live) => self.live_answer(&node, message, out),
            (Direction::Request, _) => match kind {
                "response.create" => self.ask(&node, message.data, out),
                "session.update" => self.take_session(&node),
                _ => {}
            },
            (Direction::Response, _) => self.answer(kind, &node, message, out),
        }
    }

    /// The connection ended: what was in flight is cut short.
    pub fn close(&mut self, end: End, out: Out<'_>) {
        for call in std::mem::take(&mut self.open) {
            out(call.number, Event::End(End { how: Ending::Truncated, lost: end.lost.max(call.lost) }));
        }
    }

    fn take_session(&mut self, node: &Node) {
        let text = |path: &[&str]| node.path(path).and_then(Node::text).map(Into::into);
        self.model = text(&["session", "model"]).or(self.model.take());
        let hearing = text(&["session", "audio", "input", "transcription", "model"])
            .or_else(|| text(&["session", "input_audio_transcription", "model"]));
        self.hearing = hearing.or(self.hearing.take());
    }

    fn ask(&mut self, node: &Node, body: &[u8], out: Out<'_>) {
        let has_model = node.get("model").is_some();
        let model = self.model.clone().filter(|_| !has_model);
        self.begin("/v1/responses", body, model.as_deref(), out);
        if self.kind == Kind::Responses
            && let Some(model) = node.get("model").and_then(Node::text)
        {
            self.model = Some(model.into());
        }
    }

    /// Opens a call. Its index is that of the last one.
    fn begin(&mut self, target: &str, body: &[u8], model: Option<&str>, out: Out<'_>) {
        if self.open.len() >= OPEN {
            let oldest = self.open.remove(0);
            out(oldest.number, Event::End(End { how: Ending::Truncated, lost: 1 }));
        }
        self.count += 1;
        let number = self.count;
        let head = RequestHead {
            method: "POST".into(),
            target: target.into(),
            host: self.host.clone(),
            ..RequestHead::default()
        };
        out(number, Event::Request(&head));
        if !body.is_empty() {
            out(number, Event::RequestBody(body));
        }
        if let Some(model) = model {
            out(number, Event::RequestField(Field { name: "model", value: model.as_bytes(), is_file: false }));
        }
        out(number, Event::RequestEnd);
        self.open.push(Call { number, id: None, has_head: false, lost: 0 });
    }

    fn answer(&mut self, kind: &str, node: &Node, message: &Message<'_>, out: Out<'_>) {
        self.has_answers = true;
        match kind {
            "session.created" | "session.updated" => self.take_session(node),
            "conversation.item.input_audio_transcription.completed" => self.heard(message.data, out),
            // In a realtime session, a wrong message of the client; else the end of the call.
            "error" => {
                let waiting = self.open.iter().position(|call| call.id.is_none() || self.kind == Kind::Responses);
                if let Some(index) = waiting {
                    self.tell(index, kind, message, out);
                    self.end(index, out);
                }
            }
            _ if kind.starts_with("response.") => self.take_response(kind, node, message, out),
            _ => {}
        }
    }

    fn take_response(&mut self, kind: &str, node: &Node, message: &Message<'_>, out: Out<'_>) {
        let id = node.path(&["response", "id"]).or_else(|| node.get("response_id")).and_then(Node::text);
        let known = self.open.iter().position(|call| call.id.is_some() && call.id.as_deref() == id);
        let index = match (known, id) {
            (Some(index), _) => index,
            // Answers come in the order of what asked for them.
            (None, Some(_)) => match self.open.iter().position(|call| call.id.is_none()) {
                Some(index) => index,
                None => {
                    let model = self.model.clone();
                    self.begin("/v1/responses", b"", model.as_deref(), out);
                    self.open.len() - 1
                }
            },
            (None, None) if self.open.is_empty() => return,
            (None, None) => self.open.len() - 1,
        };
        if let (Some(call), Some(id)) = (self.open.get_mut(index), id) {
            call.id = Some(id.into());
        }
        self.tell(index, kind, message, out);
        let ends =
            ["response.completed", "response.incomplete", "response.failed", "response.done", "response.cancelled"];
        if ends.contains(&kind) {
            self.end(index, out);
        }
    }

    fn tell(&mut self, index: usize, kind: &str, message: &Message<'_>, out: Out<'_>) {
        let Some(call) = self.open.get_mut(index) else { return };
        if !std::mem::replace(&mut call.has_head, true) {
            out(call.number, Event::Response(&ResponseHead { status: 200, headers: Default::default() }));
        }
        out(call.number, Event::Message(Message { event: Some(kind), ..*message }));
    }

    fn end(&mut self, index: usize, out: Out<'_>) {
        if index < self.open.len() {
            let call = self.open.remove(index);
            out(call.number, Event::End(End { how: Ending::Complete, lost: call.lost }));
        }
    }

    fn heard(&mut self, data: &[u8], out: Out<'_>) {
        let model = self.hearing.clone();
        self.begin("/v1/audio/transcriptions", b"", model.as_deref(), out);
        if let Some(call) = self.open.pop() {
            out(call.number, Event::Response(&ResponseHead { status: 200, headers: Default::default() }));
            out(call.number, Event::ResponseBody(data));
            out(call.number, Event::End(End { how: Ending::Complete, lost: 0 }));
        }
    }

    fn live_request(&mut self, node: &Node, out: Out<'_>) {
        if let Some(model) = node.path(&["setup", "model"]).and_then(Node::text) {
            self.model = Some(model.into());
        }
        // What the last turn used has been said by now.
        if node.get("clientContent").is_some() || node.get("realtimeInput").is_some() {
            self.end_over(out);
        }
    }

    fn live_answer(&mut self, node: &Node, message: &Message<'_>, out: Out<'_>) {
        self.has_answers = true;
        let content = node.get("serverContent");
        let has_usage = node.get("usageMetadata").is_some();
        if content.is_none() && !has_usage && node.get("toolCall").is_none() {
            return;
        }
        if content.is_some_and(|content| content.get("modelTurn").is_some()) {
            self.end_over(out);
        }
        if self.open.is_empty() {
            let model = self.model.clone().unwrap_or_default();
            let model = model.strip_prefix("models/").unwrap_or(&model);
            self.begin(&format!("/v1beta/models/{model}:streamGenerateContent"), b"", None, out);
        }
        self.tell(0, "", message, out);
        let is_over = content.is_some_and(|content| content.get("turnComplete").is_some_and(Node::is_true));
        if let Some(call) = self.open.first_mut()
            && is_over
        {
            call.id = Some("over".into());
        }
        if has_usage {
            self.end_over(out);
        }
    }

    /// Ends a turn of which everything was said.
    fn end_over(&mut self, out: Out<'_>) {
        if self.open.first().is_some_and(|call| call.id.is_some()) {
            self.end(0, out);
        }
    }
}
