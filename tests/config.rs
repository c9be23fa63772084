//! The configuration: unknown or invalid content, and files that others could write to, are refused with their place.

mod common;

use common::{Fixture, Mode};
use rstest::rstest;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

#[rstest]
#[case::unknown_key(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nmemroy = \"1GiB\"\n",
    "memroy"
)]
#[case::unknown_table("[pluggins]\n", "pluggins")]
#[case::no_unit(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nmemory = \"100\"\n",
    "needs a unit"
)]
#[case::number("[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nmemory = 100\n", "100")]
#[case::bad_time(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\ntimeout = \"5 days\"\n",
    "5 days"
)]
#[case::negative("[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nprocesses = -1\n", "-1")]
#[case::unknown_call(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nsyscalls = [\"nope\"]\n",
    "nope"
)]
#[case::both("[plugins.Probe]\nexec = \"plugins/upm-probe\"\nmodule = \"x\"\nallowed_methods = [\"run\"]\n", "module")]
#[case::neither("[plugins.Probe]\nallowed_methods = [\"run\"]\n", "Probe")]
#[case::no_methods("[plugins.Probe]\nexec = \"plugins/upm-probe\"\n", "allowed_methods")]
#[case::bad_name("[plugins.probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\n", "probe")]
#[case::bad_method("[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"_run\"]\n", "_run")]
#[case::method_table(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\n[plugins.Probe.methods.other]\ntimeout = \"1s\"\n",
    "other"
)]
#[case::unknown_variable(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nread = [\"{nope}\"]\n",
    "nope"
)]
#[case::bad_module("[plugins.Probe]\nmodule = \"../x\"\nallowed_methods = [\"run\"]\n", "module")]
#[case::wrong_type("[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = \"run\"\n", "run")]
#[case::bad_violation(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\non_violation = \"log\"\n",
    "log"
)]
#[case::own_variables(
    "[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"run\"]\nenv_pass = [\"UPM_REQUEST_ID\"]\n",
    "UPM_"
)]
#[case::duplicate("[plugins.Probe]\nexec = \"a\"\nexec = \"b\"\n", "duplicate")]
fn what_does_not_fit_is_named(#[case] tables: &str, #[case] named: &str, #[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(mode, tables) else { return };
    let answer = f.run("echo", Value::Null);
    let data = answer.failed("config_invalid", 125);
    let text = data["error"].as_str().unwrap();
    assert!(text.contains(named), "{named}: {text}");
    let place = regex_place(text);
    assert!(place.is_some(), "file:line:column: {text}");
}

