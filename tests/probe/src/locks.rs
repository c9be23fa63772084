//! Locks of files.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys::{self, c, ptr};
use serde_json::json;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Each way to take a lock, by the name that [`lock`] knows it by: whether by fcntl(2), the operation or command, the type of
/// the lock of a range.
const WAYS: &[(&str, bool, i64, i32)] = &[
    ("LOCK_SH", false, libc::LOCK_SH as i64, 0),
    ("LOCK_EX", false, libc::LOCK_EX as i64, 0),
    ("LOCK_EX|LOCK_NB", false, (libc::LOCK_EX | libc::LOCK_NB) as i64, 0),
    ("LOCK_MAND", false, 32, 0),
    // what the kernel does not look at
    ("LOCK_SH|high", false, libc::LOCK_SH as i64 | 1 << 32, 0),
    ("F_SETLK", true, libc::F_SETLK as i64, libc::F_RDLCK),
    ("F_SETLKW", true, libc::F_SETLKW as i64, libc::F_RDLCK),
    ("F_OFD_SETLK", true, libc::F_OFD_SETLK as i64, libc::F_RDLCK),
    ("F_OFD_SETLKW", true, libc::F_OFD_SETLKW as i64, libc::F_RDLCK),
    ("F_SETLK|high", true, libc::F_SETLK as i64 | 1 << 32, libc::F_RDLCK),
    ("F_SETLK write", true, libc::F_SETLK as i64, libc::F_WRLCK),
    ("F_SETLK unlock", true, libc::F_SETLK as i64, libc::F_UNLCK),
    ("F_GETLK", true, libc::F_GETLK as i64, libc::F_RDLCK),
    ("F_OFD_GETLK", true, libc::F_OFD_GETLK as i64, libc::F_RDLCK),
    ("F_SETLEASE", true, LEASE, 0),
    ("F_CANCELLK", true, 1029, libc::F_RDLCK),
];

/// `F_SETLEASE`.
const LEASE: i64 = 1024;

/// `struct flock` of the range from `start` on, whose length is `length`; 0 is to the end.
fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    // SAFETY: integers alone, for which zeros are values.
    let mut range: libc::flock = unsafe { std::mem::zeroed() };
    range.l_type = kind as i16;
    range.l_whence = libc::SEEK_SET as i16;
    range.l_start = start;
    range.l_len = length;
    range
}

fn open(path: &str, flags: i32) -> Result<i64, Trouble> {
    sys::call(libc::SYS_openat, &[i64::from(libc::AT_FDCWD), ptr(&c(path)?), i64::from(flags), 0])
}

/// `lock WAY PATH [HOLD_MS]`: locks a file that is there, which it opens for reading, or for writing where a lock for writing is
/// asked for; and keeps the lock so long.
pub fn lock(args: Args) -> Answer {
    let way = args.text(0)?;
    let Some((_, ranges, operation, kind)) = WAYS.iter().find(|(name, ..)| *name == way) else {
        return Err(Trouble::usage(format!("{way} is no way to lock")));
    };
    let fd = open(args.text(1)?, if *kind == libc::F_WRLCK { libc::O_RDWR } else { libc::O_RDONLY })?;
    if *operation == LEASE {
        sys::call(libc::SYS_fcntl, &[fd, LEASE, libc::F_RDLCK.into()])?;
    } else if *ranges {
        let range = range(*kind, 0, 0);
        sys::call(libc::SYS_fcntl, &[fd, *operation, &raw const range as i64])?;
    } else {
        sys::call(libc::SYS_flock, &[fd, *operation])?;
    }
    std::thread::sleep(Duration::from_millis(args.int_or(2, 0)? as u64));
    Ok(json!({}))
}

/// `unlock PATH`: gives up what was not taken, by flock(2), with `LOCK_NB` and without.
pub fn unlock(args: Args) -> Answer {
    let fd = open(args.text(0)?, libc::O_RDONLY)?;
    for operation in [libc::LOCK_UN, libc::LOCK_UN | libc::LOCK_NB] {
        sys::call(libc::SYS_flock, &[fd, i64::from(operation)])?;
    }
    Ok(json!({}))
}

