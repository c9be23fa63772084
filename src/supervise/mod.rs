//! The parent's side of a call: makes the child, then one poll loop until nothing of it is left.

pub mod apart;
pub mod capture;
pub mod cgroup;
pub mod client;
pub mod denials;
pub mod effort;
pub mod epoll;
pub mod frames;
pub mod gateway;
pub mod limits;
pub mod locks;
pub mod memory;
pub mod observe;
pub mod outcome;
pub mod own;
pub mod reader;
pub mod signals;
pub mod sockets;
pub mod unroutable;

use crate::confine::channels::{self, Tag};
use crate::confine::filter::Handed;
use crate::confine::locks::Verdict;
use crate::confine::step::{Step, StepError};
use crate::confine::{self, id_map, verify};
use crate::decide::plan::{INSIDE_ID, Plan};
use crate::gateway::events::Refusal;
use crate::gateway::{Event, Sockets, stub};
use crate::host::writable;
use crate::sys;
use crate::sys::clone::{Forked, fork_into};
use crate::sys::process::Spent;
use crate::sys::seccomp::Notification;
use crate::types::{Code, Denial, Details, EgressRecord, Failure, Layer, OnViolation, Outcome, Refused, Syscall};
use capture::Capture;
use cgroup::Cgroup;
use denials::Denials;
use effort::Effort;
use frames::{Frame, Reader};
use limits::{Peaks, Tmp};
use nix::sched::CloneFlags;
use outcome::Ending;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use signals::Signals;
use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use unroutable::Counters;

/// More packets than a socket holds.
const QUEUE: usize = 1000;
/// How often memory is added up where no cgroup does it, and how often a watcher is woken.
const TICK: Duration = Duration::from_millis(100);
/// What the gateway gets to tell its last records.
const GATEWAY_GRACE: Duration = Duration::from_millis(500);
/// Connections that the answer lists; the sums count all.
const MAX_RECORDS: usize = 1000;
/// How long the killed call may take to be gone before the answer is given without that.
const UNREAPED: Duration = Duration::from_millis(1200);
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// The seven namespaces that every call gets, as clone3 takes them.
pub const NAMESPACE_FLAGS: u64 = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP)
    .bits() as u64;

/// Who looks on while a call runs.
pub trait Watcher {
    /// Time has passed; called at least every 100 ms when `wants_ticks`.
    fn tick(&mut self, elapsed: Duration);
    /// Whether ticks are wanted at all: a call that nobody watches should sleep.
    fn wants_ticks(&self) -> bool;
    /// The plugin told how far it is.
    fn progress(&mut self, message: &str, fraction: Option<f64>);
    /// The plugin wrote to stderr.
    fn stderr(&mut self, bytes: &[u8]);
}

/// Nobody looks on.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn tick(&mut self, _: Duration) {}
    fn wants_ticks(&self) -> bool {
        false
    }
    fn progress(&mut self, _: &str, _: Option<f64>) {}
    fn stderr(&mut self, _: &[u8]) {}
}

/// What the supervisor is asked to run.
pub struct Job<'a> {
    /// The user who called.
    pub caller: u32,
    /// What is enforced.
    pub plan: &'a Plan,
    /// The call frame, with its newline.
    pub frame: Vec<u8>,
    /// Source of the runner.
    pub runner: &'static [u8],
    /// From [`signals::take`], taken before anything else of the call.
    pub signals: Signals,
    /// When it must be over.
    pub deadline: Instant,
    /// Whether what the plugin looks for is noted (`upm learn`).
    pub observe: bool,
}

