//! One attempt: a `POST` over TLS.

use std::{fs, path::Path, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::Timestamp;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{Settings, WebhookError, body};

/// For everything from the look-up of the name to the head of the answer.
const LIMIT: Duration = Duration::from_secs(10);

/// Sends to one webhook.
pub struct Sender {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    url: String,
    secret: Option<Vec<u8>>,
}

/// Why an attempt failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Failed {
    /// In words, without the URL, which may be a secret.
    pub why: String,
    /// How long the receiver wants to be left alone.
    pub retry_after: Option<Duration>,
    /// It is this very alert that the receiver does not want.
    pub is_refusal: bool,
}

impl Sender {
    /// # Errors
    /// When one of its files cannot be read, or has nothing in it.
    pub fn new(settings: &Settings) -> Result<Self, WebhookError> {
        let webhook = settings.name();
        let secret = settings.secret_file.as_deref().map(|path| secret(&webhook, path)).transpose()?;
        let roots = match &settings.ca_file {
            Some(path) => authorities(&webhook, path)?,
            None => system(&webhook)?,
        };
        let tls = ClientConfig::builder_with_provider(ring::default_provider().into())
            .with_safe_default_protocol_versions()
            .map_err(|error| WebhookError::Tls { webhook, what: error.to_string() })?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(connector);
        Ok(Self { client, url: settings.url.clone(), secret })
    }

    /// Sends the body of the alert with this id. What is answered but the status is not looked at, and no redirection is followed.
    ///
    /// # Errors
    /// When it was not taken.
    pub async fn send(&self, alert: i64, body: String) -> Result<(), Failed> {
        let failed = |why: String| Failed { why, retry_after: None, is_refusal: false };
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(&self.url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .header("x-tollgate-alert", alert);
        if let Some(secret) = &self.secret {
            let signature = body::signature(secret, Timestamp::now().as_second(), &body);
            request = request.header("x-tollgate-signature", signature);
        }
        let request = request.body(Full::from(body)).map_err(|error| failed(error.to_string()))?;
        let response = match tokio::time::timeout(LIMIT, self.client.request(request)).await {
            Err(_) => return Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
            Ok(Err(error)) => return Err(failed(reason(&error))),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let seconds = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        Err(Failed {
            why: format!("the answer is {status}"),
            retry_after: seconds.map(Duration::from_secs),
            is_refusal: is_refusal(status),
        })
    }
}

/// Whether another attempt with the same body is futile: the others are about who asks, where, or when.
fn is_refusal(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_REQUEST
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNSUPPORTED_MEDIA_TYPE
            | StatusCode::UNPROCESSABLE_ENTITY
    )
}

/// The last cause says what happened ("connection refused"); what is above it, only that something did.
fn reason(error: &hyper_util::client::legacy::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

fn secret(webhook: &str, path: &Path) -> Result<Vec<u8>, WebhookError> {
    let bytes = read(webhook, path)?;
    let secret = bytes.trim_ascii();
    if secret.is_empty() {
        return Err(WebhookError::Content { webhook: webhook.into(), path: path.into(), what: "has no secret in it" });
    }
    Ok(secret.to_vec())
}

fn authorities(webhook: &str, path: &Path) -> Result<RootCertStore, WebhookError> {
    let wrong = || WebhookError::Content {
        webhook: webhook.into(),
        path: path.into(),
        what: "has no certificate (PEM) in it, or a broken one",
    };
    let bytes = read(webhook, path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>().map_err(|_| wrong())?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        roots.add(certificate).map_err(|_| wrong())?;
    }
    if roots.is_empty() { Err(wrong()) } else { Ok(roots) }
}

fn system(webhook: &str) -> Result<RootCertStore, WebhookError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        let what = "this system trusts no authority: install ca-certificates, or name a `ca_file`";
        return Err(WebhookError::Tls { webhook: webhook.into(), what: what.into() });
    }
    Ok(roots)
}

fn read(webhook: &str, path: &Path) -> Result<Vec<u8>, WebhookError> {
    fs::read(path).map_err(|source| WebhookError::File { webhook: webhook.into(), path: path.into(), source })
}
