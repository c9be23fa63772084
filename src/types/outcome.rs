//! The results of a call whose plugin was started.

use super::{Denial, Explained, Failure, Sandbox};
use crate::json::raw::Raw;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One connection that the gateway accepted; an entry of `data.egress`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EgressRecord {
    /// The granted name that the plugin connected to.
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

/// The captured part of the plugin's stdout and stderr.
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

/// The resources that the call used.
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
    /// The whole call's peak memory in bytes, if a cgroup counted it.
    pub memory_peak_bytes: Option<u64>,
    /// Most processes and threads at once, including the sandbox's pid 1, if a cgroup counted them.
    pub pids_peak: Option<u64>,
    /// Microseconds for which `cpus` made the call's processes wait.
    pub cpu_throttled_us: Option<u64>,
    /// Bytes sent through the gateway.
    pub egress_bytes_sent: u64,
    /// Bytes received through the gateway.
    pub egress_bytes_received: u64,
}

/// For which layers the list of denials is complete. Errors of the filter that mean "not supported" (`ENOSYS`, `EAFNOSUPPORT`)
/// are not denials.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Completeness {
    /// Denied system calls: false if the filter cannot have a listener.
    pub seccomp: bool,
    /// Denied names, connections and TLS names; connections to addresses are only counted.
    pub egress: bool,
    /// Always false: only the consequences of an rlimit are visible.
    pub limits: bool,
    /// Always false: the kernel does not report TCP ports or paths that Landlock denies.
    pub landlock: bool,
    /// Always false: a path that is not mounted does not exist in the call.
    pub paths: bool,
    /// The command that shows what else the same call looks for.
    pub learn: String,
}

/// The purpose of a plugin's attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LookFor {
    /// To read, list or check for existence.
    Read,
    /// To create, change or remove.
    Write,
    /// To run.
    Execute,
    /// To connect to.
    Connect,
}

/// Something that a plugin looked for and did not get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// The purpose.
    pub act: LookFor,
    /// An absolute path; for `Connect` `name:port`, `address:port` or `unix:path`.
    pub object: String,
    /// How often.
    pub count: u64,
}

/// What `upm learn` saw of a call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Sorted by purpose and name.
    pub looks: Vec<Look>,
    /// The number of further looks.
    pub dropped: u64,
}

/// Everything known about a plugin that was started. `D`: denials as seen, or explained.
#[derive(Debug, Clone)]
pub struct Outcome<D = Explained> {
    /// The method's value, or the failure.
    pub result: Result<Raw, Failure>,
    /// How its process ended after its answer, if not by itself; the answer remains valid.
    pub afterwards: Option<Failure>,
    /// From the plugin's `version` or `__version__`.
    pub plugin_version: Option<Value>,
    /// Captured output.
    pub output: Output,
    /// The resources used.
    pub usage: Usage,
    /// What was tried and denied.
    pub denials: Vec<D>,
    /// The number of further denials.
    pub denials_dropped: u64,
    /// For which layers `denials` is complete.
    pub denials_complete: Completeness,
    /// Connections through the gateway.
    pub egress: Vec<EgressRecord>,
    /// What was looked for and not granted, if the call was observed.
    pub observed: Option<Observed>,
    /// Each layer as requested and as read back.
    pub sandbox: Sandbox,
}

impl Outcome<Denial> {
    /// Explains the denials.
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
