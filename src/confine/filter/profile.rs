//! From a profile of `seccomp/*.json` to a BPF program.
//!
//! `build.rs` runs this, so a call neither parses nor compiles anything and a profile that cannot be loaded does
//! not build. Nothing here depends on the rest of the crate.
//!
//! The program is one pass: architecture, then a binary search of the number, then, only where a call's arguments
//! decide, a few comparisons. Installing costs the kernel a run of the program for each number (to learn which calls
//! are always allowed) and a translation of each instruction, so depth and length are what a call pays for: a linear
//! list of the same rules costs five times as much.

use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One classic BPF instruction: code, jump if true, jump if false, operand.
pub type Insn = (u16, u8, u8, u32);

/// `BPF_MAXINSNS`: the kernel takes no longer program.
const MAX_LEN: usize = 4096;

// linux/bpf_common.h
const LD_W_ABS: u16 = 0x20;
const JMP_JA: u16 = 0x05;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;
const ALU_AND_K: u16 = 0x54;

// Offsets in `struct seccomp_data`. Both architectures are little-endian: an argument's low half comes first.
const OFF_NR: u32 = 0;
const OFF_ARCH: u32 = 4;
const OFF_ARGS: u32 = 16;

// linux/seccomp.h
const RET_KILL_PROCESS: u32 = 0x8000_0000;
const RET_ERRNO: u32 = 0x0005_0000;
const RET_USER_NOTIF: u32 = 0x7fc0_0000;
const RET_ALLOW: u32 = 0x7fff_0000;

/// How many instructions stand before the search: a run-time addition goes there, with the number loaded.
pub const PROLOGUE: usize = 4;

/// An architecture that the profiles are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Arch {
    /// Intel and AMD, 64 bits.
    #[serde(rename = "x86_64")]
    X86_64,
    /// ARM, 64 bits.
    #[serde(rename = "aarch64")]
    Aarch64,
}

impl Arch {
    /// Both.
    pub const ALL: [Arch; 2] = [Arch::X86_64, Arch::Aarch64];

