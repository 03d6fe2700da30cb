#![no_main]
//! Any conversation: what it is, its bytes must tell.

libfuzzer_sys::fuzz_target!(|data: &[u8]| tollgate_fuzz::check(&tollgate_fuzz::script(data)));
