//! From captured bytes to charges.

use std::{sync::Arc, time::Instant};

use jiff::Timestamp;

use super::{
    held::{is_head_alone, without_secrets},
    state::{Call, Connection, Engine, Leaving, TaskState},
    trouble::Ended,
};
use crate::{
    alert::Kind,
    budget::{self, AccountId, Estimate, HoldId},
    ledger::Entry,
    meter::{Basis, Billing, ToolAsk},
    pipeline::{Asked, Charge, Pipeline, Step},
    price::Money,
    probe::{Admission, ConnectionId, Event, Slot, Transport, Whole},
    wire::{Direction, ExchangeId},
};

impl Engine {
    /// Takes an event from the ring.
    pub fn on_event(&mut self, event: &Event<'_>, time: u64) {
        self.deciding = time;
        let at = self.clock.at(time);
        match *event {
            Event::Data { connection, slot, direction, offset, bytes } => {
                if self.is_kept_back(event, time) {
                    return;
                }
                if direction == Direction::Request {
                    let head = match is_head_alone(bytes, bytes.len()) && self.looks(slot) {
                        true => without_secrets(bytes),
                        false => Vec::new(),
                    };
                    self.connection(connection, slot).head = head;
                }
                self.with_pipeline(connection, slot, at, |pipeline, out| {
                    pipeline.push(direction, offset, bytes, at, out);
                });
            }
            Event::RequestStart { connection, slot, admission, starts, head, whole } => {
                if connection.transport == Transport::Socket {
                    self.coverage.is_read(connection.object, time);
                }
                self.on_start(connection, slot, admission, starts, head, whole);
            }
            Event::Body { connection, slot, whole } => self.on_held_body(connection, slot, whole),
            Event::Closed { connection } => {
                if !self.is_kept_back(event, time) {
                    self.close(connection, at);
                }
            }
            Event::Forked { slot, parent, child } => self.on_forked(slot, parent, child, at),
            Event::Executed { slot, pid, path } => self.on_executed(slot, pid, path, at),
            Event::Mapped { pid, slot, mapping, waits } => self.on_mapped(pid, slot.filter(|_| waits), mapping),
            Event::CgroupMade { path } => self.on_cgroup_made(path),
            Event::CgroupMove { pid } => self.on_cgroup_move(pid),
            Event::Reached { slot, pid, reach, detail } => self.on_reached(slot, pid, reach, detail),
            Event::Hello { cookie, slot, pid, offset, bytes, is_quic } => {
                self.coverage.begins(cookie, slot, pid, offset, bytes, is_quic, time);
            }
            Event::Traffic { cookie, ref socket, is_over, is_stopped } => {
                self.on_traffic(cookie, socket, is_over, is_stopped, time);
            }
            Event::Exited { slot, pid } => self.leaving.push(Leaving { pid, slot, since: Instant::now() }),
        }
    }

