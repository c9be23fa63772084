//! What was denied is named in the answer, with the grant that decided and the very lines that would allow it; the lines are
//! put into the configuration, and the same act then works.

mod common;

use common::{Answer, Fixture, Mode, assert_errno, assert_ok};
use rstest::rstest;
use serde_json::{Value, json};

/// The only denial of this layer and operation.
#[track_caller]
fn one(answer: &Answer, layer: &str, operation: &str) -> Value {
    let found = answer.denials(layer, operation);
    assert_eq!(found.len(), 1, "{layer} {operation}: {:#}", answer.data()["denials"]);
    found[0].clone()
}

/// The configuration with the remedy's lines behind it, as somebody would paste them.
fn apply(f: &Fixture, tables: &str, remedy: &Value) {
    let remedy = remedy.as_str().unwrap();
    assert!(remedy.parse::<toml::Table>().is_ok(), "no TOML: {remedy}");
    f.config(&format!("{tables}\n{remedy}\n"));
}

const TABLES: &str = "
[plugins.Probe]
exec = \"plugins/upm-probe\"
allowed_methods = [\"run\"]
";

#[rstest]
fn a_system_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let tables = format!("{TABLES}syscalls = [\"ptrace\"]\n");
    let Some(f) = Fixture::new(mode, &tables) else { return };
    let answer = f.run("privileged", json!(["kcmp"]));
    assert_errno(&answer.result(), "EPERM");
    let denial = one(&answer, "seccomp", "kcmp");
    // what the plugin's table grants is not lost by the method's own
    assert_eq!(denial["remedy"], "[plugins.Probe.methods.run]\nsyscalls = [\"ptrace\", \"kcmp\"]");
    let line = std::fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let line = line.lines().position(|line| line.starts_with("syscalls")).unwrap() + 1;
    assert_eq!(denial["rule"], format!("syscalls ({}:{line})", f.text("upm_config.toml")));
    // the question gets the same answer beforehand
    let asked = f.upm(["explain", "Probe", "run", "--may", "syscall kcmp", "--json"]).run();
    let told: Value = serde_json::from_str(&asked.stdout).unwrap();
    assert_eq!((asked.exit, &told["remedy"], &told["layer"]), (Some(1), &denial["remedy"], &json!("seccomp")));
    assert_eq!(format!("syscalls ({})", told["place"].as_str().unwrap()), denial["rule"]);
    apply(&f, &tables, &denial["remedy"]);
    assert_eq!(f.upm(["explain", "Probe", "run", "--may", "syscall kcmp"]).run().exit, Some(0));
    let answer = f.run("privileged", json!(["kcmp"]));
    assert_ok(&answer.result());
    assert_eq!(answer.data()["denials"], json!([]));
}

#[rstest]
fn what_nothing_can_allow(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    let answer = f.run("mount", json!(["none", "/tmp", "tmpfs"]));
    assert_errno(&answer.result(), "EPERM");
    let denial = one(&answer, "seccomp", "mount");
    assert_eq!(denial["rule"], "syscalls (built-in)");
    assert!(denial["remedy"].as_str().unwrap().starts_with("nothing: "), "{denial:#}");
}

#[rstest]
fn a_violation_names_its_remedy(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let tables = format!("{TABLES}on_violation = \"kill\"\n");
    let Some(f) = Fixture::new(mode, &tables) else { return };
    let data = f.run("privileged", json!(["kcmp"])).failed("violation", 159);
    let denial = &data["details"]["denial"];
    assert_eq!(denial["operation"], "kcmp");
    apply(&f, &tables, &denial["remedy"]);
    assert_ok(&f.act("privileged", json!(["kcmp"])));
}

#[rstest]
fn a_name(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    let answer = f.run("resolve", json!(["files.example"]));
    assert_eq!(answer.result()["ok"], false);
    let denial = one(&answer, "egress", "resolve");
    assert_eq!(denial["rule"], "egress (built-in)");
    let lines = "[egress.files]\nhosts = [\"files.example:443\"]\n\n[plugins.Probe.methods.run]\negress = [\"files\"]";
    assert_eq!(denial["remedy"], lines);
    apply(&f, TABLES, &denial["remedy"]);
    let answer = f.run("resolve", json!(["files.example"]));
    assert_ok(&answer.result());
    assert_eq!(answer.data()["denials"], json!([]));
}

