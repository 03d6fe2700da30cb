//! The body of an answer: pieces, sent with pauses, perhaps compressed, perhaps broken off.

use std::{
    collections::VecDeque,
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::Sleep;

use super::truth::{Entry, State};
use crate::Usage;

/// Bytes that go out together, and what has happened once they have.
#[derive(Debug, Clone, Default)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    /// Chunks of text that end in this piece.
    pub(super) chunks: u64,
    /// What the call has cost up to here, if that changes.
    pub(super) billed: Option<Usage>,
    /// With this piece the client has all of the answer. What may follow are the ends of encodings, and some clients
    /// do not stay for those.
    pub(super) completes: bool,
}

impl Piece {
    pub(super) fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), ..Self::default() }
    }

    /// The last one.
    pub(super) fn last(bytes: impl Into<Bytes>) -> Self {
        Self { completes: true, ..Self::new(bytes) }
    }
}

/// How the pieces go out.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pace {
    pub(super) delay: Duration,
    /// Break the connection after so many chunks of text.
    pub(super) break_after: Option<u64>,
}

/// Pause before a connection is broken: what hyper has not written by then, it throws away.
const FLUSH: Duration = Duration::from_millis(20);

/// Compresses pieces; each can be decompressed as soon as it is there.
pub(super) fn gzip(pieces: Vec<Piece>) -> io::Result<Vec<Piece>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    let mut compressed = Vec::with_capacity(pieces.len() + 1);
    for piece in pieces {
        encoder.write_all(&piece.bytes)?;
        encoder.flush()?;
        compressed.push(Piece { bytes: std::mem::take(encoder.get_mut()).into(), ..piece });
    }
    compressed.push(Piece::new(encoder.finish()?));
    Ok(compressed)
}

/// Cuts pieces anew into `size` bytes, blind to what they mean. What a piece brings about then comes with its last byte.
pub(super) fn recut(pieces: Vec<Piece>, size: usize) -> Vec<Piece> {
    let mut cut: Vec<Piece> = Vec::new();
    let mut open: Vec<u8> = Vec::new();
    let mut done = Piece::default();
    for piece in pieces {
        for &byte in &piece.bytes {
            if open.len() == size.max(1) {
                cut.push(Piece { bytes: std::mem::take(&mut open).into(), ..std::mem::take(&mut done) });
            }
            open.push(byte);
        }
        done.chunks += piece.chunks;
        done.billed = piece.billed.or(done.billed);
        done.completes |= piece.completes;
    }
    cut.push(Piece { bytes: open.into(), ..done });
    cut
}

/// A body that tells the book what it sends.
#[derive(Debug)]
pub(super) struct Answer {
    pieces: VecDeque<Piece>,
    pace: Pace,
    pause: Option<Pin<Box<Sleep>>>,
    chunks_sent: u64,
    /// Known in advance when the body is sent with a `Content-Length`.
    length: Option<u64>,
    entry: Entry,
}

impl Answer {
    pub(super) fn new(pieces: Vec<Piece>, pace: Pace, entry: Entry) -> Self {
        Self { pieces: pieces.into(), pace, pause: None, chunks_sent: 0, length: None, entry }
    }

    /// To be sent with a `Content-Length`.
    pub(super) fn sized(mut self) -> Self {
        let length: usize = self.pieces.iter().map(|piece| piece.bytes.len()).sum();
        self.length = u64::try_from(length).ok();
        self
    }

    fn is_to_break(&self) -> bool {
        self.pace.break_after.is_some_and(|chunks| self.chunks_sent >= chunks)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        if let Some(pause) = &mut this.pause {
            ready!(pause.as_mut().poll(context));
            this.pause = None;
        }
        if this.is_to_break() {
            this.entry.ended(State::BrokenOff);
            return Poll::Ready(Some(Err(io::Error::other("broken off on demand"))));
        }
        let Some(piece) = this.pieces.pop_front() else { return Poll::Ready(None) };
        this.chunks_sent += piece.chunks;
        this.entry.sent(piece.chunks, piece.billed);
        let breaks = this.is_to_break();
        if piece.completes && !breaks {
            this.entry.ended(State::Complete);
        }
        let pause = if breaks { this.pace.delay.max(FLUSH) } else { this.pace.delay };
        if !pause.is_zero() && (breaks || !this.pieces.is_empty()) {
            this.pause = Some(Box::pin(tokio::time::sleep(pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece.bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use bytes::Bytes;

    use super::{Piece, gzip, recut};
    use crate::Usage;

    fn pieces() -> Vec<Piece> {
        let billed = |output_text| Some(Usage { output_text, ..Usage::default() });
        vec![
            Piece { bytes: Bytes::from_static(b"abcde"), chunks: 1, billed: billed(1), completes: false },
            Piece { bytes: Bytes::from_static(b"f"), chunks: 1, billed: billed(2), completes: false },
            Piece { bytes: Bytes::from_static(b"ghi"), chunks: 1, billed: billed(3), completes: true },
        ]
    }

    #[test]
    fn recut_pieces_bill_a_chunk_only_when_all_of_it_is_sent() {
        let cut = recut(pieces(), 4);
        let shape: Vec<_> = cut.iter().map(|piece| (&*piece.bytes, piece.chunks, piece.completes)).collect();
        assert_eq!(shape, [(&b"abcd"[..], 0, false), (b"efgh", 2, false), (b"i", 1, true)]);
        assert_eq!(cut[2].billed.map(|billed| billed.output_text), Some(3));
        let even = recut(pieces(), 3);
        assert_eq!(
            even.iter().map(|piece| (piece.chunks, piece.completes)).collect::<Vec<_>>(),
            [(0, false), (2, false), (1, true)]
        );
    }

    #[test]
    fn gzip_can_be_read_piece_by_piece() {
        let compressed = gzip(pieces()).expect("compressing in memory");
        let start: Vec<u8> = compressed[..2].iter().flat_map(|piece| piece.bytes.to_vec()).collect();
        let mut text = [0; 6];
        flate2::read::GzDecoder::new(&start[..]).read_exact(&mut text).expect("two flushed pieces");
        assert_eq!(&text, b"abcdef");
        assert_eq!(compressed.iter().map(|piece| piece.chunks).sum::<u64>(), 3);
    }
}
