//! Names and connections of a sandbox: the stub that refuses them, or the gateway and what it reports.

use super::denials::Denials;
use super::gateway::{self, Gateway};
use super::observe::Observer;
use super::{Channel, Polled, internal, lost};
use crate::decide::plan::Plan;
use crate::gateway::events::Refusal;
use crate::gateway::{Event, Sockets, stub};
use crate::sys::poll::poll;
use crate::sys::process::own_pidfd;
use crate::types::{Code, EgressRecord, Failure, Layer};
use nix::sys::socket::{MsgFlags, SockaddrIn, recvfrom, sendto};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags, accept_with, shutdown};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the gateway may take to report its last records: longer than it gives itself, so that a busy host loses none.
const GRACE: Duration = Duration::from_secs(2);
/// Connections that the answer lists; the sums count all.
const MAX_RECORDS: usize = 1000;

/// One of the two, once the sandbox has sent its sockets.
pub(super) struct Egress<'a> {
    plan: &'a Plan,
    /// Of a call without egress: UDP and TCP.
    stub: Option<(OwnedFd, OwnedFd)>,
    gateway: Option<Gateway>,
    pub records: Vec<EgressRecord>,
    /// Bytes sent and received by all connections.
    pub bytes: (u64, u64),
}

impl<'a> Egress<'a> {
    pub fn new(plan: &'a Plan) -> Self {
        Egress { plan, stub: None, gateway: None, records: Vec::new(), bytes: (0, 0) }
    }

    /// Takes the stub's sockets and those of the granted ports. `cgroup` is where the gateway is counted.
    pub fn open(&mut self, fds: Vec<OwnedFd>, as_root: bool, cgroup: Option<BorrowedFd<'_>>) -> Result<(), Failure> {
        let mut fds = fds.into_iter();
        let (Some(dns_udp), Some(dns_tcp)) = (fds.next(), fds.next()) else { return Ok(()) };
        if self.plan.egress.is_empty() {
            self.stub = Some((dns_udp, dns_tcp));
            return Ok(());
        }
        let listeners = self.plan.tcp_ports.iter().copied().zip(fds).collect();
        let own = own_pidfd().map_err(internal("pidfd"))?;
        let sockets = Sockets { dns_udp, dns_tcp, listeners };
        self.gateway = Some(gateway::start(self.plan, sockets, as_root, own.as_fd(), cgroup)?);
        Ok(())
    }

    pub fn poll(&self) -> impl Iterator<Item = Polled<'_>> {
        let stub = self.stub.iter().flat_map(|(udp, tcp)| [(Channel::StubUdp, udp), (Channel::StubTcp, tcp)]);
        let gateway = self.gateway.iter().map(|gateway| (Channel::Gateway, &gateway.events));
        stub.chain(gateway).map(|(channel, fd)| (channel, fd.as_fd(), PollFlags::IN))
    }

    /// Answers one query to the stub: a plugin that floods it waits for its own answers only.
    pub fn refuse_name(&self, denials: &mut Denials) {
        let Some((udp, _)) = &self.stub else { return };
        let mut query = [0u8; 512];
        let Ok((length, Some(from))) = recvfrom::<SockaddrIn>(udp.as_raw_fd(), &mut query) else { return };
        let answer = stub::answer(&query[..length], |name: &str| -> Option<Ipv4Addr> {
            denials.add(Refusal::resolve(name).denied, 1);
            None
        });
        if let Some(answer) = answer {
            // A client that is gone or reads nothing gets no answer.
            sendto(udp.as_raw_fd(), &answer, &from, MsgFlags::MSG_DONTWAIT).ok();
        }
    }

    /// Closes one connection to the stub: a resolver uses TCP after a truncated answer, and the stub's never are.
    pub fn close_connection(&self) {
        // An error means that the client has closed it.
        drop(self.stub.as_ref().map(|(_, tcp)| accept_with(tcp, SocketFlags::CLOEXEC)));
    }

    /// Takes one packet of the gateway; false if there is none now. While the sandbox is `alive`, so must be the gateway.
    pub fn read(
        &mut self,
        buffer: &mut [u8],
        denials: &mut Denials,
        observer: &mut Option<Observer>,
        alive: bool,
    ) -> Result<bool, Failure> {
        let Some(gateway) = &self.gateway else { return Ok(false) };
        let count = match rustix::io::read(&gateway.events, &mut *buffer) {
            // It has ended, perhaps with something unread.
            Ok(0) | Err(Errno::CONNRESET) => {
                self.gateway = None;
                return if alive { Err(lost(Layer::Egress, "gateway: ended before the call did")) } else { Ok(false) };
            }
            Ok(count) => count,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(false),
            Err(error) => return Err(internal("gateway")(error)),
        };
        match Event::parse(&buffer[..count]).map_err(|error| Failure::new(Code::Internal, error))? {
            Event::Connection(record) => {
                self.bytes.0 += record.bytes_sent;
                self.bytes.1 += record.bytes_received;
                if self.records.len() < MAX_RECORDS {
                    self.records.push(record);
                }
            }
            Event::Refused(refusal) => denials.add(refusal.denied, refusal.count),
            Event::Dropped { count } => denials.drop_more(count),
            Event::Named { name, address } => {
                if let Some(observer) = observer {
                    observer.named(&name, address);
                }
            }
        }
        Ok(true)
    }

    /// Closes the channel, takes the last records, and ends the gateway.
    pub fn end(&mut self, buffer: &mut [u8], denials: &mut Denials, observer: &mut Option<Observer>) {
        let until = Instant::now() + GRACE;
        if let Some(gateway) = &self.gateway {
            // At its own end of file the gateway reports what is open, and leaves. ENOTCONN: it has left.
            shutdown(&gateway.events, Shutdown::Write).ok();
        }
        while let Some(gateway) = &self.gateway {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::from_borrowed_fd(gateway.events.as_fd(), PollFlags::IN)];
            if !matches!(poll(&mut fds, Some(left)), Ok(1..)) || self.read(buffer, denials, observer, false).is_err() {
                self.gateway = None;
            }
        }
    }
}
