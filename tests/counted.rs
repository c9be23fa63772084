//! What the kernel counts for each user: a call gets a small, fixed part of it, so that the host's programs of the same user
//! go on working; and it watches nothing of the host.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};
use std::time::Duration;

/// How many were made before which error.
#[track_caller]
fn made(answer: &Value) -> (u64, &str) {
    assert_ok(answer);
    (answer["made"].as_u64().unwrap(), answer["stopped_by_name"].as_str().unwrap_or("none"))
}

#[rstest]
fn timers_signals_and_queues_are_few(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let acts = [
        json!(["child", "timers", 5000]),
        json!(["child", "signals", 5000]),
        json!(["child", "queues", 4, "upm-test"]),
    ];
    let inside = f.acts(&acts);
    assert_eq!(made(&inside[0]["answer"]), (256, "EAGAIN"));
    assert_eq!(made(&inside[1]["answer"]), (256, "EAGAIN"));
    // The kernel makes a queue before landlock refuses to open it: the room of one is all there is.
    assert_eq!(inside[2]["answer"]["errors"], json!(["EACCES", "EMFILE", "EMFILE", "EMFILE"]));
    // all processes of the call together
    let forked = f.acts(&[json!(["timers", 200]), json!(["child", "timers", 200])]);
    assert_eq!(made(&forked[0]), (200, "none"));
    assert_eq!(made(&forked[1]["answer"]), (56, "EAGAIN"));
    // the twin: the same outside
    let queue = format!("upm-test-{}", f.dir().file_name().unwrap().to_str().unwrap());
    let outside = f.control("batch", json!([["timers", 1000], ["signals", 1000], ["queues", 4, queue]]));
    assert_eq!(made(&outside["answers"][0]), (1000, "none"));
    assert_eq!(made(&outside["answers"][1]), (1000, "none"));
    assert_eq!(outside["answers"][2]["errors"], json!(["none", "none", "none", "none"]));
}

/// Who has little gives little.
#[rstest]
fn a_call_gets_a_share_of_what_its_caller_has(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let words = json!({"args": ["timers", 5000]}).to_string();
    let answer = f.upm(["Probe", "run", &words]).through(["prlimit", "--sigpending=1000", "--"]).run();
    assert_eq!(made(&answer.result()), (125, "EAGAIN"));
}

/// The attack itself: while one call has all that it can get, the caller's programs on the host get theirs.
#[rstest]
fn the_callers_own_programs_find_enough(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "file_watches = 1000\nwrite = [\"{project_root}\"]") else { return };
    let acts = [
        json!(["timers", 100_000]),
        json!(["inotify", 1000]),
        json!(["write", f.text("project/full"), "x"]),
        json!(["sleep", 3]),
    ];
    let call =
        f.upm(["Probe", "run", &json!({"args": ["batch", acts[0], acts[1], acts[2], acts[3]]}).to_string()]).start();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while !f.path("project/full").exists() {
        assert!(std::time::Instant::now() < end, "the call did not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    let outside = f.control("batch", json!([["timers", 1000], ["inotify", 30]]));
    assert_eq!(made(&outside["answers"][0]), (1000, "none"));
    assert_eq!(made(&outside["answers"][1]), (30, "none"));
    let inside = call.wait().result()["answers"].clone();
    assert_eq!((made(&inside[0]), made(&inside[1])), ((256, "EAGAIN"), (16, "EMFILE")));
}

#[rstest]
fn nothing_is_watched_without_a_grant(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let answer = f.run("notified", json!(["/usr/bin"]));
    assert_errno(&answer.result(), "EPERM");
    let denial = answer.denials("seccomp", "inotify_init1")[0].clone();
    assert_eq!(denial["rule"], "file_watches (built-in)");
    assert_eq!(denial["remedy"], "[plugins.Probe.methods.run]\nfile_watches = 64");
    let asked = f.upm(["explain", "Probe", "run", "--may", "syscall inotify_init1", "--json"]).run();
    let told: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!((asked.exit, &told["remedy"]), (Some(1), &denial["remedy"]));
    // the twins: with the remedy's lines, and outside
    f.config(&format!("{}\n{}\n", common::PROBE, denial["remedy"].as_str().unwrap()));
    let answer = f.run("notified", json!(["/usr/bin"]));
    assert_ok(&answer.result());
    assert_eq!(answer.data()["denials"], json!([]));
    assert_eq!(answer.data()["sandbox"]["layers"]["limits"]["asked"]["file_watches"], 64);
    assert_eq!(f.upm(["explain", "Probe", "run", "--may", "syscall inotify_init1"]).run().exit, Some(0));
    assert_ok(&f.control("notified", json!(["/usr/bin"])));
}

/// The kernel holds it where the filter does not.
#[rstest]
fn the_filter_is_not_alone_in_it(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let grant = "syscalls = [\"inotify_init1\", \"inotify_add_watch\"]";
    let Some(f) = Fixture::probe(mode, grant) else { return };
    assert_errno(&f.act("notified", json!(["/usr/bin"])), "EMFILE");
    let check = f.upm(["check"]).run();
    let said = "syscalls: inotify_init1 has no effect: `file_watches` decides it; write that instead";
    assert!(check.stdout.contains(said), "{}", check.stdout);
}

#[rstest]
fn a_granted_number_of_watches_is_all_there_are(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "file_watches = 4") else { return };
    let inside = f.acts(&[json!(["child", "watches", "/tmp", 10]), json!(["child", "inotify", 40])]);
    assert_eq!(made(&inside[0]["answer"]), (4, "ENOSPC"));
    assert_eq!(made(&inside[1]["answer"]), (4, "EMFILE"));
    let outside = f.control("batch", json!([["watches", f.text("home"), 10], ["inotify", 40]]));
    assert_eq!(made(&outside["answers"][0]), (10, "none"));
    assert_eq!(made(&outside["answers"][1]), (40, "none"));
}

