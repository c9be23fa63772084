//! Bounded capture of one output stream: what does not fit is read, counted and dropped, so that the writer never blocks.

use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

/// One of stdout and stderr.
pub struct Capture {
    pipe: Option<OwnedFd>,
    kept: Vec<u8>,
    limit: usize,
    dropped: u64,
}

impl Capture {
    /// Keeps the first `limit` bytes of a pipe that does not block.
    #[must_use]
    pub fn new(pipe: OwnedFd, limit: u64) -> Self {
        Capture { pipe: Some(pipe), kept: Vec::new(), limit: usize::try_from(limit).unwrap_or(usize::MAX), dropped: 0 }
    }

    /// The pipe, until its end was seen.
    #[must_use]
    pub fn pipe(&self) -> Option<&OwnedFd> {
        self.pipe.as_ref()
    }

    /// Reads once. `see` gets the bytes as they came. False when there is nothing more to read now.
    ///
    /// # Errors
    /// What read(2) says, besides `EAGAIN` and `EINTR`.
    pub fn read(&mut self, buffer: &mut [u8], see: &mut dyn FnMut(&[u8])) -> rustix::io::Result<bool> {
        let Some(pipe) = &self.pipe else { return Ok(false) };
        match rustix::io::read(pipe.as_fd(), &mut *buffer) {
            Ok(0) => {
                self.pipe = None;
                Ok(false)
            }
            Ok(count) => {
                let bytes = &buffer[..count];
                see(bytes);
                let room = self.limit - self.kept.len();
                let (keep, drop) = bytes.split_at(room.min(count));
                self.kept.extend_from_slice(keep);
                self.dropped += drop.len() as u64;
                Ok(true)
            }
            Err(Errno::INTR) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// What was kept and how many bytes were not.
    #[must_use]
    pub fn finish(self) -> (Vec<u8>, u64) {
        (self.kept, self.dropped)
    }
}
