//! Each rule of `seccomp/default.json`, both ways, by real calls in the sandbox of a real run of `upm`.
//!
//! A call that a rule allows is not denied, and has the same result as outside. A call that its `when` does not cover, or that
//! the profile does not name, is denied. The probe knows how to try each call without harm (`tests/probe/src/rules.rs`).

mod common;

use common::{Fixture, Mode};
use rstest::rstest;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

const ARCH: &str = std::env::consts::ARCH;

/// The supervisor keeps 100 denials of a call: up to this many tries can be found again.
const TRIES_A_CALL: usize = 90;

/// One comparison of a `when`, of the low half of an argument.
#[derive(Debug, Clone, Copy)]
struct Condition {
    arg: usize,
    mask: u32,
    equal: bool,
    value: u32,
}

impl Condition {
    fn of(raw: &Value) -> Condition {
        let number = |key: &str| raw.get(key).map(number);
        Condition {
            arg: usize::try_from(raw["arg"].as_u64().unwrap()).unwrap(),
            mask: number("mask").unwrap_or(u32::MAX),
            equal: raw.get("eq").is_some(),
            value: number("eq").or_else(|| number("ne")).unwrap_or_else(|| panic!("{raw}: neither eq nor ne")),
        }
    }

    fn holds(&self, args: &[u64; 6]) -> bool {
        let low = (args[self.arg] & 0xffff_ffff) as u32;
        (low & self.mask == self.value) == self.equal
    }

    /// The nearest values of the argument that do not meet this: one bit away each, the last one also with the high half set,
    /// which the kernel ignores.
    fn nearly(&self) -> Vec<u64> {
        if !self.equal {
            return vec![self.value.into(), u64::from(self.value) | 0xffff_ffff << 32];
        }
        let mut near: Vec<u64> =
            (0..32).filter(|bit| self.mask & 1 << bit != 0).map(|bit| u64::from(self.value ^ 1 << bit)).collect();
        near.extend(near.last().map(|last| last | 0xffff_ffff << 32));
        near
    }
}

fn number(value: &Value) -> u32 {
    let parsed = match value.as_str().map(|text| text.split_at(2)) {
        Some(("0x", hex)) => u32::from_str_radix(hex, 16).ok(),
        Some(("0o", octal)) => u32::from_str_radix(octal, 8).ok(),
        _ => value.as_u64().and_then(|n| u32::try_from(n).ok()),
    };
    parsed.unwrap_or_else(|| panic!("{value} is no number of 32 bits"))
}

/// The profile's rules for one call on this architecture.
#[derive(Default)]
struct Call {
    nr: u32,
    /// The `when` of each rule, with its comment.
    when: Vec<(Vec<Condition>, String)>,
    /// The rule without `when`: its action.
    plain: Option<String>,
}

impl Call {
    fn allows(&self, args: &[u64; 6]) -> bool {
        self.when.iter().any(|(list, _)| list.iter().all(|c| c.holds(args)))
    }

    /// Arguments that only rule `at` allows.
    fn only(&self, at: usize) -> [u64; 6] {
        let own = &self.when[at].0;
        let places: BTreeSet<usize> = self.when.iter().flat_map(|(list, _)| list).map(|c| c.arg).collect();
        let mut found = vec![[0_u64; 6]];
        for place in places {
            let here = self.when.iter().flat_map(|(list, _)| list).filter(|c| c.arg == place);
            // first meet this rule, then fail the others
            let mut values: Vec<u64> =
                own.iter().filter(|c| c.arg == place && c.equal).map(|c| c.value.into()).collect();
            values.extend(here.flat_map(|c| [0, u64::from(c.mask & 0o7777), u64::from(c.value) ^ 1, c.value.into()]));
            let mut seen = BTreeSet::new();
            values.retain(|v| seen.insert(*v));
            found = found
                .iter()
                .flat_map(|args| {
                    values.iter().map(|v| {
                        let mut next = *args;
                        next[place] = *v;
                        next
                    })
                })
                .filter(|args| own.iter().filter(|c| c.arg <= place).all(|c| c.holds(args)))
                .collect();
        }
        let others = |args: &[u64; 6]| {
            self.when.iter().enumerate().any(|(i, (list, _))| i != at && list.iter().all(|c| c.holds(args)))
        };
        found.into_iter().find(|args| !others(args)).unwrap_or_else(|| {
            panic!("rule {:?}: this test finds no arguments that it alone allows: extend Call::only", self.when[at].1)
        })
    }