/// Whatever is granted: directories are not watched the old way, leases not taken, pipes not made larger.
#[rstest]
fn what_fcntl_may_not(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "file_watches = 64") else { return };
    // DN_RENAME, of which nothing comes here: the control gets no signal
    let acts = [
        (json!(["fcntl_directory", "/usr/bin", 1026, 0x10]), "EPERM", "fcntl"),
        (json!(["fcntl_pipe", 1031, 1 << 17]), "EPERM", "fcntl"),
        (json!(["privileged", "fanotify_init"]), "EPERM", "fanotify_init"),
    ];
    common::assert_denied(&f, &acts);
    let outside = f.control("batch", json!([acts[0].0, acts[1].0]));
    outside["answers"].as_array().unwrap().iter().for_each(assert_ok);
    // what programs do with fcntl goes on: F_GETFL, F_GETPIPE_SZ
    f.acts(&[json!(["fcntl_directory", "/usr/bin", 3, 0]), json!(["fcntl_pipe", 1032, 0])]).iter().for_each(assert_ok);
    for name in ["fcntl", "fanotify_init"] {
        f.config(&format!("{}syscalls = [\"{name}\"]\n", common::PROBE));
        assert_eq!(f.run("echo", json!([])).data()["code"], "config_invalid", "{name}");
    }
}

/// Descriptors in sets of epoll are counted for a user as well, and 250 descriptors can make hundreds of thousands.
#[rstest]
fn additions_to_epoll_sets_are_counted(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("", "syscalls = [\"epoll_ctl\"]")] grant: &str,
) {
    let Some(f) = Fixture::probe(mode, grant) else { return };
    let limit = std::fs::read_to_string("/proc/sys/fs/epoll/max_user_watches").unwrap();
    let most = (limit.trim().parse::<u64>().unwrap() / 8).clamp(1 << 16, 1 << 18);
    // three processes, for one cannot hold so many
    let act = json!(["child", "epoll", 100_000]);
    let words = json!({"args": ["batch", act, act, act]}).to_string();
    let answer = f.upm(["Probe", "run", &words]).patience(Duration::from_secs(120)).run();
    let inside: Vec<(u64, String)> = answer.result()["answers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| made(&one["answer"]))
        .map(|(made, error)| (made, error.to_owned()))
        .collect();
    assert_eq!(inside.iter().map(|(made, _)| made).sum::<u64>(), most.min(300_000), "{inside:?}");
    let (refused, denials) =
        (inside.iter().filter(|(_, error)| error == "ENOSPC"), answer.denials("seccomp", "epoll_ctl"));
    assert_eq!(denials[0]["count"], refused.count());
    assert_eq!(
        denials[0]["remedy"],
        "nothing: a call may add only a limited number of descriptors to epoll sets, because they count for its user on the whole host"
    );
    // the twin
    assert_eq!(made(&f.control("epoll", json!([200_000]))), (200_000, "none"));
}

/// Extended attributes are as on a file system that has none: also the labels that an owner may set while SELinux has no
/// policy.
#[rstest]
fn extended_attributes_are_not_set(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    f.write("project/file", "x");
    let file = f.text("project/file");
    for name in ["security.selinux", "user.note", "security.capability"] {
        for how in ["setxattr", "lsetxattr", "fsetxattr"] {
            assert_errno(&f.act("set_xattr", json!([how, file, name, "x"])), "EOPNOTSUPP");
        }
        assert_errno(&f.act("remove_xattr", json!([file, name])), "EOPNOTSUPP");
    }
    // the twins: outside, and by a grant, which is for who needs it
    assert_ok(&f.control("set_xattr", json!(["setxattr", file, "user.note", "x"])));
    f.config(&format!("{}write = [\"{{project_root}}\"]\nsyscalls = [\"setxattr\"]\n", common::PROBE));
    assert_ok(&f.act("set_xattr", json!(["setxattr", file, "user.note", "y"])));
    assert_errno_in(&f.act("set_xattr", json!(["setxattr", file, "security.capability", "x"])), &["EPERM", "EINVAL"]);
}

/// What ordinary tools make of that.
#[rstest]
fn copying_goes_on(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(
        mode,
        "[plugins.Copy]\nmodule = \"copy_all\"\nallowed_methods = [\"run\"]\nwrite = [\"{project_root}\"]\n",
    ) else {
        return;
    };
    f.write("project/file", "x");
    assert_ok(&f.control("set_xattr", json!(["setxattr", f.text("project/file"), "user.note", "x"])));
    f.python(
        "copy_all",
        "import os, shutil, subprocess\n\
         class Copy:\n    def __init__(self, project_root): self.root = project_root\n    def run(self):\n        \
         os.chdir(self.root)\n        shutil.copy2('file', 'python')\n        \
         for words in (['cp', '-a', 'file', 'cp-a'], ['cp', '-p', 'file', 'cp-p'], ['install', '-m', '755', 'file', 'installed'],\n                  \
         ['tar', '--xattrs', '-cf', 't.tar', 'file'], ['mkdir', 'x'], ['tar', '--xattrs', '-xpf', 't.tar', '-C', 'x'], ['mv', 'cp-a', '/tmp/moved']):\n            \
         done = subprocess.run(words, capture_output=True, text=True)\n            \
         if done.returncode: raise RuntimeError(f'{words}: {done}')\n        \
         return sorted(os.listdir('.'))\n",
    );
    let answer = f.call("Copy", "run", &json!([]));
    assert_eq!(answer.result(), json!(["cp-p", "file", "installed", "python", "t.tar", "x"]));
    assert_eq!(answer.data()["denials"], json!([]));
}
