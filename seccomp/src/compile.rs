//! Compiles a profile to a BPF program.
//!
//! The program checks the architecture, then does a binary search of the number, then, only if a call's arguments
//! decide, a few comparisons. To install it, the kernel runs it once for each number (to find which calls
//! are always allowed) and translates each instruction, so its depth and length cost time in each call: a linear
//! list of the same rules costs five times as much.

use crate::bpf::{
    ALU_AND_K, Action, Instruction, JMP_JA, JMP_JEQ_K, JMP_JGE_K, LD_W_ABS, MAX_LEN, OFF_ARCH, OFF_NR, RET_K, equal,
    load, offset, ret,
};
use crate::profile::{Profile, ProfileError, Verdict, fail};
use crate::runtime::PROLOGUE;
use std::collections::BTreeMap;

impl Profile {
    /// The program. After its first [`PROLOGUE`] instructions, the number is loaded.
    ///
    /// # Errors
    /// The kernel would not accept it: too many instructions, or too long a jump.
    pub fn compile(&self) -> Result<Vec<Instruction>, ProfileError> {
        let prologue: [Instruction; PROLOGUE] =
            [load(OFF_ARCH), equal(self.arch.audit(), 1, 0), ret(self.foreign.value()), load(OFF_NR)];
        let mut out = prologue.to_vec();

        // Comparisons of arguments come after the search, each only once even if several calls share it.
        let (unlisted, above) = (Verdict::always(self.otherwise), Verdict::always(self.newer));
        let mut pending: Vec<(usize, &Verdict)> = Vec::new();
        let mut tree = Vec::new();
        search(&self.ranges(&unlisted, &above), &mut tree, &mut pending)?;
        out.extend(tree);
        let mut placed: BTreeMap<&Verdict, usize> = BTreeMap::new();
        for (at, verdict) in pending {
            let at = PROLOGUE + at;
            let start = match placed.get(verdict) {
                Some(start) => *start,
                None => {
                    let start = out.len();
                    out.extend(comparisons(verdict)?);
                    placed.insert(verdict, start);
                    start
                }
            };
            out[at].k = u32::try_from(start - at - 1).map_err(|e| ProfileError(e.to_string()))?;
        }
        if out.len() > MAX_LEN {
            return fail(format!("the program has {} instructions, but the kernel accepts only {MAX_LEN}", out.len()));
        }
        Ok(out)
    }

    /// Ranges of numbers with the same verdict: each starts where the previous one ends.
    fn ranges<'a>(&'a self, unlisted: &'a Verdict, above: &'a Verdict) -> Vec<(u32, &'a Verdict)> {
        let mut ranges: Vec<(u32, &Verdict)> = Vec::new();
        for nr in 0..=self.newest {
            let verdict = self.rules.get(&nr).unwrap_or(unlisted);
            if ranges.last().is_none_or(|(_, last)| *last != verdict) {
                ranges.push((nr, verdict));
            }
        }
        ranges.extend(self.newest.checked_add(1).map(|first_above| (first_above, above)));
        ranges
    }
}

fn jump(over: u32) -> Instruction {
    Instruction { code: JMP_JA, jt: 0, jf: 0, k: over }
}

/// Binary search, depth first: `jge middle` jumps over the lower half.
fn search<'a>(
    ranges: &[(u32, &'a Verdict)],
    out: &mut Vec<Instruction>,
    pending: &mut Vec<(usize, &'a Verdict)>,
) -> Result<(), ProfileError> {
    if let [(_, verdict)] = ranges {
        if verdict.allow_when.is_empty() {
            out.push(ret(verdict.otherwise.value()));
        } else {
            pending.push((out.len(), *verdict));
            out.push(jump(0));
        }
        return Ok(());
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let mut lower = Vec::new();
    let mut lower_pending = Vec::new();
    search(low, &mut lower, &mut lower_pending)?;
    let length = u32::try_from(lower.len()).map_err(|e| ProfileError(e.to_string()))?;
    // A conditional jump reaches 255 instructions, an unconditional one any.
    let near = u8::try_from(length).ok();
    out.push(Instruction { code: JMP_JGE_K, jt: near.unwrap_or(0), jf: u8::from(near.is_none()), k: high[0].0 });
    if near.is_none() {
        out.push(jump(length));
    }
    let base = out.len();
    pending.extend(lower_pending.into_iter().map(|(i, v)| (base + i, v)));
    out.extend(lower);
    search(high, out, pending)
}

/// Where the program continues after a comparison.
#[derive(Clone, Copy)]
enum To {
    Next,
    List(usize),
    Allow,
    Otherwise,
}

/// Allows if all conditions of any list are met.
fn comparisons(verdict: &Verdict) -> Result<Vec<Instruction>, ProfileError> {
    let mut out: Vec<(u16, To, To, u32)> = Vec::new();
    let mut starts = Vec::new();
    let lists = &verdict.allow_when;
    // The argument that the accumulator contains, unmasked, on every path to this instruction.
    let mut held: Option<u8> = None;
    for (i, list) in lists.iter().enumerate() {
        starts.push(out.len());
        let next = if i + 1 == lists.len() { To::Otherwise } else { To::List(i + 1) };
        // The accumulator at the start of the next list: known only if it is the same after every failed condition.
        let mut left: Vec<Option<u8>> = Vec::new();
        for (j, c) in list.iter().enumerate() {
            if held != Some(c.arg) {
                out.push((LD_W_ABS, To::Next, To::Next, offset(c.arg)));
                held = Some(c.arg);
            }
            if c.mask != u32::MAX {
                out.push((ALU_AND_K, To::Next, To::Next, c.mask));
                held = None;
            }
            left.push(held);
            let pass = if j + 1 == list.len() { To::Allow } else { To::Next };
            let (t, f) = if c.equal { (pass, next) } else { (next, pass) };
            out.push((JMP_JEQ_K, t, f, c.value));
        }
        held = left.iter().copied().reduce(|a, b| if a == b { a } else { None }).flatten();
    }
    let otherwise = out.len();
    out.push((RET_K, To::Next, To::Next, verdict.otherwise.value()));
    out.push((RET_K, To::Next, To::Next, Action::Allow.value()));

    let distance = |at: usize, to: To| -> Result<u8, ProfileError> {
        let target = match to {
            To::Next => return Ok(0),
            To::List(i) => starts[i],
            To::Otherwise => otherwise,
            To::Allow => otherwise + 1,
        };
        u8::try_from(target - at - 1)
            .map_err(|_| ProfileError("one system call has too many rules: a jump reaches 255 instructions".into()))
    };
    let instruction = |(at, (code, t, f, k)): (usize, (u16, To, To, u32))| {
        Ok(Instruction { code, jt: distance(at, t)?, jf: distance(at, f)?, k })
    };
    out.into_iter().enumerate().map(instruction).collect()
}
