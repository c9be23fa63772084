//! As root nothing that a plugin writes is root's.

mod common;

use common::{Fixture, Mode, OWNER, PROBE, assert_ok};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

/// What root owns is not writable for a plugin, unless that is said; the answer has the command.
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
    // a file of root's too, and `explain` and `check` say the same
    f.write("mine", "");
    for grant in ["mine", "project"] {
        f.config(&format!("{PROBE}write = [\"{grant}\"]\n"));
        f.run("echo", Value::Null).failed("config_invalid", 125);
    }
    assert_eq!(f.upm(["explain", "Probe", "run"]).run().exit, Some(125));
    let check = f.upm(["check"]).run();
    assert!(check.exit == Some(1) && check.stdout.contains("root owns it"), "{check:#?}");

    // to read it is fine
    f.config(&format!("{PROBE}read = [\"project\", \"mine\"]\n"));
    assert_ok(&f.act("list", json!([f.text("project")])));

    // the command mends it
    let command = text.split('`').nth(1).unwrap();
    assert!(command.starts_with("chown ") && command.ends_with(&path), "{command}");
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success());
    f.config(&format!("{PROBE}write = [\"project\"]\n"));
    assert_ok(&write().result());
    assert_ne!(owner().0, 0);
    fs::remove_file(&made).unwrap();

    // and so does the key, of which `check` warns and which `explain` shows
    chown(f.path("project"), Some(0), Some(0)).unwrap();
    f.config(&format!("{PROBE}write = [\"project\"]\nas_root_owner = true\n"));
    assert_ok(&write().result());
    assert_eq!(owner(), (0, 0));
    let check = f.upm(["check"]).run();
    assert!(check.exit == Some(0) && check.stdout.contains("as_root_owner: "), "{check:#?}");
    let explain = f.upm(["explain", "Probe", "run"]).run();
    assert!(explain.stdout.contains("as_root_owner = true"), "{explain:#?}");
}

/// A directory whose group alone is root's: root's group may read more than the owner.
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

/// What upm makes for root's call belongs to the user that the plugin is outside, and so does what the plugin makes in it.
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

/// The owner of a directory above puts what root owns, and keeps there, in the place of what is granted for reading.
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
    // the control: where root alone may write, the same directory is lent
    root_only("data");
    f.config(&format!("{PROBE}read = [\"data\"]\n"));
    assert_ok(&f.act("read", json!([f.text("data/key")])));
}

/// While upm makes the project, the owner of the directory above puts another one in its place before it is given away.
#[test]
fn no_other_directory_is_given_away() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let Some(f) = Fixture::bare(Mode::Root) else { return };
    let head = f.config_head().replace("\"project\"", "\"theirs/project\"");
    f.write("upm_config.toml", format!("{head}{PROBE}write = [\"{{project_root}}\"]\nrun_as = \"54321\"\n"));
    f.mkdir("theirs/kept");
    // not empty: else upm may remove it under the name of its own, and another directory may get its number
    f.write("theirs/kept/key", "root's own");
    chown(f.path("theirs"), Some(45_678), Some(45_678)).unwrap();
    // root without capabilities makes something there
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
