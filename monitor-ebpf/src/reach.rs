//! What a process of a task does to have others act for it, or to get at the daemon: said to user space, which knows what it means.
//!
//! Nothing of it is kept from happening here, but for one: a connection that is handed out of the task sends nothing any more.

use core::ffi::c_void;

use aya_ebpf::{
    helpers::{bpf_get_current_pid_tgid, generated::bpf_loop},
    macros::{map, tracepoint},
    maps::PerCpuArray,
    programs::TracePointContext,
};
use monitor_common::{
    CONNECTS, KIND_REACH, Process, REACH_BPF, REACH_CLOCK, REACH_DAEMON, REACH_HAND, REACH_KTLS, REACH_LABEL,
    REACH_TAKE, REACH_TRACE, REACH_UNIX, REACH_WRITE,
};

use crate::{
    mapping::read_kernel,
    maps::{HELD_SOCKETS, PROCESSES, count},
    presence,
    process::current,
    record::{emit, emit_bytes, header},
    requests::{read_user, try_read},
    sockets::{argument, cookie_of, is_tcp, registers, sock_of},
};

/// Offsets of members of kernel structs, as in `mapping.rs`.
#[unsafe(no_mangle)]
static SOCK_PEER_PID: u32 = 0;
#[unsafe(no_mangle)]
static PID_NUMBERS: u32 = 0;

/// `linux/ptrace.h`
const PTRACE_ATTACH: u64 = 16;
const PTRACE_SEIZE: u64 = 0x4206;
/// `linux/tcp.h`: another protocol above TCP, of which there is one for callers of system calls: TLS.
const SOL_TCP: u64 = 6;
const TCP_ULP: u64 = 31;
const AF_UNIX: u16 = 1;
/// `linux/time.h`
const CLOCK_REALTIME: u32 = 0;
/// What the names of labels begin with.
const LABEL: [u64; 2] = [u64::from_le_bytes(*b"trusted."), u64::from_le_bytes(*b"tollgate")];
/// Bytes of a `struct sockaddr_un`.
const UNIX_ADDRESS: u64 = 110;
/// `SOL_SOCKET` and `SCM_RIGHTS` as they lie in a `struct cmsghdr`, and its length.
const RIGHTS: u64 = 1 | 1 << 32;
const CMSG: u64 = 16;
/// Where a `struct user_msghdr` has its control data, and the length of it.
const CONTROL: u64 = 32;
const CONTROL_LEN: u64 = 40;

/// Tells what `what` is done to.
#[inline(always)]
pub fn say(process: &Process, what: u32, object: u64, detail: u64) -> u32 {
    say_of(process.slot, what, object, detail)
}

#[inline(always)]
fn say_of(slot: u32, what: u32, object: u64, detail: u64) -> u32 {
    let mut header = header(KIND_REACH, 0, slot);
    (header.wanted, header.offset, header.connection_born) = (what, object, detail);
    emit(header);
    0
}

/// `ptrace(request, pid, …)`
#[tracepoint]
pub fn reach_ptrace(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    let request = argument(regs, 0);
    if request != PTRACE_ATTACH && request != PTRACE_SEIZE {
        return 0;
    }
    say(&process, REACH_TRACE, argument(regs, 1) & 0xffff_ffff, 0)
}

/// `process_vm_writev(pid, …)`
#[tracepoint]
pub fn reach_vm_write(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    say(&process, REACH_WRITE, argument(registers(), 0) & 0xffff_ffff, 0)
}

/// `pidfd_getfd(pidfd, …)`: what comes may be a connection.
#[tracepoint]
pub fn reach_getfd(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    connects(&process);
    say(&process, REACH_TAKE, argument(registers(), 0) & 0xffff_ffff, 0)
}

/// `bpf(command, …)`: those that give somebody else's objects, or take them apart (`linux/bpf.h`): `OBJ_GET`, `PROG_DETACH`,
/// `{PROG,MAP,BTF,LINK}_GET_FD_BY_ID`, `LINK_UPDATE`, `LINK_DETACH`.
#[tracepoint]
pub fn reach_bpf(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let command = argument(registers(), 0) & 0xffff_ffff;
    if matches!(command, 7 | 9 | 13 | 14 | 29 | 30 | 34) { say(&process, REACH_BPF, command, 0) } else { 0 }
}

/// `kill(pid, signal)`
#[tracepoint]
pub fn reach_kill(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    signals(&process, argument(regs, 0), argument(regs, 1))
}

/// `tgkill(tgid, tid, signal)`
#[tracepoint]
pub fn reach_tgkill(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    signals(&process, argument(regs, 0), argument(regs, 2))
}

#[inline(always)]
fn signals(process: &Process, target: u64, signal: u64) -> u32 {
    // Signal 0 only asks whether somebody is there.
    if target as u32 != 0 && target as u32 == presence::daemon() && signal as u32 != 0 {
        return say(process, REACH_DAEMON, target & 0xffff_ffff, signal & 0xffff_ffff);
    }
    0
}

