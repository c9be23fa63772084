//! The filters of the engine's own processes.

use super::*;

#[test]
fn the_engines_own_filters() {
    for arch in Arch::ALL {
        let init = load("init", arch);
        assert_eq!(init.rules.len(), 13);
        let init = Asked::of("init", arch);
        let allowed = |yes| if yes { Action::Allow } else { Action::KillProcess };
        // LOCK_SH and LOCK_EX with LOCK_NB; without it; LOCK_UN; a combination that pid 1 never passes
        for (operation, yes) in [(5, true), (6, true), (1, false), (2, false), (8, false), (7, false)] {
            init.expect(allowed(yes), "flock", &[3, operation]);
        }
        // F_OFD_SETLK; F_OFD_SETLKW, F_SETLK, F_DUPFD
        for (command, yes) in [(37, true), (38, false), (6, false), (0, false)] {
            init.expect(allowed(yes), "fcntl", &[3, command]);
        }
        init.expect(Action::Allow, "statx", &[3, 0, 0x5000, 0x1000]);
        for (flags, mask) in [(0, 0x1000), (0x1000, 0x1000), (0x5000, 0x7ff)] {
            init.expect(Action::KillProcess, "statx", &[3, 0, flags, mask]);
        }
        for name in ["openat", "dup", "pidfd_open", "pidfd_send_signal", "kill", "mmap", "socket", "process_vm_writev"]
        {
            init.expect(Action::KillProcess, name, &[]);
        }
        for name in ["init", "gateway", "supervisor"] {
            let f = Asked::of(name, arch);
            let (audit, nr) = (if arch == Arch::X86_64 { I386 } else { ARM }, 4);
            assert_eq!(oracle::run(&f.program, audit, nr, &[0; 6]).0, Action::KillProcess.value());
            let refused = load(name, arch).otherwise;
            assert_eq!(refused, if name == "supervisor" { Action::EPERM } else { Action::KillProcess });
            let calls = "execve execveat ptrace mount unshare setns bpf fork vfork chmod io_uring_enter";
            for call in calls.split(' ') {
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
        gateway.expect(Action::EAFNOSUPPORT, "socket", &[16, 3, 9]);
        gateway.expect(Action::EAFNOSUPPORT, "socket", &[17, 3, 0]);
        let supervisor = Asked::of("supervisor", arch);
        let no = Action::EPERM;
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
        for (flags, action) in [(0, Action::Allow), (1 << 7, Action::Allow), (1 << 11, no)] {
            supervisor.expect(action, "pidfd_open", &[5, flags]);
        }
        supervisor.expect(Action::Allow, "accept4", &[]);
        supervisor.expect(Action::Allow, "ioctl", &[9, libc::SECCOMP_IOCTL_NOTIF_RECV]);
        supervisor.expect(Action::Allow, "ioctl", &[9, libc::SECCOMP_IOCTL_NOTIF_SEND]);
        supervisor.expect(Action::Allow, "ioctl", &[9, libc::SECCOMP_IOCTL_NOTIF_ID_VALID]);
    }
}
