//! The process that reads the plugin's memory for `upm learn`. The supervisor cannot: its Landlock domain does not contain that
//! of the plugin, so Landlock denies it (ptrace rules of landlock(7)). This process has no Landlock domain, but a filter that
//! allows five system calls: it reads memory and the names of descriptors, and opens nothing.

use crate::confine::step::{Step, StepError};
use crate::confine::{capabilities, filter, session};
use crate::report::complain;
use crate::sys;
use crate::sys::poll::poll;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::io::{IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// `PATH_MAX`: the longest path that the kernel accepts.
pub const MAX: usize = 4096;
/// The smallest page size: a string may end right before an unmapped page.
const PAGE: usize = 4096;
/// An answer takes microseconds, unless the page is on a file system that does not respond.
const PATIENCE: Duration = Duration::from_millis(500);

/// What to read.
#[derive(Debug, Clone, Copy)]
pub enum Question {
    /// The string at this address.
    Text(u64),
    /// The bytes at this address, and their number.
    Bytes(u64, u32),
    /// The working directory.
    Directory,
    /// What this descriptor refers to.
    Descriptor(i32),
}

/// The supervisor's side.
pub struct Peek {
    channel: Option<OwnedFd>,
    pidfd: OwnedFd,
    pid: i32,
}

impl Drop for Peek {
    fn drop(&mut self) {
        // ESRCH: it has ended.
        rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL).ok();
        // ECHILD cannot happen: nothing else waits for it.
        sys::process::wait_usage(self.pid).ok();
    }
}

/// Forks and confines the reader.
///
/// # Errors
/// No more processes or descriptors.
pub fn start(supervisor: BorrowedFd<'_>) -> Result<Peek, StepError> {
    let fail = |error: std::io::Error| StepError::new(Step::Prepare, "observer", error);
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(|error| fail(error.into()))?;
    match sys::clone::fork_into(0, None).map_err(fail)? {
        sys::clone::Forked::Parent { pid, pidfd } => Ok(Peek { channel: Some(ours), pidfd, pid }),
        sys::clone::Forked::Child => {
            drop(ours);
            if let Err(error) = confine(&theirs, supervisor) {
                complain(format_args!("observer: {error}"));
                sys::process::exit_now(1);
            }
            answer(&theirs)
        }
    }
}

fn confine(channel: &OwnedFd, supervisor: BorrowedFd<'_>) -> Result<(), StepError> {
    let fail = |step, error: std::io::Error| StepError::new(step, "observer", error);
    session::default_signals_and_mask()?;
    session::die_with(supervisor, Step::Session)?;
    sys::process::close_all_but(vec![channel.as_raw_fd()]).map_err(|error| fail(Step::Session, error))?;
    sys::process::set_dumpable(false).map_err(|error| fail(Step::Session, error))?;
    // Reading needs only that the supervisor owns the call's user namespace (user_namespaces(7)).
    capabilities::clear()?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| fail(Step::NoNewPrivs, errno.into()))?;
    sys::seccomp::install(&filter::observer().program).map_err(|error| fail(Step::Seccomp, error))
}

impl Peek {
    /// Asks about process or thread `pid`; `None` if it has ended, may not be read, or has nothing there.
    pub fn ask(&mut self, pid: u32, question: Question) -> Option<Vec<u8>> {
        let channel = self.channel.as_ref()?;
        let (what, value, length) = match question {
            Question::Text(address) => (0u32, address, 0),
            Question::Bytes(address, length) => (1, address, length),
            Question::Directory => (2, 0, 0),
            Question::Descriptor(fd) => (3, u64::from(fd as u32), 0),
        };
        let mut request = [0u8; 20];
        request[..4].copy_from_slice(&what.to_ne_bytes());
        request[4..8].copy_from_slice(&pid.to_ne_bytes());
        request[8..16].copy_from_slice(&value.to_ne_bytes());
        request[16..].copy_from_slice(&length.to_ne_bytes());
        let mut reply = vec![0u8; MAX + 1];
        let answered = rustix::io::write(channel, &request).is_ok() && {
            let mut fds = [PollFd::from_borrowed_fd(channel.as_fd(), PollFlags::IN)];
            matches!(poll(&mut fds, Some(PATIENCE)), Ok(1))
        };
        let length = if answered { rustix::io::read(channel, &mut reply).unwrap_or(0) } else { 0 };
        if length == 0 {
            // It hangs or has ended: a late answer would belong to an older question.
            self.channel = None;
            return None;
        }
        reply.truncate(length);
        (reply.remove(0) == 0).then_some(reply)
    }
}

/// The loop of the reader. It allocates nothing: its filter does not allow that.
fn answer(channel: &OwnedFd) -> ! {
    let mut request = [0u8; 20];
    let mut reply = [0u8; MAX + 1];
    loop {
        if !matches!(rustix::io::read(channel, &mut request), Ok(20)) {
            // The supervisor has closed the channel.
            sys::process::exit_now(0);
        }
        let word = |at: usize| u32::from_ne_bytes([request[at], request[at + 1], request[at + 2], request[at + 3]]);
        let (what, pid, length) = (word(0), word(4), word(16));
        let value = u64::from(word(8)) | u64::from(word(12)) << 32;
        #[cfg(target_endian = "big")]
        compile_error!("the two halves of a value lie the other way round");
        let body = &mut reply[1..];
        let found = match what {
            0 => string(pid, value, body),
            1 => bytes(pid, value, &mut body[..(length as usize).min(MAX)]),
            2 => link(pid, None, body),
            _ => link(pid, Some(value as u32), body),
        };
        let length = match found {
            Some(length) => {
                reply[0] = 0;
                length + 1
            }
            None => {
                reply[0] = 1;
                1
            }
        };
        if rustix::io::write(channel, &reply[..length]).is_err() {
            sys::process::exit_now(0);
        }
    }
}

fn bytes(pid: u32, address: u64, into: &mut [u8]) -> Option<usize> {
    let remote = [RemoteIoVec { base: usize::try_from(address).ok()?, len: into.len() }];
    let pid = Pid::from_raw(i32::try_from(pid).ok()?);
    process_vm_readv(pid, &mut [IoSliceMut::new(into)], &remote).ok()
}

/// Up to the NUL, page by page; `None` without one.
fn string(pid: u32, address: u64, into: &mut [u8]) -> Option<usize> {
    let mut have = 0;
    while have < into.len() {
        let at = address.checked_add(have as u64)?;
        let left = PAGE - (usize::try_from(at).ok()? % PAGE);
        let want = left.min(into.len() - have);
        let got = bytes(pid, at, &mut into[have..have + want])?;
        if let Some(end) = into[have..have + got].iter().position(|byte| *byte == 0) {
            return Some(have + end);
        }
        if got < want {
            return None;
        }
        have += got;
    }
    None
}

fn link(pid: u32, fd: Option<u32>, into: &mut [u8]) -> Option<usize> {
    let mut path = [0u8; 64];
    let mut rest = &mut path[..63];
    match fd {
        Some(fd) => write!(rest, "/proc/{pid}/fd/{fd}"),
        None => write!(rest, "/proc/{pid}/cwd"),
    }
    .ok()?;
    let path = std::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let mut space = [MaybeUninit::uninit(); MAX];
    let (found, _) = rustix::fs::readlinkat_raw(rustix::fs::CWD, path, &mut space[..]).ok()?;
    into[..found.len()].copy_from_slice(found);
    Some(found.len())
}
