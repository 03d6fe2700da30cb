//! Calls on WebSockets.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    meter::{Meter, Socket},
    wire::{Direction, End, Ending, Event, Message, RequestHead},
};

/// Runs messages through a socket and gives what each call came to.
fn calls(target: &str, messages: &[(Direction, Value)]) -> Vec<Value> {
    let host = if target.contains("google") { "generativelanguage.googleapis.com" } else { "api.openai.com" };
    let head =
        RequestHead { method: "GET".into(), target: target.into(), host: Some(host.into()), ..RequestHead::default() };
    let mut socket = Socket::new(&head);
    let (mut meters, mut done) = (BTreeMap::new(), Vec::new());
    let mut take = |call: u64, event: Event<'_>| match event {
        Event::Request(head) => {
            meters.insert(call, Meter::new(head));
        }
        Event::End(end) => {
            let metered = meters.remove(&call).expect("an open call").finish(end);
            done.push(json!({
                "model": metered.model(), "id": metered.response_id, "usage": metered.usage,
                "basis": metered.basis, "billing": format!("{:?}", metered.billing),
            }));
        }
        event => meters.get_mut(&call).expect("an open call").on(&event),
    };
    for (direction, message) in messages {
        let data = message.to_string();
        socket.message(*direction, &Message { event: None, data: data.as_bytes(), truncated: false }, &mut take);
    }
    socket.close(End { how: Ending::Complete, lost: 0 }, &mut take);
    assert!(meters.is_empty());
    done
}

fn ask(message: Value) -> (Direction, Value) {
    (Direction::Request, message)
}

fn tell(message: Value) -> (Direction, Value) {
    (Direction::Response, message)
}

fn response(kind: &str, id: &str, usage: impl Into<Value>) -> (Direction, Value) {
    let status = kind.rsplit('.').next().unwrap_or_default();
    let usage: Value = usage.into();
    let response = json!({"id": id, "object": "response", "status": status, "model": "gpt-5.1-codex", "usage": usage});
    tell(json!({"type": kind, "response": response}))
}

fn create(extra: &Value) -> (Direction, Value) {
    let input = json!([{"role": "user", "content": "Fix the bug"}]);
    let mut body = json!({"type": "response.create", "model": "gpt-5.1-codex", "input": input});
    body.as_object_mut().expect("a map").extend(extra.as_object().expect("a map").clone());
    ask(body)
}

fn used(input: u64) -> Value {
    json!({"input_tokens": input, "output_tokens": 50, "total_tokens": input + 50,
        "input_tokens_details": {"cached_tokens": 10}, "output_tokens_details": {"reasoning_tokens": 20}})
}

#[test]
fn each_response_is_a_call_and_warming_up_is_free() {
    let nothing = json!({});
    let error = json!({"type": "error", "status": 400, "error": {"type": "invalid_request_error", "message": "no"}});
    let done = calls(
        "/v1/responses",
        &[
            create(&json!({"generate": false})),
            response("response.created", "resp_0", ()),
            response("response.completed", "resp_0", used(10)),
            create(&json!({"previous_response_id": "resp_0"})),
            response("response.created", "resp_1", ()),
            tell(json!({"type": "response.output_text.delta", "delta": "It is fixed"})),
            response("response.completed", "resp_1", used(110)),
            create(&nothing),
            response("response.created", "resp_2", ()),
            response("response.incomplete", "resp_2", used(60)),
            create(&nothing),
            tell(error),
            create(&nothing),
            response("response.created", "resp_3", ()),
            tell(json!({"type": "response.output_text.delta", "delta": "Only the beginning of an answer"})),
        ],
    );
    let text = |call: &Value, name: &str| call[name].as_str().unwrap_or("-").to_owned();
    let seen: Vec<_> =
        done.iter().map(|call| ["id", "billing", "basis"].map(|name| text(call, name)).join(" ")).collect();
    assert_eq!(
        seen,
        [
            "resp_0 Free none",
            "resp_1 Charge measured",
            "resp_2 Charge measured",
            "- Free none",
            "resp_3 Charge estimated"
        ]
    );
    assert_eq!(done[1]["usage"], json!({"input_uncached": 100, "cache_read": 10, "output_text": 30, "reasoning": 20}));
    assert!(done[4]["usage"]["output_text"].as_u64().is_some_and(|tokens| tokens >= 6), "{}", done[4]);
}

