//! The gateway: a process of its own that carries a call's permitted network traffic and nothing else.
//!
//! The plugin's network namespace is empty. Its name stub's and listeners' sockets were bound *inside* that namespace
//! and handed out, so what is dialled inside arrives here, in the host's namespace. A granted name gets a local address
//! when it is asked for ([`stub`], [`addresses`]); the address that was dialled tells the name; the name is resolved as
//! the host does, the answers are checked, the address that was checked is dialled, and on TLS ports nothing goes out
//! before a ClientHello has named that host ([`hello`]). Then bytes are carried both ways ([`relay`]).
//!
//! # Connections
//! At most [`MAX_CONNECTIONS`] at once, a thread each. Further ones wait in the kernel's queue of their listener until
//! one ends; they are not refused, so that a package manager with many parallel downloads is slowed and not broken.
//! So are those that come faster than [`pace`] allows.
//! A refused connection is reset, or, where the client speaks TLS, gets the alert `unrecognized_name`.
//!
//! # Ends of a connection
//! `EgressRecord::end` is one of
//! `closed` (both sides were done), `open` (still open at the call's end), `refused` (not granted: no such name behind
//! the address, or not on this port), `resolve_failed: …`, `address_refused`, `connect_failed: …`, `tls_name`,
//! `tls_missing`, `limit` (`egress_bytes`), `proxy: …` (the proxy's status or what is wrong with it), `error: …`.
//!
//! # Life
//! The supervisor ends the call by `shutdown(events, SHUT_WR)`: the gateway then tells the connections that are still
//! open, and exits, which the supervisor reads as the end of file. When the supervisor is gone, the gateway exits.
#![forbid(unsafe_code)]

pub mod addresses;
pub mod events;
pub mod hello;
pub mod pace;
pub mod proxy;
pub mod relay;
pub mod retry;
pub mod routes;
pub mod stub;

use crate::decide::names;
use crate::sys;
use crate::types::{EgressRecord, EgressRule};
use addresses::{AddressBook, Class};
use events::{Outbox, Refusal};
use hello::{HelloError, Missing};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use pace::Pace;
use relay::{Budget, Counters, Room};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream, ToSocketAddrs, UdpSocket,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use events::Event;
pub use proxy::{ProxyEnv, connect_ports, parse_proxy};

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 64;
/// Descriptors that the gateway needs at most: `RLIMIT_NOFILE` must not be below. A connection holds two sockets;
/// resolving opens a few more for a moment. A listener for each granted port comes on top.
pub const DESCRIPTORS: u64 = MAX_CONNECTIONS as u64 * 8 + 64;
/// Connections at once from which on each gets little of the kernel's memory.
const ROOMY: usize = 16;
/// What the host still gets to take of connections that are open at the call's end, before the kernel forgets them.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// Time for one address to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Addresses of one answer that are looked at: a resolver may send thousands.
const MAX_ANSWERS: usize = 64;
/// Clients of the name stub over TCP at once, and how long each may stay.
const MAX_DNS_CLIENTS: usize = 8;
const DNS_CLIENT_TIME: Duration = Duration::from_secs(10);
/// Queries over UDP answered before the other descriptors have their turn.
const DNS_TURN: usize = 64;
/// How often counts of refusals that were already told are told again.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often the pace of connections is looked at while it holds some back.
const PACE_TURN: Duration = Duration::from_millis(10);
/// What threads of a call that is over get to tell how their connections ended.
const ENDING: Duration = Duration::from_millis(200);
/// How long the gateway waits at the call's end for the supervisor to read.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// Bytes of a thread's stack; `getaddrinfo(3)` and the NSS modules want some.
const STACK: usize = 512 * 1024;
/// TLS alert, fatal, `unrecognized_name` (RFC 6066 §3), in a record of TLS 1.2.
const ALERT_UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// The sockets that the confined child bound inside its network namespace and sent out.
#[derive(Debug)]
pub struct Sockets {
    /// UDP, bound to 127.0.0.53:53.
    pub dns_udp: OwnedFd,
    /// TCP, listening on 127.0.0.53:53.
    pub dns_tcp: OwnedFd,
    /// TCP, listening on 0.0.0.0:PORT, with that port; one for each granted port.
    pub listeners: Vec<(u16, OwnedFd)>,
}

