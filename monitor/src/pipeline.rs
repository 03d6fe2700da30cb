//! `wire` → `meter` → `price` for one connection: bytes in, priced exchanges out.
//!
//! Live capture and replay both go through here, so that what is audited is what runs.
//!
//! **Invariant:** pure: no clock, no file, no socket. The same bytes at the same times give the same [`Step`]s.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use jiff::Timestamp;

use crate::{
    meter::{
        Basis, Billing, Bucket, CallNumber, Key, Kind, Meter, Metered, Prompt, Socket, ToolAsk, Usage, tool::Rules,
    },
    price::{Component, Money, Price, PriceBook, Query, Quote, Unpriced},
    wire::{self, Direction, End, Ending, Event, ExchangeId, Limits, RequestHead, StreamOffset, Unreadable},
};

/// What happened to an exchange, seen from the money's side.
#[derive(Debug)]
pub enum Step {
    Started {
        exchange: ExchangeId,
    },
    /// The request is known: what it asks for, if it is a call.
    Asked {
        exchange: ExchangeId,
        call: Option<Box<Asked>>,
    },
    /// More of the answer has come; what it costs by now, roughly.
    Running {
        exchange: ExchangeId,
        cost: Money,
    },
    Finished {
        exchange: ExchangeId,
        charge: Box<Charge>,
        /// Request and answer came to their end.
        is_complete: bool,
        /// Tools that the answer asks for, where fingerprints are wanted.
        asks: Vec<ToolAsk>,
    },
    /// A message of the client on a WebSocket that is no call.
    Passed,
    Unreadable(Unreadable),
}

/// What a call asks for, and what that may cost, where it can be said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Asked {
    pub model: Option<Box<str>>,
    pub tool: Option<Box<str>>,
    /// What the request costs without any answer.
    pub least: Option<Money>,
    /// With an answer of [`LIKELY_ANSWER`] tokens, or of as many as it allows if these are fewer.
    pub likely: Option<Money>,
    /// With an answer as long as it allows.
    pub worst: Option<Money>,
    /// Port that the request names, or that its scheme means.
    pub port: Option<u16>,
    /// What a model is asked, where fingerprints are wanted.
    pub prompt: Option<Prompt>,
    /// Host that it names, perhaps with a port.
    pub host: Option<Box<str>>,
}

/// Tokens of an answer of which nothing is known: a page of text.
const LIKELY_ANSWER: u64 = 1000;

/// An exchange with its price.
#[derive(Debug, Clone)]
pub struct Charge {
    pub metered: Metered,
    /// `None` where nothing is known to be due, or the price is not known.
    pub cost: Option<Money>,
    pub tokens_cost: Option<Money>,
    pub row: Option<Row>,
    /// What counts toward caps in place of a cost that is not known, or not known in full. No sum of charges has it.
    pub ceiling: Option<Money>,
    /// Why there is no cost, or what it leaves out.
    pub note: Option<String>,
}

impl Charge {
    /// What it counts toward caps, and how much of that is a ceiling.
    pub fn counts(&self) -> Option<(Money, Money)> {
        match (self.ceiling, self.cost) {
            (Some(ceiling), cost) => {
                let cost = cost.unwrap_or_default();
                let counted = ceiling.max(cost);
                Some((counted, counted - cost))
            }
            (None, cost) => cost.map(|cost| (cost, Money::ZERO)),
        }
    }
}

/// The price row that was used.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    pub catalogue: &'static str,
    pub provider: &'static str,
    pub model: &'static str,
    /// Name and hash of what an administrator has set for the call: `contract@0123456789ab`.
    #[serde(rename = "override", skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
}

/// Follows one connection.
pub struct Pipeline {
    connection: wire::Connection,
    exchanges: Exchanges,
}

struct Exchanges {
    prices: &'static PriceBook,
    /// `https`, or `http` for a connection without TLS.
    scheme: &'static str,
    open: VecDeque<Box<Open>>,
    at: Timestamp,
    tools: Arc<Rules>,
    always_estimates: bool,
    prints: Option<Key>,
    /// Exchanges that have begun.
    started: u64,
}

struct Open {
    id: ExchangeId,
    meter: Meter,
    url: String,
    started: Timestamp,
    /// Answer bytes since the running cost was last said.
    unsaid: usize,
    /// The last figures were said.
    is_final: bool,
    /// It became a WebSocket, whose calls are exchanges of their own.
    socket: Option<Box<Socket>>,
    head: SocketHead,
}

