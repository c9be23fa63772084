//! The raw system calls. One door, so that each act reads as a call of the kernel and nothing of libc's own
//! fallbacks (an emulated `fchmodat2`, a cached `getpid`) comes between.

use crate::answer::Trouble;
use std::ffi::CString;
use std::io;
use std::time::{Duration, Instant};

/// Makes system call `nr`. Errors carry the kernel's number.
pub fn call(nr: i64, args: &[i64]) -> Result<i64, Trouble> {
    let at = |i: usize| args.get(i).copied().unwrap_or(0);
    // SAFETY: the kernel checks every pointer it is given and answers EFAULT; callers pass only addresses of buffers
    // that outlive the call, or numbers. A call that replaces or ends this process is what the caller asked for.
    let got = unsafe { libc::syscall(nr as libc::c_long, at(0), at(1), at(2), at(3), at(4), at(5)) };
    if got == -1 { Err(Trouble::errno(io::Error::last_os_error().raw_os_error().unwrap_or(0))) } else { Ok(got) }
}

/// The address of a C string, as an argument of [`call`].
pub fn ptr(text: &CString) -> i64 {
    text.as_ptr() as i64
}

/// A C string; a NUL inside is the caller's mistake.
pub fn c(text: &str) -> Result<CString, Trouble> {
    CString::new(text).map_err(|_| Trouble::usage("NUL in a path"))
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// `exit(n)`.
    Exit(i32),
    /// Killed by signal `n`.
    Signal(i32),
    /// Still there when the time was over; it was killed.
    Late,
}

/// Forks; the child runs `child` and leaves with its value.
pub fn fork(child: impl FnOnce() -> i32) -> Result<i32, Trouble> {
    // SAFETY: the probe has one thread, so the child may use everything; it leaves by `_exit` and never returns.
    match unsafe { libc::fork() } {
        -1 => Err(Trouble::from(io::Error::last_os_error())),
        0 => {
            let code = child();
            // SAFETY: ends the child without running the parent's exit handlers a second time.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// Waits for `pid`, at most `limit`.
pub fn wait(pid: i32, limit: Duration) -> Ended {
    let end = Instant::now() + limit;
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call.
        let got = unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
        if got == pid {
            return if libc::WIFSIGNALED(status) {
                Ended::Signal(libc::WTERMSIG(status))
            } else {
                Ended::Exit(libc::WEXITSTATUS(status))
            };
        }
        if got == -1 || Instant::now() > end {
            let _ = call(libc::SYS_kill, &[i64::from(pid), i64::from(libc::SIGKILL)]);
            return Ended::Late;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same with a bound of milliseconds and without looking again and again; only a child that is late is killed.
pub fn wait_at_most(pid: i32, milliseconds: i64) -> Result<Ended, Trouble> {
    let pidfd = call(libc::SYS_pidfd_open, &[i64::from(pid), 0])?;
    let poll = [(pidfd as u64) | (u64::from(libc::POLLIN as u16) << 32)];
    let limit = [milliseconds / 1000, milliseconds % 1000 * 1_000_000];
    let ready = call(libc::SYS_ppoll, &[poll.as_ptr() as i64, 1, limit.as_ptr() as i64, 0, 0]);
    close(pidfd);
    let late = ready? == 0;
    if late {
        call(libc::SYS_kill, &[i64::from(pid), i64::from(libc::SIGKILL)])?;
    }
    let mut status = 0_i32;
    call(libc::SYS_wait4, &[i64::from(pid), &raw mut status as i64, 0, 0])?;
    Ok(if late {
        Ended::Late
    } else if libc::WIFSIGNALED(status) {
        Ended::Signal(libc::WTERMSIG(status))
    } else {
        Ended::Exit(libc::WEXITSTATUS(status))
    })
}

/// A pipe: (read end, write end).
pub fn pipe() -> Result<(i32, i32), Trouble> {
    let mut ends = [0_i32; 2];
    call(libc::SYS_pipe2, &[ends.as_mut_ptr() as i64, 0])?;
    Ok((ends[0], ends[1]))
}

/// Closes a descriptor; the answer does not matter to any act.
pub fn close(fd: i64) {
    let _ = call(libc::SYS_close, &[fd]);
}

/// Writes all of `bytes` to `fd`.
pub fn write_all(fd: i32, mut bytes: &[u8]) -> Result<(), Trouble> {
    while !bytes.is_empty() {
        let n = call(libc::SYS_write, &[i64::from(fd), bytes.as_ptr() as i64, bytes.len() as i64])?;
        bytes = &bytes[n as usize..];
    }
    Ok(())
}
