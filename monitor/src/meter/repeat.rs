//! Messages of a stream that differ from one before in a single string: the next words.
//!
//! Most of a streamed answer is such messages. Once one of them has been read as a whole and has changed nothing in the report, the ones that are the
//! same but for that string can change nothing either: only the string is taken. Some APIs also number their messages, or pad them so that their
//! length does not tell the words: nobody reads that, so it may differ too.

use std::ops::Range;

use super::{
    estimate::Text,
    json::{Observer, Place, Skimmer},
};

/// A message that changes nothing, with holes where its text was, and what tells it from the next one and means nothing.
#[derive(Debug)]
pub struct Repeat {
    event: Option<Box<str>>,
    /// The holes, and what is in front of each.
    holes: Box<[(Box<[u8]>, Hole)]>,
    after: Box<[u8]>,
    member: Box<str>,
    top: Box<str>,
}

/// What a hole may be filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hole {
    /// A string of text, of which there is one.
    Text,
    /// A number without a sign.
    Digits,
    /// A string without escapes.
    Padding,
}

/// Bytes around the holes up to which a message is remembered.
const MOST: usize = 4096;
const MOST_HOLES: usize = 4;
/// Digits of the largest number that a message may bear.
const MOST_DIGITS: usize = 20;

/// Members whose strings are text and nothing that a report is made from.
fn is_text(name: &str) -> bool {
    matches!(name, "content" | "text" | "delta" | "partial_json" | "thinking" | "reasoning_content" | "arguments")
}

/// Members of a message that no report is made from and no text is in.
fn is_idle(place: Place<'_>, hole: Hole) -> bool {
    let is_idle = match hole {
        Hole::Text => false,
        // OpenAI's Responses.
        Hole::Digits => place.top == "sequence_number",
        // OpenAI; Bedrock, Cloudflare and Mistral.
        Hole::Padding => matches!(place.top, "obfuscation" | "p"),
    };
    is_idle && place.member == place.top && !place.is_free
}

impl Repeat {
    /// `None` if more than a piece of text in `data` was seen, or it lies where it may mean something.
    pub fn new(event: Option<&str>, data: &[u8], seen: Seen) -> Option<Self> {
        let Seen { text: SeenText::Once { hole, member, top }, idle } = seen else { return None };
        let is_quoted = |hole: &Range<usize>| {
            let quote = |at: Option<usize>| at.and_then(|at| data.get(at)) == Some(&b'"');
            quote(hole.start.checked_sub(1)) && quote(Some(hole.end))
        };
        if !is_quoted(&hole) || !is_text(&member) {
            return None;
        }
        // A string with escapes comes in pieces: it stays as it is.
        let idle = idle.into_iter().filter(|(range, hole)| *hole == Hole::Digits || is_quoted(range));
        let mut holes: Vec<_> = idle.chain([(hole, Hole::Text)]).collect();
        holes.sort_by_key(|(range, _)| range.start);
        let mut end = 0;
        let mut parts = Vec::new();
        for (range, hole) in holes {
            parts.push((Box::from(data.get(end..range.start)?), hole));
            end = range.end;
        }
        let after = data.get(end..)?;
        let fixed: usize = parts.iter().map(|(before, _): &(Box<[u8]>, Hole)| before.len()).sum();
        (fixed + after.len() <= MOST && parts.len() <= MOST_HOLES).then(|| Self {
            event: event.map(Into::into),
            holes: parts.into(),
            after: after.into(),
            member,
            top,
        })
    }

    /// Takes the text of a message that is the same in everything else; says whether it is.
    pub fn take(&self, event: Option<&str>, data: &[u8], text: &mut Text) -> bool {
        if self.event.as_deref() != event {
            return false;
        }
        let Some(string) = self.text_of(data) else { return false };
        let middle = data.get(string.range.clone()).unwrap_or_default();
        let place = Place { member: &self.member, top: &self.top, is_free: false };
        if !string.has_escapes {
            text.begin(place);
            if !middle.is_empty() {
                text.piece(place, middle);
            }
            text.end(place);
            return true;
        }
        // With its quotes it is a document of its own.
        let quoted = data.get(string.range.start - 1..string.range.end + 1).unwrap_or_default();
        Skimmer::read(quoted, &mut There { place, text }).1
    }

    /// Where the text of a message is, if that is the same in everything else.
    fn text_of(&self, data: &[u8]) -> Option<StringAt> {
        let mut text = None;
        let mut at = 0;
        for (before, hole) in &self.holes {
            at += data.get(at..)?.starts_with(before).then_some(before.len())?;
            let rest = data.get(at..)?;
            match hole {
                Hole::Digits => {
                    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
                    at += (1..=MOST_DIGITS).contains(&digits).then_some(digits)?;
                }
                Hole::Padding => {
                    let (length, has_escapes) = string_length(rest)?;
                    at += (!has_escapes).then_some(length)?;
                }
                Hole::Text => {
                    let (length, has_escapes) = string_length(rest)?;
                    text = Some(StringAt { range: at..at + length, has_escapes });
                    at += length;
                }
            }
        }
        text.filter(|_| data.get(at..) == Some(&*self.after))
    }
}

