//! One connection: all that must hold before a byte of the plugin's leaves, then its bytes, then its end.

use super::addresses::{self, Class};
use super::events::Refusal;
use super::hello::{self, HelloError, Missing};
use super::relay::{self, Room, Traffic};
use super::{Live, Shared, lock, proxy, retry};
use crate::decide::names;
use crate::types::EgressRule;
use nix::sys::socket::{setsockopt, sockopt};
use std::io::{self, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Connections at once from which on each gets little of the kernel's memory.
const ROOMY: usize = 16;
/// Time for one address to answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 8;
/// Addresses of one answer that are looked at: a resolver may send thousands.
const MAX_ANSWERS: usize = 64;
/// Bytes of a thread's stack; `getaddrinfo(3)` and the NSS modules want some.
const STACK: usize = 512 * 1024;
/// TLS alert, fatal, `unrecognized_name` (RFC 6066 §3), in a record of TLS 1.2.
pub(super) const ALERT_UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// Whether asking again at once would fail again.
pub(super) fn is_exhaustion(error: &io::Error) -> bool {
    !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
}

/// Accepts one connection and starts its thread. True when the host had no room for it.
pub(super) fn accept(listener: &TcpListener, port: u16, shared: &Arc<Shared>, next_id: &mut u64) -> bool {
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
        counters: Traffic::default(),
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
            // Without it the kernel would close it only at the end of the call.
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
    /// The client speaks TLS and understands an alert.
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
