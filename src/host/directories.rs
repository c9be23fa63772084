//! Directories that upm creates for a call: the project and the plugin's cache.

use crate::walk::{self, How, Object};
use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Uid, chownat, mkdirat, renameat_with, unlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Mode of missing parent directories.
const ABOVE: u32 = 0o755;

/// Creates the directory `path` with `mode`, and its missing parents. No symbolic link is followed, each directory is created
/// in the one that was opened before, and the last one is kept for the call ([`walk::hold`]).
/// Only the last one gets `owner`, a user and a group, before it gets its name, so that other calls never see it incomplete.
/// A directory that another call has created is left unchanged.
///
/// # Errors
/// The path that could not be created, and why.
pub fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let failed = |path: &Path, errno: Errno| {
        io::Error::other(format!("{}: cannot be created: {}", path.display(), io::Error::from(errno)))
    };
    let walked = walk::walk(path, How::NoLinks).map_err(|error| match error.errno() {
        Errno::LOOP => io::Error::other(format!(
            "{}: cannot be created: {} is a symbolic link, which is not followed",
            path.display(),
            error.path().display()
        )),
        errno => failed(error.path(), errno),
    })?;
    let mut at = walked.object;
    let last = walked.missing.len();
    for (number, name) in (1..).zip(&walked.missing) {
        let made = if number == last {
            make_last(&at, name, mode, owner)
        } else {
            mkdirat(at.fd(), name, Mode::from_raw_mode(ABOVE))
        };
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(&at.path().join(name), errno)),
        }
        at = walk::child(&at, name).map_err(|error| failed(error.path(), error.errno()))?;
    }
    walk::hold(&at);
    Ok(())
}

fn make_last(above: &Rc<Object>, name: &OsStr, mode: u32, owner: Option<(u32, u32)>) -> rustix::io::Result<()> {
    let Some((uid, gid)) = owner else {
        return mkdirat(above.fd(), name, Mode::from_raw_mode(mode));
    };
    let partial = OsString::from(format!(".upm-{}", uuid::Uuid::now_v7()));
    mkdirat(above.fd(), &partial, Mode::RWXU)?;
    let made = || {
        let own = walk::child(above, &partial).map_err(|error| error.errno())?;
        // The owner of `above` may have replaced it by another directory. Nobody can replace what is created in a directory of
        // root that nobody else may enter, wherever that is.
        let stat = own.stat();
        if !own.is_dir() || stat.st_uid != nix::unistd::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(Errno::STALE);
        }
        mkdirat(own.fd(), &partial, Mode::from_raw_mode(mode))?;
        let made = walk::child(&own, &partial).map_err(|error| error.errno())?;
        // Move it out before changing its owner: later, this would need its new owner's rights.
        let outer = OsString::from(format!(".upm-{}", uuid::Uuid::now_v7()));
        renameat_with(own.fd(), &partial, above.fd(), &outer, RenameFlags::NOREPLACE).inspect_err(|_| {
            unlinkat(own.fd(), &partial, AtFlags::REMOVEDIR).ok();
        })?;
        let given = || {
            chownat(made.fd(), "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
            renameat_with(above.fd(), &outer, above.fd(), name, RenameFlags::NOREPLACE)
        };
        given().inspect_err(|_| {
            unlinkat(above.fd(), &outer, AtFlags::REMOVEDIR).ok();
        })
    };
    let made = made();
    // If this fails, what is left is not this call's.
    unlinkat(above.fd(), &partial, AtFlags::REMOVEDIR).ok();
    made
}
