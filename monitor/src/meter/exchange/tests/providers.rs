//! What each provider does otherwise than the others.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{STREAM, ask_anthropic, exchange, exchange_with_hole, sse};
use crate::{
    meter::{Meter, Unit},
    wire::{End, Ending, Event, Field, Message, RequestHead},
};

const JSON: &str = "application/json";

fn chat(host: &str, usage: &Value) -> Value {
    let request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    let answer = json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [], "usage": usage});
    exchange(host, "/v1/chat/completions", &request, JSON, &answer.to_string())
}

fn openai(path: &str, request: &Value, answer: &Value) -> Value {
    exchange("api.openai.com", path, request, JSON, &answer.to_string())
}

fn is_unknown(metered: &Value) -> bool {
    metered["billing"] == "Unknown" && metered["basis"] == "floor"
}

// OpenAI and those who speak like it.

#[test]
fn groq_reports_beside_the_usual_place() {
    let chunk = |finish: Option<&str>, extra: Value| {
        json!({
            "id": "c", "object": "chat.completion.chunk", "model": "m", "x_groq": extra,
            "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}],
        })
    };
    let usage = json!({"id": "r", "usage": {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}});
    let answer = sse(&[chunk(None, json!({"id": "r"})), chunk(Some("stop"), usage)]) + "data: [DONE]\n\n";
    let request = json!({"model": "m", "stream": true, "messages": []});
    let metered = exchange("api.groq.com", "/openai/v1/chat/completions", &request, STREAM, &answer);
    assert_eq!(metered["usage"], json!({"input_uncached": 40, "output_text": 5}));
    assert_eq!((&metered["basis"], &metered["provider"]), (&json!("measured"), &json!("groq")));
}

#[test]
fn caches_are_counted_in_many_places() {
    let expected = json!({"cache_read": 64, "input_uncached": 36, "output_text": 5});
    for cached in [
        json!({"prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}),
        json!({"num_cached_tokens": 64}),
        json!({"cached_tokens": 64}),
        json!({"prompt_tokens_details": {"cached_tokens": 64}, "prompt_cache_hit_tokens": 64}),
    ] {
        let mut usage = json!({"prompt_tokens": 100, "completion_tokens": 5, "total_tokens": 105});
        usage.as_object_mut().expect("a map").extend(cached.as_object().expect("a map").clone());
        assert_eq!(chat("gateway.example", &usage)["usage"], expected, "{usage}");
    }
}

#[test]
fn reasoning_as_a_member_of_its_own_is_inside_unless_the_total_says_otherwise() {
    let usage = |total: u64| json!({"prompt_tokens": 10, "completion_tokens": 30, "total_tokens": total, "reasoning_tokens": 20});
    let inside = chat("sglang.example", &usage(40));
    assert_eq!(inside["usage"], json!({"input_uncached": 10, "output_text": 10, "reasoning": 20}));
    let beside = chat("api.x.ai", &usage(60));
    assert_eq!(beside["usage"], json!({"input_uncached": 10, "output_text": 30, "reasoning": 20}));
}

#[test]
fn perplexity_counts_research_beside_the_completion() {
    let usage = json!({
        "prompt_tokens": 33, "completion_tokens": 100, "total_tokens": 133, "citation_tokens": 50, "num_search_queries": 18,
        "reasoning_tokens": 700, "cost": {"total_cost": 0.25},
    });
    let metered = chat("api.perplexity.ai", &usage);
    assert_eq!(metered["usage"], json!({"input_uncached": 33, "output_text": 150, "reasoning": 700}));
    assert_eq!((&metered["units"]["web_searches"], &metered["basis"]), (&json!(18), &json!("provider")));
}

#[test]
fn xai_reports_its_price_and_what_its_tools_did() {
    let usage = json!({
        "prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 130, "cost_in_usd_ticks": 5_000_000,
        "completion_tokens_details": {"reasoning_tokens": 20}, "prompt_tokens_details": {"cached_tokens": 40},
        "server_side_tool_usage_details": {"web_search_calls": 2, "x_search_calls": 1},
    });
    let metered = chat("api.x.ai", &usage);
    assert_eq!(metered["usage"], json!({"cache_read": 40, "input_uncached": 60, "output_text": 10, "reasoning": 20}));
    assert_eq!(metered["units"], json!({"web_searches": 2, "social_searches": 1}));
    assert_eq!((&metered["basis"], &metered["provider"]), (&json!("provider"), &json!("xai")));
}

#[test]
fn databricks_has_the_cache_inside_the_prompt() {
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 60, "cache_creation_input_tokens": 30});
    let metered = chat("adb-1.azuredatabricks.net", &usage);
    assert_eq!(metered["usage"], json!({"cache_read": 60, "cache_write": 30, "input_uncached": 10, "output_text": 5}));
}

