//! Every call that takes a mode, with set-id bits in it, and every kind of `mknod`.

use crate::answer::{Answer, Trouble};
use crate::args::Args;
use crate::sys::{self, c, ptr};
use serde_json::json;
use std::os::unix::fs::MetadataExt;

const CWD: i64 = libc::AT_FDCWD as i64;

/// The same number on every architecture; libc has no name for it on aarch64.
const SYS_FCHMODAT2: i64 = 452;

/// `set_id HOW PATH [MODE]`: sets `MODE` (default 06755) by the call `HOW`. Answers the permissions that the file has
/// afterwards; for the `chmod` family it makes the file first. The umask is 0 meanwhile.
pub fn set_id(args: Args) -> Answer {
    let how = args.text(0)?;
    let text = args.text(1)?;
    let path = c(text)?;
    let p = ptr(&path);
    let mode = args.int_or(2, 0o6755)?;
    let create = i64::from(libc::O_CREAT | libc::O_WRONLY | libc::O_EXCL);
    let regular = i64::from(libc::S_IFREG);
    // SAFETY: umask takes no pointer and cannot fail.
    let umask = unsafe { libc::umask(0) };
    let done = by_call(how, p, mode, create, regular);
    // SAFETY: as above.
    unsafe { libc::umask(umask) };
    let fd = done?;
    if fd > 2 {
        sys::close(fd);
    }
    Ok(json!({"permissions": std::fs::symlink_metadata(text)?.mode() & 0o7777}))
}

fn by_call(how: &str, p: i64, mode: i64, create: i64, regular: i64) -> Result<i64, Trouble> {
    let made = || sys::call(libc::SYS_openat, &[CWD, p, create, 0o600]);
    match how {
        #[cfg(target_arch = "x86_64")]
        "open" => sys::call(libc::SYS_open, &[p, create, mode]),
        #[cfg(target_arch = "x86_64")]
        "creat" => sys::call(libc::SYS_creat, &[p, mode]),
        #[cfg(target_arch = "x86_64")]
        "mknod" => sys::call(libc::SYS_mknod, &[p, regular | mode, 0]),
        #[cfg(target_arch = "x86_64")]
        "mkdir" => sys::call(libc::SYS_mkdir, &[p, mode]),
        #[cfg(target_arch = "x86_64")]
        "chmod" => {
            sys::close(made()?);
            sys::call(libc::SYS_chmod, &[p, mode])
        }
        "openat" => sys::call(libc::SYS_openat, &[CWD, p, create, mode]),
        // O_TMPFILE has O_DIRECTORY's bit in it and takes a mode too
        "openat_tmpfile" => sys::call(libc::SYS_openat, &[CWD, p, i64::from(libc::O_TMPFILE | libc::O_WRONLY), mode]),
        "openat2" => {
            let how = [create as u64, mode as u64, 0];
            sys::call(libc::SYS_openat2, &[CWD, p, how.as_ptr() as i64, 24])
        }
        "mknodat" => sys::call(libc::SYS_mknodat, &[CWD, p, regular | mode, 0]),
        // type bits 0 mean a regular file
        "mknodat_untyped" => sys::call(libc::SYS_mknodat, &[CWD, p, mode, 0]),
        "mkdirat" => sys::call(libc::SYS_mkdirat, &[CWD, p, mode]),
        "fchmod" => {
            let fd = made()?;
            let done = sys::call(libc::SYS_fchmod, &[fd, mode]);
            sys::close(fd);
            done
        }
        // bits above those of a mode must not hide the ones below from a filter that compares
        "fchmod_high" => {
            let fd = made()?;
            let done = sys::call(libc::SYS_fchmod, &[fd, mode | 0x5A5A_0000_0000]);
            sys::close(fd);
            done
        }
        "fchmodat" => {
            sys::close(made()?);
            sys::call(libc::SYS_fchmodat, &[CWD, p, mode])
        }
        "fchmodat2" => {
            sys::close(made()?);
            sys::call(SYS_FCHMODAT2, &[CWD, p, mode, 0])
        }
        _ => Err(Trouble::usage(format!("no call is called {how}"))),
    }
}

/// `mknod KIND PATH [mknodat]`: `reg fifo sock chr blk dev_null whiteout`.
pub fn mknod(args: Args) -> Answer {
    let path = c(args.text(1)?)?;
    let (kind, device) = match args.text(0)? {
        "reg" => (libc::S_IFREG, 0),
        "fifo" => (libc::S_IFIFO, 0),
        "sock" => (libc::S_IFSOCK, 0),
        "chr" => (libc::S_IFCHR, libc::makedev(5, 1)),
        "dev_null" => (libc::S_IFCHR, libc::makedev(1, 3)),
        "whiteout" => (libc::S_IFCHR, 0),
        "blk" => (libc::S_IFBLK, libc::makedev(8, 0)),
        other => return Err(Trouble::usage(format!("no kind is called {other}"))),
    };
    let mode = i64::from(kind | 0o600);
    match args.text_or(2, "mknodat") {
        #[cfg(target_arch = "x86_64")]
        "mknod" => sys::call(libc::SYS_mknod, &[ptr(&path), mode, device as i64])?,
        _ => sys::call(libc::SYS_mknodat, &[CWD, ptr(&path), mode, device as i64])?,
    };
    Ok(json!({}))
}
