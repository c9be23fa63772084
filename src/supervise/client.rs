//! A caller on a socket, while its call runs: closing the connection cancels the call, and so does one line ([`cancel_line`]).
#![forbid(unsafe_code)]

use crate::json::parse_strict;
use crate::sys::poll::poll;
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// The limit for the bytes of the line; the longest valid one has 37.
const MAX_LINE: usize = 64;

/// The signals that a caller may cancel by.
const SIGNALS: [Signal; 3] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];

/// The connection of a caller. Its end and one line, [`cancel_line`], are expected; anything else cancels the call, as closing
/// the connection does. A caller that has shut down only its own direction still waits for the answer.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    line: Vec<u8>,
    /// More may come.
    reads: bool,
    /// It has cancelled or closed the connection, and that was reported.
    reported: bool,
}

impl Client {
    /// A connection whose request has been read, and the bytes that followed it: see [`may_follow`].
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(socket: OwnedFd, line: Vec<u8>) -> std::io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Client { socket, state: RefCell::new(State { line, reads: true, reported: false }) })
    }

    /// What to poll, until it has cancelled. poll(2) always reports the end of a connection.
    pub fn poll(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let state = self.state.borrow();
        let flags = if state.reads { PollFlags::IN } else { PollFlags::empty() };
        (!state.reported).then_some((self.socket.as_fd(), flags))
    }

    /// The signal by which the caller cancels, once. Does not wait.
    pub fn cancelled(&self) -> Option<i32> {
        let mut state = self.state.borrow_mut();
        if state.reported {
            return None;
        }
        let signal = state.look(self.socket.as_fd());
        state.reported = signal.is_some();
        signal.map(|signal| signal as i32)
    }
}

impl State {
    fn look(&mut self, socket: BorrowedFd<'_>) -> Option<Signal> {
        let mut buffer = [0u8; MAX_LINE];
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let alone = end + 1 == self.line.len();
                return Some(asked(&self.line[..end]).filter(|_| alone).unwrap_or(Signal::SIGHUP));
            }
            if self.line.len() > MAX_LINE {
                return Some(Signal::SIGHUP);
            }
            if !self.reads {
                break;
            }
            match rustix::io::read(socket, &mut buffer) {
                Ok(0) => self.reads = false,
                Ok(count) => self.line.extend_from_slice(&buffer[..count]),
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(_) => return Some(Signal::SIGHUP),
            }
        }
        let mut fds = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
        match poll(&mut fds, Some(Duration::ZERO)) {
            Ok(0) => None,
            // Closed by the other side. An error of poll(2) counts as that.
            Ok(_) | Err(_) => Some(Signal::SIGHUP),
        }
    }
}

/// The line by which a caller cancels, with its newline; `None` for a signal that does not cancel.
#[must_use]
pub fn cancel_line(signal: i32) -> Option<Vec<u8>> {
    let signal = SIGNALS.into_iter().find(|known| *known as i32 == signal)?;
    Some(format!("{}\n", json!({ "type": "cancel", "signal": signal.as_str() })).into_bytes())
}

/// Whether these bytes may follow a request: nothing, or the beginning of a [`cancel_line`].
#[must_use]
pub fn may_follow(bytes: &[u8]) -> bool {
    SIGNALS.into_iter().filter_map(|signal| cancel_line(signal as i32)).any(|line| line.starts_with(bytes))
}

fn asked(line: &[u8]) -> Option<Signal> {
    let Value::Object(asked) = parse_strict(line, 1).ok()? else { return None };
    let name = asked.get("signal")?.as_str()?;
    let whole = asked.len() == 2 && asked.get("type")?.as_str()? == "cancel";
    SIGNALS.into_iter().find(|signal| whole && signal.as_str() == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;

    fn pair() -> (UnixStream, Client) {
        let (caller, served) = UnixStream::pair().unwrap();
        (caller, Client::new(served.into(), Vec::new()).unwrap())
    }

    #[test]
    fn a_caller_that_waits_does_not_cancel() {
        let (caller, client) = pair();
        assert_eq!(client.cancelled(), None);
        assert_eq!(client.poll().unwrap().1, PollFlags::IN);
        caller.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.cancelled(), None, "it has sent everything, and still reads");
        assert_eq!(client.poll().unwrap().1, PollFlags::empty(), "its end of file is reported once");
        drop(caller);
        assert_eq!(client.cancelled(), Some(Signal::SIGHUP as i32));
        assert!(client.poll().is_none());
        assert_eq!(client.cancelled(), None, "reported once");
    }

    #[test]
    fn a_line_cancels_by_its_signal_even_before_the_end() {
        for signal in SIGNALS {
            let (mut caller, client) = pair();
            let line = cancel_line(signal as i32).unwrap();
            assert!(line.len() <= MAX_LINE);
            let (first, rest) = line.split_at(9);
            caller.write_all(first).unwrap();
            assert_eq!(client.cancelled(), None);
            caller.write_all(rest).unwrap();
            drop(caller);
            assert_eq!(client.cancelled(), Some(signal as i32));
        }
        assert_eq!(cancel_line(Signal::SIGKILL as i32), None);
    }

    #[test]
    fn a_line_that_came_with_the_request_counts() {
        let line = cancel_line(Signal::SIGTERM as i32).unwrap();
        for cut in 0..=line.len() {
            assert!(may_follow(&line[..cut]), "{cut}");
            let (mut caller, served) = UnixStream::pair().unwrap();
            let client = Client::new(served.into(), line[..cut].to_vec()).unwrap();
            caller.write_all(&line[cut..]).unwrap();
            assert_eq!(client.cancelled(), Some(Signal::SIGTERM as i32), "{cut}");
        }
        for bytes in [b"\n".as_slice(), b"x", b"{}", &[line.as_slice(), b"\n"].concat()] {
            assert!(!may_follow(bytes));
        }
    }

    #[test]
    fn anything_else_cancels() {
        let long = vec![b'x'; 10_000];
        for bytes in [
            b"\n".as_slice(),
            b"{}\n",
            b"{\"type\":\"cancel\",\"signal\":\"SIGKILL\"}\n",
            b"{\"type\":\"cancel\",\"signal\":\"SIGINT\"}\nx",
            b"{\"type\":\"cancel\",\"signal\":\"SIGINT\",\"x\":1}\n",
            b"{\"type\":\"cancel\",\"type\":\"cancel\",\"signal\":\"SIGINT\"}\n",
            &long,
        ] {
            let (mut caller, client) = pair();
            caller.write_all(bytes).unwrap();
            assert_eq!(client.cancelled(), Some(Signal::SIGHUP as i32), "{}", String::from_utf8_lossy(bytes));
        }
    }
}
