//! Server-sent events (WHATWG HTML, "Server-sent events", "Interpreting an event stream").

use super::{Message, lines::Tail};

/// Takes an event stream apart as it arrives.
#[derive(Debug, Default)]
pub struct Events {
    /// The line that has not ended yet.
    line: Tail,
    data: Tail,
    has_data: bool,
    event: String,
    /// A line ended with CR: an LF that follows belongs to it.
    after_cr: bool,
    begun: bool,
    /// Bytes were lost: what comes before the next empty line is not whole.
    torn: bool,
}

/// Bytes of an event's name that are kept.
const NAME: usize = 128;
const BOM: &[u8] = b"\xef\xbb\xbf";

impl Events {
    /// Takes a piece of the stream; `limit` bounds each event's data.
    pub fn push(&mut self, mut bytes: &[u8], limit: usize, mut out: impl FnMut(Message<'_>)) {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(at) = memchr::memchr2(b'\n', b'\r', bytes) {
            let (line, rest) = bytes.split_at(at);
            // Nearly all events end like this, and are told without being copied.
            if let [b'\n', b'\n', after @ ..] = rest
                && let Some(data) = self.only_data(line, limit)
            {
                let event = (!self.event.is_empty()).then_some(self.event.as_str());
                out(Message { event, data, truncated: false });
                self.event.clear();
                bytes = after;
                continue;
            }
            let is_cr = rest.first() == Some(&b'\r');
            bytes = rest.get(1..).unwrap_or_default();
            if is_cr {
                self.after_cr = bytes.is_empty();
                bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
            }
            self.end_line(line, limit, &mut out);
        }
        self.line.push(bytes, limit);
    }

    /// The data of a line that is the first one of its event to have any, if the line came in one piece.
    fn only_data<'a>(&self, line: &'a [u8], limit: usize) -> Option<&'a [u8]> {
        let is_first = self.begun && !self.has_data && !self.torn && !self.line.is_torn() && self.line.is_empty();
        let data = line.strip_prefix(b"data:").filter(|_| is_first && line.len() <= limit)?;
        Some(data.strip_prefix(b" ").unwrap_or(data))
    }

    /// The stream is over. The standard drops an event that was not ended by an empty line; here it counts, for money may be in it.
    pub fn finish(&mut self, limit: usize, mut out: impl FnMut(Message<'_>)) {
        if !self.line.is_empty() {
            self.end_line(&[], limit, &mut out);
        }
        self.dispatch(&mut out);
    }

    /// Bytes were lost. The event that was under way is not told, for what it says may lack its middle.
    pub fn lose(&mut self) {
        // What comes next may be the end of a line: it is not an empty one.
        self.line.lose();
        self.data.clear();
        (self.has_data, self.after_cr, self.begun, self.torn) = (false, false, true, true);
        self.event.clear();
    }

    fn end_line(&mut self, end: &[u8], limit: usize, out: &mut impl FnMut(Message<'_>)) {
        let mut line = std::mem::take(&mut self.line);
        if line.is_torn() {
            line.clear();
            self.line = line;
            return;
        }
        let (whole, cut) = line.complete(end, limit);
        let whole = if self.begun { whole } else { whole.strip_prefix(BOM).unwrap_or(whole) };
        self.begun = true;
        if whole.is_empty() {
            self.dispatch(out);
        } else if !self.torn {
            self.field(whole, cut, limit);
        }
        line.clear();
        self.line = line;
    }

    fn field(&mut self, line: &[u8], cut: bool, limit: usize) {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match name {
            b"data" => {
                if self.has_data {
                    self.data.push(b"\n", limit);
                }
                self.has_data = true;
                // A line that was cut is longer than the limit, and so is the data.
                self.data.push(value, if cut { value.len().saturating_sub(1).min(limit) } else { limit });
            }
            b"event" => {
                self.event.clear();
                self.event.push_str(&String::from_utf8_lossy(value.get(..value.len().min(NAME)).unwrap_or_default()));
            }
            // Comments (an empty name), ids, retry times.
            _ => {}
        }
    }

    fn dispatch(&mut self, out: &mut impl FnMut(Message<'_>)) {
        if self.has_data {
            let event = (!self.event.is_empty()).then_some(self.event.as_str());
            let (data, truncated) = self.data.complete(&[], usize::MAX);
            out(Message { event, data, truncated });
        }
        self.data.clear();
        self.has_data = false;
        self.event.clear();
        self.torn = false;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Events;

    fn events(pieces: &[&[u8]], limit: usize) -> Vec<(Option<String>, String, bool)> {
        let (mut parser, mut all) = (Events::default(), Vec::new());
        let mut take = |message: crate::wire::Message<'_>| {
            all.push((
                message.event.map(str::to_owned),
                String::from_utf8_lossy(message.data).into_owned(),
                message.truncated,
            ));
        };
        for piece in pieces {
            parser.push(piece, limit, &mut take);
        }
        parser.finish(limit, &mut take);
        all
    }

    fn data(text: &str) -> Vec<String> {
        events(&[text.as_bytes()], 1 << 20).into_iter().map(|(_, data, _)| data).collect()
    }

    #[test]
    fn follows_the_standard() {
        assert_eq!(data("data: 1\n\ndata:2\n\n"), ["1", "2"]);
        assert_eq!(data("data: a\ndata: b\n\n"), ["a\nb"]);
        assert_eq!(data("data: a\rdata: b\r\rdata: c\r\n\r\n"), ["a\nb", "c"]);
        assert_eq!(data("\u{feff}data: 1\n\n"), ["1"]);
        assert_eq!(data(": comment\nid: 7\nretry: 1\n\ndata\n\n"), [""]);
        assert_eq!(data("data: x: y\nevent: ping\n\n"), ["x: y"]);
        assert_eq!(events(&[b"event: stop\ndata: {}\n\n"], 100), [(Some("stop".into()), "{}".into(), false)]);
    }

    #[test]
    fn an_event_without_its_empty_line_counts() {
        assert_eq!(data("data: 1\n\ndata: last"), ["1", "last"]);
    }

    #[test]
    fn data_is_bounded_and_says_so() {
        let long = format!("data: {}\n\ndata: ok\n\n", "x".repeat(100));
        assert_eq!(
            events(&[long.as_bytes()], 50).iter().map(|(_, data, cut)| (data.len() <= 50, *cut)).collect::<Vec<_>>(),
            [(true, true), (true, false)]
        );
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same_events(
            text in "((data|event|id): ?[ab:]{0,6}|:x|)((\r\n|\n|\r){1,2}((data|event): ?[ab]{0,4}|)){0,8}",
            cuts in prop::collection::vec(0_usize..80, 0..5),
        ) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(events(&pieces, 1 << 20), events(&[bytes], 1 << 20));
        }
    }
}
