//! System calls that no plugin needs: each is refused inside and shown to work, or to fail otherwise, outside.

mod common;

use common::{Fixture, Mode, assert_denied, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};

#[rstest]
fn the_privileged_part_of_the_kernel_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let names = [
        "bpf",
        "perf_event_open",
        "keyctl",
        "userfaultfd",
        "reboot",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "swapon",
        "swapoff",
        "acct",
        "syslog",
        "quotactl",
        "settimeofday",
        "clock_settime",
        "sethostname",
        "setdomainname",
        "fanotify_init",
        "name_to_handle_at",
        "open_by_handle_at",
        "chroot",
        "pivot_root",
        "fsopen",
        "fspick",
        "open_tree",
        "move_mount",
        "mount_setattr",
        "umount2",
        "vhangup",
        "kcmp",
        "iopl",
        "ioperm",
        "modify_ldt",
        "process_madvise",
    ];
    let acts: Vec<Value> = names.iter().map(|name| json!(["privileged", name])).collect();
    let answers = f.acts(&acts);
    for (name, answer) in names.iter().zip(&answers) {
        let got = answer["errno_name"].as_str().unwrap_or("none");
        assert!(answer["ok"] == json!(false) && ["EPERM", "ENOSYS"].contains(&got), "{name}: {answer}");
    }
    if mode == Mode::Root {
        let control = f.control(
            "batch",
            json!(
                ["fsopen", "bpf", "perf_event_open", "userfaultfd", "chroot", "syslog", "name_to_handle_at"]
                    .map(|n| json!(["privileged", n]))
            ),
        );
        control["answers"].as_array().unwrap().iter().for_each(assert_ok);
    }
}

#[rstest]
fn each_is_a_denial_that_is_named(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let acts = [
        (json!(["mount", "none", "/tmp", "tmpfs"]), "EPERM", "mount"),
        (json!(["syscall", "SYS_unshare", "CLONE_NEWUSER"]), "EPERM", "unshare"),
        (json!(["syscall", "SYS_unshare", "CLONE_NEWNS"]), "EPERM", "unshare"),
        (json!(["syscall", "SYS_unshare", "CLONE_NEWNET"]), "EPERM", "unshare"),
        (json!(["setns", "/proc/self/ns/user", 0]), "EPERM", "setns"),
        (json!(["setns", "/proc/self/ns/net", 0]), "EPERM", "setns"),
        (json!(["clone_newuser"]), "EPERM", "clone"),
        (json!(["ptrace_attach", 0]), "EPERM", "ptrace"),
        (json!(["process_vm_readv", 0]), "EPERM", "process_vm_readv"),
        (json!(["process_vm_writev", 0]), "EPERM", "process_vm_writev"),
        (json!(["pidfd_getfd", 0]), "EPERM", "pidfd_getfd"),
        (json!(["privileged", "bpf"]), "EPERM", "bpf"),
        (json!(["seccomp_listener"]), "EPERM|EBUSY|EINVAL|EACCES", ""),
    ];
    assert_denied(&f, &acts);
}

#[rstest]
fn new_features_do_not_exist(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let acts = [
        json!(["clone3"]),
        json!(["privileged", "io_uring_setup"]),
        json!(["privileged", "io_uring_enter"]),
        json!(["privileged", "io_uring_register"]),
        json!(["set_id", "openat2", f.text("project/o2")]),
        json!(["privileged", "unknown"]),
    ];
    f.acts(&acts).iter().for_each(|answer| assert_errno(answer, "ENOSYS"));
    assert_ok(&f.control("clone3", Value::Null));
    assert_ok(&f.control("set_id", json!(["openat2", f.text("project/o3")])));
}

