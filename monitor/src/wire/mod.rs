//! Bytes of one connection in, HTTP exchanges out.
//!
//! `wire` takes the plaintext of a connection, in any chunking and with a known stream offset, and says what happened on
//! it as [`Event`]s: heads, decoded body pieces, messages of a stream as they arrive, and how each exchange ended.
//!
//! **Invariant:** sans-I/O, no clock, bounded memory per connection whatever the peers send ([`Limits`]); parsing never
//! panics and never buffers a whole body. The same bytes give the same events however they are cut into chunks, up to the cutting of
//! [`Event::RequestBody`] and [`Event::ResponseBody`] pieces. Bytes that were lost are known from the stream offsets and mark the exchange
//! they belonged to ([`End::lost`]).
#![forbid(unsafe_code)]

mod body;
mod coding;
mod connection;
mod event_stream;
mod form;
mod headers;
mod http1;
mod http2;
mod lines;
mod sse;
#[cfg(test)]
mod trace;
mod websocket;

pub use connection::{Connection, Limits};
pub use headers::{Headers, is_secret};

/// Which way bytes go. Named for the role in the exchange, not for the socket call that moved them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to server.
    Request,
    /// Server to client.
    Response,
}

/// Position of a byte in its direction of a connection: the first byte of the capture has 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamOffset(pub u64);

/// Ordinal of an exchange on its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId(pub u64);

/// Start of a request.
#[derive(Debug, Clone, Default)]
pub struct RequestHead {
    /// Empty for a request that was lost and is known by its answer only.
    pub method: Box<str>,
    /// Request target as sent: usually path and query.
    pub target: Box<str>,
    /// `Host` (or `:authority`), in lower case, with the port if one was sent.
    pub host: Option<Box<str>>,
    pub headers: Headers,
}

/// Start of a final (not 1xx) response.
#[derive(Debug, Clone)]
pub struct ResponseHead {
    pub status: u16,
    pub headers: Headers,
}

/// One message of a streamed answer body.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Event name, for framings that have one: SSE `event:`, AWS `:event-type` or `:exception-type`.
    pub event: Option<&'a str>,
    /// Payload: SSE `data` (lines joined by `\n`), one NDJSON line, the payload of an AWS frame, one WebSocket message.
    pub data: &'a [u8],
    /// The payload was longer than [`Limits::message`] and only its beginning is here.
    pub truncated: bool,
}

/// One field of a form (`multipart/form-data`, RFC 7578).
#[derive(Debug, Clone, Copy)]
pub struct Field<'a> {
    pub name: &'a str,
    /// At most [`Limits::message`] bytes of a text field; nothing of a file.
    pub value: &'a [u8],
    pub is_file: bool,
}

/// What happened to an exchange.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// First event of every exchange.
    Request(&'a RequestHead),
    /// A piece of the request body, content coding removed.
    RequestBody(&'a [u8]),
    /// A field of a request body that is a form; of a file only its name and that it is one.
    RequestField(Field<'a>),
    RequestEnd,
    Response(&'a ResponseHead),
    /// A piece of an answer body that is one document, content coding removed.
    ResponseBody(&'a [u8]),
    /// One message of an answer body that is a stream of messages.
    Message(Message<'a>),
    /// One message of an exchange that became a WebSocket. One that is empty and truncated stands for any number that were lost.
    Socket(Direction, Message<'a>),
    /// Last event of every exchange.
    End(End),
}

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    pub how: Ending,
    /// Bytes of the exchange that never reached us (a lost record), or that could not be decoded. Zero means that everything between
    /// the first and the last byte was seen.
    pub lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Request and answer are complete.
    Complete,
    /// The connection ended, or was resynchronised, in the middle.
    Truncated,
    /// The connection left HTTP (`101 Switching Protocols`, `CONNECT`) for what cannot be read.
    Upgraded,
    /// The server said that it did not begin to work on the request (HTTP/2 `GOAWAY`, `REFUSED_STREAM`).
    Refused,
}

/// Why a connection that looked like HTTP can no longer be read. Costs on it are unknown from here on, which must be said loudly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the connection was upgraded to a protocol that is not known")]
    Upgraded,
    #[error("the bytes are not HTTP")]
    NotHttp,
}

/// Receives what [`Connection`] finds.
pub trait Sink {
    fn event(&mut self, exchange: ExchangeId, event: Event<'_>);
    /// The connection can no longer be read; said once per reason.
    fn unreadable(&mut self, why: Unreadable);
}