    /// The arguments that rules use.
    fn looked_at(&self, args: &[u64; 6]) -> Map<String, Value> {
        let places: BTreeSet<usize> = self.when.iter().flat_map(|(list, _)| list).map(|c| c.arg).collect();
        places.into_iter().map(|at| (at.to_string(), json!(args[at]))).collect()
    }
}

/// One try of one call.
struct Try {
    name: String,
    act: Value,
    /// The arguments that distinguish it from the other tries of this call.
    args: Map<String, Value>,
    /// The rule that is tested.
    rule: String,
}

fn attempt(name: &str, call: &Call, args: Map<String, Value>, rule: &str) -> Try {
    Try { name: name.to_owned(), act: json!(["rule", name, call.nr, args]), args, rule: rule.to_owned() }
}

/// The profile's head, its calls by name, and all names and numbers of this architecture.
fn profile() -> (Value, BTreeMap<String, Call>, BTreeMap<String, u32>) {
    let read = |name: &str| std::fs::read_to_string(common::repository().join("seccomp").join(name)).unwrap();
    let numbers: BTreeMap<String, u32> = upm::sys::syscalls::all().map(|(nr, name)| (name.to_owned(), nr)).collect();
    let mut head: Value = serde_json::from_str(&read("default.json")).unwrap();
    let rules = head["rules"].take();
    let mut calls: BTreeMap<String, Call> = BTreeMap::new();
    for rule in rules.as_array().unwrap() {
        if rule.get("arch").is_some_and(|only| only != ARCH) {
            continue;
        }
        for name in rule["syscalls"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            let call = calls.entry(name.to_owned()).or_default();
            call.nr = numbers[name];
            match rule.get("when") {
                Some(list) => {
                    let list = list.as_array().unwrap().iter().map(Condition::of).collect();
                    call.when.push((list, rule["comment"].as_str().unwrap().to_owned()));
                }
                None => call.plain = Some(rule.get("action").map_or("allow", |a| a.as_str().unwrap()).to_owned()),
            }
        }
    }
    (head, calls, numbers)
}

/// The tries' answers in the sandbox, each with the denials of its call of `upm`.
fn inside(f: &Fixture, tries: &[Try]) -> Vec<(Value, Value)> {
    let mut all = Vec::new();
    for some in tries.chunks(TRIES_A_CALL) {
        let answer = f.run("batch", some.iter().map(|one| one.act.clone()).collect());
        let data = answer.data();
        assert_eq!(data.get("denials_dropped").and_then(Value::as_u64).unwrap_or(0), 0, "{data:#}");
        let answers = answer.result()["answers"].as_array().unwrap().clone();
        assert_eq!(answers.len(), some.len());
        all.extend(answers.into_iter().map(|one| (one, data["denials"].clone())));
    }
    for (one, (answer, _)) in tries.iter().zip(&all) {
        assert_tried(one, answer);
    }
    all
}

/// The same tries on the host, as the caller.
fn outside(f: &Fixture, tries: &[Try]) -> Vec<Value> {
    let mut all = Vec::new();
    for some in tries.chunks(500) {
        let answer = f.control("batch", some.iter().map(|one| one.act.clone()).collect());
        all.extend(answer["answers"].as_array().unwrap().iter().cloned());
    }
    assert_eq!(all.len(), tries.len());
    for (one, answer) in tries.iter().zip(&all) {
        assert_tried(one, answer);
    }
    all
}

#[track_caller]
fn assert_tried(one: &Try, answer: &Value) {
    assert_ne!(
        answer["errno"],
        json!(-1),
        "seccomp/default.json, rule {:?}: the probe could not try {}: {}",
        one.rule,
        one.name,
        answer["message"].as_str().unwrap_or("no reason")
    );
}

/// The result in one word: `EBADF`, `worked`, `signal 11`.
fn how(answer: &Value) -> String {
    answer["errno_name"].as_str().or(answer["how"].as_str()).map_or_else(|| answer.to_string(), str::to_owned)
}

/// Whether the result is the same inside and outside. `rt_sigreturn` reads its stack as a signal frame: it ends by a random signal, or on
/// aarch64 works, but not by the filter's.
fn alike(name: &str, inside: &Value, outside: &Value) -> bool {
    let (inside, outside) = (how(inside), how(outside));
    inside == outside || name == "rt_sigreturn" && inside != "signal 31"
}

