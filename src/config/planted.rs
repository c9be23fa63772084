//! Whether a configuration that was found, not named, is where a call could have written it.
//!
//! Before a call gets write access to a directory or file, its identity is recorded in the state directory (`host::writable`).
//! A record is a symbolic link: its name identifies the object, its target contains the time and the granted path. Reading one
//! is one `readlink`, and creating one is atomic. An object is identified by its inode number and its birth time, which
//! nobody can set: inode numbers of removed directories are reused, and device numbers change between boots. If its
//! file system has no birth times, it is identified by its inode number and what is mounted, and by its path.
//!
//! A configuration counts as planted if it, a directory or link on the way to it, or a directory above it is recorded. The
//! directories above are found by `..` from descriptors and, if a mount shows only a part of a file system, in the mounts
//! that contain this part.
//!
//! Plugins of other calls may rename and write meanwhile. The result is still correct: a plugin can change only what is in a
//! recorded directory. The way up from there passes that directory before `/`, whatever is renamed; the way down passes it
//! before any name that a plugin could change; and the file is read before the records, so that a call that is recorded
//! later cannot have written what was read.
#![forbid(unsafe_code)]

use super::error::{ConfigError, ConfigErrorKind};
use crate::mounts::Table;
use crate::text::{shell, shorten};
use crate::walk::{self, How};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// root's state directory, which all users may enter.
const ROOT_STATE: &str = "/var/lib/upm";
/// The records' directory in a state directory.
const RECORDS: &str = "writable";
/// Links to follow before a path counts as a loop; the kernel's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;
/// Limit for the directories to check for one configuration, counting those met again after a rename. A path has at most
/// 4096 bytes, and so about 2000 directories.
const MAX_LOOKS: usize = 10_000;
/// Opens without read access.
const LOOK: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The parents of a user's state directories: `XDG_STATE_HOME`, and `.local/state` of `HOME`. An empty or relative variable
/// counts as unset (XDG base directory specification).
fn state_homes(env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let variable = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    [variable("XDG_STATE_HOME"), variable("HOME").map(of_home)].into_iter().flatten().collect()
}

fn of_home(home: PathBuf) -> PathBuf {
    home.join(".local/state")
}

/// The audit file if the configuration names none: `/var/log/upm/audit.jsonl` for root, else `upm/audit.jsonl` below
/// `XDG_STATE_HOME` or `~/.local/state`. `None` for a user without `XDG_STATE_HOME` and `HOME`.
pub fn default_audit_file(is_root: bool, env: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if is_root {
        return Some(PathBuf::from("/var/log/upm/audit.jsonl"));
    }
    state_homes(env).first().map(|state| state.join("upm/audit.jsonl"))
}

/// The state directories: root's for root; for a user those of `XDG_STATE_HOME` and `HOME`, or, if both are unset, that of
/// the user database.
pub fn state_dirs(is_root: bool, env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    if is_root {
        return vec![PathBuf::from(ROOT_STATE)];
    }
    let mut bases = state_homes(env);
    bases.dedup();
    if bases.is_empty() {
        let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
        bases.extend(user.map(|user| of_home(user.dir)));
    }
    bases.iter().map(|base| base.join("upm")).collect()
}

/// The record directories, one in each state directory. A user's records are created and searched in all of them, because
/// the variables of a login and a timer differ; creating them in the first must succeed.
pub fn record_dirs(is_root: bool, env: &dyn Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    state_dirs(is_root, env).iter().map(|dir| dir.join(RECORDS)).collect()
}

/// Identifies an object in a mount: `..` of `/` leads to itself.
type Place = (u64, u64, u32, u32);

/// What identifies an object, and its mount if it is the root of one.
struct Identity {
    keys: Vec<String>,
    place: Place,
    /// The mount, if it is the root of one.
    mount: Option<u64>,
}

