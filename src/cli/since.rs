//! The value of `--since`.

use chrono::{DateTime, Days, Local, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use std::ffi::OsStr;
use std::time::Duration;

/// A time as people write it for `--since`: how long ago (`90s`, `15m`, `1h`, `2d`, `1w`), `today`, `yesterday`, a date,
/// a date and time of day (of this host), or an RFC 3339 timestamp.
pub(super) fn since(text: &OsStr) -> Result<DateTime<Utc>, String> {
    before(&text.to_string_lossy(), Utc::now())
}

fn before(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    const EXPECTED: &str = "expected how long ago, as in 90s, 15m, 1h, 2d, 1w; today or yesterday; or a time, as in 2026-11-24, \
         2026-11-24T13:00 or 2026-11-24T13:00:00Z";
    let local = |date: NaiveDate, time: NaiveTime| {
        // An hour that a change of clocks skips does not exist; if one comes twice, the first is meant.
        Local.from_local_datetime(&NaiveDateTime::new(date, time)).earliest().map(|time| time.to_utc())
    };
    let today = now.with_timezone(&Local).date_naive();
    let parsed = match text {
        "now" => Some(now),
        "today" => local(today, NaiveTime::MIN),
        "yesterday" => today.checked_sub_days(Days::new(1)).and_then(|date| local(date, NaiveTime::MIN)),
        _ => ago(text).and_then(|ago| now.checked_sub_signed(ago)).or_else(|| {
            let timestamp = DateTime::parse_from_rfc3339(text).ok().map(|time| time.to_utc());
            timestamp.or_else(|| local(text.parse().ok()?, NaiveTime::MIN)).or_else(|| {
                let (date, time) = text.split_once(['T', ' '])?;
                let time =
                    NaiveTime::parse_from_str(time, "%H:%M:%S").or_else(|_| NaiveTime::parse_from_str(time, "%H:%M"));
                local(date.parse().ok()?, time.ok()?)
            })
        }),
    };
    parsed.ok_or_else(|| EXPECTED.to_owned())
}

fn ago(text: &str) -> Option<TimeDelta> {
    // As journalctl(1) writes it.
    let text = text.strip_prefix('-').unwrap_or(text);
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: u64 = text[..digits].parse().ok()?;
    let seconds = match &text[digits..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return None,
    };
    TimeDelta::from_std(Duration::from_secs(number.checked_mul(seconds)?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let now = DateTime::parse_from_rfc3339("2026-11-24T12:00:00Z").unwrap().to_utc();
        let ago = |text: &str| (now - before(text, now).unwrap()).num_seconds();
        for (text, seconds) in [
            ("90s", 90),
            ("15m", 900),
            ("15min", 900),
            ("1h", 3600),
            ("-1h", 3600),
            ("2d", 172_800),
            ("1w", 604_800),
            ("0s", 0),
            ("now", 0),
        ] {
            assert_eq!(ago(text), seconds, "{text}");
        }
        assert_eq!(ago("2026-11-24T11:59:00Z"), 60);
        assert_eq!(ago("2026-11-24T12:59:00+01:00"), 60);
        let local = |text: &str| before(text, now).unwrap().with_timezone(&Local).naive_local().to_string();
        assert_eq!(local("2026-11-01"), "2026-11-01 00:00:00");
        assert_eq!(local("2026-11-01T10:30"), "2026-11-01 10:30:00");
        assert_eq!(local("2026-11-01 10:30:15"), "2026-11-01 10:30:15");
        assert!(local("today").ends_with(" 00:00:00") && ago("today") < 86_400);
        assert_eq!(before("today", now).unwrap() - before("yesterday", now).unwrap(), TimeDelta::days(1));
        for text in [
            "",
            "h",
            "1",
            "1y",
            "--1h",
            "-",
            "+1h",
            "1.5h",
            "1h30m",
            "99999999999999999999s",
            "999999999999999d",
            "2026-13-01",
            "2026-11-24T25:00",
            "tomorrow",
            "é1h",
            "1h\n",
        ] {
            assert!(before(text, now).is_err(), "{text:?}");
        }
    }
}
