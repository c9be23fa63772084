//! The plugin's filter, by name of the system call.

use super::*;

#[test]
fn set_id_bits_by_every_call_that_takes_a_mode() {
    // (call, arguments before the mode, set so that the mode is used)
    let calls: [(&str, &[u64]); 10] = [
        ("open", &[0, 0x41]),
        ("openat", &[0, 0, 0x41]),
        ("creat", &[0]),
        ("chmod", &[0]),
        ("fchmod", &[3]),
        ("fchmodat", &[0, 0]),
        ("fchmodat2", &[0, 0]),
        ("mknod", &[0]),
        ("mknodat", &[0, 0]),
        ("mq_open", &[0, 0x40]),
    ];
    both(|f| {
        for (name, before) in calls {
            for mode in [0o644, 0o1777] {
                f.expect(Action::Allow, name, &[before, &[mode]].concat());
            }
            for mode in [0o4755, 0o2755, 0o6755, 0xdead_0000_0000_0000 | 0o4755] {
                f.expect(Action::Notify, name, &[before, &[mode]].concat());
            }
        }
        // __O_TMPFILE creates a file too.
        f.expect(Action::Notify, "openat", &[0, 0, 0x40_0000 | 0o200_000, 0o4755]);
        // Nothing is created: the mode's register can have any value.
        f.expect(Action::Allow, "openat", &[0, 0, 0o2_000_000, u64::MAX]);
        f.expect(Action::Allow, "open", &[0, 2, u64::MAX]);
        f.expect(ENOSYS, "openat2", &[0, 0, 0, 24]);
    });
}

#[test]
fn only_files_and_fifos_are_made() {
    both(|f| {
        for (name, before) in [("mknod", &[0u64][..]), ("mknodat", &[0, 0])] {
            for kind in [0, 0o100_000, 0o010_000] {
                f.expect(Action::Allow, name, &[before, &[kind | 0o644, 0]].concat());
            }
            for kind in [0o020_000, 0o060_000, 0o040_000, 0o140_000, 0o120_000, 0o170_000] {
                f.expect(Action::Notify, name, &[before, &[kind | 0o644, 0]].concat());
            }
        }
        // RENAME_WHITEOUT makes a character device 0:0; RENAME_NOREPLACE and RENAME_EXCHANGE do not.
        f.expect(Action::Notify, "renameat2", &[0, 0, 0, 0, 4]);
        f.expect(Action::Notify, "renameat2", &[0, 0, 0, 0, 5]);
        f.expect(Action::Allow, "renameat2", &[0, 0, 0, 0, 1]);
        f.expect(Action::Allow, "renameat2", &[0, 0, 0, 0, 2]);
    });
}

