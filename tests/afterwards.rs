//! What a plugin's process does after it has answered takes the answer away from nobody.

mod common;

use common::{Answer, Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};
use std::time::Duration;

/// Each method returns at once; they differ in how the process ends.
const LEAVES: &str = r#"
import atexit, os, signal, sys, threading, time
import upm

def later(act, delay=0.2):
    def run():
        time.sleep(delay)
        act()
    threading.Thread(target=run).start()

def spin():
    while True:
        pass

def hoard():
    # what is not touched is not counted
    kept = []
    while True:
        kept.append(bytearray(b"x" * (1 << 20)))
        time.sleep(0.002)

class Leaves:
    version = "7"

    def by_itself(self): return "kept"
    def fails(self): raise ValueError("own words")

    def raises(self):
        atexit.register(lambda: 1 / 0)
        atexit.register(lambda: sys.exit(3))
        threading._register_atexit(lambda: [][0])
        return "kept"

    def exits(self):
        atexit.register(lambda: os._exit(7))
        return "kept"

    def is_killed(self, number):
        atexit.register(lambda: os.kill(os.getpid(), number))
        return "kept"

    def fails_and_is_killed(self):
        atexit.register(lambda: os.kill(os.getpid(), signal.SIGSEGV))
        raise ValueError("own words")

    def hangs(self):
        atexit.register(lambda: time.sleep(60))
        return "kept"

    def thread_hangs(self):
        later(lambda: time.sleep(60), 0)
        return "kept"

    def spins(self):
        atexit.register(spin)
        return "kept"

    def hoards(self):
        atexit.register(hoard)
        return "kept"

    def tells(self):
        atexit.register(lambda: upm.progress("at exit", 0.5))
        later(lambda: upm.progress("from a thread", 0.5))
        return "kept"

    def order(self):
        from concurrent.futures import ThreadPoolExecutor
        pool = ThreadPoolExecutor(1)
        pool.submit(lambda: (time.sleep(0.3), print("worker")))
        daemon = threading.Thread(target=time.sleep, args=(60,), daemon=True)
        daemon.start()
        later(lambda: print("thread"), 0.5)
        threading._register_atexit(lambda: print("hook of threads"))
        atexit.register(lambda: print("atexit", pool._shutdown, threading.main_thread().is_alive()))
        return "kept"

    def tries_what_is_denied(self):
        import ctypes
        atexit.register(lambda: ctypes.CDLL(None).syscall(312, 0, 0, 0, 0, 0))
        return "kept"
"#;

const METHODS: &str = r#"["by_itself", "fails", "raises", "exits", "is_killed", "fails_and_is_killed", "hangs", "thread_hangs", "spins", "hoards", "tells", "order", "tries_what_is_denied"]"#;

fn leaves(mode: Mode, grant: &str) -> Option<Fixture> {
    let f =
        Fixture::new(mode, &format!("[plugins.Leaves]\nmodule = \"leaves\"\nallowed_methods = {METHODS}\n{grant}\n"))?;
    f.python("leaves", LEAVES);
    Some(f)
}

fn call(f: &Fixture, method: &str, args: Value) -> Answer {
    f.call("Leaves", method, &args)
}

/// The code that its end has, where it has one.
fn kept(answer: &Answer) -> Option<String> {
    assert_eq!(answer.result(), "kept");
    let data = answer.data();
    assert_eq!(data["plugin_version"], "7");
    data.get("afterwards").map(|end| end["code"].as_str().unwrap().to_owned())
}

#[rstest]
fn a_result_is_the_answer_however_its_process_leaves(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = leaves(mode, "timeout = \"20s\"") else { return };
    for (method, args, end) in [
        ("by_itself", json!([]), None),
        ("exits", json!([]), None),
        ("tells", json!([]), None),
        ("is_killed", json!([11]), Some("plugin_killed")),
        ("is_killed", json!([9]), Some("plugin_killed")),
        ("is_killed", json!([31]), Some("plugin_killed")),
    ] {
        let answer = call(&f, method, args.clone());
        assert_eq!(kept(&answer).as_deref(), end, "{method} {args}");
        assert_eq!(answer.exit, Some(0), "{method}");
    }
    let raised = call(&f, "raises", json!([]));
    assert_eq!(kept(&raised), None);
    let stderr = raised.data()["output"]["stderr"].as_str().unwrap().to_owned();
    assert!(stderr.contains("ZeroDivisionError") && stderr.contains("IndexError"), "what the others say: {stderr}");
    f.assert_clean();
}

