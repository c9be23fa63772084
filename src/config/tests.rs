use super::search::load_with;
use super::*;
use crate::decide::grant::{DecideError, grant};
use crate::keys::Key;
use crate::types::{Code, Details, Entry, Failure, OnViolation};
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::time::Duration;

/// A configuration in its own temporary directory.
fn written(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    (dir, path)
}

fn toml(text: &str) -> Result<Config, ConfigError> {
    let (_dir, path) = written("c.toml", text);
    crate::walk::forget();
    load(Some(&path))
}

/// The error without the file's path.
fn refused(text: &str) -> String {
    let error = toml(text).unwrap_err();
    assert_eq!(error.kind, ConfigErrorKind::Invalid, "{error}");
    let text = error.to_string();
    text.split_once("c.toml:").unwrap().1.to_owned()
}

const X: &str = "[plugins.X]\nmodule = \"x.y\"\nallowed_methods = [\"m\", \"n\"]\n";

#[test]
fn the_quick_start_is_understood() {
    let (dir, path) = written("upm_config.toml", include_str!("../../upm_config.toml"));
    let config = load(Some(&path)).unwrap();
    let root = dir.path().canonicalize().unwrap();
    assert_eq!(config.sha256.len(), 64);
    let install = grant(&config, "PipPlugin", "install", None).unwrap();
    assert_eq!(install.entry, Entry::Python { module: "pip_plugin.plugin".into() });
    assert_eq!(install.plugin_paths, [root.join("plugins")]);
    assert_eq!(install.schemas, Some(root.join("plugins/pip_plugin/schemas")));
    assert_eq!(install.project_root, root.join("project"));
    assert_eq!(install.grant.write, [root.join("project"), root.join(".upm-cache/PipPlugin")]);
    assert_eq!(install.grant.egress.len(), 1);
    assert_eq!(install.grant.timeout, Duration::from_secs(600));
    assert_eq!(install.grant.origins[Key::Timeout].level, Level::Method);
    assert_eq!(install.grant.origins[Key::Write].level, Level::Plugin);
    assert_eq!(install.grant.origins[Key::Memory], Origin { level: Level::BuiltIn, line: None });
    let list = grant(&config, "PipPlugin", "list", None).unwrap();
    assert!(list.grant.egress.is_empty());
    assert_eq!(list.grant.timeout, Duration::from_secs(60));
    let greet = grant(&config, "HelloPlugin", "__introspect__", None).unwrap();
    assert!(!greet.grant.site && greet.grant.write.is_empty());
}

#[test]
fn the_origins_json_is_a_complete_configuration() {
    let text = r#"{"plugins": {"PipPlugin": {"module": "upm.plugins.pip", "allowed_methods": ["install", "list"]},
        "NpmPlugin": {"module": "upm.plugins.npm", "allowed_methods": []}}}"#;
    let (dir, path) = written("upm_config.json", text);
    let config = load(Some(&path)).unwrap();
    let root = dir.path().canonicalize().unwrap();
    let install = grant(&config, "PipPlugin", "install", None).unwrap();
    assert_eq!(install.plugin_paths, [root.join("plugins"), root.clone()]);
    assert_eq!(install.project_root, root.join("project"));
    let failure = Failure::from(grant(&config, "NpmPlugin", "install", None).unwrap_err());
    assert_eq!(failure.code, Code::MethodNotAllowed);
    assert!(failure.message.contains("which allows nothing"), "{}", failure.message);
}

#[test]
fn json_errors_point_at_keys_and_values() {
    let at = |text: &str| {
        let (_dir, path) = written("c.json", text);
        load(Some(&path)).unwrap_err().to_string().split_once("c.json:").unwrap().1.to_owned()
    };
    assert!(
        at("{\n  \"plugin\": {}}")
            .starts_with("2:3: \"plugin\" is not a key of the configuration; expected one of: project_root")
    );
    assert_eq!(
        at("{\"defaults\":\n {\"memory\": 5}}"),
        "2:13: memory: 5; expected a size with its unit in quotes, such as \"512MiB\""
    );
    assert_eq!(at("{\"defaults\": {},\n\"defaults\": {}}"), "2:10: the key \"defaults\" occurs twice");
    assert_eq!(at("[]"), "1:1: a list; expected a table for the configuration");
    assert!(at("{\"a\":").starts_with("1:5: EOF"));
}

