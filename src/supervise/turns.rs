//! The supervision of one sandbox: a poll loop until nothing of it is left.

use super::capture::Streams;
use super::cgroup::Cgroup;
use super::child::{Child, Ending, UNREAPED};
use super::denials::Denials;
use super::effort::Effort;
use super::egress::Egress;
use super::exchange::Exchange;
use super::notifications::Notifications;
use super::signals::Signals;
use super::status::{Said, Status};
use super::watch::{TICK, Watch};
use super::{Channel, Polled, Watcher, internal, outcome, own};
use crate::confine::step::{Step, StepError};
use crate::decide::plan::Plan;
use crate::sys::poll::poll;
use crate::types::{Denial, Failure, Outcome, Stream};
use rustix::event::{PollFd, PollFlags};

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// More packets than a socket holds.
const QUEUE: usize = 1000;

/// One sandbox while it runs: what it needs of the call, then the owners of its parts, which end with it.
pub(super) struct Supervision<'a> {
    pub watcher: &'a mut dyn Watcher,
    pub signals: &'a Signals,
    pub deadline: Instant,
    pub plan: &'a Plan,
    pub as_root: bool,
    pub child: Child,
    pub status: Status,
    pub exchange: Exchange,
    pub streams: Streams,
    pub notifications: Notifications<'a>,
    pub egress: Egress<'a>,
    pub watch: Watch,
    pub denials: Denials,
    pub buffer: Vec<u8>,
}

