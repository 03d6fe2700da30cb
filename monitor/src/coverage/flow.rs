//! One connection, as its socket shows it.

use std::fmt;

use monitor_common::{SPEAKS_QUIC, SPEAKS_TLS, SPEAKS_TLS_LOST, Socket};

use super::{
    hello::{Beginning, Told},
    quic,
    watch::Settings,
};

/// What a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    Unknown,
    Tls,
    /// QUIC, under the name of its version.
    Quic(&'static str),
    /// Plaintext HTTP.
    Http,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "a connection",
            Self::Tls => "TLS",
            Self::Quic(version) => version,
            Self::Http => "plaintext HTTP, sent by a way that is not followed",
        })
    }
}

/// Whether what a connection sends is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing to read yet, or it is read.
    Fine,
    /// It looks as if it were not, since this time.
    Doubted(u64),
    Uncovered,
}

#[derive(Debug, Clone)]
pub struct Flow {
    pub socket: Socket,
    pub via: Via,
    /// By SNI or `Host`.
    pub host: Option<Box<str>>,
    pub verdict: Verdict,
    /// Its plaintext is read at the socket.
    pub is_read: bool,
    pub is_stopped: bool,
    /// Kept in which map.
    pub is_datagrams: bool,
    pub is_over: bool,
    /// When something about it was last different.
    pub changed: u64,
    beginning: Beginning,
}

impl Flow {
    pub fn new(is_datagrams: bool, now: u64) -> Self {
        Self {
            socket: Socket::default(),
            via: Via::Unknown,
            host: None,
            verdict: Verdict::Fine,
            is_read: false,
            is_stopped: false,
            is_datagrams,
            is_over: false,
            changed: now,
            beginning: Beginning::default(),
        }
    }

    /// A piece of its beginning; says whether the host is known only now.
    pub fn begins(&mut self, offset: u64, bytes: &[u8], is_quic: bool) -> bool {
        if is_quic {
            if let Some(version) = quic::initial_version(bytes) {
                self.via = Via::Quic(version);
            }
            return false;
        }
        let before = self.host.is_some();
        match self.beginning.push(offset, bytes) {
            Some(Told::Hello(hello)) => (self.via, self.host) = (Via::Tls, hello.server_name),
            Some(Told::Http(host)) => (self.via, self.host) = (Via::Http, host),
            None => {}
        }
        !before && self.host.is_some()
    }

    /// What has passed by now.
    pub fn passes(&mut self, socket: &Socket, now: u64) {
        if self.socket != *socket {
            self.changed = now;
        }
        self.socket = *socket;
        match socket.speaks {
            SPEAKS_TLS | SPEAKS_TLS_LOST => self.via = Via::Tls,
            SPEAKS_QUIC if !matches!(self.via, Via::Quic(_)) => self.via = Via::Quic("QUIC"),
            _ => {}
        }
    }

    /// Bytes of application data that were sent, and how many of them were read.
    pub fn application(&self) -> (u64, u64) {
        match self.via {
            Via::Http if self.verdict == Verdict::Uncovered => (self.socket.sent, 0),
            Via::Http | Via::Unknown => (0, 0),
            Via::Quic(_) => (self.socket.application, 0),
            Via::Tls => (self.socket.application, self.socket.readable.min(self.socket.application)),
        }
    }

    /// Bytes in both directions, by which calls are estimated.
    pub fn bytes(&self) -> (u64, u64) {
        let sent = match self.via {
            Via::Tls | Via::Quic(_) => self.socket.application,
            Via::Http | Via::Unknown => self.socket.sent,
        };
        (sent, self.socket.received.saturating_sub(self.socket.received_before))
    }

    /// Looks at it again; `has_readable` says whether its process has ever used a probed function. Says whether it is uncovered since now.
    pub fn judge(&mut self, settings: &Settings, has_readable: bool, now: u64) -> bool {
        // What is kept from leaving has not been sent.
        let is_silent = self.socket.sent == 0 && !self.is_stopped;
        if self.verdict == Verdict::Uncovered || is_silent {
            return false;
        }
        let (looks_unread, grace) = match self.via {
            Via::Quic(_) => (true, 0),
            Via::Tls if self.socket.speaks == SPEAKS_TLS_LOST => (!has_readable, 0),
            Via::Tls => {
                let (sent, read) = self.application();
                // Nothing of the process is read: nothing will be. Else something may be on its way, or be of the handshake.
                (sent > 0 && read.saturating_mul(2) < sent, if has_readable { settings.grace } else { 0 })
            }
            // What has ended without being read will not be.
            Via::Http => (settings.sees_plaintext && !self.is_read, if self.is_over { 0 } else { settings.grace }),
            Via::Unknown => (false, 0),
        };
        let since = match self.verdict {
            Verdict::Doubted(since) if looks_unread => since,
            _ => now,
        };
        let is_uncovered = looks_unread && (now.saturating_sub(since) >= grace || self.is_stopped);
        self.verdict = match (looks_unread, is_uncovered) {
            (false, _) => Verdict::Fine,
            (true, false) => Verdict::Doubted(since),
            (true, true) => Verdict::Uncovered,
        };
        is_uncovered
    }
}
