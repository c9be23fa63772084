//! Cancellation by SIGHUP, SIGINT and SIGTERM, as events of the poll loop.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Blocks the cancelling signals and reads them from a descriptor instead. A signal that the caller had ignored (`nohup`)
/// stays ignored.
///
/// # Errors
/// When signalfd or `/proc/self/status` cannot be had.
pub fn take() -> std::io::Result<SignalFd> {
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
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// A cancelling signal that has come, if any. Where the descriptor cannot be read there is none.
#[must_use]
pub fn pending(signals: &SignalFd) -> Option<i32> {
    signals.read_signal().ok().flatten().and_then(|signal| i32::try_from(signal.ssi_signo).ok())
}
