//! `tollgate top`.

use std::{io::IsTerminal as _, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::{Socket, print, wait_for};
use crate::top::{self, End, Look};

/// Watch what tasks spend, and pause, resume, approve or kill them
///
/// Says for each task what it spends, how fast, and how much of its budget that is; for the selected one also its agents. `?` shows the keys. When the
/// daemon is away, it says so and waits for it. Colours only add to what words say; `NO_COLOR` turns them off.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    socket: Socket,
    /// Print one frame as plain text and exit; burn rates need time, and are not known
    #[arg(long)]
    once: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Columns of a frame that is not drawn on a terminal.
const COLUMNS: u16 = 80;

pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.socket.client();
    if args.once {
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let columns = columns.filter(|columns| (20..=1000).contains(columns)).unwrap_or(COLUMNS);
        return print(&wait_for(top::once(&client, columns))??);
    }
    ensure!(
        std::io::stdin().is_terminal() && std::io::stdout().is_terminal(),
        "`tollgate top` needs a terminal; use --once, or `tollgate status`"
    );
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let look = if is_plain { Look::Plain } else { Look::Colours };
    match top::run(client, Duration::from_secs(args.interval), look).context("the terminal")? {
        End::Quit => Ok(ExitCode::SUCCESS),
        // As a shell tells it.
        End::Signal(number) => Ok(ExitCode::from(128_u8.saturating_add(number))),
    }
}
