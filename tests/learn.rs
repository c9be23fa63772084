//! `upm learn`: what a call looked for and was not given, and the change that gives it. It is put into the configuration by
//! hand, and the same call works. Watching opens nothing: what is denied stays denied.

mod common;

use common::{Fixture, Mode, assert_errno, assert_errno_in, assert_ok, has_program};
use rstest::rstest;
use serde_json::{Value, json};
use std::process::{Command, Stdio};

const PLUGIN: &str = r#"
import os
import socket


class Curious:
    def read(self, *paths):
        return [open(path).read() for path in paths]

    def write(self, path):
        with open(path, "w") as f:
            return f.write("x")

    def look(self, name):
        return socket.getaddrinfo(name, 8443)[0][4][0]

    def dial(self, name, port):
        socket.create_connection((name, port), 1).close()

    def nothing(self):
        return None

    def many(self, n):
        for i in range(n):
            try:
                os.stat("/no-such-%d" % i)
            except OSError:
                pass
"#;

const TABLES: &str = "
[plugins.Curious]
module = \"curious\"
site = false  # starts sooner
allowed_methods = [\"read\", \"write\", \"look\", \"dial\", \"nothing\", \"many\"]
";

fn curious(mode: Mode, tables: &str) -> Option<Fixture> {
    let f = Fixture::new(mode, &format!("{TABLES}{tables}"))?;
    f.python("curious", PLUGIN);
    Some(f)
}

fn learn(f: &Fixture, method: &str, args: &Value) -> Value {
    let answer = f.upm(["learn", "Curious", method, &json!({ "args": args }).to_string(), "--json"]).run();
    assert_eq!(answer.exit, Some(0), "{}\n{}", answer.stdout, answer.stderr);
    serde_json::from_str(&answer.stdout).unwrap()
}

fn looked(learned: &Value) -> Vec<(&str, &str)> {
    let looks = learned["looked_for"].as_array().unwrap();
    looks.iter().map(|look| (look["act"].as_str().unwrap(), look["object"].as_str().unwrap())).collect()
}

/// Makes the printed change, as somebody would at a shell.
fn patch(f: &Fixture, diff: &str) {
    let config = f.path("upm_config.toml");
    let before = std::fs::read_to_string(&config).unwrap();
    let mut child = Command::new("patch").arg("--quiet").arg(&config).stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), diff.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{diff}");
    let after = std::fs::read_to_string(&config).unwrap();
    assert_ne!(before, after);
    // the file stays its owner's
    f.write("upm_config.toml", after);
}

#[rstest]
fn the_printed_change_gives_what_was_looked_for(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !has_program("patch") {
        return;
    }
    let Some(f) = curious(mode, "") else { return };
    for dir in ["data", "other"] {
        f.mkdir(dir);
        f.write(&format!("{dir}/file"), "content");
    }
    let args = json!([f.text("data/file"), f.text("data/file")]);
    f.call("Curious", "read", &args).failed("plugin_raised", 1);
    let before = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();

    let json = json!({ "args": args }).to_string();
    let told = f.upm(["learn", "Curious", "read", &json]).run();
    assert_eq!(told.exit, Some(0), "{}", told.stderr);
    assert!(told.stdout.contains(&format!("read     {}", f.text("data/file"))), "{}", told.stdout);
    assert_eq!(std::fs::read_to_string(f.path("upm_config.toml")).unwrap(), before, "learn changes nothing");
    let (_, diff) = told.stdout.split_once("\n--- ").unwrap_or_else(|| panic!("no diff: {}", told.stdout));
    assert!(diff.contains(&format!("+read = [\"{}\"]", f.text("data"))), "{diff}");

    patch(&f, &format!("--- {diff}"));
    assert_eq!(f.call("Curious", "read", &args).result(), json!(["content", "content"]));
    // the control: what it did not look for is still not there
    f.call("Curious", "read", &json!([f.text("other/file")])).failed("plugin_raised", 1);
    let learned = learn(&f, "read", &args);
    assert_eq!((looked(&learned), &learned["diff"]), (vec![], &Value::Null), "{learned:#}");
}

