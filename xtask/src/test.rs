//! `cargo xtask test`: everything that must hold, on this host's own kernel.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, command, fuzz, setup};

/// Arguments for the test runner, after `--`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(setup::is_root(), "the live tests load eBPF programs and make cgroups: run `cargo xtask test` as root");
    setup::run()?;
    setup::clients()?;
    step("formatting", cargo().args(["fmt", "--check"]))?;
    step("lints", cargo().args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]))?;
    if args.filter.is_none() {
        println!("== fuzzing, briefly");
        fuzz::run(&fuzz::Args::brief())?;
    }
    // Last, so that the run ends with their sum.
    println!("== tests");
    let mut tests = cargo();
    // There are no examples in the documentation; without them the last result is one that says something.
    tests.args(["test", "--no-fail-fast", "--lib", "--bins", "--tests"]);
    tests.args(args.filter.as_deref());
    let table = args.filter.is_none();
    run_tests(&mut tests, table)
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("== {what}");
    command::run(command)
}

/// Runs all test programs, and sums up what each of them said; with a table of the ways out that were tried, if all of them ran.
fn run_tests(command: &mut Command, with_table: bool) -> Result<()> {
    let mut running = command.stdout(Stdio::piped()).spawn().context("could not start cargo test")?;
    let (mut passed, mut failed) = (0, 0);
    for line in BufReader::new(running.stdout.take().context("its output")?).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += number_before(result, " passed");
            failed += number_before(result, " failed");
        }
    }
    let status = running.wait()?;
    if with_table {
        println!("== ways out of a budget");
        let mut table = cargo();
        table.args(["run", "--quiet", "--package", "tollgate-tests", "--bin", "client-matrix", "--", "--print"]);
        command::run(&mut table)?;
    }
    println!("total: {passed} passed, {failed} failed");
    if !status.success() {
        bail!("the tests failed");
    }
    ensure!(passed > 0, "no test ran");
    Ok(())
}

/// The number in front of a word: `ok. 12 passed; 0 failed; …`.
fn number_before(result: &str, word: &str) -> u64 {
    let before = result.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::number_before;

    #[test]
    fn results_are_read() {
        let result = "FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.03s";
        assert_eq!((number_before(result, " passed"), number_before(result, " failed")), (12, 3));
    }
}
