//! What the stages on a booted system need and leave: see `tests/nspawn/stage`.

use super::{assert_schema, cache, is_root, repository, skip};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What one `run` of the stages left.
#[derive(Debug, Default)]
pub struct Ran {
    pub stdout: String,
    pub stderr: String,
    pub exit: i32,
}

impl Ran {
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.exit, 0, "{self:#?}");
        &self.stdout
    }

    /// The one document, or the one record of `journalctl -o json`, that it printed.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim()).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// The line of `upm doctor --json` of this layer.
    #[track_caller]
    pub fn layer(&self, name: &str) -> Value {
        let report = self.json();
        let lines = report["layers"].as_array().unwrap();
        lines.iter().find(|line| line["layer"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}")).clone()
    }

    #[track_caller]
    pub fn envelope(&self) -> Value {
        let envelope = self.json();
        assert_schema(&envelope);
        envelope
    }

    /// The result of a call that succeeded.
    #[track_caller]
    pub fn result(&self) -> Value {
        let envelope = self.envelope();
        assert_eq!((self.exit, &envelope["success"]), (0, &json!(true)), "{envelope:#}\n{}", self.stderr);
        envelope["data"]["result"].clone()
    }

    /// The data of a call that failed.
    #[track_caller]
    pub fn failed(&self, code: &str, exit: i32) -> Value {
        let envelope = self.envelope();
        assert_eq!((self.exit, &envelope["data"]["code"]), (exit, &json!(code)), "{envelope:#}");
        envelope["data"].clone()
    }
}

/// The `.deb`; see [`packages`].
pub fn package() -> PathBuf {
    packages().0
}

/// The `.deb` and the `.rpm` for this machine, built once for all tests of a file.
pub fn packages() -> (PathBuf, PathBuf) {
    static BUILT: std::sync::LazyLock<(PathBuf, PathBuf)> =
        std::sync::LazyLock::new(|| build_packages(&[], &cache().join("target-packages")));
    BUILT.clone()
}

/// The `.deb` and the `.rpm`: as a release is, but for optimisation, which takes minutes. `target` keeps what was built.
pub fn build_packages(options: &[&str], target: &Path) -> (PathBuf, PathBuf) {
    let built = Command::new(repository().join("packaging/build"))
        .args(options)
        .arg(cache().join("packages"))
        .env("UPM_TEST_CACHE", cache())
        .env("CARGO_TARGET_DIR", target)
        .envs([("LTO", "off"), ("OPT_LEVEL", "1"), ("CODEGEN_UNITS", "16")].map(profile))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    assert!(built.status.success(), "{text}\n{}", String::from_utf8_lossy(&built.stderr));
    let named = |end: &str| text.lines().find(|line| line.ends_with(end)).unwrap_or_else(|| panic!("{end}: {text}"));
    (named(".deb").into(), named(".rpm").into())
}

/// What `packaging/cross` builds for the tests is kept here.
pub fn cross_target() -> PathBuf {
    cache().join("target-arm64")
}

/// `packaging/cross`. Its programs are small and quick, since they run on a machine that is emulated.
pub fn cross() -> Command {
    let mut command = Command::new(repository().join("packaging/cross"));
    let profile = [("DEBUG", "false"), ("STRIP", "symbols"), ("OPT_LEVEL", "1")];
    command.envs(profile.map(|(key, value)| (format!("CARGO_PROFILE_DEV_{key}"), value)));
    command.env("UPM_TEST_CACHE", cache()).env("CARGO_TARGET_DIR", cross_target());
    command
}

/// Whether programs for arm64 can be built here; if not, the test is skipped. That Debian unstable has not got the packages today is no
/// failure of this repository.
pub fn can_cross() -> bool {
    if !is_root() {
        skip("only root can make the tree that builds for arm64");
        return false;
    }
    if !super::has_program("mmdebstrap") {
        return false;
    }
    let made = cross().output().unwrap();
    let why = String::from_utf8_lossy(&made.stderr);
    if made.status.code() == Some(75) {
        println!("skipped: {why}");
        return false;
    }
    assert!(made.status.success(), "{why}");
    true
}

fn profile((key, value): (&str, &'static str)) -> (String, &'static str) {
    (format!("CARGO_PROFILE_RELEASE_{key}"), value)
}

/// Boots the system `name` by `command` and gives what the stages left in `payload`.
pub fn boot(name: &str, command: &mut Command, payload: &Path) -> BTreeMap<String, Ran> {
    stages(name, &command.env("UPM_TEST_CACHE", cache()).output().unwrap(), payload)
}

/// What the stages of the system `name` left in `payload`. It was booted by a command that gave `output`.
pub fn stages(name: &str, output: &Output, payload: &Path) -> BTreeMap<String, Ran> {
    let read = |name: &str| fs::read_to_string(payload.join(name)).unwrap_or_default();
    assert!(
        output.status.success() && payload.join("done").exists(),
        "{name} did not finish: {}\n{}\n{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
        read("console"),
        read("trace")
    );
    if let Some(keep) = std::env::var_os("UPM_TEST_KEEP").filter(|keep| !keep.is_empty()) {
        let copied = Command::new("cp").arg("-a").arg(payload).arg(Path::new(&keep).join(name)).status();
        assert!(copied.is_ok_and(|status| status.success()), "{keep:?}");
    }
    let mut all = BTreeMap::<String, Ran>::new();
    for entry in fs::read_dir(payload.join("out")).unwrap().flatten() {
        let file = entry.file_name().into_string().unwrap();
        let (run, part) = file.rsplit_once('.').unwrap();
        let text = String::from_utf8_lossy(&fs::read(entry.path()).unwrap()).into_owned();
        let ran = all.entry(run.to_owned()).or_default();
        match part {
            "stdout" => ran.stdout = text,
            "stderr" => ran.stderr = text,
            "exit" => ran.exit = text.trim().parse().unwrap(),
            "milliseconds" => println!("{name}: {run}: {} ms", text.trim()),
            _ => panic!("{file}"),
        }
    }
    all
}