#[test]
fn the_most_specific_value_wins_whole() {
    let text = format!(
        "[egress.a]\nhosts = [\"a.b:1\"]\n[egress.b]\nhosts = []\n[defaults]\nread = [\"/d\"]\nenv = {{A = \"1\", B = \"2\"}}\nmemory = \"2GiB\"\nsite = false\n\
         {X}read = [\"/p\", \"{{cache_dir}}/x\"]\negress = [\"a\", \"b\"]\n[plugins.X.methods.m]\nenv = {{C = \"3\"}}\nread = []\negress = [\"b\"]\non_violation = \"kill\"\nrun_as = 7\n"
    );
    let config = toml(&text).unwrap();
    let m = grant(&config, "X", "m", None).unwrap().grant;
    assert_eq!((m.read.len(), m.site, m.memory, m.on_violation), (0, false, 2 << 30, OnViolation::Kill));
    assert_eq!(m.env.into_iter().collect::<Vec<_>>(), [("C".to_owned(), "3".to_owned())]);
    assert_eq!(m.egress.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["b"]);
    assert_eq!(m.run_as.as_deref(), Some("7"));
    assert_eq!((m.origins[Key::Read].level, m.origins[Key::Read].line), (Level::Method, Some(17)));
    assert_eq!((m.origins[Key::Memory].level, m.origins[Key::Memory].line), (Level::Defaults, Some(8)));
    let n = grant(&config, "X", "n", None).unwrap().grant;
    assert_eq!(n.read, [PathBuf::from("/p"), config.dir.join(".upm-cache/X/x")]);
    assert_eq!((n.env.len(), n.egress.len()), (2, 2));
}

#[test]
fn the_most_specific_callers_are_the_callers() {
    use crate::decide::grant::callers;
    let text = format!(
        "[defaults]\ncallers = [\"user:d\"]\n{X}callers = [\"user:p\", \"group:7\"]\n[plugins.X.methods.m]\ncallers = []\n\
         [plugins.Y]\nmodule = \"y\"\nallowed_methods = []\n"
    );
    let config = toml(&text).unwrap();
    let shown = |plugin, method| callers(&config, plugin, method).map(|list| serde_json::json!(list).to_string());
    assert_eq!(shown("X", "m").as_deref(), Some("[]"));
    for method in ["n", "not there"] {
        assert_eq!(shown("X", method).as_deref(), Some("[\"user:p\",\"group:7\"]"));
    }
    for plugin in ["Y", "NotThere"] {
        assert_eq!(shown(plugin, "m").as_deref(), Some("[\"user:d\"]"));
    }
    let grant = grant(&config, "X", "n", None).unwrap().grant;
    assert_eq!((grant.callers.unwrap().len(), grant.origins[Key::Callers].level), (2, Level::Plugin));
    assert_eq!(callers(&toml(X).unwrap(), "X", "m"), None, "no built-in list, which is not the same as an empty one");
}

#[test]
fn built_in_values_are_those_of_the_design() {
    let g = grant(&toml(X).unwrap(), "X", "m", None).unwrap().grant;
    assert_eq!(g.interpreter, Path::new("/usr/bin/python3"));
    assert!(g.site && !g.fernet && g.read.is_empty() && g.write.is_empty() && g.egress.is_empty() && g.env.is_empty());
    assert_eq!((g.timeout.as_secs(), g.cpu_time.as_secs(), g.memory, g.processes), (60, 60, 1 << 30, 64));
    assert_eq!((g.open_files, g.file_size, g.tmp, g.output), (256, 1 << 30, 256 << 20, 4 << 20));
    assert_eq!((g.arguments, g.result, g.egress_bytes, g.landlock_min_abi), (1 << 20, 16 << 20, 4 << 30, 2));
    assert_eq!((g.cpus, g.require_cgroup, g.file_watches), (None, false, 0));
    assert_eq!((g.on_violation, g.run_as, g.policy.len()), (OnViolation::Deny, None, 0));
}

