//! The call's own cgroup (cgroup v2): where there is one, the kernel counts and bounds the memory, processes and
//! processor time of the whole call, and tells what it used and why it was ended.
//!
//! A part of the tree has one writer (cgroups(7), systemd's CGROUP_DELEGATION), so upm makes cgroups only where nobody else does:
//! in the cgroup that it is alone in, when that is its user's, or was delegated (systemd's `Delegate=yes`); in the one
//! above, when that was delegated and upm shares its own with others; and, as root where no systemd owns the tree, at its
//! root. Where nothing of that is the case, the call goes without, and `data.sandbox` says why.
//!
//! A cgroup with controllers for its children may hold no process, and whoever owns a cgroup may switch its controllers
//! off again, with the limits of its children. Between the two lies a directory of upm's own, `upm`: while it has the
//! controllers on, those above it cannot be switched off.

use super::denials;
use crate::decide::plan::{Limits, Plan};
use crate::keys::Key;
use crate::types::{Cause, Code, Denied, Details, Failure, Layer};
use crate::units::Cpus;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, fgetxattr, flock, fstat, mkdirat, openat, statfs, unlinkat};
use rustix::io::Errno;
use serde_json::{Map, Value, json};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const MAGIC: u64 = 0x6367_7270;
/// Where cgroup v2 is mounted: alone, or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
/// There where systemd is the service manager (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// The directory that calls' cgroups lie in.
const OWN: &str = "upm";
/// Where upm moves itself out of the cgroup that [`OWN`] is in.
const SUPERVISOR: &str = "upm-supervisor";
/// Before a call's request id.
const PREFIX: &str = "upm-call-";
/// Names that are tried when another call has the first.
const NAMES: u32 = 8;
/// Left-over cgroups that one call removes.
const SWEPT: usize = 100;
/// What is read of a control file.
const FILE: usize = 4096;

/// What the watch of a call's memory does not see, where no cgroup counts it. `SECURITY.md` says how much each can be.
pub const NOT_COUNTED: &str = "what is taken between two looks, files in /tmp and /dev/shm, pipes, the first 64 sockets, and the \
                               kernel's own objects of processes, descriptors, mappings and locks";

/// Why a call has no cgroup here.
#[derive(Debug, Clone)]
pub struct Missing {
    /// What was found.
    pub found: String,
    /// What gives it one.
    pub remedy: String,
}

impl Missing {
    fn new(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Missing { found: found.into(), remedy: remedy.into() }
    }

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
        let message = format!("limits: `{name}` cannot be had here: {}; {remedy}", self.found);
        let cause = Some(Cause::Key(key));
        Err(Failure::new(Code::SandboxUnavailable, message).with(Details::Layer {
            layer: Layer::Limits,
            cause,
            remedy: Some(remedy),
        }))
    }
}

/// What the cgroup told at the call's end.
#[derive(Debug, Clone, Default)]
pub struct Told {
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

impl Told {
    /// The call was killed because of its own `memory`: a shortage of the host, or of a cgroup above, counts its kills here
    /// too, but not as this cgroup's limit.
    #[must_use]
    pub fn memory_exceeded(&self) -> bool {
        self.oom_kills > 0 && self.memory_ooms > 0
    }
}

/// A directory of the tree.
struct Directory {
    fd: OwnedFd,
    /// As `/proc/PID/cgroup` shows it.
    path: PathBuf,
}

impl Directory {
    fn open(mount: &str, path: &Path) -> rustix::io::Result<Directory> {
        let full = Path::new(mount).join(path.strip_prefix("/").unwrap_or(path));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Directory { fd: rustix::fs::open(full, flags, Mode::empty())?, path: path.to_path_buf() })
    }