#[rstest]
fn writing_and_names(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    f.mkdir_writable("out");
    let learned = learn(&f, "write", &json!([f.text("out/new")]));
    assert_eq!(looked(&learned), [("write", f.text("out/new").as_str())]);
    assert_eq!(learned["looked_for"][0]["on_host"], false);
    let lines = format!("[plugins.Curious.methods.write]\nwrite = [\"{}\"]", f.text("out"));
    assert_eq!(learned["change"], lines);
    assert_eq!(learned["call"]["data"]["code"], "plugin_raised");

    let learned = learn(&f, "look", &json!(["files.example"]));
    assert_eq!(learned["names"][0]["name"], "files.example");
    let lines =
        "[egress.files]\nhosts = [\"files.example:443\"]\n\n[plugins.Curious.methods.look]\negress = [\"files\"]";
    assert_eq!(learned["change"], lines, "{learned:#}");

    // what is granted on another port is known by its name
    f.config(&format!("{TABLES}egress = [\"g\"]\n[egress.g]\nhosts = [\"granted.example:443\"]\n"));
    let learned = learn(&f, "dial", &json!(["granted.example", 8443]));
    assert_eq!(looked(&learned), [("connect", "granted.example:8443")], "{learned:#}");
    assert!(learned["change"].as_str().unwrap().contains("\"granted.example:8443\""), "{learned:#}");
    let learned = learn(&f, "dial", &json!(["192.0.2.1", 80]));
    assert_eq!((looked(&learned), &learned["change"]), (vec![("connect", "192.0.2.1:80")], &Value::Null));
    let why = learned["not_suggested"][0]["why"].as_str().unwrap();
    assert!(why.starts_with("hosts are granted by name"), "{why}");
}

/// What every plugin looks for is not listed for this one.
#[rstest]
fn ordinary_starts_are_left_out(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    for site in ["site = false", "site = true"] {
        f.config(&TABLES.replace("site = false", site));
        let learned = learn(&f, "nothing", &json!([]));
        assert_eq!((looked(&learned), &learned["start_unmeasured"]), (vec![], &Value::Null), "{site}: {learned:#}");
        // the control: there was something to leave out
        assert!(learned["left_out"].as_u64().unwrap() > 0, "{site}: {learned:#}");
    }
}

#[rstest]
fn nothing_is_suggested_that_would_be_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    for path in [f.text("plugins/more.py"), f.text("upm_config.toml"), "/proc/sys/kernel/x".to_owned()] {
        let learned = learn(&f, "write", &json!([path]));
        assert_eq!(learned["change"], Value::Null, "{path}: {learned:#}");
    }
    // what only its owner may read is not offered to somebody else
    let learned = learn(&f, "read", &json!(["/etc/shadow"]));
    assert_eq!((looked(&learned), &learned["change"]), (vec![("read", "/etc/shadow")], &Value::Null));
    // a link is not followed, and so not suggested
    f.mkdir("real");
    f.write("real/file", "x");
    std::os::unix::fs::symlink(f.path("real"), f.path("link")).unwrap();
    let learned = learn(&f, "read", &json!([f.text("link/file")]));
    assert_eq!(learned["change"], Value::Null, "{learned:#}");
    assert!(learned["not_suggested"].to_string().contains("symbolic link"), "{learned:#}");
}

#[rstest]
fn what_is_noted_is_bounded(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    let learned = learn(&f, "many", &json!([2500]));
    let listed = learned["looked_for"].as_array().unwrap().len() as u64;
    assert!(listed <= 2000, "{listed}");
    assert!(listed + learned["not_listed"].as_u64().unwrap() >= 2500);
    f.assert_clean();
}

/// The supervisor lets the watched calls go on; the kernel refuses them all the same.
#[rstest]
fn the_confinement_is_the_same(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\"]") else { return };
    let set_id = |call: &str, name: &str| json!(["set_id", call, f.text(&format!("project/{name}"))]);
    let acts = json!([
        "batch",
        set_id("openat", "a"),
        set_id("open", "b"),
        set_id("creat", "c"),
        set_id("chmod", "d"),
        set_id("fchmodat", "e"),
        ["mknod", "whiteout", f.text("project/w")],
        ["mount", "none", "/tmp", "tmpfs"],
        ["read", "/etc/shadow"],
        ["write", "/usr/x", "x"],
        ["socket", "AF_NETLINK", "SOCK_RAW", 15],
        ["privileged", "openat2"],
        ["unix_connect", "/run/systemd/journal/socket"],
        ["write", f.text("project/allowed"), "x"],
        ["create", f.text("project/made")],
    ]);
    let errors =
        ["EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "EPERM", "ENOENT", "EROFS", "EAFNOSUPPORT", "ENOSYS"];
    let arguments = json!({ "args": acts }).to_string();
    let learned = f.upm(["learn", "Probe", "run", &arguments, "--json"]).run();
    let learned: Value = serde_json::from_str(&learned.stdout).unwrap();
    let watched = learned["call"]["data"]["result"]["answers"].as_array().unwrap().clone();
    std::fs::remove_dir_all(f.path("project")).unwrap();
    f.mkdir_writable("project");
    let plain = f.upm(["Probe", "run", &arguments]).run().result()["answers"].as_array().unwrap().clone();
    for (at, error) in errors.iter().enumerate() {
        println!("{}", acts[at + 1]);
        assert_errno(&watched[at], error);
        assert_errno(&plain[at], error);
    }
    assert_errno_in(&watched[errors.len()], &["ENOENT", "EAFNOSUPPORT"]);
    // the controls
    watched[errors.len() + 1..].iter().for_each(assert_ok);
    let objects = learned["looked_for"].to_string();
    assert!(objects.contains("/etc/shadow") && objects.contains("/usr/x"), "{objects}");
    assert!(!objects.contains("project/allowed"), "{objects}");
    // and what the filter refused is a denial there too
    let denied = learned["call"]["data"]["denials"].to_string();
    assert!(denied.contains("\"mount\""), "{denied}");
    f.assert_clean();
}

