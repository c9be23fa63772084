//! `upm --via SOCKET <Plugin> <method> …`: the call that a service makes, with the answer, the exit status and the way to
//! cancel of a call made here.

use super::terminal::Progress;
use super::wire;
use crate::call::{self, CallArgs, JsonSource, reading};
use crate::decide::arguments::Checked;
use crate::json::raw::indented;
use crate::report::code;
use crate::report::complain;
use crate::report::envelope::{self, Metadata};
use crate::report::render;
use crate::supervise::signals::{self, Signals};
use crate::supervise::{client, outcome};
use crate::sys::poll::poll;
use crate::text::escape_json;
use crate::text::shell;
use crate::types::{Code, Details, Failure};
use nix::sys::signal::Signal;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::str::FromStr;
use std::time::{Duration, Instant};
use uuid::Uuid;

/// Bytes of arguments from stdin; the service has its own limit, which no configuration can set higher.
const MAX_ARGUMENTS: u64 = 1 << 30;
/// Most bytes of the answer, and of all that comes before it.
const MAX_LINE: usize = 1 << 30;
/// How long to retry if the service's queue is full.
const KNOCKING: Duration = Duration::from_secs(5);
/// How long a cancelled call may take to answer.
const CANCELLED: Duration = Duration::from_secs(5);
/// What the service may take beyond `--timeout`.
const GRACE: Duration = Duration::from_secs(10);
/// How often the spinner is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// A line of the service: a report about the call, or the envelope. Other members are skipped.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: Option<String>,
    message: Option<String>,
    fraction: Option<f64>,
    text: Option<String>,
    success: Option<bool>,
    #[serde(borrow)]
    data: Option<Data<'a>>,
}

#[derive(Deserialize)]
struct Data<'a> {
    code: Option<String>,
    #[serde(borrow)]
    details: Option<Signalled<'a>>,
}

#[derive(Deserialize)]
struct Signalled<'a> {
    #[serde(borrow)]
    signal: Option<&'a RawValue>,
}

/// The envelope as it came, and the exit status that it stands for.
struct Answered {
    line: Vec<u8>,
    exit: i32,
}

/// Makes the call, prints its answer, and gives its exit status.
pub(super) fn run(socket: &Path, args: &CallArgs) -> i32 {
    let request_id = args.request_id.unwrap_or_else(Uuid::now_v7);
    let mut progress = Progress::new(true);
    let ended = ask(socket, args, request_id, &mut progress);
    progress.finish();
    match ended {
        Ok(answered) => {
            print(&answered.line);
            answered.exit
        }
        // What never became a call of the service is not recorded, like a mistyped command.
        Err(failure) => {
            render::print(&envelope::error(&failure, None, &Metadata::now(request_id.to_string())));
            code::exit_code(&failure)
        }
    }
}

/// The service's bytes, unchanged; at a terminal indented, and harmless to it.
fn print(line: &[u8]) {
    let stdout = std::io::stdout();
    let text = if stdout.is_terminal() {
        match std::str::from_utf8(line).map_err(serde::de::Error::custom).and_then(indented) {
            Ok(text) => format!("{}\n", escape_json(&text)).into_bytes(),
            // Nested deeper than a document may be for that.
            Err(_) => format!("{}\n", escape_json(&String::from_utf8_lossy(line))).into_bytes(),
        }
    } else {
        [line, b"\n"].concat()
    };
    if let Err(error) = render::write_all(&stdout, &text) {
        complain(format_args!("standard output: the answer could not be written: {error}"));
    }
}

fn ask(socket: &Path, args: &CallArgs, request_id: Uuid, progress: &mut Progress) -> Result<Answered, Failure> {
    let begun = Instant::now();
    let internal = |what: &str, error: std::io::Error| Failure::new(Code::Internal, format!("{what}: {error}"));
    let signals = signals::take().map_err(|error| internal("signals", error))?;
    let given = match &args.json {
        JsonSource::Default => Checked::default(),
        JsonSource::Text(text) => {
            reading::check(reading::From::Here, text.as_bytes(), MAX_ARGUMENTS, None, None, &signals)?
        }
        JsonSource::Stdin => reading::check(
            reading::From::Here,
            &call::reading::read_stdin(MAX_ARGUMENTS, &signals)?,
            MAX_ARGUMENTS,
            None,
            None,
            &signals,
        )?,
    };
    let request = wire::request(args, request_id, &given, progress.enabled())?;
    drop(given);
    let connection = connect(socket, &signals)?;
    let deadline = args.timeout.and_then(|timeout| begun.checked_add(timeout)?.checked_add(GRACE));
    Exchange {
        socket,
        connection,
        signals,
        progress,
        begun,
        deadline,
        to_send: request,
        sent: 0,
        line: Vec::new(),
        told: false,
        cancelled: None,
    }
    .run()
}

