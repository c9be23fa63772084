//! Host names: their normal form, and the comparison with granted names.

use super::plan::HOST_NAME;
use crate::types::{EgressRule, HostPattern};

/// Longest name without its trailing dot (RFC 1035 §2.3.4: 255 octets on the wire).
pub const MAX_NAME: usize = 253;
/// Longest label.
const MAX_LABEL: usize = 63;

/// The form in which names are compared: lower-case ASCII without the trailing dot.
///
/// `None` for an invalid host name: NUL, newline, space, non-ASCII, an empty label, a label over 63 bytes, a name
/// over 253. Only letters, digits, `-` and `_` are accepted, so a normalized name is safe in a log, in an HTTP
/// header and in `getaddrinfo(3)`.
pub fn normalize(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() || name.len() > MAX_NAME {
        return None;
    }
    let label = |l: &str| {
        !l.is_empty() && l.len() <= MAX_LABEL && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.split('.').all(label).then(|| name.to_ascii_lowercase())
}

/// Whether it names the sandbox itself, inside (RFC 6761 §6.3 for `localhost`).
#[must_use]
pub fn is_own(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    last.eq_ignore_ascii_case("localhost") || name.eq_ignore_ascii_case(HOST_NAME)
}

/// Whether `pattern` covers `name`, normalized by [`normalize`]. `*.x.y` covers one or more labels before `.x.y`, never
/// `x.y` itself. The port is not compared.
pub fn matches(pattern: &HostPattern, name: &str) -> bool {
    if !pattern.wildcard {
        return pattern.name == name;
    }
    // The dot is required: otherwise `*.example.org` would cover `evil-example.org`.
    name.strip_suffix(pattern.name.as_str())
        .and_then(|left| left.strip_suffix('.'))
        .is_some_and(|left| !left.is_empty())
}

/// Whether any rule grants `name` on any port, for the name stub.
pub fn granted(rules: &[EgressRule], name: &str) -> bool {
    rules.iter().any(|r| matches(&r.pattern, name))
}

/// The rule that grants `name` on `port`, for a connection. An exact name takes precedence over a wildcard, so that the
/// narrower rule's `tls` and `allow_private` apply; otherwise the first rule in the configuration.
pub fn rule_for<'a>(rules: &'a [EgressRule], name: &str, port: u16) -> Option<&'a EgressRule> {
    let mut fit = rules.iter().filter(|r| r.pattern.port == port && matches(&r.pattern, name));
    let first = fit.next()?;
    if !first.pattern.wildcard {
        return Some(first);
    }
    Some(fit.find(|r| !r.pattern.wildcard).unwrap_or(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        match text.strip_prefix("*.") {
            Some(rest) => HostPattern { wildcard: true, name: rest.to_owned(), port: 443 },
            None => HostPattern { wildcard: false, name: text.to_owned(), port: 443 },
        }
    }

    #[test]
    fn one_form() {
        assert_eq!(normalize("Files.Example.ORG.").as_deref(), Some("files.example.org"));
        assert_eq!(normalize("_dmarc.example.org").as_deref(), Some("_dmarc.example.org"));
        assert_eq!(normalize(&format!("{}.org", "a".repeat(63))).map(|n| n.len()), Some(67));
    }

    #[test]
    fn no_host_names() {
        let long_label = format!("{}.org", "a".repeat(64));
        let long_name = ["a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(62)].join(".");
        assert_eq!(long_name.len(), 254);
        for bad in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a.org..",
            "a\0.org",
            "a\n.org",
            "a.org\n",
            "ä.org",
            "a b.org",
            "a/b",
            "*.example.org",
            "[::1]",
            "a:443",
            "example.org\0.evil.net",
            &long_label,
            &long_name,
        ] {
            assert_eq!(normalize(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn exact_is_exact() {
        let p = pattern("example.org");
        assert!(matches(&p, "example.org"));
        for other in ["evil-example.org", "www.example.org", "example.org.evil.net", "xample.org", "example.or"] {
            assert!(!matches(&p, other), "{other}");
        }
    }

    #[test]
    fn wildcard_is_one_or_more_labels() {
        let p = pattern("*.example.org");
        assert!(matches(&p, "a.example.org"));
        assert!(matches(&p, "b.a.example.org"));
        for other in ["example.org", ".example.org", "evil-example.org", "a.example.org.evil.net", "aexample.org"] {
            assert!(!matches(&p, other), "{other}");
        }
    }

    #[test]
    fn the_exact_rule_goes_first_and_the_port_counts() {
        let rule = |text: &str, port, tls| EgressRule {
            group: "g".into(),
            pattern: HostPattern { port, ..pattern(text) },
            allow_private: false,
            allow_loopback: false,
            proxy: crate::types::Proxy::None,
            tls,
        };
        let rules =
            [rule("*.example.org", 443, true), rule("a.example.org", 443, false), rule("a.example.org", 80, true)];
        assert_eq!(rule_for(&rules, "a.example.org", 443), Some(&rules[1]));
        assert_eq!(rule_for(&rules, "b.example.org", 443), Some(&rules[0]));
        assert_eq!(rule_for(&rules, "a.example.org", 80), Some(&rules[2]));
        assert_eq!(rule_for(&rules, "b.example.org", 80), None);
        assert!(granted(&rules, "b.example.org"));
        assert!(!granted(&rules, "example.org"));
    }
}