    /// `AUDIT_ARCH_*` of linux/audit.h. Those of i386 and 32-bit ARM differ; x32 shares that of x86_64 and
    /// sets bit 30 of the number instead.
    pub const fn audit(self) -> u32 {
        match self {
            Arch::X86_64 => 0xc000_003e,
            Arch::Aarch64 => 0xc000_00b7,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

/// What the kernel does with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// The call runs.
    Allow,
    /// The call fails with this number.
    Errno(u16),
    /// The supervisor is told and answers.
    Notify,
    /// The process dies of `SIGSYS`.
    KillProcess,
}

impl Action {
    /// The value that a filter returns for it.
    pub const fn value(self) -> u32 {
        match self {
            Action::Allow => RET_ALLOW,
            Action::Errno(n) => RET_ERRNO | n as u32,
            Action::Notify => RET_USER_NOTIF,
            Action::KillProcess => RET_KILL_PROCESS,
        }
    }

    /// `allow`, `notify`, `kill_process`, or the name of an error number.
    fn parse(name: &str) -> Option<Action> {
        // The same on both architectures.
        Some(match name {
            "allow" => Action::Allow,
            "notify" => Action::Notify,
            "kill_process" => Action::KillProcess,
            "EPERM" => Action::Errno(1),
            "EACCES" => Action::Errno(13),
            "EINVAL" => Action::Errno(22),
            "ENOTTY" => Action::Errno(25),
            "ENOSYS" => Action::Errno(38),
            "EOPNOTSUPP" => Action::Errno(95),
            "EAFNOSUPPORT" => Action::Errno(97),
            _ => return None,
        })
    }
}

/// Why a profile cannot be used. Each names the rule by its first system call and its comment.
#[derive(Debug, PartialEq, Eq)]
pub struct ProfileError(pub String);

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

fn fail<T>(message: impl Into<String>) -> Result<T, ProfileError> {
    Err(ProfileError(message.into()))
}

/// A number written as JSON number or as `"0x…"`, `"0o…"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Number(u32);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl serde::de::Visitor<'_> for V {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of 32 bits, or such a number as \"0x…\" or \"0o…\"")
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Number, E> {
                u32::try_from(v).map(Number).map_err(|_| E::custom(format!("{v} has more than 32 bits")))
            }
            fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Number, E> {
                let parsed = match (v.strip_prefix("0x"), v.strip_prefix("0o")) {
                    (Some(hex), _) => u32::from_str_radix(hex, 16),
                    (_, Some(octal)) => u32::from_str_radix(octal, 8),
                    _ => return Err(E::custom(format!("{v:?} begins with neither 0x nor 0o"))),
                };
                parsed.map(Number).map_err(|e| E::custom(format!("{v:?}: {e}")))
            }
        }
        d.deserialize_any(V)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProfile {
    comment: String,
    newest: RawNewest,
    newer: String,
    foreign: String,
    otherwise: String,
    rules: Vec<RawRule>,
    #[serde(default)]
    fixed: Vec<RawFixed>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNewest {
    x86_64: u32,
    aarch64: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    syscalls: Vec<String>,
    comment: String,
    arch: Option<Arch>,
    action: Option<String>,
    when: Option<Vec<RawCondition>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCondition {
    arg: u8,
    mask: Option<Number>,
    eq: Option<Number>,
    ne: Option<Number>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFixed {
    syscalls: Vec<String>,
    comment: String,
}

/// One comparison of the low 32 bits of an argument.
///
/// Only those: every argument that a profile looks at is an `int`, `unsigned int` or `umode_t` in the kernel, which
/// never sees the high half; or, as the flags of `mmap`, longer, with nothing in the high half that counts. A rule that compared all 64 bits could be passed by setting one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Condition {
    /// Index of the argument, 0–5.
    pub arg: u8,
    /// Bits that are compared.
    pub mask: u32,
    /// Whether they must be equal, or differ.
    pub equal: bool,
    /// What they are compared with.
    pub value: u32,
}

impl Condition {
    fn negated(&self) -> Condition {
        Condition { equal: !self.equal, ..*self }
    }

    #[cfg(test)]
    pub(super) fn holds(&self, args: &[u64; 6]) -> bool {
        let low = (args[usize::from(self.arg)] & 0xffff_ffff) as u32;
        ((low & self.mask) == self.value) == self.equal
    }
}

/// What happens to one system call: the first whole list of conditions that holds allows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Verdict {
    /// Any of these lists, all of its conditions.
    pub allow_when: Vec<Vec<Condition>>,
    /// When none holds.
    pub otherwise: Action,
}

/// A profile, loaded for one architecture.
#[derive(Debug)]
pub struct Profile {
    arch: Arch,
    /// The highest number that the profile knows.
    pub newest: u32,
    /// For numbers above it.
    pub newer: Action,
    /// For calls of another architecture.
    pub foreign: Action,
    /// For numbers without a rule.
    pub otherwise: Action,
    /// By number.
    pub rules: BTreeMap<u32, Verdict>,
    /// Calls that no configuration can add, with the reason.
    pub fixed: BTreeMap<String, String>,
}

/// Names and numbers of both architectures, from `seccomp/syscalls.tbl`.
#[derive(Debug)]
pub struct Table {
    rows: BTreeMap<String, [Option<u32>; 2]>,
}

impl Table {
    /// Reads the table. A line is a name and two numbers; `-` where there is none.
    pub fn parse(text: &str) -> Result<Table, ProfileError> {
        let mut rows = BTreeMap::new();
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        for line in text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
            let mut words = line.split(' ');
            let (Some(name), Some(x86), Some(arm), None) = (words.next(), words.next(), words.next(), words.next())
            else {
                return fail(format!("syscalls.tbl: {line:?} is not a name and two numbers"));
            };
            let mut numbers = [None, None];
            for (i, word) in [x86, arm].into_iter().enumerate() {
                if word == "-" {
                    continue;
                }
                let Ok(n) = word.parse() else {
                    return fail(format!("syscalls.tbl: {line:?}: {word:?} is not a number"));
                };
                if !seen[i].insert(n) {
                    return fail(format!("syscalls.tbl: {line:?}: {n} has a name already"));
                }
                numbers[i] = Some(n);
            }
            if rows.insert(name.to_owned(), numbers).is_some() {
                return fail(format!("syscalls.tbl: {name:?} stands there twice"));
            }
        }
        Ok(Table { rows })
    }

    /// Every name that `arch` has, with its number.
    #[cfg_attr(test, allow(dead_code, reason = "build.rs writes the tables of names with it"))]
    pub fn of(&self, arch: Arch) -> impl Iterator<Item = (&str, u32)> {
        self.rows.iter().filter_map(move |(name, n)| n[arch as usize].map(|n| (name.as_str(), n)))
    }

    /// The number of `name` on `arch`.
    pub fn number(&self, name: &str, arch: Arch) -> Option<u32> {
        self.rows.get(name).and_then(|n| n[arch as usize])
    }
}

impl Profile {
    /// Loads a profile for `arch`. Refused are unknown fields and names, duplicate keys and rules, a rule without a
    /// comment, a profile without rules, and a rule that another one makes redundant.
    pub fn load(json: &str, table: &Table, arch: Arch) -> Result<Profile, ProfileError> {
        let raw: RawProfile = serde_json::from_str(json).map_err(|e| ProfileError(e.to_string()))?;
        if raw.comment.trim().is_empty() {
            return fail("the profile has no comment");
        }
        if raw.rules.is_empty() {
            return fail("the profile has no rules: it would refuse every call");
        }
        let action = |name: &str| Action::parse(name).ok_or_else(|| ProfileError(format!("{name:?} is not an action")));
        let mut profile = Profile {
            arch,
            newest: match arch {
                Arch::X86_64 => raw.newest.x86_64,
                Arch::Aarch64 => raw.newest.aarch64,
            },
            newer: action(&raw.newer)?,
            foreign: action(&raw.foreign)?,
            otherwise: action(&raw.otherwise)?,
            rules: BTreeMap::new(),
            fixed: BTreeMap::new(),
        };
        if [profile.newer, profile.foreign, profile.otherwise].contains(&Action::Allow) {
            return fail("`newer`, `foreign` and `otherwise` cannot be `allow`: a profile is an allow list");
        }

        // Per number: the lists of conditions, and the one rule without conditions.
        let mut conditional: BTreeMap<u32, Vec<(Vec<Condition>, ProfileError)>> = BTreeMap::new();
        let mut plain: BTreeMap<u32, Action> = BTreeMap::new();
        for rule in &raw.rules {
            let Some(first) = rule.syscalls.first() else {
                return fail(format!("a rule names no system call (comment {:?})", rule.comment));
            };
            let at = |what: String| ProfileError(format!("rule of {first:?} ({:?}): {what}", rule.comment));
            if rule.comment.trim().is_empty() {
                return Err(at("it has no comment".into()));
            }
            let act = match &rule.action {
                Some(name) => action(name).map_err(|e| at(e.0))?,
                None => Action::Allow,
            };
            let conditions = match &rule.when {
                Some(list) if list.is_empty() => return Err(at("`when` is empty: leave it out".into())),
                Some(_) if act != Action::Allow => {
                    return Err(at("a rule with `when` allows; give what happens otherwise a rule without".into()));
                }
                Some(list) => Some(list.iter().map(condition).collect::<Result<Vec<_>, _>>().map_err(|e| at(e.0))?),
                None => None,
            };
            for name in &rule.syscalls {
                // Checked for both architectures whichever is loaded, so that neither rots.
                for a in Arch::ALL.into_iter().filter(|a| rule.arch.is_none_or(|only| only == *a)) {
                    let Some(nr) = table.number(name, a) else {
                        return Err(at(format!("{name:?} is no system call of {a}")));
                    };
                    let newest = if a == Arch::X86_64 { raw.newest.x86_64 } else { raw.newest.aarch64 };
                    if nr > newest {
                        return Err(at(format!("{name:?} is {nr}, above `newest` of {a}")));
                    }
                    if a != arch {
                        continue;
                    }
                    match &conditions {
                        Some(list) => {
                            conditional.entry(nr).or_default().push((list.clone(), at(format!("{name:?}"))));
                        }
                        None => {
                            if plain.insert(nr, act).is_some() {
                                return Err(at(format!("{name:?} has a rule without `when` already")));
                            }
                        }
                    }
                }
            }
        }
        for (nr, lists) in conditional {
            let otherwise = match plain.remove(&nr) {
                Some(Action::Allow) => {
                    return fail(format!("system call {nr} of {arch}: allowed always, so its `when` is redundant"));
                }
                Some(act) if act == profile.otherwise => {
                    return fail(format!(
                        "system call {nr} of {arch}: its rule without `when` says what `otherwise` says"
                    ));
                }
                Some(act) => act,
                None => profile.otherwise,
            };
            let (allow_when, names): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
            if let Some((at, what)) = redundant(&allow_when) {
                return fail(format!("{}: {what}", names[at]));
            }
            profile.rules.insert(nr, Verdict { allow_when, otherwise });
        }
        for (nr, act) in plain {
            if act == profile.otherwise {
                return fail(format!("system call {nr} of {arch}: its rule says what `otherwise` says"));
            }
            profile.rules.insert(nr, Verdict { allow_when: Vec::new(), otherwise: act });
        }

        for entry in raw.fixed {
            if entry.comment.trim().is_empty() {
                return fail(format!("`fixed` of {:?} has no comment", entry.syscalls));
            }
            for name in entry.syscalls {
                if !table.rows.contains_key(&name) {
                    return fail(format!("`fixed`: {name:?} is no system call"));
                }
                let rule = table.number(&name, arch).and_then(|nr| profile.rules.get(&nr));
                if rule.is_some_and(|rule| rule.otherwise == Action::Allow) {
                    return fail(format!("`fixed` names {name:?}, which is allowed always: there is nothing to add"));
                }
                if profile.fixed.insert(name.clone(), entry.comment.clone()).is_some() {
                    return fail(format!("`fixed` names {name:?} twice"));
                }
            }
        }
        Ok(profile)
    }

