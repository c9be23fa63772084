//! The whole gateway over real sockets on loopback; only name resolution is put in its place.

use super::addresses::Class;
use super::connection::ALERT_UNRECOGNIZED_NAME;
use super::hello::{Missing, sample};
use super::stub::tests::query;
use super::*;
use crate::types::{Denied, HostPattern, Proxy};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, shutdown, socketpair};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

const WAIT: Duration = Duration::from_secs(20);

/// A running gateway and the supervisor's end of its channel.
struct Gate {
    dns: SocketAddr,
    dns_tcp: SocketAddr,
    port: u16,
    events: OwnedFd,
    loop_: Option<JoinHandle<io::Result<()>>>,
}

fn rule(name: &str, port: u16) -> EgressRule {
    let (wildcard, name) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    EgressRule {
        group: "lab".into(),
        pattern: HostPattern { wildcard, name: name.into(), port },
        allow_private: true,
        allow_loopback: true,
        proxy: Proxy::None,
        tls: false,
    }
}

fn resolving(answers: impl Fn(usize) -> Vec<SocketAddr> + Send + Sync + 'static) -> (Network, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let host = Network {
        resolve: Box::new(move |_, _| Ok(answers(count.fetch_add(1, Ordering::SeqCst)))),
        own_addresses: Box::new(addresses::own_addresses),
        is_here: Box::new(routes::is_here),
        proxies: ProxyEnv::default(),
    };
    (host, asked)
}

fn to(server: SocketAddr) -> Network {
    resolving(move |_| vec![server]).0
}

fn sockets() -> (Sockets, SocketAddr, SocketAddr, u16) {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let (dns, dns_tcp) = (udp.local_addr().unwrap(), tcp.local_addr().unwrap());
    let port = listener.local_addr().unwrap().port();
    let sockets = Sockets { dns_udp: udp.into(), dns_tcp: tcp.into(), listeners: vec![(port, listener.into())] };
    (sockets, dns, dns_tcp, port)
}

fn channel() -> (OwnedFd, OwnedFd) {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

impl Gate {
    fn start(host: Network, limit: u64, rules: impl Fn(u16) -> Vec<EgressRule>) -> Gate {
        let (sockets, dns, dns_tcp, port) = sockets();
        let (events, theirs) = channel();
        let rules = rules(port);
        let loop_ = thread::spawn(move || serve(sockets, rules, limit, theirs, host));
        Gate { dns, dns_tcp, port, events, loop_: Some(loop_) }
    }

    fn ask(&self, query: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut buffer = [0; 1024];
        // A datagram may be lost where the socket's queue is full; resolvers ask again, too.
        for _ in 0..10 {
            socket.send_to(query, self.dns).unwrap();
            if let Ok(n) = socket.recv(&mut buffer) {
                return buffer[..n].to_vec();
            }
        }
        panic!("no reply from the name stub");
    }

    /// The address of a granted name.
    fn address(&self, name: &str) -> Ipv4Addr {
        let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
        let reply = self.ask(&query(&labels, 1));
        assert_eq!(reply[3] & 15, 0, "{name} is refused");
        Ipv4Addr::from(*reply.last_chunk::<4>().unwrap())
    }

    fn connect(&self, name: &str) -> TcpStream {
        self.connect_to(self.address(name))
    }

    fn connect_to(&self, address: Ipv4Addr) -> TcpStream {
        let stream = TcpStream::connect((address, self.port)).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream
    }

    /// The next event besides names that were given an address; `None` at the channel's end.
    fn next(&self) -> Option<Event> {
        loop {
            match self.any() {
                Some(Event::Named { .. }) => {}
                other => return other,
            }
        }
    }

    fn any(&self) -> Option<Event> {
        let mut fds = [PollFd::new(self.events.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(WAIT).unwrap();
        assert_eq!(poll(&mut fds, timeout), Ok(1), "no event within {WAIT:?}");
        let mut buffer = [0; events::MAX_EVENT + 1];
        match recv(self.events.as_raw_fd(), &mut buffer, MsgFlags::empty()).unwrap() {
            0 => None,
            n => Some(Event::parse(&buffer[..n]).unwrap()),
        }
    }

    fn refused(&self) -> Refusal {
        match self.next() {
            Some(Event::Refused(r)) => r,
            other => panic!("{other:?} is not a refusal"),
        }
    }

    fn record(&self) -> EgressRecord {
        match self.next() {
            Some(Event::Connection(r)) => r,
            other => panic!("{other:?} is not a record"),
        }
    }

    /// The call's end; what was reported then.
    fn finish(mut self) -> Vec<Event> {
        shutdown(self.events.as_raw_fd(), nix::sys::socket::Shutdown::Write).unwrap();
        let loop_ = self.loop_.take().unwrap();
        loop_.join().unwrap().unwrap();
        let mut buffer = [0; events::MAX_EVENT + 1];
        let mut all = Vec::new();
        // Threads may still hold the gateway's end, so there may be no end of file.
        while let Ok(n @ 1..) = recv(self.events.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            all.push(Event::parse(&buffer[..n]).unwrap());
        }
        all.retain(|event| !matches!(event, Event::Named { .. }));
        all
    }
}

/// A server that sends back what it gets, after a greeting.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || io::copy(&mut stream.try_clone().unwrap(), &mut stream));
        }
    });
    address
}

