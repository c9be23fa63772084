//! Architectures, and the names and numbers of their system calls.

use crate::profile::{ProfileError, fail};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// An architecture that the profiles are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arch {
    /// Intel and AMD, 64 bits.
    X86_64,
    /// ARM, 64 bits.
    Aarch64,
}

impl Arch {
    /// Both architectures.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    /// `AUDIT_ARCH_*` of linux/audit.h. Those of i386 and 32-bit ARM differ; x32 shares that of x86_64 and
    /// sets bit 30 of the number instead.
    pub(crate) const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

/// Names and numbers of both architectures, from `syscalls.tbl`.
#[derive(Debug)]
pub struct Table {
    rows: BTreeMap<String, [Option<u32>; 2]>,
}

impl Table {
    /// Parses the table. A line is a name and two numbers; `-` means that there is none.
    ///
    /// # Errors
    /// A line that is invalid, or repeats a name or number.
    pub fn parse(text: &str) -> Result<Table, ProfileError> {
        let mut rows = BTreeMap::new();
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let mut words = line.split(' ');
            let (Some(name), Some(x86), Some(arm), None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return fail(format!("syscalls.tbl: {line:?} is not a name and two numbers"));
            };
            let mut numbers = [None, None];
            for (i, word) in [x86, arm].into_iter().enumerate() {
                if word == "-" {
                    continue;
                }
                let Ok(n) = word.parse() else {
                    return fail(format!("syscalls.tbl: {line:?}: {word:?} is not a number"));
                };
                if !seen[i].insert(n) {
                    return fail(format!("syscalls.tbl: {line:?}: {n} already has a name"));
                }
                numbers[i] = Some(n);
            }
            if rows.insert(name.to_owned(), numbers).is_some() {
                return fail(format!("syscalls.tbl: {name:?} occurs twice"));
            }
        }
        Ok(Table { rows })
    }

    /// All names of `arch`, with their numbers.
    pub fn of(&self, arch: Arch) -> impl Iterator<Item = (&str, u32)> {
        self.rows.iter().filter_map(move |(name, n)| n[arch as usize].map(|n| (name.as_str(), n)))
    }

    /// The number of `name` on `arch`.
    pub fn number(&self, name: &str, arch: Arch) -> Option<u32> {
        self.rows.get(name).and_then(|n| n[arch as usize])
    }
}