    fn child(&self, name: &str) -> rustix::io::Result<Directory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Directory { fd: openat(&self.fd, name, flags, Mode::empty())?, path: self.path.join(name) })
    }

    fn file(&self, name: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        openat(&self.fd, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
    }

    fn read(&self, name: &str) -> rustix::io::Result<String> {
        read(self.file(name, OFlags::RDONLY)?.as_fd())
    }

    /// One write is one command.
    fn write(&self, name: &str, text: &str) -> rustix::io::Result<()> {
        rustix::io::write(self.file(name, OFlags::WRONLY)?, text.as_bytes()).map(drop)
    }

    /// The root of the whole tree, which alone has no events and may hold processes beside cgroups with controllers.
    fn is_root(&self) -> bool {
        self.file("cgroup.events", OFlags::RDONLY).is_err_and(|error| error == Errno::NOENT)
    }

    fn owned(&self, by: u32) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_uid == by)
    }

    /// Nobody but the owner and root can put anything in here.
    fn closed(&self) -> bool {
        fstat(&self.fd).is_ok_and(|stat| stat.st_mode & 0o022 == 0)
    }

    fn marked(&self) -> bool {
        ["user.delegate", "trusted.delegate"].into_iter().any(|name| {
            let mut value = [0u8; 8];
            fgetxattr(&self.fd, name, &mut value).is_ok_and(|length| value[..length] == *b"1")
        })
    }

    /// Whether it was given to `caller`: so marked, or for a user one that lies in somebody else's. `above` is the directory
    /// that holds it.
    fn delegated(&self, caller: u32, above: Option<&Directory>) -> bool {
        let given = || caller != 0 && above.is_none_or(|above| !above.owned(caller));
        self.owned(caller) && self.closed() && (self.marked() || given())
    }

    /// Whether it is `caller`'s to use when nobody else is in it. A user's service manager marks nothing (systemd 252), so that
    /// it is the user's has to do. Root, who owns everything, needs the mark.
    fn usable(&self, caller: u32) -> bool {
        self.owned(caller) && self.closed() && (caller != 0 || self.marked())
    }

    /// Whether this process is the only one in it.
    fn alone(&self) -> bool {
        self.read("cgroup.procs").is_ok_and(|inhabitants| inhabitants.trim_end() == std::process::id().to_string())
    }

    /// Makes a directory in it, or takes the one that is there.
    fn make(&self, name: &str) -> rustix::io::Result<Directory> {
        match mkdirat(&self.fd, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => self.child(name),
            Err(error) => Err(error),
        }
    }

    /// Which of those that serve a call a file of controllers names.
    fn named(&self, file: &str) -> rustix::io::Result<Controllers> {
        let list = self.read(file)?;
        let has = |name| list.split_ascii_whitespace().any(|word| word == name);
        Ok(Controllers { memory: has("memory"), pids: has("pids"), cpu: has("cpu") })
    }

    /// Switches on for cgroups in here what is available.
    fn enable(&self, available: Controllers) -> rustix::io::Result<()> {
        let on = self.named("cgroup.subtree_control")?;
        for ((name, wanted), (_, on)) in available.each().into_iter().zip(on.each()) {
            if wanted && !on {
                self.write("cgroup.subtree_control", &format!("+{name}"))?;
            }
        }
        Ok(())
    }
}

/// Controllers of use here.
#[derive(Debug, Clone, Copy)]
struct Controllers {
    memory: bool,
    pids: bool,
    cpu: bool,
}

