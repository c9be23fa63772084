//! How a path that the configuration, a caller or a client names becomes an object of the host: one walk from `/`.
//!
//! Each component is opened from the descriptor of its directory (`O_PATH`, `O_NOFOLLOW`), and its owner and mode are
//! looked at on the way. A symbolic link is followed only where root or the calling user alone could have placed it:
//! after the first directory that somebody else could change, no link is followed. What comes out is a descriptor with
//! the identity (device and inode) of each directory above it. What is checked, compared, hashed, read, mounted and
//! created afterwards is that descriptor: the walk keeps it ([`hold`]) and gives the same one to who asks for the same
//! path again in this call.
//!
//! Neither `fs-mistrust` nor `pathrs` does this: the one checks names and leaves the opening to its caller, the other
//! keeps a path inside a root and does not ask who owns its links.
#![forbid(unsafe_code)]

mod places;

use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Links followed before a path counts as a loop; `MAXSYMLINKS` of the kernel.
const MAX_LINKS: usize = 40;
/// Directories whose descriptors are kept for the next walk.
const MAX_KEPT: usize = 64;
/// `f_type` of a file system whose answers come from a process (statfs(2)).
const FUSE: i64 = 0x6573_5546;

/// Which object it is, whatever its name: `st_dev` and `st_ino`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Id {
    /// Device of the file system.
    pub device: u64,
    /// Inode in it.
    pub inode: u64,
}

impl Id {
    fn of(stat: &Stat) -> Self {
        Id { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// Why somebody other than root and the calling user could change an object, or exchange what lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It belongs to somebody else.
    Owner {
        /// The user.
        uid: u32,
        /// It is a symbolic link.
        link: bool,
    },
    /// Its mode lets others write.
    Mode {
        /// Its permission bits.
        mode: u32,
        /// Its group.
        gid: u32,
    },
    /// Its file system is a process of somebody else, who may answer what he likes.
    Fuse {
        /// Who mounted it; `None` when it cannot be told.
        uid: Option<u32>,
    },
}

/// A file or directory of the host, open.
#[derive(Debug)]
pub struct Object {
    fd: OwnedFd,
    path: PathBuf,
    stat: Stat,
    parent: Option<Rc<Object>>,
    /// The first of the directories from `/` to this object, itself included, in which somebody else could exchange an
    /// entry.
    flaw: Option<(PathBuf, Flaw)>,
    fuse: Option<Flaw>,
}

impl Object {
    /// `O_PATH` descriptor.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The descriptor once more.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn share(&self) -> rustix::io::Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)
    }

    /// Its path from `/`, without symbolic links: for messages, and for the place that it gets inside.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it was when it was opened.
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

    /// It, the directory that it was opened in, and so on up to `/`.
    pub fn chain(&self) -> impl Iterator<Item = &Object> {
        std::iter::successors(Some(self), |object| object.parent.as_deref())
    }

    /// Why somebody other than root and user `uid` could change the object itself; what lies above it is not looked at.
    #[must_use]
    pub fn own_flaw(&self, uid: u32) -> Option<Flaw> {
        self.fuse.clone().or_else(|| object_flaw(&self.stat, uid))
    }

    /// Whoever is lent what `owner`, the object's user and group, may do in it: why somebody other than that user and root could
    /// have chosen in what. Of what root or its group owns, root alone may have. The directories above are looked at, and of a
    /// directory that is root's who may add entries to it; `groups_too`: also one that is root's by its group alone.
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

    /// Why somebody other than root and `user` could have put something else in this object's place: the directories above it
    /// are looked at. Into one of root's with the sticky bit anyone may move what root owns elsewhere.
    fn placed_by_others(&self, user: u32) -> Option<(PathBuf, Flaw)> {
        let parent = self.parent.as_deref()?;
        let own = placing_flaw(&parent.stat, user).map(|flaw| (parent.path.clone(), flaw));
        own.or_else(|| parent.flaw_but_for(user))
    }

    /// As `flaw`, where root and `user` alone may change things.
    fn flaw_but_for(&self, user: u32) -> Option<(PathBuf, Flaw)> {
        self.chain().find_map(|object| {
            let own = if is_root_sticky(&object.stat) { None } else { placing_flaw(&object.stat, user) };
            let fuse = object.fuse.clone().filter(|fuse| *fuse != Flaw::Fuse { uid: Some(user) });
            Some((object.path.clone(), fuse.or(own)?))
        })
    }

    /// The object opened for reading: the very same, or an error.
    ///
    /// # Errors
    /// What `openat` says; `ESTALE` when its name has come to mean another object.
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

/// A symbolic link that a walk has followed.
#[derive(Debug, Clone)]
pub struct Link {
    /// The directory that holds it.
    pub parent: Rc<Object>,
    /// Its path, without links above it.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
    /// Which link it is.
    pub id: Id,
}

/// Where a walk has ended.
#[derive(Debug, Clone)]
pub struct Walked {
    /// The object; where something is missing, the last directory that is there.
    pub object: Rc<Object>,
    /// What of the path is not there, in order; empty when all of it is.
    pub missing: Vec<OsString>,
    /// The links that were followed, in order.
    pub links: Vec<Link>,
}

impl Walked {
    /// The path from `/` without symbolic links, with what is missing of it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.missing.iter().fold(self.object.path.clone(), |path, name| path.join(name))
    }

    /// The object, when all of the path is there.
    #[must_use]
    pub fn whole(&self) -> Option<&Rc<Object>> {
        self.missing.is_empty().then_some(&self.object)
    }
}

/// Which links a walk follows, and what it passes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// No link. Directories may be anybody's.
    NoLinks,
    /// Links that root or the calling user alone could have placed. Directories may be anybody's.
    SafeLinks,
    /// Any link: for what is compared alone, never for what is opened for a plugin or gone by.
    AnyLinks,
    /// Links that root alone could have placed: a plugin of a user's own call is that user, and places links too.
    RootLinks,
    /// As [`How::SafeLinks`], and each directory on the way, and the object itself, must be one that root and the calling user alone
    /// could change; directories of root with the sticky bit may lie on the way.
    Trusted,
}

