//! `upm`: one allowed method of one allowed plugin per call, in a sandbox made only of what Linux offers.
//!
//! Imports point one way: `cli → call → {audit, config, decide, supervise, report} → types`;
//! `confine` sees the plan, `sys` and its own steps; `report` sees plain data.
// it panics when stderr is gone, and no answer would come: report::complain
#![deny(clippy::print_stderr)]

pub mod audit;
pub mod call;
pub mod cli;
pub mod config;
pub mod confine;
pub mod decide;
pub mod doctor;
pub mod gateway;
pub mod host;
pub mod json;
pub mod keys;
pub mod mounts;
pub mod plugin;
pub mod report;
pub mod sealed;
pub mod supervise;
pub mod sys;
pub mod text;
pub mod types;
pub mod units;
pub mod walk;
