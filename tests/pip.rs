//! PipPlugin as it is shipped, with the shipped configuration of it: installs, and what goes wrong with them.
//!
//! Most tests use an index of their own on the host's loopback, under a made-up name; that needs root, also for the
//! user's cases. One installs from whatever index the host's own pip is configured for.

mod common;

use common::{Answer, Call, Fixture, Mode, Server, has_program, is_root, skip};
use rstest::rstest;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::LazyLock;

const PYTHON: &str = "/usr/bin/python3";

/// Made-up names, for the host's own `/etc/hosts`.
const HOSTS: &str = "127.0.0.1 localhost index.test\n";

/// Writes what an index serves into the directory it is given: wheels, one source package, and pages by PEP 503.
const PACKAGES: &str = r#"
import hashlib, io, os, sys, tarfile, zipfile
os.chdir(sys.argv[1])
served = {}

def wheel(name, version, needs=(), extra=()):
    file = f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {need}\n" for need in needs)
    content = {f"{name}.py": f"version = '{version}'\n".encode(), **dict(extra)}
    content[f"{info}/METADATA"] = head.encode()
    content[f"{info}/WHEEL"] = b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    content[f"{info}/RECORD"] = "".join(f"{path},,\n" for path in [*content, f"{info}/RECORD"]).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, data in content.items():
            archive.writestr(path, data)
    served.setdefault(name, []).append(file)

wheel("alpha", "1.0", needs=["beta>=2"])
wheel("beta", "2.0")
wheel("gamma", "1.0")
wheel("gamma", "1.1")
wheel("huge", "1.0", extra=[("huge.bin", bytes(16 << 20))])
with tarfile.open("source-1.0.tar.gz", "w:gz") as archive:
    for path, data in {
        "source-1.0/PKG-INFO": b"Metadata-Version: 2.1\nName: source\nVersion: 1.0\n",
        "source-1.0/setup.py": b"import os\nos.makedirs(os.environ['RAN'])\n",
    }.items():
        entry = tarfile.TarInfo(path)
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
served["source"] = ["source-1.0.tar.gz"]
for name, files in served.items():
    os.makedirs(f"simple/{name}")
    with open(f"simple/{name}/index.html", "w") as page:
        for file in files:
            digest = hashlib.sha256(open(file, "rb").read()).hexdigest()
            page.write(f'<a href="/{file}#sha256={digest}">{file}</a>\n')
"#;

/// What the index serves, by path.
static SERVED: LazyLock<HashMap<String, Vec<u8>>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let made = std::process::Command::new(PYTHON).args(["-I", "-c", PACKAGES]).arg(dir.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let mut served = HashMap::new();
    for entry in fs::read_dir(dir.path()).unwrap().flatten().filter(|entry| entry.path().is_file()) {
        served.insert(format!("/{}", entry.file_name().to_str().unwrap()), fs::read(entry.path()).unwrap());
    }
    for entry in fs::read_dir(dir.path().join("simple")).unwrap().flatten() {
        let page = fs::read(entry.path().join("index.html")).unwrap();
        served.insert(format!("/simple/{}/", entry.file_name().to_str().unwrap()), page);
    }
    served
});

/// An index on loopback, and a fixture whose `install` is granted that one.
struct Index {
    f: Fixture,
    server: Server,
}

impl Index {
    fn new(mode: Mode) -> Option<Index> {
        Index::granted(mode, "")
    }

    /// With more grant keys for `install`.
    fn granted(mode: Mode, grant: &str) -> Option<Index> {
        if !is_root() {
            skip("a made-up /etc/hosts needs root");
            return None;
        }
        let server = Server::answering(|request| {
            let path = String::from_utf8_lossy(request).split(' ').nth(1).unwrap_or("").to_owned();
            let (status, body) = match SERVED.get(&path) {
                Some(body) => ("200 OK", body.clone()),
                None => ("404 Not Found", Vec::new()),
            };
            let kind = if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
            let length = body.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
            );
            [head.into_bytes(), body].concat()
        });
        let f = Fixture::shipped(mode, |tables| local(tables, server.port, grant))?;
        f.write("hosts", HOSTS);
        Some(Index { f, server })
    }

    fn start(&self, method: &str, arguments: &Value) -> Call<'_> {
        self.f.upm(["PipPlugin", method, &arguments.to_string()]).hosts("hosts")
    }

    fn install(&self, arguments: &Value) -> Answer {
        self.start("install", arguments).run()
    }

    /// Paths that were asked for.
    fn asked(&self) -> Vec<String> {
        let text = |bytes: &Vec<u8>| String::from_utf8_lossy(bytes).split(' ').nth(1).unwrap_or("").to_owned();
        self.server.seen().iter().map(text).collect()
    }
}