/// The change of a configuration in JSON is JSON.
#[rstest]
fn a_json_configuration_gets_json(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let plugin = json!({"exec": "plugins/upm-probe", "allowed_methods": ["run"]});
    let mut config = json!({"plugins": {"Probe": plugin}, "audit": {"journald": "off", "file": f.text("audit/a")}});
    f.write("upm_config.json", config.to_string());
    let answer = f.run("privileged", json!(["kcmp"]));
    let denial = one(&answer, "seccomp", "kcmp");
    let change: Value = serde_json::from_str(denial["remedy"].as_str().unwrap()).unwrap();
    config["plugins"]["Probe"]["methods"] = change["plugins"]["Probe"]["methods"].clone();
    f.write("upm_config.json", config.to_string());
    assert_ok(&f.act("privileged", json!(["kcmp"])));
}

/// An address has no name that could be granted, and the kernel does not tell which it was: it is counted.
#[rstest]
fn dialled_addresses_are_counted(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    // port 53 is the one that landlock leaves open, so the route decides on every kernel
    let answer = f.run("batch", json!([["connect", "192.0.2.1", 53], ["connect", "192.0.2.2", 53]]));
    for one in answer.result()["answers"].as_array().unwrap() {
        assert_errno(one, "ENETUNREACH");
    }
    let denial = one(&answer, "egress", "connect");
    assert_eq!((&denial["count"], &denial["object"]["errno"]), (&json!(2), &json!("ENETUNREACH")));
    assert!(denial["remedy"].as_str().unwrap().starts_with("nothing: hosts are granted by name"), "{denial:#}");
    // the control: a process that reaches itself is not denied
    assert_eq!(f.run("echo", Value::Null).data()["denials"], json!([]));
}

/// Each limit that a call comes up against: which, its value, the use; with twice as much the same act has room.
#[rstest]
#[case::timeout("timeout = \"500ms\"", "sleep", json!([2]), "timeout")]
#[case::output("output = \"1KiB\"", "print", json!(["stdout", 3000]), "output")]
#[case::processes("processes = 8", "fork_bomb", json!([20, 400]), "processes")]
#[case::tmp("tmp = \"1MiB\"", "write_big", json!(["/tmp/big", 2]), "tmp")]
#[case::shm("shm = \"1MiB\"", "write_big", json!(["/dev/shm/big", 2]), "shm")]
#[case::result("result = \"4KiB\"", "frame_sized", json!([6000]), "result")]
fn a_limit(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[case] grant: &str,
    #[case] act: &str,
    #[case] args: Value,
    #[case] key: &str,
) {
    let tables = format!("{TABLES}{grant}\n");
    let Some(f) = Fixture::new(mode, &tables) else { return };
    let answer = f.run(act, args.clone());
    let denial = one(&answer, "limits", key);
    let (limit, used) = (denial["object"]["limit"].as_u64().unwrap(), denial["object"]["used"].as_u64());
    assert!(used.is_none_or(|used| used >= limit), "{denial:#}");
    assert!(denial["rule"].as_str().unwrap().starts_with(&format!("{key} (")), "{denial:#}");
    let remedy: toml::Table = denial["remedy"].as_str().unwrap().parse().unwrap();
    let value = &remedy["plugins"]["Probe"]["methods"]["run"][key];
    assert!(!value.is_array(), "{remedy}");
    // the control: where the limit is as built in, the same act is not denied
    f.config(TABLES);
    let answer = f.run(act, args);
    assert_eq!(answer.denials("limits", key), Vec::<Value>::new(), "{:#}", answer.data()["denials"]);
}

