//! A path in the configuration or from a caller means one object: links that others could have placed, other names of the same
//! object, and objects that are replaced while a call starts are refused. Each test has a working control.

mod common;

use common::{Call, Fixture, Mode, PROBE, assert_ok, is_root, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Another user of the host, neither root nor the caller.
const OTHER: u32 = 45_678;

/// A fixture with a directory `home` of that user, and with `secret`, a directory that only the caller can read.
fn neighbour(mode: Mode, head: &str, grant: &str) -> Option<Fixture> {
    if !is_root() {
        skip("needs root to be two users");
        return None;
    }
    let f = Fixture::bare(mode)?;
    f.config_with(head, &format!("{PROBE}{grant}\n"));
    of_other(&f, "theirs");
    f.mkdir("secret");
    f.write("secret/key", "the caller's own");
    f.mkdir("secret/conf");
    fs::set_permissions(f.path("secret/key"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(f.path("secret"), fs::Permissions::from_mode(0o700)).unwrap();
    Some(f)
}

/// A directory of the other user, to which the plugin can write in each mode.
fn of_other(f: &Fixture, below: &str) -> PathBuf {
    let path = f.mkdir(below);
    chown(&path, Some(OTHER), Some(OTHER)).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
    path
}

/// A link that the other user placed.
fn link(f: &Fixture, target: impl AsRef<Path>, below: &str) {
    symlink(target, f.path(below)).unwrap();
    std::os::unix::fs::lchown(f.path(below), Some(OTHER), Some(OTHER)).unwrap();
}

fn in_project<'f>(f: &'f Fixture, project: &str, act: &Value) -> Call<'f> {
    f.upm(["Probe", "run", &json!({ "args": act }).to_string(), "--project", &f.text(project)])
}

fn untouched(f: &Fixture) {
    let mut names: Vec<_> = fs::read_dir(f.path("secret")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["conf", "key"]);
}

/// The owner of a project's parent replaces the project by a link to another user's directory.
#[rstest]
#[case::whole("theirs/shop", "theirs/shop")]
#[case::above("theirs/all/*", "theirs/all/conf")]
fn a_project_behind_its_owners_link(
    #[case] pattern: &str,
    #[case] project: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let head = format!("projects = [\"{pattern}\"]\n");
    let Some(f) = neighbour(mode, &head, "write = [\"{project_root}\"]") else { return };
    of_other(&f, "theirs/all");
    of_other(&f, project);
    let write = |to: &str| json!(["write", f.text(to), "x"]);
    assert_ok(&in_project(&f, project, &write(&format!("{project}/file"))).run().result());
    assert!(f.path(format!("{project}/file")).exists(), "the twin: the directory itself works");

    let fixed = pattern.trim_end_matches("/*");
    fs::rename(f.path(fixed), f.path("theirs/old")).unwrap();
    link(&f, f.path("secret"), fixed);
    for name in [project, "secret", "secret/conf"] {
        let read = json!(["read", f.text(&format!("{name}/key"))]);
        let data = in_project(&f, name, &read).run().failed("usage", 2);
        let message = data["error"].as_str().unwrap();
        if name == project {
            assert!(message.contains("symbolic link") && message.contains(&OTHER.to_string()), "{message}");
        }
    }
    untouched(&f);
    // `check` reports it, with the line
    if pattern == project {
        let check = f.upm(["check"]).run();
        assert!(check.exit == Some(1) && check.stdout.contains("symbolic link"), "{check:#?}");
    }
    // a link that the directory's owner cannot have placed is followed
    fs::remove_file(f.path(fixed)).unwrap();
    fs::rename(f.path("theirs/old"), f.path(fixed)).unwrap();
    symlink(f.path(project), f.path("alias")).unwrap();
    if mode == Mode::User {
        std::os::unix::fs::lchown(f.path("alias"), Some(f.uid), Some(f.uid)).unwrap();
    }
    assert_ok(&in_project(&f, "alias", &write(&format!("{project}/file"))).run().result());
}

/// A plugin may write to a directory with the fixed part of another project's pattern: it places the link, as its user.
#[rstest]
fn a_project_behind_a_plugins_link(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let head = "projects = [\"theirs/data/other\"]\n";
    let Some(f) = neighbour(mode, head, "write = [\"{project_root}\"]") else { return };
    of_other(&f, "theirs/data");
    let tables =
        "\n[plugins.Planter]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nwrite = [\"theirs/data\"]\n";
    f.config_with(head, &format!("{PROBE}write = [\"{{project_root}}\"]\n{tables}"));
    let plant = json!(["symlink", f.text("secret"), f.text("theirs/data/other")]);
    assert_ok(&f.call("Planter", "run", &plant).result());
    let read = json!(["read", f.text("secret/key")]);
    for name in ["theirs/data/other", "secret"] {
        in_project(&f, name, &read).run().failed("usage", 2);
    }
    untouched(&f);
    fs::remove_file(f.path("theirs/data/other")).unwrap();
    of_other(&f, "theirs/data/other");
    let list = json!(["list", f.text("theirs/data/other")]);
    assert_ok(&in_project(&f, "theirs/data/other", &list).run().result());
}

/// The project is replaced by a link and back while calls start: each call gets the project or nothing.
#[rstest]
fn a_project_exchanged_while_calls_start(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let head = "projects = [\"theirs/shop\"]\n";
    let Some(f) = neighbour(mode, head, "write = [\"{project_root}\"]") else { return };
    of_other(&f, "theirs/shop");
    f.write("theirs/shop/key", "the project's");
    link(&f, f.path("secret"), "theirs/other");
    let (shop, other) = (f.path("theirs/shop"), f.path("theirs/other"));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let read = json!(["read", f.text("theirs/shop/key")]);
    let mut seen = [0; 2];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                nix::fcntl::renameat2(nix::fcntl::AT_FDCWD, &shop, nix::fcntl::AT_FDCWD, &other, flags).unwrap();
            }
        });
        // On a busy machine it takes a while until both happen.
        let (end, most) = (Instant::now() + Duration::from_secs(2), Instant::now() + Duration::from_secs(40));
        while Instant::now() < end || (seen.contains(&0) && Instant::now() < most) {
            let answer = in_project(&f, "theirs/shop", &read).run();
            if answer.exit == Some(0) {
                let result = answer.result();
                assert_eq!(result["text"], "the project's", "{result:#}");
                seen[0] += 1;
            } else {
                assert!(!answer.stdout.contains("the caller's own"), "{answer:#?}");
                seen[1] += 1;
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(seen.iter().all(|count| *count > 0), "both happened: {seen:?}");
    untouched(&f);
}

/// `plugin_paths` through another user's link would let that user choose the code.
#[rstest]
fn plugins_behind_anothers_link(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = neighbour(mode, "", "") else { return };
    f.python("hello", "class Hello:\n    def hi(self):\n        return 'hi'\n");
    let tables = |paths: &str| {
        let head = f.config_head().replace("[\"plugins\"]", &format!("[\"{paths}\"]"));
        let table = "[plugins.Hello]\nmodule = \"hello\"\nallowed_methods = [\"hi\"]\n";
        f.write("upm_config.toml", format!("{head}{table}"));
    };
    link(&f, f.path("plugins"), "theirs/alias");
    tables("theirs/alias");
    let data = f.call("Hello", "hi", &json!([])).failed("config_invalid", 125);
    assert!(data["error"].as_str().unwrap().contains("chown"), "{data:#}");
    assert_eq!(f.upm(["check"]).run().exit, Some(1));
    symlink(f.path("plugins"), f.path("alias")).unwrap();
    tables("alias");
    if mode == Mode::User {
        std::os::unix::fs::lchown(f.path("alias"), Some(f.uid), Some(f.uid)).unwrap();
    }
    assert_eq!(f.call("Hello", "hi", &json!([])).result(), "hi");
    let explained = f.upm(["explain", "Hello", "hi"]).run();
    assert!(explained.stdout.contains(&format!("{} -> {}", f.text("alias"), f.text("plugins"))), "{explained:#?}");
}

/// Directories are not created through links.
#[rstest]
fn nothing_is_made_behind_a_link(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = neighbour(mode, "", "") else { return };
    let tables = |root: &str| {
        let head = f.config_head().replace("\"project\"", &format!("\"{root}\""));
        f.write("upm_config.toml", format!("{head}{PROBE}write = [\"{{project_root}}\"]\n"));
    };
    link(&f, f.path("secret"), "theirs/link");
    tables("theirs/link/new/project");
    let data = f.run("echo", json!([1])).failed("config_invalid", 125);
    assert!(data["error"].as_str().unwrap().contains("symbolic link"), "{data:#}");
    untouched(&f);
    tables("made/new/project");
    assert_ok(&f.act("write", json!([f.text("made/new/project/file"), "x"])));
    let owner = fs::metadata(f.path("made/new/project")).unwrap().uid();
    assert_eq!(fs::metadata(f.path("made/new/project/file")).unwrap().uid(), owner);
    match mode {
        Mode::Root => assert_ne!(owner, 0, "a plugin's files never belong to root"),
        Mode::User => assert_eq!(owner, f.uid),
    }
}

/// Mounts something in the fixture, only for this call. `what` is shell code, run by root in the fixture's directory.
fn mounted<'f>(f: &'f Fixture, what: &str, act: &Value) -> Call<'f> {
    let script = format!("cd {} && {what} && exec \"$@\"", f.dir().display());
    f.upm(["Probe", "run", &json!({ "args": act }).to_string()]).mounting_script(&script)
}

