//! A proxy's reply to CONNECT, and what names a proxy.

use crate::harness::{Case, Rng, is_plain, mutate, run};
use upm::decide::names::normalize;
use upm::gateway::proxy::{MAX_REPLY, ProxyEnv, ReplyReader, connect_request, literal, parse_proxy, route};
use upm::types::{EgressRule, HostPattern, Proxy};

const TOKENS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\r\r",
    b"\n\r\n",
    b"HTTP/1.1 200 ",
    b"HTTP/1.0",
    b"HTTP/2 200",
    b"HTTP/1.1 407 ",
    b" 200",
    b"2000",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\x16\x03\x01",
    b"100 Continue",
    b"\xe2\x80\xae",
];

fn reply(rng: &mut Rng) -> Vec<u8> {
    let mut text = format!(
        "{} {}{}\r\n",
        if rng.chance(85) { "HTTP/1.1" } else { rng.pick(&["HTTP/1.0", "HTTP/1.2", "http/1.1", "HTTP/2"]) },
        if rng.chance(70) { "200" } else { rng.pick(&["204", "299", "403", "407", "502", "100", "20", "2000", "2x0"]) },
        rng.pick(&[" OK", " Connection established", "", " ", "\t", " \u{1b}[31m", " é\u{202e}"]),
    );
    for _ in 0..rng.below(4) {
        text.push_str(rng.pick(&[
            "Via: 1.1 p\r\n",
            "Content-Length: 0\r\n",
            "X: \r\n",
            "Proxy-Agent: x\n\r\n",
            "Date: now\r\n",
            "\n",
        ]));
    }
    if rng.chance(3) {
        // around what a header may have
        let fill = (MAX_REPLY - 2).saturating_sub(text.len() + 4);
        let fill = [fill, fill + 1, fill.saturating_sub(1), fill + 4096, 17_000][rng.below(5)];
        text.push_str(&format!("F: {}\r\n", "f".repeat(fill.saturating_sub(1))));
    }
    if rng.chance(95) {
        text.push_str("\r\n");
    }
    let mut bytes = text.into_bytes();
    if rng.chance(50) {
        let n = rng.below(60);
        bytes.extend(rng.bytes(n));
    }
    if rng.chance(10) {
        bytes.extend(b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n");
    }
    bytes
}

/// Where the tunnel's first bytes begin, or how the reply should end: `Some(Err)` for a refusal, `None` for "more".
fn expected(input: &[u8]) -> Option<Result<usize, ()>> {
    let start = b"HTTP/1.";
    let shared = input.len().min(start.len());
    if input[..shared] != start[..shared] {
        return Some(Err(()));
    }
    let header = match (0..input.len()).find(|at| input[*at..].starts_with(b"\r\n\r\n")) {
        Some(at) if at + 4 <= MAX_REPLY => at + 4,
        _ if input.len() >= MAX_REPLY => return Some(Err(())),
        _ => return None,
    };
    let line: Vec<u8> = input[..header].windows(2).take_while(|w| *w != b"\r\n").map(|w| w[0]).collect();
    let (version, status) = (line.get(7), line.get(8..).unwrap_or_default());
    let open = matches!(version, Some(b'0' | b'1'))
        && status.len() >= 4
        && status[..2] == *b" 2"
        && status[2..4].iter().all(u8::is_ascii_digit)
        && status.get(4).is_none_or(|b| *b == b' ');
    Some(if open { Ok(header) } else { Err(()) })
}

type Read = (Result<Option<Vec<u8>>, String>, usize);

fn feed(pieces: &[&[u8]]) -> Read {
    let mut reader = ReplyReader::default();
    let mut given = 0;
    for piece in pieces {
        given += piece.len();
        match reader.push(piece) {
            Ok(None) => assert!(given < MAX_REPLY, "{given} bytes are held"),
            other => return (other, given),
        }
    }
    (Ok(None), given)
}

fn one(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    case.input = reply(rng);
    if rng.chance(60) {
        let other = reply(rng);
        mutate(rng, &mut case.input, TOKENS, &other);
    }
    check(&case.input, &mut case.rng)
}

/// Holds what is said of `input` against the second reading.
pub fn check(input: &[u8], rng: &mut Rng) -> bool {
    let (whole, _) = feed(&[input]);
    let (in_pieces, given) = feed(&rng.pieces(input));
    match (&whole, &in_pieces, expected(input)) {
        (Ok(Some(first)), Ok(Some(first_in_pieces)), Some(Ok(header))) => {
            assert_eq!(first, &input[header..], "all that follows the header, and nothing of it");
            assert_eq!(first_in_pieces, &input[header..given]);
            return true;
        }
        (Ok(None), Ok(None), None) => {}
        (Err(error), Err(error_in_pieces), Some(Err(()))) => {
            assert_eq!(error, error_in_pieces);
            assert!(is_plain(error) && error.chars().count() <= 820, "{error:?}");
        }
        other => panic!("{other:?}"),
    }
    false
}

#[test]
fn proxy_reply() {
    run("proxy", 40_000, 15, one);
}

fn url(rng: &mut Rng) -> String {
    let mut text = String::new();
    text.push_str(if rng.chance(85) { "http://" } else { rng.pick(&["HTTP://", "https://", "socks5://", ""]) });
    if rng.chance(40) {
        let odd = ["SECRET:SECRET@SECRET", "SECRET%0d%0aX: y", "SECRET%", "u:SECRET%zz", ""];
        text.push_str(if rng.chance(70) { "u:SECRET%40x" } else { rng.pick(&odd) });
        text.push('@');
    }
    let odd =
        ["Proxy.Example.org.", "10.0.0.1", "[::1]", "[::ffff:1.2.3.4]", "", "-", "a b", "a\r\nb", "::1", "[v1.x]"];
    text.push_str(if rng.chance(60) { "proxy" } else { rng.pick(&odd) });
    let odd = [":80/", ":0", ":65536", ":+1", "", ":", ":80/p", ":80?q", ":٣"];
    text.push_str(if rng.chance(75) { ":3128" } else { rng.pick(&odd) });
    text
}

fn names_a_proxy(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    case.input = url(rng).into_bytes();
    let touched = rng.chance(50);
    if touched {
        let other = url(rng);
        mutate(
            rng,
            &mut case.input,
            &[b"@", b"://", b":", b"%41", b"%", b"/", b"[", b"]", b"SECRET"],
            other.as_bytes(),
        );
    }
    let text = String::from_utf8_lossy(&case.input).into_owned();
    let parsed = parse_proxy(&text);
    let through = |proxy: Proxy, env: &ProxyEnv| {
        let pattern = HostPattern { wildcard: false, name: "a.org".into(), port: 443 };
        let rule =
            EgressRule { group: "g".into(), pattern, allow_private: false, allow_loopback: false, proxy, tls: true };
        route(&rule, env, "a.org", 443)
    };
    assert_eq!(through(Proxy::Url(text.clone()), &ProxyEnv::default()), parsed.clone().map(Some));
    let exempt =
        rng.pick(&["", "*", "a.org", ".org", "b.org:443", "org:443", "10.0.0.0/8,, a.org:443", "\u{202e}"]).to_owned();
    let env = ProxyEnv::from_vars(|name| match name {
        "https_proxy" => Some(text.clone()),
        "no_proxy" => Some(exempt.clone()),
        _ => None,
    });
    let by_env = through(Proxy::Env, &env);
    if ["*", "a.org", ".org", "org:443", "10.0.0.0/8,, a.org:443"].contains(&exempt.as_str()) || text.is_empty() {
        assert_eq!(by_env, Ok(None));
    } else if text.contains("://") {
        assert_eq!(by_env, parsed.clone().map(Some));
    }
    match parsed {
        Ok(target) => {
            assert!(normalize(&target.host).is_some_and(|n| n == target.host) || literal(&target.host).is_some());
            assert!(target.port > 0 && !format!("{target:?}").contains("SECRET"));
            let request = String::from_utf8(connect_request(&target, "a.org", 443)).unwrap();
            let lines: Vec<&str> = request.split("\r\n").collect();
            assert_eq!(lines[..2], ["CONNECT a.org:443 HTTP/1.1", "Host: a.org:443"]);
            let authorization = lines[2].strip_prefix("Proxy-Authorization: Basic ");
            let coded = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b));
            assert!(lines[2].is_empty() || authorization.is_some_and(coded), "{request:?}");
            assert!(lines[3..].iter().all(|line| line.is_empty()) && request.ends_with("\r\n\r\n"), "{request:?}");
            true
        }
        Err(error) => {
            assert!(is_plain(&error) && error.chars().count() < 920, "{error:?}");
            assert!(touched || !error.contains("SECRET"), "{error:?}");
            false
        }
    }
}

#[test]
fn proxy_url() {
    run("proxy_url", 20_000, 10, names_a_proxy);
}
