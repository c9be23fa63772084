//! Sizes, times, names and hosts as the configuration writes them. Each error says what was expected.

use crate::types::HostPattern;
use parse_size::{ByteSuffix, Config as SizeParser};
use std::time::Duration;

/// Longest time that can be granted: what `poll(2)` can wait, 2^31-1 milliseconds (24 days).
pub const MAX_TIME: Duration = Duration::from_millis(i32::MAX as u64);
/// Largest size that can be granted: `off_t` and `rlim_t` as signed numbers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// `90s`, `250ms`, `10m`, `2h`: a whole number and a unit, nothing between them. Fractions are refused (`1500ms` says
/// the same), and so is zero, which would be taken for "without limit" by half of those who read it.
pub fn time(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a whole number with ms, s, m or h, as in \"90s\"";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        _ if number.is_empty() => return Err(EXPECTED.to_owned()),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("a time without a unit; {EXPECTED}")),
        _ => return Err(EXPECTED.to_owned()),
    };
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    match millis.map(Duration::from_millis) {
        Some(Duration::ZERO) => Err("zero is no time to run in; expected at least \"1ms\"".to_owned()),
        Some(time) if time <= MAX_TIME => Ok(time),
        _ => Err("longer than the kernel can wait; expected at most \"596h\"".to_owned()),
    }
}

/// `1GiB`, `512MB`, `100B`: binary and decimal units, written out to the `B`, since `1G` means 10^9 to some and 2^30 to
/// others. Zero is refused: to tmpfs, for one, it means "without limit".
pub fn size(text: &str, max: u64) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, as in \"512MiB\"";
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("a size without a unit; {EXPECTED}"));
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end_matches(' ');
    // parse-size also reads 1e3KB, 1_000B and spaces between digits
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(EXPECTED.to_owned());
    }
    match SizeParser::new().with_decimal().with_byte_suffix(ByteSuffix::Require).parse_size(text) {
        Ok(0) => Err("zero is no limit that a call could keep; expected at least \"1B\"".to_owned()),
        Ok(bytes) if bytes <= max => Ok(bytes),
        Ok(_) | Err(parse_size::Error::PosOverflow) => Err(format!("too large; expected at most {max} bytes")),
        Err(_) => Err(EXPECTED.to_owned()),
    }
}

/// Whether `name` is `first` followed by up to 63 of letters, digits and `_`, all ASCII.
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

/// `[A-Za-z_][A-Za-z0-9_]{0,63}`, and of those that start with `_` only `__introspect__`.
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

/// A name that POSIX gives environment variables.
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
        return Err(format!("an address; names are what is granted, so {EXPECTED}"));
    }
    let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("a host without a port; {EXPECTED}"))?;
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("{port:?} is not a port; {EXPECTED}"));
    }
    let port = match port.parse::<u16>() {
        Ok(53) => return Err("port 53 belongs to the sandbox's own name service; expected another port".to_owned()),
        Ok(port) if port > 0 => port,
        _ => return Err("a port out of range; expected 1 to 65535".to_owned()),
    };
    let (wildcard, name) = match name.strip_prefix("*.") {
        Some(rest) => (true, rest),
        None => (false, name),
    };
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    if name.parse::<std::net::IpAddr>().is_ok() || is_number(name.rsplit('.').next().unwrap_or_default()) {
        return Err(format!("an address; names are what is granted, so {EXPECTED}"));
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

/// A last label that `inet_aton(3)`, and with it many resolvers, reads as part of an address.
fn is_number(label: &str) -> bool {
    match label.strip_prefix("0x") {
        Some(hex) => hex.bytes().all(|b| b.is_ascii_hexdigit()),
        None => !label.is_empty() && label.bytes().all(|b| b.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, millis) in
            [("1ms", 1), ("90s", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("596h", 2_145_600_000)]
        {
            assert_eq!(time(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "10",
            "1.5s",
            "-1s",
            "+1s",
            "1 s",
            "1d",
            "1S",
            "0s",
            "0ms",
            "597h",
            "99999999999999999999s",
            "1s ",
            "١s",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
        assert!(time("10").unwrap_err().starts_with("a time without a unit"));
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1GiB", 1 << 30),
            ("1 GiB", 1 << 30),
            ("512MB", 512_000_000),
            ("1.5KiB", 1536),
            ("7B", 7),
            ("4mib", 4 << 20),
        ] {
            assert_eq!(size(text, MAX_SIZE), Ok(bytes), "{text}");
        }
        for text in [
            "", "1024", "1G", "1k", "GiB", "-1GiB", "0B", "0.1B", "1e3KB", "1_000B", "16EiB", "8EiB", "1XB", "1GiBB",
            "0x10B", "1 000B", "٣B", ".B",
        ] {
            assert!(size(text, MAX_SIZE).is_err(), "{text}");
        }
        assert_eq!(size("2KiB", 2047), Err("too large; expected at most 2047 bytes".to_owned()));
        assert!(size("1024", MAX_SIZE).unwrap_err().starts_with("a size without a unit"));
    }

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
        assert!(host("127.0.0.1:443").unwrap_err().starts_with("an address"));
        assert!(host("a:53").unwrap_err().starts_with("port 53"));
        assert!(host(&format!("{}:1", vec!["a".repeat(63); 4].join("."))).is_err());
    }
}
