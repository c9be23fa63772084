//! References for the compiler's tests: a direct evaluation of the profile, and a machine that runs programs without a kernel.

use crate::bpf::{
    ALU_AND_K, Action, Instruction, JMP_JA, JMP_JEQ_K, JMP_JGE_K, LD_W_ABS, OFF_ARCH, OFF_ARGS, OFF_NR, RET_K,
};
use crate::profile::{Condition, Profile};

impl Condition {
    fn holds(&self, args: &[u64; 6]) -> bool {
        let low = (args[usize::from(self.arg)] & 0xffff_ffff) as u32;
        ((low & self.mask) == self.value) == self.equal
    }
}

impl Profile {
    /// The profile's result for one call; the compiled program must give the same.
    pub(crate) fn verdict(&self, audit: u32, nr: u32, args: &[u64; 6]) -> Action {
        if audit != self.arch.audit() {
            return self.foreign;
        }
        if nr > self.newest {
            return self.newer;
        }
        match self.rules.get(&nr) {
            None => self.otherwise,
            Some(v) if v.allow_when.iter().any(|l| l.iter().all(|c| c.holds(args))) => Action::Allow,
            Some(v) => v.otherwise,
        }
    }
}

/// What `program` returns for one call, and in how many steps. This is the classic BPF that seccomp accepts
/// (net/core/filter.c, `seccomp_check_filter`), for both architectures. Panics if the kernel would refuse the program.
pub(crate) fn run(program: &[Instruction], audit: u32, nr: u32, args: &[u64; 6]) -> (u32, usize) {
    let word = |offset: u32| -> u32 {
        match offset {
            OFF_NR => nr,
            OFF_ARCH => audit,
            _ => {
                assert!((OFF_ARGS..64).contains(&offset) && offset % 4 == 0, "load of {offset}");
                let arg = args[((offset - OFF_ARGS) / 8) as usize];
                if offset % 8 == 0 { arg as u32 } else { (arg >> 32) as u32 }
            }
        }
    };
    let (mut a, mut pc) = (0u32, 0usize);
    for step in 1..=program.len() {
        let Instruction { code, jt, jf, k } = program[pc];
        pc += 1;
        let taken = |yes: bool| usize::from(if yes { jt } else { jf });
        match code {
            LD_W_ABS => a = word(k),
            ALU_AND_K => a &= k,
            JMP_JA => pc += k as usize,
            JMP_JEQ_K => pc += taken(a == k),
            JMP_JGE_K => pc += taken(a >= k),
            RET_K => return (k, step),
            other => panic!("instruction {other:#x} at {}", pc - 1),
        }
    }
    panic!("the program ends without a result")
}
