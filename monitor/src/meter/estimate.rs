//! Counting tokens ourselves, where the provider does not say.
//!
//! What a provider counts is the text, and beside it what it makes of messages, tools and images ([`family`]). What it does not show it
//! cannot be counted by: hidden reasoning is an allowance, and is said to be one.

mod family;
#[cfg(test)]
mod fit;
mod media;
mod schema;

use family::Tools;
pub use family::{Family, load_vocabularies};
#[cfg(test)]
pub use fit::Seen;
use media::Media;

use super::{
    json::{Node, Observer, Place},
    usage::TokenCount,
};

/// Text of one direction of an exchange: all of it is measured, a bounded part is kept until the exchange ends, in memory only.
#[derive(Debug, Default)]
pub struct Text {
    main: Kept,
    /// Definitions of tools and of the answer's form, as JSON.
    tools: Kept,
    /// Messages, which providers frame with tokens of their own.
    messages: u64,
    /// Calls of tools.
    calls: u64,
    media: Media,
    side: Side,
    /// OpenAI's first way to call a function, which is framed by less.
    is_old_call: bool,
    /// The first message is the system's.
    has_system: bool,
    /// What follows is a summary of reasoning, which is not what the model was paid for.
    in_summary: bool,
    /// What the wire shows is not what the model read or wrote.
    altered: Option<Altered>,
}

/// Whose text it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Side {
    #[default]
    Request,
    Answer,
}

/// Why text that was seen says nothing of what was counted, in the wire's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Altered {
    /// A guardrail put something else in the place of the text.
    Guardrail,
    /// A filter withheld the answer.
    Filter,
}

impl Altered {
    /// As a reason to tell a person.
    pub const fn why(self) -> &'static str {
        match self {
            Self::Guardrail => "a guardrail replaced the text",
            Self::Filter => "a filter withheld the answer",
        }
    }

    fn of(member: &str, text: &[u8]) -> Option<Self> {
        match (member, text) {
            ("stopReason", b"guardrail_intervened") | ("amazon-bedrock-guardrailAction", b"INTERVENED") => {
                Some(Self::Guardrail)
            }
            ("finish_reason", b"content_filter") => Some(Self::Filter),
            _ => None,
        }
    }
}

/// Members of an answer that repeat the request.
fn is_echo(name: &str) -> bool {
    matches!(
        name,
        "instructions" | "input" | "tools" | "chat_history" | "metadata" | "session" | "trace" | "amazon-bedrock-trace"
    )
}

/// Text of which a bounded part is kept.
#[derive(Debug, Default)]
struct Kept {
    /// Grows in pieces, so that little of it is ever moved.
    text: Vec<u8>,
    bytes: u64,
}

/// Bytes that are kept. What is longer is counted by the density of what was kept.
const KEPT: usize = 256 * 1024;
/// Bytes of English text per token: good enough for a running estimate, which the tokenizer replaces.
const BYTES_PER_TOKEN: u64 = 4;

/// Members whose strings are text that a model reads or writes. Others are identifiers, settings, or binary data.
fn is_text(name: &str) -> bool {
    matches!(
        name,
        "content"
            | "delta"
            | "text"
            | "prompt"
            | "input"
            | "system"
            | "instructions"
            | "arguments"
            | "partial_json"
            | "thinking"
            | "reasoning"
            | "reasoning_content"
            | "refusal"
            | "completion"
            | "output"
            | "response"
            | "inputs"
            | "inputText"
            | "outputText"
            | "generation"
            | "generated_text"
            | "query"
            | "name"
            | "tool_plan"
            | "message"
    )
}

/// Members of a request that tell the model what it can call and how it must answer.
fn is_of_tools(name: &str) -> bool {
    matches!(
        name,
        "tools" | "functions" | "toolConfig" | "response_format" | "format" | "output_format" | "generationConfig"
    )
}

/// Names of members that are settings, not told to the model.
fn is_setting(name: &str) -> bool {
    matches!(name, "type" | "strict" | "additionalProperties" | "cache_control" | "$schema" | "id")
}

impl Kept {
    fn push(&mut self, text: &[u8]) {
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        let room = KEPT.saturating_sub(self.text.len());
        self.text.extend_from_slice(text.get(..text.len().min(room)).unwrap_or_default());
    }

    fn tokens(&self, family: &Family) -> TokenCount {
        let kept = String::from_utf8_lossy(&self.text);
        let counted = family.count(&kept);
        match self.text.len() as u64 {
            0 => 0,
            kept if kept < self.bytes => {
                u64::try_from(u128::from(counted) * u128::from(self.bytes) / u128::from(kept)).unwrap_or(u64::MAX)
            }
            _ => counted,
        }
    }
}

