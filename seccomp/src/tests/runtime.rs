//! A call's additions to the plugin's program.

use super::*;
use crate::runtime::{
    COUNT, Handed, LOCK, LockAct, TERMINAL, TERMINAL_ALSO, TERMINAL_NEVER, UNIX_SOCKET, deaf, handed, plugin, watching,
};

/// The plugin's filter in a call.
fn filter(f: &Asked, added: &[&str], named_unix: bool) -> Asked {
    let number = |name: &str| f.table.number(name, f.arch);
    let added: Vec<u32> = added.iter().map(|name| number(name).unwrap()).collect();
    f.with(plugin(&f.program, number, &added, named_unix, false))
}

#[test]
fn the_configuration_adds_calls() {
    both(|f| {
        let (plain, more) = (filter(f, &[], true), filter(f, &["ptrace", "keyctl"], true));
        assert_eq!(more.program.len(), plain.program.len() + 4);
        let added = ["ptrace", "keyctl"].map(|name| f.table.number(name, f.arch).unwrap());
        for nr in added {
            assert_eq!(plain.number(nr, &[]), Action::Notify.value());
            assert_eq!(more.number(nr, &[]), Action::Allow.value());
            // another architecture is still denied
            assert_eq!(oracle::run(&more.program, I386, nr, &[0; 6]).0, ENOSYS.value());
        }
        // everything else is unchanged
        for nr in (0..600).filter(|nr| !added.contains(nr)) {
            assert_eq!(plain.number(nr, &[]), more.number(nr, &[]), "{nr}");
        }
    });
}

#[test]
fn sizes_of_buffers_are_answered_and_not_set() {
    both(|f| {
        for f in [true, false].map(|named_unix| filter(f, &[], named_unix)) {
            for high in [0, 1 << 32, 0xffff_ffff_0000_0000] {
                for option in [7, 8] {
                    f.expect(Action::Errno(0), "setsockopt", &[3, high | 1, high | option]);
                }
                f.expect(Action::Notify, "setsockopt", &[3, high | 1, high | 13]);
                for (level, option) in [(1, 2), (1, 9), (6, 7), (0, 8), (41, 7)] {
                    f.expect(Action::Allow, "setsockopt", &[3, high | level, high | option]);
                }
            }
            // other calls with such arguments
            f.expect(Action::Allow, "getsockopt", &[3, 1, 7]);
            f.expect(Action::Allow, "read", &[3, 1, 7]);
            f.expect(Action::Notify, "ptrace", &[3, 1, 7]);
        }
    });
}

#[test]
fn named_unix_sockets_go_where_directories_are_granted() {
    both(|f| {
        let (with, without) = (filter(f, &[], true), filter(f, &[], false));
        for (name, args, refused) in [
            ("socket", [1u64, 1, 0].as_slice(), true),
            ("socket", &[1, 2 | 0o2_000_000, 0], true),
            ("socket", &[2, 1, 0], false),
            ("socketpair", &[1, 2, 0], true),
            ("socketpair", &[1, 1 | 0o2_000_000, 0], false),
            ("socketpair", &[1, 5, 0], false),
            ("read", &[1, 2], false),
        ] {
            with.expect(Action::Allow, name, args);
            without.returns(if refused { UNIX_SOCKET } else { Action::Allow.value() }, name, args);
            let mut all = [0; 6];
            all[..args.len()].copy_from_slice(args);
            assert!(!refused || handed(name, &all) == Some(Handed::UnixSocket), "{name} {args:?}");
            let silent = f.with(deaf(&without.program, Action::EPERM));
            silent.expect(if refused { Action::EAFNOSUPPORT } else { Action::Allow }, name, args);
        }
        without.expect(Action::Notify, "ptrace", &[0]);
    });
}

