//! `cargo xtask test`: everything that must hold, on this host's own kernel.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{cargo, command, setup};

/// Arguments for the test runner, after `--`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    ensure!(setup::is_root(), "the live tests load eBPF programs and make cgroups: run `cargo xtask test` as root");
    setup::run()?;
    step("formatting", cargo().args(["fmt", "--check"]))?;
    step("lints", cargo().args(["clippy", "--quiet", "--all-targets", "--", "-D", "warnings"]))?;
    let mut tests = cargo();
    tests.args(["test", "--quiet", "--no-fail-fast"]);
    tests.args(args.filter.as_deref());
    step("tests", &mut tests)
}

fn step(what: &str, command: &mut Command) -> Result<()> {
    println!("== {what}");
    command::run(command)
}
