//! Locks of files: what a call may write it may lock, as outside. Who may only read a file of the host cannot make programs of
//! the host wait for it.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use nix::fcntl::{Flock, FlockArg};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// Ways to lock a file that was opened for reading, as the probe knows them.
const WAYS: [&str; 10] = [
    "LOCK_SH",
    "LOCK_EX",
    "LOCK_EX|LOCK_NB",
    "LOCK_SH|high",
    "F_SETLK",
    "F_SETLKW",
    "F_OFD_SETLK",
    "F_OFD_SETLKW",
    "F_SETLK|high",
    "F_SETLK unlock",
];

const REMEDY: &str = "nothing: a lock affects programs of the host, so a call can lock only files that it may write to: `write`, /tmp and /dev/shm";

/// A probe that may read `shared` and write `project`, each with a file of the caller's or their owner's.
fn fixture(mode: Mode, grant: &str) -> Option<Fixture> {
    let f = Fixture::bare(mode)?;
    f.mkdir("shared");
    f.write("shared/file", "x");
    f.write("project/file", "x");
    f.config(&table(&f, grant));
    Some(f)
}

fn table(f: &Fixture, grant: &str) -> String {
    format!("{}read = [\"{}\"]\nwrite = [\"{{project_root}}\"]\n{grant}\n", common::PROBE, f.text("shared"))
}

/// Each way on each file, by a process of its own, with which the lock goes.
fn each_way(files: &[&str]) -> Vec<Value> {
    files.iter().flat_map(|file| WAYS.iter().map(move |way| json!(["child", "lock", way, file]))).collect()
}

fn answers(result: &Value) -> Vec<Value> {
    let all = result["answers"].as_array().unwrap();
    all.iter().map(|one| if one["answer"].is_null() { one.clone() } else { one["answer"].clone() }).collect()
}

