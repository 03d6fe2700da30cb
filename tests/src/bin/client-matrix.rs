//! Writes the tables of clients and of ways out into `README.md` and `ESCAPES.md`, from what the live tests have written down. With `--print` it says
//! how each way out ended, and writes nothing.

#![forbid(unsafe_code)]

use std::{env, fs, process::ExitCode};

use anyhow::{Context as _, bail};
use tollgate_tests::{
    build_tree,
    clients::matrix::{self, GROUPS, HEAD, Shown},
    escapes,
};

fn main() -> ExitCode {
    let is_asked = env::args().any(|argument| argument == "--print");
    match if is_asked { print() } else { ways_out().and_then(|()| clients()) } {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client-matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn clients() -> anyhow::Result<()> {
    let mut table = HEAD.to_owned();
    for (group, _) in GROUPS {
        let path = build_tree::target_dir()?.join("matrix").join(format!("{group}.json"));
        let text =
            fs::read(&path).with_context(|| format!("{}: run the live tests of the matrix first", path.display()))?;
        let rows: Vec<Shown> = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
        for row in rows {
            if let Some(failure) = row.failure {
                bail!("{} was not as expected: {failure}", row.name);
            }
            let Shown { name, tls, how, version, architecture, expected, .. } = &row;
            table.push_str(&matrix::line(name, tls, how, *expected, version, architecture));
        }
    }
    let section = |text: &str| matrix::section(text).map(str::to_owned);
    replace("README.md", matrix::MARKERS, section, &table)
}

/// How the last run of the live tests ended.
fn tried() -> anyhow::Result<Vec<escapes::Shown>> {
    let path = build_tree::target_dir()?.join("escapes.json");
    let text = fs::read(&path).with_context(|| format!("{}: run the live tests first", path.display()))?;
    serde_json::from_slice(&text).with_context(|| path.display().to_string())
}

fn print() -> anyhow::Result<()> {
    let shown = tried()?;
    for row in escapes::ROWS {
        let shown = shown.iter().find(|shown| shown.name == row.name);
        let ended = match shown {
            None => "was not tried".to_owned(),
            Some(escapes::Shown { failure: Some(failure), .. }) => {
                format!("NOT as expected: {}", failure.lines().next().unwrap_or_default())
            }
            Some(escapes::Shown { calls, .. }) => format!("{}, {calls} calls", row.end.name()),
        };
        println!("{:18} {ended:32} {}", row.name, row.way);
    }
    Ok(())
}

fn ways_out() -> anyhow::Result<()> {
    let shown = tried()?;
    let mut table = escapes::HEAD.to_owned();
    for row in escapes::ROWS {
        let shown = shown.iter().find(|shown| shown.name == row.name);
        let shown = shown.with_context(|| format!("{} was not tried", row.name))?;
        if let Some(failure) = &shown.failure {
            bail!("{} was not as expected: {failure}", row.name);
        }
        table.push_str(&escapes::line(row));
    }
    let section = |text: &str| escapes::section(text).map(str::to_owned);
    replace("ESCAPES.md", escapes::MARKERS, section, &table)
}

/// Puts a table in the place of the one that is there.
fn replace(
    file: &str,
    [start, end]: [&str; 2],
    section: impl Fn(&str) -> Option<String>,
    table: &str,
) -> anyhow::Result<()> {
    let path = build_tree::workspace().join(file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let section = section(&text).with_context(|| format!("{file} has no markers of its table"))?;
    let rewritten = text.replacen(&format!("{start}{section}{end}"), &format!("{start}{table}{end}"), 1);
    fs::write(&path, rewritten).with_context(|| path.display().to_string())
}
