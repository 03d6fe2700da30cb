//! `tollgate label`, `unlabel`, `labels`.

use std::process::ExitCode;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};

use super::{Socket, print, wait_for};
use crate::{
    api::{RemoveLabel, SetLabel},
    budget::Settings,
    engine::LabelStatus,
    label::Said,
    task::{Label as Name, TaskId},
};

/// Make a cgroup a task with a budget
///
/// Everything in the cgroup and below is metered, and stopped when the task has spent its budget. The label lies on the cgroup itself: it
/// outlives the daemon and goes with the cgroup. In a cgroup that lies in another task, it makes a part of that one. Label it again to change
/// its budget.
#[derive(Debug, clap::Args)]
pub struct Label {
    /// A cgroup by its path from the root of the hierarchy (`/agents.slice`), or a systemd unit that runs (`agents.slice`)
    #[arg(value_name = "CGROUP|UNIT")]
    cgroup: String,
    /// Name of the task
    #[arg(long)]
    task: TaskId,
    /// What the task is an instance of
    #[arg(long)]
    workflow: Option<Name>,
    /// Business unit that pays with the task
    #[arg(long)]
    tenant: Option<Name>,
    /// A limit, or what is done at it: like `total=2.00`, `hour=0.50`, `requests=100` or `ladder=warn@80,pause@100`
    ///
    /// All settings of a budget in the configuration can be given. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE", num_args = 1..)]
    budget: Vec<String>,
    #[command(flatten)]
    socket: Socket,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Label {
    pub fn run(&self) -> Result<ExitCode> {
        let mut budget = Settings::default();
        for said in &self.budget {
            budget.set(said)?;
        }
        budget.budget()?;
        let said =
            Said { task: self.task.clone(), tenant: self.tenant.clone(), workflow: self.workflow.clone(), budget };
        let body = SetLabel { cgroup: self.cgroup.clone(), said };
        let status: LabelStatus = wait_for(self.socket.client().post("/v1/labels", &body))??;
        show(&status, self.json)
    }
}

/// Take a label away
///
/// What runs in the cgroup goes on, and is no longer metered unless the cgroup lies in another task.
#[derive(Debug, clap::Args)]
pub struct Unlabel {
    /// The cgroup or unit, as for `label`
    #[arg(value_name = "CGROUP|UNIT")]
    cgroup: String,
    #[command(flatten)]
    socket: Socket,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

impl Unlabel {
    pub fn run(&self) -> Result<ExitCode> {
        let body = RemoveLabel { cgroup: self.cgroup.clone() };
        let status: LabelStatus = wait_for(self.socket.client().post("/v1/labels/remove", &body))??;
        show(&status, self.json)
    }
}

/// List the cgroups that are tasks by a label or a rule
#[derive(Debug, clap::Args)]
pub struct Labels {
    #[command(flatten)]
    socket: Socket,
    /// A JSON array
    #[arg(long)]
    json: bool,
}

impl Labels {
    pub fn run(&self) -> Result<ExitCode> {
        let labels: Vec<LabelStatus> = wait_for(self.socket.client().get("/v1/labels"))??;
        if self.json {
            return print(&serde_json::to_string_pretty(&labels)?);
        }
        if labels.is_empty() {
            return print(
                "no cgroup is labelled; label one with `tollgate label CGROUP --task NAME --budget total=USD`",
            );
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["CGROUP", "TASK", "PART OF", "STATE", "BUDGET", "BY"]);
        for label in &labels {
            table.add_row([
                label.cgroup.clone(),
                label.task.to_string(),
                part_of(label),
                label.state.clone(),
                budget(label),
                label.by.clone(),
            ]);
        }
        print(&table.trim_fmt())
    }
}

fn part_of(label: &LabelStatus) -> String {
    let above = label.labels.above().iter().map(ToString::to_string).collect::<Vec<_>>();
    above.join(", ")
}

fn budget(label: &LabelStatus) -> String {
    let budget = &label.budget;
    let caps = [
        ("total", budget.total),
        ("hour", budget.hour),
        ("day", budget.day),
        ("week", budget.week),
        ("month", budget.month),
    ];
    let caps = caps.into_iter().filter_map(|(name, cap)| Some(format!("{name} ${}", cap?)));
    let text = caps.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "none".into() } else { text }
}

fn show(status: &LabelStatus, json: bool) -> Result<ExitCode> {
    if json {
        return print(&serde_json::to_string_pretty(status)?);
    }
    print(&format!("{}: task {}, {}, budget {}", status.cgroup, status.task, status.state, budget(status)))
}
