//! Which directories and files calls were allowed to write, recorded in the state directory before they are granted.
//!
//! `/var/lib/upm/writable` for root, which everyone may read, and `$XDG_STATE_HOME/upm/writable` (else below
//! `~/.local/state`) for a user. A record is a symbolic link (see `config::planted`), so that none can be half written, two
//! calls at once need no lock, and to know one that is there costs one `readlink`.

use crate::config;
use crate::confine::step::{Step, StepError};
use crate::confine::trees::Tree;
use crate::decide::plan::{Plan, Source};
use crate::mounts::Table;
use crate::quote::{shell, shorten};
use crate::types::{Cause, Code, Details, Failure, Layer};
use crate::walk::{self, How};
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Records at most. Then those whose path no longer leads to their object are dropped.
const MAX_RECORDS: usize = 16_384;
/// Bytes of a link's target: what `PATH_MAX` leaves.
const MAX_TARGET: usize = 4095;

/// `f_type` of overlayfs (statfs(2)).
const OVERLAYFS: i64 = 0x794c_7630;

/// The records of this user, open to be added to.
pub struct Writable {
    path: PathBuf,
    dir: OwnedFd,
    most: usize,
    /// Where the same is recorded for a search that has other variables.
    others: Vec<Writable>,
}

impl Writable {
    /// Opens the records, making what is missing of their directory. Everything on the way is checked for who could
    /// change it.
    ///
    /// # Errors
    /// `sandbox_unavailable`: there is none, or it cannot be made, or others could change it.
    pub fn open() -> Result<Writable, Failure> {
        let path = place()?;
        let dir = open(&path).map_err(|why| unusable(&path, &why))?;
        // One that cannot be had is none that a search would find records in: whoever has such a HOME makes none there.
        let others = places().into_iter().skip(1).filter_map(|path| {
            let dir = open(&path).ok()?;
            Some(Writable { dir, path, most: MAX_RECORDS, others: Vec::new() })
        });
        Ok(Writable { dir, path, most: MAX_RECORDS, others: others.collect() })
    }

    /// Records every path of the host that the plan grants to be written, as it was opened, and what is mounted below.
    ///
    /// # Errors
    /// `sandbox_unavailable`: a record could not be stored.
    pub fn record(&self, plan: &Plan, trees: &[Tree]) -> Result<(), Failure> {
        let mounts = Table::read().map_err(|error| self.fail(&format!("/proc/self/mountinfo: {error}")))?;
        for tree in trees {
            let granted = &plan.mounts[tree.index];
            if !is_writable(granted) {
                continue;
            }
            self.add(tree.object.fd(), &granted.path)?;
            for mount in mounts.below(&granted.path).filter(|_| tree.directory) {
                match walk::find(mount.point(), How::NoLinks) {
                    Ok(object) => self.add(object.fd(), mount.point())?,
                    Err(error) => match error.errno() {
                        // Another mount hides it.
                        Errno::NOENT | Errno::NOTDIR => {}
                        errno => return Err(self.fail(&format!("{}: {errno}", mount.point().display()))),
                    },
                }
            }
        }
        Ok(())
    }

    /// Adds one record everywhere, unless it is there.
    fn add(&self, object: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
        self.others.iter().try_for_each(|other| other.add(object, path))?;
        let stored = || -> Result<(), Errno> {
            copy_up(object)?;
            let key = config::record_key(object)?;
            match rustix::fs::readlinkat(&self.dir, &key, Vec::new()) {
                Err(Errno::NOENT) => {}
                other => return other.map(drop),
            }
            self.make_room()?;
            let device = rustix::fs::fstat(object)?.st_dev;
            let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
            let mut target = format!("{major}:{minor} ").into_bytes();
            target.extend(path.as_os_str().as_bytes());
            target.truncate(MAX_TARGET);
            let target = CString::new(target).map_err(|_| Errno::INVAL)?;
            match rustix::fs::symlinkat(&target, &self.dir, &key) {
                // Another call was quicker.
                Err(Errno::EXIST) => Ok(()),
                other => other,
            }?;
            rustix::fs::fsync(&self.dir)
        };
        stored().map_err(|errno| match errno {
            Errno::DQUOT => self.fail(&format!(
                "it holds {} records of paths that are all there; remove (rm) those of paths where no plugin wrote",
                self.most
            )),
            // No directory refuses so: it is the system call.
            Errno::NOSYS | Errno::PERM => {
                StepError::new(Step::Prepare, format!("the record of {}", path.display()), errno).into()
            }
            errno => self.fail(&format!("{} cannot be recorded: {errno}", shorten(&path.to_string_lossy(), 400))),
        })
    }

