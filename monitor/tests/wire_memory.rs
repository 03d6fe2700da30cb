//! Memory of a connection, counted at the allocator: what `Limits` promises, and next to nothing while a connection is idle.
//!
//! One test, for the counts are of the whole process.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write as _,
    sync::atomic::{AtomicUsize, Ordering},
};

use jiff::Timestamp;
use monitor::wire::{Connection, Direction, End, Ending, Event, ExchangeId, Limits, Sink, StreamOffset, Unreadable};
use monitor::{
    pipeline::{Pipeline, Step},
    price::PriceBook,
};

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system's allocator as it came; the counters do not touch memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[derive(Default)]
struct Count {
    bytes: u64,
    end: Option<End>,
}

impl Sink for Count {
    fn event(&mut self, _: ExchangeId, event: Event<'_>) {
        match event {
            Event::ResponseBody(data) | Event::RequestBody(data) => self.bytes += data.len() as u64,
            Event::Message(message) | Event::Socket(_, message) => self.bytes += message.data.len() as u64,
            Event::End(end) => self.end = Some(end),
            _ => {}
        }
    }

    fn unreadable(&mut self, why: Unreadable) {
        panic!("{why}");
    }
}

/// One connection, and the bytes that it took so far.
struct Run {
    connection: Connection,
    count: Count,
    sent: u64,
    received: u64,
    before: usize,
    resident_before: usize,
    resident_peak: usize,
}

/// Bytes of this process in memory: zstd's own library allocates without us.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("pages") * 4096
}

impl Run {
    fn new() -> Self {
        let before = NOW.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let resident_before = resident();
        Self {
            connection: Connection::new(Limits::default()),
            count: Count::default(),
            sent: 0,
            received: 0,
            before,
            resident_before,
            resident_peak: resident_before,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.connection.push(Direction::Request, StreamOffset(self.sent), bytes, &mut self.count);
        self.sent += bytes.len() as u64;
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.connection.push(Direction::Response, StreamOffset(self.received), bytes, &mut self.count);
        self.received += bytes.len() as u64;
        self.resident_peak = self.resident_peak.max(resident());
    }

    /// The most that was taken since the beginning, apart from what this test itself holds.
    fn peak(&self) -> usize {
        let counted = PEAK.load(Ordering::Relaxed).saturating_sub(self.before);
        counted.max(self.resident_peak.saturating_sub(self.resident_before))
    }

    /// What is taken now, with the connection itself.
    fn now(&self) -> usize {
        NOW.load(Ordering::Relaxed).saturating_sub(self.before) + size_of::<Connection>()
    }
}

const MIB: usize = 1 << 20;
const GIB: u64 = 1 << 30;

fn a_body_of_a_gibibyte() {
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    for (media_type, bound) in
        [("application/json", 16 * 1024), ("text/event-stream", 4 * MIB), ("application/x-ndjson", 4 * MIB)]
    {
        let mut run = Run::new();
        run.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..GIB / 0x10000 {
            run.send(&chunk);
        }
        run.send(b"0\r\n\r\n");
        run.receive(
            format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes(),
        );
        for _ in 0..GIB / 0x10000 {
            run.receive(&chunk);
        }
        run.receive(b"0\r\n\r\n");
        println!("1 GiB each way, {media_type}: peak {} KiB", run.peak() / 1024);
        assert_eq!(run.count.end, Some(End { how: Ending::Complete, lost: 0 }), "{media_type}");
        assert!(run.peak() <= bound, "{media_type}: {} bytes", run.peak());
    }
}

fn coded(coding: &str, zeroes: usize) -> Vec<u8> {
    let piece = vec![0; MIB];
    let mut out = Vec::new();
    let fill = |encoder: &mut dyn std::io::Write| {
        for _ in 0..zeroes / MIB {
            encoder.write_all(&piece).expect("write to memory");
        }
    };
    match coding {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::best());
            fill(&mut encoder);
            encoder.finish().expect("write to memory");
        }
        "deflate" => {
            let mut encoder = flate2::write::ZlibEncoder::new(&mut out, flate2::Compression::best());
            fill(&mut encoder);
            encoder.finish().expect("write to memory");
        }
        "br" => {
            // The largest window that there is.
            let mut encoder = brotli::CompressorWriter::new(&mut out, MIB, 5, 24);
            fill(&mut encoder);
        }
        _ => {
            let mut encoder = zstd::stream::write::Encoder::new(&mut out, 3).expect("an encoder");
            encoder.window_log(23).expect("a window");
            fill(&mut encoder);
            encoder.finish().expect("write to memory");
        }
    }
    out
}

