//! What an API's file must know.

use std::borrow::Cow;

use super::{
    anthropic::Anthropic,
    bedrock::Bedrock,
    bedrock_agents::BedrockAgents,
    cohere::Cohere,
    google::Google,
    huggingface::TextGeneration,
    json::Node,
    ollama::Ollama,
    openai::OpenAi,
    usage::{Units, Usage},
};
use crate::{
    price::{Money, Service},
    wire::Headers,
};

/// Every API that can be read. Adding one takes a file and a line here. Paths that are more particular come first.
const DIALECTS: [&dyn Dialect; 8] =
    [&Bedrock, &BedrockAgents, &Google, &Anthropic, &Cohere, &Ollama, &TextGeneration, &OpenAi];

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// An answer by a model: costs, reported or not.
    Generate,
    /// Vectors for texts: costs input only.
    Embed,
    /// A look at an answer that was paid for when it was made.
    Retrieve,
    /// Costs nothing: counting tokens, listing models.
    Free,
    /// Costs in units that answers need not tell (images, minutes of audio), or by answers that come by another way (batches).
    Other,
}

/// Which of the names of a model is the one on the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BilledModel {
    /// What answered, which may be more particular than what was asked for.
    #[default]
    Reported,
    /// What was asked for: the answer names it as its maker does, not as its seller.
    Requested,
}

/// One API's way of asking and reporting.
pub trait Dialect: Sync {
    fn name(&self) -> &'static str;

    /// What a request to this path (without query) is for; `None` for another API's.
    fn purpose(&self, method: &str, path: &str) -> Option<Purpose>;

    /// Whether a request that was sent to such a path has this API's shape: other APIs have messages and runs too.
    fn asks(&self, request: &Node) -> bool {
        request.get("model").and_then(Node::text).is_some()
    }

    /// Whether a request asks for nothing that costs, whatever its path.
    fn is_free(&self, _request: &Node) -> bool {
        false
    }

    /// The model, where the path names it.
    fn model_in_path<'a>(&self, _path: &'a str) -> Option<Cow<'a, str>> {
        None
    }

    fn billed_model(&self) -> BilledModel {
        BilledModel::Reported
    }

    /// Whether answers that look like other APIs' are this one's all the same, which knows what to do with them.
    fn owns_answers(&self) -> bool {
        false
    }

    /// Whether an answer from this path comes bit by bit, also when it is one document.
    fn streams(&self, _path: &str) -> bool {
        false
    }

    /// A message without what this API wraps around it.
    fn payload<'a>(&self, data: &'a [u8]) -> Cow<'a, [u8]> {
        Cow::Borrowed(data)
    }

    /// Takes what the head of an answer reports; whether it has this API's shape.
    fn head(&self, _headers: &Headers, _report: &mut Report) -> bool {
        false
    }

    /// Whether an answer, or a message of a streamed one, has this API's shape.
    fn recognizes(&self, answer: &Node) -> bool;

    /// Takes what a whole answer reports.
    fn document(&self, answer: &Node, report: &mut Report);

    /// Takes what a message of a stream reports.
    fn message(&self, message: &Node, report: &mut Report);

    /// Whether a prompt that is one text is framed like a message of a chat.
    fn frames_prompt(&self, _request: &Node) -> bool {
        false
    }

    /// Whether a message that has no event's name repeats the text of others.
    fn repeats(&self, _payload: &[u8]) -> bool {
        false
    }

    /// Whether the strings of such a message are generated text that no other message repeats.
    fn has_text(&self, event: Option<&str>) -> bool;
}

/// The API of a request by its path.
pub fn of_request(method: &str, path: &str) -> Option<(&'static dyn Dialect, Purpose)> {
    DIALECTS.into_iter().find_map(|dialect| dialect.purpose(method, path).map(|purpose| (dialect, purpose)))
}

/// The API of an answer by its head, which reports what it used.
pub fn of_head(headers: &Headers, report: &mut Report) -> Option<&'static dyn Dialect> {
    DIALECTS.into_iter().find(|dialect| dialect.head(headers, report))
}

/// The API of an answer by its shape.
pub fn of_answer(answer: &Node) -> Option<&'static dyn Dialect> {
    DIALECTS.into_iter().find(|dialect| dialect.recognizes(answer))
}

