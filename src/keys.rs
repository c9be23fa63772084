//! The keys of a grant, in one table. The reader of the file, the grant, the limits of the plan, denials, remedies, and the
//! tables in README.md and upm_config(5) are made from it. A new key is a row here and the code that enforces it.
//!
//! A row has these columns, in this order. The last three are left out where a key has none:
//!
//! ```text
//! Variant name: type = built-in value, reader(its arguments), "what it is", unit U, limit L, held "by what";
//! ```
//!
//! - The name is what the configuration writes and the field of the grant; the variant is the same word in [`Key`].
//! - The type is that of [`Grant`]'s field. Where a call gets something else than what is written, as a path with its variables
//!   replaced, both stand there: `written => granted`.
//! - The reader is the method of that name of `Reader`, in `config/keys/values.rs`.
//! - What it is goes into the documents as it is, in Markdown: `code`, `[links](to.md)`, `pages(1)`. No capital, no full stop.
//! - A key with a unit is an amount: [`Met`] in a denial has the unit, and the remedy is to double it, by the function in
//!   `config/keys/raised.rs` that has the reader's name.
//! - A key with a limit is a field of that name of the plan's [`Limits`], which are in the plan's digest. Where the field has
//!   another type, that and the conversion follow.
//! - What holds a limit is said by `data.sandbox.layers.limits.active` of each answer.
//!
//! The table is a macro that hands its rows to another one. Here they become [`Key`], which every stage may name; in
//! `config/keys.rs`, where their types and values are looked up, the keys of a file, [`Grant`] and [`Limits`].
//!
//! [`Grant`]: crate::config::Grant
//! [`Limits`]: crate::config::Limits
//! [`Met`]: crate::types::Met
#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};
use std::fmt;

/// Calls the macro `$make` with the rows.
macro_rules! table {
    ($make:ident) => { $make! {
        Interpreter interpreter: PathSpec => PathBuf = PathBuf::from(DEFAULT_INTERPRETER), program(),
            "Python for this plugin. Its prefix is mounted read-only where it lies outside of `/usr`";
        Site site: bool = true, bool(),
            "whether `site-packages` can be imported; `false` starts sooner";
        Read read: Vec<PathSpec> => Vec<PathBuf> = Vec::new(), paths(),
            "paths to read. Below a `write` path they are read-only, and the directories that lead to them cannot be renamed";
        Write write: Vec<PathSpec> => Vec<PathBuf> = Vec::new(), paths(),
            "paths to read and write, and whose files may be locked. None may hold the configuration, a plugin, schema, audit file, interpreter or the record of what plugins may write";
        Egress egress: Vec<String> => Vec<EgressGroup> = Vec::new(), groups(),
            "names of `[egress.NAME]` groups. Empty: no network";
        Env env: BTreeMap<String, String> = BTreeMap::new(), variables(),
            "variables to set, not `UPM_*`";
        EnvPass env_pass: Vec<String> = Vec::new(), variable_names(),
            "variables to pass from the caller, not `UPM_*`";
        Syscalls syscalls: Vec<String> = Vec::new(), syscalls(),
            "system calls to add to the filter";
        OnViolation on_violation: OnViolation = OnViolation::Deny, on_violation(),
            "what a refused system call does: `\"deny\"` is `EPERM`, `\"kill\"` ends the call";
        Policy policy: Map<String, Value> = Map::new(), policy(),
            "a table that is handed to the plugin";
        Fernet fernet: bool = false, bool(),
            "whether the module `cryptography.fernet` is handed to the plugin";
        #[serde(serialize_with = "made::as_text")]
        Timeout timeout: Duration = MINUTE, time(),
            "time of the whole call, by the clock",
            unit Milliseconds, limit timeout_ms: u64 = millis, held "the supervisor's deadline";
        #[serde(serialize_with = "made::as_text")]
        CpuTime cpu_time: Duration = MINUTE, time(),
            "processor time of each process",
            unit Seconds, limit cpu_time_s: u64 = whole_seconds, held "RLIMIT_CPU a process";
        Cpus cpus: Cpus => Option<Cpus> = None, cpus(),
            "processors that the whole call may keep busy, from 0.01 to 8192; over it the call is slowed down, not ended. Without the key there is no such limit. It needs [a cgroup with the cpu controller](#memory-processes-and-processors): without one the call is refused",
            limit cpus;
        Memory memory: u64 = GIB, size(MAX_SIZE),
            "memory of each process, which then gets `ENOMEM`, and of the whole call, which is then ended. Without [a cgroup](#memory-processes-and-processors) the sum over its processes, and what its sockets can hold, are looked at every 100 ms",
            unit Bytes, limit memory;
        RequireCgroup require_cgroup: bool = false, bool(),
            "whether the call is refused where no [cgroup with the memory controller](#memory-processes-and-processors) counts its memory",
            limit require_cgroup;
        Processes processes: u64 = 64, count(1, MAX_PROCESSES),
            "processes and threads at once",
            unit Processes, limit processes;
        OpenFiles open_files: u64 = 256, count(4, MAX_OPEN_FILES), // below four there is no room for 0-3
            "descriptors of each process",
            unit Descriptors, limit open_files, held "RLIMIT_NOFILE a process";
        FileWatches file_watches: u64 = 0, count(0, 1 << 20), // above, the kernel's own most of a user's watches (inotify(7))
            "files and directories that the call may watch by inotify(7), all its processes together; `0` is no inotify. A watch tells [what all programs of the host](SECURITY.md#what-is-not-contained) do to the file, not the call alone",
            limit file_watches, held "user.max_inotify_watches of the call's user namespace";
        FileSize file_size: u64 = GIB, size(MAX_SIZE),
            "size of each file written",
            unit Bytes, limit file_size, held "RLIMIT_FSIZE a file";
        Tmp tmp: u64 = 256 * MIB, size(MAX_SIZE),
            "size of `/tmp`, which is memory",
            unit Bytes, held "the size of its tmpfs";
        Output output: u64 = 4 * MIB, size(MAX_HELD),
            "bytes kept of stdout, and of stderr",
            unit Bytes, limit output, held "the supervisor keeps so much of each stream";
        Arguments arguments: u64 = MIB, size(MAX_HELD),
            "size of the JSON arguments",
            unit Bytes;
        Result result: u64 = 16 * MIB, size(MAX_HELD),
            "size of a frame, and so of a result",
            unit Bytes, limit result, held "the supervisor reads no longer line";
        EgressBytes egress_bytes: u64 = 4 * GIB, size(MAX_SIZE),
            "bytes through the gateway, both ways together",
            unit Bytes, limit egress_bytes, held "the gateway counts";
        LandlockMinAbi landlock_min_abi: u32 = 2, abi(),
            "oldest landlock that is accepted";
        RunAs run_as: String => Option<String> = None, user(),
            "user that the plugin is outside when root calls. Without it the user `upm` of `/etc/passwd`, else 65534, of which upm-check(1) warns: other services share it";
        AsRootOwner as_root_owner: bool = false, bool(),
            "whether a `write` path that root or its group owns may be written when root calls: what the plugin makes there is root's. Without it such a call is refused: give the path to an unprivileged user with chown(1)";
        Callers callers: Vec<CallerSpec> => Option<Vec<CallerSpec>> = None, callers(),
            "who may call over the service's socket, besides root: `[\"user:deploy\", \"group:ci\"]`, or with numbers. Without it the service's own user alone. A call that is made without the service has its user's own rights, and does not ask";
    } };
}
pub(crate) use table;

