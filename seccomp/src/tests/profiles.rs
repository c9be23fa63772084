//! Tests the compiler with every rule of every profile, on both architectures.

use super::*;
use std::collections::BTreeMap;

#[test]
fn programs_say_what_the_profiles_say() {
    for name in PROFILES {
        for arch in Arch::ALL {
            let profile = load(name, arch);
            let program = profile.compile().unwrap();
            let (mut calls, mut allowed, mut refused, mut deepest) = (0, 0, 0, 0);
            for nr in (0..=profile.newest + 50).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, 0x7fff_ffff, u32::MAX]) {
                let lists = profile.rules.get(&nr).map(probes).unwrap_or_else(|| vec![[0; 6], [u64::MAX; 6]]);
                for args in lists {
                    for audit in [arch.audit(), I386, ARM, 0] {
                        let want = profile.verdict(audit, nr, &args);
                        let (got, steps) = oracle::run(&program, audit, nr, &args);
                        assert_eq!(got, want.value(), "{name} {arch} {audit:x} {nr}({args:x?}): {want:?}");
                        calls += 1;
                        deepest = deepest.max(steps);
                        if want == Action::Allow { allowed += 1 } else { refused += 1 }
                    }
                }
            }
            assert!(allowed > 0 && refused > 0, "{name} {arch}: {allowed} allowed, {refused} refused of {calls}");
            println!("{name} {arch}: {} instructions, deepest {deepest}, {calls} calls compared", program.len());
        }
    }
}

/// seccompiler compiles the same rules independently: a mistake in the product's compiler would have to be in both.
#[test]
fn programs_say_what_seccompiler_says() {
    use seccompiler::{
        BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
        TargetArch,
    };
    for name in PROFILES {
        for arch in Arch::ALL {
            let profile = load(name, arch);
            let program = profile.compile().unwrap();
            let target = if arch == Arch::X86_64 { TargetArch::x86_64 } else { TargetArch::aarch64 };
            for (nr, verdict) in &profile.rules {
                if verdict.allow_when.is_empty() && verdict.otherwise != Action::Allow {
                    continue;
                }
                let rules = verdict.allow_when.iter().map(|list| {
                    let conditions = list.iter().map(|c| {
                        let op = match (c.equal, c.mask) {
                            (true, u32::MAX) => SeccompCmpOp::Eq,
                            (true, mask) => SeccompCmpOp::MaskedEq(mask.into()),
                            (false, u32::MAX) => SeccompCmpOp::Ne,
                            (false, mask) => panic!("{nr}: seccompiler does not support `ne` with the mask {mask:#x}"),
                        };
                        SeccompCondition::new(c.arg, SeccompCmpArgLen::Dword, op, c.value.into()).unwrap()
                    });
                    SeccompRule::new(conditions.collect()).unwrap()
                });
                let one = BTreeMap::from([(i64::from(*nr), rules.collect())]);
                let filter = SeccompFilter::new(one, SeccompAction::Trap, SeccompAction::Allow, target).unwrap();
                let theirs: Vec<Instruction> = BpfProgram::try_from(filter)
                    .unwrap()
                    .into_iter()
                    .map(|i| Instruction { code: i.code, jt: i.jt, jf: i.jf, k: i.k })
                    .collect();
                for args in probes(verdict) {
                    let ours = oracle::run(&program, arch.audit(), *nr, &args).0 == Action::Allow.value();
                    let other = oracle::run(&theirs, arch.audit(), *nr, &args).0 == Action::Allow.value();
                    assert_eq!(ours, other, "{name} {arch} {nr}({args:x?})");
                }
            }
        }
    }
}

/// Each name of each rule has an effect: without the rule the program's result differs for some call.
#[test]
fn no_rule_can_be_taken_out() {
    for name in PROFILES {
        let whole: serde_json::Value = serde_json::from_str(&json(name)).unwrap();
        for arch in Arch::ALL {
            let profile = load(name, arch);
            let program = profile.compile().unwrap();
            for (at, rule) in whole["rules"].as_array().unwrap().iter().enumerate() {
                if rule.get("arch").is_some_and(|only| *only != arch.to_string()) {
                    continue;
                }
                let mut less = whole.clone();
                less["rules"].as_array_mut().unwrap().remove(at);
                let less = Profile::load(&less.to_string(), &table(), arch).unwrap().compile().unwrap();
                for call in rule["syscalls"].as_array().unwrap() {
                    let nr = table().number(call.as_str().unwrap(), arch).unwrap();
                    let differs = |args: &[u64; 6]| {
                        let said = |program: &[Instruction]| oracle::run(program, arch.audit(), nr, args).0;
                        said(&program) != said(&less)
                    };
                    assert!(probes(&profile.rules[&nr]).iter().any(differs), "{name} {arch}: {call} of {rule}");
                }
            }
        }
    }
}

/// Numbers above `newest` do not exist for a plugin: it must be the last one in the table.
#[test]
fn newest_is_the_newest_that_was_weighed() {
    for name in PROFILES {
        for arch in Arch::ALL {
            let last = table().of(arch).map(|(_, nr)| nr).max().unwrap();
            assert_eq!(load(name, arch).newest, last, "{name} {arch}");
        }
    }
}