/// Resolves a name, for a port.
pub type Resolve = dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Send + Sync;
/// Lists this host's addresses.
pub type OwnAddresses = dyn Fn() -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Whether an address is this host's by its routes.
pub type IsHere = dyn Fn(IpAddr) -> io::Result<bool> + Send + Sync;

/// What the gateway takes from its host, so that tests can put something else in its place.
pub struct Host {
    /// All addresses of a name, in the order to try.
    pub resolve: Box<Resolve>,
    /// This host's own addresses.
    pub own_addresses: Box<OwnAddresses>,
    /// Which others its routes make its own.
    pub is_here: Box<IsHere>,
    /// The proxies that the environment names.
    pub proxies: ProxyEnv,
}

impl Host {
    /// This host: `getaddrinfo(3)`, `getifaddrs(3)`, this process's environment.
    pub fn real() -> Host {
        Host {
            resolve: Box::new(|name, port| Ok((name, port).to_socket_addrs()?.collect())),
            own_addresses: Box::new(addresses::own_addresses),
            is_here: Box::new(routes::is_here),
            proxies: ProxyEnv::from_vars(|name| std::env::var(name).ok()),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("proxies", &self.proxies).finish_non_exhaustive()
    }
}

/// Files and directories that resolving a name reads, for the landlock ruleset of the gateway process. Those that a host
/// lacks are to be skipped. Directories stand where a file is replaced by renaming or lies behind a link.
///
/// Besides reading these the gateway opens nothing. The libraries are those of glibc's NSS modules, which are loaded
/// when the first name is resolved.
pub fn readable_paths() -> Vec<&'static str> {
    vec![
        "/etc/resolv.conf",
        "/etc/hosts",
        "/etc/nsswitch.conf",
        "/usr/etc/nsswitch.conf",
        "/etc/authselect",
        "/etc/gai.conf",
        "/etc/host.conf",
        "/etc/services",
        "/etc/mdns.allow",
        // What /etc/resolv.conf may be a link to.
        "/etc/resolvconf",
        "/run/systemd/resolve",
        "/run/resolvconf",
        "/run/NetworkManager",
        "/run/connman",
        "/mnt/wsl",
        // nscd's and Avahi's sockets and maps.
        "/run/nscd",
        "/var/cache/nscd",
        "/run/avahi-daemon",
        // NSS modules.
        "/etc/ld.so.cache",
        "/lib",
        "/lib64",
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
    ]
}

/// Runs the gateway in this process, a fork of the supervisor that has confined itself, and ends the process: 0 after
/// the call's end, 1 when it could not go on.
pub fn run(sockets: Sockets, rules: Vec<EgressRule>, limit_bytes: u64, events: OwnedFd) -> ! {
    // A panic must not unwind into the supervisor's code, of which this process still has a copy.
    let served = catch_unwind(AssertUnwindSafe(|| serve(sockets, rules, limit_bytes, events, Host::real())));
    sys::process::exit_now(if matches!(served, Ok(Ok(()))) { 0 } else { 1 })
}

/// What all threads share.
struct Shared {
    rules: Vec<EgressRule>,
    host: Host,
    budget: Budget,
    outbox: Outbox,
    book: Mutex<AddressBook>,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    threads: AtomicUsize,
    /// Wakes the loop: a thread ended, or something waits to be told.
    wake: OwnedFd,
}

/// A connection that was accepted and not yet told.
struct Live {
    host: String,
    port: u16,
    accepted: Instant,
    counters: Counters,
    /// The connection to the host, once there is one.
    host_side: Mutex<Option<TcpStream>>,
}

