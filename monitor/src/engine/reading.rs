//! What processes that stand still are about to send, while somebody reads it.
//!
//! The engine goes on with everything else meanwhile; the process waits. One that keeps its reader waiting is ended: it could be made to wait for ever.

use std::time::{Duration, Instant};

use super::{held::HeldRequest, state::Engine};
use crate::{
    alert::Kind,
    enforce::kill_process,
    probe::{ConnectionId, Copied, Read, Slot, Whole},
};

/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes that are being read.
pub struct Reading {
    slot: Slot,
    connection: ConnectionId,
    /// What came before them.
    before: Vec<u8>,
    since: Instant,
}

impl Engine {
    /// Has read what a process that stands still is about to send, after these bytes; returns under which number.
    pub fn read_held(&mut self, slot: Slot, connection: ConnectionId, whole: Whole, before: Vec<u8>) -> u64 {
        let id = self.new_id();
        // Accounts are never given out again.
        let task = self.tasks.get(&slot).map_or(0, |task| task.account.number());
        self.reading.insert(id, Reading { slot, connection, before, since: Instant::now() });
        self.readers.read(Read { id, task, pid: connection.pid, whole });
        id
    }

    /// It was read: the request can be decided.
    pub fn on_copied(&mut self, Copied { id, bytes }: Copied) {
        let Some(reading) = self.reading.remove(&id) else { return };
        let asked = self.asked_by(&[reading.before, bytes].concat(), reading.connection.transport);
        for request in self.read_by(reading.connection, id) {
            (request.asked, request.reading) = (asked.clone(), None);
        }
    }

    fn read_by(&mut self, connection: ConnectionId, id: u64) -> impl Iterator<Item = &mut HeldRequest> {
        let process = self.held.get_mut(&connection.pid);
        let requests = process.into_iter().flat_map(|process| &mut process.requests);
        requests.filter(move |request| request.reading == Some(id))
    }

    /// Ends who keeps a reader waiting.
    pub fn sweep_reading(&mut self) {
        let is_late = |reading: &Reading| reading.since.elapsed() > PATIENCE;
        let late: Vec<u64> = self.reading.iter().filter(|(_, reading)| is_late(reading)).map(|(id, _)| *id).collect();
        for id in late {
            self.readers.forget(id);
            let Some(Reading { slot, connection, .. }) = self.reading.remove(&id) else { continue };
            // It may have ended by itself, and its number may be that of another one.
            if self.read_by(connection, id).next().is_some() {
                let pid = connection.pid;
                kill_process(pid);
                let message = format!(
                    "process {pid}: its memory cannot be read within {PATIENCE:?} while it stands still: it is killed"
                );
                self.decide(slot, Kind::Reach, message);
            }
        }
    }
}
