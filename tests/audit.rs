//! The audit record: stored before anything runs, or the call is refused.

mod common;

use common::{Fixture, Mode, has_program, skip, unique, which};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

fn events(f: &Fixture) -> Vec<String> {
    f.audit().iter().map(|r| r["UPM_EVENT"].as_str().unwrap().to_owned()).collect()
}

#[rstest]
fn each_call_is_started_and_finished(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let envelope = f.run("privileged", json!(["bpf"])).envelope();
    assert_eq!(events(&f), ["call_started", "denial", "call_finished"]);
    let records = f.audit();
    for record in &records {
        assert_eq!(record["UPM_REQUEST_ID"], envelope["request_id"], "{record:#}");
        assert_eq!(
            (record["UPM_PLUGIN"].as_str(), record["UPM_METHOD"].as_str()),
            (Some("Probe"), Some("run")),
            "{record:#}"
        );
        assert_eq!(record["UPM_CALLER_UID"].to_string().trim_matches('"'), f.uid.to_string(), "{record:#}");
        assert!(record.get("UPM_LOGIN_UID").is_some(), "{record:#}");
    }
    let started = &records[0];
    let finished = records.last().unwrap();
    for digest in ["UPM_ARGS_SHA256", "UPM_POLICY_SHA256", "UPM_PLUGIN_SHA256"] {
        let text = started[digest].as_str().unwrap_or_else(|| panic!("{digest}: {started:#}"));
        assert!(text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}: {text}");
    }
    assert_eq!(finished["UPM_CODE"], "ok");
    assert!(finished["UPM_DURATION_US"].to_string().trim_matches('"').parse::<u64>().unwrap() > 0);
    assert_eq!(finished["UPM_DENIALS"].to_string().trim_matches('"'), "1");
}

#[rstest]
fn refusals_are_recorded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    f.call("Nope", "run", &json!([])).failed("plugin_not_allowed", 126);
    f.call("Probe", "nope", &json!([])).failed("method_not_allowed", 126);
    f.upm(["Probe", "run", "{"]).run().failed("arguments_invalid", 2);
    assert_eq!(events(&f), ["call_refused"; 3]);
    let codes: Vec<Value> = f.audit().iter().map(|r| r["UPM_CODE"].clone()).collect();
    assert_eq!(codes, ["plugin_not_allowed", "method_not_allowed", "arguments_invalid"]);
}

#[rstest]
fn nothing_runs_without_a_record(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let touch = json!([f.text("project/touched"), "x"]);
    // the file is a directory: it can't be opened, as root neither
    f.mkdir("audit/audit.jsonl");
    f.run("write", touch.clone()).failed("audit_unavailable", 125);
    assert!(!f.path("project/touched").exists());
    fs::remove_dir(f.path("audit/audit.jsonl")).unwrap();
    // a file that is full
    std::os::unix::fs::symlink("/dev/full", f.path("audit/audit.jsonl")).unwrap();
    let data = f.run("write", touch.clone()).data();
    assert!(["audit_unavailable", "config_invalid"].contains(&data["code"].as_str().unwrap()), "{data:#}");
    assert!(!f.path("project/touched").exists());
    fs::remove_file(f.path("audit/audit.jsonl")).unwrap();
    assert_eq!(f.act("write", touch)["ok"], true, "the control");
}

