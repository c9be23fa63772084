//! The keys of a grant, in one table. The configuration reader, the grant, the plan's limits, denials, remedies, and the
//! tables in README.md and upm_config(5) are generated from it. A new key is a row here and the code that enforces it.
//!
//! A row has these columns, in this order. The last three are optional:
//!
//! ```text
//! Variant name: type = built-in value, reader(its arguments), "meaning", unit U, limit L, held "by what";
//! ```
//!
//! - The name is the key in the configuration and the field of the grant; the variant is the same word in [`Key`].
//! - The type is that of [`Grant`]'s field. If a call gets another type than the configuration has, such as a path with its
//!   variables replaced, the column has both: `written => granted`.
//! - The reader is a method of `Reader`, in `config/keys/values.rs`.
//! - The meaning is copied into the documents, in Markdown: `code`, `[links](to.md)`, `pages(1)`. No capital, no full stop.
//! - A key with a unit is an amount: [`Met`] in a denial has the unit, and the remedy is to double it. The function with the
//!   reader's name in `config/keys/raised.rs` does this.
//! - A key with a limit is the field of that name in the plan's [`Limits`], which are in the plan's digest. If the field has
//!   another type, that and the conversion follow.
//! - `held` says what enforces a limit, for `data.sandbox.layers.limits.active` of each answer.
//!
//! The table is a macro that passes its rows to another macro. Here they become [`Key`], which every stage may use; in
//! `config/keys.rs`, where the types and values are resolved, they become the keys of a file, [`Grant`] and [`Limits`].
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
            "Python for this plugin. Its prefix is mounted read-only if it is outside `/usr`";
        Site site: bool = true, bool(),
            "whether `site-packages` can be imported; `false` starts faster";
        Read read: Vec<PathSpec> => Vec<PathBuf> = Vec::new(), paths(),
            "paths to read. Inside a `write` path they are read-only, and the directories that lead to them cannot be renamed";
        Write write: Vec<PathSpec> => Vec<PathBuf> = Vec::new(), paths(),
            "paths to read and write; their files may be locked. They must not contain the configuration, a plugin, schema, audit file, interpreter or the record of what plugins may write";
        Egress egress: Vec<String> => Vec<EgressGroup> = Vec::new(), groups(),
            "names of `[egress.NAME]` groups. Empty: no network";
        Env env: BTreeMap<String, Template> => BTreeMap<String, String> = BTreeMap::new(), variables(),
            "environment variables to set; `UPM_*` is not allowed. `{project_root}` and `{cache_dir}` in their values are replaced; other braces are text";
        EnvPass env_pass: Vec<String> = Vec::new(), variable_names(),
            "environment variables to pass from the caller; `UPM_*` is not allowed";
        Syscalls syscalls: Vec<String> = Vec::new(), syscalls(),
            "system calls to add to the filter";
        OnViolation on_violation: OnViolation = OnViolation::Deny, on_violation(),
            "what a denied system call does: `\"deny\"` returns `EPERM`, `\"kill\"` ends the call";
        Policy policy: Map<String, Value> = Map::new(), policy(),
            "a table that is passed to the plugin";
        Fernet fernet: bool = false, bool(),
            "whether the module `cryptography.fernet` is passed to the plugin";
        #[serde(serialize_with = "made::as_text")]
        Timeout timeout: Duration = MINUTE, time(),
            "wall-clock time of the whole call",
            unit Milliseconds, limit timeout_ms: u64 = millis, held "the supervisor's deadline";
        #[serde(serialize_with = "made::as_text")]
        CpuTime cpu_time: Duration = MINUTE, time(),
            "processor time of each process",
            unit Seconds, limit cpu_time_s: u64 = whole_seconds, held "RLIMIT_CPU a process";
        Cpus cpus: Cpus => Option<Cpus> = None, cpus(),
            "processors that the whole call may use, from 0.01 to 8192; a call that needs more is slowed down, not ended. Default: no limit. It requires [a cgroup with the cpu controller](#memory-processes-and-processors): without one the call is refused",
            limit cpus;
        Memory memory: u64 = GIB, size(MAX_SIZE),
            "memory of each process, and of the whole call. A process that needs more gets `ENOMEM`; a call that uses more is ended. Without [a cgroup](#memory-processes-and-processors) the sum of its processes, and what its sockets can hold, are checked every 100 ms",
            unit Bytes, limit memory;
        RequireCgroup require_cgroup: bool = false, bool(),
            "whether the call is refused if no [cgroup with the memory controller](#memory-processes-and-processors) counts its memory",
            limit require_cgroup;
        Processes processes: u64 = 64, count(1, MAX_PROCESSES),
            "processes and threads at once",
            unit Processes, limit processes;
        OpenFiles open_files: u64 = 256, count(4, MAX_OPEN_FILES), // below four there is no room for 0-3
            "descriptors of each process",
            unit Descriptors, limit open_files, held "RLIMIT_NOFILE a process";
        FileWatches file_watches: u64 = 0, count(0, 1 << 20), // the kernel's own limit of a user's watches (inotify(7))
            "files and directories that all processes of the call together may watch with inotify(7); `0` disables inotify. A watch reports [what all programs of the host](SECURITY.md#what-is-not-contained) do to the file, not just the call",
            limit file_watches, held "user.max_inotify_watches of the call's user namespace";
        UnixSockets unix_sockets: bool = false, bool(),
            "whether programs may make UNIX sockets that have a path, in a call that is granted paths. Landlock before ABI 9 cannot keep them from the sockets of the host's servers in these paths; from ABI 9 on, and without granted paths, they always may";
        Pty pty: bool = false, bool(),
            "whether programs can make pseudo terminals: a `/dev/ptmx` and `/dev/pts` of the call's own, for at most 64 at a time";
        FileSize file_size: u64 = GIB, size(MAX_SIZE),
            "size of each file written",
            unit Bytes, limit file_size, held "RLIMIT_FSIZE a file";
        Tmp tmp: u64 = 256 * MIB, size(MAX_SIZE),
            "size of `/tmp`, which uses memory",
            unit Bytes, held "the size of its tmpfs";
        Shm shm: u64 = 16 * MIB, size(MAX_SIZE),
            "size of `/dev/shm`, which uses memory: shared memory and semaphores of POSIX, as Python's multiprocessing and browsers use them",
            unit Bytes, held "the size of its tmpfs";
        Output output: u64 = 4 * MIB, size(MAX_HELD),
            "bytes of stdout, and of stderr, that are kept",
            unit Bytes, limit output, held "the supervisor keeps at most this much of each stream";
        Arguments arguments: u64 = MIB, size(MAX_HELD),
            "size of the JSON arguments",
            unit Bytes;
        Result result: u64 = 16 * MIB, size(MAX_HELD),
            "size of a frame, and therefore of a result",
            unit Bytes, limit result, held "the supervisor reads no longer lines";
        EgressBytes egress_bytes: u64 = 4 * GIB, size(MAX_SIZE),
            "bytes through the gateway, both directions together",
            unit Bytes, limit egress_bytes, held "the gateway counts";
        LandlockMinAbi landlock_min_abi: u32 = 2, abi(),
            "oldest Landlock ABI version that is accepted";
        RunAs run_as: String => Option<String> = None, user(),
            "host user that the plugin runs as when root calls. Default: the user `upm` of `/etc/passwd`, or 65534 if there is none; upm-check(1) warns about 65534, because other services share it";
        AsRootOwner as_root_owner: bool = false, bool(),
            "whether the plugin may write to a `write` path that root or root's group owns when root calls: what it creates there belongs to root. Without it such a call is refused: give the path to an unprivileged user with chown(1)";
        Callers callers: Vec<CallerSpec> => Option<Vec<CallerSpec>> = None, callers(),
            "who may call over the service's socket, besides root: `[\"user:deploy\", \"group:ci\"]`, or with numeric ids. Default: only the service's own user. A call that is made without the service has its user's own rights, and does not check this key";
    } };
}
pub(crate) use table;

/// `Some` of the argument, or `None` without one.
macro_rules! some {
    () => {
        None
    };
    ($one:expr) => {
        Some($one)
    };
}

/// The parts of the rows that every stage may use.
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

            /// The name in the configuration.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Key::$key => stringify!($name),)* }
            }

            /// Its meaning, in Markdown.
            #[must_use]
            pub(crate) const fn doc(self) -> &'static str {
                match self { $(Key::$key => $doc,)* }
            }

            /// The unit of its amount; `None` if it is not an amount.
            #[must_use]
            pub(crate) const fn unit(self) -> Option<Unit> {
                match self { $(Key::$key => some!($(Unit::$unit)?),)* }
            }

            /// Its name among the plan's limits.
            pub(crate) const fn limit(self) -> Option<&'static str> {
                match self { $(Key::$key => some!($(stringify!($limit))?),)* }
            }

            /// What enforces it, if that is always the same.
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

/// The unit of an amount.
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
