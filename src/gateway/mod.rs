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
//! The supervisor ends the call by `shutdown(events, SHUT_WR)`: the gateway then reports the connections that are still
//! open, and exits, which the supervisor reads as the end of file. When the supervisor is gone, the gateway exits.
#![forbid(unsafe_code)]

pub mod addresses;
mod connection;
pub mod events;
pub mod hello;
pub mod pace;
pub mod proxy;
pub mod relay;
pub mod retry;
pub mod routes;
mod serve;
pub mod stub;

use crate::decide::names;
use crate::sys;
use crate::types::{EgressRecord, EgressRule};
use addresses::AddressBook;
use events::{Outbox, Refusal};
use relay::{Budget, Traffic};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub use events::Event;
pub use proxy::{ProxyEnv, connect_ports, parse_proxy};
pub use serve::serve;

/// Connections at once.
pub const MAX_CONNECTIONS: usize = 64;
/// Descriptors that the gateway needs at most: `RLIMIT_NOFILE` must not be below. A connection holds two sockets;
/// resolving opens a few more for a moment. A listener for each granted port comes on top.
pub const DESCRIPTORS: u64 = MAX_CONNECTIONS as u64 * 8 + 64;

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
pub struct Network {
    /// All addresses of a name, in the order to try.
    pub resolve: Box<Resolve>,
    /// This host's own addresses.
    pub own_addresses: Box<OwnAddresses>,
    /// Which others its routes make its own.
    pub is_here: Box<IsHere>,
    /// The proxies that the environment names.
    pub proxies: ProxyEnv,
}

impl Network {
    /// This host: `getaddrinfo(3)`, `getifaddrs(3)`, this process's environment.
    pub fn real() -> Network {
        Network {
            resolve: Box::new(|name, port| Ok((name, port).to_socket_addrs()?.collect())),
            own_addresses: Box::new(addresses::own_addresses),
            is_here: Box::new(routes::is_here),
            proxies: ProxyEnv::from_vars(|name| std::env::var(name).ok()),
        }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("proxies", &self.proxies).finish_non_exhaustive()
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
    let served = catch_unwind(AssertUnwindSafe(|| serve(sockets, rules, limit_bytes, events, Network::real())));
    sys::process::exit_now(if matches!(served, Ok(Ok(()))) { 0 } else { 1 })
}

/// What all threads share.
struct Shared {
    rules: Vec<EgressRule>,
    host: Network,
    budget: Budget,
    outbox: Outbox,
    book: Mutex<AddressBook>,
    live: Mutex<HashMap<u64, Arc<Live>>>,
    threads: AtomicUsize,
    /// Wakes the loop: a thread ended, or something waits to be reported.
    wake: OwnedFd,
}

/// A connection that was accepted and not yet reported.
struct Live {
    host: String,
    port: u16,
    accepted: Instant,
    counters: Traffic,
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

    /// Reports the end of connection `id`, unless the loop has reported it as `open`.
    fn ended(&self, id: u64, end: String) {
        let live = lock(&self.live).remove(&id);
        if let Some(live) = live {
            self.outbox.record(live.record(end));
        }
    }
}

#[cfg(test)]
mod tests;
