//! Who could change a file that the engine relies on.
//!
//! A path is walked from `/` ([`crate::walk`]), and nobody but root and the calling user may be able to write to an object
//! on the way. The file is read through the descriptor that was checked.

use super::error::{ConfigError, ConfigErrorKind};
use crate::text::shell;
use crate::walk::{self, Flaw, How, Object, WalkError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Limit for the entries of a plugin's package.
const MAX_TREE_ENTRIES: usize = 10_000;
/// Limit for the nesting of directories in a plugin's package.
const MAX_TREE_DEPTH: usize = 64;

/// A file or directory that only root and the calling user could change.
#[derive(Debug)]
pub struct Trusted {
    /// The object that was checked, open for reading.
    pub file: File,
    /// The same, as returned by the walk.
    pub object: Rc<Object>,
    /// Its path without symbolic links.
    pub real: PathBuf,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// The links that led to it, each with its target.
    pub links: Vec<(PathBuf, PathBuf)>,
}

/// Walks `path` (relative to the working directory) and opens it, if nobody but root and the calling user (real user
/// id) could change it: each directory on the way and the object itself belong to one of them, and neither group
/// nor others may write to them. Directories of root with the sticky bit are accepted on the way. Only regular files and
/// directories are accepted.
pub fn check_trusted(path: &Path) -> Result<Trusted, ConfigError> {
    let walked = walk::walk(path, How::Trusted).map_err(|error| error_of(path, error))?;
    if let Some(name) = walked.missing.first() {
        return Err(io_error(&walked.object.path().join(name), Errno::NOENT));
    }
    let object = walked.object;
    let is_dir = object.is_dir();
    if !is_dir && object.kind() != FileType::RegularFile {
        return Err(not_plain(object.path()));
    }
    let file = object.open().map_err(|errno| io_error(object.path(), errno))?;
    let links = walked.links.into_iter().map(|link| (link.path, link.target)).collect();
    Ok(Trusted { file: file.into(), real: object.path().to_owned(), is_dir, object, links })
}

/// [`check_trusted`] for a directory and everything in it, at most 10 000 entries: a plugin's package. Links in
/// it are followed and their targets are checked too; sockets, pipes and devices are refused.
pub fn check_trusted_tree(dir: &Path) -> Result<Trusted, ConfigError> {
    let uid = nix::unistd::getuid().as_raw();
    let trusted = check_trusted(dir)?;
    if trusted.is_dir {
        let mut left = MAX_TREE_ENTRIES;
        check_below(trusted.file.as_fd(), &trusted.real, uid, &mut left, MAX_TREE_DEPTH)?;
    }
    Ok(trusted)
}

/// The bytes of `path`, read through the descriptor that [`check_trusted`] returned. More than `limit` bytes are an error.
pub fn read_trusted(path: &Path, limit: u64) -> Result<(Trusted, Vec<u8>), ConfigError> {
    let mut trusted = check_trusted(path)?;
    if trusted.is_dir {
        return Err(ConfigError::new(ConfigErrorKind::Invalid, path, "is a directory; expected a file"));
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
        Errno::NOTDIR => ConfigError::new(ConfigErrorKind::NotFound, path, "is not in a directory"),
        Errno::INVAL => ConfigError::new(ConfigErrorKind::Invalid, path, "contains a NUL byte"),
        Errno::STALE => ConfigError::new(ConfigErrorKind::Io, path, "was replaced while it was opened; try again"),
        _ => ConfigError::new(ConfigErrorKind::Io, path, format!("cannot be opened: {}", std::io::Error::from(errno))),
    }
}

/// The error of a walk as a message with the fix. `named` is the path as it was given.
pub(crate) fn error_of(named: &Path, error: WalkError) -> ConfigError {
    match error {
        WalkError::Io { path, errno } => io_error(&path, errno),
        WalkError::Untrusted { path, flaw } => untrusted(&path, &flaw),
        WalkError::Link { path } => ConfigError::new(
            ConfigErrorKind::Untrusted,
            named,
            format!("the path contains a symbolic link, {}; name the path that it points to", path.display()),
        ),
        WalkError::UnsafeLink { path, by, flaw } => ConfigError::new(
            ConfigErrorKind::Untrusted,
            named,
            format!(
                "the symbolic link {} is not followed, because {} {}; name the path that it points to",
                path.display(),
                by.display(),
                who_could(&flaw)
            ),
        ),
    }
}

/// Why somebody else could have placed a link.
fn who_could(flaw: &Flaw) -> String {
    match flaw {
        Flaw::Owner { uid, .. } => format!("belongs to user {}", user(*uid)),
        Flaw::Mode { mode, .. } => format!("is writable by others (mode {mode:04o})"),
        Flaw::Fuse { uid } => format!("is on a file system controlled by {}", fuse_owner(*uid)),
    }
}

fn fuse_owner(uid: Option<u32>) -> String {
    uid.map_or_else(|| "another user".to_owned(), |uid| format!("user {}", user(uid)))
}

fn untrusted(path: &Path, flaw: &Flaw) -> ConfigError {
    let own = nix::unistd::getuid().as_raw();
    let message = match flaw {
        Flaw::Owner { uid, link } => {
            let link = if *link { "-h " } else { "" };
            format!(
                "belongs to user {}, who could change it, so it is not used; fix it with: chown {link}{own} {}",
                user(*uid),
                shell(path)
            )
        }
        Flaw::Mode { mode, gid } => {
            let (who, change) = match (mode & 0o020 != 0, mode & 0o002 != 0) {
                (true, false) => (format!("group {}", group(*gid)), "g-w"),
                (false, _) => ("everyone".to_owned(), "o-w"),
                (true, true) => (format!("group {} and everyone", group(*gid)), "go-w"),
            };
            format!(
                "is writable by {who} (mode {mode:04o}), so it is not used; fix it with: chmod {change} {}",
                shell(path)
            )
        }
        Flaw::Fuse { uid } => format!(
            "is on a FUSE file system controlled by {}, who could change it, so it is not used; copy it to \
             another file system",
            fuse_owner(*uid)
        ),
    };
    ConfigError::new(ConfigErrorKind::Untrusted, path, message)
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
            format!("is more than {MAX_TREE_DEPTH} directories deep in a plugin's package; use fewer levels"),
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
                    "brings the plugin's package to more than {MAX_TREE_ENTRIES} entries; make the package smaller"
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
                check_object(&here, &stat, uid)?;
                match check_trusted(&here) {
                    // a dangling link; nobody else may add entries there
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

fn check_object(path: &Path, stat: &rustix::fs::Stat, uid: u32) -> Result<(), ConfigError> {
    walk::object_flaw(stat, uid).map_or(Ok(()), |flaw| Err(untrusted(path, &flaw)))
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
