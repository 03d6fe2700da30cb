//! The model server judged by the real clients: what they parse is what it keeps as the truth.

use std::{
    collections::{HashMap, HashSet},
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};
use tollgate_tests::{
    Client, Config, ModelServer, Seen, Truth, Usage,
    clients::{Curl, PythonEnv},
    model_server::{Api, State},
};

/// Long enough for a loaded machine; nothing waits so long when all is well.
const LIMIT: Duration = Duration::from_secs(30);

fn server() -> ModelServer {
    ModelServer::start(Config::default()).expect("starting the model server")
}

fn python() -> PythonEnv {
    PythonEnv::ensure().expect("the Python environment")
}

/// Every answer is complete, and both sides say the same of it.
#[track_caller]
fn assert_agree(truths: &[Truth], seen: &[Seen]) {
    let calls: HashMap<_, _> =
        truths.iter().filter_map(|truth| truth.call.as_ref().map(|call| (call.id.as_str(), (truth, call)))).collect();
    assert_eq!(calls.len(), seen.len(), "calls that the server billed and answers that the client got");
    for answer in seen {
        assert_eq!(answer.error, None, "{answer:?}");
        let id = answer.id.as_deref().unwrap_or_else(|| panic!("{answer:?} has no id"));
        let (truth, call) = calls.get(id).unwrap_or_else(|| panic!("{answer:?} is not in {calls:#?}"));
        // A client may leave when it has read everything that counts, before the last bytes of the coding are sent.
        let has_read_all = answer.stream && truth.state == State::Abandoned;
        assert!(truth.state == State::Complete || has_read_all, "{truth:?}");
        assert_eq!(answer.usage, Some(call.billed));
        assert_eq!(answer.model.as_ref(), Some(&call.model));
        assert_eq!(answer.stream, call.stream);
        if let Some(words) = answer.words {
            assert_eq!(words, call.billed.output_text, "words of {id}");
        }
    }
}

fn connections(truths: &[Truth]) -> usize {
    truths.iter().map(|truth| truth.connection).collect::<HashSet<_>>().len()
}

fn sdk_agrees(sdk: impl Fn(&ModelServer, &str) -> Client) {
    let server = server();
    for mode in ["sync", "async", "threads", "gather"] {
        for stream in [false, true] {
            let parallel = matches!(mode, "threads" | "gather");
            let calls = if parallel { "20" } else { "4" };
            let tag = format!("{mode}-{stream}");
            let client = sdk(&server, &tag).with(&["--mode", mode, "--calls", calls]);
            let seen = if stream { client.with(&["--stream"]) } else { client }.run();
            let truths = server.truth_of(&tag);
            assert_agree(&truths, &seen);
            assert_eq!(seen.len(), if parallel { 20 } else { 4 });
            // A stream that is not read behind its last event costs the openai package the connection.
            if !parallel && !stream {
                assert_eq!(connections(&truths), 1, "one connection is kept alive");
            }
            let usages: HashSet<_> = seen.iter().map(|seen| seen.usage.map(|usage| usage.input_uncached)).collect();
            assert!(usages.len() > 1, "usage varies");
        }
    }
}

#[test]
fn openai_agrees() {
    let python = python();
    sdk_agrees(|server, tag| Client::openai(&python, server, tag));
}

#[test]
fn anthropic_agrees() {
    let python = python();
    sdk_agrees(|server, tag| Client::anthropic(&python, server, tag));
}

#[test]
fn curl_agrees_on_one_connection() {
    let server = server();
    for api in [Api::OpenaiChat, Api::AnthropicMessages] {
        for (stream, gzip) in [(false, false), (true, false), (false, true), (true, true)] {
            let tag = format!("curl-{api:?}-{stream}-{gzip}");
            let curl = Curl::new(&server, &tag, api, stream, 5, &json!({"gzip": gzip}));
            let seen = if gzip { curl.compressed() } else { curl }.run();
            let truths = server.truth_of(&tag);
            assert_agree(&truths, &seen);
            assert_eq!((seen.len(), connections(&truths)), (5, 1));
        }
    }
}

