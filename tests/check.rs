//! `upm check`: each finding has its severity, its line, and a control: a configuration without it.

mod common;

use common::{Fixture, Mode, skip};
use rstest::rstest;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

/// Appends the rest of the configuration: the first lines are the case's.
fn written(f: &Fixture, text: &str) {
    f.write(
        "upm_config.toml",
        format!("{text}\n[audit]\njournald = \"off\"\nfile = \"{}\"\n", f.text("audit/audit.jsonl")),
    );
}

fn findings(f: &Fixture) -> (Option<i32>, Vec<Value>) {
    let answer = f.upm(["check", "--json"]).run();
    let document: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"));
    assert_eq!(document["ok"], answer.exit == Some(0), "{document:#}");
    let findings = document["findings"].as_array().unwrap().clone();
    for finding in &findings {
        let place = format!("{}:{}: ", finding["file"].as_str().unwrap(), finding["line"]);
        assert!(finding["message"].as_str().unwrap().starts_with(&place), "{finding:#}");
        assert!(!finding["subject"].as_str().unwrap().is_empty(), "{finding:#}");
    }
    (answer.exit, findings)
}

fn with<'f>(findings: &'f [Value], words: &str) -> Vec<&'f Value> {
    findings.iter().filter(|finding| finding["message"].as_str().unwrap().contains(words)).collect()
}

/// `bad` has the finding once, in the line that ends with `#<-`; `good` does not have it.
#[track_caller]
fn finds(f: &Fixture, severity: &str, subject: &str, words: &str, bad: &str, good: &str) {
    let line = 1 + bad.lines().position(|line| line.ends_with("#<-")).expect("a line is marked");
    written(f, bad);
    let (exit, all) = findings(f);
    let found = with(&all, words);
    assert_eq!(found.len(), 1, "{words}: {all:#?}");
    assert_eq!(
        (found[0]["severity"].as_str(), found[0]["subject"].as_str(), found[0]["line"].as_u64()),
        (Some(severity), Some(subject), Some(line as u64)),
        "{all:#?}"
    );
    assert_eq!(found[0]["file"], f.text("upm_config.toml"), "{all:#?}");
    assert_eq!(exit, Some(i32::from(all.iter().any(|one| one["severity"] == "error"))), "{all:#?}");
    written(f, good);
    let (exit, all) = findings(f);
    assert!(with(&all, words).is_empty(), "the twin: {words}: {all:#?}");
    assert_eq!(exit, Some(0), "the twin: {all:#?}");
}

const X: &str = "[plugins.X]\nmodule = \"x\"\nallowed_methods = [\"m\"]\n";

/// A fixture with a Python plugin and an executable.
fn fixture(mode: Mode) -> Option<Fixture> {
    let f = Fixture::bare(mode)?;
    f.python("x", "class X:\n    def m(self): return 1\n    def n(self): return 2\n");
    for dir in ["data", "more"] {
        f.mkdir_writable(dir);
    }
    f.mkdir("data/sub");
    Some(f)
}

const E: &str = "[plugins.E]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\n";

#[rstest]
fn the_shipped_configuration_is_clean(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::shipped(mode, str::to_owned) else { return };
    let (exit, all) = findings(&f);
    let own: Vec<&Value> =
        all.iter().filter(|one| one["subject"] != "egress.pip" && one["subject"] != "run_as").collect();
    assert_eq!((exit, own.len()), (Some(0), 0), "{all:#?}");
    let text = f.upm(["check"]).run();
    assert!(text.stdout.contains(": 2 plugins, 15 methods, usable"), "{text:#?}");
    // The control: a method that the class lacks.
    let Some(f) = Fixture::shipped(mode, |text| text.replace("\"greet_async\"", "\"greet_asynk\"")) else { return };
    let (exit, all) = findings(&f);
    assert_eq!((exit, with(&all, "greet_asynk: HelloPlugin (").len()), (Some(1), 1), "{all:#?}");
}

#[rstest]
fn keys_that_another_table_replaces(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let of = |defaults: &str, plugin: &str, method: &str| {
        format!("[defaults]\n{defaults}\n{X}{plugin}\n[plugins.X.methods.m]\n{method}\n")
    };
    finds(
        &f,
        "warning",
        "defaults",
        "`timeout` has no effect: every allowed method, or its plugin",
        &of("timeout = \"1s\" #<-", "timeout = \"2s\"", "memory = \"1GiB\""),
        &of("timeout = \"1s\"", "", "memory = \"1GiB\""),
    );
    finds(
        &f,
        "warning",
        "X",
        "`memory` has no effect: every allowed method has its own",
        &of("", "memory = \"2GiB\" #<-", "memory = \"1GiB\""),
        &of("", "timeout = \"2s\"", "memory = \"1GiB\""),
    );
    finds(
        &f,
        "warning",
        "defaults",
        "`timeout` has no effect: no plugin allows a method",
        "[defaults]\ntimeout = \"1s\" #<-\n",
        &of("timeout = \"1s\"", "", "memory = \"1GiB\""),
    );
    finds(
        &f,
        "warning",
        "X.m",
        "the table is empty",
        &format!("{X}[plugins.X.methods.m] #<-\n"),
        &of("", "", "memory = \"1GiB\""),
    );
    finds(&f, "warning", "X", "allowed_methods is empty", "[plugins.X]\nmodule = \"x\"\nallowed_methods = [] #<-\n", X);
}

