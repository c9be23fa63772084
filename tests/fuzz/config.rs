//! The configuration, in both formats: what is refused is refused with its place, and what is accepted grants nothing
//! that no configuration may grant.

use crate::harness::{Case, Rng, is_plain, mutate, run};
use crate::json;
use std::path::{Path, PathBuf};
use upm::config::{Config, ConfigError, ConfigErrorKind, read_unchecked};
use upm::decide::grant::grant;
use upm::decide::names::normalize;
use upm::gateway::parse_proxy;
use upm::keys::Key;
use upm::types::{EgressSource, Entry, Proxy};

const TOML: &str = "/nowhere/c/c.toml";
const JSON: &str = "/nowhere/c/c.json";
const TOKENS: &[&[u8]] = &[
    b"[plugins.X]\n",
    b"[defaults]\n",
    b"[egress.a]\n",
    b"[plugins.X.methods.m]\n",
    b"[[a]]\n",
    b"\"{project_root}\"",
    b"\"{cache_dir}/x\"",
    b"\"/proc\"",
    b"\"/\"",
    b"\"/etc/../dev\"",
    b"\"..\"",
    b"\"/usr\"",
    b"\"plugins\"",
    b"'''",
    b"\"\"\"",
    b"1979-05-27T07:32:00Z",
    b"0x7f",
    b"inf",
    b"nan",
    b"1_000",
    b"run_as = 0\n",
    b"a.b.c = 1\n",
    b"write = [\"/srv/x\"]\n",
    b"\"root\"",
    b"\"UPM_X\"",
    b"\"*.a:443\"",
    b"\"http://u:p@h:1\"",
    b"\"1GiB\"",
    b"\"10m\"",
    b"\"\\u202e\"",
    b"\"\\u0000\"",
    b"{ a = 1 }",
    b"null",
];

/// A value that both formats have.
#[derive(Clone)]
enum Data {
    Text(String),
    Number(i64),
    Float(&'static str),
    Bool(bool),
    List(Vec<Data>),
    Table(Vec<(String, Data)>),
}

fn text(value: &str) -> Data {
    Data::Text(value.to_owned())
}

/// As JSON writes strings, which TOML's basic strings read the same way: but for `\/`, which is not used here.
fn quoted(value: &str) -> String {
    let mut out = String::from("\"");
    for c in value.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn to_json(data: &Data, out: &mut String) {
    match data {
        Data::Text(value) => out.push_str(&quoted(value)),
        Data::Number(value) => out.push_str(&value.to_string()),
        Data::Float(value) => out.push_str(value),
        Data::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Data::List(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                to_json(item, out);
            }
            out.push(']');
        }
        Data::Table(entries) => {
            out.push('{');
            for (n, (key, value)) in entries.iter().enumerate() {
                out.push_str(if n > 0 { ",\n" } else { "" });
                out.push_str(&format!("{}: ", quoted(key)));
                to_json(value, out);
            }
            out.push('}');
        }
    }
}

fn inline(data: &Data, out: &mut String) {
    match data {
        Data::List(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                inline(item, out);
            }
            out.push(']');
        }
        Data::Table(entries) => {
            out.push('{');
            for (n, (key, value)) in entries.iter().enumerate() {
                out.push_str(if n > 0 { ", " } else { "" });
                out.push_str(&format!("{} = ", quoted(key)));
                inline(value, out);
            }
            out.push('}');
        }
        _ => to_json(data, out),
    }
}

/// Tables as `[a.b]` down to `levels`, below that inline.
fn to_toml(path: &str, table: &Data, levels: usize, out: &mut String) {
    let Data::Table(entries) = table else { return };
    let is_table = |data: &Data| levels > 0 && matches!(data, Data::Table(_));
    for (key, value) in entries.iter().filter(|(_, value)| !is_table(value)) {
        out.push_str(&format!("{} = ", quoted(key)));
        inline(value, out);
        out.push('\n');
    }
    for (key, value) in entries {
        if is_table(value) {
            let path = if path.is_empty() { quoted(key) } else { format!("{path}.{}", quoted(key)) };
            out.push_str(&format!("[{path}]\n"));
            to_toml(&path, value, levels - 1, out);
        }
    }
}

