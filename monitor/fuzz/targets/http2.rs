#![no_main]
//! A conversation whose client says that it is HTTP/2.

use monitor::wire::Direction;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut script = vec![(Direction::Request, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec())];
    script.extend(tollgate_fuzz::script(data));
    tollgate_fuzz::check(&script);
});
