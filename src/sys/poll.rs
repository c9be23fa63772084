//! Waiting for descriptors.

use rustix::event::{PollFd, Timespec};
use rustix::io::{Errno, Result};
use std::time::{Duration, Instant};

/// Waits until one of `fds` is ready and gives how many are: 0 after `time`. Without a time it waits as long as that takes. A
/// signal does not end it (whoever wants to know of signals has a signalfd(2) among the descriptors).
///
/// # Errors
/// As poll(2), but `EINTR`.
pub fn poll(fds: &mut [PollFd<'_>], time: Option<Duration>) -> Result<usize> {
    // a time that the clock or the kernel cannot express is as good as none
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