impl Controllers {
    /// As the kernel's files name them.
    fn each(self) -> [(&'static str, bool); 3] {
        [("memory", self.memory), ("pids", self.pids), ("cpu", self.cpu)]
    }

    /// Itself, unless there is none.
    fn any(self) -> Option<Self> {
        self.each().iter().any(|(_, here)| *here).then_some(self)
    }

    /// What a call switches on: a scheduler with more groups has more to do, so `cpu` only where it was granted.
    fn used(self, cpus: Option<Cpus>) -> Self {
        Controllers { cpu: self.cpu && cpus.is_some(), ..self }
    }
}

/// Upm has left the cgroup that it was started in, and goes back when this is dropped: others may be started there after it,
/// as systemd does with a unit's next command.
struct Settled {
    left: Directory,
    /// Open before the supervisor confines itself.
    procs: OwnedFd,
    subtree: OwnedFd,
}

impl Drop for Settled {
    fn drop(&mut self) {
        // Whatever of it fails leaves empty cgroups, which go with the one that they are in.
        unlinkat(&self.left.fd, OWN, AtFlags::REMOVEDIR).ok();
        for word in ["-memory", "-pids", "-cpu"] {
            rustix::io::write(&self.subtree, word.as_bytes()).ok();
        }
        if rustix::io::write(&self.procs, b"0").is_ok() {
            unlinkat(&self.left.fd, SUPERVISOR, AtFlags::REMOVEDIR).ok();
        }
    }
}

/// The first bytes of a control file.
fn read(file: BorrowedFd<'_>) -> rustix::io::Result<String> {
    let mut buffer = [0u8; FILE];
    let length = rustix::io::pread(file, &mut buffer, 0)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// What would give a call its cgroup, by who calls and who owns the tree.
fn remedy(caller: u32) -> String {
    match (caller, Path::new(SYSTEMD).is_dir()) {
        (0, true) => {
            "start it in a cgroup of its own: `systemd-run --scope -p Delegate=yes upm …`, or Delegate=yes in its unit"
        }
        (_, true) => "start it in a cgroup of its own: `systemd-run --user --scope -p Delegate=yes upm …`",
        (0, false) => "start it in the root cgroup",
        (_, false) => {
            "as root make a directory in /sys/fs/cgroup, give it and its cgroup.procs, cgroup.subtree_control and \
             cgroup.threads to the user, and start upm in a cgroup that the user makes in it"
        }
    }
    .to_owned()
}

/// Where cgroup v2 is mounted.
fn mounted() -> Option<&'static str> {
    MOUNTS.into_iter().find(|mount| statfs(*mount).is_ok_and(|file_system| file_system.f_type as u64 == MAGIC))
}

/// As root, in the tree's root where no systemd owns it: makes the directory that calls' cgroups are made in. That has to be
/// done before root's capabilities are given up, for the tree's root is writable by no mode (0555). Where it cannot be made
/// [`make`] says so.
pub fn make_own_directory() {
    let in_root =
        || std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| own.lines().any(|line| line == "0::/"));
    if !rustix::process::geteuid().is_root() || Path::new(SYSTEMD).is_dir() {
        return;
    }
    let Some(root) = mounted().and_then(|mount| Directory::open(mount, Path::new("/")).ok()) else { return };
    let useful = root.named("cgroup.controllers").ok().and_then(Controllers::any).is_some();
    if useful && in_root() {
        root.make(OWN).ok();
    }
}

/// The directory that a call's cgroup may be made in, and which controllers it has there.
fn find(caller: u32, cpus: Option<Cpus>) -> Result<Base, Missing> {
    let mount = mounted().ok_or_else(|| {
        Missing::new(
            "no cgroup v2 is mounted at /sys/fs/cgroup",
            "boot with cgroup v2 alone (`systemd.unified_cgroup_hierarchy=1`), or mount it",
        )
    })?;
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |error: Errno| Missing::new(format!("cgroup {path}: {error}"), remedy(caller))
    };
    if mount != MOUNTS[0] {
        // Version 1 has the first place, and with it every controller that it could get: the root tells which are left.
        let root = Path::new("/");
        let left =
            Directory::open(mount, root).and_then(|root| root.named("cgroup.controllers")).map_err(failed(root))?;
        left.any().ok_or_else(|| no_controllers(root))?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/cgroup", flags, Mode::empty()).and_then(|file| read(file.as_fd()));
    let own = own.map_err(|error| Missing::new(format!("/proc/self/cgroup: {error}"), remedy(caller)))?;
    let own = Path::new(own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default());
    if !own.has_root() || own.components().any(|part| part == Component::ParentDir) {
        return Err(Missing::new("upm's own cgroup lies outside of what can be seen here", remedy(caller)));
    }
    let here = Directory::open(mount, own).map_err(failed(own))?;
    let root = here.is_root();
    if root && (caller != 0 || Path::new(SYSTEMD).is_dir()) {
        return Err(Missing::new("upm runs in the root cgroup, which is not its own", remedy(caller)));
    }
    let (at, settles) = if root { (here, false) } else { choose(mount, here, caller)? };
    let available = at.named("cgroup.controllers").map_err(failed(&at.path))?;
    let available = available.any().ok_or_else(|| no_controllers(&at.path))?.used(cpus);
    if cpus.is_some() && !available.cpu {
        return Err(no_cpu(&at.path));
    }
    let nest = |at: &Directory| {
        at.enable(available)?;
        let own = at.make(OWN)?;
        if !own.owned(caller) || !own.closed() {
            return Err(Errno::PERM);
        }
        own.enable(available).map(|()| own)
    };
    if !settles {
        let base = nest(&at).map_err(failed(&at.path))?;
        return Ok(Base { directory: base, controllers: available, settled: None });
    }
    let path = at.path.clone();
    let settled = settle(at).map_err(failed(&path))?;
    let base = nest(&settled.left).map_err(failed(&path))?;
    Ok(Base { directory: base, controllers: available, settled: Some(settled) })
}

