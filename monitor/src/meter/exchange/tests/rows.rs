//! What each API reports, and where: a document and a stream of each shape, under hosts of any name.

use serde_json::{Value, json};

use super::{OneExchange, STREAM, ask_anthropic, exchange, sse};
use crate::wire::{Connection, Direction, Limits, StreamOffset};

const JSON: &str = "application/json";

fn get(host: &str, path: &str, content_type: &str, answer: &str) -> Value {
    let mut sink = OneExchange { meter: None, metered: None };
    let mut connection = Connection::new(Limits::default());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    connection.push(Direction::Request, StreamOffset(0), request.as_bytes(), &mut sink);
    let length = answer.len();
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n{answer}");
    connection.push(Direction::Response, StreamOffset(0), answer.as_bytes(), &mut sink);
    connection.close(&mut sink);
    let metered = sink.metered.expect("an exchange");
    let parts: Vec<Value> =
        metered.parts.iter().map(|part| json!({"model": part.model, "usage": part.usage})).collect();
    json!({
        "id": metered.response_id, "usage": metered.usage, "units": metered.units, "basis": metered.basis, "parts": parts,
        "billing": format!("{:?}", metered.billing), "tier": metered.service.tier, "provider": metered.provider,
    })
}

fn chat(host: &str, path: &str, content_type: &str, answer: &str) -> Value {
    let request =
        json!({"model": "m", "stream": content_type == STREAM, "messages": [{"role": "user", "content": "hi"}]});
    exchange(host, path, &request, content_type, answer)
}

fn chunk(choices: &Value, more: &Value) -> Value {
    let mut chunk = json!({"id": "c", "object": "chat.completion.chunk", "model": "m-1", "choices": choices});
    chunk.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
    chunk
}

fn says(finish: Option<&str>) -> Value {
    json!([{"index": 0, "delta": {"content": "hello"}, "finish_reason": finish}])
}

/// A chat of OpenAI's shape, as a document and as a stream that tells its usage in a last chunk.
fn both(host: &str, path: &str, usage: &Value) -> [Value; 2] {
    let document = json!({"id": "c", "object": "chat.completion", "model": "m-1", "usage": usage,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]});
    let none = json!([]);
    let stream = sse(&[
        chunk(&says(None), &json!({"usage": null})),
        chunk(&says(Some("stop")), &json!({"usage": null})),
        chunk(&none, &json!({"usage": usage})),
    ]) + "data: [DONE]\n\n";
    [chat(host, path, JSON, &document.to_string()), chat(host, path, STREAM, &stream)]
}

fn assert_both(answers: &[Value; 2], provider: &str, usage: &Value) {
    for answer in answers {
        assert_eq!((&answer["usage"], &answer["provider"]), (usage, &json!(provider)), "{answer}");
        assert_eq!((&answer["billing"], &answer["id"]), (&json!("Charge"), &json!("c")), "{answer}");
        assert_eq!(answer["model"], json!("m-1"), "{answer}");
    }
}

#[test]
fn chats_under_any_host_and_prefix() {
    let usage = json!({
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 20, "audio_tokens": 5, "image_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 15, "audio_tokens": 4, "rejected_prediction_tokens": 3},
    });
    let expected = json!({
        "input_uncached": 39, "cache_read": 30, "cache_write": 20, "input_audio": 5, "input_image": 6,
        "output_text": 31, "reasoning": 15, "output_audio": 4,
    });
    for (host, path, provider) in [
        ("api.openai.com", "/v1/chat/completions", "openai"),
        ("10.0.0.7:9999", "/tenants/a/llm/v1/chat/completions", "openai"),
        ("api.groq.com", "/openai/v1/chat/completions", "groq"),
        ("api.together.xyz", "/v1/chat/completions", "together"),
        ("api.deepseek.com", "/chat/completions", "deepseek"),
    ] {
        assert_both(&both(host, path, &usage), provider, &expected);
    }
    // The deployment is not the model.
    let path = "/openai/deployments/my-own/chat/completions?api-version=2025-01-01";
    assert_both(&both("x.openai.azure.com", path, &usage), "azure", &expected);
}