#[rstest]
fn a_result_is_the_answer_when_a_limit_ends_its_process(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = leaves(mode, "timeout = \"1500ms\"") else { return };
    for method in ["hangs", "thread_hangs"] {
        let answer = call(&f, method, json!([]));
        assert_eq!(kept(&answer).as_deref(), Some("timeout"), "{method}");
        assert!(answer.took < Duration::from_secs(4), "{method}: {:?}", answer.took);
        assert_eq!(answer.denials("limits", "timeout").len(), 1, "{method}: the limit is named");
    }
    f.config(&format!("[plugins.Leaves]\nmodule = \"leaves\"\nallowed_methods = {METHODS}\ncpu_time = \"1s\"\n"));
    let answer = call(&f, "spins", json!([]));
    assert_eq!(kept(&answer).as_deref(), Some("cpu_time_exceeded"));
    assert_eq!(answer.denials("limits", "cpu_time").len(), 1, "the limit is named");
    f.assert_clean();
}

#[rstest]
fn a_result_is_the_answer_when_its_process_takes_too_much(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = leaves(mode, "memory = \"64MiB\"\ntimeout = \"20s\"") else { return };
    let answer = call(&f, "hoards", json!([]));
    // its own limit first, in which case Python says so and ends
    let end = kept(&answer);
    assert!(end.is_none() || end.as_deref() == Some("memory_exceeded"), "{end:?}");
    assert!(answer.took < Duration::from_secs(10), "{:?}", answer.took);
}

#[rstest]
fn a_failure_is_the_answer_too(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = leaves(mode, "") else { return };
    for (method, end) in [("fails", Value::Null), ("fails_and_is_killed", json!("plugin_killed"))] {
        let data = call(&f, method, json!([])).failed("plugin_raised", 1);
        assert_eq!(data["error"], "ValueError: own words");
        assert_eq!(data["afterwards"]["code"], end, "{data:#}");
    }
}

#[rstest]
fn a_plugin_leaves_as_any_python_does(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = leaves(mode, "") else { return };
    let answer = call(&f, "order", json!([]));
    assert_eq!(kept(&answer), None);
    let stdout = answer.data()["output"]["stdout"].as_str().unwrap().to_owned();
    let python = std::process::Command::new("/usr/bin/python3")
        .args(["-I", "-u", "-c"])
        .arg(format!("import sys, types\nsys.modules['upm'] = types.ModuleType('upm')\n{LEAVES}\nLeaves().order()\n"))
        .output()
        .unwrap();
    assert!(python.status.success(), "{python:?}");
    assert_eq!(stdout, String::from_utf8_lossy(&python.stdout), "in Python's own order");
    assert!(stdout.starts_with("hook of threads\nworker\nthread\natexit "), "{stdout}");
}

/// If the engine itself ends the call, its reason replaces the result: the plugin's process cannot do that.
#[rstest]
fn what_ends_the_call_by_policy_or_by_the_caller_is_the_answer(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = leaves(mode, "on_violation = \"kill\"\ntimeout = \"20s\"") else { return };
    call(&f, "tries_what_is_denied", json!([])).failed("violation", 159);
    let running = f.upm(["Leaves", "hangs"]).start();
    std::thread::sleep(Duration::from_millis(1200));
    running.signal(nix::sys::signal::Signal::SIGTERM);
    running.wait().failed("cancelled", 143);
    f.config(&format!("[plugins.Leaves]\nmodule = \"leaves\"\nallowed_methods = {METHODS}\n"));
    assert_eq!(kept(&call(&f, "tries_what_is_denied", json!([]))), None, "the control");
}

/// The same for a program that is not Python: the last frame counts, and anything after it on the channel breaks the protocol.
#[rstest]
fn a_programs_last_frame_is_the_answer(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"1s\"") else { return };
    let answer = f.run("frame_good_then_sleep", json!([60]));
    assert_eq!(answer.result(), "good");
    assert_eq!(answer.data()["afterwards"]["code"], "timeout");
    f.run("frame_two", Value::Null).failed("protocol_violation", 1);
    f.run("sleep", json!([60])).failed("timeout", 124);
    f.assert_clean();
}
