//! Frames by `tungstenite`, deflated by zlib as RFC 7692 says: with and without context takeover, in fragments, between pings.

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use tungstenite::protocol::frame::{
    Frame,
    coding::{Data, OpCode},
};

use crate::wire::{
    Connection, Direction, Limits, StreamOffset,
    trace::{Loss, Script, Trace, play},
};

/// Who sends, and how.
struct Sender {
    direction: Direction,
    deflate: Option<Compress>,
    forgets: bool,
    mask: u32,
}

impl Sender {
    fn new(direction: Direction, deflates: bool, forgets: bool) -> Self {
        let deflate = deflates.then(|| Compress::new(Compression::default(), false));
        Self { direction, deflate, forgets, mask: 0x1234_5678 }
    }

    /// A message in fragments of this size.
    fn message(&mut self, text: &str, size: usize) -> Vec<u8> {
        let payload = match &mut self.deflate {
            None => text.as_bytes().to_vec(),
            Some(deflate) => {
                let mut out = Vec::with_capacity(text.len() * 2 + 1000);
                deflate.compress_vec(text.as_bytes(), &mut out, FlushCompress::Sync).expect("room");
                assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
                out.truncate(out.len() - 4);
                if self.forgets {
                    deflate.reset();
                }
                out
            }
        };
        let mut fragments: Vec<&[u8]> = payload.chunks(size).collect();
        if fragments.is_empty() {
            fragments.push(&[]);
        }
        let (mut bytes, last) = (Vec::new(), fragments.len() - 1);
        for (index, fragment) in fragments.into_iter().enumerate() {
            let opcode = OpCode::Data(if index == 0 { Data::Text } else { Data::Continue });
            let mut frame = Frame::message(Bytes::copy_from_slice(fragment), opcode, index == last);
            frame.header_mut().rsv1 = index == 0 && self.deflate.is_some();
            bytes.extend(self.format(frame));
            if index != last {
                // Control frames may come between the fragments of a message.
                bytes.extend(self.format(Frame::ping(b"{\"not\":\"a message\"}".to_vec())));
            }
        }
        bytes
    }

    fn format(&mut self, mut frame: Frame) -> Vec<u8> {
        if self.direction == Direction::Request {
            self.mask = self.mask.wrapping_mul(0x9e37_79b9).wrapping_add(1);
            frame.header_mut().mask = Some(self.mask.to_be_bytes());
        }
        let mut bytes = Vec::new();
        frame.format(&mut bytes).expect("write to memory");
        bytes
    }
}

fn upgrade(extensions: &str) -> Script {
    let request =
        "GET /v1/responses HTTP/1.1\r\nHost: api.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    let extensions =
        if extensions.is_empty() { String::new() } else { format!("Sec-WebSocket-Extensions: {extensions}\r\n") };
    let answer =
        format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: WebSocket\r\nConnection: Upgrade\r\n{extensions}\r\n");
    vec![(Direction::Request, request.into()), (Direction::Response, answer.into())]
}

/// Ways to agree on compression: what the answer says, and who forgets.
const WAYS: [(&str, bool, bool, bool); 5] = [
    ("", false, false, false),
    ("permessage-deflate", true, false, false),
    ("permessage-deflate; client_no_context_takeover; server_no_context_takeover", true, true, true),
    (
        "permessage-deflate;server_max_window_bits=15 ; client_max_window_bits=12;client_no_context_takeover",
        true,
        true,
        false,
    ),
    ("permessage-deflate; server_no_context_takeover", true, false, true),
];

fn texts(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| {
            format!("{{\"type\":\"response.output_text.delta\",\"delta\":\"{}\"}}", "word ".repeat(number * 7 % 40))
        })
        .collect()
}

fn conversation(way: usize, count: usize, size: usize) -> Script {
    let (extensions, deflates, client_forgets, server_forgets) = WAYS[way % WAYS.len()];
    let mut script = upgrade(extensions);
    let mut client = Sender::new(Direction::Request, deflates, client_forgets);
    let mut server = Sender::new(Direction::Response, deflates, server_forgets);
    for text in texts(count) {
        script.push((Direction::Request, client.message(&text, size)));
        script.push((Direction::Response, server.message(&text, size)));
    }
    script.push((Direction::Request, client.format(Frame::close(None))));
    script.push((Direction::Response, server.format(Frame::close(None))));
    script
}

fn expected(count: usize) -> Vec<String> {
    texts(count)
        .iter()
        .flat_map(|text| [format!("> socket None {text:?}"), format!("< socket None {text:?}")])
        .chain(["Complete lost 0".to_owned()])
        .collect()
}

#[test]
fn messages_are_put_together_and_inflated() {
    for way in 0..WAYS.len() {
        for size in [1, 10, 200, 100_000] {
            let trace = play(&conversation(way, 20, size), Limits::default(), &[usize::MAX], &[]);
            let exchange = trace.exchanges.values().next().expect("an exchange");
            assert_eq!(exchange.lines.get(3..), Some(expected(20).as_slice()), "way {way}, fragments of {size}");
        }
    }
}

#[test]
fn a_long_message_is_cut_and_says_so() {
    let mut script = upgrade("permessage-deflate");
    let mut server = Sender::new(Direction::Response, true, false);
    script.push((Direction::Response, server.message(&"x".repeat(5000), 300)));
    script.push((Direction::Response, server.message("{}", 300)));
    let trace = play(&script, Limits { message: 100, ..Limits::default() }, &[usize::MAX], &[]).to_string();
    let long = format!("0 < socket None {:?} cut\n0 < socket None \"{{}}\"\n0 Truncated lost 0\n", "x".repeat(100));
    assert!(trace.ends_with(&long), "{trace}");
}

