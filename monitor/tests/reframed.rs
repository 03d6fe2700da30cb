//! Recorded exchanges in framings that no recording has: sent again through real HTTP/2 and WebSocket implementations on both ends of a
//! real TLS connection, with bodies coded anew, seen as the client's TLS library sees them, and read in random pieces.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    convert::Infallible,
    io::{self, Read as _, Write as _},
    ops::Range,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use base64::Engine as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, Response,
    body::{Body, Frame, Incoming},
    header::{HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use monitor::{
    meter::{Basis, Units, Usage},
    pipeline::{Charge, Pipeline, Step},
    price::{Money, PriceBook},
    replay::{Chunks, Line, replay},
    wire::{Connection, Direction, Event, ExchangeId, Limits, Sink, StreamOffset, Unreadable},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor, TlsConnector,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        crypto::ring,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName},
    },
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

/// Prices of the expectations are as of this time.
const AT: &str = "2026-11-20T12:00:00Z";

fn recording() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/dev.jsonl.gz");
    assert!(path.is_file(), "the corpus of recorded exchanges must lie in ../shared/corpus beside the repository");
    path
}

/// The recorded exchanges with a host that TLS leads to.
fn records() -> Vec<Value> {
    let mut text = String::new();
    let file = std::fs::File::open(recording()).expect("the corpus");
    flate2::read::MultiGzDecoder::new(file).read_to_string(&mut text).expect("the corpus");
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a record"));
    records.filter(|record| record["request"]["url"].as_str().is_some_and(|url| url.starts_with("https://"))).collect()
}

/// What the same exchanges come to over HTTP/1.1, by id.
fn over_http1() -> HashMap<String, Line> {
    let mut lines = HashMap::new();
    let mut take = |line: Line| {
        lines.insert(line.id.clone().expect("an id"), line);
        Ok(())
    };
    replay(&recording(), Chunks::Whole, Some(AT.parse().expect("a time")), &mut take).expect("the corpus");
    lines
}

/// What the client's TLS library was asked to write, and what it read, in the order of time.
type Script = Arc<Mutex<Vec<(Direction, Vec<u8>)>>>;

struct Seen<T> {
    inner: T,
    script: Script,
}

impl<T: AsyncRead + Unpin> AsyncRead for Seen<T> {
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

impl<T: AsyncWrite + Unpin> AsyncWrite for Seen<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written @ 1..)) = result {
            self.script.lock().expect("a lock").push((Direction::Request, bytes[..written].to_vec()));
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

type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;
type ClientStream = Seen<tokio_rustls::client::TlsStream<TcpStream>>;

/// Both ends of a TLS connection over loopback.
async fn connect(protocol: &[u8], script: Script) -> (ServerStream, ClientStream) {
    let identity = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_no_client_auth()
        .with_single_cert(vec![identity.cert.der().clone()], key)
        .expect("an identity");
    server.alpn_protocols = vec![protocol.to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(identity.cert.der().clone()).expect("a certificate");
    let mut client = ClientConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .expect("TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![protocol.to_vec()];

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let near = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
    let (far, _) = listener.accept().await.expect("a connection");
    let name = ServerName::try_from("localhost").expect("a name");
    let (far, near) = tokio::join!(
        TlsAcceptor::from(Arc::new(server)).accept(far),
        TlsConnector::from(Arc::new(client)).connect(name, near)
    );
    (far.expect("TLS"), Seen { inner: near.expect("TLS"), script })
}

fn body(message: &Value) -> Vec<u8> {
    base64::engine::general_purpose::STANDARD.decode(message["body"].as_str().unwrap_or_default()).expect("base64")
}

fn field<'a>(message: &'a Value, name: &str) -> Option<&'a str> {
    let fields = message["headers"].as_array()?.iter();
    fields
        .filter(|field| field["name"].as_str().is_some_and(|found| found.eq_ignore_ascii_case(name)))
        .find_map(|field| field["value"].as_str())
}

/// The recorded fields that HTTP/2 may have.
fn fields(message: &Value) -> HeaderMap {
    const OF_HTTP1: [&str; 8] = [
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "keep-alive",
        "proxy-connection",
        "transfer-encoding",
        "upgrade",
    ];
    let fields = message["headers"].as_array().into_iter().flatten().filter_map(|field| {
        let name = HeaderName::try_from(field["name"].as_str()?.to_ascii_lowercase()).ok()?;
        Some((name, HeaderValue::from_str(field["value"].as_str()?).ok()?))
    });
    fields.filter(|(name, _)| !OF_HTTP1.contains(&name.as_str())).collect()
}

const CODINGS: [&str; 4] = ["br", "zstd", "identity", "gzip"];

fn coded(coding: &str, plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match coding {
        "br" => {
            let mut encoder = brotli::CompressorWriter::new(&mut out, 4096, 4, 22);
            // Servers flush what they have.
            for piece in plain.chunks(3000) {
                encoder.write_all(piece).and_then(|()| encoder.flush()).expect("write to memory");
            }
        }
        "zstd" => out = zstd::encode_all(plain, 3).expect("write to memory"),
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(&mut out, flate2::Compression::default());
            encoder.write_all(plain).expect("write to memory");
            encoder.finish().expect("write to memory");
        }
        _ => out.extend_from_slice(plain),
    }
    out
}

