//! Plain data that the stages hand to one another. No I/O and no policy here.
#![forbid(unsafe_code)]

use crate::json::raw::Raw;
use crate::units::Cpus;
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Stable name of what ended a call; `data.code` of the envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The method raised.
    PluginRaised,
    /// The plugin ended without a frame.
    PluginExited,
    /// The plugin broke the frame protocol.
    ProtocolViolation,
    /// The method returned what JSON cannot hold.
    ResultNotSerializable,
    /// A frame was longer than `result`.
    ResultTooLarge,
    /// The command line was wrong.
    Usage,
    /// The arguments do not fit their outer shape or the method's schema.
    ArgumentsInvalid,
    /// The deadline passed.
    Timeout,
    /// The configuration cannot be used.
    ConfigInvalid,
    /// A layer cannot be had on this host.
    SandboxUnavailable,
    /// A step of confinement failed.
    SandboxFailed,
    /// The audit record could not be stored.
    AuditUnavailable,
    /// The engine itself failed.
    Internal,
    /// The configuration does not name this plugin.
    PluginNotAllowed,
    /// The configuration does not allow this method.
    MethodNotAllowed,
    /// The plugin's files are not those that were signed or pinned.
    DigestMismatch,
    /// The caller is not one of the plugin's callers.
    CallerNotAllowed,
    /// The plugin's module or executable is not there.
    ModuleNotFound,
    /// The module has no class of that name.
    ClassNotFound,
    /// The class has no such method.
    MethodNotFound,
    /// A signal killed the plugin.
    PluginKilled,
    /// The call used more memory than its grant.
    MemoryExceeded,
    /// The call used more processor time than its grant.
    CpuTimeExceeded,
    /// The plugin tried something denied and `on_violation = "kill"`.
    Violation,
    /// The caller cancelled the call by a signal.
    Cancelled,
}

/// Why a call did not return a result. Every stage's error ends as one of these, in `call.rs`.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Stable name.
    pub code: Code,
    /// The sentence for people: names the path or value first, ends with what to do.
    pub message: String,
    /// What a program may want to read.
    pub details: Map<String, Value>,
    /// The plugin's traceback, without the runner's own frames.
    pub traceback: Option<String>,
    /// The signal, for `plugin_killed` and `cancelled`.
    pub signal: Option<i32>,
}

impl Failure {
    /// A failure without details.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), details: Map::new(), traceback: None, signal: None }
    }

    /// The same with one more detail.
    #[must_use]
    pub fn detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The process, of a caller on a socket.
    pub pid: Option<i32>,
    /// The user who logged in, whatever `su` or `sudo` came after; `None` when unset or not known for certain.
    pub login_uid: Option<u32>,
}

/// An entry of `callers`: `user:NAME`, `user:1000`, `group:NAME`, `group:1000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerSpec {
    /// A user's name or number.
    User(String),
    /// A group's name or number: as the caller's own group, or as one of its supplementary groups.
    Group(String),
}

/// As the configuration writes it.
impl std::fmt::Display for CallerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CallerSpec::User(name) => write!(f, "user:{name}"),
            CallerSpec::Group(name) => write!(f, "group:{name}"),
        }
    }
}

impl Serialize for CallerSpec {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Something the plugin tried and a layer stopped. The layers say what; `rule` and `remedy` come from the configuration
/// once the call is over (`decide::verdict`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Denial {
    /// `seccomp`, `egress`, `limits`, …
    pub layer: String,
    /// Stable name of the act: a system call, `resolve`, `connect`, a limit's name.
    pub operation: String,
    /// What it was done to, escaped for no one: a name, an address, arguments as values.
    pub object: Value,
    /// The grant key that decides and where its value was written: `syscalls (built-in)`, `egress (/etc/…toml:25)`.
    pub rule: String,
    /// The lines of the configuration that would allow it, or `nothing: ` and why nothing can.
    pub remedy: String,
    /// How often.
    pub count: u64,
    /// The process inside, as the plugin's pid namespace numbers it, when known.
    pub pid: Option<i32>,
    /// Its command name, when known.
    pub comm: Option<String>,
}

impl Denial {
    /// One act, as a layer saw it.
    #[must_use]
    pub fn new(layer: &str, operation: &str, object: Value) -> Self {
        Denial {
            layer: layer.to_owned(),
            operation: operation.to_owned(),
            object,
            rule: String::new(),
            remedy: String::new(),
            count: 1,
            pid: None,
            comm: None,
        }
    }
}

/// What the plugin's filter says to a system call, whatever its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Always allowed.
    Allowed,
    /// Allowed with some arguments.
    Partly,
    /// Refused.
    Refused,
}

/// A change of the configuration that would allow something: values to set, each in its table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Change(pub Vec<Setting>);

/// One key of a [`Change`].
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// The table: `["plugins", "PipPlugin", "methods", "install"]`.
    pub table: Vec<String>,
    /// The key.
    pub key: String,
    /// Its whole new value: lists replace, they never merge.
    pub value: Value,
}

