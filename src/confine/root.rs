//! Step `root`: the tree that the plugin sees is put together from ready mounts, sealed, and becomes `/`.

use super::proc;
use super::step::{Step, StepError, Subject};
use super::trees::Tree;
use crate::decide::plan::{IN_MEMORY, Plan, RUNNER_PATH, Source};
use crate::sys::mount;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Bytes and inodes of the root's own tmpfs: directories, links and made-up files.
const ROOT_SIZE: (&str, &str) = ("4m", "4096");

pub(super) fn fail(what: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> StepError {
    move |error| StepError::new(Step::Root, what.as_ref().display().to_string(), error)
}

/// Builds the root and moves into it. Returns how many entries of `/proc` are covered.
///
/// # Errors
/// Names the path that failed.
pub fn step(plan: &Plan, runner: &[u8], trees: Vec<Tree>) -> Result<usize, StepError> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(fail("/ (propagation)"))?;
    // Attached before anything is mounted on it: on a detached mount that works only from Linux 6.15 on.
    let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = tmpfs(ROOT_SIZE.0, ROOT_SIZE.1, "0755", flags).map_err(fail("root tmpfs"))?;
    let flags_from = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&root, "", rustix::fs::CWD, "/", flags_from).map_err(fail("root tmpfs"))?;

    let mut trees = trees.into_iter().peekable();
    let mut pinned = BTreeSet::new();
    let mut own_proc = None;
    for (index, wanted) in plan.mounts.iter().enumerate() {
        let target = wanted.path.strip_prefix("/").unwrap_or(&wanted.path);
        let failed = || fail(&wanted.path);
        match &wanted.source {
            Source::Host { .. } | Source::Device => {
                let tree =
                    trees.next_if(|tree| tree.index == index).ok_or_else(|| failed()(rustix::io::Errno::NOENT))?;
                pin(plan, root.as_fd(), &wanted.path, &mut pinned)?;
                let place = place(plan, root.as_fd(), target, tree.directory).map_err(failed())?;
                attach(tree.mount.as_fd(), place.as_fd()).map_err(failed())?;
            }
            Source::Tmpfs { bytes, inodes } => {
                let place = place(plan, root.as_fd(), target, true).map_err(failed())?;
                let flags = flags | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let fresh = tmpfs(&bytes.to_string(), &inodes.to_string(), "0700", flags).map_err(failed())?;
                attach(fresh.as_fd(), place.as_fd()).map_err(failed())?;
            }
            Source::Proc => {
                let failed = || move |error: rustix::io::Errno| fail(&wanted.path)(error).of(Subject::OwnProc);
                let place = place(plan, root.as_fd(), target, true).map_err(failed())?;
                let flags = flags | MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_RDONLY;
                let fresh = fresh("proc", &[("hidepid", "invisible")], flags).map_err(failed())?;
                attach(fresh.as_fd(), place.as_fd()).map_err(failed())?;
                own_proc = Some(fresh);
            }
            Source::Terminals(most) => {
                let place = place(plan, root.as_fd(), target, true).map_err(failed())?;
                let flags = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let fresh = terminals(*most, flags).map_err(failed())?;
                attach(fresh.as_fd(), place.as_fd()).map_err(failed())?;
            }
            Source::File(contents) => write_file(root.as_fd(), target, contents)?,
            Source::Link(to) => {
                let (parent, name) = parent(root.as_fd(), target).map_err(failed())?;
                symlinkat(to, &parent, name).map_err(failed())?;
            }
        }
    }
    write_file(root.as_fd(), Path::new(RUNNER_PATH.trim_start_matches('/')), runner)?;
    proc::prepare(root.as_fd())?;
    mount::set_attributes(root.as_fd(), mount::RDONLY | mount::NOSUID | mount::NODEV | mount::NOEXEC, None, false)
        .map_err(|error| StepError::new(Step::Root, "sealing the root", error))?;

    let covered = own_proc.map_or(Ok(0), |own| proc::cover(own.as_fd()))?;

    // The old root comes to lie on top of the new one, and is taken off (pivot_root(2), NOTES).
    rustix::process::fchdir(&root).map_err(fail("new root"))?;
    rustix::process::pivot_root(".", ".").map_err(fail("pivot_root"))?;
    unmount(".", UnmountFlags::DETACH).map_err(fail("old root"))?;
    rustix::process::chdir("/").map_err(fail("/")).map(|()| covered)
}

/// The call's directories in memory, in the order of [`IN_MEMORY`], for the supervisor to see how full they are.
///
/// # Errors
/// Where the root has none.
pub fn in_memory() -> Result<Vec<OwnedFd>, StepError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    IN_MEMORY.iter().map(|(_, path)| rustix::fs::open(*path, flags, Mode::empty()).map_err(fail(path))).collect()
}