#[test]
fn what_is_not_understood_is_refused_with_its_place() {
    for (text, expected) in [
        ("colour = 1\n", "1:1: \"colour\" is not a key of the configuration; expected one of: "),
        ("project_root = 5\n", "1:16: 5; expected a path in quotes"),
        ("project_root = \"~/p\"\n", "1:16: \"~/p\": \"~\" is not expanded"),
        ("project_root = \"{cache_dir}\"\n", "1:16: \"{cache_dir}\": variables are not allowed here"),
        ("project_root = \"/\"\n", "1:16: \"/\": \"/\", /proc, /sys, /dev and /run are never granted"),
        ("plugin_paths = \"p\"\n", "1:16: \"p\"; expected a list of directories"),
        ("projects = [\"/srv/**\"]\n", "1:13: \"/srv/**\": \"**\", \"?\" and \"[]\" are not supported"),
        ("[audit]\njournald = \"on\"\n", "2:12: \"on\"; expected \"auto\" or \"required\" or \"off\""),
        (
            "[audit]\nfiles = \"x\"\n",
            "2:1: \"files\" is not a key of audit; expected one of: journald, file, arguments",
        ),
        ("[defaults]\nmemory = 1024\n", "2:10: memory: 1024; expected a size with its unit"),
        ("[defaults]\nmemory = \"1024\"\n", "2:10: memory: \"1024\": a size needs a unit"),
        (
            "[defaults]\nmemory = \"9EiB\"\n",
            "2:10: memory: \"9EiB\": too large; expected at most 9223372036854775807 bytes",
        ),
        ("[defaults]\noutput = \"2GiB\"\n", "2:10: output: \"2GiB\": too large; expected at most 1073741824 bytes"),
        ("[defaults]\ntimeout = \"1.5s\"\n", "2:11: timeout: \"1.5s\": expected a whole number with ms, s, m or h"),
        ("[defaults]\ntimeout = \"0s\"\n", "2:11: timeout: \"0s\": must be greater than zero"),
        ("[defaults]\nprocesses = 0\n", "2:13: processes: 0; expected a whole number from 1 to 4194304"),
        (
            "[defaults]\nprocesses = 99999999999999999999\n",
            "2:13: processes: 99999999999999999999; expected a whole number",
        ),
        ("[defaults]\ncpus = 0\n", "2:8: cpus: 0; expected a number of processors from 0.01 to 8192, such as 1 or 1.5"),
        ("[defaults]\ncpus = \"2\"\n", "2:8: cpus: \"2\"; expected a number of processors"),
        ("[defaults]\ncpus = nan\n", "2:8: cpus: NaN; expected a number of processors"),
        ("[defaults]\ncpus = 8192.5\n", "2:8: cpus: 8192.5; expected a number of processors"),
        ("[defaults]\nopen_files = 1.0\n", "2:14: open_files: 1; expected a whole number from 4"),
        ("[defaults]\nfile_watches = -1\n", "2:16: file_watches: -1; expected a whole number from 0 to 1048576"),
        ("[defaults]\nsite = \"no\"\n", "2:8: site: \"no\"; expected true or false"),
        ("[defaults]\nwrite = [\"/proc/self\"]\n", "2:10: write: \"/proc/self\": \"/\", /proc"),
        (
            "[defaults]\nread = [\"{project_root}/../x\"]\n",
            "2:9: read: \"{project_root}/../x\": \"..\" after a variable",
        ),
        ("[defaults]\nread = [\"/etc/../dev\"]\n", "2:9: read: \"/dev\": \"/\", /proc"),
        ("[defaults]\negress = [\"pip\"]\n", "2:11: egress: no such egress group: \"pip\""),
        ("[defaults]\nenv = {\"A=B\" = \"1\"}\n", "2:8: env: \"A=B\" cannot be set"),
        ("[defaults]\nenv = {UPM_REQUEST_ID = \"1\"}\n", "2:8: env: \"UPM_REQUEST_ID\" cannot be set"),
        ("[defaults]\npolicy = {a = nan}\n", "2:15: policy: NaN; expected a number that JSON can hold"),
        ("[defaults]\nrun_as = \"root\"\n", "2:10: run_as: \"root\"; expected a user's name"),
        ("[defaults]\nrun_as = 0\n", "2:10: run_as: 0; expected a user's name"),
        ("[defaults]\ncallers = [\"deploy\"]\n", "2:12: callers: \"deploy\"; expected \"user:NAME\" or \"group:NAME\""),
        ("[defaults]\ncallers = [\"user:a\", \"user:a\"]\n", "2:22: callers: \"user:a\" occurs twice"),
        ("[defaults]\ncallers = \"user:a\"\n", "2:11: callers: \"user:a\"; expected a list"),
        ("[defaults]\nmodule = \"x\"\n", "2:1: \"module\" is not a key of defaults"),
        ("[egress.a]\n", "1:1: the egress group \"a\" needs `hosts` or `client`"),
        ("[egress.a]\nhosts = []\nclient = \"pip\"\n", "3:1: \"client\" and \"hosts\" together"),
        ("[egress.a]\nhosts = [\"1.2.3.4:443\"]\n", "2:10: \"1.2.3.4:443\": an address; only names can be granted"),
        ("[egress.a]\nhosts = [\"a.b:53\"]\n", "2:10: \"a.b:53\": port 53 is reserved"),
        ("[egress.a]\nclient = \"apt\"\n", "2:10: \"apt\"; expected \"pip\" or \"npm\""),
        ("[egress.a]\nhosts = []\nproxy = \"socks5://u:secret@h:1\"\n", "3:9: not a valid proxy"),
        ("[egress.a]\nhosts = []\nproxy = \"http://a..b:1\"\n", "3:9: not a valid proxy"),
        ("[egress.a]\nhosts = []\nproxy = \"http://u:%zz@h:1\"\n", "3:9: not a valid proxy"),
        ("[plugins.pip]\n", "1:10: \"pip\" is not a valid plugin name"),
        ("[plugins.\"X\\n\"]\n", "1:10: \"X\\n\" is not a valid plugin name"),
        ("[plugins.X]\nallowed_methods = []\n", "1:10: X needs `module` or `exec`"),
        ("[plugins.X]\nmodule = \"x\"\n", "1:10: X is missing `allowed_methods`"),
        ("[plugins.X]\nmodule = \"../x\"\n", "2:10: \"../x\"; expected a dotted module name"),
        ("[plugins.X]\nmodule = \"x\"\nexec = \"x\"\n", "3:1: \"exec\" and \"module\" together"),
        ("[plugins.X]\nallowed_methods = [\"m\", \"m\"]\n", "2:25: \"m\" occurs twice"),
        ("[plugins.X]\nallowed_methods = [\"__init__\"]\n", "2:20: \"__init__\"; expected method names"),
        ("[plugins.X]\nallowed_method = []\n", "2:1: \"allowed_method\" is not a key of a plugin"),
        (&format!("{X}[plugins.X.methods.o]\n"), "4:20: \"o\" is not in `allowed_methods` of X"),
        (&format!("{X}[plugins.X.methods.m]\nschemas = \"s\"\n"), "5:1: \"schemas\" is not a key of a method"),
        ("a = \n", "1:"),
        ("a = 1\na = 2\n", "2:1: duplicate key"),
    ] {
        let message = refused(text);
        assert!(message.starts_with(expected), "{text}\n  gave {message}\n  not  {expected}");
    }
    assert!(!refused("[egress.a]\nhosts = []\nproxy = \"socks5://u:secret@h:1\"\n").contains("secret"));
}

