//! Paths: what the plan grants is there, with the right to it that was granted, and nothing else is.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};

fn granted(mode: Mode) -> Option<Fixture> {
    let f = Fixture::bare(mode)?;
    f.mkdir("shared");
    f.write("shared/data", "shared data");
    f.config(&format!("{}\nread = [\"{}\"]\nwrite = [\"{{project_root}}\"]\n", common::PROBE, f.text("shared")));
    Some(f)
}

#[rstest]
fn what_is_granted_is_there(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = granted(mode) else { return };
    let made = f.text("project/made");
    let answers = f.acts(&[
        json!(["write", made, "from inside"]),
        json!(["read", made]),
        json!(["mkdir", f.text("project/dir")]),
        json!(["rename", made, f.text("project/dir/moved")]),
        json!(["symlink", "moved", f.text("project/dir/link")]),
        json!(["read", f.text("shared/data")]),
    ]);
    answers.iter().for_each(assert_ok);
    assert_eq!(answers[1]["text"], "from inside");
    assert_eq!(answers[5]["text"], "shared data");
    let landed = f.path("project/dir/moved");
    assert_eq!(fs::read_to_string(&landed).unwrap(), "from inside");
    // files land as their directory's owner
    let (file, dir) = (fs::metadata(&landed).unwrap(), fs::metadata(f.path("project")).unwrap());
    assert_eq!((file.uid(), file.gid()), (dir.uid(), dir.gid()));
}

#[rstest]
fn read_is_not_write(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = granted(mode) else { return };
    let data = f.text("shared/data");
    let acts = [
        json!(["append", data, "x"]),
        json!(["truncate", data, 0]),
        json!(["unlink", data]),
        json!(["rename", data, f.text("shared/other")]),
        json!(["create", f.text("shared/new")]),
        json!(["mkdir", f.text("shared/dir")]),
        json!(["symlink", "a", f.text("shared/link")]),
        json!(["rename", data, f.text("project/stolen")]),
        json!(["link", data, f.text("project/stolen")]),
    ];
    for (act, answer) in acts.iter().zip(f.acts(&acts)) {
        println!("{act}");
        assert_errno_in(&answer, &["EROFS", "EACCES", "EXDEV"]);
    }
    assert_eq!(fs::read_to_string(f.path("shared/data")).unwrap(), "shared data");
    assert_ok(&f.control("append", json!([data, "x"])));
}

#[rstest]
fn the_host_is_not_there(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = granted(mode) else { return };
    f.write("secret", "s");
    let gone = [
        "/root",
        "/home",
        "/boot",
        "/var/lib",
        "/var/log",
        "/mnt",
        "/srv",
        "/run/systemd",
        "/sys/class",
        "/sys/kernel",
        "/sys/devices/virtual",
        "/etc/shadow",
        "/etc/ssh",
    ];
    let mut acts: Vec<Value> = gone.iter().map(|path| json!(["list", path])).collect();
    for path in ["secret", "upm_config.toml", "audit", "home", "bin/upm", "project/../secret"] {
        acts.push(json!(["read", f.text(path)]));
    }
    for (act, answer) in acts.iter().zip(f.acts(&acts)) {
        let name = answer["errno_name"].as_str().unwrap_or("none");
        assert!(answer["ok"] == json!(false) && ["ENOENT", "EACCES", "ENOTDIR"].contains(&name), "{act}: {answer}");
    }
    assert_ok(&f.control("read", json!([f.text("secret")])));
}

#[rstest]
fn the_root_is_sealed(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = granted(mode) else { return };
    for dir in ["/", "/usr", "/usr/bin", "/etc", "/dev", "/proc", "/usr/lib"] {
        let answers = f.acts(&[json!(["create", format!("{dir}/new")]), json!(["mkdir", format!("{dir}/newdir")])]);
        answers.iter().for_each(|answer| assert_errno_in(answer, &["EROFS", "EACCES", "EPERM", "ENOENT"]));
    }
    let mounts = f.act("mounts", Value::Null)["mounts"].clone();
    let writable = ["/tmp", "/dev/shm"].map(str::to_owned);
    for mount in mounts.as_array().unwrap() {
        let path = mount["path"].as_str().unwrap();
        let options: Vec<&str> = mount["options"].as_str().unwrap().split(',').collect();
        assert!(options.contains(&"nosuid"), "{mount}");
        assert!(options.contains(&"nodev") || path.starts_with("/dev/"), "{mount}");
        let may_write = writable.iter().any(|w| w == path) || path == f.text("project") || path.starts_with("/dev/");
        assert!(options.contains(&"ro") || may_write || path == "/proc", "{mount}");
        assert_eq!(mount["optional"], json!([]), "shared with the host: {mount}");
    }
}

