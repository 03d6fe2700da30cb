//! `cargo xtask`: the one entry for setting up, building, running and testing.

mod command;
mod prices;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Parser;

/// Tollgate's one entry for setting up, building, running and testing.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Xtask {
    /// Make the embedded price book from the newest genai-prices package (for maintainers)
    Prices(prices::Args),
}

fn main() -> ExitCode {
    let result = match Xtask::parse() {
        Xtask::Prices(args) => prices::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cargo xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}