    /// What the profile says of one call; the compiled program must say the same.
    #[cfg(test)]
    pub(super) fn verdict(&self, audit: u32, nr: u32, args: &[u64; 6]) -> Action {
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

    /// The program. Its first [`PROLOGUE`] instructions end with the number loaded.
    pub fn compile(&self) -> Result<Vec<Insn>, ProfileError> {
        let mut out = vec![
            (LD_W_ABS, 0, 0, OFF_ARCH),
            (JMP_JEQ_K, 1, 0, self.arch.audit()),
            (RET_K, 0, 0, self.foreign.value()),
            (LD_W_ABS, 0, 0, OFF_NR),
        ];
        debug_assert_eq!(out.len(), PROLOGUE);

        // Numbers with one verdict, as ranges: each begins where the one before it ends.
        let unlisted = Verdict { allow_when: Vec::new(), otherwise: self.otherwise };
        let mut ranges: Vec<(u32, &Verdict)> = Vec::new();
        for nr in 0..=self.newest {
            let verdict = self.rules.get(&nr).unwrap_or(&unlisted);
            if ranges.last().is_none_or(|(_, last)| *last != verdict) {
                ranges.push((nr, verdict));
            }
        }
        let above = Verdict { allow_when: Vec::new(), otherwise: self.newer };
        if let Some(first_above) = self.newest.checked_add(1) {
            ranges.push((first_above, &above));
        }

        // Comparisons of arguments stand behind the search, each once however many calls share it.
        let mut pending: Vec<(usize, &Verdict)> = Vec::new();
        let mut tree = Vec::new();
        search(&ranges, &mut tree, &mut pending)?;
        let base = out.len();
        out.extend(tree);
        let mut placed: BTreeMap<&Verdict, usize> = BTreeMap::new();
        for (at, verdict) in pending {
            let at = base + at;
            let start = match placed.get(verdict) {
                Some(start) => *start,
                None => {
                    let start = out.len();
                    out.extend(comparisons(verdict)?);
                    placed.insert(verdict, start);
                    start
                }
            };
            out[at].3 = u32::try_from(start - at - 1).map_err(|e| ProfileError(e.to_string()))?;
        }
        if out.len() > MAX_LEN {
            return fail(format!("the program has {} instructions, the kernel takes {MAX_LEN}", out.len()));
        }
        Ok(out)
    }
}

fn condition(raw: &RawCondition) -> Result<Condition, ProfileError> {
    if raw.arg > 5 {
        return fail(format!("argument {} does not exist: 0–5", raw.arg));
    }
    let (equal, Number(value)) = match (raw.eq, raw.ne) {
        (Some(v), None) => (true, v),
        (None, Some(v)) => (false, v),
        _ => return fail(format!("argument {}: exactly one of `eq` and `ne`", raw.arg)),
    };
    let mask = raw.mask.map_or(u32::MAX, |m| m.0);
    if value & !mask != 0 {
        return fail(format!("argument {}: {value:#x} has bits outside of the mask {mask:#x}", raw.arg));
    }
    if mask == 0 {
        return fail(format!("argument {}: the mask is zero", raw.arg));
    }
    Ok(Condition { arg: raw.arg, mask, equal, value })
}

/// The first of the lists without which, or without a part of which, the rest would say the same; and why.
fn redundant(lists: &[Vec<Condition>]) -> Option<(usize, &'static str)> {
    for (at, list) in lists.iter().enumerate() {
        if !satisfiable(list) {
            return Some((at, "its `when` never holds"));
        }
        for (i, condition) in list.iter().enumerate() {
            let mut without = list.clone();
            without[i] = condition.negated();
            if !satisfiable(&without) {
                return Some((at, "a condition of its `when` follows from the others"));
            }
        }
    }
    // the later one is named: what was there before it is not to be mended
    for at in (0..lists.len()).rev() {
        let others: Vec<_> = lists.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, list)| list).collect();
        if !reaches(&lists[at], &others) {
            return Some((at, "other rules' `when` cover this one"));
        }
    }
    let all: Vec<_> = lists.iter().collect();
    (!reaches(&[], &all))
        .then_some((lists.len() - 1, "with it the call is always allowed, so the `when`s are redundant"))
}

