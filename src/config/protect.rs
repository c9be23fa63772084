//! What rules plugins, and whether a plugin that may write somewhere could change it.
//!
//! Both sides are objects of the host, and are compared by identity and by where they lie in their file systems, never by
//! name: a bind mount or a link is another name of the same thing.

use crate::mounts::{Mount, Spot, Table};
use crate::walk::{self, How, Id, Link, Walked};
use rustix::io::Errno;
use std::io;
use std::path::{Path, PathBuf};

/// File systems that are the kernel's own voice; none of them is ever granted, wherever it is mounted.
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

/// Something that decides what a plugin may do or is, and that no plugin may therefore write.
#[derive(Debug, Clone)]
pub(crate) struct Protected {
    /// What it is, for the message.
    pub what: String,
    /// Where it lies in its file system.
    own: Spot,
    /// The same, each link that leads there, and the mount points on the way: who may write above one decides what is found.
    spots: Vec<Spot>,
    /// It, its links, and every directory on the way.
    ids: Vec<Id>,
    /// Whether a writable path below it is as bad as one above it.
    below_too: bool,
}

impl Protected {
    /// `path` with everything that leads to it, as far as there is something.
    pub(crate) fn new(what: String, path: &Path, below_too: bool, table: &Table) -> io::Result<Self> {
        // Without owners no link can be told to be safe: each is taken for one that counts.
        let how = if walk::owners_are_known() { How::SafeLinks } else { How::AnyLinks };
        let walked = follow(path, how)?;
        let own = table.spot(&walked)?;
        let mut spots = table.way(&walked.object, &walked.path())?;
        for Link { parent, path, .. } in &walked.links {
            spots.extend(table.way(parent, path)?);
        }
        Ok(Protected { what, own, spots, ids: ids(&walked), below_too })
    }

    /// Whether whoever may write there could change this.
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

/// Where a path leads; `None` where no call can follow it: a link that is not followed, or what may not be entered, lies on
/// the way, and nothing is ever read or granted through it.
///
/// # Errors
/// It cannot be told.
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

/// What a granted path shows: the object, and each mount below it, which comes along.
#[derive(Debug)]
pub(crate) struct Reach {
    /// The object; `None` when it is not there.
    id: Option<Id>,
    /// It, and what is mounted below it.
    spots: Vec<Spot>,
    /// Where a file system of the kernel, or `/run`, is shown.
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

    /// The first of `protected` that whoever may write here could change.
    pub(crate) fn rules<'p>(&self, protected: &'p [Protected]) -> Option<&'p str> {
        protected.iter().find(|one| one.is_touched_by(self)).map(|one| one.what.as_str())
    }

    /// Where it shows a file system of the kernel, or `/run`.
    pub(crate) fn reserved(&self) -> Option<&Path> {
        self.reserved.as_deref()
    }
}

/// `/run`, where it is a mount: elsewhere its file system holds everything else as well.
fn run(table: &Table) -> io::Result<Option<Spot>> {
    let walked = match walk::walk(Path::new("/run"), How::NoLinks) {
        Ok(walked) => walked,
        Err(error) if error.errno() == Errno::LOOP => return Ok(None),
        Err(error) => return Err(error.errno().into()),
    };
    let shown = table.mount_of(&walked.object)?;
    Ok((shown.point() == walked.path()).then(|| shown.shows()))
}