/// `Some` of what there is.
macro_rules! some {
    () => {
        None
    };
    ($one:expr) => {
        Some($one)
    };
}

/// What every stage may name of the rows.
macro_rules! key {
    ($(
        $(#[$attribute:meta])*
        $key:ident $name:ident: $written:ty $(=> $granted:ty)? = $built_in:expr, $read:ident($($argument:expr),*), $doc:literal
        $(, unit $unit:ident)? $(, limit $limit:ident $(: $number:ty = $convert:ident)?)? $(, held $held:literal)?;
    )*) => {
        /// A key of a grant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum Key {
            $(#[doc = $doc] $key,)*
        }

        impl Key {
            /// All keys, in the order of the documents.
            pub const ALL: &'static [Key] = &[$(Key::$key),*];

            /// As the configuration writes it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Key::$key => stringify!($name),)* }
            }

            /// What it is, in Markdown.
            #[must_use]
            pub(crate) const fn doc(self) -> &'static str {
                match self { $(Key::$key => $doc,)* }
            }

            /// What its amount is counted in; `None` of what is no amount.
            #[must_use]
            pub(crate) const fn unit(self) -> Option<Unit> {
                match self { $(Key::$key => some!($(Unit::$unit)?),)* }
            }

            /// Its name among the plan's limits.
            pub(crate) const fn limit(self) -> Option<&'static str> {
                match self { $(Key::$key => some!($(stringify!($limit))?),)* }
            }

            /// What holds a call to it, where that is always the same.
            pub(crate) const fn held(self) -> Option<&'static str> {
                match self { $(Key::$key => some!($($held)?),)* }
            }
        }
    };
}
table!(key);

impl Key {
    /// The key of this name.
    #[must_use]
    pub(crate) fn named(name: &str) -> Option<Key> {
        Key::ALL.iter().copied().find(|key| key.name() == name)
    }

    /// The names of all keys.
    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        Key::ALL.iter().map(|key| key.name())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an amount is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Unit {
    #[serde(rename = "B")]
    Bytes,
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "processes")]
    Processes,
    #[serde(rename = "descriptors")]
    Descriptors,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variant_and_name_are_the_same_word() {
        for key in Key::ALL {
            assert_eq!(format!("{key:?}").to_lowercase(), key.name().replace('_', ""));
        }
    }
}