/// Why a path leads to no object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkError {
    /// The operating system says so.
    Io {
        /// The component.
        path: PathBuf,
        /// What it said.
        errno: Errno,
    },
    /// [`How::NoLinks`], and there is one.
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A link that somebody else could have placed.
    UnsafeLink {
        /// The link.
        path: PathBuf,
        /// The link, or the directory above it that somebody else could change.
        by: PathBuf,
        /// Why.
        flaw: Flaw,
    },
    /// [`How::Trusted`], and somebody else could change this.
    Untrusted {
        /// The object.
        path: PathBuf,
        /// Why.
        flaw: Flaw,
    },
}

impl WalkError {
    /// The component that it is about.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            WalkError::Io { path, .. }
            | WalkError::Link { path }
            | WalkError::UnsafeLink { path, .. }
            | WalkError::Untrusted { path, .. } => path,
        }
    }

    /// As a system call that opens the path without following links would answer.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            WalkError::Io { errno, .. } => *errno,
            WalkError::Link { .. } | WalkError::UnsafeLink { .. } => Errno::LOOP,
            WalkError::Untrusted { .. } => Errno::ACCESS,
        }
    }
}

/// Descriptors of this call: what a walk has found, by path (as a string: the hash of a path looks for its components).
#[derive(Default)]
struct Found {
    /// Directories on the way, so that paths with a common beginning are walked once. At most [`MAX_KEPT`].
    kept: HashMap<OsString, Rc<Object>>,
    /// What was decided on and is to be used.
    held: HashMap<OsString, Rc<Object>>,
    /// Which objects these were, when their descriptors had to be given up ([`enter_namespace`]).
    expected: HashMap<OsString, Id>,
}

impl Found {
    fn get(&self, path: &Path) -> Option<Rc<Object>> {
        self.held.get(path.as_os_str()).or_else(|| self.kept.get(path.as_os_str())).cloned()
    }
}

