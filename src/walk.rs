//! Resolves a path of the configuration, a caller or a client to an object of the host: one walk from `/`.
//!
//! Each component is opened from the descriptor of its directory (`O_PATH`, `O_NOFOLLOW`), and its owner and mode are
//! checked. A symbolic link is followed only if nobody but root and the calling user could have placed it: after the first
//! directory that somebody else could change, no link is followed. The result is a descriptor with the identity (device
//! and inode) of each directory above it. All later checks, comparisons, hashes, reads, mounts and creations use that
//! descriptor: [`hold`] keeps it, and later walks of the same path in this call return it again.
//!
//! Neither `fs-mistrust` nor `pathrs` does this: `fs-mistrust` checks names and leaves the opening to its caller, `pathrs`
//! keeps a path inside a root and does not check who owns its links.
#![forbid(unsafe_code)]

mod flaw;
mod kept;
mod object;
mod places;

pub use flaw::Flaw;
pub(crate) use flaw::object_flaw;
pub use kept::{enter_namespace, forget, hold, owners_are_known};
pub use object::{Id, Object};

use rustix::fs::{FileType, Mode, OFlags, fstat, openat, readlinkat};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Links to follow before a path counts as a loop; the kernel's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

/// A symbolic link that a walk followed.
#[derive(Debug, Clone)]
pub struct Link {
    /// The directory that it is in.
    pub parent: Rc<Object>,
    /// Its path, with the links above it resolved.
    pub path: PathBuf,
    /// Its target.
    pub target: PathBuf,
    /// Its identity.
    pub id: Id,
}

/// The result of a walk.
#[derive(Debug, Clone)]
pub struct Walked {
    /// The object, or the last directory that exists.
    pub object: Rc<Object>,
    /// The components that do not exist, in order; empty if the whole path exists.
    pub missing: Vec<OsString>,
    /// The links that were followed, in order.
    pub links: Vec<Link>,
}

impl Walked {
    /// The path from `/` without symbolic links, including its missing components.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.missing.iter().fold(self.object.path.clone(), |path, name| path.join(name))
    }

    /// The object, if the whole path exists.
    #[must_use]
    pub fn whole(&self) -> Option<&Rc<Object>> {
        self.missing.is_empty().then_some(&self.object)
    }
}

/// Which links a walk follows, and which objects it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// No links. Directories may belong to anybody.
    NoLinks,
    /// Links that nobody but root and the calling user could have placed. Directories may belong to anybody.
    SafeLinks,
    /// All links: only for comparisons, never for what is opened for a plugin or relied on.
    AnyLinks,
    /// Links that nobody but root could have placed: a plugin in a user's call runs as that user and can place links too.
    RootLinks,
    /// As [`How::SafeLinks`]; also, nobody but root and the calling user may be able to change the object or a directory on the
    /// way. Directories of root with the sticky bit are accepted on the way.
    Trusted,
}

/// Why a walk failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalkError {
    /// An error of the operating system.
    Io {
        /// The component.
        path: PathBuf,
        /// The error.
        errno: Errno,
    },
    /// A link, with [`How::NoLinks`].
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
    /// An object that somebody else could change, with [`How::Trusted`].
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

    /// The error that opening the path without following links would return.
    #[must_use]
    pub fn errno(&self) -> Errno {
        match self {
            WalkError::Io { errno, .. } => *errno,
            WalkError::Link { .. } | WalkError::UnsafeLink { .. } => Errno::LOOP,
            WalkError::Untrusted { .. } => Errno::ACCESS,
        }
    }
}

/// Walks `path`, absolute or relative to the working directory, as far as it exists. `.` and doubled slashes are skipped;
/// `..` leads to the directory above, after resolving the links before it.
///
/// # Errors
/// A link that is not followed, an object that is not accepted, `ENOTDIR`, `EACCES`, `ELOOP`. A missing component is not an
/// error: see [`Walked::missing`].
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
    Walker { uid: nix::unistd::getuid().as_raw(), how, links: Vec::new(), todo: components(&absolute) }.go(&absolute)
}

/// The object that `path` leads to.
///
/// # Errors
/// As [`walk`]; `ENOENT` if it does not exist.
pub fn find(path: &Path, how: How) -> Result<Rc<Object>, WalkError> {
    let walked = walk(path, how)?;
    match walked.missing.first() {
        None => Ok(walked.object),
        Some(name) => Err(WalkError::Io { path: walked.object.path.join(name), errno: Errno::NOENT }),
    }
}

/// The entry `name` of a directory. It must not be a symbolic link.
///
/// # Errors
/// Those of `openat`; `ELOOP` for a link.
pub fn child(directory: &Rc<Object>, name: &OsStr) -> Result<Rc<Object>, WalkError> {
    let uid = nix::unistd::getuid().as_raw();
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
            let next = match kept::get(&path) {
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
            if let (How::Trusted, Some((path, flaw))) = (self.how, &next.flaw) {
                return Err(WalkError::Untrusted { path: path.clone(), flaw: flaw.clone() });
            }
            at = next;
        }
        // On the way a sticky bit is enough, but not in the object itself: others could add entries to it.
        if self.how == How::Trusted {
            if let Some(flaw) = at.own_flaw(self.uid) {
                return Err(WalkError::Untrusted { path: at.path.clone(), flaw });
            }
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
        if let Some(known) = kept::get(path) {
            return Ok(known);
        }
        let open = || {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let fd = rustix::fs::open(path, flags, Mode::empty())?;
            let stat = fstat(&fd)?;
            Ok((fd, stat))
        };
        let (fd, stat) = open().map_err(|errno| WalkError::Io { path: path.to_owned(), errno })?;
        Ok(kept::keep(Object::new(fd, path.to_owned(), stat, None, self.uid)))
    }

    fn open(&self, parent: &Rc<Object>, name: &OsStr, path: PathBuf) -> Result<Rc<Object>, WalkError> {
        let open = || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = openat(&parent.fd, name, flags, Mode::empty())?;
            let stat = fstat(&fd)?;
            Ok((fd, stat))
        };
        let (fd, stat) = open().map_err(|errno| WalkError::Io { path: path.clone(), errno })?;
        let expected = kept::expected(&path);
        if expected.is_some_and(|expected| expected != Id::of(&stat)) {
            return Err(WalkError::Io { path, errno: Errno::STALE });
        }
        let object = Object::new(fd, path, stat, Some(Rc::clone(parent)), self.uid);
        Ok(if object.is_dir() { kept::keep(object) } else { object })
    }

    /// Follows a link: the directory from which the walk continues.
    fn follow(&mut self, link: Rc<Object>, absolute: &Path) -> Result<Rc<Object>, WalkError> {
        let path = link.path.clone();
        if self.how == How::NoLinks {
            return Err(WalkError::Link { path });
        }
        // The flaw of a link is its owner, or a flaw of a directory above it.
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
