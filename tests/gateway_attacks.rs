//! The gateway under a hostile plugin, a hostile resolver and hostile servers.
//!
//! Resolver and servers are the tests' own, in a network namespace that holds nothing else: `upm` runs there with a
//! made-up `/etc/resolv.conf`. That needs root, also for the user's cases.

mod common;

use common::{Answer, Call, Fixture, Mode, is_root, skip};
use nix::sched::{CloneFlags, unshare};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

/// Port of the lab's server.
const PORT: u16 = 8443;

/// What a resolver does with a query: its reply, over UDP or TCP.
type Resolver = dyn Fn(&Query<'_>) -> Vec<u8> + Send + Sync;

/// A query as it came.
struct Query<'a> {
    bytes: &'a [u8],
    name: String,
    kind: u16,
    tcp: bool,
}

impl Query<'_> {
    /// The header of a reply with these flags and this many answers, and the question.
    fn head(&self, flags: u16, answers: u16) -> Vec<u8> {
        let end = 12 + self.name.len() + 2 + 4;
        let mut reply = self.bytes[..end].to_vec();
        reply[2..4].copy_from_slice(&flags.to_be_bytes());
        reply[6..8].copy_from_slice(&answers.to_be_bytes());
        reply[8..12].fill(0);
        reply
    }

    /// The name does not exist.
    fn none(&self) -> Vec<u8> {
        self.head(0x8183, 0)
    }

    /// These addresses, as far as they are of the type that was asked for.
    fn addresses(&self, all: &[IpAddr]) -> Vec<u8> {
        let fit: Vec<&IpAddr> = all.iter().filter(|ip| ip.is_ipv4() == (self.kind == 1)).collect();
        let mut reply = self.head(0x8180, fit.len() as u16);
        for ip in fit {
            match ip {
                IpAddr::V4(v4) => reply.extend([&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4][..], &v4.octets()].concat()),
                IpAddr::V6(v6) => {
                    reply.extend([&[0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 0, 0, 16][..], &v6.octets()].concat());
                }
            }
        }
        reply
    }
}

/// A network namespace with a resolver at 127.0.0.1 and a server, both gone with the test process.
struct Lab {
    namespace: File,
    /// Names that the resolver was asked for.
    asked: Arc<Mutex<Vec<String>>>,
    /// How many connections the server got.
    reached: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Lab {
    /// `setup` is a shell script that runs in it; `serve` handles the connections to [`PORT`].
    fn new(
        setup: &str,
        resolver: impl Fn(&Query<'_>) -> Vec<u8> + Send + Sync + 'static,
        serve: impl Fn(TcpStream) -> Vec<u8> + Send + Sync + 'static,
    ) -> Option<Lab> {
        if !is_root() {
            skip("a network namespace of the tests' own needs root");
            return None;
        }
        let (send, receive) = mpsc::channel();
        let script = format!("ip link set lo up\n{setup}");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let reached = Arc::new(Mutex::new(Vec::new()));
        let (log, seen) = (Arc::clone(&asked), Arc::clone(&reached));
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let done = Command::new("/bin/sh").args(["-e", "-c", &script]).output().unwrap();
            assert!(done.status.success(), "{done:?}");
            let resolver: Arc<Resolver> = Arc::new(resolver);
            resolve_udp(Arc::clone(&resolver), Arc::clone(&log));
            resolve_tcp(resolver, log);
            let listener = TcpListener::bind(("::", PORT)).unwrap();
            send.send(File::open("/proc/thread-self/ns/net").unwrap()).unwrap();
            let serve = Arc::new(serve);
            for stream in listener.incoming().flatten() {
                let (serve, seen) = (Arc::clone(&serve), Arc::clone(&seen));
                thread::spawn(move || {
                    let got = serve(stream);
                    seen.lock().unwrap().push(got);
                });
            }
        });
        let namespace = receive.recv_timeout(Duration::from_secs(10)).expect("the lab was not set up");
        Some(Lab { namespace, asked, reached })
    }

