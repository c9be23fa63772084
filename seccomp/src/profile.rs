//! Loads a profile: from its rules to a verdict for each system call.

use crate::bpf::Action;
use crate::format::{Comparison, File, Rule};
use crate::redundant::redundant;
use crate::table::{Arch, Table};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

/// The profiles: each is `NAME.json` in this folder.
pub const PROFILES: [&str; 6] = ["default", "init", "gateway", "supervisor", "observer", "reader"];

/// Why a profile is invalid. Names the rule by its first system call and its comment, or the place in the file.
#[derive(Debug, PartialEq, Eq)]
pub struct ProfileError(pub String);

impl fmt::Display for ProfileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProfileError {}

pub(crate) fn fail<T>(message: impl Into<String>) -> Result<T, ProfileError> {
    Err(ProfileError(message.into()))
}

/// One comparison of the low 32 bits of an argument.
///
/// Only those: every argument in a rule is an `int`, `unsigned int` or `umode_t` in the kernel, which
/// never sees the high half; or, like the flags of `mmap`, longer, but without meaning in the high half. A rule that
/// compared all 64 bits could be bypassed by setting one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "Comparison")]
pub(crate) struct Condition {
    /// Index of the argument, 0–5.
    pub arg: u8,
    /// The bits to compare.
    pub mask: u32,
    /// Whether they must be equal, or differ.
    pub equal: bool,
    /// The value to compare them with.
    pub value: u32,
}

/// What happens to one system call: it is allowed if all conditions of a list are met.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Verdict {
    /// The lists of conditions.
    pub allow_when: Vec<Vec<Condition>>,
    /// If no list is met.
    pub otherwise: Action,
}

impl Verdict {
    /// The same action for all arguments.
    pub(crate) fn always(action: Action) -> Verdict {
        Verdict { allow_when: Vec::new(), otherwise: action }
    }
}

/// A profile, loaded for one architecture.
#[derive(Debug)]
pub struct Profile {
    pub(crate) arch: Arch,
    /// The highest number that the profile covers.
    pub(crate) newest: u32,
    /// For numbers above it.
    pub(crate) newer: Action,
    /// For calls of another architecture.
    pub(crate) foreign: Action,
    /// For numbers without a rule.
    pub(crate) otherwise: Action,
    /// By number.
    pub(crate) rules: BTreeMap<u32, Verdict>,
    /// System calls that no configuration can add, with the reason.
    pub fixed: BTreeMap<String, String>,
}

impl Profile {
    /// Loads a profile for `arch`.
    ///
    /// # Errors
    /// Unknown fields and names, duplicate keys and rules, a rule without a comment, a profile without rules, and a rule
    /// that another one makes redundant.
    pub fn load(json: &str, table: &Table, arch: Arch) -> Result<Profile, ProfileError> {
        let file: File = serde_json::from_str(json).map_err(|e| ProfileError(e.to_string()))?;
        if file.rules.is_empty() {
            return fail("the profile has no rules: it would deny every call");
        }
        if [file.newer, file.foreign, file.otherwise].contains(&Action::Allow) {
            return fail("`newer`, `foreign` and `otherwise` cannot be `allow`: a profile is an allow list");
        }
        let rules = Gathered::of(&file, table, arch)?.verdicts(file.otherwise, arch)?;
        let fixed = fixed(&file, table, arch, &rules)?;
        let File { newer, foreign, otherwise, .. } = file;
        Ok(Profile { arch, newest: file.newest.of(arch), newer, foreign, otherwise, rules, fixed })
    }

    /// Names of the calls that are allowed with any arguments.
    pub fn allowed<'t>(&self, table: &'t Table) -> Vec<&'t str> {
        self.named(table, |verdict| *verdict == Verdict::always(Action::Allow))
    }

    /// Names of the calls that are allowed with some arguments.
    pub fn partly<'t>(&self, table: &'t Table) -> Vec<&'t str> {
        self.named(table, |verdict| !verdict.allow_when.is_empty())
    }

    fn named<'t>(&self, table: &'t Table, which: impl Fn(&Verdict) -> bool) -> Vec<&'t str> {
        let found = table.of(self.arch).filter(|(_, nr)| self.rules.get(nr).is_some_and(&which));
        found.map(|(name, _)| name).collect()
    }
}

