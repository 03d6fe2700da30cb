//! One exchange, from its first byte to its usage.

mod verdict;

use std::{borrow::Cow, sync::Arc};

use super::{
    batch,
    dialect::{self, BilledModel, Dialect, Part, Purpose, Report, Served},
    estimate::Text,
    json::{Node, Skimmer},
    prints::{Beside, Key, Prints, Prompt, ToolAsk},
    provider,
    repeat::{Repeat, Watch},
    tool::{self, Rule, Rules},
    usage::{Basis, TokenCount, Units, Usage},
};
use crate::{
    price::Money,
    wire::{Event, Field, Message, RequestHead, ResponseHead},
};

/// Follows one exchange.
pub struct Meter {
    method: Box<str>,
    host: Box<str>,
    path: Box<str>,
    provider: Option<&'static str>,
    dialect: Option<&'static dyn Dialect>,
    purpose: Option<Purpose>,
    request: Body,
    /// Something of the request's body was seen.
    has_request: bool,
    /// It is a form.
    has_form: bool,
    request_text: Text,
    request_ended: bool,
    asked: Asked,
    status: Option<u16>,
    answer: Body,
    answer_text: Text,
    is_stream: bool,
    /// The answer has the results of a batch, a line for each.
    is_batch: bool,
    /// A message was cut or was not JSON.
    is_damaged: bool,
    /// The document is not well-formed, or ended early.
    is_broken: bool,
    /// Apart, for it is half of all this: allocators are slow with what is larger than a kilobyte.
    report: Box<Report>,
    /// A message of the stream that the next ones may repeat.
    repeat: Option<Box<Repeat>>,
    tools: Arc<Rules>,
    tool: Option<Tool>,
    /// Bytes of the answer, coding removed.
    answered: u64,
    /// The upgraded connection carried what is not known.
    is_unread: bool,
    /// The request without most of its text, for the estimate.
    asking: Node,
    /// The estimate is wanted whatever the provider reports.
    always_estimates: bool,
    /// Fingerprints, where they are wanted.
    prints: Option<Box<Prints>>,
}

/// The call of a tool.
struct Tool {
    name: Box<str>,
    /// What it costs, if an administrator has said so.
    rule: Option<Rule>,
    /// The answer, where it came as a message.
    answer: Option<Node>,
}

/// A body that is one document.
enum Body {
    Reading(Box<Skimmer>),
    Done,
}

/// What the request asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Asked {
    model: Option<Box<str>>,
    stream: bool,
    most_output: Option<u64>,
    /// It asks not to reason.
    is_brief: bool,
}

/// What an exchange is on the bill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Billing {
    /// A call: it costs.
    Charge,
    /// A repeated look at a call: it costs if, and only if, the call with this response id was not charged.
    Once,
    /// It costs, and how much comes by a later look at it.
    Pending,
    /// Nothing: management, errors, other traffic.
    Free,
    /// Traffic to a model provider that could not be read: something, nobody knows how much.
    Unknown,
}

/// Who worked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Kind {
    #[default]
    Model,
    /// A tool of this name; a tool of an MCP server is `server/tool`.
    Tool(Box<str>),
}

/// What an exchange used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metered {
    pub kind: Kind,
    pub billing: Billing,
    /// What would have been said had the provider reported nothing, if that was asked for.
    pub estimate: Option<Usage>,
    /// Why the report cannot be held against that estimate: the wire says that it does not show what was counted.
    pub unseen: Option<&'static str>,
    /// What the call of a tool cost by its rule.
    pub tool_cost: Option<Money>,
    /// Who answered: by its host, else the API it speaks.
    pub provider: Option<&'static str>,
    pub model_requested: Option<Box<str>>,
    pub model_reported: Option<Box<str>>,
    pub billed_model: BilledModel,
    pub response_id: Option<Box<str>>,
    pub stream: bool,
    pub usage: Usage,
    pub units: Units,
    pub basis: Basis,
    /// How the call was served: prices may depend on it.
    pub service: Served,
    /// What of it other models used, which has prices of its own.
    pub parts: Vec<Part>,
    /// Cost as reported by the provider.
    pub provider_cost: Option<Money>,
    pub status: Option<u16>,
}

impl Metered {
    /// The model to look up in the catalogue; of a tool, its name.
    pub fn model(&self) -> Option<&str> {
        if let Kind::Tool(name) = &self.kind {
            return Some(name);
        }
        let (reported, requested) = (self.model_reported.as_deref(), self.model_requested.as_deref());
        match self.billed_model {
            BilledModel::Reported => reported.or(requested),
            BilledModel::Requested => requested.or(reported),
        }
    }
}