/// The count of each operation of some denials.
fn counts(denials: &Value) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for one in denials.as_array().unwrap() {
        assert_eq!(one["layer"], "seccomp", "{one:#}");
        *counts.entry(one["operation"].as_str().unwrap().to_owned()).or_default() += one["count"].as_u64().unwrap();
    }
    counts
}

/// Checks that every answer is the filter's `refusal` of the try's call: the error by name, or `EPERM` and a denial with
/// the call and the arguments that rules use. Nothing else is denied.
#[track_caller]
fn assert_refused(tries: &[Try], answers: &[(Value, Value)], refusal: impl Fn(&str) -> String) {
    for (some, answers) in tries.chunks(TRIES_A_CALL).zip(answers.chunks(TRIES_A_CALL)) {
        let denials = &answers[0].1;
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for (one, (answer, _)) in some.iter().zip(answers) {
            let wanted = refusal(&one.name);
            let error = if wanted == "notify" { "EPERM" } else { wanted.as_str() };
            assert_eq!(how(answer), error, "{} {:?}, near rule {:?}", one.name, one.args, one.rule);
            if wanted == "notify" {
                *expected.entry(one.name.clone()).or_default() += 1;
                // modes are written in octal, as in the profile
                let equal = |shown: &Value, value: &Value| {
                    shown == value || value.as_u64().is_some_and(|value| *shown == format!("{value:#o}"))
                };
                let tells = |denial: &&Value| {
                    let shown = denial["object"].as_object().unwrap();
                    denial["operation"] == *one.name && one.args.values().all(|v| shown.values().any(|o| equal(o, v)))
                };
                assert!(
                    denials.as_array().unwrap().iter().any(|denial| tells(&denial)),
                    "{} {:?}: no denial tells it: {denials:#}",
                    one.name,
                    one.args
                );
            }
        }
        assert_eq!(counts(denials), expected);
    }
}

#[rstest]
fn what_a_rule_allows_is_let_through(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let (_, calls, _) = profile();
    let mut tries = Vec::new();
    for (name, call) in &calls {
        for (at, (list, rule)) in call.when.iter().enumerate() {
            let args = call.only(at);
            tries.push(attempt(name, call, call.looked_at(&args), rule));
            // the kernel uses only 32 bits of these arguments
            tries.push(attempt(name, call, call.looked_at(&args.map(|arg| arg | 0xffff_ffff << 32)), rule));
            // and a rule with a mask ignores the other bits
            let mut others = args;
            for c in list.iter().filter(|c| c.equal) {
                others[c.arg] |= u64::from(!c.mask);
            }
            if others != args {
                tries.push(attempt(name, call, call.looked_at(&others), rule));
            }
        }
        if call.plain.as_deref() == Some("allow") {
            tries.push(attempt(name, call, Map::new(), "without when"));
        }
    }
    assert!(tries.len() > 400, "{}", tries.len());
    let answers = inside(&f, &tries);
    let control = outside(&f, &tries);
    for ((one, (answer, denials)), control) in tries.iter().zip(&answers).zip(&control) {
        assert_eq!(denials, &json!([]), "all of these are allowed");
        assert!(
            alike(&one.name, answer, control),
            "{} {:?}, rule {:?}: {} inside, {} outside",
            one.name,
            one.args,
            one.rule,
            how(answer),
            how(control)
        );
    }
}