#[rstest]
fn passwd_and_group_are_made_up(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let text = |path: &str| f.act("read", json!([path]))["text"].as_str().unwrap().to_owned();
    let passwd = text("/etc/passwd");
    assert_eq!(passwd.lines().count(), 1, "{passwd}");
    assert!(passwd.starts_with("plugin:") && passwd.contains(":1000:1000:"), "{passwd}");
    let group = text("/etc/group");
    assert_eq!(group.lines().count(), 1, "{group}");
    assert!(group.contains(":1000:"), "{group}");
    assert!(text("/etc/hosts").contains("localhost"));
    for path in ["/etc/shadow", "/etc/machine-id", "/etc/hostname", "/etc/fstab", "/etc/sudoers"] {
        assert_errno(&f.act("read", json!([path])), "ENOENT");
    }
}

#[rstest]
fn devices_are_the_five(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let names = f.act("list", json!(["/dev"]))["names"].clone();
    let allowed = ["null", "zero", "full", "random", "urandom", "fd", "stdin", "stdout", "stderr", "shm"];
    for name in names.as_array().unwrap() {
        assert!(allowed.contains(&name.as_str().unwrap()), "/dev/{name}");
    }
    let host = f.control("list", json!(["/dev"]))["names"].clone();
    assert!(["tty", "ptmx"].iter().all(|name| host.as_array().unwrap().contains(&json!(name))), "{host}");
    assert_ok(&f.act("write", json!(["/dev/null", "x"])));
    assert_eq!(f.act("read", json!(["/dev/zero", 4]))["bytes"], 4);
    assert_eq!(f.act("write", json!(["/dev/full", "x"]))["errno_name"], "ENOSPC");
    assert_eq!(f.act("read", json!(["/dev/urandom", 16]))["bytes"], 16);
}

/// A symlink made inside points nowhere else than inside, and a later call does not follow it as a grant.
#[rstest]
fn symlinks_made_inside_lead_nowhere(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = granted(mode) else { return };
    f.write("secret", "s");
    for target in
        [f.text("secret"), "/etc/shadow".to_owned(), "../secret".to_owned(), "/proc/1/root/etc/shadow".to_owned()]
    {
        let link = f.text("project/link");
        let answers = f.acts(&[json!(["symlink", target, link]), json!(["read", link]), json!(["unlink", link])]);
        assert_ok(&answers[0]);
        assert_errno_in(&answers[1], &["ENOENT", "EACCES"]);
        assert_ok(&answers[2]);
    }
}

/// Between calls a granted directory is swapped for a link out: the grant resolves without symlinks.
#[rstest]
fn a_grant_swapped_for_a_symlink_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.mkdir("project/sub");
    f.mkdir("elsewhere");
    f.write("elsewhere/secret", "s");
    f.config(&format!("{}\nwrite = [\"{}\"]\n", common::PROBE, f.text("project/sub")));
    assert_ok(&f.act("list", json!([f.text("project/sub")])));
    fs::remove_dir(f.path("project/sub")).unwrap();
    symlink(f.path("elsewhere"), f.path("project/sub")).unwrap();
    let answer = f.run("list", json!([f.text("project/sub")]));
    let data = answer.data();
    assert_eq!(answer.exit, Some(125), "{data:#}");
    assert!(data["error"].as_str().unwrap().contains("project/sub"), "{data:#}");
}

#[rstest]
#[case::root("/")]
#[case::proc("/proc")]
#[case::sys("/sys")]
#[case::dev("/dev")]
#[case::run("/run")]
#[case::below_run("/run/systemd")]
#[case::device("/dev/null")]
#[case::dots("/usr/../proc")]
fn grants_that_no_one_gets(
    #[case] path: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[values("read", "write")] key: &str,
) {
    let Some(f) = Fixture::probe(mode, &format!("{key} = [\"{path}\"]")) else { return };
    let answer = f.run("list", json!([path]));
    let data = answer.data();
    assert_eq!(answer.exit, Some(125), "{data:#}");
    assert_eq!(data["code"], "config_invalid", "{data:#}");
}

