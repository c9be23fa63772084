//! What the plugin tried and a layer stopped: the same act is one entry with a count, and the table is bounded.

use super::memory;
use crate::confine::filter;
use crate::gateway;
use crate::gateway::events::Refusal;
use crate::types::Denial;
use serde_json::{Map, Value, json};

/// Entries that are kept; the rest is counted.
const MAX_ENTRIES: usize = 100;

/// The call's denials so far.
#[derive(Debug, Default)]
pub struct Denials {
    entries: Vec<Denial>,
    dropped: u64,
}

impl Denials {
    /// Adds one, or counts it to its like. True when it is a new entry.
    pub fn add(&mut self, denial: Denial) -> bool {
        self.add_with(denial, |_| {})
    }

    /// The same of a system call, by the process with this number. Who that is, is looked up for a new entry alone, and kept
    /// if `still` says afterwards that the process was there.
    pub fn add_of(&mut self, denial: Denial, pid: u32, still: impl Fn() -> bool) {
        self.add_with(denial, |denial| {
            let found = identity(pid);
            if still() {
                (denial.pid, denial.comm) = found;
            }
        });
    }

    fn add_with(&mut self, mut denial: Denial, complete: impl FnOnce(&mut Denial)) -> bool {
        let same = |other: &&mut Denial| {
            other.layer == denial.layer && other.operation == denial.operation && other.object == denial.object
        };
        if let Some(known) = self.entries.iter_mut().find(same) {
            known.count = known.count.saturating_add(denial.count);
            return false;
        }
        if self.entries.len() >= MAX_ENTRIES {
            self.dropped = self.dropped.saturating_add(denial.count);
            return false;
        }
        complete(&mut denial);
        self.entries.push(denial);
        true
    }

    /// Counts acts that somebody else had no room for.
    pub fn drop_more(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// The entries, and how many acts had no room.
    #[must_use]
    pub fn finish(self) -> (Vec<Denial>, u64) {
        (self.entries, self.dropped)
    }
}

/// A system call that the filter refused, by whom is not said: see [`Denials::add_of`].
#[must_use]
pub fn syscall(number: i32, arguments: &[u64; 6]) -> Denial {
    let name = filter::syscall_name(number).map_or_else(|| format!("syscall_{number}"), str::to_owned);
    // Only arguments that are values: what a pointer points to may change under the reader's eyes.
    let values: Map<String, Value> = filter::value_args(number)
        .iter()
        .map(|(index, label)| ((*label).to_owned(), Value::from(arguments[*index])))
        .collect();
    Denial::new("seccomp", &name, Value::Object(values))
}

/// The process as its own pid namespace numbers it, and its name. It may be gone already.
fn identity(pid: u32) -> (Option<i32>, Option<String>) {
    let Ok(pid) = i32::try_from(pid) else { return (None, None) };
    let status = memory::shown(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let inside = field("NSpid:").and_then(|pids| pids.split_ascii_whitespace().last()).and_then(|pid| pid.parse().ok());
    (inside, field("Name:").map(str::to_owned))
}

/// A limit of the grant that the call came up against: which key, its value and the use, in the key's own unit.
#[must_use]
pub fn limit(key: &str, value: u64, used: Option<u64>, unit: &str) -> Denial {
    Denial::new("limits", key, json!({ "limit": value, "used": used, "unit": unit }))
}

/// A look-up that the stub refused in a call without egress.
#[must_use]
pub fn lookup(name: &str) -> Denial {
    gateway::denial(Refusal::resolve(name))
}