fn connect(path: &Path, signals: &Signals) -> Result<OwnedFd, Failure> {
    let refused = |code: Code, why: &str, remedy: &str| {
        Failure::new(code, format!("--via {}: {why}; {remedy}", shell(path)))
            .with(Details::Socket { socket: Details::path(path), remedy: remedy.to_owned() })
    };
    let start = "start the service's socket (`systemctl start upm.socket`), or name the right path";
    let other = |errno: Errno| {
        let why = std::io::Error::from(errno).to_string();
        match errno {
            Errno::NOENT | Errno::NOTDIR => refused(Code::Internal, "no such socket", start),
            Errno::CONNREFUSED => refused(Code::Internal, "nothing listens there", start),
            Errno::NAMETOOLONG | Errno::PROTOTYPE => refused(Code::Internal, &why, "name the service's socket"),
            Errno::ACCESS | Errno::PERM => refused(
                Code::CallerNotAllowed,
                "you may not connect",
                "the socket's owner, group and mode say who may: ask to be added to that group",
            ),
            _ => refused(Code::Internal, &why, "see `systemctl status upm.socket`"),
        }
    };
    let address = SocketAddrUnix::new(path).map_err(other)?;
    let until = Instant::now() + KNOCKING;
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(other)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => return Ok(socket),
            // A full queue: there is nothing to be polled for.
            Err(Errno::AGAIN) if Instant::now() < until => std::thread::sleep(TICK / 4),
            Err(Errno::AGAIN) => return Err(refused(Code::Internal, "the service's queue is full", "try again later")),
            Err(errno) => return Err(other(errno)),
        }
        if let Some(signal) = signals::pending(signals) {
            return Err(outcome::cancelled(signal));
        }
    }
}

/// One connection, from the request to the envelope.
struct Exchange<'a> {
    socket: &'a Path,
    connection: OwnedFd,
    signals: Signals,
    progress: &'a mut Progress,
    begun: Instant,
    deadline: Option<Instant>,
    /// The request, and the line that cancels it.
    to_send: Vec<u8>,
    sent: usize,
    /// What has come of the line that is under way.
    line: Vec<u8>,
    /// Anything has come.
    told: bool,
    /// The signal that this process got, and until when the service may answer to it.
    cancelled: Option<(i32, Instant)>,
}

