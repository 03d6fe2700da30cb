//! The chunked transfer coding (RFC 9112 §7.1).

/// Where in a chunked body we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunked {
    /// In the size, with this much of it read.
    Size {
        value: u64,
        digits: u8,
    },
    /// Between the size and the end of its line.
    Extension {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// Before the line end that follows the data.
    DataEnd,
    /// In the trailer section; `empty` while nothing but CR is on the line.
    Trailer {
        empty: bool,
    },
    Done,
}

/// The bytes are not a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidChunk;

impl Chunked {
    pub const fn new() -> Self {
        Self::Size { value: 0, digits: 0 }
    }

    /// Takes bytes from the front of `bytes` and hands back the next piece of data, empty when more bytes are needed or the body is done.
    pub fn next<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<&'a [u8], InvalidChunk> {
        while *self != Self::Done {
            if let Self::Data { left } = *self {
                let take = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                let (data, rest) = bytes.split_at(take);
                *bytes = rest;
                let left = left - take as u64;
                *self = if left == 0 { Self::DataEnd } else { Self::Data { left } };
                if data.is_empty() && left > 0 {
                    return Ok(&[]);
                }
                return Ok(data);
            }
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(&[]) };
            *bytes = rest;
            *self = self.after(byte)?;
        }
        Ok(&[])
    }

    /// Passes over bytes that were lost, if they were all of one chunk's data.
    pub fn skip(&mut self, lost: u64) -> Result<(), InvalidChunk> {
        match self {
            Self::Data { left } if *left > lost => *left -= lost,
            _ => return Err(InvalidChunk),
        }
        Ok(())
    }

    fn after(self, byte: u8) -> Result<Self, InvalidChunk> {
        Ok(match (self, byte) {
            (Self::Size { digits: 0, .. }, b'\r' | b'\n') => return Err(InvalidChunk),
            (Self::Size { value, .. }, b'\n') => Self::sized(value),
            (Self::Size { value, .. }, b'\r' | b';' | b' ' | b'\t') => Self::Extension { size: value },
            (Self::Size { value, digits }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(InvalidChunk)?;
                if digits >= 16 {
                    return Err(InvalidChunk);
                }
                Self::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (Self::Extension { size }, b'\n') => Self::sized(size),
            (Self::DataEnd, b'\n') => Self::new(),
            (Self::DataEnd, b'\r') => Self::DataEnd,
            (Self::DataEnd, _) => return Err(InvalidChunk),
            (Self::Trailer { empty: true }, b'\n') => Self::Done,
            (Self::Trailer { .. }, b'\n') => Self::Trailer { empty: true },
            (Self::Trailer { empty }, b'\r') => Self::Trailer { empty },
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            (state, _) => state,
        })
    }

    const fn sized(size: u64) -> Self {
        if size == 0 { Self::Trailer { empty: true } } else { Self::Data { left: size } }
    }
}

#[cfg(test)]
mod tests {
    use super::{Chunked, InvalidChunk};

    fn decode(pieces: &[&[u8]]) -> Result<(Vec<u8>, Chunked), InvalidChunk> {
        let (mut state, mut out) = (Chunked::new(), Vec::new());
        for piece in pieces {
            let mut bytes = *piece;
            loop {
                let data = state.next(&mut bytes)?;
                out.extend_from_slice(data);
                if data.is_empty() {
                    break;
                }
            }
        }
        Ok((out, state))
    }

    #[test]
    fn any_cutting_gives_the_same_data() {
        let body = b"5;name=value\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n";
        for cut in 0..body.len() {
            let (head, tail) = body.split_at(cut);
            assert_eq!(decode(&[head, tail]), Ok((b"hello world".to_vec(), Chunked::Done)), "cut at {cut}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_chunk() {
        for bad in [&b"x\r\n"[..], b"\r\n", b"11111111111111111\r\n", b"1\r\nab\r\n"] {
            assert_eq!(decode(&[bad]), Err(InvalidChunk), "{bad:?}");
        }
    }
}
