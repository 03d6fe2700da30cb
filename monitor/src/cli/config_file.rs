//! `tollgate config`.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use super::print;
use crate::{alert::webhook, config::Config};

/// Look at the configuration
#[derive(Debug, clap::Subcommand)]
pub enum Verb {
    /// Say whether a configuration is valid, and what is wrong with it
    ///
    /// Reads it, the `conf.d` beside it and the files that webhooks need, as the daemon does. Exits with 78 when it is wrong.
    Check {
        /// Configuration file [default: /etc/tollgate/tollgate.toml, if it is there]
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
}

pub fn run(verb: &Verb) -> Result<ExitCode> {
    let Verb::Check { file } = verb;
    let config = Config::load(file.as_deref())?;
    webhook::check_files(&config.webhook)?;
    print("the configuration is valid")
}