/// A body in frames of these pieces.
struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

fn answer(index: usize, record: &Value) -> Response<Pieces> {
    let recorded = &record["response"];
    let mut plain = body(recorded);
    if field(recorded, "content-encoding") == Some("gzip") {
        let mut unzipped = Vec::new();
        flate2::read::MultiGzDecoder::new(&plain[..]).read_to_end(&mut unzipped).expect("gzip");
        plain = unzipped;
    }
    let coding = CODINGS[index % CODINGS.len()];
    let bytes = coded(coding, &plain);
    let pieces = bytes.chunks(700).map(Bytes::copy_from_slice).collect();
    let mut response = Response::new(Pieces(pieces));
    *response.status_mut() =
        u16::try_from(recorded["status"].as_u64().expect("a status")).expect("a status").try_into().expect("a status");
    *response.headers_mut() = fields(recorded);
    if coding != "identity" {
        response.headers_mut().insert("content-encoding", HeaderValue::from_static(coding));
    }
    response
}

const INDEX: &str = "x-exchange";

fn request(index: usize, record: &Value) -> Request<Full<Bytes>> {
    let recorded = &record["request"];
    let mut request = Request::new(Full::new(Bytes::from(body(recorded))));
    *request.method_mut() = recorded["method"].as_str().expect("a method").parse().expect("a method");
    *request.uri_mut() = recorded["url"].as_str().expect("a URL").parse().expect("a URL");
    *request.headers_mut() = fields(recorded);
    request.headers_mut().insert(INDEX, HeaderValue::from(index));
    request
}

/// Sends these exchanges over one HTTP/2 connection, some of them at once, and gives what was seen.
async fn over_http2(records: Arc<Vec<Value>>) -> Vec<(Direction, Vec<u8>)> {
    let script = Script::default();
    let (far, near) = connect(b"h2", script.clone()).await;
    let served = records.clone();
    let service = service_fn(move |asked: Request<Incoming>| {
        let records = served.clone();
        async move {
            let index: usize = asked.headers()[INDEX].to_str().expect("text").parse().expect("a number");
            let _ = asked.into_body().collect().await;
            Ok::<_, Infallible>(answer(index, &records[index]))
        }
    });
    let server = tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), service),
    );
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near)).await.expect("HTTP/2");
    let connection = tokio::spawn(connection);
    for batch in (0..records.len()).collect::<Vec<_>>().chunks(5) {
        // Requests go out in the order in which they are handed over.
        let asked: Vec<_> =
            batch.iter().map(|index| tokio::spawn(sender.send_request(request(*index, &records[*index])))).collect();
        for answer in asked {
            let answer = answer.await.expect("an answer").expect("an answer");
            answer.into_body().collect().await.expect("a body");
        }
    }
    drop(sender);
    connection.await.expect("the connection").expect("HTTP/2");
    server.abort();
    let mut seen = script.lock().expect("a lock");
    std::mem::take(&mut seen)
}

/// Lengths of pieces: SplitMix64 (Steele, Lea, Flood 2014).
struct Cutter(u64);