    /// Where there are too many, drops records whose path leads to something else by now, or to nothing; `EDQUOT` where
    /// that is not enough.
    fn make_room(&self) -> Result<(), Errno> {
        let all = self.all()?;
        if all.len() < self.most {
            return Ok(());
        }
        let mut left = all.len();
        for key in all {
            let target = rustix::fs::readlinkat(&self.dir, &key, Vec::new())?;
            let found = walk::find(&config::granted(target.as_bytes()), How::NoLinks).map_err(|error| error.errno());
            let gone = match found.and_then(|object| config::record_key(object.fd())) {
                Ok(now) => now.as_bytes() != key.as_bytes(),
                Err(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
            };
            if gone {
                match rustix::fs::unlinkat(&self.dir, &key, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => left -= 1,
                    Err(errno) => return Err(errno),
                }
            }
        }
        if left < self.most { Ok(()) } else { Err(Errno::DQUOT) }
    }

    fn all(&self) -> Result<Vec<CString>, Errno> {
        let names = Dir::read_from(&self.dir)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        names.filter(|name| !matches!(name.as_ref().map(|name| name.to_bytes()), Ok(b"." | b".."))).collect()
    }

    fn fail(&self, why: &str) -> Failure {
        unusable(&self.path, why)
    }
}

/// Has overlayfs make its own copy of what only a lower layer has: it does so when something is first written there, and the
/// copy has another time of birth than what was recorded. To change the owner to nobody changes nothing else, and anyone may.
fn copy_up(object: BorrowedFd<'_>) -> Result<(), Errno> {
    if rustix::fs::fstatfs(object)?.f_type != OVERLAYFS {
        return Ok(());
    }
    match rustix::fs::chownat(object, "", None, None, AtFlags::EMPTY_PATH) {
        // Then no plugin writes there either.
        Err(Errno::ROFS) => Ok(()),
        other => other,
    }
}

/// Whether the plan has anything of the host that a plugin may write: then the call needs [`Writable`].
#[must_use]
pub fn is_needed(plan: &Plan) -> bool {
    plan.mounts.iter().any(is_writable)
}

fn is_writable(mount: &crate::decide::plan::Mount) -> bool {
    mount.write && matches!(mount.source, Source::Host { .. })
}

/// Where records are, or would be, and whether they could be made there. Nothing is made.
///
/// # Errors
/// As of [`Writable::open`].
pub fn look() -> Result<PathBuf, Failure> {
    let path = place()?;
    let there = path.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(&path);
    config::check_trusted(there).map_err(|error| unusable(&path, &error.to_string()))?;
    rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|errno| unusable(&path, &format!("{}: nothing can be made there: {errno}", there.display())))?;
    Ok(path)
}

/// Where records are made: the first place must take them.
fn places() -> Vec<PathBuf> {
    config::record_dirs(rustix::process::getuid().is_root(), &|name| std::env::var_os(name))
}

fn place() -> Result<PathBuf, Failure> {
    let mut dirs = places();
    if dirs.is_empty() {
        let why = "neither XDG_STATE_HOME nor HOME says where, and the user database knows no home directory";
        return Err(unusable(Path::new("the record of writable paths"), why));
    }
    Ok(dirs.swap_remove(0))
}

