//! Invalid profiles.

use super::*;

/// A profile with `rules`, as JSON.
fn profile(rules: &str) -> String {
    format!(
        r#"{{"comment": "c", "newest": {{"x86_64": 469, "aarch64": 469}}, "newer": "ENOSYS", "foreign": "ENOSYS",
            "otherwise": "notify", "rules": [{rules}]}}"#
    )
}

fn error(json: &str) -> String {
    Profile::load(json, &table(), Arch::X86_64).map(|p| panic!("loaded: {p:?}")).unwrap_err().0
}

#[test]
fn loading_is_strict() {
    let rule = |rest: &str| profile(&format!(r#"{{"syscalls": ["read"], "comment": "c"{rest}}}"#));
    let when = |condition: &str| rule(&format!(r#", "when": [{{{condition}}}]"#));
    let good = rule("");
    let fixed = |entry: &str| good.replacen("\"rules\"", &format!("\"fixed\": [{entry}], \"rules\""), 1);
    Profile::load(&good, &table(), Arch::X86_64).unwrap();
    for (json, want) in [
        (profile(""), "the profile has no rules: it would deny every call"),
        (profile(r#"{"syscalls": [], "comment": "c"}"#), r#"a rule names no system call (comment "c")"#),
        (good.replace("read", "raed"), r#"rule of "raed" ("c"): "raed" is not a system call of x86_64"#),
        (good.replace("read", "open"), r#"rule of "open" ("c"): "open" is not a system call of aarch64"#),
        (rule(r#", "when": []"#), r#"rule of "read" ("c"): `when` is empty: leave it out"#),
        (
            rule(r#", "action": "EPERM", "when": [{"arg": 0, "eq": 1}]"#),
            r#"rule of "read" ("c"): a rule with `when` allows; put the other action in a rule without"#,
        ),
        (
            good.replace("[\"read\"]", "[\"read\", \"read\"]"),
            r#"rule of "read" ("c"): "read" already has a rule without `when`"#,
        ),
        (rule(r#", "action": "notify""#), "system call 0 of x86_64: its rule repeats `otherwise`"),
        (
            good.replace("read", "file_setattr").replace("469", "468"),
            r#"rule of "file_setattr" ("c"): "file_setattr" is 469, above `newest` of x86_64"#,
        ),
        (
            good.replace(r#""otherwise": "notify""#, r#""otherwise": "allow""#),
            "`newer`, `foreign` and `otherwise` cannot be `allow`: a profile is an allow list",
        ),
        (fixed(r#"{"syscalls": ["muont"], "comment": "c"}"#), r#"`fixed`: "muont" is not a system call"#),
        (fixed(r#"{"syscalls": ["mount", "mount"], "comment": "c"}"#), r#"`fixed` names "mount" twice"#),
        (
            fixed(r#"{"syscalls": ["read"], "comment": "c"}"#),
            "`fixed` names \"read\", which is always allowed: there is nothing to add",
        ),
    ] {
        assert_eq!(error(&json), want, "{json}");
    }
    // for an error in the file itself, the message has line and column
    for (json, part) in [
        (when(r#""arg": 6, "eq": 1"#), "argument 6 does not exist: 0–5 at line 2"),
        (when(r#""arg": 0, "eq": 1, "ne": 2"#), "argument 0: exactly one of `eq` and `ne`"),
        (when(r#""arg": 0"#), "argument 0: exactly one of `eq` and `ne`"),
        (when(r#""arg": 0, "mask": 6, "eq": 1"#), "argument 0: 0x1 has bits outside the mask 0x6"),
        (when(r#""arg": 0, "mask": 0, "eq": 0"#), "argument 0: the mask is zero"),
        (when(r#""arg": 0, "eq": 1, "eq": 2"#), "duplicate field `eq`"),
        (when(r#""arg": 0, "gt": 1"#), "unknown field `gt`"),
        (when(r#""arg": 0, "eq": "12""#), "\"12\" starts with neither 0x nor 0o"),
        (when(r#""arg": 0, "eq": "0xg""#), "\"0xg\": invalid digit"),
        (when(r#""arg": 0, "eq": 4294967296"#), "expected a 32-bit number"),
        (when(r#""arg": 0, "eq": -1"#), "expected a 32-bit number"),
        (when(r#""arg": 0, "eq": 1.0"#), "expected a 32-bit number"),
        (profile(r#"{"syscalls": ["read"]}"#), "missing field `comment`"),
        (good.replacen("\"rules\"", "\"comment\": \"d\", \"rules\"", 1), "duplicate field `comment`"),
        (rule(r#", "comment": "d""#), "duplicate field `comment`"),
        (rule(r#", "args": 1"#), "unknown field `args`"),
        (rule(r#", "arch": "riscv64""#), "unknown variant `riscv64`"),
        (rule(r#", "action": "yes""#), "\"yes\" is not an action at line 2"),
        (good.replace(r#""foreign": "ENOSYS""#, r#""foreign": "ignore""#), "\"ignore\" is not an action"),
        (good.replace("469", "400, \"x86_64\": 3"), "duplicate field `x86_64`"),
        (good.replacen("\"comment\"", "\"newer\": \"EPERM\", \"comment\"", 1), "duplicate field `newer`"),
        (good.clone() + "x", "trailing characters"),
        (good.replacen(r#""comment": "c""#, r#""comment": """#, 1), "the comment is empty at line 1"),
        (profile(r#"{"syscalls": ["read"], "comment": " "}"#), "the comment is empty at line 2"),
        (fixed(r#"{"syscalls": ["mount"], "comment": ""}"#), "the comment is empty"),
        (fixed(r#"{"syscalls": ["mount"]}"#), "missing field `comment`"),
    ] {
        let said = error(&json);
        assert!(said.contains(part), "{json}: {said}");
    }
}

#[test]
fn the_table_is_strict() {
    for (text, want) in [
        ("read 0", "\"read 0\" is not a name and two numbers"),
        ("read 0 63 1", "\"read 0 63 1\" is not a name and two numbers"),
        ("read 0 x", "\"read 0 x\": \"x\" is not a number"),
        ("read 0 63\nwrite 0 64", "\"write 0 64\": 0 already has a name"),
        ("read 0 63\nread 1 64", "\"read\" occurs twice"),
    ] {
        assert_eq!(Table::parse(text).unwrap_err().0, format!("syscalls.tbl: {want}"));
    }
}

#[test]
fn redundant_rules_do_not_load() {
    let two = |a: &str, b: &str| {
        profile(&format!(
            r#"{{"syscalls": ["ioctl"], "comment": "a", "when": [{a}]}}, {{"syscalls": ["ioctl"], "comment": "b", "when": [{b}]}}"#
        ))
    };
    let covered = "other rules' `when` cover this one";
    for (a, b, which) in [
        (r#"{"arg": 1, "eq": 5}"#, r#"{"arg": 1, "eq": 5}"#, "b"),
        (r#"{"arg": 1, "eq": 5}"#, r#"{"arg": 1, "eq": 5}, {"arg": 2, "eq": 0}"#, "b"),
        (r#"{"arg": 1, "eq": 5}, {"arg": 2, "eq": 0}"#, r#"{"arg": 2, "eq": 0}"#, "a"),
        (r#"{"arg": 1, "mask": 4, "eq": 4}"#, r#"{"arg": 1, "eq": 5}"#, "b"),
        (r#"{"arg": 1, "ne": 7}"#, r#"{"arg": 1, "eq": 5}"#, "b"),
        (r#"{"arg": 1, "mask": 6, "ne": 6}"#, r#"{"arg": 1, "mask": 2, "eq": 0}"#, "b"),
    ] {
        let want = format!(r#"rule of "ioctl" ("{which}"): "ioctl": {covered}"#);
        assert_eq!(error(&two(a, b)), want, "{a} {b}");
    }
    for (a, b) in [
        (r#"{"arg": 1, "eq": 5}"#, r#"{"arg": 1, "eq": 6}"#),
        (r#"{"arg": 1, "mask": 4, "eq": 0}"#, r#"{"arg": 1, "eq": 5}"#),
        (r#"{"arg": 0, "ne": 5}"#, r#"{"arg": 1, "ne": 5}"#),
        (
            r#"{"arg": 1, "eq": 5}, {"arg": 2, "eq": 0}"#,
            r#"{"arg": 1, "eq": 5}, {"arg": 2, "ne": 0}, {"arg": 2, "ne": 4}"#,
        ),
    ] {
        Profile::load(&two(a, b), &table(), Arch::X86_64).unwrap();
    }
    // no single rule covers the last one, or allows everything; together they do
    let rule = |name: &str, when: &str| format!(r#"{{"syscalls": ["ioctl"], "comment": "{name}", "when": [{when}]}}"#);
    let together = [
        rule("a", r#"{"arg": 1, "mask": 1, "eq": 0}, {"arg": 2, "eq": 0}"#),
        rule("b", r#"{"arg": 1, "mask": 1, "eq": 1}, {"arg": 2, "mask": 255, "eq": 0}"#),
    ];
    Profile::load(&profile(&together.join(",")), &table(), Arch::X86_64).unwrap();
    let third = format!("{},{}", together.join(","), rule("c", r#"{"arg": 2, "eq": 0}"#));
    assert_eq!(error(&profile(&third)), r#"rule of "ioctl" ("c"): "ioctl": other rules' `when` cover this one"#);
    for (a, b) in [
        (r#"{"arg": 1, "ne": 5}"#, r#"{"arg": 1, "eq": 5}"#),
        (r#"{"arg": 1, "mask": 1, "eq": 0}"#, r#"{"arg": 1, "mask": 1, "eq": 1}"#),
        (r#"{"arg": 1, "ne": 5}"#, r#"{"arg": 1, "ne": 6}"#),
    ] {
        let always = "with it the call is always allowed, so the `when`s are redundant";
        assert_eq!(error(&two(a, b)), format!(r#"rule of "ioctl" ("b"): "ioctl": {always}"#), "{a} {b}");
    }
    for (when, what) in [
        (r#"{"arg": 1, "eq": 5}, {"arg": 1, "eq": 6}"#, "its `when` never holds"),
        (r#"{"arg": 1, "mask": 3, "eq": 1}, {"arg": 1, "mask": 6, "eq": 2}"#, "its `when` never holds"),
        (
            r#"{"arg": 1, "mask": 1, "eq": 0}, {"arg": 1, "mask": 3, "ne": 0}, {"arg": 1, "mask": 3, "ne": 2}"#,
            "its `when` never holds",
        ),
        (r#"{"arg": 1, "eq": 5}, {"arg": 1, "ne": 7}"#, "a condition of its `when` follows from the others"),
        (r#"{"arg": 1, "eq": 5}, {"arg": 1, "mask": 4, "eq": 4}"#, "a condition of its `when` follows from the others"),
        (r#"{"arg": 1, "ne": 5}, {"arg": 1, "ne": 5}"#, "a condition of its `when` follows from the others"),
    ] {
        assert_eq!(error(&profile(&rule("a", when))), format!(r#"rule of "ioctl" ("a"): "ioctl": {what}"#), "{when}");
    }
    let some = rule("a", r#"{"arg": 1, "eq": 5}"#);
    for (plain, want) in [
        (
            r#"{"syscalls": ["ioctl"], "comment": "b"}"#,
            "system call 16 of x86_64: always allowed, so its `when` is redundant",
        ),
        (
            r#"{"syscalls": ["ioctl"], "comment": "b", "action": "notify"}"#,
            "system call 16 of x86_64: its rule without `when` repeats `otherwise`",
        ),
    ] {
        assert_eq!(error(&profile(&format!("{some},{plain}"))), want);
    }
    Profile::load(
        &profile(&format!(r#"{some},{{"syscalls": ["ioctl"], "comment": "b", "action": "ENOTTY"}}"#)),
        &table(),
        Arch::X86_64,
    )
    .unwrap();
}
