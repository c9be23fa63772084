//! A `read` path below something writable: it is read-only there, it stays where it is, and the answer says which layers
//! hold it.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};

const GRANT: &str = "write = [\"{project_root}\"]\nread = [\"{project_root}/a/b/kept\"]";

fn nested(mode: Mode) -> Option<Fixture> {
    let f = Fixture::probe(mode, GRANT)?;
    for dir in ["a", "a/b", "a/b/kept", "c", "c/d"] {
        f.mkdir(&format!("project/{dir}"));
    }
    for file in ["a/b/kept/file", "a/b/open", "c/d/file"] {
        f.write(&format!("project/{file}"), "content");
    }
    Some(f)
}

#[rstest]
fn what_is_granted_for_reading_is_not_written(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = nested(mode) else { return };
    let at = |below: &str| f.text(&format!("project/{below}"));
    let (kept, open) = (at("a/b/kept"), at("a/b"));
    let acts = |dir: &str, file: &str| {
        vec![
            json!(["append", format!("{dir}/{file}"), "x"]),
            json!(["truncate", format!("{dir}/{file}"), 0]),
            json!(["create", format!("{dir}/new")]),
            json!(["mkdir", format!("{dir}/made")]),
            json!(["symlink", "/usr", format!("{dir}/link")]),
            json!(["rename", format!("{dir}/{file}"), format!("{dir}/other")]),
        ]
    };
    for answer in f.acts(&acts(&kept, "file")) {
        assert_errno(&answer, "EROFS");
    }
    // out of it, and into it
    let across = [
        json!(["rename", format!("{kept}/file"), at("c/file")]),
        json!(["link", format!("{kept}/file"), at("c/file")]),
        json!(["rename", at("c/d/file"), format!("{kept}/file")]),
    ];
    for answer in f.acts(&across) {
        assert_errno_in(&answer, &["EXDEV", "EROFS"]);
    }
    assert_eq!(f.act("read", json!([format!("{kept}/file")]))["text"], "content");
    // the control: beside it the same acts work
    f.acts(&acts(&open, "open")).iter().for_each(assert_ok);
    assert_eq!(std::fs::read_to_string(f.path("project/a/b/kept/file")).unwrap(), "content");
    f.assert_clean();
}

/// A mount moves along with the directories above it. Had one been renamed, the next call would find at the granted path
/// whatever the plugin put there.
#[rstest]
fn it_stays_where_it_is(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = nested(mode) else { return };
    let at = |below: &str| f.text(&format!("project/{below}"));
    let pinned = ["a", "a/b", "a/b/kept"];
    for name in pinned {
        assert_errno(&f.act("rename", json!([at(name), at(&format!("{name}-gone"))])), "EBUSY");
        // elsewhere is another mount, as the pinned directories are
        assert_errno_in(&f.act("rename", json!([at(name), at("c/gone")])), &["EBUSY", "EXDEV"]);
        assert_errno_in(&f.act("rename", json!([at("c"), at(name)])), &["EBUSY", "EXDEV"]);
        assert_errno_in(&f.act("rmdir", json!([at(name)])), &["EBUSY"]);
    }
    // nor by way of the directory's own descriptor, or a name with `..`
    assert_errno(&f.act("rename", json!([at("c/../a"), at("gone")])), "EBUSY");
    // the control: directories that lead to no grant
    assert_ok(&f.act("rename", json!([at("c/d"), at("c/e")])));
    assert_ok(&f.act("rename", json!([at("c"), at("gone")])));
    // and without the nested grant these are renamed as well
    f.config(&format!("{}write = [\"{{project_root}}\"]\n", common::PROBE));
    assert_ok(&f.act("rename", json!([at("a"), at("moved")])));
    assert!(f.path("project/moved/b/kept/file").exists());
    f.assert_clean();
}