/// Opens the directory, and makes what is missing. Root's is for everyone to read, whatever the umask: whoever works in
/// a directory that root's calls may write must be able to know.
fn open(path: &Path) -> Result<OwnedFd, String> {
    let there = path.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    let mode = if rustix::process::getuid().is_root() { 0o755 } else { 0o700 };
    let mut dir: OwnedFd = config::check_trusted(there).map_err(|error| error.to_string())?.file.into();
    let missing = path.strip_prefix(there).map_err(|error| error.to_string())?;
    for name in missing {
        let fail = |errno: Errno| format!("{}: {errno}", name.display());
        match rustix::fs::mkdirat(&dir, name, Mode::from_raw_mode(mode)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(fail(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        dir = rustix::fs::openat(&dir, name, flags, Mode::empty()).map_err(fail)?;
        rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode)).map_err(fail)?;
    }
    Ok(dir)
}

fn unusable(path: &Path, why: &str) -> Failure {
    let remedy = match path.ancestors().nth(1).filter(|_| path.is_absolute()) {
        Some(above) => {
            let other =
                if rustix::process::getuid().is_root() { "" } else { ", or set HOME or XDG_STATE_HOME to another" };
            format!("let {} be a directory that only you can write, with room in it{other}", shell(above))
        }
        None => "set HOME".to_owned(),
    };
    Failure::new(
        Code::SandboxUnavailable,
        format!(
            "{}: which paths plugins may write must be on record here before a call may write them, and cannot be: {why}; {remedy}",
            path.display()
        ),
    )
    .with(Details::Layer { layer: Layer::Root, cause: Some(Cause::Path(Details::path(path))), remedy: Some(remedy) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(dir: &Path, most: usize) -> Writable {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Writable {
            path: dir.to_owned(),
            dir: rustix::fs::open(dir, flags, Mode::empty()).unwrap(),
            most,
            others: Vec::new(),
        }
    }

    fn add(state: &Writable, path: &Path) -> Result<(), Failure> {
        crate::walk::forget();
        state.add(walk::find(path, How::NoLinks).unwrap().fd(), path)
    }

    #[test]
    fn the_same_object_is_recorded_once_whoever_asks() {
        let dir = tempfile::tempdir().unwrap();
        let (records, object) = (dir.path().join("records"), dir.path().join("object"));
        std::fs::create_dir(&records).unwrap();
        std::fs::create_dir(&object).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        add(&state(&records, 10), &object).unwrap();
                    }
                });
            }
        });
        let all: Vec<_> = std::fs::read_dir(&records).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(all.len(), 1);
        let target = std::fs::read_link(&all[0]).unwrap();
        assert_eq!(config::granted(target.as_os_str().as_bytes()), object);
    }

    #[test]
    fn records_of_what_is_gone_make_room_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("records");
        std::fs::create_dir(&records).unwrap();
        let state = state(&records, 3);
        let objects: Vec<PathBuf> = (0..5).map(|number| dir.path().join(number.to_string())).collect();
        objects.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        for path in &objects[..3] {
            add(&state, path).unwrap();
        }
        let full = add(&state, &objects[3]).unwrap_err();
        assert_eq!(full.code, Code::SandboxUnavailable);
        assert!(full.message.contains("3 records"), "{}", full.message);
        add(&state, &objects[0]).unwrap();
        std::fs::remove_dir(&objects[1]).unwrap();
        add(&state, &objects[3]).unwrap();
        assert!(add(&state, &objects[4]).is_err());
        let mut kept: Vec<PathBuf> = std::fs::read_dir(&records)
            .unwrap()
            .map(|entry| config::granted(std::fs::read_link(entry.unwrap().path()).unwrap().as_os_str().as_bytes()))
            .collect();
        kept.sort();
        assert_eq!(kept, [objects[0].clone(), objects[2].clone(), objects[3].clone()]);
    }
}
