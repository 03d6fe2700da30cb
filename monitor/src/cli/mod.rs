//! The command line.

pub mod exit;
mod replay;

use std::process::ExitCode;

use clap::Parser;

/// Meters what AI agents spend, and stops them at their cap
///
/// Tollgate sees the model traffic of unmodified programs through eBPF probes on their TLS library, attributes every cent to a task (a
/// cgroup and its process tree), and stops a task at its cap before its next request leaves the host.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Replay(replay::Args),
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Replay(args) => replay::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tollgate: {error:#}");
        exit::code_of(&error)
    })
}