impl Text {
    /// Where the text at a place goes.
    fn kept(&mut self, place: Place<'_>) -> Option<&mut Kept> {
        if self.is_echo(place) || (self.in_summary && place.member == "text") {
            return None;
        }
        if is_told(place) {
            Some(&mut self.tools)
        } else if place.is_free || is_text(place.member) {
            Some(&mut self.main)
        } else {
            None
        }
    }

    fn is_echo(&self, place: Place<'_>) -> bool {
        // Responses tell the form of their text there; others have text there.
        let is_form = place.top == "text" && place.member != "text";
        self.side == Side::Answer && (is_form || is_echo(place.top))
    }

    /// Writes the name of a member whose values are told to the model as JSON.
    fn write_name(&mut self, place: Place<'_>) {
        let is_json = place.is_free || is_told(place);
        if is_json && let Some(kept) = self.kept(place) {
            kept.push(b"\"");
            kept.push(place.member.as_bytes());
            kept.push(b"\":\"");
        }
    }
}

impl Observer for Text {
    fn begin(&mut self, place: Place<'_>) {
        self.messages +=
            u64::from(place.member == "role" || (place.top == "instructions" && place.member == "instructions"));
        // Streams name a function once, however many pieces its arguments come in.
        let is_call = place.member == "name" && !place.is_free && !self.is_echo(place) && !is_told(place);
        self.calls += u64::from(is_call);
        self.media.begin(place);
        self.write_name(place);
    }

    fn piece(&mut self, place: Place<'_>, text: &[u8]) {
        self.media.piece(text);
        self.is_old_call |= place.member == "finish_reason" && text == b"function_call";
        self.has_system |= place.member == "role" && self.messages == 1 && text == b"system";
        match place.member {
            "type" => self.in_summary = text == b"summary_text",
            member if self.side == Side::Answer => self.altered = Altered::of(member, text).or(self.altered),
            _ => {}
        }
        if let Some(kept) = self.kept(place) {
            kept.push(text);
        }
    }

    fn end(&mut self, place: Place<'_>) {
        self.media.end(place);
        let is_json = place.is_free || is_told(place);
        if is_json && let Some(kept) = self.kept(place) {
            kept.push(b"\",");
        }
    }

    fn bare(&mut self, place: Place<'_>, text: &[u8]) {
        if place.is_free && !is_setting(place.member) {
            self.write_name(place);
            if let Some(kept) = self.kept(place) {
                kept.push(text);
                kept.push(b",");
            }
        }
    }

    fn level(&mut self, place: Place<'_>) {
        if place.is_free {
            self.write_name(place);
            if let Some(kept) = self.kept(place) {
                kept.push(b"{},");
            }
        }
    }
}

impl Text {
    pub fn of_answer() -> Self {
        Self { side: Side::Answer, ..Self::default() }
    }

    /// Whether the wire itself says that what it shows is not what was counted.
    pub fn altered(&self) -> Option<Altered> {
        self.altered
    }

