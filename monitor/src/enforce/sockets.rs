//! Ending connections that are open: `SOCK_DESTROY` over netlink (`sock_diag(7)`), as `ss -K` does. Both ends see a reset.

use std::{
    collections::{BTreeMap, HashSet},
    fs::{self, File},
    io,
    os::fd::AsFd as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, SOCK_DESTROY, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use nix::{errno::Errno, sched::CloneFlags};

use crate::probe::Pid;

#[derive(Debug, thiserror::Error)]
pub enum SocketsError {
    #[error("cannot ask the kernel for its sockets: {0}")]
    Ask(io::Error),
    #[error("cannot end a connection ({0}); the kernel needs CONFIG_INET_DIAG_DESTROY")]
    Destroy(io::Error),
    #[error("cannot enter the network namespace of process {pid}: {source}")]
    Namespace { pid: Pid, source: io::Error },
    #[error("{0} connections are still open after {1:?}")]
    Open(usize, Duration),
}

/// Which connections of a process are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those to this port.
    To(u16),
}

/// How long to look for connections that were made meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a reply of the kernel can be as long as (`NLMSG_GOODSIZE`, and more).
const REPLY: usize = 32 * 1024;

/// Ends connections of these processes until there are none left; returns how many there were.
///
/// # Errors
/// When the kernel cannot do it, or new ones come all the time.
pub fn end_connections(pids: &[Pid], which: Which) -> Result<usize, SocketsError> {
    let mut spaces: BTreeMap<PathBuf, Vec<Pid>> = BTreeMap::new();
    for &pid in pids {
        // A process that is gone has no connections.
        if let Ok(space) = fs::read_link(format!("/proc/{pid}/ns/net")) {
            spaces.entry(space).or_default().push(pid);
        }
    }
    let own = fs::read_link("/proc/self/ns/net").map_err(SocketsError::Ask)?;
    let mut ended = 0;
    for (space, pids) in spaces {
        ended += if space == own { end_here(&pids, which)? } else { end_there(pids, which)? };
    }
    Ok(ended)
}

/// Ends the sockets with these cookies, also those that no process has any more; returns how many there were.
///
/// Only those in this process' network namespace are found.
///
/// # Errors
/// When the kernel cannot do it.
pub fn end_sockets(cookies: &HashSet<u64>) -> Result<usize, SocketsError> {
    let mut socket = Diag::open().map_err(SocketsError::Ask)?;
    let mut ended = 0;
    for family in [AF_INET, AF_INET6] {
        for found in socket.list(family, IPPROTO_TCP).map_err(SocketsError::Ask)? {
            if cookies.contains(&u64::from_ne_bytes(found.id.cookie)) {
                match socket.destroy(family, IPPROTO_TCP, found.id) {
                    Ok(()) => ended += 1,
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(SocketsError::Destroy(error)),
                }
            }
        }
    }
    Ok(ended)
}

/// On a thread of its own, in the network namespace of the processes.
fn end_there(pids: Vec<Pid>, which: Which) -> Result<usize, SocketsError> {
    let work = move || {
        let entered = pids.iter().find_map(|&pid| {
            let space = File::open(format!("/proc/{pid}/ns/net")).ok()?;
            let entered = nix::sched::setns(space.as_fd(), CloneFlags::CLONE_NEWNET);
            Some(entered.map_err(|errno| SocketsError::Namespace { pid, source: errno.into() }))
        });
        match entered {
            None => Ok(0),
            Some(entered) => entered.and_then(|()| end_here(&pids, which)),
        }
    };
    let thread = thread::Builder::new().name("cut".into()).spawn(work).map_err(SocketsError::Ask)?;
    thread.join().unwrap_or_else(|_| Err(SocketsError::Ask(io::Error::other("the thread panicked"))))
}

fn end_here(pids: &[Pid], which: Which) -> Result<usize, SocketsError> {
    let mut socket = Diag::open().map_err(SocketsError::Ask)?;
    let began = Instant::now();
    let mut ended = 0;
    loop {
        let inodes = inodes(pids);
        if inodes.is_empty() {
            return Ok(ended);
        }
        let mut open = 0;
        for (family, protocol) in
            [(AF_INET, IPPROTO_TCP), (AF_INET6, IPPROTO_TCP), (AF_INET, IPPROTO_UDP), (AF_INET6, IPPROTO_UDP)]
        {
            let found = match socket.list(family, protocol) {
                Ok(found) => found,
                // A kernel without diagnosis of this protocol.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) && protocol == IPPROTO_UDP => continue,
                Err(error) => return Err(SocketsError::Ask(error)),
            };
            for found in found.into_iter().filter(|found| inodes.contains(&found.inode)) {
                if matches!(which, Which::To(port) if found.id.destination_port != port) {
                    continue;
                }
                open += 1;
                match socket.destroy(family, protocol, found.id) {
                    Ok(()) => {}
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    Err(error) => return Err(SocketsError::Destroy(error)),
                }
            }
        }
        ended += open;
        if open == 0 {
            return Ok(ended);
        }
        if began.elapsed() > PATIENCE {
            return Err(SocketsError::Open(open, PATIENCE));
        }
    }
}

