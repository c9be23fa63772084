//! Compares the crate's numbers of the kernel's interface with libc's on this host.

use super::*;
use crate::{bpf, runtime};

#[test]
fn instructions_and_answers_are_those_of_the_headers() {
    for (ours, theirs) in [
        (bpf::LD_W_ABS, libc::BPF_LD | libc::BPF_W | libc::BPF_ABS),
        (bpf::JMP_JA, libc::BPF_JMP | libc::BPF_JA),
        (bpf::JMP_JEQ_K, libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K),
        (bpf::JMP_JGE_K, libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K),
        (bpf::RET_K, libc::BPF_RET | libc::BPF_K),
        (bpf::ALU_AND_K, libc::BPF_ALU | libc::BPF_AND | libc::BPF_K),
    ] {
        assert_eq!(u32::from(ours), theirs);
    }
    assert_eq!(bpf::MAX_LEN, libc::BPF_MAXINSNS as usize);
    let offsets = [
        (bpf::OFF_NR, std::mem::offset_of!(libc::seccomp_data, nr)),
        (bpf::OFF_ARCH, std::mem::offset_of!(libc::seccomp_data, arch)),
        (bpf::OFF_ARGS, std::mem::offset_of!(libc::seccomp_data, args)),
    ];
    assert!(offsets.iter().all(|(ours, theirs)| *ours as usize == *theirs), "{offsets:?}");
    assert_eq!(Action::Allow.value(), libc::SECCOMP_RET_ALLOW);
    assert_eq!(Action::Notify.value(), libc::SECCOMP_RET_USER_NOTIF);
    assert_eq!(Action::KillProcess.value(), libc::SECCOMP_RET_KILL_PROCESS);
    for (name, number) in [
        ("EPERM", libc::EPERM),
        ("EACCES", libc::EACCES),
        ("EINVAL", libc::EINVAL),
        ("ENOTTY", libc::ENOTTY),
        ("ENOSYS", libc::ENOSYS),
        ("EOPNOTSUPP", libc::EOPNOTSUPP),
        ("EAFNOSUPPORT", libc::EAFNOSUPPORT),
    ] {
        let action = Action::named(name).unwrap();
        assert_eq!(action.value(), libc::SECCOMP_RET_ERRNO | number as u32, "{name}");
    }
    for (ours, theirs) in [
        (runtime::EPOLL_CTL_ADD, libc::EPOLL_CTL_ADD),
        (runtime::SOL_SOCKET, libc::SOL_SOCKET),
        (runtime::SO_SNDBUF, libc::SO_SNDBUF),
        (runtime::SO_RCVBUF, libc::SO_RCVBUF),
        (runtime::AF_UNIX, libc::AF_UNIX),
        (runtime::SOCK_DGRAM, libc::SOCK_DGRAM),
    ] {
        assert_eq!(i64::from(ours), i64::from(theirs));
    }
    // the mask removes all flags from the type
    let flags = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u32;
    assert_eq!(runtime::SOCK_TYPE_MASK & flags, 0);
}
