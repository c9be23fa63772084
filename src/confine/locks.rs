//! Locks of files, pid 1's part: it alone may find out which file a descriptor of the plugin refers to (pidfd_getfd(2)): it is the
//! plugin's ancestor, has its user, and a Landlock domain that contains the plugin's. Locks of an open file description
//! are taken by pid 1 itself, on the very description that it checked.

use super::channels::Tag;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, FlockOperation, StatxFlags, flock, statx};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is done with the descriptor, if the call may write the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Nothing: it is only looked at.
    Look,
    /// flock(2), `LOCK_SH`.
    Shared,
    /// flock(2), `LOCK_EX`.
    Exclusive,
    /// fcntl(2), `F_OFD_SETLK`, with the structure at this address of this process (as pid 1 numbers it).
    Range {
        /// Whose memory.
        process: i32,
        /// Where.
        address: u64,
    },
}

/// A request of the supervisor; the process comes with it, as a pidfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub what: What,
    /// The descriptor, as the process numbers it.
    pub fd: i32,
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Done; or, where it was only looked at, the call may write the file.
    Done,
    /// The call may not write the file.
    ReadOnly,
    /// The kernel's word on the lock.
    Failed(i32),
    /// The descriptor could not be looked at.
    Unseen(i32),
}

/// Bytes of a packet with a question.
const REQUEST: usize = 21;
/// Bytes of a packet with an answer.
const VERDICT: usize = 6;
/// What `Request::encode` gives, behind the tag.
pub type Encoded = [u8; REQUEST - 1];

impl Request {
    /// As bytes, without the tag.
    #[must_use]
    pub fn encode(&self) -> Encoded {
        let (what, process, address) = match self.what {
            What::Look => (0u32, 0, 0),
            What::Shared => (1, 0, 0),
            What::Exclusive => (2, 0, 0),
            What::Range { process, address } => (3, process, address),
        };
        let mut bytes = [0; REQUEST - 1];
        bytes[..4].copy_from_slice(&what.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.fd.to_ne_bytes());
        bytes[8..12].copy_from_slice(&process.to_ne_bytes());
        bytes[12..].copy_from_slice(&address.to_ne_bytes());
        bytes
    }

    fn decode(packet: &[u8; REQUEST]) -> Option<Request> {
        let [tag, a, b, c, d, e, f, g, h, i, j, k, l, address @ ..] = *packet;
        let what = match u32::from_ne_bytes([a, b, c, d]) {
            _ if tag != Tag::Lock as u8 => return None,
            0 => What::Look,
            1 => What::Shared,
            2 => What::Exclusive,
            3 => What::Range { process: i32::from_ne_bytes([i, j, k, l]), address: u64::from_ne_bytes(address) },
            _ => return None,
        };
        Some(Request { what, fd: i32::from_ne_bytes([e, f, g, h]) })
    }
}

impl Verdict {
    fn encode(self) -> [u8; VERDICT] {
        let (kind, errno) = match self {
            Verdict::Done => (0, 0),
            Verdict::ReadOnly => (1, 0),
            Verdict::Failed(errno) => (2, errno),
            Verdict::Unseen(errno) => (3, errno),
        };
        let [a, b, c, d] = errno.to_ne_bytes();
        [Tag::Locked as u8, kind, a, b, c, d]
    }

    /// From a packet of pid 1's, its tag included.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Verdict> {
        let [tag, kind, a, b, c, d] = *packet else { return None };
        let errno = i32::from_ne_bytes([a, b, c, d]);
        match kind {
            _ if tag != Tag::Locked as u8 => None,
            0 => Some(Verdict::Done),
            1 => Some(Verdict::ReadOnly),
            2 => Some(Verdict::Failed(errno)),
            3 => Some(Verdict::Unseen(errno)),
            _ => None,
        }
    }
}

/// Tries what the filter allows with set arguments alone: the wrapper tries in other ways where its first try fails. Where that
/// is not to be had no lock is taken, and each answer says so.
pub fn prepare(any: BorrowedFd<'_>) {
    mount(any).ok();
}