/// The shipped tables, with an index on this port of `index.test` in the place of the host's own.
fn local(tables: &str, port: u16, grant: &str) -> String {
    let group = format!("hosts = [\"index.test:{port}\"]\nallow_private = true\ntls = false");
    let grant = format!(
        "egress = [\"pip\"]\n{grant}\nenv = {{ PIP_INDEX_URL = \"http://index.test:{port}/simple/\", \
         PIP_TRUSTED_HOST = \"index.test\", PIP_RETRIES = \"1\", PIP_TIMEOUT = \"5\" }}"
    );
    swap(&swap(tables, "client = \"pip\"", &group), "egress = [\"pip\"]", &grant)
}

/// Replaces what must be there once.
fn swap(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old}:\n{text}");
    text.replace(old, new)
}

/// Runs the environment's own interpreter on the host, outside any sandbox, as the caller.
fn python(f: &Fixture, code: &str) -> Output {
    f.as_caller(&f.path("project/.venv/bin/python")).args(["-I", "-B", "-c", code]).output().unwrap()
}

/// Where the environment keeps its packages.
fn site_packages(f: &Fixture) -> PathBuf {
    let lib = fs::read_dir(f.path("project/.venv/lib")).unwrap().next().unwrap().unwrap();
    lib.path().join("site-packages")
}

#[track_caller]
fn assert_imports(f: &Fixture, module: &str) {
    let done = python(f, &format!("import {module}; print({module}.__file__)"));
    let file = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && file.starts_with(&f.text("project/.venv/")), "{module}: {done:?}");
}

#[track_caller]
fn assert_no_import(f: &Fixture, module: &str) {
    let done = python(f, &format!("import {module}"));
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(error.contains("ModuleNotFoundError"), "{module}: {done:?}");
}

/// A failure of pip's: the plugin raised, and pip's own words are in its stderr.
#[track_caller]
fn assert_pip_says(answer: &Answer, words: &str) -> Value {
    let data = answer.failed("plugin_raised", 1);
    let stderr = data["output"]["stderr"].as_str().unwrap_or_default();
    assert!(stderr.contains(words), "pip does not say {words:?}: {data:#}");
    data
}

/// All below `dir` and `dir` itself belong to `uid`.
#[track_caller]
fn assert_owner(dir: &Path, uid: u32) {
    let data = fs::symlink_metadata(dir).unwrap();
    assert_eq!((data.uid(), data.gid()), (uid, uid), "{}", dir.display());
    if data.is_dir() {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            assert_owner(&entry.path(), uid);
        }
    }
}

/// Gives the project to somebody who is neither root nor upm's user, when root calls; says to whom it then belongs.
fn give_project(f: &Fixture) -> u32 {
    if f.mode == Mode::User {
        return f.uid;
    }
    chown(f.path("project"), Some(34567), Some(34567)).unwrap();
    34567
}

/// Why the host's pip cannot have `six` from its index; `None` when it can.
static NO_REGISTRY: LazyLock<Option<String>> = LazyLock::new(|| {
    let dir = tempfile::tempdir().unwrap();
    let got = std::process::Command::new(PYTHON)
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"])
        .args(["--only-binary", ":all:", "--retries", "1", "--timeout", "10", "--dest"])
        .arg(dir.path())
        .arg("six")
        .env_clear()
        .env("HOME", dir.path())
        .output();
    match got {
        Ok(got) if got.status.success() => None,
        Ok(got) => {
            let text = String::from_utf8_lossy(&got.stderr).into_owned();
            Some(format!("the host's pip cannot have six: {}", text.lines().last().unwrap_or("no reason given")))
        }
        Err(error) => Some(format!("{PYTHON}: {error}")),
    }
});

