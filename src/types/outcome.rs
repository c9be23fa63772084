//! What is known of a call whose plugin was started.

use super::{Denial, Explained, Failure};
use crate::json::raw::Raw;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One connection that the gateway carried or refused after accepting it; an entry of `data.egress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// What for.
    pub act: LookFor,
    /// An absolute path; for `Connect` `name:port`, `address:port` or `unix:path`.
    pub object: String,
    /// How often.
    pub count: u64,
}

/// What `upm learn` saw of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// In the order of their kind and name.
    pub looks: Vec<Look>,
    /// Looks beyond those listed.
    pub dropped: u64,
}

/// Everything known of a plugin that was started; its denials as they were seen, or explained.
#[derive(Debug, Clone)]
pub struct Outcome<D = Explained> {
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
    pub denials: Vec<D>,
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

impl Outcome<Denial> {
    /// The same with its denials explained.
    #[must_use]
    pub fn explained(self, explain: impl FnMut(Denial) -> Explained) -> Outcome {
        Outcome {
            result: self.result,
            afterwards: self.afterwards,
            plugin_version: self.plugin_version,
            output: self.output,
            usage: self.usage,
            denials: self.denials.into_iter().map(explain).collect(),
            denials_dropped: self.denials_dropped,
            denials_complete: self.denials_complete,
            egress: self.egress,
            observed: self.observed,
            sandbox: self.sandbox,
        }
    }
}
