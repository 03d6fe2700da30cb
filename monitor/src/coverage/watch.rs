//! All connections of all tasks, and what is found among them.

use std::collections::{HashMap, VecDeque};

use monitor_common::Socket;
use serde::{Deserialize, Serialize};

use super::{
    flow::{Flow, Verdict, Via},
    hello::without_port,
    model::{Models, Rates, Sample},
};
use crate::{
    budget::Pattern,
    meter::provider_at,
    price::Money,
    probe::{Pid, Slot},
};

/// How connections are judged.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections that are followed at once.
    pub connections: usize,
    /// Hosts whose unread connections cost, beside those of known providers and those at which calls were read.
    pub hosts: Vec<Pattern>,
    pub rates: Rates,
    /// Whether plaintext HTTP is read at sockets, so that a connection with it can be missed.
    pub sees_plaintext: bool,
    /// Nanoseconds for which a connection may look unread if its process is one that is read.
    pub grace: u64,
    /// Nanoseconds without bytes after which what a connection did is over.
    pub idle: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections: 65_536,
            hosts: Vec::new(),
            rates: Rates::default(),
            sees_plaintext: true,
            grace: 300_000_000,
            idle: 2_000_000_000,
        }
    }
}

/// A connection that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uncovered {
    pub cookie: u64,
    pub slot: Slot,
    pub pid: Pid,
    pub via: Via,
    /// By its own word; else only its address is known.
    pub host: Option<Box<str>>,
    pub socket: Socket,
    /// What it sends does not leave.
    pub is_stopped: bool,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A connection turned out to be one that cannot be read.
    Uncovered(Uncovered),
    /// It does something that costs, which by now is so much.
    Running { cookie: u64, slot: Slot, pid: Pid, cost: Money },
    /// That is over: bytes sent and received, and what they cost.
    Settled { cookie: u64, slot: Slot, pid: Pid, host: Option<Box<str>>, sent: u64, received: u64, cost: Money },
}

/// How much of what a task sends is read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Bytes of application data sent over TLS and QUIC, or in plaintext by ways that are not followed.
    pub sent_bytes: u64,
    /// Those that were read.
    pub read_bytes: u64,
    /// Connections with application data.
    pub connections: u64,
    /// Connections of which nothing is read.
    pub uncovered: u64,
    /// What these are estimated to have cost, where it is charged.
    pub estimated_usd: Money,
}

impl Share {
    /// Per mille of the bytes that were read; all of none.
    pub fn per_mille(&self) -> u64 {
        self.read_bytes.saturating_mul(1000).checked_div(self.sent_bytes).unwrap_or(1000)
    }
}

/// What a connection that cannot be read did since it was last idle.
#[derive(Debug, Clone, Copy, Default)]
struct Spell {
    /// Bytes before it.
    before: (u64, u64),
    is_open: bool,
    said: Money,
}

struct Watched {
    slot: Slot,
    pid: Pid,
    flow: Flow,
    spell: Spell,
    /// What of it is in the task's share.
    counted: (u64, u64),
}

/// Calls of a process at a host, which are read.
#[derive(Default)]
struct Group {
    cookies: Vec<u64>,
    /// Of connections that are over.
    over: (u64, u64),
    /// What was made a sample of.
    sampled: (u64, u64),
    cost: Money,
    in_flight: u32,
}

/// Groups that are kept.
const MOST_GROUPS: usize = 8192;
/// Connections that are looked at in one round.
const ROUND: usize = 512;

/// Asks the kernel what has passed on a socket: by its cookie, and whether it is one for datagrams.
pub type Look<'a> = &'a mut dyn FnMut(u64, bool) -> Option<Socket>;

/// All connections of all tasks.
pub struct Coverage {
    settings: Settings,
    models: Models,
    flows: HashMap<u64, Watched>,
    /// Their cookies, the one that was looked at longest ago first.
    order: VecDeque<u64>,
    groups: HashMap<(Pid, Box<str>), Group>,
    shares: HashMap<Slot, Share>,
    findings: Vec<Finding>,
    /// Connections for which there was no room.
    missed: u64,
}

