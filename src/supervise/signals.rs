//! Cancellation as events of the poll loop: SIGHUP, SIGINT and SIGTERM, and a caller on a socket that has enough.

use super::client::Client;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::PollFlags;
use std::os::fd::{AsFd, BorrowedFd};

/// The cancelling signals, and the caller's connection where there is one.
#[derive(Debug)]
pub struct Signals {
    signals: SignalFd,
    client: Option<Client>,
}

/// Blocks the cancelling signals and reads them from a descriptor instead. A signal that the caller had ignored (`nohup`)
/// stays ignored.
///
/// # Errors
/// When signalfd or `/proc/self/status` cannot be had.
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
    /// The same, and this caller's connection.
    #[must_use]
    pub fn with_client(self, client: Option<Client>) -> Self {
        Signals { client, ..self }
    }

    /// What to poll: something to be told is there when one of these is ready.
    pub fn poll(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        std::iter::once((self.signals.as_fd(), PollFlags::IN)).chain(self.client.as_ref().and_then(Client::poll))
    }

    /// The signal that the call is cancelled by, if it is.
    ///
    /// # Errors
    /// When the descriptor cannot be read.
    pub fn cancelled(&self) -> nix::Result<Option<i32>> {
        if let Some(signal) = self.signals.read_signal()? {
            return Ok(Some(signal.ssi_signo.cast_signed()));
        }
        Ok(self.client.as_ref().and_then(Client::cancelled))
    }
}

/// A cancelling signal that has come, if any. Where the descriptor cannot be read there is none.
#[must_use]
pub fn pending(signals: &Signals) -> Option<i32> {
    signals.cancelled().ok().flatten()
}
