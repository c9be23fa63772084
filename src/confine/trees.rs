//! Parent side of step `root`: every host path of the plan opened, checked, and made ready as a detached tree.
//!
//! The kernel takes a descriptor that was opened in another mount namespace only as a detached tree, so `open_tree` with
//! `OPEN_TREE_CLONE` is the one way to hand a path to the child that was checked here.

use super::id_map;
use super::step::{Step, StepError, Subject};
use crate::decide::plan::{Mount, Plan, Source};
use crate::sys::mount::{self, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::walk::{self, How, Object};
use nix::errno::Errno;
use rustix::fs::{FileType, fstat};
use rustix::mount::{OpenTreeFlags, open_tree};
use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

/// A host path, as the walk that looked at it has opened it ([`crate::walk`]): the tree to attach, and the object itself for landlock's rule.
pub struct Tree {
    /// Index of the plan's mount.
    pub index: usize,
    /// Detached mount with its final flags.
    pub mount: OwnedFd,
    /// The object, as it was looked at before: for landlock's rule.
    pub object: Rc<Object>,
    /// Whether it is a directory.
    pub directory: bool,
}

/// Makes every host mount of the plan ready. `as_root` decides whether mapped trees are id-mapped to their owner.
///
/// # Errors
/// A path that does not exist, is a link, a socket or a device, or is on a file system without id-mapping; the error names it.
pub fn open(plan: &Plan, as_root: bool) -> Result<Vec<Tree>, StepError> {
    let mut namespaces = BTreeMap::new();
    let mut trees = Vec::new();
    for (index, wanted) in plan.mounts.iter().enumerate() {
        if matches!(wanted.source, Source::Host { .. } | Source::Device) {
            let tree = open_one(index, wanted, plan, as_root, &mut namespaces);
            trees.push(tree.map_err(|error| StepError {
                object: format!("{} ({})", wanted.path.display(), wanted.why),
                subject: if wanted.why.is_grant() { Subject::Granted } else { Subject::Other },
                ..error
            })?);
        }
    }
    Ok(trees)
}

fn open_one(
    index: usize,
    wanted: &Mount,
    plan: &Plan,
    as_root: bool,
    namespaces: &mut BTreeMap<(u32, u32), OwnedFd>,
) -> Result<Tree, StepError> {
    let fail = |error: io::Error| StepError::new(Step::Prepare, "", error);
    let other = |text: &str| fail(io::Error::other(text.to_owned()));
    let object = walk::find(wanted.host(), How::NoLinks).map_err(|error| match error.errno() {
        rustix::io::Errno::LOOP => other("the path contains a symbolic link; grant the path that it points to"),
        rustix::io::Errno::STALE => other("was exchanged for something else after it had been looked at; try again"),
        error => fail(error.into()),
    })?;
    // Its owner may have changed since: a directory that was made for this call was given away.
    let stat = fstat(object.fd()).map_err(|error| fail(error.into()))?;
    let kind = object.kind();
    let directory = object.is_dir();
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
    let mount = open_tree(object.fd(), "", flags).map_err(|error| fail(error.into()))?;
    let attributes = NOSUID
        | if device { NOEXEC } else { NODEV }
        | if wanted.write { 0 } else { RDONLY }
        | if wanted.exec { 0 } else { NOEXEC };
    let outside = plan.outside;
    let lent = as_root && wanted.source == (Source::Host { mapped: true });
    let owner = (stat.st_uid, stat.st_gid);
    if let Some(reason) = lent.then(|| not_lent(&object, owner, wanted.write, plan)).flatten() {
        return Err(other(&reason));
    }
    if lent && owner != outside {
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

/// Why the rights of `owner` are not lent to the plugin of a root call; `None` if they may be.
fn not_lent(object: &Object, owner: (u32, u32), write: bool, plan: &Plan) -> Option<String> {
    // root's group as well: it reads more than the directory's owner may.
    if write && !plan.as_root_owner && (owner.0 == 0 || owner.1 == 0) {
        return Some(
            "root or its group owns it, so what the plugin wrote there would be root's; give it to an unprivileged user \
             with `chown`, or set as_root_owner = true"
                .to_owned(),
        );
    }
    // A plugin is lent what the owner may; others could have exchanged what was meant for something else of that owner.
    if owner.0 == plan.outside.0 && owner.1 != 0 {
        return None;
    }
    let (changed, _) = object.chosen_by_others(owner, !plan.as_root_owner)?;
    Some(format!(
        "others than its owner may change {} and could have chosen what the owner's rights are lent to; give it to an \
         unprivileged user with `chown`, or move it to where its owner and root alone may write",
        changed.display()
    ))
}