fn identity(object: BorrowedFd<'_>) -> Result<Identity, Errno> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME | StatxFlags::MNT_ID;
    let stat = rustix::fs::statx(object, "", AtFlags::EMPTY_PATH, wanted)?;
    let born = stat.stx_btime;
    let known = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::BTIME) && born.tv_sec != 0;
    let keys = if known {
        vec![format!("{}-{}.{:09}", stat.stx_ino, born.tv_sec, born.tv_nsec)]
    } else {
        unborn_keys(object, stat.stx_ino)?
    };
    let is_mount = stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT);
    Ok(Identity {
        keys,
        place: (stat.stx_mnt_id, stat.stx_ino, stat.stx_dev_major, stat.stx_dev_minor),
        mount: is_mount.then_some(stat.stx_mnt_id),
    })
}

/// For a file system without birth times (NFS, FUSE). Its device number changes with each mount, and inode numbers of FUSE may
/// change too: one key is the inode number with the mounted source, at any mount point; the other is the path.
fn unborn_keys(object: BorrowedFd<'_>, inode: u64) -> Result<Vec<String>, Errno> {
    let io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mount = crate::mounts::of(object).map_err(io)?;
    let link = format!("/proc/self/fd/{}", object.as_raw_fd());
    let path = rustix::fs::readlinkat(rustix::fs::CWD, link, Vec::new())?;
    let mounted = [mount.file_system(), b"\0", mount.source()].concat();
    Ok(vec![
        format!("{inode}-of-{:.32}", crate::types::sha256_hex(&mounted)),
        format!("path-{:.32}", crate::types::sha256_hex(path.as_bytes())),
    ])
}

/// The names of an object's records: one, or two if its file system has no birth times.
///
/// # Errors
/// Those of `statx(2)`; the object's mount is unknown.
pub fn record_keys(object: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    identity(object).map(|identity| identity.keys)
}

/// Refuses `path`, found by the search and just read, if a call could have written it. A path that does not exist is accepted.
pub(super) fn refuse(path: &Path, env: &dyn Fn(&str) -> Option<OsString>, is_root: bool) -> Result<(), ConfigError> {
    let io = |errno: Errno| {
        if errno == Errno::ACCESS && !is_root && roots_are_closed() {
            return closed(path);
        }
        let message = format!(
            "cannot determine whether plugins may write here: {}; name the configuration with --config",
            std::io::Error::from(errno)
        );
        ConfigError::new(ConfigErrorKind::Io, path, message)
    };
    refuse_shared(path)?;
    let mut search = Search::new(env, is_root).map_err(io)?;
    if search.records.is_empty() {
        return Ok(());
    }
    match search.whole(path).map_err(io)? {
        None => Ok(()),
        Some(record) => Err(planted(path, &record)),
    }
}

/// Whether this user cannot access root's records.
fn roots_are_closed() -> bool {
    let records = Path::new(ROOT_STATE).join(RECORDS);
    rustix::fs::access(&records, rustix::fs::Access::EXEC_OK) == Err(Errno::ACCESS)
}

/// The error if root's records are not accessible: without them, what root's calls may write is unknown.
fn closed(path: &Path) -> ConfigError {
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    ConfigError::new(
        ConfigErrorKind::Io,
        path,
        format!(
            "was found, not named, and root's record of what its calls may write ({ROOT_STATE}/{RECORDS}) is not accessible; \
             run as root: chmod a+x {ROOT_STATE} {ROOT_STATE}/{RECORDS}; or name the configuration: --config {} \
             (or UPM_CONFIG_PATH)",
            shell(&named)
        ),
    )
}

/// Refuses `path` if it, or a link to it, is directly in a directory such as `/tmp`. Users cannot replace each other's files
/// there. But a user who has another user's file in his own directory, such as one that a plugin of that user wrote, or root's
/// log, can move it there.
fn refuse_shared(path: &Path) -> Result<(), ConfigError> {
    // If the walk fails, the read fails too, with a better error.
    let Ok(walked) = walk::walk(path, How::Trusted) else { return Ok(()) };
    let uid = nix::unistd::getuid().as_raw();
    let looked_in = walked.links.iter().map(|link| &link.parent).chain(walked.object.parent());
    let Some(shared) = looked_in.into_iter().find(|parent| parent.own_flaw(uid).is_some()) else { return Ok(()) };
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Err(ConfigError::new(
        ConfigErrorKind::Untrusted,
        path,
        format!(
            "was found, not named, and is in {}, where other users can put files; it is not used. Read it, then name it: \
             --config {} (or UPM_CONFIG_PATH), or call upm in another directory",
            shell(shared.path()),
            shell(&named)
        ),
    ))
}

