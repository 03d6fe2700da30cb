#![no_main]
//! Price tables, as an administrator may install them.

use jiff::Timestamp;
use monitor::{
    meter::{Units, Usage},
    price::{Catalogue, Query},
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(catalogue) = Catalogue::parse(text) else { return };
    for model in ["gpt-4o", "claude-3-5-sonnet-latest", ""] {
        let query = Query {
            url: Some("https://api.openai.com/v1/chat/completions"),
            ..Query::new(model, Timestamp::UNIX_EPOCH)
        };
        let _ = catalogue.quote(&query, &Usage::default(), &Units::default());
    }
});
