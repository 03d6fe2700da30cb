//! `tollgate join`: the first half of the child of `tollgate run`. Enters the task and becomes the command.
//!
//! The daemon knows who asks by `SO_PEERCRED`, so nobody can put another process into a task, and the command is inside before its first
//! instruction.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    os::{
        fd::{FromRawFd as _, RawFd},
        unix::process::CommandExt as _,
    },
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result};

use super::{Socket, exit, wait_for};
use crate::{engine::Joined, task::TaskId};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    task: TaskId,
    /// Descriptor of a pipe through which the parent says what there is to do, once the task is open
    #[arg(long)]
    word: RawFd,
    #[command(flatten)]
    socket: Socket,
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The parent has put this process into the task's cgroup.
pub const INSIDE: &[u8] = b"i";
/// It is to ask for that itself.
pub const JOIN: &[u8] = b"j";

pub fn run(args: &Args) -> Result<ExitCode> {
    // SAFETY: the parent has passed it on for this, and nothing else of this process knows of it; a wrong number is an error of the read.
    let mut pipe = unsafe { std::fs::File::from_raw_fd(args.word) };
    let mut word = Vec::new();
    // Closed by this, so that the command does not have it.
    pipe.read_to_end(&mut word).context("the parent's pipe cannot be read")?;
    drop(pipe);
    if word == JOIN {
        let path = format!("/v1/tasks/{}/join", args.task);
        let _: Joined = wait_for(args.socket.client().post(&path, &()))??;
    } else if word != INSIDE {
        // The task is not open, which the parent says.
        return Ok(ExitCode::from(exit::FAILURE));
    }
    let Some((program, arguments)) = args.command.split_first() else { return Ok(ExitCode::from(exit::NOT_FOUND)) };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("tollgate: cannot run {}: {error}", program.display());
    let code = if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
    Ok(ExitCode::from(code))
}
