//! What the engine makes of the compiled profiles; what these say is tested in `seccomp/`.

use super::*;
use upm_seccomp::{Arch, PROFILES, Profile, Table};

#[test]
fn the_compiled_in_programs_are_those_of_the_profiles() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("seccomp");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let arch = Arch::ALL.into_iter().find(|arch| arch.to_string() == std::env::consts::ARCH).unwrap();
    let table = Table::parse(&read("syscalls.tbl")).unwrap();
    let built = [Filter::new("default", DEFAULT), init(), gateway(), supervisor(), observer(), reader()];
    assert_eq!(built.each_ref().map(|filter| filter.name), PROFILES);
    for filter in built {
        let profile = Profile::load(&read(&format!("{}.json", filter.name)), &table, arch).unwrap();
        assert_eq!(filter.program, profile.compile().unwrap(), "{}", filter.name);
    }
    assert_eq!(syscall_name(libc::SYS_ptrace as i32), Some("ptrace"));
    assert_eq!(syscall_number("mseal").map(i64::from), Some(libc::SYS_mseal));
    assert_eq!((syscall_name(-1), syscall_name(9999), syscall_number("nonesuch")), (None, None, None));
}

#[test]
fn the_configuration_adds_calls() {
    let names = |n: &[&str]| n.iter().map(ToString::to_string).collect::<Vec<_>>();
    let plain = plugin(&[], true, false).unwrap();
    let more = plugin(&names(&["ptrace", "keyctl"]), true, false).unwrap();
    let mut added = [libc::SYS_ptrace, libc::SYS_keyctl].map(|nr| u32::try_from(nr).unwrap());
    added.sort_unstable();
    assert_eq!(more.program, runtime::plugin(&DEFAULT, syscall_number, &added, true, false));
    assert_eq!(more.len(), plain.len() + 4);

    assert_eq!(more.sha256(), plugin(&names(&["keyctl", "ptrace", "keyctl"]), true, false).unwrap().sha256());
    assert_ne!(more.sha256(), plain.sha256());
    assert_eq!(plain.sha256().len(), 64);

    assert_eq!(plugin(&names(&["ptrcae"]), true, false).unwrap_err(), FilterError::Unknown("ptrcae".into()));
    for name in ["openat2", "clone3", "io_uring_setup", "socket", "setsockopt", "seccomp", "renameat2", "fchmodat"] {
        let reason = fixed_reason(name).unwrap();
        assert_eq!(
            plugin(&names(&[name]), true, false).unwrap_err(),
            FilterError::Fixed { name: name.to_owned(), reason }
        );
    }
    assert_eq!(fixed_reason("ptrace"), None);
}

#[test]
fn what_is_handed_over_is_told_by_number() {
    let nr = |name| syscall_number(name).unwrap() as i32;
    let (add, remove) = ([3, 1, 4, 0, 0, 0], [3, 2, 4, 0, 0, 0]);
    assert_eq!((handed(nr("epoll_ctl"), &add), handed(nr("epoll_ctl"), &remove)), (Some(Handed::Addition), None));
    assert_eq!((handed(nr("epoll_pwait"), &add), handed(-1, &add)), (None, None));
    assert_eq!(handed(nr("flock"), &add), Some(Handed::Lock(LockAct::Description(1, true))));
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
    let mut seen = std::collections::BTreeSet::new();
    for name in arguments::VALUES.iter().flat_map(|(names, _)| names.iter()) {
        assert!(seen.insert(name), "{name} stands there twice");
    }
}
