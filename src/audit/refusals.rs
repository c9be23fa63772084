//! How many calls each user was refused lately over the service's socket, so that one who asks again and again does not
//! fill the audit.
//!
//! Every connection is a process of its own: what they share is a file in the state directory, one for each set of audit
//! sinks, with a slot for each user, all of one size. It never grows. A user's first [`ONE_BY_ONE`] refusals within
//! [`WINDOW`] are recorded one by one. Further ones are counted; when the window is over, the next connection of anybody
//! records how many there were. `call` decides which refusals are never counted. Without a free slot, or without the file, every refusal is recorded.

use crate::host::state;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock, fstat, openat};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// From a user's first refusal on.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Refusals of one user that are recorded one by one in that time.
pub const ONE_BY_ONE: u32 = 10;
/// Users that are counted at once.
const SLOTS: usize = 256;
/// Bytes of a slot: user, refusals recorded, refusals counted, then in microseconds since 1970 the window's begin and the
/// times of the first and the last one that was counted. A slot whose begin is 0 is free.
const SLOT: usize = 40;
/// How long the lock is waited for. Who has it writes a few bytes, or a record to the audit.
const LOCK_TIME: Duration = Duration::from_millis(500);
/// How often it is tried.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// Refusals that were not recorded one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Whose.
    pub uid: u32,
    /// How many.
    pub count: u64,
    /// The first of them, in microseconds since 1970.
    pub first: i64,
    /// The last.
    pub last: i64,
}

/// What is to be done with a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// It is recorded.
    Record,
    /// It is recorded, and further ones until then (microseconds since 1970) are counted.
    Last {
        /// The window's end.
        until: i64,
    },
    /// It was counted.
    Counted,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Slot {
    uid: u32,
    recorded: u32,
    counted: u64,
    since: i64,
    first: i64,
    last: i64,
}

impl Slot {
    fn read(bytes: &[u8; SLOT]) -> Self {
        let word = |at: usize| i64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let slot = Slot {
            uid: half(0),
            recorded: half(4),
            counted: word(8) as u64,
            since: word(16),
            first: word(24),
            last: word(32),
        };
        // A free one has nothing to tell.
        if slot.since > 0 { slot } else { Slot::default() }
    }

    fn bytes(self) -> [u8; SLOT] {
        let mut bytes = [0; SLOT];
        bytes[..4].copy_from_slice(&self.uid.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.recorded.to_le_bytes());
        let words = [self.counted as i64, self.since, self.first, self.last];
        for (at, word) in words.into_iter().enumerate() {
            bytes[8 + 8 * at..16 + 8 * at].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    fn end(self) -> i64 {
        self.since.saturating_add(i64::try_from(WINDOW.as_micros()).unwrap_or(i64::MAX))
    }

    /// Also where the clock was set back behind its begin.
    fn is_over(self, now: i64) -> bool {
        now >= self.end() || now < self.since
    }

    fn counted(self) -> Counted {
        Counted { uid: self.uid, count: self.counted, first: self.first, last: self.last }
    }
}

/// The counts, locked against other processes.
#[derive(Debug)]
pub struct Refusals {
    file: OwnedFd,
    slots: Vec<Slot>,
}

impl Refusals {
    /// Opens and locks the counts of the audit sinks that `sinks` stands for, such as their paths. Without `create` it is
    /// `None` if nobody was refused yet.
    ///
    /// # Errors
    /// The state directory or the file is not available, not this user's alone, or stays locked.
    pub fn open(sinks: &str, create: bool) -> io::Result<Option<Self>> {
        let directory = match state::open_state_dir() {
            Err(error) if !create && error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let name = format!("refusals-{:.16}", crate::types::sha256_hex(sinks.as_bytes()));
        Self::open_in(&directory, &name, create)
    }

    fn open_in(directory: &OwnedFd, name: &str, create: bool) -> io::Result<Option<Self>> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let flags = if create { flags | OFlags::CREATE } else { flags };
        let file = match openat(directory, name, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) if !create => return Ok(None),
            other => other?,
        };
        let stat = fstat(&file)?;
        let own = stat.st_uid == nix::unistd::geteuid().as_raw() && stat.st_mode & 0o077 == 0;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !own {
            return Err(io::Error::other("it is not a regular file that belongs to this user alone"));
        }
        let until = Instant::now() + LOCK_TIME;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
                Err(errno) => return Err(errno.into()),
            }
        }
        let mut bytes = vec![0; SLOTS * SLOT];
        let mut filled = 0;
        while filled < bytes.len() {
            match rustix::io::pread(&file, &mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        let slots = bytes.chunks_exact(SLOT).map(|slot| Slot::read(slot.try_into().expect("SLOT bytes"))).collect();
        Ok(Some(Refusals { file, slots }))
    }

    /// What was counted and is not on record yet.
    pub fn waiting(&self) -> impl Iterator<Item = Counted> + '_ {
        self.slots.iter().filter(|slot| slot.counted > 0).map(|slot| slot.counted())
    }

