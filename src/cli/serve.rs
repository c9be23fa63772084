//! `upm serve`: one call for the client that connected to the service's socket.
//!
//! systemd starts it for each connection (`Accept=yes`), which is stdin (`StandardInput=socket`) or descriptor 3. The caller
//! is known by what the kernel noted when it connected. Nothing here waits for a caller longer than the constants say.

use super::options::Config;
use super::print;
use super::wire::{self, Refused};
use crate::call::{self, Answer, Peer, reading};
use crate::config;
use crate::decide::grant;
use crate::host::callers;
use crate::report::complain;
use crate::report::render;
use crate::supervise::client::{self, Client};
use crate::supervise::{Watcher, outcome, signals};
use crate::sys::poll::poll;
use crate::types::{Caller, Code, Details, Failure};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// From the start to the request's newline.
const REQUEST_TIME: Duration = Duration::from_secs(5);
/// How long a caller may take no byte of its answer.
const STALLED: Duration = Duration::from_secs(10);
/// How long it may take the whole.
const DELIVERY: Duration = Duration::from_secs(60);
/// Bytes of arguments that a method may have where the configuration does not say.
const ARGUMENTS: u64 = 1 << 20;
/// Bytes of a request besides its arguments, and all that is read of who may call nothing.
const HEAD: u64 = 32 << 10;
/// Bytes that wait for a caller that is slow to read while its call runs.
const BACKLOG: usize = 256 << 10;
/// Bytes of stderr in one line.
const PIECE: usize = 4 << 10;

const AFTER: &str = r#"Request:
  It is one line of JSON. Only plugin and method are required:

    {"plugin": "P", "method": "m", "args": [], "kwargs": {}, "project": "/DIR", "timeout": "30s",
     "request_id": "UUID", "progress": true, "verbose": true}

  The answer is the envelope, on one line. With progress and verbose such lines come before it:

    {"type": "progress", "message": "half", "fraction": 0.5}
    {"type": "stderr", "text": "what the plugin wrote"}

  Hanging up cancels the call. This line cancels it too, with an answer:

    {"type": "cancel", "signal": "SIGINT"}

  `upm --via SOCKET <Plugin> <method>` is a client.

Exit status:
  0     The caller was answered
  2     Stdin is not a connection
  125   The engine failed
"#;

/// Answer one call of the client that connected to the service's socket
///
/// A service manager starts it for each connection (systemd: Accept=yes), which is stdin, or descriptor 3 as
/// sd_listen_fds(3) describes. `callers` in the configuration says who may call what; without it only root and
/// the service's own user may.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[group(skip)]
#[command(verbatim_doc_comment, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    pub config: Config,
}

/// Answers the one request of the connection that this process was started with; its exit status says whether the service
/// is well, not how the call ended.
pub(super) fn run(args: &Args) -> i32 {
    let config = args.config.file.as_deref();
    let connection = match connection() {
        Ok(connection) => connection,
        Err(failure) => return print::answer(&call::refuse(&failure, None)),
    };
    let mut wire = Wire::new(connection.as_fd());
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| answer(&connection, config, &mut wire)));
    let answer = caught.unwrap_or_else(|_| {
        let failure = Failure::new(Code::Internal, "upm serve: internal error; the service's journal says where");
        call::refuse(&failure, None)
    });
    // A client that closes the connection early must not fill the journal; a call has its record.
    let gone = |error: &io::Error| matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
    if let Err(error) = wire.finish(&answer) {
        if !gone(&error) {
            complain(format_args!("the answer could not be written: {error}"));
        }
    }
    // What the engine could not do is the service's failure; all else is the caller's to know.
    if answer.exit == 125 { 125 } else { 0 }
}

