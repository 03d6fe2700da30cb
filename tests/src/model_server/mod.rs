//! A local TLS model server: requests in, answers of the OpenAI, Anthropic, Gemini and Bedrock APIs out, and the truth about both.
//!
//! Invariant: whatever was billed is in the truth before its last byte is on the wire. The server speaks TLS by rustls,
//! so that Tollgate's OpenSSL probes see its clients only.

mod answer;
mod anthropic;
mod bedrock;
pub(crate) mod certificate;
mod directive;
mod gemini;
mod openai;
mod plan;
mod random;
mod responses;
mod service;
mod socket;
mod truth;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_rustls::TlsAcceptor;

pub use self::{
    directive::{CLIENT_HEADER, Directive},
    truth::{Api, Call, State, Truth},
};
use self::{
    service::{Origin, Service},
    truth::Book,
};

/// What answers are like when the request does not ask for anything.
#[derive(Debug, Clone)]
pub struct Config {
    /// 0: any free port.
    pub port: u16,
    /// Makes the drawn usages repeat from run to run (per order of arrival).
    pub seed: Option<u64>,
    /// Mean of the input tokens drawn.
    pub input_tokens: u64,
    /// Mean of the output tokens drawn.
    pub output_tokens: u64,
    /// Words per streamed event.
    pub chunk_tokens: u64,
    /// Pause between two chunks.
    pub delay: Duration,
    /// Pause before the first byte.
    pub stall: Duration,
    /// Compress answers for clients that accept gzip.
    pub gzip: bool,
    /// Speak HTTP without TLS, HTTP/2 by prior knowledge.
    pub plain: bool,
    /// Where `ca.pem` and `truth.jsonl` go; a temporary directory if there is none.
    pub directory: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 0,
            seed: None,
            input_tokens: 800,
            output_tokens: 60,
            chunk_tokens: 3,
            delay: Duration::ZERO,
            stall: Duration::ZERO,
            gzip: false,
            plain: false,
            directory: None,
        }
    }
}

/// A running server; it stops when dropped.
#[derive(Debug)]
pub struct ModelServer {
    pub addr: SocketAddr,
    /// `https://localhost:PORT`, without a path; `http` where it is plain.
    pub base_url: String,
    /// PEM file by which clients trust the server (`SSL_CERT_FILE`).
    pub ca_path: PathBuf,
    /// JSON lines, one when a request arrives and one when it ends; the last for a number counts.
    pub truth_path: PathBuf,
    book: Arc<Book>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _temporary: Option<TempDir>,
}

/// How long connections may take to end when the server stops.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// Streams of HTTP/2 that a client may have open at once.
const MAX_STREAMS: u32 = 128;

/// Idle connections are kept this long: longer than any test.
const KEEP_ALIVE: Duration = Duration::from_secs(600);

impl ModelServer {
    /// Starts a server on a thread of its own; it is reachable when this returns.
    ///
    /// # Errors
    /// When the port is taken or a file cannot be written.
    pub fn start(config: Config) -> anyhow::Result<Self> {
        let (directory, temporary) = match &config.directory {
            Some(directory) => (directory.clone(), None),
            None => {
                let temporary = tempfile::Builder::new().prefix("model-server-").tempdir()?;
                (temporary.path().to_owned(), Some(temporary))
            }
        };
        std::fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        let identity = certificate::create().context("making a certificate")?;
        let ca_path = directory.join("ca.pem");
        std::fs::write(&ca_path, &identity.authority_pem).with_context(|| ca_path.display().to_string())?;
        let truth_path = directory.join("truth.jsonl");
        let book = Book::open(Some(&truth_path))?;

        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("model-server")
            .enable_all()
            .build()
            .context("starting the runtime")?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, config.port));
        let listener =
            runtime.block_on(TcpListener::bind(address)).with_context(|| format!("listening on {address}"))?;
        let addr = listener.local_addr()?;
        let scheme = if config.plain { "http" } else { "https" };
        let acceptor = (!config.plain).then(|| TlsAcceptor::from(Arc::new(identity.tls)));
        let service = Arc::new(Service::new(config, Arc::clone(&book)));
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("model-server".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, acceptor, service) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_timeout(SHUTDOWN);
        })?;
        Ok(Self {
            addr,
            base_url: format!("{scheme}://localhost:{}", addr.port()),
            ca_path,
            truth_path,
            book,
            stop: Some(stop),
            thread: Some(thread),
            _temporary: temporary,
        })
    }

    /// Every request so far, in order of arrival.
    pub fn truth(&self) -> Vec<Truth> {
        self.book.snapshot()
    }

    /// The requests tagged with this `x-test-client`.
    pub fn truth_of(&self, client: &str) -> Vec<Truth> {
        self.truth().into_iter().filter(|truth| truth.is_of(client)).collect()
    }

    /// Waits until the truth is as wanted, and gives all of it; `None` if it was not within `limit`.
    pub fn wait_until(&self, limit: Duration, wanted: impl Fn(&[Truth]) -> bool) -> Option<Vec<Truth>> {
        self.book.wait_until(limit, wanted)
    }
}

impl Drop for ModelServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, service: Arc<Service>) {
    let mut connection = 0;
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let origin = Origin { connection, peer };
                connection += 1;
                tokio::spawn(serve(stream, acceptor.clone(), origin, Arc::clone(&service)));
            }
            Err(error) => {
                eprintln!("model-server: accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Serves a connection to its end. How it ends is in the truth; errors of a connection are the client's business.
async fn serve(stream: TcpStream, acceptor: Option<TlsAcceptor>, origin: Origin, service: Arc<Service>) {
    // Without this, small events of a stream wait for one another.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    match acceptor {
        None => speak(stream, origin, service).await,
        Some(acceptor) => {
            if let Ok(stream) = acceptor.accept(stream).await {
                speak(stream, origin, service).await;
            }
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, origin: Origin, service: Arc<Service>) {
    let answer = service_fn(move |request| Arc::clone(&service).answer(origin, request));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(KEEP_ALIVE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(MAX_STREAMS);
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer).await;
}
