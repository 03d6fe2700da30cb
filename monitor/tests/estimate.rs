//! How far estimates are from what providers reported, on one half of the recorded exchanges.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use monitor::{
    meter::{Basis, Bucket, Usage},
    replay::{Line, Options, replay_with},
};
use serde_json::Value;

#[derive(Debug, Default)]
struct Errors {
    input: Vec<u64>,
    output: Vec<u64>,
}

/// In thousandths of what was reported.
fn error(estimate: u64, reported: u64) -> Option<u64> {
    (reported > 0).then(|| estimate.abs_diff(reported) * 1000 / reported)
}

fn percentile(errors: &[u64], percent: usize) -> u64 {
    let mut sorted = errors.to_vec();
    sorted.sort_unstable();
    sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
}

/// Reasoning is not shown, so that nobody can count it.
fn visible(usage: &Usage) -> u64 {
    usage.output_total() - usage.get(Bucket::Reasoning)
}

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
    // By whether the vocabulary is public, and then by provider.
    let mut groups: BTreeMap<(bool, String), Errors> = BTreeMap::new();
    let mut take = |line: Line| {
        let record = &records[line.id.as_deref().expect("an id")];
        let is_real =
            record["source"]["provenance"].as_str().is_some_and(|provenance| provenance.starts_with("recorded"));
        let is_wanted = is_real && record["dup_of"].is_null() && is_held_out(record["uid"].as_str().expect("a hash"));
        if let Some(estimate) = line.estimate.filter(|_| is_wanted && line.basis == Basis::Measured) {
            let provider = line.provider.clone().unwrap_or_default();
            let group = groups.entry((matches!(&*provider, "openai" | "azure"), provider)).or_default();
            group.input.extend(error(estimate.input_total(), line.usage.input_total()));
            group.output.extend(error(visible(&estimate), visible(&line.usage)));
        }
        Ok(())
    };
    let at = Some("2026-11-20T12:00:00Z".parse().expect("a time"));
    replay_with(&path, &Options { at, estimate: true, ..Options::default() }, &mut take).expect("the corpus");
    for ((_, provider), Errors { input, output }) in &groups {
        let show = |errors: &[u64]| match errors.len() {
            0 => "0".into(),
            n => format!("{n}, median {} ‰, p95 {} ‰", percentile(errors, 50), percentile(errors, 95)),
        };
        println!("{provider}: input {}; output {}", show(input), show(output));
    }
    let all = |is_public: bool, pick: fn(&Errors) -> &Vec<u64>| -> Vec<u64> {
        groups
            .iter()
            .filter(|((public, _), _)| *public == is_public)
            .flat_map(|(_, errors)| pick(errors).clone())
            .collect()
    };
    let of = |is_public, pick| {
        let errors = all(is_public, pick);
        (percentile(&errors, 50), percentile(&errors, 95))
    };
    let figures =
        [of(true, |it| &it.input), of(true, |it| &it.output), of(false, |it| &it.input), of(false, |it| &it.output)];
    println!("public vocabulary: input and output; others: input and output: {figures:?}");
    let [public_input, public_output, other_input, other_output] = figures;
    // What is reached, measured on recordings many of which are a dozen tokens long, where one token is several per cent. The 95th
    // percentiles are those of images and answers that are not seen, guardrails, and tools that nobody bills.
    assert!(public_input.0 <= 30 && public_output.0 <= 30, "{figures:?}");
    assert!(public_input.1 <= PUBLIC_P95 && public_output.1 <= PUBLIC_P95, "{figures:?}");
    assert!(other_input.0 <= 100 && other_output.0 <= 100, "{figures:?}");
}

/// The 95th percentile that is reached for models with a public vocabulary, in thousandths.
const PUBLIC_P95: u64 = 100;
