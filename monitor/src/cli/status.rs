//! `tollgate status`.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::Value;

use super::{Socket, orders, print, wait_for};
use crate::{api, coverage::Share, engine::AccountStatus, probe::Fullness};

/// Show what the daemon is doing: tasks, probes, losses
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    socket: Socket,
    /// One JSON object
    #[arg(long)]
    json: bool,
    /// How full the kernel's maps are, instead
    #[arg(long)]
    maps: bool,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.socket.client();
    if args.maps {
        let maps: Vec<Fullness> = wait_for(client.get("/v1/maps"))??;
        return print(&if args.json { serde_json::to_string(&maps)? } else { fullness(&maps) });
    }
    let status: Value = wait_for(client.get("/v1/status"))??;
    if args.json {
        return print(&status.to_string());
    }
    print(&human(&status))
}

fn fullness(maps: &[Fullness]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["MAP", "ENTRIES", "CAPACITY", "WHEN FULL"]);
    for map in maps {
        let when_full = if map.gives_way { "the least recently used give way" } else { "nothing more is taken in" };
        table.add_row([map.map.clone(), map.entries.to_string(), map.capacity.to_string(), when_full.to_owned()]);
    }
    table.trim_fmt()
}

fn human(status: &Value) -> String {
    let daemon = &status["daemon"];
    let mut text = format!(
        "tollgate {} (pid {}), up {} s, prices from {}\n",
        word(&daemon["version"]),
        daemon["pid"],
        daemon["uptime_s"],
        word(&daemon["catalogue"])
    );
    let probes = status["probes"].as_array().into_iter().flatten().map(|probe| word(&probe["path"]));
    text.push_str(&format!("probed: {}\n", probes.collect::<Vec<_>>().join(", ")));
    let losses = api::losses(status);
    text.push_str(&if losses.is_empty() {
        "losses: none\n".to_owned()
    } else {
        format!("LOSSES: {}\n", losses.join(", "))
    });
    for (what, latency) in status["latencies"].as_object().into_iter().flatten() {
        text.push_str(&format!(
            "latency of {what}: {} times, p50 {} µs, p99 {} µs, max {} µs\n",
            latency["count"], latency["p50_us"], latency["p99_us"], latency["max_us"]
        ));
    }
    for account in status["accounts"].as_array().into_iter().flatten() {
        if let Ok(account) = serde_json::from_value::<AccountStatus>(account.clone()) {
            text.push_str(&format!("{}\n", orders::text(&account)));
        }
    }
    let tasks = status["tasks"].as_array().cloned().unwrap_or_default();
    if tasks.is_empty() {
        text.push_str("no tasks; start one with `tollgate run --task NAME --budget USD -- COMMAND`");
        return text;
    }
    let mut table = Table::new();
    table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["TASK", "STATE", "SPENT", "CAP", "HELD", "CALLS", "PROCESSES", "COVERAGE"]);
    for task in &tasks {
        let cap = task["cap_usd"].as_str().map_or("none".to_owned(), |cap| format!("${cap}"));
        table.add_row([
            word(&task["task"]).to_owned(),
            word(&task["state"]).to_owned(),
            format!("${}", word(&task["spent_usd"])),
            cap,
            format!("${}", word(&task["held_usd"])),
            task["calls"].to_string(),
            task["processes"].to_string(),
            coverage(&task["coverage"]),
        ]);
    }
    text.push_str(&table.trim_fmt());
    for task in &tasks {
        if let Some(trouble) = task["trouble"].as_str() {
            let (task, incidents) = (word(&task["task"]), &task["incidents"]);
            text.push_str(&format!("\ntrouble in {task}: {incidents} incidents, the last one: {trouble}"));
        }
    }
    text
}

/// Share of what was sent over TLS that was read.
fn coverage(value: &Value) -> String {
    let share = serde_json::from_value::<Share>(value.clone()).unwrap_or_default();
    if share.connections == 0 {
        return "-".into();
    }
    format!("{}.{} %", share.per_mille() / 10, share.per_mille() % 10)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