/// What of the request's head tells about the calls on a WebSocket that it opens.
type SocketHead = Option<Box<RequestHead>>;

/// Answer bytes after which the running cost is said again.
const SAY_EVERY: usize = 2048;

impl Pipeline {
    pub fn new(prices: &'static PriceBook, scheme: &'static str) -> Self {
        let exchanges = Exchanges {
            prices,
            scheme,
            open: VecDeque::new(),
            at: Timestamp::UNIX_EPOCH,
            tools: Arc::default(),
            always_estimates: false,
            prints: None,
            started: 0,
        };
        Self { connection: wire::Connection::new(Limits::default()), exchanges }
    }

    /// With an administrator's rules for calls of tools.
    #[must_use]
    pub fn with_tools(mut self, tools: Arc<Rules>) -> Self {
        self.exchanges.tools = tools;
        self
    }

    /// With fingerprints of what is asked.
    #[must_use]
    pub fn with_fingerprints(mut self, key: Key) -> Self {
        self.exchanges.prints = Some(key);
        self
    }

    /// Also estimates what the provider reports, to hold the two against each other.
    #[must_use]
    pub fn with_estimates(mut self) -> Self {
        self.exchanges.always_estimates = true;
        self
    }

    /// A request is about to be written; what is written is pushed when that is done.
    pub fn announce(&mut self) {
        self.connection.announce();
    }

    /// Bytes passed at this time.
    pub fn push(
        &mut self,
        direction: Direction,
        offset: StreamOffset,
        bytes: &[u8],
        at: Timestamp,
        out: &mut dyn FnMut(Step),
    ) {
        self.exchanges.at = at;
        self.connection.push(direction, offset, bytes, &mut Steps { exchanges: &mut self.exchanges, out });
    }

    /// What an exchange has cost by now, counted as its model does. [`Step::Running`] is quicker, and rough.
    pub fn counted_cost(&self, exchange: ExchangeId) -> Option<Money> {
        let open = self.exchanges.open.iter().find(|open| open.id == exchange)?;
        cost_so_far(self.exchanges.prices, open, self.exchanges.at, &open.meter.counted())
    }

    /// The connection ended.
    pub fn close(&mut self, at: Timestamp, out: &mut dyn FnMut(Step)) {
        self.exchanges.at = at;
        self.connection.close(&mut Steps { exchanges: &mut self.exchanges, out });
    }
}

struct Steps<'a> {
    exchanges: &'a mut Exchanges,
    out: &'a mut dyn FnMut(Step),
}

impl wire::Sink for Steps<'_> {
    fn event(&mut self, exchange: ExchangeId, event: Event<'_>) {
        match event {
            Event::Request(head) => {
                let url = self.exchanges.url(head);
                let mut meter = Meter::with_tools(head, Arc::clone(&self.exchanges.tools));
                if self.exchanges.always_estimates {
                    meter.estimate_always();
                }
                if let Some(key) = self.exchanges.prints {
                    meter.fingerprint(key);
                }
                self.exchanges.open.push_back(Box::new(Open {
                    id: exchange,
                    meter,
                    url,
                    started: self.exchanges.at,
                    unsaid: 0,
                    is_final: false,
                    socket: None,
                    head: upgradable(head),
                }));
                self.exchanges.started += 1;
                (self.out)(Step::Started { exchange });
            }
            Event::Socket(direction, message) => {
                let before = self.exchanges.started;
                self.with_socket(exchange, &mut |socket, out| socket.message(direction, &message, out));
                if direction == Direction::Request && self.exchanges.started == before {
                    (self.out)(Step::Passed);
                }
            }
            Event::End(end) => {
                self.with_socket(exchange, &mut |socket, out| socket.close(end, out));
                if let Some(index) = self.exchanges.open.iter().position(|open| open.id == exchange)
                    && let Some(mut open) = self.exchanges.open.remove(index)
                {
                    if open.socket.as_ref().is_some_and(|socket| socket.is_unread()) {
                        open.meter.set_unread();
                    }
                    if self.exchanges.open.is_empty() {
                        // An idle connection holds next to nothing.
                        self.exchanges.open = VecDeque::new();
                    }
                    let is_complete = end.how == Ending::Complete;
                    let asks = open.meter.tools_asked();
                    let charge = Box::new(self.exchanges.charge(*open, end));
                    (self.out)(Step::Finished { exchange, charge, is_complete, asks });
                }
            }
            _ => self.pass_on(exchange, &event),
        }
    }

    fn unreadable(&mut self, why: Unreadable) {
        (self.out)(Step::Unreadable(why));
    }
}