/// Whether a process has connections that cannot be ended: over Unix sockets, behind which anybody could be.
pub fn has_local_connections(pid: Pid) -> bool {
    let inodes = inodes(&[pid]);
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    table.lines().skip(1).any(|line| {
        // `Num: RefCount Protocol Flags Type St Inode Path` (proc_net(5)); 0001 is a stream, 03 is connected (`linux/net.h`).
        let mut fields = line.split_ascii_whitespace().skip(4);
        let (kind, state, inode) = (fields.next(), fields.next(), fields.next());
        let is_connected = kind == Some("0001") && state == Some("03");
        is_connected && inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode| inodes.contains(&inode))
    })
}

/// Sockets that the processes hold, by their inode.
fn inodes(pids: &[Pid]) -> HashSet<u32> {
    let mut inodes = HashSet::new();
    for pid in pids {
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let Ok(target) = fs::read_link(fd.path()) else { continue };
            let name = target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']'));
            inodes.extend(name.and_then(|inode| inode.parse::<u32>().ok()));
        }
    }
    inodes
}

struct Found {
    inode: u32,
    id: SocketId,
}

/// A netlink socket that knows other sockets.
struct Diag {
    socket: Socket,
    buffer: Vec<u8>,
}

/// States in which data can still pass: all but those that wait for nobody, or for anybody.
fn states() -> StateFlags {
    StateFlags::all() - StateFlags::LISTEN - StateFlags::TIME_WAIT - StateFlags::CLOSE
}

impl Diag {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; REPLY] })
    }

    fn send(&self, flags: u16, kind: Option<u16>, request: InetRequest) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(SockDiagMessage::InetRequest(request)));
        message.finalize();
        if let Some(kind) = kind {
            message.header.message_type = kind;
        }
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(|_| ())
    }

    /// Hands each message of the replies to `take`, which says whether it was the last one.
    fn receive(&mut self, mut take: impl FnMut(NetlinkPayload<SockDiagMessage>) -> io::Result<bool>) -> io::Result<()> {
        loop {
            let size = self.socket.recv(&mut &mut self.buffer[..], 0)?;
            let mut rest = self.buffer.get(..size).unwrap_or_default();
            while !rest.is_empty() {
                let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                // Messages are aligned to 4 bytes (netlink(7)).
                let length = (message.header.length as usize).next_multiple_of(4);
                if take(message.payload)? || length == 0 {
                    return Ok(());
                }
                rest = rest.get(length..).unwrap_or_default();
            }
        }
    }

    fn list(&mut self, family: u8, protocol: u8) -> io::Result<Vec<Found>> {
        let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
        let request =
            InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states: states(), socket_id };
        self.send(NLM_F_REQUEST | NLM_F_DUMP, None, request)?;
        let mut found = Vec::new();
        self.receive(|payload| match payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                found.push(Found { inode: response.header.inode, id: response.header.socket_id.clone() });
                Ok(false)
            }
            NetlinkPayload::Done(_) => Ok(true),
            NetlinkPayload::Error(error) => failed(error.to_io()).map(|()| true),
            _ => Ok(false),
        })?;
        Ok(found)
    }

    fn destroy(&mut self, family: u8, protocol: u8, socket_id: SocketId) -> io::Result<()> {
        let request =
            InetRequest { family, protocol, extensions: ExtensionFlags::empty(), states: states(), socket_id };
        self.send(NLM_F_REQUEST | NLM_F_ACK, Some(SOCK_DESTROY), request)?;
        self.receive(|payload| match payload {
            NetlinkPayload::Error(error) => failed(error.to_io()).map(|()| true),
            _ => Ok(false),
        })
    }
}

/// An acknowledgement is an error with the number 0.
fn failed(error: io::Error) -> io::Result<()> {
    if error.raw_os_error().is_none_or(|errno| Errno::from_raw(errno) == Errno::from_raw(0)) {
        Ok(())
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{ErrorKind, Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::{Which, end_connections};

    /// Needs the right to do it (`CAP_NET_ADMIN`), which the tests of this project have.
    #[test]
    fn only_what_is_meant_is_ended_and_both_ends_see_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let other = TcpListener::bind("[::1]:0").expect("another listener");
        let port = listener.local_addr().expect("its address").port();
        let mut client = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let (mut server, _) = listener.accept().expect("its other end");
        let mut spared = TcpStream::connect(other.local_addr().expect("its address")).expect("another connection");
        let (mut witness, _) = other.accept().expect("its other end");

        // This process has both ends: one goes to the port, the other comes from it and ends with it.
        assert_eq!(end_connections(&[std::process::id()], Which::To(port)).expect("ended"), 1);
        let error = client.read(&mut [0]).expect_err("the client's end");
        assert_eq!(error.kind(), ErrorKind::ConnectionAborted);
        let error = server.read(&mut [0]).expect_err("the server's end");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        spared.write_all(b"x").expect("a connection that was not meant");
        witness.read_exact(&mut [0]).expect("what came through it");
        assert_eq!(end_connections(&[std::process::id()], Which::To(port)).expect("nothing left"), 0);
    }
}
