//! Writing records into the ring.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::{
        bpf_get_current_pid_tgid,
        generated::{bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel_str, bpf_probe_read_user},
    },
    programs::TracePointContext,
};
use monitor_common::{Header, MAX_RECORDS_PER_CALL, Record, TIERS};

use crate::maps::{RECORDS, count};

/// A header of the current thread and time; the caller fills in the rest.
#[inline(always)]
pub fn header(kind: u8, flags: u8, slot: u32) -> Header {
    let pid_tgid = bpf_get_current_pid_tgid();
    Header {
        // SAFETY: takes no arguments.
        time: unsafe { bpf_ktime_get_boot_ns() },
        object: 0,
        connection_born: 0,
        offset: 0,
        slot,
        tgid: (pid_tgid >> 32) as u32,
        tid: pid_tgid as u32,
        len: 0,
        wanted: 0,
        kind,
        flags,
        starts: 0,
        generation: 0,
        address_high: 0,
    }
}

/// Copies a header word by word: copied as a whole it is copied byte by byte, in a loop of which the verifier follows every round.
///
/// # Safety
/// `to` points to reserved ring memory.
#[inline(always)]
pub unsafe fn put(to: *mut Header, header: &Header) {
    const WORDS: usize = size_of::<Header>() / size_of::<u64>();
    let (from, to) = (core::ptr::from_ref(header).cast::<u64>(), to.cast::<u64>());
    macro_rules! words {
        ($($index:literal)*) => {{
            const { assert!(WORDS == [$($index),*].len() && size_of::<Header>() % 8 == 0) };
            // SAFETY: both have `WORDS` words. Volatile, so that they are not put together again.
            $(unsafe { to.add($index).write_volatile(from.add($index).read()) };)*
        }};
    }
    words!(0 1 2 3 4 5 6 7);
}

/// Hands over a record without payload.
#[inline(always)]
pub fn emit(header: Header) {
    match RECORDS.reserve::<Header>(0) {
        Some(mut entry) => {
            entry.write(header);
            entry.submit(0);
            count(|c| c.records += 1);
        }
        None => count(|c| c.dropped_records += 1),
    }
}

/// Hands over a record with a text of the tracepoint's own record, of at most `N` bytes with the zero at its end. `location` (`__data_loc`) has its offset there in
/// the low half.
#[inline(always)]
pub fn emit_text<const N: usize>(ctx: &TracePointContext, mut header: Header, location: u32) {
    let Some(mut entry) = RECORDS.reserve::<Record<N>>(0) else {
        count(|c| c.dropped_records += 1);
        return;
    };
    let from = context_address(ctx) + u64::from(location & 0xffff);
    let record = entry.as_mut_ptr();
    // SAFETY: the destination is ring memory of `N` bytes; the helper checks the source and ends the text with a zero.
    let read = unsafe { bpf_probe_read_kernel_str((&raw mut (*record).payload).cast(), N as u32, from as *const _) };
    header.len = if read > 0 { read as u32 - 1 } else { 0 };
    // SAFETY: `record` points to reserved ring memory.
    unsafe { (*record).header = header };
    entry.submit(0);
    count(|c| c.records += 1);
}

/// A run of records in the making.
struct Run {
    header: Header,
    buffer: u64,
    left: u64,
}

/// Hands over `len` bytes at `buffer` of the current process as a run of records, each in the smallest tier that
/// holds what is left. A record that does not get through is a gap in the offsets, which user space sees.
#[inline(always)]
pub fn emit_bytes(header: Header, buffer: u64, len: u64) {
    let mut run = Run { header, buffer, left: len };
    // `bpf_loop` instead of a loop: the verifier looks at the body once and not at every way through all rounds.
    // SAFETY: the callback takes exactly this context, which outlives the call.
    unsafe { bpf_loop(MAX_RECORDS_PER_CALL, emit_next as *mut c_void, (&raw mut run).cast(), 0) };
    if run.left > 0 {
        count(|c| c.uncopied_bytes += run.left);
    }
}

/// One round of [`emit_bytes`]; 1 ends the loop.
unsafe extern "C" fn emit_next(_round: u32, context: *mut c_void) -> i64 {
    // SAFETY: called by `emit_bytes` only, with a `Run` on its stack.
    let run = unsafe { &mut *context.cast::<Run>() };
    let (buffer, left) = (run.buffer, run.left);
    let done = if left <= TIERS[0] as u64 {
        emit_tier::<{ TIERS[0] }>(&mut run.header, buffer, left)
    } else if left <= TIERS[1] as u64 {
        emit_tier::<{ TIERS[1] }>(&mut run.header, buffer, left)
    } else if left <= TIERS[2] as u64 {
        emit_tier::<{ TIERS[2] }>(&mut run.header, buffer, left)
    } else {
        emit_tier::<{ TIERS[3] }>(&mut run.header, buffer, left)
    };
    run.left = left - done;
    run.buffer = buffer + done;
    run.header.offset += done;
    (run.left == 0) as i64
}

/// Emits up to `N` bytes and returns how many the record stands for, lost or not.
#[inline(always)]
fn emit_tier<const N: usize>(header: &mut Header, buffer: u64, left: u64) -> u64 {
    let len = if left > N as u64 { N as u64 } else { left };
    let Some(mut entry) = RECORDS.reserve::<Record<N>>(0) else {
        count(|c| {
            c.dropped_records += 1;
            c.dropped_bytes += len;
        });
        return len;
    };
    let record = entry.as_mut_ptr();
    header.len = len as u32;
    // SAFETY: `record` points to reserved ring memory of the size of `Record<N>`.
    unsafe { put(&raw mut (*record).header, header) };
    // SAFETY: the destination has room for `N >= len` bytes; the helper checks the source.
    let status = unsafe { bpf_probe_read_user((&raw mut (*record).payload).cast(), len as u32, buffer as *const _) };
    if status == 0 {
        entry.submit(0);
        count(|c| {
            c.records += 1;
            c.bytes += len;
        });
    } else {
        entry.discard(0);
        count(|c| c.unreadable_buffers += 1);
    }
    len
}

/// Address of a program's context, for copying from it.
#[inline(always)]
pub fn context_address<C: EbpfContext>(ctx: &C) -> u64 {
    ctx.as_ptr() as u64
}