/// Whether there are arguments for which all of `held` holds and none of `lists`: in each of them one condition must fail.
fn reaches(held: &[Condition], lists: &[&Vec<Condition>]) -> bool {
    if !satisfiable(held) {
        return false;
    }
    let Some((first, rest)) = lists.split_first() else { return true };
    first.iter().any(|condition| reaches(&[held, &[condition.negated()]].concat(), rest))
}

/// Whether there are arguments for which all of these hold.
fn satisfiable(conditions: &[Condition]) -> bool {
    (0..6).all(|arg| {
        // What must be equal fixes bits; what must differ has to find one that is not fixed.
        let (mut mask, mut value) = (0, 0);
        let of_arg = conditions.iter().filter(|c| c.arg == arg);
        let (equal, differ): (Vec<&Condition>, Vec<&Condition>) = of_arg.partition(|c| c.equal);
        for c in equal {
            if (value ^ c.value) & mask & c.mask != 0 {
                return false;
            }
            mask |= c.mask;
            value |= c.value;
        }
        differs(mask, value, &differ)
    })
}

/// Whether the bits that `mask` leaves open can be chosen so that each of `from` differs.
fn differs(mask: u32, value: u32, from: &[&Condition]) -> bool {
    let Some((first, rest)) = from.split_first() else { return true };
    if (value ^ first.value) & mask & first.mask != 0 {
        return differs(mask, value, rest);
    }
    let free = first.mask & !mask;
    (0..32).map(|bit| 1_u32 << bit).filter(|bit| free & bit != 0).any(|bit| {
        // this is the lowest bit that differs: those below it are equal
        let below = free & (bit - 1);
        differs(mask | below | bit, value | first.value & below | !first.value & bit, rest)
    })
}

