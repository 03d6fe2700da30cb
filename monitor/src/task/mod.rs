//! Who pays: tasks, and the processes in them.
//!
//! In: what is known of processes. Out: the task that pays for them, and the process tree inside it.
//!
//! **Invariant:** pure. Membership is sticky: a process that belonged to a task once belongs to it until it is gone, and so do its children.
#![forbid(unsafe_code)]

mod account;
mod agents;
mod id;
mod tree;

pub use account::{AccountName, Label, Labels, USER_TENANT};
pub use agents::Agents;
pub use id::{InvalidTaskId, TaskId};
pub use tree::{ProcessTree, TaskProcess};
