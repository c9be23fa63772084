//! A child process for acts that change their process for good, such as a supervised call. It reports its result.

use super::signals::{self, Signals};
use crate::confine::session;
use crate::confine::step::Step;
use crate::sys::clone::{Forked, fork_into};
use crate::sys::poll::poll;
use rustix::event::{PollFd, PollFlags};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The result of a child.
pub struct Returned {
    /// The bytes that `act` returned.
    pub bytes: Vec<u8>,
    /// The last cancelling signal that was passed on to the child.
    pub signal: Option<i32>,
}

/// Runs `act` in a forked child, which may return at most `limit` bytes. Cancelling `signals` are passed on to the child. It is
/// responsible for its own deadline, and dies with this process.
///
/// # Errors
/// No more processes or descriptors; a child that ended without returning; more bytes than `limit`.
pub fn run(limit: u64, signals: Option<&Signals>, act: impl FnOnce() -> Vec<u8>) -> io::Result<Returned> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let own = crate::sys::process::own_pidfd()?;
    match fork_into(0, None)? {
        Forked::Child => {
            drop(read);
            let outlived = session::die_with(own.as_fd(), Step::Prepare).is_err();
            let sent = !outlived && File::from(write).write_all(&act()).is_ok();
            crate::sys::process::exit_now(i32::from(!sent));
        }
        Forked::Parent { pid, pidfd } => {
            drop(write);
            let collected = collect(&read, signals, pidfd.as_fd(), limit);
            if collected.is_err() {
                // What it runs dies with it. ESRCH: it has ended.
                rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
            }
            let (status, _) = crate::sys::process::wait_usage(pid)?;
            let collected = collected?;
            match status {
                0 => Ok(collected),
                status => Err(io::Error::other(format!("its process ended with wait status {status:#x}"))),
            }
        }
    }
}

fn collect(pipe: &OwnedFd, signals: Option<&Signals>, child: BorrowedFd<'_>, limit: u64) -> io::Result<Returned> {
    let (mut bytes, mut came) = (Vec::new(), None);
    let mut buffer = vec![0u8; 65_536];
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)];
        let asking = signals.into_iter().flat_map(Signals::poll);
        fds.extend(asking.map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        poll(&mut fds, None)?;
        if let Some(signal) = signals.and_then(signals::pending) {
            came = Some(signal);
            if let Some(signal) = rustix::process::Signal::from_named_raw(signal) {
                // ESRCH: it has ended.
                rustix::process::pidfd_send_signal(child, signal).ok();
            }
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return Ok(Returned { bytes, signal: came }),
            Ok(count) if (bytes.len() + count) as u64 > limit => {
                return Err(io::Error::other(format!("its answer is longer than {limit} bytes")));
            }
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
