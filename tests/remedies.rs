//! Every remedy in an answer is added to the configuration, in TOML and in JSON, and `upm check` accepts it.

mod common;

use common::{Answer, Fixture, Mode, Server, is_root};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::BTreeSet;

const PLUGIN: &str = r#"
import os
import socket


class Tries:
    def paths(self, path, write):
        with open(path, "w" if write else "r"):
            pass

    def names(self, *names):
        for name in names:
            try:
                socket.getaddrinfo(name, 443)
            except (OSError, UnicodeError):
                pass

    def dial(self, name, port, send):
        with socket.create_connection((name, port), 2) as s:
            s.sendall(bytes.fromhex(send))
            s.recv(10)

    def memory(self):
        return len(bytearray(300 << 20))

    def files(self):
        return len([open("/dev/null") for _ in range(100)])

    def big(self):
        with open("/tmp/big", "wb") as f:
            f.write(b"x" * (3 << 20))

    def out(self):
        print("x" * 10000)
        return "y" * 10000

    def sleep(self):
        import time
        time.sleep(3)
"#;

const METHODS: [&str; 8] = ["paths", "names", "dial", "memory", "files", "big", "out", "sleep"];

/// The configuration of this test as a document, to merge a remedy into it.
fn base(f: &Fixture, port: u16) -> Value {
    json!({
        "project_root": "project", "cache_dir": "cache", "plugin_paths": ["plugins"],
        "audit": { "journald": "off", "file": f.text("audit/audit.jsonl") },
        "egress": {
            "first": { "hosts": [format!("*.good.test:{port}")], "allow_private": true },
            "shut": { "hosts": [format!("other.test:{port}"), "private.test:80"], "tls": false },
        },
        "plugins": {
            "Probe": { "exec": "plugins/upm-probe", "allowed_methods": ["run"], "syscalls": ["ptrace"], "read": ["{project_root}"] },
            "Tries": {
                "module": "tries", "site": false, "read": [f.text("open")], "allowed_methods": METHODS, "memory": "200MiB", "open_files": 32,
                "file_size": "2MiB", "output": "1KiB", "result": "4KiB", "timeout": "2s", "egress": ["shut", "first"],
            },
        },
    })
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}

/// Every string with the key `remedy`, anywhere in an answer.
fn remedies(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| match (key.as_str(), value) {
            ("remedy", Value::String(text)) => drop(found.insert(text.clone())),
            _ => remedies(value, found),
        }),
        Value::Array(items) => items.iter().for_each(|item| remedies(item, found)),
        _ => {}
    }
}

fn write(f: &Fixture, config: &Value, is_json: bool) {
    match is_json {
        true => f.write("c.json", config.to_string()),
        false => f.write("c.toml", toml::to_string(config).unwrap()),
    };
}