/// A string in a message, without its quotes.
struct StringAt {
    range: Range<usize>,
    has_escapes: bool,
}

/// Bytes until the quote that ends a string, and whether there are escapes among them. `None` if it does not end, or has what is no escape.
fn string_length(bytes: &[u8]) -> Option<(usize, bool)> {
    let mut length = 0;
    let mut has_escapes = false;
    loop {
        let rest = bytes.get(length..)?;
        let at = memchr::memchr2(b'"', b'\\', rest)?;
        length += at;
        match rest.get(at..)? {
            [b'"', ..] => return Some((length, has_escapes)),
            [_, b'u', digits @ ..] if !digits.get(..4)?.iter().all(u8::is_ascii_hexdigit) => return None,
            _ => length += 2,
        }
        has_escapes = true;
    }
}

/// Shows a string as if it stood at a place.
struct There<'a> {
    place: Place<'a>,
    text: &'a mut Text,
}

impl Observer for There<'_> {
    fn begin(&mut self, _: Place<'_>) {
        self.text.begin(self.place);
    }

    fn piece(&mut self, _: Place<'_>, text: &[u8]) {
        self.text.piece(self.place, text);
    }

    fn end(&mut self, _: Place<'_>) {
        self.text.end(self.place);
    }
}

/// Where in a message what may differ was.
#[derive(Debug, Default)]
pub struct Seen {
    text: SeenText,
    idle: Vec<(Range<usize>, Hole)>,
}

#[derive(Debug, Default)]
enum SeenText {
    #[default]
    Nothing,
    Once {
        hole: Range<usize>,
        member: Box<str>,
        top: Box<str>,
    },
    More,
}

impl Seen {
    /// Bytes of text.
    pub fn len(&self) -> u64 {
        if let SeenText::Once { hole, .. } = &self.text { hole.len() as u64 } else { 0 }
    }
}

/// Passes a message on to the text, and sees where in it there was some.
pub struct Watch<'a> {
    text: &'a mut Text,
    data: &'a [u8],
    pub seen: Seen,
}

impl<'a> Watch<'a> {
    pub fn new(text: &'a mut Text, data: &'a [u8]) -> Self {
        Self { text, data, seen: Seen::default() }
    }

    /// Where in the message a piece of it is. Without escapes, each is a part of it.
    fn place_of(&self, piece: &[u8]) -> Option<Range<usize>> {
        let start = piece.as_ptr().addr().checked_sub(self.data.as_ptr().addr())?;
        Some(start..start + piece.len()).filter(|range| range.end <= self.data.len())
    }

    fn see_idle(&mut self, place: Place<'_>, piece: &[u8], hole: Hole) {
        if is_idle(place, hole)
            && self.seen.idle.len() <= MOST_HOLES
            && let Some(range) = self.place_of(piece)
        {
            self.seen.idle.push((range, hole));
        }
    }
}

