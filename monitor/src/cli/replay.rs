//! `tollgate replay`: audits the numbers without a kernel.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use jiff::Timestamp;

use crate::{
    meter::Basis,
    price::Money,
    replay::{Chunks, Line, replay},
};

/// Meter and price recorded exchanges, exactly as live traffic
///
/// Reads JSON lines of exchanges (HAR-like, `.jsonl` or `.jsonl.gz`) or a HAR file, feeds each through the same parser, meter and price
/// list as live traffic, and prints what it used and cost. Needs neither root nor a daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Recording: `.jsonl`, `.jsonl.gz` or `.har`
    file: PathBuf,
    /// Cut the bytes like this: `whole`, `lines` or `random:SEED`. The result must not depend on it
    #[arg(long, default_value = "whole", value_name = "HOW")]
    chunks: Chunks,
    /// Price as of this time instead of when each exchange was recorded
    #[arg(long, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// One JSON object per exchange
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut totals = Totals::default();
    let mut print = |line: Line| {
        totals.add(&line);
        if args.json { writeln!(out, "{}", serde_json::to_string(&line)?) } else { writeln!(out, "{}", human(&line)) }
    };
    let replayed = replay(&args.file, args.chunks, args.at, &mut print);
    match replayed {
        // Whoever reads our output has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        other => other.with_context(|| format!("cannot replay {}", args.file.display()))?,
    }
    if !args.json {
        writeln!(out, "{totals}")?;
    }
    out.flush()?;
    if totals.errors > 0 {
        eprintln!(
            "tollgate: {} of {} exchanges could not be read; their lines say why",
            totals.errors, totals.exchanges
        );
        return Ok(ExitCode::from(super::exit::BAD_INPUT));
    }
    Ok(ExitCode::SUCCESS)
}

fn human(line: &Line) -> String {
    let cost = line.cost_usd.map_or("unpriced".to_owned(), |cost| format!("${cost}"));
    let note = line.note.as_ref().map(|note| format!("  ({note})")).unwrap_or_default();
    format!(
        "{:<10} {:>14}  {:>8} in {:>7} out  {:<28} {}{note}",
        line.basis.name(),
        cost,
        line.usage.input_total(),
        line.usage.output_total(),
        line.model.as_deref().unwrap_or("-"),
        line.id.as_deref().unwrap_or("-"),
    )
}

#[derive(Debug, Default)]
struct Totals {
    exchanges: u64,
    errors: u64,
    unpriced: u64,
    estimated: u64,
    cost: Money,
}

impl Totals {
    fn add(&mut self, line: &Line) {
        self.exchanges += 1;
        self.errors += u64::from(line.is_error);
        self.unpriced += u64::from(line.cost_usd.is_none() && !line.is_error);
        self.estimated += u64::from(matches!(line.basis, Basis::Estimated | Basis::Floor));
        self.cost += line.cost_usd.unwrap_or_default();
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { exchanges, errors, unpriced, estimated, cost } = self;
        write!(
            f,
            "{exchanges} exchanges, ${cost}; {estimated} estimated, {unpriced} without a price, {errors} unreadable"
        )
    }
}
