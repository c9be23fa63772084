//! Known ways out of other sandboxes, tried here. `SECURITY.md` says which test holds against which of them.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// While calls start, their granted directory is exchanged with a link out, again and again: a call is refused, or it has
/// the directory. What the link leads to it never has.
#[rstest]
fn a_grant_exchanged_while_calls_start(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    for dir in ["project/sub", "elsewhere"] {
        f.mkdir(dir);
    }
    f.write("project/sub/name", "granted");
    f.write("elsewhere/name", "secret");
    symlink(f.path("elsewhere"), f.path("project/link")).unwrap();
    f.config(&format!("{}\nread = [\"{}\"]\n", common::PROBE, f.text("project/sub")));
    let name = f.text("project/sub/name");

    let (stop, exchanges) = (AtomicBool::new(false), AtomicU32::new(0));
    let (mut granted, mut refused, mut followed) = (0, 0, false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            let (one, other) = (f.path("project/sub"), f.path("project/link"));
            while !stop.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &one, rustix::fs::CWD, &other, exchange).unwrap();
                exchanges.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        for _ in 0..60 {
            let answer = f.run("read", json!([name]));
            assert!(!answer.stdout.contains("secret"), "{:#}", answer.envelope());
            match answer.exit {
                Some(0) if answer.result()["text"] == "granted" => granted += 1,
                Some(125) => refused += 1,
                _ => panic!("{:#}", answer.envelope()),
            }
            // the control: who follows the path is led astray
            followed |= fs::read_to_string(&name).is_ok_and(|text| text == "secret");
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{granted} granted, {refused} refused, {exchanges:?} exchanges");
    assert!(granted > 0 && refused > 0 && followed, "{granted} granted, {refused} refused, astray: {followed}");
    f.assert_clean();
}

/// Pid 1 of the call runs the engine's own program, which lies on the host: inside nobody can name that file, be it to read,
/// to write or to run it.
#[rstest]
fn the_engines_program_has_no_name_inside(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let upm = f.path("bin/upm");
    let before = fs::read(&upm).unwrap();
    // `/proc` does not show pid 1 at all where it can hide it
    for (path, errors) in [("/proc/1/exe", &["ENOENT", "EACCES", "EPERM"][..]), (upm.to_str().unwrap(), &["ENOENT"])] {
        for how in ["O_RDONLY", "O_WRONLY", "O_RDWR|O_TRUNC", "O_PATH"] {
            assert_errno_in(&f.act("open", json!([path, how])), errors);
        }
        assert_errno_in(&f.act("exec", json!([path, "--version"])), errors);
    }
    assert_eq!(fs::read(&upm).unwrap(), before);
    // one's own is there, and outside the engine's
    for how in ["O_RDONLY", "O_PATH"] {
        assert_ok(&f.act("open", json!(["/proc/self/exe", how])));
        assert_ok(&f.control("open", json!([upm, how])));
    }
    assert_eq!(f.act("exec", json!(["/proc/self/exe", "echo"]))["exit"], 0);
    assert_eq!(f.control("exec", json!([upm, "--version"]))["exit"], 0);
}

/// landlock's rules for TCP ports do not see a multipath socket, which can still connect to any TCP server.
#[rstest]
fn multipath_tcp_goes_around_nothing(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for family in ["AF_INET", "AF_INET6"] {
        let multipath = json!([family, "SOCK_STREAM|SOCK_CLOEXEC", "IPPROTO_MPTCP"]);
        if f.control("socket", multipath.clone())["errno_name"] == "EPROTONOSUPPORT" {
            common::skip("this kernel has no multipath TCP to refuse");
            return;
        }
        assert_errno(&f.act("socket", multipath.clone()), "EAFNOSUPPORT");
        assert_ok(&f.act("socket", json!([family, "SOCK_STREAM|SOCK_CLOEXEC", "IPPROTO_TCP"])));
        assert_ok(&f.control("socket", multipath));
    }
}

/// `KEYCTL_SESSION_TO_PARENT` gives a parent process another session keyring.
#[rstest]
fn no_parent_gets_another_keyring(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    // KEYCTL_JOIN_SESSION_KEYRING, so that it is the caller's own; then, in a child, KEYCTL_SESSION_TO_PARENT
    let acts =
        json!([["syscall", "SYS_keyctl", 1, 0], ["child", "syscall", "SYS_keyctl", 18], ["syscall", "SYS_keyctl", 18]]);
    let answer = f.run("batch", acts.clone());
    let answers = answer.result()["answers"].clone();
    for answer in [&answers[0], &answers[1]["answer"], &answers[2]] {
        assert_errno(answer, "EPERM");
    }
    let told: Vec<Value> =
        answer.denials("seccomp", "keyctl").iter().map(|d| d["object"]["operation"].clone()).collect();
    assert_eq!(told, [json!(1), json!(18)]);
    let outside = f.control("batch", acts)["answers"].clone();
    assert_ok(&outside[0]);
    assert_ok(&outside[1]["answer"]);
}

/// A sandbox with a set-id bit has made root of its callers more than once: this one refuses to be that.
#[rstest]
#[case::user(0o4755)]
#[case::group(0o2755)]
fn with_a_set_id_bit_it_refuses(#[case] mode: u32) {
    if !common::is_root() {
        common::skip("only root can lend its rights");
        return;
    }
    let Some(f) = Fixture::probe(Mode::User, "") else { return };
    // a copy: the fixture's program is a link that other tests have too
    let upm = f.path("bin/upm");
    fs::copy(&upm, f.path("bin/copy")).unwrap();
    fs::rename(f.path("bin/copy"), &upm).unwrap();
    chown(&upm, Some(0), Some(0)).unwrap();
    fs::set_permissions(&upm, fs::Permissions::from_mode(mode)).unwrap();
    let id = f.as_caller(&f.path("plugins/upm-probe")).arg("report").output().unwrap();
    assert!(String::from_utf8_lossy(&id.stdout).contains(&f.uid.to_string()), "the caller is a user: {id:?}");

    let data = f.run("echo", json!([1])).failed("sandbox_unavailable", 125);
    assert!(data["error"].as_str().unwrap().contains("set-user-ID"), "{data:#}");
    for words in [vec!["list"], vec!["explain", "Probe", "run"], vec!["check"], vec!["doctor"]] {
        let answer = f.upm(words.clone()).run();
        assert_eq!((answer.exit, answer.stdout.as_str()), (Some(125), ""), "{words:?}: {answer:#?}");
    }
    assert_eq!(f.upm(["--version"]).run().exit, Some(0));
    // the same program without the bit
    fs::set_permissions(&upm, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(f.act("echo", json!([1]))["value"], json!([1]));
}
