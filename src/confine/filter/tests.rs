//! Every rule both ways, on both architectures, by an interpreter; then the plugin's filter in the kernel.

use super::profile::{Action, Arch, Condition, Insn, Profile, Table, Verdict, interpreter};
use super::*;
use std::collections::{BTreeMap, BTreeSet};

const TABLE: &str = include_str!("../../../seccomp/syscalls.tbl");
const PROFILES: [(&str, &str); 4] = [
    ("default", include_str!("../../../seccomp/default.json")),
    ("init", include_str!("../../../seccomp/init.json")),
    ("gateway", include_str!("../../../seccomp/gateway.json")),
    ("supervisor", include_str!("../../../seccomp/supervisor.json")),
];
const I386: u32 = 0x4000_0003;
const ARM: u32 = 0x4000_0028;
const ENOSYS: Action = Action::Errno(38);
const EAFNOSUPPORT: Action = Action::Errno(97);

fn table() -> Table {
    Table::parse(TABLE).unwrap()
}

fn load(name: &str, arch: Arch) -> Profile {
    let text = PROFILES.iter().find(|(n, _)| *n == name).unwrap().1;
    Profile::load(text, &table(), arch).unwrap()
}

/// The plugin's program for one architecture, asked by name.
struct Asked {
    arch: Arch,
    table: Table,
    program: Vec<Insn>,
}

impl Asked {
    fn of(name: &str, arch: Arch) -> Asked {
        Asked { arch, table: table(), program: load(name, arch).compile().unwrap() }
    }

    fn number(&self, nr: u32, args: &[u64]) -> u32 {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        interpreter::run(&self.program, self.arch.audit(), nr, &all).0
    }

    /// `None` where the architecture has no such call.
    fn say(&self, name: &str, args: &[u64]) -> Option<u32> {
        self.table.number(name, self.arch).map(|nr| self.number(nr, args))
    }

    #[track_caller]
    fn expect(&self, want: Action, name: &str, args: &[u64]) {
        if let Some(said) = self.say(name, args) {
            assert_eq!(said, want.value(), "{name}({args:x?}) on {}: want {want:?}", self.arch);
        }
    }
}

fn both(mut check: impl FnMut(&Asked)) {
    for arch in Arch::ALL {
        check(&Asked::of("default", arch));
    }
}

/// The values of an argument that lie at the edges of a rule: equal, each bit flipped, with the high half set.
fn edges(c: &Condition) -> Vec<u64> {
    let v = u64::from(c.value);
    let mut out = vec![v, v | 0xffff_ffff_0000_0000, v.wrapping_add(1), 0, u64::MAX, !u64::from(c.mask) | v];
    out.extend((0..64).map(|bit| v ^ (1 << bit)));
    out
}

/// Argument lists that reach every condition of a verdict in every state, the rest of each list holding.
fn probes(v: &Verdict) -> Vec<[u64; 6]> {
    let mut out = vec![[0; 6], [u64::MAX; 6]];
    for list in &v.allow_when {
        let mut good = [0u64; 6];
        // `ne` lists: something that none of them names.
        for c in list {
            good[usize::from(c.arg)] = if c.equal { u64::from(c.value) } else { 0x7654 };
        }
        out.push(good);
        for c in list {
            for edge in edges(c) {
                let mut args = good;
                args[usize::from(c.arg)] = edge;
                out.push(args);
            }
        }
    }
    out
}

#[test]
fn programs_say_what_the_profiles_say() {
    for (name, _) in PROFILES {
        for arch in Arch::ALL {
            let profile = load(name, arch);
            let program = profile.compile().unwrap();
            let (mut calls, mut allowed, mut refused, mut deepest) = (0, 0, 0, 0);
            for nr in (0..=profile.newest + 50).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, u32::MAX]) {
                let lists = profile.rules.get(&nr).map(probes).unwrap_or_else(|| vec![[0; 6], [u64::MAX; 6]]);
                for args in lists {
                    for audit in [arch.audit(), I386, ARM, 0] {
                        let want = profile.verdict(audit, nr, &args);
                        let (got, steps) = interpreter::run(&program, audit, nr, &args);
                        assert_eq!(got, want.value(), "{name} {arch} {audit:x} {nr}({args:x?}): {want:?}");
                        calls += 1;
                        deepest = deepest.max(steps);
                        if want == Action::Allow { allowed += 1 } else { refused += 1 }
                    }
                }
            }
            assert!(allowed > 0 && refused > 0, "{name} {arch}: {allowed} allowed, {refused} refused of {calls}");
            println!("{name} {arch}: {} instructions, deepest {deepest}, {calls} calls compared", program.len());
        }
    }
}

