//! The TLS ClientHello of a connection that wants to leave: read in bounds, its server name compared.
//!
//! What this can and cannot say: it sees the name that the client shows the network. With Encrypted Client Hello that
//! is the *outer* name (of the provider that hides the inner one), and it is the outer name that is compared, so ECH
//! passes only where the outer name is the granted one. What is sent inside the encryption (an HTTP `Host` header of
//! another site on the same server) stays between client and server; TLS is end to end.

use crate::decide::names;
pub use crate::types::NoHello as Missing;
use std::io::{self, Read};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tls_parser::{SNIType, TlsExtension, parse_tls_extension_sni_content, parse_tls_handshake_client_hello};

/// Bytes read before a ClientHello must be complete, whatever it is wrapped in.
pub const MAX_HELLO: usize = 64 * 1024;
/// Time from accept in which it must be complete.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest plaintext record (RFC 8446 §5.1).
const MAX_RECORD: usize = 1 << 14;
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;

/// Puts a ClientHello together from bytes as they come. Each byte is looked at once, so that single bytes in single
/// records cost no more than one long record.
#[derive(Debug, Default)]
pub struct HelloReader {
    raw: Vec<u8>,
    /// Where the next record starts in `raw`.
    next: usize,
    handshake: Vec<u8>,
}

impl HelloReader {
    /// Takes more bytes. `Ok(None)` wants more; `Ok(Some(name))` is the server name, normalized.
    ///
    /// # Errors
    /// Why there will be no name, however much more comes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<String>, Missing> {
        // Kept up to the bound even when refused: nothing of it is forwarded then.
        let room = MAX_HELLO - self.raw.len();
        self.raw.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let too_long = bytes.len() > room;
        while let Some(header) = self.raw.get(self.next..) {
            // Each byte of the header is checked as soon as it arrives, so that data that is not TLS is refused at once
            // instead of waited for.
            if header.first().is_some_and(|&t| t != HANDSHAKE) || header.get(1).is_some_and(|&major| major != 3) {
                return Err(if self.next == 0 { Missing::NotTls } else { Missing::Malformed });
            }
            let Some(&[_, _, _, high, low]) = header.first_chunk::<5>() else { break };
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length == 0 || length > MAX_RECORD {
                return Err(Missing::Malformed);
            }
            let Some(fragment) = header.get(5..5 + length) else { break };
            self.handshake.extend_from_slice(fragment);
            self.next += 5 + length;
            if let Some(name) = client_hello_name(&self.handshake)? {
                // What came behind the bound in the same piece belongs to the connection, which now goes on.
                self.raw.extend_from_slice(&bytes[bytes.len().min(room)..]);
                return Ok(Some(name));
            }
        }
        if too_long || self.raw.len() >= MAX_HELLO { Err(Missing::TooLong) } else { Ok(None) }
    }

    /// All that was taken, unchanged, to be forwarded.
    pub fn into_bytes(self) -> Vec<u8> {
        self.raw
    }

    /// The same in two: the records of the ClientHello, and what came behind them.
    pub fn into_parts(mut self) -> (Vec<u8>, Vec<u8>) {
        let rest = self.raw.split_off(self.next);
        (self.raw, rest)
    }
}

/// The name in a handshake message; `Ok(None)` while it is not complete.
fn client_hello_name(handshake: &[u8]) -> Result<Option<String>, Missing> {
    if handshake.first().is_some_and(|&t| t != CLIENT_HELLO) {
        return Err(Missing::Malformed);
    }
    let Some(&[_, a, b, c]) = handshake.first_chunk::<4>() else { return Ok(None) };
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > MAX_HELLO {
        return Err(Missing::TooLong);
    }
    let Some(body) = handshake.get(4..4 + length) else { return Ok(None) };
    // A second message in the same records could be a second ClientHello.
    if handshake.len() > 4 + length {
        return Err(Missing::Malformed);
    }
    let (rest, hello) = parse_tls_handshake_client_hello(body).map_err(|_| Missing::Malformed)?;
    if !rest.is_empty() {
        return Err(Missing::Malformed);
    }
    server_name(hello.ext.unwrap_or_default()).map(Some)
}

