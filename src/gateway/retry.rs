//! The second ClientHello of a connection, which a server asks for by a HelloRetryRequest (RFC 8446 §4.1.4).
//!
//! A server may take the name from either. Until the server's first answer is there nothing but the first ClientHello goes
//! out; when that answer is a HelloRetryRequest, the second ClientHello is put together in the same bounds as the first, and
//! must name the same host. A later ClientHello (a renegotiation of TLS 1.2) is encrypted, and not seen.

use super::hello::{HelloReader, MAX_HELLO, Missing, TIMEOUT};
use crate::sys::poll::poll;
use rustix::event::{PollFd, PollFlags};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::Instant;

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
const SERVER_HELLO: u8 = 2;
/// Longest record that anybody may send (RFC 8446 §5.2).
const MAX_RECORD: usize = (1 << 14) + 256;
/// Message type, length, version and random: all that is looked at of a ServerHello.
const HEAD: usize = 4 + 2 + 32;
/// The random of a ServerHello that is a HelloRetryRequest: SHA-256 of `HelloRetryRequest` (RFC 8446 §4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91, 0xc2, 0xa2, 0x11,
    0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// Whether a server asks for a second ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// More of its bytes are needed to tell.
    Unknown,
    /// It does.
    Again,
    /// It does not, or speaks no TLS: no handshake comes of it that had another name in it.
    No,
}

/// Looks at all that a server has sent so far.
#[must_use]
pub fn asked(mut bytes: &[u8]) -> Asked {
    let mut handshake: Vec<u8> = Vec::with_capacity(HEAD);
    loop {
        let Some(&[kind, major, _, high, low]) = bytes.first_chunk::<5>() else {
            let odd = bytes.first().is_some_and(|kind| !(CHANGE_CIPHER_SPEC..=HANDSHAKE).contains(kind));
            return if odd { Asked::No } else { Asked::Unknown };
        };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if !(CHANGE_CIPHER_SPEC..=HANDSHAKE).contains(&kind) || major != 3 || length == 0 || length > MAX_RECORD {
            return Asked::No;
        }
        let fragment = &bytes[5..bytes.len().min(5 + length)];
        // Warnings and the compatibility record may stand before the first message.
        if kind == HANDSHAKE {
            handshake.extend_from_slice(&fragment[..fragment.len().min(HEAD - handshake.len())]);
            if handshake.first().is_some_and(|kind| *kind != SERVER_HELLO) {
                return Asked::No;
            }
            if handshake.len() == HEAD {
                return if handshake[6..] == RETRY { Asked::Again } else { Asked::No };
            }
        }
        if fragment.len() < length {
            return Asked::Unknown;
        }
        bytes = &bytes[5 + length..];
    }
}

/// Puts a second ClientHello together from what a client sends after its first. Before it there may be the compatibility
/// record and early data, which the server skips.
#[derive(Debug, Default)]
pub struct SecondReader {
    raw: Vec<u8>,
    /// How much of `raw` was skipped.
    skipped: usize,
    hello: Option<HelloReader>,
}

impl SecondReader {
    /// Takes more bytes. `Ok(None)` wants more; `Ok(Some(name))` is the server name, normalized.
    ///
    /// # Errors
    /// Why there will be no name, however much more comes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<String>, Missing> {
        self.raw.extend_from_slice(bytes);
        if let Some(hello) = &mut self.hello {
            return hello.push(bytes);
        }
        loop {
            let rest = &self.raw[self.skipped..];
            match rest.first() {
                None => break,
                Some(&HANDSHAKE) => {
                    let mut hello = HelloReader::default();
                    let found = hello.push(rest);
                    self.hello = Some(hello);
                    return found;
                }
                Some(&(CHANGE_CIPHER_SPEC | ALERT | APPLICATION_DATA)) => {}
                Some(_) => return Err(Missing::Malformed),
            }
            let Some(&[_, _, _, high, low]) = rest.first_chunk::<5>() else { break };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > MAX_RECORD {
                return Err(Missing::Malformed);
            }
            if rest.len() < 5 + length {
                break;
            }
            self.skipped += 5 + length;
        }
        if self.raw.len() > MAX_HELLO { Err(Missing::TooLong) } else { Ok(None) }
    }

    /// All that was taken, unchanged, to be forwarded.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }
}