#[rstest]
fn what_can_only_be_read_is_not_locked(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let system = if mode == Mode::Root { "/usr/bin/env" } else { "/usr/bin/id" };
    let (shared, own) = (f.text("shared/file"), f.text("plugins/upm-probe"));
    let acts = each_way(&[system, "/usr/bin", &shared, &f.text("shared"), &own, "/etc/passwd", "/dev/null"]);
    let answer = f.run("batch", json!(acts));
    let inside = answers(&answer.result());
    assert_eq!(inside.len(), acts.len());
    inside.iter().for_each(|one| assert_errno(one, "EPERM"));
    let denials = ["flock", "fcntl"].map(|operation| answer.denials("seccomp", operation));
    let count = |all: &[Value]| all.iter().map(|denial| denial["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(denials.each_ref().map(|all| count(all)), [28, 42], "{:#}", answer.data()["denials"]);
    for denial in denials.iter().flatten() {
        let rule = denial["rule"].as_str().unwrap();
        assert!(rule.starts_with("write (") && denial["remedy"] == REMEDY, "{denial}");
        let object: Vec<&String> = denial["object"].as_object().unwrap().keys().collect();
        let second = if denial["operation"] == "flock" { "operation" } else { "cmd" };
        assert!(object == ["fd", second] || object == [second, "fd"], "{denial}");
        assert_eq!(denial["comm"], "upm-probe");
    }
    assert_eq!(answer.data()["denials_complete"]["seccomp"], true);
    let asked = f.upm(["explain", "Probe", "run", "--may", "syscall flock"]).run();
    assert!(
        asked.exit == Some(0) && asked.stdout.contains("it can lock only files that the call may write to"),
        "{asked:#?}"
    );
    let explained = f.upm(["explain", "Probe", "run"]).run();
    assert!(explained.stdout.contains("\n  locks of files: of those that the call may write\n"), "{explained:#?}");
    assert_errno(&f.act("lock", json!(["LOCK_SH", "/proc/self/status"])), "EPERM");
    // the frame channel, and an unused descriptor number: as outside, without a denial
    assert_errno(&f.act("syscall", json!([libc::SYS_flock, 3, 1])), "EPERM");
    let answer = f.run("syscall", json!([libc::SYS_flock, 99, 1]));
    assert_errno(&answer.result(), "EBADF");
    assert_eq!(answer.data()["denials"], json!([]));
    // the twins: outside, and inside where it may write
    let outside = f.control("batch", json!(each_way(&[system, &shared, &own])));
    answers(&outside).iter().for_each(assert_ok);
}

#[rstest]
fn what_can_be_written_is_locked(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let file = f.text("project/file");
    let mut acts = vec![json!(["write", "/tmp/own", "x"]), json!(["write", "/dev/shm/own", "x"])];
    acts.extend(each_way(&["/tmp/own", "/dev/shm/own", &file, "/tmp"]));
    acts.push(json!(["child", "lock", "F_SETLK write", "/tmp/own"]));
    acts.push(json!(["child", "lock", "F_SETLK write", file]));
    acts.push(json!(["child", "unlock", file]));
    acts.push(json!(["child", "lock", "F_OFD_GETLK", f.text("shared/file")]));
    acts.push(json!(["child", "lock", "F_GETLK", "/usr/bin/env"]));
    acts.push(json!(["child", "unlock", "/usr/bin/env"]));
    let answer = f.run("batch", json!(acts));
    let inside = answers(&answer.result());
    assert_eq!(inside.len(), acts.len());
    inside.iter().for_each(assert_ok);
    assert_eq!(answer.data()["denials"], json!([]));
    // as outside
    assert_errno(&f.act("lock", json!(["LOCK_EX", "/tmp/none"])), "ENOENT");
    for way in ["F_SETLEASE", "F_CANCELLK"] {
        let answer = f.run("lock", json!([way, file]));
        assert_errno(&answer.result(), "EPERM");
        let denial = answer.denials("seccomp", "fcntl")[0].clone();
        assert!(denial["remedy"].as_str().unwrap().starts_with("nothing: F_NOTIFY"), "{denial}");
    }
}

/// Whether a program of the host gets the lock that would be in conflict with `way`.
fn host_gets(way: &str, file: &str) -> bool {
    if way.starts_with("LOCK") {
        let kind = if way.starts_with("LOCK_SH") { "--exclusive" } else { "--shared" };
        let status = Command::new("flock").args(["--nonblock", kind, file, "true"]).status().unwrap();
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
        return status.success();
    }
    // by root, who may open every file for writing
    let mut range = libc_range(libc::F_WRLCK);
    let open = File::options().read(true).write(true).open(file).unwrap();
    match nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETLK(&range)) {
        Ok(_) => {
            range.l_type = libc::F_UNLCK as i16;
            nix::fcntl::fcntl(&open, nix::fcntl::FcntlArg::F_SETLK(&range)).unwrap();
            true
        }
        Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => false,
        Err(errno) => panic!("{file}: {errno}"),
    }
}

fn libc_range(kind: i32) -> libc::flock {
    libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 }
}

/// Waits until the marker is there.
fn begun(call: &mut common::Running, marker: &Path) {
    let end = Instant::now() + Duration::from_secs(10);
    while !marker.exists() {
        assert!(Instant::now() < end && call.is_running(), "the call did not begin");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[rstest]
fn the_hosts_programs_wait_only_for_what_the_call_may_write(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let system = if mode == Mode::Root { "/usr/bin/head" } else { "/usr/bin/sort" };
    let (shared, free) = (f.text("shared/file"), f.text("project/file"));
    for (way, file, held) in [
        ("LOCK_EX", system, false),
        ("LOCK_EX", &shared, false),
        ("LOCK_EX|LOCK_NB", &shared, false),
        ("LOCK_SH", &shared, false),
        ("F_SETLK", &shared, false),
        ("F_SETLKW", &shared, false),
        ("F_OFD_SETLK", &shared, false),
        ("LOCK_EX", &free, true),
        ("LOCK_EX|LOCK_NB", &free, true),
        ("LOCK_SH", &free, true),
        ("F_SETLK", &free, true),
        ("F_SETLKW", &free, true),
        ("F_OFD_SETLK", &free, true),
    ] {
        let marker = f.path("project/locked");
        std::fs::remove_file(&marker).ok();
        // the probe keeps what it has opened
        let acts = json!(["batch", ["lock", way, file], ["write", marker, "x"], ["sleep", 60]]);
        let mut call = f.upm(["Probe", "run", &json!({ "args": acts }).to_string()]).start();
        begun(&mut call, &marker);
        assert_eq!(host_gets(way, file), !held, "{way} {file}");
        assert!(call.is_running(), "{way} {file}: it was not looked at while the call ran");
        call.signal(nix::sys::signal::Signal::SIGTERM);
        call.wait().failed("cancelled", 143);
        assert!(host_gets(way, file), "{way} {file}: the lock has outlived the call");
    }
}

#[rstest]
fn a_call_waits_for_the_hosts_lock(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let path = f.path("project/file");
    for (way, at_once) in [
        ("LOCK_EX", "LOCK_EX|LOCK_NB"),
        ("LOCK_SH", "LOCK_EX|LOCK_NB"),
        ("F_SETLKW", "F_SETLK"),
        ("F_OFD_SETLKW", "F_OFD_SETLK"),
    ] {
        let open = || File::options().read(true).write(true).open(&path).unwrap();
        let (file, held);
        if way.starts_with("LOCK") {
            (file, held) = (None, Some(Flock::lock(open(), FlockArg::LockExclusive).unwrap()));
        } else {
            let other = open();
            nix::fcntl::fcntl(&other, nix::fcntl::FcntlArg::F_OFD_SETLK(&libc_range(libc::F_WRLCK))).unwrap();
            (file, held) = (Some(other), None);
        }
        assert_errno_in(&f.act("lock", json!([at_once, path])), &["EAGAIN", "EACCES"]);
        let marker = f.path("project/begun");
        std::fs::remove_file(&marker).ok();
        let acts = json!(["batch", ["write", marker, "x"], ["lock", way, path]]);
        let mut call = f.upm(["Probe", "run", &json!({ "args": acts }).to_string()]).start();
        begun(&mut call, &marker);
        std::thread::sleep(Duration::from_millis(300));
        assert!(call.is_running(), "{way}: it did not wait");
        drop((file, held));
        let let_go = Instant::now();
        answers(&call.wait().result()).iter().for_each(assert_ok);
        assert!(let_go.elapsed() < Duration::from_secs(2), "{way}: it got the lock after {:?}", let_go.elapsed());
    }
}

#[rstest]
fn no_exchanged_descriptor_locks_the_hosts_file(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("LOCK_EX|LOCK_NB", "LOCK_EX", "F_OFD_SETLK")] way: &str,
) {
    let Some(f) = fixture(mode, "") else { return };
    let (shared, free, marker) = (f.text("shared/file"), f.text("project/file"), f.path("project/done"));
    let acts = json!(["batch", ["locks_swapped", way, shared, free, 3000], ["write", marker, "x"], ["sleep", 60]]);
    let mut call = f.upm(["Probe", "run", &json!({ "args": acts }).to_string()]).start();
    let end = Instant::now() + Duration::from_secs(25);
    while !marker.exists() {
        assert!(Instant::now() < end && call.is_running(), "the call did not end its tries");
        assert!(host_gets(way, &shared), "{way}: the host's file was locked");
        std::thread::sleep(Duration::from_millis(2));
    }
    // none is unlocked by the probe: a single success would still be there
    assert!(host_gets(way, &shared), "{way}: the host's file is locked");
    assert!(!host_gets(way, &free), "{way}: nothing was locked at all");
    call.signal(nix::sys::signal::Signal::SIGTERM);
    call.wait().failed("cancelled", 143);
    // the twin: both ends of the race are met
    let answer = f.run("locks_swapped", json!([way, shared, free, 3000]));
    let tries = answer.result();
    assert!(tries["worked"].as_u64() > Some(50) && tries["refused"].as_u64() > Some(50), "{tries}");
    // and outside the host's file is locked
    let outside = f.control("locks_swapped", json!([way, shared, free, 3000]));
    assert_eq!(outside["refused"], 0, "{outside}");
}

#[rstest]
fn nobody_shares_descriptors_with_another_process(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    // CLONE_FILES alone; CLONE_THREAD (which the kernel takes with SIGHAND and VM alone) without it; CLOSE_RANGE_UNSHARE
    for (name, [one, two, three]) in [
        ("clone", [0x400 | i64::from(libc::SIGCHLD), 0, 0]),
        ("clone", [0x0001_0900, 0, 0]),
        ("close_range", [100, 101, 2]),
    ] {
        let answer = f.run("syscall", json!([name, one, two, three]));
        assert_errno(&answer.result(), "EPERM");
        assert_eq!(answer.denials("seccomp", name).len(), 1, "{name}");
    }
    assert_ok(&f.act("syscall", json!(["close_range", 100, 101, 0])));
    assert_ok(&f.control("syscall", json!(["close_range", 100, 101, 2])));
}

#[rstest]
fn a_lock_ends_the_call_where_violations_do(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "on_violation = \"kill\"") else { return };
    for way in ["LOCK_SH", "F_SETLK", "F_OFD_SETLKW"] {
        let data = f.run("lock", json!([way, f.text("shared/file")])).failed("violation", 159);
        assert_eq!(data["denials"][0]["remedy"], REMEDY, "{data:#}");
        assert_ok(&f.act("lock", json!([way, f.text("project/file")])));
    }
}

#[rstest]
fn no_other_key_adds_locks(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "syscalls = [\"flock\"]") else { return };
    assert_errno(&f.act("lock", json!(["LOCK_SH", f.text("shared/file")])), "EPERM");
    assert_ok(&f.act("lock", json!(["LOCK_SH", f.text("project/file")])));
    let check = f.upm(["check"]).run();
    assert!(check.stdout.contains("syscalls: flock has no effect"), "{}", check.stdout);
    f.config(&table(&f, "syscalls = [\"fcntl\"]"));
    assert_eq!(f.run("echo", json!([])).data()["code"], "config_invalid");
}

