//! One raw system call in a child of its own and a bound of time, for the proof of each rule of `seccomp/default.json`:
//! some of the calls block, some end the process or make another one.

use crate::answer::{Answer, Trouble};
use crate::args::{Args, number};
use crate::sys::{self, Ended};
use serde_json::{Value, json};

/// How long a call may take: those that block are given up then. On a busy host an answer takes a while.
const PATIENCE_MS: i64 = 2000;

/// What the child leaves with when its call worked; otherwise it leaves with the error's number, which is lower.
const WORKED: i32 = 200;

/// What `exit` and `exit_group` are given: seen, it was them that ended the child.
const LEFT: i32 = 201;

/// How each call that a rule names is tried: with arguments that do no harm on any host, with any rights, and so
/// that one of another kernel's answers tells that it was tried. Descriptors and processes that are not there, null for
/// every pointer, commands that do not exist. The arguments that a rule looks at are the test's: here they stand as what
/// the rule allows.
#[rustfmt::skip]
const TRIES: &[(&str, &[i64])] = &[
    // bytes, descriptors, what a file is
    ("read", &[-1]), ("pread64", &[-1]), ("readv", &[-1]), ("preadv", &[-1]), ("preadv2", &[-1]),
    ("write", &[-1]), ("pwrite64", &[-1]), ("writev", &[-1]), ("pwritev", &[-1]), ("pwritev2", &[-1]),
    ("lseek", &[-1]), ("close", &[-1]), ("close_range", &[-1, -1]), ("dup", &[-1]), ("dup2", &[-1, -1]),
    ("dup3", &[-1, -1]), ("pipe", &[0]), ("pipe2", &[0]),
    ("fstat", &[-1]), ("newfstatat", &[-1]), ("statx", &[-1]), ("statfs", &[0]), ("fstatfs", &[-1]), ("stat", &[0]),
    ("lstat", &[0]), ("faccessat", &[-1]), ("faccessat2", &[-1]), ("readlinkat", &[-1, 0, 0, 1]), ("getcwd", &[0]),
    ("getdents64", &[-1]), ("access", &[0]), ("readlink", &[0, 0, 1]), ("getdents", &[-1]),
    // files
    ("openat", &[-1]), ("open", &[0]), ("creat", &[0]), ("mknodat", &[-1]), ("mknod", &[0]), ("fchmod", &[-1]),
    ("fchmodat", &[-1]), ("fchmodat2", &[-1]), ("chmod", &[0]), ("fchown", &[-1]), ("fchownat", &[-1]), ("chown", &[0]),
    ("lchown", &[0]), ("mkdirat", &[-1]), ("mkdir", &[0]), ("rmdir", &[0]), ("linkat", &[-1, 0, -1]),
    ("symlinkat", &[0, -1]), ("unlinkat", &[-1]), ("renameat2", &[-1, 0, -1]), ("renameat", &[-1, 0, -1]), ("link", &[0]),
    ("symlink", &[0]), ("rename", &[0]), ("unlink", &[0]), ("truncate", &[0]), ("ftruncate", &[-1]), ("fallocate", &[-1]),
    ("fsync", &[-1]), ("fdatasync", &[-1]), ("sync_file_range", &[-1]), ("fadvise64", &[-1]), ("readahead", &[-1]),
    ("copy_file_range", &[-1, 0, -1, 0, 1]), ("sendfile", &[-1, -1]), ("splice", &[-1, 0, -1, 0, 1]), ("tee", &[-1, -1, 1]),
    ("vmsplice", &[-1, 0, 1]), ("flock", &[-1]), ("fcntl", &[-1]), ("utimensat", &[-1]), ("utime", &[0]), ("utimes", &[0]),
    ("futimesat", &[-1]), ("getxattr", &[0]), ("lgetxattr", &[0]), ("fgetxattr", &[-1]), ("listxattr", &[0]),
    ("llistxattr", &[0]), ("flistxattr", &[-1]), ("setxattr", &[0]), ("lsetxattr", &[0]), ("fsetxattr", &[-1]),
    ("removexattr", &[0]), ("lremovexattr", &[0]), ("fremovexattr", &[-1]), ("getxattrat", &[-1]), ("listxattrat", &[-1]),
    ("setxattrat", &[-1]), ("removexattrat", &[-1]), ("umask", &[0o22]), ("chdir", &[0]), ("fchdir", &[-1]),
    ("inotify_init1", &[-1]), ("inotify_add_watch", &[-1]), ("inotify_rm_watch", &[-1]), ("inotify_init", &[]),
    ("ioctl", &[-1]),
    // memory
    ("mmap", &[0]), ("munmap", &[1]), ("mprotect", &[1]), ("mremap", &[1]), ("madvise", &[1]), ("brk", &[0]),
    ("mincore", &[1]), ("msync", &[1]), ("mlock", &[0]), ("mlock2", &[0, 0, -1]), ("munlock", &[0]), ("mlockall", &[-1]),
    ("munlockall", &[]), ("pkey_alloc", &[-1]), ("pkey_free", &[-1]), ("pkey_mprotect", &[1]), ("mseal", &[1]),
    ("get_mempolicy", &[0, 0, 0, 0, -1]), ("membarrier", &[-1]), ("rseq", &[1]),
    // System V IPC and message queues: an id that is not there, no name
    ("semget", &[0, -1]), ("semop", &[-1]), ("semtimedop", &[-1]), ("semctl", &[-1]), ("msgget", &[0x7fff_ffff]),
    ("msgsnd", &[-1]), ("msgrcv", &[-1]), ("msgctl", &[-1]), ("mq_open", &[0]), ("mq_unlink", &[0]),
    ("mq_timedsend", &[-1]), ("mq_timedreceive", &[-1]), ("mq_notify", &[-1]), ("mq_getsetattr", &[-1]),
    // processes; a new one leaves at once
    ("clone", &[libc::SIGCHLD as i64]), ("fork", &[]), ("vfork", &[]), ("execve", &[0]), ("execveat", &[-1]),
    ("exit", &[LEFT as i64]), ("exit_group", &[LEFT as i64]), ("wait4", &[-1]), ("waitid", &[-1]),
    ("kill", &[0x7fff_ffff]), ("tkill", &[-1]), ("tgkill", &[-1, -1]), ("rt_sigqueueinfo", &[0x7fff_ffff]),
    ("rt_tgsigqueueinfo", &[-1, -1]), ("pidfd_open", &[-1]), ("pidfd_send_signal", &[-1]), ("rt_sigaction", &[0, 0, 0, 8]),
    ("rt_sigprocmask", &[-1, 0, 0, 8]), ("rt_sigreturn", &[]), ("rt_sigpending", &[0, 8]), ("rt_sigsuspend", &[0, 8]),
    ("rt_sigtimedwait", &[0, 0, 0, 8]), ("sigaltstack", &[0]), ("restart_syscall", &[]), ("signalfd4", &[-1, 0, 8]),
    ("pause", &[]), ("alarm", &[0]), ("signalfd", &[-1, 0, 8]),
    ("getpid", &[]), ("gettid", &[]), ("getppid", &[]), ("getuid", &[]), ("geteuid", &[]), ("getgid", &[]), ("getegid", &[]),
    ("setuid", &[-1]), ("setgid", &[-1]), ("setreuid", &[-1, -1]), ("setregid", &[-1, -1]), ("setresuid", &[-1, -1, -1]),
    ("setresgid", &[-1, -1, -1]), ("setfsuid", &[-1]), ("setfsgid", &[-1]),
    ("getresuid", &[0]), ("getresgid", &[0]), ("getgroups", &[0]), ("getpgid", &[-1]), ("getsid", &[-1]), ("capget", &[0]),
    ("getpgrp", &[]), ("setpgid", &[-1, -1]), ("setsid", &[]),
    ("set_tid_address", &[0]), ("set_robust_list", &[0]), ("get_robust_list", &[-1]), ("futex", &[0, 1]),
    ("futex_waitv", &[0]), ("futex_wait", &[0, 0, 0, -1]), ("futex_wake", &[0, 0, 0, -1]), ("futex_requeue", &[0]),
    ("sched_yield", &[]), ("sched_getaffinity", &[-1]), ("sched_setaffinity", &[-1]), ("sched_getparam", &[-1]),
    ("sched_setparam", &[-1]), ("sched_getscheduler", &[-1]), ("sched_setscheduler", &[-1]), ("sched_getattr", &[-1]),
    ("sched_setattr", &[-1]), ("sched_get_priority_max", &[-1]), ("sched_get_priority_min", &[-1]),
    ("sched_rr_get_interval", &[-1]), ("getpriority", &[-1]), ("setpriority", &[-1]), ("ioprio_get", &[-1]),
    ("ioprio_set", &[-1]), ("getcpu", &[0]), ("getrlimit", &[-1]), ("setrlimit", &[-1]), ("prlimit64", &[-1]),
    ("getrusage", &[-2]), ("times", &[0]), ("getrandom", &[0]), ("uname", &[0]), ("sysinfo", &[0]), ("personality", &[]),
    ("uretprobe", &[]), ("uprobe", &[]), ("arch_prctl", &[]), ("prctl", &[]),
    // clocks, timers, waiting
    ("clock_gettime", &[-1]), ("clock_getres", &[-1]), ("clock_nanosleep", &[-1]), ("nanosleep", &[0]), ("gettimeofday", &[0]),
    ("getitimer", &[-1]), ("setitimer", &[-1]), ("timer_create", &[-1]), ("timer_settime", &[-1]), ("timer_gettime", &[-1]),
    ("timer_getoverrun", &[-1]), ("timer_delete", &[-1]), ("timerfd_create", &[-1]), ("timerfd_settime", &[-1]),
    ("timerfd_gettime", &[-1]), ("time", &[0]), ("epoll_create1", &[-1]), ("epoll_ctl", &[-1]), ("epoll_pwait", &[-1, 0, 0]),
    ("epoll_pwait2", &[-1, 0, 0]), ("ppoll", &[0, 0, 1]), ("pselect6", &[-1]), ("eventfd2", &[0, -1]), ("epoll_create", &[-1]),
    ("epoll_wait", &[-1]), ("poll", &[0, 0, 0]), ("select", &[-1]), ("eventfd", &[0]),
    // sockets
    ("socket", &[]), ("socketpair", &[]), ("bind", &[-1]), ("connect", &[-1]), ("listen", &[-1]), ("accept4", &[-1]),
    ("accept", &[-1]), ("getsockname", &[-1]), ("getpeername", &[-1]), ("shutdown", &[-1]), ("getsockopt", &[-1]),
    ("recvfrom", &[-1]), ("recvmsg", &[-1]), ("recvmmsg", &[-1]), ("sendto", &[-1]), ("sendmmsg", &[-1]), ("sendmsg", &[-1]),
    ("setsockopt", &[-1]),
    // what libraries probe for
    ("clone3", &[]), ("openat2", &[-1]), ("io_uring_setup", &[]), ("io_uring_enter", &[-1]), ("io_uring_register", &[-1]),
    ("io_setup", &[]), ("io_destroy", &[]), ("io_submit", &[]), ("io_cancel", &[]), ("io_getevents", &[]),
    ("io_pgetevents", &[]), ("landlock_create_ruleset", &[]), ("landlock_add_rule", &[-1]),
    ("landlock_restrict_self", &[-1]), ("memfd_secret", &[-1]), ("map_shadow_stack", &[]), ("cachestat", &[-1]),
    ("set_mempolicy", &[-1]), ("mbind", &[1]), ("set_mempolicy_home_node", &[1]), ("move_pages", &[-1]),
    ("lsm_get_self_attr", &[]), ("lsm_set_self_attr", &[]), ("lsm_list_modules", &[]), ("statmount", &[]), ("listmount", &[]),
    ("file_getattr", &[-1]), ("file_setattr", &[-1]),
];

