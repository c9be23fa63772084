//! The audit against a hostile caller and against neighbours of the host: what keeps a record out of it, or makes one up.

mod common;

use common::{Fixture, Mode, assert_ok, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A user of the host who has nothing to do with a call.
const NEIGHBOUR: u32 = 4242;

fn events(f: &Fixture) -> Vec<String> {
    f.audit().iter().map(|record| record["UPM_EVENT"].as_str().unwrap().to_owned()).collect()
}

fn neighbour(words: &[&str]) -> Child {
    let id = NEIGHBOUR.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]).args(words);
    command.stdout(Stdio::null()).spawn().unwrap()
}

/// flock(2) asks for no more than a file that can be read.
#[rstest]
fn a_reader_who_locks_the_file_keeps_no_record_out(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        skip("another user is needed");
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    assert_ok(&f.act("echo", json!([1])));
    let file = f.path("audit/audit.jsonl");
    let locked = |bits: u32| {
        fs::set_permissions(&file, fs::Permissions::from_mode(bits)).unwrap();
        let child = neighbour(&["flock", "--no-fork", "-n", "-x", file.to_str().unwrap(), "sleep", "5"]);
        std::thread::sleep(Duration::from_millis(500));
        let answer = f.run("privileged", json!(["bpf"]));
        (child, answer)
    };
    let (mut child, answer) = locked(0o644);
    assert!(child.try_wait().unwrap().is_none(), "the control: it holds the lock");
    answer.result();
    assert!(answer.took < Duration::from_secs(3), "waited for once: {:?}", answer.took);
    assert!(answer.stderr.contains("another process keeps it locked"), "{}", answer.stderr);
    child.kill().unwrap();
    child.wait().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    let records: Vec<Value> =
        text.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = records.iter().map(|record| record["UPM_EVENT"].as_str().unwrap()).collect();
    assert_eq!(events, ["call_started", "call_finished", "call_started", "denial", "call_finished"]);
    let shown = f.upm(["audit", "show"]).run();
    assert_eq!((shown.exit, shown.stderr.as_str()), (Some(0), ""), "{shown:#?}");
    // who may not read it cannot lock it
    let (mut child, answer) = locked(0o600);
    assert!(!child.wait().unwrap().success());
    assert!(answer.stderr.is_empty() && answer.took < Duration::from_secs(1), "{answer:#?}");
}

/// A file that is renamed keeps the records of calls under way; one that is removed loses them, and that is said.
#[rstest]
#[case::renamed("mv \"$0\" \"$0.1\"", true)]
#[case::removed("rm \"$0\"", false)]
fn a_file_that_is_rotated_under_a_call(
    #[case] rotate: &str,
    #[case] kept: bool,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let begun = f.text("project/begun");
    let running = f.upm(["Probe", "run", &json!({"args": ["sleep", 1, begun]}).to_string()]).start();
    while !Path::new(&begun).exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let file = f.path("audit/audit.jsonl");
    assert!(Command::new("/bin/sh").args(["-c", rotate]).arg(&file).status().unwrap().success());
    let answer = running.wait();
    if kept {
        answer.result();
        let text = fs::read_to_string(f.path("audit/audit.jsonl.1")).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
    } else {
        let data = answer.failed("audit_unavailable", 125);
        assert!(data["error"].as_str().unwrap().contains("was removed since the call began"), "{data:#}");
        assert_eq!(data["details"]["started"], true, "{data:#}");
        assert!(data.get("result").is_none(), "{data:#}");
    }
    assert_ok(&f.act("echo", json!([1])));
    assert_eq!(events(&f), ["call_started", "call_finished"], "the next call");
}

