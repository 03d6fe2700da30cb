//! Lines and records of a stream, cut out of pieces without copying where a piece holds a whole one.

/// The unfinished end of a stream of lines, bounded.
#[derive(Debug, Default)]
pub struct Tail {
    bytes: Vec<u8>,
    /// Bytes that did not fit.
    cut: bool,
    /// Bytes before it were lost.
    torn: bool,
}

impl Tail {
    /// Adds to the unfinished line, keeping at most `limit` bytes of it.
    pub fn push(&mut self, bytes: &[u8], limit: usize) {
        let room = limit.saturating_sub(self.bytes.len());
        self.cut |= bytes.len() > room;
        self.bytes.extend_from_slice(bytes.get(..bytes.len().min(room)).unwrap_or_default());
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && !self.cut
    }

    /// The line that ends with `end`, put together if it began earlier; and whether it was cut.
    pub fn complete<'a>(&'a mut self, end: &'a [u8], limit: usize) -> (&'a [u8], bool) {
        if self.is_empty() {
            let kept = end.get(..end.len().min(limit)).unwrap_or_default();
            return (kept, end.len() > limit);
        }
        self.push(end, limit);
        (&self.bytes, self.cut)
    }

    /// Bytes were lost: what follows is the end of a line whose beginning is not known.
    pub fn lose(&mut self) {
        self.clear();
        self.torn = true;
    }

    pub fn is_torn(&self) -> bool {
        self.torn
    }

    /// Forgets the line. Memory of an ordinary size is kept for the next one.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(16 * 1024);
        self.cut = false;
        self.torn = false;
    }
}
