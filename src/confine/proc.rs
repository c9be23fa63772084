//! Part of step `root`: `/proc` inside. It has the call's own processes, and of everything else only what tells programs how
//! many processors and how much memory there are, and what the time and the kernel are.
//!
//! The kernel has no mount option for that: `subset=pid` hides all the rest, and nothing can be mounted in such a `/proc` where
//! there is no name. So the rest is covered: each entry that is not listed here, one of a newer kernel too, by an empty file or
//! directory that nobody can open.

use super::root::fail;
use super::step::StepError;
use crate::decide::plan::HOST_NAME;
use nix::mount::{MsFlags, mount};
use rustix::fs::{Dir, FileType, Mode, OFlags, mkdirat, openat};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Entries that stay, besides the processes and links to them. None tells of another user's files, programs or connections.
const SHOWN: [&str; 7] = ["cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "uptime", "version"];
/// What `/proc/sys` has: settings that programs adapt to, by their directories, with the values that they have at the call's start.
const SETTINGS: [(&str, &[&str]); 3] = [
    // libcap, sysconf(3), scripts, ps
    ("kernel", &["cap_last_cap", "ngroups_max", "osrelease", "ostype", "pid_max"]),
    // JVMs and allocators
    ("vm", &["max_map_count", "overcommit_memory"]),
    // Go
    ("net/core", &["somaxconn"]),
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
    let own = [("kernel", "hostname")];
    let all = SETTINGS.iter().flat_map(|(directory, names)| names.iter().map(move |name| (*directory, *name)));
    all.chain(own).any(|(directory, name)| Path::new(directory).join(name).starts_with(setting))
}

/// A fresh proc of the pid namespace that this process is in.
///
/// # Errors
/// `EPERM` where part of the host's `/proc` is covered.
pub(super) fn mount_fresh(flags: rustix::mount::MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "hidepid", "invisible")?;
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Creates the covers in the root, before it is sealed. The host's `/proc` is still there.
///
/// # Errors
/// Names what cannot be created.
pub(super) fn prepare(root: BorrowedFd<'_>) -> Result<(), StepError> {
    let none = Mode::empty();
    let (directory, new) = (OFlags::PATH | OFlags::DIRECTORY, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY);
    let make = |at: BorrowedFd<'_>, name: &str| {
        mkdirat(at, name, Mode::from_raw_mode(0o755))?;
        openat(at, name, directory | OFlags::CLOEXEC, none)
    };
    let write = |at: BorrowedFd<'_>, name: &str, value: &[u8]| {
        let file = openat(at, name, new | OFlags::CLOEXEC, Mode::from_raw_mode(0o444))?;
        rustix::io::write(file, value).map(drop)
    };
    let covers = || -> rustix::io::Result<()> {
        let covers = make(root, COVERS)?;
        openat(&covers, "file", new | OFlags::CLOEXEC, none)?;
        mkdirat(&covers, "directory", none)?;
        let own = make(covers.as_fd(), "sys")?;
        make(own.as_fd(), "net")?;
        let host = rustix::fs::open("/proc/sys", directory | OFlags::CLOEXEC, none)?;
        for (directory, names) in SETTINGS {
            let own = make(own.as_fd(), directory)?;
            for name in names {
                // A kernel without it shows none.
                let Ok(file) = openat(&host, format!("{directory}/{name}"), OFlags::RDONLY | OFlags::CLOEXEC, none)
                else {
                    continue;
                };
                let mut value = [0; VALUE];
                let length = rustix::io::read(file, &mut value)?;
                write(own.as_fd(), name, &value[..length])?;
            }
            if directory == "kernel" {
                write(own.as_fd(), "hostname", format!("{HOST_NAME}\n").as_bytes())?;
            }
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
