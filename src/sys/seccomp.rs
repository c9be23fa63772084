//! seccomp(2): installing filters, and answering what they hand to the supervisor (seccomp_unotify(2)).

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use upm_seccomp::bpf::Instruction;

/// `SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP` of linux/seccomp.h; libc does not name it.
const SYNC_WAKE_UP: libc::c_ulong = 1;

/// A system call that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// What the answer must name.
    pub id: u64,
    /// The calling thread, in the reader's pid name space; 0 when it cannot be seen from there.
    pub pid: u32,
    /// Number of the system call.
    pub nr: i32,
    /// `AUDIT_ARCH_*` of the call.
    pub arch: u32,
    /// Its arguments as they stood in registers. Pointers among them point into the caller, who can change what is
    /// there at any time: nothing may be decided by it.
    pub args: [u64; 6],
}

/// Installs `program` for the calling thread. Needs `no_new_privs`.
///
/// # Errors
/// `EACCES` without `no_new_privs`, `EINVAL` for a program that the kernel refuses.
pub fn install(program: &[Instruction]) -> io::Result<()> {
    set_filter(program, 0).map(drop)
}

/// Installs `program` and returns the descriptor on which its notifications arrive; it is close-on-exec.
///
/// `WAIT_KILLABLE_RECV` (5.19) is set where the kernel has it: a call that was received is then interrupted by
/// nothing but death, and a signal can't make the plugin ask twice.
///
/// # Errors
/// As [`install`], and `EBUSY` when a filter with a listener is installed already.
pub fn install_with_listener(program: &[Instruction]) -> io::Result<OwnedFd> {
    let listener = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = match set_filter(program, listener | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) {
        // An unknown flag, or a bad program; the second try decides.
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => set_filter(program, listener),
        other => other,
    }?;
    // SAFETY: with NEW_LISTENER the kernel returns a new descriptor, which nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_filter(program: &[Instruction], flags: libc::c_ulong) -> io::Result<i32> {
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let kernels = |i: &Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    let mut program: Vec<libc::sock_filter> = program.iter().map(kernels).collect();
    let fprog = libc::sock_fprog { len, filter: program.as_mut_ptr() };
    // SAFETY: the kernel reads `len` instructions through a pointer that is valid for as many, and writes nothing.
    let rc = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER), flags, &raw const fprog)
    };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(rc).map_err(io::Error::other)
}

/// Whether filters can hand calls to a supervisor here (`SECCOMP_GET_ACTION_AVAIL`); nothing is installed.
///
/// # Errors
/// `EOPNOTSUPP` before Linux 5.0, `ENOSYS` without seccomp.
pub fn user_notification() -> io::Result<()> {
    let action: u32 = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: this operation reads one u32, which outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::c_ulong::from(libc::SECCOMP_GET_ACTION_AVAIL), 0, &raw const action)
    } as libc::c_int)
}

/// Wakes the supervisor on the caller's processor and the caller on the supervisor's (6.6): a denial then costs
/// less. Returns whether the kernel knows it.
///
/// # Errors
/// What ioctl(2) says, except that the kernel does not know the request or flag.
pub fn set_sync_wake_up(listener: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: this request takes its flags by value.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
    match check(rc) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) || e.raw_os_error() == Some(libc::ENOTTY) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes one notification. Blocks while there is none; when the descriptor polled readable there is one, unless its
/// caller died meanwhile: then `None`.
///
/// # Errors
/// What ioctl(2) says.
pub fn notif_recv(listener: BorrowedFd<'_>) -> io::Result<Option<Notification>> {
    // SAFETY: plain integers; the kernel wants them zero.
    let mut raw: libc::seccomp_notif = unsafe { mem::zeroed() };
    loop {
        // SAFETY: the request writes one `seccomp_notif`, and `raw` is one. The kernel's could grow only by a new
        // request number, for the size is part of it.
        let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut raw) };
        match check(rc) {
            Ok(()) => break,
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::EINTR) => {
                // SAFETY: as above.
                raw = unsafe { mem::zeroed() };
            }
            Err(e) => return Err(e),
        }
    }
    Ok(Some(Notification { id: raw.id, pid: raw.pid, nr: raw.data.nr, arch: raw.data.arch, args: raw.data.args }))
}