#[rstest]
fn keys_that_have_no_effect(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    for key in ["site = true", "interpreter = \"/usr/bin/python3\"", "fernet = true"] {
        let words = format!("`{}` has no effect: an executable", key.split(' ').next().unwrap());
        let python = if key.starts_with("fernet") { "site = true" } else { key };
        finds(&f, "warning", "E", &words, &format!("{E}{key} #<-\n"), &format!("{X}{python}\n"));
        finds(
            &f,
            "warning",
            "defaults",
            &words,
            &format!("[defaults]\n{key} #<-\n{E}"),
            &format!("[defaults]\n{key}\n{X}{E}"),
        );
    }
    finds(
        &f,
        "warning",
        "X",
        "env_pass: A has no effect",
        &format!("{X}env = {{ A = \"1\" }}\nenv_pass = [\"B\",\n\"A\"] #<-\n"),
        &format!("{X}env = {{ C = \"1\" }}\nenv_pass = [\"B\", \"A\"]\n"),
    );
    finds(
        &f,
        "warning",
        "X",
        "syscalls: read has no effect",
        &format!("{X}syscalls = [\"ptrace\",\n\"read\"] #<-\n"),
        &format!("{X}syscalls = [\"ptrace\"]\n"),
    );
    let group = "[egress.g]\nhosts = [\"*.example:443\"]\n";
    finds(
        &f,
        "warning",
        "X",
        "`egress_bytes` has no effect",
        &format!("{X}egress_bytes = \"1MiB\" #<-\n"),
        &format!("{group}{X}egress_bytes = \"1MiB\"\negress = [\"g\"]\n"),
    );
    let paths = format!("{X}read = [\"data\"]\nunix_sockets = true #<-\n");
    let none = format!("{X}unix_sockets = true #<-\n");
    finds(&f, "warning", "X", "`unix_sockets` has no effect: no path", &none, &paths.replace("#<-", ""));
    finds(&f, "note", "X", "unix_sockets: ", &paths, &paths.replace("true", "false").replace("#<-", ""));
    for own in ["localhost", "*.localhost", "sandbox"] {
        let granted = |host| format!("[egress.g]\nhosts = [\"{host}:8080\"] #<-\n{X}egress = [\"g\"]\n");
        finds(&f, "warning", "egress.g", "is the sandbox itself", &granted(own), &granted("sandbox.example"));
    }
    finds(
        &f,
        "warning",
        "configuration",
        "`projects` has no effect",
        &format!("projects = [\"/srv/*\"] #<-\n{X}read = [\"data\"]\n"),
        &format!("projects = [\"/srv/*\"]\n{X}read = [\"{{project_root}}\"]\n"),
    );
    finds(
        &f,
        "warning",
        "configuration",
        "nowhere does not exist",
        &format!("plugin_paths = [\"plugins\",\n\"nowhere\"] #<-\n{X}"),
        &format!("plugin_paths = [\"plugins\", \"more\"]\n{X}"),
    );
    finds(
        &f,
        "warning",
        "configuration",
        "plugins occurs twice",
        &format!("plugin_paths = [\"plugins\",\n\"./plugins\"] #<-\n{X}"),
        &format!("plugin_paths = [\"plugins\", \"more\"]\n{X}"),
    );
    // Parameters that the class does not accept.
    f.python("x", "class X:\n    def __init__(self, policy): pass\n    def m(self): return 1\n");
    finds(
        &f,
        "warning",
        "X",
        "`fernet` has no effect: X (",
        &format!("{X}policy = {{ a = 1 }}\nfernet = true #<-\n"),
        &format!("{X}policy = {{ a = 1 }}\n"),
    );
    f.python("y", "class Y:\n    def m(self): return 1\n");
    finds(
        &f,
        "warning",
        "Y",
        "`policy` has no effect: Y (",
        "[plugins.Y]\nmodule = \"y\"\nallowed_methods = [\"m\"]\npolicy = { a = 1 } #<-\n",
        &format!("{X}policy = {{ a = 1 }}\n"),
    );
}

#[rstest]
fn grants_that_contain_one_another(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let apart = format!("{X}read = [\"data\"]\nwrite = [\"more\"]\n");
    for key in ["read", "write"] {
        finds(
            &f,
            "warning",
            "X",
            "which is granted in line",
            &format!("{X}{key} = [\"data\",\n\"data/sub\"] #<-\n"),
            &apart,
        );
        finds(
            &f,
            "warning",
            "X",
            "occurs twice, in line",
            &format!("{X}{key} = [\"data\",\n\"data/.\"] #<-\n"),
            &apart,
        );
    }
    finds(
        &f,
        "warning",
        "X",
        "which wins: it can be written",
        &format!("{X}read = [\"data\"] #<-\nwrite = [\"data\"]\n"),
        &apart,
    );
    finds(
        &f,
        "note",
        "X",
        "is read-only there",
        &format!("{X}read = [\"data/sub\"] #<-\nwrite = [\"data\"]\n"),
        &format!("{X}read = [\"data\"]\nwrite = [\"data/sub\"]\n"),
    );
    // Once for each place, for any number of methods; it uses the grant that applies, not the table.
    written(&f, &format!("{}read = [\"data\", \"data/sub\"]\n", X.replace("[\"m\"]", "[\"m\", \"n\"]")));
    assert_eq!(with(&findings(&f).1, "which is granted in line").len(), 1);
    // A path between the two makes the inner one have an effect.
    f.mkdir("data/sub/deep");
    written(&f, &format!("{X}write = [\"data\", \"data/sub/deep\"]\nread = [\"data/sub\"]\n"));
    let (_, all) = findings(&f);
    assert!(with(&all, "which is granted in line").is_empty(), "{all:#?}");
}

