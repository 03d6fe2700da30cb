//! Live tests of Tollgate, and what they are judged by: a local TLS model server that keeps the truth, real clients
//! that talk to it, and a fixture around the real daemon.

#![forbid(unsafe_code)]

pub mod build_tree;
pub mod clients;
pub mod model_server;
pub mod reference_price;
pub mod usage;

pub use clients::{Client, Seen};
pub use model_server::{Config, ModelServer, Truth};
pub use usage::Usage;