/// Runs the call. Afterwards nothing of it is left.
///
/// # Errors
/// What kept the plugin from being started; once it was started, all is in the outcome.
pub fn run(job: Job<'_>, watcher: &mut dyn Watcher) -> Result<Outcome<Denial>, Failure> {
    let as_root = nix::unistd::geteuid().is_root();
    // Descriptor 3 must be taken before the channels are made: in the child it becomes the frame socket.
    let reserve = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)
        .map_err(|error| StepError::new(Step::Prepare, "descriptor 3", error))?;
    confine::privileges::require()?;
    // Before `prepare`: in a user's own namespace the owners of the tree's other parts have no number.
    let request_id = job.plan.env.get("UPM_REQUEST_ID").map_or("", String::as_str);
    let mut bounds = cgroup::Bounds::from(&job.plan.limits);
    if job.observe {
        // What a call looks for does not depend on how fast it may look, and `upm learn` supervises it from a child, which is
        // not alone in the caller's cgroup.
        bounds.cpus = None;
    }
    // Before `prepare` too: it looks at owners.
    let writable = if writable::is_needed(job.plan) { Some(writable::Writable::open(job.caller)?) } else { None };
    let cgroup = cgroup::make(bounds, request_id);
    own::prepare(as_root)?;
    if !as_root {
        crate::walk::enter_namespace();
    }
    let mut prepared = confine::prepare(job.plan, job.runner, as_root, job.deadline)?;
    if let Some(writable) = writable {
        writable.record(job.plan, &prepared.trees)?;
    }
    // What was opened on the way is not kept beside the plugin.
    crate::walk::forget();
    let observer = if job.observe { Some(observe::Observer::start()?) } else { None };
    if observer.is_some() {
        let (decides, tells) = prepared.filter.watching(&observe::watched());
        (prepared.decides, prepared.filter) = (Some(decides), tells);
    }
    let filter = prepared.filter.clone();
    let (parent, child) = channels::make().map_err(|error| StepError::new(Step::Session, "channels", error))?;
    if as_root {
        // `/dev/stdout` opens the pipe anew, by its owner and mode.
        let (uid, gid) = job.plan.outside;
        for pipe in [&child.stdout, &child.stderr] {
            rustix::fs::fchown(pipe, Some(rustix::fs::Uid::from_raw(uid)), Some(rustix::fs::Gid::from_raw(gid)))
                .map_err(|error| StepError::new(Step::Prepare, "output pipes", error))?;
        }
    }
    tracing::debug!(mounts = prepared.trees.len(), filter = prepared.filter.name, "prepared");
    let started = Instant::now();
    let (forked, cgroup) = clone(&mut prepared, bounds, cgroup)?;
    let Forked::Parent { pid, pidfd } = forked else {
        drop(parent);
        confine::enter(job.plan, prepared, child);
    };
    // First of all: the child waits for it.
    let begun = id_map::write_maps(pid, (INSIDE_ID, INSIDE_ID), job.plan.outside).and_then(|()| {
        channels::send(parent.status.as_fd(), Tag::Go, b"", &[])
            .map_err(|error| StepError::new(Step::IdMap, "status channel", error))
    });
    drop(child);
    drop(prepared);
    drop(reserve);
    let supervision = Supervision {
        plan: job.plan,
        as_root,
        watcher,
        started,
        deadline: job.deadline,
        pid,
        pidfd,
        cgroup,
        signals: job.signals,
        status: Some(parent.status),
        failure: Some(parent.failure),
        frames: Some(parent.frames),
        to_send: VecDeque::from(job.frame),
        reader: Reader::new(job.plan.limits.result),
        stdout: Capture::new(parent.stdout, job.plan.limits.output),
        stderr: Capture::new(parent.stderr, job.plan.limits.output),
        filter,
        listener: None,
        filtered: false,
        told: false,
        stub: None,
        gateway: None,
        denials: Denials::default(),
        epoll: epoll::Additions::here(),
        locks: locks::Locks::default(),
        egress: Vec::new(),
        egress_bytes: (0, 0),
        report: None,
        running: false,
        seen: memory::Seen::default(),
        step_error: Vec::new(),
        answer: None,
        wait_status: None,
        ending: None,
        ended_at: None,
        spent_before: Spent::default(),
        over: false,
        next_memory: started,
        effort: Effort::begin(),
        observer,
        peaks: Peaks::default(),
        unroutable: Counters::default(),
        sockets: sockets::Sockets::default(),
        tmp: Tmp::default(),
        buffer: vec![0; CHUNK],
    };
    supervision.finish(begun)
}

/// The child, in its cgroup where that can be had; the kernel may still refuse to put it there (a threaded part of the
/// tree, a directory that somebody has taken away). Without one it goes by each process's limits, if those serve.
fn clone(
    prepared: &mut confine::Prepared,
    bounds: cgroup::Bounds,
    cgroup: Result<Cgroup, cgroup::Missing>,
) -> Result<(Forked, Result<Cgroup, cgroup::Missing>), Failure> {
    let cgroup = match cgroup {
        Ok(cgroup) => {
            prepared.cgroup = confine::limits::Cgroup { own: true, pids: cgroup.pids };
            match fork_into(NAMESPACE_FLAGS, Some(cgroup.directory())) {
                Ok(forked) => return Ok((forked, Ok(cgroup))),
                Err(error) => Err(cgroup.refused_clone(&error)),
            }
        }
        Err(missing) => Err(missing),
    };
    if let Err(missing) = &cgroup {
        missing.refuses(bounds)?;
    }
    prepared.cgroup = confine::limits::Cgroup::default();
    let forked = fork_into(NAMESPACE_FLAGS, None).map_err(|error| StepError::new(Step::Clone, "clone3", error))?;
    Ok((forked, cgroup))
}

