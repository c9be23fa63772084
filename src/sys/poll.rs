//! Waiting for descriptors.

use rustix::event::{PollFd, Timespec};
use rustix::io::{Errno, Result};
use std::time::{Duration, Instant};

/// Waits until one of `fds` is ready and returns how many are: 0 after `time`, without a time never. A signal does not end the wait;
/// to wait for signals, add a signalfd(2).
///
/// # Errors
/// As poll(2), except `EINTR`.
pub fn poll(fds: &mut [PollFd<'_>], time: Option<Duration>) -> Result<usize> {
    // A time that the clock or the kernel cannot express counts as none.
    let until = time.and_then(|time| Instant::now().checked_add(time));
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match rustix::event::poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            polled => return polled,
        }
    }
}
