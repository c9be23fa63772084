//! The call's own cgroup (cgroup v2): the kernel counts and limits the memory, processes and processor time of the whole call,
//! and reports what it used and why it was ended.
//!
//! `upm-call-ID` counts all that the call costs. In it, `plugin` has the limits and holds the sandbox; `engine` holds what upm
//! itself runs for the call, outside those limits: a supervisor in `plugin` would be killed with a call that runs out of
//! memory, and would wait with it for its share of the processors, its deadline included.

mod place;
mod tree;

use super::denials;
use crate::decide::plan::{Limits, Plan};
use crate::keys::Key;
use crate::types::{Cause, Code, Denied, Details, Failure, Layer};
use crate::units::Cpus;
use place::{Base, Settled, find, no_memory, remedy};
pub use place::{Missing, make_own_directory};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, mkdirat, unlinkat};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use tree::{Controllers, Directory, field, read};

/// Before a call's request id.
const PREFIX: &str = "upm-call-";
/// The part with the limits.
const PLUGIN: &str = "plugin";
/// The part of upm's own processes.
const ENGINE: &str = "engine";
/// Names that are tried when another call has the first.
const NAMES: u32 = 8;
/// Left-over cgroups that one call removes.
const SWEPT: usize = 100;
/// What the watch of a call's memory does not see if no cgroup counts it. `SECURITY.md` says how much each can be.
pub const NOT_COUNTED: &str = "what is taken between two looks, files in /tmp and /dev/shm, pipes, the first 64 sockets, and the \
                               kernel's own objects of processes, descriptors, mappings and locks";

/// What the kernel counted for the plugin.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Most bytes at once (Linux 5.19).
    pub memory_peak: Option<u64>,
    /// Most processes and threads at once, pid 1 included (Linux 6.1).
    pub pids_peak: Option<u64>,
    /// Microseconds of processor time, user and system, of all the call's processes.
    pub cpu: Option<(u64, u64)>,
    /// How often the call's own limit was reached with nothing left to reclaim.
    pub memory_ooms: u64,
    /// Processes that the kernel killed for want of memory, the call's own or the host's.
    pub oom_kills: u64,
    /// Processes and threads that were refused.
    pub pids_refused: u64,
    /// Microseconds that the call was kept waiting for its processors, where they are limited.
    pub cpu_throttled: Option<u64>,
}

impl Counts {
    /// The call was killed because of its own `memory`: a shortage of the host, or of a cgroup above, counts its kills here
    /// too, but not as this cgroup's limit.
    #[must_use]
    pub fn memory_exceeded(&self) -> bool {
        self.oom_kills > 0 && self.memory_ooms > 0
    }
}

/// Removes what calls left whose supervisor was killed. A live supervisor holds the lock, and the kernel removes nothing that has
/// a process. The next call gets what this one does not.
fn sweep(base: &Directory) {
    let Ok(entries) = rustix::fs::Dir::read_from(&base.fd) else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    let mut removed = 0;
    for name in names.filter(|name| name.starts_with(PREFIX)) {
        if let Ok(left) = base.child(&name) {
            if flock(&left.fd, FlockOperation::NonBlockingLockExclusive).is_ok() && remove(base, &left, &name) {
                removed += 1;
            }
        }
        if removed == SWEPT {
            break;
        }
    }
}

/// Removes a call's cgroup; false if the kernel refuses (`EBUSY`: a process does not react to SIGKILL yet).
fn remove(base: &Directory, call: &Directory, name: &str) -> bool {
    for part in [PLUGIN, ENGINE] {
        unlinkat(&call.fd, part, AtFlags::REMOVEDIR).ok();
    }
    unlinkat(&base.fd, name, AtFlags::REMOVEDIR).is_ok()
}

/// A call's cgroup. It is removed with the value.
pub struct Cgroup {
    base: Directory,
    name: String,
    /// Locked while the supervisor lives.
    call: Directory,
    plugin: Directory,
    engine: Engine,
    /// `memory` is limited here.
    pub memory: bool,
    /// `processes` is limited here.
    pub pids: bool,
    /// Processors at once are limited here.
    cpus: Option<Cpus>,
    /// The limits, read back.
    set: Map<String, Value>,
    /// Open before the supervisor confines itself.
    files: Files,
    /// Dropped after all of it.
    settled: Option<Settled>,
}

