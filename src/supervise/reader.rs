//! Parsing what a caller sent in a process without any rights: if the engine runs as root, and if it may take long.
//!
//! The result is limited in length, and otherwise as hostile as the input. The child starts with a copy of the engine's memory,
//! with the secrets of the configuration and of the engine's environment. Its answer is its only output, and the engine uses it
//! as the arguments: an exploited parser could put secrets into them. Credentials of clients (pip, npm) are read later.

use super::signals::{self, Signals};
use crate::confine::reader::{ReaderLimits, confine};
use crate::sys::clone::{Forked, fork_into};
use crate::sys::poll::poll;
use crate::sys::process::{self, Ended};
use crate::types::{Code, Failure};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::Write;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// First byte of an answer: the rest is from `act`.
const DONE: u8 = 1;
/// First byte of an answer: the rest is the reason why the child could not be confined.
const UNCONFINED: u8 = 2;

/// Runs `act` in a confined child and returns its bytes, at most `limit`.
///
/// # Errors
/// `arguments_invalid` if it used more memory or processor time than `bounds`, or a system call that its filter does not allow;
/// `cancelled` by a signal or by the caller; `timeout` after `until`; `sandbox_unavailable` if it cannot be confined.
pub fn run(
    bounds: ReaderLimits,
    limit: usize,
    until: Instant,
    signals: &Signals,
    act: impl FnOnce() -> Vec<u8>,
) -> Result<Vec<u8>, Failure> {
    let internal = |what: &str, error: std::io::Error| Failure::new(Code::Internal, format!("reader: {what}: {error}"));
    let (read, write) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| internal("pipe", errno.into()))?;
    let own = process::own_pidfd().map_err(|error| internal("pidfd", error))?;
    match fork_into(0, None).map_err(|error| internal("fork", error))? {
        Forked::Child => {
            let answer = match confine(bounds, write.as_raw_fd(), own.as_fd()) {
                Ok(()) => [vec![DONE], act()].concat(),
                Err(error) => [vec![UNCONFINED], error.to_string().into_bytes()].concat(),
            };
            // Not closed: its filter does not allow that, and its end closes it.
            let sent = ManuallyDrop::new(File::from(write)).write_all(&answer).is_ok();
            process::exit_now(i32::from(!sent));
        }
        Forked::Parent { pid, pidfd } => {
            drop(write);
            let collected = collect(&read, limit, until, signals);
            if collected.is_err() {
                // ESRCH: it has ended.
                rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
            }
            let (status, _) = process::wait_usage(pid).map_err(|errno| internal("wait", errno.into()))?;
            let answer = collected?;
            match (Ended::from_raw(status), answer.split_first()) {
                (Ended::Exited(0), Some((&DONE, rest))) => Ok(rest.to_vec()),
                (_, Some((&UNCONFINED, why))) => {
                    let why = crate::text::shorten(&*String::from_utf8_lossy(why), 400);
                    Err(Failure::new(
                        Code::SandboxUnavailable,
                        format!("the arguments cannot be read: the process for that cannot be confined: {why}"),
                    ))
                }
                (ended, _) => Err(unread(ended, bounds)),
            }
        }
    }
}

fn unread(ended: Ended, bounds: ReaderLimits) -> Failure {
    use nix::libc::{SIGABRT, SIGKILL, SIGSYS, SIGXCPU};
    let why = match ended {
        Ended::Killed(SIGXCPU | SIGKILL) => format!("more than {} s of processor time", bounds.cpu_s),
        // abort(3) of the C library raises its signal by a system call that the filter does not allow.
        Ended::Killed(SIGABRT | SIGSYS) => {
            format!(
                "more than {} MiB of memory, deeper recursion than its stack allows, or a denied system call",
                bounds.memory >> 20
            )
        }
        Ended::Killed(signal) => format!("what its process is not allowed to do (signal {signal})"),
        Ended::Exited(status) => format!("what its process failed to do (status {status})"),
    };
    Failure::new(
        Code::ArgumentsInvalid,
        format!("the arguments cannot be checked: that takes {why}; pass less, or simplify the method's schema"),
    )
}

fn collect(pipe: &OwnedFd, limit: usize, until: Instant, signals: &Signals) -> Result<Vec<u8>, Failure> {
    let failed = |errno: Errno| Failure::new(Code::Internal, format!("reader: {errno}"));
    let mut bytes = Vec::new();
    let mut buffer = vec![0u8; 65_536];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::new(Code::Timeout, "the arguments were not checked in time; pass less"));
        }
        let asking = signals.poll().map(|(fd, flags): (BorrowedFd<'_>, PollFlags)| PollFd::from_borrowed_fd(fd, flags));
        let mut fds: Vec<PollFd<'_>> =
            std::iter::once(PollFd::from_borrowed_fd(pipe.as_fd(), PollFlags::IN)).chain(asking).collect();
        poll(&mut fds, Some(left)).map_err(failed)?;
        if let Some(signal) = signals::pending(signals) {
            return Err(super::outcome::cancelled(signal));
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(count) if bytes.len() + count > limit + 1 => {
                return Err(Failure::new(Code::Internal, "reader: its answer is too long"));
            }
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
}
