//! `cargo xtask bench`: how fast the pure rooms are.

use anyhow::Result;

use crate::{cargo, command};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only benchmarks whose name contains this
    filter: Option<String>,
}

pub fn run(args: &Args) -> Result<()> {
    command::run(
        cargo().args(["bench", "--quiet", "-p", "monitor", "--bench", "pipeline", "--"]).args(args.filter.as_deref()),
    )
}
