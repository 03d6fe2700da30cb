//! Connections of tasks that cannot be read: what is found about them is said, charged by an estimate, or ended.

use std::{
    collections::{HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use monitor_common::Socket;

use super::{clock::boot_nanoseconds, effects::Done, state::Engine};
use crate::{
    alert::Kind,
    budget::{self, HoldId, Reason, UncoveredPolicy},
    coverage::{Finding, Uncovered, Via},
    enforce::{SocketsError, Which, end_connections, end_sockets},
    ledger::Entry,
    meter::{self, Basis, Billing, Metered, provider_at},
    pipeline::Charge,
    price::Money,
    probe::{Pid, Slot, destination},
};

/// How long what was said of a program and a host is not said again.
const QUIET: Duration = Duration::from_secs(60);
/// Programs and hosts of which that is remembered.
const MOST_SAID: usize = 4096;
/// Files with TLS that cannot be read that are remembered.
const MOST_FILES: usize = 4096;

/// What the engine knows of connections that cannot be read, beside [`Coverage`](crate::coverage::Coverage).
#[derive(Default)]
pub struct Unread {
    /// Calls that are made on them, by their cookies.
    calls: HashMap<u64, OpenCall>,
    said: HashMap<Said, (Instant, u64)>,
    /// Why TLS in these files cannot be read.
    files: HashMap<Box<str>, Box<str>>,
    missed: u64,
}

struct OpenCall {
    hold: HoldId,
    slot: Slot,
    pid: Pid,
}

#[derive(PartialEq, Eq, Hash)]
struct Said {
    slot: Slot,
    executable: Box<str>,
    host: Box<str>,
}

impl Unread {
    /// A file was looked at, and this is what there is to say about it: `PATH: TLS LIBRARY cannot be read: WHY`.
    pub fn note_file(&mut self, said: &str) {
        if let Some((path, why)) = said.split_once(": ")
            && self.files.len() < MOST_FILES
        {
            self.files.insert(path.into(), why.into());
        }
    }

    /// What is known of the TLS in the files that a process has mapped.
    fn library(&self, pid: Pid) -> Option<&str> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
        // `start-end perms offset dev inode path` (proc(5)).
        let code = maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|perms| perms.contains('x')));
        let mut paths = code.filter_map(|line| line.find('/').and_then(|at| line.get(at..)));
        paths.find_map(|path| self.files.get(path)).map(|why| &**why)
    }
}

impl Engine {
    /// What is done about connections of the task that cannot be read: the strictest of what its account and those above it say.
    pub fn uncovered_policy(&self, slot: Slot) -> UncoveredPolicy {
        let Some(task) = self.tasks.get(&slot) else { return UncoveredPolicy::default() };
        let above = task.labels.above().into_iter().filter_map(|name| self.account(&name));
        let said = above.chain([task.account]).filter_map(|account| self.settings.get(&account)?.uncovered);
        said.max().unwrap_or_default()
    }

    /// Tells the kernel what it must keep from leaving.
    pub fn apply_uncovered(&mut self, slot: Slot) {
        let stops = self.uncovered_policy(slot) == UncoveredPolicy::Deny;
        if let Err(error) = self.traffic.stop_unreadable(slot, stops) {
            self.decide(slot, Kind::EffectFailed, format!("what cannot be read is not kept from leaving: {error}"));
        }
    }

    pub fn on_traffic(&mut self, cookie: u64, socket: &Socket, is_over: bool, is_stopped: bool, now: u64) {
        let has_readable = self.traffic.readable(socket.family).is_some();
        self.coverage.passes(cookie, socket, is_stopped, has_readable, now);
        if is_over {
            self.coverage.ends(cookie, now);
        }
        self.act_on_findings();
    }

    /// Looks at connections again, those that cost among them.
    pub fn sweep_coverage(&mut self) {
        let (traffic, now) = (&self.traffic, boot_nanoseconds());
        let mut look =
            |cookie, is_datagrams| if is_datagrams { traffic.datagrams(cookie) } else { traffic.socket(cookie) };
        self.coverage.look_around(&mut look, &|family| traffic.readable(family).is_some(), now);
        let missed = self.coverage.missed();
        if missed > self.unread.missed {
            self.unread.missed = missed;
            let message =
                format!("{missed} connections were not watched: more are open than `kernel.connections` says");
            self.alert(Kind::Lost, None, message);
        }
        self.act_on_findings();
    }

