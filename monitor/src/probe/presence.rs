//! What the daemon and the programs tell each other without a record: that a daemon is there, which programs are in force, what it has mapped.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd as _,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use aya::maps::{Array, IterableMap as _, MapData};
use monitor_common::{Daemon, FileKey};
use nix::{
    sys::mman::{MapFlags, ProtFlags, mmap, munmap},
    time::{ClockId, clock_gettime},
};

/// The element that is shared with the programs.
pub struct Presence {
    /// Keeps the map alive.
    _array: Array<MapData, Daemon>,
    memory: NonNull<Daemon>,
}

// SAFETY: the memory is shared with the kernel anyway and only reached through atomics, but for `mapped`, which only the thread reads that asked.
unsafe impl Send for Presence {}
// SAFETY: as above.
unsafe impl Sync for Presence {}

/// The mapping is of a whole page.
const BYTES: NonZeroUsize = NonZeroUsize::new(size_of::<Daemon>()).unwrap();

impl Presence {
    pub fn new(array: Array<MapData, Daemon>) -> io::Result<Self> {
        let fd = array.map().fd().as_fd();
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the array was made mappable and has an element.
        let memory =
            unsafe { mmap(None, BYTES, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { _array: array, memory: memory.cast() })
    }

    fn word(&self, field: *mut u64) -> &AtomicU64 {
        // SAFETY: of the mapping, aligned, there as long as `self` is, and only ever used atomically on this side.
        unsafe { AtomicU64::from_ptr(field) }
    }

    fn half(&self, field: *mut u32) -> &AtomicU32 {
        // SAFETY: as in `word`.
        unsafe { AtomicU32::from_ptr(field) }
    }

    fn generation_cell(&self) -> &AtomicU64 {
        // SAFETY: points into the mapping; projecting to a field does not read it.
        self.word(unsafe { &raw mut (*self.memory.as_ptr()).generation })
    }

    fn heartbeat_cell(&self) -> &AtomicU64 {
        // SAFETY: as above.
        self.word(unsafe { &raw mut (*self.memory.as_ptr()).heartbeat })
    }

    fn losses_cell(&self) -> &AtomicU64 {
        // SAFETY: as above.
        self.word(unsafe { &raw mut (*self.memory.as_ptr()).losses_said })
    }

    fn tgid_cell(&self) -> &AtomicU32 {
        // SAFETY: as above.
        self.half(unsafe { &raw mut (*self.memory.as_ptr()).tgid })
    }

    fn tid_cell(&self) -> &AtomicU32 {
        // SAFETY: as above.
        self.half(unsafe { &raw mut (*self.memory.as_ptr()).tid })
    }

    /// The programs that are in force; 0: all.
    pub fn generation(&self) -> u64 {
        self.generation_cell().load(Ordering::SeqCst)
    }

    pub fn set_generation(&self, generation: u64) {
        self.generation_cell().store(generation, Ordering::SeqCst);
    }

    /// This process is the daemon.
    pub fn arrive(&self) {
        self.tgid_cell().store(std::process::id(), Ordering::SeqCst);
    }

    /// It still is, and it works.
    pub fn beat(&self) {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
        let now = now.ok().and_then(|now| u64::try_from(now.as_nanos()).ok());
        self.heartbeat_cell().store(now.unwrap_or(1), Ordering::SeqCst);
    }

    /// From now on nobody is there.
    pub fn leave(&self) {
        self.heartbeat_cell().store(0, Ordering::SeqCst);
        self.tgid_cell().store(0, Ordering::SeqCst);
    }

    pub fn losses_said(&self) -> u64 {
        self.losses_cell().load(Ordering::SeqCst)
    }

    pub fn say_losses(&self, losses: u64) {
        self.losses_cell().store(losses, Ordering::SeqCst);
    }

    /// The file of which this thread maps code in `map`. `None` if it mapped none, or the kernel could not tell.
    pub fn file_mapped_by(&self, map: impl FnOnce()) -> Option<FileKey> {
        // SAFETY: points into the mapping; only this thread asks, and the programs write it during its own system calls.
        let mapped = unsafe { &raw mut (*self.memory.as_ptr()).mapped };
        // SAFETY: as above.
        unsafe { mapped.write_volatile(FileKey::default()) };
        self.tid_cell().store(nix::unistd::gettid().as_raw().unsigned_abs(), Ordering::SeqCst);
        map();
        self.tid_cell().store(0, Ordering::SeqCst);
        // SAFETY: as above.
        Some(unsafe { mapped.read_volatile() }).filter(|key| *key != FileKey::default())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and not used after.
        if let Err(error) = unsafe { munmap(self.memory.cast(), BYTES.get()) } {
            tracing::warn!("could not unmap what is shared with the programs: {error}");
        }
    }
}
