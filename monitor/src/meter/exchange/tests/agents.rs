//! Calls in which several models work.

use serde_json::{Value, json};

use crate::{
    meter::{Meter, Metered},
    wire::{End, Ending, Event, Headers, Message, RequestHead, ResponseHead},
};

fn agent(payloads: &[(&str, Value)], how: Ending) -> Metered {
    let mut meter = Meter::new(&RequestHead {
        method: "POST".into(),
        target: "/agents/AGENT/agentAliases/ALIAS/sessions/one/text".into(),
        host: Some("bedrock-agent-runtime.us-east-1.amazonaws.com".into()),
        ..RequestHead::default()
    });
    meter.on(&Event::RequestBody(br#"{"inputText": "What is the weather?", "enableTrace": true}"#));
    meter.on(&Event::RequestEnd);
    meter.on(&Event::Response(&ResponseHead { status: 200, headers: Headers::default() }));
    for (event, payload) in payloads {
        let data = payload.to_string();
        meter.on(&Event::Message(Message { event: Some(event), data: data.as_bytes(), truncated: false }));
    }
    meter.finish(End { how, lost: 0 })
}

fn traces(kind: &str, id: &str, model: &str, tokens: (u64, u64)) -> [(&'static str, Value); 2] {
    let part = |step: Value| ("trace", json!({"agentId": "AGENT", "sessionId": "one", "trace": {kind: step}}));
    [
        part(json!({"modelInvocationInput": {"traceId": id, "text": "...", "foundationModel": model}})),
        part(json!({"modelInvocationOutput": {"traceId": id, "rawResponse": {"content": "..."},
            "metadata": {"usage": {"inputTokens": tokens.0, "outputTokens": tokens.1}}}})),
    ]
}

const HAIKU: &str = "anthropic.claude-3-haiku-20240307-v1:0";
const SONNET: &str = "anthropic.claude-3-5-sonnet-20240620-v1:0";

fn conversation() -> Vec<(&'static str, Value)> {
    let mut all = Vec::new();
    all.extend(traces("preProcessingTrace", "a", HAIKU, (100, 10)));
    all.extend(traces("orchestrationTrace", "b", SONNET, (1000, 50)));
    all.push(("chunk", json!({"bytes": "SXQgcmFpbnMu"})));
    all.extend(traces("orchestrationTrace", "c", SONNET, (1200, 60)));
    all
}

#[test]
fn agents_add_up_what_each_model_used() {
    let metered = agent(&conversation(), Ending::Complete);
    assert_eq!(serde_json::to_value(metered.usage).expect("JSON"), json!({"input_uncached": 2300, "output_text": 120}));
    let parts: Vec<_> = metered.parts.iter().map(|part| (&*part.model, part.usage.input_total())).collect();
    assert_eq!(parts, [(HAIKU, 100), (SONNET, 2200)]);
    assert_eq!((metered.basis.name(), metered.provider), ("measured", Some("bedrock")));
}

#[test]
fn a_sum_that_may_go_on_is_not_measured() {
    assert_eq!(agent(&conversation(), Ending::Truncated).basis.name(), "estimated");
}

#[test]
fn an_agent_that_does_not_tell_is_estimated() {
    let metered = agent(&[("chunk", json!({"bytes": "SXQgcmFpbnMgaW4gU2VhdHRsZS4="}))], Ending::Complete);
    assert_eq!(metered.basis.name(), "estimated");
    assert!(metered.usage.output_total() > 3 && metered.usage.input_total() > 3, "{:?}", metered.usage);
}
