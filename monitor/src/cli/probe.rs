//! `tollgate probe`: where plaintext passes in a program, and signatures for those that nothing else finds.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;

use super::print;
use crate::probe::finder::{
    self, Cost, Coverage, Depth, Findings, Returns, SIGNATURES_DIRECTORY, Signatures, Target, Verdict,
};

/// Explain where plaintext passes in a program or library
///
/// Needs neither root nor a daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Show what was found in a file, how, and what is uncovered and why
    Inspect {
        /// Executable or shared library
        file: PathBuf,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Derive signatures from a build in which the functions can be found, for builds in which they cannot
    ///
    /// Prints a file for /etc/tollgate/signatures.d. Each pattern has been verified to fit its function and nothing else in this file.
    Learn {
        /// Executable or shared library
        file: PathBuf,
        /// What to call this build, for example `Bun 1.4.4`; the file's name if not given
        #[arg(long, value_name = "TEXT")]
        build: Option<String>,
    },
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Inspect { file, json } => inspect(file, *json),
        Command::Learn { file, build } => learn(file, build.as_deref()),
    }
}

fn inspect(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let (signatures, errors) = Signatures::embedded()?.with_directory(Path::new(SIGNATURES_DIRECTORY));
    for error in errors {
        eprintln!("tollgate: {error}");
    }
    let findings =
        finder::inspect(file, &signatures, Depth::Code).with_context(|| format!("cannot search {}", file.display()))?;
    if json {
        return print(&serde_json::to_string(&findings)?);
    }
    print(&human(file, &findings))
}

fn learn(file: &Path, build: Option<&str>) -> anyhow::Result<ExitCode> {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let learned = finder::learn(file, build.unwrap_or(&name));
    let signatures = learned
        .with_context(|| format!("cannot search {}", file.display()))?
        .with_context(|| format!("cannot learn from {}", file.display()))?;
    print(toml::to_string(&signatures)?.trim_end())
}

fn human(file: &Path, findings: &Findings) -> String {
    let mut text = format!("{}: {}", file.display(), findings.architecture);
    for (name, value) in [("build id", &findings.build_id), ("built with", &findings.go)] {
        if let Some(value) = value {
            text.push_str(&format!(", {name} {value}"));
        }
    }
    if let Some(path) = &findings.debug_file {
        text.push_str(&format!(", debug file {}", path.display()));
    }
    if findings.verdicts.is_empty() {
        text.push_str(
            "\nno TLS: neither symbols of a TLS library, nor a Go program, nor traces of a library linked into it",
        );
    }
    for Verdict { stack, coverage } in &findings.verdicts {
        match coverage {
            Coverage::Covered => text.push_str(&format!("\n{stack}: covered")),
            Coverage::Uncovered { because } => text.push_str(&format!("\n{stack}: UNCOVERED: {because}")),
            Coverage::Absent { looked_for } => text.push_str(&format!("\n{stack}: none: {looked_for}")),
        }
        for target in findings.targets.iter().filter(|target| target.stack == *stack) {
            text.push_str(&describe(target));
        }
        for shared in findings.shared.iter().filter(|shared| shared.target.stack == *stack) {
            text.push_str(&format!("\n  instead of {}:{}", shared.instead_of.join(" and "), describe(&shared.target)));
        }
    }
    text
}

fn describe(target: &Target) -> String {
    let role = serde_json::to_value(target.role).ok();
    let role = role.as_ref().and_then(|role| role.as_str()).unwrap_or_default();
    let mut text = format!("\n  {role:<9} {} at {:#x}: {}", target.function, target.offset, target.found);
    let cost = match target.entry.cost {
        Cost::Emulated => "cheap",
        Cost::SingleStepped => "single-stepped",
        Cost::Unknown => "cost unknown",
    };
    text.push_str(&format!("\n            entry  {:#x} ({cost}): {}", target.entry.offset, target.entry.because));
    match &target.returns {
        Returns::Probe { offset } => text.push_str(&format!("\n            return {offset:#x}, by a return probe")),
        Returns::Sites(sites) => {
            let sites: Vec<String> = sites.iter().map(|site| format!("{site:#x}")).collect();
            text.push_str(&format!("\n            return at {}", sites.join(", ")));
        }
        Returns::None => {}
    }
    text
}
