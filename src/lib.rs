//! `upm`: one allowed method of one allowed plugin per call, in a sandbox made only of what Linux offers.
//!
//! Imports point one way: `cli → call → {config, decide, supervise, report} → types`;
//! `confine` sees the plan, `sys` and its own steps; `report` sees plain data.

pub mod cli;
pub mod report;
pub mod types;
pub mod units;