/// Where the kernel lets pid 1 not look, nothing is locked, and the answer says why.
#[rstest]
fn what_cannot_be_looked_at_is_not_locked(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let answer = f.run("lock_hidden", json!([f.text("project/file")]));
    assert_errno(&answer.result(), "EPERM");
    let denial = answer.denials("seccomp", "flock")[0].clone();
    assert!(denial["remedy"].as_str().unwrap().contains("pidfd_getfd, statx: Operation not permitted"), "{denial}");
    assert_ok(&f.control("lock_hidden", json!([f.text("project/file")])));
    // and on a host that lets no process look at another: there calls run, and lock nothing
    let words = |way: &str| json!({"args": ["lock", way, f.text("project/file")]}).to_string();
    let on = |call: common::Call<'_>, calls: &str| {
        call.through([f.text("plugins/upm-probe").as_str(), "without", calls, "--"]).run()
    };
    for (errno, told) in [("EPERM", "Operation not permitted"), ("ENOSYS", "Function not implemented")] {
        let without = format!("pidfd_getfd={errno}");
        for way in ["LOCK_EX", "F_SETLK", "F_OFD_SETLK"] {
            let answer = on(f.upm(["Probe", "run", &words(way)]), &without);
            assert_errno(&answer.result(), "EPERM");
            let remedy = answer.data()["denials"][0]["remedy"].as_str().unwrap().to_owned();
            assert!(remedy.contains(&format!("pidfd_getfd, statx: {told}")), "{remedy}");
        }
        let doctor = on(f.upm(["doctor", "--json"]), &without);
        let all: Value = serde_json::from_str(&doctor.stdout).unwrap();
        let line = all["layers"].as_array().unwrap().iter().find(|line| line["layer"] == "locks").unwrap();
        let found = line["found"].as_str().unwrap();
        assert!(doctor.exit == Some(0) && found.starts_with("calls cannot lock files here: "), "{doctor:#?}");
        assert!(line["remedy"].as_str().unwrap().contains("ptrace_scope"), "{line}");
    }
    assert_ok(&on(f.upm(["Probe", "run", &words("LOCK_EX")]), "acct=EPERM").result());
    // without it the mount is unknown: a call that may write something is refused
    f.config(common::PROBE);
    let own = json!({"args": ["lock", "LOCK_EX", "/tmp"]}).to_string();
    for errno in ["EPERM", "ENOSYS"] {
        let named = f.upm(["--config", &f.text("upm_config.toml"), "Probe", "run", &own]);
        let answer = on(named, &format!("statx={errno}"));
        assert_errno(&answer.result(), "EPERM");
        let remedy = answer.data()["denials"][0]["remedy"].as_str().unwrap().to_owned();
        assert!(remedy.contains("pidfd_getfd, statx: Function not implemented"), "{remedy}");
    }
    assert_ok(&f.upm(["Probe", "run", &own]).run().result());
    let doctor = f.upm(["doctor"]).run();
    assert!(
        doctor.stdout.contains("ok       locks          a call can lock files that it may write to\n"),
        "{doctor:#?}"
    );
}