/// seccompiler compiles the same rules its own way; a mistake in the product's compiler would have to be in both.
#[test]
fn programs_say_what_seccompiler_says() {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };
    for (name, _) in PROFILES {
        for arch in Arch::ALL {
            let profile = load(name, arch);
            let program = profile.compile().unwrap();
            let target = if arch == Arch::X86_64 { TargetArch::x86_64 } else { TargetArch::aarch64 };
            for (nr, verdict) in &profile.rules {
                if verdict.allow_when.is_empty() && verdict.otherwise != Action::Allow {
                    continue;
                }
                let rules = verdict.allow_when.iter().map(|list| {
                    let conditions = list.iter().map(|c| {
                        let op = match (c.equal, c.mask) {
                            (true, u32::MAX) => SeccompCmpOp::Eq,
                            (true, mask) => SeccompCmpOp::MaskedEq(mask.into()),
                            (false, u32::MAX) => SeccompCmpOp::Ne,
                            (false, mask) => panic!("{nr}: seccompiler cannot say `ne` under the mask {mask:#x}"),
                        };
                        SeccompCondition::new(c.arg, SeccompCmpArgLen::Dword, op, c.value.into()).unwrap()
                    });
                    SeccompRule::new(conditions.collect()).unwrap()
                });
                let one = BTreeMap::from([(i64::from(*nr), rules.collect())]);
                let filter = SeccompFilter::new(one, SeccompAction::Trap, SeccompAction::Allow, target).unwrap();
                let theirs: Vec<Insn> =
                    BpfProgram::try_from(filter).unwrap().into_iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
                for args in probes(verdict) {
                    let ours = interpreter::run(&program, arch.audit(), *nr, &args).0 == Action::Allow.value();
                    let other = interpreter::run(&theirs, arch.audit(), *nr, &args).0 == Action::Allow.value();
                    assert_eq!(ours, other, "{name} {arch} {nr}({args:x?})");
                }
            }
        }
    }
}

#[test]
fn the_compiled_in_programs_are_those_of_the_profiles() {
    let arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };
    let built: [(&str, &[Insn]); 4] =
        [("default", &DEFAULT), ("init", &INIT), ("gateway", &GATEWAY), ("supervisor", &SUPERVISOR)];
    for (name, program) in built {
        assert_eq!(program, load(name, arch).compile().unwrap(), "{name}");
    }
    assert_eq!(syscall_name(libc::SYS_ptrace as i32), Some("ptrace"));
    assert_eq!(syscall_number("mseal").map(i64::from), Some(libc::SYS_mseal));
    assert_eq!((syscall_name(-1), syscall_name(9999), syscall_number("nonesuch")), (None, None, None));
}

#[test]
fn set_id_bits_by_every_call_that_takes_a_mode() {
    // (call, arguments before the mode, what must hold for the mode to count)
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
            for (mode, want) in [
                (0o644, Action::Allow),
                (0o1777, Action::Allow),
                (0o4755, Action::Notify),
                (0o2755, Action::Notify),
                (0o6755, Action::Notify),
                (0xdead_0000_0000_0000 | 0o4755, Action::Notify),
            ] {
                f.expect(want, name, &[before, &[mode]].concat());
            }
        }
        // __O_TMPFILE makes a file too.
        f.expect(Action::Notify, "openat", &[0, 0, 0x40_0000 | 0o200_000, 0o4755]);
        // Nothing is created: the mode's register holds anything.
        f.expect(Action::Allow, "openat", &[0, 0, 0o2_000_000, u64::MAX]);
        f.expect(Action::Allow, "open", &[0, 2, u64::MAX]);
        f.expect(ENOSYS, "openat2", &[0, 0, 0, 24]);
    });
}

