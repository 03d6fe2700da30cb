#![no_main]
//! AWS event streams.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    tollgate_fuzz::check_http1(&tollgate_fuzz::answer("Content-Type: application/vnd.amazon.eventstream\r\n", data));
});
