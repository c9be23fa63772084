//! How fast a call may make connections.
//!
//! Each costs the host more than it costs the plugin: a look-up, a thread, an entry in tables of the host's (connections
//! that are waiting to be forgotten, and those that a firewall tracks) that are kept for minutes and are bounded for the
//! host as a whole. Those above the pace are not refused: they wait in their listener's queue.

use std::time::{Duration, Instant};

/// Connections that a call may make at once, before the pace holds.
pub const BURST: u32 = 1000;
/// Connections a second from then on.
pub const PER_SECOND: u32 = 100;
/// Time in which one more may be made.
const EVERY: Duration = Duration::from_millis(1000 / PER_SECOND as u64);

/// A bucket that fills by one every 10 ms.
#[derive(Debug)]
pub struct Pace {
    left: u32,
    /// When it was last filled.
    at: Instant,
}

impl Pace {
    /// A full one.
    pub fn new(now: Instant) -> Pace {
        Pace { left: BURST, at: now }
    }

    /// Whether one may be made at `now`.
    pub fn has_room(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.at).as_nanos() / EVERY.as_nanos();
        let more = u32::try_from(passed).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(more).min(BURST);
        if self.left == BURST {
            self.at = now;
        } else {
            self.at += EVERY * more;
        }
        self.left > 0
    }

    /// One was made.
    pub fn take(&mut self) {
        self.left = self.left.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..BURST {
            assert!(pace.has_room(start));
            pace.take();
        }
        assert!(!pace.has_room(start));
        assert!(!pace.has_room(start + Duration::from_millis(9)));
        // Looking often does not lose the part of an interval that has passed.
        assert!(pace.has_room(start + Duration::from_millis(10)));
        pace.take();
        assert!(!pace.has_room(start + Duration::from_millis(19)));
        let mut made = 0;
        for ms in 19..=1019 {
            while pace.has_room(start + Duration::from_millis(ms)) {
                pace.take();
                made += 1;
            }
        }
        assert_eq!(made, PER_SECOND);
        // An hour of rest gives a burst, and no more.
        let late = start + Duration::from_secs(3600);
        let again = (0..2 * BURST)
            .take_while(|_| {
                let room = pace.has_room(late);
                pace.take();
                room
            })
            .count();
        assert_eq!(again, BURST as usize);
    }
}
