//! The channel to a hostile plugin: whatever comes, the call ends with a name.

mod common;

use common::{Fixture, Mode, has_program};
use rstest::rstest;
use serde_json::{Value, json};
use std::time::Duration;

fn f(mode: Mode) -> Option<Fixture> {
    Fixture::probe(mode, "timeout = \"5s\"\nresult = \"1MiB\"")
}

#[rstest]
#[case("garbage")]
#[case("not_utf8")]
#[case("unfinished")]
#[case("duplicate")]
#[case("duplicate_nested")]
#[case("duplicate_type")]
#[case("nan")]
#[case("unknown_type")]
#[case("missing_type")]
#[case("array")]
#[case("empty_line")]
#[case("two")]
#[case("trailing")]
#[case("progress_bad")]
fn what_is_no_frame_is_a_violation_of_the_protocol(#[case] how: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let answer = f.run(&format!("frame_{how}"), Value::Null);
    let data = answer.failed("protocol_violation", 1);
    assert!(answer.took < Duration::from_secs(3), "{:?}", answer.took);
    assert!(!data["error"].as_str().unwrap().contains('\u{1b}'), "escape sequences in an error: {data:#}");
    f.assert_clean();
}

/// On a busy host a whole start fits between two system calls of the supervisor: here between sending the call frame and what
/// follows. The sandbox's own reports are still read before the answer.
#[rstest]
fn an_answer_does_not_overtake_the_reports_of_the_start(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !has_program("strace") {
        return;
    }
    let Some(f) = f(mode) else { return };
    let late = ["-e", "trace=sendto", "-e", "inject=sendto:delay_exit=500000:when=1"];
    let call = f.upm(["Probe", "run", r#"{"args":["echo",1]}"#]);
    call.through([["strace", "-f", "-qq", "-o", "/dev/null"].as_slice(), &late].concat()).run().result();
}

#[rstest]
fn deep_nesting_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    assert_eq!(f.run("frame_deep", json!([20])).result().to_string(), format!("{}1{}", "[".repeat(20), "]".repeat(20)));
    f.run("frame_deep", json!([100_000])).failed("protocol_violation", 1);
    f.run("frame_deep", json!([300])).failed("protocol_violation", 1);
}

#[rstest]
fn a_frame_has_its_size(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    assert_eq!(f.run("frame_sized", json!([1_000_000])).exit, Some(0));
    f.run("frame_sized", json!([1_100_000])).failed("result_too_large", 1);
    let endless = f.run("frame_endless", Value::Null);
    endless.failed("result_too_large", 1);
    assert!(endless.took < Duration::from_secs(3), "{:?}", endless.took);
    f.assert_clean();
}

#[rstest]
fn ends_without_a_frame(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    f.run("frame_none", Value::Null).failed("plugin_exited", 1);
    let data = f.run("exit", json!([3, "last words"])).failed("plugin_exited", 1);
    assert_eq!(data["details"]["exit_status"], 3, "{data:#}");
    assert_eq!(data["output"]["stderr"], "last words");
    f.run("frame_closed", Value::Null).failed("plugin_exited", 1);
    // the channel closed, the process still there: the deadline decides or the end of the channel does
    let answer = f.run("frame_closed_sleep", json!([60]));
    assert!([Some(1), Some(124)].contains(&answer.exit), "{:#}", answer.data());
    f.assert_clean();
}

/// The plugin's own process is the one that answers: what a grandchild says after its end is not heard.
#[rstest]
fn a_result_after_the_end_is_not_heard(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    f.run("frame_after_exit", Value::Null).failed("plugin_exited", 1);
    assert_eq!(f.run("frame_result_then_after_exit", Value::Null).result(), "good");
    f.assert_clean();
}

#[rstest]
fn progress_is_taken_and_does_not_disturb(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    assert_eq!(f.run("frame_progress", json!([1000])).result(), "good");
    let answer = f.upm(["Probe", "run", r#"{"args":["frame_progress_forever"]}"#, "--timeout", "1s"]).run();
    answer.failed("timeout", 124);
    assert!(answer.took < Duration::from_secs(3), "{:?}", answer.took);
    f.assert_clean();
}

/// A descriptor passed with a frame is never received; a socket that would linger at its close blocks no one.
#[rstest]
fn passed_descriptors_are_dropped(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("file", "linger")] what: &str,
) {
    let Some(f) = f(mode) else { return };
    let answer = f.run("frame_with_descriptor", json!([what]));
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
    answer.envelope();
    f.assert_clean();
}

/// A plugin that does not read its call frame, however large, holds nobody beyond the deadline.
#[rstest]
#[case("sleep", "timeout", 124)]
#[case("close", "plugin_exited", 1)]
fn a_plugin_that_stops_reading(
    #[case] before: &str,
    #[case] code: &str,
    #[case] exit: i32,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(
        mode,
        &format!("timeout = \"3s\"\narguments = \"8MiB\"\nenv = {{ PROBE_BEFORE = \"{before}\" }}"),
    ) else {
        return;
    };
    let large = json!({"args": ["echo", "x".repeat(4 << 20)]}).to_string();
    let answer = f.upm(["Probe", "run", "-"]).stdin(large).run();
    answer.failed(code, exit);
    assert!(answer.took < Duration::from_secs(5), "{:?}", answer.took);
    f.assert_clean();
}

#[rstest]
fn large_frames_pass_both_ways(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "arguments = \"8MiB\"\nresult = \"16MiB\"") else { return };
    let text = "ä\u{1f600}\"\\\u{1}x".repeat(300_000);
    let answer = f.upm(["Probe", "run", "-"]).stdin(json!({"args": ["echo", text]}).to_string()).run();
    assert_eq!(answer.result()["value"][0], json!(text));
}

#[rstest]
fn the_call_frame_is_as_promised(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let answer = f.upm(["Probe", "run", r#"{"args":["call_frame",1],"kwargs":{"k":null}}"#]).run();
    let frame = answer.result();
    assert_eq!(frame["type"], "call");
    assert_eq!(frame["request_id"], answer.envelope()["request_id"]);
    assert_eq!((frame["plugin"].as_str(), frame["method"].as_str()), (Some("Probe"), Some("run")));
    assert_eq!(frame["args"], json!(["call_frame", 1]));
    assert_eq!(frame["kwargs"], json!({ "k": null }));
    assert!(frame["init"].is_object(), "{frame:#}");
}