#[test]
fn socket_families_types_and_protocols() {
    const NONBLOCK_CLOEXEC: u64 = 0o2_004_000;
    both(|f| {
        let unix = [1, 2, 5].map(|kind| [1, kind, 0]);
        let route = [2, 3].map(|kind| [16, kind, 0]);
        let internet = [2, 10].map(|family| [[family, 1, 0], [family, 1, 6], [family, 2, 0], [family, 2, 17]]);
        for [family, kind, protocol] in [&unix[..], &route, &internet.concat()].concat() {
            f.expect(Action::Allow, "socket", &[family, kind, protocol]);
            f.expect(Action::Allow, "socket", &[family, kind | NONBLOCK_CLOEXEC, protocol]);
        }
        for (family, kind, protocol) in [
            (2, 1, 262),  // MPTCP
            (2, 1, 132),  // SCTP
            (10, 5, 132), // SCTP, one to many
            (2, 3, 6),    // raw
            (2, 3, 255),
            (2, 2, 1),   // ping
            (2, 2, 136), // UDP-Lite
            (16, 3, 15), // NETLINK: only NETLINK_ROUTE, above
            (16, 2, 9),
            (16, 5, 0),
            (17, 3, 0), // PACKET
            (38, 5, 0), // ALG
            (40, 1, 0), // VSOCK
            (31, 1, 0), // BLUETOOTH
            (44, 3, 0), // XDP
            (1, 3, 0),
            (0, 1, 0),
        ] {
            f.expect(Action::EAFNOSUPPORT, "socket", &[family, kind, protocol]);
            f.expect(Action::EAFNOSUPPORT, "socket", &[family | 1 << 32, kind | 1 << 40, protocol]);
        }
        f.expect(Action::Allow, "socketpair", &[1, 1, 0]);
        f.expect(Action::EAFNOSUPPORT, "socketpair", &[2, 1, 0]);
        f.expect(Action::Notify, "setsockopt", &[3, 1, 13]);
        f.expect(Action::Notify, "setsockopt", &[3, 1 | 1 << 32, 13 | 1 << 63]);
        f.expect(Action::Notify, "setsockopt", &[3, 1, 50]);
        f.expect(Action::Allow, "setsockopt", &[3, 1, 2]);
        f.expect(Action::Allow, "setsockopt", &[3, 6, 13]);
        // TCP_ULP; the same number at another level; levels of families that are not available
        f.expect(Action::Notify, "setsockopt", &[3, 6, 31]);
        f.expect(Action::Allow, "setsockopt", &[3, 0, 31]);
        f.expect(Action::Allow, "setsockopt", &[3, 41, 26]);
        f.expect(Action::Notify, "setsockopt", &[3, 282, 1]);
        f.expect(Action::Notify, "setsockopt", &[3, 279, 5]);
        f.expect(Action::Notify, "sendto", &[3, 0, 0, 0x2000_0000]);
        f.expect(Action::Notify, "sendmsg", &[3, 0, 0x2000_4000]);
        f.expect(Action::Notify, "sendmmsg", &[3, 0, 1, 0x2000_0000]);
        f.expect(Action::Allow, "sendto", &[3, 0, 0x2000_0000, 0x4000]);
        f.expect(Action::Allow, "sendmsg", &[3, 0, 0x4000]);
    });
}

#[test]
fn terminals_processes_and_leases() {
    both(|f| {
        for high in [0, 1 << 32, 0xffff_ffff_0000_0000] {
            // TIOCSTI, TIOCLINUX, TIOCSETD, TIOCCONS, TIOCSCTTY; NS_GET_USERNS; SIOCSIFADDR; FS_IOC_SETFLAGS
            for request in [0x5412, 0x541c, 0x5423, 0x541d, 0x540e, 0xb701, 0x8916, 0x4008_6602] {
                f.expect(Action::Notify, "ioctl", &[0, high | request]);
            }
            for request in [0x5401, 0x5413, 0x541b, 0x5421, 0x4004_9409] {
                f.expect(Action::Allow, "ioctl", &[0, high | request]);
            }
        }
        // What fork and pthread_create pass.
        f.expect(Action::Allow, "clone", &[0x0120_0011]);
        f.expect(Action::Allow, "clone", &[0x003d_0f00]);
        // CLONE_FILES without CLONE_THREAD and vice versa: a process with a shared descriptor table, a thread with its own.
        for flags in [0x0400, 0x0400 | 17, 0x4d00, 0x003d_0b00, 0x0001_0000] {
            f.expect(Action::Notify, "clone", &[flags]);
        }
        f.expect(Action::Allow, "close_range", &[3, 9, 4]);
        f.expect(Action::Notify, "close_range", &[3, 9, 2]);
        f.expect(Action::Notify, "close_range", &[3, 9, 6 | 1 << 32]);
        for flag in [0x2_0000, 0x200_0000, 0x400_0000, 0x800_0000, 0x1000_0000, 0x2000_0000, 0x4000_0000u64] {
            f.expect(Action::Notify, "clone", &[flag | 17]);
            f.expect(Action::Notify, "clone", &[flag | 17 | 1 << 32]);
        }
        f.expect(ENOSYS, "clone3", &[]);
        f.expect(Action::Allow, "personality", &[0xffff_ffff]);
        f.expect(Action::Notify, "personality", &[0x40_0000]);
        f.expect(Action::Allow, "prctl", &[15]);
        for option in [8, 22, 24, 26, 28, 35, 43, 47, 53, 59, 62, 0x5961_6d61] {
            f.expect(Action::Notify, "prctl", &[option]);
        }
        // F_SETFD, F_SETLKW, F_OFD_SETLK, F_DUPFD_CLOEXEC
        for command in [1, 7, 37, 1030] {
            f.expect(Action::Allow, "fcntl", &[3, command]);
            f.expect(Action::Allow, "fcntl", &[3, command | 1 << 32]);
        }
        // F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ, F_SETDELEG, unassigned numbers
        for command in [1024, 1026, 1031, 1040, 64, 1100] {
            f.expect(Action::Notify, "fcntl", &[3, command]);
            f.expect(Action::Notify, "fcntl", &[3, command | 1 << 32]);
        }
        f.expect(Action::Allow, "arch_prctl", &[0x1002]);
        f.expect(Action::Notify, "arch_prctl", &[0x2001]);
    });
}