/// One connection that the gateway carried or refused after accepting it; an entry of `data.egress`.
#[derive(Debug, Clone, PartialEq, Serialize, serde::Deserialize)]
pub struct EgressRecord {
    /// The granted name that was dialled.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Bytes from the plugin to the host.
    pub bytes_sent: u64,
    /// Bytes from the host to the plugin.
    pub bytes_received: u64,
    /// Microseconds from accept to the end.
    pub duration_us: u64,
    /// How it ended: `closed`, `refused`, `resolve_failed`, `address_refused`, `tls_name`, `tls_missing`, `limit`, `error: …`, ….
    pub end: String,
}

/// What `on_violation` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnViolation {
    /// The system call fails with `EPERM` and the call goes on.
    Deny,
    /// The call ends with `violation`.
    Kill,
}

/// How the gateway reaches the outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Directly.
    None,
    /// By the supervisor's own `https_proxy`/`http_proxy`/`no_proxy`.
    Env,
    /// By CONNECT through this URL (`http://[user:password@]host:port`).
    Url(String),
}

/// As plans, answers and `explain` show it: without the password that a URL may hold.
impl Serialize for Proxy {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Proxy::None => serializer.serialize_str("none"),
            Proxy::Env => serializer.serialize_str("env"),
            Proxy::Url(url) => match (url.split_once("://"), url.rsplit_once('@')) {
                (Some((scheme, _)), Some((_, host))) => serializer.collect_str(&format_args!("{scheme}://***@{host}")),
                _ => serializer.serialize_str(url),
            },
        }
    }
}

/// A package manager's client whose own configuration names the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Client {
    /// Python's pip.
    Pip,
    /// Node's npm.
    Npm,
}

/// `name:port` or `*.name:port` of an egress group. `name` is lower-case ASCII without the trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPattern {
    /// True for `*.name`: one or more labels left of `.name`.
    pub wildcard: bool,
    /// The name to compare with.
    pub name: String,
    /// TCP port, 1–65535 and not 53.
    pub port: u16,
}

/// Where an egress group's hosts come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EgressSource {
    /// Named in the configuration.
    Hosts(Vec<HostPattern>),
    /// What this client is configured to use on this host.
    Client(Client),
}

/// One `[egress.NAME]` table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EgressGroup {
    /// The table's name.
    pub name: String,
    /// Its hosts.
    pub source: EgressSource,
    /// Whether private, loopback and link-local answers are allowed.
    pub allow_private: bool,
    /// How the gateway gets out.
    pub proxy: Proxy,
    /// Whether a ClientHello naming the host is demanded on every port but 80.
    pub tls: bool,
}

/// One granted destination, resolved from a group: what the gateway decides by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EgressRule {
    /// The `[egress.NAME]` it comes from.
    pub group: String,
    /// The destination.
    pub pattern: HostPattern,
    /// Private answers allowed (granted by the configuration, or the client's own private index).
    pub allow_private: bool,
    /// Loopback answers allowed: only by an explicit `allow_private = true`, never by a client's configuration.
    pub allow_loopback: bool,
    /// How the gateway gets out.
    pub proxy: Proxy,
    /// ClientHello demanded.
    pub tls: bool,
}

/// Where a grant's value was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// `method`, `plugin`, `defaults` or `built-in`.
    pub level: &'static str,
    /// 1-based line in the configuration file; `None` for built-in values.
    pub line: Option<usize>,
}

/// What the configuration allows one method, every key resolved. Paths have their variables replaced and are absolute.
#[derive(Debug, Clone, Serialize)]
pub struct Grant {
    /// Python interpreter of the plugin.
    pub interpreter: PathBuf,
    /// Whether site-packages are imported (`false` adds `-S`).
    pub site: bool,
    /// Paths granted read-only.
    pub read: Vec<PathBuf>,
    /// Paths granted read-write.
    pub write: Vec<PathBuf>,
    /// Egress groups, in the order granted.
    pub egress: Vec<EgressGroup>,
    /// Variables set.
    pub env: BTreeMap<String, String>,
    /// Variables passed from the caller.
    pub env_pass: Vec<String>,
    /// System calls added to the filter.
    pub syscalls: Vec<String>,
    /// What a denied system call does.
    pub on_violation: OnViolation,
    /// Handed to the plugin as `policy`.
    pub policy: Map<String, Value>,
    /// Whether `cryptography.fernet` is handed to the plugin.
    pub fernet: bool,
    /// Wall-clock limit.
    #[serde(serialize_with = "as_text")]
    pub timeout: Duration,
    /// Processor time limit of each process.
    #[serde(serialize_with = "as_text")]
    pub cpu_time: Duration,
    /// Processors that the whole call may keep busy; `None` is as many as there are.
    pub cpus: Option<Cpus>,
    /// Bytes of memory of the call.
    pub memory: u64,
    /// Whether only a cgroup will do to count them.
    pub require_cgroup: bool,
    /// Processes and threads at once.
    pub processes: u64,
    /// Descriptors of each process.
    pub open_files: u64,
    /// Files and directories of which inotify tells the call what happens to them; 0 is no inotify.
    pub file_watches: u64,
    /// Bytes of a file written.
    pub file_size: u64,
    /// Bytes of `/tmp`.
    pub tmp: u64,
    /// Bytes kept of stdout, and of stderr.
    pub output: u64,
    /// Bytes of the JSON arguments.
    pub arguments: u64,
    /// Bytes of a frame.
    pub result: u64,
    /// Bytes carried by the gateway, both ways together.
    pub egress_bytes: u64,
    /// Oldest landlock ABI that is accepted.
    pub landlock_min_abi: u32,
    /// User that the plugin runs as when root calls: a name or a number.
    pub run_as: Option<String>,
    /// Whether root's own directories may be written when root calls: what the plugin makes there is root's.
    pub as_root_owner: bool,
    /// Who may call over the service's socket besides root; `None` is the service's own user.
    pub callers: Option<Vec<CallerSpec>>,
    /// Where each key's value comes from.
    pub origins: BTreeMap<&'static str, Origin>,
}

