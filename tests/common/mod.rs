//! The harness of all tests that go through the `upm` program.
//!
//! A [`Fixture`] is a directory with a configuration, plugins and the programs; a [`Call`] runs `upm` in it as root
//! or as an ordinary user and checks every envelope against `response.schema.json`. `Fixture::control` runs the probe
//! outside the sandbox as the same user: the twin that shows that a denied act works where it is allowed.
#![allow(dead_code, reason = "each test file uses its own part of the harness")]

pub mod booted;
pub mod guest;
pub mod service;
pub mod tls;

use serde_json::{Value, json};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest that any call of a test may take, unless the test says otherwise: 30 s, or the seconds of `UPM_TEST_PATIENCE`,
/// which a guest without KVM sets.
static PATIENCE: LazyLock<Duration> = LazyLock::new(|| {
    let seconds = std::env::var("UPM_TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
});

/// First of the user ids that tests use; no host's `passwd` knows them.
const FIRST_USER: u32 = 23456;

/// When root calls: whose the directories are that plugins may write. Not root, whose they may not be, and not the user
/// that a plugin is outside, so that ids are mapped.
pub const OWNER: u32 = 23455;

/// Who calls `upm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Root, with supplementary groups.
    Root,
    /// A user without groups that `passwd` does not know; when the tests themselves run as a user, that one.
    User,
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Says why a test does not run here. With `UPM_TESTS_MUST_RUN=1` that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("UPM_TESTS_MUST_RUN").is_none_or(|v| v != "1"), "must run, but: {reason}");
    println!("skipped: {reason}");
}

/// Whether a program is there; when it is not, the test is skipped.
pub fn has_program(name: &str) -> bool {
    let found = which(name).is_some();
    if !found {
        skip(&format!("{name} is not installed"));
    }
    found
}

/// Where a program is.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin", "/usr/lib/systemd"].map(PathBuf::from));
    places.into_iter().map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// The repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What tests keep between runs, outside the checkout: `$UPM_TEST_CACHE`, else `/var/tmp/upm-tests-UID`. The users of
/// the tests must be able to reach it.
pub fn cache() -> PathBuf {
    let uid = nix::unistd::geteuid();
    let dir = std::env::var_os("UPM_TEST_CACHE")
        .map_or_else(|| PathBuf::from(format!("/var/tmp/upm-tests-{uid}")), PathBuf::from);
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    dir
}

/// The built programs, copied once to where every user of the tests can reach them.
struct Programs {
    upm: PathBuf,
    probe: PathBuf,
}

static PROGRAMS: LazyLock<Programs> = LazyLock::new(|| {
    let upm = PathBuf::from(env!("CARGO_BIN_EXE_upm"));
    let probe = built_probe();
    Programs { upm: reachable(&upm), probe: reachable(&probe) }
});

/// The probe as cargo built it: another package of the workspace, so next to `upm` and not in an own variable.
pub fn built_probe() -> PathBuf {
    let probe = Path::new(env!("CARGO_BIN_EXE_upm")).with_file_name("upm-probe");
    assert!(probe.is_file(), "{}: build it with `cargo build -p upm-probe`, as tests/run does", probe.display());
    probe
}

