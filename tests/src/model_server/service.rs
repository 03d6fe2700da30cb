//! From a request to its answer.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Either, Empty, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, UPGRADE},
};
use serde_json::{Value, json};
use yawc::{Options, UpgradeFut, WebSocket};

use super::{
    Config,
    answer::{self, Answer, Pace, Piece},
    anthropic, bedrock,
    directive::{CLIENT_HEADER, Directive},
    gemini, openai,
    plan::Plan,
    random::Random,
    responses,
    socket::Socket,
    truth::{Api, Arrival, Book, Call, Entry, State},
};

/// Larger request bodies are refused.
const MAX_REQUEST: usize = 64 << 20;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Service {
    config: Config,
    book: Arc<Book>,
    random: Mutex<Random>,
}

/// Where a request came from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Origin {
    pub(super) connection: u64,
    pub(super) peer: SocketAddr,
}

/// An answer of HTTP, or none: the connection goes on as a WebSocket.
pub(super) type Reply = Either<Answer, Empty<Bytes>>;

/// Takes a client at its word that wants to go on with a WebSocket at the one endpoint that has it.
fn upgrade(request: &mut Request<Incoming>) -> Option<(Response<Reply>, UpgradeFut)> {
    let wants = request.method() == Method::GET
        && request.uri().path().ends_with("/v1/responses")
        && request.headers().contains_key(UPGRADE);
    let options = Options::default().with_balanced_compression();
    let (response, upgrade) = wants.then(|| WebSocket::upgrade_with_options(request, options)).and_then(Result::ok)?;
    Some((response.map(|_| Either::Right(Empty::new())), upgrade))
}

/// What a path stands for, under any prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Endpoint {
    Call(Api),
    CountTokens,
    Models,
    Root,
    Unknown,
}

impl Endpoint {
    fn of(method: &Method, path: &str) -> Self {
        if method == Method::POST && path.ends_with("/v1/chat/completions") {
            Self::Call(Api::OpenaiChat)
        } else if method == Method::POST && path.ends_with("/v1/responses") {
            Self::Call(Api::OpenaiResponses)
        } else if method == Method::POST && (path.ends_with(":generateContent") || is_gemini_stream(path)) {
            Self::Call(Api::Gemini)
        } else if method == Method::POST && (path.ends_with("/converse") || path.ends_with("/converse-stream")) {
            Self::Call(Api::Bedrock)
        } else if method == Method::POST && path.ends_with("/v1/messages") {
            Self::Call(Api::AnthropicMessages)
        } else if method == Method::POST && path.ends_with("/v1/messages/count_tokens") {
            Self::CountTokens
        } else if method == Method::GET && path.ends_with("/v1/models") {
            Self::Models
        } else if path == "/" {
            Self::Root
        } else {
            Self::Unknown
        }
    }
}

fn is_gemini_stream(path: &str) -> bool {
    path.ends_with(":streamGenerateContent")
}

/// Two APIs say in the path what the others say in the body: the model, and whether to stream.
fn take_path(api: Api, path: &str, request: &mut Value) {
    let (model, stream) = match api {
        Api::Gemini => (path.rsplit('/').next().and_then(|last| last.split(':').next()), is_gemini_stream(path)),
        Api::Bedrock => (path.rsplit('/').nth(1), path.ends_with("/converse-stream")),
        _ => return,
    };
    request["model"] = model.map(|model| model.replace("%3A", ":")).into();
    request["stream"] = stream.into();
}

/// The members without which a request to an API is refused.
fn required(api: Api) -> [&'static str; 2] {
    match api {
        Api::OpenaiChat | Api::AnthropicMessages | Api::Bedrock => ["model", "messages"],
        Api::OpenaiResponses => ["model", "input"],
        Api::Gemini => ["model", "contents"],
    }
}