#[test]
fn groq_may_report_in_both_places_at_once() {
    let usage = json!({"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45, "queue_time": 0.1});
    let last = json!({"x_groq": {"id": "req_1", "usage": usage}, "usage": usage});
    let stream = sse(&[chunk(&says(None), &json!({"x_groq": {"id": "req_1"}})), chunk(&says(Some("stop")), &last)]);
    let answer = chat("api.groq.com", "/openai/v1/chat/completions", STREAM, &stream);
    assert_eq!(answer["usage"], json!({"input_uncached": 40, "output_text": 5}));
    // A last chunk without choices, with the usage there only.
    let last = chunk(&json!([]), &json!({"x_groq": {"usage": usage}}));
    let stream = sse(&[chunk(&says(Some("stop")), &json!({})), last]);
    let answer = chat("api.groq.com", "/openai/v1/chat/completions", STREAM, &stream);
    assert_eq!((&answer["usage"]["input_uncached"], &answer["basis"]), (&json!(40), &json!("measured")));
}

#[test]
fn mistral_streams_usage_unasked_with_the_last_choice() {
    let usage = json!({"prompt_tokens": 20, "completion_tokens": 8, "total_tokens": 28, "num_cached_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 12}});
    let expected = json!({"input_uncached": 8, "cache_read": 12, "output_text": 8});
    assert_both(&both("api.mistral.ai", "/v1/chat/completions", &usage), "mistral", &expected);
    let stream = sse(&[chunk(&says(None), &json!({})), chunk(&says(Some("stop")), &json!({"usage": usage}))]);
    let answer = chat("api.mistral.ai", "/v1/fim/completions", STREAM, &stream);
    assert_eq!((&answer["usage"], &answer["basis"]), (&expected, &json!("measured")));
}

#[test]
fn vllm_repeats_its_usage_and_the_last_one_counts() {
    let usage =
        |output: u64| json!({"usage": {"prompt_tokens": 9, "completion_tokens": output, "total_tokens": 9 + output}});
    let stream = sse(&[
        chunk(&says(None), &usage(1)),
        chunk(&says(None), &usage(2)),
        chunk(&says(Some("stop")), &usage(3)),
        chunk(&json!([]), &usage(3)),
    ]);
    let answer = chat("gpu-box:8000", "/v1/chat/completions", STREAM, &stream);
    assert_eq!(
        (&answer["usage"], &answer["basis"]),
        (&json!({"input_uncached": 9, "output_text": 3}), &json!("measured"))
    );
}

#[test]
fn open_router_says_its_own_price() {
    let usage = json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12, "cost": 0.0021, "is_byok": false,
        "cost_details": {"upstream_inference_cost": 0.002}});
    let answers = both("openrouter.ai", "/api/v1/chat/completions", &usage);
    assert_both(&answers, "openrouter", &json!({"input_uncached": 9, "output_text": 3}));
    assert!(answers.iter().all(|answer| answer["basis"] == "provider"), "{answers:?}");
}

#[test]
fn a_stream_that_is_not_asked_for_its_usage_is_estimated_also_when_it_is_abandoned() {
    let whole = sse(&[chunk(&says(None), &json!({})), chunk(&says(Some("stop")), &json!({}))]) + "data: [DONE]\n\n";
    let cut = sse(&[chunk(&says(None), &json!({}))]);
    for stream in [whole, cut] {
        let answer = chat("api.openai.com", "/v1/chat/completions", STREAM, &stream);
        assert_eq!((&answer["basis"], &answer["billing"]), (&json!("estimated"), &json!("Charge")));
        assert!(
            answer["usage"]["output_text"].as_u64() >= Some(1) && answer["usage"]["input_uncached"].as_u64() > Some(1)
        );
    }
}

fn response(status: &str, usage: &Value) -> Value {
    json!({"id": "resp_1", "object": "response", "status": status, "model": "gpt-5.1-codex", "service_tier": "flex",
        "output": [], "usage": usage})
}

fn responses(host: &str, path: &str, content_type: &str, answer: &str) -> Value {
    let request = json!({"model": "gpt-5.1-codex", "stream": content_type == STREAM, "input": [{"role": "user", "content": "hi"}]});
    exchange(host, path, &request, content_type, answer)
}

#[test]
fn codex_with_a_login_speaks_responses() {
    let usage = json!({"input_tokens": 1000, "output_tokens": 90, "total_tokens": 1090,
        "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100}, "output_tokens_details": {"reasoning_tokens": 64}});
    let expected =
        json!({"input_uncached": 300, "cache_read": 600, "cache_write": 100, "output_text": 26, "reasoning": 64});
    for (host, path) in [
        ("chatgpt.com", "/backend-api/codex/responses"),
        ("api.openai.com", "/v1/responses"),
        ("x.openai.azure.com", "/openai/v1/responses"),
        ("gateway.example", "/prefix/v1/responses"),
    ] {
        let document = responses(host, path, JSON, &response("completed", &usage).to_string());
        assert_eq!((&document["usage"], &document["tier"]), (&expected, &json!("flex")), "{host}");
        for end in ["completed", "incomplete", "failed"] {
            let stream = sse(&[
                json!({"type": "response.created", "response": response("in_progress", &Value::Null)}),
                json!({"type": "response.output_text.delta", "delta": "hello"}),
                json!({"type": format!("response.{end}"), "response": response(end, &usage)}),
            ]);
            let answer = responses(host, path, STREAM, &stream);
            assert_eq!((&answer["usage"], &answer["basis"]), (&expected, &json!("measured")), "{host} {end}");
            assert_eq!((&answer["id"], &answer["billing"]), (&json!("resp_1"), &json!("Charge")));
        }
    }
}

#[test]
fn work_in_the_background_is_charged_by_the_look_that_finds_it_done() {
    let usage = json!({"input_tokens": 10, "output_tokens": 9, "total_tokens": 19});
    let asked = responses("api.openai.com", "/v1/responses", JSON, &response("queued", &Value::Null).to_string());
    assert_eq!((&asked["billing"], &asked["basis"]), (&json!("Pending"), &json!("none")));
    let look = |answer: &Value| get("api.openai.com", "/v1/responses/resp_1", JSON, &answer.to_string());
    assert_eq!(look(&response("in_progress", &Value::Null))["billing"], json!("Free"));
    let done = look(&response("completed", &usage));
    assert_eq!((&done["billing"], &done["id"], &done["basis"]), (&json!("Once"), &json!("resp_1"), &json!("measured")));
    assert_eq!(done["usage"], json!({"input_uncached": 10, "output_text": 9}));
    // The same, streamed.
    let events = sse(&[json!({"type": "response.completed", "response": response("completed", &usage)})]);
    let streamed = get("api.openai.com", "/v1/responses/resp_1?stream=true&starting_after=7", STREAM, &events);
    assert_eq!((&streamed["billing"], &streamed["usage"]), (&json!("Once"), &done["usage"]));
}

#[test]
fn anthropic_writes_caches_for_an_hour_and_runs_tools() {
    let usage = json!({
        "input_tokens": 20, "cache_read_input_tokens": 500, "cache_creation_input_tokens": 300, "output_tokens": 90,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200},
        "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}, "output_tokens_details": {"thinking_tokens": 40},
        "service_tier": "priority",
    });
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [], "usage": usage});
    let expected = json!({"input_uncached": 20, "cache_read": 500, "cache_write_5m": 100, "cache_write_1h": 200,
        "output_text": 50, "reasoning": 40});
    let mut begun = message.clone();
    begun["usage"] = json!({"input_tokens": 20, "cache_read_input_tokens": 500, "cache_creation_input_tokens": 300, "output_tokens": 1,
        "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 200}, "service_tier": "priority"});
    // The last event has the totals again, as newer servers send them.
    let stream = sse(&[
        json!({"type": "message_start", "message": begun}),
        json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "hello"}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"input_tokens": 20, "cache_read_input_tokens": 500,
            "cache_creation_input_tokens": 300, "output_tokens": 90, "output_tokens_details": {"thinking_tokens": 40},
            "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 1}}}),
        json!({"type": "message_stop"}),
    ]);
    for (host, path) in
        [("api.anthropic.com", "/v1/messages?beta=true"), ("litellm.example", "/team/anthropic/v1/messages")]
    {
        for (content_type, answer) in [(JSON, message.to_string()), (STREAM, stream.clone())] {
            let metered = exchange(host, path, &ask_anthropic(), content_type, &answer);
            assert_eq!(
                (&metered["usage"], &metered["basis"]),
                (&expected, &json!("measured")),
                "{host} {content_type}"
            );
            assert_eq!(metered["units"], json!({"web_searches": 2, "web_fetches": 1}));
            assert_eq!((&metered["tier"], &metered["provider"]), (&json!("priority"), &json!("anthropic")));
        }
    }
    let counted =
        exchange("api.anthropic.com", "/v1/messages/count_tokens", &ask_anthropic(), JSON, r#"{"input_tokens": 20}"#);
    assert_eq!(counted["billing"], json!("Free"));
}

#[test]
fn gemini_may_have_no_candidates_and_thinks_beside_them() {
    let usage = json!({"promptTokenCount": 100, "cachedContentTokenCount": 60, "thoughtsTokenCount": 25, "toolUsePromptTokenCount": 7,
        "totalTokenCount": 132, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 90}, {"modality": "IMAGE", "tokenCount": 10}],
        "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 60}]});
    let answer = json!({"candidates": [{"content": {}, "finishReason": "MAX_TOKENS"}], "usageMetadata": usage,
        "modelVersion": "gemini-2.5-pro", "responseId": "r"});
    let request = json!({"contents": [{"parts": [{"text": "hi"}]}], "cachedContent": "cachedContents/1"});
    let expected = json!({"input_uncached": 30, "input_image": 10, "cache_read": 60, "input_tool": 7, "reasoning": 25});
    for (host, path) in [
        ("generativelanguage.googleapis.com", "/v1beta/models/gemini-2.5-pro"),
        ("us-central1-aiplatform.googleapis.com", "/v1/projects/p/locations/l/publishers/google/models/gemini-2.5-pro"),
        ("proxy.example", "/google/v1beta/models/gemini-2.5-pro"),
    ] {
        let document = exchange(host, &format!("{path}:generateContent"), &request, JSON, &answer.to_string());
        let begin = json!({"candidates": [{"content": {}}], "usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 100},
            "modelVersion": "gemini-2.5-pro", "responseId": "r"});
        let stream = sse(&[begin, answer.clone()]);
        let stream = exchange(host, &format!("{path}:streamGenerateContent?alt=sse"), &request, STREAM, &stream);
        for metered in [document, stream] {
            assert_eq!((&metered["usage"], &metered["basis"]), (&expected, &json!("measured")), "{host}");
            assert_eq!((&metered["model"], &metered["id"]), (&json!("gemini-2.5-pro"), &json!("r")));
        }
    }
}

#[test]
fn converse_reports_in_the_document_too() {
    let usage = json!({"inputTokens": 4, "outputTokens": 10, "totalTokens": 214, "cacheReadInputTokens": 100, "cacheReadInputTokenCount": 100,
        "cacheWriteInputTokens": 100, "cacheWriteInputTokenCount": 100, "cacheDetails": [{"ttl": "1h", "inputTokens": 100}]});
    let answer =
        json!({"output": {"message": {"content": [{"text": "hello"}]}}, "stopReason": "end_turn", "usage": usage});
    let request = json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]});
    for host in ["bedrock-runtime.eu-west-1.amazonaws.com", "vpce-1.example"] {
        let path = "/model/eu.anthropic.claude-sonnet-4-5-20250929-v1%3A0/converse";
        let metered = exchange(host, path, &request, JSON, &answer.to_string());
        let expected = json!({"input_uncached": 4, "cache_read": 100, "cache_write_1h": 100, "output_text": 10});
        assert_eq!((&metered["usage"], &metered["basis"]), (&expected, &json!("measured")));
        assert_eq!(metered["model"], json!("eu.anthropic.claude-sonnet-4-5-20250929-v1:0"));
    }
}

