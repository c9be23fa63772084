//! `upm doctor`: every layer tried both ways, and what is around them. Its output for missing layers is tested in
//! `missing_layers.rs`.

mod common;

use common::{Answer, Fixture, Mode, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

const LAYERS: [&str; 7] = ["namespaces", "root", "limits", "capabilities", "landlock", "seccomp", "egress"];

#[track_caller]
fn report(answer: &Answer) -> Value {
    serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"))
}

#[track_caller]
fn line(answer: &Answer, layer: &str) -> Value {
    let report = report(answer);
    let lines = report["layers"].as_array().unwrap();
    lines.iter().find(|line| line["layer"] == layer).unwrap_or_else(|| panic!("no {layer}: {report:#}")).clone()
}

#[rstest]
fn every_layer_is_tried_both_ways(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let answer = f.upm(["doctor", "--json"]).run();
    assert_eq!(answer.exit, Some(0), "{answer:#?}");
    let all = report(&answer);
    assert_eq!(all["ok"], true, "{all:#}");
    assert!(all["kernel"].as_str().unwrap().contains('.'));
    let works = ["works", "opens", "connects", "1000:1000", "lo", "set"];
    for layer in LAYERS {
        let line = line(&answer, layer);
        assert_eq!((&line["holds"], &line["remedy"]), (&json!(true), &Value::Null), "{line:#}");
        let tried = line["tried"].as_array().unwrap();
        for one in tried {
            assert_eq!(one["got"], one["expected"], "{layer}: {one:#}");
        }
        let good = |one: &&Value| works.contains(&one["got"].as_str().unwrap());
        assert!(tried.iter().any(|one| good(&one)), "{layer}: an act that must work: {line:#}");
        assert!(tried.iter().any(|one| !good(&one)), "{layer}: an act that must not: {line:#}");
    }
    let tried = |layer: &str, act: &str| {
        let line = line(&answer, layer);
        let tried = line["tried"].as_array().unwrap();
        let one = tried.iter().find(|one| one["act"].as_str().unwrap().starts_with(act));
        one.unwrap_or_else(|| panic!("{layer}: {act}: {line:#}"))["got"].as_str().unwrap().to_owned()
    };
    for (layer, act, got) in [
        ("namespaces", "unshare(CLONE_NEWUSER)", "EPERM, reported as a denial"),
        ("root", "open /etc/shadow", "ENOENT"),
        ("root", "create a file in /usr", "EROFS"),
        ("root", "descriptors inherited through exec", "0 1 2 3"),
        ("limits", "open_files = 32", "32 at most, then EMFILE"),
        ("seccomp", "mount", "EPERM, reported as a denial"),
        ("seccomp", "ptrace", "EPERM, reported as a denial"),
        ("egress", "connect to an abstract socket", "ECONNREFUSED"),
        ("egress", "look up", "no address, reported as a denial"),
    ] {
        assert_eq!(tried(layer, act), got, "{layer}: {act}");
    }
    f.assert_clean();
}

/// `doctor-inside` is not a command: it needs a socket on descriptor 3, and its acts do no harm.
#[rstest]
fn the_trial_answers_only_on_a_socket(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let answer = f.upm(["doctor-inside"]).run();
    let data = answer.failed("usage", 2);
    assert!(data["error"].as_str().unwrap().starts_with("doctor-inside: unknown command"), "{data:#}");
    assert!(!f.upm(["--help"]).run().stdout.contains("doctor-inside"));

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let mut command = f.as_caller(std::path::Path::new("/bin/sh"));
    command.args(["-c", r#"exec "$0" doctor-inside 3<&0 </dev/null"#]).arg(f.path("bin/upm"));
    let mut child = command.stdin(Stdio::from(OwnedFd::from(theirs))).spawn().unwrap();
    // the pair's other end is in the command too
    drop(command);
    let asks = json!(["ids", "mount", "no_new_privileges", { "open": "/etc/passwd" }, { "open": "/no/such" }]);
    std::io::Write::write_all(&mut ours, format!("{}\n", json!({ "args": asks })).as_bytes()).unwrap();
    let told: Value = serde_json::from_str(&std::io::read_to_string(&ours).unwrap()).unwrap();
    child.wait().unwrap();
    let uid = f.uid;
    let gid = if common::is_root() { uid } else { nix::unistd::getegid().as_raw() };
    assert_eq!(told["result"], json!([format!("{uid}:{gid}"), "ENOENT", "not set", "opens", "ENOENT"]), "{told}");
}

/// With a configuration, its audit sinks and grants are checked too.
#[rstest]
fn the_configuration_is_part_of_it(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let doctor = |words: &[&str]| f.upm([&["doctor", "--json"], words].concat()).run();
    let answer = doctor(&[]);
    assert_eq!(line(&answer, "configuration")["found"], f.text("upm_config.toml"));
    assert_eq!(line(&answer, "audit")["found"], f.text("audit/audit.jsonl"));

    // none is fine
    let elsewhere = f.mkdir("elsewhere");
    let none = f.upm(["doctor", "--json"]).cwd(&elsewhere).run();
    if !std::path::Path::new("/etc/upm/upm_config.toml").exists() {
        assert_eq!(none.exit, Some(0), "{none:#?}");
        assert!(report(&none)["layers"].as_array().unwrap().iter().all(|line| line["layer"] != "configuration"));
    }

    // an invalid or missing one that is named is an error
    f.write("bad.toml", "[plugins.Probe]\nexec = 7\n");
    for name in ["bad.toml", "missing.toml"] {
        let bad = doctor(&["--config", &f.text(name)]);
        assert_eq!(bad.exit, Some(1), "{bad:#?}");
        let found = line(&bad, "configuration");
        assert!(found["holds"] == json!(false) && found["found"].as_str().unwrap().contains(name), "{found:#}");
        assert_eq!(line(&bad, "namespaces")["holds"], true, "the layers are still tried");
    }

    // a sink that is not available
    let head = f.config_head().replace("\"off\"", "\"required\"");
    f.write("journald.toml", format!("{head}{}", common::PROBE));
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        let audit = doctor(&["--config", &f.text("journald.toml")]);
        assert_eq!(audit.exit, Some(1), "{audit:#?}");
        let audit = line(&audit, "audit");
        assert!(audit["holds"] == json!(false) && audit["remedy"].as_str().is_some_and(|r| r.len() > 10), "{audit:#}");
    }

    // a higher landlock ABI than the kernel's
    f.config(&format!("{}landlock_min_abi = 99\n", common::PROBE));
    let landlock = doctor(&[]);
    assert_eq!(landlock.exit, Some(1), "{landlock:#?}");
    let told = line(&landlock, "landlock");
    let call = f.run("echo", Value::Null).failed("sandbox_unavailable", 125);
    assert_eq!((&call["details"]["layer"], &call["details"]["remedy"]), (&json!("landlock"), &told["remedy"]));
    assert!(told["remedy"].as_str().unwrap().contains("landlock_min_abi"), "{told:#}");
}

/// As root every granted path must be on a file system that supports id mapping. The control is on one that does.
#[test]
fn file_systems_without_id_mapping_are_named() {
    let Some(f) = Fixture::probe(Mode::Root, "write = [\"{project_root}\"]") else { return };
    let answer = f.upm(["doctor", "--json"]).run();
    let good = line(&answer, "id mapping");
    assert_eq!(good["holds"], true, "{good:#}");
    assert!(good["tried"][0]["act"].as_str().unwrap().contains(&f.text("project")), "{good:#}");

    // The root of a user namespace cannot id-map its own file systems.
    let answer = f.upm(["doctor", "--json"]).host("limited", "user=100").run();
    assert_eq!(answer.exit, Some(1), "{answer:#?}");
    let bad = line(&answer, "id mapping");
    let found = bad["found"].as_str().unwrap();
    assert!(bad["holds"] == json!(false) && found.starts_with(&format!("{} (", f.text("project"))), "{bad:#}");
    assert!(bad["remedy"].as_str().unwrap().contains("run_as"), "{bad:#}");
    assert_eq!(line(&answer, "namespaces")["holds"], true);

    // files of the plugin's user need no mapping
    std::os::unix::fs::chown(f.path("project"), Some(65534), Some(65534)).unwrap();
    f.config(&format!("{}run_as = \"65534\"\nwrite = [\"{{project_root}}\"]\n", common::PROBE));
    let answer = f.upm(["doctor", "--json"]).host("limited", "user=100").run();
    assert_eq!(line(&answer, "id mapping")["holds"], true, "{answer:#?}");
}

/// A trial that fails is neither yes nor no.
#[test]
fn what_could_not_be_tried_is_125() {
    if !common::is_root() {
        return skip("needs root, to take the program away from another user");
    }
    let Some(f) = Fixture::bare(Mode::Root) else { return };
    let own = f.path("bin/own");
    std::fs::copy(f.path("bin/upm"), &own).unwrap();
    std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let run = || f.as_caller(&own).arg("doctor").current_dir(f.dir()).output().unwrap();
    let output = run();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(125), "{text}");
    assert!(text.contains("unknown  root") && text.contains("chmod a+rx") && text.contains("ok       audit"), "{text}");
    std::fs::set_permissions(&own, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(run().status.code(), Some(0));
}
