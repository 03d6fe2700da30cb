//! JSON of any size, read as it arrives, kept in small.
//!
//! [`Skimmer`] keeps the *structure* of a document within a budget (long strings lose their end, long arrays their rest) and hands every
//! string to an observer on the way, so that text can be counted without being kept. Members that carry what a call cost are kept even
//! when an answer is so large that the budget is used up.

mod node;
#[cfg(test)]
mod tests;

use compact_str::CompactString;

pub use self::node::Node;

/// Bytes of a string that are kept.
const TEXT: usize = 512;
/// Items of an array that are kept.
pub const ITEMS: usize = 256;
/// Levels that are kept.
const DEPTH: usize = 16;
/// Values of a document that are kept, apart from what is below members that carry what a call cost.
const NODES: usize = 4096;
/// Values that are kept on top of that below those members.
const RESERVED_NODES: usize = 512;

/// Members that carry what a call cost.
fn is_reserved(name: &str) -> bool {
    matches!(
        name,
        "usage"
            | "usage_info"
            | "id"
            | "model"
            | "object"
            | "type"
            | "service_tier"
            | "usageMetadata"
            | "usage_metadata"
            | "modelVersion"
            | "x_groq"
            | "meta"
            | "error"
    )
}

/// Bytes of a member's name that are kept.
const NAME: usize = 64;

/// Where a value stands.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The nearest member around it.
    pub member: &'a str,
    /// The member of the document in which it is.
    pub top: &'a str,
    /// It is within an object whose members are anybody's: arguments of a tool, its result, a schema.
    pub is_free: bool,
}