/// The one name of the one server_name extension.
///
/// The list is walked here rather than by the parser: that one stops at the first extension it cannot read, and a
/// server that can read it would see another list than we do.
fn server_name(mut extensions: &[u8]) -> Result<String, Missing> {
    let mut found = None;
    while !extensions.is_empty() {
        let Some((&[t0, t1, l0, l1], rest)) = extensions.split_first_chunk::<4>() else {
            return Err(Missing::Malformed);
        };
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        let Some((content, rest)) = rest.split_at_checked(length) else { return Err(Missing::Malformed) };
        if u16::from_be_bytes([t0, t1]) == SERVER_NAME && found.replace(content).is_some() {
            return Err(Missing::NoName);
        }
        extensions = rest;
    }
    let content = found.ok_or(Missing::NoName)?;
    let (rest, extension) = parse_tls_extension_sni_content(content).map_err(|_| Missing::Malformed)?;
    let TlsExtension::SNI(list) = extension else { return Err(Missing::Malformed) };
    let [(SNIType::HostName, name)] = list.as_slice() else { return Err(Missing::NoName) };
    // The list's own length must be what is in it, too: the parser skips what it cannot read at the end.
    if !rest.is_empty() || content.len() != 2 + 3 + name.len() {
        return Err(Missing::Malformed);
    }
    std::str::from_utf8(name).ok().and_then(names::normalize).ok_or(Missing::NoName)
}

/// How reading ended when there is nothing to carry.
#[derive(Debug)]
pub enum HelloError {
    /// No name.
    Missing(Missing),
    /// The socket failed.
    Io(io::Error),
}

/// A ClientHello, and what came behind it: bytes to forward.
pub type Hello = (Vec<u8>, Vec<u8>);

/// Reads a ClientHello from `client` (blocking) until `deadline`: the bytes to forward and the name in it.
///
/// # Errors
/// [`HelloError`].
pub fn read(client: &mut TcpStream, deadline: Instant) -> Result<(Hello, String), HelloError> {
    let mut reader = HelloReader::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(HelloError::Missing(Missing::TooSlow));
        }
        client.set_read_timeout(Some(left)).map_err(HelloError::Io)?;
        match client.read(&mut buffer) {
            Ok(0) => return Err(HelloError::Missing(Missing::Closed)),
            Ok(n) => match reader.push(&buffer[..n]) {
                Ok(None) => {}
                Ok(Some(name)) => return Ok((reader.into_parts(), name)),
                Err(why) => return Err(HelloError::Missing(why)),
            },
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(HelloError::Io(e)),
        }
    }
}

/// A ClientHello made by hand, for tests here and in the gateway's.
#[cfg(test)]
pub(super) mod sample {
    /// Wraps `content` as extension `kind`.
    pub fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat()
    }

    /// A server_name extension of these host names.
    pub fn sni(names: &[&[u8]]) -> Vec<u8> {
        let list: Vec<u8> =
            names.iter().flat_map(|n| [&[0][..], &(n.len() as u16).to_be_bytes(), n].concat()).collect();
        extension(0, &[&(list.len() as u16).to_be_bytes()[..], &list].concat())
    }

    /// The handshake message with these extensions.
    pub fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(extensions);
        let length = (body.len() as u32).to_be_bytes();
        [&[1, length[1], length[2], length[3]][..], &body].concat()
    }

    /// `message` in records of at most `size` bytes.
    pub fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|c| [&[22, 3, 1][..], &(c.len() as u16).to_be_bytes(), c].concat()).collect()
    }

    /// A whole ClientHello for `name`.
    pub fn hello(name: &str) -> Vec<u8> {
        let other = extension(43, &[2, 3, 4]);
        records(&message(&[other, sni(&[name.as_bytes()])].concat()), 16384)
    }
}

#[cfg(test)]
mod tests {
    use super::sample::*;
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::net::TcpListener;

    fn whole(bytes: &[u8]) -> Result<Option<String>, Missing> {
        HelloReader::default().push(bytes)
    }

    fn name(text: &str) -> Result<Option<String>, Missing> {
        Ok(Some(text.to_owned()))
    }

    /// Written by Python 3.11's `ssl` (OpenSSL 3.0) for `Files.Example.org`.
    const OPENSSL: &[u8] = include_bytes!("testdata/hello-openssl.bin");

    #[test]
    fn names_are_found() {
        assert_eq!(whole(&hello("example.org")), name("example.org"));
        assert_eq!(whole(&hello("Example.ORG.")), name("example.org"));
        assert_eq!(whole(OPENSSL), name("files.example.org"));
    }

    #[test]
    fn fragments_are_joined_and_kept() {
        let bytes = records(&message(&sni(&[b"example.org"])), 3);
        let mut reader = HelloReader::default();
        let (last, first) = bytes.split_last().unwrap();
        for byte in first {
            assert_eq!(reader.push(&[*byte]), Ok(None));
        }
        assert_eq!(reader.push(&[*last]), name("example.org"));
        assert_eq!(reader.into_bytes(), bytes);
    }

    #[test]
    fn what_follows_is_kept() {
        let bytes = [hello("example.org"), vec![23, 3, 3, 0, 2, 1, 2]].concat();
        let mut reader = HelloReader::default();
        assert_eq!(reader.push(&bytes), name("example.org"));
        assert_eq!(reader.into_bytes(), bytes);
    }