#[test]
fn nothing_that_rules_plugins_may_be_written() {
    let write = |path: &str| {
        format!(
            "plugin_paths = [\"plugins\", \"more\"]\n[audit]\nfile = \"log/a.jsonl\"\n{X}schemas = \"schemas\"\nwrite = [\"{path}\"]\n"
        )
    };
    for (path, what) in [
        (".", "the configuration"),
        ("c.toml", "the configuration"),
        ("plugins", "the plugin folder"),
        ("more/x", "the plugin"),
        ("more/x/data", "the plugin"),
        ("schemas/x", "the schema folder"),
        ("log", "the audit file"),
        ("/usr", "the interpreter"),
        ("/usr/bin", "the interpreter"),
    ] {
        let message = refused(&write(path));
        assert!(message.starts_with(&format!("8:10: write lets a plugin change {what}")), "{path}: {message}");
    }
    for path in ["project", "more/y", "logs", "{cache_dir}", "{project_root}/a", "/usr/local/share/x"] {
        toml(&write(path)).unwrap();
    }
    // through the project, another plugin's interpreter, or an overridden table
    assert!(
        refused(&format!("project_root = \".\"\n{X}write = [\"{{project_root}}\"]\n")).contains("the configuration")
    );
    let venv = "interpreter = \"{project_root}/venv/bin/python\"\n";
    assert!(
        refused(&format!(
            "{X}write = [\"{{project_root}}\"]\n[plugins.Y]\nmodule = \"y\"\nallowed_methods = []\n{venv}"
        ))
        .contains("the interpreter")
    );
    assert!(refused(&format!("[defaults]\nwrite = [\"plugins/x\"]\n{X}write = []\n")).contains("the plugin"));
    // characters of a path cannot reverse the text of the message
    let turned = format!(
        "project_root = \"\u{202e}\"\n{X}write = [\"{{project_root}}\"]\ninterpreter = \"{{project_root}}/python\"\n"
    );
    assert!(refused(&turned).contains("\\u{202e}/python, because "), "{}", refused(&turned));
}

