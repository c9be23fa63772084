//! Descriptors that a call adds to epoll sets (epoll(7)). The kernel counts what is in such sets for each user, over all
//! processes (`/proc/sys/fs/epoll/max_user_watches`), and has no limit of its own for a process: a descriptor that was
//! duplicated stays in a set under each number that it had, so that 250 descriptors can make more than half a million.
//! So each addition is told to the supervisor, which lets it go on or not. What leaves a set is not seen: additions are
//! counted, over the whole call.

use crate::sys::seccomp::notif_continue;
use std::io;
use std::os::fd::BorrowedFd;

/// Of a user's limit a call may take one part in so many.
const SHARE: u64 = 8;
/// Additions of a call, at least: a program that pauses and resumes reading adds its descriptor again each time.
const LEAST: u64 = 1 << 16;
/// At most: the kernel's memory for so many is about 50 MiB.
const MOST: u64 = 1 << 18;

/// What is left of the additions of a call.
#[derive(Debug, Clone, Copy)]
pub struct Additions(u64);

impl Additions {
    /// A call's, on this host.
    #[must_use]
    pub fn here() -> Self {
        let limit = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches").ok();
        Additions::of(limit.and_then(|text| text.trim().parse().ok()))
    }

    /// A call's, where each user has this limit; the least where that cannot be told.
    fn of(limit: Option<u64>) -> Self {
        Additions(limit.map_or(LEAST, |limit| limit / SHARE).clamp(LEAST, MOST))
    }

    /// Lets one more go on, whose notification this is; false when there have been too many. It counts whatever the kernel
    /// says to it, so that nothing rests on what its pointer points to.
    ///
    /// # Errors
    /// What the listener says.
    pub fn one(&mut self, listener: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
        match self.take() {
            // Not there any more: whoever asked has ended.
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
