//! What a process that is stopped at the gate is about to send.

use std::{io::IoSliceMut, sync::mpsc::sync_channel, thread, time::Duration};

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid as NixPid,
};

use super::event::{Pid, Whole};

/// Most of a request that is looked at before it may go.
const MOST: usize = 4 * 1024 * 1024;

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
    let len = (whole.len as usize).min(MOST);
    let mut bytes = vec![0; len];
    let from = [RemoteIoVec { base, len }];
    let read = process_vm_readv(NixPid::from_raw(pid), &mut [IoSliceMut::new(&mut bytes)], &from);
    bytes.truncate(read.unwrap_or(0));
    bytes
}

#[cfg(test)]
mod tests {
    use super::{Whole, read};

    fn bytes(pid: u32, whole: Whole) -> Vec<u8> {
        read(pid, whole).expect("nobody is waited for")
    }

    #[test]
    fn memory_is_read_as_far_as_there_is_some() {
        let text = b"what is about to be sent".to_vec();
        let whole = Whole { address: text.as_ptr() as u64, len: u32::try_from(text.len()).expect("short"), fd: None };
        assert_eq!(bytes(std::process::id(), whole), text);
        assert!(bytes(std::process::id(), Whole { address: 1, len: 9, fd: None }).is_empty());
        assert!(bytes(u32::MAX, whole).is_empty());
    }
}