    fn act_on_findings(&mut self) {
        for finding in self.coverage.take_findings() {
            match finding {
                Finding::Uncovered(uncovered) => self.on_uncovered(&uncovered),
                Finding::Running { cookie, slot, pid, cost } => self.on_unread_call(cookie, slot, pid, cost),
                Finding::Settled { cookie, slot, pid, host, sent, received, cost } => {
                    self.on_unread_call(cookie, slot, pid, cost);
                    self.settle_unread(cookie, host.as_deref(), (sent, received), cost);
                }
            }
        }
    }

    /// A connection turned out to be one that cannot be read.
    fn on_uncovered(&mut self, uncovered: &Uncovered) {
        let (slot, pid) = (uncovered.slot, uncovered.pid);
        if !self.tasks.contains_key(&slot) {
            return;
        }
        let policy = self.uncovered_policy(slot);
        let is_denied = policy == UncoveredPolicy::Deny || uncovered.is_stopped;
        if is_denied {
            self.deny(uncovered);
        }
        self.latencies.since("uncovered connection: known", uncovered.socket.first_application);
        let executable = self.tasks.get(&slot).and_then(|task| task.tree.executable(pid)).unwrap_or("?").to_owned();
        let address = destination(&uncovered.socket).map(|(address, port)| match address {
            std::net::IpAddr::V6(address) => format!("[{address}]:{port}"),
            std::net::IpAddr::V4(address) => format!("{address}:{port}"),
        });
        let address = address.unwrap_or_else(|| "an unknown address".into());
        let host = uncovered.host.as_deref();
        let Some(others) = self.may_say(slot, &executable, host.unwrap_or(&address)) else { return };
        let whom = host.map_or_else(|| address.clone(), |host| format!("{host} ({address})"));
        let library = match uncovered.via {
            Via::Tls => self.unread.library(pid).map(|why| format!("; {why}")).unwrap_or_default(),
            _ => String::new(),
        };
        let cost = match (is_denied, self.charges_for(policy, host)) {
            (true, _) => "its connection is ended, and it makes no other one there",
            (false, true) => "what it costs is estimated from its bytes",
            (false, false) => "what it costs is not known",
        };
        let Socket { sent, received, .. } = uncovered.socket;
        let others = if others > 0 { format!(" (and {others} more since this was last said)") } else { String::new() };
        let message = format!(
            "process {pid} ({executable}): {via} to {whom} cannot be read{library}; {sent} bytes sent and {received} received so far; {cost}{others}",
            via = uncovered.via
        );
        self.decide(slot, Kind::Uncovered, message);
    }

    /// Whether something may be said about a program and a host, with how often it was not said.
    fn may_say(&mut self, slot: Slot, executable: &str, host: &str) -> Option<u64> {
        if self.unread.said.len() >= MOST_SAID {
            self.unread.said.retain(|_, (at, _)| at.elapsed() < QUIET);
        }
        let key = Said { slot, executable: executable.into(), host: host.into() };
        match self.unread.said.get_mut(&key) {
            Some((at, unsaid)) if at.elapsed() < QUIET => {
                *unsaid += 1;
                None
            }
            before => {
                let others = before.map_or(0, |(_, unsaid)| *unsaid);
                if self.unread.said.len() < MOST_SAID {
                    self.unread.said.insert(key, (Instant::now(), 0));
                }
                Some(others)
            }
        }
    }

    /// Connections that were not said when they were found are said with their number after a while, or `now`: none is hidden because it was
    /// the last.
    pub fn say_unsaid_connections(&mut self, now: bool) {
        let mut unsaid = Vec::new();
        for (Said { slot, executable, host }, (at, count)) in &mut self.unread.said {
            if *count > 0 && (now || at.elapsed() >= QUIET) {
                let message = format!("{executable}: {count} more connections to {host} since that was last said");
                unsaid.push((*slot, message));
                (*at, *count) = (Instant::now(), 0);
            }
        }
        for (slot, message) in unsaid {
            self.decide(slot, Kind::Uncovered, message);
        }
    }

    fn charges_for(&self, policy: UncoveredPolicy, host: Option<&str>) -> bool {
        policy != UncoveredPolicy::Alert && host.is_some_and(|host| self.coverage.is_model_host(host))
    }