/// Hosts that the host's pip uses, by pip's own classes; run without the product.
const PIP_HOSTS: &str = r#"
from urllib.parse import urlsplit
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
configuration = Configuration(isolated=False)
configuration.load()
values = {key.partition(".")[2]: value for key, value in configuration.items()}
urls = [values.get("index-url", PyPI.simple_url)] + values.get("extra-index-url", "").split() + values.get("find-links", "").split()
for host in filter(None, (urlsplit(url).hostname for url in urls)):
    print(host)
    if host == PyPI.netloc:
        print(PyPI.file_storage_domain)
"#;

#[rstest]
fn from_the_hosts_own_index(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::shipped(mode, str::to_owned) else { return };
    if let Some(reason) = &*NO_REGISTRY {
        return skip(reason);
    }
    let owner = give_project(&f);
    let answer = f.call("PipPlugin", "install", &json!(["six"]));
    let result = answer.result();
    let version = result["installed"][0]["version"].as_str().unwrap_or_else(|| panic!("{result:#}")).to_owned();
    let six = json!({ "name": "six", "version": version });
    assert_eq!(result, json!({ "status": "installed", "package": "six", "installed": [six] }));
    assert_eq!(answer.data()["plugin_version"], "1.0.0");

    let known = f.as_caller(Path::new(PYTHON)).args(["-c", PIP_HOSTS]).output().unwrap();
    let known = String::from_utf8(known.stdout).unwrap();
    let egress = answer.data()["egress"].as_array().unwrap().clone();
    assert!(!egress.is_empty() || known.is_empty(), "{:#}", answer.data());
    for record in &egress {
        assert!(known.lines().any(|host| record["host"] == host), "{record} is none of pip's hosts: {known:?}");
    }
    assert_eq!(answer.data()["denials"], json!([]));

    assert_owner(&f.path("project"), owner);
    assert_imports(&f, "six");
    let shown = f.call("PipPlugin", "list", &json!([]));
    assert_eq!(shown.result(), json!({ "packages": [six] }));
    assert_eq!(shown.data()["egress"], json!([]));

    let again = f.call("PipPlugin", "install", &json!(["six"]));
    assert_eq!(again.result(), json!({ "status": "installed", "package": "six", "installed": [] }));
    assert_imports(&f, "six");

    let gone = f.call("PipPlugin", "uninstall", &json!(["six"])).result();
    assert_eq!(gone, json!({ "status": "uninstalled", "package": "six", "uninstalled": [six] }));
    assert_no_import(&f, "six");
    assert_eq!(f.call("PipPlugin", "list", &json!([])).result(), json!({ "packages": [] }));
    f.assert_clean();
}

#[rstest]
fn what_it_says_of_itself(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::shipped(mode, str::to_owned) else { return };
    let version = f.call("PipPlugin", "version", &json!([]));
    assert_eq!(version.result(), "1.0.0");
    assert_eq!(version.data()["plugin_version"], "1.0.0");
    let info = f.call("PipPlugin", "info", &json!([])).result();
    assert_eq!((&info["name"], &info["version"]), (&json!("PipPlugin"), &json!("1.0.0")));
    assert_eq!(info["methods"], json!(["install", "uninstall", "list", "version", "info", "meta"]));
    let meta = f.call("PipPlugin", "meta", &json!([])).result();
    assert_eq!(meta["venv"], f.text("project/.venv"));
    assert_eq!(meta["cache_dir"], f.text("cache/PipPlugin"));
    assert_eq!(meta["interpreter"], PYTHON);
    let mut control = f.as_caller(Path::new(PYTHON));
    control.args(["-c", "import platform; print(platform.python_version())"]);
    let control = String::from_utf8(control.output().unwrap().stdout).unwrap();
    assert_eq!(meta["python"], control.trim());
    assert_eq!(f.call("PipPlugin", "list", &json!([])).result(), json!({ "packages": [] }));
    assert!(!f.path("project/.venv").exists(), "what asks changes nothing");
}