/// Sees the strings of a document on their way: where each is, and its text in pieces without escapes.
pub trait Observer {
    /// A string value begins.
    fn begin(&mut self, _place: Place<'_>) {}
    fn piece(&mut self, _place: Place<'_>, _text: &[u8]) {}
    /// It ended.
    fn end(&mut self, _place: Place<'_>) {}
    /// An object or an array begins there.
    fn level(&mut self, _place: Place<'_>) {}
    /// A number, `true`, `false` or `null`.
    fn bare(&mut self, _place: Place<'_>, _text: &[u8]) {}
}

impl Observer for () {}

/// Objects with these names, below the first level, have members of any name.
fn is_free(name: &str) -> bool {
    matches!(
        name,
        "input"
            | "args"
            | "arguments"
            | "response"
            | "parameters"
            | "input_schema"
            | "inputSchema"
            | "schema"
            | "properties"
    )
}

/// Reads one document, or several that follow each other, of which the last one is kept.
#[derive(Debug)]
pub struct Skimmer {
    stack: Vec<Level>,
    /// Levels below the ones on the stack.
    deeper: usize,
    token: Token,
    text: Vec<u8>,
    /// Value of the last whole document.
    done: Option<Node>,
    nodes: usize,
    reserved_nodes: usize,
    is_broken: bool,
    /// Objects of an array that is the whole document, as they come.
    items: Option<Vec<Node>>,
    /// So with documents that follow each other.
    has_lines: bool,
}

#[derive(Debug)]
struct Level {
    node: Option<Node>,
    /// Name of the member being read; of the surrounding one in an array.
    name: CompactString,
    is_object: bool,
    /// A name is expected, not a value.
    at_name: bool,
    /// It lies within a member that carries what a call cost.
    is_reserved: bool,
    /// The member being read is one.
    at_reserved: bool,
    is_free: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    None,
    String {
        is_name: bool,
        escape: Escape,
    },
    /// Number, `true`, `false`, `null`.
    Bare,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    None,
    Backslash,
    /// `\u` with this many digits read; `high` is a surrogate that waits for its other half.
    Unicode {
        digits: u8,
        value: u16,
        high: u16,
    },
    /// After a high surrogate, before `\`, and before `u`.
    Half {
        high: u16,
        backslash: bool,
    },
}

impl Default for Skimmer {
    fn default() -> Self {
        Self {
            stack: Vec::new(),
            deeper: 0,
            token: Token::None,
            text: Vec::new(),
            done: None,
            nodes: 0,
            reserved_nodes: 0,
            is_broken: false,
            items: None,
            has_lines: false,
        }
    }
}

impl Skimmer {
    /// Hands on the objects of an array that is the whole document, instead of keeping them: [`Self::items`].
    pub fn of_items() -> Self {
        Self { items: Some(Vec::new()), ..Self::default() }
    }

    /// Also hands on the objects of lines.
    pub fn of_lines() -> Self {
        Self { has_lines: true, ..Self::of_items() }
    }

    /// Objects that were completed since this was last asked.
    pub fn items(&mut self) -> Vec<Node> {
        self.items.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Reads a whole document at once.
    pub fn read(bytes: &[u8], observer: &mut dyn Observer) -> (Node, bool) {
        let mut skimmer = Self::default();
        skimmer.push(bytes, observer);
        skimmer.finish()
    }

    /// Takes the next bytes of the document.
    pub fn push(&mut self, mut bytes: &[u8], observer: &mut dyn Observer) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match self.token {
                Token::String { is_name, escape: Escape::None } => {
                    let end = memchr::memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
                    let (plain, after) = bytes.split_at(end);
                    match after.split_first() {
                        Some((b'"', after)) => {
                            self.end_text(is_name, plain, observer);
                            bytes = after;
                        }
                        Some((_, after)) => {
                            self.take_text(is_name, plain, observer);
                            self.token = Token::String { is_name, escape: Escape::Backslash };
                            bytes = after;
                        }
                        None => return self.take_text(is_name, plain, observer),
                    }
                }
                Token::String { is_name, escape } => {
                    self.escaped(is_name, escape, byte, observer);
                    bytes = rest;
                }
                Token::Bare => {
                    let end =
                        bytes.iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'));
                    let (run, after) = bytes.split_at(end.unwrap_or(bytes.len()));
                    // What came as a whole need not be gathered.
                    if end.is_some() && self.text.is_empty() {
                        self.end_bare(start_of(run, TEXT), observer);
                    } else {
                        let room = TEXT.saturating_sub(self.text.len());
                        self.text.extend_from_slice(start_of(run, room));
                        if end.is_some() {
                            self.end_gathered(observer);
                        }
                    }
                    bytes = after;
                }
                Token::None => {
                    self.structure(byte, observer);
                    if self.token != Token::Bare {
                        bytes = rest;
                    }
                }
            }
        }
    }

    /// The document, as far as it came, and whether it was well-formed and whole.
    pub fn finish(mut self) -> (Node, bool) {
        if self.token == Token::Bare {
            // Nobody is told: more of it might have come.
            self.end_gathered(&mut ());
        }
        let is_whole = self.stack.is_empty() && self.deeper == 0 && self.token == Token::None && !self.is_broken;
        if self.has_lines && !is_whole {
            // A line that was cut short says nothing; the one before it does.
            return (self.done.unwrap_or_default(), false);
        }
        while !self.stack.is_empty() {
            self.end_level();
        }
        let has_document = self.done.is_some();
        (self.done.unwrap_or_default(), is_whole && has_document)
    }

    fn structure(&mut self, byte: u8, observer: &mut dyn Observer) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'{' | b'[' => {
                observer.level(self.place());
                self.begin_level(byte == b'{');
            }
            b'}' | b']' => {
                if self.deeper > 0 {
                    self.deeper -= 1;
                } else {
                    self.is_broken |= self.stack.last().is_none_or(|level| level.is_object != (byte == b'}'));
                    self.end_level();
                }
            }
            b',' => {
                if self.deeper == 0
                    && let Some(level) = self.stack.last_mut()
                {
                    level.at_name = level.is_object;
                }
            }
            b':' => {
                if self.deeper == 0
                    && let Some(level) = self.stack.last_mut()
                {
                    level.at_name = false;
                }
            }
            b'"' => {
                // Below the kept levels names and values look alike; both are passed over.
                let is_name = self.deeper == 0 && self.stack.last().is_some_and(|level| level.at_name);
                self.text.clear();
                self.token = Token::String { is_name, escape: Escape::None };
                if !is_name {
                    observer.begin(self.place());
                }
            }
            _ => {
                // Its first byte is read once more, with those after it.
                self.text.clear();
                self.token = Token::Bare;
            }
        }
    }

    fn place(&self) -> Place<'_> {
        place(&self.stack)
    }

    fn take_text(&mut self, is_name: bool, text: &[u8], observer: &mut dyn Observer) {
        if text.is_empty() {
            return;
        }
        let limit = if is_name { NAME } else { TEXT };
        let room = limit.saturating_sub(self.text.len());
        self.text.extend_from_slice(start_of(text, room));
        if !is_name {
            observer.piece(place(&self.stack), text);
        }
    }

    /// The rest of a string has come.
    fn end_text(&mut self, is_name: bool, rest: &[u8], observer: &mut dyn Observer) {
        if self.text.is_empty() && !rest.is_empty() {
            // It came as a whole and need not be gathered.
            if !is_name {
                observer.piece(place(&self.stack), rest);
            }
            let limit = if is_name { NAME } else { TEXT };
            return self.end_string(is_name, start_of(rest, limit), observer);
        }
        self.take_text(is_name, rest, observer);
        let text = std::mem::take(&mut self.text);
        self.end_string(is_name, &text, observer);
        self.text = text;
    }

    fn escaped(&mut self, is_name: bool, escape: Escape, byte: u8, observer: &mut dyn Observer) {
        let mut next = Escape::None;
        match escape {
            Escape::None => {}
            Escape::Backslash => match byte {
                b'u' => next = Escape::Unicode { digits: 0, value: 0, high: 0 },
                b'n' => self.take_text(is_name, b"\n", observer),
                b't' => self.take_text(is_name, b"\t", observer),
                b'r' => self.take_text(is_name, b"\r", observer),
                b'b' => self.take_text(is_name, b"\x08", observer),
                b'f' => self.take_text(is_name, b"\x0c", observer),
                other => self.take_text(is_name, &[other], observer),
            },
            Escape::Unicode { digits, value, high } => {
                let Some(digit) = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok()) else {
                    self.is_broken = true;
                    self.token = Token::String { is_name, escape: Escape::None };
                    return;
                };
                let value = value << 4 | digit;
                if digits < 3 {
                    next = Escape::Unicode { digits: digits + 1, value, high };
                } else {
                    next = self.code_unit(is_name, value, high, observer);
                }
            }
            Escape::Half { high, backslash: false } if byte == b'\\' => next = Escape::Half { high, backslash: true },
            Escape::Half { high, backslash: true } if byte == b'u' => {
                next = Escape::Unicode { digits: 0, value: 0, high }
            }
            Escape::Half { backslash, .. } => {
                // A lone surrogate, as some encoders write it when they cut a string.
                self.take_text(is_name, "\u{fffd}".as_bytes(), observer);
                self.token = Token::String { is_name, escape: Escape::None };
                if backslash {
                    self.escaped(is_name, Escape::Backslash, byte, observer);
                } else {
                    self.push(&[byte], observer);
                }
                return;
            }
        }
        self.token = Token::String { is_name, escape: next };
    }

