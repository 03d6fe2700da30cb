//! Heads of HTTP/1.x messages (RFC 9112 §2–6).

use crate::wire::{Headers, RequestHead, ResponseHead};

/// The bytes are no head of an HTTP/1.x message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidHead;

/// How the end of a body is found (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Until the connection ends.
    Close,
    /// No body, and no HTTP after this message.
    Tunnel,
    /// Servers differ in where it ends: what follows may be of the body or the next message.
    Doubtful,
}

/// What the answer to a request looks like depends on it in these cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The request was lost.
    Unknown,
    Head,
    Connect,
    Other,
}

impl Asked {
    pub fn by(method: &str) -> Self {
        match method {
            "" => Self::Unknown,
            "HEAD" => Self::Head,
            "CONNECT" => Self::Connect,
            _ => Self::Other,
        }
    }
}

fn is_chunked(headers: &Headers) -> bool {
    let codings = headers.all("transfer-encoding").flat_map(|value| value.split(','));
    codings.last().is_some_and(|last| last.trim().eq_ignore_ascii_case("chunked"))
}

/// Whether nothing is said of how the body ends but that it is chunked: everybody understands that alike.
fn is_only_chunked(headers: &Headers) -> bool {
    let mut codings = headers.all("transfer-encoding");
    let is_chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    is_chunked && codings.next().is_none() && headers.get("content-length").is_none()
}

/// How the body of a request ends, where it is said in the one way that everybody understands alike.
fn request_framing(headers: &Headers) -> Framing {
    if headers.get("transfer-encoding").is_some() {
        return if is_only_chunked(headers) { Framing::Chunked } else { Framing::Doubtful };
    }
    let mut lengths = headers.all("content-length");
    match (lengths.next(), lengths.next()) {
        (None, _) => Framing::Length(0),
        (Some(length), None) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse().map_or(Framing::Doubtful, Framing::Length)
        }
        _ => Framing::Doubtful,
    }
}

fn content_length(headers: &Headers) -> Result<Option<u64>, InvalidHead> {
    let mut length = None;
    for value in headers.all("content-length").flat_map(|value| value.split(',')) {
        let value = value.trim();
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit());
        let value: u64 = value.parse().ok().filter(|_| is_number).ok_or(InvalidHead)?;
        if length.is_some_and(|length| length != value) {
            return Err(InvalidHead);
        }
        length = Some(value);
    }
    Ok(length)
}

const MAX_FIELDS: usize = 128;

fn kept(fields: &[httparse::Header<'_>]) -> Headers {
    fields.iter().map(|field| (field.name.as_bytes(), field.value)).collect()
}

/// A request head.
pub fn request(bytes: &[u8]) -> Result<(RequestHead, Framing), InvalidHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return malformed_request(bytes);
    }
    let headers = kept(request.headers);
    let framing = request_framing(&headers);
    Ok((request_head(&request, headers), framing))
}

/// A request head with lines that are none, which some servers take all the same.
fn malformed_request(bytes: &[u8]) -> Result<(RequestHead, Framing), InvalidHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let parsed =
        httparse::ParserConfig::default().ignore_invalid_headers_in_requests(true).parse_request(&mut request, bytes);
    let Ok(httparse::Status::Complete(_)) = parsed else { return Err(InvalidHead) };
    let headers = kept(request.headers);
    Ok((request_head(&request, headers), Framing::Doubtful))
}

fn request_head(request: &httparse::Request<'_, '_>, headers: Headers) -> RequestHead {
    let (authority, target) = split_target(request.path.unwrap_or_default());
    let host = authority.or(headers.get("host"));
    RequestHead {
        method: request.method.unwrap_or_default().into(),
        target: target.into(),
        host: host.map(|host| host.to_ascii_lowercase().into()),
        headers,
    }
}

/// What is asked of a proxy names the host, which counts before the `Host` field (RFC 9112 §3.2.2).
fn split_target(target: &str) -> (Option<&str>, &str) {
    let Some(rest) = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) else {
        return (None, target);
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    (Some(authority), if path.is_empty() { "/" } else { path })
}

/// A response head. Clients forgive servers much, and so does this.
pub fn response(bytes: &[u8], asked: Asked) -> Result<(ResponseHead, Framing), InvalidHead> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    let parsed = httparse::ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .allow_multiple_spaces_in_response_status_delimiters(true)
        .allow_spaces_after_header_name_in_responses(true)
        .parse_response(&mut response, bytes);
    let Ok(httparse::Status::Complete(_)) = parsed else { return Err(InvalidHead) };
    let status = response.code.unwrap_or_default();
    let headers = kept(response.headers);
    let framing = match status {
        101 => Framing::Tunnel,
        200..300 if asked == Asked::Connect => Framing::Tunnel,
        100..200 | 204 | 304 => Framing::Length(0),
        _ if asked == Asked::Head => Framing::Length(0),
        _ if is_chunked(&headers) => Framing::Chunked,
        _ if headers.get("transfer-encoding").is_some() => Framing::Close,
        _ => content_length(&headers)?.map_or(Framing::Close, Framing::Length),
    };
    Ok((ResponseHead { status, headers }, framing))
}

