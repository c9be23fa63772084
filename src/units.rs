//! Sizes and times in the configuration and on the command line. A unit is required: a bare number is ambiguous. Each error
//! contains what was expected.
#![forbid(unsafe_code)]

use parse_size::{ByteSuffix, Config as SizeParser};
use serde::{Serialize, Serializer};
use std::time::Duration;

/// Longest time that can be granted: the longest wait of `poll(2)`, 2^31-1 milliseconds (24 days).
pub const MAX_TIME: Duration = Duration::from_millis(i32::MAX as u64);
/// Largest size that can be granted: `off_t` and `rlim_t` as signed numbers.
pub const MAX_SIZE: u64 = i64::MAX as u64;

/// Most bytes that the supervisor keeps in memory for a call: of `output`, `arguments`, `result`.
pub const MAX_HELD: u64 = 1 << 30;
/// Most processes of a call: `PID_MAX_LIMIT` of 64-bit kernels.
pub const MAX_PROCESSES: u64 = 1 << 22;
/// Most descriptors of a process: the kernel's default of `/proc/sys/fs/nr_open`.
pub const MAX_OPEN_FILES: u64 = 1 << 20;

/// A number of processors, such as `1.5`: processor time in each [`Cpus::PERIOD_US`], microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus(u64);

impl Cpus {
    /// The kernel's default (`cpu.max`, cgroup-v2.rst).
    pub const PERIOD_US: u64 = 100_000;
    /// The kernel accepts a quota from 1 ms, and supports up to 8192 processors (`CONFIG_NR_CPUS`).
    pub const RANGE: std::ops::RangeInclusive<f64> = 0.01..=8192.0;

    /// This number of processors; `None` outside [`Cpus::RANGE`].
    #[must_use]
    pub fn new(number: f64) -> Option<Cpus> {
        // In this range, rounding changes less than a microsecond.
        Cpus::RANGE.contains(&number).then(|| Cpus((number * Cpus::PERIOD_US as f64).round() as u64))
    }

    /// Processor time in each [`Cpus::PERIOD_US`], microseconds.
    #[must_use]
    pub fn quota_us(self) -> u64 {
        self.0
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (whole, rest) = (self.0 / Cpus::PERIOD_US, self.0 % Cpus::PERIOD_US);
        match rest {
            0 => serializer.serialize_u64(whole),
            _ => serializer.serialize_f64(self.0 as f64 / Cpus::PERIOD_US as f64),
        }
    }
}

/// `90s`, `250ms`, `10m`, `2h`: a whole number and a unit, without a space. Fractions are refused (write `1500ms`), and so is
/// zero, which many would read as "no limit".
pub fn time(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a whole number with ms, s, m or h, such as \"90s\"";
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit {
        _ if number.is_empty() => return Err(EXPECTED.to_owned()),
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(format!("a time needs a unit; {EXPECTED}")),
        _ => return Err(EXPECTED.to_owned()),
    };
    let millis = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    match millis.map(Duration::from_millis) {
        Some(Duration::ZERO) => Err("must be greater than zero; expected at least \"1ms\"".to_owned()),
        Some(time) if time <= MAX_TIME => Ok(time),
        _ => Err("too long; expected at most \"596h\"".to_owned()),
    }
}