/// A child that dies of SIGBUS because a directory in memory is full, while the plugin itself goes on.
#[rstest]
fn a_child_that_fills_memory_is_seen(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let plugin = r#"
import mmap, os

class Filling:
    def run(self, path):
        with open(path, "wb") as f:
            f.truncate(2 << 20)
        child = os.fork()
        if child == 0:
            with open(path, "r+b") as f, mmap.mmap(f.fileno(), 0) as pages:
                for at in range(0, 2 << 20, 4096):
                    pages[at] = 1
            os._exit(0)
        return os.WTERMSIG(os.waitpid(child, 0)[1])
"#;
    let table = "[plugins.Filling]\nmodule = \"filling\"\nallowed_methods = [\"run\"]\n";
    for (path, key) in [("/tmp/x", "tmp"), ("/dev/shm/x", "shm")] {
        let Some(f) = Fixture::new(mode, &format!("{table}{key} = \"1MiB\"\n")) else { return };
        f.python("filling", plugin);
        let answer = f.call("Filling", "run", &json!([path]));
        assert_eq!(answer.result(), 7, "SIGBUS: {:#}", answer.data());
        assert_eq!(one(&answer, "limits", key)["object"]["limit"], 1 << 20);
        // the control: with room for it, the child succeeds
        f.config(&format!("{table}{key} = \"3MiB\"\n"));
        let answer = f.call("Filling", "run", &json!([path]));
        assert_eq!((answer.result(), answer.data()["denials"].clone()), (json!(0), json!([])));
    }
}

const RAISING: &str = r#"
class Raising:
    def memory(self):
        return len(bytearray(200 << 20))

    def files(self):
        held = [open("/dev/null") for _ in range(50)]
        return len(held)

    def big(self):
        with open("/tmp/big", "wb") as f:
            f.write(b"x" * (2 << 20))
        return 1

    def wrapped(self, path):
        try:
            bytearray(200 << 20)
        except MemoryError:
            try:
                open(path)
            except OSError as error:
                raise ValueError("no configuration") from error

    def handling(self, path):
        try:
            bytearray(200 << 20)
        except MemoryError:
            open(path)

    def read(self, path):
        with open(path) as f:
            return f.read()

    def write(self, path):
        with open(path, "w") as f:
            return f.write("x")
"#;

fn raising(mode: Mode, grant: &str) -> Option<Fixture> {
    let f = Fixture::new(mode, &raising_tables(grant))?;
    f.python("raising", RAISING);
    Some(f)
}

fn raising_tables(grant: &str) -> String {
    format!(
        "\n[plugins.Raising]\nmodule = \"raising\"\nsite = false\nallowed_methods = [\"memory\", \"files\", \"big\", \"read\", \"write\", \"wrapped\", \"handling\"]\n{grant}\n"
    )
}

/// The exception reports what the kernel refused to the process itself.
#[rstest]
#[case::memory("memory = \"150MiB\"", "memory", "memory")]
#[case::open_files("open_files = 32", "files", "open_files")]
#[case::file_size("file_size = \"1MiB\"", "big", "file_size")]
fn a_limit_that_only_the_exception_tells(
    #[values(Mode::Root, Mode::User)] mode: Mode,
    #[case] grant: &str,
    #[case] method: &str,
    #[case] key: &str,
) {
    let Some(f) = raising(mode, grant) else { return };
    let answer = f.call("Raising", method, &json!([]));
    answer.failed("plugin_raised", 1);
    let denial = one(&answer, "limits", key);
    apply(&f, &raising_tables(grant), &denial["remedy"]);
    f.call("Raising", method, &json!([])).result();
}

#[rstest]
fn a_path_that_is_not_granted(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = raising(mode, "") else { return };
    f.mkdir_writable("data");
    f.write("data/file", "content");
    for below in ["data", "data/file"] {
        f.of_another(below);
    }
    let path = f.text("data/file");
    let data = f.call("Raising", "read", &json!([path])).failed("plugin_raised", 1);
    let details = &data["details"];
    assert_eq!((&details["errno_name"], &details["type"]), (&json!("ENOENT"), &json!("FileNotFoundError")));
    assert_eq!(details["granted"], json!({"read": false, "write": false}));
    assert_eq!(details["remedy"], format!("[plugins.Raising.methods.read]\nread = [\"{}\"]", f.text("data")));
    let learn = format!("upm learn Raising read '{{\"args\":[\"{path}\"]}}'");
    assert_eq!(details["learn"], learn);
    let complete = &data["denials_complete"];
    assert_eq!((&complete["paths"], &complete["learn"]), (&json!(false), &json!(learn)));
    assert_eq!((&complete["seccomp"], &complete["egress"]), (&json!(true), &json!(true)));

    // granted for reading: now it can be read, and the refused writing names `write`
    apply(&f, &raising_tables(""), &details["remedy"]);
    assert_eq!(f.call("Raising", "read", &json!([path])).result(), "content");
    f.config(&format!("{}read = [\"data\"]\n", raising_tables("")));
    let data = f.call("Raising", "write", &json!([path])).failed("plugin_raised", 1);
    assert_eq!(data["details"]["granted"], json!({"read": true, "write": false}));
    assert!(data["details"]["remedy"].as_str().unwrap().contains("\nwrite = ["), "{data:#}");
    apply(&f, &raising_tables(""), &data["details"]["remedy"]);
    assert_eq!(f.call("Raising", "write", &json!([path])).result(), 1);

    // what is there already is said to be
    let data = f.call("Raising", "read", &json!(["/usr/lib/no-such-file"])).failed("plugin_raised", 1);
    assert_eq!(data["details"]["granted"], json!({"read": true, "write": false}));
    assert_eq!(data["details"].get("remedy"), None);
}

