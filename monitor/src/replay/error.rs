//! How far estimates are from what providers reported.

use std::{collections::BTreeMap, fmt};

use super::Line;
use crate::meter::{Basis, Bucket};

/// Errors by provider.
#[derive(Debug, Default)]
pub struct Errors(BTreeMap<String, Both>);

#[derive(Debug, Default)]
struct Both {
    input: Sample,
    output: Sample,
}

/// Absolute errors in thousandths of what was reported.
#[derive(Debug, Clone, Default)]
pub struct Sample(Vec<u64>);

impl Errors {
    /// Takes an exchange of which both figures are known. Reasoning is left out: what is not shown cannot be counted.
    pub fn add(&mut self, line: &Line) {
        let Some(estimate) = line.estimate.filter(|_| matches!(line.basis, Basis::Measured | Basis::Provider)) else {
            return;
        };
        let both = self.0.entry(line.provider.clone().unwrap_or_else(|| "-".into())).or_default();
        both.input.add(estimate.input_total(), line.usage.input_total());
        let visible = |usage: &crate::meter::Usage| usage.output_total() - usage.get(Bucket::Reasoning);
        both.output.add(visible(&estimate), visible(&line.usage));
    }

    /// Errors of input and of output, for a provider.
    pub fn of(&self, provider: &str) -> Option<(&Sample, &Sample)> {
        self.0.get(provider).map(|both| (&both.input, &both.output))
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
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "error of the estimate        input: n  median     p95     output: n  median     p95")?;
        for (provider, Both { input, output }) in &self.0 {
            write!(f, "{provider:<27}")?;
            for sample in [input, output] {
                let percent = |value: u64| format!("{}.{} %", value / 10, value % 10);
                let (median, high) = (percent(sample.percentile(50)), percent(sample.percentile(95)));
                write!(f, "{:>9} {median:>8} {high:>8}", sample.len())?;
            }
            writeln!(f)?;
        }
        f.write_str(
            "Reasoning that is not shown is left out: nobody can count it, and estimates have an allowance for it.",
        )
    }
}