#[rstest]
fn a_socket_in_a_grant_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let socket = f.path("project/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    f.config(&format!("{}\nread = [\"{}\"]\n", common::PROBE, socket.display()));
    let answer = f.run("unix_connect", json!([socket]));
    assert_eq!(answer.exit, Some(125), "{:#}", answer.data());
}

/// Before landlock's right to resolve UNIX sockets (ABI 9), who is granted a directory of the host can make no socket that
/// could be connected to a path.
#[rstest]
fn a_socket_in_a_granted_directory_is_out_of_reach(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = granted(mode) else { return };
    let socket = f.path("project/socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    // a call of root's can write nothing that is another's, which would be EACCES as well
    f.of_another("project/socket");
    assert_ok(&f.control("unix_connect", json!([socket])));
    let answer = f.run("unix_connect", json!([socket]));
    let data = answer.data();
    let tells = data["sandbox"]["layers"]["landlock"]["asked"]["abi"].as_u64().unwrap() >= 9;
    assert_errno(&answer.result(), if tells { "EACCES" } else { "EAFNOSUPPORT" });
    // what landlock denies is not reported by the kernel, and the answer says so
    assert_eq!(data["denials"].as_array().unwrap().len(), usize::from(!tells), "{data:#}");
    assert_eq!(data["denials_complete"]["landlock"], false);
}

/// A mount's parent renamed on the host while the call runs: the plugin stays where it is, and reaches nothing else.
#[rstest]
fn a_renamed_parent_shows_nothing_new(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.mkdir("outer");
    f.mkdir_writable("outer/granted");
    f.write("outer/secret", "s");
    f.config(&format!("{}\nwrite = [\"{}\"]\n", common::PROBE, f.text("outer/granted")));
    let args = json!({"args": ["batch", ["sleep", 1, f.text("outer/granted/begun")],
        ["read", f.text("outer/granted/../secret")], ["list", f.text("outer/granted/..")], ["climb"]]});
    let running = f.upm(["Probe", "run", &args.to_string()]).start();
    while !f.path("outer/granted/begun").exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::rename(f.path("outer/granted"), f.path("moved")).unwrap();
    let answers = running.wait().result()["answers"].clone();
    assert_errno(&answers[1], "ENOENT");
    assert_eq!(answers[2]["names"], json!(["granted"]), "{answers:#}");
    assert!(!answers[3].to_string().contains("secret"), "{answers:#}");
}

/// A hard link or rename can't move a file that is not granted into one that is.
#[rstest]
fn a_missing_protected_file_cannot_be_made(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.config(&format!("{}\nwrite = [\"{{project_root}}\"]\n", common::PROBE));
    let config = f.text("upm_config.json");
    let acts = [
        json!(["create", config]),
        json!(["create", f.text("project/../upm_config.json")]),
        json!(["create", f.text("plugins/new.py")]),
        json!(["create", f.text("audit/new")]),
        json!(["create", f.text("home/config")]),
        json!(["create", "/etc/ld.so.preload"]),
    ];
    for (act, answer) in acts.iter().zip(f.acts(&acts)) {
        println!("{act}");
        assert_errno_in(&answer, &["ENOENT", "EROFS", "EACCES"]);
    }
    assert!(!f.path("upm_config.json").exists());
    assert_ok(&f.control("create", json!([config])));
}

/// A configuration, plugin folder, audit file or interpreter at or below a writable path is an error of the config.
#[rstest]
#[case::everything("write = [\"{dir}\"]")]
#[case::plugins("write = [\"{dir}/plugins\"]")]
#[case::audit("write = [\"{dir}/audit\"]")]
#[case::config("write = [\"{dir}/upm_config.toml\"]")]
fn what_is_policy_is_never_writable(#[case] grant: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.config(&format!("{}{}\n", common::PROBE, grant.replace("{dir}", f.dir().to_str().unwrap())));
    f.run("echo", Value::Null).failed("config_invalid", 125);
}

#[rstest]
fn one_plugins_cache_is_not_anothers(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(
        mode,
        "[plugins.One]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nwrite = [\"{cache_dir}\"]\n\
         [plugins.Two]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nwrite = [\"{cache_dir}\"]\n",
    ) else {
        return;
    };
    let one = f.text("cache/One/mine");
    assert_ok(&f.call("One", "run", &json!(["write", one, "x"])).result());
    assert!(f.path("cache/One/mine").exists());
    assert_ok(&f.call("One", "run", &json!(["read", one])).result());
    assert_errno(&f.call("Two", "run", &json!(["read", one])).result(), "ENOENT");
    // the parent is a mount point of the sealed root, not the host's directory
    assert_eq!(f.call("Two", "run", &json!(["list", f.text("cache")])).result()["names"], json!(["Two"]));
    assert_ok(&f.control("list", json!([f.text("cache/One")])));
}

#[rstest]
fn programs_cannot_be_started_from_tmp(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    assert_errno_in(&f.act("run_copy", json!(["/bin/true", "/tmp/true"])), &["EACCES", "EPERM"]);
    assert_errno_in(&f.act("run_copy", json!(["/bin/true", "/dev/shm/true"])), &["EACCES", "EPERM"]);
    assert_eq!(f.act("exec", json!(["/bin/true"]))["exit"], 0);
}

#[rstest]
fn tmp_has_its_size(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "tmp = \"8MiB\"") else { return };
    let answers = f.acts(&[
        json!(["write_big", "/tmp/big", 64]),
        json!(["unlink", "/tmp/big"]),
        json!(["statfs", "/tmp"]),
        json!(["statfs", "/dev/shm"]),
        json!(["many_files", "/tmp", 2_000_000]),
    ]);
    assert_eq!(answers[0]["stopped_by_name"], "ENOSPC", "{}", answers[0]);
    assert!(answers[0]["written"].as_u64().unwrap() <= 8 << 20, "{}", answers[0]);
    assert_eq!(answers[2]["bytes"], 8 << 20);
    assert!(answers[3]["bytes"].as_u64().unwrap() <= 64 << 20, "{}", answers[3]);
    assert_eq!(answers[4]["stopped_by_name"], "ENOSPC", "inodes are bounded: {}", answers[4]);
}

