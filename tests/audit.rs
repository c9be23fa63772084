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

/// `upm audit show --json` with more words: its exit status and what it prints.
fn shown(f: &Fixture, words: &[&str]) -> (Option<i32>, Vec<Value>, Value) {
    let answer = f.upm([&["audit", "show", "--json"], words].concat()).run();
    let document: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"));
    (answer.exit, document["calls"].as_array().unwrap().clone(), document["sources"].clone())
}

#[rstest]
fn the_story_of_each_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    assert_eq!(shown(&f, &[]).0, Some(1), "nothing is on record");
    let denied = f.run("privileged", json!(["bpf"])).envelope()["request_id"].as_str().unwrap().to_owned();
    f.call("Probe", "nope", &json!([])).failed("method_not_allowed", 126);
    f.call("Other", "run", &json!([])).failed("plugin_not_allowed", 126);
    let (exit, calls, sources) = shown(&f, &[]);
    let states: Vec<(&str, &str)> =
        calls.iter().map(|c| (c["state"].as_str().unwrap(), c["code"].as_str().unwrap())).collect();
    assert_eq!(
        (exit, states.as_slice()),
        (Some(0), &[("finished", "ok"), ("refused", "method_not_allowed"), ("refused", "plugin_not_allowed")][..])
    );
    assert_eq!(sources[0]["source"], f.text("audit/audit.jsonl"), "{sources:#}");
    let first = &calls[0];
    assert_eq!(
        (&first["request_id"], &first["plugin"], &first["method"]),
        (&json!(denied), &json!("Probe"), &json!("run"))
    );
    assert_eq!(
        (first["caller_uid"].as_u64(), first["denials"][0]["operation"].as_str()),
        (Some(f.uid.into()), Some("bpf"))
    );
    assert!(first["duration_us"].as_u64().unwrap() > 0 && first["more"]["policy_sha256"].is_string(), "{first:#}");
    // Text: one line a call, what belongs to it indented.
    let text = f.upm(["audit", "show"]).run();
    assert_eq!((text.exit, text.stderr.as_str()), (Some(0), ""), "{text:#?}");
    let lines: Vec<&str> = text.stdout.lines().collect();
    assert_eq!(lines.len(), 7, "{text:#?}");
    assert!(lines[0].contains("Z  Probe.run  uid ") && lines[0].ends_with("  ok"), "{text:#?}");
    assert!(lines[1].starts_with(&format!("    {denied}  on ")), "{text:#?}");
    assert!(lines[2].starts_with("    denied: seccomp bpf "), "{text:#?}");
    assert!(lines[3].ends_with("  refused: method_not_allowed"), "{text:#?}");
    // Only what is asked for.
    let count = |words: &[&str]| (shown(&f, words).0, shown(&f, words).1.len());
    assert_eq!(count(&["--request-id", &denied]), (Some(0), 1));
    assert_eq!(count(&["--request-id", "cdb3458d-0b84-491a-9c4e-709f30e11111"]), (Some(1), 0));
    assert_eq!(count(&["--plugin", "Other"]), (Some(0), 1));
    assert_eq!(count(&["--plugin", "Nobody"]), (Some(1), 0));
    assert_eq!(count(&["--since", "1h"]), (Some(0), 3));
    assert_eq!(count(&["--since", "0s"]), (Some(1), 0));
    // What began before is left out whole.
    let record = &f.audit()[1];
    assert_eq!(record["UPM_EVENT"], "denial");
    assert_eq!(count(&["--since", record["timestamp"].as_str().unwrap()]), (Some(0), 2));
}

