use std::fmt::Write as _;

use proptest::prelude::*;

use super::{Connection, Limits};
use crate::wire::{Direction, Event, ExchangeId, Sink, StreamOffset, Unreadable};

/// Writes down what happens, body pieces joined: how a body is cut is not part of the result.
#[derive(Default)]
struct Trace {
    text: String,
    body: Option<(ExchangeId, &'static str, Vec<u8>)>,
}

impl Trace {
    fn flush(&mut self) {
        if let Some((id, what, bytes)) = self.body.take() {
            writeln!(self.text, "{} {what} {:?}", id.0, String::from_utf8_lossy(&bytes)).expect("a string");
        }
    }

    fn piece(&mut self, id: ExchangeId, what: &'static str, data: &[u8]) {
        if self.body.as_ref().is_none_or(|(i, w, _)| (*i, *w) != (id, what)) {
            self.flush();
            self.body = Some((id, what, Vec::new()));
        }
        if let Some((_, _, bytes)) = &mut self.body {
            bytes.extend_from_slice(data);
        }
    }
}

impl Sink for Trace {
    fn event(&mut self, id: ExchangeId, event: Event<'_>) {
        match event {
            Event::RequestBody(data) => return self.piece(id, "request body", data),
            Event::ResponseBody(data) => return self.piece(id, "answer body", data),
            _ => self.flush(),
        }
        let line = match event {
            Event::Request(head) => format!("{} {} {:?}", head.method, head.target, head.host),
            Event::RequestEnd => "request end".into(),
            Event::Response(head) => format!("answer {}", head.status),
            Event::Message(message) => {
                let cut = if message.truncated { " cut" } else { "" };
                format!("message {:?} {:?}{cut}", message.event, String::from_utf8_lossy(message.data))
            }
            Event::End(end) => format!("{:?} lost {}", end.how, end.lost),
            Event::RequestBody(_) | Event::ResponseBody(_) => String::new(),
        };
        writeln!(self.text, "{} {line}", id.0).expect("a string");
    }

    fn unreadable(&mut self, why: Unreadable) {
        self.flush();
        writeln!(self.text, "unreadable: {why}").expect("a string");
    }
}

/// What a connection carried: `>` is sent by the client, `<` by the server.
type Script = Vec<(Direction, Vec<u8>)>;

fn script(text: &str) -> Script {
    text.lines()
        .map(|line| {
            let (direction, bytes) = line.split_at(1);
            let direction = if direction == ">" { Direction::Request } else { Direction::Response };
            (direction, bytes.replace("\\r", "\r").replace("\\n", "\n").into_bytes())
        })
        .collect()
}

/// Plays a script, each entry cut into pieces of `size` bytes, without the bytes of `hole`.
fn play(script: &Script, size: usize, hole: Option<&(Direction, std::ops::Range<u64>)>) -> String {
    let (mut connection, mut trace) = (Connection::new(Limits::default()), Trace::default());
    let (mut sent, mut received) = (0_u64, 0_u64);
    for (index, (direction, bytes)) in script.iter().enumerate() {
        // A record begins where a request does: the last exchange comes in one piece each way.
        let size = if index + 2 >= script.len() { usize::MAX } else { size };
        for piece in bytes.chunks(size) {
            let at = if *direction == Direction::Request { &mut sent } else { &mut received };
            let offset = *at;
            *at += piece.len() as u64;
            if hole.is_some_and(|(d, range)| {
                d == direction && range.start < offset + piece.len() as u64 && range.end > offset
            }) {
                continue;
            }
            connection.push(*direction, StreamOffset(offset), piece, &mut trace);
        }
    }
    connection.close(&mut trace);
    trace.flush();
    trace.text
}

fn whole(text: &str) -> String {
    play(&script(text), usize::MAX, None)
}

const KEEP_ALIVE: &str = r"
>POST /v1/chat/completions HTTP/1.1\r\nHost: API.example\r\nContent-Length: 2\r\n\r\n{}
<HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\q\:1}
>GET /v1/models HTTP/1.1\r\nHost: api.example\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n
<9\r\ndata: 2\n\n\r\n0\r\n\r\n
>HEAD / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

