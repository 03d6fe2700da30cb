//! Forms (`multipart/form-data`, RFC 7578 over RFC 2046 §5.1.1): their fields, without the contents of files.

use memchr::memmem;

use super::{Field, lines::Tail};

/// Takes a form apart as it arrives.
#[derive(Debug)]
pub struct Form {
    /// A line end, `--`, and the boundary.
    delimiter: Box<[u8]>,
    state: State,
    /// The state before the delimiter that is looked at.
    within: State,
    /// What may be the beginning of a delimiter, or a part's head that has not ended.
    held: Vec<u8>,
    name: String,
    value: Tail,
    is_broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// After what may be a delimiter.
    Delimiter,
    /// In the header fields of a part.
    Head,
    Text,
    File,
    Done,
}

/// What follows a delimiter.
enum After {
    /// Too little has come to tell.
    More,
    /// The form is over.
    Close,
    /// The header fields of a part, after this much padding.
    Part(usize),
    /// Something else: this is no delimiter.
    Other,
}

/// The fields of a part are longer than any client sends: what they say is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadTooLong;

/// Bytes of padding after a delimiter.
const PADDING: usize = 64;
/// Bytes of a part's header fields.
const HEAD: usize = 4096;
/// Bytes of a field's name that are kept.
const NAME: usize = 128;
/// Longest boundary there is.
const BOUNDARY: usize = 70;

impl Form {
    /// For the value of a `Content-Type` field, if it is a form's.
    pub fn new(content_type: &str) -> Option<Self> {
        let (media_type, parameters) = content_type.split_once(';')?;
        if !media_type.trim().eq_ignore_ascii_case("multipart/form-data") {
            return None;
        }
        let boundary = parameter(parameters, "boundary")?;
        if boundary.is_empty() || boundary.len() > BOUNDARY {
            return None;
        }
        Some(Self {
            delimiter: format!("\r\n--{boundary}").into_bytes().into(),
            state: State::Preamble,
            within: State::Preamble,
            // The first delimiter needs no line end before it.
            held: b"\r\n".to_vec(),
            name: String::new(),
            value: Tail::default(),
            is_broken: false,
        })
    }

