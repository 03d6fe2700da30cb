//! The beginning of a connection: `ClientHello` (RFC 8446 §4.1.2), whatever pieces it comes in.

use tls_parser::{TlsExtension, TlsMessage, TlsMessageHandshake, parse_tls_extensions, parse_tls_message_handshake};

/// Whom a client wants to talk to, and in what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// In lower case.
    pub server_name: Option<Box<str>>,
    /// Protocols on offer, like `h2`.
    pub protocols: Vec<Box<str>>,
}

/// Collects the beginning of what a client sends until it tells something.
#[derive(Debug, Clone, Default)]
pub struct Beginning {
    bytes: Vec<u8>,
    is_over: bool,
}

/// What a beginning turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Hello(Hello),
    /// An HTTP request in plaintext, with the host that it names.
    Http(Option<Box<str>>),
}

/// Bytes that are kept: as many as the kernel hands over.
const MOST: usize = monitor_common::HELLO_BYTES as usize;
/// A TLS record's header, and the type of those of a handshake (RFC 8446 §5.1).
const RECORD_HEADER: usize = 5;
const HANDSHAKE: u8 = 22;
/// A message's type and length (RFC 8446 §4).
const MESSAGE_HEADER: usize = 4;
/// The longest name in the domain name system.
const LONGEST_NAME: usize = 253;
/// Protocols that are kept.
const MOST_PROTOCOLS: usize = 8;

impl Beginning {
    /// Takes a piece that begins at `offset`; one at offset 0 begins anew. Says what there is to say once.
    pub fn push(&mut self, offset: u64, bytes: &[u8]) -> Option<Told> {
        if offset == 0 {
            *self = Self::default();
        }
        // After a piece that was lost nothing fits any more.
        if self.is_over || usize::try_from(offset) != Ok(self.bytes.len()) {
            self.end();
            return None;
        }
        let room = MOST - self.bytes.len();
        self.bytes.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        let told = self.told();
        if told.is_some() || self.bytes.len() == MOST {
            self.end();
        }
        told
    }

    fn end(&mut self) {
        *self = Self { bytes: Vec::new(), is_over: true };
    }

    fn told(&self) -> Option<Told> {
        if self.bytes.first() == Some(&HANDSHAKE) {
            let message = message(&self.bytes)?;
            return Some(Told::Hello(hello(&message).unwrap_or_default()));
        }
        http(&self.bytes)
    }
}

/// The first handshake message, put together from the records that it lies in; `None` as long as some of it is missing.
fn message(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message: Vec<u8> = Vec::new();
    loop {
        let wanted = message.get(1..MESSAGE_HEADER).map(|length| {
            MESSAGE_HEADER + length.iter().fold(0_usize, |length, byte| length << 8 | usize::from(*byte))
        });
        if let Some(wanted) = wanted.filter(|&wanted| message.len() >= wanted) {
            message.truncate(wanted);
            return Some(message);
        }
        let (header, rest) = bytes.split_at_checked(RECORD_HEADER)?;
        if header.first() != Some(&HANDSHAKE) {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([*header.get(3)?, *header.get(4)?]));
        // Of the last record there may be a part.
        let part = rest.get(..length).unwrap_or(rest);
        message.extend_from_slice(part);
        bytes = rest.get(length..).unwrap_or_default();
    }
}

/// What a complete handshake message says, if it is a `ClientHello`.
pub fn hello(message: &[u8]) -> Option<Hello> {
    let (_, TlsMessage::Handshake(TlsMessageHandshake::ClientHello(client))) =
        parse_tls_message_handshake(message).ok()?
    else {
        return None;
    };
    let (_, extensions) = parse_tls_extensions(client.ext.unwrap_or_default()).ok()?;
    let mut hello = Hello::default();
    for extension in extensions {
        match extension {
            TlsExtension::SNI(names) => {
                hello.server_name = names.first().and_then(|(_, name)| host_name(name)).or(hello.server_name);
            }
            TlsExtension::ALPN(names) => {
                let names = names.iter().take(MOST_PROTOCOLS).filter_map(|name| str::from_utf8(name).ok());
                hello.protocols = names.filter(|name| is_printable(name)).map(Into::into).collect();
            }
            _ => {}
        }
    }
    Some(hello)
}

fn host_name(name: &[u8]) -> Option<Box<str>> {
    let name = str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME)?;
    is_printable(name).then(|| name.trim_end_matches('.').to_ascii_lowercase().into())
}