/// A server that plays `script` once to the first client, after the end of an HTTP header has arrived, and returns what it received.
fn fake_proxy(script: impl FnOnce(&mut TcpStream) + Send + 'static) -> (u16, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut got = Vec::new();
        let mut byte = [0];
        while !got.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            got.push(byte[0]);
        }
        sender.send(got).unwrap();
        script(&mut stream);
    });
    (port, receiver)
}

/// Whether the stream was reset or closed, with what came before.
fn drained(stream: &mut TcpStream) -> Vec<u8> {
    let mut got = Vec::new();
    match stream.read_to_end(&mut got) {
        Ok(_) => got,
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => got,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_granted_name_is_reached_and_recorded() {
    let gate = Gate::start(to(echo()), 1 << 20, |port| vec![rule("files.example.org", port)]);
    let mut stream = gate.connect("files.example.org");
    stream.write_all(b"there and back").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drained(&mut stream), b"there and back");
    let record = gate.record();
    assert!(record.duration_us > 0);
    assert_eq!(
        record,
        EgressRecord {
            host: "files.example.org".into(),
            port: gate.port,
            bytes_sent: 14,
            bytes_received: 14,
            duration_us: record.duration_us,
            end: "closed".into()
        }
    );
    assert_eq!(gate.finish(), []);
}

#[test]
fn names_granted_and_refused() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p), rule("*.wild.org", p)]);
    let first = gate.address("example.org");
    assert_eq!(first, Ipv4Addr::new(127, 64, 0, 1));
    assert_eq!(gate.address("EXAMPLE.oRG"), first, "case does not matter, the address stays");
    assert_eq!(gate.address("a.wild.org"), Ipv4Addr::new(127, 64, 0, 2));
    assert_eq!(gate.address("b.a.wild.org"), Ipv4Addr::new(127, 64, 0, 3));
    for (labels, shown) in [
        (&[&b"evil-example"[..], b"org"][..], "evil-example.org"),
        (&[b"example", b"org", b"evil", b"net"], "example.org.evil.net"),
        (&[b"www", b"example", b"org"], "www.example.org"),
        (&[b"wild", b"org"], "wild.org"),
        (&[b"evil-wild", b"org"], "evil-wild.org"),
        (&[b"example\0", b"org"], r"example\000.org"),
        (&[b"example", b"org\0", b"evil", b"net"], r"example.org\000.evil.net"),
        (&[b"example\n", b"org"], r"example\010.org"),
        (&[b"example.org"], r"example\046org"),
        (&[b"x\ny", b"wild", b"org"], r"x\010y.wild.org"),
        (&[b"\xc3\xa4", b"wild", b"org"], r"\195\164.wild.org"),
        (&[], ""),
    ] {
        for qtype in [1, 28] {
            let reply = gate.ask(&query(labels, qtype));
            assert_eq!((reply[3] & 15, reply[7]), (3, 0), "{shown}");
        }
        for _ in 0..2 {
            assert_eq!(gate.refused(), Refusal::resolve(shown));
        }
    }
    // The trailing dot is the root label on the wire; a written one comes from names in a ClientHello.
    let reply = gate.ask(&query(&[b"example", b"org"], 28));
    assert_eq!((reply[3] & 15, reply[7]), (0, 0), "no AAAA");
    assert_eq!(gate.finish(), []);
}

