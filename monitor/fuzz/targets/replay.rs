#![no_main]
//! Recordings, as a user may hand them to `tollgate replay`.

use jiff::Timestamp;
use monitor::replay::{Chunks, replay};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The file is in memory: each process has one.
    let path = std::path::PathBuf::from(format!("/dev/shm/tollgate-fuzz-replay-{}", std::process::id()));
    std::fs::write(&path, data).expect("a file in memory");
    let _ = replay(&path, Chunks::Random(1), Some(Timestamp::UNIX_EPOCH), &mut |_| Ok(()));
    let _ = std::fs::remove_file(&path);
});
