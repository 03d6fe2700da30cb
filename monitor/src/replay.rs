//! Recorded exchanges through the pipeline, as live bytes would go.
//!
//! In: a recording (JSON lines of HAR-like exchanges, or a HAR file). Out: one [`Line`] per exchange, in order.
//!
//! **Invariant:** every exchange of the recording gives a line; one that cannot be read gives a line that says why.
#![forbid(unsafe_code)]

mod error;

use std::{
    collections::{HashMap, hash_map::Entry},
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, BufRead, BufReader},
    path::Path,
    str::FromStr,
    sync::Arc,
};

use base64::Engine as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    meter::{Basis, Kind, Units, Usage, tool::Rules},
    pipeline::{Charge, Pipeline, Row, Step},
    price::{Money, PriceBook},
    wire::{Direction, StreamOffset},
};

pub use error::{Errors, Sample, Vocabulary};

/// How the bytes are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Chunks {
    /// Each direction in one piece.
    #[default]
    Whole,
    /// After each line feed.
    Lines,
    /// At random places, the same ones for the same seed.
    Random(u64),
}

impl FromStr for Chunks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "whole" => Ok(Self::Whole),
            None if text == "lines" => Ok(Self::Lines),
            Some(("random", seed)) => {
                seed.parse().map(Self::Random).map_err(|_| format!("`{seed}` is not a number to seed with"))
            }
            _ => Err("use `whole`, `lines` or `random:SEED`".into()),
        }
    }
}

/// What one recorded exchange comes to.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    pub id: Option<String>,
    pub provider: Option<String>,
    pub model: Option<String>,
    pub response_id: Option<String>,
    pub stream: bool,
    pub usage: Usage,
    pub units: Units,
    pub tokens_usd: Option<Money>,
    pub cost_usd: Option<Money>,
    pub basis: Basis,
    pub price_row: Option<Row>,
    /// Why there is no cost, what it leaves out, or why the exchange could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The tool that was called, where no model was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool: Option<String>,
    /// What the meter would have said without the report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimate: Option<Usage>,
    /// Why the report cannot be held against that: the wire says that it does not show what was counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unseen: Option<&'static str>,
    /// Tells the recording from others, copies aside.
    #[serde(skip)]
    pub recording: Option<u64>,
    /// The exchange that gave the same answer before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<String>,
    /// The exchange could not be read.
    #[serde(skip)]
    pub is_error: bool,
}

/// One exchange as it was recorded.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Recorded {
    id: Option<String>,
    started_date_time: Option<Timestamp>,
    request: Request,
    response: Response,
    /// Messages of a WebSocket, as browsers record them.
    #[serde(default, rename = "_webSocketMessages")]
    socket: Vec<SocketMessage>,
}

