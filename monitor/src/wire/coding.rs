//! Content codings (RFC 9110 §8.4.1), undone as the bytes come.

use std::io::Write as _;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

/// Undoes the content codings of one body, the last one first.
///
/// What comes out is handed on after every step of at most [`STEP`] bytes, so that a body that grows a thousandfold needs no more memory than
/// one that does not.
pub struct Decoder {
    /// In the order in which they are undone.
    stages: Vec<Stage>,
    /// A coding that cannot be undone, or bytes that it did not make: nothing more comes out.
    is_broken: bool,
}

enum Stage {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    /// `deflate` before its first byte, which tells the two kinds in use apart.
    Deflate,
    Zlib(Box<ZlibDecoder<Vec<u8>>>),
    RawDeflate(Box<DeflateDecoder<Vec<u8>>>),
    Brotli(Box<Brotli>),
    Zstd(Box<Zstd>),
}

struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    is_over: bool,
}

struct Zstd {
    decoder: DCtx<'static>,
    /// Between two frames, where the body may end.
    is_between: bool,
}

/// Coded bytes that are taken at once, and decoded ones that are handed on at once where the decoder lets us choose.
const STEP: usize = 4 * 1024;
const OUT: usize = 32 * 1024;
/// Codings on top of each other that are undone.
const STAGES: usize = 3;
/// Largest window of zstd: 8 MiB, which is all that a sender may ask for (RFC 9659).
const ZSTD_WINDOW_LOG: u32 = 23;

/// The coding could not be undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidCoding;

impl Decoder {
    /// For the values of the `Content-Encoding` fields, and then of the `Transfer-Encoding` fields, in order.
    pub fn new<'a>(codings: impl Iterator<Item = &'a str>) -> Self {
        let mut decoder = Self { stages: Vec::new(), is_broken: false };
        for coding in codings.flat_map(|value| value.split(',')) {
            let coding = coding.trim();
            // Chunks are taken apart by whoever finds the end of the body.
            let is_other = ["", "identity", "chunked"].iter().any(|other| coding.eq_ignore_ascii_case(other));
            if is_other {
                continue;
            }
            match Stage::new(&coding.to_ascii_lowercase()) {
                Some(stage) if decoder.stages.len() < STAGES => decoder.stages.insert(0, stage),
                _ => decoder.is_broken = true,
            }
        }
        decoder
    }

    pub fn is_identity(&self) -> bool {
        self.stages.is_empty() && !self.is_broken
    }

    /// Bytes of the windows that it has by now, of the codings that have large ones.
    pub fn window(&self) -> usize {
        self.stages.iter().map(Stage::window).sum()
    }

    /// Bytes are missing: what follows cannot be decoded.
    pub fn give_up(&mut self) {
        self.is_broken = true;
        self.stages.clear();
    }

    /// Decodes `bytes`, handing on what comes out.
    pub fn decode(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        if self.is_broken {
            return Err(InvalidCoding);
        }
        let result = through(&mut self.stages, bytes, out);
        if result.is_err() {
            self.give_up();
        }
        result
    }

    /// The body is over: was it whole?
    pub fn finish(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        if self.is_broken {
            return Err(InvalidCoding);
        }
        let mut stages = self.stages.as_mut_slice();
        while let Some((first, rest)) = stages.split_first_mut() {
            let mut passed_on = Ok(());
            let finished = first.finish(&mut |piece| {
                if passed_on.is_ok() {
                    passed_on = through(rest, piece, out);
                }
            });
            finished.and(passed_on)?;
            stages = rest;
        }
        Ok(())
    }
}

/// Passes bytes through all stages, in steps.
fn through(stages: &mut [Stage], bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
    let Some((first, rest)) = stages.split_first_mut() else {
        out(bytes);
        return Ok(());
    };
    for step in bytes.chunks(STEP) {
        let mut passed_on = Ok(());
        first.step(step, &mut |piece| {
            if passed_on.is_ok() {
                passed_on = through(rest, piece, out);
            }
        })?;
        passed_on?;
    }
    Ok(())
}

