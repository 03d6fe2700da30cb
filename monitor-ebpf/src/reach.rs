//! What a process of a task does to have others act for it, or to get at the daemon: said to user space, which knows what it means.
//!
//! Nothing of it is kept from happening here, but for one: a connection that is handed out of the task sends nothing any more.

use aya_ebpf::{helpers::bpf_get_current_pid_tgid, macros::tracepoint, programs::TracePointContext};
use monitor_common::{
    CONNECTS, KIND_REACH, Process, REACH_BPF, REACH_DAEMON, REACH_HAND, REACH_KTLS, REACH_TAKE, REACH_TRACE,
    REACH_UNIX, REACH_WRITE,
};

use crate::{
    mapping::read_kernel,
    maps::{HELD_SOCKETS, PROCESSES, count},
    presence,
    process::current,
    record::{emit, emit_bytes, header},
    requests::read_user,
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
    let mut header = header(KIND_REACH, 0, process.slot);
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

/// `sendmsg(fd, message, …)`: descriptors that go along. The receiver is whoever the kernel noted when the Unix socket was connected.
#[tracepoint]
pub fn reach_sendmsg(_ctx: TracePointContext) -> u32 {
    let Some(process) = current() else { return 0 };
    let regs = registers();
    let message = argument(regs, 1);
    if read_user::<u64>(message + CONTROL_LEN) < CMSG + 4 {
        return 0;
    }
    let control = read_user::<u64>(message + CONTROL);
    if read_user::<u64>(control + 8) != RIGHTS {
        return 0;
    }
    let receiver = peer_of(sock_of(argument(regs, 0) & 0xffff_ffff));
    // SAFETY: the value is copied out at once.
    if unsafe { PROCESSES.get(&receiver) }.is_some_and(|receiver| receiver.slot == process.slot) {
        return 0;
    }
    let length = read_user::<u64>(control);
    hand(&process, receiver, control, length, 0);
    hand(&process, receiver, control, length, 1);
    hand(&process, receiver, control, length, 2);
    hand(&process, receiver, control, length, 3);
    0
}

/// One descriptor of a message goes to somebody outside of the task.
#[inline(always)]
fn hand(process: &Process, receiver: u32, control: u64, length: u64, index: u64) {
    let at = CMSG + index * 4;
    if at + 4 > length {
        return;
    }
    let sock = sock_of(u64::from(read_user::<u32>(control + at)));
    if sock == 0 {
        return;
    }
    let cookie = if is_tcp(sock) { cookie_of(sock) } else { 0 };
    if cookie != 0 && HELD_SOCKETS.insert(&cookie, &process.slot, 0).is_err() {
        count(|c| c.map_full += 1);
    }
    say(process, REACH_HAND, u64::from(receiver), cookie);
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