/// One of `good`, seldom one of `odd`.
fn one_of(rng: &mut Rng, good: &[&str], odd: &[&str]) -> Data {
    if rng.chance(97) { text(rng.pick(good)) } else { text(rng.pick(odd)) }
}

fn path(rng: &mut Rng, variables: bool) -> Data {
    let odd = [
        "/",
        "/proc",
        "/sys/x",
        "/dev/shm",
        "/run/user",
        "~",
        "~/x",
        "",
        "a\0b",
        "{project_root}/..",
        "{home}",
        "/etc/../proc",
        "//dev//",
        "/dev/./",
        "{project_root",
        "a\nb",
        "../../../dev",
        "{cache_dir}/../../x",
        "/proc/",
        "\u{202e}",
        "{project_root}{cache_dir}",
    ];
    let variable = ["{project_root}", "{cache_dir}", "{project_root}/a", "{cache_dir}//b/./c", "data", "/srv/x"];
    let fixed = ["data", "/srv/x", "../other", "./p", "/var/cache/upm", "é"];
    one_of(rng, if variables { &variable } else { &fixed }, &odd)
}

fn list(rng: &mut Rng, most: usize, item: impl Fn(&mut Rng) -> Data) -> Data {
    Data::List((0..rng.below(most + 1)).map(|_| item(rng)).collect())
}

fn grant_keys(rng: &mut Rng, entries: &mut Vec<(String, Data)>) {
    for _ in 0..rng.below(4) {
        let keys: Vec<&str> = Key::ALL.iter().map(|key| key.name()).collect();
        let key = if rng.chance(1) { "colour" } else { rng.pick(&keys) };
        if entries.iter().any(|(k, _)| k == key) {
            continue;
        }
        let value = match key {
            "interpreter" => one_of(rng, &["/usr/bin/python3", "{project_root}/venv/bin/python"], &["", "~", "/"]),
            "read" => list(rng, 3, |rng| path(rng, true)),
            "write" => {
                if rng.chance(97) {
                    list(rng, 2, |rng| path(rng, true))
                } else {
                    list(rng, 2, |rng| {
                        text(rng.pick(&[".", "plugins", "/usr", "/nowhere", "schemas/x", "/var/log", "x"]))
                    })
                }
            }
            "egress" => list(rng, 2, |rng| one_of(rng, &["a"], &["b", "", "\u{1b}"])),
            "env" => Data::Table(vec![(
                rng.pick(&["A", "_b", "LANG", "LANG", "X", "UPM_X", "A=B"]).to_owned(),
                one_of(rng, &["1", "é", "\n"], &["\0"]),
            )]),
            "env_pass" => list(rng, 2, |rng| one_of(rng, &["TZ", "LANG"], &["A=B", "", "1"])),
            "syscalls" => list(rng, 2, |rng| one_of(rng, &["ptrace", "getpid"], &["mount", "nothing", "", "clone"])),
            "on_violation" => one_of(rng, &["deny", "kill"], &["Kill", "\0"]),
            "policy" => Data::Table(vec![(
                "a".to_owned(),
                Data::List(vec![Data::Float("1.5"), text("x\u{1b}"), Data::Number(i64::MIN)]),
            )]),
            "timeout" | "cpu_time" => {
                one_of(rng, &["1ms", "90s", "10m", "2h"], &["0s", "597h", "1.5s", "10", "٣s", "-1s", ""])
            }
            "cpus" => Data::Float(rng.pick(&["1.5", "0.01", "8192.0", "2.25", "0.001", "-1.0", "1e300", "nan"])),
            "processes" | "open_files" | "file_watches" | "landlock_min_abi" => {
                let numbers = [4, 5, 64, 99, 0, -1, 4_194_305, i64::MAX];
                Data::Number(numbers[if rng.chance(97) { rng.below(4) } else { rng.below(8) }])
            }
            "run_as" => {
                if rng.chance(50) {
                    Data::Number(if rng.chance(95) {
                        1000
                    } else {
                        [0, -1, 4_294_967_295, 4_294_967_296][rng.below(4)]
                    })
                } else {
                    one_of(rng, &["nobody", "1000", "a.b@c"], &["root", "0", "00", "-x", "", "a b", "\u{430}"])
                }
            }
            "callers" => list(rng, 2, |rng| one_of(rng, &["user:a", "group:7"], &["a", "user:", "user:a b", ""])),
            "site" | "fernet" | "require_cgroup" | "as_root_owner" => Data::Bool(rng.chance(50)),
            _ => one_of(
                rng,
                &["1MiB", "512KB", "1.5MiB", "7 B"],
                &["0B", "1G", "9EiB", "1e3KB", "-1B", "1024", "", "2TiB"],
            ),
        };
        entries.push((key.to_owned(), value));
    }
}

