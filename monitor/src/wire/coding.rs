//! Content codings (RFC 9110 §8.4.1), undone as the bytes come.

use std::io::Write as _;

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};

/// Undoes the content coding of one body.
///
/// What comes out is handed on after every step of at most [`STEP`] bytes, so that a body that grows a thousandfold needs no more memory than
/// one that does not.
pub enum Decoder {
    Identity,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate` before its first byte, which tells the two kinds in use apart.
    Deflate,
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
    RawDeflate(Box<DeflateDecoder<Vec<u8>>>),
    /// A coding that cannot be undone, or bytes that it did not make: nothing comes out.
    Broken,
}

/// Coded bytes that are taken at once.
const STEP: usize = 4 * 1024;

/// The coding could not be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCoding;

impl Decoder {
    /// For the value of a `Content-Encoding` field.
    pub fn new(coding: Option<&str>) -> Self {
        match coding.unwrap_or_default().trim().to_ascii_lowercase().as_str() {
            "" | "identity" => Self::Identity,
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Self::Deflate,
            _ => Self::Broken,
        }
    }

    /// Decodes `bytes`, handing on what comes out.
    pub fn decode(&mut self, bytes: &[u8], mut out: impl FnMut(&[u8])) -> Result<(), InvalidCoding> {
        if let Self::Identity = self {
            out(bytes);
            return Ok(());
        }
        if let Self::Deflate = self {
            let Some(&first) = bytes.first() else { return Ok(()) };
            // A zlib header says method 8 and a window of at most 32 KiB (RFC 1950); raw deflate cannot begin like this.
            *self = if first & 0x0f == 8 && first >> 4 <= 7 {
                Self::Zlib(Box::new(ZlibDecoder::new(Vec::new())))
            } else {
                Self::RawDeflate(Box::new(DeflateDecoder::new(Vec::new())))
            };
        }
        let result = bytes.chunks(STEP).try_for_each(|step| self.step(step, &mut out));
        if result.is_err() {
            *self = Self::Broken;
        }
        result
    }

    fn step(&mut self, mut bytes: &[u8], out: &mut impl FnMut(&[u8])) -> Result<(), InvalidCoding> {
        while !bytes.is_empty() {
            let taken = match self {
                Self::Gzip(decoder) => decoder.write(bytes),
                Self::Zlib(decoder) => decoder.write(bytes),
                Self::RawDeflate(decoder) => decoder.write(bytes),
                _ => return Err(InvalidCoding),
            };
            let taken = taken.map_err(|_| InvalidCoding)?;
            self.hand_on(out)?;
            if taken == 0 {
                // The stream is over; what follows is not part of it.
                return Ok(());
            }
            bytes = bytes.get(taken..).unwrap_or_default();
        }
        Ok(())
    }

    /// Everything that can be known from the bytes so far.
    fn hand_on(&mut self, out: &mut impl FnMut(&[u8])) -> Result<(), InvalidCoding> {
        let (flushed, ready) = match self {
            Self::Gzip(decoder) => (decoder.flush(), decoder.get_mut()),
            Self::Zlib(decoder) => (decoder.flush(), decoder.get_mut()),
            Self::RawDeflate(decoder) => (decoder.flush(), decoder.get_mut()),
            _ => return Err(InvalidCoding),
        };
        if !ready.is_empty() {
            out(ready);
            ready.clear();
        }
        flushed.map_err(|_| InvalidCoding)
    }

    /// The body is over: was it whole?
    pub fn finish(&mut self, mut out: impl FnMut(&[u8])) -> Result<(), InvalidCoding> {
        let finished = match self {
            Self::Identity | Self::Deflate => return Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::RawDeflate(decoder) => decoder.try_finish(),
            Self::Broken => return Err(InvalidCoding),
        };
        let handed_on = self.hand_on(&mut out);
        finished.map_err(|_| InvalidCoding).and(handed_on)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::{Decoder, InvalidCoding};

    fn decode(coding: &str, pieces: &[&[u8]]) -> (Vec<u8>, usize, Result<(), InvalidCoding>) {
        let (mut decoder, mut all, mut largest) = (Decoder::new(Some(coding)), Vec::new(), 0);
        let mut take = |out: &[u8]| {
            largest = largest.max(out.len());
            all.extend_from_slice(out);
        };
        let result = pieces
            .iter()
            .try_for_each(|piece| decoder.decode(piece, &mut take))
            .and_then(|()| decoder.finish(&mut take));
        (all, largest, result)
    }

    #[test]
    fn each_coding_in_any_cutting() {
        let text = b"the same text, the same text, the same text".repeat(3);
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        for encoder in [&mut gzip as &mut dyn std::io::Write, &mut zlib, &mut raw] {
            encoder.write_all(&text).expect("write to memory");
        }
        let coded = [
            ("gzip", gzip.finish()),
            ("deflate", zlib.finish()),
            ("deflate", raw.finish()),
            ("identity", Ok(text.clone())),
        ];
        for (coding, bytes) in coded {
            let bytes = bytes.expect("write to memory");
            for cut in 0..bytes.len() {
                let (head, tail) = bytes.split_at(cut);
                let (out, _, result) = decode(coding, &[head, tail]);
                assert_eq!((out, result), (text.clone(), Ok(())), "{coding} cut at {cut}");
            }
            if coding != "identity" {
                let (_, _, result) = decode(coding, &[&bytes[..bytes.len() - 1]]);
                assert!(result.is_err() || coding == "deflate", "{coding} without its end");
            }
        }
    }

    #[test]
    fn a_flushed_stream_is_readable_before_its_end() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
        gzip.write_all(b"data: 1\n\n").expect("write to memory");
        gzip.flush().expect("write to memory");
        let mut out = Vec::new();
        let mut decoder = Decoder::new(Some("gzip"));
        decoder.decode(gzip.get_ref(), |piece| out.extend_from_slice(piece)).expect("valid gzip");
        assert_eq!(out, b"data: 1\n\n");
    }

    #[test]
    fn a_bomb_comes_out_in_small_pieces() {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
        gzip.write_all(&vec![0; 64 << 20]).expect("write to memory");
        let (out, largest, result) = decode("gzip", &[&gzip.finish().expect("write to memory")]);
        assert_eq!((out.len(), result), (64 << 20, Ok(())));
        assert!(largest <= 256 << 10, "{largest} bytes at once");
    }

    #[test]
    fn an_unknown_coding_gives_nothing_rather_than_garbage() {
        let (out, _, result) = decode("br", &[b"whatever"]);
        assert_eq!((out, result), (Vec::new(), Err(InvalidCoding)));
    }
}
