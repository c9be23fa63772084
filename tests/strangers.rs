//! Callers of the service that nobody named: what they can make it write, keep and tell.

mod common;

use common::service::{OTHER, Other, Service, answered, as_other};
use common::{Fixture, Mode, is_root, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// As many as are recorded one by one, and the time in which.
const ONE_BY_ONE: usize = upm::audit::refusals::ONE_BY_ONE as usize;
const WINDOW_US: i64 = upm::audit::refusals::WINDOW.as_micros() as i64;

const THIRD: Other = Other { uid: 45_690, gid: 45_690, groups: "45690" };

fn state_dir(f: &Fixture) -> PathBuf {
    if f.mode == Mode::Root { "/var/lib/upm".into() } else { f.path("home/state/upm") }
}

/// The file with the counts of this fixture's service.
fn counts(f: &Fixture) -> PathBuf {
    let name = upm::types::sha256_hex(f.text("audit/audit.jsonl").as_bytes());
    state_dir(f).join(format!("refusals-{}", &name[..16]))
}

/// Puts the begin of every window that is open into the past, which is as if the time had passed.
fn a_minute_later(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    for slot in bytes.chunks_exact_mut(40) {
        let begin = i64::from_le_bytes(slot[16..24].try_into().unwrap());
        if begin > 0 {
            slot[16..24].copy_from_slice(&(begin - WINDOW_US).to_le_bytes());
        }
    }
    fs::write(path, bytes).unwrap();
}

/// `count` refused calls of a user, from one process.
fn flood(f: &Fixture, service: &Service, who: &Other, request: &str, count: usize) {
    let script = "import socket, sys\n\
        for n in range(int(sys.argv[2])):\n\
        \x20   s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[3].encode() + b'\\n')\n\
        \x20   answer = b''\n\
        \x20   while not answer.endswith(b'\\n'): answer += s.recv(65536)\n\
        \x20   assert b'\"success\":false' in answer, answer\n";
    let (uid, gid) = (who.uid.to_string(), who.gid.to_string());
    let output = Command::new("setpriv")
        .args(["--reuid", &uid, "--regid", &gid, "--groups", who.groups, "--", "/usr/bin/python3", "-c", script])
        .args([&service.socket, &count.to_string(), request])
        .current_dir(f.dir())
        .output()
        .unwrap();
    assert!(output.status.success(), "every one is answered: {output:?}");
}

fn of(records: &[Value], uid: u32, event: &str) -> Vec<Value> {
    let is = |record: &&Value| record["UPM_CALLER_UID"] == uid && record["UPM_EVENT"] == event;
    records.iter().filter(is).cloned().collect()
}

struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A stranger's flood costs the audit ten records and one that counts the rest; nobody else's refusal is lost in it.
#[rstest]
#[case::not_named(r#"{"plugin":"Probe","method":"run"}"#, "caller_not_allowed")]
#[case::malformed("{", "usage")]
fn refusals_of_one_user_are_counted(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[case] request: &str,
    #[case] code: &str,
) {
    const MANY: usize = 120;
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let path = counts(&f);
    let _gone = Gone(path.clone());
    flood(&f, &service, &OTHER, request, MANY);
    flood(&f, &service, &THIRD, request, 1);
    let records = f.audit();
    let told = of(&records, OTHER.uid, "call_refused");
    assert_eq!(told.len(), ONE_BY_ONE, "{records:#?}");
    assert!(told.iter().all(|record| record["UPM_CODE"] == code), "{told:#?}");
    let limited: Vec<bool> = told.iter().map(|record| record["UPM_LIMITED_UNTIL"].is_string()).collect();
    assert_eq!(limited.iter().filter(|limited| **limited).count(), 1);
    assert!(limited[ONE_BY_ONE - 1], "the last one says that there may be more: {told:#?}");
    assert_eq!(of(&records, THIRD.uid, "call_refused").len(), 1, "another's refusal is there: {records:#?}");
    assert_eq!(records.len(), ONE_BY_ONE + 1);
    // what is kept is small, and nobody else's to read or write
    let data = fs::metadata(&path).unwrap();
    assert_eq!((data.uid(), data.mode() & 0o777, data.len()), (f.uid, 0o600, 2 * 40), "{}", path.display());
    // until it is recorded, a reader of the audit sees that there may be more
    let shown = f.upm(["audit", "show"]).run();
    let waiting = format!("{} refused calls of uid {}", MANY - ONE_BY_ONE, OTHER.uid);
    assert!(shown.stderr.contains(&waiting), "{shown:#?}");
    // the next connection of anybody after that time records it, once, also one whose call is made
    a_minute_later(&path);
    for _ in 0..2 {
        let call = f.upm(["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#]).run();
        assert_eq!(call.exit, Some(0));
    }
    let records = f.audit();
    let counted = of(&records, OTHER.uid, "refusals_counted");
    assert_eq!(counted.len(), 1, "{records:#?}");
    assert_eq!(counted[0]["UPM_COUNT"], MANY - ONE_BY_ONE, "{counted:#?}");
    let [first, last] = ["UPM_FIRST", "UPM_LAST"].map(|name| counted[0][name].as_str().unwrap().to_owned());
    let before = told[ONE_BY_ONE - 1]["timestamp"].as_str().unwrap();
    assert!(before <= first.as_str() && first <= last && last.as_str() <= counted[0]["timestamp"].as_str().unwrap());
    assert!(of(&records, THIRD.uid, "refusals_counted").is_empty(), "nothing of it was left out");
    let shown = f.upm(["audit", "show"]).run();
    let line = format!("uid {}  refused {} more calls, from {first} to {last}", OTHER.uid, MANY - ONE_BY_ONE);
    assert!(shown.stdout.contains(&line) && !shown.stderr.contains("have no record"), "{shown:#?}");
    let shown: Value = serde_json::from_str(&f.upm(["audit", "show", "--json"]).run().stdout).unwrap();
    let story = shown["calls"].as_array().unwrap().iter().find(|one| one["state"] == "refusals_counted").unwrap();
    assert_eq!(story["refusals"]["count"], MANY - ONE_BY_ONE, "{story:#}");
    // and a new window has begun
    flood(&f, &service, &OTHER, request, 1);
    assert_eq!(of(&f.audit(), OTHER.uid, "call_refused").len(), ONE_BY_ONE + 1);
}

/// Where no counts can be kept, every refusal is on record as it was.
#[rstest]
fn without_a_place_for_counts_every_refusal_is_recorded(#[values("mode", "link", "directory")] why: &str) {
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let Some(f) = Fixture::probe(Mode::User, "") else { return };
    let service = Service::start(&f);
    match why {
        "mode" => {
            let path = f.mkdir("home/state");
            fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
        }
        "link" => {
            std::os::unix::fs::symlink(f.mkdir("elsewhere"), f.path("home/state")).unwrap();
            std::os::unix::fs::lchown(f.path("home/state"), Some(OTHER.uid), None).unwrap();
        }
        _ => {
            f.mkdir("home/state");
            f.mkdir("home/state/upm");
            fs::create_dir(counts(&f)).unwrap();
        }
    }
    flood(&f, &service, &OTHER, r#"{"plugin":"Probe","method":"run"}"#, 3 * ONE_BY_ONE);
    assert_eq!(of(&f.audit(), OTHER.uid, "call_refused").len(), 3 * ONE_BY_ONE);
    let log = fs::read_to_string(f.path("service.log")).unwrap();
    assert!(log.contains("refused calls cannot be counted, each is recorded"), "{log}");
    assert!(!f.path("elsewhere/upm").exists(), "no link was followed");
}

/// No plugin may be granted what upm keeps there; what lies below, as the packages' default project, may.
#[rstest]
fn the_state_directory_is_nobodys_grant(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let state = state_dir(&f);
    if mode == Mode::User {
        for dir in ["home/state", "home/state/upm", "home/state/upm/project"] {
            f.mkdir(dir);
        }
    }
    f.config(&format!("{}write = [\"{}\"]\n", common::PROBE, state.display()));
    let refused = f.upm(["Probe", "run"]).run().failed("config_invalid", 125);
    let error = refused["error"].as_str().unwrap();
    assert!(error.contains("write lets a plugin change") && error.contains(state.to_str().unwrap()), "{refused:#}");
    if mode == Mode::User {
        f.config(&format!("{}write = [\"{}/project\"]\n", common::PROBE, state.display()));
        assert_eq!(f.act("echo", json!(["x"]))["value"], json!(["x"]));
    }
}

/// Of a user who may call something every refusal by policy is on record; malformed requests of the same user are counted.
#[rstest]
fn what_a_caller_is_not_allowed_is_always_recorded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    const MANY: usize = 3 * ONE_BY_ONE;
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let Some(f) = Fixture::probe(mode, &format!("callers = [\"user:{}\"]", OTHER.uid)) else { return };
    let service = Service::start(&f);
    let _gone = Gone(counts(&f));
    let codes = |who: &Other| {
        let refused = of(&f.audit(), who.uid, "call_refused");
        let mut codes = std::collections::BTreeMap::new();
        for record in refused {
            *codes.entry(record["UPM_CODE"].as_str().unwrap().to_owned()).or_insert(0) += 1;
        }
        codes
    };
    let method = r#"{"plugin":"Probe","method":"other"}"#;
    let project = r#"{"plugin":"Probe","method":"run","project":"/srv"}"#;
    let malformed = r#"{"plugin":"Probe","method":"run","args":7}"#;
    for request in [malformed, method, project, "{"] {
        flood(&f, &service, &OTHER, request, MANY);
    }
    let told = codes(&OTHER);
    assert_eq!((told["method_not_allowed"], told["usage"]), (MANY, MANY), "{told:?}");
    assert_eq!(told.get("arguments_invalid"), Some(&ONE_BY_ONE), "{told:?}");
    // the control: a stranger's same requests
    flood(&f, &service, &THIRD, method, MANY);
    assert_eq!(codes(&THIRD).values().sum::<usize>(), ONE_BY_ONE);
}

/// A wildcard in `projects` lets one caller name any number of directories, each of which is put on record: a share of the
/// records, and no more.
#[test]
fn one_caller_does_not_fill_the_record_of_what_calls_may_write() {
    const SHARE: usize = 16_384 / 4;
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let Some(f) = Fixture::bare(Mode::User) else { return };
    for dir in ["many", "many/new", "many/next", "many/held"] {
        f.mkdir(dir);
    }
    let callers = format!("callers = [\"user:{}\", \"user:{}\"]\n", OTHER.uid, THIRD.uid);
    let (projects, head) = (format!("projects = [\"{}\"]\n", f.text("many/*")), f.config_head());
    f.write("upm_config.toml", format!("{projects}{head}{}write = [\"{{project_root}}\"]\n{callers}", common::PROBE));
    let service = Service::start(&f);
    let ask = |who: &Other, project: &str| {
        let project = f.text(&format!("many/{project}"));
        answered(&as_other(
            &f,
            who,
            &["--via", &service.socket, "--project", &project, "Probe", "run", r#"{"args":["echo"]}"#],
        ))
        .1
    };
    let made = |answer: &Value| answer["success"] == true;
    assert!(made(&ask(&OTHER, "held")));
    // as many calls later
    let records = f.path("home/state/upm/writable");
    for n in 1..SHARE {
        let dir = f.mkdir(&format!("many/{n}"));
        let key = upm::config::record_keys(fs::File::open(&dir).unwrap().as_fd()).unwrap().remove(0);
        let record = records.join(key);
        std::os::unix::fs::symlink(format!("0:0:{} {}", OTHER.uid, dir.display()), &record).unwrap();
        std::os::unix::fs::lchown(&record, Some(f.uid), Some(f.uid)).unwrap();
    }
    let full = ask(&OTHER, "new");
    assert_eq!(full["data"]["code"], "sandbox_unavailable", "{full:#}");
    let text = full["data"]["error"].as_str().unwrap();
    assert!(text.contains(&format!("{SHARE} records")) && text.contains(&OTHER.uid.to_string()), "{text}");
    // what is on record stays usable, and others go on
    assert!(made(&ask(&OTHER, "held")) && made(&ask(&THIRD, "new")));
    // and so does this caller, once one of the directories is gone
    assert!(!made(&ask(&OTHER, "next")));
    fs::remove_dir(f.path("many/7")).unwrap();
    assert!(made(&ask(&OTHER, "next")));
}

/// A user may call with each of its subordinate ids: as many as there are slots are counted, others recorded.
#[test]
fn a_refusal_without_a_slot_is_recorded() {
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let Some(f) = Fixture::probe(Mode::User, "") else { return };
    let service = Service::start(&f);
    flood(&f, &service, &OTHER, "{", 1);
    // every slot is another user's
    let path = counts(&f);
    let slot = fs::read(&path).unwrap()[..40].to_vec();
    let full: Vec<u8> = (0..256u32).flat_map(|uid| [&(100_000 + uid).to_le_bytes(), &slot[4..]].concat()).collect();
    fs::write(&path, &full).unwrap();
    flood(&f, &service, &THIRD, "{", 2 * ONE_BY_ONE);
    assert_eq!(of(&f.audit(), THIRD.uid, "call_refused").len(), 2 * ONE_BY_ONE);
    assert_eq!(fs::read(&path).unwrap(), full);
    let call = ["--via", &service.socket, "Probe", "run"];
    assert_eq!(answered(&as_other(&f, &OTHER, &call)).0, Some(126));
}

/// What a caller sends is read as root by a process that may do nothing: seen from outside while it reads.
#[test]
fn root_reads_a_request_without_roots_rights() {
    let Some(f) = Fixture::probe(Mode::Root, "timeout = \"30s\"") else { return };
    let service = Service::start(&f);
    let items: Vec<Value> = (0..60_000).map(|n| json!([n])).collect();
    let request = json!({"plugin": "Probe", "method": "run", "args": ["echo", items.len(), items]}).to_string() + "\n";
    let mut stream = service.connect();
    let sender = std::thread::spawn(move || {
        use std::io::Write as _;
        stream.write_all(request.as_bytes()).unwrap();
        common::service::lines(stream)
    });
    let mut seen = Vec::new();
    while !sender.is_finished() {
        for pid in service.pids() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            for child in children.split_whitespace() {
                let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap_or_default();
                let field = |name: &str| {
                    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
                    line.unwrap_or_default().trim().to_owned()
                };
                let open = fs::read_dir(format!("/proc/{child}/fd")).map_or(0, Iterator::count);
                // the reader is upm itself, in upm's own user and pid namespace
                let own =
                    fs::read_link(format!("/proc/{child}/ns/pid")).ok() == fs::read_link("/proc/self/ns/pid").ok();
                if own && field("Seccomp") == "2" && field("Name") == "upm" {
                    seen.push((field("CapEff"), field("CapPrm"), field("NoNewPrivs"), open));
                }
            }
        }
    }
    let answer = common::service::envelope(sender.join().unwrap());
    assert_eq!(answer["data"]["result"]["value"][0], 60_000, "{:.2000}", answer.to_string());
    let none = "0000000000000000";
    let whole: Vec<_> = seen.iter().filter(|one| one.3 == 1).collect();
    assert!(!whole.is_empty(), "one was seen: {seen:?}");
    assert!(seen.iter().all(|one| (one.0.as_str(), one.1.as_str(), one.2.as_str()) == (none, none, "1")), "{seen:?}");
}

/// Descriptors that come with a request are not taken, and the call is made.
#[rstest]
fn passed_descriptors_are_not_taken(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let script = "import socket, sys, os, json\n\
        s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n\
        passed = [os.open('/etc/passwd', os.O_RDONLY) for _ in range(200)]\n\
        socket.send_fds(s, [sys.argv[2].encode() + b'\\n'], passed)\n\
        answer = b''\n\
        while not answer.endswith(b'\\n'): answer += s.recv(65536)\n\
        print(answer.decode())\n";
    let request = json!({"plugin": "Probe", "method": "run", "args": ["echo", "x"]}).to_string();
    let output = f
        .as_caller(Path::new("/usr/bin/python3"))
        .args(["-c", script, &service.socket, &request])
        .current_dir(f.dir())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let answer: Value = serde_json::from_str(text.trim()).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(answer["data"]["result"]["value"], json!(["x"]), "{answer:#}");
    f.assert_clean();
}

/// A storm of connections that say nothing, half a request, or hang up at once: all end, and calls go on.
#[rstest]
fn a_storm_of_connections_ends(#[values(Mode::Root, Mode::User)] mode: Mode) {
    use std::io::Write as _;
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    let mut kept = Vec::new();
    for n in 0..60 {
        let mut stream = service.connect();
        match n % 3 {
            0 => kept.push(stream),
            1 => {
                let _ = stream.write_all(b"{\"plugin\":");
                kept.push(stream);
            }
            _ => drop(stream),
        }
    }
    let call = f.upm(["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#]).run();
    assert_eq!(call.exit, Some(0), "{call:#?}");
    service.ended(std::time::Duration::from_secs(20));
    drop(kept);
    f.assert_clean();
}

/// A caller's `project` is looked up by the service's eyes: neither its answer nor the time that it takes tells what lies
/// where the caller cannot look. `..` through a directory revealed that by the call's success, and many of them by its time.
#[rstest]
fn a_project_is_no_way_to_look_around(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let callers = format!("callers = [\"user:{}\"]\n", OTHER.uid);
    let Some(f) = Fixture::bare(mode) else { return };
    f.mkdir("work");
    f.mkdir_writable("work/shop");
    let head = f.config_head();
    let projects = format!("projects = [\"{}\"]\n", f.text("work/*"));
    f.write("upm_config.toml", format!("{projects}{head}{}{callers}", common::PROBE));
    let secret = f.mkdir("secret");
    f.mkdir("secret/inner");
    std::os::unix::fs::symlink(f.path("work"), secret.join("link")).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o700)).unwrap();
    let service = Service::start(&f);
    // the request as it is: `--via` follows what its own user can
    let ask = |project: &str| {
        let script = "import socket, sys\n\
            s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(sys.argv[2].encode() + b'\\n')\n\
            answer = b''\n\
            while not answer.endswith(b'\\n'): answer += s.recv(65536)\n\
            print(answer.decode())\n";
        let request = json!({"plugin": "Probe", "method": "run", "args": ["echo"], "project": project}).to_string();
        let id = OTHER.uid.to_string();
        let output = Command::new("setpriv")
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--", "/usr/bin/python3", "-c", script])
            .args([&service.socket, &request])
            .output()
            .unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        (answer["success"] == true, answer["data"]["error"].as_str().unwrap_or_default().to_owned())
    };
    for there in ["project", "work/shop", "work//./shop/"] {
        assert!(ask(&f.text(there)).0, "{there}: {}", ask(&f.text(there)).1);
    }
    for through in ["secret/inner/../../work/shop", "secret/../project", "secret/link/shop", "work/shop/../shop"] {
        let (made, error) = ask(&f.text(through));
        let words = "no directory that the service's configuration names as a project";
        assert!(!made && error.ends_with(words), "{through}: {error}");
        let nothing = through.replace("secret", "nothing").replace("work/shop/..", "work/none/..");
        let (made, other) = ask(&f.text(&nothing));
        assert!(!made, "{nothing}: {other}");
        assert_eq!(
            error.replace("secret", "nothing").replace("work/shop/..", "work/none/.."),
            other,
            "one answer for what is there and what is not"
        );
    }
    // as before, `--via` names the same directory by a link and by `..` where its own user can look
    std::os::unix::fs::symlink(f.path("work/shop"), f.path("alias")).unwrap();
    for own in [f.text("alias"), f.text("work/../work/shop")] {
        let call = ["--via", &service.socket, "Probe", "run", r#"{"args":["echo"]}"#, "--project", &own];
        let (exit, envelope) = answered(&as_other(&f, &OTHER, &call));
        assert_eq!(exit, Some(0), "{own}: {envelope:#}");
    }
}

/// Who hangs up before the answer costs the journal nothing. For one who stays and does not read there is a line:
/// `tests/serve.rs::a_client_that_does_not_read_is_left`.
#[rstest]
fn hanging_up_early_writes_no_line(#[values(Mode::Root, Mode::User)] mode: Mode) {
    use std::io::Write as _;
    let Some(f) = Fixture::probe(mode, "") else { return };
    let service = Service::start(&f);
    for n in 0..20 {
        let mut stream = service.connect();
        let request: &[u8] = if n % 2 == 0 { b"{\n" } else { b"" };
        stream.write_all(request).unwrap();
        drop(stream);
    }
    let ended = service.ended(std::time::Duration::from_secs(20));
    assert!(ended.iter().all(|status| *status == Some(0)), "{ended:?}");
    assert_eq!(fs::read_to_string(f.path("service.log")).unwrap(), "");
}

/// What is read of who may call nothing is little, as JSON takes many times its length in memory: 1 MiB of `[[[[]]]]` took
/// 120 MiB, as often as one user may connect at once. Whoever may call has what the method may have.
#[rstest]
fn a_stranger_is_not_read_for_long(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("needs root to call as another user");
    }
    let callers = format!("callers = [\"user:{}\"]", OTHER.uid);
    let Some(f) = Fixture::probe(mode, &callers) else { return };
    let service = Service::start(&f);
    let ask = |who: &Other, length: usize| {
        let words = json!({"args": ["echo", "x".repeat(length)]}).to_string();
        let path = f.path("home/words.json");
        fs::write(&path, words).unwrap();
        let program = f.text("bin/upm");
        let (uid, gid) = (who.uid.to_string(), who.gid.to_string());
        let output = Command::new("setpriv")
            .args(["--reuid", &uid, "--regid", &gid, "--groups", who.groups, "--", &program])
            .args(["--via", &service.socket, "Probe", "run", "-"])
            .stdin(fs::File::open(&path).unwrap())
            .current_dir(f.dir())
            .output()
            .unwrap();
        let (exit, envelope) = answered(&output);
        let text = |name: &str| envelope["data"][name].as_str().unwrap_or_default().to_owned();
        (exit, text("code"), text("error"))
    };
    for length in [1000, 100_000, 900_000] {
        assert_eq!(ask(&OTHER, length).0, Some(0), "{length}: {:?}", ask(&OTHER, length));
        let (exit, code, error) = ask(&THIRD, length);
        assert_eq!((exit, code.as_str()), (Some(126), "caller_not_allowed"), "{length}: {error}");
        assert_eq!(error.contains("longer than 32768 bytes"), length > 1000, "{length}: {error}");
    }
    assert_eq!(of(&f.audit(), THIRD.uid, "call_refused").len(), 3);
}
