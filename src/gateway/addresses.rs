//! Addresses, inside and outside: which local address stands for which granted name, and which outside addresses the
//! gateway may dial.

pub use crate::types::Class;
use crate::types::EgressRule;
use nix::ifaddrs::getifaddrs;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Names that get an address in one call. A wildcard grant covers endless names, so there is a bound.
pub const MAX_NAMES: usize = 4096;
/// First address handed out; the range is 127.64.0.0/10, away from 127.0.0.0/16 where a plugin's own servers listen.
const FIRST: u32 = u32::from_be_bytes([127, 64, 0, 1]);

/// Which address of 127.64.0.0/10 stands for which name. An address, once given, stays the name's for the whole call.
#[derive(Debug, Default)]
pub struct AddressBook {
    names: Vec<String>,
    places: HashMap<String, u32>,
}

impl AddressBook {
    /// How many names have an address.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The address of `name` (as [`super::names::normalize`] made it); `None` once [`MAX_NAMES`] others have one.
    pub fn address_of(&mut self, name: &str) -> Option<Ipv4Addr> {
        if let Some(&place) = self.places.get(name) {
            return Some(Ipv4Addr::from_bits(FIRST + place));
        }
        if self.names.len() >= MAX_NAMES {
            return None;
        }
        // The bound above keeps this far below u32 and within the range.
        let place = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        Some(Ipv4Addr::from_bits(FIRST + place))
    }

    /// The name behind an address that was dialled; `None` for one that was never handed out.
    pub fn name_of(&self, address: Ipv4Addr) -> Option<&str> {
        let place = address.to_bits().checked_sub(FIRST)?;
        self.names.get(usize::try_from(place).ok()?).map(String::as_str)
    }
}

impl Class {
    /// Whether `rule` lets the gateway dial an address of this class.
    ///
    /// `allow_private` may come from a client's own configuration (a private index); `allow_loopback` is set only by
    /// `allow_private = true` written in the configuration. Link-local and metadata addresses want the latter as well:
    /// pip's or npm's configuration must not be able to open the metadata service.
    pub fn allowed_by(self, rule: &EgressRule) -> bool {
        match self {
            Class::Public => true,
            Class::Private => rule.allow_private,
            Class::LinkLocal | Class::Local => rule.allow_private && rule.allow_loopback,
            Class::Never => false,
        }
    }
}

/// The class of `ip`. `own` are this host's addresses ([`own_addresses`]).
fn classify(ip: IpAddr, own: &[IpAddr]) -> Class {
    match ip {
        IpAddr::V4(v4) => classify_v4(v4, own),
        IpAddr::V6(v6) => classify_v6(v6, own),
    }
}

fn classify_v4(ip: Ipv4Addr, own: &[IpAddr]) -> Class {
    let [a, b, c, _] = ip.octets();
    if a == 0 || a >= 224 {
        return Class::Never;
    }
    if a == 127 || own.contains(&IpAddr::V4(ip)) {
        return Class::Local;
    }
    // Metadata services outside of 169.254.0.0/16: Alibaba, Oracle, and Azure's host agent on a public address.
    const METADATA: [Ipv4Addr; 3] =
        [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(192, 0, 0, 192), Ipv4Addr::new(168, 63, 129, 16)];
    if ip.is_link_local() || METADATA.contains(&ip) {
        return Class::LinkLocal;
    }
    let cgnat = a == 100 && (64..128).contains(&b);
    let assignments = a == 192 && b == 0 && c == 0;
    let benchmarking = a == 198 && (b == 18 || b == 19);
    if ip.is_private() || cgnat || assignments || benchmarking { Class::Private } else { Class::Public }
}

/// The /32 in which clouds have their metadata, credential and other services of the host's own link: Amazon (with
/// EKS), Google, Oracle, Scaleway. They are unique local addresses, which a private index may have too.
const METADATA_V6: [[u16; 2]; 4] = [[0xfd00, 0x0ec2], [0xfd20, 0x00ce], [0xfd00, 0x00c1], [0xfd00, 0x0042]];

