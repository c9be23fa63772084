//! Locks of files: a call may lock what it may write, and nothing of the host that it can only read. The filter hands each
//! lock over; which file a descriptor is only pid 1 can tell ([`crate::confine::locks`]), so it is asked.
//!
//! A lock that belongs to an open file description (flock(2), `F_OFD_SETLK`) pid 1 takes itself, on the description that it
//! looked at: no number and no name is looked at twice. Who wants to wait is asked for again and again. A lock that belongs to
//! a process (`F_SETLK`) nobody else can take: the call goes on once pid 1 has looked. In between another thread of the same
//! process could put another file in the descriptor's place; `SECURITY.md` says what that gives it. Other processes cannot:
//! the filter lets none share a table of descriptors, and all threads of one have the same.

use crate::confine::channels::{self, Tag};
use crate::confine::filter::LockAct;
use crate::confine::locks::{Request, Verdict, What};
use crate::sys::seccomp::{self, Notification};
use crate::types::NoLock;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::memory;

/// Locks that may wait at once; each holds a descriptor of the supervisor's.
const MOST_WAITING: usize = 64;
/// When the next of those that wait is tried.
const PACE: Duration = Duration::from_millis(5);
/// When one that waits is tried again, at the earliest.
const AGAIN: Duration = Duration::from_millis(20);
/// Changes of ranges by fcntl(2) that a call may make: the kernel keeps at most two more locks for each, of 192 bytes, and no
/// limit of its own counts them, a cgroup's neither.
const RANGES: u64 = 1 << 16;

/// The locks that a call has asked for.
#[derive(Debug)]
pub struct Locks {
    waiting: VecDeque<Wanted>,
    /// Whom pid 1 is asked about now.
    asked: Option<Wanted>,
    /// Changes of ranges that are left.
    ranges: u64,
    /// The last try of one that waits.
    tried: Option<Instant>,
}

/// One that waits for an answer.
#[derive(Debug)]
struct Wanted {
    notification: Notification,
    request: Request,
    asker: Asker,
    /// Whether it is tried until it can be had.
    waits: bool,
    /// Not before; `None` for the first try.
    due: Option<Instant>,
}

/// What is to be said to a caller whose lock is not to be had.
#[derive(Debug)]
pub struct Refusal {
    /// Whom.
    pub notification: Notification,
    /// The error number.
    pub errno: Errno,
    /// Why.
    pub why: NoLock,
}

/// What became of a lock.
#[derive(Debug)]
pub enum Step {
    /// The caller was answered, waits, or has ended.
    Settled,
    /// By the kernel's word: no denial.
    Failed(u64, Errno),
    /// A denial.
    Refused(Refusal),
}

impl Default for Locks {
    fn default() -> Self {
        Locks { waiting: VecDeque::new(), asked: None, ranges: RANGES, tried: None }
    }
}

