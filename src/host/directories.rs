//! Directories that upm makes for a call: the project and the plugin's cache.

use crate::walk::{self, How, Object};
use rustix::fs::{AtFlags, Gid, Mode, RenameFlags, Uid, chownat, mkdirat, renameat_with, unlinkat};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::rc::Rc;

/// Mode of the directories above the one that is wanted.
const ABOVE: u32 = 0o755;

/// Makes the directory `path` with `mode`, and what is missing above it, in the directory that is there. No symbolic link is
/// followed, each is made in the one that was opened before, and the last is kept for the call ([`walk::hold`]).
/// `owner`, a user and a group, gets the last alone. It gets its name when it has its owner, so that another call sees none
/// or the whole; one that another call has made is left as it is.
///
/// # Errors
/// The path that could not be made, and why.
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
    let partial = OsString::from(format!(".upm-{}", uuid::Uuid::now_v7()));
    mkdirat(above.fd(), &partial, Mode::from_raw_mode(mode))?;
    let made = || {
        if let Some((uid, gid)) = owner {
            let made = walk::child(above, &partial).map_err(|error| error.errno())?;
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            chownat(made.fd(), "", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        renameat_with(above.fd(), &partial, above.fd(), name, RenameFlags::NOREPLACE)
    };
    made().inspect_err(|_| {
        // Whatever it is that is left there is empty, or not this call's.
        unlinkat(above.fd(), &partial, AtFlags::REMOVEDIR).ok();
    })
}
