//! A guest with Debian 12's userland and a kernel of choice, as `tests/qemu/guest` starts it, and tests of other files that
//! run in it.

use super::booted::{self, Ran};
use super::{built_probe, cache, has_program, repository, skip};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A kernel of Debian's. The programs for all of them are built on an x86_64 host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// Debian 12's.
    Oldest,
    /// Debian 13's.
    Trixie,
    /// Unstable's, whichever it has.
    Newest,
    /// Debian 12's of another machine: see `packaging/cross`.
    Arm64,
}

impl Kernel {
    /// Its name for `tests/qemu/boot`.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Oldest => "bookworm",
            Kernel::Trixie => "trixie",
            Kernel::Newest => "unstable",
            Kernel::Arm64 => "arm64",
        }
    }

    /// Whether a guest can be booted here; if not, the test is skipped.
    pub fn can_boot(self) -> bool {
        if cfg!(not(target_arch = "x86_64")) {
            skip("the host is not an x86_64 machine");
            return false;
        }
        let programs = ["mkfs.ext4", "cpio", "busybox", "strace", "setcap", "apt-get"];
        programs.into_iter().all(has_program)
            && match self {
                Kernel::Arm64 => has_program("qemu-system-aarch64") && booted::can_cross(),
                _ => has_program("qemu-system-x86_64"),
            }
    }

    /// Asserts that what `uname -r` printed is of it.
    #[track_caller]
    pub fn assert_runs(self, uname: &Ran) {
        let release = uname.ok().trim();
        let mut numbers = release.split('.').map_while(|number| number.parse::<u32>().ok());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        match self {
            Kernel::Oldest | Kernel::Arm64 => assert_eq!(version, (6, 1), "{release}"),
            Kernel::Trixie => assert_eq!(version, (6, 12), "{release}"),
            Kernel::Newest => assert!(version >= (7, 2), "{release}"),
        }
        assert_eq!(release.contains("arm64"), self == Kernel::Arm64, "{release}");
    }

    /// Whether `output` of `tests/qemu/boot` says that this kernel cannot be had. The newest and arm64's are then left out, even with
    /// `UPM_TESTS_MUST_RUN=1`: Debian may not have the packages for a day.
    pub fn cannot_be_had(self, output: &Output) -> bool {
        let cannot = matches!(self, Kernel::Newest | Kernel::Arm64) && output.status.code() == Some(77);
        if cannot {
            println!("skipped: no kernel {}: {}", self.name(), String::from_utf8_lossy(&output.stderr).trim());
        }
        cannot
    }

    /// The cargo that builds for it, with all packages that a guest needs.
    fn cargo(self) -> Command {
        if self == Kernel::Arm64 {
            let mut command = booted::cross();
            command.arg("cargo");
            return command;
        }
        Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Where `upm` and the probe are; built before, except for another machine.
    fn programs(self) -> PathBuf {
        let upm = Path::new(env!("CARGO_BIN_EXE_upm"));
        if self != Kernel::Arm64 {
            built_probe();
            return upm.parent().unwrap().into();
        }
        let built =
            self.cargo().args(["build", "--workspace", "--exclude=xtask", "--locked", "--quiet"]).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        booted::cross_target().join("aarch64-unknown-linux-gnu/debug")
    }
}

/// Boots `kernel` with `payload` and returns the results of its commands; `None` where it cannot be had.
pub fn boot(payload: &Path, kernel: Kernel) -> Option<BTreeMap<String, Ran>> {
    let mut command = Command::new(repository().join("tests/qemu/boot"));
    let output = command.arg(payload).arg(kernel.name()).env("UPM_TEST_CACHE", cache()).output().unwrap();
    if kernel.cannot_be_had(&output) {
        return None;
    }
    let console = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    assert!(
        output.status.success() && console.contains("@@DONE"),
        "the guest did not finish: {}\n{console}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let ran = parse(&console);
    kernel.assert_runs(&ran["uname"]);
    Some(ran)
}

/// Cuts the console at the markers that `tests/qemu/guest` prints.
pub fn parse(console: &str) -> BTreeMap<String, Ran> {
    let mut all = BTreeMap::new();
    let mut ran = Ran::default();
    let mut part = 0;
    for line in console.lines() {
        if line.starts_with("@@BEGIN ") {
            (ran, part) = (Ran::default(), 1);
        } else if line.starts_with("@@STDERR ") {
            part = 2;
        } else if let Some(rest) = line.strip_prefix("@@END ") {
            let (name, exit) = rest.rsplit_once(' ').unwrap();
            ran.exit = exit.parse().unwrap();
            all.insert(name.to_owned(), std::mem::take(&mut ran));
            part = 0;
        } else if part > 0 {
            let text = if part == 1 { &mut ran.stdout } else { &mut ran.stderr };
            text.push_str(line);
            text.push('\n');
        }
    }
    all
}

/// Where tests run in the guest, which decides whether calls have a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// As root at the top of the tree: root's calls have a cgroup, users' have not.
    Top,
    /// As root in a cgroup that is not delegated: no call has one.
    Apart,
    /// As a user beside its shell, below a cgroup that is the user's: each call has one.
    Delegated,
}

