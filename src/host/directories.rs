//! Directories that a call needs and that are not there yet.

use crate::walk::{self, How, Object};
use rustix::fs::{AtFlags, Gid, Mode, Uid, chownat, mkdirat};
use rustix::io::Errno;
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Mode of the directories above the one that is wanted.
const ABOVE: u32 = 0o755;

/// Makes `path`, and what is missing above it, in the directory that is there. No symbolic link is followed, each
/// directory is made in the one that was opened before, and the last is kept for the call ([`walk::hold`]). As root it is
/// given to `owner`; those above it stay root's. What is there already stays as it is.
///
/// # Errors
/// The path that could not be made, and why.
pub fn make(path: &Path, mode: u32, owner: (u32, u32)) -> io::Result<()> {
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
    for (number, name) in walked.missing.iter().enumerate() {
        let is_last = number + 1 == last;
        let here = at.path().join(name);
        match mkdirat(at.fd(), name, Mode::from_raw_mode(if is_last { mode } else { ABOVE })) {
            // Another call has made it meanwhile, in the same way.
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed(&here, errno)),
        }
        at = walk::child(&at, name).map_err(|error| failed(error.path(), error.errno()))?;
        if is_last {
            give(&at, owner).map_err(|errno| failed(&here, errno))?;
        }
    }
    walk::hold(&at);
    Ok(())
}

/// Gives root's fresh directory to `owner`.
fn give(made: &Rc<Object>, (uid, gid): (u32, u32)) -> rustix::io::Result<()> {
    let fresh = made.is_dir() && made.stat().st_uid == 0;
    if !rustix::process::geteuid().is_root() || !fresh {
        return Ok(());
    }
    chownat(made.fd(), "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)
}