impl Stage {
    fn new(coding: &str) -> Option<Self> {
        Some(match coding {
            "gzip" | "x-gzip" => Self::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            "deflate" => Self::Deflate,
            "br" => Self::Brotli(Box::new(Brotli::new())),
            "zstd" => Self::Zstd(Box::new(Zstd::new()?)),
            _ => return None,
        })
    }

    fn window(&self) -> usize {
        match self {
            Self::Brotli(brotli) => usize::try_from(brotli.state.ringbuffer_size).unwrap_or(0),
            Self::Zstd(zstd) => zstd.decoder.sizeof(),
            Self::Gzip(_) | Self::Deflate | Self::Zlib(_) | Self::RawDeflate(_) => 0,
        }
    }

    fn step(&mut self, mut bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        if let Self::Deflate = self {
            let Some(&first) = bytes.first() else { return Ok(()) };
            // A zlib header says method 8 and a window of at most 32 KiB (RFC 1950); raw deflate cannot begin like this.
            *self = if first & 0x0f == 8 && first >> 4 <= 7 {
                Self::Zlib(Box::new(ZlibDecoder::new(Vec::new())))
            } else {
                Self::RawDeflate(Box::new(DeflateDecoder::new(Vec::new())))
            };
        }
        while !bytes.is_empty() {
            let taken = match self {
                Self::Gzip(decoder) => decoder.write(bytes),
                Self::Zlib(decoder) => decoder.write(bytes),
                Self::RawDeflate(decoder) => decoder.write(bytes),
                Self::Brotli(decoder) => return decoder.step(bytes, out),
                Self::Zstd(decoder) => return decoder.step(bytes, out),
                Self::Deflate => return Err(InvalidCoding),
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
    fn hand_on(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        let (flushed, ready) = match self {
            Self::Gzip(decoder) => (decoder.flush(), decoder.get_mut()),
            Self::Zlib(decoder) => (decoder.flush(), decoder.get_mut()),
            Self::RawDeflate(decoder) => (decoder.flush(), decoder.get_mut()),
            Self::Deflate | Self::Brotli(_) | Self::Zstd(_) => return Ok(()),
        };
        if !ready.is_empty() {
            out(ready);
            ready.clear();
        }
        flushed.map_err(|_| InvalidCoding)
    }

    fn finish(&mut self, out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        let finished = match self {
            Self::Deflate => return Ok(()),
            Self::Gzip(decoder) => decoder.try_finish(),
            Self::Zlib(decoder) => decoder.try_finish(),
            Self::RawDeflate(decoder) => decoder.try_finish(),
            Self::Brotli(decoder) => return if decoder.is_over { Ok(()) } else { Err(InvalidCoding) },
            Self::Zstd(decoder) => return if decoder.is_between { Ok(()) } else { Err(InvalidCoding) },
        };
        let handed_on = self.hand_on(out);
        finished.map_err(|_| InvalidCoding).and(handed_on)
    }
}

impl Brotli {
    fn new() -> Self {
        let memory = StandardAlloc::default;
        Self { state: BrotliState::new(memory(), memory(), memory()), is_over: false }
    }

    fn step(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        let (mut left, mut at, mut total) = (bytes.len(), 0, 0);
        let mut buffer = [0; OUT];
        while !self.is_over {
            let (mut room, mut made) = (OUT, 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                bytes,
                &mut room,
                &mut made,
                &mut buffer,
                &mut total,
                &mut self.state,
            );
            out(buffer.get(..made).unwrap_or_default());
            match result {
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::ResultSuccess => self.is_over = true,
                BrotliResult::ResultFailure => return Err(InvalidCoding),
            }
        }
        Ok(())
    }
}

impl Zstd {
    fn new() -> Option<Self> {
        let mut decoder = DCtx::try_create()?;
        decoder.set_parameter(DParameter::WindowLogMax(ZSTD_WINDOW_LOG)).ok()?;
        Some(Self { decoder, is_between: true })
    }

    fn step(&mut self, bytes: &[u8], out: &mut dyn FnMut(&[u8])) -> Result<(), InvalidCoding> {
        let mut input = InBuffer::around(bytes);
        let mut buffer = [0; OUT];
        loop {
            let before = input.pos;
            let mut output = OutBuffer::around(&mut buffer[..]);
            let hint = self.decoder.decompress_stream(&mut output, &mut input).map_err(|_| InvalidCoding)?;
            let made = output.pos();
            if made > 0 || input.pos > before {
                self.is_between = hint == 0;
            }
            out(buffer.get(..made).unwrap_or_default());
            // A full buffer may mean that more waits inside.
            if input.pos >= bytes.len() && made < OUT {
                return Ok(());
            }
        }
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
        let (mut decoder, mut all, mut largest) = (Decoder::new([coding].into_iter()), Vec::new(), 0);
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

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).expect("write to memory");
        encoder.finish().expect("write to memory")
    }

    fn brotli(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        brotli::BrotliCompress(&mut &text[..], &mut out, &Default::default()).expect("write to memory");
        out
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 3).expect("write to memory")
    }

    #[test]
    fn each_coding_in_any_cutting() {
        let text = b"the same text, the same text, the same text".repeat(3);
        let mut zlib = ZlibEncoder::new(Vec::new(), Compression::default());
        let mut raw = DeflateEncoder::new(Vec::new(), Compression::default());
        for encoder in [&mut zlib as &mut dyn std::io::Write, &mut raw] {
            encoder.write_all(&text).expect("write to memory");
        }
        let coded = [
            ("gzip", gzip(&text)),
            ("deflate", zlib.finish().expect("write to memory")),
            ("deflate", raw.finish().expect("write to memory")),
            ("identity", text.clone()),
            ("br", brotli(&text)),
            ("zstd", zstd(&text)),
            ("zstd", [zstd(&text[..50]), zstd(&text[50..])].concat()),
            ("gzip, br", brotli(&gzip(&text))),
            ("br,zstd , gzip", gzip(&zstd(&brotli(&text)))),
        ];
        for (coding, bytes) in coded {
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
        let mut zstd = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
        zstd.write_all(b"data: 1\n\n").expect("write to memory");
        zstd.flush().expect("write to memory");
        let mut brotli = brotli::CompressorWriter::new(Vec::new(), 4096, 5, 22);
        brotli.write_all(b"data: 1\n\n").expect("write to memory");
        brotli.flush().expect("write to memory");
        for (coding, bytes) in [("gzip", gzip.get_ref()), ("zstd", zstd.get_ref()), ("br", brotli.get_ref())] {
            let mut out = Vec::new();
            let mut decoder = Decoder::new([coding].into_iter());
            decoder.decode(bytes, &mut |piece| out.extend_from_slice(piece)).expect("valid");
            assert_eq!(out, b"data: 1\n\n", "{coding}");
        }
    }

    #[test]
    fn a_bomb_comes_out_in_small_pieces() {
        let zeroes = vec![0; 64 << 20];
        for (coding, bomb) in [
            ("gzip", gzip(&zeroes)),
            ("br", brotli(&zeroes)),
            ("zstd", zstd(&zeroes)),
            ("gzip, zstd, br", brotli(&zstd(&gzip(&zeroes)))),
        ] {
            let (out, largest, result) = decode(coding, &[&bomb]);
            assert_eq!((out.len(), result), (64 << 20, Ok(())), "{coding}");
            assert!(largest <= 256 << 10, "{coding}: {largest} bytes at once");
        }
    }

    #[test]
    fn a_window_larger_than_allowed_is_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("an encoder");
        encoder.window_log(27).expect("a window");
        encoder.write_all(&vec![b'x'; 1 << 20]).expect("write to memory");
        let bytes = encoder.finish().expect("write to memory");
        assert_eq!(decode("zstd", &[&bytes]).2, Err(InvalidCoding));
    }

    #[test]
    fn an_unknown_coding_gives_nothing_rather_than_garbage() {
        for coding in ["compress", "gzip, aes128gcm", "gzip,gzip,gzip,gzip"] {
            let (out, _, result) = decode(coding, &[b"whatever"]);
            assert_eq!((out, result), (Vec::new(), Err(InvalidCoding)), "{coding}");
        }
    }
}
