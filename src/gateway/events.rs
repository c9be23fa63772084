//! What the gateway reports to the supervisor, and how the supervisor reads it.
//!
//! The channel is a `SOCK_SEQPACKET` pair; a packet is one JSON document of at most [`MAX_EVENT`] bytes:
//! `{"event":"refused","denied":{…},"count":n}`,
//! `{"event":"connection",…}` with the fields of [`EgressRecord`], and `{"event":"dropped","count":n}` for refusals
//! beyond [`MAX_DISTINCT`]. The same refusal may come again with the count of what was added since.

use crate::text::shorten;
use crate::types::{Class, Denied, EgressRecord, NoHello};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a packet.
pub const MAX_EVENT: usize = 4096;
/// Different refusals that are reported one by one in a call; more are only counted.
pub const MAX_DISTINCT: usize = 256;
/// Records waiting for the supervisor at which no further connection is accepted, so that none is ever lost.
pub const MAX_WAITING: usize = 256;
/// Characters of a refused name that are repeated.
const MAX_SHOWN_NAME: usize = 256;

/// One packet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
    /// The plugin tried something that is not granted.
    Refused(Refusal),
    /// A connection ended, or was open at the call's end.
    Connection(EgressRecord),
    /// Refusals beyond those reported.
    Dropped {
        /// How many.
        count: u64,
    },
    /// A granted name got this address when it was first looked up.
    Named {
        /// The name.
        name: String,
        /// Of 127.64.0.0/10.
        address: Ipv4Addr,
    },
}

impl Event {
    /// Reads a packet.
    ///
    /// # Errors
    /// A sentence: too long, or not an event.
    pub fn parse(packet: &[u8]) -> Result<Event, String> {
        if packet.len() > MAX_EVENT {
            return Err(format!("gateway event of {} bytes, more than {MAX_EVENT}", packet.len()));
        }
        serde_json::from_slice(packet).map_err(|e| format!("gateway event: {e}"))
    }
}

/// Something that was not granted. Which grant decides, and what would allow it, is determined from the configuration when the
/// call is over (`decide::verdict`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    /// What.
    pub denied: Denied,
    /// How often, since this refusal was last reported.
    pub count: u64,
}

impl Refusal {
    fn new(denied: Denied) -> Refusal {
        Refusal { denied, count: 1 }
    }

    /// A name that nothing grants. `asked` is what [`super::stub::answer`] hands to its closure. The supervisor uses
    /// this too, for calls without egress.
    pub fn resolve(asked: &str) -> Refusal {
        Refusal::new(Denied::Resolve { name: shorten(asked, MAX_SHOWN_NAME) })
    }

    /// A granted name, after [`super::addresses::MAX_NAMES`] others.
    pub fn too_many_names(name: &str) -> Refusal {
        Refusal::new(Denied::Names { name: name.to_owned(), most: super::addresses::MAX_NAMES })
    }

    /// A granted name on a port that it is not granted on.
    pub fn connect(name: &str, port: u16) -> Refusal {
        Refusal::new(Denied::Connect { name: name.to_owned(), port })
    }

    /// A local address that stands for no name.
    pub fn connect_address(address: SocketAddrV4) -> Refusal {
        Refusal::new(Denied::ConnectAddress { address: *address.ip(), port: address.port() })
    }

    /// A granted name of which every answer is an address that may not be dialled.
    pub fn address(name: &str, port: u16, address: IpAddr, class: Class) -> Refusal {
        Refusal::new(Denied::Address { name: name.to_owned(), port, address, class })
    }

    /// A ClientHello for another name.
    pub fn tls_name(name: &str, port: u16, found: &str) -> Refusal {
        Refusal::new(Denied::TlsName { name: name.to_owned(), port, found: found.to_owned() })
    }

    /// No ClientHello that names a host.
    pub fn tls_missing(name: &str, port: u16, why: NoHello) -> Refusal {
        Refusal::new(Denied::TlsMissing { name: name.to_owned(), port, why })
    }

    /// The call's bytes are used up.
    pub fn limit(name: &str, port: u16, limit: u64) -> Refusal {
        Refusal::new(Denied::EgressBytes { name: name.to_owned(), port, limit })
    }
}