#[test]
fn only_files_and_fifos_are_made() {
    both(|f| {
        for (name, before) in [("mknod", &[0u64][..]), ("mknodat", &[0, 0])] {
            for (kind, want) in [
                (0, Action::Allow),
                (0o100_000, Action::Allow),
                (0o010_000, Action::Allow),
                (0o020_000, Action::Notify),
                (0o060_000, Action::Notify),
                (0o040_000, Action::Notify),
                (0o140_000, Action::Notify),
                (0o120_000, Action::Notify),
                (0o170_000, Action::Notify),
            ] {
                f.expect(want, name, &[before, &[kind | 0o644, 0]].concat());
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
        for (family, kind, protocol) in [
            (1, 1, 0),
            (1, 2, 0),
            (1, 5, 0),
            (2, 1, 0),
            (2, 1, 6),
            (2, 2, 0),
            (2, 2, 17),
            (10, 1, 0),
            (10, 1, 6),
            (10, 2, 17),
        ] {
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
            (16, 3, 0),  // NETLINK
            (16, 2, 0),
            (17, 3, 0), // PACKET
            (38, 5, 0), // ALG
            (40, 1, 0), // VSOCK
            (31, 1, 0), // BLUETOOTH
            (44, 3, 0), // XDP
            (1, 3, 0),
            (0, 1, 0),
        ] {
            f.expect(EAFNOSUPPORT, "socket", &[family, kind, protocol]);
            f.expect(EAFNOSUPPORT, "socket", &[family | 1 << 32, kind | 1 << 40, protocol]);
        }
        f.expect(Action::Allow, "socketpair", &[1, 1, 0]);
        f.expect(EAFNOSUPPORT, "socketpair", &[2, 1, 0]);
        f.expect(Action::Notify, "setsockopt", &[3, 1, 13]);
        f.expect(Action::Notify, "setsockopt", &[3, 1 | 1 << 32, 13 | 1 << 63]);
        f.expect(Action::Notify, "setsockopt", &[3, 1, 50]);
        f.expect(Action::Allow, "setsockopt", &[3, 1, 2]);
        f.expect(Action::Allow, "setsockopt", &[3, 6, 13]);
        // TCP_ULP; the same number elsewhere; levels of families that there are none of
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
        // F_SETLEASE, F_NOTIFY, F_SETPIPE_SZ, F_SETDELEG, what no kernel has yet
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
        for name in [
            "ptrace",
            "process_vm_readv",
            "process_vm_writev",
            "process_madvise",
            "pidfd_getfd",
            "kcmp",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "keyctl",
            "add_key",
            "request_key",
            "unshare",
            "setns",
            "mount",
            "umount2",
            "pivot_root",
            "chroot",
            "fsopen",
            "fsmount",
            "fsconfig",
            "fspick",
            "move_mount",
            "open_tree",
            "open_tree_attr",
            "mount_setattr",
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "swapon",
            "swapoff",
            "reboot",
            "quotactl",
            "quotactl_fd",
            "acct",
            "syslog",
            "seccomp",
            "open_by_handle_at",
            "name_to_handle_at",
            "fanotify_init",
            "inotify_add_watch",
            "inotify_init",
            "inotify_init1",
            "inotify_rm_watch",
            "lookup_dcookie",
            "vhangup",
            "clock_settime",
            "settimeofday",
            "adjtimex",
            "clock_adjtime",
            "setuid",
            "setresuid",
            "setgroups",
            "capset",
            "iopl",
            "ioperm",
            "modify_ldt",
            "uselib",
            "sethostname",
            "sync",
            "syncfs",
        ] {
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
                assert_eq!(interpreter::run(&f.program, audit, nr, &[0; 6]).0, ENOSYS.value());
            }
        }
    });
}

#[test]
fn the_engines_own_filters() {
    for arch in Arch::ALL {
        let init = load("init", arch);
        assert_eq!(init.rules.len(), 5);
        for name in ["init", "gateway", "supervisor"] {
            let f = Asked::of(name, arch);
            let (audit, nr) = (if arch == Arch::X86_64 { I386 } else { ARM }, 4);
            assert_eq!(interpreter::run(&f.program, audit, nr, &[0; 6]).0, Action::KillProcess.value());
            let refused = load(name, arch).otherwise;
            assert_eq!(refused, if name == "supervisor" { Action::Errno(1) } else { Action::KillProcess });
            for call in [
                "execve",
                "execveat",
                "ptrace",
                "mount",
                "unshare",
                "setns",
                "bpf",
                "fork",
                "vfork",
                "chmod",
                "io_uring_enter",
            ] {
                f.expect(refused, call, &[]);
            }
            f.expect(refused, "clone", &[17]);
            f.expect(Action::Allow, "write", &[]);
            f.expect(Action::Allow, "exit_group", &[]);
        }
        let gateway = Asked::of("gateway", arch);
        gateway.expect(Action::Allow, "openat", &[0, 0, 0o2_000_000]);
        gateway.expect(Action::KillProcess, "openat", &[0, 0, 0o2_000_001]);
        gateway.expect(Action::KillProcess, "openat", &[0, 0, 0o100]);
        gateway.expect(Action::Allow, "clone", &[0x003d_0f00]);
        gateway.expect(Action::KillProcess, "clone", &[0x103d_0f00]);
        gateway.expect(Action::Allow, "socket", &[16, 3, 0]);
        gateway.expect(EAFNOSUPPORT, "socket", &[16, 3, 9]);
        gateway.expect(EAFNOSUPPORT, "socket", &[17, 3, 0]);
        let supervisor = Asked::of("supervisor", arch);
        let no = Action::Errno(1);
        for (family, kind) in [(1, 1), (1, 2), (1, 0o2_000_002), (2, 1), (16, 3)] {
            supervisor.expect(no, "socket", &[family, kind, 0]);
            supervisor.expect(no, "socketpair", &[family, kind, 0]);
        }
        for call in ["connect", "bind", "listen", "setsockopt"] {
            supervisor.expect(no, call, &[]);
        }
        for signal in [0, 1, 6, 9, 15, 19, 34] {
            for call in ["kill", "tkill", "rt_sigqueueinfo"] {
                supervisor.expect(no, call, &[1, signal]);
            }
            for call in ["tgkill", "rt_tgsigqueueinfo"] {
                supervisor.expect(no, call, &[1, 1, signal]);
            }
            let one = if signal == 9 { Action::Allow } else { no };
            supervisor.expect(one, "pidfd_send_signal", &[5, signal, 0, 0]);
            supervisor.expect(no, "pidfd_send_signal", &[5, signal, 0, 1 << 2]); // PIDFD_SIGNAL_PROCESS_GROUP
        }
        for call in ["pidfd_open", "pidfd_getfd", "process_madvise", "dup", "dup2", "dup3", "signalfd4"] {
            supervisor.expect(no, call, &[1, 9]);
        }
        supervisor.expect(Action::Allow, "accept4", &[]);
        supervisor.expect(Action::Allow, "ioctl", &[9, libc::SECCOMP_IOCTL_NOTIF_RECV]);
        supervisor.expect(Action::Allow, "ioctl", &[9, libc::SECCOMP_IOCTL_NOTIF_SEND]);
        supervisor.expect(Action::Allow, "ioctl", &[9, libc::SECCOMP_IOCTL_NOTIF_ID_VALID]);
    }
}

/// A profile with `rules`, as JSON.
fn profile(rules: &str) -> String {
    format!(
        r#"{{"comment": "c", "newest": {{"x86_64": 469, "aarch64": 469}}, "newer": "ENOSYS", "foreign": "ENOSYS",
            "otherwise": "notify", "rules": [{rules}]}}"#
    )
}

