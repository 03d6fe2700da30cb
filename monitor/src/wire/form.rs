//! Forms (`multipart/form-data`, RFC 7578 over RFC 2046 §5.1.1): their fields, without the contents of files.

use memchr::memmem;

use super::{Field, lines::Tail};

/// Takes a form apart as it arrives.
#[derive(Debug)]
pub struct Form {
    /// `--` and the boundary.
    delimiter: Box<[u8]>,
    state: State,
    /// What may be the beginning of a delimiter, or a part's head that has not ended.
    held: Vec<u8>,
    name: String,
    value: Tail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first delimiter.
    Preamble,
    /// After a delimiter, in the header fields of a part.
    Head,
    Text,
    File,
    Done,
}

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
            delimiter: format!("--{boundary}").into_bytes().into(),
            state: State::Preamble,
            held: Vec::new(),
            name: String::new(),
            value: Tail::default(),
        })
    }

    /// Takes a piece of the form; `limit` bounds each field's value.
    pub fn push(&mut self, bytes: &[u8], limit: usize, out: &mut dyn FnMut(Field<'_>)) {
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
                State::Head => {
                    // After the delimiter: `--` at the end of the form, else a line end.
                    if rest.starts_with(b"--") {
                        self.state = State::Done;
                        return bytes.len();
                    }
                    let Some(end) = memmem::find(rest, b"\r\n\r\n") else {
                        if rest.len() > HEAD {
                            self.state = State::Done;
                            return bytes.len();
                        }
                        return used;
                    };
                    self.begin_part(rest.get(..end).unwrap_or_default());
                    // The line end before the next delimiter may be the one that ended the head.
                    used += end + 2;
                }
                State::Preamble | State::Text | State::File => {
                    let found = memmem::find(rest, &self.delimiter);
                    let is_part = self.state != State::Preamble;
                    // The delimiter's line end, and a delimiter that has begun, wait for what follows.
                    let sure = found.unwrap_or(rest.len().saturating_sub(self.delimiter.len() + 1));
                    let data = rest.get(..sure).unwrap_or_default();
                    if self.state == State::Text {
                        self.value.push(data, limit.saturating_add(4));
                    }
                    used += sure;
                    if found.is_none() {
                        return used;
                    }
                    if is_part {
                        self.end_part(limit, out);
                    }
                    used += self.delimiter.len();
                    self.state = State::Head;
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
        let is_file = self.state == State::File;
        let (value, _) = self.value.complete(&[], usize::MAX);
        // The value stands between two line ends.
        let value = value.strip_prefix(b"\r\n").unwrap_or(value);
        let value = value.strip_suffix(b"\r\n").unwrap_or(value);
        out(Field { name: &self.name, value: value.get(..value.len().min(limit)).unwrap_or_default(), is_file });
        self.value.clear();
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
        --X\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--Y\r\n\
        \r\n--X\r\ncontent-disposition: form-data; name=empty\r\n\r\n\r\n--X--\r\n";

    fn fields(pieces: &[&[u8]]) -> Vec<(String, String, bool)> {
        let mut form = Form::new("multipart/form-data; charset=utf-8; boundary=\"X\"").expect("a form");
        let mut all = Vec::new();
        for piece in pieces {
            form.push(piece, 1000, &mut |field| {
                all.push((field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned(), field.is_file));
            });
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
            form.push(&[b'a'; 10_000], 100, &mut |_| {});
            assert!(form.held.len() < 100);
        }
        form.push(b"--X", 100, &mut |_| {});
        for _ in 0..100 {
            form.push(&[b'a'; 10_000], 100, &mut |_| {});
            assert!(form.held.len() <= 20_000);
        }
    }
}
