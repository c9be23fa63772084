//! What a sandbox reports of itself: the status channel, the failure pipe, and what is known of the plugin's process from them.

use super::memory::{self, Seen};
use super::{Channel, Polled, internal, readable};
use crate::confine::channels::{self, Tag};
use crate::confine::locks::Verdict;
use crate::confine::step::{Step, StepError};
use crate::confine::verify::{self, Report};
use crate::types::{Code, Failure};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a failed step that are kept at once.
const MAX_ERROR: usize = 4096;

/// The reports.
pub(super) struct Status {
    channel: Option<OwnedFd>,
    failure: Option<OwnedFd>,
    /// The number of descriptors that come with [`Tag::Sockets`].
    sockets: usize,
    step_error: Vec<u8>,
    /// The filter was installed.
    filtered: bool,
    report: Option<Report>,
    /// Exec has happened.
    pub running: bool,
    /// The plugin as `/proc` shows it right after.
    seen: Seen,
    /// The wait status of the plugin's process.
    pub wait_status: Option<i32>,
}

/// A packet that concerns others.
pub(super) enum Said {
    /// The sockets of the stub, then one for each granted port.
    Sockets(Vec<OwnedFd>),
    /// What is to be watched: the directories in memory, and the counters of the network namespace.
    Verified(Vec<OwnedFd>),
    /// The filter has no listener.
    Deaf,
    /// The filter's listener.
    Listener(OwnedFd),
    /// Pid 1's answer about a lock.
    Locked(Verdict),
}

impl Status {
    /// `ports`: the number of granted ports.
    pub fn new(channel: OwnedFd, failure: OwnedFd, ports: usize) -> Self {
        Status {
            channel: Some(channel),
            failure: Some(failure),
            sockets: 2 + ports,
            step_error: Vec::new(),
            filtered: false,
            report: None,
            running: false,
            seen: Seen::default(),
            wait_status: None,
        }
    }

    pub fn poll(&self) -> impl Iterator<Item = Polled<'_>> {
        [(Channel::Status, &self.channel), (Channel::Failure, &self.failure)].into_iter().filter_map(readable)
    }

    /// To pid 1.
    pub fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// A mount of the call on which pid 1 might have to wait.
    pub fn distant(&self) -> Option<&str> {
        self.report.as_ref()?.distant.as_deref()
    }

    /// The next packet that concerns others; `None` if there is none now.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Said>, Failure> {
        while let Some(channel) = &self.channel {
            match channels::receive(channel.as_fd(), buffer) {
                Ok(Some((length, fds))) => {
                    if let Some(said) = self.take(&buffer[..length], fds)? {
                        return Ok(Some(said));
                    }
                }
                Ok(None) => self.channel = None,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // The other end died with unread packets.
                Err(error) if error.raw_os_error() == Some(Errno::CONNRESET.raw_os_error()) => self.channel = None,
                Err(error) => return Err(internal("status channel")(error)),
            }
        }
        Ok(None)
    }

    fn take(&mut self, packet: &[u8], mut fds: Vec<OwnedFd>) -> Result<Option<Said>, Failure> {
        let wrong = |what: &str| Failure::new(Code::Internal, format!("status channel: {what}"));
        let is = |tag: Tag| packet[0] == tag as u8;
        if is(Tag::Sockets) && fds.len() == self.sockets {
            Ok(Some(Said::Sockets(fds)))
        } else if is(Tag::Verified) && !fds.is_empty() {
            self.report = Some(report(&packet[1..])?);
            Ok(Some(Said::Verified(fds)))
        } else if is(Tag::Deaf) {
            self.filtered = true;
            Ok(Some(Said::Deaf))
        } else if is(Tag::Listener) && fds.len() == 1 {
            self.filtered = true;
            Ok(fds.pop().map(Said::Listener))
        } else if is(Tag::Locked) {
            let verdict = Verdict::decode(packet).ok_or_else(|| wrong("an answer that pid 1 never gives"))?;
            Ok(Some(Said::Locked(verdict)))
        } else if let (true, Ok(status)) = (is(Tag::Ended), packet[1..].try_into()) {
            self.wait_status = Some(i32::from_ne_bytes(status));
            Ok(None)
        } else {
            Err(wrong("a packet that no step sends"))
        }
    }

    /// Reads once what a failed step reports; true at the end of file: exec has closed the pipe. `None` if there is nothing now.
    pub fn read_failure(&mut self, buffer: &mut [u8]) -> Result<Option<bool>, Failure> {
        let Some(pipe) = &self.failure else { return Ok(None) };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => {
                self.failure = None;
                Ok(Some(true))
            }
            Ok(count) => {
                self.step_error.extend_from_slice(&buffer[..count.min(MAX_ERROR)]);
                Ok(Some(false))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(internal("failure pipe")(error)),
        }
    }

    /// After exec has closed the failure pipe: whether the plugin's program runs, which pid 1's child became.
    pub fn begin(&mut self, pid: i32) -> Result<bool, Failure> {
        self.running = self.step_error.is_empty() && self.filtered && self.report.is_some();
        if self.running {
            self.seen = memory::watchable(pid)?;
        }
        Ok(self.running)
    }

    /// What was read back before and after exec, if the plugin was started; and the step that failed.
    pub fn finish(self) -> (Option<(Report, Seen)>, Option<StepError>) {
        let started = self.report.filter(|_| self.running).map(|report| (report, self.seen));
        (started, StepError::decode(&self.step_error))
    }
}

/// What the child read back of itself. Its namespaces must not be the supervisor's.
fn report(json: &[u8]) -> Result<Report, Failure> {
    let report: Report = serde_json::from_slice(json)
        .map_err(|error| Failure::new(Code::Internal, format!("verification report: {error}")))?;
    let own = verify::namespaces().map_err(|error| StepError::new(Step::Verify, "/proc/self/ns", error))?;
    let shared = |(name, own): &(&String, &u64)| report.namespaces.get(*name).is_none_or(|inside| inside == *own);
    if let Some((name, _)) = own.iter().find(shared) {
        let error = io::Error::other("is the supervisor's");
        return Err(StepError::new(Step::Verify, format!("{name} namespace"), error).into());
    }
    Ok(report)
}
