//! The filters: `seccomp/*.json`, compiled by `build.rs`, and what the supervisor needs to name a denied call.
#![forbid(unsafe_code)]

#[cfg(test)]
mod profile;

use crate::sys::seccomp::Instruction;
pub use crate::sys::syscalls::{fixed_reason, syscall_name, syscall_number};
use crate::types::{Code, Details, Failure, Key, OnViolation, Standing};
use sha2::{Digest, Sha256};
use std::fmt;

// PROLOGUE: what `syscalls` adds goes behind so many instructions, where the accumulator holds the number.

/// Code, jump if true, jump if false, operand: as in `profile.rs`, which made them.
type Insn = (u16, u8, u8, u32);

include!(concat!(env!("OUT_DIR"), "/filters.rs"));

// linux/bpf_common.h and linux/seccomp.h
const JMP_JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;
const RET_ALLOW: u32 = 0x7fff_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_KILL_PROCESS: u32 = 0x8000_0000;
/// Handed to the listener to be counted, not to be refused: the kernel does not look at the low half of the value.
const RET_COUNT: u32 = RET_USER_NOTIF | 1;

/// A filter ready to be installed.
#[derive(Clone)]
pub struct Filter {
    /// The profile that it comes from.
    pub name: &'static str,
    /// The program.
    pub program: Vec<Instruction>,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({}, {} instructions)", self.name, self.program.len())
    }
}

/// Why `syscalls` of the configuration cannot be granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterError {
    /// This architecture has no system call of that name.
    Unknown(String),
    /// The call can never be added.
    Fixed {
        /// Its name.
        name: String,
        /// Why.
        reason: &'static str,
    },
}

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FilterError::Unknown(name) => write!(
                f,
                "{name:?}: no system call of {}; `syscalls` takes names as in seccomp/syscalls.tbl",
                std::env::consts::ARCH
            ),
            FilterError::Fixed { name, reason } => {
                write!(f, "{name}: no configuration can add it: {reason}; remove it from `syscalls`")
            }
        }
    }
}

impl std::error::Error for FilterError {}

impl From<FilterError> for Failure {
    fn from(e: FilterError) -> Failure {
        Failure::new(Code::ConfigInvalid, e.to_string()).with(Details::Key(Key::Syscalls))
    }
}

impl Filter {
    fn new(name: &'static str, program: &[Insn]) -> Filter {
        Filter { name, program: program.iter().map(instruction).collect() }
    }

    /// Instructions.
    pub fn len(&self) -> usize {
        self.program.len()
    }

    /// Never: a profile has rules.
    pub fn is_empty(&self) -> bool {
        self.program.is_empty()
    }

    /// The same filter where nobody can listen: what would be reported is refused, or kills, without a word, and what would be
    /// counted is not.
    #[must_use]
    pub fn deaf(&self, on_violation: OnViolation) -> Filter {
        let silent = match on_violation {
            OnViolation::Deny => RET_ERRNO | nix::Error::EPERM as u32,
            OnViolation::Kill => RET_KILL_PROCESS,
        };
        let mut filter = self.clone();
        for instruction in filter.program.iter_mut().filter(|i| i.code == RET_K && i.k == RET_USER_NOTIF) {
            instruction.k = silent;
        }
        for instruction in filter.program.iter_mut().filter(|i| i.code == RET_K && i.k == RET_COUNT) {
            instruction.k = RET_ALLOW;
        }
        filter
    }

    /// Two filters that together decide as this one does: one that refuses by itself what this one would report of the
    /// `watched` calls and lets all others pass, and one like this that hands each watched call to the listener. The kernel
    /// runs both and takes the stricter word (seccomp(2)): what the listener lets go on the first has allowed.
    #[must_use]
    pub fn watching(&self, watched: &[u32]) -> (Filter, Filter) {
        let mut decides = self.deaf(OnViolation::Deny);
        let mut tells = self.clone();
        let mut only = Vec::new();
        for (index, nr) in watched.iter().enumerate() {
            // Over the comparisons that are left and the instruction that lets others pass.
            let over = u8::try_from(watched.len() - index).unwrap_or(u8::MAX);
            only.push(instruction(&(JMP_JEQ_K, over, 0, *nr)));
        }
        only.push(instruction(&(RET_K, 0, 0, RET_ALLOW)));
        decides.program.splice(PROLOGUE..PROLOGUE, only);
        let told = watched.iter().flat_map(|nr| [(JMP_JEQ_K, 0, 1, *nr), (RET_K, 0, 0, RET_USER_NOTIF)]);
        tells.program.splice(PROLOGUE..PROLOGUE, told.map(|i| instruction(&i)));
        (decides, tells)
    }

