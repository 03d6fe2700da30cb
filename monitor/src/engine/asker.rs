//! The process at the other end of the socket, held fast: a process id alone may name somebody else by the time it is looked up.
//!
//! Whoever connects, hands the connection to a child and ends is nobody any more, and the id may be given to a process outside of every task.

use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt},
};

use crate::probe::Pid;

/// Who asks.
#[derive(Debug, Clone)]
pub struct Asker {
    /// 0: it cannot be named, because it is in a pid namespace that is not below the daemon's.
    pub pid: Pid,
    life: Life,
}

/// How it is known that the process still is the one that connected.
#[derive(Debug, Clone)]
enum Life {
    /// Linux 6.5 or newer: a descriptor of the very process.
    Pidfd(Arc<OwnedFd>),
    /// When the process with its id was started (proc_pid_stat(5)), read as soon as it had connected.
    Since(String),
    Unknown,
}

impl Asker {
    /// The peer of a Unix socket, whose id is `pid` as `SO_PEERCRED` tells.
    pub fn of(socket: &impl AsFd, pid: Pid) -> Self {
        let life = match getsockopt(socket, sockopt::PeerPidfd) {
            Ok(pidfd) => Life::Pidfd(Arc::new(pidfd)),
            Err(Errno::ENOPROTOOPT) => started(pid).map_or(Life::Unknown, Life::Since),
            // It has ended already.
            Err(_) => Life::Unknown,
        };
        Self { pid, life }
    }

    /// Whether it is still there, so that what was found under its id just now was about it.
    pub fn is_there(&self) -> bool {
        self.pid != 0
            && match &self.life {
                Life::Pidfd(pidfd) => {
                    // It is readable once the process has ended.
                    let mut asked = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
                    matches!(poll(&mut asked, PollTimeout::ZERO), Ok(0))
                }
                Life::Since(start) => started(self.pid).as_ref() == Some(start),
                Life::Unknown => false,
            }
    }
}

/// Clock ticks after boot, the 22nd field; the name before may contain anything.
fn started(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixStream, process::Command, sync::Arc};

    use super::{Asker, Life, started};

    #[test]
    fn who_has_ended_is_not_there() {
        let (near, _far) = UnixStream::pair().expect("a socket");
        let own = std::process::id();
        assert!(Asker::of(&near, own).is_there());
        assert!(!Asker::of(&near, 0).is_there());

        let mut child = Command::new("sleep").arg("60").spawn().expect("sleep");
        let by_start = Asker { pid: child.id(), life: started(child.id()).map(Life::Since).expect("when it started") };
        assert!(by_start.is_there());
        child.kill().and_then(|()| child.wait()).expect("ending it");
        assert!(!by_start.is_there());
        assert!(!Asker { pid: own, life: Life::Since("0".into()) }.is_there(), "somebody else with its id");
        assert!(!Asker { pid: own, life: Life::Unknown }.is_there());
    }

    #[test]
    fn a_descriptor_of_the_process_tells_its_end() {
        let (near, _far) = UnixStream::pair().expect("a socket");
        let asker = Asker::of(&near, std::process::id());
        // Older kernels have none.
        if let Life::Pidfd(pidfd) = &asker.life {
            assert_eq!(Arc::strong_count(pidfd), 1);
        }
        assert!(asker.is_there());
    }
}
