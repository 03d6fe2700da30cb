//! How long to wait before the next attempt.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
    time::Duration,
};

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(300);

/// Waits that double with each attempt in a row that failed, each of them a random part of at least half, so that receivers which
/// come back are not met by everybody at once.
#[derive(Debug, Default)]
pub struct Backoff {
    failed: u32,
}

impl Backoff {
    /// An attempt succeeded.
    pub fn reset(&mut self) {
        self.failed = 0;
    }

    /// An attempt failed: how long to wait. `asked` is what the receiver asks for, which is given within reason.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let most = FIRST.saturating_mul(1 << self.failed.min(16)).min(LONGEST);
        self.failed = self.failed.saturating_add(1);
        let half = most / 2;
        let jitter = half.mul_f64(f64::from(random()) / f64::from(u32::MAX));
        (half + jitter).max(asked.unwrap_or_default().min(LONGEST))
    }
}

/// The keys of a `RandomState` are random, and differ each time.
fn random() -> u32 {
    let hash = RandomState::new().build_hasher().finish();
    u32::try_from(hash >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, time::Duration};

    use super::{Backoff, LONGEST};

    #[test]
    fn waits_double_up_to_a_bound_and_differ() {
        let mut backoff = Backoff::default();
        for failed in 0..40 {
            let most = Duration::from_secs(1 << failed.min(20)).min(LONGEST);
            let wait = backoff.next(None);
            assert!(wait >= most / 2 && wait <= most, "{failed}: {wait:?}");
        }
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_secs(1));
        let waits: HashSet<Duration> = (0..20).map(|_| Backoff::default().next(None)).collect();
        assert!(waits.len() > 10, "{waits:?}");
    }

    #[test]
    fn what_the_receiver_asks_for_is_given_within_reason() {
        let ask = |seconds| Backoff::default().next(Some(Duration::from_secs(seconds)));
        assert_eq!(ask(7), Duration::from_secs(7));
        assert_eq!(ask(1_000_000), LONGEST);
        assert!(ask(0) >= Duration::from_millis(500));
    }
}
