#![no_main]
//! Streams of messages in text: the first byte says which kind.

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [way, body @ ..] = data else { return };
    let kinds = ["text/event-stream", "application/x-ndjson", "text/plain", "application/json"];
    let kind = kinds[usize::from(*way) % kinds.len()];
    tollgate_fuzz::check_http1(&tollgate_fuzz::answer(&format!("Content-Type: {kind}\r\n"), body));
});