#[test]
fn realtime_answers_are_calls_also_when_nobody_asked_by_a_message() {
    let usage = json!({
        "total_tokens": 253, "input_tokens": 132, "output_tokens": 121,
        "input_token_details": {"text_tokens": 100, "audio_tokens": 32, "cached_tokens": 64,
            "cached_tokens_details": {"text_tokens": 54, "audio_tokens": 10}},
        "output_token_details": {"text_tokens": 30, "audio_tokens": 91},
    });
    let heard = json!({"type": "tokens", "total_tokens": 22, "input_tokens": 13, "output_tokens": 9,
        "input_token_details": {"text_tokens": 0, "audio_tokens": 13}});
    let begun = |id: &str| tell(json!({"type": "response.created", "response": {"id": id, "status": "in_progress"}}));
    let ended = |id: &str| {
        let response = json!({"id": id, "object": "realtime.response", "status": "completed", "usage": usage});
        tell(json!({"type": "response.done", "response": response}))
    };
    let done = calls(
        "/v1/realtime?model=gpt-realtime",
        &[
            ask(
                json!({"type": "session.update", "session": {"audio": {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}}}}),
            ),
            tell(
                json!({"type": "conversation.item.input_audio_transcription.completed", "transcript": "hello", "usage": heard}),
            ),
            begun("resp_a"),
            tell(json!({"type": "response.output_audio.delta", "response_id": "resp_a", "delta": "AAAA"})),
            ask(json!({"type": "response.create", "response": {"conversation": "none"}})),
            begun("resp_b"),
            ended("resp_a"),
            ended("resp_b"),
        ],
    );
    let models: Vec<_> = done.iter().map(|call| (call["model"].as_str(), call["id"].as_str())).collect();
    let expected = [
        (Some("gpt-4o-mini-transcribe"), None),
        (Some("gpt-realtime"), Some("resp_a")),
        (Some("gpt-realtime"), Some("resp_b")),
    ];
    assert_eq!(models, expected);
    assert_eq!(done[0]["usage"], json!({"input_audio": 13, "output_text": 9}));
    assert_eq!(
        done[1]["usage"],
        json!({"cache_read": 64, "input_audio": 22, "input_uncached": 46, "output_audio": 91, "output_text": 30})
    );
    assert!(done.iter().all(|call| call["basis"] == "measured"), "{done:?}");
}

#[test]
fn turns_of_the_live_api_are_calls() {
    let target = "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent";
    let usage = json!({"promptTokenCount": 9, "responseTokenCount": 4, "totalTokenCount": 13});
    let turns = json!([{"role": "user", "parts": [{"text": "hi"}]}]);
    let done = calls(
        target,
        &[
            ask(json!({"setup": {"model": "models/gemini-2.0-flash-live-001"}})),
            tell(json!({"setupComplete": {}})),
            ask(json!({"clientContent": {"turns": turns, "turnComplete": true}})),
            tell(json!({"serverContent": {"modelTurn": {"parts": [{"text": "Hello"}]}}})),
            tell(json!({"serverContent": {"turnComplete": true}, "usageMetadata": usage})),
        ],
    );
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(done[0]["usage"], json!({"input_uncached": 9, "output_text": 4}));
    assert_eq!((&done[0]["basis"], &done[0]["model"]), (&json!("measured"), &json!("gemini-2.0-flash-live-001")));
}

#[test]
fn a_call_of_which_a_message_was_lost_is_a_floor() {
    let head =
        RequestHead { target: "/v1/responses".into(), host: Some("api.openai.com".into()), ..RequestHead::default() };
    let mut socket = Socket::new(&head);
    let (mut meter, mut bases) = (None, Vec::new());
    let mut take = |_: u64, event: Event<'_>| match event {
        Event::Request(head) => meter = Some(Meter::new(head)),
        Event::End(end) => bases.extend(meter.take().map(|meter: Meter| meter.finish(end).basis.name())),
        event => meter.as_mut().expect("an open call").on(&event),
    };
    for is_lossy in [false, true] {
        let steps =
            [create(&json!({})), response("response.created", "r", ()), response("response.completed", "r", used(20))];
        for (index, (direction, message)) in steps.into_iter().enumerate() {
            if is_lossy && index == 2 {
                socket.message(direction, &Message { event: None, data: b"", truncated: true }, &mut take);
            }
            let data = message.to_string();
            socket.message(direction, &Message { event: None, data: data.as_bytes(), truncated: false }, &mut take);
        }
    }
    assert_eq!(bases, ["measured", "floor"]);
}

#[test]
fn hostile_messages_do_no_harm() {
    let many: Vec<_> = (0..100).map(|index| response("response.created", &format!("r{index}"), ())).collect();
    assert_eq!(calls("/v1/responses", &many).len(), 100);
    let odd = [json!([]), json!({"type": 5}), json!({"type": "response.done"}), json!({"serverContent": 1})];
    for target in ["/v1/realtime", "/ws/BidiGenerateContent", "/?%"] {
        let messages: Vec<_> = odd.iter().flat_map(|message| [ask(message.clone()), tell(message.clone())]).collect();
        calls(target, &messages);
    }
}
