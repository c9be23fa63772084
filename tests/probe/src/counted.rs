//! What the kernel counts for each user: as much of it as there is, and watching files.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys::{self, c, ptr};
use serde_json::json;
use std::time::Duration;

/// Does `one` until it fails or has worked `most` times: how often it worked, and the error that stopped it.
pub fn until(most: i64, hold_ms: i64, mut one: impl FnMut(i64) -> Result<(), Trouble>) -> Answer {
    let mut made = 0;
    let mut stopped = 0;
    while made < most {
        match one(made) {
            Ok(()) => made += 1,
            Err(trouble) => {
                stopped = trouble.errno;
                break;
            }
        }
    }
    std::thread::sleep(Duration::from_millis(hold_ms as u64));
    Ok(json!({"made": made, "stopped_by": stopped, "stopped_by_name": crate::constants::errno_name(stopped)}))
}

/// `timers N [HOLD_MS]`: POSIX timers that make no signal.
pub fn timers(args: Args) -> Answer {
    // struct sigevent: sigev_value, sigev_signo, sigev_notify
    let mut event = [0_i32; 16];
    event[3] = libc::SIGEV_NONE;
    until(args.int(0)?, args.int_or(1, 0)?, |_| {
        let mut timer = 0_i32;
        let asked = [i64::from(libc::CLOCK_MONOTONIC), event.as_ptr() as i64, &raw mut timer as i64];
        sys::call(libc::SYS_timer_create, &asked).map(drop)
    })
}

/// `signals N`: real-time signals queued to this process, which blocks them.
pub fn signals(args: Args) -> Answer {
    let blocked = !0_u64;
    sys::call(libc::SYS_rt_sigprocmask, &[i64::from(libc::SIG_BLOCK), &raw const blocked as i64, 0, 8])?;
    let own = sys::call(libc::SYS_getpid, &[])?;
    // siginfo_t: signal, error, code (SI_QUEUE)
    let mut info = [0_i32; 32];
    info[2] = -1;
    until(args.int(0)?, 0, |_| sys::call(libc::SYS_rt_sigqueueinfo, &[own, 40, info.as_ptr() as i64]).map(drop))
}

/// `queues N NAME`: POSIX message queues of the kernel's usual size, removed again at the end; what came of each.
pub fn queues(args: Args) -> Answer {
    let flags = i64::from(libc::O_CREAT | libc::O_RDWR);
    let mut errors = Vec::new();
    for n in 0..args.int(0)? {
        let name = c(&format!("{}-{n}", args.text(1)?))?;
        let made = sys::call(libc::SYS_mq_open, &[ptr(&name), flags, 0o600, 0]);
        errors.push(made.map_or_else(|t| crate::constants::errno_name(t.errno).unwrap_or("?"), |_| "none"));
    }
    for n in 0..args.int(0)? {
        // what was not made is not there
        let _ = sys::call(libc::SYS_mq_unlink, &[ptr(&c(&format!("{}-{n}", args.text(1)?))?)]);
    }
    Ok(json!({ "errors": errors }))
}

/// `inotify N [HOLD_MS]`: instances.
pub fn inotify(args: Args) -> Answer {
    until(args.int(0)?, args.int_or(1, 0)?, |_| sys::call(libc::SYS_inotify_init1, &[0]).map(drop))
}

/// `watches DIR N`: watches of one instance, each of a new file in DIR.
pub fn watches(args: Args) -> Answer {
    let dir = args.text(0)?.to_owned();
    let instance = sys::call(libc::SYS_inotify_init1, &[0])?;
    until(args.int(1)?, 0, |n| {
        let file = format!("{dir}/watched-{n}");
        std::fs::write(&file, b"")?;
        let file = c(&file)?;
        sys::call(libc::SYS_inotify_add_watch, &[instance, ptr(&file), i64::from(libc::IN_OPEN)]).map(drop)
    })
}

