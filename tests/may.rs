//! `upm explain --may` gives the sealed root's answer: each question is also tried inside, and the results must agree. Every
//! change that it proposes is added to the configuration, `upm check` accepts it, and the act works.

mod common;

use common::{Fixture, Mode, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};
use std::os::unix::fs::{PermissionsExt, symlink};

/// The exit status and the JSON of a question.
fn ask(f: &Fixture, act: &str) -> (bool, Value) {
    let told = f.upm(["explain", "Probe", "run", "--json", "--may", act]).run();
    let value: Value = serde_json::from_str(&told.stdout).unwrap_or_else(|e| panic!("{act}: {e}: {told:#?}"));
    assert_eq!(told.exit, Some(i32::from(value["may"] == false)), "{act}: {told:#?}");
    (value["may"] == true, value)
}

/// Acts that try to read and to write a path, without harm if they are allowed.
fn tries(path: &str, directory: bool) -> [Value; 2] {
    // O_NONBLOCK, and O_WRONLY | O_CREAT with it
    let (nonblock, write_create) = (0o4000, 0o4101);
    let write = match directory {
        true => json!(["create", format!("{}/upm-tried", path.trim_end_matches('/'))]),
        false => json!(["open", path, write_create]),
    };
    [json!(["open", path, nonblock]), write]
}

