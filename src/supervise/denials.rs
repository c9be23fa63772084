//! What the plugin tried and a layer denied: the same act is one entry with a count, and the table is bounded.

use super::memory;
use crate::confine::filter::{self, Handed};
use crate::keys::Key;
use crate::types::{Denial, Denied, Met, Refused, Syscall};
use std::borrow::Cow;

/// Entries that are kept; further ones are only counted.
const MAX_ENTRIES: usize = 100;

/// The call's denials so far.
#[derive(Debug, Default)]
pub(crate) struct Denials {
    entries: Vec<Denial>,
    dropped: u64,
}

impl Denials {
    /// Adds what was denied `count` times, to the entry of the same act if there is one.
    pub(crate) fn add(&mut self, denied: Denied, count: u64) {
        self.add_with(denied, count, |_| {});
    }

    /// Adds a denied system call of this process, which is looked up only for a new entry, and recorded only if it is `still`
    /// there afterwards.
    pub(crate) fn add_of(&mut self, call: Syscall, pid: u32, still: impl Fn() -> bool) {
        self.add_with(Denied::Syscall(call), 1, |denial| {
            let found = identity(pid);
            if still() {
                (denial.pid, denial.comm) = found;
            }
        });
    }

    fn add_with(&mut self, denied: Denied, count: u64, complete: impl FnOnce(&mut Denial)) {
        if let Some(known) = self.entries.iter_mut().find(|known| known.denied == denied) {
            known.count = known.count.saturating_add(count);
        } else if self.entries.len() >= MAX_ENTRIES {
            self.drop_more(count);
        } else {
            let mut denial = Denial::new(denied, count);
            complete(&mut denial);
            self.entries.push(denial);
        }
    }

    /// Counts acts for which the gateway had no room.
    pub(crate) fn drop_more(&mut self, count: u64) {
        self.dropped = self.dropped.saturating_add(count);
    }

    /// The entries, and the number of acts without one. What a C library only probes for is left out if the call `succeeded`, and
    /// comes last otherwise.
    #[must_use]
    pub(crate) fn finish(mut self, succeeded: bool) -> (Vec<Denial>, u64) {
        self.entries.retain(|entry| !(succeeded && is_probe(&entry.denied)));
        self.entries.sort_by_key(|entry| is_probe(&entry.denied));
        (self.entries, self.dropped)
    }
}

/// Whether glibc asks for nscd in the same way when it looks up a user (nscd/nscd_helper.c). It then goes on without.
fn is_probe(denied: &Denied) -> bool {
    use nix::sys::socket::{SockFlag, SockType};
    let stream = SockType::Stream as i32 | (SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK).bits();
    matches!(denied, Denied::Syscall(Syscall { refused: Refused::UnixSocket, values, .. })
        if values.contains(&("type", stream.unsigned_abs().into())))
}

/// A system call that the filter denied.
#[must_use]
pub(crate) fn syscall(number: i32, arguments: &[u64; 6], refused: Refused) -> Syscall {
    // The third argument of a lock is a pointer; other commands of fcntl take a number there.
    let pointer = |label: &str| label == "arg" && matches!(filter::handed(number, arguments), Some(Handed::Lock(_)));
    Syscall {
        number,
        name: filter::syscall_name(number).map_or_else(|| format!("syscall_{number}").into(), Cow::Borrowed),
        // Only values: what a pointer points to may change while it is read.
        values: filter::value_args(number)
            .iter()
            .filter(|(_, label)| !pointer(label))
            .map(|(index, label)| (*label, arguments[*index]))
            .collect(),
        refused,
    }
}

/// The number of a process in its own pid namespace, and its name; `None` if it has ended.
fn identity(pid: u32) -> (Option<i32>, Option<String>) {
    let Ok(pid) = i32::try_from(pid) else { return (None, None) };
    let status = memory::shown(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let inside = field("NSpid:").and_then(|pids| pids.split_ascii_whitespace().last()).and_then(|pid| pid.parse().ok());
    (inside, field("Name:").map(str::to_owned))
}

/// A limit that the call reached: its value and the use, in its own unit.
#[must_use]
pub(crate) fn met(key: Key, value: u64, used: Option<u64>) -> Denied {
    Denied::Limit(Met { key, value, used, stream: None })
}