#[test]
fn links_do_not_hide_what_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    fs::create_dir_all(root.join("plugins/x")).unwrap();
    symlink("plugins", root.join("data")).unwrap();
    let path = root.join("c.toml");
    fs::write(&path, format!("plugin_paths = [\"plugins\"]\n{X}write = [\"data\"]\n")).unwrap();
    crate::walk::forget();
    assert!(load(Some(&path)).unwrap_err().message.starts_with("write lets a plugin change the plugin folder"));
    // the other way round: the plugin folder is the link
    fs::write(&path, format!("plugin_paths = [\"data\"]\n{X}write = [\"plugins\"]\n")).unwrap();
    assert!(load(Some(&path)).unwrap_err().message.starts_with("write lets a plugin change the plugin folder"));
    // a link on the way to the interpreter
    fs::create_dir(root.join("alt")).unwrap();
    symlink("/usr/bin/python3", root.join("alt/python")).unwrap();
    symlink("alt/python", root.join("python")).unwrap();
    fs::write(&path, format!("{X}write = [\"alt\"]\ninterpreter = \"python\"\n")).unwrap();
    assert!(load(Some(&path)).unwrap_err().message.starts_with("write lets a plugin change the interpreter"));
    // the configuration is a link into the granted directory
    fs::create_dir(root.join("w")).unwrap();
    fs::write(root.join("w/real.toml"), format!("{X}write = [\"w\"]\n")).unwrap();
    symlink("w/real.toml", root.join("link.toml")).unwrap();
    assert!(
        load(Some(&root.join("link.toml")))
            .unwrap_err()
            .message
            .starts_with("write lets a plugin change the configuration")
    );
}