/// `rule NAME NUMBER [{"AT":VALUE,…}]`: the call that the table above knows by name, with these arguments in the place of
/// the table's. Answers the error, or `how` it went: `worked`, `late` (it blocked), `left` (it ended the child), `signal N`.
pub fn rule(args: Args) -> Answer {
    let name = args.text(0)?;
    let Some((_, known)) = TRIES.iter().find(|(known, _)| *known == name) else {
        return Err(Trouble::usage(format!(
            "{name} is in no line of TRIES in tests/probe/src/rules.rs: add (\"{name}\", &[…]) with arguments that do no harm"
        )));
    };
    let mut values = [0; 6];
    values[..known.len()].copy_from_slice(known);
    for (at, value) in args.get(2).and_then(Value::as_object).into_iter().flatten() {
        let (Some(place), Some(value)) = (at.parse().ok().and_then(|at: usize| values.get_mut(at)), number(value))
        else {
            return Err(Trouble::usage(format!("argument {at}: {value} is no argument")));
        };
        *place = value;
    }
    in_child(args.int(1)?, &values)
}

/// `try NUMBER [ARG…]`: any call, and answers as `rule` does.
pub fn any(args: Args) -> Answer {
    let nr = args.int(0)?;
    let values: Vec<i64> = (1..args.0.len()).map(|at| args.int(at)).collect::<Result<_, _>>()?;
    in_child(nr, &values)
}

