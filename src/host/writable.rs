//! Records which directories and files calls may write to, in the state directory, before they are granted.
//!
//! `/var/lib/upm/writable` for root, and `$XDG_STATE_HOME/upm/writable` (or in `~/.local/state`) for a user. In root's, all
//! users can look up an object whose identity they know, but cannot list the paths of other users' projects. A
//! record is a symbolic link (see `config::planted`): it is written atomically, concurrent calls need no lock, and a check for
//! an existing one costs one `readlink`.

use super::state;
use crate::config;
use crate::confine::step::{Step, StepError};
use crate::confine::trees::Tree;
use crate::decide::plan::{Plan, Source};
use crate::mounts::Table;
use crate::text::{shell, shorten};
use crate::types::{Cause, Code, Details, Failure, Layer};
use crate::walk::{self, How};
use rustix::fs::{AtFlags, Dir};
use rustix::io::Errno;
use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Limit for the records. Above it, records whose path no longer leads to their object are removed.
const MAX_RECORDS: usize = 16_384;
/// Limit for the records of one caller of the service: a wildcard in `projects` can grant any number of directories, and other
/// callers need room too.
const MAX_OF_CALLER: usize = MAX_RECORDS / 4;
/// Mode of root's record directory.
const LOOK_UP: u32 = 0o711;
/// Limit for the bytes of a link's target, from `PATH_MAX`.
const MAX_TARGET: usize = 4095;

/// `f_type` of overlayfs (statfs(2)).
const OVERLAYFS: i64 = 0x794c_7630;

/// This user's records, open for adding to them.
pub struct Writable {
    path: PathBuf,
    dir: OwnedFd,
    most: usize,
    /// The caller, if it is not the engine's user, and the limit for its records.
    caller: Option<(u32, usize)>,
    /// Further places for the same records, for searches with other environment variables.
    others: Vec<Writable>,
}

impl Writable {
    /// Opens the records for a call of user `caller` and creates missing directories. Everything on the way is checked for who
    /// could change it.
    ///
    /// # Errors
    /// `sandbox_unavailable`: the directory is unknown, cannot be created, or others could change it.
    pub fn open(caller: u32) -> Result<Writable, Failure> {
        let own = nix::unistd::getuid().as_raw();
        let caller = (caller != own && caller != 0).then_some((caller, MAX_OF_CALLER));
        let path = place()?;
        let dir = state::open(&path, LOOK_UP).map_err(|why| unusable(&path, &why.to_string()))?;
        // If another place is not available, a search with those variables could not have found records there either.
        let others = places().into_iter().skip(1).filter_map(|path| {
            let dir = state::open(&path, LOOK_UP).ok()?;
            Some(Writable { dir, path, most: MAX_RECORDS, caller, others: Vec::new() })
        });
        Ok(Writable { dir, path, most: MAX_RECORDS, caller, others: others.collect() })
    }

    /// Records every host path to which the plan grants write access, as it was opened, and the mounts inside it.
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