/// The gateway's end of the channel: never blocks, never grows past its bounds.
#[derive(Debug)]
pub struct Outbox {
    channel: OwnedFd,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    records: VecDeque<Vec<u8>>,
    /// How often each was refused since it was last reported.
    refusals: HashMap<Denied, u64>,
    untold: bool,
    dropped: u64,
}

impl Outbox {
    /// An outbox that sends on `channel`.
    pub fn new(channel: OwnedFd) -> Outbox {
        Outbox { channel, waiting: Mutex::default() }
    }

    /// The channel, to be polled.
    pub fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// A thread that panicked left whole values behind, each being one insertion.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells a refusal: at once when it is new, else with the next [`Outbox::flush`].
    pub fn refuse(&self, refusal: Refusal) {
        let mut waiting = self.lock();
        if let Some(count) = waiting.refusals.get_mut(&refusal.denied) {
            *count += 1;
            waiting.untold = true;
        } else if waiting.refusals.len() >= MAX_DISTINCT {
            waiting.dropped += 1;
            waiting.untold = true;
        } else {
            let denied = refusal.denied.clone();
            let count = u64::from(!self.send(&Event::Refused(refusal)));
            waiting.untold |= count > 0;
            waiting.refusals.insert(denied, count);
        }
    }

    /// Reports which address a name got; not if the queue is full.
    pub fn named(&self, name: &str, address: Ipv4Addr) {
        self.send(&Event::Named { name: name.to_owned(), address });
    }

    /// Tells how a connection ended.
    pub fn record(&self, record: EgressRecord) {
        let mut waiting = self.lock();
        let event = Event::Connection(record);
        // In order: not past those that wait.
        if !waiting.records.is_empty() || !self.send(&event) {
            waiting.records.push_back(packet(&event));
        }
    }

    /// Sends what waits, as far as the supervisor's side has room. True when nothing waits any more.
    pub fn flush(&self) -> bool {
        let mut waiting = self.lock();
        while let Some(next) = waiting.records.front() {
            if !self.send_packet(next) {
                return false;
            }
            waiting.records.pop_front();
        }
        if !waiting.untold {
            return true;
        }
        for (denied, count) in waiting.refusals.iter_mut().filter(|(_, count)| **count > 0) {
            if !self.send(&Event::Refused(Refusal { denied: denied.clone(), count: *count })) {
                return false;
            }
            *count = 0;
        }
        if waiting.dropped > 0 {
            if !self.send(&Event::Dropped { count: waiting.dropped }) {
                return false;
            }
            waiting.dropped = 0;
        }
        waiting.untold = false;
        true
    }

    /// Whether anything waits.
    pub fn is_waiting(&self) -> bool {
        let waiting = self.lock();
        waiting.untold || !waiting.records.is_empty()
    }

    /// Whether too many records wait to accept another connection.
    pub fn is_full(&self) -> bool {
        self.lock().records.len() >= MAX_WAITING
    }

    fn send(&self, event: &Event) -> bool {
        self.send_packet(&packet(event))
    }

    /// True when it went out, or when no one is there to read it any more (the loop then ends by itself).
    fn send_packet(&self, packet: &[u8]) -> bool {
        loop {
            match send(self.channel.as_raw_fd(), packet, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => return false,
                Ok(_) | Err(_) => return true,
            }
        }
    }
}