#[test]
fn a_deflate_stream_may_end_within_a_message() {
    // A last block, and the empty stored one that RFC 7692 wants after it (§7.2.3.4), here without its tail.
    let mut deflate = Compress::new(Compression::default(), false);
    let mut out = Vec::with_capacity(100);
    deflate.compress_vec(b"{\"last\":1}", &mut out, FlushCompress::Finish).expect("room");
    let mut server = Sender::new(Direction::Response, false, false);
    let message = |server: &mut Sender, payload: Vec<u8>| {
        let mut frame = Frame::message(payload, OpCode::Data(Data::Text), true);
        frame.header_mut().rsv1 = true;
        server.format(frame)
    };
    let mut script = upgrade("permessage-deflate");
    for payload in [[&out[..], &[0]].concat(), out] {
        script.push((Direction::Response, message(&mut server, payload)));
    }
    let trace = play(&script, Limits::default(), &[usize::MAX], &[]).to_string();
    assert_eq!(trace.matches("< socket None \"{\\\"last\\\":1}\"\n").count(), 2, "{trace}");
    assert!(trace.ends_with("0 Truncated lost 0\n"), "{trace}");
}

#[test]
fn what_cannot_be_inflated_is_told_without_its_data() {
    // Nobody agreed on compression.
    let mut script = upgrade("");
    let mut server = Sender::new(Direction::Response, true, false);
    script.push((Direction::Response, server.message("{\"a\":1}", 300)));
    let trace = play(&script, Limits::default(), &[usize::MAX], &[]).to_string();
    assert!(trace.contains(" cut\n") && trace.ends_with("0 Truncated lost 1\n"), "{trace}");
}

#[test]
fn a_capture_may_begin_in_the_middle() {
    for (way, is_readable) in [(0, true), (1, false), (2, false)] {
        let script = conversation(way, 6, 1000);
        let (mut connection, mut trace) = (Connection::new(Limits::default()), Trace::default());
        let (mut sent, mut received) = (0, 0);
        for (direction, bytes) in &script[5..] {
            let at = if *direction == Direction::Request { &mut sent } else { &mut received };
            connection.push(*direction, StreamOffset(*at), bytes, &mut trace);
            *at += bytes.len() as u64;
        }
        connection.close(&mut trace);
        let text = trace.to_string();
        assert_eq!(text.contains(&format!("< socket None {:?}\n", texts(6)[5])), is_readable, "way {way}:\n{text}");
        assert!(text.contains("0   None []\n") && !trace.exchanges[&0].is_whole(), "way {way}:\n{text}");
        // Each message is told, also where it cannot be read.
        assert_eq!(text.matches("< socket").count(), 5, "way {way}:\n{text}");
    }
}

#[test]
fn a_client_that_just_goes_leaves_a_truncated_exchange() {
    let mut script = upgrade("");
    let mut server = Sender::new(Direction::Response, false, false);
    let bytes = server.message("{\"a\":1}", 300);
    script.push((Direction::Response, bytes[..bytes.len() - 1].to_vec()));
    let trace = play(&script, Limits::default(), &[usize::MAX], &[]).to_string();
    assert!(trace.ends_with("0 Truncated lost 0\n"), "{trace}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_chunking_gives_the_same_trace(
        way in 0_usize..WAYS.len(),
        size in 1_usize..200,
        sizes in prop::collection::vec(1_usize..300, 1..10),
    ) {
        let script = conversation(way, 8, size);
        let perfect = play(&script, Limits::default(), &[usize::MAX], &[]).to_string();
        prop_assert_eq!(play(&script, Limits::default(), &sizes, &[]).to_string(), perfect);
    }

    #[test]
    fn any_loss_is_marked(
        way in 0_usize..WAYS.len(),
        size in 1_usize..200,
        sizes in prop::collection::vec(1_usize..300, 1..10),
        direction in any::<bool>(),
        start in 0_u64..2000,
        length in 1_u64..300,
    ) {
        let script = conversation(way, 8, size);
        let direction = if direction { Direction::Request } else { Direction::Response };
        let holes = [(direction, start..start + length)];
        prop_assert_eq!(Loss::marked(&script, Limits::default(), &sizes, &holes), Ok(()));
        // Nor is any single message wrong that is not said to be cut.
        let lossy = play(&script, Limits::default(), &sizes, &holes);
        let known = expected(8);
        for line in lossy.exchanges.values().flat_map(|exchange| &exchange.lines) {
            let is_told = line.starts_with(['<', '>']) && !line.ends_with(" cut");
            prop_assert!(!is_told || known.contains(line), "{}", line);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        way in 0_usize..WAYS.len(),
        pieces in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..60)), 0..20),
        hole in prop::option::of((200_u64..400, 1_u64..50)),
    ) {
        let mut script = upgrade(WAYS[way].0);
        script.extend(pieces.into_iter().map(|(is_request, bytes)| {
            (if is_request { Direction::Request } else { Direction::Response }, bytes)
        }));
        let holes: Vec<_> = hole.map(|(start, length)| (Direction::Response, start..start + length)).into_iter().collect();
        play(&script, Limits { message: 50, ..Limits::default() }, &[7], &holes);
    }
}

/// What is no message is not one.
#[test]
fn opcodes_are_told_apart() {
    let mut script = upgrade("");
    let mut server = Sender::new(Direction::Response, false, false);
    for frame in [Frame::message(b"{}".to_vec(), OpCode::Data(Data::Binary), true), Frame::pong(b"{}".to_vec())] {
        script.push((Direction::Response, server.format(frame)));
    }
    let trace = play(&script, Limits::default(), &[usize::MAX], &[]).to_string();
    assert_eq!(trace.matches("< socket").count(), 1, "{trace}");
}