/// A FIFO that no one reads, or a file that another process holds locked, keeps nobody longer than 2 s.
#[rstest]
fn a_stuck_file_does_not_hang(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    nix::unistd::mkfifo(&f.path("audit/audit.jsonl"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let answer = f.run("echo", Value::Null);
    assert_eq!(answer.exit, Some(125), "{:#}", answer.data());
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
}

#[rstest]
fn records_of_many_calls_at_once_do_not_mix(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let running: Vec<_> =
        (0..12).map(|n| f.upm(["Probe", "run", &json!({"args": ["echo", n]}).to_string()]).start()).collect();
    for call in running {
        assert_eq!(call.wait().exit, Some(0));
    }
    let records = f.audit();
    assert_eq!(records.len(), 24);
    let mut ids: Vec<String> = records.iter().map(|r| r["UPM_REQUEST_ID"].to_string()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 12);
}

/// Newlines and escapes in names end up as data of one record.
#[rstest]
fn a_record_is_one_line(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    f.upm(["Probe", "run\n{\"UPM_EVENT\":\"forged\"}", "{}"]).run();
    f.upm(["Nope\u{1b}[2J", "run", "{}"]).run();
    let text = fs::read_to_string(f.path("audit/audit.jsonl")).unwrap_or_default();
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(f.audit().iter().all(|r| r["UPM_EVENT"] == "call_refused"), "{text}");
    let mode = fs::metadata(f.path("audit/audit.jsonl")).map_or(0, |data| data.permissions().mode() & 0o777);
    assert_eq!(mode & 0o022, 0, "others can't write: {mode:o}");
}

/// systemd's journald, started by hand, with its socket where `upm` looks for it.
struct Journald {
    child: Child,
    was_there: bool,
}

const SOCKET: &str = "/run/systemd/journal/socket";

impl Journald {
    fn start() -> Option<Journald> {
        if !common::is_root() {
            skip("starting journald needs root");
            return None;
        }
        if !has_program("systemd-journald") || !has_program("journalctl") {
            return None;
        }
        if Path::new(SOCKET).exists()
            && Command::new("systemctl").arg("is-system-running").output().is_ok_and(|o| o.status.success())
        {
            skip("a journald of the host's own runs");
            return None;
        }
        let was_there = Path::new("/run/systemd/journal").exists();
        fs::create_dir_all("/run/systemd/journal").unwrap();
        fs::create_dir_all("/run/log/journal").unwrap();
        let child = Command::new(which("systemd-journald").unwrap())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let journald = Journald { child, was_there };
        let end = Instant::now() + Duration::from_secs(10);
        while std::os::unix::net::UnixDatagram::unbound().unwrap().connect(SOCKET).is_err() {
            if Instant::now() > end {
                drop(journald);
                skip("journald did not open its socket");
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(journald)
    }

    /// Records with this request id, as journalctl reads them back.
    fn read(&self, request_id: &str, count: usize) -> Vec<Value> {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let output = Command::new("journalctl")
                .args(["-o", "json", "--all", "-D", "/run/log/journal", &format!("UPM_REQUEST_ID={request_id}")])
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let records: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            if records.len() >= count || Instant::now() > end {
                return records;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Journald {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.was_there {
            let _ = fs::remove_dir_all("/run/systemd/journal");
        }
    }
}

/// One test for all that needs journald: there is one socket for the whole host.
#[test]
fn journald_holds_the_record() {
    let Some(mut journald) = Journald::start() else { return };
    let mut ids = Vec::new();
    for mode in [Mode::Root, Mode::User] {
        let f = Fixture::probe(mode, "").unwrap();
        let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
        let file = format!("file = \"{}\"\n", f.text("audit/audit.jsonl"));
        f.write(
            "upm_config.toml",
            config.replace("journald = \"off\"", "journald = \"required\"\narguments = \"full\"").replace(&file, ""),
        );
        let marker = format!("{}\nnewline=forged", unique("line"));
        let answer = f.run("echo", json!([marker]));
        let id = answer.envelope()["request_id"].as_str().unwrap().to_owned();
        assert_eq!(answer.exit, Some(0), "{:#}", answer.data());
        let records = journald.read(&id, 2);
        let events: Vec<&str> = records.iter().filter_map(|r| r["UPM_EVENT"].as_str()).collect();
        assert_eq!(events, ["call_started", "call_finished"], "{records:#?}");
        let started = &records[0];
        assert_eq!((started["UPM_PLUGIN"].as_str(), started["UPM_METHOD"].as_str()), (Some("Probe"), Some("run")));
        assert_eq!(started["_UID"].as_str(), Some(f.uid.to_string().as_str()), "journald's own word for who wrote it");
        assert!(started.to_string().contains("newline=forged") && started.get("newline").is_none(), "{started:#}");
        ids.push(id);
    }
    // gone: what is required refuses, what is off does not ask
    journald.child.kill().unwrap();
    journald.child.wait().unwrap();
    for mode in [Mode::Root, Mode::User] {
        let f = Fixture::probe(mode, "").unwrap();
        assert_eq!(f.act("echo", Value::Null)["ok"], true);
        let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
        f.write("upm_config.toml", config.replace("journald = \"off\"", "journald = \"required\""));
        let answer = f.run("echo", Value::Null);
        answer.failed("audit_unavailable", 125);
        assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
        // auto falls back to the file
        f.write("upm_config.toml", config.replace("journald = \"off\"", "journald = \"auto\""));
        let before = f.audit().len();
        assert_eq!(f.act("echo", Value::Null)["ok"], true);
        assert_eq!(f.audit().len(), before + 2);
    }
}
