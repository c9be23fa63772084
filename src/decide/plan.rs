//! The grant resolved for this host. Pure data: `upm explain` prints the same value that is enforced.
#![forbid(unsafe_code)]

use super::grant::syscalls;
use crate::config::Grant;
pub use crate::config::Limits;
use crate::keys::Key;
use crate::types::{EgressRule, Entry, OnViolation};
use crate::units::millis;
use serde::Serialize;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The plugin's user and group inside the sandbox.
pub const INSIDE_ID: u32 = 1000;
/// The address that the name stub listens on, on the sandbox's own loopback.
pub const STUB_ADDRESS: std::net::Ipv4Addr = std::net::Ipv4Addr::new(127, 0, 0, 53);
/// The host name inside. The real one would tell a plugin where it runs.
pub const HOST_NAME: &str = "sandbox";
/// What sysfs tells of processors (sysfs-devices-system-cpu of the kernel's ABI documents).
pub const PROCESSORS: &str = "/sys/devices/system/cpu";
/// Since this ABI landlock tells sockets with a path that the host made from the call's own (landlock(7),
/// `LANDLOCK_ACCESS_FS_RESOLVE_UNIX`), and denies connecting to the host's.
pub const UNIX_ABI: u32 = 9;
/// The runner's path in the sandbox.
pub const RUNNER_PATH: &str = "/run/upm/runner.py";

/// What the plan needs to know about the host; gathered by `host`, so that this stage does no I/O.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// Calling user.
    pub caller_uid: u32,
    /// Calling group.
    pub caller_gid: u32,
    /// The plugin's user on the host.
    pub outside_uid: u32,
    /// The plugin's group on the host.
    pub outside_gid: u32,
    /// Landlock ABI of the running kernel, 0 without Landlock.
    pub landlock_abi: u32,
    /// Top-level names (`bin`, `lib`, `lib64`, …) and, if they are links, their targets.
    pub root_entries: BTreeMap<String, Option<PathBuf>>,
    /// Existing entries of the list of `/etc` entries that programs need to start, and, if they are links, their targets.
    pub etc_entries: BTreeMap<String, Option<PathBuf>>,
    /// Whether the host has [`PROCESSORS`].
    pub processors: bool,
    /// Directories outside `/usr` that the interpreter needs.
    pub interpreter_prefixes: Vec<PathBuf>,
    /// The plugin's top-level package or module, and its directory.
    pub code: PluginCode,
    /// Symbolic links that led to the code and to the interpreter, with their targets: only root and the calling user
    /// could have placed them.
    pub links: BTreeMap<PathBuf, PathBuf>,
}

/// The plugin's own files.
#[derive(Debug, Clone, Serialize)]
pub struct PluginCode {
    /// The package directory, module file or executable to mount.
    pub path: PathBuf,
    /// The directory to add to `sys.path`; empty for an executable.
    pub search: PathBuf,
    /// Code that is built into the engine, not in a file of the host.
    #[serde(skip)]
    pub embedded: Option<&'static [u8]>,
}

/// The directories of a call that are in memory, with the keys of their sizes.
pub const IN_MEMORY: [(Key, &str); 2] = [(Key::Tmp, "/tmp"), (Key::Shm, "/dev/shm")];

/// Why a mount exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Host files that every program needs.
    System,
    /// A file that is generated for each call.
    MadeUp,
    /// A link that is created for each call.
    StandardLink,
    /// `tmp`.
    Tmp,
    /// `shm`.
    Shm,
    /// `pty`.
    Pty,
    /// `interpreter`.
    Interpreter,
    /// `client` of a group.
    EgressClient,
    /// The plugin's code.
    Plugin,
    /// `read`.
    Read,
    /// `write`.
    Write,
}

impl Why {
    /// Whether the configuration grants its path.
    pub(crate) fn is_grant(self) -> bool {
        matches!(self, Why::Read | Why::Write)
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Why::System => "system",
            Why::MadeUp => "made up",
            Why::StandardLink => "standard link",
            Why::Tmp => "tmp",
            Why::Shm => "shm",
            Why::Pty => "pty",
            Why::Interpreter => "interpreter",
            Why::EgressClient => "egress client",
            Why::Plugin => "plugin",
            Why::Read => "read",
            Why::Write => "write",
        })
    }
}

