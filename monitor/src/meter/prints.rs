//! Fingerprints of what an agent asks and of the tools that it is told to call: enough to see a loop, and nothing of what was said.
//!
//! In: the strings of a request on their way, and the messages of an answer. Out: keyed hashes. The key is of one state directory, so that a
//! fingerprint that is kept tells nobody who has a guess of the text whether it is right.
//!
//! **Invariant:** text is in memory up to [`MOST_TEXT`] bytes, of the last message alone, and gone when the request has ended.

use std::hash::Hasher as _;

use serde_json::Value;
use siphasher::sip::SipHasher13;

use super::json::{Observer, Place};

/// What fingerprints are made with.
#[derive(Clone, Copy)]
pub struct Key([u8; 16]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key")
    }
}

impl Key {
    pub const fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    fn hasher(self) -> SipHasher13 {
        SipHasher13::new_with_key(&self.0)
    }

    fn hash(self, parts: &[&[u8]]) -> u64 {
        let mut hasher = self.hasher();
        for part in parts {
            hasher.write(part);
            hasher.write_usize(part.len());
        }
        hasher.finish()
    }
}

/// What a model is asked now, as far as it tells a loop: the last message, not the talk before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompt {
    pub fingerprint: u64,
    /// Hashes of each three words in a row, where there are enough of them to call two prompts alike.
    pub shingles: Vec<u64>,
}

/// A tool that an answer asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolAsk {
    pub name: Box<str>,
    /// Of its name and arguments.
    pub fingerprint: u64,
}

/// Bytes of a message that are looked at; two that are as long and begin alike up to here are the same.
const MOST_TEXT: usize = 16 << 10;
/// Fewer pieces than this say nothing about likeness.
const FEWEST_SHINGLES: usize = 16;
/// Tools of one answer.
const MOST_ASKS: usize = 64;
/// Bytes of a document or a message that tools are looked for in.
const MOST_ANSWER: usize = 256 << 10;
/// Bytes of a tool's name that are kept.
const MOST_NAME: usize = 128;

/// Members of a request whose last element is what is asked now.
fn has_messages(name: &str) -> bool {
    matches!(name, "messages" | "input" | "contents" | "prompt" | "message" | "inputs")
}

/// What names a message or vouches for it, and is another one each time.
fn is_idle(name: &str) -> bool {
    matches!(
        name,
        "id" | "tool_use_id"
            | "toolUseId"
            | "tool_call_id"
            | "call_id"
            | "signature"
            | "thoughtSignature"
            | "encrypted_content"
            | "cache_control"
    )
}

/// Gathers fingerprints of one exchange.
#[derive(Debug)]
pub struct Prints {
    key: Key,
    text: Vec<u8>,
    /// Bytes of the message, with those that are not kept.
    size: u64,
    /// The answer, where it is one document.
    document: Vec<u8>,
    open: Vec<OpenAsk>,
    asks: Vec<ToolAsk>,
}

/// The call of a tool whose arguments come in pieces.
#[derive(Debug)]
struct OpenAsk {
    index: u64,
    name: Box<str>,
    hasher: SipHasher13,
    size: usize,
}

impl Prints {
    pub const fn new(key: Key) -> Self {
        Self { key, text: Vec::new(), size: 0, document: Vec::new(), open: Vec::new(), asks: Vec::new() }
    }

    fn restart(&mut self, place: Place<'_>) {
        if place.member == place.top && has_messages(place.top) {
            self.text.clear();
            self.size = 0;
        }
    }

    fn take_text(&mut self, place: Place<'_>, text: &[u8]) {
        if has_messages(place.top) && !is_idle(place.member) {
            let room = MOST_TEXT.saturating_sub(self.text.len());
            self.text.extend_from_slice(text.get(..room).unwrap_or(text));
            self.size = self.size.saturating_add(text.len() as u64);
        }
    }

    /// The request has ended: its prompt, if it has one. The text is gone.
    pub fn prompt(&mut self) -> Option<Prompt> {
        let text = std::mem::take(&mut self.text);
        if text.is_empty() {
            return None;
        }
        let fingerprint = self.key.hash(&[&text, &self.size.to_le_bytes()]);
        let words: Vec<u64> = text
            .split(|byte| !(byte.is_ascii_alphanumeric() || *byte >= 0x80))
            .filter(|word| !word.is_empty())
            .map(|word| self.key.hash(&[word]))
            .collect();
        let shingle = |words: &[u64]| {
            let mut hasher = self.key.hasher();
            words.iter().for_each(|word| hasher.write_u64(*word));
            hasher.finish()
        };
        let mut shingles: Vec<u64> = words.windows(3).map(shingle).collect();
        if shingles.len() < FEWEST_SHINGLES {
            shingles.clear();
        }
        Some(Prompt { fingerprint, shingles })
    }

