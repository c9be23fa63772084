//! Where upm may create cgroups.
//!
//! A part of the tree has one writer (cgroups(7), systemd's CGROUP_DELEGATION), so upm creates cgroups only where nobody else
//! does: in the cgroup that it is alone in, if the caller owns it (as root: if it was delegated, systemd's `Delegate=yes`);
//! in the one above, if that was delegated and upm shares its own with others; and, as root without systemd, at the root.
//! Otherwise the call runs without a cgroup, and `data.sandbox` says why.
//!
//! A cgroup with controllers for its children may hold no process, and its owner may disable its controllers, and with them
//! the limits of its children. Between the two is a directory of upm's own, `upm`: while it has the controllers enabled, those
//! above cannot be disabled.

use super::tree::{Controllers, Directory, MOUNTS, mounted, read};
use crate::units::Cpus;
use rustix::fs::{AtFlags, Mode, OFlags, unlinkat};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

/// It exists if systemd is the service manager (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// The directory that calls' cgroups are in.
const OWN: &str = "upm";
/// Where upm moves itself to, out of the cgroup that [`OWN`] is in.
const SUPERVISOR: &str = "upm-supervisor";
/// Why a call has no cgroup here.
#[derive(Debug, Clone)]
pub struct Missing {
    /// What was found.
    pub found: String,
    /// What to do to get one.
    pub remedy: String,
}

impl Missing {
    pub(super) fn new(found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Missing { found: found.into(), remedy: remedy.into() }
    }
}

/// Upm has left the cgroup that it was started in, and returns when this is dropped: other processes may be started there later,
/// as systemd does with a unit's next command.
pub(super) struct Settled {
    pub(super) left: Directory,
    /// Open before the supervisor confines itself.
    procs: OwnedFd,
    subtree: OwnedFd,
}

impl Drop for Settled {
    fn drop(&mut self) {
        // If a step fails, empty cgroups stay, and are removed with the one that they are in.
        unlinkat(&self.left.fd, OWN, AtFlags::REMOVEDIR).ok();
        for word in ["-memory", "-pids", "-cpu"] {
            rustix::io::write(&self.subtree, word.as_bytes()).ok();
        }
        if rustix::io::write(&self.procs, b"0").is_ok() {
            unlinkat(&self.left.fd, SUPERVISOR, AtFlags::REMOVEDIR).ok();
        }
    }
}

/// How a call gets a cgroup, by who calls and who owns the tree.
pub(super) fn remedy(caller: u32) -> String {
    match (caller, Path::new(SYSTEMD).is_dir()) {
        (0, true) => {
            "start it in a cgroup of its own: `systemd-run --scope -p Delegate=yes upm …`, or Delegate=yes in its unit"
        }
        (_, true) => "start it in a cgroup of its own: `systemd-run --user --scope -p Delegate=yes upm …`",
        (0, false) => "start it in the root cgroup",
        (_, false) => {
            "as root create a directory in /sys/fs/cgroup, give it and its cgroup.procs, cgroup.subtree_control and \
             cgroup.threads to the user, and start upm in a cgroup that the user creates in it"
        }
    }
    .to_owned()
}

/// As root, in the root of the tree if systemd does not own it: creates the directory that calls' cgroups are created in. This must
/// happen before root gives up its capabilities, because the mode of the tree's root (0555) lets nobody write. If it fails,
/// [`super::make`] says so.
pub fn make_own_directory() {
    let in_root =
        || std::fs::read_to_string("/proc/self/cgroup").is_ok_and(|own| own.lines().any(|line| line == "0::/"));
    if !nix::unistd::geteuid().is_root() || Path::new(SYSTEMD).is_dir() {
        return;
    }
    let Some(root) = mounted().and_then(|mount| Directory::open(mount, Path::new("/")).ok()) else { return };
    let useful = root.controllers("cgroup.controllers").ok().and_then(Controllers::any).is_some();
    if useful && in_root() {
        root.make(OWN).ok();
    }
}

/// The directory that a call's cgroup may be created in, and which controllers it has there.
pub(super) fn find(caller: u32, cpus: Option<Cpus>) -> Result<Base, Missing> {
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
        // Version 1 is mounted there and has taken controllers: the root lists those that are left.
        let root = Path::new("/");
        let left = Directory::open(mount, root)
            .and_then(|root| root.controllers("cgroup.controllers"))
            .map_err(failed(root))?;
        left.any().ok_or_else(|| no_controllers(root))?;
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let own = rustix::fs::open("/proc/self/cgroup", flags, Mode::empty()).and_then(|file| read(file.as_fd()));
    let own = own.map_err(|error| Missing::new(format!("/proc/self/cgroup: {error}"), remedy(caller)))?;
    let own = Path::new(own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default());
    if !own.has_root() || own.components().any(|part| part == Component::ParentDir) {
        return Err(Missing::new("upm's own cgroup is outside of the visible tree", remedy(caller)));
    }
    let here = Directory::open(mount, own).map_err(failed(own))?;
    let root = here.is_root();
    if root && (caller != 0 || Path::new(SYSTEMD).is_dir()) {
        return Err(Missing::new("upm runs in the root cgroup, which is not its own", remedy(caller)));
    }
    let home = here.file("cgroup.procs", OFlags::WRONLY).ok();
    let (at, settles) = if root { (here, false) } else { choose(mount, here, caller)? };
    let available = at.controllers("cgroup.controllers").map_err(failed(&at.path))?;
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
        return Ok(Base { directory: base, controllers: available, home, settled: None });
    }
    let path = at.path.clone();
    let (settled, home) = settle(at).map_err(failed(&path))?;
    let base = nest(&settled.left).map_err(failed(&path))?;
    Ok(Base { directory: base, controllers: available, home: Some(home), settled: Some(settled) })
}

/// Where calls' cgroups are created.
pub(super) struct Base {
    pub(super) directory: Directory,
    pub(super) controllers: Controllers,
    /// `cgroup.procs` of the cgroup that the supervisor is in, if it may return there.
    pub(super) home: Option<OwnedFd>,
    pub(super) settled: Option<Settled>,
}

fn no_controllers(path: &Path) -> Missing {
    Missing::new(
        format!("cgroup {}: none of cpu, memory and pids is among its controllers", path.display()),
        "boot with cgroup v2 alone (`systemd.unified_cgroup_hierarchy=1`); in a delegated cgroup, pass them on to it",
    )
}

pub(super) fn no_memory(path: &Path) -> Missing {
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

/// The directory that upm was started in, which it then has to leave (`true`), or the one above.
fn choose(mount: &str, here: Directory, caller: u32) -> Result<(Directory, bool), Missing> {
    let mut why =
        Missing::new(format!("cgroup {} is not delegated to the caller", here.path.display()), remedy(caller));
    if here.usable(caller) {
        let has = here.controllers("cgroup.controllers").ok().and_then(Controllers::any).is_some();
        if has && here.alone() {
            return Ok((here, true));
        }
        why = if has {
            Missing::new(
                format!(
                    "cgroup {} holds other processes too, so cgroups in it cannot have limits",
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
fn settle(left: Directory) -> rustix::io::Result<(Settled, OwnedFd)> {
    let procs = left.file("cgroup.procs", OFlags::WRONLY)?;
    let subtree = left.file("cgroup.subtree_control", OFlags::WRONLY)?;
    let supervisor = left.make(SUPERVISOR)?;
    let settled = Settled { left, procs, subtree };
    let home = supervisor.file("cgroup.procs", OFlags::WRONLY)?;
    rustix::io::write(&home, b"0").map(|_| (settled, home))
}