/// What may now be carried.
#[derive(Debug)]
pub struct Settled {
    /// Read from the plugin, for the host.
    pub to_host: Vec<u8>,
    /// Read from the host, for the plugin.
    pub to_plugin: Vec<u8>,
    /// Bytes that the plugin already got.
    pub told: usize,
}

/// Why nothing may be carried.
#[derive(Debug)]
pub enum Stopped {
    /// The second ClientHello has no name that could be compared.
    Missing(Missing),
    /// It names another host.
    Other(String),
    /// The plugin's side is gone, amid its second ClientHello.
    Closed,
    /// A side failed; the text says which and how.
    Error(String),
}

/// Sends `first`, a whole ClientHello that names `name`, to `host`, waits for the host's first answer, of which `to_plugin` has
/// come already, and where that asks for a second ClientHello compares its name too. `rest` came behind the first. Sockets are
/// blocking here.
///
/// # Errors
/// [`Stopped`].
pub fn settle(
    plugin: &mut TcpStream,
    host: &mut TcpStream,
    name: &str,
    (first, rest): (&[u8], Vec<u8>),
    mut to_plugin: Vec<u8>,
) -> Result<Settled, Stopped> {
    let failed = |side: &'static str| move |error: io::Error| Stopped::Error(format!("{side}: {error}"));
    for stream in [&*plugin, &*host] {
        stream.set_nonblocking(false).map_err(failed("gateway"))?;
        stream.set_read_timeout(None).map_err(failed("gateway"))?;
    }
    host.write_all(first).map_err(failed("host"))?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match asked(&to_plugin) {
            Asked::Again => break,
            Asked::Unknown if to_plugin.len() < MAX_HELLO => {}
            // A TLS server would have answered within these bytes.
            Asked::No | Asked::Unknown => {
                return Ok(Settled { to_host: rest, to_plugin, told: 0 });
            }
        }
        if !wait_for(host, plugin)? {
            // It has said all that it will say: that is looked at now, and its end handed on.
            let rest = all_of(plugin, rest)?;
            return match SecondReader::default().push(&rest).map_err(Stopped::Missing)? {
                Some(found) if found != name => Err(Stopped::Other(found)),
                _ => Ok(Settled { to_host: rest, to_plugin, told: 0 }),
            };
        }
        match host.read(&mut buffer) {
            // It closes the connection: that is passed on.
            Ok(0) => return Ok(Settled { to_host: rest, to_plugin, told: 0 }),
            Ok(count) => to_plugin.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed("host")(error)),
        }
    }
    plugin.write_all(&to_plugin).map_err(failed("plugin"))?;
    let told = to_plugin.len();
    let until = Instant::now() + TIMEOUT;
    let mut second = SecondReader::default();
    let mut found = second.push(&rest).map_err(Stopped::Missing)?;
    while found.is_none() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Stopped::Missing(Missing::TooSlow));
        }
        plugin.set_read_timeout(Some(left)).map_err(failed("plugin"))?;
        match plugin.read(&mut buffer) {
            Ok(0) => return Err(Stopped::Closed),
            Ok(count) => found = second.push(&buffer[..count]).map_err(Stopped::Missing)?,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(error) => return Err(failed("plugin")(error)),
        }
    }
    match found {
        Some(found) if found == name => Ok(Settled { to_host: second.into_bytes(), to_plugin: Vec::new(), told }),
        found => Err(Stopped::Other(found.unwrap_or_default())),
    }
}