#[test]
fn projects_are_real_directories_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["project", "srv/a", "srv/a/b", "other", "srv/.hidden", "plugins"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    symlink(root.join("other"), root.join("srv/link")).unwrap();
    symlink(root.join("srv/a"), root.join("alias")).unwrap();
    let path = root.join("c.toml");
    fs::write(
        &path,
        format!(
            "projects = [\"srv/*\", \"plugins\"]\nplugin_paths = [\"plugins\"]\n{X}write = [\"{{project_root}}\"]\n"
        ),
    )
    .unwrap();
    crate::walk::forget();
    let config = load(Some(&path)).unwrap();
    let with = |name: &str| grant(&config, "X", "m", Some(&ProjectDir::resolve(&root.join(name)).unwrap()));
    assert_eq!(with("srv/a").unwrap().grant.write, [root.join("srv/a")]);
    assert_eq!(with("alias").unwrap().project_root, root.join("srv/a"));
    assert_eq!(with("project").unwrap().project_root, root.join("project"));
    for name in ["srv", "srv/a/b", "other", "srv/link", "srv/.hidden", "srv/a/.."] {
        let error = with(name).unwrap_err();
        assert!(
            matches!(&error, DecideError::ProjectNotAllowed { allowed, .. } if allowed[1..] == ["srv/*", "plugins"]),
            "{name}"
        );
        assert_eq!(Failure::from(error).code, Code::Usage);
    }
    fs::write(&path, format!("project_root = \"alias\"\n{X}")).unwrap();
    let linked = load(Some(&path)).unwrap();
    let alias = ProjectDir::resolve(&root.join("alias")).unwrap();
    assert_eq!(grant(&linked, "X", "m", Some(&alias)).unwrap().project_root, root.join("srv/a"));
    assert!(matches!(with("plugins").unwrap_err(), DecideError::ProjectRules { .. }));
    // another spelling of the same path does not help
    fs::create_dir_all(root.join("srv/a/plugins")).unwrap();
    for (write, is_refused) in [("plugins", true), ("./plugins", true), ("./other", false)] {
        fs::write(
            &path,
            format!("projects = [\"srv/*\"]\nplugin_paths = [\"srv/a/plugins\"]\n{X}write = [\"{{project_root}}/{write}\"]\n"),
        )
        .unwrap();
        let config = load(Some(&path)).unwrap();
        let granted = grant(&config, "X", "m", Some(&ProjectDir::resolve(&root.join("srv/a")).unwrap()));
        assert_eq!(matches!(granted, Err(DecideError::ProjectRules { .. })), is_refused, "{write}");
    }
    assert_eq!(ProjectDir::resolve(&root.join("none")).unwrap_err().kind, ConfigErrorKind::NotFound);
    assert_eq!(ProjectDir::resolve(&path).unwrap_err().kind, ConfigErrorKind::Invalid);
}

#[test]
fn foreign_names_are_refused_and_shown_escaped() {
    let config = toml(&format!("{X}\n[plugins.Y]\nmodule = \"y\"\nallowed_methods = [\"a\"]\n")).unwrap();
    for name in ["", "-", "..", "../X", "X\0", "X\n", "x", "Х", "\u{1b}[31mX", &"X".repeat(10_000)] {
        let failure = Failure::from(grant(&config, name, "m", None).unwrap_err());
        assert_eq!(failure.code, Code::PluginNotAllowed);
        assert!(
            matches!(&failure.details, Details::NotAllowed { method: None, allowed, .. } if *allowed == ["X", "Y"])
        );
        assert!(
            failure.message.len() < 600 && failure.message.is_ascii() | name.starts_with("XX"),
            "{}",
            failure.message
        );
        assert!(!failure.message.contains(char::is_control), "{}", failure.message);
        let failure = Failure::from(grant(&config, "X", name, None).unwrap_err());
        assert_eq!(failure.code, Code::MethodNotAllowed);
        assert!(failure.message.len() < 600 && !failure.message.contains(char::is_control));
        let Details::NotAllowed { method: Some(method), .. } = &failure.details else { panic!("{}", failure.message) };
        assert!(method.chars().count() <= 128);
    }
    for name in ["__init__", "_m", "__class__"] {
        let failure = Failure::from(grant(&config, "X", name, None).unwrap_err());
        assert_eq!(failure.code, Code::MethodNotAllowed);
        assert!(failure.message.contains("can never be called"), "{}", failure.message);
    }
    assert!(matches!(grant(&config, "X", "__introspect__", None), Err(DecideError::MethodNotAllowed { .. })));
}

