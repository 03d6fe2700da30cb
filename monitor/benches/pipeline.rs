//! How fast the pure rooms are: plaintext in, money out.
//!
//! Run with `cargo xtask bench`. The goals are 1 GB/s of SSE plaintext and 200,000 small exchanges a second for each core, and 2 KiB for
//! an idle connection. What one core of two (x86-64, in a virtual machine that had other work to do) reached, and what it did before short strings
//! were kept in place, prices were remembered (`price/memo.rs`) and messages could be numbered (`meter/repeat.rs`), measured in turns:
//!
//! | | median | before | goal |
//! |---|---|---|---|
//! | SSE through `wire` | 16 GB/s | 16 GB/s | |
//! | SSE through all | 3.2 GB/s | 1.5 GB/s | 1 GB/s |
//! | SSE with numbered messages through all | 1.7 GB/s | 0.14 GB/s | 1 GB/s |
//! | exchanges through `wire` | 790,000 a second | 595,000 | |
//! | model calls through all | 206,000 a second | 113,000 | 200,000 |
//! | other exchanges through all | 530,000 a second | 455,000 | 200,000 |
//! | an idle connection through all (`tests/wire_memory.rs`) | 0.5 KiB | | 2 KiB |
//!
//! Model calls reach their goal with nothing to spare: when others had more of the core, it was 150,000 (and 79,000 before). A third of a call's
//! instructions reads its two documents, a third is `wire`, and a tenth each is for what it reports and for its price. All calls here go to one URL
//! for one model: each pair of these that was not seen before costs some microseconds more.
//!
//! A stream is fast where its messages repeat but for their text, number and padding; others are read one by one, which reaches a tenth of that.

use std::hint::black_box;

use divan::{
    Bencher,
    counter::{BytesCount, ItemsCount},
};
use jiff::Timestamp;
use monitor::{
    pipeline::{Pipeline, Step},
    price::PriceBook,
    wire::{Connection, Direction, Event, ExchangeId, Limits, Sink, StreamOffset, Unreadable},
};

fn main() {
    divan::main();
}

/// A connection that goes on.
struct Wire<T> {
    to: T,
    sent: u64,
    received: u64,
}

trait Takes {
    fn take(&mut self, direction: Direction, offset: StreamOffset, bytes: &[u8]);
}

impl Takes for Connection {
    fn take(&mut self, direction: Direction, offset: StreamOffset, bytes: &[u8]) {
        self.push(direction, offset, bytes, &mut Nothing);
    }
}

impl Takes for Pipeline {
    fn take(&mut self, direction: Direction, offset: StreamOffset, bytes: &[u8]) {
        self.push(direction, offset, bytes, Timestamp::UNIX_EPOCH, &mut |step: Step| {
            black_box(&step);
        });
    }
}

struct Nothing;

impl Sink for Nothing {
    fn event(&mut self, _: ExchangeId, event: Event<'_>) {
        black_box(&event);
    }

    fn unreadable(&mut self, why: Unreadable) {
        panic!("{why}");
    }
}

impl<T: Takes> Wire<T> {
    fn new(to: T) -> Self {
        Self { to, sent: 0, received: 0 }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.to.take(Direction::Request, StreamOffset(self.sent), bytes);
        self.sent += bytes.len() as u64;
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.to.take(Direction::Response, StreamOffset(self.received), bytes);
        self.received += bytes.len() as u64;
    }
}

fn pipeline() -> Pipeline {
    Pipeline::new(PriceBook::embedded(), "https")
}

fn connection() -> Connection {
    Connection::new(Limits::default())
}

const ASK: &str = r#"{"model":"gpt-4o","stream":true,"messages":[{"role":"user","content":"Say something short."}]}"#;
const ANSWER: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","model":"gpt-4o-2024-08-06","choices":[{"index":0,"message":{"role":"assistant","content":"Hello."},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}"#;

fn request() -> Vec<u8> {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nUser-Agent: client/1.0\r\nAccept: application/json\r\n\
        Content-Type: application/json\r\nAuthorization: Bearer sk-x\r\nContent-Length: {}\r\n\r\n{ASK}",
        ASK.len()
    )
    .into_bytes()
}