thread_local! {
    static FOUND: RefCell<Found> = RefCell::default();
    /// Whether this process is in a user namespace of its own, where most owners have no number.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// Whether it can be seen who owns what: not any more once this process has entered a user namespace.
pub fn owners_are_known() -> bool {
    !ENTERED.get()
}

/// Forgets everything that walks have found and closes its descriptors. The next walk starts from `/` again.
pub fn forget() {
    FOUND.with_borrow_mut(|found| *found = Found::default());
}

/// To be called when this process has entered another user and mount namespace: the kernel clones no mount from a descriptor of the
/// one before. Descriptors are given up, and later walks open each path again; one that was held must be the same object,
/// or the walk ends with `ESTALE`.
pub fn enter_namespace() {
    ENTERED.set(true);
    FOUND.with_borrow_mut(|found| {
        let expected = found.held.iter().map(|(path, object)| (path.clone(), object.id())).collect();
        *found = Found { expected, ..Found::default() };
    });
}

/// Keeps `object` until [`forget`]: each later walk to its path gives this one.
pub fn hold(object: &Rc<Object>) {
    FOUND.with_borrow_mut(|found| found.held.insert(object.path.clone().into(), Rc::clone(object)));
}

/// Walks `path`, absolute or relative to the working directory, as far as there is something. `.` and doubled slashes go;
/// `..` leads to the directory above, after the links before it.
///
/// # Errors
/// A link that is not followed, an object that is not passed, `ENOTDIR`, `EACCES`, `ELOOP`. That something is not there
/// is no error here: see [`Walked::missing`].
pub fn walk(path: &Path, how: How) -> Result<Walked, WalkError> {
    let io = |path: &Path, errno| WalkError::Io { path: path.to_owned(), errno };
    let absolute = if path.is_absolute() {
        path.to_owned()
    } else {
        std::env::current_dir().map_err(|_| io(path, Errno::NOENT))?.join(path)
    };
    if absolute.as_os_str().as_bytes().contains(&0) {
        return Err(io(path, Errno::INVAL));
    }
    Walker { uid: rustix::process::getuid().as_raw(), how, links: Vec::new(), todo: components(&absolute) }
        .go(&absolute)
}

/// The object that `path` leads to.
///
/// # Errors
/// As [`walk`]; `ENOENT` when it is not there.
pub fn find(path: &Path, how: How) -> Result<Rc<Object>, WalkError> {
    let walked = walk(path, how)?;
    match walked.missing.first() {
        None => Ok(walked.object),
        Some(name) => Err(WalkError::Io { path: walked.object.path.join(name), errno: Errno::NOENT }),
    }
}

/// The entry `name` of a directory, which must be no symbolic link.
///
/// # Errors
/// What `openat` says; `ELOOP` for a link.
pub fn child(directory: &Rc<Object>, name: &OsStr) -> Result<Rc<Object>, WalkError> {
    let uid = rustix::process::getuid().as_raw();
    let walker = Walker { uid, how: How::NoLinks, links: Vec::new(), todo: VecDeque::new() };
    let path = directory.path.join(name);
    let found = walker.open(directory, name, path.clone())?;
    if found.kind() == FileType::Symlink { Err(WalkError::Link { path }) } else { Ok(found) }
}

struct Walker {
    uid: u32,
    how: How,
    links: Vec<Link>,
    todo: VecDeque<OsString>,
}

impl Walker {
    fn go(mut self, absolute: &Path) -> Result<Walked, WalkError> {
        let mut at = self.root()?;
        while let Some(name) = self.todo.pop_front() {
            if name == ".." {
                at = at.parent.clone().unwrap_or(at);
                continue;
            }
            let path = at.path.join(&name);
            if !at.is_dir() {
                return Err(WalkError::Io { path, errno: Errno::NOTDIR });
            }
            let next = match FOUND.with_borrow(|found| found.get(&path)) {
                Some(known) => known,
                None => match self.open(&at, &name, path.clone()) {
                    Err(WalkError::Io { errno: Errno::NOENT, .. }) => return self.missing(at, name),
                    other => other?,
                },
            };
            if next.kind() == FileType::Symlink {
                at = self.follow(next, absolute)?;
                continue;
            }
            if self.how == How::Trusted
                && let Some((path, flaw)) = &next.flaw
            {
                return Err(WalkError::Untrusted { path: path.clone(), flaw: flaw.clone() });
            }
            at = next;
        }
        // On the way a sticky bit suffices, but whoever may add entries decides what a directory holds.
        if self.how == How::Trusted
            && let Some(flaw) = at.own_flaw(self.uid)
        {
            return Err(WalkError::Untrusted { path: at.path.clone(), flaw });
        }
        Ok(Walked { object: at, missing: Vec::new(), links: self.links })
    }

    fn missing(self, at: Rc<Object>, first: OsString) -> Result<Walked, WalkError> {
        let mut missing = vec![first];
        for name in self.todo {
            if name == ".." {
                if missing.pop().is_none() {
                    return Err(WalkError::Io { path: at.path.clone(), errno: Errno::NOENT });
                }
            } else {
                missing.push(name);
            }
        }
        Ok(Walked { object: at, missing, links: self.links })
    }

    fn root(&self) -> Result<Rc<Object>, WalkError> {
        let path = Path::new("/");
        if let Some(known) = FOUND.with_borrow(|found| found.get(path)) {
            return Ok(known);
        }
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty())?;
            let stat = fstat(&fd)?;
            Ok((fd, stat))
        };
        let (fd, stat) = open().map_err(|errno| WalkError::Io { path: path.to_owned(), errno })?;
        Ok(keep(self.object(fd, path.to_owned(), stat, None)))
    }

    fn open(&self, parent: &Rc<Object>, name: &OsStr, path: PathBuf) -> Result<Rc<Object>, WalkError> {
        let open = || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(&parent.fd, name, flags, Mode::empty())?;
            let stat = fstat(&fd)?;
            Ok((fd, stat))
        };
        let (fd, stat) = open().map_err(|errno| WalkError::Io { path: path.clone(), errno })?;
        let expected = FOUND.with_borrow(|found| found.expected.get(path.as_os_str()).copied());
        if expected.is_some_and(|expected| expected != Id::of(&stat)) {
            return Err(WalkError::Io { path, errno: Errno::STALE });
        }
        let object = self.object(fd, path, stat, Some(Rc::clone(parent)));
        Ok(if object.is_dir() { keep(object) } else { object })
    }

    /// With what somebody else could do to it.
    fn object(&self, fd: OwnedFd, path: PathBuf, stat: Stat, parent: Option<Rc<Object>>) -> Rc<Object> {
        let crossed = parent.as_ref().is_none_or(|parent| parent.stat.st_dev != stat.st_dev);
        let fuse = if crossed { foreign_fuse(&fd, self.uid) } else { parent.as_ref().and_then(|p| p.fuse.clone()) };
        let above = parent.as_ref().and_then(|parent| parent.flaw.clone());
        let flaw = above.or_else(|| {
            let own = if is_root_sticky(&stat) { None } else { object_flaw(&stat, self.uid) };
            Some((path.clone(), fuse.clone().or(own)?))
        });
        Rc::new(Object { fd, path, stat, parent, flaw, fuse })
    }

    /// Where a link leads on from.
    fn follow(&mut self, link: Rc<Object>, absolute: &Path) -> Result<Rc<Object>, WalkError> {
        let path = link.path.clone();
        if self.how == How::NoLinks {
            return Err(WalkError::Link { path });
        }
        // The flaw of a link is its own owner, or what lies above it.
        let flaw = match self.how {
            How::AnyLinks => None,
            How::RootLinks => link.flaw_but_for(0),
            _ => link.flaw.clone(),
        };
        if let Some((by, flaw)) = flaw {
            return Err(match self.how {
                How::Trusted => WalkError::Untrusted { path: by, flaw },
                _ => WalkError::UnsafeLink { path, by, flaw },
            });
        }
        if self.links.len() == MAX_LINKS {
            return Err(WalkError::Io { path: absolute.to_owned(), errno: Errno::LOOP });
        }
        let target =
            readlinkat(&link.fd, "", Vec::new()).map_err(|errno| WalkError::Io { path: path.clone(), errno })?;
        let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
        for part in components(&target).into_iter().rev() {
            self.todo.push_front(part);
        }
        let parent = link.parent.clone().unwrap_or_else(|| Rc::clone(&link));
        let on = if target.is_absolute() { self.root()? } else { Rc::clone(&parent) };
        self.links.push(Link { parent, path, target, id: link.id() });
        Ok(on)
    }
}

