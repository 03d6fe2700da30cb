//! Whether the ledger is whole, and has room to grow.

use std::{fs, io, path::Path, sync::mpsc, thread, time::Duration};

use super::{Check, daemon::Answer};
use crate::ledger::Reader;

/// How long a check of the whole file may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Less free space than this is too little, and nearly too little.
const LEAST: u64 = 64 << 20;
const LITTLE: u64 = 1 << 30;

pub fn checks(state_dir: &Path, answer: &Answer) -> Vec<Check> {
    vec![ledger(state_dir, matches!(answer, Answer::Said(_))), disk(state_dir)]
}

fn ledger(state_dir: &Path, daemon_runs: bool) -> Check {
    const NAME: &str = "ledger";
    let path = state_dir.join("ledger.db");
    let shown = path.display();
    match fs::metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && daemon_runs => {
            return Check::fail(
                NAME,
                format!("there is no {shown}, and a daemon runs"),
                "name the daemon's own directory with --state-dir",
            );
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::warn(
                NAME,
                format!("there is no {shown}"),
                "the daemon makes it when it first starts; else name its directory with --state-dir",
            );
        }
        Err(error) => return Check::warn(NAME, format!("{shown}: {error}"), "run `tollgate doctor` as root"),
        Ok(_) => {}
    }
    let (done, result) = mpsc::channel();
    let asked = path.clone();
    // On a thread that nobody waits for longer than this: the file may be large, and the disk slow.
    thread::spawn(move || done.send(Reader::open(&asked).and_then(|ledger| ledger.is_sound())).ok());
    match result.recv_timeout(PATIENCE) {
        Ok(Ok(true)) => Check::ok(NAME, format!("{shown} is whole")),
        Ok(Ok(false)) => Check::fail(
            NAME,
            format!("{shown} is damaged"),
            "stop the daemon, keep the file, and restore it from a copy; `tollgate audit verify` says what holds",
        ),
        Ok(Err(error)) if nix::unistd::geteuid().is_root() => {
            Check::fail(NAME, error.to_string(), "stop the daemon, keep the file, and restore it from a copy")
        }
        Ok(Err(error)) => Check::warn(NAME, error.to_string(), "run `tollgate doctor` as root"),
        Err(_) => Check::warn(
            NAME,
            format!("{shown} takes more than {} s to check", PATIENCE.as_secs()),
            "check it at rest: `sqlite3 ledger.db 'PRAGMA quick_check'`",
        ),
    }
}

fn disk(state_dir: &Path) -> Check {
    const NAME: &str = "disk";
    // Of a directory that is not there yet, the one above it that is.
    let Some(existing) = state_dir.ancestors().find(|path| path.exists()) else {
        return Check::warn(NAME, format!("{} is nowhere", state_dir.display()), "name a directory with --state-dir");
    };
    match nix::sys::statvfs::statvfs(existing) {
        Ok(said) => room(existing, said.blocks_available().saturating_mul(said.fragment_size())),
        Err(error) => Check::warn(NAME, format!("{}: {error}", existing.display()), "see whether it can be written"),
    }
}

pub(super) fn room(directory: &Path, free: u64) -> Check {
    const NAME: &str = "disk";
    let found = format!("{} MiB free in {}", free >> 20, directory.display());
    let advice = "make room: what cannot be written down is not known after a restart";
    match free {
        ..LEAST => Check::fail(NAME, found, advice),
        LEAST..LITTLE => Check::warn(NAME, found, advice),
        _ => Check::ok(NAME, found),
    }
}
