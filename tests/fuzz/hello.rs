//! The TLS ClientHello: the name that is reported is the one that is in the bytes, and nothing else is.

use crate::harness::{Case, Rng, mutate, run};
use upm::decide::names::normalize;
use upm::gateway::hello::{HelloReader, MAX_HELLO, Missing};

/// Written by OpenSSL 3.0 for `Files.Example.org`.
const OPENSSL: &[u8] = include_bytes!("../../src/gateway/testdata/hello-openssl.bin");
const TOKENS: &[&[u8]] = &[
    b"\x16\x03\x01",
    b"\x16\x03\x01\x00\x01\x01",
    b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x17\x03\x03\x00\x01\x00",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x00\x00\x00\x0a\x00\x08\x00\x00\x05a.org",
    b"\x00\x00",
    b"\x00\x08\x00\x00\x05b.org",
    b"\xfe\x0d\x00\x01\x00",
    b"\x00\x15\x00\x04\0\0\0\0",
    b"\x01\x00\x00\x00",
    b"example.org",
    b"EXAMPLE",
    b".",
    b"evil.net",
];

fn name(rng: &mut Rng) -> Vec<u8> {
    match rng.below(12) {
        0 => {
            let n = rng.below(20);
            rng.bytes(n)
        }
        1 => vec![b'a'; rng.range(60, 300)],
        2 => rng
            .pick(&["a.org\0.b.org", "ä.org", "a..b", "", ".", "127.0.0.1", "a b.org", "a.org\n", "*.a.org"])
            .as_bytes()
            .to_vec(),
        _ => rng
            .pick(&["example.org", "Example.ORG.", "a.org", "files.example.org", "x-y_z.example.org"])
            .as_bytes()
            .to_vec(),
    }
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes()[..], &(content.len() as u16).to_be_bytes(), content].concat()
}

