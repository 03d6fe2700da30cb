//! `tollgate alerts`.

use std::{io::Write as _, path::PathBuf, process::ExitCode, str::FromStr, thread, time::Duration};

use anyhow::Result;
use jiff::{Span, Timestamp, tz::TimeZone};

use crate::{
    alert::Kind,
    config,
    ledger::{AlertRow, Reader},
    task::AccountName,
};

/// List what was said: decisions, losses, trouble
///
/// Reads the ledger itself; no daemon is needed. The last 100000 alerts are kept; decisions, orders and incidents are kept for ever (`tollgate
/// audit`).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Go on with those that are raised from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
    /// Only since then: a time (`2026-01-31T09:00:00Z`), or so long ago (`90m`, `2 days`)
    #[arg(long, value_name = "TIME")]
    since: Option<Since>,
    /// Only of this task (or `tenant=NAME`, `workflow=NAME`)
    #[arg(long, value_name = "ACCOUNT")]
    task: Option<AccountName>,
    /// Only of this kind (`kill`, `lost`, …); may be given more than once
    #[arg(long, value_name = "KIND", value_parser = kind)]
    kind: Vec<Kind>,
    /// Directory of the ledger
    #[arg(long, value_name = "DIR", default_value = config::STATE_DIR)]
    state_dir: PathBuf,
    /// One JSON object per line
    #[arg(long)]
    json: bool,
}

/// Alerts that are read at once.
const BATCH: u32 = 1000;
/// How often the ledger is looked at for more.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Since(Timestamp);

impl FromStr for Since {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(time) = text.parse() {
            return Ok(Self(time));
        }
        let wrong = || format!("`{text}` is neither a time, like 2026-01-31T09:00:00Z, nor a time span, like 90m");
        let ago: Span = text.parse().map_err(|_| wrong())?;
        // Days are those of this place.
        let now = Timestamp::now().to_zoned_datetime(TimeZone::system());
        now.checked_sub(ago.abs()).map(|time| Self(time.timestamp())).map_err(|_| wrong())
    }
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| format!("there are {}", Kind::ALL.map(Kind::name).join(", ")))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let reader = Reader::open(&args.state_dir.join("ledger.db"))?;
    let mut last = args.since.map_or(Ok(0), |Since(time)| reader.last_alert_before(time))?;
    loop {
        let alerts = reader.alerts_after(last, BATCH)?;
        if let Some(alert) = alerts.last() {
            last = alert.id;
        }
        if !args.say(&alerts)? {
            return Ok(ExitCode::SUCCESS);
        }
        if alerts.is_empty() {
            if !args.follow {
                return Ok(ExitCode::SUCCESS);
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

impl Args {
    /// Says whether anybody still reads.
    fn say(&self, alerts: &[AlertRow]) -> Result<bool> {
        let mut out = std::io::stdout().lock();
        let mut write = |line: String| match writeln!(out, "{line}").and_then(|()| out.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true),
        };
        for alert in alerts.iter().filter(|alert| self.wants(alert)) {
            if !write(if self.json { serde_json::to_string(alert)? } else { line(alert) })? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn wants(&self, alert: &AlertRow) -> bool {
        self.task.as_ref().is_none_or(|name| alert.is_of(name))
            && (self.kind.is_empty() || self.kind.iter().any(|kind| kind.name() == alert.kind))
    }
}

/// One line, whatever is in it.
fn line(alert: &AlertRow) -> String {
    let about = alert.account.as_deref().or(alert.task.as_deref()).unwrap_or("-");
    let at = alert.at.split_once('.').map_or(&*alert.at, |(seconds, _)| seconds);
    let mut line = format!("{at}Z {} {about}: {}", alert.kind, alert.message);
    if let Some(spent) = alert.spent_usd {
        let cap = alert.cap_usd.map(|cap| format!(" of ${cap}")).unwrap_or_default();
        line.push_str(&format!(" (spent ${spent}{cap})"));
    }
    if let Some(actor) = &alert.actor {
        line.push_str(&format!(", by {actor}"));
    }
    line.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use jiff::{SignedDuration, Timestamp};

    use super::{Since, line};
    use crate::ledger::AlertRow;

    #[test]
    fn since_is_a_time_or_so_long_ago() {
        let parse = |text: &str| text.parse::<Since>();
        assert_eq!(parse("2026-01-31T09:00:00Z"), Ok(Since("2026-01-31T09:00:00Z".parse().expect("a time"))));
        for (text, hours) in [("90m", 1.5), ("2 days", 48.0), ("1h 30m", 1.5)] {
            let Since(since) = parse(text).expect(text);
            let ago = Timestamp::now().duration_since(since);
            let expected = SignedDuration::from_secs_f64(hours * 3600.0);
            // A day may have 23 hours, or 25.
            assert!((ago - expected).abs() <= SignedDuration::from_hours(2), "{text}: {ago:?}");
        }
        assert!(parse("yesterday").expect_err("a word").contains("neither a time"));
        assert!(parse("99999 years").is_err());
    }

    #[test]
    fn a_line_is_one_line() {
        let alert = AlertRow {
            id: 1,
            at: "2026-01-31T09:00:00.123456789Z".into(),
            kind: "order".into(),
            task: None,
            account: Some("tenant=acme".into()),
            actor: Some("uid 0".into()),
            spent_usd: Some("1".parse().expect("money")),
            cap_usd: None,
            message: "a\nb\u{1b}[31m".into(),
        };
        assert_eq!(line(&alert), "2026-01-31T09:00:00Z order tenant=acme: a?b?[31m (spent $1), by uid 0");
    }
}
