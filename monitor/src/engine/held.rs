//! Processes that were stopped in the kernel: in front of a request for which there is no credit, or of code that nobody has looked at.
//!
//! A held process is stopped as a whole, in front of one request or, when several of its threads came to the gate at once, of several. It is
//! let go only when each of them may go, and everything that it has mapped was looked at. To know them all, it must first be seen stopped with all its threads, and then every record
//! that it wrote must have been read: only then can no further thread be on its way to the gate.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;

use super::{
    calls::estimate,
    clock::boot_nanoseconds,
    sockets::KeptBack,
    state::{Engine, TaskState},
};
use crate::{
    alert::Kind,
    budget::{AccountId, Action, Answer, Ask, Consent, HoldId, OnDaemonLoss, Reason, Wait},
    enforce::{Held, held_state},
    pipeline::{Asked, Pipeline, Step},
    price::Money,
    probe::{ConnectionId, Looked, Mapping, Pid, Request, Slot, Transport, Whole},
    task::AccountName,
    wire::{Direction, StreamOffset, is_secret},
};

/// How long a process that is being stopped is looked at again and again.
const STOPS_SOON: Duration = Duration::from_millis(20);

/// A process that waits at the gate.
pub struct HeldProcess {
    pub slot: Slot,
    pub requests: Vec<HeldRequest>,
    /// Its connections are being ended, so that it can be woken without sending anything.
    pub is_refused: bool,
    /// How many of its requests were there when they were refused. Others are decided on their own.
    pub refused: usize,
    /// What it has handed to sockets that may not send it yet.
    pub kept_back: Vec<KeptBack>,
    /// There was too much to keep back, so that it is being killed.
    pub overflows: bool,
    /// Code that it has mapped and that is being looked at.
    mappings: Vec<Mapping>,
    /// When it was seen with all threads stopped, by the boot clock; records from before that may still be in the ring.
    stopped: Option<u64>,
    since: Instant,
}

impl HeldProcess {
    /// The requests that were refused find their connections ended. Says whether nothing else is to be waited for: a thread that came to the gate since, or is on its
    /// way there, must first be seen standing still, and what it wants be decided. Woken before, it would go on, and nothing that it sends would ever leave.
    pub fn is_over_with_refused(&mut self) -> bool {
        self.requests.drain(..self.refused.min(self.requests.len()));
        (self.is_refused, self.refused) = (false, 0);
        self.stopped.is_some() && self.requests.is_empty() && self.mappings.is_empty()
    }
}

pub struct HeldRequest {
    pub connection: ConnectionId,
    /// Its descriptor, where that is a socket.
    pub fd: Option<i32>,
    /// What it asks for, as far as its first bytes tell.
    pub asked: Option<Asked>,
    /// Its bytes are being read, by this number.
    pub reading: Option<u64>,
    pub consent: Consent,
    /// Why it waits for a person's yes, once that was said.
    pub awaits: Option<Reason>,
    /// May go.
    pub allowed: Option<HoldId>,
    since: u64,
    /// It is the body of a request that has started.
    body_of: Option<Body>,
}

/// A body, with the hold of its request.
#[derive(Debug, Clone, Copy)]
struct Body {
    hold: HoldId,
    /// Else the request has one of its own, and this is only for the question.
    is_known: bool,
}

/// A hold must be something; it is as good as nothing.
pub const NEXT_TO_NOTHING: Money = Money::from_pico_usd(1);

/// Whether a write of this length is the head of an HTTP/1 request whose body comes in another one. The kernel judges likewise.
pub fn is_head_alone(bytes: &[u8], len: usize) -> bool {
    let has_body = [&b"POST "[..], b"PUT ", b"PATCH "].iter().any(|method| bytes.starts_with(method));
    // A body may end like a head: then the first empty line is somewhere else.
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
    has_body && bytes.len() == len && head == Some(len)
}

/// A head as it may be kept until its body comes: no field that carries a secret is among its lines.
pub fn without_secrets(head: &[u8]) -> Vec<u8> {
    let is_kept = |line: &&[u8]| {
        // A line that goes on from the one before is of no use to a price.
        let name = line.split(|&byte| byte == b':').next().unwrap_or_default();
        !name.starts_with(b" ")
            && !name.starts_with(b"\t")
            && !is_secret(&String::from_utf8_lossy(name).trim().to_ascii_lowercase())
    };
    head.split_inclusive(|&byte| byte == b'\n').filter(is_kept).collect::<Vec<_>>().concat()
}

