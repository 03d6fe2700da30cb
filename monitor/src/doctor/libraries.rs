//! TLS libraries of this host and of what runs on it, and whether they can be read.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::{Check, Item, Verdict, processes::Processes};
use crate::probe::finder::{
    self, Coverage, Depth, Findings, LIBRARY_DIRECTORIES, SEARCHED_FROM, SIGNATURES_DIRECTORY, Signatures,
};

const NAME: &str = "tls";
/// What names of libraries with TLS begin with.
const LIBRARIES: [&str; 9] = [
    "libssl.so",
    "libssl-",
    "libgnutls.so",
    "libnspr4.so",
    "libwolfssl.so",
    "libmbedtls.so",
    "libs2n.so",
    "librustls",
    "libboringssl",
];
/// Files that are searched.
const MOST: usize = 200;
/// How long that may take in all. One file alone takes up to a few seconds.
const PATIENCE: Duration = Duration::from_secs(30);
pub fn check(processes: &Processes) -> Check {
    let signatures = match Signatures::embedded() {
        Ok(signatures) => signatures,
        Err(error) => return Check::fail(NAME, error.to_string(), "install this program again"),
    };
    let (signatures, errors) = signatures.with_directory(Path::new(SIGNATURES_DIRECTORY));
    let files = candidates(processes);
    let (start, mut items, mut left_out) = (Instant::now(), Vec::new(), files.len().saturating_sub(MOST));
    for (index, file) in files.iter().take(MOST).enumerate() {
        if start.elapsed() > PATIENCE {
            left_out += files.len().min(MOST) - index;
            break;
        }
        // What is no ELF file, or cannot be read, has no TLS that a probe could see.
        if let Some(findings) = search(file, &signatures) {
            items.extend(verdicts(&file.shown, &findings));
        }
    }
    let mut beside = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    if left_out > 0 {
        beside.push(format!("{left_out} files were not searched: too many, or too slow"));
    }
    if processes.hidden > 0 {
        beside.push(format!("processes of others that could not be looked at: {}", processes.hidden));
    }
    judge(items, &beside)
}

/// A file that may have TLS in it.
struct Candidate {
    /// By which it can be opened from here.
    path: PathBuf,
    /// By which people know it.
    shown: PathBuf,
    size: u64,
}

/// Libraries first, each file once under whichever name comes first.
fn candidates(processes: &Processes) -> Vec<Candidate> {
    let mut known = HashSet::new();
    // This program knows the marks of all stacks, and so has them.
    if let Ok(own) = fs::metadata("/proc/self/exe") {
        known.insert((own.dev(), own.ino()));
    }
    let mut files = Vec::new();
    let mut add = |path: PathBuf, shown: PathBuf| {
        let Ok(metadata) = fs::metadata(&path) else { return };
        if metadata.is_file() && known.insert((metadata.dev(), metadata.ino())) {
            files.push(Candidate { path, shown, size: metadata.len() });
        }
    };
    for directory in LIBRARY_DIRECTORIES {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        let mut names: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| is_library(path)).collect();
        names.sort();
        for path in names {
            let path = fs::canonicalize(&path).unwrap_or(path);
            add(path.clone(), path);
        }
    }
    for process in &processes.seen {
        // By `/proc`, so that those of containers, and those that were deleted, are found too.
        add(format!("/proc/{}/exe", process.pid).into(), process.executable.clone());
    }
    files
}

fn is_library(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    LIBRARIES.iter().any(|library| name.starts_with(library)) && name.contains(".so")
}

fn search(file: &Candidate, signatures: &Signatures) -> Option<Findings> {
    let names = finder::inspect(&file.path, signatures, Depth::Names).ok()?;
    if !names.targets.is_empty() || file.size < SEARCHED_FROM || is_library(&file.shown) {
        return Some(names);
    }
    finder::inspect(&file.path, signatures, Depth::Code).ok()
}

fn verdicts(path: &Path, findings: &Findings) -> Vec<Item> {
    let name = path.display().to_string();
    let said = findings.verdicts.iter().filter_map(|verdict| {
        let (ok, found) = match &verdict.coverage {
            Coverage::Covered => (Verdict::Ok, format!("{}: covered", verdict.stack)),
            Coverage::Uncovered { because } => (Verdict::Warn, format!("{}: UNCOVERED: {because}", verdict.stack)),
            Coverage::Absent { .. } => return None,
        };
        Some(Item { name: name.clone(), verdict: ok, found })
    });
    said.collect()
}

pub(super) fn judge(items: Vec<Item>, beside: &[String]) -> Check {
    let covered = items.iter().filter(|item| item.verdict == Verdict::Ok).count();
    let uncovered = items.len() - covered;
    let mut found = format!("{covered} TLS stacks covered, {uncovered} uncovered");
    for word in beside {
        found.push_str(&format!("; {word}"));
    }
    let check = if covered == 0 {
        Check::fail(NAME, found, "install a TLS library that can be read, OpenSSL for example")
    } else if uncovered > 0 {
        Check::warn(
            NAME,
            found,
            "`tollgate probe inspect FILE` says more; `uncovered = \"deny\"` in a budget keeps what is not read from leaving",
        )
    } else if !beside.is_empty() {
        Check::warn(NAME, found, "run `tollgate doctor` as root, where the daemon runs, and see what is said")
    } else {
        Check::ok(NAME, found)
    };
    check.with(items)
}
