//! Whether a plugin that may write to a path could change a protected file or directory.
//!
//! Both are objects of the host. They are compared by identity and by their place in their file systems, never by
//! name: a bind mount or a link is another name of the same object.

use crate::mounts::{Mount, Spot, Table};
use crate::walk::{self, How, Id, Link, Walked};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// Kernel file systems: never granted, wherever they are mounted.
const KERNEL: [&[u8]; 18] = [
    b"proc",
    b"sysfs",
    b"devtmpfs",
    b"devpts",
    b"cgroup",
    b"cgroup2",
    b"securityfs",
    b"debugfs",
    b"tracefs",
    b"bpf",
    b"configfs",
    b"efivarfs",
    b"pstore",
    b"mqueue",
    b"binfmt_misc",
    b"fusectl",
    b"selinuxfs",
    b"nsfs",
];

/// A file or directory that controls plugins, so no plugin may write to it.
#[derive(Debug, Clone)]
pub(crate) struct Protected {
    /// What it is, for the message.
    pub what: String,
    /// Its place in its file system.
    own: Spot,
    /// The same, each link that leads there, and the mount points on the way: write access above one of them is enough to
    /// replace what the path leads to.
    spots: Vec<Spot>,
    /// It, its links, and every directory on the way.
    ids: Vec<Id>,
    /// Whether writable paths inside it are denied too, not only those that contain it.
    below_too: bool,
}

impl Protected {
    /// `path` with everything that leads to it, as far as it exists.
    pub(crate) fn new(what: String, path: &Path, below_too: bool, table: &Table) -> io::Result<Self> {
        // If owners are unknown, no link is known to be safe: all are followed.
        let how = if walk::owners_are_known() { How::SafeLinks } else { How::AnyLinks };
        let walked = follow(path, how)?;
        let own = table.spot(&walked)?;
        let mut spots = table.way(&walked.object, &walked.path())?;
        for Link { parent, path, .. } in &walked.links {
            spots.extend(table.way(parent, path)?);
        }
        Ok(Protected { what, own, spots, ids: ids(&walked), below_too })
    }

    /// Whether write access to `reach` is enough to change this.
    fn is_touched_by(&self, reach: &Reach) -> bool {
        reach.id.is_some_and(|id| self.ids.contains(&id))
            || reach.spots.iter().any(|reached| {
                self.spots.iter().any(|spot| reached.holds(spot)) || (self.below_too && self.own.holds(reached))
            })
    }
}

/// The objects of `path`: itself, its links, and every directory on the way.
///
/// # Errors
/// As [`reachable`].
pub(crate) fn on_the_way(path: &Path) -> io::Result<Vec<Id>> {
    follow(path, How::SafeLinks).map(|walked| ids(&walked))
}

fn ids(walked: &Walked) -> Vec<Id> {
    let mut ids: Vec<Id> = walked.object.chain().map(walk::Object::id).collect();
    for Link { parent, id, .. } in &walked.links {
        ids.push(*id);
        ids.extend(parent.chain().map(walk::Object::id));
    }
    ids
}

/// `path`, or the last part of it that can be followed.
fn follow(path: &Path, how: How) -> io::Result<Walked> {
    for part in path.ancestors() {
        if let Some(walked) = reached(part, how)? {
            return Ok(walked);
        }
    }
    Err(Errno::NOENT.into())
}

/// Where a path leads; `None` if no call can follow it because of a link or directory on the way. Nothing is ever read or
/// granted through such a path.
///
/// # Errors
/// Any other error of the walk.
pub(crate) fn reachable(path: &Path) -> io::Result<Option<Walked>> {
    reached(path, How::SafeLinks)
}

fn reached(path: &Path, how: How) -> io::Result<Option<Walked>> {
    match walk::walk(path, how) {
        Ok(walked) => Ok(Some(walked)),
        Err(error) => match error.errno() {
            Errno::LOOP | Errno::NOTDIR | Errno::ACCESS | Errno::NAMETOOLONG => Ok(None),
            errno => Err(errno.into()),
        },
    }
}

/// What a granted path gives access to: the object, and each mount below it.
#[derive(Debug)]
pub(crate) struct Reach {
    /// The object; `None` if it does not exist.
    id: Option<Id>,
    /// Its place, and what is mounted below it.
    spots: Vec<Spot>,
    /// Where it contains a kernel file system or `/run`.
    reserved: Option<PathBuf>,
}

impl Reach {
    pub(crate) fn of(walked: &Walked, table: &Table) -> io::Result<Self> {
        let path = walked.path();
        let own = table.spot(walked)?;
        let run = run(table)?;
        let kernels = |mount: &Mount| {
            KERNEL.contains(&mount.file_system()) || run.as_ref().is_some_and(|run| run.holds(&mount.shows()))
        };
        let home = table.mount_of(&walked.object)?;
        let is_reserved = path == Path::new("/") || kernels(home) || run.as_ref().is_some_and(|run| run.holds(&own));
        let mut reserved = is_reserved.then(|| path.clone());
        let mut spots = vec![own];
        for mount in table.below(&path) {
            if kernels(mount) {
                reserved.get_or_insert_with(|| mount.point().to_owned());
            }
            spots.push(mount.shows());
        }
        Ok(Reach { id: walked.whole().map(|object| object.id()), spots, reserved })
    }

    /// The first of `protected` that write access here is enough to change.
    pub(crate) fn rules<'p>(&self, protected: &'p [Protected]) -> Option<&'p str> {
        protected.iter().find(|one| one.is_touched_by(self)).map(|one| one.what.as_str())
    }

    /// Where it contains a kernel file system or `/run`.
    pub(crate) fn reserved(&self) -> Option<&Path> {
        self.reserved.as_deref()
    }
}

/// `/run` if it is a mount point: otherwise its file system contains other directories too.
fn run(table: &Table) -> io::Result<Option<Spot>> {
    let walked = match walk::walk(Path::new("/run"), How::NoLinks) {
        Ok(walked) => walked,
        Err(error) if error.errno() == Errno::LOOP => return Ok(None),
        Err(error) => return Err(error.errno().into()),
    };
    let shown = table.mount_of(&walked.object)?;
    Ok((shown.point() == walked.path()).then(|| shown.shows()))
}
