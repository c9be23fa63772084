//! Step `network`: an own host name, loopback up, and the sockets on which the gateway or the stub listens.

use super::channels::{self, Tag};
use super::step::{Step, StepError};
use crate::decide::plan::{HOST_NAME, Plan, STUB_ADDRESS};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket, sockopt,
};
use rustix::fs::{Mode, OFlags};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Binds in the sandbox's network namespace and hands the sockets out: the stub's two, then one a granted port.
///
/// # Errors
/// `EPERM` where the namespace gives no rights, `EADDRINUSE`.
pub fn step(plan: &Plan, status: BorrowedFd<'_>) -> Result<(), StepError> {
    let fail = |what: String| move |error: nix::Error| StepError::new(Step::Network, what, error);
    nix::unistd::sethostname(HOST_NAME).map_err(fail("sethostname".to_owned()))?;
    // Before any socket is made: a socket starts with what there is then.
    super::buffers::bound()?;
    let udp = listener(SockType::Datagram, STUB_ADDRESS, 53).map_err(fail("name stub".to_owned()))?;
    crate::sys::net::loopback_up(udp.0.as_fd()).map_err(|error| StepError::new(Step::Network, "lo", error))?;
    udp.bind().map_err(fail("name stub, UDP".to_owned()))?;
    let mut sockets = vec![udp];
    let tcp = listener(SockType::Stream, STUB_ADDRESS, 53).map_err(fail("name stub".to_owned()))?;
    tcp.bind().map_err(fail("name stub, TCP".to_owned()))?;
    sockets.push(tcp);
    for port in &plan.tcp_ports {
        let socket = listener(SockType::Stream, Ipv4Addr::UNSPECIFIED, *port).map_err(fail(format!("port {port}")))?;
        socket.bind().map_err(fail(format!("port {port}")))?;
        sockets.push(socket);
    }
    let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|socket| socket.0.as_fd()).collect();
    channels::send(status, Tag::Sockets, b"", &fds)
        .map_err(|error| StepError::new(Step::Network, "status channel", error))
}

struct Listener(OwnedFd, SocketAddrV4, SockType);

fn listener(kind: SockType, address: Ipv4Addr, port: u16) -> nix::Result<Listener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    Ok(Listener(fd, SocketAddrV4::new(address, port), kind))
}

impl Listener {
    fn bind(&self) -> nix::Result<()> {
        bind(self.0.as_raw_fd(), &SockaddrIn::from(self.1))?;
        if self.2 == SockType::Stream {
            listen(&self.0, Backlog::new(128)?)?;
        }
        Ok(())
    }
}

/// The counters of this network namespace, of IPv4 and, where the kernel has it, IPv6: the supervisor counts by them how
/// many connections had no route. The first is `sockstat`, which counts its sockets.
///
/// # Errors
/// `/proc` of the call cannot be read.
pub fn counters() -> Result<Vec<OwnedFd>, StepError> {
    let open = |name: &str| {
        let path = format!("/proc/self/net/{name}");
        rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| StepError::new(Step::Network, path, error))
    };
    let v6 = match open("snmp6") {
        Err(error) if error.source.kind() == std::io::ErrorKind::NotFound => None,
        other => Some(other?),
    };
    Ok([open("sockstat")?, open("snmp")?].into_iter().chain(v6).collect())
}
