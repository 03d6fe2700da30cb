//! JSON of any size, read as it arrives, kept in small.
//!
//! [`Skimmer`] keeps the *structure* of a document within a budget (long strings lose their end, long arrays their rest) and hands every
//! string to an observer on the way, so that text can be counted without being kept. Members that carry what a call cost are kept even
//! when an answer is so large that the budget is used up.

use crate::price::Money;

/// A JSON value, pruned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Node {
    #[default]
    Null,
    Bool(bool),
    /// As written: amounts may be finer than a float.
    Number(Box<str>),
    /// At most [`TEXT`] bytes of it.
    String(Box<str>),
    /// At most [`ITEMS`] of them.
    Array(Vec<Node>),
    Object(Vec<(Box<str>, Node)>),
}

/// Bytes of a string that are kept.
const TEXT: usize = 512;
/// Items of an array that are kept.
pub const ITEMS: usize = 256;
/// Levels that are kept.
const DEPTH: usize = 16;
/// Values of a document that are kept, apart from what is below [`RESERVED`].
const NODES: usize = 4096;
/// Values that are kept on top of that below each of these members.
const RESERVED_NODES: usize = 512;
const RESERVED: [&str; 13] = [
    "usage",
    "usage_info",
    "id",
    "model",
    "object",
    "type",
    "service_tier",
    "usageMetadata",
    "usage_metadata",
    "modelVersion",
    "x_groq",
    "meta",
    "error",
];
/// Bytes of a member's name that are kept.
const NAME: usize = 64;

impl Node {
    pub fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        // The last one counts when a name is repeated, as in most parsers.
        members
            .iter()
            .rev()
            .find(|(member, _)| &**member == name)
            .map(|(_, value)| value)
            .filter(|value| **value != Self::Null)
    }

    pub fn path(&self, names: &[&str]) -> Option<&Self> {
        names.iter().try_fold(self, |node, name| node.get(name))
    }

    pub fn text(&self) -> Option<&str> {
        if let Self::String(text) = self { Some(text) } else { None }
    }

    /// Members of an object, in order.
    pub fn members(&self) -> impl Iterator<Item = (&str, &Self)> {
        let members = if let Self::Object(members) = self { members.as_slice() } else { &[] };
        members.iter().map(|(name, value)| (&**name, value))
    }

    /// Whether there is a member of that name, be it null.
    pub fn has(&self, name: &str) -> bool {
        self.members().any(|(member, _)| member == name)
    }

    pub fn items(&self) -> &[Self] {
        if let Self::Array(items) = self { items } else { &[] }
    }

    pub fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }

    pub fn number(&self) -> Option<&str> {
        if let Self::Number(text) = self { Some(text) } else { None }
    }

    /// A count: a whole number that is not negative, also when written like `12.0`.
    pub fn count(&self) -> Option<u64> {
        let text = self.number()?;
        let whole = text
            .split_once('.')
            .map_or(text, |(whole, rest)| if rest.bytes().all(|byte| byte == b'0') { whole } else { "" });
        whole.parse().ok()
    }

    /// A number that is not negative, up to the next whole one.
    pub fn rounded_up(&self) -> Option<u64> {
        let (whole, fraction) = self.number()?.split_once('.').unwrap_or((self.number()?, ""));
        let whole: u64 = whole.parse().ok()?;
        Some(whole + u64::from(fraction.bytes().any(|byte| byte != b'0')))
    }

    /// An amount in USD, to the next pico-USD: providers write floats, like `5.4e-05` or with more places than there are.
    pub fn usd(&self) -> Option<Money> {
        let text = self.number()?;
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let exponent =
            exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?.checked_add(12)?;
        let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
        let scale = |exponent: u32| 10_i128.checked_pow(exponent);
        let pico = match u32::try_from(exponent) {
            Ok(up) => digits.checked_mul(scale(up)?)?,
            // Half up; what is far below a pico-USD is nothing.
            Err(_) => scale(exponent.unsigned_abs()).map_or(0, |unit| (digits + unit / 2).div_euclid(unit)),
        };
        Some(Money::from_pico_usd(pico))
    }

    /// The count of that name, 0 where there is none.
    pub fn count_of(&self, name: &str) -> u64 {
        self.get(name).and_then(Self::count).unwrap_or(0)
    }
}

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
const FREE: [&str; 9] =
    ["input", "args", "arguments", "response", "parameters", "input_schema", "inputSchema", "schema", "properties"];

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
}

#[derive(Debug)]
struct Level {
    node: Option<Node>,
    /// Name of the member being read; of the surrounding one in an array.
    name: Box<str>,
    is_object: bool,
    /// A name is expected, not a value.
    at_name: bool,
    is_reserved: bool,
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
        }
    }
}