    fn code_unit(&mut self, is_name: bool, unit: u16, high: u16, observer: &mut dyn Observer) -> Escape {
        if high == 0 && (0xd800..0xdc00).contains(&unit) {
            return Escape::Half { high: unit, backslash: false };
        }
        let units = if high == 0 { [unit, 0] } else { [high, unit] };
        let used = if high == 0 { &units[..1] } else { &units[..] };
        for decoded in char::decode_utf16(used.iter().copied()) {
            let mut buffer = [0; 4];
            let text = decoded.unwrap_or(char::REPLACEMENT_CHARACTER).encode_utf8(&mut buffer);
            self.take_text(is_name, text.as_bytes(), observer);
        }
        Escape::None
    }

    fn end_string(&mut self, is_name: bool, text: &[u8], observer: &mut dyn Observer) {
        self.token = Token::None;
        if !is_name {
            observer.end(self.place());
        }
        if is_name {
            if let Some(level) = self.stack.last_mut() {
                level.name = lossy(text);
                level.at_reserved = level.is_object && is_reserved(&level.name);
            }
        } else if self.keeps() {
            self.put(Node::String(lossy(text)));
        }
    }

    fn end_gathered(&mut self, observer: &mut dyn Observer) {
        let text = std::mem::take(&mut self.text);
        self.end_bare(&text, observer);
        self.text = text;
    }

