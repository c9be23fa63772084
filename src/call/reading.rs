//! What a caller sent, read and checked. As root: over the socket in a process that has no right at all, which costs some
//! 0.6 ms; else here, with no capability in effect meanwhile. For a user here, who has nothing to give up. What may take
//! long or much memory, by its schema, for everyone in that process: it has limits of both.

use super::packed::{Packer, Unpacker, torn};
use crate::config::Schema;
use crate::confine::privileges;
use crate::confine::reader::ReaderLimits;
use crate::decide::arguments::{self, Checked};
use crate::decide::cost;
use crate::supervise::signals::{self, Signals};
use crate::supervise::{self, reader};
use crate::sys::poll::poll;
use crate::types::{Code, Failure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::event::{PollFd, PollFlags};
use std::time::{Duration, Instant};

/// Processor time that reading may take, in seconds.
const CPU_S: u64 = 10;
/// Bytes of memory, besides those that depend on the length of what is read: a document of the greatest weight
/// (`json::parse_strict`) has a quarter of it, and a schema may be compiled.
const MEMORY: u64 = 512 << 20;
/// Copies of the text, at most: as it came, in pieces, checked, packed.
const COPIES: u64 = 8;
/// Bytes of the answer besides the text: JSON takes at most six bytes for one (`\u001b` for an escape).
const ANSWER: usize = 64 << 10;

/// Who sent what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// A caller of the service, who has other rights than the engine.
    Socket,
    /// The user who started the engine, or what that user passes on.
    Here,
}

impl From {
    /// Whether it is read in another process.
    fn is_apart(self) -> bool {
        self == From::Socket && nix::unistd::geteuid().is_root()
    }
}