#[rstest]
fn a_call_that_cannot_be_made_is_answered_as_ever(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    f.upm(["learn", "Nobody", "read"]).run().failed("plugin_not_allowed", 126);
    f.upm(["learn", "Curious", "other"]).run().failed("method_not_allowed", 126);
    f.upm(["learn", "Curious"]).run().failed("usage", 2);
    f.upm(["learn", "Curious", "nothing", "{"]).run().failed("arguments_invalid", 2);
    f.upm(["learn", "Curious", "nothing", "--may", "read /"]).run().failed("usage", 2);
}

/// The answer names the line; the line works as it stands.
#[rstest]
fn the_command_that_an_answer_names(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    f.mkdir("it's");
    f.write("it's/file", "x");
    let data = f.call("Curious", "read", &json!([f.text("it's/file")])).failed("plugin_raised", 1);
    let line = data["denials_complete"]["learn"].as_str().unwrap();
    assert_eq!(data["details"]["learn"], line);
    let words = Command::new("/bin/sh").arg("-c").arg(format!("printf '%s\\n' {line}")).output().unwrap();
    let words = String::from_utf8(words.stdout).unwrap();
    let words: Vec<&str> = words.lines().skip(1).collect();
    let told = f.upm(words).run();
    assert_eq!(told.exit, Some(0), "{}", told.stderr);
    assert!(told.stdout.contains("it's/file"), "{}", told.stdout);
}