    /// SHA-256 of the program as the kernel gets it, in hexadecimal.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for i in &self.program {
            hash.update(i.code.to_le_bytes());
            hash.update([i.jt, i.jf]);
            hash.update(i.k.to_le_bytes());
        }
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn instruction(i: &Insn) -> Instruction {
    Instruction { code: i.0, jt: i.1, jf: i.2, k: i.3 }
}

/// The plugin's filter, with the calls that the configuration adds. Needs a listener: what no rule names goes there.
///
/// Without `named_unix` no UNIX socket can be made that could be connected to a path: directories of the host may hold the
/// sockets of its servers, and before ABI 9 landlock has no right for that. Pairs, which have no path, stay.
///
/// # Errors
/// A name that this architecture does not have, or that can never be added.
pub fn plugin(extra: &[String], named_unix: bool) -> Result<Filter, FilterError> {
    let mut added = Vec::with_capacity(extra.len());
    for name in extra {
        let nr = syscall_number(name).ok_or_else(|| FilterError::Unknown(name.clone()))?;
        if let Some(reason) = fixed_reason(name) {
            return Err(FilterError::Fixed { name: name.clone(), reason });
        }
        added.push(nr);
    }
    // The order in which they were written makes no other filter.
    added.sort_unstable();
    added.dedup();
    let mut filter = Filter::new("default", &DEFAULT);
    let allow = added.iter().flat_map(|nr| [(JMP_JEQ_K, 0, 1, *nr), (RET_K, 0, 0, RET_ALLOW)]);
    // Before what is added: `syscalls` names calls, and how often this one may be made is not its to say.
    let mut first: Vec<Instruction> = counting().iter().map(instruction).collect();
    first.extend(allow.map(|i| instruction(&i)));
    first.extend(without_larger_buffers().iter().map(instruction));
    if !named_unix {
        first.extend(without_named_unix().iter().map(instruction));
    }
    filter.program.splice(PROLOGUE..PROLOGUE, first);
    Ok(filter)
}

// linux/eventpoll.h: the operation is an `int`.
const EPOLL_CTL_ADD: u32 = 1;

/// `epoll_ctl(…, EPOLL_CTL_ADD, …)` goes to the listener.
fn counting() -> Vec<Insn> {
    // linux/bpf_common.h; offsets of nr and of the low half of args[1] in struct seccomp_data
    const LD_W_ABS: u16 = 0x20;
    const NR: u32 = 0;
    const OPERATION: u32 = 24;
    vec![
        (JMP_JEQ_K, 0, 4, syscall_number("epoll_ctl").unwrap_or(u32::MAX)),
        (LD_W_ABS, 0, 0, OPERATION),
        (JMP_JEQ_K, 0, 1, EPOLL_CTL_ADD),
        (RET_K, 0, 0, RET_COUNT),
        (LD_W_ABS, 0, 0, NR),
    ]
}

/// Whether the plugin's filter hands this call over to be counted.
#[must_use]
pub fn is_counted(nr: i32, args: &[u64; 6]) -> bool {
    syscall_name(nr) == Some("epoll_ctl") && (args[1] & 0xffff_ffff) as u32 == EPOLL_CTL_ADD
}

/// `setsockopt(…, SOL_SOCKET, SO_SNDBUF or SO_RCVBUF, …)` reports success and does nothing: the size is behind a pointer,
/// and what the kernel takes is up to twice `net.core.wmem_max` of the host for each socket. socket(7) allows it: a size above the
/// host's maximum is cut without an error too, so programs do not rely on getting what they ask for. An error would end some.
fn without_larger_buffers() -> Vec<Insn> {
    // linux/bpf_common.h; offsets of nr and of the low halves of args[1] and args[2] in struct seccomp_data
    const LD_W_ABS: u16 = 0x20;
    const NR: u32 = 0;
    const LEVEL: u32 = 24;
    const NAME: u32 = 32;
    // asm-generic/socket.h
    const SOL_SOCKET: u32 = 1;
    const SO_SNDBUF: u32 = 7;
    const SO_RCVBUF: u32 = 8;
    vec![
        (JMP_JEQ_K, 0, 7, syscall_number("setsockopt").unwrap_or(u32::MAX)),
        (LD_W_ABS, 0, 0, LEVEL),
        (JMP_JEQ_K, 0, 4, SOL_SOCKET),
        (LD_W_ABS, 0, 0, NAME),
        (JMP_JEQ_K, 1, 0, SO_SNDBUF),
        (JMP_JEQ_K, 0, 1, SO_RCVBUF),
        (RET_K, 0, 0, RET_ERRNO),
        (LD_W_ABS, 0, 0, NR),
    ]
}