/// Where calls' cgroups are made.
struct Base {
    directory: Directory,
    controllers: Controllers,
    settled: Option<Settled>,
}

fn no_controllers(path: &Path) -> Missing {
    Missing::new(
        format!("cgroup {}: none of cpu, memory and pids is among its controllers", path.display()),
        "boot with cgroup v2 alone (`systemd.unified_cgroup_hierarchy=1`); in a delegated cgroup, pass them on to it",
    )
}

fn no_memory(path: &Path) -> Missing {
    Missing::new(
        format!("cgroup {}: memory is not among its controllers", path.display()),
        "pass it on to that cgroup (systemd: `Delegate=yes` or `Delegate=cpu memory pids`), in a kernel with CONFIG_MEMCG and \
         without `cgroup_disable=memory`",
    )
}

fn no_cpu(path: &Path) -> Missing {
    Missing::new(
        format!("cgroup {}: cpu is not among its controllers", path.display()),
        "pass it on to that cgroup (systemd: `Delegate=yes` or `Delegate=cpu memory pids`; for users in user@.service), in a kernel \
         with CONFIG_CFS_BANDWIDTH",
    )
}

/// The directory that upm was started in, which it then has to leave, or the one above.
fn choose(mount: &str, here: Directory, caller: u32) -> Result<(Directory, bool), Missing> {
    let mut why =
        Missing::new(format!("cgroup {} is not delegated to the caller", here.path.display()), remedy(caller));
    if here.usable(caller) {
        let has = here.named("cgroup.controllers").ok().and_then(Controllers::any).is_some();
        if has && here.alone() {
            return Ok((here, true));
        }
        why = if has {
            Missing::new(
                format!(
                    "cgroup {} holds other processes too, and so none below it can have limits",
                    here.path.display()
                ),
                remedy(caller),
            )
        } else {
            no_controllers(&here.path)
        };
    }
    let open = |path: Option<&Path>| path.and_then(|path| Directory::open(mount, path).ok());
    match open(here.path.parent()) {
        Some(above) if !above.is_root() && above.delegated(caller, open(above.path.parent()).as_ref()) => {
            Ok((above, false))
        }
        _ => Err(why),
    }
}

/// Moves upm into a child of the cgroup that it is alone in.
fn settle(left: Directory) -> rustix::io::Result<Settled> {
    let procs = left.file("cgroup.procs", OFlags::WRONLY)?;
    let subtree = left.file("cgroup.subtree_control", OFlags::WRONLY)?;
    let supervisor = left.make(SUPERVISOR)?;
    let settled = Settled { left, procs, subtree };
    supervisor.write("cgroup.procs", "0").map(|()| settled)
}