fn chmod(f: &Fixture, below: &str, mode: u32) {
    std::fs::set_permissions(f.path(below), std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A fixture with links, modes, missing files and nested grants.
fn world(mode: Mode) -> Option<Fixture> {
    let f = Fixture::probe(
        mode,
        "read = [\"data\", \"{project_root}/kept\"]\nwrite = [\"{project_root}\"]\ntmp = \"1MiB\"",
    )?;
    for dir in ["data", "data/dir", "data/shut", "project/kept", "project/dir", "project/locked", "apart"] {
        f.mkdir(dir);
    }
    for file in [
        "data/file",
        "data/secret",
        "data/shut/file",
        "project/file",
        "project/kept/file",
        "project/fixed",
        "apart/file",
    ] {
        f.write(file, "content");
    }
    let link = |to: &str, at: &str| symlink(to, f.path(at)).unwrap();
    link("file", "data/link");
    link("../project/file", "data/across");
    link("../apart/file", "data/out");
    link(&f.text("apart"), "data/absolute");
    link("loop", "data/loop");
    link("nowhere", "data/dangling");
    link("/proc/self/fd/1", "data/stdout");
    link("kept/file", "project/to-kept");
    link("/bin/sh", "project/shell");
    nix::unistd::mkfifo(&f.path("data/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o666)).unwrap();
    drop(std::os::unix::net::UnixListener::bind(f.path("data/socket")).unwrap());
    chmod(&f, "data/fifo", 0o666);
    chmod(&f, "data/socket", 0o777);
    chmod(&f, "data/secret", 0);
    chmod(&f, "data/shut", 0);
    chmod(&f, "project/fixed", 0o444);
    chmod(&f, "project/locked", 0o555);
    Some(f)
}

#[rstest]
fn the_answer_is_what_comes_of_it_inside(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = world(mode) else { return };
    let own = |below: &str| f.text(below);
    let mut asked: Vec<(String, bool)> = [
        ("data", true),
        ("data/", true),
        ("data/file", false),
        ("data/file/", false),
        ("data/file/x", false),
        ("data/dir", true),
        ("data/link", false),
        ("data/across", false),
        ("data/out", false),
        ("data/absolute", true),
        ("data/absolute/file", false),
        ("data/loop", false),
        ("data/dangling", false),
        ("data/stdout", false),
        ("data/fifo", false),
        ("data/socket", false),
        ("data/secret", false),
        ("data/shut", true),
        ("data/shut/file", false),
        ("data/none", false),
        ("data/../data/file", false),
        ("data/./dir/../file", false),
        ("data/none/../file", false),
        ("project", true),
        ("project/file", false),
        ("project/new", false),
        ("project/kept", true),
        ("project/kept/file", false),
        ("project/kept/new", false),
        ("project/to-kept", false),
        ("project/dir", true),
        ("project/fixed", false),
        ("project/locked", true),
        ("project/locked/new", false),
        ("project/shell", false),
        ("apart", true),
        ("apart/file", false),
        ("", true),
        ("upm_config.toml", false),
        ("plugins/upm-probe", false),
        ("plugins/other", false),
        ("cache", true),
    ]
    .iter()
    .map(|(below, directory)| (own(below), *directory))
    .collect();
    asked.extend(
        [
            ("/", true),
            ("//", true),
            ("/..", true),
            ("/bin", true),
            ("/bin/sh", false),
            ("/bin/../bin/sh", false),
            ("/lib", true),
            ("/usr", true),
            ("/usr/bin/env", false),
            ("/usr/none", false),
            ("/etc", true),
            ("/etc/passwd", false),
            ("/etc/passwd/x", false),
            ("/etc/shadow", false),
            ("/etc/hosts", false),
            ("/etc/ld.so.cache", false),
            ("/etc/none", false),
            ("/etc/alternatives", true),
            ("/etc/alternatives/awk", false),
            ("/usr/bin/awk", false),
            ("/dev", true),
            ("/dev/null", false),
            ("/dev/null/x", false),
            ("/dev/zero", false),
            ("/dev/sda", false),
            ("/dev/tty", false),
            ("/dev/fd", true),
            ("/dev/stdout", false),
            ("/dev/stderr", false),
            ("/dev/fd/9", false),
            ("/dev/shm", true),
            ("/tmp", true),
            ("/var", true),
            ("/var/tmp", true),
            ("/var/lib", true),
            ("/proc", true),
            ("/proc/1", true),
            ("/proc/1/status", false),
            ("/proc/sys", true),
            ("/proc/sys/kernel/hostname", false),
            ("/proc/cpuinfo", false),
            ("/proc/self", true),
            ("/proc/self/status", false),
            ("/proc/self/comm", false),
            ("/proc/self/none", false),
            ("/proc/self/root/etc/shadow", false),
            ("/proc/self/root/etc/passwd", false),
            ("/proc/self/cwd/usr", true),
            ("/run", true),
            ("/run/upm/runner.py", false),
            ("/run/systemd", true),
            ("/sys", true),
            ("/root", true),
            ("/home", true),
            ("/boot", true),
        ]
        .map(|(path, directory)| (path.to_owned(), directory)),
    );
    asked.push((format!("/{}", "x".repeat(300)), false));
    asked.push((format!("{}/{}", own("data"), "x".repeat(300)), false));
    let acts: Vec<Value> = asked.iter().flat_map(|(path, directory)| tries(path, *directory)).collect();
    // Asked first, because a try may create a missing file.
    let questions = asked.iter().flat_map(|(path, _)| [format!("read {path}"), format!("write {path}")]);
    let answers: Vec<(bool, Value)> = questions.map(|question| ask(&f, &question)).collect();
    let came = f.acts(&acts);
    let mut wrong = Vec::new();
    for (at, (path, _)) in asked.iter().enumerate() {
        for (write, came) in [false, true].into_iter().zip(&came[2 * at..]) {
            let (may, told) = &answers[2 * at + usize::from(write)];
            if *may != (came["ok"] == true) {
                let errno = &came["errno_name"];
                wrong.push(format!(
                    "{} {path}: {} (inside: {errno})",
                    if write { "write" } else { "read" },
                    told["why"]
                ));
            } else if let (Some(errno), Some((_, named))) =
                (came["errno_name"].as_str(), told["why"].as_str().unwrap().rsplit_once('('))
            {
                let named = named.trim_end_matches(')');
                assert!(*may || write || !named.starts_with('E') || named == errno, "{path}, {errno}: {told}");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // both answers occurred
    let count = |ok: bool| came.iter().filter(|came| came["ok"] == ok).count();
    assert!(count(true) > 30 && count(false) > 60, "{} {}", count(true), count(false));
}

/// `upm check` accepts a proposed change, and the change grants what was asked.
#[rstest]
fn what_is_proposed_gives_it(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = world(mode) else { return };
    let before = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let owned = mode == Mode::User;
    for (act, path, proposed) in [
        ("read", "apart/file", true),
        ("read", "apart", true),
        ("read", "data/out", true),
        ("read", "data/absolute/file", true),
        ("write", "data/dir", owned),
        ("write", "data/new", owned),
        ("write", "data/file", owned),
        // root's files, links, missing files, denied by permissions, policy
        ("read", "apart/none", false),
        ("read", "data/secret", false),
        ("read", "data/loop", false),
        ("read", "data/socket", false),
        ("write", "plugins/upm-probe", false),
        ("write", "upm_config.toml", false),
        ("write", "audit/audit.jsonl", false),
        ("write", "project/fixed", false),
    ] {
        let full = f.text(path);
        let (may, told) = ask(&f, &format!("{act} {full}"));
        let remedy = told["remedy"].as_str().unwrap();
        assert_eq!((may, !remedy.starts_with("nothing: ")), (false, proposed), "{act} {path}: {told:#}");
        if !proposed {
            continue;
        }
        // The method's table: at the end.
        f.write("upm_config.toml", format!("{before}\n{remedy}\n"));
        let check = f.upm(["check", "--json"]).run();
        assert_eq!(check.exit, Some(0), "{act} {path}: {remedy}\n{}", check.stdout);
        assert!(ask(&f, &format!("{act} {full}")).0, "{act} {path}: {remedy}");
        let directory = f.path(path).is_dir();
        let [read, write] = tries(&full, directory);
        assert_ok(&f.acts(&[if act == "read" { read } else { write }])[0]);
        f.write("upm_config.toml", before.clone());
    }
}

/// Places with a host's policy or secrets are never proposed, whichever path leads there.
#[rstest]
fn system_places_are_never_proposed(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    symlink("/etc/cron.d", f.path("project/jobs")).unwrap();
    f.config(&format!("{}read = [\"project\"]\n", common::PROBE));
    for act in [
        "write /etc/cron.d",
        "write /etc/cron.d/job",
        "write /etc/passwd",
        "read /etc/shadow",
        "read /etc/ssh",
        "read /root/.ssh/id_rsa",
        "write /usr/local/bin/x",
        "write /boot/x",
        "write /var/spool/cron/crontabs/root",
        "read /home",
        "write /var/lib/dpkg/status",
        "write /opt/x",
        "read /proc/sys/fs",
        "read /proc/kallsyms",
        "read /sys/kernel",
        "write /dev/sda",
        "write /run/x",
        "read /var/log",
    ] {
        let (may, told) = ask(&f, act);
        assert!(!may && told["remedy"].as_str().unwrap().starts_with("nothing: "), "{act}: {told:#}");
    }
    let (may, told) = ask(&f, &format!("write {}/x", f.text("project/jobs")));
    assert!(!may && told["remedy"].as_str().unwrap().starts_with("nothing: "), "{told:#}");
    // the text has the reason, and what to do instead
    let told = f.upm(["explain", "Probe", "run", "--may", "write /etc/cron.d/job"]).run();
    assert!(told.stdout.contains("never proposed") && told.stdout.contains("by hand"), "{}", told.stdout);
    // the control: an ordinary place is proposed
    f.mkdir("apart");
    let (_, told) = ask(&f, &format!("read {}", f.text("apart")));
    assert!(told["remedy"].as_str().unwrap().contains("read = ["), "{told:#}");
}

/// A name with characters that could end a string, a table or a line of the configuration is quoted.
#[rstest]
fn a_name_cannot_add_a_key(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let before = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    for name in [
        "a\"]\nwrite = [\"/srv",
        "a'b",
        "a\\",
        "a\\\"",
        "a\"",
        "\"\"\"",
        "# x",
        "[plugins.Probe]",
        "a\u{202e}b",
        "a\u{200b}",
        "\u{1b}[31m",
        "a\tb",
        "{x}",
        "{project_root}",
        "~",
        "*",
        "a,b",
        "é",
        "😀",
        "a=b",
        "a b",
        "$HOME",
        "`id`",
        "%s",
        "..a",
    ] {
        let path = f.mkdir(&format!("odd/{name}"));
        let (may, told) = ask(&f, &format!("read {}", path.display()));
        assert!(!may);
        let remedy = told["remedy"].as_str().unwrap();
        if remedy.starts_with("nothing: ") {
            assert!(name.contains(|c: char| c.is_control() || "{}\u{202e}\u{200b}".contains(c)), "{name:?}: {told:#}");
            continue;
        }
        let table: toml::Table = remedy.parse().unwrap_or_else(|e| panic!("{name:?}: {e}: {remedy}"));
        let run = table["plugins"]["Probe"]["methods"]["run"].as_table().unwrap();
        assert_eq!((table.len(), run.len(), run["read"][0].as_str()), (1, 1, path.to_str()), "{name:?}: {remedy}");
        f.write("upm_config.toml", format!("{before}\n{remedy}\n"));
        let check = f.upm(["check"]).run();
        assert_eq!(check.exit, Some(0), "{name:?}: {}", check.stdout);
        assert_ok(&f.act("list", json!([path])));
        f.write("upm_config.toml", before.clone());
    }
}

/// Invalid names of hosts and system calls.
#[rstest]
fn odd_questions_are_answered(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    for act in [
        "connect files.example:53",
        "connect 192.0.2.1:443",
        "connect [::1]:443",
        "connect 1.2.3:80",
        "connect 0x7f.1:80",
        "connect *.example:443",
        "connect a\"]b:443",
        "connect a\nb:443",
        "connect -a.example:443",
        "connect é.example:443",
        "connect .:443",
        "connect ..:443",
        "syscall mount",
    ] {
        let (may, told) = ask(&f, act);
        assert!(!may && told["remedy"].as_str().unwrap().starts_with("nothing: "), "{act}: {told:#}");
    }
    // the control, with its change in the configuration
    let before = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    for act in ["connect Files.Example.:443", "connect 9.example:443", "connect _x-y.example:443", "syscall kcmp"] {
        let (may, told) = ask(&f, act);
        assert!(!may, "{act}");
        f.write("upm_config.toml", format!("{before}\n{}\n", told["remedy"].as_str().unwrap()));
        let check = f.upm(["check"]).run();
        assert_eq!(check.exit, Some(0), "{act}: {}", check.stdout);
        assert!(ask(&f, act).0, "{act}");
        f.write("upm_config.toml", before.clone());
    }
    for act in [
        "read relative",
        "read",
        "",
        "write  /x",
        "read\t/x",
        "connect x",
        "connect x:0",
        "connect x:99999",
        "syscall ",
    ] {
        f.upm(["explain", "Probe", "run", "--may", act]).run().failed("usage", 2);
    }
    let told = f.upm(["explain", "Probe", "run", "--may", "syscall no_such_call"]).run();
    assert!(told.exit == Some(125) && told.stderr.contains("no system call of this architecture"), "{told:#?}");
    // longer than the kernel's limit for a path
    let (may, _) = ask(&f, &format!("read {}", "/x".repeat(4000)));
    assert!(!may);
}
