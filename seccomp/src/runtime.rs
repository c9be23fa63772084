//! What a compiled program is given when a call starts: none of it needs a profile.

use crate::bpf::{Action, Instruction, OFF_NR, RET_K, and, equal, load, offset, ret};

/// How many instructions stand before the search of a compiled program. What a call adds goes behind them, where the
/// accumulator holds the number of the system call.
pub(crate) const PROLOGUE: usize = 4;

/// Handed to the listener to be counted, not to be refused: the kernel does not look at the low half of the value.
pub(crate) const COUNT: u32 = Action::Notify.value() | 1;

/// Handed to the listener as a lock of a file: see [`Handed::Lock`].
pub(crate) const LOCK: u32 = Action::Notify.value() | 2;

// linux/eventpoll.h, asm-generic/socket.h, linux/socket.h, linux/net.h: all of them are compared with an `int`.
pub(crate) const EPOLL_CTL_ADD: u32 = 1;
pub(crate) const SOL_SOCKET: u32 = 1;
pub(crate) const SO_SNDBUF: u32 = 7;
pub(crate) const SO_RCVBUF: u32 = 8;
pub(crate) const AF_UNIX: u32 = 1;
pub(crate) const SOCK_TYPE_MASK: u32 = 0xf;
pub(crate) const SOCK_DGRAM: u32 = 2;
// sys/file.h: operations of flock(2), which are an `unsigned int`, as the commands of fcntl(2) are.
const LOCK_NB: u32 = 4;
const LOCK_UN: u32 = 8;
// asm-generic/fcntl.h
const F_SETLK: u32 = 6;
const F_SETLKW: u32 = 7;
const F_OFD_SETLK: u32 = 37;
const F_OFD_SETLKW: u32 = 38;

/// The plugin's filter for one call: its profile's `program`, and the system calls that the configuration adds. `number`
/// knows numbers by name.
///
/// Without `named_unix` no UNIX socket can be made that could be connected to a path: directories of the host may hold the
/// sockets of its servers, and before ABI 9 landlock has no right for that. Pairs, which have no path, stay.
#[must_use]
pub fn plugin(
    program: &[Instruction],
    number: impl Fn(&str) -> Option<u32>,
    added: &[u32],
    named_unix: bool,
) -> Vec<Instruction> {
    let number = |name| number(name).unwrap_or(u32::MAX);
    // Before what is added: `syscalls` names calls, and how often, or of what, these may be made is not its to say.
    let mut first = counting(number("epoll_ctl")).to_vec();
    first.extend(locking(number("flock"), number("fcntl")));
    first.extend(added.iter().flat_map(|nr| [equal(*nr, 0, 1), ret(Action::Allow.value())]));
    first.extend(without_larger_buffers(number("setsockopt")));
    if !named_unix {
        first.extend(without_named_unix(number("socket"), number("socketpair")));
    }
    begin_with(program, first)
}

/// The same program where nobody can listen: what would be reported is `silent`, what would be counted is not, and locks of
/// files are not supported.
#[must_use]
pub fn deaf(program: &[Instruction], silent: Action) -> Vec<Instruction> {
    let mut program = program.to_vec();
    for instruction in program.iter_mut().filter(|i| i.code == RET_K) {
        if instruction.k == Action::Notify.value() {
            instruction.k = silent.value();
        } else if instruction.k == COUNT {
            instruction.k = Action::Allow.value();
        } else if instruction.k == LOCK {
            instruction.k = Action::EOPNOTSUPP.value();
        }
    }
    program
}

/// Two programs that together decide as this one does: one that refuses by itself what this one would report of the
/// `watched` calls and lets all others pass, and one like this that hands each watched call to the listener. The kernel
/// runs both and takes the stricter word (seccomp(2)): what the listener lets go on the first has allowed.
#[must_use]
pub fn watching(program: &[Instruction], watched: &[u32]) -> (Vec<Instruction>, Vec<Instruction>) {
    let mut only = Vec::new();
    for (index, nr) in watched.iter().enumerate() {
        // Over the comparisons that are left and the instruction that lets others pass.
        let over = u8::try_from(watched.len() - index).unwrap_or(u8::MAX);
        only.push(equal(*nr, over, 0));
    }
    only.push(ret(Action::Allow.value()));
    let decides = begin_with(&deaf(program, Action::EPERM), only);
    let handed = watched.iter().flat_map(|nr| [equal(*nr, 0, 1), ret(Action::Notify.value())]);
    (decides, begin_with(program, handed))
}

/// What the plugin's filter hands over besides what no rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// An addition to a set of epoll, to be counted.
    Addition,
    /// A lock of a file, to be taken where the call may write.
    Lock(LockAct),
}

/// Which lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockAct {
    /// By flock(2), which belongs to the open file description: this operation, without `LOCK_NB`, and whether it waits.
    Description(u32, bool),
    /// A range of a file, by fcntl(2), which belongs to the process.
    Process,
    /// A range of a file, by fcntl(2), which belongs to the open file description: and whether it waits.
    Range(bool),
}

/// Whether, and as what, the filter hands over the system call `name` with these arguments.
#[must_use]
pub fn handed(name: &str, args: &[u64; 6]) -> Option<Handed> {
    let operation = (args[1] & 0xffff_ffff) as u32;
    match (name, operation) {
        ("epoll_ctl", EPOLL_CTL_ADD) => Some(Handed::Addition),
        ("flock", _) if operation & !LOCK_NB != LOCK_UN => {
            Some(Handed::Lock(LockAct::Description(operation & !LOCK_NB, operation & LOCK_NB == 0)))
        }
        ("fcntl", F_SETLK | F_SETLKW) => Some(Handed::Lock(LockAct::Process)),
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

/// Locks of files go to the listener: no filter sees which file a descriptor is, and a file of the host can be locked by whoever
/// may read it. Of flock(2), which has one lock a description, `LOCK_UN` passes.
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
/// and what the kernel takes is up to twice `net.core.wmem_max` of the host for each socket. socket(7) allows it: a size above the
/// host's maximum is cut without an error too, so programs do not rely on getting what they ask for. An error would end some.
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

/// `socket(AF_UNIX, …)` and `socketpair(…, SOCK_DGRAM, …)`, whose ends can still be connected to a path, do not exist.
const fn without_named_unix(socket: u32, socketpair: u32) -> [Instruction; 11] {
    let refuse = ret(Action::EAFNOSUPPORT.value());
    [
        equal(socket, 0, 4),
        load(offset(0)),
        equal(AF_UNIX, 0, 1),
        refuse,
        load(OFF_NR),
        equal(socketpair, 0, 5),
        load(offset(1)),
        and(SOCK_TYPE_MASK),
        equal(SOCK_DGRAM, 0, 1),
        refuse,
        load(OFF_NR),
    ]
}