#[rstest]
fn install_list_uninstall(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    let owner = give_project(&i.f);
    let answer = i.install(&json!({ "args": ["alpha"] }));
    let both = json!([{ "name": "alpha", "version": "1.0" }, { "name": "beta", "version": "2.0" }]);
    assert_eq!(answer.result(), json!({ "status": "installed", "package": "alpha", "installed": both }));
    for record in answer.data()["egress"].as_array().unwrap() {
        assert_eq!((&record["host"], &record["port"]), (&json!("index.test"), &json!(i.server.port)));
    }
    for path in ["/simple/alpha/", "/alpha-1.0-py3-none-any.whl", "/simple/beta/", "/beta-2.0-py3-none-any.whl"] {
        assert_eq!(i.asked().iter().filter(|asked| *asked == path).count(), 1, "{path}: {:?}", i.asked());
    }
    assert_owner(&i.f.path("project"), owner);
    assert_imports(&i.f, "alpha");
    assert_imports(&i.f, "beta");
    assert_eq!(i.start("list", &json!({})).run().result(), json!({ "packages": both }));

    let again = i.install(&json!({ "args": ["alpha"] })).result();
    assert_eq!(again, json!({ "status": "installed", "package": "alpha", "installed": [] }));

    let unknown = i.start("uninstall", &json!({ "args": ["beta", "gamma"] })).run().failed("plugin_raised", 1);
    assert!(unknown["error"].as_str().unwrap().contains("gamma: not installed"), "{unknown:#}");
    assert_imports(&i.f, "beta");
    let gone = i.start("uninstall", &json!({ "args": ["Alpha"] })).run().result();
    assert_eq!(gone["uninstalled"], json!([{ "name": "alpha", "version": "1.0" }]));
    assert_no_import(&i.f, "alpha");
    assert_imports(&i.f, "beta");
    i.f.assert_clean();
}

#[rstest]
fn versions(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    let old = i.install(&json!({ "args": ["gamma>=1,<1.1"] })).result();
    assert_eq!(old["installed"], json!([{ "name": "gamma", "version": "1.0" }]));
    let new = i.install(&json!({ "args": ["gamma"], "kwargs": { "upgrade": true } })).result();
    assert_eq!(new["installed"], json!([{ "name": "gamma", "version": "1.1" }]));
    let shown = String::from_utf8(python(&i.f, "import gamma; print(gamma.version)").stdout).unwrap();
    assert_eq!(shown.trim(), "1.1");
}

#[rstest]
fn a_package_that_is_not_there(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    let data =
        assert_pip_says(&i.install(&json!({ "args": ["nosuch"] })), "ERROR: No matching distribution found for nosuch");
    let error = data["error"].as_str().unwrap();
    assert!(error.contains("No matching distribution found for nosuch"), "{error}");
    assert_eq!(i.asked(), ["/simple/nosuch/"]);
    // the twin, in the environment that the failure left
    i.install(&json!({ "args": ["beta"] })).result();
    assert_imports(&i.f, "beta");
}

#[rstest]
fn wheels_only(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    assert_pip_says(
        &i.install(&json!({ "args": ["source"] })),
        "Could not find a version that satisfies the requirement source (from versions: none)",
    );
    assert_eq!(i.asked(), ["/simple/source/"], "its archive was not even fetched, so its setup.py not run");
    // the twin: the caller's own pip, on the host, runs setup.py
    fs::write(i.f.path("home/source-1.0.tar.gz"), &SERVED["/source-1.0.tar.gz"]).unwrap();
    let control =
        i.f.as_caller(Path::new(PYTHON))
            .args(["-m", "pip", "download", "--no-deps", "--no-build-isolation", "--no-index", "--dest"])
            .arg(i.f.path("home"))
            .arg(i.f.path("home/source-1.0.tar.gz"))
            .env("RAN", i.f.path("home/ran"))
            .output()
            .unwrap();
    assert!(i.f.path("home/ran").exists(), "{control:?}");
}

