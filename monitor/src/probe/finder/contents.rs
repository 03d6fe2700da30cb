//! The parts of a file that a search looks at.
//!
//! They are read, not mapped: whoever owns a mapped file can shorten it, and the daemon would die of `SIGBUS`.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    ops::Range,
};

use object::ReadRef;

/// Bytes that are read of one file at most.
const MAX_LOADED: u64 = 1 << 30;

/// Stretches of a file, each with its place in it.
#[derive(Debug, Default)]
pub struct Contents {
    len: u64,
    /// Sorted, without overlap or contact.
    extents: Vec<Extent>,
}

#[derive(Debug)]
struct Extent {
    offset: u64,
    bytes: Vec<u8>,
}

impl Extent {
    fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.bytes.len() as u64)
    }
}

impl Contents {
    /// A file that is in memory already.
    pub fn whole(bytes: Vec<u8>) -> Self {
        Self { len: bytes.len() as u64, extents: vec![Extent { offset: 0, bytes }] }
    }

    /// Reads these ranges of a file. What lies outside of it is left out; ranges that touch become one.
    ///
    /// # Errors
    /// When the file cannot be read, or more than a gibibyte of it would be needed.
    pub fn read(file: &mut File, ranges: impl IntoIterator<Item = Range<u64>>) -> io::Result<Self> {
        let len = file.seek(SeekFrom::End(0))?;
        let mut extents = Vec::new();
        let mut left = MAX_LOADED;
        for range in merged(ranges, len) {
            let size = range.end - range.start;
            left = left.checked_sub(size).ok_or_else(|| too_large(MAX_LOADED))?;
            let mut bytes = Vec::new();
            let capacity = usize::try_from(size).map_err(|_| too_large(size))?;
            bytes.try_reserve_exact(capacity).map_err(|_| too_large(size))?;
            file.seek(SeekFrom::Start(range.start))?;
            file.take(size).read_to_end(&mut bytes)?;
            extents.push(Extent { offset: range.start, bytes });
        }
        Ok(Self { len, extents })
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// These bytes, if they were read.
    pub fn get(&self, offset: u64, size: u64) -> Option<&[u8]> {
        let extent = self.extent_at(offset)?;
        let start = usize::try_from(offset - extent.offset).ok()?;
        extent.bytes.get(start..start.checked_add(usize::try_from(size).ok()?)?)
    }

    fn extent_at(&self, offset: u64) -> Option<&Extent> {
        let after = self.extents.partition_point(|extent| extent.offset <= offset);
        self.extents.get(after.checked_sub(1)?)
    }
}

fn too_large(size: u64) -> io::Error {
    io::Error::other(format!("{size} bytes of it would have to be read"))
}

fn merged(ranges: impl IntoIterator<Item = Range<u64>>, len: u64) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> =
        ranges.into_iter().map(|range| range.start..range.end.min(len)).filter(|range| !range.is_empty()).collect();
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<u64>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

impl<'a> ReadRef<'a> for &'a Contents {
    fn len(self) -> Result<u64, ()> {
        Ok(self.len)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        if size == 0 {
            return Ok(&[]);
        }
        self.get(offset, size).ok_or(())
    }

    fn read_bytes_at_until(self, range: Range<u64>, delimiter: u8) -> Result<&'a [u8], ()> {
        let extent = self.extent_at(range.start).ok_or(())?;
        let end = range.end.min(extent.range().end);
        let bytes = self.get(range.start, end.checked_sub(range.start).ok_or(())?).ok_or(())?;
        let length = memchr::memchr(delimiter, bytes).ok_or(())?;
        bytes.get(..length).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        file
    }

    #[test]
    fn reads_what_is_asked_for_and_nothing_else() {
        let contents = Contents::read(&mut file(b"0123456789"), [1..3, 3..4, 8..40, 6..6]).expect("read");
        assert_eq!(contents.get(1, 3), Some(&b"123"[..]));
        assert_eq!(contents.get(8, 2), Some(&b"89"[..]));
        assert_eq!(contents.get(8, 3), None);
        assert_eq!(contents.get(4, 1), None);
        assert_eq!(contents.get(0, 1), None);
        assert_eq!(contents.get(u64::MAX, u64::MAX), None);
    }

    #[test]
    fn strings_end_inside_what_was_read() {
        let contents = Contents::read(&mut file(b"ab\0cd"), [0..5, 0..0]).expect("read");
        assert_eq!((&contents).read_bytes_at_until(0..5, 0), Ok(&b"ab"[..]));
        assert_eq!((&contents).read_bytes_at_until(3..5, 0), Err(()));
        assert_eq!((&contents).read_bytes_at_until(9..10, 0), Err(()));
    }

    #[test]
    fn a_sparse_giant_is_refused_before_it_is_read() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 40).expect("sparse");
        let refused = Contents::read(&mut { file }, [0..1 << 39, 0..1]).expect_err("too large");
        assert!(refused.to_string().contains("would have to be read"), "{refused}");
    }
}
