//! Small process-wide calls: leaving without clean-up, keyrings, securebits, landlock's version.

use super::check;
use std::io;

/// Ends the process at once, without `atexit` handlers or flushing: what a forked child must use.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit(2) has no preconditions and does not return.
    unsafe { libc::_exit(code) }
}

/// A new anonymous session keyring (`keyctl(2)`, `KEYCTL_JOIN_SESSION_KEYRING` with no name). Returns false where the
/// kernel has no keyrings, so there is nothing to be shared.
///
/// # Errors
/// `EDQUOT`, `ENOMEM`; `ENOSYS` where the kernel has keyrings and a filter hides the call.
pub fn new_session_keyring() -> io::Result<bool> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name is allowed and means an anonymous keyring.
    match check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) && !std::path::Path::new("/proc/keys").exists() => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Locks the securebits so that uid 0 means nothing and no capability can be kept or raised (`capabilities(7)`).
///
/// # Errors
/// `EPERM` without `CAP_SETPCAP`.
pub fn lock_securebits() -> io::Result<()> {
    // linux/securebits.h: NOROOT, NO_SETUID_FIXUP, KEEP_CAPS (off), NO_CAP_AMBIENT_RAISE, each with its lock.
    const BITS: libc::c_ulong = (1 << 0) | (1 << 1) | (1 << 2) | (1 << 3) | (1 << 5) | (1 << 6) | (1 << 7);
    // SAFETY: prctl with integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, BITS, 0, 0, 0) }.into())?;
    Ok(())
}

/// The running kernel's landlock ABI (`landlock_create_ruleset(2)`).
///
/// # Errors
/// `ENOSYS` where it is not built in, `EOPNOTSUPP` where it was not enabled at boot.
pub fn landlock_version() -> io::Result<u32> {
    const LANDLOCK_CREATE_RULESET_VERSION: libc::c_ulong = 1;
    // SAFETY: with the version flag the kernel reads neither pointer nor size.
    let abi =
        check(unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, LANDLOCK_CREATE_RULESET_VERSION) })?;
    u32::try_from(abi).map_err(io::Error::other)
}

/// The same as a number, 0 where there is none.
#[must_use]
pub fn landlock_abi() -> u32 {
    landlock_version().unwrap_or(0)
}

/// A pidfd of this very process, for children to see whether it still lives.
///
/// # Errors
/// `EMFILE`.
pub fn own_pidfd() -> io::Result<std::os::fd::OwnedFd> {
    rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty()).map_err(Into::into)
}

/// Closes every descriptor from `first` on (`close_range(2)`, Linux 5.9).
///
/// # Errors
/// `ENOSYS`.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: used only in a process that owns none of those descriptors any more, right before it ends in a loop that
    // touches just the ones below `first`.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// Takes over a descriptor that the program was started with: a new one for the same object, close-on-exec, in place of
/// `number`, which is closed.
///
/// # Errors
/// `EBADF` when nothing was handed over under that number.
pub fn take_inherited(number: i32) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    // SAFETY: fcntl with integer arguments only; an invalid number is an error.
    let own = check(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 4) }.into())?;
    // SAFETY: the descriptor was just made, so that nothing else owns it.
    let own = unsafe { std::os::fd::OwnedFd::from_raw_fd(i32::try_from(own).map_err(io::Error::other)?) };
    // SAFETY: called at the program's start for a number that it was given and that no Rust object owns.
    check(unsafe { libc::close(number) }.into())?;
    Ok(own)
}

/// Marks every descriptor from `first` on close-on-exec (`CLOSE_RANGE_CLOEXEC`, Linux 5.11).
///
/// # Errors
/// `ENOSYS`, `EINVAL` on older kernels.
pub fn cloexec_from(first: u32) -> io::Result<()> {
    // SAFETY: changes only a flag of descriptors, closes nothing.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Whether exec closes this descriptor (`F_GETFD`); one that is not open counts as closed.
///
/// # Errors
/// What fcntl(2) says.
pub fn goes_with_exec(number: i32) -> io::Result<bool> {
    // SAFETY: fcntl with integer arguments only; it changes nothing.
    match check(unsafe { libc::fcntl(number, libc::F_GETFD) }.into()) {
        Ok(flags) => Ok(flags & libc::c_long::from(libc::FD_CLOEXEC) != 0),
        Err(error) if error.raw_os_error() == Some(libc::EBADF) => Ok(true),
        Err(error) => Err(error),
    }
}

/// Whether the process may be dumped and traced by its own user (`PR_SET_DUMPABLE`).
///
/// # Errors
/// None that the kernel documents for 0 and 1.
pub fn set_dumpable(on: bool) -> io::Result<()> {
    // SAFETY: prctl with integer arguments only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(on), 0, 0, 0) }.into())?;
    Ok(())
}

/// Every signal acts as by default: also the two real-time ones that the C library keeps for itself and whose actions its
/// sigaction(3) does not change, but which an ignoring caller hands down through exec.
///
/// # Errors
/// None that the kernel documents for these signals.
pub fn default_signals() -> io::Result<()> {
    const SIGNALS: libc::c_int = 64;
    // The kernel's struct sigaction: handler SIG_DFL, flags, restorer, mask; all zero.
    let default = [0u64; 4];
    for signal in (1..=SIGNALS).filter(|signal| !matches!(*signal, libc::SIGKILL | libc::SIGSTOP)) {
        // SAFETY: SIG_DFL installs no code that could run at an unsafe moment; the structure outlives the call, and its
        // mask is of the size that is passed.
        check(unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null::<u64>(), 8) })?;
    }
    Ok(())
}