#[test]
fn mistral_counts_seconds_and_pages() {
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "prompt_audio_seconds": 7, "num_cached_tokens": 4});
    let metered = chat("api.mistral.ai", &usage);
    assert_eq!(metered["units"], json!({"input_audio_seconds": 7}));
    assert_eq!(metered["usage"], json!({"cache_read": 4, "input_uncached": 6, "output_text": 5}));
    let none = json!({"prompt_tokens": 10, "completion_tokens": 5, "prompt_audio_seconds": {}});
    assert_eq!(chat("api.mistral.ai", &none)["units"], json!({}));
    let request =
        json!({"model": "mistral-ocr-latest", "document": {"type": "document_url", "document_url": "https://x"}});
    let answer =
        json!({"pages": [], "model": "mistral-ocr-2505", "usage_info": {"pages_processed": 3, "doc_size_bytes": 9}});
    let read = exchange("api.mistral.ai", "/v1/ocr", &request, JSON, &answer.to_string());
    assert_eq!((&read["units"], &read["basis"]), (&json!({"document_pages": 3}), &json!("measured")));
}

#[test]
fn workers_ai_has_an_envelope_and_the_model_in_the_path() {
    let answer = json!({"success": true, "errors": [], "result": {"response": "hi", "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}}});
    let path = "/client/v4/accounts/a/ai/run/@cf/meta/llama-3.1-8b-instruct";
    let metered = exchange("api.cloudflare.com", path, &json!({"prompt": "hi"}), JSON, &answer.to_string());
    assert_eq!(metered["usage"], json!({"input_uncached": 9, "output_text": 2}));
    assert_eq!((&metered["model"], &metered["basis"]), (&json!("@cf/meta/llama-3.1-8b-instruct"), &json!("measured")));
}

#[test]
fn vllm_is_known_by_its_choices_where_the_host_tells_nothing() {
    let answer = json!({"id": "c", "object": "chat.completion", "model": "m", "choices": [{"index": 0, "finish_reason": "stop", "stop_reason": null}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
    let request = json!({"model": "m", "messages": []});
    let at =
        |host: &str| exchange(host, "/v1/chat/completions", &request, JSON, &answer.to_string())["provider"].clone();
    assert_eq!((at("localhost:8000"), at("api.openai.com")), (json!("vllm"), json!("openai")));
}

#[test]
fn open_router_with_a_key_of_ones_own_has_two_bills() {
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 5, "cost": 0.01, "is_byok": true, "cost_details": {"upstream_inference_cost": 0.2}});
    assert_eq!(chat("openrouter.ai", &usage)["basis"], json!("provider"));
}

#[test]
fn a_form_names_its_model() {
    let mut meter = Meter::new(&RequestHead {
        method: "POST".into(),
        target: "/v1/audio/transcriptions".into(),
        host: Some("api.openai.com".into()),
        ..RequestHead::default()
    });
    meter.on(&Event::RequestField(Field { name: "file", value: b"", is_file: true }));
    meter.on(&Event::RequestField(Field { name: "model", value: b"whisper-1", is_file: false }));
    meter.on(&Event::RequestEnd);
    meter.on(&Event::ResponseBody(br#"{"text": "hi", "usage": {"type": "duration", "seconds": 3}}"#));
    let metered = meter.finish(End { how: Ending::Complete, lost: 0 });
    assert_eq!((metered.model(), metered.basis.name()), (Some("whisper-1"), "measured"));
    assert_eq!(metered.units.get(Unit::InputAudioSeconds), 3);
}

#[test]
fn embeddings_may_be_counted_by_their_total() {
    let request = json!({"model": "voyage-3", "input": ["a"]});
    let answer = json!({"object": "list", "data": [], "model": "voyage-3", "usage": {"total_tokens": 9}}).to_string();
    let metered = exchange("api.voyageai.com", "/v1/embeddings", &request, JSON, &answer);
    assert_eq!((&metered["usage"], &metered["basis"]), (&json!({"input_uncached": 9}), &json!("measured")));
}

#[test]
fn images_and_speech_are_not_free() {
    let request = json!({"model": "dall-e-3", "prompt": "a cat"});
    let image = openai("/v1/images/generations", &request, &json!({"created": 1, "data": [{"url": "https://x"}]}));
    assert!(is_unknown(&image) && image["units"]["images"] == 1, "{image}");
    let counted = json!({
        "created": 1, "data": [{"b64_json": "AAAA"}],
        "usage": {"input_tokens": 50, "output_tokens": 60, "total_tokens": 110,
            "input_tokens_details": {"text_tokens": 10, "image_tokens": 40}},
    });
    let counted = openai("/v1/images/generations", &request, &counted);
    assert_eq!(counted["usage"], json!({"input_image": 40, "input_uncached": 10, "output_text": 60}));
    assert_eq!(counted["basis"], json!("measured"));
    let speech = openai("/v1/audio/speech", &json!({"model": "tts-1", "input": "hi"}), &json!({}));
    let batch = openai("/v1/batches", &json!({"input_file_id": "f"}), &json!({"id": "batch_1", "object": "batch"}));
    assert!(is_unknown(&speech) && is_unknown(&batch), "{speech} {batch}");
    let usage = json!({"text": "hi", "usage": {"type": "duration", "seconds": 12.4}});
    let heard = openai("/v1/audio/transcriptions", &json!({"model": "whisper-1"}), &usage);
    assert_eq!(heard["units"], json!({"input_audio_seconds": 13}));
}

#[test]
fn searches_that_openai_runs_are_units() {
    let search = |action: &str| json!({"type": "web_search_call", "action": {"type": action}});
    let answer = json!({
        "id": "resp_1", "object": "response", "status": "completed", "model": "gpt-5",
        "output": [search("search"), search("open_page"), {"type": "file_search_call"}, {"type": "message"}],
        "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7},
    });
    let metered = openai("/v1/responses", &json!({"model": "gpt-5", "input": "x"}), &answer);
    assert_eq!(metered["units"], json!({"file_searches": 1, "web_searches": 1}));
}

#[test]
fn what_looks_at_a_call_again_is_not_another_one() {
    let answer = json!({"id": "resp_1", "object": "response", "status": "cancelled", "model": "gpt-5",
        "usage": {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}});
    let cancelled = openai("/v1/responses/resp_1/cancel", &json!({}), &answer);
    assert_eq!((&cancelled["billing"], &cancelled["id"]), (&json!("Once"), &json!("resp_1")));
    let made = openai("/v1/responses", &json!({"model": "gpt-5", "input": "x"}), &answer);
    assert_eq!(made["billing"], json!("Charge"));
}

#[test]
fn azure_names_the_model_in_the_path_when_nothing_else_does() {
    let request = json!({"messages": [{"role": "user", "content": "hi"}]});
    let metered =
        exchange("x.openai.azure.com", "/openai/deployments/gpt-4o/chat/completions", &request, STREAM, "data: {}\n\n");
    assert_eq!((&metered["model"], &metered["basis"]), (&json!("gpt-4o"), &json!("estimated")));
}

// Whether it is a model call at all.

#[test]
fn other_apis_have_messages_and_runs_too() {
    for (host, path, request) in [
        ("discord.com", "/api/v10/channels/1/messages", json!({"content": "hello"})),
        ("ci.example", "/api/runs", json!({"name": "build"})),
        ("api.example", "/v1/chat", json!({"room": 5, "text": "hello"})),
        ("discord.com", "/api/v10/interactions", json!({"type": 4, "data": {"content": "hello"}})),
    ] {
        let metered = exchange(host, path, &request, JSON, r#"{"id": "1"}"#);
        assert_eq!((&metered["billing"], &metered["basis"]), (&json!("Free"), &json!("none")), "{host}{path}");
    }
}

#[test]
fn an_answer_tells_what_its_request_did_not() {
    let answer = json!({"object": "chat.completion", "model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}});
    let metered = exchange("gateway.example", "/ask", &json!({"q": 1}), JSON, &answer.to_string());
    assert_eq!((&metered["billing"], &metered["basis"]), (&json!("Charge"), &json!("measured")));
}

#[test]
fn an_error_before_anything_was_made_is_free_also_in_a_stream() {
    let error = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let metered =
        exchange("api.anthropic.com", "/v1/messages", &ask_anthropic(), STREAM, &sse(std::slice::from_ref(&error)));
    assert_eq!(metered["billing"], json!("Free"));
    let text = json!({"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hello there"}});
    let metered = exchange("api.anthropic.com", "/v1/messages", &ask_anthropic(), STREAM, &sse(&[text, error]));
    assert_eq!((&metered["billing"], &metered["basis"]), (&json!("Charge"), &json!("estimated")));
}

// Anthropic.

#[test]
fn compacting_is_billed_beside_the_totals_and_messages_within_them() {
    let iterations = json!([
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1000},
    ]);
    let usage = json!({"input_tokens": 23_000, "output_tokens": 1000, "iterations": iterations});
    let answer = json!({"id": "m", "type": "message", "model": "claude-opus-4-6", "usage": usage});
    let expected = json!({"input_uncached": 203_000, "output_text": 4500});
    let whole = exchange("api.anthropic.com", "/v1/messages", &ask_anthropic(), JSON, &answer.to_string());
    assert_eq!(whole["usage"], expected);
    // The same, told twice in a stream, with fewer fields the second time.
    let delta = json!({"output_tokens": 1000, "iterations": iterations});
    let stream = sse(&[
        json!({"type": "message_start", "message": answer}),
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": delta}),
    ]);
    assert_eq!(exchange("api.anthropic.com", "/v1/messages", &ask_anthropic(), STREAM, &stream)["usage"], expected);
}

#[test]
fn what_another_model_did_is_told_apart() {
    let answer = |iteration: Value| {
        let usage = json!({"input_tokens": 10, "output_tokens": 5, "iterations": [iteration]});
        let answer = json!({"id": "m", "type": "message", "model": "claude-opus-4-6", "usage": usage});
        exchange("api.anthropic.com", "/v1/messages", &ask_anthropic(), JSON, &answer.to_string())
    };
    let told =
        answer(json!({"type": "advisor_message", "model": "claude-opus-4-6", "input_tokens": 100, "output_tokens": 7}));
    assert_eq!(
        (&told["basis"], &told["usage"]),
        (&json!("measured"), &json!({"input_uncached": 110, "output_text": 12}))
    );
    let untold = answer(json!({"type": "advisor_message", "model": "x"}));
    assert_eq!((&untold["basis"], &untold["usage"]["input_uncached"]), (&json!("floor"), &json!(10)));
}

// Google.

const GEMINI: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent";

fn gemini_chunks() -> Vec<Value> {
    let chunk = |text: &str, finish: Option<&str>, output: u64| {
        json!({
            "candidates": [{"content": {"parts": [{"text": text}], "role": "model"}, "finishReason": finish}],
            "usageMetadata": {
                "promptTokenCount": 1000, "cachedContentTokenCount": 600, "candidatesTokenCount": output,
                "thoughtsTokenCount": 20, "toolUsePromptTokenCount": 7,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 700}, {"modality": "AUDIO", "tokenCount": 300}],
                "cacheTokensDetails": [{"modality": "TEXT", "tokenCount": 400}, {"modality": "AUDIO", "tokenCount": 200}],
                "serviceTier": "flex",
            },
            "modelVersion": "gemini-2.5-flash", "responseId": "r1",
        })
    };
    vec![chunk("Hello", None, 1), chunk(" there", None, 2), chunk("", Some("STOP"), 3)]
}

fn gemini(path: &str, content_type: &str, answer: &str) -> Value {
    let request = json!({"contents": [{"parts": [{"text": "hi"}]}]});
    exchange("generativelanguage.googleapis.com", path, &request, content_type, answer)
}

#[test]
fn gemini_streams_events_or_an_array_and_the_last_one_counts() {
    let events = gemini(&format!("{GEMINI}?alt=sse"), STREAM, &sse(&gemini_chunks()));
    let array = gemini(GEMINI, JSON, &Value::from(gemini_chunks()).to_string());
    assert_eq!(events, array);
    insta::assert_json_snapshot!(events, @r#"
    {
      "basis": "measured",
      "billing": "Charge",
      "id": "r1",
      "model": "gemini-2.5-flash",
      "provider": "google",
      "stream": true,
      "tier": "flex",
      "units": {},
      "usage": {
        "cache_read": 600,
        "input_audio": 100,
        "input_tool": 7,
        "input_uncached": 300,
        "output_text": 3,
        "reasoning": 20
      }
    }
    "#);
}

#[test]
fn an_array_that_is_cut_short_is_estimated() {
    let whole = Value::from(gemini_chunks()[..2].to_vec()).to_string();
    let cut = gemini(GEMINI, JSON, whole.trim_end_matches(']'));
    assert_eq!((&cut["basis"], &cut["usage"]["cache_read"]), (&json!("estimated"), &json!(600)));
}

#[test]
fn code_assist_wraps_gemini() {
    let request = json!({"model": "gemini-2.5-pro", "request": {"contents": []}});
    let wrapped: Vec<Value> = gemini_chunks().into_iter().map(|chunk| json!({"response": chunk})).collect();
    let path = "/v1internal:streamGenerateContent?alt=sse";
    let metered = exchange("cloudcode-pa.googleapis.com", path, &request, STREAM, &sse(&wrapped));
    assert_eq!((&metered["usage"]["cache_read"], &metered["basis"]), (&json!(600), &json!("measured")));
}

#[test]
fn claude_at_vertex_answers_as_anthropic() {
    let answer = json!({"id": "m", "type": "message", "model": "claude-opus-4-6", "usage": {"input_tokens": 3, "output_tokens": 4}});
    let path = "/v1/projects/p/locations/l/publishers/anthropic/models/claude-opus-4-6:rawPredict";
    let request = json!({"anthropic_version": "vertex-2023-10-16", "messages": []});
    let metered = exchange("us-east5-aiplatform.googleapis.com", path, &request, JSON, &answer.to_string());
    assert_eq!(metered["usage"], json!({"input_uncached": 3, "output_text": 4}));
    assert_eq!((&metered["provider"], &metered["model"]), (&json!("vertex"), &json!("claude-opus-4-6")));
}

// Bedrock.

/// A stream as `wire` will hand it on when it takes AWS event streams apart: the payloads.
fn bedrock_stream(verb: &str, payloads: &[Value]) -> crate::meter::Metered {
    let mut meter = Meter::new(&RequestHead {
        method: "POST".into(),
        target: format!("/model/us.anthropic.claude-3-5-sonnet-20240620-v1%3A0/{verb}").into(),
        host: Some("bedrock-runtime.us-east-1.amazonaws.com".into()),
        ..RequestHead::default()
    });
    meter.on(&Event::RequestBody(br#"{"messages": [{"role": "user", "content": [{"text": "hi"}]}]}"#));
    meter.on(&Event::RequestEnd);
    for payload in payloads {
        let data = payload.to_string();
        meter.on(&Event::Message(Message { event: None, data: data.as_bytes(), truncated: false }));
    }
    meter.finish(End { how: Ending::Complete, lost: 0 })
}

fn wrapped(inner: &Value) -> Value {
    use base64::Engine as _;
    json!({"bytes": base64::engine::general_purpose::STANDARD.encode(inner.to_string()), "p": "abc"})
}

#[test]
fn the_makers_figures_come_before_those_of_bedrock() {
    let metered = bedrock_stream(
        "invoke-with-response-stream",
        &[
            wrapped(
                &json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "model": "claude-3-5-sonnet",
                "usage": {"input_tokens": 392, "output_tokens": 8}}}),
            ),
            wrapped(
                &json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 133}}),
            ),
            wrapped(&json!({"type": "message_stop",
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 392, "outputTokenCount": 97}})),
        ],
    );
    assert_eq!(serde_json::to_value(metered.usage).expect("JSON"), json!({"input_uncached": 392, "output_text": 133}));
    assert_eq!(metered.basis.name(), "measured");
    // Sold under the name in the path.
    assert_eq!(metered.model(), Some("us.anthropic.claude-3-5-sonnet-20240620-v1:0"));
}

#[test]
fn where_the_maker_says_nothing_bedrock_does() {
    let metered = bedrock_stream(
        "invoke-with-response-stream",
        &[
            wrapped(&json!({"outputs": [{"text": "hello"}]})),
            wrapped(&json!({"outputs": [{"text": ""}],
                "amazon-bedrock-invocationMetrics": {"inputTokenCount": 6, "outputTokenCount": 10}})),
        ],
    );
    assert_eq!(serde_json::to_value(metered.usage).expect("JSON"), json!({"input_uncached": 6, "output_text": 10}));
}

#[test]
fn converse_counts_the_cache_beside_the_input_and_by_its_lifetime() {
    let metered = bedrock_stream(
        "converse-stream",
        &[
            json!({"contentBlockDelta": {"delta": {"text": "hello"}}}),
            json!({"metrics": {"latencyMs": 1}, "usage": {
                "inputTokens": 4, "outputTokens": 10, "cacheReadInputTokens": 5, "cacheReadInputTokenCount": 5,
                "cacheWriteInputTokens": 2701, "cacheDetails": [{"ttl": "1h", "inputTokens": 700}],
            }}),
        ],
    );
    assert_eq!(
        serde_json::to_value(metered.usage).expect("JSON"),
        json!({"input_uncached": 4, "cache_read": 5, "cache_write_5m": 2001, "cache_write_1h": 700, "output_text": 10})
    );
}

#[test]
fn a_stream_that_cannot_be_taken_apart_is_a_floor() {
    let host = "bedrock-runtime.us-east-1.amazonaws.com";
    let path = "/model/amazon.nova-lite-v1%3A0/converse-stream";
    let request = json!({"messages": [{"role": "user", "content": [{"text": "hi"}]}]});
    let metered = exchange(host, path, &request, "application/vnd.amazon.eventstream", "\u{0}\u{0}{}");
    assert_eq!((&metered["basis"], &metered["billing"]), (&json!("floor"), &json!("Charge")));
}

// Cohere, Ollama.

#[test]
fn cohere_is_billed_by_what_it_bills() {
    let stream = sse(&[
        json!({"type": "message-start", "id": "c1"}),
        json!({"type": "message-end", "delta": {"usage": {
            "billed_units": {"input_tokens": 12, "output_tokens": 65}, "tokens": {"input_tokens": 212, "output_tokens": 65}}}}),
    ]);
    let request = json!({"model": "command-r", "messages": []});
    let metered = exchange("api.cohere.com", "/v2/chat", &request, STREAM, &stream);
    assert_eq!((&metered["usage"], &metered["id"]), (&json!({"input_uncached": 12, "output_text": 65}), &json!("c1")));
    let ranked = json!({"id": "c2", "results": [], "meta": {"billed_units": {"search_units": 2}}}).to_string();
    let ranked = exchange("api.cohere.com", "/v2/rerank", &request, JSON, &ranked);
    assert_eq!((&ranked["units"], &ranked["basis"]), (&json!({"search_units": 2}), &json!("measured")));
}

#[test]
fn a_prompt_that_ollama_had_in_its_cache_makes_the_figures_a_floor() {
    let answer = |prompt: Option<u64>| {
        let answer = json!({"model": "llama3", "message": {"content": "hello"}, "done": true, "prompt_eval_count": prompt, "eval_count": 9});
        exchange("localhost:11434", "/api/chat", &json!({"model": "llama3", "messages": []}), JSON, &answer.to_string())
    };
    assert_eq!((&answer(Some(4))["basis"], &answer(None)["basis"]), (&json!("measured"), &json!("floor")));
    assert_eq!(answer(None)["usage"], json!({"output_text": 9}));
}

// All of them.

proptest! {
    #[test]
    fn a_lost_byte_is_never_called_measured(which in 0_usize..5, at in 0_usize..2000) {
        let gemini_array = Value::from(gemini_chunks()).to_string();
        let request = json!({"model": "m", "contents": [], "messages": []});
        let converse = json!({"output": {}, "stopReason": "end_turn", "usage": {"inputTokens": 4, "outputTokens": 10}}).to_string();
        let cohere = json!({"id": "c", "usage": {"billed_units": {"input_tokens": 12, "output_tokens": 65}}}).to_string();
        let ollama = json!({"model": "m", "message": {}, "done": true, "prompt_eval_count": 4, "eval_count": 9}).to_string();
        let events = sse(&gemini_chunks());
        let (host, path, kind, answer) = [
            ("generativelanguage.googleapis.com", GEMINI, JSON, &gemini_array),
            ("generativelanguage.googleapis.com", GEMINI, STREAM, &events),
            ("bedrock-runtime.us-east-1.amazonaws.com", "/model/amazon.nova-lite-v1%3A0/converse", JSON, &converse),
            ("api.cohere.com", "/v2/chat", JSON, &cohere),
            ("localhost:11434", "/api/chat", JSON, &ollama),
        ][which];
        // In the body: a head that is not whole is the wire's to deal with.
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", answer.len()).len();
        let at = head + at % (answer.len() - 1);
        let metered = exchange_with_hole(host, path, &request, kind, answer, Some(at));
        prop_assert!(metered["basis"] != "measured" && metered["basis"] != "provider", "{metered}");
    }
}
