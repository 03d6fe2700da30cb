//! `cargo xtask`: the one entry for setting up, building, running and testing.

mod bench;
mod command;
mod fuzz;
mod package;
mod prices;
mod run;
mod setup;
mod test;
mod vm;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use clap::Parser;

/// Tollgate's one entry for setting up, building, running and testing
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Install what is missing for building, running and testing (idempotent)
    Setup,
    /// Meter a sample agent, or a command of yours, and stop it at its cap
    Run(run::Args),
    /// Run every check and test
    Test(test::Args),
    /// Try every parser on bytes that nobody would send
    Fuzz(fuzz::Args),
    /// Measure how fast the pure rooms are
    Bench(bench::Args),
    /// Make a Debian package
    Package(package::Args),
    /// Check the package in a Debian 12 guest with its own kernel and systemd
    Vm,
    /// Write what the live tests of the clients and of the ways out showed into README.md and ESCAPES.md
    Matrix,
    /// Renew the embedded price tables from the newest genai-prices and litellm packages (for maintainers)
    Prices(prices::Args),
}

fn main() -> ExitCode {
    let done = |()| ExitCode::SUCCESS;
    let result = match Xtask::parse() {
        Xtask::Setup => setup::run().and_then(|()| setup::clients()).map(done),
        Xtask::Run(args) => run::run(&args),
        Xtask::Test(args) => test::run(&args).map(done),
        Xtask::Fuzz(args) => fuzz::run(&args).map(done),
        Xtask::Bench(args) => bench::run(&args).map(done),
        Xtask::Package(args) => package::run(&args).map(done),
        Xtask::Vm => vm::run().map(done),
        Xtask::Matrix => {
            let mut run = cargo();
            run.args(["run", "--quiet", "--package", "tollgate-tests", "--bin", "client-matrix"]);
            command::run(&mut run).map(done)
        }
        Xtask::Prices(args) => prices::run(&args).map(done),
    };
    result.unwrap_or_else(|error| {
        eprintln!("cargo xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The cargo that runs us, in the repository.
fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    cargo
}

/// Where cargo puts what it builds: this program is in `<target>/<profile>`.
fn target_dir() -> anyhow::Result<PathBuf> {
    let this = env::current_exe()?;
    this.ancestors().nth(2).map(Path::to_path_buf).context("this program is not where cargo built it")
}