fn in_child(nr: i64, values: &[i64]) -> Answer {
    let pid = sys::fork(|| {
        let Ok(own) = sys::call(libc::SYS_getpid, &[]) else { return 255 };
        let got = raw(nr, values);
        // fork and its like answer twice; the second one is not asked
        match (sys::call(libc::SYS_getpid, &[]), got) {
            (Ok(pid), _) if pid != own => 0,
            (_, Ok(_)) => WORKED,
            (_, Err(trouble)) => trouble.errno,
        }
    })?;
    match sys::wait_at_most(pid, PATIENCE_MS)? {
        Ended::Exit(WORKED) => Ok(json!({"how": "worked"})),
        Ended::Exit(LEFT) => Ok(json!({"how": "left"})),
        Ended::Exit(errno @ 1..WORKED) => Err(Trouble::errno(errno)),
        Ended::Exit(code) => Err(Trouble::usage(format!("the child left with {code}"))),
        Ended::Signal(signal) => Ok(json!({"how": format!("signal {signal}")})),
        Ended::Late => Ok(json!({"how": "late"})),
    }
}

fn raw(nr: i64, values: &[i64]) -> Result<i64, Trouble> {
    #[cfg(target_arch = "x86_64")]
    if nr == libc::SYS_vfork {
        return vfork();
    }
    sys::call(nr, values)
}

/// `vfork`, whose child has this very stack: it must leave before anything is called or returned from.
#[cfg(target_arch = "x86_64")]
fn vfork() -> Result<i64, Trouble> {
    let got: i64;
    // SAFETY: the child runs the three instructions after the test and is gone; the parent sleeps until then. The kernel
    // clobbers rax, rcx and r11, the child rdi, which the parent has back as it was: registers are not shared.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor edi, edi",
            "mov eax, {exit}",
            "syscall",
            "2:",
            exit = const libc::SYS_exit,
            inlateout("rax") libc::SYS_vfork => got,
            out("rcx") _, out("r11") _, out("rdi") _,
        );
    }
    if got < 0 { Err(Trouble::errno((-got) as i32)) } else { Ok(got) }
}