/// It is shown to people and written into logs.
fn is_printable(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

/// An HTTP request of which the head is there, or as much of it as is copied.
fn http(bytes: &[u8]) -> Option<Told> {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ", b"HEAD ", b"OPTIONS ", b"PRI * HTTP/2"];
    if !METHODS.iter().any(|method| bytes.starts_with(method)) {
        return None;
    }
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut request = httparse::Request::new(&mut fields);
    let is_whole = request.parse(bytes).is_ok_and(|status| status.is_complete());
    if !is_whole && bytes.len() < monitor_common::HELLO_BYTES_PLAIN as usize && !bytes.starts_with(b"PRI") {
        return None;
    }
    let host = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case("host"));
    Some(Told::Http(host.and_then(|field| str::from_utf8(field.value).ok()).and_then(without_port)))
}

/// The name of an authority, as it is compared: in lower case and without a port.
pub fn without_port(authority: &str) -> Option<Box<str>> {
    let name = match authority.rsplit_once(':') {
        // An IPv6 address has colons of its own, in brackets.
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => authority,
    };
    host_name(name.trim_start_matches('[').trim_end_matches(']').as_bytes())
}

#[cfg(test)]
pub mod tests {
    use super::{Beginning, Told, without_port};

    /// As a client with other parts of the same size would send it (RFC 8446 §4.1.2): an SNI, ALPN, and padding of `padding` bytes.
    pub fn client_hello(name: &str, padding: usize) -> Vec<u8> {
        let with_length =
            |bytes: Vec<u8>| [&u16::try_from(bytes.len()).expect("short").to_be_bytes()[..], &bytes].concat();
        let extension = |kind: u16, bytes: Vec<u8>| [kind.to_be_bytes().to_vec(), with_length(bytes)].concat();
        let name = with_length([vec![0], with_length(name.as_bytes().to_vec())].concat());
        let protocols = with_length([&b"\x02h2"[..], b"\x08http/1.1"].concat());
        let extensions = [extension(0, name), extension(21, vec![0; padding]), extension(16, protocols)].concat();
        let body = [
            vec![3, 3],
            vec![7; 32],
            vec![32],
            vec![8; 32],
            with_length(vec![0x13, 1, 0x13, 2]),
            vec![1, 0],
            with_length(extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[1], &length[1..], &body].concat()
    }

    /// In records with so many bytes of the message each.
    pub fn in_records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).expect("short").to_be_bytes();
            [&[22, 3, 1], &length[..], part].concat()
        };
        message.chunks(size).flat_map(record).collect()
    }

    fn told(beginning: &mut Beginning, bytes: &[u8], size: usize) -> Vec<Told> {
        let mut offset = 0;
        let pieces = bytes.chunks(size).filter_map(|piece| {
            let told = beginning.push(offset, piece);
            offset += piece.len() as u64;
            told
        });
        pieces.collect()
    }

    #[test]
    fn a_hello_in_any_pieces_tells_the_name_once() {
        for padding in [0, 1000, 4000] {
            let message = client_hello("API.OpenAI.com", padding);
            for record in [message.len(), 200, 64] {
                let bytes = in_records(&message, record);
                for segment in [bytes.len(), 536, 7, 1] {
                    let told = told(&mut Beginning::default(), &bytes, segment);
                    let [Told::Hello(hello)] = &told[..] else { panic!("{padding} {record} {segment}: {told:?}") };
                    assert_eq!(hello.server_name.as_deref(), Some("api.openai.com"));
                    assert_eq!(hello.protocols, ["h2", "http/1.1"].map(Box::<str>::from));
                }
            }
        }
    }

    #[test]
    fn what_is_lost_or_wrong_tells_nothing() {
        let bytes = in_records(&client_hello("a.example", 0), 64);
        let mut beginning = Beginning::default();
        assert_eq!(beginning.push(0, &bytes[..50]), None);
        assert_eq!(beginning.push(60, &bytes[60..]), None);
        for wrong in [&b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"[..], b"\x16\x03\x01\x00\x04\x01\x00\x00\x00"] {
            let told = Beginning::default().push(0, wrong);
            assert_eq!(told, Some(Told::Hello(Default::default())), "{wrong:?}");
        }
        let shown = in_records(&client_hello("evil\nname", 0), 500);
        assert!(
            matches!(Beginning::default().push(0, &shown), Some(Told::Hello(hello)) if hello.server_name.is_none())
        );
    }

    #[test]
    fn http_is_told_with_its_host() {
        let request = b"POST /v1 HTTP/1.1\r\nHost: LocalHost:8080\r\nContent-Length: 3\r\n\r\nabc";
        let told = told(&mut Beginning::default(), request, 10);
        assert_eq!(told, [Told::Http(Some("localhost".into()))]);
        assert_eq!(Beginning::default().push(0, b"SSH-2.0-OpenSSH\r\n"), None);
        assert_eq!(without_port("[::1]:8443").as_deref(), Some("::1"));
    }
}