/// The error of a planted configuration.
fn planted(path: &Path, record: &Record) -> ConfigError {
    let named = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let granted = shorten(&record.granted, 4096);
    ConfigError::new(
        ConfigErrorKind::Untrusted,
        path,
        format!(
            "was found, not named, and is where plugins may write ({granted}, recorded in {}), so a plugin may have \
             written it; it is not used. Read it, then name it: --config {} (or UPM_CONFIG_PATH), or call upm in another directory",
            shell(&record.file),
            shell(&named)
        ),
    )
}

/// A record that was found.
struct Record {
    /// The link.
    file: PathBuf,
    /// The granted path in the record.
    granted: PathBuf,
}

/// A search for records of the directories on the way to a configuration, and above it.
struct Search {
    records: Vec<(PathBuf, OwnedFd)>,
    mounts: Option<Table>,
    /// Directories with no record between them and `/`.
    clear: HashSet<Place>,
    /// Mounts whose surroundings are already checked, or being checked.
    around: HashSet<u64>,
    looks: usize,
}

impl Search {
    fn new(env: &dyn Fn(&str) -> Option<OsString>, is_root: bool) -> Result<Self, Errno> {
        let mut dirs = record_dirs(true, env);
        if !is_root {
            dirs.extend(record_dirs(false, env));
        }
        let mut records = Vec::new();
        for (number, dir) in dirs.into_iter().enumerate() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            match rustix::fs::open(&dir, flags, Mode::empty()) {
                Ok(fd) => records.push((dir, fd)),
                // No records exist.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                // A variable that leads to another user's home, where this user has no records.
                Err(Errno::ACCESS) if number > 0 => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Search { records, mounts: None, clear: HashSet::new(), around: HashSet::new(), looks: 0 })
    }

