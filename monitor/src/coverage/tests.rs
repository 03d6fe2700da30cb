//! The whole room, by the events that the kernel would tell.

use monitor_common::{SPEAKS_PLAIN, SPEAKS_QUIC, SPEAKS_TLS, Socket};

use super::{
    Coverage, Finding, Settings,
    hello::tests::{client_hello, in_records},
};
use crate::{price::Money, probe::Slot};

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

/// A connection after its handshake.
fn tls(application: u64, readable: u64, received: u64) -> Socket {
    Socket {
        sent: 600 + application,
        received: 1000 + received,
        application,
        readable,
        first_application: u64::from(application > 0),
        received_before: if application > 0 { 1000 } else { 0 },
        slot: 1,
        tgid: 7,
        speaks: SPEAKS_TLS,
        ..Socket::default()
    }
}

fn coverage() -> Coverage {
    Coverage::new(Settings { hosts: vec!["*.example".parse().expect("a pattern")], ..Settings::default() })
}

/// Looks at all connections again, which have not changed.
fn later(coverage: &mut Coverage, sockets: &[(u64, Socket)], is_read: bool, now: u64) -> Vec<Finding> {
    let mut look = |cookie, _| sockets.iter().find(|(of, _)| *of == cookie).map(|(_, socket)| *socket);
    coverage.look_around(&mut look, &|_| is_read, now);
    coverage.take_findings()
}

#[test]
fn what_an_unread_connection_does_costs_from_spell_to_spell() {
    let mut coverage = coverage();
    let mut cost = |sent, received, now| {
        coverage.passes(1, &tls(sent, 0, received), false, false, now);
        coverage.take_findings()
    };
    assert!(
        matches!(cost(1_000_000, 0, 0)[..], [Finding::Uncovered(_), Finding::Running { cost, .. }] if cost.to_string() == "0.6")
    );
    assert!(matches!(cost(1_000_000, 1_000_000, 1)[..], [Finding::Running { cost, .. }] if cost.to_string() == "0.7"));
    assert_eq!(cost(1_000_000, 1_000_000, 2), [], "nothing new");
    let settled = |findings: &[Finding]| match findings {
        [Finding::Settled { sent, received, cost, .. }] => (*sent, *received, cost.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(settled(&cost(1_000_000, 1_000_000, 3 * SECOND)), (1_000_000, 1_000_000, "0.7".into()));
    // What comes by itself is nothing that was asked for; what is asked for next is another call.
    assert_eq!(cost(1_000_000, 1_000_100, 4 * SECOND), []);
    assert!(matches!(cost(2_000_000, 1_000_100, 5 * SECOND)[..], [Finding::Running { .. }]));
    coverage.ends(1, 6 * SECOND);
    assert_eq!(settled(&coverage.take_findings()), (1_000_000, 100, "0.60001".into()));
}

#[test]
fn calls_that_are_read_teach_what_those_cost_that_are_not() {
    let mut coverage = coverage();
    assert!(!coverage.is_model_host("api.test") && coverage.is_model_host("llm.example"));
    let hello = in_records(&client_hello("api.test", 0), 4000);
    let mut sockets = Vec::new();
    for number in 0..10 {
        let cookie = 100 + number;
        coverage.begins(cookie, Slot(1), 7, 0, &hello, false, 0);
        coverage.passes(cookie, &tls(1, 1, 0), false, true, 0);
        coverage.asked(7, "API.test:443");
        sockets.push((cookie, tls(500, 500, 4000)));
        assert!(later(&mut coverage, &sockets, true, 1).is_empty());
        coverage.answered(7, "api.test:443", Some(Money::from_pico_usd(9_000_000_000)));
        assert!(later(&mut coverage, &sockets, true, 2).is_empty());
    }
    assert!(coverage.is_model_host("api.test"));
    coverage.begins(1, Slot(1), 78, 0, &hello, false, 3);
    coverage.passes(1, &tls(500, 0, 4000), false, false, 3);
    let findings = coverage.take_findings();
    let [Finding::Uncovered(found), Finding::Running { cost, .. }] = &findings[..] else { panic!("{findings:?}") };
    assert_eq!(found.host.as_deref(), Some("api.test"));
    let millionths = cost.pico_usd() / 1_000_000;
    assert!((8500..9500).contains(&millionths), "{cost}");
}

#[test]
fn plaintext_is_found_that_nobody_reads_and_only_that() {
    let plain = Socket { sent: 80, slot: 1, tgid: 7, speaks: SPEAKS_PLAIN, ..Socket::default() };
    for is_read in [true, false] {
        let mut coverage = coverage();
        if is_read {
            coverage.is_read(1, 0);
        }
        coverage.begins(1, Slot(1), 7, 0, b"GET /v1/models HTTP/1.1\r\nHost: llm.example\r\n\r\n", false, 0);
        assert!(later(&mut coverage, &[(1, plain)], false, 1).is_empty());
        let findings = later(&mut coverage, &[(1, plain)], false, SECOND);
        assert_eq!(uncovered(&findings), usize::from(!is_read), "{findings:?}");

        // One that is over before anybody could wait for it.
        if is_read {
            coverage.is_read(2, SECOND);
        }
        coverage.begins(2, Slot(1), 7, 0, b"GET /v1/models HTTP/1.1\r\nHost: llm.example\r\n\r\n", false, SECOND);
        coverage.passes(2, &plain, false, false, SECOND);
        coverage.ends(2, SECOND);
        let findings = coverage.take_findings();
        assert_eq!(uncovered(&findings), usize::from(!is_read), "{findings:?}");
    }
    let mut coverage = coverage();
    coverage.begins(1, Slot(1), 7, 0, b"SSH-2.0-OpenSSH_9.2\r\n", false, 0);
    assert!(later(&mut coverage, &[(1, plain)], false, SECOND).is_empty());
}

#[test]
fn memory_is_bounded() {
    let mut coverage = Coverage::new(Settings { connections: 10, ..Settings::default() });
    for cookie in 0..30 {
        coverage.passes(cookie, &tls(0, 0, 0), false, false, 0);
    }
    assert_eq!(coverage.missed(), 20);
    // Nobody told their end: they are gone from the kernel's map.
    assert!(later(&mut coverage, &[], false, 1).is_empty());
    coverage.passes(40, &tls(0, 0, 0), false, false, 2);
    assert_eq!(coverage.missed(), 20);
}
