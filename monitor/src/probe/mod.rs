//! The kernel's eyes: loads the eBPF programs, finds TLS functions and attaches to them, and reads the ring.
//!
//! In: a running kernel. Out: [`Event`]s, in order per connection, borrowed from the ring.
//!
//! **Invariant:** a library that cannot be probed is reported ([`Attached`], [`LibraryError`]), never skipped in silence; what the kernel could
//! not hand over is counted ([`Probes::counters`]). Payload bytes are hostile and are not interpreted here.

mod attach;
mod btf;
mod event;
pub mod finder;
mod fullness;
mod kernel;
mod known;
mod load;
mod memory;
pub mod pins;
mod plan;
mod presence;
mod programs;
mod takeover;
mod tracefs;
mod traffic;

pub use attach::{Attached, Looked, Request};
pub use event::{Admission, ConnectionId, Event, Mapping, Pid, Reach, Slot, Transport, Whole};
pub use fullness::{Fullness, Maps};
pub use kernel::{Capacity, LoadError, Loaded, Memberships, Probes, Ring};
pub use load::{Setup, load};
pub use memory::{Copied, Read, Readers};
pub use traffic::{Traffic, destination};