#[rstest]
fn no_set_id_bit_by_any_call_that_takes_a_mode(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("0o6755", "0o4755", "0o2755", "0o4000")] bits: &str,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let calls = [
        "open",
        "creat",
        "mknod",
        "chmod",
        "openat",
        "mknodat",
        "mknodat_untyped",
        "fchmod",
        "fchmod_high",
        "fchmodat",
        "fchmodat2",
    ];
    for dir in [f.text("project"), "/tmp".to_owned(), "/dev/shm".to_owned()] {
        let acts: Vec<Value> = calls.iter().map(|how| json!(["set_id", how, format!("{dir}/{how}"), bits])).collect();
        for (how, answer) in calls.iter().zip(f.acts(&acts)) {
            println!("{how} in {dir}");
            assert_errno(&answer, "EPERM");
        }
    }
    assert_errno(&f.act("set_id", json!(["openat_tmpfile", "/tmp", bits])), "EPERM");
    // the kernel itself takes these bits from mkdir
    for how in ["mkdir", "mkdirat"] {
        let answer = f.act("set_id", json!([how, f.text(&format!("project/dir-{how}")), bits]));
        let permissions = answer["permissions"].as_u64().unwrap_or(0);
        assert_eq!(permissions & 0o6000, 0, "{how}: {answer}");
    }
    // the twins: without the bits inside, with them outside
    let plain: Vec<Value> =
        calls.iter().map(|how| json!(["set_id", how, f.text(&format!("project/plain-{how}")), "0o755"])).collect();
    for (how, answer) in calls.iter().zip(f.acts(&plain)) {
        assert_eq!(answer["permissions"], 0o755, "{how}: {answer}");
    }
    for how in calls {
        let answer = f.control("set_id", json!([how, f.text(&format!("home/{how}")), bits]));
        assert_ok(&answer);
    }
    for entry in std::fs::read_dir(f.path("project")).unwrap().flatten() {
        use std::os::unix::fs::MetadataExt as _;
        let mode = entry.metadata().unwrap().mode();
        assert_eq!(mode & 0o6000, 0, "{}", entry.path().display());
    }
}

#[rstest]
fn only_files_and_fifos_by_mknod(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("mknod", "mknodat")] call: &str,
) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    for kind in ["chr", "blk", "dev_null", "whiteout", "sock"] {
        for dir in [f.text("project"), "/tmp".to_owned()] {
            assert_errno(&f.act("mknod", json!([kind, format!("{dir}/{kind}"), call])), "EPERM");
        }
    }
    for kind in ["reg", "fifo"] {
        assert_ok(&f.act("mknod", json!([kind, f.text(&format!("project/{kind}")), call])));
    }
    // a whiteout needs no privilege outside
    assert_ok(&f.control("mknod", json!(["whiteout", f.text("home/whiteout"), call])));
    let (from, to) = (f.text("project/reg"), f.text("project/other"));
    let whiteout = json!(["syscall", "SYS_renameat2", "AT_FDCWD", {"text": from}, "AT_FDCWD", {"text": to}, 4]);
    assert_errno(&f.acts(&[whiteout])[0], "EPERM");
}

#[rstest]
fn no_file_capability(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    f.write("project/program", "x");
    assert_errno_in(&f.act("file_capability", json!([f.text("project/program")])), &["EPERM", "ENOTSUP", "EOPNOTSUPP"]);
    if mode == Mode::Root {
        assert_ok(&f.control("file_capability", json!([f.text("project/program")])));
    }
}

#[rstest]
fn terminals_cannot_be_typed_into(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for request in ["TIOCSTI", "TIOCLINUX", "TIOCCONS", "TIOCSETD", "TIOCSCTTY"] {
        let number = match request {
            "TIOCSTI" => 0x5412_u64,
            "TIOCLINUX" => 0x541C,
            "TIOCCONS" => 0x541D,
            "TIOCSETD" => 0x5423,
            _ => 0x540E,
        };
        for high in [0_u64, 1 << 32, 0xDEAD_BEEF << 32, 1 << 63] {
            let request = format!("{:#x}", number | high);
            for on in [json!("pipe"), json!(0), json!(1)] {
                assert_errno(&f.act("ioctl", json!([on, request])), "EPERM");
            }
            assert_errno(&f.control("ioctl", json!(["pipe", request])), "ENOTTY");
        }
    }
    assert_ok(&f.act("ioctl", json!(["pipe", "FIONREAD"])));
}