/// Bytes of a document after which what it was made of is let go.
const PIECE: usize = 64 * 1024;

fn model_in_path(of_request: Option<(&dyn Dialect, Purpose)>, path: &str) -> Option<Box<str>> {
    let model = of_request?.0.model_in_path(path)?;
    Some(model.into_owned().into())
}

/// Without a port.
fn host_name(host: &str) -> &str {
    host.rsplit_once(':')
        .map_or(host, |(name, port)| if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host })
}

fn is_error(node: &Node) -> bool {
    matches!(node.get("error"), Some(Node::Object(_) | Node::String(_)))
        || node.get("type").and_then(Node::text) == Some("error")
}

impl Meter {
    pub fn new(head: &RequestHead) -> Self {
        Self::with_tools(head, Arc::default())
    }

    /// With an administrator's rules for calls of tools.
    pub fn with_tools(head: &RequestHead, tools: Arc<Rules>) -> Self {
        let path = head.target.split(['?', '#']).next().unwrap_or_default();
        let provider = head.host.as_deref().and_then(provider::at_host);
        let host = head.host.as_deref().map(host_name).unwrap_or_default();
        let rule = tools.of_request(&head.method, host, path).cloned();
        // A rule is an administrator's word: what it names is no model call.
        let of_request = if rule.is_some() { None } else { dialect::of_request(&head.method, path) };
        let batch = if rule.is_some() { None } else { batch::id(&head.method, path) };
        let of_request = if batch.is_some() { None } else { of_request };
        let tool = rule.map(|rule| Tool { name: rule.name.clone(), rule: Some(rule), answer: None });
        Self {
            method: head.method.clone(),
            host: host.into(),
            path: path.into(),
            provider,
            dialect: of_request.map(|(dialect, _)| dialect),
            purpose: of_request.map(|(_, purpose)| purpose).or(batch.map(|_| Purpose::Retrieve)),
            request: Body::Reading(Box::default()),
            has_request: false,
            has_form: false,
            request_text: Text::default(),
            request_ended: false,
            asked: Asked { model: model_in_path(of_request, path), ..Asked::default() },
            status: None,
            answer: Body::Reading(Box::new(if batch.is_some() { Skimmer::of_lines() } else { Skimmer::of_items() })),
            answer_text: Text::of_answer(),
            is_stream: false,
            is_batch: batch.is_some(),
            is_damaged: false,
            is_broken: false,
            report: Box::new(Report { id: batch.map(Into::into), ..Report::default() }),
            repeat: None,
            tools,
            tool,
            answered: 0,
            is_unread: false,
            asking: Node::Null,
            always_estimates: false,
            prints: None,
        }
    }

    /// Takes the next event of the exchange. Bodies of traffic that is not a model's are not looked into.
    pub fn on(&mut self, event: &Event<'_>) {
        match event {
            Event::RequestBody(data) if self.is_interesting() => {
                if let Body::Reading(skimmer) = &mut self.request {
                    self.has_request |= !data.is_empty();
                    match &mut self.prints {
                        Some(prints) => skimmer.push(data, &mut Beside { first: &mut self.request_text, prints }),
                        None => skimmer.push(data, &mut self.request_text),
                    }
                }
            }
            Event::RequestField(field) if self.is_interesting() => self.take_field(field),
            Event::RequestEnd => self.end_request(),
            Event::Response(head) => self.take_head(head),
            Event::ResponseBody(data) => {
                self.answered = self.answered.saturating_add(data.len() as u64);
                if self.is_interesting() {
                    if let Some(prints) = self.prints.as_mut().filter(|_| self.purpose == Some(Purpose::Generate)) {
                        prints.document(data);
                    }
                    self.take_document(data);
                }
            }
            Event::Message(message) => {
                self.answered = self.answered.saturating_add(message.data.len() as u64);
                self.take_message(message);
            }
            Event::Request(_) | Event::RequestBody(_) | Event::RequestField(_) | Event::Socket(..) | Event::End(_) => {}
        }
    }

    /// Forms hold files (audio, images), and beside them what JSON would hold.
    fn take_field(&mut self, field: &Field<'_>) {
        self.has_form = true;
        let value = std::str::from_utf8(field.value).unwrap_or_default().trim();
        match field.name {
            "model" if !value.is_empty() => self.asked.model = Some(value.into()),
            "stream" => self.asked.stream = value.eq_ignore_ascii_case("true"),
            "prompt" => {
                self.request_text.push(field.value);
            }
            _ => {}
        }
    }

    /// A call by its request, or a request that we do not know: its answer may say that it is one.
    fn is_interesting(&self) -> bool {
        self.purpose.is_some() || self.tool.is_some() || matches!(&*self.method, "POST" | "")
    }

