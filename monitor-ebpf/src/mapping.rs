//! Executable files that processes of tasks map, each told to user space once: some of them have functions to probe.
//!
//! A process that maps code that nobody has looked at yet waits until somebody has: it is stopped before it can call any of it.

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext,
    helpers::generated::{bpf_find_vma, bpf_get_current_task_btf, bpf_probe_read_kernel},
    macros::tracepoint,
    programs::TracePointContext,
};
use monitor_common::{FLAG_SIGNAL_FAILED, FLAG_WAITS, FileKey, KIND_MAPPED, Process, REACH_TEXT};

use crate::{
    gate::{self, SIGSTOP},
    maps::{FILES, count},
    presence::{asks, tell},
    process::{current, field, known},
    reach,
    record::{emit, header},
    waits,
};

/// Offsets of members of kernel structs, set by user space at load from the kernel's own BTF.
#[unsafe(no_mangle)]
static VMA_START: u32 = 0;
#[unsafe(no_mangle)]
static VMA_END: u32 = 0;
#[unsafe(no_mangle)]
static VMA_FLAGS: u32 = 0;
#[unsafe(no_mangle)]
static VMA_FILE: u32 = 0;
#[unsafe(no_mangle)]
static FILE_INODE: u32 = 0;
#[unsafe(no_mangle)]
static INODE_INO: u32 = 0;
#[unsafe(no_mangle)]
static INODE_GENERATION: u32 = 0;
#[unsafe(no_mangle)]
static INODE_SB: u32 = 0;
#[unsafe(no_mangle)]
static SB_DEV: u32 = 0;
#[unsafe(no_mangle)]
static TASK_MM: u32 = 0;
#[unsafe(no_mangle)]
static MM_START_CODE: u32 = 0;

/// Offsets of tracepoint fields, as in `process.rs`.
#[unsafe(no_mangle)]
static MMAP_RET: u32 = 0;
#[unsafe(no_mangle)]
static MPROTECT_START: u32 = 0;
#[unsafe(no_mangle)]
static MPROTECT_PROT: u32 = 0;

/// `VM_EXEC` (`linux/mm.h`) and `PROT_EXEC` (`asm-generic/mman-common.h`), which are the same.
const EXECUTABLE: u64 = 4;
/// `PROT_WRITE`
const WRITABLE: u64 = 2;

/// What is known of a mapping.
struct Mapping {
    start: u64,
    end: u64,
    file: FileKey,
    /// `PROT_EXEC` is on its way: the mapping is not executable yet, and will be.
    will_be_executable: bool,
    is_code: bool,
}

/// A value in kernel memory; zero where it cannot be read.
#[inline(always)]
pub fn read_kernel<T: Default>(address: u64, offset: &'static u32) -> T {
    let mut value = T::default();
    // SAFETY: a static set before load; volatile, so that the compiler does not fold its initial value in.
    let offset = unsafe { core::ptr::read_volatile(offset) };
    let from = (address + u64::from(offset)) as *const c_void;
    // SAFETY: the destination has the size of `T`; the helper checks the source.
    let status = unsafe { bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from) };
    if status == 0 { value } else { T::default() }
}

/// Takes what is wanted of a mapping, while the kernel keeps it in place.
unsafe extern "C" fn on_vma(_task: *mut c_void, vma: *mut c_void, context: *mut c_void) -> i64 {
    // SAFETY: called by `look_at` only, with a `Mapping` on its stack.
    let mapping = unsafe { &mut *context.cast::<Mapping>() };
    let vma = vma as u64;
    let file = read_kernel::<u64>(vma, &VMA_FILE);
    let flags = read_kernel::<u64>(vma, &VMA_FLAGS);
    if file == 0 || (flags & EXECUTABLE == 0 && !mapping.will_be_executable) {
        return 0;
    }
    let inode = read_kernel::<u64>(file, &FILE_INODE);
    let superblock = read_kernel::<u64>(inode, &INODE_SB);
    mapping.file = FileKey {
        inode: read_kernel(inode, &INODE_INO),
        device: read_kernel(superblock, &SB_DEV),
        generation: read_kernel(inode, &INODE_GENERATION),
    };
    mapping.start = read_kernel(vma, &VMA_START);
    mapping.end = read_kernel(vma, &VMA_END);
    mapping.is_code = true;
    0
}