/// A bind mount is another name of the same object: above it, at it and inside it.
#[rstest]
#[case::the_directory("mount --bind . alias", "alias", "configuration")]
#[case::above("mount --bind .. alias", "alias", "configuration")]
#[case::the_file("touch alias/file && mount --bind upm_config.toml alias/file", "alias/file", "configuration")]
#[case::a_way_to_it("mount --bind .. alias", "alias/NAME", "configuration")]
#[case::below_a_grant("mkdir -p alias/sub && mount --bind . alias/sub", "alias", "configuration")]
#[case::a_part_of_a_plugin("mount --bind plugins/pkg/inner alias", "alias", "plugin")]
#[case::proc("mount -t proc proc alias", "alias", "kernel")]
#[case::proc_below("mkdir -p alias/p && mount -t proc proc alias/p", "alias", "kernel")]
fn an_alias_is_the_same_thing(
    #[case] mount: &str,
    #[case] grant: &str,
    #[case] named: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    if !is_root() {
        skip("needs root to mount");
        return;
    }
    let Some(f) = Fixture::bare(mode) else { return };
    let grant = grant.replace("NAME", f.dir().file_name().unwrap().to_str().unwrap());
    of_other(&f, "alias");
    f.mkdir("plugins/pkg/inner");
    f.write("plugins/pkg/__init__.py", "class Pkg:\n    pass\n");
    let package = "[plugins.Pkg]\nmodule = \"pkg\"\nallowed_methods = []\n";
    f.config(&format!("{PROBE}write = [\"{grant}\"]\n{package}"));
    let act = json!(["write", f.text(&format!("{grant}/planted")), "x"]);
    let data = mounted(&f, mount, &act).run().failed("config_invalid", 125);
    assert!(data["error"].as_str().unwrap().contains(named), "{data:#}");
    assert!(!f.path("planted").exists());
}

