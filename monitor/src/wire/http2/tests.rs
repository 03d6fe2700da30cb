//! Real HTTP/2 on both ends, over a pipe in memory that writes down what went through it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client, server};
use http::{HeaderMap, Method, Request, Response};
use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::wire::{
    Connection, Direction, Limits, StreamOffset,
    trace::{Loss, Script, Trace, play},
};

/// The client's end of the pipe, as a probe at its TLS library would see it.
struct Recorded {
    inner: DuplexStream,
    script: Arc<Mutex<Script>>,
}

impl AsyncRead for Recorded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.inner).poll_read(cx, buf);
        let read = buf.filled()[before..].to_vec();
        if !read.is_empty() {
            self.script.lock().expect("a lock").push((Direction::Response, read));
        }
        result
    }
}

impl AsyncWrite for Recorded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = &result
            && *written > 0
        {
            self.script.lock().expect("a lock").push((Direction::Request, bytes[..*written].to_vec()));
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What the server does with a request, by its path.
async fn answer(mut request: Request<RecvStream>, mut respond: server::SendResponse<Bytes>) {
    let path = request.uri().path().to_owned();
    if path == "/refused" {
        respond.send_reset(Reason::REFUSED_STREAM);
        return;
    }
    while let Some(data) = request.body_mut().data().await {
        let Ok(data) = data else { return };
        let _ = request.body_mut().flow_control().release_capacity(data.len());
    }
    let response = |kind: &str| Response::builder().status(200).header("content-type", kind);
    match path.as_str() {
        "/none" => {
            let none = Response::builder().status(204).body(()).expect("a head");
            respond.send_response(none, true).expect("an answer");
        }
        "/events" | "/leave" | "/unfinished" => {
            let head = response("text/event-stream").body(()).expect("a head");
            let mut stream = respond.send_response(head, false).expect("an answer");
            for number in 0..20 {
                let event = format!("data: {{\"n\":{number}}}\n\n");
                stream.send_data(event.into(), false).expect("data");
                tokio::task::yield_now().await;
            }
            stream.send_data("data: [DONE]\n\n".into(), false).expect("data");
            if path == "/events" {
                stream.send_trailers(HeaderMap::new()).expect("trailers");
            } else {
                wait_for_reset(&mut stream).await;
            }
        }
        "/promise" => {
            let promised = Request::builder().uri("https://api.example/pushed").body(()).expect("a head");
            if let Ok(mut pushed) = respond.push_request(promised) {
                let head = response("text/plain").body(()).expect("a head");
                let mut stream = pushed.send_response(head, false).expect("an answer");
                stream.send_data("nobody asked".into(), true).expect("data");
            }
            let head = response("application/json").body(()).expect("a head");
            respond.send_response(head, false).expect("an answer").send_data("{}".into(), true).expect("data");
        }
        _ => {
            let early = Response::builder().status(103).header("link", "<x>").body(()).expect("a head");
            respond.send_informational(early).expect("an interim answer");
            let long = "v".repeat(if path == "/long" { 40_000 } else { 1 });
            let head = response("application/json").header("x-long", long).body(()).expect("a head");
            let mut stream = respond.send_response(head, false).expect("an answer");
            stream.send_data(format!("{{\"path\":\"{path}\"}}").into(), true).expect("data");
        }
    }
}

async fn wait_for_reset(stream: &mut SendStream<Bytes>) {
    let _ = poll_fn(|cx| stream.poll_reset(cx)).await;
}

/// Asks for these at once, and reads what comes.
async fn ask(send: client::SendRequest<Bytes>, path: &str) {
    let mut send = send.ready().await.expect("a connection");
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("https://api.example{path}"))
        .header("authorization", "Bearer secret")
        .header("x-team", format!("team{path}"))
        .body(())
        .expect("a head");
    let (response, mut body) = send.send_request(request, false).expect("a stream");
    for _ in 0..3 {
        if body.send_data(Bytes::from_static(b"[1,2,3]"), false).is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
    let _ = body.send_data(Bytes::new(), true);
    let Ok(response) = response.await else { return };
    let mut answer = response.into_body();
    while let Some(Ok(data)) = answer.data().await {
        let _ = answer.flow_control().release_capacity(data.len());
        if path == "/leave" && data.ends_with(b"[DONE]\n\n") {
            // Dropping what is not over resets the stream.
            return;
        }
        if path == "/unfinished" && data.ends_with(b"[DONE]\n\n") {
            // The program ends here, and nothing is said to the server.
            std::future::pending::<()>().await;
        }
    }
}

/// A conversation of real implementations: rounds of requests side by side.
fn converse(rounds: &[&[&str]]) -> Script {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let script = Arc::new(Mutex::new(Script::new()));
    let (near, far) = tokio::io::duplex(1 << 16);
    runtime.block_on(async {
        tokio::spawn(async move {
            let mut server = server::handshake(far).await.expect("a client");
            while let Some(Ok((request, respond))) = server.accept().await {
                tokio::spawn(answer(request, respond));
            }
        });
        let recorded = Recorded { inner: near, script: script.clone() };
        let (send, connection) = client::Builder::new()
            .max_header_list_size(1 << 20)
            .handshake::<_, Bytes>(recorded)
            .await
            .expect("a server");
        let connection = tokio::spawn(connection);
        for round in rounds {
            let asked: Vec<_> = round
                .iter()
                .map(|path| {
                    let (send, path) = (send.clone(), (*path).to_owned());
                    tokio::spawn(async move { ask(send, &path).await })
                })
                .collect();
            for asked in asked {
                let _ = tokio::time::timeout(std::time::Duration::from_millis(300), asked).await;
            }
        }
        tokio::task::yield_now().await;
        connection.abort();
    });
    drop(runtime);
    Arc::try_unwrap(script).expect("the connection is over").into_inner().expect("a lock")
}

fn perfect(script: &Script) -> Trace {
    play(script, Limits::default(), &[usize::MAX], &[])
}

/// The exchange that asked for a path.
fn lines(trace: &Trace, path: &str) -> String {
    let wanted = format!("POST {path} ");
    let found = trace.exchanges.values().find(|exchange| exchange.lines[0].starts_with(&wanted));
    found.unwrap_or_else(|| panic!("no {path} in\n{trace}")).lines.join("\n")
}

#[test]
fn real_peers_are_understood() {
    let script = converse(&[
        &["/a", "/events", "/long", "/none"],
        &["/refused", "/leave", "/promise"],
        &["/a"],
        &["/unfinished"],
    ]);
    let trace = perfect(&script);
    assert_eq!(trace.exchanges.len(), 9, "{trace}");
    insta::assert_snapshot!(lines(&trace, "/a"), @r#"
    POST /a Some("api.example") [("x-team", "team/a")]
    request body "[1,2,3][1,2,3][1,2,3]"
    request end
    answer 200 [("content-type", "application/json"), ("x-long", "v")]
    answer body "{\"path\":\"/a\"}"
    Complete lost 0
    "#);
    let events = lines(&trace, "/events");
    assert!(events.contains("message None \"{\\\"n\\\":19}\"\nmessage None \"[DONE]\"\nComplete lost 0"), "{events}");
    assert!(lines(&trace, "/long").ends_with("answer body \"{\\\"path\\\":\\\"/long\\\"}\"\nComplete lost 0"));
    assert!(lines(&trace, "/none").ends_with("Complete lost 0"));
    assert!(lines(&trace, "/promise").ends_with("answer body \"{}\"\nComplete lost 0"));
    assert!(lines(&trace, "/refused").ends_with("Refused lost 0"));
    assert!(lines(&trace, "/leave").ends_with("message None \"[DONE]\"\nTruncated lost 0"));
    assert!(lines(&trace, "/unfinished").ends_with("message None \"[DONE]\"\nTruncated lost 0"));
    assert!(!trace.to_string().contains("secret"));
}

/// Frames by hand, for what the real ones do not send.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `:method: POST`, `:path: /`, `:scheme: https`, `:authority: h`.
const ASK: &[u8] = &[0x83, 0x84, 0x87, 0x41, 1, b'h'];
const OK: &[u8] = &[0x88];

fn by_hand(requests: &[Vec<u8>], answers: &[Vec<u8>]) -> Script {
    let requests = [&[PREFACE.to_vec(), frame(4, 0, 0, &[])], requests].concat().concat();
    vec![(Direction::Request, requests), (Direction::Response, [&[frame(4, 0, 0, &[])], answers].concat().concat())]
}

#[test]
fn padding_priority_and_continuations_are_taken_off() {
    // Padded, with a priority, in three parts.
    let head = [&[3, 0, 0, 0, 0, 16], &ASK[..2], &[0, 0, 0]].concat();
    let requests = [frame(1, 0x08 | 0x20 | 0x01, 1, &head), frame(9, 0, 1, &ASK[2..3]), frame(9, 4, 1, &ASK[3..])];
    let answers = [
        frame(1, 4, 1, OK),
        frame(0, 8, 1, b"\x05ab\0\0\0\0\0"),
        frame(0, 8, 1, b"\0c"),
        frame(0xfa, 0xff, 1, b"of an extension"),
        frame(0, 9, 1, b"\x02\0\0"),
    ];
    let script = by_hand(&requests, &answers);
    for size in [1, 2, 9, usize::MAX] {
        let trace = play(&script, Limits::default(), &[size], &[]).to_string();
        assert_eq!(
            trace,
            "0 POST / Some(\"h\") []\n0 request end\n0 answer 200 []\n0 answer body \"abc\"\n0 Complete lost 0\n"
        );
    }
}

#[test]
fn only_the_server_can_say_that_it_refused() {
    let ask = |stream| frame(1, 5, stream, ASK);
    let refused = |stream| frame(3, 0, stream, &7_u32.to_be_bytes());
    let trace = perfect(&by_hand(&[ask(1), ask(3), refused(3)], &[refused(1)])).to_string();
    assert!(trace.contains("0 Refused lost 0") && trace.contains("1 Truncated lost 0"), "{trace}");
}

#[test]
fn streams_after_the_last_one_of_a_goaway_are_refused() {
    let ask = |stream| frame(1, 5, stream, ASK);
    let goaway = frame(7, 0, 0, &[&1_u32.to_be_bytes()[..], &[0; 4], b"bye"].concat());
    let answers = [goaway, frame(1, 4, 1, OK), frame(0, 1, 1, b"{}")];
    let trace = perfect(&by_hand(&[ask(1), ask(3)], &answers)).to_string();
    assert!(trace.contains("0 Complete lost 0") && trace.contains("1 Refused lost 0"), "{trace}");
}

/// curl leaves when it has as much as was announced, and does not wait for the frame that ends the stream.
#[test]
fn an_answer_is_whole_when_all_that_was_announced_is_there() {
    let announced = |length: &[u8]| [OK, &[0, 14], b"content-length", &[1], length].concat();
    let ask = [frame(1, 5, 1, ASK)];
    let whole = [frame(1, 4, 1, &announced(b"2")), frame(0, 0, 1, b"{"), frame(0, 0, 1, b"}")];
    for size in [1, 9, usize::MAX] {
        let trace = play(&by_hand(&ask, &whole), Limits::default(), &[size], &[]).to_string();
        assert!(trace.contains("0 Complete lost 0"), "{trace}");
    }
    let short = [frame(1, 4, 1, &announced(b"3")), frame(0, 0, 1, b"{"), frame(0, 0, 1, b"}")];
    let trace = perfect(&by_hand(&ask, &short)).to_string();
    assert!(trace.contains("0 Truncated lost 0"), "{trace}");
    // What ends the stream after all is no answer to anything else.
    let ended = [&whole[..], &[frame(0, 1, 1, b"")]].concat();
    let trace = perfect(&by_hand(&ask, &ended)).to_string();
    assert!(trace.ends_with("0 Complete lost 0\n"), "{trace}");
}

#[test]
fn a_websocket_on_a_stream_is_one() {
    // `:protocol: websocket` and the rest of an extended CONNECT.
    let mut head = vec![0x84, 0x87, 0x41, 1, b'h', 0, 7];
    head.extend(b":method\x07CONNECT");
    head.extend([0, 9]);
    head.extend(b":protocol\x09websocket");
    let requests = [frame(1, 4, 1, &head), frame(0, 0, 1, &[0x81, 0x82, 0, 0, 0, 0, b'h', b'i'])];
    let answers = [frame(1, 4, 1, OK), frame(0, 0, 1, &[0x81, 2, b'{', b'}']), frame(0, 1, 1, &[])];
    let mut script = by_hand(&requests[..1], &answers[..1]);
    script.extend([(Direction::Request, requests[1].clone()), (Direction::Response, answers[1..].concat())]);
    let trace = perfect(&script).to_string();
    assert!(trace.contains("0 > socket None \"hi\"\n0 < socket None \"{}\"\n"), "{trace}");
}

#[test]
fn a_capture_may_begin_in_the_middle() {
    let script = converse(&[&["/a"], &["/b"], &["/events"]]);
    let whole = perfect(&script);
    // Without the first exchange, and the beginning of the connection.
    for cut in 1..script.len() {
        let mut seen = Trace::default();
        let mut connection = Connection::new(Limits::default());
        let (mut sent, mut received) = (0, 0);
        for (direction, bytes) in &script[cut..] {
            let at = if *direction == Direction::Request { &mut sent } else { &mut received };
            connection.push(*direction, StreamOffset(*at), bytes, &mut seen);
            *at += bytes.len() as u64;
        }
        connection.close(&mut seen);
        for exchange in seen.exchanges.values().filter(|exchange| exchange.is_whole()) {
            assert!(whole.exchanges.values().any(|known| known == exchange), "cut at {cut}: {exchange:?}");
        }
        // What the answer says is read all the same.
        if cut < 4 {
            assert!(seen.to_string().contains("message None \"[DONE]\""), "cut at {cut}:\n{seen}");
        }
    }
}

fn recorded() -> &'static Script {
    static SCRIPT: std::sync::OnceLock<Script> = std::sync::OnceLock::new();
    SCRIPT.get_or_init(|| {
        converse(&[&["/a", "/events", "/none"], &["/b", "/events", "/leave", "/c"], &["/long"], &["/a", "/b"]])
    })
}

#[test]
fn a_hole_anywhere_is_marked() {
    let script = converse(&[&["/a", "/events"], &["/b", "/leave", "/none"], &["/a"]]);
    let total: usize =
        script.iter().filter(|(direction, _)| *direction == Direction::Response).map(|(_, bytes)| bytes.len()).sum();
    for (size, length) in [(5, 9), (40, 1), (usize::MAX, 24), (40, 517)] {
        for start in (0..total as u64).step_by(7) {
            let hole = [(Direction::Response, start..start + length)];
            assert_eq!(
                Loss::marked(&script, Limits::default(), &[size], &hole),
                Ok(()),
                "{start}+{length} in pieces of {size}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_chunking_gives_the_same_trace(sizes in prop::collection::vec(1_usize..3000, 1..20)) {
        prop_assert_eq!(play(recorded(), Limits::default(), &sizes, &[]).to_string(), perfect(recorded()).to_string());
    }

    #[test]
    fn any_loss_is_marked(
        sizes in prop::collection::vec(1_usize..3000, 1..20),
        direction in any::<bool>(),
        start in 0_u64..20_000,
        length in 1_u64..600,
        other in prop::option::of((0_u64..20_000, 1_u64..600)),
    ) {
        let (direction, opposite) =
            if direction { (Direction::Request, Direction::Response) } else { (Direction::Response, Direction::Request) };
        let total = |wanted: Direction| recorded().iter().filter(|(d, _)| *d == wanted).map(|(_, bytes)| bytes.len() as u64).sum::<u64>();
        let start = start % total(direction);
        let mut holes = vec![(direction, start..start + length)];
        holes.extend(other.map(|(start, length)| {
            let start = start % total(opposite);
            (opposite, start..start + length)
        }));
        prop_assert_eq!(Loss::marked(recorded(), Limits::default(), &sizes, &holes), Ok(()));
    }

    #[test]
    fn arbitrary_frames_never_panic(
        frames in prop::collection::vec((any::<bool>(), 0_u8..11, any::<u8>(), 0_u32..6, prop::collection::vec(any::<u8>(), 0..40)), 0..30),
        sizes in prop::collection::vec(1_usize..50, 1..5),
        hole in prop::option::of((0_u64..300, 1_u64..50)),
    ) {
        let mut script = vec![(Direction::Request, PREFACE.to_vec())];
        script.extend(frames.into_iter().map(|(is_request, kind, flags, stream, payload)| {
            let direction = if is_request { Direction::Request } else { Direction::Response };
            (direction, frame(kind, flags, stream, &payload))
        }));
        let holes: Vec<_> = hole.map(|(start, length)| (Direction::Response, start..start + length)).into_iter().collect();
        play(&script, Limits { head: 200, streams: 3, stream_message: 20, ..Limits::default() }, &sizes, &holes);
    }
}
