//! The machine that filters run on: its instructions, their input, and their results.
//!
//! The kernel's numbers are here instead of libc's constants: `build.rs` runs on the building host, but the
//! programs are for the target.

/// One instruction of a filter: `struct sock_filter` of linux/filter.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// The operation.
    pub code: u16,
    /// The number of instructions to skip if true.
    pub jt: u8,
    /// The same if false.
    pub jf: u8,
    /// Its operand.
    pub k: u32,
}

// linux/bpf_common.h
pub(crate) const LD_W_ABS: u16 = 0x20;
pub(crate) const JMP_JA: u16 = 0x05;
pub(crate) const JMP_JEQ_K: u16 = 0x15;
pub(crate) const JMP_JGE_K: u16 = 0x35;
pub(crate) const RET_K: u16 = 0x06;
pub(crate) const ALU_AND_K: u16 = 0x54;

/// `BPF_MAXINSNS`: the kernel's limit for a program.
pub(crate) const MAX_LEN: usize = 4096;

// Offsets in `struct seccomp_data`.
pub(crate) const OFF_NR: u32 = 0;
pub(crate) const OFF_ARCH: u32 = 4;
pub(crate) const OFF_ARGS: u32 = 16;

// linux/seccomp.h
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// The offset of the low half of an argument: both architectures are little-endian.
pub(crate) const fn offset(arg: u8) -> u32 {
    OFF_ARGS + 8 * arg as u32
}

pub(crate) const fn load(offset: u32) -> Instruction {
    Instruction { code: LD_W_ABS, jt: 0, jf: 0, k: offset }
}

pub(crate) const fn and(mask: u32) -> Instruction {
    Instruction { code: ALU_AND_K, jt: 0, jf: 0, k: mask }
}

/// Skips `jt` instructions if the accumulator equals `value`, otherwise `jf`.
pub(crate) const fn equal(value: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code: JMP_JEQ_K, jt, jf, k: value }
}

pub(crate) const fn ret(value: u32) -> Instruction {
    Instruction { code: RET_K, jt: 0, jf: 0, k: value }
}

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The call runs.
    Allow,
    /// The call fails with this number.
    Errno(u16),
    /// The supervisor receives the call and answers it.
    Notify,
    /// The process is killed by `SIGSYS`.
    KillProcess,
}

// The same on both architectures.
impl Action {
    /// The call fails with `EPERM`.
    pub const EPERM: Action = Action::Errno(1);
    pub(crate) const EOPNOTSUPP: Action = Action::Errno(95);
    pub(crate) const EAFNOSUPPORT: Action = Action::Errno(97);

    /// `allow`, `notify`, `kill_process`, or the name of an error number.
    pub(crate) fn named(name: &str) -> Option<Action> {
        Some(match name {
            "allow" => Action::Allow,
            "notify" => Action::Notify,
            "kill_process" => Action::KillProcess,
            "EPERM" => Action::EPERM,
            "EACCES" => Action::Errno(13),
            "EINVAL" => Action::Errno(22),
            "ENOTTY" => Action::Errno(25),
            "ENOSYS" => Action::Errno(38),
            "EOPNOTSUPP" => Action::EOPNOTSUPP,
            "EAFNOSUPPORT" => Action::EAFNOSUPPORT,
            _ => return None,
        })
    }

    /// The filter's return value for it.
    pub const fn value(self) -> u32 {
        match self {
            Action::Allow => RET_ALLOW,
            Action::Errno(n) => RET_ERRNO | n as u32,
            Action::Notify => RET_USER_NOTIF,
            Action::KillProcess => RET_KILL_PROCESS,
        }
    }
}