    /// One whose server answers `got:` and what it read.
    fn echo(setup: &str, resolver: impl Fn(&Query<'_>) -> Vec<u8> + Send + Sync + 'static) -> Option<Lab> {
        Lab::new(setup, resolver, echo)
    }

    /// `upm` in it.
    fn call<'a>(&self, f: &'a Fixture, args: Value) -> Call<'a> {
        f.write("resolv.conf", "nameserver 127.0.0.1\nsearch elsewhere.test\noptions timeout:1 attempts:2\n");
        f.upm(["Probe", "run", &json!({ "args": args }).to_string()]).mounting_script(&self.script(f))
    }

    /// The resolver's file in the place of the host's, and then this namespace.
    fn script(&self, f: &Fixture) -> String {
        format!(
            "mount --bind {} /etc/resolv.conf && exec nsenter --net=/proc/{}/fd/{} -- \"$@\"",
            f.text("resolv.conf"),
            std::process::id(),
            self.namespace.as_raw_fd()
        )
    }

    fn run(&self, f: &Fixture, args: Value) -> Answer {
        self.call(f, args).run()
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    fn reached(&self) -> usize {
        self.reached.lock().unwrap().len()
    }
}

fn echo(mut stream: TcpStream) -> Vec<u8> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut bytes = vec![0; 1 << 16];
    let n = stream.read(&mut bytes).unwrap_or(0);
    bytes.truncate(n);
    let _ = stream.write_all(&[b"got:".as_slice(), &bytes].concat());
    bytes
}

fn read_query(bytes: &[u8], tcp: bool) -> Option<Query<'_>> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).into_owned());
        at += length;
    }
    let kind = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
    Some(Query { bytes, name: labels.join("."), kind, tcp })
}

fn resolve_udp(resolver: Arc<Resolver>, log: Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok((n, from)) = socket.recv_from(&mut buffer) {
            let Some(query) = read_query(&buffer[..n], false) else { continue };
            log.lock().unwrap().push(query.name.clone());
            let _ = socket.send_to(&resolver(&query), from);
        }
    });
}

fn resolve_tcp(resolver: Arc<Resolver>, log: Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:53").unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (resolver, log) = (Arc::clone(&resolver), Arc::clone(&log));
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                    if stream.read_exact(&mut bytes).is_err() {
                        return;
                    }
                    let Some(query) = read_query(&bytes, true) else { return };
                    log.lock().unwrap().push(query.name.clone());
                    let reply = resolver(&query);
                    let _ = stream.write_all(&[&(reply.len() as u16).to_be_bytes()[..], &reply].concat());
                }
            });
        }
    });
}

/// A resolver that knows these names and no others.
fn knows(names: &[(&str, &[&str])]) -> impl Fn(&Query<'_>) -> Vec<u8> + Send + Sync + use<> {
    let all: HashMap<String, Vec<IpAddr>> =
        names.iter().map(|(n, ips)| ((*n).to_owned(), ips.iter().map(|ip| ip.parse().unwrap()).collect())).collect();
    move |query| all.get(&query.name).map_or_else(|| query.none(), |ips| query.addresses(ips))
}

/// The probe with one group `test`; `tail` are more lines of the plugin's table.
fn granted(mode: Mode, group: &str, tail: &str) -> Option<Fixture> {
    let group = group.replace("PORT", &PORT.to_string());
    Fixture::new(
        mode,
        &format!("[egress.test]\n{group}\n{}egress = [\"test\"]\ntimeout = \"20s\"\n{tail}\n", common::PROBE),
    )
}

/// How connections of a call ended.
fn ends(answer: &Answer) -> Vec<String> {
    let data = answer.data();
    let all = data["egress"].as_array().unwrap_or_else(|| panic!("{data:#}"));
    all.iter().map(|record| record["end"].as_str().unwrap().to_owned()).collect()
}

