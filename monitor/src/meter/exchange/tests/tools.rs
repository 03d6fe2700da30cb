//! Calls of tools: by rule, and of MCP servers.

use std::sync::Arc;

use crate::{
    meter::{
        Billing, Kind, Meter, Metered,
        tool::{Rule, Rules},
    },
    wire::{End, Ending, Event, Headers, Message, RequestHead, ResponseHead},
};

fn rules(text: &str) -> Arc<Rules> {
    #[derive(serde::Deserialize)]
    struct All {
        tool: Vec<Rule>,
    }
    let all: All = toml::from_str(text).expect("rules");
    Arc::new(Rules::new(all.tool).expect("rules that make sense"))
}

fn call(rules: &Arc<Rules>, url: (&str, &str), request: &str, status: u16, answer: &[Event<'_>]) -> Metered {
    let head =
        RequestHead { method: "POST".into(), target: url.1.into(), host: Some(url.0.into()), ..RequestHead::default() };
    let mut meter = Meter::with_tools(&head, Arc::clone(rules));
    meter.on(&Event::RequestBody(request.as_bytes()));
    meter.on(&Event::RequestEnd);
    meter.on(&Event::Response(&ResponseHead { status, headers: Headers::default() }));
    answer.iter().for_each(|event| meter.on(event));
    meter.finish(End { how: Ending::Complete, lost: 0 })
}

const SEARCH: &str = r#"
    [[tool]]
    name = "web-search"
    host = "api.search.example"
    path = "/v1/*"
    price_per_call = "0.005"
    price_per_item = "0.0001"
    items = "results"
"#;

fn cost(metered: &Metered) -> Option<String> {
    metered.tool_cost.map(|cost| cost.to_string())
}

#[test]
fn a_rule_prices_calls_and_what_they_found() {
    let rules = rules(SEARCH);
    let found = Event::ResponseBody(br#"{"results": [{"title": "a"}, {"title": "b"}]}"#);
    let metered = call(&rules, ("api.search.example:443", "/v1/search?q=x"), r#"{"q": "x"}"#, 200, &[found]);
    assert_eq!((cost(&metered).as_deref(), metered.basis.name()), (Some("0.0052"), "measured"));
    assert_eq!((&metered.kind, metered.model()), (&Kind::Tool("web-search".into()), Some("web-search")));
    // An answer that is not understood is not called measured, and errors cost nothing.
    let url = ("api.search.example", "/v1/search");
    let metered = call(&rules, url, "{}", 200, &[Event::ResponseBody(b"<html>")]);
    assert_eq!((cost(&metered).as_deref(), metered.basis.name()), (Some("0.005"), "floor"));
    assert_eq!(call(&rules, url, "{}", 429, &[]).billing, Billing::Free);
    assert_eq!(call(&rules, ("api.search.example", "/other"), "{}", 200, &[]).kind, Kind::Model);
}

const MCP: (&str, &str) = ("mcp.example", "/mcp");
const CALL: &str =
    r#"{"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": "get_page", "arguments": {"url": "x"}}}"#;
const RESULT: &[u8] = br#"{"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": "page"}]}}"#;

#[test]
fn mcp_calls_are_calls_of_the_tool() {
    let metered = call(&Arc::default(), MCP, CALL, 200, &[Event::ResponseBody(RESULT)]);
    assert_eq!((&metered.kind, metered.billing), (&Kind::Tool("mcp.example/get_page".into()), Billing::Free));
    let priced = "[[tool]]\nname = \"pages\"\nhost = \"mcp.example\"\nmcp_tool = \"get_*\"\nprice_per_call = \"0.01\"";
    let priced = rules(priced);
    let progress: &[u8] = br#"{"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}"#;
    let message = |data| Event::Message(Message { event: Some("message"), data, truncated: false });
    let metered = call(&priced, MCP, CALL, 200, &[message(progress), message(RESULT)]);
    assert_eq!((&metered.kind, cost(&metered).as_deref()), (&Kind::Tool("pages".into()), Some("0.01")));
    assert!(metered.stream);
    let error: &[u8] = br#"{"jsonrpc": "2.0", "id": 7, "error": {"code": -32602, "message": "Unknown tool"}}"#;
    assert_eq!(call(&priced, MCP, CALL, 200, &[message(error)]).billing, Billing::Free);
    // Other methods of MCP are no calls.
    let list = r#"{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}"#;
    assert_eq!(call(&priced, MCP, list, 200, &[]).kind, Kind::Model);
}
