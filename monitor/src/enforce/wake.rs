//! Sockets that were kept from sending, and may again.
#![forbid(unsafe_code)]

use std::io;

use rustix::{
    net::sockopt,
    process::{Pid as OsPid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use crate::probe::Pid;

/// Makes TCP send at once what waits in a socket of the process: left to itself, it tries again after 200 ms, and then ever more rarely.
///
/// # Errors
/// When the process or its descriptor is gone, or is no TCP socket any more.
pub fn send_again(pid: Pid, fd: i32) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(OsPid::from_raw).ok_or(io::ErrorKind::NotFound)?;
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let socket = pidfd_getfd(process, fd, PidfdGetfdFlags::empty())?;
    // Taking away the cork pushes out what waits (tcp(7)). One that the program has set is left to it.
    if !sockopt::tcp_cork(&socket)? {
        sockopt::set_tcp_cork(&socket, false)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        net::{TcpListener, TcpStream},
        os::fd::AsRawFd as _,
    };

    use super::send_again;

    #[test]
    fn the_socket_of_another_process_is_reached_through_its_descriptor() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let client = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connection");
        send_again(std::process::id(), client.as_raw_fd()).expect("nothing waits, and nothing is wrong");
        send_again(std::process::id(), 1_000_000).expect_err("no such descriptor");
        send_again(u32::MAX, 0).expect_err("no such process");
    }
}