impl Serialize for Why {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a mount's content comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The same path on the host, opened without following links. A granted one must have a single owner.
    Host {
        /// Whether the tree is id-mapped to its owner when root calls.
        mapped: bool,
    },
    /// A device node of the host.
    Device,
    /// A new tmpfs.
    Tmpfs {
        /// Size in bytes.
        bytes: u64,
        /// Most files and directories.
        inodes: u64,
    },
    /// A new proc of the call's own pid namespace.
    Proc,
    /// A new devpts, with at most this many terminals at a time.
    Terminals(u32),
    /// A file of the sealed root.
    File(#[serde(skip)] Vec<u8>),
    /// A symbolic link of the sealed root.
    Link(PathBuf),
}

/// One entry of the root that the plugin sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Absolute path in the sandbox, and for `Source::Host` also on the host.
    pub path: PathBuf,
    /// Its content.
    pub source: Source,
    /// Whether the plugin may write there.
    pub write: bool,
    /// Whether programs may be started from there.
    pub exec: bool,
    /// Why it exists.
    pub why: Why,
}

impl Mount {
    /// Whether it is a mount, not a file or link in the root's tmpfs.
    #[must_use]
    pub fn is_mount(&self) -> bool {
        !matches!(self.source, Source::File(_) | Source::Link(_))
    }

    /// Whether `path`, absolute and normalized, is its path or inside it. It compares bytes: a call does this some thousand
    /// times, and comparing components takes ten times as long.
    #[must_use]
    pub fn holds(&self, path: &Path) -> bool {
        let (own, path) = (self.path.as_os_str().as_bytes(), path.as_os_str().as_bytes());
        let rest = path.strip_prefix(own);
        rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || own == b"/")
    }

    /// The host path that is mounted there. `/dev/full` replaces `/dev/zero`, and reads the same: a shared mapping of the host's
    /// `/dev/zero` is memory without a file that counts for no process, and the filter cannot distinguish it from others.
    #[must_use]
    pub fn host(&self) -> &Path {
        if self.source == Source::Device && self.path == Path::new("/dev/zero") {
            return Path::new("/dev/full");
        }
        &self.path
    }
}

/// Everything that is enforced for one call.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// Class name.
    pub plugin: String,
    /// Method name.
    pub method: String,
    /// How the plugin is started.
    pub entry: Entry,
    /// Program and arguments.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: BTreeMap<String, String>,
    /// User and group on the host; inside both are [`INSIDE_ID`].
    pub outside: (u32, u32),
    /// Whether paths that root owns may be writable when root calls.
    pub as_root_owner: bool,
    /// The root, in the order of its creation.
    pub mounts: Vec<Mount>,
    /// The plugin's own files.
    pub code: PathBuf,
    /// The directory to add to `sys.path`.
    pub search: PathBuf,
    /// Symbolic links that led to the code and to the interpreter, with their targets.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// The Landlock ABI; all its access rights are handled.
    pub landlock_abi: u32,
    /// TCP ports to which connections are allowed.
    pub tcp_ports: BTreeSet<u16>,
    /// Destinations that the gateway allows.
    pub egress: Vec<EgressRule>,
    /// System calls added to the filter.
    pub syscalls: Vec<String>,
    /// Whether UNIX sockets that have a path, or can be connected to one, are allowed.
    pub named_unix: bool,
    /// What a denied system call does.
    pub on_violation: OnViolation,
    /// Limits.
    pub limits: Limits,
    /// [`Plan::sha256`], computed on first use.
    #[serde(skip)]
    digest: OnceCell<String>,
}

impl Plan {
    /// The deepest mount that contains `path`, other than one at `path` itself.
    #[must_use]
    pub fn around(&self, path: &Path) -> Option<&Mount> {
        let above = |mount: &&Mount| mount.path.as_os_str() != path.as_os_str() && mount.holds(path);
        let holds = |mount: &&Mount| mount.is_mount() && above(mount);
        self.mounts.iter().filter(holds).max_by_key(|mount| mount.path.as_os_str().len())
    }