#[test]
fn names_over_tcp() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p)]);
    let mut stream = TcpStream::connect(gate.dns_tcp).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    let ask = |stream: &mut TcpStream, query: &[u8], cut: usize| {
        let framed = [&(query.len() as u16).to_be_bytes()[..], query].concat();
        stream.write_all(&framed[..cut]).unwrap();
        thread::sleep(Duration::from_millis(20));
        stream.write_all(&framed[cut..]).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        reply
    };
    let reply = ask(&mut stream, &query(&[b"example", b"org"], 1), 1);
    assert_eq!(reply.last_chunk::<4>(), Some(&[127, 64, 0, 1]));
    let reply = ask(&mut stream, &query(&[b"evil", b"org"], 1), 9);
    assert_eq!(reply[3] & 15, 3);
    assert_eq!(gate.refused(), Refusal::resolve("evil.org"));
    // Longer than is read: the client is sent away.
    stream.write_all(&[0xff, 0xff, 0]).unwrap();
    assert_eq!(drained(&mut stream), b"");
    assert_eq!(gate.finish(), []);
}

#[test]
fn an_address_that_stands_for_nothing() {
    let (host, asked) = resolving(|_| vec![]);
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    for address in [[127, 0, 0, 1], [127, 64, 0, 1], [127, 127, 255, 1]] {
        let mut stream = gate.connect_to(Ipv4Addr::from(address));
        assert_eq!(drained(&mut stream), b"");
        let address = Ipv4Addr::from(address);
        let shown = address.to_string();
        assert_eq!(gate.refused().denied, Denied::ConnectAddress { address, port: gate.port });
        let record = gate.record();
        assert_eq!((record.host, record.end.as_str()), (shown, "refused"));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn each_name_is_told_once() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p), rule("other.org", p)]);
    let first = gate.address("example.org");
    assert_eq!(gate.any(), Some(Event::Named { name: "example.org".into(), address: first }));
    assert_eq!(gate.address("Example.ORG"), first);
    let second = gate.address("other.org");
    assert_eq!(gate.any(), Some(Event::Named { name: "other.org".into(), address: second }));
    assert_eq!(gate.finish(), []);
}

#[test]
fn a_name_on_a_port_of_another() {
    let (host, asked) = resolving(|_| vec![]);
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", 9), rule("other.org", p)]);
    drained(&mut gate.connect("example.org"));
    assert_eq!(gate.refused(), Refusal::connect("example.org", gate.port));
    assert_eq!(gate.record().end, "refused");
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

fn tls_rule(name: &str, port: u16) -> EgressRule {
    EgressRule { tls: true, ..rule(name, port) }
}

#[test]
fn the_hello_must_name_the_host() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![tls_rule("example.org", p)]);
    let hello = sample::hello("Example.org.");
    let mut stream = gate.connect("example.org");
    for piece in hello.chunks(40) {
        stream.write_all(piece).unwrap();
        thread::sleep(Duration::from_millis(5));
    }
    stream.write_all(b"and more").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drained(&mut stream), [&hello[..], b"and more"].concat(), "forwarded unchanged");
    let record = gate.record();
    assert_eq!((record.end.as_str(), record.bytes_sent), ("closed", hello.len() as u64 + 8));
}

#[test]
fn other_hellos_never_leave() {
    let (host, asked) = resolving(|_| vec![]);
    let gate = Gate::start(host, 1 << 20, |p| vec![tls_rule("example.org", p)]);
    let long = sample::records(&sample::message(&sample::extension(21, &[0; 65000])), 7);
    let (other, missing) = (
        |found: &str| Refusal::tls_name("example.org", gate.port, found),
        |why| Refusal::tls_missing("example.org", gate.port, why),
    );
    for (bytes, expected, alert) in [
        (sample::hello("evil.net"), other("evil.net"), true),
        (sample::hello("www.example.org"), other("www.example.org"), true),
        (sample::records(&sample::message(&[]), 100), missing(Missing::NoName), true),
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n".to_vec(), missing(Missing::NotTls), false),
        (long, missing(Missing::TooLong), false),
    ] {
        let mut stream = gate.connect("example.org");
        // A refusal may come while the rest is being written.
        stream.write_all(&bytes).ok();
        let got = drained(&mut stream);
        assert_eq!(got, if alert { &ALERT_UNRECOGNIZED_NAME[..] } else { b"" }, "{expected:?}");
        assert_eq!(gate.refused(), expected);
        let record = gate.record();
        let operation = expected.denied.operation();
        assert_eq!((record.end.as_str(), record.bytes_sent, record.bytes_received), (operation, 0, 0));
    }
    // Gone before a word: recorded, not a denial.
    drop(gate.connect("example.org"));
    assert_eq!(gate.record().end, "tls_missing");
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing was resolved, let alone dialled");
}

