//! The probe itself, outside the sandbox: a denial test is worth what its control is worth.

mod common;

use common::{Fixture, Mode, assert_errno, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

#[rstest]
fn acts_work_where_nothing_is_denied(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    for (act, args) in [
        ("socket", json!(["AF_NETLINK", "SOCK_RAW", 15])),
        ("socket", json!(["AF_UNIX", "SOCK_STREAM"])),
        ("ptrace_attach", json!([0])),
        ("process_vm_readv", json!([0])),
        ("pidfd_getfd", json!([0])),
        ("clone_newuser", json!([])),
        ("clone3", json!([])),
        ("seccomp_listener", json!([])),
        ("set_id", json!(["openat", f.text("project/a")])),
        ("set_id", json!(["fchmodat2", f.text("project/b")])),
        ("mknod", json!(["whiteout", f.text("project/w")])),
        ("mknod", json!(["fifo", f.text("project/f")])),
    ] {
        let answer = f.control(act, args.clone());
        if act == "set_id" {
            assert_eq!(answer["permissions"], 0o6755, "{act} {args}: {answer}");
        }
        assert_eq!(answer["ok"], true, "{act} {args}: {answer}");
    }
}

#[rstest]
fn the_users_control_is_an_ordinary_user() {
    let Some(f) = Fixture::bare(Mode::User) else { return };
    let report = f.control("report", Value::Null);
    assert_ok(&report);
    assert_eq!(report["uid"], f.uid);
    assert_eq!(report["gid"], nix_gid(&f));
    assert_eq!(report["status"]["CapEff"], "0000000000000000");
    assert_errno(&f.control("mount", json!(["none", "/mnt", "tmpfs"])), "EPERM");
    assert_errno(&f.control("mknod", json!(["dev_null", f.text("project/n")])), "EPERM");
}

fn nix_gid(f: &Fixture) -> u32 {
    if common::is_root() { f.uid } else { nix::unistd::getegid().as_raw() }
}

#[rstest]
fn the_root_control_has_supplementary_groups() {
    let Some(f) = Fixture::bare(Mode::Root) else { return };
    let status = f.control("status", Value::Null);
    assert_eq!(status["Groups"], "4 27");
    assert_eq!(
        f.control("capset_all", Value::Null)["errno_name"],
        "EPERM",
        "a full capset asks for capabilities that do not exist"
    );
}

#[test]
fn unknown_acts_are_no_denials() {
    let Some(f) = Fixture::bare(Mode::User) else { return };
    let answer = f.control("no_such_act", Value::Null);
    assert_eq!((answer["ok"].as_bool(), answer["errno"].as_i64()), (Some(false), Some(-1)));
}

/// The probe as a plugin, with this test in the supervisor's place.
fn as_plugin(call: &Value) -> String {
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    // the shell puts the channel on descriptor 3: std has no way to
    let mut child = Command::new("/bin/sh")
        .args(["-c", r#"exec "$0" 3<&0 </dev/null"#])
        .arg(common::built_probe())
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    ours.write_all(format!("{call}\n").as_bytes()).unwrap();
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert!(ours.as_raw_fd() > 2);
    child.wait().unwrap();
    text
}

#[test]
fn as_a_plugin_it_answers_one_result_frame() {
    let text = as_plugin(&json!({"type": "call", "method": "run", "args": ["echo", 7]}));
    let frame: Value = serde_json::from_str(text.strip_suffix('\n').unwrap()).unwrap();
    assert_eq!(frame["type"], "result");
    assert_eq!(frame["result"], json!({"ok": true, "errno": 0, "errno_name": null, "value": [7]}));
}

#[test]
fn as_a_plugin_it_breaks_the_protocol_on_demand() {
    let ask = |act: &str| as_plugin(&json!({"type": "call", "method": act, "args": [], "kwargs": {}}));
    assert_eq!(ask("frame_none"), "");
    assert_eq!(ask("frame_two").lines().count(), 2);
    assert!(!ask("frame_unfinished").contains('\n'));
    assert_eq!(ask("frame_progress").lines().count(), 101);
    assert_eq!(ask("frame_duplicate"), "{\"type\":\"result\",\"result\":1,\"result\":2}\n");
}