fn keep_alive() -> Script {
    script(KEEP_ALIVE.trim_start())
}

#[test]
fn keep_alive_interim_chunked_and_head() {
    insta::assert_snapshot!(play(&keep_alive(), usize::MAX, None), @r#"
    0 POST /v1/chat/completions Some("api.example")
    0 request body "{}"
    0 request end
    0 answer 200
    0 answer body "{\\q\\:1}"
    0 Complete lost 0
    1 GET /v1/models Some("api.example")
    1 request end
    1 answer 200
    1 message None "1"
    1 message None "2"
    1 Complete lost 0
    2 HEAD / None
    2 request end
    2 answer 200
    2 Complete lost 0
    "#);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    insta::assert_snapshot!(whole(r">GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 204 No Content\r\n\r\n"), @r#"
    0 GET /a None
    0 request end
    1 GET /b None
    1 request end
    0 answer 200
    0 answer body "a"
    0 Complete lost 0
    1 answer 204
    1 Complete lost 0
    "#);
}

#[test]
fn an_early_answer_waits_for_its_request() {
    insta::assert_snapshot!(whole(r">POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nab
<HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n
>cd
>GET /b HTTP/1.1\r\n\r\n"), @r#"
    0 POST /a None
    0 request body "ab"
    0 answer 413
    0 request body "cd"
    0 request end
    0 Complete lost 0
    1 GET /b None
    1 request end
    1 Truncated lost 0
    "#);
}

#[test]
fn close_delimited_bodies_are_complete_at_the_end_and_others_are_not() {
    let close = r">GET / HTTP/1.0\r\n\r\n
<HTTP/1.0 200 OK\r\n\r\nall of it";
    assert!(whole(close).ends_with("0 answer body \"all of it\"\n0 Complete lost 0\n"));
    let short = r">GET / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf of it";
    assert!(whole(short).ends_with("0 answer body \"half of it\"\n0 Truncated lost 0\n"));
}

#[test]
fn a_coding_without_a_body_loses_nothing() {
    let head = whole(
        r">HEAD / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n",
    );
    assert!(head.ends_with("0 answer 200\n0 Complete lost 0\n"), "{head}");
}

#[test]
fn what_cannot_be_read_is_said() {
    assert_eq!(
        whole(r">PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        "unreadable: the connection speaks HTTP/2, which is not parsed yet\n"
    );
    assert_eq!(whole(r">not http at all"), "unreadable: the bytes are not HTTP/1.x\n");
    let upgraded = whole(
        r">GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n
<HTTP/1.1 101 Switching Protocols\r\n\r\nxxx",
    );
    assert!(upgraded.contains("0 Upgraded lost 0\nunreadable: the connection was upgraded"), "{upgraded}");
    let coded = whole(
        r">GET / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert!(coded.ends_with("0 answer 200\n0 Complete lost 3\n"), "{coded}");
}

#[test]
fn an_answer_whose_request_was_lost_still_counts() {
    let script = script(
        r">GET /a HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n
>GET /lost HTTP/1.1\r\n\r\n
>xx
<HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    );
    let start = script[0].1.len() as u64;
    let trace = play(&script, usize::MAX, Some(&(Direction::Request, start..start + 1)));
    assert!(trace.ends_with("1   None\n1 answer 200\n1 answer body \"{}\"\n1 Complete lost 22\n"), "{trace}");
}

#[test]
fn memory_stays_small_under_a_body_of_any_size() {
    struct Count(u64);
    impl Sink for Count {
        fn event(&mut self, _: ExchangeId, event: Event<'_>) {
            if let Event::ResponseBody(data) = event {
                self.0 += data.len() as u64;
            }
        }
        fn unreadable(&mut self, why: Unreadable) {
            panic!("{why}");
        }
    }
    let (mut connection, mut count, size) = (Connection::new(Limits::default()), Count(0), 1_u64 << 30);
    connection.push(Direction::Request, StreamOffset(0), b"GET / HTTP/1.1\r\n\r\n", &mut count);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n");
    connection.push(Direction::Response, StreamOffset(0), head.as_bytes(), &mut count);
    let piece = vec![b'x'; 1 << 20];
    for at in (0..size).step_by(piece.len()) {
        connection.push(Direction::Response, StreamOffset(head.len() as u64 + at), &piece, &mut count);
    }
    assert_eq!(count.0, size);
    assert!(connection.answers.head.capacity() + connection.requests.head.capacity() <= 2 * 64 * 1024);
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_trace(size in 1_usize..40) {
        prop_assert_eq!(play(&keep_alive(), size, None), play(&keep_alive(), usize::MAX, None));
    }

    /// Lost bytes are never passed over: what is said to be whole is as it was, and the connection is read again afterwards.
    #[test]
    fn any_loss_is_marked(direction in prop::bool::ANY, start in 0_u64..330, length in 1_u64..60, size in 1_usize..60) {
        let direction = if direction { Direction::Request } else { Direction::Response };
        let mut script = keep_alive();
        script.extend(self::script(r">GET /last HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast"));
        let total: u64 = script.iter().filter(|(d, _)| *d == direction).map(|(_, bytes)| bytes.len() as u64).sum();
        // The last exchange stays as it is.
        let last: u64 = if direction == Direction::Request { 23 } else { 42 };
        let end_of_rest = total - last - size as u64;
        let start = start % end_of_rest;
        let end = (start + length).min(end_of_rest);
        let perfect = play(&script, usize::MAX, None);
        let trace = play(&script, size, Some(&(direction, start..end)));
        let blocks = |text: &str| -> Vec<String> {
            text.split_inclusive("lost 0\n").filter(|block| block.ends_with("Complete lost 0\n")).map(|block| {
                let lines: Vec<&str> = block.lines().collect();
                let id = lines.last().and_then(|line| line.split(' ').next()).unwrap_or_default().to_owned();
                lines.iter().filter(|line| line.starts_with(&id)).map(|line| line.split_once(' ').map_or("", |(_, rest)| rest)).collect::<Vec<_>>().join("|")
            }).collect()
        };
        let known = blocks(&perfect);
        for block in blocks(&trace) {
            prop_assert!(known.contains(&block), "{block:?} is called complete in\n{trace}");
        }
        prop_assert!(trace.contains("answer body \"last\""), "{}", trace);
    }

    #[test]
    fn arbitrary_bytes_never_panic(pieces in prop::collection::vec((prop::bool::ANY, 0_u64..200, prop::collection::vec(any::<u8>(), 0..60)), 0..20)) {
        let (mut connection, mut trace) = (Connection::new(Limits { head: 100, message: 50, pipelined: 3 }), Trace::default());
        for (direction, offset, bytes) in pieces {
            let direction = if direction { Direction::Request } else { Direction::Response };
            connection.push(direction, StreamOffset(offset), &bytes, &mut trace);
        }
        connection.close(&mut trace);
    }

    #[test]
    fn hostile_heads_never_panic(
        request in "(GET|POST|HEAD) / HTTP/1.1\r\n((Content-Length|Transfer-Encoding): (chunked|1|18446744073709551615|x)\r\n){0,3}\r\n[0-9a-f\r\n]{0,20}",
        answer in "HTTP/1.1 (100|101|200|204|304) X\r\n((Content-Length|Transfer-Encoding|Content-Encoding|Content-Type): (chunked|gzip|deflate|9|text/event-stream)\r\n){0,3}\r\n[0-9a-fx\r\n:]{0,30}",
        size in 1_usize..20,
    ) {
        play(&vec![(Direction::Request, request.into_bytes()), (Direction::Response, answer.into_bytes())], size, None);
    }
}