impl Cutter {
    fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let most = [8, 100, 1000, 20_000][usize::try_from(z % 4).expect("small")];
        usize::try_from((z >> 8) % most).expect("small") + 1
    }
}

/// What the exchanges come to when the bytes of `hole` are lost.
fn charges(script: &[(Direction, Vec<u8>)], seed: u64, hole: &(Direction, Range<u64>)) -> BTreeMap<u64, Charge> {
    let at: Timestamp = AT.parse().expect("a time");
    let (mut pipeline, mut charges) = (Pipeline::new(PriceBook::embedded_catalogue(), "https"), BTreeMap::new());
    let mut take = |step: Step| match step {
        Step::Finished { exchange, charge, .. } => {
            charges.insert(exchange.0, *charge);
        }
        Step::Unreadable(why) => panic!("{why}"),
        _ => {}
    };
    let (mut sent, mut received, mut cutter) = (0, 0, Cutter(seed));
    for (direction, bytes) in script {
        let offset = if *direction == Direction::Request { &mut sent } else { &mut received };
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(cutter.next().min(rest.len()));
            let is_lost = hole.0 == *direction && hole.1.start < *offset + piece.len() as u64 && *offset < hole.1.end;
            if !is_lost {
                pipeline.push(*direction, StreamOffset(*offset), piece, at, &mut take);
            }
            *offset += piece.len() as u64;
            rest = after;
        }
    }
    pipeline.close(at, &mut take);
    charges
}

const NO_HOLE: (Direction, Range<u64>) = (Direction::Request, 0..0);

#[test]
fn nothing_that_was_lost_is_called_measured() {
    let all = records();
    let some: Vec<Value> =
        all.into_iter().filter(|record| record["expected"]["usage_status"] == "reported").step_by(12).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let script = runtime.block_on(over_http2(Arc::new(some)));
    let sum = |charge: &Charge| {
        let model = charge.metered.model().map(str::to_owned);
        (charge.metered.response_id.clone(), model, charge.metered.usage, charge.metered.units, charge.cost)
    };
    let perfect: Vec<_> = charges(&script, 1, &NO_HOLE).values().map(sum).collect();
    let length = |wanted| {
        script.iter().filter(|(direction, _)| *direction == wanted).map(|(_, bytes)| bytes.len() as u64).sum::<u64>()
    };
    let (mut cutter, mut measured, mut marked) = (Cutter(7), 0, 0);
    for turn in 0..60 {
        let direction = if turn % 3 == 0 { Direction::Request } else { Direction::Response };
        let start = length(direction) * turn / 60;
        let hole = (direction, start..start + cutter.next() as u64);
        for charge in charges(&script, turn, &hole).values() {
            if matches!(charge.metered.basis, Basis::Measured | Basis::Provider) {
                measured += 1;
                assert!(perfect.contains(&sum(charge)), "{hole:?}: {charge:?}");
            } else {
                marked += 1;
            }
        }
    }
    println!("{measured} as they were, {marked} marked");
    assert!(measured > 0 && marked > 0);
}

#[test]
fn http2_with_new_codings_costs_what_http1_does() {
    let (records, expected) = (Arc::new(records()), over_http1());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let script = runtime.block_on(over_http2(records.clone()));
    for seed in [1, 2] {
        let charges = charges(&script, seed, &NO_HOLE);
        assert_eq!(charges.len(), records.len());
        let (mut wrong, mut reported) = (Vec::new(), 0);
        for (record, charge) in records.iter().zip(charges.values()) {
            let id = record["id"].as_str().expect("an id");
            let line = &expected[id];
            reported += usize::from(record["expected"]["usage_status"] == "reported");
            let is = (
                charge.metered.usage,
                charge.metered.units,
                charge.metered.basis,
                charge.cost,
                charge.metered.response_id.as_deref(),
            );
            let should = (line.usage, line.units, line.basis, line.cost_usd, line.response_id.as_deref());
            if is != should {
                wrong.push(format!("{id}: {is:?}, over HTTP/1.1 {should:?}"));
            }
        }
        println!("{} exchanges over HTTP/2, {reported} of them with usage, in pieces of seed {seed}", records.len());
        assert!(reported > 700, "{reported} exchanges report usage");
        assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
    }
}