/// How a plugin is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Entry {
    /// `module = "a.b"`, a class in a module under `plugin_paths`.
    Python {
        /// Dotted module name.
        module: String,
    },
    /// `exec = "path"`, absolute.
    Exec {
        /// The executable on the host.
        path: PathBuf,
    },
}

/// What was kept of the plugin's stdout and stderr.
#[derive(Debug, Clone, Default)]
pub struct Output {
    /// First bytes of stdout.
    pub stdout: Vec<u8>,
    /// First bytes of stderr.
    pub stderr: Vec<u8>,
    /// Bytes of stdout that were dropped.
    pub stdout_dropped: u64,
    /// Bytes of stderr that were dropped.
    pub stderr_dropped: u64,
}

/// What the call used.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Usage {
    /// Microseconds from clone to the end.
    pub wall_us: u64,
    /// Microseconds of user processor time.
    pub cpu_user_us: u64,
    /// Microseconds of system processor time.
    pub cpu_system_us: u64,
    /// Bytes of the largest process's resident set (`getrusage(2)`, `ru_maxrss`).
    pub max_rss_bytes: u64,
    /// Most bytes that the whole call had at once, where a cgroup counted them.
    pub memory_peak_bytes: Option<u64>,
    /// Most processes and threads at once, the sandbox's first process included, where a cgroup counted them.
    pub pids_peak: Option<u64>,
    /// Microseconds that the call's processes were kept waiting by `cpus`.
    pub cpu_throttled_us: Option<u64>,
    /// Bytes that went out through the gateway.
    pub egress_bytes_sent: u64,
    /// Bytes that came in through the gateway.
    pub egress_bytes_received: u64,
}

/// Of which layers every denial could be seen. What a filter answers as "not there" (`ENOSYS`, `EAFNOSUPPORT`) is none.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Completeness {
    /// Refused system calls: false where the filter can have no listener.
    pub seccomp: bool,
    /// Refused names, connections and TLS names; dialled addresses are counted.
    pub egress: bool,
    /// Always false: what an rlimit refuses is seen only by its consequence.
    pub limits: bool,
    /// Always false: the kernel tells nobody of a TCP port or path that landlock refuses.
    pub landlock: bool,
    /// Always false: what is not mounted does not exist.
    pub paths: bool,
    /// The command that tells what else the same call looks for.
    pub learn: String,
}

/// What a plugin looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LookFor {
    /// To read, list, or see whether it is there.
    Read,
    /// To make, change or remove.
    Write,
    /// To run.
    Execute,
    /// To connect to.
    Connect,
}

/// Something that a plugin looked for and was not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Look {
    /// What for.
    pub act: LookFor,
    /// An absolute path; for `Connect` `name:port`, `address:port` or `unix:path`.
    pub object: String,
    /// How often.
    pub count: u64,
}

/// What `upm learn` saw of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Observed {
    /// In the order of their kind and name.
    pub looks: Vec<Look>,
    /// Looks beyond those listed.
    pub dropped: u64,
}

/// Everything known of a plugin that was started.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The method's value, or why there is none.
    pub result: Result<Raw, Failure>,
    /// How its process ended once it had answered, where that was not by itself: the answer stands.
    pub afterwards: Option<Failure>,
    /// From the plugin's `version` or `__version__`.
    pub plugin_version: Option<Value>,
    /// Captured output.
    pub output: Output,
    /// Resources used.
    pub usage: Usage,
    /// What was tried and stopped.
    pub denials: Vec<Denial>,
    /// Denials beyond those listed.
    pub denials_dropped: u64,
    /// Of which layers all denials could be seen.
    pub denials_complete: Completeness,
    /// Connections that left.
    pub egress: Vec<EgressRecord>,
    /// What was looked for and not given, where that was asked for.
    pub observed: Option<Observed>,
    /// Each layer as asked and as read back.
    pub sandbox: Value,
}

/// A time as the configuration writes it.
fn as_text<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let ms = time.as_millis();
    serializer.collect_str(&if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") })
}

/// SHA-256 as lower-case hexadecimal.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").expect("a string grows");
        text
    })
}
