//! Writes the table of the client matrix into `README.md`, from what the live tests have written down.

#![forbid(unsafe_code)]

use std::{fs, process::ExitCode};

use anyhow::{Context as _, bail};
use tollgate_tests::{
    build_tree,
    clients::matrix::{self, GROUPS, HEAD, Shown},
};

fn main() -> ExitCode {
    match rewrite() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("client-matrix: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn rewrite() -> anyhow::Result<()> {
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
    let path = build_tree::workspace().join("README.md");
    let readme = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let section = matrix::section(&readme).context("README.md has no markers of the matrix")?;
    let [start, end] = matrix::MARKERS;
    let rewritten = readme.replacen(&format!("{start}{section}{end}"), &format!("{start}{table}{end}"), 1);
    fs::write(&path, rewritten).with_context(|| path.display().to_string())
}
