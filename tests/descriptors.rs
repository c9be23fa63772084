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
    // only processes: no kernel tables
    for path in
        ["/proc/kallsyms", "/proc/cpuinfo", "/proc/sysrq-trigger", "/proc/keys", "/proc/sys/kernel/core_pattern"]
    {
        let answer = f.act("read", json!([path]));
        assert_errno_in(&answer, &["ENOENT", "EACCES", "EPERM"]);
    }
    assert_ok(&f.control("read", json!(["/proc/cpuinfo"])));
    assert!(
        f.control("report", Value::Null)["pids"].as_object().unwrap().len() > report["pids"].as_object().unwrap().len()
    );
}