    fn end_bare(&mut self, text: &[u8], observer: &mut dyn Observer) {
        observer.bare(self.place(), text);
        self.token = Token::None;
        let node = match text {
            b"null" => Node::Null,
            b"true" => Node::Bool(true),
            b"false" => Node::Bool(false),
            [b'-' | b'0'..=b'9', ..] => Node::Number(lossy(text)),
            _ => {
                self.is_broken = true;
                Node::Null
            }
        };
        if self.keeps() {
            self.put(node);
        }
    }

    fn begin_level(&mut self, is_object: bool) {
        if self.deeper > 0 || self.stack.len() >= DEPTH {
            self.deeper += 1;
            return;
        }
        if self.stack.is_empty() || self.is_between_items() {
            // A new document: budgets begin anew.
            (self.nodes, self.reserved_nodes) = (0, 0);
        }
        let keeps = self.keeps();
        let parent = self.stack.last();
        let is_reserved = parent.is_some_and(|level| level.is_reserved || level.at_reserved);
        let name = parent.map_or(CompactString::const_new(""), |level| level.name.clone());
        // Items of a list at the first level are messages, whatever it is called.
        let is_below_first = self.stack.len() > 2 || (self.stack.len() == 2 && parent.is_some_and(|it| it.is_object));
        let is_free =
            parent.is_some_and(|level| level.is_free || (is_object && is_below_first && is_free(&level.name)));
        let node = keeps.then(|| match (is_object, self.stack.is_empty()) {
            // It would grow to this at once.
            (true, true) => Node::Object(Vec::with_capacity(8)),
            (true, false) => Node::Object(Vec::new()),
            (false, _) => Node::Array(Vec::new()),
        });
        let at_reserved = is_object && self::is_reserved(&name);
        self.stack.push(Level { node, name, is_object, at_name: is_object, is_reserved, at_reserved, is_free });
    }

    fn end_level(&mut self) {
        let Some(level) = self.stack.pop() else { return };
        if let Some(node) = level.node {
            self.put(node);
        }
    }

    /// Whether a value that begins here is kept. Taken from the budget as it is asked.
    fn keeps(&mut self) -> bool {
        if self.deeper > 0 {
            return false;
        }
        let Some(level) = self.stack.last() else { return true };
        let Some(node) = &level.node else { return false };
        if matches!(node, Node::Array(items) if items.len() >= ITEMS) {
            return false;
        }
        if level.is_reserved || level.at_reserved {
            self.reserved_nodes += 1;
            if self.reserved_nodes <= RESERVED_NODES {
                return true;
            }
        }
        self.nodes += 1;
        self.nodes <= NODES
    }

    fn is_between_items(&self) -> bool {
        self.items.is_some() && self.stack.len() == 1 && self.stack.iter().all(|level| !level.is_object)
    }

    fn put(&mut self, value: Node) {
        if self.is_between_items()
            && let (Some(items), Node::Object(_)) = (&mut self.items, &value)
        {
            return items.push(value);
        }
        match self.stack.last_mut() {
            None => {
                if let Some(items) = self.items.as_mut().filter(|_| self.has_lines) {
                    items.push(std::mem::take(&mut self.done).unwrap_or_default());
                }
                self.done = Some(value);
            }
            Some(level) => match &mut level.node {
                Some(Node::Object(members)) => members.push((level.name.clone(), value)),
                Some(Node::Array(items)) => items.push(value),
                _ => {}
            },
        }
    }
}

fn place(stack: &[Level]) -> Place<'_> {
    let (first, last) = (stack.first(), stack.last());
    Place {
        member: last.map_or("", |level| &level.name),
        top: first.map_or("", |level| &level.name),
        is_free: last.is_some_and(|level| level.is_free),
    }
}

fn start_of(text: &[u8], most: usize) -> &[u8] {
    text.get(..most).unwrap_or(text)
}

fn lossy(text: &[u8]) -> CompactString {
    // A string that was cut may end in the middle of a character.
    let without_end = |text: &str| CompactString::new(text.trim_end_matches(char::REPLACEMENT_CHARACTER));
    match std::str::from_utf8(text) {
        Ok(text) if text.ends_with(char::REPLACEMENT_CHARACTER) => without_end(text),
        Ok(text) => CompactString::new(text),
        Err(_) => without_end(&String::from_utf8_lossy(text)),
    }
}
