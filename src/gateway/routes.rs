//! Whether this host itself would take what is sent to an address.
//!
//! The addresses of its interfaces do not say it: a local route (`ip route add local 198.51.100.0/24 dev lo`) makes
//! whole ranges this host's own, as does a prefix that `lo` has, and IPv6 has anycast addresses. So the kernel is asked
//! for its route (`RTM_GETROUTE`, rtnetlink(7)), by the rules that hold for the gateway's own user.

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

/// Size of `struct nlmsghdr`, and of `struct rtmsg` behind it.
const HEADER: usize = 16;
const ROUTE: usize = 12;
/// Where `rtm_type` stands in an answer.
const TYPE: usize = HEADER + 7;

/// Whether the kernel delivers what is sent to `ip` to this host itself. An IPv4-mapped address is what it maps to.
///
/// # Errors
/// The kernel does not say; the caller must then refuse, not go on.
pub fn is_here(ip: IpAddr) -> io::Result<bool> {
    let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    send(netlink.as_raw_fd(), &request(ip.to_canonical()), MsgFlags::empty())?;
    let mut answer = [0; 4096];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    read(&answer[..length])
}

/// One `RTM_GETROUTE` with the destination alone.
fn request(ip: IpAddr) -> Vec<u8> {
    let (family, address) = match ip {
        IpAddr::V4(v4) => (libc::AF_INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, v6.octets().to_vec()),
    };
    let attribute = 4 + address.len();
    let mut bytes = Vec::with_capacity(HEADER + ROUTE + attribute);
    bytes.extend(((HEADER + ROUTE + attribute) as u32).to_ne_bytes());
    bytes.extend(libc::RTM_GETROUTE.to_ne_bytes());
    bytes.extend((libc::NLM_F_REQUEST as u16).to_ne_bytes());
    bytes.extend([0; 8]); // sequence number and port: the socket is used once
    bytes.extend([family as u8, (address.len() * 8) as u8, 0, 0, 0, 0, 0, 0]);
    bytes.extend([0; 4]);
    bytes.extend((attribute as u16).to_ne_bytes());
    bytes.extend(libc::RTA_DST.to_ne_bytes());
    bytes.extend(address);
    bytes
}

/// The type of the route in an answer.
fn read(answer: &[u8]) -> io::Result<bool> {
    let unreadable = || io::Error::new(io::ErrorKind::InvalidData, "rtnetlink: an answer that cannot be read");
    let kind = answer.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(unreadable)?;
    if i32::from(kind) == libc::NLMSG_ERROR {
        let errno = answer.get(HEADER..HEADER + 4).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
        return match errno.map(|errno| Errno::from_raw(errno.wrapping_neg())) {
            // No route exists, and connecting reports the same.
            Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES) => Ok(false),
            Some(errno) => Err(errno.into()),
            None => Err(unreadable()),
        };
    }
    if kind != libc::RTM_NEWROUTE {
        return Err(unreadable());
    }
    let route = answer.get(TYPE).ok_or_else(unreadable)?;
    Ok([libc::RTN_LOCAL, libc::RTN_ANYCAST].contains(route))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_here_and_others_are_not() {
        for (address, here) in [
            ("127.0.0.1", true),
            ("127.255.0.9", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            // no route, or one that leads out
            ("192.0.2.1", false),
            ("2001:db8::1", false),
            ("::ffff:192.0.2.1", false),
        ] {
            assert_eq!(is_here(address.parse().unwrap()).unwrap(), here, "{address}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        let mut error = vec![36, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        error.extend((-libc::EPERM).to_ne_bytes());
        for answer in [&[][..], &[0; 4], &[0; 64], &error, &error[..18]] {
            assert!(read(answer).is_err(), "{answer:?}");
        }
        error.truncate(16);
        error.extend((-libc::ENETUNREACH).to_ne_bytes());
        assert!(!read(&error).unwrap());
    }
}