/// Pid 1 must not wait for a server: where the call sees a file system that has one, and has no cgroup that ends it all the same,
/// nothing is locked.
#[rstest]
fn beside_a_file_system_with_a_server_nothing_is_locked(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() || !common::has_program("bindfs") {
        return common::skip("needs root and bindfs");
    }
    let Some(f) = Fixture::new(mode, "[plugins.Probe]\nexec = \"shown/upm-probe\"\nallowed_methods = [\"run\"]\n")
    else {
        return;
    };
    f.mkdir("shown");
    let call = |mount: &str| {
        let script = format!("cd {} && {mount} >/dev/null && exec \"$@\"", f.dir().display());
        f.upm(["Probe", "run", &json!({"args": ["lock", "LOCK_EX", "/tmp"]}).to_string()])
            .mounting_script(&script)
            .run()
    };
    let by = format!(
        "chmod 666 /dev/fuse && setpriv --reuid {0} --regid {0} --clear-groups --inh-caps +sys_admin,+dac_override \
         --ambient-caps +sys_admin,+dac_override bindfs -o allow_other --force-user={0} --force-group={0} --perms=u=rwX:go=rX \
         plugins shown",
        f.uid
    );
    let answer = call(&by);
    if answer.data()["sandbox"]["layers"]["limits"]["active"]["memory_by"] == "cgroup" {
        return assert_ok(&answer.result());
    }
    assert_errno(&answer.result(), "EPERM");
    let remedy = answer.denials("seccomp", "flock")[0]["remedy"].as_str().unwrap().to_owned();
    assert!(remedy.starts_with("nothing: the call has access to ") && remedy.contains("(fuse"), "{remedy}");
    assert_ok(&call("mount --bind plugins shown").result());
}