/// `check` reports what happens in a call for grants that contain one another.
#[rstest]
fn read_below_write_is_read_only(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let grant = "read = [\"data/sub\", \"more\"]\nwrite = [\"data\", \"more\"]\n";
    let Some(f) = Fixture::probe(mode, grant) else { return };
    for dir in ["data", "more"] {
        f.mkdir_writable(dir);
    }
    f.mkdir("data/sub");
    let write = |below: &str| f.act("write", serde_json::json!([f.text(below), "x"]));
    common::assert_errno(&write("data/sub/file"), "EROFS");
    common::assert_ok(&write("data/file"));
    common::assert_ok(&write("more/file"));
}

#[rstest]
fn egress_groups(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let group = |text: &str| format!("[egress.g]\n{text}\n{X}egress = [\"g\"]\n");
    let wild = group("hosts = [\"*.example:443\"]");
    finds(
        &f,
        "warning",
        "egress.g",
        "*.example:443 is granted to no method",
        &format!("[egress.g]\nhosts = [\n\"*.example:443\", #<-\n]\n{X}"),
        &wild,
    );
    // The table that grants it is replaced everywhere: no method has it.
    finds(
        &f,
        "warning",
        "egress.g",
        "*.example:443 is granted to no method",
        &format!(
            "[egress.g]\nhosts = [\"*.example:443\"] #<-\n{X}egress = [\"g\"]\n[plugins.X.methods.m]\negress = []\n"
        ),
        &wild,
    );
    finds(
        &f,
        "warning",
        "egress.c",
        "no method is granted what the client is configured to use",
        &format!("[egress.c] #<-\nclient = \"pip\"\n{X}"),
        &wild,
    );
    finds(&f, "warning", "egress.g", "names no host", &group("hosts = [] #<-"), &wild);
    finds(
        &f,
        "warning",
        "egress.g",
        "a.example:443 has no effect: *.example:443 (line 2) covers it",
        &group("hosts = [\"*.example:443\",\n\"a.example:443\"] #<-").replace("a.example", "*.a.example"),
        &wild,
    );
    finds(
        &f,
        "warning",
        "egress.g",
        "`tls` has no effect",
        &group("hosts = [\"*.example:80\"]\ntls = false #<-"),
        &group("hosts = [\"*.example:80\", \"*.example:8080\"]\ntls = false"),
    );
    finds(
        &f,
        "warning",
        "egress.g",
        "`allow_private` has no effect",
        &group("hosts = [\"*.example:443\"]\nproxy = \"http://proxy.example:3128\"\nallow_private = true #<-"),
        &group("hosts = [\"*.example:443\"]\nallow_private = true"),
    );
    let two = "[egress.h]\nhosts = [\"*.other:443\"]\n";
    finds(
        &f,
        "warning",
        "X.m",
        "*.example:443 is in [egress.g] too",
        &format!(
            "[egress.g]\nhosts = [\"*.example:443\"]\n[egress.h]\nhosts = [\"*.example:443\"] #<-\n{X}egress = [\"g\", \"h\"]\n"
        ),
        &format!("[egress.g]\nhosts = [\"*.example:443\"]\n{two}{X}egress = [\"g\", \"h\"]\n"),
    );
}

#[rstest]
fn names_are_resolved(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        return skip("a file in the place of /etc/hosts needs root");
    }
    let Some(f) = fixture(mode) else { return };
    f.write("hosts", "127.0.0.1 localhost\n10.1.2.3 private.example\n198.51.100.7 public.example mixed.example\n10.1.2.3 mixed.example\n");
    let names = ["private.example", "public.example", "mixed.example", "gone.invalid"];
    let check = |keys: &str| {
        let hosts: String = names.iter().map(|name| format!("\"{name}:443\",\n")).collect();
        written(
            &f,
            &format!("[egress.g]\nhosts = [\n{hosts}\"*.private.example:443\"]\n{keys}\n{X}egress = [\"g\"]\n"),
        );
        let answer = f.upm(["check", "--json"]).hosts("hosts").run();
        let document: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"));
        assert_eq!(answer.exit, Some(0), "{document:#}");
        let all = document["findings"].as_array().unwrap().clone();
        let said = |name: &str, words: &str| {
            let found = with(&all, &format!("{name}:443: {words}"));
            assert!(found.iter().all(|one| one["severity"] == "warning" && one["subject"] == "egress.g"), "{all:#?}");
            found.first().map(|one| one["line"].as_u64().unwrap())
        };
        let refused = names.map(|name| said(name, "all of its addresses are refused: 10.1.2.3 is private"));
        (refused, names.map(|name| said(name, "does not resolve here")))
    };
    let unresolved = [None, None, None, Some(6)];
    assert_eq!(check(""), ([Some(3), None, None, None], unresolved));
    assert_eq!(check("allow_private = true"), ([None; 4], unresolved));
    // With a proxy, the proxy resolves the names.
    assert_eq!(check("proxy = \"http://127.0.0.1:9\""), ([None; 4], [None; 4]));
}