/// Says so if the mapping at `address` is code of a file: who can write there can take a probe away from this process.
#[inline(always)]
fn opens(address: u64) {
    let Some(process) = current() else { return };
    let mut mapping = Mapping { start: 0, end: 0, file: FileKey::default(), will_be_executable: false, is_code: false };
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: the callback takes exactly this context, which outlives the call.
    let status = unsafe { bpf_find_vma(task, address, on_vma as *mut c_void, (&raw mut mapping).cast(), 0) };
    if status == 0 && mapping.is_code {
        reach::say(&process, REACH_TEXT, 0, 0);
    }
}

/// Tells user space of the mapping at `address` of the current process, if it is of a file that nobody has looked at.
#[inline(always)]
fn look_at(address: u64, will_be_executable: bool) {
    if !asks() && current().is_none() {
        // Nobody pays for it: it is not probed.
        return;
    }
    let mut mapping = Mapping { start: 0, end: 0, file: FileKey::default(), will_be_executable, is_code: false };
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() };
    // SAFETY: the callback takes exactly this context, which outlives the call.
    let status = unsafe { bpf_find_vma(task, address, on_vma as *mut c_void, (&raw mut mapping).cast(), 0) };
    if status == 0 && !mapping.is_code {
        return;
    }
    // Asked again, because what was known before a callback may not be branched on after it: verifiers of kernels before 6.8 follow one of the
    // ways that lead to the callback, and make the branches that only the others take unconditional.
    if asks() {
        tell(mapping.file);
        return;
    }
    let Some(Process { slot, .. }) = known() else { return };
    // Another thread may be changing the mappings: then user space looks for itself.
    // SAFETY: the value is copied out at once.
    if status == 0 && unsafe { FILES.get(&mapping.file) }.is_some() {
        return;
    }
    let mut flags = 0;
    if !gate::may_go_unattended(slot) {
        flags = FLAG_WAITS;
        if gate::signal(SIGSTOP) {
            waits::stopped(slot);
        } else {
            count(|c| c.signal_failures += 1);
            flags |= FLAG_SIGNAL_FAILED;
        }
    }
    let mut header = header(KIND_MAPPED, flags, slot);
    header.object = mapping.start;
    header.offset = mapping.end;
    header.connection_born = mapping.file.inode;
    header.wanted = mapping.file.device;
    header.len = 0;
    header.generation = mapping.file.generation;
    emit(header);
}

/// The program itself: mapped by the kernel.
#[inline(always)]
pub fn on_exec() {
    // SAFETY: takes no arguments.
    let task = unsafe { bpf_get_current_task_btf() } as u64;
    let mm = read_kernel::<u64>(task, &TASK_MM);
    look_at(read_kernel::<u64>(mm, &MM_START_CODE), false);
}

/// `mmap` returns: libraries are mapped by it.
#[tracepoint]
pub fn sys_exit_mmap(ctx: TracePointContext) -> u32 {
    let address = field::<i64>(&ctx, &MMAP_RET);
    // Errors are small negative numbers.
    if !(-4095..0).contains(&address) {
        look_at(address as u64, false);
    }
    0
}

/// `mprotect` begins: what was mapped as data may become code.
#[tracepoint]
pub fn sys_enter_mprotect(ctx: TracePointContext) -> u32 {
    let protection = field::<u64>(&ctx, &MPROTECT_PROT);
    if protection & EXECUTABLE != 0 {
        look_at(field::<u64>(&ctx, &MPROTECT_START), true);
    }
    if protection & WRITABLE != 0 {
        opens(field::<u64>(&ctx, &MPROTECT_START));
    }
    0
}
