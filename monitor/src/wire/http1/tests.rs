use std::io::Write as _;

use proptest::prelude::*;

use crate::wire::{
    Connection, Direction, Limits, StreamOffset,
    trace::{Exchange, Loss, Script, Trace, play},
};

/// `>` is sent by the client, `<` by the server.
fn script(text: &str) -> Script {
    text.lines()
        .map(|line| {
            let (direction, bytes) = line.split_at(1);
            let direction = if direction == ">" { Direction::Request } else { Direction::Response };
            (direction, bytes.replace("\\r", "\r").replace("\\n", "\n").into_bytes())
        })
        .collect()
}

fn whole(text: &str) -> String {
    play(&script(text), Limits::default(), &[usize::MAX], &[]).to_string()
}

const KEEP_ALIVE: &str = r"
>POST /v1/chat/completions HTTP/1.1\r\nHost: API.example\r\nContent-Length: 2\r\n\r\n{}
<HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 6\r\n\r\n{'':1}
>GET /v1/models HTTP/1.1\r\nHost: api.example\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9;a=b\r\ndata: 1\n\n\r\n
<9\r\ndata: 2\n\n\r\n0\r\nTrailer: x\r\n\r\n
>HEAD / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";

#[test]
fn keep_alive_interim_chunked_and_head() {
    insta::assert_snapshot!(whole(KEEP_ALIVE.trim_start()), @r#"
    0 POST /v1/chat/completions Some("api.example") [("host", "API.example"), ("content-length", "2")]
    0 request body "{}"
    0 request end
    0 answer 200 [("content-type", "application/json"), ("content-length", "6")]
    0 answer body "{'':1}"
    0 Complete lost 0
    1 GET /v1/models Some("api.example") [("host", "api.example")]
    1 request end
    1 answer 200 [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")]
    1 message None "1"
    1 message None "2"
    1 Complete lost 0
    2 HEAD / None []
    2 request end
    2 answer 200 [("content-length", "5")]
    2 Complete lost 0
    "#);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    insta::assert_snapshot!(whole(r">GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 204 No Content\r\n\r\n"), @r#"
    0 GET /a None []
    0 request end
    0 answer 200 [("content-length", "1")]
    0 answer body "a"
    0 Complete lost 0
    1 GET /b None []
    1 request end
    1 answer 204 []
    1 Complete lost 0
    "#);
}

#[test]
fn an_early_answer_waits_for_its_request() {
    insta::assert_snapshot!(whole(r">POST /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nab
<HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n
>cd
>GET /b HTTP/1.1\r\n\r\n"), @r#"
    0 POST /a None [("content-length", "4")]
    0 request body "ab"
    0 answer 413 [("content-length", "0")]
    0 request body "cd"
    0 request end
    0 Complete lost 0
    1 GET /b None []
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
fn a_length_beside_chunks_is_not_believed() {
    let both = whole(
        r">POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n
<HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    );
    assert!(both.contains("request body \"a\"") && both.contains("answer body \"ok\""), "{both}");
    assert!(both.ends_with("0 Complete lost 0\n"), "{both}");
}

/// The second request may be a part of the body of the first, and the third one is not seen: its answer is.
#[test]
fn what_follows_a_doubtful_head_is_told_by_its_answers() {
    for said in [r"Content-Length: 3\r\nTransfer-Encoding: chunked", r"Content-Length : 3", r"Content-Length: 3, 3"] {
        let script = format!(
            r">POST /a HTTP/1.1\r\n{said}\r\n\r\nabcGET /b HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none
<HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo
>GET /c HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nthree"
        );
        let trace = whole(&script);
        let answers = ["0 answer body \"one\"", "1 answer body \"two\"", "2 answer body \"three\""];
        assert!(answers.iter().all(|answer| trace.contains(answer)), "{said}: {trace}");
        assert!(trace.contains("/a") && trace.contains("/c") && !trace.contains("unreadable"), "{said}: {trace}");
        assert!(!trace.contains("0 Complete lost 0") && !trace.contains("1 Complete lost 0"), "{said}: {trace}");
    }
}

#[test]
fn a_coding_without_a_body_loses_nothing() {
    let head = whole(
        r">HEAD / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 500\r\n\r\n",
    );
    assert!(head.ends_with("0 Complete lost 0\n"), "{head}");
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).expect("write to memory");
    encoder.finish().expect("write to memory")
}

fn chunked(fields: &str, body: &[u8], size: usize) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n").into_bytes();
    for chunk in body.chunks(size) {
        write!(bytes, "{:x}\r\n", chunk.len()).expect("write to memory");
        bytes.extend_from_slice(chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[test]
fn transfer_codings_are_undone_like_content_codings() {
    let script = vec![
        (Direction::Request, b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        (Direction::Response, chunked("Transfer-Encoding: gzip, chunked\r\n", &gzip(b"{\"a\":1}"), 5)),
    ];
    let trace = play(&script, Limits::default(), &[usize::MAX], &[]).to_string();
    assert!(trace.ends_with("0 answer body \"{\\\"a\\\":1}\"\n0 Complete lost 0\n"), "{trace}");
}

#[test]
fn what_cannot_be_read_is_said() {
    assert_eq!(whole(r">not http at all"), "unreadable: the bytes are not HTTP\n");
    let upgraded = whole(
        r">GET / HTTP/1.1\r\nUpgrade: other\r\n\r\n
<HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\n\r\nxxx",
    );
    assert!(upgraded.contains("0 Upgraded lost 0\nunreadable: the connection was upgraded"), "{upgraded}");
    let tunnel = whole(
        r">CONNECT api.example:443 HTTP/1.1\r\nHost: api.example\r\n\r\n
<HTTP/1.1 200 Connection established\r\n\r\nxxx",
    );
    assert!(tunnel.contains("0 Upgraded lost 0\nunreadable: the connection was upgraded"), "{tunnel}");
    let coded = whole(
        r">GET / HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Encoding: aes128gcm\r\nContent-Length: 3\r\n\r\nabc",
    );
    assert!(coded.ends_with("0 Complete lost 3\n"), "{coded}");
}

#[test]
fn an_answer_whose_request_was_lost_still_counts() {
    let script = script(
        r">GET /a HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n
>GET /lost HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}
>GET /b HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb",
    );
    let start = script[0].1.len() as u64;
    let length = script[2].1.len() as u64;
    let trace = play(&script, Limits::default(), &[usize::MAX], &[(Direction::Request, start..start + length)]);
    insta::assert_snapshot!(trace, @r#"
    0 GET /a None []
    0 request end
    0 answer 200 [("content-length", "0")]
    0 Complete lost 0
    1   None []
    1 request end
    1 answer 200 [("content-length", "2")]
    1 answer body "{}"
    1 Complete lost 1
    2 GET /b None []
    2 request end
    2 answer 200 [("content-length", "1")]
    2 answer body "b"
    2 Complete lost 0
    "#);
}

#[test]
fn a_capture_may_begin_in_the_middle() {
    let text = whole(
        r"<the end of something': 1}
>GET /a HTTP/1.1\r\n\r\n
<HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
    );
    assert!(text.starts_with("0 GET /a") && text.ends_with("0 Complete lost 0\n"), "{text}");
}

#[test]
fn a_wrong_guess_is_taken_back() {
    // The middle of something that looks like a frame of HTTP/2, and then what is none.
    for middle in [&b"\0\0\0\x04\x01\0\0\0\0 and more"[..], b"\0\x01\0\0\0\0\0\0\x01 and more"] {
        let script = vec![
            (Direction::Response, middle.to_vec()),
            (Direction::Request, b"GET /a HTTP/1.1\r\n\r\n".to_vec()),
            (Direction::Response, b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ];
        let trace = play(&script, Limits::default(), &[usize::MAX], &[]);
        let last = trace.exchanges.values().last().expect("an exchange");
        assert_eq!(last.lines, ["GET /a None []", "request end", "answer 204 []", "Complete lost 0"]);
        let guess = play(&script[..1].to_vec(), Limits::default(), &[usize::MAX], &[]);
        assert_eq!(guess.unreadable, ["the bytes are not HTTP"]);
    }
}

#[test]
fn an_upgrade_to_http2_goes_on_as_its_first_stream() {
    let head = ">GET /a HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: \r\n\r\n";
    // Settings; fields `:status: 200`; two bytes of data.
    let frames = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\x88\0\0\x02\0\x01\0\0\0\x01ok";
    let script = vec![
        (Direction::Request, head.as_bytes()[1..].to_vec()),
        (
            Direction::Response,
            [&b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"[..], frames].concat(),
        ),
        (Direction::Request, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
    ];
    for size in [1, 7, usize::MAX] {
        let trace = play(&script, Limits::default(), &[size], &[]).to_string();
        assert!(trace.ends_with("0 answer body \"ok\"\n0 Complete lost 0\n"), "{trace}");
    }
}

/// What clients ask and servers answer, in all framings that HTTP/1.1 has on a connection that goes on.
fn exchange(kind: u8) -> (Vec<u8>, Vec<u8>) {
    let events = "data: {\"n\":1}\n\ndata: {\"n\":2}\n\n: ping\n\nevent: stop\ndata: {\"n\":3}\n\n".repeat(3);
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n").into_bytes();
    let post = |body: &str| {
        format!("POST /p HTTP/1.1\r\nHost: a.example\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    };
    let sse = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n";
    match kind % 9 {
        0 => (post("{\"ask\":1}"), b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{\"say\":1}".to_vec()),
        1 => (get("/events"), chunked(sse, events.as_bytes(), 40)),
        2 => (get("/coded"), chunked(&format!("Content-Encoding: gzip\r\n{sse}"), &gzip(events.as_bytes()), 30)),
        3 => (get("/none"), b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        4 => (b"HEAD /h HTTP/1.1\r\n\r\n".to_vec(), b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n".to_vec()),
        5 => (
            b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n".to_vec(),
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 16\r\n\r\n{\"a\":1}\n{\"b\":2}\n".to_vec(),
        ),
        6 => {
            let form = "--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n--X--\r\n";
            let head = format!(
                "POST /f HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=X\r\nContent-Length: {}\r\n\r\n",
                form.len()
            );
            ((head + form).into_bytes(), b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n".to_vec())
        }
        7 => (get("/text"), chunked("Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n", b"  {\"x\": [1,2,3]}", 4)),
        _ => (post(""), chunked("Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", &gzip(b"{\"zipped\":true}"), 7)),
    }
}

fn conversation(kinds: &[u8]) -> Script {
    kinds
        .iter()
        .flat_map(|kind| {
            let (request, answer) = exchange(*kind);
            [(Direction::Request, request), (Direction::Response, answer)]
        })
        .collect()
}

fn pipelined(kinds: &[u8]) -> Script {
    let (mut requests, mut answers) = (Vec::new(), Vec::new());
    for kind in kinds {
        let (request, answer) = exchange(*kind);
        requests.extend(request);
        answers.extend(answer);
    }
    vec![(Direction::Request, requests), (Direction::Response, answers)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_chunking_gives_the_same_trace(
        kinds in prop::collection::vec(any::<u8>(), 1..6),
        sizes in prop::collection::vec(1_usize..60, 1..8),
        is_pipelined in any::<bool>(),
    ) {
        let script = if is_pipelined { pipelined(&kinds) } else { conversation(&kinds) };
        let perfect = play(&script, Limits::default(), &[usize::MAX], &[]);
        prop_assert!(perfect.exchanges.len() == kinds.len() && perfect.exchanges.values().all(Exchange::is_whole), "{}", perfect);
        prop_assert_eq!(play(&script, Limits::default(), &sizes, &[]).to_string(), perfect.to_string());
    }

    /// Lost bytes are never passed over: what is said to be whole is as it was, and the connection is read again afterwards.
    #[test]
    fn any_loss_is_marked(
        kinds in prop::collection::vec(any::<u8>(), 1..6),
        sizes in prop::collection::vec(1_usize..200, 1..8),
        direction in any::<bool>(),
        start in 0_u64..2000,
        length in 1_u64..400,
        other in prop::option::of((0_u64..2000, 1_u64..400)),
        is_pipelined in any::<bool>(),
    ) {
        let direction = if direction { Direction::Request } else { Direction::Response };
        let mut holes = vec![(direction, start..start + length)];
        if let Some((start, length)) = other {
            let other = if direction == Direction::Request { Direction::Response } else { Direction::Request };
            holes.push((other, start..start + length));
        }
        let script = if is_pipelined { pipelined(&kinds) } else { conversation(&kinds) };
        prop_assert_eq!(Loss::marked(&script, Limits::default(), &sizes, &holes), Ok(()));
        if !is_pipelined {
            // What comes after the loss, in records of its own, is read as if nothing had happened.
            let lengths = [Direction::Request, Direction::Response].map(|direction| script.iter().filter(|(d, _)| *d == direction).map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
            let holes: Vec<_> = holes.into_iter().filter(|(direction, hole)| hole.end <= lengths[usize::from(*direction == Direction::Response)]).collect();
            let mut longer = conversation(&kinds);
            longer.extend([
                (Direction::Request, b"GET /next HTTP/1.1\r\n\r\n".to_vec()),
                (Direction::Response, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext".to_vec()),
                (Direction::Request, b"GET /last HTTP/1.1\r\n\r\n".to_vec()),
                (Direction::Response, b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast".to_vec()),
            ]);
            let trace = play(&longer, Limits::default(), &[usize::MAX], &holes);
            let last = trace.exchanges.values().last().expect("an exchange");
            prop_assert!(last.is_whole() && last.lines.iter().any(|line| line == "answer body \"last\""), "{}", trace);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(pieces in prop::collection::vec((any::<bool>(), 0_u64..200, prop::collection::vec(any::<u8>(), 0..60)), 0..20)) {
        let limits = Limits { head: 100, message: 50, pipelined: 3, ..Limits::default() };
        let (mut connection, mut trace) = (Connection::new(limits), Trace::default());
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
        play(&vec![(Direction::Request, request.into_bytes()), (Direction::Response, answer.into_bytes())], Limits::default(), &[size], &[]);
    }
}

/// Where one thread writes and another reads, the answer may be told before its request.
#[test]
fn an_answer_that_comes_before_its_announced_request_is_its_answer() {
    let lines = script(KEEP_ALIVE.trim_start());
    let in_order = whole(KEEP_ALIVE.trim_start());
    let play = |is_announced: bool| {
        let (mut connection, mut trace) = (Connection::new(Limits::default()), Trace::default());
        let mut offsets = [0, 0];
        let mut push = |connection: &mut Connection, (direction, bytes): &(Direction, Vec<u8>)| {
            let at = &mut offsets[usize::from(*direction == Direction::Response)];
            connection.push(*direction, StreamOffset(*at), bytes, &mut trace);
            *at += bytes.len() as u64;
        };
        // Each request with all that answers it, request last.
        for exchange in lines.chunk_by(|_, next| next.0 == Direction::Response) {
            if is_announced {
                connection.announce();
            }
            exchange[1..].iter().chain(&exchange[..1]).for_each(|line| push(&mut connection, line));
        }
        connection.close(&mut trace);
        trace.to_string()
    };
    assert_eq!(play(true), in_order);
    assert_ne!(play(false), in_order, "without a word, it is an answer to something that was missed");
}

/// What was announced and never came leaves the answers what they would be without it.
#[test]
fn an_announced_request_that_is_lost_takes_no_later_ones_place() {
    let (mut connection, mut trace) = (Connection::new(Limits::default()), Trace::default());
    let answer = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}").into_bytes();
    connection.announce();
    connection.push(Direction::Response, StreamOffset(0), &answer("a"), &mut trace);
    // A hundred bytes are missing: those of the first request.
    connection.push(Direction::Request, StreamOffset(100), b"GET /b HTTP/1.1\r\n\r\n", &mut trace);
    connection.push(Direction::Response, StreamOffset(answer("a").len() as u64), &answer("b"), &mut trace);
    connection.announce();
    connection.push(Direction::Response, StreamOffset(2 * answer("a").len() as u64), &answer("c"), &mut trace);
    connection.close(&mut trace);
    let trace = trace.to_string();
    let answered =
        trace.lines().filter(|line| line.contains("answer body") || line.contains("GET")).collect::<Vec<_>>();
    assert_eq!(
        answered,
        ["0 answer body \"a\"", "1 GET /b None []", "1 answer body \"b\"", "2 answer body \"c\""],
        "{trace}"
    );
}