#[test]
fn terminals_are_asked_what_programs_need_and_nothing_else() {
    both(|f| {
        let number = |name: &str| f.table.number(name, f.arch);
        let all = |added: &[u32]| f.with(plugin(&f.program, number, added, true, true));
        let (without, with, added) = (filter(f, &[], true), all(&[]), all(&[number("ioctl").unwrap()]));
        for high in [0, 1 << 32, 0xffff_ffff_0000_0000] {
            for request in TERMINAL_ALSO {
                let args = [3, u64::from(request) | high];
                without.expect(Action::Notify, "ioctl", &args);
                with.expect(Action::Allow, "ioctl", &args);
                with.expect(Action::Notify, "ptrace", &args);
            }
            for request in TERMINAL_NEVER {
                let args = [3, u64::from(request) | high, 0, 0, 0, 0];
                without.expect(Action::Notify, "ioctl", &args);
                for f in [&with, &added] {
                    f.returns(TERMINAL, "ioctl", &args);
                    f.with(deaf(&f.program, Action::EPERM)).expect(Action::EPERM, "ioctl", &args);
                }
                assert_eq!((handed("ioctl", &args), handed("read", &args)), (Some(Handed::Terminal), None));
            }
        }
        for request in
            (0x5400..0x5500).filter(|request| ![&TERMINAL_ALSO[..], &TERMINAL_NEVER].concat().contains(request))
        {
            let args = [3, u64::from(request)];
            assert_eq!(with.number(number("ioctl").unwrap(), &args), without.number(number("ioctl").unwrap(), &args));
        }
        added.expect(Action::Allow, "ioctl", &[3, 0x5424]);
    });
}

#[test]
fn additions_to_epoll_sets_are_handed_over() {
    // EPOLL_CTL_ADD, also with a high bit, which the kernel ignores; DEL, MOD
    let (add, high) = ([3, 1, 4, 0, 0, 0], [3, 1 | 1 << 32, 4, 0, 0, 0]);
    both(|f| {
        for extra in [&[][..], &["epoll_ctl"]] {
            for f in [true, false].map(|named_unix| filter(f, extra, named_unix)) {
                for args in [add, high] {
                    f.returns(COUNT, "epoll_ctl", &args);
                }
                for operation in [2, 3] {
                    f.expect(Action::Allow, "epoll_ctl", &[3, operation, 4]);
                }
                f.expect(Action::Allow, "getppid", &add);
                f.expect(Action::Notify, "keyctl", &add);
                // without a listener, and while a call is observed
                let (decides, hands) = watching(&f.program, &[f.table.number("openat", f.arch).unwrap()]);
                for silent in [deaf(&f.program, Action::EPERM), deaf(&f.program, Action::KillProcess), decides] {
                    f.with(silent).expect(Action::Allow, "epoll_ctl", &add);
                }
                f.with(hands).returns(COUNT, "epoll_ctl", &add);
            }
        }
    });
    assert_eq!([add, high].map(|args| handed("epoll_ctl", &args)), [Some(Handed::Addition); 2]);
    assert_eq!((handed("epoll_ctl", &[3, 2, 4, 0, 0, 0]), handed("epoll_pwait", &add)), (None, None));
}