    fn deny(&mut self, uncovered: &Uncovered) {
        let Uncovered { cookie, slot, pid, socket, .. } = *uncovered;
        if let Err(error) = self.traffic.deny(pid, &socket) {
            tracing::warn!("process {pid} can connect there again, and will be ended again: {error}");
        }
        if matches!(uncovered.via, Via::Quic(_)) {
            // Its packets do not leave.
            return;
        }
        let port = destination(&socket).map(|(_, port)| port);
        self.spawn(slot, "deny", move || {
            let ended = end_sockets(&HashSet::from([cookie]));
            // In another network namespace it is found by its process.
            let ended = match (ended, port) {
                (Ok(0), Some(port)) => end_connections(&[pid], Which::To(port)),
                (ended, _) => ended,
            };
            Done::Denied(pid, ended)
        });
    }

    pub fn on_denied(&mut self, slot: Slot, pid: Pid, result: Result<usize, SocketsError>, decided: u64) {
        match result {
            Ok(_) => self.latencies.since("uncovered connection: ended", decided),
            Err(error) => {
                let message = format!("process {pid}: {error}; what the connection sends does not leave");
                self.decide(slot, Kind::EffectFailed, message);
            }
        }
    }

    /// Something is going on on a connection that cannot be read, and costs so much by now.
    fn on_unread_call(&mut self, cookie: u64, slot: Slot, pid: Pid, cost: Money) {
        let hold = match self.unread.calls.get(&cookie) {
            Some(call) => call.hold,
            None => {
                let host = self.coverage.host(cookie).map(str::to_owned);
                if !self.charges_for(self.uncovered_policy(slot), host.as_deref()) {
                    return;
                }
                let Some(task) = self.tasks.get(&slot) else { return };
                let (id, account) = (task.id.clone(), task.account);
                let hold = HoldId(self.new_id());
                self.accounts.admit(hold, account, pid);
                let held = self.accounts.hold(hold).unwrap_or_default();
                self.ledger.put(Entry::CallStarted {
                    id: hold.0,
                    task: id,
                    pid,
                    model: None,
                    hold: held,
                    at: Timestamp::now(),
                });
                self.unread.calls.insert(cookie, OpenCall { hold, slot, pid });
                hold
            }
        };
        self.accounts.raise(hold, cost);
        self.touched.insert(slot);
        self.act_on_decisions();
    }

    /// It is over.
    fn settle_unread(&mut self, cookie: u64, host: Option<&str>, (sent, received): (u64, u64), cost: Money) {
        let Some(OpenCall { hold, slot, .. }) = self.unread.calls.remove(&cookie) else { return };
        let Some(task) = self.tasks.get_mut(&slot) else {
            self.accounts.release(hold);
            return;
        };
        task.calls += 1;
        let at = Timestamp::now();
        let charge = budget::Charge {
            cost,
            unpriced: Money::ZERO,
            model: None,
            tokens: 0,
            is_typical: false,
            is_tool: false,
            at,
        };
        if !self.accounts.settle(hold, &charge) {
            self.accounts.charge(task.account, &charge);
        }
        self.coverage.is_charged(slot, cost);
        let note = format!(
            "cannot be read: estimated from {sent} bytes sent to {} and {received} received, by what these cost in calls that are read",
            host.unwrap_or("?")
        );
        let charge = Charge {
            metered: unread(host),
            cost: Some(cost),
            tokens_cost: None,
            row: None,
            ceiling: None,
            note: Some(note),
        };
        self.count_charge(slot, &charge);
        self.ledger.put(Entry::Charged { call: hold.0, charge: Box::new(charge), at });
        self.touched.insert(slot);
        self.act_on_decisions();
    }

    /// Nobody can pay for what an unread connection does. Says whether this hold is of one.
    pub fn cut_unread(&mut self, hold: HoldId, reason: &Reason) -> bool {
        let found = self.unread.calls.iter().find(|(_, call)| call.hold == hold);
        let Some((cookie, slot, pid)) = found.map(|(cookie, call)| (*cookie, call.slot, call.pid)) else {
            return false;
        };
        self.decide(slot, Kind::CallCut, format!("process {pid}: {reason}"));
        self.spawn(slot, "cut-call", move || Done::CallCut(pid, end_sockets(&HashSet::from([cookie]))));
        true
    }
}

fn unread(host: Option<&str>) -> Metered {
    Metered {
        kind: meter::Kind::Model,
        billing: Billing::Charge,
        estimate: None,
        unseen: None,
        tool_cost: None,
        provider: host.and_then(provider_at),
        model_requested: None,
        model_reported: None,
        billed_model: Default::default(),
        response_id: None,
        stream: false,
        usage: Default::default(),
        units: Default::default(),
        basis: Basis::Estimated,
        service: Default::default(),
        parts: Vec::new(),
        provider_cost: None,
        status: None,
    }
}
