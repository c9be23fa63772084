//! A caller who starts upm in an odd or hostile way, and what a plugin does to the supervisor. Where root calls this is a user
//! whom `sudo` lets call: arguments, limits, umask, signals and terminal are then that user's.

mod common;

use common::{Fixture, Mode, assert_ok, skip};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Takes a process name that is not UTF-8, or another odd one, and then does a hostile act.
const NAMED: &str = r#"
import ctypes, os, time

def named(name):
    ctypes.CDLL(None).prctl(15, bytes.fromhex(name), 0, 0, 0)

class Named:
    def hold(self, name, processes, mib):
        named(name)
        children = []
        for _ in range(processes):
            child = os.fork()
            if child == 0:
                named(name)
                held = bytearray(mib << 20)
                for at in range(0, len(held), 4096):
                    held[at] = 1
                time.sleep(4)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

    def spin(self, name, begun):
        named(name)
        open(begun, "w").close()
        while True:
            pass

    def refused(self, name):
        named(name)
        ctypes.CDLL(None).reboot(0)

    def priority(self):
        return [os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0), ctypes.CDLL(None).syscall(IOPRIO_GET, 1, 0)]

    def raised(self):
        try:
            os.setpriority(os.PRIO_PROCESS, 0, -1)
        except OSError as error:
            return error.errno
"#;

fn named(mode: Mode, grant: &str) -> Option<Fixture> {
    let methods = "allowed_methods = [\"hold\", \"spin\", \"refused\", \"priority\", \"raised\"]";
    let f = Fixture::new(mode, &format!("[plugins.Named]\nmodule = \"named\"\n{methods}\n{grant}\n"))?;
    let ioprio_get = nix::libc::SYS_ioprio_get.to_string();
    f.python("named", &NAMED.replace("IOPRIO_GET", &ioprio_get));
    Some(f)
}

/// `/proc/PID/status` begins with the process's name: bytes that are not UTF-8 hide nothing that follows.
#[rstest]
#[case::a_name("6e616d65")]
#[case::no_text("fffe")]
fn a_name_that_is_no_text_hides_no_memory(#[case] name: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = named(mode, "memory = \"128MiB\"") else { return };
    // each within its own limit
    f.call("Named", "hold", &json!([name, 4, 80])).failed("memory_exceeded", 137);
    // the control: as many, and together within the limit
    assert_eq!(f.call("Named", "hold", &json!([name, 2, 8])).result(), Value::Null);
}

#[rstest]
#[case::a_name("6e616d65", json!("name"))]
#[case::no_text("fffe", json!("\u{fffd}\u{fffd}"))]
fn a_name_that_is_no_text_is_told(
    #[case] name: &str,
    #[case] shown: Value,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = named(mode, "write = [\"{project_root}\"]") else { return };
    let answer = f.call("Named", "refused", &json!([name]));
    let denials = answer.denials("seccomp", "reboot");
    assert_eq!((&denials[0]["comm"], denials[0]["pid"].is_u64()), (&shown, true), "{denials:#?}");
    // what it spent before it was cancelled
    let begun = f.text("project/begun");
    let arguments = json!({ "args": [name, begun] }).to_string();
    // a shell starts what it puts in the background with SIGINT ignored; the same holds where the tests are run in the background
    let running = f.upm(["Named", "spin", &arguments]).through(["/usr/bin/env", "--default-signal=TERM"]).start();
    while !Path::new(&begun).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(Duration::from_millis(700));
    running.signal(Signal::SIGTERM);
    let usage = running.wait().failed("cancelled", 143)["usage"].clone();
    assert!(usage["cpu_user_us"].as_u64().unwrap() > 150_000, "{usage:#}");
}

/// Whoever stops the supervisor (Ctrl-Z at the terminal of `sudo upm`) does not lengthen the call.
#[rstest]
fn a_stopped_supervisor_lengthens_no_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]\ntimeout = \"2s\"") else { return };
    let begun = f.text("project/begun");
    let arguments = json!({"args": ["batch", ["orphan", 30], ["sleep", 30, begun]]}).to_string();
    let at = Instant::now();
    let running = f.upm(["Probe", "run", &arguments]).start();
    while !Path::new(&begun).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    running.signal(Signal::SIGSTOP);
    // the supervisor itself, and its parent
    let plugin = || f.leftovers().iter().any(|left| left.contains("(upm-probe)"));
    assert!(plugin(), "the control: the plugin is seen: {:?}", f.leftovers());
    while plugin() {
        assert!(at.elapsed() < Duration::from_secs(6), "the plugin is still there: {:?}", f.leftovers());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(at.elapsed() > Duration::from_secs(2), "{:?}", at.elapsed());
    running.signal(Signal::SIGCONT);
    running.wait().failed("timeout", 124);
    f.assert_clean();
    let events: Vec<Value> = f.audit().iter().map(|record| record["UPM_EVENT"].clone()).collect();
    assert_eq!((&events[0], events.last()), (&json!("call_started"), Some(&json!("call_finished"))));
}