/// Reads `length` bytes by `act`: of the socket as root in another process, whose `pack`ed answer is `unpack`ed.
///
/// # Errors
/// What `act` fails with, and what [`reader::run`] does.
pub(crate) fn read<T>(
    from: From,
    length: usize,
    until: Instant,
    signals: &Signals,
    act: impl FnOnce() -> Result<T, Failure>,
    pack: impl FnOnce(&T, &mut Packer),
    unpack: impl FnOnce(&mut Unpacker<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    if from.is_apart() { apart(length, until, signals, act, pack, unpack) } else { here(act) }
}

/// In this process, without capabilities.
fn here<T>(act: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    if nix::unistd::geteuid().is_root() { privileges::without(act)? } else { act() }
}

fn apart<T>(
    length: usize,
    until: Instant,
    signals: &Signals,
    act: impl FnOnce() -> Result<T, Failure>,
    pack: impl FnOnce(&T, &mut Packer),
    unpack: impl FnOnce(&mut Unpacker<'_>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let bounds = ReaderLimits { memory: MEMORY + COPIES * length as u64, cpu_s: CPU_S };
    let bytes = reader::run(bounds, ANSWER + 6 * length, until, signals, || {
        let mut packer = Packer::default();
        match act() {
            Ok(value) => {
                packer.text(Some("read"));
                pack(&value, &mut packer);
            }
            Err(failure) => {
                packer.text(Some("refused"));
                packer.failure(&failure);
            }
        }
        packer.into_bytes()
    })?;
    let mut unpacker = Unpacker::new(&bytes);
    let read = match unpacker.some()?.as_str() {
        "read" => Ok(unpack(&mut unpacker)?),
        "refused" => Err(unpacker.failure()?),
        _ => return Err(torn()),
    };
    unpacker.end()?;
    read
}

/// Holds JSON arguments of at most `limit` bytes against their shape, and against the method's schema where there is one.
///
/// # Errors
/// `arguments_invalid`, `config_invalid` for a schema that cannot be used, and what [`reader::run`] fails with.
pub fn check(
    from: From,
    text: &[u8],
    limit: u64,
    schema: Option<&Schema>,
    until: Option<Instant>,
    signals: &Signals,
) -> Result<Checked, Failure> {
    let act = || -> Result<Checked, Failure> {
        let arguments = arguments::parse(text, limit)?;
        if let Some(schema) = schema {
            arguments::validate(&arguments, schema)?;
        }
        Ok(Checked::of(&arguments))
    };
    if text.len() as u64 > limit {
        // Not worth a process.
        return act();
    }
    if !from.is_apart() && schema.is_none_or(|schema| cost::is_light(schema, text.len())) {
        // Only whether they match. To find out why they do not can take any amount of memory: below `anyOf` each part that fails
        // keeps an error with its path, for each value. The other process does that.
        let fitting = here(|| {
            let arguments = arguments::parse(text, limit)?;
            let fit = schema.map_or(Ok(true), |schema| arguments::fit(&arguments, schema))?;
            Ok(fit.then(|| Checked::of(&arguments)))
        })?;
        if let Some(checked) = fitting {
            return Ok(checked);
        }
    }
    let until = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(2 * CPU_S));
    let pack = |checked: &Checked, packer: &mut Packer| {
        for (name, text) in checked.members() {
            packer.text(Some(name));
            packer.text(Some(text));
        }
        packer.text(None);
    };
    apart(text.len(), until, signals, act, pack, |unpacker| {
        let mut members = Vec::new();
        while let Some(name) = unpacker.text()? {
            members.push((name, unpacker.some()?));
            if members.len() > 2 {
                return Err(torn());
            }
        }
        Checked::from_texts(members).ok_or_else(torn)
    })
}

/// Whether a schema can be used: what `upm check` asks.
///
/// # Errors
/// A sentence.
pub fn check_schema(schema: &Schema) -> Result<(), String> {
    let act = || arguments::check_schema(schema).map_err(|error| error.to_string());
    if cost::is_light(schema, 0) {
        return act();
    }
    let told = supervise::apart::run(ANSWER as u64, None, || {
        let limited = |(resource, most)| {
            let (_, hard) = getrlimit(resource)?;
            setrlimit(resource, hard.min(most), hard.min(most + 1))
        };
        let all = [(Resource::RLIMIT_CPU, CPU_S), (Resource::RLIMIT_DATA, MEMORY)].into_iter().try_for_each(limited);
        all.map_err(|errno| format!("its processor time and memory cannot be limited: {errno}"))
            .and_then(|()| act())
            .err()
            .unwrap_or_default()
            .into_bytes()
    });
    match told {
        Ok(told) if told.bytes.is_empty() => Ok(()),
        Ok(told) => Err(String::from_utf8_lossy(&told.bytes).into_owned()),
        Err(error) => Err(format!(
            "{}: the schema cannot be checked within {CPU_S} s of processor time and {} MiB of memory: {error}; simplify it",
            schema.path.display(),
            MEMORY >> 20
        )),
    }
}

/// Standard input up to one byte over the limit, unless a signal comes first.
///
/// # Errors
/// `cancelled`; `arguments_invalid` where it cannot be read.
pub fn read_stdin(limit: u64, signals: &Signals) -> Result<Vec<u8>, Failure> {
    let fail = |error: rustix::io::Errno| Failure::new(Code::ArgumentsInvalid, format!("standard input: {error}"));
    let stdin = rustix::stdio::stdin();
    let mut text = Vec::new();
    let mut buffer = [0u8; 65_536];
    while text.len() as u64 <= limit {
        let mut fds = vec![PollFd::from_borrowed_fd(stdin, PollFlags::IN)];
        fds.extend(signals.poll().map(|(fd, flags)| PollFd::from_borrowed_fd(fd, flags)));
        poll(&mut fds, None).map_err(fail)?;
        if let Some(signal) = signals::pending(signals) {
            return Err(supervise::outcome::cancelled(signal));
        }
        match rustix::io::read(stdin, &mut buffer) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    Ok(text)
}