#[test]
fn cohere_of_the_first_version_and_what_it_embeds() {
    let units = json!({"api_version": {"version": "1"}, "billed_units": {"input_tokens": 12, "output_tokens": 65}, "tokens": {"input_tokens": 212}});
    let whole = json!({"response_id": "r", "generation_id": "g", "text": "hello", "meta": units});
    let lines = [
        json!({"is_finished": false, "event_type": "stream-start", "generation_id": "g"}),
        json!({"is_finished": false, "event_type": "text-generation", "text": "hello"}),
        json!({"is_finished": true, "event_type": "stream-end", "finish_reason": "COMPLETE", "response": whole}),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let request = json!({"model": "command-r", "message": "hi"});
    for (content_type, answer) in [(JSON, whole.to_string()), ("application/stream+json", lines)] {
        let metered = exchange("api.cohere.com", "/v1/chat", &request, content_type, &answer);
        assert_eq!(
            (&metered["usage"], &metered["id"]),
            (&json!({"input_uncached": 12, "output_text": 65}), &json!("r")),
            "{content_type}"
        );
    }
    let answer =
        json!({"id": "e", "embeddings": {}, "meta": {"billed_units": {"input_tokens": 3, "image_tokens": 40}}});
    let metered = exchange(
        "api.cohere.com",
        "/v2/embed",
        &json!({"model": "embed-v4.0", "texts": ["a"]}),
        JSON,
        &answer.to_string(),
    );
    assert_eq!(metered["usage"], json!({"input_uncached": 3, "input_image": 40}));
}

#[test]
fn ollama_ends_its_lines_with_the_counts() {
    let lines = [
        json!({"model": "llama3", "message": {"role": "assistant", "content": "hel"}, "done": false}),
        json!({"model": "llama3", "message": {"role": "assistant", "content": "lo"}, "done": false}),
        json!({"model": "llama3", "message": {"role": "assistant", "content": ""}, "done": true, "prompt_eval_count": 11, "eval_count": 2}),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let request = json!({"model": "llama3", "messages": [{"role": "user", "content": "hi"}]});
    let metered = exchange("box:11434", "/api/chat", &request, "application/x-ndjson", &lines);
    assert_eq!(
        (&metered["usage"], &metered["basis"]),
        (&json!({"input_uncached": 11, "output_text": 2}), &json!("measured"))
    );
}

#[test]
fn embeddings_speech_and_pictures_by_the_token() {
    let openai = |path: &str, content_type: &str, answer: &str| {
        exchange("api.openai.com", path, &json!({"model": "m", "input": "hi", "prompt": "hi"}), content_type, answer)
    };
    let answer = json!({"object": "list", "data": [{"embedding": [0.1]}], "model": "m", "usage": {"prompt_tokens": 8, "total_tokens": 8}});
    let embedded = openai("/v1/embeddings", JSON, &answer.to_string());
    assert_eq!((&embedded["usage"], &embedded["basis"]), (&json!({"input_uncached": 8}), &json!("measured")));
    let usage = json!({"type": "tokens", "input_tokens": 30, "output_tokens": 9, "total_tokens": 39,
        "input_token_details": {"text_tokens": 4, "audio_tokens": 26}});
    let expected = json!({"input_uncached": 4, "input_audio": 26, "output_text": 9});
    let heard = openai("/v1/audio/transcriptions", JSON, &json!({"text": "hello", "usage": usage}).to_string());
    let stream = sse(&[
        json!({"type": "transcript.text.delta", "delta": "hello"}),
        json!({"type": "transcript.text.done", "text": "hello", "usage": usage}),
    ]);
    let streamed = openai("/v1/audio/transcriptions", STREAM, &stream);
    for metered in [heard, streamed] {
        assert_eq!((&metered["usage"], &metered["basis"]), (&expected, &json!("measured")));
    }
    let usage = json!({"input_tokens": 50, "output_tokens": 60, "total_tokens": 110, "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}});
    let stream = sse(&[json!({"type": "image_generation.completed", "b64_json": "AAAA", "usage": usage})]);
    let drawn = openai("/v1/images/generations", STREAM, &stream);
    assert_eq!((&drawn["usage"]["input_image"], &drawn["basis"]), (&json!(40), &json!("measured")));
}

#[test]
fn results_of_a_batch_are_charged_once_by_its_name_and_at_its_rates() {
    let line = |id: &str, model: &str, input: u64| {
        json!({"custom_id": id, "result": {"type": "succeeded", "message": {"id": format!("msg_{id}"), "type": "message", "model": model,
            "content": [{"type": "text", "text": "hello"}],
            "usage": {"input_tokens": input, "output_tokens": 5, "cache_read_input_tokens": 2, "service_tier": "batch"}}}})
    };
    let failed = json!({"custom_id": "c", "result": {"type": "errored", "error": {"type": "error", "error": {"type": "invalid_request_error"}}}});
    let lines = [
        line("a", "claude-sonnet-4-5", 10),
        failed,
        line("b", "claude-haiku-4-5", 100),
        line("d", "claude-sonnet-4-5", 20),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    for content_type in ["application/x-jsonl", "application/binary", "application/jsonl"] {
        let metered = get("api.anthropic.com", "/v1/messages/batches/msgbatch_1/results", content_type, &lines);
        assert_eq!((&metered["billing"], &metered["id"]), (&json!("Once"), &json!("msgbatch_1")), "{content_type}");
        assert_eq!((&metered["basis"], &metered["tier"]), (&json!("measured"), &json!("batch")));
        assert_eq!(metered["usage"], json!({"input_uncached": 130, "cache_read": 6, "output_text": 15}));
        assert_eq!(
            metered["parts"],
            json!([
                {"model": "claude-sonnet-4-5", "usage": {"input_uncached": 30, "cache_read": 4, "output_text": 10}},
                {"model": "claude-haiku-4-5", "usage": {"input_uncached": 100, "cache_read": 2, "output_text": 5}},
            ])
        );
    }
    // What is cut short is not all of it.
    let cut = get(
        "api.anthropic.com",
        "/v1/messages/batches/msgbatch_1/results",
        "application/binary",
        &lines[..lines.len() - 30],
    );
    assert!(cut["basis"] == "floor" && cut["usage"]["input_uncached"] == 110, "{cut}");

    let line = |id: &str, body: &Value| json!({"id": "batch_req_1", "custom_id": id, "error": null, "response": {"status_code": 200, "body": body}});
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "prompt_tokens_details": {"cached_tokens": 4}});
    let chat = json!({"id": "c", "object": "chat.completion", "model": "gpt-4o-mini-2024-07-18", "choices": [], "usage": usage});
    let failed = json!({"id": "batch_req_2", "custom_id": "x", "response": {"status_code": 400, "body": {"error": {"message": "no"}}}});
    let lines = format!("{}\n{failed}\n{}", line("a", &chat), line("b", &chat));
    for (host, path) in
        [("api.openai.com", "/v1/files/file-1/content"), ("api.groq.com", "/openai/v1/files/file-1/content")]
    {
        let metered = get(host, path, "application/octet-stream", &lines);
        assert_eq!(
            (&metered["billing"], &metered["id"], &metered["tier"]),
            (&json!("Once"), &json!("file-1"), &json!("batch"))
        );
        assert_eq!(
            (&metered["usage"], &metered["basis"]),
            (&json!({"input_uncached": 12, "cache_read": 8, "output_text": 10}), &json!("measured"))
        );
    }

    let line = json!({"key": "a", "response": {"candidates": [{"finishReason": "STOP"}], "modelVersion": "gemini-2.5-flash",
        "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5}}});
    let path = "/download/v1beta/files/batch-1:download?alt=media";
    let metered = get("generativelanguage.googleapis.com", path, "application/octet-stream", &format!("{line}\n"));
    assert_eq!(
        (&metered["billing"], &metered["usage"]),
        (&json!("Once"), &json!({"input_uncached": 10, "output_text": 5}))
    );

    // Other files cost nothing.
    for text in
        ["{\"a\": 1}\n{\"b\": 2}\n", "plain text", "", "{\"usage\": {\"prompt_tokens\": 5, \"total_tokens\": 5}}"]
    {
        let metered = get("api.openai.com", "/v1/files/file-1/content", "application/octet-stream", text);
        assert_eq!((&metered["billing"], &metered["basis"]), (&json!("Free"), &json!("none")), "{text}");
    }
}