/// Removes what calls left that were killed with SIGKILL. Whose lock is held has a supervisor, and what has a process is
/// not removed by the kernel. The next call gets what this one does not.
fn sweep(base: &Directory) {
    let Ok(entries) = rustix::fs::Dir::read_from(&base.fd) else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned));
    let mut removed = 0;
    for name in names.filter(|name| name.starts_with(PREFIX)) {
        if let Ok(left) = base.child(&name)
            && flock(&left.fd, FlockOperation::NonBlockingLockExclusive).is_ok()
            && unlinkat(&base.fd, &name, AtFlags::REMOVEDIR).is_ok()
        {
            removed += 1;
        }
        if removed == SWEPT {
            break;
        }
    }
}

/// A call's cgroup. It goes away with the value.
pub struct Cgroup {
    base: Directory,
    name: String,
    /// Locked: the supervisor lives.
    leaf: Directory,
    /// `memory` is bound here.
    pub memory: bool,
    /// `processes` is bound here.
    pub pids: bool,
    /// Processors at once are bound here.
    cpus: Option<Cpus>,
    /// The limits, read back.
    set: Map<String, Value>,
    /// Open before the supervisor confines itself.
    files: Files,
    /// Dropped after all of it.
    settled: Option<Settled>,
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
        // EBUSY: a process does not react to SIGKILL yet. The next call removes it.
        unlinkat(&self.base.fd, &self.name, AtFlags::REMOVEDIR).ok();
    }
}

/// What a call's cgroup bounds.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Bytes.
    pub memory: u64,
    /// Processes and threads, without pid 1.
    pub processes: u64,
    /// Processors at once.
    pub cpus: Option<Cpus>,
    /// The memory must be bound here, or the call is refused.
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

/// Makes the cgroup of a call; `request_id` names it, so that the kernel's own log of an out-of-memory kill names the call.
///
/// # Errors
/// Why there is none. The call then goes by each process's limits and the sum of their memory, or, with `cpus`, not at all.
pub fn make(bounds: Bounds, request_id: &str) -> Result<Cgroup, Missing> {
    let caller = rustix::process::geteuid().as_raw();
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
            Ok(leaf) => return limited(base, name, leaf, bounds, caller),
            // Another call has the name, or has swept what was not locked yet.
            Err(Errno::EXIST | Errno::NOENT | Errno::NODEV | Errno::WOULDBLOCK) => {}
            Err(error) => return Err(failed(&name, error)),
        }
    }
    Err(failed(PREFIX, Errno::EXIST))
}

/// A new directory, locked for as long as the supervisor lives.
fn take(base: &Directory, name: &str) -> rustix::io::Result<Directory> {
    mkdirat(&base.fd, name, Mode::RWXU)?;
    let leaf = base.child(name)?;
    flock(&leaf.fd, FlockOperation::NonBlockingLockExclusive)?;
    // A removed one can be locked too, but has no files any more.
    leaf.file("cgroup.procs", OFlags::RDONLY)?;
    Ok(leaf)
}

fn limited(
    Base { directory, controllers, settled }: Base,
    name: String,
    leaf: Directory,
    bounds: Bounds,
    caller: u32,
) -> Result<Cgroup, Missing> {
    let open = |name: &str, flags| leaf.file(name, flags).ok();
    let files = Files {
        kill: open("cgroup.kill", OFlags::WRONLY),
        memory_peak: open("memory.peak", OFlags::RDONLY),
        memory_events: open("memory.events", OFlags::RDONLY),
        pids_peak: open("pids.peak", OFlags::RDONLY),
        pids_events: open("pids.events", OFlags::RDONLY),
        cpu: open("cpu.stat", OFlags::RDONLY),
    };
    let Controllers { memory, pids, cpu: _ } = controllers;
    let base = directory;
    let mut made = Cgroup { base, name, leaf, memory, pids, cpus: bounds.cpus, set: Map::new(), files, settled };
    match made.limit(bounds) {
        Ok(()) if bounds.required && !memory => Err(no_memory(&made.leaf.path)),
        Ok(()) => Ok(made),
        Err((file, error)) => {
            Err(Missing::new(format!("cgroup {}: {file}: {error}", made.leaf.path.display()), remedy(caller)))
        }
    }
}