#[test]
fn plain_python_agrees() {
    let server = server();
    for arguments in [
        &["--calls", "3"][..],
        &["--calls", "3", "--warm-up", "1", "--parallel", "8"],
        &["--calls", "2", "--no-stream"],
    ] {
        let tag = arguments.join(" ");
        let seen = Client::loop_agent(&server, &tag).with(arguments).run();
        assert_agree(&server.truth_of(&tag), &seen);
    }
}

#[test]
fn a_directive_shapes_the_answer() {
    let (server, python) = (server(), python());
    let exact = json!({
        "input_tokens": 1234, "cached_tokens": 17, "cache_write": 33, "output_tokens": 40, "reasoning_tokens": 5,
        "cache_write_1h": 8, "chunk_tokens": 7, "piece_bytes": 11, "gzip": true, "delay_ms": 1, "stall_ms": 5,
    });
    let all = Usage { input_uncached: 1234, cache_read: 17, output_text: 40, reasoning: 5, ..Usage::default() };
    for stream in [false, true] {
        let tag = format!("openai-{stream}");
        let client = Client::openai(&python, &server, &tag).asking(&exact);
        let seen = if stream { client.with(&["--stream"]) } else { client }.run();
        assert_eq!(seen[0].usage, Some(Usage { cache_write: 33, ..all }));
        assert_agree(&server.truth_of(&tag), &seen);

        let tag = format!("anthropic-{stream}");
        let client = Client::anthropic(&python, &server, &tag).asking(&exact);
        let seen = if stream { client.with(&["--stream"]) } else { client }.run();
        assert_eq!(seen[0].usage, Some(Usage { cache_write_5m: 33, cache_write_1h: 8, ..all }));
        assert_agree(&server.truth_of(&tag), &seen);
    }
}

#[test]
fn a_tool_call_is_an_answer() {
    let (server, python) = (server(), python());
    for stream in [false, true] {
        for (name, client) in [
            ("openai", Client::openai(&python, &server, "tool")),
            ("anthropic", Client::anthropic(&python, &server, "tool")),
        ] {
            let client = client.asking(&json!({"tool_call": true, "output_tokens": 30}));
            let seen = if stream { client.with(&["--stream"]) } else { client }.run();
            assert_eq!((seen.len(), &seen[0].error), (1, &None), "{name}");
        }
    }
    let (truths, billed) =
        (server.truth_of("tool"), |truth: &Truth| truth.call.as_ref().map(|call| call.billed.output_text));
    assert_eq!(truths.iter().map(billed).collect::<Vec<_>>(), vec![Some(30); 4]);
}

#[test]
fn a_large_answer_arrives() {
    let (server, python) = (server(), python());
    let ask = json!({"answer_bytes": 300_000, "reasoning_tokens": 0});
    let seen = Client::openai(&python, &server, "large").asking(&ask).run();
    assert_agree(&server.truth_of("large"), &seen);
    assert!(seen[0].words > Some(30_000));
}

#[test]
fn a_stream_tells_its_usage_only_when_asked() {
    let (server, python) = (server(), python());
    let seen = Client::openai(&python, &server, "silent").with(&["--stream", "--no-include-usage"]).run();
    assert_eq!((seen[0].usage, &seen[0].error), (None, &None));
    let truth = server.truth_of("silent").remove(0);
    let call = truth.call.as_ref().expect("a call");
    assert!(!call.usage_reported);
    assert_eq!(seen[0].words, Some(call.billed.output_text));
    assert!(truth.cost() > 0, "what is not told is billed all the same");
}

#[test]
fn an_abandoned_stream_is_billed_as_far_as_it_came() {
    let (server, python) = (server(), python());
    let slow = json!({"delay_ms": 20, "output_tokens": 3000, "chunk_tokens": 1, "reasoning_tokens": 0});
    for (tag, client) in [
        ("openai-left", Client::openai(&python, &server, "openai-left")),
        ("anthropic-left", Client::anthropic(&python, &server, "anthropic-left")),
    ] {
        client.asking(&slow).with(&["--stream", "--abandon-after", "5"]).run();
        let ended = |truths: &[Truth]| truths.iter().any(|truth| truth.is_of(tag) && truth.ended_us.is_some());
        server.wait_until(LIMIT, ended).expect("the server notices that the client is gone");
        let truth = server.truth_of(tag).remove(0);
        assert_eq!(truth.state, State::Abandoned);
        let call = truth.call.expect("a call");
        assert!((5..3000).contains(&call.billed.output_text), "{call:?}");
        assert_eq!(call.chunks_sent, call.billed.output_text);
    }
}