#[test]
fn the_search_has_its_order() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir_all(root.join("xdg/upm")).unwrap();
    for (name, plugin) in [("named.toml", "Named"), ("env.toml", "Env"), ("xdg/upm/upm_config.toml", "Xdg")] {
        fs::write(root.join(name), format!("[plugins.{plugin}]\nmodule = \"x\"\nallowed_methods = []\n")).unwrap();
    }
    crate::walk::forget();
    let env = |set: Vec<(&'static str, PathBuf)>| {
        move |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone().into_os_string())
    };
    let plugin = |config: Config| config.plugins.into_keys().next().unwrap();
    let both = env(vec![("UPM_CONFIG_PATH", root.join("env.toml")), ("XDG_CONFIG_HOME", root.join("xdg"))]);
    assert_eq!(plugin(load_with(Some(&root.join("named.toml")), &both, false).unwrap()), "Named");
    assert_eq!(plugin(load_with(None, &both, false).unwrap()), "Env");
    let gone = env(vec![("UPM_CONFIG_PATH", root.join("gone.toml"))]);
    let error = load_with(None, &gone, false).unwrap_err();
    assert_eq!(error.kind, ConfigErrorKind::NotFound);
    assert!(error.message.contains("UPM_CONFIG_PATH names"), "{error}");
    assert!(load_with(Some(&root.join("gone.toml")), &both, false).unwrap_err().message.contains("--config names"));
    assert!(load_with(Some(&root), &both, false).unwrap_err().message.starts_with("is a directory"));
}

#[test]
fn who_else_may_write_is_refused_with_the_command() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let below = root.join("d");
    fs::create_dir(&below).unwrap();
    let path = below.join("c.toml");
    fs::write(&path, X).unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let check = || {
        crate::walk::forget();
        load(Some(&path)).map(|_| ())
    };
    mode(&path, 0o644);
    check().unwrap();
    for (what, bits, fix) in [
        (&path, 0o664, "chmod g-w"),
        (&path, 0o646, "chmod o-w"),
        (&path, 0o666, "chmod go-w"),
        (&below, 0o775, "chmod g-w"),
        (&below, 0o777, "chmod go-w"),
    ] {
        let before = fs::metadata(what).unwrap().permissions().mode() & 0o7777;
        mode(what, bits);
        let error = check().unwrap_err();
        assert_eq!((error.kind, &error.path), (ConfigErrorKind::Untrusted, what));
        assert!(error.message.ends_with(&format!("{fix} {}", what.display())), "{error}");
        mode(what, before);
    }
    check().unwrap();
    // a sticky directory is accepted on the way, but not as the folder itself
    if nix::unistd::getuid().is_root() {
        mode(&below, 0o1777);
        check().unwrap();
        assert_eq!(check_trusted(&below).unwrap_err().kind, ConfigErrorKind::Untrusted);
        mode(&below, 0o755);
        chown(&path, Some(12345), None).unwrap();
        let error = check().unwrap_err();
        assert!(error.message.starts_with("belongs to user 12345"), "{error}");
        assert!(error.message.ends_with(&format!("chown 0 {}", path.display())), "{error}");
        chown(&path, Some(0), None).unwrap();
        std::os::unix::fs::lchown(&below, Some(12345), None).unwrap();
        assert_eq!(check().unwrap_err().path, below);
    }
}