/// `socket(AF_UNIX, …)` and `socketpair(…, SOCK_DGRAM, …)`, whose ends can still be connected to a path, do not exist.
fn without_named_unix() -> Vec<Insn> {
    // linux/bpf_common.h; offsets of nr and of the low halves of args[0] and args[1] in struct seccomp_data
    const LD_W_ABS: u16 = 0x20;
    const AND_K: u16 = 0x54;
    const NR: u32 = 0;
    const FAMILY: u32 = 16;
    const KIND: u32 = 24;
    const AF_UNIX: u32 = 1;
    const SOCK_TYPE_MASK: u32 = 0xf;
    const SOCK_DGRAM: u32 = 2;
    let refuse = RET_ERRNO | nix::Error::EAFNOSUPPORT as u32;
    let number = |name| syscall_number(name).unwrap_or(u32::MAX);
    vec![
        (JMP_JEQ_K, 0, 4, number("socket")),
        (LD_W_ABS, 0, 0, FAMILY),
        (JMP_JEQ_K, 0, 1, AF_UNIX),
        (RET_K, 0, 0, refuse),
        (LD_W_ABS, 0, 0, NR),
        (JMP_JEQ_K, 0, 5, number("socketpair")),
        (LD_W_ABS, 0, 0, KIND),
        (AND_K, 0, 0, SOCK_TYPE_MASK),
        (JMP_JEQ_K, 0, 1, SOCK_DGRAM),
        (RET_K, 0, 0, refuse),
        (LD_W_ABS, 0, 0, NR),
    ]
}

/// Pid 1 of the plugin's name space: five calls, all else kills it and so ends the plugin.
pub fn init() -> Filter {
    Filter::new("init", &INIT)
}

/// The gateway: all that is not listed kills it.
pub fn gateway() -> Filter {
    Filter::new("gateway", &GATEWAY)
}

/// The supervisor after the plugin was started: all that is not listed fails with `EPERM`.
pub fn supervisor() -> Filter {
    Filter::new("supervisor", &SUPERVISOR)
}

/// The reader of `upm learn`: all that is not listed kills it.
pub fn observer() -> Filter {
    Filter::new("observer", &OBSERVER)
}

/// The reader of what a caller sent: all that is not listed kills it.
pub fn reader() -> Filter {
    Filter::new("reader", &READER)
}

/// How the plugin's filter, without what `syscalls` adds, stands to this name; `None` when there is no such call.
pub fn standing(name: &str) -> Option<Standing> {
    syscall_number(name)?;
    Some(if ALLOWED.contains(&name) {
        Standing::Allowed
    } else if PARTLY.contains(&name) {
        Standing::Partly
    } else {
        Standing::Refused
    })
}

/// The same with why no configuration can add it, as `decide::verdict` asks it.
pub fn standing_and_reason(name: &str) -> Option<(Standing, Option<&'static str>)> {
    Some((standing(name)?, fixed_reason(name)))
}

