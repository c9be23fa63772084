//! Part of step `root`: `/proc` inside. It has the call's own processes, and of everything else only what tells programs how
//! many processors and how much memory there are, and what the time and the kernel are.
//!
//! The kernel has no mount option for that: `subset=pid` hides all the rest, and nothing can be mounted in such a `/proc` where
//! there is no name. So the rest is covered: each entry that is not listed here, one of a newer kernel too, by an empty file or
//! directory that nobody can open.

use super::root::fail;
use super::step::StepError;
use crate::decide::plan::INSIDE_ID;
use nix::mount::{MsFlags, mount};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, mkdirat, openat, statat};
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Entries that stay, besides the processes and links to them. None tells of another user's files, programs or connections.
const SHOWN: [&str; 7] = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];
/// Entries that kernels let only root read: a cover less is 10 us less of each call. Where a kernel does not, they are covered.
const ROOT_ONLY: [&str; 10] = [
    "kcore",
    "kmsg",
    "kpagecgroup",
    "kpagecount",
    "kpageflags",
    "pagetypeinfo",
    "slabinfo",
    "sysrq-trigger",
    "timer_list",
    "vmallocinfo",
];
/// What `/proc/sys` has: settings that programs adapt to, with the values that they have at the call's start.
const SETTINGS: [&str; 9] = [
    // libcap, sysconf(3), scripts, ps
    "kernel/cap_last_cap",
    "kernel/hostname",
    "kernel/ngroups_max",
    "kernel/osrelease",
    "kernel/ostype",
    "kernel/pid_max",
    // Go
    "net/core/somaxconn",
    // JVMs and allocators
    "vm/max_map_count",
    "vm/overcommit_memory",
];
/// Longest value of a setting, in bytes.
const VALUE: usize = 256;
/// Where the covers are, in the sealed root.
const COVERS: &str = "run/upm/none";

/// Whether a path of `/proc` is there and can be read, the processes apart.
#[must_use]
pub fn shown(path: &Path) -> bool {
    let Ok(below) = path.strip_prefix("/proc") else { return false };
    let Ok(setting) = below.strip_prefix("sys") else { return SHOWN.iter().any(|name| below == Path::new(name)) };
    SETTINGS.iter().any(|name| Path::new(name).starts_with(setting))
}

/// Creates the covers in the root, before it is sealed. The host's `/proc` is still there.
///
/// # Errors
/// Names what cannot be created.
pub(super) fn prepare(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let make = |name: &str, mode: u32| mkdirat(root, format!("{COVERS}{name}"), Mode::from_raw_mode(mode));
    let write = |name: &str, value: &[u8], mode: u32| {
        let file = openat(root, format!("{COVERS}{name}"), new, Mode::from_raw_mode(mode))?;
        rustix::io::write(file, value).map(drop)
    };
    let covers = || -> rustix::io::Result<()> {
        make("", 0o755)?;
        make("/directory", 0)?;
        write("/file", &[], 0)?;
        for own in ["/sys", "/sys/kernel", "/sys/net", "/sys/net/core", "/sys/vm"] {
            make(own, 0o755)?;
        }
        for name in SETTINGS {
            let file = rustix::fs::open(format!("/proc/sys/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            // A kernel without it shows none.
            let Ok(file) = file else { continue };
            let mut value = [0; VALUE];
            let length = rustix::io::read(file, &mut value)?;
            write(&format!("/sys/{name}"), &value[..length], 0o444)?;
        }
        Ok(())
    };
    covers().map_err(fail(COVERS))
}

/// Covers what is not shown, in the root that is sealed. Returns how many entries that are.
///
/// # Errors
/// An entry that cannot be covered.
pub(super) fn cover(proc: BorrowedFd<'_>) -> Result<usize, StepError> {
    rustix::process::fchdir(proc).map_err(fail("/proc"))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut covered = 0;
    for entry in openat(proc, ".", flags, Mode::empty()).and_then(Dir::new).map_err(fail("/proc"))? {
        let entry = entry.map_err(fail("/proc"))?;
        let name = entry.file_name().to_string_lossy();
        let (first, kind) = (name.as_bytes().first().copied().unwrap_or(b'.'), entry.file_type());
        // Links lead to the reading process: self, thread-self, mounts, net.
        if first.is_ascii_digit() || first == b'.' || kind == FileType::Symlink || SHOWN.contains(&&*name) {
            continue;
        }
        if ROOT_ONLY.contains(&&*name) && for_root_alone(&name).map_err(fail(format!("/proc/{name}")))? {
            continue;
        }
        let cover = match kind {
            FileType::Directory if name == "sys" => "sys",
            FileType::Directory => "directory",
            _ => "file",
        };
        // By names, which cost half of what descriptors do: nobody else is in this namespace yet.
        mount(Some(&*format!("../{COVERS}/{cover}")), &*name, None::<&str>, MsFlags::MS_BIND, None::<&str>)
            .map_err(|errno| fail(format!("/proc/{name}"))(rustix::io::Errno::from_raw_os_error(errno as i32)))?;
        covered += 1;
    }
    Ok(covered)
}

/// Whether the kernel lets only the host's root open it, which no plugin is. It belongs to nobody of the call's own namespace.
fn for_root_alone(name: &str) -> rustix::io::Result<bool> {
    let found = statat(CWD, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(found.st_mode & 0o077 == 0 && found.st_uid != INSIDE_ID)
}