/// An event as a packet. All its strings are bounded where they are made, so it fits; should one ever not, the record
/// is reported without the text that was too long.
fn packet(event: &Event) -> Vec<u8> {
    match serde_json::to_vec(event) {
        Ok(bytes) if bytes.len() <= MAX_EVENT => bytes,
        _ => br#"{"event":"dropped","count":1}"#.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, recv, socketpair};

    fn pair() -> (Outbox, OwnedFd) {
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        (Outbox::new(a), b)
    }

    fn next(fd: &OwnedFd) -> Option<Event> {
        let mut buffer = [0; MAX_EVENT + 1];
        let n = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).ok()?;
        Some(Event::parse(&buffer[..n]).unwrap())
    }

    fn record(n: u64) -> EgressRecord {
        EgressRecord {
            host: "a.org".into(),
            port: 443,
            bytes_sent: n,
            bytes_received: 2,
            duration_us: 3,
            end: "closed".into(),
        }
    }

    #[test]
    fn the_wire_form() {
        let text = serde_json::to_string(&Event::Connection(record(1))).unwrap();
        assert_eq!(
            text,
            r#"{"event":"connection","host":"a.org","port":443,"bytes_sent":1,"bytes_received":2,"duration_us":3,"end":"closed"}"#
        );
        let text = serde_json::to_string(&Event::Refused(Refusal::resolve("files.example.org"))).unwrap();
        assert_eq!(text, r#"{"event":"refused","denied":{"resolve":{"name":"files.example.org"}},"count":1}"#);
        assert!(Event::parse(text.as_bytes()).is_ok() && Event::parse(b"{}").is_err());
        // What others deny is not the gateway's to tell.
        for denied in [r#"{"syscall":{}}"#, r#"{"limit":{}}"#, r#""unroutable""#] {
            assert!(Event::parse(format!(r#"{{"event":"refused","denied":{denied},"count":1}}"#).as_bytes()).is_err());
        }
        assert!(Event::parse(&[b' '; MAX_EVENT + 1]).is_err());
    }

    #[test]
    fn the_same_refusal_is_counted() {
        let (out, fd) = pair();
        for _ in 0..1000 {
            out.refuse(Refusal::resolve("evil.net"));
        }
        assert!(matches!(next(&fd), Some(Event::Refused(r)) if r.count == 1));
        assert_eq!(next(&fd), None);
        assert!(out.is_waiting() && out.flush() && !out.is_waiting());
        assert!(matches!(next(&fd), Some(Event::Refused(r)) if r.count == 999));
        assert_eq!(next(&fd), None);
    }

    #[test]
    fn a_flood_is_bounded_and_all_counted() {
        let (out, fd) = pair();
        let longest = format!("{}.{}", r"\000".repeat(120), "x".repeat(100));
        for i in 0..10_000 {
            out.refuse(Refusal::resolve(&format!("{i}.{longest}")));
        }
        assert_eq!(out.lock().refusals.len(), MAX_DISTINCT);
        let mut told = 0;
        let mut flushed = false;
        loop {
            match next(&fd) {
                Some(Event::Refused(r)) => told += r.count,
                Some(Event::Dropped { count }) => told += count,
                Some(other) => panic!("{other:?}"),
                None if flushed => break,
                None => flushed = out.flush(),
            }
        }
        assert_eq!(told, 10_000);
    }

    #[test]
    fn records_wait_and_keep_their_order() {
        let (out, fd) = pair();
        let mut given = 0;
        while !out.is_full() {
            out.record(record(given));
            given += 1;
        }
        assert!(!out.flush());
        let mut seen = 0;
        while seen < given {
            match next(&fd) {
                Some(Event::Connection(r)) => {
                    assert_eq!(r.bytes_sent, seen);
                    seen += 1;
                }
                Some(other) => panic!("{other:?}"),
                None => {
                    out.flush();
                }
            }
        }
        assert!(!out.is_waiting());
        drop(fd);
        out.record(record(0));
        assert!(!out.is_waiting(), "no one to tell");
    }

    #[test]
    fn the_longest_events_fit() {
        let name = "x".repeat(253);
        let address = IpAddr::from([0xffff; 8]);
        for refusal in [
            Refusal::resolve(&r"\255".repeat(253)),
            Refusal::too_many_names(&name),
            Refusal::connect(&name, 443),
            Refusal::connect_address(SocketAddrV4::new(Ipv4Addr::new(127, 64, 0, 9), 443)),
            Refusal::address(&name, 443, address, Class::LinkLocal),
            Refusal::tls_name(&name, 443, &name),
            Refusal::tls_missing(&name, 443, NoHello::TooSlow),
            Refusal::limit(&name, 443, u64::MAX),
        ] {
            let bytes = packet(&Event::Refused(refusal.clone()));
            assert_eq!(Event::parse(&bytes), Ok(Event::Refused(refusal)));
        }
    }
}
