#![no_main]
//! The whole way, from bytes to money.

use jiff::Timestamp;
use monitor::{
    pipeline::{Pipeline, Step},
    price::PriceBook,
    wire::{Direction, StreamOffset},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut pipeline = Pipeline::new(PriceBook::embedded(), "https");
    let (mut started, mut finished) = (0, 0);
    let mut count = |step: Step| match step {
        Step::Started { .. } => started += 1,
        Step::Finished { .. } => finished += 1,
        _ => {}
    };
    let (mut sent, mut received) = (0, 0);
    for (direction, bytes) in tollgate_fuzz::script(data) {
        let at = if direction == Direction::Request { &mut sent } else { &mut received };
        pipeline.push(direction, StreamOffset(*at), &bytes, Timestamp::UNIX_EPOCH, &mut count);
        *at += bytes.len() as u64;
    }
    pipeline.close(Timestamp::UNIX_EPOCH, &mut count);
    assert_eq!(started, finished, "every exchange that begins ends");
});
