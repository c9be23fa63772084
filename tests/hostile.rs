//! `check`, `explain` and `learn` on files that were made to keep them busy, to make them hang or to forge what they say. Each
//! ends in time, with an exit status that says what came of it, and writes no control character.

mod common;

use common::{Answer, Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

const TABLES: &str = "
[plugins.X]
module = \"x\"
site = false
allowed_methods = [\"run\"]
schemas = \"schemas\"
";
const FINE: &str = "class X:\n    def run(self, *args):\n        return 1\n";
/// Much more than any of these takes, and much less than what they were made to take.
const LIMIT: Duration = Duration::from_secs(25);

fn fixture(mode: Mode) -> Option<Fixture> {
    let f = Fixture::new(mode, TABLES)?;
    f.mkdir("schemas");
    f.write("schemas/run.json", "{}");
    f.python("x", FINE);
    Some(f)
}

/// Runs a command that must end by itself, in time, and whose output no terminal acts on.
#[track_caller]
fn ends(f: &Fixture, words: &[&str]) -> Answer {
    let started = Instant::now();
    let answer = f.upm(words.iter().copied()).patience(LIMIT).run();
    assert!(started.elapsed() < LIMIT, "{words:?}");
    assert!(matches!(answer.exit, Some(0 | 1 | 2 | 125 | 126 | 127)), "{words:?}: {:?}", answer.exit);
    let control = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{200b}');
    for text in [&answer.stdout, &answer.stderr] {
        assert!(!text.contains(control), "{words:?}: {text:?}");
        // nothing that a file says becomes a line of its own
        assert!(!text.lines().any(|line| line.starts_with("error: fake")), "{text}");
    }
    answer
}

fn finds(f: &Fixture, exits: &[i32]) -> Answer {
    let answer = ends(f, &["check"]);
    assert!(answer.exit.is_some_and(|exit| exits.contains(&exit)), "{exits:?}: {:?} {}", answer.exit, answer.stdout);
    answer
}

/// Sources that are deep, long, oddly encoded or empty. Whatever the reader's interpreter does, `check` reports the outcome.
#[rstest]
fn sources(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let chain: String = (1..20_000).map(|n| format!("class A{n}(A{}): pass\n", n - 1)).collect();
    let (yes, no, cannot) = (0, 1, 125);
    let cases: Vec<(&str, Vec<u8>, Vec<i32>)> = vec![
        ("parentheses", format!("x={}{}", "(".repeat(100_000), ")".repeat(100_000)).into(), vec![no]),
        ("minus", format!("x={}1", "-".repeat(1_000_000)).into(), vec![no, cannot]),
        ("calls", format!("x=a{}", "()".repeat(900_000)).into(), vec![yes, cannot]),
        ("attributes", format!("x=a{}", ".a".repeat(900_000)).into(), vec![yes, cannot]),
        ("lambdas", format!("x={}1", "lambda:".repeat(200_000)).into(), vec![no, cannot]),
        ("elif", format!("if a: pass\n{}", "elif a: pass\n".repeat(150_000)).into(), vec![no, cannot]),
        ("f-strings", format!("x={}1{}", "f\"{".repeat(60), "}\"".repeat(60)).into(), vec![no, yes]),
        ("statements", format!("{FINE}{}", "x=1\n".repeat(500_000)).into(), vec![yes, cannot]),
        ("classes", "class X: pass\n".repeat(140_000).into(), vec![yes]),
        ("methods", format!("class X:\n{}", "  def run(self): pass\n".repeat(90_000)).into(), vec![yes]),
        ("bases", format!("class A0: pass\n{chain}class X(A19999):\n  def run(self): pass\n").into(), vec![yes]),
        ("bases in a ring", "class X(Y): pass\nclass Y(X): pass\n".into(), vec![yes]),
        (
            "parameters",
            {
                let names: Vec<String> = (0..100_000).map(|n| format!("a{n}")).collect();
                format!("class X:\n  def __init__(self, {}): pass\n  def run(self): pass\n", names.join(",")).into()
            },
            vec![no],
        ),
        ("digits", format!("x={}", "9".repeat(100_000)).into(), vec![no]),
        ("longer than is read", [b"#".repeat(8 << 20), FINE.into()].concat(), vec![yes]),
        ("NUL", vec![0; 1000], vec![no]),
        ("not UTF-8", b"\xff\xfe\xfa".repeat(1000), vec![no]),
        ("not a text encoding", [b"# coding: uu_codec\n".as_slice(), FINE.as_bytes()].concat(), vec![no]),
        ("UTF-7", [b"# coding: utf-7\n".to_vec(), b"+".repeat(1_000_000)].concat(), vec![no]),
        ("an escape in an error", "class X:\n  \u{1b}[31m = 1\n".into(), vec![no]),
        ("a mark in a name", "class X:\n  def __init__(self, a\u{202e}): pass\n".into(), vec![no]),
        ("nothing", vec![], vec![no]),
        ("the control", FINE.into(), vec![yes]),
    ];
    for (name, source, exits) in cases {
        println!("{name}");
        f.write("plugins/x.py", source);
        finds(&f, &exits);
    }
}

/// Files in the place of others: one blocks its reader, one has no end, one is a link to itself.
#[rstest]
fn files(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let fifo =
        |below: &str| nix::unistd::mkfifo(&f.path(below), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    let gone = |below: &str| {
        let path = f.path(below);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    };
    let commands: [&[&str]; 4] = [
        &["check"],
        &["explain", "X", "run"],
        &["explain", "X", "run", "--may", "read /etc/hosts"],
        &["learn", "X", "run"],
    ];
    let refused = |what: &str| {
        for words in commands {
            let answer = ends(&f, words);
            assert_ne!(answer.exit, Some(0), "{what}: {words:?}: {}", answer.stdout);
        }
    };
    gone("plugins/x.py");
    fifo("plugins/x.py");
    refused("a pipe for a module");
    gone("plugins/x.py");
    symlink("x.py", f.path("plugins/x.py")).unwrap();
    refused("a link to itself for a module");
    gone("plugins/x.py");
    symlink("/dev/zero", f.path("plugins/x.py")).unwrap();
    refused("a device for a module");
    gone("plugins/x.py");
    for below in ["plugins/x/__init__.py", "plugins/x/other"] {
        f.mkdir("plugins/x");
        f.write("plugins/x/__init__.py", FINE);
        if f.path(below).exists() {
            gone(below);
        }
        fifo(below);
        refused("a pipe in a package");
        gone("plugins/x");
    }
    f.mkdir("plugins/x");
    f.write("plugins/x/__init__.py", FINE);
    symlink("loop", f.path("plugins/x/loop")).unwrap();
    refused("a ring in a package");
    gone("plugins/x");
    f.python("x", FINE);

    let schema = |what: &str| {
        let answer = ends(&f, &["check"]);
        assert_eq!(answer.exit, Some(1), "{what}: {}", answer.stdout);
        ends(&f, &["X", "run"]).failed("config_invalid", 125);
        gone("schemas/run.json");
    };
    gone("schemas/run.json");
    fifo("schemas/run.json");
    schema("a pipe for a schema");
    symlink("run.json", f.path("schemas/run.json")).unwrap();
    schema("a ring for a schema");
    symlink("/dev/zero", f.path("schemas/run.json")).unwrap();
    schema("a device for a schema");
    f.mkdir("schemas/run.json");
    schema("a directory for a schema");
    f.write("schemas/run.json", vec![b' '; (1 << 20) + 1]);
    schema("a schema that is too long");
    f.write("schemas/run.json", "{}");

    let config = std::fs::read(f.path("upm_config.toml")).unwrap();
    gone("upm_config.toml");
    fifo("upm_config.toml");
    refused("a pipe for the configuration");
    gone("upm_config.toml");
    symlink("upm_config.toml", f.path("upm_config.toml")).unwrap();
    refused("a ring for the configuration");
    gone("upm_config.toml");
    symlink("/dev/zero", f.path("upm_config.toml")).unwrap();
    refused("a device for the configuration");
    gone("upm_config.toml");
    f.write("upm_config.toml", config);
    // the control
    for words in [&["check"][..], &["explain", "X", "run"], &["learn", "X", "run"], &["X", "run"]] {
        assert_eq!(ends(&f, words).exit, Some(0), "{words:?}");
    }
}

/// More files than anybody looks at, and names that a terminal would act on.
#[rstest]
fn names_and_numbers_of_files(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let names = ["\u{1b}[31mred", "a\nerror: fake", "\u{202e}x", "%s%n", "\"", "\u{200b}"];
    for name in names {
        f.write(&format!("schemas/{name}.json"), "{}");
    }
    assert!(finds(&f, &[0]).stdout.contains("\\u{202e}x.json"));
    let told: Value = serde_json::from_str(&ends(&f, &["check", "--json"]).stdout).unwrap();
    assert!(told["findings"].as_array().unwrap().len() >= names.len());
    std::fs::remove_file(f.path("plugins/x.py")).unwrap();
    f.mkdir("plugins/x");
    f.write("plugins/x/__init__.py", FINE);
    for name in names {
        let path = f.write(&format!("plugins/x/{name}"), "");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
        finds(&f, &[1]);
        ends(&f, &["explain", "X", "run"]);
        // an answer is written for a terminal only where it goes to one
        f.upm(["X", "run"]).run().failed("config_invalid", 125);
        std::fs::remove_file(path).unwrap();
    }
    finds(&f, &[0]);
    for number in 0..30_000 {
        std::fs::write(f.path(format!("plugins/x/{number}")), "").unwrap();
        std::fs::write(f.path(format!("schemas/{number}.json")), "").unwrap();
    }
    assert!(finds(&f, &[1]).stdout.contains("more than 10000 entries"));
    ends(&f, &["explain", "X", "run"]);
    ends(&f, &["X", "run"]).failed("config_invalid", 125);
}

/// Schemas whose compilation was made to be long. Patterns are matched in time that is linear in the text.
#[rstest]
fn schemas(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let nested = |depth: usize, key: &str| (0..depth).fold(json!({}), |schema, _| json!({ key: schema }));
    let twice = |depth: usize| {
        let mut defs = serde_json::Map::new();
        for at in 0..depth {
            let next = json!({ "$ref": format!("#/$defs/a{}", at + 1) });
            defs.insert(format!("a{at}"), json!({ "allOf": [next, next] }));
        }
        defs.insert(format!("a{depth}"), json!({ "type": "object" }));
        json!({ "$ref": "#/$defs/a0", "$defs": defs })
    };
    let patterns: Vec<Value> = (0..10_000).map(|n| json!({ "pattern": format!("\\w{{{}}}", n % 60 + 20) })).collect();
    for (name, schema, exits) in [
        ("itself", json!({ "$ref": "#" }), &[0][..]),
        (
            "a ring",
            json!({ "$ref": "#/$defs/a", "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } }),
            &[0],
        ),
        ("a ring of files", json!({ "$ref": "other.json" }), &[0]),
        ("doubling references", twice(60), &[0]),
        ("deep", nested(95, "allOf"), &[0, 1]),
        ("deep not", nested(95, "not"), &[0, 1]),
        ("a pattern that grows", json!({ "pattern": "(a{1000}){1000}" }), &[1]),
        ("many patterns", json!({ "allOf": patterns }), &[0]),
        (
            "nested repetition",
            json!({ "properties": { "args": { "items": { "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" } } } }),
            &[0],
        ),
        ("the control", json!({ "type": "object" }), &[0]),
    ] {
        println!("{name}");
        f.write("schemas/run.json", schema.to_string());
        f.write("schemas/other.json", json!({ "$ref": "run.json" }).to_string());
        finds(&f, exits);
    }
    f.write(
        "schemas/run.json",
        json!({ "properties": { "args": { "items": { "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$" } } } }).to_string(),
    );
    let text = json!({ "args": ["a".repeat(5000) + "!"] }).to_string();
    ends(&f, &["X", "run", &text]).failed("arguments_invalid", 2);
}

/// A configuration of a mebibyte, which is as long as one may be.
#[rstest]
fn configurations(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    const ROOM: usize = 1_040_000;
    let list = |item: &dyn Fn(usize) -> String, count: usize| (0..count).map(item).collect::<Vec<_>>().join(",");
    let of_x = |key: &str, items: String| format!("{TABLES}{key} = [{items}]\n");
    let methods = |count| {
        format!(
            "[plugins.X]\nmodule = \"x\"\nsite = false\nallowed_methods = [{}]\n",
            list(&|n| format!("\"m{n}\""), count)
        )
    };
    let plugins = |count| {
        (0..count).map(|n| format!("[plugins.P{n}]\nexec=\"e\"\nallowed_methods=[\"m\"]\n")).collect::<String>()
    };
    for (name, text) in [
        ("dotted keys", format!("a{} = 1", ".a".repeat(ROOM / 2))),
        ("a dotted table", format!("[{}a]", "a.".repeat(ROOM / 2))),
        ("lists in lists", format!("x = {}{}", "[".repeat(ROOM / 2), "]".repeat(ROOM / 2))),
        ("tables in tables", format!("x = {}1{}", "{a=".repeat(ROOM / 5), "}".repeat(ROOM / 5))),
        ("tables of a list", "[[x]]\n".repeat(ROOM / 6)),
        ("methods", methods(ROOM / 10)),
        ("plugins", plugins(ROOM / 48)),
        ("paths to read", of_x("read", list(&|n| format!("\"/srv/a{n}\""), ROOM / 16))),
        ("paths to write", of_x("write", list(&|n| format!("\"/srv/a{n}\""), ROOM / 16))),
        ("variables", of_x("env_pass", list(&|n| format!("\"V{n}\""), ROOM / 10))),
        ("callers", of_x("callers", list(&|n| format!("\"user:u{n}\""), ROOM / 16))),
        ("hosts", format!("[egress.g]\nhosts = [{}]\n{TABLES}", list(&|n| format!("\"h{n}.x:1\""), ROOM / 16))),
        ("a key with an escape", "\"\\u001b[31m\\u202e\" = 1\n".to_owned()),
        ("a value with an escape", of_x("syscalls", "\"\\u001b[31m\"".to_owned())),
        ("not UTF-8 in a way", "x = \"\u{202e}\u{1b}\"".to_owned()),
    ] {
        println!("{name}");
        f.write("upm_config.toml", text);
        for words in [&["check"][..], &["explain", "X", "run"], &["X", "run"]] {
            assert_eq!(ends(&f, words).exit, Some(125), "{name}: {words:?}");
        }
    }
    // the controls: as much as is taken is looked at in time
    for (name, text, exits) in [
        ("a long comment", format!("#{}\n{}{TABLES}", "a".repeat(ROOM), f.config_head()), &[0][..]),
        ("methods", format!("{}{}", f.config_head(), methods(2000)), &[0, 1]),
        ("paths", format!("{}{}", f.config_head(), of_x("read", list(&|n| format!("\"/srv/a{n}\""), 2000))), &[1]),
        (
            "groups",
            format!(
                "{}{}{TABLES}",
                f.config_head(),
                (0..10_000).map(|n| format!("[egress.g{n}]\nhosts=[\"h.x:1\"]\n")).collect::<String>()
            ),
            &[0],
        ),
    ] {
        println!("{name}");
        f.write("upm_config.toml", text);
        finds(&f, exits);
    }
}

const READS: &str = r#"
import ctypes
import os


class X:
    def run(self, *args):
        libc = ctypes.CDLL(None, use_errno=True)
        for address in (0, 1, 4095, 0xffff_ffff_ffff, 0xffff_8000_0000_0000, 2**64 - 1, 2**63):
            for call in (2, 257, 4, 21):
                libc.syscall(call, ctypes.c_ulong(address), ctypes.c_ulong(address), ctypes.c_ulong(0), ctypes.c_ulong(0))
            libc.syscall(42, 0, ctypes.c_ulong(address), ctypes.c_ulong(2**32 - 1))
        page = os.sysconf("SC_PAGE_SIZE")
        space = ctypes.create_string_buffer(b"/" + b"x" * 20000)
        libc.open(space, 0)
        for name in (b"/\xff\xfe", b"/" + b"a" * 300, b"/" + b"a/" * 3000, b"/a\nb\x1b[31m", b"\xe2\x80\xae", b"/srv/\"]\nwrite = [\"/etc"):
            for act in (os.stat, os.listdir, lambda n: os.open(n, os.O_RDWR | os.O_CREAT), os.mkdir, os.chdir):
                try:
                    act(name)
                except (OSError, ValueError):
                    pass
        for fd in (-1, -100, 0, 3, 255, 2**31 - 1):
            libc.openat(fd, b"relative/../x", 0)
        return 1
"#;

/// What the observer reads is the plugin's: addresses that lead nowhere, strings without an end, names that are none.
#[rstest]
fn memory_of_a_hostile_plugin(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    f.python("x", READS);
    let answer = ends(&f, &["learn", "X", "run"]);
    assert_eq!(answer.exit, Some(0), "{}", answer.stderr);
    assert!(!answer.stdout.contains("\n+write"), "{}", answer.stdout);
    let told: Value = serde_json::from_str(&ends(&f, &["learn", "X", "run", "--json"]).stdout).unwrap();
    assert_eq!((&told["call"]["data"]["result"], &told["change"]), (&json!(1), &Value::Null), "{told:#}");
    // names that a configuration could not say are counted
    assert!(told["not_listed"].as_u64().unwrap() > 0, "{told:#}");
    f.assert_clean();
}
