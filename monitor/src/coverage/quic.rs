//! The beginning of a QUIC connection.

/// QUIC's versions whose Initial packets are recognised, as they are called.
///
/// Version 1 (RFC 9000), version 2 (RFC 9369), drafts (29 is what was in use). `None` for a datagram that is something else.
pub fn initial_version(datagram: &[u8]) -> Option<&'static str> {
    let (&first, rest) = datagram.split_first()?;
    let version = u32::from_be_bytes(*rest.first_chunk()?);
    let kind = first & 0xf0;
    match version {
        1 if kind == 0xc0 => Some("QUIC version 1"),
        // Version 2 numbers the types of its packets otherwise (RFC 9369 §3.2).
        0x6b33_43cf if kind == 0xd0 => Some("QUIC version 2"),
        _ if version >> 8 == 0x00ff_0000 && kind == 0xc0 => Some("QUIC (draft)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::initial_version;

    /// The client's Initial packet of RFC 9001, appendix A.2, and of RFC 9369, appendix A.2, by their first bytes.
    #[test]
    fn initial_packets_of_the_specifications() {
        assert_eq!(initial_version(b"\xc0\x00\x00\x00\x01\x08\x83\x94\xc8\xf0"), Some("QUIC version 1"));
        assert_eq!(initial_version(b"\xd7\x6b\x33\x43\xcf\x08\x83\x94\xc8\xf0"), Some("QUIC version 2"));
        assert_eq!(initial_version(b"\xc3\xff\x00\x00\x1d\x08\x83\x94\xc8\xf0"), Some("QUIC (draft)"));
        // A handshake packet, one with a short header, DNS, nothing.
        for other in [&b"\xe0\x00\x00\x00\x01\x08"[..], b"\x40\x00\x00\x00\x01", b"\x12\x34\x01\x00\x00\x01", b""] {
            assert_eq!(initial_version(other), None);
        }
    }
}
