#![no_main]
//! Forms.

use monitor::wire::Direction;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let fields = format!("Content-Type: multipart/form-data; boundary=X\r\nContent-Length: {}\r\n", data.len());
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    tollgate_fuzz::check_http1(&vec![(Direction::Request, [head.as_bytes(), data].concat())]);
});
