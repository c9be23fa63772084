//! Bounded capture of stdout and stderr: what does not fit is read, counted and dropped, so that the writer never blocks.

use super::denials::Denials;
use super::{Channel, Polled, Watcher, internal, readable};
use crate::keys::Key;
use crate::types::{Denied, Failure, Met, Output, Stream};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// Both streams of a sandbox.
pub(super) struct Streams {
    stdout: Capture,
    stderr: Capture,
    /// Bytes that are kept of each.
    limit: u64,
}

struct Capture {
    /// Until its end was seen.
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    dropped: u64,
}

impl Streams {
    /// Keeps the first `limit` bytes of each pipe. They must not block.
    pub fn new(stdout: OwnedFd, stderr: OwnedFd, limit: u64) -> Self {
        let capture = |pipe| Capture { pipe: Some(pipe), kept: Vec::new(), dropped: 0 };
        Streams { stdout: capture(stdout), stderr: capture(stderr), limit }
    }

    pub fn poll(&self) -> impl Iterator<Item = Polled<'_>> {
        let pipes = [(Stream::Stdout, &self.stdout), (Stream::Stderr, &self.stderr)];
        pipes.into_iter().filter_map(|(stream, capture)| readable((Channel::Output(stream), &capture.pipe)))
    }

    /// Reads once; the watcher gets stderr as it comes. False if there is nothing more to read now.
    pub fn read(&mut self, stream: Stream, buffer: &mut [u8], watcher: &mut dyn Watcher) -> Result<bool, Failure> {
        let (capture, name) = match stream {
            Stream::Stdout => (&mut self.stdout, "stdout"),
            Stream::Stderr => (&mut self.stderr, "stderr"),
        };
        let Some(pipe) = &capture.pipe else { return Ok(false) };
        match rustix::io::read(pipe, &mut *buffer) {
            Ok(0) => {
                capture.pipe = None;
                Ok(false)
            }
            Ok(count) => {
                let bytes = &buffer[..count];
                if stream == Stream::Stderr {
                    watcher.stderr(bytes);
                }
                let room = usize::try_from(self.limit).unwrap_or(usize::MAX) - capture.kept.len();
                let (keep, drop) = bytes.split_at(room.min(count));
                capture.kept.extend_from_slice(keep);
                capture.dropped += drop.len() as u64;
                Ok(true)
            }
            Err(Errno::INTR) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(internal(name)(error)),
        }
    }

    /// What was kept. What was dropped is a denial.
    pub fn finish(self, denials: &mut Denials) -> Output {
        let Streams { stdout, stderr, limit: value } = self;
        for (dropped, stream) in [(stdout.dropped, Stream::Stdout), (stderr.dropped, Stream::Stderr)] {
            if dropped > 0 {
                let met = Met { key: Key::Output, value, used: Some(value + dropped), stream: Some(stream) };
                denials.add(Denied::Limit(met), 1);
            }
        }
        Output {
            stdout: stdout.kept,
            stderr: stderr.kept,
            stdout_dropped: stdout.dropped,
            stderr_dropped: stderr.dropped,
        }
    }
}
