//! Requests that wait in sockets.
//!
//! A process that sends plaintext is stopped only after its system call: what it has sent lies in the socket, which may not send it yet, and its
//! records come before it is decided whether the request may go. They are kept back until then. So are those of TLS records, which are copied before they are
//! encrypted.

use std::{collections::HashSet, thread};

use super::{held::HeldProcess, state::Engine};
use crate::{
    alert::Kind,
    enforce::{end_sockets, kill_process, send_again},
    probe::{ConnectionId, Event, Pid, Slot, Transport},
    wire::{Direction, StreamOffset},
};

/// Records of a process that are kept back, where pieces of one stream that follow each other count as one, and their bytes. One that stands still has less in
/// its sockets.
const MOST_KEPT_BACK: usize = 1024;
const MOST_BYTES: usize = 64 << 20;

/// An event that waits for a decision.
pub struct KeptBack {
    connection: ConnectionId,
    time: u64,
    what: What,
}

enum What {
    Data { slot: Slot, direction: Direction, offset: StreamOffset, bytes: Vec<u8> },
    Closed,
}

impl KeptBack {
    fn new(connection: ConnectionId, time: u64, event: &Event<'_>) -> Self {
        let what = match *event {
            Event::Data { slot, direction, offset, bytes, .. } => {
                What::Data { slot, direction, offset, bytes: bytes.into() }
            }
            _ => What::Closed,
        };
        Self { connection, time, what }
    }

    /// Takes what follows on it in the same stream.
    fn append(&mut self, event: &Event<'_>) -> bool {
        let (
            Event::Data { slot, direction, offset, bytes, .. },
            What::Data { slot: own, direction: to, offset: at, bytes: kept },
        ) = (event, &mut self.what)
        else {
            return false;
        };
        let follows = (*own, *to) == (*slot, *direction)
            && u64::try_from(kept.len()).is_ok_and(|len| at.0.checked_add(len) == Some(offset.0));
        if follows {
            kept.extend_from_slice(bytes);
        }
        follows
    }

    fn len(&self) -> usize {
        match &self.what {
            What::Data { bytes, .. } => bytes.len(),
            What::Closed => 0,
        }
    }

    fn event(&self) -> Event<'_> {
        let connection = self.connection;
        match &self.what {
            What::Data { slot, direction, offset, bytes } => {
                Event::Data { connection, slot: *slot, direction: *direction, offset: *offset, bytes }
            }
            What::Closed => Event::Closed { connection },
        }
    }
}

impl Engine {
    /// Keeps an event back if a request waits on its connection.
    pub fn is_kept_back(&mut self, event: &Event<'_>, time: u64) -> bool {
        let (Event::Data { connection, .. } | Event::Closed { connection }) = *event else { return false };
        let is_sent = matches!(event, Event::Data { direction: Direction::Request, .. });
        // What is sent through TLS although the request waits was sent by a process that somebody else woke. It has not left either.
        if connection.transport == Transport::Tls && !is_sent {
            return false;
        }
        let Some(process) = self.held.get_mut(&connection.pid) else { return false };
        if !process.requests.iter().any(|request| request.connection == connection) {
            return false;
        }
        if process.overflows {
            // It is being killed. Nothing of this leaves.
            return true;
        }
        // A call may have a thousand pieces.
        let last = process.kept_back.iter_mut().rev().find(|kept| kept.connection == connection);
        if last.is_none_or(|last| !last.append(event)) {
            process.kept_back.push(KeptBack::new(connection, time, event));
        }
        let bytes: usize = process.kept_back.iter().map(KeptBack::len).sum();
        if process.kept_back.len() > MOST_KEPT_BACK || bytes > MOST_BYTES {
            process.overflows = true;
            self.kill_for_too_much(connection.pid);
        }
        true
    }

    fn kill_for_too_much(&mut self, pid: Pid) {
        let slot = self.held.get(&pid).map(|process| process.slot);
        kill_process(pid);
        if let Some(slot) = slot {
            let message = format!("process {pid} sends more than can be kept while it stands still: it is killed");
            self.decide(slot, Kind::Reach, message);
        }
    }

    /// Every request of the process may go.
    pub fn let_sockets_send(&mut self, process: &HeldProcess) {
        for request in &process.requests {
            if let Some(fd) = request.fd {
                self.probes.release_socket(request.connection.object);
                let pid: Pid = request.connection.pid;
                if let Err(error) = send_again(pid, fd) {
                    tracing::debug!("descriptor {fd} of process {pid} sends when TCP tries again: {error}");
                }
            }
        }
    }

    /// None of it will leave; connections may have ended meanwhile.
    pub fn drop_kept_back(&mut self, process: HeldProcess) {
        for kept in process.kept_back {
            if matches!(kept.what, What::Closed) {
                self.on_event(&kept.event(), kept.time);
            }
        }
    }

    /// Processes of a task are gone that were stopped after they had handed requests to sockets: these would go on trying to send them.
    pub fn end_held_sockets(&self, slot: Slot) {
        let cookies: HashSet<u64> = self.probes.held_sockets(slot).into_iter().collect();
        if cookies.is_empty() {
            return;
        }
        let work = move || match end_sockets(&cookies) {
            Ok(ended) => tracing::debug!("{ended} sockets ended that were kept from sending"),
            Err(error) => {
                tracing::warn!("{error}; as long as the daemon runs, what waits in these sockets does not leave");
            }
        };
        if let Err(error) = thread::Builder::new().name("end-sockets".into()).spawn(work) {
            tracing::warn!("cannot start a thread: {error}");
        }
    }

    /// The records that waited with them.
    pub fn take_kept_back(&mut self, process: HeldProcess) {
        for kept in process.kept_back {
            self.on_event(&kept.event(), kept.time);
        }
    }
}