/// `1GiB`, `512MB`, `100B`: binary and decimal units with their `B`, because `1G` can mean 10^9 or 2^30. Zero is refused: tmpfs,
/// for example, reads it as "no limit".
pub fn size(text: &str, max: u64) -> Result<u64, String> {
    const EXPECTED: &str = "expected a size with B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as \"512MiB\"";
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("a size needs a unit; {EXPECTED}"));
    }
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim_end_matches(' ');
    let unit_is_known = match text[number.len()..].trim_start_matches(' ').as_bytes() {
        [b'B' | b'b'] => true,
        [prefix, rest @ ..] => {
            b"KMGTPE".contains(&prefix.to_ascii_uppercase())
                && (rest.eq_ignore_ascii_case(b"B") || rest.eq_ignore_ascii_case(b"iB"))
        }
        [] => false,
    };
    // parse-size also accepts 1e3KB, 1eKB, 1iB, 1_000B and spaces between digits
    if !unit_is_known || number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(EXPECTED.to_owned());
    }
    // 2^64 has 20 digits; parse-size overflows on the largest 20-digit numbers with another digit
    if number.bytes().filter(u8::is_ascii_digit).count() > 20 {
        return Err(format!("too many digits; {EXPECTED}"));
    }
    match SizeParser::new().with_decimal().with_byte_suffix(ByteSuffix::Require).parse_size(text) {
        Ok(0) => Err("must be greater than zero; expected at least \"1B\"".to_owned()),
        Ok(bytes) if bytes <= max => Ok(bytes),
        Ok(_) | Err(parse_size::Error::PosOverflow) => Err(format!("too large; expected at most {max} bytes")),
        Err(_) => Err(EXPECTED.to_owned()),
    }
}

/// A size as a whole number of the largest possible unit.
#[must_use]
pub(crate) fn size_text(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    match units.iter().find(|(_, bits)| bytes > 0 && bytes.trailing_zeros() >= *bits) {
        Some((unit, bits)) => format!("{}{unit}", bytes >> bits),
        None => format!("{bytes}B"),
    }
}

/// A time as a whole number of the largest possible unit.
#[must_use]
pub(crate) fn time_text(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [("h", 3_600_000), ("m", 60_000), ("s", 1000)];
    match units.iter().find(|(_, length)| ms % *length == 0) {
        Some((unit, length)) => format!("{}{unit}", ms / length),
        None => format!("{ms}ms"),
    }
}

/// Milliseconds.
#[must_use]
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Seconds, rounded up.
#[must_use]
pub(crate) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
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
        assert!(time("10").unwrap_err().starts_with("a time needs a unit"));
    }

    #[test]
    fn amounts_are_written_in_their_largest_unit() {
        for (bytes, text) in [(2 << 30, "2GiB"), (1 << 20, "1MiB"), (6 << 20, "6MiB"), (2000, "2000B"), (1024, "1KiB")]
        {
            assert_eq!(size_text(bytes), text);
            assert_eq!(size(text, u64::MAX), Ok(bytes));
        }
        for (ms, text) in [(500, "500ms"), (2000, "2s"), (120_000, "2m"), (7_200_000, "2h"), (90_000, "90s")] {
            assert_eq!(time_text(Duration::from_millis(ms)), text);
            assert_eq!(time(text), Ok(Duration::from_millis(ms)));
        }
        assert_eq!([1, 1000, 1001].map(|ms| whole_seconds(Duration::from_millis(ms))), [1, 1, 2]);
    }

    #[test]
    fn processors() {
        for (number, quota_us, written) in
            [(1.0, 100_000, "1"), (1.5, 150_000, "1.5"), (0.01, 1_000, "0.01"), (8192.0, 819_200_000, "8192")]
        {
            let cpus = Cpus::new(number).unwrap();
            assert_eq!((cpus.quota_us(), serde_json::to_string(&cpus).unwrap().as_str()), (quota_us, written));
        }
        assert_eq!(Cpus::new(0.333_333).unwrap().quota_us(), 33_333);
        for number in [0.0, -1.0, 0.009, 8192.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Cpus::new(number), None, "{number}");
        }
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
        // parse-size alone reads the first two as 90 and 1024, and overflows on the others
        for text in ["90 iB", "1eKiB", "18446744073709551615.5TB", "000000000000000000001B"] {
            assert!(size(text, MAX_SIZE).is_err(), "{text}");
        }
        assert_eq!(size("2KiB", 2047), Err("too large; expected at most 2047 bytes".to_owned()));
        assert!(size("1024", MAX_SIZE).unwrap_err().starts_with("a size needs a unit"));
    }
}