    fn end_request(&mut self) {
        self.request_ended = true;
        let Body::Reading(skimmer) = std::mem::replace(&mut self.request, Body::Done) else { return };
        let (request, is_whole) = skimmer.finish();
        self.confirm_purpose(&request, is_whole);
        if self.tool.is_none()
            && self.purpose.is_none()
            && let Some(name) = tool::mcp_tool(&request)
        {
            let rule = self.tools.of_mcp(&self.host, &self.path, name).cloned();
            let shown = rule.as_ref().map_or_else(|| format!("{}/{name}", self.host).into(), |rule| rule.name.clone());
            self.tool = Some(Tool { name: shown, rule, answer: None });
        }
        if self.dialect.is_some_and(|dialect| dialect.is_free(&request)) {
            self.purpose = Some(Purpose::Free);
        }
        if self.asked.model.is_none() {
            Report::set_text(&mut self.asked.model, request.get("model"));
        }
        self.asked.stream |= request.get("stream").is_some_and(Node::is_true);
        let limits = ["max_completion_tokens", "max_output_tokens", "max_tokens", "max_tokens_to_sample"];
        // Google's and Bedrock's requests have it inside.
        let inside = [["generationConfig", "maxOutputTokens"], ["inferenceConfig", "maxTokens"]];
        let inside = || inside.iter().find_map(|path| request.path(path).and_then(Node::count));
        self.asked.most_output = limits.iter().find_map(|name| request.get(name).and_then(Node::count)).or_else(inside);
        let effort = request.get("reasoning_effort").or_else(|| request.path(&["reasoning", "effort"]));
        self.asked.is_brief = matches!(effort.and_then(Node::text), Some("none" | "minimal"));
        if self.purpose == Some(Purpose::Generate) {
            self.asking = request;
        }
    }

    /// Paths are short: at a host that is not known to be a model's, the request must look like one too.
    fn confirm_purpose(&mut self, request: &Node, is_whole: bool) {
        let may_cost = matches!(self.purpose, Some(Purpose::Generate | Purpose::Embed | Purpose::Other));
        let Some(dialect) =
            self.dialect.filter(|_| may_cost && (self.has_request || self.has_form) && self.provider.is_none())
        else {
            return;
        };
        // What was cut short may have said so later.
        if self.has_form && self.asked.model.is_none() {
            (self.dialect, self.purpose) = (None, None);
            return;
        }
        let is_readable = is_whole || !matches!(request, Node::Object(_));
        if is_readable && !dialect.asks(request) {
            (self.dialect, self.purpose) = (None, None);
        }
    }

    fn take_head(&mut self, head: &ResponseHead) {
        self.status = Some(head.status);
        if !self.is_interesting() || head.status >= 300 {
            return;
        }
        match self.dialect {
            Some(dialect) => {
                dialect.head(&head.headers, &mut self.report);
            }
            None => {
                self.dialect = dialect::of_head(&head.headers, &mut self.report);
                self.purpose = self.purpose.or(self.dialect.map(|_| Purpose::Generate));
            }
        }
    }

    /// An array may be a stream in disguise: its items are messages, and are let go as they come.
    fn take_document(&mut self, data: &[u8]) {
        for piece in data.chunks(PIECE) {
            let Body::Reading(skimmer) = &mut self.answer else { return };
            if self.is_batch {
                skimmer.push(piece, &mut ());
            } else {
                skimmer.push(piece, &mut self.answer_text);
            }
            for item in skimmer.items() {
                self.is_stream |= self.dialect.is_some_and(|dialect| dialect.streams(&self.path));
                self.take_node(&item);
            }
        }
    }

    fn take_message(&mut self, message: &Message<'_>) {
        self.is_stream = true;
        if message.data == b"[DONE]" {
            return;
        }
        self.is_damaged |= message.truncated;
        let payload = self.dialect.map_or(Cow::Borrowed(message.data), |dialect| dialect.payload(message.data));
        if let Some(prints) = self.prints.as_mut().filter(|_| !message.truncated) {
            prints.message(&payload);
        }
        if let Some(repeat) = &self.repeat
            && !message.truncated
            && repeat.take(message.event, &payload, &mut self.answer_text)
        {
            return;
        }
        if self.is_batch {
            let (node, is_whole) = Skimmer::read(&payload, &mut ());
            return self.take_read(&node, is_whole);
        }
        let repeats = |dialect: &dyn Dialect| message.event.is_none() && dialect.repeats(&payload);
        let has_text = self.dialect.is_none_or(|dialect| dialect.has_text(message.event) && !repeats(dialect));
        if !has_text {
            let (node, is_whole) = Skimmer::read(&payload, &mut ());
            return self.take_read(&node, is_whole);
        }
        let (report, api) = (Report::clone(&self.report), self.dialect.map(Dialect::name));
        let (beside, size) = (self.answer_text.beside(), self.answer_text.size());
        let mut watch = Watch::new(&mut self.answer_text, &payload);
        let (node, is_whole) = Skimmer::read(&payload, &mut watch);
        let seen = watch.seen;
        let is_text_alone = seen.len() == self.answer_text.size() - size && beside == self.answer_text.beside();
        self.take_read(&node, is_whole);
        if *self.report != report || self.dialect.map(Dialect::name) != api {
            // What came to nothing before may come to something now.
            self.repeat = None;
        } else if is_text_alone && is_whole && !message.truncated && self.may_repeat() {
            self.repeat = Repeat::new(message.event, &payload, seen).map(Box::new).or(self.repeat.take());
        }
    }

