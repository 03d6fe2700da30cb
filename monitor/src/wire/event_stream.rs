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
    /// Where the next frame begins is unknown: its prelude is looked for.
    is_searching: bool,
}

/// A checksum was wrong, or what should be a frame is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFrames;

/// The lengths of a frame and of its header fields, and their checksum.
const PRELUDE: usize = 12;
/// Length of a frame without fields and payload.
const LEAST: usize = 16;
/// Longest frame there is, by the specification.
const MOST: usize = 24 * 1024 * 1024;

impl Frames {
    /// Takes a piece of the stream. Frames of more than `limit` bytes are passed over and said to be cut.
    ///
    /// # Errors
    /// When something of it was no frame. What follows is read from the next frame on.
    pub fn push(&mut self, mut bytes: &[u8], limit: usize, mut out: impl FnMut(Message<'_>)) -> Result<(), NotFrames> {
        let mut result = Ok(());
        while !bytes.is_empty() {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            if self.frame.len() < PRELUDE {
                // A frame that came in one piece is read where it is.
                if self.frame.is_empty()
                    && let Some(Ok(length)) = length(bytes)
                    && let Some((frame, rest)) = bytes.split_at_checked(length).filter(|_| length <= limit)
                {
                    self.is_searching = false;
                    match read(frame, &mut out) {
                        Ok(()) => bytes = rest,
                        Err(NotFrames) => {
                            // Its length was right: its prelude has a checksum of its own.
                            result = Err(NotFrames);
                            bytes = rest;
                        }
                    }
                    continue;
                }
                let (taken, rest) = bytes.split_at((PRELUDE - self.frame.len()).min(bytes.len()));
                self.frame.extend_from_slice(taken);
                bytes = rest;
            }
            let length = match length(&self.frame) {
                None => break,
                Some(Ok(length)) => length,
                Some(Err(NotFrames)) => {
                    if !self.is_searching {
                        result = Err(NotFrames);
                    }
                    self.is_searching = true;
                    self.frame.remove(0);
                    continue;
                }
            };
            self.is_searching = false;
            if length > limit {
                self.skip = length.saturating_sub(self.frame.len());
                self.frame = Vec::new();
                out(Message { event: None, data: &[], truncated: true });
                continue;
            }
            let (taken, rest) = bytes.split_at(length.saturating_sub(self.frame.len()).min(bytes.len()));
            self.frame.extend_from_slice(taken);
            bytes = rest;
            if self.frame.len() >= length {
                let frame = std::mem::take(&mut self.frame);
                result = read(&frame, &mut out).and(result);
            }
        }
        result
    }

    /// Bytes of the stream are missing here.
    pub fn lose(&mut self) {
        *self = Self { is_searching: true, ..Self::default() };
    }

    /// The stream is over: did it end with a frame?
    pub fn finish(&self) -> Result<(), NotFrames> {
        if self.is_searching || !self.frame.is_empty() || self.skip > 0 { Err(NotFrames) } else { Ok(()) }
    }
}

/// The length of the frame that begins here, once that is known.
fn length(bytes: &[u8]) -> Option<Result<usize, NotFrames>> {
    let [l0, l1, l2, l3, _, _, _, _, c0, c1, c2, c3, ..] = bytes else { return None };
    let length = u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize;
    let is_sound = (LEAST..=MOST).contains(&length)
        && crc32fast::hash(bytes.get(..8)?) == u32::from_be_bytes([*c0, *c1, *c2, *c3]);
    Some(if is_sound { Ok(length) } else { Err(NotFrames) })
}

fn read(frame: &[u8], out: &mut impl FnMut(Message<'_>)) -> Result<(), NotFrames> {
    let message = read_message_from(frame).map_err(|_| NotFrames)?;
    let header = |name: &str| {
        let value = message.headers().iter().find(|header| header.name().as_str() == name)?.value();
        if let HeaderValue::String(text) = value { Some(text.as_str()) } else { None }
    };
    let event = header(":exception-type").or_else(|| header(":event-type")).or_else(|| header(":error-code"));
    out(Message { event, data: message.payload(), truncated: false });
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
    use proptest::prelude::*;

    use super::{Frames, NotFrames};

    fn frame(kind: &str, payload: &[u8]) -> Vec<u8> {
        let value = HeaderValue::String(kind.to_owned().into());
        let message = Message::new(payload.to_vec()).add_header(Header::new(":event-type", value));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).expect("a frame");
        bytes
    }

    type Seen = (Option<String>, String, bool);

    fn read(pieces: &[&[u8]], limit: usize) -> (Vec<Seen>, Result<(), NotFrames>) {
        let (mut frames, mut seen) = (Frames::default(), Vec::new());
        let mut result = Ok(());
        for piece in pieces {
            result = result.and(frames.push(piece, limit, |message| {
                let text = String::from_utf8_lossy(message.data).into_owned();
                seen.push((message.event.map(str::to_owned), text, message.truncated));
            }));
        }
        (seen, result.and(frames.finish()))
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

    #[test]
    fn what_follows_a_hole_is_read() {
        let bytes = [frame("chunk", b"{\"a\":1}"), frame("chunk", b"{\"b\":2}"), frame("metadata", b"{}")].concat();
        let last = vec![(Some("metadata".to_owned()), "{}".to_owned(), false)];
        for size in [1, 5, usize::MAX] {
            let (mut frames, mut seen) = (Frames::default(), Vec::new());
            frames.lose();
            for piece in bytes[frame("chunk", b"{\"a\":1}").len() + 7..].chunks(size) {
                let pushed = frames.push(piece, 1000, |message| {
                    let text = String::from_utf8_lossy(message.data).into_owned();
                    seen.push((message.event.map(str::to_owned), text, message.truncated));
                });
                // The hole is known, and no fault of these bytes.
                assert_eq!(pushed, Ok(()));
            }
            assert_eq!((&seen, frames.finish()), (&last, Ok(())));
        }
    }
    fn any_frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let payload = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            "(\\{\"a\":[0-9]{1,4}\\}){0,4}".prop_map(String::into_bytes)
        ];
        prop::collection::vec(("[a-zA-Z]{1,12}", payload).prop_map(|(kind, payload)| frame(&kind, &payload)), 1..6)
    }

