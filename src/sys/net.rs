//! Bringing an interface up, and socket options that crates do not name.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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

/// The supplementary groups that the peer of a connected UNIX socket had when it connected (`SO_PEERGROUPS`, Linux 4.13).
///
/// # Errors
/// `ENODATA` for a socket without a peer.
pub fn peer_groups(socket: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    // NGROUPS_MAX of the kernel: no process has more.
    const MOST: usize = 65_536;
    let mut groups = vec![0u32; 64];
    loop {
        let mut length = libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes into the vector's initialised elements, and the length it needs
        // or used into `length`; both outlive the call.
        let result = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<u32>();
        match check(result.into()) {
            Ok(_) => {
                groups.truncate(count);
                return Ok(groups);
            }
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() && count <= MOST => {
                groups.resize(count, 0);
            }
            Err(error) => return Err(error),
        }
    }
}

/// A pidfd of the process that connected a UNIX socket (`SO_PEERPIDFD`, Linux 6.5). `None` where the kernel has no such
/// option, and where that process is gone.
///
/// # Errors
/// `EMFILE`, `ENODATA` for a socket without a peer.
pub fn peer_pidfd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    // asm-generic/socket.h; libc has no name for it on every target.
    const SO_PEERPIDFD: libc::c_int = 77;
    let mut fd: libc::c_int = -1;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one int, of which the size is passed; both outlive the call.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, (&raw mut fd).cast(), &raw mut length)
    };
    match check(result.into()) {
        // SAFETY: the kernel has just made this descriptor for the caller, and nothing else owns it.
        Ok(_) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOPROTOOPT | libc::ESRCH | libc::EINVAL)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Bytes of a TCP connection that its peer has not acknowledged, the FIN as one of them (`SIOCOUTQ`, tcp(7)); 0 once the
/// connection is closed, when nothing is kept of it any more.
///
/// # Errors
/// The descriptor is not a TCP socket.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    // linux/tcp_states.h; tcpi_state is the first byte of struct tcp_info.
    const TCP_CLOSE: u8 = 7;
    let mut state = 0u8;
    let mut length: libc::socklen_t = 1;
    // SAFETY: the option writes at most `length` bytes, which is what `state` has; both outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut state).cast(),
            &raw mut length,
        )
    };
    check(result.into())?;
    if state == TCP_CLOSE {
        return Ok(0);
    }
    let mut bytes: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (TIOCOUTQ) writes one int, which outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) }.into())?;
    usize::try_from(bytes).map_err(io::Error::other)
}
