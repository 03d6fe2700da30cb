//! The one thread that decides.
//!
//! Reads the ring, follows connections through the pipeline, keeps accounts, answers held requests, and hands everything slow (disk, journal,
//! kills) to others. It alone owns this state, so nothing waits for a lock between an event and its decision.

mod accounts;
mod asker;
mod calls;
mod clock;
mod command;
mod configure;
mod coverage;
mod effects;
mod held;
mod labels;
mod latency;
mod lifecycle;
mod metrics;
mod orders;
mod reach;
mod reading;
mod recover;
mod run;
mod sockets;
mod state;
mod trouble;
mod work;

pub use asker::Asker;
pub use command::{
    AccountStatus, Command, CommandError, Handle, Joined, LabelStatus, Order, Past, Start, Started, Status, TaskStatus,
};
pub use run::{Parts, start};