/// `connect(fd, address, length)`: to a Unix socket. Who listens may start processes for whoever asks.
#[tracepoint]
pub fn reach_connect(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    let (address, length) = (argument(regs, 1), argument(regs, 2) & 0xffff_ffff);
    if length < 3 || read_user::<u16>(address) != AF_UNIX {
        return 0;
    }
    let mut header = header(KIND_REACH, 0, process.slot);
    header.wanted = REACH_UNIX;
    emit_bytes(header, address, if length > UNIX_ADDRESS { UNIX_ADDRESS } else { length });
    0
}

/// `setsockopt(fd, level, option, …)`
#[tracepoint]
pub fn reach_setsockopt(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    let is_ulp = argument(regs, 1) & 0xffff_ffff == SOL_TCP && argument(regs, 2) & 0xffff_ffff == TCP_ULP;
    if is_ulp { say(&process, REACH_KTLS, 0, 0) } else { 0 }
}

/// Descriptors that go along with messages, one after the other. It lies in a map: what a program knows of its stack from before a loop it may not branch on
/// after it.
#[repr(C)]
struct Handing {
    /// The next `struct user_msghdr`.
    message: u64,
    /// The next `struct cmsghdr`, and the end of those of this message.
    control: u64,
    control_end: u64,
    /// The next descriptor of the one before.
    descriptor: u64,
    descriptors: u32,
    messages: u32,
    receiver: u32,
    /// 1: all of them were looked at.
    is_done: u32,
}

#[map]
static HANDING: PerCpuArray<Handing> = PerCpuArray::with_max_entries(1, 0);

/// Steps of one call: a message, a `struct cmsghdr` or a descriptor (of which one message has 253 at most) each.
const STEPS: u32 = 16_384;
/// Most messages of one call (`UIO_MAXIOV`, `linux/uio.h`), and the bytes that each takes in the array of them (`struct mmsghdr`).
const MAX_MESSAGES: u64 = 1024;
const MESSAGE: u64 = 64;

/// `sendmsg(fd, message, …)`: descriptors that go along.
#[tracepoint]
pub fn reach_sendmsg(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    hand_over(&process, argument(regs, 0), argument(regs, 1), 1)
}

/// `sendmmsg(fd, messages, count, …)`
#[tracepoint]
pub fn reach_sendmmsg(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    let many = argument(regs, 2) & 0xffff_ffff;
    hand_over(&process, argument(regs, 0), argument(regs, 1), if many > MAX_MESSAGES { MAX_MESSAGES } else { many })
}

/// The receiver is whoever the kernel noted when the Unix socket was connected.
#[inline(always)]
fn hand_over(process: &Process, fd: u64, message: u64, messages: u64) -> u32 {
    if messages == 1 && try_read::<u64>(message + CONTROL_LEN).is_some_and(|length| length < CMSG + 4) {
        return 0;
    }
    let sock = sock_of(fd & 0xffff_ffff);
    if is_tcp(sock) {
        // There nothing goes along.
        return 0;
    }
    let receiver = peer_of(sock);
    // SAFETY: the value is copied out at once.
    if unsafe { PROCESSES.get(&receiver) }.is_some_and(|receiver| receiver.slot == process.slot) {
        return 0;
    }
    let Some(handing) = HANDING.get_ptr_mut(0) else { return 0 };
    let fresh = Handing {
        message,
        control: 0,
        control_end: 0,
        descriptor: 0,
        descriptors: 0,
        messages: messages as u32,
        receiver,
        is_done: 0,
    };
    // SAFETY: this CPU's element, which nobody else uses while the program runs.
    unsafe { handing.write(fresh) };
    let mut slot = u64::from(process.slot);
    // SAFETY: the callback takes no more than this slot, which outlives the call, and this CPU's element.
    unsafe { bpf_loop(STEPS, hand_next as *mut c_void, (&raw mut slot).cast(), 0) };
    // SAFETY: as above.
    if unsafe { (*handing).is_done } == 0 {
        // Nobody knows what else goes along.
        say(process, REACH_HAND, u64::from(receiver), 0);
    }
    0
}