/// Answers a notification: its call fails with `errno` (positive, as libc names it). Never lets a call through.
/// Returns whether its caller was still there.
///
/// # Errors
/// `EINVAL` for an `errno` below 1, otherwise what ioctl(2) says.
pub fn notif_send_errno(listener: BorrowedFd<'_>, id: u64, errno: i32) -> io::Result<bool> {
    if errno < 1 {
        // Zero would tell the caller that its call worked.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: -errno, flags: 0 };
    // SAFETY: the request reads one `seccomp_notif_resp`.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    present(check(rc))
}

/// Answers a notification: its call has worked, with the result 0. The kernel does nothing: for what pid 1 did in its place
/// (`supervise::locks`). Returns whether its caller was still there.
///
/// # Errors
/// What ioctl(2) says.
pub fn notif_send_done(listener: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags: 0 };
    // SAFETY: the request reads one `seccomp_notif_resp`.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    present(check(rc))
}

/// Answers a notification: its call continues as if there were no filter. Only for watching (`supervise::observe`), counting
/// (`supervise::epoll`) and locks of a process that nobody else can take (`supervise::locks`): what the
/// arguments point to may change before the kernel reads it, so that no decision can rest on having looked
/// (seccomp_unotify(2), "Design goals; use of SECCOMP_USER_NOTIF_FLAG_CONTINUE"). A filter of the same process that
/// refuses the call has done so before. Returns whether its caller was still there.
///
/// # Errors
/// What ioctl(2) says.
pub fn notif_continue(listener: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut response = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: the request reads one `seccomp_notif_resp`.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) };
    present(check(rc))
}

/// Whether the caller of a notification still waits: what was read about its process (`/proc/PID/comm`) is about it
/// only if this is true afterwards.
///
/// # Errors
/// What ioctl(2) says.
pub fn notif_id_valid(listener: BorrowedFd<'_>, id: u64) -> io::Result<bool> {
    // SAFETY: the request reads one u64.
    let rc = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw const id) };
    present(check(rc))
}

