//! `cargo xtask test`: everything that must hold, on this host's own kernel.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, command, fuzz, setup, vm};

/// Arguments for the test runner, after `--`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Without the checks in a guest, which take some ten minutes
    #[arg(long)]
    no_vm: bool,
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
    let is_all = args.filter.is_none();
    let Tests { mut passed, mut failed, is_success } = run_tests(&mut tests)?;
    if is_all {
        println!("== ways out of a budget");
        let mut table = cargo();
        table.args(["run", "--quiet", "--package", "tollgate-tests", "--bin", "client-matrix", "--", "--print"]);
        command::run(&mut table)?;
    }
    let guest = if is_all && !args.no_vm {
        println!("== the package, in a guest");
        vm::check().map(|checks| {
            passed += checks.passed;
            failed += checks.failed;
        })
    } else {
        Ok(())
    };
    println!("total: {passed} passed, {failed} failed");
    guest?;
    ensure!(is_success && failed == 0, "the tests failed");
    ensure!(passed > 0, "no test ran");
    Ok(())
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("== {what}");
    command::run(command)
}

/// How the test programs ended.
struct Tests {
    passed: u64,
    failed: u64,
    is_success: bool,
}

/// Runs all test programs, and sums up what each of them said.
fn run_tests(command: &mut Command) -> Result<Tests> {
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
    Ok(Tests { passed, failed, is_success: running.wait()?.success() })
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
