//! When root calls, nothing that a plugin writes belongs to root.

mod common;

use common::service::Service;
use common::{Fixture, Mode, OWNER, PROBE, assert_ok};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

/// A plugin cannot write to root's files unless a key allows it; the answer has the command.
#[test]
fn what_root_owns_is_not_writable() {
    let Some(f) = Fixture::probe(Mode::Root, "#\nwrite = [\"{project_root}\"]\n") else { return };
    let made = f.text("project/made");
    let write = || f.run("write", json!([made, "x"]));
    assert_ok(&write().result());
    let owner = || fs::metadata(&made).map(|data| (data.uid(), data.gid())).unwrap();
    assert_eq!(owner(), (OWNER, OWNER), "the control: as its directory's owner");
    fs::remove_file(&made).unwrap();

    chown(f.path("project"), Some(0), Some(0)).unwrap();
    let data = write().failed("config_invalid", 125);
    let text = data["error"].as_str().unwrap();
    let line = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let line = 1 + line.lines().position(|line| line.starts_with("write")).unwrap();
    let (path, place) = (f.text("project"), format!("upm_config.toml:{line}"));
    for words in [path.as_str(), &place, "as_root_owner = true", "chown"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!((&data["details"]["key"], &data["details"]["line"]), (&json!("write"), &json!(line)));
    assert!(!Path::new(&made).exists());
    // the same for a file; `explain` and `check` report it too
    f.write("mine", "");
    for grant in ["mine", "project"] {
        f.config(&format!("{PROBE}write = [\"{grant}\"]\n"));
        f.run("echo", Value::Null).failed("config_invalid", 125);
    }
    assert_eq!(f.upm(["explain", "Probe", "run"]).run().exit, Some(125));
    let check = f.upm(["check"]).run();
    assert!(check.exit == Some(1) && check.stdout.contains("root owns it"), "{check:#?}");

    // reading is allowed
    f.config(&format!("{PROBE}read = [\"project\", \"mine\"]\n"));
    assert_ok(&f.act("list", json!([f.text("project")])));

    // the command fixes it
    let command = text.split('`').nth(1).unwrap();
    assert!(command.starts_with("chown ") && command.ends_with(&path), "{command}");
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    f.config(&format!("{PROBE}write = [\"project\"]\n"));
    assert_ok(&write().result());
    assert_ne!(owner().0, 0);
    fs::remove_file(&made).unwrap();

    // and so does the key; `check` warns about it and `explain` shows it
    chown(f.path("project"), Some(0), Some(0)).unwrap();
    f.config(&format!("{PROBE}write = [\"project\"]\nas_root_owner = true\n"));
    assert_ok(&write().result());
    assert_eq!(owner(), (0, 0));
    let check = f.upm(["check"]).run();
    assert!(check.exit == Some(0) && check.stdout.contains("as_root_owner: "), "{check:#?}");
    let explain = f.upm(["explain", "Probe", "run"]).run();
    assert!(explain.stdout.contains("as_root_owner = true"), "{explain:#?}");
}

/// A directory that only root's group owns: root's group may read more than the owner.
#[test]
fn roots_group_is_not_the_plugins() {
    let Some(f) = Fixture::probe(Mode::Root, "write = [\"{project_root}\"]\n") else { return };
    chown(f.path("project"), Some(OWNER), Some(0)).unwrap();
    f.write("project/of_group", "x");
    chown(f.path("project/of_group"), Some(0), Some(0)).unwrap();
    fs::set_permissions(f.path("project/of_group"), fs::Permissions::from_mode(0o640)).unwrap();
    let read = || f.run("read", json!([f.text("project/of_group")]));
    let data = read().failed("config_invalid", 125);
    let text = data["error"].as_str().unwrap();
    let command = text.split('`').nth(1).unwrap();
    assert_eq!(command, format!("chown {OWNER}:{OWNER} {}", f.text("project")), "{text}");
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    common::assert_errno(&read().result(), "EACCES");
    // the control: what the group would have given
    chown(f.path("project"), Some(OWNER), Some(0)).unwrap();
    f.config(&format!("{PROBE}write = [\"project\"]\nas_root_owner = true\n"));
    assert_ok(&read().result());
}

/// Directories that upm creates for root's call belong to the plugin's user on the host, and so does what the plugin creates.
#[test]
fn what_is_made_for_roots_call_is_the_plugins_users() {
    let grant = "write = [\"{project_root}\", \"{cache_dir}\"]\nrun_as = \"54321\"\n";
    let Some(f) = Fixture::bare(Mode::Root) else { return };
    let head = f.config_head().replace("\"project\"", "\"new/project\"").replace("\"cache\"", "\"new/cache\"");
    f.write("upm_config.toml", format!("{head}{PROBE}{grant}"));
    for path in [f.text("new/project/a"), f.text("new/cache/Probe/a")] {
        assert_ok(&f.act("write", json!([path, "x"])));
    }
    let owner =
        |below: &str| fs::metadata(f.path(below)).map(|data| (data.uid(), data.gid(), data.mode() & 0o777)).unwrap();
    for (path, owned) in [
        ("new", (0, 0, 0o755)),
        ("new/project", (54321, 54321, 0o755)),
        ("new/project/a", (54321, 54321, 0o644)),
        ("new/cache", (0, 0, 0o755)),
        ("new/cache/Probe", (54321, 54321, 0o700)),
        ("new/cache/Probe/a", (54321, 54321, 0o644)),
    ] {
        assert_eq!(owner(path), owned, "{path}");
    }
    assert_eq!(fs::read_dir(f.path("new")).unwrap().count(), 2, "nothing else is left there");
}

/// The owner of a directory above replaces a path that is granted for reading by root's files.
#[test]
fn what_root_owns_is_not_lent_where_others_could_have_placed_it() {
    let Some(f) = Fixture::probe(Mode::Root, "read = [\"theirs/data\"]\n") else { return };
    let root_only = |below: &str| {
        f.mkdir(below);
        f.write(&format!("{below}/key"), "root's own");
        for path in [f.path(below), f.path(format!("{below}/key"))] {
            chown(path, Some(0), Some(0)).unwrap();
        }
        fs::set_permissions(f.path(below), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(f.path(format!("{below}/key")), fs::Permissions::from_mode(0o600)).unwrap();
    };
    f.mkdir("theirs/data");
    f.write("theirs/data/key", "theirs");
    for path in ["theirs", "theirs/data", "theirs/data/key"] {
        chown(f.path(path), Some(45_678), Some(45_678)).unwrap();
    }
    let read = || f.run("read", json!([f.text("theirs/data/key")]));
    assert_ok(&read().result());
    root_only("theirs/kept");
    let moved = Command::new("setpriv")
        .args(["--reuid", "45678", "--regid", "45678", "--clear-groups", "sh", "-c", "mv data old && mv kept data"])
        .current_dir(f.path("theirs"))
        .status()
        .unwrap();
    assert!(moved.success());
    let data = read().failed("config_invalid", 125);
    let text = data["error"].as_str().unwrap();
    assert!(text.contains(&f.text("theirs")) && text.contains("chown"), "{text}");
    // the control: the same directory is granted where only root may write
    root_only("data");
    f.config(&format!("{PROBE}read = [\"data\"]\n"));
    assert_ok(&f.act("read", json!([f.text("data/key")])));
}

/// While upm creates the project, the owner of the directory above replaces it before it gets its owner.
#[test]
fn no_other_directory_is_given_away() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(f) = Fixture::bare(Mode::Root) else { return };
    let head = f.config_head().replace("\"project\"", "\"theirs/project\"");
    f.write("upm_config.toml", format!("{head}{PROBE}write = [\"{{project_root}}\"]\nrun_as = \"54321\"\n"));
    f.mkdir("theirs/kept");
    // not empty: otherwise upm may remove it under its own directory's name, and another directory may get its number
    f.write("theirs/kept/key", "root's own");
    chown(f.path("theirs"), Some(45_678), Some(45_678)).unwrap();
    // root without capabilities creates something there
    fs::set_permissions(f.path("theirs"), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(f.path("theirs/kept"), fs::Permissions::from_mode(0o700)).unwrap();
    let kept = fs::metadata(f.path("theirs/kept")).unwrap().ino();
    let owner = |path: &Path| fs::metadata(path).map(|data| data.uid()).ok();
    let (theirs, stop) = (f.path("theirs"), AtomicBool::new(false));
    let (mut exchanged, mut given) = (0, false);
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut exchanged = 0;
            while !stop.load(Ordering::Relaxed) {
                for entry in fs::read_dir(&theirs).unwrap().flatten() {
                    if entry.file_name().to_string_lossy().starts_with(".upm-") {
                        let flags = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
                        let (here, kept) = (nix::fcntl::AT_FDCWD, theirs.join("kept"));
                        exchanged += i32::from(nix::fcntl::renameat2(here, &entry.path(), here, &kept, flags).is_ok());
                    }
                }
            }
            exchanged
        });
        for _ in 0..100 {
            f.run("echo", Value::Null);
            for entry in fs::read_dir(&theirs).unwrap().flatten() {
                let Ok(data) = entry.metadata() else { continue };
                given |= data.ino() == kept && data.uid() != 0;
                if data.ino() != kept {
                    fs::remove_dir(entry.path()).ok();
                } else if entry.file_name() != "kept" {
                    fs::rename(entry.path(), theirs.join("kept")).ok();
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        exchanged = neighbour.join().unwrap();
    });
    assert!(!given, "root's directory was given away");
    assert!(exchanged > 0, "the attack was made");
    assert_ok(&f.act("echo", Value::Null));
    assert_eq!(owner(&theirs.join("project")), Some(54321), "the control: it is made and given");
}

/// Others add root's files to a directory of root to which they may write: by a hard link if `fs.protected_hardlinks` is
/// 0, or by moving root's file from their own directory.
#[test]
fn a_directory_of_roots_that_others_add_to_is_not_lent() {
    let Some(f) = Fixture::probe(Mode::Root, "read = [\"data\"]\n") else { return };
    f.mkdir("data");
    f.write("key", "root's own");
    fs::set_permissions(f.path("key"), fs::Permissions::from_mode(0o600)).unwrap();
    // what another user can do there
    fs::hard_link(f.path("key"), f.path("data/link")).unwrap();
    let read = || f.run("read", json!([f.text("data/link")]));
    let mode = |mode: u32| fs::set_permissions(f.path("data"), fs::Permissions::from_mode(mode)).unwrap();
    for open in [0o1777, 0o775] {
        mode(open);
        let data = read().failed("config_invalid", 125);
        let text = data["error"].as_str().unwrap();
        let command = format!("chmod go-w {}", f.text("data"));
        assert!(text.contains(&command) && data["details"]["key"] == "read", "{open:o}: {text}");
        let check = f.upm(["check"]).run();
        assert!(check.exit == Some(1) && check.stdout.contains(&command), "{check:#?}");
        // the command fixes it; the control: what only root could have put there is granted
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success());
        assert_ok(&read().result());
    }
    // root's only by its group: a directory that another user created in one with the set-group-id bit
    f.mkdir("drop");
    fs::set_permissions(f.path("drop"), fs::Permissions::from_mode(0o2777)).unwrap();
    let neighbour = ["--reuid", "45678", "--regid", "45678", "--clear-groups", "mkdir"];
    let made = Command::new("setpriv").args(neighbour).arg(f.path("drop/made")).status().unwrap();
    assert!(made.success() && fs::metadata(f.path("drop/made")).unwrap().gid() == 0);
    f.write("of_group", "x");
    fs::set_permissions(f.path("of_group"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(f.path("of_group"), f.path("drop/made/link")).unwrap();
    fs::rename(f.path("drop/made"), f.path("moved")).unwrap();
    f.config(&format!("{PROBE}read = [\"moved\"]\n"));
    f.run("read", json!([f.text("moved/link")])).failed("config_invalid", 125);
    chown(f.path("moved"), Some(45_678), Some(45_678)).unwrap();
    common::assert_errno(&f.act("read", json!([f.text("moved/link")])), "EACCES");
}

/// A caller moves another user's directory from the caller's own directory to where a call gets that user's rights.
#[test]
fn another_users_directory_is_not_lent_where_its_owner_did_not_put_it() {
    let Some(f) = Fixture::bare(Mode::Root) else { return };
    let head = f.config_head();
    let projects = format!("projects = [\"{}\"]\n", f.text("home/*/projects/*"));
    f.write(
        "upm_config.toml",
        format!("{projects}{head}{PROBE}read = [\"{{project_root}}\"]\ncallers = [\"user:45678\"]\n"),
    );
    fs::set_permissions(f.path("home"), fs::Permissions::from_mode(0o755)).unwrap();
    let own = |below: &str, uid: u32, mode: u32| {
        chown(f.path(below), Some(uid), Some(uid)).unwrap();
        fs::set_permissions(f.path(below), fs::Permissions::from_mode(mode)).unwrap();
    };
    for (below, uid, mode) in [
        ("home/alice", 45_678, 0o755),
        ("home/alice/shared", 45_678, 0o777),
        ("home/alice/shared/bobs", 45_690, 0o700),
        ("home/bob", 45_690, 0o755),
        ("home/bob/projects", 45_690, 0o755),
        ("home/bob/projects/bobs", 45_690, 0o700),
    ] {
        f.mkdir(below);
        own(below, uid, mode);
    }
    for below in ["home/alice/shared/bobs/key", "home/bob/projects/bobs/key"] {
        f.write(below, "bob's own");
        own(below, 45_690, 0o600);
    }
    let as_alice = |words: &[&str]| {
        let id = "45678";
        let command =
            Command::new("setpriv").args(["--reuid", id, "--regid", id, "--clear-groups"]).args(words).output();
        command.unwrap()
    };
    assert!(as_alice(&["mv", &f.text("home/alice/shared"), &f.text("home/alice/projects")]).status.success());
    let service = Service::start(&f);
    let ask = |project: &str| {
        let args = json!({ "args": ["read", format!("{}/key", f.text(project))] }).to_string();
        let words = ["--via", &service.socket, "--project", &f.text(project), "Probe", "run", &args];
        let output = as_alice(&[&[f.text("bin/upm").as_str()], &words[..]].concat());
        serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
    };
    // `--via` opens the directory as its own user, who may enter alice's
    own("home/alice/projects/bobs", 45_690, 0o711);
    let answer = ask("home/alice/projects/bobs");
    assert_eq!(answer["data"]["code"], "config_invalid", "{answer:#}");
    let text = answer["data"]["error"].as_str().unwrap();
    for words in ["45690", &f.text("home/alice/projects"), "chown"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    // the control: where bob put it
    own("home/bob/projects/bobs", 45_690, 0o711);
    let answer = ask("home/bob/projects/bobs");
    assert_eq!(answer["data"]["result"]["ok"], true, "{answer:#}");
}
