//! A loopback address where Prometheus scrapes.
//!
//! Every user of the host can connect there, and so can tasks: it tells sums, takes nothing, serves few at a time and none for long.

use std::{convert::Infallible, fmt, io, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Deserializer, de::Error as _};
use tokio::{net::TcpListener, sync::Semaphore};

use super::{Source, text};

/// Connections at a time; others wait to be accepted.
const MOST: usize = 64;
/// For a connection, with all that is asked on it.
const LIMIT: Duration = Duration::from_secs(30);
/// For the head of a request, the next one on a connection too: it comes from this host.
const HEAD: Duration = Duration::from_secs(1);
/// How long to wait when no connection can be accepted.
const PAUSE: Duration = Duration::from_millis(500);

/// An address that is reached from this host alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loopback(SocketAddr);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotLoopback {
    #[error("`{0}` is not an address with a port, like `127.0.0.1:9464`")]
    NoAddress(String),
    #[error(
        "{0} is not a loopback address: metrics have no password and are served to this host alone; use 127.0.0.1 or [::1], with a proxy \
         before it where others should scrape"
    )]
    Elsewhere(SocketAddr),
}

impl FromStr for Loopback {
    type Err = NotLoopback;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address: SocketAddr = text.parse().map_err(|_| NotLoopback::NoAddress(text.into()))?;
        // Also `::ffff:127.0.0.1`.
        if address.ip().to_canonical().is_loopback() { Ok(Self(address)) } else { Err(NotLoopback::Elsewhere(address)) }
    }
}

impl<'de> Deserialize<'de> for Loopback {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl fmt::Display for Loopback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address that is bound but not served yet.
#[derive(Debug)]
pub struct Listener(TcpListener);

impl Listener {
    /// # Errors
    /// When the address cannot be bound: another program has it, or the service may not use the network.
    pub async fn bind(address: Loopback) -> Result<Self, ListenError> {
        TcpListener::bind(address.0).await.map(Self).map_err(|source| ListenError { address, source })
    }

    /// Serves as long as the daemon runs.
    pub async fn serve(self, source: Source) {
        let places = Arc::new(Semaphore::new(MOST));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.0.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!("metrics: no connection can be accepted: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let source = source.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(source.clone(), request));
                let mut server = http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEAD);
                let connection = server.serve_connection(TokioIo::new(stream), service);
                // Whoever hangs up, or is too slow, has had his turn.
                tokio::time::timeout(LIMIT, connection).await.ok();
                drop(place);
            });
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error(
    "metrics.listen: cannot listen on {address}: {source}; is another program there? The packaged service may use the network only with \
     /usr/share/doc/tollgate/examples/network.conf"
)]
pub struct ListenError {
    address: Loopback,
    source: io::Error,
}

async fn answer(source: Source, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let plain = |status, text: &'static str| {
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response
    };
    if request.uri().path() != "/metrics" {
        return Ok(plain(StatusCode::NOT_FOUND, "there is only /metrics here\n"));
    }
    if request.method() != Method::GET {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "metrics are read by GET\n"));
    }
    let Some(text) = source.recent().await else {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is shutting down\n"));
    };
    let mut response = Response::new(Full::from(text));
    let kind = hyper::header::HeaderValue::from_static(text::CONTENT_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::Loopback;

    #[test]
    fn only_loopback_addresses_are_taken() {
        for address in ["127.0.0.1:9464", "127.8.8.8:1", "[::1]:9464", "[::ffff:127.0.0.1]:80"] {
            assert!(address.parse::<Loopback>().is_ok(), "{address}");
        }
        for address in ["0.0.0.0:9464", "[::]:9464", "192.0.2.1:9464", "[::ffff:192.0.2.1]:80", "[fe80::1]:80"] {
            let error = address.parse::<Loopback>().expect_err(address).to_string();
            assert!(error.contains("is not a loopback address"), "{error}");
        }
        for address in ["localhost:9464", "127.0.0.1", ":9464", ""] {
            let error = address.parse::<Loopback>().expect_err(address).to_string();
            assert!(error.contains("is not an address with a port"), "{error}");
        }
    }
}
