//! Whether the clock is right: windows of budgets begin and end by it.

use std::io;

use super::Check;

const NAME: &str = "clock";

/// What the kernel says of its clock (adjtimex(2)).
#[derive(Debug, Clone, Copy)]
pub(super) struct Discipline {
    pub is_synchronised: bool,
    /// By how much it may be wrong, in microseconds.
    pub max_error_us: i64,
}

pub fn check() -> Check {
    judge(ask())
}

pub(super) fn judge(asked: io::Result<Discipline>) -> Check {
    match asked {
        Ok(Discipline { is_synchronised: true, max_error_us }) => {
            Check::ok(NAME, format!("synchronised, wrong by {} ms at most", max_error_us / 1000))
        }
        Ok(_) => Check::warn(
            NAME,
            "nothing keeps it in step with the world",
            "run an NTP client (systemd-timesyncd, chrony): hours, days and months of budgets are those of this clock",
        ),
        Err(error) => Check::warn(NAME, format!("the kernel does not say: {error}"), "see `timedatectl`"),
    }
}

#[expect(unsafe_code, reason = "neither nix nor rustix has this system call")]
fn ask() -> io::Result<Discipline> {
    // SAFETY: all fields are numbers, for which zero is a value; without modes nothing is set.
    let mut said: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a `timex` that is ours alone during the call.
    let state = unsafe { libc::adjtimex(&raw mut said) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronised = state != libc::TIME_ERROR && said.status & libc::STA_UNSYNC == 0;
    Ok(Discipline { is_synchronised, max_error_us: said.maxerror })
}