fn classify_v6(ip: Ipv6Addr, own: &[IpAddr]) -> Class {
    let s = ip.segments();
    if ip.is_unspecified() || ip.is_multicast() {
        return Class::Never;
    }
    let mut worst = if ip.is_loopback() || own.contains(&IpAddr::V6(ip)) {
        Class::Local
    } else if s[0] & 0xffc0 == 0xfe80 || METADATA_V6.contains(&[s[0], s[1]]) {
        Class::LinkLocal
    } else if s[0] == 0x2001 && s[1] == 2 && s[2] == 0 {
        // 2001:2::/48, for benchmarking as 198.18.0.0/15 is (RFC 5180).
        Class::Private
    } else if s[0] & 0xe000 == 0x2000 || embeds_only(s) {
        // 2000::/3 is all the global unicast there is (IANA).
        Class::Public
    } else {
        // ULA fc00::/7, site-local fec0::/10, 64:ff9b:1::/48 (local use by definition), discard, SRv6, unassigned.
        Class::Private
    };
    if ip.is_loopback() {
        return worst;
    }
    for inner in embedded(s) {
        worst = worst.max(classify_v4(inner, own));
    }
    worst
}

/// Prefixes outside of 2000::/3 that are nothing but a way to write an IPv4 address: mapped, compatible, translated
/// (RFC 2765) and NAT64's well-known prefix.
fn embeds_only(s: [u16; 8]) -> bool {
    let high = [s[0], s[1], s[2], s[3], s[4], s[5]];
    high == [0, 0, 0, 0, 0, 0xffff]
        || high == [0; 6]
        || high == [0, 0, 0, 0, 0xffff, 0]
        || high == [0x64, 0xff9b, 0, 0, 0, 0]
}

/// Every address that may be reached by sending to `ip`: itself, and those that it embeds.
fn reached_by(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match ip {
        IpAddr::V6(v6) => embedded(v6.segments()),
        IpAddr::V4(_) => Vec::new(),
    };
    std::iter::once(ip).chain(embedded.into_iter().map(IpAddr::V4))
}

/// The class of `ip`, with what the kernel's routes say of it: `here` is [`super::routes::is_here`].
///
/// # Errors
/// The kernel does not say whether the address is this host's; the caller must then refuse, not go on.
pub fn classify_routed(ip: IpAddr, own: &[IpAddr], here: impl Fn(IpAddr) -> io::Result<bool>) -> io::Result<Class> {
    let class = classify(ip, own);
    if class >= Class::Local {
        return Ok(class);
    }
    for reached in reached_by(ip) {
        if here(reached)? {
            return Ok(Class::Local);
        }
    }
    Ok(class)
}

/// Every IPv4 address that a router, a translator or a tunnel could take this one for.
fn embedded(s: [u16; 8]) -> Vec<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    let last = v4(s[6], s[7]);
    let mut found = Vec::new();
    if embeds_only(s) {
        found.push(last);
    }
    if s[0] == 0x64 && s[1] == 0xff9b && s[2] == 1 {
        // Which prefix length an operator chose within the /48 cannot be known: RFC 6052 §2.2 for /48, /56, /64, /96.
        let octets: Vec<u8> = s.iter().flat_map(|w| w.to_be_bytes()).collect();
        let pick = |i: [usize; 4]| Ipv4Addr::new(octets[i[0]], octets[i[1]], octets[i[2]], octets[i[3]]);
        // Zeroes where no address was written would read as 0.0.0.0/8.
        let places = [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12]].map(pick);
        found.extend(places.into_iter().filter(|a| a.octets()[0] != 0));
        found.push(last);
    }
    if s[0] == 0x2002 {
        found.push(v4(s[1], s[2])); // 6to4
    }
    if s[0] == 0x2001 && s[1] == 0 {
        found.push(v4(s[2], s[3])); // Teredo: the server,
        found.push(v4(!s[6], !s[7])); // and the client, inverted (RFC 4380 §4)
    }
    // ISATAP, RFC 5214 §6.1: the interface identifier, under any prefix, with either value of the u bit.
    if (s[4] == 0 || s[4] == 0x0200) && s[5] == 0x5efe {
        found.push(last);
    }
    found
}

