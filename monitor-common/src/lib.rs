//! The types that Tollgate's eBPF programs and its daemon share. No logic.
#![no_std]