    #[test]
    fn what_follows_is_kept_behind_the_bound_too() {
        let hello = records(&message(&[extension(21, &[0; 65000]), sni(&[b"example.org"])].concat()), 16384);
        assert!(hello.len() < MAX_HELLO);
        let bytes = [hello, vec![23; 16 * 1024]].concat();
        assert!(bytes.len() > MAX_HELLO);
        let mut reader = HelloReader::default();
        assert_eq!(reader.push(&bytes[..60_000]), Ok(None));
        assert_eq!(reader.push(&bytes[60_000..]), name("example.org"));
        assert_eq!(reader.into_bytes(), bytes);
    }

    #[test]
    fn no_tls_is_said_at_the_first_byte() {
        assert_eq!(whole(b"G"), Err(Missing::NotTls));
        assert_eq!(whole(b"SSH-2.0-x"), Err(Missing::NotTls));
        assert_eq!(whole(&[22, 2]), Err(Missing::NotTls));
        assert_eq!(whole(&[0x80, 0x2e, 1, 0, 2]), Err(Missing::NotTls), "SSLv2");
        assert_eq!(whole(b""), Ok(None));
    }

    #[test]
    fn the_name_must_be_one() {
        for extensions in [
            vec![],
            extension(43, &[2, 3, 4]),
            extension(0, &[]),
            sni(&[]),
            sni(&[b"a.org", b"b.org"]),
            [sni(&[b"a.org"]), sni(&[b"b.org"])].concat(),
            extension(0, &[0, 8, 1, 0, 5, b'a', b'.', b'o', b'r', b'g']),
            sni(&[b"a.org\0.b.org"]),
            sni(&[b"a.org\n"]),
            sni(&["ä.org".as_bytes()]),
            sni(&[b"\xff.org"]),
            sni(&[b""]),
        ] {
            assert_eq!(whole(&records(&message(&extensions), 16384)), Err(Missing::NoName), "{extensions:?}");
        }
    }

    #[test]
    fn malformed() {
        let good = message(&sni(&[b"a.org"]));
        for bad in [
            records(&[&good[..], &good[..]].concat(), 16384),
            records(&[&[2], &good[1..]].concat(), 16384),
            records(&message(&[&sni(&[b"a.org"])[..], &[0, 1, 0]].concat()), 16384),
            records(&message(&extension(0, &[0, 9, 0, 0, 5, b'a', b'.', b'o', b'r', b'g', 1])), 16384),
            vec![22, 3, 1, 0, 0],
            vec![22, 3, 1, 0x40, 1],
            [&[22, 3, 1, 0, 1, 1][..], &[23]].concat(),
        ] {
            assert_eq!(whole(&bad), Err(Missing::Malformed), "{bad:?}");
        }
    }

    #[test]
    fn too_long() {
        assert_eq!(whole(&[22, 3, 1, 0, 4, 1, 2, 0, 0]), Err(Missing::TooLong));
        let mut reader = HelloReader::default();
        let pieces = records(&message(&extension(21, &[0; 65000])), 1);
        assert_eq!(reader.push(&pieces[..MAX_HELLO - 1]), Ok(None));
        assert_eq!(reader.push(&pieces[MAX_HELLO - 1..]), Err(Missing::TooLong));
        assert_eq!(reader.into_bytes().len(), MAX_HELLO);
    }

    #[test]
    fn slow_and_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        near.write_all(&hello("a.org")[..20]).unwrap();
        let before = Instant::now();
        let slow = read(&mut far, before + Duration::from_millis(80));
        assert!(matches!(slow, Err(HelloError::Missing(Missing::TooSlow))), "{slow:?}");
        assert!(before.elapsed() >= Duration::from_millis(80));
        drop(near);
        let closed = read(&mut far, Instant::now() + Duration::from_secs(5));
        assert!(matches!(closed, Err(HelloError::Missing(Missing::Closed))), "{closed:?}");
    }

    proptest! {
        #[test]
        fn any_bytes(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let mut reader = HelloReader::default();
            for chunk in &chunks {
                if !matches!(reader.push(chunk), Ok(None)) { break; }
            }
            prop_assert!(reader.into_bytes().len() <= MAX_HELLO);
        }

        #[test]
        fn nearly_good(at in 0usize..200, to in any::<u8>(), size in 1usize..80, cut in 1usize..50) {
            let mut bytes = records(&message(&[extension(43, &[2, 3, 4]), sni(&[b"example.org"])].concat()), size);
            if at < bytes.len() { bytes[at] = to; }
            let mut reader = HelloReader::default();
            let mut end = Ok(None);
            for chunk in bytes.chunks(cut) {
                end = reader.push(chunk);
                if end != Ok(None) { break; }
            }
            if at >= bytes.len() { prop_assert_eq!(end.clone(), name("example.org")); }
            if let Ok(Some(n)) = end { prop_assert_eq!(names::normalize(&n), Some(n)); }
        }
    }
}