#[test]
fn a_hello_that_does_not_come() {
    let (host, _) = resolving(|_| vec![]);
    let gate = Gate::start(host, 1 << 20, |p| vec![tls_rule("example.org", p)]);
    let mut stream = gate.connect("example.org");
    let before = Instant::now();
    // A byte now and then does not keep it open.
    for byte in sample::hello("example.org").iter().take(12) {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_secs(1));
    }
    drained(&mut stream);
    assert!(before.elapsed() < Duration::from_secs(15));
    assert_eq!(gate.refused(), Refusal::tls_missing("example.org", gate.port, Missing::TooSlow));
    let record = gate.record();
    assert_eq!(record.end, "tls_missing");
    assert!((10_000_000..11_500_000).contains(&record.duration_us), "{}", record.duration_us);
}

#[test]
fn answers_that_may_not_be_dialled() {
    let server = echo();
    for (answer, private, loopback, kind) in [
        ("10.1.2.3:1", false, false, Class::Private),
        ("169.254.169.254:1", false, false, Class::LinkLocal),
        ("169.254.169.254:1", true, false, Class::LinkLocal),
        ("127.0.0.1:1", true, false, Class::Local),
        ("[::1]:1", false, true, Class::Local),
        ("[::ffff:127.0.0.1]:1", true, false, Class::Local),
        ("[64:ff9b::a9fe:a9fe]:1", true, false, Class::LinkLocal),
        ("[fd00::1]:1", false, false, Class::Private),
        ("0.0.0.0:1", true, true, Class::Never),
    ] {
        let answer: SocketAddr = answer.parse().unwrap();
        let gate = Gate::start(to(answer), 1 << 20, |p| {
            vec![EgressRule { allow_private: private, allow_loopback: loopback, ..rule("example.org", p) }]
        });
        drained(&mut gate.connect("example.org"));
        assert_eq!(gate.refused(), Refusal::address("example.org", gate.port, answer.ip(), kind), "{answer}");
        assert_eq!(gate.record().end, "address_refused");
    }
    // This host's own address, whatever it is.
    let mut host = to("203.0.113.9:1".parse().unwrap());
    host.own_addresses = Box::new(|| Ok(vec!["203.0.113.9".parse().unwrap()]));
    let gate = Gate::start(host, 1 << 20, |p| vec![EgressRule { allow_loopback: false, ..rule("example.org", p) }]);
    drained(&mut gate.connect("example.org"));
    assert!(matches!(gate.refused().denied, Denied::Address { class: Class::Local, .. }));
    // Unknown own addresses refuse.
    let mut host = to(server);
    host.own_addresses = Box::new(|| Err(io::ErrorKind::PermissionDenied.into()));
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    drained(&mut gate.connect("example.org"));
    assert_eq!(gate.record().end, "error: gateway: own addresses: permission denied");
    // So do routes that cannot be determined.
    let mut host = to("203.0.113.9:1".parse().unwrap());
    host.is_here = Box::new(|_| Err(io::ErrorKind::PermissionDenied.into()));
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    drained(&mut gate.connect("example.org"));
    assert_eq!(gate.record().end, "error: gateway: routes: permission denied");
    // Of several, the one that can be determined is dialled.
    let mut host = resolving(move |_| vec!["203.0.113.9:1".parse().unwrap(), server]).0;
    host.is_here = Box::new(|ip| if ip.is_loopback() { Ok(true) } else { Err(io::ErrorKind::InvalidInput.into()) });
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    let mut stream = gate.connect("example.org");
    stream.write_all(b"x").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drained(&mut stream), b"x");
    // Among several the allowed one is taken.
    let host = resolving(move |_| vec!["0.0.0.0:1".parse().unwrap(), "[ff02::1]:1".parse().unwrap(), server]).0;
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    let mut stream = gate.connect("example.org");
    stream.write_all(b"x").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drained(&mut stream), b"x");
}