fn message(rng: &mut Rng) -> Vec<u8> {
    let mut extensions = Vec::new();
    for _ in 0..rng.below(5) {
        let kind = [43, 10, 16, 51, 13, 21, 0xfe0d, 41, 0x0a0a, 65281][rng.below(10)];
        let n = rng.below(40);
        let content = rng.bytes(n);
        extensions.push(extension(kind, &content));
    }
    let servers = if rng.chance(92) { 1 } else { [0, 2][rng.below(2)] };
    for _ in 0..servers {
        let mut list = Vec::new();
        for _ in 0..if rng.chance(95) { 1 } else { rng.below(3) } {
            let name = name(rng);
            list.push(if rng.chance(97) { 0 } else { rng.byte() });
            list.extend((name.len() as u16).to_be_bytes());
            list.extend(name);
        }
        let sni = extension(0, &[&(list.len() as u16).to_be_bytes()[..], &list].concat());
        let place = rng.below(extensions.len() + 1);
        extensions.insert(place, sni);
    }
    if rng.chance(1) {
        // around what fits
        extensions.push(extension(21, &vec![0; [16_000, 32_000, 65_000, 65_300, 65_400][rng.below(5)]]));
    }
    let extensions = extensions.concat();
    let mut body = vec![3, 3];
    body.extend(rng.bytes(32));
    let session = [0, 0, 32, 32, 16, 33][rng.below(6)];
    body.push(session as u8);
    body.extend(rng.bytes(session));
    body.extend([0, 4, 0x13, 0x01, 0x13, 0x02, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let length = (body.len() as u32).to_be_bytes();
    let mut message = [&[1, length[1], length[2], length[3]][..], &body].concat();
    if rng.chance(30) {
        mutate(rng, &mut message, TOKENS, b"\x00\x00\x00\x0a\x00\x08\x00\x00\x05a.org");
    }
    message
}

fn hello(rng: &mut Rng) -> Vec<u8> {
    if rng.chance(5) {
        return OPENSSL.to_vec();
    }
    let message = message(rng);
    let size = match rng.below(4) {
        0 => rng.range(1, 60),
        1 if message.len() < 2000 => 1,
        _ => 16_384,
    };
    let mut bytes = Vec::new();
    for part in message.chunks(size) {
        bytes.extend([22, 3, if rng.chance(90) { 1 } else { rng.byte() }]);
        bytes.extend((part.len() as u16).to_be_bytes());
        bytes.extend(part);
    }
    if rng.chance(20) {
        bytes.extend(b"\x17\x03\x03\x00\x03\x01\x02\x03");
        if rng.chance(5) {
            bytes.extend(vec![0x17; [100, 5000, 70_000][rng.below(3)]]);
        }
    }
    bytes
}

/// The handshake message in the records at the start, as soon as it is whole; `None` if it is incomplete or not a hello.
fn handshake(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut message: Vec<u8> = Vec::new();
    let mut taken = 0;
    loop {
        let [22, 3, _, high, low, rest @ ..] = bytes else { return None };
        let length = usize::from(*high) << 8 | usize::from(*low);
        if !(1..=16_384).contains(&length) {
            return None;
        }
        let (fragment, rest) = rest.split_at_checked(length)?;
        message.extend(fragment);
        taken += 5 + length;
        bytes = rest;
        if let [1, a, b, c, body @ ..] = message.as_slice() {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if body.len() > length {
                return None;
            }
            if body.len() == length {
                return (taken <= MAX_HELLO).then(|| body.to_vec());
            }
        } else if message[0] != 1 {
            return None;
        }
    }
}

/// The one server name of a ClientHello's body.
fn server_name(body: &[u8]) -> Option<&[u8]> {
    let long =
        |bytes: &[u8]| -> Option<usize> { Some(usize::from(*bytes.first()?) << 8 | usize::from(*bytes.get(1)?)) };
    let mut rest = body.get(34..)?;
    let session = usize::from(*rest.first()?);
    rest = rest.get(1 + session..).filter(|_| session <= 32)?;
    let ciphers = long(rest)?;
    rest = rest.get(2 + ciphers..).filter(|_| ciphers % 2 == 0)?;
    let methods = usize::from(*rest.first()?);
    rest = rest.get(1 + methods..)?;
    let length = long(rest)?;
    rest = rest.get(2..).filter(|rest| rest.len() == length)?;
    let mut found = None;
    while !rest.is_empty() {
        let content = rest.get(4..4 + long(rest.get(2..)?)?)?;
        if rest[..2] == [0, 0] && found.replace(content).is_some() {
            return None;
        }
        rest = &rest[4 + content.len()..];
    }
    let content = found?;
    let name = content.get(5..)?;
    (long(content)? == content.len() - 2 && content[2] == 0 && long(&content[3..])? == name.len()).then_some(name)
}

fn feed(pieces: &[&[u8]]) -> (Result<Option<String>, Missing>, Vec<u8>, usize) {
    let mut reader = HelloReader::default();
    let mut given = 0;
    let mut end = Ok(None);
    for piece in pieces {
        given += piece.len();
        end = reader.push(piece);
        if end != Ok(None) {
            break;
        }
    }
    (end, reader.into_bytes(), given)
}

fn one(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    case.input = hello(rng);
    if rng.chance(45) {
        let other = hello(rng);
        mutate(rng, &mut case.input, TOKENS, &other);
    }
    check(&case.input, &mut case.rng)
}

/// Holds what is said of `input` against the second reading.
pub fn check(input: &[u8], rng: &mut Rng) -> bool {
    let pieces = rng.pieces(input);
    let (end, kept, _) = feed(&[input]);
    let (end_in_pieces, kept_in_pieces, given) = feed(&pieces);
    assert_eq!(end_in_pieces, end, "in pieces");
    assert!(input.starts_with(&kept) && input.starts_with(&kept_in_pieces), "what is forwarded is what came");

    let expected =
        handshake(input).and_then(|body| server_name(&body).and_then(|n| normalize(std::str::from_utf8(n).ok()?)));
    match &end {
        Ok(Some(name)) => {
            assert_eq!(Some(name), expected.as_ref());
            assert_eq!(kept, input, "nothing that follows is lost");
            assert_eq!(kept_in_pieces, input[..given], "nothing that follows is lost");
        }
        Ok(None) => assert!(kept.len() < MAX_HELLO && kept == input && expected.is_none()),
        Err(why) => {
            assert!(kept.len() <= MAX_HELLO && expected.is_none(), "{why:?}, but the name is {expected:?}");
            let is_tls = input[0] == 22 && input.get(1).is_none_or(|b| *b == 3);
            assert_eq!(*why == Missing::NotTls, !is_tls);
        }
    }
    matches!(end, Ok(Some(_)))
}

#[test]
fn hello_reader() {
    run("hello", 30_000, 15, one);
}