/// `locks PATH N`: N changes of locks by `F_SETLK`, which locks and unlocks in turn, with 20 µs of work between: what the engine
/// does for a call is bounded by what the call spends.
pub fn many(args: Args) -> Answer {
    let fd = open(args.text(0)?, libc::O_RDONLY)?;
    crate::counted::until(args.int(1)?, 0, |n| {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_micros(20) {
            std::hint::spin_loop();
        }
        let range = range(if n % 2 == 0 { libc::F_RDLCK } else { libc::F_UNLCK }, 0, 1);
        sys::call(libc::SYS_fcntl, &[fd, libc::F_SETLK.into(), &raw const range as i64]).map(drop)
    })
}

/// `locks_timed PATH N`: N times `LOCK_EX` and `LOCK_UN` by flock(2), and nanoseconds for both.
pub fn timed(args: Args) -> Answer {
    let fd = open(args.text(0)?, libc::O_RDONLY)?;
    let count = args.int(1)?;
    let begun = Instant::now();
    for _ in 0..count {
        sys::call(libc::SYS_flock, &[fd, libc::LOCK_EX.into()])?;
        sys::call(libc::SYS_flock, &[fd, libc::LOCK_UN.into()])?;
    }
    Ok(json!({ "ns": begun.elapsed().as_nanos() as u64 / count.unsigned_abs().max(1) }))
}

/// `locks_swapped WAY FORBIDDEN FREE N`: N tries to lock a descriptor while another thread makes it FORBIDDEN and FREE in turn, by
/// dup2(2). None is unlocked. How many tries worked, and how many were refused.
pub fn swapped(args: Args) -> Answer {
    let way = args.text(0)?;
    let Some((_, ranges, operation, kind)) = WAYS.iter().find(|(name, ..)| *name == way) else {
        return Err(Trouble::usage(format!("{way} is no way to lock")));
    };
    let (forbidden, free) = (open(args.text(1)?, libc::O_RDONLY)?, open(args.text(2)?, libc::O_RDONLY)?);
    let fd = sys::call(libc::SYS_dup, &[free])?;
    let over = AtomicBool::new(false);
    let (mut worked, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for one in [forbidden, free] {
                    // what fails is seen by the counts
                    let _ = sys::call(libc::SYS_dup3, &[one, fd, 0]);
                }
            }
        });
        for _ in 0..args.int(3).unwrap_or(0) {
            let range = range(*kind, 0, 0);
            let last = if *ranges { &raw const range as i64 } else { 0 };
            let nr = if *ranges { libc::SYS_fcntl } else { libc::SYS_flock };
            match sys::call(nr, &[fd, *operation, last]) {
                Ok(_) => worked += 1,
                Err(_) => refused += 1,
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    Ok(json!({ "worked": worked, "refused": refused }))
}

/// `lock_hidden PATH`: `LOCK_SH` by a process that nobody may look at (`PR_SET_DUMPABLE`).
pub fn hidden(args: Args) -> Answer {
    let fd = open(args.text(0)?, libc::O_RDONLY)?;
    sys::call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 0])?;
    let locked = sys::call(libc::SYS_flock, &[fd, libc::LOCK_SH.into()]);
    sys::call(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE.into(), 1])?;
    locked.map(|_| json!({}))
}

/// `locks_waiting PATH N`: locks PATH, and starts N threads that wait for the same lock, each by a description of its own. How many were
/// refused, and by what; the others are left waiting.
pub fn waiting(args: Args) -> Answer {
    let path = args.text(0)?.to_owned();
    sys::call(libc::SYS_flock, &[open(&path, libc::O_RDONLY)?, libc::LOCK_EX.into()])?;
    let (told, heard) = std::sync::mpsc::channel();
    for _ in 0..args.int(1)? {
        let (path, told) = (path.clone(), told.clone());
        std::thread::spawn(move || {
            let locked =
                open(&path, libc::O_RDONLY).and_then(|fd| sys::call(libc::SYS_flock, &[fd, libc::LOCK_EX.into()]));
            told.send(locked)
        });
    }
    let mut refused = Vec::new();
    while let Ok(one) = heard.recv_timeout(Duration::from_secs(2)) {
        refused.push(crate::answer::form(one.map(Into::into)));
    }
    Ok(json!({ "ended": refused }))
}