/// Every address of this host's interfaces. Asked anew for each connection, since interfaces come and go.
///
/// # Errors
/// What `getifaddrs(3)` says; the caller must then refuse, not go on.
pub fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let mut own = Vec::new();
    for interface in getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            own.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            own.push(IpAddr::V6(v6.ip()));
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{HostPattern, Proxy};

    #[test]
    fn an_address_a_name_and_back() {
        let mut book = AddressBook::default();
        assert_eq!(book.address_of("a.org"), Some(Ipv4Addr::new(127, 64, 0, 1)));
        assert_eq!(book.address_of("b.org"), Some(Ipv4Addr::new(127, 64, 0, 2)));
        assert_eq!(book.address_of("a.org"), Some(Ipv4Addr::new(127, 64, 0, 1)));
        assert_eq!(book.name_of(Ipv4Addr::new(127, 64, 0, 2)), Some("b.org"));
        for never in [[127, 64, 0, 0], [127, 64, 0, 3], [127, 0, 0, 1], [10, 0, 0, 1], [255, 255, 255, 255]] {
            assert_eq!(book.name_of(Ipv4Addr::from(never)), None, "{never:?}");
        }
    }

    #[test]
    fn the_book_is_bounded() {
        let mut book = AddressBook::default();
        for i in 0..MAX_NAMES {
            assert!(book.address_of(&format!("n{i}.org")).is_some());
        }
        assert_eq!(book.address_of("n4095.org"), Some(Ipv4Addr::new(127, 64, 16, 0)));
        assert_eq!(book.address_of("one-more.org"), None);
        assert_eq!(book.address_of("n0.org"), Some(Ipv4Addr::new(127, 64, 0, 1)));
    }

    #[test]
    fn classes() {
        let own: Vec<IpAddr> = ["203.0.113.7", "2001:db8::7"].iter().map(|a| a.parse().unwrap()).collect();
        for (address, class) in [
            ("1.1.1.1", Class::Public),
            ("203.0.113.80", Class::Public),
            ("192.0.2.1", Class::Public),
            ("198.51.100.1", Class::Public),
            ("2001:db8::1", Class::Public),
            ("2606:4700::1111", Class::Public),
            ("100.63.255.255", Class::Public),
            ("100.128.0.1", Class::Public),
            ("172.15.0.1", Class::Public),
            ("172.32.0.1", Class::Public),
            ("10.0.0.1", Class::Private),
            ("172.16.0.1", Class::Private),
            ("172.31.255.255", Class::Private),
            ("192.168.1.1", Class::Private),
            ("100.64.0.1", Class::Private),
            ("100.127.255.255", Class::Private),
            ("192.0.0.1", Class::Private),
            ("198.18.0.1", Class::Private),
            ("fc00::1", Class::Private),
            ("fd12:3456::1", Class::Private),
            ("fec0::1", Class::Private),
            ("100::1", Class::Private),
            ("2001:2::1", Class::Private),
            ("2001:2:1::1", Class::Public),
            ("169.254.1.1", Class::LinkLocal),
            ("169.254.169.254", Class::LinkLocal),
            ("100.100.100.200", Class::LinkLocal),
            ("168.63.129.16", Class::LinkLocal),
            ("fe80::1", Class::LinkLocal),
            ("febf::1", Class::LinkLocal),
            ("fd00:ec2::254", Class::LinkLocal),
            ("fd00:ec2::23", Class::LinkLocal),
            ("fd20:ce::254", Class::LinkLocal),
            ("fd00:c1::a9fe:a9fe", Class::LinkLocal),
            ("fd00:42::42", Class::LinkLocal),
            ("127.0.0.1", Class::Local),
            ("127.64.0.1", Class::Local),
            ("::1", Class::Local),
            ("203.0.113.7", Class::Local),
            ("2001:db8::7", Class::Local),
            ("0.0.0.0", Class::Never),
            ("0.1.2.3", Class::Never),
            ("224.0.0.1", Class::Never),
            ("240.0.0.1", Class::Never),
            ("255.255.255.255", Class::Never),
            ("::", Class::Never),
            ("ff02::1", Class::Never),
            // written as IPv6
            ("::ffff:1.1.1.1", Class::Public),
            ("::ffff:10.0.0.1", Class::Private),
            ("::ffff:127.0.0.1", Class::Local),
            ("::ffff:203.0.113.7", Class::Local),
            ("::ffff:169.254.169.254", Class::LinkLocal),
            ("::ffff:0.0.0.0", Class::Never),
            ("::127.0.0.1", Class::Local),
            ("::2", Class::Never),
            ("::ffff:0:10.0.0.1", Class::Private),
            ("64:ff9b::1.1.1.1", Class::Public),
            ("64:ff9b::10.0.0.1", Class::Private),
            ("64:ff9b::7f00:1", Class::Local),
            ("64:ff9b:1::1.1.1.1", Class::Private),
            ("64:ff9b:1::127.0.0.1", Class::Local),
            ("64:ff9b:1:a9fe:a9:fe00::", Class::Never),
            ("2002:a00:1::1", Class::Private),
            ("2002:7f00:1::1", Class::Local),
            ("2002:101:101::1", Class::Public),
            ("2001:0:101:101:0:0:f5ff:fffe", Class::Private),
            ("2001:0:a00:1:0:0:fefe:fefe", Class::Private),
            ("2001:0:101:101:0:0:fefe:fefe", Class::Public),
            ("2001:db8::5efe:192.168.0.1", Class::Private),
            ("2001:db8::200:5efe:127.0.0.1", Class::Local),
            ("fe80::5efe:127.0.0.1", Class::Local),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!(classify(ip, &own), class, "{address}");
        }
    }

    #[test]
    fn routes_make_local() {
        let here = |local: &'static str| move |ip: IpAddr| Ok(ip == local.parse::<IpAddr>().unwrap());
        for (address, local, class) in [
            ("203.0.113.77", "203.0.113.77", Class::Local),
            ("203.0.113.77", "203.0.113.78", Class::Public),
            ("2001:db8::9", "2001:db8::9", Class::Local),
            ("64:ff9b::203.0.113.77", "203.0.113.77", Class::Local),
            ("2002:cb00:714d::1", "203.0.113.77", Class::Local),
            ("10.0.0.1", "10.0.0.1", Class::Local),
            ("169.254.169.254", "169.254.169.254", Class::Local),
            ("224.0.0.1", "224.0.0.1", Class::Never),
        ] {
            let found = classify_routed(address.parse().unwrap(), &[], here(local)).unwrap();
            assert_eq!(found, class, "{address} where {local} is here");
        }
        let silent = |_: IpAddr| Err(io::ErrorKind::PermissionDenied.into());
        assert!(classify_routed("203.0.113.77".parse().unwrap(), &[], silent).is_err());
    }

    #[test]
    fn what_each_grant_opens() {
        let rule = |allow_private, allow_loopback| EgressRule {
            group: "g".into(),
            pattern: HostPattern { wildcard: false, name: "a".into(), port: 443 },
            allow_private,
            allow_loopback,
            proxy: Proxy::None,
            tls: true,
        };
        let all = [Class::Public, Class::Private, Class::LinkLocal, Class::Local, Class::Never];
        let allowed = |r: &EgressRule| all.map(|c| c.allowed_by(r));
        assert_eq!(allowed(&rule(false, false)), [true, false, false, false, false]);
        assert_eq!(allowed(&rule(true, false)), [true, true, false, false, false]);
        assert_eq!(allowed(&rule(true, true)), [true, true, true, true, false]);
        assert_eq!(allowed(&rule(false, true)), [true, false, false, false, false]);
    }

    #[test]
    fn this_host_has_a_loopback() {
        assert!(own_addresses().unwrap().contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
