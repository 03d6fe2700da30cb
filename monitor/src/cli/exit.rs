//! Exit codes: one for each kind of trouble, so that scripts need not read messages. Where `sysexits.h` has a number, it is that one.

use std::{io, process::ExitCode};

use crate::{
    alert::webhook::WebhookError,
    api::{ListenError, client::ClientError},
    books::BookError,
    budget::InvalidBudget,
    config::ConfigError,
    enforce::CgroupError,
    ledger::LedgerError,
    probe::{
        LoadError,
        finder::{ImageError, LearnError},
    },
    task::InvalidTaskId,
};

/// Something that is not told apart below.
pub const FAILURE: u8 = 1;
/// An input file is wrong, or the audit chain is broken (`EX_DATAERR`).
pub const BAD_INPUT: u8 = 65;
/// There is no such task or cgroup (`EX_NOINPUT`).
pub const UNKNOWN_TASK: u8 = 66;
/// There is no price for it (`EX_NOINPUT`).
pub const NO_PRICE: u8 = 66;
/// No daemon answers (`EX_UNAVAILABLE`).
pub const NO_DAEMON: u8 = 69;
/// The kernel has no BTF.
pub const NO_BTF: u8 = 70;
/// No cgroup v2 is mounted.
pub const NO_CGROUP: u8 = 71;
/// The kernel refuses the programs.
pub const NO_PROBES: u8 = 72;
/// The ledger cannot be used (`EX_CANTCREAT`).
pub const NO_LEDGER: u8 = 73;
/// The configuration cannot be read (`EX_IOERR`).
pub const UNREADABLE_CONFIG: u8 = 74;
/// Another daemon runs (`EX_TEMPFAIL`).
pub const ALREADY_RUNNING: u8 = 75;
/// Not root (`EX_NOPERM`).
pub const NOT_ALLOWED: u8 = 77;
/// The configuration is wrong (`EX_CONFIG`).
pub const BAD_CONFIG: u8 = 78;
/// The task has no money left.
pub const EXHAUSTED: u8 = 79;
/// The command was found and could not be executed, as in a shell.
pub const NOT_EXECUTABLE: u8 = 126;
/// The command was not found, as in a shell.
pub const NOT_FOUND: u8 = 127;
/// Killed at the cap: 128 + `SIGKILL`.
pub const KILLED: u8 = 137;

/// Table for `tollgate --help`.
pub const HELP: &str = "\
Exit codes:
   1  failed                        73  the ledger cannot be used
   2  wrong usage                   74  the configuration cannot be read
  65  wrong input, broken audit     75  another daemon runs
  66  unknown task, cgroup, price   77  not allowed
  69  no daemon answers             78  the configuration is wrong
  70  the kernel has no BTF         79  the task has no money left
  71  no cgroup v2 is mounted      137  `run`: killed at its cap
  72  the kernel refuses the programs
`run` otherwise exits as its command did.";

/// You are not root, or not somebody the daemon listens to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAllowed(pub String);

/// Another daemon holds the state directory.
#[derive(Debug, thiserror::Error)]
#[error("another daemon uses {0}: stop it first, or give this one its own --state-dir and --socket")]
pub struct AlreadyRunning(pub String);

/// The code of what went wrong, found anywhere in the chain of causes.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.chain().find_map(code).unwrap_or(FAILURE))
}

fn code(error: &(dyn std::error::Error + 'static)) -> Option<u8> {
    if let Some(error) = error.downcast_ref::<ConfigError>() {
        return Some(if matches!(error, ConfigError::Read { .. }) { UNREADABLE_CONFIG } else { BAD_CONFIG });
    }
    if error.is::<WebhookError>() {
        return Some(BAD_CONFIG);
    }
    if error.is::<NotAllowed>() {
        return Some(NOT_ALLOWED);
    }
    if error.is::<AlreadyRunning>() {
        return Some(ALREADY_RUNNING);
    }
    if error.is::<ImageError>() || error.is::<LearnError>() {
        return Some(BAD_INPUT);
    }
    if error.is::<LedgerError>() {
        return Some(NO_LEDGER);
    }
    if let Some(error) = error.downcast_ref::<BookError>() {
        return Some(match error {
            BookError::Write { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => NOT_ALLOWED,
            BookError::Write { .. } => FAILURE,
            BookError::NoHash { .. } | BookError::Older { .. } => super::BAD_USAGE,
            _ => BAD_INPUT,
        });
    }
    if error.is::<InvalidTaskId>() || error.is::<InvalidBudget>() {
        return Some(super::BAD_USAGE);
    }
    if let Some(error) = error.downcast_ref::<ListenError>() {
        return Some(if matches!(error, ListenError::InUse(_)) { ALREADY_RUNNING } else { FAILURE });
    }
    if let Some(error) = error.downcast_ref::<CgroupError>() {
        return Some(if matches!(error, CgroupError::NotMounted) { NO_CGROUP } else { FAILURE });
    }
    if let Some(error) = error.downcast_ref::<LoadError>() {
        return Some(if matches!(error, LoadError::Btf(_)) { NO_BTF } else { NO_PROBES });
    }
    match error.downcast_ref::<ClientError>()? {
        ClientError::Unreachable { .. } => Some(NO_DAEMON),
        ClientError::Refused(problem) => Some(match problem.kind.as_str() {
            "unknown-task" | "unknown-cgroup" => UNKNOWN_TASK,
            "exhausted" => EXHAUSTED,
            "forbidden" => NOT_ALLOWED,
            _ => FAILURE,
        }),
        ClientError::Protocol(_) => Some(FAILURE),
    }
}