/// One call while it runs.
struct Supervision<'a> {
    plan: &'a Plan,
    as_root: bool,
    watcher: &'a mut dyn Watcher,
    started: Instant,
    deadline: Instant,
    pid: i32,
    pidfd: OwnedFd,
    /// The call's own, or why there is none. Removed with this value.
    cgroup: Result<Cgroup, cgroup::Missing>,
    signals: Signals,
    status: Option<OwnedFd>,
    failure: Option<OwnedFd>,
    frames: Option<OwnedFd>,
    to_send: VecDeque<u8>,
    reader: Reader,
    stdout: Capture,
    stderr: Capture,
    filter: confine::filter::Filter,
    /// `None` before the filter was installed, and where there can be no listener.
    listener: Option<OwnedFd>,
    /// The filter was installed.
    filtered: bool,
    /// It has a listener, so that every refusal was told.
    told: bool,
    /// The name stub of a call without egress, which refuses every name here.
    stub: Option<(OwnedFd, OwnedFd)>,
    gateway: Option<gateway::Gateway>,
    denials: Denials,
    /// What it may still add to epoll sets.
    epoll: epoll::Additions,
    /// Locks of files that it waits for.
    locks: locks::Locks,
    egress: Vec<EgressRecord>,
    /// Bytes out and in, of all connections.
    egress_bytes: (u64, u64),
    report: Option<verify::Report>,
    /// Exec has happened.
    running: bool,
    /// The plugin as `/proc` shows it right after.
    seen: memory::Seen,
    step_error: Vec<u8>,
    /// The result or error frame.
    answer: Option<Frame>,
    wait_status: Option<i32>,
    /// Why the supervisor ended the call; the first reason counts.
    ending: Option<Ending>,
    /// When pid 1 was killed.
    ended_at: Option<Instant>,
    /// What the call's processes had used by then.
    spent_before: Spent,
    /// Pid 1 has ended.
    over: bool,
    next_memory: Instant,
    effort: Effort,
    observer: Option<observe::Observer>,
    peaks: Peaks,
    unroutable: Counters,
    sockets: sockets::Sockets,
    tmp: Tmp,
    buffer: Vec<u8>,
}

/// What a ready descriptor is.
#[derive(Clone, Copy, PartialEq)]
enum Source {
    Child,
    Signals,
    Status,
    Failure,
    Frames,
    Stdout,
    Stderr,
    Listener,
    StubUdp,
    StubTcp,
    Gateway,
}

impl Source {
    /// Whether the plugin decides how much comes from there.
    fn is_the_plugins(self) -> bool {
        !matches!(self, Source::Child | Source::Signals | Source::Status | Source::Failure)
    }
}

