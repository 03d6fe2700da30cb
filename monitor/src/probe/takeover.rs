//! From the programs of one generation to those of the next, with nothing in between that passes unseen.
//!
//! Maps of the same size are the same maps, so that credits, memberships, connections and records go on as they are. What is of another size is copied.
//! The new programs are attached beside the old ones and stand by ([`Presence`]); then, for a moment, both are in force, and then the new ones alone.

use std::{thread, time::Duration};

use aya::{
    Pod,
    maps::{HashMap, Map, MapData, MapError, RingBuf},
};
use monitor_common::{Connection, ConnectionKey, FileKey, Process, Readable, Socket, Stop, Waiting};

use super::{
    load::MAPS,
    pins::{Pins, Place},
    presence::Presence,
};

/// How long both are in force: longer than any call of a program takes.
const BOTH: Duration = Duration::from_millis(2);
/// Flags of an update (`linux/bpf.h`).
const ANY: u64 = 0;
const NO_EXIST: u64 = 1;

/// A change that is being made.
pub struct Takeover {
    old: Place,
    new: Place,
    shared: Vec<String>,
}

impl Takeover {
    /// The generation that is in force, if there is another one than this.
    pub fn find(pins: &Pins, generation: u64) -> Option<Place> {
        let others: Vec<Place> = pins
            .places()
            .into_iter()
            .filter(|place| place.generation != generation && place.has_this_layout() && place.has(&MAPS, &[]))
            .collect();
        let in_force = others.iter().find_map(|place| {
            let map = open(place, "DAEMON").ok()?;
            Some(Presence::new(map.try_into().ok()?).ok()?.generation())
        });
        others.iter().find(|place| Some(place.generation) == in_force).or(others.first()).cloned()
    }

    pub fn new(old: Place, new: Place, shared: Vec<String>) -> Self {
        Self { old, new, shared }
    }

    /// Copies who belongs to which task.
    pub fn copy_members(&self) {
        self.copy::<u32, Process>("PROCESSES", ANY);
        self.copy::<u64, u32>("CGROUPS", ANY);
        self.copy::<u64, u32>("HELD_SOCKETS", ANY);
        self.copy::<u32, Stop>("STOPPED", ANY);
        self.copy::<u32, u64>("RELEASED", ANY);
        self.copy::<u64, Waiting>("WAITING_SOCKETS", ANY);
    }

    /// For the old programs, nobody has looked at any file.
    pub fn forget_files(&self) {
        let forgotten = open(&self.old, "FILES").and_then(|map| {
            let mut files: HashMap<MapData, FileKey, u32> = map.try_into()?;
            for key in files.keys().flatten().collect::<Vec<_>>() {
                // Absent is what is wanted.
                files.remove(&key).ok();
            }
            Ok(())
        });
        if let Err(error) = forgotten {
            tracing::warn!("files mapped during the change may not be looked at: {error}");
        }
    }

    /// The ring of the old programs, where it is another one.
    pub fn ring(&self) -> Option<RingBuf<MapData>> {
        if self.is_shared("RECORDS") {
            return None;
        }
        open(&self.old, "RECORDS")
            .and_then(RingBuf::try_from)
            .inspect_err(|error| tracing::warn!("what was not read yet is lost: {error}"))
            .ok()
    }

    /// Makes the change.
    pub fn change(self, presence: &Presence, generation: u64) {
        self.copy::<ConnectionKey, Connection>("CONNECTIONS", ANY);
        self.copy::<u64, Socket>("SOCKETS", ANY);
        self.copy::<u32, Readable>("READABLE", ANY);
        self.copy::<u32, u32>("FAMILIES", ANY);
        self.copy_new_members();
        presence.set_generation(0);
        thread::sleep(BOTH);
        self.copy_new_members();
        presence.set_generation(generation);
        tracing::info!("programs of generation {generation:016x} are in force after {:016x}", self.old.generation);
    }

    /// Those that came since.
    fn copy_new_members(&self) {
        self.copy::<u32, Process>("PROCESSES", NO_EXIST);
        self.copy::<u64, u32>("HELD_SOCKETS", NO_EXIST);
        self.copy::<u32, Stop>("STOPPED", NO_EXIST);
        self.copy::<u64, Waiting>("WAITING_SOCKETS", NO_EXIST);
    }

    fn is_shared(&self, name: &str) -> bool {
        self.shared.iter().any(|shared| shared == name)
    }

    fn copy<K: Pod, V: Pod>(&self, name: &str, flags: u64) {
        if self.is_shared(name) {
            return;
        }
        let copied = open(&self.old, name).and_then(|map| {
            let old: HashMap<MapData, K, V> = map.try_into()?;
            let mut new: HashMap<MapData, K, V> = open(&self.new, name)?.try_into()?;
            let missed = old
                .iter()
                .flatten()
                .filter(|(key, value)| new.insert(key, value, flags).is_err() && new.get(key, 0).is_err());
            Ok(missed.count())
        });
        match copied {
            Ok(0) => {}
            Ok(missed) => tracing::warn!("{missed} entries of {name} found no room in the new map"),
            Err(error) => tracing::warn!("{name} could not be copied: {error}"),
        }
    }
}

fn open(place: &Place, name: &str) -> Result<Map, MapError> {
    Map::from_map_data(MapData::from_pin(place.map(name))?)
}
