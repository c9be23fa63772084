//! The site's proxy: which one a destination goes through, and the CONNECT that opens the tunnel.
//!
//! Behind a proxy the gateway sends the granted name and nothing else; the proxy resolves it and answers for the
//! addresses. HTTP on port 80 is tunnelled by CONNECT too, which the proxy must permit.

use crate::decide::names;
use crate::text::shorten;
use crate::types::{EgressRule, Proxy};
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::time::{Duration, Instant};

/// Bytes of a proxy's reply header.
pub const MAX_REPLY: usize = 16 * 1024;
/// Time for the proxy's reply, from the request on.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// Characters of a status line that a record repeats.
const MAX_SHOWN: usize = 80;

/// An HTTP proxy.
#[derive(Clone, PartialEq, Eq)]
pub struct ProxyTarget {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Value of `Proxy-Authorization`.
    authorization: Option<String>,
}

/// Without the credentials, so that no message can show them.
impl fmt::Debug for ProxyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Reads `http://[user:password@]host:port`; for the configuration's check and for the gateway itself.
///
/// # Errors
/// A sentence that names the URL, without its credentials, and what to write instead. `https://` proxies are refused:
/// the gateway speaks no TLS.
pub fn parse_proxy(url: &str) -> Result<ProxyTarget, String> {
    let shown = shown(url);
    let wanted = "write http://[user:password@]host:port";
    let Some((scheme, rest)) = url.split_once("://") else { return Err(format!("{shown}: no scheme; {wanted}")) };
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(format!("{shown}: only proxies that are reached by http:// are supported; {wanted}"));
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(format!("{shown}: a proxy has no path; {wanted}"));
    }
    let (credentials, host_port) = match authority.rsplit_once('@') {
        Some((c, h)) => (Some(c), h),
        None => (None, authority),
    };
    let Some((host, port)) = host_port.rsplit_once(':') else { return Err(format!("{shown}: no port; {wanted}")) };
    let port = match port.parse::<u16>() {
        Ok(p) if p > 0 && port.bytes().all(|b| b.is_ascii_digit()) => p,
        _ => return Err(format!("{shown}: the port is not a number from 1 to 65535; {wanted}")),
    };
    let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().ok().map(|a| a.to_string()),
        None => names::normalize(host),
    };
    let Some(host) = host else { return Err(format!("{shown}: no host name; {wanted}")) };
    let authorization = match credentials {
        None => None,
        Some(text) => match percent_decode(text) {
            Some(bytes) => Some(format!("Basic {}", base64(&bytes))),
            None => {
                return Err(format!("{shown}: a % in the credentials that no two hexadecimal digits follow; {wanted}"));
            }
        },
    };
    Ok(ProxyTarget { host, port, authorization })
}