impl Supervision<'_> {
    /// Polls until pid 1 is gone, then gathers what is left.
    pub fn finish(mut self) -> Result<Outcome<Denial>, Failure> {
        while !self.turn() {}
        let gone = self.child.reap();
        self.drain();
        self.egress.end(&mut self.buffer, &mut self.denials, &mut self.notifications.observer);
        outcome::conclude(self, gone?)
    }

    /// One round of the loop; true when pid 1 has ended.
    fn turn(&mut self) -> bool {
        let held = self.is_held();
        let time = self.pause(held);
        let channels = self.channels(held);
        let mut fds: Vec<PollFd<'_>> =
            channels.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let polled = poll(&mut fds, Some(time));
        let ready: Vec<(Channel, PollFlags)> = channels
            .iter()
            .zip(&fds)
            .map(|((channel, ..), fd)| (*channel, fd.revents()))
            .filter(|(_, events)| !events.is_empty())
            .collect();
        if let Err(error) = polled {
            self.child.end(internal("poll")(error).into());
        }
        if !self.status.running {
            // Poll looks at one descriptor after the other: on a busy host the plugin may have run between two of them.
            self.serve(Channel::Status, PollFlags::IN);
        }
        for (channel, events) in &ready {
            self.serve(*channel, *events);
        }
        if !held && self.child.is_alive() {
            let asked = self.notifications.ask_for_locks(self.status.channel(), &mut self.denials);
            self.end_on(asked);
        }
        self.watcher.tick(self.child.started.elapsed());
        if self.child.is_alive() {
            if Instant::now() >= self.deadline {
                self.child.end(Ending::Timeout);
            } else if self.is_watched() && self.watch.is_due() {
                let looked = self.watch.look(&self.child, self.plan.limits.memory);
                self.end_on(looked);
            }
        }
        ready.iter().any(|(channel, _)| *channel == Channel::Child) || self.child.is_stuck()
    }

    /// What is polled, in the order in which it is served: the child's own reports before what the plugin sends, of which there
    /// is nothing while it is held.
    fn channels(&self, held: bool) -> Vec<Polled<'_>> {
        let mut all = vec![(Channel::Child, self.child.pidfd.as_fd(), PollFlags::IN)];
        all.extend(self.signals.poll().map(|(fd, flags)| (Channel::Signals, fd, flags)));
        all.extend(self.status.poll());
        if !held {
            all.extend(self.exchange.poll());
            all.extend(self.streams.poll());
            all.extend(self.notifications.poll());
            all.extend(self.egress.poll());
        }
        all
    }

    /// How long poll may wait.
    fn pause(&self, held: bool) -> Duration {
        let now = Instant::now();
        let alive = self.child.is_alive();
        // Killed already: only pid 1's end is awaited.
        let mut wait = if alive { self.deadline.saturating_duration_since(now) } else { UNREAPED };
        if self.is_watched() || self.watcher.wants_ticks() {
            wait = wait.min(TICK);
        }
        match self.notifications.pause(now) {
            _ if held => wait.min(self.watch.effort.pause()),
            Some(pause) if alive => wait.min(pause),
            _ => wait,
        }
    }

    /// Nothing but the supervisor's looks counts the plugin's memory.
    fn is_watched(&self) -> bool {
        self.status.running && !self.child.is_counted()
    }

    /// Whether the plugin has cost so much that what it sends has to wait. Not for `upm learn`, which looks at each system call.
    fn is_held(&mut self) -> bool {
        let may_be = self.status.running && self.child.is_alive() && self.notifications.observer.is_none();
        may_be && self.watch.holds(&mut self.child)
    }

    fn end_on(&mut self, served: Result<(), Ending>) {
        if let Err(ending) = served {
            self.child.end(ending);
        }
    }

    fn serve(&mut self, channel: Channel, events: PollFlags) {
        let served = match channel {
            Channel::Child => return,
            Channel::Signals => self.serve_signals(),
            Channel::Status => self.serve_status(),
            Channel::Failure => self.serve_failure().map(drop),
            // What has come since poll looked came after reports of the child that are not served yet.
            Channel::Frames if events == PollFlags::OUT => self.exchange.send().map_err(Ending::from),
            Channel::Frames => self.exchange.send().map_err(Ending::from).and_then(|()| self.read_frames().map(drop)),
            Channel::Output(stream) => self.read_output(stream).map(drop).map_err(Ending::from),
            Channel::Listener if events.contains(PollFlags::IN) => self.serve_notification(),
            Channel::Listener => return self.notifications.close(),
            Channel::StubUdp => return self.egress.refuse_name(&mut self.denials),
            Channel::StubTcp => return self.egress.close_connection(),
            Channel::Gateway => self.read_gateway().map(drop).map_err(Ending::from),
        };
        self.end_on(served);
    }

    fn serve_signals(&self) -> Result<(), Ending> {
        match self.signals.cancelled().map_err(internal("signals"))? {
            Some(signal) => Err(Ending::Cancelled(signal)),
            None => Ok(()),
        }
    }

    /// Takes every packet that is there.
    fn serve_status(&mut self) -> Result<(), Ending> {
        while let Some(said) = self.status.receive(&mut self.buffer)? {
            match said {
                Said::Sockets(fds) => self.open_sockets(fds)?,
                Said::Verified(fds) => self.watch.open(fds),
                Said::Deaf => self.notifications.deaf(),
                Said::Listener(listener) => self.notifications.listen(listener)?,
                Said::Locked(verdict) => self.notifications.answered(verdict, &mut self.denials)?,
            }
        }
        Ok(())
    }

    fn open_sockets(&mut self, fds: Vec<OwnedFd>) -> Result<(), Ending> {
        if let Some(fresh) = fds.first() {
            let learned = self.watch.sockets.learn(fresh.as_fd());
            learned.map_err(|error| StepError::new(Step::Network, "the size of a socket's buffers", error))?;
        }
        let cgroup = self.child.cgroup.as_ref().ok().map(Cgroup::engine);
        Ok(self.egress.open(fds, self.as_root, cgroup)?)
    }

    /// At the end of the failure pipe, which exec closes, the plugin's program runs. False if there is nothing now.
    fn serve_failure(&mut self) -> Result<bool, Ending> {
        let read = self.status.read_failure(&mut self.buffer)?;
        if read == Some(true) {
            // What was read back, and the listener, were sent before exec.
            self.serve_status()?;
            if self.status.begin(self.child.pid)? {
                tracing::debug!(after_us = self.child.started.elapsed().as_micros() as u64, "the plugin runs");
                own::confine(self.plan.landlock_abi, self.child.cgroup.as_ref().ok().map(Cgroup::above))?;
                self.watch.effort = Effort::begin();
            }
        }
        Ok(read.is_some())
    }

    /// Reads once; false if there is nothing more now.
    fn read_frames(&mut self) -> Result<bool, Ending> {
        let more = self.exchange.read(&mut self.buffer, self.watcher, &mut self.watch.effort)?;
        // The last moment at which a short call's processes and files are all there.
        if more && self.exchange.answer.is_some() && self.child.is_alive() {
            self.watch.look(&self.child, self.plan.limits.memory)?;
        }
        Ok(more)
    }

    fn read_output(&mut self, stream: Stream) -> Result<bool, Failure> {
        self.streams.read(stream, &mut self.buffer, self.watcher)
    }

    fn read_gateway(&mut self) -> Result<bool, Failure> {
        let alive = self.child.is_alive();
        self.egress.read(&mut self.buffer, &mut self.denials, &mut self.notifications.observer, alive)
    }

    fn serve_notification(&mut self) -> Result<(), Ending> {
        let Some(asked) = self.notifications.receive()? else { return Ok(()) };
        if self.notifications.observer.is_some() {
            // The gateway has reported whose address a connection is for before it answered the look-up.
            for _ in 0..QUEUE {
                if !self.read_gateway()? {
                    break;
                }
            }
        }
        // With a cgroup of its own a call can be ended whatever becomes of pid 1.
        let distant = self.status.distant().filter(|_| self.child.cgroup.is_err());
        self.notifications.decide(asked, distant, &mut self.denials)
    }

    /// Pid 1 is gone: what the channels still hold is all there will ever be.
    fn drain(&mut self) {
        self.serve(Channel::Status, PollFlags::IN);
        while let Ok(true) = self.serve_failure() {}
        // A killed call's output is kept, its frames are not believed any more.
        if self.child.ending.is_none() {
            let last = loop {
                match self.read_frames() {
                    Ok(true) => {}
                    Ok(false) => break self.exchange.end(),
                    Err(ending) => break Err(ending),
                }
            };
            self.end_on(last);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while let Ok(true) = self.read_output(stream) {}
        }
    }
}