    /// Why what the text comes with cannot be counted.
    pub fn unseen(&self) -> Option<&'static str> {
        let is_elsewhere = self.media.images.iter().any(|image| image.size.is_none() && !image.is_coarse);
        is_elsewhere.then_some("an image is at a URL, and its size is not told")
    }

    pub fn is_empty(&self) -> bool {
        self.main.bytes == 0
    }

    /// Bytes of text so far.
    pub fn size(&self) -> u64 {
        self.main.bytes + self.tools.bytes
    }

    /// What is known beside the text.
    pub fn beside(&self) -> impl PartialEq + use<> {
        let Media { images, more_images, documents, sound, .. } = &self.media;
        let media = (images.len(), *more_images, *documents, *sound);
        (media, self.messages, self.calls, self.is_old_call)
    }

    /// Text that came otherwise than as JSON.
    pub fn push(&mut self, text: &[u8]) {
        self.main.push(text);
    }

    /// Lets the text go: nobody will ask for it.
    pub fn clear(&mut self) {
        self.main = Kept { text: Vec::new(), bytes: self.main.bytes };
        self.tools = Kept { text: Vec::new(), bytes: self.tools.bytes };
    }

    /// A guess that costs nothing, for a call in flight.
    pub fn rough_tokens(&self) -> TokenCount {
        (self.main.bytes + self.tools.bytes) / BYTES_PER_TOKEN + self.messages * 4
    }

    /// Tokens of texts that are taken as they are.
    pub fn plain_tokens(&self, model: &str) -> TokenCount {
        let family = Family::of(model);
        self.main.tokens(&family).saturating_add(family.media(&self.media))
    }

    /// Tokens of a prompt for this model, with what frames its messages and tells its tools.
    ///
    /// `is_framed` is of a prompt without messages that is put into the form of a chat all the same.
    pub fn prompt_tokens(&self, family: &Family, request: &Node, is_framed: bool) -> TokenCount {
        let mut tokens = self.main.tokens(family).saturating_add(family.media(&self.media));
        let is_chat = ["messages", "contents", "input"].iter().any(|name| request.get(name).is_some());
        if self.messages > 0 || is_chat || is_framed {
            tokens += self.messages.max(1) * family.per_message + family.per_prompt;
        }
        tokens += match (self.calls, family.tools) {
            (0, _) => 0,
            (calls, Tools::Json(_)) => calls.saturating_mul(family.per_past_call),
            (1, Tools::Namespace) => family.per_call.saturating_sub(1),
            (calls, Tools::Namespace) => calls.saturating_mul(9).saturating_add(12),
        };
        if request.path(&["thinking", "type"]).and_then(Node::text) == Some("enabled") {
            tokens += family.thinking;
        }
        tokens.saturating_add(self.tools_tokens(family, request))
    }

    fn tools_tokens(&self, family: &Family, request: &Node) -> TokenCount {
        if self.tools.bytes == 0 {
            return 0;
        }
        let has_tools = ["tools", "functions", "toolConfig"].iter().any(|name| request.get(name).is_some());
        match family.tools {
            Tools::Namespace if has_tools => {
                let functions = schema::functions(request);
                let text = schema::namespace(&functions);
                // Long definitions were cut; what is missing has the density of what is there.
                // The namespace has a system message of its own, unless there is one to which it can be added.
                let own = if self.has_system { NAMESPACE - family.per_message } else { NAMESPACE };
                let counted = family.count(&text).saturating_add(own);
                if functions.is_empty() { 0 } else { counted.max(self.tools.bytes / 12) }
            }
            Tools::Json(prompt) if has_tools && has_any_tool(request) => {
                (self.tools.tokens(family).saturating_mul(family.tools_percent) / 100).saturating_add(prompt)
            }
            _ if !has_form(request) => 0,
            _ => (self.tools.tokens(family) * family.form_percent / 100).saturating_add(family.form),
        }
    }

    /// Tokens of an answer to this request that was seen.
    pub fn answer_tokens(&self, family: &Family, request: &Node) -> TokenCount {
        if self.is_empty() && self.calls == 0 {
            return 0;
        }
        let calls = match (self.calls, family.tools) {
            (0, _) => 0,
            (calls, Tools::Json(_)) => calls.saturating_mul(family.per_call),
            (1, Tools::Namespace) if self.is_old_call => 4,
            (1, Tools::Namespace) => family.per_call,
            // Several at once are wrapped together.
            (calls, Tools::Namespace) => calls.saturating_mul(9).saturating_add(9),
        };
        // Responses (whose requests have an `input`) frame an answer otherwise than chats.
        let framing = if request.get("input").is_some() { family.per_response } else { family.per_answer };
        self.main.tokens(family).saturating_add(framing).saturating_add(calls)
    }
}

/// Whether this is told to the model as JSON: tools, and the form of the answer.
fn is_told(place: Place<'_>) -> bool {
    is_of_tools(place.top) || (place.top == "text" && place.member != "text")
}

fn has_any_tool(request: &Node) -> bool {
    let is_any = |tools: &Node| !matches!(tools, Node::Array(items) if items.is_empty());
    ["tools", "functions", "toolConfig"].iter().any(|name| request.get(name).is_some_and(is_any))
}

/// Whether the request tells the form of the answer: plain text is none, and that it be some JSON is told by nothing.
fn has_form(request: &Node) -> bool {
    let is_schema = |form: &Node| match form {
        Node::Object(_) => {
            let kind = form.get("type").and_then(Node::text);
            !matches!(kind, Some("text" | "json_object")) && form.members().next().is_some()
        }
        _ => false,
    };
    let places: [&[&str]; 6] = [
        &["response_format"],
        &["format"],
        &["output_format"],
        &["text", "format"],
        &["generationConfig", "responseSchema"],
        &["generationConfig", "responseJsonSchema"],
    ];
    places.iter().any(|path| request.path(path).is_some_and(is_schema))
}

/// Around the namespace of functions.
const NAMESPACE: TokenCount = 9;

/// What is put down for reasoning that is not shown, since nobody can count it: as much again as the visible answer, and this much at least.
const LEAST_REASONING: TokenCount = 64;

/// Whether the vocabulary of a model is public, so that its text is counted exactly.
pub fn has_public_vocabulary(model: &str) -> bool {
    Family::of(model).is_public()
}

