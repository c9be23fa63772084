//! Sizes and times as people write them. A unit is always wanted: a bare number means something else to everyone.
#![forbid(unsafe_code)]

use std::time::Duration;

/// No limit is longer: beyond it, adding to the clock could overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

/// A time: a whole number and `ms`, `s`, `m` or `h`. Above zero, at most 365 days.
///
/// # Errors
/// The value, what is wrong with it, and how it is written.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = |reason: &str| Err(format!("{}: {reason}; write it like 500ms, 60s, 10m or 1h", shown(text)));
    let end = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(end);
    let milliseconds = match unit {
        _ if number.is_empty() => return wrong("is no time"),
        "" => return wrong("has no unit"),
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return wrong("has a unit that is not ms, s, m or h"),
    };
    let value = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds));
    match value.map(Duration::from_millis) {
        Some(Duration::ZERO) => wrong("is zero"),
        Some(value) if value <= LONGEST => Ok(value),
        _ => wrong("is longer than 365 days"),
    }
}

/// A size in bytes: a number and `B`, `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024) or `kB`, `MB`, `GB`, `TB` (powers of
/// 1000). Above zero.
///
/// # Errors
/// The value, what is wrong with it, and how it is written.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = |reason: &str| Err(format!("{}: {reason}; write it like 512KiB, 256MiB or 1GiB", shown(text)));
    let end = text.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
    let (number, unit) = text.split_at(end);
    if !number.starts_with(|c: char| c.is_ascii_digit()) {
        return wrong("is no size");
    }
    // The library also takes exponents, spaces and bare numbers, which are easily misread.
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    match unit.as_str() {
        "" => return wrong("has no unit"),
        "b" | "kb" | "mb" | "gb" | "tb" | "kib" | "mib" | "gib" | "tib" => {}
        _ => return wrong("has a unit that is not B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"),
    }
    match parse_size::parse_size(format!("{number}{unit}")) {
        Ok(0) => wrong("is zero"),
        // i64 is what the kernel counts file sizes and limits by.
        Ok(size) if i64::try_from(size).is_ok() => Ok(size),
        Ok(_) | Err(parse_size::Error::PosOverflow) => wrong("is too large"),
        Err(_) => wrong("is no size"),
    }
}

fn shown(text: &str) -> String {
    if text.is_empty() { "an empty text".to_owned() } else { crate::report::text::quote(text, 40) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (text, milliseconds) in
            [("1ms", 1), ("60s", 60_000), ("10m", 600_000), ("2h", 7_200_000), ("8760h", 31_536_000_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for (text, error) in [
            ("", "an empty text: is no time"),
            ("60", "60: has no unit"),
            ("0s", "0s: is zero"),
            ("-1s", "-1s: is no time"),
            ("1.5s", "1.5s: has a unit that is not ms, s, m or h"),
            ("1 s", "1 s: has a unit that is not ms, s, m or h"),
            ("1S", "1S: has a unit that is not ms, s, m or h"),
            ("1d", "1d: has a unit that is not ms, s, m or h"),
            ("8761h", "8761h: is longer than 365 days"),
            ("18446744073709551615h", "18446744073709551615h: is longer than 365 days"),
            ("99999999999999999999s", "99999999999999999999s: is longer than 365 days"),
            ("१s", "१s: is no time"),
            ("\x1b", "\\x1b: is no time"),
        ] {
            assert_eq!(duration(text), Err(format!("{error}; write it like 500ms, 60s, 10m or 1h")), "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("1B", 1),
            ("1KiB", 1024),
            ("4MiB", 4 << 20),
            ("1GiB", 1 << 30),
            ("1 TiB", 1 << 40),
            ("2kB", 2000),
            ("2KB", 2000),
            ("1.5MB", 1_500_000),
            ("256mib", 256 << 20),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, error) in [
            ("", "an empty text: is no size"),
            ("100", "100: has no unit"),
            ("0B", "0B: is zero"),
            ("0.4B", "0.4B: is zero"),
            ("-1B", "-1B: is no size"),
            ("MiB", "MiB: is no size"),
            ("1.2.3B", "1.2.3B: is no size"),
            ("1e3B", "1e3B: has a unit that is not B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"),
            ("1M", "1M: has a unit that is not B, KiB, MiB, GiB, TiB, kB, MB, GB or TB"),
            ("9223372036854775808B", "9223372036854775808B: is too large"),
            ("99999999999999999999B", "99999999999999999999B: is too large"),
            ("99999999TiB", "99999999TiB: is too large"),
        ] {
            assert_eq!(size(text), Err(format!("{error}; write it like 512KiB, 256MiB or 1GiB")), "{text}");
        }
    }
}