#[rstest]
fn files_have_their_size(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]\nfile_size = \"3MiB\"") else { return };
    let big = f.act("write_big", json!([f.text("project/big"), 10]));
    assert_eq!((big["written"].as_u64(), big["stopped_by_name"].as_str()), (Some(3 << 20), Some("EFBIG")), "{big}");
}

/// Below its own prefix an interpreter of a virtual environment stays valid.
#[rstest]
fn the_interpreters_prefix_is_mounted(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.mkdir("venv");
    let made = f
        .as_caller(std::path::Path::new("/usr/bin/python3"))
        .args(["-m", "venv", "--without-pip"])
        .arg(f.path("venv"))
        .status()
        .unwrap();
    assert!(made.success());
    f.python("where", "import sys\nclass Where:\n    def prefix(self): return [sys.prefix, sys.executable]\n");
    f.config(&format!(
        "[plugins.Where]\nmodule = \"where\"\nallowed_methods = [\"prefix\"]\ninterpreter = \"{}\"\n",
        f.text("venv/bin/python3")
    ));
    let result = f.call("Where", "prefix", &json!([])).result();
    assert_eq!(result, json!([f.text("venv"), f.text("venv/bin/python3")]));
}

/// A project below `/tmp` works, and its parents are the private ones.
#[rstest]
fn a_project_in_tmp_works(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let project = tempfile::tempdir_in("/tmp").unwrap();
    if common::is_root() {
        std::os::unix::fs::chown(project.path(), Some(f.owner()), Some(f.owner())).unwrap();
    }
    f.write(
        "upm_config.toml",
        f.config_head().replace("\"project\"", &format!("{:?}", project.path()))
            + common::PROBE
            + "write = [\"{project_root}\"]\n",
    );
    let inside = project.path().join("made");
    let beside = project.path().with_extension("beside");
    let answers = f.acts(&[json!(["write", inside, "x"]), json!(["list", "/tmp"]), json!(["write", beside, "x"])]);
    assert_ok(&answers[0]);
    assert_eq!(answers[1]["names"].as_array().unwrap().len(), 1, "{}", answers[1]);
    assert!(inside.exists() && !beside.exists());
}