impl Engine {
    pub fn on_held(&mut self, connection: ConnectionId, slot: Slot, starts: u16, head: &[u8], whole: Whole) {
        let mut reading = None;
        let asked = if is_head_alone(head, whole.len as usize) && self.looks(slot) {
            // What it costs is looked at in front of its body.
            Some(Asked { likely: Some(NEXT_TO_NOTHING), worst: Some(NEXT_TO_NOTHING), ..Asked::default() })
        } else if head.len() < whole.len as usize {
            reading = Some(self.read_held(slot, connection, whole, Vec::new()));
            None
        } else {
            self.asked_by(head, connection.transport)
        };
        let since = self.deciding;
        let requests = (0..starts).map(|_| HeldRequest {
            connection,
            fd: whole.fd,
            asked: asked.clone(),
            reading,
            consent: Consent::None,
            awaits: None,
            allowed: None,
            since,
            body_of: None,
        });
        self.held_process(connection.pid, slot).requests.extend(requests);
    }

    /// Wakes a process that was held. Of what it was stopped for since it was last seen standing still, nothing is let go.
    pub fn let_go(&mut self, pid: Pid, process: &HeldProcess) {
        self.wake(pid, process.stopped.unwrap_or_default());
    }

    /// Whether requests of the task are looked at in front of their bodies.
    pub fn looks(&self, slot: Slot) -> bool {
        self.tasks.get(&slot).is_some_and(|task| self.accounts.looks(task.account))
    }

