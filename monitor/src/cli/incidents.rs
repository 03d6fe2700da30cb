//! `tollgate incidents`.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use super::{Socket, print, wait_for};
use crate::{ledger::IncidentRow, task::AccountName};

/// Show the trouble that was seen: loops, runaway processes, tasks out of line, money that burns too fast
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this task (or `tenant=NAME`, `workflow=NAME`)
    #[arg(long, value_name = "ACCOUNT")]
    task: Option<AccountName>,
    #[command(flatten)]
    socket: Socket,
    /// One JSON array, with all evidence
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let mut incidents: Vec<IncidentRow> = wait_for(args.socket.client().get("/v1/incidents"))??;
    if let Some(task) = &args.task {
        incidents.retain(|incident| incident.account == task.to_string());
    }
    if args.json {
        return print(&serde_json::to_string(&incidents)?);
    }
    if incidents.is_empty() {
        return print("no incidents");
    }
    let texts: Vec<String> = incidents.iter().map(text).collect();
    print(&texts.join("\n"))
}

/// An incident with what a person needs to judge it.
fn text(incident: &IncidentRow) -> String {
    let mut text = format!(
        "{} {} {}: {} ({})\n",
        incident.at, incident.account, incident.trouble, incident.reason, incident.action
    );
    if incident.unsaid > 0 {
        text.push_str(&format!("  seen {} times more since it was last said\n", incident.unsaid));
    }
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let evidence = &incident.evidence;
    for (window, usd) in evidence["usd_per_hour"].as_object().into_iter().flatten() {
        text.push_str(&format!("  ${} an hour over the last {}\n", word(usd), window.replace('_', " ")));
    }
    for call in evidence["last_calls"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "  call {} at {}: process {}, {}, ${}\n",
            call["id"],
            word(&call["at"]),
            call["pid"],
            word(&call["model"]),
            word(&call["cost_usd"])
        ));
    }
    for process in evidence["processes"].as_array().into_iter().flatten() {
        text.push_str(&format!(
            "  process {} of {}: {}\n",
            process["pid"],
            process["parent"],
            word(&process["executable"])
        ));
    }
    text.truncate(text.trim_end().len());
    text
}