/// The resolver's search list makes another name of a granted one, when that does not exist or has few dots.
#[rstest]
fn a_granted_name_is_never_another_of_the_search_list(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let names = [
        ("gone.test.elsewhere.test", &["127.0.0.1"][..]),
        ("here.test", &["127.0.0.1"]),
        ("gone.elsewhere.test", &["127.0.0.1"]),
    ];
    let Some(lab) = Lab::echo("", knows(&names)) else { return };
    let Some(f) = granted(mode, "hosts = [\"*.test:PORT\", \"gone:PORT\"]\nallow_private = true\ntls = false", "")
    else {
        return;
    };
    for name in ["gone.test", "gone"] {
        let answer = lab.run(&f, json!(["connect", name, PORT, "x"]));
        assert_ne!(answer.result()["text"], "got:x", "{name} led to another host");
        assert!(ends(&answer)[0].starts_with("resolve_failed"), "{:#}", answer.data());
    }
    assert_eq!(lab.reached(), 0);
    assert!(!lab.asked().iter().any(|name| name.ends_with("elsewhere.test")), "{:?}", lab.asked());
    // what `check` says of a name is what the gateway finds
    let checked = f.upm(["check"]).mounting_script(&lab.script(&f)).run().stdout;
    assert!(checked.contains(&format!("gone:{PORT}: does not resolve here")), "{checked}");
    assert!(!lab.asked().iter().any(|name| name.ends_with("elsewhere.test")), "{:?}", lab.asked());
    // the twins: a name that exists, and the same names when they are granted
    assert_eq!(lab.run(&f, json!(["connect", "here.test", PORT, "x"])).result()["text"], "got:x");
    let answer = lab.run(&f, json!(["connect", "gone.test.elsewhere.test", PORT, "x"]));
    assert_eq!(answer.result()["text"], "got:x", "{:#}", answer.data());
}

/// An address may be this host's without being on an interface: by a local route, or in a prefix that `lo` has.
#[rstest]
fn addresses_that_are_local_by_their_route(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("203.0.113.77", "198.51.100.9", "2001:db8:7::9", "203.0.113.1")] address: &str,
) {
    let setup = "ip addr add 203.0.113.1/24 dev lo\nip route add local 198.51.100.0/24 dev lo\n\
                 ip -6 route add local 2001:db8:7::/64 dev lo";
    let Some(lab) = Lab::echo(setup, knows(&[("good.test", &[address])])) else { return };
    let Some(f) = granted(mode, "hosts = [\"good.test:PORT\"]\ntls = false", "") else { return };
    let answer = lab.run(&f, json!(["connect", "good.test", PORT, "x"]));
    assert_ne!(answer.result()["text"], "got:x", "{address} is this host");
    assert_eq!(ends(&answer), ["address_refused"]);
    assert_eq!(answer.denials("egress", "address")[0]["object"]["kind"], "loopback or this host");
    assert_eq!(lab.reached(), 0);
    let config = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    f.write("upm_config.toml", config.replace("tls = false", "tls = false\nallow_private = true"));
    let answer = lab.run(&f, json!(["connect", "good.test", PORT, "x"]));
    assert_eq!(answer.result()["text"], "got:x", "{:#}", answer.data());
}

/// The process id of a running call's gateway: the supervisor's child that is in the supervisor's own network.
fn gateway_of(supervisor: i32) -> i32 {
    let network = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
    for _ in 0..500 {
        let text = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children"));
        let children = text.unwrap_or_default();
        let mut pids = children.split_ascii_whitespace().filter_map(|pid| pid.parse().ok());
        let two = children.split_ascii_whitespace().count() == 2;
        if let Some(pid) = pids.find(|pid| two && network(*pid).is_some() && network(*pid) == network(supervisor)) {
            return pid;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("no gateway");
}

/// A gateway that ends takes the call with it; nothing goes on without it.
#[rstest]
fn a_gateway_that_ends_ends_the_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::echo("", knows(&[])) else { return };
    let Some(f) = granted(mode, "hosts = [\"good.test:PORT\"]", "") else { return };
    let running = lab.call(&f, json!(["sleep", 15])).start();
    let gateway = gateway_of(running.pid());
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(gateway), nix::sys::signal::Signal::SIGKILL).unwrap();
    let answer = running.wait();
    assert_eq!(answer.failed("sandbox_failed", 125)["details"]["layer"], "egress");
    assert!(answer.took < Duration::from_secs(10), "{:?}", answer.took);
    f.assert_clean();
}