impl Live {
    fn record(&self, end: String) -> EgressRecord {
        EgressRecord {
            host: self.host.clone(),
            port: self.port,
            bytes_sent: self.counters.sent.load(Ordering::Relaxed),
            bytes_received: self.counters.received.load(Ordering::Relaxed),
            duration_us: u64::try_from(self.accepted.elapsed().as_micros()).unwrap_or(u64::MAX),
            end,
        }
    }
}

/// What these locks guard is whole after every single operation, so a panic elsewhere does not spoil it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The stub's decision on one name.
    fn decide(&self, asked: &str) -> Option<Ipv4Addr> {
        let Some(name) = names::normalize(asked).filter(|n| names::granted(&self.rules, n)) else {
            self.outbox.refuse(Refusal::resolve(asked));
            return None;
        };
        let (address, is_new) = {
            let mut book = lock(&self.book);
            let known = book.len();
            (book.address_of(&name), book.len() > known)
        };
        match address {
            None => self.outbox.refuse(Refusal::too_many_names(&name)),
            Some(address) if is_new => self.outbox.named(&name, address),
            Some(_) => {}
        }
        address
    }

    fn wake(&self) {
        // It fails only when the counter is full, and then the loop is awake.
        let _already_awake = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Tells the end of connection `id`, unless the loop has told it as `open`.
    fn ended(&self, id: u64, end: String) {
        let live = lock(&self.live).remove(&id);
        if let Some(live) = live {
            self.outbox.record(live.record(end));
        }
    }
}

/// A client of the name stub over TCP.
struct DnsClient {
    stream: TcpStream,
    since: Instant,
    /// Length prefix and query, as far as they came.
    pending: Vec<u8>,
}

impl DnsClient {
    /// Reads, and answers what is complete. False when the client is done with.
    fn serve(&mut self, shared: &Shared) -> bool {
        let mut buffer = [0; 2048];
        match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(n) => self.pending.extend_from_slice(&buffer[..n]),
            Err(e) => return matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
        }
        while let Some(&[high, low]) = self.pending.first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes([high, low]));
            if length > stub::MAX_TCP_QUERY {
                return false;
            }
            let Some(query) = self.pending.get(2..2 + length) else { break };
            let Some(reply) = stub::answer(query, |name| shared.decide(name)) else { return false };
            let Ok(reply_length) = u16::try_from(reply.len()) else { return false };
            // A client that does not read its replies is not waited for.
            let framed = [&reply_length.to_be_bytes()[..], &reply].concat();
            if !matches!(self.stream.write(&framed), Ok(n) if n == framed.len()) {
                return false;
            }
            self.pending.drain(..2 + length);
        }
        true
    }
}

