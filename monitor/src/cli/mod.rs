//! The command line.

mod alerts;
mod audit;
mod config_file;
mod daemon;
mod docs;
mod doctor;
mod exit;
mod incidents;
mod join;
mod label;
mod orders;
mod prices;
mod probe;
mod replay;
mod report;
mod run;
mod scope;
mod service;
mod status;
mod top;
mod unpin;

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;

use crate::{api::client::Client, config};

/// clap's own.
const BAD_USAGE: u8 = 2;

/// Meters what AI agents spend, and stops them at their cap
///
/// Tollgate sees the model traffic of unmodified programs through eBPF probes on their TLS library, attributes every cent to a task (a
/// cgroup and its process tree), and stops a task at its cap before its next request leaves the host.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, max_term_width = 100, after_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Daemon(daemon::Args),
    Run(run::Args),
    Status(status::Args),
    Top(top::Args),
    Report(report::Args),
    Approve(orders::Approve),
    Deny(orders::Deny),
    Pause(orders::Pause),
    Resume(orders::Resume),
    Kill(orders::Kill),
    Budget(orders::Budget),
    Incidents(incidents::Args),
    Alerts(alerts::Args),
    Audit(audit::Args),
    Label(label::Label),
    Unlabel(label::Unlabel),
    Labels(label::Labels),
    #[command(subcommand)]
    Config(config_file::Verb),
    Replay(replay::Args),
    #[command(subcommand)]
    Prices(prices::Verb),
    Probe(probe::Args),
    Doctor(doctor::Args),
    Unpin(unpin::Args),
    #[command(hide = true)]
    Join(join::Args),
    #[command(hide = true)]
    Docs(docs::Args),
}

/// Where the daemon is.
#[derive(Debug, Clone, clap::Args)]
struct Socket {
    /// Socket of the daemon
    #[arg(long, env = "TOLLGATE_SOCKET", default_value = config::SOCKET, value_name = "PATH")]
    socket: PathBuf,
}

impl Socket {
    fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.command {
        Command::Daemon(args) => daemon::run(args),
        Command::Run(args) => run::run(args),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Report(args) => report::run(args),
        Command::Approve(args) => args.run(),
        Command::Deny(args) => args.run(),
        Command::Pause(args) => args.run(),
        Command::Resume(args) => args.run(),
        Command::Kill(args) => args.run(),
        Command::Budget(args) => args.run(),
        Command::Incidents(args) => incidents::run(args),
        Command::Alerts(args) => alerts::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Label(args) => args.run(),
        Command::Unlabel(args) => args.run(),
        Command::Labels(args) => args.run(),
        Command::Config(verb) => config_file::run(verb),
        Command::Docs(args) => docs::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Prices(verb) => prices::run(verb),
        Command::Probe(args) => probe::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Unpin(args) => unpin::run(args),
        Command::Join(args) => join::run(args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("tollgate: {}", one_line(&error));
        exit::code_of(&error)
    })
}

/// The chain of causes; a cause that its effect quotes already is not said twice.
fn one_line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text.replace('\n', " ")
}

/// Waits for an answer of the daemon.
fn wait_for<T>(future: impl Future<Output = T>) -> anyhow::Result<T> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?.block_on(future))
}

/// Prints for people or machines; a reader that has had enough is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
