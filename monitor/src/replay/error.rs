//! How far estimates are from what providers reported.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
};

use serde::Serialize;

use super::Line;
use crate::meter::{Basis, Bucket, Usage, has_public_vocabulary};

/// Errors by whether the model's vocabulary is public, and then by provider.
#[derive(Debug, Default)]
pub struct Errors {
    groups: BTreeMap<(Vocabulary, String), Both>,
    /// Exchanges that were left out, by why.
    left_out: BTreeMap<&'static str, u64>,
    /// Recordings that were taken: a copy tells nothing new.
    taken: HashSet<u64>,
}

/// Whether anybody can count a model's tokens exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vocabulary {
    Public,
    /// Counted by factors.
    Other,
}

#[derive(Debug, Default)]
struct Both {
    input: Sample,
    output: Sample,
}

/// Absolute errors in thousandths of what was reported.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<u64>);

/// What a sample comes to, in per cent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Summary {
    n: usize,
    median_percent: f64,
    p95_percent: f64,
}

#[derive(Debug, Serialize)]
struct Group<'a> {
    vocabulary: Vocabulary,
    provider: &'a str,
    input: Summary,
    output: Summary,
}

/// Recordings that are told from each other.
const TAKEN: usize = 1_000_000;

impl Errors {
    /// Takes an exchange of which both figures are known. Reasoning is left out: what is not shown cannot be counted. So are exchanges of
    /// which the wire itself says that it does not show what was counted, and copies.
    pub fn add(&mut self, line: &Line) {
        let Some(estimate) = line.estimate.filter(|_| matches!(line.basis, Basis::Measured | Basis::Provider)) else {
            return;
        };
        let left_out = match (line.recording, line.unseen) {
            (Some(recording), _) if self.taken.contains(&recording) => Some("recorded before"),
            (_, unseen) => unseen,
        };
        self.taken.extend(line.recording.filter(|_| self.taken.len() < TAKEN));
        if let Some(why) = left_out {
            *self.left_out.entry(why).or_default() += 1;
            return;
        }
        let is_public = has_public_vocabulary(line.model.as_deref().unwrap_or_default());
        let vocabulary = if is_public { Vocabulary::Public } else { Vocabulary::Other };
        let provider = line.provider.clone().unwrap_or_else(|| "-".into());
        let both = self.groups.entry((vocabulary, provider)).or_default();
        both.input.add(estimate.input_total(), line.usage.input_total());
        let visible = |usage: &Usage| usage.output_total() - usage.get(Bucket::Reasoning);
        both.output.add(visible(&estimate), visible(&line.usage));
    }

    /// Errors of input and of output, for a provider's models of that kind.
    pub fn of(&self, vocabulary: Vocabulary, provider: &str) -> Option<(&Sample, &Sample)> {
        self.groups.get(&(vocabulary, provider.to_owned())).map(|both| (&both.input, &both.output))
    }

    /// Errors of input and of output, for all models of that kind.
    pub fn all(&self, vocabulary: Vocabulary) -> (Sample, Sample) {
        let (mut input, mut output) = (Sample::default(), Sample::default());
        for (_, both) in self.groups.iter().filter(|((kind, _), _)| *kind == vocabulary) {
            input.0.extend(&both.input.0);
            output.0.extend(&both.output.0);
        }
        (input, output)
    }

    /// As JSON: `estimate_errors` (a list by vocabulary and provider, each with `input` and `output`, which have `n`, `median_percent`
    /// and `p95_percent`) and `left_out` (reasons with the number of exchanges).
    pub fn json(&self) -> serde_json::Value {
        let groups: Vec<_> = self.groups().collect();
        serde_json::json!({"estimate_errors": groups, "left_out": self.left_out})
    }

    fn groups(&self) -> impl Iterator<Item = Group<'_>> {
        self.groups.iter().map(|((vocabulary, provider), both)| Group {
            vocabulary: *vocabulary,
            provider,
            input: both.input.summary(),
            output: both.output.summary(),
        })
    }
}

impl Sample {
    fn add(&mut self, estimate: u64, reported: u64) {
        self.0.extend(estimate.abs_diff(reported).saturating_mul(1000).checked_div(reported));
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The error that so many per cent of the exchanges do not exceed, in thousandths.
    pub fn percentile(&self, percent: usize) -> u64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let index = (sorted.len() * percent).div_ceil(100).max(1) - 1;
        sorted.get(index).copied().unwrap_or(0)
    }

    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    fn summary(&self) -> Summary {
        let percent = |which| self.percentile(which) as f64 / 10.0;
        Summary { n: self.len(), median_percent: percent(50), p95_percent: percent(95) }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} {:>6.1} % {:>6.1} %", self.n, self.median_percent, self.p95_percent)
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds =
            [(Vocabulary::Public, "public vocabulary"), (Vocabulary::Other, "other models (calibrated factors)")];
        writeln!(f, "error of the estimate              input: n  median     p95  output: n  median     p95")?;
        for (kind, title) in kinds {
            let (input, output) = self.all(kind);
            writeln!(f, "{title:<34}{}  {}", input.summary(), output.summary())?;
            for group in self.groups().filter(|group| group.vocabulary == kind) {
                writeln!(f, "  {:<32}{}  {}", group.provider, group.input, group.output)?;
            }
        }
        for (why, count) in &self.left_out {
            writeln!(f, "{count} left out: {why}")?;
        }
        f.write_str(
            "Reasoning that is not shown is left out: nobody can count it, and estimates have an allowance for it.",
        )
    }
}