/// What leads to it can be written as before: the pins are the very directories.
#[rstest]
fn what_leads_to_it_is_as_writable_as_before(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = nested(mode) else { return };
    let at = |below: &str| f.text(&format!("project/{below}"));
    let acts = [
        json!(["create", at("new")]),
        json!(["create", at("a/new")]),
        json!(["create", at("a/b/new")]),
        json!(["write", at("a/b/open"), "changed"]),
        json!(["unlink", at("a/new")]),
    ];
    f.acts(&acts).iter().for_each(assert_ok);
    assert_eq!(std::fs::read_to_string(f.path("project/a/b/open")).unwrap(), "changed");
    let stat = |path: &str| std::fs::metadata(f.path(path)).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(stat("project/a/b/new").uid(), stat("project").uid(), "made as its directory's owner");
    // a file is granted as well as a directory
    f.config(&format!(
        "{}write = [\"{{project_root}}\"]\nread = [\"{{project_root}}/a/b/open\", \"{{project_root}}/a/b/kept\"]\n",
        common::PROBE
    ));
    assert_errno(&f.act("append", json!([at("a/b/open"), "x"])), "EROFS");
    assert_errno(&f.act("rename", json!([at("a/b/open"), at("a/b/x")])), "EBUSY");
    assert_errno(&f.act("rename", json!([at("a"), at("x")])), "EBUSY");
    assert_ok(&f.act("append", json!([at("a/b/new"), "x"])));
    f.assert_clean();
}

/// Landlock's rules of a parent add up, so that it gives more than the mount there: nothing says "both layers" of it.
#[rstest]
fn it_is_told_which_layer_holds_it(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = nested(mode) else { return };
    let kept = f.text("project/a/b/kept");
    let alone = |answer: Value| answer["sandbox"]["layers"]["landlock"]["active"]["read_only_by_mount_alone"].clone();
    assert_eq!(alone(f.run("echo", Value::Null).data()), json!([kept]));
    let told = f.upm(["explain", "Probe", "run"]).run().stdout;
    let line = told.lines().find(|line| line.contains(&kept)).unwrap();
    assert!(line.contains("read-only by its mount alone"), "{line}");
    let told = f.upm(["check"]).run();
    assert!(told.stdout.contains("by its mount alone"), "{}", told.stdout);
    assert_eq!(told.exit, Some(0));
    // the control: apart from each other nothing is held by one layer
    f.config(&format!("{}write = [\"project\"]\nread = [\"home\"]\n", common::PROBE));
    assert_eq!(alone(f.run("echo", Value::Null).data()), json!([]));
    assert!(!f.upm(["explain", "Probe", "run"]).run().stdout.contains("by its mount alone"));
    assert!(!f.upm(["check"]).run().stdout.contains("by its mount alone"));
}

/// `/tmp` is writable memory of each call: what is granted below it is as below any writable path.
#[rstest]
fn below_tmp(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    let dir = tempfile::Builder::new().prefix("upm-nested-").tempdir_in("/tmp").unwrap();
    let top = dir.path().to_str().unwrap();
    std::fs::create_dir_all(dir.path().join("a/kept")).unwrap();
    std::fs::write(dir.path().join("a/kept/file"), "content").unwrap();
    for path in [dir.path().to_owned(), dir.path().join("a"), dir.path().join("a/kept"), dir.path().join("a/kept/file")]
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        if common::is_root() {
            std::os::unix::fs::chown(&path, Some(f.uid), Some(f.uid)).unwrap();
        }
    }
    let kept = format!("{top}/a/kept");
    f.config(&format!("{}read = [{kept:?}]\n", common::PROBE));
    let active = f.run("echo", Value::Null).data()["sandbox"]["layers"]["landlock"]["active"].clone();
    assert_eq!(active["read_only_by_mount_alone"], json!([kept]));
    assert!(f.upm(["check"]).run().stdout.contains("lies below /tmp"));
    assert_errno(&f.act("append", json!([format!("{kept}/file"), "x"])), "EROFS");
    assert_errno(&f.act("create", json!([format!("{kept}/new")])), "EROFS");
    for name in [top.to_owned(), format!("{top}/a"), kept.clone()] {
        assert_errno(&f.act("rename", json!([name, format!("{name}-gone")])), "EBUSY");
    }
    assert_eq!(f.act("read", json!([format!("{kept}/file")]))["text"], "content");
    // the control: the rest of /tmp is the call's own
    let own =
        f.acts(&[json!(["mkdir", "/tmp/x"]), json!(["rename", "/tmp/x", "/tmp/y"]), json!(["create", "/tmp/y/z"])]);
    own.iter().for_each(assert_ok);
    f.assert_clean();
}
