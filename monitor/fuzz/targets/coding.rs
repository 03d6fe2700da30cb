#![no_main]
//! A coded body; the first byte says how.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [way, body @ ..] = data else { return };
    let codings = ["gzip", "deflate", "br", "zstd", "gzip, br", "zstd, deflate", "br, gzip, zstd", "unknown"];
    let coding = codings[usize::from(*way) % codings.len()];
    tollgate_fuzz::check_http1(&tollgate_fuzz::answer(&format!("Content-Encoding: {coding}\r\n"), body));
});
