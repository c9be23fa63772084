//! One JSON document for every end, each with its code and exit status.

mod common;

use common::{Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;

const PLUGIN: &str = r#"
import os, sys

class Plug:
    version = "2.1.0"

    def fine(self): return {"b": 1, "a": [None, True, 1.5, "ä"]}
    def raises(self): raise ValueError("the reason")
    def exits(self): sys.exit(4)
    def ends(self): os._exit(5)
    def unserializable(self): return object()
    def nan(self): return float("nan")
    def circle(self):
        a = []
        a.append(a)
        return a
    def surrogate(self): return "\ud800"
    def large(self): return "x" * (2 << 20)
    def prints(self):
        print("to stdout")
        print("to stderr", file=sys.stderr)
        os.write(1, b"raw\n")
        return 1
    def interrupts(self): raise KeyboardInterrupt
    def recursion(self): return self.recursion()
    def bad_message(self):
        class Worse(Exception):
            def __str__(self): raise RuntimeError("no text either")
        raise Worse()
    def not_there_after_all(self): pass
"#;

const TABLES: &str = r#"
[plugins.Plug]
module = "plug"
allowed_methods = ["fine", "raises", "exits", "ends", "unserializable", "nan", "circle", "surrogate", "large", "prints",
    "interrupts", "recursion", "bad_message", "missing", "version"]
result = "1MiB"

[plugins.NoModule]
module = "nothing_here"
allowed_methods = ["fine"]

[plugins.NoClass]
module = "plug"
allowed_methods = ["fine"]

[plugins.NoExec]
exec = "plugins/nothing"
allowed_methods = ["fine"]

[plugins.Broken]
module = "broken"
allowed_methods = ["fine"]
"#;

fn f(mode: Mode) -> Option<Fixture> {
    let f = Fixture::new(mode, TABLES)?;
    f.python("plug", PLUGIN);
    f.python("broken", "this is no python\n");
    Some(f)
}

#[rstest]
#[case("Plug", "raises", "plugin_raised", 1)]
#[case("Plug", "interrupts", "plugin_raised", 1)]
#[case("Plug", "recursion", "plugin_raised", 1)]
#[case("Plug", "bad_message", "plugin_raised", 1)]
#[case("Plug", "ends", "plugin_exited", 1)]
#[case("Plug", "unserializable", "result_not_serializable", 1)]
#[case("Plug", "nan", "result_not_serializable", 1)]
#[case("Plug", "circle", "result_not_serializable", 1)]
#[case("Plug", "large", "result_too_large", 1)]
#[case("Plug", "missing", "method_not_found", 127)]
#[case("Plug", "not_allowed", "method_not_allowed", 126)]
#[case("NoModule", "fine", "module_not_found", 127)]
#[case("NoExec", "fine", "module_not_found", 127)]
#[case("NoClass", "fine", "class_not_found", 127)]
#[case("Broken", "fine", "plugin_raised", 1)]
#[case("Nobody", "fine", "plugin_not_allowed", 126)]
fn every_code_has_its_exit(
    #[case] plugin: &str,
    #[case] method: &str,
    #[case] code: &str,
    #[case] exit: i32,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = f(mode) else { return };
    f.call(plugin, method, &json!([])).failed(code, exit);
    f.assert_clean();
}

#[rstest]
fn success_is_as_documented(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let answer = f.call("Plug", "fine", &json!([]));
    let envelope = answer.envelope();
    assert_eq!((envelope["success"].as_bool(), envelope["status"].as_str()), (Some(true), Some("ok")));
    assert_eq!(envelope["data"]["result"], json!({"b": 1, "a": [null, true, 1.5, "ä"]}));
    assert!(answer.stdout.contains(r#""result":{"b":1,"a""#), "members in the plugin's order: {}", answer.stdout);
    assert_eq!(envelope["data"]["plugin_version"], "2.1.0");
    assert_eq!(envelope["hostname"], json!(nix::unistd::gethostname().unwrap().to_string_lossy()));
    assert_eq!(answer.stdout.lines().count(), 1, "one line when it is no terminal");
    assert_eq!(answer.stderr, "");
}

#[rstest]
fn output_is_captured(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let output = f.call("Plug", "prints", &json!([])).data()["output"].clone();
    assert_eq!(output, json!({"stdout": "to stdout\nraw\n", "stderr": "to stderr\n"}));
}

#[rstest]
fn an_exception_has_its_traceback(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let data = f.call("Plug", "raises", &json!([])).failed("plugin_raised", 1);
    let traceback = data["traceback"].as_str().unwrap();
    assert!(traceback.contains("ValueError: the reason") && traceback.contains("plug.py"), "{traceback}");
    assert!(!traceback.contains("runner"), "without the runner's own frames: {traceback}");
    assert!(data["error"].as_str().unwrap().contains("the reason"), "{data:#}");
    for part in ["output", "usage", "denials", "egress", "sandbox"] {
        assert!(data.get(part).is_some(), "{part}: {data:#}");
    }
}

/// `sys.exit` is never a success: it is an exception of the method or an end without a frame.
#[rstest]
fn leaving_is_no_success(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let answer = f.call("Plug", "exits", &json!([]));
    let code = answer.data()["code"].as_str().unwrap().to_owned();
    assert!(["plugin_exited", "plugin_raised"].contains(&code.as_str()), "{:#}", answer.data());
    assert_eq!(answer.exit, Some(1));
}

#[rstest]
fn a_request_id_is_the_callers_or_a_new_one(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let id = "cdb3458d-0b84-491a-9c4e-709f30e11111";
    let given = f.upm(["Plug", "fine", "--request-id", id]).run().envelope();
    assert_eq!(given["request_id"], id);
    let (one, two) = (f.upm(["Plug", "fine"]).run().envelope(), f.upm(["Plug", "fine"]).run().envelope());
    assert_ne!(one["request_id"], two["request_id"]);
    assert_eq!(&one["request_id"].as_str().unwrap()[14..15], "7", "UUIDv7");
    for bad in
        ["", "x", "../../etc/passwd", "cdb3458d-0b84-491a-9c4e-709f30e1111", "cdb3458d-0b84-491a-9c4e-709f30e11111\n"]
    {
        f.upm(["Plug", "fine", "--request-id", bad]).run().failed("usage", 2);
    }
}

#[rstest]
fn an_incomplete_call_answers_usage(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    for args in [
        vec![],
        vec!["Plug"],
        vec!["Plug", "fine", "{}", "more"],
        vec!["--nope"],
        vec!["Plug", "fine", "--timeout", "soon"],
    ] {
        let shown = format!("{args:?}");
        let data = f.upm(args).run().failed("usage", 2);
        if shown == "[]" || shown == "[\"Plug\"]" {
            assert!(
                data["error"].as_str().unwrap().starts_with("Usage: upm <Plugin> <method> [json-args]"),
                "{shown}: {data:#}"
            );
        }
    }
}

/// A config that can't be read still answers in the one form, and `data.sandbox` is there only once a plugin ran.
#[rstest]
fn before_a_plugin_is_started_there_is_no_sandbox(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let data = f.call("Nobody", "fine", &json!([])).data();
    assert!(data.get("sandbox").is_none() && data.get("output").is_none(), "{data:#}");
    fs::write(f.path("upm_config.toml"), "not toml").unwrap();
    f.call("Plug", "fine", &json!([])).failed("config_invalid", 125);
}

#[rstest]
fn the_sandbox_is_told_as_asked_and_as_read_back(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let sandbox = f.call("Plug", "fine", &json!([])).data()["sandbox"].clone();
    let text = sandbox.to_string();
    for word in ["namespaces", "root", "landlock", "seccomp", "capabilities", "no_new_privs", "limits", "egress"] {
        assert!(text.contains(word), "{word}: {sandbox:#}");
    }
    assert!(text.contains("sha256"), "{sandbox:#}");
    let again = f.call("Plug", "fine", &json!([])).data()["sandbox"]["plan_sha256"].clone();
    assert!(again.is_string());
    assert_eq!(sandbox["plan_sha256"], again, "the same grant has the same plan");
}

#[rstest]
fn the_version_is_a_method_too(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    assert_eq!(f.call("Plug", "version", &json!([])).result(), "2.1.0");
}

#[rstest]
fn a_lone_surrogate_never_breaks_the_document(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let answer = f.call("Plug", "surrogate", &json!([]));
    answer.envelope();
    let code = answer.data()["code"].clone();
    assert!(
        answer.exit == Some(0) || code == "result_not_serializable" || code == "protocol_violation",
        "{:#}",
        answer.data()
    );
}

#[rstest]
fn two_documents_are_never_written(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    for args in [vec!["Plug", "fine"], vec!["Plug", "raises"], vec!["Nobody", "x"], vec![]] {
        let stdout = f.upm(args).run().stdout;
        let mut documents = serde_json::Deserializer::from_str(&stdout).into_iter::<Value>();
        assert!(documents.next().unwrap().is_ok());
        assert!(documents.next().is_none(), "{stdout}");
    }
}
