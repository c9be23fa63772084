//! What the gateway process needs from libc and no crate offers safely.

/// Sets `SIGPIPE` to be ignored. `splice(2)` into a socket whose peer is gone raises it and, unlike `send(2)`, has no
/// flag that prevents this.
///
/// # Errors
/// What `signal(2)` says.
pub fn ignore_sigpipe() -> std::io::Result<()> {
    // SAFETY: `SIG_IGN` installs no handler, so no code of ours ever runs in signal context.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}