#[rstest]
fn foreign_architectures_are_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    // getpid, and as i386 what would be mount, ptrace and socketcall there
    for act in [
        json!(["int80", 20]),
        json!(["int80", 21]),
        json!(["int80", 26]),
        json!(["int80", 102, 1]),
        json!(["x32", 39]),
        json!(["x32", 165]),
    ] {
        let answer = f.acts(std::slice::from_ref(&act))[0].clone();
        let killed = answer["message"].as_str().is_some_and(|text| text.starts_with("signal"));
        assert!(answer["ok"] == json!(false) && (killed || answer["errno_name"] == "ENOSYS"), "{act}: {answer}");
    }
    let control = f.control("int80", json!([20]));
    if control["ok"] != json!(true) {
        common::skip("this kernel has no i386 calls to refuse");
    }
}

#[rstest]
fn a_granted_call_is_let_through(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "syscalls = [\"kcmp\", \"ptrace\"]") else { return };
    assert_ok(&f.act("privileged", json!(["kcmp"])));
    assert_ok(&f.act("ptrace_attach", json!([0])));
    assert_errno(&f.act("privileged", json!(["bpf"])), "EPERM");
}

#[rstest]
fn violations_can_end_the_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "on_violation = \"kill\"") else { return };
    assert_ok(&f.act("echo", Value::Null));
    let data = f.run("privileged", json!(["bpf"])).failed("violation", 159);
    let denials = data["denials"].as_array().unwrap();
    assert!(denials.iter().any(|d| d["operation"] == "bpf" && d["layer"] == "seccomp"), "{data:#}");
    f.assert_clean();
}

/// A plugin that kills itself with SIGSYS is not one that the supervisor ended for a violation.
#[rstest]
fn a_plugin_cannot_feign_a_violation(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    f.run("raise", json!(["SIGSYS"])).failed("plugin_killed", 128 + 31);
}

#[rstest]
fn a_denial_says_what_and_how_often(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let acts = vec![json!(["privileged", "bpf"]); 5];
    let answer = f.run("batch", Value::Array(acts));
    let denials = answer.denials("seccomp", "bpf");
    assert_eq!(denials.iter().map(|d| d["count"].as_u64().unwrap()).sum::<u64>(), 5, "{denials:#?}");
    assert_eq!(denials[0]["comm"], "upm-probe");
    assert!(denials[0]["pid"].as_i64().unwrap() > 1, "{denials:#?}");
    assert!(!denials[0]["remedy"].as_str().unwrap().is_empty());
}

/// Thousands of different denials neither fill the memory nor the answer.
#[rstest]
fn denials_are_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let acts: Vec<Value> = (0..2000).map(|n| json!(["syscall", "SYS_keyctl", n])).collect();
    let answer = f.run("batch", Value::Array(acts));
    let data = answer.data();
    let listed: u64 = data["denials"].as_array().unwrap().iter().map(|d| d["count"].as_u64().unwrap()).sum();
    let dropped = data["denials_dropped"].as_u64().unwrap_or(0);
    assert!(data["denials"].as_array().unwrap().len() <= 1000, "{}", data["denials"].as_array().unwrap().len());
    assert_eq!(listed + dropped, 2000);
}