fn configuration(rng: &mut Rng) -> Vec<(String, Data)> {
    let mut top = Vec::new();
    let mut add = |key: &str, value| top.push((key.to_owned(), value));
    if rng.chance(30) {
        add("project_root", path(rng, false));
    }
    if rng.chance(20) {
        add(
            "projects",
            list(rng, 2, |rng| {
                one_of(rng, &["/srv/*", "p/*/x", "/srv/a*b"], &["/*", "/srv/**", "/proc/*", "[a]", "*", "/"])
            }),
        );
    }
    if rng.chance(20) {
        add("cache_dir", path(rng, false));
    }
    if rng.chance(20) {
        add("plugin_paths", list(rng, 2, |rng| one_of(rng, &["plugins", "more"], &["", "/", "~/x"])));
    }
    if rng.chance(20) {
        add("audit", Data::Table(vec![("journald".to_owned(), one_of(rng, &["auto", "off", "required"], &["on"]))]));
    }
    if rng.chance(15) {
        add("audit_file", text("x"));
        top.pop();
        let file = one_of(rng, &["log/a.jsonl", "/var/log/upm/a.jsonl"], &["", "a\0"]);
        top.retain(|(key, _)| key != "audit");
        top.push(("audit".to_owned(), Data::Table(vec![("file".to_owned(), file)])));
    }
    if rng.chance(40) {
        let mut keys = Vec::new();
        grant_keys(rng, &mut keys);
        top.push(("defaults".to_owned(), Data::Table(keys)));
    }
    let mut group = Vec::new();
    if rng.chance(70) {
        let odd = [
            "a:53",
            "1.2.3.4:443",
            "a",
            "a:0",
            "*:443",
            "ä.org:443",
            "a..b:1",
            "[::1]:443",
            "a\0:1",
            "0x7f.1:80",
            "a:٣",
            "-a:1",
            ":1",
        ];
        let hosts = ["a.org:443", "*.a.org:8443", "Localhost:80", "x_y.a.org.:443", "xn--bcher-kva.de:65535"];
        group.push(("hosts".to_owned(), list(rng, 3, |rng| one_of(rng, &hosts, &odd))));
    } else {
        group.push(("client".to_owned(), one_of(rng, &["pip", "npm"], &["apt"])));
    }
    if rng.chance(30) {
        let odd = [
            "http://u:%zz@h:1",
            "http://::::80",
            "http://h:0",
            "https://h:1",
            "http://h:1/x",
            "http://-:1",
            "http://[::1:80",
            "http://h]:80",
            "http://a..b:80",
            "http://u:é@h:1",
            "HTTP://h:1",
            "http://h:+1",
            "http://@h:1",
            "http://[1.2.3.4]:1",
            "http://h:1?",
            "http://.:1",
        ];
        let proxy = if rng.chance(70) {
            text(rng.pick(&["none", "env", "http://h:3128", "http://u:p%40@proxy.example.org:80/", "http://[::1]:1"]))
        } else {
            text(rng.pick(&odd))
        };
        group.push(("proxy".to_owned(), proxy));
    }
    if rng.chance(20) {
        group.push((rng.pick(&["tls", "allow_private"]).to_owned(), Data::Bool(true)));
    }
    top.push(("egress".to_owned(), Data::Table(vec![("a".to_owned(), Data::Table(group))])));
    let mut plugins = Vec::new();
    for name in ["X", "Pip_2"] {
        let mut plugin = vec![
            if rng.chance(80) {
                ("module".to_owned(), one_of(rng, &["x.y", "x", "_a.b1"], &["../x", "a..b", "", "a-b"]))
            } else {
                ("exec".to_owned(), one_of(rng, &["bin/x", "/opt/x"], &["", "~"]))
            },
            (
                "allowed_methods".to_owned(),
                Data::List(vec![text("m"), one_of(rng, &["n", "__introspect__"], &["__init__", "m", "_x", "", "ä"])]),
            ),
        ];
        if rng.chance(30) {
            plugin.push(("schemas".to_owned(), one_of(rng, &["schemas", "plugins/x/schemas"], &["", "{cache_dir}"])));
        }
        grant_keys(rng, &mut plugin);
        if rng.chance(40) {
            let mut keys = Vec::new();
            grant_keys(rng, &mut keys);
            let method = if rng.chance(97) { "m" } else { "o" };
            plugin.push(("methods".to_owned(), Data::Table(vec![(method.to_owned(), Data::Table(keys))])));
        }
        plugins.push((
            if rng.chance(98) { name } else { rng.pick(&["pip", "Ä", "X.y", "X\0", ""]) }.to_owned(),
            Data::Table(plugin),
        ));
        if rng.chance(60) {
            break;
        }
    }
    top.push(("plugins".to_owned(), Data::Table(plugins)));
    top
}