/// A resolver that does not answer delays `check` by at most five seconds for all names together.
#[rstest]
fn a_silent_resolver_is_not_waited_for(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        return skip("a file in the place of /etc/resolv.conf needs root");
    }
    let Some(f) = fixture(mode) else { return };
    // Not where systemd-resolved listens.
    let silent = (1..9).find_map(|n| std::net::UdpSocket::bind(format!("127.77.0.{n}:53")).ok());
    let Some(silent) = silent else { return skip("no port 53 of loopback is free") };
    let server = silent.local_addr().unwrap().ip();
    f.write("resolv.conf", format!("nameserver {server}\noptions timeout:30 attempts:2\n"));
    let hosts: String = (0..40).map(|n| format!("\"n{n}.example:443\",")).collect();
    written(&f, &format!("[egress.g]\nhosts = [{hosts}]\n{X}egress = [\"g\"]\n"));
    let mount = format!("mount --bind {} /etc/resolv.conf && exec \"$@\"", f.text("resolv.conf"));
    let answer = f.upm(["check", "--json"]).mounting_script(&mount).run();
    assert_eq!(answer.exit, Some(0), "{answer:#?}");
    let document: Value = serde_json::from_str(&answer.stdout).unwrap();
    let all = document["findings"].as_array().unwrap();
    assert_eq!(with(all, "no answer from the host's resolver within 5 s").len(), 40, "{document:#}");
    assert!(answer.took < Duration::from_secs(9), "{:?}", answer.took);
}

#[rstest]
fn clients_are_read_for_real(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !std::path::Path::new("/usr/bin/pip3").exists() {
        return skip("pip of /usr/bin/python3 is not installed");
    }
    let Some(f) = fixture(mode) else { return };
    f.mkdir("home/.config");
    f.mkdir("home/.config/pip");
    let tables = |mark: &str| format!("[egress.c]\nclient = \"pip\"{mark}\n{X}egress = [\"c\"]\n");
    // For root too: the file is the caller's. With XDG_CONFIG_HOME the one in HOME is not read, so both exist.
    let configure = |text: &str| {
        for dir in ["home/.config/pip", "home/config/pip"] {
            f.mkdir(dir);
            f.write(&format!("{dir}/pip.conf"), text);
        }
    };
    configure("[global]\nindex-url = gopher://index.example/\n");
    written(&f, &tables(" #<-"));
    let (exit, all) = findings(&f);
    let found = with(&all, "its configuration could not be read");
    assert_eq!((exit, found.len()), (Some(1), 1), "{all:#?}");
    assert_eq!((found[0]["severity"].as_str(), found[0]["line"].as_u64()), (Some("error"), Some(2)), "{all:#?}");
    configure("[global]\nindex-url = https://index.invalid/simple\n");
    let (exit, all) = findings(&f);
    assert_eq!(exit, Some(0), "{all:#?}");
    let found = with(&all, "index.invalid:443: does not resolve here");
    assert_eq!(found.len(), 1, "{all:#?}");
    assert_eq!(found[0]["line"].as_u64(), Some(2), "{all:#?}");
}

#[rstest]
fn modules_and_classes(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    f.mkdir("plugins/pkg");
    f.write("plugins/pkg/__init__.py", "");
    f.write("plugins/pkg/inner.py", "class X:\n    def m(self): pass\n");
    f.mkdir("plugins/bare");
    let plugin = |module: &str| format!("[plugins.X]\nmodule = \"{module}\" #<-\nallowed_methods = [\"m\"]\n");
    finds(&f, "error", "X", "neither nope/ nor nope.py", &plugin("nope"), &plugin("x"));
    finds(&f, "error", "X", "finds no such module", &plugin("pkg.nope"), &plugin("pkg.inner"));
    finds(&f, "error", "X", "is a directory without __init__.py", &plugin("bare"), &plugin("pkg.inner"));
    let class = |name: &str| format!("[plugins.{name}] #<-\nmodule = \"x\"\nallowed_methods = [\"m\"]\n");
    finds(&f, "error", "Y", "Y: no such class in ", &class("Y"), &class("X"));
    f.python("z", "def Z(): pass\nW = 1\nclass X:\n    def m(self): pass\n");
    for name in ["Z", "W"] {
        let table = format!("[plugins.{name}] #<-\nmodule = \"z\"\nallowed_methods = [\"m\"]\n");
        finds(&f, "error", name, &format!("{name}: is not a class in "), &table, &plugin("z"));
    }
    let method = |name: &str| format!("[plugins.X]\nmodule = \"x\"\nallowed_methods = [\"m\",\n\"{name}\"] #<-\n");
    finds(&f, "error", "X.o", "o: X (", &method("o"), &method("n"));
    f.python("x", "class X:\n    version = '1'\n    v = 1\n    @property\n    def p(self): pass\n    class C: pass\n    def m(self): pass\n");
    for (name, words) in [("v", "is a value"), ("p", "is a property"), ("C", "is a class, which cannot be called")] {
        finds(&f, "error", &format!("X.{name}"), words, &method(name), &method("version"));
    }
}

