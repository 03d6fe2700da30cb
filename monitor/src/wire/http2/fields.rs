//! Field sections of HTTP/2: HPACK (RFC 7541) with one direction's table.

use super::hpack::{Field, Table};
use crate::wire::{Headers, RequestHead, ResponseHead};

/// Fields of a section that are looked at; bytes of them that are kept.
const FIELDS: usize = 256;
const BYTES: usize = 64 * 1024;

/// Decodes the field sections of one direction.
pub struct FieldDecoder {
    table: Table,
}

/// The fields of one section.
#[derive(Debug, Default)]
pub struct Fields {
    method: Option<Box<str>>,
    path: Option<Box<str>>,
    authority: Option<Box<str>>,
    protocol: Option<Box<str>>,
    status: Option<u16>,
    headers: Headers,
    /// Something could not be decoded: the table's history was not seen.
    pub is_partial: bool,
}

impl FieldDecoder {
    pub fn new() -> Self {
        Self { table: Table::new() }
    }

    /// For a table whose earlier entries are not known.
    pub fn in_the_middle() -> Self {
        Self { table: Table::in_the_middle() }
    }

    /// Decodes a whole section.
    pub fn decode(&mut self, section: &[u8]) -> Fields {
        let (mut fields, mut count, mut bytes) = (Fields::default(), 0, 0_usize);
        let result = self.table.decode(section, &mut |Field { name, value }| {
            count += 1;
            let (Some(name), Some(value)) = (name, value) else {
                fields.is_partial = true;
                return;
            };
            bytes = bytes.saturating_add(name.len() + value.len());
            if count <= FIELDS && bytes <= BYTES {
                fields.take(name, value);
            } else {
                fields.is_partial = true;
            }
        });
        if result.is_err() {
            fields.is_partial = true;
            *self = Self::in_the_middle();
        }
        fields
    }
}

impl Fields {
    fn take(&mut self, name: &[u8], value: &[u8]) {
        let text = || Some(String::from_utf8_lossy(value).into());
        match name {
            b":method" => self.method = text(),
            b":path" => self.path = text(),
            b":authority" => self.authority = text(),
            b":protocol" => self.protocol = text(),
            b":status" => self.status = std::str::from_utf8(value).ok().and_then(|status| status.parse().ok()),
            [b':', ..] => {}
            _ => self.headers.push(name, value),
        }
    }

    /// Of a section that did not come whole.
    pub fn unknown() -> Self {
        Self { is_partial: true, ..Self::default() }
    }

    pub fn status(&self) -> Option<u16> {
        self.status
    }

    /// Whether everything is known that tells what a request is for and where it goes.
    pub fn is_request(&self) -> bool {
        let is_tunnel = self.method.as_deref() == Some("CONNECT");
        let has_host = self.authority.is_some() || self.headers.get("host").is_some();
        self.method.is_some() && (self.path.is_some() || is_tunnel) && has_host
    }

    /// Whether the stream is to become a WebSocket (RFC 8441).
    pub fn is_websocket(&self) -> bool {
        self.protocol.as_deref() == Some("websocket")
    }

    pub fn into_request(self) -> RequestHead {
        let host = self.authority.as_deref().or(self.headers.get("host"));
        let host = host.map(|host| host.to_ascii_lowercase().into());
        RequestHead {
            method: self.method.unwrap_or_default(),
            target: self.path.unwrap_or_default(),
            host,
            headers: self.headers,
        }
    }

    pub fn into_response(self) -> ResponseHead {
        ResponseHead { status: self.status.unwrap_or_default(), headers: self.headers }
    }
}

#[cfg(test)]
mod tests {
    use loona_hpack::Encoder;

    use super::FieldDecoder;

    fn encode(encoder: &mut Encoder<'_>, path: &str) -> Vec<u8> {
        let fields: [(&[u8], &[u8]); 4] = [
            (b":method", b"POST"),
            (b":path", path.as_bytes()),
            (b":authority", b"api.example"),
            (b"content-type", b"application/json"),
        ];
        encoder.encode(fields)
    }

    #[test]
    fn sections_share_a_table() {
        let (mut encoder, mut decoder) = (Encoder::new(), FieldDecoder::new());
        for path in ["/a", "/b", "/a"] {
            let fields = decoder.decode(&encode(&mut encoder, path));
            assert!(fields.is_request() && !fields.is_partial);
            let head = fields.into_request();
            assert_eq!((&*head.method, &*head.target, head.host.as_deref()), ("POST", path, Some("api.example")));
        }
    }

    #[test]
    fn what_was_said_before_is_unknown_and_what_follows_is_right() {
        // `:method: POST`, `:path: /c` to be kept, and the authority, which was sent before and is now a place in the table (63).
        let mut decoder = FieldDecoder::in_the_middle();
        let first = decoder.decode(&[0x83, 0x44, 2, b'/', b'c', 0xbf]);
        assert!(first.is_partial && !first.is_request());
        assert_eq!((first.method.as_deref(), first.path.as_deref(), first.authority), (Some("POST"), Some("/c"), None));
        // The path is the newest entry now (62).
        let again = decoder.decode(&[0x83, 0xbe, 0x41, 1, b'h']);
        assert!(!again.is_partial && again.is_request());
        assert_eq!((again.path.as_deref(), again.authority.as_deref()), (Some("/c"), Some("h")));
    }

    #[test]
    fn secrets_and_bombs_are_not_kept() {
        let mut encoder = Encoder::new();
        let section = encoder.encode([(&b"authorization"[..], &b"Bearer x"[..]), (b"a", &[b'x'; 3000][..])]);
        let mut decoder = FieldDecoder::new();
        assert!(decoder.decode(&section).headers.get("authorization").is_none());
        // One byte for each repetition of a field of three thousand.
        let bomb = [0x80 | 62].repeat(60_000);
        let fields = decoder.decode(&bomb);
        assert!(fields.headers.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= super::BYTES);
    }

    #[test]
    fn a_table_of_any_size_is_refused() {
        // A size update to 2^20, and a field.
        let fields = FieldDecoder::new().decode(&[0x3f, 0xe1, 0xff, 0x3f, 0x82]);
        assert!(fields.is_partial);
    }
}
