//! `tollgate join`: the first half of the child of `tollgate run`. Enters the task and becomes the command.
//!
//! The daemon knows who asks by `SO_PEERCRED`, so nobody can put another process into a task, and the command is inside before its first
//! instruction.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use anyhow::Result;

use super::{Socket, exit, wait_for};
use crate::{engine::Joined, task::TaskId};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    task: TaskId,
    #[command(flatten)]
    socket: Socket,
    #[arg(trailing_var_arg = true, required = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let client = args.socket.client();
    let path = format!("/v1/tasks/{}/join", args.task);
    let _: Joined = wait_for(client.post(&path, &()))??;
    let Some((program, arguments)) = args.command.split_first() else { return Ok(ExitCode::from(exit::NOT_FOUND)) };
    let error = Command::new(program).args(arguments).exec();
    eprintln!("tollgate: cannot run {}: {error}", program.display());
    let code = if error.kind() == io::ErrorKind::NotFound { exit::NOT_FOUND } else { exit::NOT_EXECUTABLE };
    Ok(ExitCode::from(code))
}
