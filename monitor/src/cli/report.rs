//! `tollgate report`.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use super::{Socket, print, wait_for};
use crate::{coverage::Share, meter::Usage, report::Report, task::TaskId};

/// Show what a task did: calls, tokens, cost, how each amount is known, and why it was stopped
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Task to report on
    #[arg(long)]
    task: TaskId,
    #[command(flatten)]
    socket: Socket,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// List every call
    #[arg(long)]
    calls: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.socket.client();
    let path = format!("/v1/tasks/{}/report", args.task);
    let report: Report = wait_for(client.get(&path))??;
    if args.json { print(&serde_json::to_string(&report)?) } else { print(&human(&report, args.calls)) }
}

/// The report as a person reads it.
pub fn human(report: &Report, with_calls: bool) -> String {
    let cap = report.cap_usd.map_or("no cap".to_owned(), |cap| format!("cap ${cap}"));
    let mut text = format!(
        "task {}: {}, spent ${} ({cap}), held ${}\n",
        report.task, report.state, report.spent_usd, report.held_usd
    );
    if let Some(stopped) = &report.stopped {
        text.push_str(&format!("stopped at {}: {}\n", stopped.at, stopped.reason));
    }
    let basis: Vec<String> = report.basis.iter().map(|(basis, calls)| format!("{calls} {basis}")).collect();
    let basis = if basis.is_empty() { String::new() } else { format!(" ({})", basis.join(", ")) };
    text.push_str(&format!(
        "{} calls{basis} in {} exchanges; {}\n",
        report.calls,
        report.exchanges,
        tokens(&report.usage)
    ));
    if report.unpriced > 0 {
        text.push_str(&format!(
            "NOT IN THE SUM: {} calls without a price, which count ${} toward the cap\n",
            report.unpriced, report.ceilings_usd
        ));
    }
    if report.unread > 0 {
        text.push_str(&format!("NOT COUNTED: {} connections or calls that could not be read\n", report.unread));
    }
    if let Some(coverage) = report.coverage.as_ref().filter(|coverage| coverage.connections > 0) {
        text.push_str(&coverage_line(coverage));
    }
    text.push_str(&models(report));
    text.push_str(&processes(report));
    if with_calls {
        text.push_str(&calls(report));
    }
    text.trim_end().to_owned()
}

fn coverage_line(coverage: &Share) -> String {
    let per_mille = coverage.per_mille();
    let mut line = format!(
        "coverage: {}.{} % of {} bytes sent over TLS were read",
        per_mille / 10,
        per_mille % 10,
        coverage.sent_bytes
    );
    if coverage.uncovered > 0 {
        line.push_str(&format!(
            "; NOT READ: {} of {} connections, estimated at ${}",
            coverage.uncovered, coverage.connections, coverage.estimated_usd
        ));
    }
    line + "\n"
}

fn tokens(usage: &Usage) -> String {
    let parts: Vec<String> = usage.iter().map(|(bucket, tokens)| format!("{tokens} {}", bucket.name())).collect();
    if parts.is_empty() { "no tokens".into() } else { parts.join(", ") }
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled).set_header(header);
    table
}

fn models(report: &Report) -> String {
    if report.models.is_empty() {
        return String::new();
    }
    let mut table = table(["MODEL", "CALLS", "IN", "OUT", "COST"]);
    for total in &report.models {
        table.add_row([
            total.model.clone(),
            total.calls.to_string(),
            total.usage.input_total().to_string(),
            total.usage.output_total().to_string(),
            format!("${}", total.cost_usd),
        ]);
    }
    format!("\n{}\n", table.trim_fmt())
}

/// Processes that made calls, and those they descend from.
fn processes(report: &Report) -> String {
    let mut shown: Vec<u32> =
        report.processes.iter().filter(|process| process.calls > 0).map(|process| process.pid).collect();
    if shown.is_empty() {
        return String::new();
    }
    // Parents stand before their children.
    for process in report
        .processes
        .iter()
        .rev()
        .filter(|process| process.calls > 0 || shown.contains(&process.pid))
        .collect::<Vec<_>>()
    {
        shown.extend(process.ppid);
    }
    let mut table = table(["PID", "PARENT", "PROGRAM", "CALLS", "COST"]);
    let rows = report.processes.iter().filter(|process| shown.contains(&process.pid));
    for process in rows.clone() {
        table.add_row([
            process.pid.to_string(),
            process.ppid.map_or("-".to_owned(), |ppid| ppid.to_string()),
            process.exe.clone(),
            process.calls.to_string(),
            format!("${}", process.cost_usd),
        ]);
    }
    let hidden = report.processes.len() - rows.count();
    let rest = if hidden > 0 { format!("\n and {hidden} more that made no calls") } else { String::new() };
    format!("\n{}{rest}\n", table.trim_fmt())
}

fn calls(report: &Report) -> String {
    let mut table = table(["STARTED", "PID", "MODEL", "IN", "OUT", "COST", "BASIS", "RESPONSE"]);
    for call in &report.call_list {
        table.add_row([
            call.started_at.clone(),
            call.pid.to_string(),
            call.model.clone(),
            call.usage.input_total().to_string(),
            call.usage.output_total().to_string(),
            call.cost_usd.map_or("unpriced".to_owned(), |cost| format!("${cost}")),
            call.basis.name().to_owned(),
            call.response_id.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    format!("\n{}\n", table.trim_fmt())
}