    fn on_start(&mut self, id: ConnectionId, slot: Slot, admission: Admission, starts: u16, head: &[u8], whole: Whole) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        self.touched.insert(slot);
        match admission {
            Admission::Held => {
                task.held_seen += 1;
                return self.on_held(id, slot, starts, head, whole);
            }
            Admission::Credited => task.taken_seen += u64::from(starts),
            // Nobody was there to ask, and its policy is to go on.
            Admission::Unattended => {}
            Admission::Escaped => {
                self.alert(
                    Kind::Lost,
                    Some(slot),
                    format!("a request of process {} could not be stopped at the gate", id.pid),
                );
            }
        }
        self.note(slot);
        // They are on their way: a hold is opened for each.
        let Some(account) = self.tasks.get(&slot).map(|task| task.account) else { return };
        for _ in 0..starts {
            self.admit(id, slot, account, admission);
        }
    }

    fn admit(&mut self, id: ConnectionId, slot: Slot, account: AccountId, admission: Admission) {
        let hold = HoldId(self.new_id());
        match admission {
            Admission::Credited => self.accounts.credit_taken(hold, account, id.pid),
            _ => self.accounts.admit(hold, account, id.pid),
        }
        self.starts(id, slot, hold);
    }

    /// A request with this hold is on its way; its bytes come when it has been written.
    pub fn starts(&mut self, id: ConnectionId, slot: Slot, hold: HoldId) {
        let connection = self.connection(id, slot);
        connection.starts.push_back(hold);
        connection.pipeline.announce();
    }

    pub fn connection(&mut self, id: ConnectionId, slot: Slot) -> &mut Connection {
        let (prices, tools, key) = (self.prices, &self.tools, self.watcher.key);
        self.connections.entry(id).or_insert_with(|| Connection {
            slot,
            pipeline: Pipeline::new(prices, id.transport.scheme()).with_tools(Arc::clone(tools)).with_fingerprints(key),
            starts: Default::default(),
            head: Vec::new(),
            calls: Default::default(),
        })
    }

    /// Lets a connection's pipeline work, and then deals with what came out of it.
    fn with_pipeline(
        &mut self,
        id: ConnectionId,
        slot: Slot,
        at: Timestamp,
        work: impl FnOnce(&mut Pipeline, &mut dyn FnMut(Step)),
    ) {
        if !self.tasks.contains_key(&slot) {
            return;
        }
        let mut steps = Vec::new();
        work(&mut self.connection(id, slot).pipeline, &mut |step| steps.push(step));
        for step in steps {
            self.on_step(id, slot, step, at);
        }
    }

    /// The connection is over: what was in flight on it is settled as far as it came.
    pub fn close(&mut self, id: ConnectionId, at: Timestamp) {
        let Some(slot) = self.connections.get(&id).map(|connection| connection.slot) else { return };
        self.with_pipeline(id, slot, at, |pipeline, out| pipeline.close(at, out));
        let Some(connection) = self.connections.remove(&id) else { return };
        // Requests that were let through and never sent, and, against a fault of ours, everything else: no hold outlives its connection.
        for hold in connection.starts {
            self.accounts.release(hold);
        }
        for call in connection.calls.into_values() {
            self.accounts.release(call.hold);
            if let Some(host) = &call.host {
                self.coverage.answered(id.pid, host, None);
            }
        }
        self.touched.insert(slot);
    }

    fn on_step(&mut self, id: ConnectionId, slot: Slot, step: Step, at: Timestamp) {
        match step {
            Step::Started { exchange } => self.on_exchange(id, slot, exchange, at),
            Step::Asked { exchange, call } => {
                if let Some(asked) = call {
                    self.on_asked(id, slot, exchange, &asked);
                }
                self.touched.insert(slot);
            }
            Step::Running { exchange, cost } => self.on_running(id, slot, exchange, cost),
            Step::Finished { exchange, charge, is_complete, asks } => {
                self.on_finished(id, slot, exchange, (charge, asks), is_complete, at);
            }
            Step::Passed => {
                let taken = self.connections.get_mut(&id).and_then(|connection| connection.starts.pop_front());
                if let Some(hold) = taken {
                    self.accounts.release(hold);
                    self.touched.insert(slot);
                }
            }
            Step::Unreadable(why) => {
                if let Some(task) = self.tasks.get_mut(&slot) {
                    task.unread += 1;
                    let executable = task.tree.executable(id.pid).unwrap_or("?").to_owned();
                    self.decide(
                        slot,
                        Kind::Unread,
                        format!("process {} ({executable}): {why}; what it costs is not known", id.pid),
                    );
                }
            }
        }
    }

    /// More of an answer has come. Before it is said that nobody can pay for that, it is counted properly.
    fn on_running(&mut self, id: ConnectionId, slot: Slot, exchange: ExchangeId, rough: Money) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let Some(call) = connection.calls.get_mut(&exchange) else { return };
        let mut cost = call.scaled(rough);
        if !self.accounts.can_be_raised(call.hold, cost)
            && let Some(counted) = connection.pipeline.counted_cost(exchange)
        {
            (call.scale, cost) = (Some((counted, rough)), counted);
        }
        self.accounts.raise(call.hold, cost);
        self.touched.insert(slot);
        self.act_on_decisions();
    }

    fn on_exchange(&mut self, id: ConnectionId, slot: Slot, exchange: ExchangeId, at: Timestamp) {
        let mut first = |id| self.connections.get_mut(&id).and_then(|connection| connection.starts.pop_front());
        let waiting = first(id).or_else(|| first(ConnectionId::unknown(id.pid)));
        // A request without a start record: it shares a write with another one, or its record was lost.
        let hold = waiting.unwrap_or_else(|| HoldId(self.new_id()));
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        task.exchanges += 1;
        if waiting.is_none() {
            if self.gates.taken(slot) > task.taken_seen && self.probes.counters().dropped_records > 0 {
                task.taken_seen += 1;
                self.accounts.credit_taken(hold, task.account, id.pid);
            } else {
                self.accounts.admit(hold, task.account, id.pid);
            }
        }
        if let Some(connection) = self.connections.get_mut(&id) {
            connection
                .calls
                .insert(exchange, Call { hold, started: at, port: None, host: None, scale: None, is_recorded: false });
        }
    }

    fn on_asked(&mut self, id: ConnectionId, slot: Slot, exchange: ExchangeId, asked: &Asked) {
        let Some(call) = self.connections.get_mut(&id).and_then(|connection| connection.calls.get_mut(&exchange))
        else {
            return;
        };
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        (call.is_recorded, call.port) = (true, asked.port);
        if let Some(host) = asked.host.as_ref().filter(|_| id.transport != Transport::Socket && call.host.is_none()) {
            call.host = Some(host.clone());
            self.coverage.asked(id.pid, host);
        }
        let (hold, started) = (call.hold, call.started);
        self.accounts.size(hold, &estimate(asked), Timestamp::now());
        let entry = Entry::CallStarted {
            id: hold.0,
            task: task.id.clone(),
            pid: id.pid,
            model: asked.model.clone(),
            hold: self.accounts.hold(hold).unwrap_or_default(),
            at: started,
        };
        self.ledger.put(entry);
        match &asked.tool {
            Some(tool) => self.accounts.tool_called(task.account, tool, started),
            None => self.agent_called(slot, id.pid, started),
        }
        if let Some(prompt) = &asked.prompt {
            self.watch_prompt(slot, prompt, started);
        }
        self.act_on_decisions();
    }

    fn on_finished(
        &mut self,
        id: ConnectionId,
        slot: Slot,
        exchange: ExchangeId,
        (charge, asks): (Box<Charge>, Vec<ToolAsk>),
        is_complete: bool,
        at: Timestamp,
    ) {
        let Some(call) = self.connections.get_mut(&id).and_then(|connection| connection.calls.remove(&exchange)) else {
            return;
        };
        if charge.is_tool() && !call.is_recorded {
            self.tool_called(slot, &charge, at);
        }
        if let Some(host) = &call.host {
            self.coverage.answered(id.pid, host, charge.cost.filter(|_| is_complete));
        }
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        self.touched.insert(slot);
        let is_due = match charge.metered.billing {
            Billing::Charge => {
                if let Some(response_id) = &charge.metered.response_id {
                    task.first_charge(response_id);
                }
                true
            }
            // An answer that is looked at again was charged when it was made, unless that was not seen.
            Billing::Once => {
                charge.metered.response_id.as_deref().is_some_and(|response_id| task.first_charge(response_id))
            }
            Billing::Unknown => true,
            Billing::Free | Billing::Pending => false,
        };
        if !is_due && !call.is_recorded {
            self.accounts.release(call.hold);
            return;
        }
        if !call.is_recorded {
            let hold = self.accounts.hold(call.hold).unwrap_or_default();
            let model = charge.metered.model_requested.clone();
            let entry = Entry::CallStarted {
                id: call.hold.0,
                task: task.id.clone(),
                pid: id.pid,
                model,
                hold,
                at: call.started,
            };
            self.ledger.put(entry);
        }
        self.settle(slot, call.hold, is_due, &charge, is_complete, at);
        if is_due {
            self.tools_asked(slot, &asks, at);
            self.watch_call(slot, Ended { id: call.hold.0, pid: id.pid, charge: &charge, at }, &asks);
        }
        self.ledger.put(Entry::Charged { call: call.hold.0, charge, at });
        self.act_on_decisions();
    }

    /// Puts the cost on the account, or says that there is none to put.
    fn settle(&mut self, slot: Slot, hold: HoldId, is_due: bool, charge: &Charge, is_complete: bool, at: Timestamp) {
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        task.calls += u64::from(is_due);
        if !is_due {
            self.accounts.release(hold);
            return;
        }
        self.count_charge(slot, charge);
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        let used = charge.usage();
        let counts = charge.counts();
        if let Some((cost, unpriced)) = counts {
            let tokens = used.input_total().saturating_add(used.output_total());
            let is_typical = is_complete || matches!(charge.metered.basis, Basis::Measured | Basis::Provider);
            // Whoever asks for a call names the model as this one did.
            let model = charge.metered.model_requested.as_deref().or(charge.metered.model());
            let is_tool = charge.is_tool();
            let charge = budget::Charge { cost, unpriced, model, tokens, is_typical, is_tool, at };
            if !self.accounts.settle(hold, &charge) {
                self.accounts.charge(task.account, &charge);
            }
        } else {
            self.accounts.release(hold);
        }
        self.note(slot);
        let Some(task) = self.tasks.get_mut(&slot) else { return };
        if charge.cost.is_some() {
            return;
        }
        let note = charge.note.as_deref().unwrap_or("no price");
        if charge.metered.billing == Billing::Unknown {
            task.unread += 1;
        } else {
            task.unpriced += 1;
        }
        let model = charge.metered.model().unwrap_or("an unnamed model").to_owned();
        let is_new = task.said_unpriced.insert(model.clone());
        if is_new {
            let counted = match counts {
                Some((ceiling, _)) => format!("as ${ceiling} toward the cap, by `price.unpriced_ceiling`"),
                None => "nothing toward the cap".into(),
            };
            let message = format!(
                "a call to {model} has no price ({note}): {} tokens in, {} out count {counted}",
                used.input_total(),
                used.output_total()
            );
            self.decide(slot, Kind::Unpriced, message);
        }
    }

    /// Whether the task may still do anything.
    pub fn is_running(&self, slot: Slot) -> bool {
        self.tasks.get(&slot).is_some_and(|task| task.state == TaskState::Running)
    }
}

/// What a request tells of its cost.
pub fn estimate(asked: &Asked) -> Estimate<'_> {
    Estimate {
        model: asked.model.as_deref(),
        tool: asked.tool.as_deref(),
        least: asked.least,
        likely: asked.likely,
        worst: asked.worst,
    }
}