impl Exchange<'_> {
    fn run(mut self) -> Result<Answered, Failure> {
        let mut buffer = vec![0u8; CHUNK];
        loop {
            let now = Instant::now();
            if let Some((signal, until)) = self.cancelled {
                if now >= until {
                    // Closing the connection ends the call as well.
                    return Err(outcome::cancelled(signal));
                }
            }
            if self.deadline.is_some_and(|deadline| now >= deadline) {
                return Err(self.failure("did not answer in time"));
            }
            let ends = [self.cancelled.map(|(_, until)| until), self.deadline];
            let wait = ends.into_iter().flatten().map(|end| end.saturating_duration_since(now)).min();
            let wait = if self.progress.enabled() { Some(wait.map_or(TICK, |wait| wait.min(TICK))) } else { wait };
            let out = if self.sent < self.to_send.len() { PollFlags::OUT } else { PollFlags::empty() };
            let mut fds = vec![PollFd::from_borrowed_fd(self.connection.as_fd(), PollFlags::IN | out)];
            fds.extend(self.signals.poll().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
            poll(&mut fds, wait).map_err(|errno| Failure::new(Code::Internal, format!("poll: {errno}")))?;
            let ready = !fds[0].revents().is_empty();
            if let Some(signal) = signals::pending(&self.signals) {
                self.cancel(signal)?;
            }
            self.send();
            if ready {
                if let Some(answered) = self.receive(&mut buffer)? {
                    return Ok(answered);
                }
            }
            self.progress.tick(self.begun.elapsed());
        }
    }

    /// Asks the service to cancel, and waits for its answer to that; a second signal does not wait.
    fn cancel(&mut self, signal: i32) -> Result<(), Failure> {
        let line = client::cancel_line(signal).filter(|_| self.cancelled.is_none());
        // A request that was not sent completely is not a call yet.
        let Some(line) = line.filter(|_| self.sent == self.to_send.len()) else {
            return Err(outcome::cancelled(self.cancelled.map_or(signal, |(first, _)| first)));
        };
        self.to_send.extend(line);
        self.cancelled = Some((signal, Instant::now() + CANCELLED));
        Ok(())
    }

    fn send(&mut self) {
        while self.sent < self.to_send.len() {
            match rustix::io::write(&self.connection, &self.to_send[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The service reads no more of it: what it has to say comes.
                Err(_) => self.sent = self.to_send.len(),
            }
        }
    }

    /// Reads once, and takes every line that is whole.
    fn receive(&mut self, buffer: &mut [u8]) -> Result<Option<Answered>, Failure> {
        let count = match rustix::io::read(&self.connection, &mut *buffer) {
            Ok(0) | Err(Errno::CONNRESET | Errno::PIPE) => return Err(self.closed()),
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(Failure::new(Code::Internal, format!("{}: {errno}", shell(self.socket)))),
        };
        self.told = true;
        let mut rest = &buffer[..count];
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            self.line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            if let Some(exit) = self.take()? {
                if !rest.is_empty() {
                    return Err(self.failure("sent more data after its answer"));
                }
                return Ok(Some(Answered { line: std::mem::take(&mut self.line), exit }));
            }
            self.line.clear();
        }
        if self.line.len() + rest.len() > MAX_LINE {
            return Err(self.failure("answered with more than a gigabyte"));
        }
        self.line.extend_from_slice(rest);
        Ok(None)
    }

    /// Takes the line; the exit status when it was the envelope.
    fn take(&mut self) -> Result<Option<i32>, Failure> {
        // The whole line: the parser skips some of it without checking that it is UTF-8, and the line is printed as it came.
        let line = std::str::from_utf8(&self.line).ok().and_then(|text| serde_json::from_str::<Line<'_>>(text).ok());
        let Some(line) = line else { return Err(self.failure("sent an invalid response")) };
        match (line.kind.as_deref(), line.success) {
            (Some("progress"), None) => {
                self.progress.progress(line.message.as_deref().unwrap_or_default(), line.fraction);
                Ok(None)
            }
            (Some("stderr"), None) => {
                self.progress.plugin_stderr(line.text.as_deref().unwrap_or_default().as_bytes());
                Ok(None)
            }
            (None, Some(true)) => Ok(Some(0)),
            (None, Some(false)) => Ok(Some(exit(line.data.as_ref()))),
            _ => Err(self.failure("sent an invalid response")),
        }
    }

    fn closed(&self) -> Failure {
        if let Some((signal, _)) = self.cancelled {
            return outcome::cancelled(signal);
        }
        if self.told {
            self.failure("closed the connection before its answer was complete")
        } else {
            self.failure(
                "closed the connection without an answer: it may have too many connections, or could not start; try again",
            )
        }
    }

    fn failure(&self, what: &str) -> Failure {
        let remedy = "`journalctl -u upm.socket -u 'upm@*'` on that host shows more";
        Failure::new(Code::Internal, format!("{}: the service {what}; {remedy}", shell(self.socket)))
            .with(Details::Socket { socket: Details::path(self.socket), remedy: remedy.to_owned() })
    }
}

/// The exit status of a failure's envelope, as the call itself would have ended. A code that is not known here, of a newer
/// service, counts as `internal`.
fn exit(data: Option<&Data<'_>>) -> i32 {
    let named = data.and_then(|data| data.code.as_deref());
    let code = code::ALL.into_iter().find(|code| named == Some(code::name(*code))).unwrap_or(Code::Internal);
    let signal =
        data.and_then(|data| data.details.as_ref()?.signal).and_then(|raw| serde_json::from_str(raw.get()).ok());
    let mut failure = Failure::new(code, "");
    failure.signal = signal.and_then(|name: String| match Signal::from_str(&name) {
        Ok(signal) => Some(signal as i32),
        // Real-time signals have no name.
        Err(_) => name.strip_prefix("signal ")?.parse().ok(),
    });
    code::exit_code(&failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(line: &str) -> i32 {
        let line: Line<'_> = serde_json::from_str(line).unwrap();
        if line.success == Some(true) { 0 } else { exit(line.data.as_ref()) }
    }

    #[test]
    fn the_exit_status_is_the_calls_own() {
        for code in code::ALL {
            let line = format!(r#"{{"success":false,"data":{{"code":"{}","details":{{}}}}}}"#, code::name(code));
            assert_eq!(status(&line), code::exit_code(&Failure::new(code, "")), "{}", code::name(code));
        }
        for (code, signal, exit) in [
            ("plugin_killed", r#""SIGSEGV""#, 139),
            ("plugin_killed", r#""signal 34""#, 162),
            ("plugin_killed", r#""signal 99""#, 137),
            ("plugin_killed", "[7]", 137),
            ("cancelled", r#""SIGINT""#, 130),
            ("cancelled", r#""SIGHUP""#, 129),
            ("plugin_raised", r#"{"a":1}"#, 1),
            ("what_is_to_come", "null", 125),
        ] {
            let line = format!(r#"{{"success":false,"data":{{"code":"{code}","details":{{"signal":{signal}}}}}}}"#);
            assert_eq!(status(&line), exit, "{line}");
        }
    }

    #[test]
    fn a_result_of_any_depth_is_an_answer() {
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        assert_eq!(status(&format!(r#"{{"success":true,"data":{{"result":{deep},"code":"x"}}}}"#)), 0);
    }
}