/// A copy in the cache, named after the content's age and size, so that a new build makes a new copy. Copies older than a day go.
fn reachable(program: &Path) -> PathBuf {
    let data = fs::metadata(program).unwrap_or_else(|e| panic!("{}: {e}", program.display()));
    let name = program.file_name().unwrap().to_string_lossy();
    let dir = cache().join("bin");
    fs::create_dir_all(&dir).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join(format!("{name}-{}-{}-{}", data.len(), data.mtime(), data.mtime_nsec()));
    if !copy.exists() {
        for old in fs::read_dir(&dir).unwrap().flatten() {
            let is_copy = old.file_name().to_string_lossy().strip_prefix(&*name).is_some_and(|rest| {
                rest.strip_prefix('-').is_some_and(|rest| rest.bytes().all(|b| b == b'-' || b.is_ascii_digit()))
            });
            // a recent one may be in use by tests of another build that run at the same time
            let age = old.metadata().and_then(|data| data.modified()).ok().and_then(|at| at.elapsed().ok());
            if is_copy && age.is_some_and(|age| age > Duration::from_secs(24 * 3600)) {
                let _ = fs::remove_file(old.path());
            }
        }
        let partial = dir.join(format!(".{name}-{}", std::process::id()));
        fs::copy(program, &partial).unwrap();
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&partial, &copy).unwrap();
    }
    copy
}

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let path = repository().join("response.schema.json");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let schema: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    jsonschema::validator_for(&schema).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
});

/// Panics unless `envelope` is as `response.schema.json` says and its two copies of the metadata agree.
pub fn assert_schema(envelope: &Value) {
    let errors = SCHEMA.iter_errors(envelope).fold(String::new(), |mut all, error| {
        let _ = writeln!(all, "{}: {error}", error.instance_path());
        all
    });
    assert!(errors.is_empty(), "the envelope breaks response.schema.json:\n{errors}{envelope:#}");
    for key in ["timestamp", "hostname", "pid", "request_id"] {
        assert_eq!(envelope[key], envelope["data"][key], "{key} at the top level and inside data: {envelope:#}");
    }
}

/// A directory with everything that a call needs. It goes away with the value.
pub struct Fixture {
    /// Who calls.
    pub mode: Mode,
    /// The caller's user and group id.
    pub uid: u32,
    dir: tempfile::TempDir,
}

/// The part of a configuration that makes the probe a plugin with one method, `run`. Grant keys may follow.
pub const PROBE: &str = r#"
[plugins.Probe]
exec = "plugins/upm-probe"
allowed_methods = ["run"]
"#;

