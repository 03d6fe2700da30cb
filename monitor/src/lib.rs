//! Tollgate's rooms, in the order in which data passes them.

pub mod probe;
pub mod wire;