#[rstest]
fn learning_locks_as_calls_do(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let learn = |file: &str| {
        let words = json!({"args": ["lock", "LOCK_EX", file]}).to_string();
        f.upm(["learn", "Probe", "run", &words]).run()
    };
    let learned = learn(&f.text("shared/file"));
    assert!(learned.stdout.contains("EPERM") || learned.stdout.contains("  seccomp flock: "), "{learned:#?}");
    let learned = learn(&f.text("project/file"));
    assert!(learned.stdout.contains("the call succeeded") && !learned.stdout.contains("flock"), "{learned:#?}");
}

/// A process can have one listener: where upm runs under a filter that has it, nobody could look.
#[rstest]
fn where_nobody_listens_nothing_is_locked(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("deny", "kill")] violation: &str,
) {
    let Some(f) = fixture(mode, &format!("on_violation = \"{violation}\"")) else { return };
    let probe = f.text("plugins/upm-probe");
    let acts: Vec<Value> = ["LOCK_SH", "LOCK_EX", "F_SETLK", "F_SETLKW", "F_OFD_SETLK", "F_OFD_SETLKW"]
        .into_iter()
        .flat_map(|way| ["shared/file", "project/file"].map(|file| json!(["lock", way, f.text(file)])))
        .chain([json!(["unlock", f.text("project/file")])])
        .collect();
    let words = [vec![json!("batch")], acts].concat();
    let words = json!({ "args": words }).to_string();
    let answer = f.upm(["Probe", "run", &words]).through([probe.as_str(), "under-listener"]).run();
    let inside = answers(&answer.result());
    let (unlocked, locked) = inside.split_last().unwrap();
    locked.iter().for_each(|one| assert_errno(one, "EOPNOTSUPP"));
    assert_ok(unlocked);
    assert_eq!(answer.data()["denials"], json!([]));
}

