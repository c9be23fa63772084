//! Plain data that the stages exchange. No I/O and no policy here.
#![forbid(unsafe_code)]

mod denial;
mod failure;
mod outcome;
mod sandbox;
mod step;

pub use denial::{Class, Denial, Denied, Explained, Layer, Met, NoHello, NoLock, Refused, Stream, Syscall};
pub(crate) use failure::{Cause, CountedBy, Details, Exception, Note, Said, Sought};
pub use failure::{Code, Failure};
pub use outcome::{Completeness, EgressRecord, Look, LookFor, Observed, Outcome, Output, Usage};
pub use sandbox::Sandbox;
pub use step::Step;

use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;

/// The caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// The process, if the caller is on a socket.
    pub pid: Option<i32>,
    /// The user who logged in, before any `su` or `sudo`; `None` if unset or uncertain.
    pub login_uid: Option<u32>,
}

/// An entry of `callers`: `user:NAME`, `user:1000`, `group:NAME`, `group:1000`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallerSpec {
    /// A user's name or number.
    User(String),
    /// A group's name or number: the caller's group or one of its supplementary groups.
    Group(String),
}

/// As written in the configuration.
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

/// What the plugin's filter does with a system call, for all possible arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Always allowed.
    Allowed,
    /// Allowed with some arguments.
    Partly,
    /// Denied.
    Refused,
}

/// A configuration change that would allow something: values to set, each in its table.
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

/// The value of `on_violation`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnViolation {
    /// The system call fails with `EPERM` and the call goes on.
    Deny,
    /// The call ends with `violation`.
    Kill,
}

/// How the gateway connects to hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proxy {
    /// Directly.
    None,
    /// According to the supervisor's `https_proxy`/`http_proxy`/`no_proxy`.
    Env,
    /// By CONNECT through the proxy at this URL (`http://[user:password@]host:port`).
    Url(String),
}

/// As shown in plans, answers and `explain`: without the password that a URL may contain.
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

/// A package manager whose own configuration names the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PackageManager {
    /// Python's pip.
    Pip,
    /// Node's npm.
    Npm,
}

/// `name:port` or `*.name:port` of an egress group. `name` is lower-case ASCII without the trailing dot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPattern {
    /// True for `*.name`: one or more labels before `.name`.
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
    /// The configuration.
    Hosts(Vec<HostPattern>),
    /// This client's configuration on this host.
    Client(PackageManager),
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
    /// How the gateway connects.
    pub proxy: Proxy,
    /// Whether a ClientHello with the host's name is required on every port except 80.
    pub tls: bool,
}

/// One granted destination, resolved from a group, for the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EgressRule {
    /// The `[egress.NAME]` it comes from.
    pub group: String,
    /// The destination.
    pub pattern: HostPattern,
    /// Whether private addresses are allowed (by the configuration, or because the client's index is private).
    pub allow_private: bool,
    /// Whether loopback addresses are allowed: only by an explicit `allow_private = true`, never by a client's configuration.
    pub allow_loopback: bool,
    /// How the gateway connects.
    pub proxy: Proxy,
    /// Whether a ClientHello is required.
    pub tls: bool,
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