#[rstest]
fn every_remedy_is_one_that_check_takes(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values(false, true)] is_json: bool,
) {
    let Some(f) = Fixture::bare(mode) else { return };
    if !is_root() {
        return common::skip("a made-up /etc/hosts needs root");
    }
    let server = Server::start();
    f.python("tries", PLUGIN);
    f.write("hosts", "127.0.0.1 localhost good.test a.good.test other.test\n10.1.2.3 private.test\n");
    for dir in ["data", "data/in", "odd/a b", "odd/q\"uote", "odd/back\\slash", "odd/new\nline", "odd/{x}", "open"] {
        f.mkdir(dir);
        f.write(&format!("{dir}/file"), "x");
    }
    f.of_another("open");
    std::os::unix::fs::symlink(f.path("data"), f.path("link")).unwrap();
    let config = base(&f, server.port);
    write(&f, &config, is_json);
    let file = if is_json { "c.json" } else { "c.toml" };
    let check = || f.upm(["check", "--json", "--config", file]).hosts("hosts").run();
    let before = check();
    assert_eq!(before.exit, Some(0), "{}", before.stdout);

    let call = |plugin: &str, method: &str, args: Value| -> Answer {
        f.upm(["--config", file, plugin, method, &json!({ "args": args }).to_string()]).hosts("hosts").run()
    };
    let mut found = BTreeSet::new();
    let mut take = |answer: Answer| {
        remedies(&answer.envelope()["data"]["denials"], &mut found);
        remedies(&answer.envelope()["data"]["details"], &mut found);
    };
    for name in [
        "kcmp",
        "mount",
        "bpf",
        "io_uring_setup",
        "userfaultfd",
        "perf_event_open",
        "add_key",
        "swapon",
        "keyctl",
        "acct",
    ] {
        take(call("Probe", "run", json!(["privileged", name])));
    }
    take(call("Probe", "run", json!(["fork_bomb", 200, 300])));
    take(call("Probe", "run", json!(["write_big", "/tmp/big", 400])));
    for method in ["memory", "files", "big", "out", "sleep"] {
        take(call("Tries", method, json!([])));
    }
    let paths = [
        "data/file",
        "data/in/file",
        "data/none",
        "odd/a b/file",
        "odd/q\"uote/file",
        "odd/back\\slash/file",
        "odd/new\nline/file",
        "odd/{x}/file",
        "open/file",
        "open/new",
        "open/none/new",
        "link/file",
        "plugins/tries.py",
        "c.toml",
        "audit/x",
        "cache/x",
        "project/x",
        "home/.ssh/x",
        "",
    ];
    let system = [
        "/etc/shadow",
        "/etc/cron.d/x",
        "/usr/bin/x",
        "/root/x",
        "/proc/1/mem",
        "/dev/sda",
        "/run/x",
        "/sys/x",
        "/",
        "/home/x",
        "/var/lib/x",
        "/srv/none",
        "//etc//hosts/../shadow",
        "relative",
        "/x",
    ];
    for path in paths.iter().map(|path| f.text(path)).chain(system.map(str::to_owned)) {
        for write in [false, true] {
            take(call("Tries", "paths", json!([path, write])));
        }
    }
    take(call(
        "Tries",
        "names",
        json!([
            "files.example",
            "9x.example",
            "_srv.example",
            "x",
            "a-b_c.example",
            "UPPER.Example",
            "trailing.example.",
            "xn--bcher-kva.example",
            "l".repeat(63) + ".example",
            "l".repeat(64) + ".example",
            "1.2.3.4.5",
            "good.test",
            "--help.example",
            "-x.example",
            format!("{}example", "a.".repeat(100)),
            "a b.example",
            "x\"]y.example",
            "pip.example",
            "first.example",
            "shut",
            "è.example",
        ]),
    ));
    take(call("Tries", "dial", json!(["a.good.test", server.port, "00"])));
    take(call("Tries", "dial", json!(["other.test", server.port, "00"])));
    take(call("Tries", "dial", json!(["private.test", 80, "00"])));
    take(call("Tries", "dial", json!(["a.good.test", 8443, "00"])));
    take(call("Tries", "dial", json!(["192.0.2.1", 80, "00"])));

    let (nothing, lines): (Vec<_>, Vec<_>) = found.into_iter().partition(|remedy| remedy.starts_with("nothing: "));
    for remedy in &lines {
        let mut changed = config.clone();
        let change: Value = match is_json {
            true => serde_json::from_str(remedy).unwrap(),
            false => {
                serde_json::to_value(remedy.parse::<toml::Table>().unwrap_or_else(|e| panic!("{e}: {remedy}"))).unwrap()
            }
        };
        merge(&mut changed, &change);
        write(&f, &changed, is_json);
        let told = check();
        assert_eq!(told.exit, Some(0), "{remedy}\n{}", told.stdout);
    }
    // Both kinds occurred, for each layer.
    let all = lines.join("\n");
    for key in [
        "syscalls",
        "read",
        "write",
        "hosts",
        "allow_private",
        "tls",
        "timeout",
        "memory",
        "open_files",
        "file_size",
        "processes",
    ] {
        assert!(all.contains(key), "{key}: {all}");
    }
    assert!(lines.len() > 25 && nothing.len() > 15, "{} {}", lines.len(), nothing.len());
    for kept in ["/etc", "/usr", "/root", "/home/x", ".ssh", "/var/lib"] {
        let granted = |line: &&String| line.contains("write") && line.contains(&format!("\"{kept}"));
        assert!(!lines.iter().any(|line| granted(&line)), "{kept}: {all}");
    }
}

/// A caller without the service gets remedies for paths that only this caller can access.
#[rstest]
fn ones_own_directories_are_told_of(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.python("tries", PLUGIN);
    write(&f, &base(&f, 443), false);
    f.mkdir("open");
    f.mkdir("shut");
    f.mkdir("shut/in");
    f.write("shut/in/file", "x");
    std::fs::set_permissions(f.path("shut"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let args = json!({ "args": [f.text("shut/in/file"), false] }).to_string();
    let data = f.upm(["--config", "c.toml", "Tries", "paths", &args]).run().failed("plugin_raised", 1);
    assert!(data["details"]["remedy"].as_str().unwrap().contains(&f.text("shut/in")), "{data:#}");
}
