//! The whole room, by the events that the kernel would tell.