/// Nothing is made behind a link, or in a directory, of somebody else before it was looked at.
#[rstest]
fn no_directory_is_made_behind_others_links(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        skip("another user is needed");
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let file = f.text("audit/audit.jsonl");
    f.mkdir("target");
    f.mkdir("others");
    chown(f.path("others"), Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    symlink(f.path("target"), f.path("others/logs")).unwrap();
    std::os::unix::fs::lchown(f.path("others/logs"), Some(NEIGHBOUR), Some(NEIGHBOUR)).unwrap();
    for place in ["others/logs/deep/audit.jsonl", "others/deep/audit.jsonl"] {
        f.write("upm_config.toml", config.replace(&file, &f.text(place)));
        f.run("echo", json!([1])).failed("audit_unavailable", 125);
        assert_eq!(fs::read_dir(f.path("target")).unwrap().count(), 0, "{place}");
        assert_eq!(fs::read_dir(f.path("others")).unwrap().count(), 1, "{place}");
    }
    // the control: the caller's own link and directory
    symlink(f.path("target"), f.path("own")).unwrap();
    if mode == Mode::User {
        std::os::unix::fs::lchown(f.path("own"), Some(f.uid), Some(f.uid)).unwrap();
    }
    f.write("upm_config.toml", config.replace(&file, &f.text("own/deep/audit.jsonl")));
    assert_ok(&f.act("echo", json!([1])));
    assert!(f.path("target/deep/audit.jsonl").exists());
}

/// A FIFO, a link, a device or another's file in the place of the audit file: refused, and nothing runs.
#[rstest]
fn what_is_no_file_of_the_callers_is_no_audit_file(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let file = f.path("audit/audit.jsonl");
    let touch = json!([f.text("project/touched"), "x"]);
    let mut scripts = vec![
        "mkfifo \"$0\"",
        "ln -s /dev/null \"$0\"",
        "ln -s nowhere \"$0\"",
        "mkdir \"$0\"",
        "touch \"$0\"; chmod 666 \"$0\"",
    ];
    if common::is_root() {
        scripts.extend(["mknod \"$0\" c 1 3", "touch \"$0\"; chown 4242 \"$0\""]);
    }
    for script in scripts {
        assert!(Command::new("/bin/sh").args(["-c", script]).arg(&file).status().unwrap().success());
        let answer = f.run("write", touch.clone());
        answer.failed("audit_unavailable", 125);
        assert!(answer.took < Duration::from_secs(2), "{script}: {:?}", answer.took);
        assert!(!f.path("project/touched").exists() && !f.path("audit/nowhere").exists(), "{script}");
        fs::remove_file(&file).or_else(|_| fs::remove_dir(&file)).unwrap();
    }
    assert_ok(&f.act("write", touch));
    assert_eq!(events(&f), ["call_started", "call_finished"], "the control");
}

/// A socket in journald's place that root did not make, on a host where its directory could be made by anybody.
#[rstest]
#[case::of_a_neighbour("chown -R 4242 /run/systemd", false)]
#[case::of_root("true", true)]
fn a_neighbours_socket_is_no_journald(
    #[case] own: &str,
    #[case] taken: bool,
    #[values("required", "auto")] journald: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    if !common::is_root() {
        skip("only root can make such a host");
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let file = format!("file = \"{}\"\n", f.text("audit/audit.jsonl"));
    let settings = format!("journald = \"{journald}\"\narguments = \"full\"");
    // in `auto` the default file stands by: as root that would be the host's own
    let file = if mode == Mode::Root && journald == "auto" { String::new() } else { file };
    f.write("upm_config.toml", config.replace("journald = \"off\"", &settings).replace(&file, ""));
    let heard = f.path("heard");
    let listen = r#"
import os, socket, sys
path = "/run/systemd/journal/socket"
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(path)
os.chmod(path, 0o666)
out = open(sys.argv[1], "wb", buffering=0)
while True:
    out.write(s.recv(65536))
"#;
    let listener = f.write("listen.py", listen);
    let script = format!(
        "mount -t tmpfs -o mode=1777 tmpfs /run && mkdir -p /run/systemd/journal && {own}\n\
         /usr/bin/python3 -I {listener} {heard} &\n\
         until test -e {heard}; do sleep 0.05; done\n\"$@\"; exit=$?; sleep 0.2; kill $! 2>/dev/null; exit $exit",
        listener = listener.display(),
        heard = heard.display()
    );
    let answer = f.upm(["Probe", "run", r#"{"args":["echo","secret"]}"#]).mounting_script(&script).run();
    let stolen = fs::read(&heard).unwrap();
    if taken {
        answer.result();
        assert!(String::from_utf8_lossy(&stolen).contains("call_started"), "the control");
        return;
    }
    assert!(stolen.is_empty(), "{}", String::from_utf8_lossy(&stolen));
    if journald == "required" {
        let data = answer.failed("audit_unavailable", 125);
        assert!(data["error"].as_str().unwrap().contains("belongs to user 4242"), "{data:#}");
    } else {
        answer.result();
        let kept = if mode == Mode::Root { f.path("audit/audit.jsonl") } else { f.path("home/state/upm/audit.jsonl") };
        assert_eq!(fs::read_to_string(&kept).unwrap().lines().count(), 2, "{}", kept.display());
    }
}

/// Diagnostic events (`UPM_LOG`) do not wait for a journal that does not read: otherwise no deadline would hold.
#[rstest]
#[case::reads(true)]
#[case::never_reads(false)]
fn no_event_waits_for_the_journal(#[case] reads: bool, #[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        skip("only root can make such a host");
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let heard = f.path("heard");
    let listen = format!(
        r#"
import socket, sys, time
path = "/run/systemd/journal/socket"
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(path)
import os
os.chmod(path, 0o666)
full = {}
while full:
    c = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    c.setblocking(False)
    c.connect(path)
    sent = 0
    try:
        while True:
            c.send(b"x")
            sent += 1
    except OSError:
        if sent == 0:
            break
out = open(sys.argv[1], "wb", buffering=0)
while not full:
    out.write(s.recv(65536))
time.sleep(30)
"#,
        if reads { "False" } else { "True" }
    );
    let listener = f.write("listen.py", listen);
    let script = format!(
        "mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal\n\
         /usr/bin/python3 -I {} {heard} &\nuntil test -e {heard}; do sleep 0.05; done\n\
         \"$@\"; exit=$?; sleep 0.1; kill $!; exit $exit",
        listener.display(),
        heard = heard.display()
    );
    let call = f.upm(["Probe", "run", r#"{"args":["echo",1]}"#]).env("UPM_LOG", "trace").mounting_script(&script);
    let answer = call.run();
    assert_eq!(answer.result()["value"], json!([1]));
    let text = String::from_utf8_lossy(&fs::read(&heard).unwrap()).into_owned();
    assert_eq!(text.contains("the plugin runs") && text.contains("upm-diagnostics"), reads, "{text}");
}

/// A disk that is full: nothing runs. One that becomes full under a call: the answer says that the method has run.
#[rstest]
fn a_full_disk_hides_no_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        skip("only root can make such a disk");
        return;
    }
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]\nfile_size = \"64MiB\"") else { return };
    // the plugin may write where the audit file is
    let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    f.write(
        "upm_config.toml",
        config
            .replace(&f.text("audit/audit.jsonl"), &f.text("disk/audit/audit.jsonl"))
            .replace("\"project\"", "\"disk/project\""),
    );
    f.mkdir("disk");
    let id = f.uid.to_string();
    let owner = f.owner();
    let kept = f.path("kept.jsonl");
    let after = format!("\"$@\"; exit=$?; cat \"$0/audit/audit.jsonl\" > {}; exit $exit", kept.display());
    let on = |before: &str, words: Value| {
        let script = format!(
            "mount -t tmpfs -o size=1m,mode=755,uid={id},gid={id} tmpfs \"$0\" && mkdir -m 755 \"$0/project\" \"$0/audit\" && \
             chown {id}:{id} \"$0/audit\" && chown {owner}:{owner} \"$0/project\" && {before}\n{after}"
        );
        let arguments = json!({ "args": words }).to_string();
        f.upm(["Probe", "run", &arguments]).mounting_at(&script, "disk").run()
    };
    let project = f.text("disk/project/big");
    let answer = on("dd if=/dev/zero of=\"$0/filled\" bs=4k 2>/dev/null || true", json!(["echo", 1]));
    answer.failed("audit_unavailable", 125);
    let text = fs::read_to_string(&kept).unwrap();
    assert!(!text.contains("call_finished"), "{text}");
    // the plugin fills it, and does what is denied
    let answer = on("true", json!(["batch", ["write_big", project, 4], ["privileged", "bpf"]]));
    let text = fs::read_to_string(&kept).unwrap();
    assert!(text.lines().next().unwrap().contains("\"call_started\""), "{text}");
    if answer.exit == Some(0) {
        assert!(text.contains("\"denial\"") && text.contains("\"call_finished\""), "{text}");
    } else {
        let data = answer.failed("audit_unavailable", 125);
        assert_eq!(data["details"]["started"], true, "{data:#}");
    }
    // the control: with room
    on("true", json!(["batch", ["privileged", "bpf"]])).result();
    let text = fs::read_to_string(&kept).unwrap();
    assert_eq!(text.lines().count(), 3, "{text}");
    let size = fs::metadata(&kept).unwrap().size();
    assert!(size < 8192, "{size}");
}

/// Two calls by one id are two calls.
#[rstest]
fn one_id_for_many_calls_hides_none(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
    let running: Vec<_> = (0..6)
        .map(|n| f.upm(["--request-id", id, "Probe", "run", &json!({"args": ["echo", n]}).to_string()]).start())
        .collect();
    for (n, call) in running.into_iter().enumerate() {
        let answer = call.wait();
        assert_eq!(
            (answer.result()["value"].clone(), answer.envelope()["request_id"].clone()),
            (json!([n]), json!(id))
        );
    }
    f.upm(["--request-id", id, "Probe", "nope"]).run().failed("method_not_allowed", 126);
    let shown = f.upm(["audit", "show", "--json", "--request-id", id]).run();
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let calls = shown["calls"].as_array().unwrap();
    assert_eq!(calls.len(), 7, "{calls:#?}");
    let finished = calls.iter().filter(|call| call["state"] == "finished").count();
    assert_eq!((finished, &calls[6]["state"]), (6, &json!("refused")), "{calls:#?}");
}
