//! Cancellation as events of the poll loop: SIGHUP, SIGINT and SIGTERM, and a caller on a socket.

use super::client::Client;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd};

/// The cancelling signals, and the connection of the caller if there is one.
#[derive(Debug)]
pub struct Signals {
    signals: SignalFd,
    client: Option<Client>,
}

/// Blocks the cancelling signals, to read them from a descriptor. A signal that is ignored (`nohup`) stays ignored.
///
/// # Errors
/// `signalfd(2)` fails, or `/proc/self/status` cannot be read.
pub fn take() -> std::io::Result<Signals> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    let set: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM]
        .into_iter()
        .filter(|signal| ignored & (1 << (*signal as i32 - 1)) == 0)
        .collect();
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    let signals = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    Ok(Signals { signals, client: None })
}

impl Signals {
    /// Adds the connection of the caller.
    #[must_use]
    pub fn with_client(self, client: Option<Client>) -> Self {
        Signals { client, ..self }
    }

    /// What to poll: if one of these is ready, [`Signals::cancelled`] may return a signal.
    pub fn poll(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        std::iter::once((self.signals.as_fd(), PollFlags::IN)).chain(self.client.as_ref().and_then(Client::poll))
    }

    /// The signal by which the call is cancelled, if it is.
    ///
    /// # Errors
    /// The descriptor cannot be read.
    pub fn cancelled(&self) -> nix::Result<Option<i32>> {
        if let Some(signal) = self.signals.read_signal()? {
            return Ok(Some(signal.ssi_signo as i32));
        }
        Ok(self.client.as_ref().and_then(Client::cancelled))
    }
}

/// A pending cancelling signal; `None` also if the descriptor cannot be read.
#[must_use]
pub fn pending(signals: &Signals) -> Option<i32> {
    signals.cancelled().ok().flatten()
}