/// Where upm's own processes are counted.
struct Engine {
    directory: Directory,
    /// Its `cgroup.procs`, and that of the cgroup to return to; `None`: the supervisor stays where it is.
    door: Option<(OwnedFd, OwnedFd)>,
    /// The supervisor is in it.
    joined: bool,
}

impl Engine {
    fn make(call: &Directory, home: Option<OwnedFd>) -> rustix::io::Result<Engine> {
        let directory = call.make(ENGINE)?;
        let procs = directory.file("cgroup.procs", OFlags::WRONLY)?;
        Ok(Engine { directory, door: home.map(|home| (procs, home)), joined: false })
    }

    fn join(&mut self) {
        if let (Some((procs, _)), false) = (&self.door, self.joined) {
            match rustix::io::write(procs, b"0") {
                Ok(_) => self.joined = true,
                Err(error) => {
                    tracing::debug!(%error, "the supervisor is not counted in the call's cgroup");
                    self.door = None;
                }
            }
        }
    }

    fn leave(&self) {
        if let (Some((_, home)), true) = (&self.door, self.joined) {
            // If it fails, the next call removes the directory.
            rustix::io::write(home, b"0").ok();
        }
    }
}

/// Not every kernel has every one.
struct Files {
    kill: Option<OwnedFd>,
    memory_peak: Option<OwnedFd>,
    memory_events: Option<OwnedFd>,
    pids_peak: Option<OwnedFd>,
    pids_events: Option<OwnedFd>,
    cpu: Option<OwnedFd>,
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.engine.leave();
        // If it fails, the next call removes it.
        remove(&self.base, &self.call, &self.name);
    }
}

/// What a call's cgroup limits.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes.
    pub memory: u64,
    /// Processes and threads, without pid 1.
    pub processes: u64,
    /// Processors at once.
    pub cpus: Option<Cpus>,
    /// The memory must be limited here, or the call is refused.
    pub required: bool,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Self {
        Bounds {
            memory: limits.memory,
            processes: limits.processes,
            cpus: limits.cpus,
            required: limits.require_cgroup,
        }
    }
}

impl Missing {
    /// Refuses a call that needs a cgroup.
    ///
    /// # Errors
    /// `sandbox_unavailable` for a call with `cpus`, which nothing else serves, or with `require_cgroup`.
    pub fn refuses(&self, bounds: Bounds) -> Result<(), Failure> {
        let (key, without) = if bounds.required {
            (Key::RequireCgroup, format!("that a call's memory is then watched, and not counted: {NOT_COUNTED}"))
        } else if bounds.cpus.is_some() {
            (Key::Cpus, "that the call may keep every processor busy".to_owned())
        } else {
            return Ok(());
        };
        let name = key.name();
        let remedy = format!("{}; or remove `{name}` from the grant, knowing {without}", self.remedy);
        let message = format!("limits: `{name}` is not available here: {}; {remedy}", self.found);
        let cause = Some(Cause::Key(key));
        Err(Failure::new(Code::SandboxUnavailable, message).with(Details::Layer {
            layer: Layer::Limits,
            cause,
            remedy: Some(remedy),
        }))
    }
}

/// Creates the cgroup of a call. `request_id` is in its name, so that the kernel's own log of an out-of-memory kill names the call.
///
/// # Errors
/// Why there is none. The call then has the limits of each process and the watched sum of their memory; see [`Missing::refuses`].
pub fn make(bounds: Bounds, request_id: &str) -> Result<Cgroup, Missing> {
    let caller = nix::unistd::geteuid().as_raw();
    let base = find(caller, bounds.cpus)?;
    sweep(&base.directory);
    let failed = |name: &str, error: Errno| {
        Missing::new(format!("cgroup {}: {error}", base.directory.path.join(name).display()), remedy(caller))
    };
    let plain = !request_id.is_empty() && request_id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    for attempt in 0..NAMES {
        let name = match attempt {
            0 if plain => format!("{PREFIX}{request_id}"),
            _ => format!("{PREFIX}{}-{attempt}", std::process::id()),
        };
        match take(&base.directory, &name) {
            Ok(call) => return limited(base, name, call, bounds, caller),
            // Another call has the name, or has removed what was not locked yet.
            Err(Errno::EXIST | Errno::NOENT | Errno::NODEV | Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed(&name, error)),
        }
    }
    Err(failed(PREFIX, Errno::EXIST))
}

