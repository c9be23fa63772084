//! Fuzzing of whatever parses hostile bytes. Each target makes inputs that are nearly right, mutates them, and holds what
//! the product says of them against a second, simpler reading of the same bytes.
//!
//! `UPM_FUZZ_CASES=N` sets how many cases each target runs, `UPM_FUZZ_SEED=N` where they begin. A case depends on its own
//! seed alone, so that a failure prints the two values that run just that case again.

mod arguments;
mod config;
mod frames;
mod harness;
mod hello;
mod json;
mod others;
mod proxy;
mod stub;