impl Fixture {
    /// A fixture without a configuration. `None` if this mode is not available here; the reason was printed.
    pub fn bare(mode: Mode) -> Option<Fixture> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if mode == Mode::Root && !is_root() {
            skip("needs root");
            return None;
        }
        // a user id of its own for each fixture, so that limits and leftovers of tests that run at once stay apart
        let uid = match (mode, is_root()) {
            (Mode::Root, _) => 0,
            (Mode::User, true) => FIRST_USER + NEXT.fetch_add(1, Ordering::Relaxed),
            (Mode::User, false) => nix::unistd::geteuid().as_raw(),
        };
        // not below /tmp: that is a private file system inside, in which parents of granted paths are writable
        let dir = tempfile::Builder::new().prefix("upm-test-").tempdir_in("/var/tmp").unwrap();
        let fixture = Fixture { mode, uid, dir };
        fixture.own(fixture.dir(), 0o755);
        for name in ["bin", "plugins", "cache", "audit", "home"] {
            fixture.mkdir(name);
        }
        fixture.mkdir_writable("project");
        link_or_copy(&PROGRAMS.upm, &fixture.path("bin/upm"));
        link_or_copy(&PROGRAMS.probe, &fixture.path("plugins/upm-probe"));
        Some(fixture)
    }

    /// A fixture whose configuration is the common head and `tables`.
    pub fn new(mode: Mode, tables: &str) -> Option<Fixture> {
        let fixture = Fixture::bare(mode)?;
        fixture.config(tables);
        Some(fixture)
    }

    /// A fixture with the probe as its only plugin; `grant` is put into the plugin's table.
    pub fn probe(mode: Mode, grant: &str) -> Option<Fixture> {
        Fixture::new(mode, &format!("{PROBE}{grant}\n"))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path below the directory.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.dir().join(below)
    }

    /// The same as a string, for arguments.
    pub fn text(&self, below: &str) -> String {
        self.path(below).to_str().unwrap().to_owned()
    }

    /// What lies right in the fixture is the caller's, all else its directory's owner's.
    fn own(&self, path: &Path, mode: u32) {
        if is_root() {
            let above = path.parent().filter(|above| path != self.dir() && *above != self.dir());
            let owner = above.map_or(self.uid, |above| fs::metadata(above).unwrap().uid());
            chown(path, Some(owner), Some(owner)).unwrap();
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Makes a directory that belongs to the caller.
    pub fn mkdir(&self, below: &str) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(&path).unwrap();
        self.own(&path, 0o755);
        path
    }

    /// Gives something to an ordinary user where root calls: what root owns is never granted, nor proposed, for writing.
    pub fn of_another(&self, below: &str) {
        if self.mode == Mode::Root {
            chown(self.path(below), Some(OWNER), Some(OWNER)).unwrap();
        }
    }

    /// Whose what plugins may write is: [`OWNER`] when root calls, else the caller.
    pub fn owner(&self) -> u32 {
        if self.mode == Mode::Root { OWNER } else { self.uid }
    }

    /// Makes a directory that plugins may be granted to write.
    pub fn mkdir_writable(&self, below: &str) -> PathBuf {
        let path = self.mkdir(below);
        if is_root() {
            chown(&path, Some(self.owner()), Some(self.owner())).unwrap();
        }
        path
    }

    /// Writes a file that belongs to the caller.
    pub fn write(&self, below: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(below);
        fs::write(&path, content).unwrap();
        self.own(&path, 0o644);
        path
    }

    /// Writes `upm_config.toml`: project, cache and plugin folders, an audit file and no journald; then `tables`.
    pub fn config(&self, tables: &str) {
        self.write("upm_config.toml", format!("{}{tables}", self.config_head()));
    }

    /// The same with more top-level keys.
    pub fn config_with(&self, head: &str, tables: &str) {
        self.write("upm_config.toml", format!("{head}{}{tables}", self.config_head()));
    }

    /// What `config` puts before the tables.
    pub fn config_head(&self) -> String {
        format!(
            "project_root = \"project\"\ncache_dir = \"cache\"\nplugin_paths = [\"plugins\"]\n\n\
             [audit]\njournald = \"off\"\nfile = \"{}\"\n",
            self.text("audit/audit.jsonl")
        )
    }

    /// A fixture with the repository's own plugins, and its own configuration of them after `edit`; the head is the
    /// fixture's.
    pub fn shipped(mode: Mode, edit: impl FnOnce(&str) -> String) -> Option<Fixture> {
        let fixture = Fixture::bare(mode)?;
        fixture.copy(&repository().join("plugins"), "plugins");
        let path = repository().join("upm_config.toml");
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let tables = text.find("\n[").unwrap_or_else(|| panic!("{}: no table", path.display()));
        fixture.config(&edit(&text[tables..]));
        Some(fixture)
    }

    /// Copies a directory; what lands belongs to the caller.
    fn copy(&self, from: &Path, below: &str) {
        self.mkdir(below);
        for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
            let name = format!("{below}/{}", entry.file_name().to_str().unwrap());
            if entry.file_name() == "__pycache__" {
                continue;
            }
            if entry.file_type().unwrap().is_dir() {
                self.copy(&entry.path(), &name);
            } else {
                self.write(&name, fs::read(entry.path()).unwrap());
            }
        }
    }

    /// Writes a Python module `plugins/NAME.py`.
    pub fn python(&self, name: &str, source: &str) {
        self.write(&format!("plugins/{name}.py"), source);
    }

    /// A call of `upm`, not yet started.
    pub fn upm<I, S>(&self, args: I) -> Call<'_>
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Call {
            fixture: self,
            args: args.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            stdin: None,
            cwd: self.dir().to_owned(),
            patience: *PATIENCE,
            before: Vec::new(),
            outer: Vec::new(),
        }
    }

    /// Runs `upm PLUGIN METHOD {"args": args}` and gives its answer.
    pub fn call(&self, plugin: &str, method: &str, args: &Value) -> Answer {
        self.upm([plugin, method, &json!({ "args": args }).to_string()]).run()
    }

    /// Runs one act of the probe in the sandbox, whatever comes of it.
    pub fn run(&self, act: &str, args: Value) -> Answer {
        self.call("Probe", "run", &words(act, args))
    }

    /// Runs one act of the probe in the sandbox; the call must succeed. Gives the probe's answer.
    pub fn act(&self, act: &str, args: Value) -> Value {
        self.run(act, args).result()
    }

    /// Runs many acts of the probe in one call; each is `[act, …]`.
    pub fn acts(&self, acts: &[Value]) -> Vec<Value> {
        self.act("batch", json!(acts))["answers"].as_array().unwrap().clone()
    }

    /// Runs one act of the probe on the host, as the caller of this fixture.
    pub fn control(&self, act: &str, args: Value) -> Value {
        // what a control mounts, it mounts for itself alone
        let apart = ["unshare", "--mount", "--propagation", "private", "--"].map(OsString::from);
        let before = if is_root() { apart.as_slice() } else { &[] };
        let mut command = self.command(before, &self.path("plugins/upm-probe"));
        command.arg(act);
        // JSON all through, so that a word like `null` or `7` stays the string it is
        for word in &words(act, args).as_array().unwrap()[1..] {
            command.arg(word.to_string());
        }
        let output = command.current_dir(self.dir()).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("control {act}: {e}: {output:?}"))
    }

    /// A command that runs `program` as the caller: root with supplementary groups, or the user without any.
    pub fn as_caller(&self, program: &Path) -> Command {
        self.command(&[], program)
    }

    /// The same, started by `before` with the test's own rights.
    fn command(&self, before: &[OsString], program: &Path) -> Command {
        let mut words: Vec<OsString> = before.to_vec();
        if is_root() {
            words.push("setpriv".into());
            match self.mode {
                Mode::Root => words.extend(["--groups", "4,27"].map(OsString::from)),
                Mode::User => {
                    let id = self.uid.to_string();
                    words.extend(["--reuid", &id, "--regid", &id, "--clear-groups"].map(OsString::from));
                }
            }
            words.push("--".into());
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("XDG_STATE_HOME", self.path("home/state"))
            .env("XDG_CONFIG_HOME", self.path("home/config"))
            .env("LANG", "C.UTF-8");
        command
    }

    /// The audit file's records, with the names that the same fields have in the journal: `event` is `UPM_EVENT`.
    pub fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path("audit/audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("audit: {e}: {line}"))).collect()
    }

    /// Processes and mounts that still have to do with this fixture: programs run from it, processes that mention it,
    /// and every process in a mount namespace that shows it.
    pub fn leftovers(&self) -> Vec<String> {
        let marker = self.dir().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let dir = entry.path();
            let link = |file: &str| fs::read_link(dir.join(file)).unwrap_or_default().to_string_lossy().into_owned();
            let text = |file: &str| String::from_utf8_lossy(&fs::read(dir.join(file)).unwrap_or_default()).into_owned();
            for (file, content) in [
                ("exe", link("exe")),
                ("cwd", link("cwd")),
                ("cmdline", text("cmdline")),
                ("environ", text("environ")),
                ("mountinfo", text("mountinfo")),
            ] {
                if content.contains(marker) {
                    found.push(format!("{name} ({}) {file}", text("comm").trim()));
                }
            }
        }
        found
    }

    /// Panics when something is left behind. What is just ending is given a second.
    pub fn assert_clean(&self) {
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            let left = self.leftovers();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left behind: {left:#?}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn words(act: &str, args: Value) -> Value {
    let mut words = vec![json!(act)];
    match args {
        Value::Null => {}
        Value::Array(more) => words.extend(more),
        one => words.push(one),
    }
    Value::Array(words)
}

fn link_or_copy(from: &Path, to: &Path) {
    // a link and not a copy where it can be: a file that was open for writing while another test forked can't be run
    if fs::hard_link(from, to).is_err() {
        fs::copy(from, to).unwrap();
    }
}

/// One run of `upm`.
pub struct Call<'a> {
    fixture: &'a Fixture,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    stdin: Option<Vec<u8>>,
    cwd: PathBuf,
    patience: Duration,
    before: Vec<OsString>,
    outer: Vec<OsString>,
}