/// What prices may depend on beside the model, in the API's own words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Served {
    pub tier: Option<Box<str>>,
    pub speed: Option<Box<str>>,
}

impl Served {
    pub fn as_service(&self) -> Service<'_> {
        Service { tier: self.tier.as_deref(), speed: self.speed.as_deref(), ..Service::default() }
    }
}

/// Work of another model within a call, which has prices of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    pub model: Box<str>,
    pub usage: Usage,
    /// Input tokens of the largest single call, all of which are on the same side of every step of a price list.
    pub size: u64,
}

/// Input tokens of a call above which price lists have other prices. (`tests/prices.rs` holds them against the catalogue.)
pub const STEPS: [u64; 9] = [32_000, 100_000, 128_000, 199_999, 200_000, 256_000, 272_000, 512_000, 524_288];

/// Models whose work within one call is told apart.
const PARTS: usize = 32;

/// What an answer said so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    pub model: Option<Box<str>>,
    pub id: Option<Box<str>>,
    /// Who serves, where the answer's shape gives it away.
    pub server: Option<&'static str>,
    /// How the call was served, in the API's own words.
    pub service: Served,
    pub usage: Option<Usage>,
    /// What was used beside these totals, as it was last reported.
    pub beside: Usage,
    /// Work of other models within the call, beside these totals.
    pub parts: Vec<Part>,
    /// Models that were named before the figures of their work, by the name of its trace.
    pub announced: Vec<(Box<str>, Box<str>)>,
    pub units: Units,
    /// Cost as the provider reported it.
    pub cost: Option<Money>,
    /// The figures will not change any more.
    pub is_final: bool,
    /// The figures add up over the whole stream, so that only its end makes them final.
    pub is_sum: bool,
    /// The provider left something out that costs: the figures are a floor.
    pub is_partial: bool,
    /// Accepted, but the answer comes by a later retrieval.
    pub is_pending: bool,
    /// The whole answer is an error, whatever its status says.
    pub is_error: bool,
}

impl Report {
    /// Everything that was used, where the provider said so.
    pub fn used(&self) -> Option<Usage> {
        if self.usage.is_none() && self.parts.is_empty() {
            return None;
        }
        let mut used = self.usage.unwrap_or_default();
        used.add_all(&self.beside);
        self.parts.iter().for_each(|part| used.add_all(&part.usage));
        Some(used)
    }

    /// Adds what another model used. There is room for as many models as any agent has; the work of more is a floor.
    pub fn add_part(&mut self, model: &str, usage: &Usage) {
        let size = usage.input_total();
        let steps = |size: u64| STEPS.iter().filter(|&&step| size > step).count();
        if let Some(part) = self.parts.iter_mut().find(|part| &*part.model == model && steps(part.size) == steps(size))
        {
            part.usage.add_all(usage);
            part.size = part.size.max(size);
        } else if self.parts.len() < PARTS {
            self.parts.push(Part { model: model.into(), usage: *usage, size });
        } else {
            self.is_partial = true;
        }
    }

    /// Takes a text member, unless it is missing or empty: some streams begin with empty ones.
    pub fn set_text(target: &mut Option<Box<str>>, value: Option<&Node>) {
        if let Some(text) = value.and_then(Node::text).filter(|text| !text.is_empty()) {
            *target = Some(text.into());
        }
    }
}

/// [`str::split_once`] for what most paths do not have: to look whether they do is cheaper than to prepare for where.
pub fn split_rarely<'a>(path: &'a str, separator: &str) -> Option<(&'a str, &'a str)> {
    if path.contains(separator) { path.split_once(separator) } else { None }
}

/// A path segment without its percent encoding (RFC 3986 §2.1).
pub fn percent_decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.as_bytes();
    while let Some((&byte, rest)) = bytes.split_first() {
        let hex = |index: usize| rest.get(index).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                decoded.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                bytes = rest.get(2..).unwrap_or_default();
            }
            _ => {
                decoded.push(byte);
                bytes = rest;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&decoded).into_owned())
}

#[cfg(test)]
mod tests {
    use super::percent_decoded;

    #[test]
    fn segments_are_decoded() {
        assert_eq!(percent_decoded("anthropic.claude-v2%3A1"), "anthropic.claude-v2:1");
        assert_eq!(percent_decoded("a%2fb%zz%4"), "a/b%zz%4");
    }
}
