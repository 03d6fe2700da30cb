//! HPACK (RFC 7541), the decoding half.
//!
//! It is written here because two things are asked of it that no library does: a table whose beginning was not seen must say of what it does
//! not know that it does not, and values that are secrets must not be kept in it.

use std::collections::VecDeque;

use httlib_huffman::DecoderSpeed;

use crate::wire::headers::is_secret;

/// Largest dynamic table that a peer may ask for.
pub const TABLE: usize = 64 * 1024;
/// Size of the table before either side says otherwise.
const DEFAULT: usize = 4096;
/// What an entry counts beside its bytes (§4.1).
const OVERHEAD: usize = 32;

/// The section is no HPACK, or refers to what is in no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidSection;

/// The dynamic table of one direction.
pub struct Table {
    /// Newest first.
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
    /// There were entries before these, which nobody saw.
    is_middle: bool,
}

struct Entry {
    /// Not known if it was said by reference to an entry that is not.
    name: Option<Box<[u8]>>,
    /// Empty if it is a secret.
    value: Box<[u8]>,
    size: usize,
}

/// A field; what is `None` was said by reference to what is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    pub name: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

impl Table {
    pub fn new() -> Self {
        Self { entries: VecDeque::new(), size: 0, most: DEFAULT, is_middle: false }
    }

    /// Of which the earlier entries are not known. Positions count from the newest entry, so those that follow are known by theirs. How
    /// large the table may be is not known either; one that keeps too much is right all the same.
    pub fn in_the_middle() -> Self {
        Self { most: TABLE, is_middle: true, ..Self::new() }
    }

    /// Decodes a whole section, field by field.
    pub fn decode(&mut self, mut section: &[u8], out: &mut dyn FnMut(Field<'_>)) -> Result<(), InvalidSection> {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        while let Some(&first) = section.first() {
            if first & 0x80 != 0 {
                let index = integer(&mut section, 7)?;
                out(self.get(index)?);
                continue;
            }
            if first & 0xe0 == 0x20 {
                self.resize(integer(&mut section, 5)?)?;
                continue;
            }
            let is_kept = first & 0x40 != 0;
            let index = integer(&mut section, if is_kept { 6 } else { 4 })?;
            let is_known = if index == 0 {
                string(&mut section, &mut name)?;
                true
            } else {
                let known = self.get(index)?.name;
                name.clear();
                name.extend_from_slice(known.unwrap_or_default());
                known.is_some()
            };
            string(&mut section, &mut value)?;
            let name = is_known.then_some(name.as_slice());
            out(Field { name, value: Some(&value) });
            if is_kept {
                self.add(name, &value);
            }
        }
        Ok(())
    }

    fn get(&self, index: usize) -> Result<Field<'_>, InvalidSection> {
        let index = index.checked_sub(1).ok_or(InvalidSection)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok(Field { name: Some(name.as_bytes()), value: Some(value.as_bytes()) });
        }
        match self.entries.get(index - STATIC.len()) {
            Some(entry) => Ok(Field { name: entry.name.as_deref(), value: Some(&entry.value) }),
            None if self.is_middle => Ok(Field { name: None, value: None }),
            None => Err(InvalidSection),
        }
    }

    fn add(&mut self, name: Option<&[u8]>, value: &[u8]) {
        let size = name.map_or(0, <[u8]>::len) + value.len() + OVERHEAD;
        self.evict(self.most.saturating_sub(size));
        // What is larger than the table empties it (§4.4).
        if size <= self.most {
            let is_secret = name.is_some_and(|name| is_secret(&String::from_utf8_lossy(name).to_ascii_lowercase()));
            let value = if is_secret { &[] } else { value };
            self.entries.push_front(Entry { name: name.map(Into::into), value: value.into(), size });
            self.size += size;
        }
    }

    fn resize(&mut self, most: usize) -> Result<(), InvalidSection> {
        if most > TABLE {
            return Err(InvalidSection);
        }
        self.most = most;
        self.evict(most);
        if most == 0 {
            // Now it is known to be empty.
            self.is_middle = false;
        }
        Ok(())
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.size;
        }
    }
}

