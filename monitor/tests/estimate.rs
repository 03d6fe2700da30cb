//! How far estimates are from what providers reported, on the half of the recorded exchanges to which no factor was fitted
//! (`meter/estimate/fit.rs` uses the other one).

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use monitor::{
    meter::Basis,
    replay::{Errors, Line, Options, Vocabulary, replay_with},
};
use serde_json::Value;

fn is_held_out(uid: &str) -> bool {
    uid.bytes().map(u32::from).sum::<u32>() % 2 == 1
}

#[test]
fn estimates_are_near_what_was_reported() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/dev.jsonl.gz");
    let file =
        BufReader::new(File::open(&path).expect("the corpus must lie in ../shared/corpus beside the repository"));
    let records: HashMap<String, Value> = BufReader::new(MultiGzDecoder::new(file))
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("a record"))
        .map(|record| (record["id"].as_str().expect("an id").to_owned(), record))
        .collect();
    let mut errors = Errors::default();
    let mut take = |line: Line| {
        let record = &records[line.id.as_deref().expect("an id")];
        let is_real =
            record["source"]["provenance"].as_str().is_some_and(|provenance| provenance.starts_with("recorded"));
        if is_real
            && record["dup_of"].is_null()
            && is_held_out(record["uid"].as_str().expect("a hash"))
            && line.basis == Basis::Measured
        {
            errors.add(&line);
        }
        Ok(())
    };
    let at = Some("2026-11-20T12:00:00Z".parse().expect("a time"));
    replay_with(&path, &Options { at, estimate: true, ..Options::default() }, &mut take).expect("the corpus");
    println!("{errors}");
    // In thousandths. Many recordings are a dozen tokens long, where one token is several per cent.
    let (input, output) = errors.all(Vocabulary::Public);
    for sample in [&input, &output] {
        assert!(sample.len() > 100, "{} exchanges show nothing", sample.len());
        assert!(sample.percentile(50) <= 30 && sample.percentile(95) <= 100, "{errors}");
    }
    let (input, output) = errors.all(Vocabulary::Other);
    for sample in [&input, &output] {
        assert!(sample.len() > 50 && sample.percentile(50) <= 100, "{errors}");
    }
    // Each provider by itself, where there are enough exchanges to speak of a median.
    for provider in ["anthropic", "bedrock", "cohere"] {
        let (input, output) = errors.of(Vocabulary::Other, provider).expect(provider);
        for sample in [input, output] {
            assert!(sample.len() >= 10 && sample.percentile(50) <= 100, "{errors}");
        }
    }
}