    /// Checks each directory that a name of `path` is looked up in, each link's target, the file, and all directories above.
    fn whole(&mut self, path: &Path) -> Result<Option<Record>, Errno> {
        let top = || rustix::fs::open("/", LOOK | OFlags::DIRECTORY, Mode::empty());
        let mut here = if path.is_absolute() { top()? } else { rustix::fs::open(".", LOOK, Mode::empty())? };
        let mut todo = Vec::new();
        push(&mut todo, path);
        let mut links = 0;
        loop {
            if let Some(record) = self.upwards(here.as_fd())? {
                return Ok(Some(record));
            }
            let Some(name) = todo.pop() else { return Ok(None) };
            let next = match rustix::fs::openat(&here, &name, LOOK, Mode::empty()) {
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                other => other?,
            };
            match FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode) {
                FileType::Symlink => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let target = rustix::fs::readlinkat(&next, "", Vec::new())?;
                    let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                    if target.is_absolute() {
                        here = top()?;
                    }
                    push(&mut todo, &target);
                }
                FileType::Directory => here = next,
                _ => return self.here(&identity(next.as_fd())?),
            }
        }
    }

    /// Checks this directory and each above it, up to this process's root.
    fn upwards(&mut self, from: BorrowedFd<'_>) -> Result<Option<Record>, Errno> {
        let mut here = rustix::io::fcntl_dupfd_cloexec(from, 3)?;
        let mut is = identity(here.as_fd())?;
        let mut passed = Vec::new();
        // A directory that is met again before `/` was moved meanwhile; the way up continues.
        while !self.clear.contains(&is.place) {
            self.looks += 1;
            if self.looks > MAX_LOOKS {
                return Err(Errno::NAMETOOLONG);
            }
            if let Some(record) = self.here(&is)? {
                return Ok(Some(record));
            }
            passed.push(is.place);
            here = rustix::fs::openat(&here, "..", LOOK | OFlags::DIRECTORY, Mode::empty())?;
            let above = identity(here.as_fd())?;
            if above.place == is.place {
                break;
            }
            is = above;
        }
        self.clear.extend(passed);
        Ok(None)
    }

    /// Checks the object itself and, if it is a mount's root, what contains that.
    fn here(&mut self, object: &Identity) -> Result<Option<Record>, Errno> {
        match (self.record(object)?, object.mount) {
            (None, Some(mount)) => self.around(mount),
            (record, _) => Ok(record),
        }
    }

    /// Checks what contains a mount's root: if it shows a part of a file system, another mount may show more of it. The way
    /// down from there checks each directory before it looks up a name in it. Where it ends does not matter: a plugin can move
    /// that, but not the directory that it may write to.
    fn around(&mut self, mount: u64) -> Result<Option<Record>, Errno> {
        if !self.around.insert(mount) {
            return Ok(None);
        }
        if self.mounts.is_none() {
            self.mounts = Some(Table::read().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?);
        }
        let wider = self.mounts.as_ref().map_or_else(Vec::new, |table| table.wider(mount));
        for path in wider {
            if let Some(record) = self.whole(&path)? {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    fn record(&self, object: &Identity) -> Result<Option<Record>, Errno> {
        for (dir, fd) in &self.records {
            for key in &object.keys {
                match rustix::fs::readlinkat(fd, key, Vec::new()) {
                    Ok(target) => {
                        return Ok(Some(Record { file: dir.join(key), granted: granted(target.as_bytes()) }));
                    }
                    Err(Errno::NOENT) => {}
                    // As in `new`.
                    Err(Errno::ACCESS) if !dir.starts_with(ROOT_STATE) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(None)
    }
}

/// The path in a record's target: `MAJOR:MINOR PATH`, or the service's `MAJOR:MINOR:CALLER PATH`.
pub fn granted(target: &[u8]) -> PathBuf {
    let at = target.iter().position(|byte| *byte == b' ').map_or(0, |space| space + 1);
    PathBuf::from(OsStr::from_bytes(&target[at..]))
}

fn push(todo: &mut Vec<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => todo.push(name.to_owned()),
            Component::ParentDir => todo.push("..".into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_one_name_and_another_object_another() {
        let dir = tempfile::tempdir().unwrap();
        let key = |path: &Path| {
            crate::walk::forget();
            record_keys(walk::find(path, How::NoLinks).unwrap().fd()).unwrap()
        };
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        std::fs::create_dir(&one).unwrap();
        std::fs::create_dir(&two).unwrap();
        let first = key(&one);
        assert_ne!(first, key(&two));
        let moved = dir.path().join("moved");
        std::fs::rename(&one, &moved).unwrap();
        assert_eq!(first, key(&moved), "a renamed object has the same key");
        std::fs::remove_dir(&moved).unwrap();
        // file times have the resolution of the kernel's tick
        std::thread::sleep(std::time::Duration::from_millis(20));
        std::fs::create_dir(&one).unwrap();
        assert_ne!(
            first,
            key(&one),
            "a new object at the same path, often with the same inode number, has another key"
        );
    }

    fn env(vars: &'static [(&'static str, &'static str)]) -> impl Fn(&str) -> Option<OsString> {
        move |name| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
    }

    #[test]
    fn the_default_audit_file_depends_on_the_user() {
        let file = |is_root, vars| default_audit_file(is_root, &env(vars));
        assert_eq!(file(true, &[("XDG_STATE_HOME", "/x")]), Some("/var/log/upm/audit.jsonl".into()));
        assert_eq!(file(false, &[("XDG_STATE_HOME", "/x"), ("HOME", "/h")]), Some("/x/upm/audit.jsonl".into()));
        let of_home = Some("/h/.local/state/upm/audit.jsonl".into());
        assert_eq!(file(false, &[("XDG_STATE_HOME", "x"), ("HOME", "/h")]), of_home);
        assert_eq!(file(false, &[("XDG_STATE_HOME", "")]), None);
    }

    #[test]
    fn where_records_are() {
        let dirs = |is_root, vars| record_dirs(is_root, &env(vars));
        assert_eq!(dirs(true, &[("HOME", "/x")]), [Path::new("/var/lib/upm/writable")]);
        let both = [Path::new("/s/upm/writable"), Path::new("/h/.local/state/upm/writable")];
        assert_eq!(dirs(false, &[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]), both);
        assert_eq!(dirs(false, &[("HOME", "/h"), ("XDG_STATE_HOME", "relative")]), both[1..]);
    }
}
