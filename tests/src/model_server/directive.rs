//! How a request asks for a certain answer: `{"tollgate_test": {…}}` in its last user message, or `x-test-*` headers
//! (`x-test-delay-ms: 5`). The message wins.

use hyper::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What an answer shall be like; what is left out is drawn at random or taken from the server's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directive {
    /// Input billed at the full price.
    pub input_tokens: Option<u64>,
    /// Input read from the cache, on top of `input_tokens`.
    pub cached_tokens: Option<u64>,
    /// Cache write: five minutes for Anthropic, without a time to live for OpenAI.
    pub cache_write: Option<u64>,
    /// Anthropic only.
    pub cache_write_1h: Option<u64>,
    /// Text output; the answer has as many words.
    pub output_tokens: Option<u64>,
    /// Reasoning output, on top of `output_tokens`.
    pub reasoning_tokens: Option<u64>,
    /// Text of at least this many bytes instead of `output_tokens`.
    pub answer_bytes: Option<usize>,
    /// Words per streamed event.
    pub chunk_tokens: Option<u64>,
    /// Pause before every chunk but the first.
    pub delay_ms: Option<u64>,
    /// Pause between the request and the first byte of the answer.
    pub stall_ms: Option<u64>,
    /// Cuts the body into pieces of this size, across event boundaries.
    pub piece_bytes: Option<usize>,
    /// Closes the connection after so many chunks of text.
    pub close_after_chunks: Option<usize>,
    /// `Content-Encoding: gzip`, flushed after every event of a stream.
    pub gzip: Option<bool>,
    /// `Transfer-Encoding: chunked` for an answer that is not a stream.
    pub chunked: Option<bool>,
    /// Leaves the usage out of the answer.
    pub no_usage: Option<bool>,
    /// Answers with a tool call instead of text.
    pub tool_call: Option<bool>,
    /// Answers with this error: 400, 401, 429, 500, 529.
    pub status: Option<u16>,
}

const HEADER_PREFIX: &str = "x-test-";
const MESSAGE_KEY: &str = "tollgate_test";

/// Header that tells who sent a request; it is kept in the truth and shapes nothing.
pub const CLIENT_HEADER: &str = "x-test-client";

impl Directive {
    /// Reads what a request asks for.
    ///
    /// # Errors
    /// The text to answer with when it asks for something that does not exist: a test must not pass by a typing error.
    pub fn of_request(headers: &HeaderMap, body: &Value) -> Result<Self, String> {
        let mut knobs = Map::new();
        for (name, value) in headers {
            let Some(knob) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
            if name.as_str() == CLIENT_HEADER {
                continue;
            }
            let text = value.to_str().map_err(|error| format!("{name}: {error}"))?;
            let value = serde_json::from_str(text).map_err(|error| format!("{name}: {error}"))?;
            knobs.insert(knob.replace('-', "_"), value);
        }
        if let Some(text) = last_user_text(body) {
            knobs.extend(in_text(text)?);
        }
        serde_json::from_value(Value::Object(knobs)).map_err(|error| format!("{MESSAGE_KEY}: {error}"))
    }
}

fn last_user_text(body: &Value) -> Option<&str> {
    let message = body["messages"].as_array()?.iter().rev().find(|message| message["role"] == "user")?;
    match &message["content"] {
        Value::String(text) => Some(text),
        Value::Array(blocks) => blocks.iter().rev().find_map(|block| block["text"].as_str()),
        _ => None,
    }
}

fn in_text(text: &str) -> Result<Map<String, Value>, String> {
    let Some(start) = text.find(&format!("{{\"{MESSAGE_KEY}\"")) else { return Ok(Map::new()) };
    let first = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>().next();
    match first {
        Some(Ok(mut object)) => match object[MESSAGE_KEY].take() {
            Value::Object(knobs) => Ok(knobs),
            other => Err(format!("{MESSAGE_KEY} is not an object: {other}")),
        },
        Some(Err(error)) => Err(format!("{MESSAGE_KEY}: {error}")),
        None => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use hyper::{HeaderMap, header::HeaderValue};
    use serde_json::json;

    use super::Directive;

    #[test]
    fn message_wins_over_headers() {
        let mut headers = HeaderMap::new();
        headers.insert("x-test-output-tokens", HeaderValue::from_static("5"));
        headers.insert("x-test-delay-ms", HeaderValue::from_static("7"));
        headers.insert("x-test-client", HeaderValue::from_static("me"));
        let body = json!({"messages": [
            {"role": "user", "content": "{\"tollgate_test\": {\"output_tokens\": 1}}"},
            {"role": "assistant", "content": "ok"},
            {"role": "user", "content": [{"type": "text", "text": "Hi {\"tollgate_test\": {\"output_tokens\": 9}} there"}]},
        ]});
        let expected = Directive { output_tokens: Some(9), delay_ms: Some(7), ..Directive::default() };
        assert_eq!(Directive::of_request(&headers, &body), Ok(expected));
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let body = json!({"messages": [{"role": "user", "content": "{\"tollgate_test\": {\"output_token\": 1}}"}]});
        assert!(Directive::of_request(&HeaderMap::new(), &body).is_err());
    }
}