/// Waits until the host has something to say. False when the plugin has ended its side before that.
fn wait_for(host: &TcpStream, plugin: &TcpStream) -> Result<bool, Stopped> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(host.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(plugin.as_fd(), PollFlags::RDHUP),
        ];
        poll(&mut fds, None).map_err(|errno| Stopped::Error(format!("gateway: {errno}")))?;
        if !fds[0].revents().is_empty() {
            return Ok(true);
        }
        if !fds[1].revents().is_empty() {
            return Ok(false);
        }
    }
}

/// `rest`, and what else the plugin has sent before its end.
fn all_of(plugin: &TcpStream, mut rest: Vec<u8>) -> Result<Vec<u8>, Stopped> {
    let room = MAX_HELLO as u64;
    let read = plugin.take(room + 1).read_to_end(&mut rest);
    read.map_err(|error| Stopped::Error(format!("plugin: {error}")))?;
    if rest.len() as u64 > room { Err(Stopped::Missing(Missing::TooLong)) } else { Ok(rest) }
}

#[cfg(test)]
mod tests {
    use super::super::hello::sample;
    use super::*;
    use proptest::prelude::*;

    fn record(kind: u8, content: &[u8]) -> Vec<u8> {
        [&[kind, 3, 3][..], &(content.len() as u16).to_be_bytes(), content].concat()
    }

    fn server_hello(random: &[u8; 32]) -> Vec<u8> {
        let body = [&[3, 3][..], random, &[0, 0x13, 1, 0, 0, 0]].concat();
        [&[2, 0, 0, body.len() as u8][..], &body].concat()
    }

    #[test]
    fn a_retry_is_told_from_an_answer_in_any_pieces() {
        let again = server_hello(&RETRY);
        let other = server_hello(&[7; 32]);
        for (message, expected) in [(&again, Asked::Again), (&other, Asked::No)] {
            for size in [1, 3, 37, 100] {
                let pieces: Vec<u8> = message.chunks(size).flat_map(|piece| record(22, piece)).collect();
                let warned = [record(21, &[1, 112]), record(20, &[1]), pieces].concat();
                assert_eq!(asked(&warned), expected, "{size}");
                let told = (0..warned.len()).map(|end| asked(&warned[..end])).find(|asked| *asked != Asked::Unknown);
                assert!([None, Some(expected)].contains(&told), "{size}: {told:?}");
            }
        }
        for bytes in
            [&b"HTTP/1.1 400"[..], &record(23, b"x"), &record(22, &[1; 40]), &[22, 2, 0, 0, 1], &[22, 3, 3, 0, 0]]
        {
            assert_eq!(asked(bytes), Asked::No, "{bytes:?}");
        }
        assert_eq!(asked(b""), Asked::Unknown);
    }

    #[test]
    fn the_second_hello_is_found_behind_early_data() {
        let hello = sample::hello("good.test");
        let bytes = [record(20, &[1]), record(23, &[9; 500]), record(23, &[8; 16_000]), hello].concat();
        for size in [1, 5, 1000, 20_000] {
            let mut reader = SecondReader::default();
            let found: Vec<_> = bytes.chunks(size).map(|piece| reader.push(piece).unwrap()).collect();
            assert!(found[..found.len() - 1].iter().all(Option::is_none));
            assert_eq!(found.last().unwrap().as_deref(), Some("good.test"));
            assert_eq!(reader.into_bytes(), bytes);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        assert_eq!(SecondReader::default().push(b"GET /"), Err(Missing::Malformed));
        let early: Vec<u8> = (0..5).flat_map(|_| record(23, &[0; 16_000])).collect();
        assert_eq!(SecondReader::default().push(&early), Err(Missing::TooLong));
        let two = [record(20, &[1]), record(22, &[2, 0, 0, 0])].concat();
        assert_eq!(SecondReader::default().push(&two), Err(Missing::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes(bytes in prop::collection::vec(prop_oneof![Just(20u8), Just(22), Just(23), Just(3), Just(0), any::<u8>()], 0..300)) {
            let _ = asked(&bytes);
            let mut reader = SecondReader::default();
            for piece in bytes.chunks(7) {
                if !matches!(reader.push(piece), Ok(None)) { break; }
            }
        }
    }
}