fn check(rc: libc::c_int) -> io::Result<()> {
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// `ENOENT`: the caller is gone.
fn present(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    //! The plugin's filter in this kernel: a child makes the calls, the test answers for the supervisor.

    use super::*;
    use crate::confine::filter;
    use std::io::{IoSlice, IoSliceMut, Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

    /// A call and the error number it must fail with; 0: it must work.
    type Case = (&'static str, libc::c_long, [u64; 6], i32);

    fn raw(nr: libc::c_long, a: [u64; 6]) -> i32 {
        // SAFETY: the cases below pass integers and null pointers alone, which the kernel checks.
        let rc = unsafe { libc::syscall(nr, a[0], a[1], a[2], a[3], a[4], a[5]) };
        if rc < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
    }

    /// Forks, confines the child, hands its listener over, and has it make `cases`. Returns the numbers they failed
    /// with and the notifications that came.
    fn confined(extra: &[&str], cases: &[Case]) -> (Vec<i32>, Vec<Notification>) {
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let filter = filter::plugin(&extra, true, false).unwrap();
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        // SAFETY: the child makes system calls alone and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let child = || -> io::Result<()> {
                // SAFETY: integers.
                check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })?;
                let listener = install_with_listener(&filter.program)?;
                // What step 11 does: under the filter already, the descriptor goes over a socket.
                let fds = [listener.as_raw_fd()];
                sendmsg::<()>(
                    theirs.as_raw_fd(),
                    &[IoSlice::new(b"l")],
                    &[ControlMessage::ScmRights(&fds)],
                    MsgFlags::empty(),
                    None,
                )?;
                drop(listener);
                for (_, nr, args, _) in cases {
                    (&theirs).write_all(&raw(*nr, *args).to_ne_bytes())?;
                }
                Ok(())
            };
            let code = child().map_or(1, |()| 0);
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        drop(theirs);
        let mut buffer = [0u8; 1];
        let mut space = nix::cmsg_space!([i32; 1]);
        let mut iov = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(ours.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        let fd = message
            .cmsgs()
            .unwrap()
            .find_map(|m| if let ControlMessageOwned::ScmRights(fds) = m { fds.first().copied() } else { None })
            .expect("the child sends its listener");
        // SAFETY: just received, owned by nothing else.
        let listener = unsafe { OwnedFd::from_raw_fd(fd) };
        set_sync_wake_up(listener.as_fd()).unwrap();

        let (mut errnos, mut notifications) = (Vec::new(), Vec::new());
        while errnos.len() < cases.len() {
            let mut fds = [listener.as_raw_fd(), ours.as_raw_fd()].map(|fd| libc::pollfd {
                fd,
                events: libc::POLLIN,
                revents: 0,
            });
            // SAFETY: two entries.
            let ready = unsafe { libc::poll(fds.as_mut_ptr(), 2, 10_000) };
            assert!(ready > 0, "the child hangs");
            let asked = fds[0].revents & libc::POLLIN != 0;
            if let Some(n) = asked.then(|| notif_recv(listener.as_fd()).unwrap()).flatten() {
                assert!(notif_id_valid(listener.as_fd(), n.id).unwrap());
                assert!(notif_send_errno(listener.as_fd(), n.id, 0).is_err());
                assert!(notif_send_errno(listener.as_fd(), n.id, libc::EPERM).unwrap());
                assert!(!notif_id_valid(listener.as_fd(), n.id).unwrap());
                notifications.push(n);
            } else if fds[1].revents != 0 {
                let mut four = [0; 4];
                ours.read_exact(&mut four).unwrap();
                errnos.push(i32::from_ne_bytes(four));
            }
        }
        let mut status = 0;
        // SAFETY: writes one status.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0);
        for n in &notifications {
            assert_eq!(n.pid, pid as u32);
        }
        (errnos, notifications)
    }

    #[test]
    fn the_kernel_does_what_the_plugin_filter_says() {
        let cases: &[Case] = &[
            ("getppid", libc::SYS_getppid, [0; 6], 0),
            ("ptrace(PTRACE_TRACEME)", libc::SYS_ptrace, [0; 6], libc::EPERM),
            ("socket NETLINK_AUDIT", libc::SYS_socket, [16, 3, 9, 0, 0, 0], libc::EAFNOSUPPORT),
            ("socket VSOCK", libc::SYS_socket, [40, 1, 0, 0, 0, 0], libc::EAFNOSUPPORT),
            ("socket MPTCP", libc::SYS_socket, [2, 1, 262, 0, 0, 0], libc::EAFNOSUPPORT),
            ("socket TCP", libc::SYS_socket, [2, 1 | libc::SOCK_CLOEXEC as u64, 0, 0, 0, 0], 0),
            ("clone3", libc::SYS_clone3, [0; 6], libc::ENOSYS),
            ("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0, 0], libc::ENOSYS),
            ("newer", 1000, [0; 6], libc::ENOSYS),
            ("TIOCSTI", libc::SYS_ioctl, [0, 0x5412, 0, 0, 0, 0], libc::EPERM),
            ("TIOCSTI, high bits", libc::SYS_ioctl, [0, 0x5412 | 1 << 32, 0, 0, 0, 0], libc::EPERM),
            ("TIOCLINUX, high bits", libc::SYS_ioctl, [0, 0x541c | 1 << 63, 0, 0, 0, 0], libc::EPERM),
            ("FIONREAD of no descriptor", libc::SYS_ioctl, [9999, 0x541b, 0, 0, 0, 0], libc::EBADF),
            ("fchmod 4755 of no descriptor", libc::SYS_fchmod, [9999, 0o4755, 0, 0, 0, 0], libc::EPERM),
            ("fchmod 755 of no descriptor", libc::SYS_fchmod, [9999, 0o755, 0, 0, 0, 0], libc::EBADF),
            ("mknodat whiteout", libc::SYS_mknodat, [9999, 0, 0o020_000, 0, 0, 0], libc::EPERM),
            ("unshare(CLONE_NEWUSER)", libc::SYS_unshare, [0x1000_0000, 0, 0, 0, 0, 0], libc::EPERM),
            ("seccomp: a second listener", libc::SYS_seccomp, [1, 8, 0, 0, 0, 0], libc::EPERM),
        ];
        let (errnos, notifications) = confined(&[], cases);
        for ((name, _, _, want), got) in cases.iter().zip(&errnos) {
            assert_eq!(got, want, "{name}");
        }
        let told: Vec<_> = notifications.iter().map(|n| (filter::syscall_name(n.nr), n.args[1])).collect();
        let expected: Vec<_> = cases
            .iter()
            .filter(|(_, _, _, want)| *want == libc::EPERM)
            .map(|(_, nr, args, _)| (filter::syscall_name(*nr as i32), args[1]))
            .collect();
        assert_eq!(told, expected, "each denial was reported, and nothing else");
    }

    #[test]
    fn an_added_call_passes() {
        // An operation that does not exist: only the kernel itself answers so.
        let cases: &[Case] = &[("keyctl", libc::SYS_keyctl, [9999, 0, 0, 0, 0, 0], libc::EOPNOTSUPP)];
        assert_eq!(confined(&["keyctl"], cases), (vec![libc::EOPNOTSUPP], vec![]));
        assert_eq!(confined(&[], cases).0, [libc::EPERM]);
    }

    /// Forks, confines the child by `program`, has it run `act`, and returns its wait status.
    fn ended(program: &[Instruction], act: impl Fn() -> i32) -> i32 {
        // SAFETY: the child makes system calls alone and leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: integers.
            let confined = check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
                .and_then(|()| install(program))
                .is_ok();
            let code = if confined { act() } else { 99 };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: writes one status.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        status
    }

    #[test]
    fn the_engines_filters_in_the_kernel() {
        let init = filter::init();
        assert_eq!(ended(&init.program, || raw(libc::SYS_wait4, [u64::MAX, 0, 1, 0, 0, 0])), libc::ECHILD << 8);
        let killed = ended(&init.program, || raw(libc::SYS_getppid, [0; 6]));
        assert!(libc::WIFSIGNALED(killed) && libc::WTERMSIG(killed) == libc::SIGSYS, "{killed:#x}");

        let gateway = filter::gateway();
        assert_eq!(ended(&gateway.program, || raw(libc::SYS_socket, [17, 3, 0, 0, 0, 0])), libc::EAFNOSUPPORT << 8);
        let killed = ended(&gateway.program, || raw(libc::SYS_execve, [0; 6]));
        assert!(libc::WIFSIGNALED(killed) && libc::WTERMSIG(killed) == libc::SIGSYS, "{killed:#x}");

        let supervisor = filter::supervisor();
        assert_eq!(ended(&supervisor.program, || raw(libc::SYS_execve, [0; 6])), libc::EPERM << 8);
        assert_eq!(ended(&supervisor.program, || raw(libc::SYS_clock_gettime, [0; 6])), libc::EFAULT << 8);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn i386_and_x32_calls_do_not_exist() {
        /// getppid by the i386 entry; negative is an error number.
        fn i386(nr: i32) -> i32 {
            let mut eax = nr;
            // SAFETY: the numbers passed take no pointer; what the entry may clobber is named.
            unsafe {
                std::arch::asm!("int 0x80", inout("eax") eax, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
            }
            eax
        }
        let filter = filter::plugin(&[], true, false).unwrap();
        assert_eq!(ended(&filter.program, || -i386(64)), libc::ENOSYS << 8);
        assert_eq!(ended(&filter.program, || raw(libc::SYS_getppid | 0x4000_0000, [0; 6])), libc::ENOSYS << 8);
        // The control: the same without x32's bit, and i386's without a filter that minds (where the kernel has it).
        assert_eq!(ended(&filter.program, || raw(libc::SYS_getppid, [0; 6])), 0);
        let open = [Instruction { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
        let control = ended(&open, || i32::from(i386(64) <= 0));
        assert!(control == 0 || libc::WIFSIGNALED(control), "{control:#x}");
    }

    #[test]
    fn a_second_listener_and_nonsense_are_refused() {
        let open = [Instruction { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
        let nonsense = [Instruction { code: 0xffff, jt: 0, jf: 0, k: 0 }];
        let act = || {
            let errno = |e: io::Error| e.raw_os_error().unwrap_or(0);
            let Ok(_first) = install_with_listener(&open) else { return 1 };
            if install_with_listener(&open).map_err(errno).err() != Some(libc::EBUSY) {
                return 2;
            }
            if install(&open).is_err() {
                return 3;
            }
            if install(&nonsense).map_err(errno).err() == Some(libc::EINVAL) { 0 } else { 4 }
        };
        assert_eq!(ended(&open, act), 0);
    }
}