#[rstest]
fn hashes(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    let page = String::from_utf8_lossy(&SERVED["/simple/beta/"]).into_owned();
    let (_, digest) = page.split_once("#sha256=").unwrap();
    let digest = format!("sha256:{}", &digest[..64]);
    let wrong = format!("sha256:{}", "0".repeat(64));
    let asked = |hash: &str| i.install(&json!({ "args": ["beta==2.0"], "kwargs": { "hashes": [hash] } }));
    let data = assert_pip_says(&asked(&wrong), "DO NOT MATCH THE HASHES");
    let stderr = data["output"]["stderr"].as_str().unwrap();
    assert!(stderr.contains(&digest[7..]), "pip names what it got: {data:#}");
    assert_no_import(&i.f, "beta");
    let installed = asked(&digest).result()["installed"].clone();
    assert_eq!(installed, json!([{ "name": "beta", "version": "2.0" }]));
    assert_imports(&i.f, "beta");
}

#[rstest]
fn a_full_disk(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    if !has_program("mkfs.ext4") || !Path::new("/dev/loop-control").exists() {
        return skip("a disk of its own needs mkfs.ext4 and loop devices");
    }
    let on_disk = |package: &str| i.start("install", &json!({ "args": [package] })).disk("project", 8 << 10).run();
    assert_pip_says(&on_disk("huge"), "ERROR: Could not install packages due to an OSError: [Errno 28]");
    // the twins: a small package on such a disk, the large one elsewhere
    assert_eq!(on_disk("beta").result()["installed"][0]["name"], "beta");
    assert!(!i.f.path("project/.venv").exists(), "the disk was only that call's");
    assert_eq!(i.install(&json!({ "args": ["huge"] })).result()["installed"][0]["name"], "huge");
    i.f.assert_clean();
}

#[rstest]
fn a_file_over_the_limit(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::granted(mode, "file_size = \"4MiB\"") else { return };
    assert_pip_says(
        &i.install(&json!({ "args": ["huge"] })),
        "ERROR: Could not install packages due to an OSError: [Errno 27]",
    );
    // pip itself leaves the files that it had written; as a package it is not there
    assert_eq!(i.start("list", &json!({})).run().result(), json!({ "packages": [] }));
    i.install(&json!({ "args": ["beta"] })).result();
    assert_imports(&i.f, "beta");
    // and the next install, with more room, completes it
    let config = fs::read_to_string(i.f.path("upm_config.toml")).unwrap();
    i.f.write("upm_config.toml", swap(&config, "file_size = \"4MiB\"", "file_size = \"64MiB\""));
    assert_eq!(i.install(&json!({ "args": ["huge"] })).result()["installed"][0]["name"], "huge");
    assert_imports(&i.f, "huge");
    assert_eq!(fs::metadata(site_packages(&i.f).join("huge.bin")).unwrap().len(), 16 << 20);
}

/// What pip prints about a failed connection before it tries again.
const BROKEN: &str = "after connection broken by";

/// A fixture whose caller has this index in a pip.conf of its own, and the shipped configuration.
fn with_index(mode: Mode, url: &str) -> Option<Fixture> {
    let f = Fixture::shipped(mode, str::to_owned)?;
    f.mkdir("home/.pip");
    let trusted = "index.test index.invalid home.invalid xdg.invalid variable.invalid";
    let text = format!("[global]\nindex-url = {url}\nretries = 1\ntimeout = 5\ntrusted-host = {trusted}\n");
    f.write("home/.pip/pip.conf", text);
    Some(f)
}

