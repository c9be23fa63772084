//! The state directory, which upm keeps between calls ([`config::state_dirs`]), and directories in it.

use crate::config;
use crate::walk::{self, How};
use rustix::fs::Mode;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Mode of root's state directory and its missing parents: all users may enter it.
const FOR_ALL: u32 = 0o755;
/// Mode of a user's state directory.
const OWN: u32 = 0o700;

/// Opens the state directory for reading and creates it if it is missing. See [`open`].
///
/// # Errors
/// `NotFound` if its path is unknown; otherwise as [`open`].
pub fn open_state_dir() -> io::Result<OwnedFd> {
    let is_root = nix::unistd::geteuid().is_root();
    let dirs = config::state_dirs(is_root, &|name| std::env::var_os(name));
    open(dirs.first().ok_or(Errno::NOENT)?, FOR_ALL)
}

/// Opens the directory `path` for reading and creates missing directories, independent of the umask: for root the last one with
/// `mode`; for a user all of them with access for that user only. Nobody but root and this user may be able to change a
/// directory or link on the way, and the last directory must belong to this user.
///
/// # Errors
/// A directory that does not meet this, or cannot be created or opened; the message names it.
pub fn open(path: &Path, mode: u32) -> io::Result<OwnedFd> {
    let user = nix::unistd::getuid();
    let untrusted = |error| io::Error::other(config::error_of(path, error));
    let walked = walk::walk(path, How::Trusted).map_err(untrusted)?;
    let mut at = walked.object;
    let failed = |at: &Path, error: Errno| io::Error::other(format!("{}: {}", at.display(), io::Error::from(error)));
    let others = |at: &Path| io::Error::other(format!("{}: other users can change its contents", at.display()));
    let open = |at: &walk::Object| at.open().map_err(|errno| failed(at.path(), errno));
    for (number, name) in (1..).zip(&walked.missing) {
        if at.own_flaw(user.as_raw()).is_some() {
            return Err(others(at.path()));
        }
        let mode = match number == walked.missing.len() {
            _ if !user.is_root() => OWN,
            true => mode,
            false => FOR_ALL,
        };
        let made = rustix::fs::mkdirat(at.fd(), name, Mode::from_raw_mode(mode));
        let path = at.path().join(name);
        if let Err(errno) = made {
            if errno != Errno::EXIST {
                return Err(failed(&path, errno));
            }
        }
        at = walk::child(&at, name).map_err(untrusted)?;
        if made.is_ok() {
            rustix::fs::fchmod(open(&at)?, Mode::from_raw_mode(mode)).map_err(|errno| failed(&path, errno))?;
        }
    }
    let found = open(&at)?;
    let stat = rustix::fs::fstat(&found).map_err(|errno| failed(at.path(), errno))?;
    if walk::object_flaw(&stat, user.as_raw()).is_some() || stat.st_uid != user.as_raw() || !at.is_dir() {
        return Err(others(at.path()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// Not in `/tmp`, which has the sticky bit: directories on the way to a home do not have it.
    fn place() -> tempfile::TempDir {
        tempfile::tempdir_in("/var/tmp").unwrap()
    }

    fn opened(path: &Path) -> io::Result<OwnedFd> {
        walk::forget();
        open(path, 0o711)
    }

    #[test]
    fn it_is_made_with_what_is_missing_above() {
        let dir = place();
        let path = dir.path().join("a/b/upm");
        opened(&path).unwrap();
        let modes = if nix::unistd::geteuid().is_root() { [0o755, 0o711] } else { [0o700, 0o700] };
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!([mode(path.parent().unwrap()), mode(&path)], modes);
        opened(&path).unwrap();
    }

    #[test]
    fn what_others_could_have_placed_is_refused() {
        let dir = place();
        let refused = |below: &str| opened(&dir.path().join(below)).unwrap_err().to_string();
        std::fs::create_dir(dir.path().join("real")).unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        opened(&dir.path().join("link/upm")).unwrap();
        std::fs::create_dir(dir.path().join("open")).unwrap();
        std::fs::set_permissions(dir.path().join("open"), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(refused("open/upm").contains("/open: "));
        assert!(!dir.path().join("open/upm").exists(), "nothing was created there");
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(refused("file").contains("/file: "));
        for shared in ["/tmp", "/tmp/upm-is-not-made-here"] {
            assert!(opened(Path::new(shared)).is_err(), "other users can write to /tmp");
            assert!(shared == "/tmp" || !Path::new(shared).exists());
        }
        if nix::unistd::geteuid().is_root() {
            std::fs::create_dir(dir.path().join("theirs")).unwrap();
            symlink("real", dir.path().join("their_link")).unwrap();
            std::os::unix::fs::chown(dir.path().join("theirs"), Some(12345), None).unwrap();
            std::os::unix::fs::lchown(dir.path().join("their_link"), Some(12345), None).unwrap();
            assert!(refused("theirs/upm").contains("/theirs: "));
            assert!(refused("their_link/upm").contains("/their_link: "));
        }
    }
}