/// The rules of each number: the lists of conditions, each with the start of an error about it, and the one rule without
/// conditions.
#[derive(Default)]
struct Gathered {
    conditional: BTreeMap<u32, Vec<(Vec<Condition>, ProfileError)>>,
    plain: BTreeMap<u32, Action>,
}

impl Gathered {
    fn of(file: &File, table: &Table, arch: Arch) -> Result<Gathered, ProfileError> {
        let mut gathered = Gathered::default();
        for rule in &file.rules {
            let Some(first) = rule.syscalls.first() else {
                return fail(format!("a rule names no system call (comment {:?})", rule.comment.0));
            };
            let at = |what: String| ProfileError(format!("rule of {first:?} ({:?}): {what}", rule.comment.0));
            match &rule.when {
                Some(list) if list.is_empty() => return Err(at("`when` is empty: leave it out".into())),
                Some(_) if rule.action.is_some_and(|action| action != Action::Allow) => {
                    return Err(at("a rule with `when` allows; put the other action in a rule without".into()));
                }
                _ => {}
            }
            for name in &rule.syscalls {
                // Checked for both architectures, whichever is loaded, so that both stay valid.
                for a in Arch::ALL.into_iter().filter(|a| rule.arch.is_none_or(|only| only == *a)) {
                    let Some(nr) = table.number(name, a) else {
                        return Err(at(format!("{name:?} is not a system call of {a}")));
                    };
                    if nr > file.newest.of(a) {
                        return Err(at(format!("{name:?} is {nr}, above `newest` of {a}")));
                    }
                    if a == arch && !gathered.add(nr, rule, || at(format!("{name:?}"))) {
                        return Err(at(format!("{name:?} already has a rule without `when`")));
                    }
                }
            }
        }
        Ok(gathered)
    }

    /// Adds a rule; false for a second one without conditions.
    fn add(&mut self, nr: u32, rule: &Rule, at: impl Fn() -> ProfileError) -> bool {
        match &rule.when {
            Some(list) => self.conditional.entry(nr).or_default().push((list.clone(), at())),
            None => return self.plain.insert(nr, rule.action.unwrap_or(Action::Allow)).is_none(),
        }
        true
    }

    /// The verdicts that the rules give together.
    fn verdicts(mut self, otherwise: Action, arch: Arch) -> Result<BTreeMap<u32, Verdict>, ProfileError> {
        let mut verdicts = BTreeMap::new();
        for (nr, lists) in self.conditional {
            let call = format!("system call {nr} of {arch}");
            let otherwise = match self.plain.remove(&nr) {
                Some(Action::Allow) => {
                    return fail(format!("{call}: always allowed, so its `when` is redundant"));
                }
                Some(action) if action == otherwise => {
                    return fail(format!("{call}: its rule without `when` repeats `otherwise`"));
                }
                action => action.unwrap_or(otherwise),
            };
            let (allow_when, names): (Vec<_>, Vec<_>) = lists.into_iter().unzip();
            if let Some((at, what)) = redundant(&allow_when) {
                return fail(format!("{}: {what}", names[at]));
            }
            verdicts.insert(nr, Verdict { allow_when, otherwise });
        }
        for (nr, action) in self.plain {
            if action == otherwise {
                return fail(format!("system call {nr} of {arch}: its rule repeats `otherwise`"));
            }
            verdicts.insert(nr, Verdict::always(action));
        }
        Ok(verdicts)
    }
}

/// System calls that no configuration can add: each must exist and be restricted.
fn fixed(
    file: &File,
    table: &Table,
    arch: Arch,
    rules: &BTreeMap<u32, Verdict>,
) -> Result<BTreeMap<String, String>, ProfileError> {
    let mut fixed = BTreeMap::new();
    for entry in &file.fixed {
        for name in &entry.syscalls {
            if Arch::ALL.iter().all(|a| table.number(name, *a).is_none()) {
                return fail(format!("`fixed`: {name:?} is not a system call"));
            }
            let rule = table.number(name, arch).and_then(|nr| rules.get(&nr));
            if rule.is_some_and(|rule| rule.otherwise == Action::Allow) {
                return fail(format!("`fixed` names {name:?}, which is always allowed: there is nothing to add"));
            }
            if fixed.insert(name.clone(), entry.comment.0.clone()).is_some() {
                return fail(format!("`fixed` names {name:?} twice"));
            }
        }
    }
    Ok(fixed)
}