    /// The body of a request that has started is about to leave.
    pub fn on_held_body(&mut self, id: ConnectionId, slot: Slot, whole: Whole) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        task.held_seen += 1;
        let (mut request, mut hold) = (Vec::new(), None);
        if let Some(connection) = self.connections.get_mut(&id) {
            request = std::mem::take(&mut connection.head);
            hold = connection.calls.values().filter(|call| !call.is_recorded).map(|call| call.hold).max();
        }
        let reading = Some(self.read_held(slot, id, whole, request));
        // It is asked for again, for what it really costs.
        let body_of = hold.filter(|&hold| self.accounts.withdraw(hold));
        let body_of = Body { hold: body_of.unwrap_or_else(|| HoldId(self.new_id())), is_known: body_of.is_some() };
        let since = self.deciding;
        let request = HeldRequest {
            connection: id,
            fd: whole.fd,
            asked: None,
            reading,
            consent: Consent::None,
            awaits: None,
            allowed: None,
            since,
            body_of: Some(body_of),
        };
        self.held_process(id.pid, slot).requests.push(request);
    }

    fn held_process(&mut self, pid: Pid, slot: Slot) -> &mut HeldProcess {
        let process = self.held.entry(pid).or_insert_with(|| HeldProcess {
            slot,
            requests: Vec::new(),
            is_refused: false,
            refused: 0,
            kept_back: Vec::new(),
            overflows: false,
            mappings: Vec::new(),
            stopped: None,
            since: Instant::now(),
        });
        // Where it was stopped before, this is of a thread that was on its way, or it was woken: it has to be seen standing still again.
        process.stopped = None;
        process
    }

    /// Somebody has mapped code that must be looked at. A process of a task waits for it.
    pub fn on_mapped(&mut self, pid: Pid, waits_in: Option<Slot>, mapping: Mapping) {
        if pid == std::process::id() {
            return;
        }
        let is_asked = self.probes.look_at(Request { pid, mapping });
        if let Some(slot) = waits_in {
            let process = self.held_process(pid, slot);
            if is_asked {
                process.mappings.push(mapping);
            }
        }
    }

    /// A file was looked at.
    pub fn on_looked(&mut self, looked: Looked) {
        match looked {
            Looked::Attached(attached) => self.probes.set_attached(attached),
            Looked::Done { request, said } => {
                if let Some(process) = self.held.get_mut(&request.pid)
                    && let Some(index) = process.mappings.iter().position(|mapping| *mapping == request.mapping)
                {
                    process.mappings.remove(index);
                }
                let slot = self.memberships.slot_of(request.pid);
                said.iter().for_each(|word| self.unread.note_file(word));
                for word in said.into_iter().filter(|_| slot.is_some()) {
                    self.alert(Kind::Unread, slot, format!("process {}: {word}", request.pid));
                }
            }
        }
    }

    /// What a request asks for by its first bytes, where they name the model.
    pub fn asked_by(&self, head: &[u8], transport: Transport) -> Option<Asked> {
        let mut asked = None;
        let mut pipeline = Pipeline::new(self.prices, transport.scheme()).with_tools(Arc::clone(&self.tools));
        let at = Timestamp::now();
        let mut take = |step: Step| {
            if let Step::Asked { call: Some(call), .. } = step {
                asked.get_or_insert(*call);
            }
        };
        pipeline.push(Direction::Request, StreamOffset(0), head, at, &mut take);
        asked
    }

    /// Looks at every held process once. Says whether one is between being stopped and being decided, so that the ring should be
    /// read again at once.
    pub fn answer_held(&mut self) -> bool {
        let mut is_urgent = false;
        let pids: Vec<Pid> = self.held.keys().copied().collect();
        for pid in pids {
            let Some(process) = self.held.get_mut(&pid) else { continue };
            if process.stopped.is_some() {
                self.answer(pid);
                continue;
            }
            match held_state(pid) {
                Held::Gone => self.forget_held(pid),
                // A thread that sleeps in the kernel stops when it wakes, which may be never: then the sweep looks again.
                Held::Stopping => is_urgent |= process.since.elapsed() < STOPS_SOON,
                Held::Stopped => {
                    process.stopped = Some(boot_nanoseconds());
                    is_urgent = true;
                }
            }
        }
        is_urgent
    }

    fn answer(&mut self, pid: Pid) {
        let Some(mut process) = self.held.remove(&pid) else { return };
        let slot = process.slot;
        if held_state(pid) == Held::Gone {
            self.release_held(&process);
            return self.drop_kept_back(process);
        }
        let stopped_before = |task: &super::state::Task| task.given.is_some() && task.state.is_over();
        if self.tasks.get(&slot).is_some_and(stopped_before) && process.requests.is_empty() && !process.is_refused {
            // It came into the cgroup of a task that was stopped, whose gate is shut: it may do everything but send.
            if process.mappings.is_empty() {
                self.let_go(pid, &process);
            } else {
                self.held.insert(pid, process);
            }
            return;
        }
        if !self.is_running(slot) || process.is_refused {
            // Its end, or that of its connections, is on the way, and it must not be woken before.
            self.held.insert(pid, process);
            return;
        }
        if process.requests.iter().any(|request| request.reading.is_some()) {
            // The answer wakes the engine.
            self.held.insert(pid, process);
            return;
        }
        let Some(account) = self.tasks.get(&slot).map(|task| task.account) else { return };
        for request in process.requests.iter_mut().filter(|request| request.allowed.is_none()) {
            let hold = request.body_of.map_or(HoldId(self.next_id + 1), |body| body.hold);
            self.next_id += u64::from(request.body_of.is_none());
            let call = request.asked.as_ref().map(estimate).unwrap_or_default();
            let ask = Ask { id: hold, account, pid, call, consent: request.consent };
            let mut answer = self.accounts.ask(&ask, Timestamp::now());
            if let Answer::Wait(Wait::Lent(lender)) = answer {
                // Who waits goes before who may come.
                self.call_in(lender);
                answer = self.accounts.ask(&ask, Timestamp::now());
            }
            match answer {
                Answer::Go => {
                    request.allowed = Some(hold);
                    if request.body_of.is_some_and(|body| !body.is_known) {
                        self.accounts.withdraw(hold);
                    }
                    if self.accounts.hold(hold) == Some(NEXT_TO_NOTHING)
                        && let Some(task) = self.tasks.get_mut(&slot)
                    {
                        task.heads.insert(hold);
                        self.gates.look_at_bodies(slot, true);
                    }
                    self.latencies.since("request held: allowed", request.since);
                }
                Answer::Wait(Wait::Approval(reason)) => {
                    if request.awaits.is_none() {
                        let message =
                            format!("a request of process {pid}: {reason}; `tollgate approve` or `tollgate deny`");
                        self.decide(slot, Kind::Approval, message);
                    }
                    request.awaits = Some(reason);
                }
                Answer::Wait(_) => {}
                Answer::Refuse(reason) => {
                    self.deciding = request.since;
                    self.held.insert(pid, process);
                    self.act_on_decisions();
                    // The ladder may have ended the task, or stopped it so that the request waits.
                    let standing = self.accounts.standing(account).map(|(_, action, _)| action);
                    if self.is_running(slot) && standing != Some(Action::Pause) {
                        self.refuse(pid, &reason);
                    }
                    return;
                }
            }
        }
        if !process.mappings.is_empty() || process.requests.iter().any(|request| request.allowed.is_none()) {
            self.held.insert(pid, process);
            return;
        }
        for request in &process.requests {
            if let Some(hold) = request.allowed.filter(|_| request.body_of.is_none()) {
                self.starts(request.connection, slot, hold);
                if request.connection == ConnectionId::unknown(pid) {
                    self.straddles(pid, slot, hold, None);
                }
            }
        }
        self.let_sockets_send(&process);
        if process.requests.iter().any(|request| request.connection == ConnectionId::unknown(pid)) {
            self.probes.release_sockets_of(slot, pid);
        }
        self.let_go(pid, &process);
        self.take_kept_back(process);
        self.touched.insert(slot);
    }

    /// The daemon ends: who waits goes on waiting for the next one, unless his task's policy is to go on.
    pub fn leave(&mut self) {
        self.probes.leave();
        let allows = |process: &HeldProcess| {
            let task = self.tasks.get(&process.slot).filter(|task| task.state == TaskState::Running);
            let settings = task.and_then(|task| self.settings.get(&task.account));
            !process.is_refused && settings.and_then(|settings| settings.on_daemon_loss) == Some(OnDaemonLoss::Allow)
        };
        let going: Vec<Pid> = self.held.iter().filter(|(_, process)| allows(process)).map(|(pid, _)| *pid).collect();
        for pid in going {
            let Some(process) = self.held.remove(&pid) else { continue };
            self.let_sockets_send(&process);
            self.probes.release_sockets_of(process.slot, pid);
            self.wake(pid, boot_nanoseconds());
        }
    }

    /// The process is gone, and its requests with it.
    pub fn forget_held(&mut self, pid: Pid) {
        if let Some(process) = self.held.remove(&pid) {
            self.release_held(&process);
            self.drop_kept_back(process);
        }
    }

    /// Takes back the credits that are lent on this account.
    fn call_in(&mut self, lender: AccountId) {
        for borrower in self.accounts.borrowers(lender) {
            let Some(AccountName::Task(task)) = self.by_account.get(&borrower) else { continue };
            if let Some(&slot) = self.slots.get(task) {
                self.take_back(slot, u64::MAX);
                self.touched.insert(slot);
            }
        }
    }

    /// How many requests of a task wait for a person's yes.
    pub fn awaiting(&self, slot: Slot) -> usize {
        let of = self.held.values().filter(|process| process.slot == slot);
        of.flat_map(|process| &process.requests).filter(|request| request.awaits.is_some()).count()
    }

    pub fn release_held(&mut self, process: &HeldProcess) {
        for hold in process.requests.iter().filter_map(|request| request.allowed) {
            self.accounts.release(hold);
        }
        self.touched.insert(process.slot);
    }

    pub fn held_of(&self, slot: Slot) -> Vec<Pid> {
        self.held.iter().filter(|(_, process)| process.slot == slot).map(|(pid, _)| *pid).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::{HeldProcess, HeldRequest, is_head_alone, without_secrets};
    use crate::{
        budget::Consent,
        probe::{ConnectionId, Slot},
    };

    fn request(of: u64) -> HeldRequest {
        HeldRequest {
            connection: ConnectionId { object: of, ..ConnectionId::unknown(7) },
            fd: None,
            asked: None,
            reading: None,
            consent: Consent::None,
            awaits: None,
            allowed: None,
            since: 0,
            body_of: None,
        }
    }

    #[test]
    fn who_came_to_the_gate_after_a_refusal_is_decided_on_his_own() {
        let process = |requests: &[u64], stopped| HeldProcess {
            slot: Slot(1),
            requests: requests.iter().map(|&of| request(of)).collect(),
            is_refused: true,
            refused: 2,
            kept_back: Vec::new(),
            overflows: false,
            mappings: Vec::new(),
            stopped,
            since: Instant::now(),
        };
        let mut alone = process(&[1, 2], Some(9));
        assert!(alone.is_over_with_refused() && alone.requests.is_empty());
        let mut moving = process(&[1, 2], None);
        assert!(!moving.is_over_with_refused(), "it was not seen standing still since the last record");
        assert!(!moving.is_refused, "so that it is looked at again");
        let mut another = process(&[1, 2, 3], Some(9));
        assert!(!another.is_over_with_refused());
        assert_eq!(another.requests.iter().map(|request| request.connection.object).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn a_head_with_its_body_is_not_alone() {
        let head = b"POST / HTTP/1.1\r\nContent-Length: 6\r\n\r\n";
        assert!(is_head_alone(head, head.len()));
        let whole = [&head[..], b"{}\r\n\r\n"].concat();
        assert!(!is_head_alone(&whole, whole.len()));
        assert!(!is_head_alone(&[&whole[..], head].concat(), whole.len() + head.len()));
        assert!(!is_head_alone(head, head.len() + 9), "more is to come in the same write");
    }

    #[test]
    fn a_kept_head_has_no_secrets() {
        let head = b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer\r\n abc\r\nX-API-Key : k\r\nCookie: c\r\nA: b\r\n\r\n";
        assert_eq!(without_secrets(head), b"POST /v1/messages HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n");
    }
}
