//! The syntax of names and hosts in the configuration. Each error contains what was expected.

use crate::types::{CallerSpec, HostPattern};

/// Whether `name` is ASCII: a character that `first` accepts, then up to 63 letters, digits and `_`.
fn identifier(name: &str, first: impl Fn(u8) -> bool) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= 64
        && bytes.first().is_some_and(|b| first(*b))
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
}

/// `[A-Z][A-Za-z0-9_]{0,63}`: a plugin's name, which is its class.
pub fn is_plugin_name(name: &str) -> bool {
    identifier(name, |b| b.is_ascii_uppercase())
}

/// `[A-Za-z][A-Za-z0-9_]{0,63}`, or `__introspect__`.
pub fn is_method_name(name: &str) -> bool {
    name == "__introspect__" || identifier(name, |b| b.is_ascii_alphabetic())
}

/// `pip_plugin.plugin`: identifiers joined by dots.
pub fn is_module_name(name: &str) -> bool {
    name.len() <= 255 && name.split('.').all(|part| identifier(part, |b| b.is_ascii_alphabetic() || b == b'_'))
}

/// A name of an egress group: letters, digits, `_` and `-`.
pub fn is_group_name(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// The name of an environment variable, as in POSIX.
pub fn is_variable_name(name: &str) -> bool {
    name.len() <= 255 && {
        let bytes = name.as_bytes();
        bytes.first().is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
            && bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_')
    }
}

/// `name:port` or `*.name:port`, lower-cased, without a trailing dot.
pub fn host(text: &str) -> Result<HostPattern, String> {
    const EXPECTED: &str = "expected \"name:port\" or \"*.name:port\", as in \"files.example.org:443\"";
    if text.starts_with('[') || text.parse::<std::net::IpAddr>().is_ok() {
        return Err(format!("an address; only names can be granted, so {EXPECTED}"));
    }
    let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("a host without a port; {EXPECTED}"))?;
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{port:?} is not a port; {EXPECTED}"));
    }
    let port = match port.parse::<u16>() {
        Ok(53) => return Err("port 53 is reserved for the sandbox's name service; expected another port".to_owned()),
        Ok(port) if port > 0 => port,
        _ => return Err("a port out of range; expected 1 to 65535".to_owned()),
    };
    let (wildcard, name) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.parse::<std::net::IpAddr>().is_ok() || is_number(name.rsplit('.').next().unwrap_or_default()) {
        return Err(format!("an address; only names can be granted, so {EXPECTED}"));
    }
    let label = |part: &str| {
        (1..=63).contains(&part.len())
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(format!("not a host name in ASCII (other alphabets as xn--…); {EXPECTED}"));
    }
    Ok(HostPattern { wildcard, name, port })
}

/// The host of a proxy's URL: a name, an IPv4 address, or an IPv6 address in brackets.
pub fn is_proxy_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let label = |part: &str| {
        (1..=63).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// A last label that `inet_aton(3)`, and therefore many resolvers, parses as part of an address.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()),
    }
}

/// A user's or group's name: as useradd(8) accepts them, and with ".", "@" or "\" as directory services have them.
pub fn is_account_name(name: &str) -> bool {
    (1..=256).contains(&name.len())
        && !name.starts_with('-')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.@\\".contains(&b))
}

/// `user:NAME` or `group:NAME`; the name may be a number. 2^32-1 is not a valid id.
pub fn caller(text: &str) -> Option<CallerSpec> {
    let (kind, name) = text.split_once(':')?;
    let fits = if name.bytes().all(|b| b.is_ascii_digit()) {
        name.parse::<u32>().is_ok_and(|id| id != u32::MAX)
    } else {
        is_account_name(name)
    };
    match kind {
        "user" if fits => Some(CallerSpec::User(name.to_owned())),
        "group" if fits => Some(CallerSpec::Group(name.to_owned())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(is_plugin_name("PipPlugin") && is_plugin_name(&format!("A{}", "a".repeat(63))));
        for name in ["", "pip", "_P", "P-x", "P.x", "Ä", "P\n", "../P", "P\0", &format!("A{}", "a".repeat(64))] {
            assert!(!is_plugin_name(name), "{name:?}");
        }
        assert!(is_method_name("install") && is_method_name("__introspect__") && is_method_name("Do_It2"));
        for name in ["", "_x", "__init__", "__introspect__x", "a-b", "-", "..", "a\n", "ínstall", &"a".repeat(65)] {
            assert!(!is_method_name(name), "{name:?}");
        }
        assert!(is_module_name("a") && is_module_name("pip_plugin.plugin") && is_module_name("_a._b"));
        for name in ["", ".", "a.", ".a", "a..b", "a/b", "1a", "a-b", "a b", "a\n"] {
            assert!(!is_module_name(name), "{name:?}");
        }
        assert!(is_group_name("pip-2") && !is_group_name("2") && !is_group_name(""));
        assert!(is_variable_name("_A1") && !is_variable_name("A=B") && !is_variable_name("1A"));
    }

    #[test]
    fn callers() {
        assert_eq!(caller("user:deploy"), Some(CallerSpec::User("deploy".into())));
        assert_eq!(caller("group:EXAMPLE\\ci.x@y"), Some(CallerSpec::Group("EXAMPLE\\ci.x@y".into())));
        assert_eq!(caller("user:0").map(|one| one.to_string()).as_deref(), Some("user:0"));
        for text in [
            "",
            "user",
            "user:",
            ":x",
            "deploy",
            "users:x",
            "user:a b",
            "user:-x",
            "user:4294967295",
            "user:é",
            "group:*",
            "user:x\n",
        ] {
            assert_eq!(caller(text), None, "{text:?}");
        }
    }

    #[test]
    fn hosts() {
        let pattern = |wildcard, name: &str, port| Ok(HostPattern { wildcard, name: name.to_owned(), port });
        assert_eq!(host("Example.ORG.:443"), pattern(false, "example.org", 443));
        assert_eq!(host("*.example.org:8443"), pattern(true, "example.org", 8443));
        assert_eq!(host("localhost:80"), pattern(false, "localhost", 80));
        assert_eq!(host("a_b.xn--bcher-kva:1"), pattern(false, "a_b.xn--bcher-kva", 1));
        for text in [
            "",
            ":443",
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a:x",
            "a:53",
            "*:443",
            "*.:443",
            "*.*.a:443",
            "a*.b:443",
            "a..b:443",
            ".a:443",
            "-a.b:443",
            "a-:443",
            "bücher.de:443",
            "a b:443",
            "a\n:443",
            "a/b:443",
            "https://a:443",
            "u@a:443",
            "a..:443",
            "127.0.0.1:443",
            "[::1]:443",
            "::1",
            "1.2:80",
            "10.0.0.1",
            "0x7f.1:80",
            "2130706433:80",
            "*.0.0.1:80",
            "a\0:443",
        ] {
            assert!(host(text).is_err(), "{text:?}");
        }
        for text in ["proxy", "Proxy.Example.org.", "10.0.0.1", "[::1]", "a_b"] {
            assert!(is_proxy_host(text), "{text}");
        }
        for text in ["", ".", "a..b", "h]", "[h", "::1", ":::", "[1.2.3.4]", "a b", "é", &"a".repeat(64)] {
            assert!(!is_proxy_host(text), "{text}");
        }
        assert!(host("127.0.0.1:443").unwrap_err().starts_with("an address"));
        assert!(host("a:53").unwrap_err().starts_with("port 53"));
        assert!(host(&format!("{}:1", vec!["a".repeat(63); 4].join("."))).is_err());
    }
}
