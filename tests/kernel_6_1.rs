//! The oldest kernel that is supported: Debian 12's 6.1, booted under qemu (see `tests/qemu/`). There landlock has ABI
//! 2 (no network rules, no scopes), the guest has cgroup v2, and tmpfs can't be mounted with mapped ids.

mod common;

use common::{assert_errno_in, assert_ok, assert_schema, built_probe, has_program, repository};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

/// One command that ran in the guest.
#[derive(Debug, Default)]
struct Ran {
    stdout: String,
    stderr: String,
    exit: i32,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    fn envelope(&self) -> Value {
        let envelope = self.json();
        assert_schema(&envelope);
        envelope
    }

    fn result(&self) -> Value {
        let envelope = self.envelope();
        assert_eq!(self.exit, 0, "{envelope:#}\n{}", self.stderr);
        envelope["data"]["result"].clone()
    }
}

const CONFIG: &str = r#"
project_root = "project"
cache_dir = "cache"
plugin_paths = ["plugins"]

[plugins.HelloPlugin]
module = "hello"
allowed_methods = ["greet"]

[plugins.Probe]
exec = "plugins/upm-probe"
allowed_methods = ["run"]
write = ["{project_root}"]
memory = "128MiB"
processes = 16
"#;

const HELLO: &str = r#"
class HelloPlugin:
    version = "1.0.0"

    def greet(self, name):
        return "Hello, " + name
"#;

/// What is tried inside: each must fail in the sandbox, and the same words work outside (the control).
fn denied() -> Vec<(Value, &'static str)> {
    vec![
        (json!(["mount", "none", "/tmp", "tmpfs"]), "EPERM"),
        (json!(["clone_newuser"]), "EPERM"),
        (json!(["privileged", "bpf"]), "EPERM"),
        (json!(["privileged", "perf_event_open"]), "EPERM"),
        (json!(["ptrace_attach", 0]), "EPERM"),
        (json!(["socket", "AF_NETLINK", "SOCK_RAW"]), "EAFNOSUPPORT"),
        (json!(["set_id", "openat", "/srv/upm/project/set-id"]), "EPERM"),
        (json!(["mknod", "whiteout", "/srv/upm/project/whiteout"]), "EPERM"),
        (json!(["write", "/srv/upm/escaped", "x"]), "EROFS|ENOENT|EACCES"),
        (json!(["read", "/srv/upm/upm_config.toml"]), "ENOENT"),
        (json!(["list", "/proc/1/fd"]), "EACCES|EPERM|ENOENT"),
    ]
}

fn commands() -> String {
    let batch = |at: &str| {
        let mut acts: Vec<Value> = denied().into_iter().map(|(act, _)| act).collect();
        acts.push(json!(["write", "/srv/upm/project/allowed", "x"]));
        acts.push(json!(["report"]));
        let mut words = vec![json!("batch")];
        words.extend(acts);
        json!({ "args": words }).to_string().replace("/srv/upm", at)
    };
    let control = denied().iter().map(|(act, _)| format!("'{act}'")).collect::<Vec<_>>().join(" ");
    format!(
        r#"
mkdir project
run uname uname -r
run control ./plugins/upm-probe batch {control}
rm -rf project
cp -a /srv/upm /home/user/upm
chown -R 23456:23456 /home/user/upm
run root-doctor ./upm doctor --json
run root-greet ./upm HelloPlugin greet '{{"args":["root"]}}'
run root-probe ./upm Probe run '{root}'
run root-memory ./upm Probe run '{{"args":["memory_bomb",400]}}'
run root-forks ./upm Probe run '{{"args":["fork_bomb",100]}}'
cd /home/user/upm
run user-doctor as_user ./upm doctor --json
run user-greet as_user ./upm HelloPlugin greet '{{"args":["user"]}}'
run user-probe as_user ./upm Probe run '{user}'
run user-memory as_user ./upm Probe run '{{"args":["memory_bomb",400]}}'
run processes ps
run mounts cat /proc/self/mountinfo
"#,
        root = batch("/srv/upm"),
        user = batch("/home/user/upm"),
    )
}