/// Receives the events of the calls on a WebSocket.
type CallEvents<'a> = &'a mut dyn FnMut(CallNumber, Event<'_>);

/// Requests that may become WebSockets (RFC 6455 §4.1, RFC 8441 §4).
fn upgradable(head: &RequestHead) -> SocketHead {
    let may_be = matches!(&*head.method, "GET" | "CONNECT");
    may_be.then(|| {
        Box::new(RequestHead { target: head.target.clone(), host: head.host.clone(), ..RequestHead::default() })
    })
}

/// Marks the calls on a WebSocket: their ids are made of that of the exchange that opened it and their ordinal on it.
const ON_SOCKET: u64 = 1 << 63;
const ORDINAL_BITS: u32 = 24;

fn on_socket(socket: ExchangeId, call: CallNumber) -> ExchangeId {
    ExchangeId(ON_SOCKET | (socket.0 << ORDINAL_BITS) & !ON_SOCKET | call & ((1 << ORDINAL_BITS) - 1))
}

impl Steps<'_> {
    /// Lets the WebSocket that an exchange became tell its calls.
    fn with_socket(&mut self, exchange: ExchangeId, work: &mut dyn FnMut(&mut Socket, CallEvents<'_>)) {
        let Some(open) = self.exchanges.open.iter_mut().find(|open| open.id == exchange) else { return };
        if open.socket.is_none()
            && let Some(head) = open.head.take()
        {
            open.socket = Some(Box::new(Socket::new(&head)));
        }
        let Some(mut socket) = open.socket.take() else { return };
        work(&mut socket, &mut |call, event| wire::Sink::event(self, on_socket(exchange, call), event));
        if let Some(open) = self.exchanges.open.iter_mut().find(|open| open.id == exchange) {
            open.socket = Some(socket);
        }
    }

    fn pass_on(&mut self, exchange: ExchangeId, event: &Event<'_>) {
        let (prices, at) = (self.exchanges.prices, self.exchanges.at);
        let Some(open) = self.exchanges.open.iter_mut().find(|open| open.id == exchange) else { return };
        open.meter.on(event);
        match event {
            Event::RequestEnd => {
                let prompt = open.meter.prompt();
                let call = open.meter.may_cost().then(|| Box::new(Asked { prompt, ..asked(prices, open, at) }));
                (self.out)(Step::Asked { exchange, call });
            }
            Event::ResponseBody(data) => open.unsaid += data.len(),
            Event::Message(message) => open.unsaid += message.data.len(),
            _ => {}
        }
        // The provider's own last figures are said at once: the next request may be on its way.
        let is_final = open.meter.is_final() && !open.is_final;
        if (open.unsaid >= SAY_EVERY || is_final) && open.meter.may_cost() {
            open.is_final |= is_final;
            open.unsaid = 0;
            if let Some(cost) = running_cost(prices, open, at) {
                (self.out)(Step::Running { exchange, cost });
            }
        }
    }
}

fn asked(prices: &PriceBook, open: &Open, at: Timestamp) -> Asked {
    let (model, tool) = (open.meter.model_requested().map(Into::into), open.meter.tool().map(Into::into));
    let (port, host) = (port(&open.url), authority(&open.url).map(Into::into));
    if let Some(least) = open.meter.least_tool_cost() {
        return Asked { model, tool, least: Some(least), likely: Some(least), worst: None, port, prompt: None, host };
    }
    let used = open.meter.running();
    let with_answer = |tokens: u64| {
        let mut usage = used;
        usage.add(Bucket::OutputText, tokens);
        cost_so_far(prices, open, at, &usage)
    };
    let most = open.meter.most_output();
    Asked {
        model,
        tool,
        least: cost_so_far(prices, open, at, &used),
        likely: with_answer(most.unwrap_or(LIKELY_ANSWER).min(LIKELY_ANSWER)),
        worst: most.and_then(with_answer),
        port,
        prompt: None,
        host,
    }
}

fn authority(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    rest.split('/').next().filter(|authority| !authority.is_empty())
}

fn port(url: &str) -> Option<u16> {
    let (scheme, rest) = url.split_once("://")?;
    let authority = rest.split('/').next()?;
    // An IPv6 address has colons of its own, in brackets.
    match authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) {
        Some((_, port)) => port.parse().ok(),
        None => Some(if scheme == "https" { 443 } else { 80 }),
    }
}

