//! Locks of files: a call may lock what it may write, and no file of the host that it can only read. The filter reports each
//! lock; only pid 1 can find out which file a descriptor refers to ([`crate::confine::locks`]), so the supervisor asks it.
//!
//! If a lock belongs to an open file description (flock(2), `F_OFD_SETLK`), pid 1 takes it itself, on the description that it
//! checked: no number and no name is resolved twice. A lock that waits is tried again and again. If a lock belongs to a process
//! (`F_SETLK`), only that process can take it: its call goes on once pid 1 has checked the file. In between another thread of
//! the same process can replace the descriptor; `SECURITY.md` describes what that gives it. Other processes cannot: the filter
//! lets no two of them share a table of descriptors.

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

/// Locks that may wait at once; each needs a descriptor of the supervisor.
const MOST_WAITING: usize = 64;
/// The pause between two tries of waiting locks.
const PACE: Duration = Duration::from_millis(5);
/// The pause before the same lock is tried again.
const AGAIN: Duration = Duration::from_millis(20);
/// Changes of ranges by fcntl(2) that a call may make: for each the kernel keeps at most two more locks, of 192 bytes. No limit
/// of the kernel counts them, not even that of a cgroup.
const RANGES: u64 = 1 << 16;

/// The locks that a call has asked for.
#[derive(Debug)]
pub struct Locks {
    waiting: VecDeque<Wanted>,
    /// The one that pid 1 is asked about now.
    asked: Option<Wanted>,
    /// The changes of ranges that are left.
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
    /// Whether it is tried until it succeeds.
    waits: bool,
    /// When it may be tried again; `None` before the first try.
    due: Option<Instant>,
}

/// A lock that is denied.
#[derive(Debug)]
pub struct Refusal {
    /// The process that asked.
    pub notification: Notification,
    /// The error that it gets.
    pub errno: Errno,
    /// The reason.
    pub why: NoLock,
}

/// The state of a lock.
#[derive(Debug)]
pub enum Step {
    /// The process was answered, waits, or has ended.
    Settled,
    /// The kernel did not grant it: not a denial.
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
    /// Takes a lock that the filter reported. `distant` is a mount of the call on which pid 1 might have to wait.
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
        let request = Request { what, fd: fd as i32 };
        self.waiting.push_back(Wanted { notification, request, asker, waits, due: None });
        Step::Settled
    }

    /// The time until the next try, if a lock waits.
    #[must_use]
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        if self.asked.is_some() {
            // Its answer makes the status channel readable.
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

    /// Asks pid 1 about the next one that is due, unless it is busy with another.
    ///
    /// # Errors
    /// An error of the listener.
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
                // Pid 1 has ended, and with it the process that asked.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
                // ETOOMANYREFS: the user's processes have sent as many descriptors as they may.
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
    /// An error of the listener; an answer without a question.
    pub fn answered(&mut self, listener: BorrowedFd<'_>, verdict: Verdict, now: Instant) -> io::Result<Step> {
        let Some(mut one) = self.asked.take() else {
            return Err(io::Error::other("pid 1 answered without a question"));
        };
        let (notification, id) = (one.notification, one.notification.id);
        let refused = |why| Step::Refused(Refusal { notification, errno: Errno::PERM, why });
        // False: the process that asked has ended.
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
                // It has no such descriptor, or it is ending.
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
