//! The system calls that the plugin's filter hands to the supervisor: which go on, and which are denied.

use super::child::Ending;
use super::denials::{self, Denials};
use super::observe::Observer;
use super::{Channel, Polled, epoll, locks, readable};
use crate::confine::filter::{self, Filter, Handed};
use crate::confine::locks::Verdict;
use crate::confine::step::{Step, StepError};
use crate::decide::plan::Plan;
use crate::sys::seccomp::{Notification, notif_id_valid, notif_recv, notif_send_errno, set_sync_wake_up};
use crate::types::{OnViolation, Refused, Syscall};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The filter and what it asks.
pub(super) struct Notifications<'a> {
    plan: &'a Plan,
    /// As it was installed.
    pub filter: Filter,
    /// `None` before the filter was installed, after the last process under it, and if it cannot have one.
    listener: Option<OwnedFd>,
    /// The filter has had a listener, so that every denial was reported.
    pub heard: bool,
    /// What the call may still add to epoll sets.
    epoll: epoll::Additions,
    /// Locks of files that it waits for.
    locks: locks::Locks,
    /// For `upm learn`.
    pub observer: Option<Observer>,
}

fn failed(error: io::Error) -> StepError {
    StepError::new(Step::Seccomp, "listener", error)
}

impl<'a> Notifications<'a> {
    pub fn new(plan: &'a Plan, filter: Filter, observer: Option<Observer>) -> Self {
        let (epoll, locks) = (epoll::Additions::here(), locks::Locks::default());
        Notifications { plan, filter, listener: None, heard: false, epoll, locks, observer }
    }

    /// The filter was installed without a listener.
    pub fn deaf(&mut self) {
        self.filter = self.filter.deaf(self.plan.on_violation);
    }

    /// The filter was installed with this listener.
    pub fn listen(&mut self, listener: OwnedFd) -> Result<(), StepError> {
        set_sync_wake_up(listener.as_fd()).map_err(failed)?;
        (self.listener, self.heard) = (Some(listener), true);
        Ok(())
    }

    /// Every process under the filter has ended.
    pub fn close(&mut self) {
        self.listener = None;
    }

    pub fn poll(&self) -> Option<Polled<'_>> {
        readable((Channel::Listener, &self.listener))
    }

    /// When the next lock is tried.
    pub fn pause(&self, now: Instant) -> Option<Duration> {
        self.listener.as_ref().and_then(|_| self.locks.pause(now))
    }

    /// The next one. To be called only when poll(2) reports `POLLIN`: older kernels (6.1) would wait here for ever once every
    /// process under the filter has ended.
    pub fn receive(&self) -> Result<Option<Notification>, StepError> {
        match &self.listener {
            // `None`: that process ended in between; others may still ask.
            Some(listener) => notif_recv(listener.as_fd()).map_err(failed),
            None => Ok(None),
        }
    }

    /// Decides. `distant` is a mount of the call on which pid 1 might have to wait.
    pub fn decide(&mut self, asked: Notification, distant: Option<&str>, denials: &mut Denials) -> Result<(), Ending> {
        let Some(listener) = self.listener.as_ref().map(AsFd::as_fd) else { return Ok(()) };
        let syscall = |refused| denials::syscall(asked.nr, &asked.args, refused);
        match filter::handed(asked.nr, &asked.args) {
            Some(Handed::Lock(act)) => {
                let step = self.locks.want(listener, asked, act, distant);
                self.settle(step, denials)
            }
            Some(Handed::UnixSocket) if !self.plan.named_unix => {
                // Programs look for a name service cache with it, and go on without: `on_violation = "kill"` does not end the call.
                self.record(&asked, syscall(Refused::UnixSocket), denials);
                self.answer(asked.id, Errno::AFNOSUPPORT)
            }
            Some(Handed::Terminal) if self.plan.has_terminals() => {
                self.deny(&asked, syscall(Refused::Terminal), Errno::PERM, denials)
            }
            Some(Handed::Addition) => match self.epoll.one(listener, asked.id).map_err(failed)? {
                true => Ok(()),
                // As the kernel answers at a user's limit.
                false => self.deny(&asked, syscall(Refused::Count), Errno::NOSPC, denials),
            },
            _ => {
                if let Some(observer) = &mut self.observer {
                    if observer.observe(self.plan, listener, &asked).map_err(failed)? {
                        return Ok(());
                    }
                }
                self.deny(&asked, syscall(Refused::Filter), Errno::PERM, denials)
            }
        }
    }

    /// Asks pid 1, over the status channel, about the next lock that is due.
    pub fn ask_for_locks(&mut self, status: Option<BorrowedFd<'_>>, denials: &mut Denials) -> Result<(), Ending> {
        let (Some(listener), Some(status)) = (&self.listener, status) else { return Ok(()) };
        let step = self.locks.ask(listener.as_fd(), status, Instant::now());
        self.settle(step.map_err(|error| StepError::new(Step::Seccomp, "locks", error))?, denials)
    }

    /// Takes pid 1's answer about a lock. Without a listener everyone who could have asked has ended.
    pub fn answered(&mut self, verdict: Verdict, denials: &mut Denials) -> Result<(), Ending> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let step = self.locks.answered(listener.as_fd(), verdict, Instant::now());
        self.settle(step.map_err(|error| StepError::new(Step::Seccomp, "locks", error))?, denials)
    }

    fn settle(&self, step: locks::Step, denials: &mut Denials) -> Result<(), Ending> {
        match step {
            locks::Step::Settled => Ok(()),
            locks::Step::Failed(id, errno) => self.answer(id, errno),
            locks::Step::Refused(locks::Refusal { notification, errno, why }) => {
                let call = denials::syscall(notification.nr, &notification.args, Refused::Lock(why));
                self.deny(&notification, call, errno, denials)
            }
        }
    }

    /// Records a denial, then answers it or ends the call.
    fn deny(&self, asked: &Notification, call: Syscall, errno: Errno, denials: &mut Denials) -> Result<(), Ending> {
        self.record(asked, call.clone(), denials);
        match self.plan.on_violation {
            OnViolation::Deny => self.answer(asked.id, errno),
            OnViolation::Kill => Err(Ending::Violation(call)),
        }
    }

    fn record(&self, asked: &Notification, call: Syscall, denials: &mut Denials) {
        let Some(listener) = &self.listener else { return };
        // It may have ended meanwhile, and its number may be another process's.
        denials.add_of(call, asked.pid, || notif_id_valid(listener.as_fd(), asked.id).unwrap_or(false));
    }

    fn answer(&self, id: u64, errno: Errno) -> Result<(), Ending> {
        let Some(listener) = &self.listener else { return Ok(()) };
        // False: the process has ended.
        notif_send_errno(listener.as_fd(), id, errno.raw_os_error()).map_err(failed)?;
        Ok(())
    }
}