/// A new directory, locked while the supervisor lives.
fn take(base: &Directory, name: &str) -> rustix::io::Result<Directory> {
    mkdirat(&base.fd, name, Mode::RWXU)?;
    let call = base.child(name)?;
    flock(&call.fd, FlockOperation::NonBlockingLockExclusive)?;
    // A removed one can be locked too, but has no files any more.
    call.file("cgroup.procs", OFlags::RDONLY)?;
    Ok(call)
}

fn limited(base: Base, name: String, call: Directory, bounds: Bounds, caller: u32) -> Result<Cgroup, Missing> {
    let Base { directory: base, controllers, home, settled } = base;
    let path = call.path.clone();
    let failed =
        |file: &str, error: Errno| Missing::new(format!("cgroup {}: {file}: {error}", path.display()), remedy(caller));
    let parts = call.enable(controllers).and_then(|()| Ok((call.make(PLUGIN)?, Engine::make(&call, home)?)));
    let (plugin, engine) = match parts {
        Ok(parts) => parts,
        Err(error) => {
            remove(&base, &call, &name);
            return Err(failed("its parts", error));
        }
    };
    let files = Files::open(&plugin);
    let Controllers { memory, pids, cpu: _ } = controllers;
    let (cpus, set) = (bounds.cpus, Map::new());
    let mut made = Cgroup { base, name, call, plugin, engine, memory, pids, cpus, set, files, settled };
    match made.limit(bounds) {
        Ok(()) if bounds.required && !memory => Err(no_memory(&made.call.path)),
        Ok(()) => Ok(made),
        Err((file, error)) => Err(failed(file, error)),
    }
}

impl Files {
    fn open(plugin: &Directory) -> Files {
        let open = |name: &str, flags| plugin.file(name, flags).ok();
        Files {
            kill: open("cgroup.kill", OFlags::WRONLY),
            memory_peak: open("memory.peak", OFlags::RDONLY),
            memory_events: open("memory.events", OFlags::RDONLY),
            pids_peak: open("pids.peak", OFlags::RDONLY),
            pids_events: open("pids.events", OFlags::RDONLY),
            cpu: open("cpu.stat", OFlags::RDONLY),
        }
    }
}

impl Cgroup {
    /// Sets the limits and reads them back.
    fn limit(&mut self, bounds: Bounds) -> Result<(), (&'static str, Errno)> {
        let mut values = Vec::new();
        if self.memory {
            values.push(("memory.max", bounds.memory.to_string()));
            // Memory over the limit must not go to disk instead.
            values.push(("memory.swap.max", "0".to_owned()));
            // A call that lost one of its processes has no defined end: kill all of it.
            values.push(("memory.oom.group", "1".to_owned()));
        }
        if self.pids {
            // Pid 1 is one of them.
            values.push(("pids.max", bounds.processes.saturating_add(1).to_string()));
        }
        if let Some(cpus) = bounds.cpus {
            values.push(("cpu.max", format!("{} {}", cpus.quota_us(), Cpus::PERIOD_US)));
        }
        for (file, value) in values {
            match self.plugin.write(file, &value) {
                Ok(()) => {}
                // A kernel without swap, or that does not count it: reported as null.
                Err(Errno::NOENT) if file == "memory.swap.max" => {
                    self.set.insert(file.to_owned(), Value::Null);
                    continue;
                }
                Err(error) => return Err((file, error)),
            }
            let active = self.plugin.read(file).map_err(|error| (file, error))?;
            self.set.insert(file.to_owned(), active.trim_end().into());
        }
        Ok(())
    }