fn answer() -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nDate: Tue, 24 Nov 2026 00:00:00 GMT\r\nContent-Type: application/json\r\nx-request-id: req_1\r\n\
        Content-Length: {}\r\n\r\n{ANSWER}",
        ANSWER.len()
    )
    .into_bytes()
}

/// About a megabyte of a streamed chat completion.
fn events() -> Vec<u8> {
    let mut body = String::new();
    for number in 0..4000 {
        let delta = ["the", " quick", " brown", " fox", " jumps", " over", " a lazy dog."][number % 7];
        body.push_str(&format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1764000000,\"model\":\"gpt-4o-2024-08-06\",\
            \"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{delta}\"}},\
            \"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
        ));
    }
    body.push_str("data: {\"id\":\"chatcmpl-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":4000,\"total_tokens\":4012}}\n\ndata: [DONE]\n\n");
    body.into_bytes()
}

/// The same of OpenAI's Responses, whose messages bear a number and padding.
fn numbered_events() -> Vec<u8> {
    let mut body = String::new();
    for number in 0..4000 {
        let delta = ["the", " quick", " brown", " fox", " jumps", " over", " a lazy dog."][number % 7];
        let padding = ["Zx81", "kq", "", "a0bcDEfgh1"][number % 4];
        body.push_str(&format!(
            "event: response.output_text.delta\ndata: {{\"type\":\"response.output_text.delta\",\"item_id\":\"msg_1\",\"output_index\":0,\
            \"content_index\":0,\"delta\":\"{delta}\",\"sequence_number\":{number},\"logprobs\":[],\"obfuscation\":\"{padding}\"}}\n\n"
        ));
    }
    body.push_str(
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"object\":\"response\",\"model\":\"gpt-4o-2024-08-06\",\
        \"usage\":{\"input_tokens\":12,\"output_tokens\":4000,\"total_tokens\":4012}}}\n\n",
    );
    body.into_bytes()
}

fn stream<T: Takes>(bencher: Bencher<'_, '_>, new: fn() -> T, body: &[u8]) {
    let request = request();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {}\r\n\r\n", body.len());
    bencher.counter(BytesCount::of_slice(body)).bench_local(|| {
        let mut wire = Wire::new(new());
        wire.send(&request);
        wire.receive(head.as_bytes());
        // What one `SSL_read` returns at most.
        for record in body.chunks(16 * 1024) {
            wire.receive(record);
        }
        wire.sent
    });
}

#[divan::bench]
fn sse_through_wire(bencher: Bencher<'_, '_>) {
    stream(bencher, connection, &events());
}

#[divan::bench]
fn sse_through_all(bencher: Bencher<'_, '_>) {
    stream(bencher, pipeline, &events());
}

#[divan::bench]
fn numbered_sse_through_all(bencher: Bencher<'_, '_>) {
    stream(bencher, pipeline, &numbered_events());
}

const EXCHANGES: usize = 1000;

fn exchanges<T: Takes>(bencher: Bencher<'_, '_>, new: fn() -> T, request: &[u8], answer: &[u8]) {
    bencher.counter(ItemsCount::new(EXCHANGES)).bench_local(|| {
        let mut wire = Wire::new(new());
        for _ in 0..EXCHANGES {
            wire.send(request);
            wire.receive(answer);
        }
        wire.sent
    });
}

#[divan::bench]
fn exchanges_through_wire(bencher: Bencher<'_, '_>) {
    exchanges(bencher, connection, &request(), &answer());
}

#[divan::bench]
fn calls_through_all(bencher: Bencher<'_, '_>) {
    exchanges(bencher, pipeline, &request(), &answer());
}

/// Traffic that costs nothing.
#[divan::bench]
fn other_exchanges_through_all(bencher: Bencher<'_, '_>) {
    let request = b"GET /v1/models HTTP/1.1\r\nHost: api.openai.com\r\nAccept: */*\r\n\r\n";
    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n{\"data\":[]}";
    exchanges(bencher, pipeline, request, answer);
}