fn error(json: &str) -> String {
    Profile::load(json, &table(), Arch::X86_64).map(|p| panic!("loaded: {p:?}")).unwrap_err().0
}

#[test]
fn loading_is_strict() {
    let good = r#"{"syscalls": ["read"], "comment": "c"}"#;
    let fixed = |entry: &str| profile(good).replacen("\"rules\"", &format!("\"fixed\": [{entry}], \"rules\""), 1);
    Profile::load(&profile(good), &table(), Arch::X86_64).unwrap();
    for (rules, want) in [
        ("", "the profile has no rules: it would refuse every call"),
        (r#"{"syscalls": [], "comment": "c"}"#, r#"a rule names no system call (comment "c")"#),
        (r#"{"syscalls": ["raed"], "comment": "c"}"#, r#"rule of "raed" ("c"): "raed" is no system call of x86_64"#),
        (r#"{"syscalls": ["open"], "comment": "c"}"#, r#"rule of "open" ("c"): "open" is no system call of aarch64"#),
        (r#"{"syscalls": ["read"], "comment": " "}"#, r#"rule of "read" (" "): it has no comment"#),
        (
            r#"{"syscalls": ["read"], "comment": "c", "action": "yes"}"#,
            r#"rule of "read" ("c"): "yes" is not an action"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "when": []}"#,
            r#"rule of "read" ("c"): `when` is empty: leave it out"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "action": "EPERM", "when": [{"arg": 0, "eq": 1}]}"#,
            r#"rule of "read" ("c"): a rule with `when` allows; give what happens otherwise a rule without"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 6, "eq": 1}]}"#,
            r#"rule of "read" ("c"): argument 6 does not exist: 0–5"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 0, "eq": 1, "ne": 2}]}"#,
            r#"rule of "read" ("c"): argument 0: exactly one of `eq` and `ne`"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 0, "mask": 6, "eq": 1}]}"#,
            r#"rule of "read" ("c"): argument 0: 0x1 has bits outside of the mask 0x6"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 0}]}"#,
            r#"rule of "read" ("c"): argument 0: exactly one of `eq` and `ne`"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 0, "mask": 0, "eq": 0}]}"#,
            r#"rule of "read" ("c"): argument 0: the mask is zero"#,
        ),
        (
            r#"{"syscalls": ["read", "read"], "comment": "c"}"#,
            r#"rule of "read" ("c"): "read" has a rule without `when` already"#,
        ),
        (
            r#"{"syscalls": ["read"], "comment": "c", "action": "notify"}"#,
            "system call 0 of x86_64: its rule says what `otherwise` says",
        ),
    ] {
        assert_eq!(error(&profile(rules)), want, "{rules}");
    }
    for (json, part) in [
        (profile(r#"{"syscalls": ["read"]}"#), "missing field `comment`"),
        (profile(r#"{"syscalls": ["read"], "comment": "c", "comment": "d"}"#), "duplicate field `comment`"),
        (profile(r#"{"syscalls": ["read"], "comment": "c", "args": 1}"#), "unknown field `args`"),
        (profile(r#"{"syscalls": ["read"], "comment": "c", "arch": "riscv64"}"#), "unknown variant `riscv64`"),
        (profile(r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 0, "eq": "12"}]}"#), "neither 0x nor 0o"),
        (
            profile(r#"{"syscalls": ["read"], "comment": "c", "when": [{"arg": 0, "eq": 4294967296}]}"#),
            "more than 32 bits",
        ),
        (profile(good).replace("469", "400, \"x86_64\": 3"), "duplicate field `x86_64`"),
        (profile(good).replacen("\"comment\"", "\"newer\": \"EPERM\", \"comment\"", 1), "duplicate field `newer`"),
        (profile(good).replace(r#""otherwise": "notify""#, r#""otherwise": "allow""#), "a profile is an allow list"),
        (profile(r#"{"syscalls": ["file_setattr"], "comment": "c"}"#).replace("469", "468"), "above `newest`"),
        (profile(good) + "x", "trailing characters"),
        (profile(good).replacen(r#""comment": "c""#, r#""comment": """#, 1), "the profile has no comment"),
        (profile(good).replace(r#""foreign": "ENOSYS""#, r#""foreign": "ignore""#), "\"ignore\" is not an action"),
        (fixed(r#"{"syscalls": ["mount"], "comment": ""}"#), "has no comment"),
        (fixed(r#"{"syscalls": ["mount"]}"#), "missing field `comment`"),
        (fixed(r#"{"syscalls": ["muont"], "comment": "c"}"#), r#"`fixed`: "muont" is no system call"#),
        (fixed(r#"{"syscalls": ["mount", "mount"], "comment": "c"}"#), r#"`fixed` names "mount" twice"#),
        (fixed(r#"{"syscalls": ["read"], "comment": "c"}"#), "`fixed` names \"read\", which is allowed always"),
    ] {
        let said = error(&json);
        assert!(said.contains(part), "{json}: {said}");
    }
}

#[test]
fn redundant_rules_do_not_load() {
    let two = |a: &str, b: &str| {
        profile(&format!(
            r#"{{"syscalls": ["ioctl"], "comment": "a", "when": [{a}]}}, {{"syscalls": ["ioctl"], "comment": "b", "when": [{b}]}}"#
        ))
    };
    let covered = "other rules' `when` cover this one";
    for (a, b, which) in [
        (r#"{"arg": 1, "eq": 5}"#, r#"{"arg": 1, "eq": 5}"#, "b"),
        (r#"{"arg": 1, "eq": 5}"#, r#"{"arg": 1, "eq": 5}, {"arg": 2, "eq": 0}"#, "b"),
        (r#"{"arg": 1, "eq": 5}, {"arg": 2, "eq": 0}"#, r#"{"arg": 2, "eq": 0}"#, "a"),
        (r#"{"arg": 1, "mask": 4, "eq": 4}"#, r#"{"arg": 1, "eq": 5}"#, "b"),
        (r#"{"arg": 1, "ne": 7}"#, r#"{"arg": 1, "eq": 5}"#, "b"),
        (r#"{"arg": 1, "mask": 6, "ne": 6}"#, r#"{"arg": 1, "mask": 2, "eq": 0}"#, "b"),
    ] {
        let want = format!(r#"rule of "ioctl" ("{which}"): "ioctl": {covered}"#);
        assert_eq!(error(&two(a, b)), want, "{a} {b}");
    }
    for (a, b) in [
        (r#"{"arg": 1, "eq": 5}"#, r#"{"arg": 1, "eq": 6}"#),
        (r#"{"arg": 1, "mask": 4, "eq": 0}"#, r#"{"arg": 1, "eq": 5}"#),
        (r#"{"arg": 0, "ne": 5}"#, r#"{"arg": 1, "ne": 5}"#),
        (
            r#"{"arg": 1, "eq": 5}, {"arg": 2, "eq": 0}"#,
            r#"{"arg": 1, "eq": 5}, {"arg": 2, "ne": 0}, {"arg": 2, "ne": 4}"#,
        ),
    ] {
        Profile::load(&two(a, b), &table(), Arch::X86_64).unwrap();
    }
    // no single rule covers the last one, or allows all: together they do
    let rule = |name: &str, when: &str| format!(r#"{{"syscalls": ["ioctl"], "comment": "{name}", "when": [{when}]}}"#);
    let together = [
        rule("a", r#"{"arg": 1, "mask": 1, "eq": 0}, {"arg": 2, "eq": 0}"#),
        rule("b", r#"{"arg": 1, "mask": 1, "eq": 1}, {"arg": 2, "mask": 255, "eq": 0}"#),
    ];
    Profile::load(&profile(&together.join(",")), &table(), Arch::X86_64).unwrap();
    let third = format!("{},{}", together.join(","), rule("c", r#"{"arg": 2, "eq": 0}"#));
    assert_eq!(error(&profile(&third)), r#"rule of "ioctl" ("c"): "ioctl": other rules' `when` cover this one"#);
    for (a, b) in [
        (r#"{"arg": 1, "ne": 5}"#, r#"{"arg": 1, "eq": 5}"#),
        (r#"{"arg": 1, "mask": 1, "eq": 0}"#, r#"{"arg": 1, "mask": 1, "eq": 1}"#),
        (r#"{"arg": 1, "ne": 5}"#, r#"{"arg": 1, "ne": 6}"#),
    ] {
        let always = "with it the call is always allowed, so the `when`s are redundant";
        assert_eq!(error(&two(a, b)), format!(r#"rule of "ioctl" ("b"): "ioctl": {always}"#), "{a} {b}");
    }
    for (when, what) in [
        (r#"{"arg": 1, "eq": 5}, {"arg": 1, "eq": 6}"#, "its `when` never holds"),
        (r#"{"arg": 1, "mask": 3, "eq": 1}, {"arg": 1, "mask": 6, "eq": 2}"#, "its `when` never holds"),
        (
            r#"{"arg": 1, "mask": 1, "eq": 0}, {"arg": 1, "mask": 3, "ne": 0}, {"arg": 1, "mask": 3, "ne": 2}"#,
            "its `when` never holds",
        ),
        (r#"{"arg": 1, "eq": 5}, {"arg": 1, "ne": 7}"#, "a condition of its `when` follows from the others"),
        (r#"{"arg": 1, "eq": 5}, {"arg": 1, "mask": 4, "eq": 4}"#, "a condition of its `when` follows from the others"),
        (r#"{"arg": 1, "ne": 5}, {"arg": 1, "ne": 5}"#, "a condition of its `when` follows from the others"),
    ] {
        assert_eq!(error(&profile(&rule("a", when))), format!(r#"rule of "ioctl" ("a"): "ioctl": {what}"#), "{when}");
    }
    let some = rule("a", r#"{"arg": 1, "eq": 5}"#);
    for (plain, want) in [
        (
            r#"{"syscalls": ["ioctl"], "comment": "b"}"#,
            "system call 16 of x86_64: allowed always, so its `when` is redundant",
        ),
        (
            r#"{"syscalls": ["ioctl"], "comment": "b", "action": "notify"}"#,
            "system call 16 of x86_64: its rule without `when` says what `otherwise` says",
        ),
    ] {
        assert_eq!(error(&profile(&format!("{some},{plain}"))), want);
    }
    Profile::load(
        &profile(&format!(r#"{some},{{"syscalls": ["ioctl"], "comment": "b", "action": "ENOTTY"}}"#)),
        &table(),
        Arch::X86_64,
    )
    .unwrap();
}

/// Each name of each rule counts: with it taken out the program answers some call otherwise.
#[test]
fn no_rule_can_be_taken_out() {
    for (name, text) in PROFILES {
        let whole: serde_json::Value = serde_json::from_str(text).unwrap();
        for arch in Arch::ALL {
            let profile = load(name, arch);
            let program = profile.compile().unwrap();
            for (at, rule) in whole["rules"].as_array().unwrap().iter().enumerate() {
                if rule.get("arch").is_some_and(|only| *only != arch.to_string()) {
                    continue;
                }
                let mut less = whole.clone();
                less["rules"].as_array_mut().unwrap().remove(at);
                let less = Profile::load(&less.to_string(), &table(), arch).unwrap().compile().unwrap();
                for call in rule["syscalls"].as_array().unwrap() {
                    let nr = table().number(call.as_str().unwrap(), arch).unwrap();
                    let differs = |args: &[u64; 6]| {
                        let said = |program: &[Insn]| interpreter::run(program, arch.audit(), nr, args).0;
                        said(&program) != said(&less)
                    };
                    assert!(probes(&profile.rules[&nr]).iter().any(differs), "{name} {arch}: {call} of {rule}");
                }
            }
        }
    }
}

/// What is above `newest` does not exist for a plugin: the number must be the last one that the table knows.
#[test]
fn newest_is_the_newest_that_was_weighed() {
    for (name, _) in PROFILES {
        for arch in Arch::ALL {
            let last = table().of(arch).map(|(_, nr)| nr).max().unwrap();
            assert_eq!(load(name, arch).newest, last, "{name} {arch}");
        }
    }
}

#[test]
fn the_configuration_adds_calls() {
    let audit = Arch::X86_64.audit();
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let program = |f: &Filter| -> Vec<Insn> { f.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect() };
    let run = |f: &Filter, nr: i64| interpreter::run(&program(f), audit, nr as u32, &[0; 6]).0;
    let names = |n: &[&str]| n.iter().map(ToString::to_string).collect::<Vec<_>>();

    let plain = plugin(&[], true).unwrap();
    let more = plugin(&names(&["ptrace", "keyctl"]), true).unwrap();
    assert_eq!(more.len(), plain.len() + 4);
    for call in [libc::SYS_ptrace, libc::SYS_keyctl] {
        assert_eq!(run(&plain, call), Action::Notify.value());
        assert_eq!(run(&more, call), Action::Allow.value());
    }
    // Everything else says what it said, and another architecture still does not get in.
    let added = BTreeSet::from([libc::SYS_ptrace, libc::SYS_keyctl]);
    for nr in (0..600).filter(|nr| !added.contains(nr)) {
        assert_eq!(run(&plain, nr), run(&more, nr), "{nr}");
    }
    assert_eq!(interpreter::run(&program(&more), I386, libc::SYS_ptrace as u32, &[0; 6]).0, ENOSYS.value());

    assert_eq!(more.sha256(), plugin(&names(&["keyctl", "ptrace", "keyctl"]), true).unwrap().sha256());
    assert_ne!(more.sha256(), plain.sha256());
    assert_eq!(plain.sha256().len(), 64);

    assert_eq!(plugin(&names(&["ptrcae"]), true).unwrap_err(), FilterError::Unknown("ptrcae".into()));
    for name in ["openat2", "clone3", "io_uring_setup", "socket", "setsockopt", "seccomp", "renameat2", "chmod"] {
        let reason = fixed_reason(name).unwrap();
        assert_eq!(plugin(&names(&[name]), true).unwrap_err(), FilterError::Fixed { name: name.to_owned(), reason });
    }
    assert_eq!(fixed_reason("ptrace"), None);
}

#[test]
fn denials_name_values_only() {
    let named = |name: &str| value_args(syscall_number(name).unwrap() as i32);
    assert_eq!(named("socket"), [(0, "family"), (1, "type"), (2, "protocol")]);
    assert_eq!(named("ptrace"), [(0, "request"), (1, "pid")]);
    assert_eq!(named("mount"), [(3, "mountflags")]);
    assert_eq!(value_args(-1), []);
    assert_eq!(value_args(9999), []);
    for (nr, _) in crate::sys::syscalls::all() {
        let args = value_args(nr as i32);
        assert!(args.windows(2).all(|w| w[0].0 < w[1].0) && args.iter().all(|(i, _)| *i < 6), "{nr}: {args:?}");
    }
}

#[test]
fn memory_that_no_process_maps_cannot_be_had() {
    both(|f| {
        // MAP_SHARED | MAP_ANONYMOUS, with others and high bits set; MAP_SHARED_VALIDATE
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

#[test]
fn sizes_of_buffers_are_answered_and_not_set() {
    let arch = if cfg!(target_arch = "x86_64") { Arch::X86_64 } else { Arch::Aarch64 };
    for named_unix in [true, false] {
        let filter = plugin(&[], named_unix).unwrap();
        let program: Vec<Insn> = filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        let say = |name: &str, args: [u64; 3]| {
            let args = [args[0], args[1], args[2], 0, 0, 0];
            interpreter::run(&program, arch.audit(), syscall_number(name).unwrap(), &args).0
        };
        for high in [0, 1 << 32, 0xffff_ffff_0000_0000] {
            for option in [7, 8] {
                assert_eq!(say("setsockopt", [3, high | 1, high | option]), Action::Errno(0).value());
            }
            assert_eq!(say("setsockopt", [3, high | 1, high | 13]), Action::Notify.value());
            for (level, option) in [(1, 2), (1, 9), (6, 7), (0, 8), (41, 7)] {
                assert_eq!(say("setsockopt", [3, high | level, high | option]), Action::Allow.value());
            }
        }
        // what else has such arguments
        assert_eq!(say("getsockopt", [3, 1, 7]), Action::Allow.value());
        assert_eq!(say("read", [3, 1, 7]), Action::Allow.value());
        assert_eq!(say("ptrace", [3, 1, 7]), Action::Notify.value());
    }
}

#[test]
fn named_unix_sockets_go_where_directories_are_granted() {
    let say = |filter: &Filter, name: &str, args: &[u64]| {
        let program: Vec<Insn> = filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        interpreter::run(&program, Arch::X86_64.audit(), syscall_number(name).unwrap(), &all).0
    };
    let (with, without) = (plugin(&[], true).unwrap(), plugin(&[], false).unwrap());
    for (name, args, refused) in [
        ("socket", [1u64, 1, 0].as_slice(), true),
        ("socket", &[1, 2 | 0o2_000_000, 0], true),
        ("socket", &[2, 1, 0], false),
        ("socketpair", &[1, 2, 0], true),
        ("socketpair", &[1, 1 | 0o2_000_000, 0], false),
        ("socketpair", &[1, 5, 0], false),
        ("read", &[1, 2], false),
    ] {
        assert_eq!(say(&with, name, args), Action::Allow.value(), "{name} {args:?}");
        let want = if refused { EAFNOSUPPORT } else { Action::Allow };
        assert_eq!(say(&without, name, args), want.value(), "{name} {args:?}");
    }
    assert_eq!(say(&without, "ptrace", &[0]), Action::Notify.value());
}

#[test]
fn additions_to_epoll_sets_are_handed_over() {
    let arch = Arch::ALL.into_iter().find(|arch| arch.to_string() == std::env::consts::ARCH).unwrap();
    let said = |filter: &Filter, name: &str, args: [u64; 6]| {
        let program: Vec<Insn> = filter.program.iter().map(|i| (i.code, i.jt, i.jf, i.k)).collect();
        interpreter::run(&program, arch.audit(), syscall_number(name).unwrap(), &args).0
    };
    // EPOLL_CTL_ADD, with a high bit too, which the kernel does not look at; DEL, MOD
    let (add, high) = ([3, 1, 4, 0, 0, 0], [3, 1 | 1 << 32, 4, 0, 0, 0]);
    for extra in [vec![], vec!["epoll_ctl".to_owned()]] {
        for named_unix in [true, false] {
            let filter = plugin(&extra, named_unix).unwrap();
            assert_eq!([add, high].map(|args| said(&filter, "epoll_ctl", args)), [RET_COUNT; 2]);
            assert_eq!([2, 3].map(|op| said(&filter, "epoll_ctl", [3, op, 4, 0, 0, 0])), [RET_ALLOW; 2]);
            assert_eq!(said(&filter, "getppid", add), RET_ALLOW);
            assert_eq!(said(&filter, "keyctl", add), RET_USER_NOTIF);
            // where nobody listens, and while a call is observed
            let (decides, tells) = filter.watching(&[syscall_number("openat").unwrap()]);
            for deaf in [filter.deaf(OnViolation::Deny), filter.deaf(OnViolation::Kill), decides] {
                assert_eq!(said(&deaf, "epoll_ctl", add), RET_ALLOW);
            }
            assert_eq!(said(&tells, "epoll_ctl", add), RET_COUNT);
        }
    }
    let nr = |name| syscall_number(name).unwrap().cast_signed();
    assert!(is_counted(nr("epoll_ctl"), &add) && is_counted(nr("epoll_ctl"), &high));
    assert!(!is_counted(nr("epoll_ctl"), &[3, 2, 4, 0, 0, 0]) && !is_counted(nr("epoll_pwait"), &add));
}