    /// Where to cut, as shares of the length.
    fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
        prop::collection::vec(any::<prop::sample::Index>(), 0..12)
    }

    fn pieces<'a>(bytes: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|cut| &bytes[cut[0]..cut[1]]).collect()
    }

    proptest! {
        #[test]
        fn any_cutting_of_any_frames_gives_the_same(frames in any_frames(), cuts in cuts(), limit in 16_usize..200) {
            let bytes = frames.concat();
            let whole = read(&[&bytes], limit);
            prop_assert_eq!((whole.0.len(), &whole.1), (frames.len(), &Ok(())));
            let is_cut: Vec<_> = whole.0.iter().map(|(_, _, is_cut)| *is_cut).collect();
            prop_assert_eq!(is_cut, frames.iter().map(|frame| frame.len() > limit).collect::<Vec<_>>());
            prop_assert_eq!(read(&pieces(&bytes, &cuts), limit), whole);
        }

        /// Also what is no stream is read alike, however it comes.
        #[test]
        fn any_cutting_of_any_bytes_gives_the_same(
            frames in any_frames(),
            noise in prop::collection::vec(any::<u8>(), 0..40),
            at in any::<prop::sample::Index>(),
            cuts in cuts(),
        ) {
            let mut bytes = frames.concat();
            let at = at.index(bytes.len() + 1);
            bytes.splice(at..at, noise);
            let whole = read(&[&bytes], 1000);
            let cut = read(&pieces(&bytes, &cuts), 1000);
            prop_assert_eq!(&cut.0, &whole.0);
            prop_assert_eq!(cut.1, whole.1);
        }

        /// The checksums are CRC-32, which notices any change within 32 bits in a row. Frames before the one that was changed are as they were; it is not
        /// taken for one, it is said that something is wrong, and nothing is told that was not sent.
        #[test]
        fn a_changed_byte_is_never_taken_for_intact(
            frames in any_frames(), cuts in cuts(), at in any::<prop::sample::Index>(), change in 1_u8..,
        ) {
            let mut bytes = frames.concat();
            let sent = read(&[&bytes], 1000).0;
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            let mut end = 0;
            let changed = frames.iter().position(|frame| {
                end += frame.len();
                at < end
            });
            let changed = changed.expect("a frame around each byte");
            let (seen, result) = read(&pieces(&bytes, &cuts), 1000);
            prop_assert_eq!(result, Err(NotFrames));
            prop_assert_eq!(seen.get(..changed), sent.get(..changed));
            // Those behind it may be found again.
            let mut behind = sent[changed + 1..].iter();
            for message in &seen[changed..] {
                prop_assert!(behind.any(|other| other == message), "{:?} was not sent there", message);
            }
        }
    }
}
