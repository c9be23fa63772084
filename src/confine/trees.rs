//! Parent side of step `root`: every host path of the plan opened, checked, and made ready as a detached tree.
//!
//! The kernel takes a descriptor that was opened in another mount namespace only as a detached tree, so `open_tree` with
//! `OPEN_TREE_CLONE` is the one way to hand a path to the child that was checked here.

use super::id_map;
use super::step::{Step, StepError};
use crate::decide::plan::{Mount, Plan, Source};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use nix::errno::Errno;
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

/// A host path, opened once: the tree to attach, and the object itself for landlock's rule.
pub struct Tree {
    /// Index of the plan's mount.
    pub index: usize,
    /// Detached mount with its final flags.
    pub mount: OwnedFd,
    /// `O_PATH` descriptor of the object.
    pub object: OwnedFd,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Opens an absolute path without following any link on the way.
///
/// # Errors
/// `ELOOP` for a link, `ENOENT`, `EACCES`.
pub fn open_exact(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(rustix::fs::CWD, path, flags, Mode::empty(), resolve)
}

/// Makes every host mount of the plan ready. `as_root` decides whether mapped trees are id-mapped to their owner.
///
/// # Errors
/// A path that is not there, is a link, a socket or device, or lies on a file system without id-mapping; each is named.
pub fn open(plan: &Plan, as_root: bool) -> Result<Vec<Tree>, StepError> {
    let mut namespaces = BTreeMap::new();
    let mut trees = Vec::new();
    for (index, wanted) in plan.mounts.iter().enumerate() {
        if matches!(wanted.source, Source::Host { .. } | Source::Device) {
            let tree = open_one(index, wanted, plan.outside, as_root, &mut namespaces);
            trees.push(tree.map_err(|error| StepError {
                object: format!("{} ({})", wanted.path.display(), wanted.why),
                ..error
            })?);
        }
    }
    Ok(trees)
}

fn open_one(
    index: usize,
    wanted: &Mount,
    outside: (u32, u32),
    as_root: bool,
    namespaces: &mut BTreeMap<(u32, u32), OwnedFd>,
) -> Result<Tree, StepError> {
    let fail = |error: io::Error| StepError::new(Step::Prepare, "", error);
    let other = |text: &str| fail(io::Error::other(text.to_owned()));
    let object = open_exact(&wanted.path).map_err(|error| match error {
        rustix::io::Errno::LOOP => other("a symbolic link lies on the way; grant the path that it points to"),
        error => fail(error.into()),
    })?;
    let stat = fstat(&object).map_err(|error| fail(error.into()))?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    let directory = kind == FileType::Directory;
    let device = wanted.source == Source::Device;
    match kind {
        FileType::CharacterDevice if device => {}
        FileType::Directory | FileType::RegularFile if !device => {}
        _ => {
            return Err(other(
                "only directories and regular files can be shown to a plugin, never a socket, pipe or device",
            ));
        }
    }
    let recursive = if directory { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH | recursive;
    let mount = open_tree(&object, "", flags).map_err(|error| fail(error.into()))?;
    let attributes = NOSUID
        | if device { NOEXEC } else { NODEV }
        | if wanted.write { 0 } else { RDONLY }
        | if wanted.exec { 0 } else { NOEXEC };
    let owner = (stat.st_uid, stat.st_gid);
    let mapped = matches!(wanted.source, Source::Host { mapped: true });
    if mapped && as_root && owner != outside {
        let namespace = match namespaces.entry(owner) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(id_map::mapping_namespace(owner, outside)?)
            }
        };
        mount::set_attributes(mount.as_fd(), attributes, Some(namespace.as_fd()), directory).map_err(|error| {
            match error.raw_os_error().map(Errno::from_raw) {
                // EPERM: it was mounted in another user namespace, as a container's are.
                Some(Errno::EINVAL | Errno::EOPNOTSUPP | Errno::EPERM) => other(
                    "its file system (or one mounted below it) has no id-mapped mounts, so root cannot hand it to the plugin's \
                     user; move it to ext4, xfs, btrfs or, from Linux 6.3 on, tmpfs, or call upm as its owner",
                ),
                _ => fail(error),
            }
        })?;
    } else {
        mount::set_attributes(mount.as_fd(), attributes, None, directory).map_err(fail)?;
    }
    Ok(Tree { index, mount, object, directory })
}