    /// Takes a piece of the form; `limit` bounds each field's value.
    ///
    /// # Errors
    /// When the fields of a part are too long; the rest of the form is not read then.
    pub fn push(&mut self, bytes: &[u8], limit: usize, out: &mut dyn FnMut(Field<'_>)) -> Result<(), HeadTooLong> {
        self.take_all(bytes, limit, out);
        if std::mem::take(&mut self.is_broken) { Err(HeadTooLong) } else { Ok(()) }
    }

    fn take_all(&mut self, bytes: &[u8], limit: usize, out: &mut dyn FnMut(Field<'_>)) {
        if self.state == State::Done {
            return;
        }
        // What is held is shorter than a head, or than a delimiter.
        if self.held.is_empty() {
            let used = self.take(bytes, limit, out);
            self.hold(bytes.get(used..).unwrap_or_default());
            return;
        }
        for piece in bytes.chunks(HEAD) {
            let mut joined = std::mem::take(&mut self.held);
            joined.extend_from_slice(piece);
            let used = self.take(&joined, limit, out);
            joined.drain(..used);
            self.held = joined;
        }
    }

    fn hold(&mut self, rest: &[u8]) {
        self.held.extend_from_slice(rest);
    }

    /// Takes what can be told from these bytes, and says how many they were.
    fn take(&mut self, bytes: &[u8], limit: usize, out: &mut dyn FnMut(Field<'_>)) -> usize {
        let mut used = 0;
        loop {
            let rest = bytes.get(used..).unwrap_or_default();
            match self.state {
                State::Done => return bytes.len(),
                State::Delimiter => match after_delimiter(rest) {
                    After::More => return used,
                    After::Close => {
                        self.end_part(limit, out);
                        self.state = State::Done;
                    }
                    After::Part(length) => {
                        self.end_part(limit, out);
                        used += length;
                        self.state = State::Head;
                    }
                    // Part of a longer line: no delimiter at all.
                    After::Other => {
                        let delimiter = std::mem::take(&mut self.delimiter);
                        if self.within == State::Text {
                            self.value.push(&delimiter, limit.saturating_add(2));
                        }
                        self.delimiter = delimiter;
                        self.state = self.within;
                    }
                },
                State::Head => {
                    // The line end of the delimiter counts: a part may have no fields at all.
                    let end = memmem::find(rest.get(..rest.len().min(HEAD)).unwrap_or_default(), b"\r\n\r\n");
                    let Some(end) = end else {
                        if rest.len() >= HEAD {
                            self.state = State::Done;
                            self.is_broken = true;
                            continue;
                        }
                        return used;
                    };
                    self.begin_part(rest.get(..end).unwrap_or_default());
                    // The line end before the next delimiter may be the one that ended the head.
                    used += end + 2;
                }
                State::Preamble | State::Text | State::File => {
                    let found = memmem::find(rest, &self.delimiter);
                    // A delimiter that has begun waits for what follows.
                    let sure = found.unwrap_or(rest.len().saturating_sub(self.delimiter.len().saturating_sub(1)));
                    if self.state == State::Text {
                        self.value.push(rest.get(..sure).unwrap_or_default(), limit.saturating_add(2));
                    }
                    used += sure;
                    if found.is_none() {
                        return used;
                    }
                    used += self.delimiter.len();
                    self.within = self.state;
                    self.state = State::Delimiter;
                }
            }
        }
    }

    fn begin_part(&mut self, head: &[u8]) {
        let head = String::from_utf8_lossy(head);
        let disposition = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
        });
        let disposition = disposition.unwrap_or_default();
        self.name = parameter(disposition, "name").unwrap_or_default();
        self.name.truncate(self.name.floor_char_boundary(NAME));
        let is_file = parameter(disposition, "filename").is_some() || parameter(disposition, "filename*").is_some();
        self.state = if is_file { State::File } else { State::Text };
        self.value.clear();
    }

    fn end_part(&mut self, limit: usize, out: &mut dyn FnMut(Field<'_>)) {
        if self.within == State::Preamble {
            return;
        }
        let is_file = self.within == State::File;
        let (value, _) = self.value.complete(&[], usize::MAX);
        // The line end after the fields of the part was left before the value.
        let value = value.strip_prefix(b"\r\n").unwrap_or(value);
        out(Field { name: &self.name, value: value.get(..value.len().min(limit)).unwrap_or_default(), is_file });
        self.value.clear();
    }
}

fn after_delimiter(bytes: &[u8]) -> After {
    let padding = bytes.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(bytes.len());
    match bytes.get(padding..).unwrap_or_default() {
        _ if padding > PADDING => After::Other,
        [b'-', b'-', ..] if padding == 0 => After::Close,
        [b'\r', b'\n', ..] => After::Part(padding),
        [] | [b'\r'] => After::More,
        [b'-'] if padding == 0 => After::More,
        _ => After::Other,
    }
}

/// A parameter of a header field's value, with or without quotes.
fn parameter(parameters: &str, name: &str) -> Option<String> {
    let mut rest = parameters;
    loop {
        let (found, after) = rest.split_once('=')?;
        let found = found.rsplit(';').next().unwrap_or_default().trim();
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => {
                let mut value = String::new();
                let mut chars = quoted.char_indices();
                let mut end = quoted.len();
                while let Some((at, next)) = chars.next() {
                    match next {
                        '"' => {
                            end = at + 1;
                            break;
                        }
                        '\\' => value.extend(chars.next().map(|(_, next)| next)),
                        next => value.push(next),
                    }
                }
                (value, quoted.get(end..).unwrap_or_default())
            }
            None => {
                let end = after.find(';').unwrap_or(after.len());
                let (value, after) = after.split_at(end);
                (value.trim().to_owned(), after)
            }
        };
        if found.eq_ignore_ascii_case(name) {
            return Some(value);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::Form;

    const FORM: &[u8] = b"--X\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nwhisper-1\r\n\
        --X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--Y --X\r\n--XY\r\n\
        \r\n--X\r\ncontent-disposition: form-data; name=empty\r\n\r\n\r\n--X--\r\n";

    fn fields(pieces: &[&[u8]]) -> Vec<(String, String, bool)> {
        let mut form = Form::new("multipart/form-data; charset=utf-8; boundary=\"X\"").expect("a form");
        let mut all = Vec::new();
        for piece in pieces {
            form.push(piece, 1000, &mut |field| {
                all.push((field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned(), field.is_file));
            })
            .expect("short heads");
        }
        all
    }

    #[test]
    fn any_cutting_gives_the_same_fields() {
        let whole = fields(&[FORM]);
        let expected = [("model", "whisper-1", false), ("file", "", true), ("empty", "", false)];
        assert_eq!(whole, expected.map(|(name, value, is_file)| (name.to_owned(), value.to_owned(), is_file)));
        for cut in 0..FORM.len() {
            let (head, tail) = FORM.split_at(cut);
            assert_eq!(fields(&[head, tail]), whole, "cut at {cut}");
        }
        let bytes: Vec<&[u8]> = FORM.chunks(1).collect();
        assert_eq!(fields(&bytes), whole);
    }

    #[test]
    fn other_bodies_are_no_forms() {
        assert!(Form::new("application/json").is_none());
        assert!(Form::new("multipart/form-data").is_none());
        assert!(Form::new("multipart/mixed; boundary=x").is_none());
    }

    #[test]
    fn what_is_held_is_bounded() {
        let mut form = Form::new("multipart/form-data; boundary=X").expect("a form");
        for _ in 0..100 {
            form.push(&[b'a'; 10_000], 100, &mut |_| {}).expect("no head");
            assert!(form.held.len() < 100);
        }
        form.push(b"\r\n--X\r\n", 100, &mut |_| {}).expect("a short head");
        let results: Vec<_> = (0..100)
            .map(|_| {
                let result = form.push(&[b'a'; 10_000], 100, &mut |_| {});
                assert!(form.held.len() <= 20_000);
                result
            })
            .collect();
        // Said once, and nothing of the rest is read.
        assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    }
}