/// An integer that begins in the low bits of the first byte (§5.1).
fn integer(bytes: &mut &[u8], bits: u32) -> Result<usize, InvalidSection> {
    let (&first, mut rest) = bytes.split_first().ok_or(InvalidSection)?;
    let mask = (1_usize << bits) - 1;
    let mut value = usize::from(first) & mask;
    if value == mask {
        for shift in [0, 7, 14, 21] {
            let (&byte, after) = rest.split_first().ok_or(InvalidSection)?;
            rest = after;
            value += (usize::from(byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *bytes = rest;
                return Ok(value);
            }
        }
        return Err(InvalidSection);
    }
    *bytes = rest;
    Ok(value)
}

/// A string, which may be Huffman-coded (§5.2).
fn string(bytes: &mut &[u8], out: &mut Vec<u8>) -> Result<(), InvalidSection> {
    let is_coded = bytes.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(bytes, 7)?;
    let (string, rest) = bytes.split_at_checked(length).ok_or(InvalidSection)?;
    *bytes = rest;
    out.clear();
    if is_coded {
        return httlib_huffman::decode(string, out, DecoderSpeed::FiveBits).map_err(|_| InvalidSection);
    }
    out.extend_from_slice(string);
    Ok(())
}

/// The static table (Appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::{Field, InvalidSection, Table};

    type Fields = Vec<(Option<String>, Option<String>)>;

    fn decode(table: &mut Table, section: &[u8]) -> (Fields, Result<(), InvalidSection>) {
        let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        let mut fields = Fields::new();
        let result = table.decode(section, &mut |Field { name, value }| fields.push((text(name), text(value))));
        (fields, result)
    }

    fn known(fields: &[(&str, &str)]) -> (Fields, Result<(), InvalidSection>) {
        let own = |text: &&str| Some((*text).to_owned());
        (fields.iter().map(|(name, value)| (own(name), own(value))).collect(), Ok(()))
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
        pairs.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
    }

    /// The responses of RFC 7541, Appendix C.6: Huffman coding, and a table of 256 bytes that has to evict.
    #[test]
    fn the_examples_of_the_standard() {
        let mut table = Table::new();
        table.resize(256).expect("allowed");
        let first = "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 \
            63c7 8f0b 97c8 e9ae 82ae 43d3";
        let date = "Mon, 21 Oct 2013 20:13:21 GMT";
        let place = ("location", "https://www.example.com");
        let expected = [(":status", "302"), ("cache-control", "private"), ("date", date), place];
        assert_eq!(decode(&mut table, &hex(first)), known(&expected));
        assert_eq!(table.size, 222);
        let expected = [(":status", "307"), ("cache-control", "private"), ("date", date), place];
        assert_eq!(decode(&mut table, &hex("4883 640e ffc1 c0bf")), known(&expected));
        assert_eq!(table.size, 222);
        let third = "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 \
            b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07";
        let expected = [
            (":status", "200"),
            ("cache-control", "private"),
            ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
            place,
            ("content-encoding", "gzip"),
            ("set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
        ];
        assert_eq!(decode(&mut table, &hex(third)), known(&expected));
        assert_eq!(table.size, 215);
    }

    #[test]
    fn secrets_take_their_room_and_are_not_there() {
        let mut table = Table::new();
        let section = [&[0x40, 9][..], b"x-api-key", &[4], b"sk-1", &[0x41, 1], b"h"].concat();
        assert_eq!(decode(&mut table, &section), known(&[("x-api-key", "sk-1"), (":authority", "h")]));
        assert_eq!(decode(&mut table, &[0xbf, 0xbe]), known(&[("x-api-key", ""), (":authority", "h")]));
        assert_eq!(table.size, 9 + 4 + 32 + 10 + 1 + 32);
    }

    #[test]
    fn what_refers_to_nothing_is_refused_or_unknown() {
        assert_eq!(decode(&mut Table::new(), &[0xbe]).1, Err(InvalidSection));
        assert_eq!(decode(&mut Table::new(), &[0x80]).1, Err(InvalidSection));
        let mut middle = Table::in_the_middle();
        assert_eq!(decode(&mut middle, &[0xbe]), (vec![(None, None)], Ok(())));
        // A value whose name is not known is kept in its place.
        assert_eq!(decode(&mut middle, &[0x7e, 1, b'v']).0, [(None, Some("v".to_owned()))]);
        assert_eq!(decode(&mut middle, &[0xbe]).0, [(None, Some("v".to_owned()))]);
        // A table of size 0 has no past.
        assert_eq!(decode(&mut middle, &[0x20, 0x3f, 0xe1, 0x1f, 0xbe]).1, Err(InvalidSection));
    }
}