impl Call<'_> {
    /// Sets a variable of the caller's environment.
    pub fn env(mut self, key: &str, value: impl Into<OsString>) -> Self {
        self.env.push((key.to_owned(), value.into()));
        self
    }

    /// More words of the command line.
    pub fn more<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// What stdin holds; otherwise it is `/dev/null`.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Where it runs; otherwise in the fixture's directory, where the configuration is.
    pub fn cwd(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cwd = dir.into();
        self
    }

    /// How long it may take before the test fails.
    pub fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// A program to start `upm` by (`strace -f`, `prlimit …`), still as the caller.
    pub fn through<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, words: I) -> Self {
        self.before = words.into_iter().map(Into::into).collect();
        self
    }

    /// With this file (in the fixture) in the place of the host's `/etc/hosts`, so that names are as the test wants them.
    /// Needs root.
    pub fn hosts(self, file: &str) -> Self {
        let path = self.fixture.path(file);
        self.mounting(r#"mount --bind "$0" /etc/hosts && exec "$@""#, path)
    }

    /// With an ext4 of this many KiB in the place of a directory of the fixture, empty and writable for plugins. Needs root.
    pub fn disk(self, below: &str, kib: u32) -> Self {
        let path = self.fixture.path(below);
        let image = self.fixture.path(format!("{below}.ext4"));
        let file = fs::File::create(&image).unwrap();
        file.set_len(u64::from(kib) << 10).unwrap();
        let owner = format!("root_owner={0}:{0}", self.fixture.owner());
        let mkfs = which("mkfs.ext4").unwrap_or_else(|| panic!("mkfs.ext4 is not installed"));
        let made = Command::new(mkfs).args(["-q", "-m", "0", "-O", "^has_journal", "-E", &owner]).arg(&image).output();
        assert!(made.as_ref().is_ok_and(|made| made.status.success()), "{made:?}");
        self.mounting(r#"mount -o loop "$0.ext4" "$0" && exec "$@""#, path)
    }

    /// Started by root's shell in a mount namespace of its own; `script` ends with `exec "$@"`. Needs root.
    pub fn mounting_script(self, script: &str) -> Self {
        self.mounting(script, PathBuf::from("sh"))
    }

    /// The same; the script knows the fixture's `below` as `$0`.
    pub fn mounting_at(self, script: &str, below: &str) -> Self {
        let path = self.fixture.path(below);
        self.mounting(script, path)
    }

    /// On a host as the probe's mode makes it (`covered`, `limited`). Needs root.
    pub fn host(mut self, mode: &str, what: &str) -> Self {
        self.outer.push(PROGRAMS.probe.clone().into());
        self.outer.extend([mode, what, "--"].map(OsString::from));
        self
    }

    /// Started by root's shell in a mount namespace of its own; the script knows `path` as `$0`.
    fn mounting(mut self, script: &str, path: PathBuf) -> Self {
        self.outer.extend(["unshare", "--mount", "--", "/bin/sh", "-c", script].map(OsString::from));
        self.outer.push(path.into());
        self
    }

    /// Starts it and does not wait.
    pub fn start(self) -> Running {
        let upm = self.fixture.path("bin/upm");
        let mut command = match self.before.split_first() {
            Some((first, rest)) => {
                let program = which(&first.to_string_lossy()).unwrap_or_else(|| PathBuf::from(first));
                let mut command = self.fixture.command(&self.outer, &program);
                command.args(rest).arg(&upm);
                command
            }
            None => self.fixture.command(&self.outer, &upm),
        };
        let stdout = tempfile::tempfile().unwrap();
        let stderr = tempfile::tempfile().unwrap();
        let stdin = self.stdin.as_ref().map_or_else(Stdio::null, |bytes| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(bytes).unwrap();
            file.rewind().unwrap();
            file.into()
        });
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(k, v)| (k, v)))
            .current_dir(&self.cwd)
            .stdin(stdin)
            .stdout(stdout.try_clone().unwrap())
            .stderr(stderr.try_clone().unwrap());
        let shown = format!("upm {:?}", self.args);
        let child = command.spawn().unwrap_or_else(|e| panic!("{shown}: {e}"));
        Running { child, stdout, stderr, shown, begun: Instant::now(), patience: self.patience }
    }

    /// Runs it to its end.
    pub fn run(self) -> Answer {
        self.start().wait()
    }
}