/// Which arguments of a call are values, with the names that its manual page gives them. The others are pointers: what
/// they point at can change under the reader, so a denial does not show it.
pub fn value_args(nr: i32) -> &'static [(usize, &'static str)] {
    match syscall_name(nr).unwrap_or_default() {
        "socket" => &[(0, "family"), (1, "type"), (2, "protocol")],
        "socketpair" => &[(0, "family"), (1, "type"), (2, "protocol")],
        "setsockopt" | "getsockopt" => &[(0, "fd"), (1, "level"), (2, "optname")],
        "sendto" | "sendmmsg" => &[(0, "fd"), (3, "flags")],
        "sendmsg" => &[(0, "fd"), (2, "flags")],
        "clone" | "unshare" => &[(0, "flags")],
        "setns" => &[(0, "fd"), (1, "nstype")],
        "mmap" => &[(2, "prot"), (3, "flags")],
        "ioctl" => &[(0, "fd"), (1, "request")],
        "fcntl" => &[(0, "fd"), (1, "cmd"), (2, "arg")],
        "prctl" => &[(0, "option"), (1, "arg2")],
        "arch_prctl" => &[(0, "code")],
        "personality" => &[(0, "persona")],
        "open" => &[(1, "flags"), (2, "mode")],
        "openat" => &[(0, "dirfd"), (2, "flags"), (3, "mode")],
        "creat" | "chmod" => &[(1, "mode")],
        "fchmod" => &[(0, "fd"), (1, "mode")],
        "fchmodat" | "fchmodat2" => &[(0, "dirfd"), (2, "mode")],
        "mknod" => &[(1, "mode"), (2, "dev")],
        "mknodat" => &[(0, "dirfd"), (2, "mode"), (3, "dev")],
        "mq_open" => &[(1, "oflag"), (2, "mode")],
        "renameat2" => &[(0, "olddirfd"), (2, "newdirfd"), (4, "flags")],
        "ptrace" => &[(0, "request"), (1, "pid")],
        "process_vm_readv" | "process_vm_writev" => &[(0, "pid"), (5, "flags")],
        "process_madvise" => &[(0, "pidfd"), (3, "advice")],
        "pidfd_getfd" => &[(0, "pidfd"), (1, "targetfd")],
        "kcmp" => &[(0, "pid1"), (1, "pid2"), (2, "type")],
        "migrate_pages" => &[(0, "pid")],
        "mount" => &[(3, "mountflags")],
        "umount2" => &[(1, "flags")],
        "open_tree" | "open_tree_attr" => &[(0, "dirfd"), (2, "flags")],
        "move_mount" => &[(0, "from_dirfd"), (2, "to_dirfd"), (4, "flags")],
        "fsopen" => &[(1, "flags")],
        "fsconfig" => &[(0, "fd"), (1, "cmd")],
        "fsmount" => &[(0, "fd"), (1, "flags"), (2, "attr_flags")],
        "fspick" | "mount_setattr" => &[(0, "dirfd"), (2, "flags")],
        "bpf" => &[(0, "cmd"), (2, "size")],
        "perf_event_open" => &[(1, "pid"), (2, "cpu"), (3, "group_fd"), (4, "flags")],
        "keyctl" => &[(0, "operation")],
        "add_key" => &[(4, "keyring")],
        "request_key" => &[(3, "keyring")],
        "userfaultfd" => &[(0, "flags")],
        "seccomp" => &[(0, "operation"), (1, "flags")],
        "setuid" | "setfsuid" => &[(0, "uid")],
        "setgid" | "setfsgid" => &[(0, "gid")],
        "setreuid" => &[(0, "ruid"), (1, "euid")],
        "setregid" => &[(0, "rgid"), (1, "egid")],
        "setresuid" => &[(0, "ruid"), (1, "euid"), (2, "suid")],
        "setresgid" => &[(0, "rgid"), (1, "egid"), (2, "sgid")],
        "setgroups" => &[(0, "size")],
        "reboot" => &[(2, "op")],
        "syslog" => &[(0, "type")],
        "swapon" => &[(1, "flags")],
        "finit_module" => &[(0, "fd"), (2, "flags")],
        "delete_module" => &[(1, "flags")],
        "init_module" => &[(1, "len")],
        "kexec_load" => &[(0, "entry"), (1, "nr_segments"), (3, "flags")],
        "kexec_file_load" => &[(0, "kernel_fd"), (1, "initrd_fd"), (4, "flags")],
        "fanotify_init" => &[(0, "flags"), (1, "event_f_flags")],
        "fanotify_mark" => &[(0, "fd"), (1, "flags"), (2, "mask"), (3, "dirfd")],
        "name_to_handle_at" => &[(0, "dirfd"), (4, "flags")],
        "open_by_handle_at" => &[(0, "mount_fd"), (2, "flags")],
        "clock_settime" | "clock_adjtime" => &[(0, "clockid")],
        "sethostname" | "setdomainname" => &[(1, "len")],
        "quotactl" => &[(0, "op"), (2, "id")],
        "quotactl_fd" => &[(0, "fd"), (1, "op"), (2, "id")],
        "iopl" => &[(0, "level")],
        "ioperm" => &[(0, "from"), (1, "num"), (2, "turn_on")],
        "modify_ldt" => &[(0, "func")],
        "kill" => &[(0, "pid"), (1, "sig")],
        "tgkill" => &[(0, "tgid"), (1, "tid"), (2, "sig")],
        "syncfs" => &[(0, "fd")],
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