/// A call has the same errors: `check` reports only errors that a call would have.
#[rstest]
fn a_call_fails_where_check_says_so(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    for (source, class, method, code) in [
        ("X = 1\n", "X", "m", "class_not_found"),
        ("def X(): pass\n", "X", "m", "class_not_found"),
        ("class Y: pass\n", "X", "m", "class_not_found"),
        ("class X: pass\n", "X", "m", "method_not_found"),
        ("class X:\n    m = 1\n", "X", "m", "method_not_found"),
        ("class X:\n    class m: pass\n", "X", "m", "method_not_found"),
        ("class X:\n    @property\n    def m(self): return print\n", "X", "m", "method_not_found"),
        ("class X:\n    def __init__(self, a): pass\n    def m(self): pass\n", "X", "m", "plugin_raised"),
        ("class X:\n    def __init__(self, policy, /, **kw): pass\n    def m(self): pass\n", "X", "m", "plugin_raised"),
        ("class X:\n    def __init__(self, *, a): pass\n    def m(self): pass\n", "X", "m", "plugin_raised"),
        ("class X:\n    def m(self) return 1\n", "X", "m", "plugin_raised"),
    ] {
        f.python("x", source);
        written(&f, X);
        assert_eq!(findings(&f).0, Some(1), "{source}");
        let data = f.call(class, method, &serde_json::json!([])).data();
        assert_eq!(data["code"], code, "{source}: {data:#}");
    }
}

/// Unknown is not a finding, and such a call works.
#[rstest]
fn what_cannot_be_told_is_no_finding(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    f.python("other", "");
    f.mkdir("plugins/pkg");
    f.write("plugins/pkg/__init__.py", "from .real import X as X, Base as Base, bind as bind\n");
    f.write(
        "plugins/pkg/real.py",
        "class Base:\n    def m(self): return 1\nclass X(Base): pass\n\
         def bind(what): what.m = lambda *_: 1\n\
         class Field:\n    def __set_name__(self, owner, name): owner.m = lambda self: 1\n",
    );
    for source in [
        "from .real import *\n",
        "from .real import X\n",
        "from . import real\nX = real.X\n",
        "from . import Base\nclass X(Base): pass\n",
        "class A:\n    def m(self): return 1\nclass X(A): pass\n",
        "if True:\n    class X:\n        def m(self): return 1\n",
        "exec('class X:\\n def m(self): return 1')\n",
        "globals()['X'] = type('X', (), {'m': lambda self: 1})\n",
        "def __getattr__(name):\n    from .real import X\n    if name == 'X': return X\n    raise AttributeError(name)\n",
        "class X:\n    def __getattr__(self, name):\n        if name == 'm': return lambda: 1\n        raise AttributeError(name)\n",
        "class X:\n    def __init__(self): self.m = lambda: 1\n",
        "class X:\n    def __init__(self): setattr(self, 'm', lambda: 1)\n",
        "from .real import bind\nclass X: pass\nbind(X)\n",
        "from .real import bind\nclass X:\n    def __init__(self): bind(self)\n",
        "from .real import Field\nclass X:\n    field = Field()\n",
        "class M(type):\n    def __new__(m, name, bases, body):\n        body['m'] = lambda self: 1\n        return super().__new__(m, name, bases, body)\nclass X(metaclass=M): pass\n",
        "class X:\n    def __new__(cls, a=1):\n        return object.__new__(cls)\n    def __init__(self, a=1): pass\n    def m(self): return 1\n",
        "class X:\n    def __init__(self, policy, a=1, *, b=2, **rest): pass\n    async def m(self): return 1\n",
        "def deco(cls):\n    cls.m = lambda self: 1\n    return cls\n@deco\nclass X: pass\n",
    ] {
        f.write("plugins/pkg/inner.py", source);
        written(&f, &X.replace("\"x\"", "\"pkg.inner\""));
        let (exit, all) = findings(&f);
        let other: Vec<&Value> = all.iter().filter(|one| one["severity"] != "warning").collect();
        assert_eq!((exit, other.len()), (Some(0), 0), "{source}: {all:#?}");
        assert_eq!(f.upm(["X", "m"]).run().result(), 1, "{source}");
    }
}

#[rstest]
fn constructors_and_syntax_are_named_in_their_own_file(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    for (source, line, words) in [
        (
            "class X:\n    def m(self): pass\n    def __init__(self, policy, needed, a=1, *, more): pass\n",
            3,
            "requires needed, more",
        ),
        ("class X:\n    def m(self): pass\n    def n(self) pass\n", 3, "cannot read it"),
    ] {
        f.python("x", source);
        written(&f, X);
        let (exit, all) = findings(&f);
        let found = with(&all, words);
        assert_eq!((exit, found.len()), (Some(1), 1), "{all:#?}");
        assert_eq!(
            (found[0]["file"].as_str(), found[0]["line"].as_u64()),
            (Some(f.text("plugins/x.py").as_str()), Some(line))
        );
        f.python("x", "class X:\n    def m(self): pass\n    def __init__(self, policy, a=1): pass\n");
        assert_eq!(findings(&f).0, Some(0));
    }
}

