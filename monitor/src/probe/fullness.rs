//! How full the kernel's maps are. Asked for now and then, by whoever wants to know, and on nobody's way to a decision.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    ptr,
};

use aya::maps::Map;
use serde::{Deserialize, Serialize};

/// A map with room for so many entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fullness {
    pub map: String,
    pub entries: u64,
    pub capacity: u32,
    /// The least recently used entries give way when it is full; else nothing more is taken in, and that is counted.
    pub gives_way: bool,
}

/// The maps of the programs that come and go with what they hold.
pub struct Maps(Vec<Hash>);

struct Hash {
    name: String,
    gives_way: bool,
    fd: OwnedFd,
    key: usize,
    value: usize,
    capacity: u32,
}

/// Entries that are asked for at once.
const BATCH: u32 = 4096;
/// `BPF_MAP_LOOKUP_BATCH` (`linux/bpf.h`).
const LOOKUP_BATCH: libc::c_int = 24;

/// The members of `union bpf_attr` that the command takes.
#[repr(C)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    fd: u32,
    element_flags: u64,
    flags: u64,
}

impl Maps {
    /// Those of these that are tables.
    ///
    /// # Errors
    /// When no further descriptor can be had.
    pub fn of<'a>(maps: impl Iterator<Item = (&'a str, &'a Map)>) -> io::Result<Self> {
        let mut hashes = Vec::new();
        for (name, map) in maps {
            let (data, gives_way) = match map {
                Map::HashMap(data) => (data, false),
                Map::LruHashMap(data) => (data, true),
                // Arrays are always full, rings always empty.
                _ => continue,
            };
            let info = data.info().map_err(io::Error::other)?;
            hashes.push(Hash {
                name: name.to_owned(),
                gives_way,
                fd: data.fd().as_fd().try_clone_to_owned()?,
                key: info.key_size() as usize,
                value: info.value_size() as usize,
                capacity: info.max_entries(),
            });
        }
        hashes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self(hashes))
    }

    /// Counts the entries of each. While programs run, a count may be some entries out of date.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn fullness(&self) -> io::Result<Vec<Fullness>> {
        let count = |hash: &Hash| {
            let entries = hash.entries()?;
            Ok(Fullness { map: hash.name.clone(), entries, capacity: hash.capacity, gives_way: hash.gives_way })
        };
        self.0.iter().map(count).collect()
    }
}

impl Hash {
    fn entries(&self) -> io::Result<u64> {
        let mut entries = 0;
        let (mut from, mut to) = (vec![0_u8; self.key.max(8)], vec![0_u8; self.key.max(8)]);
        let mut is_first = true;
        let mut size = BATCH;
        loop {
            let (mut keys, mut values) = (vec![0_u8; size as usize * self.key], vec![0_u8; size as usize * self.value]);
            let mut batch = Batch {
                from: if is_first { 0 } else { from.as_mut_ptr() as u64 },
                to: to.as_mut_ptr() as u64,
                keys: keys.as_mut_ptr() as u64,
                values: values.as_mut_ptr() as u64,
                count: size,
                fd: u32::try_from(self.fd.as_raw_fd()).map_err(io::Error::other)?,
                element_flags: 0,
                flags: 0,
            };
            // SAFETY: the attributes are those of this command, of which the kernel takes as many bytes as are told; its buffers have room for `count`
            // keys and values, and for a position, and outlive the call.
            let status =
                unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_BATCH, ptr::from_mut(&mut batch), size_of::<Batch>()) };
            let error = io::Error::last_os_error();
            match (status, error.raw_os_error()) {
                (0, _) => entries += u64::from(batch.count),
                // The last ones.
                (_, Some(libc::ENOENT)) => return Ok(entries + u64::from(batch.count)),
                // A bucket has more entries than there is room for.
                (_, Some(libc::ENOSPC)) => {
                    size = size.saturating_mul(2);
                    continue;
                }
                _ => return Err(error),
            }
            std::mem::swap(&mut from, &mut to);
            is_first = false;
        }
    }
}
