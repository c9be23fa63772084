//! Who could change a file that the engine goes by.
//!
//! A path is walked from `/` one component at a time, symbolic links by hand, and each object on the way must be
//! writable by root and the calling user alone. What was checked is what is read: the walk returns the descriptor.
//! POSIX ACLs need no reading of their own, for the group bits of a file with an ACL are the ACL's mask (acl(5)):
//! an entry can only grant writing when they show it.

use super::error::{ConfigError, ConfigErrorKind};
use crate::quote::shell;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// Links followed before a path counts as a loop; `MAXSYMLINKS` of the kernel.
const MAX_LINKS: usize = 40;
/// Entries of a plugin's package that are looked at.
const MAX_TREE_ENTRIES: usize = 10_000;
/// Directories below one another in a plugin's package.
const MAX_TREE_DEPTH: usize = 64;
/// Verified directories whose descriptors are kept.
const MAX_KEPT: usize = 64;

/// A file or directory that only root and the calling user could change.
#[derive(Debug)]
pub struct Trusted {
    /// The object that was checked, open for reading.
    pub file: File,
    /// Its path without symbolic links.
    pub real: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
}

#[derive(Debug, Clone)]
struct Dir {
    fd: Rc<OwnedFd>,
    path: PathBuf,
    /// One of root's sticky directories: entries of others are possible, but not exchanging an entry.
    sticky: bool,
}

thread_local! {
    /// Directories that this process has verified, so that the parents of the config, the schema, the plugin and the
    /// interpreter are walked once a call.
    static VERIFIED: RefCell<HashMap<PathBuf, Dir>> = RefCell::new(HashMap::new());
}

/// Forgets the directories verified so far and closes their descriptors. The next check walks from `/` again.
pub fn forget_verified() {
    VERIFIED.with_borrow_mut(HashMap::clear);
}

/// Walks `path` (relative to the working directory) and returns it opened, if root and the calling user (real user
/// id) alone could change it: each directory on the way and the object itself belong to one of them and neither group
/// nor others may write, but for directories of root with the sticky bit on the way. Only regular files and directories pass.
pub fn check_trusted(path: &Path) -> Result<Trusted, ConfigError> {
    check_trusted_as(path, rustix::process::getuid().as_raw())
}

/// [`check_trusted`] for a directory and everything below it, at most 10 000 entries: a plugin's package. Links below
/// it are followed to what they name, which is checked too; sockets, pipes and devices are refused.
pub fn check_trusted_tree(dir: &Path) -> Result<Trusted, ConfigError> {
    let uid = rustix::process::getuid().as_raw();
    let trusted = check_trusted_as(dir, uid)?;
    if trusted.is_dir {
        let mut left = MAX_TREE_ENTRIES;
        check_below(trusted.file.as_fd(), &trusted.real, uid, &mut left, MAX_TREE_DEPTH)?;
    }
    Ok(trusted)
}

/// The bytes of `path`, read through the descriptor that [`check_trusted`] returned; more than `limit` bytes is an error.
pub fn read_trusted(path: &Path, limit: u64) -> Result<(Trusted, Vec<u8>), ConfigError> {
    let mut trusted = check_trusted(path)?;
    if trusted.is_dir {
        return Err(ConfigError::new(ConfigErrorKind::Invalid, path, "is a directory; a file was expected"));
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut trusted.file)
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > limit {
        return Err(ConfigError::new(ConfigErrorKind::Invalid, path, format!("is longer than {limit} bytes")));
    }
    Ok((trusted, bytes))
}

fn io_error(path: &Path, errno: Errno) -> ConfigError {
    match errno {
        Errno::NOENT => ConfigError::new(ConfigErrorKind::NotFound, path, "does not exist"),
        Errno::NOTDIR => ConfigError::new(ConfigErrorKind::NotFound, path, "is not below a directory"),
        _ => ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be opened: {}", std::io::Error::from(errno))),
    }
}