/// Binary search, depth first: `jge middle` jumps over the lower half.
fn search<'a>(
    ranges: &[(u32, &'a Verdict)],
    out: &mut Vec<Insn>,
    pending: &mut Vec<(usize, &'a Verdict)>,
) -> Result<(), ProfileError> {
    if let [(_, verdict)] = ranges {
        if verdict.allow_when.is_empty() {
            out.push((RET_K, 0, 0, verdict.otherwise.value()));
        } else {
            pending.push((out.len(), *verdict));
            out.push((JMP_JA, 0, 0, 0));
        }
        return Ok(());
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let at = out.len();
    out.push((JMP_JGE_K, 0, 0, high[0].0));
    let mut lower = Vec::new();
    let mut lower_pending = Vec::new();
    search(low, &mut lower, &mut lower_pending)?;
    let length = u32::try_from(lower.len()).map_err(|e| ProfileError(e.to_string()))?;
    match u8::try_from(length) {
        Ok(near) => out[at].1 = near,
        // A conditional jump reaches 255 instructions, an unconditional one any.
        Err(_) => {
            out[at].2 = 1;
            out.push((JMP_JA, 0, 0, length));
        }
    }
    let base = out.len();
    pending.extend(lower_pending.into_iter().map(|(i, v)| (base + i, v)));
    out.extend(lower);
    search(high, out, pending)
}

/// Where a comparison goes on.
#[derive(Clone, Copy)]
enum To {
    Next,
    List(usize),
    Allow,
    Otherwise,
}

/// Any of the lists, all conditions of one.
fn comparisons(verdict: &Verdict) -> Result<Vec<Insn>, ProfileError> {
    let mut out: Vec<(u16, To, To, u32)> = Vec::new();
    let mut starts = Vec::new();
    let lists = &verdict.allow_when;
    // The argument that the accumulator holds unmasked on every way to this instruction.
    let mut held: Option<u8> = None;
    for (i, list) in lists.iter().enumerate() {
        starts.push(out.len());
        let next = if i + 1 == lists.len() { To::Otherwise } else { To::List(i + 1) };
        // What the accumulator holds where the next list begins: known only if every failed condition agrees.
        let mut left: Vec<Option<u8>> = Vec::new();
        for (j, c) in list.iter().enumerate() {
            if held != Some(c.arg) {
                out.push((LD_W_ABS, To::Next, To::Next, OFF_ARGS + 8 * u32::from(c.arg)));
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
    out.push((RET_K, To::Next, To::Next, RET_ALLOW));

    let jump = |at: usize, to: To| -> Result<u8, ProfileError> {
        let target = match to {
            To::Next => return Ok(0),
            To::List(i) => starts[i],
            To::Otherwise => otherwise,
            To::Allow => otherwise + 1,
        };
        u8::try_from(target - at - 1)
            .map_err(|_| ProfileError("one system call has too many rules: a jump reaches 255 instructions".into()))
    };
    out.iter().enumerate().map(|(at, (code, t, f, k))| Ok((*code, jump(at, *t)?, jump(at, *f)?, *k))).collect()
}

#[cfg(test)]
pub(super) mod interpreter {
    //! The classic BPF that seccomp takes (net/core/filter.c, `seccomp_check_filter`), for both architectures without
    //! their kernels. Panics where the kernel would refuse the program.
    use super::*;

    /// What `program` returns for one call, and in how many steps.
    pub fn run(program: &[Insn], audit: u32, nr: u32, args: &[u64; 6]) -> (u32, usize) {
        let word = |offset: u32| -> u32 {
            match offset {
                OFF_NR => nr,
                OFF_ARCH => audit,
                _ => {
                    assert!((OFF_ARGS..64).contains(&offset) && offset.is_multiple_of(4), "load of {offset}");
                    let arg = args[((offset - OFF_ARGS) / 8) as usize];
                    if offset.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
                }
            }
        };
        let (mut a, mut pc) = (0u32, 0usize);
        for step in 1..=program.len() {
            let (code, jt, jf, k) = program[pc];
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
        panic!("the program ends without an answer")
    }
}
