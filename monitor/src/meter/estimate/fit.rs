//! How the factors of families whose vocabulary is not public were made: from one half of the recorded exchanges, the other half of which
//! `tests/estimate.rs` measures.
//!
//! From a neutral start each factor goes up and down, in steps that get smaller, as long as the sum of relative errors of input and output
//! falls. What a maker documents (the prompt that comes with Claude's tools, the form of Llama's and Gemma's chats) is not fitted. The result
//! must be what the families have.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead as _, BufReader},
    path::Path,
};

use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

use super::{Family, Text, Tools};
use crate::{
    meter::{Meter, json::Node},
    wire::{Connection, Direction, Event, ExchangeId, Limits, Sink, StreamOffset, Unreadable},
};

/// What was seen of an exchange.
pub struct Seen {
    pub model: Box<str>,
    pub is_framed: bool,
    /// Its prompt is in the request, and nothing says that the wire shows something else than was counted.
    pub is_comparable: bool,
    pub asking: Node,
    pub request: Text,
    pub answer: Text,
}

struct Sample {
    seen: Seen,
    input: u64,
    output: u64,
}

/// Looks at the texts of one exchange.
#[derive(Default)]
struct Look {
    meter: Option<Meter>,
    seen: Option<Seen>,
}

impl Sink for Look {
    fn event(&mut self, _: ExchangeId, event: Event<'_>) {
        match event {
            Event::Request(head) => {
                let mut meter = Meter::new(head);
                meter.estimate_always();
                self.meter = Some(meter);
            }
            Event::End(_) => self.seen = self.meter.take().map(Meter::seen).or(self.seen.take()),
            _ => {
                if let Some(meter) = &mut self.meter {
                    meter.on(&event);
                }
            }
        }
    }

    fn unreadable(&mut self, _: Unreadable) {}
}

fn is_held_out(uid: &str) -> bool {
    uid.bytes().map(u32::from).sum::<u32>() % 2 == 1
}

fn samples() -> BTreeMap<&'static str, Vec<Sample>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus/dev.jsonl.gz");
    let file = BufReader::new(File::open(path).expect("the corpus must lie in ../shared/corpus beside the repository"));
    let mut samples: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for line in BufReader::new(MultiGzDecoder::new(file)).lines() {
        let line = line.expect("a line");
        let record: Value = serde_json::from_str(&line).expect("a record");
        let is_real = record["source"]["provenance"].as_str().is_some_and(|it| it.starts_with("recorded"));
        let is_reported = record["expected"]["usage_status"] == "reported";
        let is_kept_back = is_held_out(record["uid"].as_str().expect("a hash"));
        if !is_real || !is_reported || is_kept_back || !record["dup_of"].is_null() {
            continue;
        }
        let Some((request, response)) = crate::replay::recorded_bytes(&line) else { continue };
        let (mut look, mut connection) = (Look::default(), Connection::new(Limits::default()));
        connection.push(Direction::Request, StreamOffset(0), &request, &mut look);
        connection.push(Direction::Response, StreamOffset(0), &response, &mut look);
        connection.close(&mut look);
        let Some(seen) = look.seen.filter(|seen| seen.is_comparable) else { continue };
        let name = Family::of(&seen.model).name;
        let buckets = &record["expected"]["buckets"];
        let reasoning = buckets["reasoning"].as_u64().unwrap_or(0);
        let total = |name: &str| record["expected"][name].as_u64().unwrap_or(0);
        let (input, output) = (total("input_total"), total("output_total").saturating_sub(reasoning));
        samples.entry(name).or_default().push(Sample { seen, input, output });
    }
    samples
}

/// The factors that are fitted.
const FACTORS: usize = 10;
const NAMES: [&str; FACTORS] = [
    "per_mille",
    "per_message",
    "per_prompt",
    "per_answer",
    "per_call",
    "per_past_call",
    "tools_percent",
    "tools (prompt)",
    "form",
    "thinking",
];
type Factors = [u64; FACTORS];

