//! Whether a call may be made, with what arguments, and under which plan. Pure: no I/O here.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod cost;
pub mod grant;
pub mod learn;
pub mod names;
pub mod places;
pub mod plan;
mod remedies;
pub mod verdict;