fn check_trusted_as(path: &Path, uid: u32) -> Result<Trusted, ConfigError> {
    let absolute = if path.is_absolute() {
        path.to_owned()
    } else {
        std::env::current_dir()
            .map_err(|e| ConfigError::new(ConfigErrorKind::Io, path, format!("the working directory is gone: {e}")))?
            .join(path)
    };
    if absolute.as_os_str().as_bytes().contains(&0) {
        return Err(ConfigError::new(ConfigErrorKind::Invalid, path, "contains a NUL byte"));
    }
    let mut stack = vec![verified_root(uid)?];
    let mut todo: VecDeque<OsString> = components(&absolute);
    let mut links = 0;
    while let Some(name) = todo.pop_front() {
        if name == ".." {
            if stack.len() > 1 {
                stack.pop();
            }
            continue;
        }
        let parent = stack[stack.len() - 1].clone();
        let here = parent.path.join(&name);
        if let Some(dir) = VERIFIED.with_borrow(|kept| kept.get(&here).cloned()) {
            stack.push(dir);
            continue;
        }
        let fd = open(&parent, &name, OFlags::PATH).map_err(|errno| io_error(&here, errno))?;
        let stat = rustix::fs::fstat(&fd).map_err(|errno| io_error(&here, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => {
                check_owner(&here, &stat, uid)?;
                links += 1;
                if links > MAX_LINKS {
                    return Err(io_error(&absolute, Errno::LOOP));
                }
                let target = rustix::fs::readlinkat(&fd, "", Vec::new()).map_err(|errno| io_error(&here, errno))?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                if target.is_absolute() {
                    stack.truncate(1);
                }
                for part in components(&target).into_iter().rev() {
                    todo.push_front(part);
                }
            }
            FileType::Directory => {
                check_dir_on_way(&here, &stat, uid)?;
                stack.push(keep(Dir { fd: Rc::new(fd), path: here, sticky: is_root_sticky(&stat) }));
            }
            _ if !todo.is_empty() => return Err(io_error(&here, Errno::NOTDIR)),
            FileType::RegularFile => {
                check_object(&here, &stat, uid)?;
                let file =
                    open(&parent, &name, OFlags::RDONLY | OFlags::NONBLOCK).map_err(|errno| io_error(&here, errno))?;
                let opened = rustix::fs::fstat(&file).map_err(|errno| io_error(&here, errno))?;
                if (opened.st_dev, opened.st_ino) != (stat.st_dev, stat.st_ino) {
                    return Err(ConfigError::new(
                        ConfigErrorKind::Io,
                        &here,
                        "was exchanged while it was opened; try again",
                    ));
                }
                return Ok(Trusted { file: file.into(), real: here, is_dir: false });
            }
            _ => return Err(not_plain(&here)),
        }
    }
    let last = stack.pop().expect("the root is never popped");
    let fd = rustix::fs::openat(&*last.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| io_error(&last.path, errno))?;
    if last.sticky {
        // on the way the sticky bit suffices, but whoever may add entries decides what a directory holds
        let stat = rustix::fs::fstat(&fd).map_err(|errno| io_error(&last.path, errno))?;
        check_object(&last.path, &stat, uid)?;
    }
    Ok(Trusted { file: fd.into(), real: last.path, is_dir: true })
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

fn open(parent: &Dir, name: &OsStr, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(&*parent.fd, name, flags | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

fn verified_root(uid: u32) -> Result<Dir, ConfigError> {
    let path = Path::new("/");
    if let Some(dir) = VERIFIED.with_borrow(|kept| kept.get(path).cloned()) {
        return Ok(dir);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| io_error(path, errno))?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| io_error(path, errno))?;
    check_dir_on_way(path, &stat, uid)?;
    Ok(keep(Dir { fd: Rc::new(fd), path: path.to_owned(), sticky: is_root_sticky(&stat) }))
}

fn keep(dir: Dir) -> Dir {
    VERIFIED.with_borrow_mut(|kept| {
        if kept.len() < MAX_KEPT {
            kept.insert(dir.path.clone(), dir.clone());
        }
    });
    dir
}

fn check_below(
    dir: std::os::fd::BorrowedFd<'_>,
    path: &Path,
    uid: u32,
    left: &mut usize,
    depth: usize,
) -> Result<(), ConfigError> {
    if depth == 0 {
        return Err(ConfigError::new(
            ConfigErrorKind::Invalid,
            path,
            format!("lies more than {MAX_TREE_DEPTH} directories deep in a plugin; make the plugin flatter"),
        ));
    }
    let entries = rustix::fs::Dir::read_from(dir).map_err(|errno| io_error(path, errno))?;
    for entry in entries {
        let entry = entry.map_err(|errno| io_error(path, errno))?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let here = path.join(OsStr::from_bytes(name.to_bytes()));
        *left = left.checked_sub(1).ok_or_else(|| {
            ConfigError::new(
                ConfigErrorKind::Invalid,
                path,
                format!(
                    "holds more than {MAX_TREE_ENTRIES} entries with what is beside it; keep a plugin's package small"
                ),
            )
        })?;
        let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| io_error(&here, errno))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => check_object(&here, &stat, uid)?,
            FileType::Directory => {
                check_object(&here, &stat, uid)?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(dir, name, flags, Mode::empty()).map_err(|e| io_error(&here, e))?;
                check_below(below.as_fd(), &here, uid, left, depth - 1)?;
            }
            FileType::Symlink => {
                check_owner(&here, &stat, uid)?;
                match check_trusted_as(&here, uid) {
                    // a link to nowhere, below directories that no one else may add to
                    Err(error) if error.kind == ConfigErrorKind::NotFound => {}
                    other => drop(other?),
                }
            }
            _ => return Err(not_plain(&here)),
        }
    }
    Ok(())
}

fn not_plain(path: &Path) -> ConfigError {
    ConfigError::new(ConfigErrorKind::Invalid, path, "is neither a regular file nor a directory")
}

fn is_root_sticky(stat: &Stat) -> bool {
    stat.st_uid == 0 && stat.st_mode & 0o1000 != 0
}

fn check_owner(path: &Path, stat: &Stat, uid: u32) -> Result<(), ConfigError> {
    if stat.st_uid == 0 || stat.st_uid == uid {
        return Ok(());
    }
    let link = if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink { "-h " } else { "" };
    Err(ConfigError::new(
        ConfigErrorKind::Untrusted,
        path,
        format!(
            "belongs to user {}, who could change it, and is therefore not used; mend it with: chown {link}{uid} {}",
            user(stat.st_uid),
            shell(path)
        ),
    ))
}

fn check_dir_on_way(path: &Path, stat: &Stat, uid: u32) -> Result<(), ConfigError> {
    if is_root_sticky(stat) { Ok(()) } else { check_object(path, stat, uid) }
}

fn check_object(path: &Path, stat: &Stat, uid: u32) -> Result<(), ConfigError> {
    check_owner(path, stat, uid)?;
    let (who, mend) = match (stat.st_mode & 0o020 != 0, stat.st_mode & 0o002 != 0) {
        (false, false) => return Ok(()),
        (true, false) => (format!("group {}", group(stat.st_gid)), "g-w"),
        (false, true) => ("everyone".to_owned(), "o-w"),
        (true, true) => (format!("group {} and everyone", group(stat.st_gid)), "go-w"),
    };
    Err(ConfigError::new(
        ConfigErrorKind::Untrusted,
        path,
        format!(
            "may be written by {who} (mode {:04o}) and is therefore not used; mend it with: chmod {mend} {}",
            stat.st_mode & 0o7777,
            shell(path)
        ),
    ))
}

fn user(uid: u32) -> String {
    match nix::unistd::User::from_uid(uid.into()) {
        Ok(Some(user)) => format!("{} ({uid})", user.name),
        _ => uid.to_string(),
    }
}

fn group(gid: u32) -> String {
    match nix::unistd::Group::from_gid(gid.into()) {
        Ok(Some(group)) => format!("{} ({gid})", group.name),
        _ => gid.to_string(),
    }
}