fn understand(path: &str, bytes: &[u8]) -> Result<Config, ConfigError> {
    read_unchecked(Path::new(path), bytes.to_vec())
}

fn refused(error: &ConfigError, path: &str, input: &[u8]) {
    assert_eq!(error.kind, ConfigErrorKind::Invalid, "{error}");
    assert_eq!(error.path, Path::new(path), "{error}");
    assert!(is_plain(&error.message) && error.message.len() < 6000, "{:?}", error.message);
    let (line, column) = error.place.expect("a place");
    let text = String::from_utf8_lossy(input);
    let there = text.split('\n').nth(line.checked_sub(1).expect("lines count from 1"));
    let there = there.unwrap_or_else(|| panic!("there is no line {line}: {error}"));
    // the place behind the last character is where something is missing
    assert!((1..=there.chars().count() + 1).contains(&column), "line {line} has no column {column}: {error}");
}

/// `path` is `dir` or below it, by the text of both.
fn within(path: &Path, dir: &Path) -> bool {
    let (path, dir) = (path.to_str().unwrap(), dir.to_str().unwrap());
    path == dir || path.starts_with(&format!("{dir}/"))
}

fn accepted(config: &Config) {
    for plugin in config.plugins.values() {
        for method in &plugin.allowed_methods {
            assert!(!method.starts_with('_') || method == "__introspect__");
            let decision = grant(config, &plugin.name, method, None).expect("an allowed method has a grant");
            let granted = &decision.grant;
            for path in granted.read.iter().chain(&granted.write).chain([&decision.project_root, &decision.cache_dir]) {
                let text = path.to_str().unwrap();
                assert!(
                    text.starts_with('/') && text != "/" && !text.contains("//") && is_plain_path(text),
                    "{text:?}"
                );
                assert!(text.split('/').all(|part| part != "." && part != ".."), "{text}");
                for reserved in ["/proc", "/sys", "/dev", "/run"] {
                    assert!(!within(path, Path::new(reserved)), "{text} is granted");
                }
            }
            let mut rules: Vec<PathBuf> = vec![config.path.clone(), granted.interpreter.clone()];
            rules.extend(config.audit.file.clone());
            rules.extend(config.plugin_paths.iter().cloned());
            rules.extend(decision.schemas.clone());
            match &decision.entry {
                Entry::Exec { path } => rules.push(path.clone()),
                Entry::Python { module } => {
                    let top = module.split('.').next().unwrap();
                    for below in config.plugin_paths.iter().map(|dir| dir.join(top)).chain(decision.schemas.clone()) {
                        assert!(
                            granted.write.iter().all(|write| !within(write, &below)),
                            "{} is in {:?}",
                            below.display(),
                            granted.write
                        );
                    }
                }
            }
            for write in &granted.write {
                assert!(rules.iter().all(|rule| !within(rule, write)), "{} holds one of {rules:?}", write.display());
            }
            assert!(
                granted
                    .env
                    .iter()
                    .all(|(key, value)| !key.starts_with("UPM_") && !key.contains('=') && !value.contains('\0'))
            );
            assert!(!matches!(granted.run_as.as_deref(), Some("root" | "0" | "4294967295" | "")));
            let sizes = [
                granted.memory,
                granted.file_size,
                granted.tmp,
                granted.output,
                granted.arguments,
                granted.result,
                granted.egress_bytes,
            ];
            assert!(sizes.iter().all(|size| (1..=i64::MAX as u64).contains(size)));
            assert!(granted.output.max(granted.arguments).max(granted.result) <= 1 << 30);
            assert!(
                [granted.timeout, granted.cpu_time]
                    .iter()
                    .all(|time| (1..=i32::MAX as u128).contains(&time.as_millis()))
            );
            assert!(granted.cpus.is_none_or(|cpus| (1_000..=819_200_000).contains(&cpus.quota_us())));
            assert!(granted.file_watches <= 1 << 20);
            assert!(granted.processes > 0 && granted.open_files > 3 && granted.landlock_min_abi > 0);
            for group in &granted.egress {
                assert!(config.egress.contains_key(&group.name));
                if let EgressSource::Hosts(hosts) = &group.source {
                    for host in hosts {
                        assert_eq!(
                            normalize(&host.name).as_ref(),
                            Some(&host.name),
                            "the gateway compares another name"
                        );
                        assert!(host.port != 0 && host.port != 53 && host.name.parse::<std::net::IpAddr>().is_err());
                    }
                }
                if let Proxy::Url(url) = &group.proxy {
                    assert!(parse_proxy(url).is_ok(), "the gateway does not understand {url:?}");
                }
            }
        }
    }
}