/// The control: a bind mount of something else is granted like any directory.
#[rstest]
#[case::at_it("mount --bind other alias", "alias/file")]
#[case::below_it("mkdir -p alias/sub && mount --bind other alias/sub", "alias/sub/file")]
fn an_alias_of_something_else_works(
    #[case] mount: &str,
    #[case] file: &str,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    if !is_root() {
        skip("needs root to mount");
        return;
    }
    let Some(f) = Fixture::bare(mode) else { return };
    of_other(&f, "alias");
    of_other(&f, "other");
    f.config(&format!("{PROBE}write = [\"alias\"]\n"));
    assert_ok(&mounted(&f, mount, &json!(["write", f.text(file), "x"])).run().result());
    assert!(f.path("other/file").exists());
}

/// A file system that another user's process implements can report anything.
#[rstest]
fn a_file_system_of_another_user_is_not_believed(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() || !common::has_program("bindfs") {
        return skip("needs root and bindfs");
    }
    let Some(f) = neighbour(mode, "", "") else { return };
    f.mkdir("told");
    let shown = format!("--force-user={0} --force-group={0} --perms=u=rwX:go=rX", f.uid);
    let serve = |by: &str, from: &str| {
        format!(
            "mount --bind \"$(mktemp -d)\" told && cp /dev/null told/x && rm told/x && chmod 666 /dev/fuse && \
             setpriv --reuid {by} --regid {by} --clear-groups --inh-caps +sys_admin,+dac_override \
             --ambient-caps +sys_admin,+dac_override bindfs -o allow_other {shown} {from} told"
        )
    };
    let table = "[plugins.Told]\nexec = \"told/upm-probe\"\nallowed_methods = [\"run\"]\n";
    f.config(table);
    let call = |by: &str| {
        let script = format!("cd {} && {} >/dev/null && exec \"$@\"", f.dir().display(), serve(by, "plugins"));
        f.upm(["Told", "run", r#"{"args":["echo",1]}"#]).mounting_script(&script).run()
    };
    let data = call(&OTHER.to_string()).failed("config_invalid", 125);
    assert!(data["error"].as_str().unwrap().contains("FUSE"), "{data:#}");
    let own = f.uid.to_string();
    assert_ok(&call(&own).result());
}