/// An ignored `SIGCHLD` is handed on by exec, and then no child can be waited for.
#[rstest]
fn a_caller_that_ignores_its_children_gets_its_answer(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    for how in [vec!["--ignore-signal=CHLD"], vec!["--ignore-signal"], vec!["--block-signal"], vec![]] {
        let words = [vec!["/usr/bin/env"], how.clone()].concat();
        let answer = f.upm(["Probe", "run", r#"{"args":["echo",1]}"#]).through(words).run();
        assert_eq!(answer.result()["value"], json!([1]), "{how:?}");
    }
}

/// At the caller's own limit of file sizes there is an answer, and nothing runs without a record.
#[rstest]
fn a_limit_of_file_sizes_is_answered(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let touched = f.path("project/touched");
    let arguments = json!({"args": ["write", touched, "x"]}).to_string();
    let limited = |limit: &str| {
        // stdout through a pipe: the limit does not apply to the answer itself
        let script = format!("exec 3>&1; {{ prlimit --fsize={limit} -- \"$0\" \"$@\"; echo $? >exit; }} | cat");
        let answer = f.upm(["Probe", "run", &arguments]).through(["/bin/sh", "-c", &script]).run();
        let exit = fs::read_to_string(f.path("exit")).unwrap();
        (
            exit.trim().to_owned(),
            serde_json::from_str::<Value>(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}")),
        )
    };
    for limit in ["0", "100"] {
        let (exit, answer) = limited(limit);
        assert_eq!(
            (exit.as_str(), &answer["data"]["code"]),
            ("125", &json!("audit_unavailable")),
            "{limit}: {answer:#}"
        );
        assert!(!touched.exists(), "{limit}");
    }
    // enough for the start, not for the end: the answer says that the method has run
    let long = 1 << 20;
    f.write("audit/audit.jsonl", format!("{}\n", "x".repeat(long - 1)));
    fs::set_permissions(f.path("audit/audit.jsonl"), fs::Permissions::from_mode(0o600)).unwrap();
    let (_, answer) = limited(&(long + 700).to_string());
    let data = &answer["data"];
    assert_eq!((&data["code"], &data["details"]["started"]), (&json!("audit_unavailable"), &json!(true)), "{answer:#}");
    assert!(data["error"].as_str().unwrap().starts_with("the method has run"), "{answer:#}");
    assert!(touched.exists());
    let events = || {
        let text = fs::read_to_string(f.path("audit/audit.jsonl")).unwrap();
        let records = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        records.map(|record| record["UPM_EVENT"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(events(), ["call_started"]);
    // what was cut off spoils no later record
    let (exit, _) = limited(&(long << 1).to_string());
    assert_eq!(
        (exit.as_str(), events()),
        ("0", ["call_started", "call_started", "call_finished"].map(str::to_owned).to_vec())
    );
}

/// A umask that takes away the owner's own bits would leave an audit file that no later call can use.
#[rstest]
#[case("0777")]
#[case("0000")]
fn a_umask_shuts_nobody_out(#[case] umask: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    fs::remove_dir(f.path("audit")).unwrap();
    fs::remove_dir(f.path("project")).unwrap();
    let script = format!("umask {umask}; exec \"$0\" \"$@\"");
    let through = ["/bin/sh", "-c", &script];
    assert_ok(&f.upm(["Probe", "run", r#"{"args":["echo",1]}"#]).through(through).run().result());
    assert_eq!(f.act("echo", json!([2]))["value"], json!([2]), "the next call");
    let bits = |below: &str| fs::metadata(f.path(below)).unwrap().mode() & 0o777;
    assert_eq!((bits("audit"), bits("audit/audit.jsonl")), (0o700, 0o600));
    // the caller's word for what others may do in it is kept
    assert_eq!(bits("project"), if umask == "0777" { 0o700 } else { 0o755 });
}

/// Real-time scheduling and better priorities of the caller are not the plugin's; worse ones are.
#[rstest]
fn no_priority_is_handed_on(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        skip("only root can give such priorities");
        return;
    }
    let Some(f) = named(mode, "") else { return };
    for (outer, inside) in [
        ("chrt --fifo 10", json!([0, 0, 0])),
        ("chrt --rr 10", json!([0, 0, 0])),
        ("nice -n -10", json!([0, 0, 0])),
        ("ionice -c 1 -n 0", json!([0, 0, 0])),
        ("nice -n 7", json!([0, 7, 0])),
        ("chrt --batch 0", json!([3, 0, 0])),
    ] {
        let script = format!("exec {outer} \"$@\"");
        let answer = f.upm(["Named", "priority"]).mounting_script(&script).run();
        assert_eq!(answer.result(), inside, "{outer}");
    }
    if !Command::new("prlimit").args(["--nice=40", "true"]).output().unwrap().status.success() {
        // A host whose root has no CAP_SYS_RESOURCE: then no caller can have such a limit either.
        println!("not tried: nobody may raise a limit here");
        return;
    }
    // a caller who may take a better one hands that down neither
    let answer = f.upm(["Named", "raised"]).mounting_script("exec prlimit --nice=40 \"$@\"").run();
    assert_eq!(answer.result(), json!(nix::libc::EACCES), "{answer:#?}");
    let id = f.uid.to_string();
    let words = ["--nice=40", "setpriv", "--reuid", &id, "--regid", &id, "--clear-groups", "nice", "-n", "-1", "nice"];
    let control = Command::new("prlimit").args(words).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&control.stdout).trim(), "-1", "the control: {control:?}");
}

/// Rights that the program's file lends are gone before anything is done: not even the refusal's record is made with them.
#[rstest]
#[case::set_user_id("chmod 4755")]
#[case::file_capabilities("setcap cap_dac_override,cap_dac_read_search,cap_sys_admin,cap_chown+ep")]
fn what_the_programs_file_lends_is_given_up(#[case] lend: &str) {
    if !common::is_root() {
        skip("only root can lend its rights");
        return;
    }
    let Some(f) = Fixture::probe(Mode::User, "") else { return };
    let program = common::which(lend.split(' ').next().unwrap());
    if program.is_none() {
        skip("setcap is not installed");
        return;
    }
    // a copy: the fixture's program is a link that other tests have too
    let upm = f.path("bin/upm");
    fs::copy(&upm, f.path("bin/copy")).unwrap();
    fs::rename(f.path("bin/copy"), &upm).unwrap();
    chown(&upm, Some(0), Some(0)).unwrap();
    fs::set_permissions(&upm, fs::Permissions::from_mode(0o755)).unwrap();
    // a directory of root in which the caller's variables want something made
    let roots = tempfile::Builder::new().prefix("upm-roots-").tempdir_in("/var/tmp").unwrap();
    let call = || {
        let call = f.upm(["Probe", "run", r#"{"args":["echo",1]}"#]);
        call.env("XDG_STATE_HOME", roots.path().join("state")).run()
    };
    assert_eq!(call().result()["value"], json!([1]), "the control: the same program lends nothing");
    let lent = Command::new("/bin/sh").args(["-c", &format!("{lend} \"$0\"")]).arg(&upm).status().unwrap();
    assert!(lent.success());
    let data = call().failed("sandbox_unavailable", 125);
    assert_eq!(data["details"]["layer"], "capabilities", "{data:#}");
    assert_eq!(fs::read_dir(roots.path()).unwrap().count(), 0, "made with what was lent");
    for words in [vec!["list"], vec!["check"], vec!["doctor"], vec!["audit", "show"]] {
        let answer = f.upm(words.clone()).env("XDG_STATE_HOME", roots.path().join("state")).run();
        assert_eq!((answer.exit, answer.stdout.as_str()), (Some(125), ""), "{words:?}: {answer:#?}");
    }
    assert_eq!(f.upm(["--version"]).run().exit, Some(0));
    assert_eq!(fs::read_dir(roots.path()).unwrap().count(), 0);
}

/// A user's own capabilities (the ambient set, as systemd gives them) do not lead to a refusal.
#[test]
fn a_callers_own_capabilities_are_no_loan() {
    if !common::is_root() {
        skip("only root has some to give");
        return;
    }
    let Some(f) = Fixture::probe(Mode::User, "") else { return };
    let words = ["--inh-caps", "+chown", "--ambient-caps", "+chown"];
    let mut command = Command::new("setpriv");
    let id = f.uid.to_string();
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).args(words).arg("--");
    command.arg(f.path("bin/upm")).args(["Probe", "run", r#"{"args":["status"]}"#]).current_dir(f.dir());
    let output = command.env("XDG_STATE_HOME", f.path("home/state")).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(answer["data"]["result"]["CapEff"], "0000000000000000", "{answer:#}");
}

/// A filter of the host that says "done" in the kernel's place, as programs that play root for a container do: what has not
/// happened is found out, and nothing of the plugin runs.
#[rstest]
#[case::nothing(nix::libc::SYS_vhangup, "")]
#[case::landlock(nix::libc::SYS_landlock_restrict_self, "landlock: is not as planned")]
#[case::limits(nix::libc::SYS_prlimit64, "limit: core: is not as planned")]
#[case::session(nix::libc::SYS_setsid, "session: is not as planned")]
#[case::descriptors(nix::libc::SYS_close_range, "descriptor 9: would stay open")]
#[case::capabilities(nix::libc::SYS_capset, "CapPrm: is not as planned")]
#[case::no_new_privs(nix::libc::SYS_prctl, "is not as planned")]
#[case::mounts(nix::libc::SYS_mount_setattr, "is not as planned")]
fn a_step_that_was_only_said_to_be_done_is_found_out(
    #[case] call: nix::libc::c_long,
    #[case] told: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let touched = f.path("project/touched");
    let script = format!("exec 9</dev/null; exec {} without {call}=0 -- \"$0\" \"$@\"", f.text("plugins/upm-probe"));
    let arguments = json!({"args": ["write", touched, "x"]}).to_string();
    let answer = f.upm(["Probe", "run", &arguments]).through(["/bin/sh", "-c", &script]).run();
    if told.is_empty() {
        assert_ok(&answer.result());
        assert!(touched.exists(), "the control");
        return;
    }
    let data = answer.failed("sandbox_failed", 125);
    assert!(data["error"].as_str().unwrap().contains(told), "{data:#}");
    assert!(!touched.exists());
}