/// The plugin's code does not run: neither its module nor its package. Its source stays data.
#[rstest]
fn nothing_of_the_plugin_runs(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let mark = format!("open({:?}, 'w').write('x')\n", f.text("data/ran"));
    f.mkdir("plugins/pkg");
    f.write("plugins/pkg/__init__.py", &mark);
    f.write("plugins/pkg/inner.py", format!("{mark}class X:\n    def m(self): return 1\n"));
    written(&f, &format!("{}write = [\"data\"]\n", X.replace("\"x\"", "\"pkg.inner\"")));
    assert_eq!(findings(&f).0, Some(0));
    assert!(!f.path("data/ran").exists());
    assert_eq!(f.upm(["X", "m"]).run().result(), 1);
    assert!(f.path("data/ran").exists(), "the control: a call runs it");
    // A source that breaks the parser still gives an answer.
    for source in [
        format!("x = {}0{}\n", "(".repeat(5000), ")".repeat(5000)),
        "-".repeat(2_000_000) + "1",
        format!("class X:\n  def m(self): '\u{1b}[2J'\nx = {}", "9".repeat(9000)),
    ] {
        f.write("plugins/pkg/inner.py", source);
        let answer = f.upm(["check"]).run();
        assert!(answer.exit.is_some_and(|exit| [0, 1, 125].contains(&exit)), "{answer:#?}");
        assert!(!answer.stdout.contains('\u{1b}'), "{answer:#?}");
    }
    f.assert_clean();
}

#[rstest]
fn interpreters(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let plugin = |interpreter: &str| format!("{X}interpreter = \"{interpreter}\" #<-\n");
    let good = plugin("/usr/bin/python3");
    finds(&f, "error", "X", "interpreter: No such file", &plugin("/usr/bin/python-nope"), &good);
    finds(&f, "error", "X", "runs no plugin", &plugin("/usr/bin/true"), &good);
    // One that reports an old version.
    f.mkdir("old");
    f.mkdir("old/bin");
    let old = |version: &str| {
        let source = format!(
            "#!/usr/bin/python3 -I\nimport os, json\nos.read(3, 1 << 20)\nos.write(3, json.dumps({{'type': 'result', 'result': \
             {{'python': {version}, 'module': 'source', 'class': 'there'}}, 'plugin_version': None}}).encode() + b'\\n')\n"
        );
        f.write("old/bin/python3", source);
        fs::set_permissions(f.path("old/bin/python3"), fs::Permissions::from_mode(0o755)).unwrap();
    };
    old("[3, 7, 9]");
    finds(&f, "error", "X", "is Python 3.7.9, which is too old", &plugin("old/bin/python3"), &good);
    old("[3, 8, 0]");
    written(&f, &plugin("old/bin/python3"));
    assert_eq!(findings(&f).0, Some(0), "the twin: {:#?}", findings(&f).1);
    // One that sends an invalid response.
    old("'x'");
    written(&f, &plugin("old/bin/python3"));
    let (exit, all) = findings(&f);
    assert_eq!((exit, with(&all, "the class reader sent an invalid response").len()), (Some(1), 1), "{all:#?}");
    // Others can write to it.
    fs::set_permissions(f.path("old/bin/python3"), fs::Permissions::from_mode(0o777)).unwrap();
    finds(&f, "error", "X", "chmod go-w", &plugin("old/bin/python3"), &good);
}

