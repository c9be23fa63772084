//! The privileged and the rarely needed parts of the kernel's interface.

use crate::answer::{Answer, Trouble};
use crate::args::{Args, number};
use crate::frames::unhex;
use crate::sys::{self, Ended, c, ptr};
use serde_json::{Value, json};
use std::ffi::CString;
use std::time::Duration;

/// `syscall NAME-OR-NUMBER [ARG…]`: an argument is a number or constants; `{"bytes":n}` a zeroed buffer, `{"hex":"…"}`
/// one with content, `{"text":"…"}` a C string.
pub fn syscall(args: Args) -> Answer {
    let nr = args.int(0)?;
    let mut buffers: Vec<Vec<u8>> = Vec::new();
    let mut values = Vec::new();
    for value in args.rest(1).0 {
        let buffer = if let Some(n) = value.get("bytes").and_then(Value::as_u64) {
            vec![0; n.min(1 << 24) as usize]
        } else if let Some(hex) = value.get("hex").and_then(Value::as_str) {
            unhex(hex)
        } else if let Some(text) = value.get("text").and_then(Value::as_str) {
            CString::new(text).map_err(|_| Trouble::usage("NUL in a text"))?.into_bytes_with_nul()
        } else {
            values.push(number(value).ok_or_else(|| Trouble::usage(format!("{value} is not a number")))?);
            continue;
        };
        values.push(buffer.as_ptr() as i64);
        buffers.push(buffer);
    }
    let got = sys::call(nr, &values)?;
    Ok(json!(got))
}