#[rstest]
fn a_start_without_an_end_is_shown(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let running = f.upm(["Probe", "run", r#"{"args":["sleep",30]}"#]).start();
    let end = Instant::now() + Duration::from_secs(10);
    while f.audit().is_empty() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    let state = || shown(&f, &[]).1[0]["state"].clone();
    assert_eq!(state(), "running");
    assert!(f.upm(["audit", "show"]).run().stdout.contains("  running\n"));
    running.signal(nix::sys::signal::Signal::SIGKILL);
    assert_eq!(running.wait().signal, Some(9));
    assert_eq!(state(), "no_end_recorded");
    assert!(f.upm(["audit", "show"]).run().stdout.contains("  no end recorded\n"));
    f.assert_clean();
    // A process that has the number now is not the one that wrote the record.
    let text = fs::read_to_string(f.path("audit/audit.jsonl")).unwrap();
    let pid = format!("\"pid\":{}", f.audit()[0]["pid"]);
    f.write(
        "audit/audit.jsonl",
        text.replace(&pid, &format!("\"pid\":{}", std::process::id())).replace("\"2026-", "\"2025-"),
    );
    let year = text.contains("\"timestamp\":\"2026-");
    assert!(!year || state() == "no_end_recorded");
    f.write("audit/audit.jsonl", text.replace(&pid, &format!("\"pid\":{}", std::process::id())));
    assert_eq!(state(), "running", "the control");
}

/// An invalid line is counted and reported; nothing in a record can control a terminal.
#[rstest]
fn what_a_file_holds_besides(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    f.act("echo", Value::Null);
    let good = fs::read_to_string(f.path("audit/audit.jsonl")).unwrap();
    let record = |event: &str, plugin: &str| {
        json!({"timestamp": "2026-11-24T10:00:00.000000Z", "hostname": "h\u{1b}]0;x\u{7}", "pid": 1, "UPM_EVENT": event,
               "UPM_REQUEST_ID": "\u{1b}[2J", "UPM_PLUGIN": plugin, "UPM_METHOD": "\u{202e}\n2026 forged", "UPM_CODE": "\u{9b}2J",
               "UPM_LAYER": "\u{1b}c", "UPM_OBJECT": "\u{1b}c\n"})
        .to_string()
    };
    let lines = [
        good.as_str(),
        "{\"torn\": ",
        "\n\u{1b}[31m\n",
        &record("call_started", "\u{1b}[2J"),
        "\n",
        &record("denial", "x"),
        "\n",
        &good,
    ];
    f.write("audit/audit.jsonl", lines.concat());
    let text = f.upm(["audit", "show"]).run();
    assert_eq!(text.exit, Some(0), "{text:#?}");
    assert!(text.stderr.contains("2 line(s) are not records and are left out, the first is line 3"), "{text:#?}");
    for stream in [&text.stdout, &text.stderr] {
        assert!(!stream.contains(['\u{1b}', '\u{7}', '\u{9b}', '\u{202e}']), "{stream:?}");
    }
    assert_eq!(text.stdout.lines().filter(|line| line.contains("forged")).count(), 1, "{text:#?}");
    assert!(text.stdout.lines().all(|line| line.starts_with("20") || line.starts_with("    ")), "{text:#?}");
    let (exit, calls, sources) = shown(&f, &[]);
    assert_eq!((exit, calls.len(), &sources[0]["malformed"]), (Some(0), 3, &json!(2)), "{calls:#?}");
    // Endless lines are bounded.
    f.write("audit/audit.jsonl", [good.as_bytes(), &vec![b'x'; 40 << 20], b"\n", good.as_bytes()].concat());
    let (exit, calls, sources) = shown(&f, &[]);
    assert_eq!((exit, calls.len(), &sources[0]["malformed"]), (Some(0), 2, &json!(1)));
}

#[rstest]
fn what_cannot_be_read_is_told(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    f.act("echo", Value::Null);
    assert_eq!(shown(&f, &[]).0, Some(0), "the control");
    let file = f.path("audit/audit.jsonl");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
    let answer = f.upm(["audit", "show"]).run();
    assert_eq!(answer.exit, Some(125), "others could have written it: {answer:#?}");
    assert!(answer.stderr.contains("chmod go-w") && answer.stdout.is_empty(), "{answer:#?}");
    fs::remove_file(&file).unwrap();
    assert_eq!(shown(&f, &[]).0, Some(1), "nothing was written");
    f.mkdir("audit/audit.jsonl");
    assert_eq!(shown(&f, &[]).0, Some(125));
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let answer = f.upm(["audit", "show"]).run();
    assert_eq!(answer.exit, Some(125), "{answer:#?}");
    assert!(answer.took < Duration::from_secs(4), "{:?}", answer.took);
    assert_eq!(f.upm(["--config", "gone.toml", "audit", "show"]).run().exit, Some(125));
    assert_eq!(f.upm(["audit", "show", "--since", "soon"]).run().failed("usage", 2)["code"], "usage");
    // A configuration that cannot be used: what it refused is where records go without one.
    if mode == Mode::User {
        f.write("upm_config.toml", "nope = 1\n");
        f.run("echo", Value::Null).failed("config_invalid", 125);
        let answer = f.upm(["audit", "show", "--since", "1h"]).run();
        assert_eq!(answer.exit, Some(0), "{answer:#?}");
        assert!(answer.stdout.contains("refused: config_invalid") && answer.stderr.contains("nope"), "{answer:#?}");
    }
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

/// `upm audit show` reads the journal, where the caller may, and says so where not.
fn story_from_the_journal(f: &Fixture, id: &str) {
    let (exit, calls, sources) = shown(f, &["--request-id", id]);
    assert_eq!(sources[0]["source"], "journald", "{sources:#}");
    if f.uid != 0 {
        // Without a group that may read it the journal is closed to a user.
        assert_eq!((exit, calls.len()), (Some(125), 0), "{sources:#}");
        assert!(sources[0]["error"].as_str().unwrap().contains("permission"), "{sources:#}");
        return;
    }
    assert_eq!((exit, calls.len()), (Some(0), 1), "{sources:#}");
    assert_eq!(
        (&calls[0]["state"], &calls[0]["code"], &calls[0]["recorded_by"]),
        (&json!("finished"), &json!("ok"), &Value::Null)
    );
    assert!(calls[0]["more"]["arguments"].as_str().unwrap().contains("newline=forged"), "{calls:#?}");
    // Nothing of the caller's environment leads journalctl elsewhere, nor is another one run.
    f.write("journalctl", "#!/bin/sh\necho hijacked\n");
    fs::set_permissions(f.path("journalctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let hostile = f
        .upm(["audit", "show", "--json", "--request-id", id])
        .through(["env", &format!("PATH={}", f.dir().display()), "SYSTEMD_PAGER=hijack", "SYSTEMD_COLORS=1"])
        .run();
    assert_eq!(hostile.exit, Some(0), "{hostile:#?}");
    // What another user writes under upm's name is shown with that user.
    let forged = "cdb3458d-0b84-491a-9c4e-709f30e22222";
    let entry = format!(
        "SYSLOG_IDENTIFIER=upm\nUPM_EVENT=call_started\nUPM_REQUEST_ID={forged}\nUPM_PLUGIN=Probe\nUPM_METHOD=run\nUPM_CALLER_UID=0\n"
    );
    let source = format!(
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect({SOCKET:?}); s.send({entry:?}.encode())"
    );
    let status = Command::new("setpriv")
        .args(["--reuid", "4242", "--regid", "4242", "--clear-groups", "/usr/bin/python3", "-I", "-c", &source])
        .status()
        .unwrap();
    assert!(status.success());
    let end = Instant::now() + Duration::from_secs(5);
    let calls = loop {
        let (_, calls, _) = shown(f, &["--request-id", forged]);
        if !calls.is_empty() || Instant::now() > end {
            break calls;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!((&calls[0]["caller_uid"], &calls[0]["recorded_by"]), (&json!(0), &json!(4242)), "{calls:#?}");
    let text = f.upm(["audit", "show", "--request-id", forged]).run();
    assert!(text.stdout.contains("uid 0 (root), recorded by uid 4242  no end recorded"), "{text:#?}");
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
        story_from_the_journal(&f, &id);
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

/// What `audit show` holds is where the records are, not what they say: a tenth of a large file's size, whatever is shown of it.
#[rstest]
fn a_large_file_is_not_held(#[values(Mode::Root, Mode::User)] mode: Mode) {
    const CALLS: usize = 40_000;
    let Some(f) = Fixture::probe(mode, "") else { return };
    f.run("echo", json!([1])).result();
    let own = fs::read_to_string(f.path("audit/audit.jsonl")).unwrap();
    let id = f.audit()[0]["UPM_REQUEST_ID"].as_str().unwrap().to_owned();
    let more = format!(",\"UPM_ARGUMENTS\":\"{}\"}}", "x".repeat(1000));
    let mut text = String::new();
    for call in 0..CALLS {
        let name = format!("{call:08x}{}", &id[8..]);
        text.push_str(&own.replace(&id, &name).replace("}\n", &format!("{more}\n")));
    }
    f.write("audit/audit.jsonl", &text);
    let size = text.len() as u64;
    let used = |words: &[&str]| {
        let words = [&["audit", "show"], words].concat();
        let answer = f
            .upm(words)
            .patience(Duration::from_secs(120))
            .through(["/usr/bin/python3", "-I", "-S", "-c", MEASURE])
            .run();
        let kib = answer.stderr.lines().find_map(|line| line.strip_prefix("used ")?.parse::<u64>().ok());
        (answer.exit, answer.stdout, kib.unwrap_or_else(|| panic!("{}", answer.stderr)) << 10)
    };
    let (exit, stdout, bytes) = used(&["--json"]);
    let shown: Value = serde_json::from_str(&stdout).unwrap();
    let calls = shown["calls"].as_array().unwrap();
    assert_eq!((exit, calls.len(), &shown["sources"][0]["records"]), (Some(0), CALLS, &json!(2 * CALLS)));
    assert!(calls.iter().enumerate().all(|(at, call)| {
        call["request_id"].as_str().unwrap().starts_with(&format!("{at:08x}")) && call["state"] == "finished"
    }));
    assert!(bytes < size / 8 + (24 << 20), "{} MiB for a file of {} MiB", bytes >> 20, size >> 20);
    println!("{} MiB for a file of {} MiB", bytes >> 20, size >> 20);
    let (exit, stdout, bytes) = used(&["--request-id", &format!("{:08x}{}", 5, &id[8..])]);
    assert_eq!((exit, stdout.lines().count()), (Some(0), 2), "{stdout}");
    assert!(bytes < 24 << 20, "{} MiB for one call", bytes >> 20);
}

/// Starts a program, and says on stderr how many KiB it took at most.
const MEASURE: &str = "
import os, sys
pid = os.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(pid, 0)
os.write(2, b'\\nused %d\\n' % used.ru_maxrss)
os._exit(os.waitstatus_to_exitcode(status) & 0xff)
";