#[rstest]
fn loopback_is_never_granted_by_pips_configuration(#[values(Mode::Root, Mode::User)] mode: Mode) {
    if !is_root() {
        return skip("a made-up /etc/hosts needs root");
    }
    let server = Server::start();
    let url = format!("http://index.test:{}/simple/", server.port);
    let Some(f) = with_index(mode, &url) else { return };
    f.write("hosts", HOSTS);
    let answer = f.upm(["PipPlugin", "install", r#"{"args":["beta"]}"#]).hosts("hosts").run();
    let data = assert_pip_says(&answer, "ERROR: No matching distribution found for beta");
    assert_pip_says(&answer, BROKEN);
    assert_eq!(data["egress"][0]["host"], "index.test", "{data:#}");
    assert_eq!(data["egress"][0]["end"], "address_refused", "{data:#}");
    let denial = data["denials"][0].as_object().unwrap_or_else(|| panic!("no denial: {data:#}"));
    assert_eq!(denial["layer"], "egress", "{denial:#?}");
    assert!(denial["object"].to_string().contains("index.test"), "{denial:#?}");
    assert!(denial["remedy"].as_str().unwrap().contains("allow_private"), "{denial:#?}");
    assert!(server.seen().is_empty());
    // the twin: with the site's own word in the configuration it is dialled
    let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    f.write("upm_config.toml", swap(&config, "client = \"pip\"", "client = \"pip\"\nallow_private = true"));
    f.upm(["PipPlugin", "install", r#"{"args":["beta"]}"#]).hosts("hosts").run().failed("plugin_raised", 1);
    let seen = server.seen();
    assert!(String::from_utf8_lossy(&seen[0]).starts_with("GET /simple/beta/ "), "{seen:?}");
}

#[rstest]
fn an_index_that_is_down(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    // a port that was free a moment ago
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = fs::read_to_string(i.f.path("upm_config.toml")).unwrap();
    i.f.write("upm_config.toml", config.replace(&format!(":{}", i.server.port), &format!(":{port}")));
    let answer = i.install(&json!({ "args": ["beta"] }));
    let data = assert_pip_says(&answer, "ERROR: No matching distribution found for beta");
    assert_pip_says(&answer, BROKEN);
    let record = &data["egress"][0];
    assert_eq!((&record["host"], &record["port"]), (&json!("index.test"), &json!(port)));
    assert!(record["end"].as_str().unwrap().starts_with("connect_failed: Connection refused"), "{record}");
}

#[rstest]
fn an_index_whose_name_does_not_resolve(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = with_index(mode, "http://index.invalid:8080/simple/") else { return };
    let answer = f.upm(["PipPlugin", "install", r#"{"args":["beta"]}"#]).run();
    let data = assert_pip_says(&answer, "ERROR: No matching distribution found for beta");
    assert_pip_says(&answer, BROKEN);
    let record = &data["egress"][0];
    assert_eq!((&record["host"], &record["port"]), (&json!("index.invalid"), &json!(8080)));
    assert!(record["end"].as_str().unwrap().starts_with("resolve_failed: "), "{record}");
}

#[rstest]
fn pips_configuration_in_the_xdg_directory(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = with_index(mode, "http://home.invalid:8080/simple/") else { return };
    // read after ~/.pip/pip.conf, so this one counts
    f.mkdir("home/config");
    f.mkdir("home/config/pip");
    f.write("home/config/pip/pip.conf", "[global]\nindex-url = http://xdg.invalid:8080/simple/\n");
    let control = f.as_caller(Path::new(PYTHON)).args(["-m", "pip", "config", "get", "global.index-url"]).output();
    assert_eq!(String::from_utf8(control.unwrap().stdout).unwrap().trim(), "http://xdg.invalid:8080/simple/");
    // as root a variable counts only where the grant names it
    let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    let passed = swap(&config, "egress = [\"pip\"]", "egress = [\"pip\"]\nenv_pass = [\"XDG_CONFIG_HOME\"]");
    f.write("upm_config.toml", passed);
    let data = f.call("PipPlugin", "install", &json!(["beta"])).failed("plugin_raised", 1);
    assert!(data["output"]["stdout"].as_str().unwrap().contains("xdg.invalid"), "{data:#}");
}

/// A caller's variable configures a user's pip. Root's it does only where the grant names it: the right to one call is
/// no right to choose where root installs from.
#[rstest]
#[case::user(Mode::User, "", "variable.invalid")]
#[case::root(Mode::Root, "", "home.invalid")]
#[case::root_passed(Mode::Root, "env_pass = [\"PIP_INDEX_URL\"]", "variable.invalid")]
fn pips_configuration_in_a_variable(#[case] mode: Mode, #[case] grant: &str, #[case] asked: &str) {
    let Some(f) = with_index(mode, "http://home.invalid:8080/simple/") else { return };
    let config = fs::read_to_string(f.path("upm_config.toml")).unwrap();
    f.write("upm_config.toml", swap(&config, "egress = [\"pip\"]", &format!("egress = [\"pip\"]\n{grant}")));
    let answer = f
        .upm(["PipPlugin", "install", r#"{"args":["beta"]}"#])
        .env("PIP_INDEX_URL", "http://variable.invalid:8080/simple/")
        .run();
    let data = assert_pip_says(&answer, "ERROR: No matching distribution found for beta");
    assert_eq!(data["egress"][0]["host"], asked, "{data:#}");
    assert_eq!(data["output"]["stdout"], format!("Looking in indexes: http://{asked}:8080/simple/\n"));
}

/// Root's pip.conf that somebody else could have written is refused, and nothing runs.
#[rstest]
fn pips_configuration_of_somebody_else() {
    let Some(f) = with_index(Mode::Root, "http://home.invalid:8080/simple/") else { return };
    chown(f.path("home/.pip/pip.conf"), Some(34567), None).unwrap();
    let data = f.call("PipPlugin", "install", &json!(["beta"])).failed("config_invalid", 125);
    assert!(data["error"].as_str().unwrap().starts_with(&f.text("home/.pip/pip.conf")), "{data:#}");
    assert!(!f.path("project/.venv").exists());
}

/// What may not be a requirement, and a twin that differs little and may.
const FORMS: &[(&str, &str)] = &[
    ("-r", "r"),
    ("--index-url=http://a.test", "index-url==1"),
    ("-e", "e"),
    ("--", "a--b"),
    ("-", "a-b"),
    ("http://a.test/a-1.0-py3-none-any.whl", "a-1.0-py3-none-any"),
    ("https://a.test/", "https"),
    ("file:///etc/passwd", "file"),
    ("a @ http://a.test/a.whl", "a"),
    ("a@http://a.test/a.whl", "a"),
    ("a@file:///a", "a"),
    ("git+https://a.test/a.git", "git"),
    ("hg+ssh://a.test/a#egg=a", "hg"),
    ("./a", "a"),
    ("../a", "a"),
    ("/etc/passwd", "passwd"),
    ("~/a", "a"),
    (".", "a.b"),
    ("a/b", "a-b"),
    ("a\\b", "a_b"),
    ("a.whl", "a.while"),
    ("a.tar.gz", "a.tarball"),
    ("a.ZIP", "a.zipper"),
    ("a\u{0}", "a0"),
    ("a\u{1b}[2J", "a2J"),
    ("a\u{7f}", "a7f"),
    ("a; python_version>'3'", "a>3"),
    ("a;sys_platform=='linux'", "a==1"),
    ("a b", "a.b"),
    (" a", "a"),
    ("a ", "a"),
    ("a >= 1", "a>=1"),
    ("a\t", "a"),
    ("a\n", "a"),
    ("a\n--index-url=http://a.test", "a"),
    ("a\r", "a"),
    ("a\u{a0}", "a"),
    ("а", "a"), // Cyrillic
    ("", "a"),
    ("a==1 --hash=sha256:0", "a==1"),
    ("a[b c]", "a[b,c]"),
    ("a[--b]", "a[b]"),
    ("a>=", "a>=1"),
    ("a>=1,", "a>=1,<2"),
    ("a===1", "a==1"),
    ("${HOME}", "HOME"),
];

/// A call with the twin gets past every check of its form, to the policy.
const NOTHING: &str = "policy = { packages = [] }";

#[rstest]
fn what_is_no_requirement_is_refused(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) =
        Fixture::shipped(mode, |tables| swap(tables, "egress = [\"pip\"]", &format!("egress = []\n{NOTHING}")))
    else {
        return;
    };
    let hash = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let mut refused: Vec<Value> = FORMS.iter().map(|(bad, _)| json!({ "args": [bad] })).collect();
    refused.push(json!({ "args": ["a", FORMS[0].0] }));
    refused.push(json!({ "args": [] }));
    refused.push(json!({ "args": ["a".repeat(513)] }));
    for bad in ["", "--hash", "md5:0", &hash[..70], &format!("{hash}\n"), &format!("{hash} -e")] {
        refused.push(json!({ "args": ["a"], "kwargs": { "hashes": [bad] } }));
    }
    for kwargs in [json!({ "index_url": "http://a.test" }), json!({ "upgrade": "--pre" }), json!({ "hashes": hash })] {
        refused.push(json!({ "args": ["a"], "kwargs": kwargs }));
    }
    for arguments in &refused {
        let data = f.upm(["PipPlugin", "install", &arguments.to_string()]).run().failed("arguments_invalid", 2);
        assert!(data.get("sandbox").is_none() && data.get("output").is_none(), "{arguments} ran: {data:#}");
    }
    for bad in ["--yes", "-r", "a==1", "a[b]", "a\n", "../a", "a.whl", ""] {
        let data = f.call("PipPlugin", "uninstall", &json!([bad])).failed("arguments_invalid", 2);
        assert!(data.get("sandbox").is_none(), "{bad:?} ran: {data:#}");
    }
    assert!(!f.path("cache/PipPlugin").exists() && !f.path("project/.venv").exists(), "something ran");

    let mut good: Vec<&str> = FORMS.iter().map(|(_, good)| *good).collect();
    good.sort_unstable();
    good.dedup();
    for arguments in good
        .iter()
        .map(|good| json!({ "args": [good] }))
        .chain([json!({ "args": good }), json!({ "args": ["a"], "kwargs": { "hashes": [hash], "upgrade": true } })])
    {
        let data = f.upm(["PipPlugin", "install", &arguments.to_string()]).run().failed("plugin_raised", 1);
        assert!(data["error"].as_str().unwrap().contains("not one of the policy's packages"), "{arguments}: {data:#}");
    }
    let data = f.call("PipPlugin", "uninstall", &json!(["a.b-c_d"])).failed("plugin_raised", 1);
    assert!(data["error"].as_str().unwrap().contains("a.b-c_d: not installed"), "{data:#}");
}

/// The plugin's own check of the same forms serves a configuration that names no schema.
#[rstest]
fn what_is_no_requirement_is_refused_without_a_schema(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::shipped(mode, |tables| {
        let tables = swap(tables, "schemas = \"plugins/pip_plugin/schemas\"\n", "");
        swap(&tables, "egress = [\"pip\"]", &format!("egress = []\n{NOTHING}"))
    }) else {
        return;
    };
    for (bad, _) in FORMS {
        let data = f.call("PipPlugin", "install", &json!([bad])).failed("plugin_raised", 1);
        let error = data["error"].as_str().unwrap();
        assert!(error.contains("not accepted") || error.contains("would take it for a file"), "{bad:?}: {data:#}");
    }
    assert!(!f.path("project/.venv").exists());
}

#[rstest]
fn two_installs_at_once(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(i) = Index::new(mode) else { return };
    let running = ["alpha", "gamma"].map(|package| i.start("install", &json!({ "args": [package] })).start());
    for (running, package) in running.into_iter().zip(["alpha", "gamma"]) {
        assert_eq!(running.wait().result()["installed"][0]["name"], package);
    }
    for package in ["alpha", "beta", "gamma"] {
        assert_imports(&i.f, package);
    }
    let shown = i.start("list", &json!({})).run().result();
    let names: Vec<&Value> = shown["packages"].as_array().unwrap().iter().map(|entry| &entry["name"]).collect();
    assert_eq!(names, ["alpha", "beta", "gamma"]);
    i.f.assert_clean();
}

/// Before the plugin starts, pip's own configuration is read by pip's code: in the call's time, and the caller can cancel it.
#[rstest]
fn the_reading_of_pips_configuration_ends_with_the_call(#[values(Mode::Root, Mode::User)] mode: Mode) {
    let Some(f) = Fixture::shipped(mode, str::to_owned) else { return };
    let install = ["PipPlugin", "install", r#"{"args":["alpha"]}"#];
    // pip's import alone takes longer
    let data = f.upm(install.into_iter().chain(["--timeout", "30ms"])).run().failed("timeout", 124);
    assert!(data["error"].as_str().unwrap().contains("while reading the configuration of pip"), "{data:#}");
    assert!(data.get("usage").is_none(), "the plugin was not started: {data:#}");

    let running = f.upm(install).start();
    let children = format!("/proc/{0}/task/{0}/children", running.pid());
    // its first child is the reader's supervisor
    let begun = std::time::Instant::now();
    while fs::read_to_string(&children).unwrap().is_empty() && begun.elapsed().as_secs() < 20 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    running.signal(nix::sys::signal::Signal::SIGTERM);
    let data = running.wait().failed("cancelled", 143);
    assert!(data.get("usage").is_none(), "the plugin was not started: {data:#}");
    f.assert_clean();
}