impl Coverage {
    pub fn new(settings: Settings) -> Self {
        Self {
            models: Models::new(settings.rates),
            settings,
            flows: HashMap::new(),
            order: VecDeque::new(),
            groups: HashMap::new(),
            shares: HashMap::new(),
            findings: Vec::new(),
            missed: 0,
        }
    }

    /// Other settings hold from now on; what was learned of hosts stays.
    pub fn configure(&mut self, settings: Settings) {
        self.models.set_rates(settings.rates);
        self.settings = settings;
    }

    pub fn take_findings(&mut self) -> Vec<Finding> {
        std::mem::take(&mut self.findings)
    }

    /// Connections for which there was no room.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    pub fn share(&self, slot: Slot) -> Share {
        self.shares.get(&slot).copied().unwrap_or_default()
    }

    /// Whether unread connections to this host cost.
    pub fn is_model_host(&self, host: &str) -> bool {
        provider_at(host).is_some()
            || self.models.knows(host)
            || self.settings.hosts.iter().any(|pattern| pattern.matches(host))
    }

    fn flow(&mut self, cookie: u64, slot: Slot, pid: Pid, is_datagrams: bool, now: u64) -> Option<&mut Watched> {
        if !self.flows.contains_key(&cookie) {
            if self.flows.len() >= self.settings.connections {
                self.missed += 1;
                return None;
            }
            self.order.push_back(cookie);
        }
        let watched = self.flows.entry(cookie).or_insert_with(|| Watched {
            slot,
            pid,
            flow: Flow::new(is_datagrams, now),
            spell: Spell::default(),
            counted: (0, 0),
        });
        if watched.pid == 0 {
            (watched.slot, watched.pid) = (slot, pid);
        }
        Some(watched)
    }

    /// Whom a connection goes to, by its own word.
    pub fn host(&self, cookie: u64) -> Option<&str> {
        self.flows.get(&cookie)?.flow.host.as_deref()
    }

    /// A piece of the beginning of what a socket sends.
    #[expect(clippy::too_many_arguments, reason = "a record of the kernel's, taken apart")]
    pub fn begins(&mut self, cookie: u64, slot: Slot, pid: Pid, offset: u64, bytes: &[u8], is_quic: bool, now: u64) {
        let Some(watched) = self.flow(cookie, slot, pid, is_quic, now) else { return };
        if watched.flow.begins(offset, bytes, is_quic) {
            let host = watched.flow.host.clone();
            self.join_group(cookie, pid, host);
        }
    }

    fn join_group(&mut self, cookie: u64, pid: Pid, host: Option<Box<str>>) {
        let Some(host) = host else { return };
        if let Some(group) = self.group(pid, &host) {
            group.cookies.push(cookie);
        }
    }

    fn group(&mut self, pid: Pid, host: &str) -> Option<&mut Group> {
        let key = (pid, host.into());
        if self.groups.len() >= MOST_GROUPS && !self.groups.contains_key(&key) {
            self.groups.retain(|_, group| group.in_flight > 0 || !group.cookies.is_empty());
            if self.groups.len() >= MOST_GROUPS {
                return None;
            }
        }
        Some(self.groups.entry(key).or_default())
    }

    /// What has passed on a socket by now. `has_readable` says whether its family of processes has ever used a probed function.
    pub fn passes(&mut self, cookie: u64, socket: &Socket, is_stopped: bool, has_readable: bool, now: u64) {
        let (slot, pid) = (Slot(socket.slot), socket.tgid);
        // One that has sent nothing that matters and of which nothing is known needs no place.
        let is_datagrams = socket.speaks == monitor_common::SPEAKS_QUIC;
        let Some(watched) = self.flow(cookie, slot, pid, is_datagrams, now) else { return };
        watched.flow.passes(socket, now);
        watched.flow.is_stopped |= is_stopped;
        self.judge(cookie, has_readable, now);
    }

    /// A TCP socket is closed.
    pub fn ends(&mut self, cookie: u64, now: u64) {
        let Some(watched) = self.flows.get_mut(&cookie) else { return };
        watched.flow.is_over = true;
        if watched.flow.via == Via::Http {
            self.judge(cookie, false, now);
        }
        self.spell(cookie, now);
        let Some(watched) = self.flows.remove(&cookie) else { return };
        let bytes = watched.flow.bytes();
        if let Some(host) = &watched.flow.host
            && let Some(group) = self.groups.get_mut(&(watched.pid, host.clone()))
        {
            group.cookies.retain(|of| *of != cookie);
            group.over = (group.over.0 + bytes.0, group.over.1 + bytes.1);
        }
    }

    /// Plaintext of a socket is read.
    pub fn is_read(&mut self, cookie: u64, now: u64) {
        // It may be told before anything has left.
        if let Some(watched) = self.flow(cookie, Slot(0), 0, false, now) {
            watched.flow.is_read = true;
        }
    }

    fn judge(&mut self, cookie: u64, has_readable: bool, now: u64) {
        let Some(watched) = self.flows.get_mut(&cookie) else { return };
        let is_new = watched.flow.judge(&self.settings, has_readable, now);
        let (sent, read) = watched.flow.application();
        let share = self.shares.entry(watched.slot).or_default();
        if watched.counted.0 == 0 && sent > 0 {
            share.connections += 1;
        }
        share.sent_bytes = share.sent_bytes.saturating_add(sent.saturating_sub(watched.counted.0));
        share.read_bytes = share.read_bytes.saturating_add(read.saturating_sub(watched.counted.1));
        watched.counted = (sent.max(watched.counted.0), read.max(watched.counted.1));
        if is_new {
            share.uncovered += 1;
            self.findings.push(Finding::Uncovered(Uncovered {
                cookie,
                slot: watched.slot,
                pid: watched.pid,
                via: watched.flow.via,
                host: watched.flow.host.clone(),
                socket: watched.flow.socket,
                is_stopped: watched.flow.is_stopped,
            }));
        }
        self.spell(cookie, now);
    }

    /// What an unread connection does costs, from its first byte until it is idle.
    fn spell(&mut self, cookie: u64, now: u64) {
        let Some(watched) = self.flows.get_mut(&cookie) else { return };
        let (flow, spell) = (&watched.flow, &mut watched.spell);
        if flow.verdict != Verdict::Uncovered || flow.is_stopped {
            return;
        }
        let bytes = flow.bytes();
        let (sent, received) = (bytes.0 - spell.before.0.min(bytes.0), bytes.1 - spell.before.1.min(bytes.1));
        if sent + received == 0 {
            return;
        }
        // What only comes, as tickets and the end of a connection do, asks for nothing.
        if !spell.is_open && sent == 0 {
            if flow.is_over {
                spell.before = bytes;
            }
            return;
        }
        spell.is_open = true;
        let host = flow.host.as_deref().unwrap_or_default();
        let cost = self.models.estimate(host, sent, received);
        let (slot, pid) = (watched.slot, watched.pid);
        if flow.is_over || now.saturating_sub(flow.changed) >= self.settings.idle {
            let host = flow.host.clone();
            *spell = Spell { before: bytes, ..Spell::default() };
            self.findings.push(Finding::Settled { cookie, slot, pid, host, sent, received, cost });
        } else if cost != spell.said {
            spell.said = cost;
            self.findings.push(Finding::Running { cookie, slot, pid, cost });
        }
    }

    /// Something that was estimated is charged.
    pub fn is_charged(&mut self, slot: Slot, cost: Money) {
        self.shares.entry(slot).or_default().estimated_usd += cost;
    }

    /// A call to a host was read; what it costs comes with [`Coverage::answered`].
    pub fn asked(&mut self, pid: Pid, authority: &str) {
        let Some(host) = without_port(authority) else { return };
        if let Some(group) = self.group(pid, &host) {
            group.in_flight += 1;
        }
    }

    /// A call that was [asked](Coverage::asked) is over.
    pub fn answered(&mut self, pid: Pid, authority: &str, cost: Option<Money>) {
        let Some(host) = without_port(authority) else { return };
        if let Some(group) = self.groups.get_mut(&(pid, host)) {
            group.in_flight = group.in_flight.saturating_sub(1);
            group.cost += cost.unwrap_or_default();
        }
    }

    /// Looks at some connections again: those that were looked at longest ago, and those that cost. `has_readable` says of a family what
    /// it says in [`Coverage::passes`].
    pub fn look_around(&mut self, look: Look<'_>, has_readable: &dyn Fn(u32) -> bool, now: u64) {
        for _ in 0..self.order.len().min(ROUND) {
            let Some(cookie) = self.order.pop_front() else { break };
            if !self.flows.contains_key(&cookie) {
                continue;
            }
            self.order.push_back(cookie);
            self.look_at(cookie, look, has_readable, now);
        }
        self.sample(look, has_readable, now);
    }

    fn look_at(&mut self, cookie: u64, look: Look<'_>, has_readable: &dyn Fn(u32) -> bool, now: u64) {
        let Some(watched) = self.flows.get_mut(&cookie) else { return };
        match look(cookie, watched.flow.is_datagrams) {
            Some(socket) => {
                if watched.pid == 0 {
                    (watched.slot, watched.pid) = (Slot(socket.slot), socket.tgid);
                }
                watched.flow.passes(&socket, now);
                self.judge(cookie, has_readable(socket.family), now);
            }
            // Its end was not told.
            None => self.ends(cookie, now),
        }
    }

    /// Calls that are over teach what a byte costs.
    fn sample(&mut self, look: Look<'_>, has_readable: &dyn Fn(u32) -> bool, now: u64) {
        let is_due = |group: &Group| group.in_flight == 0 && !group.cost.is_zero();
        let due: Vec<_> = self.groups.iter().filter(|(_, group)| is_due(group)).map(|(key, _)| key.clone()).collect();
        for key in due {
            let cookies = self.groups.get(&key).map(|group| group.cookies.clone()).unwrap_or_default();
            for &cookie in &cookies {
                self.look_at(cookie, look, has_readable, now);
            }
            let mut bytes = (0, 0);
            let mut is_clean = true;
            for watched in cookies.iter().filter_map(|cookie| self.flows.get(cookie)) {
                let of = watched.flow.bytes();
                bytes = (bytes.0 + of.0, bytes.1 + of.1);
                is_clean &= watched.flow.verdict == Verdict::Fine;
            }
            let Some(group) = self.groups.get_mut(&key) else { continue };
            let all = (group.over.0 + bytes.0, group.over.1 + bytes.1);
            let cost = std::mem::take(&mut group.cost);
            let sample = Sample {
                sent: all.0.saturating_sub(group.sampled.0),
                received: all.1.saturating_sub(group.sampled.1),
                cost,
            };
            group.sampled = all;
            if is_clean && sample.sent > 0 {
                self.models.add(&key.1, &sample);
            }
        }
    }

    /// A process is gone, or has replaced its program.
    pub fn forget_process(&mut self, pid: Pid, now: u64) {
        let is_of = |watched: &Watched| watched.pid == pid && watched.flow.is_datagrams;
        let gone: Vec<u64> =
            self.flows.iter().filter(|(_, watched)| is_of(watched)).map(|(cookie, _)| *cookie).collect();
        for cookie in gone {
            self.ends(cookie, now);
        }
    }

    /// A task is forgotten, and its slot may be used again.
    pub fn forget_task(&mut self, slot: Slot) {
        self.shares.remove(&slot);
        self.flows.retain(|_, watched| watched.slot != slot);
    }
}
