//! `tollgate prices`: which prices hold, and newer tables for the daemon.

mod text;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use jiff::Timestamp;
use serde_json::json;

use super::{exit, print};
use crate::{
    books::{Book, BookError, Shelf, Tables},
    config::Config,
    price::{Catalogue, Override, Query, Service},
};

/// Show prices and install newer price tables
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    Show(Show),
    List(List),
    Check(Check),
    Update(Update),
}

/// Where tables are installed, and what is configured.
#[derive(Debug, clap::Args)]
struct Place {
    /// Configuration file [default: /etc/tollgate/tollgate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory whose `prices/` has the installed tables [default: /var/lib/tollgate]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
}

impl Place {
    fn config(&self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        config.daemon.state_dir = self.state_dir.clone().or(config.daemon.state_dir);
        Ok(config)
    }
}

/// Show what a model costs, which row that is from, and why that one
///
/// Lists every row that could hold for the model: overrides of the configuration, the catalogue, the fallback table, and other
/// providers. Exits with 66 if the model has no price.
#[derive(Debug, clap::Args)]
pub struct Show {
    /// Model, as the API names it
    model: String,
    /// Who bills: id of the catalogue, or a usual name
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Where calls go to, for overrides by host and to find the provider
    #[arg(long, value_name = "URL", conflicts_with = "provider")]
    url: Option<String>,
    /// Kind of service: `batch`, `flex`, `priority`, …
    #[arg(long, value_name = "NAME")]
    service_tier: Option<String>,
    /// Prices at this time instead of now
    #[arg(long, value_name = "RFC3339")]
    at: Option<Timestamp>,
    /// A version of the catalogue that was installed once, to explain an old charge
    #[arg(long, value_name = "VERSION")]
    catalogue: Option<String>,
    #[command(flatten)]
    place: Place,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// List all models and their prices
#[derive(Debug, clap::Args)]
pub struct List {
    /// Of this provider only
    #[arg(long, value_name = "ID")]
    provider: Option<String>,
    #[command(flatten)]
    place: Place,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Say whether a file is a price table, and what it would change
///
/// Without a file, says which tables are in use and whether they are whole.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Price table, as `cargo xtask prices` writes it
    file: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Install a newer price table
///
/// The file is verified, kept beside those that were installed before, and used by the daemon from its next start on, if it is newer
/// than the built-in table.
#[derive(Debug, clap::Args)]
pub struct Update {
    /// Price table, as `cargo xtask prices` writes it
    file: PathBuf,
    /// SHA-256 that the file must have, in hexadecimal [default: what `FILE.sha256` says]
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// Install it even though a newer one is in use
    #[arg(long)]
    allow_older: bool,
    #[command(flatten)]
    place: Place,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub fn run(verb: &Verb) -> Result<ExitCode> {
    match verb {
        Verb::Show(args) => show(args),
        Verb::List(args) => list(args),
        Verb::Check(args) => check(args),
        Verb::Update(args) => update(args),
    }
}

/// The tables that a daemon would use; what of them cannot be used is said.
fn tables(state_dir: &Path) -> Tables {
    let tables = Tables::of(state_dir);
    for unused in &tables.unused {
        eprintln!("tollgate: prices: {unused}");
    }
    tables
}

fn show(args: &Show) -> Result<ExitCode> {
    let config = args.place.config()?;
    let mut tables = tables(config.state_dir());
    if let Some(version) = &args.catalogue {
        match catalogue_of_version(version, &tables, config.state_dir())? {
            Some(catalogue) => tables.catalogue = catalogue,
            None => {
                eprintln!("tollgate: the catalogue {version} was never installed here, and is not built in");
                return Ok(ExitCode::from(exit::NO_PRICE));
            }
        }
    }
    let book = tables.book(&config.price);
    let query = Query {
        provider: args.provider.as_deref(),
        url: args.url.as_deref(),
        service: Service { tier: args.service_tier.as_deref(), ..Service::default() },
        ..Query::new(&args.model, args.at.unwrap_or_else(Timestamp::now))
    };
    let explanation = book.explain(&query);
    let shown = if args.json { serde_json::to_string(&explanation)? } else { text::explanation(&explanation) };
    let code = print(&shown)?;
    Ok(if explanation.unpriced.is_some() { ExitCode::from(exit::NO_PRICE) } else { code })
}

/// `0.2.3`, with or without the package before it.
fn catalogue_of_version(
    version: &str,
    tables: &Tables,
    state_dir: &Path,
) -> Result<Option<&'static Catalogue>, BookError> {
    let package = Catalogue::embedded().package();
    let version = version.strip_prefix(package).map_or(version, str::trim);
    let mut known = [tables.catalogue, Catalogue::embedded()].into_iter();
    if let Some(catalogue) = known.find(|catalogue| catalogue.release() == version) {
        return Ok(Some(catalogue));
    }
    let kept = Shelf::new(state_dir).of_version(package, version)?;
    Ok(kept.map(|book| &*Box::leak(Box::new(book.catalogue))))
}

fn list(args: &List) -> Result<ExitCode> {
    let config = args.place.config()?;
    let tables = tables(config.state_dir());
    let fallback = config.price.fallback.then_some(tables.fallback);
    let rows = std::iter::once(tables.catalogue).chain(fallback).flat_map(|table| {
        let wanted = |model: &str| {
            args.provider.as_deref().is_none_or(|id| model.split_once('/').is_some_and(|(provider, _)| provider == id))
        };
        let models = table.schedules().into_iter().filter(move |(model, _)| wanted(model));
        models.map(|(model, schedule)| (table.version(), model, schedule))
    });
    let rows = rows.collect::<Vec<_>>();
    if args.json {
        let models = rows
            .iter()
            .map(|(table, model, schedule)| json!({ "catalogue": table, "model": model, "schedule": schedule }));
        return print(&json!({ "models": models.collect::<Vec<_>>() }).to_string());
    }
    print(&text::list(&rows))
}

fn check(args: &Check) -> Result<ExitCode> {
    let config = args.place.config()?;
    let Some(file) = &args.file else { return check_active(&config, args.json) };
    let book = Book::read(file)?;
    let tables = tables(config.state_dir());
    let active = tables.of_package(book.catalogue.package());
    let changes = active.changes(&book.catalogue);
    if args.json {
        let report = json!({
            "file": file, "sha256": book.sha256, "catalogue": book.catalogue.version(),
            "models": book.catalogue.models(), "active": active.version(),
            "newer": book.catalogue.is_newer_than(active), "changes": changes,
        });
        return print(&report.to_string());
    }
    print(&text::check(&book, active, &changes))
}

/// Whether what is in use is whole.
fn check_active(config: &Config, json: bool) -> Result<ExitCode> {
    let tables = Tables::of(config.state_dir());
    let in_use = [tables.catalogue, tables.fallback];
    for table in in_use {
        table.check_patterns().map_err(|source| BookError::Invalid { path: table.version().into(), source })?;
    }
    let book = tables.book(&config.price);
    let overrides = book.overrides.iter().map(|it| format!("{}@{}", it.name(), it.hash())).collect::<Vec<_>>();
    let idle = book.idle_overrides().map(Override::name).collect::<Vec<_>>();
    let shown = if json {
        let in_use = in_use.map(|table| json!({ "catalogue": table.version(), "models": table.models() }));
        json!({ "tables": in_use, "installed": tables.installed, "unused": tables.unused, "overrides": overrides,
            "idle_overrides": idle })
        .to_string()
    } else {
        let mut lines = in_use.map(|table| format!("{}: {} models", table.version(), table.models())).to_vec();
        lines.extend(tables.installed.iter().map(|it| format!("installed: {it}")));
        lines.extend(tables.unused.iter().map(|it| format!("NOT USED: {it}")));
        lines.extend(overrides.iter().map(|it| format!("override {it}")));
        lines.extend(
            idle.iter().map(|it| format!("NEVER HOLDS: override {it}: no table has the provider that it names")),
        );
        lines.join("\n")
    };
    print(&shown)
}

fn update(args: &Update) -> Result<ExitCode> {
    let config = args.place.config()?;
    let book = Book::read(&args.file)?;
    book.verify(args.sha256.as_deref())?;
    let tables = tables(config.state_dir());
    let active = tables.of_package(book.catalogue.package());
    if active.is_newer_than(&book.catalogue) && !args.allow_older {
        let (release, active) = (book.catalogue.version().to_owned(), active.version().to_owned());
        return Err(BookError::Older { path: args.file.clone(), release, active }.into());
    }
    let changes = active.changes(&book.catalogue).len();
    let path = Shelf::new(config.state_dir()).install(&book)?;
    let after = Tables::of(config.state_dir());
    let used = after.of_package(book.catalogue.package()).version();
    if args.json {
        let report = json!({
            "catalogue": book.catalogue.version(), "sha256": book.sha256, "installed_as": path,
            "was": active.version(), "changes": changes, "in_use": used,
        });
        return print(&report.to_string());
    }
    let (installed, was) = (book.catalogue.version(), active.version());
    let from_now = if after.installed.iter().any(|it| it.contains(installed)) {
        "a daemon uses it from its next start on".to_owned()
    } else {
        format!("{used}, which is built in, stays in use")
    };
    print(&format!("installed {installed} as {}: {changes} models differ from {was}; {from_now}", path.display()))
}

impl Tables {
    /// The one in use of a package.
    fn of_package(&self, package: &str) -> &'static Catalogue {
        if package == self.fallback.package() { self.fallback } else { self.catalogue }
    }
}