impl Cgroup {
    /// Sets the limits and reads them back.
    fn limit(&mut self, bounds: Bounds) -> Result<(), (&'static str, Errno)> {
        let mut values = Vec::new();
        if self.memory {
            values.push(("memory.max", bounds.memory.to_string()));
            // What is over the limit is not to end up on disk instead.
            values.push(("memory.swap.max", "0".to_owned()));
            // A call without one of its processes has no defined end: all of it, pid 1 first.
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
            match self.leaf.write(file, &value) {
                Ok(()) => {}
                // A kernel without swap, or that was told not to count it: said, as nothing.
                Err(Errno::NOENT) if file == "memory.swap.max" => {
                    self.set.insert(file.to_owned(), Value::Null);
                    continue;
                }
                Err(error) => return Err((file, error)),
            }
            let active = self.leaf.read(file).map_err(|error| (file, error))?;
            self.set.insert(file.to_owned(), active.trim_end().into());
        }
        Ok(())
    }

    /// For clone3(2).
    #[must_use]
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.leaf.fd.as_fd()
    }

    /// What the cgroup lies in: removing what upm made there is what the confined supervisor still does to the tree.
    #[must_use]
    pub fn above(&self) -> BorrowedFd<'_> {
        self.settled.as_ref().map_or(&self.base, |settled| &settled.left).fd.as_fd()
    }

    /// The kernel did not clone into it: the call goes without, and says so.
    #[must_use]
    pub fn refused_clone(self, error: &std::io::Error) -> Missing {
        Missing::new(
            format!("cgroup {}: clone3: {error}", self.leaf.path.display()),
            remedy(rustix::process::geteuid().as_raw()),
        )
    }

    /// Kills every process in it (`cgroup.kill`, Linux 5.14).
    pub fn kill(&self) {
        if let Some(file) = &self.files.kill {
            // Pid 1's death is what ends the call; this only spares it the wait for what pid 1 leaves.
            rustix::io::write(file, b"1").ok();
        }
    }

    /// What the kernel counted so far.
    #[must_use]
    pub fn told(&self) -> Told {
        let text = |file: &Option<OwnedFd>| file.as_ref().and_then(|file| read(file.as_fd()).ok());
        let number = |file: &Option<OwnedFd>| text(file)?.trim_end().parse().ok();
        let memory = text(&self.files.memory_events).unwrap_or_default();
        let pids = text(&self.files.pids_events).unwrap_or_default();
        let cpu = text(&self.files.cpu).unwrap_or_default();
        Told {
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

/// A number of a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?.trim_end().parse().ok()
}

/// `data.sandbox.layers.limits.active`: what serves each limit, and the cgroup as it was read back or why there is none.
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
            Ok(cgroup) => json!({ "path": cgroup.leaf.path, "active": cgroup.set }),
            Err(missing) => json!({ "missing": missing.found, "remedy": missing.remedy }),
        },
    })
}

/// Processes that the call was refused, and how often: the kernel counts them here, while without a cgroup only the plugin
/// sees its `EAGAIN`.
#[must_use]
pub(crate) fn refused(plan: &Plan, told: &Told) -> Option<(Denied, u64)> {
    let limit = plan.limits.processes;
    // Older kernels count here too what a limit of a cgroup above refused.
    let own = told.pids_peak.is_none_or(|peak| peak > limit);
    let used = told.pids_peak.map(|peak| peak.saturating_sub(1));
    (told.pids_refused > 0 && own).then(|| (denials::met(Key::Processes, limit, used), told.pids_refused))
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
        let told = |memory_ooms, oom_kills| Told { memory_ooms, oom_kills, ..Told::default() }.memory_exceeded();
        assert!(told(1, 1));
        // The host, or a cgroup above, ran out of memory.
        assert!(!told(0, 1));
        // The limit was reached, and nothing was killed for it.
        assert!(!told(1, 0));
    }
}
