//! `tollgate doctor`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::json;

use super::{exit, print, wait_for};
use crate::{
    api::client::Client,
    config::Config,
    doctor::{self, Check, Subject, Verdict},
    top::clean,
};

/// Say whether this host can be metered, and what to do where it cannot
///
/// Looks at the kernel, cgroups, TLS libraries and agents of the host, at the daemon, its ledger and its prices, and at the clock. Needs neither root
/// nor a daemon, and says what it could not look at. Changes nothing. Exits with 1 if something fails; what only warns is no failure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file [default: /etc/tollgate/tollgate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the ledger [default: /var/lib/tollgate]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Socket of the daemon [default: /run/tollgate/tollgate.sock]
    #[arg(long, env = "TOLLGATE_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref());
    let default = Config::default();
    let known = config.as_ref().unwrap_or(&default);
    let state_dir = args.state_dir.clone().unwrap_or_else(|| known.state_dir().into());
    let socket = args.socket.as_deref().unwrap_or_else(|| known.socket());
    let client = Client::new(socket);
    let subject = Subject { config: config.map_err(|error| error.to_string()), state_dir, client };
    let checks = wait_for(doctor::examine(&subject))?;
    let worst = checks.iter().map(|check| check.verdict).max().unwrap_or(Verdict::Ok);
    if args.json {
        print(&json!({"verdict": worst, "checks": checks}).to_string())?;
    } else {
        print(&human(&checks))?;
    }
    Ok(if worst == Verdict::Fail { ExitCode::from(exit::FAILURE) } else { ExitCode::SUCCESS })
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    }
}

fn human(checks: &[Check]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["", "CHECK", "FOUND"]);
    for check in checks {
        table.add_row([word(check.verdict), check.check, &clean(&check.found)]);
        for item in &check.items {
            let text = clean(&format!("{}: {}", item.name, item.found));
            table.add_row([word(item.verdict), "", &format!("- {text}")]);
        }
        if let Some(advice) = &check.advice {
            table.add_row(["", "", &format!("=> {}", clean(advice))]);
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let (warnings, failures) = (count(Verdict::Warn), count(Verdict::Fail));
    format!("{}\n{failures} of {} checks fail, {warnings} warn", table.trim_fmt(), checks.len())
}