/// What a signal does to this process: its default, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// `SIG_DFL`.
    Default,
    /// `SIG_IGN`, which exec(2) hands on.
    Ignored,
}

/// Sets what `signal` does (`signal(2)`).
///
/// # Errors
/// `EINVAL` for `SIGKILL` and `SIGSTOP`.
pub fn set_disposition(signal: nix::sys::signal::Signal, disposition: Disposition) -> io::Result<()> {
    let handler = match disposition {
        Disposition::Default => libc::SIG_DFL,
        Disposition::Ignored => libc::SIG_IGN,
    };
    // SAFETY: neither is code that could run at an unsafe moment.
    if unsafe { libc::signal(signal as libc::c_int, handler) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `SIGALRM` after this time, once (`setitimer(2)`, `ITIMER_REAL`: it counts on while the process is stopped). Children do not
/// inherit it.
///
/// # Errors
/// None that the kernel documents for such values.
pub fn alarm_after(time: std::time::Duration) -> io::Result<()> {
    // Nothing at all would be no alarm.
    let time = time.max(std::time::Duration::from_millis(1));
    let value = libc::timeval {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(time.subsec_micros()),
    };
    let timer = libc::itimerval { it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 }, it_value: value };
    // SAFETY: the structure outlives the call; a null pointer for the old value is allowed.
    check(unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }.into())?;
    Ok(())
}

/// No real-time scheduling, no better than the usual priority, neither of processors nor of disks
/// (`sched_setscheduler(2)`, `setpriority(2)`, `ioprio_set(2)`). What is less than usual stays. Each only takes
/// away, which needs no right.
///
/// # Errors
/// What these calls say.
pub fn usual_priority() -> io::Result<()> {
    const RESET_ON_FORK: libc::c_int = libc::SCHED_RESET_ON_FORK;
    // linux/ioprio.h
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_RT: libc::c_long = 1;
    const IOPRIO_CLASS_SHIFT: u32 = 13;
    // SAFETY: 0 is the calling thread; no pointers.
    let policy = check(unsafe { libc::sched_getscheduler(0) }.into())? & !libc::c_long::from(RESET_ON_FORK);
    let usual = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE].map(libc::c_long::from);
    if !usual.contains(&policy) {
        let parameter = libc::sched_param { sched_priority: 0 };
        // SAFETY: the structure outlives the call.
        check(unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameter) }.into())?;
    }
    if rustix::process::getpriority_process(None)? < 0 {
        rustix::process::setpriority_process(None, 0)?;
    }
    // SAFETY: no pointers.
    match check(unsafe { libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0) }) {
        Ok(priority) if priority >> IOPRIO_CLASS_SHIFT == IOPRIO_CLASS_RT => {
            // SAFETY: as above.
            check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, 0) })?;
        }
        Ok(_) => {}
        // A kernel without block devices.
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// wait4(2) for any child that has ended, without waiting: its process id and raw wait status. Allocates nothing.
///
/// # Errors
/// `ECHILD`.
pub fn try_wait_any() -> nix::Result<Option<(i32, i32)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: `status` outlives the call; a null rusage is allowed.
    match unsafe { libc::wait4(-1, &raw mut status, libc::WNOHANG, std::ptr::null_mut()) } {
        -1 => Err(nix::Error::last()),
        0 => Ok(None),
        pid => Ok(Some((pid, status))),
    }
}

/// Takes the search list from this process's resolver: `getaddrinfo(3)` then looks up a name as it is written, and never
/// with something behind it (`LOCALDOMAIN`, resolv.conf(5)).
///
/// # Errors
/// The process has more than one thread, or `/proc` is not mounted.
pub fn resolve_names_as_written() -> io::Result<()> {
    if super::clone::thread_count()? != 1 {
        return Err(io::Error::other("a process with threads must not change its environment"));
    }
    // SAFETY: there is no other thread (checked above) that could read the environment meanwhile.
    unsafe { std::env::set_var("LOCALDOMAIN", ".") };
    Ok(())
}

