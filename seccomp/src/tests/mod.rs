//! Tests every rule both ways, on both architectures, with an interpreter.

mod engine;
mod host;
mod loading;
mod plugin;
mod profiles;
mod runtime;

use crate::bpf::{Action, Instruction};
use crate::profile::{Condition, Verdict};
use crate::{Arch, PROFILES, Profile, Table, oracle};
use std::fs;
use std::path::Path;

const I386: u32 = 0x4000_0003;
const ARM: u32 = 0x4000_0028;
const ENOSYS: Action = Action::Errno(38);

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn json(name: &str) -> String {
    read(&format!("{name}.json"))
}

fn table() -> Table {
    Table::parse(&read("syscalls.tbl")).unwrap()
}

fn load(name: &str, arch: Arch) -> Profile {
    Profile::load(&json(name), &table(), arch).unwrap()
}

/// A program for one architecture, for questions by name.
struct Asked {
    arch: Arch,
    table: Table,
    program: Vec<Instruction>,
}

impl Asked {
    fn of(name: &str, arch: Arch) -> Asked {
        Asked { arch, table: table(), program: load(name, arch).compile().unwrap() }
    }

    /// The same with another program.
    fn with(&self, program: Vec<Instruction>) -> Asked {
        Asked { arch: self.arch, table: table(), program }
    }

    fn number(&self, nr: u32, args: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        oracle::run(&self.program, self.arch.audit(), nr, &all).0
    }

    /// `None` if the architecture has no such system call.
    fn say(&self, name: &str, args: &[u64]) -> Option<u32> {
        self.table.number(name, self.arch).map(|nr| self.number(nr, args))
    }

    #[track_caller]
    fn expect(&self, want: Action, name: &str, args: &[u64]) {
        self.returns(want.value(), name, args);
    }

    /// The same for the filter's return value.
    #[track_caller]
    fn returns(&self, want: u32, name: &str, args: &[u64]) {
        if let Some(said) = self.say(name, args) {
            assert_eq!(said, want, "{name}({args:x?}) on {}: {said:#x}, not {want:#x}", self.arch);
        }
    }
}

/// The plugin's profile on both architectures.
fn both(mut check: impl FnMut(&Asked)) {
    for arch in Arch::ALL {
        check(&Asked::of("default", arch));
    }
}

/// Argument lists that reach every condition of a verdict in every state, with the rest of its list met.
fn probes(v: &Verdict) -> Vec<[u64; 6]> {
    let mut out = vec![[0; 6], [u64::MAX; 6]];
    for list in &v.allow_when {
        let mut good = [0u64; 6];
        // For `ne`, a value that is not in any condition.
        for c in list {
            good[usize::from(c.arg)] = if c.equal { u64::from(c.value) } else { 0x7654 };
        }
        out.push(good);
        for c in list {
            for edge in edges(c) {
                let mut args = good;
                args[usize::from(c.arg)] = edge;
                out.push(args);
            }
        }
    }
    out
}

/// An argument's values at the edges of a rule: equal, each bit flipped, with the high half set.
fn edges(c: &Condition) -> Vec<u64> {
    let v = u64::from(c.value);
    let mut out = vec![v, v | 0xffff_ffff_0000_0000, v.wrapping_add(1), 0, u64::MAX, !u64::from(c.mask) | v];
    out.extend((0..64).map(|bit| v ^ (1 << bit)));
    out
}
