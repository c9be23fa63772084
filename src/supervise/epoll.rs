//! Descriptors that a call adds to epoll sets (epoll(7)). The kernel limits the entries of such sets for each user
//! (`/proc/sys/fs/epoll/max_user_watches`), not for a process: a duplicated descriptor stays in a set under each number that it
//! had, so 250 descriptors can make more than half a million entries. So the filter reports each addition to the supervisor,
//! which allows or denies it. Removals are not reported: the additions of the whole call are counted.

use crate::sys::seccomp::notif_continue;
use std::io;
use std::os::fd::BorrowedFd;

/// A call may use this fraction (1/8) of a user's limit.
const SHARE: u64 = 8;
/// The lowest limit: a program that pauses and resumes reading adds its descriptor again each time.
const LEAST: u64 = 1 << 16;
/// The highest limit: the kernel uses about 50 MiB for it.
const MOST: u64 = 1 << 18;

/// The additions that are left to a call.
#[derive(Debug, Clone, Copy)]
pub struct Additions(u64);

impl Additions {
    /// Those of a new call on this host.
    #[must_use]
    pub fn here() -> Self {
        let limit = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches").ok();
        Additions::of(limit.and_then(|text| text.trim().parse().ok()))
    }

    /// Those of a new call, if each user has this limit; [`LEAST`] if it is unknown.
    fn of(limit: Option<u64>) -> Self {
        Additions(limit.map_or(LEAST, |limit| limit / SHARE).clamp(LEAST, MOST))
    }

    /// Lets the addition with this notification go on; false if there have been too many. It counts whether or not the kernel
    /// accepts it, so nothing depends on what its pointer points to.
    ///
    /// # Errors
    /// An error of the listener.
    pub fn one(&mut self, listener: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
        match self.take() {
            // False: the process has ended.
            true => notif_continue(listener, id).map(|_| true),
            false => Ok(false),
        }
    }

    fn take(&mut self) -> bool {
        let left = self.0.checked_sub(1);
        self.0 = left.unwrap_or(0);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_the_hosts() {
        for (limit, most) in [(None, LEAST), (Some(1000), LEAST), (Some(858_000), 107_250), (Some(5_000_000), MOST)] {
            assert_eq!(Additions::of(limit).0, most);
        }
        let mut few = Additions(2);
        assert_eq!([few.take(), few.take(), few.take(), few.take()], [true, true, false, false]);
    }
}