/// A call under way.
pub struct Running {
    child: Child,
    stdout: fs::File,
    stderr: fs::File,
    shown: String,
    begun: Instant,
    patience: Duration,
}

impl Running {
    /// The supervisor's process id.
    pub fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the end, at most as long as the call may take; then the test fails.
    pub fn wait(mut self) -> Answer {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if self.begun.elapsed() > self.patience {
                let _ = self.child.kill();
                let _ = self.child.wait();
                let (stdout, stderr) = (content(&mut self.stdout), content(&mut self.stderr));
                panic!("{}: still running after {:?}\n{stdout}\n{stderr}", self.shown, self.patience);
            }
            std::thread::sleep(Duration::from_micros(500));
        };
        Answer {
            exit: status.code(),
            signal: status.signal(),
            took: self.begun.elapsed(),
            stdout: content(&mut self.stdout),
            stderr: content(&mut self.stderr),
            shown: self.shown,
        }
    }
}

fn content(file: &mut fs::File) -> String {
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The result of a run of `upm`.
#[derive(Debug)]
pub struct Answer {
    /// Exit status, when it exited.
    pub exit: Option<i32>,
    /// The signal that killed it, if one did.
    pub signal: Option<i32>,
    /// From start to end.
    pub took: Duration,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
    shown: String,
}

impl Answer {
    /// The envelope: one document and a newline on stdout, valid by the schema, and in accord with the exit status.
    #[track_caller]
    pub fn envelope(&self) -> Value {
        assert!(self.stdout.ends_with('\n'), "{}: stdout ends without a newline: {self:#?}", self.shown);
        let envelope: Value = serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("stdout: {e}: {self:#?}"));
        assert_schema(&envelope);
        assert_eq!(envelope["success"], json!(self.exit == Some(0)), "success and exit status: {self:#?}");
        envelope
    }

    /// `data` of an envelope.
    #[track_caller]
    pub fn data(&self) -> Value {
        self.envelope()["data"].clone()
    }

    /// What the method returned; the call must have succeeded.
    #[track_caller]
    pub fn result(&self) -> Value {
        let envelope = self.envelope();
        assert_eq!(self.exit, Some(0), "{}: {envelope:#}\n{}", self.shown, self.stderr);
        envelope["data"]["result"].clone()
    }

    /// `data` of a call that must have failed with this code and exit status.
    #[track_caller]
    pub fn failed(&self, code: &str, exit: i32) -> Value {
        let envelope = self.envelope();
        let data = envelope["data"].clone();
        assert_eq!(
            (data["code"].as_str(), self.exit),
            (Some(code), Some(exit)),
            "{}: {envelope:#}\n{}",
            self.shown,
            self.stderr
        );
        data
    }

    /// Denials of this layer and operation.
    #[track_caller]
    pub fn denials(&self, layer: &str, operation: &str) -> Vec<Value> {
        let data = self.data();
        let all = data["denials"].as_array().unwrap_or_else(|| panic!("no denials: {data:#}"));
        all.iter().filter(|d| d["layer"] == layer && d["operation"] == operation).cloned().collect()
    }
}

