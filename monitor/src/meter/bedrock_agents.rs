//! Amazon Bedrock's agents, flows and knowledge bases: each call lets several models work, and tells what they used in its trace, if asked to.
//!
//! Source: the API reference of Amazon Bedrock Agents Runtime ("InvokeAgent", "InvokeInlineAgent", "TracePart", "Metadata").

use std::borrow::Cow;

use base64::Engine as _;

use super::{
    dialect::{Dialect, Purpose, Report, percent_decoded},
    json::Node,
    usage::{Bucket, Usage},
};

pub struct BedrockAgents;

/// Models named by their trace before its figures came.
const ANNOUNCED: usize = 32;

impl Dialect for BedrockAgents {
    fn name(&self) -> &'static str {
        "bedrock"
    }

    fn purpose(&self, method: &str, path: &str) -> Option<Purpose> {
        if method != "POST" {
            return None;
        }
        let path = path.trim_matches('/');
        let first = path.split('/').next().unwrap_or_default();
        if !matches!(
            first,
            "agents"
                | "flows"
                | "retrieveAndGenerate"
                | "retrieveAndGenerateStream"
                | "generateQuery"
                | "knowledgebases"
                | "optimize-prompt"
        ) {
            return None;
        }
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            // An agent of one's own, and one that the request describes.
            ["agents", _, "agentAliases", _, "sessions", _, "text"] | ["agents", _] => Some(Purpose::Generate),
            ["flows", _, "aliases", ..] | ["retrieveAndGenerate" | "retrieveAndGenerateStream" | "generateQuery"] => {
                Some(Purpose::Other)
            }
            ["knowledgebases", _, "retrieve"] | ["optimize-prompt"] => Some(Purpose::Other),
            _ => None,
        }
    }

    fn asks(&self, request: &Node) -> bool {
        ["inputText", "sessionState", "inlineSessionState", "foundationModel"]
            .iter()
            .any(|name| request.get(name).is_some())
    }

    fn model_in_path<'a>(&self, _path: &'a str) -> Option<Cow<'a, str>> {
        None
    }

    fn owns_answers(&self) -> bool {
        true
    }

    /// Chunks are text in base64.
    fn payload<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        const BEGIN: &[u8] = b"\"bytes\":\"";
        let text = memchr::memmem::find(data, BEGIN)
            .and_then(|at| data.get(at + BEGIN.len()..))
            .and_then(|rest| rest.get(..memchr::memchr(b'"', rest)?))
            .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        match text {
            Some(text) => Cow::Owned(serde_json::json!({"text": String::from_utf8_lossy(&text)}).to_string().into()),
            None => Cow::Borrowed(data),
        }
    }

    fn recognizes(&self, _answer: &Node) -> bool {
        false
    }

    fn document(&self, answer: &Node, report: &mut Report) {
        self.message(answer, report);
    }

    fn message(&self, message: &Node, report: &mut Report) {
        let Some(trace) = message.get("trace") else { return };
        // Orchestration, pre- and post-processing, routing: what they have in common is the model that they ask.
        for (_, step) in trace.members() {
            if let Some(input) = step.get("modelInvocationInput") {
                announce(input, report);
            }
            if let Some(output) = step.get("modelInvocationOutput") {
                take_output(output, report);
            }
        }
    }

    fn has_text(&self, event: Option<&str>) -> bool {
        event == Some("chunk")
    }
}

fn trace_id(node: &Node) -> &str {
    node.get("traceId").and_then(Node::text).unwrap_or_default()
}

fn announce(input: &Node, report: &mut Report) {
    let Some(model) = input.get("foundationModel").and_then(Node::text) else { return };
    if report.announced.len() >= ANNOUNCED {
        report.announced.remove(0);
    }
    report.announced.push((trace_id(input).into(), percent_decoded(model).into_owned().into()));
}

fn take_output(output: &Node, report: &mut Report) {
    let Some(usage) = output.path(&["metadata", "usage"]) else { return };
    if usage.get("inputTokens").is_none() && usage.get("outputTokens").is_none() {
        return;
    }
    let mut used = Usage::default();
    used.set(Bucket::InputUncached, usage.count_of("inputTokens"));
    used.set(Bucket::OutputText, usage.count_of("outputTokens"));
    let id = trace_id(output);
    let announced = report.announced.iter().rev().find(|(trace, _)| **trace == *id).map(|(_, model)| model.clone());
    let model = announced.unwrap_or_default();
    report.add_part(&model, &used);
    (report.is_final, report.is_sum) = (true, true);
    if !model.is_empty() {
        report.model = Some(model);
    }
}
