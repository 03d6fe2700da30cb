//! What a process that is stopped at the gate is about to send.

use std::{io::IoSliceMut, sync::mpsc::sync_channel, thread, time::Duration};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid as NixPid,
};

use super::event::{Pid, Whole};

/// Most of a request that is looked at before it may go.
const MOST: usize = 4 * 1024 * 1024;
/// Most pieces of one call (`UIO_MAXIOV`, `linux/uio.h`), here and there.
const MOST_PIECES: u32 = 1024;
/// Bytes of a `struct iovec`: an address and a length.
const PIECE: usize = 2 * size_of::<usize>();

/// How long it may take. A page can be of a kind that somebody has to bring first (userfaultfd, a file of FUSE), and that somebody may be the process
/// that stands still.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nobody brings the page.
#[derive(Debug, thiserror::Error)]
#[error("its memory cannot be read within {PATIENCE:?} while it stands still")]
pub struct Blocks;

/// Copies it. Empty where it cannot be read: the process is gone, or was never there.
///
/// What is read is a hint for the decision and not the record: somebody who shares the memory could change it before it is sent. What was sent is metered.
///
/// # Errors
/// When it takes too long. The thread that reads ends with the process at the latest.
pub fn read(pid: Pid, whole: Whole) -> Result<Vec<u8>, Blocks> {
    let (sender, receiver) = sync_channel(1);
    // Whoever waited is gone, where it took too long.
    let work = move || drop(sender.send(copy(pid, whole)));
    if thread::Builder::new().name("read-memory".into()).spawn(work).is_err() {
        return Ok(Vec::new());
    }
    receiver.recv_timeout(PATIENCE).map_err(|_| Blocks)
}

fn copy(pid: Pid, whole: Whole) -> Vec<u8> {
    let (Ok(pid), Ok(base)) = (i32::try_from(pid), usize::try_from(whole.address)) else { return Vec::new() };
    let (pid, len) = (NixPid::from_raw(pid), (whole.len as usize).min(MOST));
    match whole.pieces {
        None => gather(pid, &[RemoteIoVec { base, len }], len),
        Some(pieces) => {
            let pieces = pieces.get().min(MOST_PIECES) as usize * PIECE;
            let pieces = pieces_of(&gather(pid, &[RemoteIoVec { base, len: pieces }], pieces), len);
            let len = pieces.iter().map(|piece| piece.len).sum();
            gather(pid, &pieces, len)
        }
    }
}

/// Where `struct iovec`s say that the first `room` bytes lie.
fn pieces_of(vectors: &[u8], mut room: usize) -> Vec<RemoteIoVec> {
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or_default();
    let piece = |vector: &[u8]| {
        let (base, len) = vector.split_at(PIECE / 2);
        let len = word(len).min(room);
        room -= len;
        RemoteIoVec { base: word(base), len }
    };
    // None of them may be missing between two others.
    vectors.chunks_exact(PIECE).map(piece).filter(|piece| piece.len > 0).collect()
}

/// As much as there is of these pieces, up to the first that cannot be read.
fn gather(pid: NixPid, from: &[RemoteIoVec], len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let read = process_vm_readv(pid, &mut [IoSliceMut::new(&mut bytes)], from);
    bytes.truncate(read.unwrap_or(0));
    bytes
}

#[cfg(test)]
mod tests {
    use std::{io::IoSlice, num::NonZeroU32};

    use super::{MOST, Whole, read};

    fn bytes(pid: u32, whole: Whole) -> Vec<u8> {
        read(pid, whole).expect("nobody is waited for")
    }

    fn length(bytes: usize) -> u32 {
        u32::try_from(bytes).expect("short")
    }

    #[test]
    fn memory_is_read_as_far_as_there_is_some() {
        let text = b"what is about to be sent".to_vec();
        let whole = Whole { address: text.as_ptr() as u64, len: length(text.len()), ..Whole::default() };
        assert_eq!(bytes(std::process::id(), whole), text);
        assert!(bytes(std::process::id(), Whole { address: 1, len: 9, ..Whole::default() }).is_empty());
        assert!(bytes(u32::MAX, whole).is_empty());
    }

    #[test]
    fn pieces_are_put_together() {
        let (head, body) = (b"a head, ".to_vec(), vec![b'x'; MOST]);
        let pieces = [IoSlice::new(&head), IoSlice::new(b""), IoSlice::new(&body), IoSlice::new(b"too much")];
        let of = |count: usize, len: usize| {
            let pieces_count = NonZeroU32::new(length(count));
            let whole = Whole { address: pieces.as_ptr() as u64, len: length(len), pieces: pieces_count, fd: None };
            bytes(std::process::id(), whole)
        };
        assert_eq!(of(3, head.len() + 3), b"a head, xxx");
        assert_eq!(of(1, 9), head, "no more than there are pieces");
        let all = of(4, head.len() + body.len() + 8);
        assert_eq!((all.len(), all.starts_with(b"a head, x"), all.ends_with(b"x")), (MOST, true, true));
        let torn = [pieces[0], IoSlice::new(&[])];
        let whole = Whole { address: torn.as_ptr() as u64, len: 99, pieces: NonZeroU32::new(2), fd: None };
        assert_eq!(bytes(std::process::id(), whole), head);
        let nowhere = Whole { address: 1, len: 9, pieces: NonZeroU32::new(2), fd: None };
        assert!(bytes(std::process::id(), nowhere).is_empty());
    }
}