/// Threads can go on after the first one of their process has ended. Before Linux 6.9 the kernel shows only the descriptors of the first one.
#[rstest]
fn threads_that_outlive_the_first_lock_too(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "") else { return };
    let (own, shared, probe) = (f.text("project/file"), f.text("shared/file"), f.text("plugins/upm-probe"));
    let call = |words: &Value, old: bool| {
        let words = json!({ "args": words }).to_string();
        let call = f.upm(["Probe", "run", &words]);
        // PIDFD_THREAD, and what a kernel says that does not know it
        let old_kernel = [probe.as_str(), "without", "pidfd_open(128@1)=EINVAL", "--"];
        if old { call.through(old_kernel).run() } else { call.run() }
    };
    let ways = |file: &str| ["LOCK_EX", "F_SETLK", "F_OFD_SETLK"].map(|way| json!(["lock", way, file])).to_vec();
    let none = json!(["syscall", libc::SYS_flock, 99, 1]);
    let by = |act: &str| json!([vec![json!(act)], ways(&own), ways(&shared), vec![none.clone()]].concat());
    let as_usual = |answer: &common::Answer| {
        let inside = answers(&answer.result());
        inside[..3].iter().for_each(assert_ok);
        inside[3..6].iter().for_each(|one| assert_errno(one, "EPERM"));
        assert_errno(&inside[6], "EBADF");
        let denials = answer.data()["denials"].clone();
        let all = denials.as_array().unwrap();
        assert!(!all.is_empty() && all.iter().all(|denial| denial["remedy"] == REMEDY), "{denials:#}");
    };
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    if pidfd_open(getpid(), PidfdFlags::from_bits_retain(128)).is_ok() {
        as_usual(&call(&by("leaderless"), false));
    }
    let answer = call(&by("leaderless"), true);
    let inside = answers(&answer.result());
    assert_eq!(inside.len(), 7);
    inside.iter().for_each(|one| assert_errno(one, "EPERM"));
    let denials = answer.data()["denials"].clone();
    let all = denials.as_array().unwrap();
    let told = |denial: &Value| denial["remedy"].as_str().unwrap().contains("first thread of the program has ended");
    assert!(!all.is_empty() && all.iter().all(told), "{denials:#}");
    // the twins: while the first thread is there, by itself and by others
    as_usual(&call(&by("batch"), true));
    let answer = call(&json!(["locks_waiting", own, 2]), true);
    assert_eq!((answer.result()["ended"].clone(), answer.data()["denials"].clone()), (json!([]), json!([])));
}

/// Those that wait hold a descriptor of the supervisor's each.
#[rstest]
fn few_locks_wait_at_once(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode, "processes = 128") else { return };
    let answer = f.run("locks_waiting", json!([f.text("project/file"), 70]));
    let ended = answer.result()["ended"].as_array().unwrap().clone();
    assert!((5..=8).contains(&ended.len()), "{ended:?}");
    ended.iter().for_each(|one| assert_errno(one, "ENOLCK"));
    let denial = answer.denials("seccomp", "flock")[0].clone();
    assert!(denial["remedy"].as_str().unwrap().starts_with("nothing: only 64 locks"), "{denial}");
    assert!(host_gets("LOCK_EX", &f.text("project/file")), "a lock has outlived the call");
    // the twin: fewer wait for as long
    let answer = f.run("locks_waiting", json!([f.text("project/file"), 50]));
    assert_eq!((answer.result()["ended"].clone(), answer.data()["denials"].clone()), (json!([]), json!([])));
}

