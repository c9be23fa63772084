//! Step `verify`: what is active is read back from the kernel and compared with the plan, before anything of the plugin runs.

use super::counters::Counters;
use super::enforced;
use super::limits::Cgroup;
use super::step::{Step, StepError};
use crate::decide::plan::{INSIDE_ID, Plan, Source};
use crate::mounts::Table;
use rustix::fs::{AtFlags, Mode, OFlags, statat};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// The seven namespaces of a call.
pub const NAMESPACES: [&str; 7] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup"];

/// What the child read back of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Report {
    /// `/proc/self/ns/*`: inode numbers.
    pub namespaces: BTreeMap<String, u64>,
    /// `NoNewPrivs` of `/proc/self/status`.
    pub no_new_privs: bool,
    /// Capability sets, each as the kernel prints it; all zero.
    pub capabilities: BTreeMap<String, u64>,
    /// Real, effective and saved user id, inside.
    pub uid: [u32; 3],
    /// Real, effective and saved group id, inside.
    pub gid: [u32; 3],
    /// Supplementary groups. A user's own cannot be dropped; inside they have no name.
    pub groups: usize,
    /// Mounts in the root, the root's own included.
    pub mounts: usize,
    /// `/proc/self/uid_map`.
    pub uid_map: String,
    /// Mounts that the call may write, by their numbers: for pid 1.
    #[serde(skip)]
    pub lockable: Vec<u64>,
    /// A mount whose file system may wait for somebody else: see [`LOCAL`].
    pub distant: Option<String>,
}

/// File systems that are this kernel's alone. Pid 1 must never wait: while it takes a lock it does not end with the call. A
/// server or a FUSE process can let it.
const LOCAL: [&str; 26] = [
    "bcachefs", "btrfs", "cramfs", "devpts", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "iso9660",
    "jfs", "nilfs2", "ntfs3", "overlay", "proc", "ramfs", "reiserfs", "rootfs", "squashfs", "sysfs", "tmpfs", "vfat",
    "xfs", "zfs",
];

/// Something is active that is not what the plan says.
pub(super) fn differs(what: impl Into<String>) -> StepError {
    StepError::new(Step::Verify, what, io::Error::other("is not as planned"))
}

/// Something cannot be read back.
pub(super) fn unreadable(what: &str, error: impl std::error::Error + Send + Sync + 'static) -> StepError {
    StepError::new(Step::Verify, what, io::Error::other(error))
}

/// Reads back and compares.
///
/// # Errors
/// The first difference.
pub fn step(
    plan: &Plan,
    as_root: bool,
    cgroup: Cgroup,
    counters: &Counters,
    covered: usize,
) -> Result<Report, StepError> {
    counted(plan, counters)?;
    let myself = procfs::process::Process::myself().map_err(|error| unreadable("/proc/self", error))?;
    let status =
        std::fs::read_to_string("/proc/self/status").map_err(|error| unreadable("/proc/self/status", error))?;
    // proc_pid_status(5). A field that is missing differs.
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.map(str::trim).ok_or_else(|| differs(name))
    };
    if field("NoNewPrivs")? != "1" {
        return Err(differs("NoNewPrivs"));
    }
    let sets = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];
    for name in sets {
        if u64::from_str_radix(field(name)?, 16) != Ok(0) {
            return Err(differs(name));
        }
    }
    // Real, effective, saved, and of the file system.
    for name in ["Uid", "Gid"] {
        if !field(name)?.split_ascii_whitespace().eq(vec![INSIDE_ID.to_string(); 4]) {
            return Err(differs(format!("{name} {}", field(name)?)));
        }
    }
    let groups = field("Groups")?.split_ascii_whitespace().count();
    if as_root && groups > 0 {
        return Err(differs("supplementary groups"));
    }
    let namespaces = namespaces().map_err(|error| unreadable("/proc/self/ns", error))?;
    let Mounts { count, lockable, distant } = mounts(plan, covered)?;
    enforced::check(&myself, &plan.limits, cgroup)?;
    let uid_map =
        std::fs::read_to_string("/proc/self/uid_map").map_err(|error| unreadable("/proc/self/uid_map", error))?;
    Ok(Report {
        namespaces,
        no_new_privs: true,
        capabilities: sets.map(|name| (name.to_owned(), 0)).into(),
        uid: [INSIDE_ID; 3],
        gid: [INSIDE_ID; 3],
        groups,
        mounts: count,
        uid_map: uid_map.split_whitespace().collect::<Vec<_>>().join(" "),
        lockable,
        distant,
    })
}

