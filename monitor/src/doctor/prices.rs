//! How old the price tables are.

use std::{fs, path::Path};

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use serde::Deserialize;

use super::Check;
use crate::books::Tables;

const NAME: &str = "prices";
/// Prices change every few weeks.
const OLD_DAYS: i64 = 60;

/// When the tables that are built in were fetched.
const BUILT_IN: [&str; 2] =
    [include_str!("../../prices/genai-prices/manifest.json"), include_str!("../../prices/litellm/manifest.json")];

#[derive(Deserialize)]
struct Manifest {
    package: String,
    version: String,
    fetched: Date,
}

pub fn check(state_dir: &Path) -> Check {
    let tables = Tables::of(state_dir);
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let manifests: Vec<Manifest> = BUILT_IN.iter().filter_map(|text| serde_json::from_str(text).ok()).collect();
    let in_use = [tables.catalogue, tables.fallback].map(|table| {
        let built_in = manifests.iter().find(|it| it.package == table.package() && it.version == table.release());
        let date = built_in.map(|it| it.fetched).or_else(|| installed(state_dir, table.package()));
        (table.version().to_owned(), date)
    });
    judge(&in_use, today, &tables.unused)
}

/// When a table was installed.
fn installed(state_dir: &Path, package: &str) -> Option<Date> {
    let file = state_dir.join("prices").join(format!("{package}.active.json"));
    let at = fs::metadata(file).and_then(|metadata| metadata.modified()).ok()?;
    Some(TimeZone::UTC.to_datetime(Timestamp::try_from(at).ok()?).date())
}

pub(super) fn judge(tables: &[(String, Option<Date>)], today: Date, unused: &[String]) -> Check {
    let days = |date: &Date| i64::from(date.until(today).map_or(0, |span| span.get_days()));
    let said = tables.iter().map(|(version, date)| match date {
        Some(date) => format!("{version} of {date} ({} days old)", days(date)),
        None => format!("{version} of an unknown day"),
    });
    let mut found = said.collect::<Vec<_>>().join(", ");
    if let Some(unused) = unused.first() {
        found.push_str(&format!("; {unused}"));
        return Check::warn(NAME, found, "install a table that can be used: `tollgate prices update`");
    }
    if tables.iter().any(|(_, date)| date.as_ref().is_none_or(|date| days(date) > OLD_DAYS)) {
        return Check::warn(NAME, found, "install newer ones: `tollgate prices update`");
    }
    Check::ok(NAME, found)
}
