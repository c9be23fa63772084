//! `clone3(2)` as a fork: the child gets a copy of memory, and namespaces from its first instruction on.

use super::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Which side of the call this is.
pub enum Forked {
    /// The caller, with the child's process id and a pidfd of it.
    Parent {
        /// Process id in the caller's pid namespace.
        pid: i32,
        /// Close-on-exec descriptor of the process (`CLONE_PIDFD`, Linux 5.2).
        pidfd: OwnedFd,
    },
    /// The new process.
    Child,
}

/// Forks with `flags` of `CLONE_NEW*`, directly into `cgroup` when given (`CLONE_INTO_CGROUP`, Linux 5.7).
///
/// # Errors
/// What clone3(2) says: `EPERM` where namespaces are refused, `ENOSPC` at a namespace limit, `ENOSYS` in an old filter.
///
/// # Panics
/// When the process has more than one thread: a lock held by another thread would stay locked for ever in the child.
pub fn fork_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    assert_eq!(thread_count()?, 1, "a process with threads must not be forked");
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is plain integers, for which zero is a valid value.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | libc::CLONE_PIDFD as u64;
    args.pidfd = (&raw mut pidfd) as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        // linux/sched.h; libc's constant is of a type that it overflows.
        const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with stack 0 this is fork(2): the child runs on a copy of this stack. The process
    // has one thread (asserted above), so no lock of the allocator can be held by another. `args` outlives the call.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) })?;
    if pid == 0 {
        return Ok(Forked::Child);
    }
    // SAFETY: the kernel stored a new descriptor in `pidfd`, which nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Forked::Parent { pid: pid as i32, pidfd })
}

/// Threads of this process (the link count of `/proc/self/task`, less `.` and `..`).
///
/// # Errors
/// When `/proc` is not mounted.
pub fn thread_count() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/self/task")?.nlink().saturating_sub(2))
}

/// fork(2) in a process with one thread.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn fork() -> nix::Result<nix::unistd::ForkResult> {
    assert_eq!(thread_count().map_err(|_| nix::Error::ENOSYS)?, 1, "a process with threads must not be forked");
    // SAFETY: the process has one thread (asserted above), so the child may use the allocator and everything else.
    unsafe { nix::unistd::fork() }
}