    /// Nothing but the report and the text follows a message.
    fn may_repeat(&self) -> bool {
        self.tool.is_none() && self.dialect.is_some() && self.purpose.is_some() && !self.is_final()
    }

    fn take_read(&mut self, node: &Node, is_whole: bool) {
        self.is_damaged |= !is_whole;
        self.take_node(node);
    }

    fn take_node(&mut self, node: &Node) {
        if self.is_batch {
            return batch::take(node, &mut self.report);
        }
        self.report.is_error |= is_error(node);
        if let Some(tool) = &mut self.tool {
            // Of the messages of MCP, the one that has the result; the others tell how far it is.
            if tool.answer.is_none() || node.get("result").is_some() {
                tool.answer = Some(node.clone());
            }
            return;
        }
        self.settle_dialect(node);
        if let Some(dialect) = self.dialect {
            dialect.message(node, &mut self.report);
        }
        if self.is_final() && !self.always_estimates {
            self.request_text.clear();
            self.answer_text.clear();
            self.asking = Node::Null;
        }
    }

    /// The answer's shape has the last word about which API this is.
    fn settle_dialect(&mut self, answer: &Node) {
        if self.dialect.is_some_and(|dialect| dialect.owns_answers() || dialect.recognizes(answer)) {
            self.purpose = self.purpose.or(Some(Purpose::Generate));
            return;
        }
        if let Some(dialect) = dialect::of_answer(answer) {
            self.dialect = Some(dialect);
            self.purpose = self.purpose.or(Some(Purpose::Generate));
        }
    }

    /// Whether this is, as far as is known now, a call that costs.
    pub fn may_cost(&self) -> bool {
        let is_model = matches!(self.purpose, Some(Purpose::Generate | Purpose::Embed | Purpose::Other));
        is_model || self.tool.as_ref().is_some_and(|tool| tool.rule.is_some())
    }

    /// The provider has said what the exchange used, and will not change it.
    pub fn is_final(&self) -> bool {
        self.report.is_final && !self.report.is_sum && self.report.usage.is_some()
    }

    /// Tokens that the request allows the answer, where it says so: for the hold of the worst case.
    pub fn most_output(&self) -> Option<TokenCount> {
        self.asked.most_output
    }

    pub fn model_requested(&self) -> Option<&str> {
        self.asked.model.as_deref()
    }

    /// The tool that is called, as reports name it.
    pub fn tool(&self) -> Option<&str> {
        self.tool.as_ref().map(|tool| &*tool.name)
    }

    /// What the call of a tool costs at least, where a rule says so.
    pub fn least_tool_cost(&self) -> Option<Money> {
        self.tool.as_ref()?.rule.as_ref().map(Rule::least)
    }

    /// Wants fingerprints of what is asked.
    pub fn fingerprint(&mut self, key: Key) {
        self.prints = Some(Box::new(Prints::new(key)));
    }

    /// What the model is asked now; said once, when the request has ended.
    pub fn prompt(&mut self) -> Option<Prompt> {
        let prompt = self.prints.as_mut()?.prompt();
        prompt.filter(|_| self.purpose == Some(Purpose::Generate))
    }

    /// Tools that the answer asks for; said once, when it has ended.
    pub fn tools_asked(&mut self) -> Vec<ToolAsk> {
        self.prints.take().map(|prints| prints.finish()).unwrap_or_default()
    }

    /// Wants an estimate beside what the provider reports, to hold the two against each other.
    pub fn estimate_always(&mut self) {
        self.always_estimates = true;
    }

    /// The connection was upgraded and carried what is not known.
    pub fn set_unread(&mut self) {
        self.is_unread = true;
    }
}

#[cfg(test)]
mod tests;
