//! Connections to addresses: the call's network namespace has no route to the outside, so the kernel denies them at once
//! (`ENETUNREACH`). It only counts them; the addresses are unknown.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;

/// The counters of the call's network namespace. The open files keep them readable when its processes have ended.
#[derive(Debug, Default)]
pub struct Counters {
    v4: Option<File>,
    v6: Option<File>,
}

impl Counters {
    /// From the files that the child opened: `/proc/self/net/snmp`, and `snmp6` if the kernel has IPv6.
    #[must_use]
    pub fn new(files: impl IntoIterator<Item = OwnedFd>) -> Self {
        let mut files = files.into_iter().map(File::from);
        Counters { v4: files.next(), v6: files.next() }
    }

    /// Packets and connections that found no route (`ipSystemStatsOutNoRoutes` of RFC 4293).
    #[must_use]
    pub fn count(self) -> u64 {
        let counted = |file, read: fn(&str) -> Option<u64>| text(file).as_deref().and_then(read).unwrap_or(0);
        counted(self.v4, v4).saturating_add(counted(self.v6, v6))
    }
}

fn text(file: Option<File>) -> Option<String> {
    let mut text = String::new();
    file?.take(65_536).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Two lines that begin with `Ip:`, the names and the values.
fn v4(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_ascii_whitespace().position(|name| name == "OutNoRoutes")?;
    values.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// One line for each counter.
fn v6(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("Ip6OutNoRoutes"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn counters_are_found_by_their_names() {
        let text = "Ip: Forwarding OutDiscards OutNoRoutes ReasmTimeout\nIp: 1 2 3 4\nIcmp: InMsgs\nIcmp: 7\n";
        assert_eq!(super::v4(text), Some(3));
        assert_eq!(super::v4("Ip: OutNoRoutes\n"), None);
        assert_eq!(super::v6("Ip6InReceives   \t9\nIp6OutNoRoutes                  \t5\n"), Some(5));
        let own = std::fs::read_to_string("/proc/self/net/snmp").unwrap();
        assert!(super::v4(&own).is_some(), "{own}");
    }
}
