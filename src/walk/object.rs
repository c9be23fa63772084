//! An object of the host that a walk opened, and who could change it.
#![forbid(unsafe_code)]

use super::flaw::{Flaw, foreign_fuse, is_root_sticky, object_flaw, placing_flaw};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// The identity of an object, independent of its name: `st_dev` and `st_ino`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    /// Device of the file system.
    pub device: u64,
    /// Inode in it.
    pub inode: u64,
}

impl Id {
    pub(super) fn of(stat: &Stat) -> Self {
        Id { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// A file or directory of the host, open.
#[derive(Debug)]
pub struct Object {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
    stat: Stat,
    pub(super) parent: Option<Rc<Object>>,
    /// The first directory from `/` to this object, including itself, in which somebody else could replace an entry.
    pub(super) flaw: Option<(PathBuf, Flaw)>,
    fuse: Option<Flaw>,
}

impl Object {
    /// Also determines why somebody other than root and `uid` could change it.
    pub(super) fn new(fd: OwnedFd, path: PathBuf, stat: Stat, parent: Option<Rc<Object>>, uid: u32) -> Rc<Self> {
        let crossed = parent.as_ref().is_none_or(|parent| parent.stat.st_dev != stat.st_dev);
        let fuse = if crossed { foreign_fuse(&fd, uid) } else { parent.as_ref().and_then(|p| p.fuse.clone()) };
        let above = parent.as_ref().and_then(|parent| parent.flaw.clone());
        let flaw = above.or_else(|| {
            let own = if is_root_sticky(&stat) { None } else { object_flaw(&stat, uid) };
            Some((path.clone(), fuse.clone().or(own)?))
        });
        Rc::new(Object { fd, path, stat, parent, flaw, fuse })
    }

    /// `O_PATH` descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// A duplicate of the descriptor.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn share(&self) -> rustix::io::Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
    }

    /// Its path from `/`, without symbolic links: for messages, and for its place in the call's root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its `stat` when it was opened.
    #[must_use]
    pub fn stat(&self) -> &Stat {
        &self.stat
    }

    /// Its identity.
    #[must_use]
    pub fn id(&self) -> Id {
        Id::of(&self.stat)
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it is a directory.
    #[must_use]
    pub fn is_dir(&self) -> bool {
        self.kind() == FileType::Directory
    }

    /// The directory that it was opened in.
    #[must_use]
    pub fn parent(&self) -> Option<&Rc<Object>> {
        self.parent.as_ref()
    }

    /// The object, the directory that it was opened in, and so on up to `/`.
    pub fn chain(&self) -> impl Iterator<Item = &Object> {
        std::iter::successors(Some(self), |object| object.parent.as_deref())
    }

    /// Why somebody other than root and user `uid` could change the object itself; the directories above are not checked.
    #[must_use]
    pub fn own_flaw(&self, uid: u32) -> Option<Flaw> {
        self.fuse.clone().or_else(|| object_flaw(&self.stat, uid))
    }

    /// A plugin gets the rights of `owner`, the object's user and group, in it. Returns why somebody other than that user and root
    /// could have placed the object. If root or root's group owns it, only root may have placed it. Checks the directories above
    /// and, in a directory that root owns, who may add entries; `groups_too`: also in one that only root's group owns.
    #[must_use]
    pub fn chosen_by_others(&self, owner: (u32, u32), groups_too: bool) -> Option<(PathBuf, Flaw)> {
        let roots = owner.0 == 0 || owner.1 == 0;
        let user = if roots { 0 } else { owner.0 };
        let holds_others = || {
            let flaw = object_flaw(&self.stat, 0).filter(|_| self.is_dir() && roots && (owner.0 == 0 || groups_too));
            flaw.map(|flaw| (self.path.clone(), flaw))
        };
        self.placed_by_others(user).or_else(holds_others)
    }

    /// Why somebody other than root and `user` could have replaced this object: checks the directories above it. The parent's
    /// sticky bit does not help: others may be able to move root's files from elsewhere into it.
    fn placed_by_others(&self, user: u32) -> Option<(PathBuf, Flaw)> {
        let parent = self.parent.as_deref()?;
        let own = placing_flaw(&parent.stat, user).map(|flaw| (parent.path.clone(), flaw));
        own.or_else(|| parent.flaw_but_for(user))
    }

    /// As `flaw`, if only root and `user` are trusted.
    pub(super) fn flaw_but_for(&self, user: u32) -> Option<(PathBuf, Flaw)> {
        self.chain().find_map(|object| {
            let own = if is_root_sticky(&object.stat) { None } else { placing_flaw(&object.stat, user) };
            let fuse = object.fuse.clone().filter(|fuse| *fuse != Flaw::Fuse { uid: Some(user) });
            Some((object.path.clone(), fuse.or(own)?))
        })
    }

    /// Opens the same object for reading.
    ///
    /// # Errors
    /// Those of `openat`; `ESTALE` if its name now refers to another object.
    pub fn open(&self) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
        if self.is_dir() {
            return openat(&self.fd, ".", flags | OFlags::DIRECTORY, Mode::empty());
        }
        let (Some(parent), Some(name)) = (&self.parent, self.path.file_name()) else { return Err(Errno::INVAL) };
        let file = openat(&parent.fd, name, flags, Mode::empty())?;
        if Id::of(&fstat(&file)?) == self.id() { Ok(file) } else { Err(Errno::STALE) }
    }
}
