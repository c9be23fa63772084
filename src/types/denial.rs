//! What the plugin tried and a layer stopped.

use crate::keys::Key;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr};

/// The layers, in the order of README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Layer {
    /// Users, processes, mounts and all else that a namespace is of.
    Namespaces,
    /// The sealed root.
    Root,
    /// What the call may take.
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

/// One act that a layer stopped, as that layer saw it. `report::denial` writes it. What is read from the gateway's process can
/// only be what the gateway sees.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Denied {
    /// A system call that the filter refuses.
    #[serde(skip)]
    Syscall(Syscall),
    /// A limit of the grant that the call came up against.
    #[serde(skip)]
    Limit(Met),
    /// Addresses that were dialled and have no route; the kernel counts them and does not say which.
    #[serde(skip)]
    Unroutable,
    /// A name that nothing grants.
    Resolve {
        /// As it was asked for.
        name: String,
    },
    /// A granted name, after as many others as a call may ask for.
    Names {
        /// The name.
        name: String,
        /// So many.
        most: usize,
    },
    /// A granted name on a port that it is not granted on.
    Connect {
        /// The name.
        name: String,
        /// The port.
        port: u16,
    },
    /// A local address that stands for no name.
    ConnectAddress {
        /// The address.
        address: Ipv4Addr,
        /// The port.
        port: u16,
    },
    /// A granted name of which every answer is an address that may not be dialled.
    Address {
        /// The name.
        name: String,
        /// The port.
        port: u16,
        /// The first of them.
        address: IpAddr,
        /// What that is.
        class: Class,
    },
    /// A ClientHello for another name.
    TlsName {
        /// The name that was dialled.
        name: String,
        /// The port.
        port: u16,
        /// The name in the ClientHello.
        found: String,
    },
    /// No ClientHello that names a host.
    TlsMissing {
        /// The name that was dialled.
        name: String,
        /// The port.
        port: u16,
        /// Why.
        why: NoHello,
    },
    /// The gateway has carried as many bytes as `egress_bytes` allows.
    EgressBytes {
        /// The name that was dialled.
        name: String,
        /// The port.
        port: u16,
        /// The limit.
        limit: u64,
    },
}

impl Denied {
    /// The layer that stopped it.
    #[must_use]
    pub fn layer(&self) -> Layer {
        match self {
            Denied::Syscall(_) => Layer::Seccomp,
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
    /// Those of its arguments that are values, by their names.
    pub values: Vec<(&'static str, u64)>,
    /// Who refused it.
    pub refused: Refused,
}

/// Who refused a system call.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Refused {
    /// No rule of the filter allows it.
    Filter,
    /// It is allowed so many times, and this was once more.
    Count,
    /// A lock of a file.
    Lock(NoLock),
}

/// Why a lock of a file was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NoLock {
    /// The call may not write the file.
    ReadOnly,
    /// Pid 1 cannot look which file it is; the kernel's words.
    Unseen(String),
    /// A mount of the call's whose server may not answer.
    Distant(String),
    /// The supervisor could not ask; what it was told.
    Engine(String),
    /// So many changes of ranges a call may make.
    Ranges(u64),
    /// So many locks may wait at once.
    Waiting(usize),
}

/// A limit that was met.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Met {
    /// Which: a key with a unit.
    pub key: Key,
    /// Its value, in its own unit.
    pub value: u64,
    /// What was used, where that is known.
    pub used: Option<u64>,
    /// For `output`, the stream.
    pub stream: Option<Stream>,
}

/// A stream that is captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What an address is, from harmless to never. Of an address that embeds others the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Reachable by anyone. Documentation ranges (RFC 5737, RFC 3849) count as public: refusing them protects nothing,
    /// and laboratories resolve to them.
    Public,
    /// Private (RFC 1918), ULA, CGNAT, site-local, benchmarking, protocol assignments, and whatever IPv6 space is
    /// neither global unicast nor one of the other classes.
    Private,
    /// Link-local, and the metadata services of clouds, which hand out the host's credentials to whoever asks.
    LinkLocal,
    /// Loopback, and every address of this host's own interfaces.
    Local,
    /// Unspecified, 0.0.0.0/8, multicast, broadcast, reserved: nothing allows these.
    Never,
}

impl Class {
    /// For people and for the denial's object.
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

/// Why there is no name to compare in a ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum NoHello {
    /// The first bytes are not those of a TLS handshake record.
    NotTls,
    /// It is TLS, and malformed.
    Malformed,
    /// A ClientHello without a server name, with several, or with one that is no host name.
    NoName,
    /// Over 64 KiB.
    TooLong,
    /// Not there after 10 s.
    TooSlow,
    /// The client closed its side before.
    Closed,
}

/// What was denied, how often, and to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denial {
    /// The act.
    pub denied: Denied,
    /// How often.
    pub count: u64,
    /// The process inside, as the plugin's pid namespace numbers it, when known.
    pub pid: Option<i32>,
    /// Its command name, when known.
    pub comm: Option<String>,
}

impl Denial {
    /// An act that happened `count` times.
    #[must_use]
    pub fn new(denied: Denied, count: u64) -> Self {
        Denial { denied, count, pid: None, comm: None }
    }
}

/// A denial with what the configuration says of it (`decide::verdict`), once the call is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explained {
    /// What was denied.
    pub denial: Denial,
    /// The grant key that decides and where its value was written: `syscalls (built-in)`, `egress (/etc/…toml:25)`.
    pub rule: String,
    /// The lines of the configuration that would allow it, or `nothing: ` and why nothing can.
    pub remedy: String,
}
