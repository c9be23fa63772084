//! SIGKILL of the supervisor, at any moment: nothing is left.

mod common;

use common::{Fixture, Mode};
use nix::sys::signal::Signal;
use rstest::rstest;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// From the first microsecond to a call that is well under way; the steps are closer together where the sandbox is
/// being made.
#[rstest]
fn nothing_is_left_behind_at_any_moment(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]\ntimeout = \"30s\"") else { return };
    let host_mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count();
    let before = host_mounts();
    let args = json!({"args": ["batch", ["orphan", 30], ["sleep", 30]]}).to_string();
    for n in 0..60_u64 {
        let running = f.upm(["Probe", "run", &args]).start();
        std::thread::sleep(Duration::from_micros(250 * n + 37 * (n % 7)));
        running.signal(Signal::SIGKILL);
        assert_eq!(running.wait().signal, Some(9));
        f.assert_clean();
    }
    assert_eq!(host_mounts(), before);
    // and the next call is as good as the first
    assert_eq!(f.act("echo", json!([1]))["value"], json!([1]));
}

#[rstest]
fn a_running_plugin_dies_with_its_supervisor(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]\ntimeout = \"60s\"") else { return };
    let begun = f.text("project/begun");
    let args = json!({"args": ["batch", ["orphan", 60], ["sleep", 60, begun]]}).to_string();
    let running = f.upm(["Probe", "run", &args]).start();
    while !Path::new(&begun).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(f.leftovers().len() >= 3, "the control: processes are seen while it runs: {:?}", f.leftovers());
    running.signal(Signal::SIGKILL);
    running.wait();
    f.assert_clean();
}

/// The reader of stdout goes away: no hang, no leftover.
#[rstest]
fn a_closed_stdout_ends_well(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let script = r#""$0" "$@" | exec true"#;
    let answer = f.upm(["Probe", "run", r#"{"args":["echo"]}"#]).through(["/bin/sh", "-c", script]).run();
    assert_eq!(answer.stdout, "");
    f.assert_clean();
}
