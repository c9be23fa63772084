//! The frames of a sandbox: the call frame out, progress and one answer in.

use super::child::Ending;
use super::effort::Effort;
use super::frames::{Frame, Reader};
use super::{Channel, Polled, Watcher, internal};
use crate::types::Failure;
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{SendFlags, send};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

/// The frame socket.
pub(super) struct Exchange {
    /// `None` once the plugin has closed it, or has broken the protocol.
    socket: Option<OwnedFd>,
    to_send: VecDeque<u8>,
    reader: Reader,
    /// The result or error frame.
    pub answer: Option<Frame>,
}

impl Exchange {
    /// `frame` is the call frame; `limit` the largest answer in bytes.
    pub fn new(socket: OwnedFd, frame: Vec<u8>, limit: u64) -> Self {
        Exchange { socket: Some(socket), to_send: frame.into(), reader: Reader::new(limit), answer: None }
    }

    pub fn poll(&self) -> Option<Polled<'_>> {
        let out = if self.to_send.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        Some((Channel::Frames, self.socket.as_ref()?.as_fd(), PollFlags::IN | out))
    }

    /// Sends what the socket takes of the call frame. A plugin that does not read it gets no more of it.
    pub fn send(&mut self) -> Result<(), Failure> {
        let Some(socket) = &self.socket else { return Ok(()) };
        while !self.to_send.is_empty() {
            let (first, _) = self.to_send.as_slices();
            match send(socket, first, SendFlags::NOSIGNAL) {
                Ok(count) => drop(self.to_send.drain(..count)),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => self.to_send.clear(),
                Err(error) => return Err(internal("frames")(error)),
            }
        }
        Ok(())
    }

    /// Reads once; false if there is nothing more now. `read` without a control buffer drops passed descriptors.
    pub fn read(&mut self, buffer: &mut [u8], watcher: &mut dyn Watcher, effort: &mut Effort) -> Result<bool, Ending> {
        let Some(socket) = &self.socket else { return Ok(false) };
        let count = match rustix::io::retry_on_intr(|| rustix::io::read(socket, &mut *buffer)) {
            Ok(0) | Err(Errno::CONNRESET) => {
                self.socket = None;
                return Ok(false);
            }
            Ok(count) => count,
            Err(Errno::AGAIN) => return Ok(false),
            Err(error) => return Err(internal("frames")(error).into()),
        };
        let mark = Effort::mark();
        let answer = &mut self.answer;
        let taken = self.reader.push(&buffer[..count], &mut |frame| match frame {
            Frame::Progress { message, fraction } => watcher.progress(&message, fraction),
            last => *answer = Some(last),
        });
        if let Err(failure) = taken {
            self.socket = None;
            return Err(Ending::Frames(failure));
        }
        if self.answer.is_some() {
            // There is one in a call, and `result` limits it.
            effort.leave_out(mark);
        }
        Ok(true)
    }

    /// After the last read.
    pub fn end(&self) -> Result<(), Ending> {
        self.reader.end().map_err(Ending::Frames)
    }
}
