//! That the probe answers at all. Having a test of its own also makes `cargo test --workspace` build the program, which
//! the engine's tests run.

use serde_json::Value;
use std::process::Command;

#[test]
fn an_act_answers_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_upm-probe")).args(["echo", "7", "seven"]).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, serde_json::json!({ "errno": 0, "errno_name": null, "ok": true, "value": [7, "seven"] }));
}
