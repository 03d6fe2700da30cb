#![no_main]
//! The beginnings of connections, in pieces of which the first byte tells the size.

use monitor::coverage::{Beginning, initial_version};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [size, bytes @ ..] = data else { return };
    let _ = initial_version(bytes);
    let (mut beginning, mut offset) = (Beginning::default(), 0);
    for piece in bytes.chunks(usize::from(*size) + 1) {
        let _ = beginning.push(offset, piece);
        offset += piece.len() as u64;
    }
});