/// The gateway's loop. Returns at the call's end, while threads of open connections may still run: the caller ends the
/// process.
///
/// # Errors
/// The sockets cannot be used, or `poll(2)` fails.
pub fn serve(
    sockets: Sockets,
    rules: Vec<EgressRule>,
    limit_bytes: u64,
    events: OwnedFd,
    host: Host,
) -> io::Result<()> {
    let dns_udp = UdpSocket::from(sockets.dns_udp);
    let dns_tcp = TcpListener::from(sockets.dns_tcp);
    let listeners: Vec<(u16, TcpListener)> =
        sockets.listeners.into_iter().map(|(port, fd)| (port, TcpListener::from(fd))).collect();
    dns_udp.set_nonblocking(true)?;
    dns_tcp.set_nonblocking(true)?;
    for (_, listener) in &listeners {
        listener.set_nonblocking(true)?;
    }
    let shared = Arc::new(Shared {
        rules,
        host,
        budget: Budget::new(limit_bytes),
        outbox: Outbox::new(events),
        book: Mutex::default(),
        live: Mutex::default(),
        threads: AtomicUsize::new(0),
        wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
    });
    let mut dns_clients: Vec<DnsClient> = Vec::new();
    let mut next_id = 0;
    let mut told = Instant::now();
    let mut pace = Pace::new(Instant::now());
    // After a failed accept for want of descriptors or memory: asking again at once would only spin.
    let mut accept_after: Option<Instant> = None;

    loop {
        let now = Instant::now();
        dns_clients.retain(|c| now.duration_since(c.since) < DNS_CLIENT_TIME);
        let waiting = shared.outbox.is_waiting();
        let paused = accept_after.is_some_and(|t| now < t);
        let in_time = pace.has_room(now);
        let accepting =
            !paused && in_time && shared.threads.load(Ordering::Acquire) < MAX_CONNECTIONS && !shared.outbox.is_full();

        let mut fds = vec![
            PollFd::new(shared.outbox.channel(), PollFlags::POLLIN),
            PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(dns_udp.as_fd(), PollFlags::POLLIN),
        ];
        let first_client = fds.len();
        fds.extend(dns_clients.iter().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)));
        let first_listener = fds.len();
        if accepting {
            fds.extend(listeners.iter().map(|(_, l)| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        }
        let stub_listener = (!paused && dns_clients.len() < MAX_DNS_CLIENTS).then(|| {
            fds.push(PollFd::new(dns_tcp.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        // Every reason to wake without an event lies within this.
        let timeout = if !in_time {
            PACE_TURN
        } else if waiting || paused || !dns_clients.is_empty() {
            TELL_EVERY
        } else {
            Duration::MAX
        };
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE)) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e.into()),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        let at = |i: usize| ready.get(i).copied().unwrap_or(false);

        if at(0) && call_ended(&shared.outbox) {
            last_words(&shared);
            return Ok(());
        }
        if at(1) {
            let mut count = [0; 8];
            // Empty when another wake-up took it; the counter's value says nothing.
            let _any = rustix::io::read(&shared.wake, &mut count);
        }
        if at(2) {
            answer_udp(&dns_udp, &shared);
        }
        let mut i = first_client;
        dns_clients.retain_mut(|client| {
            let keep = !at(i) || client.serve(&shared);
            i += 1;
            keep
        });
        let mut exhausted = false;
        if accepting {
            for (place, (port, listener)) in listeners.iter().enumerate() {
                let room = || shared.threads.load(Ordering::Acquire) < MAX_CONNECTIONS;
                if at(first_listener + place) && room() && pace.has_room(now) {
                    pace.take();
                    exhausted |= accept(listener, *port, &shared, &mut next_id);
                }
            }
        }
        if stub_listener.is_some_and(at) {
            match dns_tcp.accept() {
                Ok((stream, _)) => {
                    // Without it a slow client could hold the loop.
                    if stream.set_nonblocking(true).is_ok() {
                        dns_clients.push(DnsClient { stream, since: Instant::now(), pending: Vec::new() });
                    }
                }
                Err(e) => exhausted |= is_exhaustion(&e),
            }
        }
        if exhausted {
            accept_after = Some(Instant::now() + TELL_EVERY);
        }
        if waiting && told.elapsed() >= TELL_EVERY {
            shared.outbox.flush();
            told = Instant::now();
        }
    }
}

/// Whether the supervisor closed its side or its writing half. It never sends anything, so whatever it sends is dropped.
fn call_ended(outbox: &Outbox) -> bool {
    match recv(outbox.channel().as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT) {
        Ok(0) => true,
        Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => false,
        Err(_) => true,
    }
}

/// Tells what is still open, as far as the supervisor reads it in time.
fn last_words(shared: &Shared) {
    // Everything of the call is dead by now, so its ends of the connections are closed: their threads are about to say so.
    let until = Instant::now() + ENDING;
    while !lock(&shared.live).is_empty() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
    let open: Vec<Arc<Live>> = lock(&shared.live).drain().map(|(_, live)| live).collect();
    for live in open {
        if let Some(host) = lock(&live.host_side).as_ref() {
            // The kernel goes on sending what is in its buffer. A host that takes nothing would keep it for minutes.
            let _kept_longer = setsockopt(host, sockopt::TcpUserTimeout, &(AFTERWARDS.as_millis() as u32));
        }
        shared.outbox.record(live.record("open".into()));
    }
    let deadline = Instant::now() + LAST_WORDS;
    while !shared.outbox.flush() {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut fds = [PollFd::new(shared.outbox.channel(), PollFlags::POLLOUT)];
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        if left.is_zero() || !matches!(poll(&mut fds, timeout), Ok(1..) | Err(Errno::EINTR)) {
            return;
        }
    }
}

fn answer_udp(socket: &UdpSocket, shared: &Shared) {
    // One byte more than is answered, so that a longer query shows.
    let mut buffer = [0; stub::MAX_UDP_QUERY + 1];
    for _ in 0..DNS_TURN {
        let (length, from) = match socket.recv_from(&mut buffer) {
            Ok(got) => got,
            // An ICMP error of an earlier reply to a socket that is gone.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(_) => return,
        };
        if length > stub::MAX_UDP_QUERY {
            continue;
        }
        if let Some(reply) = stub::answer(&buffer[..length], |name| shared.decide(name)) {
            // A reply that cannot be sent is lost, as any datagram may be; the resolver asks again.
            let _lost = socket.send_to(&reply, from);
        }
    }
}

/// Whether asking again at once would fail again.
fn is_exhaustion(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

/// Accepts one connection and starts its thread. True when the host had no room for it.
fn accept(listener: &TcpListener, port: u16, shared: &Arc<Shared>, next_id: &mut u64) -> bool {
    let stream = match listener.accept() {
        Ok((stream, _)) => stream,
        Err(e) => return is_exhaustion(&e),
    };
    let dialled = match stream.local_addr() {
        Ok(SocketAddr::V4(v4)) => v4,
        // The listeners are IPv4; a socket without an address is already gone.
        Ok(SocketAddr::V6(_)) | Err(_) => return false,
    };
    let name = lock(&shared.book).name_of(*dialled.ip()).map(str::to_owned);
    let live = Arc::new(Live {
        host: name.clone().unwrap_or_else(|| dialled.ip().to_string()),
        port,
        accepted: Instant::now(),
        counters: Counters::default(),
        host_side: Mutex::default(),
    });
    let id = *next_id;
    *next_id += 1;
    lock(&shared.live).insert(id, Arc::clone(&live));

    let Some(name) = name else {
        shared.outbox.refuse(Refusal::connect_address(SocketAddrV4::new(*dialled.ip(), port)));
        reset(stream);
        shared.ended(id, "refused".into());
        return false;
    };
    shared.threads.fetch_add(1, Ordering::AcqRel);
    let theirs = Arc::clone(shared);
    let thread = std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let end = catch_unwind(AssertUnwindSafe(|| connection(&theirs, stream, &name, port, &live)));
        theirs.ended(id, end.unwrap_or_else(|_| "error: gateway: internal".into()));
        theirs.threads.fetch_sub(1, Ordering::AcqRel);
        theirs.wake();
    });
    if let Err(e) = thread {
        // The closure, and with it the connection, is gone.
        shared.threads.fetch_sub(1, Ordering::AcqRel);
        shared.ended(id, format!("error: gateway: {e}"));
        return true;
    }
    false
}