impl Skimmer {
    /// Hands on the objects of an array that is the whole document, instead of keeping them: [`Self::items`].
    pub fn of_items() -> Self {
        Self { items: Some(Vec::new()), ..Self::default() }
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
                    self.take_text(is_name, plain, observer);
                    match after.split_first() {
                        Some((b'"', after)) => {
                            self.end_string(is_name, observer);
                            bytes = after;
                        }
                        Some((_, after)) => {
                            self.token = Token::String { is_name, escape: Escape::Backslash };
                            bytes = after;
                        }
                        None => return,
                    }
                }
                Token::String { is_name, escape } => {
                    self.escaped(is_name, escape, byte, observer);
                    bytes = rest;
                }
                Token::Bare => {
                    if matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r') {
                        observer.bare(self.place(), &self.text);
                        self.end_bare();
                    } else {
                        if self.text.len() < TEXT {
                            self.text.push(byte);
                        }
                        bytes = rest;
                    }
                }
                Token::None => {
                    self.structure(byte, observer);
                    bytes = rest;
                }
            }
        }
    }

    /// The document, as far as it came, and whether it was well-formed and whole.
    pub fn finish(mut self) -> (Node, bool) {
        if self.token == Token::Bare {
            self.end_bare();
        }
        let is_whole = self.stack.is_empty() && self.deeper == 0 && self.token == Token::None && !self.is_broken;
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
                self.text.clear();
                self.text.push(byte);
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
        self.text.extend_from_slice(text.get(..text.len().min(room)).unwrap_or_default());
        if !is_name {
            observer.piece(place(&self.stack), text);
        }
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

    fn end_string(&mut self, is_name: bool, observer: &mut dyn Observer) {
        self.token = Token::None;
        if !is_name {
            observer.end(self.place());
        }
        if is_name {
            let name = lossy(&self.text);
            if let Some(level) = self.stack.last_mut() {
                level.name = name;
            }
        } else if self.keeps() {
            let text = lossy(&self.text);
            self.put(Node::String(text));
        }
    }

    fn end_bare(&mut self) {
        self.token = Token::None;
        let node = match self.text.as_slice() {
            b"null" => Node::Null,
            b"true" => Node::Bool(true),
            b"false" => Node::Bool(false),
            [b'-' | b'0'..=b'9', ..] => Node::Number(lossy(&self.text)),
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
        let is_reserved =
            parent.is_some_and(|level| level.is_reserved || (level.is_object && RESERVED.contains(&&*level.name)));
        let name = parent.map_or("".into(), |level| level.name.clone());
        let is_free = parent
            .is_some_and(|level| level.is_free || (is_object && self.stack.len() > 1 && FREE.contains(&&*level.name)));
        let node = keeps.then(|| if is_object { Node::Object(Vec::new()) } else { Node::Array(Vec::new()) });
        self.stack.push(Level { node, name, is_object, at_name: is_object, is_reserved, is_free });
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
        if level.is_reserved || (level.is_object && RESERVED.contains(&&*level.name)) {
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
            None => self.done = Some(value),
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

fn lossy(text: &[u8]) -> Box<str> {
    // A string that was cut may end in the middle of a character.
    String::from_utf8_lossy(text).trim_end_matches(char::REPLACEMENT_CHARACTER).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{DEPTH, ITEMS, NODES, Node, Observer, Place, Skimmer, TEXT};

    fn read(text: &str) -> (Node, bool) {
        Skimmer::read(text.as_bytes(), &mut ())
    }

    /// What serde_json reads, for documents within the bounds.
    fn reference(value: &serde_json::Value) -> Node {
        match value {
            serde_json::Value::Null => Node::Null,
            serde_json::Value::Bool(value) => Node::Bool(*value),
            serde_json::Value::Number(number) => Node::Number(number.to_string().into()),
            serde_json::Value::String(text) => Node::String(text.as_str().into()),
            serde_json::Value::Array(items) => Node::Array(items.iter().map(reference).collect()),
            serde_json::Value::Object(members) => {
                Node::Object(members.iter().map(|(name, value)| (name.as_str().into(), reference(value))).collect())
            }
        }
    }

    #[derive(Default)]
    struct Texts(Vec<(String, String)>);
    impl Observer for Texts {
        fn begin(&mut self, place: Place<'_>) {
            self.0.push((place.member.into(), String::new()));
        }
        fn piece(&mut self, _: Place<'_>, text: &[u8]) {
            if let Some((_, all)) = self.0.last_mut() {
                all.push_str(&String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn texts_are_seen_with_their_member_and_without_escapes() {
        let mut texts = Texts::default();
        Skimmer::read(r#"{"a": "x\n\"é\ud83d\ude00", "b": ["p", {"c": "q"}], "d": "\ud83dx"}"#.as_bytes(), &mut texts);
        let seen: Vec<_> = texts.0.iter().map(|(member, text)| (member.as_str(), text.as_str())).collect();
        assert_eq!(seen, [("a", "x\n\"é😀"), ("b", "p"), ("c", "q"), ("d", "\u{fffd}x")]);
    }

    #[test]
    fn usage_survives_an_answer_of_any_size() {
        let mut text = String::from(r#"{"id": "r1", "data": ["#);
        for _ in 0..NODES {
            text.push_str(r#"{"embedding": [0.1, 0.2, 0.3]}, {"x": {"y": {"z": 1}}},"#);
        }
        text.push_str(r#"1], "usage": {"prompt_tokens": 7, "details": {"cached": 3}}}"#);
        let (node, is_whole) = read(&text);
        assert!(is_whole);
        assert_eq!(node.path(&["usage", "details", "cached"]).and_then(Node::count), Some(3));
        assert_eq!(node.get("usage").map(|usage| usage.count_of("prompt_tokens")), Some(7));
        assert!(node.get("data").is_some_and(|data| data.items().len() <= ITEMS));
    }

    #[test]
    fn long_strings_and_deep_documents_are_cut() {
        let (node, is_whole) = read(&format!(r#"{{"a": "{}"}}"#, "é".repeat(TEXT)));
        assert!(is_whole && node.get("a").and_then(Node::text).is_some_and(|text| text.len() <= TEXT));
        let depth = 100_000;
        let (_, is_whole) = read(&format!("{}1{}", r#"{"a":["#.repeat(depth), "]}".repeat(depth)));
        assert!(is_whole, "{DEPTH} levels are kept, all are followed");
    }

    #[test]
    fn what_is_cut_short_is_said_and_read_as_far_as_it_came() {
        let (node, is_whole) = read(r#"{"model": "m", "usage": {"input_tokens": 5, "outp"#);
        assert!(!is_whole);
        assert_eq!(node.path(&["usage", "input_tokens"]).and_then(Node::count), Some(5));
        for bad in ["", "{", "nonsense", r#"{"a": tru}"#, "]", r#"{"a"]"#] {
            assert!(!read(bad).1, "{bad}");
        }
    }

    #[test]
    fn items_of_an_array_are_handed_on_however_many_there_are() {
        let mut skimmer = Skimmer::of_items();
        let mut seen = 0;
        skimmer.push(b"[1, ", &mut ());
        for index in 0..NODES {
            skimmer.push(format!(r#"{{"usageMetadata": {{"n": {index}}}}},"#).as_bytes(), &mut ());
            for item in skimmer.items() {
                assert_eq!(item.path(&["usageMetadata", "n"]).and_then(Node::count), Some(index as u64));
                seen += 1;
            }
        }
        skimmer.push(b"2]", &mut ());
        assert!(skimmer.finish().1);
        assert_eq!(seen, NODES);
    }

    #[test]
    fn amounts_may_be_written_as_floats() {
        let usd = |text: &str| Node::Number(text.into()).usd().map(|money| money.to_string());
        for (text, amount) in [
            ("0.00012345", "0.00012345"),
            ("5.4e-05", "0.000054"),
            ("1E2", "100"),
            ("0.0000123456789016", "0.000012345679"),
            ("1e-40", "0"),
            ("0", "0"),
        ] {
            assert_eq!(usd(text).as_deref(), Some(amount), "{text}");
        }
        assert_eq!((usd("1e99"), usd("x")), (None, None));
        assert_eq!(Node::Number("12.01".into()).rounded_up(), Some(13));
    }

    #[test]
    fn counts_are_whole_numbers() {
        let count = |text: &str| Node::Number(text.into()).count();
        assert_eq!(
            (count("12"), count("12.0"), count("12.5"), count("-1"), count("1e3")),
            (Some(12), Some(12), None, None, None)
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,20}".prop_map(Into::into),
        ];
        leaf.prop_recursive(6, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Into::into),
                prop::collection::btree_map("[a-zé]{0,6}", inner, 0..8)
                    .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn agrees_with_serde_json_in_any_chunking(value in json(), size in 1_usize..20, pretty in any::<bool>()) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
            let mut skimmer = Skimmer::default();
            for piece in text.as_bytes().chunks(size) {
                skimmer.push(piece, &mut ());
            }
            let (node, is_whole) = skimmer.finish();
            // A string may end with a replacement character of its own, which the skimmer takes for the end of a cut one.
            prop_assume!(!text.contains('\u{fffd}'));
            prop_assert!(is_whole);
            prop_assert_eq!(node, reference(&value));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\u12dea".to_vec())], 0..200)) {
            Skimmer::read(&bytes, &mut ());
        }
    }
}