impl Service {
    pub(super) fn new(config: Config, book: Arc<Book>) -> Self {
        let random = Mutex::new(config.seed.map_or_else(Random::from_entropy, Random::new));
        Self { config, book, random }
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        origin: Origin,
        mut request: Request<Incoming>,
    ) -> Result<Response<Reply>, Infallible> {
        let mut entry = self.book.arrival(Arrival {
            connection: origin.connection,
            peer: origin.peer,
            client: request.headers().get(CLIENT_HEADER).and_then(|tag| tag.to_str().ok()).map(str::to_owned),
            method: request.method().to_string(),
            path: request.uri().path().to_owned(),
        });
        if let Some((response, upgrade)) = upgrade(&mut request) {
            entry.answering(101, None);
            entry.ended(State::Complete);
            let (headers, path) = (request.headers().clone(), request.uri().path().to_owned());
            tokio::spawn(Socket { service: self, origin, headers, path }.serve(upgrade));
            return Ok(response);
        }
        let (head, body) = request.into_parts();
        let endpoint = Endpoint::of(&head.method, head.uri.path());
        let body = match Limited::new(body, MAX_REQUEST).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) => {
                let refusal = refusal(entry, endpoint, 400, &format!("the body cannot be read: {error}"));
                return Ok(refusal.map(Either::Left));
            }
        };
        entry.body_arrived(body.len());
        let response = match endpoint {
            Endpoint::Call(api) => self.call(api, head.uri.path(), &head.headers, &body, entry).await,
            Endpoint::CountTokens => {
                let tokens = self.random().around(self.config.input_tokens);
                plain(entry, 200, &json!({"input_tokens": tokens}))
            }
            Endpoint::Models => plain(entry, 200, &models()),
            Endpoint::Root => plain(entry, 200, &json!({})),
            Endpoint::Unknown => refusal(entry, endpoint, 404, "Not found"),
        };
        Ok(response.map(Either::Left))
    }

    async fn call(&self, api: Api, path: &str, headers: &HeaderMap, body: &[u8], mut entry: Entry) -> Response<Answer> {
        let endpoint = Endpoint::Call(api);
        let mut request: Value = match serde_json::from_slice(body) {
            Ok(Value::Object(request)) => Value::Object(request),
            Ok(_) => return refusal(entry, endpoint, 400, "the body is not an object"),
            Err(error) => return refusal(entry, endpoint, 400, &format!("the body is not JSON: {error}")),
        };
        take_path(api, path, &mut request);
        let directive = match Directive::of_request(headers, &request) {
            Ok(directive) => directive,
            Err(error) => return refusal(entry, endpoint, 400, &error),
        };
        if let Some(missing) = required(api).iter().find(|field| request[field].is_null()) {
            return refusal(entry, endpoint, 400, &format!("you must provide a {missing} parameter"));
        }
        let stall = directive.stall_ms.map_or(self.config.stall, Duration::from_millis);
        if let Some(status) = directive.status {
            tokio::time::sleep(stall).await;
            return refusal(entry, endpoint, status, "as the test asked for");
        }
        let plan = Plan::draw(api, &request, &directive, &self.config, &mut self.random());
        entry.answering(
            200,
            Some(Call {
                api,
                id: plan.id.clone(),
                model_requested: request["model"].as_str().unwrap_or_default().to_owned(),
                model: plan.model.clone(),
                stream: plan.stream,
                usage_reported: plan.report_usage,
                billed: plan.billed_at_start(),
                chunks_sent: 0,
            }),
        );
        if !stall.is_zero() {
            tokio::time::sleep(stall).await;
        }
        let accepts_gzip = headers
            .get(ACCEPT_ENCODING)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.contains("gzip"));
        self.shape(&plan, api, &request, &directive, accepts_gzip, entry)
    }

    /// Puts the planned answer on the wire.
    fn shape(
        &self,
        plan: &Plan,
        api: Api,
        request: &Value,
        directive: &Directive,
        accepts_gzip: bool,
        entry: Entry,
    ) -> Response<Answer> {
        let mut pieces = match api {
            Api::OpenaiChat => openai::body(plan, unix_seconds()),
            Api::OpenaiResponses => responses::body(plan, unix_seconds()),
            Api::AnthropicMessages => anthropic::body(plan),
            Api::Gemini => gemini::body(plan, request),
            Api::Bedrock => bedrock::body(plan),
        };
        let mut headers = HeaderMap::new();
        if directive.gzip.unwrap_or(self.config.gzip && accepts_gzip) {
            match answer::gzip(pieces) {
                Ok(compressed) => pieces = compressed,
                Err(error) => return refusal(entry, Endpoint::Call(api), 500, &error.to_string()),
            }
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if let Some(size) = directive.piece_bytes {
            pieces = answer::recut(pieces, size);
        }
        let content_type = match (plan.stream, api) {
            (false, _) => "application/json",
            (true, Api::OpenaiChat | Api::Gemini) => "text/event-stream",
            (true, Api::OpenaiResponses | Api::AnthropicMessages) => "text/event-stream; charset=utf-8",
            (true, Api::Bedrock) => "application/vnd.amazon.eventstream",
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert("cache-control", HeaderValue::from_static("no-cache"));
        let (request_id, organization) = match api {
            Api::AnthropicMessages => ("request-id", "anthropic-organization-id"),
            _ => ("x-request-id", "openai-organization"),
        };
        headers.insert(organization, HeaderValue::from_static("test"));
        if let Ok(id) = HeaderValue::from_str(&plan.request_id) {
            headers.insert(request_id, id);
        }
        let pace = Pace {
            delay: directive.delay_ms.map_or(self.config.delay, Duration::from_millis),
            break_after: directive.close_after_chunks.and_then(|chunks| u64::try_from(chunks).ok()),
        };
        let chunked = plan.stream || directive.chunked.unwrap_or_else(|| plan.random.clone().one_in(2));
        let body = Answer::new(pieces, pace, entry);
        let mut response = Response::new(if chunked { body } else { body.sized() });
        *response.headers_mut() = headers;
        response
    }

    pub(super) fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// What a request is to be answered, and the pause between the pieces.
    pub(super) fn plan(&self, api: Api, request: &Value, directive: &Directive) -> (Plan, Duration) {
        let delay = directive.delay_ms.map_or(self.config.delay, Duration::from_millis);
        (Plan::draw(api, request, directive, &self.config, &mut self.random()), delay)
    }

    fn random(&self) -> std::sync::MutexGuard<'_, Random> {
        self.random.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A free answer.
fn plain(mut entry: Entry, status: u16, body: &Value) -> Response<Answer> {
    entry.answering(status, None);
    let pieces = vec![Piece::last(body.to_string())];
    let mut response = Response::new(Answer::new(pieces, Pace::default(), entry).sized());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn refusal(entry: Entry, endpoint: Endpoint, status: u16, message: &str) -> Response<Answer> {
    let body = match endpoint {
        Endpoint::Call(Api::AnthropicMessages) | Endpoint::CountTokens => {
            let id = format!("req_01{}", Random::from_entropy().letters(22));
            anthropic::error(status, message, &id)
        }
        Endpoint::Call(Api::Gemini) => gemini::error(status, message),
        _ => openai::error(status, message),
    };
    let mut response = plain(entry, status, &body);
    if status == 429 {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// A list that either SDK can read.
fn models() -> Value {
    let model = |id: &str| {
        json!({
            "id": id, "object": "model", "created": 1_721_172_741, "owned_by": "system",
            "type": "model", "display_name": id, "created_at": "2025-09-29T00:00:00Z",
        })
    };
    let ids = ["gpt-4o-mini", "gpt-4o", "claude-haiku-4-5-20251001", "claude-sonnet-4-5-20250929"];
    json!({
        "object": "list", "data": ids.map(model), "has_more": false, "first_id": ids[0], "last_id": ids[3],
    })
}

pub(super) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