#[test]
fn what_no_plugin_may_call() {
    both(|f| {
        let calls = "ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp bpf perf_event_open \
            userfaultfd keyctl add_key request_key unshare setns mount umount2 pivot_root chroot fsopen fsmount \
            fsconfig fspick move_mount open_tree open_tree_attr mount_setattr kexec_load kexec_file_load \
            init_module finit_module delete_module swapon swapoff reboot quotactl quotactl_fd acct syslog \
            seccomp open_by_handle_at name_to_handle_at fanotify_init inotify_add_watch inotify_init \
            inotify_init1 inotify_rm_watch lookup_dcookie vhangup clock_settime settimeofday adjtimex \
            clock_adjtime setgroups capset iopl ioperm modify_ldt uselib sethostname sync \
            syncfs";
        for name in calls.split(' ') {
            assert!(Arch::ALL.iter().any(|a| f.table.number(name, *a).is_some()), "{name}");
            f.expect(Action::Notify, name, &[]);
        }
        for name in ["io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup", "landlock_create_ruleset"] {
            f.expect(ENOSYS, name, &[]);
        }
        for name in ["read", "execve", "rseq", "faccessat2", "close_range", "statx", "pidfd_open"] {
            f.expect(Action::Allow, name, &[]);
        }
    });
}

#[test]
fn newer_x32_and_foreign_calls_do_not_exist() {
    both(|f| {
        let read = f.table.number("read", f.arch).unwrap();
        assert_eq!(f.number(read, &[]), Action::Allow.value());
        for nr in [470, 1000, 0x4000_0000, 0x4000_0000 | read, 0x4000_0000 | 520, 0x8000_0000 | read, u32::MAX] {
            assert_eq!(f.number(nr, &[]), ENOSYS.value(), "{nr:#x}");
        }
        for audit in [I386, ARM, 0, f.arch.audit() & !0x4000_0000] {
            for nr in 0..500 {
                assert_eq!(oracle::run(&f.program, audit, nr, &[0; 6]).0, ENOSYS.value());
            }
        }
    });
}

#[test]
fn memory_that_no_process_maps_is_not_available() {
    both(|f| {
        // MAP_SHARED | MAP_ANONYMOUS, with other flags and high bits; MAP_SHARED_VALIDATE
        for flags in [0x21, 0x4021, 0x23, 0x21 | 1 << 32, 0xffff_ffff_0000_0000 | 0x21] {
            f.expect(Action::Notify, "mmap", &[0, 4096, 3, flags]);
        }
        // private memory; files, shared and not
        for flags in [0x22, 0x4022, 0x2_0022, 0x1, 0x2, 0x3, 0x28] {
            f.expect(Action::Allow, "mmap", &[0, 4096, 3, flags]);
        }
        for name in ["sendfile", "splice", "tee", "vmsplice"] {
            f.expect(Action::Errno(22), name, &[1, 2]);
        }
        for name in ["shmget", "msgget", "semget", "memfd_create"] {
            f.expect(Action::Notify, name, &[0]);
        }
        // IPV6_FLOWLABEL_MGR
        f.expect(Action::Notify, "setsockopt", &[3, 41, 32]);
        f.expect(Action::Allow, "setsockopt", &[3, 6, 32]);
    });
}