impl Observer for Watch<'_> {
    fn begin(&mut self, place: Place<'_>) {
        self.text.begin(place);
    }

    fn piece(&mut self, place: Place<'_>, text: &[u8]) {
        let before = self.text.size();
        self.text.piece(place, text);
        if self.text.size() == before {
            return self.see_idle(place, text, Hole::Padding);
        }
        self.seen.text = match (&self.seen.text, self.place_of(text)) {
            (SeenText::Nothing, Some(hole)) => {
                SeenText::Once { hole, member: place.member.into(), top: place.top.into() }
            }
            _ => SeenText::More,
        };
    }

    fn end(&mut self, place: Place<'_>) {
        self.text.end(place);
    }

    fn level(&mut self, place: Place<'_>) {
        self.text.level(place);
    }

    fn bare(&mut self, place: Place<'_>, text: &[u8]) {
        self.text.bare(place, text);
        if text.iter().all(u8::is_ascii_digit) {
            self.see_idle(place, text, Hole::Digits);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Repeat, Seen, Watch};
    use crate::meter::{estimate::Text, json::Skimmer};

    const BEFORE: &str = r#"{"id":"1","choices":[{"index":0,"delta":{"content":""#;
    const AFTER: &str = r#""},"finish_reason":null}]}"#;

    fn message(content: &str) -> String {
        format!("{BEFORE}{content}{AFTER}")
    }

    fn learned_from(data: &str) -> Option<Repeat> {
        let mut text = Text::of_answer();
        let mut watch = Watch::new(&mut text, data.as_bytes());
        Skimmer::read(data.as_bytes(), &mut watch);
        let seen = watch.seen;
        Repeat::new(None, data.as_bytes(), seen)
    }

    fn learned() -> Repeat {
        learned_from(&message("Hello")).expect("a message with one text")
    }

    /// What taking a message comes to; nothing of one that is not taken must be in the text.
    fn taken(repeat: &Repeat, data: &str) -> Option<String> {
        let mut text = Text::of_answer();
        let is_taken = repeat.take(None, data.as_bytes(), &mut text);
        assert!(is_taken || format!("{text:?}") == format!("{:?}", Text::of_answer()), "{data}");
        is_taken.then(|| format!("{text:?}"))
    }

    fn by_repeat(data: &str) -> Option<String> {
        taken(&learned(), data)
    }

    fn by_reading(data: &str) -> String {
        let mut text = Text::of_answer();
        Skimmer::read(data.as_bytes(), &mut text);
        format!("{text:?}")
    }

    #[test]
    fn what_differs_elsewhere_is_read_as_a_whole() {
        for data in [
            message("a").replace("\"1\"", "\"2\""),
            message("a").replace("null", "\"stop\""),
            message(r#"a","role":"assistant"#),
            message("a\\"),
            message(r"a\u00g0"),
            message(r"a\u00"),
            message(r#"a\\""#),
            String::new(),
            BEFORE.into(),
        ] {
            assert_eq!(by_repeat(&data), None, "{data}");
        }
        assert!(!learned().take(Some("other"), message("a").as_bytes(), &mut Text::of_answer()));
    }

    #[test]
    fn a_message_with_two_texts_or_none_is_no_pattern() {
        for data in [r#"{"content":"a","text":"b"}"#, r#"{"id":"a"}"#, r#"{"content":"a\nb"}"#, r#"{"name":"a"}"#] {
            assert!(learned_from(data).is_none(), "{data}");
        }
        assert!(Repeat::new(None, b"", Seen::default()).is_none());
    }

    fn numbered(number: &str, delta: &str, padding: &str) -> String {
        format!(
            r#"{{"type":"response.output_text.delta","sequence_number":{number},"delta":"{delta}","item":{{"sequence_number":1,"p":"x"}},"obfuscation":"{padding}"}}"#
        )
    }

    #[test]
    fn the_number_and_the_padding_of_a_message_may_differ() {
        let repeat = learned_from(&numbered("9", "Hello", "abc")).expect("a message with one text");
        for data in
            [numbered("10", " world", "defgh"), numbered("18446744073709551615", r"\n", ""), numbered("0", "", "\t")]
        {
            assert_eq!(taken(&repeat, &data), Some(by_reading(&data)), "{data}");
        }
        for data in [
            numbered("", "a", "b"),
            numbered("-1", "a", "b"),
            numbered("1.5", "a", "b"),
            numbered("null", "a", "b"),
            numbered("[1]", "a", "b"),
            numbered(&"1".repeat(21), "a", "b"),
            numbered("1", "a", r"\n"),
            numbered("1", "a", r#"b","usage":{},"x":""#),
            numbered("1", "a", "b").replace(r#""sequence_number":1,"p""#, r#""sequence_number":2,"p""#),
            numbered("1", "a", "b").replace(r#""p":"x""#, r#""p":"y""#),
        ] {
            assert_eq!(taken(&repeat, &data), None, "{data}");
        }
    }

    proptest! {
        #[test]
        fn numbered_messages_come_to_what_reading_comes_to(
            number in "[0-9]{1,3}|-1|1e3", content in r#"([a-z "\\/]|\\n|\\"|\\\\|\\u00e4){0,6}"#, padding in r#"[a-z]{0,5}|\\n|","x":""#
        ) {
            let repeat = learned_from(&numbered("9", "Hello", "abc")).expect("a message with one text");
            let data = numbered(&number, &content, &padding);
            if let Some(repeated) = taken(&repeat, &data) {
                prop_assert_eq!(repeated, by_reading(&data));
            }
        }

        /// Either it is not the same, or it comes to the same.
        #[test]
        fn it_comes_to_what_reading_comes_to(content in r#"([a-z "\\/]|\\n|\\"|\\\\|\\u00e4|\\ud83d\\ude00|ä|","x":"){0,12}"#) {
            let data = message(&content);
            if let Some(repeated) = by_repeat(&data) {
                prop_assert_eq!(repeated, by_reading(&data));
            }
        }

        #[test]
        fn plain_words_are_taken(content in "[a-z ,.]{0,40}") {
            let data = message(&content);
            prop_assert_eq!(by_repeat(&data), Some(by_reading(&data)));
        }
    }
}
