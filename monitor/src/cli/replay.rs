//! `tollgate replay`: audits the numbers without a kernel.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use jiff::Timestamp;

use crate::{
    books::Tables,
    config::{Config, STATE_DIR},
    meter::Basis,
    price::{Money, PriceBook},
    replay::{Chunks, Errors, Line, Options, replay_with},
};

/// Meter and price recorded exchanges, exactly as live traffic
///
/// Reads JSON lines of exchanges (HAR-like, `.jsonl` or `.jsonl.gz`) or a HAR file, feeds each through the same parser, meter and
/// catalogue as live traffic, and prints what it used and cost. Needs neither root nor a daemon.
///
/// Prices are those of the public catalogue. With `--config` they are those of the daemon with that configuration: with its overrides,
/// and with the fallback table for what the catalogue lacks.
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
    /// Charge an answer once, however often the recording has it (retrievals, repeated requests); later ones name the first
    #[arg(long)]
    once: bool,
    /// Hide from the meter what providers reported, put its estimate beside the report, and sum up the errors
    ///
    /// By provider, input and output apart, and models with a public vocabulary apart from others, whose factors were calibrated. Copies
    /// and exchanges that say themselves that they do not show what was counted (a guardrail or filter replaced text) are left out,
    /// and counted. With `--json` the sums are the last line.
    #[arg(long)]
    estimate: bool,
    /// Price as the daemon does with this configuration, tools included
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory where price tables are installed [default: /var/lib/tollgate]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// One JSON object per exchange
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let prices = prices(args)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut totals = Totals::default();
    let mut errors = Errors::default();
    let tools = match &args.config {
        Some(path) => Config::load(Some(path))?.tools(),
        None => Default::default(),
    };
    let options = Options {
        chunks: args.chunks,
        at: args.at,
        estimate: args.estimate,
        once: args.once,
        tools: tools.into(),
        prices: Some(prices),
    };
    let mut print = |line: Line| {
        errors.add(&line);
        totals.add(&line);
        if args.json { writeln!(out, "{}", serde_json::to_string(&line)?) } else { writeln!(out, "{}", human(&line)) }
    };
    let replayed = replay_with(&args.file, &options, &mut print);
    match replayed {
        // Whoever reads our output has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(ExitCode::SUCCESS),
        other => other.with_context(|| format!("cannot replay {}", args.file.display()))?,
    }
    if !args.json {
        writeln!(out, "{totals}")?;
        if args.estimate {
            writeln!(out, "\n{errors}")?;
        }
    } else if args.estimate {
        writeln!(out, "{}", errors.json())?;
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

/// The tables that the daemon would use, which are said if they are not those of this program.
fn prices(args: &Args) -> anyhow::Result<&'static PriceBook> {
    let config = args.config.as_deref().map(|path| Config::load(Some(path))).transpose()?;
    let state_dir = args.state_dir.as_deref().or(config.as_ref().map(Config::state_dir)).unwrap_or(STATE_DIR.as_ref());
    let tables = Tables::of(state_dir);
    for table in &tables.installed {
        eprintln!("tollgate: prices: {table}");
    }
    for unused in &tables.unused {
        eprintln!("tollgate: prices: {unused}");
    }
    Ok(match config {
        Some(config) => tables.book(&config.price),
        None => Box::leak(Box::new(PriceBook::catalogue_only(tables.catalogue))),
    })
}

fn human(line: &Line) -> String {
    let cost = line.cost_usd.map_or("unpriced".to_owned(), |cost| format!("${cost}"));
    let repeats = line.repeats.as_ref().map(|first| format!("  (the answer of {first} again)")).unwrap_or_default();
    let estimate = line.estimate.as_ref().map(|usage| {
        format!(
            "  (estimated: {} in, {} out{})",
            usage.input_total(),
            usage.output_total(),
            line.unseen.map(|why| format!("; {why}")).unwrap_or_default()
        )
    });
    let estimate = estimate.unwrap_or_default();
    let note = line.note.as_ref().map(|note| format!("  ({note})")).unwrap_or_default();
    format!(
        "{:<10} {:>14}  {:>8} in {:>7} out  {:<28} {}{repeats}{estimate}{note}",
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
