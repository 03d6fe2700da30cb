//! The kernel's boot clock as wall-clock time.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Turns boot-clock nanoseconds into timestamps.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    booted: Timestamp,
}

/// Nanoseconds since boot, as the programs stamp their records.
pub fn boot_nanoseconds() -> u64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| u64::try_from(Duration::from(time).as_nanos()).unwrap_or(0))
}

impl Clock {
    /// Compares the two clocks now. Wall clocks are set: do it again from time to time.
    pub fn now() -> Self {
        let since_boot = i64::try_from(boot_nanoseconds()).unwrap_or(0);
        let booted = Timestamp::now().checked_sub(SignedDuration::from_nanos(since_boot));
        Self { booted: booted.unwrap_or(Timestamp::UNIX_EPOCH) }
    }

    pub fn at(self, boot_nanoseconds: u64) -> Timestamp {
        let since_boot = SignedDuration::from_nanos(i64::try_from(boot_nanoseconds).unwrap_or(0));
        self.booted.checked_add(since_boot).unwrap_or(self.booted)
    }
}