/// What an exception came of is looked at too.
#[rstest]
fn an_exception_because_of_another(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = raising(mode, "memory = \"150MiB\"") else { return };
    f.mkdir("x");
    let (path, x) = (f.text("x/file"), f.text("x"));
    let data = f.call("Raising", "wrapped", &json!([path])).failed("plugin_raised", 1);
    let (details, cause) = (&data["details"], &data["details"]["cause"]);
    assert_eq!((&details["type"], &cause["type"]), (&json!("ValueError"), &json!("FileNotFoundError")));
    assert_eq!(cause["granted"], json!({"read": false, "write": false}));
    assert!(cause["remedy"].as_str().unwrap().contains(&format!("read = [\"{x}\"]")), "{details:#}");

    // where there is nothing to grant, that is said
    let data = f.call("Raising", "read", &json!(["/srv/no-such/file"])).failed("plugin_raised", 1);
    assert_eq!(data["details"]["remedy"], "nothing: /srv/no-such does not exist; create it first", "{data:#}");

    let answer = f.call("Raising", "handling", &json!(["/srv/x/file"]));
    let details = answer.failed("plugin_raised", 1)["details"].clone();
    assert_eq!((&details["type"], &details["cause"]["type"]), (&json!("FileNotFoundError"), &json!("MemoryError")));
    assert_eq!(details["granted"], json!({"read": false, "write": false}));
    one(&answer, "limits", "memory");
    // the control: with room the same method comes to no MemoryError
    f.config(&raising_tables(""));
    let answer = f.call("Raising", "handling", &json!(["/srv/x/file"]));
    assert_eq!(answer.result(), Value::Null);
}

/// Of all filters that a process is under one can have a listener. Where upm itself is under such a one, what would be reported
/// is refused all the same, and the answer says that it was not reported.
#[rstest]
fn under_a_filter_with_a_listener(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    let acts = json!({"args": ["batch", ["mount", "none", "/tmp", "tmpfs"], ["echo"]]}).to_string();
    let under = [f.text("plugins/upm-probe"), "under-listener".to_owned()];
    let answer = f.upm(["Probe", "run", &acts]).through(under.clone()).run();
    let answers = answer.result()["answers"].clone();
    assert_errno(&answers[0], "EPERM");
    assert_ok(&answers[1]);
    let data = answer.data();
    assert_eq!(data["denials"], json!([]));
    assert_eq!(data["denials_complete"]["seccomp"], false);
    let active = &data["sandbox"]["layers"]["seccomp"]["active"];
    assert_eq!(active["listener"], false);
    assert!(active["note"].as_str().unwrap().contains("not reported"), "{active}");
    // the control: without that filter the same refusal is reported
    let answer = f.upm(["Probe", "run", &acts]).run();
    assert_errno(&answer.result()["answers"][0], "EPERM");
    assert_eq!(answer.data()["denials_complete"]["seccomp"], true);
    assert_eq!(answer.data()["sandbox"]["layers"]["seccomp"]["active"]["listener"], true);
    one(&answer, "seccomp", "mount");
    // and with `kill` it kills
    f.config(&format!("{TABLES}on_violation = \"kill\"\n"));
    f.upm(["Probe", "run", &acts]).through(under).run().failed("plugin_killed", 159);
}

