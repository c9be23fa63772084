//! What the supervisor still does once it has confined itself, seen from outside: no more than its filter allows, no socket is
//! made, and the one signal is SIGKILL.

mod common;

use common::{Call, Fixture, Mode, has_program};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

/// The supervisor's system calls after it had put up its filter, a line each.
fn confined(f: &Fixture, make: impl FnOnce(Call<'_>)) -> Vec<String> {
    let file = f.text("project/trace");
    fs::remove_file(&file).ok();
    make(f.upm(Vec::<&str>::new()).through(["strace", "-f", "-qq", "-o", &file]));
    let trace = fs::read_to_string(&file).unwrap();
    let first = trace.split_ascii_whitespace().next().unwrap();
    let own: Vec<&str> = trace.lines().filter_map(|line| line.strip_prefix(first)).map(str::trim_start).collect();
    let filter = own.iter().rposition(|line| line.starts_with("seccomp(SECCOMP_SET_MODE_FILTER"));
    let filter = filter.unwrap_or_else(|| panic!("no filter: {own:#?}"));
    own[filter + 1..].iter().map(|line| (*line).to_owned()).collect()
}

fn assert_within(calls: &[String], what: &str) {
    assert!(calls.iter().any(|call| call.starts_with("write(1,")), "{what}: it has answered: {calls:#?}");
    for call in calls {
        assert!(!call.contains("= -1 EPERM"), "{what}: its filter refuses what it needs: {call}");
        for gone in ["socket(", "connect(", "kill(", "tkill(", "tgkill(", "pidfd_open(", "clone", "execve"] {
            assert!(!call.starts_with(gone), "{what}: {call}");
        }
        let signal = call.strip_prefix("pidfd_send_signal(").map(|rest| rest.contains("SIGKILL, NULL, 0)"));
        assert_ne!(signal, Some(false), "{what}: {call}");
    }
}

#[rstest]
fn the_confined_supervisor_needs_neither_sockets_nor_signals(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !has_program("strace") {
        return;
    }
    let Some(f) = Fixture::probe(mode, "timeout = \"6s\"\noutput = \"4KiB\"") else { return };
    let words = |act: &str, args: Value| {
        let mut all = vec![json!(act)];
        all.extend(args.as_array().cloned().unwrap_or_default());
        json!({ "args": all }).to_string()
    };
    for (act, args, exit) in [
        ("echo", json!([1]), Some(0)),
        ("print", json!(["stderr", 100_000]), Some(0)),
        ("privileged", json!(["bpf"]), Some(0)),
        ("resolve", json!(["evil.example"]), Some(0)),
        ("frame_progress", json!([50]), Some(0)),
        ("frame_sized", json!([3_000_000]), Some(0)),
        ("frame_garbage", json!([]), Some(1)),
        ("sleep", json!([60]), Some(124)),
        ("raise", json!(["SIGSEGV"]), Some(139)),
    ] {
        let arguments = words(act, args);
        let calls = confined(&f, |call| {
            let answer = call.more(["-v", "Probe", "run", &arguments]).run();
            assert_eq!(answer.exit, exit, "{act}: {answer:#?}");
        });
        assert_within(&calls, act);
        let killed = calls.iter().any(|call| call.starts_with("pidfd_send_signal("));
        assert_eq!(killed, ["frame_garbage", "sleep"].contains(&act), "{act}: {calls:#?}");
    }
    let arguments = words("sleep", json!([60]));
    let calls = confined(&f, |call| {
        let running = call.more(["Probe", "run", &arguments]).start();
        std::thread::sleep(Duration::from_millis(2500));
        // strace hands it on to nobody: the call's own supervisor is its child
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", running.pid())).unwrap();
        let child: i32 = children.split_ascii_whitespace().next().unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGTERM).unwrap();
        assert_eq!(running.wait().exit, Some(143));
    });
    assert_within(&calls, "cancelled");
}