/// What an exchange counts toward a cap by now.
fn running_cost(prices: &PriceBook, open: &Open, at: Timestamp) -> Option<Money> {
    cost_so_far(prices, open, at, &open.meter.running())
}

/// What this usage counts toward a cap: its cost, or where that is not known, the ceiling.
fn cost_so_far(prices: &PriceBook, open: &Open, at: Timestamp, usage: &Usage) -> Option<Money> {
    let query = Query {
        url: Some(&open.url),
        took: Some(open.took(at)),
        ..Query::new(open.meter.model_requested().unwrap_or_default(), open.started)
    };
    match prices.rates(&query) {
        Ok(rates) => Some(rates.cost(usage)),
        Err(why) => prices.ceiling(why, usage),
    }
}

/// When a request was sent, which tells its price, and how long the call took.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Timestamp,
    took: Duration,
}

impl Open {
    fn took(&self, at: Timestamp) -> Duration {
        Duration::try_from(at.duration_since(self.started)).unwrap_or_default()
    }
}

impl Exchanges {
    fn url(&self, head: &RequestHead) -> String {
        let path = head.target.split('?').next().unwrap_or_default();
        [self.scheme, "://", head.host.as_deref().unwrap_or_default(), path].concat()
    }

    fn charge(&self, open: Open, end: End) -> Charge {
        let sent = Sent { at: open.started, took: open.took(self.at) };
        let metered = open.meter.finish(end);
        if let Kind::Tool(_) = metered.kind {
            return by_rule(metered);
        }
        match metered.billing {
            Billing::Free => Charge {
                metered,
                cost: Some(Money::ZERO),
                tokens_cost: Some(Money::ZERO),
                row: None,
                ceiling: None,
                note: None,
            },
            Billing::Pending => Charge {
                metered,
                cost: None,
                tokens_cost: None,
                row: None,
                ceiling: None,
                note: Some("the answer comes later".into()),
            },
            Billing::Unknown => Charge {
                metered,
                cost: None,
                tokens_cost: None,
                row: None,
                ceiling: None,
                note: Some("billed by what its answer does not tell, or by an API that is not read yet".into()),
            },
            Billing::Charge | Billing::Once if metered.parts.is_empty() => self.price(metered, &open.url, sent),
            Billing::Charge | Billing::Once => self.price_parts(metered, &open.url, sent),
        }
    }

    /// Prices the work of each model of a call by its own rates. The row is that of the model that cost the most.
    fn price_parts(&self, metered: Metered, url: &str, sent: Sent) -> Charge {
        let mut rest = metered.usage;
        let mut works: Vec<(Metered, Option<u64>)> = Vec::new();
        for part in &metered.parts {
            for (bucket, tokens) in part.usage.iter() {
                rest.set(bucket, rest.get(bucket).saturating_sub(tokens));
            }
            let work = Metered {
                model_requested: None,
                model_reported: Some(part.model.clone()),
                usage: part.usage,
                units: Default::default(),
                parts: Vec::new(),
                ..metered.clone()
            };
            works.push((work, Some(part.size)));
        }
        if !rest.is_zero() || !metered.units.is_zero() {
            works.push((Metered { usage: rest, parts: Vec::new(), ..metered.clone() }, None));
        }
        let mut all = Charge { metered, cost: None, tokens_cost: None, row: None, ceiling: None, note: None };
        let (mut ceiling, mut has_ceiling) = (None, false);
        let mut sent = sent;
        let mut dearest = Money::ZERO;
        for (work, size) in works {
            let charge = self.price_of_size(work, url, sent, size);
            // The call took its time once, whatever the number of models.
            sent.took = Duration::ZERO;
            ceiling = sum(ceiling, charge.ceiling.or(charge.cost));
            has_ceiling |= charge.ceiling.is_some();
            all.cost = sum(all.cost, charge.cost);
            all.tokens_cost = sum(all.tokens_cost, charge.tokens_cost);
            all.note = charge.note.or(all.note);
            if charge.cost >= Some(dearest) && charge.row.is_some() {
                (dearest, all.row) = (charge.cost.unwrap_or_default(), charge.row);
            }
        }
        all.ceiling = ceiling.filter(|_| has_ceiling);
        all
    }

    fn price(&self, metered: Metered, url: &str, sent: Sent) -> Charge {
        self.price_of_size(metered, url, sent, None)
    }