/// Asserts that the probe's answer is this error.
#[track_caller]
pub fn assert_errno(answer: &Value, name: &str) {
    assert_eq!((answer["ok"].as_bool(), answer["errno_name"].as_str()), (Some(false), Some(name)), "{answer:#}");
}

/// Asserts that the probe's answer is one of these errors.
#[track_caller]
pub fn assert_errno_in(answer: &Value, names: &[&str]) {
    let name = answer["errno_name"].as_str().unwrap_or("none");
    assert!(answer["ok"] == json!(false) && names.contains(&name), "none of {names:?}: {answer:#}");
}

/// Asserts that the act worked.
#[track_caller]
pub fn assert_ok(answer: &Value) {
    assert_eq!(answer["ok"], json!(true), "{answer:#}");
}

/// Asserts that each act (`[act, …]`) fails inside with one of the errors (joined by `|`), and that the same act on the
/// host, by the same caller, does not fail so. Where it does (an unprivileged caller is refused by the kernel itself),
/// the envelope must show that the filter refused it first: `operation` names the denial that must then be there.
#[track_caller]
pub fn assert_denied(f: &Fixture, acts: &[(Value, &str, &str)]) {
    let answer = f.run("batch", Value::Array(acts.iter().map(|(act, _, _)| act.clone()).collect()));
    let inside = answer.result()["answers"].as_array().unwrap().clone();
    let denied = answer.data()["denials"].clone();
    let control = f.control("batch", Value::Array(acts.iter().map(|(act, _, _)| act.clone()).collect()));
    for (at, (act, errors, operation)) in acts.iter().enumerate() {
        let errors: Vec<&str> = errors.split('|').collect();
        let name = inside[at]["errno_name"].as_str().unwrap_or("none");
        assert!(inside[at]["ok"] == json!(false) && errors.contains(&name), "{act}: not {errors:?}: {}", inside[at]);
        let outside = &control["answers"][at];
        assert_ne!(outside["errno"], json!(-1), "{act}: the control was not even tried: {outside}");
        let differs = outside["ok"] == json!(true) || outside["errno_name"] != inside[at]["errno_name"];
        let reported = denied.as_array().is_some_and(|all| all.iter().any(|d| d["operation"] == *operation));
        assert!(
            differs || reported,
            "{act}: fails outside too, and no denial names {operation}: {outside}\n{denied:#}"
        );
        // what the filter refused and reported must be in the list whatever the control says
        if !operation.is_empty() {
            assert!(reported, "{act}: no denial names {operation}: {denied:#}");
        }
    }
}

/// A TCP server on the host's loopback: it reads once, answers `got:` and what it read, and closes.
pub struct Server {
    /// Where it listens.
    pub port: u16,
    seen: std::sync::Arc<std::sync::Mutex<Vec<Vec<u8>>>>,
}

impl Server {
    /// Starts it; it ends with the test process.
    pub fn start() -> Server {
        Server::answering(|bytes| [b"got:".as_slice(), bytes].concat())
    }

    /// One that answers in its own way.
    pub fn answering(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> Server {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = std::sync::Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
                let mut bytes = vec![0; 1 << 16];
                let n = stream.read(&mut bytes).unwrap_or(0);
                bytes.truncate(n);
                let reply = answer(&bytes);
                log.lock().unwrap().push(bytes);
                let _ = stream.write_all(&reply);
            }
        });
        Server { port, seen }
    }

    /// What came in, a connection each.
    pub fn seen(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().clone()
    }
}

/// A marker that no other process knows.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{prefix}-{}-{}-{nanos:x}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
