//! Nothing of the supervisor's environment, arguments or memory is visible inside.

mod common;

use common::{Fixture, Mode, unique};
use rstest::rstest;
use serde_json::json;

fn reversed(marker: &str) -> String {
    marker.chars().rev().collect()
}

#[rstest]
fn no_secret_comes_along(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let marker = unique("upm-secret");
    let tables = format!(
        "{}[plugins.Other]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nenv = {{ TOKEN = \"{marker}\" }}\npolicy = {{ token = \"{marker}\" }}\n",
        common::PROBE
    );
    let Some(f) = Fixture::new(mode, &tables) else { return };
    f.write("home/token", &marker);
    let find = json!({"args": ["find_marker", reversed(&marker), "/proc/1/environ", "/proc/1/cmdline", "/proc/1/mem"]})
        .to_string();
    let answer = f
        .upm(["--config", f.path("upm_config.toml").to_str().unwrap(), "Probe", "run", &find])
        .env("UPM_TEST_SECRET", &marker)
        .env("AWS_SECRET_ACCESS_KEY", &marker)
        .run();
    let result = answer.result();
    assert_eq!(result["found"], json!([]), "{result:#}");
    assert!(result["looked_at_bytes"].as_u64().unwrap() > 100_000, "{result:#}");
    assert!(!answer.stdout.contains(&marker));
}

/// The control: the same search finds what is granted.
#[rstest]
fn the_search_finds_what_is_there(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "env_pass = [\"PASSED\"]") else { return };
    let marker = unique("upm-secret");
    let find = json!({"args": ["find_marker", reversed(&marker)]}).to_string();
    let result = f.upm(["Probe", "run", &find]).env("PASSED", &marker).run().result();
    let found = result["found"].to_string();
    assert!(found.contains("environ") && found.contains("memory"), "{result:#}");
}

#[rstest]
fn arguments_are_not_in_the_audit_unless_asked_for(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let marker = unique("upm-secret");
    f.act("echo", json!([marker]));
    assert!(!format!("{:?}", f.audit()).contains(&marker));
    let config = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    f.write("upm_config.toml", config.replace("[audit]\n", "[audit]\narguments = \"full\"\n"));
    f.act("echo", json!([marker]));
    assert!(format!("{:?}", f.audit()).contains(&marker), "the control");
}
