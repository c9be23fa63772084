//! The descriptors between supervisor and child, and the packets on them.

use rustix::fs::OFlags;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What the child says over the status channel; the first byte of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Tag {
    /// From the supervisor: the id maps are written.
    Go = b'G',
    /// The gateway's sockets follow as descriptors.
    Sockets = b'S',
    /// What was read back, as JSON; the call's directories in memory and its network namespace's counters follow as descriptors.
    Verified = b'V',
    /// The filter's listener follows as a descriptor.
    Listener = b'L',
    /// The filter is there, but the kernel gives it no listener: some filter above it has one.
    Deaf = b'D',
    /// From the supervisor to pid 1: a lock is wanted; the process follows as a descriptor ([`super::locks::Request`]).
    Lock = b'K',
    /// From pid 1: what became of it ([`super::locks::Verdict`]).
    Locked = b'k',
    /// From pid 1: the plugin's wait status, a native 32-bit integer.
    Ended = b'X',
}

/// The supervisor's ends.
pub struct ParentEnds {
    /// `SOCK_SEQPACKET`, to the child and then pid 1.
    pub status: OwnedFd,
    /// End of file: the plugin runs. Bytes: a step failed.
    pub failure: OwnedFd,
    /// The frame socket.
    pub frames: OwnedFd,
    /// The plugin's stdout.
    pub stdout: OwnedFd,
    /// The plugin's stderr.
    pub stderr: OwnedFd,
}

/// The child's ends.
pub struct ChildEnds {
    /// See [`ParentEnds::status`].
    pub status: OwnedFd,
    /// See [`ParentEnds::failure`].
    pub failure: OwnedFd,
    /// Becomes descriptor 3.
    pub frames: OwnedFd,
    /// Becomes descriptor 1.
    pub stdout: OwnedFd,
    /// Becomes descriptor 2.
    pub stderr: OwnedFd,
    /// `/dev/null`, becomes descriptor 0.
    pub stdin: OwnedFd,
    /// The supervisor, to see whether it still lives.
    pub supervisor: OwnedFd,
}

/// Makes all channels, close-on-exec; the supervisor's ends do not block.
///
/// # Errors
/// `EMFILE`, `ENFILE`, or no `/dev/null`.
pub fn make() -> io::Result<(ParentEnds, ChildEnds)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None);
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (status, child_status) = pair(SocketType::SEQPACKET)?;
    let (frames, child_frames) = pair(SocketType::STREAM)?;
    let (failure, child_failure) = pipe()?;
    let (stdout, child_stdout) = pipe()?;
    let (stderr, child_stderr) = pipe()?;
    crate::sys::net::refuse_descriptors(frames.as_fd())?;
    for fd in [&status, &frames, &failure, &stdout, &stderr] {
        rustix::fs::fcntl_setfl(fd, rustix::fs::fcntl_getfl(fd)? | OFlags::NONBLOCK)?;
    }
    let stdin = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    Ok((
        ParentEnds { status, failure, frames, stdout, stderr },
        ChildEnds {
            status: child_status,
            failure: child_failure,
            frames: child_frames,
            stdout: child_stdout,
            stderr: child_stderr,
            stdin,
            supervisor: crate::sys::process::own_pidfd()?,
        },
    ))
}

/// Sends one packet, with descriptors.
///
/// # Errors
/// `EPIPE` when the other side is gone.
pub fn send(socket: BorrowedFd<'_>, tag: Tag, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let control = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &control[..0] } else { &control[..] };
    let tag = [tag as u8];
    let parts = [IoSlice::new(&tag), IoSlice::new(payload)];
    sendmsg::<()>(socket.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Receives one packet into `buffer`; `None` at the end. At most 64 descriptors, close-on-exec.
///
/// # Errors
/// `EAGAIN` when there is none yet.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<(usize, Vec<OwnedFd>)>> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for ancillary in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = ancillary {
            fds.extend(received);
        }
    }
    Ok((message.bytes > 0).then_some((message.bytes, fds)))
}