#[test]
fn links_are_walked_by_hand() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    for name in ["a", "open"] {
        fs::create_dir(root.join(name)).unwrap();
    }
    fs::write(root.join("a/f"), "x").unwrap();
    symlink("../a/f", root.join("open/link")).unwrap();
    symlink("open/link", root.join("far")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    crate::walk::forget();
    assert_eq!(check_trusted(&root.join("far")).unwrap().real, root.join("a/f"));
    assert_eq!(check_trusted(&root.join("a/../open/./link")).unwrap().real, root.join("a/f"));
    assert_eq!(check_trusted(&root.join("loop")).unwrap_err().kind, ConfigErrorKind::Io);
    assert_eq!(check_trusted(&root.join("a/f/x")).unwrap_err().kind, ConfigErrorKind::NotFound);
    assert_eq!(check_trusted(&root.join("none")).unwrap_err().kind, ConfigErrorKind::NotFound);
    // the directory of a link on the way is checked, although neither end of the path is in it
    fs::set_permissions(root.join("open"), fs::Permissions::from_mode(0o777)).unwrap();
    crate::walk::forget();
    assert_eq!(check_trusted(&root.join("far")).unwrap_err().path, root.join("open"));
    // pipes and devices are refused
    assert_eq!(check_trusted(Path::new("/dev/null")).unwrap_err().kind, ConfigErrorKind::Invalid);
    nix::unistd::mkfifo(&root.join("a/fifo"), nix::sys::stat::Mode::from_bits_truncate(0o600)).unwrap();
    assert_eq!(check_trusted(&root.join("a/fifo")).unwrap_err().kind, ConfigErrorKind::Invalid);
    assert_eq!(check_trusted_tree(&root.join("a")).unwrap_err().path, root.join("a/fifo"));
    fs::remove_file(root.join("a/fifo")).unwrap();
    check_trusted_tree(&root.join("a")).unwrap();
    fs::create_dir(root.join("a/sub")).unwrap();
    fs::write(root.join("a/sub/g"), "").unwrap();
    fs::set_permissions(root.join("a/sub/g"), fs::Permissions::from_mode(0o666)).unwrap();
    assert_eq!(check_trusted_tree(&root.join("a")).unwrap_err().path, root.join("a/sub/g"));
    fs::remove_file(root.join("a/sub/g")).unwrap();
    symlink(root.join("open/link"), root.join("a/sub/out")).unwrap();
    assert_eq!(check_trusted_tree(&root.join("a")).unwrap_err().path, root.join("open"));
}

#[test]
fn trees_and_files_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    crate::walk::forget();
    fs::write(root.join("f"), vec![b' '; 1000]).unwrap();
    assert_eq!(read_trusted(&root.join("f"), 1000).unwrap().1.len(), 1000);
    assert!(read_trusted(&root.join("f"), 999).unwrap_err().message.starts_with("is longer than 999 bytes"));
    let mut deep = root.join("deep");
    for _ in 0..70 {
        deep.push("d");
    }
    fs::create_dir_all(&deep).unwrap();
    assert!(check_trusted_tree(&root.join("deep")).unwrap_err().message.starts_with("is more than 64"));
    fs::create_dir(root.join("wide")).unwrap();
    for n in 0..=10_000 {
        fs::hard_link(root.join("f"), root.join(format!("wide/{n}"))).unwrap();
    }
    assert!(check_trusted_tree(&root.join("wide")).unwrap_err().message.contains("more than 10000 entries"));
    fs::remove_file(root.join("wide/0")).unwrap();
    check_trusted_tree(&root.join("wide")).unwrap();
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "[a-z\\[\\]{}.=\"' \n0-9_-]{0,200}", json in any::<bool>()) {
        understand_text(&text, json);
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), json in any::<bool>()) {
        let name = if json { "/c/c.json" } else { "/c/c.toml" };
        let dir = Path::new("/c");
        drop(understand(Path::new(name), dir, bytes, &|_| None, true));
    }

    #[test]
    fn no_value_makes_it_panic(key in proptest::sample::select(vec!["timeout", "memory", "read", "env", "egress", "run_as", "policy", "processes", "interpreter"]), value in "\"[^\"\\\\\n]{0,20}\"|[0-9._-]{1,20}|\\[[\"a-z,/{}~]{0,12}\\]|\\{[a-z=\" ]{0,12}\\}") {
        understand_text(&format!("{X}{key} = {value}\n"), false);
    }

    #[test]
    fn hosts_times_and_sizes_never_panic(text in ".{0,40}") {
        if let Ok(pattern) = value::host(&text) {
            prop_assert!(pattern.name.is_ascii() && pattern.port != 53 && pattern.port != 0);
            prop_assert_eq!(pattern.name.to_ascii_lowercase(), pattern.name);
        }
        drop(crate::units::time(&text));
        drop(crate::units::size(&text, crate::units::MAX_SIZE));
    }
}

fn understand_text(text: &str, json: bool) {
    let name = if json { "/c/c.json" } else { "/c/c.toml" };
    let dir = Path::new("/c");
    if let Err(error) = understand(Path::new(name), dir, text.as_bytes().to_vec(), &|_| None, true) {
        assert!(!error.message.contains('\u{1b}'));
    }
}