#[rstest]
fn executables(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let plugin =
        |exec: &str, keys: &str| format!("[plugins.E]\nexec = \"{exec}\" #<-\nallowed_methods = [\"run\"]\n{keys}");
    let good = plugin("plugins/upm-probe", "");
    let script = |name: &str, source: &str, mode: u32| {
        let path = f.write(name, source);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    finds(&f, "error", "E", "No such file", &plugin("nope", ""), &good);
    f.mkdir("dir");
    finds(&f, "error", "E", "is not a regular file", &plugin("dir", ""), &good);
    script("plain", "#!/bin/sh\n", 0o644);
    finds(&f, "error", "E", "is not executable; fix it with: chmod +x", &plugin("plain", ""), &good);
    script("lost", "#! /opt/nope/sh -e\n", 0o755);
    finds(&f, "error", "E", "its interpreter (#!) \"/opt/nope/sh\" does not exist", &plugin("lost", ""), &good);
    f.mkdir("own");
    fs::copy("/bin/true", f.path("own/sh")).unwrap();
    script("outside", &format!("#!{}\n", f.text("own/sh")), 0o755);
    finds(
        &f,
        "error",
        "E",
        "is not in the call's root",
        &plugin("outside", ""),
        &plugin("outside", "read = [\"own\"]\n"),
    );
    script("fine", "#!/usr/bin/env python3\n", 0o755);
    finds(&f, "error", "E", "is not executable", &plugin("plain", ""), &plugin("fine", ""));
    symlink("fine", f.path("link")).unwrap();
    finds(&f, "error", "E", "the path contains a symbolic link", &plugin("link", ""), &plugin("fine", ""));
    // A call has the same error.
    for name in ["plain", "lost", "outside", "link"] {
        written(&f, &plugin(name, ""));
        assert_ne!(f.upm(["E", "run"]).run().exit, Some(0), "{name}");
    }
    if mode == Mode::Root && common::is_root() {
        script("mine", "#!/bin/sh\n", 0o700);
        finds(&f, "error", "E", "may not be run by the plugin's user", &plugin("mine", ""), &plugin("fine", ""));
    }
}

#[rstest]
fn granted_paths(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    symlink("data", f.path("link")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(f.path("data/socket")).unwrap();
    for key in ["read", "write"] {
        let grant = |path: &str| format!("{X}{key} = [\"more\",\n\"{path}\"] #<-\n");
        for (path, words) in [
            ("gone", "does not exist"),
            ("link/sub", "the path contains a symbolic link"),
            ("data/socket", "only directories and regular files"),
            ("{project_root}/below", "does not exist"),
        ] {
            finds(&f, "error", "X", words, &grant(path), &grant("data"));
            // A call refuses it too.
            written(&f, &grant(path));
            assert_eq!(f.upm(["X", "m"]).run().exit, Some(125), "{key} {path}");
        }
        // Directories that a call creates need not exist.
        fs::remove_dir(f.path("project")).unwrap();
        written(&f, &grant("{project_root}"));
        let (exit, all) = findings(&f);
        assert_eq!((exit, with(&all, "does not exist").len()), (Some(0), 0), "{all:#?}");
        assert!(!f.path("project").exists(), "check creates nothing");
        f.mkdir_writable("project");
    }
}

#[rstest]
fn schemas(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    f.mkdir("s");
    let with_schemas = "[plugins.X]\nmodule = \"x\"\nallowed_methods = [\"m\"]\nschemas = \"s\"\n";
    f.write("s/m.json", "{}");
    finds(
        &f,
        "warning",
        "X",
        "no `schemas`",
        "[plugins.X] #<-\nmodule = \"x\"\nallowed_methods = [\"m\"]\n",
        with_schemas,
    );
    finds(
        &f,
        "warning",
        "X.n",
        "no n.json in ",
        "[plugins.X]\nmodule = \"x\"\nschemas = \"s\"\nallowed_methods = [\"m\",\n\"n\"] #<-\n",
        with_schemas,
    );
    let marked = with_schemas.replace("\"s\"\n", "\"s\" #<-\n");
    finds(&f, "error", "X.m", "does not exist", &marked.replace("\"s\"", "\"nope\""), with_schemas);
    f.write("s/idle.json", "{}");
    written(&f, &marked);
    let found = |words: &str| {
        let (exit, all) = findings(&f);
        let found = with(&all, words);
        assert!(found.len() < 2, "{all:#?}");
        found
            .first()
            .map(|one| (exit.unwrap(), one["severity"].as_str().unwrap().to_owned(), one["line"].as_u64().unwrap()))
    };
    assert_eq!(found("idle.json: has no effect"), Some((0, "warning".to_owned(), 4)));
    f.write("s/m.json", "{\"$ref\": \"idle.json\"}");
    assert_eq!(found("idle.json: has no effect"), None, "a schema refers to it");
    for (schema, words) in [
        ("{\"type\": 5}", "not a JSON Schema"),
        ("{\"$ref\": \"../x.json\"}", "leaves the schema folder"),
        ("{\"$ref\": \"https://schemas.example/x.json\"}", "leaves the schema folder"),
        ("{\"pattern\": \"(\"}", "regex"),
    ] {
        f.write("s/m.json", schema);
        assert_eq!(found(words), Some((1, "error".to_owned(), 4)), "{schema}");
        assert_eq!(f.upm(["X", "m"]).run().exit, Some(125), "a call has the same error: {schema}");
    }
    // An error in the file is reported with its line there.
    f.write("s/m.json", "{\n\"a\": 1,\n\"a\": 2}");
    let (exit, all) = findings(&f);
    let twice = with(&all, "occurs twice");
    assert_eq!((exit, twice.len(), twice[0]["line"].as_u64()), (Some(1), 1, Some(3)), "{all:#?}");
    assert_eq!(twice[0]["file"], f.text("s/m.json"));
    f.write("s/m.json", "{}");
    fs::remove_file(f.path("s/idle.json")).unwrap();
    let (exit, mut all) = findings(&f);
    all.retain(|one| one["subject"] != "run_as");
    assert_eq!((exit, all.len()), (Some(0), 0), "{all:#?}");
}

#[rstest]
fn audit_sinks(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    let check = || {
        f.write(
            "upm_config.toml",
            format!("[audit]\njournald = \"off\"\nfile = \"{}\"\n{X}", f.text("audit/audit.jsonl")),
        );
        let (exit, all) = findings(&f);
        (exit, all.iter().find(|one| one["message"].as_str().unwrap().contains(":3: audit: ")).cloned())
    };
    assert_eq!(check(), (Some(0), None));
    assert!(!f.path("audit/audit.jsonl").exists(), "check creates nothing");
    f.mkdir("audit/audit.jsonl");
    let (exit, found) = check();
    assert_eq!((exit, found.is_some()), (Some(1), true));
    fs::remove_dir(f.path("audit/audit.jsonl")).unwrap();
    fs::set_permissions(f.path("audit"), fs::Permissions::from_mode(0o777)).unwrap();
    let (exit, found) = check();
    assert_eq!(exit, Some(1));
    assert!(found.unwrap()["message"].as_str().unwrap().contains("chmod"));
    fs::remove_dir_all(f.path("audit")).unwrap();
    assert_eq!(check(), (Some(0), None), "a call creates the directory");
    if !std::path::Path::new("/run/systemd/journal/socket").exists() {
        f.write("upm_config.toml", format!("[audit]\njournald = \"required\"\n{X}"));
        let (exit, all) = findings(&f);
        assert_eq!((exit, with(&all, ":2: audit: journald").len()), (Some(1), 1), "{all:#?}");
    }
}

#[rstest]
fn what_the_kernel_lacks(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    finds(
        &f,
        "error",
        "X",
        "landlock: this kernel has ABI",
        &format!("{X}landlock_min_abi = 99 #<-\n"),
        &format!("{X}landlock_min_abi = 2\n"),
    );
    if mode == Mode::Root && common::is_root() {
        finds(
            &f,
            "error",
            "X",
            "run_as: nobody-at-all: no such user",
            &format!("{X}run_as = \"nobody-at-all\" #<-\n"),
            &format!("{X}run_as = 12345\n"),
        );
    }
    // Without a sandbox, nothing is known about the class, and this is reported.
    if common::is_root() {
        written(&f, X);
        assert_eq!(findings(&f).0, Some(0), "the control");
        let masked = "mount -t tmpfs none /proc/irq && exec \"$@\"";
        let answer = f.upm(["check", "--json"]).mounting_script(masked).run();
        let document: Value = serde_json::from_str(&answer.stdout).unwrap_or_else(|e| panic!("{e}: {answer:#?}"));
        assert_eq!((answer.exit, &document["ok"]), (Some(125), &Value::Bool(false)), "{document:#}");
        let all = document["findings"].as_array().unwrap();
        let unknown: Vec<&Value> = all.iter().filter(|one| one["severity"] == "unknown").collect();
        assert_eq!((unknown.len(), unknown[0]["subject"].as_str()), (1, Some("X")), "{document:#}");
    }
}

/// Names from the configuration and from other files are escaped.
#[rstest]
fn hostile_names_are_escaped(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    f.mkdir("s");
    f.write("s/m.json", "{}");
    f.write("s/\u{1b}[2J\u{202e}.json", "{}");
    f.write("s/m2\n.json", "{}");
    f.python("x", "class X:\n    def __init__(self, a\u{2fa1}): pass\n    def m(self): pass\n");
    written(&f, &format!("{X}schemas = \"s\"\n"));
    let answer = f.upm(["check"]).run();
    assert!(!answer.stdout.contains(['\u{1b}', '\u{202e}']), "{:?}", answer.stdout);
    assert!(answer.stdout.contains("[2J"), "{:?}", answer.stdout);
    assert_eq!(answer.stdout.lines().filter(|line| line.starts_with("warning: X: ")).count(), 2, "{}", answer.stdout);
}

#[rstest]
fn a_configuration_that_cannot_be_read_is_told_as_such(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = fixture(mode) else { return };
    f.write("upm_config.toml", "[plugins.X]\nnope = 1\n");
    let answer = f.upm(["check", "--json"]).run();
    assert_eq!((answer.exit, answer.stdout.as_str()), (Some(125), ""));
    assert!(answer.stderr.contains("upm_config.toml:2:1: "), "{answer:#?}");
}

/// The overflow user is shared with other services: `check` warns about it once.
#[test]
fn the_shared_user_is_warned_of() {
    let Some(f) = Fixture::probe(Mode::Root, "") else { return };
    let warnings = |run_as: &str| -> usize {
        f.config(&format!("{}{run_as}\n", common::PROBE));
        let checked: Value = serde_json::from_str(&f.upm(["check", "--json"]).run().stdout).unwrap();
        let all = checked["findings"].as_array().unwrap().iter();
        let explained = f.upm(["explain", "Probe", "run"]).run().stdout;
        let found =
            all.filter(|one| one["severity"] == "warning" && one["message"].as_str().unwrap().contains("65534"));
        let found = found.count();
        assert_eq!(explained.contains("user 65534 is \"nobody\""), found > 0, "{explained}");
        found
    };
    assert_eq!((warnings("run_as = \"65534\""), warnings("run_as = \"12345\"")), (1, 0));
    // without the key it depends on whether the packages have created their user
    let made = nix::unistd::User::from_name("upm").unwrap().is_some();
    assert_eq!(warnings(""), usize::from(!made));
    let doctor = f.upm(["doctor"]).run().stdout;
    assert_eq!(doctor.contains("user 65534 is \"nobody\""), !made, "{doctor}");
}
