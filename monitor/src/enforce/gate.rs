//! The user-space side of the gates: the kernel's array, mapped into this process.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::{AsFd as _, BorrowedFd},
    ptr::NonNull,
    sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering},
};

use aya::maps::{Array, IterableMap as _, MapData};
use monitor_common::{GATE_CUT, GATE_OPEN, GATE_SHUT, Gate, MAX_TASKS};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use crate::probe::Slot;

#[derive(Debug, thiserror::Error)]
pub enum GatesError {
    #[error("cannot map the gates into memory: {0}")]
    Map(io::Error),
}

/// All gates. Lending a credit is one atomic instruction here, and no system call.
pub struct Gates {
    /// Keeps the map alive.
    _array: Array<MapData, Gate>,
    memory: NonNull<Gate>,
}

// SAFETY: the memory is shared with the kernel anyway and only reached through atomics.
unsafe impl Send for Gates {}

const BYTES: usize = size_of::<Gate>() * MAX_TASKS as usize;

impl Gates {
    /// # Errors
    /// When the kernel refuses the mapping.
    pub fn new(array: Array<MapData, Gate>) -> Result<Self, GatesError> {
        let memory = map(array.map().fd().as_fd()).map_err(GatesError::Map)?;
        Ok(Self { _array: array, memory })
    }

    fn gate(&self, slot: Slot) -> NonNull<Gate> {
        let index = if slot.0 < MAX_TASKS { slot.0 as usize } else { 0 };
        // SAFETY: the index is below the number of elements that were mapped.
        unsafe { self.memory.add(index) }
    }

    fn credits_cell(&self, slot: Slot) -> &AtomicI64 {
        // SAFETY: points into the mapping; projecting to a field does not read it.
        let cell = unsafe { &raw mut (*self.gate(slot).as_ptr()).credits };
        // SAFETY: aligned, mapped for as long as `self` lives, and only ever used atomically on both sides.
        unsafe { AtomicI64::from_ptr(cell) }
    }

    fn state_cell(&self, slot: Slot) -> &AtomicU32 {
        // SAFETY: as in `credits_cell`.
        let cell = unsafe { &raw mut (*self.gate(slot).as_ptr()).state };
        // SAFETY: as in `credits_cell`.
        unsafe { AtomicU32::from_ptr(cell) }
    }

    fn taken_cell(&self, slot: Slot) -> &AtomicU64 {
        // SAFETY: as in `credits_cell`.
        let cell = unsafe { &raw mut (*self.gate(slot).as_ptr()).taken };
        // SAFETY: as in `credits_cell`.
        unsafe { AtomicU64::from_ptr(cell) }
    }

    fn held_cell(&self, slot: Slot) -> &AtomicU64 {
        // SAFETY: as in `credits_cell`.
        let cell = unsafe { &raw mut (*self.gate(slot).as_ptr()).held };
        // SAFETY: as in `credits_cell`.
        unsafe { AtomicU64::from_ptr(cell) }
    }

    fn looks_cell(&self, slot: Slot) -> &AtomicU32 {
        // SAFETY: as in `credits_cell`.
        let cell = unsafe { &raw mut (*self.gate(slot).as_ptr()).looks };
        // SAFETY: as in `credits_cell`.
        unsafe { AtomicU32::from_ptr(cell) }
    }

    /// Whether requests are to be stopped in front of their bodies as well.
    pub fn look_at_bodies(&self, slot: Slot, looks: bool) {
        self.looks_cell(slot).store(u32::from(looks), Ordering::SeqCst);
    }

    /// Makes a gate ready for a new task: open, and without credits.
    pub fn reset(&self, slot: Slot) {
        self.credits_cell(slot).store(0, Ordering::SeqCst);
        self.taken_cell(slot).store(0, Ordering::SeqCst);
        self.held_cell(slot).store(0, Ordering::SeqCst);
        self.looks_cell(slot).store(0, Ordering::SeqCst);
        self.state_cell(slot).store(GATE_OPEN, Ordering::SeqCst);
    }

    /// Credits that the kernel can still take.
    pub fn credits(&self, slot: Slot) -> u64 {
        u64::try_from(self.credits_cell(slot).load(Ordering::SeqCst)).unwrap_or(0)
    }

    /// Credits taken since [`Gates::reset`], whether or not their records have been read.
    pub fn taken(&self, slot: Slot) -> u64 {
        self.taken_cell(slot).load(Ordering::SeqCst)
    }

    /// Requests that were stopped for want of a credit since [`Gates::reset`].
    pub fn held(&self, slot: Slot) -> u64 {
        self.held_cell(slot).load(Ordering::SeqCst)
    }

    pub fn lend(&self, slot: Slot, credits: u64) {
        self.credits_cell(slot).fetch_add(i64::try_from(credits).unwrap_or(i64::MAX / 2), Ordering::SeqCst);
    }

    /// Takes back up to `credits` that the kernel has not taken yet; returns how many.
    pub fn take_back(&self, slot: Slot, credits: u64) -> u64 {
        let wanted = i64::try_from(credits).unwrap_or(i64::MAX);
        let before = self
            .credits_cell(slot)
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| (now > 0).then(|| now - now.min(wanted)));
        before.map_or(0, |now| u64::try_from(now.min(wanted)).unwrap_or(0))
    }

    /// From the next instruction on, no process of the task makes a new connection; or may again.
    pub fn cut(&self, slot: Slot, is_cut: bool) {
        let (from, to) = if is_cut { (GATE_OPEN, GATE_CUT) } else { (GATE_CUT, GATE_OPEN) };
        // One that is shut stays shut.
        self.state_cell(slot).compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).ok();
    }

    pub fn is_shut(&self, slot: Slot) -> bool {
        self.state_cell(slot).load(Ordering::SeqCst) == GATE_SHUT
    }

    /// From the next instruction on, no write of the task leaves.
    pub fn shut(&self, slot: Slot) {
        self.state_cell(slot).store(GATE_SHUT, Ordering::SeqCst);
        self.credits_cell(slot).store(0, Ordering::SeqCst);
    }
}

impl Drop for Gates {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this size, and not used after.
        if let Err(error) = unsafe { munmap(self.memory.cast(), BYTES) } {
            tracing::warn!("could not unmap the gates: {error}");
        }
    }
}

fn map(fd: BorrowedFd<'_>) -> io::Result<NonNull<Gate>> {
    let length = NonZeroUsize::new(BYTES).ok_or_else(|| io::Error::other("no gates"))?;
    // SAFETY: a fresh shared mapping at an address of the kernel's choice; the array was made mappable and has this size.
    let memory =
        unsafe { mmap(None, length, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, fd, 0) }?;
    Ok(memory.cast())
}
