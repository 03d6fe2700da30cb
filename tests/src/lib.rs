//! Live tests of Tollgate, and what they are judged by: a local TLS model server that keeps the truth, real clients
//! that talk to it, and a fixture around the real daemon.

#![forbid(unsafe_code)]

pub mod build_tree;
pub mod clients;
pub mod daemon;
pub mod escapes;
pub mod model_server;
pub mod pty;
pub mod receiver;
pub mod reference_price;
pub mod report;
pub mod usage;

pub use clients::{Client, Seen};
pub use daemon::Daemon;
pub use model_server::{Config, ModelServer, Truth};
pub use report::Report;
pub use usage::Usage;
