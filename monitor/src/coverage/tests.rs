//! The whole room, by the events that the kernel would tell.

use monitor_common::{SPEAKS_QUIC, SPEAKS_TLS, Socket};

use super::{Coverage, Finding, Settings};
use crate::probe::Slot;

const SECOND: u64 = 1_000_000_000;

fn socket(sent: u64, application: u64, readable: u64) -> Socket {
    Socket { slot: 1, tgid: 7, speaks: SPEAKS_TLS, sent, application, readable, ..Socket::default() }
}

/// What is found when a connection has done this, in a process of which something `is_read` or nothing.
fn found(steps: &[(Socket, u64)], is_read: bool) -> Vec<Finding> {
    let mut coverage = Coverage::new(Settings::default());
    for (socket, now) in steps {
        coverage.passes(3, socket, socket.stopped != 0, is_read, *now);
    }
    coverage.take_findings()
}

fn uncovered(findings: &[Finding]) -> usize {
    findings.iter().filter(|finding| matches!(finding, Finding::Uncovered(_))).count()
}

#[test]
fn what_only_shakes_hands_or_is_read_is_covered() {
    for is_read in [false, true] {
        assert_eq!(uncovered(&found(&[(socket(500, 0, 0), 0), (socket(900, 0, 0), 9 * SECOND)], is_read)), 0);
        assert_eq!(uncovered(&found(&[(socket(900, 400, 400), 0), (socket(9000, 8000, 7990), SECOND)], is_read)), 0);
    }
}

#[test]
fn application_data_that_nobody_read_is_found_once() {
    let steps = [(socket(900, 400, 0), 0), (socket(1900, 1400, 0), SECOND), (socket(2900, 2400, 0), 2 * SECOND)];
    // At the first bytes, where nothing of the process is ever read.
    assert_eq!(uncovered(&found(&steps[..1], false)), 1);
    assert_eq!(uncovered(&found(&steps, false)), 1);
    // Else after a moment, in which it could be read.
    assert_eq!(uncovered(&found(&steps[..1], true)), 0);
    assert_eq!(uncovered(&found(&steps, true)), 1);
    let late = [(socket(900, 400, 0), 0), (socket(900, 400, 400), SECOND / 10), (socket(1900, 1400, 1400), SECOND)];
    assert_eq!(uncovered(&found(&late, true)), 0);
}

/// What is kept from leaving has sent nothing, and is said all the same.
#[test]
fn what_is_stopped_is_found() {
    let quic = Socket { speaks: SPEAKS_QUIC, stopped: 1, ..socket(0, 0, 0) };
    assert_eq!(uncovered(&found(&[(quic, 0)], false)), 1);
    let stopped = Socket { stopped: 1, ..socket(900, 400, 0) };
    assert_eq!(uncovered(&found(&[(stopped, 0)], true)), 1);
}

#[test]
fn nothing_of_a_task_is_left_when_it_is_forgotten() {
    let mut coverage = Coverage::new(Settings::default());
    coverage.passes(3, &socket(900, 400, 0), false, false, 0);
    assert_eq!(coverage.take_findings().len(), 2, "it is uncovered, and costs something");
    coverage.forget_task(Slot(1));
    coverage.ends(3, SECOND);
    assert!(coverage.take_findings().is_empty());
}
