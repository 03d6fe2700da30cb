//! The one thread that decides.
//!
//! Reads the ring, follows connections through the pipeline, keeps accounts, answers held requests, and hands everything slow (disk, journal,
//! kills) to others. It alone owns this state, so nothing waits for a lock between an event and its decision.

mod calls;
mod clock;
mod command;
mod held;
mod lifecycle;
mod run;
mod state;

pub use command::{Command, CommandError, Handle, Joined, Started, Status, TaskStatus};
pub use run::{Parts, start};