impl Supervision<'_> {
    /// Polls until pid 1 is gone, then gathers what is left.
    fn finish(mut self, begun: Result<(), StepError>) -> Result<Outcome<Denial>, Failure> {
        if let Err(error) = begun {
            // A child that failed first says more than the pipe that broke.
            if error.source.raw_os_error() != Some(Errno::PIPE.raw_os_error()) {
                self.end(Ending::Engine(error.into()));
            }
        }
        while !self.turn() {}
        // None: it is killed, but one of its processes sleeps where no signal reaches it (a dead disk or network file
        // system). The answer is due all the same; the kernel ends them when it can.
        let ended = sys::process::try_wait_usage(self.pid);
        let wall = self.started.elapsed();
        self.over = true;
        self.drain();
        self.end_gateway();
        let ended =
            ended.map_err(|errno| Failure::new(Code::Internal, format!("waiting for the call's pid 1: {errno}")))?;
        outcome::conclude(self, ended, wall)
    }

    /// One round of the loop; true when pid 1 has ended.
    fn turn(&mut self) -> bool {
        let held = self.held();
        let mut sources = vec![(Source::Child, self.pidfd.as_fd(), PollFlags::IN)];
        sources.extend(self.signals.poll().map(|(fd, flags)| (Source::Signals, fd, flags)));
        let out = if self.to_send.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        let optional: [(Source, Option<BorrowedFd<'_>>, PollFlags); 9] = [
            (Source::Status, self.status.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (Source::Failure, self.failure.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (Source::Frames, self.frames.as_ref().map(AsFd::as_fd), PollFlags::IN | out),
            (Source::Stdout, self.stdout.pipe().map(AsFd::as_fd), PollFlags::IN),
            (Source::Stderr, self.stderr.pipe().map(AsFd::as_fd), PollFlags::IN),
            (Source::Listener, self.listener.as_ref().map(AsFd::as_fd), PollFlags::IN),
            (Source::StubUdp, self.stub.as_ref().map(|(udp, _)| udp.as_fd()), PollFlags::IN),
            (Source::StubTcp, self.stub.as_ref().map(|(_, tcp)| tcp.as_fd()), PollFlags::IN),
            (Source::Gateway, self.gateway.as_ref().map(|gateway| gateway.events.as_fd()), PollFlags::IN),
        ];
        let optional = optional.into_iter().filter(|(source, ..)| !(held && source.is_the_plugins()));
        sources.extend(optional.filter_map(|(source, fd, flags)| Some((source, fd?, flags))));
        let mut fds: Vec<PollFd<'_>> =
            sources.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let now = Instant::now();
        let mut wait = self.deadline.saturating_duration_since(now);
        if self.ending.is_some() {
            // Killed already: only pid 1's end is awaited.
            wait = UNREAPED;
        }
        if (self.running && !self.counted()) || self.watcher.wants_ticks() {
            wait = wait.min(TICK);
        }
        if held {
            wait = wait.min(self.effort.pause());
        } else if let (Some(pause), Some(_), None) = (self.locks.pause(now), &self.listener, &self.ending) {
            wait = wait.min(pause);
        }
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
        let polled = poll(&mut fds, Some(&timeout));
        let ready: Vec<(Source, PollFlags)> = sources
            .iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|((source, ..), fd)| (*source, fd.revents()))
            .collect();
        if let Err(error) = polled
            && error != Errno::INTR
        {
            self.end(Ending::Engine(internal("poll")(error)));
        }
        if !self.running {
            // Poll looks at one descriptor after the other: on a busy host the plugin may have run between two of them.
            self.serve(Source::Status, PollFlags::IN);
        }
        for (source, events) in &ready {
            self.serve(*source, *events);
        }
        if !held {
            self.ask_for_locks();
        }
        self.watcher.tick(self.started.elapsed());
        if self.ending.is_none() {
            let now = Instant::now();
            if now >= self.deadline {
                self.end(Ending::Timeout);
            } else if self.running && !self.counted() && now >= self.next_memory {
                self.next_memory = now + TICK;
                self.look();
            }
        }
        let gone = ready.iter().any(|(source, _)| *source == Source::Child);
        gone || self.ended_at.is_some_and(|ended| ended.elapsed() >= UNREAPED)
    }

    /// Looks at what the call uses now, and ends it where that is more than its memory.
    fn look(&mut self) {
        let mark = Effort::mark();
        self.tmp.look();
        self.look_at_memory();
        self.effort.leave_out(mark);
    }

    fn look_at_memory(&mut self) {
        // It may have ended just now.
        let Some(resident) = memory::resident(self.pid, &mut self.peaks) else { return };
        if self.counted() {
            return;
        }
        match self.sockets.look() {
            Ok(sockets) => {
                let used = resident.saturating_add(sockets.bytes);
                if used > self.plan.limits.memory {
                    self.end(Ending::Memory { used, sockets });
                }
            }
            Err(error) => {
                let message = format!("limits: the call's sockets cannot be counted: {error}");
                self.end(Ending::Engine(lost(Layer::Limits, message)));
            }
        }
    }

    /// Whether the call has cost so much that what it sends has to wait. `upm learn` looks at each system call: that is what it
    /// is asked for.
    fn held(&mut self) -> bool {
        if !self.running || self.ending.is_some() || self.observer.is_some() {
            return false;
        }
        if let Ok(cgroup) = &mut self.cgroup
            && self.effort.is_large()
        {
            cgroup.count_supervisor();
        }
        let (pid, cgroup) = (self.pid, self.cgroup.as_ref().ok());
        self.effort.is_over(|| {
            let counted = cgroup.and_then(|cgroup| cgroup.told().cpu);
            let (user, system) = counted.unwrap_or_else(|| {
                let spent = memory::spent(pid);
                (spent.user_us, spent.system_us)
            });
            Duration::from_micros(user + system)
        })
    }

    /// The kernel counts the call's memory.
    fn counted(&self) -> bool {
        self.cgroup.as_ref().is_ok_and(|cgroup| cgroup.memory)
    }

    /// Ends the call: pid 1 is killed, and with it everything in its pid namespace.
    fn end(&mut self, ending: Ending) {
        if self.ending.is_none() {
            self.ending = Some(ending);
            self.ended_at = Some(Instant::now());
            // Pid 1 dies without reaping, so nobody would tell it afterwards.
            self.spent_before = memory::spent(self.pid);
        }
        // ESRCH: it is gone already.
        if let Err(error) = rustix::process::pidfd_send_signal(&self.pidfd, rustix::process::Signal::KILL)
            && error != Errno::SRCH
        {
            self.ending = Some(Ending::Engine(Failure::new(Code::Internal, format!("ending the call: {error}"))));
        }
        if let Ok(cgroup) = &self.cgroup {
            cgroup.kill();
        }
    }

    fn serve(&mut self, source: Source, events: PollFlags) {
        let served = match source {
            Source::Child => Ok(()),
            Source::Signals => self.serve_signals(),
            Source::Status => self.serve_status(),
            Source::Failure => self.serve_failure(),
            Source::Frames => self.serve_frames(),
            Source::Stdout => self.stdout.read(&mut self.buffer, &mut |_| {}).map(drop).map_err(internal("stdout")),
            Source::Stderr => {
                let watcher = &mut *self.watcher;
                self.stderr
                    .read(&mut self.buffer, &mut |bytes| watcher.stderr(bytes))
                    .map(drop)
                    .map_err(internal("stderr"))
            }
            Source::Listener if events.contains(PollFlags::IN) => self.serve_listener(),
            // Everyone under the filter has ended. Older kernels (6.1) would wait for ever in a receive now.
            Source::Listener => {
                self.listener = None;
                Ok(())
            }
            Source::StubUdp => self.serve_stub_udp(),
            Source::StubTcp => self.serve_stub_tcp(),
            Source::Gateway => self.serve_gateway().map(drop),
        };
        if let Err(failure) = served {
            self.end(Ending::Engine(failure));
        }
    }

    fn serve_signals(&mut self) -> Result<(), Failure> {
        if let Some(signal) = self.signals.cancelled().map_err(|errno| internal("signals")(errno_of(errno)))? {
            self.end(Ending::Cancelled { signal });
        }
        Ok(())
    }

    /// Takes every packet that is there.
    fn serve_status(&mut self) -> Result<(), Failure> {
        while let Some(status) = &self.status {
            match channels::receive(status.as_fd(), &mut self.buffer) {
                Ok(Some((length, fds))) => self.take_status(length, fds)?,
                Ok(None) => self.status = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A peer that died with unread packets.
                Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()) => self.status = None,
                Err(error) => return Err(Failure::new(Code::Internal, format!("status channel: {error}"))),
            }
        }
        Ok(())
    }

    fn take_status(&mut self, length: usize, mut fds: Vec<OwnedFd>) -> Result<(), Failure> {
        let packet = &self.buffer[..length];
        match packet[0] {
            tag if tag == Tag::Sockets as u8 && fds.len() == 2 + self.plan.tcp_ports.len() => {
                let mut fds = fds.into_iter();
                let (Some(dns_udp), Some(dns_tcp)) = (fds.next(), fds.next()) else { return Ok(()) };
                self.sockets
                    .learn(dns_udp.as_fd())
                    .map_err(|error| StepError::new(Step::Network, "the size of a socket's buffers", error))?;
                if self.plan.egress.is_empty() {
                    self.stub = Some((dns_udp, dns_tcp));
                } else {
                    let listeners = self.plan.tcp_ports.iter().copied().zip(fds).collect();
                    let own = sys::process::own_pidfd()
                        .map_err(|error| Failure::new(Code::Internal, format!("pidfd: {error}")))?;
                    let sockets = Sockets { dns_udp, dns_tcp, listeners };
                    let cgroup = self.cgroup.as_ref().ok().map(Cgroup::engine);
                    self.gateway = Some(gateway::start(self.plan, sockets, self.as_root, own.as_fd(), cgroup)?);
                }
            }
            tag if tag == Tag::Verified as u8 && !fds.is_empty() => {
                let report: verify::Report = serde_json::from_slice(&packet[1..])
                    .map_err(|error| Failure::new(Code::Internal, format!("verification report: {error}")))?;
                let own = verify::namespaces().map_err(|error| StepError::new(Step::Verify, "/proc/self/ns", error))?;
                let shared =
                    |(name, own): &(&String, &u64)| report.namespaces.get(*name).is_none_or(|inside| inside == *own);
                if let Some((name, _)) = own.iter().find(shared) {
                    let error = io::Error::other("is the supervisor's");
                    return Err(StepError::new(Step::Verify, format!("{name} namespace"), error).into());
                }
                self.report = Some(report);
                let mut fds = fds.into_iter();
                self.tmp = fds.next().map_or_else(Tmp::default, Tmp::new);
                if let Some(counts) = fds.next() {
                    self.sockets.watch(counts);
                }
                self.unroutable = Counters::new(fds);
            }
            tag if tag == Tag::Deaf as u8 => {
                self.filter = self.filter.deaf(self.plan.on_violation);
                self.filtered = true;
            }
            tag if tag == Tag::Listener as u8 && fds.len() == 1 => {
                sys::seccomp::set_sync_wake_up(fds[0].as_fd())
                    .map_err(|error| StepError::new(Step::Seccomp, "listener", error))?;
                self.listener = fds.pop();
                (self.filtered, self.told) = (true, true);
            }
            tag if tag == Tag::Locked as u8 && self.listener.is_some() => {
                let verdict = Verdict::decode(packet)
                    .ok_or_else(|| Failure::new(Code::Internal, "status channel: an answer that pid 1 never gives"))?;
                self.take_verdict(verdict)?;
            }
            // Everyone who could have asked has ended.
            tag if tag == Tag::Locked as u8 => {}
            tag if tag == Tag::Ended as u8 && length == 5 => {
                let status = packet[1..5].try_into().map_or(0, i32::from_ne_bytes);
                self.wait_status = Some(status);
            }
            _ => return Err(Failure::new(Code::Internal, "status channel: a packet that no step sends")),
        }
        Ok(())
    }

    /// End of file on the failure pipe means that exec closed it: the plugin's program runs.
    fn serve_failure(&mut self) -> Result<(), Failure> {
        let Some(pipe) = &self.failure else { return Ok(()) };
        match rustix::io::read(pipe, &mut self.buffer) {
            Ok(0) => {
                self.failure = None;
                // What was read back, and the listener, were sent before exec.
                self.serve_status()?;
                if self.step_error.is_empty() && self.filtered && self.report.is_some() {
                    self.running = true;
                    tracing::debug!(after_us = self.started.elapsed().as_micros() as u64, "the plugin runs");
                    self.seen = memory::watchable(self.pid)?;
                    own::confine(self.plan.landlock_abi, self.cgroup.as_ref().ok().map(Cgroup::above))?;
                    self.effort = Effort::begin();
                }
                Ok(())
            }
            Ok(count) => {
                self.step_error.extend_from_slice(&self.buffer[..count.min(4096)]);
                Ok(())
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(error) => Err(internal("failure pipe")(error)),
        }
    }

    fn serve_frames(&mut self) -> Result<(), Failure> {
        self.send_frame()?;
        self.read_frames().map(drop)
    }

    /// Sends what the socket takes of the call frame. A plugin that does not read it gets no more of it.
    fn send_frame(&mut self) -> Result<(), Failure> {
        let Some(socket) = &self.frames else { return Ok(()) };
        while !self.to_send.is_empty() {
            let (first, _) = self.to_send.as_slices();
            match rustix::net::send(socket, first, rustix::net::SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.to_send.drain(..count)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => self.to_send.clear(),
                Err(error) => return Err(internal("frames")(error)),
            }
        }
        Ok(())
    }

    /// Reads once; false when there is nothing more now. `read` without a control buffer drops passed descriptors.
    fn read_frames(&mut self) -> Result<bool, Failure> {
        let Some(socket) = &self.frames else { return Ok(false) };
        match rustix::io::read(socket, &mut self.buffer) {
            Ok(0) | Err(Errno::CONNRESET) => {
                self.frames = None;
                Ok(false)
            }
            Ok(count) => {
                let mark = Effort::mark();
                let (answer, watcher) = (&mut self.answer, &mut *self.watcher);
                let taken = self.reader.push(&self.buffer[..count], &mut |frame| match frame {
                    Frame::Progress { message, fraction } => watcher.progress(&message, fraction),
                    last => *answer = Some(last),
                });
                if let Err(failure) = taken {
                    self.frames = None;
                    self.end(Ending::Frames(failure));
                    return Ok(false);
                }
                if self.answer.is_some() {
                    // One a call, as long as `result` says.
                    self.effort.leave_out(mark);
                }
                // The last moment at which a short call's processes and files are all there.
                if self.answer.is_some() && self.ending.is_none() && !self.over {
                    self.look();
                }
                Ok(true)
            }
            Err(Errno::INTR) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(internal("frames")(error)),
        }
    }

    fn serve_listener(&mut self) -> Result<(), Failure> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let notification = match sys::seccomp::notif_recv(listener.as_fd()) {
            Ok(Some(notification)) => notification,
            // That process ended in between; others may still ask.
            Ok(None) => return Ok(()),
            Err(error) => return Err(StepError::new(Step::Seccomp, "listener", error).into()),
        };
        let handed = confine::filter::handed(notification.nr, &notification.args);
        if let Some(Handed::Lock(act)) = handed {
            let distant = self.report.as_ref().and_then(|report| report.distant.as_deref());
            // Its own cgroup ends a call whatever becomes of pid 1.
            let distant = distant.filter(|_| self.cgroup.is_err());
            let step = self.locks.want(listener.as_fd(), notification, act, distant);
            return self.settle(step);
        }
        if handed == Some(Handed::UnixSocket) && !self.plan.named_unix {
            // Programs ask a name service cache so, and go on without: not even `on_violation = "kill"` ends the call.
            let call = denials::syscall(notification.nr, &notification.args, Refused::UnixSocket);
            let still = || sys::seccomp::notif_id_valid(listener.as_fd(), notification.id).unwrap_or(false);
            self.denials.add_of(call, notification.pid, still);
            return self.answer(notification.id, Errno::AFNOSUPPORT);
        }
        let counted = handed == Some(Handed::Addition);
        if counted
            && self
                .epoll
                .one(listener.as_fd(), notification.id)
                .map_err(|error| StepError::new(Step::Seccomp, "listener", error))?
        {
            return Ok(());
        }
        if self.observer.is_some() {
            // Whose address a connection is for the gateway has told before it answered the look-up.
            for _ in 0..QUEUE {
                if !self.serve_gateway()? {
                    break;
                }
            }
        }
        let Some(listener) = &self.listener else { return Ok(()) };
        if let Some(observer) = &mut self.observer
            && observer
                .observe(self.plan, listener.as_fd(), &notification)
                .map_err(|error| StepError::new(Step::Seccomp, "listener", error))?
        {
            return Ok(());
        }
        // What the kernel itself says where a user's limit is reached.
        let (refused, errno) = if counted { (Refused::Count, Errno::NOSPC) } else { (Refused::Filter, Errno::PERM) };
        let call = denials::syscall(notification.nr, &notification.args, refused);
        self.deny(&notification, call, errno)
    }

    /// Puts a denial on record and answers it.
    fn deny(&mut self, notification: &Notification, call: Syscall, errno: Errno) -> Result<(), Failure> {
        let Some(listener) = &self.listener else { return Ok(()) };
        // It may have ended meanwhile, and its number may be another process's.
        let still = || sys::seccomp::notif_id_valid(listener.as_fd(), notification.id).unwrap_or(false);
        if self.plan.on_violation == OnViolation::Kill {
            self.denials.add_of(call.clone(), notification.pid, still);
            self.end(Ending::Violation(call));
            return Ok(());
        }
        self.denials.add_of(call, notification.pid, still);
        self.answer(notification.id, errno)
    }

    fn answer(&self, id: u64, errno: Errno) -> Result<(), Failure> {
        let Some(listener) = &self.listener else { return Ok(()) };
        // False: whoever asked has ended.
        sys::seccomp::notif_send_errno(listener.as_fd(), id, errno.raw_os_error())
            .map(drop)
            .map_err(|error| StepError::new(Step::Seccomp, "listener", error).into())
    }

    fn ask_for_locks(&mut self) {
        let (Some(listener), Some(status), None) = (&self.listener, &self.status, &self.ending) else { return };
        let asked = self
            .locks
            .ask(listener.as_fd(), status.as_fd(), Instant::now())
            .map_err(|error| StepError::new(Step::Seccomp, "locks", error).into());
        if let Err(failure) = asked.and_then(|step| self.settle(step)) {
            self.end(Ending::Engine(failure));
        }
    }

    fn take_verdict(&mut self, verdict: Verdict) -> Result<(), Failure> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let step = self
            .locks
            .answered(listener.as_fd(), verdict, Instant::now())
            .map_err(|error| StepError::new(Step::Seccomp, "locks", error))?;
        self.settle(step)
    }

    fn settle(&mut self, step: locks::Step) -> Result<(), Failure> {
        match step {
            locks::Step::Settled => Ok(()),
            locks::Step::Failed(id, errno) => self.answer(id, errno),
            locks::Step::Refused(locks::Refusal { notification, errno, why }) => {
                let call = denials::syscall(notification.nr, &notification.args, Refused::Lock(why));
                self.deny(&notification, call, errno)
            }
        }
    }

    fn refuse(&mut self, query: &[u8]) -> Option<Vec<u8>> {
        let denials = &mut self.denials;
        stub::answer(query, |name: &str| -> Option<Ipv4Addr> {
            denials.add(Refusal::resolve(name).denied, 1);
            None
        })
    }

    fn serve_stub_udp(&mut self) -> Result<(), Failure> {
        use nix::sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto};
        use std::os::fd::AsRawFd;
        let Some((udp, _)) = &self.stub else { return Ok(()) };
        let fd = udp.as_raw_fd();
        // One a turn: whoever floods the stub waits for its own answers only.
        let mut query = [0u8; 512];
        let Ok((length, Some(from))) = recvfrom::<SockaddrIn>(fd, &mut query) else { return Ok(()) };
        if let Some(answer) = self.refuse(&query[..length]) {
            match sendto(fd, &answer, &from, MsgFlags::MSG_DONTWAIT) {
                // An asker that is gone, or reads nothing, has no claim to an answer.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// By TCP the stub of a call without egress only hangs up: a resolver comes here after a truncated answer, and the
    /// stub's are never.
    fn serve_stub_tcp(&mut self) -> Result<(), Failure> {
        let Some((_, tcp)) = &self.stub else { return Ok(()) };
        // An error means that the asker has hung up first.
        drop(rustix::net::accept_with(tcp, rustix::net::SocketFlags::CLOEXEC));
        Ok(())
    }

    /// Takes one packet of the gateway; false when there is none now.
    fn serve_gateway(&mut self) -> Result<bool, Failure> {
        let Some(gateway) = &self.gateway else { return Ok(false) };
        match rustix::io::read(&gateway.events, &mut self.buffer) {
            // Its end, also where it left something unread.
            Ok(0) | Err(Errno::CONNRESET) => {
                self.gateway = None;
                if self.ending.is_none() && !self.over {
                    return Err(lost(Layer::Egress, "gateway: ended before the call did"));
                }
                Ok(false)
            }
            Ok(count) => {
                match Event::parse(&self.buffer[..count]).map_err(|error| Failure::new(Code::Internal, error))? {
                    Event::Connection(record) => self.take_record(record),
                    Event::Refused(refusal) => self.denials.add(refusal.denied, refusal.count),
                    Event::Dropped { count } => self.denials.drop_more(count),
                    Event::Named { name, address } => {
                        if let Some(observer) = &mut self.observer {
                            observer.named(&name, address);
                        }
                    }
                }
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(error) => Err(internal("gateway")(error)),
        }
    }

    /// A connection of a call is one entry of the answer; a plugin that makes them by the thousand is told of in sums.
    fn take_record(&mut self, record: EgressRecord) {
        self.egress_bytes.0 += record.bytes_sent;
        self.egress_bytes.1 += record.bytes_received;
        if self.egress.len() < MAX_RECORDS {
            self.egress.push(record);
        }
    }

    /// Pid 1 is gone: what the pipes still hold is all there will ever be.
    fn drain(&mut self) {
        if let Err(failure) = self.serve_status() {
            self.end(Ending::Engine(failure));
        }
        while self.failure.is_some() {
            let before = self.step_error.len();
            if self.serve_failure().is_err() || (self.failure.is_some() && self.step_error.len() == before) {
                break;
            }
        }
        // A killed call's output is told, its frames are not believed any more.
        if self.ending.is_none() {
            while let Ok(true) = self.read_frames() {}
            if self.ending.is_none()
                && let Err(failure) = self.reader.end()
            {
                self.ending = Some(Ending::Frames(failure));
            }
        }
        while let Ok(true) = self.stdout.read(&mut self.buffer, &mut |_| {}) {}
        let watcher = &mut *self.watcher;
        while let Ok(true) = self.stderr.read(&mut self.buffer, &mut |bytes| watcher.stderr(bytes)) {}
    }

    /// Hangs up, hears the last records, and ends the gateway.
    fn end_gateway(&mut self) {
        let until = Instant::now() + GATEWAY_GRACE;
        if let Some(gateway) = &self.gateway {
            // Its own end of file is the gateway's sign to tell what is open and leave; ENOTCONN: it has left.
            rustix::net::shutdown(&gateway.events, rustix::net::Shutdown::Write).ok();
        }
        while let Some(gateway) = &self.gateway {
            let wait = until.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            let mut fds = [PollFd::from_borrowed_fd(gateway.events.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(&timeout)), Ok(1..)) || self.serve_gateway().is_err() {
                self.gateway = None;
            }
        }
    }
}

/// A layer that ended before the call did.
fn lost(layer: Layer, message: impl Into<String>) -> Failure {
    Failure::new(Code::SandboxFailed, message).with(Details::Layer { layer, cause: None, remedy: None })
}

fn internal(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::new(Code::Internal, format!("{what}: {error}"))
}

fn errno_of(errno: nix::Error) -> Errno {
    Errno::from_raw_os_error(errno as i32)
}