/// The connection; stdin and stdout, and stderr where it is the connection too, are `/dev/null` from here on.
fn connection() -> Result<OwnedFd, Failure> {
    let usage = |why: &str| {
        Failure::new(
            Code::Usage,
            format!(
                "upm serve: {why}; a service manager starts it with an accepted UNIX stream connection as stdin (systemd: \
                 Accept=yes and StandardInput=socket) or as descriptor 3"
            ),
        )
        .with(Details::Usage { usage: "Usage: upm serve [--config FILE]".to_owned(), suggestion: None })
    };
    let internal = |what: &str, error: io::Error| Failure::new(Code::Internal, format!("upm serve: {what}: {error}"));
    let stdin = rustix::stdio::stdin();
    let socket = if sockopt::socket_type(stdin).is_ok() {
        rustix::io::fcntl_dupfd_cloexec(stdin, 4).map_err(|error| internal("stdin", error.into()))?
    } else {
        let variable = |name: &str| std::env::var(name).ok();
        if variable("LISTEN_PID") != Some(std::process::id().to_string()) {
            return Err(usage("stdin is not a socket"));
        }
        if variable("LISTEN_FDS").as_deref() != Some("1") {
            return Err(usage("it takes one connection"));
        }
        crate::sys::process::take_inherited(3).map_err(|error| internal("descriptor 3", error))?
    };
    let is = |domain, kind, listens| {
        sockopt::socket_domain(&socket) == Ok(domain)
            && sockopt::socket_type(&socket) == Ok(kind)
            && sockopt::socket_acceptconn(&socket) == Ok(listens)
    };
    if is(AddressFamily::UNIX, SocketType::STREAM, true) {
        return Err(usage("the socket is a listening socket"));
    }
    if !is(AddressFamily::UNIX, SocketType::STREAM, false) {
        return Err(usage("the socket is not a UNIX stream socket"));
    }
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    let quiet = || -> rustix::io::Result<()> {
        let null = null?;
        rustix::stdio::dup2_stdin(&null)?;
        rustix::stdio::dup2_stdout(&null)?;
        let (own, stderr) = (rustix::fs::fstat(&socket)?, rustix::fs::fstat(rustix::stdio::stderr())?);
        if (own.st_dev, own.st_ino) == (stderr.st_dev, stderr.st_ino) {
            rustix::stdio::dup2_stderr(&null)?;
        }
        rustix::io::ioctl_fionbio(&socket, true)
    };
    quiet().map_err(|error| internal("standard streams", error.into()))?;
    Ok(socket)
}

/// Reads the request and makes the call.
fn answer(connection: &OwnedFd, config: Option<&Path>, wire: &mut Wire<'_>) -> Answer {
    let caller = match callers::peer(connection.as_fd()) {
        Ok(caller) => caller,
        Err(error) => {
            let failure = Failure::new(Code::Internal, format!("upm serve: cannot determine who called: {error}"));
            return call::refuse(&failure, None);
        }
    };
    asked(connection, config, caller.clone(), wire)
        .unwrap_or_else(|refused| call::refuse_to(&caller, config, &refused.failure, refused.request_id))
}

fn asked(connection: &OwnedFd, config: Option<&Path>, caller: Caller, wire: &mut Wire<'_>) -> Result<Answer, Refused> {
    let failed = |what: &str, error: io::Error| Refused {
        failure: Failure::new(Code::Internal, format!("upm serve: {what}: {error}")),
        request_id: None,
    };
    let mut line = read_line(connection.as_fd(), config, &caller)?;
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    let rest = line.split_off((end + 1).min(line.len()));
    line.truncate(end);
    let request = wire::understand(take_apart(&line)?, config)?;
    drop(line);
    if !client::may_follow(&rest) {
        return Err(Refused {
            request_id: request.call.request_id,
            ..Refused::usage("something follows the request; a connection has one, on one line")
        });
    }
    let client = connection
        .try_clone()
        .and_then(|socket| Client::new(socket, rest))
        .map_err(|error| failed("connection", error))?;
    (wire.progress, wire.verbose) = (request.progress, request.call.verbose);
    Ok(call::call(&request.call, Peer { caller, connection: Some(client) }, wire))
}

/// Takes the request's JSON apart, where that can do no harm.
fn take_apart(line: &[u8]) -> Result<wire::Texts, Refused> {
    let refused = |failure| Refused { failure, request_id: None };
    let signals = signals::take()
        .map_err(|error| refused(Failure::new(Code::Internal, format!("upm serve: signals: {error}"))))?;
    let until = Instant::now() + 2 * REQUEST_TIME;
    reading::read(
        reading::From::Socket,
        line.len(),
        until,
        &signals,
        || Ok(wire::read(line)),
        wire::Texts::pack,
        wire::Texts::unpack,
    )
    .map_err(refused)
}