/// Closes with a reset, so that no one takes a refused or cut connection for one that ended in order.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    // Should it fail, the connection is closed in order, which carries no more bytes either.
    let _closed_in_order = setsockopt(&stream, sockopt::Linger, &linger);
}

/// One connection from accept to its end, which is returned.
fn connection(shared: &Shared, mut plugin: TcpStream, name: &str, port: u16, live: &Live) -> String {
    match prepare(shared, &mut plugin, name, port, live) {
        Err(Refused { end, alert }) => {
            if alert {
                // For the client's error message only; the refusal stands whether it arrives or not.
                let _for_the_message = plugin.write_all(&ALERT_UNRECOGNIZED_NAME);
                let _closing = plugin.shutdown(Shutdown::Write);
            } else {
                reset(plugin);
            }
            end
        }
        Ok(Prepared { host, to_host, to_plugin }) => {
            let room = if shared.threads.load(Ordering::Acquire) > ROOMY { Room::Little } else { Room::Plenty };
            if let Err(e) = relay::bound(&plugin, &host, room) {
                return format!("error: gateway: {e}");
            }
            // Without it only the end of the call is later told to the kernel.
            *lock(&live.host_side) = host.try_clone().ok();
            let end = relay::carry(&plugin, &host, to_host, to_plugin, &shared.budget, &live.counters);
            let end = match end {
                relay::End::Closed => match relay::deliver(&host) {
                    Ok(()) => return "closed".into(),
                    Err(e) => format!("error: host: {e}"),
                },
                relay::End::Limit => {
                    shared.outbox.refuse(Refusal::limit(name, port, shared.budget.limit()));
                    "limit".into()
                }
                relay::End::Error(e) => format!("error: {e}"),
            };
            reset(plugin);
            reset(host);
            end
        }
    }
}