    /// `size` is the input of one call, where the usage is that of several.
    fn price_of_size(&self, metered: Metered, url: &str, sent: Sent, size: Option<u64>) -> Charge {
        let ask = |model: Option<&str>| {
            let query = Query {
                url: Some(url),
                service: metered.service.as_service(),
                took: Some(sent.took),
                size,
                ..Query::new(model.unwrap_or_default(), sent.at)
            };
            self.prices.quote(&query, &metered.usage, &metered.units)
        };
        // Some servers report an internal name that no price list has; then the name that was asked for is the one on the bill.
        let quote = match ask(metered.model()) {
            Quote::Unpriced(why) => match ask(metered.model_requested.as_deref()) {
                Quote::Priced(price) => Quote::Priced(price),
                Quote::Unpriced(_) => Quote::Unpriced(why),
            },
            priced => priced,
        };
        let reported = metered.provider_cost.filter(|_| metered.basis == Basis::Provider);
        match (reported, quote) {
            (Some(cost), Quote::Priced(price)) if let Some(set) = price.row.set => match set.percentage_of(cost) {
                Some(cost) => reported_cost(metered, cost, Some(&price)),
                // Another contract than the one that the provider reports by.
                None => self.by_row(Metered { basis: Basis::Measured, ..metered }, &price),
            },
            (Some(cost), Quote::Priced(price)) => reported_cost(metered, cost, Some(&price)),
            (Some(cost), Quote::Unpriced(_)) => reported_cost(metered, cost, None),
            (None, Quote::Priced(price)) => self.by_row(metered, &price),
            (None, Quote::Unpriced(why)) => {
                let ceiling = self.prices.ceiling(why, &metered.usage);
                Charge { metered, cost: None, tokens_cost: None, row: None, ceiling, note: Some(why.to_string()) }
            }
        }
    }

    /// A row may lack a price for something that was used. If it has none for anything, the call is unpriced and not free.
    fn by_row(&self, metered: Metered, price: &Price<'static>) -> Charge {
        let missing: Vec<String> = price.unpriced_components.iter().map(ToString::to_string).collect();
        let note = (!missing.is_empty()).then(|| format!("no price for {}", missing.join(", ")));
        let is_priced = missing.is_empty() || !price.total.is_zero();
        let unpriced = price.unpriced_components.iter().filter_map(|component| match component {
            Component::Tokens(bucket) => Some((*bucket, metered.usage.get(*bucket))),
            Component::Count(_) | Component::MachineTime => None,
        });
        let unpriced: Usage = unpriced.collect();
        let provider = Unpriced::UnknownModel { provider: price.row.provider };
        let ceiling = self.prices.ceiling(provider, &unpriced).filter(|ceiling| !ceiling.is_zero());
        Charge {
            metered,
            cost: is_priced.then_some(price.total),
            tokens_cost: is_priced.then_some(price.tokens),
            row: Some(row(price)),
            ceiling: ceiling.map(|ceiling| price.total + ceiling),
            note,
        }
    }
}

fn sum(one: Option<Money>, other: Option<Money>) -> Option<Money> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one + other),
        (known, None) | (None, known) => known,
    }
}

/// The call of a tool. One that no rule names may cost something elsewhere, which nobody has told us.
fn by_rule(metered: Metered) -> Charge {
    let cost = metered.tool_cost.or(Some(Money::ZERO));
    Charge { metered, cost, tokens_cost: Some(Money::ZERO), row: None, ceiling: None, note: None }
}

/// What the provider charged, beside what the tokens cost by the table: the two can be held against each other.
fn reported_cost(metered: Metered, cost: Money, price: Option<&Price<'static>>) -> Charge {
    let tokens_cost = price.map(|price| price.tokens);
    Charge { metered, cost: Some(cost), tokens_cost, row: price.map(row), ceiling: None, note: None }
}

fn row(price: &Price<'static>) -> Row {
    let set = price.row.set.map(|set| format!("{}@{}", set.name(), set.hash()));
    Row { catalogue: price.row.catalogue, provider: price.row.provider, model: price.row.model, set }
}

impl Charge {
    /// It is for a call of a tool.
    pub const fn is_tool(&self) -> bool {
        matches!(self.metered.kind, Kind::Tool(_))
    }

    /// Usage that the charge is for.
    pub fn usage(&self) -> &Usage {
        &self.metered.usage
    }
}