#[derive(Debug, Deserialize)]
struct SocketMessage {
    /// `send` or `receive`.
    #[serde(rename = "type")]
    way: String,
    data: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Request {
    method: String,
    url: String,
    #[serde(default)]
    headers: Vec<Field>,
    /// Base64, content coding on.
    body: Option<String>,
    /// HAR: text, content coding off.
    post_data: Option<Content>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    status: u16,
    #[serde(default)]
    status_text: String,
    #[serde(default)]
    headers: Vec<Field>,
    body: Option<String>,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
struct Field {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
struct Content {
    text: Option<String>,
    encoding: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Har {
    log: HarLog,
}

#[derive(Debug, Deserialize)]
struct HarLog {
    entries: Vec<serde_json::Value>,
}

/// Replays a file at the prices of the embedded catalogue, and hands each line to `on_line`.
///
/// # Errors
/// When the file cannot be read, or `on_line` fails.
pub fn replay(
    path: &Path,
    chunks: Chunks,
    at: Option<Timestamp>,
    on_line: &mut dyn FnMut(Line) -> io::Result<()>,
) -> io::Result<()> {
    replay_with(path, &Options { chunks, at, ..Options::default() }, on_line)
}

/// How to replay.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub chunks: Chunks,
    /// Price as of this time.
    pub at: Option<Timestamp>,
    /// Put an estimate beside what was reported.
    pub estimate: bool,
    /// Charge an answer once, however often the recording has it.
    pub once: bool,
    /// What calls of tools cost.
    pub tools: Arc<Rules>,
    /// Prices to use; the embedded catalogue alone if none are given.
    pub prices: Option<&'static PriceBook>,
}

/// As [`replay`], with all options.
///
/// # Errors
/// When the file cannot be read, or `on_line` fails.
pub fn replay_with(path: &Path, options: &Options, on_line: &mut dyn FnMut(Line) -> io::Result<()>) -> io::Result<()> {
    let prices = options.prices.unwrap_or_else(PriceBook::embedded_catalogue);
    let mut charged = HashMap::new();
    let mut on_line = |lines: Vec<Line>| {
        lines.into_iter().try_for_each(|mut line| {
            if options.once {
                mark_repeated(&mut line, &mut charged);
            }
            on_line(line)
        })
    };
    let mut reader = open(path)?;
    if reader.fill_buf()?.starts_with(BOM) {
        reader.consume(BOM.len());
    }
    if is_har(reader.fill_buf()?) {
        let har: Har = serde_json::from_reader(reader)?;
        for (index, entry) in har.log.entries.into_iter().enumerate() {
            let id = format!("entries/{index}");
            on_line(replay_one(serde_json::from_value(entry), &id, options, prices))?;
        }
        return Ok(());
    }
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if !line.trim_ascii().is_empty() {
            on_line(replay_one(serde_json::from_slice(&line), &format!("line {number}"), options, prices))?;
        }
    }
    Ok(())
}

/// Answers that are remembered, to know them again.
const REMEMBERED: usize = 1_000_000;

/// Says of an answer that was charged before that it costs nothing again.
fn mark_repeated(line: &mut Line, charged: &mut HashMap<(Option<String>, String), String>) {
    let (Some(response), Some(id)) = (line.response_id.clone(), line.id.clone()) else { return };
    let is_costly = !matches!(line.basis, Basis::None) && line.tool.is_none();
    if !is_costly {
        return;
    }
    match charged.entry((line.provider.clone(), response)) {
        Entry::Occupied(first) => {
            line.repeats = Some(first.get().clone());
            (line.cost_usd, line.tokens_usd) = (Some(Money::ZERO), Some(Money::ZERO));
        }
        Entry::Vacant(place) => {
            place.insert(id);
            if charged.len() > REMEMBERED {
                charged.clear();
            }
        }
    }
}

/// Byte order mark, which some editors write.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// A HAR file is one object with a `log` (HAR 1.2 §3.1), whatever it is called; in JSON lines the first object is an exchange.
fn is_har(beginning: &[u8]) -> bool {
    beginning
        .trim_ascii_start()
        .strip_prefix(b"{")
        .is_some_and(|members| members.trim_ascii_start().starts_with(b"\"log\""))
}

fn open(path: &Path) -> io::Result<Box<dyn BufRead>> {
    let mut file = BufReader::new(File::open(path)?);
    let is_gzip = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if is_gzip { Box::new(BufReader::new(flate2::bufread::MultiGzDecoder::new(file))) } else { Box::new(file) })
}

fn replay_one(
    recorded: Result<Recorded, serde_json::Error>,
    fallback_id: &str,
    options: &Options,
    prices: &'static PriceBook,
) -> Vec<Line> {
    let recorded = match recorded {
        Ok(recorded) => recorded,
        Err(error) => {
            return vec![unreadable(Some(fallback_id.to_owned()), format!("not a recorded exchange: {error}"))];
        }
    };
    let id = recorded.id.clone().unwrap_or_else(|| fallback_id.to_owned());
    let Some(at) = options.at.or(recorded.started_date_time) else {
        return vec![unreadable(Some(id), "no time was recorded to price at: give one with --at".into())];
    };
    match wire_bytes(&recorded) {
        Ok((request, response)) => {
            let scheme = if recorded.request.url.starts_with("http://") { "http" } else { "https" };
            let mut pipeline = Pipeline::new(prices, scheme).with_tools(Arc::clone(&options.tools));
            if options.estimate {
                pipeline = pipeline.with_estimates();
            }
            let mut pieces = vec![(Direction::Request, request), (Direction::Response, response)];
            pieces.extend(frames(&recorded));
            match feed(&pieces, options.chunks, at, pipeline) {
                Ok(charges) => {
                    let mut lines = lines(&id, charges);
                    for (index, line) in lines.iter_mut().enumerate().filter(|_| options.estimate) {
                        line.recording = Some(fingerprint(&recorded, index));
                    }
                    lines
                }
                Err(why) => vec![unreadable(Some(id), why)],
            }
        }
        Err(why) => vec![unreadable(Some(id), why)],
    }
}

/// The same for copies of a recording, whenever they were made.
fn fingerprint(recorded: &Recorded, index: usize) -> u64 {
    let content = |content: &Option<Content>| content.as_ref().and_then(|content| content.text.clone());
    let (request, response) = (&recorded.request, &recorded.response);
    let messages: Vec<&str> = recorded.socket.iter().map(|message| &*message.data).collect();
    let mut hasher = DefaultHasher::new();
    (&request.url, &request.body, content(&request.post_data)).hash(&mut hasher);
    (&response.body, content(&response.content), messages, index).hash(&mut hasher);
    hasher.finish()
}

fn unreadable(id: Option<String>, why: String) -> Line {
    Line {
        id,
        provider: None,
        model: None,
        response_id: None,
        stream: false,
        usage: Usage::default(),
        units: Units::ZERO,
        tokens_usd: None,
        cost_usd: None,
        basis: Basis::None,
        price_row: None,
        note: Some(why),
        tool: None,
        estimate: None,
        unseen: None,
        recording: None,
        repeats: None,
        is_error: true,
    }
}

/// The line of an exchange. One that became a WebSocket gives a line for each call on it, if there was any.
fn lines(id: &str, charges: Vec<Charge>) -> Vec<Line> {
    let is_socket = charges.len() > 1;
    let calls = charges.len().saturating_sub(usize::from(is_socket));
    let shown = charges.into_iter().take(calls).enumerate();
    shown
        .map(|(index, charge)| line(if is_socket { format!("{id}#{}", index + 1) } else { id.to_owned() }, charge))
        .collect()
}

fn line(id: String, charge: Charge) -> Line {
    let tool = if let Kind::Tool(name) = &charge.metered.kind { Some(name.to_string()) } else { None };
    let model = charge.metered.model().map(str::to_owned);
    Line {
        id: Some(id),
        provider: charge.metered.provider.map(str::to_owned),
        model,
        response_id: charge.metered.response_id.map(Into::into),
        stream: charge.metered.stream,
        usage: charge.metered.usage,
        units: charge.metered.units,
        tokens_usd: charge.tokens_cost,
        cost_usd: charge.cost,
        basis: charge.metered.basis,
        price_row: charge.row,
        note: charge.note,
        tool,
        estimate: charge.metered.estimate,
        unseen: charge.metered.unseen,
        recording: None,
        repeats: None,
        is_error: false,
    }
}

/// The bytes of both directions of an exchange, given as a line of a recording.
#[cfg(test)]
pub(crate) fn recorded_bytes(line: &str) -> Option<(Vec<u8>, Vec<u8>)> {
    wire_bytes(&serde_json::from_str(line).ok()?).ok()
}

/// The bytes of both directions, as they were on the wire.
fn wire_bytes(recorded: &Recorded) -> Result<(Vec<u8>, Vec<u8>), String> {
    let (request, response) = (&recorded.request, &recorded.response);
    let (host, target) = split_url(&request.url);
    let decoded = request.post_data.is_some();
    let body = body(request.body.as_deref(), request.post_data.as_ref())?;
    let mut head = format!("{} {target} HTTP/1.1\r\n", request.method);
    if !has_field(&request.headers, "host") {
        head.push_str(&format!("host: {host}\r\n"));
    }
    let request_bytes = message(head, &request.headers, &body, decoded, true);

    let decoded = response.content.is_some();
    let body = self::body(response.body.as_deref(), response.content.as_ref())?;
    let head = format!("HTTP/1.1 {} {}\r\n", response.status, response.status_text);
    Ok((request_bytes, message(head, &response.headers, &body, decoded, false)))
}

fn split_url(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let slash = rest.find('/').unwrap_or(rest.len());
    let (host, target) = rest.split_at(slash);
    (host, if target.is_empty() { "/" } else { target })
}

fn body(base64: Option<&str>, content: Option<&Content>) -> Result<Vec<u8>, String> {
    let decode = |text: &str| {
        base64::engine::general_purpose::STANDARD.decode(text).map_err(|error| format!("a body is not base64: {error}"))
    };
    match (base64, content) {
        (Some(text), _) => decode(text),
        (None, Some(Content { text: Some(text), encoding: Some(encoding) })) if encoding == "base64" => decode(text),
        (None, Some(Content { text: Some(text), .. })) => Ok(text.clone().into_bytes()),
        _ => Ok(Vec::new()),
    }
}

fn has_field(headers: &[Field], name: &str) -> bool {
    headers.iter().any(|field| field.name.eq_ignore_ascii_case(name))
}

/// A message with its framing. A HAR file holds bodies without codings, so its framing fields no longer fit and are made anew.
fn message(mut head: String, headers: &[Field], body: &[u8], decoded: bool, is_request: bool) -> Vec<u8> {
    let is_framing = |name: &str| {
        decoded
            && ["content-encoding", "content-length", "transfer-encoding"]
                .iter()
                .any(|framing| name.eq_ignore_ascii_case(framing))
    };
    for field in headers.iter().filter(|field| !field.name.starts_with(':') && !is_framing(&field.name)) {
        head.push_str(&field.name);
        head.push_str(": ");
        head.push_str(&field.value.replace(['\r', '\n'], " "));
        head.push_str("\r\n");
    }
    let is_chunked = !decoded
        && headers.iter().any(|field| {
            field.name.eq_ignore_ascii_case("transfer-encoding") && field.value.to_ascii_lowercase().contains("chunked")
        });
    let needs_length =
        !is_chunked && !body.is_empty() && (decoded || (is_request && !has_field(headers, "content-length")));
    if needs_length {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if is_chunked {
        // Where the chunks were is not recorded; a few hundred bytes is what servers stream.
        for chunk in body.chunks(500) {
            bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"0\r\n\r\n");
    } else {
        bytes.extend_from_slice(body);
    }
    bytes
}

/// Messages of one direction of a WebSocket, as frames of text (RFC 6455 §5.2), each with its place among those of both directions.
fn frames(recorded: &Recorded) -> Vec<(Direction, Vec<u8>)> {
    let messages = recorded.socket.iter().map(|message| {
        let (direction, mask) =
            if message.way == "send" { (Direction::Request, 0x80) } else { (Direction::Response, 0) };
        let mut frame = vec![0x81];
        match (u8::try_from(message.data.len()), u16::try_from(message.data.len())) {
            (Ok(length @ ..126), _) => frame.push(mask | length),
            (_, Ok(length)) => {
                frame.push(mask | 126);
                frame.extend_from_slice(&length.to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend_from_slice(&(message.data.len() as u64).to_be_bytes());
            }
        }
        if mask != 0 {
            // A mask of zeros changes nothing.
            frame.extend_from_slice(&[0; 4]);
        }
        frame.extend_from_slice(message.data.as_bytes());
        (direction, frame)
    });
    messages.collect()
}

/// Feeds pieces in their order, each cut further, and gives what the exchanges came to, in the order in which they ended.
fn feed(
    pieces: &[(Direction, Vec<u8>)],
    chunks: Chunks,
    at: Timestamp,
    mut pipeline: Pipeline,
) -> Result<Vec<Charge>, String> {
    let (mut charges, mut unread) = (Vec::new(), None);
    let mut take = |step: Step| match step {
        Step::Finished { charge, .. } => charges.push(*charge),
        Step::Unreadable(why) => unread = Some(why.to_string()),
        _ => {}
    };
    let mut cutter = Cutter::new(chunks);
    let mut sent = [0_u64; 2];
    for (direction, bytes) in pieces {
        let offset = &mut sent[usize::from(*direction == Direction::Response)];
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cutter.length(rest).min(rest.len()));
            pipeline.push(*direction, StreamOffset(*offset), piece, at, &mut take);
            *offset += piece.len() as u64;
            rest = after;
        }
    }
    pipeline.close(at, &mut take);
    if charges.is_empty() {
        return Err(unread.unwrap_or_else(|| "the recording has no whole request head".into()));
    }
    Ok(charges)
}

/// Decides where pieces end.
struct Cutter {
    chunks: Chunks,
    state: u64,
}

impl Cutter {
    fn new(chunks: Chunks) -> Self {
        let seed = if let Chunks::Random(seed) = chunks { seed } else { 0 };
        Self { chunks, state: seed }
    }

    fn length(&mut self, rest: &[u8]) -> usize {
        match self.chunks {
            Chunks::Whole => rest.len(),
            Chunks::Lines => memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1),
            Chunks::Random(_) => {
                // Short pieces as often as long ones: both ends of the range find different faults.
                let most = [1, 7, 100, 4096][usize::try_from(self.next() % 4).unwrap_or(0)];
                usize::try_from(self.next() % most).unwrap_or(0) + 1
            }
        }
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): a fixed sequence for each seed, on every platform and version.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests;
