//! Numbers for machines that watch: what Prometheus scrapes.
//!
//! In: counts that others keep anyway. The engine is asked by one command, which copies them ([`Snapshot`]); the ledger, the alerts, the webhooks and the
//! kernel's maps are asked beside it. Out: the text format of Prometheus, on the API's socket (`GET /metrics`) and, if the configuration says so, on a
//! loopback address ([`Listener`]).
//!
//! **Invariant:** no label has the name of a task or anything else that a task can choose without a bound: models, tenants and workflows are counted
//! apart up to a number of each, and then as `other`. Names and labels are a stable interface; README has them, and a test holds it to that.
#![forbid(unsafe_code)]

mod families;
mod listen;
mod source;
mod tally;
mod text;

pub use families::{Family, Kind, Scrape, families};
pub use listen::{Listener, Loopback};
pub use source::Source;
pub use tally::{Snapshot, Tally};
pub use text::{CONTENT_TYPE, encode};