/// `privileged NAME`: a call made so that it either works or fails for a reason that tells it was tried (`EFAULT`,
/// `EINVAL`, `ENOEXEC`, …): never harmful where it is allowed.
pub fn privileged(args: Args) -> Answer {
    let name = args.text(0)?;
    let zero = [0_u64; 32];
    let z = zero.as_ptr() as i64;
    let slash = c("/")?;
    let s = ptr(&slash);
    let number = |name: &str| {
        crate::constants::constant(&format!("SYS_{name}"))
            .ok_or_else(|| Trouble::usage(format!("no call is called {name}")))
    };
    let got = match name {
        // BPF_MAP_CREATE, an array of one 4-byte value
        "bpf" => {
            let attr: [u32; 32] = std::array::from_fn(|i| [2, 4, 4, 1].get(i).copied().unwrap_or(0));
            fd(sys::call(libc::SYS_bpf, &[0, attr.as_ptr() as i64, 128]))
        }
        // PERF_TYPE_SOFTWARE, PERF_COUNT_SW_TASK_CLOCK, own process, user space only
        "perf_event_open" => {
            let mut attr = [0_u64; 16];
            attr[0] = 1 | (112 << 32);
            attr[1] = 1;
            attr[5] = (1 << 5) | (1 << 6);
            fd(sys::call(libc::SYS_perf_event_open, &[attr.as_ptr() as i64, 0, -1, -1, 0]))
        }
        "userfaultfd" => fd(sys::call(libc::SYS_userfaultfd, &[i64::from(libc::O_CLOEXEC) | 1])),
        "io_uring_setup" => fd(sys::call(libc::SYS_io_uring_setup, &[1, z])),
        "io_uring_enter" => sys::call(libc::SYS_io_uring_enter, &[-1, 0, 0, 0, 0, 0]),
        "io_uring_register" => sys::call(libc::SYS_io_uring_register, &[-1, 0, 0, 0]),
        "keyctl" => sys::call(libc::SYS_keyctl, &[0, -3, 0]),
        // a bad magic number: refused after the privilege was checked
        "reboot" => sys::call(libc::SYS_reboot, &[0, 0, 0, 0]),
        // flags that don't exist: refused after the privilege was checked
        "kexec_load" => sys::call(libc::SYS_kexec_load, &[0, 0, 0, 0xFFFF]),
        "kexec_file_load" => sys::call(libc::SYS_kexec_file_load, &[-1, -1, 0, 0, 0xFFFF]),
        "init_module" => sys::call(libc::SYS_init_module, &[z, 64, s]),
        "finit_module" => sys::call(libc::SYS_finit_module, &[-1, s, 0]),
        "delete_module" => {
            let module = c("no_such_module")?;
            sys::call(libc::SYS_delete_module, &[ptr(&module), i64::from(libc::O_NONBLOCK)])
        }
        "swapon" | "swapoff" => {
            let missing = c("/no/such/file")?;
            sys::call(number(name)?, &[ptr(&missing), 0])
        }
        "acct" => {
            let missing = c("/no/such/file")?;
            sys::call(libc::SYS_acct, &[ptr(&missing)])
        }
        // SYSLOG_ACTION_SIZE_BUFFER
        "syslog" => sys::call(libc::SYS_syslog, &[10, 0, 0]),
        "quotactl" => sys::call(libc::SYS_quotactl, &[-1, 0, 0, 0]),
        "settimeofday" => sys::call(libc::SYS_settimeofday, &[1, 0]),
        "clock_settime" => sys::call(libc::SYS_clock_settime, &[0, 1]),
        "sethostname" => sys::call(libc::SYS_sethostname, &[1, 4]),
        "setdomainname" => sys::call(libc::SYS_setdomainname, &[1, 4]),
        // looks only, changes nothing
        "personality" => sys::call(libc::SYS_personality, &[0xFFFF_FFFF]),
        "personality_no_randomize" => sys::call(libc::SYS_personality, &[0x0004_0000]),
        "fanotify_init" => fd(sys::call(libc::SYS_fanotify_init, &[0, 0])),
        "name_to_handle_at" => {
            let mut handle = [0_u32; 34];
            handle[0] = 128;
            let mut mount = 0_i32;
            sys::call(libc::SYS_name_to_handle_at, &[-100, s, handle.as_mut_ptr() as i64, &raw mut mount as i64, 0])
        }
        "open_by_handle_at" => sys::call(libc::SYS_open_by_handle_at, &[-100, z, 0]),
        "chroot" => sys::call(libc::SYS_chroot, &[s]),
        "pivot_root" => sys::call(libc::SYS_pivot_root, &[s, s]),
        "fsopen" => {
            let kind = c("tmpfs")?;
            fd(sys::call(libc::SYS_fsopen, &[ptr(&kind), 1]))
        }
        "fsmount" => sys::call(libc::SYS_fsmount, &[-1, 0, 0]),
        "fspick" => fd(sys::call(libc::SYS_fspick, &[-100, s, 1])),
        "open_tree" => fd(sys::call(libc::SYS_open_tree, &[-100, s, 1])),
        "move_mount" => sys::call(libc::SYS_move_mount, &[-1, s, -100, s, 0]),
        "mount_setattr" => sys::call(libc::SYS_mount_setattr, &[-100, s, 0, z, 32]),
        "umount2" => {
            let missing = c("/no/such/file")?;
            sys::call(libc::SYS_umount2, &[ptr(&missing), 0])
        }
        "vhangup" => sys::call(libc::SYS_vhangup, &[]),
        "kcmp" => sys::call(libc::SYS_kcmp, &[std::process::id().into(), std::process::id().into(), 0, 0, 0]),
        "mbind" => sys::call(libc::SYS_mbind, &[0, 0, 0, 0, 0, 0]),
        "move_pages" => sys::call(libc::SYS_move_pages, &[0, 0, 0, 0, 0, 0]),
        "migrate_pages" => sys::call(libc::SYS_migrate_pages, &[0, 0, 0, 0]),
        "process_madvise" => sys::call(libc::SYS_process_madvise, &[-1, z, 0, 4, 0]),
        "process_mrelease" => sys::call(libc::SYS_process_mrelease, &[-1, 0]),
        "memfd_secret" => fd(sys::call(libc::SYS_memfd_secret, &[0])),
        "execveat" => sys::call(libc::SYS_execveat, &[-1, s, 0, 0, 0]),
        "lookup_dcookie" => sys::call(libc::SYS_lookup_dcookie, &[0, z, 0]),
        #[cfg(target_arch = "x86_64")]
        "iopl" => sys::call(libc::SYS_iopl, &[3]),
        #[cfg(target_arch = "x86_64")]
        "ioperm" => sys::call(libc::SYS_ioperm, &[0x80, 1, 1]),
        #[cfg(target_arch = "x86_64")]
        "modify_ldt" => sys::call(libc::SYS_modify_ldt, &[0, z, 8]),
        // a number that no kernel has
        "unknown" => sys::call(4095, &[]),
        _ => sys::call(number(name)?, &[]),
    };
    Ok(json!(got?))
}

fn fd(got: Result<i64, Trouble>) -> Result<i64, Trouble> {
    let fd = got?;
    sys::close(fd);
    Ok(0)
}

/// `prctl OPERATION [A] [B] [C] [D]`
pub fn prctl(args: Args) -> Answer {
    let at = |i| args.int_or(i, 0);
    Ok(json!(sys::call(libc::SYS_prctl, &[args.int(0)?, at(1)?, at(2)?, at(3)?, at(4)?])?))
}