/// The messages of the last WebSocket.
#[derive(Default)]
struct Messages(Vec<(Direction, String)>);

impl Sink for Messages {
    fn event(&mut self, _: ExchangeId, event: Event<'_>) {
        if let Event::Socket(direction, message) = event {
            assert!(!message.truncated);
            self.0.push((direction, String::from_utf8(message.data.to_vec()).expect("text")));
        }
    }

    fn unreadable(&mut self, why: Unreadable) {
        panic!("{why}");
    }
}

#[test]
fn websocket_messages_arrive_as_they_were_sent_and_cost_what_http_does() {
    use futures_util::{SinkExt as _, StreamExt as _};

    let (all, lines) = (records(), over_http1());
    let mut reported = 0;
    let streams: Vec<&Value> =
        all.iter().filter(|record| record["endpoint"] == "responses" && record["body_format"] == "sse").collect();
    assert!(streams.len() > 10);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for record in streams {
        let events: Vec<String> = String::from_utf8_lossy(&body(&record["response"]))
            .lines()
            .filter_map(|line| line.strip_prefix("data: ").map(str::to_owned))
            .collect();
        let mut ask: Value = serde_json::from_slice(&body(&record["request"])).expect("JSON");
        ask["type"] = "response.create".into();
        let ask = ask.to_string();
        let script = Script::default();
        runtime.block_on(async {
            let (far, near) = connect(b"http/1.1", script.clone()).await;
            let (served, asked) = (events.clone(), ask.clone());
            let server = tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(far).await.expect("a client");
                let got = socket.next().await.expect("a message").expect("a message");
                assert_eq!(got.into_text().expect("text").as_str(), asked);
                for event in served {
                    socket.send(Message::text(event)).await.expect("a client");
                }
                while let Some(Ok(_)) = socket.next().await {}
            });
            let url = "wss://api.openai.com/v1/responses".into_client_request().expect("a request");
            let (mut socket, _) = tokio_tungstenite::client_async(url, near).await.expect("a server");
            socket.send(Message::text(ask.clone())).await.expect("a server");
            for _ in 0..events.len() {
                socket.next().await.expect("a message").expect("a message");
            }
            socket.close(None).await.expect("a server");
            while let Some(Ok(_)) = socket.next().await {}
            server.await.expect("the server");
        });
        let (mut connection, mut messages, mut cutter) =
            (Connection::new(Limits::default()), Messages::default(), Cutter(3));
        let (mut sent, mut received) = (0, 0);
        for (direction, bytes) in script.lock().expect("a lock").iter() {
            let offset = if *direction == Direction::Request { &mut sent } else { &mut received };
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(cutter.next().min(rest.len()));
                connection.push(*direction, StreamOffset(*offset), piece, &mut messages);
                *offset += piece.len() as u64;
                rest = after;
            }
        }
        let expected: Vec<_> = std::iter::once((Direction::Request, ask))
            .chain(events.into_iter().map(|event| (Direction::Response, event)))
            .collect();
        assert_eq!(messages.0, expected);
        // The answer costs what it did over HTTP.
        let line = &lines[record["id"].as_str().expect("an id")];
        let seen = script.lock().expect("a lock");
        let charges = charges(&seen, 5, &NO_HOLE);
        let is: Vec<_> = charges.values().filter(|charge| charge.metered.basis != Basis::None).map(sum).collect();
        let should = (
            line.response_id.clone(),
            line.model.clone(),
            line.usage,
            line.units,
            line.basis,
            line.cost_usd,
            line.tokens_usd,
        );
        assert_eq!(is, [should], "{}", record["id"]);
        reported += usize::from(record["expected"]["usage_status"] == "reported");
    }
    println!("{reported} answers with usage");
    assert!(reported > 10, "{reported} answers report usage");
}

type Sum = (Option<String>, Option<String>, Usage, Units, Basis, Option<Money>, Option<Money>);

fn sum(charge: &Charge) -> Sum {
    let metered = &charge.metered;
    let id = metered.response_id.as_deref().map(str::to_owned);
    let model = metered.model().map(str::to_owned);
    (id, model, metered.usage, metered.units, metered.basis, charge.cost, charge.tokens_cost)
}