/// Where a head ends: after its first empty line. `searched` bytes were looked at before.
pub fn end(bytes: &[u8], searched: usize) -> Option<usize> {
    // The empty line may straddle what was searched: CR LF CR LF.
    let from = searched.saturating_sub(3);
    memchr::memchr_iter(b'\n', bytes.get(from..)?).map(|at| from + at).find_map(|at| match bytes.get(at + 1..)? {
        [b'\n', ..] => Some(at + 2),
        [b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

/// The longest method that is taken for one; the kernel judges likewise.
const LONGEST_METHOD: usize = 32;

/// Whether a message can begin like this; with few bytes, whether it still may. Methods are whatever their server takes for one (RFC 9110 §9.1).
pub fn may_begin_request(bytes: &[u8]) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let token = bytes.iter().position(|&byte| !is_of_token(byte)).unwrap_or(bytes.len());
    match bytes.get(token) {
        None => token <= LONGEST_METHOD,
        Some(b' ') => {
            let target = bytes.get(token + 1..).unwrap_or_default();
            let begins = |with: &[u8]| {
                let known = target.len().min(with.len());
                target.iter().zip(with).take(known).all(|(byte, with)| byte.eq_ignore_ascii_case(with))
            };
            let is_target = [&b"/"[..], b"*", b"http:", b"https:"].into_iter().any(begins);
            (1..=LONGEST_METHOD).contains(&token) && is_target || begins_request(bytes)
        }
        Some(_) => false,
    }
}

/// Whether this is surely the beginning of a request.
pub fn begins_request(bytes: &[u8]) -> bool {
    const METHODS: [&[u8]; 8] = [b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ", b"OPTIONS ", b"CONNECT "];
    METHODS.iter().any(|method| bytes.starts_with(method))
}

pub fn may_begin_response(bytes: &[u8]) -> bool {
    let start = b"HTTP/1.";
    let known = bytes.len().min(start.len());
    bytes.get(..known) == start.get(..known)
}

#[cfg(test)]
mod tests {
    use super::{Asked, Framing, InvalidHead, end, request, response};

    #[test]
    fn secrets_are_not_kept() {
        let bytes = b"POST /v1/messages HTTP/1.1\r\nHost: API.Example:8443\r\nX-Api-Key: sk-1\r\nAuthorization: Bearer x\r\nCookie: a\r\n\
            x-amz-security-token: t\r\nContent-Length: 2\r\nX-Kept: 1\r\n\r\n{}";
        let (head, framing) = request(bytes).expect("a head");
        assert_eq!(head.host.as_deref(), Some("api.example:8443"));
        assert_eq!(head.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["host", "content-length", "x-kept"]);
        assert_eq!(framing, Framing::Length(2));
    }

    #[test]
    fn framing_of_answers() {
        let framing = |fields: &str, status: u16, method: &str| {
            response(format!("HTTP/1.1 {status} X\r\n{fields}\r\n").as_bytes(), Asked::by(method))
                .map(|(_, framing)| framing)
        };
        assert_eq!(framing("Content-Length: 5\r\n", 200, "POST"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: 5\r\n", 200, "HEAD"), Ok(Framing::Length(0)));
        assert_eq!(
            framing("Content-Length: 5\r\nTransfer-Encoding: gzip, chunked\r\n", 200, "GET"),
            Ok(Framing::Chunked)
        );
        assert_eq!(framing("", 200, "GET"), Ok(Framing::Close));
        assert_eq!(framing("", 204, "GET"), Ok(Framing::Length(0)));
        assert_eq!(framing("", 101, "GET"), Ok(Framing::Tunnel));
        assert_eq!(framing("", 200, "CONNECT"), Ok(Framing::Tunnel));
        assert_eq!(framing("Content-Length: 5\r\nContent-Length: 6\r\n", 200, "GET"), Err(InvalidHead));
        assert_eq!(framing("Content-Length: 5, 5\r\n", 200, "GET"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length: -5\r\n", 200, "GET"), Err(InvalidHead));
        assert_eq!(framing("Content-Length: +5\r\n", 200, "GET"), Err(InvalidHead));
        assert_eq!(framing("Content-Length:\r\n", 200, "GET"), Err(InvalidHead));
        assert_eq!(framing("X-Folded: a\r\n b\r\nContent-Length: 3\r\n", 200, "GET"), Ok(Framing::Length(3)));
    }

    #[test]
    fn framing_of_requests() {
        let framing =
            |fields: &str| request(format!("POST / HTTP/1.1\r\n{fields}\r\n").as_bytes()).map(|(_, framing)| framing);
        assert_eq!(framing(""), Ok(Framing::Length(0)));
        assert_eq!(framing("Content-Length: 5\r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("Content-Length:\t5 \r\n"), Ok(Framing::Length(5)));
        assert_eq!(framing("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
        for doubtful in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked, gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: identity\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding:\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Content-Length : 5\r\n",
            "Content-Length: 1, 1\r\n",
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nContent-Length: 2\r\n",
            "Content-Length: +1\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "X-Folded: a\r\n b\r\n",
        ] {
            assert_eq!(framing(doubtful), Ok(Framing::Doubtful), "{doubtful:?}");
        }
        assert_eq!(request(b"POST what is this\r\n\r\n").err(), Some(InvalidHead));
    }

    #[test]
    fn what_is_asked_of_a_proxy_names_the_host() {
        let head = |target: &str| {
            request(format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n").as_bytes()).expect("a head").0
        };
        let split =
            |target: &str| (head(target).host.unwrap_or_default().into_string(), head(target).target.into_string());
        assert_eq!(split("http://API.example:80/v1/x?y"), ("api.example:80".into(), "/v1/x?y".into()));
        assert_eq!(split("http://api.example"), ("api.example".into(), "/".into()));
        assert_eq!(split("/v1/x"), ("proxy".into(), "/v1/x".into()));
    }

    #[test]
    fn heads_end_after_an_empty_line() {
        assert_eq!(end(b"a\r\n\r\nb", 0), Some(5));
        assert_eq!(end(b"a\n\nb", 0), Some(3));
        assert_eq!(end(b"a\r\n\r\nb", 4), Some(5));
        assert_eq!(end(b"a\r\nb\r\n", 0), None);
    }
}