/// The kernel keeps an object for each range that is locked, and counts them for nobody.
#[rstest]
fn changes_of_ranges_are_counted(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "timeout = \"2m\"\ncpu_time = \"1m\"") else { return };
    let act = json!(["child", "locks", "/tmp/own", 30_000]);
    let words = json!({"args": ["batch", ["write", "/tmp/own", "x"], act, act, act]}).to_string();
    let answer = f.upm(["Probe", "run", &words]).patience(Duration::from_secs(130)).run();
    let answers = answers(&answer.result());
    let made: Vec<u64> =
        answers[1..].iter().map(|one| one["made"].as_u64().unwrap_or_else(|| panic!("{answers:?}"))).collect();
    assert_eq!(made, [30_000, 30_000, (1 << 16) - 60_000], "{answers:?}");
    assert_eq!(answers[3]["stopped_by_name"], "ENOLCK");
    let denial = answer.denials("seccomp", "fcntl")[0].clone();
    assert_eq!(denial["count"], 1);
    assert!(
        denial["remedy"].as_str().unwrap().starts_with("nothing: a call may change fcntl locks only 65536 times"),
        "{denial}"
    );
    f.write("project/own", "x");
    let outside = f.control("locks", json!([f.text("project/own"), 70_000]));
    assert_eq!(outside["made"], 70_000, "{outside}");
}

const PROGRAMS: &str = r#"
import fcntl, os, socket, sqlite3, time

EX, SH, NB, UN = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB, fcntl.LOCK_UN


def taken(path):
    with open(path) as other:
        try:
            fcntl.flock(other, EX | NB)
            return False
        except BlockingIOError:
            return True


class Does:
    def exclude(self, path):
        """Two processes: the second waits for the first."""
        first = open(path, "w")
        fcntl.flock(first, EX)
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            first.close()
            second = open(path)
            try:
                fcntl.flock(second, EX | NB)
                os._exit(1)
            except BlockingIOError:
                pass
            os.write(ready[1], b"x")
            fcntl.flock(second, EX)
            os._exit(0 if taken(path) else 2)
        os.read(ready[0], 1)
        time.sleep(0.2)
        assert os.waitpid(child, os.WNOHANG) == (0, 0)
        fcntl.flock(first, UN)
        begun = time.monotonic()
        _, status = os.waitpid(child, 0)
        return [os.waitstatus_to_exitcode(status), time.monotonic() - begun < 1]

    def posix(self, path):
        first = open(path, "w+")
        fcntl.lockf(first, EX, 10, 0)
        child = os.fork()
        if child == 0:
            second = open(path, "w+")
            fcntl.lockf(second, EX | NB, 10, 10)
            try:
                fcntl.lockf(second, EX | NB, 10, 0)
            except OSError as error:
                os._exit(error.errno)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    def handed(self, path):
        """A lock stays as long as one copy of the descriptor does: over fork, and passed along."""
        file = open(path, "w")
        fcntl.flock(file, EX)
        ours, theirs = socket.socketpair()
        child = os.fork()
        if child == 0:
            file.close()
            ours.close()
            _, fds, _, _ = socket.recv_fds(theirs, 1, 1)
            theirs.send(b"x")
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        socket.send_fds(ours, [b"x"], [file.fileno()])
        ours.recv(1)
        file.close()
        seen = [taken(path)]
        ours.close()
        os.waitpid(child, 0)
        return seen + [taken(path)]

    def converted(self, path):
        one, two = open(path, "w"), open(path)
        fcntl.flock(one, SH)
        fcntl.flock(two, SH)
        try:
            fcntl.flock(one, EX | NB)
            return "both"
        except BlockingIOError:
            fcntl.flock(two, UN)
            fcntl.flock(one, EX)
            return taken(path)

    def sqlite(self, path, mode):
        db = sqlite3.connect(path, timeout=20)
        mode = db.execute("pragma journal_mode=" + mode).fetchone()[0]
        with db:
            db.execute("create table t(x)")
        db.close()
        children = []
        for n in range(3):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    db = sqlite3.connect(path, timeout=20)
                    for i in range(20):
                        with db:
                            db.execute("insert into t values (?)", (n * 100 + i,))
                    db.close()
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        db = sqlite3.connect(path)
        return [mode, codes, db.execute("select count(*), count(distinct x) from t").fetchone()]

    def threads(self, path):
        import threading
        got = []

        def one():
            with open(path) as file:
                fcntl.flock(file, EX)
                got.append(len(got))
                time.sleep(0.01)

        open(path, "w").close()
        all = [threading.Thread(target=one) for _ in range(8)]
        for each in all:
            each.start()
        for each in all:
            each.join()
        db = sqlite3.connect(path + ".db", check_same_thread=False)
        def write():
            with db:
                db.execute("create table t(x)")
        writer = threading.Thread(target=write)
        writer.start()
        writer.join()
        return [got, db.execute("select count(*) from t").fetchone()[0]]

    def flood(self, seconds, path):
        file, end, count = open(path, "a"), time.monotonic() + seconds, 0
        while time.monotonic() < end:
            fcntl.flock(file, SH)
            count += 1
        return count
