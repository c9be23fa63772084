//! Bringing an interface up, and socket options that crates do not name.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets `IFF_UP` on the loopback interface of the caller's network namespace; the kernel then gives it 127.0.0.1/8 and ::1
/// (`netdevice(7)`).
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub fn loopback_up(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which zero is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    // Only the low 16 bits are the flags; lo has no others that could get lost.
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }.into())?;
    Ok(())
}

/// Refuses descriptors that a peer passes (`SO_PASSRIGHTS` off, Linux 6.16). Returns false where the kernel has no such
/// option: a passed descriptor is then dropped by a `read` without control buffer.
///
/// # Errors
/// Anything but `ENOPROTOOPT` and `EOPNOTSUPP`.
pub fn refuse_descriptors(socket: BorrowedFd<'_>) -> io::Result<bool> {
    // asm-generic/socket.h; libc has no name for it yet.
    const SO_PASSRIGHTS: libc::c_int = 83;
    let off: libc::c_int = 0;
    // SAFETY: the option reads one int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const off).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match check(result.into()) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::EOPNOTSUPP)) => Ok(false),
        Err(error) => Err(error),
    }
}
