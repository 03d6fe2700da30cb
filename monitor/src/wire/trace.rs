//! What a connection says, written down so that two runs can be compared.

use std::{collections::BTreeMap, ops::Range};

use super::{Connection, Direction, End, Ending, Event, ExchangeId, Limits, Message, Sink, StreamOffset, Unreadable};

/// Writes down what happens to each exchange, body pieces joined: how a body is cut is not part of the result, nor is how exchanges
/// take turns.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Trace {
    pub exchanges: BTreeMap<u64, Exchange>,
    pub unreadable: Vec<String>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub lines: Vec<String>,
    body: Option<(&'static str, Vec<u8>)>,
    pub end: Option<End>,
}

impl Exchange {
    /// Nothing is said to be missing.
    pub fn is_whole(&self) -> bool {
        self.end == Some(End { how: Ending::Complete, lost: 0 })
    }

    fn flush(&mut self) {
        if let Some((what, bytes)) = self.body.take() {
            self.lines.push(format!("{what} {:?}", String::from_utf8_lossy(&bytes)));
        }
    }

    fn piece(&mut self, what: &'static str, data: &[u8]) {
        if self.body.as_ref().is_none_or(|(body, _)| *body != what) {
            self.flush();
            self.body = Some((what, Vec::new()));
        }
        if let Some((_, bytes)) = &mut self.body {
            bytes.extend_from_slice(data);
        }
    }
}

fn message(what: &str, message: &Message<'_>) -> String {
    let cut = if message.truncated { " cut" } else { "" };
    format!("{what} {:?} {:?}{cut}", message.event, String::from_utf8_lossy(message.data))
}

impl Sink for Trace {
    fn event(&mut self, id: ExchangeId, event: Event<'_>) {
        let exchange = self.exchanges.entry(id.0).or_default();
        assert!(exchange.end.is_none(), "an exchange goes on after its end");
        assert_eq!(
            exchange.lines.is_empty() && exchange.body.is_none(),
            matches!(event, Event::Request(_)),
            "one head, first"
        );
        let line = match event {
            Event::RequestBody(data) => return exchange.piece("request body", data),
            Event::ResponseBody(data) => return exchange.piece("answer body", data),
            Event::Request(head) => {
                let fields: Vec<_> = head.headers.iter().collect();
                format!("{} {} {:?} {fields:?}", head.method, head.target, head.host)
            }
            Event::RequestField(field) => {
                let kind = if field.is_file { "file" } else { "field" };
                format!("{kind} {} {:?}", field.name, String::from_utf8_lossy(field.value))
            }
            Event::RequestEnd => "request end".into(),
            Event::Response(head) => {
                let fields: Vec<_> = head.headers.iter().collect();
                format!("answer {} {fields:?}", head.status)
            }
            Event::Message(piece) => message("message", &piece),
            Event::Socket(Direction::Request, piece) => message("> socket", &piece),
            Event::Socket(Direction::Response, piece) => message("< socket", &piece),
            Event::End(end) => {
                exchange.end = Some(end);
                format!("{:?} lost {}", end.how, end.lost)
            }
        };
        exchange.flush();
        exchange.lines.push(line);
    }

    fn unreadable(&mut self, why: Unreadable) {
        self.unreadable.push(why.to_string());
    }
}

impl std::fmt::Display for Trace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (id, exchange) in &self.exchanges {
            for line in &exchange.lines {
                writeln!(f, "{id} {line}")?;
            }
        }
        self.unreadable.iter().try_for_each(|why| writeln!(f, "unreadable: {why}"))
    }
}

/// What a connection carried, in the order of time.
pub type Script = Vec<(Direction, Vec<u8>)>;
/// Bytes of a direction that are lost.
pub type Hole = (Direction, Range<u64>);

/// Plays a script, each entry cut into pieces of these sizes in turn, without the bytes of the holes.
pub fn play(script: &Script, limits: Limits, sizes: &[usize], holes: &[Hole]) -> Trace {
    let (mut connection, mut trace) = (Connection::new(limits), Trace::default());
    let mut sizes = sizes.iter().cycle();
    let (mut sent, mut received) = (0_u64, 0_u64);
    for (direction, bytes) in script {
        let at = if *direction == Direction::Request { &mut sent } else { &mut received };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let hole = holes.iter().find(|(lossy, hole)| lossy == direction && hole.end > *at);
            let is_lost = hole.is_some_and(|(_, hole)| hole.contains(at));
            let until = hole.map_or(u64::MAX, |(_, hole)| if is_lost { hole.end } else { hole.start });
            let most = usize::try_from(until - *at).unwrap_or(usize::MAX);
            let size = if is_lost { most } else { most.min(*sizes.next().expect("sizes")) };
            let (piece, after) = rest.split_at(size.min(rest.len()));
            if !is_lost {
                connection.push(*direction, StreamOffset(*at), piece, &mut trace);
            }
            *at += piece.len() as u64;
            rest = after;
        }
    }
    connection.close(&mut trace);
    trace
}

/// The promise that money rests on.
pub struct Loss;

impl Loss {
    /// Whether every exchange that is called whole, with holes, is one that was there without them, as it was.
    pub fn marked(script: &Script, limits: Limits, sizes: &[usize], holes: &[Hole]) -> Result<(), String> {
        let perfect = play(script, limits, &[usize::MAX], &[]);
        let lossy = play(script, limits, sizes, holes);
        let mut known: Vec<&Exchange> = perfect.exchanges.values().filter(|exchange| exchange.is_whole()).collect();
        for exchange in lossy.exchanges.values().filter(|exchange| exchange.is_whole()) {
            let Some(same) = known.iter().position(|known| *known == exchange) else {
                return Err(format!("called whole: {exchange:#?}\nof\n{lossy}"));
            };
            known.remove(same);
        }
        Ok(())
    }
}