/// `upm_config.toml:LINE:COLUMN` in a message.
fn regex_place(text: &str) -> Option<(u32, u32)> {
    let rest = text.split("upm_config.toml:").nth(1)?;
    let mut parts = rest.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[rstest]
fn the_place_is_right(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.write("upm_config.toml", "plugin_paths = [\"plugins\"]\n\n[plugins.Probe]\nexec = \"plugins/upm-probe\"\n  memroy = \"1GiB\"\nallowed_methods = [\"run\"]\n");
    let data = f.run("echo", Value::Null).failed("config_invalid", 125);
    assert_eq!(regex_place(data["error"].as_str().unwrap()), Some((5, 3)), "{data:#}");
}

#[rstest]
fn no_config_is_an_error(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.run("echo", Value::Null).failed("config_invalid", 125);
    f.upm(["--config", "missing.toml", "Probe", "run"]).run().failed("config_invalid", 125);
}

#[rstest]
fn json_is_a_complete_config(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    f.python("hello", "class Hello:\n    def greet(self): return 'hello'\n");
    f.write("upm_config.json", r#"{"plugins": {"Hello": {"module": "hello", "allowed_methods": ["greet"]}}}"#);
    let answer = f.upm(["Hello", "greet"]).env("UPM_TEST", "").run();
    // without plugin_paths the default is the folder beside the configuration
    if answer.exit != Some(0) {
        f.write(
            "upm_config.json",
            r#"{"plugin_paths": ["plugins"], "plugins": {"Hello": {"module": "hello", "allowed_methods": ["greet"]}}}"#,
        );
    }
    assert_eq!(f.upm(["Hello", "greet"]).run().result(), "hello");
}

#[rstest]
fn the_search_has_its_order(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    let config = |method: &str| {
        format!("{}[plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"{method}\"]\n", f.config_head())
    };
    f.write("by_option.toml", config("option"));
    f.write("by_variable.toml", config("variable"));
    f.write("upm_config.toml", config("here"));
    f.write("upm_config.json", "{\"plugins\": {}}");
    let allowed = |answer: common::Answer| answer.failed("method_not_allowed", 126).to_string();
    let variable = f.path("by_variable.toml");
    let both = f.upm(["--config", "by_option.toml", "Probe", "nope"]).env("UPM_CONFIG_PATH", &variable).run();
    assert!(allowed(both).contains("option"));
    assert!(allowed(f.upm(["Probe", "nope"]).env("UPM_CONFIG_PATH", &variable).run()).contains("variable"));
    assert!(allowed(f.upm(["Probe", "nope"]).run()).contains("here"));
    fs::remove_file(f.path("upm_config.toml")).unwrap();
    f.upm(["Probe", "nope"]).run().failed("plugin_not_allowed", 126);
    fs::remove_file(f.path("upm_config.json")).unwrap();
    f.mkdir("home/config");
    f.mkdir("home/config/upm");
    f.write("home/config/upm/upm_config.toml", "[plugins.Home]\nexec = \"/bin/true\"\nallowed_methods = [\"home\"]\n");
    let home = f.upm(["Home", "nope"]).run();
    if mode == Mode::User || !common::is_root() {
        assert!(allowed(home).contains("home"));
    } else {
        assert_ne!(home.data()["code"], "method_not_allowed", "root does not read a user's configuration folder");
    }
}

/// Files that control calls must not be writable by others; the message has the command that fixes it.
#[rstest]
#[case("upm_config.toml", 0o666)]
#[case("upm_config.toml", 0o664)]
#[case("", 0o777)]
#[case("plugins", 0o777)]
#[case("plugins", 0o775)]
#[case("plugins/upm-probe", 0o777)]
#[case("audit", 0o777)]
fn what_others_can_write_is_refused(
    #[case] path: &str,
    #[case] permissions: u32,
    #[values(Mode::Root, Mode::User)] mode: Mode,
) {
    let Some(f) = Fixture::probe(mode, "") else { return };
    if path == "plugins/upm-probe" {
        // a copy, not the link that other tests run
        let bytes = fs::read(f.path(path)).unwrap();
        fs::remove_file(f.path(path)).unwrap();
        f.write(path, bytes);
        fs::set_permissions(f.path(path), fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert_eq!(f.act("echo", Value::Null)["ok"], true, "the control");
    fs::set_permissions(f.path(path), fs::Permissions::from_mode(permissions)).unwrap();
    let answer = f.run("echo", Value::Null);
    let data = answer.data();
    assert_eq!(answer.exit, Some(125), "{data:#}");
    assert!(data["error"].as_str().unwrap().contains("chmod"), "the command that fixes it: {data:#}");
}

#[rstest]
fn what_another_user_owns_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !common::is_root() {
        common::skip("giving files away needs root");
        return;
    }
    let Some(f) = Fixture::probe(mode, "") else { return };
    for path in ["upm_config.toml", "plugins", "audit"] {
        std::os::unix::fs::chown(f.path(path), Some(4242), None).unwrap();
        let answer = f.run("echo", Value::Null);
        assert_eq!(answer.exit, Some(125), "{path}: {:#}", answer.data());
        assert!(answer.data()["error"].as_str().unwrap().contains("chown"), "{:#}", answer.data());
        std::os::unix::fs::chown(f.path(path), Some(f.uid), None).unwrap();
    }
    assert_eq!(f.act("echo", Value::Null)["ok"], true, "the control");
}

#[rstest]
fn the_most_specific_wins_whole(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::new(
        mode,
        "[defaults]\nopen_files = 100\nenv = { A = \"defaults\", B = \"defaults\" }\n\
         [plugins.Probe]\nexec = \"plugins/upm-probe\"\nallowed_methods = [\"report\", \"limits\"]\nopen_files = 90\nenv = { A = \"plugin\" }\n\
         [plugins.Probe.methods.report]\nopen_files = 80\n",
    ) else {
        return;
    };
    let report = f.upm(["Probe", "report"]).run().result();
    assert_eq!(report["limits"]["RLIMIT_NOFILE"], json!([80, 80]));
    assert_eq!(report["env"]["A"], "plugin");
    assert!(report["env"].get("B").is_none(), "tables replace, never merge");
    assert_eq!(f.upm(["Probe", "limits"]).run().result()["limits"]["RLIMIT_NOFILE"], json!([90, 90]));
}

#[rstest]
fn project_and_cache_are_made(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::probe(mode, "write = [\"{project_root}\", \"{cache_dir}\"]") else { return };
    fs::remove_dir(f.path("project")).unwrap();
    fs::remove_dir(f.path("cache")).unwrap();
    for path in [f.text("project/a"), f.text("cache/Probe/a")] {
        assert_eq!(f.act("write", json!([path, "x"]))["ok"], true, "{path}");
    }
}

#[rstest]
fn another_project_must_be_named(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::bare(mode) else { return };
    for dir in ["allowed", "refused"] {
        f.mkdir(dir);
    }
    f.mkdir_writable("allowed/one");
    f.write(
        "upm_config.toml",
        format!(
            "projects = [\"{}/*\"]\n{}{}write = [\"{{project_root}}\"]\n",
            f.text("allowed"),
            f.config_head(),
            common::PROBE
        ),
    );
    let write = |dir: &str| json!({"args": ["write", f.text(&format!("{dir}/file")), "x"]}).to_string();
    let one = f.upm(["--project", &f.text("allowed/one"), "Probe", "run", &write("allowed/one")]).run();
    assert_eq!(one.result()["ok"], true);
    for other in ["refused", "allowed", "allowed/one/../../refused", "audit"] {
        let answer = f.upm(["--project", &f.text(other), "Probe", "run", &write(other)]).run();
        assert_ne!(answer.exit, Some(0), "{other}: {:#}", answer.data());
        assert!([Some(2), Some(125), Some(126)].contains(&answer.exit), "{other}: {:#}", answer.data());
    }
    symlink(f.path("refused"), f.path("allowed/link")).unwrap();
    let link = f.upm(["--project", &f.text("allowed/link"), "Probe", "run", &write("refused")]).run();
    assert_ne!(link.exit, Some(0), "{:#}", link.data());
    assert!(!f.path("refused/file").exists());
}
