//! What is added to a compiled program when a call starts, without the profile.

use crate::bpf::{Action, Instruction, OFF_NR, RET_K, and, equal, load, offset, ret};

/// The number of instructions before the search of a compiled program. A call's additions go after them: there, the
/// accumulator contains the number of the system call.
pub(crate) const PROLOGUE: usize = 4;

/// Passed to the listener to be counted, not denied: the kernel ignores the low half of the value.
pub(crate) const COUNT: u32 = Action::Notify.value() | 1;

/// Passed to the listener as a file lock: see [`Handed::Lock`].
pub(crate) const LOCK: u32 = Action::Notify.value() | 2;

/// Handed to the listener to be put on record and refused: see [`Handed::UnixSocket`].
pub(crate) const UNIX_SOCKET: u32 = Action::Notify.value() | 3;

/// Handed to the listener to be put on record and refused: see [`Handed::Terminal`].
pub(crate) const TERMINAL: u32 = Action::Notify.value() | 4;

// linux/eventpoll.h, asm-generic/socket.h, linux/socket.h, linux/net.h: all are compared with an `int`.
pub(crate) const EPOLL_CTL_ADD: u32 = 1;
pub(crate) const SOL_SOCKET: u32 = 1;
pub(crate) const SO_SNDBUF: u32 = 7;
pub(crate) const SO_RCVBUF: u32 = 8;
pub(crate) const AF_UNIX: u32 = 1;
pub(crate) const SOCK_TYPE_MASK: u32 = 0xf;
pub(crate) const SOCK_DGRAM: u32 = 2;
// asm-generic/ioctls.h: the request is an `unsigned int`. What no terminal of a call is asked: to take input that nobody
// typed, to be the kernel's console, and to load a line discipline.
pub(crate) const TERMINAL_NEVER: [u32; 4] = [
    0x5412, // TIOCSTI
    0x541c, // TIOCLINUX
    0x541d, // TIOCCONS
    0x5423, // TIOCSETD
];
/// What programs need to make a terminal and to be its other side, beyond what the profile allows.
pub(crate) const TERMINAL_ALSO: [u32; 13] = [
    0x540a,      // TCXONC: tcflow
    0x540e,      // TIOCSCTTY: login_tty, forkpty
    0x5414,      // TIOCSWINSZ
    0x5420,      // TIOCPKT: expect, telnet
    0x5422,      // TIOCNOTTY
    0x5425,      // TCSBRKP: tcsendbreak
    0x5441,      // TIOCGPTPEER: openpty
    0x402c_542b, // TCSETS2: tcsetattr of newer C libraries
    0x402c_542c, // TCSETSW2
    0x402c_542d, // TCSETSF2
    0x4004_5431, // TIOCSPTLCK: unlockpt
    0x8004_5438, // TIOCGPKT
    0x8004_5439, // TIOCGPTLCK
];
// sys/file.h: operations of flock(2), an `unsigned int` like the commands of fcntl(2).
const LOCK_NB: u32 = 4;
const LOCK_UN: u32 = 8;
// asm-generic/fcntl.h
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;

/// The plugin's filter for one call: its profile's `program`, and the system calls that the configuration adds. `number`
/// looks up numbers by name.
///
/// Without `named_unix`, UNIX sockets that could be connected to a path are denied: host directories may contain the
/// sockets of its services, and before ABI 9 Landlock has no right for that. Pairs, which have no path, are allowed.
///
/// With `terminals`, requests of ioctl(2) that programs need for pseudo terminals of the call are allowed.
#[must_use]
pub fn plugin(
    program: &[Instruction],
    number: impl Fn(&str) -> Option<u32>,
    added: &[u32],
    named_unix: bool,
    terminals: bool,
) -> Vec<Instruction> {
    let number = |name| number(name).unwrap_or(u32::MAX);
    // Before the additions: `syscalls` adds system calls, but cannot lift these restrictions.
    let mut first = counting(number("epoll_ctl")).to_vec();
    first.extend(locking(number("flock"), number("fcntl")));
    if terminals {
        first.extend(asking(number("ioctl"), &TERMINAL_NEVER, TERMINAL));
    }
    first.extend(added.iter().flat_map(|nr| [equal(*nr, 0, 1), ret(Action::Allow.value())]));
    first.extend(without_larger_buffers(number("setsockopt")));
    if !named_unix {
        first.extend(without_named_unix(number("socket"), number("socketpair")));
    }
    if terminals {
        first.extend(asking(number("ioctl"), &TERMINAL_ALSO, Action::Allow.value()));
    }
    begin_with(program, first)
}

