//! The memory that the sockets of a call without a cgroup can hold. The kernel counts the sockets of a network namespace
//! (`/proc/net/sockstat`), also those of which no process has a descriptor: in transit, not accepted yet, or closed with data
//! unsent. Each holds at most its two buffers, which the call cannot enlarge.

use crate::confine::buffers::TCP_BUFFER;
use nix::sys::socket::{getsockopt, sockopt};
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

/// Sockets that are not counted against `memory`: ordinary programs have some, and seldom fill them.
pub const FREE: u64 = 64;
/// The socket itself with its file, its options, and the last packet, which may exceed the buffer.
const OVERHEAD: u64 = 32 << 10;
/// Bytes that are read of `sockstat`; the number is in its first line.
const FILE: usize = 512;

/// The sockets of the call's network namespace.
#[derive(Debug, Default)]
pub struct Sockets {
    /// The open file keeps the namespace readable.
    counts: Option<File>,
    /// Bytes that one socket can hold.
    each: u64,
}

/// The sockets at one look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// The number of sockets.
    pub sockets: u64,
    /// Bytes that the sockets beyond [`FREE`] can hold.
    pub bytes: u64,
}

impl Sockets {
    /// Learns the size of the buffers from `fresh`, an unused socket of that namespace.
    ///
    /// # Errors
    /// `getsockopt(2)` fails.
    pub fn learn(&mut self, fresh: BorrowedFd<'_>) -> io::Result<()> {
        let size = |size: usize| (size as u64).max(TCP_BUFFER.into());
        let (send, receive) = (getsockopt(&fresh, sockopt::SndBuf)?, getsockopt(&fresh, sockopt::RcvBuf)?);
        self.each = size(send) + size(receive) + OVERHEAD;
        Ok(())
    }

    /// Takes the file that the child opened inside, `/proc/self/net/sockstat`.
    pub fn watch(&mut self, counts: OwnedFd) {
        self.counts = Some(File::from(counts));
    }

    /// What the sockets can hold now.
    ///
    /// # Errors
    /// The file cannot be read or has another format: what is not counted is not limited.
    pub fn look(&self) -> io::Result<Held> {
        let mut text = [0; FILE];
        let file = self.counts.as_ref().ok_or_else(|| io::Error::other("sockstat was not opened"))?;
        let length = file.read_at(&mut text, 0)?;
        let sockets = used(&text[..length]).ok_or_else(|| io::Error::other("sockstat: no line of sockets"))?;
        Ok(Held { sockets, bytes: sockets.saturating_sub(FREE).saturating_mul(self.each) })
    }
}

/// `sockets: used 12`, the first line.
fn used(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.lines().next()?.strip_prefix("sockets: used ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn sockets_are_counted_from_the_first_line() {
        assert_eq!(used(b"sockets: used 112\nTCP: inuse 7 orphan 0\n"), Some(112));
        assert_eq!(used(b"TCP: inuse 7\nsockets: used 112\n"), None);
        assert_eq!(used(b""), None);
    }

    #[test]
    fn what_cannot_be_counted_is_an_error_and_what_can_grows() {
        assert!(Sockets::default().look().is_err());
        let pair = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut sockets = Sockets::default();
        sockets.learn(pair.0.as_fd()).unwrap();
        assert!(sockets.each >= 2 * u64::from(TCP_BUFFER) + OVERHEAD, "{}", sockets.each);
        sockets.watch(File::open("/proc/self/net/sockstat").unwrap().into());
        let many: Vec<_> = (0..200).map(|_| std::os::unix::net::UnixDatagram::pair().unwrap()).collect();
        let held = sockets.look().unwrap();
        assert!(held.sockets >= 400 && held.bytes >= 336 * sockets.each, "{held:?} {}", many.len());
        sockets.watch(File::open("/dev/null").unwrap().into());
        assert!(sockets.look().is_err());
    }
}
