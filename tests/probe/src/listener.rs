//! `upm-probe under-listener PROGRAM [ARG…]`: runs a program under a filter that lets everything pass and has a listener, as a
//! container's agent or an outer sandbox would have. Nobody reads it; it is held by a process that waits.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Becomes `program`; on failure says why and ends with 99.
pub fn become_listened(words: &[OsString]) -> ! {
    let fail = |what: &str| -> ! {
        eprintln!("under-listener: {what}: {}", std::io::Error::last_os_error());
        std::process::exit(99)
    };
    let Some((program, args)) = words.split_first() else { fail("no program") };
    let allow = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW }];
    let fprog = libc::sock_fprog { len: 1, filter: allow.as_ptr().cast_mut() };
    // SAFETY: integers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        fail("no_new_privs");
    }
    let (mode, flag) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: the kernel reads one instruction through a pointer that is valid for it.
    let listener = unsafe { libc::syscall(libc::SYS_seccomp, libc::c_ulong::from(mode), flag, &raw const fprog) };
    if listener < 0 {
        fail("seccomp");
    }
    // The listener is close-on-exec here; the child keeps it for as long as the program runs.
    // SAFETY: no threads; the child only waits and leaves by `_exit`.
    match unsafe { libc::fork() } {
        -1 => fail("fork"),
        0 => {
            // SAFETY: integers; the parent's end is the child's.
            unsafe {
                for fd in 0..=2 {
                    libc::close(fd);
                }
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                loop {
                    libc::pause();
                }
            }
        }
        _ => {}
    }
    let error = Command::new(program).args(args).exec();
    eprintln!("under-listener: {}: {error}", program.to_string_lossy());
    std::process::exit(99)
}