    /// Adds one record in all places, unless it exists.
    fn add(&self, object: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
        self.others.iter().try_for_each(|other| other.add(object, path))?;
        let stored = || -> Result<(), Errno> {
            copy_up(object)?;
            let known = |key: &String| match rustix::fs::readlinkat(&self.dir, key, Vec::new()) {
                Err(Errno::NOENT) => Some(Ok(key.clone())),
                other => other.err().map(Err),
            };
            let missing: Vec<String> =
                config::record_keys(object)?.iter().filter_map(known).collect::<Result<_, _>>()?;
            if missing.is_empty() {
                return Ok(());
            }
            self.make_room()?;
            let device = rustix::fs::fstat(object)?.st_dev;
            let mut target = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device)).into_bytes();
            if let Some((caller, _)) = self.caller {
                target.extend(format!(":{caller}").into_bytes());
            }
            target.push(b' ');
            target.extend(path.as_os_str().as_bytes());
            target.truncate(MAX_TARGET);
            let target = CString::new(target).map_err(|_| Errno::INVAL)?;
            for key in missing {
                match rustix::fs::symlinkat(&target, &self.dir, &key) {
                    // Another call was faster.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
            }
            rustix::fs::fsync(&self.dir)
        };
        stored().map_err(|errno| match errno {
            Errno::DQUOT => self.fail(&format!(
                "it already has {} records of existing paths; remove (rm) those of paths to which no plugin wrote",
                self.most
            )),
            Errno::USERS => self.fail(&format!(
                "it already has {} records of existing paths from user {}, the limit for one caller; \
                 remove (rm) those of paths to which no plugin wrote, or give that user fewer projects",
                self.caller.map_or(0, |(_, most)| most),
                self.caller.map_or(0, |(caller, _)| caller)
            )),
            // The system call itself is denied: directories do not cause these errors.
            Errno::NOSYS | Errno::PERM => {
                StepError::new(Step::Prepare, format!("the record of {}", path.display()), errno).into()
            }
            errno => self.fail(&format!("{} cannot be recorded: {errno}", shorten(path, 400))),
        })
    }

    /// If the limit of all records or of this caller's is reached, removes records whose path no longer leads to their object.
    /// If that is not enough: `EDQUOT`, or `EUSERS` for the caller's limit.
    fn make_room(&self) -> Result<(), Errno> {
        let all = self.all()?;
        if let Some((caller, most)) = self.caller {
            if all.len() >= most {
                let mut own = Vec::new();
                for key in &all {
                    if named_by(&self.target(key)?) == Some(caller) {
                        own.push(key);
                    }
                }
                if own.len() >= most && own.len() - self.drop_gone(&own)? >= most {
                    return Err(Errno::USERS);
                }
            }
        }
        if all.len() < self.most {
            return Ok(());
        }
        let dropped = self.drop_gone(&all.iter().collect::<Vec<_>>())?;
        if all.len() - dropped < self.most { Ok(()) } else { Err(Errno::DQUOT) }
    }

    /// Removes those of these records whose path no longer leads to their object; returns how many.
    fn drop_gone(&self, keys: &[&CString]) -> Result<usize, Errno> {
        let mut dropped = 0;
        for key in keys {
            let path = config::granted(&self.target(key)?);
            let found = walk::find(&path, How::NoLinks).map_err(|error| error.errno());
            let gone = match found.and_then(|object| config::record_keys(object.fd())) {
                Ok(now) => !now.iter().any(|now| now.as_bytes() == key.as_bytes()),
                Err(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
            };
            if gone {
                match rustix::fs::unlinkat(&self.dir, *key, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => dropped += 1,
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(dropped)
    }

    /// A record's target; empty if another call has removed it.
    fn target(&self, key: &CString) -> Result<Vec<u8>, Errno> {
        match rustix::fs::readlinkat(&self.dir, key, Vec::new()) {
            Ok(target) => Ok(target.into_bytes()),
            Err(Errno::NOENT) => Ok(Vec::new()),
            Err(errno) => Err(errno),
        }
    }

    fn all(&self) -> Result<Vec<CString>, Errno> {
        let names = Dir::read_from(&self.dir)?.map(|entry| entry.map(|entry| entry.file_name().to_owned()));
        names.filter(|name| !matches!(name.as_ref().map(|name| name.to_bytes()), Ok(b"." | b".."))).collect()
    }

    fn fail(&self, why: &str) -> Failure {
        unusable(&self.path, why)
    }
}

/// Makes overlayfs copy an object from a lower layer now: otherwise the first write would do it, and the copy has another birth
/// time than the recorded object. A chown(2) without a new owner or group causes the copy, changes nothing else, and needs no
/// privilege.
fn copy_up(object: BorrowedFd<'_>) -> Result<(), Errno> {
    if rustix::fs::fstatfs(object)?.f_type != OVERLAYFS {
        return Ok(());
    }
    match rustix::fs::chownat(object, "", None, None, AtFlags::EMPTY_PATH) {
        // Read-only for plugins too.
        Err(Errno::ROFS) => Ok(()),
        other => other,
    }
}

/// Whether the plan gives write access to a host path: then the call needs [`Writable`].
#[must_use]
pub fn is_needed(plan: &Plan) -> bool {
    plan.mounts.iter().any(is_writable)
}

fn is_writable(mount: &crate::decide::plan::Mount) -> bool {
    mount.write && matches!(mount.source, Source::Host { .. })
}

/// Where records are stored. Checks that they can be created there and, for root's, that all users can look them up. Creates
/// nothing.
///
/// # Errors
/// As [`Writable::open`].
pub fn look() -> Result<PathBuf, Failure> {
    let path = place()?;
    let fail = |why: String| unusable(&path, &why);
    let walked = walk::walk(&path, How::Trusted).map_err(|error| fail(config::error_of(&path, error).to_string()))?;
    let there = walked.object;
    let own = nix::unistd::getuid();
    if there.own_flaw(own.as_raw()).is_some() {
        return Err(fail(format!("{}: other users can change its contents", there.path().display())));
    }
    rustix::fs::access(there.path(), rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|errno| fail(format!("{}: nothing can be created there: {errno}", there.path().display())))?;
    let mut closed = there.chain().filter(|object| own.is_root() && object.stat().st_mode & 0o001 == 0);
    if let Some(shut) = closed.next() {
        let remedy = format!("chmod a+x {}", shell(shut.path()));
        let message = format!(
            "{}: all users must be able to look up what root's calls may write, but they cannot enter {}, so upm finds no \
             configuration for them; {remedy}",
            path.display(),
            shut.path().display()
        );
        return Err(Failure::new(Code::SandboxUnavailable, message).with(Details::Layer {
            layer: Layer::Root,
            cause: None,
            remedy: Some(remedy),
        }));
    }
    Ok(path)
}

/// The service's caller in a record's target, `MAJOR:MINOR:CALLER PATH`.
fn named_by(target: &[u8]) -> Option<u32> {
    let word = target.split(|byte| *byte == b' ').next()?;
    std::str::from_utf8(word.split(|byte| *byte == b':').nth(2)?).ok()?.parse().ok()
}

/// Where records are created; doing so in the first place must succeed.
fn places() -> Vec<PathBuf> {
    config::record_dirs(nix::unistd::getuid().is_root(), &|name| std::env::var_os(name))
}

fn place() -> Result<PathBuf, Failure> {
    let mut dirs = places();
    if dirs.is_empty() {
        let why = "XDG_STATE_HOME and HOME are not set, and the user database has no home directory";
        return Err(unusable(Path::new("the record of writable paths"), why));
    }
    Ok(dirs.swap_remove(0))
}

fn unusable(path: &Path, why: &str) -> Failure {
    let remedy = match path.ancestors().nth(1).filter(|_| path.is_absolute()) {
        Some(above) => {
            let other = if nix::unistd::getuid().is_root() { "" } else { ", or set HOME or XDG_STATE_HOME to another" };
            format!("make {} a directory that only you can write to, with free space{other}", shell(above))
        }
        None => "set HOME".to_owned(),
    };
    Failure::new(
        Code::SandboxUnavailable,
        format!(
            "{}: cannot record which paths plugins may write to, so calls are refused: {why}; {remedy}",
            path.display()
        ),
    )
    .with(Details::Layer {
        layer: Layer::Root,
        cause: Some(Cause::Path(Details::path(path))),
        remedy: Some(remedy),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags};

    fn state(dir: &Path, most: usize) -> Writable {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Writable {
            path: dir.to_owned(),
            dir: rustix::fs::open(dir, flags, Mode::empty()).unwrap(),
            most,
            caller: None,
            others: Vec::new(),
        }
    }

    fn add(state: &Writable, path: &Path) -> Result<(), Failure> {
        crate::walk::forget();
        state.add(walk::find(path, How::NoLinks).unwrap().fd(), path)
    }

    #[test]
    fn concurrent_calls_record_the_same_object_once() {
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

    #[test]
    fn a_caller_has_a_share_and_others_have_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let records = dir.path().join("records");
        std::fs::create_dir(&records).unwrap();
        let of = |caller: Option<u32>| Writable { caller: caller.map(|uid| (uid, 2)), ..state(&records, 10) };
        let objects: Vec<PathBuf> = (0..5).map(|number| dir.path().join(number.to_string())).collect();
        objects.iter().for_each(|path| std::fs::create_dir(path).unwrap());
        add(&of(Some(7)), &objects[0]).unwrap();
        add(&of(Some(7)), &objects[1]).unwrap();
        let full = add(&of(Some(7)), &objects[2]).unwrap_err();
        assert!(full.message.contains("2 records") && full.message.contains("user 7"), "{}", full.message);
        add(&of(Some(8)), &objects[2]).unwrap();
        add(&of(None), &objects[3]).unwrap();
        // an existing record does not count again
        add(&of(Some(7)), &objects[2]).unwrap();
        assert!(add(&of(Some(7)), &objects[4]).is_err());
        std::fs::remove_dir(&objects[0]).unwrap();
        add(&of(Some(7)), &objects[4]).unwrap();
        assert_eq!(
            [b"8:0 /x".as_slice(), b"8:0:7 /x:9", b"8:0:7 /x y:8:9", b""].map(named_by),
            [None, Some(7), Some(7), None]
        );
    }
}