/// `ioctl ON REQUEST [HEX-OR-NUMBER]`: `ON` is a descriptor's number, `pipe` or `pty` (a fresh terminal's slave side).
/// The request may have bits above 32.
pub fn ioctl(args: Args) -> Answer {
    let request = args.int(1)?;
    let (on, keep) = match args.get(0).and_then(Value::as_str) {
        Some("pipe") => {
            let (reader, writer) = sys::pipe()?;
            (i64::from(reader), vec![i64::from(reader), i64::from(writer)])
        }
        Some("pty") => terminal()?,
        _ => (args.int(0)?, vec![]),
    };
    let buffer = unhex(args.text_or(2, "41"));
    let got = sys::call(libc::SYS_ioctl, &[on, request, buffer.as_ptr() as i64]);
    keep.into_iter().for_each(sys::close);
    Ok(json!(got?))
}

fn terminal() -> Result<(i64, Vec<i64>), Trouble> {
    let path = c("/dev/ptmx")?;
    let flags = i64::from(libc::O_RDWR | libc::O_NOCTTY);
    let master = sys::call(libc::SYS_openat, &[-100, ptr(&path), flags, 0])?;
    let unlock = 0_i32;
    sys::call(libc::SYS_ioctl, &[master, libc::TIOCSPTLCK as i64, &raw const unlock as i64])?;
    let slave = sys::call(libc::SYS_ioctl, &[master, libc::TIOCGPTPEER as i64, flags])?;
    Ok((slave, vec![slave, master]))
}

/// `clone_newuser`: `clone` with CLONE_NEWUSER; the child leaves at once.
pub fn clone_newuser(args: Args) -> Answer {
    clone_by(args.int_or(0, i64::from(libc::CLONE_NEWUSER))?, false)
}

/// `clone3 FLAGS`
pub fn clone3(args: Args) -> Answer {
    clone_by(args.int_or(0, i64::from(libc::CLONE_NEWUSER))?, true)
}

fn clone_by(flags: i64, third: bool) -> Answer {
    let attr: [u64; 11] = std::array::from_fn(|i| match i {
        0 => flags as u64,
        4 => libc::SIGCHLD as u64,
        _ => 0,
    });
    let pid = if third {
        sys::call(libc::SYS_clone3, &[attr.as_ptr() as i64, 88])?
    } else {
        sys::call(libc::SYS_clone, &[flags | i64::from(libc::SIGCHLD), 0, 0, 0, 0])?
    };
    if pid == 0 {
        // SAFETY: the child of a clone without CLONE_VM; leaves without the parent's exit handlers.
        unsafe { libc::_exit(0) }
    }
    match sys::wait(pid as i32, Duration::from_secs(2)) {
        Ended::Exit(0) => Ok(json!({})),
        other => Err(Trouble::usage(format!("the child ended as {other:?}"))),
    }
}

/// `setns PATH FLAGS`: into the namespace that PATH names, in a child.
pub fn setns(args: Args) -> Answer {
    let path = c(args.text(0)?)?;
    let fd = sys::call(libc::SYS_openat, &[-100, ptr(&path), 0, 0])?;
    let flags = args.int_or(1, 0)?;
    let (reader, writer) = sys::pipe()?;
    let pid = sys::fork(|| {
        let errno = sys::call(libc::SYS_setns, &[fd, flags]).map_or_else(|t| t.errno, |_| 0);
        let _ = sys::write_all(writer, &errno.to_ne_bytes());
        0
    })?;
    sys::wait(pid, Duration::from_secs(2));
    sys::close(fd);
    sys::close(i64::from(writer));
    let mut errno = [0_u8; 4];
    sys::call(libc::SYS_read, &[i64::from(reader), errno.as_mut_ptr() as i64, 4])?;
    sys::close(i64::from(reader));
    match i32::from_ne_bytes(errno) {
        0 => Ok(json!({})),
        errno => Err(Trouble::errno(errno)),
    }
}

/// `mount SOURCE TARGET TYPE FLAGS [DATA]`
pub fn mount(args: Args) -> Answer {
    let (source, target, kind, data) =
        (c(args.text(0)?)?, c(args.text(1)?)?, c(args.text_or(2, ""))?, c(args.text_or(4, ""))?);
    let got = sys::call(libc::SYS_mount, &[ptr(&source), ptr(&target), ptr(&kind), args.int_or(3, 0)?, ptr(&data)]);
    Ok(json!(got?))
}

/// A seccomp filter that allows all, with a listener. `no_new_privs` is set first, as an ordinary process must.
pub fn seccomp_listener(_: Args) -> Answer {
    // BPF_RET | BPF_K, SECCOMP_RET_ALLOW
    let filter: [u64; 1] = [0x06 | (0x7FFF_0000 << 32)];
    let program = [1_u64, filter.as_ptr() as u64];
    sys::call(libc::SYS_prctl, &[i64::from(libc::PR_SET_NO_NEW_PRIVS), 1, 0, 0, 0])?;
    let got = sys::call(libc::SYS_seccomp, &[1, 8, program.as_ptr() as i64]);
    Ok(json!(fd(got)?))
}
