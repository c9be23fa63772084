//! Signals and other reaches from one process to another.

mod common;

use common::{Fixture, Mode, assert_errno_in, assert_ok};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

/// A process outside that belongs to the caller.
struct Victim(Child);

impl Victim {
    fn start(f: &Fixture) -> Victim {
        let mut command = f.as_caller(Path::new("/bin/sleep"));
        Victim(command.arg("60").env("UPM_TEST_SECRET", "of the victim").stdout(Stdio::null()).spawn().unwrap())
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn lives(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[rstest]
fn no_process_outside_is_reached(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let mut victim = Victim::start(&f);
    let pid = victim.pid();
    std::thread::sleep(Duration::from_millis(100));
    assert_ok(&f.control("kill", json!([pid, 0])));
    assert_ok(&f.control("ptrace_attach", json!([pid])));
    assert!(
        f.control("read", json!([format!("/proc/{pid}/environ")]))["text"].as_str().unwrap().contains("of the victim")
    );

    let acts = [
        json!(["kill", pid, "SIGTERM"]),
        json!(["kill", pid, 0]),
        json!(["kill", -i64::from(pid), "SIGKILL"]),
        json!(["syscall", "SYS_tgkill", pid, pid, "SIGKILL"]),
        json!(["syscall", "SYS_pidfd_open", pid, 0]),
    ];
    for (act, answer) in acts.iter().zip(f.acts(&acts)) {
        println!("{act}");
        assert_errno_in(&answer, &["ESRCH", "EPERM", "EINVAL"]);
    }
    for act in ["ptrace_attach", "process_vm_readv", "process_vm_writev", "pidfd_getfd"] {
        assert_errno_in(&f.act(act, json!([pid])), &["EPERM", "ESRCH"]);
    }
    for file in ["environ", "mem", "cmdline", "status"] {
        let answer = f.act("read", json!([format!("/proc/{pid}/{file}")]));
        assert_errno_in(&answer, &["ENOENT", "EACCES"]);
    }
    assert!(victim.lives());
}

/// Every process that a plugin may signal is the call's own, and not its pid 1.
#[rstest]
fn killing_everyone_kills_nobody_else(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let mut victim = Victim::start(&f);
    let acts = [
        json!(["kill", -1, "SIGTERM"]),
        json!(["kill", 1, "SIGKILL"]),
        json!(["kill", 1, "SIGSTOP"]),
        json!(["kill", 0, "SIGCONT"]),
    ];
    let answers = f.acts(&acts);
    assert_errno_in(&answers[0], &["ESRCH", "EPERM"]);
    assert_errno_in(&answers[1], &["EPERM"]);
    assert_errno_in(&answers[2], &["EPERM"]);
    assert_ok(&answers[3]);
    assert!(victim.lives());
    assert_ok(&f.act("child", json!(["kill", 0, 0])));
}

#[rstest]
#[case("SIGKILL", 137)]
#[case("SIGSEGV", 139)]
#[case("SIGABRT", 134)]
#[case("SIGTERM", 143)]
#[case("SIGUSR1", 138)]
#[case("SIGPIPE", 141)]
fn a_signal_that_ends_the_plugin_is_named(
    #[case] signal: &str,
    #[case] exit: i32,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let data = f.run("raise", json!([signal])).failed("plugin_killed", exit);
    assert!(data["error"].as_str().unwrap().contains(signal), "{data:#}");
    assert!(data["output"].is_object() && data["usage"].is_object());
}

/// What `upm` was started with ignored or blocked is default for the plugin.
#[rstest]
fn dispositions_are_reset(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let answer = f
        .upm(["Probe", "run", r#"{"args":["status"]}"#])
        .through(["/bin/sh", "-c", r#"trap "" TERM INT HUP USR1 PIPE XCPU; umask 0; exec "$0" "$@""#])
        .run();
    let status = answer.result();
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        let bits = u64::from_str_radix(status[set].as_str().unwrap(), 16).unwrap();
        // Rust's start in the probe ignores SIGPIPE and catches SIGSEGV and SIGBUS for its stack guard
        assert_eq!(bits & !(1 << 12 | 1 << 10 | 1 << 6), 0, "{set}: {bits:x}");
    }
}

#[rstest]
#[case(Signal::SIGINT, 130)]
#[case(Signal::SIGTERM, 143)]
#[case(Signal::SIGHUP, 129)]
fn a_cancelled_call_answers_and_ends(
    #[case] signal: Signal,
    #[case] exit: i32,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    for act in ["sleep", "ignore"] {
        let begun = f.text("project/begun");
        let _ = std::fs::remove_file(&begun);
        let words = if act == "sleep" {
            json!({"args": ["sleep", 30, begun]})
        } else {
            json!({"args": ["batch", ["write", begun, ""], ["ignore", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"]]})
        };
        // a shell starts what it puts in the background with SIGINT ignored, and what a caller ignores stays ignored
        let defaults = ["/usr/bin/env", "--default-signal=HUP,INT,TERM"];
        let running = f.upm(["Probe", "run", &words.to_string()]).through(defaults).start();
        while !Path::new(&begun).exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let at = std::time::Instant::now();
        running.signal(signal);
        running.wait().failed("cancelled", exit);
        assert!(at.elapsed() < Duration::from_secs(4), "{act}: {:?}", at.elapsed());
        f.assert_clean();
    }
    let finished: Vec<Value> = f.audit().into_iter().filter(|r| r["UPM_EVENT"] == "call_finished").collect();
    assert_eq!(finished.len(), 2, "{finished:#?}");
    assert!(finished.iter().all(|r| r["UPM_CODE"] == "cancelled"), "{finished:#?}");
}
