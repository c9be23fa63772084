//! What the supervisor spends on a call: a small multiple of what the call spends itself.
//!
//! The call's limits cannot hold it: a supervisor under them would be killed with a call that runs out of memory, and would wait
//! with it for its share of the processors, its deadline included. So the supervisor looks at its own processor time, and if the
//! call makes it work too hard, it leaves what the plugin sends unread for a while. The plugin then waits: every channel
//! between the two is bounded.
#![forbid(unsafe_code)]

use nix::sys::resource::{UsageWho, getrusage};
use std::time::{Duration, Instant};

/// What each call may cost, whatever it spends.
const FREE: Duration = Duration::from_millis(100);
/// How many times the call's own processor time.
const TIMES: u32 = 2;
/// Besides, one part in so many of the time that has passed, so that what is unread is read in the end; and at most as much
/// again for looks at the call.
const SHARE: u32 = 50;
/// From here on the supervisor is counted in the call's cgroup, if there is one; moving there costs some milliseconds.
const LARGE: Duration = Duration::from_millis(50);
/// Longest time without a look.
const PAUSE: Duration = Duration::from_millis(100);

/// The account of one call.
#[derive(Debug)]
pub struct Effort {
    begun: Instant,
    /// What this process had used by then, and what does not count since.
    before: Duration,
    /// What the call had used when it was looked at.
    call: Duration,
    /// A look costs time too.
    next_look: Instant,
    over: Option<Duration>,
    large: bool,
}

impl Effort {
    /// Begins to count.
    #[must_use]
    pub fn begin() -> Self {
        let begun = Instant::now();
        Effort { begun, before: own(), call: Duration::ZERO, next_look: begun, over: None, large: false }
    }

    /// Whether nothing more should be done for the call now. `spent` looks at the call's processor time; it is asked only when
    /// that decides.
    pub fn is_over(&mut self, spent: impl FnOnce() -> Duration) -> bool {
        let now = Instant::now();
        let own = own().saturating_sub(self.before);
        self.large |= own >= LARGE;
        let free = FREE + now.duration_since(self.begun) / SHARE;
        if own > free + self.call * TIMES && now >= self.next_look {
            let mark = Effort::mark();
            self.call = self.call.max(spent());
            let cost = Effort::mark().saturating_sub(mark).max(now.elapsed());
            self.next_look = now + cost.saturating_mul(SHARE);
            // A look must not make the next one necessary.
            self.leave_out(mark);
        }
        self.over = own.checked_sub(free + self.call * TIMES).filter(|over| !over.is_zero());
        self.over.is_some()
    }

    /// Whether the call has cost so much, when [`Effort::is_over`] last looked, that it is worth counting in its cgroup.
    #[must_use]
    pub fn is_large(&self) -> bool {
        self.large
    }

    /// How long to wait before the next look.
    #[must_use]
    pub fn pause(&self) -> Duration {
        self.over.unwrap_or_default().saturating_mul(SHARE).clamp(Duration::from_millis(1), PAUSE)
    }

    /// The processor time that this process has used, to leave a part of it out later: see [`Effort::leave_out`].
    #[must_use]
    pub fn mark() -> Duration {
        own()
    }

    /// What was used since the mark does not count: it happens once a call, or at fixed times, and the grant bounds it.
    pub fn leave_out(&mut self, mark: Duration) {
        self.before += own().saturating_sub(mark);
    }
}

/// The processor time of this process, user and system.
fn own() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return Duration::ZERO };
    let micros = |time: nix::sys::time::TimeVal| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec()).unwrap_or(0)
    };
    Duration::from_micros(micros(usage.user_time()) + micros(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(time: Duration) {
        let until = own() + time;
        while own() < until {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn what_the_call_spends_is_what_may_be_spent_on_it() {
        let mut effort = Effort::begin();
        assert!(!effort.is_over(|| panic!("nothing to be decided yet")));
        assert!(!effort.is_large());
        spin(FREE + Duration::from_millis(60));
        assert!(!effort.is_over(|| Duration::from_secs(1)));
        assert!(effort.is_large());
        assert!(!effort.is_over(|| panic!("known to be enough")));
        let mut idle = Effort::begin();
        spin(FREE + Duration::from_millis(60));
        assert!(idle.is_over(|| Duration::from_millis(1)));
        assert!((Duration::from_millis(1)..=PAUSE).contains(&idle.pause()));
    }

    #[test]
    fn looking_puts_nobody_off() {
        let mut effort = Effort::begin();
        spin(FREE + Duration::from_millis(2));
        let begun = Instant::now();
        // a look that takes long, as at many processes
        while effort.is_over(|| {
            spin(Duration::from_millis(3));
            Duration::ZERO
        }) {
            assert!(begun.elapsed() < Duration::from_secs(5), "held for ever");
            std::thread::sleep(effort.pause());
        }
    }

    #[test]
    fn what_is_left_out_does_not_count() {
        let mut effort = Effort::begin();
        let mark = Effort::mark();
        spin(FREE * 2);
        effort.leave_out(mark);
        assert!(!effort.is_over(|| Duration::ZERO));
    }
}
