//! `tollgate approve`, `deny`, `pause`, `resume`, `kill` and `budget`.

use std::process::ExitCode;

use anyhow::Result;
use jiff::Timestamp;

use super::{Socket, print, wait_for};
use crate::{
    api::GiveOrder,
    budget::Settings,
    engine::{AccountStatus, Order},
    price::Money,
    task::AccountName,
};

/// Whom an order is about.
#[derive(Debug, clap::Args)]
pub struct Whom {
    /// A task, or `tenant=NAME`, `workflow=NAME`, `workflow=TENANT/NAME`
    #[arg(value_name = "TASK")]
    account: AccountName,
    /// JSON instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: Socket,
}

/// Let a task spend more, or let its calls go that wait for a yes
///
/// A task that was cut or paused at its cap goes on. It is written to the audit log with who asked.
#[derive(Debug, clap::Args)]
pub struct Approve {
    #[command(flatten)]
    whom: Whom,
    /// It may spend so much more, in USD: in all for good, in an hour, day, week or month until that ends
    #[arg(long, value_name = "USD", conflicts_with = "until")]
    add: Option<Money>,
    /// Its own limits do not count before that time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
}

impl Approve {
    pub fn run(&self) -> Result<ExitCode> {
        let order = match (self.add, self.until) {
            (Some(usd), _) if usd <= Money::ZERO => anyhow::bail!("--add takes an amount of more than 0"),
            (Some(usd), _) => Order::Add { usd },
            (None, Some(time)) => Order::Until { time },
            (None, None) => Order::Approve,
        };
        self.whom.give(order)
    }
}

/// Refuse the calls of a task that wait for a yes; kill it if there are none
#[derive(Debug, clap::Args)]
pub struct Deny {
    #[command(flatten)]
    whom: Whom,
}

impl Deny {
    pub fn run(&self) -> Result<ExitCode> {
        self.whom.give(Order::Deny)
    }
}

/// Freeze a task until it is resumed
#[derive(Debug, clap::Args)]
pub struct Pause {
    #[command(flatten)]
    whom: Whom,
}

impl Pause {
    pub fn run(&self) -> Result<ExitCode> {
        self.whom.give(Order::Pause)
    }
}

/// Let a paused task go on, as far as its limits let it
#[derive(Debug, clap::Args)]
pub struct Resume {
    #[command(flatten)]
    whom: Whom,
}

impl Resume {
    pub fn run(&self) -> Result<ExitCode> {
        self.whom.give(Order::Resume)
    }
}

/// Stop a task for good
#[derive(Debug, clap::Args)]
pub struct Kill {
    #[command(flatten)]
    whom: Whom,
}

impl Kill {
    pub fn run(&self) -> Result<ExitCode> {
        self.whom.give(Order::Kill)
    }
}

/// Change the budget of a task, a workflow or a tenant
///
/// What is not said stays as it is. Settings are those of `[budget]` in the configuration, like `total=2.00`, `hour=0.50` or
/// `ladder=warn@80,pause@100`.
#[derive(Debug, clap::Args)]
pub struct Budget {
    #[command(flatten)]
    whom: Whom,
    /// What to set; the word `set` may stand before it
    #[arg(required = true, value_name = "[set] NAME=VALUE")]
    settings: Vec<String>,
}

impl Budget {
    pub fn run(&self) -> Result<ExitCode> {
        let mut settings = Settings::default();
        let said = self.settings.strip_prefix(&["set".to_owned()]).unwrap_or(&self.settings);
        for said in said {
            settings.set(said)?;
        }
        self.whom.give(Order::Budget { settings: Box::new(settings) })
    }
}

impl Whom {
    fn give(&self, order: Order) -> Result<ExitCode> {
        let body = GiveOrder { account: self.account.clone(), order };
        let status: AccountStatus = wait_for(self.socket.client().post("/v1/orders", &body))??;
        if self.json {
            return print(&serde_json::to_string_pretty(&status)?);
        }
        print(&text(&status))
    }
}

/// An account in one line.
pub fn text(status: &AccountStatus) -> String {
    let mut text = format!("{}: spent ${}", status.account, status.spent_usd);
    for (window, cap) in &status.caps_usd {
        let spent = status.windows_usd.get(window).copied().unwrap_or_default();
        text.push_str(&format!("; {window} ${spent} of ${cap}"));
    }
    if let (Some(action), Some(reason)) = (&status.action, &status.reason) {
        text.push_str(&format!("; in force: {action} ({reason})"));
    }
    text
}