    /// Where clone3(2) puts the sandbox.
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.plugin.fd.as_fd()
    }

    /// Where clone3(2) puts upm's own processes that serve the call.
    #[must_use]
    pub fn engine(&self) -> BorrowedFd<'_> {
        self.engine.directory.fd.as_fd()
    }

    /// Counts the supervisor in the call's cgroup from now on. It waits for other processors meanwhile (an RCU grace period, some
    /// milliseconds), so only a call that costs the supervisor more than that is worth it.
    pub fn count_supervisor(&mut self) {
        self.engine.join();
    }

    /// The directory that the cgroup is in: there the confined supervisor may still remove what upm created.
    #[must_use]
    pub fn above(&self) -> BorrowedFd<'_> {
        self.settled.as_ref().map_or(&self.base, |settled| &settled.left).fd.as_fd()
    }

    /// The kernel did not clone into it: the call runs without, and says so.
    #[must_use]
    pub fn refused_clone(self, error: &std::io::Error) -> Missing {
        Missing::new(
            format!("cgroup {}: clone3: {error}", self.plugin.path.display()),
            remedy(nix::unistd::geteuid().as_raw()),
        )
    }

    /// Kills every process in it (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) {
        if let Some(file) = &self.files.kill {
            // Pid 1's death ends the call; this only saves waiting for what pid 1 leaves.
            rustix::io::write(file, b"1").ok();
        }
    }

    /// What the kernel counted so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let text = |file: &Option<OwnedFd>| file.as_ref().and_then(|file| read(file.as_fd()).ok());
        let number = |file: &Option<OwnedFd>| text(file)?.trim_end().parse().ok();
        let memory = text(&self.files.memory_events).unwrap_or_default();
        let pids = text(&self.files.pids_events).unwrap_or_default();
        let cpu = text(&self.files.cpu).unwrap_or_default();
        Counts {
            memory_peak: number(&self.files.memory_peak),
            pids_peak: number(&self.files.pids_peak),
            cpu: field(&cpu, "user_usec").zip(field(&cpu, "system_usec")),
            memory_ooms: field(&memory, "oom").unwrap_or(0),
            oom_kills: field(&memory, "oom_kill").unwrap_or(0),
            pids_refused: field(&pids, "max").unwrap_or(0),
            cpu_throttled: self.cpus.and_then(|_| field(&cpu, "throttled_usec")),
        }
    }
}

/// `data.sandbox.layers.limits.active`: what enforces each limit, and the cgroup as it was read back or why there is none.
#[must_use]
pub fn serving(cgroup: Result<&Cgroup, &Missing>) -> Value {
    let (memory, pids) = cgroup.map_or((false, false), |cgroup| (cgroup.memory, cgroup.pids));
    json!({
        "memory_by": if memory { "cgroup" } else { "watch" },
        "require_cgroup": if memory { "cgroup" } else { "not required" },
        "memory_not_counted": if memory { Value::Null } else { NOT_COUNTED.into() },
        "memory": if memory { "cgroup, and RLIMIT_DATA a process" } else { "RLIMIT_DATA a process, and the sum watched every 100 ms" },
        "processes": if pids { "cgroup" } else { "RLIMIT_NPROC in the call's user namespace" },
        "cpus": match cgroup {
            Ok(Cgroup { cpus: Some(_), .. }) => "cgroup",
            _ => "not limited",
        },
        "cgroup": match cgroup {
            Ok(cgroup) => json!({ "path": cgroup.plugin.path, "active": cgroup.set }),
            Err(missing) => json!({ "missing": missing.found, "remedy": missing.remedy }),
        },
    })
}

/// Processes that the call was denied, and how often: the kernel counts them here. Without a cgroup only the plugin sees its
/// `EAGAIN`.
#[must_use]
pub(crate) fn refused(plan: &Plan, counts: &Counts) -> Option<(Denied, u64)> {
    let limit = plan.limits.processes;
    // Older kernels count here too what a limit of a cgroup above refused.
    let own = counts.pids_peak.is_none_or(|peak| peak > limit);
    let used = counts.pids_peak.map(|peak| peak.saturating_sub(1));
    (counts.pids_refused > 0 && own).then(|| (denials::met(Key::Processes, limit, used), counts.pids_refused))
}

/// Tries to make one, for `doctor`: whether calls get one here, what was found, and what gives them one.
#[must_use]
pub fn describe(cpus: Option<Cpus>, required: bool) -> (bool, String, Option<String>) {
    match make(Bounds { memory: 1 << 30, processes: 64, cpus, required }, "") {
        Ok(cgroup) => {
            let names: Vec<&str> = cgroup.set.keys().map(String::as_str).collect();
            (true, format!("a call gets its own in {}: {}", cgroup.base.path.display(), names.join(" ")), None)
        }
        Err(Missing { found, remedy }) => (false, found, Some(remedy)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let events = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(field(events, "oom"), Some(3));
        assert_eq!(field(events, "oom_kill"), Some(2));
        assert_eq!(field(events, "ma"), None);
        assert_eq!(field("", "oom"), None);
    }

    #[test]
    fn only_the_own_limit_is_the_call_s_fault() {
        let counts = |memory_ooms, oom_kills| Counts { memory_ooms, oom_kills, ..Counts::default() }.memory_exceeded();
        assert!(counts(1, 1));
        // The host, or a cgroup above, ran out of memory.
        assert!(!counts(0, 1));
        // The limit was reached, and nothing was killed for it.
        assert!(!counts(1, 0));
    }
}
