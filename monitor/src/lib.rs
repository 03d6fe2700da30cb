//! Tollgate's rooms, in the order in which data passes them.

pub mod probe;

pub mod wire;

pub mod meter;

pub mod price;

pub mod pipeline;

pub mod coverage;

pub mod task;

pub mod label;

pub mod budget;

pub mod enforce;

pub mod ledger;

pub mod alert;

pub mod metrics;

pub mod config;

pub mod books;

pub mod engine;

pub mod report;

pub mod api;

pub mod replay;

pub mod top;

pub mod doctor;

pub mod cli;