fn boot() -> Option<BTreeMap<String, Ran>> {
    for program in ["qemu-system-x86_64", "mkfs.ext4", "cpio", "busybox", "setpriv", "apt-get"] {
        if !has_program(program) {
            return None;
        }
    }
    if cfg!(not(target_arch = "x86_64")) {
        common::skip("the guest is an x86_64 machine");
        return None;
    }
    let payload = tempfile::tempdir().unwrap();
    let put = |name: &str, content: &[u8]| fs::write(payload.path().join(name), content).unwrap();
    fs::create_dir(payload.path().join("plugins")).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_upm"), payload.path().join("upm")).unwrap();
    fs::copy(built_probe(), payload.path().join("plugins/upm-probe")).unwrap();
    put("plugins/hello.py", HELLO.as_bytes());
    put("upm_config.toml", CONFIG.as_bytes());
    put("commands", commands().as_bytes());

    let output = Command::new(repository().join("tests/qemu/boot"))
        .arg(payload.path())
        .env("UPM_TEST_CACHE", common::cache())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(
        output.status.success() && console.contains("@@DONE"),
        "the guest did not finish: {}\n{console}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(parse(&console))
}

/// Cuts the console at the markers that `tests/qemu/guest` prints.
fn parse(console: &str) -> BTreeMap<String, Ran> {
    let mut all = BTreeMap::new();
    let mut ran = Ran::default();
    let mut part = 0;
    for line in console.lines() {
        if line.starts_with("@@BEGIN ") {
            (ran, part) = (Ran::default(), 1);
        } else if line.starts_with("@@STDERR ") {
            part = 2;
        } else if let Some(rest) = line.strip_prefix("@@END ") {
            let (name, exit) = rest.rsplit_once(' ').unwrap();
            ran.exit = exit.parse().unwrap();
            all.insert(name.to_owned(), std::mem::take(&mut ran));
            part = 0;
        } else if part > 0 {
            let text = if part == 1 { &mut ran.stdout } else { &mut ran.stderr };
            text.push_str(line);
            text.push('\n');
        }
    }
    all
}

#[test]
fn the_engine_holds_on_6_1() {
    let Some(ran) = boot() else { return };
    assert!(ran["uname"].stdout.starts_with("6.1."), "{:#?}", ran["uname"]);

    let control = ran["control"].json();
    let worked = control["answers"].as_array().unwrap();
    for ((act, _), answer) in denied().iter().zip(worked) {
        assert_eq!(answer["ok"], true, "the control of {act}: {answer}");
    }

    for mode in ["root", "user"] {
        let doctor = &ran[&format!("{mode}-doctor")];
        assert_eq!(doctor.exit, 0, "{doctor:#?}");
        doctor.json();

        assert_eq!(ran[&format!("{mode}-greet")].result(), json!(format!("Hello, {mode}")));

        let probe = &ran[&format!("{mode}-probe")];
        let answers = probe.result()["answers"].as_array().unwrap().clone();
        for ((act, errno), answer) in denied().iter().zip(&answers) {
            println!("{mode}: {act}");
            assert_errno_in(answer, &errno.split('|').collect::<Vec<_>>());
        }
        assert_ok(&answers[denied().len()]);
        let report = &answers[denied().len() + 1];
        assert_eq!(report["uid"], 1000);
        assert_eq!(report["gid"], 1000);
        assert_eq!(report["status"]["Groups"], "", "{mode}: supplementary groups");
        assert_eq!(report["status"]["NoNewPrivs"], "1");
        assert_eq!(report["status"]["Seccomp"], "2");
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(report["status"][set], "0000000000000000", "{mode}: {set}");
        }
        let fds: Vec<&String> = report["fds"].as_object().unwrap().keys().collect();
        assert_eq!(fds, ["0", "1", "2", "3"], "{mode}: {report:#}");

        // a process of its own limit is told ENOMEM; what is added up, or the cgroup, ends the call
        let memory = ran[&format!("{mode}-memory")].envelope();
        let told = memory["data"]["result"]["errno_name"] == "ENOMEM";
        assert!(told || memory["data"]["code"] == "memory_exceeded", "{mode}: {memory:#}");
    }

    let forks = ran["root-forks"].result();
    assert_eq!(forks["stopped_by_name"], "EAGAIN", "{forks}");
    assert!(forks["forked"].as_i64().unwrap() < 16, "{forks}");

    assert!(!ran["processes"].stdout.contains("upm"), "left behind: {:#?}", ran["processes"]);
    assert!(!ran["mounts"].stdout.contains("/srv/upm"), "left behind: {:#?}", ran["mounts"]);
}

#[test]
fn the_console_is_cut_at_its_markers() {
    let ran = parse("noise\n@@BEGIN a\n{}\n\n@@STDERR a\nw\n@@END a 3\n@@DONE\n");
    assert_eq!((ran["a"].stdout.trim(), ran["a"].stderr.trim(), ran["a"].exit), ("{}", "w", 3));
}
