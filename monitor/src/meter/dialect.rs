//! What an API's file must know.

use super::{
    anthropic::Anthropic,
    json::Node,
    openai::OpenAi,
    usage::{Units, Usage},
};
use crate::price::{Money, Service};

/// Every API that can be read. Adding one takes a file and a line here.
const DIALECTS: [&dyn Dialect; 2] = [&Anthropic, &OpenAi];

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
}

/// One API's way of asking and reporting.
pub trait Dialect: Sync {
    fn name(&self) -> &'static str;

    /// What a request to this path (without query) is for; `None` for another API's.
    fn purpose(&self, method: &str, path: &str) -> Option<Purpose>;

    /// Whether an answer, or a message of a streamed one, has this API's shape.
    fn recognizes(&self, answer: &Node) -> bool;

    /// Takes what a whole answer reports.
    fn document(&self, answer: &Node, report: &mut Report);

    /// Takes what a message of a stream reports.
    fn message(&self, message: &Node, report: &mut Report);

    /// Whether the strings of such a message are generated text that no other message repeats.
    fn has_text(&self, event: Option<&str>) -> bool;
}

/// The API of a request by its path.
pub fn of_request(method: &str, path: &str) -> Option<(&'static dyn Dialect, Purpose)> {
    DIALECTS.into_iter().find_map(|dialect| dialect.purpose(method, path).map(|purpose| (dialect, purpose)))
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

/// What an answer said so far.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub model: Option<Box<str>>,
    pub id: Option<Box<str>>,
    /// How the call was served, in the API's own words.
    pub service: Served,
    pub usage: Option<Usage>,
    pub units: Units,
    /// Cost as the provider reported it.
    pub cost: Option<Money>,
    /// The figures will not change any more.
    pub is_final: bool,
    /// Accepted, but the answer comes by a later retrieval.
    pub is_pending: bool,
    /// The whole answer is an error, whatever its status says.
    pub is_error: bool,
}

impl Report {
    /// Takes a text member, unless it is missing or empty: some streams begin with empty ones.
    pub fn set_text(target: &mut Option<Box<str>>, value: Option<&Node>) {
        if let Some(text) = value.and_then(Node::text).filter(|text| !text.is_empty()) {
            *target = Some(text.into());
        }
    }
}