/// The allowance for reasoning that a model did and did not show.
pub fn reasoning_allowance(model: &str, visible: TokenCount) -> TokenCount {
    if Family::of(model).is_hidden_thinker { visible.max(LEAST_REASONING) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::{Family, KEPT, Text, reasoning_allowance};
    use crate::meter::json::{Node, Observer as _, Place, Skimmer};

    fn prompt(model: &str, body: &str) -> u64 {
        let mut text = Text::default();
        let (node, _) = Skimmer::read(body.as_bytes(), &mut text);
        text.prompt_tokens(&Family::of(model), &node, false)
    }

    const CONTENT: Place<'static> = Place { member: "content", top: "messages", is_free: false };

    #[test]
    fn counts_text_and_not_identifiers() {
        let body = r#"{"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Tell me a joke about opentelemetry"}], "user": "x-1234567890"}"#;
        // What OpenAI reported for this prompt.
        assert_eq!(prompt("gpt-3.5-turbo-0125", body), 15);
    }

    #[test]
    fn long_text_is_counted_by_its_density() {
        let mut text = Text::default();
        for _ in 0..8 {
            text.piece(CONTENT, " word".repeat(KEPT / 10).as_bytes());
        }
        let exact = 8 * (KEPT / 10) as u64;
        let counted = text.prompt_tokens(&Family::of("gpt-4o"), &Node::Null, false);
        assert!(counted.abs_diff(exact) * 100 <= exact, "{counted} for {exact}");
    }

    #[test]
    fn text_without_spaces_does_not_take_for_ever() {
        let mut text = Text::default();
        text.piece(CONTENT, "a".repeat(KEPT).as_bytes());
        assert!(text.answer_tokens(&Family::of("gpt-4o"), &Node::Null) > 1000);
    }

    #[test]
    fn arguments_and_results_of_any_name_are_text() {
        let body = |input: &str| {
            format!(
                r#"{{"messages": [{{"role": "assistant", "content": [{{"type": "tool_use", "input": {input}}}]}}]}}"#
            )
        };
        let with =
            prompt("claude-sonnet-4-5", &body(r#"{"city": "Paris in the spring of the year", "days": 12345678}"#));
        assert!(with >= prompt("claude-sonnet-4-5", &body("{}")) + 15, "{with}");
    }

    #[test]
    fn messages_cost_the_same_whatever_their_list_is_called() {
        let chat = r#"{"messages": [{"role": "user", "content": "Say this is a test"}]}"#;
        let items = r#"{"input": [{"type": "message", "role": "user", "content": "Say this is a test"}]}"#;
        let plain =
            r#"{"messages": [{"role": "user", "content": "Say this is a test"}], "response_format": {"type": "text"}}"#;
        // What OpenAI reported for it.
        assert_eq!([chat, items, plain].map(|body| prompt("gpt-4o-mini", body)), [12; 3]);
    }

    #[test]
    fn an_answer_is_its_text_and_not_what_it_repeats() {
        let answer = |more: &str| {
            let mut text = Text::of_answer();
            let body = format!(
                r#"{{{more} "output": [{{"type": "message", "content": [{{"type": "output_text", "text": "Hello there"}}]}}]}}"#
            );
            Skimmer::read(body.as_bytes(), &mut text);
            text.answer_tokens(&Family::of("gpt-4o"), &Node::Null)
        };
        let alone = answer("");
        assert_eq!(alone, 2);
        assert_eq!(answer(r#""instructions": "Be brief and kind","#), alone);
        assert_eq!(
            answer(r#""text": {"format": {"name": "Person", "schema": {"title": "Person of interest"}}},"#),
            alone
        );
        assert_eq!(
            answer(r#""reasoning": [{"summary": [{"type": "summary_text", "text": "They greet me"}]}],"#),
            alone
        );
    }

    #[test]
    fn images_and_tools_are_counted() {
        let plain = prompt("gpt-4o", r#"{"messages": [{"role": "user", "content": "hi"}]}"#);
        let image = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}]}]}"#;
        assert_eq!(prompt("gpt-4o", image), plain + 85);
        let tools = r#"{"messages": [{"role": "user", "content": "hi"}], "tools": [{"name": "f", "description": "Does it", "input_schema": {"type": "object"}}]}"#;
        assert!(
            prompt("claude-sonnet-4-5", tools)
                > prompt("claude-sonnet-4-5", r#"{"messages": [{"role": "user", "content": "hi"}]}"#) + 346
        );
    }

    #[test]
    fn reasoning_that_is_not_shown_is_allowed_for() {
        assert_eq!(["gpt-5", "o3-mini", "gpt-4o"].map(|model| reasoning_allowance(model, 100)), [100, 100, 0]);
        assert_eq!(reasoning_allowance("gpt-5-nano", 1), 64);
    }
}