/// The normal components and `..`, in order.
fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect()
}

fn keep(object: Rc<Object>) -> Rc<Object> {
    FOUND.with_borrow_mut(|found| {
        if found.kept.len() < MAX_KEPT {
            found.kept.insert(object.path.clone().into(), Rc::clone(&object));
        }
    });
    object
}

/// A directory in which others may add entries, but not exchange those of others.
fn is_root_sticky(stat: &Stat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o1000 != 0 && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Who besides root and `user` could put things into a directory. Whom a user lets write has been let; where root's own is
/// lent nobody else may.
fn placing_flaw(stat: &Stat, user: u32) -> Option<Flaw> {
    object_flaw(stat, user).filter(|flaw| user == 0 || !matches!(flaw, Flaw::Mode { .. }))
}

/// Who besides root and `uid` could change the object. POSIX ACLs need no reading of their own: the group bits of a file
/// with an ACL are the ACL's mask (acl(5)), so an entry can grant writing only where they show it.
///
/// Of sockets, pipes and devices nothing is said: whoever goes by a file refuses them for what they are.
pub(crate) fn object_flaw(stat: &Stat, uid: u32) -> Option<Flaw> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let link = kind == FileType::Symlink;
    if !link && !matches!(kind, FileType::Directory | FileType::RegularFile) {
        return None;
    }
    if stat.st_uid != 0 && stat.st_uid != uid {
        return Some(Flaw::Owner { uid: stat.st_uid, link });
    }
    // A link has no permissions of its own.
    (!link && stat.st_mode & 0o022 != 0).then_some(Flaw::Mode { mode: stat.st_mode & 0o7777, gid: stat.st_gid })
}

/// Whether the object's file system is a process of somebody other than root and `uid`.
fn foreign_fuse(fd: &OwnedFd, uid: u32) -> Option<Flaw> {
    let fuse = rustix::fs::fstatfs(fd).map_or(true, |system| system.f_type == FUSE);
    if !fuse {
        return None;
    }
    let owner = crate::mounts::of(fd.as_fd()).ok().and_then(|mount| mount.fuse_user());
    (owner != Some(0) && owner != Some(uid)).then_some(Flaw::Fuse { uid: owner })
}