/// The same program without a listener: denials that would be reported become `silent`, counted calls are allowed, and file
/// locks are not supported.
#[must_use]
pub fn deaf(program: &[Instruction], silent: Action) -> Vec<Instruction> {
    let mut program = program.to_vec();
    for instruction in program.iter_mut().filter(|i| i.code == RET_K) {
        if [Action::Notify.value(), TERMINAL].contains(&instruction.k) {
            instruction.k = silent.value();
        } else if instruction.k == COUNT {
            instruction.k = Action::Allow.value();
        } else if instruction.k == LOCK {
            instruction.k = Action::EOPNOTSUPP.value();
        } else if instruction.k == UNIX_SOCKET {
            instruction.k = Action::EAFNOSUPPORT.value();
        }
    }
    program
}

/// Two programs that together decide like this one. The first decides the `watched` calls, with `EPERM` instead of a report,
/// and allows all others. The second is this one, but passes each watched call to the listener. The kernel
/// runs both and applies the stricter result (seccomp(2)): a call that the listener continues was allowed by the first.
#[must_use]
pub fn watching(program: &[Instruction], watched: &[u32]) -> (Vec<Instruction>, Vec<Instruction>) {
    let mut only = Vec::new();
    for (index, nr) in watched.iter().enumerate() {
        // Jumps over the remaining comparisons and the instruction that allows other calls.
        let over = u8::try_from(watched.len() - index).unwrap_or(u8::MAX);
        only.push(equal(*nr, over, 0));
    }
    only.push(ret(Action::Allow.value()));
    let decides = begin_with(&deaf(program, Action::EPERM), only);
    let handed = watched.iter().flat_map(|nr| [equal(*nr, 0, 1), ret(Action::Notify.value())]);
    (decides, begin_with(program, handed))
}

/// What the plugin's filter passes to the listener, besides calls without a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// An addition to an epoll set, to be counted.
    Addition,
    /// A file lock, to be taken if the call may write to the file.
    Lock(LockAct),
    /// A UNIX socket that could be connected to a path, to be refused.
    UnixSocket,
    /// What no terminal of a call is asked.
    Terminal,
}

/// The kind of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockAct {
    /// By flock(2), owned by the open file description: the operation without `LOCK_NB`, and whether it waits.
    Description(u32, bool),
    /// A range of a file, by fcntl(2), owned by the process.
    Process,
    /// A range of a file, by fcntl(2), owned by the open file description; and whether it waits.
    Range(bool),
}

/// Whether, and as what, the filter passes the system call `name` with these arguments to the listener.
#[must_use]
pub fn handed(name: &str, args: &[u64; 6]) -> Option<Handed> {
    let operation = (args[1] & 0xffff_ffff) as u32;
    match (name, operation) {
        ("epoll_ctl", EPOLL_CTL_ADD) => Some(Handed::Addition),
        ("flock", _) if operation & !LOCK_NB != LOCK_UN => {
            Some(Handed::Lock(LockAct::Description(operation & !LOCK_NB, operation & LOCK_NB == 0)))
        }
        ("fcntl", F_SETLK | F_SETLKW) => Some(Handed::Lock(LockAct::Process)),
        ("socket", _) if args[0] as u32 == AF_UNIX => Some(Handed::UnixSocket),
        ("socketpair", _) if args[0] as u32 == AF_UNIX && operation & SOCK_TYPE_MASK == SOCK_DGRAM => {
            Some(Handed::UnixSocket)
        }
        ("ioctl", request) if TERMINAL_NEVER.contains(&request) => Some(Handed::Terminal),
        ("fcntl", F_OFD_SETLK | F_OFD_SETLKW) => Some(Handed::Lock(LockAct::Range(operation == F_OFD_SETLKW))),
        _ => None,
    }
}