fn bombs() {
    for coding in ["zstd", "gzip", "deflate", "br"] {
        let bomb = coded(coding, 128 * MIB);
        for media_type in ["application/json", "text/event-stream"] {
            let mut run = Run::new();
            run.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
            let length = bomb.len();
            run.receive(format!("HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\nContent-Encoding: {coding}\r\nContent-Length: {length}\r\n\r\n").as_bytes());
            run.receive(&bomb);
            println!("128 MiB in {length} bytes of {coding}, {media_type}: peak {} KiB", run.peak() / 1024);
            assert_eq!(run.count.end, Some(End { how: Ending::Complete, lost: 0 }), "{coding}");
            if media_type == "application/json" {
                assert_eq!(run.count.bytes, 128 * MIB as u64, "{coding}");
            }
            assert!(run.peak() <= 20 * MIB, "{coding}: {} bytes", run.peak());
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short");
    [&length.to_be_bytes()[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `:status: 200`, then `content-type` and `content-encoding` as literals.
fn answer_fields(coding: &str) -> Vec<u8> {
    let mut fields = vec![0x88];
    for (index, value) in [(31_u8, "text/event-stream"), (26, coding)] {
        // Without indexing: the index of the name does not fit in four bits.
        fields.extend([0x0f, index - 15, u8::try_from(value.len()).expect("short")]);
        fields.extend(value.as_bytes());
    }
    fields
}

/// As many streams as there may be, each with a coded body of one endless message.
fn hostile_streams() {
    for coding in ["zstd", "gzip", "br"] {
        let bomb = coded(coding, 32 * MIB);
        let mut run = Run::new();
        run.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        run.send(&frame(4, 0, 0, &[]));
        run.receive(&frame(4, 0, 0, &[]));
        for stream in (0..200).map(|stream| 2 * stream + 1) {
            run.send(&frame(1, 5, stream, &[0x83, 0x84, 0x87, 0x41, 1, b'h']));
            run.receive(&frame(1, 4, stream, &answer_fields(coding)));
            for piece in bomb.chunks(16 * 1024) {
                run.receive(&frame(0, 0, stream, piece));
            }
        }
        println!("200 streams of {coding}: peak {} KiB", run.peak() / 1024);
        assert!(run.peak() <= 192 * MIB, "{coding}: {} bytes", run.peak());
    }
}

fn idle_connections() {
    let events = "data: {\"a\":1}\n\n".repeat(100);
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: api.example\r\nUser-Agent: somebody/1.0\r\nContent-Type: application/json\r\n";
    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    zipped.write_all(events.as_bytes()).expect("write to memory");
    let zipped = zipped.finish().expect("write to memory");
    let mut run = Run::new();
    for (coding, body) in [("", events.as_bytes()), ("Content-Encoding: gzip\r\n", &zipped)] {
        for size in [1, 100, usize::MAX] {
            run.count.end = None;
            let request = format!("{head}Content-Length: 2\r\n\r\n{{}}").into_bytes();
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{coding}Content-Length: {}\r\n\r\n",
                body.len()
            );
            request.chunks(size).for_each(|piece| run.send(piece));
            [answer.as_bytes(), body].concat().chunks(size).for_each(|piece| run.receive(piece));
            assert_eq!(run.count.end, Some(End { how: Ending::Complete, lost: 0 }));
            println!("idle HTTP/1.1 connection: {} bytes", run.now());
            assert!(run.now() <= 2048, "{} bytes", run.now());
        }
    }
}

/// The whole way to money, between two calls.
fn idle_pipelines() {
    const IDLE: usize = 100;
    let (prices, at) = (PriceBook::embedded(), Timestamp::UNIX_EPOCH);
    let ask = r#"{"model":"gpt-4o","messages":[]}"#;
    let request = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: {}\r\n\r\n{ask}",
        ask.len()
    );
    let say = r#"{"id":"1","model":"gpt-4o","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}"#;
    let answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{say}", say.len());
    let mut calls = 0;
    let mut use_it = |pipeline: &mut Pipeline| {
        let mut count = |step: Step| calls += usize::from(matches!(step, Step::Finished { .. }));
        pipeline.push(Direction::Request, StreamOffset(0), request.as_bytes(), at, &mut count);
        pipeline.push(Direction::Response, StreamOffset(0), answer.as_bytes(), at, &mut count);
    };
    // What is made once, on first use, is not the connection's.
    use_it(&mut Pipeline::new(prices, "https"));
    let before = NOW.load(Ordering::Relaxed);
    let pipelines: Vec<Pipeline> = (0..IDLE)
        .map(|_| {
            let mut pipeline = Pipeline::new(prices, "https");
            use_it(&mut pipeline);
            pipeline
        })
        .collect();
    let each = NOW.load(Ordering::Relaxed).saturating_sub(before) / pipelines.len();
    println!("idle connection with its meter: {each} bytes");
    assert_eq!(calls, IDLE + 1);
    assert!(each <= 2048, "{each} bytes");
}

#[test]
fn memory_is_bounded() {
    idle_connections();
    idle_pipelines();
    a_body_of_a_gibibyte();
    bombs();
    hostile_streams();
}