/// What the gateway is while a call runs: the plugin's outside user, with nothing to write or to gain by.
#[rstest]
fn the_gateway_has_no_rights(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::echo("", knows(&[])) else { return };
    let Some(f) = granted(mode, "hosts = [\"good.test:PORT\"]", "") else { return };
    let running = lab.call(&f, json!(["sleep", 1])).start();
    let gateway = gateway_of(running.pid());
    thread::sleep(Duration::from_millis(300));
    let status = std::fs::read_to_string(format!("/proc/{gateway}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_once(':').unwrap().1.trim().to_owned()
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!((field("NoNewPrivs"), field("Seccomp")), ("1".into(), "2".into()));
    // a name server that closes before it is written to would end the gateway by SIGPIPE
    assert_eq!(u64::from_str_radix(&field("SigIgn"), 16).unwrap() & (1 << 12), 1 << 12, "SIGPIPE");
    // not even another process of the same user sees its memory, its variables or its descriptors
    let ids = [field("Uid"), field("Gid")].map(|all| all.split_ascii_whitespace().next().unwrap().to_owned());
    let peek = |pid: &str, file: &str| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &ids[0], "--regid", &ids[1], "--clear-groups", "--", "head", "-c", "1"]);
        command.arg(format!("/proc/{pid}/{file}")).output().unwrap().status.success()
    };
    for file in ["environ", "maps", "auxv", "mem", "fd/2"] {
        assert!(!peek(&gateway.to_string(), file), "{file}");
    }
    assert!(peek("self", "environ") && peek("self", "maps"), "the twin");
    let root = field("Uid").split_ascii_whitespace().any(|id| id == "0");
    assert!(!root, "{status}");
    let links = std::fs::read_dir(format!("/proc/{gateway}/fd")).unwrap().flatten();
    let open: Vec<String> =
        links.filter_map(|fd| Some(std::fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect();
    let sockets = open.iter().filter(|name| name.starts_with("socket:")).count();
    // the name stub's two, a listener, the supervisor's channel; an eventfd; stderr
    assert_eq!((sockets, open.len()), (4, 6), "{open:?}");
    running.wait().result();
}

/// Whatever a resolver sends, the gateway goes on: the next name is reached, by the same call.
#[rstest]
#[case::nothing("silent")]
#[case::garbage("garbage")]
#[case::shorter_than_its_counts("short")]
#[case::names_that_point_at_themselves("loop")]
#[case::aliases_without_end("aliases")]
#[case::another_question("other")]
#[case::an_alias_that_is_no_name("nul")]
#[case::four_thousand_addresses("huge")]
#[case::truncated_for_ever("truncated")]
#[case::a_server_failure("servfail")]
fn hostile_resolvers(#[case] kind: &'static str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let resolver = move |query: &Query<'_>| {
        if query.name != "bad.test" {
            return query.addresses(&["127.0.0.1".parse().unwrap()]);
        }
        hostile_reply(kind, query)
    };
    let Some(lab) = Lab::echo("", resolver) else { return };
    let group = "hosts = [\"*.test:PORT\"]\nallow_private = true\ntls = false";
    let Some(f) = granted(mode, group, "") else { return };
    let bad = json!(["connect", "bad.test", PORT, "bad"]);
    let good = json!(["connect", "good.test", PORT, "good"]);
    let answer = lab.call(&f, json!(["batch", bad, good])).patience(Duration::from_secs(60)).run();
    let answers = answer.result()["answers"].clone();
    assert_eq!(answers[1]["text"], "got:good", "{:#}", answer.data());
    assert_ne!(answers[0]["text"], "got:bad", "{:#}", answer.data());
    assert!(lab.asked().contains(&"bad.test".to_owned()), "{:?}", lab.asked());
    assert_eq!(lab.reached(), 1);
}