/// Reads up to the first newline, and what came with it.
fn read_line(connection: BorrowedFd<'_>, config: Option<&Path>, caller: &Caller) -> Result<Vec<u8>, Refused> {
    let failed = |error: io::Error| Refused {
        failure: Failure::new(Code::Internal, format!("upm serve: the request cannot be read: {error}")),
        request_id: None,
    };
    let signals = signals::take().map_err(failed)?;
    let until = Instant::now() + REQUEST_TIME;
    let mut limit = HEAD;
    let mut asked = false;
    let mut line = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Refused::usage(format!(
                "the request did not come within {} s; write one line of JSON, with its newline",
                REQUEST_TIME.as_secs()
            )));
        }
        let mut fds = vec![PollFd::from_borrowed_fd(connection, PollFlags::IN)];
        fds.extend(signals.poll().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        poll(&mut fds, Some(left)).map_err(|errno| failed(errno.into()))?;
        if let Some(signal) = signals::pending(&signals) {
            return Err(Refused { failure: outcome::cancelled(signal), request_id: None });
        }
        let count = match rustix::io::read(connection, &mut buffer) {
            Ok(0) | Err(Errno::CONNRESET) => {
                return Err(Refused::usage("the request has no end; write one line of JSON, with its newline"));
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(errno) => return Err(failed(errno.into())),
        };
        line.extend_from_slice(&buffer[..count]);
        let end = buffer[..count].iter().position(|byte| *byte == b'\n');
        let length = (line.len() - end.map_or(0, |end| count - end)) as u64;
        if length > limit && !asked {
            asked = true;
            limit = longest(config, caller)?;
        }
        if length > limit {
            let message = format!(
                "the request is longer than {limit} bytes; pass less, or raise `arguments` in the service's configuration"
            );
            let failure = Failure::new(Code::ArgumentsInvalid, message).with(Details::MaxBytes(limit));
            return Err(Refused { failure, request_id: None });
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

/// Bytes that a request of this caller may have. JSON takes a hundred times its length in memory while it is read: of who
/// may call nothing at all no more than [`HEAD`] is.
fn longest(config: Option<&Path>, caller: &Caller) -> Result<u64, Refused> {
    let refused = |failure| Refused { failure, request_id: None };
    let config = config::load(config).map_err(|error| refused(error.into()))?;
    let own = [0, nix::unistd::getuid().as_raw()].contains(&caller.uid);
    if !own && !call::may_call(&config, caller) {
        let message = format!(
            "the request is longer than {HEAD} bytes, and no method has user {} among its `callers`",
            callers::shown(caller.uid)
        );
        return Err(refused(Failure::new(Code::CallerNotAllowed, message).with(Details::MaxBytes(HEAD))));
    }
    let most = grant::tables(&config).filter_map(|keys| keys.arguments.as_ref()).map(|at| at.value).max();
    Ok(most.unwrap_or(0).max(ARGUMENTS).saturating_add(HEAD))
}

/// The way back. While the call runs nothing waits for a caller that does not read: what does not fit is dropped, whole
/// lines of it.
struct Wire<'a> {
    socket: BorrowedFd<'a>,
    progress: bool,
    verbose: bool,
    backlog: VecDeque<u8>,
    /// The beginning of a UTF-8 sequence whose rest has not come.
    partial: Vec<u8>,
    /// Bytes of stderr that did not fit.
    dropped: usize,
    /// The caller is gone.
    broken: bool,
}

impl<'a> Wire<'a> {
    fn new(socket: BorrowedFd<'a>) -> Self {
        Wire {
            socket,
            progress: false,
            verbose: false,
            backlog: VecDeque::new(),
            partial: Vec::new(),
            dropped: 0,
            broken: false,
        }
    }

    /// Queues a line; false if it does not fit.
    fn push(&mut self, line: &str) -> bool {
        self.flush();
        let fits = self.backlog.len() + line.len() <= BACKLOG;
        if fits {
            self.backlog.extend(line.as_bytes());
            self.flush();
        }
        fits || self.broken
    }

    /// Writes what the caller takes now.
    fn flush(&mut self) {
        while !self.backlog.is_empty() {
            match rustix::io::write(self.socket, self.backlog.as_slices().0) {
                Ok(count) => drop(self.backlog.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.broken = true;
                    self.backlog.clear();
                }
            }
        }
    }

    /// Tells stderr as text; with `last` an unfinished sequence too.
    fn tell(&mut self, last: bool) {
        let mut text = String::new();
        let mut rest = Vec::new();
        for chunk in self.partial.utf8_chunks() {
            text.push_str(chunk.valid());
            let open = std::str::from_utf8(chunk.invalid()).is_err_and(|error| error.error_len().is_none());
            if open && !last {
                rest = chunk.invalid().to_vec();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.partial = rest;
        let mut text = text.as_str();
        while !text.is_empty() {
            let end = (0..=text.len().min(PIECE)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
            let (piece, more) = text.split_at(end);
            if !self.push(&wire::stderr(piece)) {
                self.dropped += piece.len();
            }
            text = more;
        }
    }

    /// Writes what is left, then the envelope, as long as the caller goes on reading.
    fn finish(&mut self, answer: &Answer) -> io::Result<()> {
        self.tell(true);
        let mut last = String::new();
        if self.dropped > 0 {
            last = wire::stderr(&format!("\nupm: {} bytes of the plugin's stderr were not shown\n", self.dropped));
        }
        let waiting: Vec<u8> = self.backlog.drain(..).collect();
        let until = Instant::now() + DELIVERY;
        let pieces = render::render(&answer.envelope, false);
        let pieces = pieces.iter().map(|piece| piece.as_bytes());
        for bytes in [waiting.as_slice(), last.as_bytes()].into_iter().chain(pieces) {
            let mut rest = bytes;
            while !rest.is_empty() {
                match rustix::io::write(self.socket, rest) {
                    Ok(count) => rest = &rest[count..],
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => {
                        let mut fds = [PollFd::from_borrowed_fd(self.socket, PollFlags::OUT)];
                        let wait = STALLED.min(until.saturating_duration_since(Instant::now()));
                        if poll(&mut fds, Some(wait))? == 0 {
                            return Err(io::Error::new(io::ErrorKind::TimedOut, "the caller does not read"));
                        }
                    }
                    Err(errno) => return Err(errno.into()),
                }
            }
        }
        Ok(())
    }
}

impl Watcher for Wire<'_> {
    fn tick(&mut self, _: Duration) {
        self.flush();
    }

    fn wants_ticks(&self) -> bool {
        !self.backlog.is_empty()
    }

    fn progress(&mut self, message: &str, fraction: Option<f64>) {
        if self.progress {
            // One that does not fit is overtaken by the next.
            self.push(&wire::progress(message, fraction));
        }
    }

    fn stderr(&mut self, bytes: &[u8]) {
        if self.verbose {
            self.partial.extend_from_slice(bytes);
            self.tell(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::envelope::Envelope;
    use serde_json::{Value, json};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    fn told(act: impl FnOnce(&mut Wire<'_>)) -> Vec<Value> {
        let (mut reader, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let read = std::thread::spawn(move || {
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            text
        });
        let mut wire = Wire { progress: true, verbose: true, ..Wire::new(socket.as_fd()) };
        act(&mut wire);
        wire.finish(&Answer {
            envelope: Envelope { document: json!({"success": true}), result: None },
            exit: 0,
            observed: None,
            denials: Vec::new(),
        })
        .unwrap();
        drop(socket);
        read.join().unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn text(lines: &[Value]) -> String {
        lines.iter().filter_map(|line| line["text"].as_str()).collect()
    }

    #[test]
    fn lines_come_in_order_and_the_envelope_last() {
        let lines = told(|wire| {
            wire.progress("half", Some(0.5));
            wire.stderr(b"a\nb");
            wire.progress("on", None);
        });
        let expected = [
            json!({"type": "progress", "message": "half", "fraction": 0.5}),
            json!({"type": "stderr", "text": "a\nb"}),
            json!({"type": "progress", "message": "on", "fraction": null}),
            json!({"success": true}),
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn characters_stay_whole_however_they_are_cut() {
        let bytes = "é🦀x".as_bytes();
        for cut in 0..=bytes.len() {
            let lines = told(|wire| {
                wire.stderr(&bytes[..cut]);
                wire.stderr(&bytes[cut..]);
            });
            assert_eq!(text(&lines), "é🦀x", "{cut}");
        }
        assert_eq!(text(&told(|wire| wire.stderr(b"a\xffb\xf0\x9f"))), "a\u{fffd}b\u{fffd}");
        let long = "é".repeat(PIECE);
        assert_eq!(text(&told(|wire| wire.stderr(long.as_bytes()))), long);
    }

    #[test]
    fn who_does_not_read_costs_bounded_memory_and_no_wait() {
        let (reader, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let mut wire = Wire { progress: true, verbose: true, ..Wire::new(socket.as_fd()) };
        let begun = Instant::now();
        for _ in 0..1000 {
            wire.stderr(&[b'x'; 16 << 10]);
            wire.progress("on", None);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(wire.backlog.len() <= BACKLOG && wire.dropped > 10 << 20, "{}", wire.dropped);
        assert!(wire.wants_ticks());
        drop(reader);
        wire.flush();
        assert!(wire.broken && !wire.wants_ticks());
        assert!(
            wire.finish(&Answer {
                envelope: Envelope { document: json!({}), result: None },
                exit: 0,
                observed: None,
                denials: Vec::new()
            })
            .is_err()
        );
    }
}
