//! Which arguments of a system call are values, with the names that its manual page gives them.

/// Names of the calls; index and name of each argument that is a value.
pub(super) type Row = (&'static [&'static str], &'static [(usize, &'static str)]);

#[rustfmt::skip]
pub(super) static VALUES: &[Row] = &[
    (&["socket"], &[(0, "family"), (1, "type"), (2, "protocol")]),
    (&["socketpair"], &[(0, "family"), (1, "type"), (2, "protocol")]),
    (&["setsockopt", "getsockopt"], &[(0, "fd"), (1, "level"), (2, "optname")]),
    (&["sendto", "sendmmsg"], &[(0, "fd"), (3, "flags")]), (&["sendmsg"], &[(0, "fd"), (2, "flags")]),
    (&["sched_setaffinity", "sched_setparam", "sched_setscheduler", "sched_setattr"], &[(0, "pid")]), (&["setpriority"], &[(0, "which"), (1, "who"), (2, "prio")]),
    (&["ioprio_set"], &[(0, "which"), (1, "who"), (2, "ioprio")]), (&["prlimit64"], &[(0, "pid"), (1, "resource")]),
    (&["clone", "unshare"], &[(0, "flags")]), (&["close_range"], &[(0, "first"), (1, "last"), (2, "flags")]), (&["setns"], &[(0, "fd"), (1, "nstype")]),
    (&["mmap"], &[(2, "prot"), (3, "flags")]), (&["ioctl"], &[(0, "fd"), (1, "request")]),
    (&["fcntl"], &[(0, "fd"), (1, "cmd"), (2, "arg")]), (&["flock"], &[(0, "fd"), (1, "operation")]), (&["prctl"], &[(0, "option"), (1, "arg2")]),
    (&["arch_prctl"], &[(0, "code")]), (&["personality"], &[(0, "persona")]), (&["open"], &[(1, "flags"), (2, "mode")]),
    (&["openat"], &[(0, "dirfd"), (2, "flags"), (3, "mode")]), (&["creat", "chmod"], &[(1, "mode")]),
    (&["fchmod"], &[(0, "fd"), (1, "mode")]), (&["fchmodat", "fchmodat2"], &[(0, "dirfd"), (2, "mode")]),
    (&["mknod"], &[(1, "mode"), (2, "dev")]), (&["mknodat"], &[(0, "dirfd"), (2, "mode"), (3, "dev")]),
    (&["mq_open"], &[(1, "oflag"), (2, "mode")]), (&["renameat2"], &[(0, "olddirfd"), (2, "newdirfd"), (4, "flags")]),
    (&["ptrace"], &[(0, "request"), (1, "pid")]),
    (&["process_vm_readv", "process_vm_writev"], &[(0, "pid"), (5, "flags")]),
    (&["process_madvise"], &[(0, "pidfd"), (3, "advice")]), (&["pidfd_getfd"], &[(0, "pidfd"), (1, "targetfd")]),
    (&["kcmp"], &[(0, "pid1"), (1, "pid2"), (2, "type")]), (&["migrate_pages"], &[(0, "pid")]),
    (&["mount"], &[(3, "mountflags")]), (&["umount2"], &[(1, "flags")]),
    (&["open_tree", "open_tree_attr"], &[(0, "dirfd"), (2, "flags")]),
    (&["move_mount"], &[(0, "from_dirfd"), (2, "to_dirfd"), (4, "flags")]), (&["fsopen"], &[(1, "flags")]),
    (&["fsconfig"], &[(0, "fd"), (1, "cmd")]), (&["fsmount"], &[(0, "fd"), (1, "flags"), (2, "attr_flags")]),
    (&["fspick", "mount_setattr"], &[(0, "dirfd"), (2, "flags")]), (&["bpf"], &[(0, "cmd"), (2, "size")]),
    (&["perf_event_open"], &[(1, "pid"), (2, "cpu"), (3, "group_fd"), (4, "flags")]),
    (&["keyctl"], &[(0, "operation")]), (&["add_key"], &[(4, "keyring")]), (&["request_key"], &[(3, "keyring")]),
    (&["userfaultfd"], &[(0, "flags")]), (&["seccomp"], &[(0, "operation"), (1, "flags")]),
    (&["setuid", "setfsuid"], &[(0, "uid")]), (&["setgid", "setfsgid"], &[(0, "gid")]),
    (&["setreuid"], &[(0, "ruid"), (1, "euid")]), (&["setregid"], &[(0, "rgid"), (1, "egid")]),
    (&["setresuid"], &[(0, "ruid"), (1, "euid"), (2, "suid")]),
    (&["setresgid"], &[(0, "rgid"), (1, "egid"), (2, "sgid")]), (&["setgroups"], &[(0, "size")]),
    (&["reboot"], &[(2, "op")]), (&["syslog"], &[(0, "type")]), (&["swapon"], &[(1, "flags")]),
    (&["finit_module"], &[(0, "fd"), (2, "flags")]), (&["delete_module"], &[(1, "flags")]),
    (&["init_module"], &[(1, "len")]), (&["kexec_load"], &[(0, "entry"), (1, "nr_segments"), (3, "flags")]),
    (&["kexec_file_load"], &[(0, "kernel_fd"), (1, "initrd_fd"), (4, "flags")]),
    (&["fanotify_init"], &[(0, "flags"), (1, "event_f_flags")]),
    (&["fanotify_mark"], &[(0, "fd"), (1, "flags"), (2, "mask"), (3, "dirfd")]),
    (&["name_to_handle_at"], &[(0, "dirfd"), (4, "flags")]), (&["open_by_handle_at"], &[(0, "mount_fd"), (2, "flags")]),
    (&["clock_settime", "clock_adjtime"], &[(0, "clockid")]), (&["sethostname", "setdomainname"], &[(1, "len")]),
    (&["quotactl"], &[(0, "op"), (2, "id")]), (&["quotactl_fd"], &[(0, "fd"), (1, "op"), (2, "id")]),
    (&["iopl"], &[(0, "level")]), (&["ioperm"], &[(0, "from"), (1, "num"), (2, "turn_on")]),
    (&["modify_ldt"], &[(0, "func")]), (&["kill"], &[(0, "pid"), (1, "sig")]),
    (&["tgkill"], &[(0, "tgid"), (1, "tid"), (2, "sig")]), (&["syncfs"], &[(0, "fd")]),
];

/// The arguments of a call that are values. The others are pointers: what they point at can change under the reader, so a
/// denial does not show it.
pub fn value_args(nr: i32) -> &'static [(usize, &'static str)] {
    let name = super::syscall_name(nr).unwrap_or_default();
    VALUES.iter().find(|(names, _)| names.contains(&name)).map_or(&[], |(_, arguments)| arguments)
}