#[rstest]
fn own_protections_cannot_be_taken_back(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let acts = [
        json!(["prctl", "PR_SET_NO_NEW_PRIVS", 0]),
        json!(["prctl", "PR_SET_SECUREBITS", 0]),
        json!(["prctl", "PR_CAP_AMBIENT", "PR_CAP_AMBIENT_RAISE", 21]),
        json!(["prctl", "PR_SET_MM", "PR_SET_MM_EXE_FILE", 0]),
        json!(["prctl", "PR_SET_SECCOMP", 0]),
        json!(["setrlimit", "RLIMIT_NOFILE", 100_000, 100_000]),
        json!(["setrlimit", "RLIMIT_NPROC", 100_000, 100_000]),
        json!(["setrlimit", "RLIMIT_CORE", 1_000_000, 1_000_000]),
        json!(["sched_setscheduler", "SCHED_FIFO", 10]),
        json!(["syscall", "SYS_setpriority", 0, 0, -10]),
    ];
    for (act, answer) in acts.iter().zip(f.acts(&acts)) {
        println!("{act}");
        assert_errno_in(&answer, &["EPERM", "EINVAL", "EACCES"]);
    }
    assert_ok(&f.act("setrlimit", json!(["RLIMIT_NOFILE", 10, 10])));
    for path in [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/user/max_user_namespaces",
        "/proc/self/oom_score_adj",
        "/proc/self/uid_map",
        "/proc/self/setgroups",
    ] {
        let answer = f.act("write", json!([path, "-1000"]));
        assert_eq!(answer["ok"], false, "{path}: {answer}");
    }
    let limits = f.act("limits", Value::Null)["limits"].clone();
    assert_eq!(limits["RLIMIT_CORE"], json!([1, 1]));
    assert_eq!(limits["RLIMIT_NOFILE"], json!([256, 256]));
}

/// Pid 1 ends the call: what keeps it from running, or ends it out of turn, is a denial.
#[rstest]
fn pid_1_keeps_its_processors_and_limits(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    // SCHED_IDLE (5), a priority of 19, the idle class of I/O (3 << 13), a limit that is only looked at
    for (name, number, of) in [
        ("sched_setscheduler", libc::SYS_sched_setscheduler, json!([1, 5, 0])),
        ("sched_setparam", libc::SYS_sched_setparam, json!([1, 0])),
        ("sched_setattr", libc::SYS_sched_setattr, json!([1, 0, 0])),
        ("sched_setaffinity", libc::SYS_sched_setaffinity, json!([1, 0, 0])),
        ("setpriority", libc::SYS_setpriority, json!([0, 1, 19])),
        ("setpriority", libc::SYS_setpriority, json!([1, 0, 19])),
        ("setpriority", libc::SYS_setpriority, json!([2, 0, 19])),
        ("ioprio_set", libc::SYS_ioprio_set, json!([1, 1, 3 << 13])),
        ("ioprio_set", libc::SYS_ioprio_set, json!([2, 0, 3 << 13])),
        ("prlimit64", libc::SYS_prlimit64, json!([1, 7, 0, 0])),
        // the kernel looks at the low half alone
        ("prlimit64", libc::SYS_prlimit64, json!([(1_i64 << 32) | 1, 7, 0, 0])),
    ] {
        let with = |of: &Value| Value::Array([vec![json!(number)], of.as_array().unwrap().clone()].concat());
        let answer = f.run("syscall", with(&of));
        assert_errno(&answer.result(), "EPERM");
        assert_eq!(answer.denials("seccomp", name).len(), 1, "{name} {of}");
    }
    // the twins: of the process itself
    assert_ok(&f.act("syscall", json!([libc::SYS_setpriority, 0, 0, 19])));
    assert_ok(&f.act("syscall", json!([libc::SYS_ioprio_set, 1, 0, 3 << 13])));
    assert_ok(&f.act("syscall", json!([libc::SYS_prlimit64, 0, 7, 0, 0])));
    for number in
        [libc::SYS_sched_setscheduler, libc::SYS_sched_setparam, libc::SYS_sched_setattr, libc::SYS_sched_setaffinity]
    {
        // no structure, or an empty set, is the kernel's answer: the filter lets it pass
        assert_errno(&f.act("syscall", json!([number, 0, 0, 0])), "EINVAL");
    }
}
