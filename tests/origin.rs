//! What the documents that the product started from ask of the suite: sync and async calls, introspection and version
//! metadata, all error conditions, output capture and the JSON contract, the log's content and its request ids.

mod common;

use common::{Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};

const PLUGIN: &str = r#"
import asyncio

class PipPlugin:
    def __init__(self, project_root=None, cache_dir=None, policy=None, fernet_lib=None):
        self.given = {"project_root": str(project_root), "cache_dir": str(cache_dir), "policy": policy, "fernet_lib": fernet_lib}

    version = "1.0.0"

    def install(self, package, upgrade=False):
        print("Install completed")
        return {"status": "installed", "package": package}

    async def install_async(self, package):
        await asyncio.sleep(0.01)
        return {"status": "installed", "package": package}

    def info(self): return {"name": "pip"}

    @property
    def meta(self): return {"author": "x"}

    def __introspect__(self): return {"methods": ["install"]}

    def init(self): return self.given

    def fail(self): raise RuntimeError("uncaught")
"#;

const TABLES: &str = r#"
[plugins.PipPlugin]
module = "pip_plugin"
allowed_methods = ["install", "install_async", "version", "info", "meta", "__introspect__", "init", "fail", "gone"]
policy = { strict = true }

[plugins.Minimal]
module = "minimal"
allowed_methods = ["hello", "init"]

[plugins.Everything]
module = "minimal"
allowed_methods = ["init"]
"#;

const MINIMAL: &str = r#"
class Minimal:
    def hello(self): return "hi"

class Everything:
    def __init__(self, **kwargs): self.kwargs = kwargs
    def init(self): return sorted(self.kwargs)
"#;

fn f(mode: Mode) -> Option<Fixture> {
    let f = Fixture::new(mode, TABLES)?;
    f.python("pip_plugin", PLUGIN);
    f.python("minimal", MINIMAL);
    Some(f)
}

/// The quick start, word for word but for the program's name.
#[rstest]
fn the_quick_start(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let envelope = f.upm(["PipPlugin", "install", r#"{"args":["requests"],"kwargs":{}}"#]).run().envelope();
    assert_eq!(envelope["success"], true);
    assert_eq!(envelope["status"], "ok");
    assert_eq!(envelope["data"]["result"], json!({"status": "installed", "package": "requests"}));
    assert_eq!(envelope["data"]["output"], json!({"stdout": "Install completed\n", "stderr": ""}));
    assert_eq!(envelope["data"]["plugin_version"], "1.0.0");
    for key in ["timestamp", "hostname", "pid", "request_id"] {
        assert!(!envelope[key].is_null(), "{key}");
    }
}

#[rstest]
fn sync_and_async(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    for method in ["install", "install_async"] {
        assert_eq!(f.call("PipPlugin", method, &json!(["flask"])).result()["package"], "flask");
    }
    let kwargs = f.upm(["PipPlugin", "install", r#"{"kwargs":{"package":"flask","upgrade":true}}"#]).run();
    assert_eq!(kwargs.result()["package"], "flask");
}

#[rstest]
fn introspection(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    for (method, value) in [
        ("version", json!("1.0.0")),
        ("info", json!({"name": "pip"})),
        ("meta", json!({"author": "x"})),
        ("__introspect__", json!({"methods": ["install"]})),
    ] {
        assert_eq!(f.call("PipPlugin", method, &json!([])).result(), value, "{method}");
    }
}

#[rstest]
fn construction(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let given = f.call("PipPlugin", "init", &json!([])).result();
    assert_eq!(given["project_root"], f.text("project"));
    assert_eq!(given["cache_dir"], f.text("cache/PipPlugin"));
    assert_eq!(given["policy"], json!({"strict": true}));
    assert_eq!(given["fernet_lib"], Value::Null);
    assert_eq!(f.call("Minimal", "hello", &json!([])).result(), "hi");
    assert_eq!(
        f.call("Everything", "init", &json!([])).result(),
        json!(["cache_dir", "fernet_lib", "policy", "project_root"])
    );
}

#[rstest]
#[case::bad_arguments(&["PipPlugin", "install", "{"], "arguments_invalid", 2)]
#[case::plugin_not_whitelisted(&["OtherPlugin", "install", "{}"], "plugin_not_allowed", 126)]
#[case::method_not_whitelisted(&["PipPlugin", "uninstall", "{}"], "method_not_allowed", 126)]
#[case::method_not_found(&["PipPlugin", "gone", "{}"], "method_not_found", 127)]
#[case::uncaught(&["PipPlugin", "fail", "{}"], "plugin_raised", 1)]
#[case::wrong_arguments(&["PipPlugin", "install", "{}"], "plugin_raised", 1)]
#[case::usage(&["PipPlugin"], "usage", 2)]
fn errors(#[case] args: &[&str], #[case] code: &str, #[case] exit: i32, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let data = f.upm(args.iter().copied()).run().failed(code, exit);
    assert!(!data["error"].as_str().unwrap().is_empty());
    if code == "plugin_raised" {
        assert!(data["traceback"].is_string(), "{data:#}");
    }
}

/// Log content and traceability: the request id of the answer is the one in the log.
#[rstest]
fn the_log_has_the_request_id(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = f(mode) else { return };
    let id = f.call("PipPlugin", "install", &json!(["x"])).envelope()["request_id"].clone();
    let records = f.audit();
    assert_eq!(records.len(), 2, "{records:#?}");
    for record in records {
        assert_eq!(record["UPM_REQUEST_ID"], id);
        let keys: Vec<&String> = record.as_object().unwrap().keys().collect();
        for wanted in ["timestamp", "hostname", "pid"] {
            assert!(keys.iter().any(|key| key.eq_ignore_ascii_case(wanted)), "{wanted}: {keys:?}");
        }
    }
}
