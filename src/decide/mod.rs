//! Whether a call may be made, and under which plan. Pure: no I/O here.

pub mod plan;
