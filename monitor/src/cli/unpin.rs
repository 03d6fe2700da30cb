//! `tollgate unpin`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};

use super::exit::{AlreadyRunning, NotAllowed};
use crate::{
    config::Config,
    enforce::{Held, end_sockets, held_state, kill_process, resume},
    probe::pins::{Left, Pins, PinsError},
};

/// Take away what a daemon has left in the kernel
///
/// While no daemon runs, gates that are shut stay shut, and requests without a credit wait. This takes gates and probes away: processes of tasks
/// whose gates are shut are killed, those that wait go on, and nothing is metered any more. Not while a daemon runs.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file [default: /etc/tollgate/tollgate.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the pins [default: /sys/fs/bpf/tollgate]
    #[arg(long, value_name = "DIR")]
    pin_dir: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let config = Config::load(args.config.as_deref())?;
    if !nix::unistd::geteuid().is_root() {
        return Err(NotAllowed("pins belong to root: run `tollgate unpin` as root".into()).into());
    }
    match args.pin_dir.as_deref().or(config.pin_directory()) {
        Some(directory) => super::print(&unpin(directory)?),
        None => super::print("nothing is pinned: `kernel.pin_directory` is empty"),
    }
}

/// Says what was done.
pub fn unpin(directory: &Path) -> Result<String> {
    let pins = match Pins::existing(directory) {
        Ok(Some(pins)) => pins,
        Ok(None) => return Ok(format!("nothing is pinned in {}", directory.display())),
        Err(PinsError::InUse(path)) => return Err(AlreadyRunning(path.display().to_string()).into()),
        Err(error) => return Err(error.into()),
    };
    let Left { shut, others, sockets } = pins.left();
    for &pid in &shut {
        kill_process(pid);
    }
    if !sockets.is_empty() {
        end_sockets(&sockets).context("sockets that are kept from sending would send: nothing was taken away")?;
    }
    pins.remove()?;
    let waiting: Vec<_> = others.into_iter().filter(|&pid| held_state(pid) == Held::Stopped).collect();
    for &pid in &waiting {
        resume(pid);
    }
    Ok(format!(
        "{}: everything is taken away; {} processes of stopped tasks killed, {} that waited go on",
        directory.display(),
        shut.len(),
        waiting.len()
    ))
}