"#;

const TABLES: &str = "[plugins.Does]\nmodule = \"does\"\nwrite = [\"{project_root}\"]\nallowed_methods = [\"exclude\", \"posix\", \"handed\", \"converted\", \
                      \"sqlite\", \"threads\", \"flood\"]\n";

#[rstest]
fn ordinary_programs_lock_as_they_do_outside(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    f.python("does", PROGRAMS);
    for place in ["/tmp".to_owned(), f.text("project")] {
        let does = |method: &str, args: Value| {
            let answer = f.call("Does", method, &args);
            let result = answer.result();
            assert_eq!(answer.data()["denials"], json!([]), "{method} {args}");
            result
        };
        let path = |name: &str| format!("{place}/{name}");
        assert_eq!(does("exclude", json!([path("exclude")])), json!([0, true]));
        assert_eq!(does("posix", json!([path("posix")])), libc::EAGAIN);
        assert_eq!(does("handed", json!([path("handed")])), json!([true, false]));
        assert_eq!(does("converted", json!([path("converted")])), true);
        for journal in ["delete", "wal"] {
            let done = does("sqlite", json!([path(&format!("{journal}.db")), journal]));
            assert_eq!(done, json!([journal, [0, 0, 0], [60, 60]]));
        }
        assert_eq!(does("threads", json!([path("threads")])), json!([[0, 1, 2, 3, 4, 5, 6, 7], 0]));
    }
}

/// See tests/effort.rs: what a flood of anything costs the engine is a small multiple of what it costs the call.
#[rstest]
fn a_flood_of_locks_costs_the_engine_little_more_than_the_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    const MEASURE: &str = "
import os, sys
pid = os.fork()
if pid == 0:
    os.execv(sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(pid, 0)
os.write(2, b'\\nused %d\\n' % ((used.ru_utime + used.ru_stime) * 1e6))
os._exit(os.waitstatus_to_exitcode(status) & 0xff)
";
    let Some(f) = Fixture::new(mode, &format!("{TABLES}site = false\n")) else { return };
    f.python("does", PROGRAMS);
    let flood = |seconds: f64, path: &str| {
        let words = json!({ "args": [seconds, path] }).to_string();
        let call = f.upm(["Does", "flood", &words]).through(["/usr/bin/python3", "-I", "-S", "-c", MEASURE]);
        let answer = call.run();
        let used = answer.stderr.lines().rev().find_map(|line| line.strip_prefix("used ")).unwrap_or_default();
        let usage = answer.data()["usage"].clone();
        let call = usage["cpu_user_us"].as_u64().unwrap() + usage["cpu_system_us"].as_u64().unwrap();
        (answer.result().as_u64().unwrap(), used.parse::<u64>().unwrap().saturating_sub(call), call)
    };
    let (_, idle, _) = flood(0.0, "/tmp/own");
    let (count, engine, call) = flood(3.0, "/tmp/own");
    assert!(count > 20, "{count}");
    let most = idle + 100_000 + 2 * call + 3_000_000 / 25 + 100_000;
    assert!(engine < most, "{engine} µs of the engine at {call} µs of the call, {count} locks (idle {idle})");
}
