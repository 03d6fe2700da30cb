//! `curl`: several transfers on one connection, and an own reading of what came back.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::Seen;
use crate::{ModelServer, Usage, model_server::Api};

/// A curl command that makes the same call several times, one after the other.
#[derive(Debug)]
pub struct Curl {
    arguments: Vec<String>,
    client: String,
    is_plain: bool,
    api: Api,
    stream: bool,
    request: PathBuf,
    answers: Vec<PathBuf>,
    _directory: TempDir,
}

impl Curl {
    /// `calls` transfers to one of the server's APIs.
    ///
    /// # Panics
    /// When there is no temporary directory, and for other APIs than OpenAI's chat completions and Anthropic's messages.
    pub fn new(server: &ModelServer, client: &str, api: Api, stream: bool, calls: usize, directive: &Value) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut text = "Say something.".to_owned();
        if directive.as_object().is_some_and(|knobs| !knobs.is_empty()) {
            text = format!("{text} {}", json!({"tollgate_test": directive}));
        }
        let mut body = json!({"messages": [{"role": "user", "content": text}], "stream": stream});
        let (path, key) = match api {
            Api::OpenaiChat => {
                body["model"] = "gpt-4o".into();
                if stream {
                    body["stream_options"] = json!({"include_usage": true});
                }
                ("/v1/chat/completions", "authorization: Bearer sk-test")
            }
            Api::AnthropicMessages => {
                body["model"] = "claude-sonnet-4-5".into();
                body["max_tokens"] = 8192.into();
                ("/v1/messages", "x-api-key: sk-ant-test")
            }
            other => panic!("curl does not speak {other:?} here"),
        };
        let request = directory.path().join("request.json");
        fs::write(&request, body.to_string()).expect("writing the request");

        let mut arguments: Vec<String> = vec!["--silent".into(), "--show-error".into(), "--no-buffer".into()];
        arguments.extend(["--cacert".into(), server.ca_path.to_string_lossy().into_owned()]);
        arguments.extend(["--noproxy".into(), "*".into(), "--data-binary".into(), format!("@{}", request.display())]);
        for header in ["content-type: application/json", key, &format!("x-test-client: {client}")] {
            arguments.extend(["--header".into(), header.to_owned()]);
        }
        let answers: Vec<_> = (0..calls).map(|call| directory.path().join(format!("answer-{call}"))).collect();
        for answer in &answers {
            arguments.extend([format!("{}{path}", server.base_url), "--output".into(), answer.display().to_string()]);
        }
        let is_plain = server.base_url.starts_with("http:");
        Self { arguments, client: client.to_owned(), is_plain, api, stream, request, answers, _directory: directory }
    }

    /// Speaks this version of HTTP, `1.1` or `2`; by itself, curl takes HTTP/2 where the server has it.
    #[must_use]
    pub fn http(mut self, version: &str) -> Self {
        // Without TLS there is nothing by which to agree on HTTP/2.
        let known = if self.is_plain && version == "2" { "-prior-knowledge" } else { "" };
        self.arguments.push(format!("--http{version}{known}"));
        self
    }

    /// Makes up to so many of the transfers at once; over HTTP/2, on one connection.
    #[must_use]
    pub fn parallel(mut self, most: usize) -> Self {
        self.arguments.extend(["--parallel".into(), "--parallel-max".into(), most.to_string()]);
        self
    }

    /// Asks for compressed answers and decompresses them.
    #[must_use]
    pub fn compressed(mut self) -> Self {
        self.arguments.push("--compressed".into());
        self
    }

    /// Where the body of the request lies.
    pub fn request_file(&self) -> &Path {
        &self.request
    }

    /// Program and arguments.
    pub fn command_line(&self) -> Vec<String> {
        std::iter::once("curl".to_owned()).chain(self.arguments.iter().cloned()).collect()
    }

    /// Runs curl to its end, without Tollgate.
    ///
    /// # Panics
    /// When it cannot be run or fails.
    pub fn run(&self) -> Vec<Seen> {
        let output = Command::new("curl").args(&self.arguments).output().expect("running curl");
        assert!(output.status.success(), "curl: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        self.seen()
    }

    /// What is in the files that curl wrote.
    ///
    /// # Panics
    /// When one is missing or cannot be read as an answer.
    pub fn seen(&self) -> Vec<Seen> {
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            self.read(&text)
        };
        self.answers.iter().map(read).collect()
    }

    fn read(&self, text: &str) -> Seen {
        let parse =
            |text: &str| -> Value { serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}")) };
        let events: Vec<Value> = if self.stream {
            let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
            data.filter(|data| *data != "[DONE]").map(parse).collect()
        } else {
            vec![parse(text)]
        };
        let (id, model, usage) = match self.api {
            Api::OpenaiChat => read_openai(&events),
            Api::AnthropicMessages => read_anthropic(&events),
            other => panic!("curl does not speak {other:?} here"),
        };
        Seen {
            client: self.client.clone(),
            id,
            model,
            stream: self.stream,
            usage,
            words: None,
            error: None,
            status: None,
            pid: None,
            took_ms: None,
        }
    }
}

type Reading = (Option<String>, Option<String>, Option<Usage>);

fn text_of(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn read_openai(events: &[Value]) -> Reading {
    let first = events.first().unwrap_or(&Value::Null);
    let usage =
        events.iter().rev().find_map(|event| event["usage"].as_object().map(|_| &event["usage"])).map(|usage| {
            let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
            let (cached, written) =
                (count("/prompt_tokens_details/cached_tokens"), count("/prompt_tokens_details/cache_write_tokens"));
            let reasoning = count("/completion_tokens_details/reasoning_tokens");
            Usage {
                input_uncached: count("/prompt_tokens") - cached - written,
                cache_read: cached,
                cache_write: written,
                output_text: count("/completion_tokens") - reasoning,
                reasoning,
                ..Usage::default()
            }
        });
    (text_of(&first["id"]), text_of(&first["model"]), usage)
}

fn read_anthropic(events: &[Value]) -> Reading {
    let first = events.first().unwrap_or(&Value::Null);
    let message = if first["type"] == "message_start" { &first["message"] } else { first };
    let mut usage = message["usage"].clone();
    for event in events.iter().filter(|event| event["type"] == "message_delta") {
        for (field, value) in event["usage"].as_object().into_iter().flatten() {
            usage[field] = value.clone();
        }
    }
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let hour = count("/cache_creation/ephemeral_1h_input_tokens");
    let thinking = count("/output_tokens_details/thinking_tokens");
    let told = usage.is_object().then(|| Usage {
        input_uncached: count("/input_tokens"),
        cache_read: count("/cache_read_input_tokens"),
        cache_write_5m: count("/cache_creation_input_tokens") - hour,
        cache_write_1h: hour,
        output_text: count("/output_tokens") - thinking,
        reasoning: thinking,
        ..Usage::default()
    });
    (text_of(&message["id"]), text_of(&message["model"]), told)
}