    /// The directories between a writable mount and the mount at `path` in it, the outermost first.
    #[must_use]
    pub fn leading_to<'p>(&self, path: &'p Path) -> Vec<&'p Path> {
        let Some(around) = self.around(path).filter(|mount| mount.write) else { return Vec::new() };
        let between = |above: &&Path| *above != around.path && above.starts_with(&around.path);
        let mut found: Vec<&Path> = path.ancestors().skip(1).take_while(between).collect();
        found.reverse();
        found
    }

    /// Read-only mounts in a writable one. Landlock's rules add up from a path to `/` (landlock(7), "Filesystem actions"), and
    /// a rule cannot remove a right that one above it gives: here only the mount denies writing.
    pub fn read_only_by_mount(&self) -> impl Iterator<Item = &Mount> {
        let in_writable = |mount: &&Mount| {
            self.mounts.iter().any(|above| above.is_mount() && above.write && above.holds(&mount.path))
        };
        self.mounts.iter().filter(|mount| mount.is_mount() && !mount.write).filter(in_writable)
    }

    /// Whether the call can make pseudo terminals.
    pub fn has_terminals(&self) -> bool {
        self.mounts.iter().any(|mount| matches!(mount.source, Source::Terminals(_)))
    }

    /// The same plan with only one mount.
    #[must_use]
    pub fn of_mount(&self, mount: &Mount) -> Plan {
        Plan { mounts: vec![mount.clone()], digest: OnceCell::new(), ..self.clone() }
    }

    /// SHA-256 of the plan's JSON, as lower-case hexadecimal: calls with the same digest have the same confinement. The
    /// request id is left out, because it differs in each call.
    #[must_use]
    pub fn sha256(&self) -> &str {
        self.digest.get_or_init(|| {
            let mut same = self.clone();
            same.env.remove("UPM_REQUEST_ID");
            crate::types::sha256_hex(&serde_json::to_vec(&same).unwrap_or_default())
        })
    }
}

/// Creates the plan. `egress`: the destinations of the granted groups, including those of clients; `client`: what those
/// clients need in the sandbox.
#[must_use]
pub fn plan(
    names: (&str, &str),
    entry: &Entry,
    grant: &Grant,
    facts: &Facts,
    egress: Vec<EgressRule>,
    client: &ClientNeeds,
    environment: Environment<'_>,
) -> Plan {
    let mut mounts = base_mounts(grant, facts);
    let host = |path: &Path, mapped, write, why| Mount {
        // Without doubled slashes: paths are compared by their bytes.
        path: path.components().collect(),
        source: Source::Host { mapped },
        write,
        exec: true,
        why,
    };
    mounts.extend(facts.interpreter_prefixes.iter().map(|path| host(path, false, false, Why::Interpreter)));
    mounts.extend(client.files.iter().map(|path| host(path, false, false, Why::EgressClient)));
    let code = host(&facts.code.path, false, false, Why::Plugin);
    mounts.push(match facts.code.embedded {
        Some(source) => Mount { source: Source::File(source.to_vec()), exec: false, ..code },
        None => code,
    });
    mounts.extend(grant.read.iter().map(|path| host(path, true, false, Why::Read)));
    mounts.extend(grant.write.iter().map(|path| host(path, true, true, Why::Write)));
    // Outer mounts come first. The sort is stable: for equal paths the later, wider grant wins, and only that one is mounted.
    mounts.sort_by_key(|mount| mount.path.components().count());
    let mut seen = BTreeSet::new();
    mounts.reverse();
    mounts.retain(|mount| seen.insert(mount.path.clone()));
    mounts.reverse();

    let argv = match entry {
        Entry::Python { .. } => {
            let mut argv = vec![grant.interpreter.to_string_lossy().into_owned()];
            argv.extend(["-I", "-B", "-u", "-X", "utf8=1"].map(str::to_owned));
            if !grant.site {
                argv.push("-S".to_owned());
            }
            argv.push(RUNNER_PATH.to_owned());
            argv
        }
        Entry::Exec { path } => vec![path.to_string_lossy().into_owned()],
    };
    Plan {
        plugin: names.0.to_owned(),
        method: names.1.to_owned(),
        entry: entry.clone(),
        argv,
        env: variables(grant, client, &environment),
        outside: (facts.outside_uid, facts.outside_gid),
        as_root_owner: grant.as_root_owner,
        mounts,
        code: facts.code.path.clone(),
        search: facts.code.search.clone(),
        links: facts.links.clone(),
        landlock_abi: facts.landlock_abi,
        tcp_ports: egress.iter().map(|rule| rule.pattern.port).collect(),
        egress,
        syscalls: syscalls(grant),
        named_unix: grant.unix_sockets || facts.landlock_abi >= UNIX_ABI || !grant.has_paths(),
        on_violation: grant.on_violation,
        limits: Limits { timeout_ms: millis(environment.timeout), ..Limits::from(grant) },
        digest: OnceCell::new(),
    }
}