    /// Frees the slots whose window is over at `now` (microseconds since 1970). What was counted there is handed to
    /// `record` first, and stays where that fails.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn close_windows(&mut self, now: i64, record: &mut dyn FnMut(Counted) -> bool) -> io::Result<()> {
        for at in 0..self.slots.len() {
            let slot = self.slots[at];
            if slot.since != 0 && slot.is_over(now) && (slot.counted == 0 || record(slot.counted())) {
                self.put(at, Slot::default())?;
            }
        }
        Ok(())
    }

    /// Notes a refusal of `uid` at `now`.
    ///
    /// # Errors
    /// The file cannot be written: the refusal is to be recorded.
    pub fn note(&mut self, uid: u32, now: i64) -> io::Result<Recording> {
        let known = self.slots.iter().position(|slot| slot.since != 0 && slot.uid == uid);
        let Some(at) = known.or_else(|| self.slots.iter().position(|slot| slot.since == 0)) else {
            return Ok(Recording::Record);
        };
        let mut slot = match known {
            Some(at) => self.slots[at],
            None => Slot { uid, since: now.max(1), ..Slot::default() },
        };
        if slot.recorded < ONE_BY_ONE {
            slot.recorded += 1;
            self.put(at, slot)?;
            return Ok(if slot.recorded == ONE_BY_ONE {
                Recording::Last { until: slot.end() }
            } else {
                Recording::Record
            });
        }
        if slot.counted == 0 {
            slot.first = now;
        }
        slot.counted = slot.counted.saturating_add(1);
        slot.last = now;
        self.put(at, slot)?;
        Ok(Recording::Counted)
    }

    fn put(&mut self, at: usize, slot: Slot) -> io::Result<()> {
        let written = rustix::io::pwrite(&self.file, &slot.bytes(), (at * SLOT) as u64)?;
        if written != SLOT {
            return Err(Errno::IO.into());
        }
        self.slots[at] = slot;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const BEGIN: i64 = 1_800_000_000_000_000;
    const SECOND: i64 = 1_000_000;

    struct Place {
        dir: tempfile::TempDir,
        fd: OwnedFd,
    }

    impl Place {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let fd = rustix::fs::open(dir.path(), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
            Place { dir, fd }
        }

        fn open(&self) -> Refusals {
            Refusals::open_in(&self.fd, "refusals", true).unwrap().unwrap()
        }

        fn closed(&self, now: i64) -> Vec<Counted> {
            let mut all = Vec::new();
            let mut take = |counted| {
                all.push(counted);
                true
            };
            self.open().close_windows(now, &mut take).unwrap();
            all
        }
    }

    #[test]
    fn the_first_are_recorded_and_the_rest_is_counted_and_told_once() {
        let place = Place::new();
        for n in 0..i64::from(ONE_BY_ONE) - 1 {
            assert_eq!(place.open().note(7, BEGIN + n).unwrap(), Recording::Record);
        }
        assert_eq!(place.open().note(7, BEGIN + 30).unwrap(), Recording::Last { until: BEGIN + 60 * SECOND });
        for n in 0..500 {
            assert_eq!(place.open().note(7, BEGIN + 100 + n).unwrap(), Recording::Counted);
        }
        // another user's are its own
        assert_eq!(place.open().note(8, BEGIN + 700).unwrap(), Recording::Record);
        let expected = Counted { uid: 7, count: 500, first: BEGIN + 100, last: BEGIN + 599 };
        assert_eq!(place.open().waiting().collect::<Vec<_>>(), [expected]);
        assert_eq!(place.closed(BEGIN + 60 * SECOND - 1), []);
        // a record that cannot be stored keeps the count
        place.open().close_windows(BEGIN + 60 * SECOND, &mut |_| false).unwrap();
        assert_eq!(place.open().note(7, BEGIN + 61 * SECOND).unwrap(), Recording::Counted);
        let all = place.closed(BEGIN + 62 * SECOND);
        assert_eq!(all, [Counted { count: 501, last: BEGIN + 61 * SECOND, ..expected }]);
        assert_eq!(place.closed(BEGIN + 63 * SECOND), []);
        assert_eq!(place.open().note(7, BEGIN + 63 * SECOND).unwrap(), Recording::Record, "a new window");
    }

    #[test]
    fn it_does_not_grow_and_who_finds_no_slot_is_recorded() {
        let place = Place::new();
        let mut refusals = place.open();
        for uid in 0..3 * SLOTS as u32 {
            for _ in 0..ONE_BY_ONE + 2 {
                refusals.note(uid, BEGIN).unwrap();
            }
        }
        assert_eq!(refusals.note(0, BEGIN).unwrap(), Recording::Counted);
        assert_eq!(refusals.note(2 * SLOTS as u32, BEGIN).unwrap(), Recording::Record);
        drop(refusals);
        assert_eq!(std::fs::metadata(place.dir.path().join("refusals")).unwrap().len(), (SLOTS * SLOT) as u64);
        assert_eq!(place.closed(BEGIN + 60 * SECOND).len(), SLOTS);
        assert_eq!(place.open().note(2 * SLOTS as u32, BEGIN + 60 * SECOND).unwrap(), Recording::Record);
        assert_eq!(place.open().waiting().count(), 0);
    }

    #[test]
    fn a_clock_that_is_set_back_ends_the_window() {
        let place = Place::new();
        for n in 0..i64::from(ONE_BY_ONE) + 1 {
            place.open().note(7, BEGIN + n).unwrap();
        }
        assert_eq!(place.closed(BEGIN - 3600 * SECOND).len(), 1);
    }

    #[test]
    fn what_is_not_this_users_alone_is_not_used() {
        let place = Place::new();
        assert!(Refusals::open_in(&place.fd, "refusals", false).unwrap().is_none());
        symlink("elsewhere", place.dir.path().join("link")).unwrap();
        assert!(Refusals::open_in(&place.fd, "link", true).is_err());
        assert!(!place.dir.path().join("elsewhere").exists());
        drop(place.open());
        let path = place.dir.path().join("refusals");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(Refusals::open_in(&place.fd, "refusals", true).is_err());
        nix::unistd::mkfifo(&place.dir.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Refusals::open_in(&place.fd, "fifo", true).is_err());
    }

    #[test]
    fn any_bytes_are_counts_and_a_lock_is_waited_for_but_not_for_ever() {
        let place = Place::new();
        let path = place.dir.path().join("refusals");
        std::fs::write(&path, vec![0xff; 100_000]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(place.open().note(7, BEGIN).unwrap(), Recording::Record, "all begin before 1970: free");
        std::fs::write(&path, vec![0x11; SLOT * 2 + 3]).unwrap();
        assert_eq!(place.closed(BEGIN).len(), 2);
        let held = place.open();
        let start = Instant::now();
        assert!(Refusals::open_in(&place.fd, "refusals", true).is_err());
        assert!(start.elapsed() >= LOCK_TIME && start.elapsed() < 4 * LOCK_TIME);
        drop(held);
        place.open();
    }
}