#[test]
fn a_name_that_re_resolves() {
    let server = echo();
    // Allowed, then not, then allowed: each connection resolves once and dials what was checked.
    let (host, asked) = resolving(move |n| if n % 2 == 0 { vec![server] } else { vec!["0.0.0.0:1".parse().unwrap()] });
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    for (n, end) in ["closed", "address_refused", "closed"].into_iter().enumerate() {
        let mut stream = gate.connect("example.org");
        stream.shutdown(Shutdown::Write).ok();
        drained(&mut stream);
        if end == "address_refused" {
            gate.refused();
        }
        assert_eq!(gate.record().end, end);
        assert_eq!(asked.load(Ordering::SeqCst), n + 1);
    }
}

#[test]
fn what_fails_outside() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gate = Gate::start(to(closed), 1 << 20, |p| vec![rule("example.org", p)]);
    drained(&mut gate.connect("example.org"));
    assert_eq!(gate.record().end, "connect_failed: Connection refused (os error 111)");
    let mut host = to(closed);
    host.resolve = Box::new(|_, _| Err(io::Error::other("no such host")));
    let gate = Gate::start(host, 1 << 20, |p| vec![rule("example.org", p)]);
    drained(&mut gate.connect("example.org"));
    assert_eq!(gate.record().end, "resolve_failed: no such host");
    assert_eq!(gate.finish(), [], "neither is a denial");
}

fn by_proxy(port: u16, tls: bool) -> (Gate, Arc<AtomicUsize>) {
    let (host, asked) = resolving(|_| panic!("the proxy resolves"));
    let url = format!("http://user:p%40ss@127.0.0.1:{port}");
    let gate = Gate::start(host, 1 << 20, move |p| {
        vec![EgressRule {
            proxy: Proxy::Url(url.clone()),
            allow_private: false,
            allow_loopback: false,
            tls,
            ..rule("example.org", p)
        }]
    });
    (gate, asked)
}

#[test]
fn through_a_proxy() {
    let hello = sample::hello("example.org");
    let length = hello.len();
    let (port, got) = fake_proxy(move |stream| {
        stream.write_all(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nfirst bytes ").unwrap();
        let mut buffer = vec![0; length];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(&buffer).unwrap();
    });
    let (gate, asked) = by_proxy(port, true);
    let mut stream = gate.connect("example.org");
    stream.write_all(&hello).unwrap();
    assert_eq!(drained(&mut stream), [b"first bytes ", &hello[..]].concat());
    let p = gate.port;
    let request = format!(
        "CONNECT example.org:{p} HTTP/1.1\r\nHost: example.org:{p}\r\nProxy-Authorization: Basic dXNlcjpwQHNz\r\n\r\n"
    );
    assert_eq!(got.recv_timeout(WAIT).unwrap(), request.as_bytes());
    drop(stream);
    let record = gate.record();
    assert_eq!((record.end.as_str(), record.bytes_sent), ("closed", length as u64));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn hostile_proxies() {
    type Script = Box<dyn FnOnce(&mut TcpStream) + Send>;
    let scripts: [(Script, &str); 5] = [
        (
            Box::new(|s| s.write_all(b"HTTP/1.1 403 Not \x1b[31mhere\r\nX: y\r\n\r\n<html>").unwrap()),
            "proxy: 403 Not \\x1b[31mhere",
        ),
        (
            Box::new(|s| {
                s.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
                while s.write_all(b"X-Endless: header\r\n").is_ok() {}
            }),
            "proxy: reply header over 16 KiB",
        ),
        (Box::new(|s| s.write_all(b"SSH-2.0-hello\r\n\r\n").unwrap()), "proxy: no HTTP reply"),
        (Box::new(|s| s.write_all(&[0, 159, 146, 150, 255]).unwrap()), "proxy: no HTTP reply"),
        (Box::new(|_| ()), "proxy: closed before its reply"),
    ];
    for (script, end) in scripts {
        let (port, _got) = fake_proxy(script);
        let (gate, _) = by_proxy(port, false);
        drained(&mut gate.connect("example.org"));
        assert_eq!(gate.record().end, end);
    }
    let (gate, _) = by_proxy(0, false);
    drained(&mut gate.connect("example.org"));
    let end = gate.record().end;
    assert!(end.starts_with("proxy: http://…@127.0.0.1:0: the port"), "{end}");
}

#[test]
fn the_limit_cuts_and_is_told() {
    let gate = Gate::start(to(echo()), 1000, |p| vec![rule("example.org", p)]);
    let mut stream = gate.connect("example.org");
    stream.write_all(&[1; 700]).unwrap();
    drained(&mut stream);
    assert_eq!(gate.refused(), Refusal::limit("example.org", gate.port, 1000));
    let record = gate.record();
    assert_eq!((record.end.as_str(), record.bytes_sent + record.bytes_received), ("limit", 1000));
}

#[test]
fn open_connections_are_told_at_the_end() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p)]);
    let mut stream = gate.connect("example.org");
    stream.write_all(b"ping").unwrap();
    stream.read_exact(&mut [0; 4]).unwrap();
    // Bytes are counted right after they were handed over.
    thread::sleep(Duration::from_millis(100));
    let told = gate.finish();
    let [Event::Connection(record)] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((record.end.as_str(), record.bytes_sent, record.bytes_received), ("open", 4, 4));
}

