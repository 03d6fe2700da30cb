//! What the kernel knows of the sockets of tasks, whoever encrypts what passes.
#![forbid(unsafe_code)]

use std::{io, net::IpAddr};

use aya::maps::{Array, HashMap, MapData};
use monitor_common::{Destination, Readable, Socket, UNREADABLE_PASSES, UNREADABLE_STOPS};

use super::event::{Pid, Slot};

/// The maps of `coverage.rs` of the programs.
pub struct Traffic {
    pub(super) sockets: HashMap<MapData, u64, Socket>,
    pub(super) datagrams: HashMap<MapData, u64, Socket>,
    pub(super) readable: HashMap<MapData, u32, Readable>,
    pub(super) families: HashMap<MapData, Pid, u32>,
    pub(super) unreadable: Array<MapData, u32>,
    pub(super) denied: HashMap<MapData, Destination, u32>,
}

impl Traffic {
    /// What has passed on a TCP socket; `None` once it is closed.
    pub fn socket(&self, cookie: u64) -> Option<Socket> {
        self.sockets.get(&cookie, 0).ok()
    }

    /// What has passed on a UDP socket.
    pub fn datagrams(&self, cookie: u64) -> Option<Socket> {
        self.datagrams.get(&cookie, 0).ok()
    }

    /// Plaintext that a family of processes has handed to TLS functions.
    pub fn readable(&self, family: u32) -> Option<Readable> {
        self.readable.get(&family, 0).ok()
    }

    /// The family of a process: its own, unless it was forked and has executed nothing since.
    pub fn family(&self, pid: Pid) -> u32 {
        self.families.get(&pid, 0).unwrap_or(pid)
    }

    /// A process is gone, and its id may be used again.
    pub fn forget(&mut self, pid: Pid) {
        // Absent is what is wanted.
        self.families.remove(&pid).ok();
    }

    /// Nobody of the family is left.
    pub fn forget_family(&mut self, family: u32) {
        // As above.
        self.readable.remove(&family).ok();
    }

    /// From now on application data of the task that cannot be read is kept from leaving, or is not.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn stop_unreadable(&mut self, slot: Slot, stops: bool) -> io::Result<()> {
        let policy = if stops { UNREADABLE_STOPS } else { UNREADABLE_PASSES };
        self.unreadable.set(slot.0, policy, 0).map_err(io::Error::other)
    }

    /// The process of a task whose unreadable data is stopped connects there no more.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn deny(&mut self, pid: Pid, socket: &Socket) -> io::Result<()> {
        let to = Destination { tgid: pid, port: socket.port, address: socket.address };
        self.denied.insert(to, 1, 0).map_err(io::Error::other)
    }
}

/// Address and port of the other end, once a packet has left.
pub fn destination(socket: &Socket) -> Option<(IpAddr, u16)> {
    let mut bytes = [0_u8; 16];
    for (to, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(socket.address) {
        *to = word.to_ne_bytes();
    }
    let address = match socket.version {
        4 => IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]),
        6 => IpAddr::from(bytes),
        _ => return None,
    };
    Some((address, u16::from_be(u16::try_from(socket.port).ok()?)))
}
