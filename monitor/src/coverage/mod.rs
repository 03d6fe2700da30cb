//! What cannot be read is still seen.
//!
//! In: what the kernel counts on the sockets of tasks (bytes, application data in TLS records, how much of that was plaintext at a probe before),
//! the beginnings of connections, and what calls cost at which host. Out: [`Finding`]s about connections of which nothing can be read,
//! with what they cost by an estimate from their bytes; and how much of what a task sends is read.
//!
//! A connection is *uncovered* if less than half of the application data that it sent had passed a probe of its process. The handshake does
//! not count, so one that only connects is not; what a library was handed and sent later, is, since it is taken off an account of the process.
//!
//! **Invariant:** pure: no clock, no map, no socket; bounded memory ([`Settings::connections`]); never panics on what processes send.
#![forbid(unsafe_code)]

mod flow;
mod hello;
mod model;
mod quic;
#[cfg(test)]
mod tests;
mod watch;

pub use flow::Via;
pub use hello::{Beginning, Hello};
pub use model::{Fit, Models, Rates, Sample};
pub use quic::initial_version;
pub use watch::{Coverage, Finding, Settings, Share, Uncovered};