#[test]
fn the_supervisor_s_death_ends_it() {
    let mut gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p)]);
    let loop_ = gate.loop_.take().unwrap();
    drop(gate);
    loop_.join().unwrap().unwrap();
}

#[test]
fn the_sixty_fifth_waits() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p)]);
    let mut open: Vec<TcpStream> = (0..MAX_CONNECTIONS).map(|_| gate.connect("example.org")).collect();
    for stream in &mut open {
        stream.write_all(b"x").unwrap();
        stream.read_exact(&mut [0]).unwrap();
    }
    let mut late = gate.connect("example.org");
    late.write_all(b"y").unwrap();
    late.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(late.read(&mut [0]).is_err(), "carried although 64 are open");
    drop(open.pop());
    late.set_read_timeout(Some(WAIT)).unwrap();
    let mut got = [0];
    late.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"y");
    assert_eq!(gate.finish().len(), 1 + MAX_CONNECTIONS);
}

#[test]
fn a_flood_that_no_one_reads() {
    let gate = Gate::start(to(echo()), 1 << 20, |p| vec![rule("example.org", p)]);
    let flood = UdpSocket::bind("127.0.0.1:0").unwrap();
    flood.connect(gate.dns).unwrap();
    for i in 0..20_000u32 {
        let label = format!("x{}", i % 5000);
        flood.send(&query(&[&[b'a'; 60], &[b'b'; 60], label.as_bytes()], 1)).unwrap();
    }
    // It still answers and carries, with nobody reading what it tells.
    let mut stream = gate.connect("example.org");
    stream.write_all(b"x").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(drained(&mut stream), b"x");
    let distinct = (0..).map_while(|_| gate.next_now()).filter(|e| matches!(e, Event::Refused(_))).count();
    assert!((1..=2 * events::MAX_DISTINCT).contains(&distinct), "{distinct}");
}

impl Gate {
    fn next_now(&self) -> Option<Event> {
        let mut buffer = [0; events::MAX_EVENT + 1];
        let n = recv(self.events.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        Event::parse(&buffer[..n]).ok()
    }
}

/// Started by [`run_ends_the_process`] in a process of its own; alone it does nothing.
#[test]
fn run_in_this_process() {
    if std::env::var_os("UPM_TEST_GATEWAY_CHILD").is_none() {
        return;
    }
    let (sockets, dns, _, port) = sockets();
    let (events, theirs) = channel();
    println!("\nready {dns} {port}");
    thread::spawn(move || {
        // The parent closes its end when it is done.
        io::stdin().read_to_end(&mut Vec::new()).unwrap();
        shutdown(events.as_raw_fd(), nix::sys::socket::Shutdown::Write).unwrap();
        thread::sleep(WAIT);
        drop(events);
    });
    run(sockets, vec![rule("example.test", port)], 1 << 20, theirs);
}

#[test]
fn run_ends_the_process() {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "gateway::tests::run_in_this_process", "--nocapture"])
        .env("UPM_TEST_GATEWAY_CHILD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.find_map(|l| l.unwrap().strip_prefix("ready ").map(str::to_owned)).unwrap();
    let dns = ready.split(' ').next().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(WAIT)).unwrap();
    socket.send_to(&query(&[b"sandbox"], 1), dns).unwrap();
    let mut buffer = [0; 512];
    let n = socket.recv(&mut buffer).unwrap();
    assert_eq!(buffer[..n].last_chunk::<4>(), Some(&[127, 0, 0, 1]));
    drop(child.stdin.take());
    let before = Instant::now();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(before.elapsed() < Duration::from_secs(5));
}