/// What a resolver answers for `bad.test`: only addresses that must not be dialled.
fn hostile_reply(kind: &str, query: &Query<'_>) -> Vec<u8> {
    let alias = |owner: &[u8], target: &[u8]| {
        [owner, &[0, 5, 0, 1, 0, 0, 0, 0], &(target.len() as u16).to_be_bytes(), target].concat()
    };
    match kind {
        "silent" => Vec::new(),
        "garbage" => vec![0xff; 500],
        "short" => query.head(0x8180, 200),
        // the owner of the answer is a pointer to itself
        "loop" => {
            let mut reply = query.head(0x8180, 1);
            let here = 0xc000 | reply.len() as u16;
            reply.extend([&here.to_be_bytes()[..], &[0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]].concat());
            reply
        }
        // an alias of itself, twenty times, and no address
        "aliases" => {
            let mut reply = query.head(0x8180, 20);
            (0..20).for_each(|_| reply.extend(alias(&[0xc0, 12], &[0xc0, 12])));
            reply
        }
        // the answer is that of another query
        "other" => {
            let mut reply = query.addresses(&["127.0.0.1".parse().unwrap()]);
            reply[13] = b'x';
            reply
        }
        "nul" => {
            let mut reply = query.head(0x8180, 1);
            reply.extend(alias(&[0xc0, 12], b"\x09good.test\x04\0\0\0\n\0"));
            reply
        }
        // over TCP, since no datagram holds it; all of them addresses that nothing allows
        "huge" if query.tcp && query.kind == 1 => {
            let all: Vec<IpAddr> = (0..4000u32).map(|n| IpAddr::V4((0xe000_0000 | n).into())).collect();
            query.addresses(&all)
        }
        "huge" if query.tcp => query.none(),
        "huge" | "truncated" => query.head(0x8380, 0),
        _ => query.head(0x8182, 0),
    }
}

/// A plugin in Python that does what `body` says, with `socket`, `time` and the address of `good.test` at hand.
fn python(f: &Fixture, grant: &str, body: &str) {
    let body = body.replace('\n', "\n        ");
    f.python(
        "hostile",
        &format!("import socket, threading, time\nclass Hostile:\n    def run(self):\n        {body}\n")
            .replace("PORT", &PORT.to_string()),
    );
    let config = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let table = format!(
        "\n[plugins.Hostile]\nmodule = \"hostile\"\nallowed_methods = [\"run\"]\negress = [\"test\"]\n{grant}\n"
    );
    f.write("upm_config.toml", config + &table);
}

impl Lab {
    /// The Python plugin's call in it.
    fn hostile(&self, f: &Fixture) -> Answer {
        f.write("resolv.conf", "nameserver 127.0.0.1\n");
        f.upm(["Hostile", "run"]).mounting_script(&self.script(f)).patience(Duration::from_secs(60)).run()
    }