    /// More of an answer that is one document.
    pub fn document(&mut self, data: &[u8]) {
        if self.document.len() <= MOST_ANSWER {
            self.document.extend_from_slice(data);
        }
    }

    /// A message of an answer that is a stream.
    pub fn message(&mut self, data: &[u8]) {
        if data.len() <= MOST_ANSWER
            && may_ask(data)
            && let Ok(message) = serde_json::from_slice::<Value>(data)
        {
            self.take(&message);
        }
    }

    /// The answer has ended.
    pub fn finish(mut self) -> Vec<ToolAsk> {
        let document = std::mem::take(&mut self.document);
        self.message(&document);
        for open in std::mem::take(&mut self.open) {
            self.end(open);
        }
        self.asks
    }

    fn take(&mut self, message: &Value) {
        match message["type"].as_str() {
            // Anthropic's stream.
            Some("content_block_start") => {
                let (index, block) = (&message["index"], &message["content_block"]);
                if block["type"].as_str().is_some_and(|kind| kind.ends_with("tool_use")) {
                    self.begin(index, &block["name"]);
                    if block["input"].as_object().is_some_and(|input| !input.is_empty()) {
                        self.more(index, &block["input"]);
                    }
                }
                return;
            }
            Some("content_block_delta") => return self.more(&message["index"], &message["delta"]["partial_json"]),
            // OpenAI's Responses: the other events of an item say the same.
            Some("response.output_item.done") => return self.item(&message["item"]),
            Some(kind) if kind.starts_with("response.") => return,
            _ => {}
        }
        for item in each(message) {
            self.take(item);
        }
        for choice in each(&message["choices"]) {
            for call in each(&choice["message"]["tool_calls"]) {
                self.whole(&call["function"]["name"], &call["function"]["arguments"]);
            }
            for call in each(&choice["delta"]["tool_calls"]) {
                let function = &call["function"];
                if function["name"].as_str().is_some_and(|name| !name.is_empty()) {
                    self.begin(&call["index"], &function["name"]);
                }
                self.more(&call["index"], &function["arguments"]);
            }
        }
        // Anthropic's and Responses' documents.
        for block in each(&message["content"]) {
            self.item(block);
        }
        for item in each(&message["output"]) {
            self.item(item);
        }
        // Google.
        for candidate in each(&message["candidates"]) {
            for part in each(&candidate["content"]["parts"]) {
                self.whole(&part["functionCall"]["name"], &part["functionCall"]["args"]);
            }
        }
        // Bedrock, whole and streamed.
        for block in each(&message["output"]["message"]["content"]) {
            self.whole(&block["toolUse"]["name"], &block["toolUse"]["input"]);
        }
        let index = &message["contentBlockIndex"];
        self.begin(index, &message["start"]["toolUse"]["name"]);
        self.more(index, &message["delta"]["toolUse"]["input"]);
        // Ollama.
        for call in each(&message["message"]["tool_calls"]) {
            self.whole(&call["function"]["name"], &call["function"]["arguments"]);
        }
    }

    fn item(&mut self, item: &Value) {
        let arguments = match item["type"].as_str() {
            Some("function_call" | "mcp_call") => &item["arguments"],
            Some("custom_tool_call" | "tool_use" | "server_tool_use") => &item["input"],
            _ => return,
        };
        self.whole(&item["name"], arguments);
    }

    fn whole(&mut self, name: &Value, arguments: &Value) {
        if name.is_string() {
            self.begin(&Value::Null, name);
            self.more(&Value::Null, arguments);
            if let Some(open) = self.open.pop() {
                self.end(open);
            }
        }
    }

    fn begin(&mut self, index: &Value, name: &Value) {
        let Some(name) = name.as_str() else { return };
        if self.open.len() + self.asks.len() >= MOST_ASKS {
            return;
        }
        let name: Box<str> = name.chars().take(MOST_NAME).collect();
        let mut hasher = self.key.hasher();
        hasher.write(name.as_bytes());
        hasher.write_usize(name.len());
        self.open.push(OpenAsk { index: index.as_u64().unwrap_or(u64::MAX), name, hasher, size: 0 });
    }

    fn more(&mut self, index: &Value, arguments: &Value) {
        let index = index.as_u64().unwrap_or(u64::MAX);
        // An index that is used again is that of the last one which had it.
        let Some(open) = self.open.iter_mut().rev().find(|open| open.index == index) else { return };
        match arguments {
            Value::Null => {}
            Value::String(piece) => {
                open.hasher.write(piece.as_bytes());
                open.size += piece.len();
            }
            // Members of objects come in the order of their names.
            whole => {
                let text = whole.to_string();
                open.hasher.write(text.as_bytes());
                open.size += text.len();
            }
        }
    }