/// wait4(2) for any child, without options: its process id and raw wait status. Allocates nothing.
///
/// # Errors
/// `ECHILD`, `EINTR`.
pub fn wait_any() -> nix::Result<(i32, i32)> {
    let mut status: libc::c_int = 0;
    // SAFETY: `status` outlives the call; a null rusage is allowed.
    let pid = unsafe { libc::wait4(-1, &raw mut status, 0, std::ptr::null_mut()) };
    if pid == -1 { Err(nix::Error::last()) } else { Ok((pid, status)) }
}

/// wait4(2) for one child, with its resource use and that of its own waited-for children.
///
/// # Errors
/// `ECHILD`, `EINTR`.
pub fn wait_usage(pid: i32) -> nix::Result<(i32, Spent)> {
    let mut status: libc::c_int = 0;
    // SAFETY: rusage is plain integers, for which zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call.
    let result = unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) };
    if result == -1 { Err(nix::Error::last()) } else { Ok((status, Spent::from(usage))) }
}

/// As [`wait_usage`] but without waiting: `None` when the child has not ended.
///
/// # Errors
/// `ECHILD`.
pub fn try_wait_usage(pid: i32) -> nix::Result<Option<(i32, Spent)>> {
    let mut status: libc::c_int = 0;
    // SAFETY: rusage is plain integers, for which zero is a valid value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to locals that outlive the call.
    match unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) } {
        -1 => Err(nix::Error::last()),
        0 => Ok(None),
        _ => Ok(Some((status, Spent::from(usage)))),
    }
}

/// What a process and its waited-for children used (`getrusage(2)`).
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Microseconds in user mode.
    pub user_us: u64,
    /// Microseconds in the kernel.
    pub system_us: u64,
    /// Largest resident set of one process, in bytes.
    pub max_rss_bytes: u64,
}

impl From<libc::rusage> for Spent {
    fn from(usage: libc::rusage) -> Self {
        let micros = |time: libc::timeval| {
            u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_usec).unwrap_or(0)
        };
        Spent {
            user_us: micros(usage.ru_utime),
            system_us: micros(usage.ru_stime),
            // The kernel counts in kilobytes.
            max_rss_bytes: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
        }
    }
}

/// A raw wait status, taken apart (`wait(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this exit status.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

impl Ended {
    /// From what wait4 stored.
    #[must_use]
    pub fn from_raw(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Ended::Killed(libc::WTERMSIG(status))
        } else {
            Ended::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// Makes `fd` the descriptor `number`, inherited by exec; whatever had that number is closed.
///
/// # Errors
/// `EBADF`.
pub fn place_descriptor(fd: std::os::fd::OwnedFd, number: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: dup2 of an open descriptor. The caller is a forked child right before exec, which owns no Rust object with
    // that number whose drop would still run.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }.into())?;
    Ok(())
}

/// The descriptor `number` when it is a stream socket that the process was started with.
#[must_use]
pub fn inherited_stream(number: i32) -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let mut kind: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one int, which outlives the call; an invalid number is only refused.
    let asked =
        unsafe { libc::getsockopt(number, libc::SOL_SOCKET, libc::SO_TYPE, (&raw mut kind).cast(), &raw mut length) };
    if asked != 0 || kind != libc::SOCK_STREAM {
        return None;
    }
    // SAFETY: it is open, and of the engine's own descriptors at this point none is a stream socket: it was handed down by
    // exec, and nothing else here owns it.
    Some(unsafe { std::os::fd::OwnedFd::from_raw_fd(number) })
}

/// Has the parent trace this process (`PTRACE_TRACEME`).
///
/// # Errors
/// `EPERM` where that is refused.
pub fn be_traced() -> io::Result<()> {
    // SAFETY: this request takes no further arguments.
    check(unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) })?;
    Ok(())
}

/// Closes every descriptor but these (`close_range(2)`, Linux 5.9).
///
/// # Errors
/// `ENOSYS`.
pub fn close_all_but(mut keep: Vec<i32>) -> io::Result<()> {
    keep.sort_unstable();
    keep.dedup();
    let mut first: u32 = 0;
    for fd in keep.into_iter().filter_map(|fd| u32::try_from(fd).ok()).chain([u32::MAX]) {
        if fd > first {
            // SAFETY: used only in a forked child that never returns to code which owns one of these descriptors.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd.saturating_add(1);
    }
    Ok(())
}
