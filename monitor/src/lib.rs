//! Tollgate's rooms, in the order in which data passes them.

pub mod budget;
pub mod enforce;
pub mod meter;
pub mod price;
pub mod probe;
pub mod task;
pub mod wire;