/// Holds what is said of `input` against what every configuration must keep to.
pub fn check(input: &[u8], is_json: bool) -> Result<Config, ConfigError> {
    let path = if is_json { JSON } else { TOML };
    let config = understand(path, input);
    match &config {
        Ok(config) => accepted(config),
        Err(error) => refused(error, path, input),
    }
    if is_json && config.is_ok() {
        assert!(json::read(input, 64).is_some(), "accepted, but no strict JSON");
    }
    config
}

fn is_plain_path(text: &str) -> bool {
    !text.contains(char::is_control) && !text.contains(['{', '}'])
}

fn one(case: &mut Case) -> bool {
    let rng = &mut case.rng;
    let top = Data::Table(configuration(rng));
    let levels = rng.below(5);
    let as_toml = || {
        let mut text = String::new();
        to_toml("", &top, levels, &mut text);
        text
    };
    let as_json = || {
        let mut text = String::new();
        to_json(&top, &mut text);
        text
    };
    let is_json = rng.chance(50);
    case.input = if is_json { as_json() } else { as_toml() }.into_bytes();
    let touched = rng.chance(60);
    if touched {
        // now and then with a piece of the other format
        let other = if rng.chance(30) { as_toml().into_bytes() } else { case.input.clone() };
        mutate(rng, &mut case.input, TOKENS, &other);
    }
    let config = check(&case.input, is_json);
    if !touched && rng.chance(30) {
        // the other format says the same
        let (other, text) = if is_json { (TOML, as_toml()) } else { (JSON, as_json()) };
        let twin = understand(other, text.as_bytes());
        let plain = |config: &Config| {
            let mut all = Vec::new();
            for plugin in config.plugins.values() {
                for method in &plugin.allowed_methods {
                    let grant = grant(config, &plugin.name, method, None).unwrap().grant;
                    all.push(serde_json::to_value(grant).unwrap());
                }
            }
            (all, config.project_root.clone(), config.cache_dir.clone(), config.audit.clone(), config.egress.clone())
        };
        match (&config, &twin) {
            (Ok(config), Ok(twin)) => assert_eq!(plain(config), plain(twin), "{text}"),
            // of several mistakes each reports the first in its own order
            (Err(_), Err(_)) => {}
            (config, twin) => panic!("{:?}, but {other}: {:?}\n{text}", config.as_ref().err(), twin.as_ref().err()),
        }
    }
    config.is_ok()
}

#[test]
fn config() {
    run("config", 6_000, 15, one);
}