/// One step of [`hand_over`]; 1 ends the loop.
unsafe extern "C" fn hand_next(_round: u32, context: *mut c_void) -> i64 {
    // SAFETY: called by `hand_over` only, with a slot on its stack.
    let slot = unsafe { *context.cast::<u64>() } as u32;
    let Some(handing) = HANDING.get_ptr_mut(0) else { return 1 };
    // SAFETY: this CPU's element, which nobody else uses while the program runs.
    let handing = unsafe { &mut *handing };
    if handing.descriptors > 0 {
        let Some(fd) = try_read::<u32>(handing.descriptor) else { return 1 };
        handing.descriptors -= 1;
        handing.descriptor += 4;
        hand(slot, handing.receiver, fd);
        return 0;
    }
    if handing.control + CMSG <= handing.control_end {
        let (Some(length), Some(what)) = (try_read::<u64>(handing.control), try_read::<u64>(handing.control + 8))
        else {
            return 1;
        };
        if length < CMSG || length > handing.control_end - handing.control {
            // The kernel sends no such message.
            handing.control = handing.control_end;
            return 0;
        }
        if what == RIGHTS {
            handing.descriptor = handing.control + CMSG;
            handing.descriptors = ((length - CMSG) / 4) as u32;
        }
        handing.control += (length + 7) & !7;
        return 0;
    }
    if handing.messages == 0 {
        handing.is_done = 1;
        return 1;
    }
    let message = handing.message;
    handing.messages -= 1;
    handing.message += MESSAGE;
    let (Some(control), Some(length)) = (try_read::<u64>(message + CONTROL), try_read::<u64>(message + CONTROL_LEN))
    else {
        return 1;
    };
    handing.control = control;
    handing.control_end = control.saturating_add(length);
    0
}

/// One descriptor goes to somebody outside of the task.
#[inline(always)]
fn hand(slot: u32, receiver: u32, fd: u32) {
    let sock = sock_of(u64::from(fd));
    if sock == 0 {
        return;
    }
    let cookie = if is_tcp(sock) { cookie_of(sock) } else { 0 };
    if cookie != 0 && HELD_SOCKETS.insert(&cookie, &slot, 0).is_err() {
        count(|c| c.map_full += 1);
    }
    say_of(slot, REACH_HAND, u64::from(receiver), cookie);
}

/// The process at the other end of a Unix socket, as it was connected; 0 where there is none.
#[inline(always)]
fn peer_of(sock: u64) -> u32 {
    let pid = read_kernel::<u64>(sock, &SOCK_PEER_PID);
    // The first one of `numbers` is that of the initial namespace, and begins with the number.
    if pid == 0 { 0 } else { read_kernel::<u32>(pid, &PID_NUMBERS) }
}

/// `recvmsg` returns: a connection may have come along, which this process has not made.
#[tracepoint]
pub fn took_recvmsg(_ctx: TracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    let Some(process) = (unsafe { PROCESSES.get(&tgid) }).copied() else { return 0 };
    if process.connects == 0 && read_user::<u64>(argument(registers(), 1) + CONTROL_LEN) >= CMSG + 4 {
        connects(&process);
    }
    0
}

/// The same of `recvmmsg`, of many messages.
#[tracepoint]
pub fn took_recvmmsg(_ctx: TracePointContext) -> u32 {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    // SAFETY: the value is copied out at once.
    if let Some(process) = (unsafe { PROCESSES.get(&tgid) }).copied() {
        connects(&process);
    }
    0
}

/// `setxattr(path, name, …)`, `removexattr(path, name)` and their like: of a label of a cgroup.
#[tracepoint]
pub fn reach_label(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    label(&process, argument(registers(), 1))
}

/// `setxattrat(directory, path, flags, name, …)`, `removexattrat(…)`
#[tracepoint]
pub fn reach_label_at(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    label(&process, argument(registers(), 3))
}

#[inline(always)]
fn label(process: &Process, name: u64) -> u32 {
    // Where it cannot be read it may be one.
    let first = try_read::<u64>(name).unwrap_or(LABEL[0]);
    let second = if first == LABEL[0] { try_read::<u64>(name + 8).unwrap_or(LABEL[1]) } else { 0 };
    if second == LABEL[1] { say(process, REACH_LABEL, 0, 0) } else { 0 }
}

/// `clock_settime(clock, …)`
#[tracepoint]
pub fn reach_clock_settime(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    if argument(registers(), 0) as u32 == CLOCK_REALTIME { say(&process, REACH_CLOCK, 0, 0) } else { 0 }
}

/// `settimeofday(time, zone)`
#[tracepoint]
pub fn reach_settimeofday(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    if argument(registers(), 0) != 0 { say(&process, REACH_CLOCK, 0, 0) } else { 0 }
}

/// `adjtimex(change)`
#[tracepoint]
pub fn reach_adjtimex(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    adjusts(&process, argument(registers(), 0))
}

/// `clock_adjtime(clock, change)`
#[tracepoint]
pub fn reach_clock_adjtime(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    if argument(regs, 0) as u32 == CLOCK_REALTIME { adjusts(&process, argument(regs, 1)) } else { 0 }
}

/// A `struct timex` begins with what is to be changed; nothing of it: the clock is only read.
#[inline(always)]
fn adjusts(process: &Process, change: u64) -> u32 {
    if try_read::<u32>(change) == Some(0) { 0 } else { say(process, REACH_CLOCK, 0, 0) }
}

/// From now on what the process does with sockets is looked at.
#[inline(always)]
fn connects(process: &Process) {
    let tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
    if process.connects & CONNECTS != 0 {
        return;
    }
    let process = Process { connects: process.connects | CONNECTS, ..*process };
    if PROCESSES.insert(&tgid, &process, 0).is_err() {
        count(|c| c.map_full += 1);
    }
}