impl Place {
    /// The function of the guest's script that starts a program there.
    fn command(self) -> &'static str {
        match self {
            Place::Top => "at_top",
            Place::Apart => "apart",
            Place::Delegated => "delegated",
        }
    }
}

/// Each place of these tests, once.
fn places(tests: &[Tests]) -> BTreeSet<Place> {
    tests.iter().map(|tests| tests.place).collect()
}

/// The engine's unit tests.
pub const LIB: &str = "lib";

/// Tests of another file.
#[derive(Debug)]
pub struct Tests {
    /// The file, without `.rs`, or [`LIB`].
    pub file: &'static str,
    /// Where they run.
    pub place: Place,
    /// Parts of the names of those that run; all, when empty.
    pub only: &'static [&'static str],
    /// Parts of the names of those that do not, and why.
    pub without: &'static [(&'static str, &'static str)],
}

impl Tests {
    fn words(&self) -> Vec<&str> {
        let without = self.without.iter().flat_map(|(name, _)| ["--skip", name]);
        self.only.iter().copied().chain(without).collect()
    }

    /// The names of those that run: what the same program lists outside.
    fn names(&self, program: &Path) -> BTreeSet<String> {
        let list = |words: &[&str]| {
            let listed = Command::new(program).args(["--list", "--format", "terse"]).args(words).output().unwrap();
            let text = String::from_utf8(listed.stdout).unwrap();
            text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect::<BTreeSet<_>>()
        };
        for part in self.only.iter().copied().chain(self.without.iter().map(|(part, _)| *part)) {
            assert!(!list(&[part]).is_empty(), "tests/{}.rs has no test with {part} in its name", self.file);
        }
        list(&self.words())
    }
}

/// What is wrong with a run of these tests: one that did not pass, one that did not run, or none at all. A test that is
/// skipped fails in the guest.
pub fn wrong(names: &BTreeSet<String>, ran: &Ran) -> Option<String> {
    let result = |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... ok")?.to_owned());
    let passed: BTreeSet<String> = ran.stdout.lines().filter_map(result).collect();
    if names.is_empty() {
        return Some("no test has such a name".into());
    }
    let missing: Vec<_> = names.symmetric_difference(&passed).collect();
    if ran.exit == 0 && missing.is_empty() {
        return None;
    }
    Some(format!("exit {}, not passed: {missing:?}\n{}\n{}", ran.exit, ran.stdout, ran.stderr))
}