fn begin_with(program: &[Instruction], first: impl IntoIterator<Item = Instruction>) -> Vec<Instruction> {
    let mut program = program.to_vec();
    program.splice(PROLOGUE..PROLOGUE, first);
    program
}

/// `epoll_ctl(…, EPOLL_CTL_ADD, …)` goes to the listener.
const fn counting(epoll_ctl: u32) -> [Instruction; 5] {
    [equal(epoll_ctl, 0, 4), load(offset(1)), equal(EPOLL_CTL_ADD, 0, 1), ret(COUNT), load(OFF_NR)]
}

/// File locks go to the listener: a filter does not see the file of a descriptor, and read access is enough to lock a host file.
/// `LOCK_UN` of flock(2) is allowed.
const fn locking(flock: u32, fcntl: u32) -> [Instruction; 14] {
    [
        equal(flock, 0, 5),
        load(offset(1)),
        and(!LOCK_NB),
        equal(LOCK_UN, 1, 0),
        ret(LOCK),
        load(OFF_NR),
        equal(fcntl, 0, 7),
        load(offset(1)),
        equal(F_SETLK, 3, 0),
        equal(F_SETLKW, 2, 0),
        equal(F_OFD_SETLK, 1, 0),
        equal(F_OFD_SETLKW, 0, 1),
        ret(LOCK),
        load(OFF_NR),
    ]
}

/// `setsockopt(…, SOL_SOCKET, SO_SNDBUF or SO_RCVBUF, …)` reports success and does nothing: the size is behind a pointer,
/// and the kernel accepts up to twice the host's `net.core.wmem_max` for each socket. socket(7) allows this: a size above the
/// host's maximum is also reduced without an error, so programs do not rely on the size. An error would end some programs.
const fn without_larger_buffers(setsockopt: u32) -> [Instruction; 8] {
    [
        equal(setsockopt, 0, 7),
        load(offset(1)),
        equal(SOL_SOCKET, 0, 4),
        load(offset(2)),
        equal(SO_SNDBUF, 1, 0),
        equal(SO_RCVBUF, 0, 1),
        ret(Action::Errno(0).value()),
        load(OFF_NR),
    ]
}

/// `ioctl(…, REQUEST, …)` with one of these ends with `value`.
fn asking(ioctl: u32, requests: &[u32], value: u32) -> Vec<Instruction> {
    let count = requests.len() as u8;
    let mut all = vec![equal(ioctl, 0, count + 3), load(offset(1))];
    all.extend(
        (0..count).zip(requests).map(|(at, request)| equal(*request, count - 1 - at, u8::from(at + 1 == count))),
    );
    all.extend([ret(value), load(OFF_NR)]);
    all
}

/// `socket(AF_UNIX, …)` and `socketpair(AF_UNIX, SOCK_DGRAM, …)`, whose ends can still be connected to a path, go to the listener.
const fn without_named_unix(socket: u32, socketpair: u32) -> [Instruction; 13] {
    let refuse = ret(UNIX_SOCKET);
    [
        equal(socket, 0, 4),
        load(offset(0)),
        equal(AF_UNIX, 0, 1),
        refuse,
        load(OFF_NR),
        equal(socketpair, 0, 7),
        load(offset(0)),
        equal(AF_UNIX, 0, 4),
        load(offset(1)),
        and(SOCK_TYPE_MASK),
        equal(SOCK_DGRAM, 0, 1),
        refuse,
        load(OFF_NR),
    ]
}