#[test]
fn a_connection_can_break_mid_stream() {
    let (server, python) = (server(), python());
    let ask = json!({"close_after_chunks": 4, "output_tokens": 100, "chunk_tokens": 2, "reasoning_tokens": 0});
    let seen = Client::openai(&python, &server, "broken").asking(&ask).with(&["--stream"]).run();
    assert!(seen[0].error.is_some(), "{seen:?}");
    assert_eq!(seen[0].words, Some(8), "what was sent before the end arrives");
    let truth = server.truth_of("broken").remove(0);
    assert_eq!(truth.state, State::BrokenOff);
    assert_eq!(truth.call.map(|call| (call.chunks_sent, call.billed.output_text)), Some((4, 8)));
}

#[test]
fn errors_cost_nothing() {
    let (server, python) = (server(), python());
    for status in [400, 401, 429, 500, 529] {
        for client in [Client::openai(&python, &server, "error"), Client::anthropic(&python, &server, "error")] {
            let seen = client.asking(&json!({"status": status})).run();
            assert_eq!(seen[0].status, Some(status), "{seen:?}");
        }
    }
    let truths = server.truth_of("error");
    assert_eq!(truths.len(), 10);
    assert!(truths.iter().all(|truth| truth.call.is_none() && truth.cost() == 0 && truth.state == State::Complete));
}

#[test]
fn an_unknown_directive_is_refused() {
    let (server, python) = (server(), python());
    let seen = Client::openai(&python, &server, "typo").asking(&json!({"output_tokenz": 1})).run();
    assert_eq!(seen[0].status, Some(400));
}

#[test]
fn models_and_token_counts_are_free() {
    let (server, python) = (server(), python());
    Client::openai(&python, &server, "free").with(&["--free", "--calls", "0"]).run();
    Client::anthropic(&python, &server, "free").with(&["--free", "--calls", "0"]).run();
    let truths = server.truth_of("free");
    let paths: Vec<_> = truths.iter().map(|truth| truth.path.as_str()).collect();
    assert_eq!(paths, ["/v1/models", "/v1/messages/count_tokens"]);
    assert!(truths.iter().all(|truth| truth.call.is_none()));
}

#[test]
fn a_path_may_have_a_prefix() {
    let (mut server, python) = (server(), python());
    server.base_url.push_str("/some/gateway");
    let seen = Client::anthropic(&python, &server, "prefix").run();
    assert_agree(&server.truth_of("prefix"), &seen);
}

#[test]
fn the_binary_serves_until_its_standard_input_closes() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut process = Command::new(env!("CARGO_BIN_EXE_model-server"))
        .args(["--exit-with-stdin", "--tokens", "20", "--seed", "7", "--dir"])
        .arg(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starting model-server");
    let mut line = String::new();
    BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let said: Value = serde_json::from_str(&line).expect("a JSON line");
    let text = |field: &str| said[field].as_str().unwrap_or_else(|| panic!("{said}")).to_owned();

    let answer = Command::new("curl")
        .args(["--silent", "--noproxy", "*", "--cacert", &text("ca"), "--header", "x-test-client: outside"])
        .args([
            "--json",
            r#"{"model": "gpt-4o", "messages": []}"#,
            &format!("{}/v1/chat/completions", text("base_url")),
        ])
        .output()
        .expect("running curl");
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("an answer");

    let mut input = process.stdin.take().expect("piped");
    input.write_all(b"what it reads does not matter\n").expect("it still reads");
    drop(input);
    assert!(process.wait().expect("waiting").success());

    let truth = std::fs::read_to_string(text("truth")).expect("the truth outlives the server");
    let truths: Vec<Truth> = truth.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(truths.iter().map(|truth| truth.state).collect::<Vec<_>>(), [State::Arrived, State::Complete]);
    let call = truths[1].call.as_ref().expect("a call");
    assert_eq!(answer["id"], call.id);
    assert_eq!(answer["usage"]["prompt_tokens"], call.billed.input_total());
    assert!(truths[1].is_of("outside"));
}
