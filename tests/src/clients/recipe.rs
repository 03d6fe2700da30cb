//! What is made once and kept in the target directory: a directory that is named by the hash of its recipe.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::build_tree;

/// Written last: a directory without it is not finished.
const MARKER: &str = "complete";

/// How often what needs the network is tried, and the pause in between.
const TRIES: usize = 3;
const PAUSE: Duration = Duration::from_secs(5);

/// Makes `target/NAME-HASH` by `make`, unless it is there. Of several processes one makes it, and the others wait.
///
/// # Errors
/// When `make` fails, or a file cannot be written.
pub fn ensure(name: &str, recipe: &[&str], make: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<PathBuf> {
    let target = build_tree::target_dir()?;
    let mut hasher = DefaultHasher::new();
    recipe.hash(&mut hasher);
    let directory = target.join(format!("{name}-{:016x}", hasher.finish()));
    let is_complete = || directory.join(MARKER).is_file();
    if is_complete() {
        return Ok(directory);
    }
    let lock_path = target.join(format!("{name}.lock"));
    let lock = File::create(&lock_path).with_context(|| lock_path.display().to_string())?;
    lock.lock().with_context(|| format!("locking {}", lock_path.display()))?;
    if is_complete() {
        return Ok(directory);
    }
    eprintln!("setup: making {}", directory.display());
    let shown = directory.display();
    if directory.exists() {
        fs::remove_dir_all(&directory).with_context(|| format!("removing the unfinished {shown}"))?;
    }
    fs::create_dir_all(&directory).with_context(|| shown.to_string())?;
    make(&directory)?;
    fs::write(directory.join(MARKER), "").with_context(|| shown.to_string())?;
    Ok(directory)
}

/// Runs a command of a recipe.
///
/// # Errors
/// When it fails; the message ends with what it said.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("running {program}"))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        bail!("{program}: {}\n{}", output.status, String::from_utf8_lossy(&said).trim_end());
    }
    Ok(())
}

/// Runs a command that needs the network, again if it fails.
///
/// # Errors
/// When it still fails.
pub fn run_online(command: &mut Command) -> anyhow::Result<()> {
    for _ in 1..TRIES {
        match run(command) {
            Ok(()) => return Ok(()),
            Err(error) => eprintln!("setup: trying again: {error:#}"),
        }
        thread::sleep(PAUSE);
    }
    run(command)
}