#[rstest]
fn what_a_rule_does_not_cover_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let (head, calls, _) = profile();
    let mut tries = Vec::new();
    for (name, call) in &calls {
        for (at, (conditions, rule)) in call.when.iter().enumerate() {
            let args = call.only(at);
            let before = tries.len();
            for condition in conditions {
                for near in condition.nearly() {
                    let mut args = args;
                    // bits that this condition ignores stay unchanged: another one may use them
                    args[condition.arg] = near | args[condition.arg] & !u64::from(condition.mask);
                    if !call.allows(&args) {
                        tries.push(attempt(name, call, call.looked_at(&args), rule));
                    }
                }
            }
            assert!(tries.len() > before, "{name}, rule {rule:?}: nothing near it is refused");
        }
    }
    // alternatives of one call can have the same neighbours
    let mut seen = BTreeSet::new();
    tries.retain(|one| seen.insert(one.act.to_string()));
    let refusal =
        |name: &str| calls[name].plain.clone().unwrap_or_else(|| head["otherwise"].as_str().unwrap().to_owned());
    let answers = inside(&f, &tries);
    assert_refused(&tries, &answers, refusal);
    // the kernel itself denies only these with the same error
    for ((one, (answer, _)), control) in tries.iter().zip(&answers).zip(outside(&f, &tries)) {
        let arg = |at: &str| one.args[at].as_u64().unwrap();
        let kernels_own = match one.name.as_str() {
            // S_IFDIR
            "mknod" => arg("1") == 0o040_000,
            "mknodat" => arg("2") == 0o040_000,
            // families that this kernel does not support; not AF_UNIX or AF_INET, where only types and protocols differ
            "socket" => ![1, 2].contains(&(arg("0") & 0xffff_ffff)),
            // PR_CAPBSET_DROP, SET_SECUREBITS, SET_MM, SET_IO_FLUSHER, GET_IO_FLUSHER need a capability
            "prctl" => [24, 28, 35, 57, 58].contains(&arg("0")),
            // so does each namespace except that of users, which the host may deny
            "clone" => mode == Mode::User,
            // for root's processes, such as the host's pid 1
            "setpriority" | "ioprio_set" | "prlimit64" => mode == Mode::User,
            name if name.starts_with("sched_set") => mode == Mode::User,
            _ => false,
        };
        assert!(
            how(answer) != how(&control) || kernels_own,
            "{} {:?}, near rule {:?}: {} outside too",
            one.name,
            one.args,
            one.rule,
            how(&control)
        );
    }
}

#[rstest]
fn what_is_refused_whatever_its_arguments(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let (_, calls, _) = profile();
    let refused = |call: &Call| call.plain.as_deref().is_some_and(|action| action != "allow");
    let tries: Vec<Try> = calls
        .iter()
        .filter(|(_, call)| refused(call))
        .map(|(name, call)| attempt(name, call, Map::new(), "without when"))
        .collect();
    let answers = inside(&f, &tries);
    assert_refused(&tries, &answers, |name| calls[name].plain.clone().unwrap());
    let mut differ = BTreeSet::new();
    for ((one, (answer, _)), control) in tries.iter().zip(&answers).zip(outside(&f, &tries)) {
        if how(answer) != how(&control) {
            differ.insert(one.name.as_str());
        }
    }
    // this kernel supports at least these
    for name in ["clone3", "openat2", "io_uring_enter", "landlock_add_rule", "socketpair"] {
        assert!(differ.contains(name), "{name} is refused outside too");
    }
}

#[rstest]
fn what_no_rule_names_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let (head, calls, numbers) = profile();
    let newest = u32::try_from(head["newest"][ARCH].as_u64().unwrap()).unwrap();
    let names: BTreeMap<u32, &String> = numbers.iter().map(|(name, nr)| (*nr, name)).collect();
    let ruled: BTreeSet<u32> = calls.values().map(|call| call.nr).collect();
    let unnamed = |nr: u32| {
        let name = names.get(&nr).map_or_else(|| format!("syscall_{nr}"), |name| (*name).clone());
        Try { name, act: json!(["try", nr, -1, -1, -1, -1, -1, -1]), args: Map::new(), rule: "none".to_owned() }
    };
    let tries: Vec<Try> = (0..=newest).filter(|nr| !ruled.contains(nr)).map(unnamed).collect();
    let answers = inside(&f, &tries);
    assert_refused(&tries, &answers, |_| head["otherwise"].as_str().unwrap().to_owned());
    // outside, as a user who can do no harm; these need no capability
    if mode == Mode::User {
        let control = outside(&f, &tries);
        for wanted in ["shmget", "memfd_create", "syncfs", "keyctl", "add_key", "unshare", "setns", "process_vm_readv"]
        {
            let at = tries.iter().position(|one| one.name == wanted).unwrap_or_else(|| panic!("{wanted} has a rule"));
            assert_ne!(how(&control[at]), "EPERM", "{wanted} outside");
        }
    }

    let tries: Vec<Try> = [newest + 1, newest + 100, 4095, 0x4000_0000, 0x4000_0000 | newest].map(unnamed).into();
    assert_refused(&tries, &inside(&f, &tries), |_| head["newer"].as_str().unwrap().to_owned());
}