/// Answers one question, if there is one. Allocates nothing.
///
/// # Errors
/// The supervisor has closed the channel, or sent an invalid request.
pub fn answer(status: BorrowedFd<'_>, lockable: &[u64]) -> io::Result<()> {
    let mut packet = [0u8; REQUEST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let length = match recvmsg(status, &mut [IoSliceMut::new(&mut packet)], &mut control, flags) {
        Ok(message) => message.bytes,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut process = None;
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            process = received.last();
        }
    }
    let request = if length == REQUEST { Request::decode(&packet) } else { None };
    let (Some(request), Some(process)) = (request, process) else { return Err(io::ErrorKind::InvalidData.into()) };
    let verdict = judge(&request, process, lockable);
    rustix::io::write(status, &verdict.encode()).map(drop).map_err(Into::into)
}

/// Everything here is closed again before the answer: a copy that outlived it would keep a file open that the plugin has closed.
fn judge(request: &Request, process: OwnedFd, lockable: &[u64]) -> Verdict {
    let file = match pidfd_getfd(&process, request.fd, PidfdGetfdFlags::empty()) {
        Ok(file) => file,
        Err(errno) => return Verdict::Unseen(errno.raw_os_error()),
    };
    match mount(file.as_fd()) {
        Ok(mount) if lockable.contains(&mount) => {}
        Ok(_) => return Verdict::ReadOnly,
        Err(errno) => return Verdict::Unseen(errno.raw_os_error()),
    }
    let done = match request.what {
        What::Look => Ok(()),
        What::Shared => flock(&file, FlockOperation::NonBlockingLockShared),
        What::Exclusive => flock(&file, FlockOperation::NonBlockingLockExclusive),
        What::Range { process, address } => range(file.as_fd(), process, address),
    };
    match done {
        Ok(()) => Verdict::Done,
        Err(errno) => Verdict::Failed(errno.raw_os_error()),
    }
}

/// The mount that a file was opened in. The kernel knows it without asking a file system.
fn mount(file: BorrowedFd<'_>) -> Result<u64, Errno> {
    let found = statx(file, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID)?;
    let known = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID);
    if known { Ok(found.stx_mnt_id) } else { Err(Errno::NOSYS) }
}

/// `F_OFD_SETLK` with what the plugin's structure says now; it is read once.
fn range(file: BorrowedFd<'_>, process: i32, address: u64) -> Result<(), Errno> {
    let fail = |errno: nix::Error| Errno::from_raw_os_error(errno as i32);
    // struct flock: type and whence, two bytes each; start at 8; length at 16; pid at 24.
    let mut copy = [0u8; 28];
    let base = usize::try_from(address).map_err(|_| Errno::FAULT)?;
    let remote = [RemoteIoVec { base, len: copy.len() }];
    let read = process_vm_readv(Pid::from_raw(process), &mut [IoSliceMut::new(&mut copy)], &remote).map_err(fail)?;
    if read != copy.len() {
        return Err(Errno::FAULT);
    }
    let short = |at: usize| i16::from_ne_bytes([copy[at], copy[at + 1]]);
    let long = |at: usize| copy[at..].first_chunk().copied().map_or(0, i64::from_ne_bytes);
    let lock = libc::flock {
        l_type: short(0),
        l_whence: short(2),
        l_start: long(8),
        l_len: long(16),
        l_pid: copy[24..].first_chunk().copied().map_or(0, i32::from_ne_bytes),
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(drop).map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_come_over_as_they_are() {
        for what in [What::Look, What::Shared, What::Exclusive, What::Range { process: 7, address: u64::MAX - 5 }] {
            let request = Request { what, fd: -3 };
            let mut packet = [0; REQUEST];
            packet[0] = Tag::Lock as u8;
            packet[1..].copy_from_slice(&request.encode());
            assert_eq!(Request::decode(&packet), Some(request));
            packet[0] = Tag::Go as u8;
            assert_eq!(Request::decode(&packet), None);
        }
        for verdict in [Verdict::Done, Verdict::ReadOnly, Verdict::Failed(11), Verdict::Unseen(1)] {
            assert_eq!(Verdict::decode(&verdict.encode()), Some(verdict));
        }
        assert_eq!(Verdict::decode(&[Tag::Locked as u8, 4, 0, 0, 0, 0]), None);
        assert_eq!(Verdict::decode(&[Tag::Locked as u8, 0]), None);
    }
}
