//! Step `root`: the tree that the plugin sees is put together from ready mounts, sealed, and becomes `/`.

use super::step::{Step, StepError};
use super::trees::Tree;
use crate::decide::plan::{Plan, RUNNER_PATH, Source};
use crate::sys::mount;
use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, unmount,
};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

/// Bytes and inodes of the root's own tmpfs: directories, links and made-up files.
const ROOT_SIZE: (&str, &str) = ("4m", "4096");

fn fail(what: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> StepError {
    move |error| StepError::new(Step::Root, what.as_ref().display().to_string(), error)
}

/// Builds the root and moves into it. Returns the descriptor through which step `limits` forbids nested user namespaces:
/// the file is in the host's `/proc`, which is gone afterwards (the call's own has `subset=pid`).
///
/// # Errors
/// Names the path that failed.
pub fn step(plan: &Plan, runner: &[u8], trees: Vec<Tree>) -> Result<File, StepError> {
    let userns_limit = File::options()
        .write(true)
        .open("/proc/sys/user/max_user_namespaces")
        .map_err(|error| StepError::new(Step::Limits, "/proc/sys/user/max_user_namespaces", error))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(fail("/ (propagation)"))?;
    // Attached before anything is mounted on it: on a detached mount that works only from Linux 6.15 on.
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = tmpfs(ROOT_SIZE.0, ROOT_SIZE.1, "0755", flags).map_err(fail("root tmpfs"))?;
    attach(root.as_fd(), rustix::fs::CWD, "/").map_err(fail("root tmpfs"))?;

    let mut trees = trees.into_iter().peekable();
    for (index, wanted) in plan.mounts.iter().enumerate() {
        let target = wanted.path.strip_prefix("/").unwrap_or(&wanted.path);
        let place = || fail(&wanted.path);
        match &wanted.source {
            Source::Host { .. } | Source::Device => {
                let tree =
                    trees.next_if(|tree| tree.index == index).ok_or_else(|| place()(rustix::io::Errno::NOENT))?;
                make_target(root.as_fd(), target, tree.directory).map_err(place())?;
                attach(tree.mount.as_fd(), root.as_fd(), target).map_err(place())?;
            }
            Source::Tmpfs { bytes, inodes } => {
                make_target(root.as_fd(), target, true).map_err(place())?;
                let flags = flags | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let fresh = tmpfs(&bytes.to_string(), &inodes.to_string(), "0700", flags).map_err(place())?;
                attach(fresh.as_fd(), root.as_fd(), target).map_err(place())?;
            }
            Source::Proc => {
                make_target(root.as_fd(), target, true).map_err(place())?;
                let fresh = proc(flags | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY)
                    .map_err(place())?;
                attach(fresh.as_fd(), root.as_fd(), target).map_err(place())?;
            }
            Source::File(contents) => write_file(root.as_fd(), target, contents)?,
            Source::Link(to) => {
                make_parents(root.as_fd(), target).map_err(place())?;
                symlinkat(to, &root, target).map_err(place())?;
            }
        }
    }
    write_file(root.as_fd(), Path::new(RUNNER_PATH.trim_start_matches('/')), runner)?;
    mount::set_attributes(root.as_fd(), mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC, None, false)
        .map_err(|error| StepError::new(Step::Root, "sealing the root", error))?;

    // The old root comes to lie on top of the new one, and is taken off (pivot_root(2), NOTES).
    rustix::process::fchdir(&root).map_err(fail("new root"))?;
    rustix::process::pivot_root(".", ".").map_err(fail("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(fail("old root"))?;
    rustix::process::chdir("/").map_err(fail("/"))?;
    Ok(userns_limit)
}

fn attach(mount: BorrowedFd<'_>, root: BorrowedFd<'_>, target: impl AsRef<Path>) -> rustix::io::Result<()> {
    move_mount(mount, "", root, target.as_ref(), MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn tmpfs(size: &str, inodes: &str, mode: &str, flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", size), ("nr_inodes", inodes), ("mode", mode)] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

fn proc(flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("subset", "pid"), ("hidepid", "invisible")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Makes the directories above `target`. One that exists, also inside a mounted tree, is left as it is.
fn make_parents(root: BorrowedFd<'_>, target: &Path) -> rustix::io::Result<()> {
    let mut path = std::path::PathBuf::new();
    for component in target.parent().into_iter().flat_map(Path::components) {
        if let Component::Normal(name) = component {
            path.push(name);
            match mkdirat(root, &path, Mode::from_raw_mode(0o755)) {
                // In a read-only tree EROFS is told before EEXIST.
                Ok(()) | Err(rustix::io::Errno::EXIST | rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Makes the place that a tree is mounted on, unless it is there.
fn make_target(root: BorrowedFd<'_>, target: &Path, directory: bool) -> rustix::io::Result<()> {
    match rustix::fs::statat(root, target, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(()),
        Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    make_parents(root, target)?;
    if directory {
        mkdirat(root, target, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(root, target, flags, Mode::from_raw_mode(0o444)).map(drop)
    }
}

fn write_file(root: BorrowedFd<'_>, target: &Path, contents: &[u8]) -> Result<(), StepError> {
    make_parents(root, target).map_err(fail(target))?;
    let write = || -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let mut file = File::from(openat(root, target, flags, Mode::from_raw_mode(0o444))?);
        file.write_all(contents)
    };
    write().map_err(|error| StepError::new(Step::Root, format!("/{}", target.display()), error))
}
