//! The parent's side of a call. `start.rs` makes a sandbox and `turns.rs` is its poll loop. A part of the sandbox has a file that
//! owns its descriptors and what is known of it.

pub mod apart;
mod capture;
pub mod cgroup;
mod child;
pub mod client;
pub mod denials;
pub mod effort;
mod egress;
pub mod epoll;
mod exchange;
pub mod frames;
pub mod gateway;
pub mod limits;
pub mod locks;
pub mod memory;
mod notifications;
pub mod observe;
pub mod outcome;
pub mod own;
pub mod reader;
pub mod signals;
pub mod sockets;
mod start;
mod status;
mod turns;
pub mod unroutable;
mod watch;

use crate::decide::plan::Plan;
use crate::types::{Code, Denial, Details, Failure, Layer, Outcome, Stream};
use nix::sched::CloneFlags;
use rustix::event::PollFlags;
use signals::Signals;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The seven namespaces that every call gets, as clone3 takes them.
pub const NAMESPACE_FLAGS: u64 = CloneFlags::CLONE_NEWUSER
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWPID)
    .union(CloneFlags::CLONE_NEWNET)
    .union(CloneFlags::CLONE_NEWIPC)
    .union(CloneFlags::CLONE_NEWUTS)
    .union(CloneFlags::CLONE_NEWCGROUP)
    .bits() as u64;

/// Follows a call while it runs.
pub trait Watcher {
    /// Time has passed; called at least every 100 ms when `wants_ticks`.
    fn tick(&mut self, elapsed: Duration);
    /// Whether ticks are wanted: without them an idle call sleeps.
    fn wants_ticks(&self) -> bool;
    /// The plugin reported its progress.
    fn progress(&mut self, message: &str, fraction: Option<f64>);
    /// The plugin wrote to stderr.
    fn stderr(&mut self, bytes: &[u8]);
}

/// Ignores everything.
pub struct Unwatched;

impl Watcher for Unwatched {
    fn tick(&mut self, _: Duration) {}
    fn wants_ticks(&self) -> bool {
        false
    }
    fn progress(&mut self, _: &str, _: Option<f64>) {}
    fn stderr(&mut self, _: &[u8]) {}
}

/// One sandbox to run.
pub struct Job<'a> {
    /// The user who called.
    pub caller: u32,
    /// What is enforced.
    pub plan: &'a Plan,
    /// The call frame, with its newline.
    pub frame: Vec<u8>,
    /// Source of the runner.
    pub runner: &'static [u8],
    /// The call's, from [`signals::take`].
    pub signals: &'a Signals,
    /// When it must be over.
    pub deadline: Instant,
    /// Whether what the plugin looks for is noted (`upm learn`).
    pub observe: bool,
}

/// Runs the plugin in a sandbox. Afterwards nothing of it is left.
///
/// # Errors
/// What kept the plugin from being started; after that everything is in the outcome.
pub fn run(job: Job<'_>, watcher: &mut dyn Watcher) -> Result<Outcome<Denial>, Failure> {
    start::start(job, watcher)?.finish()
}

/// What a polled descriptor is for.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Channel {
    Child,
    Signals,
    Status,
    Failure,
    Frames,
    Output(Stream),
    Listener,
    StubUdp,
    StubTcp,
    Gateway,
}

/// A descriptor to poll, and for what.
type Polled<'a> = (Channel, BorrowedFd<'a>, PollFlags);

/// Polls a channel until it is closed.
fn readable((channel, fd): (Channel, &Option<OwnedFd>)) -> Option<Polled<'_>> {
    Some((channel, fd.as_ref()?.as_fd(), PollFlags::IN))
}

/// A layer that ended before the call did.
fn lost(layer: Layer, message: impl Into<String>) -> Failure {
    Failure::new(Code::SandboxFailed, message).with(Details::Layer { layer, cause: None, remedy: None })
}

fn internal<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> Failure {
    move |error| Failure::new(Code::Internal, format!("{what}: {}", error.into()))
}