/// What rules a host or holds its secrets is never proposed, regardless of its owner and of how the plugin asks; the report lists
/// the wish and what to do instead.
#[rstest]
fn system_places_are_never_proposed(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    for dir in ["home/.ssh", "home/.config", "project/.git", "project/.git/hooks", "open"] {
        f.mkdir(dir);
        f.of_another(dir);
    }
    for file in ["home/.ssh/id_ed25519", "home/.netrc", "open/file"] {
        f.write(file, "content");
    }
    std::os::unix::fs::symlink("/etc/cron.d", f.path("open/jobs")).unwrap();
    let own = |below: &str| f.text(below);
    let written = [
        "/etc/cron.d/upm",
        "/etc/passwd",
        "/etc/systemd/system/x.service",
        "/usr/local/bin/x",
        "/boot/x",
        "/root/.bashrc",
        "/var/spool/cron/crontabs/root",
        "/var/lib/x",
        "/opt/x",
        "/lib/systemd/system/x.service",
        "/home/x",
        "/srv/x",
        "/x",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([
        own("home/.ssh/authorized_keys"),
        own("home/.config/x"),
        own("project/.git/hooks/pre-commit"),
        own("open/jobs/x"),
    ]);
    for path in written {
        let learned = learn(&f, "write", &json!([path]));
        assert_eq!(learned["change"], Value::Null, "{path}: {learned:#}");
        assert_eq!(looked(&learned), [("write", path.as_str())], "the wish is told");
        let refused = &learned["not_suggested"][0];
        assert!(refused["why"].as_str().is_some_and(|why| why.len() > 20), "{path}: {learned:#}");
    }
    for path in [
        "/etc/shadow",
        "/etc/ssh/sshd_config",
        "/etc/sudoers",
        "/etc/pam.d/login",
        "/var/log/dpkg.log",
        "/var/lib/dpkg/status",
    ]
    .map(str::to_owned)
    .into_iter()
    .chain([own("home/.ssh/id_ed25519"), own("home/.netrc")])
    {
        let learned = learn(&f, "read", &json!([path]));
        assert_eq!(learned["change"], Value::Null, "{path}: {learned:#}");
    }
    // what root owns is its own, wherever it is
    if mode == Mode::Root {
        f.mkdir("roots");
        let learned = learn(&f, "write", &json!([own("roots/x")]));
        assert!(learned["not_suggested"][0]["why"].as_str().unwrap().contains("belongs to root"), "{learned:#}");
        assert_eq!(learned["change"], Value::Null);
    }
    // the control: an ordinary directory of an ordinary user
    let learned = learn(&f, "write", &json!([own("open/new")]));
    assert!(learned["change"].as_str().unwrap().contains("\nwrite = ["), "{learned:#}");
    let json = json!({ "args": ["/etc/cron.d/upm"] }).to_string();
    let told = f.upm(["learn", "Curious", "write", &json]).run().stdout;
    assert!(told.contains("write    /etc/cron.d/upm") || told.contains("write /etc/cron.d/upm"), "{told}");
    assert!(told.contains("never proposed: let the plugin use its project or cache"), "{told}");
}

/// Each line that `learn` proposes is one that `check` takes, for whatever names a plugin can think of.
#[rstest]
fn hostile_names_end_in_no_other_key(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    let names = [
        "a\"]\nwrite = [\"/srv",
        "b'c",
        "d\\e",
        "f\"g",
        "# h",
        "\u{202e}i",
        "\u{1b}[31mj",
        "k\tl",
        "{project_root}",
        "m n",
        "é",
        "😀",
        "o\u{200b}p",
        "[plugins.Curious]",
        "\"\"\"",
        "x,y",
    ];
    let mut paths = Vec::new();
    for name in names {
        let dir = f.mkdir(&format!("odd/{name}"));
        f.write(&format!("odd/{name}/file"), "content");
        paths.push(dir.join("file"));
    }
    f.config(&format!("{TABLES}\n"));
    let mut proposed = 0;
    for path in &paths {
        let learned = learn(&f, "read", &json!([path]));
        let Some(change) = learned["change"].as_str() else {
            assert_ne!(learned["not_suggested"], json!([]), "{path:?}: {learned:#}");
            continue;
        };
        proposed += 1;
        let table: toml::Table = change.parse().unwrap_or_else(|e| panic!("{path:?}: {e}: {change}"));
        let read = table["plugins"]["Curious"]["methods"]["read"].as_table().unwrap();
        assert_eq!((table.len(), read.len()), (1, 1), "{change}");
        assert_eq!(read["read"].as_array().unwrap().len(), 1, "{change}");
        f.config(&format!("{TABLES}\n{change}\n"));
        let check = f.upm(["check"]).run();
        assert_eq!(check.exit, Some(0), "{path:?}: {change}\n{}", check.stdout);
        assert_eq!(f.call("Curious", "read", &json!([path])).result(), json!(["content"]), "{change}");
        f.config(&format!("{TABLES}\n"));
    }
    assert!(proposed >= 10, "{proposed}");
    // and at a terminal nothing of a name acts
    let json = json!({ "args": [f.text("odd/\u{1b}[31mj/file"), f.text("odd/\u{202e}i/file")] }).to_string();
    for path in [0, 1] {
        let told = f.upm(["learn", "Curious", "read", &json]).run().stdout;
        assert!(!told.contains('\u{1b}') && !told.contains('\u{202e}'), "{path}: {told:?}");
    }
}

/// A plugin that fills the list of observations costs `learn` a bounded time, and the report says that the proposal is incomplete.
#[rstest]
fn a_plugin_that_wants_everything(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = curious(mode, "") else { return };
    let mut wanted = Vec::new();
    for number in 0..1500 {
        f.mkdir(&format!("many/d{number}"));
        wanted.push(f.write(&format!("many/d{number}/file"), "x"));
    }
    f.python(
        "curious",
        &PLUGIN.replace("return None", "import glob\n        for i in range(1500):\n            try:\n                open(BASE % i)\n            except OSError:\n                pass")
            .replace("import os\n", &format!("import os\nBASE = {:?}\n", f.text("many/d%d/file"))),
    );
    let started = std::time::Instant::now();
    let learned = learn(&f, "nothing", &json!([]));
    let took = started.elapsed();
    println!("{took:?}");
    assert_eq!(learned["looked_for"].as_array().unwrap().len(), 1500);
    let read = learned["change"].as_str().unwrap().parse::<toml::Table>().unwrap();
    let read = read["plugins"]["Curious"]["methods"]["nothing"]["read"].as_array().unwrap().len();
    let refused = learned["not_suggested"].as_array().unwrap();
    assert_eq!((read, refused.len()), (32, 1500 - 32));
    assert!(refused[0]["why"].as_str().unwrap().contains("never proposed"), "{}", refused[0]);
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
}
