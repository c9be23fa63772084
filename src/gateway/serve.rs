//! The gateway's loop: the name stub, the listeners and the supervisor's channel, one turn after another.

use super::connection::{accept, is_exhaustion};
use super::events::Outbox;
use super::pace::Pace;
use super::relay::Budget;
use super::{Live, MAX_CONNECTIONS, Network, Shared, Sockets, lock, stub};
use crate::types::EgressRule;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use rustix::event::{EventfdFlags, eventfd};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Clients of the name stub over TCP at once, and how long each may stay.
const MAX_DNS_CLIENTS: usize = 8;
const DNS_CLIENT_TIME: Duration = Duration::from_secs(10);
/// Queries over UDP answered before the other descriptors have their turn.
const DNS_TURN: usize = 64;
/// How often the counts of reported refusals are reported again.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often the pace of connections is looked at while it holds some back.
const PACE_TURN: Duration = Duration::from_millis(10);
/// What threads of a call that is over get to tell how their connections ended.
const ENDING: Duration = Duration::from_millis(200);
/// What the host still gets to take of connections that are open at the call's end, before the kernel forgets them.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// How long the gateway waits at the call's end for the supervisor to read.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    host: Network,
) -> io::Result<()> {
    let mut door = Door::new(sockets)?;
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
    while door.turn(&shared)? {}
    Ok(())
}

/// What the loop keeps from one turn to the next.
struct Door {
    dns_udp: UdpSocket,
    dns_tcp: TcpListener,
    listeners: Vec<(u16, TcpListener)>,
    dns_clients: Vec<DnsClient>,
    next_id: u64,
    told: Instant,
    pace: Pace,
    /// After a failed accept for want of descriptors or memory: asking again at once would only spin.
    accept_after: Option<Instant>,
}

/// What a turn may do.
#[derive(Clone, Copy)]
struct May {
    /// Something waits to be reported.
    waiting: bool,
    /// The host had no room for one more connection.
    paused: bool,
    /// The pace allows one more connection.
    in_time: bool,
    accepting: bool,
}

/// Which descriptors have something, and where those stand that are not always there.
struct Ready {
    all: Vec<bool>,
    first_client: usize,
    first_listener: usize,
    stub_listener: Option<usize>,
}

impl Ready {
    fn at(&self, i: usize) -> bool {
        self.all.get(i).copied().unwrap_or(false)
    }
}

impl Door {
    fn new(sockets: Sockets) -> io::Result<Door> {
        let dns_udp = UdpSocket::from(sockets.dns_udp);
        let dns_tcp = TcpListener::from(sockets.dns_tcp);
        let listeners: Vec<(u16, TcpListener)> =
            sockets.listeners.into_iter().map(|(port, fd)| (port, TcpListener::from(fd))).collect();
        dns_udp.set_nonblocking(true)?;
        dns_tcp.set_nonblocking(true)?;
        for (_, listener) in &listeners {
            listener.set_nonblocking(true)?;
        }
        let now = Instant::now();
        Ok(Door {
            dns_udp,
            dns_tcp,
            listeners,
            dns_clients: Vec::new(),
            next_id: 0,
            told: now,
            pace: Pace::new(now),
            accept_after: None,
        })
    }

    /// Waits once and does what there is to do. False at the call's end.
    fn turn(&mut self, shared: &Arc<Shared>) -> io::Result<bool> {
        let now = Instant::now();
        self.dns_clients.retain(|c| now.duration_since(c.since) < DNS_CLIENT_TIME);
        let paused = self.accept_after.is_some_and(|t| now < t);
        let waiting = shared.outbox.is_waiting();
        let in_time = self.pace.has_room(now);
        let accepting =
            !paused && in_time && shared.threads.load(Ordering::Acquire) < MAX_CONNECTIONS && !shared.outbox.is_full();
        let may = May { waiting, paused, in_time, accepting };
        let Some(ready) = self.wait(shared, may)? else { return Ok(true) };

        if ready.at(0) && call_ended(&shared.outbox) {
            last_words(shared);
            return Ok(false);
        }
        if ready.at(1) {
            let mut count = [0; 8];
            // Empty when another wake-up took it; the counter's value says nothing.
            let _any = rustix::io::read(&shared.wake, &mut count);
        }
        if ready.at(2) {
            answer_udp(&self.dns_udp, shared);
        }
        let mut i = ready.first_client;
        self.dns_clients.retain_mut(|client| {
            let keep = !ready.at(i) || client.serve(shared);
            i += 1;
            keep
        });
        if self.accept(shared, may, &ready, now) {
            self.accept_after = Some(Instant::now() + TELL_EVERY);
        }
        if waiting && self.told.elapsed() >= TELL_EVERY {
            shared.outbox.flush();
            self.told = Instant::now();
        }
        Ok(true)
    }

    /// Waits for what this turn may do. `None` where a signal came first.
    fn wait(&self, shared: &Shared, may: May) -> io::Result<Option<Ready>> {
        let mut fds = vec![
            PollFd::new(shared.outbox.channel(), PollFlags::POLLIN),
            PollFd::new(shared.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.dns_udp.as_fd(), PollFlags::POLLIN),
        ];
        let first_client = fds.len();
        fds.extend(self.dns_clients.iter().map(|c| PollFd::new(c.stream.as_fd(), PollFlags::POLLIN)));
        let first_listener = fds.len();
        if may.accepting {
            fds.extend(self.listeners.iter().map(|(_, l)| PollFd::new(l.as_fd(), PollFlags::POLLIN)));
        }
        let stub_listener = (!may.paused && self.dns_clients.len() < MAX_DNS_CLIENTS).then(|| {
            fds.push(PollFd::new(self.dns_tcp.as_fd(), PollFlags::POLLIN));
            fds.len() - 1
        });
        // Every reason to wake without an event lies within this.
        let timeout = if !may.in_time {
            PACE_TURN
        } else if may.waiting || may.paused || !self.dns_clients.is_empty() {
            TELL_EVERY
        } else {
            Duration::MAX
        };
        match poll(&mut fds, PollTimeout::try_from(timeout).unwrap_or(PollTimeout::NONE)) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let all = fds.iter().map(|fd| fd.any().unwrap_or(true)).collect();
        Ok(Some(Ready { all, first_client, first_listener, stub_listener }))
    }

    /// Accepts what came. True when the host had no room for it.
    fn accept(&mut self, shared: &Arc<Shared>, may: May, ready: &Ready, now: Instant) -> bool {
        let mut exhausted = false;
        if may.accepting {
            for (place, (port, listener)) in self.listeners.iter().enumerate() {
                let room = || shared.threads.load(Ordering::Acquire) < MAX_CONNECTIONS;
                if ready.at(ready.first_listener + place) && room() && self.pace.has_room(now) {
                    self.pace.take();
                    exhausted |= accept(listener, *port, shared, &mut self.next_id);
                }
            }
        }
        if ready.stub_listener.is_some_and(|i| ready.at(i)) {
            match self.dns_tcp.accept() {
                Ok((stream, _)) => {
                    // Without it a slow client could hold the loop.
                    if stream.set_nonblocking(true).is_ok() {
                        self.dns_clients.push(DnsClient { stream, since: Instant::now(), pending: Vec::new() });
                    }
                }
                Err(e) => exhausted |= is_exhaustion(&e),
            }
        }
        exhausted
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
