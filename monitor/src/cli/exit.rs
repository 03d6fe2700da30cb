//! Exit codes: one for each kind of trouble, so that scripts need not read messages.

use std::process::ExitCode;

/// Something that is not told apart below.
pub const FAILURE: u8 = 1;
/// The command line is wrong (`EX_USAGE` is 64; clap uses 2).
pub const BAD_USAGE: u8 = 2;
/// The configuration or an input file is wrong (`EX_CONFIG` is 78, `EX_DATAERR` 65).
pub const BAD_INPUT: u8 = 65;

pub fn code_of(_error: &anyhow::Error) -> ExitCode {
    ExitCode::from(FAILURE)
}
