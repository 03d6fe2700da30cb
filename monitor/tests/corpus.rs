//! The recorded exchanges of `../shared/corpus`: what is reported must be what was expected, however the bytes are cut.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use flate2::bufread::MultiGzDecoder;
use monitor::{
    meter::Basis,
    price::Money,
    replay::{Chunks, Line, replay},
};
use serde_json::Value;

/// Ways in which each exchange is cut at random.
const SEEDS: u64 = 20;
/// Prices of the expectations are as of this time.
const AT: &str = "2026-11-20T12:00:00Z";

fn recording() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/dev.jsonl.gz");
    assert!(path.is_file(), "the corpus of recorded exchanges must lie in ../shared/corpus beside the repository");
    path
}

/// Expectations by id, with what the exchange is.
fn expectations() -> HashMap<String, Value> {
    let file = BufReader::new(File::open(recording()).expect("the corpus"));
    let lines = BufReader::new(MultiGzDecoder::new(file)).lines();
    let records = lines.map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("a record"));
    records.map(|record| (record["id"].as_str().expect("an id").to_owned(), record)).collect()
}

fn usd(value: &Value) -> Money {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is not an amount"))
}

/// What is wrong with a line.
fn faults(line: &Line, record: &Value) -> Vec<String> {
    let expected = &record["expected"];
    let mut faults = Vec::new();
    let mut check = |what: &str, is: String, should: String| {
        if is != should {
            faults.push(format!("{what} is {is}, should be {should}"));
        }
    };
    // A server of one's own is known by the API that it speaks.
    let host_tells = !matches!(record["provider"].as_str(), Some("vllm" | "local-mock" | "huggingface-tgi"));
    if host_tells && line.basis != Basis::None {
        check("provider", format!("{:?}", line.provider.as_deref()), format!("{:?}", record["provider"].as_str()));
    }
    let is_reported = expected["usage_status"] == "reported";
    if is_reported {
        check("usage", serde_json::to_value(line.usage).expect("JSON").to_string(), sorted(&expected["buckets"]));
        check(
            "response id",
            format!("{:?}", line.response_id.as_deref()),
            format!("{:?}", expected["response_id"].as_str()),
        );
        let cost = &expected["cost"];
        if cost["status"] == "priced" {
            check("tokens", format!("{:?}", line.tokens_usd), format!("{:?}", Some(usd(&cost["tokens_usd"]))));
            let row = line.price_row.as_ref().map(|row| format!("{}/{}", row.provider, row.model)).unwrap_or_default();
            let text = |name: &str| cost[name].as_str().unwrap_or_default().to_owned();
            check("price row", row, format!("{}/{}", text("price_provider"), text("price_model")));
        } else {
            check("cost", format!("{:?}", line.cost_usd), "None".into());
        }
        check("basis", format!("{:?}", line.basis), format!("{:?}", Basis::Measured));
    } else if expected["usage_status"] == "partial" {
        // What was reported stands as it is; that it is not all must be said.
        check("usage", serde_json::to_value(line.usage).expect("JSON").to_string(), sorted(&expected["buckets"]));
        check("basis", line.basis.name().into(), "floor".into());
    } else if expected["billing"] == "estimate" {
        check("basis", line.basis.name().into(), "estimated".into());
        check(
            "there is an output",
            (line.usage.output_total() > 0 || line.usage.input_total() > 0).to_string(),
            "true".into(),
        );
    } else {
        let is_free = expected["billing"] == "zero";
        check(
            "is called measured",
            matches!(line.basis, Basis::Measured | Basis::Provider).to_string(),
            "false".into(),
        );
        if is_free {
            check("basis", line.basis.name().into(), "none".into());
        } else {
            // Costs something, and nobody knows what.
            check("cost", format!("{:?}", line.cost_usd), "None".into());
        }
    }
    faults
}

/// Keys in the order in which a JSON map of this program has them.
fn sorted(buckets: &Value) -> String {
    let map: BTreeMap<String, Value> = serde_json::from_value(buckets.clone()).expect("buckets");
    serde_json::to_string(&map).expect("JSON")
}

fn conform(chunks: Chunks) {
    let expectations = expectations();
    let mut wrong = Vec::new();
    let mut right: BTreeMap<String, u32> = BTreeMap::new();
    let at = AT.parse().expect("a time");
    let mut seen = 0;
    let mut take = |line: Line| {
        seen += 1;
        let id = line.id.clone().expect("an id");
        let record = &expectations[&id];
        let faults = faults(&line, record);
        if faults.is_empty() {
            let text = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
            *right.entry(format!("{}/{}", text("provider"), text("endpoint"))).or_default() += 1;
        } else {
            wrong.push(format!("{id}: {}", faults.join("; ")));
        }
        Ok(())
    };
    replay(&recording(), chunks, Some(at), &mut take).expect("the corpus");
    assert_eq!(seen, expectations.len(), "every exchange gives a line");
    if chunks == Chunks::Whole {
        println!("{right:#?}");
    }
    assert!(wrong.is_empty(), "{} of {seen} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn whole() {
    conform(Chunks::Whole);
}

#[test]
fn line_by_line() {
    conform(Chunks::Lines);
}

#[test]
fn at_random_places() {
    let seeds = AtomicU64::new(0);
    let next = || Some(seeds.fetch_add(1, Ordering::Relaxed)).filter(|&seed| seed < SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, Into::into);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(seed) = next() {
                    conform(Chunks::Random(seed));
                }
            });
        }
    });
}
