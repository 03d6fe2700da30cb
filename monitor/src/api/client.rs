//! The clients' side.

use std::{
    io,
    path::{Path, PathBuf},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, body::Bytes, header::CONTENT_TYPE};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::Problem;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no daemon answers on {socket} ({source}): start it with `tollgate daemon`, or name its socket with --socket"
    )]
    Unreachable { socket: PathBuf, source: io::Error },
    #[error("{}", .0.error)]
    Refused(Problem),
    #[error("the daemon's answer cannot be understood: {0}")]
    Protocol(String),
}

/// Asks the daemon at a socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.into() }
    }

    /// # Errors
    /// When there is no daemon, or it refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// # Errors
    /// When there is no daemon, or it refuses.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Protocol(error.to_string()))?;
        self.send(Method::POST, path, body.into()).await
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::Unreachable { socket: self.socket.clone(), source })?;
        let protocol = |error: hyper::Error| ClientError::Protocol(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(protocol)?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "tollgate")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::Protocol(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(protocol)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(protocol)?.to_bytes();
        driver.abort();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| ClientError::Protocol(error.to_string()));
        }
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| Problem {
            error: format!("{status}: {}", String::from_utf8_lossy(&body).chars().take(200).collect::<String>()),
            kind: "failed".into(),
        });
        Err(ClientError::Refused(problem))
    }
}