/// The limits of the process, and what the kernel counts for its user.
fn counted(plan: &Plan, counters: &Counters) -> Result<(), StepError> {
    match counters.differing(plan.limits.file_watches).map_err(|error| unreadable("/proc/sys/user", error))? {
        Some(counter) => Err(differs(counter)),
        None => Ok(()),
    }
}

/// Inode numbers of this process's [`NAMESPACES`].
///
/// # Errors
/// When `/proc` cannot be read.
pub fn namespaces() -> io::Result<BTreeMap<String, u64>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open("/proc/self/ns", flags, Mode::empty())?;
    let number = |name: &&str| Ok(((*name).to_owned(), statat(&directory, *name, AtFlags::empty())?.st_ino));
    NAMESPACES.iter().map(number).collect()
}

/// What the mounts are.
#[derive(Default)]
struct Mounts {
    count: usize,
    lockable: Vec<u64>,
    distant: Option<String>,
}

/// Every mount of the namespace must be one of the plan (or lie below one that was cloned with it), with its flags.
fn mounts(plan: &Plan, covered: usize) -> Result<Mounts, StepError> {
    let found = Table::read().map_err(|error| unreadable("/proc/self/mountinfo", error))?;
    let mut all = Mounts::default();
    let (mut seen, mut covers) = (vec![false; plan.mounts.len()], 0);
    for mount in found.iter() {
        all.count += 1;
        let has = |flag: &str| mount.has(flag);
        let mount_point = mount.point();
        let place = mount_point.display();
        if !has("nosuid") {
            return Err(differs(format!("{place}: nosuid")));
        }
        if mount_point.as_os_str() == "/" {
            if !(has("ro") && has("nodev") && has("noexec")) {
                return Err(differs("/: ro, nodev, noexec"));
            }
            continue;
        }
        let planned = plan
            .mounts
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, planned)| planned.is_mount() && planned.holds(mount_point))
            .max_by_key(|(_, planned)| planned.path.as_os_str().len());
        let Some((index, planned)) = planned else { return Err(differs(format!("{place}: unplanned mount"))) };
        seen[index] |= mount_point.as_os_str() == planned.path.as_os_str();
        covers += usize::from(planned.source == Source::Proc && mount_point != planned.path);
        let own_terminals = matches!(planned.source, Source::Terminals(_));
        if own_terminals {
            terminals(&planned.path, mount.file_system())?;
        }
        let device = own_terminals || planned.source == Source::Device;
        // One way only: a host's own mount may forbid more than the plan does.
        if (!has("nodev") && !device) || (has("rw") && !planned.write) || (!has("noexec") && !planned.exec) {
            return Err(differs(format!("{place}: flags")));
        }
        if has("rw") && planned.write && matches!(planned.source, Source::Host { .. } | Source::Tmpfs { .. }) {
            all.lockable.push(mount.id());
        }
        let file_system = String::from_utf8_lossy(mount.file_system());
        if !LOCAL.contains(&file_system.as_ref()) {
            all.distant.get_or_insert_with(|| format!("{place} ({file_system})"));
        }
    }
    if covers < covered {
        return Err(differs("/proc: entries that are not covered"));
    }
    let missing = plan.mounts.iter().zip(seen).find(|(planned, seen)| !seen && planned.is_mount());
    match missing {
        Some((planned, _)) => Err(differs(format!("{}: not mounted", planned.path.display()))),
        None => Ok(all),
    }
}

/// Nobody has a terminal in the call's devpts yet: it is not the host's.
fn terminals(place: &Path, file_system: &[u8]) -> Result<(), StepError> {
    let names = std::fs::read_dir(place).and_then(|entries| entries.map(|one| Ok(one?.file_name())).collect());
    let names: Vec<_> = names.map_err(|error| unreadable("/dev/pts", error))?;
    if file_system == b"devpts" && names == ["ptmx"] {
        Ok(())
    } else {
        Err(differs(format!("{}: devpts", place.display())))
    }
}