impl Locks {
    /// Takes a lock that the filter handed over. `distant` is a mount of the call's on which pid 1 might have to wait.
    pub fn want(
        &mut self,
        listener: BorrowedFd<'_>,
        notification: Notification,
        act: LockAct,
        distant: Option<&str>,
    ) -> Step {
        let refused = |errno, why| Step::Refused(Refusal { notification, errno, why });
        let waits = match act {
            LockAct::Description(1 | 2, waits) | LockAct::Range(waits) => waits,
            LockAct::Process => false,
            LockAct::Description(..) => return Step::Failed(notification.id, Errno::INVAL),
        };
        if let Some(mount) = distant {
            return refused(Errno::PERM, NoLock::Distant(mount.to_owned()));
        }
        let range = !matches!(act, LockAct::Description(..));
        if range && self.ranges == 0 {
            return refused(Errno::NOLCK, NoLock::Ranges(RANGES));
        }
        let waits_still = |one: &Wanted| seccomp::notif_id_valid(listener, one.notification.id).unwrap_or(false);
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.retain(waits_still);
        }
        if self.waiting.len() >= MOST_WAITING {
            return refused(Errno::NOLCK, NoLock::Waiting(MOST_WAITING));
        }
        // It may have ended meanwhile, and its number may be another process's: asked after the descriptor is there.
        let found = asker(notification.pid, matches!(act, LockAct::Range(_)));
        if !seccomp::notif_id_valid(listener, notification.id).unwrap_or(false) {
            return Step::Settled;
        }
        let asker = match found {
            Ok(found) => found,
            Err(error) => return refused(Errno::NOLCK, NoLock::Engine(error.to_string())),
        };
        let what = match act {
            LockAct::Description(1, _) => What::Shared,
            LockAct::Description(..) => What::Exclusive,
            LockAct::Process => What::Look,
            LockAct::Range(_) => What::Range { process: asker.inside, address: notification.args[2] },
        };
        if range {
            self.ranges -= 1;
        }
        // The kernel takes an `unsigned int`.
        let fd = (notification.args[0] & 0xffff_ffff) as u32;
        let request = Request { what, fd: fd.cast_signed() };
        self.waiting.push_back(Wanted { notification, request, asker, waits, due: None });
        Step::Settled
    }

    /// How long nothing is to be done, where something will be.
    #[must_use]
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        if self.asked.is_some() {
            // Its answer comes by itself.
            return None;
        }
        self.waiting
            .iter()
            .map(|one| self.due(one).map_or(Duration::ZERO, |due| due.saturating_duration_since(now)))
            .min()
    }

    fn due(&self, one: &Wanted) -> Option<Instant> {
        let due = one.due?;
        Some(self.tried.map_or(due, |tried| due.max(tried + PACE)))
    }

    /// Asks pid 1 about the next one, if there is one and nobody else is asked about.
    ///
    /// # Errors
    /// What the listener says.
    pub fn ask(&mut self, listener: BorrowedFd<'_>, status: BorrowedFd<'_>, now: Instant) -> io::Result<Step> {
        while self.asked.is_none() {
            let next = self.waiting.iter().position(|one| self.due(one).is_none_or(|due| due <= now));
            let Some(one) = next.and_then(|at| self.waiting.remove(at)) else { break };
            if one.due.is_some() {
                self.tried = Some(now);
                if !seccomp::notif_id_valid(listener, one.notification.id)? {
                    continue;
                }
            }
            match channels::send(status, Tag::Lock, &one.request.encode(), &[one.asker.thread.as_fd()]) {
                Ok(()) => self.asked = Some(one),
                // Pid 1 has ended, and with it whoever asked.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                // ETOOMANYREFS: the user's processes have sent as many descriptors as one may.
                Err(error) => {
                    let why = NoLock::Engine(error.to_string());
                    return Ok(Step::Refused(Refusal { notification: one.notification, errno: Errno::NOLCK, why }));
                }
            }
        }
        Ok(Step::Settled)
    }

    /// Takes pid 1's answer.
    ///
    /// # Errors
    /// What the listener says; or nothing was asked.
    pub fn answered(&mut self, listener: BorrowedFd<'_>, verdict: Verdict, now: Instant) -> io::Result<Step> {
        let Some(mut one) = self.asked.take() else { return Err(io::Error::other("an answer that nobody asked for")) };
        let (notification, id) = (one.notification, one.notification.id);
        let refused = |why| Step::Refused(Refusal { notification, errno: Errno::PERM, why });
        // Not there any more: whoever asked has ended.
        Ok(match verdict {
            Verdict::Done if one.request.what == What::Look => {
                seccomp::notif_continue(listener, id)?;
                Step::Settled
            }
            Verdict::Done => {
                seccomp::notif_send_done(listener, id)?;
                Step::Settled
            }
            Verdict::ReadOnly => refused(NoLock::ReadOnly),
            Verdict::Failed(errno) if errno == Errno::AGAIN.raw_os_error() && one.waits => {
                one.due = Some(now + AGAIN);
                self.waiting.push_back(one);
                Step::Settled
            }
            Verdict::Failed(errno) => Step::Failed(id, Errno::from_raw_os_error(errno)),
            Verdict::Unseen(errno) => match Errno::from_raw_os_error(errno) {
                // Its descriptors are gone, those of other threads are not.
                Errno::BADF | Errno::SRCH if one.asker.first.is_some_and(has_ended) => refused(NoLock::FirstThread),
                // It has no such descriptor; or it is ending.
                Errno::BADF | Errno::SRCH => Step::Failed(id, Errno::BADF),
                errno => refused(NoLock::Unseen(errno.to_string())),
            },
        })
    }
}

/// `PIDFD_THREAD` of pidfd_open(2).
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(rustix::fs::OFlags::EXCL.bits());

/// The thread that asks for a lock.
#[derive(Debug)]
struct Asker {
    /// For pid 1. Before Linux 6.9 this is the first thread of the process, which has the same descriptors until it ends.
    thread: OwnedFd,
    /// The number of that first thread, if `thread` is it.
    first: Option<i32>,
    /// The thread's number in its own pid namespace, or 0 if it is not needed.
    inside: i32,
}

fn asker(thread: u32, inside: bool) -> io::Result<Asker> {
    let open = |number: i32, flags| pidfd_open(Pid::from_raw(number).ok_or(Errno::SRCH)?, flags);
    let own = open(i32::try_from(thread).map_err(|_| Errno::SRCH)?, THREAD);
    if own.is_ok() && !inside {
        return Ok(Asker { thread: own?, first: None, inside: 0 });
    }
    let status = memory::shown(format!("/proc/{thread}/status")).ok_or(Errno::SRCH)?;
    let last = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_ascii_whitespace().last()).and_then(|number| number.parse::<i32>().ok())
    };
    let (thread, first) = match own {
        // The kernel does not have the flag.
        Err(Errno::INVAL) => {
            let first = last("Tgid:").ok_or(Errno::SRCH)?;
            (open(first, PidfdFlags::empty())?, Some(first))
        }
        own => (own?, None),
    };
    Ok(Asker { thread, first, inside: last("NSpid:").ok_or(Errno::SRCH)? })
}

/// Whether the first thread of a process has ended. Its other threads may go on.
fn has_ended(first: i32) -> bool {
    let status = memory::shown(format!("/proc/{first}/status")).unwrap_or_default();
    let state = status.lines().find_map(|line| line.strip_prefix("State:"));
    state.is_some_and(|state| state.trim_ascii_start().starts_with(['Z', 'X']))
}
