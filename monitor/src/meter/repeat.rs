//! Messages of a stream that differ from one before in a single string: the next words.
//!
//! Most of a streamed answer is such messages. Once one of them has been read as a whole and has changed nothing in the report, the ones that are the
//! same but for that string can change nothing either: only the string is taken.

use std::ops::Range;

use super::{
    estimate::Text,
    json::{Observer, Place, Skimmer},
};

/// A message that changes nothing, with a hole where its text was.
#[derive(Debug)]
pub struct Repeat {
    event: Option<Box<str>>,
    before: Box<[u8]>,
    after: Box<[u8]>,
    member: Box<str>,
    top: Box<str>,
}

/// Bytes around the hole up to which a message is remembered.
const MOST: usize = 4096;
/// Members whose strings are text and nothing that a report is made from.
const TEXT: [&str; 7] = ["content", "text", "delta", "partial_json", "thinking", "reasoning_content", "arguments"];

impl Repeat {
    /// `None` if more than a piece of text in `data` was seen, or it lies where it may mean something.
    pub fn new(event: Option<&str>, data: &[u8], seen: Seen) -> Option<Self> {
        let Seen::Once { hole, member, top } = seen else { return None };
        let (before, after) = (data.get(..hole.start)?, data.get(hole.end..)?);
        let is_quoted = before.last() == Some(&b'"') && after.first() == Some(&b'"');
        let is_text = TEXT.contains(&&*member);
        (is_quoted && is_text && before.len() + after.len() <= MOST).then(|| Self {
            event: event.map(Into::into),
            before: before.into(),
            after: after.into(),
            member,
            top,
        })
    }

    /// Takes the text of a message that is the same in everything else; says whether it is.
    pub fn take(&self, event: Option<&str>, data: &[u8], text: &mut Text) -> bool {
        let is_same = self.event.as_deref() == event
            && data.len() >= self.before.len() + self.after.len()
            && data.starts_with(&self.before)
            && data.ends_with(&self.after);
        if !is_same {
            return false;
        }
        let hole = self.before.len()..data.len() - self.after.len();
        let Some(middle) = data.get(hole.clone()).filter(|middle| is_one_string(middle)) else { return false };
        let place = Place { member: &self.member, top: &self.top, is_free: false };
        if memchr::memchr(b'\\', middle).is_none() {
            text.begin(place);
            if !middle.is_empty() {
                text.piece(place, middle);
            }
            text.end(place);
            return true;
        }
        // With its quotes it is a document of its own.
        let quoted = data.get(hole.start - 1..hole.end + 1).unwrap_or_default();
        Skimmer::read(quoted, &mut There { place, text }).1
    }
}

/// Whether these bytes, between two quotes, have no quote that ends the string, and no escape that goes beyond it.
fn is_one_string(middle: &[u8]) -> bool {
    let backslashes_before = |at: usize| middle.iter().take(at).rev().take_while(|byte| **byte == b'\\').count();
    memchr::memchr_iter(b'"', middle).all(|at| backslashes_before(at) % 2 == 1)
        && backslashes_before(middle.len()).is_multiple_of(2)
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

/// Where in a message its text was.
#[derive(Debug, Default)]
pub enum Seen {
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
    /// Bytes of it.
    pub fn len(&self) -> u64 {
        if let Self::Once { hole, .. } = self { hole.len() as u64 } else { 0 }
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
        Self { text, data, seen: Seen::Nothing }
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
            return;
        }
        // Without escapes, a piece is a part of the message.
        let start = text.as_ptr().addr().checked_sub(self.data.as_ptr().addr());
        let hole = start.map(|start| start..start + text.len()).filter(|hole| hole.end <= self.data.len());
        self.seen = match (&self.seen, hole) {
            (Seen::Nothing, Some(hole)) => Seen::Once { hole, member: place.member.into(), top: place.top.into() },
            _ => Seen::More,
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

    fn learned() -> Repeat {
        let (data, mut text) = (message("Hello"), Text::of_answer());
        let mut watch = Watch::new(&mut text, data.as_bytes());
        Skimmer::read(data.as_bytes(), &mut watch);
        let seen = watch.seen;
        Repeat::new(None, data.as_bytes(), seen).expect("a message with one text")
    }

    fn by_repeat(data: &str) -> Option<String> {
        let mut text = Text::of_answer();
        learned().take(None, data.as_bytes(), &mut text).then(|| format!("{text:?}"))
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
            let mut text = Text::of_answer();
            let mut watch = Watch::new(&mut text, data.as_bytes());
            Skimmer::read(data.as_bytes(), &mut watch);
            let seen = watch.seen;
            assert!(Repeat::new(None, data.as_bytes(), seen).is_none(), "{data}");
        }
        assert!(Repeat::new(None, b"", Seen::Nothing).is_none());
    }

    proptest! {
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
