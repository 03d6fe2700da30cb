//! `cargo xtask fuzz`: every parser against bytes that nobody would send.
//!
//! libFuzzer comes with the crate `libfuzzer-sys` (it needs a C++ compiler), and any rustc can put in the counters that it is guided by: no
//! nightly compiler and no `cargo-fuzz` are needed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, command, root, target_dir};

/// What the targets of `monitor/fuzz` are called.
const TARGETS: [&str; 11] = [
    "http1",
    "http2",
    "websocket",
    "coding",
    "event_stream",
    "sse",
    "form",
    "hello",
    "pipeline",
    "price_book",
    "replay",
];

/// Counters at every edge and every comparison, as `cargo fuzz` has them; no sanitizer, for the code is safe Rust.
const FLAGS: [&str; 7] = [
    "--cfg",
    "fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Seconds of a run that is not short.
const SHORT: u64 = 10;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// One target instead of all
    #[arg(value_parser = TARGETS)]
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

impl Args {
    /// All targets, as long as a test may take.
    pub const fn brief() -> Self {
        Self { target: None, seconds: 1 }
    }
}

pub fn run(args: &Args) -> Result<()> {
    let bin = build()?;
    let work = target_dir()?.join("fuzz");
    let seeds = work.join("seeds");
    let corpus = root().join("../shared/corpus/dev.jsonl.gz");
    if corpus.is_file() {
        let mut make = cargo();
        make.args(["run", "--quiet", "-p", "monitor", "--example", "fuzz_seeds", "--"]).arg(&corpus).arg(&seeds);
        command::run(&mut make)?;
    } else {
        println!("no recorded exchanges in ../shared/corpus: starting from nothing");
    }
    let mut found = Vec::new();
    for target in TARGETS.iter().filter(|target| args.target.as_deref().is_none_or(|only| only == **target)) {
        println!("== {target} for {} s", args.seconds);
        if !fuzz(&bin, &work, &seeds.join(target), target, args.seconds)? {
            found.push(*target);
        }
    }
    if !found.is_empty() {
        bail!("found something in {}: the inputs are in {}", found.join(", "), work.join("artifacts").display());
    }
    println!("nothing found");
    Ok(())
}

/// The programs, in a target directory of their own.
fn build() -> Result<PathBuf> {
    let host = host()?;
    let target_dir = target_dir()?.join("fuzz/build");
    let manifest = root().join("monitor/fuzz/Cargo.toml");
    let mut build = cargo();
    // With a target named, build scripts and macros go without the counters.
    build.args(["build", "--quiet", "--release", "--target", &host, "--manifest-path"]).arg(manifest);
    build.env("CARGO_TARGET_DIR", &target_dir).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
    command::run(&mut build)?;
    Ok(target_dir.join(host).join("release"))
}

fn host() -> Result<String> {
    let text = command::output(Command::new("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc does not say what it builds for")
}

/// Whether nothing was found.
fn fuzz(bin: &Path, work: &Path, seeds: &Path, target: &str, seconds: u64) -> Result<bool> {
    // A short run starts from the seeds alone: what long runs have collected takes longer to try than it has.
    let collected = if seconds < SHORT { "brief" } else { "corpus" };
    let (corpus, artifacts) = (work.join(collected).join(target), work.join("artifacts").join(target));
    if seconds < SHORT && corpus.is_dir() {
        fs::remove_dir_all(&corpus).with_context(|| format!("could not empty {}", corpus.display()))?;
    }
    for directory in [seeds, &corpus, &artifacts] {
        fs::create_dir_all(directory).with_context(|| format!("could not make {}", directory.display()))?;
    }
    let mut fuzzer = Command::new(bin.join(target));
    fuzzer.args(["-rss_limit_mb=2048", "-timeout=20", "-max_len=16384", "-verbosity=0"]);
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-artifact_prefix={}/", artifacts.display()));
    let status = fuzzer.arg(&corpus).arg(seeds).status().with_context(|| format!("could not start {target}"))?;
    ensure!(status.code().is_some(), "{target} was ended: {status}");
    Ok(status.success())
}