/// Where each begins, and the largest step it takes.
const START: Factors = [1000, 2, 2, 1, 20, 20, 100, 40, 64, 16];
const STEPS: Factors = [64, 2, 2, 2, 32, 32, 32, 128, 32, 16];

/// All of those whose calibration half has no form and no thinking.
const NO_FORM: [bool; FACTORS] = [true, true, true, true, true, true, true, true, false, false];

/// Families that are fitted, and which of their factors are documented instead.
const FITTED: [(&str, [bool; FACTORS]); 5] = [
    ("claude", [true, true, true, true, true, true, true, false, true, true]),
    // Too few exchanges for more than one.
    ("gemini", [false, false, true, false, false, false, false, false, false, false]),
    ("nova", NO_FORM),
    ("titan", NO_FORM),
    ("cohere", NO_FORM),
];

fn factors(family: &Family) -> Factors {
    let prompt = if let Tools::Json(prompt) = family.tools { prompt } else { 0 };
    [
        family.per_mille,
        family.per_message,
        family.per_prompt,
        family.per_answer,
        family.per_call,
        family.per_past_call,
        family.tools_percent,
        prompt,
        family.form,
        family.thinking,
    ]
}

fn with(mut family: Family, factors: &Factors, is_fitted: &[bool; FACTORS]) -> Family {
    let all = factors.iter().zip(is_fitted).enumerate().filter(|(_, (_, is_fitted))| **is_fitted);
    for (index, (&value, _)) in all {
        match index {
            0 => family.per_mille = value,
            1 => family.per_message = value,
            2 => family.per_prompt = value,
            3 => family.per_answer = value,
            4 => family.per_call = value,
            5 => family.per_past_call = value,
            6 => family.tools_percent = value,
            7 => family.tools = Tools::Json(value),
            8 => family.form = value,
            _ => family.thinking = value,
        }
    }
    family
}

/// Sum of relative errors, in thousandths. What is quite another thing (a prompt that was blanked in the recording) counts as wrong, and no more.
fn loss(samples: &[Sample], factors: &Factors, is_fitted: &[bool; FACTORS]) -> u64 {
    let error = |estimate: u64, reported: u64| match reported {
        0 => 0,
        _ => (estimate.abs_diff(reported) * 1000 / reported).min(2000),
    };
    let of = |sample: &Sample| {
        let seen = &sample.seen;
        let family = with(Family::of(&seen.model), factors, is_fitted);
        error(seen.request.prompt_tokens(&family, &seen.asking, seen.is_framed), sample.input)
            + error(seen.answer.answer_tokens(&family, &seen.asking), sample.output)
    };
    samples.iter().map(of).sum()
}

fn fit(samples: &[Sample], is_fitted: &[bool; FACTORS]) -> (Factors, u64) {
    let (mut best, mut least) = (START, loss(samples, &START, is_fitted));
    let mut divisor = 1;
    loop {
        let mut is_better = false;
        for index in (0..FACTORS).filter(|&index| is_fitted[index]) {
            let step = (STEPS[index] / divisor).max(1);
            for value in [best[index] + step, best[index].saturating_sub(step)] {
                let mut tried = best;
                tried[index] = value;
                let loss = loss(samples, &tried, is_fitted);
                if loss < least {
                    (best, least, is_better) = (tried, loss, true);
                }
            }
        }
        match (is_better, divisor) {
            (true, _) => {}
            (false, 128..) => return (best, least),
            (false, _) => divisor *= 2,
        }
    }
}

#[test]
fn factors_are_what_the_half_for_calibration_gives() {
    let samples = samples();
    let mut differences = Vec::new();
    for (name, is_fitted) in FITTED {
        let samples = &samples[name];
        let (fitted, loss) = fit(samples, &is_fitted);
        let has = factors(&Family::of(name));
        println!("{name}: {} exchanges, mean error {} ‰", samples.len(), loss / (2 * samples.len() as u64));
        for index in (0..FACTORS).filter(|&index| is_fitted[index]) {
            println!("    {}: {}", NAMES[index], fitted[index]);
            if fitted[index] != has[index] {
                differences.push(format!("{name}: {} is {}, should be {}", NAMES[index], has[index], fitted[index]));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