/// A connection that may be carried.
struct Prepared {
    host: TcpStream,
    to_host: Vec<u8>,
    to_plugin: Vec<u8>,
}

/// A connection that may not.
struct Refused {
    end: String,
    /// The client speaks TLS and can be told so.
    alert: bool,
}

impl From<String> for Refused {
    fn from(end: String) -> Refused {
        Refused { end, alert: false }
    }
}

/// All that must hold before a byte of the plugin's leaves.
fn prepare(shared: &Shared, plugin: &mut TcpStream, name: &str, port: u16, live: &Live) -> Result<Prepared, Refused> {
    let Some(rule) = names::rule_for(&shared.rules, name, port) else {
        shared.outbox.refuse(Refusal::connect(name, port));
        return Err("refused".to_owned().into());
    };
    // Not even a connection is made any more.
    if shared.budget.is_used_up() {
        shared.outbox.refuse(Refusal::limit(name, port, shared.budget.limit()));
        return Err("limit".to_owned().into());
    }
    plugin.set_nonblocking(false).map_err(|e| format!("error: plugin: {e}"))?;
    let hello =
        if rule.tls && port != 80 { Some(checked_hello(shared, plugin, name, port, live.accepted)?) } else { None };
    let proxy = proxy::route(rule, &shared.host.proxies, name, port).map_err(|e| format!("proxy: {e}"))?;
    let Some(proxy) = proxy else {
        let host = dial(shared, rule, name, port)?;
        return settled(shared, plugin, host, (name, port), hello, Vec::new(), live);
    };
    // The proxy is the administrator's word, wherever its address lies; what it connects to, it checks.
    let addresses = match proxy::literal(&proxy.host) {
        Some(ip) => vec![SocketAddr::new(ip, proxy.port)],
        None => (shared.host.resolve)(&proxy.host, proxy.port).map_err(|e| format!("proxy: {proxy:?}: {e}"))?,
    };
    let mut host = dial_addresses(&addresses).map_err(|e| format!("proxy: {proxy:?}: {e}"))?;
    let to_plugin = proxy::establish(&mut host, &proxy, name, port).map_err(|e| format!("proxy: {e}"))?;
    settled(shared, plugin, host, (name, port), hello, to_plugin, live)
}

