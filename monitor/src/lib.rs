//! Tollgate's rooms, in the order in which data passes them.

pub mod wire;
