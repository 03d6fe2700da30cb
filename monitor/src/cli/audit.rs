//! `tollgate audit`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde_json::json;

use super::{exit, print};
use crate::{config, ledger::Reader, task::AccountName};

/// List everything that was decided, ordered or seen, or prove that the list is whole
///
/// Reads the ledger itself; no daemon is needed.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Verify(Verify),
}

#[derive(Debug, clap::Args)]
struct List {
    /// Only what is of this task (or `tenant=NAME`, `workflow=NAME`)
    #[arg(long, value_name = "ACCOUNT")]
    task: Option<AccountName>,
    #[command(flatten)]
    ledger: Ledger,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Prove that nothing in the list was changed, removed, added or moved
///
/// Every row is linked with the one before it by its SHA-256. The first link that is wrong is named, and the exit code is 65. Rows cut off at
/// the end are told by an anchor alone: a head that was kept elsewhere. Each alert in the journal has one (`TOLLGATE_AUDIT_HEAD=`).
#[derive(Debug, clap::Args)]
struct Verify {
    /// A head that the chain had earlier: `LINKS:HASH`, or the hash alone
    #[arg(long, value_name = "HEAD")]
    head: Option<String>,
    #[command(flatten)]
    ledger: Ledger,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Ledger {
    /// Directory of the ledger
    #[arg(long, value_name = "DIR", default_value = config::STATE_DIR)]
    state_dir: PathBuf,
}

impl Ledger {
    fn open(&self) -> Result<Reader> {
        Ok(Reader::open(&self.state_dir.join("ledger.db"))?)
    }
}

pub fn run(args: &Args) -> Result<ExitCode> {
    match &args.verb {
        Some(Verb::Verify(verify)) => verify.run(),
        None => args.list.run(),
    }
}

impl List {
    fn run(&self) -> Result<ExitCode> {
        let rows = self.ledger.open()?.audit(self.task.as_ref())?;
        if self.json {
            let lines: Vec<String> = rows.iter().map(serde_json::to_string).collect::<Result<_, _>>()?;
            return print(&lines.join("\n"));
        }
        let mut table = Table::new();
        table.load_style(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["LINK", "AT", "ACCOUNT", "WHAT", "REASON", "BY", "HASH"]);
        for row in rows {
            let hash = row.hash.get(..12).unwrap_or_default().to_owned();
            let by = row.actor.unwrap_or_else(|| "-".into());
            table.add_row([row.link.to_string(), row.at, row.account, row.what, row.reason, by, hash]);
        }
        print(&table.trim_fmt())
    }
}

impl Verify {
    fn run(&self) -> Result<ExitCode> {
        let (said, text, code) = match self.ledger.open()?.verify_audit(self.head.as_deref())? {
            Ok(head) => {
                let links = head.map_or(0, |head| head.links);
                let end = head.map_or_else(String::new, |head| format!("; its head is {head}"));
                let text = format!("the chain is whole: {links} links{end}");
                (json!({"whole": true, "links": links, "head": head.map(|head| head.to_string())}), text, 0)
            }
            Err(broken) => {
                let said = json!({"whole": false, "broken": broken.to_string(), "link": broken.link()});
                (said, format!("THE CHAIN IS BROKEN: {broken}"), exit::BAD_INPUT)
            }
        };
        print(&if self.json { said.to_string() } else { text })?;
        Ok(ExitCode::from(code))
    }
}