    fn end(&mut self, open: OpenAsk) {
        let OpenAsk { name, mut hasher, size, .. } = open;
        hasher.write_usize(size);
        self.asks.push(ToolAsk { name, fingerprint: hasher.finish() });
    }
}

/// Elements of an array; of what is none, nothing.
fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// Whether a message may have to do with tools: most have not, and are not read a second time.
fn may_ask(data: &[u8]) -> bool {
    ["tool", "function", "partial_json"].iter().any(|word| memchr::memmem::find(data, word.as_bytes()).is_some())
}

/// Shows the strings of a request to two observers.
pub struct Beside<'a> {
    pub first: &'a mut dyn Observer,
    pub prints: &'a mut Prints,
}

impl Observer for Beside<'_> {
    fn begin(&mut self, place: Place<'_>) {
        self.first.begin(place);
        self.prints.restart(place);
    }

    fn piece(&mut self, place: Place<'_>, text: &[u8]) {
        self.first.piece(place, text);
        self.prints.take_text(place, text);
    }

    fn end(&mut self, place: Place<'_>) {
        self.first.end(place);
        // What is in two strings is not what is in one.
        self.prints.take_text(place, b"\0");
    }

    fn level(&mut self, place: Place<'_>) {
        self.first.level(place);
        self.prints.restart(place);
    }

    fn bare(&mut self, place: Place<'_>, text: &[u8]) {
        self.first.bare(place, text);
        self.prints.take_text(place, text);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{Beside, Key, MOST_ASKS, Prints, Prompt, ToolAsk};
    use crate::meter::json::Skimmer;

    const KEY: Key = Key::new([7; 16]);

    fn prompt_in_pieces(request: &str, piece: usize, key: Key) -> Option<Prompt> {
        let mut prints = Prints::new(key);
        let mut skimmer = Skimmer::default();
        for piece in request.as_bytes().chunks(piece) {
            skimmer.push(piece, &mut Beside { first: &mut (), prints: &mut prints });
        }
        prints.prompt()
    }

    fn prompt(request: &Value) -> Prompt {
        prompt_in_pieces(&request.to_string(), 1 << 20, KEY).expect("a prompt")
    }

    fn asks(messages: &[Value]) -> Vec<ToolAsk> {
        let mut prints = Prints::new(KEY);
        for message in messages {
            prints.message(message.to_string().as_bytes());
        }
        prints.finish()
    }

    fn document(document: &Value) -> Vec<ToolAsk> {
        let mut prints = Prints::new(KEY);
        for piece in document.to_string().as_bytes().chunks(7) {
            prints.document(piece);
        }
        prints.finish()
    }

    #[test]
    fn the_last_message_counts_and_not_the_talk_before_it() {
        let said = |before: &str, last: &str| {
            prompt(
                &json!({"model": "m", "messages": [{"role": "user", "content": before}, {"role": "user", "content": last}]}),
            )
        };
        assert_eq!(said("a", "again"), said("b", "again"));
        assert_ne!(said("a", "again"), said("a", "again and"));
        assert_ne!(
            said("a", "again"),
            prompt_in_pieces(r#"{"messages": [{"role": "user", "content": "again"}]}"#, 3, Key::new([8; 16]))
                .expect("a prompt")
        );
        // The result of a tool, whose call has another id each time.
        let result = |id: &str, text: &str| {
            prompt(&json!({"messages": [{"role": "user", "content": "go"},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": text}]}]}]}))
        };
        assert_eq!(result("toolu_1", "no such file"), result("toolu_2", "no such file"));
        assert_ne!(result("toolu_1", "no such file"), result("toolu_1", "a file"));
        for request in [
            json!({"input": "what?"}),
            json!({"input": [{"role": "user", "content": "what?"}]}),
            json!({"contents": [{"parts": [{"text": "what?"}]}]}),
            json!({"prompt": "what?"}),
        ] {
            assert!(prompt_in_pieces(&request.to_string(), 5, KEY).is_some(), "{request}");
        }
        assert_eq!(prompt_in_pieces(r#"{"model": "m", "max_tokens": 1}"#, 5, KEY), None);
    }

    #[test]
    fn short_prompts_are_the_same_or_not_and_never_alike() {
        assert!(prompt(&json!({"prompt": "Question 1: what is the answer?"})).shingles.is_empty());
        let long = (0..40).map(|n| format!("word{n} ")).collect::<String>();
        assert_eq!(prompt(&json!({"prompt": long})).shingles.len(), 38);
    }

    /// The same call of the same tool is the same in every API, whole or in pieces.
    #[test]
    fn calls_of_tools_are_found_in_the_answers_of_every_api() {
        let expected = asks(&[
            json!({"choices": [{"message": {"tool_calls": [{"function": {"name": "read", "arguments": "{\"path\":\"/a\"}"}}]}}]}),
        ]);
        assert_eq!(expected.len(), 1);
        assert_eq!(&*expected[0].name, "read");
        let input = json!({"path": "/a"});
        for one in [
            json!({"type": "message", "content": [{"type": "text", "text": "x"}, {"type": "tool_use", "id": "t", "name": "read", "input": input}]}),
            json!({"object": "response", "output": [{"type": "function_call", "arguments": "{\"path\":\"/a\"}", "name": "read"}]}),
            json!({"candidates": [{"content": {"parts": [{"functionCall": {"name": "read", "args": input}}]}}]}),
            json!([{"candidates": [{"content": {"parts": [{"functionCall": {"name": "read", "args": input}}]}}]}]),
            json!({"output": {"message": {"content": [{"toolUse": {"toolUseId": "t", "name": "read", "input": input}}]}}}),
            json!({"message": {"tool_calls": [{"function": {"name": "read", "arguments": input}}]}}),
            json!({"type": "response.output_item.done", "item": {"type": "function_call", "name": "read", "arguments": "{\"path\":\"/a\"}"}}),
        ] {
            assert_eq!(document(&one), expected, "{one}");
        }
        let chat = |call: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        let streams = [
            vec![
                chat(json!({"index": 0, "id": "x", "function": {"name": "read", "arguments": ""}})),
                chat(json!({"index": 0, "function": {"arguments": "{\"path\":"}})),
                chat(json!({"index": 0, "function": {"arguments": "\"/a\"}"}})),
            ],
            vec![
                json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "name": "read", "input": {}}}),
                json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"path\":"}}),
                json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "\"/a\"}"}}),
                json!({"type": "content_block_stop", "index": 1}),
            ],
            vec![
                json!({"contentBlockIndex": 0, "start": {"toolUse": {"toolUseId": "t", "name": "read"}}}),
                json!({"contentBlockIndex": 0, "delta": {"toolUse": {"input": "{\"path\":\"/a\"}"}}}),
            ],
        ];
        for stream in streams {
            assert_eq!(asks(&stream), expected, "{stream:?}");
        }
    }

    #[test]
    fn another_argument_or_another_tool_is_another_call() {
        let call = |name: &str, arguments: &str| {
            document(&json!({"choices": [{"message": {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}}]}))[0].fingerprint
        };
        assert_eq!(call("a", "{}"), call("a", "{}"));
        assert_ne!(call("a", "{}"), call("b", "{}"));
        assert_ne!(call("a", "{}"), call("a", "{ }"));
        assert_ne!(call("ab", "c"), call("a", "bc"));
        // Two at once, in one stream.
        let chat = |call: Value| json!({"choices": [{"delta": {"tool_calls": [call]}}]});
        let both = asks(&[
            chat(json!({"index": 0, "function": {"name": "a", "arguments": ""}})),
            chat(json!({"index": 1, "function": {"name": "b", "arguments": ""}})),
            chat(json!({"index": 1, "function": {"arguments": "1"}})),
            chat(json!({"index": 0, "function": {"arguments": "{}"}})),
        ]);
        assert_eq!(both.iter().map(|ask| ask.fingerprint).collect::<Vec<_>>(), [call("a", "{}"), call("b", "1")]);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let calls: Vec<Value> =
            (0..1000).map(|n| json!({"function": {"name": format!("t{n}"), "arguments": "{}"}})).collect();
        assert_eq!(asks(&[json!({"choices": [{"message": {"tool_calls": calls}}]})]).len(), MOST_ASKS);
        let mut prints = Prints::new(KEY);
        for _ in 0..100 {
            prints.document(&[b'x'; 65536]);
        }
        assert!(prints.document.len() < 1 << 20);
        let long = json!({"prompt": "word ".repeat(100_000)}).to_string();
        let mut skimmer = Skimmer::default();
        skimmer.push(long.as_bytes(), &mut Beside { first: &mut (), prints: &mut prints });
        assert!(prints.text.len() <= super::MOST_TEXT);
        assert!(prints.prompt().is_some() && prints.text.capacity() == 0);
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(text in "[ -~]{0,200}", piece in 1_usize..40) {
            let request = json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}).to_string();
            prop_assert_eq!(prompt_in_pieces(&request, piece, KEY), prompt_in_pieces(&request, 1 << 20, KEY));
        }

        #[test]
        fn nothing_panics(messages in prop::collection::vec("[{}\\[\\]\":,a-z0-9 ]{0,80}|\\{\"type\":\"tool_use\".{0,40}", 0..8)) {
            let mut prints = Prints::new(KEY);
            for message in &messages {
                prints.message(message.as_bytes());
                prints.document(message.as_bytes());
            }
            prints.finish();
        }
    }
}