#[test]
fn locks_of_files_are_handed_over() {
    let high = 0xffff_ffff_0000_0000;
    // LOCK_UN, also with LOCK_NB, unlocks; all others lock, including LOCK_MAND and unassigned values
    let gives_up = [8, 12];
    let takes: Vec<u64> = (0..64).filter(|operation| !gives_up.contains(operation)).chain([64, 1 << 31]).collect();
    let lock = |name: &str, operation: u64| handed(name, &[3, operation, 4, 0, 0, 0]);
    both(|f| {
        for extra in [&[][..], &["flock"]] {
            for f in [true, false].map(|named_unix| filter(f, extra, named_unix)) {
                for operation in takes.iter().flat_map(|operation| [*operation, operation | high]) {
                    f.returns(LOCK, "flock", &[3, operation, 4]);
                    let act = LockAct::Description((operation & 0xffff_fffb) as u32, operation & 4 == 0);
                    assert_eq!(lock("flock", operation), Some(Handed::Lock(act)));
                }
                for operation in gives_up.iter().flat_map(|operation| [*operation, operation | high]) {
                    f.expect(Action::Allow, "flock", &[3, operation, 4]);
                    assert_eq!(lock("flock", operation), None);
                }
                for command in (0..64).chain([1025, 1030]).flat_map(|command| [command, command | high]) {
                    let act = match command & 0xffff_ffff {
                        6 | 7 => Some(LockAct::Process),
                        37 => Some(LockAct::Range(false)),
                        38 => Some(LockAct::Range(true)),
                        _ => None,
                    };
                    match act {
                        Some(_) => f.returns(LOCK, "fcntl", &[3, command, 4]),
                        None => f.expect(Action::Allow, "fcntl", &[3, command, 4]),
                    }
                    assert_eq!(lock("fcntl", command), act.map(Handed::Lock), "{command:#x}");
                }
                // F_SETLEASE, F_NOTIFY, F_CANCELLK: not allowed by a rule
                for command in [1024, 1026, 1029] {
                    f.expect(Action::Notify, "fcntl", &[3, command]);
                }
                f.expect(Action::Allow, "getppid", &[3, 6]);
                f.expect(Action::Notify, "keyctl", &[3, 6]);
                // without a listener, and while a call is observed
                let (decides, hands) = watching(&f.program, &[f.table.number("openat", f.arch).unwrap()]);
                for (name, operation) in [("flock", 2), ("fcntl", 6)] {
                    for silent in [Action::EPERM, Action::KillProcess] {
                        f.with(deaf(&f.program, silent)).expect(Action::EOPNOTSUPP, name, &[3, operation]);
                    }
                    f.with(decides.clone()).expect(Action::Allow, name, &[3, operation]);
                    f.with(hands.clone()).returns(LOCK, name, &[3, operation]);
                }
            }
        }
    });
}

#[test]
fn where_nobody_listens_what_would_be_reported_is_refused() {
    both(|f| {
        let f = filter(f, &[], true);
        for silent in [Action::EPERM, Action::KillProcess] {
            let deaf = f.with(deaf(&f.program, silent));
            f.expect(Action::Notify, "ptrace", &[]);
            deaf.expect(silent, "ptrace", &[]);
            deaf.expect(ENOSYS, "clone3", &[]);
            deaf.expect(Action::Allow, "read", &[]);
        }
    });
}

/// The kernel applies the stricter result of two programs: the first denies a watched call, or the second passes it on.
#[test]
fn a_watched_call_is_decided_by_one_program_and_handed_over_by_the_other() {
    both(|f| {
        let watched = ["openat", "execve", "socket", "statx", "mount_setattr", "clone3"]
            .map(|name| f.table.number(name, f.arch).unwrap());
        let (decides, hands) = watching(&f.program, &watched);
        let (decides, hands) = (f.with(decides), f.with(hands));
        // allowed by the first; with set-id bits; a family that does not exist
        for (name, args, decided) in [
            ("openat", &[0, 0, 0, 0][..], Action::Allow),
            ("openat", &[0, 0, 0x40, 0o4755], Action::EPERM),
            ("execve", &[], Action::Allow),
            ("socket", &[17, 3, 0], Action::EAFNOSUPPORT),
            ("statx", &[], Action::Allow),
            ("mount_setattr", &[], Action::EPERM),
            ("clone3", &[], ENOSYS),
        ] {
            decides.expect(decided, name, args);
            hands.expect(Action::Notify, name, args);
        }
        // not watched
        for (name, said) in [("ptrace", Action::Notify), ("openat2", ENOSYS), ("read", Action::Allow)] {
            decides.expect(Action::Allow, name, &[]);
            hands.expect(said, name, &[]);
        }
    });
}