/// Lets the ClientHello go out, and looks at the second one where the host asks for that. `to_plugin` came from the host already.
fn settled(
    shared: &Shared,
    plugin: &mut TcpStream,
    mut host: TcpStream,
    (name, port): (&str, u16),
    hello: Option<hello::Hello>,
    to_plugin: Vec<u8>,
    live: &Live,
) -> Result<Prepared, Refused> {
    let Some((first, rest)) = hello else { return Ok(Prepared { host, to_host: Vec::new(), to_plugin }) };
    let limit = || {
        shared.outbox.refuse(Refusal::limit(name, port, shared.budget.limit()));
        Refused { end: "limit".into(), alert: false }
    };
    if !shared.budget.count(first.len()) {
        return Err(limit());
    }
    live.counters.sent.fetch_add(first.len() as u64, Ordering::Relaxed);
    match retry::settle(plugin, &mut host, name, (&first, rest), to_plugin) {
        Ok(settled) => {
            if !shared.budget.count(settled.told) {
                return Err(limit());
            }
            live.counters.received.fetch_add(settled.told as u64, Ordering::Relaxed);
            Ok(Prepared { host, to_host: settled.to_host, to_plugin: settled.to_plugin })
        }
        Err(stopped) => {
            reset(host);
            Err(match stopped {
                retry::Stopped::Other(found) => {
                    shared.outbox.refuse(Refusal::tls_name(name, port, &found));
                    Refused { end: "tls_name".into(), alert: true }
                }
                retry::Stopped::Missing(why) => {
                    shared.outbox.refuse(Refusal::tls_missing(name, port, why));
                    Refused { end: "tls_missing".into(), alert: why == Missing::NoName }
                }
                retry::Stopped::Closed => "closed".to_owned().into(),
                retry::Stopped::Error(why) => format!("error: {why}").into(),
            })
        }
    }
}

/// The ClientHello's bytes, once it named `name`.
fn checked_hello(
    shared: &Shared,
    plugin: &mut TcpStream,
    name: &str,
    port: u16,
    accepted: Instant,
) -> Result<hello::Hello, Refused> {
    match hello::read(plugin, accepted + hello::TIMEOUT) {
        Ok((bytes, found)) if found == name => Ok(bytes),
        Ok((_, found)) => {
            shared.outbox.refuse(Refusal::tls_name(name, port, &found));
            Err(Refused { end: "tls_name".into(), alert: true })
        }
        // A client that went away by itself: nothing was tried that had to be stopped.
        Err(HelloError::Missing(Missing::Closed)) => Err("tls_missing".to_owned().into()),
        Err(HelloError::Missing(why)) => {
            shared.outbox.refuse(Refusal::tls_missing(name, port, why));
            Err(Refused { end: "tls_missing".into(), alert: why == Missing::NoName })
        }
        Err(HelloError::Io(e)) => Err(format!("error: plugin: {e}").into()),
    }
}

/// Resolves `name` once, and dials one of the answers that `rule` allows: the very address that was checked.
fn dial(shared: &Shared, rule: &EgressRule, name: &str, port: u16) -> Result<TcpStream, Refused> {
    let answers = (shared.host.resolve)(name, port).map_err(|e| format!("resolve_failed: {e}"))?;
    // Without knowing its own addresses the gateway cannot check anything.
    let own = (shared.host.own_addresses)().map_err(|e| format!("error: gateway: own addresses: {e}"))?;
    let mut allowed: Vec<SocketAddr> = Vec::new();
    let mut refused: Option<(IpAddr, Class)> = None;
    let mut untold: Option<io::Error> = None;
    for answer in answers.iter().take(MAX_ANSWERS) {
        match addresses::classify_routed(answer.ip(), &own, &shared.host.is_here) {
            Ok(class) if class.allowed_by(rule) => allowed.push(*answer),
            Ok(class) => drop(refused.get_or_insert((answer.ip(), class))),
            // A blackhole, or a host without IPv6: this one is not dialled, others may be.
            Err(e) => untold = Some(e),
        }
    }
    if allowed.is_empty() {
        let Some((ip, class)) = refused else {
            return Err(untold
                .map_or("resolve_failed: no address".into(), |e| format!("error: gateway: routes: {e}"))
                .into());
        };
        shared.outbox.refuse(Refusal::address(name, port, ip, class));
        return Err("address_refused".to_owned().into());
    }
    dial_addresses(&allowed).map_err(|e| format!("connect_failed: {e}").into())
}

/// The first of `addresses` that answers; the last one's error when none does.
fn dial_addresses(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses.iter().take(MAX_ADDRESSES) {
        match TcpStream::connect_timeout(address, CONNECT_TIMEOUT) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests;
