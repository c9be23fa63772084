//! Pid 1 of a sandbox: its process and cgroup, and why the supervisor killed it.

use super::cgroup::{Cgroup, Missing};
use super::memory;
use super::sockets::Held;
use crate::confine::step::StepError;
use crate::sys::process::{Spent, try_wait_usage};
use crate::types::{Code, Failure, Syscall};
use rustix::io::Errno;
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long pid 1 may take to end after it was killed; then the answer is given without it.
pub(super) const UNREAPED: Duration = Duration::from_millis(1200);

/// Why the supervisor ended a sandbox.
pub(super) enum Ending {
    /// The deadline passed.
    Timeout,
    /// The caller cancelled the call by this signal.
    Cancelled(i32),
    /// The processes together used more than `memory`: their use in bytes when it was seen, and the sockets.
    Memory(u64, Held),
    /// `on_violation = "kill"`.
    Violation(Syscall),
    /// The plugin broke the frame protocol.
    Frames(Failure),
    /// The engine or a step failed.
    Engine(Failure),
}

impl From<Failure> for Ending {
    fn from(failure: Failure) -> Self {
        Ending::Engine(failure)
    }
}

impl From<StepError> for Ending {
    fn from(error: StepError) -> Self {
        Ending::Engine(error.into())
    }
}

/// The process.
pub(super) struct Child {
    pub pid: i32,
    /// Readable once it has ended.
    pub pidfd: OwnedFd,
    /// The sandbox's own cgroup, or why there is none. Removed with this value.
    pub cgroup: Result<Cgroup, Missing>,
    pub started: Instant,
    /// The first reason counts.
    pub ending: Option<Ending>,
    /// When it was killed, and what the sandbox's processes had used by then.
    killed: Option<(Instant, Spent)>,
    /// It has ended, or was given up.
    over: bool,
}

/// How it ended.
pub(super) struct Gone {
    /// Its wait status. `None`: it was killed, but a process of the sandbox sleeps where no signal reaches it (a dead disk or
    /// network file system). The answer is due all the same; the kernel ends the process when it can.
    pub status: Option<i32>,
    /// What the sandbox's processes used.
    pub usage: Spent,
    /// From the clone to the end.
    pub wall: Duration,
}

impl Child {
    pub fn new(pid: i32, pidfd: OwnedFd, cgroup: Result<Cgroup, Missing>, started: Instant) -> Self {
        Child { pid, pidfd, cgroup, started, ending: None, killed: None, over: false }
    }

    /// It runs and was not killed.
    pub fn is_alive(&self) -> bool {
        self.ending.is_none() && !self.over
    }

    /// It was killed too long ago to wait any more.
    pub fn is_stuck(&self) -> bool {
        self.killed.is_some_and(|(at, _)| at.elapsed() >= UNREAPED)
    }

    /// Whether the kernel counts the sandbox's memory.
    pub fn is_counted(&self) -> bool {
        self.cgroup.as_ref().is_ok_and(|cgroup| cgroup.memory)
    }

    /// Processor time of the sandbox's processes so far.
    pub fn spent(&self) -> Duration {
        let counted = self.cgroup.as_ref().ok().and_then(|cgroup| cgroup.counts().cpu);
        let (user, system) = counted.unwrap_or_else(|| {
            let spent = memory::spent(self.pid);
            (spent.user_us, spent.system_us)
        });
        Duration::from_micros(user + system)
    }

    /// Ends the sandbox: kills pid 1, and with it everything in its pid namespace.
    pub fn end(&mut self, ending: Ending) {
        self.ending.get_or_insert(ending);
        if self.over {
            return;
        }
        if self.killed.is_none() {
            // Pid 1 dies without waiting for the others, so nothing would report it afterwards.
            self.killed = Some((Instant::now(), memory::spent(self.pid)));
        }
        // ESRCH: it has ended.
        if let Err(error) = pidfd_send_signal(&self.pidfd, Signal::KILL) {
            if error != Errno::SRCH {
                self.ending = Some(Failure::new(Code::Internal, format!("ending the call: {error}")).into());
            }
        }
        if let Ok(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    /// Waits for it, without blocking.
    pub fn reap(&mut self) -> Result<Gone, Failure> {
        let reaped = try_wait_usage(self.pid);
        let wall = self.started.elapsed();
        self.over = true;
        let reaped =
            reaped.map_err(|errno| Failure::new(Code::Internal, format!("waiting for the call's pid 1: {errno}")))?;
        let (after, before) = (reaped.unwrap_or_default().1, self.killed.unwrap_or((self.started, Spent::default())).1);
        let usage = Spent {
            user_us: after.user_us.max(before.user_us),
            system_us: after.system_us.max(before.system_us),
            max_rss_bytes: after.max_rss_bytes.max(before.max_rss_bytes),
        };
        Ok(Gone { status: reaped.map(|(status, _)| status), usage, wall })
    }
}