/// Runs them in one guest, on this kernel.
pub fn run(tests: &[Tests], kernel: Kernel) {
    if !kernel.can_boot() {
        return;
    }
    let own = built(tests, Kernel::Oldest);
    let programs = if kernel == Kernel::Arm64 { built(tests, kernel) } else { own.clone() };
    let beside = kernel.programs();
    let payload = tempfile::tempdir().unwrap();
    let disk = payload.path().join("disk");
    fs::create_dir(&disk).unwrap();
    for (name, program) in &programs {
        stripped(program, &disk.join(name));
    }
    for name in ["upm", "upm-probe"] {
        stripped(&beside.join(name), &disk.join(name));
    }
    for name in READ {
        let copied = Command::new("cp").arg("-r").arg(repository().join(name)).arg(&disk).status();
        assert!(copied.is_ok_and(|status| status.success()), "{name}");
    }
    fs::write(payload.path().join("commands"), commands(tests, &beside)).unwrap();
    let Some(ran) = boot(payload.path(), kernel) else { return };
    for place in places(tests) {
        let doctor = ran[place.command()].layer("cgroup");
        let counted = doctor["found"].as_str().unwrap().starts_with("a call gets its own in ");
        assert_eq!(counted, place != Place::Apart, "{place:?}: {doctor:#}");
    }
    let wrong = |(at, tests): (usize, &Tests)| {
        let wrong = wrong(&tests.names(&own[tests.file]), &ran[&at.to_string()])?;
        Some(format!("{}, {:?}: {wrong}", tests.file, tests.place))
    };
    let wrong: Vec<String> = tests.iter().enumerate().filter_map(wrong).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What test programs read of the repository.
const READ: [&str; 3] = ["response.schema.json", "seccomp", "plugins"];

/// The test programs; those of this machine by the same cargo. Where all tests were built before, there is nothing to build.
fn built(tests: &[Tests], kernel: Kernel) -> BTreeMap<&'static str, PathBuf> {
    let own = std::env::current_exe().unwrap();
    let mut command = kernel.cargo();
    command.args(["test", "--no-run", "--workspace", "--locked", "--quiet", "--message-format=json"]);
    let files: BTreeSet<&str> = tests.iter().map(|tests| tests.file).collect();
    for file in &files {
        if *file == LIB {
            command.arg("--lib")
        } else {
            command.args(["--test", file])
        };
    }
    if kernel == Kernel::Arm64 {
        command.arg("--exclude=xtask");
    } else if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = command.current_dir(repository()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    let mut all = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(program) = message["executable"].as_str().map(PathBuf::from) else { continue };
        let target = &message["target"];
        let is =
            |file: &str| target["name"] == if file == LIB { "upm" } else { file } && message["profile"]["test"] == true;
        if let Some(file) = tests.iter().map(|tests| tests.file).find(|file| is(file)) {
            assert!(kernel == Kernel::Arm64 || program.parent() == own.parent(), "{command:?} builds elsewhere");
            all.insert(file, program);
        }
    }
    assert_eq!(all.len(), files.len(), "{command:?}: {all:?}");
    all
}

/// A copy without what only a debugger reads, which is most of it. The host's `strip` does not know another machine's programs, and
/// they have been stripped.
fn stripped(program: &Path, to: &Path) {
    if !Command::new("strip")
        .arg("-o")
        .arg(to)
        .arg(program)
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
    {
        fs::copy(program, to).unwrap();
    }
}

fn commands(tests: &[Tests], beside: &Path) -> String {
    let (repository, beside) = (repository().display(), beside.display());
    let read = READ.map(|name| format!("/disk/{name}")).join(" ");
    let mut all = format!(
        r#"
# where the tests look for them
mkdir -p '{repository}' '{beside}'
ln -s {read} '{repository}/'
ln -s /disk/upm /disk/upm-probe '{beside}/'
export UPM_TESTS_MUST_RUN=1 UPM_TEST_PATIENCE=240
tree=/sys/fs/cgroup
mkdir $tree/apart $tree/user $tree/user/shell
chown -R 23456:23456 $tree/user
at_top() {{ UPM_TEST_CACHE=/var/tmp/root "$@"; }}
apart() {{ sh -c 'echo $$ >/sys/fs/cgroup/apart/cgroup.procs && exec "$@"' sh env UPM_TEST_CACHE=/var/tmp/root "$@"; }}
delegated() {{
    sh -c 'echo $$ >/sys/fs/cgroup/user/shell/cgroup.procs && exec "$@"' sh setpriv --reuid 23456 --regid 23456 \
        --clear-groups env HOME=/home/user UPM_TEST_CACHE=/var/tmp/user "$@"
}}
run uname uname -r
"#
    );
    for place in places(tests) {
        let place = place.command();
        all += &format!("run {place} {place} /disk/upm doctor --json\n");
    }
    for (at, tests) in tests.iter().enumerate() {
        let (place, words) = (tests.place.command(), tests.words().join(" "));
        all += &format!("run {at} {place} /disk/{} --test-threads=2 {words}\n", tests.file);
    }
    all
}
