//! A receiver of webhooks: speaks TLS, refuses as often as it is told to, and keeps what it has taken.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot};
use tokio_rustls::TlsAcceptor;

use crate::model_server::certificate;

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Received {
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// What it was answered.
    pub status: u16,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// # Panics
    /// When the body is no JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

#[derive(Debug, Default)]
struct Book {
    received: Vec<Received>,
    /// Answers of the next requests; then all are taken.
    refusals: VecDeque<u16>,
}

/// A running receiver; it stops when dropped.
#[derive(Debug)]
pub struct Receiver {
    /// `https://localhost:PORT`.
    pub base_url: String,
    /// PEM file by which its certificate is trusted.
    pub ca_path: PathBuf,
    book: Arc<Mutex<Book>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
    _directory: TempDir,
}

impl Receiver {
    /// Starts one that answers its first requests like this.
    ///
    /// # Errors
    /// When no port or file can be had.
    pub fn start(refusals: &[u16]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("receiver-").tempdir()?;
        let certificate::Identity { mut tls, authority_pem } = certificate::create().context("making a certificate")?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let ca_path = directory.path().join("ca.pem");
        std::fs::write(&ca_path, authority_pem)?;
        let book = Arc::new(Mutex::new(Book { refusals: refusals.iter().copied().collect(), ..Book::default() }));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
        let base_url = format!("https://localhost:{}", listener.local_addr()?.port());
        let (stop, stopped) = oneshot::channel();
        let (acceptor, kept) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(&book));
        let thread = thread::Builder::new().name("receiver".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, acceptor, kept) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { base_url, ca_path, book, stop: Some(stop), thread: Some(thread), _directory: directory })
    }

    /// Everything that came, in order.
    pub fn received(&self) -> Vec<Received> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).received.clone()
    }

    /// The next requests are answered like this.
    pub fn refuse(&self, refusals: &[u16]) {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).refusals = refusals.iter().copied().collect();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed; there is nobody to hand it to.
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, book: Arc<Mutex<Book>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, book) = (acceptor.clone(), Arc::clone(&book));
        tokio::spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let answer = service_fn(move |request| answer(Arc::clone(&book), request));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}

async fn answer(
    book: Arc<Mutex<Book>>,
    request: Request<Incoming>,
) -> Result<Response<Full<hyper::body::Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let header = |(name, value): (&hyper::header::HeaderName, &hyper::header::HeaderValue)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
    let status = book.refusals.pop_front().unwrap_or(200);
    book.received.push(Received {
        path: head.uri.path().to_owned(),
        headers: head.headers.iter().map(header).collect(),
        body: String::from_utf8_lossy(&body).into_owned(),
        status,
    });
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Ok(response)
}