/// `epoll N`: additions to sets of epoll, each of which stays: of 40 descriptors under 80 numbers in 80 sets.
pub fn epoll(args: Args) -> Answer {
    let sets = (0..80).map(|_| sys::call(libc::SYS_epoll_create1, &[0])).collect::<Result<Vec<_>, _>>()?;
    let files = (0..40).map(|_| sys::call(libc::SYS_eventfd2, &[0, 0])).collect::<Result<Vec<_>, _>>()?;
    let event = [libc::EPOLLIN as u32, 0, 0];
    until(args.int(0)?, 0, |n| {
        let (set, number, file) = ((n % 80) as usize, 170 + n / 80 % 80, (n / 6400) as usize);
        if set == 0 {
            sys::call(libc::SYS_dup3, &[files[file], number, 0])?;
        }
        sys::call(libc::SYS_epoll_ctl, &[sets[set], 1, number, event.as_ptr() as i64]).map(drop)
    })
}

/// `notified DIR`: whether inotify tells of a file that is opened in DIR, as this process opens DIR.
pub fn notified(args: Args) -> Answer {
    let dir = c(args.text(0)?)?;
    let instance = sys::call(libc::SYS_inotify_init1, &[i64::from(libc::IN_NONBLOCK)])?;
    sys::call(libc::SYS_inotify_add_watch, &[instance, ptr(&dir), i64::from(libc::IN_OPEN)])?;
    let _ = std::fs::read_dir(args.text(0)?)?.next();
    let mut event = [0_u8; 4096];
    sys::call(libc::SYS_read, &[instance, event.as_mut_ptr() as i64, 4096]).map(|_| json!({}))
}

/// `fcntl_directory DIR COMMAND ARGUMENT`: F_NOTIFY (1026), for one.
pub fn fcntl_directory(args: Args) -> Answer {
    let dir = c(args.text(0)?)?;
    let fd = sys::call(libc::SYS_openat, &[i64::from(libc::AT_FDCWD), ptr(&dir), i64::from(libc::O_DIRECTORY), 0])?;
    Ok(json!(sys::call(libc::SYS_fcntl, &[fd, args.int(1)?, args.int(2)?])?))
}

/// `fcntl_pipe COMMAND ARGUMENT`: F_SETPIPE_SZ (1031), for one.
pub fn fcntl_pipe(args: Args) -> Answer {
    let (reader, _) = sys::pipe()?;
    Ok(json!(sys::call(libc::SYS_fcntl, &[i64::from(reader), args.int(0)?, args.int(1)?])?))
}

/// `set_xattr HOW PATH NAME VALUE`: an extended attribute, by `setxattr`, `lsetxattr` or `fsetxattr`.
pub fn set_xattr(args: Args) -> Answer {
    let (path, name, value) = (c(args.text(1)?)?, c(args.text(2)?)?, args.text(3)?);
    let (value, length) = (value.as_ptr() as i64, value.len() as i64);
    let done = match args.text(0)? {
        "setxattr" => sys::call(libc::SYS_setxattr, &[ptr(&path), ptr(&name), value, length, 0]),
        "lsetxattr" => sys::call(libc::SYS_lsetxattr, &[ptr(&path), ptr(&name), value, length, 0]),
        "fsetxattr" => {
            let fd = sys::call(libc::SYS_openat, &[i64::from(libc::AT_FDCWD), ptr(&path), 0, 0])?;
            sys::call(libc::SYS_fsetxattr, &[fd, ptr(&name), value, length, 0])
        }
        other => return Err(Trouble::usage(format!("{other} sets no attribute"))),
    };
    done.map(|_| json!({}))
}

/// `remove_xattr PATH NAME`
pub fn remove_xattr(args: Args) -> Answer {
    let (path, name) = (c(args.text(0)?)?, c(args.text(1)?)?);
    sys::call(libc::SYS_removexattr, &[ptr(&path), ptr(&name)]).map(|_| json!({}))
}
