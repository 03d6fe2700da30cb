//! AWS event streams (`application/vnd.amazon.eventstream`): frames with header fields, a payload and two checksums.
//!
//! Source: "Amazon Transcribe: Event stream encoding" and the Smithy specification "Amazon Event Stream".

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::HeaderValue;

use super::Message;

/// Takes an event stream apart as it arrives.
#[derive(Debug, Default)]
pub struct Frames {
    /// The frame that has not ended yet.
    frame: Vec<u8>,
    /// Bytes of a frame that is too long to be kept, which have not come yet.
    skip: usize,
    is_broken: bool,
}

/// A checksum was wrong, or what should be a frame is none: where the next one begins is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFrames;

/// Length and checksum of a frame, the least there can be.
const LEAST: usize = 16;
/// Longest frame there is, by the specification.
const MOST: usize = 24 * 1024 * 1024;

impl Frames {
    /// Takes a piece of the stream. Frames of more than `limit` bytes are passed over and said to be cut.
    ///
    /// # Errors
    /// From the first wrong frame on.
    pub fn push(&mut self, mut bytes: &[u8], limit: usize, mut out: impl FnMut(Message<'_>)) -> Result<(), NotFrames> {
        while !bytes.is_empty() && !self.is_broken {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let wanted = self.wanted()?;
            if wanted > limit {
                self.skip = wanted - self.frame.len();
                self.frame.clear();
                out(Message { event: None, data: &[], truncated: true });
                continue;
            }
            // A frame that came in one piece is read where it is.
            if self.frame.is_empty() && wanted > LENGTH && bytes.len() >= wanted {
                let (frame, rest) = bytes.split_at(wanted);
                bytes = rest;
                self.read(frame, &mut out)?;
                continue;
            }
            let (taken, rest) = bytes.split_at((wanted - self.frame.len()).min(bytes.len()));
            self.frame.extend_from_slice(taken);
            bytes = rest;
            if self.frame.len() > LENGTH && self.frame.len() == wanted {
                let frame = std::mem::take(&mut self.frame);
                self.read(&frame, &mut out)?;
                self.frame = frame;
                self.frame.clear();
                self.frame.shrink_to(16 * 1024);
            }
        }
        if self.is_broken { Err(NotFrames) } else { Ok(()) }
    }

    /// Bytes of the frame in `self.frame`, as far as that is known.
    fn wanted(&mut self) -> Result<usize, NotFrames> {
        let Some(length) = self.frame.first_chunk::<LENGTH>() else { return Ok(LENGTH) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(LEAST..=MOST).contains(&length) {
            self.is_broken = true;
            return Err(NotFrames);
        }
        Ok(length)
    }

    fn read(&mut self, frame: &[u8], out: &mut impl FnMut(Message<'_>)) -> Result<(), NotFrames> {
        let Ok(message) = read_message_from(frame) else {
            self.is_broken = true;
            return Err(NotFrames);
        };
        let header = |name: &str| {
            let value = message.headers().iter().find(|header| header.name().as_str() == name)?.value();
            if let HeaderValue::String(text) = value { Some(text.as_str()) } else { None }
        };
        let event = header(":exception-type").or_else(|| header(":event-type")).or_else(|| header(":error-code"));
        out(Message { event, data: message.payload(), truncated: false });
        Ok(())
    }

    /// The stream is over: did it end with a frame?
    pub fn finish(&self) -> Result<(), NotFrames> {
        if self.is_broken || !self.frame.is_empty() || self.skip > 0 { Err(NotFrames) } else { Ok(()) }
    }
}

/// Bytes of the length of a frame.
const LENGTH: usize = 4;

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};

    use super::{Frames, NotFrames};

    fn frame(kind: &str, payload: &'static [u8]) -> Vec<u8> {
        let value = HeaderValue::String(kind.to_owned().into());
        let message = Message::new(payload).add_header(Header::new(":event-type", value));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).expect("a frame");
        bytes
    }

    type Seen = (Option<String>, String, bool);

    fn read(pieces: &[&[u8]], limit: usize) -> (Vec<Seen>, Result<(), NotFrames>) {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        let result = pieces.iter().try_for_each(|piece| {
            frames.push(piece, limit, |message| {
                let text = String::from_utf8_lossy(message.data).into_owned();
                seen.push((message.event.map(str::to_owned), text, message.truncated));
            })
        });
        (seen, result.and_then(|()| frames.finish()))
    }

    #[test]
    fn any_cutting_gives_the_same_messages() {
        let bytes = [frame("contentBlockDelta", b"{\"a\":1}"), frame("metadata", b"{}")].concat();
        let whole = read(&[&bytes], 1000);
        assert_eq!(whole.0.first(), Some(&(Some("contentBlockDelta".into()), "{\"a\":1}".into(), false)));
        assert_eq!((whole.0.len(), whole.1), (2, Ok(())));
        for cut in 0..bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(read(&[head, tail], 1000), whole, "cut at {cut}");
            assert_eq!(
                read(&[head], 1000).1.is_ok(),
                cut == 0 || cut == frame("contentBlockDelta", b"{\"a\":1}").len()
            );
        }
    }

    #[test]
    fn a_wrong_byte_is_noticed() {
        let good = frame("metadata", b"{\"usage\":{\"inputTokens\":10}}");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let (seen, result) = read(&[&bad], 1000);
            assert!(result.is_err() && seen.is_empty(), "byte {at}");
        }
    }

    #[test]
    fn a_long_frame_is_passed_over() {
        let bytes = [frame("chunk", &[b'x'; 500]), frame("metadata", b"{}")].concat();
        let (seen, result) = read(&[&bytes], 200);
        assert_eq!(result, Ok(()));
        assert_eq!(seen, [(None, String::new(), true), (Some("metadata".into()), "{}".into(), false)]);
    }
}