/// A URL for messages: escaped, shortened, without credentials.
fn shown(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => shorten(&format!("{scheme}://…@{host}"), MAX_SHOWN),
        (None, Some((_, host))) => shorten(&format!("…@{host}"), MAX_SHOWN),
        _ => shorten(url, MAX_SHOWN),
    }
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || char::from(bytes.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

/// RFC 4648 §4, with padding: all that `Proxy-Authorization: Basic` needs of it.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |g, &b| g << 8 | u32::from(b)) << (8 * (3 - chunk.len()));
        for i in 0..4 {
            let digit = DIGITS[(group >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// What the supervisor's environment says of proxies: `https_proxy` or `HTTPS_PROXY` for every port but 80,
/// `http_proxy` (lower case alone, as everywhere since CVE-2016-5385) for port 80, `no_proxy` or `NO_PROXY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyEnv {
    https: Option<String>,
    http: Option<String>,
    exempt: Vec<Exempt>,
}

/// One entry of `no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Exempt {
    /// Without the leading dot; `*` for all.
    suffix: String,
    port: Option<u16>,
}

impl ProxyEnv {
    /// Reads the variables through `var`. Empty ones count as unset.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> ProxyEnv {
        let set = |name: &str| var(name).filter(|v| !v.is_empty());
        let exempt = set("no_proxy").or_else(|| set("NO_PROXY")).unwrap_or_default();
        ProxyEnv {
            https: set("https_proxy").or_else(|| set("HTTPS_PROXY")),
            http: set("http_proxy"),
            exempt: exempt.split([',', ' ']).filter_map(exempt_entry).collect(),
        }
    }

    /// Whether `no_proxy` takes `name` and `port` out: an entry covers the name itself and everything below it.
    /// Addresses and address ranges in `no_proxy` cover nothing here, since only names are granted.
    fn exempts(&self, name: &str, port: u16) -> bool {
        self.exempt.iter().any(|e| {
            e.port.is_none_or(|p| p == port)
                && (e.suffix == "*"
                    || name.strip_suffix(e.suffix.as_str()).is_some_and(|left| left.is_empty() || left.ends_with('.')))
        })
    }
}

fn exempt_entry(entry: &str) -> Option<Exempt> {
    let (name, port) = match entry.rsplit_once(':').map(|(n, p)| (n, p.parse::<u16>())) {
        Some((n, Ok(p))) => (n, Some(p)),
        _ => (entry, None),
    };
    let name = name.strip_prefix('*').unwrap_or(name);
    if name.is_empty() && entry.starts_with('*') {
        return Some(Exempt { suffix: "*".into(), port });
    }
    let suffix = names::normalize(name.strip_prefix('.').unwrap_or(name))?;
    Some(Exempt { suffix, port })
}

/// The proxy that `name:port` goes through under `rule`; `None` for directly.
///
/// # Errors
/// What is wrong with the proxy's URL: the connection is then refused rather than made directly.
pub fn route(rule: &EgressRule, env: &ProxyEnv, name: &str, port: u16) -> Result<Option<ProxyTarget>, String> {
    match &rule.proxy {
        Proxy::None => Ok(None),
        Proxy::Url(url) => parse_proxy(url).map(Some),
        Proxy::Env if env.exempts(name, port) => Ok(None),
        Proxy::Env => {
            let url = if port == 80 { &env.http } else { &env.https };
            let Some(url) = url else { return Ok(None) };
            // Other clients take a bare host:port in these variables, so must we.
            if url.contains("://") { parse_proxy(url) } else { parse_proxy(&format!("http://{url}")) }.map(Some)
        }
    }
}

/// The request that opens a tunnel to `name:port`; `name` is normalized, so nothing in it can end the line.
pub fn connect_request(target: &ProxyTarget, name: &str, port: u16) -> Vec<u8> {
    let mut request = format!("CONNECT {name}:{port} HTTP/1.1\r\nHost: {name}:{port}\r\n");
    if let Some(value) = &target.authorization {
        request.push_str(&format!("Proxy-Authorization: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Puts a proxy's reply together from bytes as they come.
#[derive(Debug, Default)]
pub struct ReplyReader {
    raw: Vec<u8>,
    /// What no message may repeat.
    secret: Option<String>,
}

impl ReplyReader {
    /// One for `target`, whose credentials a proxy may repeat in its status line.
    pub fn of(target: &ProxyTarget) -> ReplyReader {
        let secret = target.authorization.as_deref().and_then(|value| value.strip_prefix("Basic "));
        ReplyReader { raw: Vec::new(), secret: secret.filter(|s| !s.is_empty()).map(str::to_owned) }
    }

    /// The status for people. The secret goes before it is shortened, so that no part of it is left.
    fn shown_status(&self, status: &[u8]) -> String {
        let status = String::from_utf8_lossy(status);
        match &self.secret {
            Some(secret) => shorten(&status.replace(secret.as_str(), "***"), MAX_SHOWN),
            None => shorten(&*status, MAX_SHOWN),
        }
    }

    /// Takes more bytes. `Ok(None)` wants more; `Ok(Some(bytes))` is an open tunnel and its first bytes.
    ///
    /// # Errors
    /// What the record says after `proxy: `: the status when it is not 2xx, escaped and shortened, or what is wrong.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        const START: &[u8] = b"HTTP/1.";
        // Only what is new can complete the end of the header.
        let searched = self.raw.len().saturating_sub(3);
        self.raw.extend_from_slice(bytes);
        let known = self.raw.len().min(START.len());
        if self.raw[..known] != START[..known] {
            return Err("no HTTP reply".into());
        }
        let end = self.raw[searched..].windows(4).position(|w| w == b"\r\n\r\n").map(|i| searched + i + 4);
        let Some(end) = end.filter(|&e| e <= MAX_REPLY) else {
            return if self.raw.len() >= MAX_REPLY { Err("reply header over 16 KiB".into()) } else { Ok(None) };
        };
        let line_end = self.raw.windows(2).position(|w| w == b"\r\n").unwrap_or(end);
        let line = &self.raw[START.len()..line_end];
        // "1 200 …": a minor version, a space, three digits, then a space or the end.
        match line {
            [b'0' | b'1', b' ', b'2', d1, d2, rest @ ..]
                if d1.is_ascii_digit() && d2.is_ascii_digit() && rest.first().is_none_or(|&b| b == b' ') =>
            {
                Ok(Some(self.raw.split_off(end)))
            }
            [b'0' | b'1', b' ', status @ ..] => Err(self.shown_status(status)),
            _ => Err("no HTTP/1.1 status line".into()),
        }
    }
}

/// Opens a tunnel to `name:port` over `stream` (blocking, connected to the proxy): the tunnel's first bytes.
///
/// # Errors
/// What the record says after `proxy: `.
pub fn establish(stream: &mut TcpStream, target: &ProxyTarget, name: &str, port: u16) -> Result<Vec<u8>, String> {
    let deadline = Instant::now() + TIMEOUT;
    stream.set_write_timeout(Some(TIMEOUT)).map_err(|e| e.to_string())?;
    stream.write_all(&connect_request(target, name, port)).map_err(|e| e.to_string())?;
    let mut reader = ReplyReader::of(target);
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("no reply within 10 s".into());
        }
        stream.set_read_timeout(Some(left)).map_err(|e| e.to_string())?;
        match stream.read(&mut buffer) {
            Ok(0) => return Err("closed before its reply".into()),
            Ok(n) => {
                if let Some(first) = reader.push(&buffer[..n])? {
                    return Ok(first);
                }
            }
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
                ) => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}

/// The ports that the gateway must be able to reach for these rules, for the landlock ruleset: granted ports, those of
/// proxies, and 53 for resolvers over TCP. URLs that cannot be read add nothing, since they are never dialled.
pub fn connect_ports(rules: &[EgressRule], env: &ProxyEnv) -> std::collections::BTreeSet<u16> {
    let mut ports = std::collections::BTreeSet::from([53]);
    for rule in rules {
        ports.insert(rule.pattern.port);
        // Of a wildcard's names some may be exempt, so both ways must be open; the bare suffix stands for the others.
        if let Ok(Some(proxy)) =
            route(rule, &ProxyEnv { exempt: Vec::new(), ..env.clone() }, &rule.pattern.name, rule.pattern.port)
        {
            ports.insert(proxy.port);
        }
    }
    ports
}

/// Whether `host` of a proxy is an address; then nothing is resolved.
pub fn literal(host: &str) -> Option<IpAddr> {
    host.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::HostPattern;
    use proptest::prelude::*;

    fn rule(proxy: Proxy) -> EgressRule {
        EgressRule {
            group: "g".into(),
            pattern: HostPattern { wildcard: false, name: "example.org".into(), port: 443 },
            allow_private: false,
            allow_loopback: false,
            proxy,
            tls: true,
        }
    }

    #[test]
    fn urls() {
        let p = parse_proxy("http://Proxy.Example.org:3128").unwrap();
        assert_eq!((p.host.as_str(), p.port, p.authorization.as_deref()), ("proxy.example.org", 3128, None));
        let p = parse_proxy("HTTP://user:p%40ss:%25@[::1]:8080/").unwrap();
        assert_eq!((p.host.as_str(), p.port), ("::1", 8080));
        assert_eq!(p.authorization.as_deref(), Some("Basic dXNlcjpwQHNzOiU="));
        assert_eq!(format!("{p:?}"), "::1:8080");
    }

    #[test]
    fn urls_refused_without_showing_credentials() {
        for (url, start) in [
            ("https://u:secret@proxy:3128", "https://…@proxy:3128: only proxies that are reached by http://"),
            ("socks5://proxy:1080", "socks5://proxy:1080: only proxies"),
            ("proxy:3128", "proxy:3128: no scheme"),
            ("http://proxy", "http://proxy: no port"),
            ("http://proxy:0", "http://proxy:0: the port"),
            ("http://proxy:+80", "http://proxy:+80: the port"),
            ("http://proxy:99999", "http://proxy:99999: the port"),
            ("http://:80", "http://:80: no host name"),
            ("http://a\r\nb:80", "http://a\\r\\nb:80: no host name"),
            ("http://proxy:80/path", "http://proxy:80/path: a proxy has no path"),
            ("http://u:%zz@proxy:80", "http://…@proxy:80: a % in the credentials"),
        ] {
            let error = parse_proxy(url).unwrap_err();
            assert!(error.starts_with(start), "{url}: {error}");
            assert!(!error.contains("secret"));
        }
    }

    #[test]
    fn base64_vectors() {
        // RFC 4648 §10
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn the_environment() {
        let env = |pairs: &'static [(&str, &str)]| {
            ProxyEnv::from_vars(|n| pairs.iter().find(|(k, _)| *k == n).map(|(_, v)| (*v).to_owned()))
        };
        let through =
            |e: &ProxyEnv, name: &str, port| route(&rule(Proxy::Env), e, name, port).unwrap().map(|p| format!("{p:?}"));
        let e = env(&[
            ("https_proxy", "http://s:1"),
            ("HTTPS_PROXY", "http://no:1"),
            ("http_proxy", "h:2"),
            ("HTTP_PROXY", "http://no:2"),
            ("no_proxy", "localhost, .corp.example ,intern.net:8443,10.0.0.0/8,*.wild.org"),
        ]);
        assert_eq!(through(&e, "example.org", 443).as_deref(), Some("s:1"));
        assert_eq!(through(&e, "example.org", 80).as_deref(), Some("h:2"));
        for exempt in [
            ("localhost", 443),
            ("corp.example", 443),
            ("a.corp.example", 80),
            ("intern.net", 8443),
            ("x.wild.org", 443),
        ] {
            assert_eq!(through(&e, exempt.0, exempt.1), None, "{exempt:?}");
        }
        for not in [("notcorp.example", 443), ("intern.net", 443), ("corp.example.net", 443)] {
            assert_eq!(through(&e, not.0, not.1).as_deref(), Some("s:1"), "{not:?}");
        }
        let e = env(&[("HTTPS_PROXY", "http://s:1"), ("HTTP_PROXY", "http://no:2"), ("https_proxy", "")]);
        assert_eq!(through(&e, "example.org", 443).as_deref(), Some("s:1"));
        assert_eq!(through(&e, "example.org", 80), None);
        let e = env(&[("https_proxy", "http://s:1"), ("NO_PROXY", "*")]);
        assert_eq!(through(&e, "example.org", 443), None);
        assert!(route(&rule(Proxy::Env), &env(&[("https_proxy", "https://s:1")]), "example.org", 443).is_err());
    }

    #[test]
    fn the_rule_decides() {
        let env = ProxyEnv::from_vars(|n| (n == "https_proxy").then(|| "http://s:1".to_owned()));
        assert_eq!(route(&rule(Proxy::None), &env, "example.org", 443), Ok(None));
        let url = route(&rule(Proxy::Url("http://u:2".into())), &env, "example.org", 443).unwrap().unwrap();
        assert_eq!(format!("{url:?}"), "u:2");
        let ports = connect_ports(&[rule(Proxy::None), rule(Proxy::Url("http://u:2".into())), rule(Proxy::Env)], &env);
        assert_eq!(ports.into_iter().collect::<Vec<_>>(), [1, 2, 53, 443]);
    }

    #[test]
    fn the_request() {
        let bare = parse_proxy("http://p:1").unwrap();
        assert_eq!(connect_request(&bare, "a.org", 443), b"CONNECT a.org:443 HTTP/1.1\r\nHost: a.org:443\r\n\r\n");
        let with = parse_proxy("http://u:p@p:1").unwrap();
        assert_eq!(
            connect_request(&with, "a.org", 443),
            b"CONNECT a.org:443 HTTP/1.1\r\nHost: a.org:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
    }

    fn reply(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
        ReplyReader::default().push(bytes)
    }

    #[test]
    fn replies() {
        assert_eq!(reply(b"HTTP/1.1 200 Connection established\r\n\r\n"), Ok(Some(vec![])));
        assert_eq!(reply(b"HTTP/1.0 204\r\nX: y\r\n\r\n\x16\x03"), Ok(Some(vec![0x16, 3])));
        assert_eq!(reply(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        assert_eq!(reply(b"HT"), Ok(None));
        for (bytes, error) in [
            (&b"HTTP/1.1 403 Forbidden\r\n\r\n"[..], "403 Forbidden"),
            (b"HTTP/1.1 407 \x1b[31mred\x00\r\n\r\n", "407 \\x1b[31mred\\x00"),
            (b"HTTP/1.1 100 Continue\r\n\r\n", "100 Continue"),
            (b"HTTP/1.1 2000 OK\r\n\r\n", "2000 OK"),
            (b"HTTP/1.1 20x OK\r\n\r\n", "20x OK"),
            (b"HTTP/1.1200 OK\r\n\r\n", "no HTTP/1.1 status line"),
            (b"SSH-2.0", "no HTTP reply"),
            (b"HTTP/2 200\r\n\r\n", "no HTTP reply"),
            (b"\x00\xff", "no HTTP reply"),
        ] {
            assert_eq!(reply(bytes), Err(error.to_owned()));
        }
        let long = format!("HTTP/1.1 500 {}\r\n\r\n", "x".repeat(9000));
        assert_eq!(reply(long.as_bytes()), Err(format!("500 {}…", "x".repeat(MAX_SHOWN - 4))));
    }

    #[test]
    fn what_was_sent_is_not_repeated() {
        let target = parse_proxy("http://user:word@p:1").unwrap();
        let reply = b"HTTP/1.1 407 for dXNlcjp3b3Jk and dXNlcjp3b3Jk\r\n\r\n";
        assert_eq!(ReplyReader::of(&target).push(reply), Err("407 for *** and ***".to_owned()));
        let long = format!("HTTP/1.1 407 {}dXNlcjp3b3Jk\r\n\r\n", "x".repeat(MAX_SHOWN - 6));
        let shown = ReplyReader::of(&target).push(long.as_bytes()).unwrap_err();
        assert!(!shown.contains("dX"), "{shown}");
        let bare = parse_proxy("http://p:1").unwrap();
        assert_eq!(ReplyReader::of(&bare).push(b"HTTP/1.1 407 for x\r\n\r\n"), Err("407 for x".to_owned()));
    }

    #[test]
    fn an_endless_header_ends() {
        let mut reader = ReplyReader::default();
        assert_eq!(reader.push(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        let mut taken = 17;
        let error = loop {
            match reader.push(b"X-Fill: yes\r\n") {
                Ok(None) => taken += 13,
                other => break other,
            }
        };
        assert_eq!(error, Err("reply header over 16 KiB".to_owned()));
        assert!(taken < MAX_REPLY);
    }

    #[test]
    fn the_end_may_come_in_pieces() {
        let mut reader = ReplyReader::default();
        for byte in b"HTTP/1.1 200 OK\r\nA: b\r\n\r" {
            assert_eq!(reader.push(&[*byte]), Ok(None));
        }
        assert_eq!(reader.push(b"\nrest"), Ok(Some(b"rest".to_vec())));
    }

    proptest! {
        #[test]
        fn any_reply(
            start in prop::sample::select(vec![&b""[..], b"HTTP/1.", b"HTTP/1.1 200 ", b"HTTP/1.1 "]),
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6), end in any::<bool>(),
        ) {
            let mut reader = ReplyReader::default();
            let mut all = vec![start.to_vec()];
            all.extend(chunks);
            if end { all.push(b"\r\n\r\n".to_vec()); }
            for chunk in all {
                match reader.push(&chunk) {
                    Ok(None) => {}
                    Ok(Some(rest)) => { prop_assert!(rest.len() <= chunk.len()); break; }
                    Err(e) => {
                        prop_assert!(e.chars().count() <= 10 * MAX_SHOWN + 16);
                        prop_assert!(!e.contains(crate::text::is_control));
                        break;
                    }
                }
            }
        }

        #[test]
        fn any_url(url in "(http://)?[ -~]{0,40}") {
            if let Ok(p) = parse_proxy(&url) {
                prop_assert!(names::normalize(&p.host).is_some() || literal(&p.host).is_some());
            }
        }
    }
}