/// Mounts each directory that leads from something writable to `path` on itself, so that the plugin cannot rename it
/// (`EBUSY`, rename(2)): a mount moves along with the directories above it, and the next call would find the plugin's own
/// content at a path that is granted for reading.
fn pin(plan: &Plan, root: BorrowedFd<'_>, path: &Path, pinned: &mut BTreeSet<PathBuf>) -> Result<(), StepError> {
    let in_memory = plan.around(path).is_some_and(|mount| matches!(mount.source, Source::Tmpfs { .. }));
    for directory in plan.leading_to(path) {
        if !pinned.insert(directory.to_owned()) {
            continue;
        }
        let target = directory.strip_prefix("/").unwrap_or(directory);
        let again = match open_place(root, target) {
            // Made here in memory of the call, never in a tree of the host.
            Err(rustix::io::Errno::NOENT) if in_memory => parent(root, &target.join("_")).map(|(made, _)| made),
            other => other,
        };
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let mount = |place: OwnedFd| attach(open_tree(&place, "", flags)?.as_fd(), place.as_fd());
        again.and_then(mount).map_err(fail(directory))?;
    }
    Ok(())
}

fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}

fn tmpfs(size: &str, inodes: &str, mode: &str, flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    fresh("tmpfs", &[("size", size), ("nr_inodes", inodes), ("mode", mode)], flags)
}

/// Each devpts is an instance of its own (since Linux 4.7). Terminals belong to who opens them; no group `tty` is mapped.
fn terminals(most: u32, flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    fresh("devpts", &[("ptmxmode", "0666"), ("mode", "0620"), ("max", &most.to_string())], flags)
}

/// A new file system of this type.
fn fresh(kind: &str, options: &[(&str, &str)], flags: MountAttrFlags) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in options {
        fsconfig_set_string(&context, *key, *value)?;
    }
    fsconfig_create(&context)?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)
}

/// Opens a place below the root through which no link leads: a plugin of an earlier call may have put one into a tree that
/// is granted again.
fn open_place(root: BorrowedFd<'_>, place: &Path) -> rustix::io::Result<OwnedFd> {
    if place.as_os_str().is_empty() {
        return rustix::io::fcntl_dupfd_cloexec(root, 0);
    }
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// The directory of `target`, made where it is missing, with `target`'s own name. Directories are made one by one, each in
/// the one that was opened before.
fn parent<'a>(root: BorrowedFd<'_>, target: &'a Path) -> rustix::io::Result<(OwnedFd, &'a OsStr)> {
    let name = target.file_name().ok_or(rustix::io::Errno::INVAL)?;
    let above = target.parent().unwrap_or(Path::new(""));
    match open_place(root, above) {
        Err(rustix::io::Errno::NOENT) => {}
        found => return Ok((found?, name)),
    }
    let mut directory = rustix::io::fcntl_dupfd_cloexec(root, 0)?;
    for component in above.components() {
        let Component::Normal(name) = component else { continue };
        let next = match open_place(directory.as_fd(), Path::new(name)) {
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
                open_place(directory.as_fd(), Path::new(name))?
            }
            other => other?,
        };
        directory = next;
    }
    Ok((directory, name))
}

/// The place that a tree is mounted on. It is made where it is missing, but never inside a tree of the host: there the
/// granted path itself was looked up before, and what is missing now has been taken away since.
fn place(plan: &Plan, root: BorrowedFd<'_>, target: &Path, directory: bool) -> rustix::io::Result<OwnedFd> {
    let full = Path::new("/").join(target);
    if plan.around(&full).is_some_and(|mount| matches!(mount.source, Source::Host { .. })) {
        return open_place(root, target);
    }
    let (parent, name) = parent(root, target)?;
    let made = if directory {
        mkdirat(&parent, name, Mode::from_raw_mode(0o755)).and_then(|()| open_place(parent.as_fd(), Path::new(name)))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        openat(&parent, name, flags, Mode::from_raw_mode(0o444))
    };
    match made {
        Err(rustix::io::Errno::EXIST) => open_place(parent.as_fd(), Path::new(name)),
        made => made,
    }
}

fn write_file(root: BorrowedFd<'_>, target: &Path, contents: &[u8]) -> Result<(), StepError> {
    let (parent, name) = parent(root, target).map_err(fail(target))?;
    let write = || -> io::Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut file = File::from(openat(&parent, name, flags, Mode::from_raw_mode(0o444))?);
        file.write_all(contents)
    };
    write().map_err(|error| StepError::new(Step::Root, format!("/{}", target.display()), error))
}