    /// A program of the host's in it, as root.
    fn tool(&self, words: &[&str]) -> String {
        let net = format!("--net=/proc/{}/fd/{}", std::process::id(), self.namespace.as_raw_fd());
        let output = Command::new("nsenter").arg(net).arg("--").args(words).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A field of the namespace's TCP line in `/proc/net/sockstat`.
    fn sockets(&self, field: &str) -> usize {
        let text = self.tool(&["cat", "/proc/net/sockstat"]);
        let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap();
        let mut words = line.split(' ').skip_while(|word| *word != field).skip(1);
        words.next().unwrap().parse().unwrap()
    }
}

const OPEN: &str = "hosts = [\"good.test:PORT\"]\nallow_private = true\ntls = false";

fn good() -> impl Fn(&Query<'_>) -> Vec<u8> + Send + Sync + use<> {
    knows(&[("good.test", &["127.0.0.1"])])
}

/// Each connection costs the host more than the plugin, and stays in the host's tables: a thousand at once, then a hundred
/// a second.
#[rstest]
fn connections_are_paced(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::new("", good(), |_| Vec::new()) else { return };
    let Some(f) = granted(mode, OPEN, "") else { return };
    python(
        &f,
        "processes = 32",
        "host = (socket.gethostbyname('good.test'), PORT)
until = time.time() + 5
made = []
def one():
    while time.time() < until:
        try:
            with socket.create_connection(host, 5) as s:
                s.recv(1)
            made.append(1)
        except OSError:
            pass
threads = [threading.Thread(target=one) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
return len(made)",
    );
    let answer = lab.hostile(&f);
    let seconds = usize::try_from(answer.took.as_secs()).unwrap() + 1;
    let made = answer.result().as_u64().unwrap();
    assert!(lab.reached() <= 1000 + seconds * 100 + 8, "{} in {seconds} s", lab.reached());
    // the twin: what is within the burst, and within the pace, is served
    assert!(made > 1000, "{made}");
    assert!(!ends(&answer).iter().any(|end| end != "closed"), "{:?}", ends(&answer));
}

/// What a server never takes would stay in the kernel for minutes, for each connection of each call.
#[rstest]
fn a_server_that_takes_nothing_leaves_nothing(#[values(Mode::Root, Mode::User)] mode: Mode) {
    // It keeps its end open and does not read; its window is small, so that the rest stays with the sender.
    let Some(lab) = Lab::new("sysctl -q net.ipv4.tcp_rmem='4096 4096 4096'", good(), |stream| {
        thread::sleep(Duration::from_secs(60));
        drop(stream);
        Vec::new()
    }) else {
        return;
    };
    let Some(f) = granted(mode, OPEN, "") else { return };
    python(
        &f,
        "",
        "host = (socket.gethostbyname('good.test'), PORT)
all = [socket.create_connection(host, 5) for _ in range(8)]
for s in all:
    s.sendall(b'x' * 60000)
    s.shutdown(socket.SHUT_WR)
time.sleep(1)",
    );
    let answer = lab.hostile(&f);
    answer.result();
    assert_eq!(ends(&answer), ["open"; 8]);
    // the twin: for a moment the kernel goes on sending, as it would for any program
    assert!(lab.sockets("orphan") > 0);
    thread::sleep(Duration::from_secs(15));
    assert_eq!(lab.sockets("orphan"), 0);
}

/// The kernel's buffers of many connections are small, so that a call's connections together hold little of it.
#[rstest]
fn many_connections_hold_little(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::new("", good(), |stream| {
        let mut stream = stream;
        while stream.write_all(&[b'y'; 65536]).is_ok() {}
        Vec::new()
    }) else {
        return;
    };
    let Some(f) = granted(mode, OPEN, "") else { return };
    python(
        &f,
        "",
        "host = (socket.gethostbyname('good.test'), PORT)
all = [socket.create_connection(host, 5) for _ in range(64)]
time.sleep(3)",
    );
    f.write("resolv.conf", "nameserver 127.0.0.1\n");
    let running = f.upm(["Hostile", "run"]).mounting_script(&lab.script(&f)).start();
    thread::sleep(Duration::from_millis(2500));
    let table = lab.tool(&["ss", "-tnmH", "state", "established", "dport", "=", &format!(":{PORT}")]);
    let sizes = |key: &str| -> Vec<u64> {
        let fields = table.split(['(', ')', ',']).filter_map(|field| field.strip_prefix(key));
        fields.filter_map(|digits| digits.parse().ok()).collect()
    };
    let received = sizes("rb");
    let sent = sizes("tb");
    assert_eq!(received.len(), 64, "{table}");
    let small = |all: &[u64]| all.iter().filter(|size| **size <= 512 << 10).count();
    assert!(small(&received) >= 48 && small(&sent) >= 48, "{received:?} {sent:?}");
    running.wait().result();
}

/// Once its bytes are used up a call does not even connect.
#[rstest]
fn nothing_is_dialled_after_the_limit(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::echo("", good()) else { return };
    let Some(f) = granted(mode, OPEN, "egress_bytes = \"1KiB\"") else { return };
    let within = json!(["connect", "good.test", PORT, "x"]);
    let beyond = json!(["connect", "good.test", PORT, "y".repeat(2000)]);
    let answer = lab.run(&f, json!(["batch", within, beyond, within, within]));
    assert_eq!(ends(&answer), ["closed", "limit", "limit", "limit"], "{:#}", answer.data());
    assert_eq!(answer.result()["answers"][0]["text"], "got:x");
    assert!(lab.reached() <= 2, "{}", lab.reached());
    assert_eq!(answer.denials("limits", "egress_bytes")[0]["count"], 3);
}

/// What servers do that want to keep or to confuse the gateway: the call ends as it would have, and at once.
#[rstest]
#[case::says_nothing("silent", "open")]
#[case::closes_at_once("close", "closed")]
#[case::urgent_bytes("urgent", "closed")]
#[case::only_its_half("half", "open")]
#[case::a_byte_now_and_then("drip", "open")]
#[case::a_reset("reset", "error: host: Connection reset by peer (os error 104)")]
fn hostile_servers(#[case] kind: &'static str, #[case] end: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::new("", good(), move |stream| hostile_server(kind, stream)) else { return };
    let Some(f) = granted(mode, OPEN, "") else { return };
    python(
        &f,
        "timeout = \"10s\"",
        "s = socket.create_connection((socket.gethostbyname('good.test'), PORT), 5)
s.settimeout(1)
got = b''
try:
    while True:
        more = s.recv(100)
        if not more:
            return [got.decode(), 'end']
        got += more
        if len(got) > 9:
            return [got.decode(), 'enough']
except OSError as e:
    return [got.decode(), type(e).__name__]",
    );
    let answer = lab.hostile(&f);
    let told = match kind {
        "silent" => json!(["", "TimeoutError"]),
        "close" => json!(["", "end"]),
        // the urgent byte is out of band, as it is for a program that reads without MSG_OOB
        "urgent" => json!(["abde", "end"]),
        "half" => json!(["half", "end"]),
        "drip" => json!(["..........", "enough"]),
        _ => json!(["", "ConnectionResetError"]),
    };
    assert_eq!(answer.result(), told, "{:#}", answer.data());
    // a server that has half closed sees the plugin's end when it is over, and may answer it
    let found = ends(&answer);
    assert!(found == [end] || (kind != "reset" && found == ["closed"]), "{found:?}");
    assert!(answer.took < Duration::from_secs(6), "{:?}", answer.took);
    f.assert_clean();
}

fn hostile_server(kind: &str, mut stream: TcpStream) -> Vec<u8> {
    use nix::sys::socket::{MsgFlags, send, setsockopt, sockopt};
    match kind {
        "urgent" => {
            stream.write_all(b"ab").unwrap();
            send(stream.as_raw_fd(), b"c", MsgFlags::MSG_OOB).unwrap();
            stream.write_all(b"de").unwrap();
        }
        "half" => {
            stream.write_all(b"half").unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            thread::sleep(Duration::from_secs(8));
        }
        "drip" => {
            while stream.write_all(b".").is_ok() {
                thread::sleep(Duration::from_millis(50));
            }
        }
        "silent" => thread::sleep(Duration::from_secs(8)),
        "reset" => {
            // not while it is being connected to
            thread::sleep(Duration::from_millis(300));
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(&stream, sockopt::Linger, &linger).unwrap();
        }
        _ => {}
    }
    Vec::new()
}

/// What begins in other ways than with one ClientHello for the granted name never leaves.
#[rstest]
fn hostile_hellos(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(lab) = Lab::echo("", good()) else { return };
    let Some(f) = granted(mode, "hosts = [\"good.test:PORT\"]\nallow_private = true", "") else { return };
    let good = hello(&sni(&["good.test"]), 3);
    let cases: [(&str, Vec<u8>); 12] = [
        ("SSLv2", b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10".to_vec()),
        ("an alert before it", [&[21, 3, 1, 0, 2, 1, 0][..], &good].concat()),
        ("a change of cipher before it", [&[20, 3, 1, 0, 1, 1][..], &good].concat()),
        ("data before it", [&[23, 3, 1, 0, 1, 65][..], &good].concat()),
        ("an empty record before it", [&[22, 3, 1, 0, 0][..], &good].concat()),
        ("a record too long", [&[22, 3, 1, 0xff, 0xff][..], &good].concat()),
        ("two names", hello(&sni(&["good.test", "other.test"]), 9000)),
        ("two extensions", hello(&[sni(&["good.test"]), sni(&["other.test"])].concat(), 9000)),
        ("a NUL", hello(&sni(&["good.test\0.other.test"]), 9000)),
        ("an address", hello(&sni(&["127.0.0.1"]), 9000)),
        ("none", hello(&[0, 43, 0, 3, 2, 3, 4], 9000)),
        ("a second hello behind it", {
            let (mine, other) = (message(&sni(&["good.test"])), message(&sni(&["other.test"])));
            records(&[mine, other].concat(), 9000)
        }),
    ];
    let send = |bytes: &[u8]| json!(["connect", "good.test", PORT, { "hex": bytes.iter().map(|b| format!("{b:02x}")).collect::<String>() }]);
    let mut acts: Vec<Value> = cases.iter().map(|(_, bytes)| send(bytes)).collect();
    // the twins: the same name in fragments of three bytes, in other letters, with a dot
    acts.extend([send(&good), send(&hello(&sni(&["GOOD.Test"]), 9000)), send(&hello(&sni(&["good.test."]), 9000))]);
    let batch: Vec<Value> = std::iter::once(json!("batch")).chain(acts).collect();
    let answer = lab.run(&f, json!(batch));
    let ends = ends(&answer);
    for ((name, _), end) in cases.iter().zip(&ends) {
        assert!(end == "tls_missing" || end == "tls_name", "{name}: {end}");
    }
    assert_eq!(ends[cases.len()..], ["closed"; 3], "{:#}", answer.data());
    assert_eq!(lab.reached(), 3);
}

fn sni(names: &[&str]) -> Vec<u8> {
    let list: Vec<u8> =
        names.iter().flat_map(|n| [&[0][..], &(n.len() as u16).to_be_bytes(), n.as_bytes()].concat()).collect();
    let length = list.len() as u16;
    [&[0, 0][..], &(length + 2).to_be_bytes(), &length.to_be_bytes(), &list].concat()
}

fn message(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    [&[1, 0][..], &(body.len() as u16).to_be_bytes(), &body].concat()
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|c| [&[22, 3, 1][..], &(c.len() as u16).to_be_bytes(), c].concat()).collect()
}

fn hello(extensions: &[u8], size: usize) -> Vec<u8> {
    records(&message(extensions), size)
}

/// Neither the plugin nor any report of a call gets the credentials of the site's proxy, whatever the proxy sends back.
#[rstest]
fn a_proxys_credentials_stay_with_it(#[values(Mode::Root, Mode::User)] mode: Mode) {
    const SECRET: &str = "dXNlcjpzM2NyM3Q=";
    let Some(lab) = Lab::new("", knows(&[]), |mut stream| {
        let mut bytes = vec![0; 4096];
        let n = stream.read(&mut bytes).unwrap_or(0);
        bytes.truncate(n);
        let asked = String::from_utf8_lossy(&bytes).into_owned();
        let reply = format!("HTTP/1.1 407 {SECRET} is wrong\r\nProxy-Authorization: Basic {SECRET}\r\n\r\n{asked}");
        let _ = stream.write_all(reply.as_bytes());
        bytes
    }) else {
        return;
    };
    let group = "hosts = [\"good.test:443\"]\ntls = false\nproxy = \"http://user:s3cr3t@127.0.0.1:PORT\"";
    let Some(f) = granted(mode, group, "") else { return };
    python(
        &f,
        "",
        "import os
seen = ' '.join(os.environ) + ' '.join(os.environ.values())
try:
    s = socket.create_connection((socket.gethostbyname('good.test'), 443), 5)
    seen += s.recv(4096).decode()
except OSError as e:
    seen += type(e).__name__
return seen",
    );
    let answer = lab.hostile(&f);
    assert_eq!(ends(&answer), ["proxy: 407 *** is wrong"], "{:#}", answer.data());
    // the twin: the proxy had them
    assert!(String::from_utf8_lossy(&lab.reached.lock().unwrap()[0]).contains(SECRET));
    let explained = f.upm(["explain", "Hostile", "run", "--json"]).run().stdout;
    let audit = std::fs::read_to_string(f.path("audit/audit.jsonl")).unwrap();
    assert!(audit.contains("Hostile") && explained.contains("***@127.0.0.1"), "{explained}");
    for told in [&answer.stdout, &answer.stderr, &audit, &explained] {
        assert!(!told.contains("s3cr3t") && !told.contains("dXNlcjpz"), "{told}");
    }
}

/// An address of which the kernel has nothing to say is not dialled, and does not keep others from it.
#[rstest]
fn a_blackhole_is_passed_over(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let names = [("both.test", &["203.0.113.9", "127.0.0.1"][..]), ("hole.test", &["203.0.113.9"])];
    let Some(lab) = Lab::echo("ip route add blackhole 203.0.113.0/24", knows(&names)) else { return };
    let Some(f) = granted(mode, "hosts = [\"*.test:PORT\"]\nallow_private = true\ntls = false", "") else { return };
    let connect = |name: &str| json!(["connect", name, PORT, "x"]);
    let answer = lab.run(&f, json!(["batch", connect("hole.test"), connect("both.test")]));
    let ends = ends(&answer);
    assert!(ends[0].starts_with("error: gateway: routes: "), "{ends:?}");
    assert_eq!(ends[1], "closed");
    assert_eq!(answer.result()["answers"][1]["text"], "got:x", "{:#}", answer.data());
}
