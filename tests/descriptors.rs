//! What a plugin starts with: descriptors 0 to 3 and nothing of the supervisor's.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};

#[rstest]
fn only_four_are_open(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let fds = f.act("fds", Value::Null)["fds"].clone();
    let open: Vec<&str> = fds.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(open, ["0", "1", "2", "3"], "{fds:#}");
    assert!(fds["1"].as_str().unwrap().starts_with("pipe:"), "{fds:#}");
    assert!(fds["2"].as_str().unwrap().starts_with("pipe:"), "{fds:#}");
    assert!(fds["3"].as_str().unwrap().starts_with("socket:"), "{fds:#}");
    assert_eq!(fds["0"], "/dev/null");
}

/// The caller's own descriptors are there for `upm` (the shell shows it) and not for the plugin.
#[rstest]
fn what_the_caller_left_open_does_not_come_along(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let script = r#"exec 7</etc/hostname 9</ ; test -e /proc/self/fd/9 && exec "$0" "$@""#;
    let answer = f.upm(["Probe", "run", r#"{"args":["fds"]}"#]).through(["/bin/sh", "-c", script]).run();
    assert_eq!(answer.result()["fds"].as_object().unwrap().len(), 4, "{:#}", answer.result());
}

#[rstest]
fn standard_output_can_be_reopened(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for path in ["/dev/stdout", "/dev/stderr", "/proc/self/fd/1"] {
        assert_ok(&f.act("write", json!([path, "x"])));
    }
    assert_ok(&f.act("read", json!(["/dev/stdin"])));
    assert_eq!(f.act("read", json!(["/dev/stdin"]))["bytes"], 0);
}

#[rstest]
fn no_descriptor_leads_up_and_out(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    f.write("outside", "x");
    let tops = f.act("climb", Value::Null)["tops"].clone();
    for (from, names) in tops.as_object().unwrap() {
        let names = names.as_array().unwrap_or_else(|| panic!("{from}: {tops:#}"));
        assert!(!names.contains(&json!("boot")) && !names.contains(&json!("home")), "from {from}: {names:?}");
    }
    let cwd = f.act("report", Value::Null)["cwd"].as_str().unwrap().to_owned();
    assert!(std::path::Path::new(&cwd).is_absolute() && !cwd.contains("unreachable"), "{cwd}");
    assert_ok(&f.control("read", json!([f.text("outside")])));
    assert_errno(&f.act("read", json!([format!("{cwd}/{}", "../".repeat(30) + f.text("outside").as_str())])), "ENOENT");
}

/// `/proc/self/exe` is the plugin's own program, and pid 1 shows nothing of the supervisor.
#[rstest]
fn the_supervisors_program_and_pid_1_are_out_of_reach(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let exe = f.act("readlink", json!(["/proc/self/exe"]))["value"].as_str().unwrap().to_owned();
    assert!(exe.ends_with("/upm-probe"), "{exe}");
    for file in ["environ", "mem", "maps", "auxv", "io", "stack", "syscall"] {
        let answer = f.act("read", json!([format!("/proc/1/{file}")]));
        assert!(answer["ok"] == json!(false) || answer["bytes"] == 0, "/proc/1/{file}: {answer}");
        assert_ok(&f.act("read", json!(["/proc/self/environ"])));
    }
    for link in ["exe", "root", "cwd", "ns/mnt", "ns/user"] {
        let answer = f.act("readlink", json!([format!("/proc/1/{link}")]));
        assert_errno_in(&answer, &["EACCES", "EPERM", "ENOENT"]);
        assert_ok(&f.act("readlink", json!([format!("/proc/self/{link}")])));
    }
    for dir in ["fd", "fdinfo", "map_files", "task/1/fd"] {
        assert_errno_in(&f.act("list", json!([format!("/proc/1/{dir}")])), &["EACCES", "EPERM", "ENOENT"]);
    }
    assert_ok(&f.act("list", json!(["/proc/self/fd"])));
    let cmdline = f.act("read", json!(["/proc/1/cmdline"]));
    assert!(!cmdline.to_string().contains("Probe") && !cmdline.to_string().contains("upm_config"), "{cmdline}");
}

#[rstest]
fn only_the_calls_processes_are_seen(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let report = f.act("report", Value::Null);
    let pid = report["pid"].as_i64().unwrap();
    assert!(pid < 10, "a pid namespace of its own: {pid}");
    for seen in report["pids"].as_object().unwrap().keys() {
        assert!(seen.parse::<i64>().unwrap() <= pid, "{report:#}");
    }
    // of the rest only what tells of the machine: everything else that the host has cannot be read, whatever its name
    let shown = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];
    let settings = ["kernel/pid_max", "kernel/osrelease", "vm/overcommit_memory", "net/core/somaxconn"];
    for path in shown.map(str::to_owned).into_iter().chain(settings.map(|name| format!("sys/{name}"))) {
        assert_ok(&f.act("read", json!([format!("/proc/{path}")])));
    }
    let mut covered = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let links = ["self", "thread-self", "mounts", "net"];
        if name.parse::<u32>().is_err() && ![&shown[..], &links, &["sys"]].concat().contains(&name.as_str()) {
            covered.push(format!("/proc/{name}"));
        }
    }
    for name in ["kallsyms", "keys", "interrupts", "bus", "fs"] {
        assert!(covered.contains(&format!("/proc/{name}")), "{name} is on no host? {covered:?}");
    }
    for (path, act) in covered.iter().flat_map(|path| [(path, "read"), (path, "list")]) {
        assert_errno_in(&f.act(act, json!([path])), &["EACCES", "ENOTDIR"]);
    }
    for path in ["kernel/core_pattern", "kernel/random/boot_id", "fs/file-nr", "dev", "user"] {
        assert_errno(&f.act("read", json!([format!("/proc/sys/{path}")])), "ENOENT");
    }
    assert_ok(&f.control("read", json!(["/proc/sys/kernel/core_pattern"])));
    // nothing of it is written
    for path in ["/proc/sys/kernel/hostname", "/proc/sys/net/core/somaxconn", "/proc/self/oom_score_adj", "/proc/keys"]
    {
        assert_errno_in(&f.act("write", json!([path, "x"])), &["EROFS", "EACCES"]);
    }
    assert_errno(&f.act("syscall", json!(["SYS_chmod", {"text": "/proc/keys"}, 0o644])), "EROFS");
    assert!(
        f.control("report", Value::Null)["pids"].as_object().unwrap().len() > report["pids"].as_object().unwrap().len()
    );
}
