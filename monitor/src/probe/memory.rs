//! What a process that is stopped at the gate is about to send.

use std::io::IoSliceMut;

use nix::{
    sys::uio::{RemoteIoVec, process_vm_readv},
    unistd::Pid as NixPid,
};

use super::event::{Pid, Whole};

/// Most of a request that is looked at before it may go.
const MOST: usize = 4 * 1024 * 1024;

/// Copies it. Empty where it cannot be read: the process is gone, or was never there.
///
/// What is read is a hint for the decision and not the record: somebody who shares the memory could change it before it is sent. What was sent is metered.
pub fn read(pid: Pid, whole: Whole) -> Vec<u8> {
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

    #[test]
    fn memory_is_read_as_far_as_there_is_some() {
        let text = b"what is about to be sent".to_vec();
        let whole = Whole { address: text.as_ptr() as u64, len: u32::try_from(text.len()).expect("short"), fd: None };
        assert_eq!(read(std::process::id(), whole), text);
        assert!(read(std::process::id(), Whole { address: 1, len: 9, fd: None }).is_empty());
        assert!(read(u32::MAX, whole).is_empty());
    }
}
