//! The confinement of a call.

use super::EgressRule;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The layers of a call, as requested and as read back; `report::sandbox` renders them as `data.sandbox`.
#[derive(Debug, Clone, Default)]
pub struct Sandbox {
    /// SHA-256 of the plan.
    pub plan_sha256: String,
    /// SHA-256 of the configuration that the plan comes from, if there is one.
    pub config_sha256: Option<String>,
    /// Namespaces with their inode numbers, in the order of the plan.
    pub namespaces: Vec<(&'static str, u64)>,
    /// Mounts of the plan, with the root.
    pub mounts_planned: usize,
    /// Mounts in the root, with those below a cloned one.
    pub mounts: usize,
    /// The Landlock ABI in use.
    pub landlock_abi: u32,
    /// The rights that Landlock handles, by their names in landlock(7).
    pub landlock_rights: Vec<String>,
    /// Paths in writable directories that only a mount makes read-only.
    pub read_only_by_mount: Vec<PathBuf>,
    /// The filter's profile, its number of instructions, and its SHA-256.
    pub filter: (&'static str, usize, String),
    /// Whether the filter has a listener.
    pub listener: bool,
    /// `Seccomp` of the plugin's `/proc/PID/status`: 2 is a filter.
    pub seccomp_mode: Option<u64>,
    /// `Seccomp_filters` of the same file (Linux 5.9).
    pub seccomp_filters: Option<u64>,
    /// Capability sets as the kernel shows them; all zero.
    pub capabilities: BTreeMap<String, u64>,
    /// `NoNewPrivs` of `/proc/self/status`.
    pub no_new_privs: bool,
    /// The plan's limits.
    pub limits: Value,
    /// What a cgroup enforces of them, and what else does.
    pub limits_active: Value,
    /// The granted destinations.
    pub egress: Vec<EgressRule>,
    /// User and group inside.
    pub inside: (u32, u32),
    /// User and group on the host.
    pub outside: (u32, u32),
    /// `/proc/self/uid_map`.
    pub uid_map: String,
    /// The number of supplementary groups.
    pub groups: usize,
}