#[rstest]
fn the_sandbox_is_proven(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    let data = f.run("echo", Value::Null).data();
    let sandbox = &data["sandbox"];
    for digest in ["plan_sha256", "config_sha256"] {
        assert_eq!(sandbox[digest].as_str().unwrap().len(), 64, "{digest}");
    }
    let landlock = &sandbox["layers"]["landlock"]["asked"];
    let rights: Vec<&str> = landlock["rights"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
    assert!(rights.contains(&"fs_read_file") && rights.contains(&"fs_refer"), "{rights:?}");
    let (abi, has) = (landlock["abi"].as_u64().unwrap(), |right| rights.contains(&right));
    // ports are not handled: the call's network holds nothing but the call
    assert_eq!((false, abi >= 6), (has("net_connect_tcp"), has("scope_signal")), "ABI {abi}: {rights:?}");
    let limits = &sandbox["layers"]["limits"];
    for key in limits["asked"].as_object().unwrap().keys() {
        assert!(limits["active"][key].is_string(), "nothing serves {key}: {limits:#}");
    }
    // the plan that was enforced is the one that is explained
    let explained: Value = serde_json::from_str(&f.upm(["explain", "Probe", "run", "--json"]).run().stdout).unwrap();
    assert_eq!(explained["plan_sha256"], sandbox["plan_sha256"]);
}

/// A plugin that makes a program where temporary files go, and runs it. Control: with the grant that the answer names it runs.
#[rstest]
fn a_program_in_tmp(#[values(Mode::Root, Mode::User)] mode: Mode, #[values("/tmp", "/dev/shm")] place: &str) {
    let tables = "[plugins.Maker]\nmodule = \"maker\"\nallowed_methods = [\"run\"]\n";
    let Some(f) = Fixture::new(mode, tables) else { return };
    f.python(
        "maker",
        "import os, subprocess, tempfile\nclass Maker:\n def run(self, place):\n  path = (place or tempfile.gettempdir()) + '/made'\n  \
         with open(path, 'w') as made: made.write('#!/bin/sh\\necho ran')\n  os.chmod(path, 0o755)\n  \
         return subprocess.run([path], capture_output=True, text=True).stdout\n",
    );
    let call = |place: Option<&str>| f.call("Maker", "run", &json!([place]));
    let answer = call(Some(place));
    let details = answer.failed("plugin_raised", 1)["details"].clone();
    assert_eq!((&details["errno_name"], &details["filename"]), (&json!("EACCES"), &json!(format!("{place}/made"))));
    let denial = one(&answer, "root", "exec");
    assert_eq!(denial["object"], json!({ "path": format!("{place}/made") }));
    let remedy = denial["remedy"].as_str().unwrap();
    assert!(
        remedy.starts_with(&format!("nothing: {place} is mounted noexec")) && remedy.contains("set TMPDIR"),
        "{remedy}"
    );
    assert_eq!((&details["rule"], &details["remedy"]), (&denial["rule"], &denial["remedy"]));
    let learnt = f.upm(["learn", "Maker", "run", &json!({ "args": [place] }).to_string(), "--json"]).run();
    let learnt: Value = serde_json::from_str(&learnt.stdout).unwrap();
    let why = remedy.trim_start_matches("nothing: ");
    assert_eq!(learnt["not_suggested"], json!([{ "object": format!("{place}/made"), "why": why }]), "{learnt:#}");
    let explained = f.upm(["explain", "Maker", "run"]).run().stdout;
    assert_eq!(explained.matches("noexec: programs run from a write path").count(), 2, "{explained}");

    f.config(&format!("{tables}write = [\"{{cache_dir}}\"]\nenv = {{ TMPDIR = \"{{cache_dir}}\" }}\n"));
    assert_eq!(call(None).result(), "ran\n");
    assert_eq!(call(Some(place)).denials("root", "exec").len(), 1);
}

/// The mode of a refused call is written as chmod(1) writes it. Control: without the bit the same act is allowed.
#[rstest]
fn modes_are_octal(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, TABLES) else { return };
    for (how, bits) in [("chmod", "0o4755"), ("fchmod", "0o2700"), ("fchmodat", "0o6755"), ("openat", "0o4700")] {
        let answer = f.run("set_id", json!([how, format!("/tmp/{how}"), bits]));
        assert_errno(&answer.result(), "EPERM");
        assert_eq!(one(&answer, "seccomp", how)["object"]["mode"], bits, "{:#}", answer.data()["denials"]);
        let record = f.audit().into_iter().rfind(|record| record["UPM_OBJECT"].to_string().contains(bits));
        assert!(record.is_some(), "{:#?}", f.audit());
    }
    assert_ok(&f.act("set_id", json!(["chmod", "/tmp/plain", "0o755"])));
}
