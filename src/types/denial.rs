//! What the plugin tried and a layer denied.

use crate::keys::Key;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

/// The layers, in the order of README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// Users, processes, mounts and everything else that has a namespace.
    Namespaces,
    /// The sealed root.
    Root,
    /// Resource limits.
    Limits,
    /// Capabilities and `no_new_privs`.
    Capabilities,
    /// Landlock.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// Names and connections.
    Egress,
}

impl Layer {
    /// Its stable name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Layer::Namespaces => "namespaces",
            Layer::Root => "root",
            Layer::Limits => "limits",
            Layer::Capabilities => "capabilities",
            Layer::Landlock => "landlock",
            Layer::Seccomp => "seccomp",
            Layer::Egress => "egress",
        }
    }
}

/// One act that a layer denied, as that layer saw it. `report::denial` writes it. Variants with `#[serde(skip)]` are never read
/// from the gateway's process.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// A system call that the filter denied.
    #[serde(skip)]
    Syscall(Syscall),
    /// A limit of the grant that the call reached.
    #[serde(skip)]
    Limit(Met),
    /// A program below a directory that is mounted `noexec`, as the plugin's exception reports it.
    #[serde(skip)]
    NoExec {
        /// The program.
        path: String,
    },
    /// Connections to addresses without a route; the kernel only counts them.
    #[serde(skip)]
    Unroutable,
    /// A name that is not granted.
    Resolve {
        /// As in the query.
        name: String,
    },
    /// A granted name, beyond the limit for the names of a call.
    Names {
        /// The name.
        name: String,
        /// The limit.
        most: usize,
    },
    /// A granted name, on a port that is not granted.
    Connect {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
    /// A local address that was not assigned to a name.
    ConnectAddress {
        /// The address.
        address: Ipv4Addr,
        /// The port.
        port: u16,
    },
    /// A granted name whose addresses are all denied.
    Address {
        /// The name.
        name: String,
        /// The port.
        port: u16,
        /// The first one.
        address: IpAddr,
        /// Its class.
        class: Class,
    },
    /// A ClientHello for another name.
    TlsName {
        /// The name that the plugin connected to.
        name: String,
        /// The port.
        port: u16,
        /// The name in the ClientHello.
        found: String,
    },
    /// No ClientHello that names a host.
    TlsMissing {
        /// The name that the plugin connected to.
        name: String,
        /// The port.
        port: u16,
        /// Why.
        why: NoHello,
    },
    /// The gateway has transferred `egress_bytes`.
    EgressBytes {
        /// The name that the plugin connected to.
        name: String,
        /// The port.
        port: u16,
        /// The limit.
        limit: u64,
    },
}

impl Denied {
    /// The layer that denied it.
    #[must_use]
    pub fn layer(&self) -> Layer {
        match self {
            Denied::Syscall(_) => Layer::Seccomp,
            Denied::NoExec { .. } => Layer::Root,
            Denied::Limit(_) | Denied::EgressBytes { .. } => Layer::Limits,
            _ => Layer::Egress,
        }
    }

    /// The stable name of the act.
    #[must_use]
    pub fn operation(&self) -> &str {
        match self {
            Denied::Syscall(call) => &call.name,
            Denied::Limit(met) => met.key.name(),
            Denied::NoExec { .. } => "exec",
            Denied::EgressBytes { .. } => Key::EgressBytes.name(),
            Denied::Resolve { .. } | Denied::Names { .. } => "resolve",
            Denied::Connect { .. } | Denied::ConnectAddress { .. } | Denied::Unroutable => "connect",
            Denied::Address { .. } => "address",
            Denied::TlsName { .. } => "tls_name",
            Denied::TlsMissing { .. } => "tls_missing",
        }
    }
}

/// A system call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Syscall {
    /// Its number on this architecture.
    pub number: i32,
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its arguments that are plain values, by name.
    pub values: Vec<(&'static str, u64)>,
    /// What denied it.
    pub refused: Refused,
}

/// What denied a system call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No rule of the filter allows it.
    Filter,
    /// It exceeded its allowed count.
    Count,
    /// A file lock that is not allowed.
    Lock(NoLock),
    /// A UNIX socket that could be connected to a path.
    UnixSocket,
    /// What no terminal of a call is asked.
    Terminal,
}

/// Why a file lock was denied.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NoLock {
    /// The call may not write to the file.
    ReadOnly,
    /// Pid 1 cannot determine the file; the kernel's error.
    Unseen(String),
    /// The first thread of the process has ended, and this kernel shows only that thread's descriptors.
    FirstThread,
    /// The file is on a mount whose server may not answer.
    Distant(String),
    /// The supervisor failed to check; its error.
    Engine(String),
    /// The limit for changes of lock ranges in one call.
    Ranges(u64),
    /// The limit for locks that wait at the same time.
    Waiting(usize),
}

/// A limit that was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Met {
    /// The limit's key, which has a unit.
    pub key: Key,
    /// Its value, in the key's unit.
    pub value: u64,
    /// How much was used, if known.
    pub used: Option<u64>,
    /// For `output`, the stream.
    pub stream: Option<Stream>,
}

/// A captured stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The class of an address, from harmless to never allowed. If an address embeds others, the worst class counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Public. Documentation ranges (RFC 5737, RFC 3849) count as public: refusing them protects nothing, and test networks use
    /// them.
    Public,
    /// Private (RFC 1918), ULA, CGNAT, site-local, benchmarking, protocol assignments, and all IPv6 space that is
    /// neither global unicast nor in another class.
    Private,
    /// Link-local, and the clouds' metadata services, which give the host's credentials to any client.
    LinkLocal,
    /// Loopback, and every address of this host's own interfaces.
    Local,
    /// Unspecified, 0.0.0.0/8, multicast, broadcast, reserved: never allowed.
    Never,
}

impl Class {
    /// Its name in messages and in the denial's object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Class::Public => "public",
            Class::Private => "private",
            Class::LinkLocal => "link-local or metadata",
            Class::Local => "loopback or this host",
            Class::Never => "unspecified, multicast or reserved",
        }
    }
}

/// Why a ClientHello has no usable name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoHello {
    /// The first bytes are not those of a TLS handshake record.
    NotTls,
    /// Malformed TLS.
    Malformed,
    /// A ClientHello without a server name, with several, or with one that is not a host name.
    NoName,
    /// Longer than 64 KiB.
    TooLong,
    /// Incomplete after 10 s.
    TooSlow,
    /// The client closed the connection first.
    Closed,
}

/// What was denied, how often, and to which process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The act.
    pub denied: Denied,
    /// How often.
    pub count: u64,
    /// The process, as numbered in the plugin's pid namespace, if known.
    pub pid: Option<i32>,
    /// Its command name, if known.
    pub comm: Option<String>,
}

impl Denial {
    /// An act that was denied `count` times.
    #[must_use]
    pub fn new(denied: Denied, count: u64) -> Self {
        Denial { denied, count, pid: None, comm: None }
    }
}

/// A denial with its rule and remedy (`decide::verdict`), known after the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What was denied.
    pub denial: Denial,
    /// The grant key that decides, and where its value comes from: `syscalls (built-in)`, `egress (/etc/…toml:25)`.
    pub rule: String,
    /// The configuration lines that would allow it, or `nothing: ` and the reason.
    pub remedy: String,
}