/// The whole environment: the standard variables, those that a client needs, those that the grant passes and sets.
fn variables(grant: &Grant, client: &ClientNeeds, environment: &Environment<'_>) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/tmp"),
        ("TMPDIR", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("UPM_REQUEST_ID", environment.request_id),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    env.extend(client.env.clone());
    env.extend(grant.env_pass.iter().filter_map(|name| Some((name.clone(), (environment.pass)(name)?))));
    env.extend(grant.env.clone());
    env
}

/// What a call specifies beyond the grant.
pub struct Environment<'a> {
    /// The call's id.
    pub request_id: &'a str,
    /// The deadline: the grant's, or the caller's shorter one.
    pub timeout: std::time::Duration,
    /// The caller's variables, read only for names in `env_pass`.
    pub pass: &'a dyn Fn(&str) -> Option<String>,
}

/// What a package manager needs in the sandbox to use its configured index.
#[derive(Debug, Clone, Default)]
pub struct ClientNeeds {
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Files to read: CA bundles, client certificates.
    pub files: Vec<PathBuf>,
}

/// The root without grants: system files, proc, devices, tmpfs, generated `/etc`.
fn base_mounts(grant: &Grant, facts: &Facts) -> Vec<Mount> {
    let entry = |path: &str, source, write, exec, why| Mount { path: PathBuf::from(path), source, write, exec, why };
    let file = |path: &str, text: String| entry(path, Source::File(text.into_bytes()), false, false, Why::MadeUp);
    let link = |path: &str, to: &str| entry(path, Source::Link(PathBuf::from(to)), false, false, Why::StandardLink);
    // An inode takes about a kilobyte of kernel memory that does not count in the size.
    let inodes = |bytes: u64| (bytes / 4096).clamp(1024, 65_536);
    let in_memory =
        |path: &str, bytes, why| entry(path, Source::Tmpfs { bytes, inodes: inodes(bytes) }, true, false, why);
    let mut mounts = Vec::new();
    let system = facts.root_entries.iter().map(|found| ("/", true, found));
    for (below, exec, (name, target)) in system.chain(facts.etc_entries.iter().map(|found| ("/etc/", false, found))) {
        let source = target.clone().map_or(Source::Host { mapped: false }, Source::Link);
        mounts.push(entry(&format!("{below}{name}"), source, false, exec, Why::System));
    }
    let id = INSIDE_ID;
    mounts.extend([
        file("/etc/passwd", format!("plugin:x:{id}:{id}:plugin:/tmp:/usr/sbin/nologin\n")),
        file("/etc/group", format!("plugin:x:{id}:\n")),
        file("/etc/hosts", format!("127.0.0.1 localhost\n::1 localhost\n127.0.0.1 {HOST_NAME}\n::1 {HOST_NAME}\n")),
        file("/etc/resolv.conf", format!("nameserver {STUB_ADDRESS}\noptions timeout:2 attempts:1\n")),
        file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned()),
        entry("/proc", Source::Proc, false, false, Why::System),
        link("/dev/fd", "/proc/self/fd"),
        link("/dev/stdin", "/proc/self/fd/0"),
        link("/dev/stdout", "/proc/self/fd/1"),
        link("/dev/stderr", "/proc/self/fd/2"),
        in_memory("/dev/shm", grant.shm, Why::Shm),
        in_memory("/tmp", grant.tmp, Why::Tmp),
    ]);
    if facts.processors {
        // What counts processors reads it: libuv, JVMs, nproc.
        mounts.push(entry(PROCESSORS, Source::Host { mapped: false }, false, false, Why::System));
    }
    if grant.pty {
        // Some 40 KiB of kernel memory each, which is not counted without a cgroup.
        mounts.push(entry("/dev/pts", Source::Terminals(64), true, false, Why::Pty));
        mounts.push(entry("/dev/ptmx", Source::Link("pts/ptmx".into()), true, false, Why::Pty));
    }
    for node in ["null", "zero", "full", "random", "urandom"] {
        mounts.push(entry(&format!("/dev/{node}"), Source::Device, true, false, Why::System));
    }
    mounts
}
